/* SPDX-License-Identifier: BSD-2-Clause */
/* Sections of a state file that no option makes. */
#include "cli/sterna/state.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/options.h"
#include "block/throttle.h"
#include "config/vm_state.h"
#include "job/job.h"
#include "monitor/make_up.h"

#include <string.h>

static int run_command(struct program *p, const char *name, struct json_object *args, struct err *e)
{
    struct mon_ctx ctx = {.env = &p->env, .goes_on = make_up_is_job(name)};
    CLEANUP_JSON struct json_object *ret = NULL;
    return qmp_call(&ctx, name, args, &ret, e);
}

/* --- drives ------------------------------------------------------------------------------------------------------- */

static int fill_drive(struct program *p, struct backend *b, struct jread *r, struct err *e)
{
    static const char *const policies[] = {"report", "ignore", "enospc", "stop", "auto", NULL};
    const char *name = jread_str_or(r, "node", NULL);
    b->rerror = (enum io_error_action)jread_enum_or(r, "rerror", policies, IO_ERROR_AUTO);
    b->werror = (enum io_error_action)jread_enum_or(r, "werror", policies, IO_ERROR_AUTO);
    b->write_cache = jread_bool_or(r, "write-cache", true);
    struct node *n = name ? node_find(p->env.graph, name) : NULL;
    if (r->rc < 0 || !name) {
        return r->rc;
    }
    int rc = n ? backend_insert(b, n, false, true, e) : err_set(e, ENOENT, "'node': there is no block node '%s'", name);
    if (rc == 0) {
        backend_share(b); /* until a device has it */
    }
    return rc;
}

int state_add_drive(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, NULL, e);
    struct backend *b = NULL;
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    int rc = backend_create(p->env.graph, jread_str(&r, "id"), &b, e);
    rc = rc < 0 ? rc : fill_drive(p, b, &r, e);
    int end = rc < 0 ? jread_end_lax(&r) : jread_end(&r);
    rc = rc < 0 ? rc : end;
    if (rc < 0) {
        backend_destroy(b);
    }
    return rc;
}

/* --- limits ------------------------------------------------------------------------------------------------------- */

static int limit_disks(struct program *p, struct throttle_group *t, struct json_object *disks, struct err *e)
{
    for (size_t i = 0; disks && i < json_object_array_length(disks); i++) {
        const char *name = json_object_get_string(json_object_array_get_idx(disks, i));
        struct backend *b = backend_find(p->env.graph, name);
        if (!b) {
            return err_set(e, ENOENT, "'disks.%zu': there is no disk '%s'", i, name);
        }
        backend_limit_by(b, t);
    }
    return 0;
}

int state_add_throttle(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, NULL, e);
    struct json_object *disks = json_object_object_get(o, "disks"), *limits = json_object_object_get(o, "limits");
    const char *name = json_object_get_string(json_object_object_get(o, "group"));
    struct throttle_config config;
    if (!o) {
        return -EINVAL;
    }
    if (disks && !json_object_is_type(disks, json_type_array)) {
        return err_set(e, EINVAL, "'disks' are numbered from 0: disks.0 = …");
    }
    int rc = limits ? throttle_config_parse(limits, &config, e) : 0;
    if (rc < 0) {
        return rc;
    }
    struct throttle_group *t = graph_limit_group(p->env.graph, name);
    if (limits) {
        throttle_group_set(t, &config);
    }
    rc = limit_disks(p, t, disks, e);
    throttle_group_unref(t);
    return rc;
}

/* --- exports, jobs ------------------------------------------------------------------------------------------------ */

int state_start_server(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, NULL, e);
    return o ? run_command(p, "nbd-server-start", o, e) : -EINVAL;
}

int state_add_export(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, NULL, e);
    return o ? run_command(p, "block-export-add", o, e) : -EINVAL;
}

static int resume(struct program *p, struct json_object *o, const char *command, bool paused, struct err *e)
{
    CLEANUP_FREE char *id = g_strdup(json_object_get_string(json_object_object_get(o, "job-id")));
    if (!strcmp(command, "block_copy")) { /* the job is called after the disk */
        json_object_object_del(o, "job-id");
    }
    int rc = run_command(p, command, o, e);
    struct job *j = rc < 0 || !paused ? NULL : jobs_find(p->env.jobs, id);
    return j ? job_user_pause(j, e) : rc;
}

int state_make_job(struct program *p, const char *id, struct json_object *values, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_clone(values);
    CLEANUP_FREE char *command = g_strdup(json_get_str(o, "command"));
    bool paused = json_object_get_boolean(json_object_object_get(o, "paused"));
    json_object_object_del(o, "command");
    json_object_object_del(o, "paused");
    json_object_object_add(o, "job-id", json_object_new_string(id));
    return command && make_up_is_job(command)
               ? resume(p, o, command, paused, e)
               : err_set(e, EINVAL, "'%s' makes no job that goes on elsewhere", command ? command : "");
}

int state_resume_job(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, NULL, e);
    if (!o) {
        return -EINVAL;
    }
    CLEANUP_FREE char *command = g_strdup(json_object_get_string(json_object_object_get(o, "command")));
    bool paused = json_object_get_boolean(json_object_object_get(o, "paused"));
    json_object_object_del(o, "command");
    json_object_object_del(o, "paused");
    if (!make_up_is_job(command)) {
        return err_set(e, EINVAL, "'command': '%s' makes no job that goes on after a restart", command);
    }
    CLEANUP_ERR struct err why = ERR_INIT;
    if (resume(p, o, command, paused, &why) < 0) {
        log_warn(p->log, "job '%s' cannot go on after the restart: %s",
                 json_object_get_string(json_object_object_get(o, "job-id")), err_text(&why));
    }
    return 0;
}
