# SPDX-License-Identifier: BSD-2-Clause
"""Making images, opening them with other options, changing their keys and sizes, by QMP. The expected texts are those of QEMU."""
import json, os

import pytest
from qmp import QMPError
from qtest_disk import Disk
from sterna import program, run

MB = 1 << 20
COUNT = iter(range(1000))


@pytest.fixture
def idle(machine):
    """A machine without a board."""
    return machine("-M", "none", "-nodefaults", "-object", "secret,id=pw,data=Sesame", "-object", "secret,id=pw2,data=Open", qtest=False)


def job(m, command, **args):
    """Runs the job to its end: its error, or None."""
    name = f"j{next(COUNT)}"
    m.qmp.cmd(command, args={"job-id": name, **{k.replace("_", "-"): v for k, v in args.items()}})
    m.qmp.event("JOB_STATUS_CHANGE", id=name, status="concluded")
    info = next(j for j in m.qmp.cmd("query-jobs") if j["id"] == name)
    assert info["type"] == ("create" if "create" in command else "amend")
    m.qmp.cmd("job-dismiss", id=name)
    return info.get("error")


def create(m, **options):
    return job(m, "blockdev-create", options={k.replace("_", "-"): v for k, v in options.items()})


def add(m, **options):
    m.qmp.cmd("blockdev-add", **options)


def image_info(path):
    return json.loads(run(program("sterna-img"), "info", "-U", "--output=json", path).ok().out)


def error(m, command, **args):
    with pytest.raises(QMPError) as e:
        m.qmp.cmd(command, **args)
    return e.value.desc


def file_node(m, path, name, size=0):
    assert create(m, driver="file", filename=str(path), size=size) is None
    add(m, driver="file", filename=str(path), node_name=name)


def test_create(idle, tmp_path):
    m = idle
    file_node(m, tmp_path / "q", "f")
    assert create(m, driver="qcow2", file="f", size=8 * MB, cluster_size=4096, version="v3", compression_type="zstd", lazy_refcounts=True,
                  backing_file="base", backing_fmt="raw") is None
    info = image_info(tmp_path / "q")
    data = info["format-specific"]["data"]
    assert (info["virtual-size"], info["cluster-size"], info["backing-filename"], info["backing-filename-format"]) == (8 * MB, 4096, "base", "raw")
    assert (data["compression-type"], data["lazy-refcounts"]) == ("zstd", True)
    assert create(m, driver="qcow2", file="f", size=MB, encrypt={"format": "luks", "key-secret": "pw", "iter-time": 10}) is None
    assert image_info(tmp_path / "q")["encrypted"]
    assert create(m, driver="qcow2", file="f", size=MB, encrypt={"format": "qcow", "key-secret": "pw"}) is None
    assert image_info(tmp_path / "q")["format-specific"]["data"]["encrypt"] == {"format": "aes"}
    file_node(m, tmp_path / "d", "d")
    assert create(m, driver="qcow2", file="f", data_file="d", data_file_raw=True, size=MB) is None
    assert image_info(tmp_path / "q")["format-specific"]["data"]["data-file"] == str(tmp_path / "d")
    assert create(m, driver="qed", file="f", size=MB, table_size=2) is None
    assert image_info(tmp_path / "q")["format"] == "qed"


@pytest.mark.parametrize("options, text", [
    ({"driver": "qcow2", "file": "f", "size": 1234}, "Image size must be a multiple of 512 bytes"),
    ({"driver": "qcow2", "file": "none", "size": MB}, "Cannot find device='none' nor node-name='none'"),
    ({"driver": "qcow2", "file": "f", "data-file": "none", "size": MB}, "Cannot find device='none' nor node-name='none'"),
    ({"driver": "qcow2", "file": "f", "size": MB, "cluster-size": 1000}, "Cluster size must be a power of two between 512 and 2048k"),
    ({"driver": "luks", "file": "f", "size": MB, "key-secret": "none"}, "No secret with id 'none'"),
    ({"driver": "file", "filename": "/nosuch/f", "size": MB}, "Could not create '/nosuch/f': No such file or directory"),
])
def test_create_fails(idle, tmp_path, options, text):
    file_node(idle, tmp_path / "f", "f")
    assert create(idle, **options) == text


def test_create_is_refused(idle):
    assert error(idle, "blockdev-create", job_id="j", options={"driver": "raw"}) == "Driver does not support blockdev-create"
    assert error(idle, "blockdev-create", job_id="1 2", options={"driver": "file", "filename": "x", "size": 1}) == "Invalid job ID '1 2'"
    assert error(idle, "blockdev-create", job_id="j", options={"driver": "file", "filename": "x"}) == "Parameter 'options.size' is missing"
    assert error(idle, "blockdev-create", job_id="j", options={"driver": "file", "filename": "x", "size": "1"}) == "Parameter 'options.size' expects uint64"


def test_keys(idle, tmp_path):
    m = idle
    file_node(m, tmp_path / "l", "f")
    assert create(m, driver="luks", file="f", size=MB, key_secret="pw", iter_time=10) is None
    add(m, driver="luks", node_name="l", file="f", key_secret="pw")

    def amend(**kw):
        options = {"driver": "luks", **{k.replace("_", "-"): v for k, v in kw.items() if k != "force"}}
        return job(m, "x-blockdev-amend", node_name="l", options=options, **({"force": True} if kw.get("force") else {}))
    assert amend(state="active", new_secret="pw2", iter_time=10) is None
    slots = image_info(tmp_path / "l")["format-specific"]["data"]["slots"]
    assert [s["active"] for s in slots] == [True, True] + 6 * [False]
    assert amend(state="inactive", old_secret="pw") is None
    assert "Attempt to erase the only active keyslot 1" in amend(state="inactive", keyslot=1)
    m.qmp.cmd("blockdev-del", node_name="l")
    assert error(m, "blockdev-add", driver="luks", node_name="l", file="f", key_secret="pw") == "Invalid password, cannot unlock any keyslot"
    add(m, driver="luks", node_name="l", file="f", key_secret="pw2")
    assert amend(state="inactive", keyslot=1, force=True) is None
    assert error(m, "x-blockdev-amend", job_id="j", node_name="f", options={"driver": "luks", "state": "active"}) == \
        "x-blockdev-amend doesn't support changing the block driver"
    assert error(m, "x-blockdev-amend", job_id="j", node_name="f", options={"driver": "file"}) == "Driver does not support x-blockdev-amend"


def first(disk, off):
    return disk.contents(off, 512)[:1]


@pytest.fixture
def chain(tmp_path):
    """Images a and b with 1s and 2s, and t, which is empty."""
    for name, pattern in (("a", 1), ("b", 2)):
        run(program("sterna-img"), "create", "-q", "-f", "qcow2", name, "4M", cwd=tmp_path).ok()
        run(program("sterna-io"), "-f", "qcow2", "-c", f"write -P {pattern} 0 1M", name, cwd=tmp_path).ok()
    run(program("sterna-img"), "create", "-q", "-f", "qcow2", "-b", "a", "-F", "qcow2", "t", cwd=tmp_path).ok()
    return tmp_path


def test_reopen_below_a_guest(machine, chain):
    nodes = [w for n in "abt" for w in ("-blockdev", f"driver=file,node-name=f{n},filename={chain}/{n}")]
    m = machine("-machine", "virt", "-nodefaults", *nodes, "-blockdev", "driver=qcow2,node-name=a,file=fa,read-only=on",
                "-blockdev", "driver=qcow2,node-name=b,file=fb,read-only=on", "-blockdev", "driver=qcow2,node-name=t,file=ft,backing=a",
                "-device", "virtio-blk-device,drive=t,id=v")
    disk = Disk(m)
    top = {"driver": "qcow2", "node-name": "t", "file": "ft"}
    assert disk.write(3 * MB, b"G" * 512) == 0 and first(disk, 0) == b"\x01"
    m.qmp.cmd("blockdev-reopen", options=[{**top, "backing": "b"}])
    assert first(disk, 0) == b"\x02" and first(disk, 3 * MB) == b"G"
    m.qmp.cmd("blockdev-reopen", options=[{**top, "backing": None, "lazy-refcounts": True, "detect-zeroes": "on"}])
    assert first(disk, 0) == b"\x00" and first(disk, 3 * MB) == b"G"
    assert m.qmp.cmd("query-block")[0]["inserted"]["detect_zeroes"] == "on"
    # all or nothing
    assert error(m, "blockdev-reopen", options=[{**top, "backing": "a"}, {"driver": "file", "node-name": "fb", "filename": "other"}]) == \
        "Cannot change the option 'filename'"
    assert first(disk, 0) == b"\x00" and m.qmp.cmd("query-block")[0]["inserted"]["detect_zeroes"] == "on"
    m.qmp.cmd("blockdev-reopen", options=[{**top, "backing": "a"}, {"driver": "qcow2", "node-name": "b", "file": "fb"}])
    assert first(disk, 0) == b"\x01"
    info = {n["node-name"]: n for n in m.qmp.cmd("query-named-block-nodes")}
    assert not info["b"]["ro"] and info["a"]["ro"] and info["t"]["backing_file"] == f"{chain}/a" and info["t"]["backing_file_depth"] == 1
    for options, text in [
            (top, "backing is missing for 't'"),
            ({**top, "backing": "t"}, "Making 't' a backing child of 't' would create a cycle"),
            ({**top, "backing": "a", "read-only": True}, "Read-only block node 't' cannot support read-write users"),
            ({**top, "backing": "none"}, "Cannot find device='' nor node-name='none'"),
            ({**top, "backing": "a", "file": "fb"}, "Permission conflict on node 'fb'"),
            ({"driver": "qcow2", "file": "ft"}, "node-name not specified"),
            ({**top, "node-name": "x"}, "Failed to find node with node-name='x'")]:
        assert text in error(m, "blockdev-reopen", options=[options])
    assert first(disk, 0) == b"\x01" and disk.write(0, b"H" * 512) == 0
    assert m.quit()[0] == 0


def test_resize_below_a_guest(machine, chain):
    m = machine("-machine", "virt", "-nodefaults", "-blockdev", f"driver=qcow2,node-name=n,file.driver=file,file.filename={chain}/a",
                "-device", "virtio-blk-device,drive=n,id=v")
    disk = Disk(m)
    sectors = disk.base + 0x100
    assert disk.read(sectors) == 4 * MB // 512
    assert disk.request(0, 4 * MB // 512, [(0x80104000, 512, 2)]) == 1
    m.qmp.cmd("block_resize", device="v", size=6 * MB)
    assert disk.read(sectors) == 6 * MB // 512 and disk.contents(5 * MB, 512) == bytes(512)
    m.qmp.cmd("block_resize", node_name="n", size=MB)
    assert disk.read(sectors) == MB // 512 and first(disk, 0) == b"\x01"
    assert error(m, "block_resize", node_name="n", size=-1) == "Parameter 'size' expects a >0 size"
    assert error(m, "block_resize", size=1) == "Cannot find device='' nor node-name=''"
    assert m.qmp.hmp("block_resize v 3") == ""
    assert disk.read(sectors) == 3 * MB // 512
    assert m.quit()[0] == 0
    assert os.path.getsize(chain / "a") < 4 * MB
