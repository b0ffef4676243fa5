# SPDX-License-Identifier: BSD-2-Clause
"""Persistent dirty bitmaps: bitmap, convert --bitmaps, measure, info; read by the other side, and after crashes."""
import json, os, re, struct, subprocess, time

import pytest
from sterna import alias, program, reference, run

NODES = (re.compile(r"#block\d+"), "NODE")
IO_TIMES = (re.compile(r"^.* ops; .*$", re.M), "TIMES")


def prepare(twins):
    twins.same("create", "-f", "qcow2", "-o", "compat=0.10", "v2", "1M")
    twins.same("create", "-f", "qcow2", "a", "1M")
    twins.same("create", "-f", "qcow2", "c", "2M")
    twins.same("create", "-f", "raw", "r", "1M")
    twins.same("bitmap", "--add", "-g", "2G", "a", "b0")
    twins.same("bitmap", "--add", "c", "b0")


def test_messages(twins):
    prepare(twins)
    for words in [
        "--add v2 b0", "--add r b0", "--add -f raw r b0", "--add -g 1000 a b1", "--add -g 256 a b1", "--add -g 4G a b1",
        "--add -g x a b1", "--add -g 0 a b2", "--clear -g 0 a b2", "--clear -g 64k a b0", "--add a b0", "--remove a no",
        "--clear a no", "--enable a no", "--disable a no", "--merge no a b0", "a b0", "--add a", "--add", "-F x --clear",
        "-b x --clear", "-g 1", "--merge b0 -b none a b0", "--clear -b a a b0", "--clear -F qcow2 a b0", "--add -g",
        "--add --bogus a b0", "--disable --disable a b0", "--add --remove a b7", "--image-opts -f qcow2 --add a b9",
        "-F raw -b r --merge b0 a b0", "-F qcow2 -b c --merge b0 a b0", "--add c b1 x", "--add none b1",
        "--image-opts --add driver=qcow2,file.filename=a b8", "--add --clear --nothing a b9", "--remove --remove a b8",
    ]:  # fmt: skip
        twins.same("bitmap", *words.split(), ignore=[NODES])
    twins.same("bitmap", "--add", "a", "")
    twins.same("bitmap", "--add", "a", "x" * 1023)
    twins.same("bitmap", "--add", "a", "x" * 1024, ignore=[NODES])
    twins.same("info", "a")
    twins.same("info", "--output=json", "a")
    twins.same("create", "-f", "qcow2", "s", "1M")
    twins.same("bitmap", "--add", "s", "b0")
    for words in [
        "--bitmaps a r2", "--bitmaps -O qcow2 r x", "--bitmaps -O qcow2 v2 x", "--skip-broken-bitmaps -O qcow2 a x",
        "--bitmaps -O qcow2 -o compat=0.10 a x", "--bitmaps -O qcow2 a c x", "--bitmaps -n -O qcow2 s c",
        "--bitmaps -O qcow2 a x",
    ]:  # fmt: skip
        twins.same("convert", *words.split())
    twins.same("info", "x")


def test_inconsistent(twins):
    prepare(twins)
    subprocess.run([reference("qemu-io"), "-c", "abort", "c"], cwd=twins.theirs_dir, stderr=subprocess.DEVNULL)
    twins.copy_theirs("c")
    twins.same("info", "c")
    for action in ("add", "clear", "enable", "disable"):
        twins.same("bitmap", "--" + action, "c", "b0")
    twins.same("bitmap", "--add", "c", "good")
    twins.same("bitmap", "--merge", "b0", "c", "good")
    twins.same("bitmap", "--merge", "b0", "-b", "c", "a", "b0")
    twins.same("resize", "c", "3M")
    twins.same("convert", "--bitmaps", "-O", "qcow2", "c", "x")
    twins.same("convert", "--bitmaps", "--skip-broken-bitmaps", "-O", "qcow2", "c", "x")
    twins.same("info", "x")
    twins.same("measure", "-O", "qcow2", "c")
    twins.same("bitmap", "--remove", "c", "b0")
    twins.same("info", "c")
    twins.equal("c")


# --- contents -------------------------------------------------------------------------------------------------------


def dirty(nbd, img, folder, name, bitmap):
    """[(start, length)] of what is dirty, as the bitmap is exported by `nbd` and seen by `img`."""
    opts = f"driver=nbd,server.type=unix,server.path=s,x-dirty-bitmap=qemu:dirty-bitmap:{bitmap}"
    with subprocess.Popen([nbd, "-r", "-f", "qcow2", "-B", bitmap, "-k", os.path.join(folder, "s"), name], cwd=folder) as server:
        try:
            for _ in range(6000):  # it is not there yet, or does not listen yet: it ends after its first client, so nobody asks before
                seen = run(img, "map", "--output=json", "--image-opts", opts, cwd=folder)
                if "Failed to connect" not in seen.err:
                    break
                time.sleep(0.01)
            out = seen.ok().out
            server.wait(60)
        finally:
            server.kill()
    found = []
    for e in json.loads(out):
        if not e["data"]:
            if found and sum(found[-1]) == e["start"]:
                found[-1] = (found[-1][0], found[-1][1] + e["length"])
            else:
                found.append((e["start"], e["length"]))
    return found


class Both(object):
    """The same requests to both sides' images, each by its own program; every bitmap read by both programs."""

    def __init__(self, twins, tmp_path):
        self.twins = twins
        self.our_io, self.our_nbd = program("sterna-io"), program("sterna-nbd")
        self.their_io, self.their_nbd = reference("qemu-io"), reference("qemu-nbd")

    def io(self, name, *commands):
        words = [w for c in commands for w in ("-c", c)]
        for tool, folder in ((self.their_io, self.twins.theirs_dir), (self.our_io, self.twins.ours_dir)):
            run(tool, "-f", "qcow2", *words, name, cwd=folder).ok()

    def same(self, name, bitmap):
        t = self.twins
        views = [
            dirty(nbd, t.qemu, folder, name, bitmap)
            for nbd in (self.their_nbd, self.our_nbd)
            for folder in (t.theirs_dir, t.ours_dir)
        ]
        assert views[0] == views[1] == views[2] == views[3]
        return views[0]


@pytest.fixture
def both(twins, tmp_path):
    return Both(twins, tmp_path)


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=512", "cluster_size=4k,lazy_refcounts=on", "extended_l2=on"])
def test_contents(twins, both, options):
    twins.same("create", "-f", "qcow2", "-o", options, "x", "10M")
    both.io("x", "write -P 1 0 1M")
    for bitmap, more in [("fine", ["-g", "512"]), ("plain", []), ("coarse", ["-g", "2M"]), ("off", ["--disable"])]:
        twins.same("bitmap", "--add", *more, "x", bitmap)
    both.io("x", "write -P 2 1M 70k", "write -z 3M 100k", "discard 5M 64k", "write -P 3 9999k 1k", "flush", "write 4000k 512")
    twins.same("info", "x")
    assert both.same("x", "plain") and both.same("x", "coarse") and not both.same("x", "off")
    both.same("x", "fine")
    twins.same("bitmap", "--merge", "plain", "--enable", "x", "off")
    twins.same("bitmap", "--disable", "--clear", "x", "coarse")
    both.io("x", "write -P 4 7M 3M")
    assert both.same("x", "off") == both.same("x", "plain")
    assert both.same("x", "coarse") == []
    twins.same("bitmap", "--add", "--disable", "--merge", "fine", "--merge", "off", "-g", "4k", "x", "sum")
    both.same("x", "sum")
    for size in ("24M", "8M", "8389120"):
        twins.same("resize", "--shrink", "x", size)
        both.io("x", "write -P 5 7M 30k")
        for bitmap in ("fine", "plain", "coarse", "off", "sum"):
            both.same("x", bitmap)
    twins.same("bitmap", "--remove", "x", "fine")
    twins.same("convert", "--bitmaps", "-O", "qcow2", "x", "y")
    twins.same("info", "y")
    for bitmap in ("plain", "coarse", "off", "sum"):
        both.same("y", bitmap)
    twins.same("measure", "-O", "qcow2", "-o", options, "x")
    twins.equal("x")
    twins.equal("y")


def test_with_a_backing_file(twins, both):
    """The bitmap's header extension stands where the name of the backing file was."""
    twins.same("create", "-f", "qcow2", "base", "4M")
    twins.same("bitmap", "--add", "base", "low")
    twins.same("create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    for i in range(6):
        twins.same("bitmap", "--add", "top", f"bitmap{i}")
        twins.same("info", "top")
    both.io("top", "write -P 1 1M 64k")
    for i in range(5):
        twins.same("bitmap", "--remove", "top", f"bitmap{i}")
    twins.same("info", "--backing-chain", "top")
    twins.same("bitmap", "--add", "--merge", "bitmap5", "-b", "top", "-F", "qcow2", "base", "from-top")
    assert both.same("base", "from-top") == both.same("top", "bitmap5") == [(1 << 20, 65536)]
    twins.same("rebase", "-u", "-b", "", "top")
    twins.same("bitmap", "--remove", "top", "bitmap5")
    twins.same("info", "top")
    twins.equal("top")


def test_snapshots_and_bitmaps(twins, both):
    twins.same("create", "-f", "qcow2", "x", "4M")
    twins.same("bitmap", "--add", "x", "b")
    both.io("x", "write -P 1 0 64k")
    twins.same("snapshot", "-c", "one", "x")
    both.io("x", "write -P 2 1M 64k")
    assert both.same("x", "b") == [(0, 65536), (1 << 20, 65536)]
    run(twins.ours, "snapshot", "-a", "one", "x", cwd=twins.ours_dir).ok()  # theirs refuses while there are bitmaps
    assert dirty(both.their_nbd, twins.qemu, twins.ours_dir, "x", "b") == [(0, 4 << 20)]
    run(twins.qemu, "check", "x", cwd=twins.ours_dir).ok()


# --- crashes --------------------------------------------------------------------------------------------------------


def covers(found, start, length):
    return any(s <= start and start + length <= s + n for s, n in found)


@pytest.mark.parametrize("granularity", ["64k", "512"])
def test_a_killed_program_leaves_the_bitmap_usable(twins, both, granularity):
    twins.same("create", "-f", "qcow2", "x", "1G")
    twins.same("bitmap", "--add", "-g", granularity, "x", "b")
    folder = twins.ours_dir
    written = []
    for n, place in enumerate((0, 100 << 20, 700 << 20)):
        command = [both.our_io, "-c", f"write -P 7 {place} 64k", "-c", "flush" if n % 2 else "length", "-c", "abort", "x"]
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        written.append(place)
        for nbd in (both.their_nbd, both.our_nbd):
            found = dirty(nbd, twins.qemu, folder, "x", "b")
            assert all(covers(found, p, 65536) for p in written)
            assert sum(n for _, n in found) < 600 << 20  # units, not the disk
        assert run(twins.qemu, "check", "-r", "leaks", "x", cwd=folder).rc in (0, 3)
        assert "in-use" not in run(twins.ours, "info", "x", cwd=folder).ok().out
    run(both.our_io, "-c", "write -P 8 1000M 64k", "x", cwd=folder).ok()
    assert covers(dirty(both.their_nbd, twins.qemu, folder, "x", "b"), 1000 << 20, 65536)


# --- damage ---------------------------------------------------------------------------------------------------------


def header_extension(data):
    at = struct.unpack_from(">I", data, 100)[0]
    while True:
        kind, length = struct.unpack_from(">II", data, at)
        if kind == 0x23852875:
            return at + 8
        assert kind
        at += 8 + (length + 7) // 8 * 8


def patched(twins, name, change):
    """The same damage to both: theirs, changed."""
    path = os.path.join(twins.theirs_dir, name)
    with open(path, "rb") as f:
        data = bytearray(f.read())
    ext = header_extension(data)
    change(data, ext, struct.unpack_from(">Q", data, ext + 16)[0])
    twins.put("broken", bytes(data))


DAMAGE = {
    "no bitmaps": lambda d, x, dir: struct.pack_into(">I", d, x, 0),
    "too many bitmaps": lambda d, x, dir: struct.pack_into(">I", d, x, 65536),
    "reserved field": lambda d, x, dir: struct.pack_into(">I", d, x + 4, 1),
    "directory unaligned": lambda d, x, dir: struct.pack_into(">Q", d, x + 16, dir + 512),
    "directory too large": lambda d, x, dir: struct.pack_into(">Q", d, x + 8, 65 << 20),
    "extension length": lambda d, x, dir: struct.pack_into(">I", d, x - 4, 16),
    "reserved flag": lambda d, x, dir: struct.pack_into(">I", d, dir + 12, 8),
    "granularity": lambda d, x, dir: struct.pack_into(">B", d, dir + 17, 8),
    "type": lambda d, x, dir: struct.pack_into(">B", d, dir + 16, 2),
    "table unaligned": lambda d, x, dir: struct.pack_into(">Q", d, dir, 0x30200),
    "no table": lambda d, x, dir: struct.pack_into(">I", d, dir + 8, 0),
    "changed by a program without bitmaps": lambda d, x, dir: struct.pack_into(">Q", d, 88, 0),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage(twins, what):
    twins.same("create", "-f", "qcow2", "x", "1M")
    run(twins.qemu, "bitmap", "--add", "x", "b", cwd=twins.theirs_dir).ok()
    patched(twins, "x", DAMAGE[what])
    theirs, ours = twins.both("info", "broken")
    assert ours.rc == theirs.rc and ours.out.splitlines()[:1] == theirs.out.splitlines()[:1]
    if theirs.rc == 0:  # the warnings differ in line breaks
        for args in (("check", "broken"), ("bitmap", "--clear", "broken", "b")):
            theirs, ours = twins.both(*args)
            assert (ours.rc, ours.out) == (theirs.rc, theirs.out)
            assert "are now considered inconsistent" in ours.err


def test_extra_data(twins):
    """Compatible extra data is kept, and the bitmap used; otherwise the bitmap is left alone, and not trusted when the disk changes."""
    for compatible in (True, False):
        run(twins.ours, "create", "-f", "qcow2", "x", "1M", cwd=twins.ours_dir).ok()
        run(twins.ours, "bitmap", "--add", "x", "b", cwd=twins.ours_dir).ok()
        path = os.path.join(twins.ours_dir, "x")
        with open(path, "r+b") as f:
            data = bytearray(f.read())
            ext = header_extension(data)
            size, at = struct.unpack_from(">QQ", data, ext + 8)
            struct.pack_into(">Q", data, ext + 8, size + 8)
            struct.pack_into(">I", data, at + 12, 2 | 4 * compatible)
            struct.pack_into(">I", data, at + 20, 8)
            data[at + 24 : at + 40] = b"EXTRADAT" + data[at + 24 : at + 32]
            f.seek(0)
            f.write(data)
        clear = run(twins.ours, "bitmap", "--clear", "--disable", "--enable", "x", "b", cwd=twins.ours_dir)
        assert (clear.rc == 0) == compatible, clear.err
        run(program("sterna-io"), "-c", "write 0 64k", "x", cwd=twins.ours_dir).ok()
        out = json.loads(run(twins.ours, "info", "--output=json", "x", cwd=twins.ours_dir).ok().out)
        flags = out["format-specific"]["data"]["bitmaps"][0]["flags"]
        assert flags == (["auto"] if compatible else ["in-use", "auto"])
        with open(path, "rb") as f:
            assert b"EXTRADAT" in f.read()
        run(twins.ours, "check", "x", cwd=twins.ours_dir).ok()
        run(twins.ours, "bitmap", "--remove", "x", "b", cwd=twins.ours_dir).ok()
        run(twins.ours, "check", "x", cwd=twins.ours_dir).ok()
