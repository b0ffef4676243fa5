# SPDX-License-Identifier: BSD-2-Clause
"""RAM follows a machine that runs elsewhere already: nothing is lost, whatever becomes of the connections; each row of the table in
docs/migration.md that post-copy adds."""
import os, re, socket, time

import pytest
from faulty_link import BACK, FORTH, FaultyLink
from qmp import QMPError
from test_migrate_converge import writer  # noqa: F401
from test_migrate import info, payload, running, source, start, until  # noqa: F401

ON = [{"capability": "postcopy-ram", "state": True}, {"capability": "release-ram", "state": True}]
PAGES = 1024  # of the payload


def hmp(m, line):
    return m.qmp.cmd("human-monitor-command", command_line=line)


def read_page(m, gpa):
    """Its first bytes; None: it has not come, and was asked for."""
    text = hmp(m, f"xp /8xb {gpa}")
    return None if "not here yet" in text else bytes(int(x, 16) for x in re.findall(r"0x(\w\w)\b", text.split(":", 1)[1]))


def find_payload(m, payload):
    first = open(payload, "rb").read(8)
    return next(gpa for gpa in range(0x80000000, 0x82000000, 4096) if read_page(m, gpa) == first)


def check(m, payload, at):
    data = open(payload, "rb").read()
    for page in range(0, PAGES, 7):
        assert read_page(m, at + 4096 * page) == data[4096 * page:][:8], page


def go(start, payload, tmp_path, to=None, bandwidth=1 << 17, dst_args=()):
    """Both, post-copy begun; the source pushes slowly, so that the test has half a minute for what comes before the end."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in", *dst_args)
    at = find_payload(src, payload)
    src.qmp.cmd("migrate-set-capabilities", capabilities=ON)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 16, max_postcopy_bandwidth=bandwidth)
    src.qmp.cmd("migrate", uri=f"unix:{to or tmp_path / 'in'}")
    until(src, "active", "failed")
    src.qmp.cmd("migrate-start-postcopy")
    return src, dst, at


def resume(src, dst, uri):
    dst.qmp.cmd("migrate-recover", uri=uri)
    src.qmp.cmd("migrate", uri=uri, resume=True)


def test_follows(start, payload, tmp_path):
    src, dst, at = go(start, payload, tmp_path)
    until(src, "postcopy-active")
    until(dst, "postcopy-active")
    assert running(dst) and not running(src) and src.qmp.cmd("query-status")["status"] == "postmigrate"
    for m in src, dst:
        with pytest.raises(QMPError, match="Postcopy migration in progress, cannot cancel"):
            m.qmp.cmd("migrate_cancel")
    last = at + 4096 * (PAGES - 1)  # is asked for long before its turn comes
    end = time.monotonic() + 60
    while read_page(dst, last) is None:
        assert time.monotonic() < end
    assert read_page(dst, last) == open(payload, "rb").read()[-4096:][:8] and info(src)["status"] == "postcopy-active"
    assert info(src)["ram"]["postcopy-requests"] > 0 and info(src)["ram"]["remaining"] > 0
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    done = until(src, "completed")
    assert done["ram"]["remaining"] == 0 and done["ram"]["postcopy-bytes"] > 1 << 20
    there = until(dst, "completed")
    assert sum(there["postcopy-latency-dist"]) > 0 and there["postcopy-latency-max"] >= there["postcopy-latency"] > 0
    check(dst, payload, at)


def pages_sent(sent):
    """Of each PAGE message: the frame's number, its first page and how many."""
    for found in re.finditer(b"PAGE", bytes(sent)):
        head, body = found.start() - 12, found.start() + 16
        if body + 12 <= len(sent):
            yield tuple(int.from_bytes(sent[a:a + n], "little") for a, n in ((head, 4), (body, 8), (body + 8, 4)))


def test_what_is_needed_comes_first_then_its_neighbours(start, payload, tmp_path):
    link = FaultyLink(f"{tmp_path}/proxy", f"{tmp_path}/in", record=True)
    src, dst, at = go(start, payload, tmp_path, tmp_path / "proxy")
    until(dst, "postcopy-active")
    wanted = at + 4096 * 700
    number, end = (wanted - 0x80000000) // 4096, time.monotonic() + 60
    while read_page(dst, wanted) is None:
        assert time.monotonic() < end
    while not {n for n in range(number, number + 40)} <= {first + i for _, first, n in pages_sent(link.sent[FORTH]) for i in range(n)}:
        assert time.monotonic() < end
        time.sleep(0.05)
    sent = list(pages_sent(link.sent[FORTH]))
    answer = sent.index((2, number, 16))
    assert all(first < number for _, first, _ in sent[:answer])
    assert number + 16 in [first for which, first, _ in sent[answer + 1:] if which == 0][:2]  # one may have been under way
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(src, "completed")
    check(dst, payload, at)
    link.close()


def resident(m, size=32 << 20):
    """How much of its RAM has memory."""
    with open(f"/proc/{m.process.pid}/smaps", encoding="ascii") as f:
        lines = iter(f)
        return sum(int(next(x for x in lines if x.startswith("Rss:")).split()[1]) << 10 for line in lines
                   if (m_ := re.match(r"(\w+)-(\w+) rw", line)) and int(m_[2], 16) - int(m_[1], 16) == size)


@pytest.mark.parametrize("release", [True, False])
def test_memory_is_given_up(start, payload, tmp_path, release):
    """Also what had come before the machine did; that as soon as it runs there, and the rest as it comes."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[ON[0], {"capability": "release-ram", "state": release}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 19, max_postcopy_bandwidth=1 << 17)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    end = time.monotonic() + 60
    while until(src, "active")["ram"]["precopy-bytes"] < 1 << 20:
        assert time.monotonic() < end
    before = resident(src)
    src.qmp.cmd("migrate-start-postcopy")
    until(src, "postcopy-active")
    assert (before - resident(src) >= 1 << 20) == release and info(src)["ram"]["postcopy-bytes"] < 1 << 20
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(src, "completed")
    assert (resident(src) == 0) == release
    until(dst, "completed")
    at = find_payload(dst, payload)
    check(dst, payload, at)


def test_memory_is_given_up_when_all_has_gone(start, payload, tmp_path):
    """Nothing needs to follow for that; but a file may not be read by anybody, and the machine go on here."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=ON[1:])
    src.qmp.cmd("migrate", uri=f"file:{tmp_path}/state")
    until(src, "completed")
    assert resident(src) > 4 << 20
    src.qmp.cmd("cont")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "completed")
    until(dst, "completed")
    assert resident(src) == 0
    check(dst, payload, find_payload(dst, payload))


@pytest.mark.parametrize("allowed", [True, False])
def test_after_so_many_rounds(start, writer, tmp_path, allowed):  # noqa: F811
    """What would still take too long then follows the guest, if it may."""
    dst = start("-incoming", f"unix:{tmp_path}/in", accel="interp")
    writer.qmp.cmd("migrate-set-capabilities", capabilities=ON if allowed else [])
    writer.qmp.cmd("migrate-set-parameters", max_bandwidth=0, avail_switchover_bandwidth=4096, postcopy_after_rounds=3)
    writer.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    if allowed:
        done = until(writer, "completed", "failed")
        assert done["status"] == "completed" and done["ram"]["postcopy-bytes"] > 0 and done["ram"]["dirty-sync-count"] == 5, done
        until(dst, "completed")
        assert running(dst)
    else:
        until(writer, "active")
        end = time.monotonic() + 60
        while (now := info(writer))["ram"]["dirty-sync-count"] < 6:
            assert now["status"] == "active" and time.monotonic() < end, now
        writer.qmp.cmd("migrate_cancel")
        until(writer, "cancelled")


def test_how_long_harts_waited(start, writer, tmp_path):  # noqa: F811
    dst = start("-incoming", f"unix:{tmp_path}/in", accel="interp", stopped=True)  # it has waited for nothing before that is counted
    writer.qmp.cmd("migrate-set-capabilities", capabilities=ON)
    writer.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 18, max_postcopy_bandwidth=1 << 17)
    writer.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(writer, "active")
    writer.qmp.cmd("migrate-start-postcopy")
    until(writer, "postcopy-active")
    assert "postcopy-blocktime" not in until(dst, "postcopy-active")
    dst.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-blocktime", "state": True}])
    dst.qmp.cmd("cont")
    end = time.monotonic() + 60
    while not info(dst)["postcopy-blocktime"]:
        assert time.monotonic() < end, info(dst)
    writer.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(writer, "completed")
    there = until(dst, "completed")
    assert len(there["postcopy-vcpu-blocktime"]) == 1 and there["postcopy-blocktime"] > 0, there
    assert abs(there["postcopy-vcpu-blocktime"][0] - there["postcopy-blocktime"]) < 1000  # the only one is all of them
    assert f"postcopy vcpu blocktime: {there['postcopy-vcpu-blocktime'][0]} ms" in hmp(dst, "info migrate")


@pytest.mark.parametrize("who", ["source", "destination"])
def test_paused_and_resumed(start, payload, tmp_path, who):
    src, dst, at = go(start, payload, tmp_path)
    until(dst, "postcopy-active")
    for n in range(3):
        (src if who == "source" else dst).qmp.cmd("migrate-pause")
        for m in src, dst:
            assert "error-desc" in until(m, "postcopy-paused")
        assert running(dst) and not running(src)
        with pytest.raises(QMPError, match="only supported during postcopy-active"):
            src.qmp.cmd("migrate-pause")
        with pytest.raises(QMPError, match="runs at the destination"):
            src.qmp.cmd("migrate-resolve", runs_there=False)
        assert read_page(dst, at + 4096 * (PAGES - 1 - n)) is None  # nobody hangs
        resume(src, dst, f"unix:{tmp_path}/again{n}")
        until(src, "postcopy-active")
        until(dst, "postcopy-active")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(src, "completed")
    until(dst, "completed")
    check(dst, payload, at)


def cut_after_the_switch(start, payload, tmp_path):
    for n in range(20):  # where the test comes too late for the switch, the cut comes before it: once more
        way = tmp_path / f"way{n}"
        way.mkdir()
        link = FaultyLink(f"{way}/proxy", f"{way}/in")
        link.fault("cut", FORTH, 200 << 10)
        try:
            src, dst, at = go(start, payload, way, way / "proxy", bandwidth=0)
        except QMPError as e:
            assert "must be started after migration has been started" in e.desc
            continue
        if until(src, "postcopy-paused", "failed", "postmigrate-unknown")["status"] != "failed":
            return way, link, src, dst, at
    raise AssertionError("always cut before the switch")


@pytest.mark.parametrize("forth", [8 << 10, 100 << 10, 1 << 20, 3 << 20])
def test_cut(start, payload, tmp_path, forth):
    """The connection is cut, and the one after it, and the one after that."""
    folder, link, src, dst, at = cut_after_the_switch(start, payload, tmp_path)
    until(dst, "postcopy-paused")
    for n, limit in enumerate((forth, 150, forth, 1 << 62)):
        if info(dst)["status"] == "postcopy-paused":
            dst.qmp.cmd("migrate-recover", uri=f"unix:{folder}/in{n}")
            way = f"{folder}/in{n}"
        link.wait(60)
        link.fault("cut", FORTH, limit, to=way)
        src.qmp.cmd("migrate", uri=f"unix:{folder}/proxy", resume=True)
        if until(src, "postcopy-paused", "completed")["status"] == "completed":
            break
        until(dst, "postcopy-paused", "postcopy-recover-setup")
    assert info(src)["status"] == "completed"
    until(dst, "completed")
    check(dst, payload, at)


def test_strangers_and_wrong_addresses(start, payload, tmp_path):
    src, dst, at = go(start, payload, tmp_path)
    until(dst, "postcopy-active")
    with pytest.raises(QMPError, match="Cannot resume if there is no paused migration"):
        src.qmp.cmd("migrate", uri="unix:/x", resume=True)
    with pytest.raises(QMPError, match="only be run when postcopy is paused"):
        dst.qmp.cmd("migrate-recover", uri="unix:/x")
    dst.qmp.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    src.qmp.cmd("migrate", uri="unix:/nowhere/x", resume=True)
    assert "No such file" in until(src, "postcopy-paused")["error-desc"]
    dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/new")
    stranger = source(start, payload)
    stranger.qmp.cmd("migrate", uri=f"unix:{tmp_path}/new")
    assert "waited for that runs already" in until(stranger, "failed")["error-desc"] and running(stranger)
    until(dst, "postcopy-recover-setup")
    dst.qmp.cmd("migrate-pause")  # somewhere else, then
    until(dst, "postcopy-paused")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    resume(src, dst, f"unix:{tmp_path}/newer")
    until(src, "completed")
    check(dst, payload, at)


@pytest.mark.parametrize("who", ["source", "destination"])
def test_a_recovery_that_hangs(start, payload, tmp_path, who):
    """Either side is told to leave it; and another connection is made."""
    src, dst, at = go(start, payload, tmp_path)
    until(dst, "postcopy-active")
    src.qmp.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    link = FaultyLink(f"{tmp_path}/proxy", f"{tmp_path}/new")
    link.fault("stall", *((BACK, 3) if who == "source" else (FORTH, 40)))
    dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/new")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy", resume=True)
    assert link.stalled.wait(60)
    until(src, "postcopy-recover")
    until(dst, "postcopy-recover", *(["postcopy-active"] if who == "source" else []))
    (src if who == "source" else dst).qmp.cmd("migrate-pause")
    until(src if who == "source" else dst, "postcopy-paused", "postcopy-recover-setup")
    link.cut()
    until(src, "postcopy-paused")
    assert running(dst) and not running(src)
    if until(dst, "postcopy-paused", "postcopy-recover-setup")["status"] == "postcopy-paused":
        dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/newer")
        uri = f"unix:{tmp_path}/newer"
    else:
        uri = f"unix:{tmp_path}/new"
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    src.qmp.cmd("migrate", uri=uri, resume=True)
    until(src, "completed")
    until(dst, "completed")
    check(dst, payload, at)
    link.close()


def test_the_source_is_gone(start, payload, tmp_path):
    src, dst, at = go(start, payload, tmp_path)
    until(dst, "postcopy-active")
    src.process.kill()
    assert "error-desc" in until(dst, "postcopy-paused")
    assert running(dst) and read_page(dst, at + 4096 * (PAGES - 1)) is None
    dst.qmp.cmd("stop")
    assert dst.qmp.cmd("query-status")["status"] == "paused"


def test_the_destination_is_gone(start, payload, tmp_path):
    """What ran there is lost: the source never runs what it has, which is of the past."""
    src, dst, at = go(start, payload, tmp_path)
    until(dst, "postcopy-active")
    dst.process.kill()
    until(src, "postcopy-paused")
    with pytest.raises(QMPError, match="may run elsewhere"):
        src.qmp.cmd("cont")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", resume=True)
    until(src, "postcopy-paused")
    assert src.quit()[0] == 0


def test_reset_does_not_wait(start, payload, tmp_path):
    """What a reset overwrites need not come: even while there is no connection."""
    src, dst, at = go(start, payload, tmp_path, dst_args=("-initrd", payload, "-kernel", payload + ".kernel"))
    until(dst, "postcopy-active")
    dst.qmp.cmd("migrate-pause")
    until(dst, "postcopy-paused")
    dst.qmp.cmd("system_reset")
    check(dst, payload, at)
    until(src, "postcopy-paused")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    resume(src, dst, f"unix:{tmp_path}/new")
    until(src, "completed")
    check(dst, payload, at)


def test_runs_was_not_heard(start, payload, tmp_path):
    """Its last word before post-copy lost, the source knows nothing; the destination may know, and then it goes on."""
    FaultyLink(f"{tmp_path}/proxy", f"{tmp_path}/in").fault("cut", BACK, 3, after=b"RUNS")
    src, dst, at = go(start, payload, tmp_path, tmp_path / "proxy")
    until(src, "postmigrate-unknown")
    until(dst, "postcopy-paused")
    resume(src, dst, f"unix:{tmp_path}/new")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    until(src, "completed")
    check(dst, payload, at)


def test_refused(start, payload, tmp_path):
    src = source(start, payload)
    with pytest.raises(QMPError, match="Enable postcopy with migrate_set_capability"):
        src.qmp.cmd("migrate-start-postcopy")
    src.qmp.cmd("migrate-set-capabilities", capabilities=ON)
    with pytest.raises(QMPError, match="must be started after migration has been started"):
        src.qmp.cmd("migrate-start-postcopy")
    with pytest.raises(QMPError, match="gives no answer"):
        src.qmp.cmd("migrate", uri=f"file:{tmp_path}/out")
    assert until(src, "failed")["error-desc"].endswith("switch 'postcopy-ram' off") and running(src)
    os.environ["STERNA_PAGES"] = "soft"
    try:
        start("-incoming", f"unix:{tmp_path}/in")
    finally:
        del os.environ["STERNA_PAGES"]
    with pytest.raises(QMPError, match="lets nobody wait for pages"):
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)


class Bus:
    """The qtest protocol of a machine that is about to be started with these arguments."""

    def __init__(self, path):
        self.args, self.door = ("-qtest", f"unix:path={path}"), socket.socket(socket.AF_UNIX)
        self.door.bind(str(path))
        self.door.listen(1)

    def ask(self, line):
        if self.door:
            self.s = self.door.accept()[0].makefile("rw")
            self.door = self.door.close()
        self.s.write(line + "\n")
        self.s.flush()
        return self.s.readline().strip()


def test_a_transfer_waits_for_its_pages(start, payload, tmp_path):
    """fw_cfg's DMA begins while its pages are missing and there is nobody to bring them: it is done when they have come."""
    fw_cfg, at, to = 0x10100000, 0x81f00000, 0x81f10ff0
    here, there = Bus(tmp_path / "here"), Bus(tmp_path / "there")
    src = source(lambda *a: start(*a, *here.args), payload)
    dst = start("-incoming", f"unix:{tmp_path}/in", *there.args)
    wants = (8 | 2).to_bytes(4, "big") + (4).to_bytes(4, "big") + to.to_bytes(8, "big")  # select item 0, read 4 bytes
    assert here.ask(f"write {at:#x} 16 0x{wants.hex()}") == "OK"
    src.qmp.cmd("migrate-set-capabilities", capabilities=ON)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 17, max_postcopy_bandwidth=1 << 17)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-start-postcopy")
    until(dst, "postcopy-active")
    dst.qmp.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    assert there.ask(f"read {at:#x} 16") == "FAIL RAM at 0x81f00000 has not come yet"
    assert there.ask(f"writeq {fw_cfg + 16:#x} {int.from_bytes(at.to_bytes(8, 'big'), 'little'):#x}") == "OK"
    assert there.ask(f"readl {at:#x}").startswith("FAIL")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    resume(src, dst, f"unix:{tmp_path}/new")
    until(src, "completed")
    assert there.ask(f"read {to:#x} 4") == "OK 0x" + b"QEMU".hex() and there.ask(f"readl {at:#x}") == "OK 0x0000000000000000"


def test_the_last_word_is_lost(start, payload, tmp_path):
    """All has come, but the source did not hear it: its manager says so, when it has looked at the destination."""
    src, dst, at = go(start, payload, tmp_path)
    until(dst, "postcopy-active")
    dst.qmp.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    with pytest.raises(QMPError, match="runs at the destination"):
        src.qmp.cmd("migrate-resolve", runs_there=False)
    dst.qmp.cmd("migrate-recover", uri=f"unix:{tmp_path}/new")
    link = FaultyLink(f"{tmp_path}/proxy", f"{tmp_path}/new")
    link.fault("cut", BACK, 0, after=b"ALLD")
    src.qmp.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/proxy", resume=True)
    until(dst, "completed")
    until(src, "postcopy-paused")
    link.wait(60)
    src.qmp.cmd("migrate-resolve", runs_there=True)
    assert info(src)["status"] == "completed" and not running(src)
    check(dst, payload, at)
