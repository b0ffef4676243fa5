/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "monitor/session.h"

#include <inttypes.h>

struct json_object *hmp_any(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? v : NULL;
}

const char *hmp_str(struct json_object *o, const char *key)
{
    struct json_object *v = hmp_any(o, key);
    return v ? json_object_get_string(v) : "";
}

int64_t hmp_int(struct json_object *o, const char *key)
{
    return json_object_get_int64(hmp_any(o, key));
}

bool hmp_bool(struct json_object *o, const char *key)
{
    return json_object_get_boolean(hmp_any(o, key));
}

static int help(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    hmp_help(c, hmp_str(args, "name"));
    return 0;
}

static int quit(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "quit", NULL, e);
}

static int info(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    hmp_help(c, "info");
    return 0;
}

static int cpu(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    int64_t index = hmp_int(args, "index");
    if (index < 0 || index >= hmp_harts(c)) {
        return err_set(e, EINVAL, "invalid CPU index");
    }
    c->cpu = (unsigned)index;
    if (c->mon) {
        c->mon->cpu = c->cpu;
    }
    return 0;
}

static int info_version(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    mon_printf(c, "%d.%d.%d (%s)\n", MONITOR_QEMU_MAJOR, MONITOR_QEMU_MINOR, MONITOR_QEMU_MICRO, MONITOR_PACKAGE);
    return 0;
}

static int info_commands(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    for (const struct qmp_command *cmd = qmp_commands; cmd->name; cmd++) {
        if (c->env->vm || !cmd->needs_vm) {
            mon_printf(c, "%s%s%s\n", cmd->name, cmd->help[0] ? "  -- " : "", cmd->help);
        }
    }
    return 0;
}

static int info_chardev(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-chardev", NULL, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "%s: filename=%s\n", hmp_str(o, "label"), hmp_str(o, "filename"));
    }
    return rc;
}

static int info_jobs(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-jobs", NULL, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "%s: %s, %s, %" PRId64 " of %" PRId64 "%s%s\n", hmp_str(o, "id"), hmp_str(o, "type"),
                   hmp_str(o, "status"), hmp_int(o, "current-progress"), hmp_int(o, "total-progress"),
                   hmp_any(o, "error") ? ": " : "", hmp_str(o, "error"));
    }
    if (rc == 0 && !json_object_array_length(list)) {
        mon_printf(c, "No jobs\n");
    }
    return rc;
}

const struct hmp_command hmp_control_commands[] = {
    {"help|?", "name:S?", "[cmd]", "show the help", help},
    {"info", "", "[subcommand]", "show various information about the system state", info},
    {"quit|q", "", "", "quit the emulator", quit},
    {"cpu", "index:i", "index", "set the CPU that register dumps are about", cpu},
    {NULL},
};

const struct hmp_command hmp_control_info[] = {
    {"version", "", "", "show the version", info_version},
    {"commands", "", "", "list the commands of QMP", info_commands},
    {"chardev", "", "", "show the character devices", info_chardev},
    {"jobs", "", "", "show everything that is under way", info_jobs},
    {NULL},
};
