# SPDX-License-Identifier: BSD-2-Clause
"""A real guest that rewrites its memory moves to another process, by a socket and by a file, and its memory is right."""
import os, time

import pytest

from vm import VMError, disk

MIB = 256


def until(m, *wanted, timeout=60):
    end = time.monotonic() + timeout
    while m.cmd("query-migrate").get("status") not in wanted:
        assert time.monotonic() < end, m.cmd("query-migrate")
        time.sleep(0.005)
    return m.cmd("query-migrate")


def verify(m):
    m.type("verify\n")
    assert "MEM-OK" in m.wait("MEM-OK|MEM-BAD")[1], m.lines[-5:]


def test_there_and_on(boot, up, tmp_path):
    src = up("stamp mem 24", mem=MIB)
    dst = boot("", "-incoming", f"unix:{tmp_path}/in", mem=MIB, begin=False)
    dst.cmd("cont")  # -S: as soon as it is there
    src.wait("MEM-READY")
    src.cmd("migrate-set-parameters", max_bandwidth=0, downtime_limit=100)
    before = src.cmd("query-migrate")
    src.cmd("migrate", uri=f"unix:{tmp_path}/in", dry_run=True)
    assert src.cmd("query-migrate") == before
    src.cmd("migrate", uri=f"unix:{tmp_path}/in")
    info = until(src, "completed", "failed")
    assert info["status"] == "completed", info
    assert info["ram"]["remaining"] == 0 and info["ram"]["dirty-sync-count"] > 0 and info["downtime"] < 2000
    assert src.cmd("query-status") == {"running": False, "status": "postmigrate"}
    with pytest.raises(VMError, match="may run elsewhere"):
        src.cmd("cont")
    # From there into a file, after which it may go on where it is; and out of it once more.
    dst.cmd("migrate-set-parameters", compression="zstd")
    dst.cmd("migrate", uri=f"exec:cat > {tmp_path}/state")
    assert until(dst, "completed", "failed")["status"] == "completed"
    third = boot("", "-incoming", f"exec:cat {tmp_path}/state", mem=MIB, begin=False)
    third.cmd("cont")
    until(third, "completed")
    dst.cmd("cont")
    verify(third)
    verify(dst)


@pytest.mark.parametrize("mode", ["pre-copy", "post-copy"])
def test_with_its_disk(boot, up, img, tmp_path, mode):
    """A guest that writes to its disk all the time, and knows what it was told is written; it goes on there when its disk is there, or before."""
    for name in "here", "there":
        img("create", "-f", "qcow2", tmp_path / name, "256M")
    src = up("stamp fill /dev/vda 48;stamp run /dev/vda 48 300 0", *disk(tmp_path / "here"), mem=MIB)
    dst = boot("", *disk(tmp_path / "there"), "-incoming", f"unix:{tmp_path}/in", mem=MIB, begin=False)
    dst.cmd("cont")
    src.wait("RUN-READY")
    src.cmd("migrate-set-parameters", max_bandwidth=0)
    src.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": "disk0", "mode": mode}])
    info = until(src, "completed", "failed")
    assert info["status"] == "completed" and (mode == "post-copy" or info["disk"]["remaining"] == 0), info
    src.quit()
    os.unlink(tmp_path / "here")
    dst.type("verify\n")
    assert dst.wait("VERIFY-|STAMP-ERROR", 120)[1].startswith("VERIFY-OK")
    dst.process.wait(60)
    assert img("check", tmp_path / "there").returncode == 0
