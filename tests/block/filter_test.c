/* SPDX-License-Identifier: BSD-2-Clause */
/* blkdebug's rules, throttling, dirty bitmaps, null. */
#include "support.h"

#include "block/debug.h"
#include "block/dirty.h"
#include "block/throttle.h"

#include <unistd.h>

static struct edge *debug_disk(struct bench *b, const char *rules)
{
    struct node *n =
        must_open(b, jsonf("{'driver':'raw','node-name':'d','file':{'driver':'blkdebug','node-name':'dbg',%s,"
                           "'image':{'driver':'null-co','size':'1M','read-zeroes':true}}}",
                           rules));
    struct edge *ed = rw_edge(n);
    node_unref(n);
    return ed;
}

static int write_at(struct edge *ed, uint64_t off)
{
    char sector[512] = {1};
    return edge_write_buf(ed, off, sizeof(sector), sector, 0);
}

static int read_at(struct edge *ed, uint64_t off)
{
    char sector[512];
    return edge_read_buf(ed, off, sizeof(sector), sector);
}

static void injects(struct bench *b)
{
    struct edge *ed = debug_disk(b, "'inject-error':[{'event':'write_aio','errno':28,'once':true,'sector':'2'}]");
    assert_int_equal(write_at(ed, 0), 0);
    assert_int_equal(write_at(ed, 1024 - 100), -ENOSPC);
    assert_int_equal(write_at(ed, 1024), 0);
    edge_close(ed);

    ed = debug_disk(b, "'inject-error':[{'event':'none','iotype':'flush','immediately':true}]");
    assert_int_equal(write_at(ed, 0), 0);
    assert_int_equal(edge_flush(ed), -EIO);
    assert_true(ed->child->flushed_gen < ed->child->write_gen); /* what failed is tried again */
    edge_close(ed);

    ed = debug_disk(b,
                    "'inject-error':[{'event':'none','iotype':'write-zeroes'},{'event':'none','iotype':'block-status',"
                    "'errno':95}]");
    struct extent x;
    assert_int_equal(edge_zero(ed, 0, 512, 0), -EIO);
    assert_int_equal(write_at(ed, 0), 0);
    assert_int_equal(node_status(ed->child, true, 0, 512, &x), -95);
    edge_close(ed);
}

static void test_inject(void **state)
{
    bench_run(injects);
}

/* The documentation's example: the second write fails, but only after a flush. */
static void changes_state(struct bench *b)
{
    struct edge *ed = debug_disk(b, "'set-state':[{'event':'flush_to_disk','state':1,'new_state':2}],"
                                    "'inject-error':[{'event':'write_aio','state':2,'errno':5}]");
    assert_int_equal(write_at(ed, 0), 0);
    assert_int_equal(write_at(ed, 0), 0);
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(write_at(ed, 0), -EIO);
    assert_int_equal(write_at(ed, 0), -EIO);
    edge_close(ed);
}

static void test_states(void **state)
{
    bench_run(changes_state);
}

static void reads_config_file(struct bench *b)
{
    const char *conf = bench_path(b, "rules"), *img = bench_file(b, "img", 4096, 1);
    assert_true(
        g_file_set_contents(conf,
                            "# two of a kind\n[inject-error]\nevent = \"read_aio\"\nerrno = \"61\"\nonce = \"on\"\n"
                            "\n[inject-error]\nevent = \"write_aio\"\nerrno = \"28\"\n",
                            -1, NULL));
    g_autofree char *name = g_strdup_printf("blkdebug:%s:%s", conf, img);
    struct json_object *o = jsonf("{'driver':'raw'}");
    struct err e = ERR_INIT;
    struct node *n;
    if (node_open_filename(b->graph, name, o, &n, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    json_object_put(o);
    assert_string_equal(n->file->child->drv->name, "blkdebug");
    struct edge *ed = rw_edge(n);
    assert_int_equal(read_at(ed, 0), -61);
    assert_int_equal(read_at(ed, 0), 0);
    assert_int_equal(write_at(ed, 0), -ENOSPC);
    edge_close(ed);
    node_unref(n);

    assert_true(g_file_set_contents(conf, "[inject-error]\nevent = \"raed_aio\"\n", -1, NULL));
    assert_true(node_open_filename(b->graph, name, NULL, &n, &e) < 0);
    assert_non_null(strstr(err_text(&e), "Invalid event name 'raed_aio'; did you mean 'read_aio'?"));
    err_clear(&e);
}

static void test_config(void **state)
{
    bench_run(reads_config_file);
}

static void write_once(void *arg)
{
    assert_int_equal(write_at(arg, 0), 0);
}

static void breaks_and_resumes(struct bench *b)
{
    struct edge *ed = debug_disk(b, "'align':1");
    struct node *n = ed->child;
    struct err e = ERR_INIT;
    int running = 0;
    assert_int_equal(block_debug_break(n, "write_aio", "A", &e), 0);
    assert_true(block_debug_break(n, "nonsense", "A", &e) < 0);
    err_clear(&e);
    spawn(b, write_once, ed, &running);
    WAIT_UNTIL(block_debug_is_suspended(n, "A"));
    assert_int_equal(n->in_flight, 1);
    spawn(b, write_once, ed, &running); /* a breakpoint stops one */
    WAIT_UNTIL(running == 1);
    assert_int_equal(block_debug_resume(n, "A", &e), 0);
    wait_for(&running);
    assert_int_equal(block_debug_resume(n, "A", &e), -ENOENT);
    err_clear(&e);
    block_debug_event(n, "copy_bulk"); /* an event without a rule */
    edge_close(ed);
    assert_null(node_find(b->graph, "dbg"));
}

static void test_breakpoints(void **state)
{
    bench_run(breaks_and_resumes);
}

/* --- dirty bitmaps ---------------------------------------------------------------------------------------------- */

static void marks(struct bench *b)
{
    struct edge *ed = debug_disk(b, "'inject-error':[{'event':'write_aio','iotype':'write','sector':1024}]");
    struct node *n = ed->child;
    struct dirty_bitmap *bm;
    struct err e = ERR_INIT;
    assert_true(dirty_bitmap_create(n, "x", 1000, &bm, &e) < 0);
    err_clear(&e);
    assert_int_equal(dirty_bitmap_create(n, "x", 4096, &bm, &e), 0);
    assert_ptr_equal(dirty_bitmap_find(n, "x"), bm);
    struct dirty_bitmap *twice;
    assert_int_equal(dirty_bitmap_create(n, "x", 0, &twice, &e), -EEXIST);
    err_clear(&e);
    assert_int_equal(write_at(ed, 4096 - 512), 0);
    assert_int_equal(dirty_bitmap_bytes(bm), 4096);
    assert_int_equal(write_at(ed, 4000), 0); /* over the border */
    assert_int_equal(dirty_bitmap_bytes(bm), 8192);
    assert_int_equal(write_at(ed, 512 * 1024), -EIO); /* nobody knows what is there now */
    assert_int_equal(dirty_bitmap_bytes(bm), 3 * 4096);
    assert_int_equal(edge_zero(ed, 1 << 19, 100, 0), 0);
    assert_int_equal(edge_zero(ed, (1 << 20) - 10, 10, 0), 0);
    assert_int_equal(dirty_bitmap_bytes(bm), 4 * 4096);
    char c = 0;
    assert_int_equal(edge_write_buf(ed, 100000, 1, &c, REQ_WRITE_UNCHANGED), 0);
    assert_int_equal(dirty_bitmap_bytes(bm), 4 * 4096);

    uint64_t off = 0, len;
    assert_true(dirty_bitmap_next(bm, &off, &len, UINT64_MAX, 0));
    assert_true(off == 0 && len == 8192);
    off = 100;
    assert_true(dirty_bitmap_next(bm, &off, &len, UINT64_MAX, 4096));
    assert_true(off == 100 && len == 4096);
    dirty_bitmap_clear(bm, 0, 8191); /* the second granule only in part */
    off = 0;
    assert_true(dirty_bitmap_next(bm, &off, &len, UINT64_MAX, 0));
    assert_true(off == 4096 && len == 4096);
    off = 8192;
    assert_true(dirty_bitmap_next(bm, &off, &len, UINT64_MAX, 0));
    assert_int_equal(off, 512 * 1024);
    assert_false(dirty_bitmap_next(bm, &off, &len, 512 * 1024, 0));
    bm->enabled = false;
    assert_int_equal(write_at(ed, 65536), 0);
    off = 65536;
    assert_true(dirty_bitmap_next(bm, &off, &len, UINT64_MAX, 0) && off > 65536);

    assert_int_equal(edge_truncate(ed, (1 << 20) - 4096 - 100, true, PREALLOC_OFF, &e), 0);
    dirty_bitmap_set(bm, 0, UINT64_MAX); /* a range too long is clipped */
    assert_int_equal(dirty_bitmap_bytes(bm), (1 << 20) - 4096 - 100);
    dirty_bitmap_clear(bm, 0, n->size);
    assert_int_equal(dirty_bitmap_bytes(bm), 0);
    edge_close(ed); /* the node takes its bitmap along */
}

static void test_dirty(void **state)
{
    bench_run(marks);
}

/* --- throttle --------------------------------------------------------------------------------------------------- */

static void *find_group(void *opaque, const char *type, const char *id)
{
    return !strcmp(type, "throttle-group") && !strcmp(id, "tg") ? opaque : NULL;
}

static void write_many(void *arg)
{
    for (int i = 0; i < 10; i++) {
        assert_int_equal(write_at(arg, 0), 0);
    }
}

static void set_limits(struct throttle_group *t, struct json_object *o)
{
    struct throttle_config c;
    struct err e = ERR_INIT;
    if (throttle_config_parse(o, &c, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    json_object_put(o);
    throttle_group_set(t, &c);
}

static void throttles(struct bench *b)
{
    struct throttle_group *t = throttle_group_create(b->loop, "tg");
    graph_set_object_lookup(b->graph, find_group, t);
    assert_string_equal(must_fail(b, jsonf("{'driver':'throttle','throttle-group':'no','file':{'driver':'null-co'}}")),
                        "Throttle group 'no' does not exist");
    struct node *n = must_open(b, jsonf("{'driver':'throttle','throttle-group':'tg','file':{'driver':'null-co'}}"));
    struct edge *ed = rw_edge(n);
    int running = 0;

    set_limits(t, jsonf("{'iops-total':100}"));
    uint64_t t0 = loop_now_ns();
    spawn(b, write_many, ed, &running);
    spawn(b, write_many, ed, &running);
    wait_for(&running);
    assert_in_range((loop_now_ns() - t0) / 1000000, 70, 20000); /* 20 requests, 11 of them at once: 90 ms */
    for (int i = 0; i < 5; i++) {
        assert_int_equal(read_at(ed, 0), 0); /* totals hold for reads too */
    }
    assert_true((loop_now_ns() - t0) / 1000000 >= 120);

    set_limits(t, jsonf("{'bps-write':4}"));
    t0 = loop_now_ns();
    spawn(b, write_many, ed, &running); /* about twenty minutes' worth */
    WAIT_UNTIL(n->in_flight > 0);
    node_drain_begin(n); /* but a drain does not wait for it */
    assert_int_equal(n->in_flight, 0);
    set_limits(t, jsonf("{}"));
    node_drain_end(n);
    wait_for(&running);
    assert_true(loop_now_ns() - t0 < UINT64_C(100000000000));

    struct throttle_config c;
    struct err e = ERR_INIT;
    struct json_object *bad = jsonf("{'iops-total':10,'iops-read':5}");
    assert_true(throttle_config_parse(bad, &c, &e) < 0);
    json_object_put(bad);
    err_clear(&e);
    bad = jsonf("{'bps-total-max':10}");
    assert_true(throttle_config_parse(bad, &c, &e) < 0);
    json_object_put(bad);
    err_clear(&e);
    edge_close(ed);
    node_unref(n);
    throttle_group_unref(t);
}

static void test_throttle(void **state)
{
    bench_run(throttles);
}

/* How long the burst takes. */
static uint64_t use_burst_up(struct bench *b)
{
    struct throttle_group *t = throttle_group_create(b->loop, "tg");
    graph_set_object_lookup(b->graph, find_group, t);
    struct node *n = must_open(b, jsonf("{'driver':'throttle','throttle-group':'tg','file':{'driver':'null-co'}}"));
    struct edge *ed = rw_edge(n);
    set_limits(t, jsonf("{'iops-write':50,'iops-write-max':200,'iops-write-max-length':1}"));
    uint64_t t0 = loop_now_ns();
    for (int i = 0; i < 200; i++) {
        assert_int_equal(write_at(ed, 0), 0);
    }
    uint64_t ns = loop_now_ns() - t0;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(write_at(ed, 0), 0);
    }
    assert_true(loop_now_ns() - t0 > 100000000);
    edge_close(ed);
    node_unref(n);
    throttle_group_unref(t);
    return ns;
}

static void burst_is_used_up(struct bench *b)
{
    uint64_t ns = UINT64_MAX;
    for (int i = 0; i < 10 && ns >= 100000000; i++) { /* the machine may stand still meanwhile, but not each time */
        ns = use_burst_up(b);
    }
    assert_true(ns < 100000000);
}

static void test_burst(void **state)
{
    bench_run(burst_is_used_up);
}

static void is_cheap(struct bench *b)
{
    struct node *n = must_open(b, jsonf("{'driver':'null-co'}"));
    struct edge *ed = rw_edge(n);
    static char buf[4096];
    const int count = 200000;
    uint64_t t0 = cpu_ns();
    for (int i = 0; i < count; i++) {
        edge_read_buf(ed, (uint64_t)i * 4096, 4096, buf);
    }
    uint64_t ns = (cpu_ns() - t0) / count;
    print_message("%lu ns a request\n", (unsigned long)ns);
    assert_true(ns < 5000); /* far above what it is, so that a busy machine does not fail it */
    assert_int_equal(n->stats.rd_ops, count);
    edge_close(ed);
    node_unref(n);
}

static void test_cost(void **state)
{
    bench_run(is_cheap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inject),      cmocka_unit_test(test_states), cmocka_unit_test(test_config),
        cmocka_unit_test(test_breakpoints), cmocka_unit_test(test_dirty),  cmocka_unit_test(test_throttle),
        cmocka_unit_test(test_burst),       cmocka_unit_test(test_cost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
