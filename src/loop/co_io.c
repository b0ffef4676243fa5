/* SPDX-License-Identifier: BSD-2-Clause */
#include "loop/co.h"
#include "loop/impl.h"

#include <assert.h>
#include <limits.h>

void io_req_done(struct io_req *r, ssize_t res)
{
    r->res = res;
    r->done = true;
    if (r->co) {
        co_unpark(r->co);
    }
}

static ssize_t wait_io(struct io_req *r)
{
    struct loop *l = co_loop();
    assert(l);
    do {
        r->done = false;
        r->co = NULL;
        l->ops->start(l, r);
        if (r->done) {
            co_yield (); /* a reader of cached data must not keep the others from running */
        } else {
            r->co = co_self();
            co_park();
        }
    } while (r->res == -EINTR && r->op != IO_POLL);
    return r->res;
}

ssize_t co_preadv(int fd, const struct iovec *iov, int n, uint64_t off)
{
    struct io_req r = {.op = IO_READ, .fd = fd, .iov = iov, .n = n < IOV_MAX ? n : IOV_MAX, .off = off};
    r.idle = co_idle_io();
    return wait_io(&r);
}

ssize_t co_pwritev(int fd, const struct iovec *iov, int n, uint64_t off, int rwf)
{
    struct io_req r = {.op = IO_WRITE, .fd = fd, .iov = iov, .n = n < IOV_MAX ? n : IOV_MAX, .off = off, .flags = rwf};
    r.idle = co_idle_io();
    return wait_io(&r);
}

int co_fdatasync(int fd)
{
    struct io_req r = {.op = IO_SYNC, .fd = fd};
    return (int)wait_io(&r);
}

int co_fallocate(int fd, int mode, uint64_t off, uint64_t len)
{
    struct io_req r = {.op = IO_ALLOCATE, .fd = fd, .off = off, .len = len, .flags = mode};
    return (int)wait_io(&r);
}

struct poll_call {
    struct io_req req;
    struct loop *loop;
    bool timed_out;
};

static void poll_timeout(void *opaque)
{
    struct poll_call *p = opaque;
    p->timed_out = true;
    p->loop->ops->cancel_poll(p->loop, &p->req);
}

int co_poll(int fd, short events, uint64_t timeout_ns)
{
    struct poll_call p = {.req = {.op = IO_POLL, .fd = fd, .flags = (unsigned short)events}, .loop = co_loop()};
    struct timer t;
    timer_init(&t, p.loop, poll_timeout, &p);
    uint64_t now = timeout_ns == UINT64_MAX ? 0 : loop_now_ns();
    if (timeout_ns < UINT64_MAX - now) {
        timer_arm(&t, now + timeout_ns);
    }
    ssize_t res = wait_io(&p.req);
    timer_cancel(&t);
    return p.timed_out && res < 0 ? -ETIMEDOUT : (int)res;
}

struct work_call {
    int (*fn)(void *arg);
    void *arg;
    struct co *co;
    int rc;
};

static int work_run(void *opaque)
{
    struct work_call *w = opaque;
    return w->fn(w->arg);
}

static void work_done(void *opaque, int rc)
{
    struct work_call *w = opaque;
    w->rc = rc;
    co_unpark(w->co);
}

int co_work(int (*fn)(void *arg), void *arg)
{
    struct work_call w = {.fn = fn, .arg = arg, .co = co_self()};
    struct work_item item = {.fn = work_run, .done = work_done, .opaque = &w};
    workers_submit(co_loop(), &item);
    co_park();
    return w.rc;
}
