# SPDX-License-Identifier: BSD-2-Clause
"""
Jobs and bitmaps of a machine whose move breaks off, at any place around the switch, or one of whose programs is killed: the jobs are where
the machine is, and end well there; the backup is of its instant, the mirror has all that was written, and no bitmap has too little.

STERNA_FAULTS, STERNA_MOVE_KILLS: how many of each (STERNA_TEST_SEED: the first).
"""
import os, random, time

import pytest
from faulty_link import BACK, FORTH, FaultyLink
from moving import manage
from sterna import program, run
from test_migrate import running, start  # noqa: F401 (start is a fixture)
from test_migrate_jobs import SLOW, fill, jobs, target
from test_migrate_shared import bitmaps, disk, image, move, waiting, write  # noqa: F401 (waiting is a fixture)

FAULTS = int(os.environ.get("STERNA_FAULTS", 3))
KILLS = int(os.environ.get("STERNA_MOVE_KILLS", 3))
SEED = int(os.environ.get("STERNA_TEST_SEED", 1))
FROM_HERE, FROM_THERE = (b"bMAp", b"DEVS", b"JOBS", b"OKGO", b"STOP"), (b"ANSW", b"REDY", b"RUNS")
G, KIB = 65536, 1024


class World:
    """A machine with a backup and a mirror of its disk, a bitmap in the image and one in memory; and one that waits for it."""

    def __init__(self, start, waiting, tmp, rng):
        self.start, self.random, self.number = start, rng, 0
        self.path, self.copy, self.mirror = (image(tmp / n) for n in ("d", "copy", "mirror"))
        args = *disk(self.path), *target(self.copy), *target(self.mirror, "mirror")
        self.src = start(*args)
        fill(self.src)
        for name, persistent in ("kept", True), ("plain", False):
            self.src.qmp.cmd("block-dirty-bitmap-add", node="d-node", name=name, persistent=persistent)
        self.dst, self.where = waiting(*args)
        for m in self.src, self.dst:
            m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "dirty-bitmaps", "state": True}])
        self.src.qmp.cmd("blockdev-backup", job_id="b", device="d-node", target="copy", sync="full", speed=SLOW)
        self.src.qmp.cmd("blockdev-mirror", job_id="m", device="d-node", target="mirror", sync="full")
        for _ in range(rng.randrange(1, 12)):
            self.write(self.src)

    def write(self, m):
        write(m, self.number * G, 100 + self.number)
        self.number += 1

    def goes_on(self, m):
        end = time.monotonic() + 60
        while not running(m):
            assert time.monotonic() < end, (m.qmp.cmd("query-status"), m.qmp.cmd("query-migrate"))
            time.sleep(0.005)
        self.write(m)
        assert set(jobs(m)) == {"b", "m"}
        m.qmp.cmd("block-job-set-speed", device="b", speed=0)
        assert "error" not in m.qmp.event("BLOCK_JOB_COMPLETED", device="b")["data"]
        while jobs(m)["m"]["status"] != "ready":
            assert time.monotonic() < end
            time.sleep(0.005)
        self.write(m)
        assert {b["name"] for b in bitmaps(m).values() if b["count"] >= self.number * G} == {"kept", "plain"}
        m.process.kill()
        m.process.wait()
        old = [f"read -P {i + 1} {i}M 1M" for i in range(8)]
        new = [f"read -P {100 + i} {64 * i}k 64k" for i in range(self.number)]
        for path, wanted in (self.copy, old), (self.mirror, new), (self.path, new):
            out = run(program("sterna-io"), *(w for c in wanted for w in ("-c", c)), str(path)).out
            assert out.count("read") == len(wanted) and "failed" not in out, (path, out)

    def check_bitmap(self):
        for m in self.src, self.dst:
            m.close()
        kept = bitmaps(self.start(*disk(self.path)))["kept"]
        assert not kept.get("inconsistent") and kept["count"] >= self.number * G


@pytest.mark.parametrize("seed", range(SEED, SEED + FAULTS))
def test_the_link_breaks(start, waiting, tmp_path, seed):
    rng = random.Random(seed)
    w = World(start, waiting, tmp_path, rng)
    w.src.qmp.cmd("migrate-set-parameters", answer_timeout=3000)
    link = FaultyLink(tmp_path / "link", w.where)
    word = rng.choice(FROM_HERE + FROM_THERE)
    link.fault(rng.choice(("cut", "reset", "corrupt")), BACK if word in FROM_THERE else FORTH, rng.randrange(40), after=word)
    move(w.src, tmp_path / "link")
    here = manage(w.src, w.dst)
    assert here and not running(w.src if here is w.dst else w.dst)
    assert here is w.src or not jobs(w.src)
    w.goes_on(here)
    w.check_bitmap()
    link.close()


@pytest.mark.parametrize("seed", range(SEED, SEED + KILLS))
def test_a_program_is_killed(start, waiting, tmp_path, seed):
    rng = random.Random(seed)
    w = World(start, waiting, tmp_path, rng)
    move(w.src, w.where)
    time.sleep(rng.random() * 0.25)
    victim = rng.choice((w.src, w.dst))
    victim.process.kill()
    victim.process.wait()
    here = manage(w.src, w.dst)
    if here:
        w.goes_on(here)
    w.check_bitmap()
