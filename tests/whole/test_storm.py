# SPDX-License-Identifier: BSD-2-Clause
"""Snapshots, streams, commits, copies and backups at random, several at a time, below a guest that writes: its data is right, no image
is damaged, and no write of its waits longer than STERNA_STALL_MS (2000; 50 on a machine that does nothing else), times left out in which nobody could
run (tests/lib/standstill.py).

STERNA_SEED=N makes another one, STERNA_STORM_SECONDS=N goes on for longer (8).
"""
import os, random, re, time

from standstill import Standstills
from vm import VMError, disk

SECONDS = float(os.environ.get("STERNA_STORM_SECONDS", 8))
STALL_MS = float(os.environ.get("STERNA_STALL_MS", 2000))
SEED = int(os.environ.get("STERNA_SEED", 1))
SLOW_MS = 20    # such seconds are printed
WINDOW = 1.5    # seconds before its line within which the guest's second lies
ENDS = ("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")
# What the second of two that need the same thing is told.
REFUSALS = "job '|[Bb]usy|in use|not found|Can't find|not in this backing file chain|No backing|into itself|is not .*active|not active|cannot accept command verb|cannot be completed|was not paused|already paused|Cannot find device|Permission conflict"


class Storm:
    def __init__(self, m, img, tmp):
        self.m, self.img, self.tmp, self.random = m, img, tmp, random.Random(SEED)
        self.n, self.jobs, self.done, self.refused = 0, {}, {}, {}

    def disk(self):
        """(the node that the guest uses, the files of its layers)"""
        image = next(b for b in self.m.cmd("query-block") if b.get("qdev", "").endswith("disk0") or "disk0" in b.get("qdev", ""))["inserted"]
        layers, x = [], image["image"]
        while x:
            layers.append(x["filename"])
            x = x.get("backing-image")
        return image["node-name"], layers

    def target(self):
        self.n += 1
        path = self.tmp / f"target-{self.n}.qcow2"
        self.img("create", "-q", "-f", "qcow2", path, "256M")
        self.m.cmd("blockdev-add", driver="qcow2", node_name=f"target-{self.n}", file={"driver": "file", "filename": str(path)})
        return f"target-{self.n}"

    def begin(self, kind):
        node, layers = self.disk()
        self.n += 1
        job = f"{kind}-{self.n}"
        speed = self.random.choice([0, 0, 8 << 20, 64 << 20])
        target = None
        if kind == "snapshot":
            if len(layers) < 10:
                self.m.cmd("blockdev-snapshot-sync", device="disk0", snapshot_file=str(self.tmp / f"layer-{self.n}.qcow2"), format="qcow2")
                self.done[kind] = self.done.get(kind, 0) + 1
            return
        if kind in ("copy", "backup"):
            target = self.target()
        try:
            if kind == "copy":
                self.m.cmd("blockdev-mirror", job_id=job, device=node, target=target, sync="full", speed=speed,
                           copy_mode=self.random.choice(["background", "write-blocking"]))
            elif kind == "backup":
                self.m.cmd("blockdev-backup", job_id=job, device=node, target=target, sync="full", speed=speed)
            elif kind == "stream":
                base = self.random.choice([None, *layers[1:]])
                self.m.cmd("block-stream", job_id=job, device=node, speed=speed, **({"base": base} if base else {}))
            elif len(layers) > 1:
                top = self.random.randrange(len(layers) - 1)
                self.m.cmd("block-commit", job_id=job, device=node, speed=speed, base=layers[self.random.randrange(top + 1, len(layers))],
                           **({"top": layers[top]} if top else {}))
            else:
                return
            self.jobs[job] = target
        except VMError:
            if target:
                self.m.cmd("blockdev-del", node_name=target)
            raise

    def meddle(self, job):
        verb = self.random.choice(["job-pause", "job-resume", "job-resume", "job-complete", "job-complete", "job-cancel", "block-job-set-speed"])
        if verb == "block-job-set-speed":
            self.m.cmd(verb, device=job, speed=self.random.choice([0, 64 << 20]))
        else:
            self.m.cmd(verb, id=job)

    def reap(self):
        self.m.cmd("query-status")  # reads what events there are
        ended = {e["data"]["device"]: e["data"].get("error") for e in self.m.events if e["event"] in ENDS}
        for job in [j for j in self.jobs if j in ended]:
            assert not ended[job], (job, ended[job])
            target, kind = self.jobs.pop(job), job.split("-")[0]
            self.done[kind] = self.done.get(kind, 0) + 1
            if target and target != self.disk()[0]:
                self.tried(lambda: self.m.cmd("blockdev-del", node_name=target))

    def tried(self, what):
        try:
            what()
        except VMError as e:
            assert re.search(REFUSALS, str(e)), e
            self.refused[str(e).split(":")[0]] = self.refused.get(str(e).split(":")[0], 0) + 1

    def sweep(self):
        """What no node uses any more is removed, so that a storm can go on for hours."""
        for node in self.m.cmd("query-named-block-nodes"):
            if node["node-name"].startswith("target-") and node["node-name"] not in self.jobs.values():
                self.tried(lambda name=node["node-name"]: self.m.cmd("blockdev-del", node_name=name))
        used = {n["file"] for n in self.m.cmd("query-named-block-nodes")}
        for path in self.tmp.glob("*.qcow2"):
            if str(path) not in used:
                path.unlink()

    def blow(self, seconds):
        end, swept = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < end:
            if time.monotonic() - swept > 5:
                self.sweep()
                swept = time.monotonic()
            kind = self.random.choice(["snapshot", "snapshot", "stream", "commit", "commit", "copy", "backup"])
            if len(self.jobs) < 3:
                self.tried(lambda: self.begin(kind))
            if self.jobs and self.random.random() < 0.7:
                self.tried(lambda: self.meddle(self.random.choice(list(self.jobs))))
            time.sleep(self.random.choice([0.01, 0.05, 0.2]))
            self.reap()
        for job in list(self.jobs):
            self.tried(lambda: self.m.cmd("job-cancel", id=job))
        end = time.monotonic() + 60
        while self.jobs:
            assert time.monotonic() < end, self.jobs
            for job in list(self.jobs):
                self.tried(lambda: self.m.cmd("job-resume", id=job))
            time.sleep(0.05)
            self.reap()


def slow_windows(lines, begin, end, standstills):
    """Of each second of the guest's (when; the slowest write's ms, all, and without the time in which nobody could run)."""
    windows = []
    for t, line in lines:
        x = re.search(r"^W .*maxus=(\d+)", line)
        if x and begin <= t <= end:
            ms = int(x.group(1)) / 1000
            windows.append((t - begin, ms, max(0, ms - 1000 * standstills.during(t - WINDOW, t))))
    for when, ms, ours in windows:
        if ms > SLOW_MS:
            print(f"second {when:.0f}: {ms:.1f} ms, {ours:.1f} of them while somebody could run")
    print(f"the slowest write took {max(w[1] for w in windows):.1f} ms, {max(w[2] for w in windows):.1f} while somebody could run")
    return windows


def test_storm(up, img, tmp_path):
    image = tmp_path / "disk.qcow2"
    img("create", "-q", "-f", "qcow2", image, "256M")
    m = up("stamp tick 2 & stamp run /dev/vda 128 300 0", *disk(str(image)))
    m.wait("RUN-READY")
    time.sleep(2)
    storm, begin = Storm(m, img, tmp_path), time.monotonic()
    with Standstills() as standstills:
        try:
            storm.blow(SECONDS)
        finally:
            print(f"STERNA_SEED={SEED}; done {storm.done}, refused {storm.refused}")
        end = time.monotonic()
    m.type("verify\n")
    assert "bad=0 stale=0" in m.wait("VERIFY-", timeout=120)[1]
    windows = slow_windows(m.lines, begin, end, standstills)
    layers = storm.disk()[1]
    m.quit()
    for path in layers:
        img("check", "-q", path)
    assert max(ours for _, _, ours in windows) <= STALL_MS, windows
