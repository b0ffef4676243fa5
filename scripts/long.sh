#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# What takes hours: the seeded random tests with many seeds, an hour of random requests on every format, every crash, the differential test of the CPU with many programs, and
# whole machines copied again and again.
#   scripts/long.sh BUILD RESULTS.json [SEEDS]
set -u
export STERNA_LONG=1 # tests that take a choice of their cases in ./check take all
build=$(realpath "$1") results=$2 seeds=${3:-500} top=$(realpath "$(dirname "$0")/..")
result() { # NAME STATUS
    local r=OK
    [ "$2" = 0 ] || r=FAIL
    echo "{\"name\": \"$1\", \"result\": \"$r\", \"stdout\": \"\"}" >>"$results"
    echo "long: $1: $r"
}
for name in random crash snapshot_crash; do
    bad=0
    for seed in $(seq 1 "$seeds"); do
        STERNA_TEST_SEED=$seed "$build/tests/block/qcow2/qcow2-$name" >"$build/long.log" 2>&1 || { bad=1; echo "qcow2 $name: seed $seed fails"; tail -20 "$build/long.log"; }
    done
    result "qcow2 $name, $seeds seeds" $bad
done
crash=$build/tests/crash
STERNA_RANDOM_SECONDS=3600 "$crash/random" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "random requests, snapshots and resizes on every format, an hour" $rc
"$crash/fault" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "every request of every session fails in turn" $rc
STERNA_CRASH_MOST=0 STERNA_CRASH_PEER=20 "$crash/crash" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "every crash of every session: $(grep -oE '^[0-9]+ crashes' "$build/long.log" | tail -1)" $rc
bad=0
for seed in $(seq 1 "$seeds"); do
    STERNA_TEST_SEED=$seed STERNA_CRASH_MOST=200 "$crash/crash-jobs" >"$build/long.log" 2>&1 || { bad=1; echo "crash jobs: seed $seed fails"; tail -5 "$build/long.log"; }
done
result "crashes while jobs run, $seeds seeds" $bad
bad=0
for seed in $(seq 1 "$seeds"); do
    STERNA_TEST_SEED=$seed "$build/tests/config/config-crash" >"$build/long.log" 2>&1 || { bad=1; echo "config crashes: seed $seed fails"; tail -5 "$build/long.log"; }
done
result "crashes of the state file's changes, $seeds seeds" $bad
STERNA_CRASH_ROUNDS=250 STERNA_CRASH_AT_LEAST=20000 "$build/tests/config/guest-crash" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -5 "$build/long.log"
result "crashes while the guest changes the machine: $(grep -oE '[0-9]+ crashes of the state file' "$build/long.log")" $rc
STERNA_KILLS=1000 STERNA_BUILD=$build pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_kill.py" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -40 "$build/long.log"
result "killed a thousand times with jobs under way" $rc
STERNA_KILLS=1000 STERNA_BUILD=$build pytest-3 -q -p no:cacheprovider -k killed "$top/tests/cli/sterna/test_machine_snapshot.py" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "a thousand kills of a machine that saves and loads snapshots" $rc
STERNA_FAULTS=1000 STERNA_MOVE_KILLS=500 STERNA_BUILD=$build pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_migrate_faults.py" "$top/tests/cli/sterna/test_postcopy_faults.py" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -40 "$build/long.log"
result "a thousand faults of a migration's link and five hundred kills, before the switch and as many after it" $rc
STERNA_BUILD=$build pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_matrix.py" "$top/tests/cli/img/test_live_copy.py" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "every pair of the matrix with many seeds, copies of images killed many times" $rc
"$build/tests/block/live_copy/live-copy-random" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "live copies, 200 seeds" $rc
STERNA_HAMMER_SECONDS=3600 STERNA_BUILD=$build pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_hammer.py" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -40 "$build/long.log"
result "an hour of two managers at once, at full speed" $rc
/usr/bin/python3 "$top/tests/cpu/differential.py" "$build/tests/cpu/rv_run" 1 $((seeds * 4)) 4000 >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "cpu differential, $((seeds * 4)) programs" $rc
STERNA_STORM_SECONDS=3600 STERNA_STALL_MS=50 STERNA_BUILD=$build pytest-3 -q -s -p no:cacheprovider "$top/tests/whole/test_storm.py" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -20 "$build/long.log"
result "an hour of jobs and graph changes below a guest that writes" $rc
bad=0
for i in $(seq 1 $((seeds / 10))); do
    STERNA_BUILD=$build pytest-3 -q -p no:cacheprovider "$top/tests/whole" >"$build/long.log" 2>&1 || { bad=1; echo "whole machine: round $i fails"; tail -40 "$build/long.log"; }
done
result "whole machine, $((seeds / 10)) rounds" $bad
