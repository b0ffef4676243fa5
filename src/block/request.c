/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests in flight: which of them overlap, and who waits for whom. */
#include "block/internal.h"

#include "base/checked.h"

struct range_lock {
    struct request r;
};

void request_begin(struct request *r, struct node *n, enum req_type type, uint64_t off, uint64_t len)
{
    *r = (struct request){.node = n, .type = type, .off = off, .len = len, .co = co_self()};
    g_queue_push_tail_link(&n->tracked, &r->link);
    r->link.data = r;
    node_in_flight_inc(n);
}

void request_end(struct request *r)
{
    struct node *n = r->node;
    g_queue_unlink(&n->tracked, &r->link);
    if (r->serialising) {
        n->serialising--;
    }
    if (!co_queue_empty(&r->waiters)) {
        co_queue_wake_all(&r->waiters);
    }
    node_in_flight_dec(n);
}

static bool conflicts(const struct request *a, const struct request *b)
{
    if (!a->serialising && !b->serialising) {
        return false;
    }
    if (a->co == b->co || a->type == REQ_FLUSH || b->type == REQ_FLUSH) {
        return false;
    }
    if ((a->type == REQ_LOCK && b->type == REQ_READ) || (a->type == REQ_READ && b->type == REQ_LOCK)) {
        return false;
    }
    return ranges_overlap(a->off, a->len, b->off, b->len);
}

void request_wait(struct request *r)
{
    struct node *n = r->node;
    bool again = n->serialising > 0;
    while (again) {
        again = false;
        for (GList *l = n->tracked.head; l; l = l->next) {
            struct request *other = l->data;
            /* One that waits itself either waits for us, or looks again, and finds us, when it wakes. */
            if (other == r || other->waiting_for || !conflicts(r, other)) {
                continue;
            }
            r->waiting_for = other;
            co_queue_wait(&other->waiters);
            r->waiting_for = NULL;
            again = true;
            break;
        }
    }
}

void request_serialise(struct request *r, uint64_t align)
{
    uint64_t start = round_down(r->off, align), end = round_up(r->off + r->len, align);
    r->off = start;
    r->len = end - start;
    if (!r->serialising) {
        r->serialising = true;
        r->node->serialising++;
    }
    request_wait(r);
}

struct range_lock *node_lock_range(struct node *n, uint64_t off, uint64_t len)
{
    struct range_lock *l = g_try_new0(struct range_lock, 1);
    if (!l) {
        return NULL;
    }
    request_begin(&l->r, n, REQ_LOCK, off, len);
    request_serialise(&l->r, 1);
    return l;
}

void node_unlock_range(struct range_lock *l)
{
    if (l) {
        request_end(&l->r);
        g_free(l);
    }
}

bool node_changing(struct node *n, uint64_t off, uint64_t len)
{
    for (const GList *l = n->tracked.head; l; l = l->next) {
        const struct request *r = l->data;
        bool changes = r->type == REQ_WRITE || r->type == REQ_ZERO || r->type == REQ_DISCARD || r->type == REQ_TRUNCATE;
        if (changes && ranges_overlap(r->off, r->len, off, len)) {
            return true;
        }
    }
    return false;
}
