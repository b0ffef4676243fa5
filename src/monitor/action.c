/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/action.h"

#include "config/vm_state.h"
#include "monitor/check.h"

#include <string.h>

const struct mon_action_kind *const mon_action_kinds[] = {
    &action_abort,
    &action_backup,
    &action_bitmap_add,
    &action_bitmap_clear,
    &action_bitmap_disable,
    &action_bitmap_enable,
    &action_bitmap_merge,
    &action_bitmap_remove,
    &action_blockdev_add,
    &action_commit,
    &action_job_complete,
    &action_job_finalize,
    &action_drive_backup,
    &action_internal_snapshot,
    &action_machine_snapshot,
    &action_mirror,
    &action_snapshot,
    &action_snapshot_sync,
    &action_stream,
    NULL,
};

static void call(void (*fn)(struct mon_action *a), struct mon_action *a)
{
    if (fn) {
        fn(a);
    }
}

struct running {
    struct mon_action *a;
    bool opened, prepared;
};

static int open_all(struct running *r, const struct mon_step *steps, size_t count, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++) {
        if (steps[i].kind->open) {
            rc = steps[i].kind->open(r[i].a, steps[i].args, e);
            r[i].opened = rc == 0;
        }
    }
    return rc;
}

static int take_instant(struct running *r, const struct mon_step *steps, size_t count, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++) {
        rc = steps[i].kind->instant ? steps[i].kind->instant(r[i].a, e) : 0;
    }
    return rc;
}

static int prepare_all(struct running *r, const struct mon_step *steps, size_t count, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; i < count && !rc; i++) {
        rc = steps[i].kind->prepare(r[i].a, steps[i].args, e);
        r[i].prepared = rc == 0;
    }
    return rc;
}

static void end_all(struct running *r, const struct mon_step *steps, size_t count, bool well)
{
    for (size_t i = 0; i < count && well; i++) {
        call(steps[i].kind->commit, r[i].a);
    }
    for (size_t i = count; i-- > 0 && !well;) {
        if (r[i].prepared) {
            call(steps[i].kind->abort, r[i].a);
        }
    }
    for (size_t i = count; i-- > 0;) {
        if (r[i].opened || r[i].prepared) {
            call(steps[i].kind->clean, r[i].a);
        }
    }
}

int mon_actions_run(struct mon_ctx *c, const struct mon_step *steps, size_t count, struct job_txn *txn, struct err *e)
{
    g_autofree struct running *r = g_new0(struct running, count + 1);
    for (size_t i = 0; i < count; i++) {
        r[i].a = g_malloc0(steps[i].kind->size);
        /* What the state file shall say first, the guest's writes must wait for. */
        bool in_company = count > 1 || vm_state_is_live(c->env->state);
        *r[i].a = (struct mon_action){.kind = steps[i].kind, .c = c, .txn = txn, .in_company = in_company};
    }
    graph_change_begin(c->env->graph);
    int rc = open_all(r, steps, count, e);
    rc = rc ? rc : take_instant(r, steps, count, e);
    rc = rc ? rc : prepare_all(r, steps, count, e);
    rc = rc ? rc : vm_state_update(c->env->state, e);
    end_all(r, steps, count, rc == 0);
    graph_change_end(c->env->graph);
    for (size_t i = 0; i < count; i++) {
        g_free(r[i].a);
    }
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
