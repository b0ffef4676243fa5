/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/turn.h"

#include "base/checked.h"

void turn_begin(GQueue *queue, struct turn *t, uint64_t off, uint64_t len)
{
    *t = (struct turn){.off = off, .len = len, .link = {.data = t}};
    g_queue_push_tail_link(queue, &t->link);
    for (GList *i = t->link.prev; i;) {
        struct turn *before = i->data;
        if (ranges_overlap(off, len, before->off, before->len)) {
            co_queue_wait(&before->waiters);
            i = t->link.prev;
        } else {
            i = i->prev;
        }
    }
}

void turn_end(GQueue *queue, struct turn *t)
{
    g_queue_unlink(queue, &t->link);
    co_queue_wake_all(&t->waiters);
}
