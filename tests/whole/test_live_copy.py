# SPDX-License-Identifier: BSD-2-Clause
"""A running guest's disk is copied and switched; nothing it was told is written is ever missing."""
import os, random, re, signal, struct, time

import pytest
from standstill import Standstills
from vm import VMError, disk

BLOCK = 4096


@pytest.fixture
def images(img, tmp_path):
    src, dst = tmp_path / "source.qcow2", tmp_path / "copy.qcow2"
    for p in (src, dst):
        img("create", "-f", "qcow2", p, "256M")
    return src, dst


def wait_copy(m, status, timeout=120):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        c = m.cmd("query-block-copy")[0]
        if c["status"] != "active":
            assert c["status"] == status, c
            return c
        time.sleep(0.05)
    raise AssertionError(f"still active: {c}")


def guest_verifies(m):
    m.type("verify\n")
    assert m.wait("VERIFY-|STAMP-ERROR", 120)[1].startswith("VERIFY-OK")
    m.process.wait(60)


def test_block_copy_switches_under_load(up, img, images):
    src, dst = images
    m = up("stamp fill /dev/vda 64;stamp run /dev/vda 64 300 0", *disk(src))
    m.wait("RUN-READY")
    time.sleep(1)
    with Standstills() as standstills:
        m.cmd("block_copy", device="disk0", filename=str(dst))
        done = wait_copy(m, "completed")
        end, pause = time.monotonic(), done["info"]["pause-ns"] / 1e9
    assert done["info"]["stage"] == "switched"
    assert pause - standstills.during(end - pause - 0.2, end) < 0.05, (pause, standstills.late)  # it is seen that soon
    os.unlink(src)
    time.sleep(1)
    guest_verifies(m)
    assert img("check", dst).returncode == 0


def test_commit_file_names_the_new_image(up, images, tmp_path):
    src, dst = images
    commit = tmp_path / "commit"
    m = up("stamp fill /dev/vda 16;stamp run /dev/vda 16 100 0", *disk(src))
    m.wait("RUN-READY")
    m.cmd("block_copy", device="disk0", filename=str(dst), commit_filename__=str(commit))
    wait_copy(m, "completed")
    text = commit.read_text()
    assert text.endswith("\n") and text.count("\n") == 1
    assert "disk0" in text and str(dst) in text


@pytest.mark.parametrize("mode", ["background", "write-blocking"])
def test_mirror_and_switch_when_told(up, img, images, mode):
    src, dst = images
    m = up("stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0", *disk(src))
    m.wait("RUN-READY")
    m.cmd("blockdev-add", driver="qcow2", node_name="t0", file={"driver": "file", "filename": str(dst)})
    m.cmd("blockdev-mirror", job_id="j", device="disk", target="t0", sync="full", copy_mode=mode)
    m.event("BLOCK_JOB_READY", device="j")
    time.sleep(1)
    m.cmd("job-complete", id="j")
    e = m.event("BLOCK_JOB_COMPLETED", device="j")
    assert "error" not in e["data"] and e["data"]["len"] == e["data"]["offset"]
    time.sleep(0.5)
    guest_verifies(m)
    assert img("check", dst).returncode == 0


def test_cancel_leaves_the_guest_on_the_source(up, img, images):
    src, dst = images
    m = up("stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0", *disk(src))
    m.wait("RUN-READY")
    m.cmd("blockdev-add", driver="qcow2", node_name="t0", file={"driver": "file", "filename": str(dst)})
    m.cmd("blockdev-mirror", job_id="j", device="disk", target="t0", sync="full", speed=4 << 20)
    time.sleep(1)
    m.cmd("block-job-cancel", device="j")
    m.event("BLOCK_JOB_CANCELLED", device="j")
    guest_verifies(m)
    assert img("check", src).returncode == 0


def test_killed_in_mid_copy(up, img, images, tmp_path):
    src, dst = images
    acked = {}

    def on_line(text):
        found = re.match(r"ACK off=(\d+) seq=(\d+)$", text)
        if found:
            acked[int(found.group(1))] = int(found.group(2))
    m = up("stamp fill /dev/vda 32;stamp -a run /dev/vda 32 300 0", *disk(src), on_line=on_line)
    m.wait("RUN-READY")
    time.sleep(1)
    m.cmd("blockdev-add", driver="qcow2", node_name="t0", file={"driver": "file", "filename": str(dst)})
    m.cmd("blockdev-mirror", job_id="j", device="disk", target="t0", sync="full", speed=16 << 20)
    time.sleep(random.uniform(0.3, 1.5))
    m.process.send_signal(signal.SIGKILL)
    m.process.wait()
    time.sleep(0.2)
    assert acked
    assert img("check", "-r", "leaks", src).returncode == 0
    raw = tmp_path / "source.raw"
    img("convert", "-O", "raw", src, raw)
    with open(raw, "rb") as f:
        for off, seq in acked.items():
            f.seek(off)
            _, place, found = struct.unpack("<QQQ", f.read(24))
            assert place == off and found >= seq


def test_destination_that_fills_up(up, img, images, tmp_path):
    """The copy fails with a clear error; the guest goes on on the source."""
    src, dst = images
    m = up("stamp fill /dev/vda 32;stamp run /dev/vda 32 300 0", *disk(src))
    m.wait("RUN-READY")
    m.cmd("blockdev-add", driver="qcow2", node_name="t0", file={
        "driver": "blkdebug", "image": {"driver": "file", "filename": str(dst)},
        "inject-error": [{"event": "write_aio", "errno": 28, "sector": 40000}]})
    m.cmd("blockdev-mirror", job_id="j", device="disk", target="t0", sync="full")
    e = m.event("BLOCK_JOB_COMPLETED", device="j")
    assert "No space left on device" in e["data"]["error"]
    guest_verifies(m)
    assert img("check", src).returncode == 0


@pytest.mark.parametrize("args, text", [
    (dict(device="nosuch", filename="/x"), "nosuch"),
    (dict(device="disk0", filename="/nosuch/image"), "/nosuch/image"),
])
def test_block_copy_errors_name_the_object(boot, images, args, text):
    m = boot("sleep 1000", *disk(images[0]), begin=False)
    with pytest.raises(VMError, match=text):
        m.cmd("block_copy", **args)


def test_block_copy_refuses_another_size(boot, img, images, tmp_path):
    other = tmp_path / "other.qcow2"
    img("create", "-f", "qcow2", other, "128M")
    m = boot("sleep 1000", *disk(images[0]), begin=False)
    with pytest.raises(VMError, match="(?s)268435456.*134217728|134217728.*268435456"):
        m.cmd("block_copy", device="disk0", filename=str(other))
