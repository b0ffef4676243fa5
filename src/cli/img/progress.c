/* SPDX-License-Identifier: BSD-2-Clause */
/* How far a verb has come: a line on standard output with -p, one on standard error whenever SIGUSR1 asks for it. */
#include "cli/img/img.h"

#include "loop/loop.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/signalfd.h>
#include <unistd.h>

static sigset_t asking(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return set;
}

void img_progress_block_signal(void)
{
    sigset_t set = asking();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void on_signal(void *opaque, short revents)
{
    struct img_progress *p = opaque;
    struct signalfd_siginfo si;
    if (read(p->fd, &si, sizeof(si)) == sizeof(si)) {
        fprintf(stderr, "    (%3.2f/100%%)\n", p->now);
    }
}

static void show(struct img_progress *p)
{
    printf("    (%3.2f/100%%)\r", p->now);
    fflush(stdout);
    p->shown = p->now;
}

void img_progress_start(struct img_progress *p, bool on)
{
    sigset_t set = asking();
    *p = (struct img_progress){.on = on, .fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)};
    p->watch = fd_watch_create(loop_current(), p->fd, POLLIN, on_signal, p);
    if (on) {
        show(p);
    }
}

void img_progress_set(struct img_progress *p, double percent)
{
    p->now = MIN(percent, 100);
    if (p->on && (p->now - p->shown >= 1 || p->now >= 100)) { /* the end as often as it is told */
        show(p);
    }
}

void img_progress_end(struct img_progress *p)
{
    if (p->watch) {
        fd_watch_destroy(p->watch);
        close(p->fd);
    }
    if (p->on) {
        putchar('\n');
    }
    *p = (struct img_progress){0};
}
