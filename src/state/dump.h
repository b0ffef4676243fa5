/* SPDX-License-Identifier: BSD-2-Clause */
/* A whole stream, looked at: what it holds, and whether all of it is as it should be. */
#pragma once

#include "state/stream.h"

#include <json-c/json.h>

/* Of one kind of chunk, or all of RAM. */
struct state_summary {
    struct state_totals totals;
    uint64_t data_bytes; /* of pages, as they are in the stream */
    unsigned devices, others;
};

/* Called for each device's chunk; negative ends the walk. The payload is valid during the call. */
typedef int state_device_fn(void *opaque, const struct state_chunk *c, const GByteArray *payload, struct err *e);

/* What a walk does on its way; zeroed: nothing but checksums. */
struct state_walk {
    state_device_fn *device;
    void *opaque;
    bool check_values;             /* each device by its schema */
    bool check_pages;              /* decompresses them */
    struct json_object *chunks;    /* list to which {"type", "offset", "length", …} is added for each; NULL: none */
    struct state_summary *summary; /* may be NULL */
};
/* From where the reader stands to the end, all checksums checked. */
int state_walk(struct state_reader *r, const struct state_walk *w, struct err *e);
/*
 * {"manifest": …, "devices": [state_device_json()…], "totals": {…}}: everything but the contents of RAM; the caller's
 * reference. NULL and an error: what is wrong with it.
 */
struct json_object *state_dump(struct state_reader *r, struct err *e);
/* {"chunks", "bytes", "zero", "raw", "zstd", "same", "data-bytes"}: pages and bytes. */
struct json_object *state_summary_json(const struct state_summary *s);
