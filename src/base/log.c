/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/log.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <string.h>

struct log {
    struct log_switches switches; /* first: log_trace_on() */
    char *program, *guest;
    pthread_mutex_t mutex; /* what follows, and the order of lines */
    int fd, trace_fd;
    atomic_bool timestamps;
};

struct log *log_create(const char *program)
{
    struct log *l = g_new0(struct log, 1);
    l->program = g_path_get_basename(program);
    pthread_mutex_init(&l->mutex, NULL);
    l->fd = l->trace_fd = -1;
    return l;
}

static void close_if_open(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void log_destroy(struct log *l)
{
    if (!l) {
        return;
    }
    close_if_open(l->fd);
    close_if_open(l->trace_fd);
    pthread_mutex_destroy(&l->mutex);
    g_free(l->program);
    g_free(l->guest);
    g_free(l);
}

static int open_log(struct log *l, const char *path, int how, int *slot, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | how, 0666);
    if (fd < 0) {
        return err_set_errno(e, errno, "Error opening logfile %s", path);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    close_if_open(*slot);
    *slot = fd;
    return 0;
}

int log_to_file(struct log *l, const char *path, struct err *e)
{
    return open_log(l, path, O_APPEND, &l->fd, e);
}

int log_traces_to_file(struct log *l, const char *path, struct err *e)
{
    return open_log(l, path, O_APPEND | O_TRUNC, &l->trace_fd, e);
}

void log_timestamps(struct log *l, bool on)
{
    atomic_store(&l->timestamps, on);
}

void log_guest_name(struct log *l, const char *name)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    g_free(l->guest);
    l->guest = g_strdup(name);
}

/* One write, so that lines of several threads or processes do not mix. Locked. */
static void write_line(int fd, const char *line)
{
    size_t len = strlen(line);
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, line + done, len - done);
        if (n < 0 && errno != EINTR) {
            return;
        }
        done += n > 0 ? (size_t)n : 0;
    }
}

/* "[TIME ][GUEST ]PROGRAM: PREFIX text\n" */
static void put_message(struct log *l, const char *prefix, const char *fmt, va_list ap)
{
    if (!l) {
        return;
    }
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap), *stamp = NULL;
    if (atomic_load(&l->timestamps)) {
        GDateTime *now = g_date_time_new_now_utc();
        stamp = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S.%fZ ");
        g_date_time_unref(now);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    CLEANUP_FREE char *line = g_strdup_printf("%s%s%s%s: %s%s\n", stamp ? stamp : "", l->guest ? l->guest : "",
                                              l->guest ? " " : "", l->program, prefix, text);
    write_line(l->fd >= 0 ? l->fd : STDERR_FILENO, line);
}

void log_error(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_message(l, "", fmt, ap);
    va_end(ap);
}

void log_note(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_message(l, "", fmt, ap);
    va_end(ap);
}

void log_bare(struct log *l, const char *fmt, ...)
{
    if (!l) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap), *line = g_strconcat(text, "\n", NULL);
    va_end(ap);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    write_line(l->fd >= 0 ? l->fd : STDERR_FILENO, line);
}

void log_warn(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_message(l, "warning: ", fmt, ap);
    va_end(ap);
}

void log_info(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_message(l, "info: ", fmt, ap);
    va_end(ap);
}

unsigned log_trace_enable(struct log *l, const char *pattern, bool on)
{
    unsigned n = 0;
    for (unsigned i = 0; i < TRACE_COUNT; i++) {
        if (fnmatch(pattern, trace_points[i].name, 0) == 0) {
            atomic_store_explicit(&l->switches.on[i], on, memory_order_relaxed);
            n++;
        }
    }
    return n;
}

void log_trace_line(struct log *l, enum trace_point t, const char *fmt, ...)
{
    char stamp[64] = "";
    if (atomic_load(&l->timestamps)) {
        int64_t now = g_get_real_time();
        g_snprintf(stamp, sizeof(stamp), "%d@%lld.%06lld:", (int)getpid(), (long long)(now / G_USEC_PER_SEC),
                   (long long)(now % G_USEC_PER_SEC));
    }
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    CLEANUP_FREE char *line = g_strdup_printf("%s%s %s\n", stamp, trace_points[t].name, text);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    write_line(l->trace_fd >= 0 ? l->trace_fd : l->fd >= 0 ? l->fd : STDERR_FILENO, line);
}
