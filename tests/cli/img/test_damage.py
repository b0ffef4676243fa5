# SPDX-License-Identifier: BSD-2-Clause
"""qcow2 images damaged by hand, in every table: check finds what qemu-img finds, repairs at least what it repairs, and harms no data."""
import json, os

import pytest
from images import digest
from qcow2image import COPIED, PLACE, Image
from sterna import program, run

EVERY_CASE = "sanitized"
MADE = {
    "plain": "compat=1.1",
    "old": "compat=0.10",
    "subclusters": "extended_l2=on",
    "small": "cluster_size=512",
    "wide": "refcount_bits=64",
    "snapshots": "compat=1.1",
}


SECOND = 64 << 10  # guest offsets: of data, of zeroes that have a cluster, of compressed bytes
ZEROES = 2 << 20
COMPRESSED = 3 << 20


def lose_tail(q, n):
    del q.b[len(q.b) - n:]


def leak(q):
    end = len(q.b) + q.cluster
    q.b += bytes(2 * q.cluster)
    q.count(end, 1)


DAMAGE = {
    "refcount of data is 0": lambda q: q.count(q.data(0), 0),
    "refcount of data is high": lambda q: q.count(q.data(0), 3),
    "refcount of an L2 table is 0": lambda q: q.count(q.l2(), 0),
    "refcount of the L1 table is 0": lambda q: q.count(q.l1, 0),
    "refcount of the header is 0": lambda q: q.count(0, 0),
    "refcount of the refcount table is 0": lambda q: q.count(q.reftable, 0),
    "refcount of its own block is 0": lambda q: q.count(q.block(), 0),
    "a cluster leaked": leak,
    "refcount table entry beyond the file": lambda q: q.put(q.reftable, 1 << 40),
    "another refcount table entry beyond the file": lambda q: q.put(q.reftable + 8, 1 << 40),
    "no refcount table": lambda q: q.put4(56, 0),
    "refcount table entry is 0": lambda q: q.put(q.reftable, 0),
    "refcount table entry twice": lambda q: q.put(q.reftable + 8, q.block()),
    "refcount table entry with reserved bits": lambda q: q.flip(q.reftable, 1),
    "refcount table entry names the table": lambda q: q.put(q.reftable, q.reftable),
    "L1 entry with a low reserved bit": lambda q: q.flip(q.l1, 4),
    "L1 entry with a high reserved bit": lambda q: q.flip(q.l1, 1 << 60),
    "L1 entry without its flag": lambda q: q.flip(q.l1, COPIED),
    "L1 entry beyond the file": lambda q: q.put(q.l1, COPIED | 1 << 40),
    "L1 entry names a refcount block": lambda q: q.put(q.l1, COPIED | q.block()),
    "L1 entry that is but a flag": lambda q: q.put(q.l1, COPIED),
    "L2 entry without its flag": lambda q: q.flip(q.entry(SECOND), COPIED),
    "L2 entry with a reserved bit": lambda q: q.flip(q.entry(SECOND), 4),
    "L2 entry beyond the file": lambda q: q.put(q.entry(SECOND), COPIED | 1 << 40),
    "L2 entry twice": lambda q: q.put(q.entry(SECOND), q.get(q.entry(0))),
    "L2 entry names its table": lambda q: q.put(q.entry(SECOND), COPIED | q.l2()),
    "L2 entry names a refcount block": lambda q: q.put(q.entry(SECOND), COPIED | q.block()),
    "L2 entry is not aligned": lambda q: q.flip(q.entry(SECOND), 512),
    "compressed L2 entry with a flag": lambda q: q.flip(q.entry(COMPRESSED), COPIED),
    "compressed L2 entry beyond the file": lambda q: q.flip(q.entry(COMPRESSED), 1 << 45),
    "the last bytes are missing": lambda q: lose_tail(q, 700),
    "a part of the file is missing": lambda q: lose_tail(q, len(q.b) // 3 // q.cluster * q.cluster),
    "dirty, and a refcount is 0": lambda q: (q.flip(72, 1), q.count(q.data(0), 0)),
    "corrupt bit": lambda q: q.flip(72, 2),
    "zero cluster is not aligned": lambda q: q.put(q.entry(ZEROES), (COPIED | 1 << 20 | 512) + (not q.extended)),
}
SUBCLUSTERS = {
    "subcluster is data and zero": lambda q: q.put(q.entry(0) + 8, 1 << 32 | 1),
    "subcluster without a cluster": lambda q: q.put(q.entry(5 << 16) + 8, 1),
    "subclusters of compressed bytes": lambda q: q.put(q.entry(COMPRESSED) + 8, 1),
}
SNAPSHOTS = {
    "snapshot's L1 table is not aligned": lambda q: q.put(q.snapshots, q.l1 + 100),
    "snapshot's L1 table is beyond the file": lambda q: q.put(q.snapshots, 1 << 40),
    "snapshot's L1 table is too large": lambda q: q.put4(q.snapshots + 8, 1 << 24),
    "snapshot has too much extra data": lambda q: q.put4(q.snapshots + 36, 1 << 20),
    "snapshot has a long name": lambda q: q.put4(q.snapshots + 12, 0xFFFFFFFF),
    "snapshots are too many": lambda q: q.put4(60, 5),
    "snapshot table is beyond the file": lambda q: q.put(64, 1 << 40),
    "snapshot's L2 table is the active one": lambda q: q.put(q.get(q.snapshots), q.l2()),
}
# Where qemu-img gives up, reads tables out of the header, or lets go of compressed bytes that can still be read.
BETTER = {"refcount table entry with reserved bits", "L1 entry that is but a flag", "subclusters of compressed bytes",
          "snapshot's L1 table is too large", "snapshot has too much extra data"}
# Not what the kind of image has: one-byte offsets in a v2 header, alignment finer than a cluster.
NOT_HERE = {("old", "dirty, and a refcount is 0"), ("old", "corrupt bit"), ("old", "zero cluster is not aligned"), ("small", "L2 entry is not aligned"),
            ("small", "zero cluster is not aligned"), ("small", "another refcount table entry beyond the file"),
            ("small", "refcount table entry beyond the file"), ("small", "a part of the file is missing")}
OTHER_DATA = {"L2 entry names its table", "a part of the file is missing"}  # what the guest sees is tables, or lies where a repair may allocate
FEW = {"old": 4, "subclusters": 4, "small": 4, "wide": 4, "snapshots": 4}  # some damage will do where little differs from the first kind


def cases():
    for kind in MADE:
        more = {"subclusters": SUBCLUSTERS, "snapshots": SNAPSHOTS}.get(kind, {})
        names = [n for n in DAMAGE if (kind, n) not in NOT_HERE]
        for name in names[::len(names) // FEW.get(kind, len(names))] + list(more):
            yield kind, name


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, images = tmp_path_factory.mktemp("made"), {}
    tool, io = program("sterna-img"), program("sterna-io")
    for kind, options in MADE.items():
        path = images[kind] = str(folder / kind)
        run(tool, "create", "-q", "-f", "qcow2", "-o", options, path, "4M").ok()
        zeroes = "write -P 2 1M 64k" if kind == "old" else "write -P 9 2M 64k"
        run(io, "-f", "qcow2", "-c", "write -P 1 0 256k", "-c", "write -P 2 1M 192k", "-c", zeroes, path).ok()
        run(io, "-f", "qcow2", "-c", "write -c -P 3 3M 64k", "-c", "write -c -P 4 3136k 64k", "-c", "write -z 2M 64k", path).ok()
        if kind == "snapshots":
            run(tool, "snapshot", "-c", "one", path).ok()
            run(io, "-f", "qcow2", "-c", "write -P 5 64k 128k", path).ok()
    return images


def found(tool, path):
    r = run(tool, "check", "-f", "qcow2", "--output=json", path)
    if not r.out.startswith("{"):
        return r.rc, None
    j = json.loads(r.out)
    return r.rc, [j.get(k, 0) for k in ("corruptions", "leaks", "check-errors")]


def contents(tool, path):
    """None: not all of it can be read."""
    out = path + ".raw"
    r = run(tool, "convert", "-f", "qcow2", "-O", "raw", path, out)
    return digest(out) if r.rc == 0 else None


@pytest.mark.parametrize("kind,name", cases())
def test_damage(twins, made, kind, name):
    image = Image(made[kind])
    {**DAMAGE, **SUBCLUSTERS, **SNAPSHOTS}[name](image)
    twins.put("x", image.b)
    ours, theirs = (os.path.join(d, "x") for d in (twins.ours_dir, twins.theirs_dir))
    before = contents(twins.ours, ours)
    first, their_first = found(twins.ours, ours), found(twins.qemu, theirs)
    assert first == their_first or (name in BETTER and first[0] == their_first[0])
    their_repair, our_repair = twins.both("check", "-f", "qcow2", "-r", "all", "x")
    after, their_after = found(twins.ours, ours), found(twins.qemu, theirs)
    assert (our_repair.rc, after) == (their_repair.rc, their_after) or name in BETTER
    assert found(twins.qemu, ours) == after or name in BETTER
    if before and name not in OTHER_DATA:
        assert contents(twins.ours, ours) == contents(twins.qemu, ours) == before
    if our_repair.rc == 0:
        assert after == (0, [0, 0, 0])


def test_repairing_leaks_lets_go_of_nothing_that_is_named(twins, made):
    """A cluster that a damaged entry may still mean is nobody else's."""
    image = Image(made["plain"])
    place = image.data(SECOND)
    image.flip(image.entry(SECOND), 512)
    twins.put("x", image.b)
    twins.both("check", "-f", "qcow2", "-r", "leaks", "x")
    for folder in (twins.ours_dir, twins.theirs_dir):
        after = Image(os.path.join(folder, "x"))
        at = after.block() + (place >> after.bits) * 2
        assert after.b[at:at + 2] == b"\0\1"


def counted(q, place):
    q.put(q.reftable + 8, place)
    q.count(place, 1)


@pytest.mark.parametrize("damage", [lambda q: q.put(q.reftable + 8, 1 << 20), lambda q: counted(q, 1 << 20),
                                    lambda q: q.put(q.reftable + 8, (1 << 63) - (1 << 16))], ids=["near", "counted", "too-far"])
def test_refcount_blocks_beyond_the_end_in_words(twins, damage):
    twins.same("create", "-f", "qcow2", "x", "64M")
    image = Image(os.path.join(twins.theirs_dir, "x"))
    damage(image)
    twins.put("x", image.b)
    for args in [("check",), ("check", "-r", "leaks"), ("check", "-r", "all"), ("check",)]:
        twins.same(*args, "x")


def extension(q, kind):
    at = q.get4(100)
    while q.get4(at) != kind:
        at += 8 + (q.get4(at + 4) + 7) // 8 * 8
    return at + 8


BITMAPS = {
    "more": lambda q, at: q.put4(at, 1),
    "less": lambda q, at: q.put4(at, 3),
    "too many": lambda q, at: q.put4(at, 1 << 31),
    "too long": lambda q, at: q.put(at + 8, 1 << 40),
    "raw without a data file": lambda q, at: q.flip(88, 2),
    "compression type": lambda q, at: q.b.__setitem__(104, 7),
}


def test_bitmap_directories_in_words(twins):
    twins.same("create", "-f", "qcow2", "x", "1M")
    for name in "ab":
        twins.both("bitmap", "--add", "x", name)
    for damage in BITMAPS.values():
        image = Image(os.path.join(twins.theirs_dir, "x"))
        damage(image, extension(image, 0x23852875))
        twins.put("y", image.b)
        twins.same("check", "y")
        twins.same("snapshot", "-l", "y")


@pytest.mark.parametrize("damage", [
    lambda q: q.flip(q.reftable, 512), lambda q: q.put(q.l1, COPIED | q.block()), lambda q: q.put(24, 1000), lambda q: lose_tail(q, len(q.b) - 50),
    lambda q: q.put4(100, 108)], ids=["unaligned", "twice", "odd size", "short", "header length"])
def test_checks_in_words(twins, made, damage):
    image = Image(made["plain"])
    damage(image)
    for args in [("check",), ("check", "-r", "leaks")] + [("info",)] * (image.get(24) == 1000):
        twins.put("x", image.b)
        twins.same(*args, "x")


def test_a_map_ends_where_something_makes_no_sense(twins, made):
    image = Image(made["plain"])
    image.flip(image.entry(1 << 20), 512)
    twins.put("x", image.b)
    twins.same("map", "--output=json", "x")
    twins.same("map", "x")


def test_subclusters_of_a_cluster_that_loses_its_place(tmp_path):
    """Those that were zeroes still are; the others show the backing file."""
    (tmp_path / "base").write_bytes(b"\xff" * 131072)
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "-b", "base", "-F", "raw", "x", cwd=tmp_path).ok()
    run(program("sterna-io"), "-f", "qcow2", "-c", "write -P 1 4k 2k", "-c", "write -z 4k 2k", "x", cwd=tmp_path).ok()
    image = Image(tmp_path / "x")
    image.flip(image.entry(0), 512)
    (tmp_path / "x").write_bytes(image.b)
    assert "Repairing offset=" in run(program("sterna-img"), "check", "-r", "all", "x", cwd=tmp_path).err
    out = run(program("sterna-io"), "-f", "qcow2", "-c", "read -P 255 0 4k", "-c", "read -P 0 4k 2k", "-c", "read -P 255 6k 122k", "x", cwd=tmp_path).ok().out
    assert "Pattern" not in out
