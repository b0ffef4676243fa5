/* SPDX-License-Identifier: BSD-2-Clause */
/* Jobs that make images and change what they are. */
#include "schema/qmp_create.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "job/create.h"
#include "monitor/check.h"

#include "monitor/device_arg.h"
#include <string.h>

/* The driver that options name, and the options without its name. */
static const struct block_driver *take_driver(struct json_object *options, struct json_object **rest, struct err *e)
{
    const char *name = schema_str(options, "driver");
    const struct block_driver *drv = driver_find(name);
    if (!drv) {
        err_set(e, EINVAL, "Block driver '%s' not found or not supported", name);
        return NULL;
    }
    *rest = json_clone(options);
    json_object_object_del(*rest, "driver");
    return drv;
}

/* Drivers that the schema knows no options for: tools may have them "create" what is there, no more. */
static bool is_described(const char *command, const char *driver)
{
    const struct schema_member *m = qmp_command_find(command)->args->members;
    while (strcmp(m->name, "options") != 0) {
        m++;
    }
    const struct schema_variant *v = m->type->variants;
    while (v->value && strcmp(v->value, driver) != 0) {
        v++;
    }
    return v->value;
}

/* Of the kinds of encryption that qcow2 knows, one has another name here. */
static void rename_format(struct json_object *opts)
{
    struct json_object *encrypt = schema_any(opts, "encrypt");
    if (encrypt && !strcmp(schema_str(encrypt, "format"), "qcow")) {
        json_object_object_add(encrypt, "format", json_object_new_string("aes"));
    }
}

int qmp_blockdev_create(struct mon_ctx *c, const struct qmp_blockdev_create_args *a, struct json_object **ret,
                        struct err *e)
{
    CLEANUP_JSON struct json_object *opts = NULL;
    const struct block_driver *drv = take_driver(a->options, &opts, e);
    if (!drv) {
        return -EINVAL;
    }
    if (!drv->create || !is_described("blockdev-create", drv->name)) {
        return err_set(e, ENOTSUP, "Driver does not support blockdev-create");
    }
    rename_format(opts);
    return create_start(c->env->jobs, c->env->graph, a->job_id, drv, opts, e);
}

int qmp_x_blockdev_amend(struct mon_ctx *c, const struct qmp_x_blockdev_amend_args *a, struct json_object **ret,
                         struct err *e)
{
    CLEANUP_JSON struct json_object *opts = NULL;
    struct node *n = node_lookup(c->env->graph, a->node_name, e);
    const struct block_driver *drv = n ? take_driver(a->options, &opts, e) : NULL;
    if (!drv) {
        return -EINVAL;
    }
    if (n->drv != drv) {
        return err_set(e, EINVAL, "x-blockdev-amend doesn't support changing the block driver");
    }
    return amend_start(c->env->jobs, &(struct amend_options){a->job_id, n, opts, a->force}, e);
}
