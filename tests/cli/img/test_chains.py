# SPDX-License-Identifier: BSD-2-Clause
"""Backing chains, rebase, commit, resize, dd and bench, beside qemu-img."""
import pytest
from images import MIB, build_chain, everyone_reads, flat, pieces
from sterna import program, run


def test_chain_is_flattened(twins):
    build_chain(twins)
    for out in ("raw", "qcow2"):
        twins.same("convert", "-O", out, "top", "all." + out)
        twins.equal("all." + out)


@pytest.mark.parametrize("flags", [(), ("-c",)])
def test_convert_onto_a_backing_file(twins, flags):
    build_chain(twins)
    before = flat(twins, twins.ours_dir, "top", twins.qemu)
    twins.same("convert", *flags, "-O", "qcow2", "-B", "mid", "-F", "qcow2", "top", "new")
    twins.equal("new")
    everyone_reads(twins, "new", before)
    # what only mid and base have was not copied
    r = run(twins.ours, "map", "--output=json", "new", cwd=twins.ours_dir).ok()
    assert '"depth": 1' in r.out and '"depth": 2' in r.out


def test_resize(twins):
    for fmt in ("raw", "qcow2"):
        twins.same("create", "-f", fmt, "x", "3M")
        for size in ("5M", "+1M", "+1000", "+0"):
            twins.same("resize", "-f", fmt, "x", size)
            twins.same("info", "-f", fmt, "x")
        twins.same("resize", "-f", fmt, "--shrink", "x", "-2M")
        twins.same("resize", "-f", fmt, "-q", "--shrink", "x", "1M")
        twins.same("resize", "-f", fmt, "--preallocation=full", "x", "2M")
        twins.same("info", "-f", fmt, "x")
        twins.equal("x", fmt)


@pytest.mark.parametrize("args", [("-b", "base", "-F", "qcow2"), ("-b", ""), ("-b", "other", "-F", "raw"), ("-p", "-b", "base", "-F", "qcow2")])
def test_rebase_keeps_the_contents(twins, args):
    build_chain(twins)
    twins.sparse("other", 5 * MIB, pieces("other", 5 * MIB, 10))
    before = flat(twins, twins.ours_dir, "top", twins.qemu)
    twins.same("rebase", *args, "top")
    twins.same("info", "top")
    twins.equal("top")
    everyone_reads(twins, "top", before)


def test_unsafe_rebase_changes_only_the_link(twins):
    build_chain(twins)
    twins.same("rebase", "-u", "-b", "gone", "-F", "raw", "top")
    twins.same("info", "top")
    twins.same("rebase", "-u", "-b", "base", "-F", "qcow2", "top")
    twins.same("info", "--backing-chain", "top")
    twins.equal("top")
    twins.same("rebase", "-u", "-b", "", "top")
    twins.same("info", "top")


@pytest.mark.parametrize("args", [(), ("-d",), ("-q",), ("-b", "base"), ("-p",)])
def test_commit(twins, args):
    build_chain(twins)
    before = flat(twins, twins.ours_dir, "top", twins.qemu)
    theirs, ours = twins.both("commit", *args, "top")
    assert (ours.rc, ours.err) == (theirs.rc, theirs.err)
    assert ours.out.splitlines()[-1:] == theirs.out.splitlines()[-1:]
    below = "base" if "-b" in args else "mid"
    twins.same("info", below)
    twins.same("info", "top")
    twins.equal(below)
    everyone_reads(twins, below, before)
    everyone_reads(twins, "top", before)


def test_commit_leaves_snapshots_what_they_are(tmp_path):
    """QEMU's tool changes what they read from below."""
    p = {n: tmp_path / n for n in ("base", "mid", "top")}
    io = lambda name, *commands: run(program("sterna-io"), "-f", "qcow2", *(w for c in commands for w in ("-c", c)), p[name]).ok()
    img = lambda *args: run(program("sterna-img"), *args)

    def holds(name, tag):
        img("convert", "-f", "qcow2", "-O", "raw", "-l", tag, p[name], tmp_path / "raw").ok()
        return (tmp_path / "raw").read_bytes()

    img("create", "-q", "-f", "qcow2", p["base"], "3M").ok()
    for below, name in (("base", "mid"), ("mid", "top")):
        img("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", p[name]).ok()
    io("base", "write -P 1 0 2M")
    io("mid", "write -P 2 1M 300k")
    img("snapshot", "-c", "old", p["top"]).ok()
    then = holds("top", "old")
    assert then == b"\1" * (1 << 20) + b"\2" * (300 << 10) + b"\1" * (724 << 10) + bytes(1 << 20)
    io("top", "write -P 3 512k 1M", "write -P 4 2500k 100k")
    img("commit", "-q", p["top"]).ok()
    assert holds("top", "old") == then
    io("top", "write -P 5 0 1500k")
    img("commit", "-q", "-b", p["base"], p["top"]).ok()
    assert holds("top", "old") == then
    img("check", "-q", p["top"]).ok()
    img("snapshot", "-c", "inner", p["mid"]).ok()
    r = img("commit", "-b", p["base"], p["top"])
    assert r.rc == 1 and "has snapshots inside, which need what would be written over: commit it by itself" in r.err


def test_commit_empties_the_upper_layer(twins):
    build_chain(twins)
    twins.same("commit", "top")
    r = run(twins.qemu, "map", "--output=json", "top", cwd=twins.ours_dir).ok()
    assert '"depth": 0, "present": true' not in r.out


@pytest.mark.parametrize("args", ["bs=1M", "bs=512 count=3000", "bs=3000 skip=7", "bs=64k skip=2 count=20", "bs=1M skip=900", "bs=1M count=0", "count=1"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_dd(twins, args, fmt):
    twins.sparse("r", 4_000_256, pieces(args, 4_000_000, 10))
    twins.same("dd", "-f", "raw", "-O", fmt, "if=r", "of=x", *args.split())
    twins.same("info", "-f", fmt, "x")
    twins.equal("x", fmt)


def test_bench(twins):
    twins.same("create", "-q", "-f", "qcow2", "x", "3M")
    twins.same("bench", "-c", "100", "x")
    twins.same("bench", "-c", "40", "-w", "--pattern", "7", "-s", "8k", "-S", "64k", "-o", "4k", "-d", "4", "x")
    twins.equal("x")
    twins.same("bench", "-c", "100", "-w", "-d", "4", "--flush-interval", "10", "x")
    twins.same("bench", "-c", "1", "-o", "1G", "x")


def test_rebase_can_compress(twins):
    """-c, as qemu-img has had it since version 9."""
    twins.sparse("a", 1 << 20, [(0, b"a" * (1 << 20))])
    twins.sparse("b", 1 << 20, [(0, b"a" * (1 << 19) + b"b" * (1 << 19))])
    run(twins.ours, "create", "-q", "-f", "qcow2", "-b", "a", "-F", "raw", "x", cwd=twins.ours_dir).ok()
    run(twins.ours, "rebase", "-c", "-b", "b", "-F", "raw", "x", cwd=twins.ours_dir).ok()
    assert "8/16 = 50.00% allocated, 100.00% fragmented, 100.00% compressed" in run(twins.ours, "check", "x", cwd=twins.ours_dir).ok().out
    assert run(twins.qemu, "compare", "x", "a", cwd=twins.ours_dir).rc == 0
    refused = run(twins.ours, "rebase", "-c", "-b", "b", "-F", "raw", "-f", "raw", "a", cwd=twins.ours_dir)
    assert (refused.rc, refused.err) == (1, "qemu-img: Compression not supported for this file format\n")
