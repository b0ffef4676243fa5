# SPDX-License-Identifier: BSD-2-Clause
"""A monitor's connection that becomes an NBD client's."""
import os, socket, sys

import pytest
from chain import MB, img
from qmp import QMP, QMPError
from qtest_disk import Disk

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "export"))
from wire import Wire  # noqa: E402


@pytest.fixture
def m(machine, tmp_path):
    img("create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", 4 * MB)
    m = machine("-machine", "virt", "-m", "64", "-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={tmp_path}/disk.qcow2",
                "-device", "virtio-blk-device,drive=disk,id=disk0,share-rw=on", "-qmp", f"unix:{tmp_path}/second,server=on,wait=off")
    m.second = str(tmp_path / "second")
    return m


def second(m):
    s = socket.socket(socket.AF_UNIX)
    s.connect(m.second)
    return QMP(s)


class Attached(Wire):
    def __init__(self, q):
        self.sock, self.early, self.mode, self.next_cookie = q.sock, q.buf, "simple", 1
        self.sock.settimeout(60)

    def recv(self, n):
        early, self.early = self.early[:n], self.early[n:]
        return early + (super().recv(n - len(early)) if n > len(early) else b"")


def attach(m, **args):
    """The connection after the answer."""
    q = second(m)
    assert q.cmd("nbd-attach", node_name="disk", **args) == {}
    return Attached(q).greet()


def test_reads_and_writes_beside_the_guest(m):
    disk = Disk(m)
    assert disk.write(MB, b"g" * 4096) == 0
    w = attach(m, writable=True)
    w.go("")
    assert w.read(MB, 4096) == b"g" * 4096
    assert w.write(2 * MB, b"n" * 512) == 0
    assert disk.contents(2 * MB, 512) == b"n" * 512
    with pytest.raises(QMPError, match="export 'nbd-attach:disk'"):
        m.qmp.cmd("block_resize", node_name="disk", size=8 * MB)
    q = second(m)  # the monitor is there as always
    assert q.cmd("query-status")
    q.close()
    w.disconnect()
    assert m.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "nbd-attach:disk"}
    m.qmp.cmd("block_resize", node_name="disk", size=8 * MB)
    assert m.quit()[0] == 0


def test_read_only_and_several(m):
    a, b = attach(m), attach(m, name="x")
    a.go("")
    b.go("x")
    assert a.write(0, b"no" * 256) != 0 and a.read(0, 512) == bytes(512) == b.read(0, 512)
    assert m.quit()[0] == 0  # with clients there
    assert a.is_closed() and b.is_closed()


def test_refusals(m):
    with pytest.raises(QMPError, match="Cannot find device='' nor node-name='no'"):
        m.qmp.cmd("nbd-attach", node_name="no")
    q = second(m)
    q.send(b'{"execute": "nbd-attach", "arguments": {"node-name": "disk"}} {"execute": "query-status"}\n')
    assert "must be the last" in q.answer()["error"]["desc"] and q.answer()["return"]["status"]
    with pytest.raises(QMPError, match="Bitmap 'none' is not found"):
        q.cmd("nbd-attach", node_name="disk", bitmap="none")
    q.close()
    q = second(m)
    q.send({"execute": "nbd-attach", "arguments": {"node-name": "disk"}})
    q.close()  # gone before the answer
    assert m.qmp.event("BLOCK_EXPORT_DELETED")["data"] == {"id": "nbd-attach:disk"}
    m.qmp.cmd("block_resize", node_name="disk", size=8 * MB)
