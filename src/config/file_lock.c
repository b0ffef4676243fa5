/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One process at a time uses a state file. The file itself is replaced by each change, so a companion, FILE.lock, is
 * what is locked, by an OFD lock, which ends with the process however that ends; it holds the process's number for
 * messages.
 *
 * It is removed by whoever held it, while it is still locked. So a lock counts only if, once it is held, the
 * companion's name still leads to it; if not, somebody removed it in between, and it is tried again.
 */
#include "config/file_int.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { TRIES = 100 };

static int ofd_lock(int fd, int cmd, struct flock *fl)
{
    int rc;
    do {
        rc = fcntl(fd, cmd, fl);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? -errno : 0;
}

/* 1234 (sterna); g_malloc'd; NULL: unknown. */
static char *holder(int fd)
{
    char text[32] = "";
    struct flock fl = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
    if (ofd_lock(fd, F_OFD_GETLK, &fl) < 0 || fl.l_type != F_WRLCK || pread(fd, text, sizeof(text) - 1, 0) <= 0) {
        return NULL;
    }
    long pid = strtol(text, NULL, 10);
    CLEANUP_FREE char *path = g_strdup_printf("/proc/%ld/comm", pid);
    CLEANUP_FREE char *comm = NULL;
    if (pid <= 0) {
        return NULL;
    }
    if (!g_file_get_contents(path, &comm, NULL, NULL)) {
        return g_strdup_printf("%ld", pid);
    }
    return g_strdup_printf("%ld (%s)", pid, g_strchomp(comm));
}

static int busy(const struct config_lock *l, const char *file, struct err *e)
{
    CLEANUP_FREE char *who = holder(l->fd);
    if (who) {
        return err_set(e, EAGAIN, "state file '%s' is in use by process %s", file, who);
    }
    return err_set(e, EAGAIN, "state file '%s' is in use by another process%s", file,
                   l->shared ? "" : ", perhaps with snapshot=on");
}

static int open_companion(struct config_lock *l, const char *file, struct err *e)
{
    l->fd = open(l->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (l->fd >= 0) {
        return 0;
    }
    int rc = -errno;
    if (l->shared && (rc == -EACCES || rc == -EROFS || rc == -EPERM)) {
        l->fd = open(l->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        return 0; /* without one: nobody can write there */
    }
    return rc == -ENOENT
               ? err_set(e, ENOENT, "state file '%s': its folder is not there", file)
               : err_set_errno(e, -rc, "state file '%s' cannot be locked: could not create '%s'", file, l->path);
}

static bool is_there(const struct config_lock *l)
{
    struct stat held;
    struct stat named;
    return fstat(l->fd, &held) == 0 && lstat(l->path, &named) == 0 && held.st_ino == named.st_ino &&
           held.st_dev == named.st_dev;
}

/* 1: try again. */
static int try_once(struct config_lock *l, const char *file, struct err *e)
{
    int rc = open_companion(l, file, e);
    if (rc < 0 || l->fd < 0) {
        return rc;
    }
    struct flock fl = {.l_type = l->shared ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    rc = ofd_lock(l->fd, F_OFD_SETLK, &fl);
    if (rc == -EAGAIN || rc == -EACCES) {
        return busy(l, file, e);
    }
    if (rc < 0) {
        return err_set_errno(e, -rc, "state file '%s' cannot be locked: '%s'", file, l->path);
    }
    if (is_there(l)) {
        return 0;
    }
    close(take_fd(&l->fd));
    return 1;
}

/* For messages only: a full disk is no reason not to start. */
static void write_pid(struct config_lock *l)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(l->fd, 0) == 0 && pwrite(l->fd, text, (size_t)n, 0) != n) {
        (void)!ftruncate(l->fd, 0);
    }
}

int config_lock_take(struct config_lock *l, const char *file, bool shared, struct err *e)
{
    *l = (struct config_lock){.fd = -1, .shared = shared, .path = g_strconcat(file, ".lock", NULL)};
    int rc = 1;
    for (unsigned i = 0; i < TRIES && rc == 1; i++) {
        rc = try_once(l, file, e);
    }
    if (rc == 1) {
        rc = err_set(e, EAGAIN, "state file '%s' cannot be locked: '%s' comes and goes", file, l->path);
    }
    if (rc == 0 && l->fd >= 0 && !shared) {
        write_pid(l);
    }
    if (rc < 0) {
        if (l->fd >= 0) {
            close(take_fd(&l->fd));
        }
        g_free(take(l->path));
    }
    return rc;
}

void config_lock_drop(struct config_lock *l)
{
    if (l->fd >= 0) {
        struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
        /* Who shares it leaves it to the others, if there are any. */
        if (ofd_lock(l->fd, F_OFD_SETLK, &fl) == 0 && is_there(l)) {
            unlink(l->path);
        }
        close(take_fd(&l->fd));
    }
    g_free(take(l->path));
}
