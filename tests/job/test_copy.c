/* SPDX-License-Identifier: BSD-2-Clause */
/* Copying and switching under a guest that writes all the time; nothing it was told is written may be missing. */
#include "base/cleanup.h"
#include "block/debug.h"
#include "block/driver.h"
#include "copy_world.h"
#include "job/block_copy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20 };

static struct copy_options options(struct world *w, struct node *target, bool blocking)
{
    return (struct copy_options){
        .job_id = "j",
        .source = w->dev->root->child,
        .target = target,
        .backend = w->dev,
        .write_blocking = blocking,
        .unmap = true,
        .flags = JOB_MANUAL_DISMISS,
    };
}

static struct job *start(struct world *w, const struct copy_options *o)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct job *j = NULL;
    if (copy_create(w->js, o, &j, &e)) {
        fprintf(stderr, "%s\n", err_text(&e));
    } else {
        job_start(j);
    }
    return j;
}

static int begin(struct world *w, double part, bool blocking, struct job **j)
{
    CHECK(world_open(w) == 0 && world_fill(w, part) == 0);
    struct node *target = world_target(w, "target");
    CHECK(target);
    struct copy_options o = options(w, target, blocking);
    *j = start(w, &o);
    node_unref(target);
    CHECK(*j);
    return 0;
}

static int complete(struct job *j)
{
    struct json_object *ret = NULL;
    int rc = job_user_complete(j, &ret, NULL);
    json_object_put(ret);
    return rc;
}

/* --- the bodies -----------------------------------------------------------------------------------------------------
 */

static int mirror_under_load(struct world *w, bool blocking)
{
    struct job *j;
    CHECK(world_open(w) == 0 && world_fill(w, 0.6) == 0);
    struct node *target = world_target(w, "target");
    struct copy_options o = options(w, target, blocking);
    world_write_on(w, 0);
    j = start(w, &o);
    node_unref(target);
    CHECK(j);
    CHECK(world_wait(w, j, JOB_READY) == 0);
    co_sleep(100000000);
    CHECK(w->dev->root->child != node_find(w->graph, "target"));
    CHECK(complete(j) == 0);
    CHECK(complete(j) == 0 || j->status >= JOB_WAITING);
    CHECK(world_wait(w, j, JOB_CONCLUDED) == 0);
    CHECK(j->rc == 0 && w->dev->root->child == node_find(w->graph, "target"));
    /* The source is gone: it was the device's alone. */
    CHECK(!node_find(w->graph, "source"));
    unlink(w->source_file);
    co_sleep(50000000);
    CHECK(world_write_off(w) == 0);
    CHECK(world_verify_device(w) == 0);
    backend_eject(w->dev);
    CHECK(world_verify_file(w, w->target_file) == 0);
    struct json_object *pause;
    CHECK(w->switched && json_object_object_get_ex(w->switched, "pause-ns", &pause));
    fprintf(stderr, "    %llu guest requests, the slowest %.2f ms; pause %.3f ms\n", (unsigned long long)w->writes,
            (double)w->worst_ns / 1e6, (double)json_object_get_int64(pause) / 1e6);
    /* A tenth of a millisecond when the machine is idle; the tests of the whole machine measure it. */
    CHECK(json_object_get_int64(pause) > 0 && json_object_get_int64(pause) < 10000000000);
    /* Once more, after it happened. */
    struct json_object *ret = NULL, *live;
    CHECK(job_user_complete(j, &ret, NULL) == 0 && json_object_object_get_ex(ret, "live", &live));
    CHECK(!strcmp(json_object_get_string(live), "target"));
    json_object_put(ret);
    return 0;
}

static int mirror_background(void *w)
{
    return mirror_under_load(w, false);
}

static int mirror_write_blocking(void *w)
{
    return mirror_under_load(w, true);
}

static int change_mode_at_run_time(void *opaque)
{
    struct world *w = opaque;
    struct job *j;
    CHECK(begin(w, 0.3, false, &j) == 0);
    world_write_on(w, 500);
    CHECK(world_wait(w, j, JOB_READY) == 0);
    CLEANUP_JSON struct json_object *opts = json_tokener_parse("{\"copy-mode\": \"write-blocking\"}");
    CHECK(job_change(j, opts, NULL) == 0);
    bool synced = false;
    for (int i = 0; i < 12000 && !synced; i++) {
        co_sleep(5000000);
        struct json_object *info = job_block_info(j), *v;
        synced = json_object_object_get_ex(info, "actively-synced", &v) && json_object_get_boolean(v);
        json_object_put(info);
    }
    CHECK(synced);
    CHECK(complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    return 0;
}

static int soft_cancel_gives_a_copy(void *opaque)
{
    struct world *w = opaque;
    struct job *j;
    CHECK(begin(w, 0.3, false, &j) == 0);
    world_write_on(w, 200);
    CHECK(world_wait(w, j, JOB_READY) == 0);
    CHECK(world_write_off(w) == 0);
    CHECK(job_user_cancel(j, false, NULL) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0);
    CHECK(j->rc == 0 && world_saw(w, "BLOCK_JOB_COMPLETED") && !world_saw(w, "BLOCK_JOB_SWITCHED"));
    CHECK(w->dev->root->child == node_find(w->graph, "source"));
    CHECK(world_verify_device(w) == 0 && world_verify_file(w, w->target_file) == 0);
    return 0;
}

static int cancel_in_mid_copy(void *opaque)
{
    struct world *w = opaque;
    for (int at = 0; at < 4; at++) {
        struct node *target = world_target(w, "target");
        CHECK(target);
        struct copy_options o = options(w, target, at % 2);
        o.speed = at < 2 ? 4 * MIB : 0;
        o.flags = 0;
        world_write_on(w, 100);
        struct job *j = start(w, &o);
        node_unref(target);
        CHECK(j);
        job_ref(j);
        co_sleep(at * 20000000ull);
        if (at == 3) {
            CHECK(world_wait(w, j, JOB_READY) == 0);
        }
        CHECK(job_user_cancel(j, true, NULL) == 0);
        CHECK(world_wait(w, j, JOB_NULL) == 0 && j->rc == -ECANCELED);
        job_unref(j);
        CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
        CHECK(w->dev->root->child == node_find(w->graph, "source") && !node_find(w->graph, "target"));
    }
    return 0;
}

static int cancel_each_stage(void *opaque)
{
    struct world *w = opaque;
    CHECK(world_open(w) == 0 && world_fill(w, 0.5) == 0);
    return cancel_in_mid_copy(w);
}

static int pause_resume_speed(void *opaque)
{
    struct world *w = opaque;
    CHECK(world_open(w) == 0 && world_fill(w, 1) == 0);
    struct node *target = world_target(w, "target");
    struct copy_options o = options(w, target, false);
    o.speed = 8 * MIB;
    o.buf_size = MIB;
    struct job *j = start(w, &o);
    node_unref(target);
    CHECK(j);
    uint64_t begin = loop_now_ns();
    for (int i = 0; i < 60000 && j->progress_done < 2 * MIB; i++) {
        co_sleep(1000000);
    }
    /* As fast as was said: what may go at once, and so much a second. */
    uint64_t allowed = 4 * MIB + (loop_now_ns() - begin) / 1000000 * 8 * MIB / 1000;
    CHECK(j->progress_done >= 2 * MIB && j->progress_done <= allowed);
    CHECK(job_user_pause(j, NULL) == 0 && world_wait(w, j, JOB_PAUSED) == 0);
    uint64_t done = j->progress_done;
    co_sleep(50000000);
    CHECK(j->progress_done == done);
    CHECK(job_user_resume(j, NULL) == 0 && job_set_speed(j, 0, NULL) == 0);
    CHECK(world_wait(w, j, JOB_READY) == 0 && j->progress_done == j->progress_total);
    CHECK(job_user_pause(j, NULL) == 0 && world_wait(w, j, JOB_STANDBY) == 0);
    CHECK(complete(j) == 0);
    CHECK(job_user_resume(j, NULL) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(world_verify_device(w) == 0);
    return 0;
}

static int holes_stay_holes(void *opaque)
{
    struct world *w = opaque;
    struct job *j;
    CHECK(begin(w, 0.1, false, &j) == 0);
    CHECK(world_wait(w, j, JOB_READY) == 0);
    CHECK(complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0);
    CHECK(edge_flush(w->dev->root) == 0);
    uint64_t from = file_allocated(w->source_file), to = file_allocated(w->target_file);
    CHECK(from < w->size / 2 && to <= from + 256 * 1024);
    CHECK(world_verify_device(w) == 0);
    return 0;
}

/* A target that holds something else: zeroes of the source must become zeroes there. */
static int zeroes_over_old_data(void *opaque)
{
    struct world *w = opaque;
    CHECK(world_open(w) == 0);
    struct node *target = world_target(w, "target");
    CLEANUP_FREE uint8_t *junk = g_malloc(w->size);
    memset(junk, 0x5a, w->size);
    struct edge *ed;
    CHECK(edge_open(target, &(struct edge_spec){"test", PERM_WRITE, PERM_ALL}, &ed, NULL) == 0);
    CHECK(edge_write_buf(ed, 0, w->size, junk, 0) == 0);
    edge_close(ed);
    CHECK(world_fill(w, 0.2) == 0);
    struct copy_options o = options(w, target, false);
    struct job *j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_READY) == 0);
    CHECK(complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(world_verify_device(w) == 0);
    return 0;
}

static int odd_size(void *opaque)
{
    struct world *w = opaque;
    struct job *j;
    CHECK(begin(w, 1, true, &j) == 0);
    world_write_on(w, 100);
    CHECK(world_wait(w, j, JOB_READY) == 0);
    CHECK(complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    return 0;
}

static int incremental(void *opaque)
{
    struct world *w = opaque;
    struct job *j;
    CHECK(begin(w, 0.5, false, &j) == 0 && world_wait(w, j, JOB_READY) == 0);
    CHECK(job_user_cancel(j, false, NULL) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && job_dismiss(j, NULL) == 0);
    struct node *source = node_ref(w->dev->root->child);
    struct dirty_bitmap *b;
    CHECK(dirty_bitmap_create(source, "since", 65536, &b, NULL) == 0);
    memset(w->shadow + 3 * MIB, 0x77, 1000);
    CHECK(edge_write_buf(w->dev->root, 3 * MIB, 1000, w->shadow + 3 * MIB, 0) == 0);
    struct node *target = world_target(w, "target");
    struct copy_options o = options(w, target, false);
    o.sync = COPY_INCREMENTAL;
    o.bitmap = b;
    j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_READY) == 0);
    CHECK(j->progress_total == 65536);
    CHECK(b->busy && complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(!b->busy && dirty_bitmap_bytes(b) == 0);
    dirty_bitmap_destroy(b);
    node_unref(source);
    CHECK(world_verify_device(w) == 0);
    return 0;
}

static int manual_finalize(void *opaque)
{
    struct world *w = opaque;
    CHECK(world_open(w) == 0 && world_fill(w, 0.4) == 0);
    struct node *target = world_target(w, "target");
    struct copy_options o = options(w, target, false);
    o.flags = JOB_MANUAL_FINALIZE | JOB_MANUAL_DISMISS;
    world_write_on(w, 100);
    struct job *j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_READY) == 0 && complete(j) == 0 && world_wait(w, j, JOB_PENDING) == 0);
    /* The guest goes on meanwhile, on both sides. */
    uint64_t writes = w->writes;
    for (int i = 0; i < 60000 && w->writes <= writes + 10; i++) {
        co_sleep(1000000);
    }
    CHECK(w->writes > writes + 10);
    CHECK(job_finalize(j, NULL) == 0 && j->status == JOB_CONCLUDED && j->rc == 0);
    CHECK(w->dev->root->child == node_find(w->graph, "target"));
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    return 0;
}

/* The device keeps its own filter; only the node below it is replaced. */
static int replaces_a_node_below_a_filter(void *opaque)
{
    struct world *w = opaque;
    CHECK(world_open(w) == 0 && world_fill(w, 0.4) == 0);
    backend_eject(w->dev);
    CLEANUP_FREE char *text =
        g_strdup_printf("{\"driver\": \"copy-on-read\", \"node-name\": \"cor\", \"file\": {\"driver\": "
                        "\"%s\", \"node-name\": \"inner\", \"file\": {\"driver\": \"file\", "
                        "\"filename\": \"%s\"}}}",
                        w->format, w->source_file);
    CLEANUP_JSON struct json_object *opts = json_tokener_parse(text);
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *cor = NULL, *target = world_target(w, "target");
    struct job *j;
    CHECK(node_open(w->graph, opts, &cor, &e) == 0 && backend_insert(w->dev, cor, true, false, &e) == 0);
    struct copy_options o = options(w, target, false);
    o.replaces = "target";
    CHECK(copy_create(w->js, &o, &j, &e) < 0 && strstr(err_text(&e), "Cannot replace 'target'"));
    o.replaces = "inner";
    world_write_on(w, 200);
    j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_READY) == 0 && complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0);
    CHECK(j->rc == 0 && w->dev->root->child == cor && cor->file->child == node_find(w->graph, "target"));
    CHECK(!node_find(w->graph, "inner"));
    node_unref(cor);
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    return 0;
}

/* Who comes to the source by its name meanwhile goes where its users go; who cannot, keeps them all where they are. */
static int users_past_the_filter(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct edge *unread, *reader;
    CHECK(world_open(w) == 0 && world_fill(w, 0.3) == 0);
    struct node *target = world_target(w, "target"), *source = node_ref(w->dev->root->child);
    const struct edge_spec alone = {"alone", 0, PERM_ALL & ~PERM_READ, NULL, NULL};
    const struct edge_spec reads = {"reads", PERM_READ, PERM_ALL, NULL, NULL};
    CHECK(edge_open(target, &alone, &unread, &e) == 0);
    struct copy_options o = options(w, target, false);
    struct edge *root = w->dev->root; /* does not read for now: else it would be the one that cannot */
    CHECK(edge_set_perm(root, root->own_perm & ~(unsigned)PERM_READ, root->own_shared, &e) == 0);
    struct job *j = start(w, &o);
    CHECK(j && edge_open(source, &reads, &reader, &e) == 0 && reader->child == source);
    CHECK(world_wait(w, j, JOB_READY) == 0 && complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0);
    CHECK(j->rc == -EPERM && strstr(err_text(&j->err), "conflict on node 'target'"));
    CHECK(w->dev->root->child == source && reader->child == source);
    CHECK(job_dismiss(j, &e) == 0);
    edge_close(unread);
    j = start(w, &o);
    CHECK(j && world_wait(w, j, JOB_READY) == 0 && complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0);
    CHECK(j->rc == 0 && w->dev->root->child == target && reader->child == target);
    CHECK(edge_set_perm(root, root->own_perm | PERM_READ, root->own_shared, &e) == 0);
    CHECK(world_verify_device(w) == 0);
    edge_close(reader);
    node_unref(source);
    node_unref(target);
    return 0;
}

static int refusals(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct job *j;
    CHECK(world_open(w) == 0);
    struct copy_options o = options(w, w->dev->root->child, false);
    CHECK(copy_create(w->js, &o, &j, &e) < 0 && !strcmp(err_text(&e), "Can't mirror node into itself"));
    CHECK(truncate(w->target_file, (off_t)w->size / 2) == 0);
    struct node *target = world_target(w, "target");
    o.target = target;
    if (!strcmp(w->format, "raw")) {
        CHECK(copy_create(w->js, &o, &j, &e) < 0 && strstr(err_text(&e), "8388608") && strstr(err_text(&e), "4194304"));
    }
    node_unref(target);
    CHECK(truncate(w->target_file, (off_t)w->size) == 0);
    target = world_target(w, "target");
    struct backend *other;
    CHECK(backend_create(w->graph, "other", &other, NULL) == 0);
    CHECK(backend_insert(other, target, true, false, NULL) == 0);
    o.target = target;
    CHECK(copy_create(w->js, &o, &j, &e) < 0 && strstr(err_text(&e), "other"));
    backend_destroy(other);
    o.granularity = 1000;
    CHECK(copy_create(w->js, &o, &j, &e) < 0 && strstr(err_text(&e), "power of 2"));
    node_unref(target);
    CHECK(jobs_list(w->js)->len == 0 && w->dev->root->child == node_find(w->graph, "source"));
    CHECK(world_fill(w, 0.1) == 0);
    return 0;
}

/* --- errors of the target
 * --------------------------------------------------------------------------------------------- */

static int target_error_reported(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(world_open(w) == 0 && world_fill(w, 0.8) == 0);
    struct node *target = world_debug_target(
        w, "\"inject-error\": [{\"event\": \"none\", \"iotype\": \"write\", \"errno\": 28, \"sector\": 8192}]", &e);
    CHECK(target);
    struct copy_options o = options(w, target, true);
    world_write_on(w, 0);
    struct job *j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == -ENOSPC);
    CHECK(world_saw(w, "BLOCK_JOB_ERROR{\"device\":\"j\",\"operation\":\"write\",\"action\":\"report\"}"));
    CHECK(world_saw(w, "\"error\":\"No space left on device\"}") && w->vm_stops == 0);
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    CHECK(w->dev->root->child == node_find(w->graph, "source"));
    return 0;
}

static int target_error_stops_and_goes_on(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(world_open(w) == 0 && world_fill(w, 0.8) == 0);
    struct node *target = world_debug_target(w,
                                             "\"inject-error\": [{\"event\": \"none\", \"iotype\": \"write\", "
                                             "\"errno\": 28, \"sector\": 8192, \"once\": true}]",
                                             &e);
    CHECK(target);
    struct copy_options o = options(w, target, false);
    o.on_target_error = JOB_ON_ERROR_ENOSPC;
    struct job *j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_PAUSED) == 0);
    for (int i = 0; i < 60000 && !w->vm_stops; i++) {
        co_sleep(1000000);
    }
    CHECK(w->vm_stops == 1 && !strcmp(j->io_status, "nospace"));
    jobs_resume_stopped(w->js); /* as `cont` does */
    CHECK(world_wait(w, j, JOB_READY) == 0);
    CHECK(complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(world_verify_device(w) == 0);
    return 0;
}

static int target_error_ignored_is_tried_again(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(world_open(w) == 0 && world_fill(w, 0.8) == 0);
    struct node *target = world_debug_target(w,
                                             "\"inject-error\": [{\"event\": \"none\", \"iotype\": \"write\", "
                                             "\"errno\": 5, \"sector\": 8192, \"once\": true}]",
                                             &e);
    CHECK(target);
    struct copy_options o = options(w, target, false);
    o.on_target_error = JOB_ON_ERROR_IGNORE;
    struct job *j = start(w, &o);
    node_unref(target);
    CHECK(j && world_wait(w, j, JOB_READY) == 0 && world_saw(w, "\"action\":\"ignore\"}"));
    CHECK(complete(j) == 0 && world_wait(w, j, JOB_CONCLUDED) == 0 && j->rc == 0);
    CHECK(world_verify_device(w) == 0);
    return 0;
}

/* --- block_copy
 * --------------------------------------------------------------------------------------------------------- */

static struct json_object *copy_entry(struct world *w, const char *key)
{
    struct json_object *list = block_copy_query(w->js), *v = NULL;
    struct json_object *o = json_object_array_get_idx(list, 0), *info;
    if (o && !json_object_object_get_ex(o, key, &v) && json_object_object_get_ex(o, "info", &info)) {
        json_object_object_get_ex(info, key, &v);
    }
    v = json_object_get(v);
    json_object_put(list);
    return v;
}

static int copy_says(struct world *w, const char *key, const char *want)
{
    struct json_object *v = copy_entry(w, key);
    int rc = v && !strcmp(json_object_get_string(v), want);
    json_object_put(v);
    return rc;
}

static int wait_copy(struct world *w)
{
    for (int i = 0; i < 30000 && copy_says(w, "status", "active"); i++) {
        co_sleep(2000000);
    }
    return 0;
}

static int block_copy_switches(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *commit = g_build_filename(w->dir, "commit", NULL);
    CHECK(world_open(w) == 0 && world_fill(w, 0.7) == 0);
    struct block_copy_options o = {
        .device = "disk", .filename = w->target_file, .format = w->format, .commit_filename = commit, .stop = true};
    world_write_on(w, 100);
    CHECK(block_copy_start(w->js, w->graph, &o, &e) == 0);
    CHECK(block_copy_start(w->js, w->graph, &o, &e) < 0 && strstr(err_text(&e), "already running"));
    wait_copy(w);
    CHECK(copy_says(w, "status", "completed") && copy_says(w, "stage", "switched") &&
          copy_says(w, "percentage", "100"));
    CHECK(w->vm_stops == 1 && world_saw(w, "\"stopped\":true"));
    const char *bulk = strstr(w->events->str, "\"stage\":\"bulk\""),
               *over = strstr(w->events->str, "\"stage\":\"bulk-fin");
    const char *dirty = strstr(w->events->str, "\"stage\":\"dirty\""),
               *sw = strstr(w->events->str, "\"stage\":\"switched");
    CHECK(bulk && bulk < over && over < dirty && dirty < sw);
    w->paused = false;
    co_sleep(20000000);
    CHECK(block_copy_cancel(w->js, w->graph, "disk", &e) < 0 && strstr(err_text(&e), "already switched"));
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    CLEANUP_FREE char *text = NULL;
    CLEANUP_FREE char *want = g_strdup_printf("disk %s\n", w->target_file);
    CHECK(g_file_get_contents(commit, &text, NULL, NULL) && !strcmp(text, want));
    return 0;
}

static int block_copy_cancelled(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(world_open(w) == 0 && world_fill(w, 0.7) == 0);
    CHECK(block_copy_cancel(w->js, w->graph, "disk", &e) < 0 && strstr(err_text(&e), "no copy of device 'disk'"));
    struct block_copy_options o = {.device = "disk", .filename = w->target_file, .format = w->format, .speed = MIB};
    world_write_on(w, 100);
    CHECK(block_copy_start(w->js, w->graph, &o, &e) == 0);
    for (int i = 0; i < 5000 && !copy_says(w, "stage", "bulk"); i++) {
        co_sleep(1000000);
    }
    CHECK(copy_says(w, "status", "active") && copy_says(w, "stage", "bulk"));
    CHECK(block_copy_cancel(w->js, w->graph, "disk", &e) == 0 && copy_says(w, "status", "failed"));
    CHECK(block_copy_cancel(w->js, w->graph, "disk", &e) < 0);
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    return 0;
}

static int block_copy_refusals(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(world_open(w) == 0);
    struct block_copy_options o = {.device = "nosuch", .filename = w->target_file};
    CHECK(block_copy_start(w->js, w->graph, &o, &e) < 0 && !strcmp(err_text(&e), "Device 'nosuch' not found"));
    CHECK(e.cls == ERR_DEVICE_NOT_FOUND);
    o.device = "disk";
    o.filename = "/nosuch/image";
    CHECK(block_copy_start(w->js, w->graph, &o, &e) < 0 && strstr(err_text(&e), "/nosuch/image"));
    o.filename = w->source_file;
    CHECK(block_copy_start(w->js, w->graph, &o, &e) < 0 && strstr(err_text(&e), "is the source"));
    struct backend *empty;
    CHECK(backend_create(w->graph, "empty", &empty, NULL) == 0);
    o.device = "empty";
    CHECK(block_copy_start(w->js, w->graph, &o, &e) < 0 && strstr(err_text(&e), "no medium"));
    backend_destroy(empty);
    return 0;
}

static int make_overlay(struct world *w, const char *file, const char *base)
{
    CLEANUP_FREE char *text =
        g_strdup_printf("{\"file\": \"%s\", \"size\": %llu, \"backing-file\": \"%s\", \"backing-fmt\": \"raw\"}", file,
                        (unsigned long long)w->size, base);
    CLEANUP_JSON struct json_object *opts = json_tokener_parse(text);
    CHECK(truncate(file, 0) == 0 && driver_find("qcow2")->create(w->graph, opts, NULL) == 0);
    return 0;
}

/* Source and destination share their base: what is only there is not copied. */
static int block_copy_inc(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *base = g_build_filename(w->dir, "base", NULL);
    CHECK(world_open(w) == 0);
    backend_destroy(w->dev);
    memset(w->shadow, 0x33, w->size);
    CHECK(g_file_set_contents(base, (char *)w->shadow, (gssize)w->size, NULL));
    CHECK(make_overlay(w, w->source_file, base) == 0 && make_overlay(w, w->target_file, base) == 0);
    struct node *n = NULL;
    CHECK(node_open_filename(w->graph, w->source_file, NULL, &n, NULL) == 0);
    CHECK(backend_create(w->graph, "disk", &w->dev, NULL) == 0 && backend_insert(w->dev, n, true, false, NULL) == 0);
    node_unref(n);
    CHECK(world_fill(w, 0.2) == 0);
    struct block_copy_options o = {.device = "disk", .filename = w->target_file, .inc = true};
    world_write_on(w, 500);
    CHECK(block_copy_start(w->js, w->graph, &o, &e) == 0);
    wait_copy(w);
    CHECK(copy_says(w, "status", "completed"));
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    struct json_object *v = copy_entry(w, "transferred");
    CHECK((uint64_t)json_object_get_int64(v) < w->size * 3 / 4);
    json_object_put(v);
    /* One without that base is refused. */
    o.filename = w->source_file;
    CHECK(truncate(w->source_file, 0) == 0);
    CHECK(make_overlay(w, w->source_file, w->dir) < 0 || block_copy_start(w->js, w->graph, &o, &e) < 0);
    return 0;
}

/* A commit file that cannot be written: the guest stays on the source, and there is no half of it. */
static int commit_file_fails(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(world_open(w) == 0 && world_fill(w, 0.3) == 0);
    struct block_copy_options o = {
        .device = "disk", .filename = w->target_file, .format = w->format, .commit_filename = "/nosuch/folder/commit"};
    world_write_on(w, 100);
    CHECK(block_copy_start(w->js, w->graph, &o, &e) == 0);
    wait_copy(w);
    CHECK(copy_says(w, "status", "failed") && w->dev->root->child == node_find(w->graph, "source"));
    struct json_object *v = copy_entry(w, "error");
    CHECK(v && strstr(json_object_get_string(v), "/nosuch/folder/commit"));
    json_object_put(v);
    CHECK(world_write_off(w) == 0 && world_verify_device(w) == 0);
    return 0;
}

/* The target fails between the commit file and the switch: the file is gone before the guest hears of its write. */
static int commit_file_is_taken_back(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *commit = g_build_filename(w->dir, "commit", NULL);
    CHECK(world_open(w) == 0 && world_fill(w, 0.3) == 0);
    struct node *target = world_debug_target(
        w, "\"inject-error\": [{\"event\": \"copy_switch\", \"iotype\": \"write\", \"errno\": 5}]", &e);
    CHECK(target && block_debug_break(target, "copy_switch", "there", &e) == 0);
    struct block_copy_options o = {.device = "disk", .target = "target", .commit_filename = commit};
    CHECK(block_copy_start(w->js, w->graph, &o, &e) == 0);
    for (int i = 0; i < 30000 && !block_debug_is_suspended(target, "there"); i++) {
        co_sleep(2000000);
    }
    CHECK(block_debug_is_suspended(target, "there") && access(commit, F_OK) == 0);
    memset(w->shadow, 0x44, 65536);
    CHECK(edge_write_buf(w->dev->root, 0, 65536, w->shadow, 0) == 0);
    CHECK(access(commit, F_OK) < 0);
    CHECK(block_debug_resume(target, "there", &e) == 0);
    wait_copy(w);
    CHECK(copy_says(w, "status", "failed") && w->dev->root->child == node_find(w->graph, "source"));
    CHECK(access(commit, F_OK) < 0 && world_verify_device(w) == 0);
    node_unref(target);
    return 0;
}

/* --- running them
 * ---------------------------------------------------------------------------------------------------------- */

struct test_case {
    const char *name;
    int (*body)(void *w);
    uint64_t size;
};

static const struct test_case cases[] = {
    {"mirror_background", mirror_background, 32 * MIB},
    {"mirror_write_blocking", mirror_write_blocking, 32 * MIB},
    {"change_mode_at_run_time", change_mode_at_run_time, 16 * MIB},
    {"soft_cancel_gives_a_copy", soft_cancel_gives_a_copy, 16 * MIB},
    {"cancel_each_stage", cancel_each_stage, 16 * MIB},
    {"pause_resume_speed", pause_resume_speed, 16 * MIB},
    {"holes_stay_holes", holes_stay_holes, 64 * MIB},
    {"zeroes_over_old_data", zeroes_over_old_data, 16 * MIB},
    {"odd_size", odd_size, 8 * MIB + 12345},
    {"incremental", incremental, 16 * MIB},
    {"manual_finalize", manual_finalize, 16 * MIB},
    {"replaces_a_node_below_a_filter", replaces_a_node_below_a_filter, 16 * MIB},
    {"users_past_the_filter", users_past_the_filter, 8 * MIB},
    {"refusals", refusals, 8 * MIB},
    {"target_error_reported", target_error_reported, 16 * MIB},
    {"target_error_stops_and_goes_on", target_error_stops_and_goes_on, 16 * MIB},
    {"target_error_ignored_is_tried_again", target_error_ignored_is_tried_again, 16 * MIB},
    {"block_copy_switches", block_copy_switches, 32 * MIB},
    {"block_copy_cancelled", block_copy_cancelled, 16 * MIB},
    {"block_copy_refusals", block_copy_refusals, MIB},
    {"block_copy_inc", block_copy_inc, 16 * MIB},
    {"commit_file_is_taken_back", commit_file_is_taken_back, 8 * MIB},
    {"commit_file_fails", commit_file_fails, 8 * MIB},
};

static const char *format_of(void **state)
{
    return getenv("TEST_FORMAT") ? getenv("TEST_FORMAT") : "raw";
}

static void run_case(void **state)
{
    const struct test_case *t = *state;
    struct world *w = world_create(format_of(state), t->size);
    int rc = co_run(w->loop, t->body, w);
    if (rc) {
        fprintf(stderr, "events: %s\n", w->events->str);
        w->writing = false;
        /* The world is in disorder; leave it. */
        fail();
    }
    world_destroy(w);
}

int main(int argc, char **argv)
{
    struct CMUnitTest tests[G_N_ELEMENTS(cases)];
    unsigned n = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
        if (cases[i].body == block_copy_inc && strcmp(format_of(NULL), "qcow2") != 0) {
            continue; /* a raw image has no base: nothing that could fail */
        }
        tests[n++] = (struct CMUnitTest){cases[i].name, run_case, NULL, NULL, (void *)&cases[i]};
    }
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return _cmocka_run_group_tests("copy", tests, n, NULL, NULL);
}
