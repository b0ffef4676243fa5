/* SPDX-License-Identifier: BSD-2-Clause */
/* Actions: all or none, in order; and those on dirty bitmaps, also when the image cannot be written. */
#include "support.h"

#include "base/cleanup.h"
#include "block/dirty.h"
#include "memdisk.h"
#include "monitor/action.h"

#define MB (UINT64_C(1) << 20)

/* --- the order of steps ------------------------------------------------------------------------------------------- */

struct note {
    struct mon_action action;
    const char *name;
};

static GString *notes_of(struct mon_action *a)
{
    return a->c->out;
}

static int note_prepare(struct mon_action *a, const void *args, struct err *e)
{
    ((struct note *)a)->name = args;
    g_string_append_printf(notes_of(a), "%sp%s ", a->in_company ? "" : "alone:", (const char *)args);
    return *(const char *)args == 'x' ? err_set(e, EIO, "x cannot") : 0;
}

static void note_commit(struct mon_action *a)
{
    g_string_append_printf(notes_of(a), "c%s ", ((struct note *)a)->name);
}

static void note_abort(struct mon_action *a)
{
    g_string_append_printf(notes_of(a), "a%s ", ((struct note *)a)->name);
}

static void note_clean(struct mon_action *a)
{
    g_string_append_printf(notes_of(a), "-%s ", ((struct note *)a)->name);
}

static const struct mon_action_kind noting = {
    .name = "note",
    .size = sizeof(struct note),
    .prepare = note_prepare,
    .commit = note_commit,
    .abort = note_abort,
    .clean = note_clean,
};

static void expect_notes(struct mon_ctx *c, const char *names, int rc, const char *want)
{
    struct mon_step steps[8];
    char text[8][2] = {{0}};
    CLEANUP_ERR struct err e = ERR_INIT;
    size_t n = strlen(names);
    for (size_t i = 0; i < n; i++) {
        text[i][0] = names[i];
        steps[i] = (struct mon_step){&noting, text[i]};
    }
    g_string_truncate(c->out, 0);
    assert_int_equal(mon_actions_run(c, steps, n, NULL, &e), rc);
    assert_string_equal(c->out->str, want);
    assert_string_equal(err_is_set(&e) ? err_text(&e) : "", rc ? "x cannot" : "");
}

static void order_of_steps(struct bench *b)
{
    struct mon_env env = {.loop = b->loop, .graph = b->graph};
    struct mon_ctx c = {.env = &env, .out = g_string_new(NULL)};
    expect_notes(&c, "", 0, "");
    expect_notes(&c, "1", 0, "alone:p1 c1 -1 ");
    expect_notes(&c, "123", 0, "p1 p2 p3 c1 c2 c3 -3 -2 -1 ");
    expect_notes(&c, "12x4", -EIO, "p1 p2 px a2 a1 -2 -1 ");
    expect_notes(&c, "x", -EIO, "alone:px ");
    g_string_free(c.out, TRUE);
}

/* --- bitmaps ------------------------------------------------------------------------------------------------------ */

static int transact(struct bench *b, const char *list, struct err *e)
{
    struct mon_env env = {.loop = b->loop, .graph = b->graph};
    struct mon_ctx c = {.env = &env};
    CLEANUP_JSON struct json_object *o = jsonf("%s", list);
    return mon_transaction(&c, o, NULL, e);
}

static void must_transact(struct bench *b, const char *list)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (transact(b, list, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
}

#define ACT(type, members) "{'type': 'block-dirty-bitmap-" type "', 'data': {'node': 'n', " members "}}"

static int by_text(gconstpointer a, gconstpointer b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* All that can be known of the bitmaps of a node, the anonymous ones too: "a:0+persistent@DIGEST …", in any order. */
static char *state_of(struct node *n)
{
    GPtrArray *all = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < n->bitmaps->len; i++) {
        const struct dirty_bitmap *x = g_ptr_array_index(n->bitmaps, i);
        g_autofree char *digest = dirty_bitmap_sha256(x);
        g_ptr_array_add(all, g_strdup_printf("%s:%d%d%d%d@%.8s", x->name ? x->name : "?", x->enabled, x->persistent,
                                             x->busy, x->inconsistent, digest));
    }
    g_ptr_array_sort(all, by_text);
    g_ptr_array_add(all, NULL);
    char *text = g_strjoinv(" ", (char **)all->pdata);
    g_ptr_array_unref(all);
    return text;
}

static void write_at(struct node *n, uint64_t off, uint64_t len)
{
    struct edge *ed = rw_edge(n);
    assert_int_equal(edge_zero(ed, off, len, 0), 0);
    edge_close(ed);
}

static struct node *open_disk(struct bench *b)
{
    return must_open(b, jsonf("{'driver': 'qcow2', 'node-name': 'n', 'file': 'disk'}"));
}

/* a: persistent, dirty at 0; b: not persistent, at 1 MB; c: persistent, disabled, dirty at 2 MB. */
static struct node *make_disk(struct bench *b, struct memdisk *d, struct node **file)
{
    *file = memdisk_open(b->graph, d, "disk");
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': 4194304}");
    assert_int_equal(driver_find("qcow2")->create(b->graph, o, NULL), 0);
    struct node *n = open_disk(b);
    must_transact(b, "[" ACT("add", "'name': 'a', 'persistent': true") "]");
    write_at(n, 0, 65536);
    must_transact(b, "[" ACT("disable", "'name': 'a'") "," ACT("add", "'name': 'b', 'granularity': 4096") "]");
    write_at(n, MB, 4096);
    must_transact(b, "[" ACT("disable", "'name': 'b'") "," ACT("add", "'name': 'c', 'persistent': true") "]");
    write_at(n, 2 * MB, 4096);
    must_transact(b, "[" ACT("disable", "'name': 'c'") "," ACT("enable", "'name': 'a'") "]");
    return n;
}

static void drop_disk(struct memdisk *d, struct node *n, struct node *file)
{
    node_unref(n);
    node_unref(file);
    memdisk_finish(d);
}

/* Every kind, each seeing what those before it did. */
#define EVERYTHING                                                                                                     \
    ACT("clear", "'name': 'a'")                                                                                        \
    "," ACT("merge", "'target': 'a', 'bitmaps': ['b', {'node': 'n', 'name': 'c'}]") "," ACT(                           \
        "disable",                                                                                                     \
        "'name': 'a'") "," ACT("enable",                                                                               \
                               "'name': 'c'") "," ACT("remove",                                                        \
                                                      "'name': 'b'") "," ACT("add",                                    \
                                                                             "'name': 'd', 'persistent': "             \
                                                                             "true") "," ACT("merge",                  \
                                                                                             "'target': "              \
                                                                                             "'d', "                   \
                                                                                             "'bitmaps': "             \
                                                                                             "['a']") "," ACT("clear", \
                                                                                                              "'name'" \
                                                                                                              ": 'c'")

static void takes_everything_back(struct bench *b)
{
    struct memdisk d = {.delay = 3};
    struct node *file, *n = make_disk(b, &d, &file);
    CLEANUP_ERR struct err e = ERR_INIT;
    g_autofree char *before = state_of(n);
    assert_int_equal(transact(b, "[" EVERYTHING "," ACT("clear", "'name': 'none'") "]", &e), -ENOENT);
    assert_string_equal(err_text(&e), "Dirty bitmap 'none' not found");
    g_autofree char *after = state_of(n);
    assert_string_equal(after, before);
    write_at(n, 3 * MB, 1); /* nothing is drained any more, and a still marks */
    assert_int_equal(dirty_bitmap_bytes(dirty_bitmap_find(n, "a")), 131072);
    node_unref(n);
    n = open_disk(b);
    assert_int_equal(n->bitmaps->len, 2); /* a and c */
    assert_int_equal(dirty_bitmap_bytes(dirty_bitmap_find(n, "a")), 131072);
    assert_int_equal(dirty_bitmap_bytes(dirty_bitmap_find(n, "c")), 65536);
    assert_true(dirty_bitmap_find(n, "a")->enabled && !dirty_bitmap_find(n, "c")->enabled);
    drop_disk(&d, n, file);
}

static void does_everything(struct bench *b)
{
    struct memdisk d = {0};
    struct node *file, *n = make_disk(b, &d, &file);
    must_transact(b, "[" EVERYTHING "]");
    for (unsigned round = 0; round < 2; round++) {
        const struct dirty_bitmap *x = dirty_bitmap_find(n, "a"), *y = dirty_bitmap_find(n, "d"),
                                  *z = dirty_bitmap_find(n, "c");
        assert_int_equal(dirty_bitmap_bytes(x), 131072);
        assert_int_equal(dirty_bitmap_bytes(y), 131072);
        assert_int_equal(dirty_bitmap_bytes(z), 0);
        assert_null(dirty_bitmap_find(n, "b"));
        assert_true(!x->enabled && y->enabled && y->persistent && z->enabled);
        node_unref(n);
        n = open_disk(b);
    }
    drop_disk(&d, n, file);
}

/* What bits the bitmap has; -1: it is not there or says that it cannot be trusted. */
static int64_t claims(struct node *n, const char *name)
{
    const struct dirty_bitmap *x = dirty_bitmap_find(n, name);
    return !x || x->inconsistent ? -1 : (int64_t)dirty_bitmap_bytes(x);
}

/* One command whose at-th write or flush fails. Returns whether there was one. */
static bool one_fault(struct bench *b, const char *act, unsigned at, bool and_all_after)
{
    struct memdisk d = {0};
    struct node *file, *n = make_disk(b, &d, &file);
    g_autofree char *list = g_strdup_printf("[%s]", act);
    g_autofree char *before = state_of(n);
    CLEANUP_ERR struct err e = ERR_INIT;
    d.fail_in = at;
    d.fail_on = and_all_after;
    int rc = transact(b, list, &e);
    bool failed = d.failed;
    d.fail_in = 0;
    d.fail_on = false;
    if (rc < 0) {
        assert_true(failed);
        g_autofree char *after = state_of(n);
        if (!strstr(after, "1@")) { /* nothing is inconsistent; a new one that cannot be removed again stays */
            assert_true(g_str_has_prefix(after, before));
            assert_true(strlen(after) == strlen(before) || and_all_after);
        }
        /* What it claimed is still claimed, now and when the image is opened the next time. */
        assert_true(claims(n, "a") == -1 || claims(n, "a") >= 65536);
        node_unref(n);
        n = open_disk(b);
        assert_true(claims(n, "a") == -1 || claims(n, "a") >= 65536);
        assert_true(claims(n, "c") == -1 || claims(n, "c") >= 65536);
    }
    drop_disk(&d, n, file);
    return failed;
}

static void faults(struct bench *b)
{
    static const char *const acts[] = {
        ACT("clear", "'name': 'a'"),
        ACT("merge", "'target': 'a', 'bitmaps': ['b', 'c']"),
        ACT("disable", "'name': 'a'"),
        ACT("enable", "'name': 'c'"),
        ACT("remove", "'name': 'a'"),
        ACT("add", "'name': 'd', 'persistent': true"),
        EVERYTHING,
    };
    for (size_t i = 0; i < G_N_ELEMENTS(acts); i++) {
        unsigned at = 1;
        while (one_fault(b, acts[i], at, false)) {
            assert_true(one_fault(b, acts[i], at, true));
            at++;
        }
        assert_true(at > 1);
    }
}

#define IN_BENCH(fn)                                                                                                   \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        bench_run(fn);                                                                                                 \
    }
IN_BENCH(order_of_steps)
IN_BENCH(takes_everything_back)
IN_BENCH(does_everything)
IN_BENCH(faults)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_steps),
        cmocka_unit_test(test_takes_everything_back),
        cmocka_unit_test(test_does_everything),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
