/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Faults while images are made and opened: the first, second, … request of the file below fails, or the first, second,
 * … allocation of memory that may. What could not be made or opened has said why; what was made is empty and in order;
 * what was opened holds what it held. In the end nothing is left in the graph.
 *
 *     open [FORMAT]
 */
#include "base/cleanup.h"
#include "memory.h"
#include "world.h"

#include <errno.h>

enum { BYTES = 64 * 1024 };

static const struct fault faults[] = {
    {"a write fails", FAIL_WRITE, -EIO, false},     {"a flush fails", FAIL_FLUSH, -EIO, false},
    {"a read fails", FAIL_READ, -EIO, false},       {"no space for a moment", FAIL_GROW | FAIL_WRITE, -ENOSPC, false},
    {"the disk is full", FAIL_GROW, -ENOSPC, true}, {"the disk is gone", FAIL_WRITE | FAIL_FLUSH, -EIO, true},
    {"an allocation fails", FAIL_MEMORY, 0, false}, {"memory is short", FAIL_MEMORY, 0, true},
};

struct wanted {
    const char *format;
    unsigned long runs;
};

static void begin(struct world *w, const struct fault *f, unsigned n)
{
    w->disk.fail_kinds = f->kinds;
    w->disk.fail_rc = f->rc;
    w->disk.fail_on = f->lasting;
    w->disk.failed = 0;
    if (f->kinds & FAIL_MEMORY) {
        memory_fails((struct memory_fault){n, f->lasting});
    } else {
        w->disk.fail_in = n;
    }
}

/* True: something has failed since. `before`: memory_failed() then. */
static bool end(struct world *w, unsigned before)
{
    w->disk.fail_in = 0;
    memory_fails((struct memory_fault){0});
    return w->disk.failed || memory_failed() > before;
}

static void contents(const struct world *w, struct edge *ed, const uint8_t *want, const char *when)
{
    CLEANUP_FREE uint8_t *got = g_malloc(BYTES);
    int rc = edge_read_buf(ed, 0, BYTES, got);
    if (rc < 0 || memcmp(got, want, BYTES) != 0) {
        fail_msg("%s, %s: %s", w->g->name, when, rc < 0 ? strerror(-rc) : "other contents");
    }
}

static void in_order(const struct world *w, struct node *n, const char *when)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct check_result r = {.text = g_string_new(NULL)};
    if (n->drv->check && (n->drv->check(n, &r, 0, &e) < 0 || r.corruptions || r.check_errors)) {
        fail_msg("%s, %s: %s%s", w->g->name, when, r.text->str, err_is_set(&e) ? err_text(&e) : "");
    }
    g_string_free(r.text, TRUE);
}

static void refused(const struct world *w, const struct fault *f, unsigned n, bool failed, const struct err *e)
{
    if (!failed || !err_is_set(e)) {
        fail_msg("%s, %s, %u: %s", w->g->name, f->name, n, failed ? "no reason is given" : err_text(e));
    }
}

/* --- making ------------------------------------------------------------------------------------------------------- */

/* False: there were fewer than n requests of that kind. */
static bool make(struct bench *b, const struct geometry *g, const struct fault *f, unsigned n)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w = {.b = b, .g = g};
    world_files_open(&w);
    unsigned before = memory_failed();
    begin(&w, f, n);
    int rc = world_make(&w, &e);
    bool failed = end(&w, before);
    if (rc < 0) {
        refused(&w, f, n, failed, &e);
        err_clear(&e);
        rc = world_make(&w, &e); /* nothing stands in the way of doing it again */
    }
    if (rc < 0) {
        fail_msg("%s, %s, %u: %s", g->name, f->name, n, err_text(&e));
    }
    CLEANUP_FREE uint8_t *want = g_malloc0(BYTES);
    struct node *image = world_open(&w, "disk", "");
    struct edge *ed = rw_edge(image);
    in_order(&w, image, f->name);
    if (g->backed) {
        memcpy(want, w.below.data, BYTES);
    } else if (g->grows_by_anything) {
        assert_int_equal(edge_write_buf(ed, 0, BYTES, want, 0), 0);
    }
    contents(&w, ed, want, f->name);
    edge_close(ed);
    node_unref(image);
    world_files_close(&w);
    return failed;
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

struct made {
    struct memdisk disk, data;
    uint8_t *want;
};

static void fill_image(struct bench *b, const struct geometry *g, struct made *m)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w = {.b = b, .g = g};
    world_files_open(&w);
    assert_int_equal(world_make(&w, &e), 0);
    struct node *image = world_open(&w, "disk", "");
    struct edge *ed = rw_edge(image);
    m->want = g_malloc(BYTES);
    memset(m->want, 'x', BYTES);
    assert_int_equal(edge_write_buf(ed, 0, BYTES, m->want, 0), 0);
    edge_close(ed);
    node_unref(image);
    memdisk_copy(&m->disk, &w.disk);
    memdisk_copy(&m->data, &w.data);
    world_files_close(&w);
}

/* In use while the faults go on. What an image says must be right, or an error. */
static void use(struct world *w, struct node *n, const uint8_t *want)
{
    CLEANUP_FREE uint8_t *got = g_malloc(BYTES);
    struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
    if (edge_read_buf(ed, 0, BYTES, got) == 0) {
        assert_memory_equal(got, want, BYTES);
    }
    edge_close(ed);
}

static bool open_it(struct bench *b, const struct geometry *g, const struct made *m, const struct fault *f, unsigned n)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w = {.b = b, .g = g};
    memdisk_copy(&w.disk, &m->disk);
    memdisk_copy(&w.data, &m->data);
    world_files_open(&w);
    unsigned before = memory_failed();
    CLEANUP_JSON struct json_object *o = world_options(&w, "disk", n % 2 ? ", 'read-only': true" : "");
    struct node *image = NULL;
    begin(&w, f, (n + 1) / 2);
    int rc = node_open(b->graph, o, &image, &e);
    if (rc == 0) {
        use(&w, image, m->want);
    }
    bool failed = end(&w, before);
    if (rc < 0) {
        refused(&w, f, n, failed, &e);
    }
    node_unref(image);
    image = world_open(&w, "disk", "");
    struct edge *ed = rw_edge(image);
    in_order(&w, image, f->name);
    contents(&w, ed, m->want, f->name);
    edge_close(ed);
    node_unref(image);
    world_files_close(&w);
    return failed;
}

/* --- all of it ---------------------------------------------------------------------------------------------------- */

static void one_geometry(struct bench *b, const struct geometry *g, struct wanted *w)
{
    struct made m = {0};
    fill_image(b, g, &m);
    for (size_t i = 0; i < G_N_ELEMENTS(faults); i++) {
        for (unsigned n = 1; make(b, g, &faults[i], n); n++) {
            w->runs++;
        }
        bool fired = true, last = true;
        for (unsigned n = 1; fired || last; n++, w->runs++) { /* for reading, for writing */
            last = fired;
            fired = open_it(b, g, &m, &faults[i], n);
        }
    }
    memdisk_finish(&m.disk);
    memdisk_finish(&m.data);
    g_free(m.want);
}

static void all(struct bench *b)
{
    struct wanted *w = b->arg;
    for (const struct geometry *g = geometries; g->name; g++) {
        if (!w->format || g_str_has_prefix(g->name, w->format)) {
            one_geometry(b, g, w);
        }
    }
}

static void test_all(void **state)
{
    struct wanted *w = *state;
    bench_run_arg(all, w);
    print_message("%lu runs with a fault\n", w->runs);
    assert_true(w->runs > 30);
}

int main(int argc, char **argv)
{
    struct wanted w = {argc > 1 ? argv[1] : NULL, 0};
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_all, &w)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
