/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Watches of file descriptors. Several watches may look at one descriptor, which epoll does not allow, so each
 * descriptor has a slot with the union of what its watches want.
 */
#include "base/cleanup.h"
#include "loop/impl.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>

struct fd_watch {
    struct fd_watch *next;      /* of its slot */
    struct fd_watch *next_dead; /* destroyed while callbacks run */
    struct fd_slot *slot;
    struct loop *loop;
    short events; /* 0: paused or destroyed */
    void (*fn)(void *opaque, short revents);
    void *opaque;
};

struct fd_slot {
    int fd;
    uint32_t generation; /* tells stale results of epoll_wait from those of the descriptor that has the number now */
    bool added;
    short always_revents; /* != 0: epoll refuses it; in the list of always-ready ones while it is wanted */
    struct fd_slot *next_always;
    struct fd_watch *watches;
};

#define WAKE_DATA UINT64_MAX

_Static_assert(POLLIN == EPOLLIN && POLLOUT == EPOLLOUT && POLLERR == EPOLLERR && POLLHUP == EPOLLHUP &&
                   POLLPRI == EPOLLPRI && POLLRDHUP == EPOLLRDHUP,
               "poll and epoll number the events alike on Linux");

int watch_set_init(struct watch_set *ws, int wake_fd)
{
    ws->epfd = epoll_create1(EPOLL_CLOEXEC);
    if (ws->epfd < 0) {
        return -errno;
    }
    /* Edge-triggered: each write to the eventfd is an edge, so nobody needs to read it. */
    struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = WAKE_DATA};
    if (wake_fd >= 0 && epoll_ctl(ws->epfd, EPOLL_CTL_ADD, wake_fd, &ev)) {
        return -errno;
    }
    return 0;
}

void watch_set_finish(struct watch_set *ws)
{
    for (unsigned i = 0; i < ws->by_fd_len; i++) {
        g_free(ws->by_fd[i]);
    }
    free(ws->by_fd);
    if (ws->epfd >= 0) {
        close(ws->epfd);
    }
    *ws = (struct watch_set){.epfd = -1};
}

static struct fd_slot *slot_get(struct watch_set *ws, int fd)
{
    if ((unsigned)fd >= ws->by_fd_len) {
        unsigned len = MAX(ws->by_fd_len * 2, (unsigned)fd + 16);
        ws->by_fd = g_realloc_n(ws->by_fd, len, sizeof(struct fd_slot *));
        memset(ws->by_fd + ws->by_fd_len, 0, (len - ws->by_fd_len) * sizeof(struct fd_slot *));
        ws->by_fd_len = len;
    }
    if (!ws->by_fd[fd]) {
        ws->by_fd[fd] = g_new0(struct fd_slot, 1);
        ws->by_fd[fd]->fd = fd;
    }
    return ws->by_fd[fd];
}

static short wanted(const struct fd_slot *s)
{
    short events = 0;
    for (const struct fd_watch *w = s->watches; w; w = w->next) {
        events |= w->events;
    }
    return events;
}

static void always_unlink(struct watch_set *ws, struct fd_slot *s)
{
    for (struct fd_slot **p = &ws->always; *p; p = &(*p)->next_always) {
        if (*p == s) {
            *p = s->next_always;
            break;
        }
    }
    s->always_revents = 0;
}

/* Tells the kernel what the slot's watches want now. */
static void slot_update(struct watch_set *ws, struct fd_slot *s)
{
    short events = wanted(s);
    if (s->always_revents) {
        if (!events) {
            always_unlink(ws, s);
        }
        return;
    }
    if (!events) {
        if (s->added) {
            epoll_ctl(ws->epfd, EPOLL_CTL_DEL, s->fd, NULL); /* fails when it was closed before: gone, too */
            s->added = false;
            s->generation++;
        }
        return;
    }
    struct epoll_event ev = {.events = (uint32_t)(unsigned short)events};
    ev.data.u64 = (uint64_t)s->generation << 32 | (uint32_t)s->fd;
    int rc = epoll_ctl(ws->epfd, s->added ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &ev);
    if (rc && errno == ENOENT) {
        rc = epoll_ctl(ws->epfd, EPOLL_CTL_ADD, s->fd, &ev);
    } else if (rc && errno == EEXIST) {
        rc = epoll_ctl(ws->epfd, EPOLL_CTL_MOD, s->fd, &ev);
    }
    s->added = rc == 0;
    if (rc) {
        s->always_revents = errno == EPERM ? POLLIN | POLLOUT : POLLNVAL;
        s->next_always = ws->always;
        ws->always = s;
    }
}

struct fd_watch *fd_watch_create(struct loop *l, int fd, short events, void (*fn)(void *opaque, short revents),
                                 void *opaque)
{
    if (fd < 0) {
        return NULL;
    }
    struct fd_slot *s = slot_get(&l->watches, fd);
    struct fd_watch *w = g_new0(struct fd_watch, 1);
    *w = (struct fd_watch){.next = s->watches, .slot = s, .loop = l, .events = events, .fn = fn, .opaque = opaque};
    if (!s->watches) {
        l->watches.slots++;
    }
    s->watches = w;
    slot_update(&l->watches, s);
    return w;
}

void fd_watch_set(struct fd_watch *w, short events)
{
    if (w->events != events) {
        w->events = events;
        slot_update(&w->loop->watches, w->slot);
    }
}

static void watch_free(struct watch_set *ws, struct fd_watch *w)
{
    struct fd_slot *s = w->slot;
    for (struct fd_watch **p = &s->watches; *p; p = &(*p)->next) {
        if (*p == w) {
            *p = w->next;
            break;
        }
    }
    g_free(w);
    ws->slots -= !s->watches;
}

void fd_watch_destroy(struct fd_watch *w)
{
    if (!w) {
        return;
    }
    struct watch_set *ws = &w->loop->watches;
    fd_watch_set(w, 0);
    if (ws->dispatching) { /* somebody may stand on it */
        w->next_dead = ws->dead;
        ws->dead = w;
    } else {
        watch_free(ws, w);
    }
}

static void slot_dispatch(struct fd_slot *s, short revents)
{
    /* New watches go to the head and are not seen here; destroyed ones want nothing and stay linked. */
    for (struct fd_watch *w = s->watches; w; w = w->next) {
        short mine = revents & (w->events | POLLERR | POLLHUP | POLLNVAL);
        if (w->events && mine) {
            w->loop->ran = true;
            w->fn(w->opaque, mine);
        }
    }
}

static void dispatch_always(struct watch_set *ws)
{
    g_autoptr(GPtrArray) slots = g_ptr_array_new();
    for (struct fd_slot *s = ws->always; s; s = s->next_always) {
        g_ptr_array_add(slots, s);
    }
    for (guint i = 0; i < slots->len; i++) {
        struct fd_slot *s = g_ptr_array_index(slots, i);
        slot_dispatch(s, s->always_revents);
    }
}

static int wait_ns(int epfd, struct epoll_event *events, int n, uint64_t timeout_ns)
{
    if (timeout_ns == 0 || timeout_ns == NO_TIMEOUT) {
        return epoll_wait(epfd, events, n, timeout_ns ? -1 : 0);
    }
    struct timespec ts = {.tv_sec = (time_t)(timeout_ns / NS_PER_S), .tv_nsec = (long)(timeout_ns % NS_PER_S)};
    int got = epoll_pwait2(epfd, events, n, &ts, NULL);
    if (got < 0 && errno != EINTR) { /* older than Linux 5.11, or refused by a sandbox */
        struct pollfd p = {.fd = epfd, .events = POLLIN};
        got = ppoll(&p, 1, &ts, NULL) > 0 ? epoll_wait(epfd, events, n, 0) : 0;
    }
    return got;
}

void watch_set_wait(struct watch_set *ws, uint64_t timeout_ns)
{
    struct epoll_event events[64];
    int n = wait_ns(ws->epfd, events, 64, ws->always ? 0 : timeout_ns);
    ws->dispatching = true;
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 == WAKE_DATA) {
            continue;
        }
        struct fd_slot *s = ws->by_fd[(uint32_t)events[i].data.u64];
        if (s->added && s->generation == events[i].data.u64 >> 32) {
            slot_dispatch(s, (short)events[i].events);
        }
    }
    if (ws->always) {
        dispatch_always(ws);
    }
    ws->dispatching = false;
    while (ws->dead) {
        struct fd_watch *w = ws->dead;
        ws->dead = w->next_dead;
        watch_free(ws, w);
    }
}
