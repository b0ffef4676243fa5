/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_control.h"

#include "base/cleanup.h"
#include "machine/vm.h"
#include "monitor/hmp.h"
#include "monitor/session.h"

#include <string.h>

int qmp_qmp_capabilities(struct mon_ctx *c, const struct qmp_qmp_capabilities_args *a, struct json_object **ret,
                         struct err *e)
{
    if (!c->mon || c->mon->mode != MONITOR_CONTROL) {
        return err_set_class(e, ERR_COMMAND_NOT_FOUND, EINVAL, "The command qmp_capabilities has not been found");
    }
    c->mon->oob = a->enable && json_object_array_length(a->enable) > 0;
    c->mon->negotiated = true;
    return 0;
}

int qmp_query_version(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    struct json_object *qemu = json_object_new_object();
    json_object_object_add(qemu, "micro", json_object_new_int(MONITOR_QEMU_MICRO));
    json_object_object_add(qemu, "minor", json_object_new_int(MONITOR_QEMU_MINOR));
    json_object_object_add(qemu, "major", json_object_new_int(MONITOR_QEMU_MAJOR));
    *ret = json_object_new_object();
    json_object_object_add(*ret, "qemu", qemu);
    json_object_object_add(*ret, "package", json_object_new_string(MONITOR_PACKAGE));
    return 0;
}

static bool available(const struct mon_env *env, const struct qmp_command *cmd)
{
    return env->vm || !cmd->needs_vm;
}

int qmp_query_commands(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_array();
    for (const struct qmp_command *cmd = qmp_commands; cmd->name; cmd++) {
        if (available(c->env, cmd)) {
            struct json_object *o = json_object_new_object();
            json_object_object_add(o, "name", json_object_new_string(cmd->name));
            json_object_array_add(*ret, o);
        }
    }
    return 0;
}

int qmp_query_qmp_schema(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    CLEANUP_JSON struct json_object *all = wire_parse(qmp_schema_json, strlen(qmp_schema_json), e);
    size_t n = all ? json_object_array_length(all) : 0;
    *ret = json_object_new_array_ext((int)n);
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(all, i);
        const char *meta = json_object_get_string(json_object_object_get(o, "meta-type"));
        const char *name = json_object_get_string(json_object_object_get(o, "name"));
        const struct qmp_command *cmd = strcmp(meta, "command") ? NULL : qmp_command_find(name);
        if (!cmd || available(c->env, cmd)) {
            json_object_array_add(*ret, json_object_get(o));
        }
    }
    return all ? 0 : -EINVAL;
}

int qmp_quit(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    if (c->env->vm) {
        vm_quit(c->env->vm, "host-qmp-quit", 0);
    } else if (c->env->quit) {
        c->env->quit(c->env->quit_opaque);
    } else {
        return err_set(e, ENOTSUP, "quit: there is nothing to quit");
    }
    return 0;
}

int qmp_human_monitor_command(struct mon_ctx *c, const struct qmp_human_monitor_command_args *a,
                              struct json_object **ret, struct err *e)
{
    g_autoptr(GString) out = g_string_new(NULL);
    struct mon_ctx human = {.env = c->env, .mon = c->mon, .out = out};
    if (a->has_cpu_index) {
        if (a->cpu_index < 0 || a->cpu_index >= hmp_harts(c)) {
            return err_set(e, EINVAL, "Parameter 'cpu-index' expects a CPU number");
        }
        human.cpu = (unsigned)a->cpu_index;
    }
    hmp_run(&human, a->command_line);
    g_string_replace(out, "\n", "\r\n", 0);
    *ret = json_object_new_string_len(out->str, (int)out->len);
    return 0;
}

int qmp_getfd(struct mon_ctx *c, const struct qmp_getfd_args *a, struct json_object **ret, struct err *e)
{
    CLEANUP_CLOSE int fd = c->mon ? chardev_take_fd(&c->mon->port) : -1;
    if (fd < 0) {
        return err_set(e, EINVAL, "No file descriptor supplied via SCM_RIGHTS");
    }
    if (g_ascii_isdigit(a->fdname[0])) {
        return err_set(e, EINVAL, "Parameter 'fdname' expects a name not starting with a digit");
    }
    int old = monitor_take_fd(c->mon, a->fdname);
    if (old >= 0) {
        close(old);
    }
    g_hash_table_insert(c->mon->fds, g_strdup(a->fdname), GINT_TO_POINTER(take_fd(&fd) + 1));
    return 0;
}

int qmp_closefd(struct mon_ctx *c, const struct qmp_closefd_args *a, struct json_object **ret, struct err *e)
{
    int fd = monitor_take_fd(c->mon, a->fdname);
    if (fd < 0) {
        return err_set(e, ENOENT, "File descriptor named '%s' not found", a->fdname);
    }
    close(fd);
    return 0;
}
