# SPDX-License-Identifier: BSD-2-Clause
"""Two managers at once start, complete and cancel jobs and put snapshots on one chain as fast as they can, without looking what the other
does; whatever is refused, the disk always shows what was written to it.

STERNA_HAMMER_SECONDS (3) and STERNA_TEST_SEED make it longer, or another one.
"""
import os, random, threading, time

from chain import img
from conftest import Machine
from qmp import QMPError, connect
from qtest_disk import Disk

MB = 1 << 20
SIZE, BLOCK = 4 * MB, 4096
SECONDS = float(os.environ.get("STERNA_HAMMER_SECONDS", 3))
SEED = int(os.environ.get("STERNA_TEST_SEED", 1))
SPEEDS = [0, 0, 32 * MB]


class Anvil:
    """What both managers hit: where the disk's files are, and their names."""

    def __init__(self, tmp):
        self.tmp, self.number, self.files = tmp, 0, threading.Lock()  # held while a file is there that no node uses yet
        self.over, self.died, self.done, self.story = False, [], 0, []

    def path(self, name):
        return str(self.tmp / f"{name}.qcow2")

    def next(self, kind):
        self.number += 1
        return f"{kind}{self.number}"


class Manager(threading.Thread):
    def __init__(self, anvil, qmp, seed):
        super().__init__()
        self.anvil, self.qmp, self.random = anvil, qmp, random.Random(seed)

    def cmd(self, name, **args):
        answer = self.qmp.cmd(name, **args)
        if not name.startswith("query"):
            self.anvil.story.append(f"{name} {args}")
            self.anvil.done += 1
        return answer

    def chain(self):
        """(the disk's node, the files of its layers)"""
        inserted = next(b["inserted"] for b in self.cmd("query-block") if b.get("inserted"))
        layers, image = [], inserted["image"]
        while image:
            layers.append(image["filename"])
            image = image.get("backing-image")
        return inserted["node-name"], layers

    def snapshot(self, node, layers):
        if len(layers) < 8:
            with self.anvil.files:
                self.cmd("blockdev-snapshot-sync", device="d", snapshot_file=self.anvil.path(self.anvil.next("s")), format="qcow2")

    def stream(self, node, layers):
        base = self.random.choice([None, *layers[1:]])
        self.cmd("block-stream", job_id=self.anvil.next("j"), device=node, speed=self.random.choice(SPEEDS), **({"base": base} if base else {}))

    def commit(self, node, layers):
        if len(layers) > 1:
            top = self.random.randrange(len(layers) - 1)
            self.cmd("block-commit", job_id=self.anvil.next("j"), device=node, speed=self.random.choice(SPEEDS),
                     base=layers[self.random.randrange(top + 1, len(layers))], **({"top": layers[top]} if top else {}))

    def copy(self, node, layers):
        name = self.anvil.next("t")
        with self.anvil.files:
            img("create", "-q", "-f", "qcow2", self.anvil.path(name), SIZE)
            self.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": self.anvil.path(name)})
        self.cmd("blockdev-mirror", job_id=self.anvil.next("j"), device=node, target=name, sync="full",
                 copy_mode=self.random.choice(["background", "write-blocking"]))

    def meddle(self, node, layers):
        jobs = self.cmd("query-jobs")
        if jobs:
            self.cmd(self.random.choice(["job-complete", "job-complete", "job-cancel"]), id=self.random.choice(jobs)["id"])

    def sweep(self):
        """Old targets and files go."""
        with self.anvil.files:
            for node in self.cmd("query-named-block-nodes"):
                if node["drv"] == "qcow2" and node["node-name"].startswith("t"):
                    self.tried(lambda name=node["node-name"]: self.cmd("blockdev-del", node_name=name))
            used = {n["file"] for n in self.cmd("query-named-block-nodes")}
            for path in self.anvil.tmp.glob("*.qcow2"):
                if str(path) not in used:
                    path.unlink()

    def tried(self, what):
        try:
            what()
        except QMPError:
            pass

    def hit(self):
        for n in range(1 << 30):
            if self.anvil.over:
                return
            if n % 20 == 19:
                self.sweep()
            what = self.random.choice([self.snapshot, self.stream, self.stream, self.commit, self.commit, self.copy, self.meddle, self.meddle])
            self.tried(lambda: what(*self.chain()))
            if self.random.random() < 0.3:
                time.sleep(self.random.choice([0, 0.001, 0.01]))

    def run(self):
        try:
            self.hit()
        except Exception as e:  # for the one who waits: a thread's own end says nothing to pytest
            self.anvil.died.append(e)


def write_and_look(disk, want, dice, anvil):
    """The guest, until time is over and the managers have done something, however slow the host is."""
    end, stamp, enough = time.monotonic() + SECONDS, 0, 5 * SECONDS
    while (time.monotonic() < end or (anvil.done <= enough and time.monotonic() < end + 60)) and not anvil.died:
        stamp += 1
        off = dice.randrange(SIZE // BLOCK) * BLOCK
        data = stamp.to_bytes(8, "little") * (BLOCK // 8)
        assert disk.write(off, data) == 0
        want[off:off + BLOCK] = data
        if dice.random() < 0.5:
            off = dice.randrange(SIZE // BLOCK) * BLOCK
            assert disk.contents(off, BLOCK) == want[off:off + BLOCK], (hex(off), stamp, anvil.story[-40:])
        if dice.random() < 0.1:
            assert disk.flush() == 0


def test_hammer(tmp_path):
    anvil, want = Anvil(tmp_path), bytearray(SIZE)
    img("create", "-q", "-f", "qcow2", anvil.path("first"), SIZE)
    m = Machine(tmp_path, "-machine", "virt", "-m", "16", "-drive", f"if=none,id=d,file={anvil.path('first')},format=qcow2",
                "-device", "virtio-blk-device,drive=d", "-qmp", f"unix:{tmp_path}/second,server=on,wait=off")
    managers = [Manager(anvil, q, SEED * 10 + i) for i, q in enumerate([m.qmp, connect(str(tmp_path / "second"))])]
    try:
        disk = Disk(m)
        for x in managers:
            x.start()
        try:
            write_and_look(disk, want, random.Random(SEED), anvil)
        finally:
            anvil.over = True
            for x in managers:
                x.join(30)
        assert not anvil.died and m.process.poll() is None, (anvil.died, anvil.story[-40:])
        for off in range(0, SIZE, MB // 4):
            assert disk.contents(off, MB // 4) == want[off:off + MB // 4], anvil.story[-40:]
        assert anvil.done > 5 * SECONDS
        last = managers[0].chain()[1]
        assert disk.flush() == 0 and m.quit()[0] == 0
        assert img_contents(last[0], tmp_path) == want
    finally:
        m.process.kill()
        m.close()


def img_contents(path, tmp):
    img("check", "-q", path)
    img("convert", "-O", "raw", path, tmp / "out.raw")
    return (tmp / "out.raw").read_bytes()
