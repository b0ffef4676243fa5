/* SPDX-License-Identifier: BSD-2-Clause */
/* Not part of the machine: sterna-img has it, too. */
#include "move/children.h"

#include "base/cleanup.h"
#include "state/manifest.h"
#include "state/stream.h"

#include <errno.h>
#include <string.h>

struct source {
    struct vmstate *v;
    uint64_t size, at;
};

static ssize_t read_on(void *opaque, void *buf, size_t len)
{
    struct source *s = opaque;
    len = MIN(len, s->size - s->at);
    int rc = len ? vmstate_read(s->v, s->at, len, buf) : 0;
    s->at += rc < 0 ? 0 : len;
    return rc < 0 ? rc : (ssize_t)len;
}

/* A state that cannot be read is no reason to keep another. */
static bool is_child(struct node *n, const struct snapshot *s, const char *tag)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct source src = {.size = s->vm_state_size};
    if (!s->vm_state_size || vmstate_open(n, s->id, &src.v, &e) < 0) {
        return false;
    }
    struct state_reader *r =
        state_reader_create(&(struct state_source){.read = read_on, .opaque = &src, .name = s->name}, &e);
    const char *parent = r ? state_manifest_parent(state_reader_manifest(r)) : NULL;
    bool is = parent && !strcmp(parent, tag);
    state_reader_destroy(r);
    vmstate_destroy(src.v);
    return is;
}

char *snapshot_child(struct node *n, const char *tag, struct err *e)
{
    g_autoptr(GPtrArray) all = node_snapshots(n, e);
    for (guint i = 0; all && i < all->len; i++) {
        const struct snapshot *s = g_ptr_array_index(all, i);
        if (strcmp(s->name, tag) != 0 && is_child(n, s, tag)) {
            return g_strdup(s->name);
        }
    }
    return NULL;
}

int snapshot_check_no_child(struct node *n, const char *tag, struct err *e)
{
    CLEANUP_FREE char *child = snapshot_child(n, tag, e);
    if (!child) {
        return err_is_set(e) ? -EIO : 0;
    }
    return err_set(e, EBUSY,
                   "Snapshot '%s' of node '%s' is needed by snapshot '%s', which holds only what changed since: "
                   "that one has to be deleted first",
                   tag, n->name, child);
}
