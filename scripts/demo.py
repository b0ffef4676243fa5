#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""The story that ./demo tells: a running guest's disk is copied and switched, and nothing is lost.

    scripts/demo.py --build BUILD --guest DIR [--mib N] [--kill-mib N] [--keep]
"""
import argparse, os, random, re, shutil, signal, struct, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from vm import VM, VMError, disk

TTY = sys.stdout.isatty()
BLOCK, MAGIC = 4096, 0x616e726574532e31


def say(text):
    print(f"\033[1m{text}\033[0m" if TTY else text, flush=True)


def note(text):
    print(f"   {text}", flush=True)


def img(a, *args):
    subprocess.run([f"{a.build}/sterna-img", *args], check=True, stdout=subprocess.DEVNULL)


def latency(vm):
    """The guest's own figures of its last second: (p50, p99) in microseconds."""
    for _, line in reversed(vm.lines):
        m = re.match(r"W t=\d+ seq=\d+ p50us=(\d+) p99us=(\d+)", line)
        if m:
            return int(m.group(1)), int(m.group(2))
    return None


class Bar:
    """A progress bar on a terminal; a line now and then elsewhere."""

    def __init__(self):
        self.last = 0

    def show(self, info, lat, final=False):
        done = info["percentage"] / 100
        eta = info.get("eta")
        text = (f"[{'#' * int(done * 24):<24}] {info['percentage']:3d} %  {info['stage']:<13} {info.get('rate', 0) / 2**20:6.1f} MiB/s"
                f"  {'' if eta is None else f'{eta:4.1f} s left'}  guest's p99 {'-' if not lat else f'{lat[1] / 1000:.1f} ms'}")
        if TTY:
            print(f"\r   {text}\033[K", end="\n" if final else "", flush=True)
        elif final or time.monotonic() - self.last > 1:
            self.last = time.monotonic()
            note(text)


def copy_info(vm):
    entries = vm.cmd("query-block-copy")
    return entries[0] if entries else None


def first_flight(a, tmp):
    src, dst = os.path.join(tmp, "source.qcow2"), os.path.join(tmp, "copy.qcow2")
    img(a, "create", "-q", "-f", "qcow2", src, "1G")
    img(a, "create", "-q", "-f", "qcow2", dst, "1G")
    say("1. An unmodified Debian riscv64 kernel boots on Sterna")
    vm = VM(f"{a.build}/sterna", a.guest, f"stamp fill /dev/vda {a.mib};stamp run /dev/vda {a.mib} 300 0", disk(src), tmp=tmp)
    r = {}
    try:
        vm.start()
        up = vm.wait("GUEST-UP")
        r["boot"] = up[0] - vm.t_cont
        note(f"user space after {r['boot']:.1f} s; the guest fills {a.mib} MiB of /dev/vda …")
        vm.wait("FILL-DONE|STAMP-ERROR")
        vm.wait("RUN-READY")
        time.sleep(3)
        lat = latency(vm)
        if lat:
            note(f"… and goes on writing 300 blocks a second at random places (p50 {lat[0] / 1000:.1f} ms, p99 {lat[1] / 1000:.1f} ms)")

        say("2. Its disk is copied while it writes")
        bar, begin = Bar(), time.monotonic()
        vm.cmd("block_copy", device="disk0", filename=dst)
        while True:
            c = copy_info(vm)
            if c["status"] != "active":
                break
            bar.show(c["info"], latency(vm))
            time.sleep(0.02)
        bar.show(c["info"], latency(vm), final=True)
        if c["status"] != "completed":
            raise VMError(f"the copy failed: {c.get('error')}")
        seconds = time.monotonic() - begin
        r["rate"] = c["info"]["transferred"] / 2**20 / seconds
        r["pause"] = c["info"]["pause-ns"] / 1e6
        say("3. Switched")
        note(f"the guest paused for {r['pause']:.2f} ms; it now writes to {os.path.basename(dst)}")
        os.unlink(src)
        note(f"{os.path.basename(src)} is deleted under it")
        time.sleep(2)
        r["memory"] = vm.memory_mib()[1]

        say("4. Is everything there?")
        vm.type("verify\n")
        verdict = vm.wait("VERIFY-")[1]
        note("guest: " + verdict)
        vm.process.wait(60)
        if not verdict.startswith("VERIFY-OK"):
            raise VMError("the guest found wrong blocks")
    finally:
        vm.quit()
    check = subprocess.run([f"{a.build}/sterna-img", "check", dst], capture_output=True, text=True)
    note("sterna-img check: " + check.stdout.splitlines()[0])
    raw = os.path.join(tmp, "copy.raw")
    img(a, "convert", "-O", "raw", dst, raw)
    compare = subprocess.run([f"{a.build}/sterna-img", "compare", dst, raw], capture_output=True, text=True)
    note("sterna-img compare with a raw copy: " + compare.stdout.strip())
    places = wrong = 0
    with open(raw, "rb") as f:
        for off in range(0, a.mib << 20, BLOCK):
            f.seek(off)
            magic, place = struct.unpack("<QQ", f.read(16))
            places += 1
            wrong += (magic, place) != (MAGIC, off)
    note(f"host: {places} blocks read, {wrong} out of place")
    if check.returncode or compare.returncode or wrong:
        raise VMError("the copy is not what it should be")
    return r


def checksum(block):
    h = 0xcbf29ce484222325
    for w in struct.unpack("<511Q", block[:-8]):
        h = ((h ^ w) * 0x100000001b3) & (2**64 - 1)
    return h == struct.unpack("<Q", block[-8:])[0]


def killed(a, tmp):
    src, dst = os.path.join(tmp, "source2.qcow2"), os.path.join(tmp, "copy2.qcow2")
    img(a, "create", "-q", "-f", "qcow2", src, "1G")
    img(a, "create", "-q", "-f", "qcow2", dst, "1G")
    say("5. The same, but Sterna is killed (SIGKILL) in mid-copy")
    acked = {}

    def on_line(text):
        m = re.match(r"ACK off=(\d+) seq=(\d+)$", text)
        if m:
            acked[int(m.group(1))] = int(m.group(2))
    vm = VM(f"{a.build}/sterna", a.guest, f"stamp fill /dev/vda {a.kill_mib};stamp -a run /dev/vda {a.kill_mib} 300 0", disk(src), tmp=tmp,
            on_line=on_line)
    try:
        vm.start()
        vm.wait("RUN-READY")
        time.sleep(2)
        vm.cmd("blockdev-add", driver="qcow2", node_name="target", file={"driver": "file", "filename": dst})
        vm.cmd("blockdev-mirror", job_id="copy", device="disk", target="target", sync="full", speed=32 << 20)
        time.sleep(random.uniform(0.5, 2.0))
        jobs = vm.cmd("query-jobs")
        vm.process.send_signal(signal.SIGKILL)
        vm.process.wait()
        time.sleep(0.2)
        j = jobs[0]
        note(f"killed with {j['current-progress'] >> 20} of {j['total-progress'] >> 20} MiB copied, {len(acked)} places acknowledged since the fill")
    finally:
        vm.quit()
    check = subprocess.run([f"{a.build}/sterna-img", "check", "-r", "leaks", src], capture_output=True, text=True)
    note("sterna-img check of the source: " + check.stdout.splitlines()[-1] if check.returncode else "sterna-img check of the source: clean")
    raw = os.path.join(tmp, "source2.raw")
    img(a, "convert", "-O", "raw", src, raw)
    lost = 0
    with open(raw, "rb") as f:
        for off, seq in acked.items():
            f.seek(off)
            block = f.read(BLOCK)
            magic, place, found = struct.unpack("<QQQ", block[:24])
            lost += not (magic == MAGIC and place == off and found >= seq and checksum(block))
    note(f"the source holds {len(acked) - lost} of {len(acked)} acknowledged writes; {lost} lost")
    if lost or not acked:
        raise VMError("acknowledged writes are missing" if lost else "the guest acknowledged nothing")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", required=True)
    p.add_argument("--guest", required=True)
    p.add_argument("--mib", type=int, default=512, help="how much of the disk the guest fills")
    p.add_argument("--kill-mib", type=int, default=128, help="the same for the run that is killed")
    p.add_argument("--keep", action="store_true", help="keep the images")
    a = p.parse_args()
    tmp = tempfile.mkdtemp(prefix="sterna-demo-", dir=os.environ.get("TMPDIR", "/var/tmp"))
    try:
        r = first_flight(a, tmp)
        killed(a, tmp)
        say("\nSummary")
        for what, value in (("boot to user space", f"{r['boot']:.2f} s"), ("live copy", f"{r['rate']:.0f} MiB/s"),
                            ("pause of the guest at the switch", f"{r['pause']:.2f} ms"),
                            ("memory beyond the guest's RAM", f"{r['memory']:.1f} MiB")):
            print(f"   {what:<36}{value:>12}")
    except VMError as e:
        print(f"demo: {e}", file=sys.stderr)
        sys.exit(1)
    finally:
        if a.keep:
            note(f"images are in {tmp}")
        else:
            shutil.rmtree(tmp, ignore_errors=True)


main()
