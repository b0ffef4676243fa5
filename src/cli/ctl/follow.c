/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/follow.h"

#include "base/nearest.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/units.h"
#include "cli/human.h"

#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>

enum { REDRAW_MS = 250, LOOK_MS = 1000, LINE_MS = 5000, RETRY_MS = 200, GREETING_MS = 3000, RECONNECT_S = 30 };

enum result { RUNNING, COMPLETED, FAILED, CANCELLED };

struct follow {
    struct ctl *c;
    const struct follow_spec *spec;
    int interrupt_fd, peer;
    struct screen screen;
    struct progress p;
    struct io_look look;
    struct io_rates io;
    bool interrupted, seen, acted, stale; /* stale: the connection broke since the job was last seen */
    int64_t began_ms, shown_ms;
    char *shown_status, *told_status;
    enum result result; /* as the events told */
    char *error, *live, *ended;
};

int follow_no_such_job(struct json_object *jobs, const char *id, struct err *e)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (size_t i = 0; i < json_object_array_length(jobs); i++) {
        g_ptr_array_add(names, (gpointer)(uintptr_t)ctl_str(json_object_array_get_idx(jobs, i), "id"));
    }
    g_ptr_array_add(names, NULL);
    if (names->len == 1) {
        return err_set(e, ENOENT, "there is no job '%s', nor any other", id);
    }
    CLEANUP_FREE char *all = g_strjoinv(", ", (char **)names->pdata);
    err_set(e, ENOENT, "there is no job '%s'; jobs: %s", id, all);
    return err_suggest(e, id, (const char *const *)names->pdata);
}

struct json_object *follow_find_job(struct json_object *jobs, const char *id)
{
    for (size_t i = 0; jobs && i < json_object_array_length(jobs); i++) {
        struct json_object *j = json_object_array_get_idx(jobs, i);
        if (!strcmp(ctl_str(j, "id"), id)) {
            return j;
        }
    }
    return NULL;
}

/* --- Ctrl-C, reconnecting --------------------------------------------------------------------------------------- */

int follow_catch_interrupt(struct ctl *c)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    client_set_wake_fd(c->client, fd);
    return fd;
}

bool follow_interrupted(int fd)
{
    struct signalfd_siginfo si;
    return read(fd, &si, sizeof(si)) == sizeof(si);
}

void follow_release(struct ctl *c, int fd)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    client_set_wake_fd(c->client, -1);
    close(fd);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

void follow_drop_events(struct ctl *c, char **ended)
{
    for (struct json_object *event; (event = client_event(c->client));) {
        if (!strcmp(ctl_str(event, "event"), "SHUTDOWN")) {
            g_free(*ended);
            *ended = g_strdup(ctl_str(ctl_get(event, "data"), "reason"));
        }
        json_object_put(event);
    }
}

int follow_reconnect(struct ctl *c, int interrupt_fd, const char *ended, const struct err *why)
{
    if (ended) {
        CLEANUP_ERR struct err e = ERR_INIT;
        err_set(&e, ENOTCONN, "the machine has ended (%s)", ended);
        return ctl_fail(c, &e);
    }
    const char *text = ctl_option(c, "reconnect");
    double limit = text ? g_ascii_strtod(text, NULL) : RECONNECT_S;
    fprintf(stderr, "sternactl: %s\n", err_text(why));
    if (limit <= 0) {
        return CTL_LOST;
    }
    fprintf(stderr, "sternactl: trying to connect again for %g s\n", limit);
    CLEANUP_ERR struct err e = ERR_INIT;
    int64_t left = (int64_t)(limit * 1000), end = client_now_ms() + left;
    for (; left > 0; left = end - client_now_ms()) {
        if (!client_connect(c->client, (unsigned)MIN(left, GREETING_MS), &e)) {
            fprintf(stderr, "sternactl: connected again\n");
            return CTL_OK;
        }
        struct pollfd p = {.fd = interrupt_fd, .events = POLLIN};
        poll(&p, 1, RETRY_MS);
        if (follow_interrupted(interrupt_fd)) {
            return CTL_LEFT;
        }
    }
    fprintf(stderr, "sternactl: given up after %g s: %s\n", limit, err_text(&e));
    return CTL_LOST;
}

/* --- what is shown ------------------------------------------------------------------------------------------------ */

static bool shows(const struct follow *f)
{
    return !f->spec->quiet && !f->c->json;
}

/* A line that stays, above the bar. */
static void note(struct follow *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(struct follow *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    screen_clear(&f->screen);
    FILE *to = shows(f) ? stdout : stderr;
    CLEANUP_FREE char *text = ctl_clean(g_strdup_vprintf(fmt, ap));
    fprintf(to, "%s\n", text);
    fflush(to);
    va_end(ap);
}

static void draw(struct follow *f)
{
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(lines, progress_bar(f->c, &f->p, &f->io, screen_width() - 1));
    screen_draw(&f->screen, lines);
}

static void show(struct follow *f)
{
    int64_t now = client_now_ms();
    bool changed = g_strcmp0(f->shown_status, f->p.status) != 0;
    if (f->spec->quiet) {
        return;
    }
    if (f->c->json) {
        if (changed || now - f->shown_ms >= LOOK_MS) {
            CLEANUP_JSON struct json_object *o = progress_json(&f->p, &f->io);
            ctl_put_json(o);
            f->shown_ms = now;
        }
    } else if (f->c->terminal) {
        draw(f);
    } else if (changed || now - f->shown_ms >= LINE_MS) {
        CLEANUP_FREE char *line = progress_line(&f->p, &f->io);
        puts(line);
        fflush(stdout);
        f->shown_ms = now;
    }
    if (changed) {
        g_free(f->shown_status);
        f->shown_status = g_strdup(f->p.status);
    }
}

/* --- events ------------------------------------------------------------------------------------------------------- */

static void on_completed(struct follow *f, struct json_object *data)
{
    f->result = ctl_get(data, "error") ? FAILED : COMPLETED;
    g_free(f->error);
    f->error = ctl_get(data, "error") ? g_strdup(ctl_str(data, "error")) : NULL;
}

static void on_error(struct follow *f, struct json_object *data)
{
    const char *action = ctl_str(data, "action");
    if (!strcmp(action, "stop")) {
        note(f, "%s: %s error; it stands still: mend the cause, then 'sternactl jobs resume %s'", f->spec->job,
             ctl_str(data, "operation"), f->spec->job);
    } else if (!strcmp(action, "ignore")) {
        note(f, "%s: %s error; it will try again", f->spec->job, ctl_str(data, "operation"));
    }
}

static void on_switched(struct follow *f, struct json_object *data)
{
    g_free(f->live);
    f->live = g_strdup(ctl_str(data, "filename"));
}

static void take_event(struct follow *f, struct json_object *event)
{
    const char *name = ctl_str(event, "event");
    struct json_object *data = ctl_get(event, "data");
    const char *job = ctl_get(data, "id") ? ctl_str(data, "id") : ctl_str(data, "device");
    if (!strcmp(name, "SHUTDOWN")) {
        g_free(f->ended);
        f->ended = g_strdup(ctl_str(data, "reason"));
    }
    if (strcmp(job, f->spec->job) != 0) {
        return;
    }
    if (!strcmp(name, "BLOCK_JOB_COMPLETED")) {
        on_completed(f, data);
    } else if (f->ended) { /* what becomes of jobs then is the machine's end, which is told */
        return;
    } else if (!strcmp(name, "BLOCK_JOB_CANCELLED")) {
        f->result = CANCELLED;
    } else if (!strcmp(name, "BLOCK_JOB_ERROR")) {
        on_error(f, data);
    } else if (!strcmp(name, "BLOCK_JOB_SWITCHED")) {
        on_switched(f, data);
    }
}

static void take_events(struct follow *f)
{
    for (struct json_object *event; (event = client_event(f->c->client));) {
        take_event(f, event);
        json_object_put(event);
    }
}

/* --- the end ------------------------------------------------------------------------------------------------------ */

static void put_result(struct follow *f, const char *result)
{
    CLEANUP_JSON struct json_object *o = progress_json(&f->p, NULL);
    json_object_object_add(o, "result", json_object_new_string(result));
    if (f->error) {
        json_object_object_add(o, "error", json_object_new_string(f->error));
    }
    if (f->live) {
        json_object_object_add(o, "live", json_object_new_string(f->live));
    }
    ctl_put_json(o);
}

static void say_completed(struct follow *f)
{
    CLEANUP_FREE char *size = human_size(f->p.done),
                      *time = unit_time((uint64_t)(client_now_ms() - f->began_ms + 500) / 1000);
    note(f, "%s: completed (%s in %s)", f->spec->job, size, time);
    if (f->live) {
        CLEANUP_FREE char *pause = unit_latency(f->p.pause_ns);
        note(f, f->p.pause_ns ? "The guest uses %s now; it stood still for %s" : "The guest uses %s now", f->live,
             pause);
    }
}

static int finish(struct follow *f)
{
    static const char *const names[] = {"running", "completed", "failed", "cancelled"};
    bool loud = !f->spec->quiet || f->result != COMPLETED;
    screen_clear(&f->screen);
    if (f->c->json && loud) {
        put_result(f, names[f->result]);
    }
    if (f->result == FAILED) {
        CLEANUP_ERR struct err e = ERR_INIT;
        err_set(&e, EIO, "job '%s' failed: %s", f->spec->job, f->error ? f->error : "no reason is known");
        return ctl_fail(f->c, &e);
    }
    if (f->result == CANCELLED) {
        if (shows(f)) {
            note(f, "%s: cancelled", f->spec->job);
        }
        return CTL_CANCELLED;
    }
    if (shows(f)) {
        say_completed(f);
    }
    return CTL_OK;
}

/* The job does not exist (any more). -1 cannot be: an exit status. */
static int not_there(struct follow *f, struct json_object *jobs)
{
    if (f->result != RUNNING) {
        return finish(f);
    }
    screen_clear(&f->screen);
    CLEANUP_ERR struct err e = ERR_INIT;
    int peer = client_peer(f->c->client);
    if (f->stale && peer != f->peer) {
        err_set(&e, ENOTCONN,
                "the machine was started anew meanwhile: job '%s' is gone, and what became of it is not known",
                f->spec->job);
    } else if (f->stale) {
        err_set(&e, ENOTCONN, "job '%s' ended meanwhile, and did not wait for 'jobs dismiss': its result is not known",
                f->spec->job);
    } else if (f->seen) {
        err_set(&e, ENOENT, "job '%s' is gone, and nothing told its result", f->spec->job);
    } else {
        follow_no_such_job(jobs, f->spec->job, &e);
    }
    return ctl_fail(f->c, &e);
}

static int concluded(struct follow *f, struct err *e)
{
    f->result = progress_was_cancelled(&f->p) ? CANCELLED : f->p.error ? FAILED : COMPLETED;
    g_free(f->error);
    f->error = f->result == FAILED ? g_strdup(f->p.error) : NULL;
    int rc = ctl_call(f->c, "job-dismiss", NULL, e, "id", ctl_new_str(f->spec->job), NULL);
    if (rc) {
        err_clear(e); /* it goes by itself, or the connection broke just now: the result is known */
    }
    take_events(f);
    return finish(f);
}

/* --- the job, each time somebody looks -------------------------------------------------------------------------- */

/* Once per status that needs somebody to do something. */
static bool tell(struct follow *f, const char *status)
{
    if (strcmp(f->p.status, status) != 0 || !g_strcmp0(f->told_status, status)) {
        return false;
    }
    g_free(f->told_status);
    f->told_status = g_strdup(status);
    return true;
}

/* Somebody else has told it to end since it was ready: how it does will be seen. */
static bool has_gone_on(struct follow *f)
{
    CLEANUP_ERR struct err ignored = ERR_INIT;
    CLEANUP_JSON struct json_object *jobs = NULL;
    ctl_call(f->c, "query-jobs", &jobs, &ignored, NULL);
    return jobs && strcmp(ctl_str(follow_find_job(jobs, f->spec->job), "status"), "ready") != 0;
}

/* A mirror or an active commit is in step. -1: wait on. */
static int ready(struct follow *f, struct err *e)
{
    const char *job = f->spec->job;
    if (f->spec->on_ready == FOLLOW_RETURN) {
        if (!f->c->json) {
            note(f, "%s: ready", job);
        }
        return CTL_OK;
    }
    if (f->spec->on_ready == FOLLOW_STAY) {
        if (tell(f, "ready")) {
            note(f, "%s: ready, and stays in step; 'sternactl jobs complete %s' switches the guest over", job, job);
        }
        return -1;
    }
    if (f->acted) {
        return -1;
    }
    int rc = f->spec->on_ready == FOLLOW_COMPLETE
                 ? ctl_call(f->c, "job-complete", NULL, e, "id", ctl_new_str(job), NULL)
                 : ctl_call(f->c, "block-job-cancel", NULL, e, "device", ctl_new_str(job), NULL);
    f->acted = !rc;
    if (rc && e->code != ENOTCONN && e->code != EINTR && has_gone_on(f)) {
        err_clear(e);
        return -1;
    }
    return rc && e->code != ENOTCONN && e->code != EINTR ? ctl_fail(f->c, e) : -1;
}

/* Else it is on its way through this state. */
static bool waits_for_finalize(struct follow *f)
{
    CLEANUP_ERR struct err ignored = ERR_INIT;
    CLEANUP_JSON struct json_object *jobs = NULL;
    ctl_call(f->c, "query-block-jobs", &jobs, &ignored, NULL);
    for (size_t i = 0; jobs && i < json_object_array_length(jobs); i++) {
        struct json_object *j = json_object_array_get_idx(jobs, i);
        if (!strcmp(ctl_str(j, "device"), f->spec->job)) {
            return !strcmp(ctl_str(j, "status"), "pending") && !ctl_bool(j, "auto-finalize");
        }
    }
    return false;
}

/* -1: go on; else how it ended. e is set when the connection broke. */
static int look(struct follow *f, struct err *e)
{
    CLEANUP_JSON struct json_object *jobs = NULL;
    if (ctl_call(f->c, "query-jobs", &jobs, e, NULL)) {
        return -1;
    }
    take_events(f);
    struct json_object *info = follow_find_job(jobs, f->spec->job);
    if (!info) {
        return not_there(f, jobs);
    }
    f->seen = true;
    f->stale = false;
    progress_update(&f->p, info);
    if (!f->spec->quiet) {
        CLEANUP_ERR struct err ignored = ERR_INIT;
        CLEANUP_JSON struct json_object *stats = stats_query(f->c, &ignored);
        if (stats && (!f->look.at_ms || client_now_ms() - f->look.at_ms >= REDRAW_MS)) {
            f->io = stats_look(&f->look, stats, f->spec->disk);
        }
    }
    if (!strcmp(f->p.status, "concluded")) {
        return concluded(f, e);
    }
    show(f);
    if (!strcmp(f->p.status, "pending") && waits_for_finalize(f) && tell(f, "pending")) {
        note(f, "%s: done, and waits for 'sternactl jobs finalize %s'", f->spec->job, f->spec->job);
    }
    return !strcmp(f->p.status, "ready") ? ready(f, e) : -1;
}

static int on_interrupt(struct follow *f)
{
    if (f->interrupted) {
        screen_keep(&f->screen);
        return CTL_LEFT;
    }
    f->interrupted = true;
    const char *job = f->spec->job;
    screen_clear(&f->screen);
    fprintf(stderr,
            "The job goes on; Ctrl-C again leaves it alone. Then:\n"
            "  sternactl wait %s            shows it again\n"
            "  sternactl jobs cancel %s     cancels it\n",
            job, job);
    if (f->spec->on_ready == FOLLOW_COMPLETE) {
        fprintf(stderr, "  sternactl jobs complete %s   switches the guest over when it is ready\n", job);
    }
    return -1;
}

static int wait_on(struct follow *f)
{
    for (;;) {
        CLEANUP_ERR struct err e = ERR_INIT;
        int rc = look(f, &e);
        if (rc >= 0) {
            return rc;
        }
        if (!err_is_set(&e)) {
            client_wait(f->c->client, f->c->terminal ? REDRAW_MS : LOOK_MS, &e);
            take_events(f);
        }
        if (follow_interrupted(f->interrupt_fd) && (rc = on_interrupt(f)) >= 0) {
            return rc;
        }
        if (e.code == ENOTCONN) {
            take_events(f);
            screen_clear(&f->screen);
            if (f->ended && f->result != RUNNING) {
                return finish(f);
            }
            rc = follow_reconnect(f->c, f->interrupt_fd, f->ended, &e);
            if (rc) {
                return rc;
            }
            f->stale = true;
        } else if (err_is_set(&e) && e.code != EINTR) {
            return ctl_fail(f->c, &e);
        }
    }
}

int follow_job(struct ctl *c, const struct follow_spec *s)
{
    struct follow f = {.c = c,
                       .spec = s,
                       .screen = {.c = c},
                       .peer = client_peer(c->client),
                       .began_ms = client_now_ms(),
                       .interrupt_fd = follow_catch_interrupt(c)};
    int rc = wait_on(&f);
    follow_release(c, f.interrupt_fd);
    progress_finish(&f.p);
    g_free(f.shown_status);
    g_free(f.told_status);
    g_free(f.error);
    g_free(f.live);
    g_free(f.ended);
    return rc;
}
