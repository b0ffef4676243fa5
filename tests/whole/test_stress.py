# SPDX-License-Identifier: BSD-2-Clause
"""Disks are copied, switched, stopped, cancelled and killed at random moments; every guest must find its data.

A test that fails shows its seed, and STERNA_SEED=N repeats it; STERNA_STRESS_SECONDS=N goes on for longer.
"""
import os, random, re, signal, socket, struct, subprocess, threading, time

import pytest
from sterna import LONG
from test_machine_snapshot import disk as drive
from vm import VMError, disk

BLOCK, MAGIC = 4096, 0x616e726574532e31
ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")


@pytest.fixture
def rng(request):
    seed = int(os.environ.get("STERNA_SEED", random.randrange(1 << 30)))
    print("STERNA_SEED =", seed)
    return random.Random(seed)


class Copies:
    """One disk of a machine and the image it lives on."""

    def __init__(self, m, img, tmp_path, image, device="disk0", top="disk", size="256M"):
        self.m, self.img, self.image, self.device, self.top, self.size = m, img, image, device, top, size
        self.tmp, self.n, self.pauses = tmp_path, 0, []

    def fresh(self):
        self.n += 1
        path = self.tmp / f"{self.device}-{self.n}.qcow2"
        self.img("create", "-f", "qcow2", path, self.size)
        return path

    def moved(self, path):
        os.unlink(self.image)
        self.image = path

    def block_copy(self, meanwhile=lambda: None):
        path = self.fresh()
        self.m.cmd("block_copy", device=self.device, filename=str(path))
        end = time.monotonic() + 60
        while True:
            c = [e for e in self.m.cmd("query-block-copy") if e["device"] == self.device][0]
            if c["status"] != "active":
                break
            assert time.monotonic() < end, c
            meanwhile()
            time.sleep(0.01)
        assert c["status"] == "completed", c
        self.pauses.append(c["info"]["pause-ns"])
        self.top = next(b["inserted"]["node-name"] for b in self.m.cmd("query-block")
                        if b.get("inserted", {}).get("image", {}).get("filename") == str(path))
        self.moved(path)

    def mirror(self, **options):
        """Starts one: (job, image, node)."""
        path = self.fresh()
        job, node = f"{self.device}-job{self.n}", f"{self.device}-node{self.n}"
        self.m.cmd("blockdev-add", driver="qcow2", node_name=node, file={"driver": "file", "filename": str(path)})
        self.m.cmd("blockdev-mirror", job_id=job, device=self.top, target=node, sync="full", **options)
        return job, path, node

    def ended(self, job):
        return next((e for e in self.m.events if e["event"] in ENDS and e["data"]["device"] == job), None)

    def wait_end(self, job):
        end = time.monotonic() + 60
        while not self.ended(job):
            jobs = self.m.cmd("query-jobs")
            assert time.monotonic() < end, jobs
            time.sleep(0.01)
        return self.ended(job)

    def complete(self, job, path, node, noise=lambda: None):
        self.m.cmd("block-job-set-speed", device=job, speed=0)
        self.m.event("BLOCK_JOB_READY", timeout=60, device=job)
        noise()
        self.m.cmd("job-complete", id=job)
        e = self.wait_end(job)
        assert e["event"] == "BLOCK_JOB_COMPLETED" and "error" not in e["data"], e
        attempt(self.m, "blockdev-del", node_name=self.top)  # one that block_copy opened has gone by itself
        self.top = node
        self.moved(path)

    def cancel(self, job, path, node, force):
        self.m.cmd("block-job-cancel", device=job, force=force)
        try:
            self.m.cmd("block-job-set-speed", device=job, speed=0)
        except VMError:
            pass  # it has ended
        self.wait_end(job)
        self.m.cmd("blockdev-del", node_name=node)
        os.unlink(path)


def verify(m, *copies, quiet=True):
    m.type("verify\n")
    assert m.wait("VERIFY-|STAMP-ERROR", 60)[1].startswith("VERIFY-OK")
    m.process.wait(30)
    assert m.process.returncode == 0
    assert not quiet or m.stderr() == ""
    for c in copies:
        assert c.img("check", c.image).returncode == 0


def attempt(m, name, **args):
    """A command that may come too late."""
    try:
        m.cmd(name, **args)
    except VMError:
        pass


def disturb(m, job, rng, times):
    for _ in range(times):
        what = rng.randrange(5)
        if what == 0:
            m.cmd("stop")
            time.sleep(rng.random() * 0.05)
            m.cmd("cont")
        elif what == 1:
            attempt(m, "job-pause", id=job)
            time.sleep(rng.random() * 0.1)
            attempt(m, "job-resume", id=job)
        elif what == 2:
            attempt(m, "block-job-set-speed", device=job, speed=rng.choice([0, 1 << 20, 8 << 20, 64 << 20]))
        elif what == 3:
            m.cmd("stop")
            m.cmd("cont")
        else:
            time.sleep(rng.random() * 0.2)


@pytest.fixture
def busy_host():
    """Something else that wants the processors, so that timing varies."""
    loops = [subprocess.Popen(["nice", "timeout", "40", "sh", "-c", "while :; do :; done"]) for _ in range(2)]
    yield
    for p in loops:
        p.terminate()
        p.wait()


@pytest.fixture
def start(up, img, tmp_path):
    def run(smp=1, iops=500, mib=32, flags="", **kw):
        src = tmp_path / "source.qcow2"
        img("create", "-f", "qcow2", src, "256M")
        m = up(f"stamp fill /dev/vda {mib};stamp {flags}run /dev/vda {mib} {iops} 0", *disk(src), *(("-smp", str(smp)) if smp > 1 else ()), **kw)
        m.wait("RUN-READY")
        return m, Copies(m, img, tmp_path, src)
    return run


@pytest.fixture
def three(up, img, tmp_path):
    """three(run): a machine with three disks and two harts, and their Copies."""
    def start(run):
        images, args = [], []
        for i in range(3):
            images.append(tmp_path / f"d{i}.qcow2")
            img("create", "-f", "qcow2", images[i], "256M")
            args += disk(images[i], node=f"n{i}", device=f"disk{i}")
        m = up(run, *args, "-smp", "2")
        m.wait("RUN-READY")
        return m, [Copies(m, img, tmp_path, images[i], f"disk{i}", f"n{i}") for i in range(3)]
    return start


# ./check takes each engine, one and several harts; --long takes all.
ANY = [("uring", 1, 2000), ("epoll", 2, 300), ("uring", 4, 1000), ("epoll", 1, 1000)]


@pytest.mark.parametrize("loop, smp, iops", ANY if LONG else ANY[:2])
def test_anything_at_any_moment(start, three, rng, monkeypatch, busy_host, loop, smp, iops):
    monkeypatch.setenv("STERNA_LOOP", loop)
    if smp == 2:
        m, (c, _, _) = three(f"stamp fill /dev/vda 32;stamp run /dev/vda 32 {iops} 0")
    else:
        m, c = start(smp, iops)
    end = time.monotonic() + float(os.environ.get("STERNA_STRESS_SECONDS", 4))
    switches = 0
    while time.monotonic() < end or not switches:
        what = rng.randrange(3)
        if what == 0:
            c.block_copy(lambda: rng.random() < 0.2 and (m.cmd("stop"), m.cmd("cont")))
            switches += 1
            continue
        job = c.mirror(copy_mode=rng.choice(["background", "write-blocking"]), speed=rng.choice([0, 4 << 20, 32 << 20]))
        disturb(m, job[0], rng, rng.randrange(4))
        if what == 1:
            c.cancel(*job, force=rng.random() < 0.7)
        else:
            c.complete(*job, noise=lambda: disturb(m, job[0], rng, rng.randrange(3)))
            switches += 1
    assert m.memory_mib()[1] < 24
    verify(m, c)


def test_to_and_fro(start):
    """Each switch is of a disk that was switched before; the image it came from is deleted."""
    m, c = start()
    for _ in range(12):
        c.block_copy()
    assert sorted(c.pauses)[len(c.pauses) // 2] < 5_000_000, c.pauses
    verify(m, c)


def test_several_disks_at_once(three):
    m, all_copies = three("stamp fill /dev/vdb 16;stamp fill /dev/vdc 16;stamp fill /dev/vda 16;stamp run /dev/vda 16 300 0;"
                          "stamp verify /dev/vdb 16;stamp verify /dev/vdc 16;echo ALL-DONE")
    for _ in range(3):
        jobs = [c.mirror() for c in all_copies]
        for c, job in zip(all_copies, jobs):
            c.complete(*job)
    m.type("verify\n")
    m.wait("ALL-DONE", 60)
    assert len([t for _, t in m.lines if t.startswith("VERIFY-OK") and t.endswith("blank=0")]) == 3
    m.process.wait(30)
    for c in all_copies:
        assert c.img("check", c.image).returncode == 0


def test_reset_in_mid_copy(start):
    """The copy goes on through the guest's reset, and what it is switched to is a faithful copy."""
    m, c = start(iops=300, more=("-action", "reboot=reset"))
    job = c.mirror(speed=8 << 20)
    time.sleep(0.5)
    with m.cond:
        m.lines.clear()
    m.cmd("system_reset")
    m.wait("^BOOTED")
    m.type("stamp verify /dev/vda 32;stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0\n")
    m.wait("VERIFY-OK blocks=8192 bad=0 stale=0 blank=0")
    m.wait("RUN-READY")
    c.complete(*job)
    verify(m, c)


def checksum(block):
    h = 0xcbf29ce484222325
    for w in struct.unpack("<511Q", block[:-8]):
        h = ((h ^ w) * 0x100000001b3) & (2**64 - 1)
    return h == struct.unpack("<Q", block[-8:])[0]


KILLED = [(when, loop) for loop in ("uring", "epoll") for when in ("bulk", "ready", "switching")]


@pytest.mark.parametrize("when, loop", KILLED if LONG else KILLED[::2])
def test_killed(start, img, tmp_path, rng, monkeypatch, when, loop):
    """Whichever image was the disk's holds every write that the guest was told is done."""
    monkeypatch.setenv("STERNA_LOOP", loop)
    acked = {}

    def on_line(text):
        found = re.match(r"ACK off=(\d+) seq=(\d+)$", text)
        if found:
            acked[int(found.group(1))] = int(found.group(2))
    m, c = start(iops=300, flags="-a ", on_line=on_line)
    end = time.monotonic() + 60
    while not acked:
        assert time.monotonic() < end
        time.sleep(0.05)
    job, path, _ = c.mirror(speed=8 << 20 if when == "bulk" else 0, copy_mode=rng.choice(["background", "write-blocking"]))
    image = c.image
    if when != "bulk":
        m.event("BLOCK_JOB_READY", device=job)
    if when == "switching":
        m.cmd("job-complete", id=job)
        c.wait_end(job)
        image = path
    time.sleep(rng.random())
    m.process.send_signal(signal.SIGKILL)
    m.process.wait()
    time.sleep(0.2)
    assert acked
    img("check", "-r", "leaks", image)
    raw = tmp_path / "raw"
    img("convert", "-O", "raw", image, raw)
    with open(raw, "rb") as f:
        for off, seq in acked.items():
            f.seek(off)
            block = f.read(BLOCK)
            magic, place, found = struct.unpack("<QQQ", block[:24])
            assert (magic, place) == (MAGIC, off) and found >= seq and checksum(block)


def test_client_that_goes_away(start):
    """A copy is the machine's, not the client's: it goes on when the monitor is closed, and is found again."""
    m, c = start()
    job = c.mirror(speed=16 << 20)
    m.qmp.close()
    m.qmp_socket.shutdown(socket.SHUT_RDWR)
    m.qmp_socket.close()
    time.sleep(0.5)
    m.connect_qmp()
    assert m.cmd("query-block-jobs")[0]["device"] == job[0]
    m.cmd("block-job-set-speed", device=job[0], speed=0)
    end = time.monotonic() + 60
    while not m.cmd("query-block-jobs")[0]["ready"]:
        assert time.monotonic() < end
        time.sleep(0.05)
    m.cmd("job-complete", id=job[0])
    c.wait_end(job[0])
    c.moved(job[1])
    verify(m, c)


def test_destination_that_fills_up_again_and_again(start, rng):
    m, c = start()
    for i in range(3):
        path, node, job = c.fresh(), f"full{i}", f"j{i}"
        m.cmd("blockdev-add", driver="qcow2", node_name=node, file={
            "driver": "blkdebug", "image": {"driver": "file", "filename": str(path)},
            "inject-error": [{"event": rng.choice(["write_aio", "l2_update", "cluster_alloc"]), "errno": 28}]})
        m.cmd("blockdev-mirror", job_id=job, device="disk", target=node, sync="full",
              copy_mode=rng.choice(["background", "write-blocking"]))
        e = m.event("BLOCK_JOB_COMPLETED", device=job, timeout=60)
        assert "No space left on device" in e["data"]["error"]
        m.cmd("blockdev-del", node_name=node)
    c.block_copy()
    verify(m, c, quiet=False)  # closing the full images could not write either, and said so


def test_snapshot_drive(up, img, tmp_path):
    """With snapshot=on the image itself is never written, wherever the guest's writes are copied to."""
    src, dst = tmp_path / "source.qcow2", tmp_path / "copy.qcow2"
    for p in (src, dst):
        img("create", "-f", "qcow2", p, "64M")
    before = src.read_bytes()
    m = up("stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0", *drive(src), mem=128, more=["-snapshot"])
    m.wait("RUN-READY")
    m.cmd("block_copy", device="d", filename=str(dst))
    end = time.monotonic() + 60
    while m.cmd("query-block-copy")[0]["status"] == "active":
        assert time.monotonic() < end
        time.sleep(0.05)
    assert m.cmd("query-block-copy")[0]["status"] == "completed"
    verify(m)
    assert src.read_bytes() == before
    assert img("check", dst).returncode == 0


def test_two_machines_at_once(up, img, tmp_path):
    both = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        src = folder / "source.qcow2"
        img("create", "-f", "qcow2", src, "256M")
        m = up("stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0", *disk(src))
        both.append((m, Copies(m, img, folder, src)))
    failures = []

    def work(m, c):
        try:
            m.wait("RUN-READY")
            for _ in range(4):
                c.block_copy()
            verify(m, c)
        except BaseException as e:  # told by the test's own thread
            failures.append(e)
    threads = [threading.Thread(target=work, args=x) for x in both]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
