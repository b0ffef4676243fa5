/* SPDX-License-Identifier: BSD-2-Clause */
/* `migrate`: the machine moves, and how far it is is shown until its guest runs there. */
#include "cli/ctl/disk.h"
#include "cli/ctl/follow.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/units.h"
#include "cli/ctl/verbs.h"
#include "cli/human.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { REDRAW_MS = 250, LOOK_MS = 500, LINE_MS = 5000, BAR = 30 };

struct watch {
    struct ctl *c;
    struct screen screen;
    int interrupt_fd;
    bool cancels, told;      /* Ctrl-C was pressed; what it waits for was said */
    struct json_object *now; /* query-migrate */
    char *shown, *ended;     /* status that was shown last; why the program ended */
    char *fates;             /* what was said of jobs last */
    int64_t shown_ms;
};

/* --- what is shown ------------------------------------------------------------------------------------------------ */

static const char *status_of(const struct watch *w)
{
    return ctl_str(w->now, "status");
}

static uint64_t ram_of(const struct watch *w, const char *key)
{
    return (uint64_t)MAX(ctl_int(ctl_get(w->now, "ram"), key), 0);
}

static unsigned percent(const struct watch *w)
{
    uint64_t total = ram_of(w, "total"), left = MIN(ram_of(w, "remaining"), total);
    return total ? (unsigned)((double)(total - left) / (double)total * 100) : 0;
}

static uint64_t rate(const struct watch *w)
{
    return (uint64_t)(json_object_get_double(ctl_get(ctl_get(w->now, "ram"), "mbps")) * 1e6 / 8);
}

static char *downtime(const struct watch *w)
{
    struct json_object *ns = ctl_get(w->now, "downtime-ns");
    return unit_latency(ns ? (uint64_t)json_object_get_int64(ns) : (uint64_t)ctl_int(w->now, "downtime") * 1000000);
}

/* What becomes of its jobs, a line each: char *. */
static GPtrArray *fates(const struct watch *w)
{
    static const char *const texts[][2] = {{"moves", "goes on there"},
                                           {"stays", "is ready, and stays here"},
                                           {"ends-first", "ends before the machine goes"}};
    GPtrArray *all = g_ptr_array_new_with_free_func(g_free);
    struct json_object *list = ctl_get(w->now, "jobs");
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        const char *id = ctl_str(o, "id"), *fate = ctl_str(o, "fate"), *why = ctl_str(o, "reason"), *text = fate;
        for (size_t k = 0; k < G_N_ELEMENTS(texts); k++) {
            text = strcmp(texts[k][0], fate) ? text : texts[k][1];
        }
        g_ptr_array_add(all, ctl_clean(g_strdup_printf("job %s (%s) %s%s%s", id, ctl_str(o, "type"), text,
                                                       why[0] ? ": " : "", why)));
    }
    return all;
}

/* Those that went with it. */
static char *movers(const struct watch *w)
{
    struct json_object *list = ctl_get(w->now, "jobs");
    GString *names = g_string_new(NULL);
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        if (!strcmp(ctl_str(o, "fate"), "moves")) {
            g_string_append_printf(names, "%s%s", names->len ? ", " : "", ctl_str(o, "id"));
        }
    }
    return ctl_clean(g_string_free(names, false));
}

/* How it goes: char *. */
static GPtrArray *details(const struct watch *w)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(g_free);
    CLEANUP_FREE char *fast = unit_rate(rate(w)), *left = human_size(ram_of(w, "remaining"));
    CLEANUP_FREE char *writes = unit_rate(ram_of(w, "dirty-pages-rate") * ram_of(w, "page-size"));
    int64_t disks = ctl_int(ctl_get(w->now, "disk"), "remaining");
    if (disks > 0) {
        CLEANUP_FREE char *n = human_size((uint64_t)disks);
        g_ptr_array_add(all, g_strdup_printf("disks %s left", n));
    }
    if (!ctl_get(w->now, "ram")) {
        return all;
    }
    if (rate(w)) {
        g_ptr_array_add(all, g_steal_pointer(&fast));
    }
    g_ptr_array_add(all, g_strdup_printf("%s left", left));
    g_ptr_array_add(all, g_strdup_printf("round %" PRIu64, ram_of(w, "dirty-sync-count")));
    if (ram_of(w, "dirty-pages-rate")) {
        g_ptr_array_add(all, g_strdup_printf("guest writes %s", writes));
    }
    if (ctl_get(w->now, "cpu-throttle-percentage")) {
        g_ptr_array_add(all,
                        g_strdup_printf("slowed down by %" PRId64 " %%", ctl_int(w->now, "cpu-throttle-percentage")));
    }
    if (ctl_get(w->now, "expected-downtime")) {
        CLEANUP_FREE char *t = unit_latency((uint64_t)ctl_int(w->now, "expected-downtime") * 1000000);
        g_ptr_array_add(all, g_strdup_printf("downtime %s if it stopped now", t));
    }
    return all;
}

static void draw(struct watch *w, GPtrArray *jobs)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free), parts = details(w);
    unsigned full = BAR * percent(w) / 100;
    CLEANUP_FREE char *done = g_strnfill(full, '#'), *todo = g_strnfill(BAR - full, '.');
    CLEANUP_FREE char *status = ctl_clean(g_strdup(status_of(w)));
    g_ptr_array_add(parts, NULL);
    char **words = (char **)parts->pdata;
    CLEANUP_FREE char *first = g_strjoin("  ", words[0], words[0] ? words[1] : NULL, NULL);
    g_ptr_array_add(lines,
                    g_strdup_printf("%s  %3u %%  [%s%s]  %s", status, percent(w), done, todo, words[0] ? first : ""));
    if (parts->len > 3) {
        CLEANUP_FREE char *rest = g_strjoinv("  ", words + 2);
        g_ptr_array_add(lines, g_strdup_printf("  %s", rest));
    }
    for (guint i = 0; i < jobs->len; i++) {
        g_ptr_array_add(lines, g_strdup_printf("  %s", (const char *)jobs->pdata[i]));
    }
    screen_draw(&w->screen, lines);
}

static void put_line(struct watch *w)
{
    g_autoptr(GPtrArray) parts = details(w);
    CLEANUP_FREE char *status = ctl_clean(g_strdup(status_of(w)));
    GString *line = g_string_new(status);
    if (parts->len) {
        g_string_append_printf(line, ": %u %%", percent(w));
    }
    for (guint i = 0; i < parts->len; i++) {
        g_string_append_printf(line, ", %s", (const char *)parts->pdata[i]);
    }
    puts(line->str);
    fflush(stdout);
    g_string_free(line, true);
}

/* Once, and again when anything of it has changed. */
static void put_fates(struct watch *w, GPtrArray *jobs)
{
    GString *text = g_string_new(NULL);
    for (guint i = 0; i < jobs->len; i++) {
        g_string_append_printf(text, "%s\n", (const char *)jobs->pdata[i]);
    }
    if (text->len && g_strcmp0(text->str, w->fates) != 0) {
        fputs(text->str, stdout);
        fflush(stdout);
    }
    g_free(w->fates);
    w->fates = g_string_free(text, false);
}

static void show(struct watch *w)
{
    int64_t now = client_now_ms();
    bool changed = g_strcmp0(w->shown, status_of(w)) != 0;
    g_autoptr(GPtrArray) jobs = fates(w);
    if (w->c->terminal && !w->c->json) {
        draw(w, jobs);
    } else if (changed || now - w->shown_ms >= (w->c->json ? LOOK_MS : LINE_MS)) {
        if (w->c->json) {
            ctl_put_json(w->now);
        } else {
            put_line(w);
        }
        w->shown_ms = now;
    }
    if (!w->c->terminal && !w->c->json) {
        put_fates(w, jobs);
    }
    if (changed) {
        g_free(w->shown);
        w->shown = g_strdup(status_of(w));
        w->told = false;
    }
}

static void note(struct watch *w, const char *text)
{
    screen_clear(&w->screen);
    fprintf(stderr, "%s\n", text);
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

/* This is the side that it comes to; only the other one keeps time. */
static bool comes_here(const struct watch *w)
{
    return !ctl_get(w->now, "total-time");
}

static int failed(struct watch *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const char *why = ctl_str(w->now, "error-desc");
    bool unknown = !strcmp(status_of(w), "postmigrate-unknown");
    err_set(&e, EIO,
            comes_here(w) ? "the machine did not come, and the guest runs on where it was: %s"
            : unknown     ? "it is not known whether the guest runs there: %s\nAsk the destination, then say it here: "
                            "sternactl qmp migrate-resolve runs-there=true (or false: the guest goes on here)"
                          : "the guest runs on here: %s",
            why[0] ? why : "no reason is known");
    return ctl_fail(w->c, &e);
}

/* -1: it is not over. */
static int result(struct watch *w)
{
    const char *s = status_of(w);
    if (strcmp(s, "completed") && strcmp(s, "failed") && strcmp(s, "cancelled") && strcmp(s, "postmigrate-unknown")) {
        return -1;
    }
    screen_clear(&w->screen);
    if (w->c->json) {
        ctl_put_json(w->now);
    }
    if (!strcmp(s, "cancelled")) {
        ctl_say(w->c,
                comes_here(w) ? "cancelled; the guest runs on where it was" : "cancelled; the guest runs on here");
        return CTL_CANCELLED;
    }
    if (strcmp(s, "completed")) {
        return failed(w);
    }
    if (comes_here(w)) {
        ctl_say(w->c, "completed; the machine has come here");
        return CTL_OK;
    }
    CLEANUP_FREE char *size = human_size(ram_of(w, "transferred")), *stood = downtime(w);
    CLEANUP_FREE char *time = unit_time((uint64_t)(ctl_int(w->now, "total-time") + 500) / 1000);
    CLEANUP_FREE char *went = movers(w);
    ctl_say(w->c, "completed (%s in %s); the guest stood still for %s%s%s", size, time, stood,
            went[0] ? "; with it went job " : "", went);
    return CTL_OK;
}

/* --- each time somebody looks ------------------------------------------------------------------------------------- */

static void tell_what_it_waits_for(struct watch *w)
{
    if (!w->told && !strcmp(status_of(w), "pre-switchover")) {
        note(w, "It waits: 'sternactl qmp migrate-continue state=pre-switchover' lets it go on");
        w->told = true;
    } else if (!w->told && !strcmp(status_of(w), "postcopy-paused")) {
        note(w, "The connection broke: migrate-recover at the destination, then 'sternactl qmp migrate uri=URI "
                "resume=true' make it go on");
        w->told = true;
    }
}

/* -1: go on; else how it ended. */
static int look(struct watch *w, struct err *e)
{
    struct json_object *now = NULL;
    if (ctl_call(w->c, "query-migrate", &now, e, NULL)) {
        return -1;
    }
    json_object_put(w->now);
    w->now = now;
    if (!status_of(w)[0]) {
        CLEANUP_ERR struct err none = ERR_INIT;
        err_set(&none, ENOENT, "the machine is not being moved");
        return ctl_fail(w->c, &none);
    }
    int rc = result(w);
    if (rc < 0) {
        show(w);
        tell_what_it_waits_for(w);
    }
    return rc;
}

static int on_interrupt(struct watch *w, struct err *e)
{
    if (g_str_has_prefix(status_of(w), "postcopy-")) {
        note(w, "The guest runs there already, and what it lacks follows: that cannot be cancelled. 'sternactl "
                "migrate' shows "
                "it again");
        return CTL_LEFT;
    }
    if (w->cancels) {
        screen_keep(&w->screen);
        return CTL_LEFT;
    }
    w->cancels = true;
    note(w, "Cancelling; Ctrl-C again does not wait for it");
    ctl_call(w->c, "migrate_cancel", NULL, e, NULL);
    return -1;
}

static int wait_on(struct watch *w)
{
    for (;;) {
        CLEANUP_ERR struct err e = ERR_INIT;
        int rc = look(w, &e);
        if (rc >= 0) {
            return rc;
        }
        if (!err_is_set(&e)) {
            client_wait(w->c->client, w->c->terminal ? REDRAW_MS : LOOK_MS, &e);
        }
        follow_drop_events(w->c, &w->ended);
        if (follow_interrupted(w->interrupt_fd)) {
            err_clear(&e);
            rc = on_interrupt(w, &e);
            if (rc >= 0) {
                return rc;
            }
        }
        if (e.code == ENOTCONN) {
            screen_clear(&w->screen);
            rc = follow_reconnect(w->c, w->interrupt_fd, w->ended, &e);
            if (rc) {
                return rc;
            }
        } else if (err_is_set(&e) && e.code != EINTR) {
            return ctl_fail(w->c, &e);
        }
    }
}

static int watch(struct ctl *c)
{
    struct watch w = {.c = c, .screen = {.c = c}, .interrupt_fd = follow_catch_interrupt(c)};
    int rc = wait_on(&w);
    follow_release(c, w.interrupt_fd);
    json_object_put(w.now);
    g_free(w.shown);
    g_free(w.ended);
    g_free(w.fates);
    return rc;
}

/* --- the verb ----------------------------------------------------------------------------------------------------- */

static int parameters(struct ctl *c, struct json_object *args, struct err *e)
{
    static const char *const modes[] = {"shared", "pre-copy", "post-copy", "none", NULL};
    const char *ms = ctl_option(c, "downtime"), *creds = ctl_option(c, "tls-creds"), *mode = ctl_option(c, "disks");
    const char *rounds = ctl_option(c, "postcopy");
    uint64_t bandwidth;
    char *end;
    int rc = ctl_option_size(c, "bandwidth", &bandwidth, e);
    if (rc == 0 && ctl_option(c, "bandwidth")) {
        json_object_object_add(args, "max-bandwidth", ctl_new_int(bandwidth));
    }
    if (rc == 0 && ms) {
        uint64_t n = g_ascii_strtoull(ms, &end, 10);
        rc = !g_ascii_isdigit(ms[0]) || *end ? err_set(e, EINVAL, "--downtime '%s' is no number of milliseconds", ms)
                                             : 0;
        json_object_object_add(args, "downtime-limit", ctl_new_int(n));
    }
    if (rc == 0 && rounds) {
        uint64_t n = g_ascii_strtoull(rounds, &end, 10);
        rc = !n || !g_ascii_isdigit(rounds[0]) || *end
                 ? err_set(e, EINVAL, "--postcopy '%s' is no number of rounds, at least 1", rounds)
                 : 0;
        json_object_object_add(args, "postcopy-after-rounds", ctl_new_int(n));
    }
    if (creds) {
        json_object_object_add(args, "tls-creds", json_object_new_string(creds));
    }
    if (rc == 0 && mode && !g_strv_contains(modes, mode)) {
        rc = err_set(e, EINVAL, "--disks '%s' is none of shared, pre-copy, post-copy, none", mode);
    }
    return rc;
}

static int set_up(struct ctl *c, struct json_object *args, struct err *e)
{
    static const char *const names[][2] = {{"auto-converge", "auto-converge"}, {"postcopy", "postcopy-ram"}};
    struct json_object *list = json_object_new_array();
    int rc = 0;
    if (json_object_object_length(args)) {
        rc = client_call(c->client, "migrate-set-parameters", json_object_get(args), NULL, e);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (ctl_option(c, names[i][0])) {
            struct json_object *one = json_object_new_object();
            json_object_object_add(one, "capability", json_object_new_string(names[i][1]));
            json_object_object_add(one, "state", json_object_new_boolean(true));
            json_object_array_add(list, one);
        }
    }
    if (rc || !json_object_array_length(list)) {
        json_object_put(list);
        return rc;
    }
    return ctl_call(c, "migrate-set-capabilities", NULL, e, "capabilities", list, NULL);
}

static bool is_written_to(const struct disk *d)
{
    struct json_object *ro = ctl_get(ctl_get(d->info, "inserted"), "ro");
    return d->image && !json_object_get_boolean(ro);
}

/* --disks: what the command's list says of each disk that is written to; NULL without the option, or after an error. */
static struct json_object *disks_of(struct ctl *c, struct err *e)
{
    const char *mode = ctl_option(c, "disks");
    g_autoptr(GPtrArray) disks = mode ? disk_list(c, e) : NULL;
    struct json_object *list = disks ? json_object_new_array() : NULL;
    for (guint i = 0; disks && i < disks->len; i++) {
        const struct disk *d = disks->pdata[i];
        if (is_written_to(d)) {
            struct json_object *one = json_object_new_object();
            json_object_object_add(one, d->device ? "device" : "node", ctl_new_str(d->device ? d->device : d->node));
            json_object_object_add(one, "mode", ctl_new_str(mode));
            json_object_array_add(list, one);
        }
    }
    return list;
}

/* Asks the machine to move to `uri`. */
static int begin(struct ctl *c, const char *uri, struct err *e)
{
    struct json_object *disks = disks_of(c, e);
    return err_is_set(e) ? -e->code
                         : ctl_call(c, "migrate", NULL, e, "uri", ctl_new_str(uri), "disks", disks, "dry-run",
                                    ctl_option(c, "dry-run") ? ctl_new_bool(true) : NULL, NULL);
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *args = json_object_new_object();
    bool dry_run = ctl_option(c, "dry-run");
    const char *uri = c->operands[0];
    if (!uri && (dry_run || ctl_option(c, "detach") || ctl_option(c, "disks"))) {
        return ctl_usage(c, "URI is missing");
    }
    if (parameters(c, args, &e)) {
        return ctl_usage(c, "%s", err_text(&e));
    }
    if (ctl_connect(c, &e) || set_up(c, args, &e) || (uri && begin(c, uri, &e))) {
        return ctl_fail(c, &e);
    }
    if (dry_run) {
        ctl_say(c, "the machine could run at %s", uri);
        return CTL_OK;
    }
    return ctl_option(c, "detach") ? CTL_OK : watch(c);
}

static const struct ctl_option options[] = {
    {"dry-run", NULL, "only asks the other side whether the machine could run there"},
    {"disks", "MODE", "of the disks that are written to: shared (it can reach them, too), pre-copy, post-copy, none"},
    {"bandwidth", "RATE", "at most so many bytes per second while the guest runs; 0: no limit (128M)"},
    {"downtime", "MS", "the guest may stand still for so many milliseconds (300)"},
    {"auto-converge", NULL, "a guest that writes to its memory too fast is slowed down"},
    {"postcopy", "ROUNDS",
     "after so many rounds the rest of RAM follows the guest, if it would stand still for longer"},
    {"tls-creds", "ID", "the machine's object with credentials for TLS"},
    {"detach", NULL, "returns at once; without URI the verb shows the move again"},
    {"reconnect", "SECONDS", "how long to try when the connection breaks (30)"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_migrate = {
    .name = "migrate",
    .operands = "[URI]",
    .min = 0,
    .max = 1,
    .help =
        "moves the machine to where another one waits for it (without URI: shows how far a move is); Ctrl-C cancels",
    .options = options,
    .run = run,
};
