# SPDX-License-Identifier: BSD-2-Clause
"""--list on servers that are old, forgetful, or talk nonsense: as qemu-nbd prints it."""
import contextlib, socket, struct, subprocess, threading, time

import pytest
from sterna import alias, program, reference, run
from wire import *

HELLO = b"NBDMAGIC" + b"IHAVEOPT" + b"\0\3"
OLD = b"NBDMAGIC" + struct.pack(">QQ", 0x420281861253, 12345)


def rep(opt, kind, data=b"", got=None):
    return struct.pack(">QIII", 0x3E889045565A9, got or opt, kind, len(data)) + data


def name(text, description=b""):
    return struct.pack(">I", len(text)) + text + description


def size(length, flags=1):
    return struct.pack(">HQH", 0, length, flags)


def blocks(*sizes):
    return struct.pack(">HIII", 3, *sizes)


def infos(*data):
    return lambda opt: b"".join(rep(opt, REP_INFO, d) for d in data) + rep(opt, ACK)


def names(*data):
    return lambda opt: b"".join(rep(opt, SERVER, d) for d in data) + rep(opt, ACK)


def one(kind, data=b"", got=None):
    return lambda opt: rep(opt, kind, data, got)


NORMAL = {ABORT: one(ACK), STRUCTURED: one(ACK), LIST: names(name(b"x")), INFO: infos(size(1 << 20)),
          LIST_META: lambda opt: rep(opt, META, bytes(4) + b"base:allocation") + rep(opt, ACK)}
ODD = {
    "normal": {},
    "nothing at all": {0: b""},
    "half a magic number": {0: HELLO[:5]},
    "another magic number": {0: b"HTTP/1.0 400 Bad Request\r\n"},
    "unknown style": {0: HELLO[:15] + b"X\0\3"},
    "old": {0: OLD + struct.pack(">I", 3) + bytes(124)},
    "old without the zeroes": {0: OLD + struct.pack(">I", 1)},
    "old without flags": {0: OLD + bytes(128)},
    "old with flags of the future": {0: OLD + struct.pack(">I", 0x30001) + bytes(124)},
    "old, cut off": {0: OLD[:20]},
    "not fixed": {0: HELLO[:16] + b"\0\0"},
    "every flag": {0: HELLO[:16] + b"\xff\xff"},
    "no structured replies": {STRUCTURED: one(UNSUP)},
    "structured replies are forbidden": {STRUCTURED: one(POLICY, b"never")},
    "structured replies with data": {STRUCTURED: one(ACK, b"abc")},
    "structured replies of another kind": {STRUCTURED: one(SERVER)},
    "structured replies of another option": {STRUCTURED: one(ACK, got=LIST_META)},
    "end in the middle": {STRUCTURED: lambda opt: b""},
    "no lists": {LIST: one(UNSUP)},
    "lists are forbidden": {LIST: one(POLICY, b'not "you"\n\xc3\xa9')},
    "leaving": {LIST: lambda opt: rep(opt, SERVER, name(b"x")) + rep(opt, SHUTDOWN)},
    "errors from the future": {LIST: one(ERR + 77)},
    "an empty list": {LIST: one(ACK)},
    "a list that ends with data": {LIST: one(ACK, b"x")},
    "a list of something else": {LIST: one(REP_INFO, b"abcd")},
    "no name": {LIST: names(b"ab")},
    "a name longer than the reply": {LIST: names(struct.pack(">I", 9) + b"ab")},
    "a name longer than any": {LIST: names(name(b"a" * 4097))},
    "the longest name": {LIST: names(name(b"a" * 4096))},
    "a description longer than any": {LIST: names(name(b"a", b"d" * 4097))},
    "a name twice, and descriptions": {LIST: names(name(b"x", b"one \xff\1"), name(b"x", b"two"), name(b"a\0b"))},
    "no information": {INFO: one(UNSUP)},
    "gone meanwhile": {INFO: one(UNKNOWN, b"gone")},
    "block size required": {INFO: lambda opt: rep(opt, REP_INFO, blocks(1, 1, 1)) + rep(opt, BLOCK_SIZE_REQD)},
    "nothing known": {INFO: one(ACK)},
    "information that ends with data": {INFO: lambda opt: rep(opt, REP_INFO, size(5)) + rep(opt, ACK, b"x")},
    "a short size": {INFO: infos(size(5)[:-1])},
    "a long size": {INFO: infos(size(5) + b"x")},
    "no kind of information": {INFO: infos(b"\0")},
    "information of another kind": {INFO: one(SERVER, b"abcd")},
    "information from the future": {INFO: infos(b"\0\x63zz", size(5), b"\0\1other", b"\0\2text")},
    "block sizes": {INFO: infos(size(1001), blocks(512, 4096, 65536))},
    "no minimum": {INFO: infos(size(5), blocks(0, 4096, 65536))},
    "an odd minimum": {INFO: infos(size(5), blocks(3, 4096, 65536))},
    "an odd preference": {INFO: infos(size(5), blocks(512, 1000, 65536))},
    "a preference below the minimum": {INFO: infos(size(5), blocks(4096, 512, 65536))},
    "a maximum below the minimum": {INFO: infos(size(5), blocks(4096, 4096, 512))},
    "short block sizes": {INFO: infos(size(5), blocks(1, 1, 1)[:-1])},
    "all flags": {INFO: infos(size((1 << 64) - 1, 0xFFFF))},
    "flags that are none": {INFO: infos(size(5, 0xFFFE))},
    "no flags": {INFO: infos(size(5, 0))},
    "no contexts": {LIST_META: one(UNSUP)},
    "contexts are forbidden": {LIST_META: one(INVALID, b"why")},
    "an empty list of contexts": {LIST_META: one(ACK)},
    "contexts end with data": {LIST_META: one(ACK, b"x")},
    "a context without a name": {LIST_META: one(META, bytes(4))},
    "contexts of another kind": {LIST_META: one(REP_INFO, b"abcdef")},
}


def converse(listener, script):
    """Takes one client, and answers each option as the script has it, until there is nothing to say any more."""
    buf, skip, hello = b"", 4, script.get(0, HELLO)
    with listener.accept()[0] as conn, contextlib.suppress(OSError, KeyError):
        conn.settimeout(60)
        conn.sendall(hello)
        if hello[8:16] != b"IHAVEOPT":
            conn.shutdown(socket.SHUT_WR)
        while data := conn.recv(65536):
            buf += data
            while len(buf) >= skip + 16 and len(buf) >= skip + 16 + (more := int.from_bytes(buf[skip + 12:skip + 16], "big")):
                opt, buf = int.from_bytes(buf[skip + 8:skip + 12], "big"), buf[skip + 16 + more:]
                skip, answer = 0, script.get(opt, NORMAL[opt])(opt)
                if not answer:
                    return
                conn.sendall(answer)


@pytest.mark.parametrize("script", ODD.values(), ids=ODD)
def test_odd_servers_are_listed_as_by_qemu_nbd(tmp_path, script):
    results, path = [], str(tmp_path / "odd.sock")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        s.listen(1)
        for exe in (reference("qemu-nbd"), alias(tmp_path, "qemu-nbd", "sterna-nbd")):
            t = threading.Thread(target=converse, args=(s, script))
            t.start()
            r = run(exe, "-L", "-k", path, timeout=60)
            t.join(60)
            results.append((r.rc, r.out, r.err.replace(exe, "qemu-nbd")))
    assert results[1] == results[0]


def test_a_client_that_asks_for_another_export_takes_leave(tmp_path, disk):
    """No server, ours or theirs, says that something went wrong."""
    for tool in (program("sterna-nbd"), reference("qemu-nbd")):
        sock = tmp_path / "s"
        p = subprocess.Popen([tool, "-t", "-x", "a", "-f", "raw", "-k", sock, disk], stderr=subprocess.PIPE)
        while not listens(str(sock)):
            assert p.poll() is None
            time.sleep(0.01)
        r = run(program("sterna-img"), "info", f"nbd+unix:///b?socket={sock}")
        assert r.rc == 1 and "Requested export not available" in r.err
        p.terminate()
        assert p.communicate(timeout=60)[1] == b""
        sock.unlink(missing_ok=True)
