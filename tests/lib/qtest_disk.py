# SPDX-License-Identifier: BSD-2-Clause
"""A virtio-blk-device driven through qtest, in place of a guest."""
import struct, time

RAM = 0x80100000
SPACE = 0x80000  # of each disk, for its queue and its data


class Disk:
    """virtio-blk-device, the index-th from the lowest address on; one queue of 8, one request at a time."""

    def __init__(self, machine, index=0):
        self.m, self.count = machine, 0
        ram = RAM + index * SPACE
        self.desc, self.avail, self.used, self.head, self.data, self.status = (ram + o for o in (0, 0x1000, 0x2000, 0x3000, 0x4000, 0x3100))
        self.base = [a for a in range(0x10001000, 0x10009000, 0x1000) if self.read(a + 8) == 2][index]
        for status in (0, 1, 3):
            self.reg(0x70, status)
        self.reg(0x24, 1)
        self.reg(0x20, 1)  # VIRTIO_F_VERSION_1
        self.reg(0x24, 0)
        self.reg(0x20, 1 << 9)  # flush
        self.reg(0x70, 11)
        self.reg(0x30, 0)
        self.reg(0x38, 8)
        for reg, where in ((0x80, self.desc), (0x90, self.avail), (0xa0, self.used)):
            self.reg(reg, where)
            self.reg(reg + 4, 0)
        self.put(self.avail, bytes(64))
        self.put(self.used, bytes(128))
        self.reg(0x44, 1)
        self.reg(0x70, 15)

    def read(self, addr):
        return int(self.m.ask(f"readl {addr:#x}").split()[1], 16)

    def reg(self, off, value):
        assert self.m.ask(f"writel {self.base + off:#x} {value:#x}") == "OK"

    def put(self, addr, data):
        assert self.m.ask(f"write {addr:#x} {len(data):#x} 0x{data.hex()}") == "OK"

    def get(self, addr, n):
        return bytes.fromhex(self.m.ask(f"read {addr:#x} {n:#x}").split()[1][2:])

    def request(self, kind, sector, buffers):
        """buffers: (address, length, written by the device)."""
        self.submit(kind, sector, buffers)
        return self.answer()

    def submit(self, kind, sector, buffers):
        self.put(self.head, struct.pack("<IIQ", kind, 0, sector))
        chain = [(self.head, 16, 0), *buffers, (self.status, 1, 2)]
        for i, (addr, n, flags) in enumerate(chain):
            more = i + 1 < len(chain)
            self.put(self.desc + 16 * i, struct.pack("<QIHH", addr, n, flags | more, i + 1 if more else 0))
        self.put(self.status, b"\xff")
        self.put(self.avail + 4 + 2 * (self.count % 8), struct.pack("<H", 0))
        self.count += 1
        self.put(self.avail + 2, struct.pack("<H", self.count % 65536))
        self.reg(0x50, 0)

    def answered(self):
        return struct.unpack("<H", self.get(self.used + 2, 2))[0] == self.count % 65536

    def answer(self):
        end = time.monotonic() + 60
        while not self.answered():
            assert time.monotonic() < end, "no answer from the disk"
        return self.get(self.status, 1)[0]

    def write(self, off, data):
        self.put(self.data, data)
        return self.request(1, off // 512, [(self.data, len(data), 0)])

    def contents(self, off, n):
        assert self.request(0, off // 512, [(self.data, n, 2)]) == 0
        return self.get(self.data, n)

    def serial(self):
        assert self.request(8, 0, [(self.data, 20, 2)]) == 0
        return self.get(self.data, 20).rstrip(b"\0").decode()

    def flush(self):
        return self.request(4, 0, [])
