/* SPDX-License-Identifier: BSD-2-Clause */
#include "qsupport.h"

#include "base/cleanup.h"

#include <sys/wait.h>

const struct geometry geometries[] = {
    {"default", "'cluster-size': 65536", false},
    {"smallest clusters", "'cluster-size': 512", false},
    {"4k clusters, 1-bit refcounts", "'cluster-size': 4096, 'refcount-bits': 1", false},
    {"2-bit refcounts", "'cluster-size': 1024, 'refcount-bits': 2", false},
    {"8-bit refcounts", "'cluster-size': 8192, 'refcount-bits': 8", false},
    {"64-bit refcounts", "'cluster-size': 512, 'refcount-bits': 64", false},
    {"version 2", "'cluster-size': 4096, 'version': 'v2'", false},
    {"version 2 with backing", "'cluster-size': 4096, 'version': 'v2'", true},
    {"backing", "'cluster-size': 16384", true},
    {"2 MiB clusters with backing", "'cluster-size': 2097152", true},
    {"lazy refcounts", "'cluster-size': 4096, 'lazy-refcounts': true", false},
    {"subclusters", "'cluster-size': 16384, 'extended-l2': true", false},
    {"subclusters with backing", "'cluster-size': 65536, 'extended-l2': true", true},
    {"zstd", "'cluster-size': 4096, 'compression-type': 'zstd'", false},
    {NULL, NULL, false},
};

int try_create(struct bench *b, const char *path, const char *members, struct err *e)
{
    CLEANUP_JSON struct json_object *o = jsonf("{'file': '%s', %s}", path, members);
    return driver_find("qcow2")->create(b->graph, o, e);
}

void create_image(struct bench *b, const char *path, uint64_t size, const struct geometry *g, const char *backing,
                  const char *more)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *below =
        backing ? g_strdup_printf(", 'backing-file': '%s', 'backing-fmt': 'raw'", backing) : g_strdup("");
    CLEANUP_FREE char *all = g_strdup_printf("'size': %" G_GUINT64_FORMAT ", %s%s%s", size, g->opts, below, more);
    if (try_create(b, path, all, &e) < 0) {
        fail_msg("create %s (%s): %s", path, all, err_text(&e));
    }
}

struct node *open_image(struct bench *b, const char *path, const char *more)
{
    return must_open(b, jsonf("{'driver': 'qcow2', 'discard': 'unmap', 'file': {'driver': 'file', 'filename': '%s'}%s}",
                              path, more));
}

void check_clean(struct node *n, bool allow_leaks)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct check_result r = {.text = g_string_new(NULL)};
    int rc = n->drv->check(n, &r, 0, &e);
    if (rc < 0 || r.corruptions || r.check_errors || (r.leaks && !allow_leaks)) {
        fail_msg("check of '%s': %s, %u corruptions, %u leaks, %u errors\n%.3000s", n->filename,
                 rc < 0 ? err_text(&e) : "done", (unsigned)r.corruptions, (unsigned)r.leaks, (unsigned)r.check_errors,
                 r.text->str);
    }
    g_string_free(r.text, TRUE);
}

int shell(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *cmd = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    int rc = system(cmd);
    return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

bool have_qemu_img(void)
{
    return shell("command -v qemu-img >/dev/null 2>&1") == 0;
}

void outside_check(const char *path, bool allow_leaks)
{
    if (!have_qemu_img()) {
        return;
    }
    int rc = shell("qemu-img check -f qcow2 '%s' >'%s.check' 2>&1", path, path);
    if (rc != 0 && !(allow_leaks && rc == 3)) {
        shell("head -30 '%s.check' >&2", path);
        fail_msg("qemu-img check '%s' returned %d", path, rc);
    }
}

void invariants_hold(struct node *n)
{
    const char *why = qcow2_broken_invariant(n);
    if (why) {
        fail_msg("invariant: %s", why);
    }
}

/* --- the model ---------------------------------------------------------------------------------------------------- */

void model_open(struct model *m, struct bench *b, const char *path, const char *more)
{
    m->b = b;
    m->n = open_image(b, path, more);
    m->ed = m->n->read_only ? must_edge(m->n, PERM_READ, PERM_ALL) : rw_edge(m->n);
    assert_int_equal(m->n->size, m->size);
}

void model_close(struct model *m)
{
    invariants_hold(m->n);
    edge_close(m->ed);
    node_unref(m->n);
}

void model_verify(struct model *m)
{
    uint8_t *got = malloc(m->size + 1);
    assert_int_equal(edge_read_buf(m->ed, 0, m->size, got), 0);
    for (uint64_t i = 0; i < m->size; i++) {
        if (got[i] != m->want[i]) {
            fail_msg("byte %#" G_GINT64_MODIFIER "x of '%s' is %02x, should be %02x", i, m->n->filename, got[i],
                     m->want[i]);
        }
    }
    free(got);
}

static void pick_range(struct model *m, uint64_t *off, uint64_t *len, uint64_t align)
{
    uint64_t max = (uint64_t[]){512, 5000, 70000, 400000}[rnd(&m->seed) % 4];
    *off = rnd(&m->seed) % m->size;
    *len = 1 + rnd(&m->seed) % max;
    *off -= *off % align;
    *len = MAX(*len - *len % align, align);
    if (*len > m->size - *off) {
        *len = m->size - *off;
    }
}

static void step_write(struct model *m, uint64_t off, uint64_t len)
{
    uint8_t *buf = malloc(len);
    uint64_t x = rnd(&m->seed);
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = (x >> (i / 64 % 8 * 8)) + i;
    }
    assert_int_equal(edge_write_buf(m->ed, off, len, buf, 0), 0);
    memcpy(m->want + off, buf, len);
    free(buf);
}

static void step_compressed(struct model *m, uint64_t off)
{
    struct driver_info info = {0};
    m->n->drv->get_info(m->n, &info);
    off -= off % info.cluster_size;
    uint64_t len = (uint64_t)info.cluster_size * (1 + rnd(&m->seed) % 3);
    len = MIN(len, m->size - off);
    uint8_t *buf = malloc(len);
    int period = 1 + rnd(&m->seed) % 200, add = rnd(&m->seed) % 256;
    for (uint64_t i = 0; i < len; i++) {
        buf[i] = i % period + add;
    }
    assert_int_equal(edge_write_buf(m->ed, off, len, buf, REQ_COMPRESSED), 0);
    memcpy(m->want + off, buf, len);
    free(buf);
}

/* A discarded range reads as before or as zeroes, cluster by cluster; from then on it stays so. */
static void step_discard(struct model *m, uint64_t off, uint64_t len)
{
    uint8_t *got = malloc(len);
    assert_int_equal(edge_discard(m->ed, off, len), 0);
    assert_int_equal(edge_read_buf(m->ed, off, len, got), 0);
    for (uint64_t i = 0; i < len; i++) {
        if (got[i] != 0 && got[i] != m->want[off + i]) {
            fail_msg("discard made up data at %#" G_GINT64_MODIFIER "x", off + i);
        }
    }
    memcpy(m->want + off, got, len);
    free(got);
}

static void step_read(struct model *m, uint64_t off, uint64_t len)
{
    uint8_t *got = malloc(len);
    assert_int_equal(edge_read_buf(m->ed, off, len, got), 0);
    if (memcmp(got, m->want + off, len)) {
        fail_msg("read of [%#" G_GINT64_MODIFIER "x, +%#" G_GINT64_MODIFIER "x) differs", off, len);
    }
    free(got);
}

/* What status() says must be what a read finds. */
static void step_status(struct model *m, uint64_t off)
{
    struct extent x;
    assert_int_equal(node_status(m->n, true, off, m->size - off, &x), 0);
    assert_true(x.len > 0 && x.len <= m->size - off);
    for (uint64_t i = 0; (x.flags & EXT_ZERO) && i < x.len; i++) {
        if (m->want[off + i]) {
            fail_msg("status calls data at %#" G_GINT64_MODIFIER "x zero", off + i);
        }
    }
}

void model_step(struct model *m)
{
    uint64_t off, len;
    unsigned what = rnd(&m->seed) % 100;
    pick_range(m, &off, &len, what % 3 == 0 ? 4096 : 1);
    if (what < 45) {
        step_write(m, off, len);
    } else if (what < 60) {
        step_read(m, off, len);
    } else if (what < 70) {
        assert_int_equal(edge_zero(m->ed, off, len, what & 1 ? REQ_MAY_UNMAP : 0), 0);
        memset(m->want + off, 0, len);
    } else if (what < 80) {
        step_discard(m, off, len);
    } else if (what < 88 && !m->no_compression) {
        step_compressed(m, off);
    } else if (what < 94) {
        step_status(m, off);
    } else {
        assert_int_equal(edge_flush(m->ed), 0);
    }
    invariants_hold(m->n);
}
