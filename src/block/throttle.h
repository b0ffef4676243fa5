/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Limits of bandwidth and operations, shared by the members of a group: leaky buckets, one for each of
 * {total, read, write} x {bytes, operations}. Loop thread.
 */
#pragma once

#include "block/graph.h"

enum {
    THROTTLE_BPS_TOTAL,
    THROTTLE_BPS_READ,
    THROTTLE_BPS_WRITE,
    THROTTLE_OPS_TOTAL,
    THROTTLE_OPS_READ,
    THROTTLE_OPS_WRITE,
    THROTTLE_BUCKETS
};

struct throttle_limit {
    uint64_t avg;          /* per second; 0 = no limit */
    uint64_t max;          /* per second during a burst; 0 = no bursts */
    uint64_t burst_length; /* seconds that a burst at `max` may last, at least 1 */
};
struct throttle_config {
    struct throttle_limit limit[THROTTLE_BUCKETS];
    uint64_t iops_size; /* a request counts as one operation per this many bytes; 0 = as one */
};

struct throttle_group;
/* Reads ThrottleLimits ("bps-total", "bps-total-max", "bps-total-max-length", …, "iops-size") and checks them. */
int throttle_config_parse(struct json_object *o, struct throttle_config *out, struct err *e);
int throttle_config_check(const struct throttle_config *c, struct err *e);
struct json_object *throttle_config_json(const struct throttle_config *c);
struct throttle_group *throttle_group_create(struct loop *l, const char *name);
struct throttle_group *throttle_group_ref(struct throttle_group *t);
void throttle_group_unref(struct throttle_group *t); /* NULL is fine */
const char *throttle_group_name(const struct throttle_group *t);
void throttle_group_set(struct throttle_group *t,
                        const struct throttle_config *c); /* at any time; waiters start over */
const struct throttle_config *throttle_group_get(const struct throttle_group *t);
/*
 * Waits until a request of `bytes` may go; *bypass (a drain) lets it go at once, after throttle_group_kick().
 * First come, first served in each direction. [co]
 */
void throttle_group_wait(struct throttle_group *t, bool is_write, uint64_t bytes, const unsigned *bypass);
void throttle_group_kick(struct throttle_group *t);
/* The program is about to go: nobody waits any more in the groups of the graph's nodes and backends. */
void graph_end_limits(struct block_graph *g);
