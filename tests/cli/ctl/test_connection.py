# SPDX-License-Identifier: BSD-2-Clause
"""No connection, one that breaks, and one to something else."""
import os, re, signal, socket, subprocess, threading, time

import pytest
from sterna import free_port, program, run


class Proxy:
    """Between sternactl and a machine; can cut the connection, refuse new ones, and look at what is about to be passed on."""

    def __init__(self, path, to):
        self.to, self.pairs, self.path, self.look = to, [], path, lambda data: None
        self.listen()

    def listen(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                a = listener.accept()[0]
            except OSError:
                return
            b = socket.socket(socket.AF_UNIX)
            b.connect(self.to)
            self.pairs += [a, b]
            for x, y in ((a, b), (b, a)):
                threading.Thread(target=self.pump, args=(x, y), daemon=True).start()

    def pump(self, x, y):
        try:
            while data := x.recv(65536):
                self.look(data)
                y.sendall(data)
        except OSError:
            pass
        for s in (x, y):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        for s in self.pairs:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self.pairs = []

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        os.unlink(self.path)
        self.cut()


@pytest.fixture
def proxied(ctl):
    m = ctl(qtest=False)
    m.proxy = Proxy(str(m.tmp / "proxy.sock"), m.socket)
    m.socket = m.proxy.path
    yield m
    try:
        m.proxy.close()
    except OSError:
        pass


def wait_for(p, pattern):
    """Lines of standard error up to the one that matches."""
    lines = []
    while line := p.stderr.readline():
        lines.append(line)
        if re.search(pattern, line):
            return lines
    raise AssertionError(f"no {pattern!r} in {lines}")


@pytest.mark.parametrize("address, text", [
    ("{tmp}/none", "there is no socket '{tmp}/none'; a machine makes one with -qmp unix:{tmp}/none,server=on,wait=off"),
    ("{tmp}/file", "'{tmp}/file' is not a socket"),
    ("{tmp}/dead", "nobody listens on '{tmp}/dead': the machine has ended"),
    ("{tmp}/" + "x" * 120, "the path of a socket has at most 107 bytes"),
    ("127.0.0.1:1", "cannot connect to '127.0.0.1:1': Connection refused"),
    ("tcp:nothing", "'nothing' is not HOST:PORT"),
])
def test_nobody_there(tmp_path, address, text):
    (tmp_path / "file").write_text("x")
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / "dead"))
    r = run(program("sternactl"), "-s", address.format(tmp=tmp_path), "status")
    assert r.rc == 4 and text.format(tmp=tmp_path) in r.err


def test_a_server_of_another_kind(tmp_path):
    path = tmp_path / "nbd.sock"
    p = subprocess.Popen([program("sterna-nbd"), "-t", "-k", str(path), "-f", "raw", "/dev/null"])
    try:
        while not path.exists():
            time.sleep(0.02)
        r = run(program("sternactl"), "-s", path, "status")
        assert r.rc == 4 and "is not QMP" in r.err
    finally:
        p.kill()
        p.wait()


def test_one_client_at_a_time(ctl, tmp_path):
    m = ctl(qtest=False)
    p = m.listening()
    with socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as waiting:
        s.bind(str(tmp_path / "s"))
        s.listen(0)
        waiting.connect(str(tmp_path / "s"))
        full = subprocess.Popen([program("sternactl"), "-s", str(tmp_path / "s"), "status"], stderr=subprocess.PIPE, text=True)
        other = m.popen("status")
        while full.poll() is None:  # that it is stopped meanwhile, and let go on, is no reason to end
            for sig in signal.SIGSTOP, signal.SIGCONT:
                full.send_signal(sig)
            time.sleep(0.02)
        said = other.communicate(timeout=60)[1]
        assert other.returncode == 4 and "another client is connected to it; give the machine a second -qmp socket" in said
        err = full.communicate(timeout=60)[1]
        assert full.returncode == 4 and "is busy: other clients wait for it already" in err
    p.send_signal(2)
    assert p.communicate(timeout=60) and p.returncode == 0


def test_over_tcp(ctl):
    port = free_port()
    m = ctl("-qmp", f"tcp:127.0.0.1:{port},server=on,wait=off", qtest=False)
    assert run(program("sternactl"), "-s", f"127.0.0.1:{port}", "status").ok().out.startswith("tern")
    assert run(program("sternactl"), "-s", f"localhost:{port}", "disks").ok().out.count("disk0") == 1
    assert m.qmp


def test_the_connection_breaks_and_the_job_goes_on(proxied):
    m = proxied
    p = m.popen("stream", "disk0", "--speed", "2M")
    m.qmp.event("JOB_STATUS_CHANGE", id="stream-disk0", status="running")
    assert p.stdout.readline().startswith("stream-disk0: ")
    m.proxy.cut()
    lines = wait_for(p, "connected again")
    assert re.match(r"sternactl: the connection to '.*proxy.sock' is lost: ", lines[0]) and "trying to connect again for 30 s" in lines[1]
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "stream-disk0: completed" in out, (out, err)


def test_the_job_ends_meanwhile(proxied):
    m = proxied
    for keeps in (True, False):
        m.qmp.cmd("blockdev-add", driver="null-co", node_name="n", size=16 << 20, read_zeroes=True)
        m.qmp.cmd("blockdev-mirror", job_id="j", device="d0", target="n", sync="full", speed=65536, auto_dismiss=not keeps)
        p = m.popen("wait", "j")
        assert p.stdout.readline().startswith("j: running")
        m.proxy.close()
        wait_for(p, "trying to connect")
        m.qmp.cmd("job-cancel", id="j")
        m.qmp.event("JOB_STATUS_CHANGE", id="j", status="concluded" if keeps else "null")
        m.proxy.listen()
        out, err = p.communicate(timeout=60)
        if keeps:
            assert p.returncode == 3 and "j: cancelled" in out
        else:
            assert p.returncode == 4 and "job 'j' ended meanwhile" in err and "its result is not known" in err
        m.qmp.cmd("blockdev-del", node_name="n")


def once(m, word, what):
    """Somebody else does that just before the machine hears this word."""
    def look(data):
        if word in data:
            m.proxy.look = lambda data: None
            what()
    m.proxy.look = look


def test_somebody_else_ends_the_job_when_it_is_ready(proxied):
    m = proxied

    def cancel():
        m.qmp.cmd("block-job-cancel", device="copy-disk0", force=True)
        m.qmp.event("JOB_STATUS_CHANGE", id="copy-disk0", status="concluded")
    once(m, b'"job-complete"', cancel)
    r = m("copy", "disk0", m.tmp / "copy.qcow2")
    assert r.rc == 3 and r.out.endswith("copy-disk0: cancelled\n") and not r.err, (r.out, r.err)


def test_a_disk_is_switched_over_while_it_is_looked_for(proxied):
    m = proxied
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="n", size=16 << 20, read_zeroes=True)
    m.qmp.cmd("blockdev-mirror", job_id="j", device="d0", target="n", sync="full")
    m.qmp.event("BLOCK_JOB_READY", device="j")

    def switch():
        m.qmp.cmd("job-complete", id="j")
        m.qmp.event("JOB_STATUS_CHANGE", id="j", status="null")
        m.qmp.cmd("blockdev-del", node_name="d0")
    once(m, b'"query-named-block-nodes"', switch)
    disk = m.disk()
    assert (disk["disk"], disk["node-name"]) == ("disk0", "n"), disk


def test_the_machine_ends(ctl):
    m = ctl(qtest=False)
    p = m.popen("stream", "disk0", "--speed", "64k")
    m.qmp.event("JOB_STATUS_CHANGE", id="stream-disk0", status="running")
    assert p.stdout.readline().startswith("stream-disk0: ")
    m.qmp.cmd("quit")
    out, err = p.communicate(timeout=60)
    assert (p.returncode, err) == (4, "sternactl: the machine has ended (host-qmp-quit)\n"), out


def test_the_machine_is_killed(ctl):
    m = ctl(qtest=False)
    p = m.popen("stream", "disk0", "--speed", "64k", "--reconnect", "0.5")
    m.qmp.event("JOB_STATUS_CHANGE", id="stream-disk0", status="running")
    assert p.stdout.readline().startswith("stream-disk0: ")
    m.process.kill()
    out, err = p.communicate(timeout=60)
    assert p.returncode == 4 and "given up after 0.5 s: nobody listens on" in err


def test_another_machine_answers(ctl):
    m = ctl(qtest=False)
    p = m.popen("stream", "disk0", "--speed", "64k")
    m.qmp.event("JOB_STATUS_CHANGE", id="stream-disk0", status="running")
    assert p.stdout.readline().startswith("stream-disk0: ")
    m.process.kill()
    m.process.wait()
    other = ctl(qtest=False)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 4 and "the machine was started anew meanwhile: job 'stream-disk0' is gone" in err
    assert other.process.poll() is None


def test_nonsense_from_the_other_side(tmp_path):
    for say in (b"hello\n", b"[1]\n", b'{"x": 1}\n', b'{"QMP": {}}\n' + b"[" * 200, b'{"QMP": {"version": ' + b"x" * 100):
        with socket.socket(socket.AF_UNIX) as s:
            path = tmp_path / "s.sock"
            path.unlink(missing_ok=True)
            s.bind(str(path))
            s.listen(1)
            p = subprocess.Popen([program("sternactl"), "-s", str(path), "status"], stderr=subprocess.PIPE, text=True)
            c = s.accept()[0]
            c.sendall(say)
            err = p.communicate(timeout=60)[1]
            c.close()
            assert p.returncode == 4 and "not QMP" in err, (say, err)
