# SPDX-License-Identifier: BSD-2-Clause
"""The human monitor: lines, editing, and what commands print. The texts are QEMU's where QEMU has the command."""
import os, re, socket, subprocess, sys, time

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
import qmp
from sterna import alias, program


class Person:
    """Sits at the monitor."""

    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(path)
        self.sock.settimeout(60)
        self.seen = b""

    def until(self, what):
        while what not in self.seen:
            data = self.sock.recv(65536)
            assert data, f"gone; seen {self.seen}"
            self.seen += data
        text, self.seen = self.seen.split(what, 1)
        return (text + what).decode()

    def type(self, keys):
        self.sock.sendall(keys if isinstance(keys, bytes) else keys.encode())

    def run(self, line):
        """What a line prints."""
        self.type(line + "\n")
        self.until(b"\r\n")
        return self.until(b"(qemu) ")[:-len("(qemu) ")].replace("\r\n", "\n")


@pytest.fixture
def machine(tmp_path):
    process = subprocess.Popen([program("sterna"), "-M", "none", "-nodefaults", "-display", "none", "-name", "Ada",
                                "-monitor", f"unix:{tmp_path}/hmp,server=on,wait=off", "-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off"],
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    q = qmp.connect(f"{tmp_path}/qmp", alive=lambda: process.poll() is None)
    q.path, q.process = tmp_path, process
    yield q
    process.kill()
    process.communicate()


@pytest.fixture
def person(machine):
    p = Person(f"{machine.path}/hmp")
    assert p.until(b"(qemu) ") == "Sterna 0.1.0 monitor - type 'help' for more information\r\n(qemu) "
    return p


def test_greets_as_it_was_called(tmp_path):
    path = alias(tmp_path, "qemu-system-riscv64", "sterna")
    p = subprocess.run([path, "-M", "none", "-nodefaults", "-display", "none", "-monitor", "stdio"], input=b"quit\n", capture_output=True, timeout=60)
    assert p.stdout.startswith(b"QEMU 10.0.0 monitor - type 'help' for more information\r\n(qemu) ")
    assert p.returncode == 0


@pytest.mark.parametrize("line, want", [
    ("info status", "VM status: running\n"),
    ("info name", "Ada\n"),
    ("info uuid", "00000000-0000-0000-0000-000000000000\n"),
    ("info version", "10.0.0 (Sterna 0.1.0)\n"),
    ("info kvm", "kvm support: not compiled\n"),
    ("info block", ""),
    ("info block-jobs", "No active jobs\n"),
    ("info jobs", "No jobs\n"),
    ("foo", "unknown command: 'foo'\n"),
    ("info foo", "unknown command: 'info foo'\n"),
    ("", ""),
    ("   ", ""),
    ("device_del", 'device_del: string expected\nTry "help device_del" for more information\n'),
    ("device_del a b", 'device_del: extraneous characters at the end of line\nTry "help device_del" for more information\n'),
    ("stop x", 'stop|s: extraneous characters at the end of line\nTry "help stop" for more information\n'),
    ("block_resize", 'block_resize: block device name expected\nTry "help block_resize" for more information\n'),
    ("block_resize zz", 'invalid size\nTry "help block_resize" for more information\n'),
    ("block_resize zz 2x", 'block_resize: extraneous characters at the end of line\nTry "help block_resize" for more information\n'),
    ("block_resize zz 2M", "Error: Cannot find device='zz' nor node-name=''\n"),
    ("device_del zz", "Error: Device 'zz' not found\n"),
    ("help cont", "cont|c  -- resume emulation\n"),
    ("? quit", "quit|q  -- quit the emulator\n"),
    ("help info status", "info status  -- show the current VM status (running|paused)\n"),
    ("help zz", "unknown command: 'zz'\n"),
    ("print 1+2*3", "7\n"),
    ("p (1+2)*3", "9\n"),
    ("p 0x10|1", "17\n"),
    ("p ~0", "-1\n"),
    ("p/x 255", "0xff\n"),
    ("p/c 65", "'A'\n"),
    ("p 'a'+1", "98\n"),
    ("p 1/0", 'division by zero\nTry "help p" for more information\n'),
    ("p foo", "invalid char 'f' in expression\nTry \"help p\" for more information\n"),
    ("p $foo", 'unknown register\nTry "help p" for more information\n'),
    ("p (1", '\')\' expected\nTry "help p" for more information\n'),
    ("print", 'unexpected end of expression\nTry "help print" for more information\n'),
    ("xp/z 0", "invalid char in format: 'z'\nTry \"help xp\" for more information\n"),
    ("device_del \"a", 'unterminated string\nTry "help device_del" for more information\n'),
    ("info block -x", 'block: unsupported option -x\nTry "help info block" for more information\n'),
    ("cpu 9", "Error: invalid CPU index\n"),
])
def test_prints(machine, line, want):
    assert machine.hmp(line) == want


def test_expressions_that_are_too_much(machine):
    assert "too complex" in machine.hmp("p " + "(" * 5000)
    assert "too complex" in machine.hmp("p " + "-" * 5000 + "1")
    assert "too deeply" in machine.hmp("device_add x" + ".a" * 5000 + "=1")


def test_blocks(machine):
    machine.cmd("blockdev-add", driver="null-co", node_name="n0", size=1 << 20)
    assert re.fullmatch(r"n0: \S.* \(null-co\)\n    Cache mode:       writeback\n", machine.hmp("info block -n"))
    assert "virtual size: 1 MiB (1048576 bytes)\n" in machine.hmp("info block -n -v")
    assert machine.hmp("info block n0").startswith("n0: ")
    assert machine.hmp("blockdev_add raw,node-name=r,file=n0,size=4096") == ""
    assert "(raw)" in machine.hmp("info block r")
    assert "in use" in machine.hmp("blockdev_del n0")
    assert machine.hmp("blockdev_del r") == "" and machine.hmp("blockdev_del n0") == ""
    assert machine.hmp("object_add iothread,id=io") == "" and "io:" in machine.hmp("info iothreads")
    assert machine.hmp("object_del io") == ""


def test_stop_and_cont(person, machine):
    assert person.run("s") == ""
    assert person.run("info status") == "VM status: paused\n"
    assert machine.event("STOP")
    assert person.run("c") == ""
    assert person.run("info status") == "VM status: running\n"


def test_editing(person):
    person.type("inf\x7ffo statusx\x08\n")  # Backspace, both kinds
    person.until(b"\r\n")
    assert person.until(b"(qemu) ").startswith("VM status")
    person.type("nfo status\x01i\n")  # Ctrl-A
    person.until(b"\r\n")
    assert person.until(b"(qemu) ").startswith("VM status")
    person.type("rubbish\x15info statis\x1b[Du\x1b[3~\x05s\x02\x06\x0b\x17info status\n")  # Ctrl-U, left, Delete, -E, -B, -F, -K, -W
    person.until(b"\n")
    person.until(b"(qemu) ")


def test_history(person):
    assert person.run("info name") == "Ada\n"
    person.run("info uuid")
    person.type("\x1b[A\x1b[A\n")
    assert "Ada\r\n(qemu) " in person.until(b"Ada\r\n(qemu) ")
    person.type("draft\x10\x0e")  # Ctrl-P, Ctrl-N: the draft is back
    assert person.until(b"info name") and person.until(b"draft")


def test_completion(person):
    person.type("info statu\t")
    assert person.until(b"info status ")
    person.type("\n")
    assert person.until(b"VM status: running")
    person.until(b"(qemu) ")
    person.type("system_\t")
    text = person.until(b"(qemu) system_")
    assert "system_reset" in text and "system_powerdown" in text


def test_nonsense_does_no_harm(person, machine):
    person.type(bytes(range(256)) * 8 + b"\x1b[999999999999~\x1bO\x1b\x1b[" + b"x" * 70000 + b"\x15\n")
    time.sleep(0.3)
    assert machine.cmd("query-status")["running"] is True


def test_help_lists_everything(machine):
    text = machine.hmp("help")
    for name in "cont|c", "stop|s", "quit|q", "device_add", "block_copy", "xp", "info":
        assert re.search(rf"^{re.escape(name)} .*-- ", text, flags=re.M), name
    assert re.search(r"^info registers ", machine.hmp("info"), flags=re.M)
