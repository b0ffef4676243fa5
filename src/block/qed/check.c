/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The consistency check: each cluster is named once, within the file. Entries that name nothing are emptied; what is
 * named twice is only reported, as nobody can know whose it is; leaks are closed by moving clusters (compact.c).
 */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <stdlib.h>

enum { PIECE = 1 << 20 };

struct scan {
    struct qed *s;
    struct check_result *r;
    struct qed_usage u;
    bool fix;
    uint64_t last; /* the data cluster before */
};

/* --- tables ------------------------------------------------------------------------------------------------------- */

int qed_walk_table(struct qed_walk *w, uint64_t offset)
{
    struct qed *s = w->s;
    uint64_t piece = min_u64(s->table_bytes, PIECE);
    uint8_t *buf = block_buf_alloc(s->file->child, piece);
    int rc = buf ? 0 : -ENOMEM;
    for (uint64_t at = 0; at < s->table_bytes && rc == 0; at += piece) {
        rc = qed_file_read_buf(s->file, offset + at, piece, buf);
        rc = rc < 0 ? rc : w->fn(w, buf, piece / 8);
        if (rc > 0) {
            rc = edge_write_buf(s->file, offset + at, piece, buf, 0);
        }
    }
    free(buf);
    return rc;
}

/* --- counting ----------------------------------------------------------------------------------------------------- */

static void usage_finish(struct qed_usage *u)
{
    bitmap_destroy(u->used);
    bitmap_destroy(u->meta);
}

static int usage_init(struct qed_usage *u, struct qed *s)
{
    *u = (struct qed_usage){.clusters = qed_clusters(s, edge_size(s->file))};
    u->used = bitmap_create(u->clusters + 1);
    u->meta = bitmap_create(u->clusters + 1);
    if (!u->used || !u->meta) {
        usage_finish(u);
        return -ENOMEM;
    }
    return 0;
}

/* How many of the clusters were named before. */
static uint64_t mark(struct scan *c, uint64_t off, uint64_t clusters, bool meta)
{
    uint64_t first = off >> c->s->cluster_bits;
    if (meta) {
        bitmap_set(c->u.meta, first, clusters);
    }
    return clusters - bitmap_set(c->u.used, first, clusters);
}

static void found_wrong(struct scan *c, uint64_t times, bool fixed)
{
    *(fixed ? &c->r->corruptions_fixed : &c->r->corruptions) += times;
}

static int scan_l2(struct qed_walk *w, uint8_t *entries, uint64_t count)
{
    struct scan *c = w->opaque;
    int changed = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t e = load_le64(entries + 8 * i);
        if (e <= QED_ZERO) {
            continue;
        }
        c->r->allocated_clusters++;
        c->r->fragmented_clusters += c->last && e != c->last + c->s->cluster_size;
        c->last = e;
        if (qed_data_ok(c->s, e)) {
            found_wrong(c, mark(c, e, 1, false), false);
            continue;
        }
        found_wrong(c, 1, c->fix);
        if (c->fix) {
            store_le64(entries + 8 * i, 0);
            changed = 1;
        }
    }
    return changed;
}

static int scan_table(struct scan *c, uint64_t off)
{
    uint64_t again = mark(c, off, c->s->h.table_size, true);
    found_wrong(c, again, false);
    struct qed_walk w = {c->s, scan_l2, c};
    return again ? 0 : qed_walk_table(&w, off);
}

static int scan_l1(struct qed_walk *w, uint8_t *entries, uint64_t count)
{
    struct scan *c = w->opaque;
    int changed = 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t e = load_le64(entries + 8 * i);
        int rc = 0;
        if (e && qed_table_ok(c->s, e)) {
            rc = scan_table(c, e);
        } else if (e) {
            found_wrong(c, 1, c->fix);
            changed |= c->fix;
            store_le64(entries + 8 * i, c->fix ? 0 : e);
        }
        if (rc == -EIO) {
            c->r->check_errors++;
        } else if (rc < 0) {
            return rc;
        }
    }
    return changed;
}

/* Beyond the last whole cluster: the one in which the file ends, and what damaged entries name where nothing was handed
 * out yet. */
static uint64_t count_from(const struct bitmap *b, uint64_t from, uint64_t end)
{
    uint64_t n = 0;
    for (; from < end && (from = bitmap_next_set(b, from, end)) < end; from++) {
        n++;
    }
    return n;
}

/* What the tables in memory say is written; afterwards they are read anew, as they may have changed. */
static int scan(struct scan *c)
{
    struct qed *s = c->s;
    int rc = s->n->read_only ? 0 : qed_writeback(s, false);
    rc = rc < 0 ? rc : usage_init(&c->u, s);
    if (rc < 0) {
        return rc;
    }
    mark(c, 0, MAX(s->h.header_size, 1), true);
    mark(c, s->h.l1_offset, s->h.table_size, true);
    struct qed_walk w = {s, scan_l1, c};
    rc = qed_walk_table(&w, s->h.l1_offset);
    if (rc == 0 && c->r->corruptions_fixed) {
        qed_cache_drop_all(&s->cache);
        rc = qed_reload_l1(s);
        rc = rc < 0 ? rc : edge_flush(s->file);
        s->n->write_gen++;
    }
    uint64_t whole = min_u64(edge_size(s->file), s->end) >> s->cluster_bits;
    c->r->leaks = whole - (bitmap_count(c->u.used) - count_from(c->u.used, whole, c->u.clusters));
    c->r->total_clusters = qed_clusters(s, s->h.image_size);
    c->r->have_fragmentation = true;
    if (rc < 0) {
        usage_finish(&c->u);
    }
    return rc;
}

/* --- what calls it ------------------------------------------------------------------------------------------------ */

static int clear_need_check(struct qed *s)
{
    if (!(s->h.features & QED_NEED_CHECK)) {
        return 0;
    }
    s->h.features &= ~(uint64_t)QED_NEED_CHECK;
    int rc = edge_flush(s->file);
    rc = rc < 0 ? rc : qed_header_write(s, &s->h);
    if (rc < 0) {
        s->h.features |= QED_NEED_CHECK;
    }
    return rc < 0 ? rc : edge_flush(s->file);
}

int qed_check(struct node *n, struct check_result *r, unsigned fix, struct err *e)
{
    struct qed *s = n->priv;
    struct scan c = {.s = s, .r = r, .fix = fix & CHECK_FIX_ERRORS};
    co_lock(&s->lock);
    int rc = scan(&c);
    if (rc == 0) {
        bool sound = !r->corruptions && !r->check_errors;
        if (sound && r->leaks && (fix & CHECK_FIX_LEAKS)) {
            rc = qed_compact(s, &c.u);
            r->leaks_fixed = rc < 0 ? 0 : r->leaks;
            r->leaks = rc < 0 ? r->leaks : 0;
        }
        if (rc == 0 && sound && fix) {
            rc = clear_need_check(s);
        }
        usage_finish(&c.u);
    }
    co_unlock(&s->lock);
    return rc < 0 ? err_set_errno(e, -rc, "Image '%s' could not be checked", n->filename) : 0;
}

/* The highest cluster that something names; the header is one. */
static uint64_t last_used(const struct qed_usage *u)
{
    uint64_t i = u->clusters;
    while (i > 1 && !bitmap_test(u->used, i - 1)) {
        i--;
    }
    return i;
}

int qed_recover(struct qed *s)
{
    struct check_result r = {0};
    struct scan c = {.s = s, .r = &r, .fix = true};
    int rc = scan(&c);
    if (rc < 0) {
        return rc;
    }
    uint64_t end = last_used(&c.u) << s->cluster_bits, whole = edge_size(s->file) >> s->cluster_bits;
    usage_finish(&c.u);
    if (r.corruptions || r.check_errors) {
        return -EIO;
    }
    if (end < edge_size(s->file)) {
        rc = edge_truncate(s->file, end, false, PREALLOC_OFF, NULL);
        s->end = rc < 0 ? s->end : end;
        r.leaks_fixed = rc < 0 || whole < end >> s->cluster_bits ? 0 : whole - (end >> s->cluster_bits);
    }
    node_report_repair(s->n, &r);
    return rc < 0 ? rc : clear_need_check(s);
}
