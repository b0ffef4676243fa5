# SPDX-License-Identifier: BSD-2-Clause
"""How it starts, what it shows of the image, and when it ends."""
import os, signal, socket, subprocess, time

import pytest
from sterna import alias, free_port, program, reference, run
from wire import *

MIB = 1 << 20
NBD = ("-t", "-e", 0)


def gone(pid):
    for _ in range(6000):
        try:
            with open(f"/proc/{pid}/stat") as f:
                if f.read().split(") ")[1][0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_without_persistent_it_ends_with_its_last_client(serve, disk):
    s = serve("-f", "raw", disk)
    with s.connect() as w:  # chose nothing: does not count
        w.ok(ABORT)
    w = s.open()
    assert w.read(0, 1) == b"A"
    w.disconnect()
    assert s.proc.wait(60) == 0 and not os.path.exists(s.path)


def test_with_several_it_ends_with_the_last_of_them(serve, disk):
    s = serve("-e", 3, "-f", "raw", disk)
    a, b = s.open(), s.open()
    a.disconnect()
    time.sleep(0.1)
    assert s.proc.poll() is None and b.read(0, 1) == b"A"
    b.close()
    assert s.proc.wait(60) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(serve, disk, signum):
    s = serve(*NBD, "-f", "raw", disk)
    with s.open() as w:
        assert w.write(5, b"data") == 0
        s.proc.send_signal(signum)
        assert w.is_closed()
    assert s.proc.wait(60) == 0 and not os.path.exists(s.path)
    assert disk.read_bytes()[5:9] == b"data"


def test_fork_returns_when_it_serves(tmp_path, disk):
    sock, pidfile = str(tmp_path / "sock"), str(tmp_path / "pid")
    r = run(program("sterna-nbd"), "--fork", "--pid-file", pidfile, *NBD, "-f", "raw", "-k", sock, disk).ok()
    assert (r.out, r.err) == ("", "")
    with open(pidfile, encoding="ascii") as f:
        pid = int(f.read())
    try:
        with Wire(sock).greet().go() as w:
            assert w.read(0, 2) == b"AA"
        assert os.readlink(f"/proc/{pid}/cwd") == "/" and os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
        assert os.getpgid(pid) == pid
        again = run(program("sterna-nbd"), "--fork", "--pid-file", pidfile, *NBD, "-f", "raw", "-k", sock + "2", disk)
        assert again.rc == 1 and "Cannot lock pid file" in again.err
    finally:
        os.kill(pid, signal.SIGTERM)
    assert gone(pid) and not os.path.exists(sock)


def test_fork_passes_warnings_on(tmp_path, disk):
    sock, pidfile = str(tmp_path / "sock"), str(tmp_path / "pid")
    r = run(program("sterna-nbd"), "--fork", "--pid-file", pidfile, "-k", sock, disk).ok()
    assert "probing guessed raw" in r.err
    with open(pidfile, encoding="ascii") as f:
        pid = int(f.read())
    with Wire(sock).greet().go() as w:
        w.disconnect()
    assert gone(pid)


def test_socket_activation(tmp_path, disk):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(5)
        os.set_inheritable(s.fileno(), True)
        p = subprocess.Popen(["bash", "-c", f"LISTEN_PID=$$ LISTEN_FDS=1 exec {program('sterna-nbd')} -t -f raw {disk} 3<&{s.fileno()}"], close_fds=False)
        try:
            with Wire(s.getsockname()).greet().go() as w:
                assert w.read(0, 2) == b"AA"
        finally:
            p.terminate()
        assert p.wait(60) == 0


def test_tcp(tmp_path, disk):
    port = free_port()
    p = subprocess.Popen([program("sterna-nbd"), *map(str, NBD), "-b", "127.0.0.1", "-p", str(port), "-f", "raw", disk])
    try:
        with Wire(("127.0.0.1", port)).greet() as w:
            w.ok(STRUCTURED)
            w.go()
            assert w.read(0, MIB) == disk.read_bytes()
        assert "1048576" in run(program("sterna-nbd"), "-L", "-b", "127.0.0.1", "-p", port).ok().out
    finally:
        p.terminate()
    assert p.wait(60) == 0


def test_list_prints_what_qemu_nbd_prints(serve, disk, tmp_path):
    theirs = reference("qemu-nbd")
    for args in (("-t",), ("-t", "-r", "-e", 3, "-x", "some name", "-D", "and a text", "-A"), ("-t", "-e", 0, "-n")):
        s = serve(*args, "-f", "raw", disk)
        ours = run(program("sterna-nbd"), "-L", "-k", s.path).ok().out
        assert ours == run(theirs, "-L", "-k", s.path).ok().out and ours.startswith("exports available: 1\n export: '")
        q = subprocess.Popen([theirs, *map(str, args), "-f", "raw", "-k", str(tmp_path / "q"), disk])
        try:
            while not listens(str(tmp_path / "q")):
                assert q.poll() is None
                time.sleep(0.01)
            assert run(program("sterna-nbd"), "-L", "-k", tmp_path / "q").ok().out == ours
        finally:
            q.terminate()
            q.wait(60)


def test_an_offset_hides_the_beginning(serve, disk):
    s = serve(*NBD, "-o", 65000, "-f", "raw", disk)
    with s.open() as w:
        assert w.size == -(-(MIB - 65000) // 512) * 512
        assert w.read(0, 600) == b"A" * 536 + bytes(64)
        assert w.write(0, b"x") == 0
    s.stop()
    assert disk.read_bytes()[64999:65002] == b"AxA"


def test_a_snapshot_keeps_the_image_as_it_is(serve, disk, tmp_path):
    before = disk.read_bytes()
    s = serve(*NBD, "-s", "-f", "raw", disk, env={"TMPDIR": str(tmp_path)})
    with s.open() as w:
        assert w.write(100, b"changed") == 0 and w.do(FLUSH) == 0
        assert w.read(99, 9) == b"AchangedA"
    s.stop()
    assert disk.read_bytes() == before and not [f for f in os.listdir(tmp_path) if f.startswith("sterna-")]


def test_an_internal_snapshot_is_shown(serve, tmp_path):
    img, image = program("sterna-img"), tmp_path / "snap.qcow2"
    run(img, "create", "-q", "-f", "qcow2", image, "4M").ok()
    run(program("sterna-io"), "-f", "qcow2", "-c", "write -P 1 0 64k", image).ok()
    run(img, "snapshot", "-c", "first", image).ok()
    run(program("sterna-io"), "-f", "qcow2", "-c", "write -P 2 0 64k", image).ok()
    for what in ("first", "1", "snapshot.id=1", "snapshot.name=first", "snapshot.id=1,snapshot.name=first"):
        s = serve(*NBD, "-l", what, "-f", "qcow2", image)
        with s.open() as w:
            assert w.flags & F_READ_ONLY and w.read(0, 65536) == b"\1" * 65536
        s.stop()
    s = serve(*NBD, "-f", "qcow2", image)
    with s.open() as w:
        assert w.read(0, 2) == b"\2\2"


@pytest.mark.parametrize("cache", ["none", "writeback", "writethrough", "directsync", "unsafe"])
def test_each_cache_mode_serves(serve, disk, cache):
    s = serve(*NBD, f"--cache={cache}", "--discard=unmap", "--detect-zeroes=unmap", "-f", "raw", disk)
    with s.connect() as w:
        w.ok(STRUCTURED)
        w.go()
        assert w.write(65536, b"w" * 4096) == 0 and w.write(131071, b"q") == 0 and w.write(0, bytes(8192), FUA) == 0
        assert w.read(65000, 4000)[536:] == b"w" * 3464 and w.read(131070, 3) == b"\0q\0" and w.read(0, 100000)[:8192] == bytes(8192)


def test_image_options(serve, disk):
    s = serve(*NBD, "--image-opts", f"driver=raw,offset=512,size=64k,file.driver=file,file.filename={disk}")
    with s.open() as w:
        assert w.size == 65536 and w.read(65024, 512) == bytes(512) and w.read(0, 3) == b"AAA"


def test_an_image_in_use_is_refused(serve, tmp_path):
    image = tmp_path / "locked.qcow2"
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", image, "1M").ok()
    serve(*NBD, "-f", "qcow2", image)
    r = run(program("sterna-nbd"), "-k", tmp_path / "other", "-f", "qcow2", image)
    assert r.rc == 1 and 'Failed to get "write" lock' in r.err
    assert run(reference("qemu-nbd"), "-k", tmp_path / "other", "-f", "qcow2", image).rc == 1


def test_a_long_name_that_is_not_there_comes_back_short(serve, disk):
    s = serve("-f", "raw", *NBD, disk)
    with s.connect() as w:
        w.ok(STRUCTURED)
        for name, shown in (("x" * 80, "x" * 80), ("y" * 4096, "y" * 80 + "...")):
            assert w.opt(INFO, w.info_data(name))[-1][1].decode() == f"export '{shown}' not present"
            assert w.opt(SET_META, w.name(name) + bytes(4))[-1][1].decode() == f"export '{shown}' not present"
