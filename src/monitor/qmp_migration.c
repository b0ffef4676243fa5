/* SPDX-License-Identifier: BSD-2-Clause */
/* Moving a running machine. */
#include "schema/qmp_migration.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "machine/vm.h"
#include "monitor/check.h"
#include "monitor/monitor.h"
#include "move/bitmap_map.h"
#include "move/lanes.h"
#include "move/migrate.h"

#include <string.h>

static int take_fd_of(void *opaque, const char *name)
{
    struct mon_ctx *c = opaque;
    return c->mon ? monitor_take_fd(c->mon, name) : -1;
}

int qmp_query_migrate(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = migrate_query(c->env->vm);
    return 0;
}

int qmp_migrate(struct mon_ctx *c, const struct qmp_migrate_args *a, struct json_object **ret, struct err *e)
{
    CLEANUP_FREE const char **drop = json_strings(a->force_drop);
    const struct channel_names names = {take_fd_of, c};
    struct channel_place place;
    int rc = channel_place_read(&place, a->uri, a->channels, e);
    const struct migrate_options o = {.place = &place,
                                      .names = &names,
                                      .compat = a->compat,
                                      .force_drop = drop,
                                      .disks = a->disks,
                                      .dry_run = a->has_dry_run && a->dry_run};
    bool resume = a->has_resume && a->resume;
    rc = rc < 0 ? rc : resume ? migrate_resume(c->env->vm, &place, &names, e) : migrate_start(c->env->vm, &o, e);
    channel_place_finish(&place);
    return rc;
}

int qmp_migrate_cancel(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    if (migrate_in_postcopy(c->env->vm)) {
        return err_set(e, EINVAL, "Postcopy migration in progress, cannot cancel.");
    }
    migrate_cancel(c->env->vm);
    return 0;
}

int qmp_migrate_start_postcopy(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    return migrate_start_postcopy(c->env->vm, e);
}

int qmp_migrate_pause(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    return migrate_pause(c->env->vm, e);
}

int qmp_migrate_recover(struct mon_ctx *c, const struct qmp_migrate_recover_args *a, struct json_object **ret,
                        struct err *e)
{
    const struct channel_names names = {take_fd_of, c};
    struct channel_place place;
    int rc = channel_place_read(&place, a->uri, NULL, e);
    rc = rc < 0 ? rc : migrate_recover(c->env->vm, &place, &names, e);
    channel_place_finish(&place);
    return rc;
}

int qmp_migrate_continue(struct mon_ctx *c, const struct qmp_migrate_continue_args *a, struct json_object **ret,
                         struct err *e)
{
    return migrate_continue(c->env->vm, a->state == QMP_MIGRATION_STATUS_PRE_SWITCHOVER, e);
}

int qmp_migrate_resolve(struct mon_ctx *c, const struct qmp_migrate_resolve_args *a, struct json_object **ret,
                        struct err *e)
{
    return migrate_resolve(c->env->vm, a->runs_there, e);
}

int qmp_migrate_incoming(struct mon_ctx *c, const struct qmp_migrate_incoming_args *a, struct json_object **ret,
                         struct err *e)
{
    CLEANUP_FREE const char **allow = json_strings(a->state_allow), **drop = json_strings(a->force_drop);
    const struct channel_names names = {take_fd_of, c};
    struct channel_place place;
    int rc = channel_place_read(&place, a->uri, a->channels, e);
    const struct migrate_in_options o = {.place = &place,
                                         .names = &names,
                                         .state_allow = allow,
                                         .force_drop = drop,
                                         .disk_folder = a->disk_folder,
                                         .exit_on_error = !a->has_exit_on_error || a->exit_on_error};
    rc = rc < 0 ? rc : migrate_incoming(c->env->vm, &o, e);
    channel_place_finish(&place);
    return rc;
}

/* --- how ---------------------------------------------------------------------------------------------------------- */

static int check_percent(const char *name, bool given, uint64_t value, unsigned min, unsigned max, struct err *e)
{
    return given && (value < min || value > max)
               ? err_set(e, EINVAL, "Parameter '%s' expects an integer in the range of %u to %u", name, min, max)
               : 0;
}

static int set_throttle(struct migrate_params *p, const struct qmp_migrate_set_parameters_args *a, struct err *e)
{
    unsigned initial = a->has_cpu_throttle_initial ? (unsigned)a->cpu_throttle_initial : p->throttle_initial;
    uint64_t max = a->has_max_cpu_throttle ? a->max_cpu_throttle : p->throttle_max;
    int rc = check_percent("cpu-throttle-initial", true, initial, 1, 99, e);
    rc = rc ? rc
            : check_percent("cpu-throttle-increment", a->has_cpu_throttle_increment, a->cpu_throttle_increment, 1, 99,
                            e);
    rc = rc ? rc : check_percent("max-cpu-throttle", true, max, initial, 99, e);
    rc = rc ? rc
            : check_percent("throttle-trigger-threshold", a->has_throttle_trigger_threshold,
                            a->throttle_trigger_threshold, 1, 100, e);
    if (rc) {
        return rc;
    }
    p->throttle_initial = initial;
    p->throttle_max = (unsigned)max;
    p->throttle_increment = a->has_cpu_throttle_increment ? (unsigned)a->cpu_throttle_increment : p->throttle_increment;
    p->throttle_threshold =
        a->has_throttle_trigger_threshold ? (unsigned)a->throttle_trigger_threshold : p->throttle_threshold;
    p->throttle_tailslow = a->has_cpu_throttle_tailslow ? a->cpu_throttle_tailslow : p->throttle_tailslow;
    return 0;
}

/* null is the empty text. */
static void set_text(char **to, bool given, struct json_object *text)
{
    if (given) {
        g_free(*to);
        *to = g_strdup(text ? json_object_get_string(text) : "");
    }
}

static void add_text(struct json_object *o, const char *key, const char *text)
{
    json_object_object_add(o, key, json_object_new_string(text ? text : ""));
}

int qmp_migrate_set_parameters(struct mon_ctx *c, const struct qmp_migrate_set_parameters_args *a,
                               struct json_object **ret, struct err *e)
{
    enum { HOUR_MS = 3600000, DOWNTIME_MAX_MS = 2000000, ZSTD_MAX = 20 };
    struct migrate_params *p = migrate_params(c->env->vm);
    if (a->has_downtime_limit && a->downtime_limit > DOWNTIME_MAX_MS) {
        return err_set(e, EINVAL, "Parameter 'downtime-limit' expects an integer in the range of 0 to %d milliseconds",
                       DOWNTIME_MAX_MS);
    }
    if (a->has_answer_timeout && (!a->answer_timeout || a->answer_timeout > HOUR_MS)) {
        return err_set(e, EINVAL, "Parameter 'answer-timeout' expects an integer in the range of 1 to %d milliseconds",
                       HOUR_MS);
    }
    int rc = set_throttle(p, a, e);
    if (rc) {
        return rc;
    }
    if (a->has_multifd_channels && (!a->multifd_channels || a->multifd_channels > LANES_MAX)) {
        return err_set(e, EINVAL, "Parameter 'multifd-channels' expects an integer in the range of 1 to %d", LANES_MAX);
    }
    if (a->has_multifd_zstd_level && a->multifd_zstd_level > ZSTD_MAX) {
        return err_set(e, EINVAL, "Parameter 'multifd-zstd-level' expects an integer in the range of 0 to %d",
                       ZSTD_MAX);
    }
    if (a->block_bitmap_mapping && (rc = bitmap_map_check(a->block_bitmap_mapping, e)) < 0) {
        return rc;
    }
    if (a->block_bitmap_mapping) {
        json_object_put(p->bitmap_mapping);
        p->bitmap_mapping = json_clone(a->block_bitmap_mapping);
    }
    p->multifd_channels = a->has_multifd_channels ? (unsigned)a->multifd_channels : p->multifd_channels;
    p->multifd_zstd =
        a->has_multifd_compression ? a->multifd_compression == QMP_MIGRATION_COMPRESSION_ZSTD : p->multifd_zstd;
    p->zstd_level = a->has_multifd_zstd_level ? (unsigned)a->multifd_zstd_level : p->zstd_level;
    set_text(&p->tls_creds, a->has_tls_creds, a->tls_creds);
    set_text(&p->tls_hostname, a->has_tls_hostname, a->tls_hostname);
    set_text(&p->tls_authz, a->has_tls_authz, a->tls_authz);
    p->max_bandwidth = a->has_max_bandwidth ? a->max_bandwidth : p->max_bandwidth;
    p->switchover_bandwidth =
        a->has_avail_switchover_bandwidth ? a->avail_switchover_bandwidth : p->switchover_bandwidth;
    p->max_switchover = a->has_max_switchover_bandwidth ? a->max_switchover_bandwidth : p->max_switchover;
    p->postcopy_bandwidth = a->has_max_postcopy_bandwidth ? a->max_postcopy_bandwidth : p->postcopy_bandwidth;
    p->downtime_ms = a->has_downtime_limit ? a->downtime_limit : p->downtime_ms;
    p->answer_ms = a->has_answer_timeout ? a->answer_timeout : p->answer_ms;
    p->postcopy_rounds = a->has_postcopy_after_rounds ? a->postcopy_after_rounds : p->postcopy_rounds;
    p->zstd = a->has_compression ? a->compression == QMP_MIGRATION_COMPRESSION_ZSTD : p->zstd;
    migrate_params_changed(c->env->vm);
    return 0;
}

int qmp_query_migrate_parameters(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    const struct migrate_params *p = migrate_params(c->env->vm);
    struct json_object *o = *ret = json_object_new_object();
    json_object_object_add(o, "throttle-trigger-threshold", json_object_new_int((int)p->throttle_threshold));
    json_object_object_add(o, "cpu-throttle-initial", json_object_new_int((int)p->throttle_initial));
    json_object_object_add(o, "cpu-throttle-increment", json_object_new_int((int)p->throttle_increment));
    json_object_object_add(o, "cpu-throttle-tailslow", json_object_new_boolean(p->throttle_tailslow));
    json_object_object_add(o, "max-cpu-throttle", json_object_new_int((int)p->throttle_max));
    add_text(o, "tls-creds", p->tls_creds);
    add_text(o, "tls-hostname", p->tls_hostname);
    add_text(o, "tls-authz", p->tls_authz);
    json_object_object_add(o, "max-bandwidth", json_object_new_uint64(p->max_bandwidth));
    json_object_object_add(o, "multifd-channels", json_object_new_int((int)p->multifd_channels));
    json_object_object_add(o, "multifd-compression", json_object_new_string(p->multifd_zstd ? "zstd" : "none"));
    json_object_object_add(o, "multifd-zstd-level", json_object_new_int((int)p->zstd_level));
    json_object_object_add(o, "avail-switchover-bandwidth", json_object_new_uint64(p->switchover_bandwidth));
    json_object_object_add(o, "max-postcopy-bandwidth", json_object_new_uint64(p->postcopy_bandwidth));
    json_object_object_add(o, "downtime-limit", json_object_new_uint64(p->downtime_ms));
    json_object_object_add(o, "answer-timeout", json_object_new_uint64(p->answer_ms));
    json_object_object_add(o, "max-switchover-bandwidth", json_object_new_uint64(p->max_switchover));
    json_object_object_add(o, "postcopy-after-rounds", json_object_new_uint64(p->postcopy_rounds));
    json_object_object_add(o, "compression", json_object_new_string(p->zstd ? "zstd" : "none"));
    if (p->bitmap_mapping) {
        json_object_object_add(o, "block-bitmap-mapping", json_clone(p->bitmap_mapping));
    }
    return 0;
}

static bool *capability(struct migrate_params *p, unsigned i)
{
    bool *const all[] = {[QMP_MIGRATION_CAPABILITY_AUTO_CONVERGE] = &p->auto_converge,
                         [QMP_MIGRATION_CAPABILITY_DIRTY_BITMAPS] = &p->dirty_bitmaps,
                         [QMP_MIGRATION_CAPABILITY_EVENTS] = &p->events,
                         [QMP_MIGRATION_CAPABILITY_MULTIFD] = &p->multifd,
                         [QMP_MIGRATION_CAPABILITY_PAUSE_BEFORE_SWITCHOVER] = &p->pause_before_switch,
                         [QMP_MIGRATION_CAPABILITY_POSTCOPY_BLOCKTIME] = &p->blocktime,
                         [QMP_MIGRATION_CAPABILITY_POSTCOPY_PREEMPT] = &p->as_ever[0],
                         [QMP_MIGRATION_CAPABILITY_POSTCOPY_RAM] = &p->postcopy,
                         [QMP_MIGRATION_CAPABILITY_RELEASE_RAM] = &p->release_ram,
                         [QMP_MIGRATION_CAPABILITY_RETURN_PATH] = &p->as_ever[1],
                         [QMP_MIGRATION_CAPABILITY_SWITCHOVER_ACK] = &p->as_ever[2]};
    return all[i];
}

int qmp_migrate_set_capabilities(struct mon_ctx *c, const struct qmp_migrate_set_capabilities_args *a,
                                 struct json_object **ret, struct err *e)
{
    struct migrate_params *p = migrate_params(c->env->vm);
    if (migrate_is_leaving(c->env->vm)) {
        return err_set(e, EBUSY, "There's a migration process in progress");
    }
    for (size_t i = 0; i < json_object_array_length(a->capabilities); i++) {
        struct json_object *x = json_object_array_get_idx(a->capabilities, i);
        for (unsigned k = 0; qmp_MigrationCapability_names[k]; k++) {
            if (!strcmp(qmp_MigrationCapability_names[k], schema_str(x, "capability"))) {
                *capability(p, k) = schema_bool(x, "state");
            }
        }
    }
    return 0;
}

int qmp_query_migrate_capabilities(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    struct migrate_params *p = migrate_params(c->env->vm);
    *ret = json_object_new_array();
    for (unsigned k = 0; qmp_MigrationCapability_names[k]; k++) {
        struct json_object *x = json_object_new_object();
        json_object_object_add(x, "capability", json_object_new_string(qmp_MigrationCapability_names[k]));
        json_object_object_add(x, "state", json_object_new_boolean(*capability(p, k)));
        json_object_array_add(*ret, x);
    }
    return 0;
}
