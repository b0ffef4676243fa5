# SPDX-License-Identifier: BSD-2-Clause
"""What a guest finds in its machine is the same before its state is saved, after that, and in the process that loads it."""
import time

LOOK = ("cat /proc/cpuinfo /proc/iomem;sha256sum /sys/firmware/fdt;grep . /sys/bus/virtio/devices/*/features /sys/bus/virtio/devices/*/status;"
        "for i in /sys/bus/pci/devices/*;do echo $i;sha256sum $i/config;cat $i/resource;done;"
        "grep . /sys/block/vd*/size /sys/block/vd*/queue/* /sys/block/vd*/cache_type /sys/block/vd*/serial;ls /sys/block/vda/mq")


def found(m, tag):
    """The guest's answer to one look; its shell reads what is typed."""
    m.type(f"{tag}\n")
    m.wait(f"LOOKED-{tag}$", 120)
    lines = [text for _, text in m.lines]
    end = max(i for i, x in enumerate(lines) if x.endswith(f"LOOKED-{tag}"))
    begin = max(i for i, x in enumerate(lines[:end]) if "LOOK-BEGINS" in x)
    return lines[begin + 1:end]


def job_end(m, name):
    while True:
        info = next(j for j in m.cmd("query-jobs") if j["id"] == name)
        if info["status"] == "concluded":
            m.cmd("job-dismiss", id=name)
            return info.get("error")
        time.sleep(.1)


def test_guest_finds_the_same(boot, img, tmp_path):
    image = tmp_path / "d.qcow2"
    img("create", "-q", "-f", "qcow2", image, "64M")
    disk = ("-blockdev", f"qcow2,node-name=d,file.driver=file,file.filename={image}", "-device", "virtio-blk-pci,drive=d,id=disk0,serial=tern")
    run = f"echo READY;while read x;do echo LOOK-BEGINS;{LOOK};echo LOOKED-$x;done"
    m = boot(run, "-smp", "2", *disk, machine="virt-0.1", mem=128)
    m.wait("READY")
    before = found(m, "a")
    assert len(before) > 50 and any("rv64" in x for x in before) and any("/sys/block/vda/size" in x for x in before)
    m.cmd("snapshot-save", job_id="j", tag="t", vmstate="d", devices=["d"])
    assert job_end(m, "j") is None
    assert found(m, "b") == before
    m.quit()
    again = boot(run, "-smp", "2", *disk, "-loadvm", "t", machine="virt-0.1", mem=128, begin=False)
    again.cmd("cont")
    assert found(again, "c") == before
