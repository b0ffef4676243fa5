/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/acct.h"

#include "base/checked.h"
#include "loop/loop.h"

#include <errno.h>
#include <string.h>

struct sample {
    uint64_t n, sum, min, max;
};

/*
 * Two windows, each as long as the interval, half an interval apart: the older one is shown, so what is shown is of
 * the last half to whole interval.
 */
struct window {
    uint64_t start_ns;
    struct sample s[ACCT_TYPES];
};

struct acct_interval {
    unsigned seconds, older;
    uint64_t length_ns;
    struct window w[2];
};

/* --- life --------------------------------------------------------------------------------------------------------- */

void acct_init(struct acct *a)
{
    a->count_invalid = a->count_failed = true;
}

void acct_finish(struct acct *a)
{
    acct_clear_histograms(a);
    if (a->intervals) {
        g_ptr_array_unref(a->intervals);
    }
}

/* --- intervals ---------------------------------------------------------------------------------------------------- */

void acct_add_interval(struct acct *a, unsigned seconds)
{
    struct acct_interval *i = g_new0(struct acct_interval, 1);
    i->seconds = seconds;
    i->length_ns = seconds * UINT64_C(1000000000);
    i->w[0].start_ns = loop_now_ns();
    i->w[1].start_ns = i->w[0].start_ns + i->length_ns / 2;
    if (!a->intervals) {
        a->intervals = g_ptr_array_new_with_free_func(g_free);
    }
    g_ptr_array_add(a->intervals, i);
}

static void restart(struct window *w, uint64_t at)
{
    *w = (struct window){.start_ns = at};
}

/* Windows that are over begin again. */
static void rotate(struct acct_interval *i, uint64_t now)
{
    struct window *older = &i->w[i->older], *newer = &i->w[!i->older];
    if (now >= newer->start_ns + i->length_ns) { /* nobody has looked for long */
        restart(older, now);
        restart(newer, now + i->length_ns / 2);
    } else if (now >= older->start_ns + i->length_ns) {
        restart(older, newer->start_ns + i->length_ns / 2);
        i->older = !i->older;
    }
}

static void add_sample(struct sample *s, uint64_t ns)
{
    s->min = s->n ? min_u64(s->min, ns) : ns;
    s->max = ns > s->max ? ns : s->max;
    s->sum += ns;
    s->n++;
}

static void count_interval(struct acct_interval *i, enum acct_type type, uint64_t now, uint64_t ns)
{
    rotate(i, now);
    for (unsigned k = 0; k < 2; k++) {
        if (now >= i->w[k].start_ns) {
            add_sample(&i->w[k].s[type], ns);
        }
    }
}

/* --- histograms --------------------------------------------------------------------------------------------------- */

static void clear_histogram(struct acct_histogram *h)
{
    g_free(h->boundaries);
    g_free(h->bins);
    *h = (struct acct_histogram){0};
}

void acct_clear_histograms(struct acct *a)
{
    for (unsigned i = 0; i < ACCT_TYPES; i++) {
        clear_histogram(&a->histograms[i]);
    }
}

int acct_set_histogram(struct acct *a, enum acct_type type, struct json_object *boundaries)
{
    size_t n = json_object_array_length(boundaries);
    uint64_t last = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t v = json_object_get_uint64(json_object_array_get_idx(boundaries, i));
        if (v <= last) {
            return -EINVAL;
        }
        last = v;
    }
    if (!n) {
        return -EINVAL;
    }
    struct acct_histogram *h = &a->histograms[type];
    clear_histogram(h);
    h->n = (unsigned)n;
    h->boundaries = g_new(uint64_t, n);
    h->bins = g_new0(uint64_t, n + 1);
    for (size_t i = 0; i < n; i++) {
        h->boundaries[i] = json_object_get_uint64(json_object_array_get_idx(boundaries, i));
    }
    return 0;
}

static void count_histogram(struct acct_histogram *h, uint64_t ns)
{
    unsigned low = 0, high = h->n; /* the bin is the number of boundaries that are not above ns */
    while (low < high) {
        unsigned mid = (low + high) / 2;
        if (h->boundaries[mid] <= ns) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    if (h->n) {
        h->bins[low]++;
    }
}

/* --- counting ----------------------------------------------------------------------------------------------------- */

void acct_done(struct acct *a, enum acct_type type, uint64_t bytes, uint64_t start_ns, bool ok)
{
    uint64_t now = loop_now_ns(), ns = now - start_ns;
    a->failed[type] += !ok;
    a->ops[type] += ok;
    a->bytes[type] += ok ? bytes : 0;
    if (type == ACCT_WRITE) {
        a->wr_us_log2[min_u64(log2_floor(ns / 1000), 31)]++;
    }
    count_histogram(&a->histograms[type], ns);
    if (ok || a->count_failed) {
        a->ns[type] += ns;
        a->last_ns = now;
        for (guint i = 0; a->intervals && i < a->intervals->len; i++) {
            count_interval(g_ptr_array_index(a->intervals, i), type, now, ns);
        }
    }
}

void acct_invalid(struct acct *a, enum acct_type type)
{
    a->invalid[type]++;
    if (a->count_invalid) {
        a->last_ns = loop_now_ns();
    }
}

/* --- showing ------------------------------------------------------------------------------------------------------ */

static void add_num(struct json_object *o, const char *key, uint64_t v)
{
    json_object_object_add(o, key, json_object_new_uint64(v));
}

/* Kinds as the names of what is shown have them; there are no zones, so of those all is 0. */
static const struct {
    const char *name;
    int type; /* -1: zone appends */
} kinds[] = {
    {"rd", ACCT_READ}, {"wr", ACCT_WRITE}, {"zone_append", -1}, {"flush", ACCT_FLUSH}, {"unmap", ACCT_DISCARD}};

static void add_row(struct json_object *o, const char *format, const uint64_t *values, bool with_flush)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        char key[64];
        g_snprintf(key, sizeof(key), "%.*s%s%s", (int)strcspn(format, "*"), format, kinds[i].name,
                   strchr(format, '*') + 1);
        if (with_flush || kinds[i].type != ACCT_FLUSH) {
            add_num(o, key, kinds[i].type < 0 ? 0 : values[kinds[i].type]);
        }
    }
}

static struct json_object *interval_json(struct acct_interval *i)
{
    uint64_t now = loop_now_ns();
    rotate(i, now);
    const struct window *w = &i->w[i->older];
    double elapsed = (double)(now - w->start_ns);
    struct json_object *o = json_object_new_object();
    uint64_t min[ACCT_TYPES], max[ACCT_TYPES], avg[ACCT_TYPES];
    for (unsigned t = 0; t < ACCT_TYPES; t++) {
        min[t] = w->s[t].min;
        max[t] = w->s[t].max;
        avg[t] = w->s[t].n ? w->s[t].sum / w->s[t].n : 0;
    }
    add_num(o, "interval_length", i->seconds);
    add_row(o, "min_*_latency_ns", min, true);
    add_row(o, "max_*_latency_ns", max, true);
    add_row(o, "avg_*_latency_ns", avg, true);
    for (size_t k = 0; k < 3; k++) { /* reads, writes, zone appends */
        char key[64];
        g_snprintf(key, sizeof(key), "avg_%s_queue_depth", kinds[k].name);
        double sum = kinds[k].type < 0 ? 0 : (double)w->s[kinds[k].type].sum;
        json_object_object_add(o, key, json_object_new_double(elapsed > 0 ? sum / elapsed : 0));
    }
    for (size_t k = 0; k < 3; k++) { /* unmaps are not among them */
        static const char *const names[] = {"min_unmap_latency_ns", "max_unmap_latency_ns", "avg_unmap_latency_ns"};
        json_object_object_del(o, names[k]);
    }
    return o;
}

static struct json_object *numbers(const uint64_t *v, unsigned n)
{
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < n; i++) {
        json_object_array_add(list, json_object_new_uint64(v[i]));
    }
    return list;
}

static void add_histograms(const struct acct *a, struct json_object *o)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        const struct acct_histogram *h = kinds[i].type < 0 ? NULL : &a->histograms[kinds[i].type];
        if (h && h->n && kinds[i].type != ACCT_DISCARD) {
            struct json_object *shown = json_object_new_object();
            char key[64];
            g_snprintf(key, sizeof(key), "%s_latency_histogram", kinds[i].name);
            json_object_object_add(shown, "boundaries", numbers(h->boundaries, h->n));
            json_object_object_add(shown, "bins", numbers(h->bins, h->n + 1));
            json_object_object_add(o, key, shown);
        }
    }
}

struct json_object *acct_json(const struct acct *a, uint64_t highest)
{
    struct json_object *o = json_object_new_object(), *timed = json_object_new_array();
    add_row(o, "*_bytes", a->bytes, false);
    add_row(o, "*_operations", a->ops, true);
    add_row(o, "*_total_time_ns", a->ns, true);
    add_num(o, "wr_highest_offset", highest);
    add_row(o, "*_merged", a->merged, false);
    add_row(o, "failed_*_operations", a->failed, true);
    add_row(o, "invalid_*_operations", a->invalid, true);
    if (a->last_ns) {
        add_num(o, "idle_time_ns", loop_now_ns() - a->last_ns);
    }
    json_object_object_add(o, "account_invalid", json_object_new_boolean(a->count_invalid));
    json_object_object_add(o, "account_failed", json_object_new_boolean(a->count_failed));
    for (guint i = 0; a->intervals && i < a->intervals->len; i++) {
        json_object_array_add(timed, interval_json(g_ptr_array_index(a->intervals, i)));
    }
    json_object_object_add(o, "timed_stats", timed);
    add_histograms(a, o);
    return o;
}
