/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/zero.h"

#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

static uint64_t load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof(x));
    return x;
}

/* len >= 64; the last step overlaps the one before it. */
static bool is_zero_words(const uint8_t *p, size_t len)
{
    const uint8_t *last = p + len - 64;
    for (;; p += 64) {
        if (p > last) {
            p = last;
        }
        uint64_t a = load64(p) | load64(p + 8), b = load64(p + 16) | load64(p + 24);
        uint64_t c = load64(p + 32) | load64(p + 40), d = load64(p + 48) | load64(p + 56);
        if (a | b | c | d) {
            return false;
        }
        if (p == last) {
            return true;
        }
    }
}

#if defined(__x86_64__)
/* len >= 128. */
__attribute__((target("avx2"))) static bool is_zero_avx2(const uint8_t *p, size_t len)
{
    const uint8_t *last = p + len - 128;
    for (;; p += 128) {
        if (p > last) {
            p = last;
        }
        __m256i a = _mm256_loadu_si256((const __m256i *)(const void *)p);
        __m256i b = _mm256_loadu_si256((const __m256i *)(const void *)(p + 32));
        __m256i c = _mm256_loadu_si256((const __m256i *)(const void *)(p + 64));
        __m256i d = _mm256_loadu_si256((const __m256i *)(const void *)(p + 96));
        __m256i all = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
        if (!_mm256_testz_si256(all, all)) {
            return false;
        }
        if (p == last) {
            return true;
        }
    }
}

static bool is_zero_long(const uint8_t *p, size_t len)
{
    return __builtin_cpu_supports("avx2") ? is_zero_avx2(p, len) : is_zero_words(p, len);
}
#else
static bool is_zero_long(const uint8_t *p, size_t len)
{
    return is_zero_words(p, len);
}
#endif

bool buf_is_zero(const void *buf, size_t len)
{
    const uint8_t *p = buf;
    if (len >= 128) {
        /* Most data shows it at the beginning, which is to be had sooner than more; or at the end or in the middle. */
        if (load64(p) || p[len - 1] | p[len / 2]) {
            return false;
        }
        return is_zero_long(p, len);
    }
    if (len >= 64) {
        return is_zero_words(p, len);
    }
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++) {
        any |= p[i];
    }
    return !any;
}
