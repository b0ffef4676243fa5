# SPDX-License-Identifier: BSD-2-Clause
"""What commands do and print, beside qemu-io."""
import struct

import pytest
from sterna import program, run

RAW = ("-f", "raw", "raw")


def test_read_and_write(twins):
    twins.raw()
    twins.put("pat", bytes(range(1, 252)))
    twins.script(RAW, "write 0 4k", "read -v 0 40", "read -P 0xcd 0 4k", "read -P 0 4k 512", "write -P 7 3 5", "read -v 0 17", "write -s pat 100 1000",
                 "read -v 90 300", "write -C 0 1k", "read -C 0 1k", "write -q 5 6", "read -q 5 6", "write -Cq 0 1", "readv -v 3 5 7 20", "writev -P 9 10 5 512",
                 "read -P 9 10 517", "read -P 9 -s 3 -l 100 7 1k", "read -P 8 -s 3 -l 100 7 1k", "read -P 1 -v 0 32", "readv -P 9 10 5 5", "readv -P 8 10 5 5",
                 "write 0 0", "read 0 0", "write -z 0 1k", "write -zu 1k 1k", "write -zn 2k 1k", "write -z 1 513", "write -f 0 5", "writev -f 0 5", "write -zf 0 5",
                 "read -p 0 5", "write -p 0 5", "r 0 5", "w 0 5", "read 0 1m", "read 0 1.5k", "read 0x10 0x20", "read 010 1", "discard 0 512", "discard -C 0 512",
                 "discard -q 0 5", "discard 5 77", "d 0 512", "discard 0 0", "read -P 0 0 512", "flush", "f", "write -P 010 0 5", "write -P 0xff 5 5", "read -v 0 16")
    a, b = twins.get("raw")
    assert a == b


def test_looking(twins):
    twins.raw()
    twins.create("-f", "qcow2", "q", "10M")
    twins.script(RAW, "length", "l", "info", "i", "map", "alloc 0", "alloc 0 1M", "alloc 0 2M", "alloc 1M", "alloc 2M", "alloc 5", "alloc 0 600", "alloc 5 5",
                 "alloc 1 9223372036854775807", "alloc 0 0", "a 5")
    twins.script(("q",), "write -q 64k 64k", "write -q 1M 200k", "write -qz 2M 1M", "map", "alloc 0", "alloc 64k", "alloc 0 10M", "alloc 127k 3k", "length", "info",
                 "write -qc 5M 64k", "map", "discard 64k 64k", "map", "read -P 0 64k 64k")
    for size in (1048577, 1049000, 1023, 1100, 1 << 20, 3 << 60, (1 << 60) + 1, 3 << 30):
        twins.script((f'json:{{"driver":"null-co","size":"{size}","read-zeroes":true}}',), "length", "alloc 100 500", "alloc 7000", "map")


def test_a_size_that_is_not_whole_sectors(twins):
    twins.raw("odd", 1000)
    odd = ("-f", "raw", "odd")
    twins.script(odd, "length", "read -P 0 0 1024", "read -P 0 1000 24", "alloc 0 2000", "map", "discard 999 25", "write 1000 24", "read -v 990 34")
    twins.raw("odd", 1000)
    twins.script(odd, "write -z 999 25", "read 1000 25")
    twins.raw("odd", 1000)
    twins.script(odd, "write 999 25", "truncate 777", "length", "aio_write 700 300", "aio_flush", "read -v 690 334")
    a, b = twins.get("odd")
    assert a == b


def test_truncate(twins):
    twins.raw()
    twins.script(RAW, "truncate 5", "length", "truncate 1M", "length", "truncate -m full 2M", "map", "length", "truncate -m off 1M", "t 2M", "l", "truncate 1 2",
                 "truncate -m falloc 3M", "map")
    assert len({len(x) for x in twins.get("raw")}) == 1


def test_aio(twins):
    twins.raw()
    twins.script(RAW, "aio_write -P 5 0 512", "aio_flush", "aio_read -v 0 16 3", "aio_flush", "aio_read -P 5 0 512", "aio_flush", "aio_read -P 6 0 512", "aio_flush",
                 "aio_read -qP 6 0 512", "aio_flush", "aio_read -C 0 512 512", "aio_flush", "aio_write -C 0 512 512", "aio_flush", "aio_write -q 0 512", "aio_flush",
                 "aio_write -f 0 512", "aio_flush", "aio_read 2M 5", "aio_flush", "aio_write 2M 5", "aio_flush", "aio_write -P 9 64k 512", "aio_flush", "read -P 9 64k 512",
                 "aio_flush", "aio_flush", "aio_read 0 512")
    twins.script(RAW, "aio_write 0 512")


def test_zeroes_asynchronously(twins):
    """There qemu-io 7.2 forgets to look at the clock, so its times are what they are."""
    twins.raw(data=b"x" * 4096)
    r = twins.script(RAW, "aio_write -z 0 512", "aio_flush", "aio_write -zu 512 512", "aio_flush", "aio_write -fz 1k 512", "aio_flush", "aio_write -z -P 5 2k 512")
    assert r.out.count("00.0") == 4
    a, b = twins.get("raw")
    assert a == b


def test_reopen_changes_what_may_be_done(twins):
    twins.raw()
    twins.script(("-r", *RAW), "write 0 5", "reopen -w", "write 0 5", "reopen -r", "write 0 5", "read 0 5", "reopen -o size=512", "length", "read 0 600",
                 "reopen -o offset=513", "length", "reopen -o size=512,offset=512", "length", "reopen -c none", "read 0 512", "read 1 5", "reopen -c writeback",
                 "reopen -w", "write -P 1 0 512", "reopen -o size=1024,offset=0", "read -P 1 512 512", "reopen -c writethrough", "write 0 5", "reopen -c unsafe",
                 "write 0 5")


def test_several_commands_from_the_command_line(twins):
    twins.raw()
    twins.script(RAW, "foo", "length")
    twins.script(RAW, "length", "foo")
    twins.script(RAW, "quit", "foo")
    twins.script(RAW, "foo", "quit", "length")
    twins.script(RAW, "", " ", "   length  ")
    twins.run(*RAW, "-c", "length", "--cmd", "map", "--cmd=info", "-clength")


def test_commands_from_a_pipe(twins):
    twins.raw()
    for text in ("", "\n", "length", "length\n", "read 0 5\nfoo\nlength", "length\r\nlength\n\n  \nread 0  5\nquit\nlength\n", "aio_read 0 5\nsleep 20\naio_write 0 5\n",
                 "open raw\n", "read 2M 5\nwrite -b -z 0 5\ntruncate -m x 4\nopen\n", "q\n", "foo\nquit\n", "write -P 4 0 5\nquit", "close\nlength\n", "help foo\n"):
        twins.run(*RAW, stdin=text, any_order="aio" in text)
    twins.run(stdin="length\nopen -o driver=raw raw\nlength\nclose\nquit\n")
    twins.run(*RAW, "-c", "length", stdin="map\n")


def test_ends_that_no_program_would_choose(twins):
    twins.raw()
    assert twins.script(RAW, "write -P 3 0 5", "sigraise 9", "length").rc == -9
    assert twins.script(RAW, "length", "sigraise 15").rc == -15
    assert twins.script(RAW, "length", "abort").rc == -6
    twins.script(RAW, "sigraise 0", "length")
    a, b = twins.get("raw")
    assert a == b and b.startswith(b"\3\3\3\3\3\0")


def test_no_compressed_data_where_no_entry_can_tell_its_place(tmp_path):
    """All of the first 512 TiB is in use; beyond that there are not bits enough."""
    image = tmp_path / "x"
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-o", "cluster_size=2M,refcount_bits=1", image, "4M").ok()
    with open(image, "r+b") as f:
        table = struct.unpack(">Q", f.read(56)[48:])[0]
        f.seek(table)
        block = f.read(8)
        f.seek(table)
        f.write(block * 16)
        f.seek(struct.unpack(">Q", block)[0])
        f.write(b"\xff" * (2 << 20))
        try:
            f.truncate((512 << 40) + (64 << 20))
        except OSError as e:
            pytest.skip(f"no files that are so long here: {e.strerror}")
    r = run(program("sterna-io"), "-f", "qcow2", "-c", "write -c -P 5 0 2M", "-c", "read -P 0 0 2M", image)
    assert (r.rc, r.out.splitlines()[0]) == (1, "write failed: File too large") and "Pattern" not in r.out
