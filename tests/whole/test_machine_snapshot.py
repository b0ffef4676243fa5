# SPDX-License-Identifier: BSD-2-Clause
"""A real guest that writes to its disk, and remembers in its memory what: both must come back as of one instant."""
import json, re, time

import pytest


@pytest.fixture
def image(img, tmp_path):
    img("create", "-q", "-f", "qcow2", tmp_path / "disk.qcow2", "64M")
    return tmp_path / "disk.qcow2"


def disk(path):
    return ["-drive", f"file={path},if=none,id=d,node-name=top,format=qcow2", "-device", "virtio-blk-pci,drive=d"]


def job(m, command, name, tag="t", **args):
    m.cmd(command, job_id=name, tag=tag, devices=["top"], **(args if command == "snapshot-delete" else {"vmstate": "top", **args}))
    end = time.monotonic() + 60
    while time.monotonic() < end:
        info = next(j for j in m.cmd("query-jobs") if j["id"] == name)
        if info["status"] == "concluded":
            assert "error" not in info, info
            m.cmd("job-dismiss", id=name)
            return info
        time.sleep(0.02)
    raise AssertionError(f"{name} does not end")


def verify(m):
    """The guest compares its disk with its memory; the number of writes that it knows of."""
    m.type("verify\n")
    end = time.monotonic() + 120
    while time.monotonic() < end:
        with m.cond:
            lines = [x for _, x in m.lines]
        done = [x for x in lines if re.search("VERIFY-|STAMP-ERROR", x)]
        if done:
            assert done[0].startswith("VERIFY-OK"), lines
            return next(int(re.search(r"seq=(\d+)", x)[1]) for x in lines if "RUN-DONE" in x)
        time.sleep(0.05)
    raise AssertionError(lines)


RUN = "stamp fill /dev/vda 16;stamp run /dev/vda 16 400 0"


def test_back_and_on_in_a_fresh_process(boot, img, image):
    m = boot(RUN, *disk(image))
    m.wait("W t=1")
    assert job(m, "snapshot-save", "s1")["pause-ns"] > 0
    m.wait("W t=3")
    before = len(m.lines)
    job(m, "snapshot-load", "l")
    while not any(x.startswith("W t=") for _, x in m.lines[before:]):  # it writes on from there
        time.sleep(0.05)
    job(m, "snapshot-save", "s2", tag="u", parent="t")  # so the fresh process reads both
    m.process.kill()
    m.process.wait()
    assert img("check", image, check=False).returncode in (0, 3)
    m = boot(RUN, *disk(image), "-loadvm", "u", begin=False)
    m.cmd("cont")
    assert verify(m) > 0
    m.process.wait(60)
    assert img("check", image).returncode == 0
    made = {s["name"]: s["vm-state-size"] for s in json.loads(img("info", "--output=json", image).stdout)["snapshots"]}
    assert set(made) == {"t", "u"} and 0 < made["u"] < made["t"] / 2
