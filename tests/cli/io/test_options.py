# SPDX-License-Identifier: BSD-2-Clause
"""Options of the command line, formats and backing chains, beside qemu-io."""
import os, re

import pytest
from iotwins import run


def test_command_lines_that_are_wrong(twins):
    """qemu-io shows its whole help then, we ours; what stands before it is the same."""
    bare = lambda text: text.replace(os.path.dirname(twins.qemu) + "/", "").replace(os.path.dirname(twins.ours) + "/", "")
    for args in (("-x",), ("--foo",), ("-c",), ("--cmd",), ("a", "b"), ("-q",), ("-g",), ("-f",), ("-rx",), ("--read-only=5", "raw")):
        theirs, ours = (run(tool, *args, cwd=d) for tool, d in zip((twins.qemu, twins.ours), twins.dirs))
        assert (ours.rc, bare(ours.err)) == (theirs.rc, bare(theirs.err)), args
        assert ours.out.startswith("Usage: qemu-io [OPTIONS]... [-c STRING]... [file]\n")


def test_options(twins):
    twins.raw()
    cases = """nope|-f raw nope|-f foo raw|-t foo raw|-d foo raw|-i foo raw|--image-opts -f raw driver=raw|--image-opts driver=raw,file.filename=raw -c length
-U -f raw raw|-U -r -f raw raw -c length|-n -f raw raw -c length|-k -f raw raw -c length|-nk -f raw raw -c length|-i native -f raw raw
-C -f raw raw -c length|-Cr -f raw raw -c length|-r -f raw nope|--image-opts driver=foo|-d unmap -f raw raw -c length|--cache=none -f raw raw -c length
-f qcow2 raw|-f raw -f raw raw -c length|--rea -f raw raw -c length|-t writethrough -f raw raw -c length|-t directsync -f raw raw -c length|-t unsafe -f raw raw -c length
raw -c length|-r raw -c length|-s raw -c length|--image-opts file.filename=raw -c length|--image-opts driver=raw,file.driver=file,file.filename=raw -c info
--image-opts driver=raw|--image-opts file.driver=file|--image-opts foo=bar|-i io_uring -f raw raw -c length|-i threads -f raw raw -c length|-m -f raw raw -c length
--object foo raw|-c quit nope|-d ignore -f raw raw -c length|-f file raw -c info|file:raw -f raw -c length|nosuch:raw -f raw -c length|-f raw -c length -- raw"""
    for case in cases.replace("\n", "|").split("|"):
        twins.run(*case.split(" "))


@pytest.mark.parametrize("cache", ["none", "writeback", "writethrough", "directsync", "unsafe"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_cache_modes_and_buffers_off_alignment(twins, cache, fmt):
    twins.create("-f", fmt, "disk", "2M")
    twins.script(("-m", "-t", cache, "-f", fmt, "disk"), "write -P 3 0 64k", "write -P 4 1000 3000", "write -P 5 70000 1", "read -P 3 0 1000", "read -P 4 1000 3000",
                 "read -P 5 70000 1", "aio_write -P 6 100000 50000 7", "aio_flush", "readv -P 6 100000 7 50000", "write -z 200000 1000", "discard 0 64k", "flush",
                 "read -v 69990 20")


def test_discard_is_passed_on_unless_told_not_to(twins):
    for mode, left in ((None, 0), ("unmap", 0), ("on", 0), ("ignore", 5), ("off", 5)):
        twins.raw(data=b"\5" * 65536)
        twins.script((*(("-d", mode) if mode else ()), "-f", "raw", "raw"), "discard 4k 8k", f"read -P {left} 4k 8k", "read -P 5 0 4k")


def test_a_throw_away_layer(twins):
    twins.raw(data=b"\5" * 4096)
    twins.script(("-s", "-f", "raw", "raw"), "read -P 5 0 4k", "write -P 6 0 1k", "read -P 6 0 1k", "read -P 5 1k 3k", "info", "map")
    a, b = twins.get("raw")
    assert a == b and a[:4096] == b"\5" * 4096


def test_copy_on_read(twins):
    twins.raw("base", data=b"\7" * (1 << 20))
    twins.create("-f", "qcow2", "-b", "base", "-F", "raw", "top", "2M")
    twins.script(("-C", "top"), "map", "read -P 7 100k 5", "map", "read -P 0 1M 64k", "map", "info", "reopen -o lazy-refcounts=on", "read -P 7 0 64k", "map")
    twins.script(("top",), "map", "read -P 7 0 1M")


def test_a_chain(twins):
    twins.raw("base", data=b"\7" * (1 << 20))
    twins.create("-f", "qcow2", "-b", "base", "-F", "raw", "mid", "3M")
    twins.create("-f", "qcow2", "-b", "mid", "-F", "qcow2", "top", "3M")
    twins.script(("mid",), "write -P 8 64k 64k", "write -z 192k 64k")
    twins.script(("top",), "map", "alloc 0 1M", "write -P 9 128k 64k", "write -P 1 1000000 100", "map", "alloc 0 3M", "read -P 8 64k 64k", "read -P 0 192k 64k",
                 "read -P 7 256k 64k", "read -P 0 1M 1M", "discard 128k 64k", "map", "truncate 4M", "length", "read -P 0 3M 1M", "map")


def test_compressed_clusters(twins):
    twins.create("-f", "qcow2", "disk", "2M")
    twins.script(("disk",), "write -c -P 3 0 64k", "write -c -P 4 64k 32k", "write -c 200k 512", "write -c 2M 64k", "write -c -P 5 1984k 64k", "read -P 3 0 64k",
                 "read -P 4 64k 32k", "map", "write -P 6 1k 64k", "read -P 6 1k 64k", "write -c 512k 1M", "map")
    twins.raw()
    twins.script(("-f", "raw", "raw"), "write -c 0 64k", "write -b 0 512", "read -b 0 512")


def test_the_machines_state(twins):
    twins.create("-f", "qcow2", "disk", "2M")
    twins.script(("disk",), "write -b -P 3 0 64k", "write -b -P 4 1M 512", "read -b -P 3 0 64k", "read -b -P 4 1M 512", "read -b 2M 512", "write -b 5 5", "read -b -v 0 512",
                 "length", "write -bC 0 512", "read -bq 0 512")


def test_reopening_a_qcow2_image(twins):
    twins.create("-f", "qcow2", "base", "2M")
    twins.create("-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    for c in ("", " -o node-name=foo", " -o file.node-name=foo", " -o backing.node-name=foo", " -o driver=raw", " -o file.driver=qcow2", " -o backing.driver=file",
              " -o driver=qcow2", " -o file.driver=file", " -o backing.driver=qcow2", " -o lazy-refcounts=on", " -r", " -o overlap-check=all",
              " -o overlap-check.template=none", " -o cache-size=1M", " -o data-file.driver=file", " -o cache-clean-interval=3", " -o l2-cache-size=1T",
              " -o l2-cache-entry-size=513", " -o l2-cache-entry-size=512", " -o backing.foo=x", " -o backing.read-only=off", " -o backing=foo", " -c none",
              " -o pass-discard-request=off", " -o backing.backing.driver=x", " -o lazy-refcounts=foo", " -o file.cache.direct=on", " -o data-file=x"):
        twins.script(("top",), "write -q -P 5 0 64k", "reopen" + c, "write -P 3 64k 64k", "read -P 3 64k 64k", "read -P 5 0 512", "map")
    twins.script(("-r", "top"), "write 0 512", "reopen -w", "write 1M 512", "reopen -r", "write 0 512", "read -P 0xcd 1M 512", "reopen -w", "write 1M 512")
    for d in twins.dirs:
        run(twins.img, "check", "top", cwd=d).ok()


@pytest.mark.parametrize("script", [
    "open -r -o file.read-only=on top|reopen -w|write 0 512|reopen -o file.read-only=off|reopen -w|write 0 512",
    "open -r top|reopen -w|write 0 512|reopen -r|reopen -o file.read-only=off|write 0 512|reopen -w|write 0 512",
    "open top|reopen -o file.read-only=on|reopen -r|reopen -w|write 0 512",
    "open top|reopen -o backing.read-only=off|reopen -r|write 0 512|reopen -w|write 0 512",
    "open -r top|reopen -o file.auto-read-only=on|reopen -w|write 0 512|reopen -r|reopen -o auto-read-only=on,read-only=off|write 0 512",
    "open top|reopen -o file.locking=off|reopen -o file.locking=auto|reopen -o file.discard=ignore|reopen -o file.detect-zeroes=on|write 0 512",
    "open top|reopen -o backing.driver=qcow2,backing.file.driver=file|reopen -o backing.file.filename=base|reopen -o backing.file.filename=x",
    "open -o file.node-name=f,backing.node-name=b top|reopen -o file=f|reopen -o backing=b|reopen -o backing.detect-zeroes=on|reopen -o file=b",
    "open -o driver=qcow2,file.driver=blkdebug,file.image.driver=file,file.image.filename=top|reopen -r|write 0 512|reopen -w|write 0 512|reopen -o file.image.read-only=on"])
def test_reopening_what_was_told_itself(twins, script):
    """What was said of a child holds when the node above changes, and what was not follows."""
    twins.create("-f", "qcow2", "base", "1M")
    twins.create("-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    twins.run(stdin=script.replace("|", "\n") + "\n")


def test_an_image_in_use(twins):
    """Each of the two keeps the other out, as it does its own kind."""
    twins.raw()
    import subprocess, time
    for holder, folder in zip((twins.qemu, twins.ours), twins.dirs):
        p = subprocess.Popen([holder, "-f", "raw", "raw"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert os.read(p.stdout.fileno(), 100) == b"qemu-io> "
            for args in (("-f", "raw", "raw"), ("-r", "-f", "raw", "raw"), ("-rU", "-f", "raw", "raw", "-c", "length")):
                a, b = (run(tool, *args, cwd=folder) for tool in (twins.qemu, twins.ours))
                assert (a.rc, a.out, a.err) == (b.rc, b.out, b.err)
        finally:
            p.communicate(b"quit\n", timeout=60)


def test_nodes_that_are_named_but_not_there(twins):
    twins.create("-f", "qcow2", "x", "1M")
    for options in ("driver=qcow2,file=nobody", "driver=qcow2,file.filename=x,backing=nobody", "driver=raw,file=nobody"):
        twins.run("--image-opts", "-c", "read 0 512", options)
