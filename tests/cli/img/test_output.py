# SPDX-License-Identifier: BSD-2-Clause
"""What create, info, check, map, compare and measure print about images of every kind, beside qemu-img."""
import os, random, re

import pytest
from images import look

SIZES = ["0", "512", "1000", "1.5k", "65536", "65537", "10000000", "1G"]


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
@pytest.mark.parametrize("size", SIZES)
def test_sizes(twins, fmt, size):
    twins.same("create", "-f", fmt, "x", size)
    twins.same("info", "-f", fmt, "x")
    twins.same("measure", "-O", fmt, "--size", size)
    twins.equal("x", fmt)
    twins.share_theirs("x")  # theirs allocates a raw file's first block
    twins.same("map", "-f", fmt, "--output=json", "x")


def test_create_help_lists_every_option_of_theirs_that_is_not_about_encryption(twins):
    for args in [("-f", "raw"), ("-f", "raw", "x"), ("-f", "qcow2"), ("-f", "qcow2", "x")]:
        theirs, ours = twins.both("create", *args, "-o", "help")
        assert ours.rc == theirs.rc == 0
        names = [{l.split("=")[0].strip() for l in r.out.splitlines() if l.startswith("  ")} for r in (theirs, ours)]
        missing = {n for n in names[0] - names[1] if not n.startswith("encr")}
        assert missing <= {"extent_size_hint", "nocow"}
        assert ours.out.splitlines()[0] == theirs.out.splitlines()[0]
        listed = [l for l in ours.out.splitlines() if l.startswith("  ")]
        assert listed == sorted(listed)


def chain(twins):
    twins.same("create", "-f", "qcow2", "base", "4M")
    twins.io("base", "write -P 1 0 1M", "write -P 2 3M 64k")
    twins.same("create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "mid")
    twins.io("mid", "write -P 3 512k 1M", "write -z 3M 64k")
    twins.same("create", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top", "6M")
    twins.io("top", "write -P 4 0 64k", "write -P 5 5M 64k")


def test_backing_chain(twins):
    chain(twins)
    for name in ("base", "mid", "top"):
        look(twins, name)


def test_backing_file_in_another_folder_and_missing(twins):
    for d in (twins.theirs_dir, twins.ours_dir):
        os.mkdir(os.path.join(d, "sub"))
    twins.same("create", "-f", "qcow2", "base", "4M")
    twins.same("create", "-f", "qcow2", "-b", "../base", "-F", "qcow2", "sub/top")
    twins.same("info", "sub/top")
    twins.same("info", "--output=json", "--backing-chain", "sub/top")
    twins.same("create", "-f", "qcow2", "-u", "-b", "gone", "-F", "raw", "orphan", "1M")
    twins.same("info", "orphan")
    twins.same("info", "--backing-chain", "orphan")
    twins.same("map", "orphan")
    _, ours = twins.both("check", "orphan")  # theirs wants the backing file even for this; ours need not
    assert ours.rc == 0 and ours.out.startswith("No errors were found on the image.")


def test_raw_over_every_kind_of_hole(twins):
    rng = random.Random(7)
    pieces = [(rng.randrange(0, 9 << 20), rng.randbytes(rng.randrange(1, 100000))) for _ in range(20)]
    twins.sparse("r", 10_000_001, pieces)
    twins.same("info", "r")
    twins.same("map", "-f", "raw", "r")
    twins.same("map", "-f", "raw", "--output=json", "r")
    twins.same("map", "-f", "raw", "--output=json", "--start-offset=1M", "r")
    twins.same("map", "-f", "raw", "--output=json", "--start-offset=100M", "r")
    twins.same("measure", "-f", "raw", "-O", "qcow2", "r")


def test_compressed_clusters(twins):
    twins.put("r", b"some words that compress well " * 50000)
    for kind in ("zlib", "zstd"):
        twins.same("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind}", "r", "c")
        twins.equal("c")
        twins.copy_theirs("c")
        look(twins, "c")


@pytest.mark.parametrize("strict", [(), ("-s",)])
def test_compare(twins, strict):
    chain(twins)
    twins.sparse("r", 6 << 20, [(0, b"\4" * 65536), (1 << 20, b"\3" * 1000)])
    twins.same("convert", "-O", "raw", "top", "flat")
    twins.same("convert", "-O", "qcow2", "top", "flat.q")
    twins.copy_theirs("flat.q")
    twins.sparse("longer", 7 << 20, [])
    twins.sparse("longer2", 7 << 20, [(6600000, b"x")])
    twins.same("create", "-q", "-f", "qcow2", "empty", "6M")
    for a, b in [("top", "top"), ("top", "mid"), ("mid", "top"), ("top", "base"), ("top", "r"), ("top", "flat"), ("flat", "flat.q"),
                 ("flat.q", "top"), ("empty", "longer"), ("longer", "empty"), ("empty", "longer2"), ("longer2", "empty")]:
        twins.same("compare", *strict, a, b)
        twins.same("compare", "-q", *strict, a, b)
    twins.same("compare", "-f", "raw", "-F", "raw", "flat", "r")


def test_objects_and_image_options(twins):
    twins.same("create", "-q", "-f", "qcow2", "--object", "secret,id=sec0,data=abc", "a.qcow2", "3M")
    twins.same("info", "--object", "secret,id=sec0,data=abc,format=raw", "--image-opts", "driver=qcow2,file.filename=a.qcow2")
    twins.same("info", "--image-opts", "file.filename=a.qcow2")
    twins.same("info", "--image-opts", "driver=qcow2,file.driver=file,file.filename=a.qcow2")
    twins.same("info", 'json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}')
    twins.same("map", "--output=json", "--image-opts", "driver=raw,file.filename=a.qcow2,size=64k")
    twins.same("check", "--image-opts", "driver=qcow2,file.filename=a.qcow2")


def test_sizes_that_are_no_whole_sectors_or_begin_with_blanks(twins):
    for args in [("create", "-f", "raw", "x", "1000"), ("create", "-f", "qcow2", "y", " 1M"), ("resize", "y", "+ 1M"), ("resize", "-f", "raw", "x", "3000")]:
        twins.same(*args)
    twins.equal("x", "raw")
    assert len({os.path.getsize(os.path.join(d, "x")) for d in (twins.theirs_dir, twins.ours_dir)}) == 1


def test_bench_is_never_quiet_and_names_of_snapshots_are_cut(twins):
    twins.same("create", "-q", "-f", "qcow2", "x", "1M")
    twins.same("bench", "-q", "-c", "3", "x")
    twins.same("snapshot", "-c", "n" * 300, "x")
    twins.same("snapshot", "-l", "x", ignore=[(re.compile(r"[0-9-]{10} [0-9:]{8}"), "DATE")])


def test_parts_of_clusters_that_are_not_allocated_have_a_place(twins):
    twins.same("create", "-q", "-f", "qcow2", "-o", "extended_l2=on", "x", "1M")
    twins.io("x", "write 10k 3k", "write -z 100k 4k", "write 200k 60k")
    twins.same("map", "--output=json", "x")
    twins.same("map", "x")
