# SPDX-License-Identifier: BSD-2-Clause
"""What the tests of the whole machine share: the guest's folder, the programs, a machine that is always cleaned up."""
import os, subprocess, sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(TOP, "scripts"), os.path.join(TOP, "tests", "lib")]
import booted  # noqa: E402
import vm as vm_module  # noqa: E402

BUILD = os.environ.get("STERNA_BUILD", os.path.join(TOP, "build"))
QUICK = vm_module.VM.APPEND = "console=ttyS0 quiet mods=few run="  # without file systems the guest boots in half the time


@pytest.fixture(scope="session")
def guest():
    folder = os.environ.get("STERNA_GUEST")
    if not folder or not os.path.exists(os.path.join(folder, "Image")):
        pytest.skip("no guest: set STERNA_GUEST to the folder that scripts/guest.sh prints")
    return folder


@pytest.fixture
def img():
    def run(*args, check=True):
        return subprocess.run([os.path.join(BUILD, "sterna-img"), *map(str, args)], check=check, capture_output=True, text=True)
    return run


@pytest.fixture
def boot(guest, tmp_path):
    """boot(run, *extra, mem=256): a started machine, whose guest boots; with what it needs for disks and cards, not for file systems."""
    machines = []

    def start(run, *extra, mem=256, begin=True, **kw):
        m = vm_module.VM(os.path.join(BUILD, "sterna"), guest, run, extra, mem=mem, tmp=tmp_path, **kw)
        machines.append(m)
        return m.start() if begin else m
    yield start
    for m in machines:
        m.quit()


@pytest.fixture
def up(guest, tmp_path):
    """up(run, *extra, mem=256): a started machine, whose guest has booted: for tests of what comes after that."""
    machines = []

    def start(run, *extra, mem=256, **kw):
        return booted.booted(machines, BUILD, guest, run, extra, mem, tmp_path, **kw)
    yield start
    for m in machines:
        m.quit()
