# SPDX-License-Identifier: BSD-2-Clause
import os, sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from wire import Server

MIB = 1 << 20


@pytest.fixture(params=["uring", "epoll"])
def engine(request):
    return request.param


@pytest.fixture
def serve(tmp_path, engine):
    """Starts servers, and stops them when the test is over."""
    running = []

    def start(*args, **kw):
        kw.setdefault("engine", engine)
        s = Server(str(tmp_path), *args, name=f"nbd{len(running)}.sock", **kw)
        running.append(s)
        return s

    yield start
    for s in running:
        if s.proc.returncode is None:
            s.stop()


@pytest.fixture
def disk(tmp_path):
    """A raw image of 4 MiB: data, a hole, data, a hole."""
    path = tmp_path / "disk.raw"
    with open(path, "wb") as f:
        f.write(b"A" * 65536)
        f.seek(MIB)
        f.write(b"B" * 65536)
        f.truncate(4 * MIB)
    return path
