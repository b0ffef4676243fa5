# SPDX-License-Identifier: BSD-2-Clause
"""Guest RAM by memory backends, as libvirt and QEMU's users write it: who asks is told so, all of it is there where that was asked for,
and machines with and without move to each other."""
import json, os, random, re, subprocess, time

import pytest
from machine import Machine
from moving import RAM, over, running, status, until
from qmp import QMPError
from sterna import program, sanitized

MIB = 32
BACKEND = {"qom-type": "memory-backend-ram", "id": "m", "size": MIB << 20}
DATA = random.Random(3).randbytes(1 << 20)
AT = RAM + (20 << 20)


def by_backend(**more):
    return "-object", json.dumps({**BACKEND, **more}), "-machine", "virt,memory-backend=m"


@pytest.fixture
def start(tmp_path):
    """start(*args): a machine whose words are all given."""
    made = []

    def one(*args, **kw):
        folder = tmp_path / f"m{len(made)}"
        folder.mkdir()
        made.append(Machine(folder, *args, base=("-display", "none", "-nodefaults"), **kw))
        return made[-1]
    yield one
    for m in made:
        m.close()


def refused(*args):
    r = subprocess.run([program("sterna"), "-display", "none", "-nodefaults", "-S", *args], capture_output=True, text=True, timeout=60,
                       stdin=subprocess.DEVNULL)
    assert r.returncode == 1
    return r.stderr


def resident(m):
    """Bytes of memory that the program has."""
    with open(f"/proc/{m.process.pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def has_all(tmp_path_factory):
    """has_all(m): whether nearly all of its RAM has memory."""
    m = Machine(tmp_path_factory.mktemp("without"), "-m", str(MIB), base=("-display", "none", "-nodefaults"))
    without = resident(m)
    m.close()
    return lambda m: resident(m) >= without + (MIB << 20) * 9 // 10


def soon(what):
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.002)


def put(m):
    assert m.ask(f"write {AT:#x} {len(DATA)} 0x{DATA.hex()}") == "OK"


def check(m):
    assert m.ask(f"read {AT:#x} {len(DATA)}") == f"OK 0x{DATA.hex()}"
    assert m.ask(f"readq {AT - 8:#x}") == "OK 0x0000000000000000"


def test_as_libvirt_writes_it(start, tmp_path):
    """Its size is the machine's; the state file remembers it; it cannot go while the machine has it."""
    args = "-state", str(tmp_path / "state")
    m = start(*args, "-object", "memory-backend-ram,id=other,size=1M,merge=off,dump=off,reserve=off,prealloc=on,prealloc-threads=3",
              *by_backend(**{"x-use-canonical-path-for-ramblock-id": False}))
    entry = {"id": "m", "size": MIB << 20, "merge": True, "dump": True, "prealloc": False, "share": False, "reserve": True, "host-nodes": [],
             "policy": "default"}
    other = {**entry, "id": "other", "size": 1 << 20, "merge": False, "dump": False, "prealloc": True, "reserve": False}
    assert m.qmp.cmd("query-memdev") == [other, entry]
    assert m.qmp.cmd("query-memory-size-summary") == {"base-memory": MIB << 20, "plugged-memory": 0}
    assert m.qmp.cmd("human-monitor-command", command_line="info memdev").replace("\r", "") == "".join(
        f"memory backend: {x['id']}\n  size:  {x['size']}\n" + "".join(f"  {k}: {str(x[k]).lower()}\n" for k in
                                                                       ("merge", "dump", "prealloc", "share", "reserve"))
        + "  policy: default\n  host nodes: \n" for x in (other, entry)) + "\n"
    assert m.qmp.cmd("qom-get", path="/objects/m", property="size") == MIB << 20 and m.qmp.cmd("qom-get", path="m", property="reserve") is True
    assert "memory-backend-ram" in [t["name"] for t in m.qmp.cmd("qom-list-types")]
    assert [t.get("default-ram-id") for t in m.qmp.cmd("query-machines") if t.get("alias") == "virt"] == ["riscv_virt_board.ram"]
    m.qmp.cmd("object-add", **BACKEND | {"id": "late"})
    m.qmp.cmd("object-del", id="late")
    with pytest.raises(QMPError, match="object 'm' is in use, can not be deleted"):
        m.qmp.cmd("object-del", id="m")
    m.process.kill()
    m.process.wait()
    again = start(*args)
    assert again.qmp.cmd("query-memdev") == [other, entry]
    again.qmp.cmd("object-del", id="other")


def wishes(m):
    """What the kernel knows of RAM's: it may be merged, is not dumped, is not reserved."""
    with open(f"/proc/{m.process.pid}/smaps", encoding="ascii") as f:
        parts = f.read().split("VmFlags:")
    of_ram = [flags for before, flags in zip(parts, parts[1:]) if re.search(rf"^Size: +{MIB << 10} kB$", before, flags=re.M)]
    assert len(of_ram) == 1
    return {"mg", "dd", "nr"} & set(of_ram[0].splitlines()[0].split())


@pytest.mark.parametrize("args, expected", [
    (by_backend(), {"mg"}),
    (by_backend(merge=False, dump=False, reserve=False), {"dd", "nr"}),
    ([*by_backend()[:-1], "virt,memory-backend=m,mem-merge=off,dump-guest-core=off"], {"dd"}),
    ([*by_backend(merge=False)[:-1], "virt,memory-backend=m,mem-merge=on,dump-guest-core=on"], set()),
    (["-m", str(MIB)], {"nr"}),
    (["-m", str(MIB), "-machine", "virt,mem-merge=on,dump-guest-core=off"], {"mg", "dd", "nr"}),
])
def test_the_kernel_is_told(start, args, expected):
    m = start(*args)
    entry = m.qmp.cmd("query-memdev")[0]
    assert wishes(m) == (expected if os.path.exists("/sys/kernel/mm/ksm") else expected - {"mg"})
    assert (entry["merge"], entry["dump"], entry["reserve"]) == ("mg" in expected, "dd" not in expected, "nr" not in expected)


@pytest.mark.parametrize("args, text", [
    (["-machine", "virt,dump-guest-core=maybe"], "Parameter 'dump-guest-core' expects 'on' or 'off'"),
    ([*by_backend(), "-m", "64"], "Machine memory size does not match the size of the memory backend"),
    (["-machine", "virt,memory-backend=n"], "Memory backend 'n' not found"),
    (["-object", "rng-builtin,id=r", "-machine", "virt,memory-backend=r"], "Memory backend 'r' not found"),
    (["-object", "memory-backend-ram,id=m"], "Parameter 'size' is missing"),
    (["-object", "memory-backend-ram,id=m,size=0"], "property 'size' of memory-backend-ram doesn't take value '0'"),
    (["-object", "memory-backend-ram,id=m,size=1M,prealloc-threads=0"], "property 'prealloc-threads' of memory-backend-ram doesn't take value '0'"),
    (["-object", "memory-backend-ram,id=m,size=1M,share=on"], "share=on is not supported"),
    (["-object", "memory-backend-ram,id=m,size=1M,policy=bind"], "policy=bind is not supported"),
    (["-object", "memory-backend-ram,id=m,size=1M", "-object", "memory-backend-ram,id=m,size=2M"], "attempt to add duplicate property 'm'"),
    (["-object", "memory-backend-file,id=m,size=1M,mem-path=/x"], "memory-backend-file is not supported"),
    (["-object", "memory-backend-memfd,id=m,size=1M"], "memory-backend-memfd is not supported"),
    ([*by_backend(size=1 << 39)], "cannot set up guest memory 'ram' of 524288 MiB: Cannot allocate memory"),
])
def test_refused(args, text):
    with open("/proc/sys/vm/overcommit_memory", encoding="ascii") as f:
        if "cannot set up" in text and f.read().strip() == "1":
            pytest.skip("this host grants any amount of memory")
    assert text in refused(*args)


def test_all_of_it_is_there_before_the_guest_starts(start, has_all):
    assert not has_all(start(*by_backend(), "-S"))
    for args in by_backend(prealloc=True), ("-m", str(MIB), "-mem-prealloc"), (*by_backend(), "-mem-prealloc"):
        m = start(*args, "-S")
        assert has_all(m) and [x["prealloc"] for x in m.qmp.cmd("query-memdev")] == [True]


def test_moves_between_with_and_without(start, has_all, tmp_path):
    """Preallocated, the destination has it from the start, uses it for what comes, also when that comes once more, and has all of it
    afterwards."""
    src = start("-m", str(MIB))
    put(src)
    dst = start(*by_backend(prealloc=True), "-incoming", "defer")
    before = resident(dst)
    assert has_all(dst)
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 16)
    for attempt in "first", "second":
        dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/{attempt}", exit_on_error=False)
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/{attempt}")
        until(dst, "active")
        soon(lambda: has_all(dst))
        assert resident(dst) < before + (MIB << 19) or sanitized("sterna")
        if attempt == "first":
            src.qmp.cmd("migrate_cancel")
            assert over(src) == "cancelled" and until(dst, "failed")
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    assert over(src) == "completed" and until(dst, "completed") and running(dst)
    assert has_all(dst)
    check(dst)
    back = start("-m", str(MIB), "-incoming", f"unix:{tmp_path}/back")
    dst.qmp.cmd("migrate", uri=f"unix:{tmp_path}/back")
    assert over(dst) == "completed" and until(back, "completed")
    check(back)


def test_postcopy_gives_it_up(start, has_all, tmp_path):
    src = start("-m", str(MIB))
    put(src)
    dst = start(*by_backend(prealloc=True), "-incoming", f"unix:{tmp_path}/in")
    src.qmp.cmd("migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}])
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=1 << 15)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    until(src, "active")
    soon(lambda: not has_all(dst))
    assert status(src) == "active"
    src.qmp.cmd("migrate-start-postcopy")
    until(src, "postcopy-active", "completed")
    check(dst)
    assert over(src) in ("completed", "postcopy-active") and until(src, "completed") and until(dst, "completed")
    check(dst)


def test_loads(start, has_all, tmp_path):
    """All at once it is there after it, too; lazily it comes by and by."""
    m = start(*by_backend(prealloc=True))
    put(m)
    m.qmp.cmd("machine-snapshot", job_id="j", file=f"{tmp_path}/state")
    m.qmp.event("JOB_STATUS_CHANGE", id="j", status="concluded")
    for lazy in "off", "on", "map":
        n = start(*by_backend(prealloc=True), "-incoming", f"file:{tmp_path}/state,lazy={lazy}")
        check(n)
        if lazy == "off" or not sanitized("sterna"):
            soon(lambda: has_all(n) == (lazy == "off"))
        n.quit()
