/* SPDX-License-Identifier: BSD-2-Clause */
/* Volumes of every cipher beside a plain copy of their contents. */
#include "block/luks/crypt.h"
#include "block/luks/luks.h"

#include "base/cleanup.h"
#include "memdisk.h"
#include "support.h"

enum { SIZE = 192 << 10, ROUNDS = 24 };

struct volume {
    struct memdisk disk;
    struct node *file, *n;
    struct edge *ed;
    uint8_t *model;
    uint64_t size, seed;
};

static void volume_open(struct bench *b, struct volume *v, const char *opts, uint64_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    *v = (struct volume){.size = size, .seed = 7, .disk.delay = 3};
    v->file = memdisk_open(b->graph, &v->disk, "disk");
    CLEANUP_JSON struct json_object *o =
        jsonf("{'file': 'disk', 'size': %d, 'key-secret': '" BENCH_SECRET "', 'iter-time': 1%s}", (int)size, opts);
    int rc = driver_find("luks")->create(b->graph, o, &e);
    if (rc < 0) {
        fail_msg("%s: %s", opts, err_text(&e));
    }
    v->n = must_open(b, jsonf("{'driver': 'luks', 'file': 'disk', 'key-secret': '" BENCH_SECRET "'}"));
    v->ed = rw_edge(v->n);
    assert_int_equal(v->n->size, size);
    v->model = g_malloc0(size);
    assert_int_equal(edge_write_buf(v->ed, 0, size, v->model, 0), 0);
}

static void volume_close(struct volume *v)
{
    edge_close(v->ed);
    node_unref(v->n);
    node_unref(v->file);
    memdisk_finish(&v->disk);
    g_free(v->model);
}

/* In vectors whose elements do not end where sectors do. */
static struct iovs cut(struct volume *v, struct iovec *iov, int most, uint8_t *buf, size_t len)
{
    struct iovs all = {iov, 0, len};
    while (len) {
        size_t part = all.n == most - 1 ? len : MIN(len, 1 + rnd(&v->seed) % 3000);
        iov[all.n++] = (struct iovec){buf, part};
        buf += part;
        len -= part;
    }
    return all;
}

static void random_write(struct volume *v)
{
    uint64_t off = rnd(&v->seed) % v->size, len = 1 + rnd(&v->seed) % (v->size - off);
    CLEANUP_FREE uint8_t *buf = g_malloc(len);
    struct iovec iov[16];
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)(rnd(&v->seed) >> 20);
    }
    struct iovs all = cut(v, iov, 16, buf, len);
    memcpy(v->model + off, buf, len);
    assert_int_equal(edge_write(v->ed, off, len, &all, 0, 0), 0);
}

static void random_read(struct volume *v)
{
    uint64_t off = rnd(&v->seed) % v->size, len = 1 + rnd(&v->seed) % (v->size - off);
    CLEANUP_FREE uint8_t *buf = g_malloc(len);
    struct iovec iov[16];
    struct iovs all = cut(v, iov, 16, buf, len);
    assert_int_equal(edge_read(v->ed, off, len, &all, 0, 0), 0);
    assert_memory_equal(buf, v->model + off, len);
}

/* What is in the file is ciphertext, behind the header. */
static void check_below(struct volume *v)
{
    struct luks_header h;
    assert_int_equal(luks_decode(&h, v->disk.data, NULL), 0);
    assert_true(v->disk.size == luks_payload_offset(&h) + v->size);
    const uint8_t *payload = v->disk.data + luks_payload_offset(&h);
    assert_memory_not_equal(payload, v->model, 512);
}

static void run_combination(struct bench *b)
{
    struct volume v;
    volume_open(b, &v, b->arg, SIZE);
    for (unsigned i = 0; i < ROUNDS; i++) {
        if (i % 3) {
            random_write(&v);
        } else {
            random_read(&v);
        }
    }
    assert_int_equal(edge_flush(v.ed), 0);
    check_below(&v);
    edge_close(v.ed);
    node_unref(v.n);
    v.n = must_open(b, jsonf("{'driver': 'luks', 'file': 'disk', 'key-secret': '" BENCH_SECRET "'}"));
    v.ed = rw_edge(v.n);
    CLEANUP_FREE uint8_t *all = g_malloc(v.size);
    assert_int_equal(edge_read_buf(v.ed, 0, v.size, all), 0);
    assert_memory_equal(all, v.model, v.size);
    volume_close(&v);
}

/* Every cipher in every mode; generators of vectors and digests in turn. */
static void test_combinations(void **state)
{
    for (int a = 0; cipher_alg_names[a]; a++) {
        for (int m = 0; cipher_mode_names[m]; m++) {
            bool small = a == CIPHER_CAST5_128;
            if ((small && m == CIPHER_XTS) || !cipher_key_len(a, m)) {
                continue;
            }
            CLEANUP_FREE char *opts = g_strdup_printf(
                ", 'cipher-alg': '%s', 'cipher-mode': '%s', 'ivgen-alg': '%s', 'hash-alg': '%s'", cipher_alg_names[a],
                cipher_mode_names[m], ivgen_names[(a + m) % (small ? 2 : 3)], crypto_hash_names[(a + 3 * m) % 7]);
            bench_run_arg(run_combination, opts);
        }
    }
}

/* --- many at a time, in many pieces ----------------------------------------------------------------------------- */

struct job {
    struct volume *v;
    uint64_t off, len;
    uint8_t *buf;
    bool write;
};

static void job_run(void *arg)
{
    struct job *j = arg;
    int rc = j->write ? edge_write_buf(j->v->ed, j->off, j->len, j->buf, 0)
                      : edge_read_buf(j->v->ed, j->off, j->len, j->buf);
    assert_int_equal(rc, 0);
}

static void run_large(struct bench *b)
{
    enum { JOBS = 6, PART = 5 * CRYPT_PIECE + 4608 };
    struct volume v;
    struct job jobs[JOBS];
    int running = 0;
    volume_open(b, &v, "", (uint64_t)JOBS * PART);
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < JOBS; i++) {
            jobs[i] = (struct job){&v, (uint64_t)i * PART, PART, g_malloc(PART), round == 0};
            for (unsigned k = 0; k < PART && round == 0; k++) {
                jobs[i].buf[k] = (uint8_t)(k * 7 + i + (k >> 9));
            }
            if (round == 0) {
                memcpy(v.model + jobs[i].off, jobs[i].buf, PART);
            }
            spawn(b, job_run, &jobs[i], &running);
        }
        wait_for(&running);
        for (unsigned i = 0; i < JOBS; i++) {
            assert_memory_equal(jobs[i].buf, v.model + jobs[i].off, PART);
            g_free(jobs[i].buf);
        }
    }
    volume_close(&v);
}

static void test_large(void **state)
{
    bench_run(run_large);
}

/* --- errors ------------------------------------------------------------------------------------------------------ */

static void run_errors(struct bench *b)
{
    struct volume v;
    volume_open(b, &v, "", 4 * CRYPT_PIECE);
    CLEANUP_FREE uint8_t *buf = g_malloc0(v.size);
    for (unsigned n = 1; n <= 4; n++) { /* whichever piece it is */
        v.disk.fail_in = n;
        v.disk.fail_kinds = FAIL_WRITE;
        assert_int_equal(edge_write_buf(v.ed, 0, v.size, buf, 0), -EIO);
        v.disk.fail_in = n;
        v.disk.fail_kinds = FAIL_READ;
        assert_int_equal(edge_read_buf(v.ed, 0, v.size, buf), -EIO);
    }
    v.disk.fail_in = 0;
    assert_int_equal(edge_write_buf(v.ed, v.size - 100, 101, buf, 0), -EIO); /* past the end */
    volume_close(&v);
}

static void test_errors(void **state)
{
    bench_run(run_errors);
}

static void run_options(struct bench *b)
{
    struct volume v;
    volume_open(b, &v, ", 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc'", SIZE);
    edge_close(v.ed);
    node_unref(v.n);
    assert_string_equal(must_fail(b, jsonf("{'driver': 'luks', 'file': 'disk'}")),
                        "Parameter 'key-secret' is required for cipher");
    assert_string_equal(must_fail(b, jsonf("{'driver': 'luks', 'file': 'disk', 'key-secret': 'none'}")),
                        "No secret with id 'none'");
    graph_set_metadata_only(b->graph, true);
    v.n = must_open(b, jsonf("{'driver': 'luks', 'file': 'disk'}"));
    graph_set_metadata_only(b->graph, false);
    v.ed = rw_edge(v.n);
    uint8_t sector[512] = {0};
    assert_int_equal(edge_read_buf(v.ed, 0, 512, sector), -EIO);
    assert_int_equal(edge_write_buf(v.ed, 0, 512, sector, 0), -EIO);
    CLEANUP_JSON struct json_object *info = node_image_info(v.n, false, NULL);
    assert_true(json_object_get_boolean(json_object_object_get(info, "encrypted")));
    volume_close(&v);
}

static void test_options(void **state)
{
    bench_run(run_options);
}

/* Somebody puts another header there, or rubbish, while the volume is open. */
static void run_replaced(struct bench *b)
{
    struct volume v;
    volume_open(b, &v, ", 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc'", SIZE);
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = jsonf("{'state': 'active', 'new-secret': '" BENCH_SECRET "', 'iter-time': 1}");
    static const unsigned fields[] = {0,   104, 107, 111,
                                      112, 8,   45}; /* magic, payload, key bytes, digest, cipher, mode */
    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        v.disk.data[fields[i]] ^= 1;
        assert_true(v.n->drv->amend(v.n, o, true, NULL, &e) < 0);
        err_clear(&e);
        random_write(&v); /* where it always was */
        v.disk.data[fields[i]] ^= 1;
    }
    assert_int_equal(v.n->drv->amend(v.n, o, true, NULL, &e), 0);
    edge_close(v.ed);
    node_unref(v.n);
    v.n = must_open(b, jsonf("{'driver': 'luks', 'file': 'disk', 'key-secret': '" BENCH_SECRET "'}"));
    v.ed = rw_edge(v.n);
    CLEANUP_FREE uint8_t *got = g_malloc(SIZE);
    assert_int_equal(edge_read_buf(v.ed, 0, SIZE, got), 0);
    assert_memory_equal(got, v.model, SIZE);
    volume_close(&v);
}

static void test_replaced(void **state)
{
    bench_run(run_replaced);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_combinations), cmocka_unit_test(test_large),    cmocka_unit_test(test_errors),
        cmocka_unit_test(test_options),      cmocka_unit_test(test_replaced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
