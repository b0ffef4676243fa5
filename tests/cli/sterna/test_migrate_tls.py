# SPDX-License-Identifier: BSD-2-Clause
"""Machines move under TLS, and to nobody who is not who he must be: a refused move leaves the machine where it runs, and the destination waits on."""
import os, random, socket, subprocess, threading

import pytest
from qmp import QMPError
from sterna import reference
from test_migrate import info, payload, running, source, start, until  # noqa: F401


def psk(folder, *users):
    folder.mkdir()
    (folder / "keys.psk").write_text("".join(f"{user}:{key}\n" for user, key in users))
    return str(folder)


def certificates(folder):
    """A CA, a server's certificate for the address 127.0.0.1 and the name "here", a client's, and another CA's."""
    tool = reference("certtool")
    folder.mkdir()
    names = {"ca": "ca\ncert_signing_key\n", "server": "tls_www_server\nsigning_key\ndns_name = here\nip_address = 127.0.0.1\n",
             "client": "tls_www_client\nsigning_key\n", "other": "ca\ncert_signing_key\n"}
    for name, text in names.items():
        (folder / f"{name}.info").write_text(f"cn = {name}\n{text}")
        signed = ["--generate-self-signed"] if "ca\n" in text else ["--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey", "ca-key.pem"]
        for args in ["--generate-privkey", "--ecc", "--outfile", f"{name}-key.pem"], [*signed, "--load-privkey", f"{name}-key.pem", "--template", f"{name}.info",
                                                                                       "--outfile", f"{name}-cert.pem"]:
            subprocess.run([tool, *args], cwd=folder, check=True, capture_output=True)
    other = folder / "elsewhere"
    other.mkdir()
    os.link(folder / "other-cert.pem", other / "ca-cert.pem")
    return str(folder)


def creds(m, kind, end, folder, id="t", **more):
    m.qmp.cmd("object-add", qom_type=f"tls-creds-{kind}", id=id, endpoint=end, dir=folder, **more)
    m.qmp.cmd("migrate-set-parameters", tls_creds=id)


class Ear(threading.Thread):
    """A proxy on one Unix socket to another that keeps what went by."""

    def __init__(self, at, to):
        super().__init__(daemon=True)
        self.door, self.to, self.heard = socket.socket(socket.AF_UNIX), to, bytearray()
        self.door.bind(at)
        self.door.listen(1)
        self.start()

    def pump(self, a, b):
        while data := a.recv(65536):
            self.heard += data
            b.sendall(data)
        b.shutdown(socket.SHUT_WR)

    def run(self):
        with self.door.accept()[0] as a, socket.socket(socket.AF_UNIX) as b:
            b.connect(self.to)
            t = threading.Thread(target=self.pump, args=(b, a))
            t.start()
            self.pump(a, b)
            t.join()


def test_psk(start, payload, tmp_path):  # noqa: F811
    """Nothing of the machine can be read on the way."""
    src, dst = source(start, payload), start("-incoming", "defer")
    keys = psk(tmp_path / "keys", ("alice", "5a" * 32))
    creds(dst, "psk", "server", keys)
    creds(src, "psk", "client", keys, username="alice")
    dst.qmp.cmd("migrate-incoming", uri=f"unix:{tmp_path}/in")
    ear = Ear(f"{tmp_path}/ear", f"{tmp_path}/in")
    src.qmp.cmd("migrate-set-parameters", max_bandwidth=0)
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/ear")
    done = until(src, "completed", "failed")
    assert done["status"] == "completed" and done["ram"]["transferred"] > 4 << 20, done
    ear.join(60)
    piece = random.Random(1).randbytes(4 << 20)[1 << 20:][:64]
    assert len(ear.heard) > 4 << 20 and b"STMOVE" not in ear.heard and b"/machine" not in ear.heard and piece not in ear.heard
    until(dst, "completed")
    assert running(dst) and not running(src)


def test_certificates(start, payload, tmp_path):  # noqa: F811
    pki = certificates(tmp_path / "pki")
    src, dst = source(start, payload), start("-incoming", "defer")
    creds(dst, "x509", "server", pki)
    dst.qmp.cmd("migrate-set-parameters", tls_authz="who")
    dst.qmp.cmd("migrate-incoming", channels=[{"channel-type": "main", "addr": {"transport": "socket", "type": "inet", "host": "127.0.0.1", "port": "0"}}])
    uri = "tcp:127.0.0.1:" + info(dst)["socket-address"][0]["port"]

    def refused(error):
        with pytest.raises(QMPError, match=error):
            src.qmp.cmd("migrate", uri=uri, dry_run=True)
        assert running(src) and info(dst)["status"] == "setup"
    refused("the other side says: tcp:.*takes machines under TLS \\(credentials 't'\\).*set 'tls-creds' at the source")  # in the open
    creds(src, "x509", "client", pki + "/elsewhere", id="wrong", verify_peer=True)
    refused("TLS credentials 'wrong': TLS handshake failed|TLS credentials 'wrong': The certificate")
    creds(src, "x509", "client", pki)
    src.qmp.cmd("migrate-set-parameters", tls_hostname="elsewhere")
    refused("TLS credentials 't': Certificate does not match the hostname elsewhere|TLS credentials 't': TLS handshake failed")
    src.qmp.cmd("migrate-set-parameters", tls_hostname="")
    refused("the other side says: .*there is no authorization object 'who'")
    dst.qmp.cmd("object-add", qom_type="authz-simple", id="who", identity="CN=bob")
    refused("the other side says: .*TLS x509 authz check for CN=client is denied")
    dst.qmp.cmd("object-del", id="who")
    dst.qmp.cmd("object-add", qom_type="authz-simple", id="who", identity="CN=client")
    src.qmp.cmd("migrate", uri=uri)
    assert until(src, "completed", "failed")["status"] == "completed"
    until(dst, "completed")
    assert running(dst)
    told = dst.quit()[1]
    assert "there is no authorization object 'who'" in told and "TLS x509 authz check for CN=client is denied" in told


def test_what_is_said_before(start, payload, tmp_path):  # noqa: F811
    src, dst = source(start, payload), start("-incoming", "defer")
    keys = psk(tmp_path / "keys", ("alice", "5a" * 32))

    def refused(m, command, uri, error):
        with pytest.raises(QMPError, match=error):
            m.qmp.cmd(command, uri=uri)
        assert info(m) == {}
    src.qmp.cmd("migrate-set-parameters", tls_creds="nobody")
    refused(src, "migrate", f"unix:{tmp_path}/in", "No TLS credentials with id 'nobody'")
    creds(src, "psk", "server", keys)
    refused(src, "migrate", f"unix:{tmp_path}/in", "'t': Expected TLS credentials for a client endpoint")
    creds(src, "psk", "client", keys, id="c", username="alice")
    refused(src, "migrate", "exec:cat", "exec:cat gives no answer, which TLS \\(credentials 'c'\\) needs")
    creds(dst, "psk", "client", keys, username="alice")
    refused(dst, "migrate-incoming", f"unix:{tmp_path}/in", "'t': Expected TLS credentials for a server endpoint")
    pki = certificates(tmp_path / "pki")
    creds(src, "x509", "client", pki, id="x")
    refused(src, "migrate", f"unix:{tmp_path}/in", "'x' check the destination's name, which unix:.*/in does not say: set 'tls-hostname'")
    assert "tls-creds: 'x'\r\ntls-hostname: ''\r\n" in src.qmp.cmd("human-monitor-command", command_line="info migrate_parameters")


def test_another_kind_of_peer(start, payload, tmp_path):  # noqa: F811
    """A source under TLS learns at once that a destination is in the open, which waits on."""
    src, dst = source(start, payload), start("-incoming", f"unix:{tmp_path}/in")
    creds(src, "psk", "client", psk(tmp_path / "keys", ("alice", "5a" * 32)), username="alice")
    src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
    said = until(src, "failed")["error-desc"]
    assert "TLS credentials 't': TLS handshake failed" in said and "the destination needs 'tls-creds', too" in said and running(src)
    assert info(dst)["status"] == "setup"
    assert "the source speaks TLS, and here is none: set 'tls-creds' here" in dst.quit()[1]


def test_given_up(start, payload, tmp_path):  # noqa: F811
    """A peer that says nothing does not keep the command that gives up."""
    src = source(start, payload)
    creds(src, "psk", "client", psk(tmp_path / "keys", ("alice", "5a" * 32)), username="alice")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(f"{tmp_path}/in")
        door.listen(1)
        src.qmp.cmd("migrate", uri=f"unix:{tmp_path}/in")
        with door.accept()[0]:
            until(src, "setup")
            src.qmp.cmd("migrate_cancel")
            assert until(src, "cancelled", timeout=60) and running(src)
