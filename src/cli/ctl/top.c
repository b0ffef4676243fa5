/* SPDX-License-Identifier: BSD-2-Clause */
/* `top`: what disks and jobs do, over and over. */
#include "cli/ctl/follow.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/stats.h"
#include "cli/ctl/units.h"
#include "cli/ctl/verbs.h"
#include "cli/human.h"

#include <stdio.h>
#include <string.h>

struct top {
    struct ctl *c;
    struct screen screen;
    int interrupt_fd, interval_ms;
    uint64_t rounds; /* left; 0: for ever */
    bool looked;
    char *ended;
    GHashTable *looks; /* name of a disk -> struct io_look */
};

/* What was asked for in one round. */
struct round {
    struct json_object *stats, *jobs, *status;
    GPtrArray *disks;
};

static void round_finish(struct round *r)
{
    json_object_put(r->stats);
    json_object_put(r->jobs);
    json_object_put(r->status);
    if (r->disks) {
        g_ptr_array_free(r->disks, TRUE);
    }
}

static int ask(struct top *t, struct round *r, struct err *e)
{
    int rc = ctl_call(t->c, "query-status", &r->status, e, NULL);
    rc = rc ? rc : ctl_call(t->c, "query-jobs", &r->jobs, e, NULL);
    if (rc || !(r->disks = disk_list(t->c, e)) || !(r->stats = stats_query(t->c, e))) {
        return -e->code;
    }
    return 0;
}

static struct io_rates rates_of(struct top *t, const struct round *r, const struct disk *d)
{
    struct io_look *l = g_hash_table_lookup(t->looks, d->name);
    if (!l) {
        l = g_new0(struct io_look, 1);
        g_hash_table_insert(t->looks, g_strdup(d->name), l);
    }
    return stats_look(l, r->stats, d);
}

static void add_disk(struct table *to, const struct disk *d, const struct io_rates *io)
{
    table_row(to, g_strdup(d->name), g_strdup_printf("%" G_GUINT64_FORMAT, io->rd_iops), unit_rate(io->rd_rate),
              io->has_rd ? unit_latency(io->rd_ns) : g_strdup("-"), g_strdup_printf("%" G_GUINT64_FORMAT, io->wr_iops),
              unit_rate(io->wr_rate), io->has_wr ? unit_latency(io->wr_ns) : g_strdup("-"),
              g_strdup(ctl_str(ctl_get(d->image, "image"), "filename")));
}

static void add_lines(GPtrArray *to, const struct table *t)
{
    g_autoptr(GPtrArray) lines = table_lines(t);
    g_ptr_array_extend_and_steal(to, g_steal_pointer(&lines));
}

static GPtrArray *lines_of(struct top *t, const struct round *r)
{
    GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(lines, g_strdup_printf("guest: %s", ctl_str(r->status, "status")));
    struct table disks = table_create(8);
    table_row(&disks, g_strdup("DISK"), g_strdup("READS/s"), g_strdup("READ"), g_strdup("LATENCY"),
              g_strdup("WRITES/s"), g_strdup("WRITTEN"), g_strdup("LATENCY"), g_strdup("FILE"));
    for (guint i = 0; i < r->disks->len; i++) {
        struct io_rates io = rates_of(t, r, r->disks->pdata[i]);
        add_disk(&disks, r->disks->pdata[i], &io);
    }
    add_lines(lines, &disks);
    table_finish(&disks);
    for (size_t i = 0; i < json_object_array_length(r->jobs); i++) {
        struct progress p = {0};
        progress_update(&p, json_object_array_get_idx(r->jobs, i));
        g_ptr_array_add(lines,
                        t->c->terminal ? progress_bar(t->c, &p, NULL, screen_width() - 1) : progress_line(&p, NULL));
        progress_finish(&p);
    }
    return lines;
}

static void put_json(struct top *t, const struct round *r)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct json_object *disks = json_object_new_array();
    for (guint i = 0; i < r->disks->len; i++) {
        const struct disk *d = r->disks->pdata[i];
        struct io_rates io = rates_of(t, r, d);
        struct json_object *v = json_object_new_object();
        json_object_object_add(v, "disk", json_object_new_string(d->name));
        json_object_object_add(v, "read-iops", ctl_new_int(io.rd_iops));
        json_object_object_add(v, "read-rate", ctl_new_int(io.rd_rate));
        json_object_object_add(v, "write-iops", ctl_new_int(io.wr_iops));
        json_object_object_add(v, "write-rate", ctl_new_int(io.wr_rate));
        json_object_object_add(v, "read-ns", io.has_rd ? ctl_new_int(io.rd_ns) : NULL);
        json_object_object_add(v, "write-ns", io.has_wr ? ctl_new_int(io.wr_ns) : NULL);
        json_object_array_add(disks, v);
    }
    json_object_object_add(o, "status", json_object_get(ctl_get(r->status, "status")));
    json_object_object_add(o, "disks", disks);
    json_object_object_add(o, "jobs", json_object_get(r->jobs));
    ctl_put_json(o);
}

/* True: that was the last one. */
static bool show(struct top *t, const struct round *r)
{
    if (!t->looked) { /* there is nothing to compare with */
        for (guint i = 0; i < r->disks->len; i++) {
            rates_of(t, r, r->disks->pdata[i]);
        }
        t->looked = true;
        return false;
    }
    if (t->c->json) {
        put_json(t, r);
    } else {
        g_autoptr(GPtrArray) lines = lines_of(t, r);
        if (t->c->terminal) {
            screen_draw(&t->screen, lines);
        }
        for (guint i = 0; !t->c->terminal && i < lines->len; i++) {
            puts(lines->pdata[i]);
        }
        fflush(stdout);
    }
    return t->rounds && !--t->rounds;
}

/* Events come and go; the next look is due all the same. */
static int pause_between(struct top *t, struct err *e)
{
    int64_t end = client_now_ms() + t->interval_ms;
    for (int64_t left; (left = end - client_now_ms()) > 0;) {
        int rc = client_wait(t->c->client, (int)left, e);
        follow_drop_events(t->c, &t->ended);
        if (rc || follow_interrupted(t->interrupt_fd)) {
            return rc ? rc : 1;
        }
    }
    return 0;
}

static int turn(struct top *t, bool *last, struct err *e)
{
    struct round r = {0};
    int rc = ask(t, &r, e);
    *last = !rc && show(t, &r);
    round_finish(&r);
    return rc || *last ? rc : pause_between(t, e);
}

static int watch(struct top *t)
{
    for (;;) {
        CLEANUP_ERR struct err e = ERR_INIT;
        bool last;
        int rc = turn(t, &last, &e);
        if (last || rc == 1 || rc == -EINTR) {
            screen_keep(&t->screen);
            return CTL_OK;
        }
        if (rc == -ENOTCONN) {
            screen_keep(&t->screen);
            rc = follow_reconnect(t->c, t->interrupt_fd, t->ended, &e);
            if (rc) {
                return rc;
            }
        } else if (rc) {
            return ctl_fail(t->c, &e);
        }
    }
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const char *interval = ctl_option(c, "interval"), *count = ctl_option(c, "count");
    double seconds = interval ? g_ascii_strtod(interval, NULL) : 1;
    uint64_t rounds = count ? g_ascii_strtoull(count, NULL, 10) : 0;
    if (!(seconds >= 0.1 && seconds <= 3600)) {
        return ctl_usage(c, "--interval '%s' is not from 0.1 to 3600 seconds", interval);
    }
    if (count && !rounds) {
        return ctl_usage(c, "--count '%s' is no number", count);
    }
    if (ctl_connect(c, &e)) {
        return ctl_fail(c, &e);
    }
    struct top t = {.c = c,
                    .screen = {.c = c},
                    .interval_ms = (int)(seconds * 1000),
                    .rounds = rounds,
                    .looks = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free),
                    .interrupt_fd = follow_catch_interrupt(c)};
    int rc = watch(&t);
    follow_release(c, t.interrupt_fd);
    g_hash_table_destroy(t.looks);
    g_free(t.ended);
    return rc;
}

static const struct ctl_option options[] = {
    {"interval", "SECONDS", "how often (1)"},
    {"count", "N", "so many times; until Ctrl-C without it"},
    {"reconnect", "SECONDS", "how long to try when the connection breaks (30)"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_top = {
    .name = "top",
    .operands = "",
    .help = "shows over and over what disks and jobs do",
    .options = options,
    .run = run,
};
