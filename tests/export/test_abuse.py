# SPDX-License-Identifier: BSD-2-Clause
"""Many clients at once that mean no good, and one that does: it is served right and soon, and nothing of the others is left behind."""
import contextlib, multiprocessing, os, random, socket, threading, time

import pytest
from sterna import program, run, sanitized
from test_tls import context, pki, x509  # pylint: disable=unused-import
from wire import *

MIB = 1 << 20
SIZE = 64 * MIB
HONEST = 16 * MIB   # the beginning, which nobody else writes to
LIMIT = 1           # seconds to choose an export
SECONDS = 2.5       # of abuse
MAX_LATENCY = 1.5
MAX_MEMORY = 640 * MIB  # of thousands that are asked for
MAX_FDS = 370       # each who stays has one, and some replies wait with one of the file


# --- those who stay, and do nothing more ------------------------------------------------------------------------------

def in_transmission(path, mode="simple"):
    w = Wire(path).greet()
    if mode != "simple":
        w.ok({"structured": STRUCTURED, "extended": EXTENDED}[mode])
    return w.go()


def says_nothing(path):
    return Wire(path)


def says_no_more_than_hello(path):
    return Wire(path).greet()


def half_an_option(path):
    w = Wire(path).greet()
    w.send(b"IHAVEOPT\0\0\0")
    return w


def option_without_its_data(path):
    w = Wire(path).greet()
    w.send_opt(GO, b"abc", length=MIB)
    return w


def half_a_request(path):
    w = in_transmission(path)
    w.send(w.header(READ, 0, 512)[:13])
    return w


def half_a_payload(path):
    w = in_transmission(path)
    w.send(w.header(WRITE, HONEST, 32 * MIB) + bytes(1000))
    return w


def never_reads(path, length=MIB):
    w = in_transmission(path, random.choice(["simple", "structured"]))
    w.send(b"".join(w.header(READ, HONEST, length, cookie=n) for n in range(400)))
    return w


def never_reads_little(path):
    return never_reads(path, 65536)


def says_good_bye_and_never_reads(path):
    w = in_transmission(path)
    w.send(b"".join(w.header(READ, HONEST, MIB, cookie=n) for n in range(100)) + w.header(DISC))
    w.sock.shutdown(socket.SHUT_WR)
    return w


STAYING = [says_nothing, says_no_more_than_hello, half_an_option, option_without_its_data, half_a_request, half_a_payload,
           never_reads, never_reads_little, says_good_bye_and_never_reads]


# --- those who come again and again -----------------------------------------------------------------------------------

def comes_and_goes(path):
    for _ in range(100):
        Wire(path).close()


def leaves_in_mid_write(path):
    with in_transmission(path) as w:
        w.send(w.header(WRITE, HONEST, MIB) + bytes(random.randrange(MIB)))


def leaves_in_mid_reply(path):
    with in_transmission(path) as w:
        w.send(b"".join(w.header(READ, HONEST, MIB, cookie=n) for n in range(16)))
        w.recv(random.randrange(1, 3 * MIB))


def huge_lengths(path):
    with in_transmission(path, "extended") as w:
        for kind in (READ, ZEROES, TRIM, CACHE, STATUS):
            assert w.do(kind, 512, (1 << 64) - 1) and w.do(kind, (1 << 63) - 1, 1 << 63)
        w.send(w.header(WRITE, HONEST, (1 << 64) - 1, PAYLOAD))
        assert w.is_closed()
    with in_transmission(path) as w:
        assert w.do(READ, 0, (1 << 32) - 1)
        w.send(w.header(WRITE, HONEST, (1 << 32) - 1))
        assert w.is_closed()


def nonsense_options(path):
    with Wire(path).greet() as w:
        for _ in range(50):
            w.error(random.randrange(20, 1 << 32), random.randbytes(random.randrange(2000)))
            w.opt(random.choice([INFO, LIST_META, SET_META, LIST, STRUCTURED]), random.randbytes(random.randrange(40)))
        w.send_opt(GO, length=(1 << 32) - 1)
        assert w.is_closed()


def noise(path):
    with Wire(path) as w:
        w.send(random.randbytes(4000))
    with in_transmission(path) as w:
        w.send(random.randbytes(4000))
        assert w.is_closed()


COMING = [comes_and_goes, leaves_in_mid_write, leaves_in_mid_reply, huge_lengths, nonsense_options, noise]


# --- those who send without end, and read all that they get -----------------------------------------------------------

def send_all_the_time(w, what, until):
    w.sock.setblocking(False)
    left = memoryview(what)
    while time.monotonic() < until:
        with contextlib.suppress(BlockingIOError):
            left = left[w.sock.send(left):] or memoryview(what)
        with contextlib.suppress(BlockingIOError):
            while w.sock.recv(1 << 20):
                pass


def flood(path, what, until):
    while time.monotonic() < until:
        with contextlib.suppress(Closed, OSError), Wire(path).greet() as w:
            send_all_the_time(w, what, until)  # or until the time limit


def flood_of_options(path, until):
    flood(path, (b"IHAVEOPT" + struct.pack(">II", 77, 0)) * 65536, until)


def flood_of_long_options(path, until):
    flood(path, b"IHAVEOPT" + struct.pack(">II", 77, 32 * MIB) + bytes(32 * MIB), until)


FLOODS = [flood_of_options, flood_of_long_options]


# --- all together -----------------------------------------------------------------------------------------------------

def again_and_again(fn, path, until):
    while time.monotonic() < until:
        with contextlib.suppress(Closed, OSError):
            fn(path)


def stay(fn, *args):
    while True:
        with contextlib.suppress(Closed, OSError):  # a crowd at the door; or it took longer than it may
            return fn(*args)


def abuse(path, until, done):
    """In a process of its own, whose end ends every connection of it."""
    kept = [stay(fn, path) for fn in STAYING for _ in range(6)]
    threads = [threading.Thread(target=again_and_again, args=(fn, path, until)) for fn in COMING]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    done.wait()
    assert kept


def status(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return int(next(line for line in f if line.startswith(field + ":")).split()[1]) * 1024


def fds(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


class Honest:
    """Writes, reads it again, and looks at the clock: beside it, at how long this machine makes anybody wait."""

    def __init__(self, wire):
        self.w, self.model, self.latency, self.rounds = wire, bytearray(HONEST), 0, 0

    def timed(self, fn, *args):
        start = time.monotonic()
        result = fn(*args)
        self.latency = max(self.latency, time.monotonic() - start)
        return result

    def one_round(self):
        off, n = random.randrange(HONEST - 65536), random.randrange(1, 65536)
        data = random.randbytes(n)
        self.model[off:off + n] = data
        assert self.timed(self.w.write, off, data) == 0
        off = random.randrange(HONEST - 65536)
        assert self.timed(self.w.read, off, 65536) == self.model[off:off + 65536]
        if self.rounds % 16 == 0:
            assert self.timed(self.w.do, FLUSH) == 0
        self.rounds += 1

    def work(self, until, look=lambda: None):
        stalls, stop = [0], threading.Event()

        def watch():
            while not stop.is_set():
                before = time.monotonic()
                time.sleep(0.01)
                stalls[0] = max(stalls[0], time.monotonic() - before)

        t = threading.Thread(target=watch)
        t.start()
        try:
            while time.monotonic() < until or self.rounds < 3:
                self.one_round()
                look()
        finally:
            stop.set()
            t.join()
        assert self.latency < MAX_LATENCY + 3 * stalls[0], f"{self.latency} s, {self.rounds} rounds"


def until_it_is(value, want, seconds=60):
    end = time.monotonic() + seconds
    while value() > want and time.monotonic() < end:
        time.sleep(0.05)
    return value()


def run_abuse(s, honest, functions, seconds=SECONDS):
    """`functions`: with the path, when to end, and (the first) until when to stay."""
    fork = multiprocessing.get_context("fork")
    until, done = time.monotonic() + seconds, fork.Event()
    before = fds(s.proc.pid)
    first = fork.Process(target=functions[0], args=(s.path, until, done))
    crowd = [first] + [fork.Process(target=fn, args=(s.path, until)) for fn in functions[1:]]
    for p in crowd:
        p.start()
    try:
        seen, end = [before], until + 60
        honest.work(until, lambda: seen.append(fds(s.proc.pid)))
        while max(seen) == before and time.monotonic() < end:  # they have not begun as yet
            seen.append(fds(s.proc.pid))
        done.set()
        for p in crowd:
            p.join(60)
            assert p.exitcode == 0, f"{p} ended with {p.exitcode}"
    finally:
        for p in crowd:
            p.kill()
    assert before < max(seen) < before + MAX_FDS
    assert until_it_is(lambda: fds(s.proc.pid), before) == before
    honest.work(time.monotonic() + 0.2)
    if not sanitized("sterna-nbd"):
        assert status(s.proc.pid, "VmHWM") < MAX_MEMORY


def image(tmp_path, fmt="raw"):
    path = tmp_path / "big"
    with open(path, "wb") as f:
        f.truncate(SIZE)
        f.seek(HONEST)
        f.write(b"x" * MIB)
    if fmt == "raw":
        return path
    run(program("sterna-img"), "convert", "-f", "raw", "-O", fmt, path, tmp_path / fmt).ok()
    return tmp_path / fmt


@pytest.mark.parametrize("engine,fmt", [("uring", "raw"), ("epoll", "qcow2")])
def test_abuse(serve, tmp_path, engine, fmt):
    s = serve("-t", "-e", 0, "-f", fmt, f"--handshake-limit={LIMIT}", image(tmp_path, fmt))
    honest = Honest(stay(s.open, "structured"))
    run_abuse(s, honest, [abuse, *FLOODS])
    silent, deaf = says_nothing(s.path), [stay(never_reads, s.path) for _ in range(4)]
    assert silent.is_closed()  # by the time limit
    assert honest.w.read(0, HONEST) == honest.model and honest.w.read(HONEST, MIB) == b"x" * MIB
    honest.w.disconnect()
    s.stop()  # though somebody is there who does not read
    assert deaf


# --- TLS --------------------------------------------------------------------------------------------------------------

def starts_tls(path):
    w = Wire(path).greet()
    w.ok(STARTTLS)
    return w


def half_a_tls_hello(path):
    w = starts_tls(path)
    w.send(bytes.fromhex("16030100f5010000f10303") + random.randbytes(40))
    return w


def abuse_tls(path, until, done):
    kept = [stay(fn, path) for fn in (starts_tls, half_a_tls_hello, says_nothing) for _ in range(10)]
    while time.monotonic() < until:
        with contextlib.suppress(Closed, OSError):
            starts_tls(path).close()
            half_a_tls_hello(path).close()
            with starts_tls(path) as w:
                w.send(random.randbytes(300))
                assert w.is_closed()
    assert all(w.is_closed() for w in kept)  # by the time limit
    done.wait()


@pytest.mark.parametrize("engine", ["epoll"])
def test_tls_handshakes_that_stop(serve, tmp_path, pki):
    path = image(tmp_path)
    s = serve("-t", "-e", 0, "-f", "raw", f"--handshake-limit={LIMIT}", *x509(pki), path)
    honest = Honest(stay(lambda: s.connect().start_tls(context(pki.client, pki), "localhost").go()))
    run_abuse(s, honest, [abuse_tls], SECONDS / 2)
    s.stop()
