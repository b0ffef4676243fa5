# SPDX-License-Identifier: BSD-2-Clause
"""Requests and replies, byte by byte, in the three modes."""
import os, random, signal, socket, struct, time

import pytest
from wire import *

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(params=["simple", "structured", "extended"])
def mode(request):
    return request.param


def content(path):
    with open(path, "rb") as f:
        return f.read()


def test_reads_writes_and_zeroes_reach_the_image(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", "--discard=unmap", disk)
    with s.open(mode) as w:
        assert w.read(0, 65536) == b"A" * 65536
        assert w.read(65530, 12) == b"A" * 6 + bytes(6)
        assert w.write(100, b"hello") == 0
        assert w.read(99, 7) == b"AhelloA"
        assert w.write(2 * MIB, os.urandom(3 * 65536 + 1)) == 0
        assert w.do(ZEROES, 50, 100) == 0 and w.do(ZEROES, 4096, 8192, NO_HOLE) == 0
        assert w.do(ZEROES, 16384, 4096, FUA) == 0
        assert w.read(49, 102) == b"A" + bytes(100) + b"A"
        assert w.do(TRIM, MIB, 65536) == 0 and w.do(TRIM, 3 * MIB, 4096, FUA) == 0
        assert w.do(CACHE, 0, MIB) == 0
        assert w.do(FLUSH) == 0
        assert w.write(SIZE - 3, b"end", FUA) == 0
        got = w.read(0, SIZE)
        w.disconnect()
    s.stop()
    assert got == content(disk)
    assert got[MIB:MIB + 65536] == bytes(65536) and got[-3:] == b"end"


def test_requests_of_no_length_do_nothing(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode, ["base:allocation"] if mode != "simple" else ()) as w:
        for kind in (READ, ZEROES, TRIM, CACHE):
            assert w.do(kind, 5, 0) == 0
        assert w.write(5, b"") == 0
        assert w.do(STATUS, 0, 0) == EINVAL
        assert w.read(0, 2) == b"AA"


def test_what_lies_beyond_the_end_is_refused(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode, ["base:allocation"] if mode != "simple" else ()) as w:
        for off, length in ((SIZE, 1), (SIZE - 1, 2), (1 << 63, 512), ((1 << 64) - 1, 1), ((1 << 64) - 512, 1024)):
            assert w.do(READ, off, length) == EINVAL
            assert w.do(TRIM, off, length) == EINVAL
            assert w.do(CACHE, off, length) == EINVAL
            assert w.do(STATUS, off, length) == EINVAL
            assert w.do(ZEROES, off, length) == ENOSPC
            assert w.write(off, b"x" * length) == ENOSPC
        if mode == "extended":
            assert w.do(ZEROES, 0, 1 << 63) == ENOSPC and w.do(TRIM, 1, (1 << 64) - 1) == EINVAL
        assert w.read(SIZE - 4, 4) == bytes(4)


def test_a_read_only_export_is_not_written(serve, disk, mode):
    before = content(disk)
    s = serve("-t", "-r", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        assert w.flags & F_READ_ONLY
        assert w.write(0, b"xx") == EPERM
        assert w.do(ZEROES, 0, 512) == EPERM and w.do(TRIM, 0, 512) == EPERM
        assert w.do(FLUSH) == 0 and w.read(0, 3) == b"AAA"
    s.stop()
    assert content(disk) == before


def test_flags_that_do_not_belong_to_a_command_are_refused(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    contexts = ["base:allocation"] if mode != "simple" else ()
    good = {READ: FUA | (DF if mode != "simple" else 0), WRITE: FUA | (PAYLOAD if mode == "extended" else 0), FLUSH: FUA, TRIM: FUA,
            CACHE: FUA, ZEROES: FUA | NO_HOLE | FAST_ZERO, STATUS: FUA | REQ_ONE}
    with s.open(mode, contexts) as w:
        for kind, allowed in good.items():
            for bit in range(16):
                flag = 1 << bit
                payload = b"\0" * 512 if kind == WRITE or (flag == PAYLOAD and mode == "extended") else b""
                if kind == STATUS and (mode == "simple" or flag == PAYLOAD):
                    continue
                extra = PAYLOAD if kind == WRITE and mode == "extended" else 0
                got = w.do(kind, 0, 0 if kind == FLUSH and not payload else 512, flag | extra, payload)
                assert got == (0 if flag & allowed else EINVAL), (kind, bit)
        for kind in (8, 9, 255, 65535):
            assert w.do(kind, 0, 512) == EINVAL
        assert w.do(FLUSH) == 0


def test_reads_longer_than_the_maximum_are_refused(serve, tmp_path, mode):
    big = tmp_path / "big.raw"
    with open(big, "wb") as f:
        f.truncate(100 * MIB)
    s = serve("-t", "-e", 0, "-f", "raw", big)
    with s.open(mode) as w:
        assert w.do(READ, 0, (32 << 20) + 1) == EINVAL
        assert w.read(0, 32 << 20) == bytes(32 << 20)
        assert w.do(CACHE, 0, 33 << 20) == EINVAL
        assert w.do(ZEROES, 0, 100 * MIB) == 0 and w.do(TRIM, 0, 100 * MIB) == 0
        if mode != "simple":
            assert w.read(5, 32 << 20, DF) == bytes(32 << 20)


def test_a_payload_beyond_the_maximum_ends_that_connection_only(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w, s.open(mode) as other:
        w.send(w.header(WRITE, 0, (32 << 20) + 1, PAYLOAD if mode == "extended" else 0))
        assert w.is_closed()
        assert other.read(0, 4) == b"AAAA"
        with s.open(mode) as again:
            assert again.write(1, b"B" * (4 * MIB - 2)) == 0
    assert "is larger than max len" in s.stop()


@pytest.mark.parametrize("garbage", [bytes(32), b"\x25\x60\x95\x14" + bytes(28), random.Random(3).randbytes(4096), b"GET / HTTP/1.0\r\n\r\n" * 2],
                         ids=["zeroes", "reserved", "random", "http"])
def test_garbage_ends_that_connection_only(serve, disk, mode, garbage):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w, s.open(mode) as other:
        w.send(garbage)
        assert w.is_closed()
        assert other.read(0, 4) == b"AAAA"
    assert "invalid magic" in s.stop()


def test_what_came_before_the_garbage_is_answered(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        w.send(b"".join(w.header(FLUSH) for _ in range(10)) + bytes(64))
        assert sorted(w.chunk().cookie for _ in range(10)) == list(range(1, 11))
        assert w.is_closed()


def test_simple_reads_have_data_and_no_chunks(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open("simple") as w:
        c, = w.read_chunks(65536 - 8, 16)
        assert (c.kind, c.error, c.payload) == ("simple", 0, b"A" * 8 + bytes(8))


def test_holes_are_told_as_holes(serve, disk, mode):
    if mode == "simple":
        return
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        kinds = [c.type for c in w.read_chunks(0, SIZE)]
        assert kinds == [DATA, HOLE, DATA, HOLE]
        c, = w.read_chunks(2 * MIB, MIB)
        assert c.type == HOLE and c.flags == DONE and c.payload == struct.pack(">QI", 2 * MIB, MIB)
        c, = w.read_chunks(4096, 4096)
        assert c.type == DATA and c.payload == struct.pack(">Q", 4096) + b"A" * 4096
        if mode == "extended":
            assert c.offset == 4096
        c = [c for c in w.read_chunks(0, SIZE, DF) if c.type != NONE]
        assert len(c) == 1 and c[0].type == DATA and c[0].payload[8:] == content(disk)


def test_errors_come_with_words_where_there_is_room(serve, disk):
    s = serve("-t", "-r", "-e", 0, "-f", "raw", disk)
    with s.open("structured") as w:
        w.ask(WRITE, 0, 4, 0, b"data")
        c, = w.chunks()
        error, length = struct.unpack(">IH", c.payload[:6])
        assert c.type == ERROR and error == EPERM and c.payload[6:] == b"Export is read-only" and length == len(c.payload) - 6
    with s.open("simple") as w:
        w.ask(WRITE, 0, 4, 0, b"data")
        c, = w.chunks()
        assert c.kind == "simple" and c.error == EPERM


def test_every_reply_of_extended_mode_is_extended_with_the_offset_asked(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open("extended") as w:
        for kind, off, length, flags, payload in ((WRITE, 7, 3, PAYLOAD, b"abc"), (FLUSH, 0, 0, 0, b""), (READ, 7, 3, 0, b""),
                                                  (ZEROES, 99, 12, 0, b""), (READ, SIZE, 1, 0, b""), (77, 5, 0, 0, b"")):
            w.ask(kind, off, length, flags, payload)
            assert all(c.kind == "extended" and c.offset == off for c in w.chunks())
        assert w.do(WRITE, 0, 4, 0, b"AAAA") == 0  # without the flag that it should have
        # payloads of commands that have none are consumed
        assert w.do(FLUSH, 0, 1000, PAYLOAD, bytes(1000)) == EINVAL
        assert w.do(READ, 0, 1000, PAYLOAD, bytes(1000)) == EINVAL
        assert w.read(0, 4) == b"AAAA"


def test_fast_zero_is_fast_or_refused(serve, disk, mode, tmp_path):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        got = w.do(ZEROES, 0, 65536, FAST_ZERO)
        assert got in (0, ENOTSUP)
        assert w.read(0, 65536) == (bytes(65536) if got == 0 else b"A" * 65536)
        assert w.do(ZEROES, 0, 65536) == 0 and w.read(0, 65536) == bytes(65536)


def test_many_requests_in_one_piece_are_all_answered_once(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        data = content(disk)
        want = {}
        batch = b""
        for i in range(500):
            off = random.Random(i).randrange(SIZE - 4096)
            batch += w.header(READ, off, 100)
            want[w.cookie] = data[off:off + 100]
        half = len(batch) // 2 + 3
        w.send(batch[:half])
        w.send(batch[half:])
        parts = {}
        while want:
            c = w.chunk(100)
            if c.kind == "simple":
                assert want.pop(c.cookie) == c.payload
                continue
            parts.setdefault(c.cookie, []).append(c)
            if c.flags & DONE:
                off = min(struct.unpack(">Q", x.payload[:8])[0] for x in parts[c.cookie])
                assert assemble(parts[c.cookie], off, 100) == want.pop(c.cookie)
        w.disconnect()


def test_equal_cookies_are_the_clients_own_affair(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        w.send(w.header(FLUSH, cookie=7) * 5)
        assert [w.chunk().cookie for _ in range(5)] == [7] * 5


def test_bytes_that_come_one_by_one_make_requests_too(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        for b in w.header(WRITE, 10, 20, PAYLOAD if mode == "extended" else 0) + b"x" * 20 + w.header(READ, 9, 22):
            w.send(bytes([b]))
            time.sleep(0.0005)
        w.cookie = 1
        assert w.error_of(w.chunks()) == 0
        w.cookie = 2
        assert assemble(w.chunks(22), 9, 22) == b"A" + b"x" * 20 + b"A"


def test_disc_lets_what_is_in_flight_end(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w:
        flag = PAYLOAD if mode == "extended" else 0
        w.send(b"".join(w.header(WRITE, i * 4096, 4096, flag) + bytes([i]) * 4096 for i in range(200)) + w.header(DISC))
        done = [w.chunk() for _ in range(200)]
        assert all(w.error_of([c]) == 0 for c in done)
        assert w.is_closed()
    s.stop()
    assert content(disk)[:200 * 4096] == b"".join(bytes([i]) * 4096 for i in range(200))


def test_a_client_that_does_not_read_keeps_nobody_else(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as deaf, s.open(mode) as good:
        deaf.sock.setblocking(False)
        sent = 0
        try:
            while sent < 200 << 20:  # asks for far more than anybody may keep for him
                sent += deaf.sock.send(deaf.header(READ, 0, MIB, DF if mode != "simple" else 0))
        except BlockingIOError:
            pass
        for _ in range(20):
            assert good.read(0, 4) == b"AAAA"
        with open(f"/proc/{s.proc.pid}/status") as f:
            rss = int(next(line for line in f if line.startswith("VmRSS")).split()[1])
        assert rss < 300 << 10, f"{rss} KiB"


def test_clients_that_die_leave_nothing_behind(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    flag = PAYLOAD if mode == "extended" else 0
    for i in range(30):
        w = s.open(mode)
        w.send(b"".join(w.header(READ, 0, 256 << 10) for _ in range(20)))
        w.send(w.header(WRITE, 0, 65536, flag) + b"A" * (i * 2000))  # cut off
        if i % 2:
            w.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        w.close()
    with s.open(mode) as w:
        assert w.read(0, 65536) == b"A" * 65536
    for _ in range(1200):
        fds = len(os.listdir(f"/proc/{s.proc.pid}/fd"))
        if fds < 30:
            break
        time.sleep(0.05)
    assert fds < 30


def test_shutting_down_answers_what_it_has_begun(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode) as w, s.connect() as haggling:
        w.ask(FLUSH)
        assert w.error_of(w.chunks()) == 0
        s.proc.send_signal(signal.SIGTERM)
        assert w.is_closed() and haggling.is_closed()
    s.stop()
    assert not os.path.exists(s.path)


def test_random_requests_beside_a_model(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", "--discard=unmap", disk)
    rnd = random.Random(f"nbd {mode}")
    model = bytearray(content(disk))
    conns = [s.open(mode) for _ in range(3)]
    for step in range(400):
        w = rnd.choice(conns)  # what one connection has written is there for the others at once
        off = rnd.randrange(SIZE)
        length = min(rnd.choice((1, 13, 512, 4096, 65536, 300000)), SIZE - off)
        if rnd.random() < 0.5:
            off, length = off & ~4095, max(4096, length & ~4095)
            length = min(length, SIZE - off)
        what = rnd.choice("wwwrrrrzzt")
        if what == "w":
            data = rnd.randbytes(length) if rnd.random() < 0.8 else bytes(length)
            assert w.write(off, data, rnd.choice((0, 0, FUA))) == 0
            model[off:off + length] = data
        elif what == "z":
            assert w.do(ZEROES, off, length, rnd.choice((0, NO_HOLE, FUA))) == 0
            model[off:off + length] = bytes(length)
        elif what == "t":
            assert w.do(TRIM, off, length) == 0
            model[off:off + length] = w.read(off, length)
        else:
            flags = rnd.choice((0, DF)) if mode != "simple" else 0
            assert w.read(off, length, flags) == model[off:off + length], step
    for w in conns:
        w.disconnect()
    s.stop()
    assert content(disk) == model
