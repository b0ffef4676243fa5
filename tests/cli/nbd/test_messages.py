# SPDX-License-Identifier: BSD-2-Clause
"""What is wrong with a command line, in the same words and with the same exit code as qemu-nbd says it."""
import os, socket

import pytest
from sterna import alias, reference, run

LONG = "x" * 4097
WRONG = [
    "", "a b", "-L a", "-L -x n", "-L -f raw", "-L -o 3", "-L -B b", "-L -A", "-L -D d", "-L -c /dev/x", "-L --cache none", "-L --aio threads",
    "-L --discard on", "-L --fork", "-L -k relative", "-L -k /nonexistent", "-L -p nonsense", "-L -b 127.0.0.1 -p 1",
    "--nonsense", "-P 1", "-p", "-k", "--port", "--fork=1", "--tls", "-k relative x.raw", "-k /nonexistent/s -f raw x.raw",
    f"-k /tmp/{'y' * 200} -f raw x.raw", "-b nohost.invalid -f raw x.raw", "-p nonsense -f raw x.raw", "-b 1.2.3.4 -f raw x.raw",
    "-e -1 x.raw", "-e x x.raw", "-e 1x x.raw", f"-x {LONG} x.raw", f"-D {LONG} x.raw", "-o nonsense x.raw", "-o 1k x.raw", "-o 5M x.raw",
    "--cache nonsense x.raw", "--cache none -n x.raw", "-n -n x.raw", "--aio nonsense x.raw", "--aio threads --aio threads x.raw",
    "-f raw --aio native -k SOCK x.raw", "--discard nonsense x.raw", "--discard on --discard off x.raw", "--detect-zeroes nonsense x.raw",
    "--detect-zeroes unmap x.raw", "--discard ignore --detect-zeroes unmap x.raw",
    "-f nonsense -k SOCK x.raw", "-f raw -k SOCK missing.raw", "-f qcow2 -k SOCK x.raw", "-k SOCK --image-opts driver=raw,file.filename=x.raw,foo=1",
    "-k SOCK --image-opts driver=nonsense", "-k SOCK -f raw --image-opts x.raw", "-f raw -B bitmap -k SOCK x.raw",
    "-l snapshot.foo=1 x.raw", "-f raw -l name -k SOCK x.raw", "-f qcow2 -l name -k SOCK q.qcow2", "-f qcow2 -l snapshot.id=7 -k SOCK q.qcow2",
    "-f qcow2 -l snapshot.id=1,snapshot.name=other -k SOCK q.qcow2",
    "-f raw --pid-file /nonexistent/pid -k SOCK x.raw", "--selinux-label l x.raw", "-f raw -c /dev/nonexistent x.raw", "-d /dev/nonexistent",
    "-d",
    "--tls-creds t x.raw", "--tls-authz a x.raw", "--tls-hostname h x.raw", "-L --tls-hostname h", "-L --tls-authz a", "-c /dev/x --tls-creds t x.raw",
    "--object secret,id=t,data=x --tls-creds t x.raw", "--object tls-creds-anon,id=t,endpoint=client --tls-creds t x.raw",
    "--object tls-creds-anon,id=t,endpoint=server --tls-creds t -L", "--object tls-creds-anon,id=t,endpoint=server --tls-creds t --tls-hostname h x.raw",
    "--object tls-creds-anon,id=t,endpoint=nonsense x.raw", "--object tls-creds-x509,id=t,endpoint=server x.raw",
    "--object tls-creds-x509,id=t,endpoint=server,dir=/nonexistent x.raw", "--object tls-creds-psk,id=t,endpoint=server,dir=/nonexistent x.raw",
    "--object tls-creds-psk,id=t,endpoint=client,dir=. x.raw", "--object authz-simple,id=a x.raw",
    "--fork -f raw -k /nonexistent/s x.raw", "--fork -f raw -k SOCK missing.raw",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    d = tmp_path_factory.mktemp("nbd")
    (d / "x.raw").write_bytes(bytes(1 << 20))
    (d / "keys.psk").write_text("alice:1234\n")
    run(reference("qemu-img"), "create", "-q", "-f", "qcow2", d / "q.qcow2", "1M").ok()
    run(reference("qemu-img"), "snapshot", "-c", "name1", d / "q.qcow2").ok()
    return d


@pytest.mark.parametrize("line", WRONG, ids=lambda s: s[:60])
def test_what_is_wrong_is_said_in_the_same_words(place, line):
    args = [str(place / "sock") if w == "SOCK" else w for w in line.split()]
    results = []
    for exe in (reference("qemu-nbd"), alias(place, "qemu-nbd", "sterna-nbd")):
        r = run(exe, *args, cwd=place, timeout=60)
        results.append((r.rc, r.out, r.err.replace(exe, "qemu-nbd")))
    assert results[1] == results[0]


def test_a_port_that_is_taken(place):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen(1)
        line = ["-b", "127.0.0.1", "-p", str(s.getsockname()[1]), "-f", "raw", "x.raw"]
        theirs, ours = (run(exe, *line, cwd=place) for exe in (reference("qemu-nbd"), alias(place, "qemu-nbd", "sterna-nbd")))
    assert (ours.rc, ours.err) == (theirs.rc, theirs.err)


@pytest.mark.parametrize("env, args, fds", [({"LISTEN_FDS": "2"}, "-f raw x.raw", 2), ({"LISTEN_FDS": "1"}, "-f raw x.raw", 0),
                                            ({"LISTEN_FDS": "1"}, "-k /x -f raw x.raw", 1), ({"LISTEN_FDS": "1"}, "-p 5 -f raw x.raw", 1),
                                            ({"LISTEN_FDS": "1"}, "-b 127.0.0.1 -f raw x.raw", 1), ({"LISTEN_FDS": "1"}, "-L", 1),
                                            ({"LISTEN_FDS": "1"}, "-c /dev/x -f raw x.raw", 1)])
def test_socket_activation_that_cannot_be(place, env, args, fds):
    results = []
    for exe in (reference("qemu-nbd"), alias(place, "qemu-nbd", "sterna-nbd")):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            s.listen(1)
            dup = " ".join(f"{3 + i}<&{s.fileno()}" for i in range(fds)) or "3<&-"
            os.set_inheritable(s.fileno(), True)
            import subprocess
            p = subprocess.run(["bash", "-c", f"LISTEN_PID=$$ exec {exe} {args} {dup}"], cwd=place, env={**os.environ, "LC_ALL": "C", **env},
                               capture_output=True, text=True, close_fds=False, timeout=60)
        results.append((p.returncode, p.stderr.replace(exe, "qemu-nbd")))
    assert results[1] == results[0]
