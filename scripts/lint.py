#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Check what the compiler does not: directions of includes, size budgets, licence lines, mutable globals, format.

    scripts/lint.py [--objects BUILD] [CHECK ...]      checks: layers budgets spdx headers tour format globals

Prints one line per finding, "file:line: what", and exits with 1 when there is one.
"""
import argparse, functools, os, re, subprocess, sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# A folder may include only itself and what stands before it; folders on one line of "siblings" may not include each other.
LAYERS = ["base", "loop", "crypto", "char", "block", "job", "export", "state", "guest", "cpu", "net", "device", "machine", "move",
          "config",
          "schema", "monitor", "cli"]
MAX_FUNCTION, MAX_FILE, MAX_PARAMS = 70, 1000, 6
findings = []


def find(path, line, text):
    findings.append(f"{path}:{line}: {text}")


@functools.cache
def tree():
    """Every file that belongs to the tree: git knows; a tree that came without git has no build folders to leave out but ours."""
    try:
        out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
        found = out.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found = [os.path.relpath(os.path.join(d, n), ROOT) for d, _, names in os.walk(ROOT) for n in names]
        found = [f for f in found if not f.startswith(("build", ".git/"))]
    return sorted(f for f in found if os.path.exists(os.path.join(ROOT, f)))


def files(*suffixes, under=""):
    return [f for f in tree() if f.endswith(suffixes) and f.startswith(under and under + "/")]


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def exempt(kind):
    """Lines "kind path name  # why" of scripts/budget-exempt.txt."""
    out = set()
    for line in read("scripts/budget-exempt.txt").splitlines():
        words = line.split("#")[0].split()
        if words and words[0] == kind:
            out.add(tuple(words[1:]))
    return out


def check_layers():
    for path in files(".c", ".h", ".def", under="src"):
        folder = path.split("/")[1]
        for n, line in enumerate(read(path).splitlines(), 1):
            m = re.match(r'\s*#\s*include\s+"([^"]+)"', line)
            if not m:
                continue
            target = m.group(1).split("/")[0]
            if "/" not in m.group(1):
                find(path, n, f'include "{m.group(1)}" must name its folder')
            elif target not in LAYERS:
                find(path, n, f"unknown folder '{target}'")
            elif LAYERS.index(target) > LAYERS.index(folder):
                find(path, n, f"'{folder}' may not include '{target}', which stands below it")


def strip_comments(text):
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def functions(text):
    """(name, first line, number of lines, number of parameters) of each definition whose brace stands in column 0."""
    clean = strip_comments(text)
    lines = clean.splitlines()
    for i, line in enumerate(lines):
        if line.rstrip() != "{":
            continue
        head, j = "", i - 1
        while j >= 0 and lines[j].strip() and not lines[j].rstrip().endswith((";", "}")) and not lines[j].startswith("#"):
            head = lines[j] + " " + head
            j -= 1
        m = re.search(r"(\w+)\s*\((.*)\)\s*$", head.strip())
        if not m:
            continue
        # the parameter list is the last balanced pair of parentheses
        depth, k = 0, len(head.rstrip()) - 1
        for k in range(len(head.rstrip()) - 1, -1, -1):
            depth += (head[k] == ")") - (head[k] == "(")
            if depth == 0:
                break
        args, name = head.rstrip()[k + 1:-1], re.search(r"(\w+)\s*$", head[:k])
        depth, count = 0, 0 if args.strip() in ("", "void") else 1
        for c in args:
            depth += (c == "(") - (c == ")")
            count += c == "," and depth == 0
        end = next((e for e in range(i, len(lines)) if lines[e].rstrip() == "}"), i)
        yield (name.group(1) if name else "?"), i + 1, end - i + 1, count


def check_budgets():
    skip_fn, skip_file = exempt("function"), exempt("file")
    for path in files(".c", ".h", under="src") + files(".c", ".h", under="tests") + files(".c", under="examples"):
        text = read(path)
        n = text.count("\n")
        if n > MAX_FILE and (path,) not in skip_file:
            find(path, n, f"{n} lines, the budget is {MAX_FILE}")
        for name, line, length, params in functions(text):
            if length > MAX_FUNCTION and (path, name) not in skip_fn:
                find(path, line, f"{name}() has {length} lines, the budget is {MAX_FUNCTION}")
            if params > MAX_PARAMS and (path, name) not in exempt("params"):
                find(path, line, f"{name}() has {params} parameters, the budget is {MAX_PARAMS}")


def check_spdx():
    for path in files(".c", ".h", ".S", ".py", ".sh", ".def", "meson.build") + ["bootstrap", "check", "demo", "bench", ".ci/run"]:
        head = "\n".join(read(path).splitlines()[:3])
        if "SPDX-License-Identifier: BSD-2-Clause" not in head:
            find(path, 1, "no SPDX line: BSD-2-Clause")


def check_headers():
    for path in files(".c", under="src"):
        own = path[len("src/"):-1] + "h"
        if not os.path.exists(os.path.join(ROOT, "src", own)):
            continue
        first = re.search(r'^\s*#\s*include\s+[<"]([^>"]+)', read(path), flags=re.M)
        if first and first.group(1) != own:
            find(path, 1, f'own header "{own}" must be the first include')
    for path in files(".h", under="src"):
        if "#pragma once" not in read(path):
            find(path, 1, "no #pragma once")


def check_tour():
    named = {}  # path -> line; "`src/base/err.h`, `.c`" names two files
    for n, line in enumerate(read("docs/tour.md").splitlines(), 1):
        stem = None
        for word in re.findall(r"`(src/[\w./-]+\.\w+|\.\w+)`", line):
            if not word.startswith("."):
                stem = os.path.splitext(word)[0]
            if stem:
                named[stem + os.path.splitext("x" + word if word.startswith(".") else word)[1]] = n
    have = set(files(".c", ".h", ".def", ".S", under="src"))
    for path in sorted(have - set(named)):
        find(path, 1, "docs/tour.md does not name this file")
    for path in sorted(set(named) - have):
        find("docs/tour.md", named[path], f"{path} does not exist")


def check_format():
    paths = files(".c", ".h", under="src") + files(".c", ".h", under="tests") + files(".c", under="examples")
    try:
        version = subprocess.run(["clang-format", "--version"], capture_output=True, text=True).stdout
    except OSError:
        version = "none"
    if " 14." not in version:  # other versions break lines elsewhere
        print(f"lint: the format has not been checked: that takes clang-format 14, not {version.strip()}")
        return
    r = subprocess.run(["clang-format", "--dry-run", "--Werror", "--ferror-limit=1", *paths], cwd=ROOT, capture_output=True, text=True)
    for line in r.stderr.splitlines():
        m = re.match(r"(.*?):(\d+):\d+: error: code should be clang-formatted", line)
        if m:
            find(m.group(1), m.group(2), "run clang-format -i on it")


def check_globals(build):
    for d, _, names in os.walk(os.path.join(build, "src")):
        for n in names:
            if not n.endswith(".o"):
                continue
            out = subprocess.run(["objdump", "-t", os.path.join(d, n)], capture_output=True, text=True).stdout
            for line in out.splitlines():
                m = re.match(r"[0-9a-f]+ \S*\s+\S*\s*O (\.data|\.bss|\.data\.(?!rel\.ro)\S*|\.bss\.\S*)\s+[0-9a-f]+ (?:\.hidden )?(\S+)", line)
                if m and not re.match(r"(__|\.L|asan|_ZL)", m.group(2)):
                    find(os.path.relpath(os.path.join(d, n), build), 1, f"mutable global '{m.group(2)}'")


def main():
    checks = ["layers", "budgets", "spdx", "headers", "tour", "format"]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--objects", metavar="BUILD", help="build folder whose object files are searched for mutable globals")
    p.add_argument("checks", nargs="*", metavar="CHECK", help=" ".join(checks))
    a = p.parse_args()
    for c in a.checks or ([] if a.objects else checks):
        globals()["check_" + c]()
    if a.objects:
        check_globals(a.objects)
    print("\n".join(findings) if findings else "lint: clean")
    sys.exit(1 if findings else 0)


main()
