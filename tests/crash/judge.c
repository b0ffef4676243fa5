/* SPDX-License-Identifier: BSD-2-Clause */
#include "judge.h"

#include "base/cleanup.h"
#include "block/dirty.h"
#include "block/snapshot.h"

#include <sys/wait.h>

enum { PIECE = 256 }; /* bytes that are compared at once */

/* One crash being judged. */
struct verdict {
    struct world *w;
    struct memdisk *images;
    unsigned at;
    const char *what;
    const struct mark *last;      /* the last that had ended: must have lasted */
    const struct mark *running;   /* the step under way; NULL: none */
    unsigned first_put, end_put;  /* the writes that have begun since the last */
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
        g_file_set_contents(keep, (const char *)v->images[0].data, (gssize)v->images[0].size, NULL);
    }
    fail_msg("%s", text);
    abort(); /* cmocka has jumped away */
}

static void find_marks(const struct world *w, unsigned at, const struct mark **last, const struct mark **running)
{
    for (unsigned i = 0; i < w->marks->len; i++) {
        const struct mark *m = &g_array_index(w->marks, struct mark, i);
        if (m->end <= at) {
            *last = m;
        } else if (m->begin < at && !*running) {
            *running = m;
        }
    }
}

static void find_puts(struct verdict *v)
{
    const GArray *puts = v->w->puts; /* in the order in which they began */
    while (v->end_put < puts->len && g_array_index(puts, struct put, v->end_put).begin <= v->at) {
        v->first_put += g_array_index(puts, struct put, v->end_put).begin < v->last->end;
        v->end_put++;
    }
}

uint64_t judge_epoch(void *world, unsigned at)
{
    const struct mark *last = NULL, *running = NULL;
    find_marks(world, at, &last, &running);
    return (uint64_t)last->end << 32 | (running ? running->end : 0);
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
    for (unsigned i = v->first_put; i < v->end_put; i++) {
        const struct put *p = &g_array_index(v->w->puts, struct put, i);
        if (off >= p->off && off - p->off < p->len && (p->data[off - p->off] == byte || (p->or_zero && !byte))) {
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
    if (v->w->faulty && byte == (off < before->size ? before->data[off] : 0)) {
        return true; /* nothing later was flushed */
    }
    if (v->w->faulty && off >= v->w->kept && is_cut(v->w, off, byte)) {
        return true;
    }
    /* a snapshot being applied shows in the contents alone; what a shrinking image loses may be gone already */
    bool shrinking = after && after->size < v->is->size && off >= after->size;
    return shrinking && is_cut(v->w, off, byte);
}

static void judge_bytes(const struct verdict *v, const uint8_t *got, const char *view)
{
    uint64_t size = v->is->size;
    if (v->running && v->running->after->size == size && !memcmp(got, v->running->after->data, size)) {
        return;
    }
    for (uint64_t at = 0, end; at < size; at = end) {
        end = MIN(size, at + PIECE);
        if (!memcmp(got + at, v->is->data + at, end - at)) {
            continue;
        }
        for (uint64_t i = at; i < end; i++) {
            if (got[i] != v->is->data[i] && !differs_rightly(v, i, got[i])) {
                wrong(v, "byte %#" G_GINT64_MODIFIER "x%s is %02x, should be %02x", i, view, got[i], v->is->data[i]);
            }
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
    for (uint64_t at = 0; at < size; at += b->granularity) {
        bool same_bytes = !memcmp(got + at, before->data + at, MIN(b->granularity, size - at));
        bool cleared = after && !dirty_in(after, at / b->granularity);
        if (!same_bytes && !cleared && !bitmap_test(b->bits, at / b->granularity)) {
            wrong(v, "something at %#" G_GINT64_MODIFIER "x was written but is not in the bitmap", at);
        }
    }
    for (unsigned i = 0; i < bitmap_bits(b->bits); i++) {
        if (dirty_in(before, i) && (!after || dirty_in(after, i)) && !bitmap_test(b->bits, i)) {
            wrong(v, "granule %u is not in the bitmap any more", i);
        }
    }
}

/* Of a raw external data file, whatever it is short of is zeroes. */
static void judge_data_file(const struct verdict *v)
{
    const struct memdisk *d = &v->images[1];
    CLEANUP_FREE uint8_t *got = g_malloc0(v->is->size + 1);
    memcpy(got, d->data, MIN(d->size, v->is->size));
    judge_bytes(v, got, " of the data file");
}

/* What it holds, which is as it should be. */
static uint8_t *judge_contents(const struct verdict *v)
{
    uint64_t size = v->is->size;
    uint8_t *got = g_malloc(size + 1);
    if (edge_read_buf(v->ed, 0, size, got) < 0) {
        wrong(v, "cannot be read");
    }
    judge_bytes(v, got, "");
    judge_bitmap(v, got);
    if (v->w->g->raw_data_file) {
        judge_data_file(v);
    }
    return got;
}

static void judge_vm(const struct verdict *v, struct node *n, const char *name)
{
    CLEANUP_FREE uint8_t *got = g_malloc0(VM_SIZE), *want = g_malloc(VM_SIZE);
    snap_vm(name, want);
    if (node_vmstate_read(n, 0, VM_SIZE, got) < 0 || memcmp(got, want, VM_SIZE)) {
        wrong(v, "snapshot '%s' does not hold the machine's state", name);
    }
}

static void judge_snapshots(const struct verdict *v)
{
    for (unsigned i = 0; i < v->is->snaps->len; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        const struct snap *m = g_ptr_array_index(v->is->snaps, i);
        struct node *n = world_open(v->w, "crashed", ", 'read-only': true");
        struct snapshot *s = node_snapshot_find(n, NULL, m->name);
        if (!s || node_snapshot_show(n, s->id, &e) < 0) {
            wrong(v, "snapshot '%s': %s", m->name, s ? err_text(&e) : "not there");
        }
        struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
        CLEANUP_FREE uint8_t *got = g_malloc0(m->size + 1);
        if (n->size != m->size || edge_read_buf(ed, 0, m->size, got) < 0 || memcmp(got, m->data, m->size)) {
            wrong(v, "snapshot '%s' does not hold what it was made of", m->name);
        }
        if (m->vm) {
            judge_vm(v, n, m->name);
        }
        edge_close(ed);
        node_unref(n);
        snapshot_free(s);
    }
}

/* --- the peer's tool ---------------------------------------------------------------------------------------------- */

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

static const char *save(const struct verdict *v, const char *name, const void *data, uint64_t size)
{
    const char *path = bench_path(v->w->b, name);
    assert_true(g_file_set_contents(path, data, (gssize)size, NULL));
    return path;
}

/* Its options for the image, which is in files now; g_free. */
static char *peer_options(const struct verdict *v)
{
    const struct geometry *g = v->w->g;
    GString *s = g_string_new(NULL);
    g_string_printf(s, "driver=%s,file.driver=file,file.filename=%s", g->format,
                    save(v, "peer.img", v->images[0].data, v->images[0].size));
    if (g->encrypted) {
        g_string_append(s,
                        strcmp(g->format, "luks") ? ",encrypt.key-secret=" BENCH_SECRET : ",key-secret=" BENCH_SECRET);
    }
    if (g->data_file) {
        g_string_append_printf(s, ",data-file.driver=file,data-file.filename=%s",
                               save(v, "peer.data", v->images[1].data, v->images[1].size));
    }
    if (g->backed) {
        g_string_append_printf(s, ",backing.driver=raw,backing.file.driver=file,backing.file.filename=%s",
                               save(v, "below.img", v->w->below.data, v->w->below.size));
    }
    return g_string_free(s, FALSE);
}

#define PEER_SECRET "--object secret,id=" BENCH_SECRET ",data=" BENCH_PASSWORD " --image-opts"

/* Before we open it ourselves, which may repair it. Its options if it is to be asked again, else NULL. Leaks (3) are no
 * harm, and formats without a check (63) have nothing to say. */
static char *peer_checks(const struct verdict *v)
{
    if (!v->w->peer_every || v->w->judged % v->w->peer_every || v->w->g->ours) {
        return NULL;
    }
    char *opts = peer_options(v);
    const char *out = bench_path(v->w->b, "peer.txt");
    int rc = run("qemu-img check %s " PEER_SECRET " '%s' >'%s' 2>&1", v->w->g->lazy ? "-r all" : "", opts, out);
    if (rc != 0 && rc != 3 && rc != 63) {
        run("head -20 '%s' >&2", out);
        wrong(v, "qemu-img check returns %d", rc);
    }
    v->w->asked++;
    return opts;
}

/* It reads what we have read. */
static void peer_reads(const struct verdict *v, const char *opts, const uint8_t *got)
{
    const char *ours = save(v, "got.img", got, v->is->size), *out = bench_path(v->w->b, "peer.txt");
    int rc = run("qemu-img compare " PEER_SECRET " '%s' driver=raw,file.driver=file,file.filename=%s >'%s' 2>&1", opts,
                 ours, out);
    if (rc != 0) {
        run("head -20 '%s' >&2", out);
        wrong(v, "qemu-img reads something else");
    }
}

/* --- the verdict -------------------------------------------------------------------------------------------------- */

static void repair_leaks(const struct verdict *v)
{
    struct check_result r;
    check(v, CHECK_FIX_LEAKS, &r);
    check(v, 0, &r);
    if (r.leaks) {
        wrong(v, "%u leaks stay after their repair", (unsigned)r.leaks);
    }
    g_free(judge_contents(v));
}

static void open_crashed(struct verdict *v)
{
    v->n = world_open(v->w, "crashed", ", 'discard': 'unmap'");
    v->ed = rw_edge(v->n);
}

static void close_crashed(struct verdict *v)
{
    edge_close(v->ed);
    node_unref(v->n);
}

/* After the crash life goes on: requests succeed, and leave no damage either. */
static void works_on(struct verdict *v, uint8_t *want)
{
    uint64_t size = v->is->size, len = MIN(size, 9000);
    CLEANUP_FREE uint8_t *got = g_malloc(size + 1);
    struct check_result r;
    for (uint64_t i = 0, off; i < 4; i++) {
        off = (v->w->judged * 7919 + i * 50000) % (size - len + 1);
        memset(want + off, i == 2 ? 0 : 'a' + (int)i, len);
        int rc = i == 2 ? edge_zero(v->ed, off, len, REQ_MAY_UNMAP) : edge_write_buf(v->ed, off, len, want + off, 0);
        if (rc < 0 || edge_flush(v->ed) < 0) {
            wrong(v, "cannot be written to afterwards: %s", strerror(-rc));
        }
    }
    if (edge_read_buf(v->ed, 0, size, got) < 0 || memcmp(got, want, size)) {
        wrong(v, "does not hold what was written afterwards");
    }
    close_crashed(v);
    open_crashed(v);
    check(v, CHECK_FIX_LEAKS, &r); /* counted, but behind the end of the file: now they are within */
    check(v, 0, &r);
    if (r.leaks || edge_read_buf(v->ed, 0, size, got) < 0 || memcmp(got, want, size)) {
        wrong(v, "is not well after it was written to and opened again");
    }
}

static void judge_image(struct verdict *v)
{
    struct check_result r;
    CLEANUP_FREE char *peer = peer_checks(v);
    struct node *file[2] = {memdisk_open(v->w->b->graph, &v->images[0], "crashed"), NULL};
    if (v->w->g->data_file) {
        file[1] = memdisk_open(v->w->b->graph, &v->images[1], "crashed-data");
    }
    open_crashed(v);
    check(v, 0, &r);
    find_state(v);
    CLEANUP_FREE uint8_t *got = judge_contents(v);
    if (peer) {
        peer_reads(v, peer, got);
    }
    if (r.leaks) {
        repair_leaks(v);
    }
    if (v->w->judged % 8 == 1) {
        works_on(v, got);
    }
    close_crashed(v);
    if (v->is->snaps->len && v->w->judged % 4 == 0) {
        judge_snapshots(v);
    }
    node_unref(file[0]);
    node_unref(file[1]);
}

void judge_crash(void *world, struct memdisk *images, unsigned at, const char *what)
{
    struct verdict v = {.w = world, .images = images, .at = at, .what = what};
    find_marks(v.w, at, &v.last, &v.running);
    find_puts(&v);
    struct mark unmarked = {at, at + 1, v.w->now,
                            "what failed"}; /* it has happened all the same, but promised nothing */
    if (v.w->faulty && !v.running) {
        v.running = &unmarked;
    }
    v.w->judged++;
    judge_image(&v);
}
