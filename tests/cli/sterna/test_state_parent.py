# SPDX-License-Identifier: BSD-2-Clause
"""Machine states that hold only what changed since another one: in a disk's snapshots, and in files."""
import json, os, shutil, subprocess

import pytest
from chain import MB, img
from machine import Machine
from qmp import QMPError
from sterna import program

RAM = 0x80003000
STATE = program("sterna-state")


class System:
    def __init__(self, tmp, *more):
        self.tmp, self.path, self.jobs = tmp, tmp / "a.qcow2", 0
        if not self.path.exists():
            img("create", "-q", "-f", "qcow2", self.path, MB)
        if (tmp / "qtest.sock").exists():
            (tmp / "qtest.sock").unlink()
        self.m = Machine(tmp, "-machine", "virt", "-m", "16", "-drive", f"file={self.path},if=none,id=d,node-name=a,format=qcow2",
                         "-device", "virtio-blk-device,drive=d", *more)

    def put(self, text, at=0):
        data = text.encode().ljust(4096, b"\0")
        assert self.m.ask(f"write {RAM + at:#x} {len(data)} 0x{data.hex()}") == "OK"

    def get(self, at=0):
        return bytes.fromhex(self.m.ask(f"read {RAM + at:#x} 64").removeprefix("OK 0x")).rstrip(b"\0").decode()

    def noise(self):
        """Some MiB that compress badly."""
        data = os.urandom(MB)
        for i in range(4):
            assert self.m.ask(f"write {0x80400000 + i * MB:#x} {MB} 0x{data.hex()}") == "OK"

    def job(self, command, tag, **args):
        self.jobs += 1
        name = f"j{self.jobs}"
        self.m.qmp.cmd(command, job_id=name, tag=tag, devices=["a"], **({} if command == "snapshot-delete" else {"vmstate": "a"}), **args)
        return self.end(name)

    def file(self, path, **args):
        self.m.qmp.cmd("machine-snapshot", job_id="f", file=str(path), **args)
        assert self.end("f") is None

    def end(self, name):
        self.m.qmp.event("JOB_STATUS_CHANGE", id=name, status="concluded")
        info = next(j for j in self.m.qmp.cmd("query-jobs") if j["id"] == name)
        self.m.qmp.cmd("job-dismiss", id=name)
        return info.get("error")

    def sizes(self):
        node = next(n for n in self.m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "a")
        return {s["name"]: s["vm-state-size"] for s in node["image"].get("snapshots", [])}


@pytest.fixture
def system(tmp_path):
    open_ones = []

    def start(*args):
        for s in open_ones:
            s.m.close()
        open_ones.append(System(tmp_path, *args))
        return open_ones[-1]
    yield start
    open_ones[-1].m.close()


def test_in_snapshots(system):
    s = system()
    s.noise()
    for text, args in (("one", {}), ("two", {"parent": "one"}), ("three", {"parent": "two", "compress": True})):
        s.put(text)
        s.put(f"only {text}", 8192 * (1 + len(text)))
        assert s.job("snapshot-save", text, **args) is None
    sizes = s.sizes()
    assert sizes["one"] > 4 * MB and sizes["two"] < MB and sizes["three"] < MB
    s.put("later")
    for tag in ("two", "one", "three"):
        assert s.job("snapshot-load", tag, lazy=tag != "one") is None
        assert s.get() == tag
        assert [s.get(8192 * (1 + n)) for n in (3, 5)] == [{"one": "only one"}.get(tag, "only two"), "only three" if tag == "three" else ""]
    needed = "Snapshot 'one' of node 'a' is needed by snapshot 'two', which holds only what changed since: that one has to be deleted first"
    assert s.job("snapshot-delete", "one") == needed
    with pytest.raises(QMPError, match="is needed by snapshot 'two'"):
        s.m.qmp.cmd("blockdev-snapshot-delete-internal-sync", device="d", name="one")
    assert "is needed by snapshot 'three'" in s.m.qmp.cmd("human-monitor-command", command_line="delvm two")
    assert s.job("snapshot-save", "four", parent="none") == "parent 'none': Node 'a' has no snapshot 'none'"
    assert set(s.sizes()) == {"one", "two", "three"}
    s = system("-loadvm", "three")
    assert s.get() == "three" and s.get(8192 * 4) == "only two"
    for tag in ("three", "two", "one"):
        error = "is being loaded from"
        while error and "is being loaded from" in error:  # until all of RAM is there
            error = s.job("snapshot-delete", tag)
        assert error is None
    s.m.quit()
    img("check", s.path)


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="no other tool on this machine")
def test_whose_parent_another_tool_took_away(system):
    """That tool knows nothing of states; a new snapshot of that name is not the old one."""
    s = system()
    assert s.job("snapshot-save", "one") is None
    s.put("two")
    assert s.job("snapshot-save", "two", parent="one") is None
    s.m.quit()
    subprocess.run(["qemu-img", "snapshot", "-d", "one", s.path], check=True)
    s = system()
    s.put("here")
    assert s.job("snapshot-load", "two") == "'one', on which snapshot 'two' of node 'a' is based: Node 'a' has no snapshot 'one'"
    s.put("one again")
    assert s.job("snapshot-save", "one") is None
    assert "a later one of that name" in s.job("snapshot-load", "two")
    assert s.get() == "one again"


def changed(*args):
    """Pages of RAM that differ."""
    p = subprocess.run([STATE, "diff", "--output=json", *args], capture_output=True, text=True)
    assert p.returncode in (0, 1), p.stderr
    return sorted(n for r in json.loads(p.stdout)["pages"] for n in range(r["page"], r["page"] + r["pages"]))


def test_in_files(system, tmp_path):
    s = system()
    s.noise()
    (tmp_path / "else").mkdir()
    first, second, third, whole = (tmp_path / n for n in ("first", "second", "else/third", "whole"))
    s.put("first")
    s.file(first)
    s.put("second")
    s.file(second, parent=str(first))
    s.put("third", 8192)
    s.file(third, parent=str(second))
    assert second.stat().st_size < MB and third.stat().st_size < MB
    s.m.qmp.cmd("machine-snapshot", job_id="f", file=str(tmp_path / "x"), parent=str(third))  # four in a row
    assert s.end("f") is None
    with pytest.raises(QMPError, match="could not open"):
        s.m.qmp.cmd("machine-snapshot", job_id="f", file=str(tmp_path / "y"), parent=str(tmp_path / "none"))
    assert not (tmp_path / "y").exists() and not s.m.qmp.cmd("query-jobs")
    s = system("-incoming", f"file:{third}")
    assert s.get() == "second" and s.get(8192) == "third"
    info = subprocess.run([STATE, "info", third], capture_output=True, text=True, check=True).stdout
    assert "parent: second\n" in info and f"parent's file: {second}\n" in info
    subprocess.run([STATE, "verify", "--chain", third], check=True)
    subprocess.run([STATE, "convert", "--parent", second, "--parent", first, third, whole], check=True)
    page = (RAM - 0x80000000) // 4096
    assert changed(first, third) == [page, page + 2] and changed(third, second) == [page + 2]
    assert changed(third, whole) == [] and changed(third, tmp_path / "x") == []
    for f in (first, second, third):
        f.rename(f.with_suffix(".old"))
    first, second, third = (f.with_suffix(".old") for f in (first, second, third))
    p = subprocess.run([STATE, "diff", whole, third], capture_output=True, text=True)
    assert p.returncode == 3 and "'second', on which" in p.stderr and "--parent" in p.stderr
    assert changed(third, whole, "--parent", first, "--parent", second) == []
    assert changed(second, third, "--parent", first, "--parent", second) == [page + 2]
    s = system("-incoming", f"file:{whole}")
    assert s.get() == "second" and s.get(8192) == "third"
    s.m.close()
    p = subprocess.run([program("sterna"), "-M", "virt", "-accel", "qtest", "-display", "none", "-m", "16", "-drive",
                        f"file={s.path},if=none,id=a,format=qcow2", "-device", "virtio-blk-device,drive=a",
                        "-incoming", f"file:{third}"], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert p.returncode == 1 and "'second', on which" in p.stderr and "No such file" in p.stderr
