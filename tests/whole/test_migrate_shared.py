# SPDX-License-Identifier: BSD-2-Clause
"""A real guest that writes to its disk and knows what it was told is written moves ten times over one image, and no write is lost."""
import json, os, time

import pytest
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


SLOW = 1 << 20


def until_status(m, job, wanted):
    end = time.monotonic() + 60
    while (now := {j["id"]: j["status"] for j in m.cmd("query-jobs")}).get(job) != wanted:
        assert time.monotonic() < end, now
        time.sleep(0.01)


def go(boot, here, tmp_path, number, *args):
    there = boot("", *args, "-incoming", f"unix:{tmp_path}/in{number}", mem=128, begin=False)
    there.cmd("cont")
    here.cmd("migrate-set-parameters", max_bandwidth=0)
    here.cmd("migrate", uri=f"unix:{tmp_path}/in{number}")
    info = until(here, "completed", "failed")
    assert info["status"] == "completed", info
    until(there, "completed")
    here.quit()
    return there


def finish(m, *jobs):
    for j in jobs:
        m.cmd("block-job-set-speed", device=j, speed=0)


def ends(m, names):
    for n in names:
        assert "error" not in m.event("BLOCK_JOB_COMPLETED", device=n)["data"], n


def filled(img, tmp_path):
    """The disk, which holds something that the guest does not write to, too."""
    (tmp_path / "raw").write_bytes(os.urandom(48 << 20))
    img("convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "d")
    img("resize", "-f", "qcow2", tmp_path / "d", "64M")
    os.unlink(tmp_path / "raw")


def images(img, tmp_path, *names):
    """Images for copies, and the options that open them; that of the disk is there."""
    for n in (n for n in names if n != "d"):
        img("create", "-f", "qcow2", tmp_path / n, "64M")
    return [x for n in names for x in ("-blockdev", json.dumps({"driver": "qcow2", "node-name": n, "discard": "unmap",
                                                                "file": {"driver": "file", "filename": str(tmp_path / n)}}))]


def guest_verifies(m):
    m.type("verify\n")
    assert m.wait("VERIFY-|STAMP-ERROR", 120)[1].startswith("VERIFY-OK")
    m.process.wait(60)


def test_jobs_that_end_together(boot, up, img, tmp_path):
    """Of one instant: a backup that ends here, and waits, and one that goes on at two other places, hold the same; a mirror that was told to
    complete becomes the guest's disk when they are through."""
    filled(img, tmp_path)
    args = [*disk(tmp_path / "d"), *images(img, tmp_path, "mirror", "soon", "late")]
    here = up("stamp fill /dev/vda 8;stamp run /dev/vda 8 300 0", *args, mem=128)
    here.wait("RUN-READY")
    jobs = {n: ("blockdev-mirror" if n == "mirror" else "blockdev-backup", SLOW) for n in ("mirror", "soon", "late")}
    here.cmd("transaction", properties={"completion-mode": "grouped"}, actions=[
        {"type": t, "data": {"job-id": n, "device": "top", "target": n, "sync": "full", "speed": s}} for n, (t, s) in jobs.items()])
    finish(here, "soon")
    until_status(here, "soon", "waiting")
    here = go(boot, here, tmp_path, 0, *args)
    finish(here, "mirror")
    here.event("BLOCK_JOB_READY", device="mirror")
    here.cmd("job-complete", id="mirror")
    until_status(here, "mirror", "waiting")
    here = go(boot, here, tmp_path, 1, *args)
    for n in "mirror", "soon":
        until_status(here, n, "waiting")
    finish(here, "late")
    ends(here, jobs)
    assert here.cmd("query-block")[0]["inserted"]["node-name"] == "mirror"
    guest_verifies(here)
    assert img("compare", tmp_path / "soon", tmp_path / "late", check=False).returncode == 0
    assert img("check", tmp_path / "mirror").returncode == 0 and img("compare", tmp_path / "soon", tmp_path / "mirror", check=False).returncode == 1


@pytest.mark.parametrize("discard", [False, True])
def test_a_backup_of_what_a_filter_keeps(boot, up, img, tmp_path, discard):
    """It moves twice, and holds what one holds that was made at once."""
    filled(img, tmp_path)
    args = images(img, tmp_path, "d", "kept", "soon", "late")
    for f in {"driver": "copy-before-write", "node-name": "cbw", "file": "d", "target": "kept"}, {"driver": "snapshot-access", "node-name": "access", "file": "cbw"}:
        args += ["-blockdev", json.dumps(f)]
    args += ["-device", "virtio-blk-pci,drive=cbw"]
    here = up("stamp fill /dev/vda 8;stamp run /dev/vda 8 300 0", *args, mem=128)
    here.wait("RUN-READY")
    here.cmd("blockdev-backup", job_id="soon", device="access", target="soon", sync="full")
    ends(here, ["soon"])
    here.cmd("blockdev-backup", job_id="late", device="access", target="late", sync="full", speed=SLOW, discard_source=discard)
    for i in range(2):
        here = go(boot, here, tmp_path, i, *args)
        until_status(here, "late", "running")
    finish(here, "late")
    ends(here, ["late"])
    guest_verifies(here)
    assert img("compare", tmp_path / "soon", tmp_path / "late", check=False).returncode == 0
