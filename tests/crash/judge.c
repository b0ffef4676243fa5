/* SPDX-License-Identifier: BSD-2-Clause */
#include "judge.h"

#include "base/cleanup.h"
#include "block/dirty.h"
#include "block/snapshot.h"

#include <sys/wait.h>

/* One crash being judged. */
struct verdict {
    struct world *w;
    unsigned at;
    const char *what;
    const struct mark *last;      /* the last that had ended: must have lasted */
    const struct mark *running;   /* the step under way; NULL: none */
    const struct model_state *is; /* which of the two it is */
    struct node *n;
    struct edge *ed;
};

static void wrong(const struct verdict *v, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

static void wrong(const struct verdict *v, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    print_error("%s, %s (seed %" G_GUINT64_FORMAT
                "): crash behind entry %u of %u, outstanding writes %s, after '%s'%s%s: %s\n",
                v->w->g->name, v->w->s->name, v->w->seed, v->at, v->w->disk.log->len, v->what, v->last->step,
                v->running ? ", during " : "", v->running ? v->running->step : "", text);
    const char *keep = getenv("STERNA_CRASH_KEEP");
    if (keep) {
        const struct memdisk *d = v->w->disk.data ? &v->w->disk : NULL;
        g_file_set_contents(keep, d ? (const char *)d->data : "", d ? (gssize)d->size : 0, NULL);
    }
    fail_msg("%s", text);
    abort(); /* cmocka has jumped away */
}

static void find_marks(struct verdict *v)
{
    const GArray *marks = v->w->marks;
    for (unsigned i = 0; i < marks->len; i++) {
        const struct mark *m = &g_array_index(marks, struct mark, i);
        if (m->end <= v->at) {
            v->last = m;
        } else if (m->begin < v->at && !v->running) {
            v->running = m;
        }
    }
}

static void check(const struct verdict *v, unsigned fix, struct check_result *r)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    *r = (struct check_result){.text = g_string_new(NULL)};
    if (!v->n->drv->check) {
        g_string_free(r->text, TRUE);
        return;
    }
    int rc = v->n->drv->check(v->n, r, fix, &e);
    if (rc < 0 || r->corruptions || r->check_errors) {
        wrong(v, "check: %s, %u corruptions, %u errors\n%.2000s", rc < 0 ? err_text(&e) : "done",
              (unsigned)r->corruptions, (unsigned)r->check_errors, r->text->str);
    }
    g_string_free(r->text, TRUE);
}

static bool same_names(const struct model_state *s, GPtrArray *found)
{
    if (found->len != s->snaps->len) {
        return false;
    }
    for (unsigned i = 0; i < found->len; i++) {
        const struct snapshot *f = g_ptr_array_index(found, i);
        const struct snap *m = g_ptr_array_index(s->snaps, i);
        if (strcmp(f->name, m->name)) {
            return false;
        }
    }
    return true;
}

static bool fits(const struct verdict *v, const struct model_state *s, GPtrArray *found)
{
    bool bitmap = !s->bitmap || dirty_bitmap_find(v->n, s->bitmap);
    return s->size == v->n->size && (!found || same_names(s, found)) && bitmap;
}

/* Of the states that it may be in, the one that it is in by size, snapshots and bitmaps. */
static void find_state(struct verdict *v)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    GPtrArray *found = v->w->g->snapshots ? node_snapshots(v->n, &e) : NULL;
    if (v->w->g->snapshots && !found) {
        wrong(v, "snapshots: %s", err_text(&e));
    }
    const struct model_state *before = v->last->after, *after = v->running ? v->running->after : NULL;
    v->is = fits(v, before, found) ? before : after && fits(v, after, found) ? after : NULL;
    if (!v->is) {
        wrong(v, "size %" G_GUINT64_FORMAT " and %u snapshots are those of no state", v->n->size,
              found ? found->len : 0);
    }
    if (found) {
        g_ptr_array_unref(found);
    }
}

/* Whether a write that came after the last mark may have left `byte` there. */
static bool put_by(const struct verdict *v, uint64_t off, uint8_t byte)
{
    for (unsigned i = v->w->puts->len; i-- > 0;) {
        const struct put *p = &g_array_index(v->w->puts, struct put, i);
        if (p->begin <= v->at && p->begin >= v->last->end && off >= p->off && off - p->off < p->len &&
            (p->data[off - p->off] == byte || (p->or_zero && !byte))) {
            return true;
        }
    }
    return false;
}

static bool differs_rightly(const struct verdict *v, uint64_t off, uint8_t byte)
{
    const struct model_state *after = v->running ? v->running->after : NULL;
    if (put_by(v, off, byte)) {
        return true;
    }
    const struct model_state *before = v->last->after;
    if (v->w->faulty && off < before->size && byte == before->data[off]) {
        return true; /* nothing later was flushed */
    }
    if (v->w->faulty && off >= v->w->kept && !byte) {
        return true;
    }
    /* a snapshot being applied shows in the contents alone; what a shrinking image loses may be gone already */
    bool shrinking = after && after->size < v->is->size && off >= after->size;
    return shrinking && !byte;
}

static void judge_bytes(const struct verdict *v, const uint8_t *got)
{
    uint64_t size = v->is->size;
    if (v->running && v->running->after->size == size && !memcmp(got, v->running->after->data, size)) {
        return;
    }
    for (uint64_t i = 0; i < size; i++) {
        if (got[i] != v->is->data[i] && !differs_rightly(v, i, got[i])) {
            wrong(v, "byte %#" G_GINT64_MODIFIER "x is %02x, should be %02x", i, got[i], v->is->data[i]);
        }
    }
}

static bool dirty_in(const struct model_state *s, unsigned granule)
{
    return s->bitmap && granule < s->dirty->len && s->dirty->data[granule];
}

/* What was dirty, and has not just been cleared, still is; what was written since is. */
static void judge_bitmap(const struct verdict *v, const uint8_t *got)
{
    const struct model_state *before = v->last->after, *after = v->running ? v->running->after : NULL;
    bool same = before->bitmap && v->is->bitmap && !strcmp(before->bitmap, v->is->bitmap);
    bool stays = same && (!after || (after->bitmap && !strcmp(before->bitmap, after->bitmap)));
    struct dirty_bitmap *b = stays ? dirty_bitmap_find(v->n, v->is->bitmap) : NULL;
    if (!b || (b->inconsistent && v->w->faulty)) {
        return;
    }
    if (b->inconsistent) {
        wrong(v, "the bitmap is inconsistent");
    }
    uint64_t size = MIN(v->is->size, before->size);
    for (uint64_t i = 0; i < size; i++) {
        if (got[i] != before->data[i] && !bitmap_test(b->bits, i / b->granularity)) {
            wrong(v, "byte %#" G_GINT64_MODIFIER "x was written but is not in the bitmap", i);
        }
    }
    for (unsigned i = 0; i < bitmap_bits(b->bits); i++) {
        if (dirty_in(before, i) && (!after || dirty_in(after, i)) && !bitmap_test(b->bits, i)) {
            wrong(v, "granule %u is not in the bitmap any more", i);
        }
    }
}

static void judge_contents(const struct verdict *v)
{
    uint64_t size = v->is->size;
    CLEANUP_FREE uint8_t *got = g_malloc(size + 1);
    if (edge_read_buf(v->ed, 0, size, got) < 0) {
        wrong(v, "cannot be read");
    }
    judge_bytes(v, got);
    judge_bitmap(v, got);
}

static const char *key(const struct verdict *v)
{
    return v->w->g->key ? v->w->g->key : "";
}

static void judge_snapshots(const struct verdict *v)
{
    for (unsigned i = 0; i < v->is->snaps->len; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        const struct snap *m = g_ptr_array_index(v->is->snaps, i);
        struct node *n = must_open(
            v->w->b, jsonf("{'driver': '%s', 'file': 'crashed', 'read-only': true%s}", v->w->g->format, key(v)));
        struct snapshot *s = node_snapshot_find(n, NULL, m->name);
        if (!s || node_snapshot_show(n, s->id, &e) < 0) {
            wrong(v, "snapshot '%s': %s", m->name, s ? err_text(&e) : "not there");
        }
        struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
        CLEANUP_FREE uint8_t *got = g_malloc0(m->size + 1);
        if (n->size != m->size || edge_read_buf(ed, 0, m->size, got) < 0 || memcmp(got, m->data, m->size)) {
            wrong(v, "snapshot '%s' does not hold what it was made of", m->name);
        }
        edge_close(ed);
        node_unref(n);
        snapshot_free(s);
    }
}

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *cmd = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    int rc = system(cmd);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

/* Leaks (3) are no harm. */
static void ask_peer(const struct verdict *v, const struct memdisk *image)
{
    if (!v->w->peer_every || v->w->judged % v->w->peer_every || !strcmp(v->w->g->format, "raw")) {
        return;
    }
    const char *path = bench_path(v->w->b, "peer.img");
    assert_true(g_file_set_contents(path, (const char *)image->data, (gssize)image->size, NULL));
    const char *repair = v->w->g->lazy ? "-r all" : "";
    int rc = v->w->g->key ? run("qemu-img check --object secret,id=" BENCH_SECRET ",data=" BENCH_PASSWORD
                                " --image-opts 'driver=qcow2,file.filename=%s,encrypt.key-secret=" BENCH_SECRET
                                "' >'%s.txt' 2>&1",
                                path, path)
                          : run("qemu-img check %s -f %s '%s' >'%s.txt' 2>&1", repair, v->w->g->format, path, path);
    if (rc != 0 && rc != 3) {
        run("head -20 '%s.txt' >&2", path);
        wrong(v, "qemu-img check returns %d", rc);
    }
    v->w->asked++;
}

static void open_crashed(struct verdict *v)
{
    v->n =
        must_open(v->w->b, jsonf("{'driver': '%s', 'file': 'crashed', 'discard': 'unmap'%s}", v->w->g->format, key(v)));
    v->ed = rw_edge(v->n);
}

void judge_crash(void *world, struct memdisk *image, unsigned at, const char *what)
{
    struct verdict v = {.w = world, .at = at, .what = what};
    struct check_result r;
    find_marks(&v);
    struct mark unmarked = {at, at + 1, v.w->now,
                            "what failed"}; /* it has happened all the same, but promised nothing */
    if (v.w->faulty && !v.running) {
        v.running = &unmarked;
    }
    v.w->judged++;
    ask_peer(&v, image);
    struct node *file = memdisk_open(v.w->b->graph, image, "crashed");
    open_crashed(&v);
    check(&v, 0, &r);
    find_state(&v);
    judge_contents(&v);
    if (r.leaks) {
        check(&v, CHECK_FIX_LEAKS, &r);
        check(&v, 0, &r);
        if (r.leaks) {
            wrong(&v, "%u leaks stay after their repair", (unsigned)r.leaks);
        }
        judge_contents(&v);
    }
    edge_close(v.ed);
    node_unref(v.n);
    if (v.is->snaps->len && v.w->judged % 4 == 0) {
        judge_snapshots(&v);
    }
    node_unref(file);
}
