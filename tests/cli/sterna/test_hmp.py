# SPDX-License-Identifier: BSD-2-Clause
"""The human monitor on standard streams and on Unix sockets."""
import os, re, socket, subprocess, time

import pytest
from sterna import alias, program

BASE = ["-display", "none", "-nodefaults", "-S"]


def converse(*lines, name=None):
    r = subprocess.run([name or program("sterna"), *BASE, "-monitor", "stdio"], input="".join(line + "\n" for line in lines), capture_output=True,
                       text=True, timeout=20)
    assert r.returncode == 0 and r.stderr == ""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", r.stdout).replace("\r", "")


def test_on_standard_streams():
    out = converse("info status", "nosuchcommand", "quit")
    assert "monitor - type 'help' for more information" in out
    assert "VM status: paused (prelaunch)" in out
    assert "unknown command: 'nosuchcommand'" in out


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
    end = time.monotonic() + 10
    while True:
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
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
        assert p.wait(10) == 0
    assert not os.path.exists(path)
