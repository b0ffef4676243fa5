# SPDX-License-Identifier: BSD-2-Clause
"""The cases of bench.py that concern images and NBD: convert, compression, requests, first writes, snapshots, opening, NBD.

What the disk below limits says nothing of either side, so small requests are measured on a file system in memory (/dev/shm) too.
"""
import os, random, re, subprocess, time

MIB = 1 << 20
RAM = "/dev/shm"


def timed(*command, **kw):
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **kw)
    return time.monotonic() - begin


def fresh(*path):
    path = os.path.join(*path)
    if os.path.exists(path):
        os.unlink(path)
    return path


def half_holes(tmp, mib=4096):
    """Every other MiB is random data, the rest holes."""
    path = os.path.join(tmp, "half.raw")
    if not os.path.exists(path):
        blocks = [os.urandom(MIB) for _ in range(64)]
        with open(path, "wb") as f:
            f.truncate(mib * MIB)
            for i in range(0, mib, 2):
                f.seek(i * MIB)
                f.write(blocks[i // 2 % 64])
        subprocess.run(["sync", path], check=True)
    return path


def text_like(tmp, mib=256):
    """Data that compresses to about a half."""
    path = os.path.join(tmp, "text.raw")
    if not os.path.exists(path):
        r = random.Random(1)
        words = [r.randbytes(6).hex().encode() for _ in range(3000)]
        with open(path, "wb") as f:
            for _ in range(mib):
                f.write(b" ".join(r.choices(words, k=85000))[:MIB].ljust(MIB, b"x"))
    return path


def case_img_convert(side, a, tmp):
    raw, img = half_holes(tmp), side["img"]
    qcow2 = os.path.join(tmp, "half.qcow2")
    if not os.path.exists(qcow2):
        subprocess.run([img, "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
    out = {}
    # What was written before is on the disk before each of them begins: nobody waits for another's data.
    for name, args in {"raw to qcow2": ["-f", "raw", "-O", "qcow2", raw], "qcow2 to raw": ["-f", "qcow2", "-O", "raw", qcow2],
                       "qcow2 to qcow2": ["-f", "qcow2", "-O", "qcow2", qcow2]}.items():
        target = fresh(tmp, "converted")
        os.sync()
        out[f"convert {name}, 4 GiB half holes, s"] = timed(img, "convert", *args, target)
    target = fresh(tmp, "converted")
    os.sync()
    out["cp of the same, s"] = timed("cp", "--sparse=auto", "--reflink=never", raw, target)
    return out


def case_img_compress(side, a, tmp):
    raw = text_like(tmp)
    return {f"convert -c with {c}, 256 MiB, s": timed(side["img"], "convert", "-c", "-f", "raw", "-O", "qcow2", "-o", f"compression_type={c}", raw,
                                                     fresh(tmp, "converted")) for c in ("zlib", "zstd")}


def bench(side, *args):
    """Seconds that `bench` says, the better of two runs; the peer's are of its two ways of doing I/O."""
    best = None
    for engine in (["-i", "native"], ["-i", "io_uring"]) if side["name"] == "peer" else ([], []):
        text = subprocess.run([side["img"], "bench", *engine, *args], check=True, capture_output=True, text=True).stdout
        s = float(re.search(r"Run completed in ([\d.]+) seconds", text).group(1))
        best = s if best is None else min(best, s)
    return best


def case_img_random(side, a, tmp):
    out, count = {}, 200000
    for place, folder in (("memory", RAM), ("disk", tmp)):
        raw = os.path.join(folder, f"sterna-bench-{os.getpid()}.raw")
        with open(raw, "wb") as f:
            for _ in range(1024):
                f.write(os.urandom(MIB))
        qcow2 = raw[:-3] + "qcow2"
        try:
            subprocess.run([side["img"], "convert", "-f", "raw", "-O", "qcow2", raw, qcow2], check=True)
            os.sync()
            for fmt, path in (("raw", raw), ("qcow2", qcow2)):
                for verb, w in (("reads", []), ("writes", ["-w"])):
                    s = bench(side, "-c", str(count), "-d", "64", "-s", "4096", "-S", str(MIB + 4096), "-t", "none", "-f", fmt, *w, path)
                    out[f"4 KiB {verb}, {fmt}, {place}, depth 64, kIOPS"] = count / s / 1000
        finally:
            for p in (raw, qcow2):
                os.path.exists(p) and os.unlink(p)
    return out


def case_img_first(side, a, tmp):
    out = {}
    for place, folder in (("memory", RAM), ("disk", tmp)):
        for name, args in {"64 KiB in a row": ["-c", "16384", "-s", "65536", "-S", "65536"],
                           "4 KiB at random": ["-c", "50000", "-s", "4096", "-S", str(MIB + 4096)]}.items():
            best = None
            for engine in (["-i", "native"], ["-i", "io_uring"]) if side["name"] == "peer" else ([], []):
                path = fresh(folder, f"sterna-bench-first-{os.getpid()}")
                try:
                    subprocess.run([side["img"], "create", "-q", "-f", "qcow2", path, "4G"], check=True)
                    text = subprocess.run([side["img"], "bench", *engine, "-w", "-d", "64", "-t", "none", "-f", "qcow2", *args, path], check=True,
                                          capture_output=True, text=True).stdout
                    s = float(re.search(r"in ([\d.]+) seconds", text).group(1))
                    best = s if best is None else min(best, s)
                finally:
                    os.unlink(path)
            out[f"first writes to qcow2, {name}, {place}, s"] = best
    return out


def case_img_snapshot(side, a, tmp):
    path = fresh(tmp, "snap.qcow2")
    subprocess.run([side["img"], "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "64G"], check=True)
    subprocess.run(["sync", path], check=True)
    out = {"snapshot -c of 64 GiB allocated, s": timed(side["img"], "snapshot", "-c", "one", path)}
    out["snapshot -d of the same, s"] = timed(side["img"], "snapshot", "-d", "one", path)
    os.unlink(path)
    return out


def case_img_open(side, a, tmp):
    path = os.path.join(tmp, "1t.qcow2")
    if not os.path.exists(path):
        subprocess.run([side["img"], "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", path, "1T"], check=True)
    return {"info of a 1 TiB image, ms": min(timed(side["img"], "info", path) for _ in range(5)) * 1000}


def served(command, sock, run):
    """Seconds that run() takes against a server of its own."""
    p = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if os.path.exists(sock):
                break
            time.sleep(0.02)
        return run()
    finally:
        p.terminate()
        p.wait()
        if os.path.exists(sock):
            os.unlink(sock)


def servers(side, sock, path):
    """Names of what is measured → the command."""
    if side["name"] == "sterna":
        own = [side["nbd"], "-t", "-r", "-e", "64", "-f", "raw", "-k", sock, path]
        return {"qemu-nbd": own, "nbdkit file": own}
    return {"qemu-nbd": [side["nbd"], "-t", "-r", "-e", "64", "-f", "raw", "-k", sock, path],
            "nbdkit file": ["nbdkit", "-f", "-r", "-U", sock, "file", path]}


def fio(uri):
    text = subprocess.run(["fio", "--name=r", "--ioengine=nbd", f"--uri={uri}", "--rw=randread", "--bs=4k", "--iodepth=64", "--runtime=5",
                           "--time_based", "--size=1g", "--output-format=terse"], check=True, capture_output=True, text=True).stdout
    return float([l for l in text.splitlines() if l.startswith("3;")][0].split(";")[7]) / 1000


def case_nbd(side, a, tmp):
    path, sock = os.path.join(tmp, "nbd.raw"), os.path.join(tmp, "nbd.sock")
    if not os.path.exists(path):
        with open(path, "wb") as f:
            blocks = [os.urandom(MIB) for _ in range(64)]
            for i in range(4096):
                f.write(blocks[i % 64])
    out, uri = {}, f"nbd+unix:///?socket={sock}"
    for against, command in servers(side, sock, path).items():
        out[f"nbdcopy of 4 GiB, beside {against}, s"] = served(command, sock, lambda: timed("nbdcopy", uri, "null:"))
        out[f"4 KiB random reads over NBD, depth 64, beside {against}, kIOPS"] = served(command, sock, lambda: fio(uri))
    return out


CASES = {"img_convert": case_img_convert, "img_compress": case_img_compress, "img_random": case_img_random, "img_first": case_img_first,
         "img_snapshot": case_img_snapshot, "img_open": case_img_open, "nbd": case_nbd}
