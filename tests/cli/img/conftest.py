# SPDX-License-Identifier: BSD-2-Clause
import os, sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from twins import Twins
from loops import Loops


@pytest.fixture
def twins(tmp_path):
    return Twins(tmp_path)


@pytest.fixture
def loops(tmp_path):
    all_ = Loops(str(tmp_path))
    yield all_
    all_.end()
