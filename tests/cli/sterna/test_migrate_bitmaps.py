# SPDX-License-Identifier: BSD-2-Clause
"""Dirty bitmaps that move with their machine: never with too little, and what is written there is recorded."""
import json

import pytest
from machine import Machine
from qmp import QMPError
from sterna import program, run
from test_migrate import gone, info, running, start, until  # noqa: F401 (start is a fixture)
from test_migrate_shared import bitmaps, disk, image, io, move, moved, waiting, write  # noqa: F401 (waiting is a fixture)

G = 65536


def capable(*machines, **params):
    for m in machines:
        m.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "dirty-bitmaps", "state": True}])
        m.qmp.cmd("migrate-set-parameters", max_bandwidth=0, **params)


def add(m, name, node="d-node", **kw):
    m.qmp.cmd("block-dirty-bitmap-add", node=node, name=name, **kw)


def digest(m, name, node="d-node"):
    return m.qmp.cmd("x-debug-block-dirty-bitmap-sha256", node=node, name=name)["sha256"]


def same(src, dst, *names):
    """As they were when the guest stood still, then recording at the destination."""
    here, there = bitmaps(src), bitmaps(dst)
    for name in names:
        assert here[name].items() >= {k: there[name][k] for k in ("granularity", "recording", "persistent", "count")}.items(), name
        assert digest(src, name) == digest(dst, name), name
    write(dst, 6 << 20, 9)
    for name, b in bitmaps(dst).items():
        assert b["count"] == there[name]["count"] + (G if there[name]["recording"] else 0), name


def test_of_a_shared_disk(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    src = start(*disk(path))
    add(src, "old", persistent=True)
    dst, where = waiting(*disk(path))
    add(src, "plain")
    add(src, "fine", granularity=512)
    add(src, "off", disabled=True)
    add(src, "kept", persistent=True)
    write(src, 0, 1)
    write(src, 3 << 20, 1, 512)
    capable(src)
    move(src, where)
    moved(src, dst)
    assert {n: b["count"] for n, b in bitmaps(dst).items()} == {"old": 2 * G, "plain": 2 * G, "fine": G + 512, "off": 0, "kept": 2 * G}
    assert [n for n, b in bitmaps(dst).items() if b["persistent"]] == [n for n in bitmaps(dst) if n in ("kept", "old")]
    dst.process.kill()
    dst.process.wait()
    src.quit()
    again = bitmaps(start(*disk(path)))
    assert set(again) == {"old", "kept"} and all(not b.get("inconsistent") and b["count"] >= 2 * G for b in again.values())


@pytest.mark.parametrize("mode", ["pre-copy", "post-copy"])
def test_of_a_disk_that_is_copied(start, waiting, tmp_path, mode):
    """Without the capability, those that are persistent: into the other image, which keeps them."""
    here, there = image(tmp_path / "here"), image(tmp_path / "there")
    src = start(*disk(here))
    add(src, "kept", persistent=True)
    add(src, "off", persistent=True, disabled=True)
    add(src, "plain")
    write(src, 0, 1)
    write(src, 5 << 20, 1)
    dst, where = waiting(*disk(there))
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    move(src, where, disks=[{"device": "d", "mode": mode}])
    moved(src, dst)
    assert set(bitmaps(dst)) == {"kept", "off"}
    same(src, dst, "kept", "off")
    dst.quit()
    image_says = json.loads(run(program("sterna-img"), "info", "--output=json", str(there)).out)["format-specific"]["data"]["bitmaps"]
    assert {b["name"]: b["flags"] for b in image_says} == {"kept": ["auto"], "off": []}
    again = start(*disk(there))
    assert bitmaps(again)["kept"]["count"] == 3 * G


def test_all_of_a_disk_that_is_copied(start, waiting, tmp_path):
    here, there = image(tmp_path / "here"), image(tmp_path / "there")
    src = start(*disk(here))
    add(src, "kept", persistent=True)
    add(src, "plain")
    write(src, 0, 1)
    dst, where = waiting(*disk(there))
    capable(src)
    move(src, where, disks=[{"device": "d", "mode": "pre-copy"}])
    moved(src, dst)
    assert set(bitmaps(dst)) == {"kept", "plain"}
    same(src, dst, "kept", "plain")


def test_refused_before_any_page(start, waiting, tmp_path):
    here, raw = image(tmp_path / "here"), image(tmp_path / "raw", "raw")
    src = start(*disk(here))
    add(src, "kept", persistent=True)
    write(src, 0, 1)
    dst, where = waiting(*disk(raw, "raw"))
    which = [{"device": "d", "mode": "pre-copy"}]
    with pytest.raises(QMPError, match="Bitmap 'kept' is persistent, and node 'd-node' at the destination .raw. cannot keep it"):
        move(src, where, disks=which, dry_run=True)
    # Left behind, or another kind, is what one can have.
    one = {"name": "kept", "alias": "kept", "transform": {"persistent": False}}
    src.qmp.cmd("migrate-set-parameters", block_bitmap_mapping=[{"node-name": "d-node", "alias": "d-node", "bitmaps": [one]}])
    move(src, where, disks=which)
    moved(src, dst)
    assert not bitmaps(dst)["kept"]["persistent"] and bitmaps(dst)["kept"]["count"] == G


def test_one_of_that_name_is_there(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    src = start(*disk(path))
    dst, where = waiting(*disk(path))
    add(src, "b")
    add(dst, "b")
    capable(src)
    with pytest.raises(QMPError, match=r"Bitmap with the same name \('b'\) already exists on destination"):
        move(src, where, dry_run=True)
    dst.qmp.cmd("block-dirty-bitmap-remove", node="d-node", name="b")
    add(dst, "c")  # another one that came later stands in nobody's way
    move(src, where)
    moved(src, dst)
    assert set(bitmaps(dst)) == {"b", "c"}


@pytest.mark.parametrize("mode", ["shared", "pre-copy"])
def test_the_move_fails(start, waiting, tmp_path, mode):
    """At the last moment: the source has what it had and goes on recording, the destination's image has nothing of it."""
    for name in "d", "other", "bad", "bad-there":
        image(tmp_path / name)
    src = start(*disk(tmp_path / "d"), *disk(tmp_path / "bad", name="x"))
    dst, where = waiting(*disk(tmp_path / ("d" if mode == "shared" else "other")), *disk(tmp_path / "bad-there", name="x"))
    add(src, "kept", persistent=True)
    add(src, "plain")
    write(src, 0, 1)
    before = digest(src, "kept"), digest(src, "plain")
    with open(tmp_path / "bad-there", "r+b") as f:
        f.write(b"NONE")
    capable(src)
    move(src, where, **({"disks": [{"device": "d", "mode": mode}]} if mode == "pre-copy" else {}))
    assert "x-node" in until(src, "failed", "completed").get("error-desc", "")
    assert gone(dst) and running(src)
    assert (digest(src, "kept"), digest(src, "plain")) == before
    write(src, 1 << 20, 2)
    assert {b["count"] for b in bitmaps(src).values()} == {2 * G} and all(b["recording"] for b in bitmaps(src).values())
    src.quit()
    assert "kept" not in run(program("sterna-img"), "info", str(tmp_path / "other")).out
    assert "kept" in run(program("sterna-img"), "info", str(tmp_path / "d")).out


def test_through_a_file(start, tmp_path):
    path = image(tmp_path / "d")
    src = start(*disk(path))
    add(src, "plain")
    write(src, 0, 1)
    capable(src)
    src.qmp.cmd("migrate", uri=f"exec:cat > {tmp_path}/state")
    until(src, "completed")
    assert run(program("sterna-state"), "verify", str(tmp_path / "state")).rc == 0
    dst = start(*disk(path), "-incoming", f"exec:cat {tmp_path}/state")
    until(dst, "completed")
    same(src, dst, "plain")


def test_made_persistent_on_the_way(start, waiting, tmp_path):
    path = image(tmp_path / "d")
    src = start(*disk(path))
    add(src, "plain")
    write(src, 0, 1)
    dst, where = waiting(*disk(path))
    one = {"name": "p", "alias": "daily", "transform": {"persistent": True}}
    capable(src, block_bitmap_mapping=[{"node-name": "d-node", "alias": "root", "bitmaps": [{"name": "plain", "alias": "daily"}]}])
    capable(dst, block_bitmap_mapping=[{"node-name": "d-node", "alias": "root", "bitmaps": [one]}])
    assert dst.qmp.cmd("query-migrate-parameters")["block-bitmap-mapping"][0]["bitmaps"] == [one]
    assert "block-bitmap-mapping:\r\n  'd-node' -> 'root'\r\n    'p' -> 'daily'" in dst.qmp.cmd(
        "human-monitor-command", command_line="info migrate_parameters").replace("\r\n", "\n").replace("\n", "\r\n")
    move(src, where)
    moved(src, dst)
    assert bitmaps(dst)["p"]["persistent"] and bitmaps(dst)["p"]["count"] == G
    write(dst, 1 << 20, 2)
    dst.process.kill()
    dst.process.wait()
    src.quit()
    again = bitmaps(start(*disk(path)))["p"]
    assert not again.get("inconsistent") and again["count"] >= 2 * G


def test_into_an_image_that_is_made_there(tmp_path):
    """The destination has no machine yet, and the disk's image is made for it: its bitmaps, too."""
    made = []
    (tmp_path / "far").mkdir()
    try:
        for i, args in enumerate([(*disk(image(tmp_path / "d")), "-m", "16M"), ("-incoming", "defer")]):
            (tmp_path / f"m{i}").mkdir()
            made.append(Machine(tmp_path / f"m{i}", "-state", str(tmp_path / f"state{i}"), *args, base=("-display", "none", "-nodefaults")))
        src, dst = made
        add(src, "kept", persistent=True)
        write(src, 1 << 20, 1)
        dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in", disk_folder=str(tmp_path / "far"))
        move(src, tmp_path / "in", disks=[{"device": "d", "mode": "pre-copy"}])
        until(src, "completed")
        until(dst, "completed")
        same(src, dst, "kept")
    finally:
        for m in made:
            m.close()
    assert "kept" in run(program("sterna-img"), "info", str(tmp_path / "far" / "d")).out


# --- names ---


def null(name):
    return ("-blockdev", f"driver=null-co,node-name={name},size=16777216")


def mapping(*nodes):
    return [{"node-name": n, "alias": a, "bitmaps": [{"name": b, "alias": x} for b, x in pairs]} for n, a, pairs in nodes]


@pytest.mark.parametrize("where_to_say", ["source", "destination", "both"])
def test_crosswise(start, waiting, where_to_say):
    """Two nodes, two bitmaps each, all of which change places."""
    src = start(*null("a"), *null("b"))
    dst, where = waiting(*null("a"), *null("b"))
    want = {}
    for i, (n, b, at) in enumerate((n, b, at) for n, at in (("a", "b"), ("b", "a")) for b in "xy"):
        add(src, b, node=n)
        io(src, f"discard {i}M {1 + i}M", n)
        want[at, {"x": "y", "y": "x"}[b]] = digest(src, b, n)
    cross = mapping(("a", "b", (("x", "y"), ("y", "x"))), ("b", "a", (("x", "y"), ("y", "x"))))
    straight = mapping(("a", "a", (("x", "x"), ("y", "y"))), ("b", "b", (("x", "x"), ("y", "y"))))
    capable(src, **({} if where_to_say == "destination" else {"block_bitmap_mapping": cross}))
    capable(dst, **({} if where_to_say == "source" else {"block_bitmap_mapping": cross if where_to_say == "destination" else straight}))
    move(src, where)
    until(dst, "completed")
    assert {(n, b): digest(dst, b, n) for n in "ab" for b in "xy"} == want


@pytest.mark.parametrize("side, what, says", [
    ("source", [], None),
    ("source", mapping(("a", "a", ())), None),
    ("destination", [], "Unknown node alias 'a'"),
    ("destination", mapping(("a", "a", ())), "Unknown bitmap alias 'x' on node 'a' (alias 'a')"),
    ("source", mapping(("a", "c", (("x", "x"),))), "Cannot find device='c' nor node-name='c'"),
])
def test_left_out(start, waiting, side, what, says):
    src = start(*null("a"))
    dst, where = waiting(*null("a"))
    add(src, "x", node="a")
    capable(src, **({"block_bitmap_mapping": what} if side == "source" else {}))
    capable(dst, **({"block_bitmap_mapping": what} if side == "destination" else {}))
    move(src, where)
    assert until(src, "completed", "failed")["status"] == "completed", info(src)
    until(dst, "completed")
    assert not bitmaps(dst)
    for m in src, dst:
        err = m.quit()[1]
        assert says in err if says else "bitmap" not in err, err


@pytest.mark.parametrize("what, says", [
    (mapping(("a", "z", ()), ("b", "z", ())), "The node alias 'z' is used twice"),
    (mapping(("a", "y", ()), ("a", "z", ())), "The node name 'a' is mapped twice"),
    (mapping(("a", "z", (("x", "q"), ("y", "q")))), "The bitmap alias 'z'/'q' is used twice"),
    (mapping(("a", "z", (("x", "p"), ("x", "q")))), "The bitmap 'a'/'x' is mapped twice"),
    (mapping(("a", "1-z", ())), "The node alias '1-z' is not well-formed"),
    (mapping(("a", "z" * 256, ())), f"The node alias '{'z' * 256}' is longer than 255 bytes"),
    (mapping(("a" * 32, "z", ())), f"The node name '{'a' * 32}' is longer than 31 bytes"),
    (mapping(("a", "z", (("x", "q" * 256),))), f"The bitmap alias '{'q' * 256}' is longer than 255 bytes"),
    (mapping(("a", "z", (("x" * 1024, "q"),))), f"The bitmap name '{'x' * 1024}' is longer than 1023 bytes"),
])
def test_mappings_that_are_none(mapped, what, says):
    with pytest.raises(QMPError, match="^.*Invalid mapping given for block-bitmap-mapping: ") as e:
        mapped.qmp.cmd("migrate-set-parameters", block_bitmap_mapping=what)
    assert says in str(e.value)
    assert "block-bitmap-mapping" not in mapped.qmp.cmd("query-migrate-parameters")


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    m = Machine(tmp_path_factory.mktemp("m"), "-S")
    yield m
    m.quit()


def test_a_node_without_a_name(start, tmp_path):
    src = start("-drive", f"file={image(tmp_path / 'd')},format=qcow2,if=none,id=x")
    nodes = [n["node-name"] for n in src.qmp.cmd("query-named-block-nodes", flat=True)]
    add(src, "b", node=next(n for n in nodes if n.startswith("#") and n != src.qmp.cmd("query-block")[0]["inserted"]["node-name"]))
    capable(src)
    move(src, tmp_path / "nobody")
    assert "failed" == until(src, "failed")["status"]
