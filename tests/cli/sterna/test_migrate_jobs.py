# SPDX-License-Identifier: BSD-2-Clause
"""Jobs that are under way when their machine moves: they go on there where they stood, stay here, or end first."""
import json, time

import pytest
from faulty_link import BACK, FORTH, FaultyLink
from machine import Machine
from sterna import program, run
from test_as_release import OLD
from test_migrate import gone, info, running, start, until  # noqa: F401 (start is a fixture)
from test_migrate_shared import SIZE, active, disk, image, io, move, moved, reads, waiting, write  # noqa: F401 (waiting is a fixture)

SLOW = 1 << 17  # bytes a second: of 8 MiB something is left, also where all takes ten times as long


def target(path, name="copy"):
    return "-blockdev", json.dumps({"driver": "qcow2", "node-name": name, "file": {"driver": "file", "filename": str(path)}})


def chain(tmp, *names):
    """A disk of these layers, the lowest first: d-node is the top one."""
    opts = None
    for n in names:
        opts = {"driver": "qcow2", "node-name": "d-node" if n == names[-1] else n, "backing": opts, "file": {"driver": "file", "filename": str(tmp / n)}}
    return "-blockdev", json.dumps(opts), "-device", "virtio-blk-device,drive=d-node,id=d"


def jobs(m):
    return {j["device"]: j for j in m.qmp.cmd("query-block-jobs")}


def some_way(m, job="j"):
    """It has done a part."""
    end = time.monotonic() + 60
    while not 0 < jobs(m)[job]["offset"] < jobs(m)[job]["len"]:
        assert time.monotonic() < end, jobs(m)
        time.sleep(0.005)
    return jobs(m)[job]["offset"]


def fate(m, wanted, job="j"):
    end = time.monotonic() + 60
    while not (all_of := {j["id"]: j for j in m.qmp.cmd("query-migrate").get("jobs", [])}):
        assert time.monotonic() < end
    assert all_of[job]["fate"] == wanted, all_of
    return all_of[job].get("reason", "")


def went(src, dst, done, job="j"):
    """It is there, not from the beginning, and it is not here any more."""
    assert job not in jobs(src) and jobs(dst)[job]["offset"] >= done, (jobs(src), jobs(dst))


def finish(m, job="j"):
    m.qmp.cmd("block-job-set-speed", device=job, speed=0)
    assert "error" not in m.qmp.event("BLOCK_JOB_COMPLETED", device=job)["data"]


def equal(*paths):
    return run(program("sterna-img"), "compare", *map(str, paths)).rc == 0


def fill(m, node="d"):
    for i in range(SIZE >> 20):
        assert "wrote" in io(m, f"write -P {i + 1} {i}M 1M", node)


def layered(tmp_path):
    """base, full of 5, and top over it."""
    image(tmp_path / "base")
    run(program("sterna-io"), "-c", "write -P 5 0 8M", str(tmp_path / "base"))
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-b", "base", "-F", "qcow2", str(tmp_path / "top"))


def test_backup(start, waiting, tmp_path):
    """It holds what the disk did when it began, whatever is written here and there; what it has is not copied again."""
    path, copy, before = image(tmp_path / "d"), image(tmp_path / "copy"), tmp_path / "before"
    src = start(*disk(path), *target(copy))
    fill(src)
    src.qmp.cmd("stop")
    before.write_bytes(b"".join(bytes([i + 1]) * (1 << 20) for i in range(SIZE >> 20)))
    src.qmp.cmd("cont")
    dst, where = waiting(*disk(path), *target(copy))
    src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
    done = some_way(src)
    write(src, 7 << 20, 99)
    move(src, where)
    moved(src, dst)
    went(src, dst, done)
    write(dst, 6 << 20, 98)
    write(dst, 0, 97)
    finish(dst)
    stats = next(s for s in dst.qmp.cmd("query-blockstats", query_nodes=True) if s["node-name"] == "copy")
    assert stats["stats"]["wr_bytes"] <= SIZE - done
    dst.quit()
    src.quit()
    assert equal("-f", "qcow2", "-F", "raw", copy, before)


@pytest.mark.parametrize("ready", [False, True])
def test_mirror(start, waiting, tmp_path, ready):
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    dst, where = waiting(*disk(path), *target(copy))
    src.qmp.cmd("blockdev-mirror", job_id="j", device="d-node", target="copy", sync="full", speed=0 if ready else SLOW)
    if ready:
        src.qmp.event("BLOCK_JOB_READY", device="j")
    done = jobs(src)["j"]["offset"] if ready else some_way(src)
    write(src, 0, 99)
    move(src, where)
    moved(src, dst)
    went(src, dst, done)
    write(dst, 1 << 20, 98)
    write(dst, 7 << 20, 97)
    dst.qmp.cmd("block-job-set-speed", device="j", speed=0)
    dst.qmp.event("BLOCK_JOB_READY", device="j")
    dst.qmp.cmd("job-complete", id="j")
    dst.qmp.event("BLOCK_JOB_COMPLETED", device="j")
    assert dst.qmp.cmd("query-block")[0]["inserted"]["node-name"] == "copy"
    assert reads(dst, 0, 99) and reads(dst, 1 << 20, 98) and reads(dst, 7 << 20, 97)
    dst.quit()
    src.quit()
    assert equal(path, copy)


def test_stream(start, waiting, tmp_path):
    layered(tmp_path)
    src = start(*chain(tmp_path, "base", "top"))
    dst, where = waiting(*chain(tmp_path, "base", "top"))
    src.qmp.cmd("block-stream", job_id="j", device="d-node", speed=SLOW)
    some_way(src)
    move(src, where)
    moved(src, dst)
    assert "j" not in jobs(src)
    write(dst, 3 << 20, 6)
    finish(dst)
    assert reads(dst, 7 << 20, 5) and reads(dst, 3 << 20, 6)
    dst.quit()
    src.quit()
    assert "backing" not in run(program("sterna-img"), "info", str(tmp_path / "top")).out


@pytest.mark.parametrize("by", ["node", "file"])
@pytest.mark.parametrize("is_active", [False, True])
def test_commit(start, waiting, tmp_path, is_active, by):
    """Layers are called by their nodes or by their files; what the image above is to say of its backing file is what it was told."""
    image(tmp_path / "base")
    for name, below in ("mid", "base"), ("top", "mid"):
        run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", str(tmp_path / name))
    run(program("sterna-io"), "-c", "write -P 5 0 8M", str(tmp_path / "mid"))
    src = start(*chain(tmp_path, "base", "mid", "top"))
    dst, where = waiting(*chain(tmp_path, "base", "mid", "top"))
    layers = {"base_node": "base", "top_node": "d-node" if is_active else "mid"} if by == "node" else {
        "base": str(tmp_path / "base"), "top": str(tmp_path / ("top" if is_active else "mid"))}
    src.qmp.cmd("block-commit", job_id="j", device="d-node", speed=SLOW, **layers, **({} if is_active else {"backing_file": "./base"}))
    done = some_way(src)
    write(src, 1 << 20, 7)
    move(src, where)
    moved(src, dst)
    went(src, dst, done)
    write(dst, 3 << 20, 6)
    if is_active:
        dst.qmp.cmd("block-job-set-speed", device="j", speed=0)
        dst.qmp.event("BLOCK_JOB_READY", device="j")
        dst.qmp.cmd("job-complete", id="j")
        dst.qmp.event("BLOCK_JOB_COMPLETED", device="j")
    else:
        finish(dst)
    assert reads(dst, 7 << 20, 5) and reads(dst, 3 << 20, 6) and reads(dst, 1 << 20, 7)
    assert [n["node-name"] for n in dst.qmp.cmd("query-named-block-nodes", flat=True) if n["drv"] == "commit"] == []
    dst.quit()
    src.quit()
    if not is_active:
        assert json.loads(run(program("sterna-img"), "info", "--output=json", str(tmp_path / "top")).out)["backing-filename"] == "./base"
    for name in ("base",) if is_active else ("top", "base"):
        assert run(program("sterna-img"), "check", str(tmp_path / name)).rc == 0


@pytest.mark.parametrize("command", ["drive-mirror", "drive-backup", "block_copy"])
def test_commands_that_name_files(start, waiting, tmp_path, command):
    """The destination opens the file that the source has made, and goes on."""
    path, copy = image(tmp_path / "d"), tmp_path / "copy"
    src = start(*disk(path))
    fill(src)
    dst, where = waiting(*disk(path))
    if command == "block_copy":
        src.qmp.cmd(command, device="d", filename=str(image(copy)), speed=SLOW)
    else:
        src.qmp.cmd(command, job_id="d", device="d", target=str(copy), format="qcow2", sync="full", speed=SLOW)
    done = some_way(src, "d")
    write(src, 0, 99)
    move(src, where)
    moved(src, dst)
    went(src, dst, done, "d")
    write(dst, 1 << 20, 98)
    write(dst, 7 << 20, 97)
    dst.qmp.cmd("block-job-set-speed", device="d", speed=0)
    if command == "drive-mirror":
        dst.qmp.event("BLOCK_JOB_READY", device="d")
        dst.qmp.cmd("job-complete", id="d")
    assert "error" not in dst.qmp.event("BLOCK_JOB_COMPLETED", device="d")["data"]
    here = "d" if command == "drive-backup" else "copy"
    assert dst.qmp.cmd("query-block")[0]["inserted"]["file"] == str(tmp_path / here)
    assert reads(dst, 0, 99) and reads(dst, 1 << 20, 98) and reads(dst, 7 << 20, 97) and reads(dst, 6 << 20, 7)
    dst.quit()
    src.quit()
    if command == "drive-backup":
        out = run(program("sterna-io"), "-c", "read -P 1 0 1M", "-c", "read -P 2 1M 1M", "-c", "read -P 8 7M 1M", str(copy)).out
        assert "failed" not in out, out
    else:
        assert run(program("sterna-img"), "check", str(copy)).rc == 0


@pytest.mark.parametrize("why", ["has no image", "none that may come"])
def test_a_layer_that_is_not_there(start, waiting, tmp_path, why):
    layered(tmp_path)
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", str(tmp_path / "other"), str(SIZE))
    src = start(*chain(tmp_path, "base", "top"), "-M", "virt-0.1")
    fill(src)
    dst, where = waiting(*chain(tmp_path, "base" if why.startswith("none") else "other", "top"), "-M", "virt-0.1", *(OLD if why.startswith("none") else ()))
    src.qmp.cmd("block-commit", job_id="j", device="d-node", base=str(tmp_path / "base"), speed=SLOW)
    some_way(src)
    move(src, where)
    said = fate(src, "ends-first")
    assert why in said if why.startswith("none") else said == f"the destination's 'd-node' has no image '{tmp_path}/base' ('base')"
    src.qmp.cmd("migrate_cancel")


def test_a_commit_file(start, waiting, tmp_path):
    """It is written where the machine is when it switches."""
    path, copy, commit = image(tmp_path / "d"), image(tmp_path / "copy"), tmp_path / "commit"
    src = start(*disk(path))
    fill(src)
    dst, where = waiting(*disk(path))
    src.qmp.cmd("block_copy", {"device": "d", "filename": str(copy), "commit_filename": str(commit), "speed": SLOW})
    done = some_way(src, "d")
    write(src, 0, 99)
    move(src, where)
    moved(src, dst)
    went(src, dst, done, "d")
    assert not commit.exists()
    write(dst, 7 << 20, 98)
    finish(dst, "d")
    assert commit.read_text() == f"d {copy}\n" and dst.qmp.cmd("query-block")[0]["inserted"]["file"] == str(copy)
    assert reads(dst, 0, 99) and reads(dst, 7 << 20, 98) and reads(dst, 6 << 20, 7)


def test_a_commit_file_that_cannot_be_written_there(start, waiting, tmp_path):
    path, copy, folder = image(tmp_path / "d"), image(tmp_path / "copy"), tmp_path / "folder"
    folder.mkdir()
    src = start(*disk(path))
    fill(src)
    dst, where = waiting(*disk(path))
    src.qmp.cmd("block_copy", {"device": "d", "filename": str(copy), "commit_filename": str(folder / "commit"), "speed": SLOW})
    some_way(src, "d")
    folder.rmdir()
    move(src, where)
    assert "cannot write its commit file" in fate(src, "ends-first", "d")
    src.qmp.cmd("migrate_cancel")


@pytest.mark.parametrize("why", ["is not the source's", "no absolute path", "none that may come"])
def test_files_that_cannot_be_told(start, waiting, tmp_path, why):
    """A file of that name, but another one; a name that says nothing elsewhere; an older destination."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    args = *disk(path), "-M", "virt-0.1"
    src = start(*args)
    fill(src)
    dst, where = waiting(*args, *(OLD if why.startswith("none") else ()))
    name = json.dumps({"driver": "qcow2", "file": {"driver": "file", "filename": str(copy)}})
    src.qmp.cmd("drive-mirror", job_id="j", device="d", target=f"json:{name}" if why.startswith("no ") else str(copy), format="qcow2", mode="existing",
                sync="full", speed=SLOW)
    if why.startswith("is"):
        copy.rename(tmp_path / "moved")
        image(copy)
    move(src, where)
    assert why in fate(src, "ends-first")
    src.qmp.cmd("block-job-set-speed", device="j", speed=0)
    moved(src, dst)
    assert not jobs(dst)


@pytest.mark.parametrize("command", ["blockdev-backup", "blockdev-mirror"])
def test_sync_none(start, waiting, tmp_path, command):
    """What is written here and there goes to the target (mirror), or what was there before (backup); once, and no more."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    dst, where = waiting(*disk(path), *target(copy))
    src.qmp.cmd(command, job_id="j", device="d-node", target="copy", sync="none")
    write(src, 0, 99)
    write(src, 2 << 20, 98)
    assert not [s for s in src.qmp.cmd("query-state")["sections"] if s["kind"] == "job"]
    move(src, where)
    moved(src, dst)
    assert "j" in jobs(dst) and "j" not in jobs(src)
    write(dst, 0, 97)
    write(dst, 1 << 20, 96)
    if command == "blockdev-mirror":
        dst.qmp.event("BLOCK_JOB_READY", device="j")
    dst.qmp.cmd("block-job-cancel", device="j")
    while jobs(dst):
        time.sleep(0.005)
    dst.quit()
    src.quit()
    want = {0: 1, 1 << 20: 2, 2 << 20: 3} if command == "blockdev-backup" else {0: 97, 1 << 20: 96, 2 << 20: 98}
    out = run(program("sterna-io"), *(x for at, v in want.items() for x in ("-c", f"read -P {v} {at} 64k")), "-c", "read -P 0 3M 5M", str(copy)).out
    assert "failed" not in out, out


def alone(path):
    """The image without what is below it."""
    return "json:" + json.dumps({"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": str(path)}})


def holds(name, *wanted, fmt="qcow2"):
    """(value, offset, length) each."""
    out = run(program("sterna-io"), *(() if name.startswith("json:") else ("-f", fmt)), *(x for v, at, n in wanted for x in ("-c", f"read -P {v} {at} {n}")), name)
    return out.rc == 0 and "failed" not in out.out


@pytest.mark.parametrize("command, mode, completes", [("drive-backup", "absolute-paths", False), ("drive-backup", "existing", False),
                                                      ("drive-mirror", "absolute-paths", False), ("drive-mirror", "absolute-paths", True),
                                                      ("drive-mirror", "existing", False)])
def test_sync_none_into_a_file(start, waiting, tmp_path, command, mode, completes):
    """The file is the one that the command has made, over the disk: what is written here and there is in it, and the rest comes from the disk."""
    path, copy = image(tmp_path / "d"), tmp_path / "copy"
    if mode == "existing":
        image(copy, "qcow2", *(("-b", str(path), "-F", "qcow2") if command == "drive-backup" else ()))
    src = start(*disk(path))
    fill(src)
    dst, where = waiting(*disk(path))
    src.qmp.cmd(command, job_id="j", device="d", target=str(copy), sync="none", mode=mode)
    write(src, 0, 99)
    write(src, 2 << 20, 98)
    assert not [s for s in src.qmp.cmd("query-state")["sections"] if s["kind"] == "job"]
    move(src, where)
    moved(src, dst)
    assert "j" in jobs(dst) and "j" not in jobs(src)
    write(dst, 0, 97)
    write(dst, 1 << 20, 96)
    if command == "drive-mirror":
        dst.qmp.event("BLOCK_JOB_READY", device="j")
    dst.qmp.cmd("job-complete" if completes else "job-cancel", id="j")
    while jobs(dst):
        time.sleep(0.005)
    assert reads(dst, 0, 97) and reads(dst, 1 << 20, 96) and reads(dst, 2 << 20, 98) and reads(dst, 7 << 20, 8)
    assert dst.qmp.cmd("query-block")[0]["inserted"]["file"] == str(copy if completes else path)
    dst.quit()
    src.quit()
    top = (1, 2, 3) if command == "drive-backup" else (97, 96, 98)
    assert holds(alone(copy), *((v, i << 20, "64k") for i, v in enumerate(top)), (0, 3 << 20, "5M"))
    is_over = command == "drive-backup" or mode != "existing"
    assert is_over == holds(str(copy), *((v, i << 20, "64k") for i, v in enumerate(top)), *((i + 1, (i << 20) + 65536, (1 << 20) - 65536) for i in range(8)))


def test_sync_none_twice(start, waiting, tmp_path):
    """It goes on a second time, too."""
    path, copy = image(tmp_path / "d"), tmp_path / "copy"
    here = start(*disk(path))
    fill(here)
    here.qmp.cmd("drive-mirror", job_id="j", device="d", target=str(copy), sync="none")
    for i in range(3):
        write(here, i << 20, 99 - i)
        there, where = waiting(*disk(path))
        move(here, where)
        moved(here, there)
        here.quit()
        here = there
    here.qmp.event("BLOCK_JOB_READY", device="j")
    here.qmp.cmd("block-job-cancel", device="j")
    here.qmp.event("BLOCK_JOB_COMPLETED", device="j")
    here.quit()
    assert holds(alone(copy), *((99 - i, i << 20, "64k") for i in range(3)), (0, 3 << 20, "5M"))


def test_a_file_is_of_its_disks_format(start, waiting, tmp_path):
    """A copy of a raw disk is raw, whatever its guest has written into it."""
    path, copy = tmp_path / "d", tmp_path / "copy"
    image(path, "raw")
    header = image(tmp_path / "header").read_bytes()
    src = start(*disk(path, "raw"))
    fill(src)
    dst, where = waiting(*disk(path, "raw"))
    src.qmp.cmd("drive-mirror", job_id="j", device="d", target=str(copy), sync="full")
    src.qmp.event("BLOCK_JOB_READY", device="j")
    (tmp_path / "pattern").write_bytes(header[:65536])
    assert "wrote" in io(src, f"write -s {tmp_path}/pattern 0 64k")
    move(src, where)
    moved(src, dst)
    dst.qmp.event("BLOCK_JOB_READY", device="j")
    dst.qmp.cmd("job-complete", id="j")
    assert "error" not in dst.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    assert reads(dst, 7 << 20, 8) and dst.qmp.cmd("query-block")[0]["inserted"]["drv"] == "raw"
    dst.quit()
    src.quit()
    assert path.read_bytes() == copy.read_bytes()


# --- groups -----------------------------------------------------------------------------------------------------------

NAMES = "d", "o"


def two(tmp_path):
    """Two disks, and an image for a copy of each: the options."""
    for n in NAMES:
        for p in n, f"{n}-copy":
            image(tmp_path / p)
    return [x for n in NAMES for x in (*disk(tmp_path / n, name=n), *target(tmp_path / f"{n}-copy", f"{n}-copy"))]


def together(m, **commands):
    """A job of each disk, all or none: their ids are the disks'."""
    m.qmp.cmd("transaction", properties={"completion-mode": "grouped"}, actions=[
        {"type": c, "data": {"job-id": n, "device": f"{n}-node", "target": f"{n}-copy", "speed": SLOW, "sync": "full"}} for n, c in commands.items()])


def status(m, job, wanted):
    end = time.monotonic() + 60
    while jobs(m)[job]["status"] != wanted:
        assert time.monotonic() < end, jobs(m)
        time.sleep(0.005)


def before(m, tmp_path):
    """What the disks hold now."""
    for n in NAMES:
        fill(m, n)
    want = tmp_path / "before"
    want.write_bytes(b"".join(bytes([i + 1]) * (1 << 20) for i in range(SIZE >> 20)))
    return want


def writes(m, at, value):
    for n in NAMES:
        assert "wrote" in io(m, f"write -P {value} {at} 64k", n)


@pytest.mark.parametrize("waits", [None, "here", "there"])
def test_grouped(start, waiting, tmp_path, waits):
    """None of them ends before the others have done their part, wherever that is."""
    args = two(tmp_path)
    src = start(*args)
    want = before(src, tmp_path)
    dst, where = waiting(*args)
    together(src, d="blockdev-backup", o="blockdev-backup")
    done = {n: some_way(src, n) for n in NAMES}
    writes(src, 7 << 20, 99)
    if waits == "here":
        src.qmp.cmd("block-job-set-speed", device="d", speed=0)
        status(src, "d", "waiting")
    move(src, where)
    moved(src, dst)
    for n in NAMES:
        went(src, dst, done[n], n)
    writes(dst, 6 << 20, 98)
    if waits:
        if waits == "there":
            dst.qmp.cmd("block-job-set-speed", device="d", speed=0)
        status(dst, "d", "waiting")
        assert jobs(dst)["o"]["status"] == "running"
    writes(dst, 0, 97)
    for n in NAMES[1:] if waits else NAMES:
        dst.qmp.cmd("block-job-set-speed", device=n, speed=0)
    ends = [dst.qmp.event("BLOCK_JOB_COMPLETED")["data"] for _ in NAMES]
    assert {e["device"] for e in ends} == set(NAMES) and not any("error" in e for e in ends)
    dst.quit()
    src.quit()
    for n in NAMES:
        assert equal("-f", "qcow2", "-F", "raw", tmp_path / f"{n}-copy", want)


@pytest.mark.parametrize("at", ["here", "there"])
def test_one_of_a_group_is_cancelled(start, waiting, tmp_path, at):
    args = two(tmp_path)
    src = start(*args)
    before(src, tmp_path)
    dst, where = waiting(*args)
    together(src, d="blockdev-backup", o="blockdev-backup")
    some_way(src, "o")
    if at == "here":
        src.qmp.cmd("block-job-set-speed", device="d", speed=0)
        status(src, "d", "waiting")
    move(src, where)
    moved(src, dst)
    if at == "here":
        status(dst, "d", "waiting")
    dst.qmp.cmd("job-cancel", id="o")
    assert {dst.qmp.event("BLOCK_JOB_CANCELLED")["data"]["device"] for _ in NAMES} == set(NAMES)
    assert not jobs(dst)
    writes(dst, 0, 97)
    assert all(f"{n}-copy" not in json.dumps(dst.qmp.cmd("query-block")) for n in NAMES)


@pytest.mark.parametrize("word", ["job-complete", "block-job-cancel"])
def test_one_of_a_group_was_told_to_end(start, waiting, tmp_path, word):
    """A mirror that waits for a backup: it switches, or does not, when that has ended at the destination."""
    args = two(tmp_path)
    src = start(*args)
    want = before(src, tmp_path)
    dst, where = waiting(*args)
    together(src, d="blockdev-mirror", o="blockdev-backup")
    src.qmp.cmd("block-job-set-speed", device="d", speed=0)
    src.qmp.event("BLOCK_JOB_READY", device="d")
    src.qmp.cmd(word, **{"id" if word == "job-complete" else "device": "d"})
    status(src, "d", "waiting")
    writes(src, 0, 99)
    move(src, where)
    moved(src, dst)
    status(dst, "d", "waiting")
    writes(dst, 1 << 20, 98)
    dst.qmp.cmd("block-job-set-speed", device="o", speed=0)
    ends = {(e := dst.qmp.event("BLOCK_JOB_COMPLETED")["data"])["device"]: e for _ in NAMES}
    assert set(ends) == set(NAMES) and not any("error" in e for e in ends.values())
    live = next(b for b in dst.qmp.cmd("query-block") if b["qdev"].endswith("d"))["inserted"]["node-name"]
    assert live == ("d-copy" if word == "job-complete" else "d-node")
    assert reads(dst, 0, 99) and reads(dst, 1 << 20, 98) and reads(dst, 7 << 20, 8)
    dst.quit()
    src.quit()
    assert equal(tmp_path / "d", tmp_path / "d-copy") and equal("-f", "qcow2", "-F", "raw", tmp_path / "o-copy", want)


@pytest.mark.parametrize("why", ["no node", "does not know"])
def test_one_of_a_group_cannot_move(start, waiting, tmp_path, why):
    """Then they end here, all of them: a destination that has not got the target of one, or that knows of no groups."""
    args = [*two(tmp_path), "-M", "virt-0.1"]
    src = start(*args)
    want = before(src, tmp_path)
    less = [*disk(tmp_path / "d"), *target(tmp_path / "d-copy", "d-copy"), *disk(tmp_path / "o", name="o"), "-M", "virt-0.1"]
    dst, where = waiting(*less) if why == "no node" else waiting(*args, *OLD)
    together(src, d="blockdev-backup", o="blockdev-backup")
    some_way(src, "o")
    move(src, where)
    assert why in fate(src, "ends-first", "o")
    assert ("one of them does not move" if why == "no node" else why) in fate(src, "ends-first", "d")
    writes(src, 7 << 20, 99)
    for n in NAMES:
        src.qmp.cmd("block-job-set-speed", device=n, speed=0)
    moved(src, dst)
    assert not jobs(dst)
    dst.quit()
    src.quit()
    for n in NAMES:
        assert equal("-f", "qcow2", "-F", "raw", tmp_path / f"{n}-copy", want)


def test_a_group_stays_when_the_move_fails(start, waiting, tmp_path):
    """At the last word: one goes on waiting here, the other copying."""
    args = two(tmp_path)
    src = start(*args)
    want = before(src, tmp_path)
    dst, where = waiting(*args)
    link = FaultyLink(tmp_path / "link", where)
    link.fault("cut", BACK, 0, after=b"REDY")
    together(src, d="blockdev-mirror", o="blockdev-backup")
    src.qmp.cmd("block-job-set-speed", device="d", speed=0)
    src.qmp.event("BLOCK_JOB_READY", device="d")
    src.qmp.cmd("job-complete", id="d")
    status(src, "d", "waiting")
    move(src, tmp_path / "link")
    assert until(src, "failed", "completed")["status"] == "failed"
    assert gone(dst) and running(src)
    status(src, "d", "waiting")
    status(src, "o", "running")
    writes(src, 0, 99)
    src.qmp.cmd("block-job-set-speed", device="o", speed=0)
    ends = [src.qmp.event("BLOCK_JOB_COMPLETED")["data"] for _ in NAMES]
    assert {e["device"] for e in ends} == set(NAMES) and not any("error" in e for e in ends)
    assert reads(src, 0, 99) and reads(src, 7 << 20, 8)
    link.close()
    src.quit()
    assert equal("-f", "qcow2", "-F", "raw", tmp_path / "o-copy", want)
    assert holds(str(tmp_path / "d-copy"), (99, 0, "64k"), (8, 7 << 20, "1M"))


@pytest.mark.parametrize("taken", [True, False])
def test_nobody_knows_where_a_group_is(start, waiting, tmp_path, taken):
    """The connection breaks at the last word: wherever it is found to be, all of it goes on there, and here it is gone, or nothing has been."""
    args = two(tmp_path)
    src = start(*args)
    want = before(src, tmp_path)
    dst, where = waiting(*args)
    link = FaultyLink(tmp_path / "link", where)
    link.fault("cut", *((BACK, 0) if taken else (FORTH, 0)), after=b"RUNS" if taken else b"OKGO")
    together(src, d="blockdev-backup", o="blockdev-backup")
    some_way(src, "o")
    src.qmp.cmd("block-job-set-speed", device="d", speed=0)
    status(src, "d", "waiting")
    move(src, tmp_path / "link")
    until(src, "postmigrate-unknown")
    if taken:
        until(dst, "completed")
    else:
        assert gone(dst)
    src.qmp.cmd("migrate-resolve", runs_there=taken)
    m = dst if taken else src
    assert running(m) and (not taken or not jobs(src))
    status(m, "d", "waiting")
    writes(m, 0, 99)
    m.qmp.cmd("block-job-set-speed", device="o", speed=0)
    ends = [m.qmp.event("BLOCK_JOB_COMPLETED")["data"] for _ in NAMES]
    assert {e["device"] for e in ends} == set(NAMES) and not any("error" in e for e in ends)
    link.close()
    for x in src, dst:
        x.close()
    for n in NAMES:
        assert equal("-f", "qcow2", "-F", "raw", tmp_path / f"{n}-copy", want)


@pytest.mark.parametrize("bad", NAMES)
def test_one_of_a_group_does_not_go_on(start, waiting, tmp_path, bad):
    """Its target is another one at the destination: the others are cancelled there."""
    args = two(tmp_path)
    src = start(*args)
    before(src, tmp_path)
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-o", "cluster_size=1M", str(tmp_path / "odd"), str(SIZE))
    dst, where = waiting(*(a.replace(str(tmp_path / f"{bad}-copy"), str(tmp_path / "odd")) for a in args))
    together(src, d="blockdev-backup", o="blockdev-backup")
    some_way(src, "o")
    move(src, where)
    moved(src, dst)
    while jobs(dst):
        time.sleep(0.005)
    writes(dst, 0, 97)
    assert reads(dst, 0, 97) and reads(dst, 7 << 20, 8)
    err = dst.quit()[1]
    assert f"job '{bad}' came with the machine, but does not go on: its target is of another kind" in err
    src.quit()


# --- what copy-before-write filters keep --------------------------------------------------------------------------------


def keeper(tmp_path, more=None):
    """A disk that is full, under a filter that keeps what it held when the machine was made; the options, and what it held."""
    image(tmp_path / "d")
    run(program("sterna-io"), *(x for i in range(SIZE >> 20) for x in ("-c", f"write -P {i + 1} {i}M 1M")), str(tmp_path / "d"))
    for n in "kept", "copy":
        image(tmp_path / n)
    want = tmp_path / "before"
    want.write_bytes(b"".join(bytes([i + 1]) * (1 << 20) for i in range(SIZE >> 20)))
    nodes = [{"driver": "qcow2", "node-name": n, "discard": "unmap", "file": {"driver": "file", "filename": str(tmp_path / f), "discard": "unmap"}}
             for n, f in (("d-node", "d"), ("kept", "kept"), ("copy", "copy"))]
    nodes += [{"driver": "copy-before-write", "node-name": "cbw", "file": "d-node", "target": "kept", **(more or {})},
              {"driver": "snapshot-access", "node-name": "access", "file": "cbw"}]
    return [x for n in nodes for x in ("-blockdev", json.dumps(n))] + ["-device", "virtio-blk-device,drive=cbw,id=d"], want


@pytest.mark.parametrize("command, discard", [("blockdev-backup", False), ("blockdev-backup", True), ("blockdev-mirror", False)])
def test_what_a_filter_keeps(start, waiting, tmp_path, command, discard):
    """A copy of the disk as it was, while what is there is written over here and there."""
    args, want = keeper(tmp_path)
    src = start(*args)
    write(src, 0, 99)
    write(src, 5 << 20, 98, 2 << 20)
    dst, where = waiting(*args)
    src.qmp.cmd(command, job_id="j", device="access", target="copy", sync="full", speed=SLOW, **({"discard_source": True} if discard else {}))
    done = some_way(src)
    write(src, 2 << 20, 97)
    move(src, where)
    moved(src, dst)
    went(src, dst, done)
    write(dst, 6 << 20, 96)
    write(dst, 7 << 20, 95)
    dst.qmp.cmd("block-job-set-speed", device="j", speed=0)
    if command == "blockdev-mirror":
        dst.qmp.event("BLOCK_JOB_READY", device="j")
        dst.qmp.cmd("block-job-cancel", device="j")
    assert "error" not in dst.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    for at, v in (0, 99), (5 << 20, 98), (2 << 20, 97), (6 << 20, 96), (7 << 20, 95):
        assert reads(dst, at, v)
    dst.quit()
    src.quit()
    assert equal("-f", "qcow2", "-F", "raw", tmp_path / "copy", want)
    kept = json.loads(run(program("sterna-img"), "map", "--output=json", str(tmp_path / "kept")).out)
    assert any(x["data"] for x in kept) != discard


def test_what_a_filter_keeps_is_read_there(start, waiting, tmp_path):
    """By whoever asks, without a job; also after a second move. What is not in the filter's bitmap cannot be."""
    args, _ = keeper(tmp_path)
    here = start(*args)
    for i in range(3):
        write(here, i << 20, 99 - i)
        there, where = waiting(*args)
        move(here, where)
        moved(here, there)
        for k in range(3):
            assert reads(there, k << 20, 99 - k if k <= i else k + 1)
            assert "failed" not in io(there, f"read -P {k + 1} {k}M 1M", "access")
        here.quit()
        here = there
    here.quit()
    assert holds(str(tmp_path / "kept"), *((i + 1, i << 20, "64k") for i in range(3)), (0, 3 << 20, "5M"))


def test_a_filter_that_has_broken_is_broken_there(start, waiting, tmp_path):
    def args(rules):
        bad = {"driver": "error", "node-name": "bad", "file": "kept", "errors": rules}
        made, _ = keeper(tmp_path, {"target": "bad", "on-cbw-error": "break-snapshot"})
        at = next(i for i, a in enumerate(made) if '"cbw"' in a) - 1
        return [*made[:at], "-blockdev", json.dumps(bad), *made[at:]]
    src = start(*args([{"operation": "write", "offset": 1 << 20, "length": 65536}]))
    dst, where = waiting(*args([]))
    write(src, 0, 99)
    assert "failed" not in io(src, "read -P 1 0 64k", "access")
    write(src, 1 << 20, 98)
    assert "failed" in io(src, "read 0 64k", "access")
    move(src, where)
    moved(src, dst)
    assert reads(dst, 1 << 20, 98) and "failed" in io(dst, "read 0 64k", "access")


@pytest.mark.parametrize("why", ["of another kind", "none that may come"])
def test_a_filter_that_is_not_there(start, waiting, tmp_path, why):
    """Nothing that reads it moves: it would read something else."""
    args, want = keeper(tmp_path)
    src = start(*args, "-M", "virt-0.1")
    write(src, 0, 99)
    other = [a.replace('"target": "kept"', '"target": "kept", "min-cluster-size": 1048576') for a in args]
    dst, where = waiting(*(other if why == "of another kind" else args), "-M", "virt-0.1", *(OLD if why.startswith("none") else ()))
    src.qmp.cmd("blockdev-backup", job_id="j", device="access", target="copy", sync="full", speed=SLOW)
    some_way(src)
    move(src, where)
    assert fate(src, "ends-first") == "it reads what a copy-before-write filter keeps, and that does not move"
    write(src, 7 << 20, 95)
    finish(src)
    moved(src, dst)
    assert not jobs(dst)
    dst.quit()
    assert why in src.quit()[1]
    assert equal("-f", "qcow2", "-F", "raw", tmp_path / "copy", want)


def test_paused_ones_stay_paused(start, waiting, tmp_path):
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    dst, where = waiting(*disk(path), *target(copy))
    src.qmp.cmd("blockdev-mirror", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
    some_way(src)
    src.qmp.cmd("job-pause", id="j")
    move(src, where)
    moved(src, dst)
    assert jobs(dst)["j"]["status"] == "paused" and jobs(dst)["j"]["speed"] == SLOW
    dst.qmp.cmd("job-resume", id="j")
    dst.qmp.cmd("block-job-set-speed", device="j", speed=0)
    dst.qmp.event("BLOCK_JOB_READY", device="j")
    dst.quit()
    src.quit()
    assert equal(path, copy)


def test_the_move_fails(start, waiting, tmp_path):
    """At the last moment: all go on here as if nothing had been."""
    path, copy, other, ready = (image(tmp_path / n) for n in ("d", "copy", "other", "ready"))
    bad, bad_there = image(tmp_path / "bad"), image(tmp_path / "bad-there")
    args = *disk(path), *disk(other, name="o"), *target(copy), *target(ready, "ready")
    src = start(*args, *disk(bad, name="x"))
    fill(src)
    dst, where = waiting(*args, *disk(bad_there, name="x"))
    with open(bad_there, "r+b") as f:
        f.write(b"NONE")
    src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
    src.qmp.cmd("blockdev-mirror", job_id="m", device="o-node", target="ready", sync="full")
    src.qmp.event("BLOCK_JOB_READY", device="m")
    done = some_way(src)
    move(src, where)
    assert "x-node" in until(src, "failed", "completed").get("error-desc", "")
    assert gone(dst) and running(src) and active(src) == {True}
    assert jobs(src)["j"]["offset"] >= done and jobs(src)["j"]["status"] == "running" and jobs(src)["m"]["status"] == "ready"
    write(src, 7 << 20, 99)
    assert "wrote" in io(src, "write -P 98 1M 64k", "o")
    finish(src)
    src.qmp.cmd("job-complete", id="m")
    src.qmp.event("BLOCK_JOB_COMPLETED", device="m")
    src.quit()
    assert equal(other, ready)
    assert "failed" not in run(program("sterna-io"), "-c", "read -P 8 7M 1M", str(copy)).out


def test_what_ends_first(start, waiting, tmp_path):
    """The destination has not got its target: it is finished here, and query-migrate says why."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    dst, where = waiting(*disk(path))
    src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
    move(src, where)
    assert fate(src, "ends-first") == "the destination has no node 'copy' ('target')"
    finish(src)
    moved(src, dst)
    assert not jobs(dst)
    dst.quit()
    err = src.quit()[1]
    assert "job 'j' (backup) ends before the machine goes: the destination has no node 'copy'" in err
    assert equal(path, copy)


def test_ready_and_not_there(start, waiting, tmp_path):
    """A copy that is in step does not hold the machine back, and can be ended afterwards: it holds all that was written."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    src.qmp.cmd("blockdev-mirror", job_id="j", device="d-node", target="copy", sync="full")
    src.qmp.event("BLOCK_JOB_READY", device="j")
    dst, where = waiting(*disk(path))
    write(src, 0, 99)
    move(src, where)
    moved(src, dst)
    assert jobs(src)["j"]["status"] == "ready" and not jobs(dst)
    src.qmp.cmd("block-job-cancel", device="j")
    assert "error" not in src.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    assert not jobs(src)
    dst.quit()
    src.quit()
    assert equal(path, copy)


def test_ready_and_behind(start, waiting, tmp_path):
    """What was discarded is copied again: the switch waits until the mirror is in step, and no longer."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    src.qmp.cmd("blockdev-mirror", job_id="j", device="d-node", target="copy", sync="full")
    src.qmp.event("BLOCK_JOB_READY", device="j")
    src.qmp.cmd("block-job-set-speed", device="j", speed=1 << 20)
    dst, where = waiting(*disk(path))
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": True}])
    src.qmp.cmd("migrate-set-parameters", answer_timeout=3600000)
    move(src, where)
    until(src, "pre-switchover")
    io(src, "discard 0 3M")
    some_way(src)
    src.qmp.cmd("migrate-continue", state="pre-switchover")
    moved(src, dst)
    assert jobs(src)["j"]["status"] == "ready"
    src.qmp.cmd("block-job-cancel", device="j")
    assert "error" not in src.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    dst.quit()
    src.quit()
    assert equal(path, copy)


def test_ready_to_the_other_side(start, waiting, tmp_path):
    """As QEMU's users move disks: the mirror's target is what the destination serves, and is ended when the machine is there."""
    mine, theirs = image(tmp_path / "mine"), image(tmp_path / "theirs")
    src = start(*disk(mine))
    src.qmp.cmd("block-dirty-bitmap-add", node="d-node", name="b", persistent=True)
    fill(src)
    dst, where = waiting(*disk(theirs))
    dst.qmp.cmd("nbd-server-start", addr={"type": "unix", "data": {"path": str(tmp_path / "nbd")}})
    dst.qmp.cmd("nbd-server-add", device="d", writable=True)
    src.qmp.cmd("drive-mirror", job_id="j", device="d", target=f"nbd+unix:///d?socket={tmp_path}/nbd", sync="full", format="raw", mode="existing")
    src.qmp.event("BLOCK_JOB_READY", device="j")
    for m in src, dst:
        m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "dirty-bitmaps", "state": True}])
    write(src, 0, 99)
    move(src, where)
    assert until(src, "completed", "failed")["status"] == "completed", info(src)
    src.qmp.cmd("block-job-cancel", device="j")
    assert "error" not in src.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    until(dst, "completed")
    dst.qmp.cmd("nbd-server-stop")
    dst.qmp.cmd("cont")
    assert running(dst) and active(dst) == {True} and reads(dst, 0, 99) and reads(dst, 7 << 20, 8)
    there = dst.qmp.cmd("query-block")[0]["inserted"]["dirty-bitmaps"]
    assert [(b["name"], b["persistent"], b["count"]) for b in there] == [("b", True, SIZE)]


@pytest.mark.parametrize("taken", [True, False])
def test_nobody_knows(start, waiting, tmp_path, taken):
    """The connection breaks at the last word: the job rests until somebody has found out where the machine is, and is there."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    dst, where = waiting(*disk(path), *target(copy))
    link = FaultyLink(tmp_path / "link", where)
    link.fault("cut", *((BACK, 0) if taken else (FORTH, 0)), after=b"RUNS" if taken else b"OKGO")
    src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
    some_way(src)
    move(src, tmp_path / "link")
    until(src, "postmigrate-unknown")
    assert jobs(src)["j"]["status"] == "paused"
    if taken:
        until(dst, "completed")
    else:
        assert gone(dst)
    src.qmp.cmd("migrate-resolve", runs_there=taken)
    m = dst if taken else src
    assert running(m)
    if taken:
        assert not jobs(src)
    write(m, 7 << 20, 99)
    finish(m)
    link.close()
    for x in src, dst:
        x.close()
    assert "failed" not in run(program("sterna-io"), "-c", "read -P 1 0 1M", "-c", "read -P 8 7M 1M", str(copy)).out


def test_disks_come_later(start, waiting, tmp_path):
    """Somebody else has the disk when the machine is there: the job goes on when `cont` gets it, and before the guest does."""
    path, third, copy = (image(tmp_path / n) for n in ("d", "third", "copy"))
    for p in path, third:
        run(program("sterna-io"), "-c", "write -P 5 0 8M", str(p))
    src = start(*disk(path), *target(copy))
    dst, where = waiting(*disk(third), *target(copy))
    thief = start(*disk(third), stopped=True)
    src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
    done = some_way(src)
    move(src, where)
    until(src, "completed")
    until(dst, "completed")
    assert dst.qmp.cmd("query-status")["status"] == "io-error" and not jobs(dst)
    thief.quit()
    dst.qmp.cmd("cont")
    assert running(dst)
    went(src, dst, done)
    write(dst, 0, 6, SIZE)
    finish(dst)
    dst.quit()
    src.quit()
    assert "failed" not in run(program("sterna-io"), "-c", "read -P 5 0 8M", str(copy)).out


def test_a_destination_without_a_machine(tmp_path):
    """What the machine is made of comes with it, and its job finds all nodes there."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    made = []
    try:
        for i, args in enumerate([(*disk(path), *target(copy), "-m", "16M"), ("-incoming", f"unix:{tmp_path}/in")]):
            (tmp_path / f"m{i}").mkdir()
            made.append(Machine(tmp_path / f"m{i}", "-state", str(tmp_path / f"state{i}"), *args, base=("-display", "none", "-nodefaults")))
        src, dst = made
        fill(src)
        src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="full", speed=SLOW)
        done = some_way(src)
        move(src, tmp_path / "in")
        until(src, "completed")
        until(dst, "completed")
        went(src, dst, done)
        assert [s["name"] for s in dst.qmp.cmd("query-state")["sections"] if s["kind"] == "job"] == ["j"]
        finish(dst)
    finally:
        for m in made:
            m.close()
    assert equal(path, copy)


def test_several_of_one_disk(start, waiting, tmp_path):
    """A backup, a mirror and a stream of the same disk, while RAM follows the machine."""
    layered(tmp_path)
    args = *chain(tmp_path, "base", "top"), *target(image(tmp_path / "copy")), *target(image(tmp_path / "other"), "other")
    src = start(*args)
    dst, where = waiting(*args)
    for m in src, dst:
        m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
    src.qmp.cmd("blockdev-backup", job_id="b", device="d-node", target="copy", sync="full", speed=SLOW)
    src.qmp.cmd("blockdev-mirror", job_id="m", device="d-node", target="other", sync="full", speed=SLOW)
    src.qmp.cmd("block-stream", job_id="s", device="d-node", speed=SLOW)
    done = {j: some_way(src, j) for j in "bms"}
    write(src, 7 << 20, 6)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1)
    move(src, where)
    until(src, "active")
    src.qmp.cmd("migrate-start-postcopy")
    moved(src, dst)
    for j in "bm":
        went(src, dst, done[j], j)
    write(dst, 6 << 20, 7)
    for j in "bms":
        dst.qmp.cmd("block-job-set-speed", device=j, speed=0)
    dst.qmp.event("BLOCK_JOB_READY", device="m")
    write(dst, 0, 8)
    while len(jobs(dst)) > 1:
        time.sleep(0.005)
    dst.qmp.cmd("block-job-cancel", device="m")
    dst.qmp.event("BLOCK_JOB_COMPLETED", device="m")
    dst.quit()
    src.quit()
    assert equal(tmp_path / "top", tmp_path / "other") and equal(tmp_path / "base", tmp_path / "copy")
    assert "backing" not in run(program("sterna-img"), "info", str(tmp_path / "top")).out


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("command", ["blockdev-backup", "blockdev-mirror"])
def test_incremental(start, waiting, tmp_path, command, persistent):
    """What the bitmap says when it began is copied, here and there; then the bitmap has what was written since, here and there."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    src.qmp.cmd("block-dirty-bitmap-add", node="d-node", name="b", persistent=persistent)
    io(src, "write -P 5 0 4M")
    dst, where = waiting(*disk(path), *target(copy))
    for m in src, dst:
        m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "dirty-bitmaps", "state": not persistent}])
    src.qmp.cmd(command, job_id="j", device="d-node", target="copy", sync="incremental" if command == "blockdev-backup" else "bitmap", bitmap="b",
                speed=SLOW, **({} if command == "blockdev-backup" else {"bitmap_mode": "on-success"}))
    done = some_way(src)
    write(src, 3 << 20, 6)
    move(src, where)
    moved(src, dst)
    went(src, dst, done)
    write(dst, 7 << 20, 7)
    dst.qmp.cmd("block-job-set-speed", device="j", speed=0)
    if command == "blockdev-mirror":
        dst.qmp.event("BLOCK_JOB_READY", device="j")
        dst.qmp.cmd("block-job-cancel", device="j")
    assert "error" not in dst.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    b, = dst.qmp.cmd("query-block")[0]["inserted"]["dirty-bitmaps"]
    assert (b["name"], b["persistent"], b["busy"], b["count"]) == ("b", persistent, False, 2 * 65536 if command == "blockdev-backup" else 0)
    dst.quit()
    src.quit()
    reads_as = (5, 0) if command == "blockdev-backup" else (6, 7)
    out = run(program("sterna-io"), "-c", "read -P 5 0 3M", "-c", f"read -P {reads_as[0]} 3M 64k", "-c", f"read -P {reads_as[1]} 7M 64k", str(copy)).out
    assert "failed" not in out, out


def test_a_bitmap_that_stays(start, waiting, tmp_path):
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    src.qmp.cmd("block-dirty-bitmap-add", node="d-node", name="b")
    fill(src)
    dst, where = waiting(*disk(path), *target(copy))
    src.qmp.cmd("blockdev-backup", job_id="j", device="d-node", target="copy", sync="incremental", bitmap="b", speed=SLOW)
    move(src, where)
    assert "its bitmap does not move" in fate(src, "ends-first")
    assert "job j (backup): ends-first: its bitmap does" in src.qmp.cmd("human-monitor-command", command_line="info migrate")
    finish(src)
    moved(src, dst)
    assert not jobs(dst)


def test_ready_and_back(start, tmp_path):
    """Without answers: the mirror stays ready while the disks are given up, and mirrors when `cont` has taken them again."""
    path, copy = image(tmp_path / "d"), image(tmp_path / "copy")
    src = start(*disk(path), *target(copy))
    fill(src)
    src.qmp.cmd("blockdev-mirror", job_id="j", device="d-node", target="copy", sync="full")
    src.qmp.event("BLOCK_JOB_READY", device="j")
    src.qmp.cmd("migrate", uri=f"exec:cat > {tmp_path}/state")
    until(src, "completed")
    assert active(src) == {False} and jobs(src)["j"]["status"] == "ready" and equal(path, copy)
    src.qmp.cmd("cont")
    write(src, 0, 99)
    src.qmp.cmd("block-job-cancel", device="j")
    assert "error" not in src.qmp.event("BLOCK_JOB_COMPLETED", device="j")["data"]
    write(src, 1 << 20, 98)
    src.quit()
    assert not equal(path, copy) and "failed" not in run(program("sterna-io"), "-c", "read -P 99 0 64k", str(copy)).out
