# SPDX-License-Identifier: BSD-2-Clause
"""Committing: what upper layers hold goes into a lower one, while a driver in place of a guest writes."""
import json, os, subprocess, time

import pytest
from chain import MB, SIZE, Chain, finish, img, layers, start
from qmp import QMPError
from qtest_disk import Disk
from sterna import program


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


def node(m, name):
    return next(n for n in m.qmp.cmd("query-named-block-nodes", flat=True) if n["node-name"] == name)


@pytest.mark.parametrize("base", ["base", "mid"])
def test_what_the_guest_uses(machine, chain, base):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="c", device="top", base_node=base, speed=16 * MB)
    for i in range(20):
        off = chain.random.randrange(0, SIZE // 4096) * 4096
        assert disk.write(off, bytes([i + 1]) * 4096) == 0
        chain.want[off:off + 4096] = bytes([i + 1]) * 4096
    assert m.qmp.event("BLOCK_JOB_READY", device="c")["data"]["type"] == "commit"
    assert disk.write(MB, b"r" * 4096) == 0
    chain.want[MB:MB + 4096] = b"r" * 4096
    m.qmp.cmd("job-complete", id="c")
    assert "error" not in finish(m, "c")
    assert disk.write(2 * MB, b"a" * 4096) == 0 and disk.flush() == 0
    chain.want[2 * MB:2 * MB + 4096] = b"a" * 4096
    assert disk.contents(MB, 4096) == b"r" * 4096
    assert not node(m, base)["ro"]
    assert m.qmp.cmd("query-block")[0]["inserted"]["node-name"] == base
    m.qmp.cmd("blockdev-del", node_name="top")
    m.quit()
    img("check", "-q", chain.path[base])
    assert chain.contents(base) == chain.want


def test_what_nobody_writes_to_now(machine, chain):
    """The base is what the disk was, a writable one, also while nobody does."""
    m = machine("-machine", "none", *chain.blockdev(), qtest=False)
    m.qmp.cmd("block-commit", job_id="c", device="top", base_node="base")
    m.qmp.event("BLOCK_JOB_READY", device="c")
    m.qmp.cmd("job-complete", id="c")
    assert "error" not in finish(m, "c")
    m.qmp.event("JOB_STATUS_CHANGE", id="c", status="null")
    assert not node(m, "base")["ro"] and node(m, "mid")["ro"]
    m.quit()
    assert chain.contents("base") == chain.want


def test_below_a_filter_of_the_drive(machine, chain):
    """Copy-on-read stays above whatever the disk is, and is called after it."""
    m = machine("-machine", "virt", "-m", "128", "-drive", f"if=none,id=d0,copy-on-read=on,format=qcow2,file={chain.path['top']}",
                "-device", "virtio-blk-device,drive=d0")
    disk = Disk(m)
    m.qmp.cmd("block-commit", device="d0")
    m.qmp.event("BLOCK_JOB_READY", device="d0")
    m.qmp.cmd("job-complete", id="d0")
    assert "error" not in finish(m, "d0")
    assert disk.write(MB, b"f" * 4096) == 0
    chain.want[MB:MB + 4096] = b"f" * 4096
    inserted = m.qmp.cmd("query-block")[0]["inserted"]
    assert inserted["drv"] == "copy-on-read" and "base.qcow2" in inserted["file"] and "top.qcow2" not in inserted["file"]
    m.quit()
    assert chain.contents("base") == chain.want


def test_ready_and_cancelled(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="c", device="top")
    m.qmp.event("BLOCK_JOB_READY", device="c")
    m.qmp.cmd("block-job-cancel", device="c")
    assert "error" not in finish(m, "c")
    assert layers(m) == ["top.qcow2", "mid.qcow2", "base.qcow2"]
    assert node(m, "base")["ro"]
    assert disk.write(0, b"n" * 4096) == 0
    chain.want[:4096] = b"n" * 4096
    m.quit()
    assert chain.contents() == chain.want


@pytest.mark.parametrize("args", [{"top-node": "mid"}, {"top-node": "mid", "base-node": "base"}, {"top-node": "mid", "backing-file": "base.qcow2"}])
def test_in_the_middle(machine, chain, args):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", args={"job-id": "c", "device": "top", **args})
    assert disk.write(0, b"m" * 4096) == 0
    chain.want[:4096] = b"m" * 4096
    done = finish(m, "c")
    assert "error" not in done and done["type"] == "commit" and done["len"] == done["offset"] == SIZE
    assert layers(m) == ["top.qcow2", "base.qcow2"] and node(m, "base")["ro"]
    m.quit()
    assert chain.info()["backing-filename"] == args.get("backing-file", str(chain.path["base"]))
    os.unlink(chain.path["mid"])
    assert chain.contents() == chain.want


def test_an_outgrown_base(machine, chain):
    img("resize", "-q", "-f", "qcow2", chain.path["top"], SIZE + 3 * MB)
    chain.want += bytes(3 * MB)
    m, disk = start(machine, chain)
    assert disk.write(SIZE + MB, b"g" * 4096) == 0
    chain.want[SIZE + MB:SIZE + MB + 4096] = b"g" * 4096
    m.qmp.cmd("block-commit", job_id="c", device="top")
    m.qmp.event("BLOCK_JOB_READY", device="c")
    m.qmp.cmd("job-complete", id="c")
    assert "error" not in finish(m, "c")
    m.quit()
    assert chain.contents("base") == chain.want


def test_beside_a_stream(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="c", device="top", top_node="mid", speed=16 * MB)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=16 * MB)
    assert disk.write(0, b"b" * 4096) == 0
    chain.want[:4096] = b"b" * 4096
    assert "error" not in finish(m, "c")
    assert "error" not in finish(m, "s")
    assert layers(m) == ["top.qcow2"]
    m.quit()
    assert chain.contents() == chain.want


@pytest.mark.parametrize("args", [{}, {"top-node": "mid"}])
def test_killed(machine, chain, args):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", args={"job-id": "c", "device": "top", "speed": MB // 4, **args})
    assert disk.write(0, b"k" * 4096) == 0 and disk.flush() == 0
    chain.want[:4096] = b"k" * 4096
    end = time.monotonic() + 60
    while m.qmp.cmd("query-jobs")[0]["current-progress"] == 0 and time.monotonic() < end:
        time.sleep(0.01)
    m.process.kill()
    m.process.wait()
    os.unlink(chain.tmp / "qtest.sock")
    assert chain.contents() == chain.want
    m, _ = start(machine, chain)
    m.qmp.cmd("block-commit", args={"job-id": "c", "device": "top", **args})
    if not args:
        m.qmp.event("BLOCK_JOB_READY", device="c")
        m.qmp.cmd("job-complete", id="c")
    assert "error" not in finish(m, "c")
    m.quit()
    assert chain.contents("top" if args else "base") == chain.want


def test_refused(machine, chain):
    m, _ = start(machine, chain)
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="other", size=SIZE)
    for args, text in (
            ({"device": "none"}, "Device 'none' not found"),
            ({"device": "top", "top": "x"}, "Top image file x not found"),
            ({"device": "top", "base": "x"}, "Can't find 'x' in the backing chain"),
            ({"device": "top", "top": "x", "top-node": "mid"}, "'top-node' and 'top' are mutually exclusive"),
            ({"device": "top", "base": "x", "base-node": "mid"}, "'base-node' and 'base' are mutually exclusive"),
            ({"device": "top", "base-node": "top"}, "cannot commit an image into itself"),
            ({"device": "top", "base-node": "other"}, "'other' is not in this backing file chain"),
            ({"device": "top", "top-node": "other", "base-node": "base"}, "'other' is not in this backing file chain"),
            ({"device": "base"}, "There is no backing image below 'base'"),
            ({"device": "top", "backing-file": "x"}, "'backing-file' specified, but 'top' is the active layer")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("block-commit", args={"job-id": "c", **args})
        assert e.value.desc == text
    assert m.qmp.cmd("query-jobs") == [] and node(m, "base")["ro"]
    m.quit()
    assert chain.contents() == chain.want


def test_at_once(machine, chain):
    """The human monitor's commit: what top has is in mid then, and top goes on, empty."""
    m, disk = start(machine, chain)
    assert disk.write(4096, b"x" * 8192) == 0
    chain.want[4096:12288] = b"x" * 8192
    base = chain.path["base"].read_bytes()
    assert m.qmp.hmp("commit disk0") == ""
    named = {n["node-name"]: n for n in m.qmp.cmd("query-named-block-nodes")}
    assert named["mid"]["ro"] and not named["top"]["ro"]
    assert disk.contents(4096, 4096) == b"x" * 4096
    assert disk.write(0, b"y" * 512) == 0
    chain.want[0:512] = b"y" * 512
    assert m.qmp.hmp("commit all") == "" and m.qmp.hmp("commit all") == ""
    assert m.qmp.hmp("commit x") == "Error: Device 'x' not found\n"
    m.quit()
    assert chain.contents() == chain.want and chain.contents("mid") == chain.want
    extents = json.loads(img("map", "--output=json", chain.path["top"]))
    assert not any(e["depth"] == 0 for e in extents)
    assert chain.path["base"].read_bytes() == base


def test_at_once_with_a_snapshot_inside(machine, chain):
    """It stays what it is, although the images below it change."""
    then = bytes(chain.want)
    m, disk = start(machine, chain)
    m.qmp.cmd("blockdev-snapshot-internal-sync", device="top", name="s")
    assert disk.write(SIZE // 2, b"x" * 65536 * 4) == 0
    chain.want[SIZE // 2:SIZE // 2 + 65536 * 4] = b"x" * 65536 * 4
    assert m.qmp.hmp("commit disk0") == ""
    assert disk.contents(SIZE // 2, 4096) == b"x" * 4096
    m.quit()
    assert chain.contents() == chain.want and chain.contents("mid") == chain.want
    img("snapshot", "-a", "s", chain.path["top"])
    img("check", "-q", chain.path["top"])
    assert chain.contents() == then


def test_not_at_once(machine, chain):
    m, _ = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=1)
    assert "s'" in m.qmp.hmp("commit disk0")
    m.qmp.cmd("block-job-cancel", device="s")
    m.qmp.event("BLOCK_JOB_CANCELLED", device="s")


def test_into_what_a_stream_fills(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=65536)
    m.qmp.cmd("blockdev-snapshot-sync", device="disk0", snapshot_file=str(chain.tmp / "above.qcow2"), format="qcow2")
    with pytest.raises(QMPError, match="Node 'top' is in use by stream job 's', which writes to it at the same time"):
        m.qmp.cmd("block-commit", job_id="c", device="disk0", base=str(chain.path["top"]))
    m.qmp.cmd("job-cancel", id="s")


def test_a_base_that_is_not_there_is_not_taken_for_another(machine, tmp_path):
    """The header names one image, and the user has put another in its place: only that one can be meant."""
    for name in ("named", "real"):
        img("create", "-q", "-f", "qcow2", tmp_path / name, MB)
    img("create", "-q", "-f", "qcow2", "-b", tmp_path / "named", "-F", "qcow2", tmp_path / "top")
    file = {k: {"driver": "qcow2", "file": {"driver": "file", "filename": f"{tmp_path}/{k}"}} for k in ("top", "real")}
    m = machine("-blockdev", json.dumps({**file["top"], "node-name": "top", "backing": file["real"]}), qtest=False)
    with pytest.raises(QMPError, match=f"Can't find '{tmp_path}/named' in the backing chain"):
        m.qmp.cmd("block-commit", job_id="c", device="top", base=f"{tmp_path}/named")
    m.qmp.cmd("block-commit", job_id="c", device="top", base=f"{tmp_path}/real")
    m.qmp.event("BLOCK_JOB_READY")
    with pytest.raises(QMPError) as e:
        m.qmp.cmd("block-commit", job_id="d", device="nothing")
    assert e.value.cls == "DeviceNotFound"


def test_progress_in_the_middle_is_of_the_whole_image(machine, tmp_path):
    for name, below in (("base", None), ("mid", "base"), ("top", "mid")):
        img("create", "-q", "-f", "qcow2", *(["-b", tmp_path / below, "-F", "qcow2"] if below else []), tmp_path / name, *([] if below else [MB]))
    m = machine("-drive", f"if=none,id=d,file={tmp_path}/top,format=qcow2", qtest=False)
    m.qmp.cmd("block-commit", job_id="c", device="d", top=f"{tmp_path}/mid")
    done = m.qmp.event("BLOCK_JOB_COMPLETED")["data"]
    assert (done["len"], done["offset"]) == (MB, MB) and "error" not in done


def shown(m, name):
    n = node(m, name)
    assert n["file"] == n["image"]["filename"]
    return n["file"]


def full_name(tmp, name, *below):
    """What QEMU calls it; below: () nothing else, (None,) no backing image, (options,) this one."""
    options = {"backing": below[0]} if below else {}
    return {**options, "driver": "qcow2", "file": {"driver": "file", "filename": f"{tmp}/{name}"}}


def spelt(options):
    return "json:" + json.dumps(options)


def test_names_say_what_is_below_where_the_header_does_not(machine, tmp_path):
    for name, below in (("named", None), ("real", None), ("mid", "named"), ("top", "mid")):
        img("create", "-q", "-f", "qcow2", *(["-b", below, "-F", "qcow2"] if below else []), tmp_path / name, *([] if below else [MB]))
    subprocess.run([program("sterna-io"), "-f", "qcow2", "-c", "write -P 7 0 4k", tmp_path / "real"], check=True, stdout=subprocess.DEVNULL)
    file = {k: {"driver": "qcow2", "file": {"driver": "file", "filename": f"{tmp_path}/{k}"}} for k in ("top", "mid", "real", "named")}
    below = {**file["mid"], "node-name": "mid", "backing": {**file["real"], "node-name": "real"}}
    m = machine("-blockdev", json.dumps({**file["top"], "node-name": "top", "backing": below}), qtest=False)
    real = full_name(tmp_path, "real")
    mid = full_name(tmp_path, "mid", real)
    assert (shown(m, "real"), shown(m, "mid")) == (f"{tmp_path}/real", spelt(mid))
    assert shown(m, "top") == spelt(full_name(tmp_path, "top", mid))
    assert node(m, "top")["backing_file"] == spelt(mid)
    assert img("compare", "-U", shown(m, "top"), tmp_path / "real") == "Images are identical.\n"
    m.qmp.cmd("block-commit", job_id="c", device="top", top=spelt(mid), base=f"{tmp_path}/real", speed=1, filter_node_name="filter", auto_finalize=False)
    assert shown(m, "top") == spelt(full_name(tmp_path, "top", mid)), "a job's filter is no part of it"
    m.qmp.cmd("job-cancel", id="c")
    m.qmp.event("JOB_STATUS_CHANGE", status="null")
    m.qmp.cmd("change-backing-file", device="top", image_node_name="mid", backing_file="real")
    assert (shown(m, "mid"), shown(m, "top")) == (f"{tmp_path}/mid", f"{tmp_path}/top")
    m.qmp.cmd("change-backing-file", device="top", image_node_name="mid", backing_file=f"file:{tmp_path}/real")
    assert shown(m, "mid") == spelt(mid)
    m.qmp.cmd("blockdev-del", node_name="top")
    m.qmp.cmd("blockdev-add", **file["top"], node_name="top")
    assert shown(m, "top") == f"{tmp_path}/top" and node(m, "top")["backing_file"] == f"{tmp_path}/mid"
    m.qmp.cmd("blockdev-reopen", options=[{**file["top"], "node-name": "top", "file": node(m, "top")["children"][0]["node-name"], "backing": None}])
    assert shown(m, "top") == spelt(full_name(tmp_path, "top", None))
    m.qmp.cmd("blockdev-add", **file["mid"], node_name="other")
    m.qmp.cmd("blockdev-snapshot", node="other", overlay="top")
    assert shown(m, "top") == f"{tmp_path}/top"


def test_its_nodes_stay_as_qemus_do(machine, chain):
    m = machine("-M", "none", qtest=False, prefix=("bash", "-c", 'exec -a qemu-system-riscv64 "$0" "$@"'))
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="top", file={"driver": "file", "filename": str(chain.path["top"])})
    for command, args, text in (
            ("block-commit", {"top": str(chain.path["mid"])}, "block device is in use by block job: commit"),
            ("block-stream", {}, "block device is in use by block job: stream"),
            ("drive-mirror", {"sync": "full", "target": str(chain.tmp / "t")}, "block device is in use by block job: mirror"),
            ("drive-backup", {"sync": "none", "target": str(chain.tmp / "b")}, "node is used as backing hd of '#block")):
        m.qmp.cmd(command, args={"device": "top", "job-id": "j", "speed": 1, **args})
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("blockdev-del", node_name="top")
        assert e.value.desc.startswith(f"Node 'top' is busy: {text}")
        m.qmp.cmd("block-job-cancel", device="j")
        m.qmp.event("JOB_STATUS_CHANGE", status="null")
    m.qmp.cmd("blockdev-del", node_name="top")
