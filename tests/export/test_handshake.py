# SPDX-License-Identifier: BSD-2-Clause
"""Greeting and option haggling, byte by byte."""
import struct, time

import pytest
from wire import *


def test_greeting_is_fixed_newstyle_and_may_leave_out_zeroes(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        assert w.server_flags == 3


def test_export_name_gives_size_and_flags_with_zeroes_unless_refused(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    for client_flags, zeroes in ((3, 0), (1, 124), (0, 124), (2, 0)):
        with s.connect(greet=False) as w:
            w.greet(client_flags)
            w.send_opt(EXPORT_NAME, b"")
            size, flags = struct.unpack(">QH", w.recv(10))
            assert w.recv(zeroes) == bytes(zeroes)
            assert size == 4 << 20 and flags & F_FLUSH and not flags & (F_READ_ONLY | F_DF)
            assert w.read(0, 16) == b"A" * 16
            w.disconnect()


def test_unknown_client_flags_end_the_connection(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect(greet=False) as w:
        w.greet(4 | 3)
        assert w.is_closed()
    assert "Unknown client flags 0x7 received" in s.stop()


def test_without_fixed_newstyle_only_export_name_is_an_option(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect(greet=False) as w:
        w.greet(0)
        w.send_opt(LIST)
        assert w.is_closed()


def test_wrong_export_name_ends_the_connection(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", "-x", "right", disk)
    for name in (b"wrong", b"x" * 5000, b"right\0"):
        with s.connect() as w:
            w.send_opt(EXPORT_NAME, name)
            assert w.is_closed()


def test_bad_option_magic_ends_the_connection(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        w.send_opt(LIST, magic=b"IHAVEOPS")
        assert w.is_closed()
    assert "Bad magic received" in s.stop()


def test_list_names_the_export_with_its_description(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", "-x", "name", "-D", "some text", disk)
    with s.connect() as w:
        assert w.ok(LIST) == [(SERVER, b"\0\0\0\4name" + b"some text")]
        assert w.error(LIST, b"data") == INVALID
        assert len(w.ok(LIST)) == 1


def test_abort_is_acknowledged_and_may_carry_data(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    for data in (b"", b"whatever"):
        with s.connect() as w:
            w.ok(ABORT, data)
            assert w.is_closed()
    assert s.stop() == ""


def test_unknown_options_are_refused_and_skipped(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        for opt in (0, 4, 12, 99, 0xFFFFFFFF):
            assert w.error(opt, b"x" * 1000) == UNSUP
        assert w.error(99, b"y" * (3 << 20)) == TOO_BIG
        w.go()
        assert w.read(0, 4) == b"AAAA"


def test_an_option_longer_than_any_may_be_ends_the_connection(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        w.send_opt(99, b"", length=0x7FFFFFFF)
        assert w.is_closed()


def test_info_tells_everything_and_can_be_repeated(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", "-x", "n", "-D", "d", disk)
    with s.connect() as w:
        for _ in range(2):
            i = w.info(INFO, "n", (1, 2, 3, 77))
            assert i[1] == b"n" and i[2] == b"d" and struct.unpack(">III", i[3]) == (1, 4096, 32 << 20)
            assert (w.size, w.flags & F_READ_ONLY) == (4 << 20, 0)
        assert 1 not in w.info(INFO, "n")
        assert w.error(INFO, w.info_data("other")) == UNKNOWN
        assert w.error(GO, w.info_data("")) == UNKNOWN
        w.go("n")
        assert w.do(FLUSH) == 0


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\0\0\0\5ab\0\0", b"\xff\xff\xff\xff\0\0", b"\0\0\0\0\0\1", b"\0\0\0\0\0\0\0\1",
                                  b"\0\0\0\3a\0b\0\0", struct.pack(">I", 5000) + b"x" * 5000 + b"\0\0"])
def test_malformed_info_is_invalid(serve, disk, data):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        for opt in (INFO, GO):
            assert w.error(opt, data) == INVALID
        w.go()


def test_structured_and_extended_follow_their_order(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        assert w.error(STRUCTURED, b"x") == INVALID
        w.ok(STRUCTURED)
        assert w.error(STRUCTURED) == INVALID
        assert w.error(EXTENDED, b"x") == INVALID
        w.ok(EXTENDED)
        assert w.error(EXTENDED) == INVALID
        assert w.error(STRUCTURED) == EXT_HEADER_REQD
        w.send_opt(EXPORT_NAME)
        assert w.is_closed()


def test_flags_say_what_the_export_can(serve, disk):
    for args, mode, there, missing in (
            (("-e", 0), "simple", F_FLUSH | F_FUA | F_TRIM | F_ZEROES | F_MULTI | F_CACHE | F_FAST, F_READ_ONLY | F_DF | F_STATUS_PAYLOAD),
            (("-e", 1), "structured", F_DF | F_FLUSH, F_MULTI | F_STATUS_PAYLOAD),
            (("-r", "-e", 2), "structured", F_READ_ONLY | F_MULTI | F_DF, F_TRIM | F_ZEROES | F_FAST),
            (("-e", 0), "extended", F_DF | F_MULTI, F_STATUS_PAYLOAD)):
        s = serve("-t", *args, "-f", "raw", disk)
        with s.open(mode) as w:
            assert w.flags & 1 and w.flags & there == there and not w.flags & missing
        s.stop()
    s = serve("-t", "-f", "raw", disk)
    with s.open("extended", ["base:allocation"]) as w:
        assert w.flags & F_STATUS_PAYLOAD


def test_meta_contexts_are_listed_and_selected(serve, tmp_path, disk):
    s = serve("-t", "-e", 0, "-f", "raw", "-A", disk)
    with s.connect() as w:
        assert w.error(LIST_META, w.name("") + bytes(4)) == INVALID  # before structured replies
        w.ok(STRUCTURED)
        both = ["base:allocation", "qemu:allocation-depth"]
        assert [n for _, n in w.meta(LIST_META)] == both
        assert [n for _, n in w.meta(LIST_META, ["base:"])] == both[:1]
        assert [n for _, n in w.meta(LIST_META, ["qemu:"])] == both[1:]
        assert w.meta(LIST_META, ["qemu:dirty-bitmap:"]) == []
        assert w.meta(LIST_META, ["x-other:thing", "base:alloc", "nonsense", ""]) == []
        assert w.meta(SET_META) == [] and w.meta(SET_META, ["base:", "qemu:"]) == []
        assert [n for _, n in w.meta(SET_META, both + both)] == both
        assert len({i for i, _ in w.meta(SET_META, both)}) == 2
        assert w.error(SET_META, w.name("nowhere") + bytes(4)) == UNKNOWN


@pytest.mark.parametrize("data", [b"", b"\0\0\0\0", b"\0\0\0\0\0\0\0\1", b"\0\0\0\0\0\0\0\1\0\0\0\7abc", b"\0\0\0\0\0\0\0\0x",
                                  b"\0\0\0\1\0\0\0\0\0", b"\0\0\0\0\0\0\3\xff"])
def test_malformed_meta_queries_are_invalid(serve, disk, data):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        w.ok(STRUCTURED)
        for opt in (LIST_META, SET_META):
            assert w.error(opt, data) == INVALID
        assert w.error(LIST_META, bytes(4) + b"\0\0\xff\xff") == TOO_BIG


def test_a_failed_set_meta_context_forgets_the_one_before(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        w.ok(STRUCTURED)
        assert w.meta(SET_META, ["base:allocation"])
        assert w.error(SET_META, b"") == INVALID
        w.go()
        assert w.do(STATUS, 0, 4096) == EINVAL
    with s.connect() as w:
        w.ok(STRUCTURED)
        assert w.meta(SET_META, ["base:allocation"])
        assert w.error(SET_META, bytes((1 << 20) + 1)) == TOO_BIG
        w.go()
        assert w.do(STATUS, 0, 4096) == EINVAL


def test_starttls_without_credentials_is_against_the_policy(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.connect() as w:
        assert w.error(STARTTLS, b"x") == INVALID
        assert w.error(STARTTLS) == POLICY
        w.go()


def test_who_does_not_choose_in_time_is_shown_the_door(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", "--handshake-limit", 3, disk)
    t0 = time.monotonic()
    with s.connect() as slow, s.open("simple") as quick:
        assert slow.is_closed()
        assert 1 < time.monotonic() - t0 < 60
        assert quick.read(0, 4) == b"AAAA"
    with s.connect(greet=False) as w:  # nor by many small steps
        w.greet()
        with pytest.raises((Closed, BrokenPipeError, ConnectionResetError)):
            for _ in range(1200):
                w.ok(LIST)
                time.sleep(0.05)


def test_more_clients_than_are_shared_wait_in_line(serve, disk):
    s = serve("-t", "-e", 2, "-f", "raw", disk)
    a, b = s.open("simple"), s.open("simple")
    c = Wire(s.path, timeout=0.5)
    with pytest.raises(TimeoutError):
        c.recv(18)
    a.disconnect()
    c.sock.settimeout(60)
    c.greet().go()
    assert c.read(0, 2) == b"AA" and b.read(0, 2) == b"AA"
    b.close()
    c.close()


def test_truncated_handshakes_hurt_nobody(serve, disk):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    good = s.open()
    for data in (b"", b"\0\0", b"\0\0\0\3", b"\0\0\0\3IHAVE", b"\0\0\0\3IHAVEOPT\0\0\0\7\0\0\1\0abc", bytes(range(256)) * 4):
        with s.connect(greet=False) as w:
            w.send(data)
    assert good.read(0, 4) == b"AAAA"
    good.disconnect()
