/* SPDX-License-Identifier: BSD-2-Clause */
/* The engine where io_uring is not to be had: epoll waits, workers make the calls that block. */
#include "loop/impl.h"

#include <fcntl.h>
#include <glib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int epoll_create_engine(struct loop *l, struct err *e)
{
    int rc = watch_set_init(&l->watches, l->wake_fd);
    return rc ? err_set_errno(e, -rc, "cannot create an epoll set") : 0;
}

static void epoll_destroy_engine(struct loop *l)
{
    watch_set_finish(&l->watches);
}

static void epoll_engine_wait(struct loop *l, uint64_t timeout_ns)
{
    watch_set_wait(&l->watches, timeout_ns);
}

static ssize_t call(const struct io_req *r, int extra_flags)
{
    switch (r->op) {
    case IO_READ:
        return preadv2(r->fd, r->iov, r->n, (off_t)r->off, r->flags | extra_flags);
    case IO_WRITE:
        return pwritev2(r->fd, r->iov, r->n, (off_t)r->off, r->flags | extra_flags);
    case IO_SYNC:
        return fdatasync(r->fd);
    case IO_ALLOCATE:
        return fallocate(r->fd, r->flags, (off_t)r->off, (off_t)r->len);
    case IO_POLL:
        break;
    }
    errno = EINVAL;
    return -1;
}

/* Of this thread; where the kernel has none, nothing happens. */
static void set_priority(int priority)
{
    syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority);
}

static int work(void *opaque)
{
    struct io_req *r = opaque;
    if (r->idle) {
        set_priority(IDLE_PRIORITY);
    }
    do {
        r->res = call(r, 0);
    } while (r->res < 0 && errno == EINTR);
    r->res = r->res < 0 ? -errno : r->res;
    if (r->idle) {
        set_priority(IOPRIO_PRIO_VALUE(IOPRIO_CLASS_NONE, 0));
    }
    return 0;
}

static void work_done(void *opaque, int rc)
{
    struct io_req *r = opaque;
    io_req_done(r, r->res);
}

static void poll_end(struct io_req *r, ssize_t res)
{
    fd_watch_destroy(r->watch);
    r->watch = NULL;
    io_req_done(r, res);
}

static void poll_ready(void *opaque, short revents)
{
    struct io_req *r = opaque;
    if (!r->done) {
        poll_end(r, (unsigned short)revents);
    }
}

static void epoll_start(struct loop *l, struct io_req *r)
{
    if (r->op == IO_POLL) {
        r->watch = fd_watch_create(l, r->fd, (short)r->flags, poll_ready, r);
        if (!r->watch) {
            io_req_done(r, -EBADF);
        }
        return;
    }
    if (r->op == IO_READ) { /* what is in the page cache is not worth a thread's attention */
        ssize_t n = call(r, RWF_NOWAIT);
        if (n > 0) {
            io_req_done(r, n);
            return;
        }
    }
    r->work = (struct work_item){.fn = work, .done = work_done, .opaque = r};
    workers_submit(l, &r->work);
}

static void epoll_cancel_poll(struct loop *l, struct io_req *r)
{
    if (!r->done) {
        poll_end(r, -ECANCELED);
    }
}

const struct engine_ops epoll_engine = {
    .name = "epoll",
    .create = epoll_create_engine,
    .destroy = epoll_destroy_engine,
    .wait = epoll_engine_wait,
    .start = epoll_start,
    .cancel_poll = epoll_cancel_poll,
};
