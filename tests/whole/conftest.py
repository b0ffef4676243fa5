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
def full(up, img, tmp_path):
    """full(run): `up` with one device of each kind, from the boot on. Tests of single devices share this boot; what lies on the disks is
    full.disk (virtio), full.scsi, full.cd (full of i) and full.flash."""
    class Full:
        disk, scsi, cd, flash = (tmp_path / name for name in ("disk.qcow2", "scsi.raw", "cd.iso", "flash.qcow2"))

        def __init__(self):
            for path in self.disk, self.flash:
                img("create", "-q", "-f", "qcow2", path, "32M")
            for path, mib, fill in (self.scsi, 32, b""), (self.cd, 4, b"i" * 65536):
                path.write_bytes(fill)
                os.truncate(path, mib << 20)

        def __call__(self, run, net="", **kw):
            def raw(name, path, *more):
                return "-blockdev", ",".join((f"raw,node-name={name},file.driver=file,file.filename={path}", *more))
            return up(run, "-drive", f"if=pflash,unit=1,format=qcow2,file={self.flash}",
                      "-blockdev", f"qcow2,node-name=vd,file.driver=file,file.filename={self.disk}", "-device", "virtio-blk-pci,drive=vd,id=vd0",
                      "-device", "virtio-scsi-pci,id=scsi0", *raw("hd", self.scsi, "discard=unmap", "file.discard=unmap"),
                      "-device", "scsi-hd,drive=hd,id=hd0,serial=tern-7", *raw("cd", self.cd, "read-only=on"), "-device", "scsi-cd,drive=cd,id=cd0",
                      "-netdev", "user,id=n" + net, "-device", "virtio-net-pci,netdev=n,id=card",
                      "-device", "virtio-rng-device,max-bytes=128,period=500", **kw)
    return Full()


@pytest.fixture
def up(guest, tmp_path):
    """up(run, *extra, mem=256): a started machine, whose guest has booted: for tests of what comes after that."""
    machines = []

    def start(run, *extra, mem=256, **kw):
        return booted.booted(machines, BUILD, guest, run, extra, mem, tmp_path, **kw)
    yield start
    for m in machines:
        m.quit()
