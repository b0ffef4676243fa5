# SPDX-License-Identifier: BSD-2-Clause
"""-state and what works on disks: after kill -9 the file alone leads to the disk that has every write, and jobs go on."""
import random, threading, time

import pytest
from chain import MB, SIZE, Chain, img
from qmp import QMPError
from qtest_disk import Disk


class Life:
    """A machine with a chain of images as its disk, killed and started again."""

    def __init__(self, machine, tmp):
        self.machine, self.tmp, self.chain = machine, tmp, Chain(tmp)
        self.state, self.want, self.count = tmp / "vm.state", self.chain.want, 0
        self.m = machine("-machine", "virt", "-m", "128", "-state", self.state, *self.chain.blockdev(), "-device", "virtio-blk-device,drive=top,id=disk0")
        self.q, self.disk = self.m.qmp, Disk(self.m)

    def again(self):
        self.m.process.kill()
        self.m.process.wait()
        self.m.close()
        (self.tmp / "qtest.sock").unlink()
        self.m = self.machine("-state", self.state)
        self.q, self.disk = self.m.qmp, Disk(self.m)

    def write(self, n=1):
        for _ in range(n):
            self.count += 1
            off = self.count * 4096 % SIZE
            data = bytes([self.count % 251 + 1]) * 4096
            assert self.disk.write(off, data) == 0 and self.disk.flush() == 0
            self.want[off:off + 4096] = data

    def check(self):
        for off in range(0, SIZE, 32768):
            assert self.disk.contents(off, 32768) == bytes(self.want[off:off + 32768]), f"at {off}"

    def target(self, name):
        path = self.tmp / f"{name}.qcow2"
        img("create", "-q", "-f", "qcow2", path, SIZE)
        self.q.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": str(path)})

    def layers(self):
        """The names of the disk's images, from the top."""
        image, out = self.q.cmd("query-block")[0]["inserted"]["image"], []
        while image:
            out.append(image["filename"].rsplit("/", 1)[1].split(".")[0])
            image = image.get("backing-image")
        return out

    def sections(self, kind):
        return {s.get("name"): s["values"] for s in self.q.cmd("query-state")["sections"] if s["kind"] == kind}

    def finished(self, job="j"):
        assert "error" not in self.q.event("BLOCK_JOB_COMPLETED", device=job)["data"]


def mirror(life):
    life.target("copy")
    life.q.cmd("blockdev-mirror", job_id="j", device="top", target="copy", sync="full")
    life.q.event("BLOCK_JOB_READY", device="j")
    life.q.cmd("job-complete", id="j")
    life.finished()


def drive_mirror(life):
    life.q.cmd("drive-mirror", job_id="j", device="top", target=str(life.tmp / "copy.qcow2"), format="qcow2", sync="full")
    life.q.event("BLOCK_JOB_READY", device="j")
    life.q.cmd("block-job-complete", device="j")
    life.finished()


def block_copy(life):
    img("create", "-q", "-f", "qcow2", life.tmp / "copy.qcow2", SIZE)
    life.q.cmd("block_copy", args={"device": "disk0", "filename": str(life.tmp / "copy.qcow2")})
    life.finished("disk0")


def active_commit(life):
    life.q.cmd("block-commit", job_id="j", device="top", base_node="base")
    life.q.event("BLOCK_JOB_READY", device="j")
    life.q.cmd("job-complete", id="j")
    life.finished()


def commit(life):
    life.q.cmd("block-commit", job_id="j", device="top", base_node="base", top_node="mid")
    life.finished()


def stream(life):
    life.q.cmd("block-stream", job_id="j", device="top", base_node="base")
    life.finished()


def stream_all(life):
    life.q.cmd("block-stream", job_id="j", device="top")
    life.finished()


def snapshot(life):
    img("create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", life.tmp / "over.qcow2")
    life.q.cmd("blockdev-add", driver="qcow2", node_name="over", backing=None, file={"driver": "file", "filename": str(life.tmp / "over.qcow2")})
    life.q.cmd("blockdev-snapshot", node="top", overlay="over")


def snapshot_sync(life):
    life.q.cmd("blockdev-snapshot-sync", args={"node-name": "top", "snapshot-file": str(life.tmp / "over.qcow2"), "snapshot-node-name": "over"})


def transaction(life):
    life.q.cmd("transaction", actions=[
        {"type": "block-dirty-bitmap-add", "data": {"node": "top", "name": "map"}},
        {"type": "blockdev-snapshot-sync", "data": {"node-name": "top", "snapshot-file": str(life.tmp / "over.qcow2"), "snapshot-node-name": "over"}}])


@pytest.mark.parametrize("change, layers", [
    (mirror, ["copy"]), (drive_mirror, ["copy"]), (block_copy, ["copy"]), (active_commit, ["base"]), (commit, ["top", "base"]), (stream, ["top", "base"]),
    (stream_all, ["top"]), (snapshot, ["over", "top", "mid", "base"]), (snapshot_sync, ["over", "top", "mid", "base"]),
    (transaction, ["over", "top", "mid", "base"])])
def test_switches(machine, tmp_path, change, layers):
    """Killed once a write that only the new side has was acknowledged."""
    life = Life(machine, tmp_path)
    life.write(3)
    change(life)
    life.write(3)
    assert life.layers() == layers
    life.again()
    assert life.layers() == layers and not life.sections("job")
    life.check()
    life.write(3)
    life.again()
    life.check()


def write_until_killed(life, after, command=None):
    """The program dies while its guest writes, and this was asked for; the next one has every write that was acknowledged."""
    off = before = data = None
    killer = threading.Timer(after, life.m.process.kill)
    killer.start()
    try:
        if command:
            life.q.send(command)
        while True:
            life.count += 1
            off, data = life.count * 4096 % SIZE, bytes([life.count % 251 + 1]) * 4096
            before = bytes(life.want[off:off + 4096])
            assert life.disk.write(off, data) == 0 and life.disk.flush() == 0
            life.want[off:off + 4096] = data
    except (OSError, EOFError, AssertionError):
        pass
    killer.join()
    life.again()
    if data:  # the write under way may have happened or not
        got = life.disk.contents(off, 4096)
        assert got in (before, data)
        life.want[off:off + 4096] = got
    life.check()


def instants(least, rng, within):
    """Random ones, at least so many, and later ones on a slow host: the body sends True when the change was made. Ends once it was."""
    made, n = False, 0
    while n < least or not made and n < least + 8:
        done = yield n, rng.random() * within
        yield
        made, n, within = made or done, n + 1, within if done or made else within * 2
    assert made


def test_killed_around_the_switch(machine, tmp_path):
    """At random instants, while the guest writes: whichever side the file names has it all."""
    life, tries = Life(machine, tmp_path), instants(6, random.Random(7), 0.05)
    for i, after in tries:
        name, node = f"t{i}", life.q.cmd("query-block")[0]["inserted"]["node-name"]
        life.target(name)
        life.q.cmd("blockdev-mirror", job_id="j", device=node, target=name, sync="full")
        end = time.monotonic() + 30
        while not all(j["ready"] for j in life.q.cmd("query-block-jobs")):  # events may be those of the job of the life before
            assert time.monotonic() < end
            time.sleep(0.001)
        life.q.cmd("job-complete", id="j")
        write_until_killed(life, after)
        on = life.q.cmd("query-block")[0]["inserted"]["node-name"]
        assert on in (node, name)
        tries.send(on == name)
        if on == node:
            assert set(life.sections("job")) == {"j"}
            life.q.cmd("job-cancel", id="j")
            life.q.event("BLOCK_JOB_CANCELLED", device="j")


def begin_snapshot(life, i, node):
    return "blockdev-snapshot-sync", {"node-name": node, "snapshot-file": str(life.tmp / f"over{i}.qcow2"), "snapshot-node-name": f"over{i}"}


def begin_transaction(life, i, node):
    return "transaction", {"actions": [{"type": "blockdev-snapshot-sync", "data": begin_snapshot(life, i, node)[1]}]}


def begin_drive_mirror(life, i, node):
    life.q.cmd("drive-mirror", job_id="j", device=node, target=str(life.tmp / f"t{i}.qcow2"), format="qcow2", sync="full", node_name=f"t{i}")
    end = time.monotonic() + 30
    while not all(j["ready"] for j in life.q.cmd("query-block-jobs")):
        assert time.monotonic() < end
        time.sleep(0.001)
    return "block-job-complete", {"device": "j"}


def begin_block_copy(life, i, node):
    img("create", "-q", "-f", "qcow2", life.tmp / f"t{i}.qcow2", SIZE)
    return "block_copy", {"device": "disk0", "filename": str(life.tmp / f"t{i}.qcow2")}


@pytest.mark.parametrize("begin", [begin_snapshot, begin_transaction, begin_drive_mirror, begin_block_copy])
def test_killed_around_other_switches(machine, tmp_path, begin):
    life, tries = Life(machine, tmp_path), instants(4, random.Random(11), 0.3 if begin is begin_block_copy else 0.03)
    for i, after in tries:
        node = life.q.cmd("query-block")[0]["inserted"]["node-name"]
        layers = life.layers()
        command, args = begin(life, i, node)
        write_until_killed(life, after, {"execute": command, "arguments": args})
        for job in life.q.cmd("query-block-jobs"):
            try:
                life.q.cmd("block-job-cancel", device=job["device"], force=True)
            except QMPError:
                pass
        end = time.monotonic() + 10
        while life.q.cmd("query-block-jobs"):
            assert time.monotonic() < end
            time.sleep(0.005)
        tries.send(life.layers() != layers)
        life.write()
        life.check()


def test_jobs_go_on(machine, tmp_path):
    life = Life(machine, tmp_path)
    life.target("copy")
    life.target("save")
    life.q.cmd("blockdev-mirror", job_id="j", device="top", target="copy", sync="full", speed=1 << 16)
    life.q.cmd("blockdev-backup", job_id="b", device="top", target="save", sync="full", speed=1 << 16, auto_dismiss=False)
    life.q.cmd("job-pause", id="b")
    life.q.cmd("block-job-set-speed", device="j", speed=1 << 17)
    life.write(2)
    before = life.sections("job")
    assert before["j"]["speed"] == 1 << 17 and before["b"]["paused"] and before["b"]["command"] == "blockdev-backup"
    life.again()
    assert life.sections("job") == before
    jobs = {j["device"]: j for j in life.q.cmd("query-block-jobs")}
    assert jobs["j"]["speed"] == 1 << 17 and jobs["b"]["paused"] and not jobs["b"]["auto-dismiss"]
    life.check()
    for job in ("j", "b"):
        life.q.cmd("block-job-set-speed", device=job, speed=0)
    life.q.cmd("job-resume", id="b")
    life.finished("b")
    life.q.cmd("job-dismiss", id="b")
    life.q.event("BLOCK_JOB_READY", device="j")
    life.q.cmd("job-complete", id="j")
    life.finished("j")
    assert life.layers() == ["copy"] and not life.sections("job")
    life.write(2)
    life.again()
    assert life.layers() == ["copy"]
    life.check()


def test_a_job_that_cannot_go_on(machine, tmp_path):
    """It is said, and the machine starts."""
    life = Life(machine, tmp_path)
    life.q.cmd("drive-backup", job_id="b", device="top", target=str(tmp_path / "save.qcow2"), format="qcow2", sync="full", speed=1)
    assert life.sections("job")["b"]["mode"] == "existing"
    (tmp_path / "save.qcow2").unlink()
    life.again()
    assert not life.sections("job")
    life.m.log.seek(0)
    assert "job 'b' cannot go on after the restart" in life.m.log.read()


def test_a_switch_that_cannot_be_written_down(machine, tmp_path):
    """The job fails, the guest stays where it was, and so does the file."""
    import shutil
    (tmp_path / "s").mkdir()
    life = Life.__new__(Life)
    life.machine, life.tmp, life.chain, life.count = machine, tmp_path, Chain(tmp_path), 0
    life.want = life.chain.want
    life.m = machine("-machine", "virt", "-m", "128", "-state", tmp_path / "s" / "vm.state", *life.chain.blockdev(), "-device",
                     "virtio-blk-device,drive=top,id=disk0")
    life.q, life.disk = life.m.qmp, Disk(life.m)
    life.target("copy")
    life.q.cmd("blockdev-mirror", job_id="j", device="top", target="copy", sync="full")
    life.q.event("BLOCK_JOB_READY", device="j")
    shutil.rmtree(tmp_path / "s")
    life.q.cmd("job-complete", id="j")
    assert "vm.state" in life.q.event("BLOCK_JOB_COMPLETED", device="j")["data"]["error"]
    life.write(3)
    assert life.layers() == ["top", "mid", "base"]
    with pytest.raises(QMPError, match="vm.state"):
        snapshot_sync(life)
    assert life.layers() == ["top", "mid", "base"] and not (tmp_path / "over.qcow2").exists()
    life.check()
