# SPDX-License-Identifier: BSD-2-Clause
"""Breakpoints and injected errors, beside qemu-io."""
import signal, subprocess, time

import pytest
from sterna import program

OPEN = "open -o driver=raw,file.align=4k blkdebug::raw"


def test_breakpoints(twins):
    twins.raw()
    twins.run(stdin="\n".join([
        OPEN, "break pwritev A", "resume A", "aio_write -P 1 0 4k", "wait_break A", "read -P 0 0 4k", "resume A", "aio_flush", "read -P 1 0 4k",
        "break foo x", "resume nobody", "remove_break nobody",
        "break pwritev A", "remove_break A", "aio_write 0 4k", "aio_flush", "remove_break A",
        "break pwritev B", "aio_write 0 4k", "wait_break B", "remove_break B", "aio_flush"]) + "\n", any_order=True)


def wakings(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("voluntary_ctxt_switches"))


@pytest.mark.parametrize("end", [[], ["quit"]], ids=["end of input", "quit"])
def test_what_is_stopped_at_the_end_goes_on(tmp_path, end):
    """qemu-io would wait for ever. The second breakpoint is one that the request would meet next."""
    path = tmp_path / "image"
    subprocess.run([program("sterna-img"), "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    script = ["break l2_update A", "break write_aio B", "break write_aio C", "aio_write -P 5 0 64k", "aio_write -P 6 128k 64k", "wait_break B", "wait_break C", *end]
    r = subprocess.run([program("sterna-io"), "-f", "qcow2", f"blkdebug::{path}"], input="\n".join(script + [""]), capture_output=True, text=True, timeout=60, check=True)
    assert r.stdout.count("wrote 65536/65536 bytes") == 2 and "Resuming request 'C'" in r.stdout and "request 'A'" not in r.stdout
    r = subprocess.run([program("sterna-io"), "-c", "read -P 5 0 64k", "-c", "read -P 6 128k 64k", path], capture_output=True, text=True, timeout=60, check=True)
    assert "failed" not in r.stdout


@pytest.mark.parametrize("script", [["break write_aio A", "aio_write 0 64k", "wait_break A", "close"], ["wait_break A"]], ids=" ".join)
def test_what_nobody_resumes_waits_in_peace(tmp_path, script):
    path = tmp_path / "image"
    subprocess.run([program("sterna-img"), "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    with subprocess.Popen([program("sterna-io"), "-f", "qcow2", f"blkdebug::{path}"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as p:
        p.stdin.write("\n".join(script + [""]).encode())
        p.stdin.close()
        time.sleep(0.3)
        for _ in range(60):  # until it stands still, however long it takes to get there
            before = wakings(p.pid)
            time.sleep(0.5)
            after = wakings(p.pid)
            assert p.poll() is None, "qemu-io waits"
            if after - before < 20:
                break
        p.send_signal(signal.SIGTERM)
        assert p.wait(60) == -signal.SIGTERM
    assert after - before < 20


def test_signals_end_it_while_a_request_is_stopped(twins):
    twins.raw()
    for number in (9, 15):
        twins.run(stdin=f"{OPEN}\nbreak pwritev A\naio_write 0 4k\nwait_break A\nsigraise {number}\n")


def test_two_requests_that_touch_one_block(twins):
    twins.raw()
    for first, second in (("0x200", "0x400"), ("0x1200", "0x1400")):
        for event in ("pwritev_rmw_head", "pwritev_rmw_after_head"):
            twins.run(stdin="\n".join([OPEN, f"break {event} A", f"aio_write -P 10 {first} 0x200", "wait_break A", f"aio_write -P 11 {second} 0x200", "sleep 20",
                                       "resume A", "aio_flush", f"read -P 10 {first} 0x200", f"read -P 11 {second} 0x200"]) + "\n", any_order=True)
    a, b = twins.get("raw")
    assert a == b


def test_a_write_waits_for_a_read_modify_write(twins):
    twins.raw()
    twins.run(stdin="\n".join([OPEN, "break pwritev A", "aio_write -P 10 0x10000 0x800", "wait_break A", "break pwritev_rmw_after_tail B",
                               "aio_write -P 11 0x10000 0x400", "break pwritev_done C", "resume A", "wait_break C", "resume C", "sleep 50", "wait_break B",
                               "resume B", "aio_flush", "read -P 11 0x10000 0x400", "read -P 10 0x10400 0x400"]) + "\n", any_order=True)


def test_errors_that_were_asked_for(twins):
    twins.raw()
    for what in ('"event": "none", "iotype": "write"', '"event": "none", "iotype": "read"', '"event": "none", "iotype": "flush"', '"event": "none", "iotype": "discard"',
                 '"event": "none", "iotype": "write", "errno": 28, "once": true', '"event": "write_aio"', '"event": "read_aio", "errno": 13',
                 '"event": "none", "iotype": "block-status"', '"event": "none", "iotype": "write-zeroes"', '"event": "none", "sector": 1'):
        name = 'json:{"driver": "raw", "file": {"driver": "blkdebug", "inject-error": [{%s}], "image": {"driver": "file", "filename": "raw"}}}' % what
        twins.script(("-t", "writeback", name), "write 0 512", "read 0 512", "read 512 512", "flush", "discard 0 4k", "write -z 4k 4k", "map", "alloc 0",
                     "aio_write 0 512", "aio_flush", "aio_read 0 512", "aio_flush", "readv 0 512 512", "writev 0 512 512")


def test_one_write_over_data_and_what_was_made_zero(twins):
    """Clusters that lie side by side take one write of the file, whether they hold data or zeroes: the second would fail."""
    twins.create("-f", "qcow2", "image", "1M")
    for at, size in ((64, 64), (0, 64), (128, 64), (0, 192), (32, 64)):
        twins.script(("-f", "qcow2", "image"), "write -P 1 0 192k", f"write -z {at}k {size}k")
        twins.script(('json:{"driver": "qcow2", "file": {"driver": "blkdebug", "image.filename": "image", "set-state": [{"event": "write_aio", "new_state": 2}], '
                      '"inject-error": [{"event": "write_aio", "state": 2}]}}',), "write -P 2 0 192k", "read -P 2 0 192k", "map")


def test_what_is_below_said_in_json(twins):
    twins.create("-f", "qcow2", "image", "1M")
    for name in ('{"filename":"image"}', '{"driver":"qcow2","file":{"driver":"file","filename":"image"}}', "[]"):
        twins.script((f"blkdebug::json:{name}",), "length", "read 0 512")


def test_a_file_of_rules(twins):
    twins.raw()
    twins.put("rules", b'[set-state]\nevent = "write_aio"\nstate = "1"\nnew_state = "2"\n[inject-error]\nevent = "write_aio"\nstate = "2"\nerrno = "28"\nonce = "on"\n')
    twins.script(("-f", "raw", "blkdebug:rules:raw"), "write 0 512", "write 0 512", "write 0 512", "read -P 0xcd 0 512")


def test_limits(twins):
    twins.create("-f", "qcow2", "-o", "cluster_size=1M", "disk", "16M")
    options = "driver=blkdebug,image.driver=qcow2"
    for limits in ("align=512,max-transfer=64k", "align=512,max-write-zero=64k", "align=512,opt-write-zero=15M,max-write-zero=15M,opt-discard=15M,max-discard=15M", "align=4k"):
        twins.script((), f"open -o {options},{limits} blkdebug::disk", "write -P 33 1000 128k", "read -P 33 1000 128k", "write -z 300000 1100000", "read -P 0 300000 1100000",
                     "discard 5M 3M", "alloc 1 1", "alloc 8M 1000", "map", "length")
    for limits in ("align=513", "align=4k,max-transfer=5k", "align=4k,opt-discard=1", "foo=1"):
        twins.run("-c", f"open -o {options},{limits} blkdebug::disk")


def test_below_another_filter(twins):
    """What else is said of its image counts when another filter is given the name of the file."""
    twins.create("-f", "qcow2", "below", "1M")
    twins.create("-f", "qcow2", "-b", "below", "-F", "qcow2", "disk")
    for more in ("", ",file.inject-error.0.event=cor_write"):
        twins.script((), f"open -o driver=copy-on-read,file.driver=blkdebug,file.image.driver=qcow2{more} disk", "write -P 3 64k 64k", "read -P 3 64k 64k", "length")
    twins.run("-c", "open -r -o driver=copy-on-read,file.driver=qcow2 disk")
