# SPDX-License-Identifier: BSD-2-Clause
"""Dirty bitmaps of a running machine. The expected texts are those of QEMU."""
import json, os, subprocess

import pytest
from chain import Chain, img, start as start_chain
from qmp import QMPError
from qtest_disk import Disk
from sterna import program, run

MB = 1 << 20


@pytest.fixture
def image(tmp_path):
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "a.qcow2", "8M", cwd=tmp_path).ok()
    return tmp_path / "a.qcow2"


def start(machine, image, *more):
    return machine("-machine", "virt", "-nodefaults", "-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={image}",
                   "-device", "virtio-blk-device,drive=n,id=v", *more)


def bitmap(m, command, name, node="n", **kw):
    m.qmp.cmd(f"block-dirty-bitmap-{command}", node=node, name=name, **kw)


def bitmaps(m, node="n"):
    info = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == node)
    return info.get("dirty-bitmaps", [])


def digest(m, name, node="n"):
    return m.qmp.cmd("x-debug-block-dirty-bitmap-sha256", node=node, name=name)["sha256"]


def test_what_the_guest_writes(machine, image):
    m = start(machine, image)
    disk = Disk(m)
    bitmap(m, "add", "a", granularity=65536)
    bitmap(m, "add", "b", granularity=4096, persistent=True, node="v")
    bitmap(m, "add", "c", disabled=True)
    assert disk.write(MB, b"A" * 5000 + bytes(120)) == 0
    both = [{"name": "c", "count": 0, "granularity": 65536, "recording": False, "busy": False, "persistent": False},
            {"name": "b", "count": 8192, "granularity": 4096, "recording": True, "busy": False, "persistent": True},
            {"name": "a", "count": 65536, "granularity": 65536, "recording": True, "busy": False, "persistent": False}]
    assert bitmaps(m) == both
    assert m.qmp.cmd("query-block")[0]["inserted"]["dirty-bitmaps"] == both
    bitmap(m, "disable", "a")
    bitmap(m, "enable", "c")
    assert disk.write(4 * MB, b"B" * 512) == 0
    assert [(b["name"], b["count"]) for b in bitmaps(m)] == [("c", 65536), ("b", 12288), ("a", 65536)]
    bitmap(m, "clear", "b")
    assert bitmaps(m)[1]["count"] == 0
    m.qmp.cmd("block-dirty-bitmap-merge", node="n", target="b", bitmaps=["a", {"node": "n", "name": "c"}])
    assert bitmaps(m)[1]["count"] == 131072
    bitmap(m, "clear", "a")
    assert digest(m, "a") != digest(m, "c")
    bitmap(m, "clear", "c")
    assert digest(m, "a") == digest(m, "c")
    bitmap(m, "remove", "c")
    assert [b["name"] for b in bitmaps(m)] == ["b", "a"]
    assert m.quit()[0] == 0
    info = json.loads(run(program("sterna-img"), "info", "--output=json", image).ok().out)
    assert info["format-specific"]["data"]["bitmaps"] == [{"flags": ["auto"], "name": "b", "granularity": 4096}]


def test_killed(machine, image, tmp_path):
    """After a crash a persistent bitmap has at least what was written, and goes on."""
    m = start(machine, image)
    disk = Disk(m)
    for name in "kept", "gone":
        bitmap(m, "add", name, persistent=True)
    bitmap(m, "add", "memory")
    offsets = [0, 3 * MB + 512, 7 * MB]
    for off in offsets:
        assert disk.write(off, b"X" * 1024) == 0
    bitmap(m, "remove", "gone")
    bitmap(m, "add", "merged", persistent=True, disabled=True)
    m.qmp.cmd("block-dirty-bitmap-merge", node="n", target="merged", bitmaps=["memory"])
    m.process.kill()
    m.process.wait()
    os.unlink(tmp_path / "qtest.sock")
    m = start(machine, image)
    have = {b["name"]: b for b in bitmaps(m)}
    assert set(have) == {"kept", "merged"} and have["kept"]["recording"] and not have["merged"]["recording"]
    assert have["merged"]["count"] == 3 * 65536 and have["kept"]["count"] >= 3 * 65536
    bitmap(m, "clear", "kept")
    assert Disk(m).write(5 * MB, b"Y" * 512) == 0
    assert {b["name"]: b["count"] for b in bitmaps(m)} == {"kept": 65536, "merged": 3 * 65536}


@pytest.mark.parametrize("command, args, text", [
    ("add", {"node": "n", "name": ""}, "Bitmap name cannot be empty"),
    ("add", {"node": "n", "name": "a"}, "Bitmap already exists: a"),
    ("add", {"node": "n", "name": "x" * 1024}, "Bitmap name too long: " + "x" * 1024),
    ("add", {"node": "n", "name": "b", "granularity": 256}, "Granularity must be power of 2 and at least 512"),
    ("add", {"node": "n", "name": "b", "granularity": 3000}, "Granularity must be power of 2 and at least 512"),
    ("add", {"node": "n", "name": "b", "granularity": -1}, "Parameter 'granularity' expects uint32_t"),
    ("add", {"node": "x", "name": "b"}, "Cannot find device='x' nor node-name='x'"),
    ("add", {"node": "z", "name": "b", "persistent": True}, "Can't store persistent bitmaps to z: Operation not supported"),
    ("remove", {"node": "x", "name": "b"}, "Node 'x' not found"),
    ("remove", {"node": "n", "name": "b"}, "Dirty bitmap 'b' not found"),
    ("clear", {"node": "n", "name": "b"}, "Dirty bitmap 'b' not found"),
    ("enable", {"node": "n", "name": "b"}, "Dirty bitmap 'b' not found"),
    ("disable", {"node": "n", "name": "b"}, "Dirty bitmap 'b' not found"),
    ("merge", {"node": "n", "target": "b", "bitmaps": ["a"]}, "Dirty bitmap 'b' not found"),
    ("merge", {"node": "n", "target": "a", "bitmaps": ["b"]}, "Dirty bitmap 'b' not found"),
    ("merge", {"node": "n", "target": "a", "bitmaps": [{"node": "x", "name": "a"}]}, "Node 'x' not found"),
    ("merge", {"node": "n", "target": "a", "bitmaps": ["a", {"node": "z", "name": "z"}]},
     "Bitmaps are of different sizes (destination size is 8388608, source size is 1048576) and can't be merged"),
])
def test_errors(machine, image, command, args, text):
    m = machine("-M", "none", "-nodefaults", "-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={image}",
                "-blockdev", "driver=null-co,node-name=z,size=1048576", qtest=False)
    bitmap(m, "add", "a")
    bitmap(m, "add", "z", node="z")
    with pytest.raises(QMPError) as error:
        m.qmp.cmd(f"block-dirty-bitmap-{command}", args=args)
    assert (error.value.cls, error.value.desc) == ("GenericError", text)
    assert [b["name"] for b in bitmaps(m)] == ["a"]


def test_a_layer_that_is_written_to_no_more(machine, image, tmp_path):
    """It has the exact bits from then on, not what was marked ahead of writes."""
    m = start(machine, image)
    disk = Disk(m)
    bitmap(m, "add", "b", persistent=True)
    assert disk.write(0, b"a" * 512) == 0 and disk.flush() == 0
    m.qmp.cmd("blockdev-snapshot-sync", node_name="n", snapshot_file=str(tmp_path / "above.qcow2"), snapshot_node_name="above", format="qcow2")
    length = os.path.getsize(image)
    m.process.kill()
    m.process.wait()
    os.unlink(tmp_path / "qtest.sock")
    m = start(machine, image)
    assert [(b["count"], b["recording"]) for b in bitmaps(m)] == [(65536, True)] and os.path.getsize(image) == length < MB


def test_incremental_copy(machine, image, tmp_path):
    """What a bitmap is for: only what was written since is copied."""
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "copy.qcow2", "8M", cwd=tmp_path).ok()
    m = start(machine, image, "-blockdev", f"driver=qcow2,node-name=t,file.driver=file,file.filename={tmp_path}/copy.qcow2")
    disk = Disk(m)
    assert disk.write(0, b"old" + bytes(509)) == 0
    bitmap(m, "add", "b", persistent=True)
    assert disk.write(2 * MB, b"new" + bytes(509)) == 0
    m.qmp.cmd("blockdev-mirror", job_id="j", device="n", target="t", sync="incremental", bitmap="b")
    m.qmp.event("BLOCK_JOB_READY", device="j")
    m.qmp.cmd("block-job-cancel", device="j")
    m.qmp.event("JOB_STATUS_CHANGE", id="j", status="null")
    assert m.quit()[0] == 0
    out = run(program("sterna-io"), "-r", "-f", "qcow2", "-c", "read -P 0 0 512", "-c", "read -P 110 2M 1", "copy.qcow2", cwd=tmp_path).ok().out
    assert "failed" not in out


@pytest.mark.parametrize("mode, ended, left", [("on-success", True, 0), ("never", True, 2), ("always", True, 0),
                                               ("on-success", False, 2), ("always", False, 1)])
def test_copy_by_bitmap(machine, image, tmp_path, mode, ended, left):
    """What becomes of the bitmap of a copy that ends well, or is cut off."""
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "copy.qcow2", "8M", cwd=tmp_path).ok()
    m = start(machine, image, "-blockdev", f"driver=qcow2,node-name=t,file.driver=file,file.filename={tmp_path}/copy.qcow2")
    disk = Disk(m)
    bitmap(m, "add", "b", persistent=True)
    for off in (2 * MB, 4 * MB):
        assert disk.write(off, b"new" + bytes(509)) == 0
    m.qmp.cmd("blockdev-mirror", job_id="j", device="n", target="t", sync="bitmap", bitmap="b", bitmap_mode=mode, speed=0 if ended else 1)
    assert bitmaps(m)[0]["busy"]
    if ended:
        m.qmp.event("BLOCK_JOB_READY", device="j")
    while m.qmp.cmd("query-jobs")[0]["current-progress"] == 0:  # the first granule; the limit holds the second back
        pass
    m.qmp.cmd("block-job-cancel", device="j", force=not ended)
    m.qmp.event("JOB_STATUS_CHANGE", id="j", status="null")
    assert [(b["count"], b["busy"]) for b in bitmaps(m)] == [(left * 65536, False)]
    assert m.quit()[0] == 0
    reads = [f"read -P 110 {off} 1" for off in (2 * MB, 4 * MB)[:2 if ended else 1]]
    run(program("sterna-io"), "-r", "-f", "qcow2", *(w for r in reads for w in ("-c", r)), "copy.qcow2", cwd=tmp_path).ok()


def test_copy_to_what_is_zero(machine, image, tmp_path):
    run(program("sterna-io"), "-f", "qcow2", "-c", "write -z 1M 2M", "-c", "write -P 7 4M 64k", image).ok()
    for name in ("told", "untold"):
        run(program("sterna-img"), "create", "-q", "-f", "qcow2", f"{name}.qcow2", "8M", cwd=tmp_path).ok()
    m = start(machine, image)
    for name in ("told", "untold"):
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": f"{tmp_path}/{name}.qcow2"})
        m.qmp.cmd("blockdev-mirror", job_id="j", device="n", target=name, sync="full", target_is_zero=name == "told")
        m.qmp.event("BLOCK_JOB_READY", device="j")
        m.qmp.cmd("block-job-cancel", device="j")
        m.qmp.event("JOB_STATUS_CHANGE", id="j", status="null")
    stats = {n["node-name"]: n["stats"] for n in m.qmp.cmd("query-blockstats", query_nodes=True)}
    assert stats["told"]["wr_bytes"] <= 65536 * 2
    m.quit()
    for name in ("told", "untold"):
        run(program("sterna-img"), "compare", "-f", "qcow2", "-F", "qcow2", image, f"{name}.qcow2", cwd=tmp_path).ok()
    assert "65536" in run(program("sterna-img"), "map", "--output=json", "told.qcow2", cwd=tmp_path).ok().out


def test_copy_to_an_image_that_gets_its_backing_later(machine, tmp_path):
    """As managers do it who copy the images below by themselves: what the copy lacks is not hidden by parts of its clusters."""
    chain = Chain(tmp_path)
    img("create", "-q", "-f", "qcow2", "-o", "cluster_size=128k", "-b", chain.path["mid"], "-F", "qcow2", tmp_path / "copy.qcow2")
    run(program("sterna-io"), "-f", "qcow2", "-c", "write -z 1M 256k", chain.path["top"]).ok()
    chain.want[MB:MB + 262144] = bytes(262144)
    m, disk = start_chain(machine, chain)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="copy", backing=None, file={"driver": "file", "filename": f"{tmp_path}/copy.qcow2"})
    m.qmp.cmd("blockdev-mirror", job_id="j", device="top", target="copy", sync="top")
    m.qmp.event("BLOCK_JOB_READY", device="j")
    for off in range(1024, 8 * MB, 131072):
        assert disk.write(off, b"w" * 3072) == 0
        chain.want[off:off + 3072] = b"w" * 3072
    m.qmp.cmd("block-job-cancel", device="j")
    m.qmp.event("JOB_STATUS_CHANGE", id="j", status="null")
    m.quit()
    img("convert", "-f", "qcow2", "-O", "raw", tmp_path / "copy.qcow2", tmp_path / "copy.raw")
    assert (tmp_path / "copy.raw").read_bytes() == chain.want == chain.contents()


def test_of_a_raw_disk_by_a_side_file(machine, tmp_path):
    """docs/bitmaps.md: a qcow2 image that has the raw file, as it is, for its data file; and kill -9."""
    raw, side = tmp_path / "disk.raw", tmp_path / "disk.map"
    content = bytearray(os.urandom(4 * MB))
    raw.write_bytes(content)
    side.write_bytes(b"")
    m = machine("-machine", "none", qtest=False)
    for node, path in (("raw", raw), ("map", side)):
        m.qmp.cmd("blockdev-add", driver="file", node_name=node, filename=str(path))
    m.qmp.cmd("blockdev-create", job_id="c", options={"driver": "qcow2", "file": "map", "data-file": "raw", "data-file-raw": True,
                                                      "preallocation": "metadata", "size": 4 * MB})
    m.qmp.event("JOB_STATUS_CHANGE", id="c", status="concluded")
    assert "error" not in m.qmp.cmd("query-jobs")[0]
    m.quit()
    assert raw.read_bytes() == content and side.stat().st_size < MB

    def start():
        m = machine("-machine", "virt", "-m", "64", "-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={side}",
                    "-device", "virtio-blk-device,drive=disk")
        return m, Disk(m)
    m, disk = start()
    m.qmp.cmd("block-dirty-bitmap-add", node="disk", name="map", persistent=True, granularity=65536)
    for off in (0, MB, 3 * MB):
        assert disk.write(off, b"n" * 4096) == 0
        content[off:off + 4096] = b"n" * 4096
    m.process.kill()
    m.process.wait()
    assert raw.read_bytes() == content
    os.unlink(tmp_path / "qtest.sock")
    m, disk = start()
    (bitmap,) = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "disk")["dirty-bitmaps"]
    assert bitmap["persistent"] and not bitmap.get("inconsistent") and bitmap["count"] >= 3 * 65536
    assert disk.contents(MB, 4096) == b"n" * 4096
