# SPDX-License-Identifier: BSD-2-Clause
"""A machine is moved, saved or loaded by one at a time, and nobody who waits for his turn waits for ever."""
import socket, time

import pytest
import qmp
from moving import machine, over, running, status, until
from sterna import program, run


@pytest.fixture
def start(tmp_path):
    """start(*args): a machine with a disk that has the snapshot "a"."""
    made = []
    assert run(program("sterna-img"), "create", "-q", "-f", "qcow2", tmp_path / "d", "4M").rc == 0

    def one(*args):
        made.append(machine(tmp_path / f"m{len(made)}", "-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={tmp_path}/d",
                            "-device", "virtio-blk-device,drive=n,id=d", *args))
        if len(made) == 1:
            assert snapshot(made[0], "snapshot-save", "a") is None
        return made[-1]
    yield one
    for m in made:
        m.close()


def begin(m, command, tag):
    m.qmp.cmd(command, job_id=tag, tag=tag, vmstate="n", devices=["n"])


def job(m, tag):
    return next(j for j in m.qmp.cmd("query-jobs") if j["id"] == tag)


def ended(m, tag):
    """Its error, or None."""
    end = time.monotonic() + 60
    while (j := job(m, tag))["status"] != "concluded":
        assert time.monotonic() < end, (j, m.qmp.cmd("query-migrate"))
        time.sleep(0.005)
    m.qmp.cmd("job-dismiss", id=tag)
    return j.get("error")


def snapshot(m, command, tag):
    begin(m, command, tag)
    return ended(m, tag)


@pytest.mark.parametrize("command", ["snapshot-save", "snapshot-load"])
def test_while_it_moves(start, tmp_path, command):
    """Who would wait for the move's end is refused: the move waits for jobs, and a monitor that waits hears nothing."""
    tag = "b" if command == "snapshot-save" else "a"
    src, dst = start(), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "pre-switchover")
    for m in src, dst:
        why = "Node 'n' is inactive" if m is dst and command == "snapshot-load" else "is being moved"  # the disk has it, too
        assert why in snapshot(m, command, tag)
        assert why in m.qmp.hmp("savevm c" if command == "snapshot-save" else "loadvm a")
    src.qmp.cmd("migrate-continue", state="pre-switchover")
    assert over(src) == "completed" and until(dst, "completed")
    assert snapshot(dst, command, tag) is None


def test_given_up_while_it_waits_for_a_save(start, tmp_path):
    src, dst = start(), start("-incoming", f"unix:{tmp_path}/in")
    begin(src, "snapshot-save", "b")
    src.qmp.cmd("job-pause", id="b")
    src.qmp.event("JOB_STATUS_CHANGE", id="b", status="paused")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert status(src) == "setup"
    src.qmp.cmd("migrate_cancel")
    assert until(src, "cancelled", timeout=20) and running(src) and job(src, "b")["status"] == "paused"
    dst.close()
    dst = start("-incoming", f"unix:{tmp_path}/again")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/again")
    src.qmp.cmd("job-resume", id="b")
    assert over(src) == "completed" and until(dst, "completed") and ended(src, "b") is None


def test_the_program_ends_while_it_waits_for_a_save(start, tmp_path):
    src = start()
    start("-incoming", f"unix:{tmp_path}/in")
    begin(src, "snapshot-save", "b")
    src.qmp.cmd("job-pause", id="b")
    src.qmp.event("JOB_STATUS_CHANGE", id="b", status="paused")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert status(src) == "setup"
    assert src.quit()[0] == 0


def test_asking_is_given_up(start, tmp_path):
    """Nothing has begun, so query-migrate tells of nothing; a save waits that long."""
    src = start("-qmp", f"unix:{tmp_path}/second,server=on,wait=off")
    with socket.socket(socket.AF_UNIX) as silent, qmp.connect(str(tmp_path / "second")) as second:
        silent.bind(str(tmp_path / "in"))
        silent.listen(1)
        src.qmp.send({"execute": "migrate", "arguments": {"uri": f"unix:{tmp_path}/in", "dry-run": True}})
        came = silent.accept()[0]
        came.recv(1)
        second.cmd("snapshot-save", job_id="b", tag="b", vmstate="n", devices=["n"])
        second.cmd("migrate_cancel")
        assert "cancelled" in src.qmp.answer()["error"]["desc"]
        came.close()
    assert status(src) == "none" and ended(src, "b") is None and running(src)
