# SPDX-License-Identifier: BSD-2-Clause
"""The human monitor on standard streams and on Unix sockets."""
import os, re, socket, subprocess, time

import pytest
from sterna import alias, program

BASE = ["-display", "none", "-nodefaults", "-S"]


def converse(*lines, name=None):
    r = subprocess.run([name or program("sterna"), *BASE, "-monitor", "stdio"], input="".join(line + "\n" for line in lines), capture_output=True,
                       text=True, timeout=60)
    assert r.returncode == 0 and r.stderr == ""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", r.stdout).replace("\r", "")


def test_on_standard_streams():
    out = converse("info status", "nosuchcommand", "quit")
    assert "monitor - type 'help' for more information" in out
    assert "VM status: paused (prelaunch)" in out
    assert "unknown command: 'nosuchcommand'" in out
    assert out.endswith("\n(qemu) quit\n")  # nothing more is asked


def test_greets_by_the_name_it_was_called(tmp_path):
    assert re.match(r"QEMU \d+\.\d+\.\d+ monitor - type 'help' for more information\n\(qemu\) ",
                    converse("quit", name=alias(tmp_path, "qemu-system-riscv64", "sterna")))
    assert re.match(r"Sterna \d+\.\d+\.\d+ monitor - type 'help' for more information\n\(qemu\) ", converse("quit"))


@pytest.fixture
def monitor(tmp_path):
    path = str(tmp_path / "hmp")
    p = subprocess.Popen([program("sterna"), *BASE, "-monitor", f"unix:{path},server=on,wait=off"])
    yield path, p
    p.kill()
    p.wait()


def prompt(s, count=1):
    """What comes up to the count-th prompt from here."""
    text = b""
    while text.count(b"(qemu) ") < count or not text.endswith(b"(qemu) "):
        data = s.recv(65536)
        assert data, text
        text += data
    return text.decode()


def connect(path):
    end = time.monotonic() + 60
    while True:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(60)
        try:
            s.connect(path)
            break
        except (FileNotFoundError, ConnectionRefusedError):  # not there yet, or nobody listens yet
            s.close()
            assert time.monotonic() < end, "nobody listens"
            time.sleep(0.01)
    return s


def test_on_a_socket(monitor):
    path, p = monitor
    with connect(path) as s:
        assert "monitor - type 'help'" in prompt(s)
        s.sendall(b"info st")
        s.sendall(b"atus\n")        # lines may come in pieces
        assert "VM status: paused (prelaunch)" in prompt(s)
    with connect(path) as s:        # a second client after the first
        prompt(s)
        s.sendall(b"info name\ninfo version\n")
        assert re.search(r"\d+\.\d+\.\d+", prompt(s, 2))
        s.sendall(b"q\n")
        assert p.wait(60) == 0
    assert not os.path.exists(path)


def test_images_in_full(tmp_path):
    """Their snapshots and what the format has to say, as QEMU lays it out."""
    img = program("sterna-img")
    subprocess.run([img, "create", "-q", "-f", "qcow2", "d", "1M"], cwd=tmp_path, check=True)
    subprocess.run([img, "snapshot", "-c", "one", "d"], cwd=tmp_path, check=True)
    r = subprocess.run([program("sterna"), *BASE, "-monitor", "stdio", "-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=d"],
                       input="info block -n -v d\nquit\n", capture_output=True, text=True, timeout=60, cwd=tmp_path)
    out = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", r.stdout).replace("\r", "")
    assert re.search(r"""cluster_size: 65536
Snapshot list:
ID      TAG               VM_SIZE                DATE        VM_CLOCK     ICOUNT
1       one                   0 B \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  0000:00:00.000 +\S+
Format specific information:
    compat: 1.1
    compression type: zlib
    lazy refcounts: false
    refcount bits: 16
    corrupt: false
    extended l2: false
""", out), out
