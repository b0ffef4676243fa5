/* SPDX-License-Identifier: BSD-2-Clause */
/* What a machine is made of, as the sections of its state file. */
#include "config/vm_sections.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/throttle.h"
#include "char/char.h"
#include "export/nbd/nbd.h"
#include "job/job.h"
#include "machine/machine.h"
#include "net/net.h"

#include <string.h>

static void add(struct json_object *o, const char *key, struct json_object *v)
{
    json_object_object_add(o, key, v);
}

static void add_str(struct json_object *o, const char *key, const char *s)
{
    if (s) {
        add(o, key, json_object_new_string(s));
    }
}

void vm_sections_add(GPtrArray *out, const char *kind, const char *name, struct json_object *values)
{
    struct vm_section *x = g_new(struct vm_section, 1);
    *x = (struct vm_section){kind, g_strdup(name), values};
    g_ptr_array_add(out, x);
}

static void section_free(void *opaque)
{
    struct vm_section *x = opaque;
    g_free(x->name);
    json_object_put(x->values);
    g_free(x);
}

static const struct backend *backend_of(const struct vm_state *s, const char *device)
{
    GPtrArray *all = graph_backends(s->o.vm->graph);
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (b->qdev && !strcmp(b->qdev, device)) {
            return b;
        }
    }
    return NULL;
}

/* By what a device names its disk. NULL: it has none. */
static const char *disk_name(const struct vm_state *s, const struct backend *b)
{
    return b->name[0] ? b->name : b->root ? vm_node_shown(s, b->root->child)->name : NULL;
}

/* The values of these keys are names of files. */
static void make_absolute(const struct vm_state *s, struct json_object *o, const char *const *keys, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const char *name = json_object_get_string(json_object_object_get(o, keys[i]));
        CLEANUP_FREE char *full = name ? vm_state_absolute(s, name) : NULL;
        add_str(o, keys[i], full);
    }
}

/* --- the machine -------------------------------------------------------------------------------------------------- */

/* What is in the flash banks by now. */
static void set_flash(const struct vm_state *s, struct json_object *o)
{
    for (unsigned i = 0; i < MACHINE_FLASH_BANKS; i++) {
        CLEANUP_FREE char *device = g_strdup_printf("/machine/virt.flash%u", i);
        CLEANUP_FREE char *key = g_strdup_printf("pflash%u", i);
        const struct backend *b = backend_of(s, device);
        const char *name = b ? disk_name(s, b) : s->o.vm->machine->flash[i];
        struct json_object *options = json_object_object_get(o, "options");
        if (name && !options) {
            options = json_object_new_object();
            json_object_object_add(o, "options", options);
        }
        add_str(options, key, name);
    }
}

/* How the guest has set its clock. */
static void set_rtc(const struct vm_state *s, struct json_object *o)
{
    struct machine *m = s->o.vm->machine;
    int64_t ahead = m->type->rtc_offset(m);
    struct json_object *options = json_object_object_get(o, "options");
    if (ahead && !options) {
        options = json_object_new_object();
        json_object_object_add(o, "options", options);
    }
    if (ahead) {
        json_object_object_add(options, "rtc-offset", json_object_new_int64(ahead));
    }
}

static void machine_section(struct vm_state *s, GPtrArray *out)
{
    static const char *const files[] = {"kernel", "initrd", "dtb", "bios"};
    static const uint8_t none[16];
    const struct vm *vm = s->o.vm;
    struct json_object *noted = vm_state_noted(s, "machine", NULL);
    if (!noted && !s->arriving) {
        return; /* not chosen yet */
    }
    struct json_object *o = noted ? json_clone(noted) : json_object_new_object();
    if (s->arriving) {
        add(o, "arriving", json_object_new_boolean(true));
    }
    if (vm->moved_away) {
        add(o, "away", json_object_new_boolean(true));
    }
    const char *bios = json_object_get_string(json_object_object_get(o, "bios"));
    bool word = bios && (!strcmp(bios, "default") || !strcmp(bios, "none"));
    make_absolute(s, o, files, G_N_ELEMENTS(files) - word);
    if (vm->machine) {
        set_flash(s, o);
        set_rtc(s, o);
    }
    add_str(o, "name", vm->name);
    if (memcmp(vm->uuid, none, sizeof(none)) != 0) {
        CLEANUP_FREE char *uuid = vm_uuid_text(vm);
        add_str(o, "uuid", uuid);
    }
    add_str(o, "reboot", vm->no_reboot ? "shutdown" : NULL);
    add_str(o, "shutdown", vm->no_shutdown ? "pause" : NULL);
    vm_sections_add(out, "machine", NULL, o);
}

static void global_sections(struct vm_state *s, GPtrArray *out)
{
    if (s->o.vm->globals) {
        json_object_object_foreach(s->o.vm->globals, driver, props)
        {
            vm_sections_add(out, "global", driver, json_clone(props));
        }
    }
}

static void object_sections(struct vm_state *s, GPtrArray *out)
{
    const char *id;
    for (unsigned i = 0; (id = object_registry_id(s->o.objects, i, NULL)); i++) {
        struct json_object *o = json_clone(object_registry_props(s->o.objects, id));
        json_object_object_del(o, "id");
        vm_sections_add(out, "object", id, o);
    }
}

static void chardev_sections(struct vm_state *s, GPtrArray *out)
{
    for (guint i = 0; i < s->o.vm->chardevs->len; i++) {
        static const char *const files[] = {"path", "logfile", "input-path"};
        const char *id = chardev_id(g_ptr_array_index(s->o.vm->chardevs, i));
        struct json_object *noted = vm_state_noted(s, "chardev", id);
        if (noted) {
            struct json_object *o = json_clone(noted);
            make_absolute(s, o, files, G_N_ELEMENTS(files));
            vm_sections_add(out, "chardev", id, o);
        }
    }
}

/* Those of a kind that nothing but the notes know. */
static void noted_sections(struct vm_state *s, const char *kind, GPtrArray *out)
{
    CLEANUP_FREE char *prefix = g_strconcat(kind, "\n", NULL);
    g_autoptr(GList) keys = g_list_sort(g_hash_table_get_keys(s->notes), (GCompareFunc)(void (*)(void))strcmp);
    for (GList *k = keys; k; k = k->next) {
        if (g_str_has_prefix(k->data, prefix)) {
            vm_sections_add(out, kind, (const char *)k->data + strlen(prefix),
                            json_clone(g_hash_table_lookup(s->notes, k->data)));
        }
    }
}

/* --- disks and devices -------------------------------------------------------------------------------------------- */

static const char *const on_error[] = {"report", "ignore", "enospc", "stop", NULL};

static void drive_sections(struct vm_state *s, GPtrArray *out)
{
    GPtrArray *all = graph_backends(s->o.vm->graph);
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        if (!b->name[0]) {
            continue;
        }
        struct json_object *o = json_object_new_object();
        add_str(o, "node", b->root ? vm_node_shown(s, b->root->child)->name : NULL);
        add_str(o, "rerror", b->rerror == IO_ERROR_AUTO ? NULL : on_error[b->rerror]);
        add_str(o, "werror", b->werror == IO_ERROR_AUTO ? NULL : on_error[b->werror]);
        if (!b->write_cache) {
            add(o, "write-cache", json_object_new_boolean(false));
        }
        vm_sections_add(out, "drive", b->name, o);
    }
}

static void netdev_sections(struct vm_state *s, GPtrArray *out)
{
    const struct netdev *d;
    for (unsigned i = 0; (d = netdev_get(s->o.vm->net, i)); i++) {
        struct json_object *o = json_clone(d->opts);
        json_object_object_del(o, "id");
        vm_sections_add(out, "netdev", d->id, o);
    }
}

static void device_sections(struct vm_state *s, GPtrArray *out)
{
    for (guint i = 0; i < s->o.vm->devices->len; i++) {
        const struct device *d = g_ptr_array_index(s->o.vm->devices, i);
        const struct backend *b = backend_of(s, device_name(d));
        if (!d->cls->user_creatable) { /* the board's own */
            continue;
        }
        struct json_object *o = device_options(d);
        CLEANUP_FREE char *number = d->id ? NULL : g_strdup_printf("#%s", strrchr(d->path, '/') + 1);
        json_object_object_del(o, "id");
        if (b) {
            json_object_object_del(o, "drive");
            add_str(o, "drive", disk_name(s, b));
        }
        vm_sections_add(out, "device", d->id ? d->id : number, o);
    }
}

/* Groups of limits that are in use: who is in them, and for those that are no objects the limits. */
static void throttle_sections(struct vm_state *s, GPtrArray *out)
{
    GPtrArray *all = graph_backends(s->o.vm->graph);
    g_autoptr(GHashTable) groups = g_hash_table_new(g_str_hash, g_str_equal);
    for (guint i = 0; i < all->len; i++) {
        const struct backend *b = g_ptr_array_index(all, i);
        const struct throttle_group *t = b->deleted ? NULL : backend_limits(b);
        if (!t) {
            continue;
        }
        const char *name = throttle_group_name(t);
        struct json_object *o = g_hash_table_lookup(groups, name);
        if (!o) {
            o = json_object_new_object();
            if (!object_registry_props(s->o.objects, name)) {
                add(o, "limits", throttle_config_json(throttle_group_get(t)));
            }
            add(o, "disks", json_object_new_array());
            g_hash_table_insert(groups, (void *)(uintptr_t)name, o);
            vm_sections_add(out, "throttle", name, o);
        }
        json_object_array_add(json_object_object_get(o, "disks"),
                              json_object_new_string(b->name[0] ? b->name : b->qdev));
    }
}

/* --- what works on the disks ----------------------------------------------------------------------------------------
 */

static void export_sections(struct vm_state *s, GPtrArray *out)
{
    struct nbd_server *nbd = *s->o.nbd;
    struct json_object *server = vm_state_noted(s, "nbd-server", NULL);
    struct nbd_export *exp;
    if (!nbd || !server) {
        return;
    }
    vm_sections_add(out, "nbd-server", NULL, json_clone(server));
    for (unsigned i = 0; (exp = nbd_server_export(nbd, i)); i++) {
        struct json_object *noted = vm_state_noted(s, "export", nbd_export_id(exp));
        if (noted && !nbd_export_shutting_down(exp)) {
            struct json_object *o = json_clone(noted);
            add_str(o, "node-name", vm_node_shown(s, nbd_export_node(exp))->name);
            vm_sections_add(out, "export", nbd_export_id(exp), o);
        }
    }
}

static bool is_over(const struct vm_state *s, const struct job *j)
{
    bool over = job_is_cancelled(j) || j->over || j->status >= JOB_ABORTING;
    for (guint i = 0; i < s->pending->len; i++) {
        over |= g_array_index(s->pending, struct vm_state_switch, i).job == j;
    }
    return over;
}

struct json_object *vm_state_job(struct vm_state *s, const struct job *j)
{
    struct json_object *noted = j->id ? vm_state_noted(s, "job", j->id) : NULL;
    if (!noted || is_over(s, j)) {
        return NULL;
    }
    struct json_object *o = json_clone(noted);
    json_object_object_del(o, "speed");
    json_object_object_del(o, VM_STATE_NOT_KEPT);
    if (j->speed) {
        add(o, "speed", json_object_new_uint64(j->speed));
    }
    if (j->user_paused) {
        add(o, "paused", json_object_new_boolean(true));
    }
    return o;
}

static void job_sections(struct vm_state *s, GPtrArray *out)
{
    GPtrArray *all = jobs_list(s->o.vm->jobs);
    for (guint i = all->len; i-- > 0;) {
        const struct job *j = g_ptr_array_index(all, i);
        struct json_object *noted = j->id ? vm_state_noted(s, "job", j->id) : NULL;
        bool kept = noted && !job_cancel_requested(j) && !json_object_object_get_ex(noted, VM_STATE_NOT_KEPT, NULL);
        struct json_object *o = kept ? vm_state_job(s, j) : NULL;
        if (o) {
            vm_sections_add(out, "job", j->id, o);
        }
    }
}

GPtrArray *vm_sections(struct vm_state *s)
{
    GPtrArray *out = g_ptr_array_new_with_free_func(section_free);
    machine_section(s, out);
    global_sections(s, out);
    object_sections(s, out);
    chardev_sections(s, out);
    vm_nodes_sections(s, out);
    drive_sections(s, out);
    netdev_sections(s, out);
    device_sections(s, out);
    throttle_sections(s, out);
    noted_sections(s, "serial", out);
    noted_sections(s, "monitor", out);
    export_sections(s, out);
    job_sections(s, out);
    return out;
}
