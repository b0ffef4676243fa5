# SPDX-License-Identifier: BSD-2-Clause
"""kill -9 at random moments, again and again, over one disk's life: copies, streams, commits and backups, one or two at a time.

After each death the disk is what whoever manages it may rely on: every write that was flushed is there (those since may be), every image
passes its check, the persistent bitmap claims enough for the next incremental backup, and the next life goes on from there.
STERNA_KILLS: how many deaths (and STERNA_TEST_SEED which); a thousand in ./check --long.
"""
import json, os, random, signal, subprocess, threading, time

import pytest
from chain import img
from conftest import Machine
from qmp import QMPError
from qtest_disk import Disk
from sterna import program

MB = 1 << 20
SIZE, SECTOR = 8 * MB, 512
KILLS = int(os.environ.get("STERNA_KILLS", 12))
SEED = int(os.environ.get("STERNA_TEST_SEED", 1))
DIED = (OSError, EOFError, AssertionError)  # what a conversation with a dead machine ends with


def info(path):
    return json.loads(img("info", "-U", "--output=json", path))


class Life:
    """The disk and what its manager knows: its image, what its guest must see, the last backup that is complete."""

    def __init__(self, tmp, seed):
        self.tmp, self.random, self.number = tmp, random.Random(seed), 0
        self.want, self.stamp = bytearray(SIZE), 0
        self.started, self.ended = {}, {}
        self.top = self.fresh("disk")
        img("create", "-q", "-f", "qcow2", self.top, SIZE)
        self.after_switch()

    def fresh(self, name):
        self.number += 1
        return self.tmp / f"{name}-{self.number}.qcow2"

    def overlay(self):
        """What an external snapshot does, between two lives."""
        path = self.fresh("disk")
        img("create", "-q", "-f", "qcow2", "-b", self.top, "-F", "qcow2", path)
        self.top = path
        self.after_switch()

    def after_switch(self):
        """The disk is another image: its bitmap and its backups begin anew."""
        for b in info(self.top)["format-specific"]["data"].get("bitmaps", []):
            img("bitmap", "--remove", self.top, b["name"])
        img("bitmap", "--add", "-g", "4096", self.top, "map")
        self.backup = self.fresh("backup")
        img("convert", "-f", "qcow2", "-O", "qcow2", self.top, self.backup)
        self.sweep()

    def chain(self, top=None):
        return [i["filename"] for i in json.loads(img("info", "-U", "--backing-chain", "--output=json", top or self.top))]

    def sweep(self):
        """Removes what is neither of the disk nor of its backups."""
        keep = set(self.chain()) | {i["filename"] for i in json.loads(img("info", "--backing-chain", "--output=json", self.backup))}
        for path in self.tmp.glob("*.qcow2"):
            if str(path) not in keep:
                path.unlink()

    def contents(self, path):
        out = self.tmp / "out.raw"
        img("convert", "-f", "qcow2", "-O", "raw", path, out)
        return out.read_bytes()


class Guest:
    """One life of a machine whose disk is the node `top`, from its start to its death; somebody writes to it."""

    def __init__(self, life, top):
        self.life, self.random = life, life.random
        self.loose = {}  # sector → what it may be, as what was written to it since has not been flushed
        place = life.tmp / f"life-{life.number}"
        place.mkdir()
        life.number += 1
        self.m = Machine(place, "-machine", "virt", "-m", "16", "-blockdev", json.dumps({"node-name": "top", **top}),
                         "-device", "virtio-blk-device,drive=top,id=disk0")
        self.disk = Disk(self.m)

    def write(self):
        life = self.life
        life.stamp += 1
        n = self.random.choice([1, 8, 8, 40]) * SECTOR
        off = self.random.randrange(0, (SIZE - n) // SECTOR) * SECTOR
        data = (life.stamp.to_bytes(8, "little") * (n // 8))
        for i in range(0, n, SECTOR):
            self.loose.setdefault(off + i, {bytes(life.want[off + i:off + i + SECTOR])}).add(data[i:i + SECTOR])
        assert self.disk.write(off, data) == 0
        life.want[off:off + n] = data
        if self.random.random() < 0.4:
            assert self.disk.flush() == 0
            self.loose.clear()

    def until_killed(self, seconds, manage):
        """Writes, and does what a manager does, for so long."""
        killed = threading.Event()

        def kill():
            self.m.process.kill()
            killed.set()
        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            while True:
                for _ in range(self.random.randrange(1, 6)):
                    self.write()
                manage()
        except DIED:
            if not killed.wait(60):  # it ended, or answers no more, by itself
                self.m.log.seek(0)
                print(f"exit code {self.m.process.poll()}; it said: {self.m.log.read()}")
                raise
            assert self.m.process.wait(60) == -signal.SIGKILL
        timer.join()
        self.m.close()

    def judge(self, seen):
        """The sector of which something flushed is lost, or None; afterwards the disk is what was seen."""
        for off, allowed in self.loose.items():
            at = slice(off, off + SECTOR)
            assert seen[at] in allowed
            self.life.want[at] = seen[at]
        if seen != self.life.want:
            return next(i for i in range(0, SIZE, SECTOR) if seen[i:i + SECTOR] != self.life.want[i:i + SECTOR])


class Run(Guest):
    """With jobs under way."""

    def __init__(self, life):
        super().__init__(life, {"driver": "qcow2", "file": {"driver": "file", "filename": str(life.top)}})
        self.jobs, self.said, self.over, self.cancelled = {}, set(), set(), set()
        self.snapshot = None  # the disk is an overlay since then

    def target(self, name, backing=None):
        path = self.life.fresh(name)
        img("create", "-q", "-f", "qcow2", *(["-b", backing, "-F", "qcow2"] if backing else []), path, SIZE)
        self.m.qmp.cmd("blockdev-add", driver="qcow2", node_name=path.stem, file={"driver": "file", "filename": str(path)})
        return path

    def probe(self):
        """The bitmap that came through the last death, and the last backup, make the disk as it is now."""
        t = self.target("probe", self.life.backup)
        self.m.qmp.cmd("blockdev-backup", job_id="probe", device="top", target=t.stem, sync="bitmap", bitmap="map", bitmap_mode="never")
        assert "error" not in self.m.qmp.event("BLOCK_JOB_COMPLETED", device="probe")["data"]
        self.m.qmp.cmd("blockdev-del", node_name=t.stem)
        return t, bytes(self.life.want)

    def begin(self, kind):
        q, speed = self.m.qmp, self.random.choice([0, 0, 4 * MB, 32 * MB])
        common = dict(job_id=kind, speed=speed, auto_dismiss=False)
        layers = self.life.chain()
        if kind == "copy":
            path = self.target("disk")
            q.cmd("blockdev-mirror", device="top", target=path.stem, sync="full", copy_mode=self.random.choice(["background", "write-blocking"]), **common)
        elif kind == "backup":
            path = self.target("backup", self.life.backup)
            q.cmd("blockdev-backup", device="top", target=path.stem, sync="incremental", bitmap="map", auto_finalize=False, **common)
        elif kind == "stream":
            path = None
            base = self.random.choice([None, *layers[1:]])
            q.cmd("block-stream", device="top", **({"base": base} if base else {}), **common)
        elif len(layers) == 1:
            return  # nothing below
        else:
            path = layers[-1]
            i = self.random.randrange(0, len(layers) - 1)
            q.cmd("block-commit", device="top", base=path, **({"top": layers[i]} if i else {}), **common)
            path = path if i == 0 else None  # not the guest's layer: it ends by itself
        self.jobs[kind] = path
        self.life.started[kind] = self.life.started.get(kind, 0) + 1

    def look_after_jobs(self):
        """Does with its jobs what a manager does; what it has *said* holds, whether or not the answer came."""
        for j in self.m.qmp.cmd("query-jobs"):
            kind, status = j["id"], j["status"]
            if kind not in self.jobs or kind in self.over:
                continue
            if status == "ready" and self.jobs[kind] and kind not in self.said and self.random.random() < 0.5:
                self.said.add(kind)
                self.m.qmp.cmd("job-complete", id=kind)
            elif kind == "backup" and status == "pending" and kind not in self.said:
                self.said.add(kind)
                self.m.qmp.cmd("job-finalize", id=kind)
            elif status == "concluded":
                assert "error" not in j or kind in self.cancelled, j
                self.over.add(kind)
                self.life.ended[kind] = self.life.ended.get(kind, 0) + ("error" not in j)
            elif kind not in self.said and self.random.random() < 0.08:
                self.meddle(kind)

    def meddle(self, kind):
        verb = self.random.choice(["job-pause", "job-resume", "job-resume", "block-job-set-speed", "job-cancel", "snapshot"])
        try:
            if verb == "snapshot":
                path = self.life.fresh("disk")
                self.m.qmp.cmd("blockdev-snapshot-sync", device="disk0", snapshot_file=str(path), format="qcow2")
                self.snapshot = path
                return
            if verb == "job-cancel":
                self.cancelled.add(kind)
            device = "device" if verb.startswith("block") else "id"
            self.m.qmp.cmd(verb, args={device: kind, **({"speed": self.random.choice([0, MB, 16 * MB])} if device == "device" else {})})
        except QMPError as e:  # it is over by now, or is not paused, or a job has the disk
            assert f"'{kind}'" in e.desc or any(f"job '{k}'" in e.desc for k in self.jobs), e.desc

    def live(self, kinds, seconds):
        probe = self.probe()
        for kind in kinds:
            try:
                self.begin(kind)
            except QMPError as e:  # the other one has what it needs: the text must say which
                assert any(f"job '{k}'" in e.desc for k in self.jobs) or "not found" in e.desc or "Can't find" in e.desc, e.desc
        self.until_killed(seconds, self.look_after_jobs)
        return probe


def checked(image):
    """On a busy machine the kernel may hold a dead program's locks for a while, until its last requests have ended."""
    end = time.monotonic() + 60
    while True:
        p = subprocess.run([program("sterna-img"), "check", "-q", image], capture_output=True, text=True)
        if "lock" not in p.stderr or time.monotonic() > end:
            return p


def after_death(life, run, probe):
    path, then = probe
    assert life.contents(path) == then, "the bitmap claimed too little"
    switched = next((k for k in ("copy", "commit") if k in run.said), None)
    if switched:
        life.top = type(life.top)(run.jobs[switched])
    # A copy goes on copying the disk, whatever its layers are; a layer that is there when a commit switches stays the top.
    if run.snapshot and (switched != "copy" or str(life.top) in life.chain(run.snapshot)):
        life.top, switched = run.snapshot, "snapshot"
    if "backup" in run.said and "backup" in run.over and "backup" not in run.cancelled:
        life.backup = run.jobs["backup"]
    for image in life.chain():
        p = checked(image)
        assert p.returncode in (0, 3), f"{image}: {p.stdout}{p.stderr}"
    seen = life.contents(life.top)
    bad = run.judge(seen)
    if bad is not None:
        stamp = lambda data: int.from_bytes(data[bad:bad + 8], "little")
        others = {i.name: stamp(life.contents(i)) for i in sorted(life.tmp.glob("disk-*.qcow2"))}
        pytest.fail(f"lost: the sector at {bad} is {stamp(seen)}, not {stamp(life.want)} of {life.stamp}; disk {life.chain()}, elsewhere {others}; "
                    f"jobs {run.jobs}, said {run.said}, over {run.over}")
    # Whether the last backup became the last word is not known when the answer did not come: begin anew.
    if switched or ("backup" in run.said) != ("backup" in run.over):
        life.after_switch()
    life.sweep()


def test_kill_and_go_on(tmp_path):
    life = Life(tmp_path, SEED)
    for n in range(KILLS):
        while len(life.chain()) < 3:
            life.overlay()
        kinds = life.random.sample(["copy", "stream", "commit", "backup"], life.random.choice([1, 2, 2, 3]))
        run = Run(life)
        try:
            probe = run.live(kinds, life.random.choice([0.02, 0.1, 0.2, 0.4]))
            after_death(life, run, probe)
        except BaseException:
            print(f"seed {SEED}, life {n}: {kinds}, said {run.said}, over {run.over}; started {life.started}, ended {life.ended}")
            run.m.close()
            raise
    print(life.started, life.ended)
    if KILLS >= 100:
        assert set(life.started) == {"copy", "stream", "commit", "backup"} and sum(life.ended.values()) >= KILLS // 4


class Resumable:
    """A disk that is copied by a live copy, which goes on after each death."""

    def __init__(self, tmp, seed):
        self.tmp, self.random, self.number, self.stamp, self.want = tmp, random.Random(seed), 0, 0, bytearray(SIZE)
        self.source = tmp / "disk-0.qcow2"
        img("create", "-q", "-f", "qcow2", self.source, SIZE)
        self.again()

    def again(self):
        self.number += 1
        self.to = self.tmp / f"disk-{self.number}.qcow2"
        self.file = self.tmp / f"copy-{self.number}.lc"
        img("create", "-q", "-f", "qcow2", self.to, SIZE)
        img("create", "-q", "-f", "live-copy", "-o", f"source={self.source},source_fmt=qcow2,destination={self.to},destination_fmt=qcow2,region_size=64k", self.file)

    def live(self):
        g = Guest(self, {"driver": "live-copy", "file": {"driver": "file", "filename": str(self.file)}, "record-ms": 20,
                         "speed": self.random.choice([0, MB, 8 * MB]), "copying": self.random.random() < 0.9})

        def manage():
            if self.random.random() > 0.1:
                return
            verb = self.random.choice(["speed", "copying", "switch", "switch", "detach"])
            try:
                if verb == "speed":
                    g.m.qmp.cmd("live-copy-change", node_name="top", speed=self.random.choice([0, MB, 8 * MB]))
                elif verb == "copying":
                    g.m.qmp.cmd("live-copy-change", node_name="top", copying=self.random.random() < 0.8)
                else:
                    g.m.qmp.cmd("live-copy-switch", node_name="top", detach=verb == "detach")
            except QMPError as e:
                assert "is not complete" in e.desc, e.desc
        try:
            g.until_killed(self.random.choice([0.02, 0.05, 0.1, 0.3]), manage)
        finally:
            g.m.close()
        out = self.tmp / "out.raw"
        img("convert", "-f", "live-copy", "-O", "raw", self.file, out)
        bad = g.judge(out.read_bytes())
        state = info(self.file)["format-specific"]["data"]["state"]
        assert bad is None, f"lost: the sector at {bad}, state {state}"
        for image in (self.source, self.to):
            p = subprocess.run([program("sterna-img"), "check", "-q", image], capture_output=True, text=True)
            assert p.returncode in (0, 3), f"{image}: {p.stdout}{p.stderr}"
        return state

    def finish(self):
        """To its end by the tool; the disk is the destination from then on."""
        subprocess.run([program("sterna-img"), "copy", "--resume", self.file], check=True, stdout=subprocess.DEVNULL)
        out = self.tmp / "out.raw"
        img("convert", "-f", "qcow2", "-O", "raw", self.to, out)
        assert out.read_bytes() == self.want
        self.source = self.to


def test_a_copy_that_goes_on(tmp_path):
    copy, seen = Resumable(tmp_path, SEED), {}
    for _ in range(KILLS):
        state = copy.live()
        seen[state] = seen.get(state, 0) + 1
        if state == "detached" or (state in ("in-sync", "switched") and copy.random.random() < 0.3):
            copy.finish()
            copy.again()
    print(seen)
    if KILLS >= 100:
        assert set(seen) >= {"copying", "in-sync", "switched", "detached"}
