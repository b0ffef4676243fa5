/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as what a source says of its jobs and dirty bitmaps: WANT's member up to a zero byte, then payloads, each
 * after its length (4, little-endian), of JOBS or, with BITMAPS in the first byte, of bMAp. Jobs that come are made,
 * go on, and end; bitmaps are put in place, and with KEPT they stay, else nothing of them is left.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/dirty.h"
#include "block/options.h"
#include "job/backup.h"
#include "job/copy.h"
#include "loop/co.h"
#include "move/bitmaps.h"
#include "move/jobs.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BITMAPS = 1, KEPT = 2 };
enum { SIZE = 2 << 20, MOST = 64 << 10, TURNS = 20, TURN_NS = 100000 };

struct world {
    struct vm *vm;
    struct json_object *want;
    const uint8_t *data; /* payloads */
    size_t size;
    unsigned flags;
};

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

/* The next payload; NULL: there is none. */
static GByteArray *next(struct world *w)
{
    uint32_t len = w->size >= 4 ? load_le32(w->data) : UINT32_MAX;
    if (w->size < 4 || !range_ok(4, len, w->size)) {
        return NULL;
    }
    GByteArray *p = g_byte_array_append(g_byte_array_new(), w->data + 4, len);
    w->data += 4 + len;
    w->size -= 4 + len;
    return p;
}

/* --- the disks -----------------------------------------------------------------------------------------------------
 */

static struct node *open_null(struct world *w, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct node *n;
    json_object_object_add(o, "driver", json_object_new_string("null-co"));
    json_object_object_add(o, "node-name", json_object_new_string(name));
    json_object_object_add(o, "size", json_object_new_int(SIZE));
    json_object_object_add(o, "read-zeroes", json_object_new_boolean(true));
    must(node_open(w->vm->graph, o, &n, &e) == 0);
    return n;
}

static void add_bitmap(struct node *n, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct bitmap_spec spec = {.name = name};
    struct dirty_bitmap *b;
    must(node_bitmap_add(n, &spec, &b, &e) == 0);
    dirty_bitmap_set(b, 0, SIZE);
}

/* --- jobs ----------------------------------------------------------------------------------------------------------
 */

static int make_job(void *opaque, const char *id, struct json_object *values, struct err *e)
{
    struct world *w = opaque;
    const char *target = json_get_str(values, "target"), *bitmap = json_get_str(values, "bitmap");
    struct node *from = node_find(w->vm->graph, "d"), *to = target ? node_find(w->vm->graph, target) : NULL;
    struct dirty_bitmap *b = bitmap ? dirty_bitmap_find(from, bitmap) : NULL;
    const struct backup_options back = {
        .job_id = id, .source = from, .target = to, .sync = b ? BACKUP_INCREMENTAL : BACKUP_FULL, .bitmap = b};
    const struct copy_options copy = {
        .job_id = id, .source = from, .target = to, .sync = b ? COPY_INCREMENTAL : COPY_FULL, .bitmap = b};
    struct job *j;
    if (!to) {
        return err_set(e, ENOENT, "no target");
    }
    graph_change_begin(w->vm->graph);
    int rc = g_str_has_suffix(json_get_str(values, "command"), "mirror") ? copy_create(w->vm->jobs, &copy, &j, e)
                                                                         : backup_create(w->vm->jobs, &back, &j, e);
    if (rc == 0) {
        job_start(j);
    }
    graph_change_end(w->vm->graph);
    return rc;
}

static void take_jobs(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *features = json_object_new_object();
    struct jobs_in *in = jobs_in_create(w->vm);
    GByteArray *p;
    int rc = jobs_in_judge(in, w->want, features, &e);
    while (rc == 0 && (p = next(w))) {
        rc = jobs_in_take(in, p, &e);
        g_byte_array_unref(p);
    }
    if (rc == 0) {
        jobs_in_start(in);
    }
    jobs_in_destroy(in);
    for (int i = 0; i < TURNS && jobs_list(w->vm->jobs)->len; i++) {
        co_sleep(TURN_NS);
    }
    jobs_cancel_all(w->vm->jobs);
    must(jobs_list(w->vm->jobs)->len == 0);
}

/* --- bitmaps -------------------------------------------------------------------------------------------------------
 */

static void take_bitmaps(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *features = json_object_new_object();
    struct bitmaps_in *in = bitmaps_in_create(w->vm, NULL);
    GByteArray *p;
    int rc = bitmaps_in_judge(in, w->want, features, &e);
    while (rc == 0 && (p = next(w))) {
        rc = bitmaps_in_add(in, p, &e);
        g_byte_array_unref(p);
    }
    rc = rc < 0 ? rc : bitmaps_in_prepare(in, &e);
    bool stay = rc == 0 && w->flags & KEPT;
    if (stay) {
        bitmaps_in_commit(in);
    }
    bitmaps_in_destroy(in);
    must(stay || !dirty_bitmap_find(node_find(w->vm->graph, "d"), "c"));
}

/* --- all of it -----------------------------------------------------------------------------------------------------
 */

static int one(void *opaque)
{
    struct world *w = opaque;
    static const char *const names[] = {"d", "t", "u"};
    struct node *nodes[G_N_ELEMENTS(names)];
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        nodes[i] = open_null(w, names[i]);
    }
    add_bitmap(nodes[0], "b");
    w->flags &BITMAPS ? take_bitmaps(w) : take_jobs(w);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        node_unref(nodes[i]);
    }
    vm_destroy(w->vm);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = size > 1 && size <= MOST ? memchr(data + 1, 0, size - 1) : NULL;
    if (!end) {
        return 0;
    }
    struct loop *loop = loop_create(LOOP_EPOLL, NULL);
    struct world w = {.vm = vm_create(loop, NULL),
                      .want = json_tokener_parse((const char *)data + 1),
                      .data = end + 1,
                      .size = size - (size_t)(end + 1 - data),
                      .flags = data[0]};
    w.vm->make_job = make_job;
    w.vm->make_up.opaque = &w;
    co_run(loop, one, &w);
    json_object_put(w.want);
    loop_destroy(loop);
    return 0;
}
