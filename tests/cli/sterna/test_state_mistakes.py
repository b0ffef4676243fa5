# SPDX-License-Identifier: BSD-2-Clause
"""Files that people edited, right in form and wrong in what they say: each is refused with the file, the line and what would be right, and
nothing is started. (Mistakes of form are in tests/config/corpus.)"""
import re, subprocess

import pytest
from sterna import program

RIGHT = """\
format = 1

[machine]
type = virt-0.2
memory = 16M
harts = 1

[object "t0"]
qom-type = throttle-group
x-iops-total = 100

[chardev "c0"]
backend = "null"

[blockdev "n0"]
driver = null-co
size = 1048576

[blockdev "n1"]
driver = raw
file.driver = null-co
file.size = 1048576

[drive "dr0"]
node = n1

[netdev "net0"]
type = user

[device "scsi"]
driver = virtio-scsi-pci

[device "cd0"]
driver = scsi-cd
drive = dr0
tray-open = true

[device "vd0"]
driver = virtio-blk-pci
drive = n0
write-cache = on

[device "card"]
driver = virtio-net-pci
netdev = net0
mac = 02:00:00:00:00:01

[throttle "g0"]
limits.iops-total = 5
disks.0 = vd0

[serial "0"]
chardev = c0

[nbd-server]
addr.type = unix
addr.data.path = SOCKET

[export "e0"]
type = nbd
node-name = n0

# end edited
"""

# what to replace, by what, where the error is (a line of the new text) and what it says
MISTAKES = [
    ("virt-0.2", "virt-9", "[machine]", "unsupported machine type"),
    ("16M", "16Q", "memory = 16Q", "memory"),
    ("harts = 1", "harts = 99", "[machine]", "CPUs"),
    ("harts = 1", "harts = many", "harts = many", "harts"),
    ("harts = 1", "harts = 1\nbios = /nonexistent", "[machine]", "/nonexistent"),
    ("harts = 1", "harts = 1\noptions.rtc-offset = soon", "[machine]", "rtc-offset"),
    ("harts = 1", "harts = 1\noptions.pflahs0 = n0", "[machine]", "pflahs0"),
    ("harts = 1", "harts = 1\nreboot = never", "[machine]", "never"),
    ("harts = 1", "harts = 1\nuuid = 12", "[machine]", "12"),
    ("qom-type = throttle-group", "qom-type = throttel-group", '[object "t0"]', "throttel-group"),
    ("x-iops-total = 100", "x-iops-totla = 100", '[object "t0"]', "x-iops-totla"),
    ('backend = "null"', "backend = nulll", '[chardev "c0"]', "nulll"),
    ("driver = raw", "driver = rwa", '[blockdev "n1"]', "rwa"),
    ("driver = raw", "drvier = raw", '[blockdev "n1"]', "driver"),
    ("file.driver = null-co\nfile.size = 1048576", "file = nobody", '[blockdev "n1"]', "nobody"),
    ("size = 1048576\n\n[blockdev", "sizee = 1048576\n\n[blockdev", '[blockdev "n0"]', "sizee"),
    ("size = 1048576\n\n[blockdev", "size = many\n\n[blockdev", '[blockdev "n0"]', "size"),
    ("driver = null-co\nsize = 1048576\n\n[blockdev", "driver = raw\nfile.driver = file\nfile.filename = /nonexistent/disk\n\n[blockdev", '[blockdev "n0"]',
     "'/nonexistent/disk': No such file"),
    ("driver = null-co\nsize = 1048576\n\n[blockdev", "driver = qcow2\nfile.driver = null-co\nfile.size = 1048576\n\n[blockdev", '[blockdev "n0"]',
     "not in qcow2 format"),
    ("file.size = 1048576", "file.size = 1048576\nsize = 2097152", '[blockdev "n1"]', "size"),
    ("file.driver = null-co\nfile.size = 1048576", "file = n1", '[blockdev "n1"]', "below itself"),
    ('size = 1048576\n\n[blockdev "n1"]\ndriver = raw\nfile.driver = null-co\nfile.size = 1048576',
     'file = n1\n\n[blockdev "n1"]\ndriver = raw\nfile = n0', '[blockdev "n0"]|[blockdev "n1"]', "cannot stand below each other|file"),
    ("node = n1", "node = n7", "node = n7", "n7"),
    ("node = n1", "node = n1\nrerror = perhaps", "rerror = perhaps", "perhaps"),
    ("type = user", "type = usr", '[netdev "net0"]', "usr"),
    ("type = user", "type = user\nhostfwd.0 = tcp", '[netdev "net0"]', "hostfwd|tcp"),
    ("driver = virtio-scsi-pci", "driver = virtio-sci-pci", '[device "scsi"]', "virtio-sci-pci"),
    ("drive = dr0", "drive = dr1", '[device "cd0"]', "dr1"),
    ("tray-open = true", "tray-opne = true", '[device "cd0"]', "tray-opne"),
    ("tray-open = true", "tray-open = perhaps", '[device "cd0"]', "tray-open"),
    ("tray-open = true", "bus = scsi1.0", '[device "cd0"]', "scsi1.0"),
    ("driver = virtio-scsi-pci", "driver = virtio-scsi-pci\naddr = 5\n\n[device \"r\"]\ndriver = virtio-rng-pci\naddr = 05.0", '[device "r"]', "slot 5"),
    ("tray-open = true", 'scsi-id = 3\nlun = 0\n\n[device "cd1"]\ndriver = scsi-cd\nscsi-id = 3\nlun = 0', '[device "cd1"]', "lun already used by 'cd0'"),
    ("drive = n0\n", "drive = n1\n", '[device "vd0"]', "n1"),
    ("write-cache = on", "write-cache = never", '[device "vd0"]', "write-cache"),
    ("netdev = net0", "netdev = net1", '[device "card"]', "net1"),
    ("02:00:00:00:00:01", "03:00:00:00:00:01", '[device "card"]', "group"),
    ("02:00:00:00:00:01", "02:00:00:00:00", '[device "card"]', "mac"),
    ("harts = 1", "harts = 1\noptions.pflash0 = n0", "[machine]", "pflash|size"),
    ("limits.iops-total = 5", "limits.iops-totla = 5", '[throttle "g0"]', "iops-totla"),
    ("limits.iops-total = 5", "limits.iops-total = -5", '[throttle "g0"]', "iops"),
    ("disks.0 = vd0", "disks.0 = vd7", "disks.0 = vd7", "vd7"),
    ("chardev = c0", "chardev = c7", '[serial "0"]', "c7"),
    ("addr.type = unix", "addr.type = unxi", "[nbd-server]", "unxi"),
    ("node-name = n0", "node-name = n7", '[export "e0"]', "n7"),
    ("type = nbd", "type = nfs", '[export "e0"]', "nfs"),
    ("# end edited", '[job "j"]\ncommand = quit\n\n# end edited', '[job "j"]|command = quit', "quit"),
    ("# end edited", '[job "j"]\nspeed = 5\n\n# end edited', '[job "j"]', "command"),
    ("# end edited", '[global "virtio-blk-pci"]\nserail = x\n\n# end edited', '[global "virtio-blk-pci"]', "serail"),
    ("# end edited", "[jbo]\n\n# end edited", "[jbo]", "jbo"),
]


def start(tmp, text):
    file = tmp / "vm.state"
    file.write_text(text.replace("SOCKET", str(tmp / "nbd")))
    return file, subprocess.run([program("sterna"), "-S", "-display", "none", "-nodefaults", "-qmp", "stdio", "-state", str(file)], capture_output=True, text=True,
                                input='{"execute":"qmp_capabilities"}{"execute":"quit"}', timeout=60)


def test_the_right_one(tmp_path):
    file, r = start(tmp_path, RIGHT)
    assert r.returncode == 0, r.stderr
    assert "edited" not in file.read_text()


def test_in_any_order(tmp_path):
    """What others name may stand below them, and who says where it is gets that place before those that do not mind."""
    head, *parts = re.split(r"\n(?=\[|# end)", RIGHT)
    parts = [p.rstrip("\n") for p in parts]
    parts.insert(-1, '[device "placed"]\ndriver = virtio-rng-pci\naddr = 01.0')
    file, r = start(tmp_path, "\n\n".join([head, *reversed(parts[:-1]), parts[-1]]) + "\n")
    assert r.returncode == 0, r.stderr
    file.unlink()
    file, r = start(tmp_path, "\n\n".join([head, *parts]) + "\n")
    assert r.returncode == 0, r.stderr


@pytest.mark.parametrize("old, new, where, says", MISTAKES, ids=[m[1].split("\n")[-1][:30] + f" {i}" for i, m in enumerate(MISTAKES)])
def test_a_mistake(tmp_path, old, new, where, says):
    assert RIGHT.count(old) == 1 or old == "type = nbd"
    file, r = start(tmp_path, RIGHT.replace(old, new))
    assert r.returncode == 1
    m = re.match(rf"sterna: (?:.*')?{re.escape(str(file))}'?:(\d+): (.*)", r.stderr, re.S)
    assert m, r.stderr
    assert re.search(says, m[2]), r.stderr
    # of the file as it is now: one that says that it was edited is sealed when it is opened
    text = file.read_text()
    assert ("# end edited" in text) != (f"change the section and run 'sterna-state config-seal {file}'" in r.stderr), r.stderr
    line = text.split("\n")[int(m[1]) - 1]
    assert line in where.split("|") or (where.startswith("[") and line.split(" = ")[0] in m[2]), f"{r.stderr}{m[1]}: {line}"
