# SPDX-License-Identifier: BSD-2-Clause
"""sternactl beside a machine that it speaks to over a socket of its own."""
import json, os, select, subprocess, sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(TOP, "tests", "lib"))
from machine import Machine  # noqa: E402
from sterna import program, run  # noqa: E402

MB = 1 << 20


def img(*args):
    return subprocess.run([program("sterna-img"), *map(str, args)], check=True, capture_output=True, text=True).stdout


class Ctl(Machine):
    """A machine with the disk disk0 (node d0: top.qcow2 over base.qcow2, 4 MiB written), and sternactl."""

    def __init__(self, tmp, *args, **kw):
        self.tmp, self.socket = tmp, str(tmp / "ctl.sock")
        self.base, self.top = tmp / "base.qcow2", tmp / "top.qcow2"
        if not self.base.exists():
            img("create", "-q", "-f", "qcow2", self.base, "16M")
            subprocess.run([program("sterna-io"), "-c", "write -P 7 0 4M", self.base], check=True, stdout=subprocess.DEVNULL)
            img("create", "-q", "-f", "qcow2", "-o", "cluster_size=32k", "-b", "base.qcow2", "-F", "qcow2", self.top)
            subprocess.run([program("sterna-io"), "-c", "write -P 9 1M 64k", self.top], check=True, stdout=subprocess.DEVNULL)
        super().__init__(tmp, "-nodefaults", "-name", "tern", "-qmp", f"unix:{self.socket},server=on,wait=off",
                         "-blockdev", f"driver=qcow2,node-name=d0,file.driver=file,file.filename={self.top}",
                         "-device", "virtio-blk-device,drive=d0,id=disk0", *args, **kw)

    def command(self, *args):
        return [program("sternactl"), "-s", self.socket, *map(str, args)]

    def __call__(self, *args, **kw):
        return run(*self.command(*args), **kw)

    def popen(self, *args, **kw):
        return subprocess.Popen(self.command(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

    def listening(self, *args):
        """`sternactl events`, connected: it has printed an event, STOP or RESUME, and may print more of them."""
        p = self.popen("events", *args)
        while not select.select([p.stdout], [], [], 0.05)[0]:
            self.qmp.cmd("stop")
            self.qmp.cmd("cont")
        return p

    def json(self, *args):
        return [json.loads(line) for line in self("--json", *args).ok().out.splitlines()]

    def disk(self):
        return self.json("disks")[0]

    def nodes(self):
        return {n["node-name"] for n in self.qmp.cmd("query-named-block-nodes")}


@pytest.fixture
def ctl(tmp_path):
    made = []

    def start(*args, **kw):
        made.append(Ctl(tmp_path, *args, **kw))
        return made[-1]
    yield start
    for m in made:
        m.close()
