# SPDX-License-Identifier: BSD-2-Clause
"""Every pair of tests/lib/matrix.py on a disk that is being written to: the declared outcome, and what is in the images then."""
import itertools, json, os, random, re, shutil, subprocess, sys, time

import pytest
from chain import MB, Chain, img
from matrix import JOBS, OPERATIONS, WAITS, outcome
from qmp import QMPError
from qtest_disk import Disk
from sterna import LONG, TOP

EVERY_CASE = "plain"  # no pair is like another
DISKS = 8  # of one machine
SLOW = 1  # bytes per second: after the first piece a job stands until it is told otherwise


class Case:
    """One disk, with its own copy of the chain, and a pair of operations on it."""

    def __init__(self, k, template, pair):
        self.k, self.first, self.second, self.ends = k, *pair
        self.random, self.want = template.random, bytearray(template.want)
        self.dir = template.tmp / f"disk{k}"
        self.dir.mkdir()
        for path in template.path.values():
            shutil.copy(path, self.dir)
        self.disk, self.checks = None, []  # (image, format, what it must hold, options of convert)

    def __str__(self):
        return f"{self.first}, then {self.second}, which ends {self.ends}"

    def node(self, name):
        return f"{name}{self.k}"

    def words(self):
        for name, backing in (("base", None), ("mid", "base"), ("top", "mid")):
            file = {"driver": "file", "filename": str(self.dir / f"{name}.qcow2")}
            node = {"driver": "qcow2", "node-name": self.node(name), "file": file, "backing": backing and self.node(backing),
                    "read-only": name != "top"}
            yield from ("-blockdev", json.dumps(node))
        kind = "virtio-blk-pci" if "unplug" in (self.first, self.second) else "virtio-blk-device"
        yield from ("-device", f"{kind},drive={self.node('top')},id=d{self.k},serial={self.k}")

    def write(self, n=4):
        for _ in range(n if self.disk else 0):
            off = self.random.randrange(len(self.want) // 4096) * 4096
            data = bytes([self.random.randrange(1, 256)]) * 4096
            assert self.disk.write(off, data) == 0
            self.want[off:off + 4096] = data

    # --- the operations -------------------------------------------------------------------------------------------------

    def where(self):
        """The disk, or its image when the device is gone."""
        return self.node("top") if "unplug" == self.first else f"d{self.k}"

    def target(self, tag):
        path = self.dir / f"{tag}.raw"
        with open(path, "wb") as f:
            f.truncate(len(self.want))
        name = self.node(tag)
        self.m.qmp.cmd("blockdev-add", driver="raw", node_name=name, file={"driver": "file", "filename": str(path)})
        return name, path

    def begin(self, op, tag):
        job, q = self.node(tag), self.m.qmp.cmd
        if op == "mirror":
            q("blockdev-mirror", job_id=job, device=self.where(), target=self.target(tag)[0], sync="full", speed=SLOW, buf_size=65536)
        elif op == "block_copy":
            q("block_copy", device=self.where(), target=self.target(tag)[0], speed=SLOW)
        elif op == "stream":
            q("block-stream", job_id=job, device=self.where(), speed=SLOW)
        elif op == "commit":
            q("block-commit", job_id=job, device=self.where(), speed=SLOW)
        elif op == "commit below":
            q("block-commit", job_id=job, device=self.where(), top_node=self.node("mid"), base_node=self.node("base"), speed=SLOW)
        elif op == "backup":
            name, path = self.target(tag)
            self.checks.append((path, "raw", bytes(self.want), []))
            q("blockdev-backup", job_id=job, device=self.where(), target=name, sync="full", speed=SLOW,
              x_perf={"max-chunk": 65536, "max-workers": 1})
        elif op in ("internal snapshot", "machine snapshot"):
            if op == "internal snapshot":
                q("blockdev-snapshot-internal-sync", device=self.where(), name=job)
            else:
                self.save(job)
            nodes = self.m.qmp.cmd("query-named-block-nodes")
            for holder in (n for n in nodes if n["drv"] == "qcow2" and any(s["name"] == job for s in n["image"].get("snapshots", []))):
                self.checks.append((holder["image"]["filename"], "qcow2", bytes(self.want), ["-l", f"snapshot.name={job}"]))
                break  # none: its image is not in use any more
        elif op == "external snapshot":
            q("blockdev-snapshot-sync", args={"snapshot-file": str(self.dir / f"{tag}.qcow2"), "snapshot-node-name": job, **self.disk_arg()})
        elif op == "resize":
            q("block_resize", size=len(self.want) + MB // 2, **self.disk_arg())
            self.want += bytes(MB // 2)
        elif op == "unplug":
            q("device_del", id=f"d{self.k}")
            assert not any(b.get("qdev", "").endswith(f"d{self.k}/virtio-backend") for b in q("query-block"))
            q("blockdev-del", node_name=self.live_node())

    def save(self, job):
        node = self.live_node()
        self.m.qmp.cmd("snapshot-save", job_id=job, tag=job, vmstate=node, devices=[node])
        self.m.qmp.event("JOB_STATUS_CHANGE", id=job, status="concluded")
        info = next(j for j in self.m.qmp.cmd("query-jobs") if j["id"] == job)
        self.m.qmp.cmd("job-dismiss", id=job)
        if "error" in info:
            raise QMPError("snapshot-save", {"class": "GenericError", "desc": info["error"]})

    def disk_arg(self):
        return {"node-name": self.node("top")} if self.first == "unplug" else {"device": f"d{self.k}"}

    def end(self, op, tag):
        if op not in JOBS:
            return
        job = f"d{self.k}" if op == "block_copy" else self.node(tag)
        if any(j["device"] == job for j in self.m.qmp.cmd("query-block-jobs")):
            try:
                self.m.qmp.cmd("block-job-set-speed", device=job, speed=0)
            except QMPError as e:
                assert "cannot accept command verb" in e.desc or "not found" in e.desc  # it has just ended
        if (op, self.second) in WAITS:
            self.let_go(job)
        if op in ("mirror", "commit"):
            self.m.qmp.event("BLOCK_JOB_READY", device=job)
            self.write()
            self.m.qmp.cmd("job-complete", id=job)
        done = self.m.qmp.event("BLOCK_JOB_COMPLETED", device=job)["data"]
        assert "error" not in done, (str(self), done)

    def let_go(self, job):
        """The job waits for the snapshots' end; they hold what they should until then. Whether it did."""
        limit = time.monotonic() + 60
        while "has internal snapshots" not in (info := next((j for j in self.m.qmp.cmd("query-jobs") if j["id"] == job), {})).get("wait-reason", ""):
            if not info:
                return False
            assert time.monotonic() < limit, (str(self), info)
        self.write()
        assert self.disk.flush() == 0
        for check in [c for c in self.checks if "-l" in c[3]]:
            self.checks.remove(check)
            self.holds(*check)
            self.forget(check[3][1].split("=")[1])
        return True

    def forget(self, tag):
        node = next(n["node-name"] for n in self.m.qmp.cmd("query-named-block-nodes") if n["drv"] == "qcow2" and any(s["name"] == tag for s in n["image"].get("snapshots", [])))
        self.m.qmp.cmd("snapshot-delete", job_id=f"{tag}-gone", tag=tag, devices=[node])
        self.m.qmp.event("JOB_STATUS_CHANGE", id=f"{tag}-gone", status="concluded")
        assert "error" not in next(j for j in self.m.qmp.cmd("query-jobs") if j["id"] == f"{tag}-gone")
        self.m.qmp.cmd("job-dismiss", id=f"{tag}-gone")

    def names(self, op, tag):
        """What an error about it must say."""
        return {"block_copy": f"d{self.k}", "unplug": "no medium|Cannot find|not found"}.get(op, self.node(tag))

    # --- a pair -------------------------------------------------------------------------------------------------------------

    def live_node(self):
        for b in self.m.qmp.cmd("query-block"):
            if b.get("qdev", "").split("/")[3:4] == [f"d{self.k}"]:
                return b["inserted"]["node-name"]
        return self.node("top")

    def run(self, m, disk):
        self.m, self.disk = m, disk
        self.write()
        if self.first == "unplug":
            m.qmp.cmd("device_del", id=f"d{self.k}")
        else:
            self.begin(self.first, "a")
        self.write()
        refused = outcome(self.first, self.second)
        checks = list(self.checks)
        try:
            self.begin(self.second, "b")
            assert not refused, f"{self}: should have been refused"
        except QMPError as e:
            assert refused, f"{self}: {e}"
            assert re.search(self.names(self.first, "a"), e.desc), f"{self}: {e} does not name the first"
            self.checks = checks
        self.write()
        both = [(self.first, "a")] + ([] if refused else [(self.second, "b")])
        for op, tag in both[::-1] if self.ends == "first" else both:
            self.end(op, tag)
            self.write()
        assert not [j for j in m.qmp.cmd("query-jobs") if str(self.k) == j["id"][1:]], str(self)
        gone = "unplug" in (self.first, self.second) and not refused
        if self.disk:
            for off in range(0, len(self.want), MB // 4):
                assert self.disk.contents(off, MB // 4) == self.want[off:off + MB // 4], f"{self}: the guest sees else"
            assert self.disk.flush() == 0
        if not gone:
            node = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == self.live_node())
            self.checks.append((node["image"]["filename"], node["drv"], bytes(self.want), []))

    def check(self):
        for check in self.checks:
            self.holds(*check)

    def holds(self, path, fmt, want, options):
        out = self.dir / "out"
        img("convert", "-U", "-f", fmt, "-O", "raw", *options, path, out)
        assert out.read_bytes() == want, f"{self}: {path} {' '.join(options)} holds else"


def cases():
    for first, second in itertools.product(OPERATIONS, OPERATIONS):
        yield first, second, "last"
        if first in JOBS and second in JOBS and not outcome(first, second):
            yield first, second, "first"


def packs():
    """So many of them for a machine: those with a device that goes are on PCI, and are not written to."""
    all_cases = list(cases())
    still = [c for c in all_cases if "unplug" in c[:2]]
    moving = [c for c in all_cases if "unplug" not in c[:2]]
    return [still] + [moving[i:i + DISKS] for i in range(0, len(moving), DISKS)]


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return Chain(tmp_path_factory.mktemp("matrix"), size=2 * MB)  # more than a copy takes in one piece


@pytest.mark.parametrize("pack", range(len(packs())))
def test_pairs(machine, template, pack):
    pairs = packs()[pack]
    disks = [Case(f"{pack}x{i}", template, pair) for i, pair in enumerate(pairs)]
    m = machine("-machine", "virt", "-m", "128", *itertools.chain(*(d.words() for d in disks)))
    drivers = {d.serial(): d for d in (Disk(m, i) for i in range(len(disks)))} if pack else {}
    for d in disks:
        d.run(m, drivers.get(d.k))
    assert m.quit()[0] == 0
    for d in disks:
        d.check()


def ready_ones(m):
    return [j["id"] for j in m.qmp.cmd("query-jobs") if j["status"] == "ready"]


def complete(m, job):
    try:
        m.qmp.cmd("job-complete", id=job)
    except QMPError:
        pass  # it has ended by itself


@pytest.mark.parametrize("seed", range(200 if LONG else 6))
def test_in_any_order(machine, template, seed, monkeypatch):
    """Five at random, as fast as they can: they end at the same time, or not; the guest sees its disk all the while."""
    monkeypatch.setattr(sys.modules[__name__], "SLOW", 1 << 30)
    dice = random.Random(seed)
    d = Case(f"r{seed}", template, ("mirror", "mirror", "last"))
    m = machine("-machine", "virt", "-m", "128", *d.words())
    d.m, d.disk = m, Disk(m)
    story = []
    for tag in "stuvw":
        op, checks = dice.choice([o for o in OPERATIONS if o not in ("block_copy", "resize", "unplug")]), list(d.checks)
        try:
            d.begin(op, tag)
            story.append(op)
        except QMPError as e:
            story.append(f"{op}: {e}")
            d.checks = checks
        d.write(dice.randrange(3))
        for job in ready_ones(m):
            if dice.random() < 0.7:
                complete(m, job)
    end = time.monotonic() + 60
    while m.qmp.cmd("query-jobs"):
        assert time.monotonic() < end, story
        for job in ready_ones(m):
            complete(m, job)
        for job in [j["id"] for j in m.qmp.cmd("query-jobs") if "has internal snapshots" in j.get("wait-reason", "")]:
            d.let_go(job)
    d.write()
    for off in range(0, len(d.want), MB // 4):
        assert d.disk.contents(off, MB // 4) == d.want[off:off + MB // 4], story
    while [n for n in m.qmp.cmd("query-named-block-nodes") if n["drv"] in ("mirror_top", "copy-on-read", "copy-before-write")]:
        assert time.monotonic() < end, story  # a filter is flushed before it is gone
    nodes = {n["node-name"]: n for n in m.qmp.cmd("query-named-block-nodes")}
    live = nodes[d.live_node()]
    d.checks.append((live["image"]["filename"], live["drv"], bytes(d.want), []))
    assert d.disk.flush() == 0 and m.quit()[0] == 0
    d.check()


def test_the_page_says_so():
    subprocess.run([sys.executable, os.path.join(TOP, "scripts", "matrix.py"), "--check"], check=True)
