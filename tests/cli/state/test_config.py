# SPDX-License-Identifier: BSD-2-Clause
"""State files without their machine: config-check, config-seal, config-restore."""
import json, os

from sterna import program, run

TEXT = """# Mine.
format = 1

[blockdev "disk0"]
driver = raw
file.filename = "/a b"
"""


def tool(*args, **kwargs):
    return run(program("sterna-state"), *args, **kwargs)


def test_written_by_hand_sealed_edited_and_restored(tmp_path):
    f = tmp_path / "vm.state"
    f.write_text(TEXT)
    r = tool("config-check", str(f))
    assert r.rc == 3 and f"{f}:6: the file ends early" in r.err and "There is no whole previous generation" in r.err
    f.write_text(TEXT + "\n# end edited\n")
    assert tool("config-check", str(f)).ok().out == f"{f}: generation 0, 1 sections, edited by hand\n"
    assert tool("config-seal", str(f)).ok().out == f"{f}: generation 1\n"
    assert tool("config-check", str(f)).ok().out == f"{f}: generation 1, 1 sections\n"
    got = json.loads(tool("config-check", str(f), "--output", "json").ok().out)
    assert got["generation"] == 1 and got["sections"] == [
        {"kind": "blockdev", "name": "disk0", "values": {"driver": "raw", "file": {"filename": "/a b"}}}]
    sealed = f.read_text()
    assert sealed.startswith("# Mine.\nformat = 1\n") and "[blockdev" in sealed

    f.write_text(sealed.replace("raw", "qcow2"))
    r = tool("config-check", str(f))
    assert r.rc == 3 and "is not as it was written" in r.err and f"sterna-state config-seal {f}" in r.err
    f.write_text(sealed.replace("driver = raw", "driver raw"))
    r = tool("config-seal", str(f))
    assert r.rc == 3 and f'{f}:6: [blockdev "disk0"]: a line is \'key = value\'' in r.err
    f.write_text(sealed.replace("[blockdev", "[blockdve"))
    r = tool("config-seal", str(f))
    assert r.rc == 3 and f'{f}:5: [blockdve "disk0"]: there is no such kind of section; did you mean \'blockdev\'?' in r.err
    f.write_text(sealed.replace("raw", "3"))
    r = tool("config-seal", str(f))
    assert r.rc == 3 and f'{f}:6: [blockdev "disk0"]: key \'driver\': expected a string, not 3' in r.err
    f.write_text(sealed.replace("raw", "qcow2"))
    assert tool("config-seal", str(f)).ok().out == f"{f}: generation 2\n"

    (tmp_path / "vm.state.prev").write_text(sealed)
    f.write_bytes(f.read_bytes()[:-20])
    r = tool("config-check", str(f))
    assert r.rc == 3 and f"The previous generation, 1, is whole: 'sterna-state config-restore {f}'" in r.err
    tool("config-restore", str(f)).ok()
    got = json.loads(tool("config-check", str(f), "--output", "json").ok().out)
    assert got["generation"] > 2 and got["sections"][0]["values"]["driver"] == "raw"
    assert (tmp_path / "vm.state.refused").exists() and not (tmp_path / "vm.state.lock").exists()


def test_quiet_and_missing(tmp_path):
    r = tool("config-check", str(tmp_path / "none"))
    assert r.rc == 3 and "could not open state file" in r.err
    r = tool("config-check", "--quiet", str(tmp_path / "none"))
    assert (r.rc, r.err) == (3, "")
    for verb in "config-seal", "config-restore":
        assert tool(verb, str(tmp_path / "none")).rc == 3
        assert os.listdir(tmp_path) == []
