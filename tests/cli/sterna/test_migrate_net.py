# SPDX-License-Identifier: BSD-2-Clause
"""A machine moves over TCP from one host to another, with a network between them that delays, loses packets, or loses them all for a
while: it runs in exactly one place, or waits for the command that docs/migration.md names, and its memory is what it was."""
import os, random, time

import pytest
from lossy_net import LossyNet, why_not
from moving import GOING, RAM, machine, manage, over, running, status, until
from sterna import LONG

SEED = int(os.environ.get("STERNA_TEST_SEED", 1))
ROUNDS = int(os.environ.get("STERNA_NET_ROUNDS", 40))
PAGE, PAGES, FIRST = 4096, 64, RAM + (256 << 10)


KIND = "tun" if why_not("netem") else "netem"  # in each test's name


def long(test):
    """./check takes one of them."""
    test.__test__ = LONG
    return test


@pytest.fixture(scope="module", params=[KIND])
def net(request):
    why = why_not(request.param)
    if why:
        pytest.skip(why)
    n = LossyNet(request.param, delay_ms=3, loss=0.02)
    yield n
    n.close()


class Two:
    """Two programs at the two ends, and the memory that the machine must have."""

    def __init__(self, net, tmp):
        self.net, self.tmp, self.random, self.number = net, tmp, random.Random(SEED), 0
        self.src = self.dst = None

    def begin(self, post_copy=False, **parameters):
        self.end()
        self.net.up()
        self.number += 1
        self.src = machine(self.tmp / f"source{self.number}", prefix=self.net.run(0))
        self.dst = machine(self.tmp / f"destination{self.number}", "-incoming", f"tcp:{self.net.address[1]}:0", prefix=self.net.run(1))
        self.want = {FIRST + PAGE * i: self.random.randbytes(PAGE) for i in range(PAGES)}
        for at, data in self.want.items():
            assert self.src.ask(f"write {at:#x} {PAGE} 0x{data.hex()}") == "OK"
        self.src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": post_copy}])
        self.src.qmp.cmd("migrate-set-parameters", **parameters)
        self.src.qmp.cmd("migrate", uri=self.place())
        if post_copy:
            self.src.qmp.cmd("migrate-start-postcopy")

    def place(self):
        """Where the destination listens."""
        where = self.dst.qmp.cmd("query-migrate")["socket-address"][0]
        return f"tcp:{where['host']}:{where['port']}"

    def end(self):
        for m in self.src, self.dst:
            if m:
                m.close()
        self.src = self.dst = None

    def only(self, place):
        other = self.dst if place is self.src else self.src
        assert running(place) and not running(other), (status(self.src), status(self.dst))
        for at, data in self.want.items():
            assert place.ask(f"read {at:#x} {PAGE}")[5:] == data.hex(), hex(at)


@pytest.fixture
def two(net, tmp_path):
    t = Two(net, tmp_path)
    yield t
    t.end()


@long
def test_moves(two):
    two.begin(max_bandwidth=0)
    assert over(two.src, 60) == "completed"
    until(two.dst, "completed")
    two.only(two.dst)


@long
def test_given_up_while_nothing_comes_through(two):
    two.begin(max_bandwidth=256 << 10)
    until(two.src, "active")
    two.net.down()
    two.src.qmp.cmd("migrate_cancel")
    assert until(two.src, "cancelled")
    two.only(two.src)
    assert status(two.dst) in GOING and not running(two.dst)  # it has not heard of it
    two.net.up()
    assert two.dst.process.wait(60) == 1


@long
def test_follows_when_the_network_is_back(two):
    """TCP has it all; nobody needs to do anything."""
    two.begin(True, max_bandwidth=16 << 10, max_postcopy_bandwidth=16 << 10)
    until(two.src, "postcopy-active", timeout=60)
    two.net.down()
    until(two.dst, "postcopy-active", timeout=60)
    assert "has not come" in two.dst.ask_once(f"read {FIRST + PAGE * (PAGES - 1):#x} {PAGE}")
    assert running(two.dst) and not running(two.src)
    two.net.up()
    two.src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(two.src, "completed", timeout=60)
    until(two.dst, "completed", timeout=60)
    two.only(two.dst)


def test_recovered_when_the_network_is_back(two):
    """Neither side finds out by itself: both are told."""
    two.begin(True, max_bandwidth=16 << 10, max_postcopy_bandwidth=16 << 10)
    for m in two.src, two.dst:
        until(m, "postcopy-active", timeout=60)
    two.net.down()
    for m in two.src, two.dst:
        m.qmp.cmd("migrate-pause")
        until(m, "postcopy-paused")
    assert running(two.dst) and not running(two.src)
    two.dst.qmp.cmd("migrate-recover", uri=f"tcp:{two.net.address[1]}:0")
    two.net.up()
    two.src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    two.src.qmp.cmd("migrate", uri=two.place(), resume=True)
    until(two.src, "completed", timeout=60)
    until(two.dst, "completed", timeout=60)
    two.only(two.dst)


@long
def test_lost_at_any_moment(two):
    """The source waits for answers for a fifth of a second, and its manager for as long, before it gives up what may be given up."""
    for _ in range(ROUNDS):
        two.begin(max_bandwidth=two.random.choice((0, 4 << 20)), answer_timeout=200)
        time.sleep(two.random.random() * 0.4)
        two.net.down()
        time.sleep(0.2)
        if status(two.src) in GOING:
            two.src.qmp.cmd("migrate_cancel")
        place = manage(two.src, two.dst)
        two.net.up()
        if place is two.dst:
            until(two.dst, "completed", timeout=60)
        two.only(place)
