# SPDX-License-Identifier: BSD-2-Clause
"""Debian's kernel with SCSI disks and CD-ROM drives: what it finds, what it notices by itself, what it changes."""
import os

import pytest

from vm import VMError

SCSI = ("-device", "virtio-scsi-pci,id=scsi0")


def make(path, mib, fill=None):
    with open(path, "wb") as f:
        f.truncate(mib << 20)
        if fill:
            f.write(fill * 65536)
    return path


def test_disk_keeps_what_is_written_and_its_cache_mode(full):
    m = full("stamp fill /dev/sda 16;stamp verify /dev/sda 16;cat /sys/class/scsi_disk/*/cache_type;"
             "echo 'write through' >/sys/class/scsi_disk/0:0:0:0/cache_type;cat /sys/class/scsi_disk/*/cache_type;"
             "sgio /dev/sda 120180004000 in 64;blkdiscard /dev/sda;stamp verify /dev/sda 16;echo ASKED-ALL;sleep 1000")
    assert m.wait("^VERIFY-")[1] == "VERIFY-OK blocks=4096 bad=0 stale=0 blank=0"
    m.wait("^write back")
    m.wait("^write through")
    modes = {b["inserted"]["node-name"]: b["inserted"]["cache"]["writeback"] for b in m.cmd("query-block")}
    assert not modes["hd"] and modes["vd"]
    assert "7465726e2d37" in m.wait("^SG status=0")[1]  # the serial number
    m.wait("^ASKED-ALL")
    assert [t for _, t in m.lines if t.startswith("VERIFY-")][-1].endswith("blank=4096")
    assert os.stat(full.scsi).st_blocks == 0


def test_disks_come_grow_and_go(up, tmp_path):
    m = up("while ! head -c 1 /dev/sda >/dev/null 2>&1;do sleep 0.1;done;echo CAME $(cat /sys/block/sda/size);"
           "while [ $(cat /sys/block/sda/size) = 16384 ]; do sleep 0.1; done;echo GREW $(cat /sys/block/sda/size);"
           "while ! head -c 1 /dev/sdb >/dev/null 2>&1;do sleep 0.1;done;echo SECOND $(cat /sys/block/sdb/size);stamp fill /dev/sdb 2;"
           "while [ -e /dev/sda ]; do sleep 0.1; done;echo WENT;stamp verify /dev/sdb 2;"
           "while [ -e /dev/sdb ]; do sleep 0.1; done;echo BOTH;sleep 1000", *SCSI)
    m.wait("GUEST-UP")
    m.cmd("blockdev-add", **{"driver": "raw", "node-name": "d0", "file": {"driver": "file", "filename": str(make(tmp_path / "d.raw", 8))}})
    m.cmd("device_add", driver="scsi-hd", drive="d0", id="hd0", **{"scsi-id": 3})
    m.wait("^CAME 16384")
    m.cmd("block_resize", node_name="d0", size=12 << 20)
    m.wait("^GREW 24576")
    m.cmd("blockdev-add", **{"driver": "raw", "node-name": "d1", "file": {"driver": "file", "filename": str(make(tmp_path / "e.raw", 4))}})
    m.cmd("device_add", driver="scsi-hd", drive="d1", id="hd1", **{"scsi-id": 3, "lun": 7})
    m.wait("^SECOND 8192")
    m.wait("^FILL-DONE")
    m.cmd("device_del", id="hd0")
    assert m.event("DEVICE_DELETED")["data"]["device"] == "hd0"
    m.wait("^WENT")
    m.cmd("blockdev-del", node_name="d0")
    assert m.wait("^VERIFY-")[1] == "VERIFY-OK blocks=512 bad=0 stale=0 blank=0"  # its neighbour stays
    m.cmd("device_del", id="hd1")
    m.wait("^BOTH")
    m.cmd("blockdev-del", node_name="d1")


def test_an_error_reaches_the_program(up, tmp_path):
    disk = make(tmp_path / "d.raw", 8)
    m = up("while ! head -c 1 /dev/sda >/dev/null 2>&1;do sleep 0.1;done;dd if=/dev/sda of=/dev/null bs=4096 skip=100 count=1;"
           "sgio /dev/sda 28000000032000000800 in 4096;echo TRIED;sleep 1000", *SCSI)
    m.cmd("blockdev-add", **{"driver": "raw", "node-name": "d0", "file": {
        "driver": "blkdebug", "image": {"driver": "file", "filename": str(disk)},
        "inject-error": [{"event": "read_aio", "sector": 800, "errno": 5}]}})
    m.cmd("device_add", driver="scsi-hd", drive="d0")
    m.wait("^TRIED")
    assert any("dd:" in t and "I/O error" in t or "Input/output error" in t for _, t in m.lines), m.lines
    assert m.wait("^SG status=2")[1].startswith("SG status=2 sense=b/0/6")
    assert m.event("BLOCK_IO_ERROR")["data"]["action"] == "report"


def test_cd_is_read_ejected_and_changed(full, tmp_path):
    b = make(tmp_path / "b", 8, b"b")
    m = full("cat /sys/block/sr0/size;head -c 4 /dev/sr0;echo;"
             "sgio /dev/sg1 1e0000000100;echo LOCKED;"
             "until sgio /dev/sg1 4a010000100000000800 in 8|grep -q data=0006041001; do sleep 0.1; done;"
             "sgio /dev/sg1 1e0000000000;sgio /dev/sg1 1b0000000200;echo EJECTED;"
             "while ! head -c 4 /dev/sr0 2>/dev/null|grep b; do sleep 0.1; done;cat /sys/block/sr0/size;echo SEEN;sleep 1000")
    m.wait("^8192")
    m.wait("^iiii")
    m.wait("^LOCKED")
    assert [b["locked"] for b in m.cmd("query-block") if b["removable"]] == [True]
    m.cmd("blockdev-open-tray", id="cd0")
    m.wait("^EJECTED")
    assert m.event("DEVICE_TRAY_MOVED")["data"] == {"device": "", "id": "cd0", "tray-open": True}
    m.cmd("blockdev-change-medium", id="cd0", filename=str(b), format="raw")
    m.wait("^bbbb")
    m.wait("^16384")
    m.wait("^SEEN")


def test_cd_drive_comes_is_held_and_goes(up, tmp_path):
    """Who has it open keeps it locked, as Debian's kernel has it; and its programs open and close the tray through that."""
    m = up("while ! head -c 1 /dev/sr0 >/dev/null 2>&1;do sleep 0.1;done;head -c 4 /dev/sr0;exec 3</dev/sr0;echo HELD;read x;exec 3<&-;"
           "sgio /dev/sr0 open;read x;sgio /dev/sr0 close;head -c 4 /dev/sr0;echo;"
           "while [ -e /dev/sr0 ]; do sleep 0.1; done;echo WENT;sleep 1000", *SCSI)
    m.wait("GUEST-UP")
    m.cmd("blockdev-add", **{"driver": "raw", "node-name": "cd", "read-only": True, "file": {"driver": "file", "filename": str(make(tmp_path / "a", 4, b"a"))}})
    m.cmd("device_add", driver="scsi-cd", drive="cd", id="cd0")
    m.wait("^aaaaHELD")
    assert m.cmd("query-block")[0]["locked"]
    with pytest.raises(VMError, match="Device 'cd0' is locked and force was not specified, wait for tray to open and try again"):
        m.cmd("eject", id="cd0")
    m.type("\n")
    m.wait("^TRAY open")
    assert m.event("DEVICE_TRAY_MOVED", tray_open=True)["data"]["id"] == "cd0"
    assert not m.cmd("query-block")[0]["locked"]
    m.cmd("blockdev-remove-medium", id="cd0")
    m.cmd("blockdev-add", **{"driver": "raw", "node-name": "new", "read-only": True, "file": {"driver": "file", "filename": str(make(tmp_path / "b", 8, b"b"))}})
    m.cmd("blockdev-insert-medium", **{"id": "cd0", "node-name": "new"})
    m.type("\n")
    m.wait("^TRAY close")
    assert m.event("DEVICE_TRAY_MOVED", tray_open=False)["data"]["id"] == "cd0"
    m.wait("^bbbb")
    m.cmd("device_del", id="cd0")
    m.event("DEVICE_DELETED", device="cd0")
    m.wait("^WENT")
    m.cmd("blockdev-del", node_name="new")
