/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/guard.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/chain.h"
#include "block/snapshot.h"
#include "job/fill.h"

/* The image below n of those that are committed; NULL: that was the last. */
static struct node *next_image(const struct guard *g, struct node *n)
{
    struct node *below = node_backing(n), *image = below ? node_skip_filters(below) : NULL;
    return image == g->base ? NULL : image;
}

int guard_init(struct guard *g, struct err *e)
{
    g->opened = g_ptr_array_new();
    g->safe = bitmap_create(div_round_up(g->size, g->granularity));
    int rc = g->safe ? 0 : err_set(e, ENOMEM, "Node '%s': out of memory", g->top->name);
    for (struct node *n = g->top; rc == 0 && n; n = next_image(g, n)) {
        if (n->read_only && node_check_no_snapshots(n, NULL)) {
            rc = node_set_read_only(n, false, e);
            rc = rc ? err_wrap(e, "Snapshots inside of node '%s' need what a commit writes over", n->name) : 0;
            if (rc == 0) {
                g_ptr_array_add(g->opened, node_ref(n));
            }
        }
    }
    return rc;
}

void guard_finish(struct guard *g)
{
    for (guint i = 0; g->opened && i < g->opened->len; i++) {
        struct node *n = g_ptr_array_index(g->opened, i);
        CLEANUP_ERR struct err e = ERR_INIT;
        if (node_set_read_only(n, true, &e)) {
            log_warn(graph_log(n->graph), "node '%s' stays writable: %s", n->name, err_text(&e));
        }
        node_unref(n);
    }
    g_clear_pointer(&g->opened, g_ptr_array_unref);
    bitmap_destroy(take(g->safe));
}

bool guard_look(struct guard *g)
{
    uint64_t taken = 0;
    g->on = g->making = false;
    for (struct node *n = g->top; n; n = next_image(g, n)) {
        const struct node *image = node_snapshot_target(n);
        taken += image ? image->snapshots_taken : 0;
        g->making |= image && image->snapshots_making;
        g->on |= node_check_no_snapshots(n, NULL) != 0;
    }
    if (taken != g->taken) {
        bitmap_clear(g->safe, 0, bitmap_bits(g->safe));
        g->taken = taken;
    }
    return g->on;
}

bool guard_next(const struct guard *g, uint64_t *off, uint64_t *len)
{
    uint64_t end = *off + *len, stop = div_round_up(end, g->granularity);
    uint64_t bit = bitmap_next_set(g->safe, *off / g->granularity, stop);
    if (bit == stop) {
        return false;
    }
    *off = max_u64(*off, bit * g->granularity);
    *len = min_u64(bitmap_next_clear(g->safe, bit, stop) * g->granularity, end) - *off;
    return true;
}

/* --- rounds ------------------------------------------------------------------------------------------------------- */

struct wanted {
    const struct guard *g;
    struct bitmap *bits;
};

static bool goes(void *opaque, struct node *below, uint64_t off, uint64_t len, uint64_t *n)
{
    const struct wanted *w = opaque;
    uint64_t bits = bitmap_bits(w->bits), bit = off / w->g->granularity;
    bool yes = bit < bits && bitmap_test(w->bits, bit);
    uint64_t stop = bit >= bits ? bits : (yes ? bitmap_next_clear : bitmap_next_set)(w->bits, bit, bits);
    *n = stop == bits ? len : min_u64(len, stop * w->g->granularity - off);
    return yes;
}

static struct bitmap *unsafe_of(const struct guard *g, const struct bitmap *dirty)
{
    struct bitmap *b = bitmap_create(bitmap_bits(dirty));
    for (uint64_t i = 0; b && i < div_round_up(bitmap_bits(dirty), 64); i++) {
        bitmap_or_word(b, i, bitmap_word(dirty, i) & ~bitmap_word(g->safe, i));
    }
    return b;
}

int guard_round(struct guard *g, struct job *j, const struct bitmap *dirty, struct err *e)
{
    struct wanted w = {g, unsafe_of(g, dirty)};
    uint64_t taken = g->taken;
    int rc = w.bits ? 0 : err_set(e, ENOMEM, "Node '%s': out of memory", g->top->name);
    for (struct node *n = g->top; rc == 0 && n && bitmap_count(w.bits); n = next_image(g, n)) {
        struct fill_options o = {
            .job = j, .at_once = j->deferred, .top = n, .end = g->size, .goes = goes, .opaque = &w};
        rc = node_check_no_snapshots(n, NULL) ? fill_snapshots(&o, e) : 0;
    }
    bool given_up = !j->deferred && job_is_cancelled(j);
    if (rc == 0 && !given_up && guard_look(g) && g->taken == taken) {
        bitmap_or(g->safe, w.bits);
    }
    bitmap_destroy(w.bits);
    return rc;
}
