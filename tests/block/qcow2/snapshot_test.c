/* SPDX-License-Identifier: BSD-2-Clause */
/* Internal snapshots against models: random requests, snapshots and sizes on every geometry; VM state; limits. */
#include "qsupport.h"

#include "base/cleanup.h"
#include "block/dirty.h"
#include "block/snapshot.h"

#include <unistd.h>

enum { SIZE = 2 * 1024 * 1024 + 512, MAX_SIZE = 3 * 1024 * 1024, ROUNDS = 3, STEPS = 60, MAX_SNAPS = 4 };

struct kept {
    char *name;
    uint64_t size;
    uint8_t *data;
};

struct history {
    struct model m;
    bool resizes;
    GArray *snaps; /* struct kept, in the image's order */
    unsigned made;
};

static struct kept *kept_at(struct history *h, unsigned i)
{
    return &g_array_index(h->snaps, struct kept, i);
}

static void kept_free(struct kept *k)
{
    g_free(k->name);
    g_free(k->data);
}

static int make(struct node *n, const char *name, uint64_t vm_size, struct err *e)
{
    struct snapshot s = {.id = g_strdup(""),
                         .name = g_strdup(name),
                         .date_sec = 1234567890,
                         .date_nsec = 5,
                         .vm_clock_nsec = UINT64_C(3661000000007),
                         .icount = UINT64_MAX,
                         .vm_state_size = vm_size};
    int rc = node_snapshot_create(n, &s, e);
    g_free(s.id);
    g_free(s.name);
    return rc;
}

static void must_make(struct node *n, const char *name, uint64_t vm_size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (make(n, name, vm_size, &e) < 0) {
        fail_msg("snapshot '%s': %s", name, err_text(&e));
    }
}

static void with(struct node *n, const char *name, int (*fn)(struct node *n, const char *id, struct err *e))
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct snapshot *s = node_snapshot_find(n, NULL, name);
    assert_non_null(s);
    if (fn(n, s->id, &e) < 0) {
        fail_msg("snapshot '%s': %s", name, err_text(&e));
    }
    snapshot_free(s);
}

/* --- random --------------------------------------------------------------------------------------------------------
 */

static void set_size(struct model *m, uint64_t size)
{
    if (size > m->size) {
        memset(m->want + m->size, 0, size - m->size);
    }
    m->size = size;
}

static void step_resize(struct history *h)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    uint64_t size = MAX_SIZE / 2 + rnd(&h->m.seed) % (MAX_SIZE / 2) / 512 * 512;
    if (edge_truncate(h->m.ed, size, true, PREALLOC_OFF, &e) < 0) {
        fail_msg("resize: %s", err_text(&e));
    }
    set_size(&h->m, size);
}

static void step_make(struct history *h)
{
    struct kept k = {g_strdup_printf("s%u", h->made++), h->m.size, g_memdup2(h->m.want, h->m.size)};
    must_make(h->m.n, k.name, 0);
    g_array_append_val(h->snaps, k);
}

static void step_apply(struct history *h, struct kept *k)
{
    with(h->m.n, k->name, node_snapshot_apply);
    h->m.size = k->size;
    memcpy(h->m.want, k->data, k->size);
    assert_int_equal(h->m.n->size, k->size);
}

static void step_delete(struct history *h, unsigned i)
{
    with(h->m.n, kept_at(h, i)->name, node_snapshot_delete);
    kept_free(kept_at(h, i));
    g_array_remove_index(h->snaps, i);
}

static void step(struct history *h)
{
    unsigned what = rnd(&h->m.seed) % 20, n = h->snaps->len, i = n ? rnd(&h->m.seed) % n : 0;
    if (what < 3 && n < MAX_SNAPS) {
        step_make(h);
    } else if (what < 4 && n) {
        step_apply(h, kept_at(h, i));
    } else if (what < 6 && n) {
        step_delete(h, i);
    } else if (what < 7 && h->resizes) {
        step_resize(h);
    } else {
        model_step(&h->m);
        return;
    }
    invariants_hold(h->m.n);
    check_clean(h->m.n, true);
}

/* The list is right, and each shows what it was made of. */
static void verify_snapshots(struct history *h, const char *path)
{
    for (unsigned i = 0; i < h->snaps->len; i++) {
        struct kept *k = kept_at(h, i);
        struct node *n = open_image(h->m.b, path, ", 'read-only': true");
        CLEANUP_FREE uint8_t *got = g_malloc(k->size + 1);
        g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
        assert_int_equal(list->len, h->snaps->len);
        const struct snapshot *s = g_ptr_array_index(list, i);
        assert_string_equal(s->name, k->name);
        assert_true(s->disk_size == k->size && s->date_sec == 1234567890 && s->date_nsec == 5 && !s->vm_state_size);
        assert_true(s->vm_clock_nsec == UINT64_C(3661000000007) && s->icount == UINT64_MAX);
        with(n, k->name, node_snapshot_show);
        struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
        assert_int_equal(n->size, k->size);
        assert_int_equal(edge_read_buf(ed, 0, k->size, got), 0);
        assert_memory_equal(got, k->data, k->size);
        edge_close(ed);
        node_unref(n);
    }
}

static void run_geometry(struct bench *b, const struct geometry *g, uint64_t seed)
{
    struct history h = {.m = {.size = SIZE, .seed = seed, .want = calloc(1, MAX_SIZE)},
                        .resizes = !strstr(g->opts, "v2"),
                        .snaps = g_array_new(FALSE, FALSE, sizeof(struct kept))};
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "image")), *below = NULL;
    if (g->backed) {
        uint64_t n = SIZE - 700000;
        below = g_strdup(bench_path(b, "base"));
        for (uint64_t i = 0; i < n; i++) {
            h.m.want[i] = 1 + i * 7 % 251;
        }
        assert_true(g_file_set_contents(below, (char *)h.m.want, n, NULL));
    }
    create_image(b, path, SIZE, g, below, "");
    for (int round = 0; round < ROUNDS; round++) {
        const char *more = (const char *[]){"", ", 'l2-cache-entry-size': 512, 'l2-cache-size': 2048",
                                            ", 'overlap-check': 'all', 'pass-discard-other': true"}[round];
        model_open(&h.m, b, path, more);
        for (int i = 0; i < STEPS; i++) {
            step(&h);
        }
        check_clean(h.m.n, true);
        model_verify(&h.m);
        model_close(&h.m);
        outside_check(path, false);
        verify_snapshots(&h, path);
    }
    for (unsigned i = 0; i < h.snaps->len; i++) {
        kept_free(kept_at(&h, i));
    }
    g_array_free(h.snaps, TRUE);
    free(h.m.want);
    unlink(path);
}

static void all_geometries(struct bench *b)
{
    const char *seed = getenv("STERNA_TEST_SEED");
    for (const struct geometry *g = geometries; g->name; g++) {
        if (!strstr(g->opts, "'refcount-bits': 1") && !strstr(g->opts, "'refcount-bits': 2")) {
            print_message("%s\n", g->name);
            run_geometry(b, g, seed ? strtoull(seed, NULL, 0) : 40 + (uint64_t)(g - geometries));
        }
    }
}

/* --- counters that are full --------------------------------------------------------------------------------------- */

static void counter_width(struct bench *b, int bits, unsigned fits)
{
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "narrow"));
    CLEANUP_FREE char *opts = g_strdup_printf("'cluster-size': 4096, 'refcount-bits': %d", bits);
    struct geometry g = {"narrow", opts, false};
    create_image(b, path, 1 << 20, &g, NULL, "");
    struct node *n = open_image(b, path, "");
    struct edge *ed = rw_edge(n);
    must_make(n, "empty", 0); /* shares nothing */
    assert_int_equal(edge_write_buf(ed, 5000, 50000, memset(g_alloca(50000), 7, 50000), 0), 0);
    for (unsigned i = 0; i < fits; i++) {
        must_make(n, "full", 0);
    }
    uint64_t size = edge_size(n->file);
    for (int i = 0; i < 2; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        assert_int_equal(make(n, "one too many", 0, &e), -EINVAL);
        check_clean(n, false);
    }
    assert_true(edge_size(n->file) <= size + (1 << 20));
    assert_null(node_snapshot_find(n, NULL, "one too many"));
    uint8_t one = 9;
    assert_int_equal(edge_write_buf(ed, 6000, 1, &one, 0), 0);
    if (fits) {
        with(n, "full", node_snapshot_apply);
        assert_int_equal(edge_read_buf(ed, 6000, 1, &one), 0);
        assert_int_equal(one, 7);
    }
    edge_close(ed);
    node_unref(n);
    outside_check(path, false);
}

static void full_counters(struct bench *b)
{
    counter_width(b, 1, 0);
    counter_width(b, 2, 2);
}

/* --- VM state ------------------------------------------------------------------------------------------------------
 */

static void fill(uint8_t *buf, uint64_t len, uint64_t seed)
{
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = 1 + (seed + i * 131 / 7) % 255;
    }
}

static void vm_state_of(struct bench *b, const char *opts, bool backed)
{
    enum { VM = 300000 };
    struct geometry g = {"vm", opts, backed};
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "vm"));
    CLEANUP_FREE char *below = g_strdup(bench_file(b, "below", 8 << 20, 0x11)); /* longer than the disk */
    CLEANUP_FREE uint8_t *vm = g_malloc0(VM), *got = g_malloc(VM);
    create_image(b, path, 1 << 20, &g, backed ? below : NULL, "");
    struct node *n = open_image(b, path, "");
    struct edge *ed = rw_edge(n);
    assert_int_equal(node_vmstate_read(n, 0, VM, got), 0);
    assert_true(buf_is_zero(got, VM));
    uint64_t seed = 3;
    for (int i = 0; i < 12; i++) { /* in pieces, some over others */
        uint64_t off = rnd(&seed) % (VM - 1000), len = 1 + rnd(&seed) % MIN(60000, VM - off);
        fill(vm + off, len, seed);
        assert_int_equal(node_vmstate_write(n, off, len, vm + off), 0);
    }
    invariants_hold(n);
    must_make(n, "running", VM);
    assert_int_equal(node_vmstate_read(n, 0, VM, got), 0);
    assert_true(buf_is_zero(got, VM)); /* the snapshot has it now */
    assert_int_equal(node_vmstate_write(n, 1000, 100, memset(g_alloca(100), 5, 100)), 0);
    assert_int_equal(edge_write_buf(ed, 1000, 5000, vm, 0), 0);
    with(n, "running", node_snapshot_apply);
    assert_int_equal(node_vmstate_read(n, 0, VM, got), 0);
    assert_memory_equal(got, vm, VM);
    assert_int_equal(node_vmstate_write(n, 777, 100, memset(g_alloca(100), 5, 100)), 0); /* not the snapshot's */
    struct snapshot *s = node_snapshot_find(n, "1", "running");
    assert_true(s->vm_state_size == VM);
    snapshot_free(s);
    check_clean(n, true);
    if (!strstr(opts, "v2")) { /* what the disk gains is not the state of a machine */
        assert_int_equal(edge_truncate(ed, 6 << 20, true, PREALLOC_OFF, NULL), 0);
        for (uint64_t at = 1 << 20; at < 6 << 20; at += VM) {
            uint64_t len = MIN(VM, (6 << 20) - at);
            assert_int_equal(edge_read_buf(ed, at, len, got), 0);
            assert_true(buf_is_zero(got, len));
        }
    }
    with(n, "running", node_snapshot_apply);
    assert_true(n->size == 1 << 20);
    assert_int_equal(node_vmstate_read(n, 0, VM, got), 0);
    assert_memory_equal(got, vm, VM);
    must_make(n, "disk alone", 0);
    with(n, "running", node_snapshot_delete);
    with(n, "disk alone", node_snapshot_delete);
    check_clean(n, true);
    edge_close(ed);
    node_unref(n);
    outside_check(path, false);
}

static void vm_state(struct bench *b)
{
    vm_state_of(b, "'cluster-size': 65536", false);
    vm_state_of(b, "'cluster-size': 512", true);
    vm_state_of(b, "'cluster-size': 16384, 'extended-l2': true", true);
    vm_state_of(b, "'cluster-size': 4096, 'version': 'v2'", true);
    vm_state_of(b, "'cluster-size': 1024, 'lazy-refcounts': true, 'refcount-bits': 64", false);
}

/* --- VM state of a snapshot that is taken already ------------------------------------------------------------------
 */

enum { STATE = 700000 };

static struct vmstate *must_begin(struct node *n, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct vmstate *v;
    struct snapshot s = {.id = (char *)"", .name = (char *)name, .icount = UINT64_MAX};
    if (vmstate_create(n, &s, &v, &e) < 0 || vmstate_begin(v, UINT64_C(3661000000007), &e) < 0) {
        fail_msg("snapshot '%s': %s", name, err_text(&e));
    }
    return v;
}

/* In pieces, some over others, while the disk changes. */
static void write_state(struct vmstate *v, struct edge *ed, uint8_t *want, uint64_t seed)
{
    for (int i = 0; i < 20; i++) {
        uint64_t off = rnd(&seed) % (STATE - 1000), len = 1 + rnd(&seed) % MIN(150000, STATE - off);
        off = i % 3 ? off : off & ~UINT64_C(65535);
        fill(want + off, len, seed);
        assert_int_equal(vmstate_write(v, off, len, want + off), 0);
        assert_int_equal(edge_write_buf(ed, off, MIN(len, 70000), want + off, 0), 0);
    }
}

static void check_state(struct node *n, const char *name, const uint8_t *want)
{
    CLEANUP_FREE uint8_t *got = g_malloc(STATE);
    struct snapshot *s = node_snapshot_find(n, NULL, name);
    struct vmstate *v;
    assert_non_null(s);
    assert_int_equal(s->vm_state_size, STATE);
    assert_int_equal(s->vm_clock_nsec, UINT64_C(3661000000007));
    assert_int_equal(vmstate_open(n, s->id, &v, NULL), 0);
    assert_int_equal(node_snapshot_delete(n, s->id, NULL), -EBUSY);
    assert_int_equal(vmstate_read(v, 0, STATE, got), 0);
    assert_memory_equal(got, want, STATE);
    assert_int_equal(vmstate_read(v, 12345, 300000, got), 0);
    assert_memory_equal(got, want + 12345, 300000);
    struct vmstate_direct *d = vmstate_direct_open(v, STATE);
    assert_non_null(d);
    assert_int_equal(vmstate_direct_read(d, 0, STATE, got), 0);
    assert_memory_equal(got, want, STATE);
    assert_int_equal(vmstate_direct_read(d, 70001, 1000, got), 0);
    assert_memory_equal(got, want + 70001, 1000);
    assert_int_equal(vmstate_direct_read(d, STATE - 10, 20, got), -EIO);
    vmstate_direct_close(d);
    vmstate_destroy(v);
    snapshot_free(s);
}

/* What is on the disk when a process is killed now; whoever opens it next gives back what nobody has. */
static void check_killed(struct bench *b, const char *path, unsigned snapshots, const char *opts)
{
    CLEANUP_FREE char *killed = g_strdup(bench_path(b, "killed"));
    bool lazy = strstr(opts, "lazy"), repaired = !strstr(opts, "v2");
    assert_int_equal(shell("cp '%s' '%s'", path, killed), 0);
    if (!lazy) { /* its counters may say anything until then */
        outside_check(killed, true);
    }
    struct node *n = open_image(b, killed, "");
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    assert_int_equal(list->len, snapshots);
    check_clean(n, !repaired);
    node_unref(n);
}

static void outside_uses(const char *path)
{
    if (have_qemu_img()) {
        assert_int_equal(shell("qemu-img snapshot -l '%s' | grep -q 'beside.* 684 KiB .*01:01:01.000'", path), 0);
        assert_int_equal(shell("qemu-img snapshot -a beside '%s' && qemu-img snapshot -c theirs '%s' && "
                               "qemu-img snapshot -d beside '%s'",
                               path, path, path),
                         0);
        outside_check(path, false);
    }
}

static void state_of(struct bench *b, const char *opts, bool backed)
{
    struct geometry g = {"state", opts, backed};
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "state"));
    CLEANUP_FREE char *below = g_strdup(bench_file(b, "below", 8 << 20, 0x11));
    CLEANUP_FREE uint8_t *vm = g_malloc0(STATE), *then = g_malloc(1 << 20), *got = g_malloc(1 << 20);
    bool v3 = !strstr(opts, "v2");
    create_image(b, path, 1 << 20, &g, backed ? below : NULL, "");
    struct node *n = open_image(b, path, "");
    struct edge *ed = rw_edge(n);
    memset(then, 0x21, 1 << 20);
    assert_int_equal(edge_write_buf(ed, 0, 600000, then, 0), 0);
    assert_int_equal(edge_read_buf(ed, 0, 1 << 20, then), 0);
    struct vmstate *v = must_begin(n, "beside"), *w;
    write_state(v, ed, vm, 3);
    assert_null(node_snapshot_find(n, NULL, "beside"));
    assert_int_equal(node_check_no_snapshots(n, NULL), -EBUSY);
    assert_int_equal(make(n, "beside", 0, NULL), -EBUSY);
    if (!v3) {
        assert_int_equal(edge_truncate(ed, 2 << 20, true, PREALLOC_OFF, NULL), -ENOTSUP);
    }
    assert_int_equal(edge_flush(ed), 0);
    check_killed(b, path, 0, opts);
    invariants_hold(n);
    assert_int_equal(vmstate_finish(v, STATE, NULL), 0);
    vmstate_destroy(v);
    check_killed(b, path, 1, opts);
    check_state(n, "beside", vm);
    w = must_begin(n, "given up");
    assert_int_equal(vmstate_write(w, 0, STATE, vm), 0);
    vmstate_destroy(w);
    with(n, "beside", node_snapshot_apply);
    check_state(n, "beside", vm);
    assert_int_equal(edge_read_buf(ed, 0, 1 << 20, got), 0);
    assert_memory_equal(got, then, 1 << 20);
    assert_int_equal(node_vmstate_read(n, 0, STATE, got), 0); /* as others read it */
    assert_memory_equal(got, vm, STATE);
    assert_int_equal(edge_write_buf(ed, 0, 300000, vm, 0), 0);
    w = must_begin(n, "again"); /* what was applied is not in it */
    assert_int_equal(vmstate_write(w, 5, 70000, vm), 0);
    assert_int_equal(vmstate_finish(w, 70005, NULL), 0);
    vmstate_destroy(w);
    with(n, "again", node_snapshot_delete);
    check_state(n, "beside", vm);
    check_clean(n, true);
    edge_close(ed);
    node_unref(n);
    outside_check(path, false);
    outside_uses(path);
}

static void states(struct bench *b)
{
    state_of(b, "'cluster-size': 65536", false);
    state_of(b, "'cluster-size': 512", true);
    state_of(b, "'cluster-size': 16384, 'extended-l2': true", true);
    state_of(b, "'cluster-size': 4096, 'version': 'v2'", true);
    state_of(b, "'cluster-size': 1024, 'lazy-refcounts': true, 'refcount-bits': 64", false);
    state_of(b, "'cluster-size': 2097152", false);
}

/* --- around it -----------------------------------------------------------------------------------------------------
 */

static void refused(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "image")), *data = g_strdup(bench_path(b, "data"));
    CLEANUP_FREE char *opts = g_strdup_printf("'size': 1048576, 'data-file': '%s'", data);
    assert_int_equal(try_create(b, path, opts, &e), 0);
    struct node *n = open_image(b, path, "");
    assert_int_equal(make(n, "x", 0, &e), -ENOTSUP);
    assert_int_equal(node_vmstate_write(n, 0, 10, "0123456789"), -ENOTSUP);
    assert_int_equal(node_snapshot_apply(n, "1", &e), -ENOTSUP);
    node_unref(n);
    assert_int_equal(try_create(b, path, "'size': 1048576", &e), 0);
    n = open_image(b, path, "");
    must_make(n, "x", 0);
    assert_int_equal(node_snapshot_apply(n, "2", &e), -ENOENT);
    assert_int_equal(node_snapshot_delete(n, "2", &e), -ENOENT);
    assert_int_equal(node_snapshot_show(n, "1", &e), -EINVAL); /* writable */
    struct snapshot twice = {.id = g_strdup("1"), .name = (char *)"y"};
    assert_int_equal(node_snapshot_create(n, &twice, &e), -EEXIST);
    g_free(twice.id);
    node_unref(n);
    n = open_image(b, path, ", 'read-only': true");
    assert_int_equal(make(n, "y", 0, &e), -EACCES);
    assert_int_equal(node_vmstate_write(n, 0, 10, "0123456789"), -EACCES);
    node_unref(n);
    n = must_open(b, jsonf("{'driver': 'null-co', 'size': 65536}"));
    assert_false(node_has_snapshots(n));
    assert_int_equal(make(n, "y", 0, &e), -ENOTSUP);
    assert_null(node_snapshots(n, &e));
    node_unref(n);
}

/* Through what stands above the image; what bitmaps record has changed from end to end. */
static void through_filters(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "image"));
    assert_int_equal(try_create(b, path, "'size': 1048576", &e), 0);
    struct node *n =
        must_open(b, jsonf("{'driver': 'raw', 'file': {'driver': 'qcow2', 'file': {'driver': 'file', 'filename': "
                           "'%s'}}}",
                           path));
    struct edge *ed = rw_edge(n);
    struct dirty_bitmap *bitmap;
    uint8_t buf[1000] = {1};
    assert_true(node_has_snapshots(n));
    must_make(n, "1st", 0);
    assert_int_equal(edge_write_buf(ed, 700, sizeof(buf), buf, 0), 0);
    assert_int_equal(edge_truncate(ed, 2 << 20, true, PREALLOC_OFF, NULL), 0);
    assert_int_equal(dirty_bitmap_create(n, "b", 65536, &bitmap, &e), 0);
    with(n, "1st", node_snapshot_apply);
    assert_int_equal(n->size, 1 << 20);
    assert_int_equal(dirty_bitmap_bytes(bitmap), 1 << 20);
    assert_int_equal(edge_read_buf(ed, 700, sizeof(buf), buf), 0);
    assert_true(buf_is_zero(buf, sizeof(buf)));
    CLEANUP_JSON struct json_object *info = node_image_info(n, false, &e);
    struct json_object *list;
    assert_true(json_object_object_get_ex(info, "snapshots", &list) && json_object_array_length(list) == 1);
    dirty_bitmap_destroy(bitmap);
    edge_close(ed);
    node_unref(n);
}

/* Clusters that are discarded stay where they are. */
static void discard_no_unref(struct bench *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "image"));
    CLEANUP_FREE uint8_t *buf = g_malloc(1 << 20);
    memset(buf, 9, 1 << 20);
    assert_int_equal(try_create(b, path, "'size': 1048576, 'version': 'v2'", &e), 0);
    assert_non_null(strstr(must_fail(b, jsonf("{'driver': 'qcow2', 'discard-no-unref': true, 'file': {'driver': "
                                              "'file', 'filename': '%s'}}",
                                              path)),
                           "discard-no-unref is only supported since qcow2 version 3"));
    for (int extl2 = 0; extl2 < 2; extl2++) {
        assert_int_equal(try_create(b, path, extl2 ? "'size': 1048576, 'extended-l2': true" : "'size': 1048576", &e),
                         0);
        struct node *n = open_image(b, path, ", 'discard-no-unref': true");
        struct edge *ed = rw_edge(n);
        assert_int_equal(edge_write_buf(ed, 0, 1 << 20, buf, 0), 0);
        struct extent x, y;
        assert_int_equal(node_status(n, true, 128 << 10, 65536, &x), 0);
        assert_int_equal(edge_discard(ed, 64 << 10, 512 << 10), 0);
        assert_int_equal(edge_zero(ed, 640 << 10, 128 << 10, REQ_MAY_UNMAP), 0);
        assert_int_equal(edge_read_buf(ed, 64 << 10, 512 << 10, buf), 0);
        assert_true(buf_is_zero(buf, 512 << 10));
        memset(buf, 7, 65536);
        assert_int_equal(edge_write_buf(ed, 128 << 10, 65536, buf, 0), 0);
        assert_int_equal(node_status(n, true, 128 << 10, 65536, &y), 0);
        assert_int_equal(x.offset, y.offset);
        must_make(n, "shared", 0); /* what a snapshot has is let go */
        assert_int_equal(edge_discard(ed, 0, 1 << 20), 0);
        check_clean(n, true);
        with(n, "shared", node_snapshot_apply);
        assert_int_equal(edge_read_buf(ed, 128 << 10, 65536, buf + 65536), 0);
        assert_memory_equal(buf, buf + 65536, 65536);
        memset(buf, 9, 1 << 20);
        edge_close(ed);
        node_unref(n);
        outside_check(path, false);
    }
}

#define IN_BENCH(fn)                                                                                                   \
    static void test_##fn(void **state)                                                                                \
    {                                                                                                                  \
        bench_run(fn);                                                                                                 \
    }
IN_BENCH(all_geometries)
IN_BENCH(full_counters)
IN_BENCH(vm_state)
IN_BENCH(states)
IN_BENCH(refused)
IN_BENCH(through_filters)
IN_BENCH(discard_no_unref)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_geometries),   cmocka_unit_test(test_full_counters),
        cmocka_unit_test(test_vm_state),         cmocka_unit_test(test_states),
        cmocka_unit_test(test_refused),          cmocka_unit_test(test_through_filters),
        cmocka_unit_test(test_discard_no_unref),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
