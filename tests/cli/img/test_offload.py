# SPDX-License-Identifier: BSD-2-Clause
"""convert -C: copies that the host makes from file to file, on whatever file systems can be made here."""
import os

import pytest
from images import MIB
from loops import source
from sterna import program, reference, run


def img(*args, **kw):
    return run(program("sterna-img"), *args, **kw)


def test_refused_with_what_contradicts_it(twins):
    twins.sparse("disk", MIB)
    for flags in (["-C", "-c"], ["-C", "-S", "4k"], ["-C", "--salvage"], ["-C", "-c", "-O", "qcow2"]):
        twins.same("convert", *flags, "disk", "out")
    for flags in (["-C"], ["-C", "-W", "-m", "3"], ["-C", "-O", "qcow2"], ["-C", "-t", "writethrough"]):
        twins.same("convert", *flags, "disk", "out")
        twins.equal("out")


@pytest.mark.parametrize("kind", ["xfs", "btrfs", "ext4", "here"])
def test_host_copies(loops, tmp_path, kind):
    where = str(tmp_path) if kind == "here" else loops.mount(kind, 512 * MIB)
    size = 16 * MIB - 512
    path = source(where, size)
    with open(path, "r+b") as f:
        f.seek(4 * MIB)
        f.write(os.urandom(6 * MIB))
    files = {("raw", ""): path}
    options = {"": [], "c": ["-o", "cluster_size=2M"]}
    for (fmt, what), name in list(files.items()):
        for kind_, extra in options.items():
            out = os.path.join(where, f"q{kind_}")
            img("convert", "-C", "-f", fmt, "-O", "qcow2", *extra, name, out).ok()
            img("check", out).ok()
            files[("qcow2", kind_)] = out
    for (fmt, what), name in list(files.items()):
        for to in ("raw", "qcow2"):
            out = os.path.join(where, "copy")
            os.sync()
            before = os.statvfs(where)
            img("convert", "-C", "-f", fmt, "-O", to, name, out).ok()
            os.sync()
            after = os.statvfs(where)
            run(reference("qemu-img"), "compare", "-f", "raw", "-F", to, path, out).ok()
            run(reference("qemu-img"), "check", "-f", to, out) if to == "raw" else run(reference("qemu-img"), "check", out).ok()
            assert os.stat(out).st_blocks * 512 < 15 * MIB, "holes stay holes"
            if kind in ("xfs", "btrfs"):
                taken = (before.f_bfree - after.f_bfree) * before.f_frsize
                assert taken < 5 * MIB, f"6 MiB of random data should be shared, not copied: {fmt} {what} to {to} took {taken}"
            os.unlink(out)
