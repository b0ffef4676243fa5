# SPDX-License-Identifier: BSD-2-Clause
"""Loop devices and file systems on them, for those tests that may make them; the others are skipped, and say so."""
import os, shutil

import pytest
from images import pieces
from sterna import run


class Loops:
    def __init__(self, folder):
        self.folder, self.made, self.mounted = folder, [], []

    def make(self, name, size=None, *flags):
        """The device of a file, made longer to `size`."""
        path = os.path.join(self.folder, name)
        if size is not None:
            with open(path, "ab") as f:
                f.truncate(size)
        if not shutil.which("losetup") or os.geteuid() != 0:
            pytest.skip("no loop devices here: needs root and losetup")
        r = run("losetup", "-f", "--show", *flags, path)
        if r.rc:
            pytest.skip(f"no loop devices here: {r.err.strip()}")
        device = r.out.strip()
        self.made.append(device)
        return device

    def mount(self, kind, size):
        """A folder on a file system of that kind."""
        if not shutil.which(f"mkfs.{kind}"):
            pytest.skip(f"no mkfs.{kind} here")
        device = self.make(f"{kind}.img", size)
        run(f"mkfs.{kind}", "-q" if kind != "btrfs" else "-q", device).ok()
        where = os.path.join(self.folder, kind)
        os.mkdir(where)
        if run("mount", "-t", kind, device, where).rc:
            pytest.skip(f"the kernel does not mount {kind} here")
        self.mounted.append(where)
        return where

    def end(self):
        for where in self.mounted:
            run("umount", where)
        for device in self.made:
            run("losetup", "-d", device)


def source(folder, size):
    path = os.path.join(folder, "source")
    with open(path, "wb") as f:
        for offset, data in pieces("devices", size):
            f.seek(offset)
            f.write(data)
        f.truncate(size)
    return path
