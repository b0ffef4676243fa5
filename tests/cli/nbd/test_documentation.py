# SPDX-License-Identifier: BSD-2-Clause
"""--help against the manual page, both ways; every option is known, and no other."""
import os, re

from sterna import TOP, alias, program, run

OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def helped():
    lines = run(program("sterna-nbd"), "--help").ok().out.splitlines()
    return {o for line in lines for o in OPTION.findall(re.match(r"  +((-\w, )?--[\w-]+)|", line).group(1) or "")}


def paged():
    with open(os.path.join(TOP, "docs/man/sterna-nbd.1"), encoding="utf-8") as f:
        text = f.read().replace("\\-", "-")
    return {o for line in re.findall(r"^\.TP\n\.BR (.*)$", text, flags=re.M) for o in OPTION.findall(line.split('" \\fI')[0].replace("\\fI", " "))}


def test_help_and_manual_page_list_the_same_options():
    assert helped() == paged() and len(helped()) > 50


def test_every_listed_option_is_accepted_and_no_other(tmp_path):
    options = helped()
    for letter in "abcdefgijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUWXYZ":
        r = run(program("sterna-nbd"), "-" + letter, "0", "a", "b", cwd=tmp_path)
        assert ("invalid option" in r.err) == ("-" + letter not in options), letter
    for name in (o for o in options - {"--help", "--version"} if o.startswith("--")):
        r = run(program("sterna-nbd"), name, "0", "a", "b", cwd=tmp_path)
        assert r.rc == 1 and "unrecognized" not in r.err, name


def test_the_name_it_is_called_by_begins_its_messages(tmp_path):
    assert run(alias(tmp_path, "qemu-nbd", "sterna-nbd"), "--nonsense").err.startswith(f"{tmp_path}/bin/qemu-nbd: unrecognized")
    assert run(alias(tmp_path, "qemu-nbd", "sterna-nbd"), "-V").out.startswith("qemu-nbd version ")
    assert run(program("sterna-nbd"), "--version").ok().out.startswith("sterna-nbd version ")
