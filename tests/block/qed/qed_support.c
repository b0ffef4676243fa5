/* SPDX-License-Identifier: BSD-2-Clause */
#include "qed_support.h"

#include "base/cleanup.h"
#include "base/endian.h"

#include <sys/wait.h>

const struct shape shapes[] = {
    {"default", "", false},
    {"4k clusters", ", 'cluster-size': 4096, 'table-size': 2", false},
    {"tables of one", ", 'cluster-size': 4096, 'table-size': 1", true},
    {"tables of 16", ", 'cluster-size': 8192, 'table-size': 16", false},
    {"2M clusters", ", 'cluster-size': 2097152, 'table-size': 1", true},
    {NULL, NULL, false},
};

void sample_create(struct sample *s, const char *opts, uint64_t size, uint64_t base_size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = jsonf("{'file': 'disk', 'size': %" G_GUINT64_FORMAT "%s%s}", size, opts,
                                               base_size ? ", 'backing-file': 'base', 'backing-fmt': 'raw'" : "");
    s->file = memdisk_open(s->b->graph, &s->disk, "disk");
    s->size = size;
    s->want = g_malloc0(size + 1);
    s->open = s->open ? s->open : "";
    if (base_size) {
        s->base = (struct memdisk){.data = g_malloc(base_size + 1), .size = base_size};
        for (uint64_t i = 0; i < base_size; i++) {
            s->base.data[i] = 1 + (i / 512 + i) % 250;
        }
        memcpy(s->want, s->base.data, MIN(size, base_size));
        s->below = memdisk_open(s->b->graph, &s->base, "below");
    }
    if (driver_find("qed")->create(s->b->graph, o, &e) < 0) {
        fail_msg("create: %s", err_text(&e));
    }
}

void sample_open(struct sample *s, bool read_only)
{
    s->n =
        must_open(s->b, jsonf("{'driver': 'qed', 'file': 'disk', 'discard': 'unmap', 'read-only': %s, 'backing': %s%s}",
                              read_only ? "true" : "false", s->below ? "'below'" : "null", s->open));
    s->ed = read_only ? must_edge(s->n, PERM_READ, PERM_ALL) : rw_edge(s->n);
    assert_int_equal(s->n->size, s->size);
}

void sample_close(struct sample *s)
{
    edge_close(s->ed);
    node_unref(s->n);
}

void sample_finish(struct sample *s)
{
    node_unref(s->file);
    node_unref(s->below);
    memdisk_finish(&s->disk);
    memdisk_finish(&s->base);
    g_free(s->want);
}

void sample_write(struct sample *s, uint64_t off, uint64_t len)
{
    uint64_t x = rnd(&s->seed);
    for (uint64_t i = 0; i < len; i++) {
        s->want[off + i] = 1 + ((x >> i / 64 % 8 * 8) + i) % 255;
    }
    assert_int_equal(edge_write_buf(s->ed, off, len, s->want + off, 0), 0);
}

static void step_read(struct sample *s, uint64_t off, uint64_t len)
{
    CLEANUP_FREE uint8_t *got = g_malloc(len);
    struct extent x;
    assert_int_equal(edge_read_buf(s->ed, off, len, got), 0);
    assert_memory_equal(got, s->want + off, len);
    assert_int_equal(node_status(s->n, true, off, len, &x), 0);
    assert_true(x.len > 0 && x.len <= len);
    for (uint64_t i = 0; (x.flags & EXT_ZERO) && i < x.len; i++) {
        assert_int_equal(s->want[off + i], 0);
    }
}

void sample_step(struct sample *s)
{
    uint64_t max = (uint64_t[]){512, 5000, 70000, 400000}[rnd(&s->seed) % 4];
    uint64_t off = rnd(&s->seed) % s->size, len = 1 + rnd(&s->seed) % max;
    unsigned what = rnd(&s->seed) % 20;
    len = MIN(len, s->size - off);
    if (what < 9) {
        sample_write(s, off, len);
    } else if (what < 13) {
        step_read(s, off, len);
    } else if (what < 16) {
        memset(s->want + off, 0, len);
        assert_int_equal(edge_zero(s->ed, off, len, what & 1 ? REQ_MAY_UNMAP : 0), 0);
    } else if (what < 18) { /* reads as before or as something else, but always the same from now on */
        assert_int_equal(edge_discard(s->ed, off, len), 0);
        assert_int_equal(edge_read_buf(s->ed, off, len, s->want + off), 0);
    } else {
        assert_int_equal(edge_flush(s->ed), 0);
    }
}

void sample_verify(struct sample *s)
{
    CLEANUP_FREE uint8_t *got = g_malloc(s->size + 1);
    assert_int_equal(edge_read_buf(s->ed, 0, s->size, got), 0);
    for (uint64_t i = 0; i < s->size; i++) {
        if (got[i] != s->want[i]) {
            fail_msg("byte %#" G_GINT64_MODIFIER "x is %02x, should be %02x", i, got[i], s->want[i]);
        }
    }
}

struct check_result sample_check(struct sample *s, unsigned fix)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct check_result r = {0};
    if (s->n->drv->check(s->n, &r, fix, &e) < 0) {
        fail_msg("check: %s", err_text(&e));
    }
    return r;
}

void sample_check_clean(struct sample *s)
{
    struct check_result r = sample_check(s, 0);
    assert_int_equal(r.corruptions + r.check_errors + r.leaks, 0);
}

uint64_t disk_le64(const struct memdisk *d, uint64_t off)
{
    assert_true(off + 8 <= d->size);
    return load_le64(d->data + off);
}

void disk_put_le64(struct memdisk *d, uint64_t off, uint64_t value)
{
    assert_true(off + 8 <= d->size);
    store_le64(d->data + off, value);
}

uint64_t disk_features(const struct memdisk *d)
{
    return disk_le64(d, 16);
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

bool have_qemu(void)
{
    return shell("command -v qemu-img >/dev/null 2>&1 && command -v qemu-io >/dev/null 2>&1") == 0;
}
