# SPDX-License-Identifier: BSD-2-Clause
"""sterna-img on exports of NBD servers: names, contents, extents, TLS; beside qemu-img where both can."""
import json, os, random, signal, socket, subprocess, time

import pytest
from images import MIB, pieces
from sterna import program, reference, run


def listens(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
        except OSError:
            return False
        return True


class Servers:
    """NBD servers that end with the test."""

    def __init__(self, folder):
        self.folder, self.running = folder, []

    def start(self, command, path):
        p = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(p)
        end = time.monotonic() + 60
        while not listens(path):
            assert p.poll() is None and time.monotonic() < end, f"does not start: {command}"
            time.sleep(0.01)
        return p

    def nbdkit(self, *args):
        path = os.path.join(self.folder, f"nbdkit{len(self.running)}")
        self.start([reference("nbdkit"), "-f", "-U", path, *args], path)
        return path

    def qemu(self, *args):
        path = os.path.join(self.folder, f"qemu{len(self.running)}")
        self.start([reference("qemu-nbd"), "-t", "-e", "0", "-k", path, *args], path)
        return path

    def stop(self):
        for p in self.running:
            p.send_signal(signal.SIGKILL)
            p.wait()


@pytest.fixture
def servers(tmp_path):
    s = Servers(str(tmp_path))
    yield s
    s.stop()


def ours(*args, **kw):
    return run(program("sterna-img"), *args, **kw)


def uri(path, export=""):
    return f"nbd+unix:///{export}?socket={path}"


def test_names(twins, servers):
    path = servers.nbdkit("memory", "1M")
    for name in [uri(path), uri(path, "a%20b"), f"nbd:unix:{path}", f"nbd:unix:{path}:exportname=x",
                 json.dumps({"driver": "nbd", "path": path, "export": ""}),
                 json.dumps({"driver": "raw", "file": {"driver": "nbd", "server": {"type": "unix", "path": path}}})]:
        name = "json:" + name if name.startswith("{") else name
        twins.same("info", name)
        twins.same("info", "--output=json", "-f", "raw", name) if not name.startswith("json:") else None
    twins.same("info", "--image-opts", f"driver=nbd,server.type=unix,server.path={path},export=y")
    twins.same("info", "--image-opts", f"driver=raw,file.driver=nbd,file.path={path}")


@pytest.mark.parametrize("name", [
    "nbd:", "nbd:h", "nbd://", "nbd:///x", "nbd+unix:///x", "nbd+unix://h/?socket=/s", "nbd+x://h", "nbd:h:1:exportname=",
    "nbd:unix:/nowhere/s", "nbd://127.0.0.1:1", "nbd:127.0.0.1:nothing", 'json:{"driver":"nbd"}', 'json:{"driver":"nbd","server":"x"}',
    'json:{"driver":"nbd","host":"h","path":"p"}', 'json:{"driver":"nbd","path":"p","port":"1"}',
    'json:{"driver":"nbd","path":"p","server":{"type":"unix","path":"p"}}', 'json:{"driver":"nbd","server":{"type":"unix"}}',
    'json:{"driver":"nbd","server":{"type":"fd","str":"99"}}', 'json:{"driver":"nbd","path":"p","tls-creds":"t"}',
])
def test_wrong_names(twins, name):
    twins.same("info", name)


def test_refused_by_the_server(twins, servers, tmp_path):
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(MIB)
    path = servers.qemu("-f", "raw", "-x", "here", "disk")
    twins.same("info", uri(path, "there"))
    twins.same("info", uri(path))
    twins.same("info", uri(path, "here"))


def test_contents(servers, tmp_path):
    """Through nbdkit and through qemu-nbd, raw and qcow2: what was written is read, holes stay holes."""
    size = 24 * MIB
    source = str(tmp_path / "source")
    with open(source, "wb") as f:
        for offset, data in pieces("nbd", size):
            f.seek(offset)
            f.write(data)
        f.truncate(size)
    with open(tmp_path / "disk", "wb") as f:
        f.truncate(64 * MIB)
    for path in (servers.nbdkit("file", "disk"), servers.qemu("-f", "raw", "--discard=unmap", "disk")):
        ours("convert", "-O", "qcow2", source, uri(path)).ok()
        ours("check", uri(path)).ok()
        assert json.loads(ours("info", "--output=json", uri(path)).ok().out)["virtual-size"] == size
        ours("compare", "-f", "raw", "-F", "qcow2", source, uri(path)).ok()
        run(reference("qemu-img"), "compare", "-f", "raw", "-F", "qcow2", source, uri(path)).ok()
        back = str(tmp_path / "back")
        ours("convert", "-f", "qcow2", "-O", "raw", uri(path), back).ok()
        assert open(back, "rb").read() == open(source, "rb").read()
        assert os.stat(back).st_blocks <= os.stat(source).st_blocks + 16
        ours("convert", "-n", "-f", "raw", "-O", "raw", source, uri(path)).ok()
        run(reference("qemu-img"), "compare", "-f", "raw", "-F", "raw", source, uri(path)).ok()


def test_backing(servers, tmp_path):
    """An overlay over an export: its header holds the name, and both tools open it."""
    rng = random.Random(1)
    data = rng.randbytes(MIB)
    (tmp_path / "disk").write_bytes(data)
    path = servers.nbdkit("-r", "file", "disk")
    overlay = str(tmp_path / "overlay")
    ours("create", "-f", "qcow2", "-b", uri(path), "-F", "raw", overlay).ok()
    for tool in (program("sterna-img"), reference("qemu-img")):
        out = str(tmp_path / "out")
        run(tool, "convert", "-O", "raw", overlay, out).ok()
        assert open(out, "rb").read() == data
    ours("rebase", "-b", "", overlay).ok()
    servers.stop()
    ours("convert", "-O", "raw", overlay, str(tmp_path / "out")).ok()
    assert (tmp_path / "out").read_bytes() == data


def test_extents(twins, servers, tmp_path):
    with open(tmp_path / "disk", "wb") as f:
        for offset, data in pieces("map", 8 * MIB):
            f.seek(offset)
            f.write(data)
        f.truncate(8 * MIB + 1024)
    for path in (servers.qemu("-f", "raw", "disk"), servers.nbdkit("file", "disk"),
                 servers.nbdkit("--filter=noextents", "file", "disk")):
        twins.same("map", "--output=json", "-f", "raw", uri(path))
        twins.same("map", "-f", "raw", uri(path))


def test_dirty_bitmaps_and_depths(twins, servers):
    twins.same("create", "-f", "qcow2", "base", "4M")
    twins.io("base", "write 0 64k", "write 1M 128k")
    twins.same("create", "-f", "qcow2", "-b", "base", "-F", "qcow2", "top")
    run(twins.qemu, "bitmap", "--add", "top", "b0", cwd=twins.theirs_dir).ok()
    twins.io("top", "write 512k 64k", "write -z 2M 64k")
    servers.folder = twins.theirs_dir
    path = servers.qemu("-r", "-f", "qcow2", "-B", "b0", "-A", "top")
    for context in ("qemu:dirty-bitmap:b0", "qemu:allocation-depth", "base:allocation"):
        opts = f"driver=nbd,export=,server.type=unix,server.path={path},x-dirty-bitmap={context}"
        twins.same("map", "--output=json", "--image-opts", opts)
    opts = f"driver=nbd,server.type=unix,server.path={path},x-dirty-bitmap=qemu:dirty-bitmap:b1"
    r = ours("map", "--image-opts", opts)
    assert r.rc == 1 and "requested x-dirty-bitmap 'qemu:dirty-bitmap:b1' not found" in r.err


def test_resizing_is_refused(twins, servers):
    path = servers.nbdkit("memory", "1M")
    twins.same("resize", "-f", "raw", uri(path), "2M")
    twins.same("resize", "-f", "raw", "--shrink", uri(path), "512k")
    twins.same("create", "-f", "raw", uri(path), "2M")
    twins.same("create", "-f", "raw", uri(path), "512k")
    twins.same("create", "-f", "raw", "-o", "preallocation=full", uri(path), "512k")
    twins.same("create", "-f", "raw", "-o", "help", uri(path))
    twins.same("create", "-f", "qcow2", f"nbd:unix:{path}x", "1M")


def test_read_only(twins, servers):
    path = servers.nbdkit("-r", "memory", "1M")
    twins.same("info", uri(path))
    twins.same("create", "-f", "raw", uri(path), "1M")
    twins.same("convert", "-n", "-f", "raw", "-O", "raw", uri(path), uri(path))
    twins.same("bench", "-w", "-f", "raw", uri(path))


@pytest.mark.parametrize("what, code", [("extents", "EIO"), ("pread", "EPERM"), ("pwrite", "ENOSPC"), ("zero", "ENOMEM")])
def test_errors_of_the_server(twins, servers, what, code):
    path, good = servers.nbdkit("--filter=error", "memory", "1M", f"error={code}", f"error-{what}-rate=1"), servers.nbdkit("memory", "1M")
    twins.sparse("source", MIB, [(0, b"x" * 65536)])
    twins.same("map", "-f", "raw", uri(path))
    twins.same("map", "--output=json", "-f", "raw", uri(path))
    twins.same("convert", "-f", "raw", "-O", "raw", uri(path), "out")
    twins.same("convert", "-n", "-f", "raw", "-O", "raw", "source", uri(path))
    twins.same("compare", "-f", "raw", "-F", "raw", uri(path), uri(good))
    twins.same("measure", "-f", "raw", "-O", "qcow2", uri(path))
    twins.same("dd", "-f", "raw", "-O", "raw", f"if={uri(path)}", "of=dd")


def test_missing_server_comes(servers, tmp_path):
    path = str(tmp_path / "late")
    p = subprocess.Popen([program("sterna-img"), "info", "--image-opts", f"driver=nbd,path={path},open-timeout=60"],
                         stdout=subprocess.PIPE, text=True)
    time.sleep(0.5)
    assert p.poll() is None
    servers.start([reference("nbdkit"), "-f", "-U", path, "memory", "3M"], path)
    out, _ = p.communicate(timeout=60)
    assert p.returncode == 0 and "3 MiB" in out


# --- TLS -------------------------------------------------------------------------------------------------------------

def psk(folder, *users):
    os.mkdir(folder)
    with open(os.path.join(folder, "keys.psk"), "w") as f:
        for i, user in enumerate(users):
            f.write(f"{user}:{(i + 1) * 11111111}\n")
    return folder


def test_psk(twins, servers, tmp_path):
    keys, others = psk(str(tmp_path / "keys"), "alice", "qemu"), psk(str(tmp_path / "others"), "alice")
    with open(os.path.join(others, "keys.psk"), "w") as f:
        f.write("alice:aabbccdd\n")
    path = servers.nbdkit("--tls=require", f"--tls-psk={keys}/keys.psk", "memory", "1M")
    creds = lambda folder, *more: ["--object", ",".join(["tls-creds-psk", "id=t", "endpoint=client", f"dir={folder}", *more])]
    opts = ["--image-opts", f"driver=nbd,path={path},tls-creds=t"]
    twins.same("info", *creds(keys), *opts)
    twins.same("info", *creds(keys, "username=alice"), *opts)
    ours("bench", "-w", "-c", "100", "-f", "raw", *creds(keys), "--image-opts", f"driver=nbd,path={path},tls-creds=t".replace("-f raw", ""))
    assert ours("info", *creds(others, "username=alice"), *opts).rc == 1
    twins.same("info", *creds(keys, "username=nobody"), *opts)
    twins.same("info", "--object", f"tls-creds-psk,id=t,endpoint=server,dir={keys}", *opts)
    r = ours("info", uri(path))
    assert r.rc == 1 and "TLS negotiation required before option 7 (go)\nDid you forget a valid tls-creds?" in r.err
    plain = servers.nbdkit("memory", "1M")
    r = ours("info", *creds(keys), "--image-opts", f"driver=nbd,path={plain},tls-creds=t")
    assert r.rc == 1 and "Denied by server for option 5 (starttls)" in r.err


def certificates(folder):
    """A CA, a server's certificate for the name "here", a client's, and another CA."""
    tool = reference("certtool")
    os.mkdir(folder)
    names = {"ca": "ca\ncert_signing_key\n", "server": "tls_www_server\nsigning_key\ndns_name = here\n", "client": "tls_www_client\nsigning_key\n",
             "other": "ca\ncert_signing_key\n"}
    for name, text in names.items():
        with open(os.path.join(folder, name + ".info"), "w") as f:
            f.write(f"cn = {name}\n{text}")
        run(tool, "--generate-privkey", "--ecc", "--outfile", f"{name}-key.pem", cwd=folder).ok()
        own = name in ("ca", "other")
        signed = ["--generate-self-signed"] if own else ["--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey", "ca-key.pem"]
        run(tool, *signed, "--load-privkey", f"{name}-key.pem", "--template", f"{name}.info", "--outfile", f"{name}-cert.pem", cwd=folder).ok()
    return folder


def test_certificates(servers, tmp_path):
    pki = certificates(str(tmp_path / "pki"))
    path = servers.nbdkit("--tls=require", f"--tls-certificates={pki}", "memory", "1M")
    creds = lambda folder, *more: ["--object", ",".join(["tls-creds-x509", "id=t", "endpoint=client", f"dir={folder}", *more])]
    opts = lambda *more: ["--image-opts", ",".join(["driver=nbd", f"path={path}", "tls-creds=t", *more])]
    ours("info", *creds(pki), *opts("tls-hostname=here")).ok()
    r = ours("info", *creds(pki), *opts())
    assert r.rc == 1 and "No hostname for certificate validation" in r.err
    r = ours("info", *creds(pki), *opts("tls-hostname=elsewhere"))
    assert r.rc == 1 and "TLS handshake failed" in r.err
    ours("info", *creds(pki, "verify-peer=off"), *opts()).ok()
    other = str(tmp_path / "other")
    os.mkdir(other)
    for name, source in (("ca-cert.pem", "other-cert.pem"),):
        os.link(os.path.join(pki, source), os.path.join(other, name))
    r = ours("info", *creds(other), *opts("tls-hostname=here"))
    assert r.rc == 1 and "TLS handshake failed" in r.err
    r = ours("info", f"nbds+unix:///?socket={path}")
    assert r.rc == 1 and "TLS needs credentials" in r.err
    name = json.dumps({"driver": "nbd", "path": path, "tls": True, "tls-creds": "t", "tls-hostname": "here"})
    assert f"image: nbds+unix://?socket={path}\n" in ours("info", *creds(pki), "json:" + name).ok().out
