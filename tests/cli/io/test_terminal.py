# SPDX-License-Identifier: BSD-2-Clause
"""At a terminal: what is typed is shown and edited, and the terminal is as it was afterwards."""
import os, pty, re, select, signal, termios, time

import pytest
from sterna import alias, program, reference, run


class Typed:
    def __init__(self, path, *args, cwd):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.environ["LC_ALL"] = "C"
            os.execv(path, [path, *args])
        self.out = b""

    def wait_for(self, text):
        """Reads until the text comes; returns what came up to its end."""
        end = time.monotonic() + 60
        while text not in self.out:
            assert time.monotonic() < end, self.out
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    got = os.read(self.fd, 65536)
                except OSError: # nobody has the terminal's other end any more
                    got = b""
                assert got, self.out
                self.out += got
        at = self.out.index(text) + len(text)
        self.out, came = self.out[at:], self.out[:at]
        return came

    def type(self, text):
        os.write(self.fd, text)

    def end(self):
        status = os.waitpid(self.pid, 0)[1]
        os.close(self.fd)
        return status


@pytest.fixture
def typed(tmp_path):
    with open(tmp_path / "raw", "wb") as f:
        f.truncate(1 << 20)
    t = Typed(alias(tmp_path, "qemu-io", "sterna-io"), "-f", "raw", "raw", cwd=tmp_path)
    t.wait_for(b"qemu-io> ")
    return t


def test_a_line(typed):
    typed.type(b"length\n")
    assert typed.wait_for(b"qemu-io> ") == b"length\r\n1 MiB\r\nqemu-io> "
    typed.type(b"\x04")
    typed.wait_for(b"\r\n")
    assert os.waitstatus_to_exitcode(typed.end()) == 0


def test_editing_history_and_completion(typed):
    typed.type(b"lenXgth\x02\x02\x02\x02\x04\n") # four to the left, delete
    assert b"1 MiB" in typed.wait_for(b"iB\r\nqemu-io> ")
    typed.type(b"\x1b[A\n")
    assert b"1 MiB" in typed.wait_for(b"iB\r\nqemu-io> ")
    typed.type(b"all\x7f\to 0\n".replace(b"\to", b"\t")) # "al" completed
    assert b"512/512 bytes allocated" in typed.wait_for(b"bytes\r\nqemu-io> ")
    typed.type(b"quit\n")
    assert os.waitstatus_to_exitcode(typed.end()) == 0


def test_several_lines_at_once_and_a_failure(typed):
    typed.type(b"foo\nlength\nquit\n")
    came = typed.wait_for(b"1 MiB\r\n")
    assert b'command "foo" not found' in came
    assert os.waitstatus_to_exitcode(typed.end()) == 1


def test_asynchronous_requests_end_while_it_waits(typed):
    typed.type(b"aio_write 0 64k\n")
    assert b"wrote 65536/65536 bytes at offset 0" in typed.wait_for(b"ops/sec)\r\n")
    typed.type(b"quit\n")
    assert os.waitstatus_to_exitcode(typed.end()) == 0


def test_the_terminal_is_as_it_was(tmp_path):
    """Also when a signal or a crash ends the program."""
    with open(tmp_path / "raw", "wb") as f:
        f.truncate(1 << 20)
    for how in (b"quit\n", b"\x04", b"\x03", b"sigraise 9\n", b"abort\n"):
        pid, fd = pty.fork()
        if pid == 0:
            os.chdir(tmp_path)
            os.execv("/bin/sh", ["sh", "-c", f"ulimit -c 0; {program('sterna-io')} -f raw raw; trap : INT; echo; echo over; read x"])
        before, out = termios.tcgetattr(fd), b""
        def upto(text):
            nonlocal out
            end = time.monotonic() + 60
            while text not in out and time.monotonic() < end:
                if select.select([fd], [], [], 0.2)[0]:
                    out += os.read(fd, 65536)
            assert text in out, (how, out)
        upto(b"sterna-io> ")
        assert not termios.tcgetattr(fd)[3] & termios.ECHO
        os.write(fd, how)
        if how == b"\x03":
            time.sleep(0.3) # the shell gets the signal too
        else:
            upto(b"over")
        end = time.monotonic() + 60
        while termios.tcgetattr(fd)[:4] != before[:4] and time.monotonic() < end:
            time.sleep(0.05)
        assert termios.tcgetattr(fd)[:4] == before[:4], how
        os.close(fd)
        os.waitpid(pid, 0)


def test_what_the_screen_shows_is_what_qemu_io_shows(tmp_path):
    """Once the escapes that move the cursor have been carried out."""
    def screen(raw):
        lines, at = [""], 0
        for token in re.findall(r"\x1b\[(\d*)([A-Za-z])|([\s\S])", raw):
            n, letter, char = token
            if letter == "D":
                at = max(0, at - int(n or 1))
            elif letter == "K":
                lines[-1] = lines[-1][:at]
            elif char == "\r":
                at = 0
            elif char == "\n":
                lines.append(lines[-1][at:at] + "" if at else "")
                at = 0
            elif char:
                lines[-1] = lines[-1][:at] + char + lines[-1][at + 1:]
                at += 1
        return lines
    shown = []
    for path in (reference("qemu-io"), alias(tmp_path, "qemu-io", "sterna-io")):
        with open(tmp_path / "raw", "wb") as f:
            f.truncate(1 << 20)
        t = Typed(path, "-f", "raw", "raw", cwd=tmp_path)
        raw = t.wait_for(b"qemu-io> ")
        for line, answer in ((b"length\n", b"iB\r\nqemu-io> "), (b"alloX\x7fc 0\n", b"bytes\r\nqemu-io> "), (b"foo\n", b"found\r\nqemu-io> "), (b"\x04", b"\r\n")):
            t.type(line)
            raw += t.wait_for(answer)
        t.end()
        shown.append(screen(raw.decode()))
    assert shown[0] == shown[1]
