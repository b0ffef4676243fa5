/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * "log": writes a line about every request into a file, when the request has ended:
 *
 *     BEGIN TIME KIND OFFSET LENGTH FLAGS RESULT
 *
 * BEGIN   nanoseconds from when the file was opened to when the request came
 * TIME    nanoseconds that it took
 * KIND    read, write, zero, discard, flush
 * OFFSET, LENGTH   bytes; 0 of a flush
 * FLAGS   "-", or of fua, unmap, compressed, unchanged, prefetch those that apply, with commas between them
 * RESULT  0, or the negative number of an error
 *
 * The first line begins with '#' and names the node and its size. Lines are gathered and written behind the requests'
 * backs; closing the node waits until all are in the file.
 */
#include "base/cleanup.h"
#include "base/json.h"
#include "block/drivers.h"
#include "block/internal.h"
#include "block/reopen.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

struct log_file {
    struct node *n; /* for messages */
    int fd;
    uint64_t opened_ns, end; /* where the next bytes go */
    GString *lines;          /* not written yet */
    bool keep, begun, writing, failed;
    dev_t dev; /* which file it is */
    ino_t ino;
    struct co_queue idle_waiters;
};

struct log_state {
    struct log_file *file;
};

/* --- the file ----------------------------------------------------------------------------------------------------- */

static int write_all(struct log_file *f, const GString *text)
{
    for (size_t done = 0; done < text->len;) {
        struct iovec iov = {text->str + done, text->len - done};
        ssize_t n = co_pwritev(f->fd, &iov, 1, f->end, 0);
        if (n <= 0) {
            return n < 0 ? (int)n : -ENOSPC;
        }
        done += (size_t)n;
        f->end += (uint64_t)n;
    }
    return 0;
}

/* Until there is nothing left; requests go on meanwhile. */
static void write_lines(void *arg)
{
    struct log_file *f = arg;
    while (f->lines->len && !f->failed) {
        GString *text = f->lines;
        f->lines = g_string_new(NULL);
        int rc = write_all(f, text);
        g_string_free(text, true);
        if (rc < 0) {
            f->failed = true;
            log_warn(f->n->graph->log, "node '%s': its log ends here: %s", f->n->name, g_strerror(-rc));
        }
    }
    f->writing = false;
    co_queue_wake_all(&f->idle_waiters);
}

static void append(struct log_file *f)
{
    if (!f->writing && !f->failed) {
        f->writing = true;
        co_start_later(f->n->graph->loop, write_lines, f);
    }
}

static void file_close(struct log_file *f)
{
    if (!f) {
        return;
    }
    while (f->writing) {
        co_queue_wait(&f->idle_waiters);
    }
    close(f->fd);
    g_string_free(f->lines, true);
    g_free(f);
}

static int file_open(struct node *n, struct json_object *options, struct log_file **out, struct err *e)
{
    struct jread r = jread_init(options, NULL, e);
    const char *path = jread_str(&r, "log-file");
    bool keep = jread_bool_or(&r, "log-append", false);
    int rc = jread_end_lax(&r);
    if (rc) {
        return rc;
    }
    struct stat st;
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0666);
    if (fd < 0 || fstat(fd, &st) < 0) {
        return err_set_errno(e, errno, "Could not open log file '%s'", path);
    }
    if (!S_ISREG(st.st_mode)) {
        return err_set(e, EINVAL, "Log file '%s' is not a regular file", path);
    }
    struct log_file *f = g_new0(struct log_file, 1);
    *f = (struct log_file){.n = n, .opened_ns = loop_now_ns(), .keep = keep, .dev = st.st_dev, .ino = st.st_ino};
    f->end = keep ? (uint64_t)st.st_size : 0;
    f->lines = g_string_new(NULL);
    f->fd = take_fd(&fd);
    *out = f;
    return 0;
}

/* From now on it is the log. */
static int begin(struct log_file *f, struct err *e)
{
    if (f->begun) {
        return 0;
    }
    if (!f->keep && ftruncate(f->fd, 0) < 0) {
        return err_set_errno(e, errno, "Could not empty the log file of node '%s'", f->n->name);
    }
    f->begun = true;
    g_string_append_printf(f->lines, "# node %s size %" PRIu64 "\n", f->n->name, f->n->size);
    append(f);
    return 0;
}

/* --- records ------------------------------------------------------------------------------------------------------ */

static void append_flags(GString *s, unsigned flags)
{
    static const struct {
        unsigned flag;
        const char *name;
    } names[] = {{REQ_FUA, "fua"},
                 {REQ_MAY_UNMAP, "unmap"},
                 {REQ_COMPRESSED, "compressed"},
                 {REQ_WRITE_UNCHANGED, "unchanged"},
                 {REQ_PREFETCH, "prefetch"}};
    bool any = false;
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (flags & names[i].flag) {
            g_string_append_printf(s, "%s%s", any ? "," : "", names[i].name);
            any = true;
        }
    }
    g_string_append(s, any ? "" : "-");
}

struct record {
    const char *kind;
    uint64_t off, len, begin_ns;
    unsigned flags;
};

/* Returns rc. */
static int record(struct node *n, const struct record *r, int rc)
{
    struct log_state *s = n->priv;
    struct log_file *f = s->file;
    if (!f->failed) {
        g_string_append_printf(f->lines, "%" PRIu64 " %" PRIu64 " %s %" PRIu64 " %" PRIu64 " ",
                               r->begin_ns - f->opened_ns, loop_now_ns() - r->begin_ns, r->kind, r->off, r->len);
        append_flags(f->lines, r->flags);
        g_string_append_printf(f->lines, " %d\n", rc);
        append(f);
    }
    return rc;
}

/* --- requests ----------------------------------------------------------------------------------------------------- */

static int log_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct record r = {"read", off, len, loop_now_ns(), flags};
    return record(n, &r, edge_read(n->file, off, len, v, voff, flags));
}

static int log_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct record r = {"write", off, len, loop_now_ns(), flags};
    return record(n, &r, edge_write(n->file, off, len, v, voff, flags));
}

static int log_write_compressed(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff)
{
    return log_write(n, off, len, v, voff, REQ_COMPRESSED);
}

static int log_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    struct record r = {"zero", off, len, loop_now_ns(), flags};
    return record(n, &r, edge_zero(n->file, off, len, flags));
}

static int log_discard(struct node *n, uint64_t off, uint64_t len)
{
    struct record r = {"discard", off, len, loop_now_ns(), 0};
    return record(n, &r, edge_discard(n->file, off, len));
}

static int log_flush(struct node *n)
{
    struct record r = {"flush", 0, 0, loop_now_ns(), 0};
    return record(n, &r, edge_flush(n->file));
}

static bool log_supports_fua(struct node *n)
{
    return true;
}

/* --- life --------------------------------------------------------------------------------------------------------- */

static int log_open(struct node *n, struct json_object *options, struct err *e)
{
    struct log_state *s = n->priv;
    struct edge *ed;
    int rc = node_open_child(n, options, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, e);
    rc = rc ? rc : file_open(n, options, &s->file, e);
    if (rc) {
        return rc;
    }
    n->size = edge_size(ed);
    rc = begin(s->file, e);
    if (rc) {
        file_close(s->file);
    }
    return rc;
}

static void log_close(struct node *n)
{
    struct log_state *s = n->priv;
    file_close(s->file);
}

/* The same file again just stays. */
static int log_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    struct log_state *s = n->priv;
    struct log_file *f = NULL;
    int rc = file_open(n, r->as.options, &f, e);
    if (!rc && f->dev == s->file->dev && f->ino == s->file->ino) {
        file_close(take(f));
    }
    r->priv = f;
    return rc;
}

static void log_reopen_swap(struct node *n, struct node_reopen *r)
{
    struct log_state *s = n->priv;
    struct log_file *other = r->priv;
    if (other) {
        r->priv = s->file;
        s->file = other;
    }
}

static int log_reopen_activate(struct node *n, struct node_reopen *r, struct err *e)
{
    struct log_state *s = n->priv;
    return begin(s->file, e);
}

static void log_reopen_finish(struct node *n, struct node_reopen *r)
{
    file_close(r->priv);
}

static const char *const log_options[] = {"log-file", "log-append", NULL};

const struct block_driver log_driver = {
    .name = "log",
    .priv_size = sizeof(struct log_state),
    .is_filter = true,
    .option_names = log_options,
    .open = log_open,
    .close = log_close,
    .reopen_names = log_options,
    .reopen_prepare = log_reopen_prepare,
    .reopen_swap = log_reopen_swap,
    .reopen_activate = log_reopen_activate,
    .reopen_finish = log_reopen_finish,
    .read = log_read,
    .write = log_write,
    .write_compressed = log_write_compressed,
    .zero = log_zero,
    .discard = log_discard,
    .flush = log_flush,
    .supports_fua = log_supports_fua,
};
