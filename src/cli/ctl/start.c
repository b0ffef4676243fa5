/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/start.h"

#include <stdio.h>
#include <string.h>

int start_prepare(struct ctl *c, struct start *s, struct err *e)
{
    *s = (struct start){0};
    CLEANUP_JSON struct json_object *jobs = NULL;
    int rc = ctl_connect(c, e);
    rc = rc ? rc : disk_find(c, c->operands[0], &s->disk, e);
    rc = rc ? rc : ctl_call(c, "query-jobs", &jobs, e, NULL);
    s->job = rc ? NULL : disk_free_name(&s->disk, c->verb->name, jobs);
    return rc;
}

void start_finish(struct start *s)
{
    disk_finish(&s->disk);
    g_free(s->job);
}

struct json_object *start_args(struct ctl *c, const struct start *s, struct err *e)
{
    uint64_t speed;
    if (ctl_option_size(c, "speed", &speed, e)) {
        return NULL;
    }
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "job-id", json_object_new_string(s->job));
    json_object_object_add(o, "device", json_object_new_string(s->disk.node));
    json_object_object_add(o, "auto-dismiss", json_object_new_boolean(false));
    if (speed) {
        json_object_object_add(o, "speed", ctl_new_int(speed));
    }
    return o;
}

static int detach(struct ctl *c, const char *job)
{
    if (c->json) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "job", json_object_new_string(job));
        ctl_put_json(o);
    } else {
        puts(job);
    }
    return CTL_OK;
}

int start_run(struct ctl *c, const struct start *s, const char *command, struct json_object *args,
              enum follow_ready on_ready, struct target *t)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (client_call(c->client, command, args, NULL, &e)) {
        if (t) {
            target_undo(c, t);
        }
        return ctl_fail(c, &e);
    }
    if (ctl_option(c, "detach")) {
        return detach(c, s->job);
    }
    struct follow_spec f = {.job = s->job, .disk = &s->disk, .on_ready = on_ready};
    int rc = follow_job(c, &f);
    if (rc != CTL_LEFT) {
        target_release(c, s->job);
    }
    return rc;
}

void start_leave(struct ctl *c, const struct disk *d)
{
    CLEANUP_ERR struct err ignored = ERR_INIT;
    CLEANUP_JSON struct json_object *nodes = NULL;
    target_release(c, d->node); /* it may be the target of another verb */
    bool known = !ctl_call(c, "query-named-block-nodes", &nodes, &ignored, NULL);
    if (known && disk_node(nodes, d->node) && d->node[0] != '#') { /* somebody has opened it by that name */
        ctl_say(c, "The old image stays open until 'sternactl qmp blockdev-del node-name=%s'", d->node);
    }
}
