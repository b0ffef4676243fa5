# SPDX-License-Identifier: BSD-2-Clause
"""--help and help against the manual page, both ways; the names it can be called by."""
import os, re, subprocess

import pytest
from sterna import TOP, alias, program, run

PAGE = os.path.join(TOP, "docs/man/sterna-io.1")


def io(*args, **more):
    return run(program("sterna-io"), *args, **more)


def text():
    with open(PAGE, encoding="utf-8") as f:
        return f.read().replace("\\-", "-")


def section(name):
    return text().split(f".SH {name}\n")[1].split(".SH ")[0]


def described(part):
    """The options that a part of the page explains: the words that begin with a dash in what follows .TP."""
    heads = " ".join(re.findall(r"^\.TP\n(.*)$", part, flags=re.M))
    return set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", heads))


def listed():
    """command → its arguments, of help."""
    lines = io("-c", "help").ok().out.split("\n\n")[0].splitlines()
    return dict(re.fullmatch(r"(\w+) (.*?) ?-- .*", line).groups() for line in lines)


def page():
    """command → (arguments, the part of the page)."""
    commands = {}
    for part in section("COMMANDS").split(".SS ")[1:]:
        name, head, arguments = (part + "\n").splitlines()[:3]
        assert head == f".B {name}"
        commands[name] = ("" if arguments == ".PP" else arguments, part)
    return commands


def letters(arguments):
    """-rsC → {-r, -s, -C}"""
    return {"-" + c for word in re.findall(r"(?<=[\[(| ])-(\w+)|^-(\w+)", arguments) for c in "".join(word)}


def test_help_and_manual_page_list_the_same_options():
    helped = set(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*(?=[\s,=])", "\n".join(re.findall(r"^  (-.*?)(?:  |$)", io("--help").ok().out, flags=re.M)) + "\n"))
    assert helped == described(section("OPTIONS"))


def test_every_listed_option_is_taken_and_no_other():
    known = described(section("OPTIONS"))
    for letter in "abcdefgijklmnopqrstuvwxyzABCDEFGIJKLMNOPQRSTUWXYZ":
        unknown = "invalid option" in io("-" + letter, "x", "-c", "quit").err
        assert unknown == ("-" + letter not in known), letter
    for name in (o for o in known if o.startswith("--")):
        assert "unrecognized option" not in io(name, "x", "-c", "quit").err, name


def test_help_and_manual_page_list_the_same_commands():
    helped, paged = listed(), page()
    assert list(helped) == list(paged)
    for name in helped:
        if name != "sleep": # whose argument help does not show
            assert helped[name] == paged[name][0], name


def test_every_option_of_commands_is_described():
    common, of_open = described(section("OPTIONS OF SEVERAL COMMANDS")), described(section("OPTIONS"))
    for name, (arguments, part) in page().items():
        taken, told = letters(arguments), described(part)
        assert taken - told - common - (of_open if name == "open" else set()) == set(), name
        assert told - taken == set(), name


def test_commands_take_what_they_list(tmp_path):
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(65536)
    for name, arguments in listed().items():
        for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
            known = "-" + c in letters(arguments) and (name, c) != ("read", "a")
            hidden = (name, c) in {("read", "p"), ("write", "p"), ("open", "i")}
            if letters(arguments) and name not in ("sigraise",):
                err = io("-f", "raw", "disk", "-c", f"{name} -{c} 0 1", cwd=tmp_path).err
                assert ("invalid option" in err) == (not known and not hidden), f"{name} -{c}: {err}"


def test_aliases_are_in_the_page():
    for alias_name in "acdfilorqtw?":
        name = io("-c", f"help {alias_name}").ok().out.split()[0]
        assert name == alias_name
        assert re.search(rf"Also called\n\.BR? {re.escape(alias_name)}( \.)?$", text(), flags=re.M), alias_name


def test_manual_page_has_no_warnings():
    r = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", PAGE], capture_output=True, text=True, env={**os.environ, "MANWIDTH": "200"})
    assert r.returncode == 0 and r.stderr == ""


def test_version_under_both_names(tmp_path):
    assert io("--version").ok().out.startswith("sterna-io version 0.1.0")
    assert run(alias(tmp_path, "qemu-io", "sterna-io"), "-V").ok().out.startswith("qemu-io version 10.0.0 (Sterna 0.1.0)")


def test_messages_and_prompt_begin_with_the_name_it_was_called_by(tmp_path):
    for name in ("sterna-io", "qemu-io", "something"):
        r = run(alias(tmp_path, name, "sterna-io"), "nosuch", cwd=tmp_path)
        assert r.err == f"{name}: can't open device nosuch: Could not open 'nosuch': No such file or directory\n"
        assert run(alias(tmp_path, name, "sterna-io"), stdin="quit\n").ok().out == f"{name}> "


@pytest.mark.parametrize("engine", ["uring", "epoll"])
def test_both_engines_of_the_loop(tmp_path, engine):
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(1 << 20)
    r = io("-f", "raw", "disk", "-c", "aio_write -P 3 0 64k", "-c", "aio_read 64k 64k", "-c", "aio_flush", "-c", "read -P 3 0 64k", cwd=tmp_path,
           env={"STERNA_LOOP": engine})
    if r.rc and "io_uring" in r.err:
        pytest.skip("io_uring is not allowed here")
    assert r.ok().out.count("65536/65536") == 3


def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        p = subprocess.run([program("sterna-io"), "-c", "help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and "No space left on device" in p.stderr
