# SPDX-License-Identifier: BSD-2-Clause
"""Machine states written and read with nothing but docs/stream-format.md: what the programs are compared with.

    w = Writer(machine="virt-0.1", ram={"ram": 8}, schemas={...}, devices={"/toy0": "toy"})
    w.device("/toy0", "toy", 1, b"...", {"event": b"..."}); w.pages("ram", [(0, RAW, data), (1, ZERO, 3)]); w.stop()
    for type, offset, payload in chunks(w.bytes()): ...
"""
import hashlib, json, struct

PAGE = 4096
ZERO, RAW, ZSTD, SAME = range(4)
TABLE = []
for n in range(256):
    for _ in range(8):
        n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
    TABLE.append(n)


def crc32c(data, crc=0):
    crc ^= 0xFFFFFFFF
    for b in data:
        crc = crc >> 8 ^ TABLE[(crc ^ b) & 255]
    return crc ^ 0xFFFFFFFF


def header(aligned=False):
    h = b"\x8eSTRN\r\n\x1a" + struct.pack("<IIIQ", 1, int(aligned), PAGE if aligned else 0, 0)
    return h + struct.pack("<I", crc32c(h))


def chunk(kind, payload):
    head = kind.encode() + struct.pack("<IQ", 0, len(payload))
    return head + payload + struct.pack("<I", crc32c(head + payload))


def text(s):
    return struct.pack("<H", len(s.encode())) + s.encode()


def chunks(data):
    """(type, offset, payload) of each chunk; everything that can be checked is."""
    assert data[:32] == header(bool(data[12] & 1))
    at = 32
    while at < len(data):
        kind, flags, length = struct.unpack_from("<4sIQ", data, at)
        assert flags == 0 and struct.unpack_from("<I", data, at + 16 + length)[0] == crc32c(data[at:at + 16 + length])
        yield kind.decode(), at, data[at + 16:at + 16 + length]
        at += 20 + length


def encode(fields, values={}):
    """The bytes of a schema's fields: `values` where they are given, elsewhere their defaults; arrays have no elements in use."""
    out = b""
    for f in fields:
        count = 0 if "used" in f else f.get("count", 1)
        if f["type"] == "bytes":
            out += values.get(f["name"], bytes(count))
        elif f["type"] == "struct":
            out += encode(f["fields"], values.get(f["name"], {})) * count
        else:
            one = struct.pack("<" + {"bool": "?", "u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}[f["type"]],
                              values.get(f["name"], f.get("default", f.get("min", 0))))
            out += one * count
    return out


class Writer:
    def __init__(self, machine="virt-0.1", release="0.1.0", ram={}, schemas={}, devices={}, **more):
        """`ram`: name -> pages; `schemas`: section -> schema; `devices`: path -> section."""
        self.out, self.digest, self.count, self.totals = header(), hashlib.sha256(), 0, [0] * 4
        self.blocks = list(ram)
        self.chunk("MANI", json.dumps({
            "machine": machine, "release": release, "page-size": PAGE,
            "ram": [{"name": n, "size": p * PAGE} for n, p in ram.items()], "disks": [], "schemas": schemas,
            "devices": [{"path": p, "section": s} for p, s in devices.items()], **more}).encode())

    def chunk(self, kind, payload):
        c = chunk(kind, payload)
        self.out += c
        self.digest.update(c[:16] + c[-4:])
        self.count += 1

    def device(self, path, section, version, values, subsections={}):
        parts = text(section) + struct.pack("<II", version, len(values)) + values
        for name, data in subsections.items():
            parts += text(name) + struct.pack("<II", 0, len(data)) + data
        self.chunk("DEVS", text(path) + parts)

    def pages(self, block, runs):
        """One RAM chunk: (page, RAW, data) (page, ZERO, pages) (page, SAME, (pages, block, page)) ascending."""
        table, data = b"", b""
        for page, kind, what in runs:
            n = len(what) // PAGE if kind == RAW else what if kind == ZERO else what[0]
            other = (self.blocks.index(what[1]), what[2]) if kind == SAME else (0, 0)
            table += struct.pack("<QIBBHQQ", page, n, kind, 0, other[0], n * PAGE if kind == RAW else 0, other[1])
            data += what if kind == RAW else b""
            self.totals[kind] += n
        self.chunk("RAMP", struct.pack("<HHIII", self.blocks.index(block), 0, len(runs), 0, 0) + table + data)

    def stop(self):
        self.out += chunk("STOP", struct.pack("<QQQ4Q", self.count, len(self.out), 0, *self.totals) + self.digest.digest())
        return self

    def bytes(self):
        return self.out

    def save(self, path):
        with open(path, "wb") as f:
            f.write(self.out)
        return path


def with_subsection(data, section, name, loss):
    """A stream as a release writes it that knows something more of a section, a number, which is in use; without an index."""
    w = Writer()
    w.out, w.digest, w.count = header(), hashlib.sha256(), 0
    for kind, _, payload in chunks(data):
        if kind == "MANI":
            m = json.loads(payload)
            m["schemas"][section]["subsections"].append({"name": name, "loss": loss, "fields": [{"name": "value", "type": "u32"}]})
            payload = json.dumps(m).encode()
        if kind == "DEVS" and text(section) in payload:
            payload += text(name) + struct.pack("<III", 0, 4, 115200)
        if kind == "STOP":
            w.totals = struct.unpack_from("<4Q", payload, 24)
        elif kind not in ("rCRC", "rIDX"):
            w.chunk(kind, payload)
    return w.stop().bytes()


TOY = {"section": "toy", "version": 2, "min-version": 1, "fields": [
    {"name": "on", "type": "bool"}, {"name": "level", "type": "u8", "max": 15}, {"name": "skew", "type": "i64"},
    {"name": "rx_len", "type": "u32", "max": 4}, {"name": "rx", "type": "bytes", "count": 4, "used": "rx_len"},
    {"name": "queue", "type": "struct", "count": 2, "fields": [{"name": "size", "type": "u16"}]},
    {"name": "speed", "type": "u32", "since": 2, "default": 100, "help": "its speed"}],
    "subsections": [{"name": "event", "loss": "an event", "fields": [{"name": "event", "type": "u32"}]}]}


def toy(on=True, level=3, skew=-1, rx=b"\xab\xcd", queue=(8, 16), speed=100):
    return struct.pack("<BBqI", on, level, skew, len(rx)) + rx + struct.pack("<HHI", *queue, speed)


def small(**more):
    """A machine with two toys and some pages."""
    w = Writer(ram={"ram": 8, "rom": 4}, schemas={"toy": TOY}, devices={"/toy0": "toy", "/toy1": "toy"}, **more)
    w.device("/toy0", "toy", 2, toy())
    w.device("/toy1", "toy", 2, toy(level=15, rx=b""), {"event": struct.pack("<I", 77)})
    w.pages("ram", [(1, RAW, b"a" * PAGE + b"b" * PAGE), (4, ZERO, 2)])
    w.pages("rom", [(0, SAME, (2, "ram", 1)), (3, RAW, b"c" * PAGE)])
    return w.stop()
