/* SPDX-License-Identifier: BSD-2-Clause */
/* Internal snapshots: the command, and naming one as a source (-l of convert and measure). */
#include "cli/img/snapshot.h"

#include "cli/human.h"
#include "move/children.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,         OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,   {'l', "list", false},
    {'a', "apply", true},  {'c', "create", true},
    {'d', "delete", true}, {'f', "format", true},
    {'q', "quiet", false}, {'U', "force-share", false},
    OPT_SPEC_END,
};

/* --- the list --------------------------------------------------------------------------------------------------- */

static int64_t number_of(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_int64(v) : 0;
}

static const char *string_of(struct json_object *o, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

static void print_snapshot(struct json_object *s)
{
    int64_t clock_s = number_of(s, "vm-clock-sec"), clock_ms = number_of(s, "vm-clock-nsec") / 1000000;
    time_t when = (time_t)number_of(s, "date-sec");
    struct tm tm;
    char date[64] = "";
    if (localtime_r(&when, &tm)) {
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    }
    CLEANUP_FREE char *clock = g_strdup_printf("%02" PRId64 ":%02" PRId64 ":%02" PRId64 ".%03" PRId64, clock_s / 3600,
                                               clock_s / 60 % 60, clock_s % 60, clock_ms);
    CLEANUP_FREE char *size = human_size((uint64_t)number_of(s, "vm-state-size"));
    printf("%-9s %-16s %8s%20s%13s%11s\n", string_of(s, "id"), string_of(s, "name"), size, date, clock,
           string_of(s, "icount"));
}

void img_print_snapshots(struct json_object *list)
{
    if (!list || !json_object_array_length(list)) {
        return;
    }
    puts("Snapshot list:");
    printf("%-9s %-16s %8s%20s%13s%11s\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        print_snapshot(json_object_array_get_idx(list, i));
    }
}

/* --- the command ------------------------------------------------------------------------------------------------ */

static int list(struct img_disk *d)
{
    CLEANUP_JSON struct json_object *o = node_snapshots_info(d->node);
    img_print_snapshots(o);
    return 0;
}

enum { MAX_NAME = 255 }; /* bytes; what is longer is cut, and found by what is left */

static int create(struct tool *img, struct img_disk *d, const char *name)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct snapshot s = {.id = g_strdup(""),
                         .name = g_strndup(name, MAX_NAME),
                         .date_sec = (uint32_t)now.tv_sec,
                         .date_nsec = (uint32_t)(now.tv_nsec / 1000 * 1000)};
    int rc = node_snapshot_create(d->node, &s, NULL);
    g_free(s.id);
    g_free(s.name);
    return rc ? tool_fail(img, "Could not create snapshot '%s': %d (%s)", name, rc, g_strerror(-rc)) : 0;
}

/* By id, else by name. */
static struct snapshot *find(struct img_disk *d, const char *what)
{
    struct snapshot *s = node_snapshot_find(d->node, what, NULL);
    return s ? s : node_snapshot_find(d->node, NULL, what);
}

static int apply(struct tool *img, struct img_disk *d, const char *what)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct snapshot *s = find(d, what);
    int rc = node_snapshot_apply(d->node, s ? s->id : what, &e);
    snapshot_free(s);
    return rc ? tool_fail(img, "Could not apply snapshot '%s': %s", what, err_text(&e)) : 0;
}

static int delete (struct tool *img, struct img_disk *d, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct snapshot *s = node_snapshot_find(d->node, NULL, name);
    if (!s) {
        return tool_fail(img, "Could not delete snapshot '%s': snapshot not found", name);
    }
    CLEANUP_FREE char *child = s->vm_state_size ? snapshot_child(d->node, s->name, NULL) : NULL;
    int rc = child ? err_set(&e, EBUSY,
                             "the machine's state in snapshot '%s' holds only what changed since, and needs it: delete "
                             "that one first, or make it whole by 'sterna-state merge'",
                             child)
                   : node_snapshot_delete(d->node, s->id, &e);
    snapshot_free(s);
    return rc ? tool_fail(img, "Could not delete snapshot '%s': %s", name, err_text(&e)) : 0;
}

static int act(struct tool *img, struct img_disk *d, int action, const char *name)
{
    switch (action) {
    case 'c':
        return create(img, d, name);
    case 'a':
        return apply(img, d, name);
    case 'd':
        return delete (img, d, name);
    default:
        return list(d);
    }
}

int img_snapshot(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct img_common c = {0};
    const char *name = NULL;
    int action = 0, key;
    while ((key = img_next(img, &o, &c)) > OPTS_END) {
        if (action) {
            return img_fail_usage(img, "Cannot mix '-l', '-a', '-c', '-d'");
        }
        action = key;
        name = o.value;
    }
    if (key != OPTS_END) {
        return img_opts_exit(&c);
    }
    const char *file = img_one_operand(img, &o);
    if (!file) {
        return 1;
    }
    bool changes = action && action != 'l';
    struct img_open how = {.fmt = c.fmt,
                           .image_opts = c.image_opts,
                           .force_share = c.force_share,
                           .writable = changes,
                           .resize = changes,
                           .unmap = changes};
    struct img_disk d;
    if (!img_disk_open(img, file, &how, &d)) {
        return 1;
    }
    int rc = act(img, &d, action, name);
    int closed = img_disk_close(&d);
    return closed && !rc ? tool_fail(img, "Could not flush '%s': %s", file, g_strerror(-closed)) : rc;
}

/* --- a snapshot as source --------------------------------------------------------------------------------------- */

/* One "key=value" of a list. */
static int set_param(struct tool *img, struct img_snapshot_param *p, char *part)
{
    char *eq = strchr(part, '=');
    const char *value = eq ? eq + 1 : "on";
    if (eq) {
        *eq = 0;
    } else {
        tool_warn(img, "short-form boolean option '%s' deprecated\nPlease use %s=on instead", part, part);
    }
    char **to = !strcmp(part, "snapshot.id") ? &p->id : !strcmp(part, "snapshot.name") ? &p->name : NULL;
    if (!to) {
        return tool_fail(img, "Invalid parameter '%s'", part);
    }
    g_free(*to);
    *to = g_strdup(value);
    return 0;
}

/* Up to the next comma; two stand for one in the value. */
static char *next_part(const char **text)
{
    GString *s = g_string_new(NULL);
    for (; **text && (**text != ',' || (*text)[1] == ','); ++*text) {
        *text += **text == ',';
        g_string_append_c(s, **text);
    }
    *text += **text == ',';
    return g_string_free(s, FALSE);
}

bool img_snapshot_parse(struct tool *img, struct img_snapshot_param *p, const char *text)
{
    img_snapshot_param_finish(p);
    if (!g_str_has_prefix(text, "snapshot.")) {
        p->any = g_strdup(text);
        return true;
    }
    for (const char *rest = text; *rest;) {
        CLEANUP_FREE char *part = next_part(&rest);
        if (set_param(img, p, part)) {
            tool_fail(img, "Failed in parsing snapshot param '%s'", text);
            return false;
        }
    }
    return true;
}

void img_snapshot_param_finish(struct img_snapshot_param *p)
{
    g_clear_pointer(&p->id, g_free);
    g_clear_pointer(&p->name, g_free);
    g_clear_pointer(&p->any, g_free);
}

int img_snapshot_show(struct tool *img, struct img_disk *d, const struct img_snapshot_param *p)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!img_snapshot_given(p)) {
        return 0;
    }
    if (!node_has_snapshots(d->node)) {
        return tool_fail(img,
                         "Failed to load snapshot: Block format '%s' used by device '' does not support temporarily "
                         "loading internal snapshots",
                         d->node->drv->name);
    }
    struct snapshot *s = p->any ? find(d, p->any) : node_snapshot_find(d->node, p->id, p->name);
    if (!s) {
        return tool_fail(img, "Failed to load snapshot: Can't find snapshot");
    }
    int rc = node_snapshot_show(d->node, s->id, &e);
    snapshot_free(s);
    return rc ? tool_fail(img, "Failed to load snapshot: %s", err_text(&e)) : 0;
}
