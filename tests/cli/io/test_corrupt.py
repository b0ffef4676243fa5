# SPDX-License-Identifier: BSD-2-Clause
"""Images that are found corrupt while they are used: what is said of it, and what still works then."""
import os

import pytest
from qcow2image import COPIED, Image
from sterna import reference, run

EVERY_CASE = "sanitized"
DATA, ZEROES, NEW = 64 << 10, 2 << 20, 512 << 10


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("made") / "x")
    run(reference("qemu-img"), "create", "-q", "-f", "qcow2", path, "4M").ok()
    run(reference("qemu-io"), "-c", "write -P 1 0 128k", "-c", "write -z 2M 64k", "-c", "write -P 5 2M 64k", "-c", "write -z 2M 64k", path).ok()
    return path


def script(twins, made, damage, *commands):
    image = Image(made)
    damage(image)
    twins.put("x", image.b)
    return twins.script(("x",), *commands)


def l1_is_free(q):
    q.count(q.l1, 0)


AFTER = ["read 0 64k", "read -P 1 0 512", "read 0 0", "read -b 0 512", "readv 0 512 512", "write 0 64k", "write 8M 64k", "write -z 0 64k", "write -c 0 64k",
         "write -f 0 512", "writev 0 512", "discard 0 64k", "length", "map", "alloc 0 64k", "info", "truncate 8M", "flush"]


def test_nothing_works_once_metadata_would_be_overwritten(twins, made):
    r = script(twins, made, l1_is_free, "write 512k 64k", *AFTER)
    assert "Preventing invalid write on metadata (overlaps with active L1 table)" in r.err and r.out.count("No medium found") > 10
    twins.same(("x",), "length")  # says that it is corrupt
    twins.same(("-r", "x"), "read 0 64k", "length")
    twins.same(("-r", "x"), "info")


def misplaced(guest, flags):
    return lambda q: q.put(q.entry(guest), q.get(q.entry(guest)) & ~COPIED | flags | 512)


@pytest.mark.parametrize("guest", [DATA, ZEROES], ids=["data", "zeroes"])
@pytest.mark.parametrize("flags", [COPIED, 0], ids=["ours", "shared"])
@pytest.mark.parametrize("command", ["write {0} 64k", "write {0} 512", "read {0} 64k", "write -z {0} 64k", "discard {0} 64k", "write 0 4M", "map", "alloc 0 4M"])
def test_clusters_that_are_not_aligned(twins, made, guest, flags, command):
    script(twins, made, misplaced(guest, flags), command.format(guest), "read 0 512")


def test_freeing_what_is_not_counted(twins, made):
    script(twins, made, lambda q: q.count(q.data(0), 0), "discard 0 4M", "read 0 64k")


def test_metadata_that_cannot_be_written_in_the_end(twins, made):
    """Which tables those are depends on how far the write got; the words are the same."""
    image = "driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename=x,file.inject-error.0.event=write_aio,file.inject-error.0.errno=28"
    said = []
    for tool, d in zip((twins.qemu, twins.ours), twins.dirs):
        run("cp", made, os.path.join(d, "x")).ok()
        r = run(tool, "--image-opts", "-c", "write 512k 64k", image, cwd=d)
        assert (r.rc, r.out) == (1, "write failed: No space left on device\n")
        said.append({line for line in r.err.splitlines() if "Failed to flush" in line})
    assert said[1] and said[1] <= said[0]


def test_entries_that_make_no_sense(twins):
    """Subclusters that are data and zeroes at once; guest data that is not where a data file has it."""
    for name, options in (("sub", "extended_l2=on"), ("ext", "data_file=data")):
        twins.create("-f", "qcow2", "-o", options, name, "1M")
        for d in twins.dirs:
            run(reference("qemu-io"), "-c", "write 0 128k", name, cwd=d).ok()
        image = Image(os.path.join(twins.dirs[0], name))
        image.put(image.entry(DATA) + (8 if name == "sub" else 0), 1 << 32 | 1 if name == "sub" else COPIED | 1 << 20)
        for command in ["read 0 128k", "write 64k 64k", "write 64k 512"] + ["map"] * (name == "ext"):
            twins.put(name, image.b)
            twins.script((name,), command, "read 0 512")
            twins.script(("-r", name), "read 64k 512")
