# SPDX-License-Identifier: BSD-2-Clause
"""TLS: who gets in, who does not, and what is transferred."""
import os, ssl, struct

import pytest
from sterna import program, reference, run
from wire import *

MIB = 1 << 20


class Pki:
    """An authority and what it has signed, by certtool; pre-shared keys by psktool."""

    def __init__(self, folder, name):
        self.dir, self.tool = os.path.join(folder, name), reference("certtool")
        os.mkdir(self.dir)
        self.ca_key, self.ca = self.path("ca-key.pem"), self.path("ca-cert.pem")
        self.key(self.ca_key)
        self.make("--generate-self-signed", "ca", self.ca_key, self.ca, "cn = authority\nca\ncert_signing_key\n")

    def path(self, *parts):
        return os.path.join(self.dir, *parts)

    def key(self, path):
        run(self.tool, "--generate-privkey", "--key-type=ecdsa", "--outfile", path).ok()

    def make(self, how, name, key, out, template, *more):
        with open(self.path(name + ".info"), "w", encoding="ascii") as f:
            f.write(template)
        run(self.tool, how, "--load-privkey", key, "--template", f.name, "--outfile", out, *more).ok()

    def issue(self, folder, kind, template):
        """A folder with a key and a certificate of `kind` ("server" or "client")."""
        os.mkdir(self.path(folder))
        key, cert = self.path(folder, kind + "-key.pem"), self.path(folder, kind + "-cert.pem")
        self.key(key)
        self.make("--generate-certificate", folder, key, cert, template, "--load-ca-certificate", self.ca, "--load-ca-privkey", self.ca_key)
        os.link(self.ca, self.path(folder, "ca-cert.pem"))
        return self.path(folder)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    p = Pki(tmp_path_factory.mktemp("pki"), "one")
    server = "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\nsigning_key\n"
    p.server = p.issue("server", "server", server)
    p.client = p.issue("client", "client", "cn = alice\norganization = Birds\ntls_www_client\nsigning_key\n")
    p.other = p.issue("other", "client", "cn = mallory\norganization = Cats\ntls_www_client\nsigning_key\n")
    p.late = p.issue("late", "server", server + 'expiration_date = "2020-01-01 00:00:00"\nactivation_date = "2019-01-01 00:00:00"\n')
    p.stranger = Pki(tmp_path_factory.mktemp("pki2"), "two").issue("client", "client", "cn = alice\norganization = Birds\ntls_www_client\n")
    return p


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    d = str(tmp_path_factory.mktemp("keys"))
    for user in ("alice", "bob"):
        run(reference("psktool"), "-u", user, "-p", os.path.join(d, "keys.psk")).ok()
    return d


def context(folder, pki):
    c = ssl.create_default_context(cafile=pki.ca)
    if folder:
        c.load_cert_chain(os.path.join(folder, "client-cert.pem"), os.path.join(folder, "client-key.pem"))
    return c


def x509(pki, *more, folder=None):
    return ("--object", ",".join([f"tls-creds-x509,id=tls0,endpoint=server,dir={folder or pki.server}", *more]), "--tls-creds", "tls0")


def test_nothing_is_done_before_tls_is_up(serve, disk, pki):
    s = serve("-t", "-e", 0, "-f", "raw", "-x", "name", *x509(pki), disk)
    with s.connect() as w:
        for opt in (LIST, STRUCTURED, EXTENDED, 99):
            assert w.error(opt) == TLS_REQD
        assert w.error(GO, w.info_data("name")) == TLS_REQD and w.error(INFO, w.info_data("other")) == TLS_REQD
        assert w.error(SET_META, b"") == TLS_REQD and w.error(STARTTLS, b"x") == INVALID
        w.ok(ABORT)
    with s.connect() as w:
        w.send_opt(EXPORT_NAME, b"name")
        assert w.is_closed()
    assert "Option 0x1 not permitted before TLS" in s.stop()


@pytest.mark.parametrize("mode", ["simple", "structured", "extended"])
def test_everything_works_under_tls(serve, disk, pki, mode):
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), disk)
    with s.connect() as w:
        w.start_tls(context(pki.client, pki), "localhost")
        assert w.error(STARTTLS) == INVALID
        if mode != "simple":
            w.ok({"structured": STRUCTURED, "extended": EXTENDED}[mode])
        w.go()
        data = os.urandom(3 * MIB)
        assert w.write(1000, data) == 0 and w.read(1000, len(data)) == data
        assert w.read(0, 4 * MIB)[:1000] == b"A" * 1000
        batch = b"".join(w.header(READ, 1000 + i, 1000, DF if mode != "simple" else 0) for i in range(300))
        w.send(batch)
        got = {}
        for _ in range(300):
            c = w.chunk(1000)
            got[c.cookie] = c.payload[-1000:]
        assert [got[k] for k in sorted(got)] == [data[i:i + 1000] for i in range(300)]
        w.send(w.header(DISC))
        assert w.sock.recv(1) == b""  # a proper good-bye, or there would be an error
    assert s.stop() == ""


def test_what_was_negotiated_in_plain_is_forgotten(serve, disk, pki):
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), disk)
    with s.connect() as w:
        w.start_tls(context(pki.client, pki), "localhost").go()
        assert w.read_chunks(0, 4)[0].kind == "simple"


def test_plain_bytes_behind_starttls_end_the_connection(serve, disk, pki):
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), disk)
    with s.connect() as w:
        w.send(b"IHAVEOPT" + struct.pack(">II", STARTTLS, 0) + b"IHAVEOPT" + struct.pack(">II", LIST, 0))
        assert w.is_closed()
    assert "behind the request to start TLS" in s.stop()


def test_strangers_stay_outside(serve, disk, pki):
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), disk)
    for folder in (None, pki.stranger):
        with s.connect() as w, pytest.raises((Closed, ssl.SSLError, ConnectionResetError, BrokenPipeError)):
            w.start_tls(context(folder, pki), "localhost").go()
    with s.connect() as w:  # no TLS at all
        w.ok(STARTTLS)
        w.send(b"hello, is there anybody?" * 10)
        assert w.is_closed()
    text = s.stop()
    assert "No certificate was found" in text and "TLS handshake failed" in text


def test_peers_need_no_certificate_when_they_are_not_verified(serve, disk, pki):
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki, "verify-peer=off"), disk)
    with s.connect() as w:
        w.start_tls(context(None, pki), "localhost").go()
        assert w.read(0, 2) == b"AA"


@pytest.mark.parametrize("rules, alice, mallory", [
    ("authz-simple,id=a,identity=O=Birds,,CN=alice", True, False),
    ("authz-list,id=a,policy=deny,rules.0.match=*alice,rules.0.policy=allow,rules.0.format=glob", True, False),
    ("authz-list,id=a,policy=allow,rules.0.match=O=Cats,,CN=mallory,rules.0.policy=deny", True, False),
    ("authz-list,id=a", False, False), ("file", False, True)])
def test_authorization_judges_names(serve, disk, pki, tmp_path, rules, alice, mallory):
    if rules == "file":
        (tmp_path / "acl.json").write_text('{"policy": "deny", "rules": [{"match": "*mall*", "policy": "allow", "format": "glob"}]}')
        rules = f"authz-listfile,id=a,filename={tmp_path}/acl.json"
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), "--object", rules, "--tls-authz", "a", disk)
    for folder, allowed in ((pki.client, alice), (pki.other, mallory)):
        with s.connect() as w:
            if allowed:
                w.start_tls(context(folder, pki), "localhost").go()
                assert w.read(0, 2) == b"AA"
            else:
                with pytest.raises((Closed, ssl.SSLError, ConnectionResetError, BrokenPipeError)):
                    w.start_tls(context(folder, pki), "localhost").go()
    assert ("is denied" in s.stop()) == (not alice or not mallory)


def test_a_changed_list_counts_from_then_on(serve, disk, pki, tmp_path):
    acl = tmp_path / "acl.json"
    acl.write_text('{"policy": "deny"}')
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), "--object", f"authz-listfile,id=a,filename={acl}", "--tls-authz", "a", disk)
    with s.connect() as w, pytest.raises((Closed, ssl.SSLError, ConnectionResetError, BrokenPipeError)):
        w.start_tls(context(pki.client, pki), "localhost").go()
    for text in ('{"policy": "allow"}', "no JSON any more"):
        acl.write_text(text)
        with s.connect() as w:
            w.start_tls(context(pki.client, pki), "localhost").go()


def test_bad_certificates_of_our_own_are_named_at_once(disk, pki, tmp_path):
    def start(*args):
        r = run(program("sterna-nbd"), "-k", tmp_path / "s", "-f", "raw", *args, disk)
        assert r.rc == 1
        return r.err
    assert f"The server certificate {pki.late}/server-cert.pem has expired" in start(*x509(pki, folder=pki.late))
    assert "No such file" in start(*x509(pki, folder=pki.client))
    assert "Missing 'dir'" in start("--object", "tls-creds-x509,id=tls0,endpoint=server", "--tls-creds", "tls0")
    assert "Expected TLS credentials for a server endpoint" in start("--object", f"tls-creds-x509,id=t,dir={pki.client}", "--tls-creds", "t")


def test_peers_of_many_makes_connect(serve, disk, pki, keys):
    s = serve("-t", "-e", 0, "-f", "raw", *x509(pki), disk)
    nbdinfo = reference("nbdinfo")
    uri = f"nbds+unix://localhost/?socket={s.path}&tls-certificates={pki.client}"
    assert "4194304" in run(nbdinfo, "--size", uri).ok().out
    img = run(reference("qemu-img"), "info", "--image-opts", "--object", f"tls-creds-x509,id=c,endpoint=client,dir={pki.client}",
              f"driver=nbd,path={s.path},tls-creds=c,tls-hostname=localhost").ok()
    assert "4 MiB" in img.out
    ours = run(program("sterna-nbd"), "-L", "-k", s.path, "--object", f"tls-creds-x509,id=c,endpoint=client,dir={pki.client}", "--tls-creds", "c",
               "--tls-hostname", "localhost").ok()
    assert "exports available: 1" in ours.out
    psk = serve("-t", "-e", 0, "-f", "raw", "--object", f"tls-creds-psk,id=p,endpoint=server,dir={keys}", "--tls-creds", "p", "--object",
                "authz-simple,id=a,identity=alice", "--tls-authz", "a", disk)
    for user, allowed in (("alice", True), ("bob", False)):
        r = run(nbdinfo, "--size", f"nbds+unix://{user}@/?socket={psk.path}&tls-psk-file={keys}/keys.psk")
        assert (r.rc == 0) == allowed, r.err
    anon = serve("-t", "-e", 0, "-f", "raw", "--object", "tls-creds-anon,id=p,endpoint=server", "--tls-creds", "p", disk)
    r = run(program("sterna-nbd"), "-L", "-k", anon.path, "--object", "tls-creds-anon,id=c,endpoint=client", "--tls-creds", "c").ok()
    assert "4194304" in r.out


def test_tls_for_those_who_ask(serve, disk, keys):
    nbdinfo = reference("nbdinfo")
    s = serve("-t", "-e", 0, "-f", "raw", "--object", f"tls-creds-psk,id=p,endpoint=server,dir={keys}", "--tls-creds", "p", "--unencrypted", disk)
    plain = run(nbdinfo, "--size", f"nbd+unix:///?socket={s.path}").ok()
    secret = run(nbdinfo, "--size", f"nbds+unix://alice@/?socket={s.path}&tls-psk-file={keys}/keys.psk").ok()
    assert plain.out == secret.out
    assert run(nbdinfo, f"nbds+unix://mallory@/?socket={s.path}&tls-psk-file={keys}/keys.psk").rc != 0
    for other in (["--tls-authz", "a", "--object", "authz-simple,id=a,identity=alice"], ["-L"]):
        r = run(program("sterna-nbd"), "--object", f"tls-creds-psk,id=p,endpoint=server,dir={keys}", "--tls-creds", "p", "--unencrypted", *other, *([disk] if other != ["-L"] else []))
        assert r.rc == 1 and "--unencrypted is incompatible with" in r.err
    r = run(program("sterna-nbd"), "--unencrypted", disk)
    assert r.rc == 1 and "--unencrypted is not permitted without --tls-creds" in r.err
