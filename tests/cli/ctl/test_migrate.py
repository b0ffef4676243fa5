# SPDX-License-Identifier: BSD-2-Clause
"""`sternactl migrate`: lines, JSON, a terminal; Ctrl-C; and the exit status that the move has."""
import json, random, re, signal, time

import pytest
from conftest import Ctl
from machine import Machine
from test_terminal import Terminal

MIB = 32


class Bare(Ctl):
    """A machine without disks; 8 MiB of its memory do not shrink."""

    def __init__(self, tmp, *args):
        tmp.mkdir()
        self.socket = str(tmp / "ctl.sock")
        data = tmp / "initrd"
        data.write_bytes(random.Random(1).randbytes(8 << 20))
        kernel = tmp / "kernel"
        kernel.write_bytes(b"\x6f\0\0\0" + b"\0" * 4 + (0x200000).to_bytes(8, "little") + (4096).to_bytes(8, "little") + b"\0" * 8 +
                           (2).to_bytes(4, "little") + b"\0" * 12 + b"RISCV\0\0\0RSC\x05" + b"\0" * 4 + b"\0" * 4032)
        load = [] if "-incoming" in args else ["-kernel", str(kernel), "-initrd", str(data)]
        Machine.__init__(self, tmp, "-qmp", f"unix:{self.socket},server=on,wait=off", *load, *args, qtest=False,
                         base=("-display", "none", "-nodefaults", "-accel", "qtest", "-M", "virt", "-m", str(MIB)))


@pytest.fixture
def machines(tmp_path):
    """The machine, another one that waits for it, and where."""
    uri = f"unix:{tmp_path}/in"
    both = Bare(tmp_path / "a"), Bare(tmp_path / "b", "-incoming", uri)
    yield *both, uri
    for m in both:
        m.close()


def until_it_stops(p, a, pattern):
    """Lines up to the one that matches, of a move that is too slow to end before; then it is as fast as it can be: all of its lines."""
    lines = []
    while not lines or not re.search(pattern, lines[-1]):
        lines.append(p.stdout.readline())
        assert lines[-1], (lines, p.stderr.read())
    assert a.qmp.cmd("query-migrate-parameters")["max-bandwidth"] == 1 << 16
    a.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    lines += p.stdout.readlines()
    assert p.wait(60) == 0 and not p.stderr.read(), lines
    return lines


def test_lines(machines):
    a, b, uri = machines
    r = a("migrate", uri, "--dry-run").ok()
    assert r.out == f"the machine could run at {uri}\n" and a.qmp.cmd("query-migrate") == {}
    lines = until_it_stops(a.popen("migrate", uri, "--bandwidth", "64k", "--downtime", "50"), a, "^active")
    assert re.search(r"(?m)^active: \d+ %, .*[KM]iB left, round 1", "".join(lines)), lines
    assert re.search(r"^completed \([\d.]+ MiB in \d+:\d\d\); the guest stood still for [\d.]+ [mu]?s$", lines[-1]), lines
    assert b("status").ok().out.endswith("running (Sterna 0.1.0)\n")
    assert a.qmp.cmd("query-migrate-parameters")["downtime-limit"] == 50
    r = a("migrate", uri)
    assert r.rc == 1 and "moved away" in r.err
    assert a("migrate").ok().out.startswith("completed (")  # the last one


def test_disks(tmp_path, machines):
    uri = f"unix:{tmp_path}/disks"
    words = lambda name: ["-blockdev", f"raw,node-name=n,file.driver=file,file.filename={tmp_path}/{name}", "-device", "virtio-blk-device,drive=n,id=d",
                          "-blockdev", "null-co,node-name=r,read-only=on,size=1048576", "-device", "virtio-blk-device,drive=r"]
    for name in "here", "there":
        (tmp_path / name).write_bytes(random.Random(2).randbytes(1 << 20) if name == "here" else bytes(1 << 20))
    a, b = Bare(tmp_path / "c", *words("here")), Bare(tmp_path / "d", *words("there"), "-incoming", uri)
    try:
        r = a("migrate", uri, "--disks", "sideways")
        assert r.rc != 0 and "--disks 'sideways' is none of shared, pre-copy, post-copy, none" in r.err
        assert "--postcopy '0' is no number of rounds, at least 1" in a("migrate", uri, "--postcopy", "0").err
        a("migrate", uri, "--disks", "pre-copy").ok()
        b.quit()
        assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()
    finally:
        a.close()
        b.close()


def test_jobs(tmp_path):
    """Which go with the machine, and which stay, and why."""
    uri = f"unix:{tmp_path}/jobs"

    for n in "n", "copy", "other":
        (tmp_path / n).write_bytes(b"x" * (4 << 20))

    def words(*names):
        return [w for n in names for w in ("-blockdev", f"raw,node-name={n},file.driver=file,file.filename={tmp_path}/{n}")]
    device = "-device", "virtio-blk-device,drive=n,id=d"
    a, b = Bare(tmp_path / "c", *words("n", "copy", "other"), *device), Bare(tmp_path / "d", *words("n", "copy"), *device, "-incoming", uri)
    try:
        a.qmp.cmd("blockdev-backup", job_id="j", device="n", target="copy", sync="full", speed=1 << 16)
        a.qmp.cmd("blockdev-mirror", job_id="m", device="n", target="other", sync="full")
        a.qmp.event("BLOCK_JOB_READY", device="m")
        lines = until_it_stops(a.popen("migrate", uri, "--bandwidth", "64k"), a, "^job m")
        assert "job j (backup) goes on there\n" in lines, lines
        assert "job m (mirror) is ready, and stays here: the destination has no node 'other' ('target')\n" in lines, lines
        assert re.search(r"^completed .*; with it went job j$", lines[-1]), lines
        assert a.qmp.cmd("query-migrate")["jobs"] == [{"id": "j", "type": "backup", "fate": "moves"}]
    finally:
        a.close()
        b.close()


def test_json(machines):
    a, b, uri = machines
    p, active = a.popen("--json", "migrate", uri, "--bandwidth", "512k", "--auto-converge", "--postcopy", "1000"), []
    while not active or active[-1]["remaining"] == active[0]["remaining"]:
        line = json.loads(p.stdout.readline())
        active += [line["ram"]] if line["status"] == "active" else []
    a.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    lines = [json.loads(line) for line in p.stdout.readlines()]
    assert p.wait(60) == 0 and lines[-1]["status"] == "completed"
    assert active[0]["total"] == MIB << 20 and active[-1]["remaining"] < active[0]["remaining"] and "downtime-ns" in lines[-1]
    on = [c["capability"] for c in a.qmp.cmd("query-migrate-capabilities") if c["state"]]
    assert {"auto-converge", "postcopy-ram"} <= set(on) and a.qmp.cmd("query-migrate-parameters")["postcopy-after-rounds"] == 1000


def test_terminal(machines):
    a, b, uri = machines
    t = Terminal(a, "migrate", uri, "--bandwidth", "64k")
    try:
        t.wait(r"active +\d+ % +\[#+\.+\]  [\d.]+ [KM]iB/s  [\d.]+ MiB left|active +\d+ % +\[#*\.+\]  [\d.]+ MiB left")
        t.wait("  round 1")
        t.process.send_signal(signal.SIGINT)
        assert t.end() == 3
        assert "Cancelling" in t.text and "cancelled; the guest runs on here" in t.text
        assert a.qmp.cmd("query-status")["running"] and a.qmp.cmd("query-migrate")["status"] == "cancelled"
    finally:
        t.close()


def test_seen_again(machines):
    a, b, uri = machines
    a("migrate", uri, "--bandwidth", "64k", "--detach").ok()
    p = a.popen("--json", "migrate")
    assert json.loads(p.stdout.readline())["status"] in ("setup", "active")
    a.qmp.cmd("migrate_cancel")
    out, err = p.communicate(timeout=60)
    assert p.returncode == 3 and json.loads(out.splitlines()[-1])["status"] == "cancelled" and not err


def test_where_it_comes_to(machines, tmp_path):
    """There nobody says that the guest runs on here when it did not come."""
    a, _, _ = machines
    b = Bare(tmp_path / "c", "-incoming", "defer")
    try:
        for n, (how, rc, says) in enumerate([("migrate_cancel", 3, "cancelled; the guest runs on where it was"), ("cut", 1, "the machine did not come, and the guest runs on where it was"),
                                             (None, 0, "completed; the machine has come here")]):
            uri = f"unix:{tmp_path}/again{n}"
            b.qmp.cmd("migrate-incoming", uri=uri, exit_on_error=False)
            a("migrate", uri, "--bandwidth", "0" if how is None else "64k", "--detach").ok()
            if how:
                while b.qmp.cmd("query-migrate")["status"] != "active":
                    time.sleep(0.01)
                (b if how == "migrate_cancel" else a).qmp.cmd("migrate_cancel")
            r = b("migrate")
            assert r.rc == rc and says in r.out + r.err, (r.out, r.err)
            while a.qmp.cmd("query-migrate")["status"] not in ("completed", "failed", "cancelled"):
                time.sleep(0.01)
    finally:
        b.close()


def test_left_in_post_copy(machines):
    """Ctrl-C cannot cancel that, and does not say that it has failed."""
    a, b, uri = machines
    a.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
    a.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=1 << 16)
    p = a.popen("migrate", uri, "--bandwidth", "64k")
    for word, then in ("active", "migrate-start-postcopy"), ("postcopy-active", None):
        while word not in (line := p.stdout.readline()):
            assert line, p.communicate()
        if then:
            a.qmp.cmd(then)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130 and "cannot be cancelled" in err and a.qmp.cmd("query-migrate")["status"] == "postcopy-active"
    a.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    assert a("migrate").ok().out.splitlines()[-1].startswith("completed (")


def test_what_does_not_go(machines, tmp_path):
    a, b, uri = machines
    r = a("migrate", f"unix:{tmp_path}/nobody")
    assert r.rc == 1 and re.search("the guest runs on here: .*nobody", r.err) and a.qmp.cmd("query-status")["running"]
    r = b("migrate", "--dry-run")
    assert r.rc == 2 and "URI is missing" in r.err
    r = a("migrate", uri, "--downtime", "soon")
    assert r.rc == 2 and "--downtime 'soon' is no number of milliseconds" in r.err
    r = a("migrate", uri, "--tls-creds", "nobody")
    assert r.rc == 1 and "No TLS credentials with id 'nobody'" in r.err
    other = Bare(tmp_path / "c")
    try:
        r = other("migrate")
        assert r.rc == 1 and "is not being moved" in r.err
    finally:
        other.close()


def test_a_move_that_waits(machines):
    a, b, uri = machines
    a.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    p = a.popen("migrate", uri)
    assert "pre-switchover" in p.stderr.readline()
    while a.qmp.cmd("query-migrate")["status"] != "pre-switchover":
        time.sleep(0.01)
    a.qmp.cmd("migrate-continue", state="pre-switchover")
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "completed (" in out
