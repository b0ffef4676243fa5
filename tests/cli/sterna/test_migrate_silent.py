# SPDX-License-Identifier: BSD-2-Clause
"""The other side says nothing any more, and its connection stays: nobody waits for it for ever."""
import socket, struct

import pytest
from faulty_link import FORTH, FaultyLink
from moving import RAM, has_failed, machine, over, running, status, until
from statefile import crc32c

SIZE = 1 << 20


class Two:
    """The destination's answer-timeout can be set before the source comes."""

    def __init__(self, tmp, *args):
        self.tmp = tmp
        self.src = machine(tmp / "source", *self.disk("here"), *args)
        self.dst = machine(tmp / "destination", *self.disk("there"), *args, "-incoming", "defer")
        self.link = FaultyLink(tmp / "link", tmp / "in")
        assert self.src.ask(f"write {RAM + 0x100000:#x} 4 0x01020304") == "OK"

    def disk(self, name):
        (self.tmp / name).write_bytes(b"x" * SIZE)
        return ("-blockdev", f"driver=raw,node-name=d,file.driver=file,file.filename={self.tmp}/{name}", "-device", "virtio-blk-device,drive=d,id=disk0")

    def close(self):
        for x in self.link, self.src, self.dst:
            x.close()

    def listen(self, **parameters):
        self.dst.qmp.cmd("migrate-set-parameters", **parameters)
        self.dst.qmp.cmd("migrate-incoming", uri=f"unix:{self.tmp}/in")

    def go(self, mode="none", **parameters):
        self.src.qmp.cmd("migrate-set-parameters", **parameters)
        self.src.qmp.cmd("migrate", uri=f"unix:{self.tmp}/link", disks=[{"device": "disk0", "mode": mode}])

    def runs_here(self):
        assert running(self.src) and not running(self.dst)
        assert self.src.ask(f"read {RAM + 0x100000:#x} 4") == "OK 0x01020304"

    def error(self):
        return self.src.qmp.cmd("query-migrate")["error-desc"]


@pytest.fixture
def two(tmp_path):
    made = []

    def make(*args):
        made.append(Two(tmp_path, *args))
        return made[-1]
    yield make
    for t in made:
        t.close()


def test_a_link_that_stalls(two):
    """While a disk is copied: the source gives up and runs on; the destination ends when it hears of that."""
    t = two()
    t.listen()
    t.link.fault("stall", FORTH, 100_000)
    t.go("pre-copy", answer_timeout=2000)
    assert t.link.stalled.wait(60)
    assert over(t.src) == "failed" and "answer-timeout" in t.error(), t.error()
    t.runs_here()
    assert status(t.dst) in ("setup", "active")
    t.link.cut()
    assert has_failed(t.dst)
    assert t.src.qmp.cmd("query-jobs") == []


def test_a_source_that_falls_silent(two):
    """The destination, which has been given pages, ends; the source finds that its connection is closed."""
    t = two()
    t.listen(answer_timeout=2000)
    t.src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    t.go()
    until(t.src, "pre-switchover")
    t.link.hold()
    assert has_failed(t.dst)
    t.link.release()
    assert over(t.src) == "failed"
    t.runs_here()


def test_both_sides_wait_and_say_so(two):
    """Nothing is due for longer than anybody's patience, and the link is whole."""
    t = two()
    t.listen(answer_timeout=2000)
    t.src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    t.go(answer_timeout=2000)
    until(t.src, "pre-switchover")
    t.link.over.wait(3)  # longer than each would wait for a word
    assert status(t.src) == "pre-switchover" and status(t.dst) == "active"
    t.src.qmp.cmd("migrate-continue", state="pre-switchover")
    assert over(t.src) == "completed" and until(t.dst, "completed")


def test_post_copy_of_a_link_that_stalls(two, tmp_path):
    """Both are paused, and go on over another connection."""
    t = two()
    caps = [{"capability": "postcopy-ram", "state": True}, {"capability": "pause-before-switchover", "state": True}]
    for m in t.src, t.dst:
        m.qmp.cmd("migrate-set-capabilities", capabilities=caps)
    t.listen(answer_timeout=2000)
    assert t.src.ask(f"write {RAM + 0x200000:#x} 1048576 0x{'5a' * 1048576}") == "OK"
    t.go(answer_timeout=2000, max_bandwidth=65536, max_postcopy_bandwidth=65536)
    until(t.src, "active")
    t.src.qmp.cmd("migrate-start-postcopy")
    until(t.src, "pre-switchover", "postcopy-active")
    if status(t.src) == "pre-switchover":
        t.src.qmp.cmd("migrate-continue", state="pre-switchover")
    until(t.dst, "postcopy-active")
    until(t.src, "postcopy-active")
    t.link.hold()
    assert until(t.src, "postcopy-paused") and until(t.dst, "postcopy-paused")
    t.src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    t.dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/again")
    t.src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/again", resume=True)
    assert until(t.src, "completed") and until(t.dst, "completed")
    assert t.dst.ask(f"read {RAM + 0x2ff000:#x} 4") == "OK 0x5a5a5a5a"


def test_somebody_comes_and_says_nothing(two):
    """He is sent away; who comes after him is let in."""
    t = two()
    t.listen(answer_timeout=500)
    hello = struct.pack("<8sIII8x", b"\x8eSTMOVE\x1a", 1, 1, 0)
    for said in b"", hello[:8], hello + crc32c(hello).to_bytes(4, "little"):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(t.tmp / "in"))
            s.sendall(said)
            s.settimeout(20)
            assert s.recv(4)[:4] == b"FAIL"
    assert status(t.dst) == "setup"
    t.dst.qmp.cmd("migrate-set-parameters", answer_timeout=30000)
    t.go()
    assert over(t.src) == "completed" and until(t.dst, "completed")
