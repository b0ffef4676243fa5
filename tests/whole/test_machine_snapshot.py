# SPDX-License-Identifier: BSD-2-Clause
"""A real guest that writes to its disk, and remembers in its memory what: both must come back as of one instant."""
import json, re, time

import pytest


MIB = 1 << 20


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


def test_back_and_on_in_a_fresh_process(boot, up, img, image):
    m = up(RUN, *disk(image), mem=128)
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
    m = boot(RUN, *disk(image), "-loadvm", "u", begin=False, mem=128)
    m.cmd("cont")
    assert verify(m) > 0
    m.process.wait(60)
    assert img("check", image).returncode == 0
    made = {s["name"]: s["vm-state-size"] for s in json.loads(img("info", "--output=json", image).stdout)["snapshots"]}
    assert set(made) == {"t", "u"} and 0 < made["u"] < made["t"] / 2


def damage(path, good=None):
    """Changes each page of the state but those that the load begins with; with `good`, the image's bytes of before, mends them."""
    data = path.read_bytes()
    with open(path, "r+b") as f:
        if good:
            f.write(good)
            return good
        at = data.index(b"\x8eSTRN\r\n\x1a") + MIB
        end = data.index(b"rCRC", at)
        assert end - at > 8 * MIB  # in one piece
        for page in range(at, end, 4096):
            f.seek(page + 1000)
            f.write(bytes(b ^ 0xff for b in data[page + 1000:page + 1064]))
    return data


def state_of(m, wanted):
    end = time.monotonic() + 20
    while time.monotonic() < end:
        status = m.cmd("query-status")["status"]
        if status == wanted:
            return True
        time.sleep(0.02)
    raise AssertionError(status)


def test_memory_that_cannot_be_read(boot, up, image):
    """The guest stands still rather than running with it, and goes on when it can be."""
    m = up("stamp mem 16", *disk(image), mem=128)
    m.wait("M seq=")
    job(m, "snapshot-save", "s")
    m.quit()
    good = damage(image)
    m = boot("stamp mem 16", *disk(image), "-loadvm", "t", begin=False, mem=128)
    for _ in range(2):
        before = len(m.lines)
        m.cmd("cont")
        state_of(m, "io-error")
        time.sleep(0.3)
        assert len(m.lines) == before
    said = open(m.stderr_path).read()
    assert re.search("snapshot 't' of node 'top': RAM 'ram' at 0x[0-9a-f]+ could not be read: its checksum is wrong; the machine stops", said), said
    assert any(e["event"] == "STOP" for e in m.events)
    damage(image, good)
    m.cmd("cont")
    m.type("verify\n")
    m.wait("MEM-OK|MEM-BAD")
    with m.cond:
        assert [x for _, x in m.lines if "MEM-" in x and "READY" not in x][0].startswith("MEM-OK")
    m.process.wait(60)
