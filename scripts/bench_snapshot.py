# SPDX-License-Identifier: BSD-2-Clause
"""The cases of bench.py that concern snapshots of a running machine: 1 GiB of RAM, 512 MiB of it random and rewritten by the guest without
end, a tick every 2 ms. Pauses are gaps between ticks as seen from outside; what rewrites has the lowest priority in the guest, so that its
scheduler does not keep the tick waiting. Speed is of the guest's own rewriting.
"""
import contextlib, json, os, re, subprocess, time

from vm import VM, disk

MIB = 1 << 20
RUN = "stamp tick 2 & stamp mem 512"


def image(side, path, allocated=0):
    """A qcow2 image of 64 GiB of which so many GiB are allocated."""
    if os.path.exists(path):
        os.unlink(path)
    size = ["-o", "preallocation=metadata", path, f"{allocated}G"] if allocated else [path, "64G"]
    subprocess.run([side["img"], "create", "-q", "-f", "qcow2", *size], check=True)
    if allocated:
        subprocess.run([side["img"], "resize", "-q", path, "64G"], check=True)
    return path


def job(vm, command, **args):
    """(begin, end) of a job, and what query-jobs says of it."""
    begin = time.monotonic()
    vm.cmd(command, job_id="job", **args)
    while True:
        e = vm.event("JOB_STATUS_CHANGE")
        vm.events.remove(e)
        if e["data"]["id"] == "job" and e["data"]["status"] == "concluded":
            break
    said = next(j for j in vm.cmd("query-jobs") if j["id"] == "job")
    if said.get("error"):
        raise RuntimeError(said["error"])
    vm.cmd("job-dismiss", id="job")
    vm.events.clear()
    return begin, e["at"], said


def snapshot(vm, command):
    return job(vm, command, vmstate="disk", devices=["disk"], tag="point")


def pages_per_second(vm, begin, end):
    """What the guest rewrites between the first and the last line that it prints in these seconds; None: there are no two."""
    at = [(t, int(m.group(1))) for t, l in list(vm.lines) if begin <= t <= end for m in [re.match(r"M .*seq=(\d+)", l)] if m]
    return (at[-1][1] - at[0][1]) / (at[-1][0] - at[0][0]) if len(at) > 1 else None


def first_tick_after(vm, t, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = next((x for x in list(vm.ticks) if x > t), None)
        if found:
            return found
        time.sleep(0.001)
    raise RuntimeError("no tick")


def back_after(vm, begin, end):
    """The guest that ran before goes on until it is replaced: the other one is there at the end of the longest pause that begins within
    50 ms (later ones are of pages that are still to come)."""
    ticks = [t for t in vm.ticks if begin - 0.1 <= t <= end]
    pauses = [x for x in zip(ticks, ticks[1:]) if begin - 0.01 <= x[0] <= begin + 0.05]
    return max(pauses, key=lambda x: x[1] - x[0])[1]


def state_mib(side, path):
    info = json.loads(subprocess.run([side["img"], "info", "-U", "--output=json", path], check=True, capture_output=True, text=True).stdout)
    return info["snapshots"][0]["vm-state-size"] / MIB


@contextlib.contextmanager
def running(side, a, tmp, path, *args, run=RUN, mem=1024):
    vm = VM(side["bin"], a.guest, run, [*disk(path), *args], mem=mem, tmp=tmp)
    try:
        yield vm.start()
    finally:
        vm.quit()


def save(vm):
    """What pages the guest rewrites in a second when nothing is saved; begin, end and report of a save."""
    vm.wait("MEM-READY")
    time.sleep(5)
    usual = pages_per_second(vm, time.monotonic() - 4, time.monotonic())
    begin, end, said = snapshot(vm, "snapshot-save")
    time.sleep(1.2)
    return usual, begin, end, said


def load(vm):
    begin, end, said = snapshot(vm, "snapshot-load")
    if not vm.cmd("query-status")["running"]:
        vm.cmd("cont")
    out = {"snapshot-load to the saved guest's first tick, ms": (back_after(vm, begin, first_tick_after(vm, end)) - begin) * 1000}
    if "pause-ns" in said:
        out["pause of a load as the job says, ms"] = said["pause-ns"] / 1e6
    return out


def case_snapshot(side, a, tmp):
    path = image(side, os.path.join(tmp, "snapshot.qcow2"))
    with running(side, a, tmp, path) as vm:
        usual, begin, end, said = save(vm)
        size = state_mib(side, path)
        out = {"guest's pause in snapshot-save, ms": vm.longest_gap_ms(begin, end), "snapshot-save, s": end - begin,
               "snapshot-save, MiB of state a second": size / (end - begin), "state of 512 MiB of random data, MiB": size}
        if "pause-ns" in said:
            out["pause as the job says, ms"] = said["pause-ns"] / 1e6
            speed = pages_per_second(vm, begin, end) or pages_per_second(vm, begin, end + 1.1)  # a guest of before: a line a second
            out["guest's speed during the save, % of before"] = 100 * speed / usual if speed and usual else None
        out.update(load(vm))
    with running(side, a, tmp, path, "-loadvm", "point") as vm:
        out["start with -loadvm to the first tick, ms"] = (first_tick_after(vm, 0) - vm.t_spawn) * 1000
        time.sleep(1)
    os.unlink(path)
    return out


def case_snapshot_large(side, a, tmp):
    """The image has 16 GiB of clusters already."""
    path = image(side, os.path.join(tmp, "snapshot.qcow2"), allocated=16)
    with running(side, a, tmp, path) as vm:
        _, begin, end, said = save(vm)
        out = {"guest's pause with 16 GiB allocated, ms": vm.longest_gap_ms(begin, end)}
        if "pause-ns" in said:
            out["pause with 16 GiB allocated as the job says, ms"] = said["pause-ns"] / 1e6
        out.update({f"with 16 GiB allocated: {k}": v for k, v in load(vm).items()})
    os.unlink(path)
    return out


def case_snapshot_zstd(side, a, tmp):
    """What compressing saves of a guest's memory that is not random, beside zstd on the same: the machine stands still meanwhile."""
    if side["name"] != "sterna":
        return {}
    path = image(side, os.path.join(tmp, "snapshot.qcow2"))
    raw, packed = (os.path.join(tmp, f"state-{n}") for n in ("raw", "zstd"))
    with running(side, a, tmp, path, run="find / -xdev -type f | xargs md5sum | sort >/tmp/sums; echo FULL; sleep 1000", mem=256) as vm:
        vm.wait("FULL")
        vm.cmd("stop")
        job(vm, "machine-snapshot", file=raw)
        job(vm, "machine-snapshot", file=packed, compress=True)
    plain = int(subprocess.run(f"zstd -1 -c '{raw}' | wc -c", shell=True, check=True, capture_output=True, text=True).stdout)
    size = os.path.getsize(packed)
    out = {"state of a booted guest, MiB": os.path.getsize(raw) / MIB, "the same compressed, MiB": size / MIB,
           "compressed state, as a multiple of zstd -1 of the plain one": size / plain}
    for p in (path, raw, packed):
        os.unlink(p)
    return out


CASES = {name[5:]: f for name, f in list(globals().items()) if name.startswith("case_")}
