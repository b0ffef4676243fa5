#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""What clang warns of, without making anything: scripts/clang_warnings.py BUILD, a build folder of gcc's. Every source of it is read with
the options that it is compiled with. Exit status 1 when there is any warning."""
import concurrent.futures, json, os, shlex, subprocess, sys

DROPPED = ("-o", "-MF", "-MQ")  # with the word that follows
CLANG = ["clang", "-fsyntax-only", "-Wno-unknown-warning-option"]


def words(entry):
    given = shlex.split(entry["command"])
    while not given[0].startswith("-"):  # ccache, cc
        given = given[1:]
    dropped = {i + k for i, w in enumerate(given) if w in DROPPED for k in (0, 1)}
    # how gcc is to generate code is nothing to clang
    return [w for i, w in enumerate(given) if i not in dropped and w not in ("-MD", "-c") and not w.startswith("-f")]


def warnings(entry):
    p = subprocess.run([*CLANG, *words(entry)], cwd=entry["directory"], capture_output=True, text=True)
    return p.stderr if p.returncode else ""


def main(build):
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as f:
        entries = [e for e in json.load(f) if e["file"].endswith(".c")]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        texts = [t for t in pool.map(warnings, entries) if t]
    print("\n".join(texts) or f"clang: no warning in {len(entries)} sources")
    return 1 if texts or not entries else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
