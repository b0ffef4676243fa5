/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The destination of post-copy. Who touches a page that is not there asks by want(), on his own thread, and waits where
 * guest/pages.h lets him; everything else is on the loop, which waits for no page itself.
 */
#include "move/postcopy.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "guest/pages.h"
#include "loop/co.h"
#include "machine/machine.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum { LAST_NS = 2000000000 };

/* Somebody waits for it. */
struct need {
    unsigned block;
    uint64_t page, since_ns;
};

struct pc_in {
    struct vm *vm;
    uint8_t *map[PC_BLOCKS_MAX]; /* until pc_in_begin(): missing; then: asked for */
    bool begun;
    pthread_mutex_t mutex; /* of the three below, and `map` once it has begun */
    GArray *needs;         /* struct need: not there yet */
    guint asked;           /* the first of them were sent */
    struct loop_event *event;
    const struct pc_link *link;
    bool over;
    unsigned readers;
    int rc;
    uint32_t took[2]; /* PAGE messages since the last HAVE: answers, bulk */
    struct co_queue work, ended;
    struct pc_latency latency;
    struct pc_blocked before; /* what harts had waited when it began */
};

/* --- any thread -----------------------------------------------------------------------------------------------------
 */

static void want(void *opaque, unsigned block, uint64_t page)
{
    struct pc_in *p = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    if (!p->map[block][page]) {
        p->map[block][page] = 1;
        g_array_append_val(p->needs, ((struct need){block, page, loop_now_ns()}));
        loop_event_set(p->event);
    }
}

/* --- beginning and end ----------------------------------------------------------------------------------------------
 */

static void on_event(void *opaque)
{
    struct pc_in *p = opaque;
    co_queue_wake_all(&p->work);
}

int pc_in_check(struct vm *vm, struct err *e)
{
    return pages_can_fill(vm->pages)
               ? 0
               : err_set(
                     e, ENOTSUP,
                     "RAM cannot follow a machine to this host, which lets nobody wait for pages: allow userfaultfd "
                     "(sysctl vm.unprivileged_userfaultfd, /dev/userfaultfd; RAM that is no file), or switch "
                     "'postcopy-ram' off");
}

struct pc_in *pc_in_create(struct vm *vm, const GByteArray *left, struct err *e)
{
    struct pc_in *p = g_new0(struct pc_in, 1);
    const struct guest_ram *r;
    p->vm = vm;
    pthread_mutex_init(&p->mutex, NULL);
    p->needs = g_array_new(false, false, sizeof(struct need));
    p->event = loop_event_create(vm->loop, on_event, p);
    for (unsigned i = 0; i < PC_BLOCKS_MAX && (r = guest_ram_get(vm->mem, i)); i++) {
        p->map[i] = g_malloc0(r->size >> GUEST_PAGE_BITS);
    }
    if (pc_parse_left(vm, left->data, left->len, p->map) < 0) {
        err_set(e, EPROTO, "the list of pages that are to follow is not one of this machine's RAM");
        pc_in_destroy(p);
        return NULL;
    }
    return p;
}

static void ask_harts(const struct vm *vm, struct pc_blocked *b)
{
    *b = (struct pc_blocked){.harts = vm->machine ? MIN(vm->machine->board.harts, G_N_ELEMENTS(b->hart_ns)) : 0};
    for (unsigned i = 0; i < b->harts; i++) {
        b->hart_ns[i] = vm->accel_ops->pages_waited(vm->accel, i);
    }
    b->all_ns = b->harts ? vm->accel_ops->pages_waited(vm->accel, vm->machine->board.harts) : 0;
}

void pc_in_blocked(const struct pc_in *p, struct pc_blocked *out)
{
    ask_harts(p->vm, out);
    for (unsigned i = 0; i < out->harts; i++) {
        out->hart_ns[i] -= p->before.hart_ns[i];
    }
    out->all_ns -= p->before.all_ns;
}

int pc_in_begin(struct pc_in *p, struct err *e)
{
    const struct pages_source s = {.opaque = p, .want = want};
    const struct guest_ram *r;
    int rc = pages_fill_gaps(p->vm->pages, &s, p->map, e);
    for (unsigned i = 0; rc == 0 && (r = guest_ram_get(p->vm->mem, i)); i++) {
        memset(p->map[i], 0, r->size >> GUEST_PAGE_BITS);
    }
    p->begun = rc == 0;
    ask_harts(p->vm, &p->before);
    return rc;
}

void pc_in_destroy(struct pc_in *p)
{
    if (!p) {
        return;
    }
    if (p->begun) {
        pages_end(p->vm->pages);
    }
    loop_event_destroy(p->event);
    g_array_unref(p->needs);
    pthread_mutex_destroy(&p->mutex);
    for (unsigned i = 0; i < PC_BLOCKS_MAX; i++) {
        g_free(p->map[i]);
    }
    g_free(p);
}

GByteArray *pc_in_left(struct pc_in *p)
{
    GByteArray *b = g_byte_array_new();
    uint8_t *guard[PC_BLOCKS_MAX] = {NULL};
    struct guest_ram *r;
    for (unsigned i = 0; (r = guest_ram_get(p->vm->mem, i)); i++) {
        guard[i] = atomic_load(&r->guard);
    }
    pc_append_left(p->vm, b, guard);
    return b;
}

bool pc_in_lacks(const struct pc_in *p, unsigned block, uint64_t page)
{
    return p->map[block][page];
}

uint64_t pc_in_missing(const struct pc_in *p)
{
    return pages_missing(p->vm->pages);
}

/* --- latency --------------------------------------------------------------------------------------------------------
 */

static void measure(struct pc_latency *l, uint64_t ns)
{
    unsigned i = 0;
    for (uint64_t us = ns / 1000; us > 1 && i + 1 < G_N_ELEMENTS(l->bucket); us /= 2) {
        i++;
    }
    l->bucket[i]++;
    l->count++;
    l->sum_ns += ns;
    l->max_ns = MAX(l->max_ns, ns);
}

uint64_t pc_latency_percentile(const struct pc_latency *l, unsigned percent)
{
    uint64_t seen = 0;
    unsigned i = 0;
    for (; i + 1 < G_N_ELEMENTS(l->bucket); i++) {
        seen += l->bucket[i];
        if (seen * 100 >= l->count * percent) {
            break;
        }
    }
    return l->count ? MIN(UINT64_C(2000) << i, l->max_ns) : 0;
}

const struct pc_latency *pc_in_latency(const struct pc_in *p)
{
    return &p->latency;
}

/* Nobody waits for these any more; whether anybody did. */
static bool settle_needs(struct pc_in *p, const struct pc_run *r)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    uint64_t now = loop_now_ns();
    bool any = false;
    for (guint i = p->needs->len; i-- > 0;) {
        const struct need *n = &g_array_index(p->needs, struct need, i);
        if (n->block == r->block && n->page - r->first < r->pages) {
            measure(&p->latency, now - n->since_ns);
            p->asked -= i < p->asked;
            g_array_remove_index(p->needs, i);
            any = true;
        }
    }
    return any;
}

/* --- reading --------------------------------------------------------------------------------------------------------
 */

static void fail(struct pc_in *p, int rc)
{
    p->rc = p->over ? p->rc : rc;
    p->over = true;
    channel_break(p->link->bulk);
    channel_break(p->link->answers);
    channel_break(p->link->requests);
    co_queue_wake_all(&p->work);
}

static int take_pages(struct pc_in *p, const GByteArray *body)
{
    struct pc_run r;
    unsigned kind;
    if (!pc_run_at(p->vm, body, 0, &r, &kind) || kind > PC_DATA ||
        body->len != PC_ENTRY + (kind == PC_DATA ? (size_t)r.pages * GUEST_PAGE_SIZE : 0)) {
        return -EBADMSG;
    }
    int n = pages_put(p->vm->pages, r.block, r.first, r.pages, kind == PC_DATA ? body->data + PC_ENTRY : NULL);
    if (n < 0) {
        return n;
    }
    if (settle_needs(p, &r)) {
        p->vm->accel_ops->pages_came(p->vm->accel);
    }
    return 0;
}

static void read_lane(struct pc_in *p, struct channel *ch, unsigned lane)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    int rc = 0;
    p->readers++;
    while (rc == 0 && !p->over) {
        enum pc_type type;
        rc = pc_read(ch, &type, body);
        rc = rc < 0 ? rc : type == PC_PAGE ? take_pages(p, body) : -EBADMSG;
        if (rc == 0) {
            p->took[lane]++;
            co_queue_wake_all(&p->work);
        }
    }
    if (rc < 0) {
        fail(p, rc);
    }
    p->readers--;
    co_queue_wake_all(&p->ended);
}

static void read_answers(void *opaque)
{
    struct pc_in *p = opaque;
    read_lane(p, p->link->answers, 0);
}

static void read_bulk(void *opaque)
{
    struct pc_in *p = opaque;
    read_lane(p, p->link->bulk, 1);
}

/* --- writing --------------------------------------------------------------------------------------------------------
 */

/* Needs that have not been asked for; NULL: none. */
static GByteArray *make_need(struct pc_in *p)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    if (p->asked == p->needs->len) {
        return NULL;
    }
    GByteArray *b = pc_begin(PC_NEED);
    for (unsigned n = 0; n < PC_NEEDS_MAX && p->asked < p->needs->len; n++, p->asked++) {
        const struct need *need = &g_array_index(p->needs, struct need, p->asked);
        pc_append_run(b, &(struct pc_run){need->block, 1, need->page}, 0);
    }
    return b;
}

static GByteArray *make_have(struct pc_in *p)
{
    uint8_t body[8];
    if (!p->took[0] && !p->took[1]) {
        return NULL;
    }
    store_le32(body, p->took[0]);
    store_le32(body + 4, p->took[1]);
    p->took[0] = p->took[1] = 0;
    return g_byte_array_append(pc_begin(PC_HAVE), body, sizeof(body));
}

/* 1: all is there, and the other side was told. */
static int say(struct pc_in *p)
{
    GByteArray *b = make_need(p);
    b = b ? b : make_have(p);
    if (b) {
        return pc_send(p->link->requests, b);
    }
    if (!pc_in_missing(p)) {
        int rc = pc_send(p->link->requests, pc_begin(PC_ALLD));
        return rc < 0 ? rc : 1;
    }
    co_queue_wait(&p->work);
    return 0;
}

static void ask_again(struct pc_in *p)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&p->mutex);
    p->asked = 0;
}

/* The other side hangs up when it has heard that all is here. */
static void hear_out(struct pc_in *p)
{
    uint64_t end = loop_now_ns() + LAST_NS;
    while (p->readers && co_queue_wait_until(&p->ended, end)) {
    }
    fail(p, p->rc);
    while (p->readers) {
        co_queue_wait(&p->ended);
    }
}

int pc_in_run(struct pc_in *p, const struct pc_link *link, struct err *e)
{
    p->link = link;
    p->over = false;
    p->rc = 0;
    p->took[0] = p->took[1] = 0;
    ask_again(p);
    co_start(p->vm->loop, read_bulk, p);
    if (link->answers != link->bulk) {
        co_start(p->vm->loop, read_answers, p);
    }
    int rc = 0;
    while (rc == 0 && !p->over) {
        rc = say(p);
    }
    if (rc < 0) {
        fail(p, rc);
    }
    rc = pc_in_missing(p) ? p->rc : 0; /* all is there: the machine is whole, heard or not */
    p->over = true;
    hear_out(p);
    return rc == -EBADMSG   ? err_set(e, EPROTO, "%s: a page was damaged on its way", channel_name(link->bulk))
           : rc == -ENODATA ? err_set(e, EPIPE, "%s: the connection is broken", channel_name(link->bulk))
           : rc < 0         ? err_set_errno(e, -rc, "%s", channel_name(link->bulk))
                            : 0;
}
