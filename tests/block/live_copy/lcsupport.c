/* SPDX-License-Identifier: BSD-2-Clause */
#include "lcsupport.h"

#include "base/cleanup.h"

static const char *const disk_names[DISKS] = {"m-source", "m-destination", "m-meta"};

const struct geometry geometries[] = {
    {"raw to raw", {"raw", "raw"}, 4096, ", 'piece-size': 8192, 'parallel': 3, 'speed': 10000000"},
    {"raw to qcow2", {"raw", "qcow2"}, 16384, ", 'piece-size': 4096, 'parallel': 2"},
    {"qcow2 to raw", {"qcow2", "raw"}, 8192, ", 'piece-size': 16384, 'parallel': 4"},
    {"qcow2 to qcow2", {"qcow2", "qcow2"}, 4096, ", 'parallel': 1"},
    {NULL, {NULL, NULL}, 0, NULL},
};

void fill(struct world *w, uint8_t *buf, uint64_t len)
{
    uint64_t x = rnd(&w->seed);
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = (uint8_t)(1 + (x + i / 16) % 255);
    }
}

void world_plug(struct world *w, int i)
{
    w->file[i] = memdisk_open(w->b->graph, &w->disk[i], disk_names[i]);
}

void world_unplug(struct world *w, int i)
{
    node_unref(w->file[i]);
    w->file[i] = NULL;
}

static void create(struct world *w, const char *fmt, struct json_object *opts)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (driver_find(fmt)->create(w->b->graph, opts, &e) < 0) {
        fail_msg("create %s: %s", fmt, err_text(&e));
    }
    json_object_put(opts);
}

static struct node *open_side(struct world *w, int i)
{
    return must_open(w->b, jsonf("{'driver': '%s', 'file': '%s', 'discard': 'unmap'}", w->g->fmt[i], disk_names[i]));
}

static void create_side(struct world *w, int i)
{
    if (strcmp(w->g->fmt[i], "raw") != 0) {
        create(w, w->g->fmt[i], jsonf("{'file': '%s', 'size': %d, 'cluster-size': 4096}", disk_names[i], (int)w->size));
        return;
    }
    memdisk_resize(&w->disk[i], w->size);
    memset(w->disk[i].data, 0x77, w->size); /* not what the source has */
    world_unplug(w, i);
    world_plug(w, i);
}

static void fill_source(struct world *w)
{
    struct node *n = open_side(w, SRC);
    struct edge *ed = rw_edge(n);
    for (uint64_t off = 0, len; off < w->size; off += len) {
        len = 1 + rnd(&w->seed) % (w->size / 6);
        len = MIN(len, w->size - off);
        if (rnd(&w->seed) % 3) {
            fill(w, w->want + off, len);
        }
        assert_int_equal(edge_write_buf(ed, off, len, w->want + off, 0), 0);
    }
    edge_close(ed);
    node_unref(n);
}

void world_create(struct world *w, struct bench *b, const struct geometry *g, uint64_t size)
{
    w->b = b;
    w->g = g;
    w->size = size = strcmp(g->fmt[SRC], "raw") == 0 ? size : (size + 511) / 512 * 512; /* only raw counts bytes */
    w->want = g_malloc0(size + 1);
    for (int i = 0; i < DISKS; i++) {
        world_plug(w, i);
    }
    create_side(w, SRC);
    create_side(w, DST);
    fill_source(w);
    CLEANUP_ERR struct err e = ERR_INIT;
    if (world_make(w, &e) < 0) {
        fail_msg("create: %s", err_text(&e));
    }
}

int world_make(struct world *w, struct err *e)
{
    const struct geometry *g = w->g;
    CLEANUP_JSON struct json_object *o =
        jsonf("{'file': '%s', 'source': 'json:{\\'driver\\': \\'%s\\', \\'file\\': \\'%s\\'}', 'destination': "
              "'json:{\\'driver\\': \\'%s\\', \\'file\\': \\'%s\\'}', 'region-size': %u}",
              disk_names[META], g->fmt[SRC], disk_names[SRC], g->fmt[DST], disk_names[DST], g->region);
    return driver_find("live-copy")->create(w->b->graph, o, e);
}

void world_finish(struct world *w)
{
    if (w->n) {
        world_close(w);
    }
    for (int i = 0; i < DISKS; i++) {
        if (w->file[i]) {
            world_unplug(w, i);
        }
        memdisk_finish(&w->disk[i]);
    }
    g_free(w->want);
}

bool world_try_open(struct world *w, const char *more, struct err *e)
{
    CLEANUP_JSON struct json_object *o = jsonf(
        "{'driver': 'live-copy', 'node-name': 'lc', 'file': '%s', 'discard': 'unmap', 'record-ms': 1, 'retry-ms': "
        "1%s%s}",
        disk_names[META], w->g->open, more);
    if (node_open(w->b->graph, o, &w->n, e) < 0) {
        return false;
    }
    w->ed = w->n->read_only ? must_edge(w->n, PERM_READ, PERM_ALL) : must_edge(w->n, PERM_READ | PERM_WRITE, PERM_ALL);
    return true;
}

void world_open(struct world *w, const char *more)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (!world_try_open(w, more, &e)) {
        fail_msg("%s: open: %s", w->g->name, err_text(&e));
    }
}

void world_close(struct world *w)
{
    edge_close(w->ed);
    node_unref(w->n);
    w->ed = NULL;
    w->n = NULL;
}

struct live_copy_status world_status(struct world *w)
{
    struct live_copy_status st;
    live_copy_get_status(w->n, &st);
    return st;
}

void world_sync(struct world *w)
{
    uint64_t end = loop_now_ns() + UINT64_C(60000000000);
    for (unsigned waits = 0;; waits++) { /* that a machine stood still for so long is no failure */
        struct live_copy_status st = world_status(w);
        if (st.current[SRC] && st.current[DST] && !st.remaining && !st.missing[SRC] && !st.missing[DST]) {
            return;
        }
        if (loop_now_ns() > end && waits > 1000) {
            fail_msg("%s: no end: state %s, %" PRIu64 " bytes left, %" PRIu64 " passes, rc %d, missing %d %d",
                     w->g->name, live_copy_state_names[st.state], st.remaining, st.passes, st.rc, st.missing[SRC],
                     st.missing[DST]);
        }
        live_copy_wait(w->n, 1000000);
    }
}

uint8_t *side_contents(struct world *w, int i)
{
    uint8_t *buf = g_malloc(w->size + 1);
    struct node *n = open_side(w, i);
    struct edge *ed = must_edge(n, PERM_READ, PERM_ALL);
    struct check_result r = {0};
    assert_int_equal(edge_read_buf(ed, 0, w->size, buf), 0);
    edge_close(ed);
    if (n->drv->check) {
        assert_int_equal(n->drv->check(n, &r, 0, NULL), 0);
        assert_int_equal(r.corruptions + r.check_errors, 0);
    }
    node_unref(n);
    return buf;
}

void both_are(struct world *w, const uint8_t *want)
{
    for (int i = SRC; i <= DST; i++) {
        CLEANUP_FREE uint8_t *got = side_contents(w, i);
        for (uint64_t at = 0; at < w->size; at++) {
            if (got[at] != want[at]) {
                fail_msg("%s, seed %" PRIu64 ": side %d has %02x at %#" PRIx64 ", not %02x", w->g->name, w->seed, i,
                         got[at], at, want[at]);
            }
        }
    }
}
