#!/usr/bin/env bash
# Fuzzes every target for some seconds: fuzz/run.sh [SECONDS] [TARGET...]
#
# What it finds of use goes into the corpus, as little as covers the same. What was done is added to totals.json:
# executions, processor seconds and failures over all runs; edges and features of the last one. An input that fails
# is kept in fuzz/artifacts/TARGET, and the exit is not zero. Needs nightly, cargo-fuzz and a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo +nightly fuzz list); fi
failed=0

# Longest input. Whole tables and long runs of operations need more than the rest.
longest() {
    case $1 in
        table | segment) echo 8192 ;;
        index | block | packed) echo 4096 ;;
        operations) echo 200 ;; # More are not done.
        *) echo 1024 ;;
    esac
}

# Where each input runs half the engine, the fuzzer's own weighing of inputs took as long as the inputs.
plainly() {
    case $1 in
        directory | operations) echo -entropic=0 -use_cmp=0 ;;
    esac
}

# Inputs that failed. One that only took long beside other work is kept too, and is none.
failures() {
    find "artifacts/$1" -type f ! -name 'slow-unit-*' | wc -l
}

# add TARGET EXECUTIONS SECONDS EDGES FEATURES FAILURES: one line a target, in order.
add() {
    touch totals.json
    { awk -F'[":, {}]+' -v name="$1" -v runs="$2" -v cpu="$3" -v edges="$4" -v features="$5" -v bad="$6" '
        $2 == name { runs += $4; cpu += $6; bad += $12; next }
        $3 == "executions" { print $2, $4, $6, $8, $10, $12 }
        END { print name, runs, cpu, edges, features, bad }' totals.json; } | sort |
        awk 'BEGIN { print "{" }
            { if (NR > 1) print ","
              printf "  \"%s\": {\"executions\": %d, \"cpu_seconds\": %d, \"edges\": %d, \"features\": %d, \"failures\": %d}", $1, $2, $3, $4, $5, $6 }
            END { print "\n}" }' >totals.new
    mv totals.new totals.json
}

# All at once, before the clock runs.
cargo +nightly fuzz build

for target in "${targets[@]}"; do
    binary=$(find target -path "*/release/$target" -type f -perm -u+x | head -1)
    grown=target/grown/$target log=target/logs/$target.log
    mkdir -p "$grown" target/logs "artifacts/$target" "corpus/$target"
    before=$(failures "$target")
    # An input that fails is run again by itself for the stacks of its allocations.
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:malloc_context_size=0:quarantine_size_mb=8:max_malloc_fill_size=0
    TIMEFORMAT='%U %S'
    # Enough repetitions: an input that fails ends the fuzzer, and the seconds go on.
    used=$({ time "$binary" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -max_len="$(longest "$target")" \
        $(plainly "$target") -artifact_prefix="artifacts/$target/" -print_final_stats=1 "$grown" "corpus/$target" >"$log" 2>&1 || true; } 2>&1 |
        tail -1 | awk '{ printf "%d", $1 + $2 }')
    runs=$(awk '/stat::number_of_executed_units/ { n = $2 } END { print n + 0 }' "$log")
    read -r edges features < <(awk '{ for (i = 1; i < NF; i++) { if ($i == "cov:") e = $(i + 1); if ($i == "ft:") f = $(i + 1) } }
        END { print e + 0, f + 0 }' "$log")
    bad=$(($(failures "$target") - before))
    [ "$bad" = 0 ] || { failed=1; grep -m3 -E 'panicked|^[a-z]+: |ERROR' -A2 "$log" || true; }
    # The inputs that cover what all together cover, the ones kept so far first.
    "$binary" -merge=1 -timeout=20 -max_len="$(longest "$target")" "corpus/$target" "$grown" >>"$log" 2>&1 || true
    add "$target" "$runs" "$used" "$edges" "$features" "$bad"
    printf '%-10s %10d executions, %4d s, %5d edges, %d failures, %d inputs kept\n' \
        "$target" "$runs" "$used" "$edges" "$bad" "$(find "corpus/$target" -type f | wc -l)"
done
exit $failed
