# SPDX-License-Identifier: BSD-2-Clause
"""-state where it is hard: many changes at once, a folder that is not ours or has gone, a start that goes into the background."""
import os, shutil, signal, subprocess, time

import pytest
import qmp
from qmp import QMPError
from sterna import program
from test_state_file import World, picture, sections

AT_ONCE = 100
MB = 1 << 20


@pytest.fixture
def world(machine, tmp_path):
    return World(machine, tmp_path)


def stands_still(pid):
    """All of its threads have heard of it."""
    end = time.monotonic() + 60
    while any(open(f"/proc/{pid}/task/{t}/stat", encoding="ascii").read().rsplit(")", 1)[1].split()[0] != "T" for t in os.listdir(f"/proc/{pid}/task")):
        assert time.monotonic() < end


def test_changes_at_once_share_generations(world):
    """A generation costs one pair of fsyncs: a hundred changes that come together cost at most two of them."""
    args = []
    for i in range(AT_ONCE):
        args += ["-chardev", f"socket,id=c{i},path={world.tmp}/q{i},server=on,wait=off", "-mon", f"chardev=c{i},mode=control"]
    q = world.start("-m", "16", *args)
    clients = [qmp.connect(f"{world.tmp}/q{i}") for i in range(AT_ONCE)]
    before = q.cmd("query-state")["generation"]
    world.m.process.send_signal(signal.SIGSTOP)
    stands_still(world.m.process.pid)
    for i, c in enumerate(clients):
        c.send({"execute": "object-add", "arguments": {"qom-type": "rng-builtin", "id": f"r{i}"}})
    world.m.process.send_signal(signal.SIGCONT)
    for c in clients:
        answer = c.read()
        while "event" in answer:
            answer = c.read()
        assert answer == {"return": {}}
    assert 1 <= q.cmd("query-state")["generation"] - before <= 2
    for c in clients:
        c.close()
    assert len([n for n in sections(world.again(), "object") if n.startswith("r")]) == AT_ONCE


def test_folder_that_cannot_be_written_to(world):
    """Refused at the start, unless changes are to be dropped."""
    # root may write everywhere, if it has the capability
    less = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if less and not shutil.which("setpriv"):
        pytest.skip("no setpriv, and this is root")
    q = world.start("-m", "16")
    q.cmd("blockdev-add", driver="null-co", node_name="n0", size=MB)
    q.cmd("quit")
    world.m.process.wait()
    text, folder = world.state.read_text(), world.state.parent

    def start(more):
        return subprocess.run([*less, program("sterna"), "-S", "-display", "none", "-serial", "none", "-qmp", "stdio", "-state", f"{world.state}{more}"],
                              input='{"execute":"qmp_capabilities"}{"execute":"query-state"}{"execute":"quit"}', capture_output=True, text=True, timeout=60)
    folder.chmod(0o555)
    try:
        r = start("")
        assert r.returncode == 1 and f"'{world.state}.lock': Permission denied; snapshot=on runs" in r.stderr, r.stderr
        folder.chmod(0o755)
        (folder / "vm.state.lock").touch()  # as one that was killed leaves it
        folder.chmod(0o555)
        r = start("")
        assert r.returncode == 1 and f"'{world.state}'" in r.stderr and "its folder cannot be written to" in r.stderr, r.stderr
        r = start(",snapshot=on")
        assert r.returncode == 0 and '"n0"' in r.stdout, r.stdout + r.stderr
    finally:
        folder.chmod(0o755)
    assert world.state.read_text() == text


def test_folder_that_vanished(world):
    """The program ends as it always does; what it kept last is lost with the folder, and the log says so."""
    q = world.start("-m", "16")
    world.blockdev("d0")
    shutil.rmtree(world.state.parent)
    with pytest.raises(QMPError, match="d1.*|vm.state"):
        world.blockdev("d1")
    rc, said = world.m.quit()
    assert rc == 0 and "Sanitizer" not in said, said
    assert not world.state.parent.exists()


def test_into_the_background(world):
    """A relative name is meant in the folder in which the program was started."""
    sock = world.tmp / "qmp"
    command = [program("sterna"), "-daemonize", "-S", "-display", "none", "-state", "state/vm.state", "-pidfile", "pid"]
    subprocess.run([*command, "-m", "16", "-chardev", f"socket,id=c,path={sock},server=on,wait=off", "-mon", "chardev=c,mode=control"], cwd=world.tmp,
                   check=True, timeout=60)
    pid = int((world.tmp / "pid").read_text())
    with qmp.connect(str(sock)) as q:
        q.cmd("blockdev-add", driver="null-co", node_name="n0", size=MB)
        q.cmd("blockdev-add", driver="raw", node_name="n1", file={"driver": "file", "filename": str(world.image("raw"))})
        generation = q.cmd("query-state")["generation"]
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}"):
        time.sleep(0.01)
    assert f"generation={generation} " in world.state.read_text()
    assert {"n0", "n1"} <= set(sections(world.start(), "blockdev"))


def test_machine_that_fails_half_way(world):
    """What machine-set could not make leaves nothing behind: the next one makes it, and the file says that one."""
    q = world.start("-preconfig")
    with pytest.raises(QMPError, match="nonexistent"):
        q.cmd("machine-set", memory="32M", kernel="/nonexistent/image", options={"pflash0": "nobody"})
    assert sections(q, "machine") == {}
    q.cmd("machine-set", memory="48M", harts=1)
    assert sections(q, "machine")[None]["memory"] == "48M" and "options" not in sections(q, "machine")[None]
    q.cmd("x-exit-preconfig")
    assert q.cmd("query-memory-size-summary")["base-memory"] == 48 * MB
    assert sections(world.again(), "machine")[None]["memory"] == "48M"


def side(q):
    node = next(n for n in q.cmd("query-named-block-nodes", flat=True) if n["node-name"] == "lc")
    return node["image"]["format-specific"]["data"]


def test_live_copy_node(world):
    """A node that copies is in the file as it is by now; after its switch a restart uses the destination."""
    img = program("sterna-img")
    with open(world.tmp / "s", "wb") as f:
        f.write(os.urandom(4 * MB))
    subprocess.run([img, "create", "-q", "-f", "qcow2", "d", "4M"], cwd=world.tmp, check=True)
    subprocess.run([img, "create", "-q", "-f", "live-copy", "-o", "source=s,source_fmt=raw,destination=d,region_size=64k", "x"], cwd=world.tmp, check=True)
    q = world.start("-m", "16")
    q.cmd("blockdev-add", args={"driver": "live-copy", "node-name": "lc", "copying": False, "file": {"driver": "file", "filename": str(world.tmp / "x")}})
    q.cmd("device_add", driver="virtio-blk-pci", id="vd0", drive="lc")
    q.cmd("live-copy-change", node_name="lc", speed=3 * MB, parallel=5)
    node = sections(q, "blockdev")["lc"]
    assert (node["copying"], node["speed"], node["parallel"]) == (False, 3 * MB, 5)
    q = world.again()
    assert sections(q, "blockdev")["lc"] == node and side(q)["state"] == "copying" and side(q)["live"] == "source"
    q.cmd("live-copy-change", node_name="lc", copying=True, speed=0)
    q.event("LIVE_COPY_STATE", state="in-sync")
    q.cmd("live-copy-switch", node_name="lc")
    q.event("LIVE_COPY_STATE", state="switched")
    q = world.again()
    assert side(q)["live"] == "destination" and sections(q, "device")["vd0"]["drive"] == "lc"
    assert sections(q, "blockdev")["lc"]["copying"] is True


def test_machine_that_comes(machine, world):
    """What came with it is in the file of the machine that it becomes."""
    args = ["-M", "virt", "-m", "16", "-nodefaults", "-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-cd,id=cd"]
    (world.tmp / "source").mkdir()
    source = machine("-S", *args, qtest=False)
    source.qmp.cmd("blockdev-open-tray", id="cd")
    q = world.start(*args, "-incoming", f"unix:{world.tmp}/move")
    assert "tray-open" not in sections(q, "device")["cd"]
    source.qmp.cmd("migrate", uri=f"unix:{world.tmp}/move")
    end = time.monotonic() + 60
    while q.cmd("query-migrate")["status"] != "completed":
        assert time.monotonic() < end, source.qmp.cmd("query-migrate")
        time.sleep(0.01)
    assert "tray-open = true" in world.state.read_text()
    q = world.again()
    assert q.cmd("query-block")[0]["tray_open"] is True
