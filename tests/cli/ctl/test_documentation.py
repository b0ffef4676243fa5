# SPDX-License-Identifier: BSD-2-Clause
"""--help against the manual page, both ways; and the completion for bash."""
import os, re, subprocess

import pytest
from sterna import BUILD, TOP, program, run

OPTION = r"--[a-z-]+(?: [A-Z]+)?"


def helped():
    """{"copy DISK TARGET": {"--format FORMAT", …}, …} with "waits" and "all" for the options of several verbs."""
    out, at = {}, None
    for line in run(program("sternactl"), "--help").ok().out.splitlines():
        if re.match("Options of verbs that wait", line):
            at = out["waits"] = set()
        elif re.match("Options of all verbs", line):
            at = out["all"] = set()
        elif m := re.match(r"  ([a-z]+(?: [^ a-z]\S*( \S+)*?)?)(?:  |$)", line):
            at = out[m.group(1)] = set()
        elif m := re.match(r" +(" + OPTION + ")", line):
            at.add(m.group(1))
    return out


def paged():
    with open(os.path.join(TOP, "docs/man/sternactl.1"), encoding="utf-8") as f:
        text = f.read().replace("\\-", "-")
    out, at, before = {}, set(), ""
    for line in text.splitlines():
        tagged, before = before == ".TP", line
        if m := re.match(r"\.SS (.*)", line):
            at = out[m.group(1)] = set()
        elif m := re.match(r"\.SH OPTIONS OF (VERBS THAT WAIT|ALL VERBS)", line):
            at = out["waits" if "WAIT" in line else "all"] = set()
        elif re.match(r"\.SH", line):
            at = set()
        elif tagged and (m := re.match(r'\.BR? (?:-\w ", " )?(' + "--[a-z-]+" + r')(?: " \\fI([A-Z]+)\\fR")?$', line)):
            at.add(m.group(1) + (f" {m.group(2)}" if m.group(2) else ""))
    return out


def test_help_and_manual_page_say_the_same():
    assert helped() == paged() and len(helped()) == 19


def test_each_verb_has_its_own_help():
    for verb, options in helped().items():
        if verb in ("waits", "all"):
            continue
        r = run(program("sternactl"), verb.split()[0], "--help").ok()
        assert r.out.startswith(f"usage: sternactl [-s SOCKET] [--json] {verb}")
        have = set(re.findall(r"^  (" + OPTION + ")", r.out, flags=re.M))
        assert options <= have <= options | helped()["waits"]
    assert run(program("sternactl"), "--version").ok().out == "sternactl version 0.1.0\n"


def complete(words, env=None, cword=None):
    script = f"""
        source {TOP}/completions/sternactl
        COMP_WORDS=("$@") COMP_CWORD={len(words) - 1 if cword is None else cword}
        _sternactl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    p = subprocess.run(["bash", "-c", script, "bash", *map(str, words)], capture_output=True, text=True, timeout=60, cwd=os.path.join(TOP, "completions"),
                       env={**os.environ, "PATH": BUILD + ":" + os.environ["PATH"], **(env or {})})
    assert p.returncode == 0 and p.stderr == "", p.stderr
    return set(p.stdout.split())


def test_completion_of_words():
    verbs = {v.split()[0] for v in helped() if v not in ("waits", "all")}
    assert complete(["sternactl", ""]) == verbs
    assert complete(["sternactl", "co"]) == {"commit", "cont", "copy"}
    assert complete(["sternactl", "-s", "x", "--json", "sto"]) == {"stop"}
    assert complete(["sternactl", "copy", "d", "--s"]) == {"--sync", "--switch", "--speed", "--socket"}
    assert complete(["sternactl", "backup", "d", "t", "--sync", ""]) == {"full", "top", "none", "incremental", "bitmap"}
    assert complete(["sternactl", "copy", "d", "t", "--format", "q"]) == {"qcow2", "qed"}
    assert complete(["sternactl", "jobs", "p"]) == {"pause"}
    assert complete(["sternactl", "copy", "d", "stern"]) == {"sternactl"}      # a file
    assert complete(["sternactl", "status", ""]) == set()


def test_completion_knows_which_options_have_values():
    with open(os.path.join(TOP, "completions/sternactl"), encoding="utf-8") as f:
        text = f.read()
    have = set(re.findall(r"--[a-z-]+", re.search(r"-s \| --socket\).*?\n *(--.*?)\)", text, flags=re.S).group(1))) | {"--socket"}
    assert have == {o.split()[0] for options in helped().values() for o in options if " " in o}
    assert helped()["jobs [watch | ACTION ID | speed ID RATE]"]


def test_completion_asks_the_machine(ctl):
    m = ctl(qtest=False)
    m.qmp.cmd("block-stream", job_id="some-job", device="d0", speed=65536)
    env = {"STERNA_SOCKET": m.socket}
    assert complete(["sternactl", "copy", ""], env) == {"disk0"}
    assert complete(["sternactl", "-s", m.socket, "stream", "d"]) == {"disk0"}
    assert complete(["sternactl", "wait", ""], env) == {"some-job"} == complete(["sternactl", "jobs", "cancel", ""], env)
    assert {"machine", "blockdev", "device"} <= complete(["sternactl", "state", ""], env)
    assert complete(["sternactl", "state", "device", "d"], env) == {"disk0"} and complete(["sternactl", "state", "device", "disk0", ""], env) == set()
    assert {"query-block", "query-block-jobs"} <= complete(["sternactl", "qmp", "query-bl"], env)
    assert complete(["sternactl", "copy", ""], {"STERNA_SOCKET": "/nowhere"}) == set()
