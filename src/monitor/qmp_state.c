/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_state.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "config/vm_state.h"
#include "monitor/command.h"

static int refresh(struct mon_ctx *c, struct err *e)
{
    return c->env->state ? vm_state_refresh(c->env->state, e)
                         : err_set(e, ENOTSUP, "this program does not keep what its machine is made of");
}

int qmp_query_state(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    int rc = refresh(c, e);
    if (rc < 0) {
        return rc;
    }
    struct config_file *f = vm_state_file(c->env->state);
    CLEANUP_JSON struct json_object *all = config_file_json(f);
    *ret = json_object_new_object();
    if (config_file_path(f)) {
        json_object_object_add(*ret, "filename", json_object_new_string(config_file_path(f)));
    }
    json_object_object_add(*ret, "snapshot", json_object_new_boolean(config_file_is_snapshot(f)));
    json_object_object_add(*ret, "generation", json_object_new_uint64(config_file_generation(f)));
    json_object_object_add(*ret, "sections", json_object_get(json_object_object_get(all, "sections")));
    return 0;
}

int qmp_state_save_as(struct mon_ctx *c, const struct qmp_state_save_as_args *a, struct json_object **ret,
                      struct err *e)
{
    int rc = refresh(c, e);
    return rc < 0 ? rc : config_file_save_as(vm_state_file(c->env->state), a->filename, e);
}
