/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Crashes while jobs run: up to three images under one writer, a mirror, stream, commit or backup under way, everything
 * recorded; each crash is replayed (replay.h), and whichever image the machine's manager may start from then must hold
 * what had been flushed. Every sector is full of the number of the write it came with. In some, snapshots with a
 * machine's state are made, given up and deleted beside the job: each is whole or absent.
 *
 * STERNA_TEST_SEED; STERNA_CRASH_MOST: crashes per flush interval; STERNA_CRASH_AT_LEAST: the test fails when there
 * were fewer.
 */
#include "base/cleanup.h"
#include "block/dirty.h"
#include "block/snapshot.h"
#include "job/backup.h"
#include "job/commit.h"
#include "job/copy.h"
#include "job/stream.h"
#include "replay.h"
#include "support.h"

enum { SECTOR = 512, SECTORS = 256, SIZE = SECTORS * SECTOR, BASE = 0, MID = 1, TOP = 2, TARGET = MID };
enum { SAVES = 3, STATE = 20000 };

static const char *const names[REPLAY_DISKS] = {"base", "mid", "top"};

/* What a sector held once. */
struct version {
    unsigned begin, stable; /* length of the log when it was written, and when a flush that covers it had ended */
    uint64_t number;
};

struct scene;
struct scenario {
    const char *name;
    bool chain;    /* base ← mid ← top; else only top, and a target */
    bool switches; /* to `to`, when it is told */
    unsigned to;
    bool bitmap, snapshots, subclusters;
    bool inner; /* a snapshot inside of mid, from before */
    int (*start)(struct scene *s, struct job **out, struct err *e);
};

/* A snapshot of TOP: lengths of the log when its making began and had ended, and when its end began and was over. */
struct save {
    unsigned begin, done, going, gone;
    uint64_t then[SECTORS];
    uint8_t state[STATE];
};

struct scene {
    struct bench *b;
    const struct scenario *how;
    struct jobs *js;
    struct memdisk disk[REPLAY_DISKS], start[REPLAY_DISKS];
    struct node *file[REPLAY_DISKS], *n[REPLAY_DISKS];
    struct edge *guest;
    GArray *history[SECTORS]; /* struct version, oldest first */
    uint64_t seed, number;
    bool writing;
    int writers;
    unsigned ready_at, said_at, done_at; /* lengths of the log */
    uint64_t then[SECTORS];              /* what a backup is of */
    unsigned asked, asks;                /* sectors of the write that has been asked for and not ended */
    struct save save[SAVES];
    uint64_t inner[SECTORS];
    unsigned long found; /* snapshots in crashed images */
};

static unsigned now(const struct scene *s)
{
    return s->disk[0].log->len;
}

static struct version *newest(struct scene *s, unsigned sector)
{
    GArray *h = s->history[sector];
    return &g_array_index(h, struct version, h->len - 1);
}

/* --- the writer --------------------------------------------------------------------------------------------------- */

static void fill(uint8_t *sector, uint64_t number)
{
    for (unsigned i = 0; i < SECTOR; i += 8) {
        memcpy(sector + i, &number, 8);
    }
}

static void guest_write(struct scene *s, unsigned first, unsigned count)
{
    CLEANUP_FREE uint8_t *data = g_malloc(count * SECTOR);
    s->number++;
    for (unsigned i = 0; i < count; i++) {
        struct version v = {now(s), UINT_MAX, s->number};
        g_array_append_val(s->history[first + i], v);
        fill(data + i * SECTOR, s->number);
    }
    s->asked = first;
    s->asks = count;
    assert_int_equal(edge_write_buf(s->guest, first * SECTOR, count * SECTOR, data, 0), 0);
    s->asks = 0;
}

static void guest_flush(struct scene *s)
{
    assert_int_equal(edge_flush(s->guest), 0);
    for (unsigned i = 0; i < SECTORS; i++) {
        for (unsigned k = s->history[i]->len; k-- > 0;) {
            struct version *v = &g_array_index(s->history[i], struct version, k);
            if (v->stable != UINT_MAX) {
                break;
            }
            v->stable = now(s);
        }
    }
}

static void some_writes(struct scene *s, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned n = 1 + (unsigned)(rnd(&s->seed) % 12);
        guest_write(s, (unsigned)(rnd(&s->seed) % (SECTORS - n + 1)), n);
    }
}

static void writer(void *opaque)
{
    struct scene *s = opaque;
    while (s->writing) {
        some_writes(s, 1 + (unsigned)(rnd(&s->seed) % 3));
        if (rnd(&s->seed) % 2) {
            guest_flush(s);
        }
        for (unsigned i = (unsigned)(rnd(&s->seed) % 8); i > 0; i--) {
            co_yield ();
        }
    }
}

/* --- the images --------------------------------------------------------------------------------------------------- */

static struct node *open_over(struct bench *b, unsigned i, const char *file, const char *backing)
{
    CLEANUP_FREE char *below = backing ? g_strdup_printf("'%s'", backing) : g_strdup("null");
    return must_open(b,
                     jsonf("{'driver': 'qcow2', 'node-name': '%s', 'file': '%s', 'backing': %s, 'l2-cache-entry-size': "
                           "512, 'l2-cache-size': 4096}",
                           names[i], file, below));
}

static void make(struct scene *s, unsigned i, const char *below)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *name = g_strdup_printf("%s-file", names[i]);
    CLEANUP_FREE char *backing =
        below ? g_strdup_printf(", 'backing-file': '%s', 'backing-fmt': 'qcow2'", below) : g_strdup("");
    s->file[i] = memdisk_open(s->b->graph, &s->disk[i], name);
    const char *how = s->how->subclusters ? "'cluster-size': 16384, 'extended-l2': true" : "'cluster-size': 4096";
    CLEANUP_JSON struct json_object *o = jsonf("{'file': '%s', 'size': %d, %s%s}", name, SIZE, how, backing);
    if (driver_find("qcow2")->create(s->b->graph, o, &e)) {
        fail_msg("%s", err_text(&e));
    }
    s->n[i] = open_over(s->b, i, name, below);
}

/* Of what `i` shows now; then it is written to again. */
static void take_inner(struct scene *s, unsigned i)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct snapshot x = {.id = g_strdup(""), .name = (char *)"inner", .icount = UINT64_MAX};
    assert_int_equal(node_snapshot_create(s->n[i], &x, &e), 0);
    g_free(x.id);
    for (unsigned k = 0; k < SECTORS; k++) {
        s->inner[k] = newest(s, k)->number;
    }
    some_writes(s, 12);
    guest_flush(s);
}

static void prepare(struct scene *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    for (unsigned i = 0; i < SECTORS; i++) {
        struct version zero = {0, 0, 0};
        s->history[i] = g_array_new(FALSE, FALSE, sizeof(struct version));
        g_array_append_val(s->history[i], zero);
    }
    for (unsigned i = 0; i < REPLAY_DISKS; i++) {
        s->disk[i].max = 64 << 20;
        make(s, i, s->how->chain && i ? names[i - 1] : NULL);
    }
    memdisk_log_start(&s->disk[0]);
    for (unsigned i = 0; i < REPLAY_DISKS; i++) {
        if (s->how->chain || i == TOP) {
            s->guest = rw_edge(s->n[i]);
            some_writes(s, 12);
            guest_flush(s);
            if (s->how->inner && i == MID) {
                take_inner(s, i);
            }
            edge_close(s->guest);
        }
    }
    if (s->how->bitmap) {
        struct bitmap_spec spec = {.name = "map", .has_granularity = true, .granularity = 4096, .persistent = true};
        assert_int_equal(node_bitmap_add(s->n[TOP], &spec, NULL, &e), 0);
    }
    for (unsigned i = 0; i < SECTORS; i++) {
        newest(s, i)->begin = newest(s, i)->stable = 0;
    }
    for (unsigned i = 0; i < REPLAY_DISKS; i++) {
        assert_int_equal(node_flush(s->n[i]), 0);
        memdisk_copy(&s->start[i], &s->disk[i]);
        s->disk[i].delay = 2;
    }
}

/* --- the jobs ----------------------------------------------------------------------------------------------------- */

static int start_mirror(struct scene *s, struct job **out, struct err *e)
{
    struct copy_options o = {.job_id = "j", .source = s->n[TOP], .target = s->n[TARGET], .flags = JOB_MANUAL_DISMISS};
    return copy_create(s->js, &o, out, e);
}

static int start_blocking_mirror(struct scene *s, struct job **out, struct err *e)
{
    struct copy_options o = {.job_id = "j",
                             .source = s->n[TOP],
                             .target = s->n[TARGET],
                             .write_blocking = true,
                             .flags = JOB_MANUAL_DISMISS};
    return copy_create(s->js, &o, out, e);
}

static int start_stream(struct scene *s, struct job **out, struct err *e)
{
    struct stream_options o = {.job_id = "j", .top = s->n[TOP], .flags = JOB_MANUAL_DISMISS};
    return stream_create(s->js, &o, out, e);
}

static int start_stream_to_base(struct scene *s, struct job **out, struct err *e)
{
    struct stream_options o = {
        .job_id = "j", .top = s->n[TOP], .base = s->n[BASE], .backing_file = "base", .flags = JOB_MANUAL_DISMISS};
    return stream_create(s->js, &o, out, e);
}

static int start_commit(struct scene *s, struct job **out, struct err *e)
{
    struct commit_options o = {
        .job_id = "j", .active = s->n[TOP], .top = s->n[TOP], .base = s->n[BASE], .flags = JOB_MANUAL_DISMISS};
    return commit_create(s->js, &o, out, e);
}

static int start_commit_mid(struct scene *s, struct job **out, struct err *e)
{
    struct commit_options o = {.job_id = "j",
                               .active = s->n[TOP],
                               .top = s->n[MID],
                               .base = s->n[BASE],
                               .backing_file = "base",
                               .flags = JOB_MANUAL_DISMISS};
    return commit_create(s->js, &o, out, e);
}

static int start_backup(struct scene *s, struct job **out, struct err *e)
{
    struct backup_options o = {.job_id = "j",
                               .source = s->n[TOP],
                               .target = s->n[TARGET],
                               .sync = BACKUP_INCREMENTAL,
                               .bitmap = dirty_bitmap_find(s->n[TOP], "map"),
                               .flags = JOB_MANUAL_DISMISS | JOB_MANUAL_FINALIZE};
    s->writing = false;
    wait_for(&s->writers);
    guest_flush(s);
    for (unsigned i = 0; i < SECTORS; i++) {
        s->then[i] = newest(s, i)->number;
    }
    int rc = backup_create(s->js, &o, out, e);
    s->writing = true;
    spawn(s->b, writer, s, &s->writers);
    return rc;
}

static const struct scenario scenarios[] = {
    {"mirror", .switches = true, .to = TARGET, .start = start_mirror},
    {"mirror, write-blocking", .switches = true, .to = TARGET, .start = start_blocking_mirror},
    {"stream", .chain = true, .start = start_stream},
    {"stream to a base", .chain = true, .start = start_stream_to_base},
    {"commit", .chain = true, .switches = true, .to = BASE, .start = start_commit},
    {"commit in the middle", .chain = true, .start = start_commit_mid},
    {"commit in the middle over a snapshot", .chain = true, .inner = true, .start = start_commit_mid},
    {"commit in the middle over a snapshot, subclusters", .chain = true, .inner = true, .subclusters = true,
     .start = start_commit_mid},
    {"backup with a bitmap", .bitmap = true, .start = start_backup},
    {"mirror beside snapshots", .switches = true, .to = TARGET, .snapshots = true, .start = start_mirror},
    {"backup beside snapshots", .bitmap = true, .snapshots = true, .start = start_backup},
    {"stream beside snapshots", .chain = true, .snapshots = true, .start = start_stream},
    {"stream to a base beside snapshots", .chain = true, .snapshots = true, .start = start_stream_to_base},
    {"stream beside snapshots, subclusters", .chain = true, .snapshots = true, .subclusters = true,
     .start = start_stream},
    {"commit beside snapshots", .chain = true, .switches = true, .to = BASE, .snapshots = true, .start = start_commit},
};

/* --- snapshots beside them ---------------------------------------------------------------------------------------- */

/* What TOP holds while it is drained: a write that was asked for waits. */
static void see(const struct scene *s, uint64_t *then)
{
    for (unsigned k = 0; k < SECTORS; k++) {
        const GArray *h = s->history[k];
        bool waits = s->asks && k >= s->asked && k < s->asked + s->asks;
        then[k] = g_array_index(h, struct version, h->len - 1 - waits).number;
    }
}

static void save_snapshot(struct scene *s, unsigned i, bool finish)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *name = g_strdup_printf("s%u", i);
    const struct snapshot x = {.id = (char *)"", .name = name, .icount = UINT64_MAX};
    struct save *v = &s->save[i];
    struct vmstate *making;
    v->begin = now(s);
    int rc = vmstate_create(s->n[TOP], &x, &making, &e);
    if (rc == 0) {
        node_drain_begin(s->n[TOP]);
        see(s, v->then);
        rc = vmstate_begin(making, 1, &e);
        node_drain_end(s->n[TOP]);
    }
    for (unsigned k = 0; k < STATE; k++) {
        v->state[k] = (uint8_t)rnd(&s->seed);
    }
    for (unsigned at = 0; rc == 0 && at < STATE; at += 5000) {
        rc = vmstate_write(making, at, MIN(5000, STATE - at), v->state + at);
        co_sleep(20000);
    }
    rc = rc == 0 && finish ? vmstate_finish(making, STATE, &e) : rc;
    if (rc) {
        fail_msg("%s: snapshot %u: %s, %s", s->how->name, i, strerror(-rc), err_text(&e));
    }
    vmstate_destroy(making);
    v->done = finish ? now(s) : UINT_MAX;
    v->going = finish ? UINT_MAX : v->begin;
    v->gone = finish ? UINT_MAX : v->begin;
}

static void delete_snapshot(struct scene *s, unsigned i)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *name = g_strdup_printf("s%u", i);
    struct snapshot *x = node_snapshot_find(s->n[TOP], NULL, name);
    assert_non_null(x);
    s->save[i].going = now(s);
    if (node_snapshot_delete(s->n[TOP], x->id, &e)) {
        fail_msg("%s: %s", s->how->name, err_text(&e));
    }
    s->save[i].gone = now(s);
    snapshot_free(x);
}

static void some_snapshots(struct scene *s)
{
    save_snapshot(s, 0, true);
    save_snapshot(s, 1, false);
    save_snapshot(s, 2, true);
    delete_snapshot(s, 0);
    co_sleep(50000);
    if (s->how->chain && s->how->switches) { /* a commit waits for that */
        delete_snapshot(s, 2);
    }
}

static void wait_until(struct scene *s, struct job *j, enum job_status status)
{
    while (j->status != status) {
        if (j->status == JOB_CONCLUDED) {
            fail_msg("%s: the job has ended: %s", s->how->name, err_text(&j->err));
        }
        co_sleep(20000);
    }
}

static void live(struct scene *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct job *j = NULL;
    s->guest = rw_edge(s->n[TOP]);
    s->writing = true;
    spawn(s->b, writer, s, &s->writers);
    if (s->how->start(s, &j, &e)) {
        fail_msg("%s: %s", s->how->name, err_text(&e));
    }
    job_start(j);
    if (s->how->snapshots) {
        some_snapshots(s);
    }
    if (s->how->switches) {
        wait_until(s, j, JOB_READY);
        s->ready_at = now(s);
        co_sleep(300000);
        s->said_at = now(s);
        struct json_object *ret = NULL;
        assert_int_equal(job_user_complete(j, &ret, &e), 0);
        json_object_put(ret);
    } else if (s->how->bitmap) {
        wait_until(s, j, JOB_PENDING);
        s->said_at = now(s);
        assert_int_equal(job_finalize(j, &e), 0);
    }
    wait_until(s, j, JOB_CONCLUDED);
    assert_int_equal(j->rc, 0);
    s->done_at = now(s);
    co_sleep(300000);
    s->writing = false;
    wait_for(&s->writers);
    assert_int_equal(job_dismiss(j, &e), 0);
}

/* --- the judge ---------------------------------------------------------------------------------------------------- */

struct crash {
    struct scene *s;
    unsigned at;
    const char *what;
    struct memdisk *images;
    struct node *file[REPLAY_DISKS], *n[REPLAY_DISKS];
};

static void wrong(const struct crash *c, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));

static void wrong(const struct crash *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    const struct scene *s = c->s;
    print_error("%s (seed %" G_GUINT64_FORMAT
                "): crash behind entry %u of %u (ready %u, said %u, done %u), outstanding writes %s: %s\n",
                s->how->name, s->seed, c->at, s->disk[0].log->len, s->ready_at, s->said_at, s->done_at, c->what, text);
    exit(1); /* the graph is in disorder */
}

/* Opens image i over what its header names; those below first. */
static struct node *open_crashed(struct crash *c, unsigned i)
{
    if (c->n[i]) {
        return c->n[i];
    }
    CLEANUP_FREE char *file = g_strdup_printf("%s-file", names[i]);
    struct node *alone = open_over(c->s->b, i, file, NULL);
    CLEANUP_FREE char *below = g_strdup(alone->backing_filename);
    struct check_result r = {.text = g_string_new(NULL)};
    int rc = alone->drv->check(alone, &r, 0, NULL);
    if (rc || r.corruptions || r.check_errors) {
        wrong(c, "image '%s' is corrupt: %s", names[i], r.text->str);
    }
    g_string_free(r.text, TRUE);
    node_unref(alone);
    for (unsigned k = 0; below && k < i; k++) {
        if (!strcmp(below, names[k])) {
            open_crashed(c, k);
        }
    }
    c->n[i] = open_over(c->s->b, i, file, below);
    return c->n[i];
}

static bool may_be(const struct scene *s, unsigned sector, unsigned at, uint64_t number)
{
    const GArray *h = s->history[sector];
    for (unsigned k = h->len; k-- > 0;) {
        const struct version *v = &g_array_index(h, struct version, k);
        if (v->begin <= at && v->number == number) {
            return true;
        }
        if (v->stable <= at) {
            return false;
        }
    }
    return false;
}

static void read_numbers(struct crash *c, unsigned i, uint64_t *numbers)
{
    CLEANUP_FREE uint8_t *data = g_malloc(SIZE), *sector = g_malloc(SECTOR);
    struct edge *ed = must_edge(open_crashed(c, i), PERM_READ, PERM_ALL);
    if (edge_read_buf(ed, 0, SIZE, data)) {
        wrong(c, "image '%s' cannot be read", names[i]);
    }
    for (unsigned k = 0; k < SECTORS; k++) {
        memcpy(&numbers[k], data + k * SECTOR, 8);
        fill(sector, numbers[k]);
        if (memcmp(sector, data + k * SECTOR, SECTOR) != 0) {
            wrong(c, "image '%s': sector %u is torn", names[i], k);
        }
    }
    edge_close(ed);
}

static void judge_contents(struct crash *c, unsigned i)
{
    uint64_t numbers[SECTORS];
    read_numbers(c, i, numbers);
    for (unsigned k = 0; k < SECTORS; k++) {
        if (!may_be(c->s, k, c->at, numbers[k])) {
            wrong(c, "image '%s': sector %u is %" G_GUINT64_FORMAT, names[i], k, numbers[k]);
        }
    }
}

/* With what the bitmap says of it, the disk can be made of the backup before. */
static bool bitmap_suffices(struct crash *c, const uint64_t *is, const uint64_t *was)
{
    struct dirty_bitmap *b = dirty_bitmap_find(c->n[TOP], "map");
    if (!b || b->inconsistent) {
        wrong(c, "there is no good bitmap");
    }
    for (unsigned k = 0; k < SECTORS; k++) {
        if (is[k] != was[k] && !bitmap_test(b->bits, k * SECTOR / b->granularity)) {
            return false;
        }
    }
    return true;
}

static void judge_bitmap(struct crash *c)
{
    const struct scene *s = c->s;
    uint64_t is[SECTORS], was[SECTORS], copy[SECTORS];
    read_numbers(c, TOP, is);
    for (unsigned k = 0; k < SECTORS; k++) {
        was[k] = g_array_index(s->history[k], struct version, 0).number;
        for (unsigned v = 0; v < s->history[k]->len; v++) { /* when the bitmap was made */
            const struct version *x = &g_array_index(s->history[k], struct version, v);
            was[k] = x->stable == 0 ? x->number : was[k];
        }
    }
    bool first = bitmap_suffices(c, is, was), second = false;
    if (c->at >= s->said_at) {
        read_numbers(c, TARGET, copy);
        second = bitmap_suffices(c, is, s->then);
        for (unsigned k = 0; k < SECTORS && second; k++) {
            second = s->then[k] == was[k] || copy[k] == s->then[k];
        }
    }
    if (c->at < s->said_at ? !first : c->at >= s->done_at ? !second : !first && !second) {
        wrong(c, "the bitmap claims too little");
    }
}

static void judge_snapshot(struct crash *c, unsigned i)
{
    const struct save *v = &c->s->save[i];
    CLEANUP_FREE char *name = g_strdup_printf("s%u", i);
    CLEANUP_FREE uint8_t *got = g_malloc(STATE);
    struct snapshot *x = node_snapshot_find(c->n[TOP], NULL, name);
    struct vmstate *from;
    uint64_t numbers[SECTORS];
    if (x ? c->at < v->begin || c->at >= v->gone : c->at >= v->done && c->at < v->going) {
        wrong(c, "snapshot %u is %s", i, x ? "there" : "lost");
    }
    if (!x) {
        return;
    }
    if (x->vm_state_size != STATE || vmstate_open(c->n[TOP], x->id, &from, NULL) || vmstate_read(from, 0, STATE, got) ||
        memcmp(got, v->state, STATE) != 0) {
        wrong(c, "snapshot %u has another state", i);
    }
    vmstate_destroy(from);
    c->s->found++;
    if (node_snapshot_apply(c->n[TOP], x->id, NULL)) {
        wrong(c, "snapshot %u cannot be applied", i);
    }
    snapshot_free(x);
    read_numbers(c, TOP, numbers);
    if (memcmp(numbers, v->then, sizeof(numbers)) != 0) {
        wrong(c, "snapshot %u is not of its instant", i);
    }
}

/* The last to be judged: it changes the image. */
static void judge_inner(struct crash *c)
{
    uint64_t numbers[SECTORS];
    struct snapshot *x = node_snapshot_find(c->n[MID], NULL, "inner");
    if (!x || node_snapshot_apply(c->n[MID], x->id, NULL)) {
        wrong(c, "the snapshot inside of '%s' is %s", names[MID], x ? "of no use" : "lost");
    }
    snapshot_free(x);
    read_numbers(c, MID, numbers);
    if (memcmp(numbers, c->s->inner, sizeof(numbers)) != 0) {
        wrong(c, "the snapshot inside of '%s' has changed", names[MID]);
    }
}

static void judge(void *opaque, struct memdisk *images, unsigned at, const char *what)
{
    struct crash c = {opaque, at, what, images};
    const struct scene *s = c.s;
    for (unsigned i = 0; i < REPLAY_DISKS; i++) {
        images[i].max = 64 << 20;
        CLEANUP_FREE char *file = g_strdup_printf("%s-file", names[i]);
        c.file[i] = memdisk_open(s->b->graph, &images[i], file);
    }
    for (unsigned i = 0; i < REPLAY_DISKS; i++) {
        open_crashed(&c, i);
    }
    if (!s->how->switches || at < s->said_at) {
        judge_contents(&c, TOP);
    }
    if (s->how->switches && at >= s->ready_at) {
        judge_contents(&c, s->how->to);
    }
    if (s->how->bitmap) {
        judge_bitmap(&c);
    }
    for (unsigned i = 0; s->how->snapshots && i < SAVES; i++) {
        judge_snapshot(&c, i);
    }
    if (s->how->inner) {
        judge_inner(&c);
    }
    for (unsigned i = REPLAY_DISKS; i-- > 0;) {
        node_unref(c.n[i]);
        node_unref(c.file[i]);
    }
}

/* --- one scenario after the other --------------------------------------------------------------------------------- */

static unsigned long number_of(const char *name, unsigned long otherwise)
{
    const char *s = getenv(name);
    return s ? strtoul(s, NULL, 0) : otherwise;
}

static unsigned long one(struct bench *b, const struct scenario *how)
{
    struct scene s = {.b = b, .how = how, .seed = number_of("STERNA_TEST_SEED", 1)};
    s.js = jobs_create(b->graph);
    prepare(&s);
    for (unsigned i = 1; i < REPLAY_DISKS; i++) {
        memdisk_log_share(&s.disk[i], &s.disk[0], i);
    }
    g_array_set_size(s.disk[0].log, 0);
    live(&s);
    edge_close(s.guest);
    for (unsigned i = REPLAY_DISKS; i-- > 0;) {
        node_unref(s.n[i]);
        node_unref(s.file[i]);
    }
    struct replay r = {.start = s.start,
                       .disks = REPLAY_DISKS,
                       .log = s.disk[0].log,
                       .seed = s.seed,
                       .most = (unsigned)number_of("STERNA_CRASH_MOST", 20)};
    r.most = how->snapshots ? r.most / 4 : r.most; /* they have many flushes */
    replay_run(&r, judge, &s);
    for (unsigned i = 0; i < SECTORS; i++) {
        g_array_free(s.history[i], TRUE);
    }
    for (unsigned i = 0; i < REPLAY_DISKS; i++) {
        memdisk_finish(&s.disk[i]);
        memdisk_finish(&s.start[i]);
    }
    jobs_destroy(s.js);
    assert_true(!how->snapshots || s.found > 50);
    print_message("%s: %lu crashes\n", how->name, r.points);
    return r.points;
}

static void all(struct bench *b)
{
    unsigned long points = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(scenarios); i++) {
        points += one(b, &scenarios[i]);
    }
    assert_true(points >= number_of("STERNA_CRASH_AT_LEAST", 1));
}

static void test_all(void **state)
{
    bench_run(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
