# SPDX-License-Identifier: BSD-2-Clause
"""Transactions: all or nothing, for every kind of action."""
import json, os, time

import pytest
from chain import MB, SIZE, Chain, finish, img, layers, start
from qmp import QMPError


@pytest.fixture
def chain(tmp_path):
    return Chain(tmp_path)


def transact(m, *actions, **properties):
    args = {"actions": [{"type": t, "data": d} for t, d in actions]}
    if properties:
        args["properties"] = {k.replace("_", "-"): v for k, v in properties.items()}
    return m.qmp.cmd("transaction", args=args)


def add_target(m, tmp, name, size=SIZE):
    path = tmp / f"{name}.qcow2"
    img("create", "-q", "-f", "qcow2", path, size)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name=name, file={"driver": "file", "filename": str(path)})
    return path


def without_sizes(o):
    """Without what differs although nothing has changed."""
    if isinstance(o, dict):
        return {k: without_sizes(v) for k, v in o.items() if k not in ("actual-size", "vm-clock-nsec")}
    return [without_sizes(v) for v in o] if isinstance(o, list) else o


def state(m):
    """All that a transaction could have changed."""
    nodes = {n["node-name"]: n for n in m.qmp.cmd("query-named-block-nodes", flat=True)}
    nodes = {name: n if name[0] != "#" else n["drv"] for name, n in nodes.items()}  # files may have grown
    return without_sizes([nodes, m.qmp.cmd("query-block"), m.qmp.cmd("query-jobs"), layers(m)])


BITMAP = {"node": "top", "name": "a"}
# Every kind, with arguments that work in the machine of `prepared`.
ACTIONS = {
    "block-commit": {"job-id": "j", "device": "top", "top-node": "mid"},
    "block-dirty-bitmap-add": {"node": "top", "name": "new", "persistent": True},
    "block-dirty-bitmap-disable": BITMAP,
    "block-dirty-bitmap-enable": {"node": "top", "name": "b"},
    "block-dirty-bitmap-merge": {"node": "top", "target": "b", "bitmaps": ["a"]},
    "block-dirty-bitmap-clear": BITMAP,
    "block-dirty-bitmap-remove": BITMAP,
    "block-stream": {"job-id": "j", "device": "top"},
    "blockdev-add": {"driver": "null-co", "node-name": "null"},
    "blockdev-backup": {"job-id": "j", "device": "top", "target": "t", "sync": "full"},
    "blockdev-mirror": {"job-id": "j", "device": "top", "target": "t", "sync": "full"},
    "blockdev-snapshot": {"node": "t", "overlay": "o"},
    "blockdev-snapshot-sync": {"node-name": "p", "snapshot-node-name": "q", "snapshot-file": "q.qcow2"},
    "blockdev-snapshot-internal-sync": {"device": "disk0", "name": "inside"},
    "drive-backup": {"job-id": "j", "device": "top", "target": "f.qcow2", "sync": "full"},
    "job-complete": {"id": "ready"},
    "job-finalize": {"id": "pending"},
    "machine-snapshot": {"job-id": "j", "tag": "machine", "vmstate": "top"},
}


def prepared(machine, chain):
    """Bitmaps a (dirty) and b (disabled), a node t to copy to, a job that is ready and one that is pending."""
    m, disk = start(machine, chain)
    for name in ("t", "r", "p"):
        add_target(m, chain.tmp, name)
    overlay = chain.tmp / "o.qcow2"
    img("create", "-q", "-f", "qcow2", "-b", "t.qcow2", "-F", "qcow2", overlay)
    m.qmp.cmd("blockdev-add", driver="qcow2", node_name="o", backing=None, file={"driver": "file", "filename": str(overlay)})
    ACTIONS["blockdev-snapshot-sync"]["snapshot-file"] = str(chain.tmp / "q.qcow2")
    ACTIONS["drive-backup"]["target"] = str(chain.tmp / "f.qcow2")
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="a", persistent=True)
    m.qmp.cmd("block-dirty-bitmap-add", node="top", name="b", disabled=True)
    assert disk.write(MB, b"a" * 4096) == 0
    chain.want[MB:MB + 4096] = b"a" * 4096
    m.qmp.cmd("blockdev-add", driver="null-co", node_name="nothing", size=SIZE, read_zeroes=True)
    for job, target in (("ready", "r"), ("pending", "p")):
        m.qmp.cmd("blockdev-mirror", job_id=job, device="nothing", target=target, sync="full", auto_finalize=False)
        m.qmp.event("BLOCK_JOB_READY", device=job)
    m.qmp.cmd("block-job-cancel", device="pending")
    m.qmp.event("JOB_STATUS_CHANGE", id="pending", status="pending")
    return m, disk


def test_every_kind_is_here(machine):
    m = machine("-M", "none", qtest=False)
    schema = m.qmp.cmd("query-qmp-schema")
    command = next(e for e in schema if e["name"] == "transaction")
    by_name = {e["name"]: e for e in schema}
    actions = {x["name"]: x for x in by_name[command["arg-type"]]["members"]}["actions"]["type"]
    union = by_name[by_name[actions]["element-type"]]
    assert {v["case"] for v in union["variants"]} == {*ACTIONS, "abort"}


@pytest.mark.parametrize("last", ["abort", "fails"])
@pytest.mark.parametrize("first", ["alone", "busy"])
def test_nothing(machine, chain, last, first):
    """Each kind, and behind it one that fails: everything is as it was, and the disk goes on."""
    m, disk = prepared(machine, chain)
    if first == "busy":
        add_target(m, chain.tmp, "x")
        m.qmp.cmd("blockdev-backup", job_id="beside", device="top", target="x", sync="none")
    bad, text = {"abort": (("abort", {}), "Transaction aborted using Abort action"),
                 "fails": (("block-dirty-bitmap-clear", {"node": "top", "name": "none"}), "Dirty bitmap 'none' not found")}[last]
    before = state(m)
    for kind, args in ACTIONS.items():
        with pytest.raises(QMPError) as e:
            transact(m, (kind, args), bad)
        assert e.value.desc == text, kind
        assert state(m) == before, kind
    with pytest.raises(QMPError):
        transact(m, *((k, a) for k, a in ACTIONS.items() if a.get("job-id") != "j"), bad)
    assert state(m) == before and not list(chain.tmp.glob("[qf].qcow2"))
    assert disk.write(0, b"w" * 4096) == 0 and disk.contents(MB, 4096) == b"a" * 4096


def test_all(machine, chain):
    """Each kind, beside another."""
    m, disk = prepared(machine, chain)
    for i, (kind, args) in enumerate(ACTIONS.items()):
        before = state(m)
        witness = ("block-dirty-bitmap-add", {"node": "base", "name": f"witness{i}"})
        transact(m, (kind, args), witness)
        after = state(m)
        assert len(after[0]["base"]["dirty-bitmaps"]) == i + 1
        assert {**after[0], "base": 0} != {**before[0], "base": 0} or after[2:] != before[2:] or kind.startswith("job-"), kind
        job = args.get("job-id") or args.get("id")
        if kind == "blockdev-mirror":
            m.qmp.event("BLOCK_JOB_READY", device="j")
            m.qmp.cmd("job-complete", id="j")
        if kind == "job-complete":
            m.qmp.event("JOB_STATUS_CHANGE", id=job, status="pending")
            m.qmp.cmd("job-finalize", id=job)
        if kind == "machine-snapshot":  # it stays until it is dismissed
            while (info := m.qmp.cmd("query-jobs")[0])["status"] != "concluded":
                time.sleep(0.01)
            assert "error" not in info
            m.qmp.cmd("job-dismiss", id=job)
        elif job:
            assert "error" not in finish(m, job), kind
    assert [n["device"] for n in m.qmp.cmd("query-block")] == [""] and m.qmp.cmd("query-block")[0]["inserted"]["node-name"] == "o"
    assert m.qmp.cmd("query-jobs") == [] and disk.contents(MB, 4096) == b"a" * 4096


def test_each_sees_those_before_it(machine, chain):
    m, disk = start(machine, chain)
    path = chain.tmp / "new.qcow2"
    img("create", "-q", "-f", "qcow2", path, SIZE)
    then = bytes(chain.want)
    transact(m, ("blockdev-add", {"driver": "qcow2", "node-name": "new", "file": {"driver": "file", "filename": str(path)}}),
             ("block-dirty-bitmap-add", {"node": "top", "name": "since"}),
             ("blockdev-backup", {"job-id": "j", "device": "top", "target": "new", "sync": "full", "speed": 8 * MB}))
    assert disk.write(2 * MB, b"n" * 4096) == 0
    assert "error" not in finish(m, "j")
    top = next(n for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "top")
    assert [(b["name"], b["count"]) for b in top["dirty-bitmaps"]] == [("since", 65536)]
    m.qmp.cmd("blockdev-del", node_name="new")
    m.quit()
    img("convert", "-f", "qcow2", "-O", "raw", path, chain.tmp / "new.raw")
    assert (chain.tmp / "new.raw").read_bytes() == then


def test_grouped(machine, chain):
    """Jobs that end together: one waits for the other; one that fails takes the other with it."""
    m, _ = start(machine, chain)
    for name in ("a", "b"):
        add_target(m, chain.tmp, name)
    bad = {"driver": "raw", "node-name": "bad", "file": {"driver": "blkdebug", "image": {"driver": "null-co", "size": SIZE},
           "inject-error": [{"event": "none", "iotype": "write", "errno": 28}]}}
    m.qmp.cmd("blockdev-add", args=bad)

    def backups(target):
        return [("blockdev-backup", {"job-id": "slow", "device": "top", "target": "a", "sync": "none"}),
                ("blockdev-backup", {"job-id": "quick", "device": "base", "target": target, "sync": "full"})]
    transact(m, *backups("bad"), completion_mode="grouped")
    assert finish(m, "quick")["error"] == "No space left on device"
    m.qmp.event("BLOCK_JOB_CANCELLED", device="slow")
    transact(m, *backups("bad"), completion_mode="individual")
    assert finish(m, "quick")["error"] == "No space left on device"
    assert [j["id"] for j in m.qmp.cmd("query-jobs")] == ["slow"]
    m.qmp.cmd("block-job-cancel", device="slow")
    m.qmp.event("JOB_STATUS_CHANGE", id="slow", status="null")
    transact(m, ("blockdev-mirror", {"job-id": "slow", "device": "top", "target": "a", "sync": "full"}), backups("b")[1],
             completion_mode="grouped")
    m.qmp.event("BLOCK_JOB_READY", device="slow")
    m.qmp.event("JOB_STATUS_CHANGE", id="quick", status="waiting")
    m.qmp.cmd("job-complete", id="slow")
    assert "error" not in finish(m, "slow") and "error" not in finish(m, "quick")


def test_refused(machine, chain):
    m, _ = start(machine, chain)
    for actions, properties, text in (
            ([("x", {})], {}, "Parameter 'type' does not accept value 'x'"),
            ([("block-dirty-bitmap-clear", {"node": "top"})], {}, "Parameter 'actions[0].data.name' is missing"),
            ([("abort", {"x": 1})], {}, "Parameter 'actions[0].data.x' is unexpected"),
            ([("blockdev-add", {"driver": "null-co"})], {}, "'node-name' must be specified for the root node"),
            ([("job-complete", {"id": "x"})], {}, "Job not found"),
            ([("block-dirty-bitmap-add", {"node": "top", "name": "a"})], {"completion_mode": "grouped"},
             "Action 'block-dirty-bitmap-add' does not support transaction property completion-mode = grouped")):
        with pytest.raises(QMPError) as e:
            transact(m, *actions, **properties)
        assert e.value.desc == text
    transact(m)
    assert m.quit()[0] == 0
