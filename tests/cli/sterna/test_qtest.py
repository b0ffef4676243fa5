# SPDX-License-Identifier: BSD-2-Clause
"""-qtest and -accel qtest, started as QEMU's Python machine class does."""
import re

import pytest


def test_clock_and_registers(machine):
    m = machine("-machine", "virt", "-nodefaults")
    assert m.ask("endianness") == "OK little"
    assert m.ask("clock_step 1000") == "OK 1000"
    assert m.ask("clock_step 500") == "OK 1500"
    assert m.ask("clock_set 4000") == "OK 4000"
    assert m.ask("writel 0x80000000 0x12345678") == "OK"
    assert m.ask("readl 0x80000000") == "OK 0x0000000012345678"
    assert m.ask("readb 0x80000003") == "OK 0x0000000000000012"
    assert m.ask("readl 0x30000000") == "OK 0x0000000000081b36"  # the PCI host bridge
    assert m.ask("nonsense").startswith("FAIL Unknown")
    assert m.qmp.cmd("query-status")["status"] == "running"
    assert m.quit()[0] == 0


def test_the_first_accelerator_that_there_is(machine):
    m = machine("-machine", "virt", "-nodefaults", "-accel", "tcg", base=("-display", "none", "-accel", "kvm"))
    assert m.ask("clock_step 1000") == "OK 1000"
    assert m.quit()[0] == 0


def test_machine_none(machine):
    m = machine("-machine", "none", "-nodefaults")
    assert m.ask("clock_step 7") == "OK 7"
    assert m.ask("readl 0") == "OK 0x0000000000000000"
    assert m.ask("irq_intercept_in x") == "OK"
    assert m.quit()[0] == 0


def test_paused_start_and_disk(machine, tmp_path):
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(1 << 20)
    m = machine("-machine", "virt", "-nodefaults", "-S", "-drive", f"file={tmp_path}/disk,format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=v")
    assert m.qmp.cmd("query-status")["status"] == "prelaunch"
    assert m.ask("readl 0x30008000") == "OK 0x0000000010421af4"  # its configuration space: a modern virtio disk, in slot 1
    m.qmp.cmd("cont")
    assert m.qmp.cmd("query-status")["status"] == "running"
    assert m.quit()[0] == 0


def test_log(machine, tmp_path):
    m = machine("-machine", "none", "-qtest-log", tmp_path / "log")
    m.ask("clock_step 5")
    assert m.quit() == (0, "")
    lines = (tmp_path / "log").read_text().splitlines()
    assert re.fullmatch(r"\[I \d+\.\d{6}\] OPENED", lines[0])
    assert re.fullmatch(r"\[R \+\d+\.\d{6}\] clock_step 5", lines[1])
    assert re.fullmatch(r"\[S \+\d+\.\d{6}\] OK 5", lines[2])


@pytest.mark.parametrize("where, expected", [([], True), (["-qtest-log", "none"], False)])
def test_log_goes_to_standard_error(machine, where, expected):
    m = machine("-machine", "none", *where)
    m.ask("endianness")
    assert ("endianness" in m.quit()[1]) == expected
