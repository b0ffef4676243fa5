# SPDX-License-Identifier: BSD-2-Clause
"""Images to try things on, and what must be true of them afterwards."""
import hashlib, json, os, random

from sterna import run

MIB = 1 << 20


def pieces(seed, size, n=25, longest=300_000):
    rng = random.Random(seed)
    out = []
    for _ in range(n):
        length = rng.randrange(1, longest)
        data = rng.choice([rng.randbytes(length), bytes([rng.randrange(1, 256)]) * length, bytes(length)])
        offset = rng.randrange(0, size - length)
        out.append((offset, data))
    return out


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def flat(twins, folder, name, tool):
    """Contents of an image as `tool` reads them."""
    out = os.path.join(folder, "flat")
    run(tool, "convert", "-O", "raw", name, out, cwd=folder).ok()
    d = digest(out)
    os.unlink(out)
    return d


def everyone_reads(twins, name, expected):
    for folder in (twins.theirs_dir, twins.ours_dir):
        for tool in (twins.qemu, twins.ours):
            assert flat(twins, folder, name, tool) == expected, f"{tool} reads {folder}/{name}"


def build_chain(twins):
    twins.same("create", "-f", "qcow2", "base", "4M")
    twins.io("base", "write -P 1 0 1M", "write -P 2 3M 64k")
    twins.same("create", "-f", "qcow2", "-o", "cluster_size=4k", "-b", "base", "-F", "qcow2", "mid")
    twins.io("mid", "write -P 3 512k 1M", "write -z 3M 64k", "write -P 9 2M 5k")
    twins.same("create", "-f", "qcow2", "-b", "mid", "-F", "qcow2", "top", "6M")
    twins.io("top", "write -P 4 0 64k", "write -P 5 5M 64k", "write -z 576k 64k")


def extents(out):
    """(start, length, zero) of `map --output=json`, neighbours alike joined: without where theirs says unallocated subclusters would lie."""
    runs = []
    for e in json.loads(out):
        if runs and runs[-1][2] == e["zero"] and runs[-1][0] + runs[-1][1] == e["start"]:
            runs[-1][1] += e["length"]
        else:
            runs.append([e["start"], e["length"], e["zero"]])
    return runs


def look(twins, name, fmt="qcow2", extents_only=False):
    for args in [
        ("info", name), ("info", "--output=json", name), ("info", "-f", fmt, "--backing-chain", name),
        ("info", "--backing-chain", "--output=json", name), ("info", "-U", name),
        ("map", name), ("map", "--output=json", name), ("map", "--output=json", "-s", "64k", "-l", "100k", name),
        ("check", name), ("check", "--output=json", name), ("check", "-q", name),
        ("measure", "-O", "qcow2", name), ("measure", "--output=json", "-O", "raw", name),
        ("measure", "-O", "qcow2", "-o", "cluster_size=4k,refcount_bits=64", "--output=json", name),
    ]:
        if extents_only and args[:2] == ("map", "--output=json"):
            theirs, ours = twins.both(*args)
            assert extents(ours.out) == extents(theirs.out)
        else:
            twins.same(*args)
