/* SPDX-License-Identifier: BSD-2-Clause */
/* Holes, zeroes and sizes of files and devices; creating files. */
#include "block/file/file.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/view.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VIEW_PAGE = 4096, VIEW_MAX = 4 << 20 };

/* --- alignment of O_DIRECT -------------------------------------------------------------------------------------- */

static int try_reads(int fd, struct block_limits *limits)
{
    void *buf = NULL;
    if (posix_memalign(&buf, 4096, 8192)) {
        return -ENOMEM;
    }
    uint32_t align = pread(fd, buf, 4096, 0) == 0 ? 4096 : 512; /* an empty file does not tell */
    while (align < 4096 && pread(fd, buf, align, 0) < 0 && errno == EINVAL) {
        align *= 2;
    }
    uint32_t mem = 512;
    while (mem < 4096 && pread(fd, (char *)buf + mem, align, 0) < 0 && errno == EINVAL) {
        mem *= 2;
    }
    free(buf);
    limits->request_align = align;
    limits->mem_align = mem;
    return 0;
}

static bool statx_align(int fd, struct block_limits *limits)
{
#ifdef STATX_DIOALIGN
    struct statx sx;
    if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) && (sx.stx_mask & STATX_DIOALIGN) &&
        is_pow2(sx.stx_dio_offset_align) && is_pow2(sx.stx_dio_mem_align)) {
        limits->request_align = sx.stx_dio_offset_align;
        limits->mem_align = sx.stx_dio_mem_align;
        return true;
    }
#endif
    return false;
}

int file_probe_align(int fd, bool is_device, struct block_limits *limits)
{
    int sector = 0;
    if (statx_align(fd, limits)) {
        return 0;
    }
    if (is_device && !ioctl(fd, BLKSSZGET, &sector) && sector >= 512 && is_pow2((uint64_t)sector)) {
        limits->request_align = limits->mem_align = (uint32_t)sector;
        return 0;
    }
    return try_reads(fd, limits);
}

/* --- devices ---------------------------------------------------------------------------------------------------- */

int file_device_size(int fd, uint64_t *size)
{
    if (ioctl(fd, BLKGETSIZE64, size) == 0) {
        return 0;
    }
    off_t end = lseek(fd, 0, SEEK_END); /* a character device */
    *size = end > 0 ? (uint64_t)end : 0;
    return end < 0 && errno != ESPIPE ? -errno : 0;
}

void file_device_limits(int fd, struct block_limits *limits)
{
    int sector = 0;
    if (!ioctl(fd, BLKSSZGET, &sector) && sector > 0 && is_pow2((uint64_t)sector)) {
        limits->zero_align = limits->discard_align = (uint32_t)sector;
    }
}

/* --- extents ---------------------------------------------------------------------------------------------------- */

static void forget_data(struct file_state *s, uint64_t off, uint64_t len)
{
    if (off < s->data_end && s->data_start < off + len) {
        s->data_start = s->data_end = 0;
    }
}

/* Only data is remembered: others may fill holes, but nobody makes one without our file_zero() or file_discard(). */
int file_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct file_state *s = n->priv;
    *out = (struct extent){.len = len, .flags = EXT_DATA | EXT_ALLOCATED | EXT_OFFSET, .offset = off, .file = n};
    if (!want_zero || s->is_device) {
        return 0;
    }
    if (off >= s->data_start && off < s->data_end) {
        out->len = min_u64(len, s->data_end - off);
        return 0;
    }
    off_t data = lseek(s->fd, (off_t)off, SEEK_DATA);
    if (data < 0) {
        if (errno == ENXIO) { /* a hole up to the end */
            out->flags = EXT_ZERO | EXT_ALLOCATED | EXT_OFFSET;
        }
        return 0; /* a file system that cannot tell: data */
    }
    if ((uint64_t)data > off) {
        out->flags = EXT_ZERO | EXT_ALLOCATED | EXT_OFFSET;
        out->len = min_u64(len, (uint64_t)data - off);
        return 0;
    }
    off_t hole = lseek(s->fd, (off_t)off, SEEK_HOLE);
    if (hole > (off_t)off) {
        s->data_start = off;
        s->data_end = (uint64_t)hole;
        out->len = min_u64(len, (uint64_t)hole - off);
    }
    return 0;
}

/* --- zeroes and discard ----------------------------------------------------------------------------------------- */

struct ioctl_call {
    int fd;
    unsigned long request;
    uint64_t range[2];
};

static int ioctl_blocking(void *arg)
{
    struct ioctl_call *c = arg;
    return ioctl(c->fd, c->request, c->range) < 0 ? -errno : 0;
}

static bool means_unsupported(int rc)
{
    return rc == -EOPNOTSUPP || rc == -ENOTTY || rc == -ENOSYS || rc == -EINVAL || rc == -ENODEV;
}

static int device_ioctl(struct node *n, unsigned long request, uint64_t off, uint64_t len, bool *unsupported)
{
    struct file_state *s = n->priv;
    if (*unsupported) {
        return -ENOTSUP;
    }
    struct ioctl_call c = {s->fd, request, {off, len}};
    int rc = co_work(ioctl_blocking, &c);
    if (means_unsupported(rc)) {
        *unsupported = rc != -EINVAL; /* EINVAL may be about this range alone */
        return -ENOTSUP;
    }
    return rc;
}

static int allocate(struct node *n, int mode, uint64_t off, uint64_t len, bool *unsupported)
{
    struct file_state *s = n->priv;
    if (*unsupported) {
        return -ENOTSUP;
    }
    int rc;
    do {
        rc = co_fallocate(s->fd, mode, off, len);
    } while (rc == -EINTR);
    if (means_unsupported(rc)) {
        *unsupported = rc != -EINVAL;
        return -ENOTSUP;
    }
    return rc;
}

/* BLKZEROOUT writes zeroes where the device has nothing better. */
static int device_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct file_state *s = n->priv;
    int rc = -ENOTSUP;
    if (flags & REQ_MAY_UNMAP) {
        rc = allocate(n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len, &s->no_punch);
    }
    if (rc == -ENOTSUP && !(flags & REQ_NO_FALLBACK)) {
        rc = device_ioctl(n, BLKZEROOUT, off, len, &s->no_blkzeroout);
    }
    return rc;
}

int file_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct file_state *s = n->priv;
    if (s->is_device) {
        return device_zero(n, off, len, flags);
    }
    if (off + len > n->size) {
        return -ENOTSUP; /* the unaligned tail under O_DIRECT: written as data, then cut */
    }
    int rc = -ENOTSUP;
    forget_data(s, off, len);
    if (flags & REQ_MAY_UNMAP) {
        rc = allocate(n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len, &s->no_punch);
    }
    if (rc == -ENOTSUP) {
        rc = allocate(n, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, off, len, &s->no_zero_range);
    }
    if (rc == -ENOTSUP && !(flags & REQ_MAY_UNMAP)) {
        rc = allocate(n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len, &s->no_punch);
        if (!rc) { /* keep the promise of space */
            bool no_fallocate = false;
            int arc = allocate(n, FALLOC_FL_KEEP_SIZE, off, len, &no_fallocate);
            rc = arc == -ENOTSUP ? 0 : arc;
        }
    }
    forget_data(s, off, len);
    return rc;
}

int file_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct file_state *s = n->priv;
    if (s->is_device) {
        return device_ioctl(n, BLKDISCARD, off, len, &s->no_discard);
    }
    forget_data(s, off, len);
    int rc = allocate(n, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len, &s->no_punch);
    forget_data(s, off, len);
    return rc;
}

/* --- copying ---------------------------------------------------------------------------------------------------- */

struct copy_call {
    int from, to;
    uint64_t soff, off, len;
};

static int copy_blocking(void *arg)
{
    struct copy_call *c = arg;
    while (c->len) {
        off_t in = (off_t)c->soff, out = (off_t)c->off;
        ssize_t n = copy_file_range(c->from, &in, c->to, &out, c->len, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EOPNOTSUPP; /* the source ends here: reading gives zeroes */
        }
        c->soff += (uint64_t)n;
        c->off += (uint64_t)n;
        c->len -= (uint64_t)n;
    }
    return 0;
}

int file_copy_file(struct node *n, uint64_t off, uint64_t len, struct node *src, uint64_t soff)
{
    struct file_state *s = n->priv;
    if (s->no_copy || src->drv != n->drv) {
        return -ENOTSUP;
    }
    struct file_state *from = src->priv;
    struct copy_call c = {from->fd, s->fd, soff, off, len};
    int rc = co_work(copy_blocking, &c);
    if (rc == -EXDEV || rc == -ETXTBSY || rc == -EPERM || means_unsupported(rc)) {
        s->no_copy = rc != -EINVAL;
        return -ENOTSUP;
    }
    return rc;
}

/* --- size ------------------------------------------------------------------------------------------------------- */

struct resize_call {
    int fd;
    uint64_t from, to;
    int prealloc;
    const char *failed; /* out: what did not work */
};

static int write_zeroes(int fd, uint64_t off, uint64_t end)
{
    size_t size = 1u << 20;
    CLEANUP_FREE char *buf = g_try_malloc0(size);
    if (!buf) {
        return -ENOMEM;
    }
    while (off < end) {
        ssize_t n = pwrite(fd, buf, min_u64(size, end - off), (off_t)off);
        if (n <= 0) {
            if (n < 0 && errno == EINTR) {
                continue;
            }
            return n < 0 ? -errno : -ENOSPC;
        }
        off += (uint64_t)n;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* A file that begins with a hole takes any O_DIRECT read there, and so does not tell what alignment it needs. */
static void allocate_start(const struct resize_call *c)
{
    void *buf = NULL;
    if (c->from == 0 && c->to && !posix_memalign(&buf, VIEW_PAGE, VIEW_PAGE)) {
        memset(buf, 0, VIEW_PAGE);
        ssize_t done = pwrite(c->fd, buf, min_u64(c->to, VIEW_PAGE), 0);
        (void)done; /* for others' sake alone: without it all works too */
        free(buf);
    }
}

static int resize_blocking(void *arg)
{
    struct resize_call *c = arg;
    int rc = 0;
    if (c->to > c->from && c->prealloc == PREALLOC_FALLOC) {
        c->failed = "Could not preallocate new data";
        rc = -posix_fallocate(c->fd, (off_t)c->from, (off_t)(c->to - c->from));
    } else if (c->to > c->from && c->prealloc == PREALLOC_FULL) {
        c->failed = "Could not write zeros for preallocation";
        rc = write_zeroes(c->fd, c->from, c->to);
    }
    if (!rc && ftruncate(c->fd, (off_t)c->to) < 0) {
        c->failed = "Failed to resize file";
        rc = -errno;
    }
    if (!rc && c->prealloc == PREALLOC_OFF) {
        allocate_start(c);
    }
    if (rc < 0 && c->to > c->from && ftruncate(c->fd, (off_t)c->from) < 0) {
        return rc; /* the first error says more */
    }
    return rc;
}

static int device_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct file_state *s = n->priv;
    uint64_t now = 0;
    if (prealloc != PREALLOC_OFF) {
        return err_set(e, ENOTSUP, "Preallocation mode '%s' unsupported for this non-regular file",
                       prealloc_names[prealloc]);
    }
    int rc = file_device_size(s->fd, &now);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not determine the size of '%s'", n->filename);
    }
    if (exact && size != now) {
        return err_set(e, ENOTSUP, "Cannot resize device files");
    }
    if (size > now) {
        return err_set(e, EINVAL, "Cannot grow device files");
    }
    node_set_size(n, now); /* it may have got another size by itself */
    return 0;
}

static int check_prealloc(uint64_t from, uint64_t to, int prealloc, struct err *e)
{
    if (prealloc == PREALLOC_METADATA) {
        return err_set(e, ENOTSUP, "Unsupported preallocation mode: %s", prealloc_names[prealloc]);
    }
    if (prealloc != PREALLOC_OFF && to < from) {
        return err_set(e, ENOTSUP, "Preallocation can't be used for shrinking files");
    }
    return 0;
}

int file_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    struct file_state *s = n->priv;
    if (s->is_device) {
        return device_truncate(n, size, exact, prealloc, e);
    }
    int rc = check_prealloc(n->size, size, prealloc, e);
    if (rc < 0) {
        return rc;
    }
    struct resize_call c = {s->fd, n->size, size, prealloc, NULL};
    CLEANUP_CLOSE int fd = -1;
    if (n->direct && prealloc == PREALLOC_FULL) { /* zeroes of any length: not through O_DIRECT */
        CLEANUP_FREE char *again = g_strdup_printf("/proc/self/fd/%d", s->fd);
        fd = c.fd = open(again, O_RDWR | O_CLOEXEC);
        if (fd < 0) {
            return err_set_errno(e, errno, "Could not open '%s' again", n->filename);
        }
    }
    rc = co_work(resize_blocking, &c);
    s->data_start = s->data_end = 0;
    if (rc < 0) {
        return err_set_errno(e, -rc, "%s", c.failed);
    }
    node_set_size(n, size);
    return 0;
}

/* --- create ----------------------------------------------------------------------------------------------------- */

const struct create_option file_create_options[] = {
    {"size", "size", "Virtual disk size"},
    {"nocow", "bool (on/off)", "Turn off copy-on-write (valid only on btrfs)"},
    {"preallocation", "str", "Preallocation mode (allowed values: off, falloc, full)"},
    {"extent_size_hint", "size", "Extent size hint for the image file, 0 to disable"},
    {NULL, NULL, NULL},
};

enum { EXTENT_SIZE_HINT = 1 << 20 };

struct create_call {
    const char *path;
    uint64_t size;
    int prealloc;
    bool nocow;
    uint32_t hint; /* bytes by which a file system should allocate at least; 0: its own business */
    struct err *e;
};

/* Wishes that file systems may not know: of an empty file. */
static void set_attributes(int fd, const struct create_call *c)
{
    int flags = 0;
    struct fsxattr x;
    if (c->nocow && ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) {
        flags |= FS_NOCOW_FL;
        ioctl(fd, FS_IOC_SETFLAGS, &flags);
    }
    if (c->hint && ioctl(fd, FS_IOC_FSGETXATTR, &x) == 0) {
        x.fsx_xflags |= FS_XFLAG_EXTSIZE;
        x.fsx_extsize = c->hint;
        ioctl(fd, FS_IOC_FSSETXATTR, &x);
    }
}

static int create_blocking(void *arg)
{
    struct create_call *c = arg;
    bool is_new = true;
    CLEANUP_CLOSE int fd = open(c->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0 && errno == EEXIST) {
        is_new = false;
        fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    }
    if (fd < 0) {
        return err_set_errno(c->e, errno, "Could not create '%s'", c->path);
    }
    struct file_lock lock;
    int rc = file_lock_init(&lock, fd, LOCKING_AUTO, c->path, c->e);
    if (!rc) {
        rc = file_lock_update(&lock, PERM_WRITE | PERM_RESIZE, PERM_ALL & ~PERM_RESIZE, c->path, c->e);
    }
    if (rc < 0) {
        return rc;
    }
    struct resize_call r = {fd, 0, c->size, c->prealloc, "Could not resize file"};
    rc = ftruncate(fd, 0) < 0 ? -errno : 0;
    if (!rc) {
        set_attributes(fd, c);
        rc = resize_blocking(&r);
    }
    if (rc < 0) {
        err_set_errno(c->e, -rc, "%s", r.failed);
        if (is_new) {
            unlink(c->path);
        }
    }
    return rc;
}

int file_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    struct jread r = jread_init(opts, NULL, e);
    struct create_call c = {.e = e};
    c.path = jread_str(&r, "filename");
    c.size = jread_size_or(&r, "size", 0);
    c.prealloc = jread_enum_or(&r, "preallocation", prealloc_names, PREALLOC_OFF);
    c.nocow = jread_bool_or(&r, "nocow", false);
    uint64_t hint = jread_size_or(&r, "extent-size-hint", EXTENT_SIZE_HINT);
    int rc = jread_end(&r);
    if (!rc && hint > UINT32_MAX) {
        rc = err_set(e, EINVAL, "Extent size hint is too large");
    }
    c.hint = (uint32_t)hint;
    if (!rc) {
        rc = check_prealloc(0, c.size, c.prealloc, e);
    }
    if (!rc && c.size > INT64_MAX / 2) {
        rc = err_set(e, EFBIG, "Could not create '%s': the size is too large", c.path);
    }
    if (!rc) {
        if (!strncmp(c.path, "file:", 5)) {
            c.path += 5;
        }
        rc = co_work(create_blocking, &c);
    }
    return rc;
}

/* Only what is cached: faults from the disk would come one by one, in the middle of somebody's write. */
bool file_view(struct node *n, uint64_t off, struct node_view *v)
{
    struct file_state *s = n->priv;
    uint64_t lead = off % VIEW_PAGE;
    unsigned char cached[VIEW_MAX / VIEW_PAGE + 1];
    if (n->direct || s->is_device || off >= n->size) {
        return false;
    }
    v->len = min_u64(min_u64(v->len, n->size - off), VIEW_MAX);
    v->map_len = round_up(lead + v->len, VIEW_PAGE);
    v->map = mmap(NULL, v->map_len, PROT_READ, MAP_SHARED, s->fd, (off_t)(off - lead));
    if (v->map == MAP_FAILED) {
        return false;
    }
    if (mincore(v->map, v->map_len, cached) < 0 || memchr(cached, 0, v->map_len / VIEW_PAGE)) {
        munmap(v->map, v->map_len);
        return false;
    }
    /* Writing from pages that are not mapped yet is slow: the kernel gives up half way, and zeroes what it had begun.
     */
    madvise(v->map, v->map_len, MADV_POPULATE_READ);
    v->data = (uint8_t *)v->map + lead;
    return true;
}

/* Linux 6.5; the C library's headers may be older. */
#ifndef SYS_cachestat
#define SYS_cachestat 451
#endif
struct cached_range {
    uint64_t off, len;
};
struct cached_pages {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

int file_cached_fd(struct node *n, uint64_t off, uint64_t len)
{
    struct file_state *s = n->priv;
    struct cached_range range = {off, len};
    struct cached_pages got;
    if (n->direct || s->is_device || off + len > n->size || !len) {
        return -1;
    }
    uint64_t pages = (round_up(off + len, VIEW_PAGE) - round_down(off, VIEW_PAGE)) / VIEW_PAGE;
    return syscall(SYS_cachestat, s->fd, &range, &got, 0u) == 0 && got.cached >= pages ? s->fd : -1;
}

struct writeback_call {
    int fd;
    off_t off, len;
};

static int start_writeback_blocking(void *arg)
{
    const struct writeback_call *c = arg;
    return sync_file_range(c->fd, c->off, c->len, SYNC_FILE_RANGE_WRITE); /* a hint: only the flush counts */
}

void file_start_writeback(struct node *n, uint64_t off, uint64_t len)
{
    struct file_state *s = n->priv;
    if (!n->direct) {
        struct writeback_call c = {s->fd, (off_t)off, (off_t)len};
        co_work(start_writeback_blocking, &c);
    }
}
