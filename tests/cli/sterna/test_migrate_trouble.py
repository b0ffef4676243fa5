# SPDX-License-Identifier: BSD-2-Clause
"""A destination that is not as it should be: without space, with a smaller disk, with another clock."""
import pytest
from moving import has_failed, machine, over, running, until
from qmp import QMPError
from small_fs import SmallFS

KIB = 1024
RTC = 0x101000
DAY_NS = 86400 * 10**9


@pytest.fixture
def start(tmp_path):
    made = []

    def one(*args):
        made.append(machine(tmp_path / f"m{len(made)}", *args))
        return made[-1]
    one.made = made
    yield one
    for m in made:
        m.close()


def disk(tmp, name, size, *more):
    (tmp / name).write_bytes(b"x" * size)
    return ("-blockdev", ",".join(["driver=raw,node-name=d", *more, f"file.driver=file,file.filename={tmp}/{name}"]) if not more else
            ",".join(["node-name=d", *more]), "-device", "virtio-blk-device,drive=d,id=disk0")


def full(tmp, name, size):
    """Whose file system has no space left."""
    return disk(tmp, name, size, "driver=blkdebug", "inject-error.0.event=pwritev", "inject-error.0.iotype=write", "inject-error.0.errno=28",
                f"image.driver=file,image.filename={tmp}/{name}")


def go(src, tmp, **more):
    src.qmp.cmd("migrate", uri=f"unix:{tmp}/in", disks=[{"device": "disk0", "mode": "pre-copy"}], **more)


def test_no_space_there(start, tmp_path):
    """The guest goes on on its own disk, which is as it was."""
    src = start(*disk(tmp_path, "here", 256 * KIB))
    dst = start(*full(tmp_path, "there", 256 * KIB), "-incoming", f"unix:{tmp_path}/in")
    go(src, tmp_path)
    assert over(src) == "failed", src.qmp.cmd("query-migrate")
    assert "pace left" in src.qmp.cmd("query-migrate")["error-desc"] and running(src) and has_failed(dst)
    assert (tmp_path / "here").read_bytes() == b"x" * 256 * KIB and src.qmp.cmd("query-block-jobs") == []


def test_a_full_file_system_there(start, tmp_path):
    """It is full when a part of the disk is there; with more room the same move goes."""
    small = SmallFS(1024 * KIB)
    try:
        src = start(*disk(tmp_path, "here", 512 * KIB))
        for room in 128 * KIB, 640 * KIB:
            with open(f"{small.path}/there", "wb") as f:
                f.truncate(512 * KIB)
            small.leave(room)
            dst = start("-blockdev", f"driver=raw,node-name=d,file.driver=file,file.filename={small.path}/there",
                        "-device", "virtio-blk-device,drive=d,id=disk0", "-incoming", f"unix:{tmp_path}/in")
            go(src, tmp_path)
            if room < 512 * KIB:
                assert over(src) == "failed" and "pace left" in src.qmp.cmd("query-migrate")["error-desc"]
                assert running(src) and has_failed(dst) and small.free() < 64 * KIB
                assert (tmp_path / "here").read_bytes() == b"x" * 512 * KIB
        assert over(src) == "completed" and until(dst, "completed")
        with open(f"{small.path}/there", "rb") as f:
            assert f.read() == b"x" * 512 * KIB
    finally:
        for m in start.made:
            m.close()
        small.close()


def test_too_small_there(start, tmp_path):
    """Before any page, and before a byte of its disk."""
    src = start(*disk(tmp_path, "here", 256 * KIB))
    start(*disk(tmp_path, "there", 128 * KIB), "-incoming", f"unix:{tmp_path}/in")
    (tmp_path / "there").write_bytes(b"y" * 128 * KIB)
    with pytest.raises(QMPError, match="disk0"):
        go(src, tmp_path, dry_run=True)
    go(src, tmp_path)
    assert over(src) == "failed" and "ram" not in src.qmp.cmd("query-migrate") and running(src)
    assert (tmp_path / "there").read_bytes() == b"y" * 128 * KIB


def rtc(m):
    low = int(m.ask(f"readl {RTC:#x}").split()[1], 16)
    return low | int(m.ask(f"readl {RTC + 4:#x}").split()[1], 16) << 32


@pytest.mark.parametrize("skew", [-DAY_NS, DAY_NS])
def test_another_clock_there(start, tmp_path, skew):
    """The guest's clock is the guest's: it goes on from where it was."""
    src, dst = start(), start("-M", f"virt,rtc-offset={skew}", "-incoming", f"unix:{tmp_path}/in")
    before = rtc(src)
    assert abs(rtc(dst) - before) > DAY_NS // 2
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert over(src) == "completed" and until(dst, "completed")
    assert 0 <= rtc(dst) - before < 60 * 10**9


def test_what_the_guest_has_set_its_clock_to(start, tmp_path):
    """The offset from the host's clock comes along, and the state file there keeps it; one that comes back has it too."""
    src = start()
    dst = start("-state", str(tmp_path / "there.state"), "-incoming", f"unix:{tmp_path}/in")
    wanted = rtc(src) + DAY_NS
    src.ask(f"writel {RTC + 4:#x} {wanted >> 32:#x}")
    src.ask(f"writel {RTC:#x} {wanted & 0xffffffff:#x}")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    assert over(src) == "completed" and until(dst, "completed")
    made = [s for s in dst.qmp.cmd("query-state")["sections"] if s["kind"] == "machine"][0]["values"]
    ahead = made["options"]["rtc-offset"]
    assert abs(ahead - DAY_NS) < 60 * 10**9
    assert f"options.rtc-offset = {ahead}\n" in (tmp_path / "there.state").read_text()
