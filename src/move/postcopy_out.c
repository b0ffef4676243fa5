/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The source of post-copy. Laws of this file:
 * 1. A page is LEFT until it has been written to a channel, SENT until a HAVE counts it, then THERE: only then, and
 * when the machine is known to run there, its memory may be given up.
 * 2. PAGE messages of one channel are counted in the order in which they were written.
 */
#include "move/postcopy.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/zero.h"
#include "loop/co.h"
#include "move/dirty.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum page { THERE, LEFT, SENT };
enum {
    BULK_PAGES = 16,          /* in one message that nobody asked for */
    ASKED_PAGES = 16,         /* with one that somebody waits for */
    WINDOW = 1 << 20,         /* bytes that nobody asked for on their way */
    WINDOW_ASKED = 128 << 10, /* the same while there are requests, whose answers come behind them */
    ASKED_NS = 20000000,      /* how long after the last one that is */
};

struct sent {
    struct pc_run run;
    size_t bytes;
};

/* PAGE messages of one channel. */
struct lane {
    struct channel *ch;
    struct co_mutex lock; /* of writing */
    GQueue sent;          /* struct sent *, not counted yet */
    uint64_t bytes;       /* of those */
};

struct pc_out {
    struct vm *vm;
    struct pc_out_options o;
    uint8_t *map[PC_BLOCKS_MAX]; /* enum page of each page */
    unsigned block;              /* where the background goes on */
    uint64_t page;
    uint64_t left, there_not; /* pages LEFT; and those that are SENT, too */
    struct lane bulk, answers;
    uint64_t asked_ns; /* when the last request came */
    bool shared;       /* one channel for both */
    const struct pc_link *link;
    bool over, pushing;
    int rc;
    struct co_queue room, ended; /* the background waits for it; who waits for its end */
    struct pc_out_stats stats;
};

static uint64_t pages_of(const struct pc_out *p, unsigned block)
{
    const struct guest_ram *r = guest_ram_get(p->vm->mem, block);
    return r ? r->size >> GUEST_PAGE_BITS : 0;
}

static const uint8_t *page_at(const struct pc_out *p, unsigned block, uint64_t page)
{
    return guest_ram_get(p->vm->mem, block)->host + (page << GUEST_PAGE_BITS);
}

struct pc_out *pc_out_create(struct vm *vm, const struct dirty *d, const struct pc_out_options *o)
{
    struct pc_out *p = g_new0(struct pc_out, 1);
    p->vm = vm;
    p->o = *o;
    g_queue_init(&p->bulk.sent);
    g_queue_init(&p->answers.sent);
    for (unsigned i = 0; i < PC_BLOCKS_MAX && pages_of(p, i); i++) {
        p->map[i] = g_malloc0(pages_of(p, i));
        for (uint64_t at = 0; (at = dirty_next(d, i, at)) != UINT64_MAX; at++) {
            p->map[i][at] = LEFT;
            p->left++;
        }
    }
    p->there_not = p->left;
    return p;
}

static void forget_sent(struct lane *l)
{
    g_queue_clear_full(&l->sent, g_free);
    l->bytes = 0;
}

void pc_out_destroy(struct pc_out *p)
{
    if (!p) {
        return;
    }
    forget_sent(&p->bulk);
    forget_sent(&p->answers);
    for (unsigned i = 0; i < PC_BLOCKS_MAX; i++) {
        g_free(p->map[i]);
    }
    g_free(p);
}

GByteArray *pc_out_left(struct pc_out *p)
{
    GByteArray *b = g_byte_array_new();
    pc_append_left(p->vm, b, p->map);
    return b;
}

static int lacks(struct pc_out *p, uint8_t *const *now, struct err *e)
{
    for (unsigned i = 0; pages_of(p, i); i++) {
        for (uint64_t k = 0; k < pages_of(p, i); k++) {
            if (now[i][k] && p->map[i][k] == THERE) {
                return err_set(e, EPROTO,
                               "the destination lacks RAM that it said it has: it is not the one that had it");
            }
        }
    }
    return 0;
}

int pc_out_set_left(struct pc_out *p, const GByteArray *left, struct err *e)
{
    uint8_t *now[PC_BLOCKS_MAX] = {NULL};
    for (unsigned i = 0; pages_of(p, i); i++) {
        now[i] = g_malloc0(pages_of(p, i));
    }
    int rc = pc_parse_left(p->vm, left->data, left->len, now);
    rc = rc < 0 ? err_set(e, EPROTO, "what the destination lacks is not RAM of this machine") : lacks(p, now, e);
    p->left = rc == 0 ? 0 : p->left;
    for (unsigned i = 0; pages_of(p, i); i++) {
        for (uint64_t k = 0; rc == 0 && k < pages_of(p, i); k++) {
            p->map[i][k] = now[i][k] ? LEFT : THERE;
            p->left += now[i][k];
        }
        g_free(now[i]);
    }
    if (rc == 0) {
        p->there_not = p->left;
        p->block = 0;
        p->page = 0;
        forget_sent(&p->bulk);
        forget_sent(&p->answers);
    }
    return rc;
}

/* --- sending --------------------------------------------------------------------------------------------------------
 */

/* Pages from `first` on, at most `max`, that are left and are all zero or all are not. */
static unsigned like_run(const struct pc_out *p, unsigned block, uint64_t first, unsigned max, bool *zero)
{
    uint64_t end = MIN(first + max, pages_of(p, block)), at = first;
    *zero = buf_is_zero(page_at(p, block, first), GUEST_PAGE_SIZE);
    while (at < end && p->map[block][at] == LEFT &&
           (at == first || buf_is_zero(page_at(p, block, at), GUEST_PAGE_SIZE) == *zero)) {
        at++;
    }
    return (unsigned)(at - first);
}

/* The lane is ours. */
static int send_run(struct pc_out *p, struct lane *l, const struct pc_run *r, bool zero)
{
    size_t len = zero ? 0 : (size_t)r->pages * GUEST_PAGE_SIZE;
    GByteArray *b = pc_begin(PC_PAGE);
    pc_append_run(b, r, zero ? PC_ZERO : PC_DATA);
    if (!zero) {
        g_byte_array_append(b, page_at(p, r->block, r->first), (guint)len);
    }
    memset(p->map[r->block] + r->first, SENT, r->pages);
    p->left -= r->pages;
    g_queue_push_tail(&l->sent, g_memdup2(&(struct sent){*r, b->len}, sizeof(struct sent)));
    l->bytes += b->len;
    p->stats.bytes += b->len;
    *(zero ? &p->stats.zero : &p->stats.data) += r->pages;
    return pc_send(l->ch, b);
}

/* [co] What is left of those pages. */
static int send_pages(struct pc_out *p, struct lane *l, unsigned block, uint64_t first, unsigned n)
{
    int rc = 0;
    co_lock(&l->lock);
    for (unsigned i = 0; rc == 0 && i < n && first + i < pages_of(p, block);) {
        bool zero;
        unsigned run = p->map[block][first + i] == LEFT ? like_run(p, block, first + i, n - i, &zero) : 0;
        if (run) {
            rc = send_run(p, l, &(struct pc_run){block, run, first + i}, zero);
        }
        i += run ? run : 1;
    }
    co_unlock(&l->lock);
    return rc;
}

/* --- what nobody asked for ------------------------------------------------------------------------------------------
 */

/* The next page that is left, from where the background is; wraps once. */
static bool find_left(struct pc_out *p)
{
    for (unsigned turns = 0; p->left && turns <= PC_BLOCKS_MAX; turns++) {
        uint64_t n = pages_of(p, p->block);
        const uint8_t *map = p->map[p->block];
        const uint8_t *at = p->page < n ? memchr(map + p->page, LEFT, n - p->page) : NULL;
        if (at) {
            p->page = (uint64_t)(at - map);
            return true;
        }
        p->page = 0;
        p->block = pages_of(p, p->block + 1) ? p->block + 1 : 0;
    }
    return false;
}

static void pace(struct pc_out *p, uint64_t since_ns, uint64_t bytes)
{
    uint64_t limit, due;
    do {
        limit = *p->o.bandwidth;
        due = limit ? since_ns + (uint64_t)((double)bytes * 1e9 / (double)limit) : 0;
    } while (due > loop_now_ns() && !p->over && co_queue_wait_until(&p->room, due));
}

static void fail(struct pc_out *p, int rc)
{
    p->rc = p->over ? p->rc : rc;
    p->over = true;
    channel_break(p->link->bulk);
    channel_break(p->link->answers);
    channel_break(p->link->requests);
    co_queue_wake_all(&p->room);
}

static uint64_t window(const struct pc_out *p)
{
    return p->asked_ns && loop_now_ns() - p->asked_ns < ASKED_NS ? WINDOW_ASKED : WINDOW;
}

static void push(void *opaque)
{
    struct pc_out *p = opaque;
    uint64_t began = loop_now_ns(), paid = 0;
    int rc = 0;
    while (rc == 0 && !p->over) {
        if (p->bulk.bytes >= window(p) || !find_left(p)) {
            co_queue_wait(&p->room);
            continue;
        }
        uint64_t before = p->bulk.bytes;
        unsigned block = p->block;
        uint64_t first = p->page;
        p->page += BULK_PAGES; /* an answer may move it meanwhile */
        rc = send_pages(p, &p->bulk, block, first, BULK_PAGES);
        paid += p->bulk.bytes > before ? p->bulk.bytes - before : 0;
        pace(p, began, paid);
    }
    if (rc < 0) {
        fail(p, rc);
    }
    p->pushing = false;
    co_queue_wake_all(&p->ended);
}

/* --- what comes back ------------------------------------------------------------------------------------------------
 */

static int serve(struct pc_out *p, const GByteArray *body)
{
    int rc = 0;
    p->asked_ns = loop_now_ns();
    for (size_t at = 0; rc == 0 && at < body->len; at += PC_ENTRY) {
        struct pc_run r;
        unsigned zero;
        if (!pc_run_at(p->vm, body, at, &r, &zero) || zero) {
            return -EBADMSG;
        }
        p->stats.requests += r.pages;
        rc = send_pages(p, p->shared ? &p->bulk : &p->answers, r.block, r.first, MAX(r.pages, (uint32_t)ASKED_PAGES));
        p->block = r.block; /* the neighbours are likely to be needed next */
        p->page = r.first + MAX(r.pages, (uint32_t)ASKED_PAGES);
    }
    return body->len ? rc : -EBADMSG;
}

static void give_up(struct pc_out *p, const struct pc_run *r)
{
    memset(p->map[r->block] + r->first, THERE, r->pages);
    p->there_not -= r->pages;
    if (p->o.release) {
        void *at = (void *)(uintptr_t)page_at(p, r->block, r->first);
        madvise(at, (size_t)r->pages << GUEST_PAGE_BITS, MADV_DONTNEED); /* only memory: no harm if it stays */
    }
}

void pc_give_up_all(struct vm *vm)
{
    const struct guest_ram *r;
    for (unsigned i = 0; (r = guest_ram_get(vm->mem, i)); i++) {
        madvise(r->host, r->size, MADV_DONTNEED);
    }
}

/* What came before the machine did. */
static void give_up_there(struct pc_out *p)
{
    for (unsigned i = 0; p->o.release && pages_of(p, i); i++) {
        for (uint64_t at = 0, end; at < pages_of(p, i); at = end) {
            enum page kind = p->map[i][at];
            for (end = at + 1; end < pages_of(p, i) && p->map[i][end] == kind; end++) {
            }
            if (kind == THERE) {
                madvise((void *)(uintptr_t)page_at(p, i, at), (size_t)(end - at) << GUEST_PAGE_BITS, MADV_DONTNEED);
            }
        }
    }
}

static int count(struct pc_out *p, struct lane *l, uint32_t n)
{
    for (; n; n--) {
        CLEANUP_FREE struct sent *s = g_queue_pop_head(&l->sent);
        if (!s) {
            return -EBADMSG;
        }
        give_up(p, &s->run);
        l->bytes -= s->bytes;
    }
    return 0;
}

static int have(struct pc_out *p, const GByteArray *body)
{
    if (body->len != 8) {
        return -EBADMSG;
    }
    int rc = count(p, p->shared ? &p->bulk : &p->answers, load_le32(body->data));
    rc = rc < 0 ? rc : count(p, &p->bulk, load_le32(body->data + 4));
    co_queue_wake_all(&p->room);
    return rc;
}

/* 1: the other side has everything. */
static int hear(struct pc_out *p, GByteArray *body)
{
    enum pc_type type;
    int rc = pc_read(p->link->requests, &type, body);
    return rc < 0            ? rc
           : type == PC_NEED ? serve(p, body)
           : type == PC_HAVE ? have(p, body)
           : type == PC_ALLD ? 1
                             : -EBADMSG;
}

int pc_out_run(struct pc_out *p, const struct pc_link *link, struct err *e)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    p->link = link;
    p->shared = link->bulk == link->answers;
    p->bulk.ch = link->bulk;
    p->answers.ch = link->answers;
    p->over = false;
    p->pushing = true;
    p->rc = 0;
    give_up_there(p);
    co_start(p->vm->loop, push, p);
    int rc;
    while ((rc = hear(p, body)) == 0 && !p->over) {
    }
    if (rc == 1 && !p->over) {
        p->left = p->there_not = 0;
        p->over = true;
        if (p->o.release) { /* also what it wrote itself, so that it was never asked for */
            pc_give_up_all(p->vm);
        }
        co_queue_wake_all(&p->room);
    } else {
        fail(p, rc < 0 ? rc : -EPIPE);
    }
    while (p->pushing) {
        co_queue_wait(&p->ended);
    }
    return p->rc == -EBADMSG   ? err_set(e, EPROTO, "%s: what came back makes no sense", channel_name(link->requests))
           : p->rc == -ENODATA ? err_set(e, EPIPE, "%s: the connection is broken", channel_name(link->requests))
           : p->rc < 0         ? err_set_errno(e, -p->rc, "%s", channel_name(link->requests))
                               : 0;
}

void pc_out_limit_changed(struct pc_out *p)
{
    co_queue_wake_all(&p->room);
}

struct pc_out_stats pc_out_stats(const struct pc_out *p)
{
    struct pc_out_stats s = p->stats;
    s.left = p->there_not;
    return s;
}
