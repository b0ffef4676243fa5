# SPDX-License-Identifier: BSD-2-Clause
"""sterna-state on states that are inside of images, beside the same ones in files and as the machine loads them."""
import json, shutil, struct, subprocess

import pytest
import statefile
from chain import MB, img
from machine import Machine
from sterna import program, run

RAM = 0x80003000


def state(*args):
    return run(program("sterna-state"), *args)


def js(*args):
    return json.loads(state(*args, "--output=json").ok().out)


def start(tmp, path, *more):
    if (tmp / "qtest.sock").exists():
        (tmp / "qtest.sock").unlink()
    return Machine(tmp, "-machine", "virt", "-m", "16", "-drive", f"file={path},if=none,id=d,node-name=a,format=qcow2",
                   "-device", "virtio-blk-device,drive=d", *more)


def put(m, text, at):
    assert m.ask(f"write {RAM + at:#x} 4096 0x{text.encode().ljust(4096, bytes(1)).hex()}") == "OK"


def end(m, name):
    m.qmp.event("JOB_STATUS_CHANGE", id=name, status="concluded")
    info = next(j for j in m.qmp.cmd("query-jobs") if j["id"] == name)
    m.qmp.cmd("job-dismiss", id=name)
    assert "error" not in info, info


def save(m, tag, **args):
    m.qmp.cmd("snapshot-save", job_id=tag, tag=tag, vmstate="a", devices=["a"], **args)
    end(m, tag)


PAGES = {0: "one", 8192: "two", 65536: "three"}  # where each of them has written


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """Three states, each based on the one before; a snapshot of the disk alone; the last state once more as a file."""
    tmp = tmp_path_factory.mktemp("image")
    path = tmp / "a.qcow2"
    img("create", "-q", "-f", "qcow2", path, MB)
    m = start(tmp, path)
    parent = {}
    for at, tag in PAGES.items():
        put(m, tag, at)
        put(m, f"as {tag} has it", 20480)
        save(m, tag, **parent)
        parent = {"parent": tag}
    m.qmp.cmd("machine-snapshot", job_id="f", file=str(tmp / "file"))
    end(m, "f")
    m.qmp.cmd("blockdev-snapshot-internal-sync", device="d", name="disk")
    m.quit()
    return path


def test_which_there_are(image):
    have = js("info", image)
    assert [(s["tag"], s.get("parent"), s["readable"]) for s in have] == [("one", None, True), ("two", "one", True), ("three", "two", True)]
    lines = state("info", image).ok().out.splitlines()
    assert len(lines) == 3 and lines[1].startswith("two: ") and lines[1].endswith(f"machine type {have[0]['machine']}, based on one")
    img("create", "-q", "-f", "qcow2", image.parent / "none", MB)
    assert state("info", image.parent / "none").ok().out == "no snapshot has a machine's state\n"


def test_one_of_them(image):
    info = js("info", image, "--snapshot", "two")
    assert info["filename"] == f"snapshot 'two' in '{image}'" and info["parent"] == "one" and info["ram"] == js("info", image.parent / "file")["ram"]
    assert info["bytes"] == next(s["bytes"] for s in js("info", image) if s["tag"] == "two")
    assert state("verify", image, "--snapshot=two").ok().out.startswith(f"snapshot 'two' in '{image}': complete and undamaged")
    assert js("verify", image, "--snapshot=three")["valid"] is True
    assert js("verify", image, "--snapshot=three", "--chain")["parents"] == [f"snapshot '{t}' in '{image}'" for t in ("two", "one")]
    assert js("dump", image, "--snapshot=three")["devices"] == js("dump", image.parent / "file")["devices"]
    assert state("dump", image, "--snapshot=one", "--chunks").ok().out.count(" DEVS ") == len(info["devices"])
    by_options = ["--image-opts", f"driver=qcow2,file.driver=file,file.filename={image}", "--snapshot=two"]
    assert js("info", *by_options)["pages"] == info["pages"]



def diff(*args):
    r = state("diff", *args, "--output=json")
    assert r.rc in (0, 1), r.err
    return json.loads(r.out)


def changed(d):
    return sorted(n for p in d["pages"] for n in range(p["page"], p["page"] + p["pages"]))


def test_differences_are_seen_through_the_parents(image):
    first = (RAM - 0x80000000) // 4096
    assert changed(diff(image, image, "--snapshot=one", "--snapshot=two")) == [first + 2, first + 5]
    assert changed(diff(image, image, "--snapshot=one", "--snapshot=three")) == [first + 2, first + 5, first + 16]
    assert diff(image, image, "--snapshot=three")["equal"] is True
    file = image.parent / "file"
    for args in (image, file), (file, image):  # the last tag is meant for every image that has none of its own
        d = diff(*args, "--snapshot=three")
        assert d["pages"] == [] and not [v for v in d["values"] if v["where"].startswith("/")]


def test_a_chain_becomes_one_state(image, tmp_path):
    for tag in PAGES.values():
        out = tmp_path / tag
        state("convert", image, out, "--snapshot", tag, "--align").ok()
        assert "parent" not in js("info", out) and js("verify", out)["valid"] is True
        assert diff(out, image, "--snapshot", tag)["pages"] == []
    assert "nothing would be lost" in state("convert", "--dry-run", image, "--snapshot=three").ok().out
    m = start(tmp_path, image, "-incoming", f"file:{tmp_path / 'two'},lazy=map")
    have = {at: bytes.fromhex(m.ask(f"read {RAM + at:#x} 64").removeprefix("OK 0x")).rstrip(b"\0").decode() for at in (*PAGES, 20480)}
    m.close()
    assert have == {0: "one", 8192: "two", 65536: "", 20480: "as two has it"}


def test_a_chain_is_merged_inside(image, tmp_path):
    """The state gets all of its pages; the others may go, whichever tool deletes them."""
    path, small = tmp_path / "b.qcow2", {s["tag"]: s["bytes"] for s in js("info", image)}
    shutil.copy(image, path)
    r = state("merge", path, "--snapshot=two")
    assert r.rc == 3 and "snapshot 'three' is based on 'two': merge that one first" in r.err
    assert path.read_bytes() == image.read_bytes() or not diff(path, image, "--snapshot=two")["pages"]
    assert state("merge", path, "--snapshot=three").ok().out == "snapshot 'three' needs no other any more\n"
    assert state("merge", path, "--snapshot=three").ok().out == "snapshot 'three' is based on no other\n"
    assert diff(path, image, "--snapshot=three")["pages"] == []
    there = {s["tag"]: s for s in js("info", path)}
    assert "parent" not in there["three"] and there["three"]["bytes"] > small["three"] and there["two"]["bytes"] == small["two"]
    img("check", path)
    assert state("merge", path, "--snapshot=two", "--compress=3", "--quiet").ok().out == ""
    for tag in ("one", "two"):
        assert js("verify", path, "--snapshot", tag)["valid"] is True
        img("snapshot", "-d", tag, path)
    img("check", path)
    if shutil.which("qemu-img"):
        subprocess.run(["qemu-img", "check", "-q", path], check=True)
    m = start(tmp_path, path, "-loadvm", "three")
    have = [bytes.fromhex(m.ask(f"read {RAM + at:#x} 64").removeprefix("OK 0x")).rstrip(b"\0").decode() for at in PAGES]
    m.close()
    assert have == ["one", "two", "three"]
    assert "is no disk image" in state("merge", image.parent / "file").err


def test_a_merge_without_room(image, tmp_path):
    """It fails in the midst, and changes nothing."""
    path = tmp_path / "b.qcow2"
    shutil.copy(image, path)
    file = f"file.driver=blkdebug,file.image.driver=file,file.image.filename={path},file.inject-error.0.event=vmstate_save,file.inject-error.0.errno=28,file.inject-error.0.iotype=write"
    r = state("merge", "--image-opts", f"driver=qcow2,{file}", "--snapshot=three")
    assert r.rc == 3 and "No space left" in r.err
    img("check", path)
    assert js("verify", "--chain", path, "--snapshot=three")["valid"] is True and {s["tag"]: s.get("parent") for s in js("info", path)}["three"] == "two"


def test_what_is_refused(image, tmp_path):
    for args, text in [
        (["dump", image], f"'{image}' is a disk image: --snapshot says which state in it ('info' lists them)"),
        (["dump", image, "--snapshot=four"], f"'{image}' has no snapshot 'four'"),
        (["dump", image, "--snapshot=disk"], f"Snapshot 'disk' in '{image}' is of the disk alone: no state is in it"),
        (["diff", image, image], "is a disk image"),
        (["info", image.parent / "nothing", "--snapshot=x"], "No such file"),
        (["info", image, "--object", "secret"], "Parameter"),
    ]:
        r = state(*args)
        assert r.rc == 3 and r.out == "" and text in r.err and r.err.startswith("sterna-state: "), (args, r.err)
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MB))
    assert "images of format 'raw' have no snapshots" in state("info", raw, "--snapshot=x").err


def test_our_tool_keeps_what_another_needs(image, tmp_path):
    path = tmp_path / "b.qcow2"
    shutil.copy(image, path)
    for tag, child in (("one", "two"), ("two", "three")):
        r = run(program("sterna-img"), "snapshot", "-d", tag, path)
        assert r.rc == 1 and f"Could not delete snapshot '{tag}': the machine's state in snapshot '{child}' holds only what changed since" in r.err
    assert [s["tag"] for s in js("info", path)] == [*PAGES.values()]
    for tag in ("disk", "three", "two", "one"):
        img("snapshot", "-d", tag, path)
    assert js("info", path) == []
    img("check", path)


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="no other tool on this machine")
def test_a_parent_that_is_gone(image, tmp_path):
    broken = tmp_path / "broken.qcow2"
    shutil.copy(image, broken)
    subprocess.run(["qemu-img", "snapshot", "-d", "two", broken], check=True)
    r = state("convert", broken, tmp_path / "out", "--snapshot=three")
    assert r.rc == 3 and f"'two', on which snapshot 'three' in '{broken}' is based: '{broken}' has no snapshot 'two'" in r.err
    assert not (tmp_path / "out").exists()


def test_one_that_a_machine_uses(image, tmp_path):
    path = tmp_path / "b.qcow2"
    shutil.copy(image, path)
    m = start(tmp_path, path)
    assert "lock" in state("info", path).err
    assert len(js("info", path, "--force-share")) == 3
    assert js("info", path, "--force-share", "--snapshot=three")["parent"] == "two"
    m.close()


def test_an_encrypted_one(tmp_path):
    path = tmp_path / "c.qcow2"
    img("create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10", path, MB)
    m = Machine(tmp_path, "-machine", "virt", "-m", "16", "-object", "secret,id=s,data=x", "-drive",
                f"file={path},if=none,id=d,node-name=a,format=qcow2,encrypt.key-secret=s", "-device", "virtio-blk-device,drive=d")
    put(m, "kept", 0)
    save(m, "t")
    m.quit()
    args = ["--image-opts", f"driver=qcow2,encrypt.key-secret=s,file.driver=file,file.filename={path}", "--object", "secret,id=s,data=x", "--snapshot=t"]
    assert js("verify", *args)["valid"] is True
    state("convert", *args, tmp_path / "out").ok()
    assert b"kept" in (tmp_path / "out").read_bytes() and b"kept" not in path.read_bytes()


def with_another_state(path, change):
    """The state inside of an image becomes what `change` makes of it, in the same clusters."""
    data = bytearray(path.read_bytes())
    at, size = data.index(statefile.header()[:12]), js("info", path)[0]["bytes"]
    assert data.find(statefile.header()[:12], at + 1) < 0
    new = change(bytes(data[at:at + size]))
    assert len(new) <= -(-size // 65536) * 65536
    data[at:at + len(new)] = new
    table, = struct.unpack_from(">Q", data, 64)
    assert struct.unpack_from(">I", data, table + 32)[0] == size  # version 2's field, then that of the extra data
    struct.pack_into(">I", data, table + 32, len(new))
    struct.pack_into(">Q", data, table + 40, len(new))
    path.write_bytes(data)


def test_what_a_load_leaves_out(tmp_path):
    """A state of a release that knows more of the serial port: refused with its name, or without it, as the job says."""
    path = tmp_path / "a.qcow2"
    img("create", "-q", "-f", "qcow2", path, MB)
    m = start(tmp_path, path)
    put(m, "then", 0)
    save(m, "t")
    m.quit()
    with_another_state(path, lambda data: statefile.with_subsection(data, "uart16550", "fast", "its speed"))
    assert js("verify", path, "--snapshot=t")["valid"] is True
    m = start(tmp_path, path)
    put(m, "now", 0)
    for args, error in (({}, "the guest would lose its speed"), ({"force-drop": ["other"]}, "the guest would lose its speed"), ({"force-drop": ["fast"]}, None)):
        m.qmp.cmd("snapshot-load", {"job-id": "l", "tag": "t", "vmstate": "a", "devices": ["a"], **args})
        m.qmp.event("JOB_STATUS_CHANGE", id="l", status="concluded")
        info = m.qmp.cmd("query-jobs")[0]
        m.qmp.cmd("job-dismiss", id="l")
        have = m.ask(f"read {RAM:#x} 4").removeprefix("OK 0x")
        if error:
            assert error in info["error"] and "dropped" not in info and have == b"now\0".hex()
        else:
            assert "error" not in info and len(info["dropped"]) == 1 and info["dropped"][0].endswith("fast: its speed") and have == b"then".hex()
    code, said = m.quit()
    assert code == 0 and said.count("left out of the loaded machine: ") == 1
