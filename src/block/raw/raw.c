/* SPDX-License-Identifier: BSD-2-Clause */
/* "raw": the bytes of its file as they are, or a window of them (offset, size). */
#include "base/checked.h"
#include "base/json.h"
#include "block/debug.h"
#include "block/driver.h"
#include "block/foreign.h"
#include "block/reopen.h"

#include <stdlib.h>
#include <string.h>

struct raw_state {
    uint64_t offset;
    bool has_size;
};

static int raw_probe(const uint8_t *buf, size_t len, const char *filename, struct err *e)
{
    return PROBE_WEAK; /* anything is raw when it is nothing else */
}

struct raw_window {
    struct raw_state state;
    uint64_t size;
};

static int read_window(struct node *n, struct json_object *options, struct raw_window *w, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    uint64_t offset = jread_size_or(&r, "offset", 0), size = jread_size_or(&r, "size", 0);
    bool has_size = jread_has(&r, "size");
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    uint64_t real = edge_size(n->file), end;
    if (offset > real) {
        return err_set(e, EINVAL,
                       "Offset (%" G_GUINT64_FORMAT
                       ") cannot be greater than size of the containing file (%" G_GUINT64_FORMAT ")",
                       offset, real);
    }
    if (has_size && (!add_ok(offset, size, &end) || end > real)) {
        return err_set(e, EINVAL,
                       "The sum of offset (%" G_GUINT64_FORMAT ") and size (%" G_GUINT64_FORMAT
                       ") has to be smaller or equal to the  actual size of the containing file (%" G_GUINT64_FORMAT
                       ")",
                       offset, size, real);
    }
    if (size % 512) {
        return err_set(e, EINVAL, "Specified size is not multiple of 512");
    }
    *w = (struct raw_window){.state = {offset, has_size}, .size = has_size ? size : real - offset};
    return 0;
}

static int raw_open(struct node *n, struct json_object *options, struct err *e)
{
    struct raw_state *s = n->priv;
    struct raw_window w;
    struct edge *ed;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, e);
    rc = rc < 0 ? rc : read_window(n, options, &w, e);
    if (rc < 0) {
        return rc;
    }
    *s = w.state;
    n->size = w.size;
    n->limits.opt_transfer = ed->child->limits.opt_transfer;
    return 0;
}

static int raw_read_again(struct node *n, struct err *e)
{
    struct raw_window w = {0};
    int rc = read_window(n, n->options, &w, e);
    if (rc == 0) {
        node_set_size(n, w.size);
    }
    return rc;
}

static int raw_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct raw_window *w = g_new0(struct raw_window, 1);
    r->priv = w;
    int rc = read_window(n, r->as.options, w, e);
    if (rc < 0) {
        g_free(w);
    }
    return rc;
}

static void raw_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct raw_state *s = n->priv;
    struct raw_window *w = r->priv, old = {*s, n->size};
    *s = w->state;
    node_set_size(n, w->size);
    *w = old;
}

static void raw_reopen_finish(struct node *n, struct node_reopen *r)
{
    g_free(r->priv);
}

static int raw_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct raw_state *s = n->priv;
    block_debug_event_at(n->file->child, "read_aio");
    return edge_read(n->file, s->offset + off, len, v, voff, flags);
}

enum { HEAD = 512 }; /* where the formats have their marks */

/* off: in the file, whose head was probed. A probed image stays raw: a guest must not be able to turn it into something
 * that opens other files. */
static int check_stays_raw(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    uint8_t buf[HEAD] = {0};
    int rc = edge_read_buf(n->file, 0, min_u64(edge_size(n->file), HEAD), buf);
    if (rc < 0) {
        return rc;
    }
    iovs_to_buf(v, voff, buf + off, min_u64(len, HEAD - off));
    for (int i = 0; block_drivers[i]; i++) {
        const struct block_driver *drv = block_drivers[i];
        if (drv->probe && drv != n->drv && drv->probe(buf, HEAD, n->filename, NULL) != PROBE_NO) {
            return -EPERM;
        }
    }
    return foreign_format(buf, HEAD) ? -EPERM : 0;
}

static int write_head(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct range_lock *l = node_lock_range(n, 0, HEAD); /* two halves of a mark must not pass side by side */
    int rc = l ? check_stays_raw(n, off, len, v, voff) : -ENOMEM;
    if (!rc) {
        rc = edge_write(n->file, off, len, v, voff, flags);
    }
    node_unlock_range(l);
    return rc;
}

static int raw_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct raw_state *s = n->priv;
    block_debug_event_at(n->file->child, "write_aio");
    if (__builtin_expect(n->probed && s->offset + off < HEAD, 0)) {
        return write_head(n, s->offset + off, len, v, voff, flags);
    }
    return edge_write(n->file, s->offset + off, len, v, voff, flags);
}

static int raw_copy_file(struct node *n, uint64_t off, uint64_t len, struct node *src, uint64_t soff)
{
    struct raw_state *s = n->priv;
    if (n->probed && s->offset + off < HEAD) {
        return -ENOTSUP; /* somebody must look at these bytes */
    }
    return edge_copy_file(n->file, s->offset + off, len, src, soff);
}

static int raw_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct raw_state *s = n->priv;
    return edge_zero(n->file, s->offset + off, len, flags);
}

static int raw_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct raw_state *s = n->priv;
    return edge_discard(n->file, s->offset + off, len);
}

static int raw_flush(struct node *n)
{
    return edge_flush(n->file);
}

static int raw_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct raw_state *s = n->priv;
    int rc = node_status(n->file->child, want_zero, s->offset + off, len, out);
    if (!rc && !out->len) { /* the file became shorter under us */
        *out = (struct extent){.len = len, .flags = EXT_ZERO | EXT_ALLOCATED};
    }
    return rc;
}

static int raw_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct raw_state *s = n->priv;
    uint64_t end;
    if (s->has_size) {
        return err_set(e, ENOTSUP, "Cannot resize fixed-size raw disks");
    }
    if (!add_ok(size, s->offset, &end)) {
        return err_set(e, EINVAL, "Disk size too large for the chosen offset");
    }
    int rc = edge_truncate(n->file, end, exact, prealloc, e);
    if (!rc) {
        node_set_size(n, edge_size(n->file) - s->offset);
    }
    return rc;
}

static void raw_child_resized(struct node *n)
{
    struct raw_state *s = n->priv;
    uint64_t size = edge_size(n->file);
    if (!s->has_size) {
        node_set_size(n, size > s->offset ? size - s->offset : 0);
    }
}

static bool raw_supports_fua(struct node *n)
{
    return true; /* edge_write() sees to it */
}

/* "file": a node to be resized, or the name of a file to be made. */
static int raw_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    struct json_object *file = NULL;
    if (!json_object_object_get_ex(opts, "file", &file)) {
        return driver_find("file")->create(g, opts, e);
    }
    const char *name = json_object_is_type(file, json_type_string) ? json_object_get_string(file) : NULL;
    struct node *n = name ? node_find(g, name) : NULL;
    if (!n) {
        struct json_object *o = json_clone(opts), *inner = NULL;
        json_object_object_del(o, "file");
        const char *path = name;
        if (!path && json_object_object_get_ex(file, "filename", &inner)) {
            path = json_object_get_string(inner);
        }
        if (path) {
            json_object_object_add(o, "filename", json_object_new_string(path));
        }
        int rc = driver_find("file")->create(g, o, e);
        json_object_put(o);
        return rc;
    }
    struct jread r = jread_init(opts, NULL, e);
    uint64_t size = jread_size(&r, "size");
    int prealloc = jread_enum_or(&r, "preallocation", prealloc_names, PREALLOC_OFF);
    int rc = jread_end_lax(&r);
    struct edge *ed;
    if (rc < 0 || (rc = edge_open(n, &(struct edge_spec){"create", PERM_WRITE | PERM_RESIZE, PERM_ALL}, &ed, e)) < 0) {
        return rc;
    }
    rc = edge_truncate(ed, size, true, prealloc, e);
    edge_close(ed);
    return rc;
}

static int raw_measure(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *r,
                       struct err *e)
{
    struct jread j = jread_init(opts, NULL, e);
    uint64_t size = source ? source->size : jread_size(&j, "size");
    int rc = jread_end_lax(&j);
    r->required = r->fully_allocated = round_up(min_u64(size, INT64_MAX), 512);
    return rc;
}

static const struct create_option raw_create_options[] = {
    {"size", "size", "Virtual disk size"},
    {NULL, NULL, NULL},
};

static const char *const raw_option_names[] = {"offset", "size", NULL};

const struct block_driver raw_driver = {
    .name = "raw",
    .priv_size = sizeof(struct raw_state),
    .passes_perms = true,
    .can_be_created = true,
    .option_names = raw_option_names,
    .strong_options = raw_option_names,
    .probe = raw_probe,
    .open = raw_open,
    .reopen_names = raw_option_names,
    .read_again = raw_read_again,
    .reopen_prepare = raw_reopen_prepare,
    .reopen_swap = raw_reopen_swap,
    .reopen_finish = raw_reopen_finish,
    .create = raw_create,
    .create_options = raw_create_options,
    .measure = raw_measure,
    .read = raw_read,
    .write = raw_write,
    .copy_file = raw_copy_file,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .status = raw_status,
    .truncate = raw_truncate,
    .supports_fua = raw_supports_fua,
    .child_resized = raw_child_resized,
};
