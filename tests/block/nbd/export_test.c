/* SPDX-License-Identifier: BSD-2-Clause */
/* Exports as disks: names and options, data, extents, limits, errors; against nbdkit. */
#include "server.h"

#include "block/nbd/address.h"
#include "block/options.h"
#include "block/reopen.h"

#include <signal.h>
#include <unistd.h>

enum { MB = 1 << 20 };

/* --- names ------------------------------------------------------------------------------------------------------ */

static const struct name {
    const char *given, *options, *shown; /* options NULL: refused with `shown` */
} names[] = {
    {"nbd://h", "{'server':{'type':'inet','host':'h','port':'10809'}}", "nbd://h:10809"},
    {"nbd://h:1/", "{'server':{'type':'inet','host':'h','port':'1'}}", "nbd://h:1"},
    {"nbd+tcp://h:1/a/b", "{'server':{'type':'inet','host':'h','port':'1'},'export':'a/b'}", "nbd://h:1/a/b"},
    {"nbd://h:1//a", "{'server':{'type':'inet','host':'h','port':'1'},'export':'/a'}", "nbd://h:1//a"},
    {"nbd://u@[::1]:2/x%20y", "{'server':{'type':'inet','host':'::1','port':'2'},'export':'x y'}", "nbd://[::1]:2/x y"},
    {"nbd://h:1/a%3Fb%25", "{'server':{'type':'inet','host':'h','port':'1'},'export':'a?b%'}", "nbd://h:1/a%3Fb%25"},
    {"nbd+unix:///?socket=/s", "{'server':{'type':'unix','path':'/s'}}", "nbd+unix://?socket=/s"},
    {"nbd+unix:///e?socket=/s%26t", "{'server':{'type':'unix','path':'/s&t'},'export':'e'}",
     "nbd+unix:///e?socket=/s%26t"},
    {"nbds://h/e", "{'server':{'type':'inet','host':'h','port':'10809'},'export':'e','tls':true}", "nbds://h:10809/e"},
    {"nbds+unix:///e?socket=s", "{'server':{'type':'unix','path':'s'},'export':'e','tls':true}",
     "nbds+unix:///e?socket=s"},
    {"nbd:unix:/s", "{'server':{'type':'unix','path':'/s'}}", "nbd+unix://?socket=/s"},
    {"nbd:unix:/s:exportname=e:f", "{'server':{'type':'unix','path':'/s'},'export':'e:f'}",
     "nbd+unix:///e:f?socket=/s"},
    {"nbd:h:1", "{'server':{'type':'inet','host':'h','port':'1'}}", "nbd://h:1"},
    {"nbd:[::1]:1:exportname=e", "{'server':{'type':'inet','host':'::1','port':'1'},'export':'e'}", "nbd://[::1]:1/e"},
    {"nbd:", NULL, "NBD server address missing"},
    {"nbd:h", NULL, "error parsing address 'h'"},
    {"nbd:[::1", NULL, "error parsing address '[::1'"},
    {"nbd:h:1:exportname=", NULL, "NBD server address missing"},
    {"nbd://", NULL, "No valid URL specified"},
    {"nbd:///e", NULL, "No valid URL specified"},
    {"nbd://h/?a=b", NULL, "No valid URL specified"},
    {"nbd://h/%zz", NULL, "No valid URL specified"},
    {"nbd+unix:///e", NULL, "No valid URL specified"},
    {"nbd+unix://h/?socket=/s", NULL, "No valid URL specified"},
    {"nbd+unix:///?socket=/s&x=y", NULL, "No valid URL specified"},
    {"nbd+unix:/s", NULL, "No valid URL specified"},
};

static void test_names(void **state)
{
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        const struct name *n = &names[i];
        struct err e = ERR_INIT;
        struct json_object *o = json_object_new_object();
        int rc = nbd_parse_filename(n->given, o, &e);
        if (!n->options) {
            assert_true(rc < 0);
            assert_string_equal(err_text(&e), n->shown);
        } else {
            struct json_object *want = jsonf("%s", n->options);
            struct nbd_address a;
            assert_int_equal(rc, 0);
            assert_true(json_object_equal(o, want));
            assert_int_equal(nbd_address_read(&a, o, &e), 0);
            g_autofree char *shown = nbd_address_filename(&a, json_get_str(o, "export"), json_has(o, "tls", NULL));
            assert_string_equal(shown, n->shown);
            nbd_address_finish(&a);
            json_object_put(want);
        }
        json_object_put(o);
        err_clear(&e);
    }
}

static const struct refused {
    const char *options, *text;
} refused[] = {
    {"{'driver':'nbd'}", "NBD server address missing"},
    {"{'driver':'nbd','server':'x'}", "NBD server address missing"},
    {"{'driver':'nbd','host':'a','path':'b'}", "path and host may not be used at the same time"},
    {"{'driver':'nbd','path':'b','port':1}", "port may not be used without host"},
    {"{'driver':'nbd','path':'b','server':{}}", "Cannot use 'server' and path/host/port at the same time"},
    {"{'driver':'nbd','server':{'type':'unix'}}", "Parameter 'path' is missing"},
    {"{'driver':'nbd','server':{'type':'inet','host':'h','port':'1','ipv4':false,'ipv6':false}}",
     "Cannot disable IPv4 and IPv6 at same time"},
    {"{'driver':'nbd','server':{'type':'fd','str':'99999'}}", "File descriptor '99999' is not a socket"},
    {"{'driver':'nbd','server':{'type':'fd','str':'x'}}", "File descriptor 'x' is not a socket"},
    {"{'driver':'nbd','server':{'type':'vsock','cid':'x','port':'1'}}", "Failed to parse cid 'x'"},
    {"{'driver':'nbd','path':'/nowhere/s'}", "Failed to connect to '/nowhere/s': No such file or directory"},
    {"{'driver':'nbd','host':'127.0.0.1','port':'1'}", "Failed to connect to '127.0.0.1:1': Connection refused"},
    {"{'driver':'nbd','server':{'type':'inet','host':'no-such-host','port':'1','numeric':true}}",
     "address resolution failed for no-such-host:1: Name or service not known"},
    {"{'driver':'nbd','path':'/s','tls-creds':'t'}", "No TLS credentials with id 't'"},
    {"{'driver':'nbd','path':'/s','tls':true}",
     "TLS needs credentials: an object tls-creds-x509 or tls-creds-psk, named by 'tls-creds'"},
    {"{'driver':'nbd','path':'/s','open-timeout':-1}",
     "Parameter 'open-timeout' expects a number of seconds from 0 to 4294967295"},
};

static void refuses(struct bench *b)
{
    for (size_t i = 0; i < G_N_ELEMENTS(refused); i++) {
        assert_string_equal(must_fail(b, jsonf("%s", refused[i].options)), refused[i].text);
    }
    g_autofree char *deep = g_strnfill(200, 'd');
    assert_non_null(strstr(must_fail(b, jsonf("{'driver':'nbd','path':'%s'}", deep)), "is too long"));
}

static void test_refused(void **state)
{
    bench_run(refuses);
}

/* --- data ------------------------------------------------------------------------------------------------------- */

static void check_bytes(struct edge *ed, uint64_t off, uint64_t len, int want)
{
    g_autofree uint8_t *buf = g_malloc(len);
    memset(buf, ~want, len);
    assert_int_equal(edge_read_buf(ed, off, len, buf), 0);
    for (uint64_t i = 0; i < len; i++) {
        assert_int_equal(buf[i], want);
    }
}

static void fill(struct edge *ed, uint64_t off, uint64_t len, int byte, unsigned flags)
{
    g_autofree uint8_t *buf = g_malloc(len);
    memset(buf, byte, len);
    assert_int_equal(edge_write_buf(ed, off, len, buf, flags), 0);
}

/* A vector of pieces whose lengths have nothing to do with each other. */
static void many_pieces(struct edge *ed)
{
    uint8_t a[100], c[1], d[3000];
    struct iovec iov[] = {{a, sizeof(a)}, {c, sizeof(c)}, {d, sizeof(d)}};
    struct iovs v = {iov, 3, sizeof(a) + sizeof(c) + sizeof(d)};
    for (size_t i = 0; i < sizeof(d); i++) {
        d[i] = (uint8_t)(i * 7);
    }
    memset(a, 1, sizeof(a));
    c[0] = 2;
    assert_int_equal(edge_write(ed, 12345, v.size, &v, 0, 0), 0);
    memset(a, 0, sizeof(a));
    memset(c, 0, sizeof(c));
    memset(d, 0, sizeof(d));
    assert_int_equal(edge_read(ed, 12345 + 50, 2000, &v, 50, 0), 0);
    assert_int_equal(a[49], 0);
    assert_int_equal(a[50], 1);
    assert_int_equal(c[0], 2);
    for (size_t i = 0; i < 2000 - 51; i++) {
        assert_int_equal(d[i], (uint8_t)(i * 7));
    }
    assert_int_equal(d[2000 - 51], 0);
}

static void moves_data(struct bench *b)
{
    struct server s = {0};
    server_start(&s, b, "memory 8M");
    struct node *n = open_export(b, &s, ",'discard':'unmap'");
    struct edge *ed = rw_edge(n);
    assert_int_equal(n->size, 8 * MB);
    assert_int_equal(n->limits.request_align, 1);
    fill(ed, 1000, 100000, 0x5a, 0);
    fill(ed, 3 * MB, MB, 0xa5, REQ_FUA);
    check_bytes(ed, 1000, 100000, 0x5a);
    check_bytes(ed, 0, 1000, 0);
    check_bytes(ed, 3 * MB, MB, 0xa5);
    assert_int_equal(edge_zero(ed, 3 * MB + 10, 70000, 0), 0);
    check_bytes(ed, 3 * MB + 10, 70000, 0);
    check_bytes(ed, 3 * MB, 10, 0xa5);
    assert_int_equal(edge_zero(ed, 3 * MB + 200000, 1000, REQ_MAY_UNMAP), 0);
    assert_int_equal(edge_discard(ed, 3 * MB + 600000, 65536), 0);
    check_bytes(ed, 3 * MB + 600000, 65536, 0);
    many_pieces(ed);
    assert_int_equal(edge_read(ed, 0, MB, NULL, 0, REQ_PREFETCH), 0);
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(edge_read_buf(ed, 8 * MB - 1, 2, &s), -EIO);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_data(void **state)
{
    if (have_nbdkit()) {
        bench_run(moves_data);
    }
}

struct mover {
    struct edge *ed;
    uint64_t off;
};

static void move_own_part(void *arg)
{
    struct mover *m = arg;
    for (int i = 0; i < 20; i++) {
        fill(m->ed, m->off + (uint64_t)i * 4096, 4096, (int)(m->off / MB + 1), 0);
        check_bytes(m->ed, m->off, 4096, (int)(m->off / MB + 1));
    }
}

/* Answers come out of order: each must find its own request. */
static void keeps_apart(struct bench *b)
{
    struct server s = {0};
    struct mover m[16];
    int running = 0;
    server_start(&s, b, "--filter=delay memory 16M delay-write=1ms");
    struct node *n = open_export(b, &s, "");
    struct edge *ed = rw_edge(n);
    for (unsigned i = 0; i < 16; i++) {
        m[i] = (struct mover){ed, (uint64_t)i * MB};
        spawn(b, move_own_part, &m[i], &running);
    }
    wait_for(&running);
    for (unsigned i = 0; i < 16; i++) {
        check_bytes(ed, (uint64_t)i * MB, 20 * 4096, (int)i + 1);
    }
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_many(void **state)
{
    if (have_nbdkit()) {
        bench_run(keeps_apart);
    }
}

/* --- what is asked of the server -------------------------------------------------------------------------------- */

static void assert_logged(const char *log, const char *what)
{
    if (!strstr(log, what)) {
        fail_msg("the server was not asked '%s' but:\n%s", what, log);
    }
}

static void asks_right(struct bench *b)
{
    struct server s = {0};
    g_autofree char *args = g_strdup_printf("--filter=log memory 8M logfile=%s", bench_path(b, "requests"));
    g_autofree char *log = NULL;
    server_start(&s, b, args);
    struct node *n = open_export(b, &s, ",'discard':'unmap'");
    struct edge *ed = rw_edge(n);
    fill(ed, 0x1000, 0x200, 1, REQ_FUA);
    assert_int_equal(edge_zero(ed, 0x10000, 0x1000, 0), 0);
    assert_int_equal(edge_zero(ed, 0x20000, 0x1000, REQ_MAY_UNMAP), 0);
    assert_int_equal(edge_zero(ed, 0x30000, 0x1000, REQ_MAY_UNMAP | REQ_NO_FALLBACK), 0);
    assert_int_equal(edge_discard(ed, 0x40000, 0x1000), 0);
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(edge_read(ed, 0x50000, 0x1000, NULL, 0, REQ_PREFETCH), 0);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGTERM);
    assert_true(g_file_get_contents(bench_path(b, "requests"), &log, NULL, NULL));
    assert_logged(log, "Write id=1 offset=0x1000 count=0x200 fua=1");
    assert_logged(log, "offset=0x10000 count=0x1000 trim=0 fua=0 fast=0");
    assert_logged(log, "offset=0x20000 count=0x1000 trim=1 fua=0 fast=0");
    assert_logged(log, "offset=0x30000 count=0x1000 trim=1 fua=0 fast=1");
    assert_logged(log, "Trim id=");
    assert_logged(log, "Flush id=");
    assert_logged(log, "Cache id=");
    assert_logged(log, "Disconnect");
}

static void test_requests(void **state)
{
    if (have_nbdkit()) {
        bench_run(asks_right);
    }
}

/* A server that can do nothing but read and write. */
static void does_without(struct bench *b)
{
    struct server s = {0};
    server_start(&s, b,
                 "--filter=nozero --filter=fua --filter=nocache --filter=noextents eval "
                 "get_size='echo 1048576' pread='dd if=/dev/zero count=$3 iflag=count_bytes' "
                 "pwrite='cat >/dev/null' can_write='exit 0' can_flush='exit 3' can_trim='exit 3'");
    struct node *n = open_export(b, &s, ",'discard':'unmap'");
    struct edge *ed = rw_edge(n);
    struct extent x;
    assert_int_equal(edge_zero(ed, 0, 65536, REQ_MAY_UNMAP), 0);
    assert_int_equal(edge_zero(ed, 0, 65536, REQ_NO_FALLBACK), -ENOTSUP);
    assert_int_equal(edge_discard(ed, 0, 65536), 0);
    fill(ed, 0, 512, 0, REQ_FUA);
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(edge_read(ed, 0, 4096, NULL, 0, REQ_PREFETCH), 0);
    assert_int_equal(node_status(n, true, 0, MB, &x), 0);
    assert_int_equal(x.len, MB);
    assert_true(x.flags & EXT_DATA);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_less(void **state)
{
    if (have_nbdkit()) {
        bench_run(does_without);
    }
}

/* --- limits ----------------------------------------------------------------------------------------------------- */

static void keeps_limits(struct bench *b)
{
    struct server s = {0};
    server_start(&s, b,
                 "--filter=blocksize-policy memory 4M blocksize-minimum=4k blocksize-preferred=64k "
                 "blocksize-maximum=128k blocksize-error-policy=error");
    struct node *n = open_export(b, &s, "");
    struct edge *ed = rw_edge(n);
    assert_int_equal(n->limits.request_align, 4096);
    assert_int_equal(n->limits.opt_transfer, 65536);
    assert_int_equal(n->limits.max_transfer, 131072);
    fill(ed, 100, 1000000, 7, 0); /* the core reads, changes and writes blocks, in pieces */
    check_bytes(ed, 100, 1000000, 7);
    check_bytes(ed, 0, 100, 0);
    assert_int_equal(edge_zero(ed, 5000, 500000, 0), 0);
    check_bytes(ed, 5000, 500000, 0);
    check_bytes(ed, 4000, 1000, 7);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
    server_start(&s, b, "--filter=noextents memory 1000");
    n = open_export(b, &s, "");
    assert_int_equal(n->limits.request_align, 1);
    assert_int_equal(n->size, 1000);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_limits(void **state)
{
    if (have_nbdkit()) {
        bench_run(keeps_limits);
    }
}

static void keeps_its_size(struct bench *b)
{
    struct server s = {0};
    struct err e = ERR_INIT;
    server_start(&s, b, "memory 1M");
    struct node *n = open_export(b, &s, "");
    struct edge *ed = rw_edge(n);
    assert_int_equal(edge_truncate(ed, MB, true, PREALLOC_OFF, &e), 0);
    assert_int_equal(edge_truncate(ed, 1000, false, PREALLOC_OFF, &e), 0);
    assert_int_equal(n->size, MB);
    assert_true(edge_truncate(ed, 2 * MB, false, PREALLOC_OFF, &e) < 0);
    assert_string_equal(err_text(&e), "Cannot grow NBD nodes");
    assert_true(edge_truncate(ed, 1000, true, PREALLOC_OFF, &e) < 0);
    assert_string_equal(err_text(&e), "Cannot resize NBD nodes");
    assert_true(edge_truncate(ed, MB, true, PREALLOC_FULL, &e) < 0);
    assert_string_equal(err_text(&e), "Unsupported preallocation mode 'full'");
    err_clear(&e);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_size(void **state)
{
    if (have_nbdkit()) {
        bench_run(keeps_its_size);
    }
}

/* --- errors ----------------------------------------------------------------------------------------------------- */

static void passes_errors_on(struct bench *b)
{
    struct server s = {0};
    uint8_t buf[512] = {0};
    server_start(&s, b,
                 "--filter=error memory 1M error-pread=EIO error-pread-rate=100% error-pwrite=ENOSPC "
                 "error-pwrite-rate=100% error-trim=EPERM error-trim-rate=100% error-extents=EINVAL "
                 "error-extents-rate=100%");
    struct node *n = open_export(b, &s, ",'discard':'unmap'");
    struct edge *ed = rw_edge(n);
    struct extent x;
    assert_int_equal(edge_read_buf(ed, 0, 512, buf), -EIO);
    assert_int_equal(edge_write_buf(ed, 0, 512, buf, 0), -ENOSPC);
    assert_int_equal(edge_discard(ed, 0, 512), -EPERM);
    assert_int_equal(node_status(n, true, 0, MB, &x), -EINVAL);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void refuses_to_write(struct bench *b)
{
    struct server s = {0};
    server_start(&s, b, "-r memory 1M");
    const char *text = must_fail(b, jsonf("{'driver':'nbd','path':'%s'}", s.socket));
    assert_non_null(strstr(text, "Permission denied"));
    struct node *n = open_export(b, &s, ",'auto-read-only':true");
    assert_true(n->read_only);
    node_unref(n);
    n = open_export(b, &s, ",'read-only':true");
    struct err e = ERR_INIT;
    struct json_object *write = jsonf("{'read-only':false}");
    assert_true(node_reopen(&(struct reopen_request){n, write, true}, 1, &e) < 0);
    assert_string_equal(err_text(&e), "Can't reopen read-only NBD mount as read/write");
    err_clear(&e);
    json_object_put(write);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void is_reopened(struct bench *b)
{
    struct server s = {0};
    struct err e = ERR_INIT;
    server_start(&s, b, "memory 1M");
    struct node *n = open_export(b, &s, "");
    for (int ro = 1; ro >= 0; ro--) {
        struct json_object *o = jsonf("{'read-only':%s}", ro ? "true" : "false");
        assert_int_equal(node_reopen(&(struct reopen_request){n, o, true}, 1, &e), 0);
        assert_int_equal(n->read_only, ro);
        json_object_put(o);
    }
    struct edge *ed = rw_edge(n);
    fill(ed, 0, 512, 1, 0);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void misses_exports(struct bench *b)
{
    struct server s = {0};
    server_start(&s, b, "--filter=exportname memory 1M exportname-strict=true exportname=here");
    const char *text = must_fail(b, jsonf("{'driver':'nbd','path':'%s','export':'there'}", s.socket));
    assert_true(g_str_has_prefix(text, "Requested export not available") || strstr(text, "option 7 (go)"));
    struct node *n = open_export(b, &s, ",'export':'here'");
    g_autofree char *name = g_strdup_printf("nbd+unix:///here?socket=%s", s.socket);
    assert_string_equal(n->filename, name);
    node_unref(n);
    text = must_fail(
        b, jsonf("{'driver':'nbd','path':'%s','export':'here','x-dirty-bitmap':'qemu:dirty-bitmap:b'}", s.socket));
    assert_string_equal(text, "requested x-dirty-bitmap 'qemu:dirty-bitmap:b' not found");
    server_stop(&s, SIGKILL);
}

static void test_errors(void **state)
{
    if (have_nbdkit()) {
        bench_run(passes_errors_on);
        bench_run(refuses_to_write);
        bench_run(is_reopened);
        bench_run(misses_exports);
    }
}

/* --- extents ---------------------------------------------------------------------------------------------------- */

static void sees_extents(struct bench *b)
{
    struct server s = {0};
    struct extent x;
    g_autofree char *log = NULL;
    g_autofree char *args = g_strdup_printf("--filter=log memory 4G logfile=%s", bench_path(b, "requests"));
    unsigned found = 0, asked = 0;
    server_start(&s, b, args);
    struct node *n = open_export(b, &s, "");
    struct edge *ed = rw_edge(n);
    for (uint64_t i = 0; i < 100; i++) {
        fill(ed, i * 2 * 32768, 32768, 1, 0);
    }
    for (uint64_t off = 0; off < n->size; off += x.len, found++) {
        assert_int_equal(node_status(n, true, off, n->size - off, &x), 0);
        assert_true(x.len > 0);
        bool data = off < 200 * 32768 && off / 32768 % 2 == 0;
        assert_int_equal(!!(x.flags & EXT_DATA), data);
        assert_int_equal(!!(x.flags & EXT_ZERO), !data);
        assert_true(x.flags & EXT_OFFSET);
        assert_int_equal(x.offset, off);
        assert_ptr_equal(x.file, n);
    }
    assert_true(found >= 200 && found <= 204);
    assert_int_equal(node_status(n, true, 0, 65536, &x), 0);
    fill(ed, 32768, 32768, 1, 0); /* what was known of the range is wrong now */
    assert_int_equal(node_status(n, true, 32768, 65536, &x), 0);
    assert_true(x.flags & EXT_DATA);
    edge_close(ed);
    node_unref(n);
    server_stop(&s, SIGTERM);
    assert_true(g_file_get_contents(bench_path(b, "requests"), &log, NULL, NULL));
    for (const char *p = log; (p = strstr(p, " Extents id")); p++) {
        asked++;
    }
    assert_true(asked < 10); /* many in one answer */
}

/* A hole that does not say that it reads as zeroes must be read. */
static void reads_what_is_not_said(struct bench *b)
{
    struct server s = {0};
    struct extent x;
    server_start(&s, b,
                 "eval get_size='echo 1048576' pread='tr \\\\0 x </dev/zero | head -c $3' "
                 "can_extents='exit 0' extents='echo 0 524288 hole; echo 524288 524288 hole,zero'");
    struct node *n = open_export(b, &s, ",'read-only':true");
    assert_int_equal(node_status(n, true, 0, MB, &x), 0);
    assert_int_equal(x.len, MB / 2);
    assert_int_equal(x.flags & (EXT_DATA | EXT_ZERO | EXT_ALLOCATED), 0);
    assert_int_equal(node_status_above(n, NULL, 0, MB, &x, NULL), 0);
    assert_true(x.flags & EXT_DATA && !(x.flags & EXT_ZERO));
    assert_int_equal(node_status_above(n, NULL, MB / 2, MB, &x, NULL), 0);
    assert_true(x.flags & EXT_ZERO);
    node_unref(n);
    server_stop(&s, SIGKILL);
}

static void test_extents(void **state)
{
    if (have_nbdkit()) {
        bench_run(sees_extents);
        bench_run(reads_what_is_not_said);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),   cmocka_unit_test(test_refused),  cmocka_unit_test(test_data),
        cmocka_unit_test(test_many),    cmocka_unit_test(test_requests), cmocka_unit_test(test_less),
        cmocka_unit_test(test_limits),  cmocka_unit_test(test_size),     cmocka_unit_test(test_errors),
        cmocka_unit_test(test_extents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
