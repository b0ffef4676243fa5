/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The n-th request of one of the three disks fails, for every n, alone or with all that follow. The user may hear of
 * it; what was acknowledged is there all the same, and when the disk is well again both sides become alike.
 */
#include "lcsupport.h"

#include "base/cleanup.h"

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
    int rc =
        rnd(&w->seed) % 4 ? edge_write_buf(w->ed, off, LEN, buf, 0) : edge_write_buf(w->ed, off, LEN, buf, REQ_FUA);
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

/* False: the session made fewer than n requests of that kind. */
static bool one_fault(struct bench *b, const struct geometry *g, int disk, unsigned kind, unsigned n)
{
    bool synced = n % 2;
    struct run r = {.w = {.seed = n}, .doubt = g_malloc0(SIZE)};
    world_create(&r.w, b, g, SIZE);
    if (synced) {
        world_open(&r.w, "");
        world_sync(&r.w);
        world_close(&r.w);
    }
    struct memdisk *d = &r.w.disk[disk];
    d->fail_kinds = kind;
    d->fail_in = (n + 1) / 2;
    d->fail_on = n % 4 >= 2;
    unsigned before = d->failed;
    session(&r, synced);
    bool happened = d->failed > before;
    d->fail_in = 0;
    recovers(&r);
    world_finish(&r.w);
    g_free(r.doubt);
    return happened;
}

static void all_faults(struct bench *b)
{
    static const unsigned kinds[] = {FAIL_READ, FAIL_WRITE, FAIL_FLUSH};
    unsigned long faults = 0;
    for (const struct geometry *g = geometries; g->name; g++) {
        for (int disk = SRC; disk < DISKS; disk++) {
            for (size_t k = 0; k < G_N_ELEMENTS(kinds); k++) {
                unsigned without = 0;
                for (unsigned n = 1; n < 90 && without < 4; n++) {
                    bool happened = one_fault(b, g, disk, kinds[k], n);
                    without = happened ? 0 : without + 1;
                    faults += happened;
                }
            }
        }
    }
    print_message("%lu faults\n", faults);
    assert_true(faults > 300);
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
