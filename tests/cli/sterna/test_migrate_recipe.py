# SPDX-License-Identifier: BSD-2-Clause
"""docs/migration.md's table, row by row: how the two programs come to say that, and that what it advises helps."""
import re

import pytest
from faulty_link import BACK, FORTH, FaultyLink
from moving import RAM, has_failed, machine, over, running, status, until
from qmp import QMPError
from sterna import TOP

PATIENCE_MS = 3000  # enough for an answer on a slow machine, and a test waits for its end
FRAME = 12  # before each payload, after ANSW
GO = FRAME + 16 + len('{"run":true}') + 4


class Two:
    def __init__(self, tmp, *args):
        self.tmp, self.src = tmp, machine(tmp / "source")
        self.dst = machine(tmp / "destination", "-incoming", f"unix:{tmp}/in", *args)
        self.link = FaultyLink(tmp / "link", tmp / "in", record=True)
        assert self.src.ask(f"write {RAM + 0x100000:#x} 4 0x01020304") == "OK"

    def close(self):
        for x in self.link, self.src, self.dst:
            x.close()

    def begin(self, kind=None, way=FORTH, at=0, after=None):
        self.link.fault(kind, way, at, after=after)
        self.src.qmp.cmd("migrate", uri=f"unix:{self.tmp}/link")

    def only(self, place):
        """The guest runs there and nowhere else, with its memory."""
        other = self.dst if place is self.src else self.src
        assert running(place) and not running(other)
        assert place.ask(f"read {RAM + 0x100000:#x} 4") == "OK 0x01020304"

    def after_reload(self):
        """The source's next attempt goes through."""
        dst = machine(self.tmp / "another", "-incoming", f"unix:{self.tmp}/in2")
        self.src.qmp.cmd("migrate", uri=f"unix:{self.tmp}/in2")
        assert over(self.src) == "completed" and until(dst, "completed") and running(dst)
        dst.close()


@pytest.fixture
def two(tmp_path):
    made = []

    def make(*args):
        made.append(Two(tmp_path, *args))
        return made[-1]
    yield make
    for t in made:
        t.close()


def test_going_on(two):
    """Either side is at it: wait."""
    t = two()
    t.begin("silence", BACK, 0, after=b"REDY")
    assert t.link.stalled.wait(60)
    until(t.src, "device")
    until(t.dst, "device")
    assert t.dst.qmp.cmd("query-status")["status"] == "inmigrate" and not running(t.dst) and not running(t.src)
    t.link.release()
    assert over(t.src) == "completed"
    t.only(t.dst)


def test_going_on_and_given_up(two):
    t = two()
    t.begin("silence", BACK, 0, after=b"REDY")
    assert t.link.stalled.wait(60)
    until(t.src, "device")
    t.src.qmp.cmd("migrate_cancel")
    assert over(t.src) == "cancelled"
    t.link.cut()
    assert has_failed(t.dst)
    t.only(t.src)


def test_failed(two):
    t = two()
    t.begin("cut", BACK, 3)
    assert over(t.src) == "failed" and has_failed(t.dst)
    t.only(t.src)
    t.after_reload()


def test_failed_and_the_destination_stays(two):
    """exit-on-error=false: it says so, and takes the next one."""
    t = two()
    t.dst.close()
    t.dst = machine(t.tmp / "stays", "-incoming", "defer")
    t.dst.qmp.cmd("migrate-incoming", uri=f"unix:{t.tmp}/stays.in", exit_on_error=False)
    t.link.fault("corrupt", FORTH, 4000, to=t.tmp / "stays.in")
    t.src.qmp.cmd("migrate", uri=f"unix:{t.tmp}/link")
    assert over(t.src) == "failed" and until(t.dst, "failed")
    t.only(t.src)
    t.dst.qmp.cmd("migrate-incoming", uri=f"unix:{t.tmp}/stays.in2", exit_on_error=False)
    t.src.qmp.cmd("migrate", uri=f"unix:{t.tmp}/stays.in2")
    assert over(t.src) == "completed"
    t.only(t.dst)


def test_failed_and_the_destination_does_not_know_yet(two):
    """It waits for GO, which will not come: it is ended."""
    t = two()
    t.src.qmp.cmd("migrate-set-parameters", answer_timeout=PATIENCE_MS)
    t.begin("silence", BACK, 0, after=b"REDY")
    until(t.dst, "device")
    t.link.hold()
    assert over(t.src) == "failed"
    assert status(t.dst) == "device" and not running(t.dst)
    t.dst.qmp.cmd("quit")
    t.dst.process.wait(60)
    t.only(t.src)


@pytest.mark.parametrize("stopped", [False, True])
def test_completed(two, stopped):
    t = two()
    if stopped:
        t.src.qmp.cmd("stop")
    t.begin()
    assert over(t.src) == "completed" and t.src.qmp.cmd("query-status")["status"] == "postmigrate"
    until(t.dst, "completed")
    if stopped:
        assert t.dst.qmp.cmd("query-status")["status"] == "paused"
        t.dst.qmp.cmd("cont")
    t.only(t.dst)


def test_completed_and_then_gone(two):
    """The guest died with its program, as guests do; the source does not bring back what it was."""
    t = two()
    t.begin()
    assert over(t.src) == "completed" and until(t.dst, "completed")
    t.dst.process.kill()
    t.dst.process.wait(60)
    with pytest.raises(QMPError, match="moved away"):
        t.src.qmp.cmd("cont")
    with pytest.raises(QMPError, match="not in expected state"):
        t.src.qmp.cmd("migrate-resolve", runs_there=False)
    assert status(t.src) == "completed" and not running(t.src)


def unknown(t):
    assert over(t.src) == "postmigrate-unknown" and t.src.qmp.cmd("query-status")["status"] == "postmigrate"
    for command in ("cont", {}), ("migrate", {"uri": "unix:/x"}):
        with pytest.raises(QMPError, match="moved away"):
            t.src.qmp.cmd(command[0], **command[1])


def test_unknown_and_it_runs_there(two):
    t = two()
    t.begin("cut", BACK, 5, after=b"RUNS")
    unknown(t)
    until(t.dst, "completed")
    with pytest.raises(QMPError, match="has come, and is run here"):
        t.dst.qmp.cmd("migrate-resolve", runs_there=False)
    for side in t.dst, t.src:
        side.qmp.cmd("migrate-resolve", runs_there=True)
    assert status(t.src) == "completed"
    t.only(t.dst)


def lose_go(t, kind, patience=PATIENCE_MS):
    """Only part of OKGO gets there: first it is looked how long all before it is."""
    probe = machine(t.tmp / "probe", "-incoming", f"unix:{t.tmp}/probe.in")
    t.src.qmp.cmd("stop")  # nothing differs between the two
    t.link.fault("silence", BACK, after=b"REDY", to=t.tmp / "probe.in")
    t.src.qmp.cmd("migrate", uri=f"unix:{t.tmp}/link")
    assert t.link.stalled.wait(60)
    until(t.src, "device")
    until(probe, "device")
    before = len(t.link.sent[FORTH])
    t.src.qmp.cmd("migrate_cancel")
    assert over(t.src) == "cancelled"
    t.link.cut()
    t.link.wait(60)
    probe.close()
    t.src.qmp.cmd("cont")
    if kind != "cut":
        t.src.qmp.cmd("migrate-set-parameters", answer_timeout=patience)
    t.link.fault(kind, FORTH, before + GO - 3, to=t.tmp / "in")
    t.src.qmp.cmd("migrate", uri=f"unix:{t.tmp}/link")


def test_go_is_not_taken(two):
    """It comes damaged: the destination says that it will not run it, and the source need not ask."""
    t = two()
    t.begin("corrupt", FORTH, 20, after=b"OKGO")
    assert over(t.src) == "failed" and "damaged" in t.src.qmp.cmd("query-migrate")["error-desc"]
    assert has_failed(t.dst)
    t.only(t.src)
    t.after_reload()


def test_unknown_and_it_does_not_run_there(two):
    t = two()
    lose_go(t, "cut")
    unknown(t)
    assert has_failed(t.dst)
    t.src.qmp.cmd("migrate-resolve", runs_there=False)
    assert status(t.src) == "failed"
    t.only(t.src)
    t.after_reload()


@pytest.mark.parametrize("how", ["migrate_cancel", "migrate-resolve"])
def test_unknown_and_the_destination_waits(two, how):
    """OKGO may come yet: the destination is ended before the source goes on."""
    t = two()
    lose_go(t, "stall")
    unknown(t)
    assert status(t.dst) == "device" and not running(t.dst)
    with pytest.raises(QMPError, match="has not come, and the source may go on with it"):
        t.dst.qmp.cmd("migrate-resolve", runs_there=True)
    t.dst.qmp.cmd(how, {"runs-there": False} if how == "migrate-resolve" else None)
    assert until(t.dst, "cancelled") and not running(t.dst)
    t.src.qmp.cmd("migrate-resolve", runs_there=False)
    t.link.release()
    t.link.wait(60)
    t.only(t.src)


@pytest.mark.parametrize("how", ["migrate_cancel", "quit"])
def test_the_destination_is_told_to_give_up(two, how):
    """OKGO was said and has not come: the destination says that it will not take it, so the source goes on."""
    t = two()
    lose_go(t, "silence", patience=60000)
    assert t.link.stalled.wait(60)
    t.dst.qmp.cmd(how)
    assert over(t.src) == "failed" and "cancelled at the destination" in t.src.qmp.cmd("query-migrate")["error-desc"]
    t.link.release()
    assert t.dst.process.wait(60) == 0 if how == "quit" else until(t.dst, "cancelled")
    t.only(t.src)


def test_unknown_and_the_host_is_gone(two):
    t = two()
    t.begin("stall", BACK, 0, after=b"RUNS")
    assert t.link.stalled.wait(60)
    t.dst.process.kill()
    t.dst.process.wait(60)
    t.link.release()
    unknown(t)
    t.src.qmp.cmd("migrate-resolve", runs_there=False)
    t.only(t.src)


def test_the_source_is_gone(two):
    t = two()
    t.begin("stall", FORTH, 3000)
    assert t.link.stalled.wait(60) and status(t.dst) in ("setup", "active")
    t.src.process.kill()
    t.link.release()
    assert has_failed(t.dst)


def test_the_source_is_gone_and_it_runs_there(two):
    t = two()
    t.begin("silence", BACK, 0, after=b"RUNS")
    until(t.dst, "completed")
    t.src.process.kill()
    t.src.process.wait()
    t.link.release()
    t.only(t.dst)


# --- what people do meanwhile ---

def between(t):
    """The source waits for READY: the machine stands still, all of it has been sent."""
    t.begin("silence", BACK, 0, after=b"REDY")
    assert t.link.stalled.wait(60)
    until(t.src, "device")


def test_cont_during_the_switch(two):
    t = two()
    between(t)
    assert t.src.qmp.cmd("query-status") == {"running": False, "status": "finish-migrate"}
    with pytest.raises(QMPError, match="Migration is not finalized yet"):
        t.src.qmp.cmd("cont")
    assert not running(t.src)
    t.link.release()
    assert over(t.src) == "completed"
    t.only(t.dst)


def test_cont_of_a_stopped_machine_during_the_switch(two):
    t = two()
    t.src.qmp.cmd("stop")
    between(t)
    with pytest.raises(QMPError, match="Migration is not finalized yet"):
        t.src.qmp.cmd("cont")
    t.link.cut()
    assert over(t.src) == "failed" and t.src.qmp.cmd("query-status")["status"] == "paused"
    t.src.qmp.cmd("cont")
    t.only(t.src)


@pytest.mark.parametrize("comes", [False, True])
def test_stop_during_the_switch(two, comes):
    """It holds, wherever the guest is then."""
    t = two()
    between(t)
    t.src.qmp.cmd("stop")
    (t.link.release if comes else t.link.cut)()
    assert over(t.src) == ("completed" if comes else "failed")
    place = t.dst if comes else t.src
    assert not running(t.src) and not running(t.dst) and place.qmp.cmd("query-status")["status"] == "paused"
    place.qmp.cmd("cont")
    t.only(place)


@pytest.mark.parametrize("comes", [False, True])
def test_reset_during_the_switch(two, comes):
    """Where it fails the machine is reset then and goes on; where it goes through, what went is not touched."""
    t = two()
    between(t)
    t.src.qmp.cmd("system_reset")
    assert not any(e["event"] == "RESET" for e in t.src.qmp.events)
    (t.link.release if comes else t.link.cut)()
    assert over(t.src) == ("completed" if comes else "failed")
    t.src.qmp.cmd("query-status")
    if comes:
        t.only(t.dst)
    else:
        t.src.qmp.event("RESET", guest=False)
        assert running(t.src)


def test_cancel_after_go(two):
    """It is too late: nothing is broken, and the machine is there."""
    t = two()
    t.begin("silence", BACK, 0, after=b"RUNS")
    until(t.dst, "completed")
    assert status(t.src) == "device"
    t.src.qmp.cmd("migrate_cancel")
    assert status(t.src) == "device"
    t.link.release()
    assert over(t.src) == "completed"
    t.only(t.dst)


def rows():
    """The table as the page has it."""
    with open(f"{TOP}/docs/migration.md", encoding="utf-8") as f:
        part = f.read().split("## Who runs it")[1].split("\n## ")[0]
    return [line for line in part.splitlines() if re.match(r"\| (`|is gone)", line)]


def test_no_row_without_a_test():
    """Whoever adds a row adds a test, and its number here. Those of post-copy are in test_postcopy.py."""
    post_copy = [row for row in rows() if "postcopy" in row]
    assert (len(rows()) - len(post_copy), len(post_copy)) == (11, 8), rows()
