/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "blkverify": every write goes to two nodes, every read compares them. What differs is told and fails the read.
 */
#include "base/cleanup.h"
#include "block/drivers.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { READ_MAX = 64 << 20 };

struct blkverify_state {
    struct edge *test; /* n->file is "raw" */
};

static int blkverify_open(struct node *n, struct json_object *options, struct err *e)
{
    struct blkverify_state *s = n->priv;
    const unsigned perm = PERM_READ | PERM_WRITE | PERM_RESIZE;
    struct edge *raw;
    int rc = node_open_child(n, options, &(struct edge_spec){"raw", 0, PERM_ALL}, &raw, e);
    if (rc == 0) {
        rc = node_open_child(n, options, &(struct edge_spec){"test", perm, PERM_ALL, .image = true}, &s->test, e);
    }
    if (rc == 0) {
        n->size = edge_size(s->test);
        n->limits.max_transfer = READ_MAX; /* of which there is a copy */
    }
    return rc;
}

/* "blkverify:RAW:TEST". Any other name is the tested image's. */
static int blkverify_parse_filename(const char *filename, struct json_object *options, struct err *e)
{
    const char *raw = filename + strlen("blkverify:"), *test = filename;
    if (g_str_has_prefix(filename, "blkverify:")) {
        test = strchr(raw, ':');
        if (!test) {
            return err_set(e, EINVAL, "blkverify requires raw copy and original image path");
        }
        CLEANUP_FREE char *name = g_strndup(raw, (size_t)(test++ - raw));
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "filename", json_object_new_string(name));
        json_object_object_add(options, "raw", o);
    }
    struct json_object *image = json_object_new_object(), *file = json_object_new_object();
    json_object_object_add(file, "filename", json_object_new_string(test));
    json_object_object_add(image, "file", file);
    json_object_object_add(options, "test", image);
    return 0;
}

static char *blkverify_plain_name(struct node *n)
{
    struct blkverify_state *s = n->priv;
    return g_strdup_printf("blkverify:%s:%s", n->file->child->filename, s->test->child->filename);
}

/* --- requests: the raw half runs beside the tested one -------------------------------------------------------------
 */

struct half {
    struct edge *ed;
    uint64_t off, len;
    const struct iovs *v; /* of a read: where to */
    size_t voff;
    unsigned flags;
    bool is_write, done, waiting;
    int rc;
    struct co *parent;
};

static void run_half(void *arg)
{
    struct half *h = arg;
    h->rc = h->is_write ? edge_write(h->ed, h->off, h->len, h->v, h->voff, h->flags)
                        : edge_read(h->ed, h->off, h->len, h->v, h->voff, h->flags);
    h->done = true;
    if (h->waiting) {
        co_wake(h->parent);
    }
}

static void start_half(struct half *h)
{
    h->parent = co_self();
    co_start(co_loop(), run_half, h);
}

static int end_half(struct half *h)
{
    h->waiting = true;
    while (!h->done) {
        co_wait();
    }
    return h->rc;
}

static int mismatch(struct node *n, const char *what, const struct half *h, const char *text)
{
    log_bare(graph_log(n->graph), "blkverify: %s offset=%" PRIu64 " bytes=%" PRIu64 " %s", what, h->off, h->len, text);
    return -EIO;
}

static int compare_results(struct node *n, const char *what, const struct half *h, int test_rc, int raw_rc)
{
    if (test_rc == raw_rc) {
        return test_rc;
    }
    CLEANUP_FREE char *text = g_strdup_printf("return value mismatch %d != %d", test_rc, raw_rc);
    return mismatch(n, what, h, text);
}

/* The first byte that differs; `len` when none does. */
static uint64_t first_difference(const struct iovs *v, size_t voff, const uint8_t *buf, uint64_t len)
{
    uint64_t at = 0;
    for (int i = 0; i < v->n && at < len; i++) {
        size_t l = v->iov[i].iov_len;
        if (voff >= l) {
            voff -= l;
            continue;
        }
        const uint8_t *p = (const uint8_t *)v->iov[i].iov_base + voff;
        uint64_t part = MIN(l - voff, len - at);
        if (memcmp(p, buf + at, part)) {
            while (*p == buf[at]) {
                p++;
                at++;
            }
            return at;
        }
        at += part;
        voff = 0;
    }
    return len;
}

static int blkverify_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct blkverify_state *s = n->priv;
    uint8_t *copy = block_buf_alloc(n->file->child, len);
    if (!copy) {
        return -ENOMEM;
    }
    struct iovec iov;
    struct iovs c = IOVS_BUF(&iov, copy, len);
    struct half raw = {.ed = n->file, .off = off, .len = len, .v = &c, .flags = flags};
    start_half(&raw);
    int test_rc = edge_read(s->test, off, len, v, voff, flags), raw_rc = end_half(&raw);
    int rc = compare_results(n, "read", &raw, test_rc, raw_rc);
    uint64_t at = rc ? len : first_difference(v, voff, copy, len);
    free(copy);
    if (rc == 0 && at < len) {
        CLEANUP_FREE char *text = g_strdup_printf("contents mismatch at offset %" PRIu64, off + at);
        rc = mismatch(n, "read", &raw, text);
    }
    return rc;
}

static int blkverify_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff,
                           unsigned flags)
{
    struct blkverify_state *s = n->priv;
    struct half raw = {.ed = n->file, .off = off, .len = len, .v = v, .voff = voff, .flags = flags, .is_write = true};
    start_half(&raw);
    int test_rc = edge_write(s->test, off, len, v, voff, flags), raw_rc = end_half(&raw);
    return compare_results(n, "write", &raw, test_rc, raw_rc);
}

/* What a discard leaves need not be the same in both. */
static int blkverify_discard(struct node *n, uint64_t off, uint64_t len)
{
    return -ENOTSUP;
}

static int blkverify_flush(struct node *n)
{
    struct blkverify_state *s = n->priv;
    int rc = edge_flush(s->test);
    return rc < 0 ? rc : edge_flush(n->file);
}

static int blkverify_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct blkverify_state *s = n->priv;
    int rc = edge_truncate(s->test, size, exact, prealloc, e);
    rc = rc < 0 ? rc : edge_truncate(n->file, size, exact, PREALLOC_OFF, e);
    if (rc == 0) {
        node_set_size(n, edge_size(s->test));
    }
    return rc;
}

static bool blkverify_supports_fua(struct node *n)
{
    return true;
}

static const char *const blkverify_options[] = {"raw", "test", NULL};
static const char *const blkverify_schemes[] = {"blkverify", NULL};

const struct block_driver blkverify_driver = {
    .name = "blkverify",
    .priv_size = sizeof(struct blkverify_state),
    .is_filter = true,
    .own_size = true,
    .option_names = blkverify_options,
    .schemes = blkverify_schemes,
    .parse_filename = blkverify_parse_filename,
    .plain_name = blkverify_plain_name,
    .open = blkverify_open,
    .read = blkverify_read,
    .write = blkverify_write,
    .discard = blkverify_discard,
    .flush = blkverify_flush,
    .truncate = blkverify_truncate,
    .supports_fua = blkverify_supports_fua,
};
