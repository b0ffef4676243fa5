/* SPDX-License-Identifier: BSD-2-Clause */
#include "world.h"

#include "base/cleanup.h"
#include "block/dirty.h"
#include "block/snapshot.h"
#include "judge.h"
#include "memory.h"

/* --- models ------------------------------------------------------------------------------------------------------- */

static void snap_free(void *p)
{
    struct snap *s = p;
    g_free(s->name);
    g_free(s->data);
    g_free(s);
}

static struct snap *snap_new(const char *name, uint64_t size, const uint8_t *data, bool vm)
{
    struct snap *s = g_new0(struct snap, 1);
    *s = (struct snap){g_strdup(name), size, g_memdup2(data, size + 1), vm};
    return s;
}

void snap_vm(const char *name, uint8_t vm[VM_SIZE])
{
    for (unsigned i = 0; i < VM_SIZE; i++) {
        vm[i] = (uint8_t)(1 + (g_str_hash(name) + i / 16) % 255);
    }
}

static struct model_state *state_copy(const struct model_state *from)
{
    struct model_state *s = g_new0(struct model_state, 1);
    s->size = from->size;
    s->data = g_memdup2(from->data, from->size + 1);
    s->snaps = g_ptr_array_new_with_free_func(snap_free);
    for (unsigned i = 0; i < from->snaps->len; i++) {
        const struct snap *x = g_ptr_array_index(from->snaps, i);
        g_ptr_array_add(s->snaps, snap_new(x->name, x->size, x->data, x->vm));
    }
    s->bitmap = g_strdup(from->bitmap);
    s->dirty = g_byte_array_new();
    g_byte_array_append(s->dirty, from->dirty->data, from->dirty->len);
    return s;
}

static void state_free(struct model_state *s)
{
    g_ptr_array_unref(s->snaps);
    g_byte_array_unref(s->dirty);
    g_free(s->bitmap);
    g_free(s->data);
    g_free(s);
}

static void set_size(struct model_state *s, uint64_t size)
{
    s->data = g_realloc(s->data, size + 1);
    if (size > s->size) {
        memset(s->data + s->size, 0, size - s->size);
    }
    s->size = size;
    if (s->bitmap) {
        unsigned old = s->dirty->len, n = (size + BITMAP_GRANULARITY - 1) / BITMAP_GRANULARITY;
        g_byte_array_set_size(s->dirty, n);
        if (n > old) {
            memset(s->dirty->data + old, 0, n - old);
        }
    }
}

static void mark_dirty(struct model_state *s, uint64_t off, uint64_t len)
{
    for (uint64_t i = off / BITMAP_GRANULARITY; s->bitmap && i <= (off + len - 1) / BITMAP_GRANULARITY; i++) {
        s->dirty->data[i] = 1;
    }
}

/* --- recording ---------------------------------------------------------------------------------------------------- */

struct json_object *world_options(const struct world *w, const char *file, const char *more)
{
    CLEANUP_FREE char *data = g_strdup_printf(", 'data-file': '%s-data'", file);
    bool above = driver_find(w->g->format)->takes_backing;
    return jsonf("{'driver': '%s', 'file': '%s'%s%s%s%s}", w->g->format, file, w->g->need ? w->g->need : "",
                 w->g->backed ? ", 'backing': 'below'"
                 : above      ? ", 'backing': null"
                              : "",
                 w->g->data_file ? data : "", more);
}

struct node *world_open(struct world *w, const char *file, const char *more)
{
    return must_open(w->b, world_options(w, file, more));
}

static void open_node(struct world *w)
{
    CLEANUP_FREE char *more = g_strconcat(", 'discard': 'unmap'", w->g->open, NULL);
    w->n = world_open(w, "disk", more);
    w->ed = rw_edge(w->n);
}

static void close_node(struct world *w)
{
    edge_close(w->ed);
    node_unref(w->n);
}

/* The step that began at `begin` has ended, and its result must last. */
static void mark(struct world *w, unsigned begin, const char *step)
{
    struct mark m = {begin, w->disk.log->len, state_copy(w->now), step};
    g_array_append_val(w->marks, m);
}

static void must(struct world *w, int rc, const char *step, const struct err *e)
{
    if (rc < 0) {
        fail_msg("%s, %s: %s: %s", w->g->name, w->s->name, step, e && err_is_set(e) ? err_text(e) : strerror(-rc));
    }
}

bool is_cut(const struct world *w, uint64_t off, uint8_t byte)
{
    return !byte || w->g->grows_by_anything || (off < w->below.size && byte == w->below.data[off]);
}

/* All works while we look; what was to fail then fails later. */
struct pause {
    unsigned disk;
    struct memory_fault memory;
};

static struct pause faults_pause(struct world *w)
{
    struct pause p = {w->disk.fail_in, memory_fails((struct memory_fault){0})};
    w->disk.fail_in = 0;
    return p;
}

static void faults_resume(struct world *w, struct pause p)
{
    w->disk.fail_in = p.disk;
    memory_fails(p.memory);
}

static void look(struct world *w, uint64_t off, uint64_t len, uint8_t *buf)
{
    struct pause pause = faults_pause(w);
    must(w, edge_read_buf(w->ed, off, len, buf), "read", NULL);
    faults_resume(w, pause);
}

/* A step has failed where faults are injected: it has happened, or not, or as far as single bytes tell; the model
 * follows. */
static void reconcile(struct world *w, struct model_state *old, const char *step)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct pause pause = faults_pause(w);
    GPtrArray *found = w->g->snapshots ? node_snapshots(w->n, &e) : NULL;
    bool happened = w->n->size == w->now->size && (!found || found->len == w->now->snaps->len);
    if (found) {
        g_ptr_array_unref(found);
    }
    if (!happened) {
        struct model_state *undone = w->now;
        w->now = state_copy(old);
        state_free(undone);
    }
    assert_int_equal(w->n->size, w->now->size);
    CLEANUP_FREE uint8_t *got = g_malloc(w->now->size + 1);
    must(w, edge_read_buf(w->ed, 0, w->now->size, got), "read after a failure", NULL);
    for (uint64_t i = 0; i < w->now->size; i++) {
        uint8_t was = i < old->size ? old->data[i] : 0;
        if (got[i] != w->now->data[i] && got[i] != was && (i < w->kept || !is_cut(w, i, got[i]))) {
            fail_msg("%s, %s: after the failed '%s' byte %#" G_GINT64_MODIFIER "x is %02x, neither %02x nor %02x",
                     w->g->name, w->s->name, step, i, got[i], was, w->now->data[i]);
        }
    }
    memcpy(w->now->data, got, w->now->size);
    if (old->dirty->len == w->now->dirty->len) { /* what failed need not be dirty */
        memcpy(w->now->dirty->data, old->dirty->data, old->dirty->len);
    }
    faults_resume(w, pause);
}

/* Before a step changes the model. */
static struct model_state *step_begin(struct world *w)
{
    return w->faulty ? state_copy(w->now) : NULL;
}

/* 0 when the step has succeeded. */
static int step_end(struct world *w, struct model_state *old, int rc, const char *step, const struct err *e)
{
    if (rc < 0 && w->faulty) {
        reconcile(w, old, step);
    } else {
        must(w, rc, step, e);
    }
    if (old) {
        state_free(old);
    }
    return rc < 0 ? rc : 0;
}

static struct put *put(struct world *w, uint64_t off, uint64_t len)
{
    struct put p = {w->disk.log->len, off, len, g_malloc0(len), false};
    g_array_append_val(w->puts, p);
    mark_dirty(w->now, off, len);
    return &g_array_index(w->puts, struct put, w->puts->len - 1);
}

struct request {
    struct world *w;
    uint64_t off, len;
    uint8_t *data;
    int rc;
};

static void write_request(void *arg)
{
    struct request *q = arg;
    q->rc = edge_write_buf(q->w->ed, q->off, q->len, q->data, 0);
}

static void prepare(struct world *w, struct request *q, uint64_t off, uint64_t len)
{
    uint64_t x = rnd(&w->seed);
    struct put *p = put(w, off, len);
    for (uint64_t i = 0; i < len; i++) {
        p->data[i] = 1 + (x + i / 16) % 255;
    }
    memcpy(w->now->data + off, p->data, len);
    *q = (struct request){w, off, len, p->data, 0};
}

/* A resize before may have failed. */
static bool within(const struct world *w, uint64_t off, uint64_t *len)
{
    *len = off < w->now->size ? MIN(*len, w->now->size - off) : 0;
    return *len > 0;
}

void step_write(struct world *w, uint64_t off, uint64_t len)
{
    if (!within(w, off, &len)) {
        return;
    }
    struct model_state *old = step_begin(w);
    struct request q;
    prepare(w, &q, off, len);
    write_request(&q);
    step_end(w, old, q.rc, "write", NULL);
}

void step_writes(struct world *w, unsigned count, uint64_t max)
{
    struct model_state *old = step_begin(w);
    struct request q[8];
    int running = 0, rc = 0;
    count = MIN(count, G_N_ELEMENTS(q));
    for (unsigned i = 0; i < count; i++) { /* their ranges do not overlap, but may meet within a cluster */
        uint64_t part = w->now->size / count, first = i * part + (i ? 77 : 0), last = (i + 1) * part + 77;
        uint64_t off = first + rnd(&w->seed) % part, len = 1 + rnd(&w->seed) % max;
        last = MIN(i + 1 < count ? last : w->now->size, w->now->size);
        off = MIN(off, last - 1);
        prepare(w, &q[i], off, MIN(len, last - off));
    }
    for (unsigned i = 0; i < count; i++) {
        spawn(w->b, write_request, &q[i], &running);
    }
    wait_for(&running);
    for (unsigned i = 0; i < count; i++) {
        rc = rc < 0 ? rc : q[i].rc;
    }
    step_end(w, old, rc, "writes", NULL);
}

void step_zero(struct world *w, uint64_t off, uint64_t len, unsigned flags)
{
    if (!within(w, off, &len)) {
        return;
    }
    struct model_state *old = step_begin(w);
    put(w, off, len);
    memset(w->now->data + off, 0, len);
    step_end(w, old, edge_zero(w->ed, off, len, flags), "zero", NULL);
}

void step_discard(struct world *w, uint64_t off, uint64_t len)
{
    if (!within(w, off, &len)) {
        return;
    }
    struct model_state *old = step_begin(w);
    put(w, off, len)->or_zero = true;
    int rc = edge_discard(w->ed, off, len);
    if (rc < 0) { /* what it did do, reconcile finds */
        memset(w->now->data + off, 0, len);
        step_end(w, old, rc, "discard", NULL);
        return;
    }
    struct put *p = &g_array_index(w->puts, struct put, w->puts->len - 1);
    look(w, off, len, p->data);
    memcpy(w->now->data + off, p->data, len);
    step_end(w, old, 0, "discard", NULL);
}

void step_compressed(struct world *w, uint64_t cluster)
{
    struct model_state *old = step_begin(w);
    struct driver_info info = {0};
    w->n->drv->get_info(w->n, &info);
    uint64_t clusters = (w->now->size + info.cluster_size - 1) / info.cluster_size;
    uint64_t off = cluster % clusters * info.cluster_size, len = MIN(info.cluster_size, w->now->size - off);
    struct put *p = put(w, off, len);
    int add = rnd(&w->seed) % 255;
    for (uint64_t i = 0; i < len; i++) {
        p->data[i] = 1 + (add + i % 37) % 255;
    }
    memcpy(w->now->data + off, p->data, len);
    step_end(w, old, edge_write_buf(w->ed, off, len, p->data, REQ_COMPRESSED), "compressed write", NULL);
}

void step_flush(struct world *w)
{
    unsigned begin = w->disk.log->len;
    if (step_end(w, step_begin(w), edge_flush(w->ed), "flush", NULL) == 0) {
        mark(w, begin, "flush");
    }
}

void step_resize(struct world *w, uint64_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    step_flush(w);
    struct model_state *old = step_begin(w);
    unsigned begin = w->disk.log->len;
    uint64_t was = w->now->size;
    set_size(w->now, size);
    int rc = edge_truncate(w->ed, size, true, PREALLOC_OFF, &e);
    rc = rc < 0 ? rc : edge_flush(w->ed);
    w->kept = rc < 0 ? MIN(w->kept, w->g->grows_by_anything ? MIN(was, size) : size) : w->kept;
    if (rc == 0 && w->g->grows_by_anything && size > was) {
        look(w, was, size - was, w->now->data + was);
    }
    if (step_end(w, old, rc, "resize", &e) == 0) {
        mark(w, begin, "resize");
    }
}

static struct snap *find(struct world *w, const char *name, unsigned *at)
{
    for (*at = 0; *at < w->now->snaps->len; ++*at) {
        struct snap *s = g_ptr_array_index(w->now->snaps, *at);
        if (!strcmp(s->name, name)) {
            return s;
        }
    }
    assert_true(w->faulty); /* it could not be made */
    return NULL;
}

/* What is not a matter of single bytes: the model changes at once, the image while `fn` runs. */
static int with_id(struct world *w, const char *name, int (*fn)(struct node *n, const char *id, struct err *e),
                   struct err *e)
{
    struct snapshot *s = node_snapshot_find(w->n, NULL, name);
    assert_non_null(s);
    node_drain_begin(w->n);
    int rc = fn(w->n, s->id, e);
    node_drain_end(w->n);
    snapshot_free(s);
    return rc;
}

static void make_snapshot(struct world *w, const char *name, bool vm)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct model_state *old = step_begin(w);
    unsigned begin = w->disk.log->len;
    CLEANUP_FREE uint8_t *state = g_malloc(VM_SIZE);
    g_ptr_array_add(w->now->snaps, snap_new(name, w->now->size, w->now->data, vm));
    snap_vm(name, state);
    struct snapshot s = {.id = g_strdup(""),
                         .name = g_strdup(name),
                         .date_sec = 1000000,
                         .icount = UINT64_MAX,
                         .vm_state_size = vm ? VM_SIZE : 0};
    int rc = vm ? node_vmstate_write(w->n, 0, VM_SIZE, state) : 0;
    node_drain_begin(w->n);
    rc = rc < 0 ? rc : node_snapshot_create(w->n, &s, &e);
    node_drain_end(w->n);
    g_free(s.id);
    g_free(s.name);
    if (step_end(w, old, rc, "snapshot", &e) == 0) {
        mark(w, begin, "snapshot");
    }
}

void step_snapshot(struct world *w, const char *name)
{
    make_snapshot(w, name, false);
}

void step_snapshot_vm(struct world *w, const char *name)
{
    make_snapshot(w, name, true);
}

void step_replace(struct world *w, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned at, begin = w->disk.log->len;
    const struct snap *s = find(w, name, &at);
    if (!s || !s->vm) {
        return;
    }
    struct model_state *old = step_begin(w);
    CLEANUP_FREE uint8_t *state = g_malloc(VM_SIZE);
    struct snapshot *x = node_snapshot_find(w->n, NULL, name);
    struct vmstate *v = NULL;
    assert_non_null(x);
    snap_vm(name, state);
    int rc = vmstate_replace(w->n, x->id, &v, &e);
    rc = rc < 0 ? rc : vmstate_write(v, 0, VM_SIZE, state);
    rc = rc < 0 ? rc : vmstate_finish(v, VM_SIZE, &e);
    vmstate_destroy(v);
    snapshot_free(x);
    if (step_end(w, old, rc, "replace", &e) == 0) {
        mark(w, begin, "replace");
    }
}

void step_apply(struct world *w, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned at, begin = w->disk.log->len;
    const struct snap *s = find(w, name, &at);
    if (!s) {
        return;
    }
    struct model_state *old = step_begin(w);
    set_size(w->now, s->size);
    memcpy(w->now->data, s->data, s->size);
    mark_dirty(w->now, 0, s->size);
    if (step_end(w, old, with_id(w, name, node_snapshot_apply, &e), "apply", &e) == 0) {
        mark(w, begin, "apply");
    }
}

void step_delete(struct world *w, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned at, begin = w->disk.log->len;
    if (!find(w, name, &at)) {
        return;
    }
    struct model_state *old = step_begin(w);
    g_ptr_array_remove_index(w->now->snaps, at);
    if (step_end(w, old, with_id(w, name, node_snapshot_delete, &e), "delete", &e) == 0) {
        mark(w, begin, "delete");
    }
}

/* Steps of bitmaps last by themselves. One that failed may have happened in part: the model forgets the bitmap. */
static void bitmap_step(struct world *w, int rc, const char *step, unsigned begin, const struct err *e)
{
    if (rc < 0 && w->faulty) {
        g_clear_pointer(&w->now->bitmap, g_free);
        return;
    }
    must(w, rc, step, e);
    mark(w, begin, step);
}

void step_bitmap_add(struct world *w, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned begin = w->disk.log->len;
    struct bitmap_spec spec = {
        .name = name, .has_granularity = true, .granularity = BITMAP_GRANULARITY, .persistent = true};
    int rc = node_bitmap_add(w->n, &spec, NULL, &e);
    if (rc == 0) {
        w->now->bitmap = g_strdup(name);
        g_byte_array_set_size(w->now->dirty, 0);
        g_byte_array_set_size(w->now->dirty, (w->now->size + BITMAP_GRANULARITY - 1) / BITMAP_GRANULARITY);
        memset(w->now->dirty->data, 0, w->now->dirty->len);
    }
    bitmap_step(w, rc, "bitmap", begin, &e);
}

void step_bitmap_remove(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned begin = w->disk.log->len;
    struct dirty_bitmap *b = w->now->bitmap ? dirty_bitmap_find(w->n, w->now->bitmap) : NULL;
    int rc = b ? node_bitmap_remove(b, &e) : -ENOENT;
    if (rc == 0) {
        g_clear_pointer(&w->now->bitmap, g_free);
    }
    bitmap_step(w, rc, "remove bitmap", begin, &e);
}

void step_bitmap_clear(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned begin = w->disk.log->len;
    struct dirty_bitmap *b = w->now->bitmap ? dirty_bitmap_find(w->n, w->now->bitmap) : NULL;
    int rc = b ? dirty_bitmap_reset(b, &e) : -ENOENT;
    if (rc == 0) {
        memset(w->now->dirty->data, 0, w->now->dirty->len);
    }
    bitmap_step(w, rc, "clear bitmap", begin, &e);
}

void step_reopen(struct world *w)
{
    if (w->faulty) {
        return; /* a close cannot say that it failed */
    }
    unsigned begin = w->disk.log->len;
    close_node(w);
    open_node(w);
    mark(w, begin, "reopen");
}

void step_amend(struct world *w, const char *options, bool loses_bitmaps)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    step_flush(w);
    CLEANUP_JSON struct json_object *o = jsonf("{%s}", options);
    struct model_state *old = step_begin(w);
    unsigned begin = w->disk.log->len;
    if (loses_bitmaps) {
        g_clear_pointer(&w->now->bitmap, g_free);
    }
    int rc = w->n->drv->amend(w->n, o, false, NULL, &e);
    rc = rc < 0 ? rc : edge_flush(w->ed); /* it may have been nothing new */
    if (step_end(w, old, rc, options, &e) == 0) {
        mark(w, begin, "amend");
    }
}

/* --- the image as a whole ----------------------------------------------------------------------------------------- */

/* After one that failed the node may give nothing any more: an image that is opened again must. */
static void whole_end(struct world *w, struct model_state *old, int rc, const char *step, const struct err *e)
{
    if (rc < 0 && w->faulty) {
        struct pause pause = faults_pause(w);
        close_node(w);
        open_node(w);
        faults_resume(w, pause);
    }
    step_end(w, old, rc, step, e);
}

void step_repair(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    step_flush(w);
    struct model_state *old = step_begin(w);
    struct check_result r = {.text = g_string_new(NULL)};
    int rc = w->n->drv->check(w->n, &r, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, &e);
    if (rc == 0 && (r.corruptions || r.check_errors)) {
        rc = err_set(&e, EIO, "%s", r.text->str);
    }
    g_string_free(r.text, TRUE);
    whole_end(w, old, rc, "repair", &e);
}

void step_empty(struct world *w)
{
    step_flush(w);
    struct model_state *old = step_begin(w);
    struct put *p = put(w, 0, w->now->size);
    if (w->g->backed) {
        memcpy(p->data, w->below.data, MIN(p->len, w->below.size));
    }
    memcpy(w->now->data, p->data, p->len);
    whole_end(w, old, w->n->drv->make_empty(w->n), "empty", NULL);
}

void step_relink(struct world *w, const char *to)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    step_flush(w);
    struct model_state *old = step_begin(w);
    whole_end(w, old, w->n->drv->change_backing(w->n, to, to ? "raw" : NULL, &e), "relink", &e);
}

/* --- a whole session ---------------------------------------------------------------------------------------------- */

static struct memdisk copy_of(const struct memdisk *from)
{
    struct memdisk d = {0};
    memdisk_copy(&d, from);
    return d;
}

/* Ends within a cluster, and has holes. */
static void make_below(struct world *w)
{
    memdisk_resize(&w->below, WORLD_SIZE - 50000);
    for (uint64_t i = 0; i < w->below.size; i++) {
        w->below.data[i] = i / 10000 % 4 == 2 ? 0 : 1 + i / 13 % 200;
    }
}

void world_files_open(struct world *w)
{
    if (w->g->backed) {
        make_below(w);
        w->file[2] = memdisk_open(w->b->graph, &w->below, "below");
    }
    if (w->g->data_file) {
        w->file[1] = memdisk_open(w->b->graph, &w->data, "disk-data");
        w->data.fails_with = &w->disk;
    }
    w->file[0] = memdisk_open(w->b->graph, &w->disk, "disk");
}

void world_files_close(struct world *w)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(w->file); i++) {
        node_unref(w->file[i]);
    }
    memdisk_finish(&w->disk);
    memdisk_finish(&w->data);
    memdisk_finish(&w->below);
}

int world_make(struct world *w, struct err *e)
{
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': %d%s%s}", WORLD_SIZE,
                                               w->g->data_file ? ", 'data-file': 'disk-data'" : "", w->g->opts);
    return driver_find(w->g->format)->create(w->b->graph, o, e);
}

static void start(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    world_files_open(w);
    must(w, world_make(w, &e), "create", &e);
    w->start[0] = copy_of(&w->disk);
    w->start[1] = copy_of(&w->data);
    memdisk_log_start(&w->disk);
    memdisk_log_share(&w->data, &w->disk, 1);
    open_node(w);
    struct model_state fresh = {
        .size = w->n->size, .data = g_malloc0(w->n->size + 1), .snaps = g_ptr_array_new(), .dirty = g_byte_array_new()};
    must(w, edge_read_buf(w->ed, 0, fresh.size, fresh.data), "read", NULL);
    w->now = state_copy(&fresh);
    g_free(fresh.data);
    g_ptr_array_unref(fresh.snaps);
    g_byte_array_unref(fresh.dirty);
    mark(w, 0, "start");
}

static void world_init(struct world *w)
{
    w->disk.delay = w->data.delay = 3;
    w->kept = UINT64_MAX;
    w->marks = g_array_new(FALSE, FALSE, sizeof(struct mark));
    w->puts = g_array_new(FALSE, FALSE, sizeof(struct put));
    start(w);
}

/* The end of a session. */
static void stop(struct world *w)
{
    close_node(w);
    node_unref(w->file[0]);
    node_unref(w->file[1]);
}

static void world_finish(struct world *w)
{
    node_unref(w->file[2]); /* was below the crashed ones too */
    for (unsigned i = 0; i < w->marks->len; i++) {
        state_free(g_array_index(w->marks, struct mark, i).after);
    }
    for (unsigned i = 0; i < w->puts->len; i++) {
        g_free(g_array_index(w->puts, struct put, i).data);
    }
    g_array_free(w->marks, TRUE);
    g_array_free(w->puts, TRUE);
    state_free(w->now);
    memdisk_finish(&w->disk);
    memdisk_finish(&w->data);
    memdisk_finish(&w->below);
    memdisk_finish(&w->start[0]);
    memdisk_finish(&w->start[1]);
}

/* As it was left, without a crash. */
static void judge_end(struct world *w)
{
    struct memdisk images[2] = {copy_of(&w->disk), copy_of(&w->data)};
    judge_crash(w, images, w->disk.log->len, "none");
    memdisk_finish(&images[0]);
    memdisk_finish(&images[1]);
}

unsigned long world_crashes(struct world *w, unsigned most)
{
    uint64_t seed = w->seed;
    world_init(w);
    w->s->script(w);
    stop(w);
    mark(w, w->disk.log->len, "end");
    struct replay r = {.start = w->start,
                       .disks = w->g->data_file ? 2 : 1,
                       .log = w->disk.log,
                       .seed = seed + 1,
                       .most = most,
                       .epoch = judge_epoch};
    replay_run(&r, judge_crash, w);
    world_finish(w);
    return r.points;
}

bool world_fault(struct world *w, const struct fault *f, unsigned n)
{
    w->faulty = true;
    unsigned before = memory_failed();
    world_init(w);
    w->disk.fail_kinds = f->kinds;
    w->disk.fail_rc = f->rc;
    w->disk.fail_on = f->lasting;
    if (f->kinds & FAIL_MEMORY) {
        memory_fails((struct memory_fault){n, f->lasting});
    } else {
        w->disk.fail_in = n;
    }
    w->s->script(w);
    bool fired = w->disk.failed > 0 || memory_failed() > before;
    if (!f->lasting) { /* it works on as if nothing had been */
        faults_pause(w);
        step_writes(w, 3, 9000);
        step_flush(w);
    }
    stop(w);
    faults_pause(w);
    judge_end(w);
    world_finish(w);
    return fired;
}

static void verify(struct world *w)
{
    CLEANUP_FREE uint8_t *got = g_malloc(w->now->size + 1);
    assert_int_equal(w->n->size, w->now->size);
    must(w, edge_read_buf(w->ed, 0, w->now->size, got), "read", NULL);
    for (uint64_t i = 0; i < w->now->size; i++) {
        if (got[i] != w->now->data[i]) {
            fail_msg("%s: byte %#" G_GINT64_MODIFIER "x is %02x, should be %02x", w->g->name, i, got[i],
                     w->now->data[i]);
        }
    }
}

void world_random(struct world *w, unsigned steps)
{
    world_init(w);
    for (unsigned i = 1; i <= steps; i++) {
        random_step(w);
        if (i % 7 == 0) {
            verify(w);
        }
    }
    stop(w);
    mark(w, w->disk.log->len, "end");
    w->judged = MAX(4u, 4 * w->peer_every) - 1; /* the peer and the snapshots' contents have their turn */
    judge_end(w);
    world_finish(w);
}
