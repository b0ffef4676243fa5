# SPDX-License-Identifier: BSD-2-Clause
"""A destination that was started with an empty state file and nothing else: what the machine is made of comes with it."""
import fcntl, os, subprocess

import pytest
from machine import Machine
from moving import has_failed, over, running, until
from qmp import QMPError
from sterna import TOP, program

KIB = 1024
RAM = 0x80000000
STAYS = "chardev", "serial", "monitor", "nbd-server", "export", "job"


@pytest.fixture
def start(tmp_path):
    made = []

    def one(*args, state):
        folder = tmp_path / f"m{len(made)}"
        folder.mkdir()
        made.append(Machine(folder, "-state", str(tmp_path / state), *args, base=("-display", "none", "-nodefaults")))
        return made[-1]
    yield one
    for m in made:
        m.close()


def image(path, size=256 * KIB, fmt="qcow2", *more):
    subprocess.run([program("sterna-img"), "create", "-q", "-f", fmt, *more, str(path), str(size)], check=True)


def refused(tmp, state, *args):
    words = [program("sterna"), "-display", "none", "-nodefaults", "-state", str(tmp / state), *args]
    r = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert r.returncode == 1
    return r.stderr


def sections(m):
    """What moves: (kind, name) → values."""
    return {(s["kind"], s.get("name")): s["values"] for s in m.qmp.cmd("query-state")["sections"] if s["kind"] not in STAYS}


def rich(tmp):
    """A bit of everything, none of it what a machine has by itself."""
    image(tmp / "ro.qcow2")
    (tmp / "cd.iso").write_bytes(b"i" * 64 * KIB)
    return ("-object", "memory-backend-ram,id=mem,size=32M,merge=off", "-M", "virt,memory-backend=mem", "-smp", "2", "-name", "rich", "-uuid", "5b5d3a52-1f6a-4a83-9f2a-0d2a8a2f3e11",
            "-global", "virtio-rng-pci.max-bytes=64", "-object", "rng-builtin,id=r", "-object", "throttle-group,id=slow,x-iops-total=1000",
            "-blockdev", f"driver=qcow2,node-name=ro,read-only=on,file.driver=file,file.filename={tmp}/ro.qcow2",
            "-device", "virtio-blk-pci,id=vd0,drive=ro,serial=0042", "-device", "virtio-scsi-pci,id=scsi",
            "-drive", f"if=none,id=cd,media=cdrom,readonly=on,format=raw,file={tmp}/cd.iso", "-device", "scsi-cd,id=tray,drive=cd,bus=scsi.0",
            "-device", "virtio-rng-pci,rng=r", "-netdev", "user,id=net", "-device", "virtio-net-pci,id=nic,netdev=net,mac=52:54:00:aa:bb:01")


def go(src, tmp, **more):
    src.qmp.cmd("migrate", uri=f"unix:{tmp}/in", **more)


def copied(name="d", mode="pre-copy"):
    return [{"device": name, "mode": mode}]


def test_everything_comes(start, tmp_path):
    """The machine there is that one, its file says so before it runs there, and starts it again; the source's file does not any more."""
    src = start(*rich(tmp_path), state="here")
    src.ask(f"writeq {RAM:#x} 0x1122334455667788")
    src.qmp.cmd("blockdev-open-tray", id="tray", force=True)
    made = sections(src)
    dst = start("-incoming", f"unix:{tmp_path}/in", state="there")
    assert "arriving = true" in (tmp_path / "there").read_text()
    go(src, tmp_path)
    assert over(src) == "completed", src.qmp.cmd("query-migrate")
    assert until(dst, "completed") and running(dst)
    assert sections(dst) == made and made["device", "tray"]["tray-open"] and ("device", "nic") in made
    assert dst.ask(f"readq {RAM:#x}") == "OK 0x1122334455667788"
    assert "arriving" not in (tmp_path / "there").read_text()
    dst.quit()
    src.quit()
    again = start(state="there")
    assert sections(again) == made
    again.quit()
    assert "was moved away" in refused(tmp_path, "here") and "away = true" in (tmp_path / "here").read_text()
    assert subprocess.run([program("sterna-state"), "config-check", str(tmp_path / "here")], capture_output=True).returncode == 0


def test_there_and_back(start, tmp_path):
    """Into the file of the host that it once left; what has changed meanwhile comes back with it."""
    src = start(*rich(tmp_path), state="here")
    dst = start("-incoming", f"unix:{tmp_path}/in", state="there")
    go(src, tmp_path)
    assert over(src) == "completed" and until(dst, "completed")
    src.quit()
    dst.qmp.cmd("device_add", driver="virtio-rng-pci", id="new", rng="r")
    made = sections(dst)
    back = start("-incoming", f"unix:{tmp_path}/in", state="here")
    go(dst, tmp_path)
    assert over(dst) == "completed" and until(back, "completed")
    assert sections(back) == made and ("device", "new") in made
    back.quit()
    assert sections(start(state="here")) == made


def test_without_answers(start, tmp_path):
    """A file, and a program's output: the stream says it itself."""
    src = start(*rich(tmp_path), state="here")
    made = sections(src)
    src.qmp.cmd("migrate", uri=f"file:{tmp_path}/stream")
    assert over(src) == "completed"
    src.quit()
    there, fill = os.pipe()  # all of it is there when the program begins
    fcntl.fcntl(fill, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(fill, False)
    stream = (tmp_path / "stream").read_bytes()
    assert os.write(fill, stream) == len(stream)
    os.close(fill)
    os.set_inheritable(there, True)
    for n, uri in enumerate((f"file:{tmp_path}/stream", f"exec:cat {tmp_path}/stream", f"fd:{there}")):
        dst = start("-incoming", uri, state=f"there{n}")
        assert until(dst, "completed") and running(dst) and sections(dst) == made
        dst.quit()


def test_a_disk_is_made(start, tmp_path):
    """One that the source copies, where it is said to; the layers below it are not asked for. Post-copy: an overlay-to-be."""
    image(tmp_path / "base.qcow2")
    image(tmp_path / "top.qcow2", 256 * KIB, "qcow2", "-b", str(tmp_path / "base.qcow2"), "-F", "qcow2")
    image(tmp_path / "late.qcow2")
    for mode in "pre-copy", "post-copy":
        (tmp_path / mode).mkdir()
    src = start("-blockdev", f"driver=qcow2,node-name=b,file.driver=file,file.filename={tmp_path}/base.qcow2", "-blockdev",
                f"driver=qcow2,node-name=f,backing=b,file.driver=file,file.filename={tmp_path}/top.qcow2", "-device",
                "virtio-blk-device,id=d,drive=f,serial=1", state="here")
    dst = start("-incoming", "defer", state="there")
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in", disk_folder=str(tmp_path / "pre-copy"))
    go(src, tmp_path, disks=copied())
    assert over(src) == "completed", src.qmp.cmd("query-migrate")
    assert until(dst, "completed")
    made = sections(dst)
    assert made["blockdev", "f"]["file"]["filename"] == f"{tmp_path}/pre-copy/top.qcow2" and ("blockdev", "b") not in made
    src.quit()
    back = start("-incoming", "defer", state="third")
    back.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in", disk_folder=str(tmp_path / "post-copy"))
    go(dst, tmp_path, disks=copied(mode="post-copy"))
    assert until(back, "completed") and until(dst, "completed")
    dst.quit()
    back.quit()
    assert os.path.exists(tmp_path / "post-copy" / "top.qcow2")
    third = start(state="third")
    assert sections(third)["blockdev", "f"]["file"]["filename"] == f"{tmp_path}/post-copy/top.qcow2"


def test_what_is_here_already_stays(start, tmp_path):
    """By name: a disk that was made before, a network with other ports, a secret."""
    image(tmp_path / "there.raw", 256 * KIB, "raw")
    image(tmp_path / "here.raw", 256 * KIB, "raw")
    src = start("-object", "secret,id=s,data=one", "-object", "authz-simple,id=who,identity=x", "-netdev", "user,id=net,hostname=a", "-device",
                "virtio-net-device,netdev=net", "-blockdev", f"driver=raw,node-name=f,file.driver=file,file.filename={tmp_path}/here.raw",
                "-device", "virtio-blk-device,id=d,drive=f", state="here")
    dst = start("-object", "secret,id=s,data=two", "-netdev", "user,id=net,hostname=b", "-incoming", "defer", state="there")
    dst.qmp.cmd("blockdev-add", driver="raw", node_name="f", file={"driver": "file", "filename": f"{tmp_path}/there.raw"})
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in")
    go(src, tmp_path, disks=copied())
    assert over(src) == "completed", src.qmp.cmd("query-migrate")
    assert until(dst, "completed")
    made = sections(dst)
    assert made["netdev", "net"]["hostname"] == "b" and made["blockdev", "f"]["file"]["filename"] == f"{tmp_path}/there.raw"
    assert ("object", "who") not in made and ("object", "s") in made


@pytest.mark.parametrize("what, why", [("is not there", r'"ro".*ro\.qcow2.*No such file.*-blockdev ro'), ("is there", r"'d'.*there already.*disk-folder"),
                                       ("raw follows", r"'d' is 'raw'.*blockdev-add.*pre-copy")])
def test_early_refusals(start, tmp_path, what, why):
    """Before any page, also when it is only asked for; the source goes on, and nothing is left there."""
    image(tmp_path / "ro.qcow2")
    image(tmp_path / "d.raw", 256 * KIB, "raw")
    src = start("-blockdev", f"driver=qcow2,node-name=ro,read-only=on,file.driver=file,file.filename={tmp_path}/ro.qcow2", "-device",
                "virtio-blk-device,id=r,drive=ro", "-blockdev", f"driver=raw,node-name=f,file.driver=file,file.filename={tmp_path}/d.raw",
                "-device", "virtio-blk-device,id=d,drive=f", state="here")
    dst = start("-incoming", "defer", state="there")
    (tmp_path / "new").mkdir()
    more = {} if what == "is there" else {"disk_folder": str(tmp_path / "new")}
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in", **more)
    if what == "is not there":
        (tmp_path / "ro.qcow2").unlink()
    disks = copied(mode="post-copy" if what == "raw follows" else "pre-copy")
    with pytest.raises(QMPError, match=why):
        go(src, tmp_path, disks=disks, dry_run=True)
    go(src, tmp_path, disks=disks)
    assert over(src) == "failed" and "ram" not in src.qmp.cmd("query-migrate") and running(src)
    assert has_failed(dst) and os.listdir(tmp_path / "new") == []


def test_nobody_is_told_to_use_a_name_that_cannot_be_given(start, tmp_path):
    image(tmp_path / "d.qcow2")
    src = start("-drive", f"if=none,id=d,format=qcow2,file={tmp_path}/d.qcow2", "-device", "virtio-blk-device,id=d,drive=d", state="here")
    start("-incoming", f"unix:{tmp_path}/in", state="there")
    with pytest.raises(QMPError, match="there already.*or name its node at the source") as e:
        go(src, tmp_path, disks=copied(), dry_run=True)
    assert "#" not in str(e.value)


def test_asked_for_and_possible(start, tmp_path):
    src = start(*rich(tmp_path), state="here")
    dst = start("-incoming", f"unix:{tmp_path}/in", state="there")
    go(src, tmp_path, dry_run=True)
    assert ("device", "vd0") not in sections(dst)
    go(src, tmp_path)
    assert over(src) == "completed" and until(dst, "completed") and sections(dst) == {k: v for k, v in sections(src).items()} | {
        ("machine", None): {k: v for k, v in sections(src)["machine", None].items() if k != "away"}}


def test_killed_on_the_way(start, tmp_path):
    """Its file is none that could be started, but one that it can come to again. Images that were made go when the program ends by itself."""
    image(tmp_path / "d.raw", 256 * KIB, "raw")
    (tmp_path / "new").mkdir()
    src = start("-blockdev", f"driver=raw,node-name=f,file.driver=file,file.filename={tmp_path}/d.raw", "-device", "virtio-blk-device,id=d,drive=f",
                state="here")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    for how in "kill", "cancel":
        dst = start("-incoming", "defer", state="there")
        dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in", disk_folder=str(tmp_path / "new"))
        go(src, tmp_path, disks=copied())
        until(src, "pre-switchover")
        assert "virtio-blk-device" in (tmp_path / "there").read_text()
        if how == "kill":
            dst.process.kill()
            dst.process.wait()
            src.qmp.cmd("migrate_cancel")
            os.unlink(tmp_path / "new" / "d.raw")
        else:
            src.qmp.cmd("migrate_cancel")
            assert dst.process.wait(20) == 1
        assert over(src) in ("failed", "cancelled") and running(src)
        assert "did not" in refused(tmp_path, "there") and os.listdir(tmp_path / "new") == []
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": False}])
    dst = start("-incoming", "defer", state="there")
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in", disk_folder=str(tmp_path / "new"))
    go(src, tmp_path, disks=copied())
    assert over(src) == "completed" and until(dst, "completed")


def test_a_source_that_does_not_say(tmp_path):
    """One of an earlier release: the golden state is its."""
    said = refused(tmp_path, "there", "-accel", "qtest", "-incoming", f"file:{TOP}/tests/move/golden/virt-0.1.state")
    assert "does not say what its machine is made of" in said and "options" in said


def test_the_monitor_meanwhile(start, tmp_path):
    """There is no machine yet: what needs one says so, and nothing dies of it."""
    dst = start("-incoming", "defer", state="there")
    assert dst.qmp.cmd("query-status")["status"] == "inmigrate"
    for c in "query-cpus-fast", "query-block", "query-pci", "query-state", "stop", "cont", "system_reset":
        try:
            dst.qmp.cmd(c)
        except QMPError:
            pass
    with pytest.raises(QMPError, match="no bus"):
        dst.qmp.cmd("device_add", driver="virtio-rng-device", id="x")
    assert dst.qmp.cmd("query-migrate") == {} and dst.quit()[0] == 0
