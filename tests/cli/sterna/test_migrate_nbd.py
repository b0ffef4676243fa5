# SPDX-License-Identifier: BSD-2-Clause
"""docs/migration.md's recipe for a disk that follows over a connection of its own: the destination's image is an overlay of what an NBD server
shows at the source's host, and is filled when the guest runs there already."""
import os, random, subprocess, time

import pytest
from sterna import program, run
from test_migrate import info, running, start, until  # noqa: F401 (one is a fixture)
from test_migrate_disks import disk, write

SIZE = 4 << 20


@pytest.fixture
def content(tmp_path):
    data = bytearray(SIZE)
    data[1 << 20:3 << 20] = random.Random(3).randbytes(2 << 20)
    (tmp_path / "here").write_bytes(data)
    return data


@pytest.fixture
def daemon(tmp_path, content):
    """One that serves the image to both: its address."""
    p = subprocess.Popen([program("sterna-nbd"), "-t", "-e", "4", "-f", "raw", "-x", "d", "-k", str(tmp_path / "nbd"), str(tmp_path / "here")])
    end = time.monotonic() + 60
    while not os.path.exists(tmp_path / "nbd"):
        assert time.monotonic() < end and p.poll() is None
        time.sleep(0.01)
    yield p
    p.kill()
    p.wait()


def reads(m, at, value, length=65536):
    said = m.qmp.cmd("human-monitor-command", command_line=f'qemu-io d "read -P {value} {at} {length}"')
    return said.startswith(f"read {length}") and "failed" not in said, said


def waiting(start, tmp_path):
    """The destination: its overlay's header says what is below."""
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-b", f"nbd+unix:///d?socket={tmp_path}/nbd", "-F", "raw", tmp_path / "there").ok()
    return start(*disk(tmp_path / "there", fmt="qcow2"), "-incoming", f"unix:{tmp_path}/in")


def follow(src, dst, tmp_path, content):
    """The guest writes here, moves, writes there and reads what it has written; the rest follows."""
    write(src, 3 << 20, 5)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in", disks=[{"device": "d", "mode": "none"}])
    assert until(src, "completed", "failed")["status"] == "completed", info(src)
    until(dst, "completed")
    assert running(dst) and not running(src)
    for at, value in ((3 << 20), 5), (0, 0):
        assert reads(dst, at, value)[0], reads(dst, at, value)
    write(dst, 1 << 20, 6)
    content[3 << 20:(3 << 20) + 65536] = b"\5" * 65536
    assert (tmp_path / "here").read_bytes() == content  # the move changes nothing of it
    content[1 << 20:(1 << 20) + 65536] = b"\6" * 65536


def fill(dst):
    dst.qmp.cmd("block-stream", job_id="s", device="d-node")
    assert "error" not in dst.qmp.event("BLOCK_JOB_COMPLETED", device="s")["data"]
    assert {n["drv"] for n in dst.qmp.cmd("query-named-block-nodes", flat=True)} == {"qcow2", "file"}


def whole(dst, tmp_path, content):
    """Without anything of the source."""
    assert reads(dst, 3 << 20, 5)[0] and reads(dst, 1 << 20, 6)[0] and running(dst)
    assert dst.quit()[0] == 0
    os.unlink(tmp_path / "here")
    run(program("sterna-img"), "convert", "-O", "raw", tmp_path / "there", tmp_path / "flat").ok()
    assert (tmp_path / "flat").read_bytes() == content


def test_the_source_shows_its_disk(start, tmp_path, content):  # noqa: F811
    """It stays, with its guest gone, until all has followed."""
    src = start(*disk(tmp_path / "here"))
    src.qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(tmp_path / "nbd")}})
    src.qmp.cmd("block-export-add", type="nbd", id="x", node_name="d-node", name="d")
    dst = waiting(start, tmp_path)
    follow(src, dst, tmp_path, content)
    fill(dst)
    src.qmp.when_unused("block-export-del", id="x")  # of which it hears a moment after the destination has let go
    src.qmp.event("BLOCK_EXPORT_DELETED", id="x")
    assert src.quit()[0] == 0
    whole(dst, tmp_path, content)


def test_a_daemon_shows_it(start, tmp_path, content, daemon):  # noqa: F811
    """The source's program can end when the guest runs there."""
    src = start("-blockdev", f"driver=nbd,node-name=d-node,export=d,server.type=unix,server.path={tmp_path}/nbd", "-device", "virtio-blk-device,id=d,drive=d-node")
    dst = waiting(start, tmp_path)
    follow(src, dst, tmp_path, content)
    assert src.quit()[0] == 0
    fill(dst)
    daemon.terminate()
    daemon.wait(60)
    whole(dst, tmp_path, content)
