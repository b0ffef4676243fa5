/* SPDX-License-Identifier: BSD-2-Clause */
/* Going into the background, the file with the process id, and sockets from the service manager. */
#include "cli/nbd/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { FIRST_ACTIVATED = 3 };

/* Shows what the child says until it is ready or ends. */
static int watch_child(const struct nbd_args *a, int messages, int ready)
{
    char buf[1024], byte;
    ssize_t n;
    while ((n = read(messages, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && write(STDERR_FILENO, buf, (size_t)n) < 0) {
            break; /* nobody wants to know */
        }
    }
    if (n < 0) {
        return nbd_fail(a, "Cannot read from daemon: %s", strerror(errno));
    }
    do {
        n = read(ready, &byte, 1);
    } while (n < 0 && errno == EINTR);
    return n == 1 ? 0 : 1;
}

static int become_daemon(struct nbd_daemon *d, const struct nbd_args *a, int messages, int ready)
{
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (setsid() < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0) {
        return nbd_fail(a, "Failed to daemonize: %s", strerror(errno));
    }
    d->old_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (dup2(messages, STDERR_FILENO) < 0) {
        return nbd_fail(a, "Failed to daemonize: %s", strerror(errno));
    }
    d->ready = ready;
    return -1;
}

int nbd_daemon_start(struct nbd_daemon *d, const struct nbd_args *a)
{
    *d = (struct nbd_daemon){.old_stderr = -1, .ready = -1};
    if (!a->fork && (!a->device || a->verbose)) {
        return -1;
    }
    int messages[2], ready[2];
    if (pipe2(messages, O_CLOEXEC) < 0 || pipe2(ready, O_CLOEXEC) < 0) {
        return nbd_fail(a, "Error setting up communication pipe: %s", strerror(errno));
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        return nbd_fail(a, "Failed to fork: %s", strerror(errno));
    }
    close(messages[pid ? 1 : 0]);
    close(ready[pid ? 1 : 0]);
    if (pid) {
        return watch_child(a, messages[0], ready[0]);
    }
    int rc = become_daemon(d, a, messages[1], ready[1]);
    close(messages[1]);
    return rc;
}

void nbd_daemon_ready(struct nbd_daemon *d, const struct nbd_args *a)
{
    if (d->ready < 0) {
        return;
    }
    if (chdir("/") < 0) {
        nbd_fail(a, "Could not chdir to root directory: %s", strerror(errno));
    }
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    ssize_t n = write(d->ready, "", 1);
    (void)n; /* a parent that is gone does not wait */
    close(take_fd(&d->ready));
    dup2(a->verbose && d->old_stderr >= 0 ? d->old_stderr : null, STDERR_FILENO);
    if (d->old_stderr >= 0) {
        close(take_fd(&d->old_stderr));
    }
}

int nbd_write_pid_file(const char *path, struct err *e)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CLEANUP_CLOSE int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_set_errno(e, errno, "Could not create '%s'", path);
    }
    if (fcntl(fd, F_SETLK, &lock) < 0) {
        return err_set_errno(e, errno, "Cannot lock pid file '%s'", path);
    }
    char text[32];
    int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0 || write(fd, text, (size_t)n) != n) {
        return err_set_errno(e, errno, "Failed to write pid file");
    }
    take_fd(&fd); /* the lock is for as long as we live */
    return 0;
}

int nbd_activation_sockets(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
    long n = pid && fds && strtol(pid, NULL, 10) == (long)getpid() ? strtol(fds, NULL, 10) : 0;
    unsetenv("LISTEN_PID"); /* children are not meant */
    unsetenv("LISTEN_FDS");
    n = n < 0 || n > 1024 ? 0 : n;
    for (int fd = FIRST_ACTIVATED; fd < FIRST_ACTIVATED + n; fd++) {
        if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
            return -errno;
        }
    }
    return (int)n;
}
