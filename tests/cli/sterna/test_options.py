# SPDX-License-Identifier: BSD-2-Clause
"""sterna's command line: help, manual page, errors that name what was wrong."""
import os, re, subprocess, time

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BUILD = os.environ.get("STERNA_BUILD", os.path.join(TOP, "build"))
STERNA = os.path.join(BUILD, "sterna")


def run(*args, name=STERNA, timeout=60):
    return subprocess.run([name, *map(str, args)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def test_help_and_manual_page_name_the_same_options():
    listed = set(re.findall(r"^  -([\w-]+)", run("-help").stdout, flags=re.M))
    with open(os.path.join(TOP, "docs/man/sterna.1")) as f:
        page = f.read()
    described = {w.replace("\\-", "-") for w in re.findall(r'^\.B[IR]?\s+"?-([\w\\-]+)', page, flags=re.M)}
    assert listed - described - {"h"} == set()
    assert described - listed == set()


def test_manual_page_has_no_warnings():
    r = subprocess.run(["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", os.path.join(TOP, "docs/man/sterna.1")], capture_output=True, text=True)
    assert r.returncode == 0 and r.stderr == ""


def test_version_under_both_names(tmp_path):
    assert run("-version").stdout.startswith("Sterna version ")
    os.symlink(STERNA, tmp_path / "qemu-system-riscv64")
    out = run("-version", name=tmp_path / "qemu-system-riscv64").stdout
    assert re.match(r"QEMU emulator version \d+\.\d+\.\d+ \(Sterna ", out)


@pytest.mark.parametrize("args, expected", [
    (["-M", "help"], "virt"), (["-M", "help"], "none"), (["-accel", "help"], "interp"), (["-cpu", "help"], "max"),
    (["-device", "help"], "virtio-blk-pci"), (["-device", "virtio-blk-pci,help"], "drive"), (["-drive", "format=help"], "qcow2"),
    (["-chardev", "help"], "socket"), (["-object", "help"], "secret"),
])
def test_help_of(args, expected):
    r = run(*args)
    assert r.returncode == 0 and expected in r.stdout


@pytest.mark.parametrize("args, words", [
    (["-kernal", "x"], ["-kernal", "-kernel"]),
    (["-m"], ["-m", "argument"]),
    (["-m", "lots"], ["lots"]),
    (["-m", "0"], ["-m 0"]),
    (["-smp", "9"], ["9", "8"]),
    (["-smp", "cpus=2,bores=2"], ["bores"]),
    (["-M", "vrit"], ["vrit", "virt"]),
    (["-M", "virt,nosuch=on"], ["nosuch"]),
    (["-accel", "hvf"], ["hvf"]),
    (["-cpu", "rv64,zbx=on"], ["zbx"]),
    (["-kernel", "/nosuch/kernel"], ["/nosuch/kernel", "No such file"]),
    (["-append", "x"], ["-append", "-kernel"]),
    (["-device", "virtio-blk-pic"], ["virtio-blk-pic", "virtio-blk-pci"]),
    (["-device", "virtio-blk-pci,drive=nosuch"], ["nosuch"]),
    (["-blockdev", "driver=qcow3,node-name=x"], ["qcow3"]),
    (["-blockdev", "driver=file,filename=/nosuch/disk,node-name=x"], ["/nosuch/disk", "No such file"]),
    (["-blockdev", "driver=null-co,node-name=x,sise=1M"], ["sise"]),
    (["-drive", "file=/nosuch/disk,format=raw"], ["/nosuch/disk"]),
    (["-drive", "file=/dev/null,format=raw,cache=quick"], ["quick"]),
    (["-chardev", "soket,id=x"], ["soket"]),
    (["-serial", "chardev:nosuch"], ["nosuch"]),
    (["-mon", "chardev=nosuch"], ["nosuch"]),
    (["-qmp", "tcp:nohost.invalid:1,server=off"], ["-qmp"]),
    (["-object", "secrit,id=x"], ["secrit"]),
    (["-display", "gtk"], ["gtk"]),
    (["-uuid", "1234"], ["1234"]),
    (["-set", "device.x"], ["device.x", "group.id.prop=value"]),
    (["-set", "machine.x.y=1"], ["-set is not supported with machine"]),
    (["-set", "devise.x.y=1"], ["devise", "did you mean 'device'"]),
    (["-chardev", "null,id=x", "-set", "device.x.y=1"], ["no device", "x"]),
    (["-chardev", "null,id=x", "-set", "chardev.x.colour=blue"], ["colour"]),
])
def test_error_names_what_was_wrong(args, words):
    r = run("-display", "none", "-nodefaults", "-S", *args)
    assert r.returncode == 1
    assert r.stderr.startswith("sterna: ") and r.stderr.count("\n") == 1
    for w in words:
        assert w in r.stderr


def test_truncated_kernel(tmp_path):
    k = tmp_path / "Image"
    k.write_bytes(b"MZ")
    r = run("-display", "none", "-nodefaults", "-S", "-kernel", k)
    assert r.returncode == 1 and str(k) in r.stderr


def test_device_tree_dump(tmp_path):
    out = tmp_path / "x.dtb"
    r = run("-M", f"virt,dumpdtb={out}", "-smp", "2", "-display", "none")
    assert r.returncode == 0
    dts = subprocess.run(["dtc", "-I", "dtb", "-O", "dts", out], capture_output=True, text=True).stdout
    for node in ("cpu@1", "plic@c000000", "serial@10000000", "pci@30000000", "rtc@101000", "memory@80000000"):
        assert node in dts


def test_pidfile_and_daemonize(tmp_path):
    pid, sock = tmp_path / "pid", tmp_path / "qmp"
    args = ["-M", "none", "-nodefaults", "-display", "none", "-S", "-pidfile", pid, "-qmp", f"unix:{sock},server=on,wait=off"]
    r = subprocess.run([STERNA, *map(str, args), "-daemonize"], timeout=60, capture_output=True, text=True)
    assert r.returncode == 0 and r.stderr == ""
    number = int(pid.read_text())
    try:
        assert os.path.exists(sock)
        second = run(*args[:-2])
        assert second.returncode == 1 and str(pid) in second.stderr
    finally:
        os.kill(number, 15)
    for _ in range(1200):
        if not pid.exists():
            break
        subprocess.run(["sleep", "0.05"])
    assert not pid.exists()


def test_daemonize_reports_errors_to_the_caller():
    r = run("-daemonize", "-display", "none", "-M", "vrit")
    assert r.returncode == 1 and "vrit" in r.stderr


@pytest.mark.parametrize("args", [["-nographic"], ["-display", "none", "-serial", "stdio"], ["-display", "none", "-qmp", "stdio"]])
def test_daemon_has_no_standard_streams(args):
    r = run("-daemonize", "-M", "virt", "-S", *args)
    assert r.returncode == 1 and "cannot use stdio with -daemonize" in r.stderr


def hundredths(pid):
    """Of a second: what it has had of the processors."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_without_a_kernel_harts_stand_still(tmp_path):
    p = subprocess.Popen([STERNA, "-M", "virt", "-m", "16", "-display", "none", "-nodefaults", "-monitor", "stdio"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline().startswith("Sterna ")  # it is up
        before = hundredths(p.pid)
        time.sleep(0.6)
        assert hundredths(p.pid) - before < 15
        assert "VM status: running" in p.communicate("info status\nquit\n", timeout=60)[0]
    finally:
        p.kill()
        p.wait()


def test_qmp_on_stdio():
    r = subprocess.run([STERNA, "-M", "none", "-display", "none", "-nodefaults", "-qmp", "stdio"], capture_output=True, text=True, timeout=60,
                       input='{"execute": "qmp_capabilities"}\n{"execute": "query-status", "id": 7}\n{"execute": "quit"}\n')
    assert '"QMP"' in r.stdout and '"id": 7' in r.stdout and r.returncode == 0
