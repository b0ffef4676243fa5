# SPDX-License-Identifier: BSD-2-Clause
"""QMP as a client sees it, on a machine without a board. The expected texts are those of QEMU."""
import json, os, socket, subprocess, sys, time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import qmp
from sterna import program

SYNC = {"execute": "query-name", "id": "sync"}


class Machine:
    def __init__(self, tmp_path, *args):
        self.path = str(tmp_path / "qmp")
        self.process = subprocess.Popen([program("sterna"), "-M", "none", "-nodefaults", "-display", "none",
                                         "-qmp", f"unix:{self.path},server=on,wait=off", *args],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def connect(self, **kw):
        return qmp.connect(self.path, alive=lambda: self.process.poll() is None, **kw)

    def end(self):
        self.process.kill()
        return self.process.communicate()


@pytest.fixture
def machine(tmp_path):
    m = Machine(tmp_path)
    yield m
    m.end()


@pytest.fixture
def raw(machine):
    """A session in which bytes can be said."""
    q = machine.connect()
    yield q
    q.close()


def replies(q, data):
    """What comes back for `data`, up to an answer to a command that is sent after it."""
    q.send(data)
    q.send(SYNC)
    out = []
    while True:
        m = q.read()
        if m.get("id") == "sync":
            return out
        out.append(m)


def error(desc, cls="GenericError", **more):
    return {**more, "error": {"class": cls, "desc": desc}}


def test_greeting_and_negotiation(machine):
    q = machine.connect(negotiate=False)
    assert q.greeting == {"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}, "package": "Sterna 0.1.0"}, "capabilities": ["oob"]}}
    q.send({"execute": "query-version", "id": 7})
    assert q.read_line() == (b'{"id": 7, "error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with '
                             b'\'qmp_capabilities\'"}}\r\n')
    q.send({"execute": "qmp_capabilities", "arguments": {"enable": ["flying"]}})
    assert "does not accept value 'flying'" in q.read()["error"]["desc"]
    q.send({"execute": "qmp_capabilities"})
    assert q.read_line() == b'{"return": {}}\r\n'
    q.send({"execute": "qmp_capabilities"})
    assert q.read() == error("Capabilities negotiation is already complete, command ignored", "CommandNotFound")


def test_out_of_band(machine):
    q = machine.connect()
    q.send(b'{"exec-oob": "query-name"}')
    assert q.read() == error("QMP input member 'exec-oob' is unexpected")
    q.close()
    q = machine.connect(capabilities=["oob"])
    q.send(b'{"exec-oob": "query-name", "id": 1}')
    assert q.read() == error("The command query-name does not support OOB", id=1)
    q.send(b'{"exec-oob": "x", "execute": "x"}')
    assert q.read() == error("QMP input member 'execute' clashes with 'exec-oob'")


@pytest.mark.parametrize("data, want", [
    (b"[]", ["QMP input must be a JSON object"]),
    (b"1 null true \"x\"", ["QMP input must be a JSON object"] * 4),
    (b"{}", ["QMP input lacks member 'execute'"]),
    (b'{"execute": 1}', ["QMP input member 'execute' must be a string"]),
    (b'{"foo": 1}', ["QMP input member 'foo' is unexpected"]),
    (b'{"execute": "query-name", "arguments": []}', ["QMP input member 'arguments' must be an object"]),
    (b'{"execute": "query-name", "arguments": {"a": 1}}', ["Parameter 'a' is unexpected"]),
    (b"\xff", ["JSON parse error, stray '\ufffd'"]),
    (b'{"execute":\xff"query-name"}', ["JSON parse error, stray '\ufffd'", "JSON parse error, expecting value"]),
    (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
    (b"\x16\x03\x01\x02\x00\x01\x00", None),
    (b"\x00" * 3, ["JSON parse error, stray ''"] * 3),
    (b"[" * 1025, ["JSON nesting depth limit exceeded"]),
    (b'{"execute": "\xc3\x28"}', ["JSON parse error, invalid UTF-8 sequence in string"]),
])
def test_garbage_and_after(raw, data, want):
    got = [r["error"]["desc"] for r in replies(raw, data + b"\n")]
    assert got == want if want is not None else got


@pytest.mark.parametrize("ident", ["null", "0", "-1", "1.5", "18446744073709551615", '"x"', '"\\u00E9"', "[1, {\"a\": []}]", '{"a": 2, "b": 1}', "true"])
def test_ids_come_back(raw, ident):
    raw.send(f'{{"execute": "query-name", "id": {ident}}}'.encode())
    assert raw.read_line() == f'{{"return": {{}}, "id": {ident}}}\r\n'.encode()
    raw.send(f'{{"id": {ident}, "execute": "nothing"}}'.encode())
    assert raw.read_line().startswith(f'{{"id": {ident}, "error": '.encode())


def test_deep_id(raw):
    ident = "[" * 1000 + "]" * 1000
    raw.send(f'{{"execute": "query-name", "id": {ident}}}'.encode())
    assert raw.read_line() == f'{{"return": {{}}, "id": {ident}}}\r\n'.encode()


def test_deep_arguments(raw):
    for depth in 100, 1000:
        args = '{"a": ' * depth + "1" + "}" * depth
        assert "error" in replies(raw, f'{{"execute": "device_add", "arguments": {{"driver": "x", "y": {args}}}}}'.encode())[0]
        nodes = '{"driver": "raw", "file": ' * depth + '"x"' + "}" * depth
        assert "error" in replies(raw, f'{{"execute": "blockdev-add", "arguments": {nodes}}}'.encode())[0]


def test_half_a_command_and_many_in_one(raw):
    raw.send(b'{"execute": "que')
    time.sleep(0.05)
    raw.send(b'ry-name", "id": 1}' + b"".join(b'{"execute": "query-name", "id": %d}' % i for i in range(2, 500)))
    assert [raw.read()["id"] for _ in range(499)] == list(range(1, 500))


def test_megabytes(raw):
    raw.send(json.dumps({"execute": "human-monitor-command", "arguments": {"command-line": "x" * (8 << 20)}}).encode())
    assert raw.read(60)["return"].startswith("unknown command: 'xxxx")


def test_answers_in_order(raw):
    raw.send(b"".join(b'{"execute": "%s", "id": %d}' % (c, i) for i, c in enumerate([b"stop", b"nothing", b"cont", b"query-status", b"blockdev-add"])))
    got = [m for m in (raw.read() for _ in range(7))]
    assert [m.get("id", m.get("event")) for m in got] == ["STOP", 0, 1, "RESUME", 2, 3, 4]
    assert got[5]["return"]["running"] is True
    assert set(got[0]) == {"timestamp", "event"} and abs(got[0]["timestamp"]["seconds"] - time.time()) < 60


def test_events_go_to_all_who_negotiated(tmp_path):
    m = Machine(tmp_path, "-qmp", f"unix:{tmp_path}/second,server=on,wait=off", "-qmp", f"unix:{tmp_path}/third,server=on,wait=off")
    try:
        first, second = m.connect(), qmp.connect(f"{tmp_path}/second")
        third = qmp.connect(f"{tmp_path}/third", negotiate=False)
        first.cmd("stop")
        assert second.event("STOP") and first.event("STOP")
        third.cmd("qmp_capabilities")
        assert third.events == []
    finally:
        m.end()


def test_slow_reader(raw, machine):
    """Somebody who asks and does not read: nothing is lost, nothing grows without bounds, and it goes on when he reads."""
    raw.sock.settimeout(0.5)
    sent, line = 0, b'{"execute": "query-qmp-schema"}\n'
    try:
        while sent < 3000:
            raw.sock.sendall(line)
            sent += 1
    except socket.timeout:
        pass
    time.sleep(0.2)
    with open(f"/proc/{machine.process.pid}/statm") as f:
        assert int(f.read().split()[1]) * 4096 < 200 << 20
    for _ in range(20):
        assert len(raw.read(60)["return"]) > 100


def test_disconnect_in_mid_command(machine):
    for data in b'{"execute": "query-qmp-schema"}' * 20, b'{"execute": "quer', b'{"execute": "stop"}{"execute": "cont"}', b"\xff":
        for _ in range(5):
            q = machine.connect()
            q.send(data)
            q.close()
    q = machine.connect(negotiate=False)
    q.send({"execute": "query-name"})
    assert q.read()["error"]["class"] == "CommandNotFound"  # a new session negotiates anew
    q.cmd("qmp_capabilities")
    assert q.cmd("query-status")["status"] in ("running", "paused")


def test_single_quotes(raw):
    raw.send(b"{'execute': 'query-name', 'id': 'a\"b'}")
    assert raw.read_line() == b'{"return": {}, "id": "a\\"b"}\r\n'


def test_pretty(tmp_path):
    m = Machine(tmp_path, "-qmp-pretty", f"unix:{tmp_path}/pretty,server=on,wait=off")
    try:
        m.connect().close()
        s = socket.socket(socket.AF_UNIX)
        s.connect(f"{tmp_path}/pretty")
        s.sendall(b'{"execute": "qmp_capabilities", "id": [1, {}]}')
        want = (b'{\r\n    "QMP": {\r\n        "version": {\r\n            "qemu": {\r\n                "micro": 0,\r\n                "minor": 0,\r\n'
                b'                "major": 10\r\n            },\r\n            "package": "Sterna 0.1.0"\r\n        },\r\n        "capabilities": [\r\n'
                b'            "oob"\r\n        ]\r\n    }\r\n}\r\n'
                b'{\r\n    "return": {\r\n    },\r\n    "id": [\r\n        1,\r\n        {\r\n        }\r\n    ]\r\n}\r\n')
        got = b""
        s.settimeout(60)
        while len(got) < len(want):
            got += s.recv(65536)
        assert got == want
    finally:
        m.end()


def fails(q, desc, cls, command, **args):
    with pytest.raises(qmp.QMPError) as e:
        q.cmd(command, **args)
    assert (e.value.desc, e.value.cls) == (desc, cls)


def test_blocks(raw):
    fails(raw, "'node-name' must be specified for the root node", "GenericError", "blockdev-add", driver="null-co")
    raw.cmd("blockdev-add", driver="null-co", node_name="n", size=65536)
    fails(raw, "Duplicate nodes with node-name='n'", "GenericError", "blockdev-add", driver="null-co", node_name="n")
    raw.cmd("blockdev-add", driver="raw", node_name="r", file="n")
    nodes = {n["node-name"]: n for n in raw.cmd("query-named-block-nodes", flat=True)}
    assert set(nodes) == {"n", "r"} and nodes["r"]["image"]["virtual-size"] == 65536 and nodes["r"]["drv"] == "raw"
    fails(raw, "Failed to find node with node-name='zz'", "GenericError", "blockdev-del", node_name="zz")
    with pytest.raises(qmp.QMPError, match="Block device n is in use: by node 'r'"):
        raw.cmd("blockdev-del", node_name="n")
    fails(raw, "Cannot find device='' nor node-name='zz'", "GenericError", "block_resize", node_name="zz", size=1)
    fails(raw, "Cannot find device='zz' nor node-name=''", "GenericError", "block_resize", device="zz", size=1)
    assert {s["node-name"] for s in raw.cmd("query-blockstats", query_nodes=True)} == {"n", "r"}
    assert raw.cmd("query-block") == [] and raw.cmd("query-blockstats") == []
    raw.cmd("blockdev-del", node_name="r")
    raw.cmd("blockdev-del", node_name="n")
    assert raw.cmd("query-named-block-nodes") == []


def test_resize(raw, tmp_path):
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    raw.cmd("blockdev-add", driver="file", node_name="f", filename=str(tmp_path / "disk"))
    raw.cmd("block_resize", node_name="f", size=3 << 20)
    assert os.path.getsize(tmp_path / "disk") == 3 << 20
    fails(raw, "Parameter 'size' expects a >0 size", "GenericError", "block_resize", node_name="f", size=-1)


def test_chardevs(raw, tmp_path):
    assert raw.cmd("chardev-add", id="c", backend={"type": "null", "data": {}}) == {}
    fails(raw, "Chardev with id 'c' already exists", "GenericError", "chardev-add", id="c", backend={"type": "null", "data": {}})
    assert raw.cmd("chardev-add", id="p", backend={"type": "pty", "data": {}})["pty"].startswith("/dev/pts/")
    raw.cmd("chardev-add", id="s", backend={"type": "socket", "data": {"addr": {"type": "unix", "data": {"path": f"{tmp_path}/s"}}}})
    raw.cmd("chardev-add", id="f", backend={"type": "file", "data": {"out": f"{tmp_path}/f"}})
    names = {c["label"]: c for c in raw.cmd("query-chardev")}
    assert {"c", "p", "s", "f"} < set(names)
    assert names["s"] == {"label": "s", "filename": f"disconnected:unix:{tmp_path}/s,server=on", "frontend-open": False}
    for n in "c", "p", "s", "f":
        raw.cmd("chardev-remove", id=n)
    assert not os.path.exists(tmp_path / "s")
    fails(raw, "Chardev 'c' not found", "GenericError", "chardev-remove", id="c")
    fails(raw, "Chardev 'compat_monitor0' is busy", "GenericError", "chardev-remove", id="compat_monitor0")


def test_file_descriptors(raw):
    a, b = socket.socketpair()
    fails(raw, "No file descriptor supplied via SCM_RIGHTS", "GenericError", "getfd", fdname="x")
    raw.cmd("getfd", args={"fdname": "x"}, fds=[a.fileno()])
    a.close()
    raw.cmd("closefd", fdname="x")
    assert b.recv(1) == b""  # nobody holds the other end
    fails(raw, "File descriptor named 'x' not found", "GenericError", "closefd", fdname="x")


def test_objects(raw):
    raw.cmd("object-add", args={"qom-type": "iothread", "id": "io", "poll-max-ns": 5})
    fails(raw, "attempt to add duplicate property 'io' to object (type 'container')", "GenericError", "object-add", qom_type="iothread", id="io")
    assert [(t["id"], t["poll-max-ns"]) for t in raw.cmd("query-iothreads")] == [("io", 5)]
    fails(raw, "Parameter 'qom-type' does not accept value 'zz'", "GenericError", "object-add", qom_type="zz")
    fails(raw, "Parameter 'id' expects an identifier", "GenericError", "object-add", qom_type="iothread", id="1io")
    fails(raw, "Either 'file' or 'data' must be provided", "GenericError", "object-add", qom_type="secret", id="s")
    fails(raw, "'file' and 'data' are mutually exclusive", "GenericError", "object-add", qom_type="secret", id="s", data="a", file="b")
    fails(raw, "Base64 data contains invalid characters", "GenericError", "object-add", qom_type="secret", id="s", data="&&", format="base64")
    raw.cmd("object-add", args={"qom-type": "secret", "id": "s", "data": "hush"})
    assert "data" not in [p["name"] for p in raw.cmd("qom-list", path="/objects/s")]
    assert raw.cmd("qom-get", path="/objects/io", property="type") == "iothread"
    raw.cmd("object-del", id="io")
    fails(raw, "object 'io' not found", "GenericError", "object-del", id="io")


def test_devices_and_types(raw):
    fails(raw, "Device 'zz' not found", "DeviceNotFound", "device_del", id="zz")
    fails(raw, "Device 'zz' not found", "DeviceNotFound", "device-list-properties", typename="zz")
    assert "drive" in [p["name"] for p in raw.cmd("device-list-properties", typename="virtio-blk-pci")]
    types = {t["name"] for t in raw.cmd("qom-list-types", implements="device")}
    assert "virtio-blk-pci" in types and "secret" not in types
    assert "peripheral" in [p["name"] for p in raw.cmd("qom-list", path="/machine")]
    fails(raw, "Device '/zz' not found", "DeviceNotFound", "qom-list", path="/zz")
    fails(raw, "Property 'none-machine.zz' not found", "GenericError", "qom-get", path="/machine", property="zz")


def test_schema(raw):
    infos = {i["name"]: i for i in raw.cmd("query-qmp-schema")}
    assert {c["name"] for c in raw.cmd("query-commands")} == {n for n, i in infos.items() if i["meta-type"] == "command"}
    options = infos[infos["blockdev-add"]["arg-type"]]
    assert options["tag"] == "driver" and {"file", "qcow2", "raw"} <= {v["case"] for v in options["variants"]}


def test_commands_that_are_not(raw):
    fails(raw, "The command x-colo-lost-heartbeat has not been found", "CommandNotFound", "x-colo-lost-heartbeat")
    fails(raw, "wake-up from suspend is not supported by this guest", "GenericError", "system_wakeup")
    fails(raw, "The command is permitted only before machine initialization", "GenericError", "x-exit-preconfig")


def test_quit(raw, machine):
    raw.send(b'{"execute": "quit", "id": "bye"}')
    event = raw.read()
    assert (event["event"], event["data"]) == ("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
    assert raw.read() == {"return": {}, "id": "bye"}
    assert machine.process.wait(60) == 0
    assert machine.process.stderr.read() == b""
