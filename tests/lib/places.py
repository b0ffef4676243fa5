# SPDX-License-Identifier: BSD-2-Clause
"""Where the things that have a length begin and end in what goes one way of a migration's connection: docs/migration.md.

    p = Places(FORTH)         from the source; BACK: from the destination
    p.feed(data)              what comes next, in pieces of any size
    p.found                   the places: bytes from the beginning, in order, each found when that byte has come at the latest

HELLO, WANT, the stream's header and MANI, or ANSW; then each frame's head, payload and checksum, and in number 0 each chunk's and
message's head, body and checksum.
"""
HELLO, HEADER, HEAD, CRC, FRAME = 32, 32, 16, 4, 12
FORTH, BACK = 0, 1
RESUMES = 2  # HELLO's flag: frames follow WANT
SKIP, KEEP, WITHIN = range(3)


def number(data, at, size=4):
    return int.from_bytes(data[at:at + size], "little")


def chunk():
    head = yield HEAD, KEEP
    yield number(head, 8, 8), SKIP
    yield CRC, SKIP


def chunks():
    while True:
        yield from chunk()


def connection(way):
    if way == FORTH:
        hello = yield HELLO, KEEP
        yield from chunk()
    if way == BACK or not number(hello, 16) & RESUMES:
        if way == FORTH:
            yield HEADER, SKIP
        yield from chunk()
    while True:
        head = yield FRAME, KEEP
        yield number(head, 4), SKIP if number(head, 0) else WITHIN
        yield CRC if number(head, 0) and number(head, 4) else 0, SKIP


class Pieces:
    """Cuts bytes where a coroutine says: it yields how many come next, and whether it is sent them."""

    def __init__(self, steps):
        self.steps, self.kept = steps, b""
        self.left, self.mode = next(steps)

    def take(self, data):
        """How many of these bytes, one at least, belong to one piece, and whether it ends with them."""
        n = min(self.left, len(data))
        self.left -= n
        self.kept += data[:n] if self.mode == KEEP else b""
        while not self.left:
            kept, self.kept = self.kept, b""
            self.left, self.mode = self.steps.send(kept)
            if self.left:
                return n, True
        return n, False


class Places:
    def __init__(self, way):
        self.found, self.at = [0], 0
        self.outer, self.inner = Pieces(connection(way)), Pieces(chunks())

    def feed(self, data):
        while data:
            ends = False
            most = data[:self.outer.left]
            if self.outer.mode == WITHIN:
                n, ends = self.inner.take(most)
                most = most[:n]
            n, ended = self.outer.take(most)
            self.at += n
            data = data[n:]
            if ends or ended:
                self.found.append(self.at)
