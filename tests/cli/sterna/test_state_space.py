# SPDX-License-Identifier: BSD-2-Clause
"""-state on a file system that is really full or cannot be written to: an error that says what to do, the generation before, a machine as it was."""
import os, shutil, subprocess
from pathlib import Path

import pytest
from qmp import QMPError
from small_fs import SmallFS
from sterna import program
from test_state_file import World, picture, sections

KB, MB = 1 << 10, 1 << 20
FULL = "could not write state file '{}': No space left on device; make room there and try again"


class Elsewhere(World):
    """The state file is in a file system of its own, and the program in its namespace."""

    def __init__(self, machine, tmp, small):
        super().__init__(lambda *args, **kw: machine(*args, prefix=small.inside, **kw), tmp)
        self.small = small
        os.mkdir(f"{small.path}/state")
        self.state, self.file = "/mnt/state/vm.state", Path(small.path, "state", "vm.state")

    def files(self):
        return {f.name: f.read_text() for f in self.file.parent.iterdir() if f.suffix != ".lock"}

    def tool(self, name, *args, **kw):
        r = subprocess.run([*self.small.inside, program(name), *map(str, args)], capture_output=True, text=True, timeout=60, **kw)
        return r.returncode, r.stderr

    def refused(self, *args, state=""):
        rc, said = self.tool("sterna", "-S", "-display", "none", "-nodefaults", "-state", self.state, stdin=subprocess.DEVNULL)
        assert rc == 1
        return said


@pytest.fixture
def world(machine, tmp_path):
    small = SmallFS(MB)
    yield Elsewhere(machine, tmp_path, small)
    small.close()


def said(q, *args, **kw):
    with pytest.raises(QMPError) as e:
        q.cmd(*args, **kw)
    return e.value.desc


def test_really_full(world):
    """Also where there is room for a part of it."""
    world.file.write_text("format = 1\n" + "# A long story.\n" * 2000 + "# end edited\n")
    q = world.start()
    world.blockdev("d0")
    before, files = picture(q), world.files()
    full, room, tries = FULL.format(world.state), 0, 0
    while True:
        world.small.leave(room)
        try:
            q.cmd("device_add", driver="virtio-blk-pci", id="vd0", drive="d0")
            break
        except QMPError as e:
            assert e.desc == "device_add is undone, for it cannot be written down: " + full
        assert world.files() == files and picture(q) == before and q.cmd("query-status")["status"] == "prelaunch"
        room, tries = room + 8 * KB, tries + 1
    assert tries > 3 and len(world.file.read_text()) > 32000
    world.small.leave(0)
    before, files = picture(q), world.files()

    assert said(q, "object-add", qom_type="rng-builtin", id="r").endswith(full)
    assert said(q, "transaction", actions=[{"type": "blockdev-add", "data": {"driver": "null-co", "node-name": "n"}}]).endswith(full)
    assert said(q, "state-save-as", filename=f"/mnt/state/other").endswith(FULL.format(f"/mnt/state/other"))
    assert world.files() == files and picture(q) == before
    # Whoever starts it now gets that machine, and one that is to be written first is told why it cannot be.
    q = world.again()
    assert picture(q) == before and world.files() == files
    world.kill()
    edited = files["vm.state"][:files["vm.state"].index("# end")] + "# end edited\n"
    world.small.leave(MB)
    world.file.write_text(edited)
    world.small.leave(0)
    assert full in world.refused() and world.file.read_text() == edited
    rc, why = world.tool("sterna-state", "config-seal", world.state)
    assert rc and full in why and world.file.read_text() == edited
    world.small.leave(MB)
    q = world.start()
    assert picture(q) == before
    q.cmd("object-add", qom_type="rng-builtin", id="r")
    assert "r" in sections(world.again(), "object")


def test_read_only(world):
    """A file system that cannot be written to at all."""
    q = world.start("-m", "16")
    q.cmd("blockdev-add", driver="null-co", node_name="n0", size=MB)
    q.cmd("quit")
    world.m.process.wait()
    files = world.files()
    world.small.run("mount --bind /mnt /mnt && mount -o remount,bind,ro /mnt")
    why = "Read-only file system; snapshot=on runs the machine without keeping its changes"
    assert world.refused() == f"sterna: state file '{world.state}' cannot be locked: could not create '{world.state}.lock': {why}\n"
    q = world.start(state=",snapshot=on")
    assert "n0" in sections(q, "blockdev")
    q.cmd("blockdev-add", driver="null-co", node_name="n1", size=MB)
    other = said(q, "state-save-as", filename=f"/mnt/state/other")
    assert f"'/mnt/state/other'" in other and "Read-only file system" in other
    assert world.tool("sterna-state", "config-check", world.state) == (0, "")
    for verb in "config-seal", "config-restore":
        rc, why = world.tool("sterna-state", verb, world.state)
        assert rc and f"'{world.state}" in why and "Read-only file system" in why and "snapshot" not in why, why
    assert world.files() == files


def test_folder_that_can_be_written_to_no_longer(machine, tmp_path):
    """While a machine runs; and again."""
    less = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []  # root may write everywhere
    if less and not shutil.which("setpriv"):
        pytest.skip("no setpriv, and this is root")
    world = World(machine, tmp_path)
    q = world.start("-m", "16", prefix=less)
    before, text = picture(q), world.state.read_text()
    world.state.parent.chmod(0o555)
    try:
        assert said(q, "object-add", qom_type="rng-builtin", id="r") == (
            f"object-add is undone, for it cannot be written down: could not write state file '{world.state}': Permission denied; "
            "make its folder writable and try again")
        assert picture(q) == before and world.state.read_text() == text
    finally:
        world.state.parent.chmod(0o755)
    q.cmd("object-add", qom_type="rng-builtin", id="r")
    assert set(sections(world.again(), "object")) == {"r"}
