/* SPDX-License-Identifier: BSD-2-Clause */
/* `jobs`: a list of them, kept up to date if wanted, and what can be done with one. */
#include "cli/ctl/follow.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/target.h"
#include "cli/ctl/units.h"
#include "cli/ctl/verbs.h"
#include "cli/human.h"

#include "base/json.h"
#include "base/nearest.h"

#include <stdio.h>
#include <string.h>

enum { REDRAW_MS = 500 };

/* --- the list ----------------------------------------------------------------------------------------------------- */

static void add_row(struct table *t, struct json_object *info)
{
    struct progress p = {0};
    progress_update(&p, info);
    const char *note = p.error ? p.error : p.reason ? p.reason : "";
    table_row(t, g_strdup(p.job), g_strdup(p.type), g_strdup(p.status), g_strdup_printf("%u %%", progress_percent(&p)),
              human_size(p.done), human_size(p.total), p.rate ? unit_rate(p.rate) : g_strdup("-"),
              p.has_eta && p.done < p.total ? unit_time(p.eta) : g_strdup("-"), g_strdup(note));
    progress_finish(&p);
}

static GPtrArray *lines_of(struct json_object *jobs)
{
    struct table t = table_create(9);
    table_row(&t, g_strdup("JOB"), g_strdup("TYPE"), g_strdup("STATUS"), g_strdup("DONE"), g_strdup("BYTES"),
              g_strdup("OF"), g_strdup("RATE"), g_strdup("LEFT"), g_strdup(""));
    for (size_t i = 0; i < json_object_array_length(jobs); i++) {
        add_row(&t, json_object_array_get_idx(jobs, i));
    }
    GPtrArray *lines = table_lines(&t);
    table_finish(&t);
    return lines;
}

static void print_jobs(struct ctl *c, struct json_object *jobs)
{
    for (size_t i = 0; c->json && i < json_object_array_length(jobs); i++) {
        ctl_put_json(json_object_array_get_idx(jobs, i));
    }
    if (!json_object_array_length(jobs)) {
        ctl_say(c, "no jobs");
    } else if (!c->json) {
        g_autoptr(GPtrArray) lines = lines_of(jobs);
        for (guint i = 0; i < lines->len; i++) {
            puts(lines->pdata[i]);
        }
        fflush(stdout);
    }
}

static int list(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *jobs = NULL;
    if (ctl_call(c, "query-jobs", &jobs, &e, NULL)) {
        return ctl_fail(c, &e);
    }
    if (!ctl_option(c, "names")) {
        print_jobs(c, jobs);
        return CTL_OK;
    }
    for (size_t i = 0; i < json_object_array_length(jobs); i++) {
        puts(ctl_str(json_object_array_get_idx(jobs, i), "id"));
    }
    return CTL_OK;
}

/* --- watch -------------------------------------------------------------------------------------------------------- */

struct watch {
    struct ctl *c;
    struct screen screen;
    int interrupt_fd;
    char *ended, *states; /* as they were when they were printed last */
};

/* What a list that is not drawn again in place is printed for: other jobs, or other states. */
static char *states_of(struct json_object *jobs)
{
    g_autoptr(GString) s = g_string_new(NULL);
    for (size_t i = 0; i < json_object_array_length(jobs); i++) {
        struct json_object *j = json_object_array_get_idx(jobs, i);
        g_string_append_printf(s, "%s=%s,", ctl_str(j, "id"), ctl_str(j, "status"));
    }
    return g_string_free(g_steal_pointer(&s), FALSE);
}

static void show(struct watch *w, struct json_object *jobs)
{
    if (w->c->terminal && !w->c->json) {
        g_autoptr(GPtrArray) lines = lines_of(jobs);
        screen_draw(&w->screen, lines);
        return;
    }
    CLEANUP_FREE char *states = states_of(jobs);
    if (g_strcmp0(states, w->states) != 0) {
        print_jobs(w->c, jobs);
        g_free(w->states);
        w->states = take(states);
    }
}

static int watch_on(struct watch *w)
{
    for (;;) {
        CLEANUP_ERR struct err e = ERR_INIT;
        CLEANUP_JSON struct json_object *jobs = NULL;
        int rc = ctl_call(w->c, "query-jobs", &jobs, &e, NULL);
        if (!rc) {
            show(w, jobs);
            rc = client_wait(w->c->client, REDRAW_MS, &e);
        }
        follow_drop_events(w->c, &w->ended);
        if (follow_interrupted(w->interrupt_fd)) {
            screen_keep(&w->screen);
            return CTL_OK;
        }
        if (e.code == ENOTCONN) {
            screen_keep(&w->screen);
            rc = follow_reconnect(w->c, w->interrupt_fd, w->ended, &e);
            if (rc) {
                return rc;
            }
        } else if (rc && e.code != EINTR) {
            return ctl_fail(w->c, &e);
        }
    }
}

static int watch(struct ctl *c)
{
    struct watch w = {.c = c, .screen = {.c = c}, .interrupt_fd = follow_catch_interrupt(c)};
    int rc = watch_on(&w);
    follow_release(c, w.interrupt_fd);
    g_free(w.ended);
    g_free(w.states);
    return rc;
}

/* --- what can be done with a job ---------------------------------------------------------------------------------- */

struct action {
    const char *name, *command, *argument; /* NULL: not for one job */
    unsigned operands;                     /* after the action's name */
    const char *remedy;                    /* added to an error, with the job's id in place of %s; NULL: none */
};

static const struct action actions[] = {
    {"cancel", "job-cancel", "id", 1, NULL},
    {"complete", "job-complete", "id", 1, "it can be completed when it is ready: 'sternactl wait --ready %s'"},
    {"dismiss", "job-dismiss", "id", 1, "it can be dismissed when it has ended: 'sternactl wait %s'"},
    {"finalize", "job-finalize", "id", 1, "it can be finalized when it is pending: 'sternactl jobs'"},
    {"pause", "job-pause", "id", 1, NULL},
    {"resume", "job-resume", "id", 1, NULL},
    {"speed", "block-job-set-speed", "device", 2, NULL},
    {"watch", NULL, NULL, 0, NULL},
};

static int unknown_action(struct ctl *c, const char *word)
{
    const char *names[G_N_ELEMENTS(actions) + 1] = {NULL};
    for (unsigned i = 0; i < G_N_ELEMENTS(actions); i++) {
        names[i] = actions[i].name;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *all = g_strjoinv(", ", (char **)(uintptr_t)names);
    err_set(&e, EINVAL, "there is no '%s'; there are %s", word, all);
    err_suggest(&e, word, names);
    return ctl_usage(c, "%s", err_text(&e));
}

/* That there is such a job; else the error names those that there are. */
static int check_job(struct ctl *c, const char *id, struct err *e)
{
    CLEANUP_JSON struct json_object *jobs = NULL;
    int rc = ctl_call(c, "query-jobs", &jobs, e, NULL);
    return rc || follow_find_job(jobs, id) ? rc : follow_no_such_job(jobs, id, e);
}

static int act(struct ctl *c, const struct action *a, const uint64_t *speed)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const char *id = c->operands[1];
    if (check_job(c, id, &e)) {
        return ctl_fail(c, &e);
    }
    CLEANUP_JSON struct json_object *ret = NULL;
    if (ctl_call(c, a->command, &ret, &e, a->argument, ctl_new_str(id), "speed", speed ? ctl_new_int(*speed) : NULL,
                 NULL)) {
        if (a->remedy && e.code != ENOTCONN) {
            CLEANUP_FREE char *text = g_strdup(err_text(&e));
            g_auto(GStrv) parts = g_strsplit(a->remedy, "%s", 2);
            err_set(&e, EIO, "%s; %s%s%s", text, parts[0], parts[1] ? id : "", parts[1] ? parts[1] : "");
        }
        return ctl_fail(c, &e);
    }
    if (!strcmp(a->name, "dismiss")) {
        target_release(c, id);
    }
    if (ctl_str(ret, "filename")[0]) { /* of complete, when that is decided */
        ctl_say(c, "The guest uses %s", ctl_str(ret, "filename"));
    }
    return CTL_OK;
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct action *a = NULL;
    for (unsigned i = 0; c->n && i < G_N_ELEMENTS(actions) && !a; i++) {
        a = !strcmp(actions[i].name, c->operands[0]) ? &actions[i] : NULL;
    }
    if (c->n && !a) {
        return unknown_action(c, c->operands[0]);
    }
    if (a && c->n != 1 + a->operands) {
        return c->n > 1 + a->operands
                   ? ctl_usage(c, "'%s' is too much", c->operands[1 + a->operands])
                   : ctl_usage(c, "%s is missing after '%s'", c->n == 1 ? "ID" : "RATE", c->operands[c->n - 1]);
    }
    uint64_t speed = 0;
    if (c->n > 2 && parse_size(c->operands[2], &speed)) {
        return ctl_usage(c, "'%s' is no rate; rates look like 512k, 10M or 1.5G (bytes per second; 0: no limit)",
                         c->operands[2]);
    }
    if (ctl_connect(c, &e)) {
        return ctl_fail(c, &e);
    }
    return !a ? list(c) : a->command ? act(c, a, c->n > 2 ? &speed : NULL) : watch(c);
}

static const struct ctl_option options[] = {
    {"names", NULL, "ids only, one a line"},
    {"reconnect", "SECONDS", "watch: how long to try when the connection breaks (30)"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_jobs = {
    .name = "jobs",
    .operands = "[watch | ACTION ID | speed ID RATE]",
    .max = 3,
    .help = "lists jobs; ACTION: cancel, complete, dismiss, finalize, pause or resume",
    .options = options,
    .run = run,
};
