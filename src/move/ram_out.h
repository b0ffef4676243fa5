/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Guest RAM into a stream, in the order of addresses. Frozen by guest/pages.h: each page once; pages that the guest
 * changes meanwhile wait as copies for their turn, and when there are too many they are written before it. Or, with
 * `dirty`, what is dirty as it is now.
 */
#pragma once

#include "move/lineage.h"

struct dirty;
struct lanes_out;

struct ram_out {
    struct vm *vm;
    struct state_writer *w;
    const struct lineage *base; /* pages that are as in it are left out; or NULL */
    enum guest_dirty since;     /* whose bit in the log all pages have that are not as in `base`; 0: not known */
    struct dirty *dirty;        /* NULL: RAM is frozen */
    struct lanes_out *lanes;    /* with `dirty`: the pages go this way instead, in parallel; or NULL */
    int zstd_level;             /* 0: raw */
    bool live;                  /* with `dirty`, raw: as live pages, which are not copied */
    const bool *cancelled;      /* looked at between batches */
    void (*progress)(void *opaque, uint64_t done, uint64_t total); /* may be NULL */
    /* [co] Before so many of data are written; -errno: they need not be. May be NULL. */
    int (*pace)(void *opaque, uint64_t bytes);
    void *opaque;
};

/* [co] -ECANCELED, -ENOMEM (RAM as it was is lost), -EBADMSG (`base` cannot be read), or the writer's error, whose text
 * the writer has. */
int ram_out_write(const struct ram_out *o);
