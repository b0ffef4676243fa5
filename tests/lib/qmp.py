# SPDX-License-Identifier: BSD-2-Clause
"""A small synchronous QMP client.

    with qmp.connect(path) as q:
        q.cmd("blockdev-add", driver="null-co", node_name="n")      '_' in names means '-'; args={…} takes them as they are
        q.event("JOB_STATUS_CHANGE", id="j", status="ready")
"""
import array, json, socket, time


class QMPError(Exception):
    """What a command answered instead of a result."""

    def __init__(self, command, error):
        super().__init__(f"{command}: {error['class']}: {error['desc']}")
        self.cls, self.desc = error["class"], error["desc"]


class QMP:
    def __init__(self, sock, negotiate=True, timeout=60, capabilities=()):
        self.sock, self.buf, self.events, self.timeout = sock, b"", [], timeout
        self.greeting = self.read()
        if negotiate:
            self.cmd("qmp_capabilities", args={"enable": list(capabilities)} if capabilities else None)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def close(self):
        self.sock.close()

    def send(self, data, fds=()):
        """Bytes as they are, or anything that JSON can say."""
        if not isinstance(data, bytes):
            data = json.dumps(data).encode() + b"\n"
        if fds:
            self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
        else:
            self.sock.sendall(data)

    def read_line(self, timeout=None):
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while b"\n" not in self.buf:
            self.sock.settimeout(max(end - time.monotonic(), 0.001))
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("the monitor is gone")
            self.buf += data
        line, self.buf = self.buf.split(b"\n", 1)
        return line + b"\n"

    def read(self, timeout=None):
        """The next message of any kind."""
        return json.loads(self.read_line(timeout))

    def answer(self, timeout=None):
        """The next answer; events on the way are kept."""
        while True:
            m = self.read(timeout)
            if "event" not in m:
                return m
            self.events.append(m)

    def cmd(self, command, args=None, fds=(), timeout=None, **kwargs):
        """The result of a command, or QMPError."""
        message = {"execute": command}
        if args is None and kwargs:
            args = {k.replace("_", "-"): v for k, v in kwargs.items()}
        if args is not None:
            message["arguments"] = args
        self.send(message, fds)
        m = self.answer(timeout)
        if "error" in m:
            raise QMPError(command, m["error"])
        return m["return"]

    def when_unused(self, command, **kwargs):
        """Ends an export: who has let go of it is heard of a moment later."""
        end = time.monotonic() + self.timeout
        while True:
            try:
                return self.cmd(command, **kwargs)
            except QMPError as e:
                if "still in use" not in e.desc or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    def hmp(self, line):
        """What the human monitor prints for a line."""
        return self.cmd("human-monitor-command", args={"command-line": line}).replace("\r\n", "\n")

    def event(self, name, timeout=None, **data):
        """The first event of this name and data that has not been asked for; it is forgotten then."""
        def match(e):
            have = e.get("data", {})
            return e["event"] == name and all(have.get(k.replace("_", "-"), have.get(k)) == v for k, v in data.items())
        end = time.monotonic() + (self.timeout if timeout is None else timeout)
        while True:
            for i, e in enumerate(self.events):
                if match(e):
                    return self.events.pop(i)
            m = self.read(end - time.monotonic())
            assert "event" in m, f"an answer that nobody asked for: {m}"
            self.events.append(m)


def connect(path, negotiate=True, timeout=60, alive=lambda: True, capabilities=()):
    """Connects to a Unix socket, waiting for it to appear as long as alive()."""
    end = time.monotonic() + timeout
    while True:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(path)
            return QMP(s, negotiate, timeout, capabilities)
        except (FileNotFoundError, ConnectionRefusedError):
            s.close()
            if time.monotonic() > end or not alive():
                raise
            time.sleep(0.01)
