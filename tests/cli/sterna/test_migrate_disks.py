# SPDX-License-Identifier: BSD-2-Clause
"""Disks that move with their machine through the same connection, or stay where they are with it."""
import itertools, json, os, random, time

import pytest
from faulty_link import FORTH, FaultyLink
from qmp import QMPError
from sterna import program, run
from test_as_release import OLD
from test_postcopy import resident
from test_migrate import gone, info, kernel, payload, running, start, until  # noqa: F401 (two are fixtures)

SIZE = 24 << 20


@pytest.fixture
def content():
    """Data, holes and zeroes."""
    data = bytearray(SIZE)
    rng = random.Random(7)
    for at in range(0, SIZE, 3 << 20):
        data[at:at + (1 << 20) + 512] = rng.randbytes((1 << 20) + 512)
    return bytes(data)


def disk(path, name="d", fmt="raw", more=""):
    return ("-blockdev", json.dumps({"driver": fmt, "node-name": f"{name}-node", "file": {"driver": "file", "filename": str(path)}}),
            "-device", f"virtio-blk-device,drive={name}-node,id={name}{more}")


@pytest.fixture
def pair(start, tmp_path, content):
    """pair(): a machine with a disk, and one that waits for it with an empty one as large."""
    def make(size=SIZE, more=(), there=None):
        (tmp_path / "here").write_bytes(content)
        if not (tmp_path / "there").exists():
            with open(tmp_path / "there", "wb") as f:
                f.truncate(size)
        src = start(*disk(tmp_path / "here"), *more)
        dst = start(*(there or disk(tmp_path / "there")), *more, "-incoming", f"unix:{tmp_path}/in")
        src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
        return src, dst
    return make


def move(src, tmp, mode="pre-copy", **kw):
    src.qmp.cmd("migrate", uri=f"unix:{tmp}/in", disks=[{"device": "d", "mode": mode}], **kw)


def nothing_left(m):
    drivers = {n["drv"] for n in m.qmp.cmd("query-named-block-nodes", flat=True)}
    assert drivers <= {"raw", "qcow2", "file", "blkdebug", "delay"}, drivers
    assert m.qmp.cmd("query-jobs") == [] and m.qmp.cmd("query-block-exports") == []
    root = m.qmp.cmd("query-block")[0]["inserted"]
    assert root["node-name"] == "d-node", root


def test_pre_copy(pair, tmp_path, content):
    src, dst = pair()
    move(src, tmp_path, dry_run=True)
    move(src, tmp_path)
    done = until(src, "completed", "failed")
    assert done["status"] == "completed", done
    assert done["disk"]["total"] >= SIZE and done["disk"]["remaining"] == 0 and done["disk"]["transferred"] == done["disk"]["total"]
    until(dst, "completed")
    assert running(dst) and not running(src)
    nothing_left(src)
    nothing_left(dst)
    # The destination's machine has its disk for itself again.
    dst.qmp.cmd("human-monitor-command", command_line='qemu-io d "write -P 7 0 512"')
    assert dst.quit()[0] == 0
    assert (tmp_path / "there").read_bytes() == b"\7" * 512 + content[512:]
    assert (tmp_path / "here").read_bytes() == content


@pytest.fixture
def limited(start, tmp_path):
    """limited(mode, **parameters): two disks of 4 MiB move, and how long that took, in seconds."""
    def go(mode, **parameters):
        names, size = ("d", "e"), 4 << 20
        for n in names:
            (tmp_path / f"here-{n}").write_bytes(b"x" * size)
            run(program("sterna-img"), "create", "-q", "-f", "qcow2", tmp_path / f"there-{n}", str(size)).ok()
        src = start(*itertools.chain(*(disk(tmp_path / f"here-{n}", n) for n in names)))
        dst = start(*itertools.chain(*(disk(tmp_path / f"there-{n}", n, "qcow2") for n in names)), "-incoming", f"unix:{tmp_path}/in")
        src.qmp.cmd("migrate-set-parameters", **parameters)
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": n, "mode": mode} for n in names])
        done = until(src, "completed", "failed", timeout=60)
        assert done["status"] == "completed", done
        until(dst, "completed")
        assert dst.qmp.cmd("query-migrate-parameters")["max-postcopy-bandwidth"] == 0
        for n in names:
            assert dst.qmp.cmd("human-monitor-command", command_line=f'qemu-io {n} "read -P 120 0 4M"').startswith("read 4194304")
        return done["total-time"] / 1000
    return go


@pytest.mark.parametrize("mode, name", [("pre-copy", "max_bandwidth"), ("post-copy", "max_postcopy_bandwidth")])
def test_limits_hold_for_all_disks_together(limited, mode, name):
    """8 MiB at 4 MiB a second, but for what is under way at the end. (A limit for each would take half as long.)"""
    assert limited(mode, **{name: 4 << 20}) > 1.3


def test_a_destination_that_ends_in_mid_copy(pair, tmp_path):
    """That is known at once, however long the limit would still hold back what is next."""
    src, dst = pair()
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 10)
    move(src, tmp_path)
    until(src, "active")
    dst.qmp.cmd("quit")
    until(src, "failed")
    assert running(src)
    write(src, 0, 7)


def write(m, at, value, length=65536):
    said = m.qmp.cmd("human-monitor-command", command_line=f'qemu-io d "write -P {value} {at} {length}"')
    assert "wrote" in said, said


def test_what_is_written_meanwhile(pair, tmp_path, content):
    """Before the copy is there, when it has caught up, and while a manager lets the switch wait."""
    src, dst = pair()
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 20)
    move(src, tmp_path)
    until(src, "active")
    want = bytearray(content)
    for i in range(40):
        at = i * 977 * 512 % (SIZE - 65536)
        write(src, at, i + 1)
        want[at:at + 65536] = bytes([i + 1]) * 65536
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    until(src, "pre-switchover")
    assert info(src)["disk"]["remaining"] == 0
    write(src, 1 << 20, 99)
    want[1 << 20:(1 << 20) + 65536] = b"\x63" * 65536
    src.qmp.cmd("migrate-continue", state="pre-switchover")
    until(src, "completed")
    until(dst, "completed")
    dst.quit()
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes() == want


def test_qcow2_to_raw(start, tmp_path, content):
    """What the guest sees moves, not how it is kept; node names need not be the same."""
    (tmp_path / "flat").write_bytes(content)
    assert run(program("sterna-img"), "convert", "-O", "qcow2", tmp_path / "flat", tmp_path / "here").rc == 0
    with open(tmp_path / "there", "wb") as f:
        f.truncate(SIZE)
    src = start(*disk(tmp_path / "here", fmt="qcow2"))
    other = ("-blockdev", json.dumps({"driver": "raw", "node-name": "other", "file": {"driver": "file", "filename": f"{tmp_path}/there"}}),
             "-device", "virtio-blk-device,drive=other,id=d")
    dst = start(*other, "-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"node": "d-node", "mode": "pre-copy"}])
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    dst.quit()
    assert (tmp_path / "there").read_bytes() == content
    assert os.stat(tmp_path / "there").st_blocks * 512 < SIZE * 3 // 4  # what read as zeroes was not written as data


@pytest.mark.parametrize("size,options,says", [
    (SIZE - 65536, "", "has 25165824 bytes, node 'd-node' at the destination has 25100288"),
    (SIZE + 512, "", "has 25165824 bytes, node 'd-node' at the destination has 25166336"),
    (SIZE, "ro", "node 'd-node' at the destination is read-only"),
])
def test_refused_before_any_page(pair, tmp_path, size, options, says):
    there = None
    if options:
        node = json.dumps({"driver": "raw", "node-name": "d-node", "read-only": True, "file": {"driver": "file", "filename": f"{tmp_path}/there"}})
        there = ("-blockdev", node, "-device", "virtio-blk-device,drive=d-node,id=d")
    src, dst = pair(size=size, there=there)
    if not options:  # a read-only disk shows in the machine itself, too
        with pytest.raises(QMPError, match=says):
            move(src, tmp_path, dry_run=True)
        assert running(src) and info(src) == {}
    move(src, tmp_path)
    failed = until(src, "failed", "completed")
    assert failed["status"] == "failed" and "ram" not in failed and running(src) and gone(dst)
    assert options or says in failed["error-desc"]
    nothing_left(src)


def test_said_wrong(pair, tmp_path):
    src, _ = pair(more=("-device", "virtio-scsi-device,id=s", "-device", "scsi-cd,bus=s.0,id=cd"))
    for disks, says in [
        ([{"mode": "pre-copy"}], "needs either 'node' or 'device'"),
        ([{"mode": "pre-copy", "device": "d", "node": "d-node"}], "needs either 'node' or 'device'"),
        ([{"mode": "pre-copy", "device": "e"}], "Device 'e' not found"),
        ([{"mode": "pre-copy", "node": "e"}], "node-name='e'"),
        ([{"mode": "pre-copy", "device": "cd"}], "Device 'cd' has no medium"),
        ([{"mode": "pre-copy", "device": "d"}, {"mode": "none", "node": "d-node"}], "stands twice"),
        ([{"mode": "sideways", "device": "d"}], "sideways"),
    ]:
        with pytest.raises(QMPError, match=says):
            src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=disks)
    with pytest.raises(QMPError, match="gives no answer: disks cannot be copied"):
        src.qmp.cmd("migrate", uri="exec:cat > /dev/null", disks=[{"device": "d", "mode": "pre-copy"}])
    assert "gives no answer: disks cannot be copied" in until(src, "failed")["error-desc"]


def test_none_leaves_it_alone(start, tmp_path, content):
    for name in "here", "there":
        (tmp_path / name).write_bytes(content if name == "here" else bytes(SIZE))
    src, dst = start(*disk(tmp_path / "here")), start(*disk(tmp_path / "there"), "-incoming", f"unix:{tmp_path}/in")
    move(src, tmp_path, mode="none")
    done = until(src, "completed", "failed")
    assert done["status"] == "completed" and "disk" not in done
    until(dst, "completed")
    dst.quit()
    assert (tmp_path / "there").read_bytes() == bytes(SIZE)


def test_cannot_be_read_here(start, tmp_path, content):
    """A disk with a bad sector is not copied, and stays in use; somebody who shares it can have the machine."""
    for name in "here", "there":
        (tmp_path / name).write_bytes(content if name == "here" else bytes(len(content)))
    bad = {"driver": "blkdebug", "node-name": "d-node", "image": {"driver": "file", "filename": str(tmp_path / "here")},
           "inject-error": [{"event": "none", "iotype": "read", "errno": 5, "sector": 2048}]}
    disk = "-device", "virtio-blk-device,drive=d-node,id=d"
    whole = lambda name: ("-blockdev", f"file,node-name=d-node,filename={tmp_path}/{name}", *disk)
    src, dst = start("-blockdev", json.dumps(bad), *disk), start(*whole("there"), "-incoming", f"unix:{tmp_path}/in")
    move(src, tmp_path)
    assert until(src, "failed", "completed")["error-desc"] == "Disk 'd' could not be copied: Input/output error" and running(src) and gone(dst)
    start(*whole("here"), "-incoming", f"unix:{tmp_path}/in2")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in2")
    assert until(src, "failed", "completed")["status"] == "completed"


def test_full_there(pair, tmp_path, content):
    full = {"driver": "raw", "node-name": "d-node", "file": {
        "driver": "blkdebug", "image": {"driver": "file", "filename": f"{tmp_path}/there"},
        "inject-error": [{"event": "write_aio", "iotype": "write", "errno": 28, "sector": (9 << 20) // 512}]}}
    src, dst = pair(there=("-blockdev", json.dumps(full), "-device", "virtio-blk-device,drive=d-node,id=d"))
    move(src, tmp_path)
    failed = until(src, "failed", "completed")
    assert failed["status"] == "failed" and "Disk 'd' could not be copied: No space left on device" in failed["error-desc"], failed
    assert running(src) and gone(dst)
    nothing_left(src)
    write(src, 0, 5)
    src.quit()
    assert (tmp_path / "here").read_bytes() == b"\5" * 65536 + content[65536:]


def test_given_up(pair, tmp_path):
    src, dst = pair()
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 20)
    move(src, tmp_path)
    end = time.monotonic() + 60
    while not info(src).get("disk", {}).get("transferred"):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert 0 < info(src)["disk"]["remaining"] < SIZE
    src.qmp.cmd("migrate_cancel")
    until(src, "cancelled")
    assert running(src) and gone(dst)
    nothing_left(src)
    write(src, 0, 5)


@pytest.mark.parametrize("at", [900, 40000, 6 << 20, 9 << 20])
def test_cut(pair, tmp_path, at):
    src, dst = pair()
    FaultyLink(f"{tmp_path}/proxy", f"{tmp_path}/in").fault("cut", FORTH, at)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy", disks=[{"device": "d", "mode": "pre-copy"}])
    assert until(src, "failed", "completed")["status"] == "failed"
    assert running(src) and gone(dst)
    nothing_left(src)
    write(src, 0, 5)


# --- post-copy


@pytest.fixture
def overlay(tmp_path):
    """An empty image for a disk that follows."""
    assert run(program("sterna-img"), "create", "-f", "qcow2", tmp_path / "there", str(SIZE)).rc == 0
    return disk(tmp_path / "there", fmt="qcow2")


def flat(tmp):
    assert run(program("sterna-img"), "convert", "-O", "raw", tmp / "there", tmp / "seen").rc == 0
    return (tmp / "seen").read_bytes()


def test_post_copy(pair, overlay, tmp_path, content):
    src, dst = pair(there=overlay)
    move(src, tmp_path, mode="post-copy", dry_run=True)
    move(src, tmp_path, mode="post-copy")
    done = until(src, "completed", "failed")
    assert done["status"] == "completed", done
    there = until(dst, "completed")
    for side in done, there:
        assert side["disk"] == {"transferred": SIZE, "remaining": 0, "total": SIZE}, side
    for m in src, dst:
        said = m.qmp.cmd("human-monitor-command", command_line="info migrate")
        assert f"transferred disk: {SIZE >> 10} kbytes" in said and "remaining disk: 0 kbytes" in said, said
    assert running(dst) and not running(src)
    nothing_left(src)
    nothing_left(dst)
    write(dst, 0, 7)
    assert dst.quit()[0] == 0
    assert (tmp_path / "here").read_bytes() == content
    (tmp_path / "here").unlink()
    assert flat(tmp_path) == b"\7" * 65536 + content[65536:]


def test_memory_is_given_up_while_a_disk_follows(start, pair, payload, overlay, tmp_path):  # noqa: F811
    """With nothing but disks to come the source needs no RAM any more."""
    src, dst = pair(there=overlay, more=("-initrd", payload, "-kernel", kernel(payload)))
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "release-ram", "state": True}])
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=1 << 20)
    assert resident(src) > 4 << 20
    move(src, tmp_path, mode="post-copy")
    until(src, "postcopy-active")
    assert resident(src) == 0 and info(src)["status"] == "postcopy-active"
    dst.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    assert until(src, "completed", "failed")["status"] == "completed"
    assert until(dst, "completed") and running(dst) and resident(dst) > 4 << 20


@pytest.mark.parametrize("old", [False, True])
def test_how_far_it_is(pair, overlay, tmp_path, content, old):
    """The source hears it from the destination, if both know how to say it."""
    src, dst = pair(there=overlay + (OLD if old else ()), more=("-M", "virt-0.1"))
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=1 << 20)
    move(src, tmp_path, mode="post-copy")
    until(src, "postcopy-active")
    seen, end = lambda m: 0 < info(m)["disk"]["remaining"] < SIZE, time.monotonic() + 60
    while not seen(dst if old else src):
        assert time.monotonic() < end, (info(src), info(dst))
        time.sleep(0.01)
    assert not old or info(src)["disk"]["remaining"] in (SIZE, 0)
    dst.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    assert until(src, "completed")["disk"] == {"transferred": SIZE, "remaining": 0, "total": SIZE}
    until(dst, "completed")
    dst.quit()
    assert flat(tmp_path) == content


def slow(path, ms=40):
    """A disk each of whose requests takes so long."""
    node = {"driver": "raw", "node-name": "d-node", "file": {"driver": "delay", "read-latency": f"{ms}ms", "file": {"driver": "file", "filename": str(path)}}}
    return ("-blockdev", json.dumps(node), "-device", "virtio-blk-device,drive=d-node,id=d")


def read(m, at, value, length=65536):
    said = m.qmp.cmd("human-monitor-command", command_line=f'qemu-io d "read -P {value} {at} {length}"')
    assert "read" in said and "fail" not in said, said


@pytest.mark.parametrize("make,says", [
    (lambda there, base: ("create", "-f", "raw", there, str(SIZE)), "format 'raw' of node 'd-node' at the destination has no backing images"),
    (lambda there, base: ("create", "-f", "qcow2", "-b", base, "-F", "raw", there), "node 'd-node' at the destination has a backing image"),
    (lambda there, base: ("convert", "-O", "qcow2", base, there), "has data of its own"),
    (lambda there, base: ("create", "-f", "qcow2", there, str(SIZE + 512)), "has 25165824 bytes"),
])
def test_cannot_follow(pair, tmp_path, make, says):
    (tmp_path / "base").write_bytes(b"\1" * SIZE)
    args = make(tmp_path / "there", tmp_path / "base")
    assert run(program("sterna-img"), *args).rc == 0
    src, _ = pair(there=disk(tmp_path / "there", fmt=args[args.index("-f") + 1] if "-f" in args else "qcow2"))
    with pytest.raises(QMPError, match=says):
        move(src, tmp_path, mode="post-copy", dry_run=True)
    assert running(src)


def test_did_not_come(pair, overlay, tmp_path):
    """Refused at the last moment: the image there is what it was, empty and without a backing image."""
    src, dst = pair(there=overlay)
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    move(src, tmp_path, mode="post-copy")
    until(src, "pre-switchover")
    dst.process.kill()
    src.qmp.cmd("migrate-continue", state="pre-switchover")
    assert until(src, "failed", "completed")["status"] == "failed" and running(src)
    nothing_left(src)
    write(src, 0, 5)
    assert flat(tmp_path) == bytes(SIZE)


def test_used_before_it_is_there(start, overlay, tmp_path, content):
    """The guest reads and writes there while the disk follows; the connection breaks and is replaced; nothing is lost."""
    (tmp_path / "here").write_bytes(content)
    src, dst = start(*slow(tmp_path / "here")), start(*overlay, "-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=1 << 20)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": "d", "mode": "post-copy"}])
    until(src, "postcopy-active")
    until(dst, "postcopy-active")
    assert running(dst) and not running(src)
    want = bytearray(content)
    at = 21 << 20  # not there yet
    write(dst, at + 4096, 7, 512)
    want[at + 4096:at + 4608] = b"\7" * 512
    read(dst, at + 4096, 7, 512)
    with pytest.raises(QMPError, match="only be run when postcopy is paused"):
        dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/again")
    dst.qmp.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    assert running(dst)
    write(dst, 0, 9, 65536)  # whole clusters need nothing from there
    want[:65536] = b"\x09" * 65536
    dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/again")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/again", resume=True)
    until(src, "postcopy-active", "completed")
    dst.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(dst, "completed", timeout=60)
    until(src, "completed")
    assert running(dst)
    nothing_left(dst)
    assert dst.quit()[0] == 0
    src.close()
    (tmp_path / "here").unlink()
    assert flat(tmp_path) == want


def test_what_is_not_whole_cannot_be_opened(start, overlay, tmp_path, content):
    (tmp_path / "here").write_bytes(content)
    src, dst = start(*slow(tmp_path / "here")), start(*overlay, "-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=1 << 20)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": "d", "mode": "post-copy"}])
    until(dst, "postcopy-active")
    dst.process.kill()
    until(src, "postcopy-paused")
    said = run(program("sterna-img"), "convert", "-O", "raw", tmp_path / "there", tmp_path / "seen")
    assert said.rc == 1 and "what-did-not-follow-the-machine" in said.err
    src.qmp.cmd("migrate-resolve", runs_there=True)
    until(src, "completed")
    nothing_left(src)

@pytest.mark.parametrize("capability", ["postcopy-ram", "multifd"])
def test_with_ram_in_another_way(start, payload, overlay, tmp_path, content, capability):
    """RAM follows, too, or goes by connections of its own."""
    (tmp_path / "here").write_bytes(content)
    ram = ("-initrd", payload, "-kernel", kernel(payload))
    src, dst = start(*slow(tmp_path / "here"), *ram), start(*overlay, "-incoming", f"unix:{tmp_path}/in")
    for m in (src, dst):
        m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": capability, "state": True}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 18 if capability == "postcopy-ram" else 0, max_postcopy_bandwidth=1 << 20)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": "d", "mode": "post-copy"}])
    if capability == "postcopy-ram":
        until(src, "active")
        src.qmp.cmd("migrate-start-postcopy")
    until(src, "postcopy-active")
    until(dst, "postcopy-active")
    dst.qmp.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/again")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/again", resume=True)
    for m in src, dst:
        m.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(src, "completed")
    until(dst, "completed")
    nothing_left(dst)
    dst.quit()
    src.close()
    (tmp_path / "here").unlink()
    assert flat(tmp_path) == content
