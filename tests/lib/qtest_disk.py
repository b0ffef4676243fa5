# SPDX-License-Identifier: BSD-2-Clause
"""A virtio-blk-device driven through qtest, in place of a guest."""
import struct, time

RAM = 0x80100000
DESC, AVAIL, USED, HEAD, DATA, STATUS = (RAM + o for o in (0, 0x1000, 0x2000, 0x3000, 0x4000, 0x3100))


class Disk:
    """virtio-blk-device, one queue of 8, one request at a time."""

    def __init__(self, machine):
        self.m, self.count = machine, 0
        self.base = next(a for a in range(0x10001000, 0x10009000, 0x1000) if self.read(a + 8) == 2)
        for status in (0, 1, 3):
            self.reg(0x70, status)
        self.reg(0x24, 1)
        self.reg(0x20, 1)  # VIRTIO_F_VERSION_1
        self.reg(0x24, 0)
        self.reg(0x20, 1 << 9)  # flush
        self.reg(0x70, 11)
        self.reg(0x30, 0)
        self.reg(0x38, 8)
        for reg, where in ((0x80, DESC), (0x90, AVAIL), (0xa0, USED)):
            self.reg(reg, where)
            self.reg(reg + 4, 0)
        self.put(AVAIL, bytes(64))
        self.put(USED, bytes(128))
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
        self.put(HEAD, struct.pack("<IIQ", kind, 0, sector))
        chain = [(HEAD, 16, 0), *buffers, (STATUS, 1, 2)]
        for i, (addr, n, flags) in enumerate(chain):
            more = i + 1 < len(chain)
            self.put(DESC + 16 * i, struct.pack("<QIHH", addr, n, flags | more, i + 1 if more else 0))
        self.put(STATUS, b"\xff")
        self.put(AVAIL + 4 + 2 * (self.count % 8), struct.pack("<H", 0))
        self.count += 1
        self.put(AVAIL + 2, struct.pack("<H", self.count % 65536))
        self.reg(0x50, 0)
        end = time.monotonic() + 10
        while struct.unpack("<H", self.get(USED + 2, 2))[0] != self.count % 65536:
            assert time.monotonic() < end, "no answer from the disk"
        return self.get(STATUS, 1)[0]

    def write(self, off, data):
        self.put(DATA, data)
        return self.request(1, off // 512, [(DATA, len(data), 0)])

    def contents(self, off, n):
        assert self.request(0, off // 512, [(DATA, n, 2)]) == 0
        return self.get(DATA, n)

    def flush(self):
        return self.request(4, 0, [])
