/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The io_uring engine. Requests gather in the submission queue and enter the kernel once per turn, with the call that
 * waits. The eventfd that other threads write is watched by one multishot poll, the epoll set of fd watches by a poll
 * that is renewed after the watches have been called, so that they stay level-triggered.
 */
#include "loop/impl.h"

#include <glib.h>
#include <liburing.h>
#include <poll.h>

enum { ENTRIES = 256 };
/* user_data of what is no io_req; requests are aligned pointers. */
enum { TAG_NONE = 1, TAG_WAKE = 2, TAG_WATCHES = 3 };

struct uring {
    struct io_uring ring;
    bool up;
    bool wake_armed, watches_armed;
    bool watches_due; /* the epoll set has something */
};

/* Finishes requests; runs nothing. */
static void reap(struct uring *u)
{
    unsigned head;
    unsigned n = 0;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        n++;
        switch (cqe->user_data) {
        case TAG_NONE:
            break;
        case TAG_WAKE:
            u->wake_armed = cqe->flags & IORING_CQE_F_MORE;
            break;
        case TAG_WATCHES:
            u->watches_armed = false;
            u->watches_due = true;
            break;
        default:
            io_req_done((struct io_req *)(uintptr_t)cqe->user_data, cqe->res);
        }
    }
    io_uring_cq_advance(&u->ring, n);
}

static struct io_uring_sqe *get_sqe(struct uring *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    while (!sqe) {
        if (io_uring_submit(&u->ring) < 0) { /* completions have to be fetched first */
            io_uring_get_events(&u->ring);
            reap(u);
        }
        sqe = io_uring_get_sqe(&u->ring);
    }
    return sqe;
}

static int uring_create(struct loop *l, struct err *e)
{
    struct uring *u = g_new0(struct uring, 1);
    l->engine = u;
    int rc = io_uring_queue_init(ENTRIES, &u->ring, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
    if (rc == -EINVAL) { /* older than Linux 5.19 */
        rc = io_uring_queue_init(ENTRIES, &u->ring, 0);
    }
    if (rc) {
        return err_set_errno(e, -rc, "cannot set up io_uring");
    }
    u->up = true;
    io_uring_ring_dontfork(&u->ring);
    /* Came with Linux 5.13, as did multishot polls, which have no flag. */
    unsigned need = IORING_FEAT_RSRC_TAGS | IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP;
    if ((u->ring.features & need) != need) {
        return err_set(e, ENOSYS, "this kernel's io_uring is older than Linux 5.13");
    }
    rc = watch_set_init(&l->watches, -1);
    return rc ? err_set_errno(e, -rc, "cannot create an epoll set") : 0;
}

static void uring_destroy(struct loop *l)
{
    struct uring *u = l->engine;
    if (u && u->up) {
        io_uring_queue_exit(&u->ring);
    }
    g_free(u);
    l->engine = NULL;
    watch_set_finish(&l->watches);
}

static void arm(struct loop *l, struct uring *u)
{
    if (!u->wake_armed) {
        struct io_uring_sqe *sqe = get_sqe(u);
        io_uring_prep_poll_multishot(sqe, l->wake_fd, POLLIN);
        sqe->user_data = TAG_WAKE;
        u->wake_armed = true;
    }
    if (!u->watches_armed && l->watches.slots) {
        struct io_uring_sqe *sqe = get_sqe(u);
        io_uring_prep_poll_add(sqe, l->watches.epfd, POLLIN);
        sqe->user_data = TAG_WATCHES;
        u->watches_armed = true;
    }
}

/* Enters the kernel when there is a reason to. */
static void enter(struct uring *u, uint64_t timeout_ns)
{
    if (timeout_ns == 0) {
        if (io_uring_sq_ready(&u->ring)) {
            io_uring_submit_and_get_events(&u->ring);
        } else if (IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) {
            io_uring_get_events(&u->ring);
        }
        return;
    }
    if (timeout_ns == NO_TIMEOUT) {
        io_uring_submit_and_wait(&u->ring, 1);
        return;
    }
    struct __kernel_timespec ts = {.tv_sec = (int64_t)(timeout_ns / NS_PER_S),
                                   .tv_nsec = (long long)(timeout_ns % NS_PER_S)};
    struct io_uring_cqe *cqe;
    io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
}

static void uring_wait(struct loop *l, uint64_t timeout_ns)
{
    struct uring *u = l->engine;
    arm(l, u);
    bool now = l->ready.head || u->watches_due || watch_set_always_ready(&l->watches);
    enter(u, now ? 0 : timeout_ns);
    reap(u);
    if (u->watches_due || watch_set_always_ready(&l->watches)) {
        u->watches_due = false;
        watch_set_wait(&l->watches, 0);
    }
}

static void uring_start(struct loop *l, struct io_req *r)
{
    struct io_uring_sqe *sqe = get_sqe(l->engine);
    switch (r->op) {
    case IO_READ:
        io_uring_prep_readv2(sqe, r->fd, r->iov, (unsigned)r->n, r->off, r->flags);
        break;
    case IO_WRITE:
        io_uring_prep_writev2(sqe, r->fd, r->iov, (unsigned)r->n, r->off, r->flags);
        break;
    case IO_SYNC:
        io_uring_prep_fsync(sqe, r->fd, IORING_FSYNC_DATASYNC);
        break;
    case IO_ALLOCATE:
        io_uring_prep_fallocate(sqe, r->fd, r->flags, (off_t)r->off, (off_t)r->len);
        break;
    case IO_POLL:
        io_uring_prep_poll_add(sqe, r->fd, (unsigned)r->flags & 0xffff);
        break;
    }
    if (r->idle) {
        sqe->ioprio = IDLE_PRIORITY;
    }
    io_uring_sqe_set_data(sqe, r);
}

static void uring_cancel_poll(struct loop *l, struct io_req *r)
{
    if (r->done) {
        return;
    }
    struct io_uring_sqe *sqe = get_sqe(l->engine);
    io_uring_prep_poll_remove(sqe, (uintptr_t)r);
    sqe->user_data = TAG_NONE;
}

const struct engine_ops uring_engine = {
    .name = "io_uring",
    .create = uring_create,
    .destroy = uring_destroy,
    .wait = uring_wait,
    .start = uring_start,
    .cancel_poll = uring_cancel_poll,
};
