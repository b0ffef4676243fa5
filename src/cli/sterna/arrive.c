/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/arrive.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/options.h"
#include "cli/sterna/state.h"
#include "config/vm_state.h"
#include "net/net.h"

#include <string.h>
#include <unistd.h>

struct arrival {
    GPtrArray *all;      /* struct config_section *: what came, with values of our own; options point into it */
    GPtrArray *sections; /* those of them that are taken */
    GPtrArray *disks;    /* struct arriving_disk *: to be made */
    unsigned made;       /* of these */
    bool here;           /* the machine has come */
};

static void section_free(void *opaque)
{
    struct config_section *s = opaque;
    g_free((char *)(uintptr_t)s->kind);
    g_free((char *)(uintptr_t)s->name);
    json_object_put(s->values);
    g_free(s);
}

static struct arrival *arrival_create(void)
{
    struct arrival *a = g_new0(struct arrival, 1);
    a->all = g_ptr_array_new_with_free_func(section_free);
    a->sections = g_ptr_array_new();
    a->disks = g_ptr_array_new_with_free_func(arriving_disk_free);
    return a;
}

static void arrival_destroy(struct arrival *a)
{
    if (a) {
        g_ptr_array_free(a->disks, true);
        g_ptr_array_free(a->sections, true);
        g_ptr_array_free(a->all, true);
        g_free(a);
    }
}

/* --- what comes ----------------------------------------------------------------------------------------------------
 */

static const struct config_kind *kind_of(const char *name)
{
    const struct config_kind *k = vm_state_kinds;
    for (; name && k->name && strcmp(k->name, name) != 0; k++) {
    }
    return name && k->name ? k : NULL;
}

static bool is_key(const struct config_kind *k, const char *name)
{
    for (const struct config_key *y = k->keys; y && y->name; y++) {
        CLEANUP_FREE char *below = g_strdup_printf("%s.*", name);
        if (!strcmp(y->name, name) || !strcmp(y->name, below)) {
            return true;
        }
    }
    return k->open;
}

static int check_section(const struct config_kind *k, const char *kind, const char *name, struct json_object *values,
                         struct err *e)
{
    if (!k) {
        return err_set(e, ENOTSUP,
                       "The source's machine has '%s', which this release does not know: move it to a newer one",
                       kind ? kind : "a thing without a name");
    }
    if (!json_object_is_type(values, json_type_object) || (!name && !k->single)) {
        return err_set(e, EPROTO, "What the source says of its machine ('%s') is no section", kind);
    }
    json_object_object_foreach(values, key, v)
    {
        (void)v;
        if (!is_key(k, key)) {
            return err_set(e, ENOTSUP,
                           "The source's '%s' has '%s', which this release does not know: move it to a newer one", kind,
                           key);
        }
    }
    return 0;
}

static int read_section(struct arrival *a, struct json_object *o, struct err *e)
{
    bool is_object = json_object_is_type(o, json_type_object);
    const char *kind = is_object ? json_get_str(o, "kind") : NULL, *name = is_object ? json_get_str(o, "name") : NULL;
    struct json_object *values = is_object ? json_object_object_get(o, "values") : NULL;
    int rc = check_section(kind_of(kind), kind, name, values, e);
    if (rc == 0) {
        struct config_section *s = g_new(struct config_section, 1);
        *s = (struct config_section){g_strdup(kind), g_strdup(name), json_clone(values)};
        g_ptr_array_add(a->all, s);
    }
    return rc;
}

/* --- what of it is taken --------------------------------------------------------------------------------------------
 */

/* Monitors, serial lines, servers belong to a host; so does what is here under the same name. */
static bool is_wanted(const struct program *p, const struct config_section *s)
{
    static const char *const stay[] = {"chardev", "export", "job", "monitor", "nbd-server", "serial", NULL};
    if (g_strv_contains(stay, s->kind)) {
        return false;
    }
    return !(!strcmp(s->kind, "object") && object_registry_props(p->env.objects, s->name)) &&
           !(!strcmp(s->kind, "blockdev") && node_find(p->env.graph, s->name)) &&
           !(!strcmp(s->kind, "netdev") && netdev_find(p->vm->net, s->name));
}

/* Of connections that nobody who comes has. */
static bool is_idle(const GPtrArray *sections, const struct config_section *s)
{
    const char *type = !strcmp(s->kind, "object") ? json_get_str(s->values, "qom-type") : NULL;
    return type && (g_str_has_prefix(type, "tls-c") || g_str_has_prefix(type, "authz-")) &&
           !arrive_any_names(sections, s->name);
}

static void pick(const struct program *p, struct arrival *a)
{
    for (guint i = 0; i < a->all->len; i++) {
        struct config_section *s = g_ptr_array_index(a->all, i);
        if (is_wanted(p, s)) {
            g_ptr_array_add(a->sections, s);
        }
    }
    for (guint i = a->sections->len; i-- > 0;) {
        if (is_idle(a->sections, g_ptr_array_index(a->sections, i))) {
            g_ptr_array_remove_index(a->sections, i);
        }
    }
}

static int set_machine(const struct arrival *a, const char *type, struct err *e)
{
    const struct config_section *m = arrive_find(a->sections, "machine", NULL);
    if (!m) {
        return err_set(e, EPROTO, "What the source says of its machine lacks the machine itself");
    }
    struct json_object *options = json_object_object_get(m->values, "options");
    json_object_object_add(m->values, "type", json_object_new_string(type)); /* as the stream has it */
    json_object_object_del(m->values, "arriving");
    json_object_object_del(m->values, "away");
    if (json_object_is_type(options, json_type_object)) {
        json_object_object_del(options, "dumpdtb");
    }
    return 0;
}

static int plan_disks(struct program *p, struct arrival *a, const struct vm_arrival *v, struct err *e)
{
    size_t n = json_object_is_type(v->disks, json_type_array) ? json_object_array_length(v->disks) : 0;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct json_object *want = json_object_array_get_idx(v->disks, i);
        struct arriving_disk *d = NULL;
        const char *mode = json_object_is_type(want, json_type_object) ? json_get_str(want, "mode") : NULL;
        if (!g_strcmp0(mode, "pre-copy") || !g_strcmp0(mode, "post-copy")) {
            rc = arrive_plan_disk(p, a->sections, want, v->folder, &d, e);
        }
        if (d) {
            g_ptr_array_add(a->disks, d);
        }
    }
    return rc;
}

/* --- whether it is all here ----------------------------------------------------------------------------------------
 */

static bool will_be_made(const struct arrival *a, const char *path)
{
    for (guint i = 0; i < a->disks->len; i++) {
        if (!strcmp(((struct arriving_disk *)g_ptr_array_index(a->disks, i))->path, path)) {
            return true;
        }
    }
    return false;
}

static int check_path(const struct arrival *a, const char *path, struct err *e)
{
    return !path || will_be_made(a, path) || access(path, R_OK) == 0
               ? 0
               : err_set_errno(e, errno, "Could not open '%s'", path);
}

static int check_images(const struct arrival *a, struct json_object *o, struct err *e)
{
    const char *driver = json_get_str(o, "driver");
    int rc = driver && (!strcmp(driver, "file") || !strcmp(driver, "host_device"))
                 ? check_path(a, json_get_str(o, "filename"), e)
                 : 0;
    json_object_object_foreach(o, key, v)
    {
        (void)key;
        rc = rc == 0 && json_object_is_type(v, json_type_object) ? check_images(a, v, e) : rc;
    }
    return rc;
}

static int check_files(const struct arrival *a, struct err *e)
{
    static const char *const keys[] = {"kernel", "initrd", "dtb"};
    for (guint i = 0; i < a->sections->len; i++) {
        const struct config_section *s = g_ptr_array_index(a->sections, i);
        int rc = !strcmp(s->kind, "blockdev") ? check_images(a, s->values, e) : 0;
        for (size_t k = 0; rc == 0 && !strcmp(s->kind, "machine") && k < G_N_ELEMENTS(keys); k++) {
            rc = check_path(a, json_get_str(s->values, keys[k]), e);
        }
        if (rc < 0) {
            return arrive_blame(s, e);
        }
    }
    return 0;
}

int arrive_blame(const struct config_section *s, struct err *e)
{
    static const struct {
        const char *kind, *option;
    } made_before[] = {{"blockdev", "-blockdev"}, {"object", "-object"}, {"netdev", "-netdev"}};
    CLEANUP_FREE char *text = g_strdup(err_text(e));
    const char *option = NULL;
    int code = e->code;
    for (size_t i = 0; i < G_N_ELEMENTS(made_before); i++) {
        option = !strcmp(s->kind, made_before[i].kind) ? made_before[i].option : option;
    }
    err_clear(e);
    if (!s->name) {
        return err_set(e, code, "[%s] as the source has it: %s", s->kind, text);
    }
    return option
               ? err_set(e, code, "[%s \"%s\"] as the source has it: %s (where it is another here, give %s %s first)",
                         s->kind, s->name, text, option, s->name)
               : err_set(e, code, "[%s \"%s\"] as the source has it: %s", s->kind, s->name, text);
}

/* --- making it ------------------------------------------------------------------------------------------------------
 */

static int read_all(struct program *p, struct arrival *a, const struct vm_arrival *v, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < json_object_array_length(v->make_up); i++) {
        rc = read_section(a, json_object_array_get_idx(v->make_up, i), e);
    }
    if (rc < 0) {
        return rc;
    }
    pick(p, a);
    rc = set_machine(a, v->type, e);
    rc = rc < 0 ? rc : plan_disks(p, a, v, e);
    return rc < 0 ? rc : check_files(a, e);
}

static int build(struct program *p, struct err *e)
{
    struct arrival *a = p->arrival;
    int rc = 0;
    graph_change_begin(p->env.graph);
    graph_allow_generated(p->env.graph, true);
    for (; rc == 0 && a->made < a->disks->len; a->made += rc == 0) {
        rc = arrive_make_disk(p, g_ptr_array_index(a->disks, a->made), e);
    }
    if (rc == 0) {
        state_take_sections(p, a->sections);
        rc = program_build(p, e);
    }
    graph_allow_generated(p->env.graph, false);
    graph_change_end(p->env.graph);
    return rc;
}

static int take_make_up(void *opaque, const struct vm_arrival *v, struct err *e)
{
    struct program *p = opaque;
    struct vm *vm = p->vm;
    if (!v->make_up) {
        return err_set(e, ENOTSUP,
                       "The source does not say what its machine is made of: start this program with that machine's "
                       "options, or with a state file that says it");
    }
    if (p->arrival) {
        return err_set(e, EBUSY, "a machine could not be made half way, before: start the program again");
    }
    struct arrival *a = arrival_create();
    int rc = read_all(p, a, v, e);
    if (rc < 0 || v->only_asked) {
        arrival_destroy(a);
        return rc;
    }
    p->arrival = a;
    rc = build(p, e);
    vm->state = RUN_INMIGRATE;
    vm->make_up.make = rc < 0 ? vm->make_up.make : NULL;
    return rc;
}

static struct json_object *tell_make_up(void *opaque)
{
    return vm_state_describe(((struct program *)opaque)->env.state);
}

static struct json_object *tell_job(void *opaque, const struct job *j)
{
    return vm_state_job(((struct program *)opaque)->env.state, j);
}

static void arrived(void *opaque)
{
    struct program *p = opaque;
    vm_state_set_arriving(p->env.state, false);
    p->arriving = false;
    if (p->arrival) {
        p->arrival->here = true;
    }
}

static int make_job(void *opaque, const char *id, struct json_object *values, struct err *e)
{
    return state_make_job(opaque, id, values, e);
}

void arrive_prepare(struct program *p)
{
    p->vm->make_up = (struct vm_make_up){tell_make_up, tell_job, p->arriving ? take_make_up : NULL, arrived, p};
    p->vm->make_job = make_job;
    vm_state_set_arriving(p->env.state, p->arriving);
}

void arrive_forget(struct program *p)
{
    struct arrival *a = take(p->arrival);
    for (guint i = 0; a && !a->here && i < a->made; i++) {
        unlink(((struct arriving_disk *)g_ptr_array_index(a->disks, i))->path);
    }
    arrival_destroy(a);
}
