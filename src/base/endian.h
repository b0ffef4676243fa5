/* SPDX-License-Identifier: BSD-2-Clause */
/* Loads and stores of wire and disk integers at any alignment; no casts over packed buffers. */
#pragma once

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define ENDIAN_PAIR(bits)                                                                                              \
    static inline uint##bits##_t load_be##bits(const void *p)                                                          \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        memcpy(&v, p, sizeof(v));                                                                                      \
        return be##bits##toh(v);                                                                                       \
    }                                                                                                                  \
    static inline uint##bits##_t load_le##bits(const void *p)                                                          \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        memcpy(&v, p, sizeof(v));                                                                                      \
        return le##bits##toh(v);                                                                                       \
    }                                                                                                                  \
    static inline void store_be##bits(void *p, uint##bits##_t v)                                                       \
    {                                                                                                                  \
        v = htobe##bits(v);                                                                                            \
        memcpy(p, &v, sizeof(v));                                                                                      \
    }                                                                                                                  \
    static inline void store_le##bits(void *p, uint##bits##_t v)                                                       \
    {                                                                                                                  \
        v = htole##bits(v);                                                                                            \
        memcpy(p, &v, sizeof(v));                                                                                      \
    }

ENDIAN_PAIR(16)
ENDIAN_PAIR(32)
ENDIAN_PAIR(64)
#undef ENDIAN_PAIR
