# SPDX-License-Identifier: BSD-2-Clause
"""-state: what the guest sets is in the file by the time that the guest goes on, and the machine starts with it again."""
import json, os, re, subprocess

BUILD = os.environ.get("STERNA_BUILD", "build")
MAC = "02:00:00:00:00:77"


def started_again(state):
    """What `query-state` and `info qtree` say of the machine of the file."""
    commands = [("qmp_capabilities", {}), ("query-state", {}), ("human-monitor-command", {"command-line": "info qtree"}), ("quit", {})]
    out = subprocess.run([os.path.join(BUILD, "sterna"), "-state", state, "-S", "-display", "none", "-serial", "none", "-qmp", "stdio"],
                         input="".join(json.dumps({"execute": c, "arguments": a}) for c, a in commands), text=True, capture_output=True, timeout=60)
    answers = [a["return"] for a in map(json.loads, out.stdout.splitlines()) if "return" in a]
    assert len(answers) == 4, out.stdout + out.stderr
    return {(s["kind"], s.get("name")): s["values"] for s in answers[1]["sections"]}, answers[2]


def test_mode_address_and_clock(full, tmp_path):
    state = tmp_path / "vm.state"
    m = full("cat /sys/block/vda/cache_type;echo 'write through' >/sys/block/vda/cache_type;echo MODE $(cat /sys/block/vda/cache_type);"
             f"ip link set eth0 address {MAC};echo ADDRESS $(cat /sys/class/net/eth0/address);"
             "date -s @2000000000 >/dev/null;hwclock -w -u;echo CLOCK;sleep 1000", more=("-state", str(state)))
    m.wait("^write back")
    m.wait("^MODE write through")
    assert re.search(r'\[device "vd0"\](\n.+)*\nwrite-cache = "?off', state.read_text())
    m.wait("^ADDRESS " + MAC)
    assert f'mac = "{MAC}"' in state.read_text() or f"mac = {MAC}" in state.read_text()
    m.wait("^CLOCK")
    m.process.kill()
    m.process.wait()
    made, tree = started_again(state)
    assert made["device", "vd0"]["write-cache"] == "off"
    assert made["device", "card"]["mac"] == MAC and MAC in tree
    offset = made["machine", None]["options"]["rtc-offset"] // 10**9
    assert abs(offset + os.stat(state).st_mtime - 2000000000) < 5
