# SPDX-License-Identifier: BSD-2-Clause
"""A state file that one process wrote begins another one's machine."""
import os, subprocess

import pytest
import statefile
from moving import until
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
    assert n.qmp.cmd("query-status")["status"] == "running" and n.qmp.cmd("query-migrate") == {"status": "completed"}
    n.quit()
    os.unlink(tmp_path / "qtest.sock")
    before = open(state, "rb").read()
    for lazy in "off", "on", "map":
        n = machine("-machine", "virt", "-m", "16", "-incoming", f"file:{state},lazy={lazy}")
        assert get(n) == b"hello from before"
        put(n, b"not in that file.")
        assert get(n) == b"not in that file." and open(state, "rb").read() == before
        n.quit()
        os.unlink(tmp_path / "qtest.sock")
    n = machine("-machine", "virt", "-m", "16", "-S", "-incoming", "file:" + state)
    assert get(n) == b"hello from before"
    assert n.qmp.cmd("query-status")["status"] == "prelaunch"


@pytest.mark.parametrize("args, text", [
    (["-incoming", "rdma:127.0.0.1:1"], "unknown migration protocol: rdma:127.0.0.1:1"),
    (["-incoming", "file:/nonexistent/state"], "could not open '/nonexistent/state'"),
    (["-incoming", "file:/dev/null"], "'/dev/null' is not a regular file"),
    (["-incoming", "file:/etc/passwd"], "/etc/passwd"),
    (["-incoming", "file:/etc/passwd", "-loadvm", "x"], "'incoming' and 'loadvm' options are mutually exclusive"),
    (["-force-drop", "x"], "-incoming or -loadvm"),
    (["-incoming", "file:/etc/passwd,lazy=maybe"], "lazy=maybe is none of 'off', 'on' and 'map'"),
])
def test_refused(args, text):
    p = subprocess.run([program("sterna"), "-M", "virt", "-accel", "qtest", "-display", "none", "-m", "16", *args],
                       capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert p.returncode == 1 and text in p.stderr, p.stderr


def test_what_this_release_does_not_know(machine, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    m = machine("-machine", "virt", "-m", "16")
    m.qmp.cmd("machine-snapshot", job_id="j", file=str(old))
    m.qmp.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    m.quit()
    os.unlink(tmp_path / "qtest.sock")
    new.write_bytes(statefile.with_subsection(old.read_bytes(), "uart16550", "fast", "its speed"))
    incoming = ["-machine", "virt", "-m", "16", "-incoming", f"file:{new}"]
    p = subprocess.run([program("sterna"), *incoming, "-accel", "qtest", "-display", "none"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert p.returncode == 1 and "subsection 'fast' of section 'uart16550': the guest would lose its speed" in p.stderr
    m = machine(*incoming, "-force-drop", "other", "-force-drop", "uart16550:fast")
    assert m.qmp.cmd("query-status")["status"] == "running"
    code, said = m.quit()
    assert code == 0 and "left out of the loaded machine: " in said and "fast: its speed" in said


@pytest.mark.parametrize("words, args", [((), {}), (("-force-drop", "uart16550:fast"), {}), (("-force-drop", "other"), {"force-drop": ["uart16550:fast"]})])
def test_what_is_waited_for_by_a_command(machine, tmp_path, words, args):
    """What the command line lets go holds for it, too, and the command may let go more."""
    m = machine("-machine", "virt", "-m", "16")
    m.qmp.cmd("migrate", uri=f"file:{tmp_path}/old")
    until(m, "completed")
    m.quit()
    os.unlink(tmp_path / "qtest.sock")
    (tmp_path / "new").write_bytes(statefile.with_subsection((tmp_path / "old").read_bytes(), "uart16550", "fast", "its speed"))
    m = machine("-machine", "virt", "-m", "16", "-incoming", "defer", *words)
    m.qmp.cmd("migrate-incoming", args={"uri": f"file:{tmp_path}/new", **args})
    if words:
        assert until(m, "completed", None) and "left out of the loaded machine: " in m.quit()[1]
    else:
        assert m.process.wait(60) == 1 and "the guest would lose its speed" in m.quit()[1]
