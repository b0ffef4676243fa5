# SPDX-License-Identifier: BSD-2-Clause
"""Broken images, full disks, sectors that cannot be read."""
import os, random, re, resource, signal, subprocess, time

import pytest
from images import MIB, digest
from sterna import program, run

EVERY_CASE = "sanitized"
ANY = re.compile(r".*", re.S)

DAMAGE = {
    "refcount zero": (lambda f: poke(f, refblock(f) + 2 * 5, b"\0\0"), "all"),
    "refcount too high": (lambda f: poke(f, refblock(f) + 2 * 5, b"\0\5"), "leaks"),
    "unused cluster counted": (lambda f: (f.truncate(20 << 16), poke(f, refblock(f) + 2 * 17, b"\0\1")), "leaks"),
    "l2 entry beyond the file": (lambda f: poke(f, l2table(f) + 8 * 3, (1 << 63 | 1 << 40).to_bytes(8, "big")), "all"),
    "copied flag missing": (lambda f: poke(f, l2table(f) + 8, (be64(f, l2table(f) + 8) & ~(1 << 63)).to_bytes(8, "big")), "all"),
}


def be64(f, at):
    f.seek(at)
    return int.from_bytes(f.read(8), "big")


def poke(f, at, data):
    f.seek(at)
    f.write(data)


def refblock(f):
    return be64(f, be64(f, 48))


def l2table(f):
    return be64(f, be64(f, 40)) & 0x00FFFFFFFFFFFE00


@pytest.mark.parametrize("what", DAMAGE)
def test_check_finds_and_repairs_damage(twins, what):
    twins.same("create", "-q", "-f", "qcow2", "x", "3M")
    twins.io("x", "write -P 1 0 512k")
    harm, level = DAMAGE[what]
    for d in (twins.theirs_dir, twins.ours_dir):
        with open(os.path.join(d, "x"), "r+b") as f:
            harm(f)
    found = [r.rc for r in twins.both("check", "x")]
    assert found[0] == found[1] and found[0] in (2, 3)
    twins.same("check", "-q", "x", ignore=[(ANY, "")])
    theirs, ours = twins.both("check", "-r", level, "x")
    assert ours.rc == theirs.rc
    assert ours.out.splitlines()[:4] == theirs.out.splitlines()[:4]
    if ours.rc == 0:
        for tool in (twins.qemu, twins.ours):
            r = run(tool, "check", "x", cwd=twins.ours_dir)
            assert r.rc == 0, r.out + r.err


@pytest.mark.parametrize("where,value", [(4, 9), (20, 40), (20, 3), (96, 9), (24, 255), (72, 255)])
def test_broken_headers_are_refused_not_probed_as_raw(twins, where, value):
    twins.same("create", "-q", "-f", "qcow2", "x", "3M")
    for d in (twins.theirs_dir, twins.ours_dir):
        with open(os.path.join(d, "x"), "r+b") as f:
            poke(f, where, value.to_bytes(4 if where != 24 and where != 72 else 1, "big"))
    for args in (["info", "x"], ["convert", "-O", "raw", "x", "y"], ["check", "x"]):
        theirs, ours = twins.both(*args)
        assert ours.rc == theirs.rc == 1
        assert ours.err.startswith("qemu-img: Could not open 'x': ")


HEADERS = {  # what is wrong: (offset, bytes) that replace others
    "unknown feature": [(79, b"\x20")],
    "unknown feature with a name": [(79, b"\x80"), (112, b"\x68\x03\xf8\x57\0\0\0\x30\0\7" + b"frobnicate".ljust(46, b"\0") + bytes(8))],
    "corrupt": [(79, b"\2")],
    "dirty": [(79, b"\1")],
    "unknown compatible feature": [(86, b"\2")],
    "unknown autoclear feature": [(94, b"\2")],
    "length of the header": [(100, b"\0\0\0\x78")],
    "refcounts too wide": [(96, b"\0\0\0\7")],
    "compression that should be named": [(104, b"\1")],
    "compression that is named": [(79, b"\x08")],
    "compression of an unknown type": [(79, b"\x08"), (104, b"\2")],
    "encryption of an unknown kind": [(32, b"\0\0\0\3")],
    "name of the backing file too long": [(8, b"\0\0\0\0\0\0\1\x90\0\0\x13\x88")],
    "name of the backing file beyond": [(8, b"\0\0\0\0\0\1\x11\0\0\0\0\5")],
    "name of the backing file empty": [(8, b"\0\0\0\0\0\0\x32\0\0\0\0\5")],
    "L1 table not aligned": [(40, b"\0\0\0\0\0\3\1\0")],
    "no L1 table": [(36, bytes(4))],
    "L1 table too large": [(36, b"\x40\0\0\0")],
    "refcount table too large": [(56, b"\0\x10\0\0")],
    "disk too large": [(24, b"\x40")],
}


@pytest.mark.parametrize("what", HEADERS)
def test_odd_headers_are_judged_alike(twins, what):
    twins.same("create", "-q", "-f", "qcow2", "x", "3M")
    twins.copy_theirs("x")
    for args in (["info", "x"], ["check", "x"], ["convert", "-O", "raw", "x", "y"], ["resize", "x", "8M"]):
        for d in (twins.theirs_dir, twins.ours_dir):
            with open(os.path.join(d, "x"), "r+b") as f:
                for where, data in HEADERS[what]:
                    poke(f, where, data)
        twins.same(*args)


def test_a_luks_header_that_is_not_there(twins):
    twins.same("create", "-q", "-f", "qcow2", "x", "3M")
    with open(os.path.join(twins.ours_dir, "x"), "r+b") as f:
        poke(f, 32, b"\0\0\0\2")
    r = run(twins.ours, "info", "x", cwd=twins.ours_dir)  # theirs crashes
    assert (r.rc, r.err) == (1, "qemu-img: Could not open 'x': Missing CRYPTO header for crypt method 2\n")


def test_info_does_without_the_data_file(twins):
    twins.same("create", "-q", "-f", "qcow2", "-o", "data_file=data", "x", "3M")
    for d in (twins.theirs_dir, twins.ours_dir):
        os.unlink(os.path.join(d, "data"))
    for args in (["info", "x"], ["info", "--output=json", "x"], ["map", "x"], ["check", "x"], ["create", "-u", "-f", "qcow2", "-b", "x", "-F", "qcow2", "y", "1M"]):
        twins.same(*args)


FOREIGN = {
    "qcow": b"QFI\xfb\0\0\0\1",
    "vmdk": b"KDMV\1\0\0\0",
    "vdi": bytes(64) + b"\x7f\x10\xda\xbe",
    "vhdx": b"vhdxfile",
    "vpc": b"conectix",
    "parallels": b"WithoutFreeSpace\2",
    "bochs": b"Bochs Virtual HD Image\0",
    "cloop": b"#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n",
}
DESCRIPTION = b"# Disk DescriptorFile\r\n \r\nversion=1\r\nCID=1\r\n"


def test_images_of_other_formats_are_not_raw(twins):
    for fmt, head in [*FOREIGN.items(), ("vmdk", DESCRIPTION)]:
        twins.put("x", head + bytes(MIB))
        for args in (["info", "x"], ["convert", "-O", "raw", "x", "y"], ["map", "x"], ["compare", "x", "x"], ["create", "-f", "qcow2", "-b", "x", "y"]):
            r = run(twins.ours, *args, cwd=twins.ours_dir)
            assert r.rc != 0 and (f"is in the format '{fmt}', which is not supported" in r.err or "without" in r.err), args
        assert "file format: raw\n" in run(twins.ours, "info", "-f", "raw", "x", cwd=twins.ours_dir).ok().out


@pytest.mark.parametrize("fmt", ["qcow", "vmdk", "vdi", "vhdx", "vpc", "parallels"])
def test_images_that_qemu_img_makes_are_not_raw(twins, fmt):
    if run(twins.qemu, "create", "-q", "-f", fmt, "x", "8M", cwd=twins.theirs_dir).rc:
        pytest.skip(f"qemu-img makes no {fmt} images")
    r = run(twins.ours, "info", "x", cwd=twins.theirs_dir)
    assert r.rc == 1 and f"is in the format '{fmt}', which is not supported" in r.err


def test_a_guest_on_a_probed_raw_disk_cannot_make_it_an_image(twins):
    io = program("sterna-io")
    for head in [b"QFI\xfb\0\0\0\3", b"QED\0" + bytes(60), b"LUKS\xba\xbe\0\1" + bytes(600), *FOREIGN.values(), DESCRIPTION]:
        twins.put("pattern", head.ljust(1024, b"\0"))
        for options, refused in [((), True), (("-f", "raw"), False)]:
            twins.put("x", bytes(MIB))
            r = run(io, *options, "-c", "write -s pattern 0 1k", "-c", "write -s pattern 4k 1k", "x", cwd=twins.ours_dir)
            assert ("write failed: Operation not permitted" in r.out + r.err) == refused, head
            with open(os.path.join(twins.ours_dir, "x"), "rb") as f:
                data = f.read()
            assert data[:1024] == (bytes(1024) if refused else head.ljust(1024, b"\0")) and data[4096:].startswith(head)


def test_a_short_file_is_refused_or_read_as_theirs(twins):
    twins.same("create", "-q", "-f", "qcow2", "x", "3M")
    twins.io("x", "write -P 1 0 512k")
    for d in (twins.theirs_dir, twins.ours_dir):
        os.truncate(os.path.join(d, "x"), 100)
    theirs, ours = twins.both("info", "x")
    assert ours.rc == theirs.rc


def limited(args, cwd, limit):
    def before():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    return subprocess.run(args, cwd=cwd, capture_output=True, text=True, preexec_fn=before, timeout=60)


def test_a_target_that_cannot_grow_stops_the_copy_with_the_offset(twins):
    twins.sparse("r", 8 * MIB, [(0, random.Random(1).randbytes(8 * MIB))])
    r = limited([twins.ours, "convert", "-f", "raw", "-O", "qcow2", "r", "q"], twins.ours_dir, 3 * MIB)
    assert r.returncode == 1
    assert re.fullmatch(r"qemu-img: error while writing at byte \d+: (File too large|No space left on device)\n", r.stderr)


def test_full_disk(twins, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2M", "none", str(small)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        twins.sparse("r", 8 * MIB, [(0, random.Random(1).randbytes(8 * MIB))])
        for flags in ((), ("-c",)):
            r = run(twins.ours, "convert", *flags, "-f", "raw", "-O", "qcow2", "r", small / "q", cwd=twins.ours_dir)
            assert r.rc == 1
            assert re.search(r"error while writing at byte \d+: No space left on device\n", r.err)
    finally:
        subprocess.run(["umount", str(small)], check=True)


BAD_SECTOR = 'json:{"driver":"raw","file":{"driver":"blkdebug","inject-error":[{"event":"read_aio","errno":5,"sector":20,"once":false}],"image":{"driver":"file","filename":"r"}}}'


def test_salvage_replaces_what_cannot_be_read(twins):
    data = random.Random(1).randbytes(100 * 512)
    twins.sparse("r", len(data), [(0, data)])
    r = run(twins.ours, "convert", "-O", "raw", BAD_SECTOR, "out", cwd=twins.ours_dir)
    assert r.rc == 1 and "error while reading at byte" in r.err
    r = run(twins.ours, "convert", "--salvage", "-O", "raw", BAD_SECTOR, "out", cwd=twins.ours_dir).ok()
    assert r.err == "qemu-img: warning: error while reading offset 10240: Input/output error\n"
    with open(os.path.join(twins.ours_dir, "out"), "rb") as f:
        assert f.read() == data[:20 * 512] + bytes(512) + data[21 * 512:]


def test_rate_limit(twins):
    twins.sparse("r", 4 * MIB, [(0, random.Random(1).randbytes(4 * MIB))])
    began = time.monotonic()
    run(twins.ours, "convert", "-r", "8M", "-f", "raw", "-O", "raw", "r", "out", cwd=twins.ours_dir).ok()
    assert 0.3 < time.monotonic() - began < 30
    assert digest(os.path.join(twins.ours_dir, "out")) == digest(os.path.join(twins.ours_dir, "r"))
