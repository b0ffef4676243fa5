/* SPDX-License-Identifier: BSD-2-Clause */
/* Chains of backing images, probing, copy-on-read, temporary overlays; all with qcow2 on top. */
#include "support.h"

#include "block/debug.h"
#include "block/overlay.h"

#include <unistd.h>

#define MIB (1u << 20)

static void create(struct bench *b, const char *name, uint64_t size, const char *backing, const char *fmt)
{
    struct err e = ERR_INIT;
    struct json_object *o = jsonf("{'file':'%s'}", bench_path(b, name));
    if (size) {
        json_object_object_add(o, "size", json_object_new_uint64(size));
    }
    if (backing) {
        json_object_object_add(o, "backing-file", json_object_new_string(backing));
        json_object_object_add(o, "backing-fmt", json_object_new_string(fmt));
    }
    if (driver_find("qcow2")->create(b->graph, o, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    json_object_put(o);
}

static struct node *open_name(struct bench *b, const char *name, struct json_object *opts)
{
    struct err e = ERR_INIT;
    struct node *n;
    if (node_open_filename(b->graph, bench_path(b, name), opts, &n, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    json_object_put(opts);
    return n;
}

static const char *open_fails(struct bench *b, const char *name)
{
    static char text[2048];
    struct err e = ERR_INIT;
    struct node *n;
    assert_true(node_open_filename(b->graph, bench_path(b, name), NULL, &n, &e) < 0);
    g_strlcpy(text, err_text(&e), sizeof(text));
    err_clear(&e);
    GPtrArray *nodes = graph_nodes(b->graph);
    assert_int_equal(nodes->len, 0);
    g_ptr_array_free(nodes, true);
    return text;
}

static void opens_chain(struct bench *b)
{
    bench_file(b, "base", MIB, 0x77);
    create(b, "mid", MIB, "base", "raw");
    create(b, "top", 2 * MIB, "mid", "qcow2");
    struct node *n = open_name(b, "top", NULL);
    assert_string_equal(n->drv->name, "qcow2");
    struct node *mid = node_backing(n), *base = node_backing(mid);
    assert_string_equal(mid->filename, bench_path(b, "mid"));
    assert_string_equal(base->drv->name, "raw");
    assert_true(mid->read_only && base->read_only && !base->probed);
    struct edge *ed = rw_edge(n);
    char buf[8];
    assert_int_equal(edge_read_buf(ed, MIB - 4, 8, buf), 0);
    assert_true(buf[3] == 0x77 && buf[4] == 0);
    struct extent x;
    int depth;
    assert_int_equal(node_status_above(n, NULL, 0, 2 * MIB, &x, &depth), 0);
    assert_true((x.flags & EXT_ALLOCATED) && depth == 2 && x.len == MIB);
    assert_int_equal(node_status_above(n, base, 0, 2 * MIB, &x, &depth), 0);
    assert_false(x.flags & EXT_ALLOCATED);
    assert_int_equal(node_status_above(n, NULL, MIB, MIB, &x, &depth), 0);
    assert_true((x.flags & EXT_ZERO) && x.len == MIB && (x.flags & EXT_EOF));
    struct json_object *info = node_device_info(n), *v;
    assert_true(json_object_object_get_ex(info, "backing_file_depth", &v) && json_object_get_int(v) == 2);
    assert_true(json_object_object_get_ex(info, "image", &v) && json_object_object_get_ex(v, "backing-image", &v));
    assert_true(json_object_object_get_ex(v, "full-backing-filename", &v));
    assert_string_equal(json_object_get_string(v), bench_path(b, "base"));
    json_object_put(info);
    edge_close(ed);
    node_unref(n);

    n = open_name(b, "top", jsonf("{'backing':null}"));
    assert_null(n->backing);
    node_unref(n);
    n = open_name(b, "top", jsonf("{'backing':{'driver':'null-co','node-name':'nil','read-zeroes':true}}"));
    assert_string_equal(node_backing(n)->name, "nil");
    node_unref(n);
    n = open_name(b, "top", jsonf("{'backing.backing.node-name':'lowest','backing.node-name':'m'}"));
    assert_non_null(node_find(b->graph, "lowest"));
    assert_ptr_equal(node_backing(node_find(b->graph, "m")), node_find(b->graph, "lowest"));
    node_unref(n);
}

static void test_chain(void **state)
{
    bench_run(opens_chain);
}

/* A filter above the base, as another job puts it there, does not make what the base holds a layer's above it. */
static void ends_at_base_below_filter(struct bench *b)
{
    bench_file(b, "base", MIB, 0x77);
    create(b, "mid", MIB, "base", "raw");
    struct node *base = open_name(b, "base", jsonf("{'driver':'raw','node-name':'base','read-only':true}"));
    struct node *n = open_name(b, "mid", jsonf("{'backing':{'driver':'delay','file':'base'}}"));
    assert_true(node_backing(n) != base && node_backing(n)->drv->is_filter);
    struct extent x;
    assert_int_equal(node_status_above(n, base, 0, MIB, &x, NULL), 0);
    assert_true(!(x.flags & EXT_ALLOCATED) && x.len == MIB);
    assert_int_equal(node_status_above(n, node_backing(n), 0, MIB, &x, NULL), 0);
    assert_false(x.flags & EXT_ALLOCATED);
    assert_int_equal(node_status_above(n, NULL, 0, MIB, &x, NULL), 0);
    assert_true((x.flags & EXT_ALLOCATED) && x.len == MIB);
    node_unref(n);
    node_unref(base);
}

static void test_base_below_filter(void **state)
{
    bench_run(ends_at_base_below_filter);
}

static void refuses_broken_chains(struct bench *b)
{
    create(b, "a", MIB, "c", "qcow2");
    create(b, "b", MIB, "a", "qcow2");
    create(b, "c", MIB, "b", "qcow2");
    assert_non_null(strstr(open_fails(b, "a"), "creates an infinite loop"));
    create(b, "self", MIB, "self", "qcow2");
    assert_non_null(strstr(open_fails(b, "self"), "creates an infinite loop"));
    create(b, "lost", MIB, "nowhere", "raw");
    const char *text = open_fails(b, "lost");
    assert_true(g_str_has_prefix(text, "Could not open backing file: Could not open '"));
    assert_non_null(strstr(text, "nowhere': No such file or directory"));
    char name[32], below[32];
    create(b, "n000", MIB, NULL, NULL);
    for (int i = 1; i <= 202; i++) {
        g_snprintf(name, sizeof(name), "n%03d", i);
        g_snprintf(below, sizeof(below), "n%03d", i - 1);
        create(b, name, MIB, below, "qcow2");
    }
    assert_non_null(strstr(open_fails(b, "n202"), "is deeper than 200 images"));
    /* One as deep as may be works, and its reads come from the bottom. */
    struct node *n = open_name(b, "n000", NULL);
    struct edge *ed = rw_edge(n);
    char c = 0x42;
    assert_int_equal(edge_write_buf(ed, 12345, 1, &c, 0), 0);
    edge_close(ed);
    node_unref(n);
    n = open_name(b, "n200", NULL);
    ed = rw_edge(n);
    c = 0;
    assert_int_equal(edge_read_buf(ed, 12345, 1, &c), 0);
    assert_int_equal(c, 0x42);
    assert_int_equal(edge_write_buf(ed, 12346, 1, &c, REQ_FUA), 0);
    edge_close(ed);
    node_unref(n);
}

static void test_broken_chains(void **state)
{
    bench_run(refuses_broken_chains);
}

static void stops_at_broken(struct bench *b)
{
    g_autofree char *text = NULL;
    create(b, "img", MIB, NULL, NULL);
    FILE *f = fopen(bench_path(b, "img"), "r+");
    fseek(f, 4, SEEK_SET);
    fputc(0x7f, f); /* a version of qcow2 that there is not */
    fclose(f);
    text = g_strdup(open_fails(b, "img"));
    assert_null(strstr(text, "raw"));
    struct node *n = open_name(b, "img", jsonf("{'driver':'raw'}")); /* said explicitly, raw it is */
    node_unref(n);

    /* A guest on a probed raw disk cannot turn it into qcow2. */
    bench_file(b, "raw", MIB, 0);
    n = open_name(b, "raw", NULL);
    struct edge *ed = rw_edge(n);
    char head[512] = {'Q', 'F', 'I', (char)0xfb, 0, 0, 0, 3};
    assert_int_equal(edge_write_buf(ed, 0, 512, head, 0), -EPERM);
    assert_int_equal(edge_write_buf(ed, 4, 4, head + 4, 0), 0);
    assert_int_equal(edge_write_buf(ed, 0, 4, head, 0), -EPERM); /* nor in two halves */
    assert_int_equal(edge_write_buf(ed, 512, 512, head, 0), 0);
    edge_close(ed);
    node_unref(n);
}

static void test_probing(void **state)
{
    bench_run(stops_at_broken);
}

/* --- copy-on-read ----------------------------------------------------------------------------------------------- */

static struct node *open_cor(struct bench *b)
{
    return must_open(
        b, jsonf("{'driver':'copy-on-read','node-name':'cor','file':{'driver':'qcow2','node-name':'top','file':"
                 "{'driver':'blkdebug','image':{'driver':'file','filename':'%s'}},'backing':{'driver':'raw',"
                 "'node-name':'base','file':{'driver':'file','filename':'%s'}}}}",
                 bench_path(b, "top"), bench_path(b, "base")));
}

static unsigned flags_at(struct bench *b, uint64_t off)
{
    struct extent x;
    assert_int_equal(node_status(node_find(b->graph, "top"), true, off, 1, &x), 0);
    return x.flags;
}

static void copies_what_is_read(struct bench *b)
{
    bench_file(b, "base", 4 * MIB, 0);
    FILE *f = fopen(bench_path(b, "base"), "r+");
    for (unsigned i = 0; i < MIB; i++) {
        fputc(0x21 + (int)(i / 65536), f);
    }
    fclose(f);
    create(b, "top", 4 * MIB, "base", "raw");
    struct node *n = open_cor(b);
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_ALL);
    char *buf = malloc(4 * MIB);
    assert_int_equal(edge_read_buf(ed, 65536 + 100, 10, buf), 0);
    assert_int_equal(buf[0], 0x22);
    assert_false(flags_at(b, 0) & EXT_ALLOCATED);
    assert_true(flags_at(b, 65536) & EXT_DATA);
    assert_true(flags_at(b, 2 * 65536 - 1) & EXT_DATA);
    assert_false(flags_at(b, 2 * 65536) & EXT_ALLOCATED);
    int64_t before = node_allocated_size(n);
    assert_int_equal(edge_read_buf(ed, 2 * MIB, MIB, buf), 0);
    assert_true(buf_is_zero(buf, MIB));
    assert_true(flags_at(b, 2 * MIB + 5) & EXT_ZERO);
    assert_true(flags_at(b, 2 * MIB + 5) & EXT_ALLOCATED);
    assert_true(node_allocated_size(n) < before + 300000); /* zeroes take no room */
    assert_int_equal(edge_read(ed, 0, MIB, NULL, 0, REQ_PREFETCH), 0);
    for (uint64_t off = 0; off < MIB; off += 65536) {
        assert_true(flags_at(b, off) & EXT_DATA);
    }
    assert_int_equal(edge_read_buf(ed, 0, 4 * MIB, buf), 0);
    for (unsigned i = 0; i < MIB; i += 100) {
        assert_int_equal(buf[i], 0x21 + (int)(i / 65536));
    }
    free(buf);
    edge_close(ed);
    node_unref(n);
}

static void test_cor(void **state)
{
    bench_run(copies_what_is_read);
}

/* A window that shows all of its image is no obstacle, nor is another filter of the kind. */
static void copies_through_raw(struct bench *b)
{
    bench_file(b, "base", MIB, 0x44);
    create(b, "top", MIB, "base", "raw");
    struct node *n = must_open(
        b,
        jsonf("{'driver':'copy-on-read','file':{'driver':'raw','file':{'driver':'copy-on-read','bottom':'top','file':"
              "{'driver':'raw','file':{'driver':'qcow2','node-name':'top','file':{'driver':'file','filename':'%s'},"
              "'backing':{'driver':'raw','file':{'driver':'file','filename':'%s'}}}}}}}",
              bench_path(b, "top"), bench_path(b, "base")));
    struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
    char *buf = malloc(MIB);
    assert_int_equal(edge_read_buf(ed, 65536, 65536, buf), 0);
    assert_true(buf[0] == 0x44 && buf[65535] == 0x44);
    assert_false(flags_at(b, 0) & EXT_ALLOCATED);
    assert_true(flags_at(b, 65536) & EXT_DATA);
    assert_false(flags_at(b, 2 * 65536) & EXT_ALLOCATED);
    edge_close(ed);
    node_unref(n);
    n = must_open(
        b, jsonf("{'driver':'copy-on-read','file':{'driver':'raw','size':65536,'file':{'driver':'qcow2','node-name':"
                 "'top','file':{'driver':'file','filename':'%s'}}}}",
                 bench_path(b, "top")));
    ed = must_edge(n, PERM_READ, PERM_ALL);
    assert_int_equal(edge_read_buf(ed, 0, 65536, buf), 0);
    assert_true(buf[0] == 0x44);
    free(buf);
    edge_close(ed);
    node_unref(n);
    assert_string_equal(must_fail(b, jsonf("{'driver':'copy-on-read','read-only':true,'file':{'driver':'qcow2','file':"
                                           "{'driver':'file','filename':'%s'}}}",
                                           bench_path(b, "top"))),
                        "Block node is read-only");
}

static void test_cor_raw(void **state)
{
    bench_run(copies_through_raw);
}

struct racer {
    struct bench *b;
    struct edge *ed;
    uint8_t *model;
    int next;
};

static void reader(void *arg)
{
    struct racer *r = arg;
    uint64_t seed = 1000 + (uint64_t)r->next++;
    char *buf = malloc(65536);
    for (int i = 0; i < 40; i++) {
        uint64_t len = 1 + rnd(&seed) % 65536, off = rnd(&seed) % (2 * MIB - len);
        assert_int_equal(edge_read_buf(r->ed, off, len, buf), 0);
    }
    free(buf);
}

static void guest(void *arg)
{
    struct racer *r = arg;
    uint64_t seed = 5;
    char *buf = malloc(40000);
    for (int i = 0; i < 60; i++) {
        uint64_t len = 1 + rnd(&seed) % 40000, off = rnd(&seed) % (2 * MIB - len);
        memset(buf, (int)(rnd(&seed) & 0xff), len);
        memset(r->model + off, (uint8_t)buf[0], len);
        assert_int_equal(edge_write_buf(r->ed, off, len, buf, 0), 0);
    }
    free(buf);
}

static void guest_writes_win(struct bench *b)
{
    bench_file(b, "base", 2 * MIB, 0x55);
    create(b, "top", 2 * MIB, "base", "raw");
    struct node *n = open_cor(b);
    struct racer r = {b, must_edge(n, PERM_READ | PERM_WRITE, PERM_ALL), malloc(2 * MIB), 0};
    memset(r.model, 0x55, 2 * MIB);
    int running = 0;
    for (int i = 0; i < 4; i++) {
        spawn(b, reader, &r, &running);
    }
    spawn(b, guest, &r, &running);
    wait_for(&running);
    uint8_t *buf = malloc(2 * MIB);
    assert_int_equal(edge_read_buf(r.ed, 0, 2 * MIB, buf), 0);
    assert_memory_equal(buf, r.model, 2 * MIB);
    free(buf);
    free(r.model);
    edge_close(r.ed);
    node_unref(n);
}

static void test_cor_race(void **state)
{
    bench_run(guest_writes_win);
}

/* The copy has read the old data and stops right before it writes it; a guest's write must then wait. */
static void write_new(void *arg)
{
    char page[4096];
    memset(page, 0x66, sizeof(page));
    assert_int_equal(edge_write_buf(arg, 4096, sizeof(page), page, 0), 0);
}

static void read_old(void *arg)
{
    char page[4096];
    assert_int_equal(edge_read_buf(arg, 4096, sizeof(page), page), 0);
    assert_int_equal(page[0], 0x55);
}

static void copy_cannot_overtake(struct bench *b)
{
    struct err e = ERR_INIT;
    bench_file(b, "base", MIB, 0x55);
    create(b, "top", MIB, "base", "raw");
    struct node *n = open_cor(b);
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_ALL);
    int reading = 0, writing = 0;
    assert_int_equal(block_debug_break(n, "cor_write", "c", &e), 0);
    spawn(b, read_old, ed, &reading);
    WAIT_UNTIL(block_debug_is_suspended(n, "c"));
    spawn(b, write_new, ed, &writing);
    co_sleep(20000000);
    assert_int_equal(writing, 1);
    assert_int_equal(block_debug_resume(n, "c", &e), 0);
    wait_for(&reading);
    wait_for(&writing);
    char page[4096];
    assert_int_equal(edge_read_buf(ed, 4096, sizeof(page), page), 0);
    assert_int_equal(page[0], 0x66);
    edge_close(ed);
    node_unref(n);
}

static void test_cor_order(void **state)
{
    bench_run(copy_cannot_overtake);
}

static void snapshot_leaves_disk_alone(struct bench *b)
{
    struct err e = ERR_INIT;
    struct node *overlay,
        *n = must_open(b, jsonf("{'driver':'raw','read-only':true,'file':{'driver':'file','filename':'%s'}}",
                                bench_file(b, "disk", MIB, 3)));
    if (node_open_temp_overlay(n, NULL, &overlay, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    node_unref(n);
    struct edge *ed = rw_edge(overlay);
    node_unref(overlay);
    char c = 9;
    assert_int_equal(edge_write_buf(ed, 70000, 1, &c, 0), 0);
    assert_int_equal(edge_flush(ed), 0);
    assert_int_equal(edge_read_buf(ed, 70001, 1, &c), 0);
    assert_int_equal(c, 3);
    assert_int_equal(access(overlay->filename, F_OK), -1);
    edge_close(ed);
    g_autofree char *data = NULL;
    gsize len;
    assert_true(g_file_get_contents(bench_path(b, "disk"), &data, &len, NULL));
    for (gsize i = 0; i < len; i++) {
        assert_int_equal(data[i], 3);
    }
}

static void test_overlay(void **state)
{
    bench_run(snapshot_leaves_disk_alone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_chain),         cmocka_unit_test(test_base_below_filter),
        cmocka_unit_test(test_broken_chains), cmocka_unit_test(test_probing),
        cmocka_unit_test(test_cor),           cmocka_unit_test(test_cor_raw),
        cmocka_unit_test(test_cor_race),      cmocka_unit_test(test_cor_order),
        cmocka_unit_test(test_overlay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
