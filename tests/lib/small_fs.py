# SPDX-License-Identifier: BSD-2-Clause
"""A file system that a test can fill, or make read-only, without root."""
import os, subprocess

import pytest


class SmallFS:
    """In memory, in a mount namespace of its own, with as much room as `leave` says."""

    def __init__(self, size):
        script = f"mount -t tmpfs -o size={size} none /mnt && echo there && while read -r line; do eval \"$line\" 2>&1; echo $?; done"
        self.p = subprocess.Popen(["unshare", "-rm", "sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = self.p.stdout.readline()
        if said != "there\n":
            pytest.skip(f"no mount namespaces: {said}")
        self.path = f"/proc/{self.p.pid}/root/mnt"  # from outside
        self.inside = "nsenter", "-t", str(self.p.pid), "-U", "-m", "--preserve-credentials"  # begins a command that finds it as /mnt

    def run(self, command):
        """In the namespace."""
        self.p.stdin.write(command + "\n")
        self.p.stdin.flush()
        said = self.p.stdout.readline()
        assert said == "0\n", said

    def free(self):
        s = os.statvfs(self.path)
        return s.f_bavail * s.f_frsize

    def leave(self, room):
        with open(f"{self.path}/filler", "ab") as f:
            f.truncate(0)
            os.posix_fallocate(f.fileno(), 0, max(self.free() - room, 1))

    def close(self):
        self.p.kill()
        self.p.wait()
        self.p.stdin.close()
        self.p.stdout.close()
