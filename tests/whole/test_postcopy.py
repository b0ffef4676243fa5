# SPDX-License-Identifier: BSD-2-Clause
"""A real guest that rewrites its memory runs at the destination before its RAM is there, and finds all of it right: over one
connection, and over one that is cut again and again."""
import time

import pytest
from faulty_link import FORTH, FaultyLink
from test_migrate import disk, until, verify

MIB = 256
ON = [{"capability": "postcopy-ram", "state": True}, {"capability": "release-ram", "state": True}]


def prepare(boot, up, tmp_path, to, multifd=False):
    src = up("stamp mem 24", mem=MIB)
    dst = boot("", "-incoming", f"unix:{tmp_path}/in", mem=MIB, begin=False)
    dst.cmd("cont")  # -S: as soon as it is there
    src.wait("MEM-READY")
    src.cmd("migrate-set-capabilities", capabilities=ON + [{"capability": "multifd", "state": multifd}])
    src.cmd("migrate-set-parameters", max_bandwidth=1 << 20)
    src.cmd("migrate", uri=f"unix:{to}")
    until(src, "active")
    return src, dst


@pytest.mark.parametrize("multifd", [False, True])
def test_ram_follows(boot, up, tmp_path, multifd):
    src, dst = prepare(boot, up, tmp_path, f"{tmp_path}/in", multifd)
    src.cmd("migrate-start-postcopy")
    until(dst, "postcopy-active", "completed")
    info = until(src, "completed", "failed")
    assert info["status"] == "completed" and info["ram"]["postcopy-requests"] > 0 and info["ram"]["remaining"] == 0, info
    assert until(dst, "completed")["postcopy-latency-max"] > 0
    verify(dst)


def test_cut_again_and_again(boot, up, tmp_path):
    limits = [0, 100, 5000, 1 << 20, 3 << 20, 7 << 20, 1 << 62]
    link, at = FaultyLink(f"{tmp_path}/proxy", f"{tmp_path}/in"), f"{tmp_path}/in"
    link.fault("cut", FORTH, 6 << 20)
    src, dst = prepare(boot, up, tmp_path, f"{tmp_path}/proxy")
    src.cmd("migrate-start-postcopy")
    for n in range(20):
        state = until(src, "completed", "postcopy-paused")["status"]
        if state == "completed":
            break
        there = until(dst, "postcopy-paused", "postcopy-recover-setup")["status"]
        assert dst.cmd("query-status")["status"] == "running"
        if there == "postcopy-paused":  # else what came was cut before it said who it is, and is still waited for
            at = f"{tmp_path}/in{n}"
            dst.cmd("migrate-recover", uri=f"unix:{at}")
        link.wait(20)
        link.fault("cut", FORTH, limits[min(n, 6)], to=at)
        src.cmd("migrate", uri=f"unix:{tmp_path}/proxy", resume=True)
        time.sleep(0.05)
    assert state == "completed" and n >= 4
    until(dst, "completed")
    verify(dst)


def test_with_its_disk(boot, up, img, tmp_path):
    """Requests whose rings or buffers have not come wait for them, also without a connection; the disk was there before."""
    for name in "here", "there":
        img("create", "-f", "qcow2", tmp_path / name, "256M")
    src = up("stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0", *disk(tmp_path / "here"), mem=MIB)
    dst = boot("", *disk(tmp_path / "there"), "-incoming", f"unix:{tmp_path}/in", mem=MIB, begin=False)
    dst.cmd("cont")
    src.wait("RUN-READY")
    src.cmd("migrate-set-capabilities", capabilities=ON)
    src.cmd("migrate-set-parameters", max_bandwidth=0, max_postcopy_bandwidth=4 << 20)
    src.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": "disk0", "mode": "pre-copy"}])
    src.cmd("migrate-start-postcopy")
    until(dst, "postcopy-active")
    dst.cmd("migrate-pause")
    until(src, "postcopy-paused")
    until(dst, "postcopy-paused")
    dst.cmd("stop")  # nobody waits for what does not come
    dst.cmd("cont")
    dst.cmd("migrate-recover", uri=f"unix:{tmp_path}/again")
    src.cmd("migrate-set-parameters", max_postcopy_bandwidth=0)
    src.cmd("migrate", uri=f"unix:{tmp_path}/again", resume=True)
    assert until(src, "completed", "failed")["status"] == "completed"
    src.quit()
    dst.type("verify\n")
    assert dst.wait("VERIFY-|STAMP-ERROR", 120)[1].startswith("VERIFY-OK")
