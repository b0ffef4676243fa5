# SPDX-License-Identifier: BSD-2-Clause
"""Images that somebody else has open: which verbs are refused, and which go on, as with qemu-img."""
import contextlib, os, subprocess

import pytest
from sterna import reference

# The folder holds h (the one that is held), other and sink of its format, and over.qcow2 above h.
LINES = """
info h
info -U h
map h
map -U h
check -f FMT h
compare h other
compare -U h other
convert -O raw h x
convert -U -O raw h x
convert -O raw over.qcow2 x
convert -B h -F FMT -O qcow2 over.qcow2 x
convert -n -O FMT other h
convert -O FMT other h
dd if=h of=x
dd -U if=h of=x
dd -O FMT if=other of=h
measure -O raw h
bench -c 1 -f FMT h
bench -w -c 1 -f FMT h
resize -f FMT h 5M
snapshot -l h
snapshot -c s h
rebase -u -f FMT -b '' h
create -q -f FMT h 4M
create -q -f qcow2 -F FMT -b h x
info --backing-chain over.qcow2
map over.qcow2
rebase -u -b h -F FMT over.qcow2
rebase -b h -F FMT over.qcow2
""".strip().splitlines()


@contextlib.contextmanager
def held(folders, fmt, *options):
    """Both folders' h opened by qemu-io until the end of the block; it says so by answering a first command."""
    holders = []
    for folder in folders:
        p = subprocess.Popen([reference("qemu-io"), *options, "-f", fmt, "h"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        p.stdin.write(b"length\n")
        p.stdin.flush()
        p.stdout.readline()
        holders.append(p)
    try:
        yield
    finally:
        for p in holders:
            p.communicate(b"quit\n", timeout=60)


def setting(twins, fmt):
    for name in ("h", "other"):
        twins.same("create", "-q", "-f", fmt, name, "4M")
    twins.same("create", "-q", "-f", "qcow2", "-b", "h", "-F", fmt, "over.qcow2")


def clear(twins):
    for folder in (twins.theirs_dir, twins.ours_dir):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, "x"))


@pytest.mark.parametrize("options", [(), ("-r",)], ids=["writer", "reader"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_beside_another(twins, fmt, options):
    setting(twins, fmt)
    with held((twins.theirs_dir, twins.ours_dir), fmt, *options):
        for line in LINES:
            clear(twins)
            twins.same(*("" if w == "''" else w for w in line.replace("FMT", fmt).split()))


def test_convert_of_a_raw_image_keeps_writers_out(twins):
    """Others read raw images that are being written to; what convert makes is kept, so half-old contents will not do."""
    setting(twins, "raw")
    twins.same("convert", "-n", "-f", "raw", "-O", "raw", "h", "h")
    with held((twins.theirs_dir, twins.ours_dir), "raw"):
        r = twins.same("convert", "-f", "raw", "-O", "qcow2", "h", "x")
        assert r.rc == 1 and 'Failed to get shared "write" lock' in r.err and "[h]" in r.err
