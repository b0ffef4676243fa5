# SPDX-License-Identifier: BSD-2-Clause
"""The link between two programs breaks, in every way and at every place, or one of them is killed: the machine runs in exactly one of
them, or where its manager has put it as docs/migration.md says, and its memory is what it was.

STERNA_FAULTS, STERNA_MOVE_KILLS: how many of each (STERNA_TEST_SEED: which). ./check --long takes each place where something begins or
ends with each fault, a thousand anywhere, and five hundred kills.
"""
import contextlib, os, random, time

import pytest
from faulty_link import BACK, FAULTS, FORTH, FaultyLink
from moving import GOING, RAM, both_run, machine, manage, over, running, status, until
from places import FRAME, Places
from qmp import QMPError
from sterna import LONG

FAULT_COUNT = int(os.environ.get("STERNA_FAULTS", 60))
KILLS = int(os.environ.get("STERNA_MOVE_KILLS", 20))
SEED = int(os.environ.get("STERNA_TEST_SEED", 1))
PAGE, PAGES = 4096, 96
DISK, SECTOR = 1 << 18, 512


class World:
    """One machine that is moved on and on, and what its memory must be."""

    def __init__(self, tmp, seed, disk=False):
        self.tmp, self.random, self.number, self.want = tmp, random.Random(seed), 0, {}
        self.disk, self.files = bytearray(DISK) if disk else None, {}
        self.link = FaultyLink(tmp / "link", tmp / "in", record=True)
        self.all = []
        self.src = self.fresh()

    def fresh(self, *args):
        self.number += 1
        path = self.tmp / f"disk{self.number}"
        if self.disk is not None:
            path.write_bytes(bytes(DISK))
            args += "-drive", f"if=none,id=d,format=raw,file={path}", "-device", "virtio-blk-device,drive=d,id=disk0"
        m = machine(self.tmp / f"m{self.number}", *args)
        self.files[m] = path
        self.all.append(m)
        m.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
        return m

    def close(self):
        for m in self.all:
            m.close()
        self.link.close()

    def store(self, pages):
        """What the guest does."""
        for _ in range(pages):
            at = RAM + PAGE * self.random.randrange(64, 64 + PAGES)
            kind = self.random.randrange(3)
            data = b"\0" * PAGE if kind == 0 else self.random.randbytes(PAGE) if kind == 1 else bytes([self.random.randrange(256)]) * PAGE
            assert self.src.ask(f"write {at:#x} {PAGE} 0x{data.hex()}") == "OK"
            self.want[at] = data

    def write_disk(self):
        """What the guest has done to it: the program has nothing of it in a cache of its own."""
        if self.disk is not None:
            at = self.random.randrange(DISK // SECTOR) * SECTOR
            self.disk[at:at + SECTOR] = self.random.randbytes(SECTOR)
            with open(self.files[self.src], "r+b") as f:
                f.seek(at)
                f.write(self.disk[at:at + SECTOR])

    def check_disk(self, m):
        if self.disk is not None:
            assert self.files[m].read_bytes() == self.disk

    def check_memory(self, m):
        for at, data in self.want.items():
            assert m.ask(f"read {at:#x} {PAGE}")[5:] == data.hex(), hex(at)

    def destination(self):
        self.number += 1
        path = self.tmp / f"in{self.number}"
        return self.fresh("-incoming", f"unix:{path}"), path

    def begin(self, dst_path, kind=None, way=FORTH, at=0, nth=None, pause=False):
        self.link.fault(kind, way, at, to=dst_path, nth=nth)
        self.src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": pause}])
        self.write_disk()
        disks = {"disks": [{"device": "disk0", "mode": "pre-copy"}]} if self.disk is not None else {}
        self.src.qmp.cmd("migrate", uri=f"unix:{self.tmp}/link", **disks)

    def drive(self, dst):
        """Until the source's part is over: the guest stores once more before the switch, and what stalls is helped."""
        end = time.monotonic() + 60
        helped = False
        while (now := status(self.src)) in GOING:
            if now == "pre-switchover":
                self.store(3)
                with contextlib.suppress(QMPError):  # the fault comes between the question and this
                    self.src.qmp.cmd("migrate-continue", state="pre-switchover")
            elif self.link.stalled.is_set() and not helped:
                self.help(dst)
                helped = True
            assert time.monotonic() < end, self.src.qmp.cmd("query-migrate")
            time.sleep(0.001)
        if self.link.stalled.is_set() and not helped:
            self.link.cut()

    def help(self, dst):
        """Nothing comes any more: at most one runs it, and a manager may do one of three things."""
        assert not both_run(self.src, dst)
        what = self.random.choice(("cancel", "release", "cut"))
        if what == "cancel":
            self.src.qmp.cmd("migrate_cancel")
            what = "cut" if status(self.src) == "device" else None  # OKGO was sent: it is too late for that
        if what == "release":
            self.link.release()
        else:
            self.link.cut()

    def settle(self, dst):
        """The manager's part; afterwards `src` is where the machine is."""
        place = manage(self.src, dst)
        other = self.src if place is dst else dst
        self.link.wait(60)
        if place is None:  # lost with its program; another one begins
            assert dst.process.wait(60) in (1, -9) and not running(self.src)
            self.src, self.want = self.fresh(), {}
            self.disk = None if self.disk is None else bytearray(DISK)
            return
        if place is dst:
            until(dst, "completed")
        assert running(place) and not running(other), (status(self.src), status(dst))
        if other is dst and status(dst) not in (None, "setup"):  # "setup": nobody has said to it who he is
            assert dst.process.wait(60) == 1
        self.check_memory(place)
        self.check_disk(place)
        other.close()
        self.files[other].unlink(missing_ok=True)
        self.src = place


@pytest.fixture(params=[False, True], ids=["ram", "disk"])
def world(tmp_path, request):
    w = World(tmp_path, SEED, request.param)
    w.store(PAGES)
    yield w
    w.close()


def plain_move(w):
    """Without a fault; what went each way."""
    dst, path = w.destination()
    w.begin(path)
    w.settle(dst)
    assert w.src is dst
    return w.link.sent


def places(sent):
    """How many each way has."""
    counts = {}
    for way, data in enumerate(sent):
        p = Places(way)
        p.feed(data)
        counts[way] = len(p.found)
    return counts


def cases(counts, sizes, rng, most):
    """
    Each place with each fault, and `most` of them anywhere; or (./check) as many at places, or the byte before or behind, and anywhere by
    turns: kind, way, bytes, place.
    """
    exact = [(kind, way, 0, n) for way in counts for n in range(counts[way]) for kind in FAULTS]
    rng.shuffle(exact)
    for i in range(0 if LONG else most):
        kind, way, _, n = exact[i % len(exact)]
        yield (kind, way, rng.randrange(3) - 1, n) if i % 2 else anywhere(sizes, rng)
    for case in exact if LONG else ():
        yield case
    for _ in range(most if LONG else 0):
        yield anywhere(sizes, rng)


def anywhere(sizes, rng):
    way = rng.choice((FORTH, FORTH, BACK))
    return rng.choice(FAULTS), way, rng.randrange(sizes[way]), None


def test_every_fault(world):
    w = world
    sent, count, struck = plain_move(w), 0, 0
    for kind, way, at, nth in cases(places(sent), [len(s) for s in sent], w.random, FAULT_COUNT // 2):
        dst, path = w.destination()
        pause = w.random.randrange(3) == 0
        w.store(w.random.randrange(8))
        try:
            w.begin(path, kind, way, at, nth, pause)
            w.drive(dst)
            w.settle(dst)
        except AssertionError as x:
            raise AssertionError(f"{kind} {'back' if way else 'forth'} at {at} of {nth}: {x}") from x
        count += 1
        struck += w.link.struck
    assert struck > count * 3 // 4, (struck, count)  # not every move takes as many bytes


def test_killed_at_random(world):
    """One of the two is killed when so many bytes have gone, or at some moment."""
    w = world
    sent = plain_move(w)
    for _ in range(KILLS // 2):
        dst, path = w.destination()
        victim = w.random.choice((w.src, dst))
        way = w.random.choice((FORTH, BACK))
        w.store(w.random.randrange(8))
        w.begin(path, "stall", way, w.random.randrange(len(sent[way])), pause=False)
        while not w.link.stalled.wait(0.001) and status(w.src) in GOING:
            pass  # it may never come that far: not every move takes as many bytes
        victim.process.kill()
        victim.process.wait()
        w.link.release()
        w.settle(dst)
        if not w.want:
            w.store(PAGES)


def last_words():
    """Where the link is cut: from the first byte of REDY to the last of RUNS, and from the first of OKGO to where it is whole."""
    message = 16 + len("{}") + 4
    yield from ((BACK, b"REDY", at) for at in range(message + FRAME + message))
    yield from ((FORTH, b"OKGO", at) for at in range(message + len('"run":true') + 1))


def test_each_byte_of_the_last_words(tmp_path):
    """Every time one of the two runs it, or what both say tells who may."""
    w, ends = World(tmp_path, SEED), set()
    w.store(8)
    for way, word, at in last_words():
        dst, path = w.destination()
        w.link.fault("cut", way, at, to=path, after=word)
        w.src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/link")
        ends.add((way, over(w.src)))
        w.settle(dst)
        assert w.link.struck, (way, at)
    assert ends == {(BACK, "failed"), (BACK, "postmigrate-unknown"), (FORTH, "postmigrate-unknown")}
    w.close()
