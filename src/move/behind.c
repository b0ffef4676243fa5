/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/behind.h"

#include "loop/co.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    BUFFERS = 3,
    SIZE = 4 << 20, /* bytes of one; all but the first begin at multiples of it in the file */
    ALIGN = 4096,   /* what O_DIRECT asks for at most */
};

struct buffer {
    struct behind *b;
    uint8_t *data;
    uint64_t at;
    size_t fill;
    bool busy; /* is being written */
};

struct behind {
    struct loop *loop;
    int fd, direct;
    int rc; /* the first error */
    uint8_t *memory;
    unsigned now;
    struct buffer buffers[BUFFERS];
    struct co_queue done;
};

struct behind *behind_create(struct loop *l, int fd, int direct, uint64_t at)
{
    struct behind *b = g_new0(struct behind, 1);
    *b = (struct behind){.loop = l, .fd = fd, .direct = direct};
    b->memory = g_malloc((size_t)BUFFERS * SIZE + ALIGN);
    uint8_t *data = b->memory + (ALIGN - (uintptr_t)b->memory % ALIGN);
    madvise(data, (size_t)BUFFERS * SIZE, MADV_HUGEPAGE);
    for (unsigned i = 0; i < BUFFERS; i++) {
        b->buffers[i] = (struct buffer){.b = b, .data = data + (size_t)i * SIZE, .at = at};
    }
    return b;
}

static ssize_t write_some(struct buffer *k, size_t done)
{
    struct behind *b = k->b;
    const struct iovec v = {k->data + done, k->fill - done};
    uint64_t at = k->at + done;
    if (b->direct >= 0 && (at | done | v.iov_len) % ALIGN == 0) {
        ssize_t n = co_pwritev(b->direct, &v, 1, at, 0);
        if (n != -EINVAL && n != -EOPNOTSUPP) {
            return n;
        }
    }
    return co_pwritev(b->fd, &v, 1, at, 0);
}

static void write_buffer(void *opaque)
{
    struct buffer *k = opaque;
    struct behind *b = k->b;
    for (size_t done = 0; done < k->fill && b->rc == 0;) {
        ssize_t n = write_some(k, done);
        if (n <= 0 && n != -EINTR) {
            b->rc = n < 0 ? (int)n : -EIO;
        }
        done += n > 0 ? (size_t)n : 0;
    }
    k->busy = false;
    co_queue_wake_all(&b->done);
}

static void wait_for(struct buffer *k)
{
    while (k->busy) {
        co_queue_wait(&k->b->done);
    }
}

static void hand_over(struct behind *b)
{
    struct buffer *k = &b->buffers[b->now];
    uint64_t next = k->at + k->fill;
    k->busy = true;
    co_start(b->loop, write_buffer, k);
    b->now = (b->now + 1) % BUFFERS;
    k = &b->buffers[b->now];
    wait_for(k);
    k->at = next;
    k->fill = 0;
}

int behind_write(struct behind *b, const void *buf, size_t len)
{
    const uint8_t *from = buf;
    while (len && b->rc == 0) {
        struct buffer *k = &b->buffers[b->now];
        size_t room = SIZE - k->at % SIZE - k->fill, n = MIN(room, len);
        memcpy(k->data + k->fill, from, n);
        k->fill += n;
        from += n;
        len -= n;
        if (n == room) {
            hand_over(b);
        }
    }
    return b->rc;
}

/* The end in whole blocks goes the fast way, too. */
int behind_finish(struct behind *b)
{
    struct buffer *k = &b->buffers[b->now];
    size_t odd = (k->at + k->fill) % ALIGN;
    uint8_t rest[ALIGN];
    if (b->rc == 0 && k->fill > odd) {
        k->fill -= odd;
        memcpy(rest, k->data + k->fill, odd);
        hand_over(b);
        k = &b->buffers[b->now];
        memcpy(k->data, rest, odd);
        k->fill = odd;
    }
    if (b->rc == 0 && k->fill) {
        hand_over(b);
    }
    for (unsigned i = 0; i < BUFFERS; i++) {
        wait_for(&b->buffers[i]);
    }
    return b->rc;
}

void behind_destroy(struct behind *b)
{
    if (!b) {
        return;
    }
    for (unsigned i = 0; i < BUFFERS; i++) {
        wait_for(&b->buffers[i]);
    }
    if (b->direct >= 0) {
        close(b->direct);
    }
    g_free(b->memory);
    g_free(b);
}
