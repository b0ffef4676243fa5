# SPDX-License-Identifier: BSD-2-Clause
"""Verbs that start no job; operands, options and messages."""
import json, os, re, signal, time

import pytest
from conftest import img
from sterna import program, run


def test_the_machine(ctl):
    m = ctl()
    assert m("status").ok().out == "tern: running (Sterna 0.1.0)\n"
    m("stop").ok()
    assert m.json("status") == [{"running": False, "status": "paused", "name": "tern", "version": "Sterna 0.1.0"}]
    m("cont").ok()
    assert m("status").ok().out.startswith("tern: running")
    m("quit").ok()
    assert m.process.poll() == 0        # not only on its way


def test_the_socket_may_come_from_the_environment(ctl):
    m = ctl(qtest=False)
    assert run(program("sternactl"), "status", env={"STERNA_SOCKET": m.socket}).ok().out.startswith("tern")
    assert run(program("sternactl"), "status", "--socket", "unix:" + m.socket).ok().out.startswith("tern")
    for words in (["-s", m.socket, "status"], ["-s" + m.socket, "status"], ["--sock", m.socket, "status"], ["--socket=" + m.socket, "--json", "status"]):
        assert "tern" in run(program("sternactl"), *words).ok().out
    r = run(program("sternactl"), "status", env={"STERNA_SOCKET": ""})
    assert r.rc == 4


def test_disks(ctl):
    m = ctl(qtest=False)
    head, row = m("disks").ok().out.splitlines()
    assert head.split() == ["DISK", "NODE", "FORMAT", "SIZE", "FILE", "BACKING", "JOBS"]
    assert re.split("  +", row) == ["disk0", "d0", "qcow2", "16 MiB", str(m.top), str(m.base), "-"]
    assert [head.index(w) for w in ("NODE", "FILE")] == [row.index("d0"), row.index(str(m.top))]
    assert m("disks", "--names").ok().out == "disk0\n"
    d = m.disk()
    assert (d["disk"], d["node-name"], d["virtual-size"], d["backing"], d["jobs"], d["read-only"]) == ("disk0", "d0", 16 << 20, [str(m.base)], [], False)


def test_what_it_is_made_of(ctl, tmp_path):
    m = ctl(qtest=False)
    said = m("state").ok().out.splitlines()
    assert said[0] == "no state file: nothing of this is kept" and said[1].split() == ["KIND", "NAME", "WHAT"]
    rows = {tuple(line.split()[:2]): line.split(maxsplit=2)[2] for line in said[2:]}
    assert rows["device", "disk0"].startswith("virtio-blk-device ") and "drive=d0" in rows["device", "disk0"].split()
    assert f"file.filename={m.top}" in rows["blockdev", "d0"].split() and "name=tern" in rows["machine", "-"].split()
    assert [line.split()[1] for line in m("state", "device").ok().out.splitlines()] == ["NAME", "disk0"]
    assert "drive = d0\n" in m("state", "device", "disk0").ok().out
    answer = m.qmp.cmd("query-state")
    assert m.json("state") == [answer] and m.json("state", "device") == [s for s in answer["sections"] if s["kind"] == "device"]
    for words, text in ((("device", "disk9"), "the machine has no 'device' 'disk9'; 'sternactl state' lists what it has"), (("devcie",), "no 'devcie'")):
        r = m("state", *words)
        assert r.rc == 1 and text in r.err
    file = tmp_path / "saved"
    assert m("state", "--save", file).ok().out == f"'sterna -state {file}' starts this machine again\n"
    assert '[device "disk0"]' in file.read_text()
    r = m("state", "--save", file)
    assert r.rc == 1 and f"could not create state file '{file}': File exists; name one that is not there, or remove it" in r.err
    assert m("state", "device", "--save", file).rc == 2
    m.close()
    m = ctl("-state", tmp_path / "vm.state", qtest=False)
    assert m("state").ok().out.startswith(f"{tmp_path}/vm.state: generation {m.qmp.cmd('query-state')['generation']}\n")


def test_any_command(ctl):
    m = ctl(qtest=False)
    assert m("qmp", "blockdev-add", "driver=null-co", "node-name=n", "size=1048576", "read-zeroes=true").ok().out == "{}\n"
    m("qmp", "blockdev-add", '{"driver": "raw", "node-name": "r"}', "file.driver=null-co", "file.size=4096", 'file.node-name="x5"').ok()
    assert {"n", "r", "x5"} <= m.nodes()
    assert m.json("qmp", "query-status") == [{"running": True, "status": "running"}]
    assert m("qmp", "human-monitor-command", "command-line=info name").ok().out == "tern\n"
    r = m("qmp", "query-statsu")
    assert r.rc == 1 and r.err == "sternactl: query-statsu: The command query-statsu has not been found; did you mean 'query-status'?\n"
    r = m("qmp", "blockdev-del", "node-name=nix")
    assert r.rc == 1 and "nix" in r.err
    for wrong, text in (("x", "neither KEY=VALUE"), ("{x", "no JSON object"), ("=x", "neither")):
        r = m("qmp", "query-status", wrong)
        assert r.rc == 2 and text in r.err


def test_events(ctl):
    m = ctl(qtest=False)
    p = m.listening("--until", "JOB_STATUS_CHANGE")
    m.qmp.cmd("stop")
    m.qmp.cmd("cont")
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=65536)
    out, err = p.communicate(timeout=60)
    when = r"\d\d:\d\d:\d\d\.\d{3} "
    assert re.fullmatch(rf"({when}(STOP|RESUME)\n)*{when}STOP\n{when}RESUME\n{when}JOB_STATUS_CHANGE .*id=s.*\n", out), (out, err)


def test_events_for_somebody_who_has_seen_enough(ctl):
    m = ctl(qtest=False)
    p = m.listening()
    p.stdout.close()
    end = time.monotonic() + 60
    while p.poll() is None and time.monotonic() < end:
        m.qmp.cmd("stop")
        m.qmp.cmd("cont")
    assert p.wait(1) == -signal.SIGPIPE
    p.stderr.close()


def test_events_as_json(ctl):
    m = ctl(qtest=False)
    p = m.listening("--json")
    assert json.loads(p.stdout.readline())["event"] in ("STOP", "RESUME")
    p.send_signal(2)
    assert p.communicate(timeout=60) and p.returncode == 0


@pytest.mark.parametrize("words, text", [
    (["copi"], "there is no verb 'copi'; did you mean 'copy'?"),
    (["nonsense"], "there is no verb 'nonsense'\n"),
    ([], "VERB is missing"),
    (["copy"], "copy: DISK is missing"),
    (["copy", "d"], "copy: TARGET is missing"),
    (["status", "x"], "'x' is too much"),
    (["copy", "d", "t", "--sped", "1"], "there is no option '--sped'; did you mean '--speed'?"),
    (["copy", "d", "t", "--speed"], "option '--speed' needs a value"),
    (["copy", "d", "t", "--switch", "--no-switch"], "contradict"),
    (["copy", "d", "t", "--detach", "--switch"], "jobs complete"),
    (["copy", "d", "t", "--sync", "ful"], "--sync 'ful' is none of full, top, none; did you mean 'full'?"),
    (["backup", "d", "t", "--sync", "incremental"], "--sync incremental needs --bitmap"),
    (["stream", "d", "--idle-grace", "soon"], "--idle-grace 'soon' is no number"),
    (["wait", "j", "--reconnect", "later"], "--reconnect 'later' is no number"),
    (["jobs", "pouse", "j"], "there is no 'pouse'; there are cancel,"),
    (["jobs", "pause"], "ID is missing after 'pause'"),
    (["jobs", "speed", "j"], "RATE is missing after 'j'"),
    (["jobs", "speed", "j", "fast"], "'fast' is no rate"),
    (["jobs", "watch", "j"], "'j' is too much"),
    (["top", "--interval", "0"], "--interval '0'"),
    (["top", "--count", "x"], "--count 'x'"),
])
def test_usage(words, text):
    r = run(program("sternactl"), *words)
    assert r.rc == 2 and text in r.err and r.out == "" and "--help' says more" in r.err


def test_errors_name_what_there_is(ctl):
    m = ctl(qtest=False)
    for verb in (["copy", "disk1", "x"], ["stream", "disk1"], ["backup", "disk1", "x"], ["snapshot", "disk1", "x"]):
        r = m(*verb)
        assert r.rc == 1 and "there is no disk 'disk1', nor a node of that name; disks: disk0; did you mean 'disk0'?" in r.err
    r = m("jobs", "pause", "j")
    assert r.rc == 1 and r.err == "sternactl: there is no job 'j', nor any other\n"
    m.qmp.cmd("block-stream", job_id="job1", device="d0", speed=65536)
    assert "jobs: job1; did you mean 'job1'?" in m("jobs", "cancel", "job2").err
    assert "did you mean 'job1'?" in m("wait", "job2").err
    r = m("jobs", "complete", "job1")
    assert r.rc == 1 and "'running'" in r.err and "wait --ready job1" in r.err
    r = m("jobs", "dismiss", "job1")
    assert r.rc == 1 and "sternactl wait job1" in r.err
    r = m("stream", "disk0", "--speed", "9z")
    assert r.rc == 2 and "--speed '9z' is no size" in r.err
    r = m("copy", "disk0", "x", "--format", "qcow")
    assert r.rc == 2 and "did you mean 'qcow2'?" in r.err
    img("create", "-q", "-f", "raw", m.tmp / "there", "16M")
    r = m("copy", "disk0", m.tmp / "there")
    assert r.rc == 1 and f"'{m.tmp}/there' exists; give its format with --format" in r.err
    r = m("copy", "disk0", m.tmp / "nodir" / "x")
    assert r.rc == 1 and "nodir/x" in r.err and "No such file" in r.err
    r = m("copy", "disk0", "node:x")
    assert r.rc == 1 and "there is no node 'x'" in r.err
    r = m("commit", "disk0", "--base", "nix")
    assert r.rc == 1 and "nix" in r.err
    assert not {n for n in m.nodes() if n.startswith(("copy", "backup"))}


def test_top(ctl):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="slow", device="d0", speed=65536)
    out = m("top", "--count", "2", "--interval", "0.1").ok().out
    assert out.count("guest: running\n") == 2 and out.count("disk0") == 2 and out.count("slow: running") == 2
    looks = m.json("top", "--count", "1", "--interval", "0.1")
    assert [d["disk"] for d in looks[0]["disks"]] == ["disk0"] and looks[0]["jobs"][0]["id"] == "slow"


def test_what_the_machine_says_does_nothing_to_terminals(ctl):
    m = ctl(qtest=False)
    os.link(m.top, m.tmp / "a\x1b[31m\x9bb")
    m.qmp.cmd("blockdev-add", args={"driver": "file", "node-name": "n", "filename": str(m.tmp / "a\x1b[31m\x9bb"), "read-only": True, "locking": "off"})
    m.qmp.cmd("blockdev-add", args={"driver": "null-co", "node-name": "z", "size": 4096})
    r = m("copy", "n", "/x\x1b[31m/y")
    assert r.rc == 1 and "\x1b" not in r.err and "/x?[31m/y" in r.err
