#!/bin/bash
# SPDX-License-Identifier: BSD-2-Clause
# What takes hours: the seeded random tests with many seeds, an hour of random requests on every format, every crash, the differential test of the CPU with many programs, and
# whole machines copied again and again.
#   scripts/long.sh BUILD RESULTS.json [SEEDS]
set -u
build=$(realpath "$1") results=$2 seeds=${3:-500} top=$(realpath "$(dirname "$0")/..")
export STERNA_BUILD=$build STERNA_LONG=1 # tests that take a choice of their cases in ./check take all
result() { # NAME STATUS
    local r=OK
    [ "$2" = 0 ] || r=FAIL
    echo "{\"name\": \"$1\", \"result\": \"$r\", \"stdout\": \"\"}" >>"$results"
    echo "long: $1: $r"
}
run() { # NAME COMMAND…
    local name=$1 rc
    shift
    "$@" >"$build/long.log" 2>&1
    rc=$?
    [ $rc = 0 ] || tail -40 "$build/long.log"
    result "$name" $rc
}
for name in random crash snapshot_crash; do
    bad=0
    for seed in $(seq 1 "$seeds"); do
        STERNA_TEST_SEED=$seed "$build/tests/block/qcow2/qcow2-$name" >"$build/long.log" 2>&1 || { bad=1; echo "qcow2 $name: seed $seed fails"; tail -20 "$build/long.log"; }
    done
    result "qcow2 $name, $seeds seeds" $bad
done
crash=$build/tests/crash
STERNA_RANDOM_SECONDS=3600 run "random requests, snapshots and resizes on every format, an hour" "$crash/random"
run "every request of every session fails in turn" "$crash/fault"
run "every request of every live copy's disks fails in turn" "$build/tests/block/live_copy/live-copy-fault"
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
STERNA_CRASH_ROUNDS=250 STERNA_CRASH_CHANGES=200 STERNA_CRASH_AT_LEAST=20000 "$build/tests/config/guest-crash" >"$build/long.log" 2>&1
rc=$?
[ $rc = 0 ] || tail -5 "$build/long.log"
result "crashes while the guest changes the machine: $(grep -oE '[0-9]+ crashes of the state file' "$build/long.log")" $rc
STERNA_KILLS=1000 run "killed a thousand times with jobs under way" pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_kill.py"
STERNA_KILLS=1000 run "a thousand kills of a machine that saves and loads snapshots" pytest-3 -q -p no:cacheprovider -k killed "$top/tests/cli/sterna/test_machine_snapshot.py"
STERNA_FAULTS=1000 STERNA_MOVE_KILLS=500 run "every fault at every place of a migration's link where something begins or ends, a thousand anywhere and five hundred kills, before the switch and as many after it" pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_migrate_faults.py" "$top/tests/cli/sterna/test_postcopy_faults.py"
STERNA_FAULTS=200 STERNA_MOVE_KILLS=200 run "two hundred faults and kills of machines that move with jobs and bitmaps" pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_migrate_jobs_faults.py"
run "machines that move over a network that delays and loses packets" pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_migrate_net.py"
run "every pair of the matrix with many seeds, copies of images killed many times" pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_matrix.py" "$top/tests/cli/img/test_live_copy.py"
run "every byte of a machine's saved state changed" "$build/tests/move/test_golden" "$top/tests/move/golden"
run "live copies, 200 seeds" "$build/tests/block/live_copy/live-copy-random"
STERNA_HAMMER_SECONDS=3600 run "an hour of two managers at once, at full speed" pytest-3 -q -p no:cacheprovider "$top/tests/cli/sterna/test_hammer.py"
run "cpu differential, $((seeds * 4)) programs" /usr/bin/python3 "$top/tests/cpu/differential.py" "$build/tests/cpu/rv_run" 1 $((seeds * 4)) 4000
STERNA_STORM_SECONDS=3600 STERNA_STALL_MS=50 run "an hour of jobs and graph changes below a guest that writes" pytest-3 -q -s -p no:cacheprovider "$top/tests/whole/test_storm.py"
bad=0
for i in $(seq 1 $((seeds / 10))); do
    pytest-3 -q -p no:cacheprovider "$top/tests/whole" >"$build/long.log" 2>&1 || { bad=1; echo "whole machine: round $i fails"; tail -40 "$build/long.log"; }
done
result "whole machine, $((seeds / 10)) rounds" $bad
