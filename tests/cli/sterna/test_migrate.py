# SPDX-License-Identifier: BSD-2-Clause
"""A machine moves from one program to another, or does not: whatever is refused, given up or cut on the way, it runs in exactly one
place, or its manager is told to look."""
import base64, json, os, random, re, socket, struct, subprocess, time

import pytest
from conftest import Machine
from faulty_link import BACK, FORTH, FaultyLink
from qmp import QMPError
from qtest_disk import Disk
from statefile import crc32c
from sterna import TOP, free_port, program

MIB = 32
# The messages of move/proto.h that come back.
EMPTY = 16 + len("{}") + 4  # bytes of such a message
HELLO = 32


@pytest.fixture
def start(tmp_path):
    """start(*args): a machine that stands where its harts would run, or with `accel` runs."""
    made = []

    def one(*args, mib=MIB, stopped=False, accel="qtest"):
        base = ("-display", "none", "-nodefaults", "-accel", accel, "-M", "virt", "-m", str(mib), *(["-S"] if stopped else []))
        own = tmp_path / f"machine{len(made)}"
        own.mkdir()
        made.append(Machine(own, *args, qtest=False, base=base))
        return made[-1]
    yield one
    for m in made:
        m.close()


@pytest.fixture
def payload(tmp_path):
    """Something for RAM: data that is no zero and does not shrink."""
    path = tmp_path / "payload"
    path.write_bytes(random.Random(1).randbytes(4 << 20))
    return str(path)


def source(start, payload):
    return start("-initrd", payload, "-kernel", kernel(payload))


def kernel(payload):
    """RISC-V Image header and nothing that runs."""
    path = payload + ".kernel"
    with open(path, "wb") as f:
        f.write(b"\x6f\0\0\0" + b"\0" * 4 + (0x200000).to_bytes(8, "little") + (4096).to_bytes(8, "little") + b"\0" * 8 + (2).to_bytes(4, "little") +
                b"\0" * 12 + b"RISCV\0\0\0RSC\x05" + b"\0" * 4 + b"\0" * 4032)
    return path


def info(m):
    return m.qmp.cmd("query-migrate")


def until(m, *wanted, timeout=60):
    end = time.monotonic() + timeout
    while info(m).get("status") not in wanted:
        assert time.monotonic() < end, info(m)
        time.sleep(0.002)
    return info(m)


def running(m):
    try:
        return m.process.poll() is None and m.qmp.cmd("query-status")["running"]
    except (OSError, EOFError):
        return False  # it has just ended


def gone(m):
    """It has ended because what came could not be loaded."""
    code, told = m.process.wait(60), m.quit()[1]
    return code == 1 and "load of migration failed" in told


def test_there(start, payload, tmp_path):
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    assert dst.qmp.cmd("query-status")["status"] == "inmigrate"
    for m in src, dst:
        m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    done = until(src, "completed", "failed")
    assert done["status"] == "completed" and done["ram"]["normal"] >= 1024 and done["ram"]["transferred"] >= 4 << 20
    assert done["ram"]["total"] == MIB << 20 and done["ram"]["duplicate"] > 1000
    assert src.qmp.cmd("query-status") == {"running": False, "status": "postmigrate"} and running(dst)
    def told(m):
        return [e["data"].get("status", e["data"].get("pass")) if "data" in e else e["event"] for e in m.qmp.events]
    passes = list(range(1, done["ram"]["dirty-sync-count"] + 1))
    assert told(src) == ["setup", 1, "active", *passes[1:-1], "STOP", "device", passes[-1], "completed"], src.qmp.events
    until(dst, "completed")
    assert told(dst) == ["active", "RESUME", "completed"], dst.qmp.events
    for command in "cont", "migrate":
        with pytest.raises(QMPError, match="moved away"):
            src.qmp.cmd(command, **({"uri": "unix:/x"} if command == "migrate" else {}))
    src.qmp.cmd("system_reset")
    assert src.qmp.cmd("query-status")["status"] == "postmigrate"


def test_stopped_stays_stopped(start, payload, tmp_path):
    src, dst = source(start, payload), start("-incoming", f"tcp:127.0.0.1:{free_port()}")
    src.qmp.cmd("stop")
    src.qmp.cmd("migrate", uri=dst.process.args[-1])
    until(src, "completed")
    until(dst, "completed")
    assert not running(dst) and dst.qmp.cmd("query-status")["status"] == "paused"
    dst.qmp.cmd("cont")
    assert running(dst)


def test_who_hears_that_it_is_there_may_move_it_on(start, tmp_path):
    """Both words at once, so that nothing happens in between: six times, as the connection is closed in no time."""
    for i in range(6):
        src, dst = start(), start("-incoming", f"unix:{tmp_path}/in{i}")
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in{i}")
        said, end = {}, time.monotonic() + 60
        while said.get("status") != "completed":
            assert time.monotonic() < end, said
            dst.qmp.send(b'{"execute": "query-migrate"}{"execute": "migrate", "arguments": {"uri": "exec:cat > /dev/null"}}')
            said, then = dst.qmp.answer()["return"], dst.qmp.answer()
        assert then == {"return": {}} and "socket-address" not in said


def pipes(m):
    """Of the program: those that RAM's pages go into a socket by are a pair more."""
    folder = f"/proc/{m.process.pid}/fd"
    return sum(os.readlink(f"{folder}/{fd}").startswith("pipe:") for fd in os.listdir(folder))


@pytest.mark.parametrize("way", ["unix", "tcp", "compressed", "source then", "destination then"])
def test_where_pages_are_lent(start, payload, tmp_path, way):
    """Who is of an earlier release does not know of live pages."""
    then = [("-as-release", "virt-0.1", "-M", "virt-0.1") if way == f"{who} then" else ("-M", "virt-0.1") for who in ("source", "destination")]
    uri = f"tcp:127.0.0.1:{free_port()}" if way == "tcp" else f"unix:{tmp_path}/in"
    src = start("-initrd", payload, "-kernel", kernel(payload), *then[0])
    dst = start(*then[1], "-incoming", uri)
    link = FaultyLink(tmp_path / "between", tmp_path / "in", record=True) if way != "tcp" else None
    before = pipes(src)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 18, compression="zstd" if way == "compressed" else "none")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/between" if link else uri)
    until(src, "active")
    assert pipes(src) - before == (0 if way == "tcp" or "then" in way else 2)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    until(src, "completed")
    assert running(dst)
    if link:
        link.close()
        live = sum(link.sent[FORTH][m.start() + 16 + 16 + 12] == 4 for m in re.finditer(rb"RAMP\0\0\0\0", link.sent[FORTH]))
        assert (live > 0) == (way == "unix")


def driven(tmp_path):
    """Source and destination of which a driver in the test writes to RAM, in place of a guest."""
    made = []
    for name, more in ("src", ()), ("dst", ("-incoming", f"unix:{tmp_path}/in")):
        (tmp_path / name).mkdir()
        made.append(Machine(tmp_path / name, *more, base=("-display", "none", "-nodefaults", "-M", "virt", "-m", str(MIB))))
    return made


def test_a_torn_page_comes_once_more(tmp_path):
    """The guest writes to all the pages that a socket holds, and has their checksums from before that."""
    size, base = 16 << 20, 0x80400000
    src, dst = driven(tmp_path)
    link = FaultyLink(tmp_path / "between", tmp_path / "in", record=True)
    link.fault("stall", FORTH, 2 << 20)
    assert src.ask(f"memset {base} {size} 0xa1") == "OK"
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/between")
    assert link.stalled.wait(60)
    sent = -1
    while sent != (sent := info(src)["ram"]["transferred"]):
        time.sleep(0.1)  # the socket takes what it can hold
    assert src.ask(f"memset {base} {size} 0xb2") == "OK"
    link.release()
    until(src, "completed")
    until(dst, "completed")
    assert base64.b64decode(dst.ask(f"b64read {base} {size}").split(" ")[1]) == b"\xb2" * size
    link.close()
    came = link.sent[FORTH].count(b"\xb2" * 4096)
    assert came > size // 4096, "none was torn"
    for m in src, dst:
        m.close()


def test_what_is_known_to_be_written_to_again_waits(tmp_path):
    """Its turn had not come when the guest wrote to it: it is sent once, by the round after."""
    size, base = 16 << 20, 0x80400000
    src, dst = driven(tmp_path)
    link = FaultyLink(tmp_path / "between", tmp_path / "in", record=True)
    assert src.ask(f"memset {base} {size} 0xa1") == "OK"
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 18)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/between")
    until(src, "active")
    assert src.ask(f"memset {base} {size} 0xb2") == "OK"
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    until(src, "completed")
    until(dst, "completed")
    assert base64.b64decode(dst.ask(f"b64read {base} {size}").split(" ")[1]) == b"\xb2" * size
    link.close()
    assert link.sent[FORTH].count(b"\xb2" * 4096) < size // 4096 * 5 // 4
    for m in src, dst:
        m.close()


@pytest.mark.parametrize("state", ["prelaunch", "shutdown"])
def test_how_it_stood_still(start, payload, tmp_path, state):
    """A machine that neither runs nor is paused comes as it was; and what must be reset must be there, too."""
    src, dst = start("-no-reboot", "-no-shutdown", stopped=state == "prelaunch"), start("-incoming", f"unix:{tmp_path}/in")
    if state == "shutdown":
        src.qmp.cmd("system_reset")
    assert src.qmp.cmd("query-status")["status"] == state
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert dst.qmp.cmd("query-status") == {"running": False, "status": state}


def test_stopped_by_its_disk(tmp_path):
    """A request that failed here, for which the machine stands still, goes with it; where the disk is sound, it is done."""
    (tmp_path / "d").write_bytes(bytes(1 << 20))
    full = {"driver": "blkdebug", "node-name": "n", "image": {"driver": "file", "filename": f"{tmp_path}/d"},
            "inject-error": [{"event": "none", "iotype": "write", "errno": 28}]}
    device, made = ("-device", "virtio-blk-device,drive=n,id=d,werror=stop"), []
    for name, more in (("src", ("-blockdev", json.dumps(full), *device)),
                       ("dst", ("-blockdev", f"file,node-name=n,filename={tmp_path}/d", *device, "-incoming", f"unix:{tmp_path}/in"))):
        (tmp_path / name).mkdir()
        made.append(Machine(tmp_path / name, *more, base=("-display", "none", "-nodefaults", "-M", "virt", "-m", str(MIB))))
    src, dst = made
    disk = Disk(src)
    disk.put(disk.data, b"kept" * 128)
    disk.submit(1, 0, [(disk.data, 512, 0)])
    src.qmp.event("BLOCK_IO_ERROR", action="stop")
    src.qmp.event("STOP")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert dst.qmp.cmd("query-status") == {"running": False, "status": "io-error"}
    disk.m = dst
    assert not disk.answered()
    dst.qmp.cmd("cont")
    assert disk.answer() == 0 and disk.contents(0, 512) == b"kept" * 128 and running(dst)
    for m in made:
        m.close()


def test_asked_and_refused(start, payload, tmp_path):
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in", mib=2 * MIB)
    for _ in range(2):  # who only asks may ask again
        with pytest.raises(QMPError, match="the other side says.*32 MiB of RAM.*64 MiB"):
            src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)
    assert info(src) == {}
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    failed = until(src, "failed")
    assert "64 MiB" in failed["error-desc"] and "ram" not in failed and running(src) and gone(dst)
    with pytest.raises(QMPError, match="in'"):
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)
    assert info(src) == failed  # of what was done, not of what was asked
    with pytest.raises(QMPError, match="gives no answer"):
        src.qmp.cmd("migrate", uri="exec:cat", dry_run=True)


DISK = "-blockdev", "null-co,node-name=n,size=1048576,read-only=on"
RNG = "-device", "virtio-rng-device,id=r"


def blk(kind="device", **more):
    return *DISK, "-device", ",".join([f"virtio-blk-{kind},drive=n,id=d", *(f"{k.replace('_', '-')}={v}" for k, v in more.items())])


@pytest.mark.parametrize("here, there, says", [
    ((), RNG, "the saved machine has no '/machine/peripheral/r', this one has"), (RNG, (), "the saved machine has '/machine/peripheral/r', this one has not"),
    (("-smp", "2"), (), "has '/machine/hart1', this one has not"), ((), ("-M", "virt-0.1"), "a machine 'virt-0.2', this one is 'virt-0.1'"),
    (blk(), blk("pci"), "'/machine/peripheral/d': it is a 'virtio-blk-mmio' there and a 'virtio-blk-pci' here"),
    (blk("pci", addr="1"), blk("pci", addr="2.0"), "'/machine/peripheral/d' is at addr=01.0 there and at addr=02.0 here"),
    ((*blk(), *RNG), (*RNG, *blk()), "'/machine/peripheral/d' is at bus=virtio-mmio-bus.7 there and at bus=virtio-mmio-bus.6 here"),
    (blk(), blk(num_queues="4"), "'/machine/peripheral/d': it offers the features"), (blk(queue_size="64"), blk(), "'/machine/peripheral/d': .*see num-queues and queue-size"),
    ((), ("-cpu", "rv64,zba=off"), "'/machine/hart0': .*zba")])
def test_another_machine(start, payload, tmp_path, here, there, says):
    """Whatever differs is found before any page, and who only asks is told the same."""
    src, dst = source(lambda *a: start(*a, *here), payload), start(*there, "-incoming", f"unix:{tmp_path}/in")
    with pytest.raises(QMPError, match=says):
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    failed = until(src, "failed", "completed")
    assert re.search(says, failed["error-desc"]) and "ram" not in failed and running(src) and gone(dst)


def test_nothing_is_plugged_meanwhile(start, payload, tmp_path):
    """The destination knows what comes: whoever came later would be in the way of all of it."""
    src = source(lambda *a: start(*a, "-device", "virtio-rng-pci,id=r"), payload)
    dst = start("-device", "virtio-rng-pci,id=r", "-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 18)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "active")
    for command, args in ("device_add", {"driver": "virtio-rng-pci", "id": "late"}), ("device_del", {"id": "r"}):
        with pytest.raises(QMPError, match=f"{command} not allowed while migrating: .*'migrate_cancel'"):
            src.qmp.cmd(command, **args)
    assert "not allowed while migrating" in src.qmp.hmp("device_add virtio-rng-pci,id=late")
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    dst.qmp.cmd("device_add", driver="virtio-rng-pci", id="late")


def test_a_file_of_a_machine_that_is_plugged_in_another_way(start, payload, tmp_path):
    src = source(lambda *a: start(*a, *blk("pci", addr="1")), payload)
    src.qmp.cmd("migrate", uri=f"file:{tmp_path}/state")
    until(src, "completed")
    dst = start(*blk("pci", addr="2"), "-incoming", "defer")
    dst.qmp.cmd("migrate-incoming", uri=f"file:{tmp_path}/state")
    assert gone(dst) and "'/machine/peripheral/d' is at addr=01.0 there and at addr=02.0 here" in dst.quit()[1]


def test_what_stands_in_its_way(start, tmp_path):
    (tmp_path / "d").write_bytes(bytes(65536))
    m = start("-drive", f"file={tmp_path}/d,format=raw,if=none,id=d,snapshot=on")
    reasons = info(m)["blocked-reasons"]
    assert len(reasons) == 1 and "snapshot=on" in reasons[0] and "status" not in info(m)
    assert "Migration blocked: " in m.qmp.cmd("human-monitor-command", command_line="info migrate")
    with pytest.raises(QMPError, match="snapshot=on"):
        m.qmp.cmd("migrate", uri=f"file:{tmp_path}/out")
    assert info(m)["status"] == "failed" and info(m)["error-desc"] == reasons[0] and running(m)
    moved = start()
    assert info(moved) == {}
    waiting = start("-incoming", f"unix:{tmp_path}/in")
    moved.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert "moved away" in until(moved, "completed")["blocked-reasons"][0] and "blocked-reasons" not in until(waiting, "completed")


@pytest.mark.parametrize("when", ["active", "pre-switchover"])
def test_given_up(start, payload, tmp_path, when):
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 16 if when == "active" else 0)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, when)
    assert running(src) == (when == "active")
    with pytest.raises(QMPError, match="in progress"):
        src.qmp.cmd("migrate", uri="unix:/x")
    src.qmp.cmd("migrate_cancel")
    assert "error-desc" not in until(src, "cancelled") and running(src) and gone(dst)


@pytest.mark.parametrize("what", ["another limit", "given up", "post-copy"])
def test_waits_for_hours_but_is_not_deaf(start, payload, tmp_path, what):
    """So slowly that the next piece of the stream is due in some minutes or hours."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": what == "post-copy"}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1, max_postcopy_bandwidth=1)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "active")
    time.sleep(0.3)
    if what == "given up":
        src.qmp.cmd("migrate_cancel")
        assert until(src, "cancelled", "failed")["status"] == "cancelled" and running(src) and gone(dst)
        return
    if what == "post-copy":
        src.qmp.cmd("migrate-start-postcopy")
        until(dst, "postcopy-active")
        time.sleep(0.3)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0, max_postcopy_bandwidth=0)
    until(src, "completed")
    until(dst, "completed")
    assert running(dst) and not running(src)


def test_the_human_monitor_waits_for_the_end(start, tmp_path):
    src = start("-monitor", f"unix:{tmp_path}/hmp,server=on,wait=off")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/hmp")
        s.settimeout(60)

        def answer():
            said = b""
            while not said.endswith(b"(qemu) "):
                data = s.recv(4096)
                assert data, said
                said += data
            return said

        def hmp(line):
            s.sendall(line.encode() + b"\n")
            return answer()
        answer()
        assert b"Connection refused" in hmp(f"migrate tcp:127.0.0.1:{free_port()}") and info(src)["status"] == "failed"
        dst = start("-incoming", f"unix:{tmp_path}/in")
        assert b"Error" not in hmp(f"migrate unix:{tmp_path}/in") and info(src)["status"] == "completed"
        until(dst, "completed")


def test_a_destination_that_ends(start, payload, tmp_path):
    """That is known at once, however long the limit would still hold back what is next."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 10)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "active")
    time.sleep(0.2)
    dst.qmp.cmd("quit")
    until(src, "failed")
    assert running(src) and dst.process.wait(60) == 0


def test_how_it_goes_in_a_round(start, payload, tmp_path):
    """Rates, pages and what the guest would stand still for are known long before the first round is over."""
    src = source(start, payload)
    start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 18)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "active")
    end = time.monotonic() + 60
    while (now := info(src))["ram"]["precopy-bytes"] < 1 << 18 or now["ram"]["normal"] <= 100 or now["total-time"] < 1000:
        assert time.monotonic() < end, now
    ram = now["ram"]
    assert now["status"] == "active" and ram["dirty-sync-count"] == 1 and ram["duplicate"] > 1000, now
    assert 0.1 < ram["mbps"] < 5 and ram["pages-per-second"] == int(ram["mbps"] * 1e6 / 8 / 4096), ram
    assert now["expected-downtime"] > ram["remaining"] / (1 << 19) * 1000 > 500, now
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    done = until(src, "completed", "failed")
    assert done["ram"]["mbps"] > 0 and "expected-downtime" not in done


def test_hmp_within_qmp_does_not_wait(start, payload, tmp_path):
    """Whoever asked may want to give it up with the next command. What it may do is not changed under way."""
    src = source(start, payload)
    start("-incoming", f"unix:{tmp_path}/in")
    hmp = lambda line: src.qmp.cmd("human-monitor-command", command_line=line)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 16)
    assert hmp(f"migrate unix:{tmp_path}/in") == "terminal does not allow synchronous migration, continuing detached\r\n"
    until(src, "active")
    with pytest.raises(QMPError, match="There's a migration process in progress"):
        src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
    assert hmp("migrate_cancel") == ""
    assert until(src, "cancelled") and running(src)


def test_given_up_while_it_connects(start, payload, tmp_path):
    """To somebody who lets nobody in: it would take for ever."""
    src, crowd = source(start, payload), []
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{tmp_path}/in")
        door.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                crowd.append(socket.socket(socket.AF_UNIX))
                crowd[-1].setblocking(False)
                crowd[-1].connect(f"{tmp_path}/in")
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
        assert info(src)["status"] == "setup"
        src.qmp.cmd("migrate_cancel")
        assert until(src, "cancelled", "failed")["status"] == "cancelled" and running(src)
        for s in crowd:
            s.close()


def test_waits_for_the_manager(start, payload, tmp_path):
    src, dst = source(start, payload), start("-incoming", "defer")
    for state in "pre-switchover", "active":
        with pytest.raises(QMPError, match="not in expected state: none"):
            src.qmp.cmd("migrate-continue", state=state)
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "pre-switchover")
    src.qmp.event("STOP")
    assert src.qmp.cmd("query-status") == {"running": False, "status": "finish-migrate"} and not running(dst)
    with pytest.raises(QMPError, match="Migration is not finalized yet"):
        src.qmp.cmd("cont")
    with pytest.raises(QMPError, match="not in expected state: pre-switchover"):
        src.qmp.cmd("migrate-continue", state="active")
    src.qmp.cmd("migrate-continue", state="pre-switchover")
    until(src, "completed")
    assert running(dst) and not running(src)


def move_through(src, tmp, *fault):
    link = FaultyLink(f"{tmp}/proxy", f"{tmp}/in")
    link.fault(*fault)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0, answer_timeout=5000)
    src.qmp.cmd("migrate", uri=f"unix:{tmp}/proxy")
    done = until(src, "completed", "failed", "postmigrate-unknown")
    link.wait(60)
    return done


@pytest.mark.parametrize("at", [0, 5, 40, 3000, 20000, 1 << 20, (4 << 20) + 100])
def test_cut_on_the_way(start, payload, tmp_path, at):
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    assert move_through(src, tmp_path, "cut", FORTH, at)["status"] == "failed"
    assert running(src)
    assert gone(dst) if at >= HELLO else info(dst)["status"] == "setup"  # who did not say who he is was nobody


@pytest.mark.parametrize("word,back,result", [(b"ANSW", 3, "failed"), (b"REDY", 3, "failed"), (b"REDY", EMPTY, "postmigrate-unknown"),
                                              (b"REDY", EMPTY + 12 + 5, "postmigrate-unknown"), (b"RUNS", 1 << 62, "completed")])
def test_cut_in_the_last_words(start, payload, tmp_path, word, back, result):
    """Before READY was heard the source runs on; from then on it never does by itself."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    done = move_through(src, tmp_path, "cut", BACK, back, None, word)
    assert done["status"] == result, done
    if result == "failed":
        assert running(src) and gone(dst)
        return
    assert not running(src)
    with pytest.raises(QMPError, match="may run elsewhere"):
        src.qmp.cmd("cont")
    if result == "completed" or back > EMPTY:
        assert running(dst)  # it was told to
    else:
        there = running(dst)  # that is what the manager has to find out
        assert there or gone(dst)
        src.qmp.cmd("migrate-resolve", runs_there=there)
        assert info(src)["status"] == ("completed" if there else "failed") and running(src) == (not there)


def test_without_answers(start, payload, tmp_path):
    src = source(start, payload)
    src.qmp.cmd("migrate-set-parameters", compression="zstd")
    src.qmp.cmd("migrate", uri=f"file:{tmp_path}/state,offset=4k")
    until(src, "completed")
    assert os.path.getsize(tmp_path / "state") > 4 << 20
    dst = start("-incoming", f"file:{tmp_path}/state,offset=0x1000")
    assert until(dst, "completed") and running(dst)
    src.qmp.cmd("cont")  # nobody was told to run it
    assert running(src)
    subprocess.run(["dd", "if=state", "of=plain", "bs=4096", "skip=1"], cwd=tmp_path, check=True, stderr=subprocess.DEVNULL)
    assert subprocess.run([program("sterna-state"), "verify", str(tmp_path / "plain")], capture_output=True).returncode == 0


def test_descriptor_of_a_file(start, payload, tmp_path):
    """What stands before its place stays, as managers put something of their own there, and it is left behind the machine."""
    src = source(start, payload)
    with open(tmp_path / "state", "w+b", buffering=0) as f:
        f.write(b"a manager's" * 1000)
        src.qmp.cmd("getfd", fdname="out", fds=[f.fileno()])
        src.qmp.cmd("migrate", uri="fd:out")
        until(src, "completed")
        assert f.tell() == os.path.getsize(tmp_path / "state") > 4 << 20
        f.seek(0)
        assert f.read(11000) == b"a manager's" * 1000
        dst = start("-incoming", "defer")
        dst.qmp.cmd("getfd", fdname="in", fds=[f.fileno()])
        dst.qmp.cmd("migrate-incoming", uri="fd:in")
    assert until(dst, "completed") and running(dst)


def test_what_needs_an_answer(start, payload, tmp_path):
    """A file is no more touched by it than a command is begun."""
    src, path = start(*blk()), tmp_path / "kept"
    path.write_bytes(b"kept")
    for args, says in ({"dry_run": True}, "nobody to ask"), ({"disks": [{"device": "d", "mode": "pre-copy"}]}, "disks cannot be copied"), ({}, "switch 'postcopy-ram' off"):
        on = not args
        src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": on}])
        for uri in f"file:{path}", f"exec:rm {path}":
            with pytest.raises(QMPError, match=f"gives no answer: .*{says}"):
                src.qmp.cmd("migrate", uri=uri, **args)
    assert path.read_bytes() == b"kept" and running(src)


def test_how_small_it_gets(start, tmp_path):
    """multifd-zstd-level is of both ways to compress."""
    text = tmp_path / "text"
    words = [b"%x " % random.Random(i).getrandbits(24) for i in range(200)]
    text.write_bytes(b"".join(random.Random(1).choices(words, k=500000)))
    src, sizes = source(start, str(text)), []
    for level in 1, 0, 3, 19:
        src.qmp.cmd("migrate-set-parameters", compression="zstd", multifd_zstd_level=level, max_bandwidth=0)
        src.qmp.cmd("migrate", uri="exec:cat > /dev/null")
        sizes.append(until(src, "completed", "failed")["ram"]["transferred"])
        src.qmp.cmd("cont")
    assert sizes[3] < min(sizes[:3]) and abs(sizes[1] - sizes[2]) < 100 < abs(sizes[1] - sizes[0]), sizes


@pytest.mark.parametrize("uri,error", [("exec:exit 3", "exit code 3|Broken pipe"), ("unix:/nowhere/x", "No such file"), ("file:/nowhere/x", "nowhere"),
                                       ("fd:none", "File descriptor named 'none' has not been found")])
def test_no_way(start, payload, tmp_path, uri, error):
    """What is opened here is tried before the command is answered, as QEMU does; who connects, or begins a command, learns of it later."""
    src = source(start, payload)
    if uri.startswith(("file:", "fd:")):
        with pytest.raises(QMPError, match=error):
            src.qmp.cmd("migrate", uri=uri)
        assert info(src)["status"] == "failed"
    else:
        src.qmp.cmd("migrate", uri=uri)
    assert re.search(error, until(src, "failed")["error-desc"]) and running(src)


@pytest.mark.parametrize("first, last", [("trap '' TERM", "exec sleep 90"), ("cat > /dev/null", "exec sleep 90"), ("trap '' TERM; cat > /dev/null", "exec sleep 90"),
                                         ("trap 'exit 0' TERM; cat > /dev/null", "while :; do sleep 0.1; done")])
def test_a_command_that_does_not_end(start, payload, tmp_path, first, last):
    """It is told to; if it does not hear that it is killed, and the monitor waits for none of it."""
    src = source(start, payload)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    src.qmp.cmd("migrate", uri=f"exec:{first}; touch {tmp_path}/last; {last}")
    until(src, "device" if "cat" in first else "active")
    end = time.monotonic() + 60
    while not (tmp_path / "last").exists():
        assert time.monotonic() < end
        time.sleep(0.005)
    src.qmp.cmd("migrate_cancel")
    assert src.qmp.cmd("query-status", timeout=20)
    assert until(src, "cancelled", "completed", timeout=20)["status"] == "cancelled" and running(src)


def main(**addr):
    return [{"channel-type": "main", "addr": addr}]


def test_channels(start, payload, tmp_path):
    """The form in parts: to a port that was free, to a file behind something, through a command."""
    src, dst = source(start, payload), start("-incoming", "defer")
    dst.qmp.cmd("migrate-incoming", channels=main(transport="socket", type="inet", host="127.0.0.1", port="0"))
    [where] = info(dst)["socket-address"]
    assert where["type"] == "inet" and where["host"] == "127.0.0.1" and int(where["port"])
    assert f"\ttcp:127.0.0.1:{where['port']}\r\n" in dst.qmp.cmd("human-monitor-command", command_line="info migrate")
    with pytest.raises(QMPError, match="The incoming migration has already been started"):
        dst.qmp.cmd("migrate-incoming", uri="unix:/x")
    src.qmp.cmd("migrate", channels=main(transport="socket", **where))
    assert until(src, "completed", "failed")["status"] == "completed" and running(dst) and "socket-address" not in until(dst, "completed")
    path = tmp_path / "state"
    path.write_bytes(b"before" + b"x" * (8 << 20))
    dst.qmp.cmd("migrate", channels=main(transport="file", filename=str(path), offset=6))
    done = until(dst, "completed")["ram"]
    assert path.read_bytes()[:6] == b"before" and path.stat().st_size < 8 << 20
    assert done["transferred"] == done["precopy-bytes"] + done["downtime-bytes"] and 0 < done["downtime-bytes"] < 1 << 20
    third = start("-incoming", "defer")
    third.qmp.cmd("migrate-incoming", channels=main(transport="exec", args=["tail", "-c", "+7", str(path)]))
    assert until(third, "completed") and running(third)


def test_options_of_an_address(start, tmp_path):
    """In a URI as in the form in parts: only IPv4, at a port that is free."""
    dst = start("-incoming", "tcp:localhost:0,ipv4=on")
    [where] = info(dst)["socket-address"]
    assert where["host"] == "127.0.0.1"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        other = start("-incoming", f"tcp:127.0.0.1:{port},to={min(port + 50, 65535)}")
        assert port < int(info(other)["socket-address"][0]["port"]) <= port + 50
    start().qmp.cmd("migrate", uri=f"tcp:localhost:{where['port']},ipv4")
    until(dst, "completed")


def test_a_port_of_several(start, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        dst = start("-incoming", "defer")
        dst.qmp.cmd("migrate-incoming", channels=main(transport="socket", type="inet", host="127.0.0.1", port=str(port), to=min(port + 50, 65535)))
    assert port < int(info(dst)["socket-address"][0]["port"]) <= port + 50


@pytest.mark.parametrize("args,error", [
    ({}, "need either 'uri' or 'channels' argument"), ({"uri": "unix:/x", "channels": main(transport="exec", args=["cat"])}, "need either"),
    ({"channels": []}, "no main entry"), ({"channels": main(transport="exec", args=["cat"]) * 2}, "more than one main entry"),
    ({"channels": main(transport="exec", args=[])}, "names no command"), ({"channels": main(transport="rdma", host="h", port="1")}, "rdma"),
    ({"channels": main(transport="socket", type="vsock", cid="1", port="2")}, "'vsock': use"),
    ({"channels": main(transport="socket", type="inet", host="h", port="70000")}, "ports go up to 65535"),
    ({"channels": main(transport="file", filename="/x", offset=1 << 63)}, "behind the end")])
def test_bad_channels(start, args, error):
    src = start(stopped=True)
    with pytest.raises(QMPError, match=error):
        src.qmp.cmd("migrate", **args)
    assert info(src) == {}


@pytest.mark.parametrize("uri,error", [("x:y", "unknown migration protocol: x:y"), ("tcp:host", "error parsing address 'host': the port is missing"),
                                       ("file:a,offset=b", "bad offset b: Invalid argument"), ("file:a,offset=0x", "bad offset 0x: Invalid argument"),
                                       ("file:a,offset=8E", "bad offset 8E: Numerical result out of range"), ("tcp:h:1,to=x", "'to' is the last port"),
                                       ("tcp:h:1,ipv4=off,ipv6=off", "Cannot disable IPv4 and IPv6"), ("tcp:h:1,foo=1", "'foo' is unexpected"), ("tcp:h:65536", "'h:65536': ports go up to 65535"), ("unix:", "'unix:' says nothing")])
def test_bad_uris(start, uri, error):
    src = start(stopped=True)
    with pytest.raises(QMPError, match=error):
        src.qmp.cmd("migrate", uri=uri)
    assert info(src) == {}


def test_somebody_else_comes(start, payload, tmp_path):
    """Who knocks at a port by chance does not end what waits there."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    said = {b"": "went before it said anything", b"\x8eSTMOVE\x1a": "went before it said anything", b"\x16\x03\x01" + bytes(40): "here is none",
            b"GET / HTTP/1.0\r\n\r\n" + b"x" * 100: "what came is not a machine"}
    for words in said:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(f"{tmp_path}/in")
            s.sendall(words)
            s.shutdown(socket.SHUT_WR)
            assert b"FAIL" in s.recv(4096)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    log = dst.quit()[1]
    assert all(log.count(why) == list(said.values()).count(why) for why in said.values()), log


def crc(data):
    return crc32c(data).to_bytes(4, "little")


@pytest.mark.parametrize("what, says", [("version", "the source speaks versions 2 to 3 of the protocol, the destination speaks 1"),
                                        ("want", "The source wants 'wings', which this release does not know: move without it, or to a newer release")])
def test_somebody_of_another_release_comes(start, payload, tmp_path, what, says):
    """What is said is what a source says, but for one thing; it is answered before anything follows."""
    link = FaultyLink(tmp_path / "between", tmp_path / "in", record=True)
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/between", dry_run=True)
    link.wait(60)
    hello, rest = bytes(link.sent[FORTH][:HELLO]), bytes(link.sent[FORTH][HELLO:])
    link.close()
    if what == "version":
        hello = hello[:8] + struct.pack("<II", 3, 2) + hello[16:28]
        hello += crc(hello)
    else:
        end = 16 + int.from_bytes(rest[8:16], "little")
        want = b'{"wings":true}'
        want = rest[:8] + struct.pack("<Q", len(want)) + want
        rest = want + crc(want) + rest[end + 4:]
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/in")
        s.sendall(hello + rest)
        s.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: s.recv(4096), b""))
    assert answer.startswith(b"FAIL") and says.encode() in answer and answer[-4:] == crc(answer[:-4])
    assert gone(dst) if what == "version" else info(dst)["status"] == "setup"


def test_parameters(start):
    m = start(stopped=True)
    assert m.qmp.cmd("query-migrate-parameters") == {
        "throttle-trigger-threshold": 50, "cpu-throttle-initial": 20, "cpu-throttle-increment": 10, "cpu-throttle-tailslow": False, "max-cpu-throttle": 99,
        "tls-creds": "", "tls-hostname": "", "tls-authz": "", "max-bandwidth": 134217728, "multifd-channels": 2, "multifd-compression": "none", "multifd-zstd-level": 1, "avail-switchover-bandwidth": 0, "max-postcopy-bandwidth": 0, "downtime-limit": 300, "answer-timeout": 30000, "max-switchover-bandwidth": 0, "postcopy-after-rounds": 0, "compression": "none"}
    m.qmp.cmd("migrate-set-parameters", max_bandwidth=5, downtime_limit=7)
    assert m.qmp.cmd("query-migrate-parameters")["downtime-limit"] == 7
    with pytest.raises(QMPError, match="in the range of 0 to 2000000 milliseconds"):
        m.qmp.cmd("migrate-set-parameters", downtime_limit=2000001)
    assert [c["capability"] for c in m.qmp.cmd("query-migrate-capabilities")] == [
        "auto-converge", "events", "postcopy-ram", "release-ram", "return-path", "pause-before-switchover", "multifd", "dirty-bitmaps",
        "postcopy-blocktime", "postcopy-preempt", "switchover-ack"]
    m.qmp.cmd("migrate-set-parameters", tls_creds="t", tls_authz="who")
    m.qmp.cmd("migrate-set-parameters", tls_creds=None, tls_hostname=None)
    assert [m.qmp.cmd("query-migrate-parameters")[f"tls-{n}"] for n in ("creds", "hostname", "authz")] == ["", "", "who"]
    with pytest.raises(QMPError, match="in the range of 0 to 20"):
        m.qmp.cmd("migrate-set-parameters", multifd_zstd_level=21)
    hmp = lambda line: m.qmp.cmd("human-monitor-command", command_line=line)
    hmp("migrate_set_parameter max-bandwidth 10")
    hmp("migrate_set_parameter avail-switchover-bandwidth 20k")
    assert "max-bandwidth: 10485760 bytes/second\r\navail-switchover-bandwidth: 20480 bytes/second\r\n" in hmp("info migrate_parameters")
    for line in "migrate_set_parameter foo 1", "migrate_set_capability foo on":
        assert hmp(line) == "Error: invalid parameter value: foo\r\n"
    m.qmp.cmd("migrate_cancel")
    with pytest.raises(QMPError, match="'-incoming' was not specified"):
        m.qmp.cmd("migrate-incoming", uri="unix:/x")


# What QEMU 10 has there and Sterna has not: docs/supported.md.
LEFT_OUT = {
    "colo", "wait-unplug", "rdma", "cpr", "dirty-limit-ring-full-time", "dirty-limit-throttle-time-per-round", "vfio", "xbzrle-cache",
    # capabilities
    "background-snapshot", "dirty-limit", "late-block-activate", "mapped-ram", "rdma-pin-all", "validate-uuid", "x-colo", "x-ignore-shared", "xbzrle",
    "zero-blocks", "zero-copy-send",
    # parameters
    "announce-initial", "announce-max", "announce-rounds", "announce-step", "direct-io", "mode", "multifd-qatzip-level", "multifd-zlib-level", "zlib",
    "vcpu-dirty-limit", "x-checkpoint-delay", "x-vcpu-dirty-limit-period", "xbzrle-cache-size", "zero-page-detection"}


def words(schema):
    """Of each command and event: its members, what they may be, and their types, each as the path to it."""
    by_name = {x["name"]: x for x in schema}

    def walk(name, path, seen):
        t = by_name[name]
        kind = t["meta-type"]
        if kind == "array":
            yield from walk(t["element-type"], f"{path} []", seen)
        elif kind == "enum":
            yield from (f"{path} {v['name']}" for v in t["members"])
        elif kind == "alternate":
            for m in t["members"]:
                yield from walk(m["type"], path, seen)
        elif kind == "object" and name not in seen:
            for m in t["members"]:
                yield f"{path} {m['name']}" + (" (optional)" if "default" in m else "")
                yield from walk(m["type"], f"{path} {m['name']}", seen | {name})
            for v in t.get("variants", []):
                yield from walk(v["type"], f"{path} {v['case']}", seen | {name})
        elif kind == "builtin":
            yield f"{path} <{t['json-type']}>"
    for x in schema:
        for key, what in ("arg-type", "takes"), ("ret-type", "gives"):
            if x["meta-type"] in ("command", "event") and key in x:
                yield from walk(x[key], f"{x['name']} {what}", frozenset())


def test_as_qemu_names_them(start):
    """Each member, each value and each type that QEMU 10's query-qmp-schema shows of these commands and events, but what is listed."""
    with open(f"{TOP}/tests/cli/sterna/qemu-10-migration", encoding="ascii") as f:
        there = f.read().splitlines()
    here, lacks = set(words(start().qmp.cmd("query-qmp-schema"))), set()
    for line in there:
        without = LEFT_OUT & set(line.split())
        assert line in here or without, line
        lacks |= without if line not in here else set()
    assert lacks == LEFT_OUT
