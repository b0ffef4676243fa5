# SPDX-License-Identifier: BSD-2-Clause
"""-as-release: the program is what it was then, as far as a machine that moves can tell. What is kept from that release proves it: the
fingerprint of its machine type, and a state that it has saved."""
import json, os, re, subprocess

import pytest
from moving import RAM, machine, over, until
from qmp import QMPError
from sterna import TOP, program
from test_fingerprint import KEPT, fingerprint

OLD = "-as-release", "virt-0.1"
GOLDEN = f"{TOP}/tests/move/golden/virt-0.1.state"


def schemas(path):
    out = subprocess.run([program("sterna-state"), "dump", "--output=json", path], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)["manifest"]["schemas"]
    return {name: {**s, "fields": [f for f in s["fields"] if not f.get("ancillary")]} for name, s in found.items()}


def test_its_default_machine_is_the_kept_one(tmp_path):
    with open(os.path.join(KEPT, "virt-0.1.txt"), encoding="utf-8") as f:
        assert fingerprint("virt", tmp_path / "now", *OLD) == f.read().splitlines()


def refused(*args):
    r = subprocess.run([program("sterna"), "-display", "none", "-nodefaults", *OLD, *args], capture_output=True, text=True, timeout=60)
    assert r.returncode == 1
    return r.stderr


def test_nothing_newer():
    assert "unsupported machine type 'virt-0.2'" in refused("-M", "virt-0.2")
    assert "'virtio-rng-pci' is not a valid device model name" in refused("-M", "virt", "-device", "virtio-rng-pci")
    assert "unsupported machine type 'virt-9'" in refused("-as-release", "virt-9")


def test_its_list_of_machines(tmp_path):
    def listed(folder, *args):
        m = machine(tmp_path / folder, *args)
        names = {x["name"]: (x.get("alias"), x.get("is-default", False)) for x in m.qmp.cmd("query-machines")}
        classes = {x["name"] for x in m.qmp.cmd("qom-list-types", implements="machine")}
        m.close()
        assert classes == {f"{name}-machine" for name in names}
        return names
    assert listed("old", *OLD) == {"none": (None, False), "virt-0.1": ("virt", True)}
    assert listed("now") == {"none": (None, False), "virt-0.1": (None, False), "virt-0.2": ("virt", True)}
    said = subprocess.run([program("sterna"), *OLD, "-M", "help"], capture_output=True, text=True, check=True).stdout
    assert "virt-0.2" not in said and "alias of virt-0.1" in said


def old_machine(folder, *args):
    return machine(folder, "-M", "virt-0.1", "-blockdev", "driver=null-co,node-name=n0,size=1048576,read-only=on", "-device",
                   "virtio-blk-pci,id=disk0,drive=n0,addr=1", *args)


def test_its_state_is_what_the_release_wrote(tmp_path):
    """Schema by schema, as in the state that the release has saved, but for fields that a reader may leave out."""
    m = old_machine(tmp_path / "m", *OLD)
    m.qmp.cmd("migrate", uri=f"file:{tmp_path}/state")
    assert over(m) == "completed"
    m.close()
    now, then = schemas(str(tmp_path / "state")), schemas(GOLDEN)
    assert now == then


def test_a_newer_state_is_refused(tmp_path):
    old = old_machine(tmp_path / "old", *OLD, "-incoming", f"unix:{tmp_path}/in")
    new = machine(tmp_path / "new", "-M", "virt-0.2")
    with pytest.raises(QMPError, match="a machine 'virt-0.2', this one is 'virt-0.1'"):
        new.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)
    new.close()
    old.close()


def test_to_and_fro(tmp_path):
    """Ten times each way between the two releases."""
    here = old_machine(tmp_path / "m0")
    for i in range(20):
        at = RAM + 0x100000 + 4096 * i
        assert here.ask(f"write {at:#x} 4 0x{i:08x}") == "OK"
        there = old_machine(tmp_path / f"m{i + 1}", *(OLD if i % 2 == 0 else ()), "-incoming", f"unix:{tmp_path}/in")
        here.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
        assert over(here) == "completed", here.qmp.cmd("query-migrate")
        until(there, "completed")
        here.close()
        here = there
    for i in range(20):
        assert here.ask(f"read {RAM + 0x100000 + 4096 * i:#x} 4") == f"OK 0x{i:08x}"
    here.close()


@pytest.mark.parametrize("way", ["asked", "file"])
def test_in_the_form_of_another_type(tmp_path, way):
    """A machine of the newest type, with nothing that is new, goes to a program that knows an older one."""
    disk = "-blockdev", "driver=null-co,node-name=n0,size=1048576", "-device", "virtio-blk-device,id=disk0,drive=n0,queue-size=256,queue_reset=off"
    uri = f"unix:{tmp_path}/in" if way == "asked" else f"file:{tmp_path}/state"
    src = machine(tmp_path / "new", "-M", "virt-0.2", "-cpu", "rv64,zihintntl=off", *disk)
    dst = machine(tmp_path / "old", *OLD, *disk, "-incoming", "defer")
    assert src.ask(f"write {RAM + 0x100000:#x} 4 0x01020304") == "OK"
    if way == "asked":
        dst.qmp.cmd("migrate-incoming", uri=uri)
        with pytest.raises(QMPError, match="a machine 'virt-0.2', this one is 'virt-0.1'"):
            src.qmp.cmd("migrate", uri=uri, dry_run=True)
        src.qmp.cmd("migrate", uri=uri, dry_run=True, compat="virt-0.1")
    src.qmp.cmd("migrate", uri=uri, compat="virt-0.1")
    assert over(src) == "completed", src.qmp.cmd("query-migrate")
    if way == "file":
        dst.qmp.cmd("migrate-incoming", uri=uri)
    assert until(dst, "completed") and dst.ask(f"read {RAM + 0x100000:#x} 4") == "OK 0x01020304"
    src.close()
    dst.close()


def test_what_another_type_has_no_form_for(tmp_path):
    """It is named before anything of the machine goes, also to who only asks."""
    src = machine(tmp_path / "new", "-M", "virt-0.2", "-device", "virtio-rng-device,id=r")
    dst = machine(tmp_path / "old", *OLD, "-incoming", f"unix:{tmp_path}/in")
    says = "'/machine/peripheral/r': .*virt-0.1.* has no device with section 'virtio-rng-mmio'"
    with pytest.raises(QMPError, match=says):
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", compat="virt-0.1", dry_run=True)
    src.qmp.cmd("migrate", uri=f"file:{tmp_path}/state", compat="virt-0.1")
    assert over(src) == "failed" and re.search(says, src.qmp.cmd("query-migrate")["error-desc"]) and src.qmp.cmd("query-status")["running"]
    src.close()
    dst.close()
