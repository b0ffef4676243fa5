/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Laws of this file:
 * 1. RAM blocks are added before the first hart runs, sorted by address, and never change afterwards.
 * 2. A window table is immutable once published. Readers announce themselves in the counter of the current phase,
 *    then load the table; writers publish a new one under the mutex and put the old one on the list of the phase.
 * 3. The phase flips only when nobody reads in the other phase; a table is freed when the phase flips back to the
 *    one it was retired in, so every reader that could hold it has left. Writers never wait: a window's own write
 *    callback may move windows.
 * 4. A DMA write stores first and looks at dirt and code marks afterwards; the harts set a code mark first and read
 *    the bytes afterwards. Either the hart decodes the new bytes or the write sees the mark.
 */
#include "guest/mem.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "guest/hold.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define RAM_MAX 16

struct mmio_table {
    struct mmio_table *retired_next;
    size_t n;
    struct mmio_region r[]; /* by address */
};

struct guest_mem {
    struct guest_ram ram[RAM_MAX]; /* by address */
    char *ram_name[RAM_MAX];
    uint8_t *dirty_store[RAM_MAX]; /* kept once allocated: a hart may still hold the pointer after the log stops */
    unsigned ram_n;

    pthread_mutex_t mutex; /* writers of the table and of the log */
    unsigned dirty_for;    /* bits of enum guest_dirty: it is on for these */
    _Atomic(struct mmio_table *) mmio;
    _Atomic unsigned phase;
    _Atomic unsigned readers[2];
    struct mmio_table *retired[2];

    struct guest_mem_watcher watcher;
    _Atomic unsigned held; /* guest/hold.h */

    void (*code_hook)(void *opaque, uint64_t gpa, uint64_t len);
    void *code_opaque;
};

struct guest_mem *guest_mem_create(void)
{
    struct guest_mem *m = g_new0(struct guest_mem, 1);
    pthread_mutex_init(&m->mutex, NULL);
    atomic_init(&m->mmio, g_malloc0(sizeof(struct mmio_table)));
    return m;
}

void guest_hold(struct guest_mem *m)
{
    atomic_fetch_add(&m->held, 1);
}

void guest_let_go(struct guest_mem *m)
{
    atomic_fetch_sub(&m->held, 1);
}

bool guest_is_held(const struct guest_mem *m)
{
    return atomic_load_explicit(&m->held, memory_order_acquire) != 0;
}

static void tables_free(struct mmio_table *t)
{
    while (t) {
        struct mmio_table *next = t->retired_next;
        g_free(t);
        t = next;
    }
}

void guest_mem_destroy(struct guest_mem *m)
{
    if (!m) {
        return;
    }
    for (unsigned i = 0; i < m->ram_n; i++) {
        munmap(m->ram[i].host - GUEST_PAGE_SIZE, m->ram[i].size + 2 * GUEST_PAGE_SIZE);
        g_free(m->ram[i].code);
        g_free(m->ram_name[i]);
        g_free(m->dirty_store[i]);
    }
    tables_free(m->retired[0]);
    tables_free(m->retired[1]);
    g_free(atomic_load(&m->mmio));
    pthread_mutex_destroy(&m->mutex);
    g_free(m);
}

/* Between two inaccessible pages: a stray access stops there, and the kernel does not merge the mapping with its
 * neighbours, so that the guest's RAM can be told from the program's own memory from outside. Where large pages begin:
 * fewer faults, and a large page is protected at once when the machine is saved. */
static uint8_t *map_guarded(const struct memory_policy *p, const char *name, uint64_t size, struct err *e)
{
    uint8_t *host = memory_map(p, size, GUEST_PAGE_SIZE);
    if (!host) {
        err_set_errno(e, errno, "cannot set up guest memory '%s' of %" PRIu64 " MiB", name, size >> 20);
        return NULL;
    }
    madvise(host, size, MADV_HUGEPAGE);
    int rc = p->prealloc ? memory_populate(p, host, size) : 0;
    if (rc < 0) {
        munmap(host - GUEST_PAGE_SIZE, size + 2 * GUEST_PAGE_SIZE);
        err_set_errno(e, -rc, "preallocating guest memory '%s' of %" PRIu64 " MiB failed", name, size >> 20);
        return NULL;
    }
    return host;
}

int guest_ram_add(struct guest_mem *m, const char *name, uint64_t gpa, uint64_t size, struct err *e)
{
    return guest_ram_add_as(m, &(struct memory_policy){0}, name, gpa, size, e);
}

void guest_ram_used(struct guest_mem *m)
{
    for (unsigned i = 0; i < m->ram_n; i++) {
        m->ram[i].spare = false;
    }
}

int guest_ram_add_as(struct guest_mem *m, const struct memory_policy *p, const char *name, uint64_t gpa, uint64_t size,
                     struct err *e)
{
    uint64_t end;
    if (!size || (gpa | size) & (GUEST_PAGE_SIZE - 1) || !add_ok(gpa, size, &end)) {
        return err_set(e, EINVAL, "RAM '%s': %#" PRIx64 "+%#" PRIx64 " is not a range of whole pages", name, gpa, size);
    }
    if (m->ram_n == RAM_MAX) {
        return err_set(e, ENOSPC, "RAM '%s': no more than %d blocks are possible", name, RAM_MAX);
    }
    unsigned at = 0;
    for (unsigned i = 0; i < m->ram_n; i++) {
        if (ranges_overlap(gpa, size, m->ram[i].gpa, m->ram[i].size)) {
            return err_set(e, EEXIST, "RAM '%s' overlaps '%s'", name, m->ram[i].name);
        }
        at += m->ram[i].gpa < gpa;
    }
    const struct mmio_table *t = atomic_load(&m->mmio);
    for (size_t i = 0; i < t->n; i++) {
        if (ranges_overlap(gpa, size, t->r[i].gpa, t->r[i].size)) {
            return err_set(e, EEXIST, "RAM '%s' overlaps the registers of '%s'", name, t->r[i].name);
        }
    }
    uint8_t *code = g_try_malloc0(size / GUEST_PAGE_SIZE);
    uint8_t *host = code ? map_guarded(p, name, size, e) : NULL;
    if (!host) {
        g_free(code);
        return code ? -ENOMEM : err_set(e, ENOMEM, "RAM '%s': no memory to keep track of its pages", name);
    }
    for (unsigned i = m->ram_n; i > at; i--) {
        m->ram[i] = m->ram[i - 1];
        m->ram_name[i] = m->ram_name[i - 1];
        m->dirty_store[i] = m->dirty_store[i - 1];
    }
    m->ram_name[at] = g_strdup(name);
    m->dirty_store[at] = NULL;
    m->ram[at] = (struct guest_ram){.name = m->ram_name[at], .gpa = gpa, .size = size, .host = host, .code = code};
    m->ram[at].policy = *p;
    m->ram[at].spare = p->prealloc;
    m->ram_n++;
    return 0;
}

struct guest_ram *guest_ram_get(struct guest_mem *m, unsigned i)
{
    return i < m->ram_n ? &m->ram[i] : NULL;
}

struct guest_ram *guest_ram_find(struct guest_mem *m, uint64_t gpa)
{
    for (unsigned i = 0; i < m->ram_n; i++) {
        if (gpa - m->ram[i].gpa < m->ram[i].size) {
            return &m->ram[i];
        }
    }
    return NULL;
}

void *guest_ram_ptr(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    struct guest_ram *r = guest_ram_find(m, gpa);
    return r && len <= r->size - (gpa - r->gpa) ? r->host + (gpa - r->gpa) : NULL;
}

/* Every byte of [gpa, gpa + len) is RAM, of one block or of neighbours. */
static bool all_ram(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    while (len) {
        const struct guest_ram *r = guest_ram_find(m, gpa);
        if (!r) {
            return false;
        }
        uint64_t part = min_u64(len, r->size - (gpa - r->gpa));
        gpa += part;
        len -= part;
    }
    return true;
}

int guest_mem_read(struct guest_mem *m, uint64_t gpa, void *buf, size_t len)
{
    if (!all_ram(m, gpa, len)) {
        return -EFAULT;
    }
    for (uint8_t *to = buf; len;) {
        const struct guest_ram *r = guest_ram_find(m, gpa);
        uint64_t part = min_u64(len, r->size - (gpa - r->gpa));
        memcpy(to, r->host + (gpa - r->gpa), part);
        to += part;
        gpa += part;
        len -= part;
    }
    return 0;
}

int guest_mem_write(struct guest_mem *m, uint64_t gpa, const void *buf, size_t len)
{
    if (!all_ram(m, gpa, len)) {
        return -EFAULT;
    }
    for (const uint8_t *from = buf; len;) {
        struct guest_ram *r = guest_ram_find(m, gpa);
        uint64_t part = min_u64(len, r->size - (gpa - r->gpa));
        guest_mem_will_write(m, gpa, part);
        memcpy(r->host + (gpa - r->gpa), from, part);
        guest_mem_mark_written(m, gpa, part);
        from += part;
        gpa += part;
        len -= part;
    }
    return 0;
}

void guest_mem_mark_written(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    atomic_thread_fence(memory_order_seq_cst);
    while (len) {
        struct guest_ram *r = guest_ram_find(m, gpa);
        if (!r) {
            return;
        }
        uint64_t off = gpa - r->gpa, part = min_u64(len, r->size - off);
        uint64_t first = off >> GUEST_PAGE_BITS, last = (off + part - 1) >> GUEST_PAGE_BITS;
        uint8_t *dirty = atomic_load_explicit(&r->dirty, memory_order_acquire);
        if (dirty) {
            for (uint64_t p = first; p <= last; p++) {
                __atomic_store_n(&dirty[p], GUEST_DIRTY, __ATOMIC_RELAXED);
            }
        }
        for (uint64_t p = first; p <= last && m->code_hook; p++) {
            if (__atomic_load_n(&r->code[p], __ATOMIC_RELAXED)) {
                m->code_hook(m->code_opaque, r->gpa + (p << GUEST_PAGE_BITS), GUEST_PAGE_SIZE);
            }
        }
        gpa += part;
        len -= part;
    }
}

static void will_access(struct guest_mem *m, uint64_t gpa, uint64_t len, uint8_t bits)
{
    while (len) {
        struct guest_ram *r = guest_ram_find(m, gpa);
        uint8_t *guard = r ? atomic_load_explicit(&r->guard, memory_order_acquire) : NULL;
        uint64_t off = r ? gpa - r->gpa : 0, part = r ? min_u64(len, r->size - off) : len;
        for (uint64_t p = off >> GUEST_PAGE_BITS; guard && p <= (off + part - 1) >> GUEST_PAGE_BITS; p++) {
            if (__atomic_load_n(&guard[p], __ATOMIC_ACQUIRE) & bits) {
                m->watcher.access(m->watcher.opaque, (unsigned)(r - m->ram), p);
            }
        }
        gpa += part;
        len -= part;
    }
}

void guest_mem_will_write(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    will_access(m, gpa, len, GUARD_WRITE | GUARD_READ);
}

void guest_mem_will_read(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    will_access(m, gpa, len, GUARD_READ);
}

bool guest_mem_is_missing(struct guest_mem *m, uint64_t gpa)
{
    if (!atomic_load_explicit(&m->ram[0].guard, memory_order_relaxed)) { /* all blocks have one, or none */
        return false;
    }
    struct guest_ram *r = guest_ram_find(m, gpa);
    const uint8_t *guard = r ? atomic_load_explicit(&r->guard, memory_order_acquire) : NULL;
    return guard && __atomic_load_n(&guard[(gpa - r->gpa) >> GUEST_PAGE_BITS], __ATOMIC_ACQUIRE) & GUARD_READ;
}

int guest_mem_fetch(struct guest_mem *m, uint64_t gpa)
{
    struct guest_ram *r = guest_ram_find(m, gpa);
    return r ? m->watcher.fetch(m->watcher.opaque, (unsigned)(r - m->ram), (gpa - r->gpa) >> GUEST_PAGE_BITS) : 0;
}

/* fn() for each page with GUARD_READ of the range. */
static void for_missing(struct guest_mem *m, uint64_t gpa, uint64_t len,
                        void (*fn)(struct guest_mem *m, unsigned block, uint64_t page, void *arg), void *arg)
{
    while (len && atomic_load_explicit(&m->ram[0].guard, memory_order_relaxed)) {
        struct guest_ram *r = guest_ram_find(m, gpa);
        const uint8_t *guard = r ? atomic_load_explicit(&r->guard, memory_order_acquire) : NULL;
        uint64_t off = r ? gpa - r->gpa : 0, part = r ? min_u64(len, r->size - off) : len;
        for (uint64_t p = off >> GUEST_PAGE_BITS; guard && p <= (off + part - 1) >> GUEST_PAGE_BITS; p++) {
            if (__atomic_load_n(&guard[p], __ATOMIC_ACQUIRE) & GUARD_READ) {
                fn(m, (unsigned)(r - m->ram), p, arg);
            }
        }
        gpa += part;
        len -= part;
    }
}

struct awaiting {
    struct loop_event *tell;
    bool any;
};

static void await_one(struct guest_mem *m, unsigned block, uint64_t page, void *arg)
{
    struct awaiting *a = arg;
    a->any |= m->watcher.awaits(m->watcher.opaque, block, page, a->tell);
}

bool guest_mem_awaits(struct guest_mem *m, uint64_t gpa, uint64_t len, struct loop_event *tell)
{
    struct awaiting a = {tell, false};
    for_missing(m, gpa, len, await_one, &a);
    return a.any;
}

static void discard_one(struct guest_mem *m, unsigned block, uint64_t page, void *arg)
{
    m->watcher.discard(m->watcher.opaque, block, page);
}

void guest_mem_discard(struct guest_mem *m, uint64_t gpa, uint64_t len)
{
    for_missing(m, gpa, len, discard_one, NULL);
}

void guest_mem_forget(struct guest_mem *m, struct loop_event *tell)
{
    if (m->watcher.forget) {
        m->watcher.forget(m->watcher.opaque, tell);
    }
}

void guest_mem_set_watcher(struct guest_mem *m, const struct guest_mem_watcher *w)
{
    m->watcher = *w;
}

/* Law 3. */
static void reclaim(struct guest_mem *m)
{
    unsigned p = atomic_load(&m->phase);
    if (atomic_load(&m->readers[p ^ 1]) == 0) {
        tables_free(m->retired[p ^ 1]);
        m->retired[p ^ 1] = NULL;
        atomic_store(&m->phase, p ^ 1);
    }
}

static void table_replace(struct guest_mem *m, struct mmio_table *t)
{
    struct mmio_table *old = atomic_exchange(&m->mmio, t);
    unsigned p = atomic_load(&m->phase);
    old->retired_next = m->retired[p];
    m->retired[p] = old;
    reclaim(m);
}

int mmio_add(struct guest_mem *m, const struct mmio_region *r, struct err *e)
{
    uint64_t end;
    if (!r->size || !add_ok(r->gpa, r->size - 1, &end)) {
        return err_set(e, EINVAL, "registers of '%s': %#" PRIx64 "+%#" PRIx64 " is not a range", r->name, r->gpa,
                       r->size);
    }
    for (unsigned i = 0; i < m->ram_n; i++) {
        if (ranges_overlap(r->gpa, r->size, m->ram[i].gpa, m->ram[i].size)) {
            return err_set(e, EEXIST, "registers of '%s' overlap RAM '%s'", r->name, m->ram[i].name);
        }
    }
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&m->mutex);
    const struct mmio_table *old = atomic_load(&m->mmio);
    size_t at = 0;
    for (size_t i = 0; i < old->n; i++) {
        if (ranges_overlap(r->gpa, r->size, old->r[i].gpa, old->r[i].size)) {
            return err_set(e, EEXIST, "registers of '%s' overlap those of '%s'", r->name, old->r[i].name);
        }
        at += old->r[i].gpa < r->gpa;
    }
    struct mmio_table *t = g_malloc0(sizeof(*t) + (old->n + 1) * sizeof(t->r[0]));
    t->n = old->n + 1;
    memcpy(t->r, old->r, at * sizeof(t->r[0]));
    t->r[at] = *r;
    memcpy(t->r + at + 1, old->r + at, (old->n - at) * sizeof(t->r[0]));
    table_replace(m, t);
    return 0;
}

void mmio_remove(struct guest_mem *m, const struct mmio_ops *ops, void *opaque, uint64_t gpa)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&m->mutex);
    const struct mmio_table *old = atomic_load(&m->mmio);
    for (size_t i = 0; i < old->n; i++) {
        if (old->r[i].ops == ops && old->r[i].opaque == opaque && old->r[i].gpa == gpa) {
            struct mmio_table *t = g_malloc0(sizeof(*t) + old->n * sizeof(t->r[0]));
            t->n = old->n - 1;
            memcpy(t->r, old->r, i * sizeof(t->r[0]));
            memcpy(t->r + i, old->r + i + 1, (t->n - i) * sizeof(t->r[0]));
            table_replace(m, t);
            return;
        }
    }
}

bool mmio_get(struct guest_mem *m, unsigned i, struct mmio_region *out)
{
    const struct mmio_table *t = atomic_load(&m->mmio);
    if (i >= t->n) {
        return false;
    }
    *out = t->r[i];
    return true;
}

/* The window that takes an access of `size` at gpa, copied out; false when there is none. */
static bool mmio_find(struct guest_mem *m, uint64_t gpa, unsigned size, struct mmio_region *out)
{
    unsigned p = atomic_load(&m->phase);
    atomic_fetch_add(&m->readers[p], 1);
    const struct mmio_table *t = atomic_load(&m->mmio);
    size_t lo = 0, hi = t->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (t->r[mid].gpa <= gpa) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    bool found = lo && gpa - t->r[lo - 1].gpa < t->r[lo - 1].size;
    if (found) {
        *out = t->r[lo - 1];
    }
    atomic_fetch_sub(&m->readers[p], 1);
    if (!found || !range_ok(gpa - out->gpa, size, out->size) || (gpa - out->gpa) % size) {
        return false;
    }
    unsigned max = out->ops->max_size ? out->ops->max_size : 8;
    return size >= out->ops->min_size && size <= max;
}

static bool size_ok(unsigned size)
{
    return size == 1 || size == 2 || size == 4 || size == 8;
}

bool mmio_read(struct guest_mem *m, uint64_t gpa, unsigned size, uint64_t *val)
{
    struct mmio_region r;
    if (!size_ok(size) || !mmio_find(m, gpa, size, &r) || !r.ops->read) {
        return false;
    }
    uint64_t v = r.ops->read(r.opaque, gpa - r.gpa, size);
    *val = size == 8 ? v : v & ((1ull << (size * 8)) - 1);
    return true;
}

bool mmio_write(struct guest_mem *m, uint64_t gpa, unsigned size, uint64_t val)
{
    struct mmio_region r;
    if (!size_ok(size) || !mmio_find(m, gpa, size, &r) || !r.ops->write) {
        return false;
    }
    r.ops->write(r.opaque, gpa - r.gpa, size == 8 ? val : val & ((1ull << (size * 8)) - 1), size);
    return true;
}

static void clear_dirty(uint8_t *log, uint64_t pages, enum guest_dirty who)
{
    const uint64_t all = UINT64_C(0x0101010101010101) * who;
    for (uint64_t i = 0; i < pages; i++) {
        uint64_t word = all;
        if (i % 8 == 0 && pages - i >= 8) {
            memcpy(&word, log + i, 8);
        }
        if (!(word & all)) {
            i += 7;
        } else if (__atomic_load_n(&log[i], __ATOMIC_RELAXED) & who) {
            __atomic_fetch_and(&log[i], (uint8_t)~who, __ATOMIC_SEQ_CST);
        }
    }
}

int guest_dirty_log_start(struct guest_mem *m, enum guest_dirty who, struct err *e)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&m->mutex);
    for (unsigned i = 0; i < m->ram_n; i++) {
        uint64_t pages = m->ram[i].size >> GUEST_PAGE_BITS;
        if (!m->dirty_store[i] && !(m->dirty_store[i] = g_try_malloc0(pages))) {
            return err_set(e, ENOMEM, "RAM '%s': no memory for its dirty log", m->ram[i].name);
        }
        clear_dirty(m->dirty_store[i], pages, who);
    }
    for (unsigned i = 0; i < m->ram_n; i++) {
        atomic_store(&m->ram[i].dirty, m->dirty_store[i]);
    }
    m->dirty_for |= who;
    return 0;
}

void guest_dirty_log_stop(struct guest_mem *m, enum guest_dirty who)
{
    CLEANUP_UNLOCK pthread_mutex_t *guard = lock(&m->mutex);
    m->dirty_for &= ~(unsigned)who;
    for (unsigned i = 0; i < m->ram_n && !m->dirty_for; i++) {
        atomic_store(&m->ram[i].dirty, NULL);
    }
}

void guest_mem_set_code_hook(struct guest_mem *m, void (*hook)(void *opaque, uint64_t gpa, uint64_t len), void *opaque)
{
    m->code_hook = hook;
    m->code_opaque = opaque;
}
