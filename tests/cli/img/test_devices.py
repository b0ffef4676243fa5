# SPDX-License-Identifier: BSD-2-Clause
"""Block devices (loop devices, where the machine lets us make them), other special files, and copies by the host."""
import json, os, shutil, subprocess, tempfile

import pytest
from images import MIB
from loops import source
from sterna import program, reference, run


def img(*args, **kw):
    return run(program("sterna-img"), *args, **kw)


def io(*args, **kw):
    return run(program("sterna-io"), *args, **kw)


# --- block devices ----------------------------------------------------------------------------------------------------

def test_seen_like_others_see_it(twins, loops):
    device = loops.make("disk", 4 * MIB)
    for args in (["info", device], ["info", "--output=json", device], ["info", "-f", "host_device", device],
                 ["map", "--output=json", "-f", "raw", device], ["map", "-f", "raw", device],
                 ["info", "--image-opts", f"driver=file,filename={device}"],
                 ["info", "--image-opts", f"driver=host_device,filename={device}"],
                 ["create", "-f", "raw", device, "4M"], ["create", "-f", "raw", device, "1M"], ["create", "-f", "raw", device, "5M"],
                 ["create", "-f", "raw", "-o", "help", device], ["create", "-f", "raw", "-o", "preallocation=full", device, "1M"],
                 ["create", "-f", "qcow2", device, "8M"], ["info", device], ["check", device],
                 ["resize", "-f", "raw", device, "8M"], ["resize", "-f", "raw", "--shrink", device, "1M"]):
        twins.same(*args)


@pytest.mark.parametrize("sector", ["512", "4096"])
@pytest.mark.parametrize("cache", ["none", "writeback"])
def test_contents(loops, tmp_path, sector, cache):
    size = 8 * MIB
    device, path = loops.make("disk", 16 * MIB, "-b", sector), source(str(tmp_path), size)
    img("convert", "-n", "-t", cache, "-f", "raw", "-O", "raw", path, device).ok()
    run(reference("qemu-img"), "compare", "-f", "raw", "-F", "raw", path, device).ok()
    img("convert", "-t", cache, "-f", "raw", "-O", "qcow2", path, device).ok()
    img("check", device).ok()
    run(reference("qemu-img"), "compare", "-f", "raw", "-F", "qcow2", path, device).ok()
    back = str(tmp_path / "back")
    img("convert", "-T", cache, "-O", "raw", device, back).ok()
    assert open(back, "rb").read() == open(path, "rb").read()


@pytest.mark.parametrize("sector", ["512", "4096"])
def test_any_byte(loops, sector):
    """Requests finer than the device's blocks, with O_DIRECT."""
    device = loops.make("disk", MIB, "-b", sector)
    io("-t", "none", "-f", "raw", "-c", "write -P 1 0 1M", "-c", "write -P 2 1000 5000", "-c", "write -z 100000 3333",
       "-c", "read -P 1 0 1000", "-c", "read -P 2 1000 5000", "-c", "read -P 1 6000 94000", "-c", "read -P 0 100000 3333",
       "-c", "read -P 1 103333 900000", device).ok()


def test_space_is_given_back(loops, tmp_path):
    device = loops.make("disk", 8 * MIB)
    used = lambda: os.stat(tmp_path / "disk").st_blocks * 512
    io("-d", "unmap", "-f", "raw", "-c", "write -P 1 0 8M", "-c", "flush", device).ok()
    full = used()
    assert full >= 8 * MIB
    io("-d", "unmap", "-f", "raw", "-c", "discard 1M 1M", "-c", "write -z -u 4M 2M", "-c", "read -P 0 4M 2M", "-c", "flush", device).ok()
    assert used() <= full - 3 * MIB
    io("-d", "unmap", "-f", "raw", "-c", "write -z 0 512", "-c", "write -z 6M 1M", "-c", "read -P 0 6M 1M", "-c", "read -P 1 512 100k", device).ok()


def test_read_only(loops):
    device = loops.make("disk", MIB, "-r")
    for tool in (program("sterna-io"), reference("qemu-io")):
        r = run(tool, "-f", "raw", "-c", "write 0 512", device)
        assert r.rc == 1 and f"can't open device {device}: " in r.err and "Permission denied" in r.err
        run(tool, "-r", "-f", "raw", "-c", "read -P 0 0 1M", device).ok()
    img("info", "json:" + json.dumps({"driver": "host_device", "filename": device, "auto-read-only": True})).ok()
    r = img("create", "-f", "raw", device, "1M")
    assert r.rc == 1 and "Permission denied" in r.err


def test_other_sizes_are_noticed(loops, tmp_path):
    device = loops.make("disk", 4 * MIB)
    p = subprocess.Popen([program("sterna-io"), "-f", "raw", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        p.stdin.write("length\n")
        p.stdin.flush()
        assert "4 MiB" in p.stdout.readline()
        with open(tmp_path / "disk", "ab") as f:
            f.truncate(6 * MIB)
        run("losetup", "-c", device).ok()
        out, _ = p.communicate("truncate 7M\ntruncate 6M\nlength\nwrite 5M 512k\nquit\n", timeout=60)
        assert "Cannot grow device files" in out and "6 MiB" in out and "wrote 524288/524288" in out
    finally:
        p.kill()


def test_locks_are_for_files(loops):
    """Two programs may have a device open for writing, as with the established tools: its users see to it themselves."""
    device = loops.make("disk", MIB)
    p = subprocess.Popen([program("sterna-io"), "-f", "raw", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        p.stdin.write("write 0 512\n")
        p.stdin.flush()
        p.stdout.readline()
        ours = run(program("sterna-io"), "-f", "raw", "-c", "write 0 512", device)
        theirs = run(reference("qemu-io"), "-f", "raw", "-c", "write 0 512", device)
        assert ours.rc == theirs.rc and ours.err.replace("sterna-io", "qemu-io") == theirs.err
    finally:
        p.stdin.close()
        p.wait()


# --- other special files ----------------------------------------------------------------------------------------------

def test_special_files(twins):
    os.mkdir(os.path.join(twins.theirs_dir, "folder"))
    os.mkdir(os.path.join(twins.ours_dir, "folder"))
    for name in ("/dev/null", "/dev/zero", "folder", "missing", "/dev/fd/99"):
        twins.same("info", name)
    for driver in ("file", "host_device"):
        for name in ("/dev/null", "folder"):
            twins.same("info", "--image-opts", f"driver={driver},filename={name}")


def test_pipes_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    r = img("info", str(tmp_path / "pipe"), timeout=60)
    assert r.rc == 1 and "to be a regular file" in r.err


def test_permissions():
    """What somebody else than the owner of a file is told."""
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, and setpriv to become somebody else")
    somebody = ["setpriv", "--reuid=65534", "--clear-groups"]
    with tempfile.TemporaryDirectory(prefix="sterna-") as top:
        os.chmod(top, 0o755)
        for name, mode in (("readable", 0o444), ("secret", 0o600)):
            with open(os.path.join(top, name), "wb") as f:
                f.truncate(MIB)
            os.chmod(os.path.join(top, name), mode)
        tools = [reference("qemu-img"), os.path.join(top, "qemu-img")]
        shutil.copy(program("sterna-img"), tools[1]) # somebody may not get at where it was built
        for args in (["info", "readable"], ["info", "secret"], ["resize", "-f", "raw", "readable", "2M"], ["create", "-f", "raw", "new", "1M"],
                     ["create", "-f", "qcow2", "readable", "1M"], ["create", "-f", "raw", "secret", "1M"]):
            theirs, ours = (run(*somebody, tool, *args, cwd=top) for tool in tools)
            assert (ours.rc, ours.err) == (theirs.rc, theirs.err), args


# --- space ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def small(tmp_path):
    """A file system of 1 MiB."""
    where = tmp_path / "small"
    where.mkdir()
    if os.geteuid() != 0 or run("mount", "-t", "tmpfs", "-o", "size=1M", "none", where).rc:
        pytest.skip("no file system of our own here: needs root")
    yield str(where)
    run("umount", where)


@pytest.mark.parametrize("mode", ["falloc", "full"])
def test_no_space_for_preallocation(small, mode):
    for tool in (program("sterna-img"), reference("qemu-img")):
        path = os.path.join(small, "disk")
        r = run(tool, "create", "-f", "raw", "-o", f"preallocation={mode}", path, "8M")
        what = "Could not preallocate new data" if mode == "falloc" else "Could not write zeros for preallocation"
        assert r.rc == 1 and r.err.endswith(f"{path}: {what}: No space left on device\n"), r.err
        run(tool, "create", "-f", "raw", path, "128k").ok()
        r = run(tool, "resize", "-f", "raw", f"--preallocation={mode}", path, "8M")
        assert r.rc == 1 and r.err.endswith(f"{what}: No space left on device\n"), r.err
        assert os.stat(path).st_size == 131072
        os.unlink(path)


def test_no_space_for_data(small, tmp_path):
    path = source(str(tmp_path), 4 * MIB)
    for fmt in ("raw", "qcow2"):
        r = img("convert", "-S", "0", "-f", "raw", "-O", fmt, path, os.path.join(small, "disk"))
        assert r.rc == 1 and "No space left on device" in r.err
        run("rm", "-f", os.path.join(small, "disk"))
