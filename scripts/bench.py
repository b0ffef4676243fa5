#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Measure Sterna beside a peer, in turns, in one run: boot, idle, mirror, convert, images, NBD, jobs, snapshots, the machine's make-up,
moves.

Every figure is taken from outside by the same code for both. Each case runs --rounds times for each side, alternating; the
median counts. The table's ratio is Sterna's figure divided by the peer's; its last column says what is asked for,
where bench_*.py knows, and whether that was reached. When the host took the processors away meanwhile, a line says so.
"""
import argparse, json, os, re, shutil, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(1, os.path.join(sys.path[0], "..", "tests", "lib"))
import bench_config, bench_images, bench_jobs, bench_migrate, bench_snapshot
from standstill import Standstills
from vm import VM, disk

MIB = 1 << 20
SHARED = {**bench_images.CASES, **bench_jobs.CASES, **bench_snapshot.CASES, **bench_config.CASES, **bench_migrate.CASES}
ASKED = bench_migrate.ASKED


def make_images(side, tmp, mib=512):
    """A raw file of 1 GiB with `mib` MiB of random data, and the same as qcow2, made by this side's own tool."""
    raw, qcow2 = os.path.join(tmp, "data.raw"), os.path.join(tmp, f"data-{side['name']}.qcow2")
    if not os.path.exists(raw):
        with open(raw, "wb") as f:
            for _ in range(mib):
                f.write(os.urandom(MIB))
            f.truncate(1 << 30)
    subprocess.run([side["img"], "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    return raw, qcow2


def case_boot(side, a, tmp):
    vm = VM(side["bin"], a.guest, "sleep 1000", mem=512, tmp=tmp).start()
    up = vm.wait("GUEST-UP")[0]
    time.sleep(2)
    total, beyond = vm.memory_mib()
    cpu = vm.cpu_seconds()
    time.sleep(10)
    idle = (vm.cpu_seconds() - cpu) / 10 * 100
    vm.quit()
    return {"boot to user space, s": up - vm.t_cont, "memory beyond the guest's RAM after boot, MiB": beyond, "idle guest, % of a core": idle}


def case_mirror(side, a, tmp):
    _, src = make_images(side, tmp)
    dst = os.path.join(tmp, "mirror-target.qcow2")
    if os.path.exists(dst):
        os.unlink(dst)
    subprocess.run([side["img"], "create", "-q", "-f", "qcow2", dst, "1G"], check=True)
    vm = VM(side["bin"], a.guest, "stamp tick 2 & stamp run /dev/vda 256 300 0", disk(src), mem=512, tmp=tmp).start()
    vm.wait("RUN-READY")
    time.sleep(5)
    before = len(vm.lines)
    vm.cmd("blockdev-add", driver="qcow2", node_name="target", file={"driver": "file", "filename": dst})
    begin = time.monotonic()
    vm.cmd("blockdev-mirror", job_id="copy", device="disk", target="target", sync="full")
    ready = vm.event("BLOCK_JOB_READY")["at"]
    memory = vm.memory_mib()[1]
    time.sleep(2)
    switch = time.monotonic()
    vm.cmd("job-complete", id="copy")
    done = vm.event("BLOCK_JOB_COMPLETED")
    if done["data"].get("error"):
        raise RuntimeError(done["data"]["error"])
    time.sleep(2)
    p99 = [int(m.group(1)) for t, l in vm.lines[before:] if t <= ready + 1.1 for m in [re.match(r"W .*p99us=(\d+)", l)] if m]
    gap = vm.longest_gap_ms(switch, done["at"])
    vm.quit()
    subprocess.run([side["img"], "check", "-q", dst], check=True)
    return {"live copy, MiB/s": 512 / (ready - begin), "guest's p99 write latency during the copy, ms": max(p99) / 1000 if p99 else None,
            "longest gap of a 2 ms tick around the switch, ms": gap, "memory beyond the guest's RAM at the end of the copy, MiB": memory}


def case_cp(side, a, tmp):
    """What plain cp of the same data reaches: the yardstick for the copy rate."""
    raw, _ = make_images(side, tmp)
    begin = time.monotonic()
    subprocess.run(["cp", "--sparse=never", "--reflink=never", raw, os.path.join(tmp, "cp.raw")], check=True)
    return {"cp of 1 GiB, MiB/s": 1024 / (time.monotonic() - begin)}


def case_convert(side, a, tmp):
    raw, qcow2 = make_images(side, tmp)
    out = {}
    for name, args in {"convert raw to qcow2, s": ["-f", "raw", "-O", "qcow2", raw], "convert qcow2 to raw, s": ["-f", "qcow2", "-O", "raw", qcow2],
                       "convert -c (zstd), s": ["-c", "-f", "qcow2", "-O", "qcow2", "-o", "compression_type=zstd", qcow2]}.items():
        target = os.path.join(tmp, "converted")
        if os.path.exists(target):
            os.unlink(target)
        begin = time.monotonic()
        subprocess.run([side["img"], "convert", *args, target], check=True)
        out[name] = time.monotonic() - begin
    return out


def judge(what, figures):
    """Sterna's median, the peer's, and what is asked for, with the verdict."""
    def median(what, side):
        return statistics.median([x for x in figures.get(what, {}).get(side, []) if x is not None] or [float("nan")])
    s, q = median(what, "sterna"), median(what, "peer")
    asked, reached = ASKED.get(what, ("", None))
    return s, q, f"{asked}: {'reached' if reached(s, q, lambda w: median(w, 'sterna')) else '**missed**'}" if reached else ""


def print_table(a, figures):
    version = subprocess.run([a.peer, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores; the peer is {version}; median of {a.rounds}\n")
    print(f"| {'what':<60} | Sterna | peer | ratio | asked |\n|---|---|---|---|---|")
    for what in figures:
        s, q, asked = judge(what, figures)
        print(f"| {what:<60} | {s:.2f} | {q:.2f} | {s / q if q else float('nan'):.2f} | {asked} |")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True)
    p.add_argument("--guest", required=True)
    p.add_argument("--peer", default="qemu-system-riscv64")
    p.add_argument("--peer-img", default="qemu-img")
    p.add_argument("--peer-nbd", default="qemu-nbd")
    p.add_argument("--only", default="boot,mirror,convert," + ",".join(SHARED))
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--json")
    a = p.parse_args()
    sides = [dict(name="sterna", bin=f"{a.build}/sterna", img=f"{a.build}/sterna-img", nbd=f"{a.build}/sterna-nbd"),
             dict(name="peer", bin=a.peer, img=a.peer_img, nbd=a.peer_nbd)]
    tmp = tempfile.mkdtemp(prefix="sterna-bench-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    figures = {}
    try:
        for case in a.only.split(","):
            for _ in range(a.rounds):
                for side in sides:
                    try:
                        with Standstills() as host:
                            values = (SHARED.get(case) or globals()["case_" + case])(side, a, tmp)
                    except Exception as e:  # the other figures are worth having
                        print(f"# {side['name']:<7} {case} FAILED: {e!r}", file=sys.stderr, flush=True)
                        continue
                    away = [1000 * s for s in host.pieces(0, time.monotonic())]
                    if away:
                        print(f"# {side['name']:<7} {case}: the host took all processors away for {sum(away):.0f} ms, at most {max(away):.0f} at once",
                              file=sys.stderr, flush=True)
                    for what, value in values.items():
                        figures.setdefault(what, {}).setdefault(side["name"], []).append(value)
                        print(f"# {side['name']:<7} {what}: {value}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    print_table(a, figures)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(figures, f, indent=1)


main()
