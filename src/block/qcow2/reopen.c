/* SPDX-License-Identifier: BSD-2-Clause */
/* Other options for an image that is open. */
#include "block/reopen.h"

#include "base/cleanup.h"
#include "block/qcow2/qcow2.h"

const char *const qcow2_reopen_names[] = {
    "lazy-refcounts",      "pass-discard-request", "pass-discard-snapshot",
    "pass-discard-other",  "discard-no-unref",     "overlap-check",
    "cache-size",          "l2-cache-size",        "l2-cache-entry-size",
    "refcount-cache-size", "cache-clean-interval", NULL,
};

/* Settings, and caches of which nothing is dirty. */
struct settings {
    struct qcow2 of; /* a copy of the state, of which only what swap_settings() exchanges counts */
    bool swapped;
};

int qcow2_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct qcow2 *s = n->priv;
    bool last = r->as.read_only && !n->read_only && !n->inactive && !s->corrupt; /* nothing can be written afterwards */
    int rc = last ? qcow2_bitmaps_store(n, e) : 0;
    if (rc < 0) {
        return rc;
    }
    if (!n->read_only) {
        rc = qcow2_settle(s); /* refcounts of lazy images too: what they hold must not be lost with the caches */
        rc = rc < 0 || !last ? rc : file_trim(s);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Could not write metadata of image '%s'", n->filename);
        }
    }
    struct settings *new = g_new0(struct settings, 1);
    new->of = *s;
    new->of.n = &r->as;
    new->of.l2 = new->of.rb = (struct q_cache){0};
    rc = qcow2_read_options(&new->of, r->as.options, e);
    if (rc < 0) {
        cache_finish(&new->of.l2);
        cache_finish(&new->of.rb);
        g_free(new);
        return rc;
    }
    r->priv = new;
    return 0;
}

static void swap_settings(struct qcow2 *a, struct qcow2 *b)
{
#define SWAP(x, y)                                                                                                     \
    do {                                                                                                               \
        __typeof__(x) tmp_ = x;                                                                                        \
        x = y;                                                                                                         \
        y = tmp_;                                                                                                      \
    } while (0)
    SWAP(a->lazy, b->lazy);
    for (unsigned i = 0; i < FREE_KINDS; i++) {
        SWAP(a->discard[i], b->discard[i]);
    }
    SWAP(a->discard_no_unref, b->discard_no_unref);
    SWAP(a->overlap, b->overlap);
    SWAP(a->clean_interval, b->clean_interval);
    SWAP(a->slice_bits, b->slice_bits);
    SWAP(a->l2, b->l2);
    SWAP(a->rb, b->rb);
#undef SWAP
}

static void empty(struct q_cache *c)
{
    struct q_cache was = *c;
    cache_finish(c);
    cache_init(c, was.file, was.table_size, was.max, was.load_event);
}

void qcow2_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct qcow2 *s = n->priv;
    struct settings *other = r->priv;
    swap_settings(s, &other->of);
    if (other->swapped) { /* back: the image may have changed meanwhile */
        empty(&s->l2);
        empty(&s->rb);
    }
    other->swapped = true;
    qcow2_arm_cleaning(s);
}

int qcow2_reopen_activate(struct node *n, struct node_reopen *r, struct err *e)
{
    bool was_read_only = r->as.read_only;
    return was_read_only && !n->read_only ? qcow2_prepare_writing(n->priv, e) : 0;
}

void qcow2_reopen_finish(struct node *n, struct node_reopen *r)
{
    struct settings *other = r->priv;
    cache_finish(&other->of.l2);
    cache_finish(&other->of.rb);
    g_free(other);
}
