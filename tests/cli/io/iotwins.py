# SPDX-License-Identifier: BSD-2-Clause
"""Twin folders: the same commands run by qemu-io in one and by sterna-io, called qemu-io, in the other."""
import os, re, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "lib"))
from sterna import alias, reference, run

# What may differ without anybody minding: times and what follows from them, and made-up node names.
FREE = [
    (re.compile(r"(\d+ ops); (\d+:\d\d:)?\d\d\.\d\d( sec)? \([\d.]+ ([KMGTPE]iB|bytes)/sec and [\d.]+ ops/sec\)"), r"\1; TIME"),
    (re.compile(r"^(\d+),(\d+),\d+:\d\d:\d\d\.\d\d,[\d.]+,[\d.]+$", re.M), r"\1,\2,TIME"),
    (re.compile(r"#block\d+"), "#blockNNN"),
]


def plain(text):
    for pattern, replacement in FREE:
        text = pattern.sub(replacement, text)
    return text


class IoTwins:
    def __init__(self, tmp_path):
        self.qemu = reference("qemu-io")
        self.ours = alias(tmp_path, "qemu-io", "sterna-io")
        self.img = reference("qemu-img")
        self.dirs = [str(tmp_path / "theirs"), str(tmp_path / "ours")]
        for d in self.dirs:
            os.mkdir(d)

    def raw(self, name="raw", size=1 << 20, data=b""):
        for d in self.dirs:
            with open(os.path.join(d, name), "wb") as f:
                f.write(data)
                f.truncate(max(size, len(data)))

    def create(self, *args):
        """qemu-img create … in both folders."""
        for d in self.dirs:
            run(self.img, "create", "-q", *args, cwd=d).ok()

    def put(self, name, data):
        for d in self.dirs:
            with open(os.path.join(d, name), "wb") as f:
                f.write(data)

    def get(self, name):
        both = []
        for d in self.dirs:
            with open(os.path.join(d, name), "rb") as f:
                both.append(f.read())
        return both

    def run(self, *args, stdin="", timeout=60, any_order=False):
        """Runs it on both sides; output and exit code must agree. Returns ours. any_order: where the prompt stands between
        what requests say, and which of them says it first, is a matter of time."""
        order = (lambda text: sorted(text.replace("qemu-io> ", "qemu-io>\n").splitlines())) if any_order else (lambda text: text)
        theirs = run(self.qemu, *args, cwd=self.dirs[0], stdin=stdin, timeout=timeout)
        ours = run(self.ours, *args, cwd=self.dirs[1], stdin=stdin, timeout=timeout)
        what = " ".join(args) + (f" < {stdin!r}" if stdin else "")
        assert order(plain(ours.out)) == order(plain(theirs.out)), f"output of: {what}"
        assert plain(ours.err) == plain(theirs.err), f"standard error of: {what}"
        assert ours.rc == theirs.rc, f"exit code of: {what}"
        return ours

    def same(self, image, *commands):
        """Each command in a process of its own: `image` are the arguments that name what to open."""
        for c in commands:
            self.run(*image, "-c", c)

    def script(self, image, *commands):
        """All commands in one process, by -c."""
        return self.run(*image, *(w for c in commands for w in ("-c", c)))
