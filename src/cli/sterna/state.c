/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/state.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/throttle.h"
#include "cli/sterna/arrive.h"
#include "config/event_log.h"
#include "config/vm_state.h"
#include "job/job.h"
#include "machine/machine.h"

#include <string.h>

/* --- sections as options ------------------------------------------------------------------------------------------ */

/* What is being turned into options. */
struct reading {
    struct program *p;
    const GPtrArray *sections; /* all of them: struct config_section * */
    GArray *out;
    GHashTable *taken; /* sections of blockdevs and devices that are in `out` */
};

static struct opt *add(struct reading *r, enum opt_id id, const char *name, char *value, const struct config_section *s)
{
    struct opt o = {.id = id, .name = name, .value = value, .section = s};
    g_ptr_array_add(r->p->texts, value);
    g_array_append_val(r->out, o);
    return &g_array_index(r->out, struct opt, r->out->len - 1);
}

static char *text_of(struct json_object *o)
{
    return g_strdup(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}

/* One whose name is the value of `key`. */
static void add_named(struct reading *r, enum opt_id id, const char *key, const struct config_section *s)
{
    CLEANUP_JSON struct json_object *o = json_clone(s->values);
    json_object_object_add(o, key, json_object_new_string(s->name));
    add(r, id, s->kind, text_of(o), s);
}

static const struct device_class *class_of(const struct config_section *s)
{
    const char *driver = json_object_get_string(json_object_object_get(s->values, "driver"));
    return !strcmp(s->kind, "device") && driver ? device_class_find(driver) : NULL;
}

/* The device with the bus that it wants; NULL: the board has it, or it is not there. */
static const struct config_section *carrier(const struct reading *r, const struct config_section *s)
{
    const struct device_class *c = class_of(s);
    const char *bus = json_object_get_string(json_object_object_get(s->values, "bus"));
    CLEANUP_FREE char *id = bus ? g_strndup(bus, strcspn(bus, ".")) : NULL;
    for (guint i = 0; c && !strcmp(c->bus, "SCSI") && i < r->sections->len; i++) {
        const struct config_section *x = g_ptr_array_index(r->sections, i);
        const struct device_class *of = class_of(x);
        if (of && g_str_has_prefix(of->name, "virtio-scsi-") && (!id || !strcmp(x->name, id))) {
            return x;
        }
    }
    return NULL;
}

static void add_device(struct reading *r, const struct config_section *s)
{
    if (!g_hash_table_add(r->taken, (void *)(uintptr_t)s)) {
        return;
    }
    const struct config_section *below = carrier(r, s);
    if (below) {
        add_device(r, below);
    }
    CLEANUP_JSON struct json_object *o = json_clone(s->values);
    struct json_object *addr = json_object_object_get(o, "addr");
    if (json_object_is_type(addr, json_type_int)) { /* a slot, as -device has it, not device_add's number */
        json_object_object_add(o, "addr", json_object_new_string(json_object_get_string(addr)));
    }
    if (s->name[0] != '#') { /* such a one has no id */
        json_object_object_add(o, "id", json_object_new_string(s->name));
    }
    add(r, OPT_DEVICE, s->kind, text_of(o), s);
}

static void add_monitor(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_MON, "chardev", s);
}

static void add_chardev(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_CHARDEV, "id", s);
}

static void add_serial(struct reading *r, const struct config_section *s)
{
    const char *id = json_object_get_string(json_object_object_get(s->values, "chardev"));
    add(r, OPT_SERIAL, s->kind, g_strconcat("chardev:", id, NULL), s);
}

static void add_object(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_OBJECT, "id", s);
}

static void add_global(struct reading *r, const struct config_section *s)
{
    json_object_object_foreach(s->values, key, value)
    {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "driver", json_object_new_string(s->name));
        json_object_object_add(o, "property", json_object_new_string(key));
        json_object_object_add(o, "value", json_object_get(value));
        add(r, OPT_GLOBAL, s->kind, text_of(o), s);
    }
}

/* {key: value}, when there is one. */
static void add_group(struct reading *r, enum opt_id id, const char *key, struct json_object *value,
                      const struct config_section *s)
{
    if (value) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, key, json_object_get(value));
        add(r, id, s->kind, text_of(o), s);
    }
}

static void add_machine(struct reading *r, const struct config_section *s)
{
    static const struct {
        const char *key;
        enum opt_id id;
    } plain[] = {
        {"cpu", OPT_CPU}, {"kernel", OPT_KERNEL}, {"initrd", OPT_INITRD}, {"append", OPT_APPEND},
        {"dtb", OPT_DTB}, {"bios", OPT_BIOS},     {"uuid", OPT_UUID},
    };
    struct json_object *options = json_object_object_get(s->values, "options");
    struct json_object *memory = json_object_object_get(s->values, "memory");
    struct json_object *type = json_object_object_get(s->values, "type");
    CLEANUP_JSON struct json_object *m = options ? json_clone(options) : json_object_new_object();
    CLEANUP_JSON struct json_object *bytes =
        json_object_is_type(memory, json_type_int)
            ? json_object_new_string(g_strdup_printf("%" PRId64 "b", json_object_get_int64(memory)))
            : json_object_get(memory);
    if (type) {
        json_object_object_add(m, "type", json_object_get(type));
    }
    if (type || options) {
        add(r, OPT_MACHINE, s->kind, text_of(m), s);
    }
    add_group(r, OPT_MEMORY, "size", bytes, s);
    add_group(r, OPT_SMP, "cpus", json_object_object_get(s->values, "harts"), s);
    add_group(r, OPT_NAME, "guest", json_object_object_get(s->values, "name"), s);
    add_group(r, OPT_ACTION, "reboot", json_object_object_get(s->values, "reboot"), s);
    add_group(r, OPT_ACTION, "shutdown", json_object_object_get(s->values, "shutdown"), s);
    for (size_t i = 0; i < G_N_ELEMENTS(plain); i++) {
        struct json_object *v = json_object_object_get(s->values, plain[i].key);
        if (v) {
            add(r, plain[i].id, s->kind, g_strdup(json_object_get_string(v)), s);
        }
    }
}

/* --- blockdevs: what others name comes before them -------------------------------------------------------------- */

static void add_blockdev(struct reading *r, const struct config_section *s);

static bool provides(struct json_object *o, const char *name)
{
    json_object_object_foreach(o, key, v)
    {
        bool here = !strcmp(key, "node-name") && !g_strcmp0(json_object_get_string(v), name);
        if (here || (json_object_is_type(v, json_type_object) && provides(v, name))) {
            return true;
        }
    }
    return false;
}

static const struct config_section *provider(struct reading *r, const char *name)
{
    const struct config_section *found = NULL;
    for (guint i = 0; i < r->sections->len; i++) {
        const struct config_section *s = g_ptr_array_index(r->sections, i);
        if (!strcmp(s->kind, "blockdev") && !strcmp(s->name, name)) {
            return s;
        }
        found = !found && !strcmp(s->kind, "blockdev") && provides(s->values, name) ? s : found;
    }
    return found;
}

static void add_those_named(struct reading *r, struct json_object *o)
{
    json_object_object_foreach(o, key, v)
    {
        if (json_object_is_type(v, json_type_object)) {
            add_those_named(r, v);
        } else if (json_object_is_type(v, json_type_string) && strcmp(key, "driver") && strcmp(key, "node-name")) {
            const struct config_section *below = provider(r, json_object_get_string(v));
            if (below) {
                add_blockdev(r, below);
            }
        }
    }
}

static void add_blockdev(struct reading *r, const struct config_section *s)
{
    if (g_hash_table_add(r->taken, (void *)(uintptr_t)s)) {
        add_those_named(r, s->values);
        add_named(r, OPT_BLOCKDEV, "node-name", s);
    }
}

/* --- the file -------------------------------------------------------------------------------------------------------
 */

static void add_drive(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_SECTION_DRIVE, "id", s);
}

static void add_throttle(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_SECTION_THROTTLE, "group", s);
}

static void add_server(struct reading *r, const struct config_section *s)
{
    add(r, OPT_SECTION_NBD_SERVER, s->kind, text_of(s->values), s);
}

static void add_export(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_SECTION_EXPORT, "id", s);
}

static void add_job(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_SECTION_JOB, "job-id", s);
}

static void add_network(struct reading *r, const struct config_section *s)
{
    add_named(r, OPT_NETDEV, "id", s);
}

static const struct {
    const char *kind;
    void (*add)(struct reading *r, const struct config_section *s);
} readers[] = {
    {"machine", add_machine},   {"global", add_global},     {"object", add_object},     {"chardev", add_chardev},
    {"blockdev", add_blockdev}, {"drive", add_drive},       {"netdev", add_network},    {"device", add_device},
    {"serial", add_serial},     {"monitor", add_monitor},   {"throttle", add_throttle}, {"export", add_export},
    {"job", add_job},           {"nbd-server", add_server},
};

/* Options that say how the program runs, not what the machine is made of. */
static bool is_of_program(enum opt_id id)
{
    static const enum opt_id ids[] = {
        OPT_ACCEL,      OPT_CHARDEV,   OPT_DAEMONIZE,      OPT_DISPLAY,    OPT_EVENT_LOG, OPT_FINGERPRINT, OPT_INCOMING,
        OPT_LOADVM,     OPT_LOGFILE,   OPT_MEM_PREALLOC,   OPT_MON,        OPT_MONITOR,   OPT_MSG,         OPT_NET,
        OPT_NODEFAULTS, OPT_NOGRAPHIC, OPT_NO_USER_CONFIG, OPT_OVERCOMMIT, OPT_PARALLEL,  OPT_PIDFILE,     OPT_QMP,
        OPT_QMP_PRETTY, OPT_QTEST,     OPT_QTEST_LOG,      OPT_RTC,        OPT_SERIAL,    OPT_STATE,       OPT_STOPPED,
        OPT_TRACE,      OPT_VGA,       OPT_AS_RELEASE,
    };
    for (size_t i = 0; i < G_N_ELEMENTS(ids); i++) {
        if (ids[i] == id) {
            return true;
        }
    }
    return false;
}

static bool gives_monitor(const GArray *opts)
{
    return opts_given(opts, OPT_MON) || opts_given(opts, OPT_MONITOR) || opts_given(opts, OPT_QMP) ||
           opts_given(opts, OPT_QMP_PRETTY);
}

/* Those that are given take the place of those in the file. */
static bool is_replaced(const struct program *p, const struct config_section *s)
{
    if (!strcmp(s->kind, "monitor")) {
        return gives_monitor(p->opts);
    }
    if (!strcmp(s->kind, "serial")) {
        return opts_given(p->opts, OPT_SERIAL);
    }
    return false;
}

/* A chardev that only what is replaced speaks through goes with it. */
static bool is_idle_chardev(struct program *p, const struct config_section *c)
{
    const struct config_file *f = vm_state_file(p->env.state);
    const struct config_section *s;
    bool used = false, lost = false;
    for (unsigned i = 0; (s = config_file_section(f, i)); i++) {
        struct json_object *named = json_object_object_get(s->values, "chardev");
        const char *id = !strcmp(s->kind, "monitor") ? s->name : named ? json_object_get_string(named) : NULL;
        if (!g_strcmp0(id, c->name)) {
            *(is_replaced(p, s) ? &lost : &used) = true;
        }
    }
    return lost && !used;
}

static int check_given(struct program *p, struct err *e)
{
    const struct config_file *f = vm_state_file(p->env.state);
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        if (!is_of_program(o->id) && (o->id != OPT_NIC || strcmp(o->value, "none") != 0)) {
            return err_set(e, EINVAL,
                           "-%s%s%s: '%s' says already what the machine is made of (generation %" PRIu64
                           "): leave the option out, and change that with the monitor or in the file",
                           o->name, o->value ? " " : "", o->value ? o->value : "", config_file_path(f),
                           config_file_generation(f));
        }
    }
    return 0;
}

static bool has_place(const struct config_section *s)
{
    return json_object_object_get_ex(s->values, "addr", NULL) || json_object_object_get_ex(s->values, "bus", NULL);
}

/* Devices that say where they are come before those that take what is left. */
static void add_sections(struct reading *r, bool placed)
{
    for (guint i = 0; i < r->sections->len; i++) {
        const struct config_section *s = g_ptr_array_index(r->sections, i);
        bool first = strcmp(s->kind, "device") != 0 || has_place(s);
        for (size_t k = 0; first == placed && k < G_N_ELEMENTS(readers); k++) {
            if (!strcmp(readers[k].kind, s->kind)) {
                readers[k].add(r, s);
            }
        }
    }
}

/* What they would be on a command line. */
static GArray *options_of(struct program *p, const GPtrArray *sections)
{
    g_autoptr(GHashTable) taken = g_hash_table_new(NULL, NULL);
    struct reading r = {
        .p = p, .sections = sections, .out = g_array_new(FALSE, FALSE, sizeof(struct opt)), .taken = taken};
    add_sections(&r, true);
    add_sections(&r, false);
    return r.out;
}

static void read_sections(struct program *p)
{
    const struct config_file *f = vm_state_file(p->env.state);
    g_autoptr(GPtrArray) sections = g_ptr_array_new();
    const struct config_section *s;
    for (unsigned i = 0; (s = config_file_section(f, i)); i++) {
        if (!is_replaced(p, s) && !(!strcmp(s->kind, "chardev") && is_idle_chardev(p, s))) {
            g_ptr_array_add(sections, (void *)(uintptr_t)s);
        }
    }
    GArray *all = options_of(p, sections);
    g_array_append_vals(all, p->opts->data, p->opts->len);
    p->opts = p->resumed = all;
}

/* What is made already when the rest of the machine comes. */
static bool is_prepared(enum opt_id id)
{
    return id == OPT_OBJECT || id == OPT_BLOCKDEV || id == OPT_NETDEV;
}

void state_take_sections(struct program *p, const GPtrArray *sections)
{
    GArray *all = options_of(p, sections);
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        if (!is_prepared(o->id)) {
            g_array_append_val(all, *o);
        }
    }
    p->opts = p->resumed = all;
}

/* -state FILE -incoming …, and nothing that says what the machine is made of. */
static bool waits_for_make_up(const struct program *p)
{
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        if (!is_of_program(o->id) && !is_prepared(o->id) && o->id != OPT_STATE_ALLOW && o->id != OPT_FORCE_DROP &&
            (o->id != OPT_NIC || strcmp(o->value, "none") != 0)) {
            return false;
        }
    }
    return opts_given(p->opts, OPT_STATE) && opts_given(p->opts, OPT_INCOMING);
}

static bool says(const struct config_file *f, const char *key)
{
    const struct config_section *s = config_file_find(f, "machine", NULL);
    return s && json_object_get_boolean(json_object_object_get(s->values, key));
}

static int refuse_elsewhere(const struct config_file *f, bool away, struct err *e)
{
    return away
               ? err_set(e, EBUSY,
                         "'%s': the machine was moved away, and may run elsewhere: -incoming takes it back; if it runs "
                         "nowhere, take the key 'away' out of [machine]",
                         config_file_path(f))
               : err_set(e, EBUSY,
                         "'%s': the machine was to come from another program, and did not: -incoming waits for it "
                         "again; if it runs nowhere, and its disks are here, take the key 'arriving' out of [machine]",
                         config_file_path(f));
}

/* The sections become options, when the file says what the machine is made of, and that it is here. */
static int use_file(struct program *p, struct err *e)
{
    const struct config_file *f = vm_state_file(p->env.state);
    bool empty = !config_file_section(f, 0), away = says(f, "away"), elsewhere = away || says(f, "arriving");
    p->arriving = waits_for_make_up(p) && (elsewhere || empty);
    if (empty || (elsewhere && opts_given(p->opts, OPT_INCOMING))) {
        return 0;
    }
    int rc = elsewhere ? refuse_elsewhere(f, away, e) : check_given(p, e);
    if (rc == 0) {
        read_sections(p);
    }
    return rc;
}

static int open_events(struct program *p, struct err *e)
{
    const struct event_log_options o = {.path = opts_last(p->opts, OPT_EVENT_LOG),
                                        .state = vm_state_file(p->env.state),
                                        .bus = p->vm->bus,
                                        .loop = p->loop,
                                        .log = p->log};
    return o.path ? event_log_open(&o, &p->events, e) : 0;
}

static unsigned times_given(const GArray *opts, enum opt_id id)
{
    unsigned n = 0;
    for (guint i = 0; i < opts->len; i++) {
        n += g_array_index(opts, struct opt, i).id == id;
    }
    return n;
}

int state_open(struct program *p, struct err *e)
{
    static const char *const keys[] = {"file", "snapshot", NULL};
    const char *value = opts_last(p->opts, OPT_STATE);
    if (times_given(p->opts, OPT_STATE) > 1) {
        return err_set(e, EINVAL, "-state %s: a machine has one state file, and another one is given before it", value);
    }
    CLEANUP_JSON struct json_object *o = value ? opt_group(value, "file", keys, e) : json_object_new_object();
    if (!o) {
        return err_wrap(e, "-state %s", value);
    }
    struct jread r = jread_init(o, NULL, e);
    struct vm_state_options v = {.path = value ? jread_str(&r, "file") : NULL,
                                 .snapshot = jread_bool_or(&r, "snapshot", false),
                                 .release = MONITOR_VERSION,
                                 .vm = p->vm,
                                 .objects = p->env.objects,
                                 .nbd = &p->env.nbd};
    int rc = jread_end(&r);
    rc = rc < 0 ? err_wrap(e, "-state %s", value) : vm_state_open(&v, &p->env.state, e);
    rc = rc < 0 ? rc : open_events(p, e);
    return rc < 0 ? rc : use_file(p, e);
}

GArray *state_lay_machine(struct program *p, struct json_object *values)
{
    const struct config_section s = {"machine", NULL, values};
    g_autoptr(GPtrArray) none = g_ptr_array_new();
    struct reading r = {.p = p, .sections = none, .out = g_array_new(FALSE, FALSE, sizeof(struct opt))};
    g_array_append_vals(r.out, p->opts->data, p->opts->len);
    add_machine(&r, &s);
    for (guint i = p->opts->len; i < r.out->len; i++) {
        g_array_index(r.out, struct opt, i).section = NULL;
    }
    return r.out;
}

bool state_is_resumed(const struct program *p)
{
    return p->resumed != NULL;
}

/* The one below is opened first, unless it needs this one. */
static void explain_circle(const struct config_file *f, const struct config_section *s, struct err *e)
{
    static const char head[] = "Cannot find device='";
    const char *text = err_text(e);
    size_t n = strlen(head);
    if (strcmp(s->kind, "blockdev") != 0 || strncmp(text, head, n) != 0) {
        return;
    }
    CLEANUP_FREE char *name = g_strndup(text + n, strcspn(text + n, "'"));
    CLEANUP_FREE char *was = g_strdup(text);
    if (!strcmp(name, s->name)) {
        err_set(e, e->code, "node '%s' cannot stand below itself", name);
    } else if (config_file_find(f, "blockdev", name)) {
        err_set(e, e->code, "%s: [blockdev \"%s\"] needs this one itself, and the two cannot stand below each other",
                was, name);
    }
}

static int blame_file(const struct config_file *f, const struct config_section *s, struct err *e)
{
    explain_circle(f, s, e);
    config_file_blame(f, s, e);
    CLEANUP_FREE char *text = g_strdup(err_text(e));
    return err_set(e, e->code, "%s; put that right, or change the section and run 'sterna-state config-seal %s'", text,
                   config_file_path(f));
}

int state_blame(struct program *p, const struct opt *o, struct err *e)
{
    if (o->section && p->arrival) {
        return arrive_blame(o->section, e);
    }
    if (o->section) {
        return blame_file(vm_state_file(p->env.state), o->section, e);
    }
    return o->value ? err_wrap(e, "-%s %s", o->name, o->value) : err_wrap(e, "-%s", o->name);
}

int state_blame_machine(struct program *p, struct err *e)
{
    const struct config_section *s =
        state_is_resumed(p) && !p->arrival ? config_file_find(vm_state_file(p->env.state), "machine", NULL) : NULL;
    return s ? blame_file(vm_state_file(p->env.state), s, e) : -e->code;
}

/* --- notes ----------------------------------------------------------------------------------------------------------
 */

static void put(struct json_object *o, const char *key, const char *text)
{
    if (text) {
        json_object_object_add(o, key, json_object_new_string(text));
    }
}

static char *size_text(uint64_t n)
{
    static const char units[] = "KMG";
    int u = -1;
    while (u < 2 && n % 1024 == 0) {
        n /= 1024;
        u++;
    }
    return u < 0 ? g_strdup_printf("%" PRIu64 "b", n) : g_strdup_printf("%" PRIu64 "%c", n, units[u]);
}

void state_note_machine(struct program *p)
{
    const struct machine_config *c = &p->machine.config;
    const struct machine *m = p->vm->machine;
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    put(o, "type", m ? m->release->info->name : "none");
    if (m) {
        CLEANUP_FREE char *memory = size_text(m->boot.ram_size);
        put(o, "memory", memory);
        json_object_object_add(o, "harts", json_object_new_int64(c->harts));
    }
    put(o, "cpu", c->cpu);
    put(o, "kernel", c->kernel);
    put(o, "initrd", c->initrd);
    put(o, "append", c->append);
    put(o, "dtb", c->dtb);
    put(o, "bios", c->firmware);
    CLEANUP_JSON struct json_object *options = c->options ? json_clone(c->options) : json_object_new_object();
    json_object_object_del(options, "dumpdtb");
    if (json_object_object_length(options)) {
        json_object_object_add(o, "options", json_object_get(options));
    }
    vm_state_note(p->env.state, "machine", NULL, o);
}
