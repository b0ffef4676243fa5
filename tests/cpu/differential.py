#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Random user-mode programs, executed by our interpreter and by QEMU's user emulation, must leave the same registers.

    differential.py RV_RUN [FIRST_SEED [PROGRAMS [INSTRUCTIONS]]]

One program is one seed: the same file for both. It uses every register but x2, which points at the data, and x3, its result
area; integer, M, A, B, C, F and D, with flags and rounding modes. Exits with 77 where a tool is missing.
"""
import os, random, shutil, struct, subprocess, sys, tempfile

GCC, QEMU = "riscv64-linux-gnu-gcc", "qemu-riscv64"
DATA = 2048  # bytes of memory that loads and stores reach
SPECIAL = [0, 1, 2, -1, -2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000,
           0x7fffffffffffffff, 0x8000000000000000, 0x5555555555555555, 0xaaaaaaaaaaaaaaaa]
DOUBLES = [0, 1 << 63, 0x3ff0000000000000, 0xbff0000000000000, 0x7ff0000000000000, 0xfff0000000000000,
           0x7ff8000000000000, 0x7ff0000000000001, 1, 0x000fffffffffffff, 0x0010000000000000, 0x7fefffffffffffff,
           0x43e0000000000000, 0xc3e0000000000000, 0x41dfffffffc00000, 0x41e0000000000000, 0x3fe0000000000000,
           0x4004000000000000, 0xbfe0000000000000, 0x3ca0000000000000, 0x434fffffffffffff]
SINGLES = [0, 0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 1, 0x007fffff,
           0x00800000, 0x7f7fffff, 0x4f000000, 0xcf000000, 0x5f000000, 0x3f000000, 0x40200000, 0xbfc00000, 0x33800000]
RR = """add sub sll slt sltu xor srl sra or and addw subw sllw srlw sraw mul mulh mulhsu mulhu div divu rem remu mulw divw
 divuw remw remuw sh1add sh2add sh3add add.uw sh1add.uw sh2add.uw sh3add.uw andn orn xnor min minu max maxu rol ror rolw
 rorw bclr bext binv bset""".split()
R1 = "clz ctz cpop clzw ctzw cpopw sext.b sext.h zext.h orc.b rev8".split()
IMM = "addi slti sltiu xori ori andi addiw".split()
SHIFT6 = "slli srli srai rori bclri bexti binvi bseti slli.uw".split()
SHIFT5 = "slliw srliw sraiw roriw".split()
LOADS = [("lb", 1), ("lbu", 1), ("lh", 2), ("lhu", 2), ("lw", 4), ("lwu", 4), ("ld", 8)]
STORES = [("sb", 1), ("sh", 2), ("sw", 4), ("sd", 8)]
AMOS = "amoswap amoadd amoxor amoand amoor amomin amomax amominu amomaxu".split()
BRANCHES = "beq bne blt bge bltu bgeu".split()
ROUND = ["rne", "rtz", "rdn", "rup", "rmm", "dyn"]


class Program:
    def __init__(self, seed, count):
        self.r = random.Random(seed)
        self.lines, self.label = [], 0
        while len(self.lines) < count:
            self.one()

    def emit(self, text):
        self.lines.append(text)

    def rd(self):  # any but the two pointers; x0 now and then
        return f"x{self.r.choice([n for n in range(32) if n not in (2, 3)])}"

    def rs(self):
        return f"x{self.r.choice([n for n in range(32) if n != 3])}"

    def f(self):
        return f"f{self.r.randrange(32)}"

    def rm(self):
        return self.r.choice(ROUND)

    def one(self):
        r = self.r
        kinds = [self.alu] * 10 + [self.mem] * 4 + [self.compressed] * 4 + [self.amo] * 1 + [self.branch] * 3 + \
                [self.fp] * 10 + [self.fp_conv] * 4 + [self.fp_mem] * 2 + [self.fp_state] * 2 + [self.load_imm] * 3 + [self.pcrel] + [self.idiom] * 3
        r.choice(kinds)()

    def alu(self):
        r, k = self.r, self.r.randrange(5)
        if k == 0:
            op, reg = r.choice(R1), self.rd()
            if op == "ctzw":  # QEMU before 8.0 counts beyond a word of zeros: give it none
                reg = reg if reg != "x0" else "x1"
                self.emit(f"bseti {reg}, {reg}, 31")
            self.emit(f"{op} {self.rd()}, {reg}")
        elif k == 1:
            self.emit(f"{r.choice(IMM)} {self.rd()}, {self.rs()}, {r.randrange(-2048, 2048)}")
        elif k == 2:
            self.emit(f"{r.choice(SHIFT6)} {self.rd()}, {self.rs()}, {r.randrange(64)}")
        elif k == 3:
            self.emit(f"{r.choice(SHIFT5)} {self.rd()}, {self.rs()}, {r.randrange(32)}")
        else:
            self.emit(f"{r.choice(RR)} {self.rd()}, {self.rs()}, {self.rs()}")

    def load_imm(self):
        v = self.r.choice(SPECIAL) if self.r.random() < .6 else self.r.getrandbits(64)
        self.emit(f"li {self.rd()}, {v if v >= 0 else v + (1 << 64)}")

    def mem(self):
        r = self.r
        name, size = r.choice(LOADS if r.random() < .5 else STORES)
        off = r.randrange(0, DATA - 8)  # misaligned ones too
        if r.random() < .8:
            off -= off % size
        reg = self.rd() if name[0] == "l" else self.rs()
        self.emit(f"{name} {reg}, {off}(x2)")

    def compressed(self):
        r = self.r
        a, b = (f"x{r.randrange(8, 16)}" for _ in range(2))
        nz = self.rd()
        while nz == "x0":
            nz = self.rd()
        imm6, sh = r.choice([i for i in range(-32, 32) if i]), r.randrange(1, 64)
        self.emit(r.choice([
            f"c.addi {nz}, {imm6}", f"c.li {nz}, {imm6}", f"c.addiw {nz}, {imm6}", f"c.slli {nz}, {sh}",
            f"c.srli {a}, {sh}", f"c.srai {a}, {sh}", f"c.andi {a}, {imm6}", f"c.sub {a}, {b}", f"c.xor {a}, {b}",
            f"c.or {a}, {b}", f"c.and {a}, {b}", f"c.subw {a}, {b}", f"c.addw {a}, {b}", f"c.mv {nz}, {b}",
            f"c.add {nz}, {b}", f"c.lui {nz}, {r.choice([1, 31, 0xfffe1, 0xfffff])}",
            f"c.addi4spn {a}, x2, {4 * r.randrange(1, 256)}",
            f"c.lwsp {nz}, {4 * r.randrange(64)}(x2)", f"c.ldsp {nz}, {8 * r.randrange(64)}(x2)",
            f"c.swsp {self.rs()}, {4 * r.randrange(64)}(x2)", f"c.sdsp {self.rs()}, {8 * r.randrange(64)}(x2)",
            f"c.fldsp {self.f()}, {8 * r.randrange(64)}(x2)", f"c.fsdsp {self.f()}, {8 * r.randrange(64)}(x2)",
            f"mv {a}, x2\n    c.lw {b}, {4 * r.randrange(32)}({a})", f"mv {a}, x2\n    c.ld {b}, {8 * r.randrange(32)}({a})",
            f"mv {a}, x2\n    c.sw {b}, {4 * r.randrange(32)}({a})", f"mv {a}, x2\n    c.sd {b}, {8 * r.randrange(32)}({a})",
            f"mv {a}, x2\n    c.fld f{r.randrange(8, 16)}, {8 * r.randrange(32)}({a})",
            f"mv {a}, x2\n    c.fsd f{r.randrange(8, 16)}, {8 * r.randrange(32)}({a})"]))

    def amo(self):
        r, w = self.r, self.r.choice("wd")
        base = f"x{r.randrange(4, 32)}"
        self.emit(f"addi {base}, x2, {8 * r.randrange(DATA // 8 - 1) // 8 * 8}")
        if r.random() < .3:
            self.emit(f"lr.{w} {self.rd_not(base)}, ({base})")
            self.emit(f"sc.{w} {self.rd()}, {self.rs()}, ({base})")
        else:
            self.emit(f"{r.choice(AMOS)}.{w}{r.choice(['', '.aq', '.rl', '.aqrl'])} {self.rd()}, {self.rs()}, ({base})")

    def rd_not(self, reg):
        while True:
            x = self.rd()
            if x != reg:
                return x

    def branch(self):
        r, n = self.r, self.label
        self.label += 1
        k = r.randrange(5)
        if k == 0:
            self.emit(f"jal {self.rd()}, 9{n}f")
        elif k == 1:
            reg = f"x{r.randrange(4, 32)}"
            self.emit(f"la {reg}, L{n}\n    jalr {self.rd()}, {reg}, {r.choice([0, 1])}")
        elif k == 2:
            self.emit(f"c.{r.choice(['beqz', 'bnez'])} x{r.randrange(8, 16)}, L{n}")
        else:
            self.emit(f"{r.choice(BRANCHES)} {self.rs()}, {self.rs()}, L{n}")
        self.lines[-1] = self.lines[-1].replace(f"9{n}f", f"L{n}")
        for _ in range(r.randrange(1, 4)):
            self.alu()
        self.emit(f"L{n}:")

    def pcrel(self):
        self.emit(f"auipc {self.rd()}, {self.r.choice([0, 1, 0xfffff, 0x80000, 0x7ffff])}")

    def idiom(self):  # what the decoder joins or simplifies, and near misses of it
        r, a = self.r, self.rd()
        b = a if r.random() < .8 else self.rd()
        imm, up = r.randrange(-2048, 2048), r.choice([1, 0x7ffff, 0x80000, 0xfffff, r.randrange(1 << 20)])
        self.emit(r.choice([
            f"lui {a}, {up}\n    addi {b}, {a}, {imm}", f"lui {a}, {up}\n    addiw {b}, {a}, {imm}",
            f"auipc {a}, {up}\n    addi {b}, {a}, {imm}",
            f"slli {a}, {self.rs()}, {r.choice([32, 48, 63, 0, 1])}\n    srli {b}, {a}, {r.choice([32, 16, 63, 0, 5])}",
            f"addi {a}, {self.rs()}, 0", f"addi {a}, x0, {imm}", f"add {a}, x0, {self.rs()}", f"add {a}, {self.rs()}, x0",
            f"li {a}, {imm}\n    addiw {b}, {a}, {imm}", f"call L{self.label}\nL{self.label}:",
            f"beq {self.rs()}, x0, L{self.label}\n    addi {a}, {b}, 1\nL{self.label}:",
            f"bne x0, {self.rs()}, L{self.label}\n    addi {a}, {b}, 1\nL{self.label}:"]))
        self.label += 1

    def fp(self):
        r, s, k = self.r, self.r.choice("sd"), self.r.randrange(7)
        if k < 2:
            self.emit(f"f{r.choice(['add', 'sub', 'mul', 'div'])}.{s} {self.f()}, {self.f()}, {self.f()}, {self.rm()}")
        elif k == 2:
            self.emit(f"fsqrt.{s} {self.f()}, {self.f()}, {self.rm()}")
        elif k == 3:
            op = r.choice(["fmadd", "fmsub", "fnmsub", "fnmadd"])
            self.emit(f"{op}.{s} {self.f()}, {self.f()}, {self.f()}, {self.f()}, {self.rm()}")
        elif k == 4:
            op = r.choice(["fsgnj", "fsgnjn", "fsgnjx", "fmin", "fmax"])
            self.emit(f"{op}.{s} {self.f()}, {self.f()}, {self.f()}")
        elif k == 5:
            self.emit(f"{r.choice(['feq', 'flt', 'fle'])}.{s} {self.rd()}, {self.f()}, {self.f()}")
        else:
            self.emit(f"fclass.{s} {self.rd()}, {self.f()}")

    def fp_conv(self):
        r, s, i = self.r, self.r.choice("sd"), self.r.choice(["w", "wu", "l", "lu"])
        exact = s == "d" and i in ("w", "wu")
        self.emit(r.choice([
            f"fcvt.{i}.{s} {self.rd()}, {self.f()}, {self.rm()}",
            f"fcvt.{s}.{i} {self.f()}, {self.rs()}" + ("" if exact else f", {self.rm()}"),
            f"fcvt.s.d {self.f()}, {self.f()}, {self.rm()}", f"fcvt.d.s {self.f()}, {self.f()}",
            f"fmv.x.w {self.rd()}, {self.f()}", f"fmv.x.d {self.rd()}, {self.f()}",
            f"fmv.w.x {self.f()}, {self.rs()}", f"fmv.d.x {self.f()}, {self.rs()}"]))

    def fp_mem(self):
        r = self.r
        name, size = r.choice([("flw", 4), ("fsw", 4), ("fld", 8), ("fsd", 8)])
        # from the constants most of the time, so that arithmetic meets numbers
        off = r.randrange(0, DATA // 8 - 1) * 8 if name[1] == "s" else r.randrange(0, DATA - 8) // size * size
        self.emit(f"{name} {self.f()}, {off}(x2)")

    def fp_state(self):
        r = self.r
        self.emit(r.choice([f"csrr {self.rd()}, fflags", f"csrrw {self.rd()}, fflags, {self.rs()}", f"csrr {self.rd()}, fcsr",
                            f"csrrwi {self.rd()}, frm, {r.randrange(5)}", f"csrrsi {self.rd()}, fflags, {r.randrange(32)}"]))

    def text(self):
        r = self.r
        regs = [r.choice(SPECIAL) & (2**64 - 1) if r.random() < .5 else r.getrandbits(64) for _ in range(32)]

        def fp_bits():
            k = r.randrange(6)
            return [r.choice(DOUBLES), r.choice(SINGLES) | 0xffffffff << 32, r.getrandbits(64),
                    struct.unpack("<Q", struct.pack("<d", r.uniform(-1000, 1000)))[0],
                    struct.unpack("<I", struct.pack("<f", r.uniform(-1000, 1000)))[0] | 0xffffffff << 32,
                    (0x3ff + r.randrange(-60, 60)) << 52 | r.getrandbits(52)][k]

        def quads(values):
            return "\n".join(f"    .quad {v:#x}" for v in values)
        load = "\n".join(f"    ld x{i}, {8 * i}(x1)" for i in range(4, 32)) + "\n" + \
               "\n".join(f"    fld f{i}, {256 + 8 * i}(x1)" for i in range(32))
        save = "\n".join(f"    sd x{i}, {8 * i}(x3)" for i in range(32) if i not in (2, 3)) + "\n" + \
               "\n".join(f"    fsd f{i}, {256 + 8 * i}(x3)" for i in range(32))
        body = "\n".join("    " + x if not x.endswith(":") else x for x in self.lines)
        return f"""    .text
    .globl _start
_start:
    la x1, init
{load}
    la x2, data
    la x3, result
    ld x1, 8(x1)
    csrwi fcsr, 0
{body}
{save}
    csrr x5, fcsr
    sd x5, 16(x3)
    li a0, 1
    mv a1, x3
    li a2, {512 + DATA}
    li a7, 64
    ecall
    li a0, 0
    li a7, 93
    ecall
    li a0, 0
    li a1, 0
    li a6, 0
    li a7, 0x53525354
    ecall
1:  j 1b
    .data
    .balign 16
init:
{quads(regs)}
{quads([fp_bits() for _ in range(32)])}
    .balign 4096
result:
    .skip 512
data:
{quads([fp_bits() for _ in range(DATA // 8)])}
"""


def run_one(rv_run, seed, count, folder):
    src, elf = os.path.join(folder, "p.S"), os.path.join(folder, "p")
    with open(src, "w") as f:
        f.write(Program(seed, count).text())
    subprocess.run([GCC, "-nostdlib", "-static", "-march=rv64gc_zba_zbb_zbs", "-mabi=lp64d", "-Wl,--build-id=none",
                    "-Wl,-Ttext=0x80200000,-Tdata=0x80400000", "-Wl,--no-relax", "-o", elf, src], check=True)
    want = subprocess.run([QEMU, elf], stdout=subprocess.PIPE, check=True).stdout
    got = subprocess.run([rv_run, "-s", "-d", f"{find_result(elf):#x},{512 + DATA}", elf], stdout=subprocess.PIPE, check=True).stdout
    if got == want:
        return True
    names = [f"x{i}" if i != 2 else "fcsr" for i in range(32)] + [f"f{i}" for i in range(32)]
    for i in range(0, min(len(want), len(got)), 8):
        w, g = struct.unpack_from("<Q", want, i)[0], struct.unpack_from("<Q", got, i)[0]
        if w != g:
            print(f"seed {seed}: {names[i // 8] if i < 512 else f'memory +{i - 512}'} is {g:#x}, QEMU has {w:#x}")
    return False


def find_result(elf):
    out = subprocess.run(["riscv64-linux-gnu-nm", elf], stdout=subprocess.PIPE, text=True, check=True).stdout
    return next(int(x.split()[0], 16) for x in out.splitlines() if x.endswith(" result"))


def main():
    if not shutil.which(GCC) or not shutil.which(QEMU):
        print("skipped: needs riscv64-linux-gnu-gcc and qemu-riscv64")
        return 77
    rv_run, args = sys.argv[1], [int(x) for x in sys.argv[2:]]
    first, programs, count = (args + [1, 6, 4000][len(args):])
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + programs):
            bad += not run_one(rv_run, seed, count, folder)
    print(f"{programs} programs of {count} instructions, {bad} differ")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
