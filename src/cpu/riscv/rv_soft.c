/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The host rounds to nearest even first. Where that is exact, or special, ties cannot matter and the host's answer
 * stands. Otherwise every operand is finite and the exact result is computed in integers, sign * man * 2^exp with 256
 * bits of mantissa and a sticky bit, and rounded here.
 */
#include "cpu/riscv/rv_soft.h"

#include <fenv.h>
#include <string.h>

typedef unsigned __int128 u128;

struct wide {
    u128 hi, lo;
};
struct exact {
    bool sign, sticky; /* sticky: the value lies a little above man, by less than one unit */
    int exp;
    struct wide man;
};
struct fp_type {
    int bits, emin, emax; /* precision with the leading one; exponents of the smallest and largest normal numbers */
};
static const struct fp_type single = {24, -126, 127}, dbl = {53, -1022, 1023};

static int length128(u128 v)
{
    uint64_t hi = (uint64_t)(v >> 64), lo = (uint64_t)v;
    return hi ? 128 - __builtin_clzll(hi) : lo ? 64 - __builtin_clzll(lo) : 0;
}
static int length(struct wide w)
{
    return w.hi ? 128 + length128(w.hi) : length128(w.lo);
}
static struct wide shl(struct wide w, int n)
{
    if (n >= 128) {
        return (struct wide){w.lo << (n - 128), 0};
    }
    return n ? (struct wide){w.hi << n | w.lo >> (128 - n), w.lo << n} : w;
}
static struct wide shr(struct wide w, int n)
{
    if (n >= 256) {
        return (struct wide){0, 0};
    }
    if (n >= 128) {
        return (struct wide){0, w.hi >> (n - 128)};
    }
    return n ? (struct wide){w.hi >> n, w.lo >> n | w.hi << (128 - n)} : w;
}
/* Whether any of the lowest n bits is set. */
static bool any_below(struct wide w, int n)
{
    if (n >= 256) {
        return w.hi || w.lo;
    }
    struct wide back = shl(shr(w, n), n);
    return n > 0 && (back.hi != w.hi || back.lo != w.lo);
}
static struct wide sub(struct wide a, struct wide b)
{
    return (struct wide){a.hi - b.hi - (a.lo < b.lo), a.lo - b.lo};
}
static struct wide add(struct wide a, struct wide b)
{
    u128 lo = a.lo + b.lo;
    return (struct wide){a.hi + b.hi + (lo < a.lo), lo};
}
static bool less(struct wide a, struct wide b)
{
    return a.hi != b.hi ? a.hi < b.hi : a.lo < b.lo;
}

/* --- registers --- */

static struct exact unpack(uint64_t v, bool is_single)
{
    struct exact x = {0};
    if (is_single) {
        uint32_t u = (uint32_t)v, e = u >> 23 & 0xff, m = u & 0x7fffff;
        x.sign = u >> 31;
        x.man.lo = e ? m | 1u << 23 : m;
        x.exp = (e ? (int)e : 1) - 127 - 23;
    } else {
        uint64_t e = v >> 52 & 0x7ff, m = v & ((1ull << 52) - 1);
        x.sign = v >> 63;
        x.man.lo = e ? m | 1ull << 52 : m;
        x.exp = (e ? (int)e : 1) - 1023 - 52;
    }
    return x;
}

static uint64_t pack(uint64_t man, int exp, bool sign, const struct fp_type *t)
{
    /* exp: of the last bit of man */
    uint64_t biased = man >> (t->bits - 1) ? (uint64_t)(exp + t->bits - 1 + t->emax) : 0;
    uint64_t field = man & ((1ull << (t->bits - 1)) - 1);
    if (t->bits == 24) {
        return 0xffffffff00000000ull | (uint64_t)sign << 31 | biased << 23 | field;
    }
    return (uint64_t)sign << 63 | biased << 52 | field;
}

/* x.man is not zero and the value not representable: always inexact. */
static uint64_t round_away(struct rv_hart *h, struct exact x, const struct fp_type *t)
{
    int n = length(x.man), top = x.exp + n - 1, fine = n - t->bits, coarse = t->emin - t->bits + 1 - x.exp;
    int drop = fine > coarse ? fine : coarse;
    h->fflags |= RV_NX;
    if (drop <= 0) { /* the sticky bit alone is lost */
        return pack((uint64_t)shl(x.man, -drop).lo, x.exp + drop, x.sign, t);
    }
    uint64_t man = (uint64_t)shr(x.man, drop).lo + (shr(x.man, drop - 1).lo & 1);
    int exp = x.exp + drop;
    if (man >> t->bits) {
        man >>= 1;
        exp++;
    }
    if (top < t->emin) {
        /* tiny, unless rounding to full precision would have reached the smallest normal number */
        uint64_t full = fine > 0 ? (uint64_t)shr(x.man, fine).lo + (shr(x.man, fine - 1).lo & 1) : 0;
        h->fflags |= top == t->emin - 1 && full >> t->bits ? 0 : RV_UF;
    }
    if (exp + t->bits - 1 > t->emax) {
        h->fflags |= RV_OF;
        return pack(1ull << (t->bits - 1), t->emax + 1 - (t->bits - 1), x.sign, t);
    }
    return pack(man, exp, x.sign, t);
}

/* --- operations --- */

/* a * b + c */
static struct exact fused(struct exact a, struct exact b, struct exact c)
{
    struct exact p = {.sign = a.sign ^ b.sign, .exp = a.exp + b.exp, .man.lo = a.man.lo * b.man.lo};
    if (!c.man.lo || !p.man.lo) {
        return c.man.lo ? c : p;
    }
    /* both to the top of 250 bits, then the smaller down to the other's exponent */
    struct exact *big = &p, *small = &c;
    for (int i = 0; i < 2; i++) {
        struct exact *x = i ? &c : &p;
        int up = 250 - length(x->man);
        x->man = shl(x->man, up);
        x->exp -= up;
    }
    if (c.exp > p.exp || (c.exp == p.exp && less(p.man, c.man))) {
        big = &c;
        small = &p;
    }
    int down = big->exp - small->exp;
    bool lost = any_below(small->man, down);
    struct wide m = shr(small->man, down);
    struct exact r = {.sign = big->sign, .exp = big->exp, .sticky = lost};
    if (big->sign == small->sign) {
        r.man = add(big->man, m);
    } else {
        r.man = sub(big->man, m);
        if (lost) {
            r.man = sub(r.man, (struct wide){0, 1});
        }
    }
    return r;
}

static struct exact divide(struct exact a, struct exact b)
{
    struct exact r = {.sign = a.sign ^ b.sign};
    int up = 126 - length128(a.man.lo);
    u128 n = a.man.lo << up;
    r.exp = a.exp - up - b.exp;
    r.man.lo = n / b.man.lo;
    r.sticky = n % b.man.lo != 0;
    return r;
}

static struct exact root(struct exact a)
{
    int up = 125 - length128(a.man.lo);
    up += (a.exp - up) & 1;
    u128 n = a.man.lo << up, r = 0;
    for (int bit = 63; bit >= 0; bit--) {
        u128 t = r | (u128)1 << bit;
        if (t * t <= n) {
            r = t;
        }
    }
    return (struct exact){.exp = (a.exp - up) / 2, .man.lo = r, .sticky = r * r != n};
}

static struct exact from_int(uint64_t v, bool is_signed)
{
    bool sign = is_signed && v >> 63;
    return (struct exact){.sign = sign, .man.lo = sign ? 0 - v : v};
}

enum kind { ADD, SUB, MUL, DIV, SQRT, MADD, MSUB, NMSUB, NMADD, NARROW, W, WU, L, LU };
static const struct op {
    rv_fp_fn *fn;
    enum kind kind;
    bool from_single, to_single;
} ops[] = {
    {rv_add_s, ADD, 1, 1},     {rv_sub_s, SUB, 1, 1},     {rv_mul_s, MUL, 1, 1},      {rv_div_s, DIV, 1, 1},
    {rv_sqrt_s, SQRT, 1, 1},   {rv_madd_s, MADD, 1, 1},   {rv_msub_s, MSUB, 1, 1},    {rv_nmsub_s, NMSUB, 1, 1},
    {rv_nmadd_s, NMADD, 1, 1}, {rv_add_d, ADD, 0, 0},     {rv_sub_d, SUB, 0, 0},      {rv_mul_d, MUL, 0, 0},
    {rv_div_d, DIV, 0, 0},     {rv_sqrt_d, SQRT, 0, 0},   {rv_madd_d, MADD, 0, 0},    {rv_msub_d, MSUB, 0, 0},
    {rv_nmsub_d, NMSUB, 0, 0}, {rv_nmadd_d, NMADD, 0, 0}, {rv_cvt_s_d, NARROW, 0, 1}, {rv_cvt_s_w, W, 0, 1},
    {rv_cvt_s_wu, WU, 0, 1},   {rv_cvt_s_l, L, 0, 1},     {rv_cvt_s_lu, LU, 0, 1},    {rv_cvt_d_l, L, 0, 0},
    {rv_cvt_d_lu, LU, 0, 0},
};

static struct exact compute(const struct op *op, const uint64_t v[3])
{
    struct exact a = unpack(v[0], op->from_single), b = unpack(v[1], op->from_single),
                 c = unpack(v[2], op->from_single);
    const struct exact one = {.man.lo = 1}, zero = {0};
    switch (op->kind) {
    case SUB:
        b.sign = !b.sign;
        return fused(a, one, b);
    case ADD:
        return fused(a, one, b);
    case MUL:
        return fused(a, b, zero);
    case DIV:
        return divide(a, b);
    case SQRT:
        return root(a);
    case MSUB:
    case NMSUB:
    case NMADD:
    case MADD:
        a.sign ^= op->kind == NMSUB || op->kind == NMADD;
        c.sign ^= op->kind == MSUB || op->kind == NMADD;
        return fused(a, b, c);
    case NARROW:
        return a;
    case W:
        return from_int((uint64_t)(int64_t)(int32_t)v[0], true);
    case WU:
        return from_int((uint32_t)v[0], false);
    case L:
        return from_int(v[0], true);
    default:
        return from_int(v[0], false);
    }
}

uint64_t rv_soft_away(struct rv_hart *h, rv_fp_fn *fn, const uint64_t v[3])
{
    unsigned before = rv_fp_flags(h);
    int mode = fegetround();
    rv_fp_set_flags(h, 0);
    fesetround(FE_TONEAREST);
    uint64_t r = fn(h, v[0], v[1], v[2]);
    fesetround(mode);
    unsigned flags = rv_fp_flags(h);
    for (unsigned i = 0; flags & RV_NX && i < sizeof(ops) / sizeof(ops[0]); i++) {
        if (ops[i].fn == fn) {
            rv_fp_set_flags(h, before);
            return round_away(h, compute(&ops[i], v), ops[i].to_single ? &single : &dbl);
        }
    }
    rv_fp_set_flags(h, before | flags);
    return r;
}
