# SPDX-License-Identifier: BSD-2-Clause
"""--help against the manual page, both ways; the names it can be called by."""
import os, re, subprocess

import pytest
from sterna import TOP, alias, program, run

PAGE = os.path.join(TOP, "docs/man/sterna-img.1")
OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def listed():
    """verb → (usage, its options) of --help."""
    out = run(program("sterna-img"), "--help").ok().out
    lines = out.split("Command syntax:\n")[1].split("\n\n")[0].splitlines()
    verbs = dict(line.strip().split(" ", 1) for line in lines)
    return {v: (u, set(OPTION.findall(u))) for v, u in verbs.items()}


def page():
    """verb → (synopsis, options in it, options described), and the options that several verbs have."""
    with open(PAGE, encoding="utf-8") as f:
        text = f.read().replace("\\-", "-")
    described = lambda part: set(OPTION.findall(" ".join(re.findall(r"^\.TP\n\.BI? (\S+)", part, flags=re.M))))
    common = described(text.split(".SH OPTIONS OF SEVERAL COMMANDS\n")[1].split(".SH ")[0])
    verbs = {}
    for part in text.split(".SH COMMANDS\n")[1].split(".SH ")[0].split(".SS ")[1:]:
        verb, head, synopsis = part.splitlines()[:3]
        assert head == f".B sterna-img {verb}"
        verbs[verb] = (synopsis, set(OPTION.findall(synopsis)), described(part))
    return verbs, common


def test_help_and_manual_page_list_the_same_commands_and_options():
    helped, (paged, _) = listed(), page()
    assert helped.keys() == paged.keys()
    for verb in helped:
        assert helped[verb][0] == paged[verb][0], verb


def test_every_option_is_described_and_nothing_else_is():
    paged, common = page()
    for verb, (_, options, described) in paged.items():
        assert options - described - common == set(), verb
        assert described - options == set(), verb
    assert common - set.union(*(o for _, o, _ in paged.values())) == set()


def test_every_listed_option_is_accepted_and_no_other(tmp_path):
    """An option is known when what is wrong with the command line is something else."""
    for verb, (_, options) in listed().items():
        for letter in "abcdefgijklmnoprstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ":
            r = run(program("sterna-img"), verb, "-" + letter, "x", cwd=tmp_path)
            unknown = f"unrecognized option '-{letter}'" in r.err
            hidden = {"map": {"s", "l"}}.get(verb, set())
            assert unknown == ("-" + letter not in options and letter not in hidden), f"{verb} -{letter}: {r.err}"
        for name in (o for o in options if o.startswith("--")):
            assert "unrecognized option" not in run(program("sterna-img"), verb, name, "x", cwd=tmp_path).err, f"{verb} {name}"


def test_manual_page_has_no_warnings():
    r = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", PAGE], capture_output=True, text=True, env={**os.environ, "MANWIDTH": "200"})
    assert r.returncode == 0 and r.stderr == ""


def test_version_under_both_names(tmp_path):
    assert run(program("sterna-img"), "--version").ok().out.startswith("sterna-img version 0.1.0")
    assert run(alias(tmp_path, "qemu-img", "sterna-img"), "-V").ok().out.startswith("qemu-img version 10.0.0 (Sterna 0.1.0)")


def test_messages_begin_with_the_name_it_was_called_by(tmp_path):
    for name in ("sterna-img", "qemu-img", "something"):
        r = run(alias(tmp_path, name, "sterna-img"), "info", "nosuch", cwd=tmp_path)
        assert r.err == f"{name}: Could not open 'nosuch': Could not open 'nosuch': No such file or directory\n"
        r = run(alias(tmp_path, name, "sterna-img"))
        assert r.err == f"{name}: Not enough arguments\nTry '{name} --help' for more information\n"


def test_help_goes_with_a_command_too():
    whole = run(program("sterna-img"), "--help").ok().out
    for verb in listed():
        assert run(program("sterna-img"), verb, "--help").ok().out == whole


@pytest.mark.parametrize("engine", ["uring", "epoll"])
def test_both_engines_of_the_loop(tmp_path, engine):
    img, env = program("sterna-img"), {"STERNA_LOOP": engine}
    with open(tmp_path / "r", "wb") as f:
        f.write(os.urandom(3_000_832))
    r = run(img, "convert", "-f", "raw", "-O", "qcow2", "r", "q", cwd=tmp_path, env=env)
    if r.rc and "io_uring" in r.err:
        pytest.skip("io_uring is not allowed here")
    r.ok()
    assert run(img, "compare", "-f", "raw", "r", "q", cwd=tmp_path, env=env).ok().out == "Images are identical.\n"


def test_output_that_cannot_be_written_is_an_error():
    with open("/dev/full", "w") as full:
        p = subprocess.run([program("sterna-img"), "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 1 and "No space left on device" in p.stderr


def test_the_manual_page_has_every_option_of_every_format_and_no_other():
    with open(PAGE, encoding="utf-8") as f:
        text = f.read().replace("\\-", "-")
    formats = text.split(".SH FORMATS\n")[1].split(".SH ")[0]
    pages = {part.splitlines()[0]: set(re.findall(r"^\.TP\n(?:\.PD\n)?\.BI? ([\w.-]+)=", part, flags=re.M)) for part in formats.split(".SS ")[1:]}
    for fmt, paged in pages.items():
        target = ["x"] if fmt == "raw" else []  # with what files know
        out = run(program("sterna-img"), "create", "-f", fmt, "-o", "help", *target).ok().out
        assert set(re.findall(r"^  ([\w.-]+)=", out, flags=re.M)) == paged, fmt
    said = run(program("sterna-img"), "amend", "-f", "qcow2", "-o", "help").ok().out
    names = {n for n in re.findall(r"^  ([\w.-]+)=", said, flags=re.M) if not n.startswith(("encrypt.", "backing_", "data_file_raw"))}
    for name in names:
        assert re.search(rf"^\.BI? {re.escape(name)}= \w+\n(?:(?!\.TP|\.SS).*\n)*.*[Aa]mended", formats, flags=re.M), name


def test_examples_of_the_manual_page_work(tmp_path):
    with open(PAGE, encoding="utf-8") as f:
        text = f.read().replace("\\-", "-").replace("/other/", "other-")
    for name, password in (("pw", "one"), ("new", "two")):
        (tmp_path / name).write_text(password)
    run("truncate", "-s", "1M", tmp_path / "disk.raw").ok()
    alias(tmp_path, "sterna-img", "sterna-img")
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    run("sterna-img", "create", "-q", "--object", "secret,id=k,file=pw", "-f", "luks", "-o", "key-secret=k,iter-time=10", "v.luks", "1M", cwd=tmp_path, env=env).ok()
    examples = [line for part in re.findall(r"^\.nf\n(.*?)^\.fi", text, flags=re.S | re.M) for line in part.splitlines()]
    assert len(examples) > 10
    for line in examples:
        if "nbd" not in line:
            short = line.replace("encrypt.format=luks,", "encrypt.format=luks,encrypt.iter-time=10,").replace("new-secret=n", "new-secret=n,iter-time=10")
            run("sh", "-c", short.replace("20G", "20M").replace("+10G", "+10M"), cwd=tmp_path, env=env).ok()
            if line.startswith("sterna-img amend"):
                os.unlink(tmp_path / "disk.qcow2")


def test_long_names_are_those_of_the_page(tmp_path):
    """Each does what its letter does: what is wrong with the command line is told in the same words."""
    with open(PAGE, encoding="utf-8") as f:
        text = f.read().replace("\\-", "-").split(".SH LONG NAMES OF OPTIONS\n")[1].split(".SH ")[0]
    names = 0
    for part in text.split(".TP\n.B ")[1:]:
        verb, rest = part.split("\n", 1)
        for letter, name in re.findall(r"\\fB-(\w)\\fR \\fB--([\w-]+)\\fR", rest):
            short, long = (run(program("sterna-img"), verb, o, "x", "y", "z", cwd=tmp_path) for o in ("-" + letter, "--" + name))
            assert (long.rc, long.out, long.err) == (short.rc, short.out, short.err) and "unrecognized option" not in long.err, f"{verb} --{name}"
            names += 1
    assert names > 70
