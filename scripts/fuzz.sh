#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# Runs every fuzz target of a fuzz build for so many seconds each, two at a time, from the corpora in the tree.
#   scripts/fuzz.sh BUILD SECONDS [RESULTS.json]
set -u
build=$(realpath "$1") seconds=$2 results=${3:-/dev/null} top=$(realpath "$(dirname "$0")/..")
one() {
    local target=$1 name work
    name=$(basename "$target"); name=${name#fuzz-}
    work=$(mktemp -d)
    if "$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$build/" \
        "$work" "$top/tests/fuzz/corpus/$name" >"$work.log" 2>&1; then
        echo "fuzz $name: $(grep -o 'stat::number_of_executed_units: *[0-9]*' "$work.log" | grep -o '[0-9]*$') runs in $seconds s, clean"
        echo "{\"name\": \"fuzz $name\", \"result\": \"OK\", \"stdout\": \"\"}" >>"$results"
    else
        tail -40 "$work.log"; echo "fuzz $name: FAILED; the input is in $build"
        echo "{\"name\": \"fuzz $name\", \"result\": \"FAIL\", \"stdout\": \"\"}" >>"$results"
    fi
    rm -rf "$work" "$work.log"
}
n=0
for t in "$build"/tests/fuzz/fuzz-*; do
    [ -x "$t" ] && [ -f "$t" ] || continue
    one "$t" &
    n=$((n + 1)); [ $((n % 2)) = 0 ] && wait
done
wait
[ $n -gt 0 ]
