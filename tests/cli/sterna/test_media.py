# SPDX-License-Identifier: BSD-2-Clause
"""SCSI units that come and go, trays and media, by commands: words and events as QEMU's."""
import pytest
from qmp import QMPError

ADAPTER = ("-nodefaults", "-S", "-device", "virtio-scsi-pci,id=scsi0")


@pytest.fixture
def image(tmp_path):
    def make(name, mib=1):
        with open(tmp_path / name, "wb") as f:
            f.truncate(mib << 20)
        return str(tmp_path / name)
    return make


def refused(m, *args, **kw):
    with pytest.raises(QMPError) as e:
        m.qmp.cmd(*args, **kw)
    return e.value.desc


def drive(m, name="cd0"):
    return next(b for b in m.qmp.cmd("query-block") if name in (b["device"], b.get("qdev", "").split("/")[-1]))


def test_a_medium_is_changed(machine, image):
    m = machine(*ADAPTER, "-drive", f"if=none,id=d0,media=cdrom,format=raw,file={image('a')}", "-device", "scsi-cd,id=cd0,drive=d0", qtest=False)
    b = drive(m)
    assert (b["removable"], b["locked"], b["tray_open"], b["inserted"]["ro"]) == (True, False, False, True)
    assert b["qdev"] == "cd0"
    m.qmp.cmd("blockdev-open-tray", id="cd0")
    assert m.qmp.event("DEVICE_TRAY_MOVED")["data"] == {"device": "d0", "id": "cd0", "tray-open": True}
    assert drive(m)["tray_open"] and "inserted" in drive(m)
    m.qmp.cmd("blockdev-remove-medium", id="cd0")
    assert "inserted" not in drive(m)
    m.qmp.cmd("blockdev-add", **{"driver": "raw", "node-name": "new", "read-only": True, "file": {"driver": "file", "filename": image("b", 2)}})
    m.qmp.cmd("blockdev-insert-medium", **{"id": "cd0", "node-name": "new"})
    assert drive(m)["inserted"]["node-name"] == "new"
    m.qmp.cmd("blockdev-close-tray", id="cd0")
    assert m.qmp.event("DEVICE_TRAY_MOVED")["data"]["tray-open"] is False
    m.qmp.cmd("blockdev-change-medium", id="cd0", filename=image("c"), format="raw")
    assert [m.qmp.event("DEVICE_TRAY_MOVED")["data"]["tray-open"] for _ in range(2)] == [True, False]
    assert drive(m)["inserted"]["file"].endswith("/c") and drive(m)["inserted"]["ro"]
    m.qmp.cmd("blockdev-del", **{"node-name": "new"})
    m.qmp.cmd("eject", device="d0")
    assert drive(m)["tray_open"] and "inserted" not in drive(m)


def test_words_of_errors(machine, image):
    m = machine(*ADAPTER, "-device", "scsi-cd,id=cd0", "-blockdev", f"raw,node-name=n0,file.driver=file,file.filename={image('a')}",
                "-device", "scsi-hd,id=hd0,drive=n0", "-device", "scsi-cd,id=cd1,locked=on", qtest=False)
    assert refused(m, "eject") == "Need exactly one of 'device' and 'id'"
    assert refused(m, "eject", device="x") == "Device 'x' not found"
    assert refused(m, "eject", id="hd0") == "Device 'hd0' is not removable"
    assert refused(m, "blockdev-remove-medium", id="cd0") == "Tray of device 'cd0' is not open"
    assert refused(m, "blockdev-change-medium", id="cd0", filename="/nowhere", format="raw") == \
        "Could not open '/nowhere': No such file or directory"
    m.qmp.cmd("blockdev-open-tray", id="cd0")
    assert refused(m, "blockdev-insert-medium", **{"id": "cd0", "node-name": "x"}) == "Node 'x' not found"
    assert refused(m, "blockdev-insert-medium", **{"id": "cd0", "node-name": "n0"}) == "Node 'n0' is already in use"
    assert refused(m, "blockdev-change-medium", id="hd0", filename=image("b"), format="raw") == "Device 'hd0' is not removable"


def test_people_eject_and_change(machine, image):
    m = machine(*ADAPTER, "-drive", f"if=none,id=d0,media=cdrom,format=raw,file={image('a')}", "-device", "scsi-cd,id=cd0,drive=d0", "-device",
                "scsi-cd,id=cd1", qtest=False)
    assert "Removable device: not locked, tray closed" in m.qmp.hmp("info block d0")
    assert m.qmp.hmp("eject d0") == ""
    assert [line.rstrip() for line in m.qmp.hmp("info block d0").splitlines()] == \
        ["d0: [not inserted]", "    Attached to:      cd0", "    Removable device: not locked, tray open"]
    assert m.qmp.hmp(f"change d0 {image('b')} raw") == ""
    assert drive(m)["inserted"]["file"].endswith("/b")
    assert "cd1: [not inserted]" in m.qmp.hmp("info block")
    assert "is not removable" not in m.qmp.hmp("eject -f d0")


def test_units_come_and_go(machine, image):
    m = machine(*ADAPTER, qtest=False)
    m.qmp.cmd("blockdev-add", **{"driver": "raw", "node-name": "n0", "file": {"driver": "file", "filename": image("a")}})
    m.qmp.cmd("device_add", **{"driver": "scsi-hd", "id": "hd0", "drive": "n0", "bus": "scsi0.0", "scsi-id": 2, "lun": 1})
    assert refused(m, "device_add", driver="scsi-cd", bus="scsi0.0", **{"scsi-id": 2, "lun": 1}) == "lun already used by 'hd0'"
    assert refused(m, "device_add", driver="scsi-cd", bus="scsi1.0") == "Bus 'scsi1.0' not found"
    m.qmp.cmd("device_add", driver="scsi-cd", id="cd0")
    assert m.qmp.cmd("qom-get", path="/machine/peripheral/cd0", property="scsi-id") == 0
    m.qmp.cmd("device_del", id="hd0")
    assert m.qmp.event("DEVICE_DELETED")["data"] == {"device": "hd0", "path": "/machine/peripheral/hd0"}
    m.qmp.cmd("blockdev-del", **{"node-name": "n0"})
    m.qmp.cmd("device_del", id="scsi0")  # and what is on its bus
    assert [m.qmp.event("DEVICE_DELETED")["data"]["device"] for _ in range(2)] == ["cd0", "scsi0"]
    assert m.qmp.cmd("query-block") == []
    assert refused(m, "device_add", driver="scsi-cd") == "No 'SCSI' bus found for device 'scsi-cd'"
