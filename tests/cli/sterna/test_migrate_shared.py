# SPDX-License-Identifier: BSD-2-Clause
"""Disks on storage that both programs see: their images are one machine's at a time, whatever fails on the way."""
import json, os, signal, time

import pytest
from qmp import QMPError
from sterna import program, run
from test_migrate import gone, info, running, start, until  # noqa: F401 (start is a fixture)

SIZE = 8 << 20


def disk(path, fmt="qcow2", name="d", more=""):
    opts = {"driver": fmt, "node-name": f"{name}-node", "file": {"driver": "file", "filename": str(path), "node-name": f"{name}-file"}}
    return ("-blockdev", json.dumps(opts), "-device", f"virtio-blk-device,drive={name}-node,id={name}{more}")


def image(path, fmt="qcow2", *more):
    run(program("sterna-img"), "create", "-q", "-f", fmt, *more, str(path), str(SIZE))
    return path


def io(m, command, node="d"):
    return m.qmp.cmd("human-monitor-command", command_line=f'qemu-io {node} "{command}"')


def write(m, at, value, length=65536):
    assert "wrote" in io(m, f"write -P {value} {at} {length}"), at


def reads(m, at, value, length=65536):
    out = io(m, f"read -P {value} {at} {length}")
    return "read" in out and "failed" not in out and "not open" not in out


def active(m):
    return {n["active"] for n in m.qmp.cmd("query-named-block-nodes", flat=True)}


def move(src, where, **kw):
    src.qmp.cmd("migrate", uri=f"unix:{where}", **kw)


def moved(src, dst):
    assert until(src, "completed", "failed")["status"] == "completed", info(src)
    assert until(dst, "completed")
    assert running(dst) and not running(src) and active(src) == {False} and active(dst) == {True}


@pytest.fixture
def waiting(start, tmp_path):
    """waiting(*args): a machine that waits; its socket is there."""
    n = [0]

    def one(*args, **kw):
        n[0] += 1
        where = tmp_path / f"in{n[0]}"
        return start(*args, "-incoming", f"unix:{where}", **kw), where
    return one


def other(path, fmt="qcow2"):
    """What another program says that wants to write."""
    return run(program("sterna-io"), "-f", fmt, "-c", "write 0 512", str(path))


@pytest.mark.parametrize("fmt", ["raw", "qcow2", "qed"])
def test_there_and_back(start, waiting, tmp_path, fmt):
    path = image(tmp_path / "d", fmt)
    here = start(*disk(path, fmt))
    for i in range(4):
        there, where = waiting(*disk(path, fmt))
        assert active(there) == {False}
        write(here, i << 16, 16 + i)
        move(here, where)
        moved(here, there)
        for k in range(i + 1):
            assert reads(there, k << 16, 16 + k)
        assert "lock" in other(path, fmt).err
        here.quit()
        here = there
    here.quit()
    if fmt != "raw":
        assert run(program("sterna-img"), "check", "-f", fmt, str(path)).rc == 0


def test_both_refuse_what_is_not_theirs(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    src = start(*disk(path))
    dst, where = waiting(*disk(path))
    assert "Operation not permitted" in io(dst, "write 0 512") or "inactive" in io(dst, "write 0 512")
    with pytest.raises(QMPError, match="is inactive"):
        dst.qmp.cmd("block-dirty-bitmap-add", node="d-node", name="b", persistent=True)
    move(src, where)
    moved(src, dst)
    assert "Operation not permitted" in io(src, "write 0 512") or "inactive" in io(src, "write 0 512")
    with pytest.raises(QMPError, match="Failed to get"):
        src.qmp.cmd("blockdev-set-active", active=True)
    assert active(src) == {False}


def bitmaps(m):
    return {b["name"]: b for n in m.qmp.cmd("query-named-block-nodes", flat=True) for b in n.get("dirty-bitmaps", [])}


def test_bitmaps_go_on(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    src = start(*disk(path))
    src.qmp.cmd("block-dirty-bitmap-add", node="d-node", name="kept", persistent=True)
    src.qmp.cmd("block-dirty-bitmap-add", node="d-node", name="off", persistent=True, disabled=True)
    write(src, 0, 1)
    dst, where = waiting(*disk(path))  # it has read the image before the bitmap had this:
    write(src, 1 << 20, 2)
    move(src, where)
    moved(src, dst)
    there = bitmaps(dst)
    assert there["kept"]["count"] == 2 * 65536 and there["kept"]["recording"] and there["kept"]["persistent"]
    assert there["off"]["count"] == 0 and not there["off"]["recording"]
    write(dst, 2 << 20, 3)
    assert bitmaps(dst)["kept"]["count"] == 3 * 65536
    dst.process.kill()
    dst.process.wait()
    src.quit()
    again = start(*disk(path))
    kept = bitmaps(again)["kept"]
    assert not kept.get("inconsistent") and kept["count"] >= 3 * 65536


@pytest.mark.parametrize("until_byte", ["hello", "answer", "ready"])
def test_fails_before_the_switch(start, waiting, tmp_path, until_byte):
    """The destination dies: the source has its disk again, and the guest goes on."""
    path = image(tmp_path / "d")
    src = start(*disk(path))
    dst, where = waiting(*disk(path))
    write(src, 0, 5)
    if until_byte == "ready":
        src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    if until_byte == "ready":
        move(src, where)
        until(src, "pre-switchover")
    src.qmp.cmd("migrate-set-parameters", answer_timeout=300)
    os.kill(dst.process.pid, signal.SIGKILL if until_byte == "hello" else signal.SIGSTOP)
    if until_byte == "hello":
        dst.process.wait()
    if until_byte == "ready":
        src.qmp.cmd("migrate-continue", state="pre-switchover")
    else:
        move(src, where)
    assert until(src, "failed")
    dst.process.kill()
    end = time.monotonic() + 60
    while not running(src):
        assert time.monotonic() < end
    assert active(src) == {True} and reads(src, 0, 5)
    write(src, 65536, 6)
    there, where = waiting(*disk(path))
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": False}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0, answer_timeout=10000)
    move(src, where)
    moved(src, there)
    assert reads(there, 65536, 6)


def test_what_cannot_be_read_there(start, waiting, tmp_path):
    """Before OKGO the destination finds that the image is none that it knows: the source goes on."""
    path = image(tmp_path / "d")
    src = start(*disk(path))
    dst, where = waiting(*disk(image(tmp_path / "other")))
    with open(tmp_path / "other", "r+b") as f:
        f.write(b"NONE")
    move(src, where)
    assert "d-node" in until(src, "failed", "completed").get("error-desc", "")
    assert gone(dst)
    write(src, 0, 7)
    assert running(src) and active(src) == {True}


def test_somebody_takes_the_lock(start, waiting, tmp_path):
    """After OKGO the destination cannot have its disk: it stands still, says so, and `cont` tries again."""
    path = image(tmp_path / "d")
    src = start(*disk(path))
    third = image(tmp_path / "third")
    dst, where = waiting(*disk(third))  # not shared: so somebody else can have it
    thief = start(*disk(third), stopped=True)
    move(src, where)
    until(src, "completed")
    until(dst, "completed")
    assert dst.qmp.cmd("query-status") == {"running": False, "status": "io-error"}
    with pytest.raises(QMPError, match="(?s)cannot use its disks.*Failed to get"):
        dst.qmp.cmd("cont")
    thief.quit()
    dst.qmp.cmd("cont")
    assert running(dst) and active(dst) == {True}


def test_jobs_end_first(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    image(tmp_path / "copy")
    src = start(*disk(path))
    write(src, 0, 9, SIZE)
    src.qmp.cmd("blockdev-add", driver="qcow2", node_name="copy", file={"driver": "file", "filename": str(tmp_path / "copy")})
    dst, where = waiting(*disk(path))
    src.qmp.cmd("blockdev-backup", job_id="b", device="d-node", target="copy", sync="full", speed=4 << 20)
    move(src, where)
    moved(src, dst)
    assert reads(dst, 0, 9, SIZE)
    dst.quit()
    src.quit()
    assert run(program("sterna-img"), "compare", str(path), str(tmp_path / "copy")).rc == 0


def test_jobs_that_wait(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    image(tmp_path / "copy")
    src = start(*disk(path))
    src.qmp.cmd("blockdev-add", driver="qcow2", node_name="copy", file={"driver": "file", "filename": str(tmp_path / "copy")})
    write(src, 0, 9, SIZE)
    src.qmp.cmd("blockdev-mirror", job_id="m", device="d-node", target="copy", sync="full", speed=65536)
    src.qmp.cmd("job-pause", id="m")
    dst, where = waiting(*disk(path))
    move(src, where)
    assert "Job 'm' (mirror)" in until(src, "failed")["error-desc"]
    assert running(src)


def test_a_temporary_overlay_stays(start, tmp_path):
    path = image(tmp_path / "d")
    src = start("-drive", f"file={path},format=qcow2,if=none,id=x,snapshot=on", "-device", "virtio-blk-device,drive=x")
    with pytest.raises(QMPError, match="snapshot=on"):
        move(src, tmp_path / "none")
    assert until(src, "failed")["error-desc"].startswith("Disk ") and running(src)


def test_through_a_file_and_on(start, tmp_path):
    """Without answers: the source has given its disk up, and `cont` takes it again."""
    path = image(tmp_path / "d")
    src = start(*disk(path))
    write(src, 0, 3)
    src.qmp.cmd("migrate", uri=f"exec:cat > {tmp_path}/state")
    until(src, "completed")
    assert active(src) == {False}
    dst = start(*disk(path), "-incoming", f"exec:cat {tmp_path}/state")
    until(dst, "completed")
    assert running(dst) and reads(dst, 0, 3)
    with pytest.raises(QMPError, match="Failed to get"):
        src.qmp.cmd("cont")
    dst.quit()
    src.qmp.cmd("cont")
    assert running(src) and active(src) == {True}
    write(src, 0, 4)


def test_a_live_copy_moves(start, waiting, tmp_path):
    image(tmp_path / "a")
    image(tmp_path / "b")
    run(program("sterna-img"), "create", "-q", "-f", "live-copy", "-o", f"source={tmp_path}/a,source_fmt=qcow2,destination={tmp_path}/b,destination_fmt=qcow2",
        str(tmp_path / "lc"))
    src = start(*disk(tmp_path / "lc", "live-copy"))
    write(src, 0, 11)
    dst, where = waiting(*disk(tmp_path / "lc", "live-copy"))
    write(src, 1 << 20, 12)
    move(src, where)
    moved(src, dst)
    assert reads(dst, 0, 11) and reads(dst, 1 << 20, 12)
    write(dst, 2 << 20, 13)
    src.quit()
    dst.quit()
    for name in "a", "b":
        assert run(program("sterna-img"), "check", str(tmp_path / name)).rc == 0


# --- by hand ---


def test_set_active(start, tmp_path):
    path = image(tmp_path / "d")
    m = start(*disk(path))
    with pytest.raises(QMPError, match="machine that runs: stop it first"):
        m.qmp.cmd("blockdev-set-active", active=False)
    m.qmp.cmd("stop")
    with pytest.raises(QMPError, match="Node has active parent node"):
        m.qmp.cmd("blockdev-set-active", node_name="d-file", active=False)
    m.qmp.cmd("blockdev-set-active", node_name="d-node", active=False)
    assert active(m) == {False}
    assert other(path).rc == 0
    m.qmp.cmd("blockdev-set-active", active=True)
    assert active(m) == {True} and "lock" in other(path).err
    with pytest.raises(QMPError, match="Failed to find node with node-name='none'"):
        m.qmp.cmd("blockdev-set-active", node_name="none", active=True)


def test_added_inactive(start, tmp_path):
    path = image(tmp_path / "d")
    m = start()
    m.qmp.cmd("blockdev-add", driver="file", node_name="f", filename=str(path), active=False)
    with pytest.raises(QMPError, match="Inactive 'f' can't be a file child of active 'q'"):
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name="q", file="f")
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="q", file="f", active=False)
    run(program("sterna-img"), "resize", "-q", str(path), str(2 * SIZE))
    m.qmp.cmd("blockdev-set-active", node_name="q", active=True)
    assert active(m) == {True}
    assert {n["node-name"]: n["image"]["virtual-size"] for n in m.qmp.cmd("query-named-block-nodes", flat=True)}["q"] == 2 * SIZE


# --- beside disks that are copied ---


def test_each_disk_in_its_own_way(start, waiting, tmp_path):
    """One connection: a disk that both see, one that is copied before, one that follows, one that is nobody's matter."""
    names = "shared", "none", "before", "after"
    modes = {"shared": "shared", "none": "none", "before": "pre-copy", "after": "post-copy"}
    for name in names:
        image(tmp_path / f"{name}-here")
    for name in names[1:]:
        image(tmp_path / f"{name}-there")
    src = start(*(x for name in names for x in disk(tmp_path / f"{name}-here", name=name)))
    for i, name in enumerate(names):
        assert "wrote" in io(src, f"write -P {i + 1} 0 65536", name)
    dst, where = waiting(*(x for name in names for x in disk(tmp_path / (f"{name}-there" if name != "shared" else "shared-here"), name=name)))
    move(src, where, disks=[{"device": name, "mode": mode} for name, mode in modes.items()])
    moved(src, dst)
    for i, name in enumerate(names):
        assert "read" in io(dst, f"read -P {i + 1 if name != 'none' else 0} 0 65536", name)
        assert "failed" not in io(dst, f"read -P {i + 1 if name != 'none' else 0} 0 65536", name), name
        assert "wrote" in io(dst, "write -P 9 65536 65536", name)
    for name in names[1:]:
        assert other(tmp_path / f"{name}-here").rc == 0, name  # its lock is free
    dst.quit()
    src.quit()
    for path in tmp_path.glob("*here"):
        assert run(program("sterna-img"), "check", str(path)).rc == 0


@pytest.mark.parametrize("mode", ["pre-copy", "post-copy"])
def test_refused_beside_a_copy(start, waiting, tmp_path, mode):
    """At the last moment the destination finds that the shared image is none: both disks are the source's again."""
    for name in "d", "c-here", "c-there", "other":
        image(tmp_path / name)
    src = start(*disk(tmp_path / "d"), *disk(tmp_path / "c-here", name="c"))
    dst, where = waiting(*disk(tmp_path / "other"), *disk(tmp_path / "c-there", name="c"))
    with open(tmp_path / "other", "r+b") as f:
        f.write(b"NONE")
    move(src, where, disks=[{"device": "c", "mode": mode}])
    assert "d-node" in until(src, "failed", "completed").get("error-desc", "")
    assert gone(dst) and running(src) and active(src) == {True}
    write(src, 0, 7)
    assert "wrote" in io(src, "write -P 8 0 65536", "c")
    empty = run(program("sterna-img"), "info", str(tmp_path / "c-there"))
    assert empty.rc == 0 and "backing" not in empty.out


def test_copied_by_a_manager(start, waiting, tmp_path):
    """As libvirt moves disks: the waiting program serves its image, and the source mirrors to it until the guest stands still."""
    mine, theirs = image(tmp_path / "mine"), image(tmp_path / "theirs")
    src = start(*disk(mine))
    write(src, 0, 5)
    dst, where = waiting(*disk(theirs), stopped=True)
    dst.qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(tmp_path / "nbd")}})
    dst.qmp.cmd("nbd-server-add", device="d", writable=True)
    assert {n["node-name"] for n in dst.qmp.cmd("query-named-block-nodes", flat=True) if n["active"]} == {"d-node", "d-file"}
    src.qmp.cmd("drive-mirror", job_id="m", device="d", target=f"nbd+unix:///d?socket={tmp_path}/nbd", sync="full", format="raw", mode="existing")
    src.qmp.event("BLOCK_JOB_READY", device="m")
    write(src, 1 << 20, 6)
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    move(src, where)
    until(src, "pre-switchover")
    src.qmp.cmd("block-job-cancel", device="m")
    src.qmp.event("BLOCK_JOB_COMPLETED", device="m")
    src.qmp.cmd("migrate-continue", state="pre-switchover")
    assert until(src, "completed", "failed")["status"] == "completed", info(src)
    until(dst, "completed")
    with pytest.raises(QMPError, match="Permission conflict on node 'd-node'"):
        dst.qmp.cmd("cont")
    dst.qmp.cmd("nbd-server-stop")
    dst.qmp.cmd("cont")
    assert running(dst) and active(dst) == {True} and reads(dst, 0, 5) and reads(dst, 1 << 20, 6)
    write(dst, 0, 7)


def test_a_layer_above_what_was_given_up(start, tmp_path):
    """An external snapshot of disks and state in a file: the overlay comes while nothing is active."""
    path = image(tmp_path / "d")
    src = start(*disk(path))
    src.qmp.cmd("migrate", uri=f"exec:cat > {tmp_path}/state")
    until(src, "completed")
    image(tmp_path / "top", "qcow2")
    src.qmp.cmd("blockdev-add", driver="qcow2", node_name="top", backing=None, file={"driver": "file", "filename": str(tmp_path / "top")})
    src.qmp.cmd("blockdev-snapshot", node="d-node", overlay="top")
    assert active(src) == {False}
    src.qmp.cmd("cont")
    assert running(src) and active(src) == {True}
    write(src, 0, 4)
    src.quit()
    assert run(program("sterna-io"), "-c", "read -P 0 0 64k", str(path)).rc == 0
