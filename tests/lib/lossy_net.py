# SPDX-License-Identifier: BSD-2-Clause
"""Two hosts with a bad network between them: network namespaces joined by a link that delays, and loses packets.

    net = LossyNet("netem", delay_ms=5, loss=0.02)
    net.run(0)                    words before a command that make it run on the first host, whose address is net.address[0]
    net.down(), net.up()          the link loses everything, or is as it was
    net.close()

"netem" is a pair of virtual Ethernet devices with the kernel's network emulator on both. "tun" is for hosts whose kernel does not have
that: each namespace has a TUN device, and a thread here carries the packets. Needs root; why_not() says what is missing.
"""
import ctypes, fcntl, heapq, itertools, os, random, select, struct, subprocess, threading, time

NUMBERS = itertools.count()
TUNSETIFF, IFF_TUN, IFF_NO_PI, CLONE_NEWNET = 0x400454ca, 1, 0x1000, 0x40000000


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


def tc(*words):
    return subprocess.run(["tc", *words], capture_output=True, text=True, check=True)


def why_not(kind):
    """None: it can be had here."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        LossyNet(kind, 1, 0).close()
    except (OSError, subprocess.CalledProcessError) as x:
        return f"no {kind}: {(getattr(x, 'stderr', None) or str(x)).strip()}"
    return None


class Carrier(threading.Thread):
    """Takes packets from one TUN device to the other."""

    def __init__(self, names, delay_ms, loss):
        super().__init__(daemon=True)
        self.names, self.delay, self.loss, self.lost = names, delay_ms / 1000, loss, 0
        self.random, self.fds, self.error, self.ready = random.Random(1), [], None, threading.Event()
        self.end, self.wake = os.pipe()
        self.start()
        self.ready.wait()
        if self.error:
            raise self.error

    def open(self, name):
        """A device in that namespace, which this thread enters for it."""
        with open(f"/run/netns/{name}", encoding="ascii") as ns:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(ns.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns to {name}")
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.fds.append(fd)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"wire", IFF_TUN | IFF_NO_PI))

    def run(self):
        try:
            for name in self.names:
                self.open(name)
        except OSError as x:
            self.error = x
        self.ready.set()
        if not self.error:
            self.carry()
        for fd in self.fds:
            os.close(fd)

    def carry(self):
        due = []
        while True:
            wait = max(due[0][0] - time.monotonic(), 0) if due else None
            ready = select.select([*self.fds, self.end], [], [], wait)[0]
            if self.end in ready:
                return
            for fd in ready:
                packet = os.read(fd, 65536)
                if self.random.random() >= self.loss and not self.lost:
                    heapq.heappush(due, (time.monotonic() + self.delay, next(NUMBERS), self.fds[1 - self.fds.index(fd)], packet))
            while due and due[0][0] <= time.monotonic():
                _, _, to, packet = heapq.heappop(due)
                try:
                    os.write(to, packet)
                except OSError:
                    pass  # no room, or no address yet: lost as well

    def close(self):
        os.write(self.wake, b"x")
        self.join(10)
        os.close(self.wake)
        os.close(self.end)


class LossyNet:
    def __init__(self, kind, delay_ms, loss):
        number = next(NUMBERS)
        self.names = [f"sterna-{os.getpid()}-{number}-{i}" for i in range(2)]
        self.address, self.carrier, self.how = ("10.99.0.1", "10.99.0.2"), None, ("delay", f"{delay_ms}ms", "loss", f"{loss:%}")
        try:
            for name in self.names:
                ip("netns", "add", name)
            if kind == "netem":
                ip("link", "add", "wire", "netns", self.names[0], "type", "veth", "peer", "name", "wire", "netns", self.names[1])
                for name in self.names:
                    tc("-n", name, "qdisc", "add", "dev", "wire", "root", "netem", *self.how)
            else:
                self.carrier = Carrier(self.names, delay_ms, loss)
            for name, address in zip(self.names, self.address):
                ip("-n", name, "addr", "add", address + "/24", "dev", "wire")
                ip("-n", name, "link", "set", "wire", "up")
        except BaseException:
            self.close()
            raise

    def run(self, host):
        return "ip", "netns", "exec", self.names[host]

    def emulate(self, *how):
        for name in self.names:
            tc("-n", name, "qdisc", "change", "dev", "wire", "root", "netem", *how)

    def down(self):
        if self.carrier:
            self.carrier.lost = True
        else:
            self.emulate("loss", "100%")

    def up(self):
        if self.carrier:
            self.carrier.lost = False
        else:
            self.emulate(*self.how)

    def close(self):
        if self.carrier:
            self.carrier.close()
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
