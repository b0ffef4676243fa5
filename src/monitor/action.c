/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/action.h"

#include "monitor/check.h"

#include <string.h>

const struct mon_action_kind *const mon_action_kinds[] = {
    &action_abort,         &action_backup,       &action_bitmap_add,    &action_bitmap_clear, &action_bitmap_disable,
    &action_bitmap_enable, &action_bitmap_merge, &action_bitmap_remove, &action_blockdev_add, &action_commit,
    &action_job_complete,  &action_job_finalize, &action_mirror,        &action_stream,       NULL,
};

static void call(void (*fn)(struct mon_action *a), struct mon_action *a)
{
    if (fn) {
        fn(a);
    }
}

int mon_actions_run(struct mon_ctx *c, const struct mon_step *steps, size_t count, struct job_txn *txn, struct err *e)
{
    g_autoptr(GPtrArray) made = g_ptr_array_new_with_free_func(g_free);
    int rc = 0;
    co_lock(&c->env->actions);
    for (size_t i = 0; i < count && !rc; i++) {
        struct mon_action *a = g_malloc0(steps[i].kind->size);
        *a = (struct mon_action){.kind = steps[i].kind, .c = c, .txn = txn, .in_company = count > 1};
        rc = a->kind->prepare(a, steps[i].args, e);
        if (rc) {
            g_free(a);
        } else {
            g_ptr_array_add(made, a);
        }
    }
    for (guint i = 0; i < made->len && !rc; i++) {
        struct mon_action *a = g_ptr_array_index(made, i);
        call(a->kind->commit, a);
    }
    for (guint i = made->len; i-- > 0 && rc;) {
        struct mon_action *a = g_ptr_array_index(made, i);
        call(a->kind->abort, a);
    }
    for (guint i = made->len; i-- > 0;) {
        struct mon_action *a = g_ptr_array_index(made, i);
        call(a->kind->clean, a);
    }
    co_unlock(&c->env->actions);
    return rc;
}

int mon_action_run(struct mon_ctx *c, const struct mon_action_kind *kind, const void *args, struct err *e)
{
    return mon_actions_run(c, &(struct mon_step){kind, args}, 1, NULL, e);
}

const struct mon_action_kind *mon_action_kind_find(const char *name)
{
    for (const struct mon_action_kind *const *k = mon_action_kinds; *k; k++) {
        if (!strcmp((*k)->name, name)) {
            return *k;
        }
    }
    return NULL;
}

int mon_transaction(struct mon_ctx *c, struct json_object *list, struct job_txn *txn, struct err *e)
{
    size_t count = json_object_array_length(list);
    g_autofree struct mon_step *steps = g_new0(struct mon_step, count + 1);
    g_autoptr(GPtrArray) args = g_ptr_array_new_with_free_func(g_free);
    for (size_t i = 0; i < count; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        const struct mon_action_kind *k = mon_action_kind_find(schema_str(o, "type"));
        if (!k) {
            return err_set(e, EINVAL, "Action '%s' is unknown", schema_str(o, "type"));
        }
        steps[i] = (struct mon_step){k, g_malloc0(k->args_size)};
        g_ptr_array_add(args, (void *)(uintptr_t)steps[i].args);
        if (k->decode) {
            k->decode(schema_any(o, "data"), (void *)(uintptr_t)steps[i].args);
        }
    }
    return mon_actions_run(c, steps, count, txn, e);
}
