/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/log.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

struct log {
    char *program;
    pthread_mutex_t mutex; /* fd, patterns, the order of lines */
    int fd;
    GPtrArray *patterns;
    atomic_bool tracing; /* any pattern: spares the mutex in the usual case */
};

struct log *log_create(const char *program)
{
    struct log *l = g_new0(struct log, 1);
    l->program = g_path_get_basename(program);
    pthread_mutex_init(&l->mutex, NULL);
    l->fd = -1;
    l->patterns = g_ptr_array_new_with_free_func(g_free);
    return l;
}

void log_destroy(struct log *l)
{
    if (!l) {
        return;
    }
    if (l->fd >= 0) {
        close(l->fd);
    }
    g_ptr_array_free(l->patterns, TRUE);
    pthread_mutex_destroy(&l->mutex);
    g_free(l->program);
    g_free(l);
}

int log_to_file(struct log *l, const char *path, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0) {
        return err_set_errno(e, errno, "cannot open log file '%s'", path);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    if (l->fd >= 0) {
        close(l->fd);
    }
    l->fd = fd;
    return 0;
}

/* "PROGRAM: PREFIX text\n" in one write, so that lines of several threads or processes do not mix. */
static void put_line(struct log *l, const char *prefix, const char *fmt, va_list ap)
{
    if (!l) {
        return;
    }
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    CLEANUP_FREE char *line = g_strdup_printf("%s: %s%s\n", l->program, prefix, text);
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    int fd = l->fd >= 0 ? l->fd : STDERR_FILENO;
    size_t len = strlen(line);
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, line + done, len - done);
        if (n < 0 && errno != EINTR) {
            return;
        }
        done += n > 0 ? (size_t)n : 0;
    }
}

void log_error(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_line(l, "", fmt, ap);
    va_end(ap);
}

void log_warn(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_line(l, "warning: ", fmt, ap);
    va_end(ap);
}

void log_info(struct log *l, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    put_line(l, "info: ", fmt, ap);
    va_end(ap);
}

void log_trace_enable(struct log *l, const char *pattern)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&l->mutex);
    g_ptr_array_add(l->patterns, g_strdup(pattern));
    atomic_store(&l->tracing, true);
}

bool log_tracing(const struct log *l, const char *name)
{
    if (!l || !atomic_load_explicit(&l->tracing, memory_order_relaxed)) {
        return false;
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock((pthread_mutex_t *)&l->mutex);
    for (guint i = 0; i < l->patterns->len; i++) {
        if (fnmatch(g_ptr_array_index(l->patterns, i), name, 0) == 0) {
            return true;
        }
    }
    return false;
}

void log_trace(struct log *l, const char *name, const char *fmt, ...)
{
    if (!log_tracing(l, name)) {
        return;
    }
    CLEANUP_FREE char *prefix = g_strdup_printf("%s ", name);
    va_list ap;
    va_start(ap, fmt);
    put_line(l, prefix, fmt, ap);
    va_end(ap);
}
