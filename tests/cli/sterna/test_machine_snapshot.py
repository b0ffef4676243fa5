# SPDX-License-Identifier: BSD-2-Clause
"""Snapshots of a machine with its disks: jobs, what they refuse, what is left of them, and kill -9 in the midst of them."""
import base64, json, os, random, shutil, signal, subprocess, threading, time

import pytest
from chain import MB, img
from machine import Machine
from qmp import QMPError
from qtest_disk import Disk
from sterna import program

SIZE = 8 * MB
KILLS = int(os.environ.get("STERNA_KILLS", 6))
SEED = int(os.environ.get("STERNA_TEST_SEED", 1))


class System:
    """Two disks with images, and a raw one that is written to as well; a driver in place of a guest for the first."""

    def __init__(self, start, tmp, *more, fresh=True, file=None, vars=True, **node):
        self.tmp = tmp
        self.path = {n: tmp / f"{n}.qcow2" for n in ("a", "b")}
        if fresh:
            for p in self.path.values():
                img("create", "-q", "-f", "qcow2", p, SIZE)
            (tmp / "vars.raw").write_bytes(bytes(MB))
        args = ["-machine", "virt", "-m", "16"]
        for n, p in self.path.items():
            inner = (file or {}).get(n, {"driver": "file", "filename": str(p)})
            args += ["-blockdev", json.dumps({"node-name": n, "driver": "qcow2", "file": inner, **node}), "-device", f"virtio-blk-device,drive={n},id=disk-{n},serial={'first' if n == 'a' else 'second'}"]
        if vars:
            args += ["-blockdev", json.dumps({"node-name": "vars", "driver": "raw", "file": {"driver": "file", "filename": str(tmp / "vars.raw")}}),
                     "-device", "virtio-blk-device,drive=vars,id=disk-vars"]
        self.m = start(*args, *more)
        self.disk = next(d for d in (Disk(self.m, i) for i in range(2 + vars)) if d.serial() == "first")
        self.jobs = 0

    def job(self, command, tag="t", devices=("a", "b"), wait=True, **args):
        """Runs one to its end: the text of its error or None."""
        self.jobs += 1
        name = f"j{self.jobs}"
        if command != "snapshot-delete":
            args["vmstate"] = args.get("vmstate", "a")
        self.m.qmp.cmd(command, job_id=name, tag=tag, devices=list(devices), **args)
        return self.end(name) if wait else name

    def end(self, name):
        self.m.qmp.event("JOB_STATUS_CHANGE", id=name, status="concluded")
        info = next(j for j in self.m.qmp.cmd("query-jobs") if j["id"] == name)
        self.m.qmp.cmd("job-dismiss", id=name)
        self.pause = info.get("pause-ns")
        if info["type"] == "snapshot-load":  # the driver, too, is where it was
            self.disk.count = int.from_bytes(self.disk.get(self.disk.avail + 2, 2), "little")
        return info.get("error")

    def snapshots(self, node="a"):
        image = next(n for n in self.m.qmp.cmd("query-named-block-nodes") if n["node-name"] == node)["image"]
        return {s["name"]: s for s in image.get("snapshots", [])}

    def fill(self, byte, off=0, n=64):
        assert self.disk.write(off, bytes([byte]) * n * 1024) == 0

    def byte(self, off=0):
        return self.disk.contents(off, 512)[0]


def check(path, leaks=False):
    tools = [program("sterna-img")] + (["qemu-img"] if shutil.which("qemu-img") else [])
    for tool in tools:
        end = time.monotonic() + 60  # the kernel may hold a dead program's locks until its last requests have ended
        while True:
            p = subprocess.run([tool, "check", "-q", str(path)], capture_output=True, text=True)
            if "lock" not in p.stderr or time.monotonic() > end:
                break
        assert p.returncode == 0 or (leaks and p.returncode == 3), f"{tool} {path}: {p.stdout[-2000:]}{p.stderr[-2000:]}"


@pytest.fixture
def system(machine, tmp_path):
    return lambda *args, **kw: System(machine, tmp_path, *args, **kw)


def test_save_load_delete(system):
    s = system()
    s.fill(1)
    assert s.job("snapshot-save") is None
    assert s.pause > 0
    s.fill(2)
    assert s.snapshots("a")["t"]["vm-state-size"] > 0 and s.snapshots("b")["t"]["vm-state-size"] == 0
    assert abs(s.snapshots("a")["t"]["date-sec"] - time.time()) < 60
    assert s.job("snapshot-load") is None
    assert s.byte() == 1
    s.fill(3)
    assert s.job("snapshot-save", tag="u", devices=["a"]) is None
    assert s.job("snapshot-load") is None
    assert s.byte() == 1
    assert s.job("snapshot-load", tag="u", devices=["a"], lazy=False) is None
    assert s.byte() == 3
    assert s.job("snapshot-delete") is None
    assert set(s.snapshots("a")) == {"u"} and not s.snapshots("b")
    s.m.quit()
    for p in s.path.values():
        check(p)


def test_refused(system):
    s = system()
    assert s.job("snapshot-save", devices=["a"]) is None
    for args, text in (
            (dict(), "Snapshot 't' already exists in one or more devices"),
            (dict(tag="n", devices=["a", "none"]), "No block device node 'none'"),
            (dict(tag="n", devices=["b"]), "vmstate block device 'a' does not exist"),
            (dict(tag="n", devices=[]), "vmstate block device 'a' does not exist"),
            (dict(tag="n", devices=["a", "vars"]), "Device 'vars' is writable but does not support snapshots"),
            (dict(tag=""), "Name is empty")):
        assert s.job("snapshot-save", **args) == text
    for command in ("snapshot-load", "snapshot-delete"):
        assert s.job(command) == "Snapshot 't' does not exist in one or more devices"
        assert s.job(command, tag="n", devices=["a"]) == "Snapshot 'n' does not exist in one or more devices"
    s.m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk-a", name="disk")
    assert s.job("snapshot-load", tag="disk", devices=["a"]) == "This is a disk-only snapshot. Revert to it  offline using qemu-img"
    assert set(s.snapshots("a")) == {"t", "disk"} and not s.snapshots("b")


def test_others_at_the_same_time(system):
    """A copy runs at the instant and goes on; a load has to wait until it is over."""
    s = system()
    s.fill(5)
    img("create", "-q", "-f", "qcow2", s.tmp / "copy.qcow2", SIZE)
    q = s.m.qmp
    q.cmd("blockdev-add", driver="qcow2", node_name="copy", file={"driver": "file", "filename": str(s.tmp / "copy.qcow2")})
    q.cmd("blockdev-mirror", job_id="m", device="disk-a", target="copy", sync="full")
    q.event("BLOCK_JOB_READY")
    assert s.job("snapshot-save") is None
    s.fill(6)
    assert s.job("snapshot-load") == "Node 'a' is in use by mirror job 'm': snapshot 't' cannot be loaded meanwhile; wait for the job's end, or cancel it"
    assert s.byte() == 6
    q.cmd("block-job-cancel", device="m", force=True)
    q.event("BLOCK_JOB_CANCELLED")
    assert s.job("snapshot-load") is None
    assert s.byte() == 5


@pytest.mark.parametrize("kind", ["mirror", "write-blocking mirror", "block_copy", "backup", "fleecing", "create"])
def test_beside_every_job(system, kind):
    """Saves and deletes while it is at work (streams and commits: test_matrix.py, test_snapshot.py); all hold what they should."""
    s = system()
    q, path = s.m.qmp.cmd, s.tmp / "target.raw"
    path.write_bytes(bytes(SIZE))
    file = {"driver": "file", "filename": str(path)}
    q("blockdev-add", driver="raw", node_name="t", file={"driver": "delay", "file": file, "write-latency": "50ms"} if kind == "create" else file)
    s.fill(1)
    slow = {"target": "t", "sync": "full", "speed": 1}
    if kind.endswith("mirror"):
        q("blockdev-mirror", job_id="m", device="disk-a", buf_size=65536, copy_mode="write-blocking" if "-" in kind else "background", **slow)
    elif kind == "block_copy":
        q("block_copy", device="disk-a", target="t", speed=1)
    elif kind == "backup":
        q("blockdev-backup", job_id="m", device="disk-a", x_perf={"max-chunk": 65536, "max-workers": 1}, **slow)
    elif kind == "fleecing":
        q("blockdev-backup", job_id="m", device="disk-a", target="t", sync="none", filter_node_name="cbw")
        q("blockdev-add", driver="snapshot-access", node_name="access", file="cbw")
    else:
        q("blockdev-create", job_id="m", options={"driver": "qcow2", "file": "t", "size": SIZE})
    s.fill(2)
    assert s.job("snapshot-save") is None
    s.fill(3)
    assert s.job("snapshot-save", tag="gone", parent="t") is None and s.job("snapshot-delete", tag="gone") is None
    job = "disk-a" if kind == "block_copy" else "m"
    if kind in ("mirror", "write-blocking mirror", "block_copy", "backup"):
        q("block-job-set-speed", device=job, speed=0)
    if kind.endswith("mirror"):
        s.m.qmp.event("BLOCK_JOB_READY", device=job)
        assert s.job("snapshot-save", tag="ready") is None
        q("block-job-cancel", device=job)
    elif kind == "fleecing":
        q("blockdev-del", node_name="access")
        q("block-job-cancel", device=job)
    if kind == "create":
        assert s.end(job) is None
    else:
        s.m.qmp.event("BLOCK_JOB_CANCELLED" if kind == "fleecing" else "BLOCK_JOB_COMPLETED", device=job)
        assert path.read_bytes()[0] == {"backup": 1, "fleecing": 1}.get(kind, 3)
    if kind != "block_copy":  # the disk is another one then
        assert s.job("snapshot-load") is None and s.byte() == 2
    s.m.quit()
    for p in s.path.values():
        check(p)


def test_beside_amend(machine, tmp_path):
    """Keys change while the machine is saved into the image: whichever is first, both do what they should."""
    path = tmp_path / "e.qcow2"
    keys = [f"secret,id=pw{i},data=Sesame{i}" for i in range(2)]
    img("create", "-q", "-f", "qcow2", "--object", keys[0], "-o", "encrypt.format=luks,encrypt.key-secret=pw0,encrypt.iter-time=10", path, MB)
    node = {"driver": "qcow2", "node-name": "e", "file": {"driver": "file", "filename": str(path)}, "encrypt": {"format": "luks", "key-secret": "pw0"}}
    m = machine("-machine", "virt", "-m", "16", *(w for k in keys for w in ("-object", k)), "-blockdev", json.dumps(node), "-device", "virtio-blk-device,drive=e")

    def ends(name):
        m.qmp.event("JOB_STATUS_CHANGE", id=name, status="concluded")
        assert "error" not in next(j for j in m.qmp.cmd("query-jobs") if j["id"] == name)

    save = lambda tag: m.qmp.cmd("snapshot-save", job_id=tag, tag=tag, vmstate="e", devices=["e"])
    amend = lambda name, **kw: m.qmp.cmd("x-blockdev-amend", job_id=name, node_name="e", options={"driver": "qcow2", "encrypt": {"format": "luks", **kw}})
    save("one")
    amend("add", **{"state": "active", "new-secret": "pw1", "iter-time": 10})
    ends("one"), ends("add")
    amend("remove", **{"state": "inactive", "old-secret": "pw0"})
    save("two")
    ends("remove"), ends("two")
    m.quit()
    words = ["--object", keys[1], "--image-opts", f"driver=qcow2,file.filename={path},encrypt.key-secret=pw1"]
    assert "No errors" in img("check", *words) and " two " in img("info", *words)


def test_transaction(system):
    s = system()
    q = s.m.qmp
    s.fill(1)
    actions = [{"type": "machine-snapshot", "data": {"tag": "t", "vmstate": "a"}},
               {"type": "blockdev-snapshot-internal-sync", "data": {"device": "disk-b", "name": "t"}},
               {"type": "blockdev-snapshot-sync", "data": {"node-name": "vars", "snapshot-file": str(s.tmp / "vars.qcow2"), "snapshot-node-name": "over"}}]
    with pytest.raises(QMPError):
        q.cmd("transaction", actions=[*actions, {"type": "abort", "data": {}}])
    assert not s.snapshots("a") and not s.snapshots("b") and not q.cmd("query-jobs")
    q.cmd("transaction", actions=actions)
    s.fill(2)
    assert s.end("t") is None and s.pause > 0
    assert s.snapshots("a")["t"]["vm-state-size"] and "t" in s.snapshots("b")
    assert s.job("snapshot-load") is None
    assert s.byte() == 1
    with pytest.raises(QMPError, match="Either 'tag' and 'vmstate' or 'file'"):
        q.cmd("machine-snapshot", tag="x")


def test_transaction_of_slow_disks(system, tmp_path):
    """The guest stands still for the instant alone, and what it has under way then waits for nobody."""
    for n in "ab":
        img("create", "-q", "-f", "qcow2", tmp_path / f"{n}.qcow2", SIZE)
    (tmp_path / "vars.raw").write_bytes(bytes(MB))
    slow = {"driver": "delay", "file": {"driver": "file", "filename": str(tmp_path / "b.qcow2")}, "flush-latency": "1s"}
    s = system(fresh=False, file={"b": slow})
    stamp = lambda n: n.to_bytes(8, "little") * 64
    word, n = 0x80900000, 0

    def transaction(tag, done, errors):
        try:
            s.m.qmp.cmd("transaction", actions=[{"type": "blockdev-snapshot-internal-sync", "data": {"device": "disk-b", "name": tag}},
                                                {"type": "machine-snapshot", "data": {"tag": tag, "vmstate": "a"}}])
        except QMPError as e:
            errors.append(e)
        done.set()

    for tag in (f"t{i}" for i in range(5)):  # who does not wait is quick once, though the machine is busy
        done, errors = threading.Event(), []
        t = threading.Thread(target=transaction, args=(tag, done, errors))
        t.start()
        while not done.is_set():
            n += 1
            s.disk.put(word, stamp(n)[:8])
            assert s.disk.write(0, stamp(n)) == 0
        t.join()
        assert not errors and s.end(tag) is None and s.pause > 0
        if s.pause < 1e9:
            break
    assert s.pause < 1e9
    s.fill(255)
    assert s.job("snapshot-load", tag=tag) is None
    then = int.from_bytes(s.disk.get(word, 8), "little")
    assert int.from_bytes(s.disk.contents(0, 8 * 64)[:8], "little") in (then, then - 1)
    s.m.process.kill()


def test_human_monitor(system, tmp_path):
    s = system(vars=False)
    hmp = lambda line: s.m.qmp.cmd("human-monitor-command", command_line=line)
    s.m.qmp.cmd("blockdev-add", driver="null-co", node_name="vars")
    assert "Device 'vars' is writable but does not support snapshots" in hmp("savevm t")
    s.m.qmp.cmd("blockdev-del", node_name="vars")
    assert hmp("info snapshots") == "There is no snapshot available.\r\n"
    s.fill(7)
    assert hmp("savevm t") == ""
    assert "already exists" in hmp("savevm t")
    s.m.qmp.cmd("blockdev-snapshot-internal-sync", device="disk-b", name="half")
    s.fill(8)
    lines = hmp("info snapshots").split("\r\n")
    assert lines[0] == "List of snapshots present on all disks:"
    assert lines[1] == "ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT"
    assert lines[2].split()[:2] == ["--", "t"] and lines[2].endswith("         --")
    assert lines[4] == "List of partial (non-loadable) snapshots on 'b':" and lines[6].split()[1] == "half"
    assert hmp("loadvm t") == ""
    s.disk.count = int.from_bytes(s.disk.get(s.disk.avail + 2, 2), "little")
    assert s.byte() == 7
    assert "does not exist" in hmp("loadvm half")
    assert hmp("delvm t") == "" and not s.snapshots("a")


def test_loadvm_option(machine, tmp_path):
    path = tmp_path / "a.qcow2"
    img("create", "-q", "-f", "qcow2", path, SIZE)

    def again(m):
        m.quit()
        (tmp_path / "qtest.sock").unlink()
    args = ["-machine", "virt", "-m", "16", "-drive", f"file={path},if=none,id=a,format=qcow2", "-device", "virtio-blk-device,drive=a"]
    m = machine(*args)
    assert m.qmp.cmd("human-monitor-command", command_line="savevm t") == ""
    again(m)
    m = machine(*args, "-loadvm", "t")
    assert m.qmp.cmd("query-status")["status"] == "running"
    again(m)
    m = machine(*args, "-loadvm", "t", "-S")
    assert not m.qmp.cmd("query-status")["running"]
    m.quit()
    p = subprocess.run([program("sterna"), "-nodefaults", "-display", "none", *args, "-loadvm", "u"], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and p.stderr.endswith("sterna: Snapshot 'u' does not exist in one or more devices\n")
    for other, how in ((["-incoming", "defer"], "incoming"), (["-preconfig"], "preconfig")):
        p = subprocess.run([program("sterna"), "-nodefaults", "-display", "none", *args, "-loadvm", "t", *other], capture_output=True, text=True, timeout=60)
        assert p.returncode == 1 and p.stderr == f"sterna: '{how}' and 'loadvm' options are mutually exclusive\n"


def test_exported_nodes(machine, tmp_path):
    """Disks without a device: what an export writes to belongs to the machine, a backing file that nobody writes to does not."""
    for name, args in (("base", []), ("top", ["-b", tmp_path / "base", "-F", "qcow2"]), ("own", [])):
        img("create", "-q", "-f", "qcow2", *args, tmp_path / name, "1M")
    nodes = [("-blockdev", f"file,filename={tmp_path / n},node-name={n}-file") for n in ("base", "top", "own")]
    m = machine("-machine", "virt", "-m", "16", *nodes[0], "-blockdev", "qcow2,file=base-file,node-name=base", *nodes[1],
                "-blockdev", "qcow2,file=top-file,backing=base,node-name=top", *nodes[2], "-blockdev", "qcow2,file=own-file,node-name=own")
    m.qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(tmp_path / "nbd")}})
    m.qmp.cmd("block-export-add", type="nbd", id="own", node_name="own", writable=True)
    assert m.qmp.hmp("savevm one") == ""
    m.qmp.cmd("block-export-add", type="nbd", id="base", node_name="base", writable=True)
    assert m.qmp.hmp("savevm two") == "" and m.qmp.hmp("loadvm two") == ""
    m.quit()
    for name, tags in (("base", ["two"]), ("top", ["one", "two"]), ("own", ["one", "two"])):
        info = json.loads(img("info", "--output=json", tmp_path / name))
        assert [s["name"] for s in info.get("snapshots", [])] == tags, name


def broken(path, **rule):
    return {"driver": "blkdebug", "image": {"driver": "file", "filename": str(path)}, "inject-error": [rule]}


def test_disk_full(system, tmp_path):
    """In mid-save: an error, nothing of it left, the guest goes on."""
    img("create", "-q", "-f", "qcow2", tmp_path / "a.qcow2", SIZE)
    img("create", "-q", "-f", "qcow2", tmp_path / "b.qcow2", SIZE)
    (tmp_path / "vars.raw").write_bytes(bytes(MB))
    s = system(fresh=False, file={"a": broken(tmp_path / "a.qcow2", event="vmstate_save", errno=28, iotype="write", once=True)})
    s.fill(1)
    assert "No space left on device" in s.job("snapshot-save")
    assert not s.snapshots("a") and not s.snapshots("b")
    s.fill(2)
    assert s.byte() == 2
    assert s.job("snapshot-save") is None
    s.m.quit()
    for p in s.path.values():
        check(p)


def test_the_guest_does_not_wait_for_slow_disks(system, tmp_path):
    """The disks' tables reach the disk while the guest runs again."""
    img("create", "-q", "-f", "qcow2", tmp_path / "a.qcow2", SIZE)
    img("create", "-q", "-f", "qcow2", tmp_path / "b.qcow2", SIZE)
    (tmp_path / "vars.raw").write_bytes(bytes(MB))
    slow = {"driver": "delay", "file": {"driver": "file", "filename": str(tmp_path / "a.qcow2")}, "flush-latency": "600ms"}
    s = system(fresh=False, file={"a": slow})
    s.fill(1)
    for i in range(5):  # who does not wait is quick once, though the machine is busy
        begin = time.monotonic()
        assert s.job("snapshot-save", tag=f"t{i}") is None
        assert time.monotonic() - begin > 1.2
        if s.pause < 600e6:
            break
    assert s.pause < 600e6
    s.m.process.kill()


def test_load_of_one_disk_fails(system, tmp_path):
    """The other one, which was taken back already, is again as the guest knows it."""
    s = system()
    s.fill(1)
    assert s.job("snapshot-save") is None
    s.m.quit()
    with open(s.path["b"], "r+b") as f:  # what the snapshot says of its disk's size makes no sense
        f.seek(64)
        table = int.from_bytes(f.read(8), "big")
        f.seek(table + 40 + 8)
        assert int.from_bytes(f.read(8), "big") == SIZE
        f.seek(table + 40 + 8)
        f.write((SIZE + 1).to_bytes(8, "big"))
    (tmp_path / "qtest.sock").unlink()
    s = system(fresh=False)
    s.fill(2)
    assert s.job("snapshot-load").startswith("Could not load snapshot 't' on 'b': ")
    assert s.byte() == 2
    s.fill(3, 1 << 20)
    assert s.byte() == 2 and s.byte(1 << 20) == 3
    assert s.job("snapshot-load", devices=["a"]) is None
    assert s.byte() == 1
    s.m.quit()
    for p in s.path.values():
        check(p)


def test_a_device_needs_memory_that_cannot_be_read(system):
    """The machine stops, nobody is kept from anything else, and the request is done when the memory is there."""
    s, data = system(), random.randbytes(4096)
    s.disk.put(s.disk.data, data)
    assert s.job("snapshot-save") is None
    at = s.path["a"].read_bytes().index(data)

    def store(b):
        with open(s.path["a"], "r+b") as f:
            f.seek(at + 100)
            f.write(b)

    store(bytes(8))
    name = s.job("snapshot-load", wait=False)
    s.m.qmp.event("STOP")
    s.disk.count = int.from_bytes(s.disk.get(s.disk.avail + 2, 2), "little")
    s.disk.submit(1, 0, [(s.disk.data, 4096, 0)])
    s.m.qmp.cmd("cont")
    s.m.qmp.event("STOP")
    assert s.m.qmp.cmd("query-status")["status"] == "io-error" and not s.disk.answered()
    end = time.monotonic() + 60
    while "cont" not in next(j for j in s.m.qmp.cmd("query-jobs") if j["id"] == name).get("wait-reason", ""):
        assert time.monotonic() < end
    assert "not here yet" in s.m.qmp.cmd("human-monitor-command", command_line=f"xp /1xb {s.disk.data:#x}")
    store(data[100:108])
    s.m.qmp.cmd("cont")
    assert s.disk.answer() == 0 and s.end(name) is None
    assert s.disk.contents(0, 4096) == data


def test_into_a_file(system, tmp_path):
    s = system()
    s.fill(1)
    actions = [{"type": "machine-snapshot", "data": {"file": str(tmp_path / "state"), "job-id": "m"}},
               {"type": "blockdev-snapshot-internal-sync", "data": {"device": "disk-a", "name": "t"}}]
    with pytest.raises(QMPError):
        s.m.qmp.cmd("transaction", actions=[*actions, {"type": "abort", "data": {}}])
    assert not list(tmp_path.glob("state*"))
    s.m.qmp.cmd("transaction", actions=actions)
    s.fill(2)
    assert s.end("m") is None
    assert subprocess.run([program("sterna-state"), "verify", str(tmp_path / "state")], capture_output=True).returncode == 0


def info_of(path):
    return json.loads(subprocess.run([program("sterna-state"), "info", "--output=json", str(path)], check=True, capture_output=True, text=True).stdout)


def test_the_form_of_what_is_saved(system, tmp_path):
    """Compressed, and in an older machine type's format."""
    s = system()
    s.m.ask(f"write {0x80800000:#x} {1 << 16:#x} 0x{'616263' * 21845 + '61'}")
    tenth = bytes(random.Random(1).choices(range(1, 140), k=2 * MB))
    s.m.ask(f"b64write {0x80300000:#x} {2 * MB:#x} {base64.b64encode(tenth).decode()}")
    paths = [tmp_path / n for n in ("plain", "small", "old")]
    for path, args in zip(paths, ({}, {"compress": True}, {"compat": "virt-0.1"})):
        s.m.qmp.cmd("machine-snapshot", args={"file": str(path), "job-id": path.name, **args})
        assert s.end(path.name) is None
    assert paths[1].stat().st_size < paths[0].stat().st_size - 32768 - 160 * 1024  # also what shrinks by a tenth
    assert [info_of(p)["machine"] for p in paths] == ["virt-0.2", "virt-0.2", "virt-0.1"]
    assert subprocess.run([program("sterna-state"), "verify", *map(str, paths[1:2])], capture_output=True).returncode == 0
    with pytest.raises(QMPError, match="virt-9"):
        s.m.qmp.cmd("machine-snapshot", file=str(tmp_path / "none"), compat="virt-9")
    assert s.job("snapshot-save", compress=True) is None and s.job("snapshot-load") is None
    s.m.quit()


def test_cancelled(system):
    s = system()
    s.fill(1)
    name = s.job("snapshot-save", wait=False)
    s.m.qmp.cmd("job-cancel", id=name)
    assert "ancel" in (s.end(name) or "cancelled too late")
    kept = "t" in s.snapshots("a")
    assert kept == ("t" in s.snapshots("b"))
    s.m.quit()
    for p in s.path.values():
        check(p)


DIED = (OSError, EOFError, AssertionError, QMPError)


class Life:
    """Somebody writes to the first disk and to memory, and saves, loads and deletes snapshots until the machine is killed."""
    WORD = 0x80900000  # where in memory

    def __init__(self, tmp, seed):
        self.tmp, self.random = tmp, random.Random(seed)
        self.kept, self.stamp, self.disk = {}, 0, {}  # tag → disk and memory's stamp then; sector → stamp
        self.number, self.done, self.parent = 0, {}, {}

    def live(self, seconds):
        place = self.tmp / f"life-{self.number}"
        place.mkdir()
        self.s = System(lambda *args: Machine(place, *args), self.tmp, fresh=self.number == 0)
        self.number += 1
        self.loose, self.doing = {}, None
        killed = threading.Event()
        timer = threading.Timer(seconds, lambda: (self.s.m.process.kill(), killed.set()))
        timer.start()
        try:
            while True:
                for _ in range(self.random.randrange(1, 6)):
                    self.write()
                self.manage()
        except DIED:
            if not killed.wait(60):
                raise
            assert self.s.m.process.wait(60) == -signal.SIGKILL
        timer.join()
        self.s.m.close()

    def write(self):
        self.stamp += 1
        at = self.random.randrange(0, SIZE // 4096)
        self.loose.setdefault(at, {self.disk.get(at, 0)}).add(self.stamp)
        assert self.s.disk.write(at * 4096, self.stamp.to_bytes(8, "little") * 512) == 0
        self.disk[at] = self.stamp
        if self.random.random() < 0.5:
            assert self.s.disk.flush() == 0
            self.loose.clear()
        self.remember()

    def remember(self):
        self.s.disk.put(self.WORD, self.stamp.to_bytes(8, "little"))

    def manage(self):
        """One job at a time; how it ends is known only when that was said."""
        if self.random.random() < 0.5:
            return
        tag = self.random.choice("xyz")
        command = "snapshot-save" if tag not in self.kept else self.random.choice(["snapshot-load", "snapshot-delete"])
        if command == "snapshot-delete" and tag in self.parent.values():
            return
        assert self.s.disk.flush() == 0
        self.loose.clear()
        self.remember()
        args = {}
        if command == "snapshot-save":
            self.parent.pop(tag, None)
            if self.kept and self.random.random() < 0.5:
                args["parent"] = self.parent[tag] = self.random.choice(sorted(self.kept))
            args["compress"] = self.random.random() < 0.3
        self.doing = (command, tag, (dict(self.disk), self.stamp))
        name = self.s.job(command, tag=tag, wait=False, **args)
        info = lambda: next(j for j in self.s.m.qmp.cmd("query-jobs") if j["id"] == name)
        while command == "snapshot-save" and info()["status"] != "concluded":
            if "pause-ns" in info():  # the instant is over
                self.write()
        error = self.s.end(name)
        assert error is None, error
        self.apply(*self.doing)
        self.doing = None
        self.done[command] = self.done.get(command, 0) + 1

    def apply(self, command, tag, then):
        if command == "snapshot-save":
            self.kept[tag] = then
        elif command == "snapshot-load":
            self.disk = dict(self.kept[tag][0])
        else:
            del self.kept[tag]
            self.parent.pop(tag, None)

    def stamps(self, path):
        out = self.tmp / "out.raw"
        img("convert", "-f", "qcow2", "-O", "raw", path, out)
        data = out.read_bytes()
        return {i: int.from_bytes(data[i * 4096:i * 4096 + 8], "little") for i in range(SIZE // 4096) if any(data[i * 4096:i * 4096 + 8])}

    def same(self, seen, want, loose=()):
        return all(seen.get(i, 0) == want.get(i, 0) or (i in loose and seen.get(i, 0) in loose[i]) for i in {*seen, *want})

    def judge(self):
        a, b = self.s.path.values()
        for p in (a, b):
            check(p, leaks=True)
        listed = lambda p: {s["name"]: s["vm-state-size"] for s in json.loads(img("info", "-U", "--output=json", p)).get("snapshots", [])}
        have, other = listed(a), listed(b)
        assert all(have.values()), f"a snapshot without its state: {have}"
        if self.doing:
            command, tag, _ = self.doing
            if command == "snapshot-load":
                now = self.stamps(a)
                if not self.same(now, self.disk, self.loose):
                    self.apply(*self.doing)
                    self.loose = {}
            elif (tag in have) != (tag in self.kept):
                self.apply(*self.doing)
        assert set(have) == set(self.kept)
        assert set(have) <= set(other), "what can be loaded is there on all disks"
        now = self.stamps(a)
        assert self.same(now, self.disk, self.loose), "an acknowledged write is lost"
        self.disk = now
        self.parent = {t: p for t, p in self.parent.items() if t in have}
        for tag, (want, _) in self.kept.items():
            copy = self.tmp / "copy.qcow2"
            shutil.copy(a, copy)
            img("snapshot", "-a", tag, copy)
            assert self.same(self.stamps(copy), want), f"snapshot {tag} is not what was saved"
            check(copy, leaks=True)
        if have:
            latest = self.doing and self.doing[1]
            self.machine_of(latest if latest in have else self.random.choice(sorted(have)))
        for tag in set(other) - set(have):  # of a save or a delete that was on its way
            img("snapshot", "-d", tag, b)


    def machine_of(self, tag):
        """The machine is in the snapshot, too: a new one, over copies of the disks, goes on from there."""
        place = self.tmp / "again"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for p in (*self.s.path.values(), self.tmp / "vars.raw"):
            shutil.copy(p, place / p.name)
        m = []
        try:
            s = System(lambda *args: m.append(Machine(place, *args)) or m[0], place, fresh=False)
            s.m.ask(f"write {self.WORD:#x} 8 0x{bytes(8).hex()}")
            assert s.job("snapshot-load", tag=tag, lazy=self.random.random() < 0.5) is None
            assert int.from_bytes(s.disk.get(self.WORD, 8), "little") == self.kept[tag][1], f"memory in {tag} is not what was saved"
        finally:
            m[0].close()


def test_killed(tmp_path):
    life = Life(tmp_path, SEED)
    for _ in range(KILLS):
        life.live(life.random.choice([0.05, 0.15, 0.3, 0.6]))
        life.judge()
    print(life.done)


def test_without_a_machine(machine, tmp_path):
    m = machine("-machine", "none", qtest=False)
    assert "has no state to save" in m.qmp.hmp("savevm t")
    with pytest.raises(QMPError, match="has no state to save"):
        m.qmp.cmd("machine-snapshot", file=str(tmp_path / "state"))
    assert not (tmp_path / "state").exists() and m.quit()[0] == 0
