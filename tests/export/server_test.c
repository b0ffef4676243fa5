/* SPDX-License-Identifier: BSD-2-Clause */
/* The server as other parts of the program use it: exports that come and go, bitmaps, drains, errors, and whose writes
 * a reply may show. The client is a coroutine at the other end of a pair of sockets. */
#include "support.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/debug.h"
#include "block/dirty.h"
#include "export/nbd/nbd.h"
#include "export/nbd/proto.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

/* --- a client ----------------------------------------------------------------------------------------------------- */

struct client {
    int fd;
    uint64_t size;
    uint16_t flags;
    unsigned contexts;
};

static void put(struct client *c, const void *buf, size_t len)
{
    while (len) {
        ssize_t n = send(c->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            co_poll(c->fd, POLLOUT, UINT64_MAX);
            continue;
        }
        assert_true(n > 0);
        buf = (const char *)buf + n;
        len -= (size_t)n;
    }
}

/* False: the server has closed. */
static bool get(struct client *c, void *buf, size_t len)
{
    while (len) {
        ssize_t n = recv(c->fd, buf, len, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            co_poll(c->fd, POLLIN, UINT64_MAX);
            continue;
        }
        if (n <= 0) {
            return false;
        }
        buf = (char *)buf + n;
        len -= (size_t)n;
    }
    return true;
}

static void put_option(struct client *c, uint32_t opt, const void *data, uint32_t len)
{
    uint8_t head[NBD_OPTION_SIZE];
    store_be64(head, NBD_OPTS_MAGIC);
    store_be32(head + 8, opt);
    store_be32(head + 12, len);
    put(c, head, sizeof(head));
    put(c, data, len);
}

/* The type of the final reply; counts contexts, reads what EXPORT says. */
static uint32_t option(struct client *c, uint32_t opt, const void *data, uint32_t len)
{
    put_option(c, opt, data, len);
    for (;;) {
        uint8_t head[NBD_OPTION_REPLY_SIZE], body[8192];
        assert_true(get(c, head, sizeof(head)));
        uint32_t type = load_be32(head + 12), n = load_be32(head + 16);
        assert_true(n <= sizeof(body) && get(c, body, n));
        if (type == NBD_REP_INFO && load_be16(body) == NBD_INFO_EXPORT) {
            c->size = load_be64(body + 2);
            c->flags = load_be16(body + 10);
        }
        c->contexts += type == NBD_REP_META_CONTEXT;
        if (type == NBD_REP_ACK || type >= NBD_REP_ERR(0)) {
            return type;
        }
    }
}

static struct client *greet(struct nbd_server *s)
{
    int pair[2];
    struct client *c = calloc(1, sizeof(*c));
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    c->fd = pair[0];
    nbd_server_adopt(s, pair[1]);
    uint8_t hello[18], flags[4] = {0, 0, 0, 3};
    assert_true(get(c, hello, sizeof(hello)));
    put(c, flags, sizeof(flags));
    return c;
}

static uint32_t meta(struct client *c, uint32_t opt, const char *export, const char *query)
{
    uint8_t buf[512], *p = buf;
    size_t n = strlen(export), q = strlen(query);
    store_be32(p, (uint32_t)n);
    memcpy(p + 4, export, n);
    p += 4 + n;
    store_be32(p, 1);
    store_be32(p + 4, (uint32_t)q);
    memcpy(p + 8, query, q);
    c->contexts = 0;
    return option(c, opt, buf, (uint32_t)(p + 8 + q - buf));
}

static uint32_t go(struct client *c, const char *name)
{
    uint8_t buf[512] = {0};
    size_t n = strlen(name);
    store_be32(buf, (uint32_t)n);
    memcpy(buf + 4, name, n);
    return option(c, NBD_OPT_GO, buf, (uint32_t)(4 + n + 2));
}

static struct client *enter(struct nbd_server *s, const char *name)
{
    struct client *c = greet(s);
    assert_int_equal(go(c, name), NBD_REP_ACK);
    return c;
}

static void leave(struct client *c)
{
    close(c->fd);
    free(c);
}

static void ask(struct client *c, uint16_t type, uint64_t off, uint32_t len)
{
    uint8_t h[NBD_REQUEST_SIZE] = {0};
    store_be32(h, NBD_REQUEST_MAGIC);
    store_be16(h + 6, type);
    store_be64(h + 16, off);
    store_be32(h + 24, len);
    put(c, h, sizeof(h));
}

/* The error of a simple reply; -1: closed. */
static int answer(struct client *c, void *data, size_t len)
{
    uint8_t h[NBD_SIMPLE_REPLY_SIZE];
    if (!get(c, h, sizeof(h))) {
        return -1;
    }
    assert_int_equal(load_be32(h), NBD_SIMPLE_REPLY_MAGIC);
    int error = (int)load_be32(h + 4);
    assert_true(error || get(c, data, len));
    return error;
}

static int do_write(struct client *c, uint64_t off, int byte, uint32_t len)
{
    uint8_t *buf = malloc(len);
    memset(buf, byte, len);
    ask(c, NBD_CMD_WRITE, off, len);
    put(c, buf, len);
    free(buf);
    return answer(c, NULL, 0);
}

static int do_read(struct client *c, uint64_t off, void *buf, uint32_t len)
{
    ask(c, NBD_CMD_READ, off, len);
    return answer(c, buf, len);
}

/* --- a server ----------------------------------------------------------------------------------------------------- */

static struct nbd_server *server(struct bench *b, unsigned max)
{
    return nbd_server_create(&(struct nbd_server_options){.graph = b->graph, .max_connections = max});
}

static struct nbd_export *export(struct nbd_server *s, struct node *n, const char *name, bool writable)
{
    struct nbd_export *exp = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct nbd_export_options o = {.node = n, .name = name, .writable = writable};
    if (nbd_export_add(s, &o, &exp, &e)) {
        fail_msg("%s", err_text(&e));
    }
    return exp;
}

static const char *refused(struct nbd_server *s, const struct nbd_export_options *o, char *text, size_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_true(nbd_export_add(s, o, NULL, &e) < 0);
    g_strlcpy(text, err_text(&e), size);
    return text;
}

static struct node *raw_file(struct bench *b, const char *name, uint64_t size, int fill)
{
    return must_open(b, jsonf("{'driver':'raw','node-name':'%s','file':{'driver':'file','filename':'%s'}}", name,
                              bench_file(b, name, size, fill)));
}

static struct node *debug_disk(struct bench *b, const char *rules)
{
    return must_open(b, jsonf("{'driver':'raw','file':{'driver':'blkdebug','image':{'driver':'null-co','size':'1M',"
                              "'read-zeroes':true}%s}}",
                              rules));
}

static void exports(struct bench *b)
{
    char text[256];
    struct node *n = raw_file(b, "disk", MIB, 7);
    struct nbd_server *s = server(b, 0);
    struct nbd_export *one = export(s, n, "one", true), *two = export(s, n, "two", false);
    struct nbd_export_options dup = {.node = n, .name = "one", .id = "other"},
                              id = {.node = n, .name = "x", .id = "two"};
    assert_string_equal(refused(s, &dup, text, sizeof(text)), "NBD server already has export named 'one'");
    assert_string_equal(refused(s, &id, text, sizeof(text)), "Block export id 'two' is already in use");
    assert_ptr_equal(nbd_export_find(s, "one"), one);
    assert_ptr_equal(nbd_export_find_id(s, "two"), two);
    assert_ptr_equal(nbd_server_export(s, 1), two);
    assert_null(nbd_server_export(s, 2));

    struct client *c = enter(s, "one"), *r = enter(s, "two");
    assert_true(c->size == MIB && !(c->flags & NBD_FLAG_READ_ONLY) && r->flags & NBD_FLAG_READ_ONLY);
    assert_int_equal(do_write(c, 512, 9, 512), 0);
    assert_int_equal(do_write(r, 512, 9, 512), NBD_EPERM);
    uint8_t buf[1024];
    assert_int_equal(do_read(r, 0, buf, sizeof(buf)), 0);
    assert_true(buf[511] == 7 && buf[512] == 9);
    CLEANUP_ERR struct err e = ERR_INIT;
    struct edge_spec spec = {"other", PERM_RESIZE, PERM_ALL};
    struct edge *ed;
    assert_true(edge_open(n, &spec, &ed, &e) < 0);
    assert_non_null(strstr(err_text(&e), "unshared by block device export"));
    leave(c);
    leave(r);
    nbd_server_destroy(s);
    node_unref(n);
}

static void test_exports(void **state)
{
    bench_run(exports);
}

/* --- removing ----------------------------------------------------------------------------------------------------- */

struct removal {
    struct nbd_export *exp;
    bool hard, done;
    int rc;
    int *running;
};

static void remove_it(void *arg)
{
    struct removal *r = arg;
    r->rc = nbd_export_remove(r->exp, r->hard, NULL);
    r->done = true;
}

static void removes(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *n = raw_file(b, "disk", MIB, 7);
    struct nbd_server *s = server(b, 0);
    struct nbd_export *exp = export(s, n, "x", true);
    struct client *c = enter(s, "x"), *haggling = greet(s);
    assert_int_equal(option(haggling, NBD_OPT_STRUCTURED_REPLY, NULL, 0), NBD_REP_ACK);
    assert_int_equal(meta(haggling, NBD_OPT_SET_META_CONTEXT, "x", "base:allocation"), NBD_REP_ACK);
    assert_int_equal(haggling->contexts, 1);
    assert_int_equal(nbd_export_remove(exp, false, &e), -EBUSY);
    assert_string_equal(err_text(&e), "export 'x' still in use");
    assert_int_equal(nbd_export_remove(exp, true, NULL), 0);
    uint8_t byte;
    assert_false(get(c, &byte, 1));
    assert_null(nbd_export_find(s, "x"));
    leave(haggling);
    haggling = greet(s);
    assert_int_equal(go(haggling, "x"), NBD_REP_ERR_UNKNOWN);
    /* the name can be had again, by another export that owes nothing to the first */
    exp = export(s, n, "x", false);
    assert_int_equal(go(haggling, "x"), NBD_REP_ACK);
    leave(haggling);
    leave(c);
    while (nbd_server_connections(s)) {
        co_yield ();
    }
    assert_int_equal(nbd_export_remove(exp, false, NULL), 0);
    nbd_server_destroy(s);
    node_unref(n);
}

static void test_remove(void **state)
{
    bench_run(removes);
}

/* A request that is stuck in the driver holds up the removal, and is answered by nobody afterwards. */
static void removes_busy(struct bench *b)
{
    struct node *n = debug_disk(b, "");
    struct nbd_server *s = server(b, 0);
    struct removal r = {.exp = export(s, n, "", true), .hard = true};
    struct client *c = enter(s, "");
    int running = 0;
    assert_int_equal(block_debug_break(n, "write_aio", "stop", NULL), 0);
    ask(c, NBD_CMD_WRITE, 0, 512);
    uint8_t data[512] = {1};
    put(c, data, sizeof(data));
    while (!block_debug_is_suspended(n, "stop")) {
        co_yield ();
    }
    spawn(b, remove_it, &r, &running);
    for (unsigned i = 0; i < 50; i++) {
        co_yield ();
    }
    assert_false(r.done);
    assert_int_equal(block_debug_resume(n, "stop", NULL), 0);
    wait_for(&running);
    assert_true(r.done && r.rc == 0);
    leave(c);
    nbd_server_destroy(s);
    node_unref(n);
}

static void test_remove_busy(void **state)
{
    bench_run(removes_busy);
}

/* --- the end of a server ------------------------------------------------------------------------------------------ */

static void destroy_it(void *arg)
{
    nbd_server_destroy(arg);
}

/* What has begun is answered, what comes later is told that the server goes. */
static void shuts_down(struct bench *b)
{
    struct node *n = debug_disk(b, "");
    struct nbd_server *s = server(b, 0);
    export(s, n, "", true);
    struct client *c = enter(s, "");
    int running = 0;
    assert_int_equal(block_debug_break(n, "write_aio", "stop", NULL), 0);
    uint8_t data[512] = {1};
    ask(c, NBD_CMD_WRITE, 0, 512);
    put(c, data, sizeof(data));
    while (!block_debug_is_suspended(n, "stop")) {
        co_yield ();
    }
    ask(c, NBD_CMD_FLUSH, 0, 0);
    spawn(b, destroy_it, s, &running);
    co_sleep(1000000);
    assert_int_equal(running, 1);
    assert_int_equal(block_debug_resume(n, "stop", NULL), 0);
    int answers[2] = {answer(c, NULL, 0), answer(c, NULL, 0)};
    assert_true(answers[0] == 0 || answers[1] == 0);
    for (int i = 0; i < 2; i++) {
        assert_true(answers[i] == 0 || answers[i] == NBD_ESHUTDOWN);
    }
    assert_int_equal(answer(c, NULL, 0), -1);
    wait_for(&running);
    leave(c);
    node_unref(n);
}

static void test_shutdown(void **state)
{
    bench_run(shuts_down);
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

static void maps_errors(struct bench *b)
{
    static const struct {
        int number, nbd;
    } cases[] = {{EIO, NBD_EIO},      {ENOSPC, NBD_ENOSPC},  {EFBIG, NBD_ENOSPC},       {EDQUOT, NBD_ENOSPC},
                 {EPERM, NBD_EPERM},  {EROFS, NBD_EPERM},    {ENOMEM, NBD_ENOMEM},      {EINVAL, NBD_EINVAL},
                 {ENXIO, NBD_EINVAL}, {ENOTSUP, NBD_EINVAL}, {ESHUTDOWN, NBD_ESHUTDOWN}};
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        char rules[256];
        snprintf(rules, sizeof(rules),
                 ",'inject-error':[{'event':'read_aio','errno':%d},{'event':'write_aio','errno':%d}]", cases[i].number,
                 cases[i].number);
        struct node *n = debug_disk(b, rules);
        struct nbd_server *s = server(b, 0);
        export(s, n, "", true);
        struct client *c = enter(s, "");
        assert_int_equal(do_read(c, 0, NULL, 512), cases[i].nbd);
        assert_int_equal(do_write(c, 0, 1, 512), cases[i].nbd);
        leave(c);
        nbd_server_destroy(s);
        node_unref(n);
    }
}

static void test_errors(void **state)
{
    bench_run(maps_errors);
}

/* --- bitmaps ------------------------------------------------------------------------------------------------------ */

static void tells_bitmaps(struct bench *b)
{
    char text[256];
    struct node *n = raw_file(b, "disk", MIB, 7);
    struct nbd_server *s = server(b, 0);
    struct dirty_bitmap *bm;
    assert_int_equal(dirty_bitmap_create(n, "bits", 65536, &bm, NULL), 0);
    dirty_bitmap_set(bm, 65536, 1);
    dirty_bitmap_set(bm, 3 * 65536, 65536 * 2);
    struct nbd_bitmap_ref ref = {.name = "bits"}, missing = {.name = "none"}, named = {.node = "disk", .name = "bits"};
    struct nbd_export_options o = {.node = n, .name = "", .bitmaps = &missing, .n_bitmaps = 1};
    assert_string_equal(refused(s, &o, text, sizeof(text)), "Bitmap 'none' is not found");
    o.bitmaps = &ref;
    assert_string_equal(refused(s, &o, text, sizeof(text)), "Enabled bitmap 'bits' incompatible with readonly export");
    bm->inconsistent = true;
    assert_string_equal(refused(s, &o, text, sizeof(text)), "Bitmap 'bits' is inconsistent and cannot be used");
    bm->inconsistent = false;
    o.writable = true;
    o.bitmaps = &named;
    assert_int_equal(nbd_export_add(s, &o, NULL, NULL), 0);
    assert_true(bm->busy);
    o.name = "again";
    assert_string_equal(refused(s, &o, text, sizeof(text)),
                        "Bitmap 'bits' is currently in use by another operation and cannot be used");

    struct client *c = greet(s);
    assert_int_equal(option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0), NBD_REP_ACK);
    assert_int_equal(meta(c, NBD_OPT_LIST_META_CONTEXT, "", "qemu:dirty-bitmap:"), NBD_REP_ACK);
    assert_int_equal(c->contexts, 1);
    assert_int_equal(meta(c, NBD_OPT_SET_META_CONTEXT, "", "qemu:dirty-bitmap:bits"), NBD_REP_ACK);
    assert_int_equal(c->contexts, 1);
    assert_int_equal(go(c, ""), NBD_REP_ACK);
    ask(c, NBD_CMD_BLOCK_STATUS, 0, MIB);
    uint8_t h[NBD_STRUCTURED_REPLY_SIZE], p[4 + 5 * 8];
    assert_true(get(c, h, sizeof(h)));
    assert_int_equal(load_be32(h + 16), sizeof(p));
    assert_true(get(c, p, sizeof(p)));
    const uint32_t want[] = {65536, 0, 65536, 1, 65536, 0, 2 * 65536, 1, 11 * 65536, 0};
    for (unsigned i = 0; i < G_N_ELEMENTS(want); i++) {
        assert_int_equal(load_be32(p + 4 + 4 * i), want[i]);
    }
    leave(c);
    nbd_server_destroy(s);
    assert_false(bm->busy);
    dirty_bitmap_destroy(bm);
    node_unref(n);
}

static void test_bitmaps(void **state)
{
    bench_run(tells_bitmaps);
}

/* --- drains ------------------------------------------------------------------------------------------------------- */

static void waits_at_drains(struct bench *b)
{
    struct node *n = raw_file(b, "disk", MIB, 7);
    struct nbd_server *s = server(b, 0);
    export(s, n, "", true);
    struct client *c = enter(s, "");
    node_drain_begin(n);
    ask(c, NBD_CMD_READ, 0, 65536);
    assert_int_equal(co_poll(c->fd, POLLIN, 20000000), -ETIMEDOUT);
    node_drain_end(n);
    uint8_t *buf = malloc(65536);
    assert_int_equal(answer(c, buf, 65536), 0);
    assert_int_equal(buf[65535], 7);
    free(buf);
    leave(c);
    nbd_server_destroy(s);
    node_unref(n);
}

static void test_drain(void **state)
{
    bench_run(waits_at_drains);
}

/* --- whose writes a reply may show -------------------------------------------------------------------------------- */

/* A reply that lies in the socket is as old as it is when anybody but NBD clients can write to the node. */
static void keeps_what_it_said(struct bench *b)
{
    enum { LEN = 256 << 10 };
    struct node *n = raw_file(b, "disk", MIB, 7);
    struct nbd_server *s = server(b, 0);
    export(s, n, "", true);
    uint8_t *now = malloc(LEN), *got = malloc(LEN);
    memset(now, 8, LEN);
    struct client *c = enter(s, "");
    assert_int_equal(do_read(c, 0, got, LEN), 0); /* now it is cached */
    struct edge *other = must_edge(n, PERM_READ | PERM_WRITE, PERM_ALL);
    ask(c, NBD_CMD_READ, 0, LEN);
    assert_true(co_poll(c->fd, POLLIN, UINT64_MAX) > 0);
    co_sleep(2000000);
    assert_int_equal(edge_write_buf(other, 0, LEN, now, 0), 0);
    assert_int_equal(answer(c, got, LEN), 0);
    for (unsigned i = 0; i < LEN; i += 4096) {
        assert_int_equal(got[i], 7);
    }
    edge_close(other);
    leave(c);
    nbd_server_destroy(s);
    node_unref(n);
    free(now);
    free(got);
}

static void test_keeps(void **state)
{
    bench_run(keeps_what_it_said);
}

/* A file that becomes shorter under our hands reads as zeroes; the stream stays in order. */
static void survives_truncation(struct bench *b)
{
    enum { LEN = 256 << 10 };
    struct node *n = raw_file(b, "disk", MIB, 7);
    struct nbd_server *s = server(b, 0);
    export(s, n, "", true);
    uint8_t *got = malloc(LEN);
    struct client *c = enter(s, "");
    for (unsigned i = 0; i < 40; i++) { /* more than the socket takes: some are still in the queue */
        ask(c, NBD_CMD_READ, 0, LEN);
    }
    co_sleep(5000000);
    assert_int_equal(truncate(bench_path(b, "disk"), 10000), 0);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(answer(c, got, LEN), 0);
        assert_true(got[0] == 7 && (got[LEN - 1] == 7 || got[LEN - 1] == 0));
    }
    assert_int_equal(do_read(c, 0, got, LEN), 0);
    assert_true(got[9999] == 7 && got[10000] == 0 && got[LEN - 1] == 0);
    leave(c);
    nbd_server_destroy(s);
    node_unref(n);
    free(got);
}

static void test_truncation(void **state)
{
    bench_run(survives_truncation);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exports),  cmocka_unit_test(test_remove), cmocka_unit_test(test_remove_busy),
        cmocka_unit_test(test_shutdown), cmocka_unit_test(test_errors), cmocka_unit_test(test_bitmaps),
        cmocka_unit_test(test_drain),    cmocka_unit_test(test_keeps),  cmocka_unit_test(test_truncation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
