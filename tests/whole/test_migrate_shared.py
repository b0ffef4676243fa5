# SPDX-License-Identifier: BSD-2-Clause
"""A real guest that writes to its disk and knows what it was told is written moves ten times over one image, and no write is lost."""
import os

from test_machine_snapshot import disk
from test_migrate import until

MOVES = 10


def test_there_and_back(boot, up, img, tmp_path):
    img("create", "-f", "qcow2", tmp_path / "d", "64M")
    here = up("stamp fill /dev/vda 8;stamp run /dev/vda 8 300 0", *disk(tmp_path / "d"), mem=128)
    here.wait("RUN-READY")
    for i in range(MOVES):
        there = boot("", *disk(tmp_path / "d"), "-incoming", f"unix:{tmp_path}/in{i}", mem=128, begin=False)
        there.cmd("cont")
        here.cmd("migrate-set-parameters", max_bandwidth=0)
        here.cmd("migrate", uri=f"unix:{tmp_path}/in{i}")
        info = until(here, "completed", "failed")
        assert info["status"] == "completed", info
        until(there, "completed")
        assert there.cmd("query-status")["running"]
        here.quit()
        here = there
    here.type("verify\n")
    assert here.wait("VERIFY-|STAMP-ERROR", 120)[1].startswith("VERIFY-OK")
    here.process.wait(60)
    assert img("check", tmp_path / "d").returncode == 0
    os.unlink(tmp_path / "d")
