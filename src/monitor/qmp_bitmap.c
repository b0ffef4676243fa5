/* SPDX-License-Identifier: BSD-2-Clause */
/* Dirty bitmaps. What changes them is an action, which a transaction can take back. */
#include "schema/qmp_bitmap.h"

#include "base/cleanup.h"
#include "block/backend.h"
#include "block/dirty.h"
#include "monitor/action.h"
#include "monitor/check.h"
#include "monitor/device_arg.h"

#include <string.h>

/* In company (action.h) its node is drained and the bitmap held, else the node only has a reference. */
struct change {
    struct mon_action action;
    struct dirty_bitmap *b;
    struct node *node;
    struct bitmap_saved was;
};

static struct dirty_bitmap *lookup(struct mon_ctx *c, const char *node, const char *name, struct err *e)
{
    struct node *n = device_arg_node(c, node, node, NULL);
    if (!n) {
        err_set(e, ENOENT, "Node '%s' not found", node);
        return NULL;
    }
    return dirty_bitmap_lookup(n, name, e);
}

static void begin_node(struct change *x, struct node *n)
{
    x->node = node_ref(n);
    if (x->action.in_company) {
        node_drain_begin(n);
    }
}

static void end_node(struct change *x)
{
    if (x->action.in_company) {
        node_drain_end(x->node);
    }
    node_unref(x->node);
}

/* Finds what is to be changed, in x->b. When that fails nothing is to be undone. */
static int begin(struct change *x, const char *node, const char *name, struct err *e)
{
    struct dirty_bitmap *b = lookup(x->action.c, node, name, e);
    if (!b) {
        return -ENOENT;
    }
    begin_node(x, b->node);
    /* Draining waits. */
    x->b = dirty_bitmap_lookup(x->node, name, e);
    int rc = x->b ? 0 : -ENOENT;
    if (rc == 0 && x->action.in_company) {
        rc = dirty_bitmap_hold(x->b, &x->was, e);
    }
    if (rc < 0) {
        end_node(x);
    }
    return rc;
}

/* After begin(): what prepare returns. */
static int changed(struct change *x, int rc)
{
    if (rc < 0) {
        if (x->action.in_company) {
            dirty_bitmap_put_back(x->b, &x->was);
        }
        end_node(x);
    }
    return rc;
}

static void keep(struct mon_action *a)
{
    struct change *x = (struct change *)a;
    if (a->in_company) {
        dirty_bitmap_keep(x->b, &x->was);
    }
}

static void put_back(struct mon_action *a)
{
    struct change *x = (struct change *)a;
    dirty_bitmap_put_back(x->b, &x->was);
}

static void clean(struct mon_action *a)
{
    end_node((struct change *)a);
}

/* --- add ---------------------------------------------------------------------------------------------------------- */

static int prepare_add(struct mon_action *action, const void *args, struct err *e)
{
    struct change *x = (struct change *)action;
    const struct qmp_block_dirty_bitmap_add_args *a = args;
    struct bitmap_spec spec = {.name = a->name,
                               .has_granularity = a->has_granularity,
                               .granularity = a->has_granularity ? (uint32_t)a->granularity : 0,
                               .persistent = a->persistent,
                               .disabled = a->disabled};
    if (!*a->name) {
        return err_set(e, EINVAL, "Bitmap name cannot be empty");
    }
    struct node *n = device_arg_node(action->c, a->node, a->node, e);
    if (!n) {
        return -ENOENT;
    }
    begin_node(x, n);
    int rc = node_bitmap_add(n, &spec, &x->b, e);
    if (rc < 0) {
        end_node(x);
    }
    return rc;
}

static void abort_add(struct mon_action *a)
{
    struct change *x = (struct change *)a;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (node_bitmap_remove(x->b, &e) < 0) {
        log_error(a->c->env->log, "bitmap '%s' of a transaction that failed stays: %s", x->b->name, err_text(&e));
    }
}

const struct mon_action_kind action_bitmap_add = {
    .name = "block-dirty-bitmap-add",
    .size = sizeof(struct change),
    .args_size = sizeof(struct qmp_block_dirty_bitmap_add_args),
    .decode = qmp_block_dirty_bitmap_add_decode,
    .prepare = prepare_add,
    .abort = abort_add,
    .clean = clean,
};

int qmp_block_dirty_bitmap_add(struct mon_ctx *c, const struct qmp_block_dirty_bitmap_add_args *a,
                               struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_bitmap_add, a, e);
}

/* --- remove ------------------------------------------------------------------------------------------------------- */

/* In company nobody may use it any more, and it goes when all goes well. */
static int prepare_remove(struct mon_action *action, const void *args, struct err *e)
{
    struct change *x = (struct change *)action;
    const struct qmp_block_dirty_bitmap_remove_args *a = args;
    x->b = lookup(action->c, a->node, a->name, e);
    if (!x->b) {
        return -ENOENT;
    }
    begin_node(x, x->b->node);
    x->b = dirty_bitmap_lookup(x->node, a->name, e);
    int rc = !x->b                ? -ENOENT
             : action->in_company ? dirty_bitmap_check(x->b, BITMAP_BUSY | BITMAP_READ_ONLY, e)
                                  : node_bitmap_remove(x->b, e);
    if (rc < 0) {
        end_node(x);
    } else if (action->in_company) {
        x->b->busy = true;
    }
    return rc;
}

static void commit_remove(struct mon_action *a)
{
    struct change *x = (struct change *)a;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!a->in_company) {
        return;
    }
    x->b->busy = false;
    if (node_bitmap_remove(x->b, &e) < 0) {
        log_error(a->c->env->log, "bitmap '%s' of node '%s' stays: %s", x->b->name, x->node->name, err_text(&e));
    }
}

static void abort_remove(struct mon_action *a)
{
    ((struct change *)a)->b->busy = false;
}

const struct mon_action_kind action_bitmap_remove = {
    .name = "block-dirty-bitmap-remove",
    .size = sizeof(struct change),
    .args_size = sizeof(struct qmp_block_dirty_bitmap_remove_args),
    .decode = qmp_block_dirty_bitmap_remove_decode,
    .prepare = prepare_remove,
    .commit = commit_remove,
    .abort = abort_remove,
    .clean = clean,
};

int qmp_block_dirty_bitmap_remove(struct mon_ctx *c, const struct qmp_block_dirty_bitmap_remove_args *a,
                                  struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_bitmap_remove, a, e);
}

/* --- clear, enable, disable ------------------------------------------------------------------------------------------
 */

static int prepare_clear(struct mon_action *action, const void *args, struct err *e)
{
    struct change *x = (struct change *)action;
    const struct qmp_block_dirty_bitmap_clear_args *a = args;
    int rc = begin(x, a->node, a->name, e);
    return rc < 0 ? rc : changed(x, dirty_bitmap_reset(x->b, e));
}

const struct mon_action_kind action_bitmap_clear = {
    .name = "block-dirty-bitmap-clear",
    .size = sizeof(struct change),
    .args_size = sizeof(struct qmp_block_dirty_bitmap_clear_args),
    .decode = qmp_block_dirty_bitmap_clear_decode,
    .prepare = prepare_clear,
    .commit = keep,
    .abort = put_back,
    .clean = clean,
};

int qmp_block_dirty_bitmap_clear(struct mon_ctx *c, const struct qmp_block_dirty_bitmap_clear_args *a,
                                 struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_bitmap_clear, a, e);
}

static int prepare_enable(struct mon_action *action, const void *args, struct err *e)
{
    struct change *x = (struct change *)action;
    const struct qmp_block_dirty_bitmap_enable_args *a = args;
    int rc = begin(x, a->node, a->name, e);
    return rc < 0 ? rc : changed(x, dirty_bitmap_enable(x->b, true, e));
}

const struct mon_action_kind action_bitmap_enable = {
    .name = "block-dirty-bitmap-enable",
    .size = sizeof(struct change),
    .args_size = sizeof(struct qmp_block_dirty_bitmap_enable_args),
    .decode = qmp_block_dirty_bitmap_enable_decode,
    .prepare = prepare_enable,
    .commit = keep,
    .abort = put_back,
    .clean = clean,
};

int qmp_block_dirty_bitmap_enable(struct mon_ctx *c, const struct qmp_block_dirty_bitmap_enable_args *a,
                                  struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_bitmap_enable, a, e);
}

static int prepare_disable(struct mon_action *action, const void *args, struct err *e)
{
    struct change *x = (struct change *)action;
    const struct qmp_block_dirty_bitmap_disable_args *a = args;
    int rc = begin(x, a->node, a->name, e);
    return rc < 0 ? rc : changed(x, dirty_bitmap_enable(x->b, false, e));
}

const struct mon_action_kind action_bitmap_disable = {
    .name = "block-dirty-bitmap-disable",
    .size = sizeof(struct change),
    .args_size = sizeof(struct qmp_block_dirty_bitmap_disable_args),
    .decode = qmp_block_dirty_bitmap_disable_decode,
    .prepare = prepare_disable,
    .commit = keep,
    .abort = put_back,
    .clean = clean,
};

int qmp_block_dirty_bitmap_disable(struct mon_ctx *c, const struct qmp_block_dirty_bitmap_disable_args *a,
                                   struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_bitmap_disable, a, e);
}

/* --- merge -------------------------------------------------------------------------------------------------------- */

static struct dirty_bitmap *source(struct mon_ctx *c, struct node *n, struct json_object *ref, struct err *e)
{
    return json_object_is_type(ref, json_type_string) ? dirty_bitmap_lookup(n, json_object_get_string(ref), e)
                                                      : lookup(c, schema_str(ref, "node"), schema_str(ref, "name"), e);
}

/* All sources in one, so that the target is changed once or not at all. */
static int gather(struct mon_ctx *c, struct dirty_bitmap *into, struct json_object *sources, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < json_object_array_length(sources) && rc == 0; i++) {
        struct dirty_bitmap *b = source(c, into->node, json_object_array_get_idx(sources, i), e);
        rc = b ? dirty_bitmap_merge(into, b, e) : -ENOENT;
    }
    return rc;
}

static int merge(struct mon_ctx *c, struct dirty_bitmap *target, struct json_object *sources, struct err *e)
{
    struct dirty_bitmap *sum;
    int rc = dirty_bitmap_create(target->node, NULL, target->granularity, &sum, e);
    if (rc < 0) {
        return rc;
    }
    sum->enabled = false;
    rc = gather(c, sum, sources, e);
    rc = rc < 0 ? rc : dirty_bitmap_merge(target, sum, e);
    dirty_bitmap_destroy(sum);
    return rc;
}

static int prepare_merge(struct mon_action *action, const void *args, struct err *e)
{
    struct change *x = (struct change *)action;
    const struct qmp_block_dirty_bitmap_merge_args *a = args;
    int rc = begin(x, a->node, a->target, e);
    return rc < 0 ? rc : changed(x, merge(action->c, x->b, a->bitmaps, e));
}

const struct mon_action_kind action_bitmap_merge = {
    .name = "block-dirty-bitmap-merge",
    .size = sizeof(struct change),
    .args_size = sizeof(struct qmp_block_dirty_bitmap_merge_args),
    .decode = qmp_block_dirty_bitmap_merge_decode,
    .prepare = prepare_merge,
    .commit = keep,
    .abort = put_back,
    .clean = clean,
};

int qmp_block_dirty_bitmap_merge(struct mon_ctx *c, const struct qmp_block_dirty_bitmap_merge_args *a,
                                 struct json_object **ret, struct err *e)
{
    return mon_action_run(c, &action_bitmap_merge, a, e);
}

/* --- for tests ---------------------------------------------------------------------------------------------------- */

int qmp_x_debug_block_dirty_bitmap_sha256(struct mon_ctx *c, const struct qmp_x_debug_block_dirty_bitmap_sha256_args *a,
                                          struct json_object **ret, struct err *e)
{
    struct dirty_bitmap *b = lookup(c, a->node, a->name, e);
    if (!b) {
        return -ENOENT;
    }
    CLEANUP_FREE char *digest = dirty_bitmap_sha256(b);
    *ret = json_object_new_object();
    json_object_object_add(*ret, "sha256", json_object_new_string(digest));
    return 0;
}
