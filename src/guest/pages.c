/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Laws of this file:
 * 1. A page's guard bit is what counts; protection by the kernel only catches those who did not look. Bits are set
 *    while the machine is quiesced, and cleared under the mutex.
 * 2. WATCHED: GUARD_WRITE: the page is protected or may become so. A page whose bit is cleared is not protected again
 *    until the freeze: somebody may be about to store.
 * 3. FROZEN: GUARD_WRITE: not taken, not copied, as it was; it is protected. Else a copy: changed, not taken. Neither:
 *    taken.
 * 4. FILLING: GUARD_READ: not there yet. With GUARD_WANTED: it is in `wanted`, too.
 * 5. Who holds the mutex touches no page that could be missing. Guards are allocated once and stay: others may still
 *    look at them after the end.
 */
#include "guest/pages.h"

#include "base/cleanup.h"
#include "base/zero.h"
#include "guest/page_pool.h"
#include "guest/uffd.h"
#include "loop/loop.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif

enum {
    BLOCKS_MAX = 16,
    AHEAD_PAGES = 512, /* protected in one call while the guest runs */
    TAKE_PAGES = 32,   /* taken with the mutex held once */
    SEEN_PAGES = 4,    /* the same where that costs no system call: the guest may be waiting for it */
    PASS_PAGES = 512,
    GAP_PAGES = 8,        /* protected again although they are, rather than calling twice */
    URGENT_PAGES = 16,    /* fetched when the guest needs one */
    GIVE_WAY = 100,       /* looks whether nobody waits any more */
    SLOW_NS = 1000000,    /* what a copy costs when there are too many */
    AGAIN_NS = 100000000, /* until a page that could not be had is asked for again */
    DEFAULT_LIMIT = 64 << 20,
    ASIDE_PIECE = 4 << 20, /* of RAM that was given up: freed at once */
    ASIDE_REST_NS = 1000000,
};

enum { GUARD_WANTED = 4 };
enum state { IDLE, WATCHED, FROZEN, READY, FILLING };

struct block {
    struct guest_ram *ram;
    uint64_t pages;
    uint8_t *guard;
    uint8_t **copy; /* FROZEN */
    uint64_t ahead; /* WATCHED: pages below have been protected once */
};

/* What a device on the loop needs, which the page thread gets. */
struct wanted {
    unsigned block;
    uint64_t page;
};

struct pages {
    struct guest_mem *mem;
    pthread_mutex_t mutex;
    enum state state;
    enum pages_way way;
    bool lost;              /* a copy could not be made */
    unsigned fetching;      /* FILLING: harts that use the source */
    pthread_cond_t fetched; /* it became 0 */
    unsigned n;
    struct block b[BLOCKS_MAX];
    struct uffd uffd;
    _Atomic uint64_t copied, limit;
    _Atomic unsigned storing; /* who waits for the mutex to store */
    struct page_pool pool;    /* the mutex */
    struct pages_source source;
    _Atomic uint64_t missing; /* pages that pages_put() is to bring */
    GPtrArray *tell;          /* struct loop_event *: who is told when pages have come; the mutex */
    GArray *wanted;           /* struct wanted, done with below `wanted_at`; the mutex */
    guint wanted_at;
    uint8_t *urgent_buf, *fill_buf;
    pthread_t thread;
    bool thread_up;
    _Atomic bool quit;
    int word_fd; /* for the page thread: quit, or wanted */
};

static const uint8_t zero_page[GUEST_PAGE_SIZE];

static uint8_t *page_at(const struct block *b, uint64_t page)
{
    return b->ram->host + (page << GUEST_PAGE_BITS);
}

/* --- an access ------------------------------------------------------------------------------------------------------
 */

static void slow_down(struct pages *p)
{
    if (atomic_load(&p->copied) > atomic_load(&p->limit)) {
        nanosleep(&(struct timespec){0, SLOW_NS}, NULL);
    }
}

/* The mutex held. */
static void make_copy(struct pages *p, struct block *b, uint64_t page)
{
    const uint8_t *from = page_at(b, page);
    uint8_t *to = (uint8_t *)zero_page;
    if (!buf_is_zero(from, GUEST_PAGE_SIZE)) {
        to = page_pool_get(&p->pool);
        if (to) {
            memcpy(to, from, GUEST_PAGE_SIZE);
            atomic_fetch_add(&p->copied, GUEST_PAGE_SIZE);
        }
        p->lost |= !to;
    }
    __atomic_store_n(&b->copy[page], to, __ATOMIC_RELAXED);
}

/* Somebody is about to store there. */
static void let_write(struct pages *p, struct block *b, uint64_t page)
{
    atomic_fetch_add(&p->storing, 1);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    atomic_fetch_sub(&p->storing, 1);
    if (p->state != WATCHED && p->state != FROZEN) {
        return;
    }
    if (p->state == FROZEN && b->guard[page]) {
        make_copy(p, b, page);
    }
    __atomic_store_n(&b->guard[page], 0, __ATOMIC_RELEASE);
    if (p->way == PAGES_UFFD) {
        uffd_unprotect(&p->uffd, page_at(b, page), GUEST_PAGE_SIZE);
    }
}

static void on_access(void *opaque, unsigned block, uint64_t page)
{
    struct pages *p = opaque;
    struct block *b = &p->b[block];
    if (__atomic_load_n(&b->guard[page], __ATOMIC_ACQUIRE) & GUARD_READ) {
        (void)*(volatile uint8_t *)page_at(b, page); /* waits for the page thread */
        return;
    }
    let_write(p, b, page);
    if (!loop_current()) { /* the loop is who makes copies fewer */
        slow_down(p);
    }
}

/* --- pages that come ------------------------------------------------------------------------------------------------
 */

/* Pages from `first` on, at most `max`, that are still to come. */
static unsigned missing_run(struct pages *p, const struct block *b, uint64_t first, unsigned max)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    unsigned n = 0;
    while (p->state == FILLING && n < max && first + n < b->pages && b->guard[first + n]) {
        n++;
    }
    return n;
}

/* Pages from `i` on, before `n`, that are still to come and, unless the first is zero, hold something. */
static unsigned like_run(const struct block *b, uint64_t first, unsigned i, unsigned n, const uint8_t *data, bool *zero)
{
    unsigned to = i;
    *zero = buf_is_zero(data + (size_t)i * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE);
    while (to < n && b->guard[first + to] &&
           (to == i || buf_is_zero(data + (size_t)to * GUEST_PAGE_SIZE, GUEST_PAGE_SIZE) == *zero)) {
        to++;
    }
    return to - i;
}

static int install(struct pages *p, struct block *b, uint64_t first, unsigned n, const uint8_t *data)
{
    int rc = 0;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    for (unsigned i = 0, run; rc == 0 && p->state == FILLING && i < n; i += run ? run : 1) {
        bool zero;
        run = like_run(b, first, i, n, data, &zero);
        if (run) {
            uint8_t *to = page_at(b, first + i);
            size_t len = (size_t)run * GUEST_PAGE_SIZE;
            rc = zero ? uffd_zero(&p->uffd, to, len) : uffd_copy(&p->uffd, to, data + (size_t)i * GUEST_PAGE_SIZE, len);
            for (unsigned k = 0; rc == 0 && k < run; k++) {
                __atomic_store_n(&b->guard[first + i + k], 0, __ATOMIC_RELEASE);
            }
        }
    }
    return rc;
}

/* A page that somebody needs now, and those behind it. */
static int bring(struct pages *p, struct block *b, uint64_t page, unsigned n, uint8_t *buf)
{
    const struct pages_source *s = &p->source;
    unsigned block = (unsigned)(b - p->b);
    int rc = s->fetch(s->opaque, block, page, n, buf, true);
    if (rc < 0 && n > 1) {
        n = 1;
        rc = s->fetch(s->opaque, block, page, n, buf, true);
    }
    if (rc < 0) {
        s->failed(s->opaque, block, page, rc);
        return rc;
    }
    return install(p, b, page, n, buf);
}

/* For an access that waits in the kernel. */
static void serve_missing(struct pages *p, struct block *b, uint64_t page)
{
    unsigned n = missing_run(p, b, page, URGENT_PAGES);
    if (n && p->source.want) { /* what brings it wakes him */
        p->source.want(p->source.opaque, (unsigned)(b - p->b), page);
    } else if (n == 0) { /* it came meanwhile, or it never was */
        uffd_zero(&p->uffd, page_at(b, page), GUEST_PAGE_SIZE);
    } else if (bring(p, b, page, n, p->urgent_buf) < 0) { /* the access is tried again, and comes here again */
        nanosleep(&(struct timespec){0, AGAIN_NS}, NULL);
        uffd_wake(&p->uffd, page_at(b, page), GUEST_PAGE_SIZE);
    }
}

/* Keeps the source from going. */
static bool fetch_begin(struct pages *p, const struct block *b, uint64_t page)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    bool missing = p->state == FILLING && b->guard[page];
    p->fetching += missing;
    return missing;
}

static void fetch_end(struct pages *p)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    if (--p->fetching == 0) {
        pthread_cond_broadcast(&p->fetched);
    }
}

static int on_fetch(void *opaque, unsigned block, uint64_t page)
{
    struct pages *p = opaque;
    struct block *b = &p->b[block];
    int rc = 0;
    if (p->source.want) {
        p->source.want(p->source.opaque, block, page);
        return -EAGAIN;
    }
    if (fetch_begin(p, b, page)) {
        unsigned n = missing_run(p, b, page, URGENT_PAGES);
        uint8_t *buf = malloc(URGENT_PAGES * (size_t)GUEST_PAGE_SIZE);
        rc = !buf ? -ENOMEM : n ? bring(p, b, page, n, buf) : 0;
        free(buf);
        fetch_end(p);
    }
    return rc;
}

static void poke_thread(struct pages *p)
{
    uint64_t one = 1;
    (void)!write(p->word_fd, &one, sizeof(one));
}

/* For the loop, the mutex held. */
static void want_later(struct pages *p, unsigned block, uint64_t page)
{
    if (!(p->b[block].guard[page] & GUARD_WANTED)) {
        __atomic_store_n(&p->b[block].guard[page], GUARD_READ | GUARD_WANTED, __ATOMIC_RELEASE);
        g_array_append_val(p->wanted, ((struct wanted){block, page}));
        poke_thread(p);
    }
}

/* Loop thread. */
static bool on_awaits(void *opaque, unsigned block, uint64_t page, struct loop_event *tell)
{
    struct pages *p = opaque;
    if (p->state != FILLING || !__atomic_load_n(&p->b[block].guard[page], __ATOMIC_ACQUIRE)) {
        return false;
    }
    if (p->source.want) {
        p->source.want(p->source.opaque, block, page);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    if (!p->b[block].guard[page]) { /* whoever brought it may have told already */
        return false;
    }
    if (!p->source.want) {
        want_later(p, block, page);
    }
    if (tell && !g_ptr_array_find(p->tell, tell, NULL)) {
        g_ptr_array_add(p->tell, tell);
    }
    return true;
}

static void on_discard(void *opaque, unsigned block, uint64_t page)
{
    struct pages *p = opaque;
    if (p->state == FILLING) {
        pages_put(p, block, page, 1, NULL);
    }
}

static void on_forget(void *opaque, struct loop_event *tell)
{
    struct pages *p = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    while (g_ptr_array_remove_fast(p->tell, tell)) {
    }
}

/* The mutex held. */
static void tell_now(struct pages *p)
{
    for (guint i = 0; i < p->tell->len; i++) {
        loop_event_set(g_ptr_array_index(p->tell, i));
    }
    g_ptr_array_set_size(p->tell, 0);
}

static void tell_all(struct pages *p)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    tell_now(p);
}

/* One of them; after the last, those who wait are to look again. */
static bool next_wanted(struct pages *p, struct wanted *w)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    if (p->wanted_at < p->wanted->len) {
        *w = g_array_index(p->wanted, struct wanted, p->wanted_at++);
        return true;
    }
    if (p->wanted_at) {
        g_array_set_size(p->wanted, p->wanted_at = 0);
        tell_now(p);
    }
    return false;
}

/* Who still needs them asks again: the machine has been asked to stop, so that is when it goes on. */
static void drop_wanted(struct pages *p)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    for (guint i = 0; i < p->wanted->len; i++) {
        const struct wanted *w = &g_array_index(p->wanted, struct wanted, i);
        uint8_t *guard = &p->b[w->block].guard[w->page];
        __atomic_store_n(guard, *guard & (uint8_t)~GUARD_WANTED, __ATOMIC_RELEASE);
    }
    g_array_set_size(p->wanted, p->wanted_at = 0);
}

/* Page thread, between faults of others. False: there is nothing to do. */
static bool serve_wanted(struct pages *p)
{
    struct wanted w;
    if (!next_wanted(p, &w)) {
        return false;
    }
    struct block *b = &p->b[w.block];
    unsigned n = missing_run(p, b, w.page, URGENT_PAGES);
    if (n && bring(p, b, w.page, n, p->urgent_buf) < 0) {
        drop_wanted(p);
        nanosleep(&(struct timespec){0, AGAIN_NS}, NULL);
        tell_all(p);
    }
    return true;
}

int pages_fill(struct pages *p, unsigned block, uint64_t first, unsigned n)
{
    struct block *b = &p->b[block];
    int rc = 0;
    for (unsigned i = 0, run; rc == 0 && i < n; i += run) {
        run = missing_run(p, b, first + i, n - i);
        if (run) {
            rc = p->source.fetch(p->source.opaque, block, first + i, run, p->fill_buf, false);
            rc = rc < 0 ? rc : install(p, b, first + i, run, p->fill_buf);
        }
        run = run ? run : 1;
    }
    return rc;
}

/* --- the page thread ------------------------------------------------------------------------------------------------
 */

static struct block *block_of(struct pages *p, const uint8_t *at)
{
    for (unsigned i = 0; i < p->n; i++) {
        if (at >= p->b[i].ram->host && at < p->b[i].ram->host + p->b[i].ram->size) {
            return &p->b[i];
        }
    }
    return NULL;
}

static void *page_thread(void *opaque)
{
    struct pages *p = opaque;
    struct pollfd fds[] = {{p->uffd.fd, POLLIN, 0}, {p->word_fd, POLLIN, 0}};
    while (!atomic_load(&p->quit)) {
        struct uffd_fault f;
        uint64_t words;
        while (uffd_next(&p->uffd, &f) > 0) {
            struct block *b = block_of(p, f.at);
            uint64_t page = b ? (uint64_t)(f.at - b->ram->host) >> GUEST_PAGE_BITS : 0;
            if (b && f.protected) {
                let_write(p, b, page);
                slow_down(p);
            } else if (b) {
                serve_missing(p, b, page);
            }
        }
        if (!serve_wanted(p)) {
            poll(fds, 2, -1);
            (void)!read(p->word_fd, &words, sizeof(words));
        }
    }
    return NULL;
}

static int thread_start(struct pages *p)
{
    sigset_t all, old;
    p->word_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->word_fd < 0) {
        return -errno;
    }
    atomic_store(&p->quit, false);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = -pthread_create(&p->thread, NULL, page_thread, p);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    p->thread_up = rc == 0;
    return rc;
}

static void thread_stop(struct pages *p)
{
    if (p->thread_up) {
        atomic_store(&p->quit, true);
        poke_thread(p);
        pthread_join(p->thread, NULL);
        p->thread_up = false;
    }
    if (p->word_fd >= 0) {
        close(take_fd(&p->word_fd));
    }
}

/* --- beginning and end ----------------------------------------------------------------------------------------------
 */

static int no_memory(const struct block *b, struct err *e)
{
    return err_set(e, ENOMEM, "RAM '%s': no memory to keep track of its %" G_GUINT64_FORMAT " pages", b->ram->name,
                   b->pages);
}

static int look_at_ram(struct pages *p, struct err *e)
{
    struct guest_ram *r;
    for (p->n = 0; (r = guest_ram_get(p->mem, p->n)); p->n++) {
        struct block *b = &p->b[p->n];
        b->ram = r;
        b->pages = r->size >> GUEST_PAGE_BITS;
        b->ahead = 0;
        if (!b->guard && !(b->guard = calloc(b->pages, 1))) {
            return no_memory(b, e);
        }
    }
    return 0;
}

int pages_check_wish(struct err *e)
{
    const char *env = getenv("STERNA_PAGES");
    bool known = !env || !strcmp(env, "uffd") || !strcmp(env, "user") || !strcmp(env, "soft");
    return known
               ? 0
               : err_set(e, EINVAL, "STERNA_PAGES in the environment is '%s': it can be 'uffd', 'user' or 'soft'", env);
}

static enum pages_way wanted_way(enum pages_way way)
{
    const char *env = getenv("STERNA_PAGES");
    if (way == PAGES_UFFD || way == PAGES_SOFT) {
        return way;
    }
    if (env && (!strcmp(env, "uffd") || !strcmp(env, "user"))) {
        return PAGES_UFFD;
    }
    return way == PAGES_SEEN || (env && !strcmp(env, "soft")) ? PAGES_SOFT : PAGES_AUTO;
}

static enum uffd_mode user_only(void)
{
    const char *env = getenv("STERNA_PAGES");
    return env && !strcmp(env, "user") ? UFFD_USER_ONLY : 0;
}

static int catch_accesses(struct pages *p, enum uffd_mode mode)
{
    int rc = uffd_open(&p->uffd, mode | user_only());
    for (unsigned i = 0; rc == 0 && i < p->n; i++) {
        rc = uffd_register(&p->uffd, p->b[i].ram->host, p->b[i].ram->size, mode);
    }
    return rc < 0 ? rc : thread_start(p);
}

/* The kernel's part ends: it lets everybody go on. */
static void let_go(struct pages *p)
{
    for (unsigned i = 0; i < p->n && p->uffd.fd >= 0; i++) {
        uffd_unregister(&p->uffd, p->b[i].ram->host, p->b[i].ram->size);
    }
    thread_stop(p);
    uffd_close(&p->uffd);
}

static void publish(struct pages *p, uint8_t bits)
{
    for (unsigned i = 0; i < p->n; i++) {
        memset(p->b[i].guard, bits, p->b[i].pages);
        atomic_store(&p->b[i].ram->guard, p->b[i].guard);
    }
}

void pages_end(struct pages *p)
{
    if (p->state != IDLE) {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
        p->state = IDLE;
        while (p->fetching) {
            pthread_cond_wait(&p->fetched, &p->mutex);
        }
        for (unsigned i = 0; i < p->n; i++) {
            atomic_store(&p->b[i].ram->guard, NULL);
            atomic_store(&p->b[i].ram->store_guard, NULL);
            memset(p->b[i].guard, 0, p->b[i].pages);
        }
    }
    let_go(p);
    for (unsigned i = 0; i < p->n; i++) {
        for (uint64_t k = 0; p->b[i].copy && k < p->b[i].pages; k++) {
            if (p->b[i].copy[k] != zero_page) {
                free(p->b[i].copy[k]);
            }
        }
        free(take(p->b[i].copy));
    }
    page_pool_empty(&p->pool);
    free(take(p->urgent_buf));
    free(take(p->fill_buf));
    p->source = (struct pages_source){0};
    g_array_set_size(p->wanted, p->wanted_at = 0);
    tell_all(p);
    atomic_store(&p->copied, 0);
    p->lost = false;
}

struct pages *pages_create(struct guest_mem *mem)
{
    struct pages *p = g_new0(struct pages, 1);
    p->mem = mem;
    pthread_mutex_init(&p->mutex, NULL);
    p->uffd.fd = p->word_fd = -1;
    atomic_store(&p->limit, DEFAULT_LIMIT);
    pthread_cond_init(&p->fetched, NULL);
    p->tell = g_ptr_array_new();
    p->wanted = g_array_new(false, false, sizeof(struct wanted));
    guest_mem_set_watcher(mem, &(struct guest_mem_watcher){on_access, on_fetch, on_awaits, on_discard, on_forget, p});
    return p;
}

void pages_destroy(struct pages *p)
{
    if (!p) {
        return;
    }
    pages_end(p);
    for (unsigned i = 0; i < p->n; i++) {
        free(p->b[i].guard);
    }
    g_ptr_array_unref(p->tell);
    g_array_unref(p->wanted);
    guest_mem_set_watcher(p->mem, &(struct guest_mem_watcher){0});
    pthread_cond_destroy(&p->fetched);
    pthread_mutex_destroy(&p->mutex);
    g_free(p);
}

enum pages_way pages_way(const struct pages *p)
{
    return p->way;
}

void pages_set_limit(struct pages *p, uint64_t bytes)
{
    atomic_store(&p->limit, bytes);
}

uint64_t pages_copied(struct pages *p)
{
    return atomic_load(&p->copied);
}

/* --- keeping --------------------------------------------------------------------------------------------------------
 */

int pages_watch(struct pages *p, enum pages_way way, struct err *e)
{
    int rc = look_at_ram(p, e);
    if (rc < 0) {
        return rc;
    }
    for (unsigned i = 0; i < p->n; i++) {
        if (!(p->b[i].copy = calloc(p->b[i].pages, sizeof(uint8_t *)))) {
            rc = no_memory(&p->b[i], e);
            pages_end(p);
            return rc;
        }
    }
    way = wanted_way(way);
    p->way = PAGES_SOFT;
    if (way != PAGES_SOFT) {
        rc = catch_accesses(p, UFFD_WRITES);
        if (rc < 0 && way == PAGES_UFFD) {
            pages_end(p);
            return err_set(e, -rc, "userfaultfd cannot be used: %s", g_strerror(-rc));
        }
        p->way = rc < 0 ? PAGES_SOFT : PAGES_UFFD;
        if (rc < 0) {
            let_go(p);
        }
    }
    p->state = WATCHED;
    publish(p, p->way == PAGES_UFFD ? GUARD_WRITE : 0);
    return 0;
}

static void protect_piece(struct pages *p, struct block *b, uint64_t first, uint64_t end)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    b->ahead = end;
    for (uint64_t from = first, to; p->state == WATCHED && from < end; from = to + 1) {
        for (to = from; to < end && b->guard[to]; to++) {
        }
        if (to > from && uffd_protect(&p->uffd, page_at(b, from), (to - from) << GUEST_PAGE_BITS) < 0) {
            memset(b->guard + from, 0, to - from); /* the freeze tries again */
        }
    }
}

void pages_protect_ahead(struct pages *p)
{
    for (unsigned i = 0; p->way == PAGES_UFFD && i < p->n; i++) {
        struct block *b = &p->b[i];
        for (uint64_t at = 0; at < b->pages; at += AHEAD_PAGES) {
            protect_piece(p, b, at, MIN(at + AHEAD_PAGES, b->pages));
        }
    }
}

/* All that is not protected, in few calls. */
static int protect_rest(struct pages *p, struct block *b)
{
    int rc = b->ahead == b->pages
                 ? 0
                 : uffd_protect(&p->uffd, page_at(b, b->ahead), (b->pages - b->ahead) << GUEST_PAGE_BITS);
    const uint8_t *end = b->guard + b->ahead;
    for (const uint8_t *g = b->guard; rc == 0 && g < end && (g = memchr(g, 0, (size_t)(end - g)));) {
        const uint8_t *last = g; /* of the pages without protection in this call */
        for (const uint8_t *i = g; i < end && i - last <= GAP_PAGES; i++) {
            last = *i ? last : i;
        }
        rc = uffd_protect(&p->uffd, page_at(b, (uint64_t)(g - b->guard)), (size_t)(last + 1 - g) << GUEST_PAGE_BITS);
        g = last + 1;
    }
    return rc;
}

int pages_freeze(struct pages *p, struct err *e)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    for (unsigned i = 0; p->way == PAGES_UFFD && i < p->n; i++) {
        int rc = protect_rest(p, &p->b[i]);
        if (rc < 0) {
            return err_set(e, -rc, "RAM '%s' cannot be protected: %s", p->b[i].ram->name, g_strerror(-rc));
        }
    }
    p->state = FROZEN;
    publish(p, GUARD_WRITE);
    for (unsigned i = 0; p->way == PAGES_SOFT && i < p->n; i++) {
        atomic_store(&p->b[i].ram->store_guard, p->b[i].guard);
    }
    return 0;
}

static void drop_copy(struct pages *p, struct block *b, uint64_t page)
{
    if (b->copy[page] != zero_page) {
        page_pool_put(&p->pool, b->copy[page]);
        atomic_fetch_sub(&p->copied, GUEST_PAGE_SIZE);
    }
    __atomic_store_n(&b->copy[page], NULL, __ATOMIC_RELAXED);
}

/* The mutex held. */
static enum pages_taken take_page(struct pages *p, struct block *b, uint64_t page, uint8_t *to)
{
    bool mine = b->guard[page];
    const uint8_t *from = mine ? page_at(b, page) : b->copy[page];
    if (!from) {
        return PAGE_TAKEN_BEFORE;
    }
    bool zero = from == zero_page || buf_is_zero(from, GUEST_PAGE_SIZE);
    if (!zero) {
        memcpy(to, from, GUEST_PAGE_SIZE);
    }
    if (!mine) {
        drop_copy(p, b, page);
    }
    __atomic_store_n(&b->guard[page], 0, __ATOMIC_RELEASE);
    return zero ? PAGE_ZERO : PAGE_DATA;
}

/* Who has just let go of the mutex would mostly have it again before one who slept for it is awake. */
static void give_way(struct pages *p)
{
    for (unsigned i = 0; i < GIVE_WAY && atomic_load(&p->storing); i++) {
        sched_yield();
    }
}

int pages_take(struct pages *p, unsigned block, uint64_t first, unsigned n, uint8_t *buf, uint8_t *what)
{
    struct block *b = &p->b[block];
    for (unsigned i = 0, part; i < n; i += part) {
        part = MIN(n - i, p->way == PAGES_UFFD ? TAKE_PAGES : SEEN_PAGES);
        give_way(p);
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
        if (p->lost) {
            return -ENOMEM;
        }
        for (unsigned k = i; k < i + part; k++) {
            what[k] = (uint8_t)take_page(p, b, first + k, buf + (size_t)k * GUEST_PAGE_SIZE);
        }
        if (p->way == PAGES_UFFD) {
            uffd_unprotect(&p->uffd, page_at(b, first + i), (size_t)part << GUEST_PAGE_BITS);
        }
    }
    return 0;
}

void pages_pass(struct pages *p, unsigned block, uint64_t first, uint64_t n)
{
    struct block *b = &p->b[block];
    for (uint64_t i = first; i < first + n; i += PASS_PAGES) {
        uint64_t to = MIN(i + PASS_PAGES, first + n);
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
        for (uint64_t k = i; k < to; k++) {
            if (b->copy[k]) {
                drop_copy(p, b, k);
            }
            __atomic_store_n(&b->guard[k], 0, __ATOMIC_RELEASE);
        }
        if (p->way == PAGES_UFFD) {
            uffd_unprotect(&p->uffd, page_at(b, i), (to - i) << GUEST_PAGE_BITS);
        }
    }
}

bool pages_next_copy(struct pages *p, unsigned *block, uint64_t *page)
{
    for (; *block < p->n; ++*block, *page = 0) {
        for (const struct block *b = &p->b[*block]; *page < b->pages; ++*page) {
            if (__atomic_load_n(&b->copy[*page], __ATOMIC_RELAXED)) {
                return true;
            }
        }
    }
    return false;
}

/* --- filling --------------------------------------------------------------------------------------------------------
 */

/* Memory that is locked (-overcommit mem-lock=on) takes another word for it, since Linux 5.18. */
static int give_up(void *at, size_t len)
{
    return madvise(at, len, MADV_DONTNEED) == 0 ? 0 : madvise(at, len, MADV_DONTNEED_LOCKED);
}

static bool can_give_up_locked(void)
{
    void *p = mmap(NULL, GUEST_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        return false;
    }
    bool can = mlock(p, GUEST_PAGE_SIZE) < 0 || give_up(p, GUEST_PAGE_SIZE) == 0; /* who cannot lock has not */
    munmap(p, GUEST_PAGE_SIZE);
    return can;
}

bool pages_can_fill(struct pages *p)
{
    struct uffd u;
    const struct guest_ram *r;
    for (unsigned i = 0; (r = guest_ram_get(p->mem, i)); i++) {
        if (r->of_file) {
            return false;
        }
    }
    bool can =
        wanted_way(PAGES_AUTO) != PAGES_SOFT && can_give_up_locked() && uffd_open(&u, UFFD_MISSES | user_only()) == 0;
    if (can) {
        uffd_close(&u);
    }
    return can;
}

int pages_prepare_fill(struct pages *p, const struct pages_source *s, struct err *e)
{
    int rc = look_at_ram(p, e);
    if (rc < 0) {
        return rc;
    }
    p->source = *s;
    p->urgent_buf = malloc(URGENT_PAGES * (size_t)GUEST_PAGE_SIZE);
    p->fill_buf = malloc(PAGES_FILL_MAX * (size_t)GUEST_PAGE_SIZE);
    p->state = READY;
    rc = p->urgent_buf && p->fill_buf ? catch_accesses(p, UFFD_MISSES) : -ENOMEM;
    if (rc < 0) {
        pages_end(p);
        return err_set(e, -rc, "RAM cannot come by and by: %s", g_strerror(-rc));
    }
    return 0;
}

struct aside {
    void *at;
    size_t size;
};

/*
 * In pieces, with rests: freeing holds the lock of the address space, on which whoever maps anything waits, and behind
 * him everybody whose page is missing; and the guest wants the processors most just now.
 */
static void *free_aside(void *opaque)
{
    struct aside *a = opaque;
    for (size_t at = 0; at < a->size; at += ASIDE_PIECE) {
        nanosleep(&(struct timespec){0, ASIDE_REST_NS}, NULL);
        give_up((uint8_t *)a->at + at, MIN(ASIDE_PIECE, a->size - at));
    }
    munmap(a->at, a->size);
    g_free(a);
    return NULL;
}

/*
 * The guest stands still meanwhile, and to free a GiB takes the kernel tens of milliseconds: what is there is moved
 * away at once and freed by a thread of its own.
 */
static void empty_block(uint8_t *host, size_t size)
{
    pthread_t t;
    void *at = mremap(host, size, size, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    if (at == MAP_FAILED) {
        give_up(host, size);
        return;
    }
    struct aside *a = g_new(struct aside, 1);
    *a = (struct aside){at, size};
    if (pthread_create(&t, NULL, free_aside, a) == 0) {
        pthread_detach(t);
    } else {
        munmap(a->at, a->size);
        g_free(a);
    }
}

void pages_empty(struct pages *p)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    p->way = PAGES_UFFD;
    p->state = FILLING;
    publish(p, GUARD_READ);
    guest_ram_used(p->mem);
    for (unsigned i = 0; i < p->n; i++) {
        empty_block(p->b[i].ram->host, p->b[i].ram->size);
    }
}

/* --- filling gaps ---------------------------------------------------------------------------------------------------
 */

static int open_gaps(struct pages *p, struct block *b, const uint8_t *missing, struct err *e)
{
    for (uint64_t i = 0, to; i < b->pages; i = to) {
        bool gone = missing[i];
        for (to = i; to < b->pages && !missing[to] == !gone; to++) {
        }
        if (gone && give_up(page_at(b, i), (to - i) << GUEST_PAGE_BITS) < 0) {
            return err_set_errno(e, errno, "RAM '%s' cannot be given up", b->ram->name);
        }
        memset(b->guard + i, gone ? GUARD_READ : 0, to - i);
        atomic_fetch_add(&p->missing, gone ? to - i : 0);
    }
    return 0;
}

int pages_fill_gaps(struct pages *p, const struct pages_source *s, uint8_t *const *missing, struct err *e)
{
    int rc = look_at_ram(p, e);
    if (rc < 0) {
        return rc;
    }
    p->source = *s;
    p->way = PAGES_UFFD;
    p->state = READY;
    atomic_store(&p->missing, 0);
    for (unsigned i = 0; rc == 0 && i < p->n; i++) {
        rc = open_gaps(p, &p->b[i], missing[i], e);
    }
    p->state = rc == 0 ? FILLING : READY;
    if (rc == 0 && (rc = catch_accesses(p, UFFD_MISSES)) < 0) {
        err_set(e, -rc, "RAM cannot come by and by: %s", g_strerror(-rc));
    }
    if (rc < 0) {
        pages_end(p);
        return rc;
    }
    for (unsigned i = 0; i < p->n; i++) {
        atomic_store(&p->b[i].ram->guard, p->b[i].guard);
    }
    return 0;
}

/* The mutex held; all of them are still to come. */
static int put_run(struct pages *p, struct block *b, uint64_t first, unsigned run, const uint8_t *data)
{
    size_t len = (size_t)run * GUEST_PAGE_SIZE;
    uint8_t *to = page_at(b, first);
    int rc = data ? uffd_copy(&p->uffd, to, data, len) : uffd_zero(&p->uffd, to, len);
    for (unsigned k = 0; rc == 0 && k < run; k++) {
        __atomic_store_n(&b->guard[first + k], 0, __ATOMIC_RELEASE);
    }
    return rc;
}

static int put_all(struct pages *p, struct block *b, uint64_t first, unsigned n, const uint8_t *data)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    unsigned came = 0;
    int rc = 0;
    for (unsigned i = 0, to; rc == 0 && p->state == FILLING && i < n; i = MAX(to, i + 1)) {
        for (to = i; to < n && b->guard[first + to]; to++) {
        }
        if (to > i) {
            rc = put_run(p, b, first + i, to - i, data ? data + (size_t)i * GUEST_PAGE_SIZE : NULL);
            came += rc == 0 ? to - i : 0;
        }
    }
    if (p->source.want) {
        atomic_fetch_sub(&p->missing, came);
    }
    return rc < 0 ? rc : (int)came;
}

uint64_t pages_missing(const struct pages *p)
{
    return atomic_load(&p->missing);
}

int pages_put(struct pages *p, unsigned block, uint64_t first, unsigned n, const uint8_t *data)
{
    int rc = put_all(p, &p->b[block], first, n, data);
    tell_all(p);
    return rc;
}
