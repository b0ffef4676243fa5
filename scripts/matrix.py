#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Makes docs/matrix.md from the table that the tests try (tests/lib/matrix.py).

    scripts/matrix.py           writes it
    scripts/matrix.py --check   says whether it is as the table is
"""
import os, sys

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests", "lib"))
from matrix import OPERATIONS, WAITS, outcome  # noqa: E402

PAGE = os.path.join(TOP, "docs", "matrix.md")


def page():
    notes = {}
    out = ["# Everything with everything", "",
           "Made by `scripts/matrix.py` from `tests/lib/matrix.py`; `tests/cli/sterna/test_matrix.py` tries every pair on a disk that is being",
           "written to, jobs in both orders of their ends.", "",
           "A row is what was begun first and is still going on, or has been done; a column is what is asked for then. **+**: both proceed, and",
           "every image holds what it should. A number: the second is refused at once with an error that names the first, for the reason below. **w**:",
           "both proceed, but as the snapshot needs the images below as they are, the job writes nothing more to them until the snapshot is",
           "deleted (`wait-reason` says so). A stream copies what snapshots need of the images below, too.", "",
           "| | " + " | ".join(OPERATIONS) + " |", "|---|" + "---|" * len(OPERATIONS)]
    for first in OPERATIONS:
        cells = []
        for second in OPERATIONS:
            why = outcome(first, second)
            cells.append(str(notes.setdefault(why, len(notes) + 1)) if why else "w" if (first, second) in WAITS else "+")
        out.append(f"| **{first}** | " + " | ".join(cells) + " |")
    out += [""] + [f"{i}. {why[0].upper() + why[1:]}." for why, i in notes.items()] + [""]
    out += [f"- **{name}**: {what}" for name, what in OPERATIONS.items()]
    return "\n".join(out) + "\n"


def main(args):
    if args == ["--check"]:
        with open(PAGE, encoding="utf-8") as f:
            if f.read() == page():
                return 0
        print(f"{PAGE}: not as the table is; run scripts/matrix.py", file=sys.stderr)
        return 1
    with open(PAGE, "w", encoding="utf-8") as f:
        f.write(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
