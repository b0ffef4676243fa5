# SPDX-License-Identifier: BSD-2-Clause
"""The cases of bench.py that concern what a machine is made of: from the program's start to the guest's first instruction with 20
devices (of ours from the state file alone), and a SCSI disk that comes while the guest runs.
"""
import json, os, struct, subprocess, tempfile, time

from vm import VM

MIB = 1 << 20
# A kernel's header, which begins with a jump behind it, and: lui t0, 0x10000; li t1, '!'; sb t1, 0(t0); wfi; j -4
FIRST = struct.pack("<IIQQQIIQ8s4sI", 0x0400006f, 0, 2 << 20, 4096, 0, 2, 0, 0, b"RISCV", b"RSC\x05", 0) + struct.pack(
    "<5I", 0x100002b7, 0x02100313, 0x00628023, 0x10500073, 0xffdff06f)


def devices(side, tmp):
    """20 devices: 8 virtio-blk disks and 8 of SCSI with their adapter, random numbers, two cards."""
    args = ["-device", "virtio-scsi-pci,id=scsi"]
    for i in range(16):
        image = os.path.join(tmp, f"many-{side['name']}-{i}.qcow2")
        if not os.path.exists(image):
            subprocess.run([side["img"], "create", "-q", "-f", "qcow2", image, "1G"], check=True)
        device = f"virtio-blk-pci,drive=n{i},id=d{i}" if i < 8 else f"scsi-hd,drive=n{i},id=d{i},bus=scsi.0,scsi-id={i - 8}"
        args += ["-blockdev", f"qcow2,node-name=n{i},file.driver=file,file.filename={image}", "-device", device]
    args += ["-device", "virtio-rng-pci,id=rng"]
    for i in range(2):
        args += ["-netdev", f"user,id=net{i}", "-device", f"virtio-net-pci,netdev=net{i},id=card{i}"]
    return args


def case_restart(side, a, tmp):
    kernel, state = os.path.join(tmp, "first.bin"), os.path.join(tmp, "many.state")
    with open(kernel, "wb") as f:
        f.write(FIRST + bytes(4096 - len(FIRST)))
    args = ["-M", "virt", "-m", "512", "-kernel", kernel, *devices(side, tmp)]
    if side["name"] == "sterna":
        if not os.path.exists(state):
            subprocess.run([side["bin"], "-nodefaults", "-display", "none", "-S", "-state", state, *args, "-qmp", "stdio"], check=True, text=True,
                           stdout=subprocess.DEVNULL, input='{"execute":"qmp_capabilities"}{"execute":"quit"}')
        args = ["-state", state]
    times = []
    for _ in range(10):
        begin = time.monotonic()
        with subprocess.Popen([side["bin"], "-nodefaults", "-display", "none", "-serial", "stdio", *args], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE) as p:
            while p.stdout.read(1) != b"!":  # a peer's firmware speaks first
                if p.poll() is not None:
                    raise RuntimeError("it ended before the guest began")
            times.append((time.monotonic() - begin) * 1000)
            p.kill()
    return {"start to the guest's first instruction, 20 devices, ms": sorted(times)[len(times) // 2]}


def case_hotplug(side, a, tmp):
    image = os.path.join(tmp, "plugged.raw")
    with open(image, "wb") as f:
        f.truncate(64 * MIB)
    vm = VM(side["bin"], a.guest, "while true; do while [ ! -e /dev/sda ]; do sleep 0.005; done; echo CAME;"
            "while [ -e /dev/sda ]; do sleep 0.005; done; echo WENT; done", ["-device", "virtio-scsi-pci,id=scsi"], mem=256, tmp=tmp).start()
    vm.wait("GUEST-UP")
    time.sleep(1)
    seen, own = [], []
    try:
        for _ in range(5):
            vm.lines.clear()
            vm.cmd("blockdev-add", driver="raw", node_name="n", file={"driver": "file", "filename": image})
            begin = time.monotonic()
            vm.cmd("device_add", driver="scsi-hd", drive="n", id="d", bus="scsi.0")
            own.append((time.monotonic() - begin) * 1000)
            seen.append((vm.wait("^CAME")[0] - begin) * 1000)
            vm.cmd("device_del", id="d")
            vm.wait("^WENT")
            time.sleep(0.2)
            vm.cmd("blockdev-del", node_name="n")
    finally:
        vm.quit()
    return {"SCSI disk plugged to seen by the guest's user space, ms": sorted(seen)[2], "of that the command itself, ms": sorted(own)[2]}


def case_state_change(side, a, tmp):
    """Ours only: a change of make-up that is durable when it is answered, beside the file system's own pair of fsyncs."""
    if side["name"] != "sterna":
        return {}
    state = os.path.join(tempfile.mkdtemp(dir=tmp), "change.state")
    with subprocess.Popen([side["bin"], "-M", "none", "-nodefaults", "-display", "none", "-state", state, "-qmp", "stdio"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        def cmd(name, **args):
            p.stdin.write(json.dumps({"execute": name, "arguments": args}) + "\n")
            p.stdin.flush()
            while "return" not in (o := json.loads(p.stdout.readline())):
                if "error" in o:
                    raise RuntimeError(o["error"]["desc"])
        p.stdout.readline()
        cmd("qmp_capabilities")
        begin = time.monotonic()
        for i in range(100):
            cmd("object-add", **{"qom-type": "rng-builtin", "id": f"r{i}"})
        change = (time.monotonic() - begin) * 10
        cmd("quit")
    folder, name = os.open(tmp, os.O_RDONLY), os.path.join(tmp, "pair")
    begin = time.monotonic()
    for i in range(100):
        with open(name, "wb", buffering=0) as f:
            f.write(b"x" * 4096)
            os.fsync(f.fileno())
        os.rename(name, name + ".done")
        os.fsync(folder)
    pair = (time.monotonic() - begin) * 10
    os.close(folder)
    return {"a change of make-up, durable, ms": change, "a pair of fsyncs by hand, ms": pair}


CASES = {"restart": case_restart, "hotplug": case_hotplug, "state-change": case_state_change}
