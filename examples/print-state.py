#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Prints a saved machine with libsternastate: print-state.py FILE, or "-" for standard input.

The library is looked for where the loader does, or where STERNASTATE_LIBRARY says.
"""
import ctypes, json, os, sys
from ctypes import POINTER, Structure, byref, c_char, c_char_p, c_int, c_uint32, c_uint64, c_void_p


class Chunk(Structure):
    _fields_ = [("type", c_char * 5), ("kind", c_int), ("offset", c_uint64), ("length", c_uint64)]


class Run(Structure):
    _fields_ = [("block", c_uint32), ("kind", c_uint32), ("page", c_uint64), ("pages", c_uint64), ("offset", c_uint64),
                ("bytes", c_uint64), ("other_block", c_uint64), ("other_page", c_uint64)]


DEVICE, RAM = 1, 2
KINDS = ["zero", "raw", "zstd", "same as"]


def load():
    lib = ctypes.CDLL(os.environ.get("STERNASTATE_LIBRARY") or "libsternastate.so.1")
    lib.sternastate_open.argtypes, lib.sternastate_open.restype = [c_char_p, POINTER(c_void_p)], c_void_p
    lib.sternastate_close.argtypes = [c_void_p]
    lib.sternastate_free.argtypes = [c_void_p]
    for name in "error", "manifest":
        f = getattr(lib, "sternastate_" + name)
        f.argtypes, f.restype = [c_void_p], c_char_p
    lib.sternastate_next.argtypes = [c_void_p, POINTER(Chunk)]
    lib.sternastate_next_run.argtypes = [c_void_p, POINTER(Run)]
    lib.sternastate_device.argtypes, lib.sternastate_device.restype = [c_void_p], c_void_p
    return lib


def take(lib, p):
    """The text that the library gave us."""
    text = ctypes.cast(p, c_char_p).value.decode() if p else None
    lib.sternastate_free(p)
    return text


def main(path):
    lib = load()
    error = c_void_p()
    s = lib.sternastate_open(path.encode(), byref(error))
    if not s:
        sys.exit("print-state.py: " + take(lib, error))
    manifest = json.loads(lib.sternastate_manifest(s))
    print(f"a {manifest['machine']}, saved by release {manifest['release']}")
    chunk, run = Chunk(), Run()
    while (rc := lib.sternastate_next(s, byref(chunk))) > 0:
        if chunk.kind == DEVICE:
            text = take(lib, lib.sternastate_device(s))
            if text:
                device = json.loads(text)
                print(device["path"], device["values"], *(f"{k}={v}" for k, v in device["subsections"].items()))
        elif chunk.kind == RAM:
            while lib.sternastate_next_run(s, byref(run)) > 0:
                name = manifest["ram"][run.block]["name"]
                print(f"{name}: pages {run.page} to {run.page + run.pages - 1}: {KINDS[run.kind]}")
    problem = lib.sternastate_error(s).decode()
    lib.sternastate_close(s)
    if rc < 0:
        sys.exit("print-state.py: " + problem)


main(sys.argv[1] if len(sys.argv) == 2 else "-")
