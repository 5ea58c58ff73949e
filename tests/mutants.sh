#!/usr/bin/env bash
# Builds the engine with the deliberate bugs of tests/mutants.txt, switches them on one by one, and fails unless the
# tests named there notice each within a minute: tests/mutants.sh [--list | NAME...]
#
# `--list` prints the table and builds nothing; it fails, as every run does, if table and code name different bugs.
# Without a bug the same tests must pass. It writes into the target folder only. `--cfg terrace_mutants` changes every
# crate and `--cfg terrace_shuttle` every lock, so there are two builds beside the ordinary one.
set -euo pipefail
exec </dev/null
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never
target=${CARGO_TARGET_DIR:-$PWD/target}
table=tests/mutants.txt
limit=60
log=$(mktemp)
trap 'rm -f "$log"' EXIT

fail() {
    printf 'mutants: %s\n' "$*" >&2
    exit 1
}

rows() { # name|tests|what it does, without the blanks around them
    grep -v -e '^#' -e '^$' "$table" | sed -E 's/ *\| */|/g'
}

# Every bug in the table has a place in the code, and the reverse.
in_code() {
    grep -rhoE --include='*.rs' 'mutant\("[a-z-]+"\)' src base/src wal/src sstable/src compaction/src |
        sed -E 's/.*"(.*)".*/\1/' | grep -vx 'no-such-bug' | sort -u
}
twice=$(rows | cut -d'|' -f1 | sort | uniq -d)
[ -z "$twice" ] || fail "in $table twice:" $twice
strays=$(diff <(rows | cut -d'|' -f1 | sort) <(in_code) || true)
[ -z "$strays" ] || fail "the table (<) and the code (>) differ:"$'\n'"$strays"

if [ "${1:-}" = --list ]; then
    rows | while IFS='|' read -r name _ what; do printf '%-26s %s\n' "$name" "$what"; done
    exit
fi

build() { # the path of the test binary: flags, folder, what to build
    RUSTFLAGS=$1 cargo test --target-dir "$target/$2" --no-run "${@:3}" 2>"$log" || {
        cat "$log" >&2
        fail "does not build"
    }
    sed -nE 's/^ *Executable .*\((.*)\)$/\1/p' "$log"
}

printf 'building\n'
it=$(build '--cfg terrace_mutants' mutants -p terrace --test it)
lib=$(build '--cfg terrace_mutants' mutants -p terrace --lib)
schedules=$(build '--cfg terrace_mutants --cfg terrace_shuttle' mutants-schedules -p terrace --lib)
cache=$(build '--cfg terrace_mutants --cfg terrace_shuttle' mutants-schedules -p terrace-sstable --lib)
# A program as optimised as the tests are, which shares their crates.
RUSTFLAGS='--cfg terrace_mutants' CARGO_PROFILE_DEV_OPT_LEVEL=1 cargo build --quiet --target-dir "$target/mutants" \
    -p terrace-torture || fail "does not build"
torture=$target/mutants/debug/torture

run() { # one entry of the table's second column, such as `it: crash::a`, and how long it may take
    local binary=${1%%:*} filters=${1#*: }
    case $binary in
    it) binary=$it ;;
    lib) binary=$lib ;;
    schedules) binary=$schedules ;;
    cache-schedules) binary=$cache ;;
    torture)
        timeout "$2" "$torture" $filters --seed 1 --for 30s >"$log" 2>&1
        return
        ;;
    *) fail "no such tests: $1" ;;
    esac
    timeout "$2" "$binary" $filters >"$log" 2>&1
}

chosen() { # the rows that were asked for
    rows | while IFS='|' read -r name rest; do
        if [ $# = 0 ] || printf '%s\n' "$@" | grep -qx -- "$name"; then printf '%s|%s\n' "$name" "$rest"; fi
    done
}

printf 'without a bug\n'
while read -r tests; do
    run "$tests" 600 || {
        tail -n 40 "$log"
        fail "$tests fails without a bug"
    }
    grep -qE '^test result: ok\. [1-9]|: all well' "$log" || fail "$tests names no test"
done < <(chosen "$@" | cut -d'|' -f2 | sort -u)

printf '%-26s %-58s %s\n' 'bug' 'noticed by' 'seconds'
survivors=()
count=0
while IFS='|' read -r name tests _; do
    count=$((count + 1))
    start=$(date +%s%N)
    status=0
    TERRACE_MUTANT=$name run "$tests" "$limit" || status=$?
    seconds=$(awk "BEGIN { printf \"%.1f\", ($(date +%s%N) - $start) / 1e9 }")
    if [ "$status" = 0 ] || [ "$status" = 124 ]; then
        survivors+=("$name")
        printf '%-26s %-58s %s\n' "$name" "NOT NOTICED by $tests" "$seconds"
    else
        printf '%-26s %-58s %s\n' "$name" "$tests" "$seconds"
    fi
done < <(chosen "$@")
[ "$count" -gt 0 ] || fail "no such bug: $*"
[ ${#survivors[@]} = 0 ] || fail "not noticed: ${survivors[*]}"
printf '%d bugs, each noticed\n' "$count"
