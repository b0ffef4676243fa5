/* SPDX-License-Identifier: BSD-2-Clause */
#include "copy_world.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/driver.h"
#include "record.h"

#include <fcntl.h>
#include <glib/gstdio.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

static void on_event(void *opaque, const char *name, struct json_object *data)
{
    struct world *w = opaque;

    record_event(w->events, name, data);
    if (!strcmp(name, "BLOCK_JOB_SWITCHED")) {
        json_object_put(w->switched);
        w->switched = json_object_get(data);
    }
}

static void vm_stop(void *opaque, const char *why)
{
    struct world *w = opaque;
    w->vm_stops++;
    w->paused = true;
}

struct world *world_create(const char *format, uint64_t size)
{
    struct world *w = g_new0(struct world, 1);
    w->loop = loop_create(LOOP_AUTO, NULL);
    w->bus = event_bus_create();
    w->graph = graph_create(w->loop, w->bus, NULL);
    w->js = jobs_create(w->graph);
    jobs_set_hooks(w->js, &(struct jobs_hooks){.vm_stop = vm_stop, .opaque = w});
    w->format = format;
    w->size = size;
    w->shadow = g_malloc0(size);
    w->events = g_string_new(NULL);
    w->dir = g_dir_make_tmp("copy-XXXXXX", NULL);
    w->source_file = g_build_filename(w->dir, "source", NULL);
    w->target_file = g_build_filename(w->dir, "target", NULL);
    w->seed = 12345;
    event_subscribe(w->bus, on_event, w);
    return w;
}

static int end(void *opaque)
{
    struct world *w = opaque;
    jobs_destroy(w->js);
    backend_destroy(w->dev);
    GPtrArray *left = graph_nodes(w->graph);
    int rc = left->len ? -1 : 0;
    for (guint i = 0; i < left->len; i++) {
        struct node *n = g_ptr_array_index(left, i);
        fprintf(stderr, "node '%s' (%s) is left\n", n->name, n->drv->name);
    }
    g_ptr_array_free(left, true);
    graph_destroy(w->graph);
    return rc;
}

void world_destroy(struct world *w)
{
    if (co_run(w->loop, end, w)) {
        abort();
    }
    event_unsubscribe(w->bus, w);
    event_bus_destroy(w->bus);
    loop_destroy(w->loop);
    GDir *d = g_dir_open(w->dir, 0, NULL);
    for (const char *name; (name = g_dir_read_name(d));) {
        CLEANUP_FREE char *path = g_build_filename(w->dir, name, NULL);
        g_unlink(path);
    }
    g_dir_close(d);
    g_rmdir(w->dir);
    json_object_put(w->switched);
    g_string_free(w->events, true);
    g_free(w->dir);
    g_free(w->source_file);
    g_free(w->target_file);
    g_free(w->shadow);
    g_free(w);
}

/* --- images ------------------------------------------------------------------------------------------------------- */

static int create_image(struct world *w, const char *file)
{
    bool raw = !strcmp(w->format, "raw");
    CLEANUP_CLOSE int fd = open(file, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    CHECK(fd >= 0 && ftruncate(fd, raw ? (off_t)w->size : 0) == 0);
    if (raw) {
        return 0;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *opts = json_object_new_object();
    json_object_object_add(opts, "file", json_object_new_string(file));
    json_object_object_add(opts, "size", json_object_new_int64((int64_t)w->size));
    if (driver_find(w->format)->create(w->graph, opts, &e)) {
        fprintf(stderr, "%s\n", err_text(&e));
        return -1;
    }
    return 0;
}

static struct node *open_image(struct world *w, const char *file, const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *opts = json_object_new_object();
    struct node *n = NULL;

    json_object_object_add(opts, "driver", json_object_new_string(w->format));
    json_object_object_add(opts, "discard", json_object_new_string("unmap"));
    if (name) {
        json_object_object_add(opts, "node-name", json_object_new_string(name));
    }
    if (node_open_filename(w->graph, file, opts, &n, &e)) {
        fprintf(stderr, "%s\n", err_text(&e));
        return NULL;
    }
    return n;
}

int world_open(struct world *w)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CHECK(create_image(w, w->source_file) == 0 && create_image(w, w->target_file) == 0);
    struct node *n = open_image(w, w->source_file, "source");
    CHECK(n && backend_create(w->graph, "disk", &w->dev, &e) == 0);
    int rc = backend_insert(w->dev, n, true, false, &e);
    node_unref(n);
    CHECK(rc == 0);
    return 0;
}

struct node *world_target(struct world *w, const char *name)
{
    return open_image(w, w->target_file, name);
}

struct node *world_debug_target(struct world *w, const char *rules, struct err *e)
{
    CLEANUP_FREE char *text = g_strdup_printf(
        "{\"driver\": \"%s\", \"node-name\": \"target\", \"file\": {\"driver\": \"blkdebug\", \"image\": {\"driver\": "
        "\"file\", \"filename\": \"%s\"}, %s}}",
        w->format, w->target_file, rules);
    CLEANUP_JSON struct json_object *opts = json_tokener_parse(text);
    struct node *n = NULL;
    return node_open(w->graph, opts, &n, e) ? NULL : n;
}

static uint32_t rnd(struct world *w)
{
    w->seed = w->seed * 1664525u + 1013904223u;
    return w->seed >> 8;
}

static void noise(struct world *w, uint8_t *p, uint64_t len)
{
    uint64_t x = rnd(w) | 1;
    for (uint64_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        p[i] = (uint8_t)x;
    }
}

int world_fill(struct world *w, double part)
{
    enum { RUN = 128 << 10 };
    for (uint64_t off = 0; off < w->size; off += RUN) {
        uint64_t len = MIN(RUN, w->size - off);
        if (rnd(w) % 1000 < part * 1000) {
            noise(w, w->shadow + off, len);
            CHECK(edge_write_buf(w->dev->root, off, len, w->shadow + off, 0) == 0);
        }
    }
    CHECK(edge_flush(w->dev->root) == 0);
    return 0;
}

/* --- the guest ---------------------------------------------------------------------------------------------------- */

/* Each writer has a part of the disk for itself, so that the shadow is what the disk must be. */
static int one_request(struct world *w, unsigned id, uint8_t *buf)
{
    uint64_t part = w->size / WRITERS, len = 1 + rnd(w) % (48 << 10), off = id * part + rnd(w) % (part - len);
    unsigned kind = rnd(w) % 16;

    if (kind == 0) {
        memset(w->shadow + off, 0, len);
        return edge_zero(w->dev->root, off, len, rnd(w) % 2 ? REQ_MAY_UNMAP : 0);
    }
    if (kind == 1) {
        int rc = edge_read_buf(w->dev->root, off, len, buf);
        return rc ? rc : memcmp(buf, w->shadow + off, len) ? -EILSEQ : 0;
    }
    if (kind == 2) {
        return edge_flush(w->dev->root);
    }
    noise(w, buf, len);
    int rc = edge_write_buf(w->dev->root, off, len, buf, kind == 3 ? REQ_FUA : 0);
    memcpy(w->shadow + off, buf, len);
    return rc;
}

static void writer(void *opaque)
{
    struct world *w = opaque;
    unsigned id = w->writers++;
    uint8_t *buf = g_malloc(48 << 10);

    while (w->writing) {
        if (!w->paused) {
            uint64_t begin = loop_now_ns();
            int rc = one_request(w, id, buf);
            uint64_t ns = loop_now_ns() - begin;
            w->worst_ns = MAX(w->worst_ns, ns);
            w->dev->stats.wr_us_log2[MIN(31, g_bit_storage((gulong)(ns / 1000)))]++;
            w->guest_rc = w->guest_rc ? w->guest_rc : rc;
            w->writes++;
        }
        if (w->think_us || w->paused) {
            co_sleep(w->think_us * 1000ull + 1000);
        } else {
            co_sleep(1);
        }
    }
    g_free(buf);
    w->writers--;
}

void world_write_on(struct world *w, unsigned think_us)
{
    w->writing = true;
    w->think_us = think_us;
    w->guest_rc = 0;
    for (int i = 0; i < WRITERS; i++) {
        co_start(w->loop, writer, w);
    }
}

int world_write_off(struct world *w)
{
    w->writing = false;
    while (w->writers) {
        co_sleep(1000000);
    }
    if (w->guest_rc) {
        fprintf(stderr, "a guest's request failed: %s\n", g_strerror(-w->guest_rc));
    }
    return w->guest_rc;
}

static int verify(struct world *w, struct edge *ed)
{
    enum { STEP = 1 << 20 };
    CLEANUP_FREE uint8_t *buf = g_malloc(STEP);
    for (uint64_t off = 0; off < w->size; off += STEP) {
        uint64_t len = MIN(STEP, w->size - off);
        CHECK(edge_read_buf(ed, off, len, buf) == 0);
        for (uint64_t i = 0; i < len; i++) {
            if (buf[i] != w->shadow[off + i]) {
                fprintf(stderr, "byte %" PRIu64 " differs\n", off + i);
                return -1;
            }
        }
    }
    return 0;
}

int world_verify_device(struct world *w)
{
    return verify(w, w->dev->root);
}

int world_verify_file(struct world *w, const char *file)
{
    struct node *n = open_image(w, file, NULL);
    CHECK(n);
    struct edge *ed;
    int rc = edge_open(n, &(struct edge_spec){"test", PERM_READ, PERM_ALL}, &ed, NULL);
    node_unref(n);
    CHECK(rc == 0);
    rc = verify(w, ed);
    edge_close(ed);
    return rc;
}

int world_wait(struct world *w, struct job *j, enum job_status s)
{
    uint64_t until = loop_now_ns() + 60000000000ull;
    while (j->status != s && loop_now_ns() < until) {
        co_sleep(200000);
    }
    if (j->status != s) {
        fprintf(stderr, "job is in state '%s', not '%s': %s\n%s\n", job_status_names[j->status], job_status_names[s],
                err_text(&j->err), w->events->str);
        return -1;
    }
    return 0;
}

bool world_saw(struct world *w, const char *text)
{
    return strstr(w->events->str, text);
}

uint64_t file_allocated(const char *file)
{
    struct stat st;
    return stat(file, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}
