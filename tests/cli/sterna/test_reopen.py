# SPDX-License-Identifier: BSD-2-Clause
"""blockdev-reopen, and `reopen` in the human monitor: what is not said any more, what was said of children, and whose children they are."""
import copy, json

import pytest
from chain import MB, finish, img
from qmp import QMPError


@pytest.fixture
def vm(machine, tmp_path):
    """A machine without nodes, beside images hd2 ← hd1 ← hd0."""
    for i, below in ((2, []), (1, ["-b", "hd2", "-F", "qcow2"]), (0, ["-b", "hd1", "-F", "qcow2"])):
        img("create", "-q", "-f", "qcow2", *below, tmp_path / f"hd{i}", 3 * MB)
    return machine("-machine", "virt", "-nodefaults")


def node(tmp, i, **more):
    return {"driver": "qcow2", "node-name": f"hd{i}", "file": {"driver": "file", "node-name": f"hd{i}-file", "filename": str(tmp / f"hd{i}")}, **more}


def chain(tmp, **of):
    """All three, each with what `of` says of it ("hd1": {…}), as one nested description."""
    opts = None
    for i in (2, 1, 0):
        opts = node(tmp, i, backing=opts, **of.get(f"hd{i}", {}))
    return opts


def reopen(m, opts, *without, error=None, **change):
    """With a few options changed, or left out; `file__locking` is that of `file`."""
    opts = copy.deepcopy(opts)
    for path, value in [(p, None) for p in without] + list(change.items()):
        *way, last = path.replace("__", ".").replace("_", "-").split(".")
        at = opts
        for key in way:
            at = at[key]
        if path in without:
            del at[last]
        else:
            at[last] = value
    if not error:
        m.qmp.cmd("blockdev-reopen", options=[opts])
        return
    with pytest.raises(QMPError) as e:
        m.qmp.cmd("blockdev-reopen", options=[opts])
    assert e.value.desc == error


def get(m, name):
    return next((n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == name), None)


def detects(m, *names):
    return [get(m, n)["detect_zeroes"] for n in names]


def no_flush(m, *names):
    return [get(m, n)["cache"]["no-flush"] for n in names]


def test_what_is_left_out_gets_its_default(vm, tmp_path):
    opts = node(tmp_path, 2)
    opts["file"].update({"locking": "off", "x-check-cache-dropped": True})
    vm.qmp.cmd("blockdev-add", args=opts)
    reopen(vm, opts)
    reopen(vm, opts, file="hd2-file")
    reopen(vm, opts, file__x_check_cache_dropped=False)
    reopen(vm, opts, "file.x-check-cache-dropped")
    reopen(vm, opts, file__locking="on", error="Cannot change the option 'locking'")
    reopen(vm, opts, "file.locking", error="Option 'locking' cannot be reset to its default value")
    reopen(vm, opts["file"], "locking", error="Option 'locking' cannot be reset to its default value")
    reopen(vm, opts, file__filename=str(tmp_path / "hd1"), error="Cannot change the option 'filename'")
    reopen(vm, opts, file__node_name="x", error="Cannot change the option 'node-name'")
    reopen(vm, opts, "file.node-name", detect_zeroes="on", cache={"no-flush": True})
    assert detects(vm, "hd2") == ["on"] and no_flush(vm, "hd2", "hd2-file") == [True, True]
    reopen(vm, opts)
    assert detects(vm, "hd2") == ["off"] and no_flush(vm, "hd2", "hd2-file") == [False, False]
    assert get(vm, "hd2-file")["file"] == str(tmp_path / "hd2")


def test_below(vm, tmp_path):
    """An object says all of the image below; a name leaves it as it is."""
    every = {f"hd{i}": {"detect-zeroes": "on"} for i in range(3)}
    opts = chain(tmp_path, **every)
    vm.qmp.cmd("blockdev-add", args=opts)
    names = ("hd0", "hd1", "hd2")
    reopen(vm, opts)
    assert detects(vm, *names) == ["on", "on", "on"]
    reopen(vm, node(tmp_path, 0, backing="hd1"))
    assert detects(vm, *names) == ["off", "on", "on"]
    reopen(vm, opts, "backing.detect-zeroes")
    assert detects(vm, *names) == ["on", "off", "on"]
    reopen(vm, node(tmp_path, 0), error="backing is missing for 'hd0'")
    reopen(vm, opts, backing__read_only=False)
    assert not get(vm, "hd1")["ro"] and not get(vm, "hd1-file")["ro"] and get(vm, "hd2")["ro"]
    reopen(vm, opts)
    assert get(vm, "hd1")["ro"] and get(vm, "hd1-file")["ro"]


def test_whose_child_it_is(vm, tmp_path):
    """What was opened by itself, or is another's, cannot be told anything from above."""
    vm.qmp.cmd("blockdev-add", args=node(tmp_path, 2, backing=None))
    vm.qmp.cmd("blockdev-add", args=node(tmp_path, 1, backing="hd2"))
    opts = node(tmp_path, 1, backing=node(tmp_path, 2))
    reopen(vm, opts, error="Cannot change the option 'backing.driver'")
    reopen(vm, opts, backing="hd2")
    reopen(vm, opts, backing=None)
    reopen(vm, opts, error="Cannot change the option 'backing.driver'")
    vm.qmp.cmd("blockdev-del", node_name="hd1")
    vm.qmp.cmd("blockdev-del", node_name="hd2")
    opts = chain(tmp_path)
    vm.qmp.cmd("blockdev-add", args=opts)
    reopen(vm, opts)
    below = opts["backing"]["backing"]
    reopen(vm, opts, backing="hd2")  # which was opened for hd1, and that for hd0: hd1 has no other user, and goes
    assert not get(vm, "hd1")
    reopen(vm, opts, error="Cannot change the option 'backing.driver'")
    reopen(vm, opts, backing={**below, "detect-zeroes": "on"})
    assert detects(vm, "hd0", "hd2") == ["off", "on"]


def test_after_a_failure_all_is_as_it_was(vm, tmp_path):
    opts = chain(tmp_path)
    vm.qmp.cmd("blockdev-add", args=opts)
    for link in "hd2", None:
        with pytest.raises(QMPError, match="L2 cache entry size"):
            vm.qmp.cmd("blockdev-reopen", options=[{**opts, "backing": link}, {"driver": "qcow2", "node-name": "hd2", "file": "hd2-file", "l2-cache-entry-size": 513}])
        reopen(vm, opts, backing__detect_zeroes="on", backing__backing__detect_zeroes="on")
        assert detects(vm, "hd0", "hd1", "hd2") == ["off", "on", "on"]
        reopen(vm, opts)


@pytest.mark.parametrize("how", ["stream", "commit"])
def test_an_image_between_has_gone(vm, tmp_path, how):
    """What is below it was opened for it, and is told of through the image above now."""
    opts = chain(tmp_path)
    vm.qmp.cmd("blockdev-add", args=opts)
    if how == "stream":
        vm.qmp.cmd("block-stream", job_id="s", device="hd0", base_node="hd2")
    else:
        vm.qmp.cmd("block-commit", job_id="s", device="hd0", top_node="hd1", base_node="hd2")
    assert "error" not in finish(vm) and not get(vm, "hd1")
    reopen(vm, opts, error="Cannot change the option 'backing.driver'")  # that was below hd1
    below = opts["backing"]["backing"]
    reopen(vm, opts, backing={**below, "detect-zeroes": "on"})
    assert detects(vm, "hd0", "hd2") == ["off", "on"] and get(vm, "hd2")["ro"]
    assert vm.qmp.hmp('qemu-io hd0 "reopen -o backing.detect-zeroes=off"') == ""
    assert detects(vm, "hd2") == ["off"]
    reopen(vm, opts, backing="hd2")
    reopen(vm, opts, backing=below)
    reopen(vm, node(tmp_path, 0), error="backing is missing for 'hd0'")


def test_nothing_is_below_any_more(vm, tmp_path):
    opts = chain(tmp_path)
    vm.qmp.cmd("blockdev-add", args=opts)
    vm.qmp.cmd("block-stream", job_id="s", device="hd0")
    assert "error" not in finish(vm)
    reopen(vm, opts, error="Cannot change the option 'backing.driver'")
    reopen(vm, opts, "backing")
    reopen(vm, opts, backing=None)


def test_a_filter_comes_and_goes(vm, tmp_path):
    opts = chain(tmp_path)
    vm.qmp.cmd("blockdev-add", args=opts)
    vm.qmp.cmd("blockdev-add", driver="null-co", node_name="to", size=3 * MB)
    vm.qmp.cmd("blockdev-backup", job_id="b", device="hd1", target="to", sync="none")
    vm.qmp.cmd("job-cancel", id="b")
    vm.qmp.event("JOB_STATUS_CHANGE", id="b", status="null")
    reopen(vm, opts, backing__detect_zeroes="on")
    assert detects(vm, "hd0", "hd1", "hd2") == ["off", "on", "off"]


def test_what_was_said_of_a_child_holds(machine, tmp_path):
    """Whatever becomes of the node above, and also when it is what the other had anyhow. Until it is opened anew without."""
    for i in (2, 1):
        img("create", "-q", "-f", "qcow2", *(["-b", "hd2", "-F", "qcow2"] if i == 1 else []), tmp_path / f"hd{i}", MB)
    opts = node(tmp_path, 1, backing=node(tmp_path, 2))
    m = machine("-machine", "virt", "-nodefaults", "-blockdev", json.dumps(opts))
    names = ("hd1", "hd1-file", "hd2", "hd2-file")

    def told(options):
        assert m.qmp.hmp(f'qemu-io hd1 "reopen -o {options}"') == ""
        return no_flush(m, *names)
    assert told("cache.no-flush=on") == [True] * 4 and told("cache.no-flush=off") == [False] * 4
    assert told("file.cache.no-flush=off") == [False] * 4
    assert told("cache.no-flush=on") == [True, False, True, True]
    assert told("backing.file.cache.no-flush=on") == [True, False, True, True]
    assert told("cache.no-flush=off") == [False, False, False, True]
    assert told("cache.direct=off") == [False, False, False, True]
    reopen(m, opts, cache={"no-flush": True}, file="hd1-file")
    assert no_flush(m, *names) == [True, False, True, True]
    reopen(m, opts)
    assert no_flush(m, *names) == [False] * 4
    assert told("cache.no-flush=on") == [True] * 4


def test_a_name_that_says_something_of_the_child(machine, tmp_path):
    img("create", "-q", "-f", "qcow2", tmp_path / "d", MB)
    name = json.dumps({"filename": str(tmp_path / "d"), "cache": {"no-flush": False}}).replace(",", ",,")
    m = machine("-machine", "virt", "-nodefaults", "-drive", f"if=none,id=d,file=blkdebug::json:{name},node-name=q,file.node-name=b,file.image.node-name=f")
    assert m.qmp.hmp('qemu-io d "reopen -o cache.no-flush=on"') == ""
    assert no_flush(m, "q", "b", "f") == [True, True, False]
