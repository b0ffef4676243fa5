# SPDX-License-Identifier: BSD-2-Clause
"""-drive in QEMU's many ways, -hda and its kin, -global."""
import os, subprocess, time

import pytest
from qmp import QMPError
from sterna import program, run


@pytest.fixture
def disk(tmp_path):
    def make(name):
        with open(tmp_path / name, "wb") as f:
            f.truncate(1 << 20)
        return str(tmp_path / name)
    return make


def error(*args):
    r = run(program("sterna"), "-display", "none", "-nodefaults", "-S", *args)
    assert r.rc == 1
    return r.err.rstrip("\n")


def start(machine, *args):
    return machine("-nodefaults", "-S", *args, qtest=False)


def test_virtio_makes_the_device(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},format=raw", "-drive", f"file={disk('b')},format=raw,if=none,id=x")
    info = {b["device"]: b for b in m.qmp.cmd("query-block")}
    assert set(info) == {"virtio0", "x"}
    assert info["virtio0"]["qdev"] and not info["x"].get("qdev")


def test_indexes(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,index=1", "-drive", f"file={disk('b')},format=raw", "-drive", f"file={disk('c')},format=raw")
    info = {b["device"]: b["inserted"]["file"] for b in m.qmp.cmd("query-block")}
    assert {k: os.path.basename(v) for k, v in info.items()} == {"virtio1": "a", "virtio0": "b", "virtio2": "c"}


def test_short_forms(machine, disk):
    m = start(machine, "-hda", disk("a"), "-hdb", disk("b"), "-cdrom", disk("with,comma"))
    info = {b["device"]: b["inserted"] for b in m.qmp.cmd("query-block")}
    assert [os.path.basename(info[f"virtio{i}"]["file"]) for i in range(3)] == ["a", "b", "with,comma"]
    assert [info[f"virtio{i}"]["ro"] for i in range(3)] == [False, False, True]


def test_set_adds_to_an_option_before(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,if=none,id=x", "-drive", f"file={disk('b')},format=raw,if=none,id=y",
              "-set", f"drive.y.file={disk('with,comma')}", "-set", "drive.y.readonly=on", "-device", "virtio-blk-pci,drive=x,id=d", "-set", "device.d.drive=y")
    info = {b["device"]: b for b in m.qmp.cmd("query-block")}
    assert [(os.path.basename(info[k]["inserted"]["file"]), info[k]["inserted"]["ro"], bool(info[k].get("qdev"))) for k in "xy"] == \
        [("a", False, False), ("with,comma", True, True)]


def test_options_of_the_file_beside_its_name(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},file.locking=off,format=raw,if=none,id=d,discard=unmap")
    assert m.qmp.cmd("query-block")[0]["inserted"]["drv"] == "raw"


def test_the_kind_of_io_is_for_a_file_that_may_be_below_or_not(machine, disk):
    """aio= reaches the file or device below the format; a protocol that has no choice is not asked."""
    m = start(machine, "-drive", f"file=blkdebug::{disk('a')},format=raw,if=none,id=d,aio=threads", "-drive",
              f"driver=null-co,if=none,id=n,aio=io_uring", "-drive", f"file={disk('b')},format=raw,if=none,id=f,aio=threads")
    assert [b["device"] for b in m.qmp.cmd("query-block")] == ["d", "n", "f"]
    assert "requires cache.direct=on" in error("-drive", f"file={disk('c')},format=raw,aio=native")
    assert "invalid aio option" in error("-drive", f"file=blkdebug::{disk('c')},format=raw,aio=nonsense")


@pytest.mark.parametrize("mode, expected", [("none", (True, True, False)), ("writeback", (True, False, False)), ("unsafe", (True, False, True)),
                                            ("writethrough", (False, False, False)), ("directsync", (False, True, False))])
def test_cache_modes(machine, disk, mode, expected):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,if=none,id=d,cache={mode}")
    cache = m.qmp.cmd("query-block")[0]["inserted"]["cache"]
    assert (cache["writeback"], cache["direct"], cache["no-flush"]) == expected


@pytest.mark.parametrize("said, expected", [("cache.direct=on", (True, True, False)), ("cache=none,cache.direct=off", (True, False, False)),
                                            ("cache.no-flush=on,cache=directsync", (False, True, True)), ("cache.writeback=off", (False, False, False))])
def test_cache_switches_beside_the_mode(machine, disk, said, expected):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,if=none,id=d,{said}")
    cache = m.qmp.cmd("query-block")[0]["inserted"]["cache"]
    assert (cache["writeback"], cache["direct"], cache["no-flush"]) == expected


def test_a_drive_is_free_until_a_device_has_it(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,if=none,id=a", "-drive", f"file={disk('b')},format=raw,if=none,id=b,node-name=target")
    def copy(job):
        m.qmp.cmd("blockdev-backup", job_id=job, device="a", target="target", sync="full")
        assert "error" not in m.qmp.event("BLOCK_JOB_COMPLETED")["data"]
    copy("before")
    m.qmp.cmd("device_add", driver="virtio-blk-pci", drive="b", id="guests")
    with pytest.raises(QMPError, match="unshared by block device 'b'"):
        copy("meanwhile")


def test_an_end_waits_for_no_limit(machine, disk):
    """A job's requests that a throttle group holds back for hours do not hold back the end of the program."""
    m = start(machine, "-object", "throttle-group,id=tg,x-bps-total=1", "-drive",
              f"driver=throttle,throttle-group=tg,file.driver=raw,file.file.filename={disk('a')},if=none,id=a,node-name=a", "-blockdev",
              "driver=null-co,node-name=t,size=1048576")
    m.qmp.cmd("blockdev-backup", job_id="j", device="a", target="t", sync="full")
    assert m.quit()[0] == 0


def test_limits_make_a_group(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,if=none,id=d,throttling.bps-total=4096,throttling.group=g",
              "-drive", f"file={disk('b')},format=raw,if=none,id=e,throttling.group=g", "-drive", f"file={disk('c')},format=raw,if=none,id=f,iops=7")
    limits = m.qmp.cmd("qom-get", path="/objects/g", property="limits")
    assert limits["bps-total"] == 4096 and limits.get("iops-total", 0) == 0
    assert m.qmp.cmd("qom-get", path="/objects/f", property="limits")["iops-total"] == 7
    assert [(b["device"], b["inserted"]["group"], b["inserted"]["bps"], b["inserted"]["iops"]) for b in m.qmp.cmd("query-block")] == [
        ("d", "g", 4096, 0), ("e", "g", 4096, 0), ("f", "f", 0, 7)]


def test_global_is_a_default_of_properties(machine, disk):
    m = start(machine, "-global", "virtio-blk-pci.serial=s1", "-global", "driver=virtio-blk-pci,property=num-queues,value=1", "-blockdev", "null-co,node-name=n",
              "-blockdev", "null-co,node-name=o", "-device", "virtio-blk-pci,drive=n,id=v", "-device", '{"driver": "virtio-blk-pci", "drive": "o", "id": "w", "serial": "own"}')
    assert m.qmp.cmd("qom-get", path="/machine/peripheral/v", property="serial") == "s1"
    assert m.qmp.cmd("qom-get", path="/machine/peripheral/w", property="serial") == "own"


@pytest.mark.parametrize("options, text", [
    ("if=foo", "-drive if=foo: unsupported bus type 'foo'"),
    ("if=none,foo=bar", "-drive if=none,foo=bar: Must specify either driver or file"),
    ("if=virtio", "-drive if=virtio: Device needs media, but drive is empty"),
    ("file=FILE,format=foo", "-drive file=FILE,format=foo: Unknown driver 'foo'"),
    ("file=FILE,format=raw,nosuch=1", "-drive file=FILE,format=raw,nosuch=1: Block format 'raw' does not support the option 'nosuch'"),
    ("file=/nosuch/x", "-drive file=/nosuch/x: Could not open '/nosuch/x': No such file or directory"),
])
def test_errors_are_qemus(disk, options, text):
    name = disk("f")
    assert error("-drive", options.replace("FILE", name)) == "sterna: " + text.replace("FILE", name)


def test_same_id_twice():
    assert error("-drive", "if=none,id=a", "-drive", "if=none,id=a") == "sterna: -drive if=none,id=a: Duplicate ID 'a' for drive"
    assert error("-chardev", "null,id=a", "-chardev", "null,id=a") == "sterna: -chardev null,id=a: Duplicate ID 'a' for chardev"


def test_same_index_twice(disk):
    args = [f"file={disk(n)},format=raw,index=2" for n in "ab"]
    assert error("-drive", args[0], "-drive", args[1]) == f"sterna: -drive {args[1]}: drive with bus=0, unit=2 (index=2) exists"


@pytest.mark.parametrize("fmt", ["qcow2", "qed"])
@pytest.mark.parametrize("hint,said,copies", [(True, "", True), (True, ",copy-on-read=off", False), (False, "", False), (False, ",copy-on-read=on", True),
                                              (True, ",readonly=on", False), (True, ",snapshot=on", False)])
def test_copy_on_read_as_the_image_asks_unless_told(machine, disk, tmp_path, fmt, hint, said, copies):
    top = str(tmp_path / "top")
    run(program("sterna-img"), "create", "-q", "-f", fmt, "-o", f"copy_on_read={'on' if hint else 'off'}", "-b", disk("base"), "-F", "raw", top).ok()
    m = start(machine, "-drive", f"file={top},format={fmt},if=none,id=d{said}")
    assert ("copy-on-read" in {n["drv"] for n in m.qmp.cmd("query-named-block-nodes")}) == copies


def test_the_hint_is_for_a_backing_image(machine, disk, tmp_path):
    top = str(tmp_path / "top")
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-o", "copy_on_read=on", top, "1M").ok()
    m = start(machine, "-drive", f"file={top},if=none,id=d")
    assert {n["drv"] for n in m.qmp.cmd("query-named-block-nodes")} == {"file", "qcow2"}


def test_a_read_only_drive_copies_nothing(machine, disk):
    m = start(machine, "-drive", f"file={disk('a')},format=raw,if=none,id=d,readonly=on,copy-on-read=on")
    assert m.qmp.cmd("query-block")[0]["inserted"]["drv"] == "raw"
    assert "disabling copy-on-read on read-only drive" in m.quit()[1]


@pytest.mark.parametrize("mode", ["cow", "cor", "stream"])
def test_what_becomes_of_the_backing_file(machine, tmp_path, mode):
    img, io = program("sterna-img"), program("sterna-io")
    base, top = str(tmp_path / "base.qcow2"), str(tmp_path / "top.qcow2")
    run(img, "create", "-q", "-f", "qcow2", base, "4M").ok()
    run(io, "-f", "qcow2", "-c", "write -q -P 7 0 3M", base).ok()
    run(img, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top).ok()
    m = start(machine, "-drive", f"if=none,id=d,file={top},format=qcow2,backing_mode={mode}")
    assert m.qmp.cmd("human-monitor-command", command_line='qemu-io d "read -P 7 0 64k"') is not None
    if mode == "stream":
        while not any(e["event"] == "BLOCK_JOB_COMPLETED" for e in m.qmp.events) and m.qmp.cmd("query-block-jobs"):
            pass
    m.quit()
    layers = run(img, "map", "--output=json", top).ok().out
    assert ('"depth": 0' in layers) == (mode != "cow") and ('"depth": 1' in layers) == (mode != "stream")
    assert ("backing file" in run(img, "info", top).ok().out) == (mode != "stream")


def test_backing_mode_and_copy_on_read(disk):
    assert "only one of them" in error("-drive", f"file={disk('a')},format=raw,backing_mode=cor,copy-on-read=on")
    assert "backing_mode" in error("-drive", f"file={disk('a')},format=raw,backing_mode=nonsense")


def test_an_image_that_was_not_closed(machine, tmp_path):
    """It is put right, and that is told."""
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on", "a", "1M", cwd=tmp_path).ok()
    subprocess.run([program("sterna-io"), "-c", "write 0 64k", "-c", "flush", "-c", "abort", "a"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    m = start(machine, "-drive", f"file={tmp_path}/a,format=qcow2")
    rc, log = m.quit()
    assert rc == 0 and f"warning: image '{tmp_path}/a' had not been closed: " in log and "Repairing cluster " in log
    assert "No errors" in run(program("sterna-img"), "check", "a", cwd=tmp_path).ok().out


def test_closed_standard_files_do_no_harm(disk, tmp_path):
    """No image is opened in their place, where it would get what is printed."""
    words = [program("sterna"), "-display", "none", "-nodefaults", "-S", "-drive", f"file={disk('a')},format=raw", "-qmp", f"unix:{tmp_path}/q,server=on,wait=off",
             "-drive", "file=/nowhere,if=none,id=x"]
    for closed in ("1>&-", "2>&-", "0<&- 1>&- 2>&-"):
        assert subprocess.run(["bash", "-c", f'exec "$@" {closed}', "bash", *words], capture_output=True).returncode == 1
        assert subprocess.run(["bash", "-c", f'exec "$@" {closed}', "bash", program("sternactl"), "-s", tmp_path / "none", "disks"], capture_output=True).returncode
    p = subprocess.Popen(["bash", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "bash", *words[:-2]])
    try:
        end = time.monotonic() + 60
        while not os.path.exists(tmp_path / "q"):
            assert p.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        files = [os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in range(3)]
        assert files == ["/dev/null"] * 3
    finally:
        p.kill()
        p.wait()
