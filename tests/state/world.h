/* SPDX-License-Identifier: BSD-2-Clause */
/* A device with every kind of field, and streams in memory. */
#pragma once

#include "state/manifest.h"
#include "state/stream.h"

struct toy_queue {
    uint16_t size;
    uint64_t desc;
    bool ready;
};

struct toy_state {
    bool on;
    uint8_t level; /* 0 to 15 */
    uint16_t half;
    uint32_t word;
    uint64_t big;
    int64_t skew; /* -5 to 5 */
    uint32_t rx_len;
    uint8_t rx[16];
    uint32_t nqueues;
    struct toy_queue queue[4];
    uint32_t table[3];
    uint32_t seed;  /* ancillary */
    uint32_t speed; /* since 2 */
    uint32_t event; /* subsection */
    uint8_t mac[6]; /* subsection */
};

extern const struct state_section toy_section;
/* The same device in its first release: no speed, no subsection "acme/mac". */
extern const struct state_section toy_section_1;
/* Something in every field; the version 2 field and the subsections at rest. */
void toy_fill(struct toy_state *s);

/* A stream being written and read. */
struct memory {
    GByteArray *bytes;
    size_t at;      /* of the reader */
    size_t chunk;   /* so many bytes at a time at most; 0: as many as are wanted */
    size_t fail_at; /* of the writer: -ENOSPC; 0: never */
};
void memory_init(struct memory *m);
void memory_finish(struct memory *m);
struct state_sink memory_sink(struct memory *m);
struct state_source memory_source(struct memory *m, bool pipe);
/* Reads the whole stream, every page and value of it: 0 or the reader's error. */
int memory_read_all(struct memory *m, bool pipe, struct err *e);
/* A small stream: two blocks, two devices, all kinds of pages. */
void memory_write_small(struct memory *m, const struct state_write_options *o);
