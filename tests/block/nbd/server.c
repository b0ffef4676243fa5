/* SPDX-License-Identifier: BSD-2-Clause */
#include "server.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

bool have_nbdkit(void)
{
    g_autofree char *path = g_find_program_in_path("nbdkit");
    if (!path) {
        print_message("skipped: no nbdkit here\n");
    }
    return path != NULL;
}

static bool listens(const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    g_strlcpy(sa.sun_path, path, sizeof(sa.sun_path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool ok = connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0;
    close(fd);
    return ok;
}

void server_name(struct server *s, struct bench *b)
{
    static unsigned number;
    if (!*s->socket) {
        g_snprintf(s->socket, sizeof(s->socket), "%s/socket%u", b->dir, number++);
    }
}

void server_start(struct server *s, struct bench *b, const char *args)
{
    server_name(s, b);
    g_autofree char *line = g_strdup_printf("exec nbdkit -f -U %s %s 2>>%s/log", s->socket, args, b->dir);
    unlink(s->socket);
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (s->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl("/bin/sh", "sh", "-c", line, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; !listens(s->socket); i++) {
        assert_true(i < 1000);
        usleep(5000);
    }
}

/* The loop goes on meanwhile: a server that is asked politely waits for us to hang up. */
void server_stop(struct server *s, int sig)
{
    if (s->pid) {
        kill(s->pid, sig);
        while (waitpid(s->pid, NULL, WNOHANG) == 0) {
            co_sleep(500000);
        }
        s->pid = 0;
    }
}

struct node *open_export(struct bench *b, const struct server *s, const char *extra)
{
    return must_open(b, jsonf("{'driver':'nbd','server':{'type':'unix','path':'%s'}%s}", s->socket, extra));
}
