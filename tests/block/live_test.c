/* SPDX-License-Identifier: BSD-2-Clause */
/* Draining and changing the graph under load; serialising requests and range locks. */
#include "support.h"

#include "base/checked.h"

#include <unistd.h>

#define DISK    (1 << 20)
#define WRITERS 4

struct load {
    struct bench *b;
    struct edge *ed;
    bool stop, quiet; /* quiet: a drain is on, nothing may be on its way */
    int next, drains, drain_ends, retargets;
    uint64_t done[WRITERS], passed; /* passed: requests that returned during a drain */
    uint8_t model[DISK];
};

static void writes_and_verifies(void *arg)
{
    struct load *l = arg;
    int me = l->next++;
    uint64_t seed = 100 + (uint64_t)me, part = DISK / WRITERS;
    uint8_t *buf = malloc(8192);
    while (!l->stop) {
        uint64_t len = 1 + rnd(&seed) % 8192, off = (uint64_t)me * part + rnd(&seed) % (part - len);
        memset(buf, (int)(rnd(&seed) & 0xff), len);
        memcpy(l->model + off, buf, len);
        assert_int_equal(edge_write_buf(l->ed, off, len, buf, 0), 0);
        l->passed += l->quiet;
        assert_int_equal(edge_read_buf(l->ed, off, len, buf), 0);
        l->passed += l->quiet;
        assert_memory_equal(buf, l->model + off, len);
        l->done[me]++;
    }
    free(buf);
}

static void on_drained_begin(void *user)
{
    ((struct load *)user)->drains++;
}

static void on_drained_end(void *user)
{
    ((struct load *)user)->drain_ends++;
}

static void on_retargeted(void *user)
{
    ((struct load *)user)->retargets++;
}

static const struct edge_user_ops load_ops = {
    .drained_begin = on_drained_begin, .drained_end = on_drained_end, .retargeted = on_retargeted};

static struct node *disk(struct bench *b, const char *name)
{
    return must_open(b, jsonf("{'driver':'raw','node-name':'%s','file':{'driver':'file','filename':'%s'}}", name,
                              bench_file(b, name, DISK, 0)));
}

static struct load *load_start(struct bench *b, struct node *n, int *running)
{
    struct load *l = calloc(1, sizeof(*l));
    struct err e = ERR_INIT;
    l->b = b;
    assert_int_equal(
        edge_open(n, &(struct edge_spec){"root", PERM_READ | PERM_WRITE, PERM_ALL, &load_ops, l}, &l->ed, &e), 0);
    for (int i = 0; i < WRITERS; i++) {
        spawn(b, writes_and_verifies, l, running);
    }
    return l;
}

static void load_finish(struct load *l, int *running)
{
    l->stop = true;
    wait_for(running);
    uint8_t *buf = malloc(DISK);
    assert_int_equal(edge_read_buf(l->ed, 0, DISK, buf), 0);
    assert_memory_equal(buf, l->model, DISK);
    for (int i = 0; i < WRITERS; i++) {
        assert_true(l->done[i] > 0);
    }
    assert_int_equal(l->passed, 0);
    assert_int_equal(l->drains, l->drain_ends);
    free(buf);
    edge_close(l->ed);
    free(l);
}

static void drains_under_load(struct bench *b)
{
    struct node *n = disk(b, "a"), *file = n->file->child;
    int running = 0;
    struct load *l = load_start(b, n, &running);
    for (int i = 0; i < 50; i++) {
        struct node *which = i % 2 ? n : file; /* draining the file quiets the users of the disk above it */
        co_sleep(300000);
        node_drain_begin(which);
        node_drain_begin(n); /* nests */
        assert_int_equal(n->in_flight, 0);
        assert_int_equal(file->in_flight, 0);
        l->quiet = true;
        uint64_t writes = n->stats.wr_ops;
        co_sleep(200000);
        assert_int_equal(n->stats.wr_ops, writes);
        node_drain_end(which);
        assert_true(l->ed->gate);
        co_sleep(50000);
        l->quiet = false;
        node_drain_end(n);
    }
    assert_int_equal(l->drains, 50);
    load_finish(l, &running);
    node_unref(n);
}

static void test_drain(void **state)
{
    bench_run(drains_under_load);
}

static void copy_disk(struct node *from, struct node *to)
{
    struct edge *src = must_edge(from, PERM_READ, PERM_ALL), *dst = must_edge(to, PERM_WRITE, PERM_ALL);
    src->ungated = dst->ungated = true;
    uint8_t *buf = malloc(DISK);
    assert_int_equal(edge_read_buf(src, 0, DISK, buf), 0);
    assert_int_equal(edge_write_buf(dst, 0, DISK, buf, 0), 0);
    free(buf);
    edge_close(src);
    edge_close(dst);
}

static void replaces_under_load(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *a = disk(b, "a"), *c = disk(b, "c");
    int running = 0;
    struct load *l = load_start(b, a, &running);
    for (int i = 0; i < 20; i++) {
        struct node *from = i % 2 ? c : a, *to = i % 2 ? a : c;
        co_sleep(500000);
        node_drain_begin(from);
        copy_disk(from, to);
        int rc = i % 3 ? node_replace(from, to, NULL, &e) : edge_retarget(l->ed, to, &e);
        assert_int_equal(rc, 0);
        assert_ptr_equal(l->ed->child, to);
        assert_int_equal(from->flushed_gen, from->write_gen); /* what was written there is safe */
        node_drain_end(from);
    }
    assert_int_equal(l->retargets, 20);
    load_finish(l, &running);
    node_unref(a);
    node_unref(c);
}

static void test_replace(void **state)
{
    bench_run(replaces_under_load);
}

static void inserts_filters_under_load(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *a = disk(b, "a");
    int running = 0;
    struct load *l = load_start(b, a, &running);
    for (int i = 0; i < 20; i++) {
        struct node *f = must_open(b, jsonf("{'driver':'blkdebug','align':%d,'image':'a'}", i % 2 ? 4096 : 1));
        assert_int_equal(node_replace(a, f, NULL, &e), 0);
        assert_ptr_equal(l->ed->child, f);
        assert_ptr_equal(f->file->child, a);
        assert_true(f->file->perm & PERM_WRITE);
        co_sleep(500000);
        assert_int_equal(node_replace(f, a, NULL, &e), 0);
        assert_int_equal(f->parents->len, 0);
        assert_false(f->file->perm & PERM_WRITE);
        node_unref(f);
        co_sleep(300000);
    }
    load_finish(l, &running);
    node_unref(a);
}

static void test_filters(void **state)
{
    bench_run(inserts_filters_under_load);
}

static void refuses_bad_changes(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *a = disk(b, "a"), *c = disk(b, "c");
    struct node *f = must_open(b, jsonf("{'driver':'blkdebug','node-name':'f','image':'a'}"));
    struct edge *ed, *top = rw_edge(f), *other = must_edge(c, PERM_READ, PERM_READ);
    assert_int_equal(node_attach_child(a, f, &(struct edge_spec){"file", 0, PERM_ALL}, &ed, &e), -ELOOP);
    assert_string_equal(err_text(&e), "Making 'f' a file child of 'a' would create a cycle");
    err_clear(&e);
    assert_int_equal(edge_retarget(a->file, f, &e), -ELOOP);
    err_clear(&e);
    struct node *below = a->file->child; /* f stands on a, which goes on standing on it */
    assert_int_equal(node_replace(below, f, NULL, &e), 0);
    assert_ptr_equal(a->file->child, below);
    assert_true(edge_retarget(top, c, &e) < 0);
    assert_non_null(strstr(err_text(&e), "Permission conflict on node 'c'"));
    err_clear(&e);
    assert_ptr_equal(top->child, f);
    assert_int_equal(top->gate, 0);
    assert_int_equal(c->parents->len, 1);
    edge_close(top);
    edge_close(other);
    node_unref(f);
    node_unref(a);
    node_unref(c);
}

static void test_refusals(void **state)
{
    bench_run(refuses_bad_changes);
}

/* --- who waits for whom ----------------------------------------------------------------------------------------- */

struct step {
    struct node *n;
    struct edge *ed;
    uint64_t off, len;
    unsigned flags;
    bool lock, finished;
    struct range_lock *held;
};

static void do_step(void *arg)
{
    struct step *s = arg;
    if (s->lock) {
        s->held = node_lock_range(s->n, s->off, s->len);
    } else {
        char *buf = calloc(1, s->len);
        assert_int_equal(edge_write_buf(s->ed, s->off, s->len, buf, s->flags), 0);
        free(buf);
    }
    s->finished = true;
}

static void locks_ranges(struct bench *b)
{
    struct node *n = must_open(b, jsonf("{'driver':'null-co','size':'1M','latency-ns':1000000}"));
    struct edge *ed = rw_edge(n);
    int running = 0;
    struct range_lock *mine = node_lock_range(n, 4096, 4096);
    char c = 0, page[4096];
    assert_int_equal(edge_write_buf(ed, 5000, 1, &c, 0), 0); /* our own passes */
    struct step inside = {.ed = ed, .off = 8191, .len = 10}, beside = {.ed = ed, .off = 8192, .len = 10};
    struct step again = {.n = n, .lock = true, .off = 0, .len = 4097};
    spawn(b, do_step, &inside, &running);
    spawn(b, do_step, &beside, &running);
    spawn(b, do_step, &again, &running);
    WAIT_UNTIL(beside.finished);
    assert_false(inside.finished || again.finished);
    assert_int_equal(edge_read_buf(ed, 4096, sizeof(page), page), 0); /* readers do not care */
    node_unlock_range(mine);
    wait_for(&running);
    assert_true(inside.finished && again.finished);
    node_unlock_range(again.held);
    edge_close(ed);
    node_unref(n);
}

static void test_range_lock(void **state)
{
    bench_run(locks_ranges);
}

static void serialises(struct bench *b)
{
    struct node *n = must_open(b, jsonf("{'driver':'null-co','size':'1M','latency-ns':30000000}"));
    struct edge *ed = rw_edge(n);
    int running = 0;
    uint64_t t0 = loop_now_ns();
    struct step s[5];
    for (int i = 0; i < 5; i++) { /* 0, 1, 2 overlap and serialise; 3 and 4 overlap plainly, elsewhere */
        s[i] = (struct step){.ed = ed, .off = i < 3 ? 1000 : 9000, .len = 100, .flags = i < 3 ? REQ_SERIALISING : 0};
        spawn(b, do_step, &s[i], &running);
    }
    WAIT_UNTIL(s[3].finished && s[4].finished && s[0].finished + s[1].finished + s[2].finished);
    assert_int_equal(s[0].finished + s[1].finished + s[2].finished, 1);
    wait_for(&running);
    assert_true(loop_now_ns() - t0 >= 90000000);
    edge_close(ed);
    node_unref(n);
}

static void test_serialising(void **state)
{
    bench_run(serialises);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_drain),    cmocka_unit_test(test_replace),    cmocka_unit_test(test_filters),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_range_lock), cmocka_unit_test(test_serialising),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
