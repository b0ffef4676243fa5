# SPDX-License-Identifier: BSD-2-Clause
"""amend: word for word what qemu-img says, and images that both tools find sound and equal afterwards."""
import os, re, subprocess

import pytest
from sterna import alias, program, reference, run

MIB = 1 << 20

# One command line each; a: version 3, 10 MiB; old: version 2; wide: 64-bit refcounts; snaps: clusters with three
# references; small: a snapshot of another size; sub: subclusters; d: has a data file; e: AES; q: qed.
REFUSED = """
amend
amend a
amend -o
amend -o compat=v3
amend -o compat=v3 a old
amend -p -o compat=v3 a old
amend -x a
amend -o help
amend -p -o help
amend -o help nosuch
amend -o help a
amend -p -o help a
amend -o ? a
amend -o size=3M -o help a
amend -f qcow2 -o help
amend -f qcow2 -o help nosuch x
amend -f luks -o help
amend -f raw -o help
amend -f qed -o help
amend -f nosuch -o help
amend -f nosuch -o size=1M a
amend -o size=3M q
amend -f raw -o size=3M a
amend -t foo -o compat=v3 a
amend -p -t foo -o compat=v3 a
amend --image-opts -f qcow2 -o size=32M driver=qcow2,file.filename=a
amend -o size=3M nosuch
amend -p -o size=3M nosuch
amend -o foo=bar a
amend -p -o foo=bar a
amend -o cluster_size=64k a
amend -o cluster_size=3 a
amend -o preallocation=full a
amend -o preallocation=on a
amend -o compression_type=zstd a
amend -o extended_l2=on a
amend -o encryption=on a
amend -o encrypt.format=luks a
amend -o refcount_bits=64,cluster_size=3 a
amend -o cluster_size=64k,foo=3 a
amend -o size=foo a
amend -o size=foo,cluster_size=64k a
amend -o lazy_refcounts=foo a
amend -o refcount_bits=foo a
amend -o refcount_bits=-1 a
amend -o refcount_bits=0 a
amend -o refcount_bits=3 a
amend -o refcount_bits=128 a
amend -o refcount_bits=99999999999999999999 a
amend -o ,size=3M a
amend -o size=3M, a
amend -o ,, a
amend -o help, a
amend -o size=4M,,help a
amend -o data_file=a,,help a
amend -o data_file=a,,? a
amend -o =3 a
amend -o compat=v3,=,size=3M a
amend -o size a
amend -o compat a
amend -o compat=foo a
amend -o compat=0.42 a
amend -o compat= a
amend -p -o compat=foo a
amend -o backing_file=x a
amend -o backing_file= a
amend -o backing_fmt=qcow2 a
amend -o backing_fmt=qcow2 b
amend -o backing_file=a b
amend -o backing_file=a,backing_fmt=raw b
amend -o encrypt.state=active a
amend -o data_file=x a
amend -o data_file= a
amend -o data_file_raw=on a
amend -o data_file_raw=on d
amend -o size=500 a
amend -p -o size=500 a
amend -o size=8E a
amend -o size=1E a
amend -o lazy_refcounts=on old
amend -o refcount_bits=8 old
amend -o compat=0.10,lazy_refcounts=on a
amend -o compat=0.10,refcount_bits=8 a
amend -o compat=0.10,refcount_bits=8 old
amend -o compat=0.10 wide
amend -p -o compat=0.10 wide
amend -o compat=0.10 small
amend -o compat=0.10,size=11M snaps
amend -o compat=0.10 sub
amend -o compat=0.10 d
amend -o compat=0.10 packed
amend -o refcount_bits=1 snaps
amend -p -o refcount_bits=1 snaps
amend --object
amend --object nosuch,id=a,data=b -o size=3M a
""".strip().splitlines()


def make(twins):
    for options, *rest in [
        (None, "a", "10M"), ("compat=0.10", "old", "10M"), ("refcount_bits=64", "wide", "10M"), (None, "snaps", "10M"),
        (None, "small", "10M"), ("extended_l2=on", "sub", "10M"), ("data_file=raw", "d", "10M"),
        ("compression_type=zstd", "packed", "10M"),
    ]:  # fmt: skip
        twins.same("create", "-q", "-f", "qcow2", *(["-o", options] if options else []), *rest)
    twins.same("create", "-q", "-f", "qed", "q", "10M")
    twins.same("create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "b")
    twins.io("packed", "write -c -P 1 0 64k")
    twins.io("snaps", "write 0 200k")
    for tag in ("one", "two"):
        run(twins.qemu, "snapshot", "-c", tag, "snaps", cwd=twins.theirs_dir).ok()
    twins.copy_theirs("snaps")
    twins.same("snapshot", "-c", "one", "small")
    twins.same("resize", "small", "12M")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    from twins import Twins

    twins = Twins(tmp_path_factory.mktemp("twins"))
    make(twins)
    twins.before = {name: said(twins, name) for name in ("old", "a", "wide", "snaps", "small", "d", "packed")}
    return twins


def said(twins, name):
    return run(twins.ours, "info", "--output=json", name, cwd=twins.ours_dir).out


@pytest.mark.parametrize("line", REFUSED)
def test_refusal_is_word_for_word(made, line):
    made.same(*line.split())


def test_values_that_are_wrong_together(made):
    """Of two mistakes the same one is told."""
    bad = ["compat=foo", "size=500", "backing_file=x", "data_file=x", "data_file_raw=on", "encrypt.state=active",
           "lazy_refcounts=on", "refcount_bits=3", "refcount_bits=1"]  # fmt: skip
    for i, x in enumerate(bad):
        for y in bad[:i]:
            made.same("amend", "-o", f"{x},{y}", "old")


def test_what_was_refused_has_changed_nothing(made):
    """Where theirs may have begun."""
    for name, before in made.before.items():
        assert said(made, name) == before
        assert "No errors" in run(made.qemu, "check", name, cwd=made.ours_dir).ok().out


def alike(twins, name, check=True):
    twins.same("info", name)
    twins.equal(name, "qcow2")
    if check:
        twins.same("check", name)


def test_widths_of_refcounts(twins):
    twins.same("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", "a", "10M")
    twins.io("a", "write -P 1 0 3M", "write -c -P 2 4M 64k", "write -c -P 3 4160k 64k", "write -z 8M 1M", "discard 1M 1M")
    for bits in (1, 64, 32, 2, 8, 4, 16, 16, 64):
        if bits in (1, 2):  # clusters of compressed data have more references
            theirs, ours = twins.both("amend", "-o", f"refcount_bits={bits}", "a")
            assert ours.rc == theirs.rc == 1
            assert "Cannot decrease refcount entry width" in ours.err
            continue
        twins.same("amend", "-p", "-o", f"refcount_bits={bits}", "a")
        alike(twins, "a", check=False)
        run(twins.qemu, "snapshot", "-c", f"s{bits}", "a", cwd=twins.theirs_dir).ok()
        twins.copy_theirs("a")
    twins.same("snapshot", "-d", "s64", "a")
    twins.same("create", "-q", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=1", "b", "64k")
    twins.io("b", "write 0 29k")
    for bits in (64, 1, 16):
        twins.same("amend", "-p", "-o", f"refcount_bits={bits}", "b")
        alike(twins, "b")


def test_widths_do_not_make_the_file_grow_for_ever(tmp_path):
    img = program("sterna-img")
    run(img, "create", "-q", "-f", "qcow2", "a", "1G", cwd=tmp_path).ok()
    sizes = set()
    for i in range(12):
        run(img, "amend", "-o", f"refcount_bits={(64, 1, 16)[i % 3]}", "a", cwd=tmp_path).ok()
        sizes.add(os.path.getsize(tmp_path / "a"))
    assert max(sizes) < 2 * MIB


def test_counters_that_are_wrong_stay_so(twins):
    """A cluster with two references whose counter cannot say so: made wider it still says one, and is then repaired."""
    twins.same("create", "-q", "-f", "qcow2", "-o", "refcount_bits=1,cluster_size=2k", "a", "1M")
    twins.io("a", "write 0 2k")
    with open(os.path.join(twins.theirs_dir, "a"), "r+b") as f:
        l1 = int.from_bytes(f.read(48)[40:], "big")
        f.seek(l1)
        l2 = int.from_bytes(f.read(8), "big") & ~(1 << 63)
        f.seek(l2)
        entry = f.read(8)
        f.seek(l2 + 8)
        f.write(entry)
    twins.copy_theirs("a")
    for args in [("check",), ("check", "-r", "all"), ("amend", "-o", "refcount_bits=2"), ("check",), ("check", "-r", "all"), ("check",)]:
        twins.same(*args, "a")


# What is done to a before it becomes version 2: commands of qemu-io, or a snapshot's name.
ZEROES = {
    "nothing": [],
    "zeroes": ["write -z 0 128k"],
    "allocated zeroes": ["write -P 42 0 1M", "write -z 0 1M"],
    "both": ["write -P 42 0 1M", "write -z -u 0 256k", "write -z 512k 256k", "discard 900k 100k"],
    "in a snapshot": ["write -z 0 128k", "+one", "write -P 42 0 128k"],
    "in a table that is shared": ["write -z 0 128k", "write -P 7 1M 64k", "+one"],
    "shared by snapshots": ["write -P 1 0 256k", "write -z 64k 64k", "+one", "+two", "write -P 3 64k 64k", "+three", "+four", "write -z 0 1M"],
    "hosts that are shared": ["write -P 1 0 256k", "+one", "write -z 0 128k", "+two", "write -P 5 64k 10k", "+three"],
}


def snapshots(twins, name):
    out = twins.same("info", "--output=json", name).out
    import json

    return [s["name"] for s in json.loads(out).get("snapshots", [])]


def contents(tool, folder, name, tag=None):
    out = os.path.join(folder, "flat")
    run(tool, "convert", *(["-l", f"snapshot.name={tag}"] if tag else []), "-O", "raw", name, out, cwd=folder).ok()
    with open(out, "rb") as f:
        data = f.read()
    os.unlink(out)
    return data


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("what", ZEROES)
def test_down_to_version_2(twins, what, backed):
    twins.same("create", "-q", "-f", "qcow2", "base", "1536k")
    twins.io("base", "write -P 99 0 1536k")
    twins.same("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", *(["-b", "base", "-F", "qcow2"] if backed else []), "a", "2M")
    for step in ZEROES[what]:
        if step[0] == "+":
            run(twins.qemu, "snapshot", "-c", step[1:], "a", cwd=twins.theirs_dir).ok()
        else:
            run(reference("qemu-io"), "-c", step, "a", cwd=twins.theirs_dir).ok()
    tags = [None, *(s[1:] for s in ZEROES[what] if s[0] == "+")]
    twins.copy_theirs("a")
    before = {t: contents(twins.qemu, twins.ours_dir, "a", t) for t in tags}
    run(twins.ours, "amend", "-o", "compat=0.10", "a", cwd=twins.ours_dir).ok()
    with open(os.path.join(twins.ours_dir, "a"), "rb") as f:
        head = f.read(128)
    assert head[4:8] == b"\0\0\0\2"
    for tool in (twins.qemu, twins.ours):
        assert {t: contents(tool, twins.ours_dir, "a", t) for t in tags} == before
        r = run(tool, "check", "a", cwd=twins.ours_dir).ok()
        assert "No errors" in r.out
    if not what.startswith(("hosts", "shared")):  # theirs destroys what snapshots have there
        twins.same("amend", "-o", "compat=0.10", "a")
        run(twins.qemu, "amend", "-o", "compat=0.10", "a", cwd=twins.theirs_dir).ok()
        assert {t: contents(twins.qemu, twins.theirs_dir, "a", t) for t in tags} == before
        twins.same("info", "a")
        ours_size, theirs_size = (os.path.getsize(os.path.join(d, "a")) for d in (twins.ours_dir, twins.theirs_dir))
        assert ours_size <= theirs_size + MIB  # what is shared stays shared
        if len(tags) == 1:
            alike(twins, "a")
    for tag in tags[1:]:
        run(twins.qemu, "snapshot", "-a", tag, "a", cwd=twins.ours_dir).ok()
        assert contents(twins.qemu, twins.ours_dir, "a") == before[tag]
    run(twins.ours, "amend", "-o", "compat=1.1,lazy_refcounts=on,refcount_bits=32", "a", cwd=twins.ours_dir).ok()
    for tag in reversed(tags[1:]):
        run(twins.ours, "snapshot", "-d", tag, "a", cwd=twins.ours_dir).ok()
    assert "No errors" in run(twins.qemu, "check", "a", cwd=twins.ours_dir).ok().out


def test_dirty_images(twins):
    for options in ("compat=0.10", "lazy_refcounts=off", "refcount_bits=64", "size=128M"):
        twins.same("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a", "64M")
        subprocess.run([reference("qemu-io"), "-c", "write -P 42 0 128k", "-c", "flush", "-c", "abort", "a"], cwd=twins.theirs_dir,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        twins.copy_theirs("a")
        theirs, ours = twins.both("amend", "-o", options, "a")  # each repairs in its own way
        assert ours.rc == theirs.rc == 0
        assert re.search(r"image 'a' had not been closed: \d+ errors were repaired", ours.err) and "refcount=0 reference=1" in ours.err
        alike(twins, "a")


def test_unknown_features_that_may_be_dropped(twins):
    twins.same("create", "-q", "-f", "qcow2", "a", "64M")
    with open(os.path.join(twins.theirs_dir, "a"), "r+b") as f:
        for at in (80, 88):  # compatible, autoclear: bit 42
            f.seek(at)
            f.write((1 << 42).to_bytes(8, "big"))
    twins.copy_theirs("a")
    twins.same("amend", "-o", "compat=0.10", "a")
    alike(twins, "a")
    twins.same("amend", "-o", "compat=1.1", "a")
    with open(os.path.join(twins.ours_dir, "a"), "rb") as f:
        assert f.read(104)[72:96] == bytes(24)


def test_up_with_lazy_refcounts_and_another_size(twins):
    twins.same("create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=1k", "a", "64M")
    twins.io("a", "write -P 42 42M 64k")
    twins.same("amend", "-o", "compat=1.1,lazy_refcounts=on,size=128M", "a")
    alike(twins, "a")
    twins.same("amend", "-o", "lazy_refcounts=off,size=50M", "a")
    alike(twins, "a")
    twins.same("amend", "-o", "size=0,lazy_refcounts=off", "a")
    twins.same("amend", "-o", "lazy_refcounts", "a")
    twins.same("amend", "-o", "nolazy_refcounts,nolazy_refcounts", "a")
    twins.same("amend", "-o", "lazy_refcounts", "-o", "size=50M", "a")
    alike(twins, "a")
    twins.same("amend", "--image-opts", "-o", "size=51M,size=52M", "driver=qcow2,file.filename=a")
    twins.same("amend", "-t", "none", "-q", "-p", "-o", "size=53M", "a")
    alike(twins, "a")


def test_old_snapshot_tables(twins):
    """Version 2 need not say how large VM state and disk were."""
    twins.same("create", "-q", "-f", "qcow2", "-o", "compat=0.10", "a", "2M")
    twins.io("a", "write -P 1 0 1M")
    run(twins.qemu, "snapshot", "-c", "one", "a", cwd=twins.theirs_dir).ok()
    with open(os.path.join(twins.theirs_dir, "a"), "r+b") as f:
        head = f.read(72)
        at = int.from_bytes(head[64:72], "big")
        f.seek(at)
        entry = f.read(40 + 64)
        extra = int.from_bytes(entry[36:40], "big")
        f.seek(at + 36)
        f.write(bytes(4) + entry[40 + extra:])
    twins.copy_theirs("a")
    twins.same("amend", "-o", "compat=1.1", "a")
    assert "No errors" in run(twins.qemu, "check", "a", cwd=twins.ours_dir).ok().out
    twins.same("snapshot", "-a", "one", "a")
    alike(twins, "a")


def test_zstd_without_compressed_clusters(twins):
    twins.same("create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", "a", "2M")
    twins.io("a", "write -P 1 0 1M")
    twins.same("amend", "-o", "compat=0.10", "a")
    alike(twins, "a")


def test_the_same_backing_file_is_no_change(twins):
    twins.same("create", "-q", "-f", "qcow2", "base", "2M")
    twins.same("create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", "a")
    twins.same("amend", "-o", "backing_file=base,backing_fmt=qcow2,refcount_bits=8", "a")
    alike(twins, "a")


def test_bitmaps_go_with_version_3(twins):
    twins.same("create", "-q", "-f", "qcow2", "a", "2M")
    twins.io("a", "write -P 1 0 1M")
    twins.same("bitmap", "--add", "a", "b0")
    twins.same("amend", "-o", "compat=0.10", "a")
    run(twins.qemu, "check", "-q", "-r", "leaks", "a", cwd=twins.theirs_dir)  # theirs forgets where they are
    assert "No errors" in run(twins.qemu, "check", "a", cwd=twins.ours_dir).ok().out
    twins.equal("a", "qcow2")
    r = run(twins.ours, "info", "a", cwd=twins.ours_dir).ok()
    assert "compat: 0.10" in r.out and r.err == ""


def test_data_files(twins):
    twins.same("create", "-q", "-f", "qcow2", "-o", "data_file=raw", "a", "2M")
    run(twins.qemu, "create", "-q", "-f", "raw", "other", "2M", cwd=twins.theirs_dir).ok()
    run(twins.qemu, "create", "-q", "-f", "raw", "other", "2M", cwd=twins.ours_dir).ok()
    opened = "driver=qcow2,file.filename=a,data-file.driver=file,data-file.filename=raw"
    for name in ("other", "x" * 600, "raw", "", "y" * 2000, "raw"):
        twins.same("amend", "--image-opts", "-o", f"data_file={name}", opened)
        twins.same("info", "a") if name in ("raw", "other") else twins.same("info", "--image-opts", opened)
    twins.same("bitmap", "--add", "a", "b0")
    twins.same("amend", "-o", "data_file=other", "a")
    twins.same("amend", "-o", "data_file_raw=off,refcount_bits=1", "a")
    alike(twins, "a")
    twins.same("create", "-q", "-f", "qcow2", "-o", "data_file=raw,data_file_raw=on", "a", "2M")
    twins.same("amend", "-o", "data_file_raw=on", "a")
    twins.same("info", "a")
    twins.same("amend", "-p", "-o", "data_file_raw=off", "a")
    twins.same("info", "a")
    twins.same("amend", "-o", "data_file_raw=on", "a")


KEYS = ["--object", "secret,id=s0,data=zero", "--object", "secret,id=s1,data=one"]


def copy_ours(twins, name):
    run("cp", os.path.join(twins.ours_dir, name), os.path.join(twins.theirs_dir, name)).ok()


def test_keys(twins):
    """The same changes of keys in a volume and in an image; and what each refuses. Ours makes keys: theirs takes seconds for one."""
    for fmt, name, options in [("luks", "l", "key-secret=s0,iter-time=10"), ("qcow2", "a", "encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10"),
                               ("qcow2", "e", "encrypt.format=aes,encrypt.key-secret=s0")]:  # fmt: skip
        run(twins.ours, "create", *KEYS, "-q", "-f", fmt, "-o", options, name, "1M", cwd=twins.ours_dir).ok()
        copy_ours(twins, name)

    def amend(how, options, secret="s0", *more):
        dotted = ",".join("encrypt." + o for o in options.split(","))
        how("amend", *KEYS, *more, "--image-opts", "-o", dotted, f"driver=qcow2,file.filename=a,encrypt.key-secret={secret}")
        how("amend", *KEYS, *more, "--image-opts", "-o", options, f"driver=luks,file.filename=l,key-secret={secret}")

    def alone(*args):
        r = run(twins.ours, *args, cwd=twins.ours_dir).ok()
        assert r.out == r.err == ""
        copy_ours(twins, "a")
        copy_ours(twins, "l")

    twins.same("amend", *KEYS, "--image-opts", "-o", "encrypt.state=active", "driver=qcow2,file.filename=e,encrypt.key-secret=s0")
    twins.same("amend", *KEYS, "-o", "encrypt.state=active", "a")
    twins.same("amend", "-f", "luks", "-o", "state=active", "l")
    for options in [
        "new-secret=s1", "state=foo", "state=active", "state=active,new-secret=no", "state=active,new-secret=s1,old-secret=s0",
        "state=active,new-secret=s1,iter-time=10,keyslot=0", "state=active,new-secret=s1,iter-time=10,keyslot=9",
        "state=active,new-secret=s1,iter-time=10,keyslot=-1", "state=inactive", "state=inactive,keyslot=0",
        "state=inactive,keyslot=5", "state=inactive,old-secret=s0", "state=inactive,new-secret=s1", "state=active,foo=3",
    ]:  # fmt: skip
        amend(twins.same, options)
    twins.same("amend", *KEYS, "-p", "--image-opts", "-o", "encrypt.state=active,encrypt.new-secret=s1,encrypt.iter-time=10",
               "driver=qcow2,file.filename=a,encrypt.key-secret=s0")  # fmt: skip
    amend(alone, "state=active,new-secret=s1,iter-time=10,keyslot=3")
    amend(twins.same, "state=inactive,keyslot=3,old-secret=s0", "s1")
    amend(twins.same, "state=inactive,old-secret=s0", "s1")
    amend(twins.same, "state=active,new-secret=s0,iter-time=10", "s0")  # does not open it any more
    amend(alone, "state=active,new-secret=s0,iter-time=10,keyslot=5", "s1")
    amend(alone, "state=inactive,old-secret=s1", "s0")
    for tool in (twins.qemu, twins.ours):  # by whichever tool, the key that is left opens both
        for opts in ("driver=qcow2,file.filename=a,encrypt.key-secret=s0", "driver=luks,file.filename=l,key-secret=s0"):
            run(tool, "compare", *KEYS[:2], "--image-opts", opts, opts, cwd=twins.ours_dir).ok()
    amend(twins.same, "state=inactive,old-secret=s0")
    amend(twins.same, "state=inactive,old-secret=s0", "s0", "--force", "-p")
    amend(twins.same, "state=inactive,keyslot=5", "s0", "--force")


@pytest.mark.parametrize("how", ["luks", "aes"])
def test_encrypted_images_down_to_version_2(twins, how):
    twins.same("create", "-q", "-f", "qcow2", "base", "2M")
    twins.io("base", "write -P 99 0 2M")
    iter_time = ",encrypt.iter-time=10" if how == "luks" else ""
    for options in ([], ["-b", "base", "-F", "qcow2"]):
        run(twins.ours, "create", *KEYS, "-q", "-f", "qcow2", "-o", f"encrypt.format={how},encrypt.key-secret=s0{iter_time}", *options, "a", "2M",
            cwd=twins.ours_dir).ok()  # fmt: skip
        opened = "driver=qcow2,file.filename=a,encrypt.key-secret=s0"
        io = [reference("qemu-io"), *KEYS[:2], "--image-opts", opened, "-c"]
        for step in ("write -P 5 0 512k", "write -z 64k 64k", "write -z 1M 256k"):
            run(*io, step, cwd=twins.ours_dir).ok()
        run(twins.ours, "snapshot", *KEYS[:2], "--image-opts", "-c", "one", opened, cwd=twins.ours_dir).ok()
        run(*io, "write -P 6 0 1536k", cwd=twins.ours_dir).ok()
        run(twins.ours, "amend", *KEYS[:2], "--image-opts", "-o", "compat=0.10", opened, cwd=twins.ours_dir).ok()
        run(*io, "read -P 6 0 1536k", cwd=twins.ours_dir).ok()
        run(twins.qemu, "check", *KEYS[:2], "--image-opts", opened, cwd=twins.ours_dir).ok()
        run(twins.ours, "snapshot", *KEYS[:2], "--image-opts", "-a", "one", opened, cwd=twins.ours_dir).ok()
        for step in ("read -P 5 0 64k", "read -P 0 64k 64k", "read -P 5 128k 384k", "read -P 0 1M 256k"):
            r = run(*io, step, cwd=twins.ours_dir).ok()
            assert "verification failed" not in r.out, step
        run(twins.qemu, "check", *KEYS[:2], "--image-opts", opened, cwd=twins.ours_dir).ok()


def test_our_hint_of_qed(tmp_path):
    img, as_qemu = program("sterna-img"), alias(tmp_path, "qemu-img", "sterna-img")
    run(img, "create", "-q", "-f", "qed", "q", "1M", cwd=tmp_path).ok()
    assert "copy_on_read=<bool" in run(img, "amend", "-o", "help", "q", cwd=tmp_path).ok().out
    run(img, "amend", "-o", "copy_on_read=on", "q", cwd=tmp_path).ok()
    assert '"copy-on-read": true' in run(img, "info", "--output=json", "q", cwd=tmp_path).ok().out
    assert run(as_qemu, "amend", "-o", "copy_on_read=on", "q", cwd=tmp_path).rc == 1
