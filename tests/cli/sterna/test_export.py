# SPDX-License-Identifier: BSD-2-Clause
"""The NBD server of a machine: commands, clients while a driver in place of a guest writes, backups that clients pull."""
import json, os, socket, subprocess, sys, threading

import pytest
from chain import MB, SIZE, Chain, finish, img, start
from qmp import QMPError
from qtest_disk import Disk
from sterna import TOP, program, reference

sys.path.insert(0, os.path.join(TOP, "tests", "export"))
from wire import Wire  # noqa: E402


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


class Server:
    def __init__(self, m, tmp, **args):
        self.m, self.path = m, tmp / "nbd.sock"
        m.qmp.cmd("nbd-server-start", args={"addr": {"type": "unix", "data": {"path": str(self.path)}}, **args})

    def add(self, node, id="e", **args):
        self.m.qmp.cmd("block-export-add", args={"type": "nbd", "id": id, "node-name": node,
                                                 **{k.replace("_", "-"): v for k, v in args.items()}})

    def uri(self, name):
        return f"nbd+unix:///{name}?socket={self.path}"

    def info(self, name, *args):
        return json.loads(subprocess.run([reference("nbdinfo"), "--json", *args, self.uri(name)], check=True, capture_output=True, text=True).stdout)

    def contents(self, name, out):
        subprocess.run([reference("nbdcopy"), self.uri(name), out], check=True)
        return out.read_bytes()

    def io(self, name, *commands, code=0):
        words = [w for c in commands for w in ("-c", c)]
        p = subprocess.run([program("sterna-io"), "-f", "raw", *words, self.uri(name)], capture_output=True, text=True)
        assert p.returncode == code, p.stdout + p.stderr
        return p.stdout

    def dirty(self, name, bitmap):
        """Ranges (offset, length) that the bitmap has."""
        m = self.info(name, f"--map=qemu:dirty-bitmap:{bitmap}")
        return [(e["offset"], e["length"]) for e in m if e["type"] == 1]


def refused(m, command, **args):
    with pytest.raises(QMPError) as e:
        m.qmp.cmd(command, args={k.replace("_", "-"): v for k, v in args.items()})
    return e.value.desc


def scribble(chain, disk, n):
    for _ in range(n):
        off = chain.random.randrange(0, SIZE // 4096) * 4096
        data = bytes([chain.random.randrange(256)]) * 4096
        assert disk.write(off, data) == 0
        chain.want[off:off + 4096] = data


class Writer:
    """Writes to the upper half of the disk until it is stopped."""

    def __init__(self, chain, disk):
        self.stop, self.count, self.chain, self.disk = threading.Event(), 0, chain, disk
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stop.is_set():
            off = SIZE // 2 + self.count * 8192 % (SIZE // 2)
            data = bytes([self.count % 255 + 1]) * 4096
            assert self.disk.write(off, data) == 0
            self.chain.want[off:off + 4096] = data
            self.count += 1

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()


def test_commands(machine, chain):
    m, _ = start(machine, chain)
    assert refused(m, "nbd-server-stop") == "NBD server not running"
    assert refused(m, "nbd-server-add", device="top") == "NBD server not running"
    assert refused(m, "block-export-add", type="nbd", id="e", node_name="top") == "NBD server not running"
    s = Server(m, chain.tmp)
    assert refused(m, "nbd-server-start", addr={"type": "unix", "data": {"path": "x"}}) == "NBD server already running"
    s.add("top", description="the guest's", allocation_depth=True)
    m.qmp.cmd("nbd-server-add", device="base")
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="of-top")
    assert m.qmp.cmd("query-block-exports") == [
        {"id": "base", "type": "nbd", "node-name": "base", "shutting-down": False},
        {"id": "e", "type": "nbd", "node-name": "top", "shutting-down": False}]
    for args, text in (
            ({"id": "e", "node_name": "top"}, "Block export id 'e' is already in use"),
            ({"id": "-", "node_name": "top"}, "Invalid block export id"),
            ({"id": "f", "node_name": "x"}, "Cannot find device='' nor node-name='x'"),
            ({"id": "f", "node_name": "top"}, "NBD server already has export named 'top'"),
            ({"id": "f", "node_name": "mid", "writable": True}, "Cannot export read-only node as writable"),
            ({"id": "f", "node_name": "mid", "iothread": "t"}, 'iothread "t" not found'),
            ({"id": "f", "node_name": "mid", "bitmaps": ["b"]}, "Bitmap 'b' is not found"),
            ({"id": "f", "node_name": "top", "name": "t", "bitmaps": ["of-top"]}, "Enabled bitmap 'of-top' incompatible with readonly export"),
            ({"id": "f", "node_name": "mid", "name": "n" * 4097}, f"export name '{'n' * 4097}' too long")):
        assert refused(m, "block-export-add", type="nbd", **args) == text
    for kind in ("vhost-user-blk", "fuse", "vduse-blk"):
        assert refused(m, "block-export-add", type=kind, id="f", node_name="top") == f"Parameter 'type' does not accept value '{kind}'"
    info = {e["export-name"]: e for e in s.info("", "--list")["exports"]}
    assert list(info) == ["top", "base"] and info["top"]["description"] == "the guest's"
    assert info["top"]["contexts"] == ["base:allocation", "qemu:allocation-depth"] and info["top"]["is_read_only"]
    assert "in use" in refused(m, "blockdev-del", node_name="base")
    assert "block device export 'e'" in refused(m, "block_resize", node_name="top", size=2 * SIZE)
    assert refused(m, "nbd-server-remove", name="x") == "Export 'x' is not found"
    m.qmp.when_unused("nbd-server-remove", name="base")
    m.qmp.event("BLOCK_EXPORT_DELETED", id="base")
    m.qmp.cmd("nbd-server-stop")
    m.qmp.event("BLOCK_EXPORT_DELETED", id="e")
    assert m.qmp.cmd("query-block-exports") == []
    assert m.quit()[0] == 0


def test_clients_that_are_there(machine, chain):
    m, disk = start(machine, chain)
    s = Server(m, chain.tmp)
    s.add("top")
    with Wire(str(s.path)) as client:
        client.greet().go("top")
        assert client.read(0, 4096) == chain.want[:4096]
        assert refused(m, "block-export-del", id="e") == "export 'e' still in use"
        m.qmp.cmd("block-export-del", id="e", mode="hard")
        m.qmp.event("BLOCK_EXPORT_DELETED", id="e")
        assert client.is_closed()
    s.add("top")
    assert s.contents("top", chain.tmp / "copy") == chain.want


def test_quit_with_clients(machine, chain):
    m, disk = start(machine, chain)
    s = Server(m, chain.tmp)
    s.add("top")
    with Wire(str(s.path)) as client:
        client.greet().go("top")
        assert m.quit()[0] == 0
        assert client.is_closed()


def test_read_while_the_guest_writes(machine, chain):
    m, disk = start(machine, chain)
    s = Server(m, chain.tmp)
    s.add("top")
    with Writer(chain, disk) as w:
        for i in range(3):
            copy = s.contents("top", chain.tmp / "copy")
            assert copy[:SIZE // 2] == chain.want[:SIZE // 2]
        assert w.count
    assert s.contents("top", chain.tmp / "copy") == chain.want
    m.quit()
    assert chain.contents() == chain.want


def test_guest_and_client_write(machine, chain):
    m = machine("-machine", "virt", "-m", "128", *chain.blockdev(), "-device", "virtio-blk-device,drive=top,id=disk0,share-rw=on")
    disk, s = Disk(m), Server(m, chain.tmp)
    s.add("top", writable=True, writethrough=True)
    with Writer(chain, disk):
        s.io("top", *(f"write -P {i + 1} {i * 65536} 65536" for i in range(20)))
    for i in range(20):
        chain.want[i * 65536:(i + 1) * 65536] = bytes([i + 1]) * 65536
    assert disk.contents(65536, 4096) == bytes([2]) * 4096
    assert s.contents("top", chain.tmp / "copy") == chain.want
    m.quit()
    assert chain.contents() == chain.want


def test_write_not_shared(machine, chain):
    m, _ = start(machine, chain)
    s = Server(m, chain.tmp)
    with pytest.raises(QMPError, match="block device export 'e'"):
        s.add("top", writable=True)
    assert m.qmp.cmd("query-block-exports") == []


def test_pulled_backup(machine, chain):
    """As libvirt does for virtnbdbackup: a job keeps what was, an overlay of the disk shows it, a bitmap says what to fetch."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="since", persistent=True)
    s = Server(m, chain.tmp)
    backup = bytearray(SIZE)
    whole = [(0, SIZE)]
    for round in range(3):
        scratch = chain.tmp / f"scratch{round}.qcow2"
        img("create", "-q", "-f", "qcow2", scratch, SIZE)
        m.qmp.cmd("blockdev-add", args={"driver": "qcow2", "node-name": "scratch", "backing": "top",
                                        "file": {"driver": "file", "filename": str(scratch)}})
        m.qmp.cmd("block-dirty-bitmap-add", node="scratch", name="frozen", disabled=True, granularity=65536)
        m.qmp.cmd("block-dirty-bitmap-merge", node="scratch", target="frozen", bitmaps=[{"node": "top", "name": "since"}])
        m.qmp.cmd("block-dirty-bitmap-clear", node="top", name="since")
        m.qmp.cmd("blockdev-backup", job_id="b", device="top", target="scratch", sync="none")
        then = bytes(chain.want)
        s.add("scratch", id="pull", name="disk", bitmaps=["frozen"] if round else [])
        with Writer(chain, disk):
            scratch_copy = s.contents("disk", chain.tmp / "pulled")
            fetch = s.dirty("disk", "frozen") if round else whole
            for off, n in fetch:
                backup[off:off + n] = scratch_copy[off:off + n]
        assert backup == then
        assert round == 0 or sum(n for _, n in fetch) < SIZE
        m.qmp.when_unused("block-export-del", id="pull")
        m.qmp.cmd("block-job-cancel", device="b")
        m.qmp.event("BLOCK_JOB_CANCELLED", device="b")
        m.qmp.cmd("blockdev-del", node_name="scratch")
        scribble(chain, disk, 3)
    m.quit()
    assert chain.contents() == chain.want


def test_pulled_from_a_snapshot(machine, chain):
    """copy-before-write and snapshot-access: only what the bitmap has can be read, and that as it was."""
    m, disk = start(machine, chain)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="since", granularity=65536)
    s = Server(m, chain.tmp)
    scribble(chain, disk, 5)
    img("create", "-q", "-f", "qcow2", chain.tmp / "t.qcow2", SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="t", file={"driver": "file", "filename": str(chain.tmp / "t.qcow2")})
    m.qmp.cmd("blockdev-backup", job_id="b", device="top", target="t", sync="none", filter_node_name="cbw")
    m.qmp.cmd("blockdev-add", driver="snapshot-access", node_name="snap", file="cbw")
    then = bytes(chain.want)
    m.qmp.cmd("block-dirty-bitmap-disable", node="top", name="since")
    s.add("snap", bitmaps=[{"node": "top", "name": "since"}])
    assert "in use" in refused(m, "block-dirty-bitmap-clear", node="top", name="since")
    with Writer(chain, disk):
        assert s.contents("snap", chain.tmp / "pulled") == then
        assert 0 < sum(n for _, n in s.dirty("snap", "since")) < SIZE
    assert "in use" in refused(m, "blockdev-del", node_name="snap")
    m.qmp.when_unused("block-export-del", id="e")
    m.qmp.cmd("blockdev-del", node_name="snap")
    m.qmp.cmd("block-job-cancel", device="b")
    m.qmp.event("BLOCK_JOB_CANCELLED", device="b")
    m.quit()
    assert chain.contents() == chain.want


def test_beside_a_mirror_and_a_stream(machine, chain):
    m, disk = start(machine, chain)
    s = Server(m, chain.tmp)
    s.add("top")
    img("create", "-q", "-f", "qcow2", chain.tmp / "t.qcow2", SIZE)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="t", file={"driver": "file", "filename": str(chain.tmp / "t.qcow2")})
    m.qmp.cmd("block-stream", job_id="s", device="top", speed=8 * MB)
    m.qmp.cmd("blockdev-mirror", job_id="m", device="top", target="t", sync="full", speed=16 * MB)
    with Writer(chain, disk):
        assert s.contents("top", chain.tmp / "copy")[:SIZE // 2] == chain.want[:SIZE // 2]
    assert "error" not in finish(m, "s")
    m.qmp.event("BLOCK_JOB_READY", device="m")
    m.qmp.cmd("block-job-complete", device="m")
    assert "error" not in finish(m, "m")
    assert m.qmp.cmd("query-block-exports")[0]["node-name"] == "t"
    scribble(chain, disk, 3)
    assert s.contents("top", chain.tmp / "copy") == chain.want
    m.quit()


def test_a_medium_that_goes(machine, tmp_path):
    """An export of a drive ends with the drive; one of its node does not."""
    img("create", "-q", "-f", "raw", tmp_path / "d", MB)
    m = machine("-machine", "virt", "-m", "128", "-drive", f"if=none,id=d,file={tmp_path}/d,format=raw,file.node-name=below",
                "-device", "virtio-blk-pci,drive=d,id=disk0")
    s = Server(m, tmp_path)
    m.qmp.cmd("nbd-server-add", device="d", writable=False)
    s.add("below", id="node")
    m.qmp.cmd("device_del", id="disk0")
    m.qmp.event("DEVICE_DELETED", device="disk0")
    m.qmp.event("BLOCK_EXPORT_DELETED", id="d")
    assert [e["id"] for e in m.qmp.cmd("query-block-exports")] == ["node"]
    assert m.qmp.cmd("query-block") == []
    assert m.quit()[0] == 0


def test_addresses(machine, tmp_path):
    m = machine("-blockdev", "driver=null-co,node-name=n,size=1048576,read-zeroes=on", qtest=False)
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    inet = {"type": "inet", "data": {"host": "127.0.0.1", "port": str(port), "ipv4": True}}
    assert refused(m, "nbd-server-start", addr=inet) == "Failed to find an available port: Address already in use"
    inet["data"]["to"] = min(port + 20, 65535)
    m.qmp.cmd("nbd-server-start", args={"addr": inet})
    m.qmp.cmd("nbd-server-stop")
    taken.close()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "fd.sock"))
    m.qmp.cmd("getfd", args={"fdname": "sock"}, fds=[listening.fileno()])
    m.qmp.cmd("nbd-server-start", args={"addr": {"type": "fd", "data": {"str": "sock"}}})
    m.qmp.cmd("nbd-server-add", device="n")
    assert f"nbd+unix:///n?socket={tmp_path}/fd.sock" == json.loads(subprocess.run(
        [reference("nbdinfo"), "--json", f"nbd+unix:///n?socket={tmp_path}/fd.sock"],
        check=True, capture_output=True, text=True).stdout)["exports"][0]["uri"]
    m.qmp.cmd("nbd-server-stop")
    assert refused(m, "nbd-server-start", addr={"type": "fd", "data": {"str": "sock"}}) == "File descriptor named 'sock' has not been found"
    assert "vsock" in refused(m, "nbd-server-start", addr={"type": "vsock", "data": {"cid": "1", "port": "2"}})
    name = f"sterna-test-{os.getpid()}"
    m.qmp.cmd("nbd-server-start", args={"addr": {"type": "unix", "data": {"path": name, "abstract": True}}})
    with socket.socket(socket.AF_UNIX) as c:
        c.connect("\0" + name)
        assert c.recv(8) == b"NBDMAGIC"
    m.qmp.cmd("nbd-server-stop")
    with socket.socket(socket.AF_UNIX) as c:
        with pytest.raises(ConnectionRefusedError):
            c.connect("\0" + name)


def test_limits(machine, tmp_path):
    m = machine("-blockdev", "driver=null-co,node-name=n,size=1048576", qtest=False)
    s = Server(m, tmp_path, **{"max-connections": 1, "handshake-max-seconds": 3})
    s.add("n")
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        for c in (first, second):
            c.connect(str(s.path))
            c.settimeout(60)
        assert first.recv(8) == b"NBDMAGIC"
        second.settimeout(0.2)
        with pytest.raises(TimeoutError):
            second.recv(8)
        second.settimeout(60)  # the first is thrown out when its second is over
        assert second.recv(8) == b"NBDMAGIC"
        while first.recv(100):
            pass
    assert not s.info("n")["exports"][0]["can_multi_conn"]


def test_tls(machine, tmp_path):
    (tmp_path / "keys.psk").write_text("alice:" + "5a" * 32 + "\n")
    m = machine("-blockdev", "driver=null-co,node-name=n,size=1048576", qtest=False)
    assert refused(m, "nbd-server-start", addr={"type": "unix", "data": {"path": "x"}}, tls_creds="t") == "No TLS credentials with id 't'"
    m.qmp.cmd("object-add", qom_type="tls-creds-psk", id="t", endpoint="server", dir=str(tmp_path))
    s = Server(m, tmp_path, **{"tls-creds": "t", "tls-authz": "who"})
    s.add("n")
    uri = f"nbds+unix://alice@/n?socket={s.path}&tls-psk-file={tmp_path}/keys.psk"

    def ask():
        return subprocess.run([reference("nbdinfo"), "--size", uri], capture_output=True, text=True)
    assert subprocess.run([reference("nbdinfo"), s.uri("n")], capture_output=True).returncode != 0
    assert ask().returncode != 0  # nobody says yet who may come
    m.qmp.cmd("object-add", qom_type="authz-simple", id="who", identity="alice")
    assert ask().stdout == f"{MB}\n"
    m.qmp.cmd("object-del", id="who")
    m.qmp.cmd("object-add", qom_type="authz-simple", id="who", identity="bob")
    assert ask().returncode != 0


def test_human(machine, tmp_path):
    img("create", "-q", "-f", "raw", tmp_path / "d", MB)
    m = machine("-blockdev", "driver=null-co,node-name=n,size=1048576", "-drive", f"if=none,id=d,file={tmp_path}/d,format=raw", qtest=False)
    for line, text in (
            ("nbd_server_start -w unix:x", "Error: -w only valid together with -a\n"),
            ("nbd_server_start nowhere", "Error: error parsing address 'nowhere': expected HOST:PORT or unix:PATH\n"),
            ("nbd_server_add n", "Error: NBD server not running\n"),
            ("nbd_server_stop", "Error: NBD server not running\n"),
            (f"nbd_server_start -a unix:{tmp_path}/nbd.sock", ""),
            ("nbd_server_add n", ""),
            ("nbd_server_add -w n other", ""),
            ("nbd_server_add n", "Error: Block export id 'n' is already in use\n"),
            ("nbd_server_remove n", ""),
            ("nbd_server_remove n", "Error: Export 'n' is not found\n"),
            ("nbd_server_remove -f other", "")):
        assert m.qmp.hmp(line) == text
    assert [e["id"] for e in m.qmp.cmd("query-block-exports")] == ["d"]
    with socket.socket(socket.AF_UNIX) as c:
        c.connect(str(tmp_path / "nbd.sock"))
        assert c.recv(8) == b"NBDMAGIC"
    assert m.qmp.hmp("nbd_server_stop") == ""
    assert m.qmp.hmp("nbd_server_start 127.0.0.1:0") == ""
    assert m.qmp.hmp("nbd_server_stop") == ""
