/* SPDX-License-Identifier: BSD-2-Clause */
/* Requests of any alignment against a plain buffer; overlapping read-modify-write; zeroes; flushes; sizes. */
#include "support.h"

#include "base/checked.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK    (256 * 1024 + 777)
#define WRITERS 6
#define CHUNK   333 /* writer k owns the chunks k, k + WRITERS, …: neighbours share every block */

struct world {
    struct bench *b;
    struct edge *ed;
    uint8_t *model;
    uint64_t size, seed;
    int rounds, next_writer;
};

static struct world world_open(struct bench *b, const char *extra, const char *file_extra)
{
    bench_file(b, "disk", DISK, 0x11);
    struct node *n = must_open(b, jsonf("{'driver':'raw','discard':'unmap','file':{'driver':'blkdebug'%s,'image':"
                                        "{'driver':'file','filename':'%s'%s}}}",
                                        extra, bench_path(b, "disk"), file_extra));
    struct world w = {.b = b, .ed = rw_edge(n), .model = malloc(DISK), .size = DISK, .seed = 42, .rounds = 150};
    node_unref(n);
    memset(w.model, 0x11, DISK);
    return w;
}

static void check_all(struct world *w)
{
    uint8_t *buf = malloc(w->size);
    assert_int_equal(edge_read_buf(w->ed, 0, w->size, buf), 0);
    for (uint64_t i = 0; i < w->size; i++) {
        if (buf[i] != w->model[i]) {
            fail_msg("byte %lu is 0x%02x, should be 0x%02x", (unsigned long)i, buf[i], w->model[i]);
        }
    }
    free(buf);
}

static void world_close(struct world *w)
{
    check_all(w);
    edge_close(w->ed);
    free(w->model);
}

static int write_split(struct edge *ed, uint64_t off, uint64_t len, uint8_t *buf, uint64_t where, unsigned flags)
{
    size_t a = len ? where % len : 0;
    uint8_t pad[3] = {0};
    struct iovec iov[4] = {{pad, 3}, {buf, a}, {NULL, 0}, {buf + a, len - a}};
    struct iovs v = {iov, 4, len + 3};
    return edge_write(ed, off, len, &v, 3, flags);
}

static void writer(void *arg)
{
    struct world *w = arg;
    uint64_t me = (uint64_t)w->next_writer++, seed = w->seed + me;
    uint8_t *buf = malloc(CHUNK);
    for (int i = 0; i < w->rounds; i++) {
        uint64_t chunk = (rnd(&seed) % (DISK / CHUNK / WRITERS)) * WRITERS + me;
        uint64_t lo = rnd(&seed) % CHUNK, len = 1 + rnd(&seed) % (CHUNK - lo), off = chunk * CHUNK + lo;
        len = min_u64(len, DISK - off);
        int what = (int)(rnd(&seed) % 8), byte = what == 0 ? 0 : (int)(rnd(&seed) & 0xff);
        memset(buf, byte, len);
        memset(w->model + off, byte, len);
        int rc = what == 0   ? edge_zero(w->ed, off, len, REQ_MAY_UNMAP)
                 : what == 1 ? edge_write_buf(w->ed, off, len, buf, REQ_SERIALISING)
                             : write_split(w->ed, off, len, buf, rnd(&seed), what == 2 ? REQ_FUA : 0);
        assert_int_equal(rc, 0);
        assert_int_equal(edge_read_buf(w->ed, off, len, buf), 0);
        assert_memory_equal(buf, w->model + off, len);
    }
    free(buf);
}

static void race(struct bench *b, const char *extra, const char *file_extra)
{
    struct world w = world_open(b, extra, file_extra);
    int running = 0;
    for (int i = 0; i < WRITERS; i++) {
        spawn(b, writer, &w, &running);
    }
    wait_for(&running);
    assert_int_equal(edge_flush(w.ed), 0);
    world_close(&w);
    struct stat st;
    assert_int_equal(stat(bench_path(b, "disk"), &st), 0);
    assert_int_equal(st.st_size, DISK);
}

static void race_bytes(struct bench *b)
{
    race(b, "", "");
}

static void race_512(struct bench *b)
{
    race(b, ",'align':512", ",'detect-zeroes':'on'");
}

static void race_4096(struct bench *b)
{
    race(b, ",'align':4096,'max-transfer':4096", "");
}

static bool direct_works(struct bench *b)
{
    int fd = open(bench_file(b, "probe", 4096, 0), O_RDWR | O_DIRECT);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

static void race_direct(struct bench *b)
{
    if (direct_works(b)) {
        race(b, "", ",'cache':{'direct':true}");
    } else {
        print_message("skipped: no O_DIRECT here\n");
    }
}

static void test_race_bytes(void **state)
{
    bench_run(race_bytes);
}

static void test_race_512(void **state)
{
    bench_run(race_512);
}

static void test_race_4096(void **state)
{
    bench_run(race_4096);
}

static void test_race_direct(void **state)
{
    bench_run(race_direct);
}

/* Long requests of any shape, one at a time. */
static void matches_model(struct bench *b)
{
    static const char *const shapes[] = {"", ",'align':512",
                                         ",'align':4096,'max-transfer':65536,'max-write-zero':16384",
                                         ",'opt-write-zero':65536,'opt-discard':65536"};
    for (size_t s = 0; s < G_N_ELEMENTS(shapes); s++) {
        struct world w = world_open(b, shapes[s], "");
        uint8_t *buf = malloc(DISK);
        uint64_t seed = 7 + s;
        for (int i = 0; i < 120; i++) {
            uint64_t off = rnd(&seed) % DISK, len = 1 + rnd(&seed) % (DISK - off);
            int byte = (int)(rnd(&seed) & 0xff);
            switch (rnd(&seed) % 4) {
            case 0:
                memset(w.model + off, 0, len);
                assert_int_equal(edge_zero(w.ed, off, len, byte & 1 ? REQ_MAY_UNMAP : 0), 0);
                break;
            case 1:
                assert_int_equal(edge_read_buf(w.ed, off, len, buf), 0);
                assert_memory_equal(buf, w.model + off, len);
                break;
            default:
                memset(buf, byte, len);
                memset(w.model + off, byte, len);
                assert_int_equal(write_split(w.ed, off, len, buf, rnd(&seed), 0), 0);
            }
        }
        free(buf);
        world_close(&w);
    }
}

static void test_model(void **state)
{
    bench_run(matches_model);
}

static void discards_whole_units(struct bench *b)
{
    struct world w = world_open(b, ",'align':4096", "");
    struct extent x;
    assert_int_equal(edge_discard(w.ed, 4000, 96 + 4096 + 100), 0);
    memset(w.model + 4096, 0, 4096);
    check_all(&w);
    assert_int_equal(edge_discard(w.ed, DISK - 100, 100), 0); /* less than a unit, not at its start */
    assert_int_equal(node_status(w.ed->child, true, 0, DISK, &x), 0);
    assert_true(x.flags & EXT_ALLOCATED);
    world_close(&w);
}

static void test_discard(void **state)
{
    bench_run(discards_whole_units);
}

static void knows_extents(struct bench *b)
{
    const uint64_t mib = 1 << 20;
    struct node *n = must_open(
        b, jsonf("{'driver':'raw','file':{'driver':'file','filename':'%s'}}", bench_file(b, "s", 16 * mib, 0)));
    struct edge *ed = rw_edge(n);
    char *buf = calloc(1, mib);
    memset(buf, 1, mib);
    struct extent x;
    assert_int_equal(edge_write_buf(ed, 4 * mib, mib, buf, 0), 0);
    assert_int_equal(node_status(n, true, 0, 16 * mib, &x), 0);
    if (!(x.flags & EXT_ZERO)) {
        print_message("skipped: no holes here\n");
    } else {
        assert_int_equal(x.len, 4 * mib);
        assert_int_equal(node_status(n, true, 4 * mib, 12 * mib, &x), 0);
        assert_int_equal(x.len, mib);
        assert_true((x.flags & EXT_DATA) && (x.flags & EXT_OFFSET) && x.offset == 4 * mib);
        assert_int_equal(node_status(n, true, 5 * mib, 11 * mib, &x), 0);
        assert_true((x.flags & EXT_ZERO) && (x.flags & EXT_EOF) && x.len == 11 * mib);
        /* A remembered stretch of data must not outlive its punching. */
        assert_int_equal(edge_zero(ed, 4 * mib, mib, REQ_MAY_UNMAP), 0);
        assert_int_equal(node_status(n, true, 4 * mib, mib, &x), 0);
        assert_true((x.flags & EXT_ZERO) || !n->discard_unmap);
        int depth = -1;
        assert_int_equal(node_status_above(n, NULL, 0, mib, &x, &depth), 0);
        assert_int_equal(depth, 0);
    }
    assert_int_equal(node_status(n, true, 16 * mib, 1, &x), 0);
    assert_true(x.len == 0 && (x.flags & EXT_EOF));
    free(buf);
    edge_close(ed);
    node_unref(n);
}

static void test_extents(void **state)
{
    bench_run(knows_extents);
}

static void resizes(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *n = must_open(b, jsonf("{'driver':'raw','node-name':'d','file':{'driver':'file','filename':'%s'}}",
                                        bench_file(b, "d", 1000, 5)));
    struct edge *ed = rw_edge(n);
    char buf[64];
    assert_int_equal(edge_truncate(ed, 5000, true, PREALLOC_OFF, &e), 0);
    assert_int_equal(n->size, 5000);
    assert_int_equal(edge_read_buf(ed, 990, 64, buf), 0);
    assert_true(buf[9] == 5 && buf[10] == 0);
    assert_int_equal(edge_truncate(ed, 8000, true, PREALLOC_FULL, &e), 0);
    assert_int_equal(edge_truncate(ed, 100, true, PREALLOC_FALLOC, &e), -ENOTSUP);
    assert_string_equal(err_text(&e), "Preallocation can't be used for shrinking files");
    err_clear(&e);
    assert_int_equal(edge_truncate(ed, 100, true, PREALLOC_OFF, &e), 0);
    assert_int_equal(edge_read_buf(ed, 90, 11, buf), -EIO);
    edge_close(ed);
    node_unref(n);

    n = must_open(b, jsonf("{'driver':'raw','offset':'10','size':512,'file':{'driver':'file','filename':'%s'}}",
                           bench_file(b, "d", 600, 5)));
    assert_int_equal(n->size, 512);
    assert_true(g_str_has_prefix(n->filename, "json:"));
    ed = rw_edge(n);
    assert_int_equal(edge_truncate(ed, 1024, true, PREALLOC_OFF, &e), -ENOTSUP);
    err_clear(&e);
    memset(buf, 9, 20);
    assert_int_equal(edge_write_buf(ed, 0, 20, buf, 0), 0);
    edge_close(ed);
    node_unref(n);
    n = must_open(b, jsonf("{'driver':'file','filename':'%s'}", bench_path(b, "d")));
    ed = rw_edge(n);
    assert_int_equal(edge_read_buf(ed, 0, 40, buf), 0);
    assert_true(buf[9] == 5 && buf[10] == 9 && buf[29] == 9 && buf[30] == 5);
    edge_close(ed);
    node_unref(n);
    assert_non_null(
        strstr(must_fail(b, jsonf("{'driver':'raw','offset':90,'size':512,'file':{'driver':'file','filename':'%s'}}",
                                  bench_path(b, "d"))),
               "has to be smaller or equal"));
    assert_string_equal(
        must_fail(b, jsonf("{'driver':'raw','size':20,'file':{'driver':'file','filename':'%s'}}", bench_path(b, "d"))),
        "Specified size is not multiple of 512");
}

static void test_resize(void **state)
{
    bench_run(resizes);
}

static void flushes_once(struct bench *b)
{
    struct node *n = must_open(b, jsonf("{'driver':'null-co','size':'1M'}"));
    struct edge *ed = rw_edge(n);
    char c = 1;
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(n->flushed_gen, n->write_gen);
    assert_int_equal(edge_write_buf(ed, 0, 1, &c, 0), 0);
    assert_true(n->flushed_gen < n->write_gen);
    assert_int_equal(edge_write_buf(ed, 0, 1, &c, REQ_FUA), 0);
    assert_int_equal(n->flushed_gen, n->write_gen);
    assert_int_equal(n->stats.wr_ops, 2);
    assert_int_equal(n->stats.wr_bytes, 2);
    assert_int_equal(n->stats.wr_highest, 1);
    edge_close(ed);
    node_unref(n);
}

static void test_flush(void **state)
{
    bench_run(flushes_once);
}

static void finds_zero_buffers(void **state)
{
    uint8_t *buf = calloc(1, 8192);
    uint64_t seed = 3;
    for (int i = 0; i < 3000; i++) {
        size_t off = rnd(&seed) % 100, len = rnd(&seed) % 600, at = len ? rnd(&seed) % len : 0;
        assert_true(buf_is_zero(buf + off, len));
        if (len) {
            buf[off + at] = 1;
            assert_false(buf_is_zero(buf + off, len));
            assert_true(buf_is_zero(buf + off, at) && buf_is_zero(buf + off + at + 1, len - at - 1));
            buf[off + at] = 0;
        }
    }
    free(buf);
}

static void runs_out_of_space(struct bench *b)
{
    struct node *n =
        must_open(b, jsonf("{'driver':'raw','file':{'driver':'blkdebug','inject-error':[{'event':"
                           "'write_aio','errno':28,'sector':4}],'image':{'driver':'file','filename':'%s'}}}",
                           bench_file(b, "d", 65536, 1)));
    struct edge *ed = rw_edge(n);
    char sector[512] = {0};
    assert_int_equal(edge_write_buf(ed, 0, 512, sector, 0), 0);
    assert_int_equal(edge_write_buf(ed, 2048, 512, sector, 0), -ENOSPC);
    assert_int_equal(edge_write_buf(ed, 0, 512, sector, 0), 0);
    edge_close(ed);
    node_unref(n);
}

/* The kernel's own refusal: a file may not grow past the process's limit. */
static void may_not_grow(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *n =
        must_open(b, jsonf("{'driver':'raw','file':{'driver':'file','filename':'%s'}}", bench_file(b, "g", 65536, 1)));
    struct edge *ed = rw_edge(n);
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){100000, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int off = edge_truncate(ed, 1 << 20, true, PREALLOC_OFF, &e);
    g_autofree char *text = g_strdup(err_text(&e));
    err_clear(&e);
    int full = edge_truncate(ed, 1 << 20, true, PREALLOC_FULL, &e);
    err_clear(&e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(off, -EFBIG);
    assert_int_equal(full, -EFBIG);
    assert_non_null(strstr(text, "File too large"));
    assert_int_equal(n->size, 65536);
    assert_int_equal(n->file->child->size, 65536);
    struct stat st;
    assert_int_equal(stat(bench_path(b, "g"), &st), 0);
    assert_int_equal(st.st_size, 65536); /* what was written in vain is cut off again */
    edge_close(ed);
    node_unref(n);
}

static void test_disk_full(void **state)
{
    bench_run(runs_out_of_space);
    bench_run(may_not_grow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_race_bytes),    cmocka_unit_test(test_race_512),  cmocka_unit_test(test_race_4096),
        cmocka_unit_test(test_race_direct),   cmocka_unit_test(test_model),     cmocka_unit_test(test_discard),
        cmocka_unit_test(test_extents),       cmocka_unit_test(test_resize),    cmocka_unit_test(test_flush),
        cmocka_unit_test(finds_zero_buffers), cmocka_unit_test(test_disk_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
