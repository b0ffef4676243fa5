# SPDX-License-Identifier: BSD-2-Clause
"""--help against the manual page, both ways."""
import os, re, subprocess

from sterna import TOP, program, run

PAGE = os.path.join(TOP, "docs/man/sterna-state.1")


def helped():
    """{"dump FILE": {"--device PATH", …}, …}"""
    out, at = {}, None
    for line in run(program("sterna-state"), "--help").ok().out.splitlines():
        if m := re.match(r"  ([a-z-]+(?: [A-Z12\[\] ]+?)?)(?:  |$)", line):
            at = out[m.group(1).rstrip()] = set()
        elif m := re.match(r"      (?:-M, )?(--[a-z-]+(?: [A-Z]+)?) ", line):
            at.add(m.group(1))
    return out


def paged():
    with open(PAGE, encoding="utf-8") as f:
        text = f.read().replace("\\-", "-")
    out, at = {}, set()
    for line in text.splitlines():
        if m := re.match(r"\.SS (.*)", line):
            at = out[m.group(1)] = set()
        elif re.match(r"\.SH", line):
            at = set()
        elif m := re.match(r'\.BR (--[a-z-]+)(?: " \\fI([A-Z]+)\\fR")?$', line):
            at.add(m.group(1) + (f" {m.group(2)}" if m.group(2) else ""))
    return out


def test_help_and_manual_page_say_the_same():
    assert helped() == paged() and len(helped()) == 11


def test_the_pages_are_well_formed():
    for page in PAGE, os.path.join(TOP, "docs/man/libsternastate.3"):
        r = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page], capture_output=True, text=True)
        assert r.returncode == 0 and r.stderr == ""


def test_usage(tmp_path):
    tool = program("sterna-state")
    assert run(tool, "--version").ok().out == "sterna-state version 0.1.0\n"
    for args, text in [
        ([], "a verb is missing"),
        (["dmp"], "there is no verb 'dmp': did you mean 'dump'?"),
        (["dump"], "sterna-state dump: the operands are: FILE"),
        (["info", "a", "b"], "the operands are: FILE"),
        (["schema", "a"], "the operands are: none"),
        (["info", "a", "--chunks"], "option '--chunks' is not for this verb"),
        (["info", "a", "--nonsense"], "unrecognized option '--nonsense'"),
        (["info", "a", "--output=xml"], "--output must be human or json, not 'xml'"),
        (["convert", "a", "b", "--compress", "20"], "--compress takes 1 to 19, not '20'"),
        (["convert", "a"], "an output file is missing"),
        (["convert", "a", "b", "--dry-run"], "--dry-run writes nothing"),
    ]:
        r = run(tool, *args, cwd=tmp_path)
        assert (r.rc, r.out) == (2, "") and text in r.err and r.err.startswith("sterna-state"), args
