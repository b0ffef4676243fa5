# SPDX-License-Identifier: BSD-2-Clause
"""Streaming: what is below an image is brought into it, while a driver in place of a guest writes to it."""
import json, os, subprocess, time

import pytest
from chain import MB, SIZE, Chain, finish, img, layers, start
from qmp import QMPError
from sterna import program


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)

def test_whole_chain(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=8 * MB)
    for i in range(20):
        off = chain.random.randrange(0, SIZE // 4096) * 4096
        assert disk.write(off, bytes([i + 1]) * 4096) == 0
        chain.want[off:off + 4096] = bytes([i + 1]) * 4096
    done = finish(m)
    assert "error" not in done and done["offset"] == done["len"] == SIZE and done["type"] == "stream"
    assert layers(m) == ["top.qcow2"]
    assert disk.contents(0, 4096) == chain.want[:4096]
    m.quit()
    assert "backing-filename" not in chain.info()
    assert chain.contents() == chain.want


@pytest.mark.parametrize("args", [{"base-node": "base"}, {"base": "base.qcow2"}, {"bottom": "mid"}])
def test_down_to_a_base(machine, chain, args):
    m, _ = start(machine, chain)
    if "base" in args:
        args = {"base": str(chain.path["base"])}
    m.qmp.cmd("block-stream", args={"job-id": "s", "device": "top", **args})
    assert "error" not in finish(m)
    assert layers(m) == ["top.qcow2", "base.qcow2"]
    m.quit()
    assert chain.info()["backing-filename"] == str(chain.path["base"])
    assert chain.contents() == chain.want


def test_nothing_to_copy(machine, chain):
    """The base is right below: all that is read while the job is there comes from below."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", base_node="mid", auto_finalize=False)
    m.qmp.event("JOB_STATUS_CHANGE", status="pending")
    for off in range(0, SIZE, 1 << 16):
        assert disk.contents(off, 4096) == chain.want[off:off + 4096]
    m.qmp.cmd("job-finalize", id="s")
    assert "error" not in finish(m)
    m.quit()
    assert chain.contents() == chain.want


def test_a_name_of_ones_own_for_the_base(machine, chain):
    m, _ = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", base_node="base", backing_file="base.qcow2")
    assert "error" not in finish(m)
    m.quit()
    assert chain.info()["backing-filename"] == "base.qcow2"
    assert chain.contents() == chain.want


def snapshot(m, chain, name, above):
    m.qmp.cmd("blockdev-snapshot-sync", node_name=above, snapshot_file=str(chain.tmp / f"{name}.qcow2"), snapshot_node_name=name, format="qcow2")


def whole(disk, chain):
    for off in range(0, SIZE, SIZE // 16):
        assert disk.contents(off, 16384) == chain.want[off:off + 16384]


def end(m, job):
    m.qmp.cmd("block-job-set-speed", device=job, speed=0)
    assert "error" not in finish(m, job)


def test_above_what_another_stream_fills(machine, chain):
    """What is filled below the base meanwhile says nothing of the base."""
    m, disk = start(machine, chain)
    for above, name in (("top", "one"), ("one", "two")):
        snapshot(m, chain, name, above)
    m.qmp.cmd("block-stream", job_id="lower", device="mid", speed=1)
    m.qmp.cmd("block-stream", job_id="upper", device="two", base_node="top", auto_finalize=False)
    m.qmp.event("JOB_STATUS_CHANGE", id="upper", status="pending")
    end(m, "lower")
    m.qmp.cmd("job-finalize", id="upper")
    assert "error" not in finish(m, "upper")
    assert layers(m, "two") == ["two.qcow2", "top.qcow2", "mid.qcow2"]
    whole(disk, chain)


def test_streams_past_a_commit(machine, chain):
    """A layer that was let go of had let go of the commit before."""
    m, disk = start(machine, chain)
    snapshot(m, chain, "one", "top")
    m.qmp.cmd("block-commit", job_id="commit", device="one", top_node="top", base_node="base", speed=1)
    m.qmp.cmd("block-stream", job_id="first", device="one", base_node="mid")
    assert "error" not in finish(m, "first")
    snapshot(m, chain, "two", "one")
    m.qmp.cmd("block-stream", job_id="second", device="two", base_node="base")
    assert "error" not in finish(m, "second")
    end(m, "commit")
    assert layers(m, "two") == ["two.qcow2", "base.qcow2"]
    whole(disk, chain)


def test_a_commit_ends_past_another(machine, chain):
    m, disk = start(machine, chain)
    snapshot(m, chain, "one", "top")
    m.qmp.cmd("block-commit", job_id="lower", device="one", top_node="top", base_node="base", speed=1)
    m.qmp.cmd("block-stream", job_id="stream", device="one", base_node="mid")
    assert "error" not in finish(m, "stream")
    snapshot(m, chain, "two", "one")
    m.qmp.cmd("block-commit", job_id="upper", device="two", top_node="one", base_node="mid")
    assert "error" not in finish(m, "upper")
    end(m, "lower")
    assert layers(m, "two") == ["two.qcow2", "mid.qcow2", "base.qcow2"]
    whole(disk, chain)


def export_writable(m, chain):
    """The lowest image, which others use."""
    file = {"driver": "file", "filename": str(chain.path["base"])}
    m.qmp.cmd("blockdev-reopen", options=[{"driver": "qcow2", "node-name": "base", "file": file, "backing": None}])
    if not os.path.exists(chain.tmp / "nbd"):
        m.qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(chain.tmp / "nbd")}})
    m.qmp.cmd("block-export-add", type="nbd", id="e", node_name="base", writable=True)


@pytest.mark.parametrize("first", ["stream", "commit"])
def test_down_to_what_a_commit_writes_to(machine, chain, first):
    """Whichever ends first: what the commit brings down is in the upper image or below it, as it was."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="commit", device="top", top_node="mid", base_node="base", speed=1)
    m.qmp.cmd("block-stream", job_id="stream", device="top", base_node="base", speed=1)
    for i, job in enumerate([first, "commit" if first == "stream" else "stream"]):
        m.qmp.cmd("block-job-set-speed", device=job, speed=0)
        assert "error" not in finish(m, job)
        assert disk.write(i * MB, b"w" * 4096) == 0
        chain.want[i * MB:i * MB + 4096] = b"w" * 4096
        for off in range(0, SIZE, SIZE // 16):
            assert disk.contents(off, 16384) == chain.want[off:off + 16384]
    assert layers(m) == ["top.qcow2", "base.qcow2"]
    with pytest.raises(QMPError, match="conflict.*unshared by node 'top'"):  # what was let in has gone
        export_writable(m, chain)
    m.quit()
    assert chain.info()["backing-filename"] == str(chain.path["base"])
    assert chain.contents() == chain.want


def test_what_a_job_is_about_is_not_for_others(machine, chain):
    """The error names the job, not only a node that it has made."""
    m, _ = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="commit", device="top", top_node="mid", base_node="base", speed=1)
    with pytest.raises(QMPError, match="conflict.*unshared by commit job 'commit'"):
        export_writable(m, chain)
    m.qmp.cmd("job-cancel", id="commit")
    m.qmp.event("BLOCK_JOB_CANCELLED", device="commit")
    m.qmp.cmd("block-stream", job_id="stream", device="mid", speed=1)
    with pytest.raises(QMPError, match="conflict.*unshared by node 'mid' of stream job 'stream'"):
        export_writable(m, chain)


def test_in_the_middle(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="mid")
    assert disk.write(0, b"x" * 4096) == 0
    chain.want[:4096] = b"x" * 4096
    assert "error" not in finish(m)
    assert layers(m) == ["top.qcow2", "mid.qcow2"]
    assert next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "mid")["ro"]
    m.quit()
    assert "backing-filename" not in chain.info("mid")
    assert chain.contents() == chain.want


def test_two_in_one_chain(machine, chain):
    m, _ = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="a", device="mid", speed=16 * MB)
    m.qmp.cmd("block-stream", job_id="b", device="top", base_node="mid")
    assert "error" not in finish(m, "b") and "error" not in finish(m, "a")
    m.quit()
    assert chain.contents() == chain.want


def test_below_a_live_copy(machine, chain, tmp_path):
    target = tmp_path / "copy.qcow2"
    img("create", "-q", "-f", "qcow2", target, SIZE)
    m, disk = start(machine, chain)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="copy", file={"driver": "file", "filename": str(target)})
    m.qmp.cmd("blockdev-mirror", job_id="c", device="top", target="copy", sync="full", speed=16 * MB)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=16 * MB)
    assert disk.write(MB, b"y" * 4096) == 0
    chain.want[MB:MB + 4096] = b"y" * 4096
    m.qmp.event("BLOCK_JOB_READY", device="c")
    assert "error" not in finish(m)
    m.qmp.cmd("job-complete", id="c")
    assert "error" not in finish(m, "c")
    m.quit()
    assert chain.contents() == chain.want
    img("compare", "-q", "-f", "qcow2", "-F", "qcow2", chain.path["top"], target)


def test_nothing_is_stored_for_what_nobody_holds(machine, tmp_path):
    base, top = tmp_path / "b.qcow2", tmp_path / "t.qcow2"
    img("create", "-q", "-f", "qcow2", base, "1T")
    subprocess.run([program("sterna-io"), "-c", "write -P 7 500G 1M", base], check=True, stdout=subprocess.DEVNULL)
    img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    m = machine("-blockdev", f"driver=qcow2,node-name=top,file.driver=file,file.filename={top}")
    begin = m.cpu_seconds()
    m.qmp.cmd("block-stream", job_id="s", device="top")
    assert "error" not in finish(m)
    assert m.cpu_seconds() - begin < 2
    m.quit()
    assert os.stat(top).st_blocks * 512 < 2 * MB
    img("compare", "-q", "-f", "qcow2", "-F", "qcow2", base, top)


def test_killed_and_done_again(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=MB // 2)
    assert disk.write(0, b"z" * 4096) == 0 and disk.flush() == 0
    chain.want[:4096] = b"z" * 4096
    end = time.monotonic() + 60
    while m.qmp.cmd("query-jobs")[0]["current-progress"] < SIZE // 4 and time.monotonic() < end:
        time.sleep(0.01)
    m.process.kill()
    m.process.wait()
    os.unlink(chain.tmp / "qtest.sock")
    m, _ = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top")
    assert "error" not in finish(m)
    m.quit()
    img("check", "-q", chain.path["top"])
    assert chain.contents() == chain.want


def test_cancelled(machine, chain):
    m, _ = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=MB)
    m.qmp.cmd("block-job-cancel", device="s")
    assert m.qmp.event("BLOCK_JOB_CANCELLED", device="s")["data"]["type"] == "stream"
    assert layers(m) == ["top.qcow2", "mid.qcow2", "base.qcow2"]
    m.quit()
    assert chain.info()["backing-filename"] == "mid.qcow2"
    assert chain.contents() == chain.want


@pytest.mark.parametrize("policy", ["report", "ignore", "stop"])
def test_errors(machine, tmp_path, policy):
    base, top = tmp_path / "b.raw", tmp_path / "t.qcow2"
    data = os.urandom(4 * MB)
    base.write_bytes(data)
    img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    node = {"driver": "raw", "node-name": "b", "read-only": True,
            "file": {"driver": "blkdebug", "image": {"driver": "file", "filename": str(base)},
                     "inject-error": [{"event": "none", "iotype": "read", "sector": 3 * MB // 512, "errno": 5, "once": policy == "stop"}]}}
    m = machine("-blockdev", json.dumps(node), "-blockdev", f"driver=qcow2,node-name=top,backing=b,file.driver=file,file.filename={top}")
    m.qmp.cmd("block-stream", job_id="s", device="top", on_error=policy)
    error = m.qmp.event("BLOCK_JOB_ERROR", device="s")["data"]
    assert error == {"device": "s", "operation": "read", "action": policy}
    if policy == "stop":
        assert m.qmp.cmd("query-block-jobs")[0]["io-status"] == "failed"
        m.qmp.cmd("block-job-resume", device="s")
    done = finish(m)
    assert done.get("error") == (None if policy == "stop" else "Input/output error")
    m.quit()
    info = json.loads(img("info", "--output=json", top))
    assert ("backing-filename" in info) == (policy != "stop")
    assert img("convert", "-f", "qcow2", "-O", "raw", top, tmp_path / "o") == "" and (tmp_path / "o").read_bytes() == data


def test_step_by_step(machine, chain):
    m, _ = start(machine, chain)
    at, steps = 0, 0
    while at < SIZE:
        got = m.qmp.cmd("block-stream-step", device="top", offset=at)
        assert got["size"] == SIZE and at < got["offset"] <= SIZE
        at, steps = got["offset"], steps + 1
    assert steps > 8
    assert m.qmp.hmp("stream top 0").strip() == f"{SIZE} of {SIZE}"
    assert layers(m) == ["top.qcow2", "mid.qcow2", "base.qcow2"]
    m.quit()
    os.rename(chain.path["mid"], chain.path["mid"].with_suffix(".away"))
    img("rebase", "-u", "-f", "qcow2", "-b", "", chain.path["top"])
    assert chain.contents() == chain.want


def test_waits_for_an_idle_guest(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("block-stream", job_id="s", device="top", idle_grace=1000)
    end, job = time.monotonic() + 60, {}
    while job.get("wait-reason") != "waits for the guest to be idle":
        assert disk.write(0, b"q" * 512) == 0 and time.monotonic() < end, job
        job = m.qmp.cmd("query-jobs")[0]
    chain.want[:512] = b"q" * 512
    assert job["current-progress"] < SIZE
    assert "error" not in finish(m)
    m.quit()
    assert chain.contents() == chain.want


def test_refused(machine, chain):
    m, _ = start(machine, chain)
    path = str(chain.tmp / "ro.qcow2")
    img("create", "-q", "-f", "qcow2", "-b", chain.path["mid"], "-F", "qcow2", path)
    file = {"driver": "file", "filename": path, "read-only": True}  # said of the file, not only of the image
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="ro", read_only=True, backing="mid", file=file)
    for args, text in (
            ({"device": "none"}, "Cannot find device='none' nor node-name='none'"),
            ({"device": "ro", "base-node": "base"}, "Block node is read-only"),
            ({"device": "top", "base": "x"}, "Can't find 'x' in the backing chain"),
            ({"device": "top", "base": "x", "base-node": "base"}, "'base' and 'base-node' cannot be specified at the same time"),
            ({"device": "top", "base": "x", "bottom": "base"}, "'base' and 'bottom' cannot be specified at the same time"),
            ({"device": "top", "bottom": "mid", "base-node": "base"}, "'bottom' and 'base-node' cannot be specified at the same time"),
            ({"device": "mid", "base-node": "top"}, "Node 'top' is not a backing image of 'mid'"),
            ({"device": "mid", "bottom": "top"}, "Node 'top' is not in a chain starting from 'mid'"),
            ({"device": "top", "backing-file": "x"}, "backing file specified, but streaming the entire chain"),
            ({"device": "top", "speed": -1}, "Parameter 'speed' expects a non-negative value")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("block-stream", args={"job-id": "s", **args})
        assert e.value.desc == text
    with pytest.raises(QMPError, match="is past the end of node 'top'"):
        m.qmp.cmd("block-stream-step", device="top", offset=SIZE + 1)
    assert m.qmp.cmd("query-jobs") == []
    m.quit()
    assert chain.contents() == chain.want


def test_what_people_are_shown_meanwhile(machine, chain):
    """Filters of jobs that were given no name are not what the disk is on; that of a backup is, as in QEMU."""
    m, _ = start(machine, chain)
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="target", size=SIZE)

    def shown():
        disk, stats = m.qmp.cmd("query-block")[0]["inserted"], m.qmp.cmd("query-blockstats")[0]
        return disk["node-name"], disk["drv"], stats["node-name"], disk["file"]

    path = str(chain.path["top"])
    for command, args in (("blockdev-mirror", {"target": "target", "sync": "full"}), ("block-stream", {}), ("block-commit", {}),
                          ("blockdev-backup", {"target": "target", "sync": "full"})):
        for name in (None, "filter"):
            m.qmp.cmd(command, args={"job-id": "s", "device": "top", "speed": 65536, **args, **({"filter-node-name": name} if name else {})})
            node, drv, stats, file = shown()
            if name or command == "blockdev-backup":
                assert node == stats == (name or node) != "top" and drv in ("mirror_top", "copy-on-read", "copy-before-write")
                assert file == path or drv == "copy-on-read"
            else:
                assert (node, drv, stats, file) == ("top", "qcow2", "top", path)
            m.qmp.cmd("job-cancel", id="s")
            m.qmp.event("BLOCK_JOB_CANCELLED", device="s")
            m.qmp.event("JOB_STATUS_CHANGE", id="s", status="null")
    assert shown() == ("top", "qcow2", "top", path)
