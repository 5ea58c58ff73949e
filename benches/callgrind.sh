#!/bin/sh
# Instructions of each kernel per operation, counted by valgrind (apt-get install valgrind, or your system's way).
#
#     benches/callgrind.sh                 the table
#     benches/callgrind.sh db_put          and where one kernel spends them, by function
#
# The counts of one compiler and one target repeat to a fraction of a percent on any machine.
set -eu
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is not installed: apt-get install valgrind" >&2; exit 1; }

# Symbols and lines are for the report alone; the code is that of the release profile.
export CARGO_PROFILE_BENCH_DEBUG=line-tables-only
build=$(cargo bench --features testing --bench counted --no-run 2>&1) || { echo "$build" >&2; exit 1; }
program=$(echo "$build" | sed -n 's/.*(\(.*counted-[^)]*\)).*/\1/p')
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
only=${1:-'*'}
valgrind --tool=callgrind --callgrind-out-file="$out/callgrind" --collect-atstart=no \
    --toggle-collect="counted::kernel::$only" "$program" >"$out/counts" 2>"$out/log" || { cat "$out/log" >&2; exit 1; }
callgrind_annotate --inclusive=yes --threshold=100 --show-percs=no "$out/callgrind" >"$out/inclusive" 2>"$out/log"

printf '%-16s %14s\n' kernel instructions
grep '^kernel' "$out/counts" | while read -r _ name n; do
    total=$(grep -m1 "counted::kernel::$name " "$out/inclusive" | awk '{ gsub(",", "", $1); print $1 }')
    [ -z "$total" ] || awk -v name="$name" -v total="$total" -v n="$n" 'BEGIN { printf "%-16s %14.1f\n", name, total / n }'
done
[ $# -eq 0 ] || { echo; callgrind_annotate --threshold=97 "$out/callgrind" 2>"$out/log" | grep -v '^--' | cut -c1-150 | head -60; }
