#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Add up test results: scripts/summary.py FOLDER, which holds *.json of meson's testlog form (an object a line).

cmocka's and pytest's own counts inside a test's output are used where there are any, so that the numbers speak of
cases. Skips are listed with their reasons. Exit status 1 when anything failed or nothing ran.
"""
import glob, json, os, re, sys

passed = failed = skipped = 0
notes = []
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.json"))):
    for line in open(path, encoding="utf-8"):
        t = json.loads(line)
        out, name = t.get("stdout") or "", t["name"]
        where = f"{os.path.basename(path)[:-5]}: {name}"
        p = f = s = 0
        for m in re.finditer(r"^(?:=+ )?((?:\d+ (?:passed|failed|skipped|errors?|warnings?|xfailed|deselected)(?:, )?)+) in [\d.]+s", out, flags=re.M):
            for n, what in re.findall(r"(\d+) (\w+)", m.group(1)):
                p, f, s = p + int(n) * (what == "passed"), f + int(n) * (what in ("failed", "error", "errors")), s + int(n) * (what == "skipped")
        for n in re.findall(r"\[  PASSED  \] (\d+) test", out + (t.get("stderr") or "")):
            p += int(n)
        for n in re.findall(r"\[  SKIPPED \] (\d+) test", out + (t.get("stderr") or "")):
            s += int(n)
        for m in re.finditer(r"^SKIPPED \[\d+\] (.*)$", out, flags=re.M):
            notes.append(f"skipped: {where}: {m.group(1)}")
        if t["result"] == "OK":
            passed += max(p, 1) if not s else p
            skipped += s
        elif t["result"] == "SKIP":
            skipped += 1
            notes.append(f"skipped: {where}: {(out.strip().splitlines() or ['no reason given'])[-1]}")
        elif t["result"] not in ("EXPECTEDFAIL",):
            passed, skipped, failed = passed + p, skipped + s, failed + max(f, 1)
            notes.append(f"FAILED: {where} ({t['result']})")
print("\n".join(notes))
print(f"{passed} passed, {failed} failed, {skipped} skipped")
sys.exit(1 if failed or not passed else 0)
