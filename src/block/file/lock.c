/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/file/file.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <unistd.h>

#define BASE_PERM   100
#define BASE_SHARED 200
#define BITS        4
enum { SETTLE_TRIES = 20, SETTLE_NS = 10000000 };

static const char *const perm_names[BITS] = {"consistent read", "write", "write unchanged", "resize"};

static int set_byte(int fd, off_t byte, short type)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int rc;
    do {
        rc = fcntl(fd, F_OFD_SETLK, &fl);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* 1: somebody else holds it. */
static int byte_is_taken(int fd, off_t byte)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    if (fcntl(fd, F_OFD_GETLK, &fl) < 0) {
        return -errno;
    }
    return fl.l_type != F_UNLCK;
}

int file_lock_init(struct file_lock *l, int fd, int mode, const char *path, struct err *e)
{
    *l = (struct file_lock){.fd = -1};
    if (mode == LOCKING_OFF) {
        return 0;
    }
    if (byte_is_taken(fd, BASE_PERM) < 0) { /* a file system without locks */
        return mode == LOCKING_ON ? err_set(e, ENOTSUP, "Could not lock '%s': its file system has no locks", path) : 0;
    }
    l->fd = fd;
    return 0;
}

void file_lock_settle(const struct file_lock *l, bool read_only)
{
    const unsigned bit = 1; /* of PERM_WRITE */
    for (unsigned i = 0; i < SETTLE_TRIES && l->fd >= 0; i++) {
        bool taken = byte_is_taken(l->fd, BASE_PERM + bit) > 0;
        taken = taken || (!read_only && byte_is_taken(l->fd, BASE_SHARED + bit) > 0);
        if (!taken) {
            break;
        }
        /* Another program's locks: nothing tells when they go, and to wait in fcntl() could be for ever. */
        co_sleep(SETTLE_NS);
    }
}

static int lock_error(int rc, const char *shared, unsigned bit, const char *path, struct err *e)
{
    if (rc == -EAGAIN || rc == -EACCES) {
        return err_set(e, EAGAIN, "Failed to get %s\"%s\" lock\nIs another process using the image [%s]?", shared,
                       perm_names[bit], path);
    }
    return err_set_errno(e, -rc, "Failed to lock '%s'", path);
}

static int take_bits(const struct file_lock *l, unsigned want, unsigned have, off_t base, short type)
{
    for (unsigned i = 0; i < BITS; i++) {
        if ((want & ~have) & (1u << i)) {
            int rc = set_byte(l->fd, base + i, type);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

static int check_bytes(const struct file_lock *l, unsigned bits, off_t base, const char *shared, const char *path,
                       struct err *e)
{
    for (unsigned i = 0; i < BITS; i++) {
        int rc = bits & (1u << i) ? byte_is_taken(l->fd, base + i) : 0;
        if (rc) {
            return lock_error(rc > 0 ? -EAGAIN : rc, shared, i, path, e);
        }
    }
    return 0;
}

static int check_others(const struct file_lock *l, unsigned perm, unsigned unshared, const char *path, struct err *e)
{
    int rc = check_bytes(l, perm, BASE_SHARED, "", path, e);
    return rc ? rc : check_bytes(l, unshared, BASE_PERM, "shared ", path, e);
}

int file_lock_update(struct file_lock *l, unsigned perm, unsigned shared, const char *path, struct err *e)
{
    unsigned unshared = PERM_ALL & ~shared;
    if (l->fd < 0 || (perm == l->perm && unshared == l->unshared)) {
        return 0;
    }
    int rc = take_bits(l, perm, l->perm, BASE_PERM, F_RDLCK);
    if (!rc) {
        rc = take_bits(l, unshared, l->unshared, BASE_SHARED, F_RDLCK);
    }
    if (rc < 0) {
        lock_error(rc, "", 0, path, e);
    } else {
        rc = check_others(l, perm & ~l->perm, unshared & ~l->unshared, path, e);
    }
    unsigned keep_perm = rc < 0 ? l->perm : perm, keep_unshared = rc < 0 ? l->unshared : unshared;
    take_bits(l, perm | l->perm, keep_perm, BASE_PERM, F_UNLCK);
    take_bits(l, unshared | l->unshared, keep_unshared, BASE_SHARED, F_UNLCK);
    l->perm = keep_perm;
    l->unshared = keep_unshared;
    return rc;
}

void file_lock_move(struct file_lock *l, int fd, struct node *n)
{
    if (l->fd < 0) {
        return;
    }
    struct file_lock to = {.fd = fd}; /* shared locks do not exclude those that we hold on the other descriptor */
    int rc = take_bits(&to, l->perm, 0, BASE_PERM, F_RDLCK);
    rc = rc < 0 ? rc : take_bits(&to, l->unshared, 0, BASE_SHARED, F_RDLCK);
    if (rc < 0) {
        log_warn(graph_log(n->graph), "Failed to lock '%s' again: %s", n->filename, g_strerror(-rc));
    }
    take_bits(l, l->perm, 0, BASE_PERM, F_UNLCK);
    take_bits(l, l->unshared, 0, BASE_SHARED, F_UNLCK);
    l->fd = fd;
}

bool file_lock_is_written(const char *path)
{
    const unsigned bit = 1; /* of PERM_WRITE */
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    return fd >= 0 && byte_is_taken(fd, BASE_PERM + bit) > 0;
}
