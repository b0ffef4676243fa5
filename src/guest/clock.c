/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest/clock.h"

#include <inttypes.h>
#include <time.h>

static int64_t host_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void guest_clock_init(struct guest_clock *c, bool manual)
{
    atomic_init(&c->offset_ns, 0);
    atomic_init(&c->running, false);
    c->manual = manual;
}

uint64_t guest_clock_ns(const struct guest_clock *c)
{
    int64_t off = atomic_load_explicit(&c->offset_ns, memory_order_acquire);
    return (uint64_t)(atomic_load_explicit(&c->running, memory_order_acquire) ? host_ns() + off : off);
}

uint64_t guest_clock_host_deadline(const struct guest_clock *c, uint64_t guest_ns)
{
    if (!atomic_load_explicit(&c->running, memory_order_acquire) || guest_ns > INT64_MAX) {
        return UINT64_MAX;
    }
    int64_t at;
    if (__builtin_sub_overflow((int64_t)guest_ns, atomic_load_explicit(&c->offset_ns, memory_order_acquire), &at)) {
        return UINT64_MAX;
    }
    return at < 0 ? 0 : (uint64_t)at;
}

void guest_clock_start(struct guest_clock *c)
{
    if (c->manual || atomic_load(&c->running)) {
        return;
    }
    atomic_store(&c->offset_ns, atomic_load(&c->offset_ns) - host_ns());
    atomic_store(&c->running, true);
}

void guest_clock_stop(struct guest_clock *c)
{
    if (!atomic_load(&c->running)) {
        return;
    }
    int64_t now = (int64_t)guest_clock_ns(c);
    atomic_store(&c->running, false);
    atomic_store(&c->offset_ns, now);
}

void guest_clock_set(struct guest_clock *c, uint64_t guest_ns)
{
    atomic_store(&c->offset_ns, (int64_t)guest_ns - (atomic_load(&c->running) ? host_ns() : 0));
}

void guest_clock_step(struct guest_clock *c, uint64_t ns)
{
    atomic_fetch_add(&c->offset_ns, (int64_t)ns);
}

/* --- state ------------------------------------------------------------------------------------------------------- */

struct clock_state {
    uint64_t ns;
};

static const struct state_field clock_fields[] = {
    STATE_U64(struct clock_state, ns, .max = INT64_MAX, .help = "nanoseconds that the machine has run"),
    {0},
};

static void clock_get(void *object, void *st)
{
    ((struct clock_state *)st)->ns = guest_clock_ns(object);
}

static int clock_check(void *object, const void *st, struct err *e)
{
    uint64_t ns = ((const struct clock_state *)st)->ns;
    return ns > INT64_MAX ? err_set(e, EINVAL, "the clock cannot read %" PRIu64 " ns", ns) : 0;
}

static void clock_put(void *object, const void *st)
{
    guest_clock_set(object, ((const struct clock_state *)st)->ns);
}

const struct state_section guest_clock_state = {
    .name = "clock",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct clock_state),
    .fields = clock_fields,
    .get = clock_get,
    .check = clock_check,
    .put = clock_put,
};
