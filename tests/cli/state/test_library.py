# SPDX-License-Identifier: BSD-2-Clause
"""libsternastate as other programs use it, on states that were written from the format's description alone."""
import ctypes, json, os, re, subprocess, sys
from ctypes import byref, c_char_p, c_uint32, c_uint64, c_void_p, create_string_buffer

import pytest
import statefile
from sterna import BUILD, TOP, program, run, sanitized
from statefile import PAGE

LIBRARY = os.path.join(BUILD, "src/state/libsternastate.so.1")


def loadable():
    """An interpreter without AddressSanitizer cannot load a library with it."""
    if sanitized("src/state/libsternastate.so.1"):
        pytest.skip("the library was built with AddressSanitizer")
    return LIBRARY


@pytest.fixture(scope="module")
def lib():
    lib = ctypes.CDLL(loadable())
    for name in "open", "create", "device", "dump":
        getattr(lib, "sternastate_" + name).restype = c_void_p
    for name in "error", "manifest", "writer_error":
        getattr(lib, "sternastate_" + name).restype = c_char_p
    return lib


def state(lib, path):
    error = c_void_p()
    s = lib.sternastate_open(os.fsencode(path), byref(error))
    assert s, ctypes.cast(error, c_char_p).value
    return c_void_p(s)


def text(lib, p):
    assert p
    out = ctypes.cast(p, c_char_p).value.decode()
    lib.sternastate_free(c_void_p(p))
    return out


def test_the_c_example(tmp_path):
    path = statefile.small().save(tmp_path / "s")
    out = run(program("examples/print-state"), path).ok().out
    assert '{"path":"/toy0","section":"toy","version":2,"values":{"on":true,"level":3,"skew":-1,"rx_len":2,"rx":"abcd",' in out
    assert '"subsections":{"event":{"event":77}}' in out
    assert "block 0, pages 1 to 2: raw" in out and "block 1, pages 0 to 1: same as block 0, page 1" in out
    with open(path, "rb") as f:
        assert subprocess.run([program("examples/print-state")], stdin=f, capture_output=True, text=True, check=True).stdout == out
    with open(path, "r+b") as f:
        f.truncate(os.path.getsize(path) - 1)
    r = run(program("examples/print-state"), path)
    assert r.rc == 1 and re.search(r"print-state: .*/s: chunk STOP at offset \d+: .*it is incomplete", r.err)
    r = run(program("examples/print-state"), tmp_path / "none")
    assert r.rc == 1 and r.err == f"print-state: '{tmp_path}/none' cannot be opened: No such file or directory\n"


def test_the_python_example(tmp_path):
    path = statefile.small().save(tmp_path / "s")
    example, env = os.path.join(TOP, "examples/print-state.py"), {"STERNASTATE_LIBRARY": loadable()}
    out = run(sys.executable, example, path, env=env).ok().out
    assert out.startswith("a virt-0.1, saved by release 0.1.0\n/toy0 {'on': True, 'level': 3,")
    assert "event={'event': 77}" in out and "rom: pages 0 to 1: same as\n" in out
    open(tmp_path / "bad", "wb").write(b"\x7fELF" + bytes(100))
    r = run(sys.executable, example, tmp_path / "bad", env=env)
    assert r.rc == 1 and "this is no saved state" in r.err


def test_pages_at_any_place(lib, tmp_path):
    s = state(lib, statefile.small().save(tmp_path / "s"))
    buf = create_string_buffer(8 * PAGE)
    assert lib.sternastate_read_pages(s, c_uint32(0), c_uint64(0), c_uint64(8), buf) == 0
    assert buf.raw == bytes(PAGE) + b"a" * PAGE + b"b" * PAGE + bytes(5 * PAGE)
    assert lib.sternastate_read_pages(s, c_uint32(1), c_uint64(1), c_uint64(3), buf) == 0
    assert buf.raw[:3 * PAGE] == b"b" * PAGE + bytes(PAGE) + b"c" * PAGE
    assert lib.sternastate_read_pages(s, c_uint32(1), c_uint64(2), c_uint64(3), buf) == -1
    assert b"RAM block 1 has no such pages" in lib.sternastate_error(s)
    lib.sternastate_close(s)


def test_what_it_prints_it_can_write_again(lib, tmp_path):
    s = state(lib, statefile.small().save(tmp_path / "s"))
    first = json.loads(text(lib, lib.sternastate_dump(s)))
    assert first["devices"][1]["values"]["level"] == 15 and first["totals"]["raw"] == 3
    for flags in 0, 3, 7:
        with open(tmp_path / "t", "wb") as f:
            w = c_void_p(lib.sternastate_create(f.fileno(), b"t", json.dumps(first["manifest"]).encode(), flags, None))
            for d in first["devices"]:
                assert lib.sternastate_write_device(w, json.dumps(d).encode()) == 0, lib.sternastate_writer_error(w)
            assert lib.sternastate_write_pages(w, c_uint32(0), c_uint64(1), c_uint64(2), b"a" * PAGE + b"b" * PAGE) == 0
            assert lib.sternastate_finish(w) == 0
            lib.sternastate_writer_close(w)
        with open(tmp_path / "t", "rb") as f:
            data = f.read()
        assert [k for k, _, _ in statefile.chunks(data)] == ["MANI", "DEVS", "DEVS", "RAMP"] + (["rCRC", "rIDX"] if flags else []) + ["STOP"]
        if flags == 3:  # aligned
            assert b"a" * PAGE == data[data.index(b"a" * PAGE) // PAGE * PAGE:][:PAGE]
        t = state(lib, tmp_path / "t")
        again = json.loads(text(lib, lib.sternastate_dump(t)))
        assert again["devices"] == first["devices"]
        lib.sternastate_close(t)
    first["devices"][0]["values"]["level"] = 16
    with open(tmp_path / "t", "wb") as f:
        w = c_void_p(lib.sternastate_create(f.fileno(), b"t", json.dumps(first["manifest"]).encode(), 0, None))
        assert lib.sternastate_write_device(w, json.dumps(first["devices"][0]).encode()) == -1
        assert b"device '/toy0': 'toy': 'level' is 16, which is not within 0 to 15" == lib.sternastate_writer_error(w)
        lib.sternastate_writer_close(w)
    lib.sternastate_close(s)


def test_verify(lib, tmp_path):
    s = state(lib, statefile.small().save(tmp_path / "s"))
    assert lib.sternastate_verify(s) == 0 and lib.sternastate_error(s) == b""
    lib.sternastate_close(s)
    w = statefile.Writer(schemas={"toy": statefile.TOY}, devices={"/toy0": "toy"})
    w.device("/toy0", "toy", 2, statefile.toy(level=16))
    s = state(lib, w.stop().save(tmp_path / "s"))
    assert lib.sternastate_verify(s) == -1 and b"'level' is 16, which is not within 0 to 15" in lib.sternastate_error(s)
    lib.sternastate_close(s)


def test_only_its_functions_can_be_seen():
    with open(os.path.join(TOP, "src/state/sternastate.h"), encoding="utf-8") as f:
        declared = set(re.findall(r"\b(sternastate_\w+)\(", re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)))
    out = subprocess.run(["nm", "-D", "--defined-only", LIBRARY], capture_output=True, text=True, check=True).stdout
    seen = {line.split()[2] for line in out.splitlines() if line.split()[1] == "T"}
    assert declared == seen
    with open(os.path.join(TOP, "docs/man/libsternastate.3"), encoding="utf-8") as f:
        assert set(re.findall(r"\b(sternastate_\w+)\(", f.read())) == declared
