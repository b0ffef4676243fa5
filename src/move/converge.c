/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/converge.h"

#include "move/migration.h"

enum {
    SLICE_NS = 10000000, /* that harts run in a row */
    LOOK_NS = 250000000, /* what rounds say is judged together for so long at least */
    TIMES = 2,           /* in a row that they must be found too fast */
};

struct converge {
    struct migration *m;
    unsigned percent, too_fast;
    uint64_t since_ns, dirty, sent;
    struct timer nap;
};

static void lie_down(void *opaque)
{
    struct converge *v = opaque;
    struct vm *vm = v->m->vm;
    uint64_t nap = (uint64_t)SLICE_NS * v->percent / (100 - v->percent);
    vm->accel_ops->nap(vm->accel, loop_now_ns() + nap);
    timer_arm(&v->nap, loop_now_ns() + nap + SLICE_NS);
}

/* What of its time the guest may have without writing more than `bearable` of what it writes now, by tailslow. */
static unsigned step(const struct converge *v, const struct migrate_params *p, uint64_t bearable)
{
    unsigned has = 100 - v->percent, most = p->throttle_increment;
    if (!p->throttle_tailslow || !v->dirty) {
        return most;
    }
    unsigned ideal = (unsigned)((double)has * (double)bearable / (double)v->dirty);
    return CLAMP(has - MIN(ideal, has), 1, most);
}

static void slow_down(struct converge *v, uint64_t bearable)
{
    const struct migrate_params *p = &v->m->params;
    bool first = v->percent == 0;
    v->percent = first ? p->throttle_initial : v->percent + step(v, p, bearable);
    v->percent = MIN(v->percent, p->throttle_max);
    if (first) {
        lie_down(v);
    }
}

void converge_judge(struct migration *m, uint64_t dirty, uint64_t sent)
{
    struct converge *v = m->converge;
    uint64_t now = loop_now_ns();
    if (!m->params.auto_converge) {
        return;
    }
    if (!v) {
        v = m->converge = g_new0(struct converge, 1);
        v->m = m;
        v->since_ns = m->stats.begun_ns + m->stats.setup_ns;
        timer_init(&v->nap, m->vm->loop, lie_down, v);
    }
    v->dirty += dirty;
    v->sent += sent;
    if (now - v->since_ns < LOOK_NS) {
        return;
    }
    uint64_t bearable = v->sent / 100 * m->params.throttle_threshold;
    v->too_fast = v->dirty > bearable ? v->too_fast + 1 : 0;
    if (v->too_fast >= TIMES) {
        v->too_fast = 0;
        slow_down(v, bearable);
    }
    v->since_ns = now;
    v->dirty = v->sent = 0;
}

unsigned converge_percent(const struct migration *m)
{
    return m->converge ? m->converge->percent : 0;
}

void converge_end(struct migration *m)
{
    struct converge *v = take(m->converge);
    if (v) {
        timer_cancel(&v->nap);
        if (v->percent) {
            m->vm->accel_ops->nap(m->vm->accel, 0);
        }
        g_free(v);
    }
}
