# SPDX-License-Identifier: BSD-2-Clause
"""External snapshots: a layer above a disk, while a driver in place of a guest writes and jobs run."""
import json, os, shutil, subprocess, time

import pytest
from chain import MB, SIZE, Chain, finish, img, layers, start
from qmp import QMPError


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


def scribble(chain, disk, n=10):
    for _ in range(n):
        off = chain.random.randrange(0, SIZE // 4096) * 4096
        data = bytes([chain.random.randrange(256)]) * 4096
        assert disk.write(off, data) == 0
        chain.want[off:off + 4096] = data


def raw(path, tmp):
    img("convert", "-f", "qcow2", "-O", "raw", path, tmp / "out.raw")
    return (tmp / "out.raw").read_bytes()


def inserted(m):
    return m.qmp.cmd("query-block")[0]["inserted"]


def snapshot(m, chain, name="over", by="node-name", **args):
    path = chain.tmp / f"{name}.qcow2"
    if by == "node-name":
        args["node-name"] = "top"
    else:
        args["device"] = "disk0"
    m.qmp.cmd("blockdev-snapshot-sync", args={"snapshot-file": str(path), "snapshot-node-name": name, **args})
    return path


@pytest.mark.parametrize("by", ["node-name", "device"])
def test_what_it_held_stays(machine, chain, by):
    m, disk = start(machine, chain)
    scribble(chain, disk)
    then = bytes(chain.want)
    path = snapshot(m, chain, by=by)
    scribble(chain, disk)
    assert inserted(m)["node-name"] == "over" and layers(m, "over") == ["over.qcow2", "top.qcow2", "mid.qcow2", "base.qcow2"]
    assert {n["node-name"]: n["ro"] for n in m.qmp.cmd("query-named-block-nodes")}["top"]
    assert chain.contents() == then  # the file is not locked against others any more
    assert disk.flush() == 0
    m.quit()
    assert raw(path, chain.tmp) == chain.want and chain.contents() == then
    info = json.loads(img("info", "--output=json", path))
    assert (info["backing-filename"], info["backing-filename-format"]) == (str(chain.path["top"]), "qcow2")


def test_existing_images(machine, chain):
    m, disk = start(machine, chain)
    for name, backing in (("a", "top"), ("b", "a"), ("c", "b")):
        img("create", "-q", "-f", "qcow2", "-u", "-b", f"{backing}.qcow2", "-F", "qcow2", chain.tmp / f"{name}.qcow2", SIZE)
    snapshot(m, chain, "a", mode="existing")
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="b", backing=None, file={"driver": "file", "filename": str(chain.tmp / "b.qcow2")})
    m.qmp.cmd("blockdev-snapshot", node="a", overlay="b")
    scribble(chain, disk)
    assert m.qmp.hmp(f"snapshot_blkdev -n disk0 {chain.tmp}/c.qcow2 qcow2") == ""
    assert m.qmp.hmp(f"snapshot_blkdev disk0 {chain.tmp}/d.qcow2") == ""
    scribble(chain, disk)
    assert layers(m, inserted(m)["node-name"]) == [f"{n}.qcow2" for n in ("d", "c", "b", "a", "top", "mid", "base")]
    assert m.qmp.hmp("snapshot_blkdev disk0") == "Error: Parameter 'snapshot-file' is missing\n"
    m.quit()
    assert raw(chain.tmp / "d.qcow2", chain.tmp) == chain.want


def test_two_in_one_transaction(machine, chain):
    m, disk = start(machine, chain)
    scribble(chain, disk)
    actions = [{"type": "blockdev-snapshot-sync", "data": {"device": "disk0", "snapshot-file": str(chain.tmp / f"{n}.qcow2")}}
               for n in ("one", "two")]
    m.qmp.cmd("transaction", actions=actions)
    scribble(chain, disk)
    m.quit()
    assert raw(chain.tmp / "two.qcow2", chain.tmp) == chain.want
    assert json.loads(img("info", "--output=json", chain.tmp / "two.qcow2"))["backing-filename"] == str(chain.tmp / "one.qcow2")


@pytest.mark.parametrize("job", ["mirror", "block_copy", "backup", "stream", "commit"])
def test_while_a_job_runs(machine, chain, job):
    """Started before the snapshot, of the image by its name, and ended after it (of the disk: test_matrix.py)."""
    m, disk = start(machine, chain)
    target = chain.tmp / "t.qcow2"
    img("create", "-q", "-f", "qcow2", target, SIZE)
    if job != "block_copy":
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name="t", file={"driver": "file", "filename": str(target)})
    scribble(chain, disk)
    then = bytes(chain.want)
    slow = {"speed": 1}
    start_job = {
        "mirror": lambda: m.qmp.cmd("blockdev-mirror", job_id="j", device="disk0", target="t", sync="full", **slow),
        "block_copy": lambda: m.qmp.cmd("block_copy", args={"device": "disk0", "filename": str(target),
                                                            "commit_filename": str(chain.tmp / "commit"), **slow}),
        "backup": lambda: m.qmp.cmd("blockdev-backup", job_id="j", device="disk0", target="t", sync="full", **slow),
        "stream": lambda: m.qmp.cmd("block-stream", job_id="j", device="disk0", **slow),
        "commit": lambda: m.qmp.cmd("block-commit", job_id="j", device="disk0", **slow)}
    start_job[job]()
    path = snapshot(m, chain)
    scribble(chain, disk)
    name = m.qmp.cmd("query-jobs")[0]["id"]
    m.qmp.cmd("block-job-set-speed", device=name, speed=0)
    if job in ("mirror", "commit"):
        m.qmp.event("BLOCK_JOB_READY", device=name)
        scribble(chain, disk)
        m.qmp.cmd("job-complete", id=name)
    assert "error" not in finish(m, name)
    scribble(chain, disk)
    want = {"mirror": ["t.qcow2"], "block_copy": ["t.qcow2"], "commit": ["over.qcow2", "base.qcow2"], "stream": ["over.qcow2", "top.qcow2"],
            "backup": ["over.qcow2", "top.qcow2", "mid.qcow2", "base.qcow2"]}[job]
    assert layers(m, inserted(m)["node-name"]) == want
    assert disk.contents(0, 65536) == bytes(chain.want[:65536])
    assert m.quit()[0] == 0
    if job == "commit":
        for gone in ("top", "mid"):
            os.unlink(chain.path[gone])
    assert raw(target if want == ["t.qcow2"] else path, chain.tmp) == chain.want
    if job == "backup":
        assert raw(target, chain.tmp) == then
    if job == "stream":
        assert chain.contents() == then


def test_a_job_s_target(machine, chain):
    """A snapshot of what a mirror copies to: the copy goes on into the new layer, and the guest ends up there."""
    m, disk = start(machine, chain)
    img("create", "-q", "-f", "qcow2", chain.tmp / "t.qcow2", SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="t", file={"driver": "file", "filename": str(chain.tmp / "t.qcow2")})
    m.qmp.cmd("blockdev-mirror", job_id="j", device="disk0", target="t", sync="full", speed=MB)
    m.qmp.cmd("blockdev-snapshot-sync", args={"node-name": "t", "snapshot-node-name": "over", "snapshot-file": str(chain.tmp / "over.qcow2")})
    m.qmp.cmd("block-job-set-speed", device="j", speed=0)
    scribble(chain, disk)
    m.qmp.event("BLOCK_JOB_READY", device="j")
    m.qmp.cmd("job-complete", id="j")
    assert "error" not in finish(m, "j")
    scribble(chain, disk)
    assert inserted(m)["node-name"] == "over"
    m.quit()
    assert raw(chain.tmp / "over.qcow2", chain.tmp) == chain.want


def test_refused(machine, chain):
    m, disk = start(machine, chain)
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="null", size=SIZE)
    m.qmp.cmd("blockdev-add", driver="raw", node_name="raw", file={"driver": "null-co", "size": SIZE})
    file = str(chain.tmp / "s.qcow2")
    for name, below in (("idle", None), ("over-idle", "idle")):
        img("create", "-q", "-f", "qcow2", chain.tmp / name, SIZE)
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": str(chain.tmp / name)}, backing=below)
    for args, text in (
            ({}, "Cannot find device='' nor node-name=''"),
            ({"device": "none"}, "Cannot find device='none' nor node-name=''"),
            ({"node-name": "top"}, "New overlay node-name missing"),
            ({"node-name": "top", "snapshot-node-name": "mid"}, "New overlay node-name already in use"),
            ({"node-name": "top", "snapshot-node-name": "!x"}, "Invalid node-name: '!x'"),
            ({"device": "disk0", "format": "zzz"}, "Unknown file format 'zzz'"),
            ({"device": "disk0", "format": "zzz", "mode": "existing"}, "Unknown file format 'zzz'"),
            ({"device": "disk0", "format": "raw"}, "Backing file not supported for file format 'raw'"),
            ({"device": "disk0", "snapshot-file": "/nope/s"}, "Could not create '/nope/s': No such file or directory"),
            ({"device": "disk0", "mode": "existing"}, f"Could not open '{file}': No such file or directory"),
            ({"device": "disk0", "snapshot-file": str(chain.path["top"])}, "Failed to get \"write\" lock"),
            ({"node-name": "base", "snapshot-node-name": "s"}, "Node 'base' is busy: node is used as backing hd of 'mid'")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("blockdev-snapshot-sync", args={"snapshot-file": file, **args})
        assert e.value.desc.split("\n")[0] == text
        assert not os.path.exists(file)
    for node, overlay, text in (
            ("top", "none", "Cannot find device='none' nor node-name='none'"),
            ("none", "null", "Cannot find device='none' nor node-name='none'"),
            ("top", "top", "The overlay is already in use"),
            ("top", "mid", "The overlay is already in use"),
            ("over-idle", "over-idle", "The overlay already has a backing image"),
            ("idle", "idle", "Node 'idle' is busy: node is used as backing hd of 'over-idle'"),
            ("over-idle", "idle", "Making 'over-idle' a backing child of 'idle' would create a cycle"),
            ("base", "null", "Node 'base' is busy: node is used as backing hd of 'mid'"),
            ("top", "raw", "The overlay does not support backing images")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd("blockdev-snapshot", node=node, overlay=overlay)
        assert e.value.desc == text
    assert layers(m) == ["top.qcow2", "mid.qcow2", "base.qcow2"] and disk.write(0, b"x" * 512) == 0


# --- inside of images ---------------------------------------------------------------------------------------------------

def snapshots(m):
    return [(s["id"], s["name"]) for s in inserted(m)["image"].get("snapshots", [])]


def test_inside(machine, chain):
    m, disk = start(machine, chain)
    scribble(chain, disk)
    then = bytes(chain.want)
    m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name="one")
    scribble(chain, disk)
    assert m.qmp.hmp("snapshot_blkdev_internal top two") == ""
    assert snapshots(m) == [("1", "one"), ("2", "two")]
    top = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "top")
    assert [s["name"] for s in top["image"]["snapshots"]] == ["one", "two"]
    scribble(chain, disk)
    assert m.qmp.hmp("snapshot_delete_blkdev_internal disk0 two 1") == \
        "Error: Snapshot with id '1' and name 'two' does not exist on device 'disk0'\n"
    gone = m.qmp.cmd("blockdev-snapshot-delete-internal-sync", device="disk0", id="2")
    assert (gone["id"], gone["name"], gone["vm-state-size"]) == ("2", "two", 0) and gone["date-sec"] > 0
    assert snapshots(m) == [("1", "one")]
    assert disk.flush() == 0
    m.quit()
    img("check", "-q", chain.path["top"])
    assert chain.contents() == chain.want
    img("snapshot", "-a", "one", chain.path["top"])
    assert chain.contents() == then


def test_inside_while_jobs_run(machine, chain):
    """Beside copies; a commit would take away what it needs."""
    m, disk = start(machine, chain)
    for n in ("t", "u"):
        img("create", "-q", "-f", "qcow2", chain.tmp / f"{n}.qcow2", SIZE)
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name=n, file={"driver": "file", "filename": str(chain.tmp / f"{n}.qcow2")})
    first = bytes(chain.want)
    m.qmp.cmd("blockdev-backup", job_id="b", device="disk0", target="t", sync="full", speed=65536)
    m.qmp.cmd("blockdev-mirror", job_id="m", device="disk0", target="u", sync="full", speed=65536)
    scribble(chain, disk)
    then = bytes(chain.want)
    m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name="one")
    scribble(chain, disk)
    with pytest.raises(QMPError, match=r"Node 'top' has internal snapshots \(snapshot 'one'\), which need the images below it.*block-stream"):
        m.qmp.cmd("block-commit", job_id="x", device="disk0")
    for job in ("b", "m"):
        m.qmp.cmd("block-job-set-speed", device=job, speed=0)
    assert "error" not in finish(m, "b")
    m.qmp.event("BLOCK_JOB_READY", device="m")
    m.qmp.cmd("job-complete", id="m")
    assert "error" not in finish(m, "m")
    scribble(chain, disk)
    m.quit()
    assert raw(chain.tmp / "t.qcow2", chain.tmp) == first and raw(chain.tmp / "u.qcow2", chain.tmp) == chain.want
    img("snapshot", "-a", "one", chain.path["top"])
    assert chain.contents() == then


def waits(m, text, job="j"):
    end = time.monotonic() + 60
    while text not in next(j for j in m.qmp.cmd("query-jobs") if j["id"] == job).get("wait-reason", ""):
        assert time.monotonic() < end


def holds(chain, then, image="top"):
    """What snapshots inside of an image of the chain are."""
    for name, want in then.items():
        img("convert", "-U", "-f", "qcow2", "-O", "raw", "-l", f"snapshot.name={name}", chain.path[image], chain.tmp / "held.raw")
        assert (chain.tmp / "held.raw").read_bytes() == want, name
    img("check", "-q", "-U", chain.path[image])


def held(m, chain, then, name="one"):
    """The snapshot is what was taken, as long as it is there."""
    img("convert", "-U", "-f", "qcow2", "-O", "raw", "-l", f"snapshot.name={name}", chain.path["top"], chain.tmp / "held.raw")
    assert (chain.tmp / "held.raw").read_bytes() == then
    m.qmp.cmd("blockdev-snapshot-delete-internal-sync", device="disk0", name=name)


def test_inside_while_it_is_committed(machine, chain):
    """Of a commit that is ready, and writes to both: from the instant on nothing reaches the images below."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="j", device="disk0")
    m.qmp.event("BLOCK_JOB_READY", device="j")
    for name in ("one", "two"):
        scribble(chain, disk)
        then = bytes(chain.want)
        m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name=name)
        scribble(chain, disk, 40)
        waits(m, f"snapshot '{name}'")
        if name == "two":
            m.qmp.cmd("job-complete", id="j")
        assert disk.flush() == 0
        held(m, chain, then, name)
    assert "error" not in finish(m, "j")
    scribble(chain, disk)
    assert disk.flush() == 0
    m.quit()
    assert chain.contents("base") == chain.want


@pytest.mark.parametrize("how", ["", "extended_l2=on", "cluster_size=1M", "cluster_size=4k,compat=0.10"])
def test_inside_a_layer_that_is_committed(machine, chain, how):
    """In the middle of the chain, where the image is read-only: what is written over below is copied into the snapshots before."""
    if how:
        img("create", "-q", "-f", "qcow2", "-o", how, "-b", "base.qcow2", "-F", "qcow2", chain.path["mid"])
        chain.scribble("mid", SIZE)
    then = {}
    for name in ("old", "older"):
        then[name] = chain.contents("mid")
        img("snapshot", "-c", name, chain.path["mid"])
        chain.scribble("mid", SIZE)
    chain.want[:] = chain.contents()
    below = chain.contents("base")
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="j", device="disk0", top_node="mid", base_node="base")
    scribble(chain, disk)
    done = finish(m, "j")
    assert "error" not in done and done["len"] == done["offset"]
    assert disk.flush() == 0
    m.quit()
    assert chain.contents() == chain.want and chain.contents("base") != below
    holds(chain, then, "mid")


def test_inside_a_layer_without_room(machine, chain):
    """Its snapshot cannot get what it needs: nothing is written over."""
    then = {"old": chain.contents("mid")}
    img("snapshot", "-c", "old", chain.path["mid"])
    chain.scribble("mid", SIZE)
    chain.want[:] = chain.contents()
    below = chain.contents("base")
    words = chain.blockdev()
    file = {"driver": "blkdebug", "image": {"driver": "file", "filename": str(chain.path["mid"])}, "inject-error": [{"event": "none", "iotype": "write", "errno": 28}]}
    words[3] = json.dumps({**json.loads(words[3]), "file": file})
    m = machine("-machine", "virt", "-m", "128", *words, "-device", "virtio-blk-device,drive=top,id=disk0")
    m.qmp.cmd("block-commit", job_id="j", device="disk0", top_node="mid", base_node="base")
    assert "No space left" in finish(m, "j")["error"]
    m.quit()
    assert chain.contents("base") == below and chain.contents() == chain.want
    holds(chain, then, "mid")


def test_inside_what_ends(machine, chain):
    """A commit that waits for nothing but job-finalize: a snapshot waits for it, or is refused."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-commit", job_id="j", device="disk0", auto_finalize=False)
    m.qmp.event("BLOCK_JOB_READY", device="j")
    m.qmp.cmd("job-complete", id="j")
    m.qmp.event("BLOCK_JOB_PENDING", id="j")
    with pytest.raises(QMPError, match="Node 'top' is in use by commit job 'j', which is about to let go of images"):
        m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name="one")
    m.qmp.cmd("snapshot-save", job_id="s", tag="one", vmstate="top", devices=["top"])
    waits(m, "the end of a job", "s")
    scribble(chain, disk)
    m.qmp.cmd("job-finalize", id="j")
    assert "error" not in finish(m, "j")
    m.qmp.event("JOB_STATUS_CHANGE", id="s", status="concluded")
    assert disk.flush() == 0
    m.quit()
    assert chain.contents("base") == chain.want


@pytest.mark.parametrize("command", ["stream", "commit", "commit in the middle"])
def test_a_job_that_sees_to_snapshots_is_cancelled(machine, chain, command):
    image = "mid" if "middle" in command else "top"
    if image == "mid":
        then = {"one": chain.contents("mid")}
        img("snapshot", "-c", "one", chain.path["mid"])
    m, disk = start(machine, chain)
    args = {"top_node": "mid"} if image == "mid" else {}
    m.qmp.cmd(f"block-{command.split()[0]}", job_id="j", device="disk0", speed=1 if args else 65536, **args)
    scribble(chain, disk)
    if image == "top":
        then = {"one": bytes(chain.want)}
        m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name="one")
        m.qmp.cmd("block-job-set-speed", device="j", speed=1 if command == "stream" else 0)
    waits(m, "snapshot 'one'" if command == "commit" else "limited by its speed")
    scribble(chain, disk)
    m.qmp.cmd("job-cancel", id="j")
    m.qmp.event("BLOCK_JOB_CANCELLED")
    assert disk.flush() == 0
    m.quit()
    assert chain.contents() == chain.want
    holds(chain, then, image)


def alone(chain, names, base=None):
    """The top image, its snapshots too, in a place of its own: beside `base`, or nothing."""
    place = chain.tmp / "alone"
    place.mkdir()
    for n in ["top", *([base] if base else [])]:
        shutil.copy(chain.path[n], place)
    img("check", "-q", place / "top.qcow2")
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "check", "-q", place / "top.qcow2"], check=True)
    seen = {}
    for name in names:
        img("convert", "-f", "qcow2", "-O", "raw", "-l", f"snapshot.name={name}", place / "top.qcow2", place / "raw")
        seen[name] = (place / "raw").read_bytes()
    return seen


@pytest.mark.parametrize("how", ["all", "to a base", "version 2", "subclusters"])
def test_inside_what_is_filled(machine, chain, how):
    """A stream gives snapshots what they need of the images below: those of before, from its midst, and of when it only waits."""
    if how == "version 2":
        img("create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=4096", "-b", "mid.qcow2", "-F", "qcow2", chain.path["top"])
        chain.want[:] = chain.contents()
    elif how == "subclusters":
        img("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-b", "mid.qcow2", "-F", "qcow2", chain.path["top"])
        chain.scribble("top", SIZE)
        chain.want[:] = chain.contents()
    m, disk = start(machine, chain)
    then = {}

    def snapshot(name):
        scribble(chain, disk)
        then[name] = bytes(chain.want)
        m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name=name)
        scribble(chain, disk)

    snapshot("before")
    snapshot("again")
    base = {"base": str(chain.path["base"])} if how == "to a base" else {}
    m.qmp.cmd("block-stream", job_id="j", device="disk0", speed=1, auto_finalize=False, **base)
    snapshot("amid")
    m.qmp.cmd("snapshot-save", job_id="s", tag="machine", vmstate="top", devices=["top"])
    then["machine"] = bytes(chain.want)
    m.qmp.event("JOB_STATUS_CHANGE", id="s", status="concluded")
    scribble(chain, disk)
    m.qmp.cmd("blockdev-snapshot-delete-internal-sync", device="disk0", name="again")
    del then["again"]
    m.qmp.cmd("block-job-set-speed", device="j", speed=0)
    m.qmp.event("BLOCK_JOB_PENDING", id="j")
    snapshot("late")
    m.qmp.cmd("job-finalize", id="j")
    assert "error" not in finish(m, "j")
    assert layers(m) == ["top.qcow2", *(["base.qcow2"] if base else [])]
    snapshot("after")
    assert disk.flush() == 0
    m.quit()
    assert alone(chain, then, "base" if base else None) == then
    assert chain.contents() == chain.want


def test_a_stream_waits_for_a_save(machine, chain):
    """One that stands still in its midst: what it holds is complete only when it ends."""
    m, disk = start(machine, chain)
    m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name="before")
    then = {"before": bytes(chain.want)}
    status = lambda job: next(j for j in m.qmp.cmd("query-jobs") if j["id"] == job)["status"]
    for tag in (f"s{i}" for i in range(50)):  # until it was fast enough
        scribble(chain, disk)
        then[tag] = bytes(chain.want)
        m.qmp.cmd("snapshot-save", job_id=tag, tag=tag, vmstate="top", devices=["top"])
        try:
            m.qmp.cmd("job-pause", id=tag)
        except QMPError:
            continue
        end = time.monotonic() + 60
        while status(tag) not in ("paused", "concluded"):
            assert time.monotonic() < end
        if status(tag) == "paused" and "pause-ns" in next(j for j in m.qmp.cmd("query-jobs") if j["id"] == tag):
            break
        m.qmp.cmd("job-resume", id=tag) if status(tag) == "paused" else None
    else:
        pytest.skip("the machine is saved faster than it can be told to stand still")
    m.qmp.cmd("block-stream", job_id="j", device="disk0")
    waits(m, "is being made")
    scribble(chain, disk)
    m.qmp.cmd("job-resume", id=tag)
    assert "error" not in finish(m, "j")
    m.qmp.event("JOB_STATUS_CHANGE", id=tag, status="concluded")
    assert disk.flush() == 0
    m.quit()
    assert alone(chain, then) == then
    assert chain.contents() == chain.want


def test_inside_refused(machine, chain):
    m, _ = start(machine, chain)
    m.qmp.cmd("blockdev-add", driver="raw", node_name="raw", file={"driver": "null-co", "size": SIZE})
    img("create", "-q", "-f", "qcow2", chain.tmp / "r.qcow2", SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="ro", read_only=True, file={"driver": "file", "filename": str(chain.tmp / "r.qcow2")})
    m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk0", name="one")
    for command, args, text in (
            ("", {"device": "none", "name": "a"}, "Cannot find device='none' nor node-name='none'"),
            ("", {"device": "mid", "name": "a"}, "Need a root block node"),
            ("", {"device": "raw", "name": "a"}, "Block format 'raw' used by device 'raw' does not support internal snapshots"),
            ("", {"device": "ro", "name": "a"}, "Device 'ro' is read only"),
            ("", {"device": "disk0", "name": ""}, "Name is empty"),
            ("", {"device": "disk0", "name": "one"}, "Snapshot with name 'one' already exists on device 'disk0'"),
            ("delete-", {"device": "disk0"}, "Name or id must be provided"),
            ("delete-", {"device": "mid", "id": "1"}, "Need a root block node"),
            ("delete-", {"device": "raw", "name": "a"}, "Failed to get a snapshot list: Operation not supported"),
            ("delete-", {"device": "disk0", "id": "7"}, "Snapshot with id '7' and name 'null' does not exist on device 'disk0'")):
        with pytest.raises(QMPError) as e:
            m.qmp.cmd(f"blockdev-snapshot-{command}internal-sync", args=args)
        assert e.value.desc == text


def test_a_copy_gets_what_is_below_it_at_the_end(machine, tmp_path):
    """As managers finish a shallow copy: what the target's header names is opened and put below it before the switch."""
    for name in ("base", "source", "copy"):
        img("create", "-q", "-f", "qcow2", *([] if name == "base" else ["-b", tmp_path / "base", "-F", "qcow2"]), tmp_path / name, *([MB] if name == "base" else []))
    nodes = {n: {"driver": "qcow2", "node-name": n, "file": {"driver": "file", "filename": f"{tmp_path}/{n}"}} for n in ("source", "copy", "base")}
    m = machine("-blockdev", json.dumps({**nodes["source"], "backing": {k: v for k, v in nodes["base"].items() if k != "node-name"}}), "-blockdev",
                json.dumps({**nodes["copy"], "backing": None}), "-device", "virtio-scsi", "-device", "scsi-hd,id=hd0,drive=source", qtest=False)
    m.qmp.cmd("blockdev-mirror", job_id="j", device="source", target="copy", sync="top")
    m.qmp.event("BLOCK_JOB_READY")
    m.qmp.cmd("blockdev-add", args={**nodes["base"], "read-only": True})
    m.qmp.cmd("blockdev-snapshot", node="base", overlay="copy")
    m.qmp.cmd("job-complete", id="j")
    assert "error" not in finish(m, "j")
    disk = m.qmp.cmd("query-block")[0]
    assert disk["qdev"] == "hd0" and disk["inserted"]["node-name"] == "copy" and disk["inserted"]["backing_file"] == f"{tmp_path}/base"
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="other", size=MB)
    with pytest.raises(QMPError, match="The overlay is already in use"):
        m.qmp.cmd("blockdev-snapshot", node="other", overlay="copy")
