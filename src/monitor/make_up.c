/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/make_up.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/backend.h"
#include "block/driver.h"
#include "config/vm_state.h"
#include "job/job.h"

#include <string.h>

static const char *text(struct json_object *o, const char *key)
{
    struct json_object *v = json_object_object_get(o, key);
    return v ? json_object_get_string(v) : NULL;
}

/* --- before ------------------------------------------------------------------------------------------------------- */

static const char *const job_commands[] = {
    "block-commit",    "block-stream", "block_copy",   "blockdev-backup",
    "blockdev-mirror", "drive-backup", "drive-mirror", NULL,
};

bool make_up_is_job(const char *command)
{
    return g_strv_contains(job_commands, command);
}

/* As the command will call it. g_malloc'd; NULL: the command will fail. */
static char *job_id(struct mon_ctx *c, const char *command, struct json_object *args)
{
    const char *device = text(args, "device"), *id = text(args, "job-id");
    if (id) {
        return g_strdup(id);
    }
    const struct backend *b = device ? backend_lookup(c->env->graph, device, NULL) : NULL;
    if (!b) {
        return NULL;
    }
    if (strcmp(command, "block_copy") != 0) {
        return b->name[0] ? g_strdup(b->name) : NULL;
    }
    CLEANUP_FREE char *name = g_path_get_basename(b->name[0] ? b->name : b->qdev ? b->qdev : device);
    return g_strcanon(g_steal_pointer(&name), G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._", '_');
}

/*
 * What a mirror or a backup of "none" has gathered is about one instant, or about writes that a crash has lost: a
 * second one cannot go on where the first was. (It can where the machine goes to: move/jobs.h.)
 */
static bool goes_on(const char *command, struct json_object *args)
{
    const char *sync = text(args, "sync");
    return make_up_is_job(command) && (!sync || strcmp(sync, "none") != 0);
}

/* What a new image has when nobody says: it is not probed later, when the guest has written what is in it. */
static void note_format(struct mon_ctx *c, struct json_object *o)
{
    const char *device = text(o, "device"), *mode = text(o, "mode");
    const struct backend *b = device ? backend_find(c->env->graph, device) : NULL;
    struct node *n = b && b->root ? b->root->child : device ? node_find(c->env->graph, device) : NULL;
    if (n && !text(o, "format") && (!mode || strcmp(mode, "existing") != 0)) {
        json_object_object_add(o, "format", json_object_new_string(node_skip_filters(n)->drv->name));
    }
}

static void note_job(struct mon_ctx *c, const char *command, struct json_object *args)
{
    CLEANUP_FREE char *id = job_id(c, command, args);
    if (!id || jobs_find(c->env->jobs, id)) {
        return;
    }
    bool keeps = goes_on(command, args);
    CLEANUP_JSON struct json_object *o = json_clone(args);
    json_object_object_del(o, "job-id");
    json_object_object_add(o, "command", json_object_new_string(command));
    if (g_str_has_prefix(command, "drive-")) {
        note_format(c, o);
    }
    if (!keeps) { /* its mode says what is below the target */
        json_object_object_add(o, VM_STATE_NOT_KEPT, json_object_new_boolean(true));
    } else if (g_str_has_prefix(command, "drive-")) {
        json_object_object_add(o, "mode", json_object_new_string("existing"));
    }
    vm_state_note(c->env->state, "job", id, o);
}

static void note_export(struct mon_ctx *c, struct json_object *args)
{
    CLEANUP_JSON struct json_object *o = json_clone(args);
    CLEANUP_FREE char *id = g_strdup(text(o, "id"));
    json_object_object_del(o, "id");
    vm_state_note(c->env->state, "export", id, o);
}

/* nbd-server-add, said as block-export-add. */
static void note_old_export(struct mon_ctx *c, struct json_object *args)
{
    static const char *const same[] = {"writable", "description"};
    const char *name = text(args, "name") ? text(args, "name") : text(args, "device"), *bitmap = text(args, "bitmap");
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "type", json_object_new_string("nbd"));
    json_object_object_add(o, "name", json_object_new_string(name ? name : ""));
    for (size_t i = 0; i < G_N_ELEMENTS(same); i++) {
        struct json_object *v = json_object_object_get(args, same[i]);
        if (v) {
            json_object_object_add(o, same[i], json_object_get(v));
        }
    }
    if (bitmap) {
        struct json_object *list = json_object_new_array();
        json_object_array_add(list, json_object_new_string(bitmap));
        json_object_object_add(o, "bitmaps", list);
    }
    vm_state_note(c->env->state, "export", name, o);
}

void make_up_note_chardev(struct mon_env *env, struct json_object *options)
{
    CLEANUP_JSON struct json_object *o = json_clone(options);
    CLEANUP_FREE char *id = g_strdup(text(o, "id"));
    bool inherited = json_object_object_get(o, "fd");
    json_object_object_del(o, "id");
    json_object_object_del(o, "monitor");
    if (env->state && id) {
        vm_state_note(env->state, "chardev", id, inherited ? NULL : o);
    }
}

static void note_actions(struct mon_ctx *c, struct json_object *list)
{
    size_t n = json_object_is_type(list, json_type_array) ? json_object_array_length(list) : 0;
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        make_up_before(c, text(o, "type"), json_object_object_get(o, "data"));
    }
}

void make_up_before(struct mon_ctx *c, const char *command, struct json_object *args)
{
    if (!c->env->state || !args) {
        return;
    }
    if (make_up_is_job(command)) {
        note_job(c, command, args);
    } else if (!strcmp(command, "block-export-add")) {
        note_export(c, args);
    } else if (!strcmp(command, "nbd-server-add")) {
        note_old_export(c, args);
    } else if (!strcmp(command, "nbd-server-start") && !c->env->nbd) {
        vm_state_note(c->env->state, "nbd-server", NULL, args);
    } else if (!strcmp(command, "transaction")) {
        note_actions(c, json_object_object_get(args, "actions"));
    }
}

/* --- after -------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *makes, *takes_away, *name; /* name: of the argument; the other one's is its only one */
    const char *argument;
} undoing[] = {
    {"blockdev-add", "blockdev-del", "node-name", "node-name"},
    {"device_add", "device_del", "id", "id"},
    {"object-add", "object-del", "id", "id"},
    {"chardev-add", "chardev-remove", "id", "id"},
    {"block-export-add", "block-export-del", "id", "id"},
};

static bool undo(struct mon_ctx *c, const char *command, struct json_object *args)
{
    for (size_t i = 0; i < G_N_ELEMENTS(undoing); i++) {
        const char *name = !strcmp(undoing[i].makes, command) ? text(args, undoing[i].name) : NULL;
        if (name) {
            CLEANUP_JSON struct json_object *o = json_object_new_object(), *ret = NULL;
            json_object_object_add(o, undoing[i].argument, json_object_new_string(name));
            return qmp_command_find(undoing[i].takes_away)->call(c, o, &ret, NULL) == 0;
        }
    }
    return false;
}

int make_up_after(struct mon_ctx *c, const char *command, struct json_object *args, struct err *e)
{
    if (!vm_state_is_live(c->env->state) || g_str_has_prefix(command, "query-") || !strcmp(command, "quit")) {
        return 0;
    }
    int rc = vm_state_update(c->env->state, e);
    if (rc < 0) {
        bool undone = undo(c, command, args);
        return undone ? err_wrap(e, "%s is undone, for it cannot be written down", command)
                      : err_wrap(e, "%s has been done, but is not written down: a restart would not find it", command);
    }
    return 0;
}
