/* SPDX-License-Identifier: BSD-2-Clause */
/* What the guest's disks do, from the difference of counters. */
#pragma once

#include "cli/ctl/disk.h"

struct io_counters {
    uint64_t rd_ops, wr_ops, rd_bytes, wr_bytes, rd_ns, wr_ns;
};
/* Between two looks. */
struct io_rates {
    uint64_t rd_iops, wr_iops, rd_rate, wr_rate; /* per second */
    uint64_t rd_ns, wr_ns;                       /* mean latencies; only where there were such requests: */
    bool has_rd, has_wr;
};

struct io_look {
    struct io_counters last;
    int64_t at_ms; /* 0: nobody has looked */
};

/* The answer of query-blockstats; NULL after an error. */
struct json_object *stats_query(struct ctl *c, struct err *e);
/* Since the look before; all 0 the first time. `disk` NULL: all disks that the guest has, together. */
struct io_rates stats_look(struct io_look *l, struct json_object *stats, const struct disk *disk);
