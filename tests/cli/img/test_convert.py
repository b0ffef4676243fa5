# SPDX-License-Identifier: BSD-2-Clause
"""What convert leaves in images, beside qemu-img and read by it."""
import hashlib, os, random

import pytest
from images import MIB, digest, everyone_reads, pieces

KINDS = [
    "compat=0.10", "cluster_size=512", "cluster_size=2M", "refcount_bits=1", "refcount_bits=64", "lazy_refcounts=on",
    "extended_l2=on,cluster_size=32k", "preallocation=metadata", "preallocation=full",
]


@pytest.mark.parametrize("options", KINDS)
def test_raw_to_qcow2_and_back(twins, options):
    size = 7_654_321 // 512 * 512
    twins.sparse("r", size, pieces(options, size))
    twins.same("convert", "-f", "raw", "-O", "qcow2", "-o", options, "r", "q")
    twins.equal("q")
    everyone_reads(twins, "q", digest(os.path.join(twins.ours_dir, "r")))


@pytest.mark.parametrize("kind", ["zlib", "zstd"])
@pytest.mark.parametrize("cluster", ["4k", "64k", "1M"])
def test_compressed(twins, kind, cluster):
    size = 5_000_704
    twins.sparse("r", size, pieces(kind + cluster, size))
    twins.same("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={kind},cluster_size={cluster}", "r", "q")
    twins.equal("q")
    everyone_reads(twins, "q", digest(os.path.join(twins.ours_dir, "r")))


@pytest.mark.parametrize("size,flags", [
    (1, ()), (511, ("-c",)), (512, ("-W",)), (513, ("-S", "0")), (65535, ("-S", "64k")), (65537, ("-m", "1")), (2 * MIB - 1, ()),
    (2 * MIB + 1, ("-c",)), (4_194_305, ("-W",)), (4_194_305, ("-c", "-W", "-m", "16")), (1, ("-c",)), (65537, ("-c", "-S", "0")),
])
def test_sizes_that_are_multiples_of_nothing(twins, size, flags):
    rng = random.Random(size)
    twins.sparse("r", size, [(size // 2, rng.randbytes(size - size // 2))])
    twins.same("convert", *flags, "-f", "raw", "-O", "qcow2", "r", "q")
    twins.equal("q")
    everyone_reads(twins, "q", hashlib.sha256(open(os.path.join(twins.ours_dir, "r"), "rb").read() + bytes(-size % 512)).hexdigest())


def test_holes_stay_holes_and_zeroes_become_holes(twins):
    twins.sparse("r", 64 * MIB, [(MIB, b"x" * 5000), (8 * MIB, bytes(16 * MIB)), (40 * MIB, b"y" * MIB)])
    twins.same("convert", "-f", "raw", "-O", "raw", "r", "copy")
    twins.same("convert", "-f", "raw", "-O", "qcow2", "r", "q")
    for name in ("copy", "q"):
        sizes = [os.stat(os.path.join(d, name)).st_blocks * 512 for d in (twins.theirs_dir, twins.ours_dir)]
        assert sizes[1] <= sizes[0] + 256 * 1024
    assert digest(os.path.join(twins.ours_dir, "copy")) == digest(os.path.join(twins.ours_dir, "r"))


def test_sparse_size_zero_allocates_everything(twins):
    twins.sparse("r", 4 * MIB, [(MIB, b"x" * 5000)])
    twins.same("convert", "-S", "0", "-f", "raw", "-O", "raw", "r", "copy")
    assert os.stat(os.path.join(twins.ours_dir, "copy")).st_blocks * 512 >= 4 * MIB


def test_convert_into_an_existing_target(twins):
    twins.sparse("r", 3 * MIB, [(MIB, b"x" * 100_000)])
    for fmt in ("raw", "qcow2"):
        twins.sparse("old", 5 * MIB, [(0, b"o" * (5 * MIB))])
        twins.same("convert", "-f", "raw", "-O", fmt, "old", "t." + fmt)
        twins.same("convert", "-n", "-f", "raw", "-O", fmt, "r", "t." + fmt)
        twins.equal("t." + fmt, fmt)
    twins.same("create", "-f", "qcow2", "fresh", "3M")
    twins.same("convert", "-n", "--target-is-zero", "-f", "raw", "-O", "qcow2", "r", "fresh")
    twins.equal("fresh")
    twins.same("convert", "-n", "--target-image-opts", "-f", "raw", "r", "driver=qcow2,file.driver=file,file.filename=fresh")
    twins.equal("fresh")


def test_several_sources_are_laid_end_to_end(twins):
    for i, size in enumerate((100_352, 512, 3 * MIB)):
        twins.sparse(f"r{i}", size, [(0, random.Random(i).randbytes(size // 2))])
    for flags in ((), ("-c",)):
        twins.same("convert", *flags, "-f", "raw", "-O", "qcow2", "r0", "r1", "r2", "q")
        twins.equal("q")
        whole = b"".join(open(os.path.join(twins.ours_dir, f"r{i}"), "rb").read() for i in range(3))
        everyone_reads(twins, "q", hashlib.sha256(whole).hexdigest())


def test_progress_and_quiet(twins):
    twins.sparse("r", 8 * MIB, [(0, random.Random(1).randbytes(8 * MIB))])
    twins.same("convert", "-p", "-f", "raw", "-O", "qcow2", "r", "q")
    twins.same("convert", "-p", "-q", "-f", "raw", "-O", "qcow2", "r", "q")
    twins.same("compare", "-p", "-f", "raw", "r", "q")
    ours = twins.both("convert", "-p", "-f", "raw", "-O", "raw", "r", "r2")[1]
    assert ours.out.startswith("    (0.00/100%)\r") and ours.out.endswith("    (100.00/100%)\r\n")


@pytest.mark.parametrize("cache", ["none", "writeback", "writethrough", "directsync", "unsafe"])
def test_cache_modes(twins, cache):
    twins.sparse("r", 3 * MIB + 1024, pieces(cache, 3 * MIB, 8))
    twins.same("convert", "-t", cache, "-T", cache, "-f", "raw", "-O", "qcow2", "r", "q")
    twins.equal("q")
    everyone_reads(twins, "q", digest(os.path.join(twins.ours_dir, "r")))
