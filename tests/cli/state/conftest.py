# SPDX-License-Identifier: BSD-2-Clause
import os, sys

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../lib"))
