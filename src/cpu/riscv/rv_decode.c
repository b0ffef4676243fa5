/* SPDX-License-Identifier: BSD-2-Clause */
/* Guest code to decoded blocks. Compressed instructions (manual, chapter "C") become the word they stand for. */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_ops.h"

#include "base/endian.h"

#include <glib.h>

/* How the fields of a format go into struct rv_insn. X: rd is an x register; E: ends the block; M: has a rounding mode.
 */
enum format {
    F_U,   /* X; imm */
    F_UPC, /* X; imm relative to the block */
    F_J,   /* X E; target */
    F_JR,  /* X E; I immediate */
    F_BR,  /* E; rs2 in rd; target */
    F_LD,  /* X; I immediate */
    F_IM,
    F_ST,  /* rs2 in rd; S immediate */
    F_SH,  /* X; 6 bits */
    F_SHW, /* X; 5 bits */
    F_RR,  /* X; rs2 */
    F_NO,
    F_RAW,  /* imm: the word */
    F_SYS,  /* E; imm: the word */
    F_SYSR, /* X E; imm: the word */
    F_FLD,  /* f register; I immediate */
    F_FR,   /* f; rs2 */
    F_FRM,  /* f M; rs2 */
    F_FXM,  /* X M; rs2 */
    F_FR4,  /* f M; rs2, rs3 */
};

struct insn_desc {
    uint32_t mask, match;
    uint16_t op;
    uint8_t ext, fmt;
};

static const struct insn_desc insn_table[] = {
#define INSN(name, ext_, fmt_, mask_, match_, ...)                                                                     \
    {.mask = mask_, .match = match_, .op = RV_OP_##name, .ext = RV_##ext_, .fmt = F_##fmt_},
#define FUSED(name, ...)
#include "cpu/riscv/rv_insns.def"
#undef INSN
#undef FUSED
};
#define INSN_N (sizeof(insn_table) / sizeof(insn_table[0]))

/* Candidates per opcode and funct3, in the order of the table, ended by INSN_N. */
#define BUCKETS    256
#define BUCKET_MAX 80
struct rv_decoder {
    uint16_t bucket[BUCKETS][BUCKET_MAX];
};

static unsigned bucket_of(uint32_t w)
{
    return (w >> 2 & 31) << 3 | (w >> 12 & 7);
}

struct rv_decoder *rv_decoder_create(const struct rv_model *m)
{
    struct rv_decoder *d = g_new0(struct rv_decoder, 1);
    for (unsigned b = 0; b < BUCKETS; b++) {
        uint32_t word = (b >> 3) << 2 | 3 | (b & 7) << 12;
        unsigned n = 0;
        for (unsigned i = 0; i < INSN_N && n < BUCKET_MAX - 1; i++) {
            const struct insn_desc *t = &insn_table[i];
            if (((t->match ^ word) & t->mask & 0x707f) == 0 && (m->exts >> t->ext & 1)) {
                d->bucket[b][n++] = (uint16_t)i;
            }
        }
        d->bucket[b][n] = INSN_N;
    }
    return d;
}

void rv_decoder_destroy(struct rv_decoder *d)
{
    g_free(d);
}

static inline uint32_t bits(uint32_t v, unsigned hi, unsigned lo)
{
    return v >> lo & ((2u << (hi - lo)) - 1);
}

/* --- compressed --- */

static uint32_t enc_i(unsigned op, unsigned f3, unsigned rd, unsigned rs1, int32_t imm)
{
    return op | rd << 7 | f3 << 12 | rs1 << 15 | (uint32_t)imm << 20;
}
static uint32_t enc_s(unsigned op, unsigned f3, unsigned rs1, unsigned rs2, uint32_t imm)
{
    return op | bits(imm, 4, 0) << 7 | f3 << 12 | rs1 << 15 | rs2 << 20 | bits(imm, 11, 5) << 25;
}
static uint32_t enc_r(uint32_t base, unsigned rd, unsigned rs1, unsigned rs2)
{
    return base | rd << 7 | rs1 << 15 | rs2 << 20;
}
static uint32_t enc_b(unsigned f3, unsigned rs1, uint32_t imm)
{
    return 0x63 | f3 << 12 | rs1 << 15 | bits(imm, 11, 11) << 7 | bits(imm, 4, 1) << 8 | bits(imm, 10, 5) << 25 |
           bits(imm, 12, 12) << 31;
}
static uint32_t enc_j(unsigned rd, uint32_t imm)
{
    return 0x6f | rd << 7 | bits(imm, 19, 12) << 12 | bits(imm, 11, 11) << 20 | bits(imm, 10, 1) << 21 |
           bits(imm, 20, 20) << 31;
}

static int32_t sext(uint32_t v, unsigned width)
{
    return (int32_t)(v << (32 - width)) >> (32 - width);
}

static uint32_t expand_q0(uint32_t c)
{
    unsigned rd = 8 + bits(c, 4, 2), rs1 = 8 + bits(c, 9, 7);
    uint32_t w = bits(c, 12, 10) << 3 | bits(c, 6, 6) << 2 | bits(c, 5, 5) << 6;
    uint32_t d = bits(c, 12, 10) << 3 | bits(c, 6, 5) << 6;
    switch (c >> 13) {
    case 0: {
        uint32_t imm = bits(c, 12, 11) << 4 | bits(c, 10, 7) << 6 | bits(c, 6, 6) << 2 | bits(c, 5, 5) << 3;
        return imm ? enc_i(0x13, 0, rd, 2, (int32_t)imm) : 0;
    }
    case 1:
        return enc_i(0x07, 3, rd, rs1, (int32_t)d);
    case 2:
        return enc_i(0x03, 2, rd, rs1, (int32_t)w);
    case 3:
        return enc_i(0x03, 3, rd, rs1, (int32_t)d);
    case 5:
        return enc_s(0x27, 3, rs1, rd, d);
    case 6:
        return enc_s(0x23, 2, rs1, rd, w);
    case 7:
        return enc_s(0x23, 3, rs1, rd, d);
    default:
        return 0;
    }
}

static uint32_t expand_alu(uint32_t c)
{
    static const uint32_t rr[8] = {0x40000033, 0x00004033, 0x00006033, 0x00007033, 0x4000003b, 0x0000003b, 0, 0};
    unsigned rd = 8 + bits(c, 9, 7), rs2 = 8 + bits(c, 4, 2);
    uint32_t sh = bits(c, 12, 12) << 5 | bits(c, 6, 2);
    switch (bits(c, 11, 10)) {
    case 0:
        return enc_i(0x13, 5, rd, rd, (int32_t)sh);
    case 1:
        return enc_i(0x13, 5, rd, rd, (int32_t)(sh | 0x400));
    case 2:
        return enc_i(0x13, 7, rd, rd, sext(sh, 6));
    default: {
        uint32_t base = rr[bits(c, 12, 12) << 2 | bits(c, 6, 5)];
        return base ? enc_r(base, rd, rd, rs2) : 0;
    }
    }
}

static uint32_t expand_q1(uint32_t c)
{
    unsigned rd = bits(c, 11, 7);
    int32_t imm = sext(bits(c, 12, 12) << 5 | bits(c, 6, 2), 6);
    switch (c >> 13) {
    case 0:
        return enc_i(0x13, 0, rd, rd, imm);
    case 1:
        return rd ? enc_i(0x1b, 0, rd, rd, imm) : 0;
    case 2:
        return enc_i(0x13, 0, rd, 0, imm);
    case 3:
        if (rd == 2) {
            int32_t sp = sext(bits(c, 12, 12) << 9 | bits(c, 6, 6) << 4 | bits(c, 5, 5) << 6 | bits(c, 4, 3) << 7 |
                                  bits(c, 2, 2) << 5,
                              10);
            return sp ? enc_i(0x13, 0, 2, 2, sp) : 0;
        }
        return imm ? 0x37 | rd << 7 | (uint32_t)imm << 12 : 0;
    case 4:
        return expand_alu(c);
    case 5:
        return enc_j(0, (uint32_t)sext(bits(c, 12, 12) << 11 | bits(c, 11, 11) << 4 | bits(c, 10, 9) << 8 |
                                           bits(c, 8, 8) << 10 | bits(c, 7, 7) << 6 | bits(c, 6, 6) << 7 |
                                           bits(c, 5, 3) << 1 | bits(c, 2, 2) << 5,
                                       12));
    default:
        return enc_b(c >> 13 & 1, 8 + bits(c, 9, 7),
                     (uint32_t)sext(bits(c, 12, 12) << 8 | bits(c, 11, 10) << 3 | bits(c, 6, 5) << 6 |
                                        bits(c, 4, 3) << 1 | bits(c, 2, 2) << 5,
                                    9));
    }
}

static uint32_t expand_q2(uint32_t c)
{
    unsigned rd = bits(c, 11, 7), rs2 = bits(c, 6, 2);
    uint32_t ld = bits(c, 12, 12) << 5 | bits(c, 6, 5) << 3 | bits(c, 4, 2) << 6;
    uint32_t sd = bits(c, 12, 10) << 3 | bits(c, 9, 7) << 6;
    switch (c >> 13) {
    case 0:
        return enc_i(0x13, 1, rd, rd, (int32_t)(bits(c, 12, 12) << 5 | rs2));
    case 1:
        return enc_i(0x07, 3, rd, 2, (int32_t)ld);
    case 2: {
        uint32_t lw = bits(c, 12, 12) << 5 | bits(c, 6, 4) << 2 | bits(c, 3, 2) << 6;
        return rd ? enc_i(0x03, 2, rd, 2, (int32_t)lw) : 0;
    }
    case 3:
        return rd ? enc_i(0x03, 3, rd, 2, (int32_t)ld) : 0;
    case 4:
        if (!bits(c, 12, 12)) {
            return rs2 ? enc_r(0x33, rd, 0, rs2) : rd ? enc_i(0x67, 0, 0, rd, 0) : 0;
        }
        return rs2 ? enc_r(0x33, rd, rd, rs2) : rd ? enc_i(0x67, 0, 1, rd, 0) : 0x00100073;
    case 5:
        return enc_s(0x27, 3, 2, rs2, sd);
    case 6:
        return enc_s(0x23, 2, 2, rs2, bits(c, 12, 9) << 2 | bits(c, 8, 7) << 6);
    default:
        return enc_s(0x23, 3, 2, rs2, sd);
    }
}

/* The 32-bit instruction that c stands for; 0, which is no instruction, when it stands for none. */
static uint32_t expand(uint32_t c)
{
    switch (c & 3) {
    case 0:
        return expand_q0(c);
    case 1:
        return expand_q1(c);
    default:
        return expand_q2(c);
    }
}

/* --- 32-bit words --- */

static int32_t imm_i(uint32_t w)
{
    return (int32_t)w >> 20;
}
static int32_t imm_s(uint32_t w)
{
    return ((int32_t)w >> 25) * 32 + (int32_t)bits(w, 11, 7);
}
static int32_t imm_b(uint32_t w)
{
    return sext(bits(w, 31, 31) << 12 | bits(w, 7, 7) << 11 | bits(w, 30, 25) << 5 | bits(w, 11, 8) << 1, 13);
}
static int32_t imm_j(uint32_t w)
{
    return sext(bits(w, 31, 31) << 20 | bits(w, 19, 12) << 12 | bits(w, 20, 20) << 11 | bits(w, 30, 21) << 1, 21);
}

/* Fills i from w, which starts `rel` bytes into its block. Returns whether the block ends here. */
static bool decode_fields(struct rv_insn *i, uint32_t w, enum format fmt, int32_t rel)
{
    unsigned rd = bits(w, 11, 7), rs2 = bits(w, 24, 20);
    i->rd = (uint8_t)(rd ? rd : 32);
    i->rs1 = (uint8_t)bits(w, 19, 15);
    i->imm = 0;
    switch (fmt) {
    case F_U:
        i->imm = (int32_t)(w & 0xfffff000);
        return false;
    case F_UPC:
        i->imm = (int32_t)(w & 0xfffff000) + rel;
        return false;
    case F_J:
        i->imm = imm_j(w) + rel;
        return true;
    case F_JR:
        i->imm = imm_i(w);
        return true;
    case F_BR:
        i->rd = (uint8_t)rs2;
        i->imm = imm_b(w) + rel;
        return true;
    case F_LD:
    case F_IM:
        i->imm = imm_i(w);
        return false;
    case F_ST:
        i->rd = (uint8_t)rs2;
        i->imm = imm_s(w);
        return false;
    case F_SH:
        i->imm = (int32_t)bits(w, 25, 20);
        return false;
    case F_SHW:
        i->imm = (int32_t)rs2;
        return false;
    case F_FLD:
        i->rd = (uint8_t)rd;
        i->imm = imm_i(w);
        return false;
    case F_FR:
    case F_FRM:
    case F_FR4:
        i->rd = (uint8_t)rd;
        __attribute__((fallthrough));
    case F_FXM:
    case F_RR:
        i->rs2 = (uint8_t)rs2;
        i->rs3 = (uint8_t)bits(w, 31, 27);
        i->rm = (uint8_t)bits(w, 14, 12);
        return false;
    case F_NO:
        return false;
    case F_RAW:
        i->imm = (int32_t)w;
        return false;
    case F_SYS:
    case F_SYSR:
        i->imm = (int32_t)w;
        return true;
    }
    return true;
}

static bool rounding_ok(enum format fmt, uint32_t w)
{
    unsigned rm = bits(w, 14, 12);
    return !(fmt == F_FRM || fmt == F_FXM || fmt == F_FR4) || rm < 5 || rm == 7;
}

static bool decode_one(const struct rv_decoder *d, struct rv_insn *i, uint32_t w, int32_t rel)
{
    if ((w & 3) == 3) {
        for (const uint16_t *c = d->bucket[bucket_of(w)]; *c < INSN_N; c++) {
            const struct insn_desc *t = &insn_table[*c];
            if ((w & t->mask) == t->match && rounding_ok(t->fmt, w)) {
                i->op = t->op;
                return decode_fields(i, w, t->fmt, rel);
            }
        }
    }
    *i = (struct rv_insn){.op = RV_OP_illegal};
    return true;
}

/* --- pairs and special cases --- */

static bool is_x0(unsigned reg)
{
    return reg == 0 || reg == 32;
}

/* The same with less work: constants, moves, comparisons with zero. */
static void simplify(struct rv_insn *i)
{
    switch (i->op) {
    case RV_OP_addi:
        if (i->rs1 == 0) {
            i->op = RV_OP_lui;
        } else if (i->imm == 0) {
            i->op = RV_OP_mv;
        }
        break;
    case RV_OP_add:
        if (i->rs1 == 0 || i->rs2 == 0) {
            i->rs1 = i->rs1 ? i->rs1 : i->rs2;
            i->op = RV_OP_mv;
        }
        break;
    case RV_OP_beq:
    case RV_OP_bne:
        if (i->rd == 0) {
            i->op = i->op == RV_OP_beq ? RV_OP_beqz : RV_OP_bnez;
        }
        break;
    default:
        break;
    }
}

/* Joins b to a, which is `len` bytes long, where together they make a constant, an address, a call or a field. */
static bool fuse(struct rv_insn *a, const struct rv_insn *b, unsigned len)
{
    if (b->rs1 != a->rd || b->rd != a->rd || is_x0(a->rd)) {
        return false;
    }
    if (a->op == RV_OP_slli && b->op == RV_OP_srli) {
        a->rs2 = (uint8_t)a->imm;
        a->rs3 = (uint8_t)b->imm;
        a->op = a->rs2 == 32 && a->rs3 == 32 ? RV_OP_zext_w : RV_OP_shift_left_right;
        return true;
    }
    /* 4 bytes: so that insns_of() can tell a pair by its length */
    if ((a->op != RV_OP_lui && a->op != RV_OP_auipc) || len != 4) {
        return false;
    }
    int64_t sum = (int64_t)a->imm + b->imm;
    if (a->op == RV_OP_lui && b->op == RV_OP_addiw) {
        a->imm = (int32_t)sum;
        return true;
    }
    if (sum != (int32_t)sum) {
        return false;
    }
    if (b->op == RV_OP_addi) {
        a->imm = (int32_t)sum;
        return true;
    }
    if (a->op == RV_OP_auipc && b->op == RV_OP_jalr) {
        a->op = RV_OP_call;
        a->imm = (int32_t)(sum & ~1);
        return true;
    }
    return false;
}

static unsigned insns_of(const struct rv_block *b, unsigned i, const uint8_t *off)
{
    switch (b->insn[i].op) {
    case RV_OP_end:
        return 0;
    case RV_OP_call:
    case RV_OP_shift_left_right:
    case RV_OP_zext_w:
        return 2;
    default:
        break;
    }
    /* lui and auipc are one word unless they were joined to what followed */
    bool maybe = b->insn[i].op == RV_OP_lui || b->insn[i].op == RV_OP_auipc;
    unsigned next = i + 1u < b->n ? off[i + 1] : b->len / 2u;
    return maybe && next - off[i] > 2u ? 2 : 1;
}

unsigned rv_insn_count(const struct rv_block *b, unsigned n)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < n; i++) {
        sum += insns_of(b, i, rv_block_offsets(b));
    }
    return sum;
}

unsigned rv_decode(const struct rv_decoder *d, const uint8_t *code, unsigned avail, struct rv_block *b, uint8_t *off)
{
    unsigned n = 0, at = 0, count = 0;
    bool end = false;
    while (!end && n < RV_BLOCK_INSNS - 1 && at + 2 <= avail) {
        uint32_t w = load_le16(code + at);
        unsigned len = (w & 3) == 3 ? 4 : 2;
        if (at + len > avail) {
            break;
        }
        w = len == 4 ? load_le32(code + at) : expand(w);
        end = decode_one(d, &b->insn[n], w, (int32_t)at);
        if (!n || !fuse(&b->insn[n - 1], &b->insn[n], at - off[n - 1] * 2u)) {
            simplify(&b->insn[n]);
            off[n++] = (uint8_t)(at / 2);
        }
        count++;
        at += len;
    }
    if (count && !end) {
        b->insn[n] = (struct rv_insn){.op = RV_OP_end};
        off[n++] = (uint8_t)(at / 2);
    }
    b->n = (uint8_t)n;
    b->len = (uint16_t)at;
    b->icount = (uint8_t)count;
    return n;
}
