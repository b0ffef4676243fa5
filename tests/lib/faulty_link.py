# SPDX-License-Identifier: BSD-2-Clause
"""A connection that breaks where a test wants it to.

    link = FaultyLink(at, to)                    listens at the Unix socket `at`, passes on to the one at `to`
    link.fault("cut", FORTH, 1000)               for the next connection: when 1000 bytes went that way
    link.fault("cut", BACK, 0, after=b"ALLD")    the same, counted from where this word begins
    link.fault("cut", FORTH, 1, nth=7)           one byte behind the 7th of its places (places.py); with `after`, of those from there on
    link.wait(60)                                until that connection is over
    link.sent                                    what went each way, as bytes, where record=True

One thread, which waits for sockets and never for a time.

    cut        both sides find the connection closed after exactly so many bytes
    reset      the same, but with what was under way thrown away
    half       that way is at its end, the other goes on
    stall      nothing goes either way any more, until release()
    silence    the same, but only that way
    slow       from there on bytes go one at a time, some thousands of them
    corrupt    a bit of that byte is another one
    duplicate  from there on a second connection to the same place says all of it again, and nobody hears its answers
"""
import bisect, selectors, socket, threading

from places import BACK, FORTH, Places

FAULTS = "cut", "reset", "half", "stall", "silence", "slow", "corrupt", "duplicate"
SLOW_BYTES, PIECE, FAR = 4000, 65536, 1 << 62


class FaultyLink(threading.Thread):
    def __init__(self, at, to, record=False):
        super().__init__(daemon=True)
        self.door, self.to, self.record = socket.socket(socket.AF_UNIX), str(to), record
        self.door.bind(str(at))
        self.door.listen(8)
        self.wake, self.woken = socket.socketpair()
        self.kind, self.way, self.at, self.after, self.nth, self.struck = None, FORTH, 0, None, None, False
        self.over, self.ends, self.end = threading.Event(), [], False
        self.stalled = threading.Event()
        self.start()

    def fault(self, kind=None, way=FORTH, at=0, to=None, after=None, nth=None):
        """Before the next connection begins."""
        assert kind is None or kind in FAULTS, kind
        self.kind, self.way, self.at, self.after, self.nth, self.to = kind, way, at, after, nth, str(to or self.to)
        self.struck = False
        self.over.clear()
        self.stalled.clear()

    def wait(self, timeout):
        assert self.over.wait(timeout), "the connection is still there"

    def release(self):
        """What has stalled goes on."""
        self.wake.send(b"g")

    def hold(self):
        """Nothing goes either way any more, until release()."""
        self.wake.send(b"h")

    def cut(self):
        """The connection is closed, whatever state it is in."""
        self.wake.send(b"c")

    def close(self):
        self.end = True
        self.wake.send(b"c")
        self.join(60)

    # --- its thread ---

    def run(self):
        sel = selectors.DefaultSelector()
        for s in self.door, self.woken:
            sel.register(s, selectors.EVENT_READ)
        while not self.end:
            ready = [key.fileobj for key, _ in sel.select()]
            if self.woken in ready:  # was meant for a connection that is over
                self.woken.recv(1)
            elif ready:
                self.serve(self.door.accept()[0])
        for s in self.door, self.wake, self.woken:
            s.close()
        sel.close()

    def dial(self):
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(self.to)
        except OSError:
            pass  # what it is given goes nowhere, and says so
        return s

    def serve(self, a):
        self.ends, self.sent, self.count = [a, self.dial()], [bytearray(), bytearray()], [0, 0]
        self.second, self.slow, self.held, self.beside = None, SLOW_BYTES, [], self.at
        self.open, self.kept = [True, True], [b"", b""]
        self.tail, self.places = b"", Places(self.way) if self.nth is not None else None
        if self.nth is not None and not self.after:
            self.aim(0)
        sel = selectors.DefaultSelector()
        for way in FORTH, BACK:
            sel.register(self.ends[way], selectors.EVENT_READ, way)
        sel.register(self.woken, selectors.EVENT_READ)
        try:
            if self.kind and self.at == 0 and not self.after:
                self.strike(sel, self.way)
            while any(self.open):
                self.step(sel)
        except OSError:
            pass
        for s in (*self.ends, self.second):
            if s:
                s.close()
        sel.close()
        self.over.set()

    def step(self, sel):
        for key, _ in sel.select():
            if key.data is None:
                word = self.woken.recv(1)
                if word == b"c":
                    raise OSError
                (self.stand if word == b"h" else self.go_on)(sel)
            elif key.data not in self.held:
                self.pump(sel, key.data)

    def stand(self, sel, ways=(FORTH, BACK)):
        for way in ways:
            if self.open[way] and way not in self.held:
                sel.unregister(self.ends[way])
                self.held.append(way)
        self.stalled.set()

    def go_on(self, sel):
        ways, self.held, self.kind = self.held, [], None
        for way in ways:
            sel.register(self.ends[way], selectors.EVENT_READ, way)
            self.pass_on(way, self.kept[way])
            self.kept[way] = b""

    def due(self, way):
        return self.kind is not None and way == self.way and not self.after

    def room(self, way):
        """How many bytes may go that way at once."""
        if not self.due(way):
            return PIECE
        if self.count[way] < self.at:
            return min(PIECE, self.at - self.count[way])
        if self.kind == "slow" and self.slow:
            self.slow -= 1
            return 1
        return 1 if self.kind == "corrupt" else PIECE

    def pump(self, sel, way):
        data = self.ends[way].recv(PIECE if self.kept[way] else self.room(way))
        if self.places and way == self.way:
            self.places.feed(data)
            if not self.after and self.nth is not None:
                self.aim(0)
        if data:
            self.feed(sel, way, self.kept[way] + data)
        else:
            self.pass_on(way, self.kept[way])
            self.shut(sel, way)

    def feed(self, sel, way, data):
        self.kept[way] = b""
        if self.after and way == self.way:
            data = self.search(sel, way, data)
        while data and self.open[way] and way not in self.held:
            n = self.room(way)
            piece, data = data[:n], data[n:]
            if self.due(way) and self.kind == "corrupt" and self.count[way] == self.at:
                piece = bytes([piece[0] ^ 1 << self.at % 8])
                self.kind, self.struck = None, True
            self.pass_on(way, piece)
            if self.due(way) and self.count[way] == self.at:
                self.strike(sel, way)
        self.kept[way] += data

    def aim(self, first):
        """At the place that is meant, once it is known: the first of them is `first`."""
        self.nth += first
        found, beside, self.at = self.places.found, self.beside, FAR
        if self.nth < len(found):
            self.at, self.nth = max(found[self.nth] + beside, self.count[self.way]), None

    def search(self, sel, way, data):
        """What is from the word on. Nothing is kept back, as nothing more may come before that does: of a word in two pieces the first has gone."""
        seen, gone = self.tail + data, self.count[way] - len(self.tail)
        at = seen.find(self.after)
        if at < 0:
            self.tail = seen[1 - len(self.after):]
            self.pass_on(way, data)
            return b""
        before = max(at - len(self.tail), 0)
        self.pass_on(way, data[:before])
        self.after = None
        if self.nth is None:
            self.at = max(self.at + gone + at, self.count[way])
        else:
            self.aim(bisect.bisect_left(self.places.found, gone + at))
        if self.at == self.count[way]:
            self.strike(sel, way)
        return data[before:]

    def pass_on(self, way, data):
        self.count[way] += len(data)
        if self.record or self.kind == "duplicate":
            self.sent[way] += data
        self.ends[1 - way].sendall(data)
        if self.second and way == FORTH:
            self.again(data)

    def again(self, data):
        try:
            self.second.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError:
            pass  # nobody takes it, and that is as well

    def shut(self, sel, way):
        sel.unregister(self.ends[way])
        self.open[way] = False
        try:
            self.ends[1 - way].shutdown(socket.SHUT_WR)
        except OSError:
            self.open = [False, False]

    def strike(self, sel, way):
        """The place is reached."""
        self.struck = True
        if self.kind in ("cut", "reset"):
            if self.kind == "cut":
                for s in self.ends:
                    s.shutdown(socket.SHUT_RDWR)
            raise OSError
        if self.kind == "half":
            self.kind = None
            self.shut(sel, way)
        elif self.kind in ("stall", "silence"):
            self.stand(sel, (way,) if self.kind == "silence" else (FORTH, BACK))
        elif self.kind == "duplicate":
            self.second = self.dial()
            self.again(self.sent[FORTH])
