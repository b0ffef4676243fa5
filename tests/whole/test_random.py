# SPDX-License-Identifier: BSD-2-Clause
"""The entropy device in a guest, on both buses: a Debian kernel reads it as /dev/hwrng."""
import pytest

from vm import VMError

READ = "dd if=/dev/hwrng bs=32 count=8 2>/dev/null|hexdump -C"
HWRNG = "/sys/class/misc/hw_random"


def test_limited_and_plugged_in_and_out(full, tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"\xa5" * 65536)
    m = full(f"cat /proc/uptime;{READ}|tail -n 1;echo END $(cat /proc/uptime);read x;"
             f"echo 1 >/sys/bus/pci/rescan;sleep 1;cat {HWRNG}/rng_available;echo virtio_rng.1 >{HWRNG}/rng_current;{READ};"
             "read x;echo 1 >/sys/bus/pci/devices/0000:00:10.0/remove;echo REMOVED;sleep 100")
    begin = float(m.wait(r"^\d+\.\d+ ")[1].split()[0])
    m.wait("^00000100")
    end = float(m.wait("^END")[1].split()[1])
    assert end - begin > 0.4  # 256 bytes are not to be had within one period
    m.cmd("object-add", qom_type="rng-random", id="r", filename=str(source))
    m.cmd("device_add", driver="virtio-rng-pci", id="rng0", rng="r", addr="10")
    m.type("\n")
    m.wait("virtio_rng.0 virtio_rng.1")
    m.wait("^00000000  " + "a5 " * 8 + " " + "a5 " * 8)
    with pytest.raises(VMError, match="in use by the guest's driver"):
        m.cmd("device_del", id="rng0")
    with pytest.raises(VMError, match="object 'r' is in use"):
        m.cmd("object-del", id="r")
    m.type("\n")
    m.wait("REMOVED")
    m.cmd("device_del", id="rng0")
    m.event("DEVICE_DELETED", device="rng0")
    m.cmd("object-del", id="r")
