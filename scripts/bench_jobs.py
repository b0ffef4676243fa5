# SPDX-License-Identifier: BSD-2-Clause
"""The cases of bench.py that concern jobs on a running guest's disks.

Rates are of 2 GiB of random data in qcow2 images that the page cache holds, with a guest that idles; latencies are
the guest's own, of 4 KiB writes of which it makes 300 a second, while 2 GiB are on their way.
"""
import os, re, statistics, subprocess, time

from vm import VM, disk

MIB = 1 << 20
DATA = 2048


def image(side, path, size=None, fmt="qcow2", **options):
    if os.path.exists(path):
        os.unlink(path)
    o = ["-o", ",".join(f"{k}={v}" for k, v in options.items())] if options else []
    subprocess.run([side["img"], "create", "-q", "-f", fmt, *o, path] + ([size] if size else []), check=True)
    return path


def data(side, tmp):
    """A qcow2 image of 2 GiB whose every cluster is random; made once, and clean in the page cache."""
    raw, path = os.path.join(tmp, "jobs.raw"), os.path.join(tmp, "jobs.qcow2")
    if not os.path.exists(path):
        blocks = [os.urandom(MIB) for _ in range(64)]
        with open(raw, "wb") as f:
            for i in range(DATA):
                f.write(blocks[i % 64])
        subprocess.run([side["img"], "convert", "-f", "raw", "-O", "qcow2", raw, path], check=True)
        os.unlink(raw)
    os.sync()
    return path


def copy_of(side, tmp, name):
    path = os.path.join(tmp, name)
    subprocess.run(["cp", "--reflink=never", data(side, tmp), path], check=True)
    subprocess.run(["sync", path], check=True)
    return path


def chain(base, top):
    """Arguments for a disk of two layers."""
    return ["-blockdev", f"driver=file,filename={base},node-name=base-file", "-blockdev", "driver=qcow2,file=base-file,node-name=base,read-only=on",
            "-blockdev", f"driver=file,filename={top},node-name=disk-file", "-blockdev", "driver=qcow2,file=disk-file,backing=base,node-name=disk",
            "-device", "virtio-blk-pci,drive=disk,id=disk0"]


def boot(side, a, tmp, args, run="sleep 1000", wait="GUEST-UP"):
    vm = VM(side["bin"], a.guest, run, args, mem=256, tmp=tmp).start()
    vm.wait(wait)
    time.sleep(1)
    os.sync()
    return vm


def run_job(vm, end, command, **args):
    """Seconds from the command to the event that tells of its end."""
    begin = time.monotonic()
    vm.cmd(command, job_id="job", **args)
    e = vm.event(end)
    if e["data"].get("error"):
        raise RuntimeError(e["data"]["error"])
    return e["at"] - begin


def add_target(vm, path, fmt="qcow2"):
    vm.cmd("blockdev-add", driver=fmt, node_name="target", file={"driver": "file", "filename": path})


def case_jobs_rate(side, a, tmp):
    out = {}
    target = os.path.join(tmp, "jobs-target.qcow2")
    src = data(side, tmp)
    for name, command, end, args in (("mirror", "blockdev-mirror", "BLOCK_JOB_READY", {"sync": "full"}),
                                     ("backup", "blockdev-backup", "BLOCK_JOB_COMPLETED", {"sync": "full"})):
        vm = boot(side, a, tmp, disk(src))
        add_target(vm, image(side, target, f"{DATA}M"))
        out[f"{name} of 2 GiB, MiB/s"] = DATA / run_job(vm, end, command, device="disk", target="target", **args)
        vm.quit()
    top = image(side, target, backing_file=src, backing_fmt="qcow2")
    vm = boot(side, a, tmp, chain(src, top))
    out["stream of 2 GiB, MiB/s"] = DATA / run_job(vm, "BLOCK_JOB_COMPLETED", "block-stream", device="disk")
    vm.quit()
    top = copy_of(side, tmp, "jobs-target.qcow2")
    base = image(side, os.path.join(tmp, "jobs-base.qcow2"), f"{DATA}M")
    vm = boot(side, a, tmp, chain(base, top))
    out["commit of 2 GiB, MiB/s"] = DATA / run_job(vm, "BLOCK_JOB_READY", "block-commit", device="disk")
    vm.quit()
    os.unlink(base)
    os.unlink(target)
    return out


def p99_ms(vm, begin, end):
    """The worst p99 of the guest's seconds that [begin, end] touches."""
    found = [int(m.group(1)) for t, l in vm.lines if begin <= t <= end + 1.1 for m in [re.match(r"W .*p99us=(\d+)", l)] if m]
    return max(found) / 1000


def case_jobs_latency(side, a, tmp):
    out = {}
    for name, command, args in (("a mirror, write-blocking", "blockdev-mirror", {"sync": "full", "copy_mode": "write-blocking"}),
                                ("a backup", "blockdev-backup", {"sync": "full"})):
        src = copy_of(side, tmp, "jobs-src.qcow2")
        vm = boot(side, a, tmp, disk(src), "stamp run /dev/vda 2048 300 0", "RUN-READY")
        time.sleep(3)
        add_target(vm, image(side, os.path.join(tmp, "jobs-target.qcow2"), f"{DATA}M"))
        begin = time.monotonic()
        run_job(vm, "BLOCK_JOB_READY" if "mirror" in name else "BLOCK_JOB_COMPLETED", command, device="disk", target="target", **args)
        end = time.monotonic()
        time.sleep(1.5)
        out[f"guest's p99 during {name}, ms"] = p99_ms(vm, begin, end)
        vm.quit()
    return out


def case_jobs_empty(side, a, tmp):
    base = image(side, os.path.join(tmp, "empty-base.qcow2"), "1T")
    top = image(side, os.path.join(tmp, "empty-top.qcow2"), backing_file=base, backing_fmt="qcow2")
    vm = boot(side, a, tmp, chain(base, top))
    out = {"stream of an empty overlay of 1 TiB, s": run_job(vm, "BLOCK_JOB_COMPLETED", "block-stream", device="disk")}
    add_target(vm, image(side, os.path.join(tmp, "empty-target.qcow2"), "1T"))
    vm.events.clear()
    out["mirror of an empty disk of 1 TiB, s"] = run_job(vm, "BLOCK_JOB_READY", "blockdev-mirror", device="disk", target="target", sync="full")
    vm.quit()
    return out


def seconds_of(vm, count, pattern):
    """The median of what the guest's next `count` seconds say."""
    seen, end = len(vm.lines), time.monotonic() + count + 20
    while time.monotonic() < end:
        found = [float(m.group(1)) for _, l in vm.lines[seen:] for m in [re.search(pattern, l)] if m]
        if len(found) >= count:
            return statistics.median(found[:count])
        time.sleep(0.1)
    raise RuntimeError("the guest does not write")


def case_jobs_idle(side, a, tmp):
    """A stream that waits for idle times of 5 ms, beside a guest that makes 1000 writes a second. Sterna only."""
    if side["name"] == "peer":
        return {}
    src = data(side, tmp)
    top = image(side, os.path.join(tmp, "jobs-target.qcow2"), backing_file=src, backing_fmt="qcow2")
    vm = boot(side, a, tmp, chain(src, top), "stamp run /dev/vda 256 1000 0", "RUN-READY")
    time.sleep(3)
    out = {"guest's p99 at 1000 writes/s, ms": seconds_of(vm, 8, r"^W .*p99us=(\d+)") / 1000}
    vm.cmd("block-stream", job_id="job", device="disk", idle_grace=5)
    out["guest's p99 beside an idle-aware stream, ms"] = seconds_of(vm, 8, r"^W .*p99us=(\d+)") / 1000
    job = vm.cmd("query-jobs")[0]
    out["streamed meanwhile, MiB"] = job["current-progress"] / MIB
    vm.quit()
    return out


def writes_per_second(side, a, tmp, args):
    vm = boot(side, a, tmp, [*args, "-device", "virtio-blk-pci,drive=disk,id=disk0"], "stamp run /dev/vda 1024 0 0", "RUN-READY")
    time.sleep(2)
    count = lambda: [(t, int(m.group(1))) for t, l in vm.lines for m in [re.match(r"W .*seq=(\d+)", l)] if m][-1]
    (t0, before), _, (t1, after) = count(), time.sleep(8), count()
    vm.quit()
    return (after - before) / (t1 - t0)


def live_copy(side, tmp, size):
    """(the live copy, its source, its destination), all empty."""
    src, dst = (image(side, os.path.join(tmp, n), size) for n in ("lc-src.qcow2", "lc-dst.qcow2"))
    lc = image(side, os.path.join(tmp, "disk.lc"), fmt="live-copy", source=src, source_fmt="qcow2", destination=dst, destination_fmt="qcow2")
    return lc, src, dst


def case_jobs_resumable(side, a, tmp):
    """What writes cost that a copy which survives a crash has to watch: beside a plain disk, before they are copied. Sterna only."""
    if side["name"] == "peer":
        return {}
    lc, src, _ = live_copy(side, tmp, f"{DATA}M")
    plain = writes_per_second(side, a, tmp, ["-blockdev", f"driver=qcow2,node-name=disk,file.driver=file,file.filename={src}"])
    watched = writes_per_second(side, a, tmp, ["-blockdev", f"driver=live-copy,node-name=disk,file.driver=file,file.filename={lc},copying=off"])
    return {"guest's writes to a plain disk, 1/s": plain, "guest's writes to a resumable copy, 1/s": watched}


def case_jobs_resume(side, a, tmp):
    """A copy of 64 GiB that was complete, 1 % (and 2 %) of its regions written when the power went: time to be alike again. Sterna only."""
    if side["name"] == "peer":
        return {}
    out, img = {}, side["img"]
    for size, percent in ((64, 1), (64, 2), (128, 1)):
        lc, _, _ = live_copy(side, tmp, f"{size}G")
        subprocess.run([img, "copy", "--resume", lc], check=True, stdout=subprocess.DEVNULL)
        writes = [x for i in range(size * 1024 * percent // 100) for x in ("-c", f"write -q {i * 100 // percent}M 1M")]
        subprocess.run([img.replace("-img", "-io"), *writes, "-c", "flush", "-c", "sigraise 9", lc], stdout=subprocess.DEVNULL)
        os.sync()
        begin = time.monotonic()
        subprocess.run([img, "copy", "--resume", lc], check=True, stdout=subprocess.DEVNULL)
        out[f"resume {size} GiB, {percent} % of it marked, s"] = time.monotonic() - begin
    return out


CASES = {name[5:]: f for name, f in list(globals().items()) if name.startswith("case_")}
