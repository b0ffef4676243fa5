# SPDX-License-Identifier: BSD-2-Clause
"""-state: kinds of things that a machine is made of and that the other tests do not have; what may not be in the file."""
import json, subprocess

import pytest
from qmp import QMPError
from sterna import free_port, program
from test_state_file import World, picture, sections

MB = 1 << 20
WORD = "swordfish"


@pytest.fixture
def world(machine, tmp_path):
    return World(machine, tmp_path)


def seen(q):
    """All but the qtree, where a tray is a property only when it was one at the beginning. Flash banks come last at a start."""
    blocks, nodes, _, *more = picture(q)
    return sorted(blocks, key=lambda b: b["qdev"]), nodes, more, q.cmd("query-state")["sections"]


def test_board_networks_and_media(world):
    """Built from nothing: flash banks, a card, drives with and without media, a source of random bytes. Killed after each step."""
    for name, size in ("vars", 32), ("iso", 1):
        with open(world.tmp / name, "wb") as f:
            f.truncate(size * MB)
    q = world.start("-preconfig")
    q.cmd("blockdev-add", driver="raw", node_name="vars", file={"driver": "file", "filename": str(world.tmp / "vars")})
    q.cmd("machine-set", memory="32M", options={"pflash1": "vars"}, uuid="12345678-1234-1234-1234-123456789abc")
    q = world.again()
    assert [b["inserted"]["node-name"] for b in q.cmd("query-block")] == ["vars"]
    steps = [
        ("netdev_add", dict(type="user", id="n", net="10.7.0.0/24", restrict=True, hostfwd=[{"str": f"tcp:127.0.0.1:{free_port()}-:22"}])),
        ("device_add", dict(driver="virtio-net-pci", id="card", netdev="n", mac="02:00:00:00:00:09")),
        ("object-add", dict(qom_type="rng-random", id="r", filename="/dev/urandom")),
        ("device_add", dict(driver="virtio-rng-pci", id="rng", rng="r", args={"max-bytes": 64, "period": 100})),
        ("device_add", dict(driver="virtio-scsi-pci", id="scsi")),
        ("device_add", dict(driver="scsi-cd", id="cd0", bus="scsi.0", lun=3)),
        ("blockdev-open-tray", dict(id="cd0")),
        ("blockdev-add", dict(driver="raw", node_name="iso", read_only=True, file={"driver": "file", "filename": str(world.tmp / "iso")})),
        ("blockdev-insert-medium", dict(args={"id": "cd0", "node-name": "iso"})),
        ("blockdev-close-tray", dict(id="cd0")),
        ("device_add", dict(driver="scsi-cd", id="cd1", args={"tray-open": True, "locked": True})),
        ("blockdev-remove-medium", None),
    ]
    for command, args in steps:
        if args is None:
            q.cmd("blockdev-open-tray", id="cd0")
            args = {"id": "cd0"}
        more = args.pop("args", {})
        q.cmd(command, args={**{k.replace("_", "-"): v for k, v in args.items()}, **more})
        before = seen(q)
        q = world.again()
        assert seen(q) == before, command
    made = sections(q, "device")
    assert made["card"]["mac"] == "02:00:00:00:00:09" and made["cd1"]["tray-open"] is True and "drive" not in made["cd0"]
    assert sections(q, "machine")[None]["options"] == {"pflash1": "vars"} and sections(q, "netdev")["n"]["net"] == "10.7.0.0/24"
    # All of it can go again.
    for name in "cd1", "cd0", "scsi", "card", "rng":
        q.cmd("device_del", id=name)
    q.cmd("netdev_del", id="n")
    q.cmd("object-del", id="r")
    q.cmd("blockdev-del", node_name="iso")
    q = world.again()
    assert not sections(q, "device") and not sections(q, "netdev") and not sections(q, "object") and set(sections(q, "blockdev")) == {"vars"}


def test_passwords_by_reference(world):
    """Neither in the file nor in what query-state says; one that was given by value has to be given again, by a file."""
    key, image = world.tmp / "key", world.tmp / "e.qcow2"
    key.write_text(WORD)
    secret = f"secret,id=f,file={key}"
    subprocess.run([program("sterna-img"), "create", "-q", "-f", "qcow2", "--object", secret, "-o",
                    "encrypt.format=luks,encrypt.key-secret=f,encrypt.iter-time=10", image, "1M"], check=True)
    q = world.start("-m", "16", "-object", secret, "-object", f"secret,id=v,data={WORD}")
    for name in "f", "v":
        q.cmd("blockdev-add", driver="qcow2", node_name=f"e{name}", read_only=True, encrypt={"format": "luks", "key-secret": name},
              file={"driver": "file", "filename": str(image), "locking": "off"})
    assert sections(q, "object") == {"f": {"qom-type": "secret", "file": str(key)}, "v": {"qom-type": "secret"}}
    assert WORD not in json.dumps(q.cmd("query-state"))
    for file in world.state.parent.iterdir():
        assert WORD not in file.read_text(), file
    world.kill()
    said = world.refused()
    line = world.state.read_text().split("\n")[int(said.split(f"{world.state}:")[1].split(":")[0]) - 1]
    assert line == '[object "v"]' and "file" in said and "config-seal" in said, said
    text = world.state.read_text().replace('[object "v"]\nqom-type = secret\n', f'[object "v"]\nqom-type = secret\nfile = {key}\n')
    world.state.write_text(text[:text.index("# end")] + "# end edited\n")
    assert {"ef", "ev"} <= set(sections(world.start(), "blockdev"))
