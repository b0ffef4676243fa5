# SPDX-License-Identifier: BSD-2-Clause
"""What a move can be done with, all of it together: each pair of the ways below in one move at least, with STERNA_LONG every combination. Memory, disk and
bitmaps are there afterwards, whatever went with whatever."""
import base64, itertools, random

import pytest
from machine import Machine
from moving import machine, over, until
from sterna import LONG, program, run
from test_migrate_tls import creds, psk

WAYS = {"transport": ("unix", "tcp"), "tls": (False, True), "multifd": (False, True), "compression": ("none", "zstd"),
        "disk": ("shared", "pre-copy", "post-copy"), "postcopy-ram": (False, True), "empty": (False, True)}
RAM, MIB = 0x80400000, 1 << 20


def pairs(row):
    return {frozenset(p) for p in itertools.combinations(zip(WAYS, row), 2)}


def chosen():
    """As few as a simple search finds, the same each time."""
    every = list(itertools.product(*WAYS.values()))
    missing = set().union(*map(pairs, every))
    while missing and not LONG:
        best = max(every, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        yield best
    yield from every if LONG else ()


def image(tmp, name, fmt, content=None):
    path = tmp / name
    if content is None:
        run(program("sterna-img"), "create", "-q", "-f", fmt, path, len(CONTENT)).ok()
    elif fmt == "raw":
        path.write_bytes(content)
    else:
        run(program("sterna-img"), "convert", "-f", "raw", "-O", fmt, image(tmp, name + ".raw", "raw", content), path).ok()
    return path


rng = random.Random(5)
CONTENT = b"".join(rng.randbytes(MIB // 2) + bytes(MIB // 2) for _ in range(4))
MEMORY = rng.randbytes(MIB)


def both(tmp, w):
    """The machine, and who waits for it: with a disk of its own, or one that is made for it, where it is not shared."""
    shared, fmt = w["disk"] == "shared", "qcow2" if w["empty"] else "raw"
    here = image(tmp, "here", fmt, CONTENT)
    there, kind = (here, fmt) if shared or w["empty"] else (image(tmp, "there", "qcow2"), "qcow2")
    disk = lambda path, kind: ("-blockdev", f"{kind},node-name=n,file.driver=file,file.filename={path}", "-device", "virtio-blk-device,drive=n,id=d")
    src = machine(tmp / "source", *disk(here, fmt))
    if not w["empty"]:
        return src, machine(tmp / "destination", *disk(there, kind), "-incoming", "defer")
    for folder in "destination", "made":
        (tmp / folder).mkdir()
    return src, Machine(tmp / "destination", "-state", tmp / "state", "-incoming", "defer", base=("-display", "none", "-nodefaults"))


def prepare(tmp, w, src, dst):
    """Where to."""
    assert src.ask(f"b64write {RAM} {MIB} {base64.b64encode(MEMORY).decode()}") == "OK"
    src.qmp.cmd("block-dirty-bitmap-add", node="n", name="b")
    if w["tls"]:
        keys = psk(tmp / "keys", ("alice", "5a" * 32))
        creds(dst, "psk", "server", keys)
        creds(src, "psk", "client", keys, username="alice")
    names = {"multifd": w["multifd"], "postcopy-ram": w["postcopy-ram"], "dirty-bitmaps": True, "release-ram": True}
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": n, "state": s} for n, s in names.items()])
    src.qmp.cmd("migrate-set-parameters", compression=w["compression"], multifd_compression=w["compression"], multifd_channels=3,
                max_bandwidth=4 * MIB if w["postcopy-ram"] else 0)
    uri = f"unix:{tmp}/in" if w["transport"] == "unix" else "tcp:127.0.0.1:0"
    dst.qmp.cmd("migrate-incoming", args={"uri": uri, **({"disk-folder": str(tmp / "made")} if w["empty"] else {})})
    return uri if w["transport"] == "unix" else "tcp:127.0.0.1:" + dst.qmp.cmd("query-migrate")["socket-address"][0]["port"]


@pytest.mark.parametrize("row", chosen(), ids=lambda row: ",".join(n if v is True else v for n, v in zip(WAYS, row) if v))
def test_together(tmp_path, row):
    w = dict(zip(WAYS, row))
    src, dst = both(tmp_path, w)
    try:
        uri = prepare(tmp_path, w, src, dst)
        src.qmp.cmd("migrate", uri=uri, **({} if w["disk"] == "shared" else {"disks": [{"device": "d", "mode": w["disk"]}]}))
        if w["postcopy-ram"]:
            src.qmp.cmd("migrate-start-postcopy")
            src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
        until(src, "completed", "failed", "postmigrate-unknown", "postcopy-paused")
        assert over(src) == "completed" and until(dst, "completed"), src.qmp.cmd("query-migrate")
        assert base64.b64decode(dst.ask(f"b64read {RAM} {MIB}").split(" ")[1]) == MEMORY
        disk = dst.qmp.cmd("query-block")[0]["inserted"]
        assert [b["name"] for b in disk["dirty-bitmaps"]] == ["b"]
        dst.quit()
        flat = tmp_path / "flat"
        run(program("sterna-img"), "convert", "-f", disk["drv"], "-O", "raw", disk["file"], flat).ok()
        assert flat.read_bytes() == CONTENT
    finally:
        src.close()
        dst.close()
