/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/policy.h"

#include "base/cleanup.h"
#include "machine/machine.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>

typedef int group_fn(struct vm *vm, struct jread *r, struct err *e);

/* One kind of option: its keys, and what they do. */
struct group {
    enum opt_id id;
    const char *implied;
    const char *const *keys;
    group_fn *apply;
};

static int set_name(struct vm *vm, struct jread *r, struct err *e)
{
    g_free(vm->name);
    vm->name = g_strdup(jread_str_or(r, "guest", NULL));
    const char *process = jread_str_or(r, "process", NULL);
    if (process) {
        prctl(PR_SET_NAME, process); /* as ps shows it; the kernel keeps 15 bytes */
    }
    jread_bool_or(r, "debug-threads", false);
    return 0;
}

static int set_actions(struct vm *vm, struct jread *r, struct err *e)
{
    static const char *const reboot[] = {"reset", "shutdown", NULL}, *const shutdown[] = {"poweroff", "pause", NULL};
    vm->no_reboot = jread_enum_or(r, "reboot", reboot, vm->no_reboot);
    vm->no_shutdown = jread_enum_or(r, "shutdown", shutdown, vm->no_shutdown);
    return 0;
}

static int check_clock(struct vm *vm, struct jread *r, struct err *e)
{
    const char *base = jread_str_or(r, "base", "utc"), *clock = jread_str_or(r, "clock", "host");
    if (strcmp(base, "utc") || strcmp(clock, "host")) {
        return err_set(e, ENOTSUP, "base=utc,clock=host is all there is");
    }
    return 0;
}

static int lock_memory(struct vm *vm, struct jread *r, struct err *e)
{
    bool lock = jread_bool_or(r, "mem-lock", false);
    if (jread_bool_or(r, "cpu-pm", false)) {
        return err_set(e, ENOTSUP, "cpu-pm=on: harts are threads here, there is no host CPU to give away");
    }
    if (lock && mlockall(MCL_CURRENT | MCL_FUTURE) < 0) {
        return err_set_errno(e, errno, "locking memory failed");
    }
    return 0;
}

static const char *const name_keys[] = {"guest", "process", "debug-threads", NULL};
static const char *const action_keys[] = {"reboot", "shutdown", NULL};
static const char *const rtc_keys[] = {"base", "clock", NULL};
static const char *const overcommit_keys[] = {"mem-lock", "cpu-pm", NULL};
static const char *const msg_keys[] = {"timestamp", "guest-name", NULL};
static const char *const global_keys[] = {"driver", "property", "value", NULL};

static const struct group groups[] = {
    {OPT_NAME, "guest", name_keys, set_name},
    {OPT_ACTION, NULL, action_keys, set_actions},
    {OPT_RTC, NULL, rtc_keys, check_clock},
    {OPT_OVERCOMMIT, NULL, overcommit_keys, lock_memory},
};

static int apply_group(const struct group *g, struct vm *vm, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = opt_group(value, g->implied, g->keys, e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    int rc = g->apply(vm, &r, e), end = jread_end_lax(&r);
    return rc < 0 ? rc : end;
}

/* "driver.prop=value" or "driver=,property=,value=". */
static int add_global(struct vm *vm, const char *text, struct err *e)
{
    CLEANUP_FREE char *driver = NULL, *prop = NULL, *value = NULL;
    const char *dot = strchr(text, '.'), *eq = strchr(text, '=');
    if (text[0] != '{' && dot && eq && dot < eq) {
        driver = g_strndup(text, (size_t)(dot - text));
        prop = g_strndup(dot + 1, (size_t)(eq - dot - 1));
        value = g_strdup(eq + 1);
    } else {
        CLEANUP_JSON struct json_object *o = opt_group(text, NULL, global_keys, e);
        if (!o) {
            return -EINVAL;
        }
        struct jread r = jread_init(o, NULL, e);
        driver = g_strdup(jread_str(&r, "driver"));
        prop = g_strdup(jread_str(&r, "property"));
        value = g_strdup(jread_str(&r, "value"));
        int rc = jread_end(&r);
        if (rc < 0) {
            return rc;
        }
    }
    const struct device_class *c = device_class_find(driver);
    if (!c) {
        log_warn(vm->log, "global %s.%s has invalid class name", driver, prop);
        return 0;
    }
    vm->globals = vm->globals ? vm->globals : json_object_new_object();
    struct json_object *of = json_object_object_get(vm->globals, c->name);
    if (!of) {
        of = json_object_new_object();
        json_object_object_add(vm->globals, c->name, of);
    }
    json_object_object_add(of, prop, json_object_new_string(value));
    return 0;
}

static int set_uuid(struct vm *vm, const char *uuid, struct err *e)
{
    unsigned b[16];
    int end = 0;
    if (strlen(uuid) != 36 ||
        sscanf(uuid, "%2x%2x%2x%2x-%2x%2x-%2x%2x-%2x%2x-%2x%2x%2x%2x%2x%2x%n", b, b + 1, b + 2, b + 3, b + 4, b + 5,
               b + 6, b + 7, b + 8, b + 9, b + 10, b + 11, b + 12, b + 13, b + 14, b + 15, &end) != 16 ||
        uuid[end]) {
        return err_set(e, EINVAL, "failed to parse UUID string: wrong format");
    }
    for (int i = 0; i < 16; i++) {
        vm->uuid[i] = (uint8_t)b[i];
    }
    return 0;
}

/* Hardware that there is not takes "none". */
static int check_absent(const struct opt *o, struct err *e)
{
    if (!strcmp(o->value, "none")) {
        return 0;
    }
    switch (o->id) {
    case OPT_DISPLAY:
        return err_set(e, ENOTSUP, "Display '%s' is not available: -display none is all there is", o->value);
    case OPT_VGA:
        return err_set(e, ENOTSUP, "unknown vga type: %s: -vga none is all there is", o->value);
    case OPT_NET:
        return err_set(e, ENOTSUP, "-%s is none here: give -netdev user,id=n and -device virtio-net-pci,netdev=n",
                       o->name);
    default:
        return err_set(e, ENOTSUP, "there is no parallel port: -parallel none is all there is");
    }
}

static int apply(const struct opt *o, struct vm *vm, struct err *e)
{
    for (size_t i = 0; i < G_N_ELEMENTS(groups); i++) {
        if (groups[i].id == o->id) {
            return apply_group(&groups[i], vm, o->value, e);
        }
    }
    switch (o->id) {
    case OPT_UUID:
        return set_uuid(vm, o->value, e);
    case OPT_GLOBAL:
        return add_global(vm, o->value, e);
    case OPT_AS_RELEASE:
        vm->as_release = machine_type_find(o->value, e);
        return vm->as_release ? 0 : -EINVAL;
    case OPT_NO_REBOOT:
        vm->no_reboot = true;
        return 0;
    case OPT_NO_SHUTDOWN:
        vm->no_shutdown = true;
        return 0;
    case OPT_DISPLAY:
    case OPT_VGA:
    case OPT_NET:
    case OPT_PARALLEL:
        return check_absent(o, e);
    default:
        return 0;
    }
}

int policy_apply(const GArray *opts, struct vm *vm, const struct opt **bad, struct err *e)
{
    for (guint i = 0; i < opts->len; i++) {
        *bad = &g_array_index(opts, struct opt, i);
        int rc = apply(*bad, vm, e);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int set_messages(const GArray *opts, struct log *log, const char *text, struct err *e)
{
    CLEANUP_JSON struct json_object *o = opt_group(text, NULL, msg_keys, e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    log_timestamps(log, jread_bool_or(&r, "timestamp", false));
    const char *name = jread_bool_or(&r, "guest-name", false) ? opts_last(opts, OPT_NAME) : NULL;
    int rc = jread_end(&r);
    if (rc == 0 && name) {
        CLEANUP_JSON struct json_object *n = opt_group(name, "guest", name_keys, e);
        struct json_object *guest = json_object_object_get(n, "guest");
        log_guest_name(log, guest ? json_object_get_string(guest) : NULL);
        rc = n ? 0 : -EINVAL;
    }
    return rc;
}

int policy_log(const GArray *opts, struct log *log, struct err *e)
{
    for (guint i = 0; i < opts->len; i++) {
        const struct opt *o = &g_array_index(opts, struct opt, i);
        int rc = 0;
        if (o->id == OPT_MSG) {
            rc = set_messages(opts, log, o->value, e);
        } else if (o->id == OPT_TRACE) {
            rc = trace_option(log, o->value, e);
        } else if (o->id == OPT_LOGFILE) {
            rc = opts_given(opts, OPT_DAEMONIZE) ? log_to_file(log, o->value, e) : log_traces_to_file(log, o->value, e);
        }
        if (rc < 0) {
            return err_wrap(e, "-%s %s", o->name, o->value);
        }
    }
    return 0;
}
