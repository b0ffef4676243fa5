# SPDX-License-Identifier: BSD-2-Clause
"""Progress lines beside qemu-img's, SIGUSR1, and output that nobody reads to its end."""
import os, re, signal, subprocess, time

import pytest
from sterna import run
from twins import plain

# The folder holds a (qcow2), over (above it), some (raw, with data) and small (raw, smaller than a).
LINES = """
convert -p a x
convert -p -n a small
convert -p nosuch x
convert -p a nosuch/x
convert -p -O nosuch a x
convert -p -O qcow2 -o nosuch=1 a x
convert -p -t nosuch a x
convert -p -T nosuch a x
convert -p -l nosuch a x
convert -p -q a x
convert -p -f raw some x
commit -p a
commit -p nosuch
commit -p -b nosuch over
commit -p -t nosuch over
compare -p a nosuch
compare -p nosuch a
compare -p a a
compare -p -s a small
compare -p -T nosuch a over
rebase -p -u -b a -F qcow2 over
rebase -p -b nosuch -F qcow2 over
rebase -p -b a -F nosuch over
rebase -p -b a -F qcow2 nosuch
rebase -p -t nosuch -b a over
rebase -p over
rebase -p -b a -F qcow2 over
commit -p over
""".strip().splitlines()


def test_beside_theirs(twins):
    for args in (("-f", "qcow2", "a", "8M"), ("-f", "qcow2", "-b", "a", "-F", "qcow2", "over"), ("-f", "raw", "small", "1M")):
        twins.same("create", "-q", *args)
    twins.sparse("some", 1 << 20, [(0, b"x" * 65536)])
    for line in LINES:
        theirs, ours = twins.both(*line.split())
        assert (ours.rc, plain(ours.out)) == (theirs.rc, plain(theirs.out)), line


def percentages(text):
    return [float(p) for p in re.findall(r"\((\d+\.\d\d)/100%\)", text)]


def is_ready_for(pid, signum):
    """It does not end the program: it is caught, or held back until it is asked for."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        masks = [int(line.split()[1], 16) for line in f if line.startswith(("SigBlk", "SigCgt"))]
    return any(mask >> (signum - 1) & 1 for mask in masks)


@pytest.mark.parametrize("options", [(), ("-q",)])
def test_sigusr1_asks_for_the_progress(twins, options):
    twins.sparse("r", 4 << 20, [(0, os.urandom(4 << 20))])
    p = subprocess.Popen([twins.ours, "convert", *options, "-r", "1M", "-m", "1", "-W", "-f", "raw", "-O", "raw", "r", "x"], cwd=twins.ours_dir,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not is_ready_for(p.pid, signal.SIGUSR1):
        assert p.poll() is None
        time.sleep(0.01)
    seen, err = [], b""
    while len(seen) < 3 or not seen[-1]:
        p.send_signal(signal.SIGUSR1)
        while len(percentages(err.decode())) == len(seen):
            data = os.read(p.stderr.fileno(), 65536)
            assert data, err
            err += data
        seen = percentages(err.decode())
        time.sleep(0.05)
    out, rest = p.communicate(timeout=60)
    assert p.returncode == 0 and out == b"" and not percentages(rest.decode())
    assert seen == sorted(seen)
    assert run("cmp", "r", "x", cwd=twins.ours_dir).rc == 0


def test_a_reader_that_leaves_is_no_failure(twins):
    twins.sparse("r", 64 << 20, [(i << 16, b"x") for i in range(1, 1000, 2)])
    for line in ("--help", "map -f raw --output=json r"):
        r = run("bash", "-c", f"set -o pipefail; {twins.ours} {line} | sed -n '1q'", cwd=twins.ours_dir)
        assert (r.rc, r.err) == (0, "")
    r = run("bash", "-c", f"{twins.ours} --help > /dev/full", cwd=twins.ours_dir)
    assert r.rc == 1 and "No space left on device" in r.err


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_files_do_no_harm(twins, closed):
    """No image is opened in their place, where it would get what is printed."""
    twins.sparse("r", 1 << 20, [(0, b"x" * 100000)])
    for tool, folder in ((twins.qemu, twins.theirs_dir), (twins.ours, twins.ours_dir)):
        for line in ("convert -p -f raw -O raw r x", "create -f raw y 1M", "info x"):
            assert run("bash", "-c", f"{tool} {line} {closed}", cwd=folder).rc == 0
    assert run("cmp", "r", "x", cwd=twins.ours_dir).rc == 0
    twins.equal("y", "raw")
