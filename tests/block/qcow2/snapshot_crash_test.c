/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes and faults while snapshots with VM state are made, applied and deleted, on images whose refcounts lie in many
 * blocks and whose refcount table has to grow. After a crash the image is as before the step or as after it, and works
 * on: every snapshot can be applied, and deleted.
 */
#include "qsupport.h"

#include "base/cleanup.h"
#include "block/snapshot.h"
#include "memdisk.h"

enum { SIZE = 512 * 1024, VM = 9000, CRASHES = 80, MAX_FAULTS = 400 };

struct kept {
    char name[8];
    uint8_t *disk, *vm;
};

/* What the image holds; buffers are shared and freed with the session. */
struct state {
    uint8_t *disk, *vm;
    struct kept snaps[8];
    unsigned n;
};

struct step {
    unsigned begin, end; /* of the log */
    bool writes;         /* the contents may be anything in between */
    struct state after;
};

struct session {
    struct bench *b;
    const char *opts;
    struct memdisk disk, start;
    struct node *file, *n;
    struct edge *ed;
    struct state now;
    GArray *steps;
    GPtrArray *buffers;
    uint64_t seed;
    struct vmstate *making; /* a snapshot with the machine's state, of: */
    struct kept made;
};

static uint8_t *buffer(struct session *s, const uint8_t *from, uint64_t len)
{
    uint8_t *b = from ? g_memdup2(from, len) : g_malloc0(len);
    g_ptr_array_add(s->buffers, b);
    return b;
}

static struct node *open_on(struct bench *b, const char *file)
{
    return must_open(b, jsonf("{'driver': 'qcow2', 'file': '%s', 'discard': 'unmap', 'l2-cache-entry-size': 512, "
                              "'l2-cache-size': 8192, 'overlap-check': 'all'}",
                              file));
}

static void session_start(struct session *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    s->buffers = g_ptr_array_new_with_free_func(g_free);
    s->steps = g_array_new(FALSE, FALSE, sizeof(struct step));
    s->now = (struct state){.disk = buffer(s, NULL, SIZE), .vm = buffer(s, NULL, VM)};
    s->file = memdisk_open(s->b->graph, &s->disk, "disk");
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': %d, %s}", SIZE, s->opts);
    if (driver_find("qcow2")->create(s->b->graph, o, &e) < 0) {
        fail_msg("create: %s", err_text(&e));
    }
    s->start = (struct memdisk){.data = g_memdup2(s->disk.data, s->disk.size + 1), .size = s->disk.size};
    memdisk_log_start(&s->disk);
    s->n = open_on(s->b, "disk");
    s->ed = rw_edge(s->n);
}

static void session_finish(struct session *s)
{
    edge_close(s->ed);
    node_unref(s->n);
    node_unref(s->file);
    memdisk_finish(&s->disk);
    memdisk_finish(&s->start);
    g_array_free(s->steps, TRUE);
    g_ptr_array_unref(s->buffers);
}

static void record(struct session *s, unsigned begin, bool writes)
{
    struct step x = {begin, s->disk.log->len, writes, s->now};
    g_array_append_val(s->steps, x);
}

/* --- steps; 0 or what went wrong -----------------------------------------------------------------------------------
 */

static int write_some(struct session *s, unsigned count, uint64_t max)
{
    unsigned begin = s->disk.log->len;
    int rc = 0;
    s->now.disk = buffer(s, s->now.disk, SIZE);
    for (unsigned i = 0; i < count && rc == 0; i++) {
        uint64_t off = rnd(&s->seed) % SIZE, len = 1 + rnd(&s->seed) % max;
        bool compressed = i % 4 == 3;
        off = compressed ? off & ~UINT64_C(16383) : off;
        len = MIN(compressed ? 16384 : len, SIZE - off);
        memset(s->now.disk + off, 1 + rnd(&s->seed) % 255, len);
        rc = edge_write_buf(s->ed, off, len, s->now.disk + off, compressed ? REQ_COMPRESSED : 0);
    }
    rc = rc < 0 ? rc : edge_flush(s->ed);
    record(s, begin, true);
    return rc;
}

static int make(struct session *s, const char *name)
{
    unsigned begin = s->disk.log->len;
    uint8_t *vm = buffer(s, NULL, VM);
    memset(vm, 1 + rnd(&s->seed) % 255, VM);
    int rc = node_vmstate_write(s->n, 0, VM, vm);
    record(s, begin, true); /* VM state that no snapshot has is nobody's */
    begin = s->disk.log->len;
    struct snapshot info = {.id = g_strdup(""), .name = (char *)name, .vm_state_size = VM, .icount = UINT64_MAX};
    rc = rc < 0 ? rc : node_snapshot_create(s->n, &info, NULL);
    g_free(info.id);
    struct kept *k = &s->now.snaps[s->now.n++];
    *k = (struct kept){.disk = s->now.disk, .vm = vm};
    g_strlcpy(k->name, name, sizeof(k->name));
    s->now.vm = buffer(s, NULL, VM);
    record(s, begin, false);
    return rc;
}

static unsigned find(const struct state *t, const char *name)
{
    unsigned i = 0;
    while (i < t->n && strcmp(t->snaps[i].name, name)) {
        i++;
    }
    return i;
}

static int by_name(struct node *n, const char *name, int (*fn)(struct node *n, const char *id, struct err *e))
{
    struct snapshot *x = node_snapshot_find(n, NULL, name);
    int rc = x ? fn(n, x->id, NULL) : -ENOENT;
    snapshot_free(x);
    return rc;
}

static int apply(struct session *s, const char *name)
{
    unsigned begin = s->disk.log->len;
    int rc = by_name(s->n, name, node_snapshot_apply);
    const struct kept *k = &s->now.snaps[find(&s->now, name)];
    s->now.disk = k->disk;
    s->now.vm = k->vm;
    record(s, begin, false);
    return rc;
}

static int delete (struct session *s, const char *name)
{
    unsigned begin = s->disk.log->len, i = find(&s->now, name);
    int rc = by_name(s->n, name, node_snapshot_delete);
    memmove(&s->now.snaps[i], &s->now.snaps[i + 1], (--s->now.n - i) * sizeof(s->now.snaps[0]));
    record(s, begin, false);
    return rc;
}

/* With the machine's state, which is written while the disk changes. */

static int begin(struct session *s, const char *name)
{
    unsigned from = s->disk.log->len;
    struct snapshot info = {.id = (char *)"", .name = (char *)name, .icount = UINT64_MAX};
    int rc = vmstate_create(s->n, &info, &s->making, NULL);
    rc = rc < 0 ? rc : vmstate_begin(s->making, 5, NULL);
    s->made = (struct kept){.disk = s->now.disk, .vm = buffer(s, NULL, VM)};
    g_strlcpy(s->made.name, name, sizeof(s->made.name));
    s->now.vm = buffer(s, NULL, VM);
    record(s, from, false);
    return rc;
}

static int write_state(struct session *s, uint64_t off, uint64_t end)
{
    unsigned from = s->disk.log->len;
    for (uint64_t i = off; i < end; i++) {
        s->made.vm[i] = 1 + rnd(&s->seed) % 255;
    }
    int rc = vmstate_write(s->making, off, end - off, s->made.vm + off);
    record(s, from, false);
    return rc;
}

static int finish(struct session *s)
{
    unsigned from = s->disk.log->len;
    int rc = vmstate_finish(s->making, VM, NULL);
    s->now.snaps[s->now.n++] = s->made;
    vmstate_destroy(take(s->making));
    record(s, from, false);
    return rc;
}

static void give_up(struct session *s)
{
    unsigned from = s->disk.log->len;
    vmstate_destroy(take(s->making));
    record(s, from, false);
}

static int make_beside(struct session *s, const char *name)
{
    unsigned from = s->disk.log->len;
    int rc = begin(s, name);
    rc = rc < 0 ? rc : write_state(s, 0, VM / 3);
    rc = rc < 0 ? rc : write_state(s, VM / 3, VM);
    if (rc == 0) {
        rc = finish(s);
    } else {
        vmstate_destroy(take(s->making));
        s->now.snaps[s->now.n++] = s->made;
    }
    record(s, from, false);
    return rc;
}

/* --- judging -------------------------------------------------------------------------------------------------------
 */

static bool same_list(const struct state *t, const GPtrArray *list)
{
    bool same = list->len == t->n;
    for (unsigned i = 0; same && i < t->n; i++) {
        same = !strcmp(((const struct snapshot *)g_ptr_array_index(list, i))->name, t->snaps[i].name);
    }
    return same;
}

static bool holds(struct node *n, struct edge *ed, const uint8_t *disk, const uint8_t *vm)
{
    CLEANUP_FREE uint8_t *got = g_malloc(SIZE + VM);
    assert_int_equal(n->size, SIZE);
    assert_int_equal(edge_read_buf(ed, 0, SIZE, got), 0);
    assert_int_equal(node_vmstate_read(n, 0, VM, got + SIZE), 0);
    return !memcmp(got, disk, SIZE) && (!vm || !memcmp(got + SIZE, vm, VM));
}

/* `before`, `after`: what it may be. Uses the snapshots up. */
static void judge(struct node *n, const struct state *before, const struct step *running, const char *where)
{
    const struct state *is = before;
    struct edge *ed = rw_edge(n);
    check_clean(n, true);
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    if (!same_list(before, list)) {
        is = running ? &running->after : NULL;
        if (!is || !same_list(is, list)) {
            fail_msg("%s: %u snapshots are not those of a state", where, list->len);
        }
    }
    bool after = running && is == before && !running->writes && same_list(&running->after, list) &&
                 holds(n, ed, running->after.disk, running->after.vm);
    if (!after && !(running && running->writes) && !holds(n, ed, is->disk, NULL)) {
        fail_msg("%s: the disk is not as in any state", where);
    }
    for (unsigned i = 0; i < is->n; i++) {
        assert_int_equal(by_name(n, is->snaps[i].name, node_snapshot_apply), 0);
        if (!holds(n, ed, is->snaps[i].disk, is->snaps[i].vm)) {
            fail_msg("%s: snapshot '%s' is not what was saved", where, is->snaps[i].name);
        }
        check_clean(n, true);
    }
    for (unsigned i = 0; i < is->n; i++) {
        assert_int_equal(by_name(n, is->snaps[i].name, node_snapshot_delete), 0);
        invariants_hold(n);
    }
    struct check_result r = {0};
    assert_int_equal(n->drv->check(n, &r, CHECK_FIX_LEAKS, NULL), 0);
    check_clean(n, false);
    if (is->n && !holds(n, ed, is->snaps[is->n - 1].disk, is->snaps[is->n - 1].vm)) {
        fail_msg("%s: deleting the snapshots changed the disk", where);
    }
    edge_close(ed);
}

static void crash_at(struct session *s, unsigned at)
{
    static const struct state nothing;
    struct memdisk d = {0};
    const struct state *before = &nothing;
    const struct step *running = NULL;
    struct state empty = {.disk = g_ptr_array_index(s->buffers, 0)};
    before = &empty;
    for (unsigned i = 0; i < s->steps->len; i++) {
        const struct step *x = &g_array_index(s->steps, struct step, i);
        if (x->end <= at) {
            before = &x->after;
        } else if (x->begin <= at) {
            running = x;
        }
    }
    memdisk_crash(&d, &s->start, s->disk.log, at, &s->seed);
    struct node *file = memdisk_open(s->b->graph, &d, "crashed"), *n = open_on(s->b, "crashed");
    CLEANUP_FREE char *where = g_strdup_printf("%s, crash behind %u of %u", s->opts, at, s->disk.log->len);
    judge(n, before, running, where);
    node_unref(n);
    node_unref(file);
    memdisk_finish(&d);
}

static void script(struct session *s)
{
    assert_int_equal(make(s, "empty"), 0);
    assert_int_equal(write_some(s, 8, 40000), 0);
    assert_int_equal(make(s, "a"), 0);
    assert_int_equal(write_some(s, 8, 40000), 0);
    assert_int_equal(make(s, "b"), 0);
    assert_int_equal(write_some(s, 4, 90000), 0);
    assert_int_equal(apply(s, "a"), 0);
    assert_int_equal(write_some(s, 4, 5000), 0);
    assert_int_equal(delete (s, "empty"), 0);
    assert_int_equal(make(s, "c"), 0);
    assert_int_equal(make(s, "d"), 0);
    assert_int_equal(begin(s, "e"), 0);
    assert_int_equal(write_state(s, 0, 5000), 0);
    assert_int_equal(write_some(s, 4, 30000), 0);
    assert_int_equal(delete (s, "a"), 0);
    assert_int_equal(write_state(s, 5000, VM), 0);
    assert_int_equal(make(s, "f"), 0);
    assert_int_equal(write_some(s, 4, 30000), 0);
    assert_int_equal(finish(s), 0);
    assert_int_equal(write_some(s, 4, 30000), 0);
    assert_int_equal(begin(s, "g"), 0);
    assert_int_equal(write_state(s, 0, VM), 0);
    assert_int_equal(write_some(s, 4, 30000), 0);
    give_up(s);
    assert_int_equal(apply(s, "e"), 0);
    assert_int_equal(write_some(s, 2, 30000), 0);
    assert_int_equal(apply(s, "b"), 0);
    assert_int_equal(delete (s, "c"), 0);
    assert_int_equal(write_some(s, 4, 5000), 0);
}

static const char *const images[] = {
    "'cluster-size': 512, 'refcount-bits': 64",
    "'cluster-size': 4096",
    "'cluster-size': 1024, 'version': 'v2'",
    "'cluster-size': 2048, 'lazy-refcounts': true, 'refcount-bits': 8",
    "'cluster-size': 16384, 'extended-l2': true, 'refcount-bits': 32",
};

static void crashes(struct bench *b)
{
    const char *seed = getenv("STERNA_TEST_SEED");
    for (unsigned i = 0; i < G_N_ELEMENTS(images); i++) {
        struct session s = {.b = b, .opts = images[i], .seed = seed ? strtoull(seed, NULL, 0) : 5 + i, .disk.delay = 3};
        print_message("%s\n", s.opts);
        session_start(&s);
        script(&s);
        for (int k = 0; k < CRASHES; k++) {
            crash_at(&s, rnd(&s.seed) % (s.disk.log->len + 1));
        }
        session_finish(&s);
    }
}

/* --- faults --------------------------------------------------------------------------------------------------------
 */

/* The n-th request from the last of the steps on fails. False: it needed fewer. */
static bool fault(struct bench *b, unsigned which, unsigned n, unsigned kinds, bool lasting)
{
    struct session s = {.b = b, .opts = images[which % G_N_ELEMENTS(images)], .seed = 9};
    static int (*const ops[])(struct session * s, const char *name) = {make, apply, delete, make_beside};
    static const char *const names[] = {"b", "a", "a", "b"};
    unsigned op = which % G_N_ELEMENTS(ops);
    session_start(&s);
    assert_int_equal(write_some(&s, 5, 40000), 0);
    assert_int_equal(make(&s, "a"), 0);
    assert_int_equal(write_some(&s, 5, 40000), 0);
    struct state before = s.now;
    s.disk.fail_kinds = kinds;
    s.disk.fail_on = lasting;
    s.disk.fail_in = n;
    int rc = ops[op](&s, names[op]);
    bool failed = s.disk.failed;
    s.disk.fail_in = 0;
    s.disk.fail_on = false;
    invariants_hold(s.n);
    struct step last = g_array_index(s.steps, struct step, s.steps->len - 1);
    if (!failed) {
        assert_int_equal(rc, 0);
        before = s.now;
    }
    g_autoptr(GPtrArray) list = node_snapshots(s.n, NULL);
    bool done = same_list(&last.after, list) && holds(s.n, s.ed, last.after.disk, last.after.vm);
    assert_true(rc < 0 || done);
    if (!done) { /* then nothing has happened */
        assert_true(same_list(&before, list) && holds(s.n, s.ed, before.disk, NULL));
    }
    s.now = done ? last.after : before;
    assert_int_equal(write_some(&s, 3, 30000), 0); /* and it works on */
    edge_close(s.ed);
    node_unref(s.n);
    s.n = open_on(b, "disk");
    CLEANUP_FREE char *where = g_strdup_printf("%s, op %u, fault %u (%u)", s.opts, op, n, kinds);
    judge(s.n, &s.now, NULL, where);
    s.ed = NULL;
    session_finish(&s);
    return failed;
}

static void faults(struct bench *b)
{
    static const unsigned kinds[] = {FAIL_READ, FAIL_WRITE | FAIL_GROW, FAIL_FLUSH};
    for (unsigned which = 0; which < 20; which++) {
        for (unsigned k = 0; k < G_N_ELEMENTS(kinds); k++) {
            unsigned step = k == 0 && which % G_N_ELEMENTS(images) == 0 ? 23 : 1; /* many small reads */
            for (unsigned n = 1; n < MAX_FAULTS && fault(b, which, n, kinds[k], n & 1); n += step) {
            }
        }
    }
}

static void test_crashes(void **state)
{
    bench_run(crashes);
}

static void test_faults(void **state)
{
    bench_run(faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_crashes), cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
