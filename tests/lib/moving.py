# SPDX-License-Identifier: BSD-2-Clause
"""Machines that move from one program to another, and a manager that follows the table of docs/migration.md."""
import time

from machine import Machine

GOING = "setup", "active", "pre-switchover", "device", "cancelling"
RAM = 0x80000000
GONE = OSError, EOFError  # what a conversation with a program ends with that has ended


def machine(folder, *args, mib=16, stopped=False, prefix=()):
    """A machine without code: it stands where its harts would run, and qtest stores what its guest would."""
    folder.mkdir(exist_ok=True)
    base = ("-display", "none", "-nodefaults", "-M", "virt", "-m", str(mib), *(["-S"] if stopped else []))
    return Machine(folder, *args, base=base, prefix=prefix)


def status(m):
    """Of its migration; None: the program has ended."""
    try:
        return m.qmp.cmd("query-migrate").get("status", "none")
    except GONE:
        return None


def running(m):
    try:
        return m.process.poll() is None and m.qmp.cmd("query-status")["running"]
    except GONE:
        return False


def both_run(src, dst):
    """The destination is asked first: it may begin between the two questions, when the source has ended."""
    return running(dst) and running(src)


def until(m, *wanted, timeout=60):
    end = time.monotonic() + timeout
    while (now := status(m)) not in wanted:
        assert time.monotonic() < end, (now, wanted)
        time.sleep(0.001)
    return now


def over(m, timeout=60):
    """How it has ended, or None with the program."""
    end = time.monotonic() + timeout
    while (now := status(m)) in GOING:
        assert time.monotonic() < end, m.qmp.cmd("query-migrate")
        time.sleep(0.001)
    return now


def has_failed(m):
    """The destination has ended as what came could not be taken, or was asked not to end and says so."""
    try:
        code = m.process.wait(60)
    except GONE:
        return False
    return code == 1


def manage(src, dst):
    """
    What a manager does when the source's migration is over: the table's rows. Which of the two the guest runs in then; None: it was lost
    with its program.
    """
    here = over(src)
    if here in ("failed", "cancelled"):
        return src
    if here == "completed":
        return dst if dst.process.poll() is None else None
    if here is None:
        if status(dst) == "setup":  # nobody has said to it who he is, and others might: it is ended
            dst.process.kill()
            dst.process.wait()
        there = over(dst)
        return dst if there == "completed" else None
    assert here == "postmigrate-unknown", here
    there = status(dst)
    if there in GOING:  # OKGO may be under way still
        dst.process.kill()
        dst.process.wait()
        there = None
    src.qmp.cmd("migrate-resolve", runs_there=there == "completed")
    return dst if there == "completed" else src
