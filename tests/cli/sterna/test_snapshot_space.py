# SPDX-License-Identifier: BSD-2-Clause
"""A file system that is really full in the midst of a save: an error, nothing left of it, and a guest that never notices."""
import pytest
from chain import MB, img
from small_fs import SmallFS
from test_machine_snapshot import System, SIZE, check

KB = 1024
ROOM = 40 * MB


@pytest.fixture
def small():
    fs = SmallFS(ROOM)
    yield fs
    fs.close()


def test_disk_really_full(machine, tmp_path, small):
    where = {n: f"{small.path}/{n}.qcow2" for n in ("a", "b")}
    for p in where.values():
        img("create", "-q", "-f", "qcow2", p, SIZE)
    (tmp_path / "vars.raw").write_bytes(bytes(MB))
    file = {n: {"driver": "file", "filename": p} for n, p in where.items()}
    s = System(machine, tmp_path, fresh=False, file=file)
    s.m.ask(f"memset {0x80200000:#x} {12 * MB:#x} 0x5a")
    s.fill(1)
    assert s.disk.flush() == 0
    tries, error, close = 0, "none", [12 * MB + i * 96 * KB for i in range(-1, 20)]
    for room in (0, 64 * KB, 192 * KB, 512 * KB, 704 * KB, MB, MB + 384 * KB, 4 * MB, *close):
        if not error:
            break
        tries += 1
        small.leave(room)
        error = s.job("snapshot-save")
        assert not error or "No space left on device" in error, (room, error)
        assert not error or small.free() > room - MB  # what was written is given back
        assert bool(s.snapshots("a")) == bool(s.snapshots("b")) == (not error)
        s.fill(tries)
        assert s.byte() == tries and s.m.qmp.cmd("query-status")["running"]
    assert not error and tries > 9, tries  # in small steps at the end
    assert not [e for e in s.m.qmp.events if e["event"] in ("BLOCK_IO_ERROR", "STOP")]
    small.leave(2 * MB)
    assert s.job("snapshot-load") is None and s.byte() == tries - 1
    code, said = s.m.quit()
    assert "keeps the space" not in said and "stays" not in said, said
    for p in where.values():
        check(p)
