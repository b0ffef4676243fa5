/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/progress.h"

#include "base/checked.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/units.h"
#include "cli/human.h"

#include <string.h>

enum { MIN_BAR = 8, MAX_BAR = 40 };

static void set(char **to, const char *s)
{
    g_free(*to);
    *to = s && s[0] ? g_strdup(s) : NULL;
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
    if (!p->total) {
        return 0;
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

static void put(GString *out, const char *sep, char *text)
{
    g_string_append_printf(out, "%s%s", out->len ? sep : "", text);
    g_free(text);
}

/* Rate, time left, what the guest sees, why it waits. */
static char *tail_text(const struct progress *p, const struct io_rates *io, const char *sep)
{
    GString *out = g_string_new(NULL);
    if (is_moving(p) && p->rate) {
        put(out, sep, unit_rate(p->rate));
    }
    if (is_moving(p) && p->has_eta && p->done < p->total) {
        CLEANUP_FREE char *left = unit_time(p->eta);
        put(out, sep, g_strdup_printf("%s left", left));
    }
    if (io && io->has_wr) {
        CLEANUP_FREE char *t = unit_latency(io->wr_ns);
        put(out, sep, g_strdup_printf("guest write %s", t));
    }
    if (io && io->has_rd) {
        CLEANUP_FREE char *t = unit_latency(io->rd_ns);
        put(out, sep, g_strdup_printf("%sread %s", io->has_wr ? "" : "guest ", t));
    }
    if (p->reason) {
        put(out, sep, g_strdup_printf("(%s)", p->reason));
    }
    return g_string_free(out, FALSE);
}

static enum screen_colour colour_of(const struct progress *p)
{
    const char *s = p->status ? p->status : "";
    return !strcmp(s, "ready") || !strcmp(s, "concluded")                           ? COLOUR_GOOD
           : !strcmp(s, "paused") || !strcmp(s, "standby") || !strcmp(s, "pending") ? COLOUR_WAITS
           : !strcmp(s, "aborting") || p->error                                     ? COLOUR_BAD
                                                                                    : COLOUR_NONE;
}

char *progress_bar(const struct ctl *c, const struct progress *p, const struct io_rates *io, unsigned width)
{
    CLEANUP_FREE char *tail = tail_text(p, io, "  ");
    CLEANUP_FREE char *status = screen_paint(c, colour_of(p), p->status ? p->status : "");
    unsigned percent = progress_percent(p);
    CLEANUP_FREE char *head = g_strdup_printf("%s  %s  %3u %%", p->job ? p->job : "", status, percent);
    unsigned used = screen_columns(head) + screen_columns(tail) + (tail[0] ? 2 : 0) + 4;
    if (used + MIN_BAR > width) {
        return g_strdup_printf("%s  %s", head, tail);
    }
    unsigned cells = MIN(width - used, MAX_BAR), full = cells * percent / 100;
    CLEANUP_FREE char *done = g_strnfill(full, '#'), *todo = g_strnfill(cells - full, '.');
    CLEANUP_FREE char *painted = screen_paint(c, colour_of(p), done);
    return g_strdup_printf("%s  [%s%s]%s%s", head, painted, todo, tail[0] ? "  " : "", tail);
}

char *progress_line(const struct progress *p, const struct io_rates *io)
{
    CLEANUP_FREE char *tail = tail_text(p, io, ", "), *done = human_size(p->done), *total = human_size(p->total);
    return g_strdup_printf("%s: %s, %u %% (%s of %s)%s%s", p->job ? p->job : "", p->status ? p->status : "",
                           progress_percent(p), done, total, tail[0] ? ", " : "", tail);
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
