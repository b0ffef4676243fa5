# SPDX-License-Identifier: BSD-2-Clause
"""A qcow2 image as bytes, to be damaged where it hurts."""

COPIED, PLACE = 1 << 63, 0x00FFFFFFFFFFFE00


class Image:
    """The bytes of an image and where in them things are."""

    def __init__(self, path):
        with open(path, "rb") as f:
            self.b = bytearray(f.read())
        self.version, self.bits, self.l1, self.reftable = self.get4(4), self.get4(20), self.get(40), self.get(48)
        self.snapshots, self.cluster = self.get(64), 1 << self.bits
        self.order = self.get4(96) if self.version > 2 else 4
        self.extended = self.version > 2 and self.get(72) & 16
        self.entry_size = 16 if self.extended else 8

    def get(self, at):
        return int.from_bytes(self.b[at:at + 8], "big")

    def get4(self, at):
        return int.from_bytes(self.b[at:at + 4], "big")

    def put(self, at, value):
        self.b[at:at + 8] = value.to_bytes(8, "big")

    def put4(self, at, value):
        self.b[at:at + 4] = value.to_bytes(4, "big")

    def flip(self, at, bits):
        self.put(at, self.get(at) ^ bits)

    def l2(self):
        return self.get(self.l1) & PLACE

    def entry(self, guest):
        index, per_table = guest // self.cluster, self.cluster // self.entry_size
        return (self.get(self.l1 + index // per_table * 8) & PLACE) + index % per_table * self.entry_size

    def data(self, guest):
        return self.get(self.entry(guest)) & PLACE

    def block(self):
        return self.get(self.reftable)

    def count(self, place, value):
        width = (1 << self.order) // 8
        at = self.block() + (place >> self.bits) * width
        self.b[at:at + width] = value.to_bytes(width, "big")
