# SPDX-License-Identifier: BSD-2-Clause
"""Where things lie in a qcow2 file: byte for byte as qemu-img and qemu-io leave it, as far as scripts look there."""
import os

import pytest
from sterna import alias, reference, run

# name: commands; "io …" are qemu-io's, separated by ";", all others qemu-img's
CASES = {
    "empty": ["create -f qcow2 a 64M"],
    "version-2": ["create -f qcow2 -o compat=0.10 a 64M"],
    "written": ["create -f qcow2 a 64M", "io write -P 42 0 64k; write -P 43 1M 3k"],
    "several-l2-tables": ["create -f qcow2 -o cluster_size=512 a 64M", "io write -P 1 0 0x1b200"],
    "compressed": ["create -f qcow2 a 64M", "io write -c -P 1 0 64k; write -c -P 2 64k 64k"],
    "zeroes": ["create -f qcow2 a 1M", "io write 0 64k; write -z 64k 64k; write -z 128k 1k"],
    "subclusters": ["create -f qcow2 -o extended_l2=on a 2083k", "io write -P 1 0 1k; write -P 2 3k 512",
                    "io write -z 415k 128k; write -z 2048k 35k; write -z 1951k 8k"],
    "subclusters-preallocated": ["create -f qcow2 -o extended_l2=on,preallocation=metadata a 1M"],
    "subclusters-above-a-base": ["create -f qcow2 -o cluster_size=4k b 1M", "create -f qcow2 -o extended_l2=on,preallocation=metadata -b b -F qcow2 a 512k"],
    "longer-than-before-its-base-too": ["create -f qcow2 -o cluster_size=4k b 6M", "create -f qcow2 -b b -F qcow2 a 5M", "resize a 8M"],
    "preallocated-above-a-base": ["create -f qcow2 b 6M", "create -f qcow2 -b b -F qcow2 a 5M", "resize --preallocation=metadata a 8M"],
    "tail-preallocated": ["create -f qcow2 a 2048000", "resize --preallocation=metadata a +80K"],
    "raw-data-file": ["create -f qcow2 -o data_file=d,data_file_raw=on a 64M", "io write -P 1 1M 4M; discard 2M 2M; write -z 3M 3M", "resize a 66M"],
}


@pytest.mark.parametrize("name", CASES)
def test_bytes(twins, tmp_path, name):
    io = reference("qemu-io"), alias(tmp_path, "qemu-io", "sterna-io")
    for line in CASES[name]:
        if line.startswith("io "):
            for tool, folder in zip(io, (twins.theirs_dir, twins.ours_dir)):
                run(tool, *[w for c in line[3:].split("; ") for w in ("-c", c)], "a", cwd=folder).ok()
        else:
            twins.same(*line.split())
    files = []
    for folder in (twins.theirs_dir, twins.ours_dir):
        with open(os.path.join(folder, "a"), "rb") as f:
            files.append(f.read())
    theirs, ours = files
    if not name.startswith("subclusters"): # what was never written of the last cluster may lie behind the end
        assert len(ours) == len(theirs)
    differs = next((i for i, (x, y) in enumerate(zip(ours, theirs)) if x != y), None)
    assert differs is None, f"at byte {differs:#x}"
    twins.same("check", "a")


def blocks(path):
    """Of each refcount block of a file of 512-byte clusters, and 64-bit counters: where what it counts lies, and itself."""
    with open(path, "rb") as f:
        head = f.read(64)
        f.seek(int.from_bytes(head[48:56], "big"))
        table = f.read(int.from_bytes(head[56:60], "big") * 512)
        for region in range(len(table) // 8):
            offset = int.from_bytes(table[region * 8:region * 8 + 8], "big")
            f.seek(offset)
            counters = f.read(512) if offset else b""
            yield {region * 64 + i for i in range(len(counters) // 8) if any(counters[i * 8:i * 8 + 8])}, offset // 512


@pytest.mark.parametrize("order", ["write 0 4M", "write 3M 1M; write 0 1M; write 2M 1M; write 1M 1M"])
def test_no_counts_of_nothing_in_a_file_that_was_shrunk(twins, order):
    twins.same("create", "-f", "qcow2", "-o", "cluster_size=512,refcount_bits=64", "a", "4M")
    twins.io("a", *order.split("; "))
    twins.same("resize", "--shrink", "a", "512k")
    left = [b for b in blocks(os.path.join(twins.ours_dir, "a")) if b[1]]
    assert left and all(counted - {itself} for counted, itself in left)
    twins.equal("a")
