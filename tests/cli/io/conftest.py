# SPDX-License-Identifier: BSD-2-Clause
import os, sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from iotwins import IoTwins


@pytest.fixture
def twins(tmp_path):
    return IoTwins(tmp_path)
