/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/snapshot_state.h"

#include "state/manifest.h"

struct inside {
    struct node *n; /* a reference */
    struct vmstate *v;
    struct vmstate_direct *direct;
    char *name;
};

static int read_state(void *opaque, uint64_t off, void *buf, size_t len)
{
    return vmstate_read(((struct inside *)opaque)->v, off, len, buf);
}

static int read_direct(void *opaque, uint64_t off, void *buf, size_t len)
{
    return vmstate_direct_read(((struct inside *)opaque)->direct, off, len, buf);
}

static void close_state(void *opaque)
{
    struct inside *x = opaque;
    vmstate_direct_close(x->direct);
    vmstate_destroy(x->v);
    node_unref(x->n);
    g_free(x->name);
    g_free(x);
}

static int open_parent(void *opaque, const struct state_manifest *child, struct move_source *out, struct err *e)
{
    const struct inside *x = opaque;
    return snapshot_state_open(x->n, state_manifest_parent(child), x->direct != NULL, out, e);
}

static int open_found(struct node *n, const struct snapshot *s, bool direct, struct move_source *out, struct err *e)
{
    if (!s->vm_state_size) {
        return err_set(e, EINVAL, "This is a disk-only snapshot. Revert to it  offline using qemu-img");
    }
    struct vmstate *v;
    int rc = vmstate_open(n, s->id, &v, e);
    if (rc) {
        return rc;
    }
    struct inside *x = g_new(struct inside, 1);
    *x = (struct inside){.n = node_ref(n),
                         .v = v,
                         .direct = direct ? vmstate_direct_open(v, s->vm_state_size) : NULL,
                         .name = g_strdup_printf("snapshot '%s' of node '%s'", s->name, n->name)};
    *out = (struct move_source){.opaque = x,
                                .size = s->vm_state_size,
                                .name = x->name,
                                .read = read_state,
                                .read_now = x->direct ? read_direct : NULL,
                                .open_parent = open_parent,
                                .close = close_state};
    return 0;
}

int snapshot_state_open(struct node *n, const char *tag, bool direct, struct move_source *out, struct err *e)
{
    struct snapshot *s = node_snapshot_find(n, NULL, tag);
    int rc = s ? open_found(n, s, direct, out, e) : err_set(e, ENOENT, "Node '%s' has no snapshot '%s'", n->name, tag);
    snapshot_free(s);
    return rc;
}
