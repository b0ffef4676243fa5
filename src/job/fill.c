/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/fill.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/snapshot.h"

#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 };
#define SLICE_NS 1000000ull

struct work {
    const struct fill_options *o;
    struct edge *below; /* on what is below the image, whatever that is by now */
    struct snapshot_fill *fill;
    uint64_t cluster, slice;
    uint8_t *buf;
    size_t buf_size;
};

static char *describe(void *user)
{
    const struct job *j = ((const struct work *)user)->o->job;
    return j && j->id ? g_strdup_printf("%s job '%s'", j->drv->type, j->id)
           : j        ? g_strdup("the machine's migration")
                      : g_strdup("a commit");
}

static const struct edge_user_ops edge_ops = {.describe = describe};

static bool over(const struct work *w)
{
    return !w->o->at_once && job_is_cancelled(w->o->job);
}

static bool goes(const struct work *w, uint64_t off, uint64_t len, uint64_t *n)
{
    return w->o->goes(w->o->opaque, w->below->child, off, len, n);
}

/* The same of whole clusters, of which some part goes. */
static bool clusters_go(const struct work *w, uint64_t off, uint64_t len, uint64_t *n)
{
    bool yes = goes(w, off, len, n);
    if (!yes && *n >= w->cluster) {
        *n = round_down(*n, w->cluster);
        return false;
    }
    for (uint64_t at = *n, part; !yes && at < w->cluster; at += part) {
        yes = goes(w, off + at, w->cluster - at, &part);
    }
    *n = min_u64(round_up(*n, w->cluster), len);
    return yes;
}

static int copy(struct work *w, uint64_t off, uint64_t len)
{
    uint64_t size = edge_size(w->below);
    uint64_t there = off < size ? min_u64(len, size - off) : 0;
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, w->buf, there);
    memset(w->buf + there, 0, len - there);
    int rc = there ? edge_read(w->below, off, there, &v, 0, 0) : 0;
    return rc < 0 ? rc : snapshot_fill_write(w->fill, off, len, w->buf);
}

static void wait_for_speed(struct job *j)
{
    for (uint64_t delay; (delay = job_speed_delay(j)) && !job_is_cancelled(j);) {
        job_sleep(j, delay, "limited by its speed");
    }
}

static int copy_some(struct work *w, uint64_t off, uint64_t len)
{
    struct job *j = w->o->at_once ? NULL : w->o->job;
    if (!j) {
        return copy(w, off, len);
    }
    wait_for_speed(j);
    job_speed_account(j, len);
    job_progress_remaining(j, len);
    int rc = copy(w, off, len);
    job_progress(j, len);
    return rc;
}

static int fill_range(struct work *w, uint64_t off, uint64_t len)
{
    int rc = 0;
    for (uint64_t end = off + len, n; off < end && rc == 0 && !over(w); off += n) {
        if (clusters_go(w, off, end - off, &n)) {
            n = min_u64(n, w->buf_size);
            rc = copy_some(w, off, n);
        }
        if (!w->o->at_once) {
            job_pause_point(w->o->job);
        }
        if (loop_now_ns() - w->slice > SLICE_NS) {
            co_yield ();
            w->slice = loop_now_ns();
        }
    }
    return rc;
}

/* A snapshot that was begun meanwhile is waited for; the job hears of its end. */
static int commit(struct work *w, struct err *e)
{
    const struct node *image = node_snapshot_target(w->o->top);
    int rc = snapshot_fill_commit(w->fill, e);
    while (rc == -EBUSY && !w->o->at_once && image->snapshots_making > 1 && !over(w)) {
        err_clear(e);
        while (image->snapshots_making > 1 && !over(w)) {
            job_sleep(w->o->job, UINT64_MAX, "waits for a snapshot of the image that is being made");
        }
        rc = over(w) ? 0 : snapshot_fill_commit(w->fill, e);
    }
    return rc;
}

static int fill(struct work *w, struct err *e)
{
    int rc = 0;
    for (uint64_t off = 0, len; rc == 0 && snapshot_fill_next(w->fill, &off, &len); off += len) {
        rc = fill_range(w, off, len);
        if (over(w)) {
            return 0;
        }
    }
    return rc < 0
               ? err_set_errno(e, -rc, "What snapshots of node '%s' need could not be copied into it", w->o->top->name)
               : commit(w, e);
}

static int fill_once(struct work *w, struct err *e)
{
    int rc = snapshot_fill_create(w->o->top, w->o->end, &w->fill, e);
    rc = rc < 0 ? rc : fill(w, e);
    snapshot_fill_destroy(take(w->fill));
    return rc;
}

static int with_edge(struct work *w, struct err *e)
{
    struct driver_info info = {0};
    struct node *n = node_snapshot_target(w->o->top);
    int rc = n->drv->get_info ? n->drv->get_info(n, &info) : 0;
    w->cluster = rc == 0 && info.cluster_size ? info.cluster_size : 65536;
    w->buf_size = max_u64(PIECE, w->cluster);
    w->buf = block_buf_alloc(w->o->top, w->buf_size);
    if (!w->buf) {
        return err_set(e, ENOMEM, "Node '%s': out of memory", w->o->top->name);
    }
    while ((rc = fill_once(w, e)) == -EAGAIN) {
        err_clear(e);
        if (over(w)) {
            rc = 0;
            break;
        }
    }
    free(w->buf);
    return rc;
}

int fill_snapshots(const struct fill_options *o, struct err *e)
{
    struct work w = {.o = o, .slice = loop_now_ns()};
    struct edge_spec spec = {o->job ? o->job->drv->type : "commit", PERM_READ, PERM_ALL, &edge_ops, &w};
    int rc = edge_open(node_backing(o->top), &spec, &w.below, e);
    if (rc == 0) {
        rc = with_edge(&w, e);
        edge_close(w.below);
    }
    return rc;
}

/* --- streams ------------------------------------------------------------------------------------------------------ */

/* Whether what is read there goes with the images. */
static bool goes_with_them(void *opaque, struct node *below, uint64_t off, uint64_t len, uint64_t *n)
{
    struct node *base = opaque;
    struct extent x;
    *n = len;
    if (below == base) {
        return false;
    }
    bool missing;
    if (chain_missing(below, base, off, len, &x, &missing) < 0) {
        return true; /* reading it will meet the error, too */
    }
    *n = x.len;
    return missing;
}

/* Behind this all images below are over. */
static uint64_t below_end(struct node *top)
{
    uint64_t end = 0;
    for (struct node *b = node_backing(top); b; b = node_backing(b)) {
        end = max_u64(end, b->size);
    }
    return end;
}

int job_fill_snapshots(struct job *j, struct node *top, struct node *base, struct err *e)
{
    struct fill_options o = {.job = j, .top = top, .end = below_end(top), .goes = goes_with_them, .opaque = base};
    if (base) {
        node_ref(base);
    }
    int rc = fill_snapshots(&o, e);
    node_unref(base);
    return rc;
}

/* --- commits ------------------------------------------------------------------------------------------------------ */

struct commit_range {
    struct node *top, *base;
};

static bool is_written_over(void *opaque, struct node *below, uint64_t off, uint64_t len, uint64_t *n)
{
    const struct commit_range *r = opaque;
    struct extent x = {.len = len};
    bool missing = false;
    int rc = off < r->top->size ? chain_missing(r->top, r->base, off, len, &x, &missing) : 0;
    *n = rc < 0 ? len : x.len;
    return rc < 0 || missing;
}

int fill_for_commit(struct node *top, struct node *base, struct err *e)
{
    struct commit_range r = {top, base};
    struct fill_options o = {.at_once = true, .top = top, .end = top->size, .goes = is_written_over, .opaque = &r};
    if (node_check_no_snapshots(top, NULL) == 0) {
        return 0;
    }
    if (node_snapshot_target(top)->snapshots_making) {
        return err_set(e, EBUSY, "A snapshot inside of node '%s' is being made: wait for its end", top->name);
    }
    return fill_snapshots(&o, e);
}
