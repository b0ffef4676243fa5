/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_machine.h"

#include "base/cleanup.h"
#include "base/objects.h"
#include "machine/machine.h"
#include "monitor/hmp.h"

#include <string.h>
#include <unistd.h>

static void add(struct json_object *o, const char *key, struct json_object *v)
{
    json_object_object_add(o, key, v);
}

static void add_str(struct json_object *o, const char *key, const char *s)
{
    add(o, key, json_object_new_string(s));
}

static void add_bool(struct json_object *o, const char *key, bool b)
{
    add(o, key, json_object_new_boolean(b));
}

int64_t hmp_harts(const struct mon_ctx *c)
{
    const struct vm *vm = c->env->vm;
    return vm && vm->machine && vm->accel ? vm->machine->board.harts : 0;
}

int qmp_query_status(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_object();
    add_bool(*ret, "running", c->env->vm->state == RUN_RUNNING);
    add_str(*ret, "status", run_state_names[c->env->vm->state]);
    return 0;
}

int qmp_query_name(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_object();
    if (c->env->vm->name) {
        add_str(*ret, "name", c->env->vm->name);
    }
    return 0;
}

int qmp_query_uuid(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    CLEANUP_FREE char *text = vm_uuid_text(c->env->vm);
    *ret = json_object_new_object();
    add_str(*ret, "UUID", text);
    return 0;
}

int qmp_query_kvm(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    const struct accel_ops *ops = c->env->vm->accel_ops;
    *ret = json_object_new_object();
    add_bool(*ret, "enabled", ops && !strcmp(ops->name, "kvm"));
    add_bool(*ret, "present", false);
    return 0;
}

int qmp_query_target(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_object();
    add_str(*ret, "arch", "riscv64");
    return 0;
}

static struct json_object *describe_type(const struct machine_type_info *t)
{
    struct json_object *o = json_object_new_object();
    add_bool(o, "hotpluggable-cpus", false);
    add_str(o, "name", t->name);
    add_bool(o, "numa-mem-supported", false);
    add(o, "cpu-max", json_object_new_int64(t->max_harts ? t->max_harts : 1));
    add_bool(o, "deprecated", false);
    if (t->max_harts) {
        add_str(o, "default-ram-id", MACHINE_RAM_ID);
    }
    if (t->is_default) {
        add_bool(o, "is-default", true);
    }
    if (t->alias) {
        add_str(o, "alias", t->alias);
    }
    add_bool(o, "acpi", false);
    return o;
}

int qmp_query_machines(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_array();
    for (const struct machine_type_info *t = machine_types; t->name; t++) {
        struct machine_type_info as;
        if (machine_type_seen(t, c->env->vm ? c->env->vm->as_release : NULL, &as)) {
            json_object_array_add(*ret, describe_type(&as));
        }
    }
    return 0;
}

int qmp_query_cpus_fast(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    *ret = json_object_new_array();
    for (int64_t i = 0; i < hmp_harts(c); i++) {
        CLEANUP_FREE char *path = g_strdup_printf("/machine/soc0/harts[%d]", (int)i);
        struct json_object *o = json_object_new_object();
        struct json_object *props = json_object_new_object();
        add(props, "core-id", json_object_new_int64(i));
        add(o, "cpu-index", json_object_new_int64(i));
        add(o, "props", props);
        add_str(o, "qom-path", path);
        /* Accelerators keep their threads to themselves: the process's number is what there is to name. */
        add(o, "thread-id", json_object_new_int64(getpid()));
        add_str(o, "target", "riscv64");
        json_object_array_add(*ret, o);
    }
    return 0;
}

int qmp_query_memory_size_summary(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    uint64_t size = 0;
    const struct guest_ram *ram;
    for (unsigned i = 0; c->env->vm->mem && (ram = guest_ram_get(c->env->vm->mem, i)); i++) {
        size += ram->size;
    }
    *ret = json_object_new_object();
    add(*ret, "base-memory", json_object_new_uint64(size));
    add(*ret, "plugged-memory", json_object_new_uint64(0));
    return 0;
}

static struct json_object *describe_memory(const char *id, uint64_t size, const struct memory_policy *p)
{
    struct json_object *o = json_object_new_object();
    add_str(o, "id", id);
    add(o, "size", json_object_new_uint64(size));
    add_bool(o, "merge", p->merge);
    add_bool(o, "dump", !p->no_dump);
    add_bool(o, "prealloc", p->prealloc);
    add_bool(o, "share", false);
    add_bool(o, "reserve", p->reserve);
    add(o, "host-nodes", json_object_new_array());
    add_str(o, "policy", "default");
    return o;
}

int qmp_query_memdev(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    const struct guest_ram *ram = c->env->vm->mem ? guest_ram_get(c->env->vm->mem, 0) : NULL;
    const char *id;
    *ret = json_object_new_array();
    for (unsigned i = 0; (id = object_registry_id(c->env->objects, i, NULL)); i++) {
        const struct memory_backend *b = object_registry_lookup(c->env->objects, "memory-backend", id);
        if (b) {
            json_object_array_add(*ret, describe_memory(id, b->size, b->used ? &ram->policy : &b->policy));
            ram = b->used ? NULL : ram;
        }
    }
    if (ram) {
        json_object_array_add(*ret, describe_memory(MACHINE_RAM_ID, ram->size, &ram->policy));
    }
    return 0;
}

int qmp_cont(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    return c->env->in_preconfig ? c->env->exit_preconfig(c->env->program_opaque, true, e) : vm_cont(c->env->vm, e);
}

int qmp_stop(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    vm_stop(c->env->vm, RUN_PAUSED);
    return 0;
}

int qmp_system_powerdown(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    vm_powerdown(c->env->vm);
    return 0;
}

int qmp_system_reset(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    vm_reset(c->env->vm, false);
    return 0;
}

int qmp_system_wakeup(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    return err_set(e, ENOTSUP, "wake-up from suspend is not supported by this guest");
}

int qmp_x_exit_preconfig(struct mon_ctx *c, struct json_object **ret, struct err *e)
{
    if (!c->env->in_preconfig) {
        return err_set(e, EINVAL, "The command is permitted only before machine initialization");
    }
    return c->env->exit_preconfig(c->env->program_opaque, false, e);
}

int qmp_machine_set(struct mon_ctx *c, const struct qmp_machine_set_args *a, struct json_object **ret, struct err *e)
{
    if (!c->env->in_preconfig) {
        return err_set(e, EBUSY, "the machine is made already: machine-set is for a program started with -preconfig");
    }
    return c->env->machine_set(c->env->program_opaque, a->options, e);
}
