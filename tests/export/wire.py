# SPDX-License-Identifier: BSD-2-Clause
"""An NBD client that knows nothing but bytes: each message can be right, wrong, short or long, as a test wants it."""
import contextlib, os, signal, socket, ssl, struct, subprocess, sys, time
from dataclasses import dataclass

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "lib"))
from sterna import program

EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META, EXTENDED = 1, 2, 3, 5, 6, 7, 8, 9, 10, 11
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
ERR = 1 << 31
UNSUP, POLICY, INVALID, TLS_REQD, UNKNOWN, SHUTDOWN, BLOCK_SIZE_REQD, TOO_BIG, EXT_HEADER_REQD = (
    ERR + n for n in (1, 2, 3, 5, 6, 7, 8, 9, 10))
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD = (1 << n for n in range(6))
DONE = 1
NONE, DATA, HOLE, BLOCKS, BLOCKS_EXT, ERROR, ERROR_OFFSET = 0, 1, 2, 5, 6, 0x8001, 0x8002
EPERM, EIO, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN = 1, 5, 22, 28, 75, 95, 108
F_READ_ONLY, F_FLUSH, F_FUA, F_TRIM, F_ZEROES, F_DF, F_MULTI, F_CACHE, F_FAST, F_STATUS_PAYLOAD = (
    1 << n for n in (1, 2, 3, 5, 6, 7, 8, 10, 11, 12))


@dataclass
class Chunk:
    kind: str            # "simple", "structured", "extended"
    cookie: int
    error: int = 0       # simple
    flags: int = 0
    type: int = NONE
    payload: bytes = b""
    offset: int = None   # extended


class Closed(Exception):
    """The server has closed the connection."""


class Wire:
    def __init__(self, address, timeout=60):
        for attempt in range(6000):
            self.sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
            self.sock.settimeout(timeout)
            try:
                self.sock.connect(address)
                break
            except ConnectionRefusedError:  # does not listen yet
                self.sock.close()
                if attempt == 5999:
                    raise
                time.sleep(0.01)
        self.mode, self.next_cookie = "simple", 1

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data)

    def recv(self, n):
        out = b""
        while len(out) < n:
            try:
                got = self.sock.recv(n - len(out))
            except (ConnectionResetError, BrokenPipeError):
                got = b""
            if not got:
                raise Closed(out)
            out += got
        return out

    def is_closed(self):
        """Waits until the server closes; whatever it still sends is dropped."""
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, ssl.SSLError):
            while self.sock.recv(65536):
                pass
        return True

    # --- handshake

    def greet(self, flags=3):
        magic, opts, self.server_flags = struct.unpack(">8s8sH", self.recv(18))
        assert magic == b"NBDMAGIC" and opts == b"IHAVEOPT"
        if flags is not None:
            self.send(struct.pack(">I", flags))
        return self

    def send_opt(self, opt, data=b"", length=None, magic=b"IHAVEOPT"):
        self.send(magic + struct.pack(">II", opt, len(data) if length is None else length) + data)

    def reply_to(self, opt):
        magic, got, kind, length = struct.unpack(">QIII", self.recv(20))
        assert magic == 0x3E889045565A9 and got == opt
        return kind, self.recv(length)

    def opt(self, opt, data=b"", length=None):
        """All replies up to the final one."""
        self.send_opt(opt, data, length)
        replies = [self.reply_to(opt)]
        while replies[-1][0] in (SERVER, REP_INFO, META):
            replies.append(self.reply_to(opt))
        return replies

    def ok(self, opt, data=b""):
        replies = self.opt(opt, data)
        assert replies[-1] == (ACK, b""), replies
        if opt == STRUCTURED:
            self.mode = "structured"
        if opt == EXTENDED:
            self.mode = "extended"
        return replies[:-1]

    def error(self, opt, data=b"", length=None):
        """The type of the error reply that there must be."""
        replies = self.opt(opt, data, length)
        assert replies[-1][0] & ERR, replies
        return replies[-1][0]

    @staticmethod
    def name(name):
        return struct.pack(">I", len(name)) + name.encode()

    def info_data(self, name="", infos=()):
        return self.name(name) + struct.pack(f">H{len(infos)}H", len(infos), *infos)

    def info(self, opt=INFO, name="", infos=()):
        """{type of information: its bytes}"""
        out = {}
        for kind, data in self.ok(opt, self.info_data(name, infos)):
            assert kind == REP_INFO
            out[struct.unpack(">H", data[:2])[0]] = data[2:]
        self.size, self.flags = struct.unpack(">QH", out[0])
        return out

    def go(self, name="", infos=(3,)):
        self.info(GO, name, infos)
        return self

    def meta(self, opt, queries=(), name=""):
        """[(id, name)]"""
        data = self.name(name) + struct.pack(">I", len(queries)) + b"".join(self.name(q) for q in queries)
        out = []
        for kind, payload in self.ok(opt, data):
            assert kind == META
            out.append((struct.unpack(">I", payload[:4])[0], payload[4:].decode()))
        return out

    def start_tls(self, context, hostname=None):
        self.ok(STARTTLS)
        self.sock = context.wrap_socket(self.sock, server_hostname=hostname)
        return self

    # --- transmission

    def header(self, kind, off=0, length=0, flags=0, cookie=None):
        if cookie is None:
            cookie, self.next_cookie = self.next_cookie, self.next_cookie + 1
        self.cookie = cookie
        if self.mode == "extended":
            return struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, cookie, off, length)
        return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, off, length)

    def ask(self, kind, off=0, length=0, flags=0, payload=b""):
        self.send(self.header(kind, off, length, flags) + payload)
        return self.cookie

    def chunk(self, read_length=0):
        """The next message; a simple reply to a read has `read_length` bytes of data."""
        magic, = struct.unpack(">I", self.recv(4))
        if magic == 0x67446698:
            assert self.mode != "extended"
            error, cookie = struct.unpack(">IQ", self.recv(12))
            return Chunk("simple", cookie, error=error, payload=b"" if error else self.recv(read_length))
        if magic == 0x668E33EF:
            assert self.mode == "structured"
            flags, kind, cookie, length = struct.unpack(">HHQI", self.recv(16))
            return Chunk("structured", cookie, flags=flags, type=kind, payload=self.recv(length))
        assert magic == 0x6E8A278C and self.mode == "extended", hex(magic)
        flags, kind, cookie, offset, length = struct.unpack(">HHQQQ", self.recv(28))
        return Chunk("extended", cookie, flags=flags, type=kind, payload=self.recv(length), offset=offset)

    def chunks(self, read_length=0):
        """All chunks of one request, of which only one is in flight."""
        out = [self.chunk(read_length)]
        while out[-1].kind != "simple" and not out[-1].flags & DONE:
            out.append(self.chunk())
        assert len({c.cookie for c in out}) == 1 and out[0].cookie == self.cookie
        return out

    @staticmethod
    def error_of(chunks):
        """0, or the NBD error."""
        for c in chunks:
            if c.kind == "simple" and c.error:
                return c.error
            if c.type & 0x8000:
                error, length = struct.unpack(">IH", c.payload[:6])
                assert length <= len(c.payload) - 6
                return error
        return 0

    def do(self, kind, off=0, length=0, flags=0, payload=b""):
        """Asks, and returns the NBD error."""
        self.ask(kind, off, length, flags, payload)
        return self.error_of(self.chunks(length if kind == READ else 0))

    def write(self, off, data, flags=0):
        return self.do(WRITE, off, len(data), flags | (PAYLOAD if self.mode == "extended" else 0), data)

    def read_chunks(self, off, length, flags=0):
        self.ask(READ, off, length, flags)
        return self.chunks(length)

    def read(self, off, length, flags=0):
        """The data, put together from whatever chunks, which must not overlap nor leave anything out."""
        chunks = self.read_chunks(off, length, flags)
        assert self.error_of(chunks) == 0, chunks
        return assemble(chunks, off, length)

    def status(self, off, length, flags=0, payload=b""):
        """{context id: [(length, flags)]}"""
        self.ask(STATUS, off, length, flags, payload)
        out = {}
        chunks = self.chunks()
        assert self.error_of(chunks) == 0, chunks
        for c in chunks:
            context, = struct.unpack(">I", c.payload[:4])
            assert context not in out
            if c.type == BLOCKS_EXT:
                count, = struct.unpack(">I", c.payload[4:8])
                assert len(c.payload) == 8 + 16 * count
                out[context] = list(struct.iter_unpack(">QQ", c.payload[8:]))
            else:
                assert c.type == BLOCKS and self.mode == "structured"
                out[context] = list(struct.iter_unpack(">II", c.payload[4:]))
        return out

    def disconnect(self):
        self.ask(DISC)
        assert self.is_closed()


def assemble(chunks, off, length):
    if chunks[0].kind == "simple":
        return chunks[0].payload
    out, seen = bytearray(length), bytearray(length)
    for c in chunks:
        if c.type == NONE:
            assert c.flags & DONE and not c.payload
            continue
        at, = struct.unpack(">Q", c.payload[:8])
        data = c.payload[8:]
        if c.type == HOLE:
            assert len(c.payload) == 12
            data = bytes(struct.unpack(">I", data)[0])
        assert c.type in (DATA, HOLE) and data and off <= at and at + len(data) <= off + length
        assert not any(seen[at - off:at - off + len(data)]), "chunks overlap"
        out[at - off:at - off + len(data)] = data
        seen[at - off:at - off + len(data)] = b"\1" * len(data)
    assert all(seen), "chunks leave something out"
    return bytes(out)


def listens(path):
    """Whether somebody waits for connections there: the socket is in the folder a moment before."""
    with open("/proc/net/unix", errors="backslashreplace") as f:
        return any(line.endswith(f" {path}\n") and line.split()[3] == "00010000" for line in f)


class Server:
    """A running sterna-nbd on a unix socket."""

    def __init__(self, folder, *args, engine="", name="nbd.sock", command=None, env=None):
        self.path = os.path.join(folder, name)
        self.log = os.path.join(folder, name + ".log")
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen([command or program("sterna-nbd"), "-k", self.path, *map(str, args)], stderr=log,
                                         env={**os.environ, "LC_ALL": "C", **({"STERNA_LOOP": engine} if engine else {}), **(env or {})})
        for _ in range(6000):
            if listens(self.path) or self.proc.poll() is not None:
                break
            time.sleep(0.01)
        assert self.proc.poll() is None, self.messages()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def messages(self):
        with open(self.log, errors="backslashreplace") as f:
            return f.read()

    def connect(self, greet=True, **kw):
        w = Wire(self.path, **kw)
        return w.greet() if greet else w

    def open(self, mode="structured", contexts=(), name=""):
        """A connection in transmission."""
        w = self.connect()
        if mode != "simple":
            w.ok({"structured": STRUCTURED, "extended": EXTENDED}[mode])
        if contexts:
            w.contexts = dict((n, i) for i, n in w.meta(SET_META, contexts, name))
        return w.go(name)

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.path}"

    def stop(self, expect=0):
        """Ends it cleanly; whatever it has said."""
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
        try:
            rc = self.proc.wait(60)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            raise
        text = self.messages()
        assert rc == expect, f"exit code {rc}: {text}"
        assert "Sanitizer" not in text and "runtime error" not in text, text
        return text
