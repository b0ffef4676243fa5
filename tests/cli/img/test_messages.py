# SPDX-License-Identifier: BSD-2-Clause
"""What is said about command lines that cannot be carried out: word for word what qemu-img says."""
import os, re

import pytest
from twins import Twins

# One command line each; the folder holds a.qcow2 (10 MiB, empty), b.qcow2 above it, r.raw (3 MiB).
LINES = """
nosuchverb-at-all
--nosuchoption
create
create -f nosuch x 1M
create -f qcow2 x
create -f qcow2 x 1x
create -f qcow2 x 1M 2 3
create -f qcow2 x 1000E
create -f qcow2 x -1
create -Z
create -f
create -f qcow2 -o qqqqqqqq=1 x 1M
create -f qcow2 -o qqqqqqqq x 1M
create -f raw -o cluster_size=4k x 1M
create -f qcow2 -o cluster_size=foo x 1M
create -f qcow2 -o lazy_refcounts=foo x 1M
create -f qcow2 -o refcount_bits=foo x 1M
create -f qcow2 -o compat=foo x 1M
create -f qcow2 -o cluster_size=1 x 1M
create -f qcow2 -o cluster_size=4M x 1M
create -f qcow2 -o refcount_bits=3 x 1M
create -f qcow2 -o compat=0.10,refcount_bits=8 x 1M
create -f qcow2 -o compat=0.10,lazy_refcounts=on x 1M
create -f qcow2 -o compat=0.10,compression_type=zstd x 1M
create -f qcow2 -o compat=0.10,extended_l2=on x 1M
create -f qcow2 -o extended_l2=on,cluster_size=4k x 1M
create -f qcow2 -o preallocation=foo x 1M
create -f qcow2 -o compression_type=foo x 1M
create -f qcow2 -o size=3M x 4M
create -f qcow2 x 7E
create -f qcow2 /nosuchfolder/x 1M
create /nosuchfolder/x 1M
create nosuchproto:x 1M
create -f qcow2 -b a.qcow2 x
create -f qcow2 -b nosuch -F qcow2 x
create -f qcow2 -b a.qcow2 -F nosuch x
create -f raw -b a.qcow2 -F qcow2 x
create -f raw -F qcow2 x 1M
create -f qcow2 -b x -F qcow2 x
create -f qcow2 -b '' -F qcow2 x
create -q --object nosuch,id=a,data=b x 1M
info
info nosuch
info a.qcow2 b.qcow2
info --output=xml a.qcow2
info --output
info -f nosuch a.qcow2
info -f qcow2 r.raw
info --image-opts -f qcow2 a.qcow2
info --image-opts a.qcow2
info --image-opts driver=qcow2,file.driver=file,file.filename=nosuch
info --image-opts driver=nosuch,file.filename=a.qcow2
info ''
info json:{
check
check nosuch
check r.raw
check -r foo a.qcow2
check -T foo a.qcow2
check -f qcow2 r.raw
map
map nosuch
map -s foo a.qcow2
map -l foo a.qcow2
compare
compare a.qcow2
compare a.qcow2 b.qcow2 r.raw
compare nosuch a.qcow2
compare a.qcow2 nosuch
compare -T foo a.qcow2 b.qcow2
compare -F nosuch a.qcow2 b.qcow2
convert
convert a.qcow2
convert -O nosuch a.qcow2 x
convert nosuch x
convert a.qcow2 nosuch x
convert -O raw -o qqqqqqqq=1 a.qcow2 x
convert -O raw a.qcow2 /nosuchfolder/x
convert -n -O raw r.raw nosuch
convert -n -O raw a.qcow2 r.raw
convert -O raw r.raw r.raw
convert -O qcow2 b.qcow2 b.qcow2
convert -S 3 r.raw x
convert -S 1G r.raw x
convert -m 99 r.raw x
convert -m 0 r.raw x
convert -c -O raw r.raw x
convert -t foo r.raw x
convert -T foo r.raw x
convert -r foo r.raw x
convert -B a.qcow2 -O qcow2 b.qcow2 x
convert -B a.qcow2 -F qcow2 -O raw b.qcow2 x
convert -B a.qcow2 -F qcow2 -O qcow2 b.qcow2 a.qcow2 x
convert -c -o preallocation=full -O qcow2 b.qcow2 x
convert --target-image-opts a.qcow2 driver=raw,file.filename=x
convert --target-is-zero a.qcow2 x
resize
resize a.qcow2
resize a.qcow2 1x
resize a.qcow2 5M
resize a.qcow2 -5M
resize a.qcow2 -50M
resize a.qcow2 0
resize nosuch 5M
resize --preallocation=foo a.qcow2 20M
resize --preallocation=full a.qcow2 10M
resize -f qcow2 r.raw 5M
rebase
rebase b.qcow2
rebase -b nosuch -F qcow2 b.qcow2
rebase -b a.qcow2 -F nosuch b.qcow2
rebase -u -b a.qcow2 b.qcow2
rebase -u -f raw -b a.qcow2 -F raw nosuch
rebase -t foo -u -b '' b.qcow2
rebase -T foo -u -b '' b.qcow2
commit
commit nosuch
commit a.qcow2
commit -b nosuch b.qcow2
commit -t foo b.qcow2
dd
dd if=a.qcow2
dd if=a.qcow2 of=x bs=foo
dd if=a.qcow2 of=x bs=0
dd if=a.qcow2 of=x count=foo
dd if=a.qcow2 of=x foo=1
dd if=nosuch of=x
dd if=a.qcow2 of=/nosuchfolder/x
dd -O nosuch if=a.qcow2 of=x
measure
measure a.qcow2 b.qcow2
measure -f raw
measure --size 1 a.qcow2
measure -O nosuch a.qcow2
measure -O qcow2 -o qqqqqqqq=1 --size 1
measure -O qcow2 -o cluster_size=3 --size 1
measure --size foo
measure nosuch
bench
bench -c foo a.qcow2
bench -s foo a.qcow2
bench -t foo a.qcow2
bench --flush-interval 2 a.qcow2
bench -w --flush-interval 2 -d 4 a.qcow2
bench -w --pattern 300 a.qcow2
bench nosuch
bench -i native a.qcow2
bench -n a.qcow2
info /proc/version
convert /proc/version x
info null-co://,size=3
info json:[]
info json:
convert -n -O raw --target-image-opts a.qcow2 driver=raw,file.filename=r.raw
convert -r 0 -O raw a.qcow2 x
create --object secret x 1M
info blkdebug:nosuch:a.qcow2
create -u -f qcow2 -b r.raw x 1M
create -u -f qcow2 -b r.raw x
info file:/dev/null
info host_device:/dev/null
info host_device:r.raw
""".strip().splitlines()


def make(twins):
    twins.same("create", "-q", "-f", "qcow2", "a.qcow2", "10M")
    twins.same("create", "-q", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "b.qcow2")
    twins.sparse("r.raw", 3 << 20, [(4096, b"x" * 5000)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One pair of folders for all: a command line that is refused leaves nothing behind that another would see."""
    twins = Twins(tmp_path_factory.mktemp("twins"))
    make(twins)
    return twins


@pytest.mark.parametrize("line", LINES)
def test_refusal_is_word_for_word(made, line):
    twins = made
    for folder in (twins.theirs_dir, twins.ours_dir):
        if os.path.exists(os.path.join(folder, "x")):
            os.unlink(os.path.join(folder, "x"))
    twins.same(*("" if w == "''" else w for w in line.split()), ignore=[
        (re.compile(r"Image '[^']*' is not in"), "Image is not in"),  # and names the image
        (re.compile(r"(Could not parse the JSON options: ).*"), r"\1"),  # each JSON parser has words of its own
    ])


def test_a_near_miss_names_what_may_have_been_meant(twins):
    make(twins)
    for args, hint in [
        (["create", "-f", "qcow2", "-o", "clustersize=4k", "x", "1M"], "did you mean 'cluster_size'?"),
        (["convret", "a", "b"], "did you mean 'convert'?"),
    ]:
        theirs, ours = twins.both(*args)
        assert ours.rc == theirs.rc == 1
        assert hint in ours.err and ours.err.startswith(theirs.err.splitlines()[0])


def test_target_is_zero_is_refused_where_a_backing_file_shows_through(twins):
    make(twins)
    _, ours = twins.both("convert", "-n", "--target-is-zero", "-O", "qcow2", "a.qcow2", "b.qcow2")
    assert ours.rc == 1
    assert ours.err == "qemu-img: Cannot use --target-is-zero when the destination image has a backing file\n"


def test_all_words_for_on_and_off(twins):
    for word in ("on", "yes", "true", "y", "off", "no", "false", "n", "maybe", "", "ON"):
        twins.same("create", "-q", "-f", "qcow2", "-o", f"lazy_refcounts={word}", "a", "1M")
        twins.same("info", "a")


def test_a_plain_file_is_a_format(twins):
    twins.same("create", "-f", "file", "p", "1000")
    twins.same("create", "-f", "file", "-o", "size=2M,preallocation=falloc", "q")
    twins.same("create", "-f", "file", "-o", "cluster_size=4096", "q", "1M")
    twins.same("create", "-f", "null-co", "q", "1M")
    twins.same("info", "-f", "raw", "p")
