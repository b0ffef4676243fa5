# SPDX-License-Identifier: BSD-2-Clause
"""A state file that one process wrote begins another one's machine."""
import os, subprocess

import pytest
from sterna import program

RAM = 0x80003000


def put(m, data):
    assert m.ask(f"write {RAM:#x} {len(data)} 0x{data.hex()}") == "OK"


def get(m):
    return bytes.fromhex(m.ask(f"read {RAM:#x} 17").removeprefix("OK 0x"))


def test_begins_where_the_file_was_written(machine, tmp_path):
    state = str(tmp_path / "state")
    m = machine("-machine", "virt", "-m", "16")
    put(m, b"hello from before")
    m.qmp.cmd("transaction", actions=[{"type": "machine-snapshot", "data": {"job-id": "j", "file": state}}])
    put(m, b"changed meanwhile")
    m.qmp.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    assert not next(j for j in m.qmp.cmd("query-jobs") if j["id"] == "j").get("error")
    m.quit()
    os.unlink(tmp_path / "qtest.sock")
    assert [f for f in os.listdir(tmp_path) if f.startswith("state")] == ["state"]
    n = machine("-machine", "virt", "-m", "16", "-incoming", "file:" + state)
    assert get(n) == b"hello from before"
    assert n.qmp.cmd("query-status")["status"] == "running"
    n.quit()
    os.unlink(tmp_path / "qtest.sock")
    n = machine("-machine", "virt", "-m", "16", "-S", "-incoming", "file:" + state)
    assert get(n) == b"hello from before"
    assert n.qmp.cmd("query-status")["status"] == "prelaunch"


@pytest.mark.parametrize("args, text", [
    (["-incoming", "tcp:127.0.0.1:1"], "-incoming tcp:127.0.0.1:1: a state comes from 'file:PATH'"),
    (["-incoming", "file:/nonexistent/state"], "could not open '/nonexistent/state'"),
    (["-incoming", "file:/dev/null"], "'/dev/null' is not a regular file"),
    (["-incoming", "file:/etc/passwd"], "/etc/passwd"),
    (["-incoming", "file:/etc/passwd", "-loadvm", "x"], "-incoming and -loadvm"),
])
def test_refused(args, text):
    p = subprocess.run([program("sterna"), "-M", "virt", "-accel", "qtest", "-display", "none", "-m", "16", *args],
                       capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert p.returncode == 1 and text in p.stderr, p.stderr
