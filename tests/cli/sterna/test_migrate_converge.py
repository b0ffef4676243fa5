# SPDX-License-Identifier: BSD-2-Clause
"""auto-converge: a guest that writes more than the limit lets through never moves by itself; slowed down it does, and is as fast as before when it
runs on."""
import time
from pathlib import Path

import pytest
from conftest import Machine
from qmp import QMPError
from test_migrate import info, running, until

BASE = 0x80400000
T0, T1, T2, T3, T4, T5 = 5, 6, 7, 28, 29, 30


def addi(rd, rs, imm):
    return (imm & 0xfff) << 20 | rs << 15 | rd << 7 | 0x13


def add(rd, a, b):
    return b << 20 | a << 15 | rd << 7 | 0x33


def lui(rd, imm):
    return imm << 12 | rd << 7 | 0x37


def sd(rs, base, imm):
    return rs << 20 | base << 15 | 3 << 12 | (imm & 0x1f) << 7 | 0x23


def bne(a, b, off):
    return (off >> 12 & 1) << 31 | (off >> 5 & 0x3f) << 25 | b << 20 | a << 15 | 1 << 12 | (off >> 1 & 0xf) << 8 | (off >> 11 & 1) << 7 | 0x63


def jal(off):
    return (off >> 20 & 1) << 31 | (off >> 1 & 0x3ff) << 21 | (off >> 11 & 1) << 20 | (off >> 12 & 0xff) << 12 | 0x6f


# Counts in a register, and writes the count to 8 MiB a page at a time, and to BASE + 8.
WRITER = [addi(T0, 0, 513), 22 << 20 | T0 << 15 | 1 << 12 | T0 << 7 | 0x13,  # slli: BASE
          addi(T1, T0, 0), lui(T2, 0x800), add(T2, T2, T0),
          addi(T4, T4, 1), sd(T4, T1, 0), sd(T4, T0, 8), lui(T3, 5), addi(T3, T3, -1), bne(T3, 0, -4), lui(T5, 1), add(T1, T1, T5), bne(T1, T2, -32),
          jal(-48)]


@pytest.fixture
def writer(tmp_path):
    """A machine whose hart writes to its memory all the time."""
    code = b"".join(i.to_bytes(4, "little") for i in WRITER)
    (tmp_path / "kernel").write_bytes(jal(64).to_bytes(4, "little") + b"\0" * 4 + (0x200000).to_bytes(8, "little") + (4096).to_bytes(8, "little") +
                                      b"\0" * 8 + (2).to_bytes(4, "little") + b"\0" * 12 + b"RISCV\0\0\0RSC\x05" + b"\0" * 4 + code + b"\0" * 4096)
    own = tmp_path / "writer"
    own.mkdir()
    m = Machine(own, "-kernel", str(tmp_path / "kernel"), qtest=False, base=("-display", "none", "-nodefaults", "-M", "virt", "-m", "32"))
    yield m
    m.close()


def speed(m, seconds=0.4):
    """Pages that it writes in a second."""
    def count():
        text = m.qmp.cmd("human-monitor-command", command_line=f"xp /1gx {BASE + 8}")
        return int(text.split(":")[1], 16)
    first, began = count(), time.monotonic()
    time.sleep(seconds)
    return (count() - first) / (time.monotonic() - began)


def hart(m, name):
    """A file of what the kernel says of its hart's thread."""
    return next(t for t in Path(f"/proc/{m.process.pid}/task").iterdir() if (t / "comm").read_text() == "hart 0\n") / name


def busy(m, seconds):
    """The share of the time in which its hart has a processor; a loaded host makes it less, never more."""
    def used():
        return int(hart(m, "schedstat").read_text().split()[0]) / 1e9
    first, began = used(), time.monotonic()
    time.sleep(seconds)
    return (used() - first) / (time.monotonic() - began)


def sleeps(m, seconds=0.5):
    """How often its hart went to sleep by itself; on a loaded host not more often, and seldom at most."""
    def count():
        return int(next(line for line in hart(m, "status").read_text().splitlines() if line.startswith("voluntary_ctxt")).split()[1])
    first = count()
    time.sleep(seconds)
    return count() - first


def test_slowed_down_and_let_go(writer):
    # Slower than what the guest writes when it is slowed down as far as it may be, so that the end does not come meanwhile.
    free = speed(writer)
    writer.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "auto-converge", "state": True}])
    writer.qmp.cmd("migrate-set-parameters", max_bandwidth=int(free * 4096 / 8), downtime_limit=1, cpu_throttle_initial=60, cpu_throttle_increment=25,
                   max_cpu_throttle=85)
    writer.qmp.cmd("migrate", uri="exec:cat > /dev/null")
    seen, end = [], time.monotonic() + 60
    while 85 not in seen:
        now = info(writer)
        assert now["status"] in ("setup", "active") and time.monotonic() < end, now
        seen += [now["cpu-throttle-percentage"]] if now.get("cpu-throttle-percentage") not in [None, *seen[-1:]] else []
        time.sleep(0.01)
    assert seen in ([60, 85], [85]) and info(writer)["expected-downtime"] > 1
    assert busy(writer, 2) < 0.3
    slept, end = 0, time.monotonic() + 60
    while (slept := slept + sleeps(writer)) <= 3:
        assert time.monotonic() < end, slept
    assert "cpu throttle percentage: 85\r\n" in writer.qmp.cmd("human-monitor-command", command_line="info migrate")
    writer.qmp.cmd("stop")  # a hart that sleeps stops, too, and goes on asleep
    writer.qmp.cmd("cont")
    writer.qmp.cmd("migrate_cancel")
    assert "cpu-throttle-percentage" not in until(writer, "cancelled") and running(writer)
    end = time.monotonic() + 60
    while sleeps(writer):
        assert time.monotonic() < end


def test_moves_in_the_end(writer):
    free = speed(writer)
    writer.qmp.cmd("migrate-set-parameters", max_bandwidth=int(free * 4096 / 3), downtime_limit=100)
    writer.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "auto-converge", "state": True}])
    writer.qmp.cmd("migrate-set-parameters", cpu_throttle_initial=80, cpu_throttle_increment=19, cpu_throttle_tailslow=True)
    writer.qmp.cmd("migrate", uri="exec:cat > /dev/null")
    assert until(writer, "completed", timeout=120)["ram"]["dirty-sync-count"] > 2


@pytest.mark.parametrize("parameter", ["avail_switchover_bandwidth", "max_switchover_bandwidth"])
def test_what_there_will_be_for_the_switch(writer, parameter):
    """The guest does not stop for what would take too long at that rate, however fast it goes now; a limit it keeps to when it has stopped."""
    assert speed(writer) > 0
    writer.qmp.cmd("migrate-set-parameters", max_bandwidth=0, downtime_limit=300, **{parameter: 4096})  # a page takes too long
    writer.qmp.cmd("migrate", uri="exec:cat > /dev/null")
    end = time.monotonic() + 60
    while (now := info(writer)).get("ram", {}).get("dirty-sync-count", 0) < 10:
        assert now["status"] in ("setup", "active") and time.monotonic() < end, now
    assert running(writer), now
    limit = 1 << 20
    writer.qmp.cmd("migrate-set-parameters", **({"downtime_limit": 60000, parameter: limit} if parameter.startswith("max") else {parameter: 0}))
    done = until(writer, "completed", "failed")
    assert done["status"] == "completed"
    if parameter.startswith("max"):
        assert done["downtime"] / 1000 > 0.9 * (done["ram"]["downtime-bytes"] - 65536) / limit, done  # these are of devices


@pytest.mark.parametrize("name,value,range_", [("cpu-throttle-initial", 0, "1 to 99"), ("cpu-throttle-increment", 100, "1 to 99"), ("max-cpu-throttle", 10, "20 to 99"),
                                               ("throttle-trigger-threshold", 101, "1 to 100")])
def test_ranges(writer, name, value, range_):
    with pytest.raises(QMPError, match=f"'{name}' expects an integer in the range of {range_}"):
        writer.qmp.cmd("migrate-set-parameters", **{name.replace("-", "_"): value})
