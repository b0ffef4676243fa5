# SPDX-License-Identifier: BSD-2-Clause
"""Everything that a guest can see of each released machine type, against what was kept when it was released.

A difference means that guests would see another machine: give what changed a property whose old value the older types keep (see
src/machine/types.c). A fingerprint in this folder is only ever added.
"""
import difflib, os, subprocess

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.environ.get("STERNA_BUILD", os.path.join(TOP, "build"))
KEPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "fingerprint")
STERNA = os.path.join(BUILD, "sterna")


def run(*args):
    return subprocess.run([STERNA, *map(str, args)], capture_output=True, text=True, timeout=60)


def fingerprint(machine, out, *more):
    disk = "null-co,size=67108864,node-name="
    r = run("-M", machine, "-smp", "2", "-m", "128", "-nodefaults", "-display", "none", "-blockdev", disk + "n0", "-blockdev", disk + "n1",
            "-device", "virtio-blk-pci,id=disk0,drive=n0", "-device", "virtio-blk-device,id=disk1,drive=n1,bus=virtio-mmio-bus.0",
            "-fingerprint", out, *more)
    assert r.returncode == 0 and r.stderr == "", r.stderr
    return out.read_text().splitlines()


def types():
    lines = run("-M", "help").stdout.splitlines()
    return [line.split()[0] for line in lines if line.startswith("virt-")]


def test_every_type_is_kept():
    assert sorted(f"{t}.txt" for t in types()) == sorted(os.listdir(KEPT))


@pytest.mark.parametrize("name", sorted(os.listdir(KEPT)))
def test_type_never_changes(name, tmp_path):
    now = fingerprint(name[:-4], tmp_path / "now")
    with open(os.path.join(KEPT, name), encoding="utf-8") as f:
        kept = f.read().splitlines()
    diff = list(difflib.unified_diff(kept, now, "kept", "now", n=0, lineterm=""))
    assert not diff, "\n".join(diff)


def test_says_what_options_change(tmp_path):
    a = fingerprint("virt", tmp_path / "a")
    assert a == fingerprint("virt", tmp_path / "b")
    c = fingerprint("virt", tmp_path / "c", "-cpu", "max,zbb=off", "-global", "virtio-blk-pci.num-queues=3")
    changed = {line for line in c if line not in a}
    assert any("virtio.queues = 0x3" in line for line in changed)
    assert any("riscv,isa =" in line and "zbb" not in line for line in changed)
    assert not any("plic" in line for line in changed)


def test_types_differ_by_properties_only(tmp_path):
    def seen(lines):
        return [line for line in lines if not line.startswith("machine ") and ", schema " not in line and " subsection " not in line]
    more = ["-cpu", "max,zihintntl=on"]
    for driver in ("virtio-blk-pci", "virtio-blk-device"):
        more += ["-global", f"{driver}.queue-size=512", "-global", f"{driver}.queue_reset=on"]
    old, new = fingerprint("virt-0.1", tmp_path / "old"), fingerprint("virt-0.2", tmp_path / "new")
    assert seen(old) != seen(new)
    assert seen(fingerprint("virt-0.1", tmp_path / "as-new", *more)) == seen(new)


def test_refusals(tmp_path):
    r = run("-M", "none", "-display", "none", "-nodefaults", "-fingerprint", tmp_path / "x")
    assert r.returncode == 1 and "machine 'none'" in r.stderr
    r = run("-M", "virt", "-display", "none", "-nodefaults", "-fingerprint", tmp_path / "no" / "x")
    assert r.returncode == 1 and str(tmp_path / "no") in r.stderr
