/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/nbd/device.h"

#include "cli/nbd/client.h"
#include "export/nbd/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/nbd.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

enum { BLOCK = 512 };

struct nbd_device {
    struct nbd_peer peer;
    int fd;
    const struct nbd_args *args;
    struct nbd_device_user user;
    pthread_t thread;
    bool running, ended;
    struct loop_event *end;
    struct co *waiter;
    struct err *e; /* of what runs on a worker at the moment */
};

/* Everything up to the kernel's loop. Blocks: on a worker, as the server on the other end is our own loop. */
static int set_up(void *arg)
{
    struct nbd_device *d = arg;
    struct nbd_peer_export x = {0};
    int rc = nbd_peer_hello(&d->peer, NULL, NULL, false, d->e);
    rc = rc ? rc : nbd_peer_go(&d->peer, d->args->export_name ? d->args->export_name : "", &x, d->e);
    if (rc) {
        return rc;
    }
    d->fd = open(d->args->device, O_RDWR | O_CLOEXEC);
    if (d->fd < 0) {
        return err_set_errno(d->e, errno, "Failed to open %s", d->args->device);
    }
    unsigned long block = MAX(x.min_block, (uint32_t)BLOCK);
    int read_only = x.flags & NBD_FLAG_READ_ONLY ? 1 : 0;
    if (ioctl(d->fd, NBD_CLEAR_SOCK) < 0 || ioctl(d->fd, NBD_SET_SOCK, (unsigned long)d->peer.fd) < 0) {
        return err_set_errno(d->e, errno, "Failed to set NBD socket");
    }
    if (ioctl(d->fd, NBD_SET_BLKSIZE, block) < 0) {
        return err_set_errno(d->e, errno, "Failed setting NBD block size");
    }
    if (ioctl(d->fd, NBD_SET_SIZE_BLOCKS, (unsigned long)(x.size / block)) < 0) {
        return err_set_errno(d->e, errno, "Failed setting size (in blocks)");
    }
    if (ioctl(d->fd, NBD_SET_FLAGS, (unsigned long)x.flags) < 0 && errno != ENOTTY) {
        return err_set_errno(d->e, errno, "Failed setting flags");
    }
    if (ioctl(d->fd, BLKROSET, &read_only) < 0) {
        return err_set_errno(d->e, errno, "Failed setting read-only attribute");
    }
    return 0;
}

/* The kernel's client lives in this call. */
static void *serve_kernel(void *arg)
{
    struct nbd_device *d = arg;
    ioctl(d->fd, NBD_DO_IT);
    ioctl(d->fd, NBD_CLEAR_QUE);
    ioctl(d->fd, NBD_CLEAR_SOCK);
    loop_event_set(d->end);
    return NULL;
}

static void on_end(void *opaque)
{
    struct nbd_device *d = opaque;
    d->ended = true;
    if (d->waiter) {
        co_wake(d->waiter);
    }
    d->user.gone(d->user.opaque);
}

int nbd_device_connect(struct nbd_server *s, const struct nbd_args *a, const struct nbd_device_user *user,
                       struct nbd_device **out, struct err *e)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return err_set_errno(e, errno, "Failed to create a pair of sockets");
    }
    struct nbd_device *d = g_new0(struct nbd_device, 1);
    *d = (struct nbd_device){.peer = {.fd = pair[1]}, .fd = -1, .args = a, .user = *user, .e = e};
    d->end = loop_event_create(loop_current(), on_end, d);
    nbd_server_adopt(s, pair[0]);
    *out = d;
    int rc = co_work(set_up, d);
    d->e = NULL;
    if (rc) {
        return rc;
    }
    rc = pthread_create(&d->thread, NULL, serve_kernel, d);
    if (rc) {
        return err_set_errno(e, rc, "Failed to create client thread");
    }
    d->running = true;
    if (a->verbose) {
        fprintf(stderr, "NBD device %s is now connected to %s\n", a->device, a->file);
    }
    return 0;
}

void nbd_device_disconnect(struct nbd_device *d)
{
    if (!d) {
        return;
    }
    if (d->running) {
        d->waiter = co_self();
        if (!d->ended) {
            ioctl(d->fd, NBD_DISCONNECT);
        }
        while (!d->ended) {
            co_wait();
        }
        pthread_join(d->thread, NULL);
    }
    loop_event_destroy(d->end);
    nbd_peer_close(&d->peer);
    if (d->fd >= 0) {
        close(d->fd);
    }
    g_free(d);
}

int nbd_disconnect(const struct nbd_args *a)
{
    CLEANUP_CLOSE int fd = open(a->file, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return nbd_fail(a, "Cannot open %s: %s", a->file, strerror(errno));
    }
    ioctl(fd, NBD_CLEAR_QUE);
    ioctl(fd, NBD_DISCONNECT);
    ioctl(fd, NBD_CLEAR_SOCK);
    printf("%s disconnected\n", a->file);
    return 0;
}
