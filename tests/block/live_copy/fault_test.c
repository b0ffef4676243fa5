/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The n-th request of one of the three disks, or the n-th allocation of memory that may, fails, for every n, alone or
 * with all that follow; likewise while a live copy is made. The user may hear of it; what was acknowledged is there all
 * the same, and when the disk is well again both sides become alike.
 *
 * STERNA_FAULT_STEP: only every so manieth n (all: 1), each time from another first one.
 */
#include "lcsupport.h"

#include "base/cleanup.h"
#include "memory.h"

#include <errno.h>

enum { SIZE = 64 * 1024, LEN = 3000 };

struct run {
    struct world w;
    uint8_t *doubt; /* bytes of failed writes */
    unsigned failed;
};

static bool open_somehow(struct run *r)
{
    bool ok = world_try_open(&r->w, "", NULL);
    r->failed += !ok;
    return ok;
}

static void write_one(struct run *r)
{
    struct world *w = &r->w;
    uint8_t buf[LEN];
    uint64_t off = rnd(&w->seed) % (SIZE - LEN);
    fill(w, buf, LEN);
    unsigned how = rnd(&w->seed) % 8;
    if (how < 2) {
        memset(buf, 0, LEN);
    }
    int rc = how < 2 ? edge_zero(w->ed, off, LEN, how ? REQ_MAY_UNMAP : 0)
                     : edge_write_buf(w->ed, off, LEN, buf, how < 4 ? REQ_FUA : 0);
    memcpy(w->want + off, buf, LEN);
    memset(r->doubt + off, rc < 0, LEN);
    r->failed += rc < 0;
}

static void read_one(struct run *r)
{
    struct world *w = &r->w;
    uint8_t buf[LEN];
    uint64_t off = rnd(&w->seed) % (SIZE - LEN);
    if (edge_read_buf(w->ed, off, LEN, buf) < 0) {
        r->failed++;
        return;
    }
    for (unsigned i = 0; i < LEN; i++) {
        if (!r->doubt[off + i] && buf[i] != w->want[off + i]) {
            fail_msg("%s: read %02x at %#x, not %02x", w->g->name, buf[i], (unsigned)off + i, w->want[off + i]);
        }
    }
}

static void session(struct run *r, bool synced)
{
    struct world *w = &r->w;
    if (!open_somehow(r)) {
        return;
    }
    for (int i = 0; i < 12; i++) {
        write_one(r);
        read_one(r);
        if (i % 4 == 3) {
            r->failed += edge_flush(w->ed) < 0;
            co_sleep(1500000);
        }
        if (i == 6 && synced) {
            r->failed += live_copy_switch(w->n, NULL) < 0;
        }
    }
    world_close(w);
}

static void recovers(struct run *r)
{
    struct world *w = &r->w;
    world_open(w, "");
    CLEANUP_FREE uint8_t *got = g_malloc(w->size);
    assert_int_equal(edge_read_buf(w->ed, 0, w->size, got), 0);
    for (unsigned i = 0; i < w->size; i++) {
        if (!r->doubt[i] && got[i] != w->want[i]) {
            fail_msg("%s: afterwards %02x at %#x, not %02x", w->g->name, got[i], i, w->want[i]);
        }
    }
    world_sync(w);
    world_close(w);
    both_are(w, got);
}

struct fault {
    int disk; /* DISKS: none; memory */
    unsigned kinds;
    int rc;
};

/* From here on the n-th fails, or it and all behind it. */
static void fault_begin(struct world *w, const struct fault *f, unsigned n, bool lasting)
{
    if (f->disk == DISKS) {
        memory_fails((struct memory_fault){n, lasting});
        return;
    }
    struct memdisk *d = &w->disk[f->disk];
    d->fail_kinds = f->kinds;
    d->fail_rc = f->rc;
    d->fail_on = lasting;
    d->fail_in = n;
    d->failed = 0;
}

/* Whether something has failed. `before`: memory_failed() at the beginning. */
static bool fault_end(struct world *w, const struct fault *f, unsigned before)
{
    memory_fails((struct memory_fault){0});
    if (f->disk < DISKS) {
        w->disk[f->disk].fail_in = 0;
    }
    return memory_failed() > before || (f->disk < DISKS && w->disk[f->disk].failed);
}

/* False: the session made fewer than n requests of that kind. */
static bool one_fault(struct bench *b, const struct geometry *g, const struct fault *f, unsigned n)
{
    bool synced = n % 2;
    struct run r = {.w = {.seed = n}, .doubt = g_malloc0(SIZE)};
    world_create(&r.w, b, g, SIZE);
    if (synced) {
        world_open(&r.w, "");
        world_sync(&r.w);
        world_close(&r.w);
    }
    unsigned before = memory_failed();
    fault_begin(&r.w, f, (n + 1) / 2, n % 4 >= 2);
    session(&r, synced);
    bool happened = fault_end(&r.w, f, before);
    recovers(&r);
    world_finish(&r.w);
    g_free(r.doubt);
    return happened;
}

static bool one_creation(struct bench *b, const struct geometry *g, const struct fault *f, unsigned n)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct run r = {.w = {.seed = n}, .doubt = g_malloc0(SIZE)};
    world_create(&r.w, b, g, SIZE);
    unsigned before = memory_failed();
    fault_begin(&r.w, f, n, n % 2);
    int rc = world_make(&r.w, &e);
    bool happened = fault_end(&r.w, f, before);
    assert_true(rc == 0 || (happened && err_is_set(&e)));
    if (rc < 0) {
        err_clear(&e);
        assert_int_equal(world_make(&r.w, &e), 0);
    }
    recovers(&r);
    world_finish(&r.w);
    g_free(r.doubt);
    return happened;
}

static void all_faults(struct bench *b)
{
    static const struct fault faults[] = {
        {SRC, FAIL_READ},  {SRC, FAIL_WRITE},  {SRC, FAIL_FLUSH},  {SRC, FAIL_WRITE | FAIL_GROW, -ENOSPC},
        {DST, FAIL_READ},  {DST, FAIL_WRITE},  {DST, FAIL_FLUSH},  {DST, FAIL_WRITE | FAIL_GROW, -ENOSPC},
        {META, FAIL_READ}, {META, FAIL_WRITE}, {META, FAIL_FLUSH}, {META, FAIL_WRITE | FAIL_GROW, -ENOSPC},
        {DISKS, 0},
    };
    const char *given = getenv("STERNA_FAULT_STEP");
    unsigned step = given ? (unsigned)strtoul(given, NULL, 0) : 1, first = 0;
    unsigned long happened = 0;
    for (const struct geometry *g = geometries; g->name; g++) {
        for (size_t i = 0; i < G_N_ELEMENTS(faults); i++) {
            unsigned without = 0;
            for (unsigned n = 1 + first++ % step; n < 90 && without < 4; n += step) {
                bool it = one_fault(b, g, &faults[i], n);
                without = it ? 0 : without + 1;
                happened += it;
            }
            for (unsigned n = 1 + first++ % step; one_creation(b, g, &faults[i], n); n += step) {
                happened++;
            }
        }
    }
    print_message("%lu faults\n", happened);
    assert_true(happened * step > 400);
}

static void test_faults(void **state)
{
    bench_run(all_faults);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
