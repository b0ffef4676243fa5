# SPDX-License-Identifier: BSD-2-Clause
"""Images of every kind, new and used, ours and theirs: both tools say the same about them."""
import os

import pytest
from images import look
from sterna import program, run

KINDS = [
    "compat=0.10",
    "compat=1.1",
    "compat=v2,cluster_size=512",
    "cluster_size=512",
    "cluster_size=4k",
    "cluster_size=2M",
    "refcount_bits=1",
    "refcount_bits=8",
    "refcount_bits=64",
    "lazy_refcounts=on",
    "extended_l2=on,cluster_size=16k",
    "extended_l2=on,cluster_size=128k",
    "compression_type=zstd",
    "preallocation=metadata",
    "preallocation=falloc",
    "preallocation=full",
    "data_file=data",
    "data_file=data,data_file_raw=on",
]

@pytest.mark.parametrize("options", KINDS)
def test_new_image_looks_the_same(twins, options):
    twins.same("create", "-f", "qcow2", "-o", options, "x", "3M")
    # where tables lie is an implementation's choice, so everything is asked of one and the same file
    look_at_theirs(twins, "x", options)
    twins.equal("x")


def look_at_theirs(twins, name, options=""):
    before = {n: open(os.path.join(twins.ours_dir, n), "rb").read() for n in os.listdir(twins.ours_dir)}
    for n in os.listdir(twins.theirs_dir):
        twins.share_theirs(n)
    look(twins, name)
    for n, data in before.items():
        os.unlink(os.path.join(twins.ours_dir, n))
        with open(os.path.join(twins.ours_dir, n), "wb") as f:
            f.write(data)


@pytest.mark.parametrize("options", KINDS)
def test_they_find_in_ours_what_we_find(twins, options):
    """The reverse: their tool looks at what ours made."""
    twins.same("create", "-f", "qcow2", "-o", options, "x", "3M")
    for n in os.listdir(twins.ours_dir):
        with open(os.path.join(twins.ours_dir, n), "rb") as f, open(os.path.join(twins.theirs_dir, n), "wb") as t:
            t.write(f.read())
        twins.share_theirs(n)
    look(twins, "x")


@pytest.mark.parametrize("options", [k for k in KINDS if "data_file" not in k])
def test_used_image_looks_the_same(twins, options):
    twins.same("create", "-q", "-f", "qcow2", "-o", options, "x", "3M")
    twins.io("x", "write -P 1 64k 200k", "write -P 2 1000k 512", "write -z 1500k 300k", "discard 100k 100k", "write -P 3 3145216 512", copy=False)
    look(twins, "x", extents_only="extended_l2" in options)


def test_the_hint_to_copy_on_read_lasts_and_disturbs_nobody(twins, tmp_path):
    """A compatible feature: kept by all that writes the header, by theirs too."""
    own = program("sterna-img")
    ours = os.path.join(twins.ours_dir, "x")
    run(own, "create", "-q", "-f", "qcow2", "base", "3M", cwd=twins.ours_dir).ok()
    run(own, "create", "-q", "-f", "qcow2", "-o", "copy_on_read=on", "-b", "base", "-F", "qcow2", "x", cwd=twins.ours_dir).ok()
    for tool in (own, twins.qemu):
        for args in (["check", "-r", "all", "x"], ["resize", "x", "+1M"], ["snapshot", "-c", "one", "x"], ["rebase", "-u", "-b", "base", "-F", "qcow2", "x"],
                     ["bitmap", "--add", "x", f"b{tool == own}"], ["snapshot", "-d", "one", "x"]):
            run(tool, *args, cwd=twins.ours_dir).ok()
            assert '"copy-on-read": true' in run(own, "info", "--output=json", "x", cwd=twins.ours_dir).out, args
    for value in ("off", "on"):
        run(own, "amend", "-o", f"copy_on_read={value}", "x", cwd=twins.ours_dir).ok()
        assert ("copy-on-read" in run(own, "info", "--output=json", "x", cwd=twins.ours_dir).out) == (value == "on")
    run(own, "amend", "-o", "lazy_refcounts=on", "x", cwd=twins.ours_dir).ok()
    assert "copy-on-read" in run(own, "info", "--output=json", "x", cwd=twins.ours_dir).out
    run(own, "amend", "-o", "compat=v2", "x", cwd=twins.ours_dir).ok()
    assert run(own, "amend", "-o", "copy_on_read=on", "x", cwd=twins.ours_dir).rc == 1
    run(own, "amend", "-o", "compat=v3", "x", cwd=twins.ours_dir).ok()
    assert "copy-on-read" not in run(own, "info", "--output=json", "x", cwd=twins.ours_dir).out
    assert "copy" not in run(twins.ours, "create", "-f", "qcow2", "-o", "help").out
    assert "copy_on_read" in run(own, "create", "-f", "qcow2", "-o", "help").out
    assert run(own, "create", "-q", "-f", "qcow2", "-o", "copy_on_read=on,compat=0.10", ours, "1M").rc == 1
