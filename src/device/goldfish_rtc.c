/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/goldfish_rtc.h"

#include "base/cleanup.h"
#include "guest/hold.h"
#include "loop/co.h"

#include <time.h>

enum { R_TIME_LOW, R_TIME_HIGH, R_ALARM_LOW, R_ALARM_HIGH, R_IRQ_ENABLED, R_CLEAR_ALARM, R_ALARM_STATUS, R_CLEAR_IRQ };

struct goldfish_rtc {
    struct board *board;
    uint64_t gpa;
    struct irq_line irq;
    pthread_mutex_t mutex;
    /* guest state */
    uint64_t offset_ns; /* time of day - guest clock */
    uint64_t alarm_ns;
    uint32_t time_high, alarm_high;
    bool armed, irq_enabled, irq_pending;
    /* what of it the state file keeps */
    int64_t ahead_ns;   /* of the host's time, when the guest set it */
    int64_t kept_ns;    /* the same, as it is written down */
    uint64_t unkept_ns; /* what was added to offset_ns and is not written down yet */
    bool holding;       /* the harts, meanwhile */
    /* host state */
    bool keeping; /* a coroutine does */
    struct co_queue idle;
    struct loop_event *set;
    struct timer timer;
    struct loop_event *rearm;
};

static uint64_t now(struct goldfish_rtc *r)
{
    return guest_clock_ns(r->board->clock) + r->offset_ns;
}

static void update_irq(struct goldfish_rtc *r)
{
    irq_set(&r->irq, r->irq_pending && r->irq_enabled);
}

/* Fires an alarm that is due; arms the timer for one that is not. Loop thread. */
static void check_alarm(void *opaque)
{
    struct goldfish_rtc *r = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
    timer_cancel(&r->timer);
    if (!r->armed) {
        return;
    }
    if (now(r) >= r->alarm_ns) {
        r->armed = false;
        r->irq_pending = true;
        update_irq(r);
        return;
    }
    uint64_t host = guest_clock_host_deadline(r->board->clock, r->alarm_ns - r->offset_ns);
    if (host != UINT64_MAX) {
        timer_arm(&r->timer, host);
    }
}

/* --- setting it ----------------------------------------------------------------------------------------------------
 */

static uint64_t host_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The mutex held. */
static void set_time(struct goldfish_rtc *r, uint64_t t)
{
    uint64_t change = t - now(r);
    r->offset_ns += change;
    r->unkept_ns += change;
    r->ahead_ns = (int64_t)(t - host_now());
    if (!r->holding) {
        r->holding = true;
        guest_hold(r->board->mem);
    }
    loop_event_set(r->set);
}

static void tell_change(struct goldfish_rtc *r, int64_t ahead)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "offset", json_object_new_int64(ahead / 1000000000));
    json_object_object_add(o, "qom-path", json_object_new_string("/machine/rtc"));
    event_emit(r->board->bus, "RTC_CHANGE", o);
}

/* One change is written down or taken back; false: there was another meanwhile. */
static bool keep_once(struct goldfish_rtc *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct board *b = r->board;
    int64_t ahead = goldfish_rtc_ahead(r);
    int rc = b->changed(b->opaque, &e);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
    if (rc < 0) {
        log_warn(b->log, "/machine/rtc: the time that the guest wants is refused: %s", err_text(&e));
        r->offset_ns -= r->unkept_ns;
        r->ahead_ns = r->kept_ns;
    } else if (r->ahead_ns != ahead) {
        return false;
    } else {
        r->kept_ns = ahead;
    }
    r->unkept_ns = 0;
    r->holding = false;
    guest_let_go(b->mem);
    return true;
}

static void keep(void *arg)
{
    struct goldfish_rtc *r = arg;
    int64_t kept = r->kept_ns;
    while (!keep_once(r)) {
    }
    check_alarm(r);
    if (r->kept_ns != kept) {
        tell_change(r, r->kept_ns);
    }
    r->keeping = false;
    co_queue_wake_all(&r->idle);
}

static void on_set(void *opaque)
{
    struct goldfish_rtc *r = opaque;
    bool held;
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
        held = r->holding;
    }
    if (held && !r->keeping) {
        r->keeping = true;
        co_start(r->board->loop, keep, r);
    }
}

void goldfish_rtc_set_ahead(struct goldfish_rtc *r, int64_t ns)
{
    r->offset_ns += (uint64_t)ns - (uint64_t)r->ahead_ns;
    r->ahead_ns = r->kept_ns = ns;
}

int64_t goldfish_rtc_ahead(struct goldfish_rtc *r)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
    return r->ahead_ns;
}

/* --- registers -----------------------------------------------------------------------------------------------------
 */

void goldfish_rtc_clock_changed(struct goldfish_rtc *r)
{
    check_alarm(r);
}

static uint64_t rtc_read(void *opaque, uint64_t off, unsigned size)
{
    struct goldfish_rtc *r = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
    switch (off / 4) {
    case R_TIME_LOW: {
        uint64_t t = now(r);
        r->time_high = (uint32_t)(t >> 32);
        return (uint32_t)t;
    }
    case R_TIME_HIGH:
        return r->time_high;
    case R_ALARM_LOW:
        return (uint32_t)r->alarm_ns;
    case R_ALARM_HIGH:
        return (uint32_t)(r->alarm_ns >> 32);
    case R_IRQ_ENABLED:
        return r->irq_enabled;
    case R_ALARM_STATUS:
        return r->armed;
    default:
        return 0;
    }
}

static void rtc_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct goldfish_rtc *r = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
    switch (off / 4) {
    case R_TIME_LOW:
        set_time(r, (uint64_t)r->time_high << 32 | (uint32_t)val);
        break;
    case R_TIME_HIGH:
        r->time_high = (uint32_t)val;
        return;
    case R_ALARM_LOW:
        r->alarm_ns = (uint64_t)r->alarm_high << 32 | (uint32_t)val;
        r->armed = true;
        break;
    case R_ALARM_HIGH:
        r->alarm_high = (uint32_t)val;
        return;
    case R_IRQ_ENABLED:
        r->irq_enabled = val & 1;
        update_irq(r);
        return;
    case R_CLEAR_ALARM:
        r->armed = false;
        break;
    case R_CLEAR_IRQ:
        r->irq_pending = false;
        update_irq(r);
        return;
    default:
        return;
    }
    loop_event_set(r->rearm);
}

static const struct mmio_ops rtc_ops = {rtc_read, rtc_write, 4, 4};

struct goldfish_rtc *goldfish_rtc_create(struct board *b, uint64_t gpa, struct irq_line irq, struct err *e)
{
    struct goldfish_rtc *r = g_new0(struct goldfish_rtc, 1);
    r->board = b;
    r->gpa = gpa;
    r->irq = irq;
    r->offset_ns = host_now() - guest_clock_ns(b->clock);
    pthread_mutex_init(&r->mutex, NULL);
    timer_init(&r->timer, b->loop, check_alarm, r);
    r->rearm = loop_event_create(b->loop, check_alarm, r);
    r->set = loop_event_create(b->loop, on_set, r);
    const struct mmio_region region = {"rtc", gpa, 0x1000, &rtc_ops, r};
    if (mmio_add(b->mem, &region, e) < 0) {
        r->gpa = 0;
        goldfish_rtc_destroy(r);
        return NULL;
    }
    return r;
}

void goldfish_rtc_destroy(struct goldfish_rtc *r)
{
    if (!r) {
        return;
    }
    if (r->gpa) {
        mmio_remove(r->board->mem, &rtc_ops, r, r->gpa);
    }
    loop_event_destroy(r->set);
    while (r->keeping) {
        co_queue_wait(&r->idle);
    }
    timer_cancel(&r->timer);
    loop_event_destroy(r->rearm);
    pthread_mutex_destroy(&r->mutex);
    g_free(r);
}

void goldfish_rtc_reset(struct goldfish_rtc *r)
{
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
        r->armed = r->irq_enabled = r->irq_pending = false;
        r->alarm_ns = 0;
        r->alarm_high = r->time_high = 0;
        update_irq(r);
    }
    timer_cancel(&r->timer);
}

/* --- state ------------------------------------------------------------------------------------------------------- */

struct rtc_state {
    uint64_t offset_ns, alarm_ns;
    int64_t ahead_ns;
    uint32_t time_high, alarm_high;
    bool armed, irq_enabled, irq_pending;
};

static const struct state_field fields[] = {
    STATE_U64(struct rtc_state, offset_ns, .help = "time of day less the machine's clock"),
    STATE_U64(struct rtc_state, alarm_ns, .help = "time of day"),
    STATE_U32(struct rtc_state, time_high, .help = "latched when TIME_LOW was read, or written"),
    STATE_U32(struct rtc_state, alarm_high),
    STATE_BOOL(struct rtc_state, armed),
    STATE_BOOL(struct rtc_state, irq_enabled),
    STATE_BOOL(struct rtc_state, irq_pending),
    STATE_I64(struct rtc_state, ahead_ns, .flags = STATE_ANCILLARY,
              .help = "by which the guest has set it ahead of its host's: what a state file keeps"),
    {0},
};
static const char *const derived[] = {"timer", "irq", NULL};

static void state_get(void *object, void *st)
{
    struct goldfish_rtc *r = object;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
    *(struct rtc_state *)st = (struct rtc_state){r->offset_ns,  r->alarm_ns, r->ahead_ns,    r->time_high,
                                                 r->alarm_high, r->armed,    r->irq_enabled, r->irq_pending};
}

static void state_put(void *object, const void *st)
{
    struct goldfish_rtc *r = object;
    const struct rtc_state *s = st;
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&r->mutex);
        r->offset_ns = s->offset_ns;
        r->alarm_ns = s->alarm_ns;
        r->ahead_ns = r->kept_ns = s->ahead_ns;
        r->time_high = s->time_high;
        r->alarm_high = s->alarm_high;
        r->armed = s->armed;
        r->irq_enabled = s->irq_enabled;
        r->irq_pending = s->irq_pending;
        update_irq(r);
    }
    check_alarm(r);
}

const struct state_section goldfish_rtc_state = {
    .name = "goldfish-rtc",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct rtc_state),
    .fields = fields,
    .derived = derived,
    .get = state_get,
    .put = state_put,
};
