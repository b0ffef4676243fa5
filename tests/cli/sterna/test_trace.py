# SPDX-License-Identifier: BSD-2-Clause
"""-trace, -D, -msg."""
import re, subprocess

import pytest
from sterna import TOP, program, run

BASE = ["-display", "none", "-nodefaults", "-M", "none"]
DISK = ["-blockdev", "null-co,node-name=n0,size=1048576"]


def session(*args):
    """The program with QMP on its standard streams, ended by 'quit'."""
    r = subprocess.run([program("sterna"), *BASE, "-qmp", "stdio", *map(str, args)], capture_output=True, text=True, timeout=60,
                       input='{"execute": "qmp_capabilities"}\n{"execute": "blockdev-del", "arguments": {"node-name": "n0"}}\n{"execute": "quit"}\n')
    assert r.returncode == 0
    return r.stderr


def test_help_lists_what_the_sources_use():
    names = run(program("sterna"), "-trace", "help").ok().out.split()
    found = subprocess.run(["grep", "-rhoE", r"log_trace\([^;\"]*, *[a-z_]+,|TRACE_REQUEST\(ed, [a-z_]+", f"{TOP}/src"], capture_output=True, text=True).stdout
    used = {re.split(r"[ ,(]+", line.rstrip(","))[-1] for line in found.splitlines()} - {"point", "name"}
    assert len(names) == len(set(names)) and used and used - set(names) == set()
    text = "".join(open(p).read() for p in subprocess.run(["grep", "-rlE", r"log_trace\(|TRACE_REQUEST\(", f"{TOP}/src"], capture_output=True,
                                                          text=True).stdout.split() if "/base/" not in p)
    assert [n for n in names if not re.search(rf"\b{n}\b", text)] == []


def test_pattern():
    err = session(*DISK, "-trace", "block_*")
    assert "block_open node n0 driver null-co" in err and "block_close node n0" in err
    assert "monitor_" not in err


def test_off_without_the_option():
    assert session(*DISK) == ""


def test_minus_takes_away():
    err = session(*DISK, "-trace", "block_*", "-trace", "-block_close")
    assert "block_open " in err and "block_close" not in err


def test_events_file_and_file(tmp_path):
    (tmp_path / "events").write_text("# what to see\n\nmonitor_qmp_command\n  block_o*  \n")
    err = session(*DISK, "-trace", f"events={tmp_path}/events,file={tmp_path}/out")
    assert err == ""
    lines = (tmp_path / "out").read_text().splitlines()
    assert 'monitor_qmp_command mon compat_monitor0 blockdev-del {"node-name":"n0"}' in lines
    assert {line.split()[0] for line in lines} == {"monitor_qmp_command", "block_open"}


def test_enable_and_log_file(tmp_path):
    err = session(*DISK, "-trace", "enable=vm_shutdown", "-D", tmp_path / "log")
    assert err == "" and (tmp_path / "log").read_text() == "vm_shutdown reason host-qmp-quit code 0\n"


def test_time_stamps():
    err = session("-trace", "vm_*", "-trace", "nosuch", "-msg", "timestamp=on")
    assert re.search(r"^\d+@\d+\.\d{6}:vm_shutdown ", err, flags=re.M)


def test_guest_name_in_messages():
    r = run(program("sterna"), *BASE, "-msg", "timestamp=on,guest-name=on", "-name", "fred", "-mon", "x")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z fred sterna: -mon x: chardev \"x\" not found", r.err)


def test_unknown_name_is_a_warning():
    assert session(*DISK, "-trace", "blok_read") == "sterna: warning: trace event 'blok_read' does not exist\n"


@pytest.mark.parametrize("value, words", [("events=/nosuch/x", "/nosuch/x: No such file"), ("file=/nosuch/x", "/nosuch/x"), ("foo=bar", "'foo'")])
def test_errors(value, words):
    r = run(program("sterna"), *BASE, "-S", "-trace", value)
    assert r.rc == 1 and words in r.err and f"-trace {value}" in r.err
