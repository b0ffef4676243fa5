/* SPDX-License-Identifier: BSD-2-Clause */
/* Links that break: servers killed in the middle of writes, servers that are late, that lie, or say nothing. */
#include "server.h"

#include "block/nbd/link.h"

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MB = 1 << 20, BLOCK = 4096, BLOCKS = 256 };

static const uint64_t MS = 1000000;

static uint64_t elapsed_ms(uint64_t since_ns)
{
    return (loop_now_ns() - since_ns) / MS;
}

/* Reads that fail: the shortest time of some in ms; who does not wait is quick once, though the machine is busy. */
static uint64_t best_failure_ms(struct edge *ed)
{
    uint64_t best = UINT64_MAX;
    uint8_t buf[512];
    for (int i = 0; i < 20 && best >= 100; i++) {
        uint64_t start = loop_now_ns();
        assert_int_equal(edge_read_buf(ed, 0, 512, buf), -EIO);
        best = MIN(best, elapsed_ms(start));
    }
    return best;
}

/* --- a server that goes and comes back -------------------------------------------------------------------------- */

struct writer {
    struct edge *ed;
    unsigned from, step, done;
    int rc;
};

static void write_blocks(void *arg)
{
    struct writer *w = arg;
    uint8_t buf[BLOCK];
    for (unsigned i = w->from; i < BLOCKS && !w->rc; i += w->step) {
        memset(buf, (int)i, sizeof(buf));
        w->rc = edge_write_buf(w->ed, (uint64_t)i * BLOCK, BLOCK, buf, i % 5 ? 0 : REQ_FUA);
        w->done++;
    }
}

static unsigned blocks_done(const struct writer *w, unsigned n)
{
    unsigned sum = 0;
    for (unsigned i = 0; i < n; i++) {
        sum += w[i].done;
    }
    return sum;
}

static void check_blocks(const char *path)
{
    g_autofree char *data = NULL;
    gsize size;
    assert_true(g_file_get_contents(path, &data, &size, NULL));
    assert_int_equal(size, MB);
    for (unsigned i = 0; i < MB; i++) {
        assert_int_equal((uint8_t)data[i], (uint8_t)(i / BLOCK));
    }
}

static void loses_nothing(struct bench *b, int sig)
{
    struct server s = {0};
    struct writer w[8];
    int running = 0;
    const char *disk = bench_file(b, "disk", MB, 0xee);
    g_autofree char *path = g_strdup(disk);
    g_autofree char *args = g_strdup_printf("--filter=delay file %s delay-write=5ms", path);
    server_start(&s, b, args);
    struct node *n = open_export(b, &s, ",'reconnect-delay':30");
    struct edge *ed = rw_edge(n);
    for (unsigned i = 0; i < 8; i++) {
        w[i] = (struct writer){ed, i, 8};
        spawn(b, write_blocks, &w[i], &running);
    }
    for (int round = 0; round < 2; round++) {
        while (running && blocks_done(w, 8) < (unsigned)(round + 1) * BLOCKS / 4) {
            co_sleep(MS);
        }
        assert_true(running > 0); /* else nothing was tested */
        server_stop(&s, sig);
        co_sleep((round & 1 ? 0 : 150) * MS);
        server_start(&s, b, args);
    }
    wait_for(&running);
    for (unsigned i = 0; i < 8; i++) {
        assert_int_equal(w[i].rc, 0);
    }
    assert_int_equal(edge_flush(ed), 0);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGTERM);
    check_blocks(path);
}

static void survives_kill(struct bench *b)
{
    loses_nothing(b, SIGKILL);
}

static void survives_shutdown(struct bench *b)
{
    loses_nothing(b, SIGTERM);
}

static void test_comes_back(void **state)
{
    if (have_nbdkit()) {
        bench_run(survives_kill);
        bench_run(survives_shutdown);
    }
}

/* --- one that stays away ---------------------------------------------------------------------------------------- */

static void stays_away(struct bench *b)
{
    struct server s = {0};
    uint8_t buf[512] = {1};
    server_start(&s, b, "memory 1M");
    struct node *n = open_export(b, &s, ",'reconnect-delay':1");
    struct edge *ed = rw_edge(n);
    assert_int_equal(edge_write_buf(ed, 0, 512, buf, 0), 0);
    server_stop(&s, SIGKILL);
    uint64_t start = loop_now_ns();
    assert_int_equal(edge_read_buf(ed, 0, 512, buf), -EIO);
    assert_in_range(elapsed_ms(start), 900, 30000);
    assert_true(best_failure_ms(ed) < 100); /* patience is over: no more waiting */
    server_start(&s, b, "memory 1M");
    for (int i = 0; edge_read_buf(ed, 0, 512, buf) < 0; i++) { /* the link is looked for further on */
        assert_true(i < 6000);
        co_sleep(10 * MS);
    }
    assert_int_equal(buf[0], 0);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void has_no_patience(struct bench *b)
{
    struct server s = {0};
    uint8_t buf[512] = {0};
    server_start(&s, b, "memory 1M");
    struct node *n = open_export(b, &s, "");
    struct edge *ed = rw_edge(n);
    server_stop(&s, SIGKILL);
    assert_int_equal(edge_read_buf(ed, 0, 512, buf), -EIO);
    assert_int_equal(edge_flush(ed), -EIO);
    assert_true(best_failure_ms(ed) < 100);
    server_start(&s, b, "memory 1M");
    for (int i = 0; edge_read_buf(ed, 0, 512, buf) < 0; i++) {
        assert_true(i < 6000);
        co_sleep(10 * MS);
    }
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_stays_away(void **state)
{
    if (have_nbdkit()) {
        bench_run(stays_away);
        bench_run(has_no_patience);
    }
}

/* --- one that comes back as another ----------------------------------------------------------------------------- */

struct changeling {
    struct bench *b;
    const char *args;
};

static void is_another(void *arg)
{
    struct changeling *c = arg;
    struct server s = {0};
    uint8_t buf[512] = {0};
    server_start(&s, c->b, "memory 1M");
    struct node *n = open_export(c->b, &s, ",'reconnect-delay':1");
    struct edge *ed = rw_edge(n);
    server_stop(&s, SIGKILL);
    server_start(&s, c->b, c->args);
    assert_int_equal(edge_read_buf(ed, 0, 512, buf), -EIO);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void are_others(struct bench *b)
{
    static const char blocks[] = "--filter=blocksize-policy memory 1M blocksize-minimum=4k blocksize-preferred=4k "
                                 "blocksize-maximum=1M";
    static const char *const others[] = {"memory 512k", "-r memory 1M", blocks, "--filter=nozero memory 1M"};
    struct changeling c[G_N_ELEMENTS(others)];
    int running = 0;
    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        c[i] = (struct changeling){b, others[i]};
        spawn(b, is_another, &c[i], &running);
    }
    wait_for(&running);
}

static void test_another(void **state)
{
    if (have_nbdkit()) {
        bench_run(are_others);
    }
}

/* --- closing and draining while it is away ---------------------------------------------------------------------- */

static void read_once(void *arg)
{
    uint8_t buf[512];
    edge_read_buf(arg, 0, 512, buf);
}

static void closes_while_away(struct bench *b)
{
    struct server s = {0};
    int running = 0;
    server_start(&s, b, "memory 1M");
    struct node *n = open_export(b, &s, ",'reconnect-delay':1");
    struct edge *ed = rw_edge(n);
    spawn(b, read_once, ed, &running);
    wait_for(&running);
    server_stop(&s, SIGKILL);
    spawn(b, read_once, ed, &running);
    co_sleep(20 * MS);
    uint64_t start = loop_now_ns();
    node_drain_begin(n); /* waits for the request, which waits for the server, but not for ever */
    assert_int_equal(running, 0);
    assert_true(elapsed_ms(start) < 30000);
    node_drain_end(n);
    co_sleep(300 * MS); /* attempts go on, and are given up at once */
    start = loop_now_ns();
    edge_close(ed);
    node_unref(n);
    assert_true(elapsed_ms(start) < 10000);
}

static void test_closing(void **state)
{
    if (have_nbdkit()) {
        bench_run(closes_while_away);
    }
}

/* --- the first connection --------------------------------------------------------------------------------------- */

struct late {
    struct bench *b;
    struct server *s;
};

static void start_late(void *arg)
{
    struct late *l = arg;
    co_sleep(400 * MS);
    server_start(l->s, l->b, "memory 1M");
}

static void waits_to_open(struct bench *b)
{
    struct server s = {0};
    struct late l = {b, &s};
    int running = 0;
    server_name(&s, b);
    uint64_t start = loop_now_ns();
    must_fail(b, jsonf("{'driver':'nbd','path':'%s','open-timeout':1}", s.socket));
    assert_in_range(elapsed_ms(start), 990, 30000);
    const char *text = must_fail(b, jsonf("{'driver':'nbd','path':'%s'}", s.socket));
    assert_true(g_str_has_prefix(text, "Failed to connect to '"));
    spawn(b, start_late, &l, &running);
    struct node *n = open_export(b, &s, ",'open-timeout':20");
    wait_for(&running);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_opening(void **state)
{
    if (have_nbdkit()) {
        bench_run(waits_to_open);
    }
}

/* --- bytes of our own ------------------------------------------------------------------------------------------- */

#define HELLO "NBDMAGICIHAVEOPT\0\3"
#define REPLY "\0\3\xe8\x89\4\x55\x65\xa9"

static const struct talk {
    const char *bytes;
    size_t len;
    bool hang; /* the other end stays open and says nothing more */
    const char *text;
} talks[] = {
    {"", 0, false, "Failed to read initial magic: Unexpected end-of-file before all data were read"},
    {"NBDMAGIC", 8, false, "Failed to read initial magic: Unexpected end-of-file"},
    {"HTTP/1.1 400 Bad Request\r\n\r\n", 28, false, "Failed to negotiate"},
    {HELLO, 16, false, "Failed to read server flags: Unexpected end-of-file"},
    {HELLO, sizeof(HELLO) - 1, false, "Failed to read option reply: Unexpected end-of-file"},
    /* structured replies: acknowledged for another option */
    {HELLO REPLY "\0\0\0\7\0\0\0\1\0\0\0\0", sizeof(HELLO REPLY) - 1 + 12, false, "Failed to negotiate"},
    {HELLO REPLY "\0\0\0\10\0\0\0\1\0\0\0\0", sizeof(HELLO REPLY) - 1 + 12, false, "Failed to read option reply"},
    {HELLO REPLY, sizeof(HELLO REPLY) - 1, true, "Failed to negotiate with the NBD server: Connection timed out"},
};

static void hears_nonsense(struct bench *b)
{
    for (size_t i = 0; i < G_N_ELEMENTS(talks); i++) {
        const struct talk *t = &talks[i];
        int fd[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
        assert_int_equal(write(fd[1], t->bytes, t->len), t->len);
        if (!t->hang) {
            shutdown(fd[1], SHUT_WR);
        }
        const char *text =
            must_fail(b, jsonf("{'driver':'nbd','server':{'type':'fd','str':'%d'},'open-timeout':%d}", fd[0], t->hang));
        if (!g_str_has_prefix(text, t->text)) {
            fail_msg("talk %zu: %s", i, text);
        }
        close(fd[0]);
        close(fd[1]);
    }
}

static void test_nonsense(void **state)
{
    bench_run(hears_nonsense);
}

/* An old server over a socket pair: 1 MiB, then what the test says. */
static const char old_hello[] = "NBDMAGIC\0\0\x42\2\x81\x86\x12\x53\0\0\0\0\0\x10\0\0\0\0\0\1";

struct old {
    int fd;
    bool stop;
    unsigned answered;
};

/* Answers the first request with zeroes and the second with half of an answer. */
static void serve_old(void *arg)
{
    struct old *o = arg;
    uint8_t q[28], a[16] = {0x67, 0x44, 0x66, 0x98};
    g_autofree uint8_t *zeroes = g_malloc0(512);
    for (; o->answered < 2; o->answered++) {
        co_poll(o->fd, POLLIN, UINT64_MAX);
        assert_int_equal(read(o->fd, q, sizeof(q)), sizeof(q));
        memcpy(a + 8, q + 8, 8);
        assert_int_equal(write(o->fd, a, sizeof(a)), sizeof(a));
        assert_true(write(o->fd, zeroes, o->answered ? 100 : 512) > 0);
    }
    shutdown(o->fd, SHUT_RDWR);
}

static void talks_to_old_ones(struct bench *b)
{
    int fd[2], running = 0;
    uint8_t buf[512], hello[152] = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    memcpy(hello, old_hello, sizeof(old_hello) - 1);
    assert_int_equal(write(fd[1], hello, sizeof(hello)), sizeof(hello));
    struct old o = {.fd = fd[1]};
    struct node *n =
        must_open(b, jsonf("{'driver':'nbd','server':{'type':'fd','str':'%d'},'reconnect-delay':5}", fd[0]));
    struct edge *ed = rw_edge(n);
    assert_int_equal(n->size, MB);
    assert_int_equal(n->limits.request_align, 512);
    spawn(b, serve_old, &o, &running);
    assert_int_equal(edge_read_buf(ed, 0, 512, buf), 0);
    assert_int_equal(edge_read_buf(ed, 512, 512, buf), -EIO); /* nobody can be called again: no waiting */
    assert_int_equal(edge_read_buf(ed, 0, 512, buf), -EIO);
    wait_for(&running);
    edge_close(ed);
    node_unref(n);
    close(fd[0]);
    close(fd[1]);
}

static void test_old(void **state)
{
    bench_run(talks_to_old_ones);
}

/* --- names ------------------------------------------------------------------------------------------------------- */

/* In the C library's place: one name is looked up until somebody lets it be found, and all others are not at all. */
static pthread_mutex_t names = PTHREAD_MUTEX_INITIALIZER;

int getaddrinfo(const char *host, const char *port, const struct addrinfo *hints, struct addrinfo **found)
{
    bool number = host && g_ascii_isdigit(*host);
    if (!number && hints->ai_flags & AI_NUMERICHOST) {
        return EAI_NONAME;
    }
    if (!number) {
        pthread_mutex_lock(&names);
        pthread_mutex_unlock(&names);
    }
    struct addrinfo *a = g_new0(struct addrinfo, 1);
    struct sockaddr_in *in = g_new0(struct sockaddr_in, 1);
    *in = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    *a = (struct addrinfo){
        .ai_family = AF_INET, .ai_socktype = SOCK_STREAM, .ai_addr = (struct sockaddr *)in, .ai_addrlen = sizeof(*in)};
    *found = a;
    return 0;
}

static atomic_int freed;

void freeaddrinfo(struct addrinfo *a)
{
    g_free(a->ai_addr);
    g_free(a);
    freed++;
}

struct dialler {
    struct nbd_address a;
    struct nbd_dial d;
    int rc, fd;
    struct err e;
};

static void dial(void *arg)
{
    struct dialler *x = arg;
    x->rc = nbd_dial(&x->a, &x->d, &x->fd, &x->e);
}

static void must_end(struct bench *b, struct dialler *x, const char *says)
{
    int running = 0;
    char host[] = "nobody.example", port[] = "1";
    x->a = (struct nbd_address){.type = NBD_INET, .host = host, .port = port};
    x->d.fd = -1;
    spawn(b, dial, x, &running);
    if (x->d.deadline_ns == UINT64_MAX) {
        co_sleep(5 * MS);
        assert_int_equal(running, 1);
        nbd_dial_stop(&x->d);
    }
    wait_for(&running); /* the name cannot be found meanwhile: this would not return */
    assert_string_equal(err_text(&x->e), says);
    err_clear(&x->e);
}

static void looks_up(struct bench *b)
{
    struct dialler stopped = {.d.deadline_ns = UINT64_MAX}, late = {.d.deadline_ns = loop_now_ns() + 50 * MS};
    pthread_mutex_lock(&names);
    must_end(b, &stopped, "address resolution failed for nobody.example:1: Operation canceled");
    assert_int_equal(stopped.rc, -ECANCELED);
    must_end(b, &late, "address resolution failed for nobody.example:1: Connection timed out");
    assert_int_equal(late.rc, -ETIMEDOUT);
    pthread_mutex_unlock(&names);
    while (freed < 2) { /* what nobody waits for any more */
        co_sleep(MS);
    }
    char number[] = "127.0.0.1", port[16];
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof(in);
    int listens = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(listens, (struct sockaddr *)&in, sizeof(in)), 0);
    assert_int_equal(listen(listens, 2), 0);
    assert_int_equal(getsockname(listens, (struct sockaddr *)&in, &len), 0);
    g_snprintf(port, sizeof(port), "%u", ntohs(in.sin_port));
    char name[] = "somebody.example", *hosts[] = {number, name};
    for (unsigned i = 0; i < 2; i++) {
        struct dialler x = {.a = {.type = NBD_INET, .host = hosts[i], .port = port},
                            .d = {.fd = -1, .deadline_ns = UINT64_MAX}};
        dial(&x);
        assert_int_equal(x.rc, 0);
        close(x.fd);
    }
    close(listens);
}

static void test_names(void **state)
{
    bench_run(looks_up);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_comes_back), cmocka_unit_test(test_stays_away), cmocka_unit_test(test_another),
        cmocka_unit_test(test_closing),    cmocka_unit_test(test_opening),    cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_old),        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
