# SPDX-License-Identifier: BSD-2-Clause
"""A running sterna: as QEMU's Python machine class starts a VM, and with sockets for monitors."""
import os, socket, subprocess, time

import qmp
from sterna import program


class Machine:
    """The program, begun by `prefix`, with QMP on an inherited file descriptor, and qtest where asked."""

    def __init__(self, tmp, *args, qtest=True, base=("-display", "none", "-vga", "none"), prefix=()):
        ours, theirs = socket.socketpair()
        os.set_inheritable(theirs.fileno(), True)
        words = [*prefix, program("sterna"), *base, "-chardev", f"socket,id=mon,fd={theirs.fileno()}", "-mon", "chardev=mon,mode=control"]
        self.qtest_buf, self.qtest = b"", None
        if qtest:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp / "qtest.sock"))
            listener.listen(1)
            listener.settimeout(0.5)
            words += ["-qtest", f"unix:path={tmp}/qtest.sock", "-accel", "qtest"]
        self.log = open(tmp / "stderr", "w+")
        self.process = subprocess.Popen([*words, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        close_fds=False)
        theirs.close()
        if qtest:
            self.qtest = self.connected(listener)
            self.qtest.settimeout(60)
            listener.close()
        self.qmp = qmp.QMP(ours)

    def connected(self, listener):
        end = time.monotonic() + 60
        while True:
            try:
                return listener.accept()[0]
            except TimeoutError:
                with open(self.log.name, encoding="utf-8") as said:
                    assert self.process.poll() is None and time.monotonic() < end, said.read()

    def ask(self, line):
        """What the qtest protocol answers; RAM that is still to come is waited for if it comes."""
        end = time.monotonic() + 60
        while True:
            answer = self.ask_once(line)
            if "has not come yet" not in answer or time.monotonic() > end:
                return answer

    def ask_once(self, line):
        """The same, but RAM that is still to come is only asked for."""
        self.qtest.sendall(line.encode() + b"\n")
        return self.line()

    def line(self):
        while b"\n" not in self.qtest_buf:
            data = self.qtest.recv(65536)
            assert data, "qtest is gone"
            self.qtest_buf += data
        line, self.qtest_buf = self.qtest_buf.split(b"\n", 1)
        return line.decode()

    def cpu_seconds(self):
        """What it has had of the processors: what something costs, however busy they are."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def quit(self):
        """Ends it; the exit code and what it printed on standard error."""
        if self.process.poll() is None:
            try:
                self.qmp.cmd("quit")
            except (OSError, EOFError):
                pass
        rc = self.process.wait(60)
        self.log.seek(0)
        return rc, self.log.read()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()
        self.qmp.close()
        if self.qtest:
            self.qtest.close()
