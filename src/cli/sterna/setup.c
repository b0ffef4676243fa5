/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/setup.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/debug.h"
#include "block/driver.h"
#include "block/inactive.h"
#include "block/options.h"
#include "block/throttle.h"
#include "char/char.h"
#include "cli/sterna/arrive.h"
#include "cli/sterna/nic.h"
#include "cli/sterna/policy.h"
#include "cli/sterna/state.h"
#include "config/event_log.h"
#include "config/vm_state.h"
#include "export/nbd/nbd.h"
#include "job/job.h"
#include "machine/fingerprint.h"
#include "machine/run.h"
#include "monitor/make_up.h"
#include "move/migrate.h"
#include "move/move.h"
#include "move/snapshot.h"
#include "net/net.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef int option_fn(struct program *p, const char *value, struct err *e);

/* Runs fn for every option of this kind, in order; errors begin with the option as it was given. */
static int each(struct program *p, enum opt_id id, option_fn *fn, struct err *e)
{
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        int rc = o->id == id ? fn(p, o->value, e) : 0;
        if (rc < 0) {
            return state_blame(p, o, e);
        }
    }
    return 0;
}

static int run_command(struct program *p, const char *name, struct json_object *args, struct err *e)
{
    struct mon_ctx ctx = {.env = &p->env};
    CLEANUP_JSON struct json_object *ret = NULL;
    return qmp_call(&ctx, name, args, &ret, e);
}

static int add_object(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, "qom-type", e);
    const char *type = o ? json_get_str(o, "qom-type") : NULL;
    if (type && (!strcmp(type, "memory-backend-file") || !strcmp(type, "memory-backend-memfd"))) {
        return err_set(e, ENOTSUP,
                       "%s is not supported: guest RAM is memory of this program alone, by memory-backend-ram", type);
    }
    return o ? run_command(p, "object-add", o, e) : -EINVAL;
}

static int add_blockdev(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(value, "driver", e);
    bool transient = state_is_resumed(p) && json_object_get_boolean(json_object_object_get(o, "transient"));
    if (transient) {
        json_object_object_del(o, "transient");
    }
    int rc = o ? run_command(p, "blockdev-add", o, e) : -EINVAL;
    struct node *n = rc < 0 || !transient
                         ? NULL
                         : node_find(p->env.graph, json_object_get_string(json_object_object_get(o, "node-name")));
    if (n) {
        n->monitor_owned = false;
        g_ptr_array_add(p->transient, n);
    }
    return rc;
}

/* They go with their last user, as before. */
static void let_transient_go(struct program *p)
{
    while (p->transient->len) {
        node_unref(g_ptr_array_steal_index(p->transient, p->transient->len - 1));
    }
}

/* What -drive would say; NULL: the option is no drive. */
static char *drive_text(const struct opt *o)
{
    static const struct {
        enum opt_id id;
        const char *format;
    } short_forms[] = {
        {OPT_HDA, "index=0,media=disk,file=%s"},    {OPT_HDB, "index=1,media=disk,file=%s"},
        {OPT_HDC, "index=2,media=disk,file=%s"},    {OPT_HDD, "index=3,media=disk,file=%s"},
        {OPT_CDROM, "index=2,media=cdrom,file=%s"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(short_forms); i++) {
        if (short_forms[i].id == o->id) {
            g_auto(GStrv) parts = g_strsplit(o->value, ",", -1);
            CLEANUP_FREE char *name = g_strjoinv(",,", parts);
            g_autoptr(GString) text = g_string_new(short_forms[i].format);
            g_string_replace(text, "%s", name, 1);
            return g_strdup(text->str);
        }
    }
    return o->id == OPT_DRIVE ? g_strdup(o->value) : NULL;
}

static int add_drives(struct program *p, struct err *e)
{
    bool overlay = opts_given(p->opts, OPT_SNAPSHOT);
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        CLEANUP_FREE char *text = drive_text(o);
        if (!text) {
            continue;
        }
        struct json_object *device = NULL;
        int rc = drive_add(&p->env, &p->drives, text, overlay, &device, e);
        if (rc < 0) {
            return err_wrap(e, "-%s %s", o->name, o->value);
        }
        if (device) {
            g_ptr_array_add(p->disk_devices, device);
        }
    }
    return 0;
}

int program_drive_add(void *program, const char *text, struct err *e)
{
    struct program *p = program;
    CLEANUP_JSON struct json_object *o = keyval_parse(text, NULL, e);
    if (!o) {
        return -EINVAL;
    }
    struct json_object *interface = json_object_object_get(o, "if"), *device = NULL;
    if (!interface || strcmp(json_object_get_string(interface), "none")) {
        return err_set(e, ENOTSUP, "Can't hot-add a drive with its device: give if=none, then use device_add");
    }
    return drive_add(&p->env, &p->drives, text, opts_given(p->opts, OPT_SNAPSHOT), &device, e);
}

/* --- characters ----------------------------------------------------------------------------------------------- */

static struct chardev *find_chardev(struct program *p, const char *id)
{
    for (guint i = 0; i < p->vm->chardevs->len; i++) {
        struct chardev *c = p->vm->chardevs->pdata[i];
        if (!g_strcmp0(chardev_id(c), id)) {
            return c;
        }
    }
    return NULL;
}

static void quit_from_terminal(void *opaque)
{
    vm_quit(opaque, "host-ui", 0);
}

/* People and scripts wait for this line; over QMP, chardev-add answers with the name instead. */
static void say_pty(const struct chardev *c)
{
    CLEANUP_FREE char *name = chardev_filename(c);
    if (g_str_has_prefix(name, "pty:")) {
        printf("char device redirected to %s (label %s)\n", name + strlen("pty:"), chardev_id(c));
        fflush(stdout);
    }
}

static struct chardev *create_chardev(struct program *p, struct json_object *o, struct err *e)
{
    struct json_object *id = json_object_object_get(o, "id");
    if (id && find_chardev(p, json_object_get_string(id))) {
        err_set(e, EEXIST, "Duplicate ID '%s' for chardev", json_object_get_string(id));
        return NULL;
    }
    struct json_object *backend = json_object_object_get(o, "backend");
    if (backend && !strcmp(json_object_get_string(backend), "stdio") && opts_given(p->opts, OPT_DAEMONIZE)) {
        err_set(e, EINVAL, "cannot use stdio with -daemonize");
        return NULL;
    }
    struct chardev *c = chardev_create(p->loop, o, e);
    if (c) {
        chardev_on_quit(c, quit_from_terminal, p->vm);
        g_ptr_array_add(p->vm->chardevs, c);
        say_pty(c);
        make_up_note_chardev(&p->env, o);
    }
    return c;
}

static int add_chardev(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *o = chardev_from_option(value, e);
    if (!o) {
        return -EINVAL;
    }
    if (!json_object_object_get(o, "id")) {
        return err_set(e, EINVAL, "chardev: no id specified");
    }
    return create_chardev(p, o, e) ? 0 : -e->code;
}

/* The chardev that a short form names or makes; *c NULL for "none". `label` is the id of a new one. */
static int legacy_chardev(struct program *p, const char *value, const char *label, struct chardev **c, bool *monitor,
                          struct err *e)
{
    CLEANUP_JSON struct json_object *o = chardev_from_legacy(value, e);
    *c = NULL;
    if (!o) {
        return -EINVAL;
    }
    struct json_object *named = json_object_object_get(o, "chardev");
    if (named) {
        *c = find_chardev(p, json_object_get_string(named));
        return *c ? 0 : err_set(e, ENOENT, "Chardev '%s' not found", json_object_get_string(named));
    }
    if (!json_object_object_get(o, "backend")) {
        return 0;
    }
    struct json_object *m = json_object_object_get(o, "monitor");
    *monitor = m && json_object_get_boolean(m);
    json_object_object_add(o, "id", json_object_new_string(label));
    *c = create_chardev(p, o, e);
    return *c ? 0 : -e->code;
}

static void note_monitor(struct program *p, const struct wanted_monitor *w)
{
    if (vm_state_noted(p->env.state, "chardev", chardev_id(w->chardev))) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "mode", json_object_new_string(w->mode == MONITOR_CONTROL ? "control" : "readline"));
        if (w->pretty) {
            json_object_object_add(o, "pretty", json_object_new_boolean(true));
        }
        vm_state_note(p->env.state, "monitor", chardev_id(w->chardev), o);
    }
}

/* A monitor is attached once the machine has started: what it is told then finds everything in place. */
static int want_monitor(struct program *p, struct chardev *c, enum monitor_mode mode, bool pretty)
{
    if (c) {
        struct wanted_monitor w = {c, mode, pretty};
        g_array_append_val(p->wanted, w);
        note_monitor(p, &w);
    }
    return 0;
}

static int attach_monitors(struct program *p, struct err *e)
{
    for (guint i = 0; i < p->wanted->len; i++) {
        const struct wanted_monitor *w = &g_array_index(p->wanted, struct wanted_monitor, i);
        struct monitor *m = NULL;
        int rc = monitor_create(&p->env, w->chardev, w->mode, w->pretty, &m, e);
        if (rc < 0) {
            return err_wrap(e, "monitor on chardev '%s'", chardev_id(w->chardev));
        }
        g_ptr_array_add(p->monitors, m);
    }
    return 0;
}

static int legacy_monitor(struct program *p, const char *value, enum monitor_mode mode, bool pretty, struct err *e)
{
    CLEANUP_FREE char *label = g_strdup_printf("compat_monitor%u", p->legacy_chardevs++);
    struct chardev *c;
    bool ignored = false;
    int rc = legacy_chardev(p, value, label, &c, &ignored, e);
    return rc < 0 ? rc : want_monitor(p, c, mode, pretty);
}

static int add_hmp(struct program *p, const char *value, struct err *e)
{
    return legacy_monitor(p, value, MONITOR_READLINE, false, e);
}

static int add_qmp(struct program *p, const char *value, struct err *e)
{
    return legacy_monitor(p, value, MONITOR_CONTROL, false, e);
}

static int add_qmp_pretty(struct program *p, const char *value, struct err *e)
{
    return legacy_monitor(p, value, MONITOR_CONTROL, true, e);
}

static int add_mon(struct program *p, const char *value, struct err *e)
{
    static const char *const modes[] = {"readline", "control", NULL};
    static const char *const keys[] = {"chardev", "mode", "pretty", NULL};
    CLEANUP_JSON struct json_object *o = opt_group(value, "chardev", keys, e);
    if (!o) {
        return -EINVAL;
    }
    struct jread r = jread_init(o, NULL, e);
    const char *id = jread_str(&r, "chardev");
    int mode = jread_enum_or(&r, "mode", modes, 0);
    bool pretty = jread_bool_or(&r, "pretty", false);
    int rc = jread_end(&r);
    if (rc < 0) {
        return rc;
    }
    struct chardev *c = find_chardev(p, id);
    if (!c) {
        return err_set(e, ENOENT, "chardev \"%s\" not found", id);
    }
    return want_monitor(p, c, mode ? MONITOR_CONTROL : MONITOR_READLINE, pretty);
}

/* Serial port n, and with "mon:" a human monitor beside it. */
static int connect_serial(struct program *p, unsigned n, const char *value, struct err *e)
{
    CLEANUP_FREE char *label = g_strdup_printf("serial%u", n);
    struct chardev *c;
    bool monitor = false;
    int rc = legacy_chardev(p, value, label, &c, &monitor, e);
    if (rc == -ENOENT && g_str_has_prefix(value, "chardev:")) {
        return err_set(e, ENOENT, "could not connect serial device to character backend '%s'", value);
    }
    rc = rc < 0 || !c ? rc : vm_connect_serial(p->vm, n, c, e);
    if (rc == 0 && c && vm_state_noted(p->env.state, "chardev", chardev_id(c))) {
        CLEANUP_FREE char *number = g_strdup_printf("%u", n);
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "chardev", json_object_new_string(chardev_id(c)));
        vm_state_note(p->env.state, "serial", number, o);
    }
    return rc < 0 || !monitor ? rc : want_monitor(p, c, MONITOR_READLINE, false);
}

/* --- qtest ---------------------------------------------------------------------------------------------------- */

static int open_qtest_log(struct program *p, struct err *e)
{
    const char *path = opts_last(p->opts, OPT_QTEST_LOG);
    if (path && !strcmp(path, "none")) {
        return 0;
    }
    p->qtest_log = fopen(path ? path : "/dev/stderr", path ? "we" : "ae");
    if (!p->qtest_log && !path) {
        p->qtest_log = fdopen(dup(STDERR_FILENO), "a"); /* standard error may be a socket, which has no path */
    }
    return p->qtest_log ? 0 : err_set_errno(e, errno, "-qtest-log %s", path ? path : "");
}

static int start_qtest(struct program *p, struct err *e)
{
    const char *value = opts_last(p->opts, OPT_QTEST);
    if (!value) {
        return 0;
    }
    struct chardev *c;
    bool ignored = false;
    int rc = open_qtest_log(p, e);
    rc = rc < 0 ? rc : legacy_chardev(p, value, "qtest", &c, &ignored, e);
    if (rc < 0) {
        return err_wrap(e, "Failed to initialize device for qtest: \"%s\"", value);
    }
    vm_state_note(p->env.state, "chardev", "qtest", NULL); /* of the test, not of the machine */
    p->qtest = c ? qtest_create(p->vm, c, p->qtest_log, e) : NULL;
    return !c || p->qtest ? 0 : -e->code;
}

static int connect_serials(struct program *p, struct err *e)
{
    unsigned n = 0;
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        if (o->id == OPT_SERIAL) {
            int rc = connect_serial(p, n++, o->value, e);
            if (rc < 0) {
                return state_blame(p, o, e);
            }
        }
    }
    bool none = opts_given(p->opts, OPT_NODEFAULTS) || state_is_resumed(p) || !strcmp(p->machine.config.type, "none");
    if (n || none) {
        return 0;
    }
    if (opts_given(p->opts, OPT_NOGRAPHIC) || !opts_given(p->opts, OPT_DISPLAY)) {
        bool own_monitor = opts_given(p->opts, OPT_MONITOR) || opts_given(p->opts, OPT_MON);
        return connect_serial(p, 0, own_monitor ? "stdio" : "mon:stdio", e);
    }
    return 0;
}

/* --- machine -------------------------------------------------------------------------------------------------- */

static int add_netdev(struct program *p, const char *value, struct err *e)
{
    return netdev_add_text(p->vm->net, value, e);
}

static int add_nic(struct program *p, const char *value, struct err *e)
{
    CLEANUP_JSON struct json_object *card = NULL;
    int rc = nic_add(p->vm->net, value, &card, e);
    return rc < 0 || !card ? rc : vm_device_add(p->vm, card, e);
}

static int add_devices(struct program *p, struct err *e)
{
    for (guint i = 0; i < p->disk_devices->len; i++) {
        int rc = vm_device_add(p->vm, p->disk_devices->pdata[i], e);
        if (rc < 0) {
            return err_wrap(e, "-drive");
        }
    }
    for (guint i = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        if (o->id != OPT_DEVICE) {
            continue;
        }
        CLEANUP_JSON struct json_object *d = keyval_parse(o->value, "driver", e);
        int rc = d ? vm_device_add(p->vm, d, e) : -EINVAL;
        if (rc < 0) {
            return state_blame(p, o, e);
        }
    }
    return 0;
}

/* Parts that wait run as a coroutine; attaching a front end to a chardev must not. */
struct part {
    struct program *p;
    int (*fn)(struct program *p, struct err *e);
    struct err *e;
};

static int run_part(void *arg)
{
    struct part *part = arg;
    return part->fn(part->p, part->e);
}

static int waiting(struct program *p, int (*fn)(struct program *p, struct err *e), struct err *e)
{
    struct part part = {p, fn, e};
    return co_run(p->loop, run_part, &part);
}

static int choose_machine(struct program *p, struct err *e)
{
    int rc = vm_set_machine(p->vm, &p->machine.config, e);
    if (rc < 0) {
        return state_blame_machine(p, e);
    }
    state_note_machine(p);
    return 0;
}

/* A file is read at once. */
static bool is_plain_file(const char *uri)
{
    return g_str_has_prefix(uri, "file:") && !strstr(uri, ",offset=");
}

/* Whoever sends the machine uses its disks until then. */
static int open_inactive(struct program *p, const char *uri, struct err *e)
{
    if (!is_plain_file(uri) || p->arriving) {
        graph_open_inactive(p->vm->graph);
    }
    return 0;
}

static int make_machine(struct program *p, struct err *e)
{
    int rc = each(p, OPT_OBJECT, add_object, e);
    rc = rc < 0 ? rc : each(p, OPT_INCOMING, open_inactive, e);
    rc = rc < 0 || p->preconfig || p->arriving ? rc : choose_machine(p, e);
    rc = rc < 0 ? rc : each(p, OPT_BLOCKDEV, add_blockdev, e);
    rc = rc < 0 ? rc : each(p, OPT_SECTION_DRIVE, state_add_drive, e);
    return rc < 0 ? rc : add_drives(p, e);
}

/* The values of an option that may be given several times; the list is to be freed, not they. */
static const char **values_of(const struct program *p, enum opt_id id)
{
    const char **out = g_new0(const char *, p->opts->len + 1);
    for (guint i = 0, n = 0; i < p->opts->len; i++) {
        const struct opt *o = &g_array_index(p->opts, struct opt, i);
        if (o->id == id) {
            out[n++] = o->value;
        }
    }
    return out;
}

static int load_snapshot(struct program *p, const char *tag, struct err *e)
{
    CLEANUP_FREE const char **allow = values_of(p, OPT_STATE_ALLOW), **drop = values_of(p, OPT_FORCE_DROP);
    const struct snapshot_options o = {.tag = tag, .lazy = true, .state_allow = allow, .force_drop = drop};
    return tag ? snapshot_load_begin(p->vm, &o, e) : 0;
}

static int load_file(struct program *p, const char *file, struct err *e)
{
    CLEANUP_FREE const char **allow = values_of(p, OPT_STATE_ALLOW), **drop = values_of(p, OPT_FORCE_DROP);
    CLEANUP_FREE char *path = g_strdup(file);
    char *how = strrchr(path, ',');
    struct snapshot_options o = {.file = path, .state_allow = allow, .force_drop = drop};
    if (how && g_str_has_prefix(how, ",lazy=")) {
        *how = '\0';
        how += strlen(",lazy=");
        o.lazy = !strcmp(how, "on");
        o.map = !strcmp(how, "map");
        if (!o.lazy && !o.map && strcmp(how, "off") != 0) {
            return err_set(e, EINVAL, "lazy=%s is none of 'off', 'on' and 'map'", how);
        }
    }
    int rc = snapshot_load_begin(p->vm, &o, e);
    if (rc == 0) {
        migrate_has_come(p->vm);
    }
    return rc;
}

/* A machine that another program sends is waited for, now or when a monitor says where. */
static int load_incoming(struct program *p, const char *uri, struct err *e)
{
    struct vm *vm = p->vm;
    if (is_plain_file(uri) && !p->arriving) {
        return load_file(p, uri + strlen("file:"), e);
    }
    CLEANUP_FREE const char **allow = values_of(p, OPT_STATE_ALLOW), **drop = values_of(p, OPT_FORCE_DROP);
    vm->state = RUN_INMIGRATE;
    vm->disks_away = true;
    vm->autostart = !opts_given(p->opts, OPT_STOPPED);
    migrate_set_lenience(vm, allow, drop);
    if (!strcmp(uri, "defer")) {
        return 0;
    }
    struct channel_place place;
    const struct migrate_in_options o = {.place = &place, .exit_on_error = true};
    int rc = channel_place_read(&place, uri, NULL, e);
    rc = rc < 0 ? rc : migrate_incoming(vm, &o, e);
    channel_place_finish(&place);
    return rc;
}

/* Everything is in its place, and the state file says so; nothing runs yet. */
static int complete_machine(struct program *p, enum vm_begin how, struct err *e)
{
    int rc = each(p, OPT_NETDEV, add_netdev, e);
    rc = rc < 0 ? rc : each(p, OPT_NIC, add_nic, e);
    rc = rc < 0 ? rc : add_devices(p, e);
    rc = rc < 0 ? rc : each(p, OPT_SECTION_THROTTLE, state_add_throttle, e);
    rc = rc < 0 ? rc : each(p, OPT_SECTION_NBD_SERVER, state_start_server, e);
    rc = rc < 0 ? rc : each(p, OPT_SECTION_EXPORT, state_add_export, e);
    rc = rc < 0 ? rc : each(p, OPT_SECTION_JOB, state_resume_job, e);
    if (rc == 0 && vm_start(p->vm, how, e) < 0) { /* what the board itself has of disks and files */
        rc = state_blame_machine(p, e);
    }
    let_transient_go(p);
    return rc < 0 || p->vm->quit_requested ? rc : vm_state_begin(p->env.state, e);
}

static int start_machine(struct program *p, struct err *e)
{
    const char *fingerprint = opts_last(p->opts, OPT_FINGERPRINT);
    bool loads = opts_given(p->opts, OPT_LOADVM) || opts_given(p->opts, OPT_INCOMING),
         stopped = fingerprint || opts_given(p->opts, OPT_STOPPED);
    int rc = 0;
    if (!loads && (opts_given(p->opts, OPT_STATE_ALLOW) || opts_given(p->opts, OPT_FORCE_DROP))) {
        rc = err_set(e, EINVAL, "-state-allow and -force-drop are about a state that is loaded: -incoming or -loadvm");
    }
    rc = rc < 0 ? rc : complete_machine(p, loads ? VM_BEGIN_EMPTY : VM_BEGIN_PAUSED, e);
    rc = rc < 0 || p->vm->quit_requested ? rc : each(p, OPT_INCOMING, load_incoming, e);
    rc = rc < 0 || p->vm->quit_requested ? rc : load_snapshot(p, opts_last(p->opts, OPT_LOADVM), e);
    if (rc == 0 && fingerprint && !p->vm->quit_requested) {
        rc = vm_fingerprint_write(p->vm, fingerprint, e);
        p->vm->quit_requested = true;
    }
    bool waits = stopped || p->vm->state == RUN_INMIGRATE;
    return rc < 0 || waits || p->vm->quit_requested ? rc : vm_cont(p->vm, e);
}

/* --- the monitor builds it -------------------------------------------------------------------------------------- */

/* A chardev is never attached to inside of a coroutine. */
struct outside {
    struct program *p;
    struct co *waiter;
    struct err *e;
    int rc;
    bool done;
};

static void connect_outside(void *opaque)
{
    struct outside *o = opaque;
    o->rc = connect_serials(o->p, o->e);
    o->done = true;
    co_wake(o->waiter);
}

/* RAM that is there stays there, so what can be seen beforehand is looked at beforehand. */
static int check_files(const struct machine_config *c, struct err *e)
{
    const char *const names[] = {c->kernel, c->initrd, c->dtb};
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (names[i] && access(names[i], R_OK) < 0) {
            return err_set_errno(e, errno, "could not load '%s'", names[i]);
        }
    }
    return 0;
}

static int choose_and_connect(struct program *p, struct err *e)
{
    struct outside o = {.p = p, .waiter = co_self(), .e = e};
    if (guest_ram_get(p->vm->mem, 0)) {
        return err_set(e, EBUSY, "a machine could not be made half way, before: start the program again");
    }
    int rc = check_files(&p->machine.config, e);
    rc = rc < 0 ? rc : choose_machine(p, e);
    if (rc < 0) {
        return rc;
    }
    loop_defer(p->loop, connect_outside, &o);
    while (!o.done) {
        co_wait();
    }
    return o.rc;
}

static int set_policy(struct program *p, const GArray *opts, struct err *e)
{
    const struct opt *bad;
    int rc = policy_apply(opts, p->vm, &bad, e);
    return rc < 0 ? state_blame(p, bad, e) : rc;
}

int program_machine_set(void *program, struct json_object *values, struct err *e)
{
    struct program *p = program;
    if (p->vm->machine) {
        return err_set(e, EBUSY, "the machine is made already");
    }
    const GArray *given = p->opts;
    GArray *laid = state_lay_machine(p, values);
    p->opts = laid;
    machine_opts_finish(&p->machine);
    int rc = machine_opts_parse(&p->machine, laid, e);
    rc = rc < 0 ? rc : set_policy(p, laid, e);
    rc = rc < 0 ? rc : choose_and_connect(p, e);
    if (rc < 0) { /* it may be said again */
        p->opts = given;
        machine_opts_finish(&p->machine);
        machine_opts_parse(&p->machine, given, NULL);
        g_array_free(laid, TRUE);
        return rc;
    }
    p->laid = laid;
    return 0;
}

int program_exit_preconfig(void *program, bool run, struct err *e)
{
    struct program *p = program;
    int rc = p->vm->machine ? 0 : choose_and_connect(p, e);
    rc = rc < 0 ? rc : complete_machine(p, VM_BEGIN_PAUSED, e);
    if (rc < 0) {
        return rc;
    }
    p->preconfig = p->env.in_preconfig = false;
    return run || !opts_given(p->opts, OPT_STOPPED) ? vm_cont(p->vm, e) : 0;
}

int program_build(struct program *p, struct err *e)
{
    machine_opts_finish(&p->machine);
    int rc = machine_opts_parse(&p->machine, p->opts, e);
    rc = rc < 0 ? rc : set_policy(p, p->opts, e);
    rc = rc < 0 ? rc : each(p, OPT_OBJECT, add_object, e);
    rc = rc < 0 ? rc : choose_and_connect(p, e);
    rc = rc < 0 ? rc : each(p, OPT_BLOCKDEV, add_blockdev, e);
    rc = rc < 0 ? rc : each(p, OPT_SECTION_DRIVE, state_add_drive, e);
    return rc < 0 ? rc : complete_machine(p, VM_BEGIN_EMPTY, e);
}

/* There is no machine yet, but what it shall find here. */
static int begin_arriving(struct program *p, struct err *e)
{
    p->vm->clock.manual = !g_strcmp0(p->machine.config.accel, "qtest"); /* as -accel is not of the machine */
    int rc = each(p, OPT_NETDEV, add_netdev, e);
    rc = rc < 0 ? rc : vm_state_begin(p->env.state, e);
    return rc < 0 ? rc : each(p, OPT_INCOMING, load_incoming, e);
}

static int begin_preconfig(struct program *p, struct err *e)
{
    p->env.in_preconfig = true;
    return vm_state_begin(p->env.state, e);
}

static int open_monitors(struct program *p, struct err *e)
{
    int rc = each(p, OPT_MONITOR, add_hmp, e);
    rc = rc < 0 ? rc : each(p, OPT_QMP, add_qmp, e);
    rc = rc < 0 ? rc : each(p, OPT_QMP_PRETTY, add_qmp_pretty, e);
    return rc < 0 ? rc : each(p, OPT_MON, add_mon, e);
}

/* There is one place at which a machine begins. */
static int check_beginnings(struct program *p, struct err *e)
{
    const struct {
        int option;
        const char *name;
    } all[] = {{OPT_PRECONFIG, "preconfig"}, {OPT_INCOMING, "incoming"}, {OPT_LOADVM, "loadvm"}};
    p->preconfig = opts_given(p->opts, OPT_PRECONFIG);
    const char *first = NULL;
    for (size_t i = 0; i < G_N_ELEMENTS(all); i++) {
        if (opts_given(p->opts, all[i].option) && first) {
            return err_set(e, EINVAL, "'%s' and '%s' options are mutually exclusive", first, all[i].name);
        }
        first = opts_given(p->opts, all[i].option) ? all[i].name : first;
    }
    return p->preconfig && opts_given(p->opts, OPT_FINGERPRINT)
               ? err_set(e, EINVAL, "'preconfig' and 'fingerprint' options are mutually exclusive")
               : 0;
}

int program_setup(struct program *p, struct err *e)
{
    int (*begin)(struct program * p, struct err * e);
    int rc = check_beginnings(p, e);
    rc = rc ? rc : state_open(p, e);
    if (rc == 0) {
        graph_allow_generated(p->vm->graph, state_is_resumed(p));
        arrive_prepare(p);
        rc = set_policy(p, p->opts, e);
    }
    if (rc == 0) {
        rc = machine_opts_parse(&p->machine, p->opts, e);
        rc = rc < 0 ? state_blame_machine(p, e) : rc;
    }
    rc = rc < 0 ? rc : each(p, OPT_CHARDEV, add_chardev, e);
    rc = rc < 0 ? rc : waiting(p, make_machine, e);
    rc = rc < 0 || p->preconfig || p->arriving ? rc : connect_serials(p, e);
    rc = rc < 0 ? rc : open_monitors(p, e);
    begin = p->preconfig ? begin_preconfig : p->arriving ? begin_arriving : start_machine;
    rc = rc < 0 ? rc : waiting(p, begin, e);
    graph_allow_generated(p->vm->graph, false);
    rc = rc < 0 ? rc : start_qtest(p, e);
    return rc < 0 || p->vm->quit_requested ? rc : attach_monitors(p, e);
}

/* While the monitors still hear it. Jobs that go on at the next start are in the state file, which is closed before. */
static int end_work(struct program *p, struct err *e)
{
    p->env.ending = true;
    if (p->vm) {
        graph_end_limits(p->vm->graph);
        block_debug_end(p->vm->graph);
    }
    nbd_server_destroy(take(p->env.nbd));
    mon_end_attached(&p->env);
    migrate_end(p->vm);
    let_transient_go(p);
    if (p->events) {
        event_log_sync(p->events);
        event_log_close(take(p->events));
    }
    vm_state_close(take(p->env.state));
    if (p->vm) {
        vm_run_end(p->vm);
        jobs_cancel_all(p->vm->jobs);
    }
    return 0;
}

static int destroy_machine(struct program *p, struct err *e)
{
    vm_destroy(p->vm);
    return 0;
}

void program_teardown(struct program *p)
{
    qtest_destroy(take(p->qtest));
    waiting(p, end_work, NULL);
    for (guint i = 0; i < p->monitors->len; i++) {
        monitor_destroy(p->monitors->pdata[i]);
    }
    g_ptr_array_set_size(p->monitors, 0);
    waiting(p, destroy_machine, NULL);
    arrive_forget(p);
    p->vm = NULL;
    machine_opts_finish(&p->machine);
    if (p->qtest_log) {
        fclose(p->qtest_log);
    }
}

static bool wants_help(const char *value, const char *what)
{
    CLEANUP_FREE char *eq = g_strdup_printf("%s=help", what);
    return !strcmp(value, "help") || !strcmp(value, "?") || strstr(value, eq);
}

bool program_help(const GArray *opts)
{
    for (guint i = 0; i < opts->len; i++) {
        const struct opt *o = &g_array_index(opts, struct opt, i);
        if (o->id == OPT_DEVICE && wants_help(o->value, "driver")) {
            device_help(stdout);
            return true;
        }
        if (o->id == OPT_DEVICE && (g_str_has_suffix(o->value, ",help") || g_str_has_suffix(o->value, ",?"))) {
            g_auto(GStrv) parts = g_strsplit(o->value, ",", 2);
            const struct device_class *cls = device_class_find(parts[0]);
            if (cls) {
                device_class_help(cls, stdout);
            }
            return cls != NULL;
        }
        if (o->id == OPT_DRIVE && wants_help(o->value, "format")) {
            printf("Supported formats:");
            for (const struct block_driver *const *d = block_drivers; *d; d++) {
                printf(" %s", (*d)->name);
            }
            printf("\n");
            return true;
        }
        if (o->id == OPT_CHARDEV && wants_help(o->value, "backend")) {
            printf("Available chardev backend types: \n  file\n  null\n  pty\n  socket\n  stdio\n");
            return true;
        }
        if (o->id == OPT_OBJECT && wants_help(o->value, "qom-type")) {
            printf("List of user creatable objects:\n");
            for (const struct object_kind *const *t = object_kinds; *t; t++) {
                printf("  %s\n", (*t)->name);
            }
            return true;
        }
        if (o->id == OPT_TRACE && !strcmp(o->value, "help")) {
            trace_print_help(stdout);
            return true;
        }
    }
    return machine_opts_help(opts);
}
