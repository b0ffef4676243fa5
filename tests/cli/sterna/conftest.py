# SPDX-License-Identifier: BSD-2-Clause
"""Running sterna in tests."""
import os, sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path.insert(0, os.path.join(TOP, "tests", "lib"))
from machine import Machine  # noqa: E402


@pytest.fixture
def machine(tmp_path):
    """machine(*args, qtest=True): a started Machine, ended at the end."""
    made = []

    def start(*args, **kw):
        made.append(Machine(tmp_path, *args, **kw))
        return made[-1]
    yield start
    for m in made:
        m.close()
