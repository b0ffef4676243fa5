# SPDX-License-Identifier: BSD-2-Clause
"""A live copy as a machine's disk: a driver in this file writes to it through qtest, in place of a guest."""
import os, time

import pytest
from qmp import QMPError
from qtest_disk import Disk
from sterna import program, run

MB = 1 << 20


@pytest.fixture
def files(tmp_path):
    img = program("sterna-img")
    with open(tmp_path / "s", "wb") as f:
        f.write(os.urandom(3 * MB))
        f.truncate(8 * MB)
    run(img, "create", "-q", "-f", "qcow2", "d", "8M", cwd=tmp_path).ok()
    run(img, "create", "-q", "-f", "live-copy", "-o", "source=s,source_fmt=raw,destination=d,region_size=64k", "x", cwd=tmp_path).ok()
    return tmp_path


def start(machine, files, *more):
    opts = ",".join(["driver=live-copy,node-name=lc", f"file.driver=file,file.filename={files}/x", "record-ms=50", "retry-ms=50", *more])
    return machine("-machine", "virt", "-nodefaults", "-blockdev", opts, "-device", "virtio-blk-device,drive=lc,id=v")


def state(m):
    node = next(n for n in m.qmp.cmd("query-named-block-nodes", flat=True) if n["node-name"] == "lc")
    return node["image"]["format-specific"]["data"]


def until(m, name):
    end = time.monotonic() + 60
    while state(m)["state"] != name:
        assert time.monotonic() < end, f"{state(m)}, not {name}"
        time.sleep(0.01)


def same(files):
    r = run(program("sterna-img"), "compare", "-f", "raw", "-F", "qcow2", "s", "d", cwd=files)
    assert r.rc == 0, r.out + r.err


def test_copy_switch_detach(machine, files):
    m = start(machine, files, "copying=off")
    disk = Disk(m)
    assert disk.write(0, b"A" * 4096) == 0 and disk.write(5 * MB, b"B" * 512) == 0
    assert state(m)["state"] == "copying" and state(m)["percentage"] == 0
    with pytest.raises(QMPError, match="The destination of live copy .* is not complete"):
        m.qmp.cmd("live-copy-switch", node_name="lc")
    with pytest.raises(QMPError, match="Parameter 'parallel' expects a number from 1 to 16"):
        m.qmp.cmd("live-copy-change", node_name="lc", parallel=0)
    m.qmp.cmd("live-copy-change", node_name="lc", copying=True, speed=20 * MB)
    assert disk.write(7 * MB, b"C" * 1024) == 0
    m.qmp.event("LIVE_COPY_STATE", state="in-sync")
    assert disk.write(2 * MB, b"D" * 4096) == 0 and disk.flush() == 0
    m.qmp.cmd("live-copy-switch", node_name="lc")
    m.qmp.cmd("live-copy-switch", node_name="lc")
    assert m.qmp.event("LIVE_COPY_STATE", state="switched")["data"]["live"] == "destination"
    assert disk.write(3 * MB, b"E" * 4096) == 0
    assert [disk.contents(o, 512)[:1] for o in (0, 2 * MB, 3 * MB, 5 * MB, 7 * MB)] == [b"A", b"D", b"E", b"B", b"C"]
    assert m.quit()[0] == 0
    same(files)
    os.unlink(files / "qtest.sock")
    m = start(machine, files)
    disk = Disk(m)
    m.qmp.cmd("live-copy-switch", node_name="lc", detach=True)
    until(m, "detached")
    assert disk.write(0, b"F" * 512) == 0
    assert m.quit()[0] == 0
    r = run(program("sterna-img"), "compare", "-f", "raw", "-F", "qcow2", "s", "d", cwd=files)
    assert r.rc == 1 and "Content mismatch at offset 0!" in r.out


def test_killed_machine(machine, files):
    """What the guest was told is on the disk is there on both sides, after the copy has been finished offline."""
    m = start(machine, files, "speed=30000000")
    disk = Disk(m)
    for i in range(60):
        assert disk.write(i * 128 * 1024, bytes([i + 1]) * 2048) == 0
    assert disk.flush() == 0
    m.process.kill()
    m.process.wait()
    run(program("sterna-img"), "copy", "--resume", "x", cwd=files).ok()
    same(files)
    with open(files / "s", "rb") as f:
        for i in range(60):
            f.seek(i * 128 * 1024)
            assert f.read(2048) == bytes([i + 1]) * 2048


def test_side_that_goes_away_and_comes_back(machine, files):
    run(program("sterna-img"), "copy", "--resume", "x", cwd=files).ok()
    os.rename(files / "d", files / "away")
    m = start(machine, files)
    disk = Disk(m)
    assert state(m)["destination"]["trouble"]
    assert disk.write(MB, b"G" * 4096) == 0 and disk.flush() == 0
    assert state(m)["state"] == "degraded" and state(m)["live"] == "source" and state(m)["marked-regions"] == 1
    os.rename(files / "away", files / "d")
    m.qmp.cmd("live-copy-change", node_name="lc", retry=True)
    until(m, "in-sync")
    assert m.quit()[0] == 0
    same(files)


def test_wrong_node(machine):
    m = machine("-machine", "none", "-nodefaults", "-blockdev", "driver=null-co,node-name=n", qtest=False)
    with pytest.raises(QMPError, match="Node 'n' is not a live copy"):
        m.qmp.cmd("live-copy-switch", node_name="n")
    with pytest.raises(QMPError, match="Cannot find device='' nor node-name='x'"):
        m.qmp.cmd("live-copy-change", node_name="x")


@pytest.mark.parametrize("mode", ["background", "write-blocking"])
@pytest.mark.parametrize("end", ["job-complete", "block-job-cancel"])
def test_only_what_is_written_goes_to_a_new_image(machine, tmp_path, mode, end):
    """It has the disk below it, and becomes the disk when the job is told so."""
    path, new = tmp_path / "disk.qcow2", tmp_path / "new"
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, "2M").ok()
    run(program("sterna-io"), "-c", "write -P 7 0 1M", path).ok()
    m = machine("-machine", "virt", "-m", "64", "-drive", f"if=none,id=d0,file={path},format=qcow2", "-device", "virtio-blk-device,drive=d0")
    disk, want = Disk(m), bytearray(b"\7" * MB + bytes(MB))

    def write(off, data):
        assert disk.write(off, data) == 0
        want[off:off + len(data)] = data

    m.qmp.cmd("drive-mirror", device="d0", target=str(new), sync="none", copy_mode=mode)
    m.qmp.event("BLOCK_JOB_READY", device="d0")
    for off in (512, 5 * 65536 + 1024, MB - 512, MB + 4096):
        write(off, b"n" * 1024)
    if end == "job-complete":
        m.qmp.cmd(end, id="d0")
    else:
        m.qmp.cmd(end, device="d0")
    assert "error" not in m.qmp.event("BLOCK_JOB_COMPLETED", device="d0")["data"]
    then = bytes(want)
    write(MB + 65536, b"a" * 512)
    for off in range(0, 2 * MB, 65536):
        assert disk.contents(off, 65536) == want[off:off + 65536]
    live, backing = (new, str(path)) if end == "job-complete" else (path, None)
    image = m.qmp.cmd("query-block")[0]["inserted"]["image"]
    assert image["filename"] == str(live) and image.get("backing-filename") == backing
    m.quit()
    out = tmp_path / "out"
    for image, contents in ((live, bytes(want)), (path, then)):  # the source goes on being below the new one: it stays as it is
        run(program("sterna-img"), "convert", "-f", "qcow2", "-O", "raw", image, out).ok()
        assert out.read_bytes() == (contents if end == "job-complete" else bytes(want))
    if end == "job-complete":
        assert new.stat().st_size < MB


def test_a_new_image_of_a_format_that_has_nothing_below_it(machine, tmp_path):
    path = tmp_path / "disk.qcow2"
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", path, "1M").ok()
    m = machine("-machine", "virt", "-m", "64", "-drive", f"if=none,id=d0,file={path},format=qcow2", "-device", "virtio-blk-device,drive=d0")
    with pytest.raises(QMPError, match="Backing file not supported for file format 'raw'"):
        m.qmp.cmd("drive-mirror", device="d0", target=str(tmp_path / "new"), format="raw", sync="none")
    assert not (tmp_path / "new").exists()
