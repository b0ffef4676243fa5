# SPDX-License-Identifier: BSD-2-Clause
"""What a machine is made of, with a real guest: it is built while the guest runs, moves with the guest to where there is nothing but an empty
state file, goes on changing there, and starts again from that file alone. And what the guest changes where nothing can be written down."""
from small_fs import SmallFS
from test_kept import MAC
from test_migrate import until
from test_scsi import SCSI, make

# From an empty disk to a full one; another life finds it full.
LIFE = ("while ! head -c 1 /dev/sda >/dev/null 2>&1;do sleep 0.1;done;stamp verify /dev/sda 8;stamp fill /dev/sda 8;echo 1 >/sys/bus/pci/rescan;"
        "while [ ! -e /sys/class/net/eth0 ];do sleep 0.1;done;echo ADDRESS $(cat /sys/class/net/eth0/address);"
        f"ip link set eth0 address {MAC};echo NOW $(cat /sys/class/net/eth0/address);stamp mem 16;stamp verify /dev/sda 8;"
        "while ! head -c 1 /dev/sr0 >/dev/null 2>&1;do sleep 0.1;done;head -c 4 /dev/sr0;echo;sgio /dev/sr0 1b0000000200;echo EJECTED;"
        "ip link set eth0 up;udhcpc -i eth0 -n -q -s /bin/true 2>&1;sleep 1000")


def again(boot, state):
    """The guest boots anew, and is told what to do."""
    m = boot("", "-state", str(state), made=False)
    m.wait("^BOOTED")
    m.type(LIFE + "\n")
    return m


def test_built_moved_and_started_again(boot, up, tmp_path):
    here, there, iso = tmp_path / "here", tmp_path / "there", make(tmp_path / "iso", 4, b"i")
    src = up(LIFE, *SCSI, more=("-state", str(here)))
    src.wait("GUEST-UP")
    src.cmd("blockdev-add", **{"driver": "raw", "node-name": "d0", "file": {"driver": "file", "filename": str(make(tmp_path / "d.raw", 16))}})
    src.cmd("netdev_add", type="user", id="n")
    src.cmd("device_add", driver="virtio-net-pci", id="card", netdev="n")
    src.cmd("device_add", driver="scsi-hd", drive="d0", id="hd0", serial="tern-9")
    src.wait("^ADDRESS 52:54:00:12:34:56")
    src.wait("^NOW " + MAC)
    assert src.wait("^VERIFY-")[1] == "VERIFY-OK blocks=2048 bad=0 stale=0 blank=2048"
    src.wait("MEM-READY")
    dst = boot("", "-state", str(there), "-incoming", f"unix:{tmp_path}/in", made=False, begin=False)
    dst.cmd("cont")  # as soon as it is there
    src.cmd("migrate-set-parameters", max_bandwidth=0)
    src.cmd("migrate", uri=f"unix:{tmp_path}/in")
    info = until(src, "completed", "failed")
    assert info["status"] == "completed", info
    src.quit()
    dst.type("verify\n")
    assert "MEM-OK" in dst.wait("MEM-OK|MEM-BAD")[1]
    assert dst.wait("^VERIFY-")[1] == "VERIFY-OK blocks=2048 bad=0 stale=0 blank=0"
    # The machine that came changes on.
    dst.cmd("blockdev-add", **{"driver": "raw", "node-name": "cd", "read-only": True, "file": {"driver": "file", "filename": str(iso)}})
    dst.cmd("device_add", driver="scsi-cd", drive="cd", id="cd0")
    dst.wait("^iiii")
    dst.wait("^EJECTED")
    assert "tray-open = true" in there.read_text()
    dst.wait("lease of 10.0.2.15 obtained")
    dst.process.kill()
    dst.process.wait()
    last = again(boot, there)
    last.wait("^ADDRESS " + MAC)  # which the guest before it set
    assert last.wait("^VERIFY-")[1] == "VERIFY-OK blocks=2048 bad=0 stale=0 blank=0"
    assert [b["tray_open"] for b in last.cmd("query-block") if b["removable"]] == [True]
    last.quit()
    assert "away = true" in here.read_text()


# What a guest sets; $1 tells the tries apart.
SETS = (f"t() {{;ip link set eth0 address {MAC} 2>/dev/null;echo $1-ADDRESS $(cat /sys/class/net/eth0/address);"
        "echo $1-LOCK $(sgio /dev/sr0 1e0000000100);sgio /dev/sr0 1e0000000000;echo $1-EJECT $(sgio /dev/sr0 1b0000000200);"
        "echo 'write through' >/sys/block/vda/cache_type;echo $1-MODE $(cat /sys/block/vda/cache_type);"
        "stamp fill /dev/vda 4;echo $1-DISK $(stamp verify /dev/vda 4);};")


def test_nothing_can_be_written_down(full):
    """A full disk below the state file: the guest is told that what it wants cannot be, goes on, and gets it once there is room."""
    small = SmallFS(1 << 20)
    try:
        with open(f"{small.path}/vm.state", "w", encoding="utf-8") as f:
            f.write("format = 1\n" + "# A long story.\n" * 2000 + "# end edited\n")
        m = full(SETS + "echo READY;read x;t FULL;read x;t ROOM;sleep 1000", more=("-state", "/mnt/vm.state"), prefix=small.inside)
        m.wait("^READY")
        with open(f"{small.path}/vm.state", encoding="utf-8") as f:
            before = f.read()
        for name, room, address, status, mode in (("FULL", 0, "52:54:00:12:34:56", "2", "write back"), ("ROOM", 1 << 19, MAC, "0", "write through")):
            small.leave(room)
            m.type("\n")
            assert m.wait(f"^{name}-DISK")[1] == f"{name}-DISK VERIFY-OK blocks=1024 bad=0 stale=0 blank=0"
            said = dict(t.split(" ", 1) for _, t in m.lines if t.startswith(name + "-"))
            assert said[name + "-ADDRESS"] == address and said[name + "-MODE"] == mode
            assert said[name + "-LOCK"].startswith(f"SG status={status} ") and said[name + "-EJECT"].startswith(f"SG status={status} ")
            assert m.cmd("query-status")["status"] == "running"
            with open(f"{small.path}/vm.state", encoding="utf-8") as f:
                after = f.read()
            assert (after == before) == (name == "FULL")
        assert "No space left on device" in m.stderr()
        assert MAC in after and "tray-open = true" in after and "write-cache = off" in after
    finally:
        small.close()
