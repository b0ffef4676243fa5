# SPDX-License-Identifier: BSD-2-Clause
"""A real guest is saved while it rewrites its memory, and goes on in a fresh process: what it holds is of one instant."""
import os, re, signal, subprocess, threading

import pytest
from conftest import BUILD, QUICK

PROGRAM = os.path.join(BUILD, "tests", "move", "guest_move")


class Machine:
    def __init__(self, guest, what, file, way, run="stamp mem 16", mib=192, disk=()):
        append = QUICK + run.replace(" ", "+")
        self.lines, self.told, self.cond = [], [], threading.Condition()
        self.process = subprocess.Popen([PROGRAM, f"{guest}/Image", f"{guest}/sterna.ird", append, str(mib), what, file,
                                         *disk],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env=dict(os.environ, STERNA_PAGES=way))
        for stream, lines in (self.process.stdout, self.lines), (self.process.stderr, self.told):
            threading.Thread(target=self._read, args=(stream, lines), daemon=True).start()

    def _read(self, stream, lines):
        for line in stream:
            with self.cond:
                lines.append(line.strip())
                self.cond.notify_all()

    def wait(self, lines, pattern, n=1, timeout=120):
        def found():
            return [m for m in (re.search(pattern, x) for x in lines) if m]
        with self.cond:
            assert self.cond.wait_for(lambda: len(found()) >= n or self.process.poll() is not None, timeout), lines
            assert len(found()) >= n, (self.lines, self.told)
            return found()[n - 1]

    def save(self, n, how=signal.SIGUSR1):
        self.process.send_signal(how)
        return self.wait(self.told, "SAVED|FAILED", n).string

    def end(self):
        """The guest looks at all its memory."""
        self.process.stdin.write("verify\n")
        self.process.stdin.flush()
        verdict = self.wait(self.lines, "MEM-OK|MEM-BAD").string
        assert verdict.startswith("MEM-OK"), self.lines
        assert self.process.wait(60) == 0
        return int(re.search(r"seq=(\d+)", verdict)[1])


@pytest.fixture
def machine(guest):
    machines = []

    def start(*args, **kw):
        machines.append(Machine(guest, *args, **kw))
        return machines[-1]
    yield start
    for m in machines:
        m.process.kill()
        m.process.wait()


def test_memory_is_of_one_instant(machine, tmp_path):
    """In both ways of keeping it, of one guest; each state is loaded by a process of its own."""
    file, states = str(tmp_path / "state"), {}
    m = machine("save", file, "uffd")
    m.wait(m.lines, "MEM-READY")
    m.wait(m.lines, r"M seq=")
    for n, (way, how) in enumerate((("uffd", signal.SIGUSR1), ("soft", signal.SIGUSR2)), 1):
        told = m.save(n, how)
        if way == "uffd" and "userfaultfd cannot be used" in told:
            continue
        assert f"way={way}" in told
        assert sorted(os.listdir(tmp_path)) == sorted([*states.values(), "state"])
        states[way] = way
        os.rename(file, tmp_path / way)
    seen = int(re.search(r"seq=(\d+)", m.lines[-1])[1])
    assert m.end() >= seen  # whom nobody loads goes on, too
    for way, name in states.items():
        loaded = machine("lazy" if way == "uffd" else "all", str(tmp_path / name), way)
        told = loaded.wait(loaded.told, "LOADED|FAILED").string
        assert told.startswith(f"LOADED lazy={int(way == 'uffd')}"), told
        assert loaded.end() > 0
    if len(states) == 1:
        pytest.skip(told)


def test_disk_reads_into_memory_that_is_saved_or_to_come(machine, tmp_path):
    """The kernel stores into the guest's memory, which must not fail where only faults from user mode are seen."""
    file, disk = str(tmp_path / "state"), str(tmp_path / "disk")
    with open(disk, "wb") as f:
        f.truncate(24 << 20)
    m = machine("save", file, "user", ";".join(["stamp fill /dev/vda 24"] + 6 * ["stamp verify /dev/vda 24"]), disk=[disk])
    m.wait(m.lines, "GUEST-UP")
    told = m.save(1)  # writes meanwhile
    if "userfaultfd cannot be used" in told:
        pytest.skip(told)
    m.wait(m.lines, "VERIFY-OK")
    assert "way=uffd" in m.save(2)  # reads meanwhile, and for the one that is loaded
    m.wait(m.lines, "VERIFY-OK", 6)
    assert m.process.wait(60) == 0
    loaded = machine("lazy", file, "user", "", disk=[disk])
    loaded.wait(loaded.told, "LOADED lazy=1")
    assert loaded.process.wait(60) == 0
    assert len([x for x in loaded.lines if "VERIFY-OK" in x]) >= 3 and not [x for x in loaded.lines if "BAD" in x]
