# SPDX-License-Identifier: BSD-2-Clause
"""Guests that have booted already: the first test that asks for a machine boots it and saves its state into a file, the others load it.

The guest waits at the end of its boot for what it shall do. One state for each set of devices, size of memory and sizes of disks; they lie in
the build folder, below a name that changes with the program and with the guest.
"""
import contextlib, fcntl, hashlib, os, re, shutil, time

from vm import VM, VMError

# init makes a line of each ';' and a blank of each '+': both are made of octal numbers here
WAIT = "stty -echo;echo BOOTED;read -r r;stty echo;echo GUEST-UP;echo \"$r\"|tr '\\073' '\\012' >/tmp/typed;. /tmp/typed"
FILE = re.compile(r"((?:filename|file)=)(/[^,]*)")
PORT = re.compile(",hostfwd=[^,]*")  # of the host, which the guest does not see


def size(path):
    """What the guest sees of an image, as text."""
    with open(path, "rb") as f:
        head = f.read(32)
    return "/" + str(int.from_bytes(head[24:32], "big") if head[:4] == b"QFI\xfb" else os.path.getsize(path))


def folder(binary, guest, build):
    """Where the states of this program and this guest are; those of others are removed."""
    named = hashlib.sha256()
    for path in (binary, os.path.join(guest, "Image"), os.path.join(guest, "sterna.ird")):
        at = os.stat(path)
        named.update(f"{path} {at.st_size} {at.st_mtime_ns} {WAIT}".encode())
    top, name = os.path.join(build, "booted"), named.hexdigest()[:16]
    os.makedirs(os.path.join(top, name), exist_ok=True)
    for other in set(os.listdir(top)) - {name}:
        shutil.rmtree(os.path.join(top, other), ignore_errors=True)
    return os.path.join(top, name)


@contextlib.contextmanager
def alone(path):
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def until(m, command, wanted):
    end = time.monotonic() + 120
    while (said := m.cmd(command)).get("status") != wanted:
        if said.get("status") == "failed" or time.monotonic() > end:
            raise VMError(f"{command}: {said}: {m.stderr()}")
        time.sleep(0.005)


def save(m, path):
    m.start()
    m.wait("^BOOTED", 600)
    m.cmd("migrate-set-parameters", max_bandwidth=0)
    m.cmd("migrate", uri=f"file:{path}.new")
    until(m, "query-migrate", "completed")
    m.quit()
    os.rename(f"{path}.new", path)


def booted(machines, build, guest, run, extra, mem, tmp, **kw):
    """A running machine whose guest has booted and does what `run` says. It is in the list `machines` as soon as it has to be ended."""
    binary = os.path.join(build, "sterna")
    seen = (PORT.sub("", FILE.sub(lambda f: f.group(1) + size(f.group(2)), x)) for x in extra)
    shape = hashlib.sha256(" ".join([str(mem), *seen]).encode()).hexdigest()[:16]
    path = os.path.join(folder(binary, guest, build), shape)
    with alone(path + ".lock"):
        if not os.path.exists(path):
            m = VM(binary, guest, WAIT, extra, mem=mem, tmp=tmp)
            try:
                save(m, path)
            finally:
                m.quit()
    m = VM(binary, guest, WAIT, (*extra, "-incoming", f"file:{path}"), mem=mem, tmp=tmp, **kw)
    machines.append(m)
    m.start()
    until(m, "query-status", "running")  # what is typed before that would be lost
    m.type(run.replace("+", " ") + "\n")
    return m
