# SPDX-License-Identifier: BSD-2-Clause
"""BLOCK_STATUS: allocation and depth, one extent or many, for chosen contexts."""
import struct

import pytest
from sterna import program, run, sanitized
from wire import *

MIB = 1 << 20
SIZE = 4 * MIB


@pytest.fixture(params=["structured", "extended"])
def mode(request):
    return request.param


@pytest.fixture
def chain(tmp_path, disk):
    """A qcow2 image above the raw one: data at 1 MiB, zeroes at 2 MiB, the rest from below."""
    top = tmp_path / "top.qcow2"
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-b", disk, "-F", "raw", top).ok()
    run(program("sterna-io"), "-f", "qcow2", "-c", "write -P 1 1M 64k", "-c", "write -z 2M 64k", top).ok()
    return top


def test_allocation_is_that_of_the_image(serve, disk, mode):
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    with s.open(mode, ["base:allocation"]) as w:
        got = w.status(0, SIZE)[0]
        assert got == [(65536, 0), (MIB - 65536, 3), (65536, 0), (3 * MIB - 65536, 3)]
        assert w.status(0, SIZE, REQ_ONE) == {0: [(65536, 0)]}
        assert w.status(4096, 1000) == {0: [(1000, 0)]}
        assert w.status(65535, 2)[0] == [(1, 0), (1, 3)]
        assert w.status(SIZE - 1, 1) == {0: [(1, 3)]}
        for off in range(0, SIZE, 100000):
            for length, flags in w.status(off, min(200000, SIZE - off))[0]:
                data = w.read(off, length)
                assert flags != 3 or data == bytes(length)
                off += length


def test_depth_counts_layers(serve, chain, mode):
    s = serve("-t", "-e", 0, "-A", "-f", "qcow2", chain)
    with s.open(mode, ["base:allocation", "qemu:allocation-depth"]) as w:
        got = w.status(0, SIZE)
        depth, alloc = got[w.contexts["qemu:allocation-depth"]], got[w.contexts["base:allocation"]]
        assert alloc == [(65536, 0), (MIB - 65536, 3), (65536, 0), (3 * MIB - 65536, 3)]
        assert depth == [(MIB, 2), (65536, 1), (MIB - 65536, 2), (65536, 1), (2 * MIB - 65536, 2)]
        one = w.status(0, SIZE, REQ_ONE)
        assert one == {w.contexts["base:allocation"]: alloc[:1], w.contexts["qemu:allocation-depth"]: depth[:1]}
    with s.open(mode, ["qemu:allocation-depth"]) as w:
        assert list(w.status(MIB, 65536).values()) == [[(65536, 1)]]


def test_a_context_that_was_not_selected_is_not_told(serve, disk, mode):
    s = serve("-t", "-e", 0, "-A", "-f", "raw", "-x", "a", disk)
    with s.open(mode, name="a") as w:
        assert w.do(STATUS, 0, 4096) == EINVAL
    with s.open(mode, ["x:y"], name="a") as w:
        assert w.do(STATUS, 0, 4096) == EINVAL


def test_a_payload_chooses_contexts_and_length(serve, chain):
    s = serve("-t", "-e", 0, "-A", "-f", "qcow2", chain)
    with s.open("extended", ["base:allocation", "qemu:allocation-depth"]) as w:
        a, d = w.contexts["base:allocation"], w.contexts["qemu:allocation-depth"]

        def ask(length, *ids, off=0, flags=0):
            p = struct.pack(f">Q{len(ids)}I", length, *ids)
            return off, len(p), PAYLOAD | flags, p

        assert w.status(*ask(MIB, a)) == {a: [(65536, 0), (MIB - 65536, 3)]}
        assert w.status(*ask(2 * MIB, d, off=MIB)) == {d: [(65536, 1), (MIB - 65536, 2), (65536, 1), (MIB - 65536, 2)]}
        assert w.status(*ask(SIZE, d, flags=REQ_ONE)) == {d: [(MIB, 2)]}
        assert set(w.status(*ask(SIZE, d, a))) == {a, d}
        for bad in (ask(SIZE, a, a), ask(SIZE, 77), ask(SIZE), ask(0, a), ask(SIZE + 1, a), ask(1 << 63, a, off=1)):
            assert w.do(STATUS, *bad) == EINVAL
        for length in (0, 1, 7, 8, 9, 13, 100000):
            assert w.do(STATUS, 0, length, PAYLOAD, bytes(length)) == EINVAL
        assert w.status(0, 4096)[a] == [(4096, 0)]


def resident_kib(server):
    with open(f"/proc/{server.proc.pid}/status", encoding="ascii") as f:
        return int(next(line for line in f if line.startswith("VmRSS")).split()[1])


def test_replies_that_nobody_reads_are_not_piled_up(tmp_path):
    image, names = tmp_path / "bitmaps.qcow2", [f"b{i}" for i in range(16)]
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", image, "4M").ok()
    for name in names:
        run(program("sterna-img"), "bitmap", "--add", "-g", "512", image, name).ok()
    contexts = [f"qemu:dirty-bitmap:{name}" for name in names]
    args = ("-t", "-e", 0, *(f"-B{name}" for name in names), "-f", "qcow2", image)
    with Server(str(tmp_path), *args) as s, s.open("extended", contexts) as w, s.open("structured", ["base:allocation"] + contexts[:1]) as good:
        for off in range(0, SIZE, 1024):  # every other sector is dirty
            w.send(w.header(WRITE, off, 512, PAYLOAD) + bytes([1]) * 512)
        for _ in range(0, SIZE, 1024):
            assert w.error_of([w.chunk()]) == 0
        assert list(w.status(0, SIZE).values()) == [[(512, 1), (512, 0)] * 4096] * 16
        before = resident_kib(s)
        w.send(b"".join(w.header(STATUS, 0, SIZE) for _ in range(200)))  # 2 MiB each
        for _ in range(10):
            assert good.status(1024, 512, REQ_ONE) == {good.contexts["base:allocation"]: [(512, 0)], good.contexts[contexts[0]]: [(512, 1)]}
        grown = resident_kib(s) - before
        assert grown < (240 if sanitized("sterna-nbd") else 60) << 10, f"{grown} KiB"


def test_the_tail_of_an_odd_sized_image_reads_as_zeroes(serve, tmp_path, mode):
    odd = tmp_path / "odd.raw"
    odd.write_bytes(b"x" * 1000)
    s = serve("-t", "-e", 0, "-f", "raw", odd)
    with s.open(mode, ["base:allocation"]) as w:
        assert w.size == 1024
        assert w.read(0, 1024) == b"x" * 1000 + bytes(24) and w.read(1010, 14) == bytes(14) and w.read(990, 34, DF)[10:] == bytes(24)
        assert w.status(0, 1024)[0] == [(1000, 0), (24, 3)]
        assert w.write(900, b"y" * 100 + bytes(24)) == 0 and w.write(1000, bytes(24)) == 0
        assert w.write(999, b"zz") == ENOSPC
        assert w.do(ZEROES, 0, 1024) == 0 and w.do(TRIM, 512, 512) == 0 and w.do(CACHE, 0, 1024) == 0
    s.stop()
    assert odd.read_bytes() == bytes(1000)


def test_large_extents_of_extended_mode_are_told_at_once(serve, tmp_path):
    huge = tmp_path / "huge.raw"
    with open(huge, "wb") as f:
        f.truncate(1 << 40)
    s = serve("-t", "-e", 0, "-f", "raw", "--discard=unmap", huge)
    with s.open("extended", ["base:allocation"]) as w:
        assert w.status(0, 1 << 40) == {0: [(1 << 40, 3)]}
        assert w.do(ZEROES, 1, (1 << 40) - 1) == 0 and w.do(TRIM, 0, 1 << 40) == 0
        assert w.write((1 << 40) - 1, b"!") == 0
        assert [n for n, _ in w.status(0, 1 << 40)[0]] == [(1 << 40) - 4096, 4096]
    with s.open("structured", ["base:allocation"]) as w:
        assert w.status(0, 0xFFFFFFFF) == {0: [(0xFFFFFFFF, 3)]}
