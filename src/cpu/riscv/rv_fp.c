/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * F and D on the host's FPU. Compiled with -frounding-math -ftrapping-math -ffp-contract=off, so that operations happen
 * once, where they stand. What the host cannot do (round to nearest, ties away) is in rv_soft.c.
 */
#include "cpu/riscv/rv_fp.h"
#include "cpu/riscv/rv_soft.h"

#include <fenv.h>
#include <math.h>
#include <string.h>

#define NAN_S   0x7fc00000u
#define NAN_D   0x7ff8000000000000ull
#define BOX(v)  (0xffffffff00000000ull | (uint32_t)(v))
#define SIGN_S  0x80000000u
#define SIGN_D  0x8000000000000000ull
#define QUIET_S 0x00400000u
#define QUIET_D 0x0008000000000000ull

static const int host_mode[4] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

static unsigned host_flags(void)
{
    int f = fetestexcept(FE_ALL_EXCEPT);
    return (f & FE_INEXACT ? RV_NX : 0) | (f & FE_UNDERFLOW ? RV_UF : 0) | (f & FE_OVERFLOW ? RV_OF : 0) |
           (f & FE_DIVBYZERO ? RV_DZ : 0) | (f & FE_INVALID ? RV_NV : 0);
}

void rv_fp_enter(struct rv_hart *h)
{
    feclearexcept(FE_ALL_EXCEPT);
    fesetround(host_mode[h->host_rm]);
}

void rv_fp_leave(struct rv_hart *h)
{
    h->fflags |= host_flags();
    fesetround(FE_TONEAREST);
}

unsigned rv_fp_flags(struct rv_hart *h)
{
    if (atomic_load_explicit(&h->in_guest, memory_order_relaxed)) {
        h->fflags |= host_flags();
    }
    return h->fflags;
}

void rv_fp_set_flags(struct rv_hart *h, unsigned flags)
{
    h->fflags = flags;
    if (atomic_load_explicit(&h->in_guest, memory_order_relaxed)) {
        feclearexcept(FE_ALL_EXCEPT);
    }
}

void rv_fp_set_frm(struct rv_hart *h, unsigned frm)
{
    h->frm = frm;
    h->host_rm = frm < 4 ? frm : 0;
    if (atomic_load_explicit(&h->in_guest, memory_order_relaxed)) {
        fesetround(host_mode[h->host_rm]);
    }
}

/* --- register images --- */

static inline uint32_t unbox(uint64_t v)
{
    return v >> 32 == 0xffffffff ? (uint32_t)v : NAN_S;
}
static inline float to_s(uint64_t v)
{
    uint32_t u = unbox(v);
    float f;
    memcpy(&f, &u, sizeof(f));
    return f;
}
static inline double to_d(uint64_t v)
{
    double d;
    memcpy(&d, &v, sizeof(d));
    return d;
}
static inline bool nan_s(uint32_t u)
{
    return (u & 0x7fffffff) > 0x7f800000;
}
static inline bool nan_d(uint64_t u)
{
    return (u & ~SIGN_D) > 0x7ff0000000000000ull;
}
static inline uint64_t from_s(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof(u));
    return BOX(nan_s(u) ? NAN_S : u);
}
static inline uint64_t from_d(double d)
{
    uint64_t u;
    memcpy(&u, &d, sizeof(u));
    return nan_d(u) ? NAN_D : u;
}
static bool signaling_s(uint32_t u)
{
    return nan_s(u) && !(u & QUIET_S);
}
static bool signaling_d(uint64_t u)
{
    return nan_d(u) && !(u & QUIET_D);
}

/* --- arithmetic --- */

#define BINARY(name, op)                                                                                               \
    uint64_t rv_##name##_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        return from_s(to_s(a) op to_s(b));                                                                             \
    }                                                                                                                  \
    uint64_t rv_##name##_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        return from_d(to_d(a) op to_d(b));                                                                             \
    }
BINARY(add, +)
BINARY(sub, -)
BINARY(mul, *)
BINARY(div, /)

uint64_t rv_sqrt_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return from_s(sqrtf(to_s(a)));
}
uint64_t rv_sqrt_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return from_d(sqrt(to_d(a)));
}

/* Infinity times zero is invalid whatever is added, even a quiet NaN: hosts differ there. */
static bool inf_by_zero(double a, double b)
{
    return (isinf(a) && b == 0) || (a == 0 && isinf(b));
}
static float fma_s(struct rv_hart *h, float a, float b, float c)
{
    if (isnan(c) && inf_by_zero((double)a, (double)b)) {
        h->fflags |= RV_NV;
    }
    return fmaf(a, b, c);
}
static double fma_d(struct rv_hart *h, double a, double b, double c)
{
    if (isnan(c) && inf_by_zero(a, b)) {
        h->fflags |= RV_NV;
    }
    return fma(a, b, c);
}

#define FMA(name, sa, sc)                                                                                              \
    uint64_t rv_##name##_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        return from_s(fma_s(h, sa to_s(a), to_s(b), sc to_s(c)));                                                      \
    }                                                                                                                  \
    uint64_t rv_##name##_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        return from_d(fma_d(h, sa to_d(a), to_d(b), sc to_d(c)));                                                      \
    }
FMA(madd, , )
FMA(msub, , -)
FMA(nmsub, -, )
FMA(nmadd, -, -)

uint64_t rv_cvt_s_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return from_s((float)to_d(a));
}
uint64_t rv_cvt_d_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return from_d((double)to_s(a));
}

#define FROM_INT(name, type, fp, box)                                                                                  \
    uint64_t rv_cvt_##name(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        return box((fp)(type)a);                                                                                       \
    }
FROM_INT(s_w, int32_t, float, from_s)
FROM_INT(s_l, int64_t, float, from_s)
FROM_INT(s_wu, uint32_t, float, from_s)
FROM_INT(d_w, int32_t, double, from_d)
FROM_INT(d_wu, uint32_t, double, from_d)
FROM_INT(d_l, int64_t, double, from_d)

/* Hosts without an unsigned 64-bit conversion halve and double: do it with a sticky bit, which rounds right in every
 * mode; the compiler's own sequence does not. */
static uint64_t halved(uint64_t a)
{
    return a >> 1 | (a & 1);
}
uint64_t rv_cvt_s_lu(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return (int64_t)a >= 0 ? from_s((float)(int64_t)a) : from_s((float)(int64_t)halved(a) * 2.0f);
}
uint64_t rv_cvt_d_lu(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return (int64_t)a >= 0 ? from_d((double)(int64_t)a) : from_d((double)(int64_t)halved(a) * 2.0);
}

/* --- to integers, from the bits --- */

struct int_type {
    bool is_signed;
    unsigned bits;
};

static uint64_t saturate(struct rv_hart *h, bool negative, struct int_type t)
{
    h->fflags |= RV_NV;
    uint64_t max = t.is_signed ? (1ull << (t.bits - 1)) - 1 : t.bits == 64 ? ~0ull : 0xffffffffull;
    uint64_t v = negative ? (t.is_signed ? ~max : 0) : max;
    return t.bits == 32 ? (uint64_t)(int64_t)(int32_t)v : v;
}

/* Rounds mag + a fraction (half: the first bit below the point; sticky: any other). */
static uint64_t round_up(uint64_t mag, bool half, bool sticky, bool negative, unsigned rm)
{
    switch (rm) {
    case 0:
        return mag + (half && (sticky || mag & 1));
    case 2:
        return mag + (negative && (half || sticky));
    case 3:
        return mag + (!negative && (half || sticky));
    case 4:
        return mag + half;
    default:
        return mag;
    }
}

static uint64_t to_int(struct rv_hart *h, uint64_t v, unsigned rm, struct int_type t)
{
    bool negative = v >> 63;
    int exp = (int)(v >> 52 & 0x7ff) - 1023;
    uint64_t man = (v & ((1ull << 52) - 1)) | (exp > -1023 ? 1ull << 52 : 0), mag;
    bool half = false, sticky = false;
    if (nan_d(v)) {
        return saturate(h, false, t);
    }
    if (exp >= 64) {
        return saturate(h, negative, t);
    }
    if (exp >= 52) {
        mag = man << (exp - 52);
    } else if (exp >= -1) {
        unsigned drop = (unsigned)(52 - exp); /* 1..53 */
        mag = man >> drop;
        half = man >> (drop - 1) & 1;
        sticky = man & ((1ull << (drop - 1)) - 1);
    } else {
        mag = 0;
        sticky = man != 0;
    }
    uint64_t rounded = round_up(mag, half, sticky, negative, rm);
    uint64_t limit = t.is_signed    ? (1ull << (t.bits - 1)) - !negative
                     : negative     ? 0
                     : t.bits == 64 ? ~0ull
                                    : 0xffffffffull;
    if (rounded > limit) {
        return saturate(h, negative, t);
    }
    if (half || sticky) {
        h->fflags |= RV_NX;
    }
    uint64_t r = negative ? 0 - rounded : rounded;
    return t.bits == 32 ? (uint64_t)(int64_t)(int32_t)r : r;
}

/* A single as a double's bits, exactly and without flags. */
static uint64_t widen(uint64_t boxed)
{
    uint32_t u = unbox(boxed);
    if (nan_s(u)) {
        return NAN_D;
    }
    double d = (double)to_s(BOX(u));
    uint64_t r;
    memcpy(&r, &d, sizeof(r));
    return r;
}

#define TO_INT(name, is_signed_, bits_)                                                                                \
    uint64_t rv_cvt_##name##_d(struct rv_hart *h, uint64_t a, uint64_t rm, uint64_t c)                                 \
    {                                                                                                                  \
        return to_int(h, a, (unsigned)rm, (struct int_type){is_signed_, bits_});                                       \
    }                                                                                                                  \
    uint64_t rv_cvt_##name##_s(struct rv_hart *h, uint64_t a, uint64_t rm, uint64_t c)                                 \
    {                                                                                                                  \
        return to_int(h, widen(a), (unsigned)rm, (struct int_type){is_signed_, bits_});                                \
    }
TO_INT(w, true, 32)
TO_INT(wu, false, 32)
TO_INT(l, true, 64)
TO_INT(lu, false, 64)

/* --- comparisons and moves, from the bits --- */

/* Maps a number to an integer with the same order; both zeros to 0. */
static int64_t order_d(uint64_t u)
{
    return u >> 63 ? -(int64_t)(u & ~SIGN_D) : (int64_t)u;
}
static int64_t order_s(uint32_t u)
{
    return u >> 31 ? -(int64_t)(u & 0x7fffffff) : (int64_t)u;
}

#define COMPARE(name, op, quiet)                                                                                       \
    uint64_t rv_##name##_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        uint32_t x = unbox(a), y = unbox(b);                                                                           \
        if (nan_s(x) || nan_s(y)) {                                                                                    \
            h->fflags |= !(quiet) || signaling_s(x) || signaling_s(y) ? RV_NV : 0;                                     \
            return 0;                                                                                                  \
        }                                                                                                              \
        return order_s(x) op order_s(y);                                                                               \
    }                                                                                                                  \
    uint64_t rv_##name##_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        if (nan_d(a) || nan_d(b)) {                                                                                    \
            h->fflags |= !(quiet) || signaling_d(a) || signaling_d(b) ? RV_NV : 0;                                     \
            return 0;                                                                                                  \
        }                                                                                                              \
        return order_d(a) op order_d(b);                                                                               \
    }
COMPARE(eq, ==, true)
COMPARE(lt, <, false)
COMPARE(le, <=, false)

/* -0 is less than +0 here; a NaN loses to a number. */
#define MINMAX(name, op)                                                                                               \
    uint64_t rv_##name##_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        uint32_t x = unbox(a), y = unbox(b);                                                                           \
        h->fflags |= signaling_s(x) || signaling_s(y) ? RV_NV : 0;                                                     \
        if (nan_s(x) || nan_s(y)) {                                                                                    \
            return BOX(nan_s(x) ? (nan_s(y) ? NAN_S : y) : x);                                                         \
        }                                                                                                              \
        return BOX(order_s(x) - (int64_t)(x >> 31) op order_s(y) - (int64_t)(y >> 31) ? x : y);                        \
    }                                                                                                                  \
    uint64_t rv_##name##_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)                                      \
    {                                                                                                                  \
        h->fflags |= signaling_d(a) || signaling_d(b) ? RV_NV : 0;                                                     \
        if (nan_d(a) || nan_d(b)) {                                                                                    \
            return nan_d(a) ? (nan_d(b) ? NAN_D : b) : a;                                                              \
        }                                                                                                              \
        return order_d(a) - (int64_t)(a >> 63) op order_d(b) - (int64_t)(b >> 63) ? a : b;                             \
    }
MINMAX(min, <)
MINMAX(max, >)

static uint64_t classify(bool neg, unsigned kind)
{
    /* kind: 0 infinite, 1 normal, 2 subnormal, 3 zero */
    return 1ull << (neg ? kind : 7 - kind);
}
uint64_t rv_class_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    uint32_t u = unbox(a), exp = u >> 23 & 0xff, man = u & 0x7fffff;
    if (nan_s(u)) {
        return signaling_s(u) ? 1u << 8 : 1u << 9;
    }
    return classify(u >> 31, exp == 0xff ? 0 : exp ? 1 : man ? 2 : 3);
}
uint64_t rv_class_d(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t exp = a >> 52 & 0x7ff, man = a & ((1ull << 52) - 1);
    if (nan_d(a)) {
        return signaling_d(a) ? 1u << 8 : 1u << 9;
    }
    return classify(a >> 63, exp == 0x7ff ? 0 : exp ? 1 : man ? 2 : 3);
}

uint64_t rv_sgnj_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return BOX((unbox(a) & ~SIGN_S) | (unbox(b) & SIGN_S));
}
uint64_t rv_sgnjn_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return BOX((unbox(a) & ~SIGN_S) | (~unbox(b) & SIGN_S));
}
uint64_t rv_sgnjx_s(struct rv_hart *h, uint64_t a, uint64_t b, uint64_t c)
{
    return BOX(unbox(a) ^ (unbox(b) & SIGN_S));
}

/* --- other rounding modes than the host's current one --- */

uint64_t rv_fp_rounded(struct rv_hart *h, rv_fp_fn *fn, const uint64_t v[3], unsigned rm)
{
    if (rm == 4) {
        return rv_soft_away(h, fn, v);
    }
    fesetround(host_mode[rm]);
    uint64_t r = fn(h, v[0], v[1], v[2]);
    fesetround(host_mode[h->host_rm]);
    return r;
}
