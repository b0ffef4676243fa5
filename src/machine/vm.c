/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/vm.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "char/char.h"
#include "guest/pages.h"
#include "job/job.h"
#include "machine/machine.h"
#include "machine/run.h"
#include "net/net.h"

#include <fcntl.h>
#include <string.h>

#define DEFAULT_RAM (128ull << 20)

const char *const run_state_names[] = {
    "prelaunch",      "running",   "paused",         "shutdown",    "io-error", "internal-error",
    "guest-panicked", "inmigrate", "finish-migrate", "postmigrate", NULL,
};

static void jobs_stop_vm(void *opaque, const char *run_state)
{
    enum run_state why = RUN_PAUSED;
    for (unsigned i = 0; run_state_names[i]; i++) {
        why = strcmp(run_state_names[i], run_state) == 0 ? (enum run_state)i : why;
    }
    vm_stop(opaque, why);
}

static int jobs_switching(void *opaque, struct job *j, struct node *from, struct node *to, struct err *e)
{
    const struct vm_keeper *k = &((struct vm *)opaque)->keeper;
    return k->switching ? k->switching(k->opaque, j, from, to, e) : 0;
}

static void jobs_ended(void *opaque, struct job *j)
{
    const struct vm_keeper *k = &((struct vm *)opaque)->keeper;
    if (k->job_ended) {
        k->job_ended(k->opaque, j);
    }
}

struct vm *vm_create(struct loop *l, struct log *log)
{
    struct vm *vm = g_new0(struct vm, 1);
    const struct jobs_hooks hooks = {
        .vm_stop = jobs_stop_vm, .switching = jobs_switching, .ended = jobs_ended, .opaque = vm};
    vm->loop = l;
    vm->log = log;
    vm->bus = event_bus_create();
    vm->graph = graph_create(l, vm->bus, log);
    graph_set_for_guest(vm->graph);
    vm->jobs = jobs_create(vm->graph);
    jobs_set_hooks(vm->jobs, &hooks);
    vm->net = net_create(l, log);
    vm->mem = guest_mem_create();
    vm->pages = pages_create(vm->mem);
    vm->chardevs = g_ptr_array_new();
    vm->devices = g_ptr_array_new();
    vm->state = RUN_PRELAUNCH;
    guest_clock_init(&vm->clock, false);
    vm->run = vm_run_create(vm);
    return vm;
}

static void destroy_backends(struct vm *vm)
{
    GPtrArray *all = graph_backends(vm->graph);
    while (all->len) {
        backend_destroy(g_ptr_array_index(all, all->len - 1));
    }
}

void vm_destroy(struct vm *vm)
{
    if (!vm) {
        return;
    }
    vm_run_end(vm);
    jobs_destroy(vm->jobs);
    while (vm->devices->len) {
        struct device *d = g_ptr_array_steal_index(vm->devices, vm->devices->len - 1);
        device_destroy(d);
    }
    destroy_backends(vm);
    net_destroy(vm->net);
    if (vm->accel) {
        vm->accel_ops->destroy(vm->accel);
    }
    if (vm->machine) {
        vm->machine->type->destroy(vm->machine);
    }
    graph_destroy(vm->graph);
    for (guint i = 0; i < vm->chardevs->len; i++) {
        chardev_destroy(g_ptr_array_index(vm->chardevs, i));
    }
    vm_run_destroy(vm->run);
    pages_destroy(vm->pages);
    guest_mem_destroy(vm->mem);
    event_bus_destroy(vm->bus);
    g_ptr_array_free(vm->chardevs, true);
    g_clear_pointer(&vm->first_used, g_byte_array_unref);
    g_ptr_array_free(vm->devices, true);
    g_free(vm->name);
    g_free(vm->dumpdtb);
    json_object_put(vm->globals);
    g_free(vm);
}

void vm_set_keeper(struct vm *vm, const struct vm_keeper *k)
{
    vm->keeper = k ? *k : (struct vm_keeper){0};
}

static int device_changed(void *opaque, struct err *e)
{
    const struct vm_keeper *k = &((struct vm *)opaque)->keeper;
    return k->changed ? k->changed(k->opaque, e) : 0;
}

char *vm_uuid_text(const struct vm *vm)
{
    GString *s = g_string_new(NULL);
    for (int i = 0; i < 16; i++) {
        g_string_append_printf(s, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", vm->uuid[i]);
    }
    return g_string_free(s, FALSE);
}

void vm_fill_board(struct vm *vm, struct board *b)
{
    b->loop = vm->loop;
    b->log = vm->log;
    b->bus = vm->bus;
    b->graph = vm->graph;
    b->net = vm->net;
    b->mem = vm->mem;
    b->clock = &vm->clock;
    b->opaque = vm;
    b->io_error = vm_io_error;
    b->changed = device_changed;
}

/* -M memory-backend=: what the object says becomes the configuration's. */
static int take_memory(struct vm *vm, struct machine_config *c, struct memory_backend **out, struct err *e)
{
    const char *id = c->options ? json_object_get_string(json_object_object_get(c->options, "memory-backend")) : NULL;
    struct memory_backend *b = id ? graph_object(vm->graph, "memory-backend", id) : NULL;
    *out = b;
    if (id && !b) {
        return err_set(e, ENOENT, "Memory backend '%s' not found", id);
    }
    if (b && c->ram_size && c->ram_size != b->size) {
        return err_set(e, EINVAL, "Machine memory size does not match the size of the memory backend");
    }
    if (b && b->used) {
        return err_set(e, EBUSY, "memory backend %s can't be used multiple times.", id);
    }
    if (b) {
        bool prealloc = c->memory.prealloc;
        c->ram_size = b->size;
        c->memory = b->policy;
        c->memory.prealloc |= prealloc;
    }
    c->ram_size = c->ram_size ? c->ram_size : DEFAULT_RAM;
    c->memory.threads = c->memory.threads ? c->memory.threads : c->harts;
    return 0;
}

/* -M mem-merge=, dump-guest-core=: what a backend does without stays so. */
static int take_memory_options(struct machine_config *c, bool has_backend, struct err *e)
{
    struct jread r = jread_init(c->options, NULL, e);
    bool merge = jread_bool_or(&r, "mem-merge", c->memory.merge), dump = jread_bool_or(&r, "dump-guest-core", true);
    c->memory.merge = merge && (c->memory.merge || !has_backend);
    c->memory.no_dump |= !dump;
    return jread_end_lax(&r);
}

static int create_machine(struct vm *vm, const struct machine_release *t, const struct machine_config *c, struct err *e)
{
    struct machine_config own = *c;
    struct memory_backend *memory;
    int rc = take_memory(vm, &own, &memory, e);
    rc = rc < 0 ? rc : take_memory_options(&own, memory, e);
    rc = rc < 0 ? rc : t->board->create(vm, t, &own, &vm->machine, e);
    if (rc == 0 && memory) {
        memory->used = true;
    }
    return rc;
}

int vm_set_machine(struct vm *vm, const struct machine_config *c, struct err *e)
{
    if (vm->machine) {
        return err_set(e, EBUSY, "the machine is made already");
    }
    if (c->type && !strcmp(c->type, "none")) {
        vm->clock.manual = c->accel && !strcmp(c->accel, "qtest");
        return c->kernel ? err_set(e, EINVAL, "machine 'none' has no RAM to load '%s' into", c->kernel) : 0;
    }
    const struct machine_release *t = machine_type_find_until(c->type, vm->as_release, e);
    if (!t) {
        return -EINVAL;
    }
    int rc = pages_check_wish(e);
    rc = rc < 0 ? rc : machine_check_options(t, c->options, e);
    if (rc < 0) {
        return rc;
    }
    struct json_object *dump;
    if (c->options && json_object_object_get_ex(c->options, "dumpdtb", &dump)) {
        g_free(vm->dumpdtb); /* of one that failed */
        vm->dumpdtb = g_strdup(json_object_get_string(dump));
    }
    return create_machine(vm, t, c, e);
}

int vm_connect_serial(struct vm *vm, unsigned n, struct chardev *c, struct err *e)
{
    if (!vm->machine) {
        return c ? err_set(e, ENODEV, "machine 'none' has no serial port") : 0;
    }
    return vm->machine->type->connect_serial(vm->machine, n, c, e);
}

int vm_set_flash(struct vm *vm, unsigned unit, const char *drive, struct err *e)
{
    struct machine *m = vm->machine;
    if (!m || !m->type->complete || unit >= MACHINE_FLASH_BANKS) {
        return err_set(e, EINVAL, "machine type does not support if=pflash,bus=0,unit=%u", unit);
    }
    if (m->flash[unit]) {
        return err_set(e, EEXIST, "if=pflash,unit=%u clashes with -machine pflash%u=%s", unit, unit, m->flash[unit]);
    }
    m->flash[unit] = g_strdup(drive);
    return 0;
}

/* --- devices ---------------------------------------------------------------------------------------------------------
 */

struct device *vm_device_find(struct vm *vm, const char *id)
{
    for (guint i = 0; i < vm->devices->len; i++) {
        struct device *d = g_ptr_array_index(vm->devices, i);
        if ((d->id && !strcmp(d->id, id)) || !strcmp(d->path, id)) {
            return d;
        }
    }
    return NULL;
}

static int by_bootindex(const void *a, const void *b)
{
    int64_t x = device_int(*(struct device *const *)a, "bootindex"),
            y = device_int(*(struct device *const *)b, "bootindex");
    return (x > y) - (x < y);
}

void vm_tell_boot_order(struct vm *vm)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    GString *text = g_string_new("");
    for (guint i = 0; i < vm->devices->len; i++) {
        struct device *d = g_ptr_array_index(vm->devices, i);
        if (d->cls->boot_path && device_int(d, "bootindex") >= 0) {
            g_ptr_array_add(order, d);
        }
    }
    g_ptr_array_sort(order, by_bootindex);
    for (guint i = 0; i < order->len; i++) {
        struct device *d = g_ptr_array_index(order, i);
        CLEANUP_FREE char *path = d->cls->boot_path(d);
        g_string_append_printf(text, "%s%s", i ? "\n" : "", path);
    }
    if (order->len) {
        vm->machine->type->boot_order(vm->machine, text->str, text->len + 1);
    }
    g_string_free(text, true);
}

/* Two devices cannot be booted from at the same time. */
static int check_bootindex(struct vm *vm, const struct device *d, struct err *e)
{
    int64_t n = device_int(d, "bootindex");
    for (guint i = 0; n >= 0 && i < vm->devices->len; i++) {
        struct device *other = g_ptr_array_index(vm->devices, i);
        if (device_int(other, "bootindex") == n) {
            return err_set(e, EBUSY, "The bootindex %d has already been used by '%s'", (int)n, device_name(other));
        }
    }
    return 0;
}

static void add_default(struct json_object *o, const char *key, struct json_object *value)
{
    if (!json_object_object_get_ex(o, key, NULL)) {
        json_object_object_add(o, key, value);
    } else {
        json_object_put(value);
    }
}

/* `opts` and, for what they leave open, the defaults of -global and then the machine type's. */
static struct json_object *with_defaults(struct vm *vm, struct json_object *opts)
{
    struct json_object *driver = json_object_object_get(opts, "driver"), *out = json_clone(opts);
    const struct device_class *c =
        json_object_is_type(driver, json_type_string) ? device_class_find(json_object_get_string(driver)) : NULL;
    struct json_object *globals = c ? json_object_object_get(vm->globals, c->name) : NULL;
    if (globals) {
        json_object_object_foreach(globals, key, value)
        {
            add_default(out, key, json_object_get(value));
        }
    }
    for (const struct machine_compat *m = vm->machine->release->compat; c && m->driver; m++) {
        if (!strcmp(m->driver, c->name)) {
            add_default(out, m->prop, json_object_new_string(m->value));
        }
    }
    return out;
}

int vm_device_add(struct vm *vm, struct json_object *opts, struct err *e)
{
    struct json_object *id;
    if (!vm->machine) {
        return err_set(e, ENODEV, "machine 'none' has no bus for devices");
    }
    if (json_object_object_get_ex(opts, "id", &id) && json_object_is_type(id, json_type_string) &&
        vm_device_find(vm, json_object_get_string(id))) {
        return err_set(e, EEXIST, "Duplicate device ID '%s'", json_object_get_string(id));
    }
    struct device *d;
    CLEANUP_JSON struct json_object *complete = with_defaults(vm, opts);
    int rc = device_create(&vm->machine->board, complete, vm->devices_made, &d, e);
    if (rc < 0) {
        return rc;
    }
    rc = check_bootindex(vm, d, e);
    const struct state_compat *known = machine_release_knows(vm->as_release, d->cls->state->name);
    if (rc == 0 && known && !known->version) {
        rc = err_set(e, EINVAL, "'%s' is not a valid device model name: the release of '%s' has no such device",
                     d->cls->name, vm->as_release->info->name);
    }
    if (rc == 0 && vm_run_started(vm) && !d->cls->hotpluggable) {
        rc = err_set(e, ENOTSUP, "Device '%s' does not support hotplugging", d->cls->name);
    }
    if (rc < 0) {
        device_destroy(d);
        return rc;
    }
    vm_quiesce(vm);
    rc = device_realize(d, e);
    if (rc == 0) {
        vm->devices_made += !d->id;
        g_ptr_array_add(vm->devices, d);
    } else {
        device_destroy(d);
    }
    vm_unquiesce(vm);
    return rc;
}

/* What -drive made goes with the device that used it, as everybody is used to; NULL: it has none. */
static struct backend *drive_of(struct vm *vm, const struct device *d)
{
    GPtrArray *all = graph_backends(vm->graph);
    for (guint i = 0; i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        if ((b->name[0] || b->deleted) && b->qdev && !strcmp(b->qdev, device_name(d))) {
            return b;
        }
    }
    return NULL;
}

/* With the drive that -drive made for it, and after those that are on a bus of its own. Quiesced. */
static void remove_device(struct vm *vm, struct device *d)
{
    for (guint i = vm->devices->len; i-- > 0;) {
        struct device *child = g_ptr_array_index(vm->devices, i);
        if (child->parent == d) {
            remove_device(vm, child);
            i = MIN(i, vm->devices->len);
        }
    }
    struct json_object *data = json_object_new_object();
    if (d->id) {
        json_object_object_add(data, "device", json_object_new_string(d->id));
    }
    json_object_object_add(data, "path", json_object_new_string(d->path));
    struct backend *drive = drive_of(vm, d);
    g_ptr_array_remove(vm->devices, d);
    device_destroy(d);
    backend_destroy(drive);
    event_emit(vm->bus, "DEVICE_DELETED", data);
}

int vm_device_del(struct vm *vm, const char *id, struct err *e)
{
    struct device *d = vm_device_find(vm, id);
    if (!d) {
        return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", id);
    }
    if (!d->cls->hotpluggable) {
        return err_set(e, ENOTSUP, "Device '%s' does not support hotplugging", d->cls->name);
    }
    vm_quiesce(vm);
    d = vm_device_find(vm, id);
    if (!d) { /* somebody else was faster */
        vm_unquiesce(vm);
        return err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", id);
    }
    if (d->cls->busy && d->cls->busy(d)) {
        vm_unquiesce(vm);
        return err_set(e, EBUSY, "device '%s' is in use by the guest's driver; remove it there first", id);
    }
    remove_device(vm, d);
    vm_unquiesce(vm);
    return 0;
}

/* --- device tree
 * ------------------------------------------------------------------------------------------------------ */

int vm_dump_dtb(struct vm *vm, const char *file, struct err *e)
{
    size_t size;
    if (!vm->machine) {
        return err_set(e, ENODEV, "machine 'none' has no device tree");
    }
    CLEANUP_FREE void *dtb = vm->machine->type->device_tree(vm->machine, &size, e);
    if (!dtb) {
        return -EINVAL;
    }
    CLEANUP_CLOSE int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return err_set_errno(e, errno, "could not write device tree '%s'", file);
    }
    ssize_t n = write(fd, dtb, size);
    if (n != (ssize_t)size) {
        return err_set_errno(e, n < 0 ? errno : ENOSPC, "could not write device tree '%s'", file);
    }
    return 0;
}
