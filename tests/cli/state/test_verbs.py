# SPDX-License-Identifier: BSD-2-Clause
"""Each verb of sterna-state, on states that were written from the format's description alone."""
import glob, json, os, re, subprocess

import pytest
import statefile
from sterna import TOP, program, run
from statefile import PAGE, RAW, SAME, TOY, Writer, ZERO, toy


def tool(*args, **kw):
    return run(program("sterna-state"), *args, **kw)


def js(*args):
    return json.loads(tool(*args, "--output=json").ok().out)


def through_a_pipe(path, *args):
    p = subprocess.run(f"cat {path} | {program('sterna-state')} {' '.join(args)}", shell=True, capture_output=True, text=True, timeout=60)
    return p.returncode, p.stdout, p.stderr


@pytest.fixture
def small(tmp_path):
    return statefile.small(tag="monday", disks=[{"node-name": "d0"}]).save(tmp_path / "s")


def test_info(small, tmp_path):
    out = tool("info", small).ok().out
    assert out == f"""\
file: {small}
machine type: virt-0.1
saved by release: 0.1.0
tag: monday
size: {os.path.getsize(small) / 1024:.3g} KiB ({os.path.getsize(small)} bytes)
RAM block 'ram': 32 KiB
RAM block 'rom': 16 KiB
pages: 3 as they are, 0 compressed, 2 zero, 2 like others
devices: 2
    /toy0 (toy, version 2)
    /toy1 (toy, version 2)
"""
    info = js("info", small)
    assert info["pages"] == {"zero": 2, "raw": 3, "zstd": 0, "same": 2} and info["disks"] == [{"node-name": "d0"}]
    rc, piped, err = through_a_pipe(small, "info", "-", "--output=json")
    assert rc == 0 and json.loads(piped)["pages"] == info["pages"]


def test_dump(small):
    out = tool("dump", small).ok().out
    assert out.startswith("/toy0 (toy, version 2)\n    on: true\n    level: 3\n    skew: -1\n    rx_len: 2\n    rx: abcd\n    queue[0].size: 8\n")
    assert "/toy1 (toy, version 2)\n" in out and "  event:\n    event: 77\n" in out
    all_ = js("dump", small)
    assert all_["manifest"]["tag"] == "monday" and all_["totals"]["chunks"] == 5
    one = js("dump", small, "--device", "/toy1")
    assert one == all_["devices"][1] and one["subsections"] == {"event": {"event": 77}}
    assert through_a_pipe(small, "dump", "-") == (0, out, "")
    r = tool("dump", small, "--device=/none")
    assert (r.rc, r.out, r.err) == (3, "", f"sterna-state: {small}: there is no device '/none' in it\n")


def test_chunks(small):
    with open(small, "rb") as f:
        want = [(kind, at, len(payload)) for kind, at, payload in statefile.chunks(f.read())]
    have = js("dump", small, "--chunks")
    assert [(c["type"], c["offset"], c["length"]) for c in have] == want[1:-1]  # without MANI and STOP
    assert have[0]["device"] == "/toy0" and have[2]["block"] == "ram" and have[2]["pages"] == 4
    lines = tool("dump", small, "--chunks").ok().out.splitlines()
    assert lines[0].split() == [str(want[1][1]), str(want[1][2]), "DEVS", "/toy0"]


def test_verify(small, tmp_path):
    assert tool("verify", small).ok().out == f"{small}: complete and undamaged: 5 chunks, 2 devices\n"
    assert through_a_pipe(small, "verify", "-", "--quiet") == (0, "", "")
    assert js("verify", small)["valid"] is True
    with open(small, "rb") as f:
        data = f.read()
    bad = tmp_path / "bad"
    for change, text in [
        (lambda d: d[:-1], "it ends before its STOP chunk: it is incomplete"),
        (lambda d: d + b"x", "something follows its end at offset"),
        (lambda d: d[:5000] + b"#" + d[5001:], "its checksum is "),
        (lambda d: d.replace(b"STRN\r\n", b"STRN\n", 1), "this is no saved state"),
        (lambda d: b"", "it is incomplete"),
    ]:
        bad.write_bytes(change(data))
        r = tool("verify", bad)
        assert r.rc == 3 and r.out == "" and r.err.startswith(f"sterna-state: {bad}: ") and text in r.err
        r = tool("verify", bad, "--output=json")
        assert r.rc == 3 and json.loads(r.out)["valid"] is False and text in json.loads(r.out)["error"]
    r = tool("verify", tmp_path / "none")
    assert (r.rc, r.err) == (3, f"sterna-state: '{tmp_path}/none' cannot be opened: No such file or directory\n")


def test_an_unknown_chunk(tmp_path):
    for kind, rc, copied in ("nEXt", 0, True), ("nEXT", 0, False), ("nExT", None, None), ("NEXt", 0, True), ("NEXT", 3, False):
        w = Writer(schemas={"toy": TOY}, devices={"/toy0": "toy"})
        w.device("/toy0", "toy", 2, toy())
        w.chunk(kind, b"something")
        path = w.stop().save(tmp_path / "s")
        r = tool("convert", path, tmp_path / "t")
        if rc is None:
            assert r.rc == 3 and "no chunk begins here" in r.err
            continue
        assert [c["type"] for c in js("dump", path, "--chunks")] == ["DEVS", kind]
        assert r.rc == rc and ("must not be left out" in r.err) == (rc != 0)
        if rc == 0:
            assert (kind in [c["type"] for c in js("dump", tmp_path / "t", "--chunks")]) == copied


def test_diff(small, tmp_path):
    same = statefile.small(tag="other").save(tmp_path / "same")
    assert tool("diff", small, small).ok().out == ""
    r = tool("diff", small, same)
    assert r.rc == 1 and r.out == 'disks[0]\n  - {"node-name":"d0"}\n'
    w = Writer(ram={"ram": 8, "rom": 4}, schemas={"toy": TOY}, devices={"/toy0": "toy"}, disks=[{"node-name": "d0"}])
    w.device("/toy0", "toy", 2, toy(level=4, queue=(8, 17)))
    w.pages("ram", [(1, RAW, b"a" * PAGE + b"B" * PAGE), (7, RAW, b"z" * PAGE)])
    w.pages("rom", [(0, RAW, b"a" * PAGE + b"b" * PAGE), (3, RAW, b"c" * PAGE)])
    other = w.stop().save(tmp_path / "o")
    r = tool("diff", small, other, "--output=json")
    d = json.loads(r.out)
    assert r.rc == 1 and d["equal"] is False
    assert {v["where"]: (v.get("a"), v.get("b")) for v in d["values"] if v["where"] != "/toy1"} == {
        "/toy0.values.level": (3, 4), "/toy0.values.queue[1].size": (16, 17)}
    assert [v for v in d["values"] if v["where"] == "/toy1"][0]["a"]["subsections"] == {"event": {"event": 77}}
    assert d["pages"] == [{"block": "ram", "page": 2, "pages": 1}, {"block": "ram", "page": 7, "pages": 1}]
    assert json.loads(tool("diff", small, other, "--no-ram", "--output=json").out)["pages"] == []
    assert tool("diff", small, other, "--quiet").out == ""
    rc, out, err = through_a_pipe(small, "diff", "-", str(other))
    assert rc == 3 and "--no-ram compares the rest" in err


def test_diff_of_fingerprints(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_text("ram 128\nisa rv64\nirq 1\n")
    b.write_text("ram 128\nirq 1\nisa rv64gc\n")
    assert tool("diff", a, a).ok().out == ""
    r = tool("diff", a, b)
    assert (r.rc, r.out) == (1, "- isa rv64\n+ isa rv64gc\n")
    b.write_text("isa rv64\nram 128\nirq 1\n")
    assert tool("diff", a, b).out == "the same lines in another order\n"
    assert json.loads(tool("diff", a, b, "--output=json").out) == {"equal": False, "lines": 0}


@pytest.mark.parametrize("how", [[], ["--align"], ["--compress=3"], ["--align", "--compress=1"]])
def test_convert_keeps_everything(small, tmp_path, how):
    out = tmp_path / "t"
    assert tool("convert", small, out, *how).ok().out == ""
    assert tool("diff", small, out).ok().out == ""
    assert tool("verify", out).ok()
    assert [c["type"] for c in js("dump", out, "--chunks")][-1] == "rIDX" and js("info", out)["tag"] == "monday"
    assert js("info", out)["aligned"] is ("--align" in how) and set(os.listdir(tmp_path)) == {"s", "t"}
    if "--align" in how and len(how) == 1:
        with open(out, "rb") as f:
            data = f.read()
        assert any(data[at:at + PAGE] == b"a" * PAGE for at in range(0, len(data), PAGE))
    rc = subprocess.run(f"cat {small} | {program('sterna-state')} convert - - | cmp - {out}", shell=True).returncode
    assert rc == (0 if not how else 1)


def test_a_failed_conversion_leaves_nothing(small, tmp_path):
    (tmp_path / "t").write_text("before")
    with open(small, "r+b") as f:
        f.truncate(os.path.getsize(small) - 30)
    r = tool("convert", small, tmp_path / "t")
    assert r.rc == 3 and "incomplete" in r.err and (tmp_path / "t").read_text() == "before" and len(os.listdir(tmp_path)) == 2


def test_merging_a_chain(tmp_path):
    def one(tag, parent, runs):
        w = Writer(ram={"ram": 300}, schemas={"toy": TOY}, devices={"/toy0": "toy"}, tag=tag, **({"parent": parent} if parent else {}))
        w.device("/toy0", "toy", 2, toy(level=len(tag)))
        for r in runs:
            w.pages("ram", [r])
        return w.stop().save(tmp_path / tag)

    full = one("a", None, [(0, RAW, b"0" * 10 * PAGE), (200, RAW, b"1" * PAGE)])
    mid = one("bb", "a", [(5, RAW, b"2" * 2 * PAGE), (100, SAME, (1, "ram", 5))])
    top = one("ccc", "bb", [(6, ZERO, 1), (299, RAW, b"3" * PAGE)])
    out = tmp_path / "out"
    assert js("verify", top)["valid"] and "parents" not in js("verify", top)
    r = tool("verify", top, "--chain")
    assert r.rc == 3 and f"{top} is based on 'bb' and does not say where that is" in r.err
    r = tool("verify", top, "--chain", "--parent", full, "--parent", mid).ok()
    assert r.out.startswith(f"{top}: complete and undamaged") and r.out.endswith(f"; so is what it is based on: {mid}, {full}\n")
    assert js("verify", top, "--chain", "--parent", full, "--parent", mid)["parents"] == [str(mid), str(full)]
    assert js("verify", full, "--chain")["parents"] == []
    with open(mid, "rb") as f:
        good = f.read()
    with open(mid, "r+b") as f:
        f.seek(good.index(b"2" * 100) + 50)
        f.write(b"!")
    r = tool("verify", top, "--chain", "--parent", full, "--parent", mid)
    assert r.rc == 3 and str(mid) in r.err
    with open(mid, "wb") as f:
        f.write(good)
    r = tool("convert", top, out, "--parent", mid)
    assert r.rc == 3 and "the chain of parents ends before state 'a'" in r.err
    r = tool("convert", top, out, "--parent", full)
    assert r.rc == 3 and "the parent of this state is 'bb', not 'a'" in r.err
    tool("convert", top, out, "--parent", mid, "--parent", full).ok()
    want = Writer(ram={"ram": 300}, schemas={"toy": TOY}, devices={"/toy0": "toy"}, tag="ccc")
    want.device("/toy0", "toy", 2, toy(level=3))
    want.pages("ram", [(0, RAW, b"0" * 5 * PAGE + b"2" * PAGE), (7, RAW, b"0" * 3 * PAGE), (100, RAW, b"2" * PAGE),
                       (200, RAW, b"1" * PAGE), (299, RAW, b"3" * PAGE)])
    assert tool("diff", out, want.stop().save(tmp_path / "want")).ok().out == ""
    assert "parent" not in js("info", out) and js("info", out)["tag"] == "ccc"
    tool("convert", top, tmp_path / "still").ok()
    assert js("info", tmp_path / "still")["parent"] == "bb"


def test_for_an_older_release(tmp_path):
    """By the tables of the machine types: what virt-0.1 does not know and is in use is refused by name, and may be dropped."""
    new, old = js("schema", "-M", "virt-0.2")["schemas"]["virtio-blk-pci"], js("schema", "-M", "virt-0.1")["schemas"]["virtio-blk-pci"]
    subs = {s["name"]: s for s in new["subsections"]}
    gone = sorted(set(subs) - {s["name"] for s in old["subsections"]})
    assert gone, "there is nothing that virt-0.1 lacks: another section has to serve here"
    path = tmp_path / "s"

    def state(*in_use):
        w = Writer("virt-0.2", schemas={new["section"]: new, "toy": TOY}, devices={"/disk0": new["section"], "/toy": "toy"})
        w.device("/disk0", new["section"], new["version"], statefile.encode(new["fields"]), {n: statefile.encode(subs[n]["fields"]) for n in in_use})
        w.device("/toy", "toy", 2, toy())
        w.stop().save(path)

    state()
    assert tool("convert", path, "--compat=virt-0.1", "--dry-run").ok().out == "nothing would be lost\n"
    tool("convert", path, tmp_path / "t", "--compat=virt-0.1").ok()
    d = js("dump", tmp_path / "t")
    assert d["manifest"]["machine"] == "virt-0.1" and d["manifest"]["schemas"]["virtio-blk-pci"] == old
    state(gone[0])
    r = tool("convert", path, "--compat=virt-0.1", "--dry-run")
    assert (r.rc, r.out, r.err) == (1, f"would be lost: /disk0: {gone[0]}: {subs[gone[0]]['loss']}\n", "")
    assert json.loads(tool("convert", path, "--compat=virt-0.1", "--dry-run", "--output=json").out)["lost"] == [r.out[15:-1]]
    os.unlink(tmp_path / "t")
    r = tool("convert", path, tmp_path / "t", "--compat=virt-0.1")
    assert r.rc == 1 and f"/disk0: {gone[0]}: " in r.err and "naming it in force-drop" in r.err and not os.path.exists(tmp_path / "t")
    for name in gone[0], "virtio-blk-pci:" + gone[0]:
        r = tool("convert", path, tmp_path / "t", "--compat=virt-0.1", "--force-drop", name).ok()
        assert r.err == f"dropped: /disk0: {gone[0]}: {subs[gone[0]]['loss']}\n"
        assert js("dump", tmp_path / "t", "--device=/disk0")["subsections"] == {}
    assert tool("convert", path, tmp_path / "t", "--compat=virt").ok().err == ""
    r = tool("convert", path, tmp_path / "t", "--compat=virt-9")
    assert r.rc == 3 and "virt-9" in r.err


@pytest.mark.parametrize("path", sorted(glob.glob(os.path.join(TOP, "tests/move/golden/*.state"))))
def test_what_a_machine_saved(path, tmp_path):
    """The kept state of each machine type: whole, every value printed by name; converted for its own release it is the same."""
    info = js("info", path)
    assert tool("verify", path).ok().out.startswith(f"{path}: complete and undamaged")
    values = js("dump", path)
    assert {"/machine/clock", "/machine/hart0"} <= {d["path"] for d in values["devices"]} == {d["path"] for d in info["devices"]}
    tool("convert", path, tmp_path / "t", "--compat", info["machine"], "--align").ok()
    assert tool("diff", path, tmp_path / "t").ok().out == ""


def test_schema():
    s = js("schema")
    assert s["machine"].startswith("virt") and {"uart16550", "plic", "riscv-hart"} <= set(s["schemas"])
    for name, schema in s["schemas"].items():
        assert schema["section"] == name and schema["version"] >= 1 and (schema["fields"] or schema["subsections"])
    assert re.search(r"^uart16550, version \d+\n    \w+: u8", tool("schema", "-M", s["machine"]).ok().out, flags=re.M)
    r = tool("schema", "-M", "virt-99")
    assert r.rc == 3 and "virt" in r.err
