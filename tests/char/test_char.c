/* SPDX-License-Identifier: BSD-2-Clause */
#include "char/char.h"

#include "base/cleanup.h"
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <termios.h>

struct fixture {
    struct loop *l;
    char *dir;
};

static int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);
    f->l = loop_create(LOOP_AUTO, NULL);
    f->dir = g_dir_make_tmp("sterna-test-XXXXXX", NULL);
    *state = f;
    return f->l && f->dir ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    loop_destroy(f->l);
    CLEANUP_FREE char *cmd = g_strdup_printf("rm -r '%s'", f->dir);
    int rc = system(cmd);
    g_free(f->dir);
    g_free(f);
    return rc;
}

/* --- a front end ---------------------------------------------------------------------------------------------- */

struct front {
    struct chardev_port port;
    GString *got, *events;
    size_t room;
    unsigned writable;
};

static size_t can_read(void *opaque)
{
    return ((struct front *)opaque)->room;
}

static void on_read(void *opaque, const uint8_t *buf, size_t n)
{
    struct front *f = opaque;
    assert_true(n > 0 && n <= f->room);
    f->room -= n;
    g_string_append_len(f->got, (const char *)buf, (gssize)n);
}

static void on_event(void *opaque, enum chardev_event ev)
{
    g_string_append_c(((struct front *)opaque)->events, "OCBIF"[ev]);
}

static void on_writable(void *opaque)
{
    ((struct front *)opaque)->writable++;
}

static const struct chardev_ops front_ops = {
    .can_read = can_read, .read = on_read, .event = on_event, .writable = on_writable};

static void front_init(struct front *f, struct chardev *c)
{
    *f = (struct front){.got = g_string_new(NULL), .events = g_string_new(NULL), .room = SIZE_MAX / 2};
    assert_int_equal(chardev_attach(c, &f->port, &front_ops, f, NULL), 0);
}

static void front_finish(struct front *f)
{
    chardev_detach(&f->port);
    g_string_free(f->got, TRUE);
    g_string_free(f->events, TRUE);
}

static struct chardev *create(struct fixture *f, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static struct chardev *create(struct fixture *f, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = chardev_from_option(text, &e);
    struct chardev *c = o ? chardev_create(f->l, o, &e) : NULL;
    if (!c) {
        fail_msg("%s: %s", text, err_text(&e));
    }
    return c;
}

static void expect_refusal(struct fixture *f, const char *text, const char *expected)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = chardev_from_option(text, &e);
    assert_null(o ? chardev_create(f->l, o, &e) : NULL);
    assert_string_equal(err_text(&e), expected);
}

static void settle(struct fixture *f)
{
    for (int i = 0; i < 20; i++) {
        loop_turn(f->l, false);
    }
}

#define UNTIL(f, cond)                                                                                                 \
    do {                                                                                                               \
        uint64_t limit_ = loop_now_ns() + UINT64_C(60000000000);                                                       \
        while (!(cond)) {                                                                                              \
            loop_turn((f)->l, false);                                                                                  \
            assert_true(loop_now_ns() < limit_);                                                                       \
        }                                                                                                              \
    } while (0)

/* -1: nobody listens there. */
static int try_unix(const char *dir, const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    g_snprintf(a.sun_path, sizeof(a.sun_path), "%s/%s", dir, name);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(fd, (struct sockaddr *)&a, sizeof(a)) ? -1 : take_fd(&fd);
}

static int connect_unix(const char *dir, const char *name)
{
    int fd = try_unix(dir, name);
    assert_true(fd >= 0);
    return fd;
}

static void expect_read(int fd, const char *text)
{
    char buf[4096];
    size_t want = strlen(text);
    for (size_t got = 0; got < want;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, 60000), 1);
        ssize_t n = read(fd, buf + got, want - got);
        assert_true(n > 0);
        got += (size_t)n;
    }
    assert_memory_equal(buf, text, want);
}

/* --- sockets -------------------------------------------------------------------------------------------------- */

static void test_unix_server(void **state)
{
    struct fixture *f = *state;
    struct chardev *c = create(f, "socket,id=s,path=%s/s,server=on,wait=off", f->dir);
    CLEANUP_FREE char *idle = chardev_filename(c);
    CLEANUP_FREE char *expected = g_strdup_printf("disconnected:unix:%s/s,server=on", f->dir);
    assert_string_equal(idle, expected);
    struct front fr;
    front_init(&fr, c);
    assert_int_equal(chardev_write(&fr.port, "lost", 4), 4); /* nobody there */
    for (int round = 0; round < 3; round++) {
        CLEANUP_CLOSE int fd = connect_unix(f->dir, "s");
        UNTIL(f, chardev_connected(c));
        CLEANUP_FREE char *name = chardev_filename(c);
        assert_string_equal(name, expected + strlen("disconnected:"));
        assert_int_equal(write(fd, "hello", 5), 5);
        UNTIL(f, fr.got->len == 5);
        assert_string_equal(fr.got->str, "hello");
        g_string_truncate(fr.got, 0);
        assert_int_equal(chardev_write(&fr.port, "world", 5), 5);
        expect_read(fd, "world");
        CLEANUP_CLOSE int second = connect_unix(f->dir, "s"); /* waits in the backlog */
        settle(f);
        close(take_fd(&fd));
        UNTIL(f, fr.events->len == (unsigned)(4 * round + 3));
        assert_int_equal(write(second, "2nd", 3), 3);
        UNTIL(f, fr.got->len == 3);
        g_string_truncate(fr.got, 0);
        close(take_fd(&second));
        UNTIL(f, !chardev_connected(c));
    }
    assert_string_equal(fr.events->str, "OCOCOCOCOCOC");
    front_finish(&fr);
    chardev_destroy(c);
    CLEANUP_FREE char *path = g_strdup_printf("%s/s", f->dir);
    assert_int_equal(access(path, F_OK), -1); /* unlinked */
}

static void test_flow_control_from_guest(void **state)
{
    struct fixture *f = *state;
    struct chardev *c = create(f, "socket,id=s,path=%s/s,server,nowait", f->dir);
    struct front fr;
    front_init(&fr, c);
    fr.room = 3;
    CLEANUP_CLOSE int fd = connect_unix(f->dir, "s");
    assert_int_equal(write(fd, "abcdefgh", 8), 8);
    UNTIL(f, fr.got->len == 3);
    settle(f);
    assert_string_equal(fr.got->str, "abc"); /* the rest stays with the sender */
    fr.room = 4;
    chardev_accept_input(&fr.port);
    UNTIL(f, fr.got->len == 7);
    fr.room = 100;
    chardev_accept_input(&fr.port);
    UNTIL(f, fr.got->len == 8);
    assert_string_equal(fr.got->str, "abcdefgh");
    front_finish(&fr);
    chardev_destroy(c);
}

static void test_slow_reader(void **state)
{
    struct fixture *f = *state;
    struct chardev *c = create(f, "socket,id=s,path=%s/s,server=on,wait=off", f->dir);
    struct front fr;
    front_init(&fr, c);
    CLEANUP_CLOSE int fd = connect_unix(f->dir, "s");
    UNTIL(f, chardev_connected(c));
    static uint8_t block[10000];
    size_t sent = 0;
    size_t n;
    do {
        for (size_t i = 0; i < sizeof(block); i++) {
            block[i] = (uint8_t)((sent + i) * 7 >> 3);
        }
        n = chardev_write(&fr.port, block, sizeof(block));
        sent += n;
        assert_true(sent < 8 << 20);
    } while (n == sizeof(block));
    assert_true(chardev_pending(&fr.port) >= 64 << 10);
    assert_int_equal(fr.writable, 0);
    chardev_write_all(&fr.port, "END", 3); /* beyond the bound */
    for (size_t got = 0; got < sent + 3;) {
        uint8_t buf[5000];
        settle(f);
        ssize_t r = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
        assert_true(r > 0);
        for (ssize_t i = 0; i < r; i++, got++) {
            assert_int_equal(buf[i], got < sent ? (uint8_t)(got * 7 >> 3) : (uint8_t) "END"[got - sent]);
        }
    }
    assert_int_equal(fr.writable, 1);
    assert_int_equal(chardev_pending(&fr.port), 0);
    front_finish(&fr);
    chardev_destroy(c);
}

static void test_descriptors_come_over(void **state)
{
    struct fixture *f = *state;
    struct chardev *c = create(f, "socket,id=s,path=%s/s,server=on,wait=off", f->dir);
    struct front fr;
    front_init(&fr, c);
    CLEANUP_CLOSE int fd = connect_unix(f->dir, "s");
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {(char[]){'x'}, 1};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *m = CMSG_FIRSTHDR(&msg);
    m->cmsg_level = SOL_SOCKET;
    m->cmsg_type = SCM_RIGHTS;
    m->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(m), &pipe_fds[1], sizeof(int));
    assert_int_equal(sendmsg(fd, &msg, 0), 1);
    assert_int_equal(sendmsg(fd, &msg, 0), 1); /* a second, which nobody takes: closed with the connection */
    close(pipe_fds[1]);
    assert_int_equal(chardev_take_fd(&fr.port), -1);
    UNTIL(f, fr.got->len == 2);
    CLEANUP_CLOSE int got = chardev_take_fd(&fr.port);
    assert_int_equal(write(got, "y", 1), 1);
    expect_read(pipe_fds[0], "y");
    close(take_fd(&got));
    close(take_fd(&fd));
    UNTIL(f, !chardev_connected(c));
    char end;
    assert_int_equal(read(pipe_fds[0], &end, 1), 0);
    close(pipe_fds[0]);
    front_finish(&fr);
    chardev_destroy(c);
}

static unsigned port_of(const struct chardev *c)
{
    CLEANUP_FREE char *name = chardev_filename(c);
    return (unsigned)atoi(strrchr(name, ':') + 1);
}

static void test_tcp_both_ends(void **state)
{
    struct fixture *f = *state;
    struct chardev *srv = create(f, "socket,id=s,host=127.0.0.1,port=0,server=on,wait=off");
    struct chardev *cli = create(f, "socket,id=c,host=127.0.0.1,port=%u,nodelay=on", port_of(srv));
    struct front a;
    struct front b;
    front_init(&a, srv);
    front_init(&b, cli);
    assert_string_equal(b.events->str, "O"); /* it was connected before */
    UNTIL(f, chardev_connected(srv));
    CLEANUP_FREE char *name = chardev_filename(srv);
    assert_true(g_str_has_prefix(name, "tcp:127.0.0.1:"));
    assert_non_null(strstr(name, ",server=on <-> 127.0.0.1:"));
    chardev_write(&b.port, "ping", 4);
    UNTIL(f, a.got->len == 4);
    chardev_write(&a.port, "pong", 4);
    UNTIL(f, b.got->len == 4);
    assert_string_equal(b.got->str, "pong");
    front_finish(&b);
    chardev_destroy(cli);
    UNTIL(f, !chardev_connected(srv));
    front_finish(&a);
    chardev_destroy(srv);
}

static void test_reconnect(void **state)
{
    struct fixture *f = *state;
    struct chardev *cli = create(f, "socket,id=c,path=%s/s,reconnect-ms=5", f->dir);
    struct front a;
    struct front b;
    front_init(&b, cli);
    settle(f);
    assert_false(chardev_connected(cli));
    for (int i = 0; i < 2; i++) {
        struct chardev *srv = create(f, "socket,id=s,path=%s/s,server=on,wait=off", f->dir);
        front_init(&a, srv);
        UNTIL(f, chardev_connected(cli) && chardev_connected(srv));
        chardev_write(&b.port, "x", 1);
        UNTIL(f, a.got->len == 1);
        front_finish(&a);
        chardev_destroy(srv);
        UNTIL(f, !chardev_connected(cli));
    }
    assert_string_equal(b.events->str, "OCOC");
    front_finish(&b);
    chardev_destroy(cli);
}

static void *late_client(void *arg)
{
    struct fixture *f = arg;
    int fd;
    while ((fd = try_unix(f->dir, "w")) < 0) { /* not bound as yet, or not listening */
        usleep(1000);
    }
    return (void *)(intptr_t)fd;
}

static void test_wait_for_client(void **state)
{
    struct fixture *f = *state;
    pthread_t t;
    pthread_create(&t, NULL, late_client, f);
    struct chardev *c = create(f, "socket,id=s,path=%s/w,server=on", f->dir);
    assert_true(chardev_connected(c));
    void *fd;
    pthread_join(t, &fd);
    close((int)(intptr_t)fd);
    chardev_destroy(c);
}

static void test_passed_descriptors(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chardev *c = create(f, "socket,id=s,fd=%d", fds[0]);
    struct front fr;
    front_init(&fr, c);
    chardev_write(&fr.port, "hi", 2);
    expect_read(fds[1], "hi");
    front_finish(&fr);
    chardev_destroy(c);
    char end;
    assert_int_equal(read(fds[1], &end, 1), 0);
    close(fds[1]);
}

static void test_stale_socket_is_replaced_and_files_are_not(void **state)
{
    struct fixture *f = *state;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    g_snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", f->dir);
    int stale = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(stale, (struct sockaddr *)&a, sizeof(a)), 0);
    close(stale);
    chardev_destroy(create(f, "socket,id=s,path=%s/s,server=on,wait=off", f->dir));
    assert_true(g_file_set_contents(a.sun_path, "precious", -1, NULL));
    CLEANUP_FREE char *text = g_strdup_printf("socket,path=%s,server=on,wait=off", a.sun_path);
    CLEANUP_FREE char *expected = g_strdup_printf("'%s' exists and is not a socket", a.sun_path);
    expect_refusal(f, text, expected);
    assert_int_equal(access(a.sun_path, F_OK), 0);
}

static void test_refusals(void **state)
{
    struct fixture *f = *state;
    expect_refusal(f, "vc,id=x", "'vc' is not a valid char driver name (valid: socket, file, null, stdio, pty)");
    expect_refusal(f, "id=x", "Parameter 'backend' is missing");
    expect_refusal(f, "null,id=x,telnet=on", "Parameter 'telnet' is unexpected");
    expect_refusal(f, "socket,id=x", "chardev 'x': a socket needs one of 'path', 'port' and 'fd'");
    expect_refusal(f, "socket,id=x,path=/nonexistent/s",
                   "Failed to connect to 'unix:/nonexistent/s': No such file or directory");
    expect_refusal(f, "socket,path=s,server=maybe", "Parameter 'server' expects 'on' or 'off'");
    expect_refusal(f, "file,path=/nonexistent/f", "Failed to open '/nonexistent/f': No such file or directory");
}

/* --- files, pty, null ------------------------------------------------------------------------------------------ */

static void test_file(void **state)
{
    struct fixture *f = *state;
    CLEANUP_FREE char *in = g_strdup_printf("%s/in", f->dir);
    CLEANUP_FREE char *out = g_strdup_printf("%s/out", f->dir);
    CLEANUP_FREE char *logged = g_strdup_printf("%s/log", f->dir);
    assert_true(g_file_set_contents(in, "typed", -1, NULL));
    for (int i = 0; i < 2; i++) {
        struct chardev *c = create(f, "file,id=f,path=%s,append=on,input-path=%s,logfile=%s", out, in, logged);
        struct front fr;
        front_init(&fr, c);
        UNTIL(f, fr.got->len == 5);
        settle(f);
        assert_false(loop_turn(f->l, false)); /* the end of the input is no reason to spin */
        assert_int_equal(chardev_write(&fr.port, "out", 3), 3);
        front_finish(&fr);
        chardev_destroy(c);
    }
    CLEANUP_FREE char *text = NULL;
    assert_true(g_file_get_contents(out, &text, NULL, NULL));
    assert_string_equal(text, "outout");
    CLEANUP_FREE char *log_text = NULL;
    assert_true(g_file_get_contents(logged, &log_text, NULL, NULL));
    assert_string_equal(log_text, "out");
}

static void test_null_takes_all(void **state)
{
    struct chardev *c = create(*state, "null,id=n");
    struct front fr;
    front_init(&fr, c);
    assert_int_equal(chardev_write(&fr.port, "x", 1), 1);
    struct front other = {0};
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(chardev_attach(c, &other.port, &front_ops, &other, &e), -EBUSY);
    assert_string_equal(err_text(&e), "Device 'n' is in use");
    front_finish(&fr);
    assert_false(chardev_in_use(c));
    chardev_destroy(c);
}

static void test_pty(void **state)
{
    struct fixture *f = *state;
    struct chardev *c = create(f, "pty,id=p");
    struct front fr;
    front_init(&fr, c);
    CLEANUP_FREE char *name = chardev_filename(c);
    assert_true(g_str_has_prefix(name, "pty:/dev/pts/"));
    assert_int_equal(chardev_write(&fr.port, "lost", 4), 4);
    for (int i = 0; i < 2; i++) {
        int fd = open(name + 4, O_RDWR | O_NOCTTY);
        assert_true(fd >= 0);
        UNTIL(f, chardev_connected(c));
        assert_int_equal(chardev_write(&fr.port, "a\nb", 3), 3);
        expect_read(fd, "a\nb"); /* raw: no carriage return */
        assert_int_equal(write(fd, "\x03q", 2), 2);
        UNTIL(f, fr.got->len == 2);
        assert_string_equal(fr.got->str, "\x03q");
        g_string_truncate(fr.got, 0);
        close(fd);
        UNTIL(f, !chardev_connected(c));
    }
    assert_string_equal(fr.events->str, "OCOC");
    front_finish(&fr);
    chardev_destroy(c);
}

/* --- mux ------------------------------------------------------------------------------------------------------ */

static void test_mux(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chardev *c = create(f, "socket,id=m,fd=%d,mux=on", fds[0]);
    assert_true(chardev_is_mux(c));
    struct front ser;
    struct front mon;
    front_init(&ser, c);
    front_init(&mon, c);
    assert_int_equal(write(fds[1],
                           "s\x01\x01\x01"
                           "cm",
                           6),
                     6);
    UNTIL(f, mon.got->len == 1);
    assert_string_equal(ser.got->str, "s\x01");
    assert_string_equal(mon.got->str, "m");
    assert_string_equal(ser.events->str, "OF");
    assert_string_equal(mon.events->str, "OI");
    chardev_write(&ser.port, "[ser]", 5); /* output is never held back */
    chardev_write(&mon.port, "[mon]", 5);
    expect_read(fds[1], "[ser][mon]");
    chardev_focus(&ser.port);
    assert_int_equal(write(fds[1],
                           "\x01"
                           "b\x01h",
                           4),
                     4);
    UNTIL(f, strchr(ser.events->str, 'B'));
    expect_read(fds[1], "\n\rC-a h    print this help\n\r");
    ser.room = 2; /* keys wait without blocking the escape */
    assert_int_equal(write(fds[1],
                           "12345\x01"
                           "cx",
                           8),
                     8);
    UNTIL(f, mon.got->len == 2);
    assert_string_equal(ser.got->str, "s\x01"
                                      "12");
    ser.room = 10;
    chardev_accept_input(&ser.port);
    assert_string_equal(ser.got->str, "s\x01"
                                      "12345");
    front_finish(&mon); /* the keyboard goes back */
    assert_int_equal(write(fds[1], "z", 1), 1);
    UNTIL(f, g_str_has_suffix(ser.got->str, "z"));
    assert_int_equal(write(fds[1], "\x01x", 2), 2);
    loop_run(f->l); /* until Ctrl-A x stops it */
    front_finish(&ser);
    chardev_destroy(c);
    close(fds[1]);
}

static void test_mux_timestamps(void **state)
{
    struct fixture *f = *state;
    int fds[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
    struct chardev *c = create(f, "socket,id=m,fd=%d,mux=on", fds[0]);
    struct front ser;
    front_init(&ser, c);
    assert_int_equal(write(fds[1], "\x01tq", 3), 3);
    UNTIL(f, ser.got->len == 1);
    assert_int_equal(chardev_write(&ser.port, "a\nb", 3), 3);
    char buf[100] = {0};
    assert_int_equal(read(fds[1], buf, sizeof(buf)), 2 * strlen("[hh:mm:ss.mmm] ") + 3);
    assert_int_equal(buf[0], '[');
    assert_memory_equal(buf + 13, "] a\n[", 5);
    front_finish(&ser);
    chardev_destroy(c);
    close(fds[1]);
}

/* --- spellings ------------------------------------------------------------------------------------------------- */

static void test_legacy(void **state)
{
    static const char *const cases[][2] = {
        {"stdio", "{\"backend\":\"stdio\"}"},
        {"null", "{\"backend\":\"null\"}"},
        {"pty", "{\"backend\":\"pty\"}"},
        {"none", "{}"},
        {"chardev:c0", "{\"chardev\":\"c0\"}"},
        {"unix:/x,,y,server=on,wait=off",
         "{\"backend\":\"socket\",\"path\":\"\\/x,y\",\"server\":\"on\",\"wait\":\"off\"}"},
        {"unix:/x,server,nowait", "{\"backend\":\"socket\",\"path\":\"\\/x\",\"server\":\"on\",\"wait\":\"off\"}"},
        {"tcp:h:1,server,nodelay",
         "{\"backend\":\"socket\",\"host\":\"h\",\"port\":\"1\",\"server\":\"on\",\"nodelay\":\"on\"}"},
        {"tcp::4444", "{\"backend\":\"socket\",\"host\":\"\",\"port\":\"4444\"}"},
        {"tcp:[::1]:5", "{\"backend\":\"socket\",\"host\":\"::1\",\"port\":\"5\"}"},
        {"file:/f", "{\"backend\":\"file\",\"path\":\"\\/f\"}"},
        {"mon:stdio", "{\"backend\":\"stdio\",\"mux\":true,\"monitor\":true,\"signal\":false}"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        CLEANUP_JSON struct json_object *o = chardev_from_legacy(cases[i][0], &e);
        assert_string_equal(o ? json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN) : err_text(&e), cases[i][1]);
    }
    static const char *const bad[] = {"vc", "tcp:nowhere", "braille", "mon:none", "udp:x:1", "", "mon:mon:vc"};
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        assert_null(chardev_from_legacy(bad[i], &e));
        assert_true(err_is_set(&e));
    }
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_unix_server),
        T(test_flow_control_from_guest),
        T(test_slow_reader),
        T(test_descriptors_come_over),
        T(test_tcp_both_ends),
        T(test_reconnect),
        T(test_wait_for_client),
        T(test_passed_descriptors),
        T(test_stale_socket_is_replaced_and_files_are_not),
        T(test_refusals),
        T(test_file),
        T(test_null_takes_all),
        T(test_pty),
        T(test_mux),
        T(test_mux_timestamps),
        cmocka_unit_test(test_legacy),
    };
    return cmocka_run_group_tests_name("chardev", tests, NULL, NULL);
}
