# SPDX-License-Identifier: BSD-2-Clause
"""A virtual machine as seen from outside: its process, its serial port with times, its QMP socket.

For ./demo, ./bench and the whole-machine tests. Works with any VMM that takes QEMU's command line and QMP, so that a
peer is measured by the very same code.
"""
import json, os, re, select, socket, subprocess, tempfile, threading, time


class VMError(Exception):
    pass


class VM:
    """binary: program to run; guest: folder with Image and sterna.ird; run: what the guest shall do (blanks allowed, ';' between
    commands). The guest starts at cont(). made=False: what the machine is made of is in a state file, or comes to it.
    prefix, more: words before the binary, and behind all others."""

    APPEND = "console=ttyS0 quiet run="  # what the guest shall do follows

    def __init__(self, binary, guest, run, extra=(), mem=256, tmp=None, machine="virt", on_line=None, made=True, prefix=(), more=()):
        self.dir = tempfile.mkdtemp(prefix="vm-", dir=tmp)
        self.qmp_path, serial = os.path.join(self.dir, "qmp"), os.path.join(self.dir, "serial")
        words = ["-M", machine, "-m", str(mem), "-no-reboot", "-kernel", f"{guest}/Image", "-initrd", f"{guest}/sterna.ird",
                 "-append", self.APPEND + run.replace(" ", "+")] if made else []
        self.cmd_line = [*prefix, binary, "-nodefaults", "-display", "none", "-S", *words,
                         "-chardev", f"socket,id=ser,path={serial},server=on,wait=off", "-serial", "chardev:ser",
                         "-qmp", f"unix:{self.qmp_path},server=on,wait=off", *extra, *more]
        self.lines, self.ticks, self.events = [], [], []
        self.cond, self.on_line, self.mem = threading.Condition(), on_line, mem
        self.stderr_path = os.path.join(self.dir, "stderr")
        self.t_spawn = time.monotonic()
        with open(self.stderr_path, "wb") as log:
            self.process = subprocess.Popen(self.cmd_line, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.serial = self._connect(serial)
        threading.Thread(target=self._read_serial, daemon=True).start()
        self.lock = threading.Lock()
        self.connect_qmp()

    def connect_qmp(self):
        self.qmp_socket = self._connect(self.qmp_path)
        self.qmp = self.qmp_socket.makefile("rwb", buffering=0)
        self.greeting = json.loads(self.qmp.readline())
        self.cmd("qmp_capabilities")

    def stderr(self):
        with open(self.stderr_path, errors="replace") as f:
            return f.read()

    def _connect(self, path):
        for _ in range(4000):
            s = socket.socket(socket.AF_UNIX)
            try:
                s.connect(path)
                return s
            except OSError:
                s.close()
                if self.process.poll() is not None:
                    raise VMError("ended at once: " + self.stderr())
                time.sleep(0.0025)
        raise VMError(f"no socket {path}")

    def _read_serial(self):
        buf = b""
        while True:
            try:
                data = self.serial.recv(65536)
            except OSError:
                return
            if not data:
                return
            now = time.monotonic()
            with self.cond:
                self.ticks += [now] * data.count(b".")
                buf += data
                while b"\n" in buf:
                    line, buf = buf.split(b"\n", 1)
                    text = line.decode(errors="replace").replace("\r", "").lstrip(".")
                    self.lines.append((now, text))
                    if self.on_line:
                        self.on_line(text)
                self.cond.notify_all()

    def type(self, text):
        self.serial.sendall(text.encode())

    def wait(self, pattern, timeout=180):
        """The first serial line (time, text) that matches, from the beginning."""
        end, i = time.monotonic() + timeout, 0
        with self.cond:
            while True:
                while i < len(self.lines):
                    if re.search(pattern, self.lines[i][1]):
                        return self.lines[i]
                    i += 1
                if self.process.poll() is not None:
                    raise VMError(f"ended while waiting for '{pattern}': {self.stderr()} {self.lines[-5:]}")
                if time.monotonic() > end:
                    raise VMError(f"no '{pattern}' within {timeout} s; last lines: {self.lines[-5:]}")
                self.cond.wait(0.25)

    def _read(self, timeout=120):
        """The next message; the stream is not buffered, so that select tells whether there is one."""
        if not select.select([self.qmp], [], [], max(timeout, 0))[0]:
            raise VMError(f"the monitor is silent for {timeout:.0f} s: {self.stderr()}")
        line = self.qmp.readline()
        if not line:
            raise VMError("monitor closed: " + self.stderr())
        o = json.loads(line)
        if "event" in o:
            o["at"] = time.monotonic()
            self.events.append(o)
        return o

    def cmd(self, name, **args):
        """Runs a QMP command ('_' in argument names means '-', unless the name ends the word with '__')."""
        with self.lock:
            message = {"execute": name}
            if args:
                message["arguments"] = {k[:-2].replace("__", "_") if k.endswith("__") else k.replace("_", "-"): v for k, v in args.items()}
            self.qmp.write(json.dumps(message).encode() + b"\n")
            while True:
                o = self._read()
                if "event" in o:
                    continue
                if "error" in o:
                    raise VMError(f"{name}: {o['error']['desc']}")
                return o["return"]

    def event(self, name, timeout=300, **data):
        """The first event of this name with these data members, from the beginning."""
        def match(e):
            return e["event"] == name and all(e.get("data", {}).get(k.replace("_", "-")) == v for k, v in data.items())
        for e in self.events:
            if match(e):
                return e
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if not select.select([self.qmp], [], [], end - time.monotonic())[0]:
                break
            o = self._read()
            if "event" in o and match(o):
                return o
        raise VMError(f"no event {name} within {timeout} s")

    def start(self):
        self.t_cont = time.monotonic()
        self.cmd("cont")
        return self

    def longest_gap_ms(self, a, b):
        """The longest time without a tick of the guest that touches [a, b]."""
        with self.cond:
            t = [x for x in self.ticks if a - 0.5 <= x <= b + 0.5]
        gaps = [(y - x) * 1000 for x, y in zip(t, t[1:]) if y >= a and x <= b]
        return max(gaps) if gaps else None

    def memory_mib(self):
        """(all, beyond the guest's RAM): proportional set size of the process; the guest's RAM is the mapping of its size."""
        total = ram = size = 0
        with open(f"/proc/{self.process.pid}/smaps") as f:
            for line in f:
                m = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
                if m:
                    size = int(m.group(2), 16) - int(m.group(1), 16)
                elif line.startswith("Pss:"):
                    pss = int(line.split()[1]) / 1024
                    total += pss
                    if size == self.mem << 20:
                        ram += pss
        return total, total - ram

    def cpu_seconds(self):
        with open(f"/proc/{self.process.pid}/stat") as f:
            v = f.read().rsplit(")", 1)[1].split()
        return (int(v[11]) + int(v[12])) / os.sysconf("SC_CLK_TCK")

    def quit(self):
        try:
            self.cmd("quit")
        except (OSError, VMError, ValueError):
            pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def disk(path, node="disk", fmt="qcow2", device="disk0"):
    """Arguments for a virtio disk on an image."""
    return ["-blockdev", f"driver=file,filename={path},node-name={node}-file",
            "-blockdev", f"driver={fmt},file={node}-file,node-name={node}",
            "-device", f"virtio-blk-pci,drive={node},id={device}"]
