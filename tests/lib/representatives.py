# SPDX-License-Identifier: BSD-2-Clause
"""A pytest plugin for ./check under sanitizers, where a case costs many times what it costs else: of each test that is made for many cases every
STERNA_EACH-th, the first among them, and none of those that kill a program, from which a sanitizer hears nothing. Every case runs without them.

A module that sets EVERY_CASE is about what sanitizers are for, such as damaged images, and is taken whole.
"""
import collections, os


def pytest_collection_modifyitems(config, items):
    each, seen = int(os.environ.get("STERNA_EACH", 1)), collections.Counter()
    if each < 2:
        return
    kept, left = [], []
    for item in items:
        test = item.nodeid.split("[")[0]
        wanted = getattr(item.module, "EVERY_CASE", False) or (seen[test] % each == 0 and "killed" not in test.split("::")[-1])
        seen[test] += 1
        (kept if wanted else left).append(item)
    if kept:  # a file that has nothing else is not one without tests
        config.hook.pytest_deselected(items=left)
        items[:] = kept
