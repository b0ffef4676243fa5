# SPDX-License-Identifier: BSD-2-Clause
"""The cases of bench.py that concern moving a running machine, over a unix socket on the same host. For both programs alike: bandwidth is not
limited, a pause is expected to take at most 10 ms before the guest stops, and what counts is seen from outside: the guest's tick of 2 ms at
either side, its own clock, events, what a proxy in between counts.
"""
import contextlib, mmap, os, re, socket, threading, time

from bench_jobs import data as disk_data, image
from bench_snapshot import first_tick_after
from vm import VM, disk

MIB = 1 << 20
RANDOM = 1024             # MiB of random pages
PIECE = 256 << 10         # bytes at once of what the socket carries by itself
RATE = 50 * MIB // 4096   # pages dirtied in a second
LIMIT_MS = 10
MOVES = 5                 # of a machine from process to process
ENDS = ("completed", "failed", "cancelled")


def random_file(tmp):
    """1 GiB of random data, clean in the page cache; a guest that has read its disk has as many random pages."""
    path = os.path.join(tmp, "random.raw")
    if not os.path.exists(path):
        with open(path, "wb") as f:
            for _ in range(RANDOM):
                f.write(os.urandom(MIB))
            os.fsync(f.fileno())
    return path


def fixed_disk(path):
    return ["-blockdev", f"driver=file,filename={path},node-name=disk-file,read-only=on",
            "-blockdev", "driver=raw,file=disk-file,node-name=disk,read-only=on", "-device", "virtio-blk-pci,drive=disk,id=disk0"]


MADV_POPULATE_WRITE = 23


def large_memory(size, fill=None):
    m = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    m.madvise(mmap.MADV_HUGEPAGE)
    for at in range(0, size if fill else 0, MIB):
        m[at:at + MIB] = fill
    return m


def make_present(mib=2 * RANDOM):
    """What the next program is to get is had from the host before it counts, for both sides alike: a machine that is a guest itself gives free
    memory back within seconds, and waits for each MiB for milliseconds when it is used again. (Linux gives out first what was freed last.)"""
    with large_memory(mib * MIB) as m:
        m.madvise(MADV_POPULATE_WRITE)


class Mover:
    """A machine that goes from process to process: `vm` is where it is."""

    def __init__(self, side, a, tmp, run, args=(), mem=512):
        self.side, self.a, self.tmp, self.args, self.mem, self.n = side, a, tmp, list(args), mem, 0
        self.stack = contextlib.ExitStack()
        self.vm = self.start(run, self.args)

    def start(self, run, args, mem=None):
        vm = VM(self.side["bin"], self.a.guest, run, args, mem=mem or self.mem, tmp=self.tmp)
        self.stack.callback(vm.quit)
        return vm.start()  # what waits for a machine runs it as soon as it is there

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def target(self, args=None, mem=None, capabilities=(), parameters=()):
        """(a process that waits, its address)."""
        self.n += 1
        address = os.path.join(self.tmp, f"move-{self.n}")
        if os.path.exists(address):
            os.unlink(address)
        vm = self.start("", [*(self.args if args is None else args), "-incoming", "defer"], mem)
        prepare(vm, capabilities, parameters)
        vm.cmd("migrate-incoming", uri=f"unix:{address}")
        return vm, f"unix:{address}"

    def move(self, capabilities=(), parameters=(), ready=lambda: None, more=()):
        """Moves it on, to a process that has `more` arguments, when all is ready, and returns (when it was asked, the source that was)."""
        dst, uri = self.target([*self.args, *more], capabilities=capabilities, parameters=parameters)
        ready()
        src = self.vm
        prepare(src, capabilities, parameters)
        begin = time.monotonic()
        src.cmd("migrate", uri=uri)
        finish(src)
        self.vm = dst
        dst.event("RESUME", timeout=20)
        finish(dst)
        return begin, src


def prepare(vm, capabilities=(), parameters=()):
    vm.events.clear()
    vm.cmd("migrate-set-capabilities", capabilities=[{"capability": c, "state": True} for c in ("events", *capabilities)])
    vm.cmd("migrate-set-parameters", **{"max-bandwidth": 0, "downtime-limit": LIMIT_MS, **dict(parameters)})


def finish(vm, wanted="completed"):
    """The event of a migration's end."""
    while True:
        e = vm.event("MIGRATION", timeout=60)
        vm.events.remove(e)
        if e["data"]["status"] in ENDS:
            break
    if e["data"]["status"] != wanted:
        raise RuntimeError(f"{e['data']['status']}: {vm.cmd('query-migrate').get('error-desc')}")
    return e


# --- rates ------------------------------------------------------------------------------------------------------------

def socket_rate(memory=0):
    """MiB/s of a unix socket between two processes that do nothing else with pieces of that size: the same piece again and again, or of so many
    MiB of memory to as many that nobody has used."""
    here, there = socket.socketpair()
    for s in here, there:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
    child = os.fork()
    if child == 0:
        here.close()
        buf, at = memoryview(large_memory(memory * MIB) if memory else bytearray(PIECE)), 0
        while n := there.recv_into(buf[at:at + PIECE]):
            at = (at + n) % len(buf) if memory else 0
        os._exit(0)
    there.close()
    source = memoryview(os.urandom(PIECE) if not memory else large_memory(memory * MIB, os.urandom(MIB)))
    begin = time.monotonic()
    total = memory or 2 * RANDOM
    for at in range(0, total * MIB, PIECE):
        here.sendall(source[at % len(source):][:PIECE])
    here.close()
    os.waitpid(child, 0)
    return total / (time.monotonic() - begin)


@contextlib.contextmanager
def full(side, a, tmp):
    """A guest whose page cache holds 1 GiB of random data; it does nothing."""
    with Mover(side, a, tmp, "cat /dev/vda >/dev/null; echo FULL; sleep 1000", fixed_disk(random_file(tmp)), mem=RANDOM + 384) as m:
        m.vm.wait("FULL")
        time.sleep(0.5)
        yield m


def case_migrate_rate(side, a, tmp):
    """Medians of moves in a row from process to process."""
    with full(side, a, tmp) as m:
        out = {}
        for name, capabilities, parameters, more in (("pre-copy", (), (), ()),
                                                     ("pre-copy into preallocated memory", (), (), ["-mem-prealloc"]),
                                                     ("pre-copy over 2 connections", ("multifd",), (("multifd-channels", 2),), ())):
            rates = []
            for _ in range(MOVES):
                begin, src = m.move(capabilities, parameters, make_present, more)
                sent = src.cmd("query-migrate")["ram"]["transferred"] / MIB  # the guest has some more than these
                rates.append(sent / (src.event("STOP")["at"] - begin))
                src.quit()
            out[f"{name} of 1 GiB of random pages, MiB/s"] = sorted(rates)[MOVES // 2]
    out["what the socket alone carries, MiB/s"] = sorted(socket_rate() for _ in range(MOVES))[MOVES // 2]
    make_present()
    out["the same from memory to memory that was not used before, MiB/s"] = socket_rate(RANDOM)
    return out


def case_migrate_file(side, a, tmp):
    path = os.path.join(tmp, "state")
    with full(side, a, tmp) as m:
        os.sync()
        prepare(m.vm)
        begin = time.monotonic()
        m.vm.cmd("migrate", uri=f"file:{path}")
        finish(m.vm)
        fd = os.open(path, os.O_RDWR)
        os.fsync(fd)
        took = time.monotonic() - begin
        written = os.fstat(fd).st_blocks * 512 / MIB  # the guest has some more than these pages
        os.close(fd)
    os.unlink(path)
    out = {"save of 1 GiB of random pages to a file, MiB/s": written / took}
    piece = os.urandom(MIB)
    begin = time.monotonic()
    with open(path, "wb", buffering=0) as f:
        for _ in range(RANDOM):
            f.write(piece)
        os.fsync(f.fileno())
    out["the disk's own rate of writing in a row, MiB/s"] = RANDOM / (time.monotonic() - begin)
    os.unlink(path)
    return out


# --- pauses -----------------------------------------------------------------------------------------------------------

def downtimes(m, capabilities=(), parameters=()):
    """Of some moves one after the other: from the last tick here to the first one there; what the program says."""
    seen, said = [], []
    for _ in range(MOVES):
        time.sleep(1)
        begin, src = m.move(capabilities, parameters)
        seen.append((first_tick_after(m.vm, begin) - src.ticks[-1]) * 1000)
        said.append(src.cmd("query-migrate")["downtime"])
        src.quit()
    return sorted(seen), sorted(said)


def case_migrate_downtime(side, a, tmp):
    out = {}
    with Mover(side, a, tmp, f"stamp tick 2 & pages dirty 256 {RATE}") as m:
        m.vm.wait("DIRTY-READY")
        time.sleep(3.5)
        seq = [(t, int(x.group(1))) for t, l in m.vm.lines for x in [re.match(r"D seq=(\d+)", l)] if x]
        out["guest dirties, MiB/s"] = (seq[-1][1] - seq[0][1]) / (seq[-1][0] - seq[0][0]) * 4096 / MIB
        out["longest gap of the tick in 2 s without a move, ms"] = m.vm.longest_gap_ms(time.monotonic() - 2.5, time.monotonic() - 0.5)
        for name, capabilities, parameters in (("downtime", (), ()), ("downtime with 2 connections", ("multifd",), (("multifd-channels", 2),))):
            seen, said = downtimes(m, capabilities, parameters)
            out.update({f"{name}, seen from outside, ms": seen[MOVES // 2], f"{name}, the worst of {MOVES}, ms": seen[-1],
                        f"{name} as query-migrate says, ms": said[MOVES // 2]})
            m.vm.cmd("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": False}])
    return out


# --- post-copy --------------------------------------------------------------------------------------------------------

def start_postcopy(m, ram=("postcopy-ram",)):
    """Pre-copy that gets nowhere, and the switch: (when it was asked for, source, destination)."""
    dst, uri = m.target(capabilities=ram)
    prepare(m.vm, ram, {"max-bandwidth": 4 * MIB})
    m.vm.cmd("migrate", uri=uri)
    m.vm.event("MIGRATION", timeout=20, status="active")
    time.sleep(1)
    begin = time.monotonic()
    m.vm.cmd("migrate-start-postcopy")
    return begin, m.vm, dst


def case_migrate_postcopy(side, a, tmp):
    ticks, resumed = [], []
    with Mover(side, a, tmp, f"stamp tick 2 & pages dirty 256 {RATE}") as m:
        m.vm.wait("DIRTY-READY")
        for _ in range(MOVES):
            time.sleep(1)
            begin, src, dst = start_postcopy(m)
            ticks.append((first_tick_after(dst, begin) - begin) * 1000)
            resumed.append((dst.event("RESUME", timeout=20)["at"] - begin) * 1000)
            for vm in src, dst:
                finish(vm)
            src.quit()
            m.vm = dst
    return {"post-copy: asked to the first tick there, ms": sorted(ticks)[MOVES // 2],
            f"post-copy: asked to the first tick there, the worst of {MOVES}, ms": max(ticks),
            "post-copy: the destination was heard to run after, ms": sorted(resumed)[MOVES // 2]}


def case_migrate_faults(side, a, tmp):
    """The guest times its own reads of pages in random order, while the rest comes as fast as it can."""
    with Mover(side, a, tmp, "pages touch 512", mem=768) as m:
        m.vm.wait("TOUCH-READY")
        m.vm.type("mark\n")
        m.vm.wait("MARKED")
        _, src, dst = start_postcopy(m)
        for vm in src, dst:
            finish(vm)
        dst.type("report\n")
        line = dst.wait("^T slow=")[1]
        slow, p50, p99, most = (int(x) for x in re.findall(r"=(\d+)", line))
        said = dst.cmd("query-migrate").get("postcopy-latency-p99")
    out = {"page that had not come: reads that waited": slow, "page that had not come: median, ms": p50 / 1000,
           "page that had not come: p99, ms": p99 / 1000, "page that had not come: longest, ms": most / 1000}
    if said:
        out["page that had not come: p99 as the program says, ms"] = said / 1e6
    return out


# --- disks ------------------------------------------------------------------------------------------------------------

def mirror_and_move(m, dst, uri, tmp):
    """What a manager does where disks do not travel with the machine."""
    nbd = os.path.join(tmp, "nbd")
    if os.path.exists(nbd):
        os.unlink(nbd)
    dst.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": nbd}})
    dst.cmd("block-export-add", id="e", type="nbd", node_name="disk", writable=True, name__="disk")
    m.vm.cmd("blockdev-add", driver="nbd", node_name="there", server={"type": "unix", "path": nbd}, export="disk")
    m.vm.cmd("blockdev-mirror", job_id="copy", device="disk", target="there", sync="full")
    m.vm.event("BLOCK_JOB_READY")
    m.vm.cmd("migrate", uri=uri)
    m.vm.event("MIGRATION", status="pre-switchover")
    m.vm.cmd("block-job-cancel", device="copy")
    m.vm.event("JOB_STATUS_CHANGE", id="copy", status="null")
    m.vm.cmd("migrate-continue", state="pre-switchover")
    finish(m.vm)


def case_migrate_disk(side, a, tmp):
    """2 GiB of random data in a qcow2 image, to an empty one; the guest idles, and writes nothing to it."""
    ours = side["name"] == "sterna"
    there = image(side, os.path.join(tmp, "there.qcow2"), "2G")
    with Mover(side, a, tmp, "stamp tick 2", disk(disk_data(side, tmp)), mem=256) as m:
        m.vm.wait("GUEST-UP")
        time.sleep(1)
        capabilities = () if ours else ("pause-before-switchover",)
        dst, uri = m.target(disk(there))
        prepare(m.vm, capabilities)
        os.sync()
        begin = time.monotonic()
        if ours:
            m.vm.cmd("migrate", uri=uri, disks=[{"device": "disk0", "mode": "pre-copy"}])
            finish(m.vm)
        else:
            mirror_and_move(m, dst, uri, tmp)
        took = first_tick_after(dst, begin) - begin
    os.unlink(there)
    return {"move with a disk of 2 GiB, s": took}


# --- refusal ----------------------------------------------------------------------------------------------------------

class Proxy:
    """Counts what passes through a connection: bytes from the source, bytes back, and how often the one who speaks has answered."""

    def __init__(self, path, to):
        self.there, self.back, self.answers, self.last = 0, 0, 0, None
        self.lock = threading.Lock()
        self.door = socket.socket(socket.AF_UNIX)
        self.door.bind(path)
        self.door.listen()
        threading.Thread(target=self.run, args=(to,), daemon=True).start()

    def count(self, back, n):
        with self.lock:
            self.there += 0 if back else n
            self.back += n if back else 0
            self.answers += back and self.last == "there"
            self.last = "back" if back else "there"

    def copy(self, a, b, back):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                self.count(back, len(data))
                b.sendall(data)
        for s in a, b:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def run(self, to):
        here, _ = self.door.accept()
        there = socket.socket(socket.AF_UNIX)
        there.connect(to)
        threading.Thread(target=self.copy, args=(there, here, True), daemon=True).start()
        self.copy(here, there, False)


def case_migrate_refusal(side, a, tmp):
    """The destination lacks a device."""
    path = os.path.join(tmp, "between")
    if os.path.exists(path):
        os.unlink(path)
    with Mover(side, a, tmp, "sleep 1000", ["-device", "virtio-rng-pci,id=rng"], mem=256) as m:
        m.vm.wait("GUEST-UP")
        dst, uri = m.target([])
        proxy = Proxy(path, uri[5:])
        prepare(m.vm)
        begin = time.monotonic()
        m.vm.cmd("migrate", uri=f"unix:{path}")
        if side["name"] == "sterna":
            took = finish(m.vm, "failed")["at"] - begin
        else:  # it has no way back: the source learns nothing
            dst.process.wait(60)
            took = time.monotonic() - begin
        proxy.door.close()
        state = m.vm.cmd("query-status")["status"]
    return {"refusal of an impossible move, ms": took * 1000, "refusal: KiB sent before": proxy.there / 1024,
            "refusal: answers of the destination": proxy.answers, "refusal: the guest runs on": int(state == "running")}


# --- what is asked for ------------------------------------------------------------------------------------------------

# what: (in words, whether Sterna's figure reaches it beside the peer's; of(WHAT) is another of Sterna's)
ASKED = {
    "pre-copy of 1 GiB of random pages, MiB/s":
        (">= 85 % of the socket, 1.5 x peer", lambda s, q, of: s >= 0.85 * of("what the socket alone carries, MiB/s") and s >= 1.5 * q),
    "downtime, seen from outside, ms": ("< 10, 1/3 of the peer's", lambda s, q, of: s < 10 and s <= q / 3),
    "downtime with 2 connections, seen from outside, ms": ("< 10, 1/3 of the peer's", lambda s, q, of: s < 10 and s <= q / 3),
    "post-copy: asked to the first tick there, ms": ("< 50", lambda s, q, of: s < 50),
    "page that had not come: p99, ms": ("< 1", lambda s, q, of: s < 1),
    "move with a disk of 2 GiB, s": ("at most the peer's", lambda s, q, of: s <= q),
    "refusal: answers of the destination": ("1", lambda s, q, of: s == 1),
    "refusal: KiB sent before": ("no page", lambda s, q, of: s < 256),
    "save of 1 GiB of random pages to a file, MiB/s":
        (">= 90 % of the disk, the peer's", lambda s, q, of: s >= 0.9 * of("the disk's own rate of writing in a row, MiB/s") and s >= q),
}
CASES = {name[5:]: f for name, f in list(globals().items()) if name.startswith("case_")}
