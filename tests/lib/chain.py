# SPDX-License-Identifier: BSD-2-Clause
"""A chain of three images under a machine, and what its guest must see of it."""
import json, os, random, subprocess

from qtest_disk import Disk
from sterna import program

MB = 1 << 20
SIZE = 8 * MB


def img(*args):
    p = subprocess.run([program("sterna-img"), *map(str, args)], capture_output=True, text=True)
    assert p.returncode == 0, f"{p.args}: {p.stderr}"
    return p.stdout


class Chain:
    """base ← mid ← top; `want` is what the guest must see of top."""

    def __init__(self, tmp, size=SIZE, seed=1):
        self.tmp, self.random = tmp, random.Random(seed)
        self.want = bytearray(size)
        self.path = {n: tmp / f"{n}.qcow2" for n in ("base", "mid", "top")}
        img("create", "-q", "-f", "qcow2", self.path["base"], size)
        self.scribble("base", size)
        for below, name in (("base", "mid"), ("mid", "top")):
            img("create", "-q", "-f", "qcow2", "-b", f"{below}.qcow2", "-F", "qcow2", self.path[name])
            self.scribble(name, size)

    def scribble(self, name, size):
        commands = []
        for _ in range(12):
            n = self.random.randrange(1, 200) * 512
            off = self.random.randrange(0, (size - n) // 512) * 512
            pattern = self.random.randrange(1, 256)
            zero = self.random.random() < 0.2
            commands += ["-c", f"write {'-z' if zero else f'-P {pattern}'} {off} {n}"]
            self.want[off:off + n] = bytes([0 if zero else pattern]) * n
        subprocess.run([program("sterna-io"), "-f", "qcow2", *commands, self.path[name]], check=True, stdout=subprocess.DEVNULL)

    def blockdev(self):
        """Arguments that make nodes base, mid and top."""
        words = []
        for name, backing in (("base", None), ("mid", "base"), ("top", "mid")):
            file = {"driver": "file", "filename": str(self.path[name])}
            node = {"driver": "qcow2", "node-name": name, "file": file, "backing": backing, "read-only": name != "top"}
            words += ["-blockdev", json.dumps(node)]
        return words

    def contents(self, name="top"):
        out = self.tmp / "out.raw"
        img("convert", "-f", "qcow2", "-O", "raw", self.path[name], out)
        return out.read_bytes()

    def info(self, name="top"):
        return json.loads(img("info", "--output=json", self.path[name]))


def start(machine, chain, *args):
    m = machine("-machine", "virt", "-m", "128", *chain.blockdev(), "-device", "virtio-blk-device,drive=top,id=disk0", *args)
    return m, Disk(m)


def finish(m, job="s"):
    return m.qmp.event("BLOCK_JOB_COMPLETED", device=job)["data"]


def layers(m, node="top"):
    node = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == node)
    names, image = [], node["image"]
    while image:
        names.append(os.path.basename(image["filename"]))
        image = image.get("backing-image")
    return names
