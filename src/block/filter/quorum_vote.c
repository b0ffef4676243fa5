/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/filter/quorum.h"

#include "base/checked.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *const op_names[] = {"read", "write", "flush"};

/* --- events ------------------------------------------------------------------------------------------------------- */

static void put_sectors(struct json_object *o, const struct quorum_call *c)
{
    json_object_object_add(o, "sectors-count", json_object_new_uint64(div_round_up(c->off % 512 + c->len, 512)));
    json_object_object_add(o, "sector-num", json_object_new_uint64(c->off / 512));
}

void quorum_report_bad(const struct quorum_call *c, const struct edge *member, int rc)
{
    struct event_bus *bus = graph_bus(c->n->graph);
    if (!bus) {
        return;
    }
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "node-name", json_object_new_string(member->child->name));
    put_sectors(o, c);
    json_object_object_add(o, "type", json_object_new_string(op_names[c->op]));
    if (rc < 0) {
        json_object_object_add(o, "error", json_object_new_string(strerror(-rc)));
    }
    event_emit(bus, "QUORUM_REPORT_BAD", o);
}

void quorum_report_failure(const struct quorum_call *c)
{
    struct event_bus *bus = graph_bus(c->n->graph);
    if (bus) {
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "reference", json_object_new_string(c->n->name));
        put_sectors(o, c);
        event_emit(bus, "QUORUM_FAILURE", o);
    }
}

/* --- all members at the same time ----------------------------------------------------------------------------------
 */

struct part {
    struct quorum_call *c;
    unsigned i;
};

static void run_part(void *arg)
{
    const struct part p = *(struct part *)arg; /* the caller's variable */
    struct quorum_call *c = p.c;
    struct quorum *q = c->n->priv;
    c->rcs[p.i] = c->fn(c, g_ptr_array_index(q->members, p.i), p.i);
    if (--c->running == 0 && c->waiting) {
        co_wake(c->parent);
    }
}

unsigned quorum_call_all(struct quorum_call *c)
{
    struct quorum *q = c->n->priv;
    unsigned good = 0;
    c->count = c->running = q->members->len;
    c->parent = co_self();
    for (unsigned i = 1; i < c->count; i++) {
        struct part p = {c, i};
        co_start(co_loop(), run_part, &p);
    }
    struct part own = {c, 0};
    run_part(&own);
    c->waiting = true;
    while (c->running) {
        co_wait();
    }
    for (unsigned i = 0; i < c->count; i++) {
        good += c->rcs[i] == 0;
        if (c->rcs[i] < 0) {
            quorum_report_bad(c, g_ptr_array_index(q->members, i), c->rcs[i]);
        }
    }
    return good;
}

int quorum_common_error(const struct quorum_call *c)
{
    unsigned best = 0;
    int error = -EIO;
    for (unsigned i = 0; i < c->count; i++) {
        unsigned votes = 0;
        for (unsigned k = 0; k < c->count; k++) {
            votes += c->rcs[k] < 0 && c->rcs[k] == c->rcs[i];
        }
        if (votes > best) {
            best = votes;
            error = c->rcs[i];
        }
    }
    return error;
}

/* --- voting --------------------------------------------------------------------------------------------------------
 */

static bool same(const struct quorum_call *c, unsigned a, unsigned b)
{
    return c->rcs[a] == 0 && c->rcs[b] == 0 && !memcmp(c->copies + a * c->len, c->copies + b * c->len, c->len);
}

/* The first of those members whose data most others have, too. */
static unsigned winner(const struct quorum_call *c, unsigned *votes)
{
    unsigned best = 0;
    *votes = 0;
    for (unsigned i = 0; i < c->count && *votes <= c->count - i; i++) {
        unsigned n = 0;
        for (unsigned k = 0; k < c->count; k++) {
            n += same(c, i, k);
        }
        if (n > *votes) {
            *votes = n;
            best = i;
        }
    }
    return best;
}

static int check_pair(const struct quorum_call *c)
{
    if (same(c, 0, 1)) {
        return 0;
    }
    uint64_t at = 0;
    while (c->copies[at] == c->copies[c->len + at]) {
        at++;
    }
    log_bare(graph_log(c->n->graph),
             "quorum: offset=%" PRIu64 " bytes=%" PRIu64 " contents mismatch at offset %" PRIu64, c->off, c->len,
             c->off + at);
    return -EIO;
}

/* Whoever disagrees with `best` gets its data; how that ends is not the reader's concern. */
static void rewrite_others(struct quorum_call *c, unsigned best)
{
    struct quorum *q = c->n->priv;
    for (unsigned i = 0; i < c->count; i++) {
        if (c->rcs[i] == 0 && !same(c, best, i)) {
            edge_write_buf(g_ptr_array_index(q->members, i), c->off, c->len, c->copies + best * c->len, 0);
        }
    }
}

int quorum_vote(struct quorum_call *c)
{
    struct quorum *q = c->n->priv;
    unsigned votes;
    if (quorum_call_all(c) < q->threshold) {
        quorum_report_failure(c);
        return quorum_common_error(c);
    }
    if (q->blkverify) {
        int rc = check_pair(c);
        if (rc < 0) {
            return rc;
        }
    }
    unsigned best = winner(c, &votes);
    for (unsigned i = 0; i < c->count; i++) {
        if (c->rcs[i] == 0 && !same(c, best, i) && votes >= q->threshold) {
            quorum_report_bad(c, g_ptr_array_index(q->members, i), 0);
        }
    }
    if (votes < q->threshold) {
        quorum_report_failure(c);
        return -EIO;
    }
    iovs_from_buf(c->v, c->voff, c->copies + best * c->len, c->len);
    if (q->rewrite && votes < c->count) {
        rewrite_others(c, best);
    }
    return 0;
}
