# SPDX-License-Identifier: BSD-2-Clause
"""What tests of whole programs share: finding them, running them, comparing with a reference.

    from sterna import program, reference, run, twin

The build folder comes from the environment's STERNA_BUILD (meson sets it), else it is build/ beside the sources.
"""
import os, random, shutil, socket, subprocess
from dataclasses import dataclass

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("STERNA_BUILD") or os.path.join(TOP, "build")
LONG = bool(os.environ.get("STERNA_LONG"))


@dataclass
class Result:
    rc: int
    out: str
    err: str

    def ok(self):
        """This result, having checked that the program succeeded."""
        assert self.rc == 0, f"exit code {self.rc}\n{self.out}{self.err}"
        return self


def program(name):
    """Path of one of our programs; a missing one is a failure, not a skip: it should have been built."""
    path = os.path.join(BUILD, name)
    assert os.access(path, os.X_OK), f"{path} has not been built"
    return path


def sanitized(name):
    """Whether that program was built with AddressSanitizer, which multiplies the memory that it uses."""
    with open(program(name), "rb") as f:
        return b"__asan_init" in f.read()


def reference(name):
    """Path of an installed program to compare with; the test is skipped where there is none."""
    path = shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed")
    return path


def run(*args, cwd=None, env=None, stdin="", timeout=60):
    """Runs a program to its end. Environment: the test's own in the C locale, plus `env`. Output that is not UTF-8 stays visible."""
    full = {**os.environ, "LC_ALL": "C", "TZ": "UTC", **(env or {})}
    p = subprocess.run([str(a) for a in args], cwd=cwd, env=full, input=stdin.encode(), capture_output=True, timeout=timeout)
    return Result(p.returncode, p.stdout.decode(errors="backslashreplace"), p.stderr.decode(errors="backslashreplace"))


def alias(tmp_path, name, target):
    """A symbolic link `name` to one of our programs, so that it is called by another name."""
    path = os.path.join(tmp_path, "bin", name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.islink(path):
        os.symlink(program(target), path)
    return path


def free_port():
    """A TCP port for a server that the test starts: none that the kernel may give to somebody's connection meanwhile."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as f:
        lowest = int(f.read().split()[0])
    while True:
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", random.SystemRandom().randrange(10000, lowest) if lowest > 11000 else 0))
                return s.getsockname()[1]
            except OSError:
                pass
