# SPDX-License-Identifier: BSD-2-Clause
"""A real guest of machine type virt-0.1, whose check program rewrites its memory and compares it all the time, moves ten times to a
program that knows only what that release knew, and ten times back."""
import re

from test_migrate import until, verify

MIB, MOVES = 160, 10  # each way; with less Linux itself runs out of memory
OLD = "-as-release", "virt-0.1"
MACHINE = ("-M", "virt-0.1", "-blockdev", "driver=null-co,node-name=n0,size=1048576,read-only=on", "-device", "virtio-blk-pci,id=disk0,drive=n0")


def progress(m):
    """How much the check program has written, as soon as it says so here."""
    return int(re.search(r"M seq=(\d+)", m.wait(r"M seq=\d+")[1]).group(1))


def test_to_and_fro(boot, tmp_path):
    here = boot("stamp mem 8", *MACHINE, mem=MIB)
    here.wait("MEM-READY")
    done = progress(here)
    for i in range(2 * MOVES):
        there = boot("", *MACHINE, *(OLD if i % 2 == 0 else ()), "-incoming", f"unix:{tmp_path}/in{i}", mem=MIB, begin=False)
        there.cmd("cont")  # -S: as soon as it is there
        here.cmd("migrate-set-parameters", max_bandwidth=0)
        here.cmd("migrate", uri=f"unix:{tmp_path}/in{i}")
        info = until(here, "completed", "failed")
        assert info["status"] == "completed", (i, info)
        until(there, "completed")
        here.quit()
        assert not any("MEM-BAD" in text for _, text in here.lines), here.lines[-5:]
        here, before, done = there, done, progress(there)
        assert done > before
    verify(here)
