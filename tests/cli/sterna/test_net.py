# SPDX-License-Identifier: BSD-2-Clause
"""Networks by option and command, cards in them, and what the state file keeps of both."""
import socket

import pytest

from qmp import QMPError
from sterna import free_port, program, run

BASE = 0x10008000  # virtio-mmio-bus.7: the slot that the first device takes


def link(m):
    return int(m.ask(f"readw {BASE + 0x106:#x}").split()[1], 16)


def test_commands(machine):
    m = machine("-netdev", "user,id=a,net=192.168.9.0/24,restrict=on", "-device", "virtio-net-device,netdev=a,id=card")
    q = m.qmp
    assert q.cmd("qom-get", path="card", property="mac") == "52:54:00:12:34:56"
    assert link(m) == 1
    q.cmd("netdev_add", type="user", id="b")
    q.cmd("device_add", driver="virtio-net-pci", id="second", netdev="b", addr="5")
    assert q.cmd("qom-get", path="second", property="mac") == "52:54:00:12:34:57"
    assert q.hmp("info network").replace("\r", "").splitlines() == [
        "card: index=0,type=nic", " \\ a: index=0,type=user,net=192.168.9.0,mask=255.255.255.0,restrict=on",
        "second: index=0,type=nic", " \\ b: index=0,type=user,net=10.0.2.0,mask=255.255.255.0,restrict=off"]
    for command, args, text in [
            ("netdev_add", {"type": "user", "id": "a"}, "Duplicate ID 'a'"),
            ("netdev_del", {"id": "x"}, "Device 'x' not found"),
            ("set_link", {"name": "x", "up": True}, "Device 'x' not found"),
            ("device_add", {"driver": "virtio-net-pci", "netdev": "x"}, "Property 'virtio-net-pci.netdev' can't find value 'x'"),
            ("device_add", {"driver": "virtio-net-pci", "netdev": "a"}, "netdev 'a' is in use by 'card'"),
            ("device_add", {"driver": "virtio-net-pci", "mac": "1:2:3"}, "doesn't take value '1:2:3'"),
            ("device_add", {"driver": "virtio-net-pci", "mac": "01:00:00:00:00:01"}, "the address of a group")]:
        with pytest.raises(QMPError, match=text):
            q.cmd(command, args=args)
    q.cmd("set_link", name="card", up=False)
    assert link(m) == 0
    q.cmd("set_link", name="a", up=True)
    assert link(m) == 1
    q.cmd("netdev_del", id="a")
    assert link(m) == 0
    q.cmd("device_del", id="second")
    q.cmd("netdev_del", id="b")
    assert q.hmp("info network") == ""


def test_state_file_keeps_networks_and_addresses(machine, tmp_path):
    file = tmp_path / "vm.state"
    port = free_port()
    m = machine("-S", "-state", file, "-netdev", f"user,id=n,net=10.1.0.0/16,hostfwd=tcp:127.0.0.1:{port}-:22",
                "-device", "virtio-net-device,netdev=n,id=card", "-device", "virtio-net-device,id=other,mac=02:00:00:00:00:07", qtest=False)
    m.qmp.cmd("netdev_add", type="user", id="late")
    assert m.quit()[0] == 0
    text = file.read_text()
    assert '[netdev "n"]' in text and "net = 10.1.0.0/16" in text and '[netdev "late"]' in text
    assert "52:54:00:12:34:56" in text
    again = machine("-S", "-state", file, qtest=False)
    socket.create_connection(("127.0.0.1", port), 60).close()
    assert "10.1.0.0" in again.qmp.hmp("info network")
    assert "late: " in again.qmp.hmp("info network")
    assert [again.qmp.cmd("qom-get", path=c, property="mac") for c in ("card", "other")] == ["52:54:00:12:34:56", "02:00:00:00:00:07"]


def test_nic_is_a_network_and_its_card(machine, tmp_path):
    file = tmp_path / "vm.state"
    port = free_port()
    m = machine("-S", "-state", file, "-nic", "none", "-nic", f"user,mac=02:00:00:00:00:09,hostfwd=tcp:127.0.0.1:{port}-:22,hostname=a,,b",
                "-nic", "model=virtio-net-device,type=user,id=mine", qtest=False)
    socket.create_connection(("127.0.0.1", port), 60).close()
    devices = {s["name"]: s["values"] for s in m.qmp.cmd("query-state")["sections"] if s["kind"] == "device"}
    assert sorted((d["driver"], d["netdev"], d["mac"]) for d in devices.values()) == [
        ("virtio-net-device", "mine", "52:54:00:12:34:56"), ("virtio-net-pci", "nic0", "02:00:00:00:00:09")]
    before = m.qmp.hmp("info network")
    assert m.quit()[0] == 0 and 'hostname = "a,b"' in file.read_text().replace("hostname = a,b", 'hostname = "a,b"')
    again = machine("-S", "-state", file, "-nic", "none", qtest=False)
    assert again.qmp.hmp("info network") == before
    for args, said in [(("-nic", "user,model=e1000"), "Unsupported NIC model: e1000"), (("-nic", "user,model=virtio-blk-pci"), "Unsupported NIC model"),
                       (("-nic", "tap"), "tap"), (("-nic", "user,mac=x"), "doesn't take value 'x'")]:
        r = run(program("sterna"), "-S", "-display", "none", *args)
        assert r.rc == 1 and said in r.err and "-nic" in r.err, r.err
