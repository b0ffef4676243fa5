# SPDX-License-Identifier: BSD-2-Clause
"""Verbs that start a job: what they do to the images, what they print, and how they end."""
import json, subprocess, threading

from conftest import MB, img
from qtest_disk import Disk
from sterna import program


def same(a, b):
    img("compare", "-U", "-q", a, b)


def info(path):
    return json.loads(img("info", "-U", "--output=json", path))


def test_copy_and_switch(ctl):
    m = ctl()
    target = m.tmp / "copy.qcow2"
    same_before = m.tmp / "before.raw"
    img("convert", "-U", "-O", "raw", m.top, same_before)
    r = m("copy", "disk0", target).ok()
    lines = r.out.splitlines()
    assert lines[0].startswith("copy-disk0: ")
    assert any(line.startswith("copy-disk0: completed (4 MiB in ") for line in lines), lines
    assert any(line.startswith(f"The guest uses {target} now; it stood still for ") for line in lines), lines
    assert lines[-1] == "The old image stays open until 'sternactl qmp blockdev-del node-name=d0'"
    assert m.disk()["filename"] == str(target) and m.json("jobs") == []
    assert info(target)["cluster-size"] == 32768    # as the disk has it
    assert "backing-filename" not in info(target)
    same(target, same_before)
    assert Disk(m).write(0, b"x" * 512) == 0
    m.quit()
    same(m.top, same_before)


def test_copy_without_switching(ctl):
    m = ctl(qtest=False)
    target = m.tmp / "copy.raw"
    before = m.nodes()
    r = m.json("copy", "disk0", target, "--no-switch", "--format", "raw")
    assert r[-1]["result"] == "completed" and r[-1]["job"] == "copy-disk0" and "live" not in r[-1]
    assert m.disk()["filename"] == str(m.top) and m.nodes() == before and m.json("jobs") == []
    same(target, m.top)


def test_copy_over_what_lies_below(ctl):
    m = ctl(qtest=False)
    target = m.tmp / "copy.qcow2"
    m("copy", "disk0", target, "--sync", "top").ok()
    assert m.disk()["backing"] == [str(m.base)] and info(target)["full-backing-filename"] == str(m.base)
    assert info(target)["actual-size"] < 2 * MB
    same(target, m.top)


def test_copy_only_what_is_written_from_now_on(ctl):
    m = ctl()
    target = m.tmp / "copy.qcow2"
    r = m("copy", "disk0", target, "--sync", "none")
    assert r.rc == 1 and "the target must hold the rest" in r.err and not target.exists()
    img("convert", "-U", "-O", "qcow2", m.top, target)
    m("copy", "disk0", target, "--sync", "none", "--format", "qcow2", "--detach").ok()
    assert Disk(m).write(0, b"x" * 512) == 0
    m("wait", "--ready", "copy-disk0").ok()
    m("jobs", "complete", "copy-disk0").ok()
    m("wait", "copy-disk0").ok()
    assert m.disk()["filename"] == str(target)
    m.quit()
    same(target, m.top)


def test_copy_to_an_image_that_exists_and_to_a_node(ctl):
    m = ctl(qtest=False)
    target = m.tmp / "copy.qcow2"
    img("create", "-q", "-f", "qcow2", target, "16M")
    m("copy", "disk0", target, "--format", "qcow2", "--no-switch").ok()
    same(target, m.top)
    img("create", "-q", "-f", "raw", m.tmp / "n.raw", "16M")
    m.qmp.cmd("blockdev-add", driver="raw", node_name="n", file={"driver": "file", "filename": str(m.tmp / "n.raw")})
    m("copy", "disk0", "node:n").ok()
    assert m.disk()["node-name"] == "n"


def test_copy_to_another_host(ctl):
    m = ctl(qtest=False)
    img("create", "-q", "-f", "raw", m.tmp / "far.raw", "16M")
    server = subprocess.Popen([program("sterna-nbd"), "-t", "-f", "raw", "-x", "disk", "-k", str(m.tmp / "far"), str(m.tmp / "far.raw")])
    try:
        while not (m.tmp / "far").exists():
            assert server.poll() is None
        uri = f"nbd+unix:///disk?socket={m.tmp}/far"
        r = m("copy", "disk0", uri.replace("disk", "nix"), "--no-switch")
        assert r.rc == 1 and "nix" in r.err
        m("backup", "disk0", uri).ok()
        same(m.tmp / "far.raw", m.top)
        m("copy", "disk0", uri).ok()
        assert m.disk()["format"] == "raw" and m.disk()["filename"].startswith("nbd")
        m.quit()
    finally:
        server.kill()
        server.wait()
    same(m.tmp / "far.raw", m.top)


def test_uris_that_are_none(ctl):
    m = ctl(qtest=False)
    for uri in ("nbd://", "nbd+unix:///x", "http://host/x", "nbd://[x/"):
        r = m("copy", "disk0", uri)
        assert r.rc == 2 and f"'{uri}' is neither nbd://HOST/EXPORT nor nbd+unix:///EXPORT?socket=PATH" in r.err
    r = m("copy", "disk0", f"nbd+unix:///x?socket={m.tmp}/none")
    assert r.rc == 1 and "No such file" in r.err and not (m.tmp / "none").exists()
    r = m("copy", "disk0", "nbd://127.0.0.1:1/x")
    assert r.rc == 1 and "refused" in r.err


def test_detach_wait_complete(ctl):
    m = ctl(qtest=False)
    target = m.tmp / "copy.qcow2"
    assert m("copy", "disk0", target, "--detach").ok().out == "copy-disk0\n"
    assert m("wait", "--ready", "copy-disk0").ok().out.splitlines()[-1] == "copy-disk0: ready"
    assert m.disk()["jobs"] == ["copy-disk0"] and m("jobs", "--names").ok().out == "copy-disk0\n"
    head, row = m("jobs").ok().out.splitlines()
    assert head.split()[:6] == ["JOB", "TYPE", "STATUS", "DONE", "BYTES", "OF"] and row.split()[:4] == ["copy-disk0", "mirror", "ready", "100"]
    m("jobs", "complete", "copy-disk0").ok()
    end = m.json("wait", "copy-disk0")[-1]
    assert end["result"] == "completed" and end["pause-ns"] > 0
    assert m.disk()["filename"] == str(target) and m.json("jobs") == []


def test_cancelled(ctl):
    m = ctl(qtest=False)
    before = m.nodes()
    for verb in ("copy", "backup"):
        p = m.popen(verb, "disk0", m.tmp / f"{verb}.qcow2", "--speed", "64k")
        m.qmp.event("JOB_STATUS_CHANGE", id=f"{verb}-disk0", status="running")
        m.qmp.cmd("job-cancel", id=f"{verb}-disk0")
        out, err = p.communicate(timeout=60)
        assert p.returncode == 3 and out.splitlines()[-1] == f"{verb}-disk0: cancelled" and err == "", (out, err)
        assert m.nodes() == before


def test_failed(ctl):
    m = ctl(qtest=False)
    img("create", "-q", "-f", "raw", m.tmp / "bad.raw", "16M")
    m.qmp.cmd("blockdev-add", args={"driver": "blkdebug", "node-name": "bad", "image": {"driver": "file", "filename": str(m.tmp / "bad.raw")},
                                    "inject-error": [{"event": "pwritev", "errno": 28}]})
    r = m("copy", "disk0", "node:bad")
    assert r.rc == 1 and r.err == "sternactl: job 'copy-disk0' failed: No space left on device\n"
    assert m.disk()["filename"] == str(m.top) and m.json("jobs") == []
    r = m("--json", "backup", "disk0", "node:bad")
    assert r.rc == 1 and json.loads(r.out.splitlines()[-1])["error"] == "No space left on device"
    r = m("copy", "disk0", m.tmp / "small.raw", "--format", "raw", "--sync", "top")     # refused before there is a job
    assert r.rc == 2 and "backing" in r.err and not (m.tmp / "small.raw").exists()


def test_stream(ctl):
    m = ctl(qtest=False)
    r = m("stream", "disk0", "--base", "nix")
    assert r.rc == 1 and "nix" in r.err
    assert "stream-disk0: completed (" in m("stream", "disk0", "--idle-grace", "1").ok().out
    assert m.disk()["backing"] == [] and m.json("jobs") == []


def test_stream_and_commit_name_layers_by_node_or_file(ctl):
    m = ctl(qtest=False)
    for name in (str(m.base), next(n["node-name"] for n in m.qmp.cmd("query-named-block-nodes") if n["file"] == str(m.base) and n["drv"] == "qcow2")):
        m("stream", "disk0", "--base", name).ok()
        assert m.disk()["backing"] == [str(m.base)]
    m("commit", "disk0", "--base", m.base).ok()
    assert m.disk()["filename"] == str(m.base) and m.disk()["backing"] == []


def test_snapshots_and_back(ctl):
    m = ctl()
    disk = Disk(m)
    first = m.tmp / "snap.qcow2"
    assert m("snapshot", "disk0", first).ok().out == f"disk0 writes to {first} now; {m.top} stays as it is\n"
    assert disk.write(0, b"x" * 512) == 0 and disk.contents(0, 512) == b"x" * 512
    d = m.json("snapshot", "snap-disk0", m.tmp / "two.qcow2")[0]
    assert (d["node-name"], d["backing"]) == ("snap-disk0-2", str(first))
    assert m.disk()["backing"] == [str(first), str(m.top), str(m.base)]
    assert info(first)["full-backing-filename"] == str(m.top) and info(first)["cluster-size"] == 32768
    r = m("snapshot", "disk0", first)
    assert r.rc == 1 and "exists; give its format" in r.err
    r = m("snapshot", "disk0", m.tmp / "x.raw", "--format", "raw")
    assert r.rc == 2 and "has no backing images; give --format qcow2" in r.err and not (m.tmp / "x.raw").exists()
    m("commit", "disk0", "--base", "d0").ok()
    assert m.disk()["filename"] == str(m.top) and not {n for n in m.nodes() if n == "snap-disk0-2"}
    assert disk.contents(0, 512) == b"x" * 512


def test_copies_leave_nothing_open(ctl):
    m = ctl(qtest=False)
    assert "stays open" in m("copy", "disk0", m.tmp / "1.qcow2").ok().out
    m("qmp", "blockdev-del", "node-name=d0").ok()
    assert "stays open" not in m("copy", "disk0", m.tmp / "2.qcow2").ok().out
    assert {n for n in m.nodes() if n[0] != "#"} == {"copy-disk0-2", "copy-disk0-2-file"}


def test_backup_and_bitmap(ctl):
    m = ctl()
    disk = Disk(m)
    m("qmp", "block-dirty-bitmap-add", "node=d0", "name=b").ok()
    m("backup", "disk0", m.tmp / "full.qcow2", "--compress").ok()
    same(m.tmp / "full.qcow2", m.top)
    assert disk.write(8 * MB, b"y" * 512) == 0
    assert "completed (64 KiB in" in m("backup", "disk0", m.tmp / "inc.qcow2", "--bitmap", "b").ok().out
    assert m.qmp.cmd("query-block")[0]["inserted"]["dirty-bitmaps"][0]["count"] == 0
    m("backup", "disk0", m.tmp / "two.qcow2", "--bitmap", "b", "--sync", "bitmap", "--bitmap-mode", "never").ok()


def test_two_jobs_on_a_disk_have_names_of_their_own(ctl):
    m = ctl(qtest=False)
    names = [m("copy", "disk0", m.tmp / f"{i}.qcow2", "--detach", "--speed", "64k").ok().out.strip() for i in range(2)]
    names.append(m("stream", "disk0", "--detach", "--speed", "64k").ok().out.strip())
    assert names == ["copy-disk0", "copy-disk0-2", "stream-disk0"] and sorted(m.disk()["jobs"]) == sorted(names)
    m("jobs", "pause", "stream-disk0").ok()
    job = {j["id"]: j for j in m.json("jobs")}["stream-disk0"]
    assert job["status"] == "paused"
    m("jobs", "resume", "stream-disk0").ok()
    m("jobs", "speed", "stream-disk0", "96k").ok()
    assert {j["device"]: j["speed"] for j in m.qmp.cmd("query-block-jobs")}["stream-disk0"] == 96 * 1024
    for name in names:
        m("jobs", "cancel", name).ok()
        assert m("wait", name).rc == 3
    assert m.json("jobs") == []


def test_latencies_of_the_guest(ctl):
    m = ctl()
    disk = Disk(m)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            assert disk.write(2 * MB, b"z" * 512) == 0

    t = threading.Thread(target=write)
    t.start()
    try:
        p = m.popen("--json", "copy", "disk0", m.tmp / "c.qcow2", "--speed", "64k")
        out = ""
        while "guest-write-ns" not in out:
            out += (line := p.stdout.readline())
            assert line, p.communicate()
        m.qmp.cmd("block-job-set-speed", device="copy-disk0", speed=0)
        more, err = p.communicate(timeout=60)
    finally:
        stop.set()
        t.join()
    assert p.returncode == 0, err
    seen = [json.loads(line) for line in (out + more).splitlines()]
    assert any(s.get("guest-write-ns", 0) > 0 for s in seen) and not any("guest-read-ns" in s for s in seen)
    assert all(s["percentage"] <= 100 for s in seen)


def test_a_job_that_waits_to_be_finalized(ctl):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="s", device="d0", auto_finalize=False, auto_dismiss=False)
    p = m.popen("wait", "s")
    while "s: done, and waits for 'sternactl jobs finalize s'" not in p.stdout.readline():
        assert p.poll() is None
    m.qmp.cmd("job-finalize", id="s")
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 0 and "s: completed" in out


def test_a_job_that_does_not_keep_its_result(ctl):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=65536)
    p = m.popen("wait", "s")
    assert p.stdout.readline().startswith("s: running")
    m.qmp.cmd("block-job-set-speed", device="s", speed=0)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "s: completed" in out, (out, err)
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="n", size=16 * MB, read_zeroes=True)
    m.qmp.cmd("blockdev-mirror", job_id="c", device="d0", target="n", sync="full", speed=65536)
    p = m.popen("wait", "c")
    assert p.stdout.readline().startswith("c: running")
    m.qmp.cmd("job-cancel", id="c")
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 3 and out.endswith("c: cancelled\n")


def test_watch(ctl):
    m = ctl(qtest=False)
    p = m.popen("jobs", "watch")
    assert p.stdout.readline() == "no jobs\n"
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=1)
    assert p.stdout.readline().startswith("JOB ") and p.stdout.readline().startswith("s ")
    p.send_signal(2)
    assert p.wait(60) == 0
    p.stdout.close()
    p.stderr.close()
