# SPDX-License-Identifier: BSD-2-Clause
"""A chain of twenty images, jobs on several of its parts at a time, and a guest that writes meanwhile."""
import json

import pytest
from chain import MB, Chain, img
from qmp import QMPError
from qtest_disk import Disk

LAYERS = 20


class Tower(Chain):
    """n0 ← n1 ← … ← n19, with something in each."""

    def __init__(self, tmp, size=4 * MB):
        super().__init__(tmp, size)
        self.path = {f"n{i}": tmp / f"n{i}.qcow2" for i in range(LAYERS)}
        self.want = bytearray(size)
        for i, (name, path) in enumerate(self.path.items()):
            img("create", "-q", "-f", "qcow2", *(["-b", f"n{i - 1}.qcow2", "-F", "qcow2"] if i else []), path, size)
            self.scribble(name, size)

    def blockdev(self):
        words = []
        for i, (name, path) in enumerate(self.path.items()):
            node = {"driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": str(path)}, "backing": f"n{i - 1}" if i else None,
                    "read-only": i < LAYERS - 1}
            words += ["-blockdev", json.dumps(node)]
        return words


def names(t, path):
    return [i["filename"].rsplit("/", 1)[-1].removesuffix(".qcow2") for i in json.loads(img("info", "--backing-chain", "--output=json", path))]


def test_jobs_on_parts(machine, tmp_path):
    t = Tower(tmp_path)
    for name in ("copy", "backup"):
        img("create", "-q", "-f", "qcow2", tmp_path / f"{name}.qcow2", len(t.want))
    m = machine("-machine", "virt", "-m", "64", *t.blockdev(), "-device", "virtio-blk-device,drive=n19,id=disk0")
    disk = Disk(m)
    for name in ("copy", "backup"):
        m.qmp.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": str(tmp_path / f"{name}.qcow2")})
    then = bytes(t.want)
    slow = dict(speed=MB // 8, auto_dismiss=False)
    m.qmp.cmd("block-stream", job_id="stream", device="n5", base_node="n2", **slow)
    m.qmp.cmd("block-stream", job_id="higher", device="n17", base_node="n15", **slow)
    m.qmp.cmd("block-commit", job_id="commit", device="n19", top_node="n12", base_node="n9", **slow)
    m.qmp.cmd("blockdev-backup", job_id="backup", device="n19", target="backup", sync="full", **slow)
    m.qmp.cmd("blockdev-mirror", job_id="copy", device="disk0", target="copy", sync="full", **slow)
    with pytest.raises(QMPError, match="job 'commit'|job 'stream'|in use|busy"):  # a part of what is being merged down
        m.qmp.cmd("block-commit", job_id="no", device="n19", top_node="n11", base_node="n4")
    for i in range(60):
        off, data = t.random.randrange(0, len(t.want) // 4096) * 4096, bytes([i + 1]) * 4096
        assert disk.write(off, data) == 0
        t.want[off:off + 4096] = data
        if i == 40:
            for job in ("stream", "higher", "commit", "backup", "copy"):
                m.qmp.cmd("block-job-set-speed", device=job, speed=0)
    m.qmp.event("BLOCK_JOB_READY", device="copy")
    assert disk.contents(0, 65536) == t.want[:65536]
    m.qmp.cmd("job-complete", id="copy")
    for job in ("stream", "higher", "commit", "backup", "copy"):
        assert "error" not in m.qmp.event("BLOCK_JOB_COMPLETED", device=job)["data"]
    assert disk.write(0, b"after" * 102 + b"..") == 0
    t.want[0:512] = b"after" * 102 + b".."
    assert m.quit()[0] == 0
    assert names(t, t.path["n19"]) == [f"n{i}" for i in (19, 18, 17, *range(15, 12, -1), *range(9, 4, -1), 2, 1, 0)]
    out = tmp_path / "out.raw"
    for name, want in (("copy", t.want), ("backup", then)):
        img("convert", "-f", "qcow2", "-O", "raw", tmp_path / f"{name}.qcow2", out)
        assert out.read_bytes() == want, name
    old = bytearray(t.want)
    old[0:512] = t.contents("n19")[0:512]
    assert t.contents("n19") == old  # as it was at the switch
