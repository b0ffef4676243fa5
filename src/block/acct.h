/* SPDX-License-Identifier: BSD-2-Clause */
/* What is counted of a disk's requests: numbers, bytes and times, by kind; what query-blockstats shows. Loop thread. */
#pragma once

#include "base/err.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum acct_type { ACCT_READ, ACCT_WRITE, ACCT_FLUSH, ACCT_DISCARD, ACCT_TYPES };

/* Times between boundaries: bins[0] below the first, bins[n] from the last on. */
struct acct_histogram {
    uint64_t *boundaries, *bins; /* ns; NULL: none */
    unsigned n;                  /* boundaries */
};

struct acct {
    uint64_t bytes[ACCT_TYPES], ops[ACCT_TYPES], failed[ACCT_TYPES], invalid[ACCT_TYPES], merged[ACCT_TYPES];
    uint64_t ns[ACCT_TYPES];          /* that requests took, in sum */
    uint64_t last_ns;                 /* when something was last asked for; 0: never */
    bool count_invalid, count_failed; /* whether such requests count as use of the disk */
    /* Latency of finished writes, log2 buckets of microseconds: what block_copy's progress shows of the guest. */
    uint32_t wr_us_log2[32];
    struct acct_histogram histograms[ACCT_TYPES];
    GPtrArray *intervals; /* struct acct_interval *; NULL: none */
};

void acct_init(struct acct *a);
void acct_finish(struct acct *a);
/* A request that began at start_ns has ended. */
void acct_done(struct acct *a, enum acct_type type, uint64_t bytes, uint64_t start_ns, bool ok);
/* One that made no sense. */
void acct_invalid(struct acct *a, enum acct_type type);
/* Minimum, maximum and mean over the last so many seconds are shown too. */
void acct_add_interval(struct acct *a, unsigned seconds);
/* `boundaries`: numbers that increase, at least one, the first above 0; else -EINVAL. Counts begin at 0. */
int acct_set_histogram(struct acct *a, enum acct_type type, struct json_object *boundaries);
void acct_clear_histograms(struct acct *a);
/* BlockDeviceStats; `highest` is the end of the highest write. */
struct json_object *acct_json(const struct acct *a, uint64_t highest);
