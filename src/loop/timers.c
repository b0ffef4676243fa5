/* SPDX-License-Identifier: BSD-2-Clause */
/* A binary heap, soonest first; each timer knows its place. */
#include "loop/impl.h"

#include <glib.h>
#include <stdlib.h>

static void place(struct loop *l, unsigned i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i + 1;
}

static void sift_up(struct loop *l, unsigned i, struct timer *t)
{
    while (i > 0 && t->at_ns < l->heap[(i - 1) / 2]->at_ns) {
        place(l, i, l->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    place(l, i, t);
}

static void sift_down(struct loop *l, unsigned i, struct timer *t)
{
    for (;;) {
        unsigned child = 2 * i + 1;
        if (child + 1 < l->timers && l->heap[child + 1]->at_ns < l->heap[child]->at_ns) {
            child++;
        }
        if (child >= l->timers || l->heap[child]->at_ns >= t->at_ns) {
            place(l, i, t);
            return;
        }
        place(l, i, l->heap[child]);
        i = child;
    }
}

void timer_init(struct timer *t, struct loop *l, void (*fn)(void *opaque), void *opaque)
{
    *t = (struct timer){.loop = l, .fn = fn, .opaque = opaque};
}

bool timer_armed(const struct timer *t)
{
    return t->slot != 0;
}

void timer_arm(struct timer *t, uint64_t at_ns)
{
    struct loop *l = t->loop;
    timer_cancel(t);
    if (l->timers == l->heap_room) {
        l->heap_room = l->heap_room ? 2 * l->heap_room : 16;
        l->heap = realloc(l->heap, l->heap_room * sizeof(struct timer *));
        if (!l->heap) {
            g_error("out of memory for %u timers", l->heap_room);
        }
    }
    t->at_ns = at_ns;
    sift_up(l, l->timers++, t);
}

void timer_cancel(struct timer *t)
{
    if (!t->slot) {
        return;
    }
    struct loop *l = t->loop;
    unsigned i = t->slot - 1;
    t->slot = 0;
    struct timer *last = l->heap[--l->timers];
    if (last == t) {
        return;
    }
    if (i > 0 && last->at_ns < l->heap[(i - 1) / 2]->at_ns) {
        sift_up(l, i, last);
    } else {
        sift_down(l, i, last);
    }
}

uint64_t timers_timeout(const struct loop *l, uint64_t now)
{
    if (!l->timers) {
        return NO_TIMEOUT;
    }
    return l->heap[0]->at_ns > now ? l->heap[0]->at_ns - now : 0;
}

bool timers_run(struct loop *l)
{
    uint64_t now = loop_now_ns();
    bool ran = false;
    /* As many as there are now: one that is always due must not keep the rest of the turn waiting. */
    for (unsigned budget = l->timers; budget && l->timers && l->heap[0]->at_ns <= now; budget--) {
        struct timer *t = l->heap[0];
        timer_cancel(t);
        ran = true;
        t->fn(t->opaque);
    }
    return ran;
}
