/* SPDX-License-Identifier: BSD-2-Clause */
/* The state file, for people. */
#include "base/cleanup.h"
#include "base/json.h"
#include "config/file.h"
#include "monitor/hmp.h"

#include <inttypes.h>

/* As the file has it. */
static void print_section(struct mon_ctx *c, struct json_object *o)
{
    const char *name = hmp_str(o, "name");
    const struct config_section s = {hmp_str(o, "kind"), *name ? name : NULL, hmp_any(o, "values")};
    CLEANUP_FREE char *text = config_section_print(&s);
    mon_printf(c, "\n%s", text);
}

static int info_state(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = qmp_call(c, "query-state", NULL, &o, e);
    if (rc < 0) {
        return rc;
    }
    const char *file = hmp_str(o, "filename");
    struct json_object *list = hmp_any(o, "sections");
    if (*file) {
        mon_printf(c, "%s, generation %" PRId64 "%s\n", file, hmp_int(o, "generation"),
                   hmp_bool(o, "snapshot") ? ", changes are not written" : "");
    } else {
        mon_printf(c, "There is no state file\n");
    }
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        print_section(c, json_object_array_get_idx(list, i));
    }
    return 0;
}

static int state_save_as(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "state-save-as", args, e);
}

const struct hmp_command hmp_state_commands[] = {
    {"state_save_as", "filename:F", "filename", "writes a state file of the machine as it is now", state_save_as},
    {NULL},
};

const struct hmp_command hmp_state_info[] = {
    {"state", "", "", "shows what the machine is made of, and its state file", info_state},
    {NULL},
};
