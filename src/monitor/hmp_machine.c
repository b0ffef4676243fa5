/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "machine/vm.h"

#include <inttypes.h>
#include <string.h>

static int cont(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "cont", NULL, e);
}

static int stop(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "stop", NULL, e);
}

static int system_reset(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "system_reset", NULL, e);
}

static int system_powerdown(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "system_powerdown", NULL, e);
}

static int system_wakeup(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "system_wakeup", NULL, e);
}

static int info_status(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = qmp_call(c, "query-status", NULL, &o, e);
    if (rc == 0) {
        const char *status = hmp_str(o, "status");
        bool running = hmp_bool(o, "running");
        mon_printf(c, "VM status: %s", running ? "running" : "paused");
        if (!running && strcmp(status, "paused")) {
            mon_printf(c, " (%s)", status);
        }
        mon_printf(c, "\n");
    }
    return rc;
}

static int info_name(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = qmp_call(c, "query-name", NULL, &o, e);
    if (rc == 0 && hmp_any(o, "name")) {
        mon_printf(c, "%s\n", hmp_str(o, "name"));
    }
    return rc;
}

static int info_uuid(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = qmp_call(c, "query-uuid", NULL, &o, e);
    mon_printf(c, "%s%s", rc == 0 ? hmp_str(o, "UUID") : "", rc == 0 ? "\n" : "");
    return rc;
}

static int info_kvm(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = qmp_call(c, "query-kvm", NULL, &o, e);
    if (rc == 0) {
        mon_printf(c, "kvm support: %s\n", hmp_bool(o, "enabled") ? "enabled" : "not compiled");
    }
    return rc;
}

static int info_cpus(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-cpus-fast", NULL, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "%c CPU #%" PRId64 ": thread_id=%" PRId64 "\n", i == c->cpu ? '*' : ' ', hmp_int(o, "cpu-index"),
                   hmp_int(o, "thread-id"));
    }
    return rc;
}

static void print_registers(struct mon_ctx *c, unsigned hart)
{
    struct vm *vm = c->env->vm;
    size_t n;
    const struct accel_reg *regs = vm->accel_ops->reg_table(vm->accel, &n);
    mon_printf(c, "\nCPU#%u\n", hart);
    for (size_t i = 0; i < n; i++) {
        uint64_t v = vm->accel_ops->get_reg(vm->accel, hart, regs[i].id);
        mon_printf(c, " %-10s %0*" PRIx64 "%s", regs[i].name, (int)MAX(regs[i].bits / 4, 1), v,
                   i % 4 == 3 || i + 1 == n ? "\n" : "");
    }
}

static int info_registers(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    int64_t harts = hmp_harts(c);
    if (!harts || c->cpu >= harts) {
        return err_set(e, ENODEV, "No CPU available");
    }
    bool all = hmp_bool(args, "all");
    vm_quiesce(c->env->vm);
    for (unsigned i = all ? 0 : c->cpu; i < (all ? harts : c->cpu + 1); i++) {
        print_registers(c, i);
    }
    vm_unquiesce(c->env->vm);
    return 0;
}

static int info_memory_size_summary(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = NULL;
    int rc = qmp_call(c, "query-memory-size-summary", NULL, &o, e);
    if (rc == 0) {
        mon_printf(c, "base memory: %" PRIu64 "\n", json_object_get_uint64(hmp_any(o, "base-memory")));
        mon_printf(c, "plugged memory: %" PRIu64 "\n", json_object_get_uint64(hmp_any(o, "plugged-memory")));
    }
    return rc;
}

static int info_memdev(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    static const char *const flags[] = {"merge", "dump", "prealloc", "share", "reserve"};
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-memdev", NULL, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "memory backend: %s\n", hmp_str(o, "id"));
        mon_printf(c, "  size:  %" PRIu64 "\n", json_object_get_uint64(hmp_any(o, "size")));
        for (size_t k = 0; k < G_N_ELEMENTS(flags); k++) {
            mon_printf(c, "  %s: %s\n", flags[k], json_object_get_boolean(hmp_any(o, flags[k])) ? "true" : "false");
        }
        mon_printf(c, "  policy: %s\n  host nodes: \n", hmp_str(o, "policy"));
    }
    mon_printf(c, "\n");
    return rc;
}

static int info_ramblock(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const struct guest_ram *ram;
    mon_printf(c, "%24s %18s %18s\n", "Block Name", "Offset", "Used");
    for (unsigned i = 0; c->env->vm && c->env->vm->mem && (ram = guest_ram_get(c->env->vm->mem, i)); i++) {
        mon_printf(c, "%24s 0x%016" PRIx64 " 0x%016" PRIx64 "\n", ram->name, ram->gpa, ram->size);
    }
    return 0;
}

const struct hmp_command hmp_machine_commands[] = {
    {"cont|c", "", "", "resume emulation", cont},
    {"stop|s", "", "", "stop emulation", stop},
    {"system_reset", "", "", "reset the system", system_reset},
    {"system_powerdown", "", "", "send system power down event", system_powerdown},
    {"system_wakeup", "", "", "wakeup guest from suspend", system_wakeup},
    {NULL},
};

const struct hmp_command hmp_machine_info[] = {
    {"status", "", "", "show the current VM status (running|paused)", info_status},
    {"name", "", "", "show the current VM name", info_name},
    {"uuid", "", "", "show the current VM UUID", info_uuid},
    {"kvm", "", "", "show KVM information", info_kvm},
    {"cpus", "", "", "show infos for each CPU", info_cpus},
    {"registers", "all:-a", "[-a]", "show the cpu registers (-a: of all CPUs)", info_registers},
    {"memory_size_summary", "", "", "show the amount of memory in bytes", info_memory_size_summary},
    {"memdev", "", "", "show memory backends", info_memdev},
    {"ramblock", "", "", "show where in the guest its memory is", info_ramblock},
    {NULL},
};
