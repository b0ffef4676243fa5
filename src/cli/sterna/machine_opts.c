/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/machine_opts.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "cpu/accels.h"
#include "machine/machine.h"

#include <stdio.h>
#include <string.h>

enum { MIB = 1 << 20, MAX_HARTS = 8 };

/* Parses one option group; the result lives in m->keep under `key`. */
static struct json_object *group(struct machine_opts *m, const char *key, const char *text, const char *implied,
                                 struct err *e)
{
    struct json_object *o = keyval_parse(text, implied, e);
    if (!o) {
        err_wrap(e, "-%s %s", key, text);
        return NULL;
    }
    json_object_object_add(m->keep, key, o);
    return o;
}

static int parse_machine(struct machine_opts *m, const char *text, struct err *e)
{
    m->config.type = "virt";
    if (!text) {
        return 0;
    }
    struct json_object *o = group(m, "machine", text, "type", e), *v;
    if (!o) {
        return -EINVAL;
    }
    if (json_object_object_get_ex(o, "type", &v)) {
        m->config.type = json_object_get_string(v);
        json_object_object_add(m->keep, "type", json_object_get(v));
        json_object_object_del(o, "type");
    }
    if (json_object_object_get_ex(o, "accel", &v)) {
        m->config.accel = json_object_get_string(v);
        json_object_object_add(m->keep, "machine-accel", json_object_get(v));
        json_object_object_del(o, "accel");
    }
    m->config.options = o;
    return 0;
}

/* "-m 512" is MiB; with a suffix it is what it says; "size=" likewise. */
static int parse_memory(struct machine_opts *m, const char *text, struct err *e)
{
    if (!text) {
        return 0;
    }
    struct json_object *o = group(m, "m", text, "size", e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    const char *size = jread_str(&r, "size");
    int rc = jread_end(&r);
    if (rc < 0) {
        return err_wrap(e, "-m %s", text);
    }
    uint64_t n;
    if (parse_size(size, &n) < 0) {
        return err_set(e, EINVAL,
                       "-m %s: Parameter 'size' expects a non-negative number below 2^64: try a number of MiB, or one "
                       "with the suffix M or G",
                       text);
    }
    if (g_ascii_isdigit(size[strlen(size) - 1])) {
        if (n > UINT64_MAX / MIB) {
            return err_set(e, ERANGE, "-m %s: ram size too large", text);
        }
        n *= MIB;
    }
    m->config.ram_size = (n + 8191) & ~8191ull;
    return m->config.ram_size ? 0 : err_set(e, EINVAL, "-m %s: the machine needs some memory", text);
}

static int parse_smp(struct machine_opts *m, const char *text, struct err *e)
{
    m->config.harts = 1;
    if (!text) {
        return 0;
    }
    struct json_object *o = group(m, "smp", text, "cpus", e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    int64_t cpus = jread_int_or(&r, "cpus", 0), max = jread_int_or(&r, "maxcpus", 0);
    if ((jread_has(&r, "cpus") && cpus < 1) || (jread_has(&r, "maxcpus") && max < 1)) {
        jread_end_lax(&r);
        return err_set(e, EINVAL, "-smp %s: Invalid CPU topology: CPU topology parameters must be greater than zero",
                       text);
    }
    bool topology = jread_has(&r, "sockets") && jread_has(&r, "cores");
    int64_t sockets = jread_int_or(&r, "sockets", 1), cores = jread_int_or(&r, "cores", 1),
            threads = jread_int_or(&r, "threads", 1);
    int rc = jread_end(&r);
    if (rc < 0) {
        return err_wrap(e, "-smp %s", text);
    }
    if (sockets < 1 || cores < 1 || threads < 1 || sockets > 64 || cores > 64 || threads > 64) {
        return err_set(e, EINVAL, "-smp %s: Invalid CPU topology: sockets, cores and threads must be from 1 to 64",
                       text);
    }
    cpus = cpus ? cpus : max ? max : sockets * cores * threads;
    if (cpus < 1 || cpus > MAX_HARTS) {
        return err_set(e, EINVAL, "Invalid SMP CPUs %" PRId64 ". The max CPUs supported by machine '%s' is %d", cpus,
                       m->config.type, MAX_HARTS);
    }
    if (max && max != cpus) {
        return err_set(e, EINVAL, "-smp %s: harts cannot be added later, so maxcpus must equal cpus", text);
    }
    if (topology && sockets * cores * threads != cpus) {
        return err_set(e, EINVAL, "-smp %s: Invalid CPU topology: sockets * cores * threads must equal cpus", text);
    }
    m->config.harts = (unsigned)cpus;
    return 0;
}

static int parse_accel(struct machine_opts *m, const char *text, struct err *e)
{
    if (!text) {
        return 0;
    }
    struct json_object *o = group(m, "accel", text, "accel", e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    m->config.accel = jread_str(&r, "accel");
    jread_str_or(&r, "thread", NULL); /* QEMU's TCG has it; every hart has a thread of its own here anyway */
    int rc = jread_end(&r);
    return rc < 0 ? err_wrap(e, "-accel %s", text) : 0;
}

static bool is_accel(const char *text)
{
    const char *name = g_str_has_prefix(text, "accel=") ? text + strlen("accel=") : text;
    size_t len = strcspn(name, ",");
    bool known = (len == 5 && !strncmp(name, "qtest", len)) || (len == 3 && !strncmp(name, "tcg", len));
    for (unsigned i = 0; !known && accel_table[i]; i++) {
        known = strlen(accel_table[i]->name) == len && !strncmp(name, accel_table[i]->name, len);
    }
    return known;
}

/* Several are tried in their order, as by QEMU; what the state file says is for those who say nothing. */
static const char *accel_text(const GArray *opts)
{
    for (guint i = 0; i < opts->len; i++) {
        const struct opt *o = &g_array_index(opts, struct opt, i);
        if (o->id == OPT_ACCEL && !o->section && is_accel(o->value)) {
            return o->value;
        }
    }
    return opts_last(opts, OPT_ACCEL);
}

int machine_opts_parse(struct machine_opts *m, const GArray *opts, struct err *e)
{
    m->keep = json_object_new_object();
    struct machine_config *c = &m->config;
    int rc = parse_machine(m, opts_last(opts, OPT_MACHINE), e);
    rc = rc < 0 ? rc : parse_memory(m, opts_last(opts, OPT_MEMORY), e);
    rc = rc < 0 ? rc : parse_smp(m, opts_last(opts, OPT_SMP), e);
    rc = rc < 0 ? rc : parse_accel(m, accel_text(opts), e);
    if (rc < 0) {
        return rc;
    }
    c->cpu = opts_last(opts, OPT_CPU);
    c->kernel = opts_last(opts, OPT_KERNEL);
    c->initrd = opts_last(opts, OPT_INITRD);
    c->append = opts_last(opts, OPT_APPEND);
    c->dtb = opts_last(opts, OPT_DTB);
    c->firmware = opts_last(opts, OPT_BIOS);
    c->memory.prealloc = opts_given(opts, OPT_MEM_PREALLOC);
    c->defaults = !opts_given(opts, OPT_NODEFAULTS);
    if (!c->kernel && (c->initrd || c->append)) {
        return err_set(e, EINVAL, "-%s only allowed with -kernel option", c->append ? "append" : "initrd");
    }
    return 0;
}

void machine_opts_finish(struct machine_opts *m)
{
    json_object_put(m->keep);
    *m = (struct machine_opts){0};
}

static bool is_help(const char *text)
{
    return text && (!strcmp(text, "help") || !strcmp(text, "?"));
}

static void print_machines(const char *as_release)
{
    const struct machine_release *last = as_release ? machine_type_find(as_release, NULL) : NULL;
    printf("Supported machines are:\n");
    for (const struct machine_type_info *i = machine_types; i->name; i++) {
        struct machine_type_info t;
        if (!machine_type_seen(i, last, &t)) {
            continue;
        }
        if (t.alias) {
            printf("%-20s %s (alias of %s)\n", t.alias, t.desc, t.name);
        }
        printf("%-20s %s%s\n", t.name, t.desc, t.is_default ? " (default)" : "");
    }
}

bool machine_opts_help(const GArray *opts)
{
    if (is_help(opts_last(opts, OPT_MACHINE))) {
        print_machines(opts_last(opts, OPT_AS_RELEASE));
        return true;
    }
    if (is_help(opts_last(opts, OPT_ACCEL))) {
        printf("Accelerators supported in this binary:\n");
        for (const struct accel_ops *const *a = accel_table; *a; a++) {
            printf("%s\n", (*a)->name);
        }
        printf("qtest\n");
        return true;
    }
    if (is_help(opts_last(opts, OPT_CPU))) {
        printf("Available CPUs:\n  max\n  rv64\n");
        return true;
    }
    return false;
}
