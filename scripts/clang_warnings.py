#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""What clang warns of, without making anything: scripts/clang_warnings.py BUILD, a build folder of gcc's. Every source of it is read with
the options that it is compiled with. Exit status 1 when there is any warning, 77 where there is no clang."""
import concurrent.futures, json, os, shlex, shutil, subprocess, sys, tempfile

DROPPED = ("-o", "-MF", "-MQ")  # with the word that follows
CLANG = ["clang", "-Wno-unknown-warning-option"]
READ_ONCE = "#include <glib.h>\n#include <json-c/json.h>\n"  # nearly every source has these, and they are the most of what is read


def words(entry):
    given = shlex.split(entry["command"])
    while not given[0].startswith("-"):  # ccache, cc
        given = given[1:]
    dropped = {i + k for i, w in enumerate(given) if w in DROPPED for k in (0, 1)}
    # how gcc is to generate code is nothing to clang
    return [w for i, w in enumerate(given) if i not in dropped and w not in ("-MD", "-c") and not w.startswith("-f")]


def options(entry):
    """What a header that was read with the same may be taken from: all but the source and the project's own folders."""
    return tuple(w for w in words(entry) if w != entry["file"] and not (w.startswith("-I") and not w.startswith("-I/usr")))


def read_once(folder, entries):
    """A precompiled header for each set of options; none where they do not find those headers."""
    made = dict.fromkeys(map(options, entries))
    for i, with_these in enumerate(made):
        source, header = os.path.join(folder, f"{i}.h"), os.path.join(folder, f"{i}.pch")
        with open(source, "w", encoding="utf-8") as f:
            f.write(READ_ONCE)
        if not subprocess.run([*CLANG, *with_these, "-x", "c-header", source, "-o", header], capture_output=True).returncode:
            made[with_these] = header
    return made


def warnings(entry, header):
    once = ["-include-pch", header] if header else []
    p = subprocess.run([*CLANG, "-fsyntax-only", *once, *words(entry)], cwd=entry["directory"], capture_output=True, text=True)
    return p.stderr if p.returncode else ""


def main(build):
    if not shutil.which(CLANG[0]):
        print("clang is not installed")
        return 77
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        entries = [e for e in json.load(f) if e["file"].endswith(".c")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool, tempfile.TemporaryDirectory() as folder:
        headers = read_once(folder, entries)
        texts = [t for t in pool.map(lambda e: warnings(e, headers[options(e)]), entries) if t]
    print("\n".join(texts) or f"clang: no warning in {len(entries)} sources")
    return 1 if texts or not entries else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
