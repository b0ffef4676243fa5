# SPDX-License-Identifier: BSD-2-Clause
"""Backups: what a disk held at one instant, while a driver in place of a guest writes to it."""
import json, os, subprocess, time

import pytest
from chain import MB, SIZE, Chain, finish, img, start
from qmp import QMPError
from qtest_disk import Disk
from sterna import program


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


class Target:
    def __init__(self, m, tmp, name="copy", size=SIZE, backing=None):
        self.path, self.name = tmp / f"{name}.qcow2", name
        img("create", "-q", "-f", "qcow2", *(["-b", backing, "-F", "qcow2"] if backing else []), self.path, size)
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": str(self.path)})

    def contents(self):
        out = self.path.with_suffix(".raw")
        img("convert", "-f", "qcow2", "-O", "raw", self.path, out)
        return out.read_bytes()


def scribble(chain, disk, n=20, seed=None):
    for i in range(n):
        off = chain.random.randrange(0, SIZE // 4096) * 4096
        data = bytes([chain.random.randrange(256)]) * 4096
        assert disk.write(off, data) == 0
        chain.want[off:off + 4096] = data


def backup(m, **args):
    m.qmp.cmd("blockdev-backup", job_id="b", device="top", **args)


def done(m, job="b"):
    data = finish(m, job)
    assert "error" not in data, data
    return data


def test_one_instant(machine, chain):
    m, disk = start(machine, chain)
    t = Target(m, chain.tmp)
    then = bytes(chain.want)
    backup(m, target="copy", sync="full", speed=4 * MB)
    scribble(chain, disk, 40)
    assert done(m)["type"] == "backup"
    scribble(chain, disk, 5)
    m.quit()
    assert t.contents() == then
    assert chain.contents() == chain.want


@pytest.mark.parametrize("by_host", [True, False])
def test_copied_by_the_host(machine, chain, by_host):
    """What the guest writes meanwhile makes no difference; what has to be written as zeroes is."""
    probe = [chain.tmp / "probe.in", chain.tmp / "probe.out"]
    for path in probe:
        path.write_bytes(b"x" * 4096)
    with open(probe[0], "rb") as a, open(probe[1], "wb") as b:
        try:
            can = os.copy_file_range(a.fileno(), b.fileno(), 4096) == 4096
        except OSError:
            can = False
    trace = chain.tmp / "trace"
    m, disk = start(machine, chain, "-trace", f"block_copy,file={trace}")
    t = Target(m, chain.tmp)
    then = bytes(chain.want)
    backup(m, target="copy", sync="full", speed=4 * MB, x_perf={"use-copy-range": by_host, "max-chunk": 65536})
    scribble(chain, disk, 20)
    done(m)
    m.quit()
    assert t.contents() == then and chain.contents() == chain.want
    copied = trace.read_text().count("node copy off") if trace.exists() else 0
    assert copied > 10 if by_host and can else copied <= by_host


def test_the_top_layer(machine, chain):
    m, disk = start(machine, chain)
    t = Target(m, chain.tmp, backing=chain.path["mid"])
    then = bytes(chain.want)
    backup(m, target="copy", sync="top", speed=8 * MB)
    scribble(chain, disk)
    done(m)
    m.quit()
    assert t.contents() == then
    assert os.stat(t.path).st_blocks < os.stat(chain.path["top"]).st_blocks + os.stat(chain.path["base"]).st_blocks


def test_compressed(machine, chain):
    m, disk = start(machine, chain)
    t = Target(m, chain.tmp)
    then = bytes(chain.want)
    backup(m, target="copy", sync="full", compress=True, speed=8 * MB)
    scribble(chain, disk)
    done(m)
    m.quit()
    assert t.contents() == then
    assert json.loads(img("check", "--output=json", t.path))["compressed-clusters"] > 0


def test_incremental(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="map", persistent=True)
    first = Target(m, chain.tmp, "first")
    backup(m, target="first", sync="full")
    done(m)
    m.qmp.cmd("blockdev-del", node_name="first")
    whole = bytes(chain.want)
    m.qmp.cmd("block-dirty-bitmap-clear", node="top", name="map")
    scribble(chain, disk, 5)
    then = bytes(chain.want)
    second = Target(m, chain.tmp, "second", backing=first.path)
    backup(m, target="second", sync="incremental", bitmap="map", speed=1)
    with pytest.raises(QMPError, match="in use"):
        m.qmp.cmd("block-dirty-bitmap-clear", node="top", name="map")
    scribble(chain, disk, 3)
    m.qmp.cmd("block-job-set-speed", device="b", speed=0)
    done(m)
    m.qmp.cmd("blockdev-del", node_name="second")
    after = bytes(chain.want)
    third = Target(m, chain.tmp, "third", backing=second.path)
    backup(m, target="third", sync="bitmap", bitmap="map", bitmap_mode="never")
    done(m)
    m.quit()
    assert first.contents() == whole and second.contents() == then and third.contents() == after
    assert os.stat(third.path).st_size < 5 * MB
    info = chain.info()["format-specific"]["data"]["bitmaps"]
    assert [b["name"] for b in info] == ["map"]


def test_a_target_that_gets_its_backing_image_later(machine, chain):
    """As managers do it, who open only the upper image: what has become zeroes hides what the last backup held."""
    first, second = chain.tmp / "first.qcow2", chain.tmp / "second.qcow2"
    img("convert", "-f", "qcow2", "-O", "qcow2", chain.path["top"], first)
    img("create", "-q", "-f", "qcow2", "-b", first, "-F", "qcow2", second)
    img("bitmap", "--add", "-f", "qcow2", chain.path["top"], "map")
    subprocess.run([program("sterna-io"), "-f", "qcow2", "-c", f"write -z 0 {MB}", chain.path["top"]], check=True, stdout=subprocess.DEVNULL)
    assert any(chain.want[:MB])
    chain.want[:MB] = bytes(MB)
    m, disk = start(machine, chain)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="second", backing=None, file={"driver": "file", "filename": str(second)})
    scribble(chain, disk, 3)
    backup(m, target="second", sync="incremental", bitmap="map")
    done(m)
    m.quit()
    assert raw(second, chain.tmp) == chain.want


@pytest.mark.parametrize("mode, left", [("on-success", True), ("never", True), ("always", False)])
def test_what_becomes_of_the_bitmap_of_a_failed_one(machine, chain, mode, left):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="map", granularity=65536)
    for off in (0, MB, 2 * MB):
        assert disk.write(off, b"d" * 4096) == 0
    path = chain.tmp / "t.raw"
    img("create", "-q", "-f", "raw", path, SIZE)
    m.qmp.cmd("blockdev-add", args={"driver": "raw", "node-name": "t", "file": {
        "driver": "blkdebug", "image": {"driver": "file", "filename": str(path)},
        "inject-error": [{"event": "none", "iotype": "write", "sector": 2 * MB // 512, "errno": 28}]}})
    backup(m, target="t", sync="bitmap", bitmap="map", bitmap_mode=mode, x_perf={"max-workers": 1})
    assert finish(m, "b")["error"] == "No space left on device"
    maps = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "top")["dirty-bitmaps"]
    assert [b["count"] for b in maps if b.get("name") == "map"] == [3 * 65536 if left else 65536]
    assert not maps[0]["busy"]


def test_kept_until_cancelled(machine, chain):
    """sync=none and snapshot-access: somebody else fetches what was."""
    m, disk = start(machine, chain)
    Target(m, chain.tmp)
    then = bytes(chain.want)
    backup(m, target="copy", sync="none", filter_node_name="cbw")
    m.qmp.cmd("blockdev-add", driver="snapshot-access", node_name="snap", file="cbw")
    scribble(chain, disk, 10)
    out = chain.tmp / "snap.raw"
    img("create", "-q", "-f", "raw", out, SIZE)
    m.qmp.cmd("blockdev-add", driver="raw", node_name="out", file={"driver": "file", "filename": str(out)})
    m.qmp.cmd("blockdev-mirror", job_id="m", device="snap", target="out", sync="full", speed=16 * MB)
    scribble(chain, disk, 10)
    m.qmp.event("BLOCK_JOB_READY", device="m")
    m.qmp.cmd("block-job-cancel", device="m")
    done(m, "m")
    m.qmp.cmd("blockdev-del", node_name="snap")
    m.qmp.cmd("block-job-cancel", device="b")
    m.qmp.event("BLOCK_JOB_CANCELLED", device="b")
    m.quit()
    assert out.read_bytes() == then
    assert chain.contents() == chain.want


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
def test_what_fails_when_the_target_does(machine, chain, policy):
    m, disk = start(machine, chain)
    path = chain.tmp / "t.raw"
    img("create", "-q", "-f", "raw", path, SIZE)
    m.qmp.cmd("blockdev-add", args={"driver": "raw", "node-name": "t", "file": {
        "driver": "blkdebug", "image": {"driver": "file", "filename": str(path)},
        "inject-error": [{"event": "none", "iotype": "write", "sector": 4 * MB // 512, "errno": 5},
                         {"event": "none", "iotype": "write-zeroes", "sector": 4 * MB // 512, "errno": 5}]}})
    backup(m, target="t", sync="none", on_cbw_error=policy)
    status = disk.write(4 * MB, b"w" * 4096)
    assert status == (0 if policy == "break-snapshot" else 1)
    if policy == "break-snapshot":
        assert finish(m, "b")["error"] == "Input/output error"
        assert disk.contents(4 * MB, 4096) == b"w" * 4096
    else:
        m.qmp.cmd("block-job-cancel", device="b")
        m.qmp.event("BLOCK_JOB_CANCELLED", device="b")
        assert disk.contents(4 * MB, 4096) == bytes(chain.want[4 * MB:4 * MB + 4096])


@pytest.mark.parametrize("command", ["blockdev-backup", "blockdev-mirror"])
def test_cancelled_while_the_target_is_away(machine, chain, command):
    """Nothing waits for the server to come back, a write of the guest neither."""
    m, disk = start(machine, chain)
    img("create", "-q", "-f", "raw", chain.tmp / "t.raw", SIZE)
    server = subprocess.Popen([program("sterna-nbd"), "-t", "-f", "raw", "-k", str(chain.tmp / "nbd"), str(chain.tmp / "t.raw")])
    try:
        m.qmp.cmd("blockdev-add", driver="raw", node_name="t", file={
            "driver": "nbd", "server": {"type": "unix", "path": str(chain.tmp / "nbd")}, "reconnect-delay": 3600, "open-timeout": 60})
        m.qmp.cmd(command, job_id="b", device="top", target="t", sync="full", speed=65536, **({"copy_mode": "write-blocking"} if "mirror" in command else {}))
        end = time.monotonic() + 60
        while not m.qmp.cmd("query-block-jobs")[0]["offset"]:
            assert time.monotonic() < end, "nothing is copied"
    finally:
        server.kill()
        server.wait()
    disk.put(disk.data, b"w" * 4096)
    disk.submit(1, 4 * MB // 512, [(disk.data, 4096, 0)])
    m.qmp.cmd("block-job-set-speed", device="b", speed=0)
    m.qmp.cmd("block-job-cancel", device="b", force=True)
    m.qmp.event("BLOCK_JOB_CANCELLED", device="b")
    assert disk.answer() == 0
    chain.want[4 * MB:4 * MB + 4096] = b"w" * 4096
    m.qmp.cmd("blockdev-del", node_name="t")
    m.quit()
    assert chain.contents() == chain.want


def test_beside_other_jobs(machine, chain):
    m, disk = start(machine, chain)
    a, b = Target(m, chain.tmp, "a"), Target(m, chain.tmp, "c")
    first = bytes(chain.want)
    backup(m, target="a", sync="full", speed=8 * MB)
    scribble(chain, disk, 5)
    second = bytes(chain.want)
    m.qmp.cmd("blockdev-backup", job_id="b2", device="top", target="c", sync="full", speed=8 * MB)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=8 * MB)
    scribble(chain, disk, 10)
    for job in ("b", "b2", "s"):
        done(m, job)
    m.quit()
    assert a.contents() == first and b.contents() == second and chain.contents() == chain.want


def test_an_empty_disk_of_a_tebibyte(machine, tmp_path):
    for n in ("s", "t"):
        img("create", "-q", "-f", "qcow2", tmp_path / n, "1T")
    m = machine("-blockdev", f"driver=qcow2,node-name=top,file.driver=file,file.filename={tmp_path}/s",
                "-blockdev", f"driver=qcow2,node-name=t,file.driver=file,file.filename={tmp_path}/t")
    begin = m.cpu_seconds()
    backup(m, target="t", sync="full")
    done(m)
    assert m.cpu_seconds() - begin < 2


def test_killed(machine, chain):
    """The bitmap of a backup that was cut off claims all that it claimed before, and what was written since."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="map", persistent=True)
    Target(m, chain.tmp, backing=chain.path["mid"])
    for off in (0, 3 * MB):  # the first is copied, then the limit holds the second back
        assert disk.write(off, b"1" * 4096) == 0
    backup(m, target="copy", sync="incremental", bitmap="map", speed=1)
    assert disk.write(MB, b"2" * 4096) == 0 and disk.flush() == 0
    m.process.kill()
    m.process.wait()
    os.unlink(chain.tmp / "qtest.sock")
    m, disk = start(machine, chain)
    img("create", "-q", "-f", "qcow2", chain.tmp / "again.qcow2", SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="again", file={"driver": "file", "filename": str(chain.tmp / "again.qcow2")})
    backup(m, target="again", sync="incremental", bitmap="map")
    done(m)
    m.quit()
    for off, pattern in ((0, 0x31), (3 * MB, 0x31), (MB, 0x32)):
        out = subprocess.run([program("sterna-io"), "-r", "-f", "qcow2", "-c", f"read -P {pattern} {off} 4096", chain.tmp / "again.qcow2"],
                             check=True, capture_output=True, text=True).stdout
        assert "failed" not in out


def test_refused(machine, chain):
    m, _ = start(machine, chain)
    Target(m, chain.tmp)
    Target(m, chain.tmp, "small", size=MB)
    for args, text in (
            ({"device": "none", "target": "copy", "sync": "full"}, "Cannot find device='none' nor node-name='none'"),
            ({"target": "none", "sync": "full"}, "Cannot find device='none' nor node-name='none'"),
            ({"target": "top", "sync": "full"}, "Source and target cannot be the same"),
            ({"target": "small", "sync": "full"}, "Source and target image have different sizes"),
            ({"target": "copy", "sync": "incremental"}, "must provide a valid bitmap name for 'incremental' sync mode"),
            ({"target": "copy", "sync": "full", "bitmap-mode": "never"}, "Cannot specify bitmap sync mode without a bitmap"),
            ({"target": "copy", "sync": "bitmap", "bitmap": "x"}, "Bitmap sync mode must be given when providing a bitmap"),
            ({"target": "copy", "sync": "bitmap", "bitmap": "x", "bitmap-mode": "never"}, "Bitmap 'x' could not be found"),
            ({"target": "copy", "sync": "full", "x-perf": {"max-workers": 0}}, "max-workers must be between 1 and 2147483647")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("blockdev-backup", args={"job-id": "b", "device": "top", **args})
        assert e.value.desc == text
    assert m.qmp.cmd("query-jobs") == []


# --- to files -----------------------------------------------------------------------------------------------------------

def raw(path, tmp):
    img("convert", "-f", "qcow2", "-O", "raw", path, tmp / "out.raw")
    return (tmp / "out.raw").read_bytes()


def drive_backup(m, target, **args):
    m.qmp.cmd("drive-backup", job_id="b", device="top", target=str(target), **args)


def test_to_new_files(machine, chain):
    m, disk = start(machine, chain)
    then = bytes(chain.want)
    full, top = chain.tmp / "full.qcow2", chain.tmp / "above.qcow2"
    drive_backup(m, full, sync="full", compress=True, speed=16 * MB)
    scribble(chain, disk)
    done(m)
    later = bytes(chain.want)
    drive_backup(m, top, sync="top")
    scribble(chain, disk)
    done(m)
    assert [n["node-name"] for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"][0] != "#"] == ["top", "mid", "base"]
    m.quit()
    assert raw(full, chain.tmp) == then and raw(top, chain.tmp) == later
    assert json.loads(img("info", "--output=json", top))["backing-filename"] == str(chain.path["mid"])
    assert json.loads(img("check", "--output=json", full))["compressed-clusters"] > 0


def test_by_hand(machine, tmp_path):
    data = os.urandom(MB)
    (tmp_path / "d.raw").write_bytes(data)
    m = machine("-M", "none", "-drive", f"if=none,id=d0,format=raw,file={tmp_path}/d.raw", qtest=False)
    assert m.qmp.hmp(f"drive_backup -f d0 {tmp_path}/new.raw raw") == ""
    done(m, "d0")
    (tmp_path / "old.raw").write_bytes(bytes(MB))
    assert m.qmp.hmp(f"drive_backup -n -f d0 {tmp_path}/old.raw raw") == ""
    done(m, "d0")
    m.qmp.cmd("drive-backup", job_id="d0", device="d0", sync="full", target=f"{tmp_path}/plain", format="file")
    done(m, "d0")
    m.quit()
    assert all((tmp_path / name).read_bytes() == data for name in ("new.raw", "old.raw", "plain"))


def test_what_is_kept_reads_as_the_disk_was(machine, chain):
    """sync=none: the file's image above the disk itself; also made by hand, as libvirt does."""
    m, disk = start(machine, chain)
    then = bytes(chain.want)
    drive_backup(m, chain.tmp / "kept.qcow2", sync="none")
    path = chain.tmp / "hand.qcow2"
    img("create", "-q", "-f", "qcow2", path, SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="hand", backing="top", file={"driver": "file", "filename": str(path)})
    m.qmp.cmd("blockdev-backup", job_id="c", device="top", target="hand", sync="none")
    kept = next(n["node-name"] for n in m.qmp.cmd("query-named-block-nodes") if n["file"] == str(chain.tmp / "kept.qcow2") and n["drv"] == "qcow2")
    for name in (kept, "hand"):
        out = chain.tmp / f"out-{name.strip('#')}"
        img("create", "-q", "-f", "raw", out, SIZE)
        m.qmp.cmd("blockdev-add", driver="raw", node_name="out", file={"driver": "file", "filename": str(out)})
        m.qmp.cmd("blockdev-backup", job_id="o", device=name, target="out", sync="full", speed=8 * MB)
        scribble(chain, disk)
        done(m, "o")
        m.qmp.cmd("blockdev-del", node_name="out")
        assert out.read_bytes() == then
    for job in ("b", "c"):
        m.qmp.cmd("block-job-cancel", device=job)
        m.qmp.event("JOB_STATUS_CHANGE", id=job, status="null")
    m.qmp.cmd("blockdev-del", node_name="hand")
    m.quit()
    assert chain.contents() == chain.want


def test_incremental_to_a_file(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="map")
    whole, part = chain.tmp / "whole.qcow2", chain.tmp / "part.qcow2"
    drive_backup(m, whole, sync="full")
    done(m)
    scribble(chain, disk, 4)
    img("create", "-q", "-f", "qcow2", "-b", whole, "-F", "qcow2", part)
    drive_backup(m, part, sync="bitmap", bitmap="map", bitmap_mode="on-success", mode="existing", format="qcow2")
    done(m)
    m.quit()
    assert raw(part, chain.tmp) == chain.want and os.stat(part).st_blocks * 512 < 2 * MB


@pytest.mark.parametrize("policy", ["break-guest-write", "break-snapshot"])
def test_no_longer_than_so_long(machine, chain, policy):
    """cbw-timeout: a target that does not answer holds the guest up for a second, not longer."""
    node = {"driver": "copy-before-write", "node-name": "cbw", "on-cbw-error": policy, "cbw-timeout": 1,
            "file": {"driver": "null-co", "size": SIZE}, "target": {"driver": "throttle", "throttle-group": "slow", "file": "t"}}
    m = machine("-machine", "virt", "-m", "128", "-object", "throttle-group,id=slow,x-bps-write=512,x-bps-write-max=512",
                "-blockdev", f"driver=null-co,node-name=t,size={SIZE}", "-blockdev", json.dumps(node), "-device", "virtio-blk-device,drive=cbw")
    disk, begin = Disk(m), time.monotonic()
    statuses = [disk.write(off, b"w" * 512) for off in (0, MB)]
    assert statuses == ([0, 0] if policy == "break-snapshot" else [0, 1])
    assert 0.9 < time.monotonic() - begin < 60
    if policy == "break-snapshot":
        m.qmp.cmd("blockdev-add", driver="snapshot-access", node_name="snap", file="cbw")
        assert "Permission denied" in m.qmp.hmp('qemu-io snap "read 0 512"')
    assert m.qmp.hmp('qemu-io none "length"') == "Error: Cannot find device='' nor node-name='none'\n"


def test_nobody_writes_past_the_filter(machine, tmp_path):
    """As long as somebody uses it; what was written past it would be in the backup."""
    m = machine("-machine", "none", *(w for n in ("disk", "kept") for w in ("-blockdev", f"null-co,node-name={n},size={MB}")), qtest=False)
    m.qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(tmp_path / "nbd")}})

    def export(node):
        m.qmp.cmd("block-export-add", type="nbd", id=node, node_name=node, writable=True)

    def no_export():
        for e in m.qmp.cmd("query-block-exports"):
            m.qmp.cmd("block-export-del", id=e["id"])
            m.qmp.event("BLOCK_EXPORT_DELETED", id=e["id"])

    m.qmp.cmd("blockdev-add", driver="copy-before-write", node_name="cbw", file="disk", target="kept")
    export("disk")
    with pytest.raises(QMPError, match="conflict on node 'disk'.*'write' are both required by .* and unshared by node 'cbw'"):
        export("cbw")
    no_export()
    export("cbw")
    with pytest.raises(QMPError, match="unshared by node 'cbw'"):
        export("disk")
    no_export()
    export("disk")
    m.qmp.cmd("blockdev-del", node_name="cbw")
    m.qmp.cmd("blockdev-add", driver="blkdebug", node_name="above", image="disk")
    with pytest.raises(QMPError, match="conflict on node 'disk'.* and unshared by node 'above'"):
        m.qmp.cmd("blockdev-backup", job_id="b", device="above", target="kept", sync="full")
    no_export()
    m.qmp.cmd("blockdev-backup", job_id="b", device="disk", target="kept", sync="none")
    with pytest.raises(QMPError, match="and unshared by backup job 'b'"):
        export("disk")
    for node in "disk", "kept":  # nor do they become another size
        with pytest.raises(QMPError, match=f"conflict on node '{node}'.*'resize'.* and unshared by backup job 'b'"):
            m.qmp.cmd("block_resize", node_name=node, size=65536)
    m.qmp.cmd("block-job-cancel", device="b")
    m.qmp.event("JOB_STATUS_CHANGE", id="b", status="null")
    export("disk")


def test_what_has_been_copied_is_given_back(machine, chain):
    """discard-source: the image that keeps what was shrinks as it is fetched."""
    m, disk = start(machine, chain)
    then = bytes(chain.want)
    kept = chain.tmp / "kept.qcow2"
    img("create", "-q", "-f", "qcow2", kept, SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="kept", discard="unmap", file={"driver": "file", "filename": str(kept)})
    t = Target(m, chain.tmp)
    backup(m, target="kept", sync="none", filter_node_name="cbw")
    m.qmp.cmd("blockdev-add", driver="snapshot-access", node_name="snap", file="cbw")
    scribble(chain, disk, 20)
    with pytest.raises(QMPError, match="'discard-source' needs a snapshot-access node"):
        m.qmp.cmd("blockdev-backup", job_id="c", device="top", target="copy", sync="full", discard_source=True)
    m.qmp.cmd("blockdev-backup", job_id="c", device="snap", target="copy", sync="full", discard_source=True)
    done(m, "c")
    scribble(chain, disk, 20)  # nothing needs to be kept any more
    m.qmp.cmd("blockdev-del", node_name="snap")
    m.qmp.cmd("block-job-cancel", device="b")
    m.qmp.event("JOB_STATUS_CHANGE", id="b", status="null")
    m.quit()
    assert t.contents() == then and chain.contents() == chain.want
    assert not any(e["data"] for e in json.loads(img("map", "--output=json", kept)))


def test_files_refused(machine, chain):
    m, _ = start(machine, chain)
    new = chain.tmp / "new"
    for args, text in (
            ({"device": "none", "sync": "full"}, "Cannot find device='none' nor node-name='none'"),
            ({"target": "/nope/x", "sync": "full"}, "Could not create '/nope/x': No such file or directory"),
            ({"sync": "full", "mode": "existing"}, f"Could not open '{new}': No such file or directory"),
            ({"sync": "full", "format": "zz"}, "Unknown file format 'zz'"),
            ({"sync": "full", "format": "host_device"}, f"Format driver 'host_device' does not create '{new}', which 'file' opens"),
            ({"sync": "full", "format": "null-co"}, "Format driver 'null-co' does not support image creation"),
            ({"sync": "top", "format": "raw"}, "Backing file not supported for file format 'raw'"),
            ({"sync": "full", "bitmap": "zz", "bitmap-mode": "always"}, "Bitmap 'zz' could not be found"),
            ({"sync": "full", "target": str(chain.path["top"])}, 'Failed to get "write" lock')):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("drive-backup", args={"job-id": "b", "device": "top", "target": str(new), **args})
        assert e.value.desc.split("\n")[0] == text
        assert not new.exists()
    assert m.qmp.cmd("query-jobs") == []


def test_another_name_for_the_backing_file(machine, chain):
    m, _ = start(machine, chain)
    os.link(chain.path["mid"], chain.tmp / "other.qcow2")
    m.qmp.cmd("change-backing-file", device="top", image_node_name="top", backing_file="other.qcow2")
    m.qmp.cmd("change-backing-file", device="disk0", image_node_name="mid", backing_file=str(chain.path["base"]))
    assert next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "mid")["ro"]
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="null")
    for args, text in (
            ({"device": "none", "image-node-name": "top"}, "Cannot find device='none' nor node-name='none'"),
            ({"device": "top", "image-node-name": "none"}, "Cannot find device='' nor node-name='none'"),
            ({"device": "top", "image-node-name": "base"}, "not allowing backing file change on an image without a backing file"),
            ({"device": "null", "image-node-name": "top"}, "'null' and image file are not in the same chain")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("change-backing-file", args={"backing-file": "x", **args})
        assert e.value.desc == text
    m.quit()
    assert (chain.info()["backing-filename"], chain.info()["backing-filename-format"]) == ("other.qcow2", "qcow2")
    assert chain.info("mid")["backing-filename"] == str(chain.path["base"]) and chain.contents() == chain.want
