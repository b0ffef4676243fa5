# SPDX-License-Identifier: BSD-2-Clause
"""The format live-copy as tools see it, and `copy`, which is killed at random moments and gone on with."""
import json, os, random, re, signal, subprocess, time

import pytest
from sterna import LONG, program, reference, run

MB = 1 << 20
IMG = program("sterna-img")
KILLS = 60 if LONG else 6


@pytest.fixture
def img(tmp_path):
    def call(*args, **kw):
        return run(IMG, *args, cwd=tmp_path, **kw)
    return call


def fill(path, size, pieces, seed=1):
    """A sparse file with random pieces of (offset, length)."""
    r = random.Random(seed)
    with open(path, "wb") as f:
        for off, n in pieces:
            f.seek(off)
            f.write(r.randbytes(n))
        f.truncate(size)


@pytest.fixture
def pair(tmp_path, img):
    """s.raw with contents, d.qcow2 empty, x.lc of both."""
    fill(tmp_path / "s.raw", 16 * MB, [(0, MB), (5 * MB + 1000, 3 * MB), (16 * MB - 5000, 5000)])
    img("create", "-q", "-f", "qcow2", "d.qcow2", "16M").ok()
    img("create", "-q", "-f", "live-copy", "-o", "source=s.raw,source_fmt=raw,destination=d.qcow2,region_size=64k", "x.lc").ok()


def info(img, name="x.lc", *more):
    return json.loads(img("info", "--output=json", *more, name).ok().out)["format-specific"]["data"]


def same(img, a, b, *opts):
    assert img("compare", *opts, a, b).ok().out == "Images are identical.\n"


def test_create_and_look(img, tmp_path):
    fill(tmp_path / "s", 3 * MB + 512, [(0, 10)])
    img("create", "-q", "-f", "qcow2", "d", str(3 * MB + 512)).ok()
    r = img("create", "-f", "live-copy", "-o", "source=s,destination=d", "x").ok()
    assert r.out == "Formatting 'x', fmt=live-copy source=s destination=d\n"
    text = img("info", "x").ok().out
    for line in ("file format: live-copy", "virtual size: 3 MiB (3146240 bytes)", "    state: copying", "    live: source",
                 "    percentage: 0", "    regions: 4", "    marked regions: 4", "    remaining: 3146240", "        format: raw",
                 "        format: qcow2"):
        assert line + "\n" in text
    assert os.path.getsize(tmp_path / "x") == 24576 + 4096
    assert img("check", "x").ok().out == "No errors were found on the image.\n"
    assert info(img, "x") == {
        "state": "copying", "live": "source", "switched": False, "regions": 4, "marked-regions": 4, "remaining": 3146240,
        "percentage": 0, "region-size": MB, "source": {"filename": "s", "format": "raw", "current": True},
        "destination": {"filename": "d", "format": "qcow2", "current": False}}


def test_create_needs_what_fits(img, tmp_path):
    fill(tmp_path / "s", MB, [])
    fill(tmp_path / "d", 2 * MB, [])
    create = lambda opts: img("create", "-q", "-f", "live-copy", "-o", opts, "x").err
    assert create("source=s,destination=d") == ("sterna-img: x: Source and destination must have the same size: 's' has 1048576 "
                                                 "bytes, 'd' has 2097152\n")
    assert "Source and destination are the same image" in create("source=s,destination=s")
    assert create("source=s,destination=no") == "sterna-img: x: Could not open the destination: Could not open 'no': No such file or directory\n"
    assert create("destination=d") == "sterna-img: x: Parameter 'source' is missing\n"
    os.truncate(tmp_path / "d", MB)
    assert "Region size must be a power of two between 4k and 64M" in create("source=s,destination=d,region_size=12k")
    assert "Region size must be a power of two between 4k and 64M" in create("source=s,destination=d,region_size=128M")
    assert "not 5" in create("source=s,destination=d,size=5")
    assert not os.path.exists(tmp_path / "x")


def test_reads_as_a_disk(img, pair):
    same(img, "s.raw", "x.lc")
    img("convert", "-O", "raw", "x.lc", "out").ok()
    same(img, "s.raw", "out")
    assert "\n5242880" not in img("map", "x.lc").ok().out and img("map", "--output=json", "x.lc").ok().out != "[]\n"
    assert img("measure", "-O", "qcow2", "x.lc").out == img("measure", "-O", "qcow2", "s.raw").out
    assert info(img)["state"] == "copying"  # looking at it changes nothing


def test_check_brings_both_together(img, pair, tmp_path):
    img("check", "-r", "leaks", "x.lc").ok()
    assert info(img)["state"] == "copying"  # unfinished is no error
    img("check", "-r", "all", "x.lc").ok()
    d = info(img)
    assert (d["state"], d["remaining"], d["percentage"], d["marked-regions"]) == ("in-sync", 0, 100, 0)
    same(img, "s.raw", "d.qcow2")
    with open(tmp_path / "x.lc", "r+b") as f:
        f.seek(24576 + 50)
        f.write(b"\xff")
    r = img("check", "x.lc")
    assert r.rc == 3 and "1 blocks of the bitmap are damaged" in r.err and "256 regions may differ" in r.err
    assert "257 leaked clusters" in img("check", "-r", "leaks", "x.lc").ok().out
    img("check", "x.lc").ok()
    same(img, "s.raw", "d.qcow2")


def test_a_write_goes_to_both(img, pair, tmp_path):
    img("copy", "--resume", "x.lc").ok()
    fill(tmp_path / "new", 16 * MB, [(3 * MB, 4 * MB)], seed=7)
    img("convert", "-n", "-f", "raw", "-O", "live-copy", "-t", "writeback", "new", "x.lc").ok()
    for name in ("s.raw", "d.qcow2", "x.lc"):
        same(img, "new", name)
    assert info(img)["marked-regions"] == 0


def test_probing_and_damage(img, pair, tmp_path):
    assert json.loads(img("info", "--output=json", "x.lc").out)["format"] == "live-copy"
    with open(tmp_path / "x.lc", "r+b") as f:
        f.seek(200)
        f.write(b"x")
    r = img("info", "x.lc")
    assert r.rc == 1 and "Its head is damaged" in r.err
    assert "raw" not in img("convert", "-O", "raw", "x.lc", "out").err


def test_names(img, pair, tmp_path):
    """Relative names are meant from the folder of the live copy; json: names are as they are."""
    os.mkdir(tmp_path / "sub")
    r = run(IMG, "compare", tmp_path / "x.lc", tmp_path / "s.raw", cwd=tmp_path / "sub").ok()
    assert r.out == "Images are identical.\n"
    name = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": str(tmp_path / "s.raw")}}).replace(",", ",,")
    img("create", "-q", "-f", "live-copy", "-o", f"source=json:{name},destination=d.qcow2", "y.lc").ok()
    same(img, "y.lc", "s.raw")
    img("copy", "--resume", "y.lc").ok()
    same(img, "d.qcow2", "s.raw")


def test_other_sides_than_it_names(img, pair, tmp_path):
    os.rename(tmp_path / "s.raw", tmp_path / "moved")
    opts = "driver=live-copy,file.filename=x.lc,source.driver=raw,source.file.driver=file,source.file.filename=moved"
    img("copy", "--resume", "--image-opts", opts).ok()
    same(img, "moved", "d.qcow2")
    assert info(img)["state"] == "in-sync"


def test_not_a_side_of_itself(img, pair, tmp_path):
    img("create", "-q", "-f", "live-copy", "-o", "source=x.lc,destination=d.qcow2", "y.lc").ok()
    os.rename(tmp_path / "y.lc", tmp_path / "x.lc")
    r = img("compare", "-U", "x.lc", "d.qcow2")
    assert r.rc == 2 and "Live copies stand on each other more than 8 deep" in r.err


def test_one_side_missing(img, pair, tmp_path):
    """Without a destination that was never complete it works on; without its only good side it does not."""
    os.rename(tmp_path / "d.qcow2", tmp_path / "away")
    r = img("copy", "--resume", "x.lc")
    assert r.rc == 1 and "The destination cannot be used" in r.err and "No such file or directory" in r.err
    same(img, "x.lc", "s.raw")
    os.rename(tmp_path / "away", tmp_path / "d.qcow2")
    os.rename(tmp_path / "s.raw", tmp_path / "gone")
    r = img("compare", "x.lc", "gone")
    assert r.rc == 2 and "Only the source of live copy 'x.lc' is up to date: Cannot use the source 's.raw'" in r.err
    assert info(img)["state"] == "copying"  # looked at without its sides
    os.rename(tmp_path / "gone", tmp_path / "s.raw")
    img("copy", "--resume", "x.lc").ok()
    same(img, "d.qcow2", "s.raw")


def test_works_on_without_the_source(img, pair, tmp_path):
    img("copy", "--resume", "x.lc").ok()
    os.rename(tmp_path / "s.raw", tmp_path / "away")
    same(img, "x.lc", "away")
    fill(tmp_path / "new", 16 * MB, [(MB, 2 * MB)], seed=9)
    r = img("convert", "-n", "-f", "raw", "-O", "live-copy", "-t", "writeback", "new", "x.lc").ok()
    assert "works without its source" in r.err
    d = info(img)
    assert (d["state"], d["live"]) == ("degraded", "source") and d["destination"]["current"] and not d["source"]["current"]
    assert 0 < d["remaining"] <= 16 * MB
    os.rename(tmp_path / "away", tmp_path / "s.raw")
    img("copy", "--resume", "x.lc").ok()
    for name in ("s.raw", "d.qcow2", "x.lc"):
        same(img, "new", name)
    assert info(img)["state"] == "in-sync"


def test_switch_and_detach(img, pair, tmp_path):
    img("copy", "--resume", "--switch", "x.lc").ok()
    assert (info(img)["state"], info(img)["switched"]) == ("switched", True)
    img("copy", "--resume", "--switch", "x.lc").ok()
    img("copy", "--resume", "--detach", "x.lc").ok()
    img("copy", "--resume", "--detach", "x.lc").ok()
    assert info(img)["state"] == "detached"
    os.unlink(tmp_path / "s.raw")
    same(img, "x.lc", "d.qcow2")
    assert img("copy", "--resume", "x.lc").ok().out == ""


def test_in_use(img, pair, tmp_path):
    """Nobody else may write to any of the three meanwhile."""
    begin = lambda: subprocess.Popen([IMG, "copy", "--resume", "-r", "64k", "x.lc"], cwd=tmp_path, stderr=subprocess.PIPE)
    p = begin()
    while not (img("info", "x.lc").rc and img("info", "d.qcow2").rc):
        if p.poll() is not None:  # it came while we looked, which is a use, too
            assert b'lock' in p.communicate()[1]
            p = begin()
        time.sleep(0.05)
    for name in ("x.lc", "s.raw", "d.qcow2"):
        r = img("bench", "-w", "-c", "1", "-f", {"x.lc": "live-copy", "s.raw": "raw", "d.qcow2": "qcow2"}[name], name)
        assert r.rc == 1 and 'Failed to get "write" lock' in r.err, name
    assert img("info", "-U", "x.lc").rc == 0
    p.kill()
    p.communicate()
    img("copy", "--resume", "x.lc").ok()
    same(img, "s.raw", "d.qcow2")


# --- copy ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("src, dst", [("raw", "raw"), ("raw", "qcow2"), ("qcow2", "raw"), ("qcow2", "qcow2")])
def test_copy(img, tmp_path, src, dst):
    fill(tmp_path / "r", 40 * MB, [(MB, 3 * MB), (20 * MB, MB)])
    img("convert", "-f", "raw", "-O", src, "r", "s").ok()
    r = img("copy", "-f", src, "-O", dst, "s", "d").ok()
    assert (r.out, r.err) == ("", "")
    same(img, "r", "d", "-f", "raw", "-F", dst)
    assert sorted(os.listdir(tmp_path)) == ["d", "r", "s"]
    assert os.stat(tmp_path / "d").st_blocks * 512 < 6 * MB  # holes stay holes


def test_copy_options(img, tmp_path):
    fill(tmp_path / "s", 3 * MB + 100, [(0, MB)])
    r = img("copy", "-p", "-O", "qcow2", "-o", "cluster_size=4k", "-m", "3", "-r", "1G", "--region-size", "4k", "--keep", "s", "d").ok()
    assert r.out.endswith("    (100.00/100%)\r\n")
    assert json.loads(img("info", "--output=json", "d").out)["cluster-size"] == 4096
    assert info(img, "d.live-copy")["region-size"] == 4096
    same(img, "s", "d.live-copy", "-f", "raw")
    img("copy", "--keep", "--state", "st", "-t", "none", "s", "e").ok()
    assert os.path.exists(tmp_path / "st") and not os.path.exists(tmp_path / "e.live-copy")
    img("copy", "-n", "-q", "-f", "raw", "s", "e").ok()
    opts = json.dumps({"driver": "raw", "file": {"driver": "file", "filename": "e"}})
    img("copy", "-n", "--state", "st2", "--image-opts", "--target-image-opts", "driver=raw,file.driver=file,file.filename=s", opts).ok()
    img("copy", "--switch", "s", "f").ok()
    assert info(img, "f.live-copy")["state"] == "switched"


@pytest.mark.parametrize("args, message", [
    ((), "Expecting source and destination"),
    (("s",), "Expecting source and destination"),
    (("--resume",), "Expecting one live-copy image, or source and destination"),
    (("s", "d", "e"), "Expecting source and destination"),
    (("--resume", "--keep", "x"), "With --resume and one image, the image says what is copied where, and is kept"),
    (("--target-image-opts", "s", "d"), "--target-image-opts requires use of -n flag"),
    (("-n", "-o", "size=1", "s", "d"), "-o has no effect with -n"),
    (("-t", "x", "s", "d"), "Invalid cache option: x"),
    (("-m", "17", "s", "d"), "Invalid number of coroutines specified. Must be between 1 and 16."),
    (("--region-size", "1", "s", "d"), "Invalid region size specified. Must be between 4096 and 67108864."),
    (("nosuch", "d"), "Could not open "),
    (("s", "s"), "Source and destination are the same image 's'"),
    (("-n", "s", "d"), "No such file or directory"),
    (("-o", "size=5", "s", "d"), "The destination has the size of the source: leave the size out"),
    (("-O", "nosuch", "s", "d"), "Unknown file format 'nosuch'"),
    (("--resume", "s"), "Image is not in live-copy format"),
    (("-n", "s", "nbd://localhost:1/"), "say with --state where to keep what has been copied"),
])
def test_wrong_arguments(img, tmp_path, args, message):
    fill(tmp_path / "s", MB, [])
    r = img("copy", *args)
    assert r.rc == 1 and message in r.err, r.err
    assert os.listdir(tmp_path) in (["s"], ["d", "s"], ["s", "d"])


def test_destination_too_small_for_the_data(img, tmp_path):
    """An error in the middle: what has been copied is remembered."""
    fill(tmp_path / "s", 8 * MB, [(0, 8 * MB)])
    rules = {"driver": "blkdebug", "image": {"driver": "file", "filename": str(tmp_path / "d")},
             "inject-error": [{"event": "pwritev", "errno": 28, "iotype": "write", "sector": 10000}]}
    fill(tmp_path / "d", 8 * MB, [])
    name = "json:" + json.dumps({"driver": "raw", "file": rules})
    r = img("copy", "-n", "-O", "raw", "-m", "1", "--region-size=64k", "--state=st", "s", name)
    assert r.rc == 1 and "The destination cannot be used: No space left on device" in r.err
    assert "What has been copied is remembered in 'st': --resume goes on with it" in r.err
    opts = json.dumps({"driver": "live-copy", "file": {"driver": "file", "filename": "st"},
                       "destination": {"driver": "raw", "file": {"driver": "file", "filename": "d"}}})
    img("copy", "--resume", "--image-opts", opts).ok()
    same(img, "s", "d", "-f", "raw", "-F", "raw")


def test_source_that_cannot_be_read(img, tmp_path):
    fill(tmp_path / "s", 8 * MB, [(0, 8 * MB)])
    rules = {"driver": "blkdebug", "image": {"driver": "file", "filename": str(tmp_path / "s")},
             "inject-error": [{"event": "read_aio", "errno": 5, "iotype": "read", "sector": 6000}]}
    r = img("copy", "-O", "raw", "--region-size=64k", "--state=st", "json:" + json.dumps({"driver": "raw", "file": rules}), "d")
    assert r.rc == 1 and re.search(r"error while reading byte \d+: Input/output error", r.err)
    d = info(img, "st")
    assert d["marked-regions"] <= 16  # all but the piece with the bad sector
    opts = json.dumps({"driver": "live-copy", "file": {"driver": "file", "filename": "st"},
                       "source": {"driver": "raw", "file": {"driver": "file", "filename": "s"}}})
    img("copy", "--resume", "--image-opts", opts).ok()
    same(img, "s", "d", "-f", "raw", "-F", "raw")


def test_destination_on_a_server_that_goes_away(img, tmp_path):
    nbd, sock = reference("qemu-nbd"), tmp_path / "sock"
    fill(tmp_path / "s", 24 * MB, [(0, 12 * MB)])
    fill(tmp_path / "d", 24 * MB, [(5 * MB, MB)], seed=4)

    def serve():
        p = subprocess.Popen([nbd, "-t", "-k", sock, "-f", "raw", tmp_path / "d"])
        while not sock.exists():
            assert p.poll() is None
            time.sleep(0.01)
        return p
    copy = ["copy", "-n", "-O", "raw", "--state=st", "--resume", "s", f"nbd+unix://?socket={sock}"]
    server, before = serve(), (tmp_path / "d").read_bytes()
    client = subprocess.Popen([IMG, *copy, "-r", "1M"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while (tmp_path / "d").read_bytes() == before:  # it takes more than ten seconds from there
        assert client.poll() is None
        time.sleep(0.01)
    server.terminate()
    server.wait()
    err = client.communicate(timeout=60)[1]
    assert client.returncode == 1 and "The destination cannot be used: Input/output error" in err
    if sock.exists():
        os.unlink(sock)
    r = img(*copy)
    assert r.rc == 1 and "works without its destination" in r.err and "The destination cannot be used" in r.err
    server = serve()
    img(*copy).ok()
    server.terminate()
    server.wait()
    same(img, "s", "d", "-f", "raw", "-F", "raw")


def test_state_of_another_copy(img, tmp_path):
    fill(tmp_path / "s", MB, [])
    fill(tmp_path / "other", MB, [])
    img("copy", "--keep", "s", "d").ok()
    r = img("copy", "s", "d")
    assert r.rc == 1 and "--resume goes on with it; remove it to start anew" in r.err
    r = img("copy", "--resume", "other", "d")
    assert r.rc == 1 and "'d.live-copy' is of another copy: '" in r.err
    img("copy", "--resume", "s", "d").ok()
    assert not os.path.exists(tmp_path / "d.live-copy")


@pytest.mark.parametrize("engine", ["uring", "epoll"])
@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
def test_killed_again_and_again(tmp_path, engine, fmt):
    """kill -9 at random moments; what --resume makes of it is the source, and it gets on."""
    env = {**os.environ, "STERNA_LOOP": engine}
    if engine == "uring" and "io_uring" in run(IMG, "info", "nosuch", env={"STERNA_LOOP": "uring"}).err:
        pytest.skip("io_uring is not allowed here")
    size, r = 24 * MB, random.Random(fmt + engine)
    fill(tmp_path / "s", size, [(0, 5 * MB), (10 * MB, 8 * MB), (23 * MB, MB)])
    first = [IMG, "copy", "-f", "raw", "-O", fmt, "--region-size=256k", "s", "d"]
    state, more = tmp_path / "d.live-copy", [*first[:2], "--resume", *first[2:]]
    kills = 0
    for i in range(KILLS):
        p = subprocess.Popen([*(more if state.exists() else first), "-r", "4M"], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        time.sleep(r.random() * (0.05 if i % 3 else 0.7))
        p.send_signal(signal.SIGKILL)
        err = p.communicate()[1]
        kills += p.returncode == -signal.SIGKILL
        if state.exists():
            seen = run(IMG, "check", "d.live-copy", cwd=tmp_path)
            assert seen.rc in (0, 3), seen.err + err
        if p.returncode == 0:
            break
    assert kills >= 2
    p = run(*(more if state.exists() else first), cwd=tmp_path, env=env)
    assert p.rc == 0, p.err
    same(lambda *a: run(IMG, *a, cwd=tmp_path), "s", "d", "-f", "raw", "-F", fmt)
    assert run(IMG, "check", "-f", fmt, "d", cwd=tmp_path).rc in (0, 63)
    assert not state.exists()
