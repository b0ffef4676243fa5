/* SPDX-License-Identifier: BSD-2-Clause */
/* Moving a running machine. */
#include "monitor/hmp.h"

#include "schema/qmp_migration.h"

#include "base/cleanup.h"
#include "machine/vm.h"
#include "monitor/monitor.h"
#include "move/migrate.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static int ask(struct mon_ctx *c, const char *name, struct json_object **ret, struct err *e)
{
    return qmp_call(c, name, NULL, ret, e);
}

/* Returns when the guest runs there, or here again; -d, or within QMP, whose next command may be to cancel it: at once.
 */
static int migrate(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "uri", json_object_new_string(hmp_str(args, "uri")));
    json_object_object_add(o, "resume", json_object_new_boolean(hmp_bool(args, "resume")));
    int rc = hmp_qmp(c, "migrate", o, e);
    bool over = hmp_bool(args, "detach");
    if (rc == 0 && !over && c->mon && monitor_is_qmp(c->mon)) {
        mon_printf(c, "terminal does not allow synchronous migration, continuing detached\n");
        over = true;
    }
    while (rc == 0 && !over) {
        CLEANUP_JSON struct json_object *now = NULL;
        rc = ask(c, "query-migrate", &now, e);
        const char *status = rc ? "" : hmp_str(now, "status");
        over = !strcmp(status, "completed") || !strcmp(status, "cancelled");
        const char *why = rc ? "" : hmp_str(now, "error-desc"); /* it is said last */
        bool stands = !strcmp(status, "postmigrate-unknown") || !strcmp(status, "postcopy-paused");
        if (!strcmp(status, "failed") || (stands && *why)) {
            return err_set(e, EIO, "%s", why);
        }
        if (rc == 0 && !over) {
            migrate_await_change(c->env->vm);
        }
    }
    return rc;
}

static int hmp_migrate_cancel(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate_cancel", NULL, e);
}

static int hmp_migrate_pause(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-pause", NULL, e);
}

static int hmp_migrate_recover(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-recover", args, e);
}

static int hmp_migrate_start_postcopy(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-start-postcopy", NULL, e);
}

static int hmp_migrate_incoming(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-incoming", args, e);
}

static int hmp_migrate_continue(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "migrate-continue", args, e);
}

/* Bandwidths are MiB a second unless they say what they are. */
static bool is_in_mib(const char *parameter, const char *value)
{
    size_t n = strlen(value);
    return (!strcmp(parameter, "max-bandwidth") || !strcmp(parameter, "avail-switchover-bandwidth") ||
            !strcmp(parameter, "max-switchover-bandwidth")) &&
           n && g_ascii_isdigit(value[n - 1]);
}

static bool is_one_of(const char *const *names, const char *word)
{
    while (*names && strcmp(*names, word)) {
        names++;
    }
    return *names;
}

/* Text stands for numbers where the schema wants those. */
static int set_parameter(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *known = NULL;
    const char *name = hmp_str(args, "parameter"), *value = hmp_str(args, "value");
    int rc = ask(c, "query-migrate-parameters", &known, e);
    if (rc == 0 && !strcmp(name, "block-bitmap-mapping")) {
        rc = err_set(e, EINVAL, "The block-bitmap-mapping parameter can only be set through QMP");
    } else if (rc == 0 && !hmp_any(known, name)) {
        rc = err_set(e, EINVAL, "invalid parameter value: %s", name);
    }
    CLEANUP_FREE char *text = g_strconcat(value, is_in_mib(name, value) ? "M" : "", NULL);
    json_object_object_add(o, name, json_object_new_string(text));
    return rc ? rc : hmp_qmp(c, "migrate-set-parameters", o, e);
}

static int set_capability(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    if (!is_one_of(qmp_MigrationCapability_names, hmp_str(args, "capability"))) {
        return err_set(e, EINVAL, "invalid parameter value: %s", hmp_str(args, "capability"));
    }
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

static void print_kbytes(struct mon_ctx *c, struct json_object *o, const char *key, const char *label)
{
    mon_printf(c, "%s: %" PRId64 " kbytes\n", label, hmp_int(o, key) >> 10);
}

static void print_ram(struct mon_ctx *c, struct json_object *ram)
{
    static const struct {
        const char *key, *label;
    } parts[] = {
        {"precopy-bytes", "precopy ram"}, {"downtime-bytes", "downtime ram"}, {"postcopy-bytes", "postcopy ram"}};
    struct json_object *mbps;
    print_kbytes(c, ram, "transferred", "transferred ram");
    if (json_object_object_get_ex(ram, "mbps", &mbps)) {
        mon_printf(c, "throughput: %0.2f mbps\n", json_object_get_double(mbps));
    }
    print_kbytes(c, ram, "remaining", "remaining ram");
    print_kbytes(c, ram, "total", "total ram");
    print_number(c, ram, "duplicate", "duplicate", "pages");
    print_number(c, ram, "normal", "normal", "pages");
    print_kbytes(c, ram, "normal-bytes", "normal bytes");
    mon_printf(c, "dirty sync count: %" PRId64 "\n", hmp_int(ram, "dirty-sync-count"));
    print_kbytes(c, ram, "page-size", "page size");
    print_kbytes(c, ram, "multifd-bytes", "multifd bytes");
    mon_printf(c, "pages-per-second: %" PRId64 "\n", hmp_int(ram, "pages-per-second"));
    if (hmp_int(ram, "dirty-pages-rate")) {
        print_number(c, ram, "dirty-pages-rate", "dirty pages rate", "pages");
    }
    if (hmp_int(ram, "postcopy-requests")) {
        mon_printf(c, "postcopy request count: %" PRId64 "\n", hmp_int(ram, "postcopy-requests"));
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(parts); i++) {
        if (hmp_int(ram, parts[i].key)) {
            print_kbytes(c, ram, parts[i].key, parts[i].label);
        }
    }
}

static void print_disk(struct mon_ctx *c, struct json_object *disk)
{
    print_kbytes(c, disk, "transferred", "transferred disk");
    print_kbytes(c, disk, "remaining", "remaining disk");
    print_kbytes(c, disk, "total", "total disk");
}

static void print_blocked(struct mon_ctx *c, struct json_object *reasons)
{
    mon_printf(c, "Migration blocked: ");
    for (size_t i = 0; i < json_object_array_length(reasons); i++) {
        mon_printf(c, "%s%s", i ? "; " : "", json_object_get_string(json_object_array_get_idx(reasons, i)));
    }
    mon_printf(c, "\n");
}

static void print_blocktime(struct mon_ctx *c, struct json_object *o)
{
    struct json_object *harts = hmp_any(o, "postcopy-vcpu-blocktime");
    print_number(c, o, "postcopy-blocktime", "postcopy blocktime", "ms");
    for (size_t i = 0; harts && i < json_object_array_length(harts); i++) {
        mon_printf(c, "%s%" PRId64 "%s",
                   i ? "," : "postcopy vcpu blocktime: ", json_object_get_int64(json_object_array_get_idx(harts, i)),
                   i + 1 == json_object_array_length(harts) ? " ms\n" : "");
    }
}

static void print_addresses(struct mon_ctx *c, struct json_object *list)
{
    mon_printf(c, "socket address: [\n");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        struct json_object *a = json_object_array_get_idx(list, i);
        if (!strcmp(hmp_str(a, "type"), "unix")) {
            mon_printf(c, "\tunix:%s\n", hmp_str(a, "path"));
        } else {
            bool six = hmp_any(a, "ipv6");
            mon_printf(c, six ? "\ttcp:[%s]:%s\n" : "\ttcp:%s:%s\n", hmp_str(a, "host"), hmp_str(a, "port"));
        }
    }
    mon_printf(c, "]\n");
}

static void print_jobs(struct mon_ctx *c, struct json_object *jobs)
{
    for (size_t i = 0; jobs && i < json_object_array_length(jobs); i++) {
        struct json_object *j = json_object_array_get_idx(jobs, i);
        mon_printf(c, "job %s (%s): %s", hmp_str(j, "id"), hmp_str(j, "type"), hmp_str(j, "fate"));
        mon_printf(c, hmp_any(j, "reason") ? ": %s\n" : "%s\n", hmp_str(j, "reason"));
    }
}

static int info_migrate(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = ask(c, "query-migrate", &o, e);
    if (rc) {
        return rc;
    }
    if (hmp_any(o, "blocked-reasons")) {
        print_blocked(c, hmp_any(o, "blocked-reasons"));
    }
    if (hmp_any(o, "status")) {
        mon_printf(c, "Migration status: %s", hmp_str(o, "status"));
        mon_printf(c, hmp_any(o, "error-desc") ? " (%s)\n" : "%s\n", hmp_str(o, "error-desc"));
    }
    print_number(c, o, "total-time", "total time", "ms");
    print_number(c, o, "expected-downtime", "expected downtime", "ms");
    print_number(c, o, "downtime", "downtime", "ms");
    print_number(c, o, "setup-time", "setup", "ms");
    if (hmp_any(o, "ram")) {
        print_ram(c, hmp_any(o, "ram"));
    }
    if (hmp_any(o, "disk")) {
        print_disk(c, hmp_any(o, "disk"));
    }
    print_jobs(c, hmp_any(o, "jobs"));
    print_blocktime(c, o);
    if (hmp_any(o, "cpu-throttle-percentage")) {
        mon_printf(c, "cpu throttle percentage: %" PRId64 "\n", hmp_int(o, "cpu-throttle-percentage"));
    }
    if (hmp_any(o, "socket-address")) {
        print_addresses(c, hmp_any(o, "socket-address"));
    }
    return 0;
}

static void print_mapping(struct mon_ctx *c, struct json_object *map)
{
    if (map) {
        mon_printf(c, "block-bitmap-mapping:\n");
    }
    for (size_t i = 0; map && i < json_object_array_length(map); i++) {
        struct json_object *n = json_object_array_get_idx(map, i), *bitmaps = hmp_any(n, "bitmaps");
        mon_printf(c, "  '%s' -> '%s'\n", hmp_str(n, "node-name"), hmp_str(n, "alias"));
        for (size_t k = 0; k < json_object_array_length(bitmaps); k++) {
            struct json_object *b = json_object_array_get_idx(bitmaps, k);
            mon_printf(c, "    '%s' -> '%s'\n", hmp_str(b, "name"), hmp_str(b, "alias"));
        }
    }
}

static int info_parameters(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = ask(c, "query-migrate-parameters", &o, e);
    if (rc == 0) {
        static const char *const percents[] = {"throttle-trigger-threshold", "cpu-throttle-initial",
                                               "cpu-throttle-increment"};
        for (unsigned i = 0; i < G_N_ELEMENTS(percents); i++) {
            mon_printf(c, "%s: %" PRId64 "\n", percents[i], hmp_int(o, percents[i]));
        }
        mon_printf(c, "cpu-throttle-tailslow: %s\n", hmp_bool(o, "cpu-throttle-tailslow") ? "on" : "off");
        mon_printf(c, "max-cpu-throttle: %" PRId64 "\n", hmp_int(o, "max-cpu-throttle"));
        mon_printf(c, "tls-creds: '%s'\ntls-hostname: '%s'\n", hmp_str(o, "tls-creds"), hmp_str(o, "tls-hostname"));
        mon_printf(c, "max-bandwidth: %" PRId64 " bytes/second\n", hmp_int(o, "max-bandwidth"));
        mon_printf(c, "avail-switchover-bandwidth: %" PRId64 " bytes/second\n",
                   hmp_int(o, "avail-switchover-bandwidth"));
        mon_printf(c, "downtime-limit: %" PRId64 " ms\n", hmp_int(o, "downtime-limit"));
        mon_printf(c, "multifd-channels: %" PRId64 "\n", hmp_int(o, "multifd-channels"));
        mon_printf(c, "multifd-compression: %s\n", hmp_str(o, "multifd-compression"));
        mon_printf(c, "max-postcopy-bandwidth: %" PRId64 "\n", hmp_int(o, "max-postcopy-bandwidth"));
        mon_printf(c, "tls-authz: '%s'\n", hmp_str(o, "tls-authz"));
        print_mapping(c, hmp_any(o, "block-bitmap-mapping"));
        mon_printf(c, "multifd-zstd-level: %" PRId64 "\n", hmp_int(o, "multifd-zstd-level"));
        mon_printf(c, "answer-timeout: %" PRId64 " ms\n", hmp_int(o, "answer-timeout"));
        mon_printf(c, "max-switchover-bandwidth: %" PRId64 " bytes/second\n", hmp_int(o, "max-switchover-bandwidth"));
        mon_printf(c, "postcopy-after-rounds: %" PRId64 "\n", hmp_int(o, "postcopy-after-rounds"));
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
    {"migrate", "detach:-d,resume:-r,uri:s", "[-d] [-r] uri",
     "moves the machine to uri (-d: does not wait for its end; -r: a post-copy that was cut goes on)", migrate},
    {"migrate_cancel", "", "", "gives the migration up", hmp_migrate_cancel},
    {"migrate_continue", "state:s", "state", "lets a migration that waits in this state go on", hmp_migrate_continue},
    {"migrate_pause", "", "", "breaks the connection of a post-copy", hmp_migrate_pause},
    {"migrate_recover", "uri:s", "uri", "waits for another connection of a post-copy that was cut",
     hmp_migrate_recover},
    {"migrate_start_postcopy", "", "", "lets the machine run at the destination now, its RAM follows",
     hmp_migrate_start_postcopy},
    {"migrate_incoming",
     ""
     "uri:s",
     "uri", "waits for a machine (after -incoming defer)", hmp_migrate_incoming},
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
