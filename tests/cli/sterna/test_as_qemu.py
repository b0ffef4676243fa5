# SPDX-License-Identifier: BSD-2-Clause
"""Called by QEMU's name: what its scripts and test suites, which compare texts, see."""
import json

from sterna import alias, run

QUIET = ["-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]
AS_QEMU = ("bash", "-c", 'exec -a qemu-system-riscv64 "$0" "$@"')


def ask(tmp_path, *commands, name="qemu-system-riscv64"):
    """All lines on standard output after the greeting and the first answer."""
    stdin = "".join(json.dumps({"execute": c, **({"arguments": a} if a else {})}) + "\n" for c, a in [("qmp_capabilities", None), *commands, ("quit", None)])
    return run(alias(tmp_path, name, "sterna"), *QUIET, "-blockdev", "null-co,node-name=n,size=1048576,read-zeroes=on", stdin=stdin).ok().out.splitlines()[2:]


def test_the_exerciser_prints_where_qemus_does(tmp_path):
    lines = ask(tmp_path, ("human-monitor-command", {"command-line": 'qemu-io n "read -P 1 0 512"'}), ("human-monitor-command", {"command-line": 'qemu-io n "length"'}))
    assert lines[0].startswith("Pattern verification failed") and '{"return": ""}' in lines and lines[lines.index("1 MiB") + 1] == '{"return": ""}'
    lines = ask(tmp_path, ("human-monitor-command", {"command-line": 'qemu-io n "length"'}), name="sterna")
    assert lines[0] == '{"return": "1 MiB\\r\\n"}'


def test_members_in_qemus_order(tmp_path):
    lines = ask(tmp_path, ("object-add", {"qom-type": "throttle-group", "id": "g"}), ("nonsense", None))
    assert lines[1] == '{"error": {"class": "CommandNotFound", "desc": "The command nonsense has not been found"}}'
    assert '"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-qmp-quit"}}' in "".join(lines)
    lines = ask(tmp_path, ("block-stream", {"device": "n", "job-id": "j"}))
    assert '"event": "JOB_STATUS_CHANGE", "data": {"status": "created", "id": "j"}}' in lines[0]


def test_no_events_that_its_jobs_do_not_have(machine):
    for prefix, told in ((AS_QEMU, False), ((), True)):
        m = machine("-blockdev", "null-co,node-name=n,size=1048576,read-zeroes=on", "-blockdev", "null-co,node-name=t,size=1048576", qtest=False, prefix=prefix)
        m.qmp.cmd("blockdev-mirror", device="n", target="t", sync="full", job_id="j")
        m.qmp.event("BLOCK_JOB_READY")
        m.qmp.cmd("block-job-complete", device="j")
        m.qmp.event("JOB_STATUS_CHANGE", status="null")  # the last of them
        assert any(e["event"] == "BLOCK_JOB_SWITCHED" for e in m.qmp.events) == told
        m.quit()


def test_a_new_image_is_announced(tmp_path):
    snapshot = ("blockdev-snapshot-sync", {"node-name": "n", "snapshot-file": str(tmp_path / "new"), "snapshot-node-name": "new"})
    assert ask(tmp_path, snapshot)[0] == (f"Formatting '{tmp_path}/new', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib size=1048576 "
                                          "backing_file=null-co:// backing_fmt=null-co lazy_refcounts=off refcount_bits=16")
    assert "Formatting" not in "".join(ask(tmp_path, snapshot, name="sterna"))


def test_jobs_errors_are_the_errnos(machine):
    """The switch would put somebody who reads above somebody who does not let others read."""
    for prefix, error in ((AS_QEMU, "Operation not permitted"), ((), "Permission conflict on node 't'")):
        m = machine(*(w for n in ("n", "t") for w in ("-blockdev", f"null-co,node-name={n},size=1048576,read-zeroes=on")), qtest=False, prefix=prefix)
        m.qmp.cmd("blockdev-add", driver="blkdebug", node_name="alone", image="t", unshare_child_perms=["consistent-read"])
        m.qmp.cmd("blockdev-mirror", device="n", target="t", sync="full", job_id="j")
        m.qmp.event("BLOCK_JOB_READY")
        m.qmp.cmd("blockdev-add", driver="blkdebug", node_name="reads", image="n", take_child_perms=["consistent-read"])
        m.qmp.cmd("block-job-complete", device="j")
        assert m.qmp.event("BLOCK_JOB_COMPLETED")["data"]["error"].startswith(error)
        names = {n["node-name"] for n in m.qmp.cmd("query-named-block-nodes")}
        assert names == {"n", "t", "alone", "reads"}
        assert ("Permission conflict on node 't'" in m.quit()[1]) == bool(prefix)
