# SPDX-License-Identifier: BSD-2-Clause
"""-nographic on a terminal: the keys after Ctrl-A, the terminal's modes; and the pty chardev."""
import os, pty, re, select, signal, subprocess, termios, time

import pytest
from sterna import program

IDLE = ["-M", "virt", "-S", "-m", "16"]


class Terminal:
    def __init__(self, *args):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen([program("sterna"), *args], stdin=self.slave, stdout=self.slave, stderr=self.slave, start_new_session=True)
        self.text = ""

    def send(self, text):
        os.write(self.master, text.encode())

    def wait(self, pattern, timeout=60):
        """Reads until the pattern is there; what came before and with it is forgotten."""
        end = time.monotonic() + timeout
        while not (m := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
        self.text = self.text[m.end():]
        return m

    def modes(self):
        return termios.tcgetattr(self.slave)

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def terminal():
    made = []

    def start(*args):
        made.append(Terminal(*args))
        return made[-1]
    yield start
    for t in made:
        t.close()


def ready(t):
    """Waits until the program has the terminal: keys typed before may be lost when its modes change."""
    for _ in range(200):
        if not t.modes()[3] & termios.ICANON:
            return
        time.sleep(0.02)
    raise AssertionError("the terminal is still in line mode")


def test_keys(terminal):
    t = terminal("-nographic", *IDLE)
    ready(t)
    t.send("\x01h")
    t.wait(r"(?s)^\s*C-a h.*C-a x.*C-a c.*C-a C-a[^\r\n]*[\r\n]+")      # nothing came before: the monitor greets when it is called
    t.send("\x01c")
    t.wait(r"^\w+ [\d.]+ monitor - type 'help' for more information\r+\n\(\w+\) ")
    t.send("info status\r")
    t.wait(r"VM status: paused \(prelaunch\)\r+\n\(\w+\) ")
    t.send("\x01c")     # back to the serial port, where nobody answers
    t.send("info name\r")
    t.send("\x01c")
    t.send("info version\r")
    assert "unknown" not in t.wait(r"(?s).*\d+\.\d+\.\d+.*\r\n").group()
    t.send("\x01x")
    t.wait("[Tt]erminated")
    assert t.process.wait(60) == 0
    assert t.modes() == t.before


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_terminal_is_restored_after_signals(terminal, sig):
    t = terminal("-nographic", *IDLE)
    ready(t)
    t.process.send_signal(sig)
    t.wait(rf"terminating on signal {int(sig)} from pid {os.getpid()} \(")
    assert t.process.wait(60) == 0
    assert t.modes() == t.before


def test_ctrl_c_ends_a_plain_monitor_but_not_the_guest(terminal):
    t = terminal("-nodefaults", "-display", "none", "-monitor", "stdio", *IDLE)
    ready(t)
    t.wait(r"\(\w+\) ")
    assert t.modes()[3] & termios.ISIG
    t.send("quit\r")
    assert t.process.wait(60) == 0
    assert t.modes() == t.before


def test_nographic_leaves_ctrl_c_to_the_guest(terminal):
    t = terminal("-nographic", *IDLE)
    ready(t)
    assert not t.modes()[3] & termios.ISIG
    t.send("\x03")
    t.send("\x01c")
    t.wait(r"\(\w+\) ")
    assert t.process.poll() is None


def test_line_editing_and_completion(terminal):
    t = terminal("-nodefaults", "-display", "none", "-monitor", "stdio", *IDLE)
    ready(t)
    t.wait(r"\(\w+\) ")
    t.send("info statsu\x08\x08us\r")
    t.wait(r"VM status: paused")
    t.wait(r"\(\w+\) ")
    t.send("\x1b[A\r")      # the line before, again
    t.wait(r"VM status: paused")
    t.wait(r"\(\w+\) ")
    t.send("info stat\t\x15quit\r")
    assert t.process.wait(60) == 0


def test_pty_chardev_tells_its_name(tmp_path):
    p = subprocess.Popen([program("sterna"), "-display", "none", "-nodefaults", "-S", "-monitor", "pty"], stdout=subprocess.PIPE, text=True)
    try:
        name = re.fullmatch(r"char device redirected to (/dev/pts/\d+) \(label compat_monitor0\)\n", p.stdout.readline()).group(1)
        fd = os.open(name, os.O_RDWR | os.O_NOCTTY)
        text, end = b"", time.monotonic() + 60
        os.write(fd, b"info name\r")
        while text.count(b"(qemu) ") < 2 and time.monotonic() < end:
            if select.select([fd], [], [], 0.1)[0]:
                text += os.read(fd, 4096)
        assert re.fullmatch(rb"\w+ [\d.]+ monitor - type 'help' for more information\r\n\(qemu\) info name\r\n\(qemu\) ", text)
        os.write(fd, b"quit\r")
        assert p.wait(60) == 0
        os.close(fd)
    finally:
        p.kill()
        p.wait()
        p.stdout.close()
