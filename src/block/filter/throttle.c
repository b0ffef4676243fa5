/* SPDX-License-Identifier: BSD-2-Clause */
/* "throttle": requests wait until their throttle-group lets them go. */
#include "block/throttle.h"

#include "base/json.h"
#include "block/backend.h"
#include "block/drivers.h"
#include "block/reopen.h"

struct throttle_state {
    struct throttle_group *group;
    unsigned bypass; /* drained: what is under way goes at once */
};

static int find_group(struct node *n, struct json_object *options, struct throttle_group **out, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    const char *id = jread_str(&r, "throttle-group");
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    *out = graph_object(n->graph, "throttle-group", id);
    if (!*out) {
        return err_set(e, ENOENT, "Throttle group '%s' does not exist", id);
    }
    throttle_group_ref(*out);
    return 0;
}

static int throttle_open(struct node *n, struct json_object *options, struct err *e)
{
    struct throttle_state *s = n->priv;
    struct edge *ed;
    struct throttle_group *group;
    int rc = find_group(n, options, &group, e);
    if (rc < 0) {
        return rc;
    }
    rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, e);
    if (rc < 0) {
        throttle_group_unref(group);
        return rc;
    }
    s->group = group;
    n->size = edge_size(ed);
    return 0;
}

static void throttle_close(struct node *n)
{
    struct throttle_state *s = n->priv;
    throttle_group_unref(s->group);
}

static void throttle(struct node *n, bool is_write, uint64_t len)
{
    struct throttle_state *s = n->priv;
    throttle_group_wait(s->group, is_write, len, &s->bypass);
}

static int throttle_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    throttle(n, false, len);
    return edge_read(n->file, off, len, v, voff, flags);
}

static int throttle_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    throttle(n, true, len);
    return edge_write(n->file, off, len, v, voff, flags);
}

static int throttle_write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    throttle(n, true, len);
    return edge_write(n->file, off, len, v, voff, REQ_COMPRESSED);
}

static int throttle_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    throttle(n, true, len);
    return edge_zero(n->file, off, len, flags);
}

static int throttle_discard(struct node *n, uint64_t off, uint64_t len)
{
    throttle(n, true, len);
    return edge_discard(n->file, off, len);
}

static bool throttle_supports_fua(struct node *n)
{
    return true;
}

static void throttle_drain_begin(struct node *n)
{
    struct throttle_state *s = n->priv;
    s->bypass++;
    throttle_group_kick(s->group);
}

static void throttle_drain_end(struct node *n)
{
    struct throttle_state *s = n->priv;
    s->bypass--;
}

void graph_end_limits(struct block_graph *g)
{
    GPtrArray *nodes = graph_nodes(g), *backends = graph_backends(g);
    for (guint i = 0; i < backends->len; i++) {
        backend_hurry(g_ptr_array_index(backends, i), true);
    }
    for (guint i = 0; i < nodes->len; i++) {
        struct node *n = g_ptr_array_index(nodes, i);
        if (n->drv == &throttle_driver && n->opened) {
            throttle_drain_begin(n);
        }
    }
}

static int throttle_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct throttle_group *group;
    int rc = find_group(n, r->as.options, &group, e);
    r->priv = rc < 0 ? NULL : group;
    return rc;
}

static void throttle_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct throttle_state *s = n->priv;
    struct throttle_group *other = r->priv;
    r->priv = s->group;
    s->group = other;
}

static void throttle_reopen_finish(struct node *n, struct node_reopen *r)
{
    throttle_group_unref(r->priv);
}

static const char *const throttle_options[] = {"throttle-group", NULL};

const struct block_driver throttle_driver = {
    .name = "throttle",
    .priv_size = sizeof(struct throttle_state),
    .is_filter = true,
    .option_names = throttle_options,
    .open = throttle_open,
    .reopen_names = throttle_options,
    .reopen_prepare = throttle_reopen_prepare,
    .reopen_swap = throttle_reopen_swap,
    .reopen_finish = throttle_reopen_finish,
    .close = throttle_close,
    .read = throttle_read,
    .write = throttle_write,
    .write_compressed = throttle_write_compressed,
    .zero = throttle_zero,
    .discard = throttle_discard,
    .supports_fua = throttle_supports_fua,
    .drain_begin = throttle_drain_begin,
    .drain_end = throttle_drain_end,
};
