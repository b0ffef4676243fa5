# SPDX-License-Identifier: BSD-2-Clause
"""Other people's clients: libnbd's tools, QEMU's, fio."""
import json, os, random, sys

import pytest
from sterna import program, reference, run
from wire import *

MIB = 1 << 20


@pytest.fixture
def source(tmp_path):
    """32 MiB, half of it holes in pieces of many sizes."""
    path, rnd = tmp_path / "source.raw", random.Random(7)
    with open(path, "wb") as f:
        at = 0
        while at < 32 * MIB:
            f.seek(at)
            f.write(rnd.randbytes(rnd.choice((4096, 65536, 300 * 1024))))
            at = f.tell() + rnd.choice((4096, 100 * 1024, MIB))
        f.truncate(32 * MIB)
    return path


def same(a, b):
    run("cmp", a, b).ok()


def test_nbdinfo_and_nbdcopy(serve, tmp_path, source):
    s = serve("-t", "-e", 0, "-f", "raw", "-D", "a disk", source)
    info = json.loads(run(reference("nbdinfo"), "--json", s.uri()).ok().out)["exports"][0]
    assert info["export-size"] == 32 * MIB and info["description"] == "a disk" and info["can_multi_conn"] and info["can_fast_zero"]
    for args in ((), ("--request-size=4096", "--requests=64"), ("--connections=1", "--synchronous"), ("--request-size=33554432", "--requests=4")):
        out = tmp_path / "out.raw"
        run(reference("nbdcopy"), *args, s.uri(), out).ok()
        same(source, out)
        os.unlink(out)
    target = tmp_path / "target.raw"
    with open(target, "wb") as f:
        f.truncate(32 * MIB)
    t = serve("-t", "-e", 0, "-f", "raw", "--discard=unmap", target)
    run(reference("nbdcopy"), "--flush", source, t.uri()).ok()
    same(source, target)
    run(reference("nbdcopy"), "--allocated", s.uri(), t.uri()).ok()
    same(source, target)


def test_nbdsh(serve, disk):
    s = serve("-t", "-e", 0, "-A", "-f", "raw", disk)
    pytest.importorskip("nbd")
    script = """
h.add_meta_context("base:allocation")
h.add_meta_context("qemu:allocation-depth")
h.connect_uri(URI)
assert h.get_size() == 4 << 20 and h.can_meta_context("qemu:allocation-depth")
h.pwrite(b"n" * 5000, 3333)
assert h.pread(5002, 3332) == b"A" + b"n" * 5000 + b"A"
seen = {}
h.block_status(4 << 20, 0, lambda c, off, e, err: seen.setdefault(c, list(e)) and 0)
assert seen["base:allocation"][:4] == [65536, 0, (1 << 20) - 65536, 3], seen
assert seen["qemu:allocation-depth"] == [4 << 20, 1], seen
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE)
h.trim(4096, 8192)
h.cache(65536, 0)
h.flush()
try:
    h.set_strict_mode(0)
    h.pread(512, 4 << 20)
    assert False
except nbd.Error as e:
    assert e.errnum == 22, e
buf = nbd.Buffer(1 << 20)
cookies = [h.aio_pread(nbd.Buffer(4096), i * 4096) for i in range(256)]
while h.aio_in_flight():
    h.poll(1000)
assert all(h.aio_command_completed(c) for c in cookies)
h.shutdown()
"""
    run(sys.executable, "-m", "nbd", "-c", f"URI = {s.uri()!r}", "-c", script).ok()  # what nbdsh is


def test_qemu_tools(serve, tmp_path, source):
    img, io = reference("qemu-img"), reference("qemu-io")
    s = serve("-t", "-e", 0, "-f", "raw", source)
    out = tmp_path / "out.qcow2"
    run(img, "convert", "-f", "raw", "-O", "qcow2", s.uri(), out).ok()
    assert "identical" in run(img, "compare", "-f", "raw", "-F", "qcow2", source, out).ok().out
    mine = json.loads(run(img, "map", "-f", "raw", "--output=json", s.uri()).ok().out)
    theirs = json.loads(run(img, "map", "-f", "raw", "--output=json", source).ok().out)
    key = lambda m: [(e["start"], e["length"], e["zero"]) for e in m]
    assert key(mine) == key(theirs)
    run(io, "-f", "raw", "-c", "write -P 3 1M 64k", "-c", "write -z -u 2M 1M", "-c", "write -f -P 4 3M 4k", "-c", "discard 4M 1M", "-c", "flush",
        "-c", "read -P 3 1M 64k", "-c", "read -P 0 2M 1M", "-c", "aio_write -P 5 8M 1M", "-c", "aio_read -P 4 3M 4k", "-c", "aio_flush", s.uri()).ok()
    target = serve("-t", "-e", 0, "-f", "qcow2", out)
    run(img, "convert", "-n", "-f", "raw", "-O", "raw", "-W", s.uri(), target.uri()).ok()
    s.stop()
    target.stop()
    assert "identical" in run(img, "compare", "-f", "raw", "-F", "qcow2", source, out).ok().out
    assert "No errors" in run(img, "check", out).ok().out


def test_our_own_tools(serve, tmp_path, source):
    s = serve("-t", "-e", 0, "-f", "raw", source)
    out = tmp_path / "ours.raw"
    run(program("sterna-img"), "convert", "-f", "raw", "-O", "raw", s.uri(), out).ok()
    same(source, out)


@pytest.mark.parametrize("rw, bs", [("randrw", "4k"), ("randwrite", "512-64k"), ("write", "1M")])
def test_fio_verifies_what_it_wrote(serve, tmp_path, rw, bs):
    fio = reference("fio")
    if "nbd" not in run(fio, "--enghelp").out:
        pytest.skip("fio has no nbd engine")
    disk = tmp_path / "fio.raw"
    with open(disk, "wb") as f:
        f.truncate(16 * MIB)
    s = serve("-t", "-e", 0, "-f", "raw", disk)
    job = tmp_path / "job.fio"
    kind = "bsrange" if "-" in bs else "bs"
    job.write_text(f"[global]\nioengine=nbd\nuri={s.uri()}\nrw={rw}\n{kind}={bs}\niodepth=64\nsize=16M\nverify=crc32c\nrandrepeat=1\n[job]\n")
    r = run(fio, job, cwd=tmp_path).ok()
    assert "err= 0" in r.out
