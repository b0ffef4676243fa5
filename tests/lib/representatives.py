# SPDX-License-Identifier: BSD-2-Clause
"""A pytest plugin for ./check, which takes some of the cases of a test that is made for many; --long, and meson test by itself, take all.

STERNA_EACH=N: of each test every N-th case, the first among them, if there are STERNA_MANY (2) or more. STERNA_SANITIZED=1: under sanitizers, where
every other test of a file is taken, and none that kills a program, from which a sanitizer hears nothing. A module says with EVERY_CASE = "sanitized" that it is taken whole
there, being about what sanitizers are for, such as damaged images, and with "plain" that it is taken whole without them.
"""
import collections, os


def pytest_collection_modifyitems(config, items):
    each, many, sanitized = (int(os.environ.get(name, n)) for name, n in (("STERNA_EACH", 1), ("STERNA_MANY", 2), ("STERNA_SANITIZED", 0)))
    cases, seen, kept, left = collections.Counter(i.nodeid.split("[")[0] for i in items), collections.Counter(), [], []
    for item in items:
        test = item.nodeid.split("[")[0]
        whole = cases[test] < many or getattr(item.module, "EVERY_CASE", None) == ("sanitized" if sanitized else "plain")
        wanted = whole or seen[test] % each == 0
        if sanitized and getattr(item.module, "EVERY_CASE", None) != "sanitized":
            wanted = wanted and list(cases).index(test) % 2 == 0 and "killed" not in test.split("::")[-1]
        seen[test] += 1
        (kept if wanted else left).append(item)
    if kept and left:  # a file that has nothing else is not one without tests
        config.hook.pytest_deselected(items=left)
        items[:] = kept
