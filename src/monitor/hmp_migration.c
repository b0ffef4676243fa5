/* SPDX-License-Identifier: BSD-2-Clause */
/* Moving a running machine. */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "loop/co.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int ask(struct mon_ctx *c, const char *name, struct json_object **ret, struct err *e)
{
    return qmp_call(c, name, NULL, ret, e);
}

/* Returns when the guest runs there, or here again; -d: at once. */
static int migrate(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "uri", json_object_new_string(hmp_str(args, "uri")));
    int rc = hmp_qmp(c, "migrate", o, e);
    bool over = hmp_bool(args, "detach");
    while (rc == 0 && !over) {
        CLEANUP_JSON struct json_object *now = NULL;
        rc = ask(c, "query-migrate", &now, e);
        const char *status = rc ? "" : hmp_str(now, "status");
        over = !strcmp(status, "completed") || !strcmp(status, "cancelled");
        if (rc == 0 && (!strcmp(status, "failed") || !strcmp(status, "postmigrate-unknown"))) {
            return err_set(e, EIO, "%s", hmp_str(now, "error-desc"));
        }
        co_sleep(20000000);
    }
    return rc;
}

static int migrate_cancel(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate_cancel", NULL, e);
}

static int migrate_incoming(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-incoming", args, e);
}

static int migrate_continue(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-continue", args, e);
}

/* Text stands for numbers where the schema wants those. */
static int set_parameter(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, hmp_str(args, "parameter"), json_object_new_string(hmp_str(args, "value")));
    return hmp_qmp(c, "migrate-set-parameters", o, e);
}

static int set_capability(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct json_object *list = json_object_new_array(), *one = json_object_new_object();
    json_object_object_add(one, "capability", json_object_new_string(hmp_str(args, "capability")));
    json_object_object_add(one, "state", json_object_new_boolean(hmp_bool(args, "state")));
    json_object_array_add(list, one);
    json_object_object_add(o, "capabilities", list);
    return hmp_qmp(c, "migrate-set-capabilities", o, e);
}

/* --- info --------------------------------------------------------------------------------------------------------- */

static void print_number(struct mon_ctx *c, struct json_object *o, const char *key, const char *label, const char *unit)
{
    if (hmp_any(o, key)) {
        mon_printf(c, "%s: %" PRId64 " %s\n", label, hmp_int(o, key), unit);
    }
}

static int info_migrate(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = ask(c, "query-migrate", &o, e);
    if (rc || !hmp_any(o, "status")) {
        return rc;
    }
    mon_printf(c, "Migration status: %s", hmp_str(o, "status"));
    mon_printf(c, hmp_any(o, "error-desc") ? " (%s)\n" : "%s\n", hmp_str(o, "error-desc"));
    print_number(c, o, "total-time", "total time", "ms");
    print_number(c, o, "expected-downtime", "expected downtime", "ms");
    print_number(c, o, "downtime", "downtime", "ms");
    print_number(c, o, "setup-time", "setup", "ms");
    struct json_object *ram = hmp_any(o, "ram"), *mbps;
    if (ram) {
        mon_printf(c, "transferred ram: %" PRId64 " kbytes\n", hmp_int(ram, "transferred") >> 10);
        if (json_object_object_get_ex(ram, "mbps", &mbps)) {
            mon_printf(c, "throughput: %0.2f mbps\n", json_object_get_double(mbps));
        }
        mon_printf(c, "remaining ram: %" PRId64 " kbytes\n", hmp_int(ram, "remaining") >> 10);
        mon_printf(c, "total ram: %" PRId64 " kbytes\n", hmp_int(ram, "total") >> 10);
        print_number(c, ram, "duplicate", "duplicate", "pages");
        print_number(c, ram, "normal", "normal", "pages");
        mon_printf(c, "normal bytes: %" PRId64 " kbytes\n", hmp_int(ram, "normal-bytes") >> 10);
        mon_printf(c, "dirty sync count: %" PRId64 "\n", hmp_int(ram, "dirty-sync-count"));
        mon_printf(c, "page size: %" PRId64 " kbytes\n", hmp_int(ram, "page-size") >> 10);
        print_number(c, ram, "dirty-pages-rate", "dirty pages rate", "pages");
    }
    return 0;
}

static int info_parameters(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = ask(c, "query-migrate-parameters", &o, e);
    if (rc == 0) {
        mon_printf(c, "max-bandwidth: %" PRId64 " bytes/second\n", hmp_int(o, "max-bandwidth"));
        mon_printf(c, "downtime-limit: %" PRId64 " ms\n", hmp_int(o, "downtime-limit"));
        mon_printf(c, "answer-timeout: %" PRId64 " ms\n", hmp_int(o, "answer-timeout"));
        mon_printf(c, "compression: %s\n", hmp_str(o, "compression"));
    }
    return rc;
}

static int info_capabilities(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *all = NULL;
    int rc = ask(c, "query-migrate-capabilities", &all, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(all); i++) {
        struct json_object *x = json_object_array_get_idx(all, i);
        mon_printf(c, "%s: %s\n", hmp_str(x, "capability"), hmp_bool(x, "state") ? "on" : "off");
    }
    return rc;
}

const struct hmp_command hmp_migration_commands[] = {
    {"migrate", "detach:-d,uri:s", "[-d] uri", "moves the machine to uri (-d: does not wait for its end)", migrate},
    {"migrate_cancel", "", "", "gives the migration up", migrate_cancel},
    {"migrate_continue", "state:s", "state", "lets a migration that waits in this state go on", migrate_continue},
    {"migrate_incoming", "uri:s", "uri", "waits for a machine (after -incoming defer)", migrate_incoming},
    {"migrate_set_capability", "capability:s,state:b", "capability state", "switches a part of migrations on or off",
     set_capability},
    {"migrate_set_parameter", "parameter:s,value:s", "parameter value", "changes how machines are moved",
     set_parameter},
    {NULL},
};

const struct hmp_command hmp_migration_info[] = {
    {"migrate", "", "", "shows how far a migration is, or how it ended", info_migrate},
    {"migrate_capabilities", "", "", "shows which parts of migrations are on", info_capabilities},
    {"migrate_parameters", "", "", "shows how machines are moved", info_parameters},
    {NULL},
};
