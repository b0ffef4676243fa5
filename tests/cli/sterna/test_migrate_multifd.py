# SPDX-License-Identifier: BSD-2-Clause
"""multifd: RAM over several connections at once is the same RAM, however they overtake each other; and when one of them breaks, the machine
runs on where it was."""
import base64, contextlib, re, socket, struct, subprocess, threading, time

import pytest
from qmp import QMPError
from sterna import program
from test_as_release import OLD
from test_migrate import driven, gone, info, kernel, main, payload, running, source, start, until  # noqa: F401
from test_migrate_converge import BASE, writer  # noqa: F401
from test_migrate_tls import creds, psk


ZERO, RAW, ZSTD, LIVE = 0, 1, 2, 4


class Ways(threading.Thread):
    """A proxy between Unix sockets; `treat(i, data)` says what becomes of what the i-th connection carries: bytes, or None: it is cut.
    `forth` and `back` have what went each way on each."""

    def __init__(self, at, to, treat):
        super().__init__(daemon=True)
        self.door, self.to, self.treat, self.came, self.forth, self.back = socket.socket(socket.AF_UNIX), to, treat, 0, {}, {}
        self.door.bind(at)
        self.door.listen(20)
        self.start()

    def pump(self, a, b, treat):
        try:
            while (data := a.recv(65536)) and (data := treat(data)) is not None:
                b.sendall(data)
            for s in (a, b) if data is None else (b,):
                s.shutdown(socket.SHUT_RDWR if data is None else socket.SHUT_WR)
        except OSError:  # one side is gone: the other one hears of it
            for s in (a, b):
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)

    def run(self):
        while True:
            a, b = self.door.accept()[0], socket.socket(socket.AF_UNIX)
            b.connect(self.to)
            i, self.came = self.came, self.came + 1
            for x, y, treat in (a, b, lambda data, i=i: self.keep(self.forth, i, self.treat(i, data))), (b, a, lambda data, i=i: self.keep(self.back, i, data)):
                threading.Thread(target=self.pump, args=(x, y, treat), daemon=True).start()

    def keep(self, where, i, data):
        where.setdefault(i, bytearray()).extend(data or b"")
        return data

    def kinds(self):
        """Of pages, as the frames of all the connections have them."""
        seen = set()
        for sent in (self.forth[i] for i in range(1, self.came)):
            join = sent.index(b"JOIN")
            at = join + 16 + struct.unpack_from("<Q", sent, join + 8)[0] + 4
            while at < len(sent):
                what, kind, _, pages, _, length = struct.unpack_from("<BBHIQI", sent, at)
                seen |= {kind} if what == ord("P") else set()
                at += 24 + length + (4 * pages if kind == LIVE else 0)
            assert at == len(sent)
        return seen


def multifd(m, channels=4, **parameters):
    m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
    m.qmp.cmd("migrate-set-parameters", multifd_channels=channels, max_bandwidth=0, **parameters)


def counts(m):
    """The first number of each page that the writer writes to."""
    text = [m.qmp.cmd("human-monitor-command", command_line=f"xp /1gx {BASE + i * 4096}") for i in range(2048)]
    return [int(t.split(":")[1], 16) for t in text]


def saved(m, path):
    m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": False}])
    m.qmp.cmd("migrate-set-parameters", tls_creds="", max_bandwidth=0)
    m.qmp.cmd("migrate", uri=f"file:{path}")
    assert until(m, "completed", "failed")["status"] == "completed"
    return path


def same(a, b):
    return subprocess.run([program("sterna-state"), "diff", a, b], capture_output=True, text=True)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_the_same_memory(start, payload, tmp_path, compression):  # noqa: F811
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    before = saved(src, tmp_path / "before")
    multifd(src, 4, multifd_compression=compression)
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", lambda i, data: data)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    done = until(src, "completed", "failed")
    assert done["status"] == "completed" and 4 << 20 < done["ram"]["multifd-bytes"] < done["ram"]["transferred"], done
    assert done["ram"]["normal"] >= 1024 and done["ram"]["duplicate"] > 1000 and ways.came == 5
    until(dst, "completed")
    assert ways.kinds() - {RAW if compression == "zstd" else None} == {ZERO, LIVE if compression == "none" else ZSTD}
    r = same(before, saved(dst, tmp_path / "after"))
    assert r.returncode == 0, r.stdout


def test_torn_pages_come_once_more(tmp_path):
    """The guest writes to all the pages that the sockets hold, and has their checksums from before that."""
    size, base, on = 16 << 20, 0x80400000, threading.Event()
    src, dst = driven(tmp_path)
    held = set()

    def treat(i, data):
        if i and len(ways.forth.get(i, b"")) > 1 << 20 and not on.is_set():
            held.add(i)
            on.wait(60)
        return data
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", treat)
    assert src.ask(f"memset {base} {size} 0xa1") == "OK"
    multifd(src, 2)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    sent, end = -1, time.monotonic() + 60
    while held != {1, 2} or sent != (sent := info(src)["ram"]["transferred"]):
        assert time.monotonic() < end
        time.sleep(0.1)  # the sockets take what they can hold
    assert src.ask(f"memset {base} {size} 0xb2") == "OK"
    on.set()
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert base64.b64decode(dst.ask(f"b64read {base} {size}").split(" ")[1]) == b"\xb2" * size
    came = sum(ways.forth[i].count(b"\xb2" * 4096) for i in (1, 2))
    assert came > size // 4096, "none was torn"
    for m in src, dst:
        m.close()


@pytest.mark.parametrize("when", ["in a round", "after a round"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_post_copy(start, payload, tmp_path, when, compression):  # noqa: F811
    """What the connections carry is there before the machine; the rest follows over the first one, and those are over."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    before, late = saved(src, tmp_path / "before"), when == "after a round"
    multifd(src, 3 if late else 1, multifd_compression=compression)
    names = {"postcopy-ram": True, "release-ram": True, "pause-before-switchover": late}
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": n, "state": s} for n, s in names.items()])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0 if late else 1 << 18, max_postcopy_bandwidth=1 << 18)
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", lambda i, data: data)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    until(src, "pre-switchover" if late else "active")
    end = time.monotonic() + 60
    while info(src)["ram"]["multifd-bytes"] < 4096:
        assert time.monotonic() < end
    src.qmp.cmd("migrate-start-postcopy")
    if late:
        src.qmp.cmd("migrate-continue", state="pre-switchover")
    else:
        until(dst, "postcopy-active")
        assert until(src, "postcopy-active")["ram"]["remaining"] > 0
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    done = until(src, "completed", "failed")
    assert done["status"] == "completed" and done["ram"]["multifd-bytes"] > 4096, done
    assert late or done["ram"]["postcopy-bytes"] > 1 << 20, done
    until(dst, "completed")
    assert ways.came == (4 if late else 2)
    r = same(before, saved(dst, tmp_path / "after"))
    assert r.returncode == 0, r.stdout


def test_connections_that_overtake_each_other(writer, start, tmp_path):  # noqa: F811
    """A page that comes again on a fast connection is not replaced by the older one on a slow one."""
    dst = start("-incoming", f"unix:{tmp_path}/in", stopped=True, accel="interp")
    lag = threading.Event()

    def treat(i, data):
        if i == 2:
            lag.wait(0.002)
        return data
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", treat)
    multifd(writer, 3, downtime_limit=300)
    writer.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    writer.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    assert until(writer, "pre-switchover", "failed")["status"] == "pre-switchover"
    writer.qmp.cmd("migrate-continue", state="pre-switchover")
    assert until(writer, "completed", "failed")["ram"]["dirty-sync-count"] >= 1 and ways.came == 4
    until(dst, "completed")
    here = counts(writer)
    assert here == counts(dst) and max(here) > 0


class Held:
    """The end of the first round on the first of several connections is kept back until `on` is set; `ended`: which have come to it."""

    def __init__(self):
        self.on, self.last, self.ended = threading.Event(), {}, set()

    def __call__(self, i, data):
        self.last[i] = (self.last.get(i, b"") + data)[-24:]
        if i and self.last[i][:20] == b"S" + bytes(19):
            self.ended.add(i)
            if i == 1:
                self.on.wait(60)
        return data


def held(start, payload, tmp_path):
    """A migration whose first round has been sent, but not all of it has come."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    hold = Held()
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", hold)
    multifd(src, 2)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    end = time.monotonic() + 60
    while hold.ended != {1, 2}:
        assert time.monotonic() < end, (hold.ended, info(src))
        time.sleep(0.01)
    return src, dst, hold, ways


def test_a_round_has_come_when_it_is_over(start, payload, tmp_path):  # noqa: F811
    """The guest does not stand still for what waits in sockets."""
    src, dst, hold, ways = held(start, payload, tmp_path)
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        assert info(src)["status"] == "active" and 1 not in ways.back
    hold.on.set()
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert all(len(ways.back[i]) >= 24 and ways.back[i][::24].strip(b"A") == b"" for i in (1, 2)), ways.back


def test_a_round_that_never_comes(start, payload, tmp_path):  # noqa: F811
    src, _, hold, _ = held(start, payload, tmp_path)
    src.qmp.cmd("migrate-set-parameters", answer_timeout=1000)
    failed = until(src, "failed", "completed")
    assert failed["status"] == "failed" and "'answer-timeout'" in failed["error-desc"] and running(src)
    hold.on.set()


@pytest.mark.parametrize("old", ["source", "destination"])
def test_a_side_that_knows_no_answers(start, payload, tmp_path, old):  # noqa: F811
    """A release that does not say, or does not know, that a round has come."""
    args = "-M", "virt-0.1"
    src = start("-initrd", payload, "-kernel", kernel(payload), *args, *(OLD if old == "source" else ()))
    dst = start(*args, *(OLD if old == "destination" else ()), "-incoming", f"unix:{tmp_path}/in")
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", lambda i, data: data)
    multifd(src, 2)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert list(ways.back) == [0] and ways.came == 3 and LIVE not in ways.kinds()


@pytest.mark.parametrize("what", ["cut", "damaged", "never comes"])
def test_one_of_them_fails(start, payload, tmp_path, what):  # noqa: F811
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    seen = [0]

    def treat(i, data):
        if i == 0:
            return data
        seen[0] += len(data)
        if (what == "never comes" and i == 2) or (what == "cut" and seen[0] > 1 << 20):
            return None
        if what == "damaged" and seen[0] > 1 << 20 and len(ways.forth.get(i, b"")) > 4096:  # it is not a stranger's
            return bytes([data[0] ^ 1]) + data[1:]
        return data
    ways = Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", treat)
    multifd(src)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    failed = until(src, "failed", "completed")
    assert failed["status"] == "failed" and running(src) and gone(dst)
    if what == "damaged":
        assert re.search("the other side says: .*(damaged|out of step|that there are not)", failed["error-desc"]), failed


@pytest.mark.parametrize("side", ["source", "destination"])
def test_given_up(start, payload, tmp_path, side):  # noqa: F811
    """At once, however long the limit would still hold back what is next."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    multifd(src)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 10)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "active")
    (src if side == "source" else dst).qmp.cmd("migrate_cancel" if side == "source" else "quit")
    assert until(src, "cancelled", "failed")["status"] == ("cancelled" if side == "source" else "failed") and running(src)
    assert dst.process.wait(60) == (1 if side == "source" else 0)


def test_under_tls(start, payload, tmp_path):  # noqa: F811
    src, dst = source(start, payload), start("-incoming", "defer")
    before = saved(src, tmp_path / "before")
    keys = psk(tmp_path / "keys", ("alice", "5a" * 32))
    creds(dst, "psk", "server", keys)
    creds(src, "psk", "client", keys, username="alice")
    dst.qmp.cmd("migrate-incoming", channels=main(transport="socket", type="inet", host="127.0.0.1", port="0"))
    multifd(src, 2)
    src.qmp.cmd("migrate", channels=main(transport="socket", **info(dst)["socket-address"][0]))
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert same(before, saved(dst, tmp_path / "after")).returncode == 0


def test_one_stalls_under_tls(start, payload, tmp_path):  # noqa: F811
    """Nobody reads it any more: the source has had enough after answer-timeout."""
    src, dst = source(start, payload), start("-incoming", "defer")
    keys = psk(tmp_path / "keys", ("alice", "5a" * 32))
    creds(dst, "psk", "server", keys)
    creds(src, "psk", "client", keys, username="alice")
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in")
    on, seen = threading.Event(), [0]

    def treat(i, data):
        seen[0] += len(data) if i else 0
        if i == 1 and seen[0] > 1 << 20:
            on.wait(60)
        return data
    Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", treat)
    multifd(src, 2, answer_timeout=2000)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    assert until(src, "failed", "completed", timeout=40)["status"] == "failed" and running(src)
    on.set()


def test_strangers(start, payload, tmp_path):  # noqa: F811
    """Who comes in between and does not belong to the machine gets nothing and spoils nothing."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    multifd(src, 2)
    strangers = []

    def treat(i, data):
        if i == 1 and not strangers:
            for words in (b"", b"GET / HTTP/1.0\r\n\r\n" + b"x" * 64):
                s = socket.socket(socket.AF_UNIX)
                s.connect(f"{tmp_path}/in")
                s.sendall(words)
                strangers.append(s)
            time.sleep(0.1)
        return data
    Ways(f"{tmp_path}/proxy", f"{tmp_path}/in", treat)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy")
    assert until(src, "completed", "failed")["status"] == "completed" and len(strangers) == 2
    until(dst, "completed")
    assert running(dst)
    for s in strangers:
        s.close()


def test_what_cannot_be(start, payload, tmp_path):  # noqa: F811
    src = source(start, payload)
    with pytest.raises(QMPError, match="'multifd-channels' expects an integer in the range of 1 to 16"):
        multifd(src, 17)
    multifd(src, 2)
    with pytest.raises(QMPError, match="requires multi-channel URIs"):
        src.qmp.cmd("migrate", uri="exec:cat")
    start("-incoming", f"unix:{tmp_path}/in")
    for _ in range(2):  # who only asks connects once
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert until(src, "completed", "failed")["status"] == "completed"
