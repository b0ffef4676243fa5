/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files of the reader share. */
#pragma once

#include "state/format.h"

enum { STATE_IN_BUFFER = 64 << 10 };

struct state_reader {
    struct state_source src;
    char *name;
    struct state_manifest *manifest;
    bool aligned, keep_unknown, done;
    int rc;
    struct err err;
    uint8_t *buf;
    size_t pos, fill;
    uint64_t at;   /* of the next byte to be consumed */
    bool in_chunk; /* its CRC has not been read */
    struct state_chunk chunk;
    uint8_t head[STATE_HEAD_BYTES];
    uint64_t left; /* of its payload */
    uint32_t crc;
    GChecksum *digest;
    struct state_totals totals;
    uint64_t index_at;   /* of rIDX; 0: none so far */
    GByteArray *payload; /* of DEVS */
    GHashTable *seen;    /* paths */
    /* RAMP */
    GArray *runs; /* in the order of delivery */
    guint next_run;
    uint64_t data_left; /* of the run that was returned last */
    bool take_live;
    GByteArray *live_crcs; /* of the chunk's live pages */
    guint next_live;       /* bytes of these that were used */
    struct state_torn *torn;
};

/* Keeps the first error: "NAME: chunk RAMP at offset 123: TEXT". */
int state_reader_fail(struct state_reader *r, int errnum, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same about an error that was set. */
int state_reader_take(struct state_reader *r, struct err *e);
/* Exactly so many bytes of the payload; dst NULL: skips them. */
int state_reader_get(struct state_reader *r, void *dst, size_t n);
/* Appends so many bytes of the payload, as they arrive. */
int state_reader_collect(struct state_reader *r, GByteArray *to, uint64_t n);
/* The same without the chunk's CRC. */
int state_reader_get_unchecked(struct state_reader *r, void *dst, size_t n);
/* Skips what is left and checks the CRC. */
int state_reader_end_chunk(struct state_reader *r);
/* The runs of the RAMP chunk that has just begun; leaves its padding to be read. */
int state_reader_open_ram(struct state_reader *r);
/* Of a run table (of `n`, at `p`): ascending runs, sums of their data; sorted into the order of delivery. */
int state_runs_load(const uint8_t *p, uint32_t n, unsigned block, const struct state_manifest *m, GArray *out,
                    struct err *e);
/* Exactly so many bytes from anywhere. Sets no sticky error. */
int state_reader_pread(struct state_reader *r, void *dst, size_t n, uint64_t offset, struct err *e);
