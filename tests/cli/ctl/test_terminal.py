# SPDX-License-Identifier: BSD-2-Clause
"""On a terminal: bars that are drawn again in place, as wide as it is; colours; Ctrl-C."""
import fcntl, os, pty, re, select, signal, struct, subprocess, termios, time

import pytest
from conftest import MB


class Terminal:
    def __init__(self, m, *args, columns=100, env=None):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        full = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        self.process = subprocess.Popen(m.command(*args), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        env={**full, "TERM": "xterm", "LC_ALL": "C.UTF-8", **(env or {})},
                                        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.text = ""

    def read(self, timeout):
        if not select.select([self.master], [], [], timeout)[0]:
            return False
        try:
            data = os.read(self.master, 65536)
        except OSError:     # the other end is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def wait(self, pattern, timeout=60):
        end = time.monotonic() + timeout
        while not (m := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"no {pattern!r} in {self.text!r}"
            self.read(0.1)
        return m

    def end(self):
        while self.process.poll() is None or select.select([self.master], [], [], 0)[0]:
            if not self.read(0.1) and self.process.poll() is not None:
                break
        return self.process.returncode

    def type(self, text):
        os.write(self.master, text.encode())

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)

    def frames(self):
        """What was drawn, again and again, without escapes."""
        return [re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", f) for f in re.split(r"\r\x1b\[J", self.text) if f.strip()]


@pytest.fixture
def terminal():
    made = []

    def start(*args, **kw):
        made.append(Terminal(*args, **kw))
        return made[-1]
    yield start
    for t in made:
        t.close()


def test_no_bar_where_there_is_no_room(ctl, terminal):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="a-name-of-some-length", device="d0", speed=65536, auto_dismiss=False)
    t = terminal(m, "wait", "a-name-of-some-length", columns=40)
    t.wait(r"running +\d+ %\r\n")
    m.qmp.cmd("block-job-set-speed", device="a-name-of-some-length", speed=0)
    assert t.end() == 0 and "#" not in t.text


def percents_of(frames):
    return [int(re.search(r"(\d+) %", f).group(1)) for f in frames if f.startswith("s  running")]


@pytest.mark.parametrize("columns", [100, 34])
def test_a_bar_that_fits(ctl, terminal, columns):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=MB // 2, auto_dismiss=False)
    t = terminal(m, "wait", "s", columns=columns)
    end = time.monotonic() + 60
    while not (shown := percents_of(t.frames()[:-1])) or shown[0] == shown[-1] or len(shown) < 3:
        assert time.monotonic() < end, t.text
        t.read(0.1)
    m.qmp.cmd("block-job-set-speed", device="s", speed=0)
    assert t.end() == 0
    bars = [f for f in t.frames() if f.startswith("s  running")]
    assert len(bars) >= 3 and "\x1b[1A\r\x1b[J" in t.text       # over the line before
    assert all(len(line) < columns for f in bars for line in f.split("\r\n"))
    percents = percents_of(bars)
    assert percents == sorted(percents) and percents[0] < percents[-1] <= 100
    if columns == 100:
        assert re.fullmatch(r"s  running  +\d+ %  \[#*\.*\](  [\d.]+ [KMG]iB/s)?(  \d+:\d\d left)?(  \(limited by its speed\))?\r\n", bars[-1]), bars[-1]
    assert len({len(b.group()) for f in bars if (b := re.search(r"\[[#.]*\]", f))}) == 1     # its length stays
    assert t.frames()[-1].startswith("s: completed (")


def test_colours_unless_unwanted(ctl, terminal):
    m = ctl(qtest=False)
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="n", size=16 * MB, read_zeroes=True)
    m.qmp.cmd("blockdev-mirror", job_id="c", device="d0", target="n", sync="full")
    m.qmp.event("BLOCK_JOB_READY")
    for env, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        t = terminal(m, "wait", "c", env=env)
        t.wait("ready.*100 %.*\\]")
        assert ("\x1b[32mready\x1b[0m" in t.text) == coloured and bool(re.search(r"\x1b\[\d*m", t.text)) == coloured
        t.process.kill()
        t.end()


def test_a_terminal_that_can_do_nothing(ctl, terminal):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=16 * MB, auto_dismiss=False)
    t = terminal(m, "wait", "s", env={"TERM": "dumb"})
    assert t.end() == 0 and "\x1b" not in t.text and t.text.startswith("s: ")


def test_ctrl_c(ctl, terminal):
    m = ctl(qtest=False)
    t = terminal(m, "copy", "disk0", m.tmp / "c.qcow2", "--speed", "64k")
    t.wait("copy-disk0  running")
    t.type("\x03")
    t.wait(r"(?s)The job goes on; Ctrl-C again leaves it alone.*sternactl wait copy-disk0 .*sternactl jobs cancel copy-disk0 .*sternactl jobs complete copy-disk0 ")
    t.text = ""
    t.wait("copy-disk0  running")       # it is still there
    t.type("\x03")
    assert t.end() == 130
    assert m.qmp.cmd("query-jobs")[0]["status"] == "running"
    t = terminal(m, "wait", "copy-disk0")
    t.wait("copy-disk0  running")
    m.qmp.cmd("job-cancel", id="copy-disk0")
    assert t.end() == 3 and t.frames()[-1].startswith("copy-disk0: cancelled")
    assert not {n for n in m.nodes() if n.startswith("copy")}


def test_ctrl_c_while_the_machine_stands_still(ctl, terminal):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=65536)
    t = terminal(m, "wait", "s")
    t.wait("s  running")
    m.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(0.4)
        t.type("\x03")
        t.wait("The job goes on")
        t.type("\x03")
        assert t.end() == 130
    finally:
        m.process.send_signal(signal.SIGCONT)


def test_lists_are_drawn_again(ctl, terminal):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="s", device="d0", speed=65536)
    for verb in (["jobs", "watch"], ["top", "--interval", "0.2"]):
        t = terminal(m, *verb)
        t.wait(r"(?s)\x1b\[\dA\r\x1b\[J.*\x1b\[\dA\r\x1b\[J")
        t.type("\x03")
        assert t.end() == 0 and "s " in t.text


def test_two_columns_for_wide_letters(ctl, terminal):
    m = ctl(qtest=False)
    name = m.tmp / ("写" * 30 + ".qcow2")
    os.link(m.top, name)
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="x", size=4096)
    m.quit()
    m2 = ctl("-blockdev", f"driver=qcow2,node-name=w,read-only=on,file.driver=file,file.filename={name},file.read-only=on,file.locking=off",
             "-device", "virtio-blk-device,drive=w,id=wide", qtest=False)
    t = terminal(m2, "top", "--count", "1", "--interval", "0.1", columns=40)
    assert t.end() == 0
    for line in t.frames()[-1].split("\r\n"):
        assert sum(2 if ord(c) > 0x1100 else 1 for c in line) < 40
