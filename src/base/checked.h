/* SPDX-License-Identifier: BSD-2-Clause */
/* Arithmetic on numbers that came from outside: every offset + length, every count x size. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* True and *out set when the result fits; false and *out undefined otherwise. */
static inline bool add_ok(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}
static inline bool mul_ok(uint64_t a, uint64_t b, uint64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
/* [off, off + len) lies within [0, limit). An empty range at the limit does. */
static inline bool range_ok(uint64_t off, uint64_t len, uint64_t limit)
{
    return off <= limit && len <= limit - off;
}
/* [a, a + alen) and [b, b + blen) share a byte. The sums must not wrap. */
static inline bool ranges_overlap(uint64_t a, uint64_t alen, uint64_t b, uint64_t blen)
{
    return a < b + blen && b < a + alen;
}
static inline bool is_pow2(uint64_t x)
{
    return x && !(x & (x - 1));
}
/* `align` is a power of two. round_up wraps for x near 2^64: check x first. */
static inline uint64_t round_down(uint64_t x, uint64_t align)
{
    return x & ~(align - 1);
}
static inline uint64_t round_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) & ~(align - 1);
}
static inline uint64_t div_round_up(uint64_t x, uint64_t d)
{
    return x / d + (x % d != 0);
}
static inline unsigned log2_floor(uint64_t x)
{
    return x ? 63u - (unsigned)__builtin_clzll(x) : 0;
}
static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}
