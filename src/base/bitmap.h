/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A bitmap of any length whose set bits are found quickly: one summary bit per 64-bit word, and a
 * summary of summaries, so that walking an empty 2^30-bit map touches a few cache lines.
 * Not thread-safe: the owner's thread only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct bitmap;

/* All clear. `bits` up to 2^40; NULL when memory is short. */
struct bitmap *bitmap_create(uint64_t bits);
void bitmap_destroy(struct bitmap *b);
uint64_t bitmap_bits(const struct bitmap *b);
/* Number of set bits; constant time. */
uint64_t bitmap_count(const struct bitmap *b);
bool bitmap_test(const struct bitmap *b, uint64_t bit);
/* [first, first + n) must lie within the map. Return how many bits changed. */
uint64_t bitmap_set(struct bitmap *b, uint64_t first, uint64_t n);
uint64_t bitmap_clear(struct bitmap *b, uint64_t first, uint64_t n);
/* The first set (clear) bit at or after `from` and below `end`; `end` when there is none. */
uint64_t bitmap_next_set(const struct bitmap *b, uint64_t from, uint64_t end);
uint64_t bitmap_next_clear(const struct bitmap *b, uint64_t from, uint64_t end);
/* The 64 bits from 64 * index on, the first of them lowest; those beyond the end are 0. */
uint64_t bitmap_word(const struct bitmap *b, uint64_t index);
/* Sets those of them that are set in `word`; what lies beyond the end is ignored. */
void bitmap_or_word(struct bitmap *b, uint64_t index, uint64_t word);
/* dst |= src; the same length. */
void bitmap_or(struct bitmap *dst, const struct bitmap *src);
/* New bits are clear; bits that are cut off are forgotten. False when memory is short: unchanged. */
bool bitmap_resize(struct bitmap *b, uint64_t bits);
