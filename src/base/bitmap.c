/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/bitmap.h"

#include "base/checked.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

/*
 * level[0] holds the bits; bit i of level[k + 1] is set exactly when word i of level[k] is not zero. The top level is
 * one word. Words come from calloc and are not written needlessly: big empty maps stay unbacked.
 */
enum { LEVELS = 7 }; /* 64^7 > 2^40 */

struct bitmap {
    uint64_t bits;
    uint64_t count;
    unsigned levels;
    uint64_t *level[LEVELS];
};

static uint64_t mask_from(unsigned bit)
{
    return ~UINT64_C(0) << bit;
}

/* Bits 0 … bit, both included. */
static uint64_t mask_to(unsigned bit)
{
    return ~UINT64_C(0) >> (63 - bit);
}

/* The part of word w that lies in bits [first, last]. */
static uint64_t range_mask(uint64_t w, uint64_t first, uint64_t last)
{
    uint64_t m = ~UINT64_C(0);
    if (w == first / 64) {
        m &= mask_from(first % 64);
    }
    if (w == last / 64) {
        m &= mask_to(last % 64);
    }
    return m;
}

struct bitmap *bitmap_create(uint64_t bits)
{
    if (bits > UINT64_C(1) << 40) {
        return NULL;
    }
    struct bitmap *b = calloc(1, sizeof(*b));
    if (!b) {
        return NULL;
    }
    b->bits = bits;
    uint64_t n = bits;
    do {
        n = max_u64(div_round_up(n, 64), 1);
        b->level[b->levels] = calloc(n, sizeof(uint64_t));
        if (!b->level[b->levels++]) {
            bitmap_destroy(b);
            return NULL;
        }
    } while (n > 1);
    return b;
}

void bitmap_destroy(struct bitmap *b)
{
    if (!b) {
        return;
    }
    for (unsigned k = 0; k < b->levels; k++) {
        free(b->level[k]);
    }
    free(b);
}

uint64_t bitmap_bits(const struct bitmap *b)
{
    return b->bits;
}

uint64_t bitmap_count(const struct bitmap *b)
{
    return b->count;
}

bool bitmap_test(const struct bitmap *b, uint64_t bit)
{
    return bit < b->bits && (b->level[0][bit / 64] >> (bit % 64) & 1);
}

/* The first set bit of level k at or after `from`; UINT64_MAX when there is none. */
static uint64_t find_set(const struct bitmap *b, unsigned k, uint64_t from)
{
    /* Climb until a word has a bit at or after our place, then walk down its first bits. */
    uint64_t n = b->bits;
    for (unsigned i = 0; i < k; i++) {
        n = div_round_up(n, 64);
    }
    for (unsigned up = k; up < b->levels; up++) {
        if (from >= n) {
            return UINT64_MAX;
        }
        uint64_t v = b->level[up][from / 64] & mask_from(from % 64);
        if (v) {
            uint64_t at = (from & ~UINT64_C(63)) + (unsigned)__builtin_ctzll(v);
            while (up > k) {
                up--;
                at = at * 64 + (unsigned)__builtin_ctzll(b->level[up][at]);
            }
            return at;
        }
        from = from / 64 + 1;
        n = div_round_up(n, 64);
    }
    return UINT64_MAX;
}

/* Sets [first, last] of level k and, as all these words are non-zero now, their summaries. */
static void set_summaries(struct bitmap *b, unsigned k, uint64_t first, uint64_t last)
{
    for (; k < b->levels; k++) {
        bool changed = false;
        for (uint64_t w = first / 64; w <= last / 64; w++) {
            uint64_t v = b->level[k][w] | range_mask(w, first, last);
            changed |= v != b->level[k][w];
            b->level[k][w] = v;
        }
        if (!changed) {
            return;
        }
        first /= 64;
        last /= 64;
    }
}

uint64_t bitmap_set(struct bitmap *b, uint64_t first, uint64_t n)
{
    if (!n || !range_ok(first, n, b->bits)) {
        return 0;
    }
    uint64_t last = first + n - 1;
    uint64_t changed = 0;
    for (uint64_t w = first / 64; w <= last / 64; w++) {
        uint64_t new_bits = range_mask(w, first, last) & ~b->level[0][w];
        if (new_bits) {
            changed += (unsigned)__builtin_popcountll(new_bits);
            b->level[0][w] |= new_bits;
        }
    }
    if (changed) {
        set_summaries(b, 1, first / 64, last / 64);
        b->count += changed;
    }
    return changed;
}

/* Word `w` of level k - 1 became zero. */
static void clear_summary(struct bitmap *b, unsigned k, uint64_t w)
{
    for (; k < b->levels; k++) {
        b->level[k][w / 64] &= ~(UINT64_C(1) << (w % 64));
        if (b->level[k][w / 64]) {
            return;
        }
        w /= 64;
    }
}

uint64_t bitmap_clear(struct bitmap *b, uint64_t first, uint64_t n)
{
    if (!n || !range_ok(first, n, b->bits)) {
        return 0;
    }
    uint64_t last = first + n - 1;
    uint64_t changed = 0;
    uint64_t w = first / 64;
    while (b->count > changed) {
        if (!b->level[0][w]) {
            uint64_t at = find_set(b, 0, w * 64);
            if (at == UINT64_MAX) {
                break;
            }
            w = at / 64;
        }
        if (w > last / 64) {
            break;
        }
        uint64_t gone = range_mask(w, first, last) & b->level[0][w];
        changed += (unsigned)__builtin_popcountll(gone);
        b->level[0][w] &= ~gone;
        if (!b->level[0][w]) {
            clear_summary(b, 1, w);
        }
        if (w++ == last / 64) {
            break;
        }
    }
    b->count -= changed;
    return changed;
}

uint64_t bitmap_next_set(const struct bitmap *b, uint64_t from, uint64_t end)
{
    end = min_u64(end, b->bits);
    return from < end ? min_u64(find_set(b, 0, from), end) : end;
}

uint64_t bitmap_next_clear(const struct bitmap *b, uint64_t from, uint64_t end)
{
    end = min_u64(end, b->bits);
    if (from >= end) {
        return end;
    }
    uint64_t v = ~b->level[0][from / 64] & mask_from(from % 64);
    uint64_t w = from / 64;
    while (!v) {
        if (++w > (end - 1) / 64) {
            return end;
        }
        v = ~b->level[0][w];
    }
    return min_u64(w * 64 + (unsigned)__builtin_ctzll(v), end);
}

/* OR of one word that is known to fit. */
static void or_word(struct bitmap *dst, uint64_t w, uint64_t v)
{
    uint64_t fresh = v & ~dst->level[0][w];
    if (fresh) {
        dst->count += (unsigned)__builtin_popcountll(fresh);
        dst->level[0][w] |= fresh;
        set_summaries(dst, 1, w, w);
    }
}

uint64_t bitmap_word(const struct bitmap *b, uint64_t index)
{
    return index < div_round_up(b->bits, 64) ? b->level[0][index] : 0;
}

void bitmap_or_word(struct bitmap *b, uint64_t index, uint64_t word)
{
    if (index < div_round_up(b->bits, 64)) {
        or_word(b, index, word & range_mask(index, 0, b->bits - 1));
    }
}

static void or_words(struct bitmap *dst, const struct bitmap *src)
{
    for (uint64_t at = find_set(src, 0, 0); at < dst->bits; at = find_set(src, 0, (at / 64 + 1) * 64)) {
        uint64_t w = at / 64;
        or_word(dst, w, src->level[0][w] & range_mask(w, 0, dst->bits - 1));
    }
}

void bitmap_or(struct bitmap *dst, const struct bitmap *src)
{
    or_words(dst, src);
}

bool bitmap_resize(struct bitmap *b, uint64_t bits)
{
    struct bitmap *fresh = bitmap_create(bits);
    if (!fresh) {
        return false;
    }
    or_words(fresh, b);
    struct bitmap old = *b;
    *b = *fresh;
    *fresh = old;
    bitmap_destroy(fresh);
    return true;
}
