# SPDX-License-Identifier: BSD-2-Clause
"""-state: whatever was acknowledged is there again after the program was killed, from the file alone."""
import shutil, subprocess

import pytest
import qmp
from qmp import QMPError
from sterna import program

MB = 1 << 20


class World:
    """A folder with images and a state file, and the machine that uses them."""

    def __init__(self, machine, tmp):
        self.start_machine, self.tmp, self.m = machine, tmp, None
        (tmp / "state").mkdir()
        self.state = tmp / "state" / "vm.state"

    def image(self, name, size=16 * MB, backing=None, fmt="qcow2"):
        path = self.tmp / f"{name}.{fmt}"
        if not path.exists():
            subprocess.run([program("sterna-img"), "create", "-q", "-f", fmt, *(["-b", backing, "-F", "qcow2"] if backing else []), path, str(size)],
                           check=True)
        return path

    def fill(self, path, pattern, length="1M"):
        subprocess.run([program("sterna-io"), "-f", "qcow2", "-c", f"write -P {pattern} 0 {length}", path], check=True, stdout=subprocess.DEVNULL)

    def start(self, *args, state="", **kw):
        self.m = self.start_machine("-S", "-state", f"{self.state}{state}", *args, qtest=False, **kw)
        return self.m.qmp

    def kill(self):
        self.m.process.kill()
        self.m.process.wait()
        self.m.close()

    def again(self):
        """Killed at once, and started from the file alone."""
        self.kill()
        return self.start()

    def refused(self, *args, state=""):
        r = subprocess.run([program("sterna"), "-S", "-display", "none", "-nodefaults", "-state", f"{self.state}{state}", *map(str, args)],
                           capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
        assert r.returncode == 1
        return r.stderr

    def blockdev(self, name, path=None, **more):
        self.m.qmp.cmd("blockdev-add", driver="qcow2", node_name=name,
                       file={"driver": "file", "filename": str(path or self.image(name)), "node-name": f"{name}-file"}, **more)


@pytest.fixture
def world(machine, tmp_path):
    return World(machine, tmp_path)


def picture(q):
    """What a client sees of the machine, whatever the order in which it was built."""
    nodes = {n["node-name"]: n for n in q.cmd("query-named-block-nodes")}
    qtree = sorted(q.cmd("human-monitor-command", command_line="info qtree").splitlines())
    return q.cmd("query-block"), nodes, qtree, {c["label"]: c for c in q.cmd("query-chardev") if c["label"] != "mon"}, q.cmd("query-block-exports")


def sections(q, kind):
    return {s.get("name"): s["values"] for s in q.cmd("query-state")["sections"] if s["kind"] == kind}


def test_built_by_monitor(world):
    q = world.start("-m", "96", "-smp", "2", "-name", "g", "-uuid", "12345678-1234-1234-1234-123456789abc")
    q.cmd("object-add", qom_type="throttle-group", id="tg", limits={"iops-total": 500})
    q.cmd("object-add", qom_type="iothread", id="io0")
    world.blockdev("d0", cache={"direct": False})
    world.blockdev("d1", read_only=True)
    q.cmd("blockdev-add", driver="throttle", node_name="t", throttle_group="tg", file="d0")
    q.cmd("device_add", driver="virtio-blk-pci", id="vd0", drive="t", serial="abc", bootindex=3, num_queues=2)
    q.cmd("device_add", driver="virtio-blk-pci", id="vd1", drive="d1", addr="9.0")
    q.cmd("block_set_io_throttle", {"id": "vd1", "bps": 1000000, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0, "bps_max": 2000000})
    q.cmd("chardev-add", id="c0", backend={"type": "file", "data": {"out": str(world.tmp / "out")}})
    q.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(world.tmp / "nbd.sock")}})
    q.cmd("block-export-add", type="nbd", id="e0", node_name="d1", name="disk one", description="a, \"b\"")
    before, state = picture(q), q.cmd("query-state")
    q = world.again()
    assert picture(q) == before
    assert q.cmd("query-state") == state
    assert q.cmd("query-name") == {"name": "g"} and q.cmd("query-uuid")["UUID"].startswith("12345678")
    assert q.cmd("query-memory-size-summary")["base-memory"] == 96 * MB and len(q.cmd("query-cpus-fast")) == 2
    # Slots that are free by now stay free; what goes is gone.
    q.cmd("device_del", id="vd0")
    q.cmd("blockdev-del", node_name="t")
    q.cmd("object-del", id="io0")
    q.cmd("block-export-del", id="e0")
    q.cmd("chardev-remove", id="c0")
    before = picture(q)
    q = world.again()
    assert picture(q) == before
    assert set(sections(q, "blockdev")) == {"d0", "d1"} and not sections(q, "export") and set(sections(q, "object")) == {"tg"}


def test_command_line(world):
    """It becomes the make-up of an empty file, and is refused for one that has some."""
    a, b = world.image("a"), world.image("b")
    q = world.start("-m", "64", "-drive", f"file={a},id=x,if=virtio,cache=writethrough,werror=stop,throttling.iops-total=9", "-hdb", str(b),
                    "-global", "virtio-blk-pci.queue-size=128", "-blockdev", f"driver=file,node-name=f,filename={world.image('r', fmt='raw')}",
                    "-device", "virtio-blk-pci,drive=f,addr=7", "-monitor", f"unix:{world.tmp}/hmp,server=on,wait=off")
    before = picture(q)
    assert sections(q, "drive")["x"]["werror"] == "stop" and sections(q, "monitor") == {"compat_monitor0": {"mode": "readline"}}
    assert sections(q, "throttle") == {"x": {"disks": ["x"]}} and sections(q, "object")["x"]["limits"]["iops-total"] == 9
    q.cmd("quit")
    world.m.process.wait()
    q = world.start()
    assert picture(q)[:3] == before[:3]
    assert not sections(q, "monitor")  # one was given
    generation = q.cmd("query-state")["generation"]
    world.kill()
    assert f"-m 64: '{world.state}' says already what the machine is made of (generation {generation})" in world.refused("-m", "64")
    assert "-device virtio-blk-pci,drive=f" in world.refused("-device", "virtio-blk-pci,drive=f")


def test_monitors_come_back(world):
    """Started with nothing but -state."""
    path = world.tmp / "q.sock"
    words = [program("sterna"), "-S", "-display", "none", "-state", str(world.state)]
    for more in (["-nodefaults", "-m", "64", "-qmp", f"unix:{path},server=on,wait=off"], []):
        path.unlink(missing_ok=True)
        p = subprocess.Popen([*words, *more], stdin=subprocess.DEVNULL)
        try:
            with qmp.connect(str(path), alive=lambda: p.poll() is None) as q:
                assert q.cmd("query-status")["status"] == "prelaunch"
                assert [c["label"] for c in q.cmd("query-chardev")] == ["compat_monitor0"]
        finally:
            p.kill()
            p.wait()


def test_events_and_generations(world):
    q = world.start()
    first = q.cmd("query-state")["generation"]
    world.blockdev("d0")
    e = q.event("STATE_CHANGED")["data"]
    assert e == {"generation": first + 1, "sections": [{"kind": "blockdev", "name": "d0", "deleted": False}]}
    q.cmd("query-block")
    q.cmd("stop")
    assert q.cmd("query-state")["generation"] == first + 1
    q.cmd("blockdev-del", node_name="d0")
    assert q.event("STATE_CHANGED")["data"]["sections"] == [{"kind": "blockdev", "name": "d0", "deleted": True}]
    world.blockdev("d7")
    said, text = q.hmp("info state"), world.state.read_text()
    assert said.startswith(f"{world.state}, generation {first + 3}\n\n[") and '\n[blockdev "d7"]\ndriver = qcow2\n' in said
    assert set(said.split("\n")[1:]) == set(text[text.index("["):text.index("# end")].split("\n"))  # as the file has it


def test_a_client_that_comes_back(world):
    """Each change is told once, with the generation that it made: who compares knows whether anything was missed, and what is told adds up."""
    import random
    path, rng = world.tmp / "other", random.Random(6)
    q = world.start("-m", "16", "-qmp", f"unix:{path},server=on,wait=off")

    def names(state):
        return {(s["kind"], s.get("name")) for s in state["sections"]}
    other, made = qmp.connect(str(path)), []
    other.cmd("query-state")
    known = other.cmd("query-state")
    have, generation = names(known), known["generation"]
    for i in range(60):
        if i == 30:  # away while nothing happens, and while something does
            other.close()
            other = qmp.connect(str(path))
            assert other.cmd("query-state")["generation"] == generation
            other.close()
            q.cmd("object-add", qom_type="rng-builtin", id="missed")
            other = qmp.connect(str(path))
            known = other.cmd("query-state")
            assert known["generation"] == generation + 1 and names(known) - have == {("object", "missed")}
            have, generation = names(known), known["generation"]
        if made and rng.random() < 0.4:
            q.cmd("object-del", id=made.pop(rng.randrange(len(made))))
        else:
            made.append(f"r{i}")
            q.cmd("object-add", qom_type="rng-builtin", id=made[-1])
        told = other.event("STATE_CHANGED", generation=generation + 1)["data"]
        generation += 1
        for s in told["sections"]:
            (have.discard if s["deleted"] else have.add)((s["kind"], s.get("name")))
        assert (have, generation) == (names(q.cmd("query-state")), q.cmd("query-state")["generation"])
    other.close()


def test_without(world):
    """No file: nothing is written, and what the machine is made of can be asked and saved all the same."""
    world.m = world.start_machine("-S", "-m", "64", qtest=False)
    q = world.m.qmp
    world.blockdev("d0")
    q.cmd("device_add", driver="virtio-blk-pci", id="vd0", drive="d0")
    answer = q.cmd("query-state")
    assert "filename" not in answer and sections(q, "device") == {"vd0": {"driver": "virtio-blk-pci", "addr": "01.0", "drive": "d0"}}
    assert not [e for e in q.events if e["event"] == "STATE_CHANGED"] and not list((world.tmp / "state").iterdir())
    before = picture(q)
    q.cmd("state-save-as", filename=str(world.state))
    with pytest.raises(QMPError, match="vm.state"):
        q.cmd("state-save-as", filename=str(world.state))
    world.kill()
    assert picture(world.start())[:3] == before[:3]


def test_snapshot_on(world):
    q = world.start("-m", "64")
    world.kill()
    text = world.state.read_text()
    q = world.start(state=",snapshot=on")
    world.blockdev("d0")
    assert q.cmd("query-state")["snapshot"] and set(sections(q, "blockdev")) == {"d0"}
    world.kill()
    assert world.state.read_text() == text


def test_refused(world):
    world.start("-m", "64")
    pid = world.m.process.pid
    assert f"{pid}" in world.refused()
    world.kill()
    assert "one state file" in world.refused("-state", world.state)
    there, world.state = world.state, world.tmp / "nix" / "vm.state"
    assert f"its folder '{world.tmp}/nix': No such file or directory" in world.refused()
    world.state = there
    text = world.state.read_text()
    for old, new, want in (("memory = 64M", "memory = 64M\nmemroy = 3", "memroy"), ("memory = 64M", "memory = lots", "memory"),
                           ("[machine]", "[machine]\nkernel = /nonexistent/image", "/nonexistent/image"), ("virt-0", "vrit-0", "vrit")):
        assert old in text
        world.state.write_text(text[:text.index("# end")].replace(old, new) + "# end edited\n")
        said = world.refused()
        assert want in said and str(world.state) in said, said


def test_no_room(world):
    """What cannot be written down does not happen; the machine goes on."""
    q = world.start("-m", "64")
    world.blockdev("d0")
    before = picture(q)
    shutil.rmtree(world.tmp / "state")
    with pytest.raises(QMPError, match="device_add is undone, for it cannot be written down: .*vm.state"):
        q.cmd("device_add", driver="virtio-blk-pci", id="vd0", drive="d0")
    with pytest.raises(QMPError, match="blockdev-add is undone"):
        world.blockdev("d1")
    world.image("over")
    with pytest.raises(QMPError, match="vm.state"):
        q.cmd("transaction", actions=[{"type": "blockdev-add", "data": {"driver": "null-co", "node-name": "n"}}])
    assert picture(q) == before
    with pytest.raises(QMPError, match="blockdev-del has been done, but is not written down"):
        q.cmd("blockdev-del", node_name="d0")
    assert q.cmd("query-named-block-nodes") == []


def test_blank_start(world):
    """Built by monitor from nothing, with a device that only a machine that does not run yet takes; killed half way once."""
    q = world.start("-preconfig", "-event-log", str(world.tmp / "events"))
    with pytest.raises(QMPError, match="-m|memory"):
        q.cmd("machine-set", memory="lots")
    with pytest.raises(QMPError, match="nonexistent"):
        q.cmd("machine-set", kernel="/nonexistent/image")
    q.cmd("machine-set", memory="48M", harts=2, name="blank")
    with pytest.raises(QMPError, match="made already"):
        q.cmd("machine-set", memory="64M")
    assert sections(q, "machine")[None] == {"type": q.cmd("query-state")["sections"][0]["values"]["type"], "memory": "48M", "harts": 2, "name": "blank"}
    world.blockdev("d0")
    q.cmd("device_add", driver="virtio-blk-device", id="vd0", drive="d0")
    q = world.again()
    assert q.cmd("query-name") == {"name": "blank"} and sections(q, "device")["vd0"]["bus"] == "virtio-mmio-bus.7"
    with pytest.raises(QMPError, match="only before machine initialization"):
        q.cmd("x-exit-preconfig")
    with pytest.raises(QMPError, match="-preconfig"):
        q.cmd("machine-set", memory="64M")
    world.kill()
    world.state = world.tmp / "state" / "other.state"
    q = world.start("-preconfig", "-m", "80")
    q.cmd("machine-set", harts=2)
    world.blockdev("d0")
    q.cmd("device_add", driver="virtio-blk-device", id="vd0", drive="d0")
    q.cmd("x-exit-preconfig")
    assert q.cmd("query-status")["status"] == "prelaunch" and q.cmd("query-memory-size-summary")["base-memory"] == 80 * MB
    q.cmd("cont")
    q.event("RESUME")
    before = picture(q)
    q = world.again()
    assert picture(q) == before and len(q.cmd("query-cpus-fast")) == 2
    assert "'preconfig' and 'loadvm'" in world.refused("-preconfig", "-loadvm", "x")


def test_event_log(world):
    """Each event with the generation of the file, also over two lives."""
    import json
    log = world.tmp / "events"
    for _ in range(2):
        q = world.start("-event-log", str(log))
        world.blockdev("d0") if not sections(q, "blockdev") else q.cmd("blockdev-del", node_name="d0")
        generation = q.cmd("query-state")["generation"]
        q.cmd("quit")
        world.m.process.wait()
        world.m.close()
        events = [json.loads(line) for line in log.read_text().splitlines()]
        changes = [e for e in events if e["event"] == "STATE_CHANGED"]
        assert changes[-1]["data"]["generation"] == generation == changes[-1]["generation"]
        assert events[-1]["event"] == "SHUTDOWN" and [e["seq"] for e in events] == list(range(events[0]["seq"], events[0]["seq"] + len(events)))


def test_what_was_said_of_a_child_and_what_was_not(world):
    """A node's file follows it after the restart as it did before, or holds what it was told itself."""
    q = world.start()
    world.blockdev("d")
    world.blockdev("e")

    def told(name, options):
        assert q.hmp(f'qemu-io {name} "reopen -o {options}"') == ""
        nodes = {n["node-name"]: n for n in q.cmd("query-named-block-nodes")}
        return [nodes[n]["cache"]["no-flush"] for n in (name, f"{name}-file")]
    assert told("d", "cache.no-flush=on") == [True, True]
    assert told("e", "file.cache.no-flush=on") == [False, True]
    q.cmd("blockdev-add", driver="null-co", node_name="n")  # whoever is told of this has the file written
    q = world.again()
    assert told("d", "cache.no-flush=off") == [False, False]
    assert told("e", "cache.no-flush=off") == [False, True]
