# SPDX-License-Identifier: BSD-2-Clause
"""A disk's limits, counters and errors, with a driver in place of a guest."""
import json, socket, struct, time

import pytest
from chain import MB
from qmp import QMPError
from qtest_disk import Disk

NULL = {"driver": "null-co", "size": MB, "read-zeroes": True}


def start(machine, *device, filters=NULL, **kw):
    node = {"driver": "raw", "node-name": "disk", "file": {**filters, "node-name": "below"}}
    options = json.dumps({"driver": "virtio-blk-device", "drive": "disk", "id": "disk0", **kw})
    m = machine("-machine", "virt", "-m", "128", "-blockdev", json.dumps(node), "-device", options, *device)
    return m, Disk(m)


def stats(m):
    return m.qmp.cmd("query-blockstats")[0]["stats"]


def refused(m, command, **args):
    with pytest.raises(QMPError) as e:
        m.qmp.cmd(command, args=args)
    return e.value.desc


def kick(disk, requests):
    """Puts several (kind, sector, length) requests into the queue and tells the device once."""
    for i, (kind, sector, n) in enumerate(requests):
        head, status = disk.head + 32 * i, disk.status + i
        disk.put(head, struct.pack("<IIQ", kind, 0, sector))
        disk.put(status, b"\xff")
        chain = [(head, 16, 0), (disk.data + 4096 * i, n, 2 if kind == 0 else 0), (status, 1, 2)]
        for k, (addr, length, flags) in enumerate(chain):
            more = k < 2
            disk.put(disk.desc + 16 * (3 * i + k), struct.pack("<QIHH", addr, length, flags | more, 3 * i + k + 1 if more else 0))
        disk.put(disk.avail + 4 + 2 * ((disk.count + i) % 8), struct.pack("<H", 3 * i))
    disk.count += len(requests)
    disk.put(disk.avail + 2, struct.pack("<H", disk.count % 65536))
    disk.reg(0x50, 0)


def wait_used(disk):
    end = time.monotonic() + 60
    while struct.unpack("<H", disk.get(disk.used + 2, 2))[0] != disk.count % 65536:
        assert time.monotonic() < end
    return disk


LIMITS = {"bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0}


def test_limits(machine):
    m, disk = start(machine)
    m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS, "iops": 1000, "iops_max": 2000, "iops_max_length": 2, "iops_size": 4096})
    shown = m.qmp.cmd("query-block")[0]["inserted"]
    assert {k: shown[k] for k in ("iops", "iops_max", "iops_max_length", "iops_size", "group", "bps")} == {
        "iops": 1000, "iops_max": 2000, "iops_max_length": 2, "iops_size": 4096, "group": "disk0", "bps": 0}
    assert "iops_max=2000 iops_rd_max=0" in m.qmp.hmp("info block")
    assert m.qmp.hmp("block_set_io_throttle disk0 0 0 0 0 20 0") == ""  # two reads at once, then one in 50 ms
    begin = time.monotonic()
    for _ in range(7):
        disk.contents(0, 512)
    assert time.monotonic() - begin > 0.15
    m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS})
    assert "group" not in m.qmp.cmd("query-block")[0]["inserted"]
    for args, text in (
            ({**LIMITS}, "Need exactly one of 'device' and 'id'"),
            ({**LIMITS, "id": "x"}, "Device 'x' not found"),
            ({**LIMITS, "id": "disk0", "bps": 1, "bps_rd": 1},
             "bps/iops/max total values and read/write values cannot be used at the same time"),
            ({**LIMITS, "id": "disk0", "bps": -1}, "'bps': limits cannot be negative")):
        assert refused(m, "block_set_io_throttle", **args) == text
    m.quit()


@pytest.mark.parametrize("how", ["none", "other", "stop", "quit"])
def test_who_waits_for_a_limit(machine, how):
    """It goes when the limit does, when the machine stops, and at the end."""
    m, disk = start(machine)
    m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS, "bps_wr": 1})
    for i in range(2):  # more than an hour's worth
        kick(disk, [(1, 8 * i, 4096)])
    assert struct.unpack("<H", disk.get(disk.used + 2, 2))[0] < 2
    if how == "none":
        m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS})
    elif how == "other":
        m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS, "bps": MB, "group": "else"})
    elif how == "stop":
        m.qmp.cmd("stop")
    if how != "quit":
        wait_used(disk)
    begin = time.monotonic()
    assert m.quit()[0] == 0 and time.monotonic() - begin < 60


def test_shared_group(machine, tmp_path):
    m, disk = start(machine, "-object", "throttle-group,id=g,x-iops-total=1000000")
    m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS, "iops": 50, "group": "g"})
    assert m.qmp.cmd("qom-get", path="/objects/g", property="limits")["iops-total"] == 50
    m.qmp.cmd("block_set_io_throttle", args={"id": "disk0", **LIMITS})
    m.quit()


def test_counters(machine):
    m, disk = start(machine, **{"stats-intervals": [1, 3600], "account-failed": "off"})
    assert "idle_time_ns" not in stats(m)
    assert disk.write(65536, b"x" * 4096) == 0 and disk.flush() == 0
    disk.contents(0, 512)
    assert disk.request(0, MB // 512, [(disk.data, 512, 2)]) == 1  # behind the end
    s = stats(m)
    want = {"wr_bytes": 4096, "wr_operations": 1, "rd_bytes": 512, "rd_operations": 1, "flush_operations": 1, "wr_highest_offset": 69632,
            "invalid_rd_operations": 1, "failed_rd_operations": 0, "unmap_operations": 0, "zone_append_bytes": 0,
            "account_invalid": True, "account_failed": False}
    assert {k: s[k] for k in want} == want
    assert s["idle_time_ns"] > 0 and s["wr_total_time_ns"] > 0
    one, hour = s["timed_stats"]
    assert (one["interval_length"], hour["interval_length"]) == (1, 3600)
    assert 0 < hour["min_wr_latency_ns"] == hour["avg_wr_latency_ns"] == hour["max_wr_latency_ns"] == s["wr_total_time_ns"]
    assert hour["avg_rd_queue_depth"] > 0 and hour["avg_zone_append_latency_ns"] == 0
    assert "idle_time_ns=" in m.qmp.hmp("info blockstats")
    nodes = {n["node-name"]: n["stats"] for n in m.qmp.cmd("query-blockstats", query_nodes=True)}
    assert nodes["below"]["wr_highest_offset"] == 69632
    time.sleep(1.6)
    assert stats(m)["timed_stats"][0]["max_wr_latency_ns"] == 0
    assert stats(m)["timed_stats"][1]["max_wr_latency_ns"] > 0


def test_merged(machine):
    m, disk = start(machine)
    kick(disk, [(1, 8, 4096), (1, 16, 4096)])
    wait_used(disk)
    s = stats(m)
    assert (s["wr_operations"], s["wr_merged"], s["rd_merged"]) == (2, 1, 0)


def test_histograms(machine):
    m, disk = start(machine, filters={"driver": "delay", "write-latency": "5ms", "file": NULL})
    m.qmp.cmd("block-latency-histogram-set", args={"id": "disk0", "boundaries": [1000000, 4000000, 3600000000000],
                                                   "boundaries-flush": [10**12]})
    disk.write(0, b"x" * 512)
    disk.write(0, b"x" * 512)
    disk.flush()
    s = stats(m)
    assert s["wr_latency_histogram"] == {"boundaries": [1000000, 4000000, 3600000000000], "bins": [0, 0, 2, 0]}
    assert s["rd_latency_histogram"]["bins"] == [0, 0, 0, 0]
    assert s["flush_latency_histogram"] == {"boundaries": [10**12], "bins": [1, 0]}
    m.qmp.cmd("block-latency-histogram-set", args={"id": "disk0"})
    assert "wr_latency_histogram" not in stats(m)
    assert refused(m, "block-latency-histogram-set", id="disk0", boundaries=[5, 5]).startswith("Device 'disk0' set read boundaries fail")
    assert refused(m, "block-latency-histogram-set", id="x") == "Device 'x' not found"


def test_write_threshold(machine):
    m, disk = start(machine)
    m.qmp.cmd("block-set-write-threshold", args={"node-name": "below", "write-threshold": 65536})
    named = {n["node-name"]: n for n in m.qmp.cmd("query-named-block-nodes")}
    assert (named["below"]["write_threshold"], named["disk"]["write_threshold"]) == (65536, 0)
    disk.write(61440, b"x" * 4096)
    disk.write(61440 + 512, b"x" * 4096)
    data = m.qmp.event("BLOCK_WRITE_THRESHOLD")["data"]
    assert data == {"node-name": "below", "amount-exceeded": 512, "write-threshold": 65536}
    disk.write(131072, b"x" * 512)
    assert refused(m, "block-set-write-threshold", **{"node-name": "x", "write-threshold": 0}) == "Device 'x' not found"
    assert not [e for e in m.qmp.events if e["event"] == "BLOCK_WRITE_THRESHOLD"]


def test_children(machine):
    quorum = {"driver": "quorum", "vote-threshold": 1, "children": [{**NULL, "node-name": "a"}, {**NULL, "node-name": "b"}]}
    m, disk = start(machine, "-blockdev", json.dumps({**NULL, "node-name": "c"}), filters=quorum)
    m.qmp.cmd("x-blockdev-change", parent="below", node="c")
    named = {n["node-name"]: n for n in m.qmp.cmd("query-named-block-nodes")}
    assert [c["node-name"] for c in named["below"]["children"]] == ["a", "b", "c"]
    assert disk.write(0, b"x" * 512) == 0
    m.qmp.cmd("x-blockdev-change", parent="below", child="children.1")
    for args, text in (
            ({"parent": "below"}, "Either child or node must be specified"),
            ({"parent": "below", "child": "children.0", "node": "c"}, "The parameters child and node are in conflict"),
            ({"parent": "below", "child": "children.7"}, "Node 'below' does not have child 'children.7'"),
            ({"parent": "below", "node": "x"}, "Node 'x' not found"),
            ({"parent": "below", "node": "c"}, "The node c already has a parent"),
            ({"parent": "x", "node": "c"}, "Cannot find device='x' nor node-name='x'"),
            ({"parent": "disk", "child": "file"}, "The node disk does not support removing a child")):
        assert refused(m, "x-blockdev-change", **args) == text


def test_a_copy_takes_a_childs_place(machine, tmp_path):
    """replaces: of a quorum's child that nobody else uses; the state file follows."""
    for name in "abct":
        (tmp_path / name).write_bytes(bytes(MB))
    file = lambda name: {"driver": "file", "node-name": name, "filename": str(tmp_path / name)}
    quorum = {"driver": "quorum", "node-name": "q", "vote-threshold": 2, "children": ["a", "b", "c"]}
    nodes = [w for n in [*map(file, "abct"), quorum] for w in ("-blockdev", json.dumps(n))]
    m = machine("-machine", "virt", "-m", "128", *nodes, "-device", "virtio-blk-device,drive=q,id=disk0", "-state", tmp_path / "state")
    disk = Disk(m)
    assert disk.write(0, b"x" * 4096) == 0
    mirror = {"device": "q", "target": "t", "sync": "full", "job-id": "j"}
    m.qmp.cmd("blockdev-add", driver="raw", node_name="other", file="c", read_only=True)
    for node in "t", "c":
        assert refused(m, "blockdev-mirror", **mirror, replaces=node).startswith(f"Cannot replace '{node}' by a node mirrored from 'q'")
    assert "a node-name must be provided" in refused(m, "drive-mirror", device="q", sync="full", target=str(tmp_path / "new"), replaces="b")
    m.qmp.cmd("blockdev-mirror", args={**mirror, "replaces": "b"})
    m.qmp.event("BLOCK_JOB_READY")
    graph = m.qmp.cmd("x-debug-query-block-graph")
    ids = {(n["type"], n["name"]): n["id"] for n in graph["nodes"]}
    edges = {(x["parent"], x["name"]): x for x in graph["edges"]}
    assert edges[ids["block-driver", "q"], "children.1"]["child"] == ids["block-driver", "b"]
    assert "write" in edges[ids["block-driver", "q"], "children.1"]["perm"] and ("block-job", "j") in ids
    assert disk.write(8192, b"y" * 4096) == 0
    m.qmp.cmd("block-job-complete", device="j")
    assert "error" not in m.qmp.event("BLOCK_JOB_COMPLETED")["data"]
    m.qmp.event("JOB_STATUS_CHANGE", status="null")
    children = lambda: [c["node-name"] for n in m.qmp.cmd("query-named-block-nodes") if n["node-name"] == "q" for c in n["children"]]
    assert children() == ["a", "t", "c"] and disk.write(16384, b"z" * 4096) == 0
    m.quit()
    assert (tmp_path / "t").read_bytes() == (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
    m = machine("-state", tmp_path / "state", qtest=False)
    assert children() == ["a", "t", "c"]


# --- errors

def faulty(machine, rules, **kw):
    return start(machine, filters={"driver": "error", "errors": rules, "file": NULL}, **kw)


@pytest.mark.parametrize("operation, policy, error", [("write", "werror", "ENOSPC"), ("read", "rerror", "EIO"), ("flush", "werror", "EIO")])
def test_stop_and_go_on(machine, operation, policy, error):
    """The machine's own flush when it stops takes one of the errors, too."""
    m, disk = faulty(machine, [{"operation": operation, "errno": error, "count": 3 if operation == "flush" else 2}], **{policy: "stop"})
    m.qmp.cmd("cont")
    if operation == "flush":
        disk.write(0, b"x" * 512)  # else there is nothing to flush
    kick(disk, [({"write": 1, "read": 0, "flush": 4}[operation], 8, 4096)])
    for turn in range(2):
        event = m.qmp.event("BLOCK_IO_ERROR")["data"]
        assert event == {"qom-path": "/machine/peripheral/disk0/virtio-backend", "device": "", "node-name": "disk",
                         "operation": "read" if operation == "read" else "write", "action": "stop", "nospace": error == "ENOSPC",
                         "reason": "No space left on device" if error == "ENOSPC" else "Input/output error"}
        m.qmp.event("STOP")
        assert m.qmp.cmd("query-status")["status"] == "io-error"
        assert m.qmp.cmd("query-block")[0]["io-status"] == ("nospace" if error == "ENOSPC" else "failed")
        assert disk.get(disk.status, 1) == b"\xff"
        m.qmp.cmd("cont")
        m.qmp.event("RESUME")
    wait_used(disk)
    assert disk.get(disk.status, 1) == b"\x00"
    assert m.qmp.cmd("query-block")[0]["io-status"] == "ok"
    s = stats(m)
    assert s[{"write": "failed_wr_operations", "read": "failed_rd_operations", "flush": "failed_flush_operations"}[operation]] == 2


@pytest.mark.parametrize("policy, error, action, status", [
    ("report", "ENOSPC", "report", 1), ("ignore", "EIO", "ignore", 0), ("enospc", "EIO", "report", 1), ("enospc", "ENOSPC", "stop", None),
    ("auto", "ENOSPC", "stop", None)])
def test_policies(machine, policy, error, action, status):
    m, disk = faulty(machine, [{"operation": "write", "errno": error, "count": 1}], werror=policy)
    m.qmp.cmd("cont")
    kick(disk, [(1, 8, 4096)])
    assert m.qmp.event("BLOCK_IO_ERROR")["data"]["action"] == action
    if status is None:
        m.qmp.event("STOP")
        m.qmp.cmd("cont")
    wait_used(disk)
    assert disk.get(disk.status, 1)[0] == (status or 0)


def test_reset_while_stopped(machine):
    """What waited is forgotten with everything else."""
    m, disk = faulty(machine, [{"operation": "write", "count": 1}], werror="stop")
    m.qmp.cmd("cont")
    kick(disk, [(1, 8, 4096)])
    m.qmp.event("STOP")
    m.qmp.cmd("system_reset")
    m.qmp.cmd("cont")
    assert Disk(m).write(0, b"y" * 512) == 0
    assert stats(m)["wr_operations"] == 1


# --- drives that come and go

def test_drive_add_and_del(machine, tmp_path):
    from chain import img
    img("create", "-q", "-f", "raw", tmp_path / "d", MB)
    m, disk = start(machine)
    assert m.qmp.hmp(f"drive_add 0 if=none,id=d,file={tmp_path}/d,format=raw,iops=100") == "OK\n"
    assert m.qmp.hmp(f"drive_add 0 if=none,id=d,file={tmp_path}/d,format=raw").startswith("Error: ")
    assert "if=none" in m.qmp.hmp(f"drive_add 0 file={tmp_path}/d,format=raw")
    assert m.qmp.hmp("drive_add -n 0 driver=null-co,node-name=n,size=1048576") == ""
    assert m.qmp.hmp("drive_add -n 0 driver=null-co") == "Error: 'node-name' needs to be specified\n"
    assert [b["device"] for b in m.qmp.cmd("query-block")] == ["", "d"]
    m.qmp.cmd("device_add", args={"driver": "virtio-blk-pci", "drive": "d", "id": "hot"})
    assert m.qmp.hmp("drive_del d") == "" and m.qmp.hmp("drive_del n") == ""
    assert m.qmp.hmp("drive_del d") == "Error: Device 'd' not found\n"
    left = {b["qdev"]: b for b in m.qmp.cmd("query-block")}["/machine/peripheral/hot/virtio-backend"]
    assert "inserted" not in left and left["device"] == ""
    assert m.qmp.hmp(f"drive_add 0 if=none,id=d,file={tmp_path}/d,format=raw") == "OK\n"  # the name is free, and so is the file
    m.qmp.cmd("device_del", id="hot")
    m.qmp.event("DEVICE_DELETED", device="hot")
    assert [b["device"] for b in m.qmp.cmd("query-block")] == ["", "d"]
    assert m.quit()[0] == 0


def test_requests_to_a_drive_that_is_gone(machine, tmp_path):
    """Also those that waited for its limit."""
    from chain import img
    img("create", "-q", "-f", "raw", tmp_path / "d", MB)
    m = machine("-machine", "virt", "-m", "128", "-drive", f"if=none,id=d,file={tmp_path}/d,format=raw,werror=stop,bps_wr=1000",
                "-device", "virtio-blk-device,drive=d,id=disk0")
    disk = Disk(m)
    m.qmp.cmd("cont")
    for i in range(2):
        kick(disk, [(1, 8 * i, 4096)])
    assert m.qmp.hmp("drive_del d") == ""
    assert disk.request(0, 0, [(disk.data, 512, 2)]) == 1
    assert m.qmp.cmd("query-status")["status"] == "running"
    assert m.quit()[0] == 0


def test_counters_of_a_drive(machine, tmp_path):
    from chain import img
    img("create", "-q", "-f", "raw", tmp_path / "d", MB)
    m = machine("-machine", "virt", "-m", "128", "-drive", f"if=none,id=d,file={tmp_path}/d,format=raw,stats-account-invalid=off,stats-intervals.0=7")
    s = stats(m)
    assert (s["account_invalid"], s["account_failed"]) == (False, True)
    assert [t["interval_length"] for t in s["timed_stats"]] == [7]


@pytest.mark.parametrize("limit", ["node", "drive"])
def test_the_end_waits_for_no_limit(machine, tmp_path, limit):
    """And a job's last events are still heard."""
    from chain import img
    img("create", "-q", "-f", "raw", tmp_path / "d", 64 * MB)
    where = {"node": ("-object", "throttle-group,id=g,x-bps-read=1000", "-blockdev", f"file,filename={tmp_path}/d,node-name=f",
                      "-blockdev", "raw,file=f,node-name=r", "-blockdev", "throttle,throttle-group=g,file=r,node-name=n"),
             "drive": ("-drive", f"if=none,id=n,file={tmp_path}/d,format=raw,bps_rd=1000")}[limit]
    m = machine("-machine", "virt", "-m", "128", *where, "-blockdev", "null-co,node-name=t,size=67108864")
    for _ in range(2):
        m.qmp.hmp('qemu-io n "aio_read -q 0 1M"')
    if limit == "node":
        m.qmp.cmd("blockdev-mirror", job_id="j", device="n", target="t", sync="full")
    m.qmp.cmd("quit")
    if limit == "node":
        m.qmp.event("BLOCK_JOB_CANCELLED", device="j")
    assert m.process.wait(60) == 0


# --- the exerciser

def test_qemu_io(machine):
    m, disk = start(machine, filters={"driver": "blkdebug", "image": {**NULL, "read-zeroes": True}})
    assert m.qmp.hmp('qemu-io disk0 "write -P 7 0 4k"').startswith("wrote 4096/4096 bytes at offset 0\n4 KiB, 1 ops; ")
    for path in ("disk0", "disk0/virtio-backend", "/machine/peripheral/disk0/virtio-backend"):
        assert m.qmp.hmp(f'qemu-io -d {path} "read -q -P 0 0 4k"') == ""
    out = m.qmp.hmp('qemu-io below "read -P 1 512 512"')
    assert out.startswith("Pattern verification failed at offset 512, 512 bytes\n") and "Error: " in out
    assert m.qmp.hmp('qemu-io disk0 "length"') == "1 MiB\n"
    assert "format name: raw" in m.qmp.hmp('qemu-io disk0 "info"')
    assert "write" in m.qmp.hmp('qemu-io disk0 "help"') and "sigraise" not in m.qmp.hmp('qemu-io disk0 "help"')
    for line, text in (
            ('qemu-io x "length"', "Error: Cannot find device='' nor node-name='x'\n"),
            ('qemu-io -d below "length"', "Error: Device 'below' not found\n"),
            ('qemu-io disk0 "abort"', 'command "abort" not found\nError: \'abort\' failed: Invalid argument\n'),
            ('qemu-io disk0 "read 0 x"', "Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- x\n"
                                         "Error: 'read 0 x' failed: Invalid argument\n")):
        assert m.qmp.hmp(line) == text
    # options change as it runs
    assert m.qmp.hmp('qemu-io disk0 "reopen -o detect-zeroes=on"') == ""
    assert {n["node-name"]: n["detect_zeroes"] for n in m.qmp.cmd("query-named-block-nodes")}["disk"] == "on"
    assert "of a disk in use blockdev-reopen" in m.qmp.hmp('qemu-io disk0 "reopen -r"')
    # a request stopped at a breakpoint, while the monitor goes on
    assert m.qmp.hmp('qemu-io disk0 "break write_aio A"') == ""
    assert m.qmp.hmp('qemu-io disk0 "aio_write -q 0 4k"') == ""
    assert m.qmp.hmp('qemu-io disk0 "wait_break A"') == ""
    assert m.qmp.hmp('qemu-io disk0 "resume A"') == ""
    assert m.qmp.hmp('qemu-io disk0 "aio_flush"') == ""
    assert disk.write(0, b"x" * 512) == 0
    assert stats(m)["wr_operations"] == 1  # only the guest's
    assert m.quit()[0] == 0


@pytest.mark.parametrize("how", ["quit", "SIGTERM", "while a command waits for it"])
def test_a_request_that_is_stopped_at_the_end(machine, how, tmp_path):
    """It goes on, and nothing stops at a breakpoint any more, so the program ends."""
    path = tmp_path / "image"
    path.write_bytes(bytes(1 << 20))
    m, _ = start(machine, filters={"driver": "blkdebug", "image": {"driver": "file", "filename": str(path)}})
    for line in ("break write_aio A", "break pwritev B", "aio_write -P 7 -q 0 4k", "wait_break A"):
        assert m.qmp.hmp(f'qemu-io disk0 "{line}"') == ""
    if how == "quit":
        assert m.quit()[0] == 0
    else:
        if how != "SIGTERM":
            options = {"driver": "raw", "node-name": "disk", "file": "below", "detect-zeroes": "on"}
            m.qmp.send({"execute": "blockdev-reopen", "arguments": {"options": [options]}})
            with pytest.raises(socket.timeout):
                m.qmp.read(0.3)
        m.process.terminate()
        assert m.process.wait(60) == 0
    assert path.read_bytes()[:4096] == b"\7" * 4096


def test_set_iothread(machine):
    m, _ = start(machine)
    m.qmp.cmd("object-add", args={"qom-type": "iothread", "id": "t0"})
    for args in ({"iothread": "t0", "force": True}, {"iothread": None, "force": True}):
        m.qmp.cmd("x-blockdev-set-iothread", args={"node-name": "disk", **args})
    assert "could be in use" in refused(m, "x-blockdev-set-iothread", **{"node-name": "disk", "iothread": "t0"})
    assert refused(m, "x-blockdev-set-iothread", **{"node-name": "disk", "iothread": "x", "force": True}) == "Cannot find iothread x"
    assert refused(m, "x-blockdev-set-iothread", **{"node-name": "x", "iothread": "t0"}) == "Failed to find node with node-name='x'"
