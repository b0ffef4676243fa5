/* SPDX-License-Identifier: BSD-2-Clause */
/* The state file, for people. */
#include "base/cleanup.h"
#include "base/json.h"
#include "monitor/hmp.h"

#include <inttypes.h>

static void print_section(struct mon_ctx *c, struct json_object *s)
{
    g_autoptr(GString) text = g_string_new(NULL);
    const char *name = hmp_str(s, "name");
    json_describe(hmp_any(s, "values"), 1, text);
    mon_printf(c, *name ? "[%s \"%s\"]\n" : "[%s]\n", hmp_str(s, "kind"), name);
    mon_printf(c, "%s", text->str);
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
