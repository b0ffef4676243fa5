# SPDX-License-Identifier: BSD-2-Clause
"""Twin folders: the same commands run by qemu-img in one and by sterna-img, called qemu-img, in the other."""
import os, re, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), "lib"))
from sterna import alias, reference, run

# What may differ without anybody minding: host allocation, times, and the times that bench takes.
FREE = [
    (re.compile(r'^disk size: .*$', re.M), "disk size: N"),
    (re.compile(r'"actual-size": \d+'), '"actual-size": N'),
    (re.compile(r"Run completed in [\d.]+ seconds"), "Run completed in N seconds"),
    # where clusters lie in the file is each implementation's own choice
    (re.compile(r"^Image end offset: \d+$", re.M), "Image end offset: N"),
    (re.compile(r'"image-end-offset": \d+'), '"image-end-offset": N'),
    # how often progress is shown depends on the size of requests
    (re.compile(r"(    \([\d.]+/100%\)\r)+(?=    \(100\.00/100%\)\r)"), ""),
    (re.compile(r"(    \(100\.00/100%\)\r)+"), "PROGRESS\r"),
]


def plain(text, *more):
    for pattern, replacement in [*FREE, *more]:
        text = pattern.sub(replacement, text)
    return text.rstrip("\n")


class Twins:
    def __init__(self, tmp_path):
        self.qemu = reference("qemu-img")
        self.ours = alias(tmp_path, "qemu-img", "sterna-img")
        self.theirs_dir, self.ours_dir = str(tmp_path / "theirs"), str(tmp_path / "ours")
        os.mkdir(self.theirs_dir)
        os.mkdir(self.ours_dir)
        self.log = []

    def both(self, *args):
        return run(self.qemu, *args, cwd=self.theirs_dir), run(self.ours, *args, cwd=self.ours_dir)

    def same(self, *args, ignore=()):
        """Runs it on both sides; output and exit code must agree. Returns ours."""
        theirs, ours = self.both(*args)
        what = " ".join(map(str, args))
        assert plain(ours.err, *ignore) == plain(theirs.err, *ignore), f"standard error of: {what}"
        assert plain(ours.out, *ignore) == plain(theirs.out, *ignore), f"output of: {what}"
        assert ours.rc == theirs.rc, f"exit code of: {what}"
        return ours

    def put(self, name, data):
        for folder in (self.theirs_dir, self.ours_dir):
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)

    def sparse(self, name, size, pieces=()):
        """A raw file with `pieces` of (offset, bytes)."""
        for folder in (self.theirs_dir, self.ours_dir):
            with open(os.path.join(folder, name), "wb") as f:
                for offset, data in pieces:
                    f.seek(offset)
                    f.write(data)
                f.truncate(size)

    def copy_theirs(self, name):
        run("cp", "--sparse=auto", os.path.join(self.theirs_dir, name), os.path.join(self.ours_dir, name)).ok()

    def share_theirs(self, name):
        """One and the same file on both sides, holes and all: for what only looks."""
        ours = os.path.join(self.ours_dir, name)
        if os.path.exists(ours):
            os.unlink(ours)
        os.link(os.path.join(self.theirs_dir, name), ours)

    def io(self, image, *commands, copy=True):
        """Fills theirs with qemu-io and gives ours the same file."""
        words = [w for c in commands for w in ("-c", c)]
        run(reference("qemu-io"), *words, image, cwd=self.theirs_dir).ok()
        self.copy_theirs(image) if copy else self.share_theirs(image)

    def equal(self, name, fmt=None):
        """Both folders' images have the same contents, and both tools find ours and theirs sound."""
        a, b = os.path.join(self.theirs_dir, name), os.path.join(self.ours_dir, name)
        f = ["-f", fmt, "-F", fmt] if fmt else []
        for tool in (self.qemu, self.ours):
            r = run(tool, "compare", *f, a, b, cwd=self.ours_dir)
            assert r.rc == 0, f"{tool} compare: {r.out}{r.err}"
        for tool in (self.qemu, self.ours):
            for path in (a, b):
                r = run(tool, "check", path, cwd=os.path.dirname(path))
                assert r.rc in (0, 63), f"{tool} check {path}: {r.out}{r.err}"
