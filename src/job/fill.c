/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/fill.h"

#include "base/checked.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/snapshot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE = 1 << 20 };
#define SLICE_NS       1000000ull
#define COMMIT_POLL_NS 20000000ull

struct work {
    struct job *job;
    struct node *base;  /* a reference; NULL: none */
    struct edge *below; /* on what is below the image, whatever that is by now */
    struct snapshot_fill *fill;
    uint64_t cluster, slice;
    uint8_t *buf;
    size_t buf_size;
};

static char *describe(void *user)
{
    const struct work *w = user;
    return w->job->id ? g_strdup_printf("%s job '%s'", w->job->drv->type, w->job->id)
                      : g_strdup("the machine's migration");
}

static const struct edge_user_ops edge_ops = {.describe = describe};

/* Whether what is read there goes with the images; so are *n bytes, at most `len`. */
static bool goes(const struct work *w, uint64_t off, uint64_t len, uint64_t *n)
{
    struct node *below = w->below->child;
    struct extent x;
    *n = len;
    if (below == w->base) {
        return false;
    }
    bool missing;
    if (chain_missing(below, w->base, off, len, &x, &missing) < 0) {
        return true; /* reading it will meet the error, too */
    }
    *n = x.len;
    return missing;
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

static int copy_some(struct work *w, uint64_t off, uint64_t len)
{
    struct job *j = w->job;
    for (uint64_t delay; (delay = job_speed_delay(j)) && !job_is_cancelled(j);) {
        job_sleep(j, delay, "limited by its speed");
    }
    job_speed_account(j, len);
    job_progress_remaining(j, len);
    int rc = copy(w, off, len);
    job_progress(j, len);
    return rc;
}

static int fill_range(struct work *w, uint64_t off, uint64_t len)
{
    int rc = 0;
    for (uint64_t end = off + len, n; off < end && rc == 0 && !job_is_cancelled(w->job); off += n) {
        if (clusters_go(w, off, end - off, &n)) {
            n = min_u64(n, w->buf_size);
            rc = copy_some(w, off, n);
        }
        job_pause_point(w->job);
        if (loop_now_ns() - w->slice > SLICE_NS) {
            co_yield ();
            w->slice = loop_now_ns();
        }
    }
    return rc;
}

/* A snapshot that was begun meanwhile is waited for. */
static int commit(struct work *w, struct node *top, struct err *e)
{
    int rc = snapshot_fill_commit(w->fill, e);
    while (rc == -EBUSY && top->snapshots_making > 1 && !job_is_cancelled(w->job)) {
        err_clear(e);
        w->job->wait_reason = "waits for a snapshot of the image that is being made";
        co_sleep(COMMIT_POLL_NS); /* trying drains, which kicks the job */
        w->job->wait_reason = NULL;
        job_pause_point(w->job);
        rc = snapshot_fill_commit(w->fill, e);
    }
    return rc;
}

static int fill(struct work *w, struct node *top, struct err *e)
{
    int rc = 0;
    for (uint64_t off = 0, len; rc == 0 && snapshot_fill_next(w->fill, &off, &len); off += len) {
        rc = fill_range(w, off, len);
        if (job_is_cancelled(w->job)) {
            return 0;
        }
    }
    return rc < 0 ? err_set_errno(e, -rc, "What snapshots of node '%s' need could not be copied into it", top->name)
                  : commit(w, top, e);
}

static int with_edge(struct work *w, struct node *top, struct err *e)
{
    struct driver_info info = {0};
    struct node *n = node_snapshot_target(top);
    int rc = n->drv->get_info ? n->drv->get_info(n, &info) : 0;
    w->cluster = rc == 0 && info.cluster_size ? info.cluster_size : 65536;
    w->buf_size = max_u64(PIECE, w->cluster);
    w->buf = block_buf_alloc(top, w->buf_size);
    if (!w->buf) {
        return err_set(e, ENOMEM, "Node '%s': out of memory", top->name);
    }
    rc = snapshot_fill_create(top, &w->fill, e);
    rc = rc < 0 ? rc : fill(w, top, e);
    snapshot_fill_destroy(w->fill);
    free(w->buf);
    return rc;
}

int job_fill_snapshots(struct job *j, struct node *top, struct node *base, struct err *e)
{
    struct work w = {.job = j, .base = base ? node_ref(base) : NULL, .slice = loop_now_ns()};
    struct edge_spec spec = {"stream", PERM_READ, PERM_ALL, &edge_ops, &w};
    int rc = edge_open(node_backing(top), &spec, &w.below, e);
    if (rc == 0) {
        rc = with_edge(&w, top, e);
        edge_close(w.below);
    }
    node_unref(w.base);
    return rc;
}
