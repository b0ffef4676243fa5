# SPDX-License-Identifier: BSD-2-Clause
"""Flash banks: how they are asked for, what is in the node when the guest is told that it is done, snapshots."""
import json, subprocess

import pytest
from qmp import QMPError
from sterna import program

MIB = 1 << 20
FLASH = (0x20000000, 0x22000000)


class Bank:
    """A flash bank's driver, through qtest."""

    def __init__(self, m, n):
        self.m, self.base = m, FLASH[n]

    def write(self, off, value):
        assert self.m.ask(f"writel {self.base + off:#x} {value:#x}") == "OK"

    def read(self, off):
        return int(self.m.ask(f"readl {self.base + off:#x}").split()[1], 16)

    def ready(self):
        while not self.read(0) & 0x80:
            pass
        return self.read(0)

    def erase(self, off):
        self.write(off, 0x200020)
        self.write(off, 0xd000d0)
        return self.ready()

    def program(self, off, value):
        self.write(off, 0x400040)
        self.write(off, value)
        return self.ready()

    def word(self, off):
        self.write(0, 0xff00ff)
        return self.read(off)


def raw(path, size=32 * MIB):
    path.write_bytes(b"\xff" * 4096)
    with open(path, "r+b") as f:
        f.truncate(size)
    return path


def refused(*args):
    p = subprocess.run([program("sterna"), "-display", "none", "-nodefaults", "-S", "-accel", "qtest", *map(str, args)], capture_output=True,
                       text=True, timeout=60)
    assert p.returncode == 1
    return p.stderr


def test_drive(machine, tmp_path):
    path = raw(tmp_path / "vars")
    m = machine("-drive", f"if=pflash,unit=1,format=raw,file={path}")
    bank = Bank(m, 1)
    assert m.ask(f"readl {FLASH[0]:#x}").startswith("OK")  # nothing is there: no bank 0
    assert bank.word(0x100) == 0xffffffff
    assert bank.program(0x100, 0x6e726574) == 0x800080
    assert path.read_bytes()[0x100:0x104] == b"tern"
    assert bank.word(0x100) == 0x6e726574
    assert bank.erase(0x40000) == 0x800080
    assert path.read_bytes()[0x40000:0x80004] == b"\xff" * 0x40000 + bytes(4)
    [b] = m.qmp.cmd("query-block")
    assert (b["device"], b["qdev"]) == ("pflash1", "/machine/virt.flash1")
    stats = next(s for s in m.qmp.cmd("query-blockstats") if s["device"] == "pflash1")["stats"]
    assert (stats["wr_operations"], stats["wr_bytes"]) == (2, 0x40000 + 4)
    assert {"name": "virt.flash1", "type": "child<cfi.pflash01>"} in m.qmp.cmd("qom-list", path="/machine")
    assert m.qmp.cmd("qom-get", path="/machine/virt.flash1", property="drive") == "pflash1"
    with pytest.raises(QMPError, match="does not support hotplugging"):
        m.qmp.cmd("device_del", id="/machine/virt.flash1")


def test_device_tree(tmp_path):
    def tree(*args):
        out = tmp_path / "dtb"
        subprocess.run([program("sterna"), "-display", "none", "-nodefaults", "-M", f"virt,dumpdtb={out}", *map(str, args)], check=True, timeout=60)
        return out.read_bytes()
    assert b"cfi-flash" not in tree()
    drive = [f"if=pflash,format=raw,file={raw(tmp_path / name)}" for name in ("code", "vars")]
    one, both = tree("-drive", drive[0]), tree("-drive", drive[0], "-drive", drive[1])
    reg = [bytes.fromhex(f"00000000{a:08x}0000000002000000") for a in FLASH]
    assert b"flash@20000000" in one and reg[0] in one and reg[1] not in one
    assert reg[0] + reg[1] in both
    assert b"flash@22000000" in tree("-drive", drive[1] + ",unit=1")


def test_machine_option(machine, tmp_path):
    node = {"driver": "raw", "node-name": "nvram", "file": {"driver": "file", "filename": str(raw(tmp_path / "vars"))}, "read-only": True}
    m = machine("-machine", "virt,pflash0=nvram", "-blockdev", json.dumps(node))
    bank = Bank(m, 0)
    assert bank.program(0, 0) == 0x900090  # the node is read-only
    assert m.qmp.cmd("qom-get", path="/machine/virt.flash0", property="drive") == "nvram"
    with pytest.raises(QMPError, match="in use"):
        m.qmp.cmd("blockdev-del", node_name="nvram")


@pytest.mark.parametrize("args, text", [
    (["-M", "virt,pflash0=nope"], "can't find value 'nope'"),
    (["-drive", "if=pflash,unit=2,format=raw,file={good}"], "machine type does not support if=pflash,bus=0,unit=2"),
    (["-drive", "if=pflash,format=raw,file={small}"], "device '/machine/virt.flash0' requires 33554432 bytes, pflash0 block backend provides 1048576 bytes"),
    (["-M", "virt,pflash1=n", "-drive", "if=pflash,unit=1,format=raw,file={good}"], "clashes with -machine"),
    (["-drive", "if=pflash"], "Device needs media"),
    (["-M", "none", "-drive", "if=pflash,format=raw,file={good}"], "does not support if=pflash"),
    (["-drive", "if=pflash,id=f,format=raw,file={good}", "-device", "virtio-blk-pci,drive=f"], "is already in use by device"),
])
def test_refused(tmp_path, args, text):
    good, small = raw(tmp_path / "good"), raw(tmp_path / "small", MIB)
    assert text in refused(*(a.format(good=good, small=small) for a in args))


def test_snapshot_brings_content_back(machine, tmp_path):
    path = tmp_path / "vars.qcow2"
    subprocess.run([program("sterna-img"), "create", "-q", "-f", "qcow2", path, "32M"], check=True)
    m = machine("-m", "16", "-drive", f"if=pflash,format=qcow2,file={path},node-name=nvram")
    bank = Bank(m, 0)

    def job(command):
        m.qmp.events.clear()
        m.qmp.cmd(command, job_id="j", tag="t", vmstate="nvram", devices=["nvram"])
        m.qmp.event("JOB_STATUS_CHANGE", id="j", status="concluded")
        [info] = m.qmp.cmd("query-jobs")
        m.qmp.cmd("job-dismiss", id="j")
        assert "error" not in info

    assert bank.erase(0) == 0x800080
    assert bank.program(0, 0x11111111) == 0x800080
    bank.write(0, 0x980098)  # what is shown is of the state, too
    job("snapshot-save")
    assert bank.program(0, 0) == 0x800080
    assert bank.word(0) == 0
    job("snapshot-load")
    assert bank.read(0x40) == 0x510051
    assert bank.word(0) == 0x11111111
