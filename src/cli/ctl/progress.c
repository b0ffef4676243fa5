/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/progress.h"

#include "base/checked.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/units.h"
#include "cli/human.h"

#include <string.h>

/* DETAILS: columns for what stands behind a bar; BRACKETS: for what is around it. */
enum { MIN_BAR = 10, MAX_BAR = 40, DETAILS = 63, BRACKETS = 4 };

static void set(char **to, const char *s)
{
    g_free(*to);
    *to = s && s[0] ? ctl_clean(g_strdup(s)) : NULL;
}

void progress_finish(struct progress *p)
{
    char **all[] = {&p->job, &p->type, &p->status, &p->reason, &p->error};
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        set(all[i], NULL);
    }
}

static uint64_t not_negative(struct json_object *o, const char *key)
{
    return (uint64_t)MAX(ctl_int(o, key), 0);
}

/* QEMU's jobs do not say how fast they are. */
static uint64_t measured_rate(const struct progress *p, uint64_t done, int64_t now)
{
    if (!p->at_ms || now <= p->at_ms || done < p->done) {
        return p->rate;
    }
    uint64_t rate = (done - p->done) * 1000 / (uint64_t)(now - p->at_ms);
    return p->rate ? (p->rate * 7 + rate) / 8 : rate;
}

void progress_update(struct progress *p, struct json_object *info)
{
    int64_t now = client_now_ms();
    uint64_t done = not_negative(info, "current-progress"), total = not_negative(info, "total-progress");
    p->rate = ctl_get(info, "rate") ? not_negative(info, "rate") : measured_rate(p, done, now);
    p->has_eta = ctl_get(info, "eta") || (p->rate && total > done);
    p->eta = ctl_get(info, "eta") ? not_negative(info, "eta") : p->rate && total > done ? (total - done) / p->rate : 0;
    p->done = done;
    p->total = total;
    p->at_ms = now;
    p->pause_ns = not_negative(info, "pause-ns");
    set(&p->job, ctl_str(info, "id"));
    set(&p->type, ctl_str(info, "type"));
    set(&p->status, ctl_str(info, "status"));
    set(&p->reason, ctl_str(info, "wait-reason"));
    set(&p->error, ctl_str(info, "error"));
}

unsigned progress_percent(const struct progress *p)
{
    if (!p->total) { /* nothing to do, or not known yet */
        return !g_strcmp0(p->status, "ready") || !g_strcmp0(p->status, "concluded") ? 100 : 0;
    }
    return p->done >= p->total ? 100 : MIN((unsigned)((double)p->done / (double)p->total * 100), 99);
}

bool progress_was_cancelled(const struct progress *p)
{
    return p->error && !strcmp(p->error, "Operation canceled");
}

static bool is_moving(const struct progress *p)
{
    return !g_strcmp0(p->status, "running");
}

/* Rate, time left, what the guest sees, why it stands still: char *, in the order of their weight. */
static GPtrArray *details(const struct progress *p, const struct io_rates *io)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(g_free);
    if (is_moving(p) && p->rate) {
        g_ptr_array_add(all, unit_rate(p->rate));
    }
    if (is_moving(p) && p->has_eta && p->done < p->total) {
        CLEANUP_FREE char *left = unit_time(p->eta);
        g_ptr_array_add(all, g_strdup_printf("%s left", left));
    }
    if (io && io->has_wr) {
        CLEANUP_FREE char *t = unit_latency(io->wr_ns);
        g_ptr_array_add(all, g_strdup_printf("guest write %s", t));
    }
    if (io && io->has_rd) {
        CLEANUP_FREE char *t = unit_latency(io->rd_ns);
        g_ptr_array_add(all, g_strdup_printf("guest read %s", t));
    }
    if (p->reason) {
        g_ptr_array_add(all, g_strdup_printf("(%s)", p->reason));
    }
    return all;
}

static enum screen_colour colour_of(const struct progress *p)
{
    const char *s = p->status ? p->status : "";
    return !strcmp(s, "ready") || !strcmp(s, "concluded")                           ? COLOUR_GOOD
           : !strcmp(s, "paused") || !strcmp(s, "standby") || !strcmp(s, "pending") ? COLOUR_WAITS
           : !strcmp(s, "aborting") || p->error                                     ? COLOUR_BAD
                                                                                    : COLOUR_NONE;
}

/* The bar is as long while the numbers beside it change; what does not fit behind it is left out. */
char *progress_bar(const struct ctl *c, const struct progress *p, const struct io_rates *io, unsigned width)
{
    g_autoptr(GPtrArray) parts = details(p, io);
    CLEANUP_FREE char *status = screen_paint(c, colour_of(p), p->status ? p->status : "");
    unsigned percent = progress_percent(p);
    GString *line = g_string_new(NULL);
    g_string_printf(line, "%s  %s  %3u %%", p->job ? p->job : "", status, percent);
    unsigned used = screen_columns(line->str) + BRACKETS;
    unsigned cells = width > used + DETAILS ? width - used - DETAILS : 0;
    cells = CLAMP(cells, MIN_BAR, MAX_BAR);
    if (used + cells <= width) {
        unsigned full = cells * percent / 100;
        CLEANUP_FREE char *done = g_strnfill(full, '#'), *todo = g_strnfill(cells - full, '.');
        CLEANUP_FREE char *painted = screen_paint(c, colour_of(p), done);
        g_string_append_printf(line, "  [%s%s]", painted, todo);
    }
    for (guint i = 0; i < parts->len; i++) {
        if (screen_columns(line->str) + 2 + screen_columns(parts->pdata[i]) <= width) {
            g_string_append_printf(line, "  %s", (const char *)parts->pdata[i]);
        }
    }
    return g_string_free(line, FALSE);
}

char *progress_line(const struct progress *p, const struct io_rates *io)
{
    g_autoptr(GPtrArray) parts = details(p, io);
    CLEANUP_FREE char *done = human_size(p->done), *total = human_size(p->total);
    GString *line = g_string_new(NULL);
    g_string_printf(line, "%s: %s, %u %% (%s of %s)", p->job ? p->job : "", p->status ? p->status : "",
                    progress_percent(p), done, total);
    for (guint i = 0; i < parts->len; i++) {
        g_string_append_printf(line, ", %s", (const char *)parts->pdata[i]);
    }
    return g_string_free(line, FALSE);
}

static void add_text(struct json_object *o, const char *key, const char *s)
{
    if (s) {
        json_object_object_add(o, key, json_object_new_string(s));
    }
}

static void add_number(struct json_object *o, const char *key, bool have, uint64_t n)
{
    if (have) {
        json_object_object_add(o, key, ctl_new_int(n));
    }
}

struct json_object *progress_json(const struct progress *p, const struct io_rates *io)
{
    struct json_object *o = json_object_new_object();
    add_text(o, "job", p->job);
    add_text(o, "type", p->type);
    add_text(o, "status", p->status);
    add_number(o, "current-progress", true, p->done);
    add_number(o, "total-progress", true, p->total);
    add_number(o, "percentage", true, progress_percent(p));
    add_number(o, "rate", p->rate, p->rate);
    add_number(o, "eta", p->has_eta, p->eta);
    add_number(o, "pause-ns", p->pause_ns, p->pause_ns);
    add_text(o, "wait-reason", p->reason);
    add_text(o, "error", p->error);
    add_number(o, "guest-write-ns", io && io->has_wr, io ? io->wr_ns : 0);
    add_number(o, "guest-read-ns", io && io->has_rd, io ? io->rd_ns : 0);
    return o;
}
