# SPDX-License-Identifier: BSD-2-Clause
"""What the caches of a large qcow2 image take of the machine's memory, as the kernel counts it."""
import struct, time

import pytest
from sterna import sanitized
from wire import *

pytestmark = pytest.mark.skipif(sanitized("sterna-nbd"), reason="AddressSanitizer's own memory hides that of the caches")

CLUSTER, TABLES, MIB = 65536, 256, 1 << 20
SPAN = CLUSTER * CLUSTER // 8  # guest bytes that one L2 table maps


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """128 GiB, every cluster mapped, all to the same bytes: for reading only."""
    path = tmp_path_factory.mktemp("mapped") / "mapped.qcow2"
    tables = 4 * CLUSTER
    data = tables + TABLES * CLUSTER
    with open(path, "wb") as f:
        f.write(struct.pack(">IIQIIQIIQQIIQ", 0x514649FB, 3, 0, 0, 16, TABLES * SPAN, 0, TABLES, 3 * CLUSTER, CLUSTER, 1, 0, 0))
        f.write(struct.pack(">QQQII", 0, 0, 0, 4, 104))
        f.seek(CLUSTER)
        f.write(struct.pack(">Q", 2 * CLUSTER))
        f.seek(2 * CLUSTER)
        f.write(b"\0\1" * 8)
        f.seek(3 * CLUSTER)
        f.write(b"".join(struct.pack(">Q", 1 << 63 | tables + i * CLUSTER) for i in range(TABLES)))
        f.seek(tables)
        f.write(struct.pack(">Q", 1 << 63 | data) * (TABLES * CLUSTER // 8))
        f.write(b"\xaa" * CLUSTER)
    return path


def memory(server):
    """Bytes of its own, without what it shares with files."""
    with open(f"/proc/{server.proc.pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) << 10 for line in f if line.startswith("RssAnon"))


def read_everywhere(server):
    with server.open() as w:
        for i in range(TABLES):
            assert w.read(i * SPAN + i * 4096, 4096) == b"\xaa" * 4096


def start(serve, image, options):
    return serve("-t", "-r", "--image-opts", f"driver=qcow2,file.filename={image},{options}")


@pytest.mark.parametrize("options,least,most", [
    ("l2-cache-size=16M", 15 * MIB, 20 * MIB),
    ("l2-cache-size=1M", 0, 4 * MIB),
    ("l2-cache-size=1M,l2-cache-entry-size=4096", 0, 4 * MIB),
    ("cache-size=2M", 0, 5 * MIB),
])
def test_caches_take_what_they_may(serve, mapped, options, least, most):
    s = start(serve, mapped, options)
    before = memory(s)
    for _ in range(2):
        read_everywhere(s)
    assert least <= memory(s) - before <= most


def test_what_is_not_used_goes_back_to_the_system(serve, mapped):
    s = start(serve, mapped, "l2-cache-size=16M,cache-clean-interval=1")
    before = memory(s)
    read_everywhere(s)
    for _ in range(600):
        if memory(s) - before < 3 * MIB:
            return
        time.sleep(0.1)
    assert memory(s) - before < 3 * MIB
