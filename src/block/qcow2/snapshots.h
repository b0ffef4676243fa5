/* SPDX-License-Identifier: BSD-2-Clause */
/* What qcow2's files about internal snapshots share; the laws are in qcow2.h. */
#pragma once

#include "block/qcow2/qcow2.h"
#include "block/snapshot.h"

/* An entry of the snapshot table. */
struct q_snap {
    struct snapshot info;
    uint64_t l1_offset;
    uint32_t l1_size;     /* entries */
    uint32_t extra;       /* bytes of extra data that it has in the file */
    uint8_t *unknown;     /* extra data behind what we know: kept */
    uint32_t unknown_len; /* bytes */
};

/* --- snaptable.c --- */
struct q_snap *snap_copy(const struct q_snap *s);
GPtrArray *snaps_new(void);                                       /* frees what it holds */
struct q_snap *snaps_find(const struct qcow2 *s, const char *id); /* NULL: none */

/* When an image is opened: as snaps_load(), and its place is looked at first. */
int snaps_open(struct qcow2 *s, struct err *e);
bool snaps_place_ok(const struct qcow2 *s); /* h.snapshots_offset */
/* Where it is and how long; the texts are QEMU's. */
int snap_l1_check(const struct qcow2 *s, const struct q_snap *x, struct err *e);
/* Its L1 table in host order, x->l1_size entries; g_malloc'd. */
int snap_l1_load(struct qcow2 *s, const struct q_snap *x, uint64_t **out, struct err *e);

/* What a check makes good while it reads the table. */
struct snap_repair {
    GString *text; /* may be NULL */
    uint32_t dropped, shortened;
};
/* Reads the table into s->snapshots. `repair` NULL: whatever is over the limits is an error. */
int snaps_load(struct qcow2 *s, struct snap_repair *repair, struct err *e);
/* The table as the file has it; g_malloc'd. -EFBIG: over the limits. */
int snaps_encode(GPtrArray *snaps, uint8_t **out, uint64_t *len);
