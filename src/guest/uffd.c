/* SPDX-License-Identifier: BSD-2-Clause */
#include "guest/uffd.h"

#include "guest/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_UNPOPULATED
#define UFFD_FEATURE_WP_UNPOPULATED (1 << 13)
#endif

static int check(int rc)
{
    return rc < 0 ? -errno : 0;
}

static int open_with(uint64_t *features, bool user_only)
{
    int fd = user_only ? -1 : (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (user_only || (fd < 0 && errno == EPERM)) {
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    }
    if (fd < 0) {
        return -errno;
    }
    struct uffdio_api api = {.api = UFFD_API, .features = *features};
    int rc = check(ioctl(fd, UFFDIO_API, &api));
    *features = api.features;
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

int uffd_open(struct uffd *u, enum uffd_mode mode)
{
    uint64_t have = 0; /* a descriptor takes its features once: this one only says which there are */
    u->fd = open_with(&have, mode & UFFD_USER_ONLY);
    if (u->fd < 0) {
        return u->fd;
    }
    close(u->fd);
    uint64_t want = mode & UFFD_WRITES ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0;
    if ((have & want) != want) {
        u->fd = -1;
        return -ENOSYS;
    }
    want |= mode & UFFD_WRITES ? have & UFFD_FEATURE_WP_UNPOPULATED : 0;
    u->unpopulated = want & UFFD_FEATURE_WP_UNPOPULATED;
    u->fd = open_with(&want, mode & UFFD_USER_ONLY);
    return u->fd < 0 ? u->fd : 0;
}

void uffd_close(struct uffd *u)
{
    if (u->fd >= 0) {
        close(u->fd);
    }
    u->fd = -1;
}

static struct uffdio_range range(void *at, size_t len)
{
    return (struct uffdio_range){.start = (uintptr_t)at, .len = len};
}

int uffd_register(struct uffd *u, void *at, size_t len, enum uffd_mode mode)
{
    struct uffdio_register r = {.range = range(at, len)};
    r.mode =
        (mode & UFFD_WRITES ? UFFDIO_REGISTER_MODE_WP : 0) | (mode & UFFD_MISSES ? UFFDIO_REGISTER_MODE_MISSING : 0);
    return check(ioctl(u->fd, UFFDIO_REGISTER, &r));
}

void uffd_unregister(struct uffd *u, void *at, size_t len)
{
    struct uffdio_range r = range(at, len);
    ioctl(u->fd, UFFDIO_UNREGISTER, &r);
}

static int set_protection(struct uffd *u, void *at, size_t len, uint64_t mode)
{
    struct uffdio_writeprotect w = {.range = range(at, len), .mode = mode};
    int rc;
    do {
        rc = check(ioctl(u->fd, UFFDIO_WRITEPROTECT, &w));
    } while (rc == -EAGAIN || rc == -EINTR);
    return rc;
}

int uffd_protect(struct uffd *u, void *at, size_t len)
{
    for (size_t i = 0; !u->unpopulated && i < len; i += GUEST_PAGE_SIZE) {
        (void)*((volatile uint8_t *)at + i); /* now there is an entry that can be protected */
    }
    return set_protection(u, at, len, UFFDIO_WRITEPROTECT_MODE_WP);
}

int uffd_unprotect(struct uffd *u, void *at, size_t len)
{
    return set_protection(u, at, len, 0);
}

void uffd_wake(struct uffd *u, void *at, size_t len)
{
    struct uffdio_range r = range(at, len);
    ioctl(u->fd, UFFDIO_WAKE, &r);
}

/* What one call did; *done: bytes. A page that was there already counts as done, and whoever waits for it is woken. */
static int settle(struct uffd *u, int rc, int64_t did, uint8_t *at, size_t *done)
{
    if (did > 0) {
        *done += (size_t)did;
        return 0;
    }
    int64_t why = did < 0 ? -did : errno;
    if (rc < 0 && why == EEXIST) {
        uffd_wake(u, at, GUEST_PAGE_SIZE);
        *done += GUEST_PAGE_SIZE;
        return 0;
    }
    return rc == 0 || why == EAGAIN || why == EINTR ? 0 : (int)-why;
}

int uffd_copy(struct uffd *u, void *to, const void *from, size_t len)
{
    int rc = 0;
    for (size_t done = 0; rc == 0 && done < len;) {
        struct uffdio_copy c = {
            .dst = (uintptr_t)to + done, .src = (uintptr_t)from + done, .len = len - done, .mode = 0};
        int got = ioctl(u->fd, UFFDIO_COPY, &c);
        rc = settle(u, got, c.copy, (uint8_t *)to + done, &done);
    }
    return rc;
}

int uffd_zero(struct uffd *u, void *to, size_t len)
{
    int rc = 0;
    for (size_t done = 0; rc == 0 && done < len;) {
        struct uffdio_zeropage z = {.range = range((uint8_t *)to + done, len - done)};
        int got = ioctl(u->fd, UFFDIO_ZEROPAGE, &z);
        rc = settle(u, got, z.zeropage, (uint8_t *)to + done, &done);
    }
    return rc;
}

int uffd_next(struct uffd *u, struct uffd_fault *f)
{
    struct uffd_msg m;
    ssize_t n;
    do {
        n = read(u->fd, &m, sizeof(m));
    } while ((n < 0 && errno == EINTR) || (n == sizeof(m) && m.event != UFFD_EVENT_PAGEFAULT));
    if (n != sizeof(m)) {
        return n < 0 && errno != EAGAIN ? -errno : 0;
    }
    f->at = (uint8_t *)(uintptr_t)(m.arg.pagefault.address & ~(uint64_t)(GUEST_PAGE_SIZE - 1));
    f->protected = m.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
    return 1;
}
