# SPDX-License-Identifier: BSD-2-Clause
"""The link breaks in every way and at every place after the machine has moved and before its RAM, its disk or both have followed; so do
the links that shall go on with it; or one of the programs is killed. The machine runs at the destination and nowhere else, or where its
manager has put it as docs/migration.md says, and finds its memory and its disk there.

STERNA_FAULTS, STERNA_MOVE_KILLS: how many of each (STERNA_TEST_SEED: which). ./check --long takes each place where something begins or
ends with each fault, from the switch on and in the connection that comes after one that was cut, a thousand anywhere, and five hundred
kills.
"""
import bisect, itertools, os, random, shutil, time

import pytest
from faulty_link import BACK, FAULTS, FORTH, FaultyLink
from moving import GOING, GONE, RAM, both_run, machine, running, status
from places import Places
from sterna import program, run
from test_migrate_faults import cases, places

FAULT_COUNT = int(os.environ.get("STERNA_FAULTS", 30))
ENOUGH = 60  # that some of them are behind the switch
KILLS = int(os.environ.get("STERNA_MOVE_KILLS", 9))
SEED = int(os.environ.get("STERNA_TEST_SEED", 1))
PAGE, PAGES, FIRST = 4096, 80, RAM + (256 << 10)
CLUSTER, SECTOR, DISK = 4096, 512, 1 << 18
FOLLOWS = "postcopy-active", "postcopy-recover-setup", "postcopy-recover"
KINDS = "ram", "disk", "both"
SWITCH = {FORTH: (b"LEFT", b"DEVS", b"NBDMAGIC"), BACK: (b"REDY", b"IHAVEOPT")}  # the first of these is where a switch begins
NONE = itertools.repeat((None, FORTH, 0, None))


class World:
    """Two programs at a time; what the guest's memory and its disk must be."""

    def __init__(self, tmp, seed, kind):
        self.tmp, self.random, self.number = tmp, random.Random(seed), 0
        self.ram, self.disk = kind != "disk", kind != "ram"
        self.link = FaultyLink(tmp / "link", tmp / "in", record=True)
        self.src = self.dst = self.victim = None
        self.words = {}
        if self.disk:
            assert run(program("sterna-img"), "create", "-f", "qcow2", "-o", f"cluster_size={CLUSTER}", tmp / "empty", str(DISK)).rc == 0
        self.content = bytearray(self.random.randbytes(DISK))

    def close(self):
        for x in self.src, self.dst, self.link:
            if x:
                x.close()

    def fresh(self, fmt, *args):
        self.number += 1
        path = self.tmp / f"disk{self.number % 4}"
        if self.disk:
            if fmt == "raw":
                path.write_bytes(self.content)
            else:
                shutil.copy(self.tmp / "empty", path)
            args += "-blockdev", f"driver={fmt},node-name=n,file.driver=file,file.filename={path}", "-device", "virtio-blk-device,drive=n,id=d"
        return machine(self.tmp / f"m{self.number % 4}", *args), path

    def store(self, m, pages):
        """What the guest does; a page that has not come is asked for, and written to when it has."""
        for _ in range(pages):
            at = FIRST + PAGE * self.random.randrange(PAGES)
            data = bytes([self.random.randrange(256)]) * PAGE if self.random.randrange(3) == 0 else self.random.randbytes(PAGE)
            if m.ask_once(f"write {at:#x} {PAGE} 0x{data.hex()}") == "OK":
                self.want[at] = data

    def write_disk(self, m):
        """Nobody but this program helps a link that stalls, so it waits only where none can."""
        at, value = self.random.randrange(DISK // SECTOR) * SECTOR, self.random.randrange(1, 256)
        if m.qmp.cmd("human-monitor-command", command_line=f'qemu-io d "write -P {value} {at} {SECTOR}"').startswith("wrote"):
            self.content[at:at + SECTOR] = bytes([value]) * SECTOR

    def act(self, m):
        """The guest goes on where it runs."""
        self.old = self.old or (dict(self.want), bytes(self.content))
        self.store(m, self.random.randrange(6))
        if self.disk and self.sound and self.random.randrange(2):
            self.write_disk(m)

    # --- one move ---

    def begin(self, kind=None, way=FORTH, at=0, nth=None):
        """Both; the switch is asked for at once, or when all has been there once and some was written to since."""
        for n in range(4):
            shutil.rmtree(self.tmp / f"m{n}", ignore_errors=True)
        self.want, self.old = {}, None
        self.src, _ = self.fresh("raw")
        self.at = self.tmp / f"in{self.number}"
        self.dst, self.there = self.fresh("qcow2", "-incoming", f"unix:{self.at}")
        self.store(self.src, PAGES)
        self.link.fault(kind, way, at, to=self.at, after=self.words.get(way), nth=nth)
        self.sound = kind is None
        late = self.random.randrange(2)
        names = {"postcopy-ram": self.ram, "release-ram": bool(self.random.randrange(2)), "pause-before-switchover": bool(late)}
        self.src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": n, "state": s} for n, s in names.items()])
        self.src.qmp.cmd("migrate-set-parameters", max_bandwidth=0 if late else 64 << 10 if self.ram else 4 << 20, max_postcopy_bandwidth=self.random.choice((0, 8 << 20)))
        disks = {"disks": [{"device": "d", "mode": "post-copy"}]} if self.disk else {}
        self.src.qmp.cmd("migrate", uri=f"unix:{self.tmp}/link", **disks)
        end = time.monotonic() + 20
        while late and status(self.src) in ("setup", "active"):
            assert time.monotonic() < end, self.src.qmp.cmd("query-migrate")
            time.sleep(0.001)
        if late:
            self.store(self.src, 30)
        if self.ram:
            self.src.qmp.cmd("migrate-start-postcopy")
        if status(self.src) == "pre-switchover":
            self.src.qmp.cmd("migrate-continue", state="pre-switchover")

    def once(self):
        """What both are; where the machine runs, never both."""
        here, there = status(self.src), status(self.dst)
        assert not both_run(self.src, self.dst), (here, there)
        if here in FOLLOWS or here == "postcopy-paused":
            assert not running(self.src)
        if there in FOLLOWS or there == "postcopy-paused":
            assert self.dst.process.poll() is not None or self.dst.qmp.cmd("query-status")["status"] == "running"
        return here, there

    def manage(self, faults):
        """docs/migration.md's table; who has the machine in the end, None: it is lost. `faults`: what befalls the links that go on with it."""
        end, helped = time.monotonic() + 60, False
        while True:
            here, there = self.once()
            assert time.monotonic() < end, (here, there, self.src.qmp.cmd("query-migrate"), self.dst.qmp.cmd("query-migrate"))
            if here in ("failed", "cancelled"):
                return self.src
            if here is None:
                if there in (None, "setup", "postcopy-paused", "failed"):
                    return None
                if there == "completed":
                    return self.dst
            elif here == "completed":
                return self.dst if there else None
            elif here == "postmigrate-unknown" and there not in GOING + FOLLOWS + ("postcopy-paused",):
                self.src.qmp.cmd("migrate-resolve", runs_there=there == "completed")
            elif here in ("postcopy-paused", "postmigrate-unknown") and there is None:
                return None  # what ran there is lost, and here nothing runs by itself
            elif here == "postcopy-paused" and there == "completed":
                self.src.qmp.cmd("migrate-resolve", runs_there=True)
            elif here in ("postcopy-paused", "postmigrate-unknown") and there in ("postcopy-paused", "postcopy-recover-setup"):
                self.go_on(there, next(faults))
                helped = False
            elif self.link.stalled.is_set() and not helped:
                self.help(here, there)
                helped = True
            elif here in FOLLOWS and there == "postcopy-active":
                self.act(self.dst)
            time.sleep(0.001)

    def go_on(self, there, fault):
        """A new connection."""
        self.sound = False
        self.act(self.dst)
        if self.link.stalled.is_set():
            self.link.cut()
        self.link.wait(60)
        if there == "postcopy-paused":
            self.number += 4
            self.at = self.tmp / f"in{self.number}"
            try:
                self.dst.qmp.cmd("migrate-recover", uri=f"unix:{self.at}")
            except GONE:
                return
        kind, way, at, nth = fault
        self.link.fault(kind, way, at, to=self.at, nth=nth)
        self.sound = kind is None
        self.src.qmp.cmd("migrate", uri=f"unix:{self.tmp}/link", resume=True)

    def help(self, here, there):
        """Nothing comes any more."""
        if self.victim:
            victim, self.victim = self.src if self.victim == "here" else self.dst, None
            victim.process.kill()
            victim.process.wait()
            self.link.cut()
            return
        what = self.random.choice(("release", "cut", "here", "there"))
        side, state = (self.src, here) if what == "here" else (self.dst, there)
        if what == "release":
            self.link.release()
        elif what in ("here", "there") and state in FOLLOWS:
            try:
                side.qmp.cmd("migrate-pause")
            except GONE:
                pass
            except Exception as x:  # it has got further meanwhile
                assert "only supported during" in str(x), x
            self.link.cut()
        else:
            self.link.cut()

    def settle(self, faults):
        place = self.manage(faults)
        if place is self.dst:
            end = time.monotonic() + 60
            while status(place) != "completed":
                assert time.monotonic() < end, status(place)
                time.sleep(0.001)
        if place:
            other = self.src if place is self.dst else self.dst
            assert running(place) and not running(other), (status(self.src), status(self.dst))
            self.check(place)
        self.victim = None
        self.src.close()
        self.dst.close()
        if self.link.stalled.is_set():
            self.link.cut()
        self.link.wait(20)
        if place is self.dst and self.disk:
            assert run(program("sterna-img"), "convert", "-O", "raw", self.there, self.tmp / "flat").rc == 0
            assert (self.tmp / "flat").read_bytes() == self.content
        return place

    def check(self, m):
        if m is self.src and self.old:  # what ran there ran in vain
            self.want, self.content = self.old[0], bytearray(self.old[1])
        for at, data in self.want.items():
            assert m.ask(f"read {at:#x} {PAGE}")[5:] == data.hex(), hex(at)
        if self.disk:
            m.quit()


@pytest.fixture(params=KINDS)
def world(tmp_path, request):
    w = World(tmp_path, SEED + KINDS.index(request.param), request.param)
    print("seed", SEED, request.param)
    yield w
    w.close()


def plain_move(w):
    """Without a fault: how many places each way has from its switch on, and bytes."""
    w.begin()
    assert w.settle(NONE) is w.dst
    counts, sizes = {}, {}
    for way, sent in enumerate(map(bytes, w.link.sent)):
        p = Places(way)
        p.feed(sent)
        begin, w.words[way] = min((sent.index(word), word) for word in SWITCH[way] if word in sent)
        counts[way], sizes[way] = len(p.found) - bisect.bisect_left(p.found, begin), len(sent) - begin
    return counts, sizes


def plain_recovery(w, sizes):
    """The same of the connection that goes on with one that was cut."""
    while True:
        w.begin("cut", FORTH, w.random.randrange(sizes[FORTH]))
        if w.settle(NONE) is w.dst and w.link.kind is None:
            return places(w.link.sent), [len(s) for s in w.link.sent]


def later(w, most):
    """What befalls the next links: up to so many are as bad as the first one, most of them at once."""
    for _ in range(w.random.randrange(most)):
        yield w.random.choice(FAULTS), w.random.choice((FORTH, BACK)), w.random.randrange(w.random.choice((200, 2000, 100000))), None
    yield from NONE


def test_every_fault(world):
    w, moved = world, 0
    counts, sizes = plain_move(w)
    for fault in cases(counts, sizes, w.random, FAULT_COUNT // len(KINDS)):
        try:
            w.begin(*fault)
            moved += w.settle(later(w, 4)) is w.dst
        except AssertionError as x:
            raise AssertionError(f"{fault}: {x}") from x
    assert moved or FAULT_COUNT < ENOUGH  # others failed before the switch


def test_every_fault_of_a_recovery(world):
    w, moved = world, 0
    _, sizes = plain_move(w)
    counts, recovery = plain_recovery(w, sizes)
    for fault in cases(counts, recovery, w.random, FAULT_COUNT // len(KINDS)):
        first = "cut", FORTH, w.random.randrange(sizes[FORTH]), None
        try:
            w.begin(*first)
            moved += w.settle(itertools.chain([fault], later(w, 3))) is w.dst
        except AssertionError as x:
            raise AssertionError(f"{first}, {fault}: {x}") from x
    assert moved or FAULT_COUNT < ENOUGH


def test_killed_at_random(world):
    """One of the two is killed when so many bytes have gone, in the first connection or in one that goes on with it."""
    w = world
    _, sizes = plain_move(w)
    for _ in range(KILLS // len(KINDS)):
        way = w.random.choice((FORTH, BACK))
        kill = "stall", way, w.random.randrange(sizes[way]), None
        cut = "cut", FORTH, w.random.randrange(sizes[FORTH]), None
        w.victim = w.random.choice(("here", "there"))
        first, then = (kill, ()) if w.random.randrange(2) else (cut, (kill,))
        w.begin(*first)
        w.settle(itertools.chain(then, NONE))
