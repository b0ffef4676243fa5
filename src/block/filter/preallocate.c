/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "preallocate": between a format and its file. A file that must grow grows by much more than is asked for, with space
 * allocated, so that the next growths cost nothing; the rest is cut off when the node is closed or may no longer write.
 * Whoever is above sees the length that was asked for.
 */
#include "base/checked.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/reopen.h"

#include <inttypes.h>
#include <string.h>

struct preallocate_options {
    uint64_t align, size;
};
struct preallocate_state {
    struct preallocate_options o;
    bool ahead; /* the file is longer than the node */
};

static int read_options(struct node *n, struct json_object *options, struct preallocate_options *o, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    o->align = jread_size_or(&r, "prealloc-align", 1 << 20);
    o->size = jread_size_or(&r, "prealloc-size", 128 << 20);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (o->align % 512) {
        return err_set(e, EINVAL, "prealloc-align parameter of preallocate filter is not aligned to %llu", 512ull);
    }
    uint32_t below = n->file->child->limits.request_align;
    if (below && o->align % below) {
        return err_set(e, EINVAL,
                       "prealloc-align parameter of preallocate filter is not aligned to underlying node request "
                       "alignment (%" PRIu32 ")",
                       below);
    }
    return 0;
}

static int preallocate_open(struct node *n, struct json_object *options, struct err *e)
{
    struct preallocate_state *s = n->priv;
    struct edge *ed;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", PERM_RESIZE, PERM_ALL}, &ed, e);
    rc = rc < 0 ? rc : read_options(n, options, &s->o, e);
    if (rc == 0) {
        n->size = edge_size(ed);
        n->limits.request_align = ed->child->limits.request_align;
        n->limits.mem_align = ed->child->limits.mem_align;
    }
    return rc;
}

/* Cuts off what nobody asked for. */
static int drop(struct node *n, struct err *e)
{
    struct preallocate_state *s = n->priv;
    int rc = s->ahead ? edge_truncate(n->file, n->size, true, PREALLOC_OFF, e) : 0;
    s->ahead = rc < 0 && s->ahead;
    return rc;
}

/* The file has the length that was asked for, whoever asked. */
static int preallocate_read_again(struct node *n, struct err *e)
{
    node_set_size(n, edge_size(n->file));
    return 0;
}

static void preallocate_close(struct node *n)
{
    int rc = drop(n, NULL);
    if (rc < 0) {
        log_error(graph_log(n->graph), "Failed to drop preallocation of '%s': %s", n->file->child->filename,
                  strerror(-rc));
    }
}

/* Where the file is to end when `size` bytes of it are wanted. */
static uint64_t goal(const struct preallocate_state *s, uint64_t size)
{
    uint64_t end, align = s->o.align ? s->o.align : 1;
    if (!add_ok(size, s->o.size, &end) || end > INT64_MAX / 2 - align) {
        return size;
    }
    return end % align ? end + (align - end % align) : end;
}

static int preallocate_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct preallocate_state *s = n->priv;
    int rc = 0;
    if (size < n->size || prealloc != PREALLOC_OFF) {
        rc = drop(n, e);
        rc = rc < 0 ? rc : edge_truncate(n->file, size, exact, prealloc, e);
    } else if (size > edge_size(n->file)) {
        uint64_t end = goal(s, size);
        rc = end > size ? edge_truncate(n->file, end, false, PREALLOC_FALLOC, NULL) : -ENOTSUP;
        s->ahead |= rc == 0;
        if (rc < 0) { /* a device, a full disk: what was asked for may still be possible */
            rc = edge_truncate(n->file, size, exact, PREALLOC_OFF, e);
            s->ahead &= rc < 0;
        }
    }
    if (rc == 0) {
        node_set_size(n, s->ahead ? size : edge_size(n->file));
    }
    return rc;
}

/* --- reopening ---------------------------------------------------------------------------------------------------- */

static const char *const preallocate_option_names[] = {"prealloc-align", "prealloc-size", NULL};

static int preallocate_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct preallocate_options *o = g_new0(struct preallocate_options, 1);
    int rc = read_options(n, r->as.options, o, e);
    rc = rc < 0 ? rc : drop(n, e); /* may not be possible afterwards */
    if (rc < 0) {
        g_free(o);
        return rc;
    }
    r->priv = o;
    return 0;
}

static void preallocate_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct preallocate_state *s = n->priv;
    struct preallocate_options *o = r->priv, old = s->o;
    s->o = *o;
    *o = old;
}

static void preallocate_reopen_finish(struct node *n, struct node_reopen *r)
{
    g_free(r->priv);
}

const struct block_driver preallocate_driver = {
    .name = "preallocate",
    .priv_size = sizeof(struct preallocate_state),
    .is_filter = true,
    .own_size = true,
    .option_names = preallocate_option_names,
    .open = preallocate_open,
    .reopen_names = preallocate_option_names,
    .reopen_prepare = preallocate_reopen_prepare,
    .reopen_swap = preallocate_reopen_swap,
    .reopen_finish = preallocate_reopen_finish,
    .close = preallocate_close,
    .inactivate = drop,
    .read_again = preallocate_read_again,
    .truncate = preallocate_truncate,
};
