/* SPDX-License-Identifier: BSD-2-Clause */
#include "cpu/riscv/rv.h"
#include "cpu/riscv/rv_fp.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "guest/hold.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CACHE_TOTAL   (7u << 20) /* of all harts together */
#define CACHE_MIN     (768u << 10)

#define PAGE_AGAIN_NS 100000000u
#define HELD_LOOK_NS  200000u

static void cond_init_monotonic(pthread_cond_t *c)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(c, &attr);
    pthread_condattr_destroy(&attr);
}

static struct timespec to_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

/* UINT64_MAX: no limit. */
static void wait_until(pthread_cond_t *c, pthread_mutex_t *m, uint64_t ns)
{
    if (ns == UINT64_MAX) {
        pthread_cond_wait(c, m);
    } else {
        struct timespec t = to_timespec(ns);
        pthread_cond_timedwait(c, m, &t);
    }
}

/* --- life --- */

struct rv_hart *rv_hart_create(struct rv_accel *a, unsigned id)
{
    struct rv_hart *h = aligned_alloc(64, round_up(sizeof(*h), 64));
    if (!h) {
        return NULL;
    }
    memset(h, 0, sizeof(*h));
    h->a = a;
    h->id = id;
    h->want_pause = h->paused = true;
    atomic_store(&h->armed, UINT64_MAX);
    pthread_mutex_init(&h->mutex, NULL);
    cond_init_monotonic(&h->cond);
    h->cache = rv_cache_create(max_u64(CACHE_TOTAL / a->n, CACHE_MIN));
    h->tlb = h->tlbs;
    if (!h->cache) {
        rv_hart_destroy(h);
        return NULL;
    }
    memset(h->tlb_used, 1, sizeof(h->tlb_used));
    rv_hart_reset(h);
    return h;
}

void rv_hart_reset(struct rv_hart *h)
{
    memset(h->x, 0, sizeof(h->x));
    memset(h->f, 0, sizeof(h->f));
    h->pc = 0;
    h->instret = 0;
    h->mode = RV_S;
    h->sstatus = 0;
    h->frm = h->host_rm = h->fflags = 0;
    h->sie = h->stvec = h->sscratch = h->sepc = h->scause = h->stval = h->satp = 0;
    h->scounteren = 7; /* cycle, time, instret, as SBI implementations and KVM leave it: Linux' vDSO reads time */
    h->senvcfg = 0;
    h->res_addr = ~0ull;
    h->stimecmp = UINT64_MAX;
    h->stip = h->wfi = h->held = false;
    h->hsm = RV_HSM_STOPPED;
    atomic_fetch_and(&h->irq, RV_IP_SEIP);
    rv_tlb_select(h);
    rv_tlb_flush(h);
    rv_cache_flush(h);
}

void rv_hart_destroy(struct rv_hart *h)
{
    if (!h) {
        return;
    }
    if (h->thread_up) {
        pthread_mutex_lock(&h->mutex);
        h->quit = true;
        pthread_cond_broadcast(&h->cond);
        pthread_mutex_unlock(&h->mutex);
        rv_hart_post(h, RV_ATT_PAUSE);
        pthread_join(h->thread, NULL);
        if (!h->timer_rc) {
            timer_delete(h->timer);
        }
    }
    rv_cache_destroy(h);
    pthread_cond_destroy(&h->cond);
    pthread_mutex_destroy(&h->mutex);
    free(h);
}

/* --- the timer --- */

/*
 * A timer of the kernel for each hart, armed by the hart's thread and told to that thread by a signal: it goes off on
 * the processor on which the hart runs. Another thread that waits in its stead would need a processor itself, and comes
 * late when a long system call has the other one.
 */
static void went_off(int signal, siginfo_t *info, void *context)
{
    if (info->si_code == SI_TIMER) {
        struct rv_hart *h = info->si_value.sival_ptr;
        atomic_store(&h->armed, UINT64_MAX);
        atomic_fetch_or(&h->attention, RV_ATT_IRQ);
    }
}

static int timer_open(struct rv_hart *h)
{
    struct sigaction action = {.sa_sigaction = went_off, .sa_flags = SA_SIGINFO | SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN, .sigev_value.sival_ptr = h};
    event._sigev_un._tid = gettid();
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, SIGRTMIN);
    if (sigaction(SIGRTMIN, &action, NULL) || timer_create(CLOCK_MONOTONIC, &event, &h->timer)) {
        return errno;
    }
    return pthread_sigmask(SIG_UNBLOCK, &own, NULL);
}

/* The hart's thread. A timer that goes off too early makes it look again. */
static void arm(struct rv_hart *h, uint64_t at)
{
    if (at < atomic_load(&h->armed)) {
        struct itimerspec t = {.it_value = to_timespec(max_u64(at, 1))};
        atomic_store(&h->armed, at); /* before: it may go off at once, or the one before may */
        timer_settime(h->timer, TIMER_ABSTIME, &t, NULL);
    }
}

static uint64_t host_deadline(const struct rv_hart *h)
{
    if (h->stimecmp == UINT64_MAX) {
        return UINT64_MAX;
    }
    uint64_t hz = h->a->c.timebase_hz;
    unsigned __int128 ns = ((unsigned __int128)h->stimecmp * 1000000000 + hz - 1) / hz;
    return ns > INT64_MAX ? UINT64_MAX : guest_clock_host_deadline(h->a->c.clock, (uint64_t)ns);
}

void rv_timer_look(struct rv_hart *h)
{
    h->stip = rv_time(h) >= h->stimecmp;
}

void rv_timer_eval(struct rv_hart *h)
{
    rv_timer_look(h);
    arm(h, h->stip ? UINT64_MAX : host_deadline(h));
}

void rv_timer_set(struct rv_hart *h, uint64_t stimecmp)
{
    h->stimecmp = stimecmp;
    rv_timer_eval(h);
    if (h->stip) {
        atomic_fetch_or(&h->attention, RV_ATT_IRQ);
    }
}

/* --- the thread --- */

static void start_if_asked(struct rv_hart *h)
{
    if (h->hsm != RV_HSM_START_PENDING) {
        return;
    }
    h->hsm = RV_HSM_STARTED;
    h->pc = h->start_pc;
    h->x[10] = h->id;
    h->x[11] = h->start_opaque;
    h->satp = 0;
    h->mode = RV_S;
    h->sstatus &= ~RV_SR_SIE;
    h->wfi = false;
    rv_tlb_select(h);
    rv_tlb_flush(h);
}

static uint64_t host_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void wait_for(struct rv_hart *h, uint64_t ns)
{
    wait_until(&h->cond, &h->mutex, host_now() + ns);
}

static bool naps(struct rv_hart *h)
{
    if (h->nap_until && host_now() < h->nap_until) {
        return true;
    }
    h->nap_until = 0;
    return false;
}

/* One reason to sleep, or none; with the mutex held. True: look again. */
static bool rest(struct rv_hart *h)
{
    if (h->want_pause) {
        h->paused = true;
        pthread_cond_broadcast(&h->cond);
        pthread_cond_wait(&h->cond, &h->mutex);
        return true;
    }
    h->paused = false;
    if (h->held && guest_is_held(h->a->c.mem)) {
        wait_for(h, HELD_LOOK_NS);
        return true;
    }
    h->held = false;
    start_if_asked(h);
    if (h->hsm == RV_HSM_STOPPED) {
        pthread_cond_wait(&h->cond, &h->mutex);
        return true;
    }
    if (naps(h)) {
        wait_until(&h->cond, &h->mutex, h->nap_until);
        return true;
    }
    if (h->wfi) {
        rv_timer_look(h);
        if (!(rv_sip(h) & h->sie)) {
            wait_until(&h->cond, &h->mutex, h->stip ? UINT64_MAX : host_deadline(h));
            return true;
        }
        h->wfi = false;
        h->hsm = RV_HSM_STARTED;
        atomic_fetch_or(&h->attention, RV_ATT_IRQ); /* a timer that is due has told nobody */
    }
    return false;
}

/* For pages_waited(). */
static void count_waiting(struct rv_accel *a, bool begins)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&a->pages_mutex);
    if (begins && ++a->pages_waiting == a->n) {
        a->pages_since_ns = host_now();
    } else if (!begins && a->pages_waiting-- == a->n) {
        a->pages_all_ns += host_now() - a->pages_since_ns;
    }
}

static void await_page(struct rv_hart *h)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
    h->awaits_page = true;
    if (!h->want_pause && !h->quit && guest_mem_is_missing(h->a->c.mem, h->trap_tval)) {
        wait_for(h, PAGE_AGAIN_NS);
    }
    h->awaits_page = false;
}

/* Like a sleep: a pause need not wait for a page that cannot be had. */
static void get_page(struct rv_hart *h)
{
    uint64_t since = host_now();
    h->trap_cause = 0;
    count_waiting(h->a, true);
    if (guest_mem_fetch(h->a->c.mem, h->trap_tval) < 0) {
        await_page(h);
    }
    count_waiting(h->a, false);
    atomic_fetch_add(&h->pages_ns, host_now() - since);
}

static void *hart_main(void *opaque)
{
    struct rv_hart *h = opaque;
    int rc = timer_open(h);
    pthread_mutex_lock(&h->mutex);
    h->timer_rc = rc;
    h->timer_tried = true;
    pthread_cond_broadcast(&h->cond);
    while (!h->quit) {
        if (rest(h)) {
            continue;
        }
        pthread_mutex_unlock(&h->mutex);
        rv_timer_eval(h);
        atomic_store(&h->in_guest, true);
        atomic_thread_fence(memory_order_seq_cst); /* whoever sees it false counts on `attention` being read after */
        rv_exec(h);
        atomic_store(&h->in_guest, false);
        if (h->trap_cause == RV_MISSING) {
            get_page(h);
        }
        pthread_mutex_lock(&h->mutex);
    }
    pthread_mutex_unlock(&h->mutex);
    return NULL;
}

int rv_hart_start_thread(struct rv_hart *h, struct err *e)
{
    int rc = pthread_create(&h->thread, NULL, hart_main, h);
    if (rc) {
        return err_set_errno(e, rc, "cannot start the thread of hart %u", h->id);
    }
    h->thread_up = true;
    char name[16];
    snprintf(name, sizeof(name), "hart %u", h->id);
    pthread_setname_np(h->thread, name);
    {
        CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
        while (!h->timer_tried) {
            pthread_cond_wait(&h->cond, &h->mutex);
        }
    }
    return h->timer_rc ? err_set_errno(e, h->timer_rc, "cannot make the timer of hart %u", h->id) : 0;
}

void rv_hart_pause(struct rv_hart *h)
{
    {
        CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
        h->want_pause = true;
    }
    rv_hart_post(h, RV_ATT_PAUSE);
}

void rv_hart_nap(struct rv_hart *h, uint64_t until_ns)
{
    {
        CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
        h->nap_until = until_ns;
    }
    rv_hart_post(h, RV_ATT_PAUSE);
}

void rv_hart_wait_paused(struct rv_hart *h)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
    while (h->thread_up && !h->paused) {
        pthread_cond_wait(&h->cond, &h->mutex);
    }
}

void rv_hart_resume(struct rv_hart *h)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
    h->want_pause = h->paused = false;
    atomic_fetch_or(&h->attention, RV_ATT_IRQ);
    pthread_cond_broadcast(&h->cond);
}

/* --- waking --- */

/* The page is there before the mutex is taken: who then still finds it missing is waiting already. */
void rv_hart_page_came(struct rv_hart *h)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
    if (h->awaits_page) {
        pthread_cond_broadcast(&h->cond);
    }
}

void rv_hart_post(struct rv_hart *h, uint32_t bits)
{
    atomic_fetch_or(&h->attention, bits);
    if (!atomic_load(&h->in_guest)) {
        CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
        pthread_cond_broadcast(&h->cond);
    }
}

void rv_hart_irq(struct rv_hart *h, uint32_t bit, bool level)
{
    if (!level) {
        atomic_fetch_and(&h->irq, ~bit);
    } else if (!(atomic_fetch_or(&h->irq, bit) & bit)) {
        rv_hart_post(h, RV_ATT_IRQ);
    }
}

/* --- requests --- */

void rv_hart_serve_mail(struct rv_hart *h)
{
    struct rv_mail m;
    uint64_t seq;
    {
        CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&h->mutex);
        m = h->mail;
        seq = atomic_load(&h->mail_seq);
        h->mail.fence_i = h->mail.flush_all = h->mail.flush_code = false;
        h->mail.ranges = 0;
    }
    if (m.flush_all) {
        rv_tlb_flush(h);
    }
    for (unsigned i = 0; i < m.ranges && !m.flush_all; i++) {
        rv_tlb_flush_range(h, m.range[i].start, m.range[i].size);
    }
    if (m.flush_code) {
        rv_cache_flush(h);
    } else if (m.fence_i) {
        rv_fence_i(h);
    }
    atomic_store(&h->mail_done, seq);
}

/* A pause on the way to being served by a hart that a loaded host does not run. */
static void relax(unsigned spins)
{
    if (spins > 64) {
        struct timespec t = {.tv_nsec = 20000};
        nanosleep(&t, NULL);
    } else if (spins > 16) {
        sched_yield();
    }
}

void rv_hart_request(struct rv_accel *a, struct rv_hart *self, uint64_t mask,
                     void (*fill)(struct rv_mail *m, const void *arg), const void *arg)
{
    uint64_t ticket[RV_MAX_HARTS];
    for (unsigned i = 0; i < a->n; i++) {
        struct rv_hart *o = a->hart[i];
        if (mask >> i & 1) {
            {
                CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&o->mutex);
                fill(&o->mail, arg);
                ticket[i] = atomic_fetch_add(&o->mail_seq, 1) + 1;
            }
            atomic_fetch_or(&o->attention, RV_ATT_MAIL);
        }
    }
    for (unsigned i = 0; i < a->n && self; i++) {
        struct rv_hart *o = a->hart[i];
        for (unsigned spins = 0; mask >> i & 1 && atomic_load(&o->mail_done) < ticket[i]; spins++) {
            if (o == self || atomic_load(&self->attention) & RV_ATT_MAIL) {
                atomic_fetch_and(&self->attention, ~(uint32_t)RV_ATT_MAIL);
                rv_hart_serve_mail(self);
            } else if (!atomic_load(&o->in_guest)) {
                break;
            } else {
                relax(spins);
            }
        }
    }
}

void rv_hart_drop_write_permission(struct rv_accel *a, const struct rv_hart *except, bool wait)
{
    uint64_t ticket[RV_MAX_HARTS];
    for (unsigned i = 0; i < a->n; i++) {
        struct rv_hart *o = a->hart[i];
        if (o != except) {
            ticket[i] = atomic_fetch_add(&o->wtlb_seq, 1) + 1;
            atomic_fetch_or(&o->attention, RV_ATT_WTLB);
        }
    }
    for (unsigned i = 0; i < a->n && wait; i++) {
        struct rv_hart *o = a->hart[i];
        for (unsigned spins = 0; o != except && atomic_load(&o->in_guest) && atomic_load(&o->wtlb_done) < ticket[i];
             spins++) {
            relax(spins);
        }
    }
}
