/* SPDX-License-Identifier: BSD-2-Clause */
/* merge: a state inside of an image gets what it has in its parents, which may be deleted then. */
#include "block/snapshot.h"
#include "cli/state/state.h"
#include "move/children.h"
#include "state/convert.h"

#include <stdio.h>
#include <string.h>

struct output {
    struct vmstate *v;
    uint64_t size;
};

static int put(void *opaque, const void *buf, size_t len)
{
    struct output *o = opaque;
    int rc = vmstate_write(o->v, o->size, len, buf);
    o->size += rc < 0 ? 0 : len;
    return rc;
}

/* `in`: the state, then what it is based on. */
static int write_whole(const struct state_args *a, const GPtrArray *in, struct output *out, struct err *e)
{
    CLEANUP_FREE struct state_reader **readers = g_new0(struct state_reader *, in->len);
    for (guint i = 0; i < in->len; i++) {
        readers[i] = ((const struct state_input *)in->pdata[i])->r;
    }
    const struct state_input *first = in->pdata[0];
    const struct state_sink sink = {put, out, first->fd.name};
    g_autoptr(GPtrArray) lost = g_ptr_array_new(); /* nothing: it stays of its release */
    struct state_convert c = {.parents = readers + 1,
                              .nparents = in->len - 1,
                              .lost = lost,
                              .write = {.aligned = true, .index = true, .zstd_level = a->zstd_level},
                              .sink = &sink};
    return state_convert(readers[0], &c, e);
}

/* Those that are based on it know it by what is in it. */
static int check_no_child(struct node *n, const char *tag, struct err *e)
{
    CLEANUP_FREE char *child = snapshot_child(n, tag, e);
    if (child) {
        return err_set(e, EBUSY, "snapshot '%s' is based on '%s': merge that one first", child, tag);
    }
    return err_is_set(e) ? -EIO : 0;
}

static int merge(struct state_args *a, GPtrArray *in, struct err *e)
{
    const struct state_input *first = in->pdata[0];
    const char *tag = a->tags->pdata[0];
    struct output out = {0};
    struct node *n = state_image_node(first->image);
    struct snapshot *s = node_snapshot_find(n, NULL, tag);
    int rc = check_no_child(n, tag, e);
    rc = rc < 0 ? rc : vmstate_replace(n, s->id, &out.v, e);
    snapshot_free(s);
    rc = rc < 0 ? rc : write_whole(a, in, &out, e);
    rc = rc < 0 ? rc : vmstate_finish(out.v, out.size, e);
    vmstate_destroy(out.v);
    return rc;
}

static int run_with(struct state_args *a, GPtrArray *in, struct err *e)
{
    struct state_input *one = g_new0(struct state_input, 1);
    one->fd.fd = -1;
    g_ptr_array_add(in, one);
    int rc = state_input_open(a, one, a->operands[0], e);
    if (rc == 0 && !one->image) {
        return err_set(e, EINVAL, "'%s' is no disk image: 'convert' makes one state of several in files",
                       a->operands[0]);
    }
    rc = rc < 0 ? rc : state_input_parents(a, one, false, in, e);
    if (rc == 0 && in->len > 1) {
        rc = merge(a, in, e);
    }
    return rc;
}

static int run(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    g_autoptr(GPtrArray) in = state_inputs_new();
    a->writes = true;
    int rc = run_with(a, in, &e);
    if (rc == 0 && !a->quiet) {
        printf("snapshot '%s' %s\n", (const char *)a->tags->pdata[0],
               in->len > 1 ? "needs no other any more" : "is based on no other");
    }
    return rc < 0 ? state_fail(&e) : STATE_OK;
}

const struct state_verb state_verb_merge = {
    "merge", "IMAGE", "puts into a snapshot's state what it has in others of the image", "szqiO", 1, 1, run};
