# SPDX-License-Identifier: BSD-2-Clause
import os, sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(HERE)), "export"))
from wire import Server


@pytest.fixture
def serve(tmp_path):
    running = []

    def start(*args, **kw):
        s = Server(str(tmp_path), *args, name=f"nbd{len(running)}.sock", **kw)
        running.append(s)
        return s

    yield start
    for s in running:
        if s.proc.returncode is None:
            s.stop()


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    with open(path, "wb") as f:
        f.write(b"A" * 65536)
        f.truncate(1 << 20)
    return path
