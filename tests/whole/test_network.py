# SPDX-License-Identifier: BSD-2-Clause
"""A card and the user-mode network behind it: a Debian kernel gets its address, fetches from the host and serves it."""
import hashlib, http.server, socket, threading, time

import pytest

from sterna import free_port
from vm import VMError

PAYLOAD = bytes(range(256)) * 2000


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAYLOAD)))
        self.end_headers()
        self.wfile.write(PAYLOAD)

    def log_message(self, *args):
        pass


def fetch(port, timeout=60):
    """What the guest says on a forwarded port, once it listens."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            s.settimeout(10)
            try:
                data = s.recv(100)
            except OSError:
                data = b""
            if data:
                return data
        time.sleep(0.2)
    raise AssertionError("the guest does not answer")


def test_address_fetch_and_forward(full):
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = free_port()
    m = full("ip link set eth0 up;udhcpc -i eth0 -n -q -s /bin/true 2>&1;ip addr add 10.0.2.15/24 dev eth0;"
             f"cat /sys/class/net/eth0/address;wget -q -O - http://10.0.2.2:{server.server_port}/ | sha256sum;"
             "echo from-the-guest | nc -l -p 7777;read x;cat /sys/class/net/eth0/carrier;sleep 100", net=f",hostfwd=tcp:127.0.0.1:{port}-:7777")
    m.wait("lease of 10.0.2.15 obtained")
    m.wait("^52:54:00:12:34:56")
    m.wait("^" + hashlib.sha256(PAYLOAD).hexdigest())
    server.shutdown()
    assert fetch(port) == b"from-the-guest\n"
    m.cmd("human-monitor-command", command_line="set_link card off")
    time.sleep(0.5)
    m.type("\n")
    m.wait("^0$")


def test_card_comes_and_goes(up):
    """Plugged into a machine that runs, found, used and let go by the guest, and taken away with its network."""
    m = up("read x;echo 1 >/sys/bus/pci/rescan;while [ ! -e /sys/class/net/eth0 ];do sleep 0.1;done;echo CAME $(cat /sys/class/net/eth0/address);"
           "ip link set eth0 up;udhcpc -i eth0 -n -q -s /bin/true 2>&1;ip link set eth0 down;"
           "echo 1 >/sys/bus/pci/devices/0000:00:02.0/remove;ls /sys/class/net;echo REMOVED;sleep 100")
    m.cmd("netdev_add", type="user", id="n", net="10.7.0.0/24")
    m.cmd("device_add", driver="virtio-net-pci", id="card", netdev="n", addr="2", mac="02:00:00:00:00:09")
    m.type("\n")
    m.wait("^CAME 02:00:00:00:00:09")
    m.wait("lease of 10.7.0.15 obtained")
    with pytest.raises(VMError, match="in use by the guest's driver"):
        m.cmd("device_del", id="card")
    m.wait("^REMOVED")
    assert "eth0" not in " ".join(t for _, t in m.lines[-3:])
    m.cmd("device_del", id="card")
    m.event("DEVICE_DELETED", device="card")
    m.cmd("netdev_del", id="n")
    assert m.cmd("query-status")["status"] == "running"
