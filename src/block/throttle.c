/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/throttle.h"

#include "base/checked.h"
#include "base/json.h"

#include <string.h>

/* A bucket leaks `avg` units a second; a request fits while its level is not above what it holds. */
struct bucket {
    double level;       /* units that have not leaked away yet */
    double burst_level; /* the same, leaking `max` a second: the limit within a burst */
};

struct waiter {
    GList link;
    struct co *co;
    const unsigned *bypass;
};

struct throttle_group {
    struct loop *loop;
    char *name;
    unsigned refs;
    struct throttle_config config;
    struct bucket buckets[THROTTLE_BUCKETS];
    uint64_t leaked_ns;
    GQueue waiting[2];      /* reads, writes: struct waiter */
    struct timer timers[2]; /* when the first of them may go */
};

/* --- configuration ---------------------------------------------------------------------------------------------- */

static const char *const limit_names[THROTTLE_BUCKETS] = {"bps-total",  "bps-read",  "bps-write",
                                                          "iops-total", "iops-read", "iops-write"};

static void read_limit(struct jread *r, const char *name, struct throttle_limit *l)
{
    char key[40];
    l->avg = jread_size_or(r, name, 0);
    g_snprintf(key, sizeof(key), "%s-max", name);
    l->max = jread_size_or(r, key, 0);
    g_snprintf(key, sizeof(key), "%s-max-length", name);
    l->burst_length = jread_size_or(r, key, 1);
}

static int check_limit(const struct throttle_limit *l, const char *name, struct err *e)
{
    const uint64_t most = 1000000000000000ull; /* QEMU's bound: 10^15 a second */
    if (l->avg > most || l->max > most) {
        return err_set(e, EINVAL, "%s: bps/iops/max values must be within [0, %" G_GUINT64_FORMAT "]", name, most);
    }
    if (!l->burst_length) {
        return err_set(e, EINVAL, "%s: the burst length cannot be 0", name);
    }
    if (l->burst_length > 1 && !l->max) {
        return err_set(e, EINVAL, "%s: burst length set without burst rate", name);
    }
    if (l->max && !l->avg) {
        return err_set(e, EINVAL, "%s: bps_max/iops_max require corresponding bps/iops values", name);
    }
    if (l->max && l->max < l->avg) {
        return err_set(e, EINVAL, "%s: bps_max/iops_max cannot be lower than bps/iops", name);
    }
    if (l->max && l->burst_length > most / l->max) {
        return err_set(e, EINVAL, "%s: burst length too high for this burst rate", name);
    }
    return 0;
}

int throttle_config_check(const struct throttle_config *c, struct err *e)
{
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        int rc = check_limit(&c->limit[i], limit_names[i], e);
        if (rc < 0) {
            return rc;
        }
    }
    const struct throttle_limit *l = c->limit;
    if ((l[THROTTLE_BPS_TOTAL].avg && (l[THROTTLE_BPS_READ].avg || l[THROTTLE_BPS_WRITE].avg)) ||
        (l[THROTTLE_OPS_TOTAL].avg && (l[THROTTLE_OPS_READ].avg || l[THROTTLE_OPS_WRITE].avg))) {
        return err_set(e, EINVAL, "bps/iops/max total values and read/write values cannot be used at the same time");
    }
    bool any_ops = l[THROTTLE_OPS_TOTAL].avg || l[THROTTLE_OPS_READ].avg || l[THROTTLE_OPS_WRITE].avg;
    if (c->iops_size && !any_ops) {
        return err_set(e, EINVAL, "iops size requires an iops value to be set");
    }
    return 0;
}

int throttle_config_parse(struct json_object *o, struct throttle_config *out, struct err *e)
{
    struct jread r = jread_init(o, "limits", e);
    *out = (struct throttle_config){0};
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        read_limit(&r, limit_names[i], &out->limit[i]);
    }
    out->iops_size = jread_size_or(&r, "iops-size", 0);
    int rc = jread_end(&r);
    return rc < 0 ? rc : throttle_config_check(out, e);
}

struct json_object *throttle_config_json(const struct throttle_config *c)
{
    struct json_object *o = json_object_new_object();
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        const struct throttle_limit *l = &c->limit[i];
        char key[40];
        json_object_object_add(o, limit_names[i], json_object_new_uint64(l->avg));
        g_snprintf(key, sizeof(key), "%s-max", limit_names[i]);
        json_object_object_add(o, key, json_object_new_uint64(l->max));
        g_snprintf(key, sizeof(key), "%s-max-length", limit_names[i]);
        json_object_object_add(o, key, json_object_new_uint64(l->burst_length ? l->burst_length : 1));
    }
    json_object_object_add(o, "iops-size", json_object_new_uint64(c->iops_size));
    return o;
}

/* --- life ------------------------------------------------------------------------------------------------------- */

static void wake_first(GQueue *q)
{
    if (q->head) {
        co_wake(((struct waiter *)q->head->data)->co);
    }
}

static void reads_may_go(void *opaque)
{
    struct throttle_group *t = opaque;
    wake_first(&t->waiting[0]);
}

static void writes_may_go(void *opaque)
{
    struct throttle_group *t = opaque;
    wake_first(&t->waiting[1]);
}

struct throttle_group *throttle_group_create(struct loop *l, const char *name)
{
    struct throttle_group *t = g_new0(struct throttle_group, 1);
    t->loop = l;
    t->name = g_strdup(name);
    t->refs = 1;
    t->leaked_ns = loop_now_ns();
    timer_init(&t->timers[0], l, reads_may_go, t);
    timer_init(&t->timers[1], l, writes_may_go, t);
    return t;
}

struct throttle_group *throttle_group_ref(struct throttle_group *t)
{
    t->refs++;
    return t;
}

void throttle_group_unref(struct throttle_group *t)
{
    if (!t || --t->refs) {
        return;
    }
    timer_cancel(&t->timers[0]);
    timer_cancel(&t->timers[1]);
    g_free(t->name);
    g_free(t);
}

const char *throttle_group_name(const struct throttle_group *t)
{
    return t->name;
}

const struct throttle_config *throttle_group_get(const struct throttle_group *t)
{
    return &t->config;
}

void throttle_group_set(struct throttle_group *t, const struct throttle_config *c)
{
    t->config = *c;
    memset(t->buckets, 0, sizeof(t->buckets));
    t->leaked_ns = loop_now_ns();
    throttle_group_kick(t);
}

void throttle_group_kick(struct throttle_group *t)
{
    for (int dir = 0; dir < 2; dir++) {
        for (GList *l = t->waiting[dir].head; l; l = l->next) {
            co_wake(((struct waiter *)l->data)->co);
        }
    }
}

/* --- waiting ---------------------------------------------------------------------------------------------------- */

static void leak(struct throttle_group *t)
{
    uint64_t now = loop_now_ns();
    double seconds = (double)(now - t->leaked_ns) / 1e9;
    t->leaked_ns = now;
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        const struct throttle_limit *l = &t->config.limit[i];
        struct bucket *b = &t->buckets[i];
        b->level = MAX(0.0, b->level - (double)l->avg * seconds);
        b->burst_level = MAX(0.0, b->burst_level - (double)l->max * seconds);
    }
}

/* Without a burst a tenth of a second's worth may come at once. */
static double bucket_wait(const struct throttle_limit *l, const struct bucket *b)
{
    if (!l->avg) {
        return 0;
    }
    double holds = l->max ? (double)l->max * (double)l->burst_length : (double)l->avg / 10;
    double extra = b->level - holds;
    if (extra > 0) {
        return extra / (double)l->avg;
    }
    if (l->burst_length > 1) {
        extra = b->burst_level - (double)l->max / 10;
        return extra > 0 ? extra / (double)l->max : 0;
    }
    return 0;
}

static bool bucket_applies(int i, bool is_write)
{
    int kind = i % 3;
    return kind == 0 || kind == (is_write ? 2 : 1);
}

static uint64_t wait_ns(const struct throttle_group *t, bool is_write)
{
    double wait = 0;
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        if (bucket_applies(i, is_write)) {
            wait = MAX(wait, bucket_wait(&t->config.limit[i], &t->buckets[i]));
        }
    }
    return (uint64_t)(wait * 1e9);
}

static void account(struct throttle_group *t, bool is_write, uint64_t bytes)
{
    double ops = 1;
    if (t->config.iops_size && bytes > t->config.iops_size) {
        ops = (double)bytes / (double)t->config.iops_size;
    }
    for (int i = 0; i < THROTTLE_BUCKETS; i++) {
        if (bucket_applies(i, is_write)) {
            double units = i >= THROTTLE_OPS_TOTAL ? ops : (double)bytes;
            t->buckets[i].level += units;
            t->buckets[i].burst_level += units;
        }
    }
}

void throttle_group_wait(struct throttle_group *t, bool is_write, uint64_t bytes, const unsigned *bypass)
{
    GQueue *q = &t->waiting[is_write];
    struct waiter w = {.co = co_self(), .bypass = bypass};
    w.link.data = &w;
    leak(t);
    if (q->head || wait_ns(t, is_write)) {
        g_queue_push_tail_link(q, &w.link);
        while (!*bypass) {
            if (q->head == &w.link) {
                leak(t);
                uint64_t ns = wait_ns(t, is_write);
                if (!ns) {
                    break;
                }
                timer_arm(&t->timers[is_write], loop_now_ns() + ns);
            }
            co_wait();
        }
        g_queue_unlink(q, &w.link);
    }
    account(t, is_write, bytes);
    wake_first(q);
    wake_first(&t->waiting[!is_write]); /* the totals are shared */
}
