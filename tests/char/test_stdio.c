/* SPDX-License-Identifier: BSD-2-Clause */
/* The terminal of a process with a stdio chardev: raw while it lives, put back however it ends. */
#include "char/char.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <utmp.h>

static void echo_back(void *opaque, const uint8_t *buf, size_t n)
{
    chardev_write_all(opaque, buf, n);
    if (memchr(buf, 'E', n)) {
        loop_stop(loop_current());
    }
}

static const struct chardev_ops echo_ops = {.read = echo_back};

/* The process under test: answers what is typed, until an 'E'. */
static void child(const char *option)
{
    struct loop *l = loop_create(LOOP_AUTO, NULL);
    struct json_object *o = chardev_from_option(option, NULL);
    struct chardev *c = chardev_create(l, o, NULL);
    json_object_put(o);
    struct chardev_port port = {0};
    if (!c || chardev_attach(c, &port, &echo_ops, &port, NULL)) {
        _exit(3);
    }
    chardev_write_all(&port, "ready", 5);
    loop_run(l);
    chardev_destroy(c);
    loop_destroy(l);
    _exit(0);
}

static void expect_out(int fd, const char *text)
{
    char buf[64] = {0};
    for (size_t got = 0; got < strlen(text);) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        ssize_t n = read(fd, buf + got, strlen(text) - got);
        assert_true(n > 0);
        got += (size_t)n;
    }
    assert_string_equal(buf, text);
}

struct term {
    int master, keep; /* the other side stays open in this process, so that its modes can be read afterwards */
    pid_t shell, pid;
    int from_shell; /* pid, then exit status */
};

/* Leads the terminal's session, as a shell does, and outlives the process under test. */
static void shell(int report, const char *option)
{
    signal(SIGINT, SIG_IGN);
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        child(option);
    }
    int status = 0;
    ssize_t n = write(report, &pid, sizeof(pid));
    waitpid(pid, &status, 0);
    n += write(report, &status, sizeof(status));
    pause();
    _exit(n < 0);
}

static struct term start(const char *option)
{
    struct term t;
    int report[2];
    assert_int_equal(openpty(&t.master, &t.keep, NULL, NULL, NULL), 0);
    assert_int_equal(pipe(report), 0);
    t.shell = fork();
    if (t.shell == 0) {
        close(t.master);
        login_tty(t.keep);
        shell(report[1], option);
    }
    close(report[1]);
    t.from_shell = report[0];
    assert_int_equal(read(t.from_shell, &t.pid, sizeof(t.pid)), sizeof(t.pid));
    expect_out(t.master, "ready");
    return t;
}

static tcflag_t local_modes(const struct term *t)
{
    struct termios now;
    assert_int_equal(tcgetattr(t->keep, &now), 0);
    return now.c_lflag & (ICANON | ECHO | ISIG);
}

static int finish(struct term *t)
{
    int status;
    assert_int_equal(read(t->from_shell, &status, sizeof(status)), sizeof(status));
    for (int i = 0; i < 20000 && local_modes(t) != (ICANON | ECHO | ISIG); i++) {
        usleep(10000);
    }
    assert_int_equal(local_modes(t), ICANON | ECHO | ISIG);
    kill(t->shell, SIGKILL);
    waitpid(t->shell, NULL, 0);
    close(t->from_shell);
    close(t->keep);
    close(t->master);
    return status;
}

static void test_raw_and_back(void **state)
{
    struct term t = start("stdio,id=t,signal=off");
    assert_int_equal(local_modes(&t), 0);
    assert_int_equal(write(t.master, "\x03", 1), 1); /* Ctrl-C is a key like any other */
    expect_out(t.master, "\x03");
    assert_int_equal(write(t.master, "xE", 2), 2);
    expect_out(t.master, "xE");
    assert_int_equal(finish(&t), 0);
}

static void test_back_after_kill(void **state)
{
    struct term t = start("stdio,id=t,signal=off");
    assert_int_equal(local_modes(&t), 0);
    kill(t.pid, SIGKILL);
    int status = finish(&t);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void test_interrupt_key(void **state)
{
    struct term t = start("stdio,id=t");
    assert_int_equal(local_modes(&t), ISIG);
    assert_int_equal(write(t.master, "\x03", 1), 1);
    int status = finish(&t);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

/* Input from a pipe that ends; output into a pipe: no terminal anywhere. */
static void test_pipes(void **state)
{
    int in[2];
    int out[2];
    assert_int_equal(pipe(in), 0);
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        child("stdio,id=t");
    }
    close(in[0]);
    close(out[1]);
    expect_out(out[0], "ready");
    assert_int_equal(write(in[1], "abc", 3), 3);
    expect_out(out[0], "abc");
    close(in[1]);
    usleep(20000);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* the end of the input is not the end */
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    close(out[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_and_back),
        cmocka_unit_test(test_back_after_kill),
        cmocka_unit_test(test_interrupt_key),
        cmocka_unit_test(test_pipes),
    };
    return cmocka_run_group_tests_name("stdio", tests, NULL, NULL);
}
