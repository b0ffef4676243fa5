/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/process.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

int daemonize_begin(int *ready_fd, struct err *e)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return err_set_errno(e, errno, "-daemonize: cannot make a pipe");
    }
    pid_t pid = fork();
    if (pid < 0) {
        return err_set_errno(e, errno, "-daemonize: cannot fork");
    }
    if (pid > 0) {
        char ok = 1;
        close(fds[1]);
        while (read(fds[0], &ok, 1) < 0 && errno == EINTR) {
        }
        _exit(ok == 0 ? 0 : 1); /* the child wrote 0, or closed the pipe by dying */
    }
    close(fds[0]);
    setsid();
    *ready_fd = fds[1];
    return 0;
}

int daemonize_ready(int ready_fd, struct err *e)
{
    CLEANUP_CLOSE int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0 || chdir("/") < 0) {
        return err_set_errno(e, errno, "-daemonize: cannot detach");
    }
    for (int fd = 0; fd < 3; fd++) {
        dup2(null, fd);
    }
    char ok = 0;
    if (write(ready_fd, &ok, 1) != 1) {
        return err_set_errno(e, errno, "-daemonize: the parent is gone");
    }
    close(ready_fd);
    return 0;
}

int pidfile_create(const char *path, struct err *e)
{
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) {
        return err_set_errno(e, errno, "cannot create PID file: Could not create '%s'", path);
    }
    struct flock lk = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(fd, F_OFD_SETLK, &lk) < 0) {
        return err_set_errno(e, errno, "cannot create PID file: Cannot lock pid file '%s'", path);
    }
    CLEANUP_FREE char *text = g_strdup_printf("%d\n", (int)getpid());
    ssize_t n = (ssize_t)strlen(text);
    if (ftruncate(fd, 0) < 0 || write(fd, text, (size_t)n) != n) {
        return err_set_errno(e, errno ? errno : EIO, "cannot create PID file: Failed to write '%s'", path);
    }
    return take_fd(&fd);
}

void pidfile_remove(const char *path, int fd)
{
    if (fd >= 0) {
        unlink(path);
        close(fd);
    }
}

struct signals {
    struct vm *vm;
    int fd;
    struct fd_watch *watch;
};

static void fill_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

void signals_block(void)
{
    sigset_t set;
    fill_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

static char *process_name(uint32_t pid)
{
    CLEANUP_FREE char *path = g_strdup_printf("/proc/%u/cmdline", pid);
    CLEANUP_FREE char *name = NULL;
    bool known = g_file_get_contents(path, &name, NULL, NULL) && name[0];
    return g_strdup(known ? name : "<unknown process>");
}

static void on_signal(void *opaque, short revents)
{
    struct signals *s = opaque;
    struct signalfd_siginfo si = {0};
    if (read(s->fd, &si, sizeof(si)) != sizeof(si)) {
        return;
    }
    uint32_t number = si.ssi_signo, pid = si.ssi_code == SI_USER ? si.ssi_pid : 0;
    if (pid) {
        CLEANUP_FREE char *who = process_name(pid);
        log_note(s->vm->log, "terminating on signal %u from pid %u (%s)", number, pid, who);
    } else {
        log_note(s->vm->log, "terminating on signal %u", number);
    }
    vm_quit(s->vm, "host-signal", 0);
}

struct signals *signals_create(struct vm *vm, struct err *e)
{
    sigset_t set;
    fill_set(&set);
    CLEANUP_CLOSE int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0) {
        err_set_errno(e, errno, "cannot watch for signals");
        return NULL;
    }
    struct signals *s = g_new0(struct signals, 1);
    s->vm = vm;
    s->fd = take_fd(&fd);
    s->watch = fd_watch_create(vm->loop, s->fd, POLLIN, on_signal, s);
    return s;
}

void signals_destroy(struct signals *s)
{
    if (s) {
        fd_watch_destroy(s->watch);
        close(s->fd);
        g_free(s);
    }
}
