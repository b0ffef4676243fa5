# SPDX-License-Identifier: BSD-2-Clause
"""An unmodified Debian kernel boots, uses its devices, and leaves as told."""
import os, subprocess, time

from conftest import QUICK
from vm import VMError, disk


def test_boots_and_powers_off(boot):
    m = boot("uname -m")
    m.wait("GUEST-UP")
    m.wait("^riscv64")
    e = m.event("SHUTDOWN", timeout=60)
    assert e["data"] == {"guest": True, "reason": "guest-shutdown"}
    m.process.wait(60)
    assert m.process.returncode == 0
    assert m.stderr() == ""


def test_several_harts_and_the_legacy_drive_option(boot, img, tmp_path):
    image = tmp_path / "d.raw"
    img("create", "-f", "raw", image, "16M")
    m = boot("nproc;cat /proc/interrupts;cat /sys/block/vda/size;cat /sys/block/vda/serial", "-smp", "4",
             "-drive", f"file={image},format=raw,if=virtio,serial=tern")
    m.wait("^4")
    m.wait("^32768")
    m.wait("^tern")
    m.process.wait(60)
    assert m.process.returncode == 0


def test_disk_keeps_what_is_written(up, img, tmp_path):
    image = tmp_path / "d.qcow2"
    img("create", "-f", "qcow2", image, "256M")
    m = up("stamp fill /dev/vda 32", *disk(image))
    m.wait("FILL-DONE")
    m.process.wait(60)
    assert img("check", image).returncode == 0
    m = up("stamp verify /dev/vda 32", *disk(image))
    assert m.wait("VERIFY-")[1] == "VERIFY-OK blocks=8192 bad=0 stale=0 blank=0"


def test_file_system_on_a_disk(up, img, tmp_path):
    image = tmp_path / "d.qcow2"
    img("create", "-f", "qcow2", image, "256M")
    m = up("for m in /mod/fs/*.ko;do insmod $m;done;mke2fs /dev/vda;mkdir -p /mnt;mount -t ext4 /dev/vda /mnt;seq 1 100000 >/mnt/x;sync;sha256sum /mnt/x;umount /mnt;"
           "mount -t ext4 /dev/vda /mnt;sha256sum /mnt/x;echo FS-DONE", *disk(image))
    m.wait("FS-DONE", 120)
    sums = [text.split()[0] for _, text in m.lines if text.endswith("/mnt/x") and len(text) > 64]
    expected = subprocess.run("seq 1 100000 | sha256sum", shell=True, capture_output=True, text=True).stdout.split()[0]
    assert sums == [expected, expected]


def test_stop_and_cont(up):
    m = up("stamp tick 5")
    m.wait("GUEST-UP")
    time.sleep(1)
    m.cmd("stop")
    assert m.cmd("query-status") == {"running": False, "status": "paused"} or m.cmd("query-status")["status"] == "paused"
    time.sleep(0.3)
    before = len(m.ticks)
    time.sleep(0.7)
    assert len(m.ticks) == before
    m.cmd("cont")
    end = time.monotonic() + 60
    while len(m.ticks) <= before + 20:
        assert time.monotonic() < end, len(m.ticks) - before
        time.sleep(0.05)


def test_reset_ends_it(up):
    m = up("stamp tick 100")
    m.wait("GUEST-UP")
    with m.cond:
        m.lines.clear()
    m.cmd("system_reset")
    # -no-reboot, which this harness gives, turns a reset by the host into an exit, as QEMU does
    m.process.wait(30)
    assert m.event("SHUTDOWN")["data"] == {"guest": False, "reason": "host-qmp-system-reset"}


def test_idle_guest_costs_nothing_and_sigterm_ends_it(up):
    m = up("sleep 1000")
    m.wait("GUEST-UP")
    assert m.memory_mib()[1] < 24  # beyond its RAM
    time.sleep(3)
    a = m.cpu_seconds()
    time.sleep(5)
    assert (m.cpu_seconds() - a) / 5 < 0.04
    m.process.terminate()
    m.process.wait(10)
    assert m.process.returncode == 0
    assert "terminating on signal 15" in m.stderr()


def test_example_embeds_a_machine(guest, img, tmp_path):
    image = tmp_path / "d.qcow2"
    img("create", "-f", "qcow2", image, "64M")
    r = subprocess.run([os.path.join(os.environ["STERNA_BUILD"], "examples/embed"), f"{guest}/Image", f"{guest}/sterna.ird",
                        QUICK + "stamp+fill+/dev/vda+16;stamp+verify+/dev/vda+16", image],
                       capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert r.returncode == 0, r.stderr
    assert "VERIFY-OK blocks=4096" in r.stdout
    assert img("check", image).returncode == 0
