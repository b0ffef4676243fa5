/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "file": a regular file; "host_device": a block device. The loop does the system calls, by io_uring or by worker
 * threads, so `aio` chooses nothing here beyond the checks that go with it.
 */
#include "block/file/file.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/existing.h"
#include "block/reopen.h"

#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define WINDOW 64 /* buffers in one system call when the request is a part of a longer vector */

/* --- open and close --------------------------------------------------------------------------------------------- */

struct open_call {
    const char *path;
    int flags;
    bool want_device, retry_read_only;
    int fd;
    bool read_only;
    uint64_t size;
    struct block_limits limits;
    bool wrong_type, not_writable, sizeless;
};

static int open_fd(struct open_call *c)
{
    c->fd = c->read_only ? -1 : open(c->path, c->flags | O_RDWR | O_CLOEXEC);
    bool retry = c->retry_read_only && (errno == EACCES || errno == EPERM || errno == EROFS);
    if (c->fd < 0 && (c->read_only || retry)) {
        c->read_only = true;
        c->fd = open(c->path, c->flags | O_RDONLY | O_CLOEXEC);
    }
    return c->fd < 0 ? -errno : 0;
}

static bool right_type(const struct open_call *c, mode_t mode)
{
    return c->want_device ? S_ISBLK(mode) || S_ISCHR(mode) : S_ISREG(mode);
}

/* A device that its driver will not write to, although it opens. */
static int check_writable(struct open_call *c)
{
    int ro = 0;
    if (c->read_only || ioctl(c->fd, BLKROGET, &ro) < 0 || !ro) {
        return 0;
    }
    c->not_writable = !c->retry_read_only;
    c->read_only = true;
    return c->not_writable ? -EACCES : 0;
}

static int open_blocking(void *arg)
{
    struct open_call *c = arg;
    struct stat st;
    c->wrong_type = stat(c->path, &st) == 0 && S_ISFIFO(st.st_mode); /* to open it would wait for its other end */
    int rc = c->wrong_type ? -EINVAL : open_fd(c);
    if (rc < 0) {
        return rc;
    }
    if (fstat(c->fd, &st) < 0) {
        return -errno;
    }
    c->wrong_type = !right_type(c, st.st_mode);
    if (c->wrong_type) {
        return -EINVAL;
    }
    c->size = (uint64_t)st.st_size;
    c->sizeless = !st.st_size && S_ISREG(st.st_mode) && lseek(c->fd, 0, SEEK_END) < 0; /* what /proc makes up */
    if (c->sizeless) {
        return -errno;
    }
    c->limits.request_align = c->limits.mem_align = 1;
    if (c->want_device) {
        rc = check_writable(c);
        rc = rc ? rc : file_device_size(c->fd, &c->size);
        file_device_limits(c->fd, &c->limits);
    }
    return rc < 0 || !(c->flags & O_DIRECT) ? rc : file_probe_align(c->fd, c->want_device, &c->limits);
}

static int open_error(struct node *n, const struct open_call *c, int rc, struct err *e)
{
    if (c->wrong_type) {
        return err_set(e, EINVAL, "'%s' driver requires '%s' to be %s", n->drv->name, c->path,
                       c->want_device ? "either a character or block device" : "a regular file");
    }
    if (c->sizeless) {
        return err_set_errno(e, -rc, "Could not refresh total sector count");
    }
    if (c->not_writable) {
        return err_set_errno(e, EACCES, "The device is not writable");
    }
    if (rc == -EINVAL && n->direct) {
        return err_set(e, EINVAL, "Could not open '%s': filesystem does not support O_DIRECT", c->path);
    }
    return err_set_errno(e, -rc, "Could not open '%s'", c->path);
}

struct file_options {
    const char *path;
    int locking;
};

static int read_options(struct node *n, struct json_object *options, struct file_options *fo, struct err *e)
{
    static const char *const aio_names[] = {"threads", "native", "io_uring", NULL};
    static const char *const locking_names[] = {"auto", "on", "off", NULL};
    struct jread r = jread_init(options, NULL, e);
    fo->path = jread_str_or(&r, "filename", NULL);
    int aio = jread_enum_or(&r, "aio", aio_names, 0);
    fo->locking = jread_enum_or(&r, "locking", locking_names, LOCKING_AUTO);
    int64_t batch = jread_int_or(&r, "aio-max-batch", 0);
    jread_bool_or(&r, "drop-cache", true);
    jread_bool_or(&r, "x-check-cache-dropped", false);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (batch < 0) {
        return err_set(e, EINVAL, "aio-max-batch must not be negative");
    }
    if (!fo->path || !*fo->path) {
        return err_set(e, EINVAL, "The '%s' block driver requires a file name", n->drv->name);
    }
    if (aio == 1 && !n->direct) {
        return err_set(e, EINVAL,
                       "aio=native was specified, but it requires cache.direct=on, which was not specified.");
    }
    return 0;
}

static int file_open_node(struct node *n, struct json_object *options, bool device, struct err *e)
{
    struct file_state *s = n->priv;
    struct file_options fo;
    int rc = read_options(n, options, &fo, e);
    if (rc < 0) {
        return rc;
    }
    struct open_call c = {.path = fo.path,
                          .flags = n->direct ? O_DIRECT : 0,
                          .want_device = device,
                          .read_only = n->read_only,
                          .retry_read_only = n->auto_read_only,
                          .fd = -1};
    rc = co_work(open_blocking, &c);
    CLEANUP_CLOSE int fd = c.fd;
    if (rc < 0) {
        return open_error(n, &c, rc, e);
    }
    rc = file_lock_init(&s->lock, fd, fo.locking, fo.path, e);
    if (rc < 0) {
        return rc;
    }
    if (!n->force_share && !n->inactive) {
        file_lock_settle(&s->lock, c.read_only);
    }
    n->read_only = c.read_only;
    n->size = c.size;
    n->limits = c.limits;
    s->is_device = device;
    s->fd = take_fd(&fd);
    g_free(n->filename);
    n->filename = g_strdup(fo.path);
    return 0;
}

static int file_open(struct node *n, struct json_object *options, struct err *e)
{
    return file_open_node(n, options, false, e);
}

static int host_device_open(struct node *n, struct json_object *options, struct err *e)
{
    return file_open_node(n, options, true, e);
}

static int close_blocking(void *arg)
{
    return close(*(int *)arg) < 0 ? -errno : 0;
}

static void file_close(struct node *n)
{
    struct file_state *s = n->priv;
    co_work(close_blocking, &s->fd);
}

static int file_set_perm(struct node *n, unsigned perm, unsigned shared, struct err *e)
{
    struct file_state *s = n->priv;
    return file_lock_update(&s->lock, perm, shared, n->filename, e);
}

/* --- other hosts' turn ----------------------------------------------------------------------------------------------
 */

struct look_call {
    int fd;
    bool is_device, drop_cache;
    uint64_t size;
};

static int look_blocking(void *arg)
{
    struct look_call *c = arg;
    struct stat st;
    if (c->drop_cache) { /* where a file system leaves it to us that no host sees what it has read before */
        posix_fadvise(c->fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    if (c->is_device) {
        return file_device_size(c->fd, &c->size);
    }
    if (fstat(c->fd, &st) < 0) {
        return -errno;
    }
    c->size = (uint64_t)st.st_size;
    return 0;
}

static int file_read_again(struct node *n, struct err *e)
{
    struct file_state *s = n->priv;
    struct jread r = jread_init(n->options, NULL, e);
    struct look_call c = {s->fd, s->is_device, jread_bool_or(&r, "drop-cache", true), 0};
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    rc = co_work(look_blocking, &c);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not refresh total sector count of '%s'", n->filename);
    }
    s->data_start = s->data_end = 0;
    node_set_size(n, c.size);
    return 0;
}

/* --- reopening -------------------------------------------------------------------------------------------------- */

/* Of the descriptor that is not in use. fd -1: the same one serves on. */
struct file_reopen {
    int fd;
    struct block_limits limits;
};

static bool same_file(int a, int b)
{
    struct stat x, y;
    return !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int file_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct file_state *s = n->priv;
    struct file_options fo;
    int rc = read_options(&r->as, r->as.options, &fo, e);
    if (rc < 0) {
        return rc;
    }
    struct open_call c = {.path = fo.path,
                          .flags = r->as.direct ? O_DIRECT : 0,
                          .want_device = s->is_device,
                          .read_only = r->as.read_only,
                          .retry_read_only = r->as.auto_read_only,
                          .fd = -1};
    if (r->as.read_only != n->read_only || r->as.direct != n->direct) {
        rc = co_work(open_blocking, &c);
        CLEANUP_CLOSE int fd = c.fd;
        if (rc < 0) {
            return open_error(&r->as, &c, rc, e);
        }
        if (!same_file(fd, s->fd)) {
            return err_set(e, ESTALE, "Could not reopen '%s': the name belongs to another file now", fo.path);
        }
        r->as.read_only = c.read_only;
        c.fd = take_fd(&fd);
    }
    struct file_reopen *fr = g_new(struct file_reopen, 1);
    *fr = (struct file_reopen){c.fd, c.limits};
    r->priv = fr;
    return 0;
}

static void file_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct file_state *s = n->priv;
    struct file_reopen *fr = r->priv, old = {s->fd, n->limits};
    if (fr->fd >= 0) {
        file_lock_move(&s->lock, fr->fd, n);
        s->fd = fr->fd;
        n->limits = fr->limits;
        *fr = old;
    }
}

static void file_reopen_finish(struct node *n, struct node_reopen *r)
{
    struct file_reopen *fr = r->priv;
    if (fr->fd >= 0) {
        co_work(close_blocking, &fr->fd);
    }
    g_free(fr);
}

/* --- requests --------------------------------------------------------------------------------------------------- */

static int window(const struct iovs *v, size_t voff, size_t len, struct iovec *local, const struct iovec **iov,
                  size_t *got)
{
    if (voff == 0 && len == v->size && v->n <= IOV_MAX) {
        *iov = v->iov;
        *got = len;
        return v->n;
    }
    *iov = local;
    return iovs_window(v, voff, len, local, WINDOW, got);
}

static int file_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct file_state *s = n->priv;
    struct iovec local[WINDOW];
    while (len) {
        const struct iovec *iov;
        size_t part;
        int count = window(v, voff, len, local, &iov, &part);
        ssize_t got = co_preadv(s->fd, iov, count, off);
        if (got == -EINTR) {
            continue;
        }
        if (got < 0) {
            return (int)got;
        }
        if (got == 0 || (size_t)got < part) {
            /* Short: the end of the file, or the kernel gave up in the middle. Nothing at all means the end. */
            if (got == 0) {
                iovs_fill(v, voff, 0, len);
                return 0;
            }
        }
        off += (uint64_t)got;
        voff += (size_t)got;
        len -= (uint64_t)got;
    }
    return 0;
}

/* A last block that O_DIRECT made us write in full must not make the file longer than the node. */
struct cut_call {
    int fd;
    uint64_t size;
};

static int cut_blocking(void *arg)
{
    struct cut_call *c = arg;
    return ftruncate(c->fd, (off_t)c->size) < 0 ? -errno : 0;
}

static int file_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct file_state *s = n->priv;
    struct iovec local[WINDOW];
    uint64_t end = off + len;
    int rwf = flags & REQ_FUA && !n->no_flush ? RWF_DSYNC : 0;
    while (len) {
        const struct iovec *iov;
        size_t part;
        int count = window(v, voff, len, local, &iov, &part);
        ssize_t got = co_pwritev(s->fd, iov, count, off, rwf);
        if (got == -EINTR) {
            continue;
        }
        if (got <= 0) {
            return got < 0 ? (int)got : -ENOSPC;
        }
        off += (uint64_t)got;
        voff += (size_t)got;
        len -= (uint64_t)got;
    }
    if (__builtin_expect(end > n->size, 0)) {
        struct cut_call c = {s->fd, n->size};
        return co_work(cut_blocking, &c);
    }
    return 0;
}

static int file_flush(struct node *n)
{
    struct file_state *s = n->priv;
    if (s->flush_failed) {
        return -EIO;
    }
    int rc = co_fdatasync(s->fd);
    if (rc == -EINVAL) { /* /dev/null and the like: nothing that could be made stable */
        return 0;
    }
    if (rc < 0 && rc != -EINTR && !n->direct) {
        s->flush_failed = true;
    }
    return rc;
}

static bool file_supports_fua(struct node *n)
{
    return true;
}

static int file_get_info(struct node *n, struct driver_info *out)
{
    return 0; /* no clusters, never dirty */
}

static int64_t file_allocated_size(struct node *n)
{
    struct file_state *s = n->priv;
    struct stat st;
    return fstat(s->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}

static int host_device_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    return block_create_on_existing(g, &host_device_driver, opts, e);
}

static const char *const file_option_names[] = {
    "filename", "aio", "aio-max-batch", "locking", "drop-cache", "x-check-cache-dropped", NULL};

static const char *const reopen_names[] = {"drop-cache", "x-check-cache-dropped", NULL};

static int file_host_fd(struct node *n)
{
    return ((struct file_state *)n->priv)->fd;
}

const struct block_driver file_driver = {
    .name = "file",
    .priv_size = sizeof(struct file_state),
    .is_protocol = true,
    .can_be_created = true,
    .option_names = file_option_names,
    .open = file_open,
    .close = file_close,
    .read_again = file_read_again,
    .reopen_names = reopen_names,
    .reopen_prepare = file_reopen_prepare,
    .reopen_swap = file_reopen_swap,
    .reopen_finish = file_reopen_finish,
    .create = file_create,
    .create_options = file_create_options,
    .read = file_read,
    .write = file_write,
    .copy_file = file_copy_file,
    .zero = file_zero,
    .discard = file_discard,
    .view = file_view,
    .host_fd = file_host_fd,
    .cached_fd = file_cached_fd,
    .start_writeback = file_start_writeback,
    .flush = file_flush,
    .status = file_status,
    .truncate = file_truncate,
    .allocated_size = file_allocated_size,
    .get_info = file_get_info,
    .supports_fua = file_supports_fua,
    .set_perm = file_set_perm,
};

const struct block_driver host_device_driver = {
    .name = "host_device",
    .priv_size = sizeof(struct file_state),
    .is_protocol = true,
    .can_be_created = true,
    .option_names = file_option_names,
    .open = host_device_open,
    .close = file_close,
    .read_again = file_read_again,
    .reopen_names = reopen_names,
    .reopen_prepare = file_reopen_prepare,
    .reopen_swap = file_reopen_swap,
    .reopen_finish = file_reopen_finish,
    .create = host_device_create,
    .create_options = existing_create_options,
    .read = file_read,
    .write = file_write,
    .zero = file_zero,
    .discard = file_discard,
    .flush = file_flush,
    .status = file_status,
    .truncate = file_truncate,
    .allocated_size = file_allocated_size,
    .get_info = file_get_info,
    .supports_fua = file_supports_fua,
    .set_perm = file_set_perm,
};
