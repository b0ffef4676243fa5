/* SPDX-License-Identifier: BSD-2-Clause */
/* A flash bank: its commands, what is durable when, its state. */
#include "base/cleanup.h"
#include "block/memdisk.h"
#include "device/cfi_flash.h"
#include "world.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FLASH  0x20000000ull
#define BLOCK  0x40000u
#define READY  0x00800080u
#define CMD(c) ((c)*0x00010001u)

struct fixture {
    struct world w;
    struct device *d;
    const char *extra;
    struct memdisk *memory; /* instead of the file; NULL: the file */
    int rc;
    struct err e;
};

static void make(void *arg)
{
    struct fixture *f = arg;
    struct node *n = NULL;
    if (f->memory) {
        n = memdisk_open(f->w.board.graph, f->memory, "disk");
    } else {
        world_open_disk(&f->w, f->extra, NULL);
    }
    f->rc = cfi_flash_create(&f->w.board, 0, FLASH, "disk", &f->d, &f->e);
    if (f->rc == 0) {
        f->d->cls->resume(f->d);
    }
    node_unref(n);
}

static struct world *begin(struct fixture *f, const char *extra, struct memdisk *memory)
{
    *f = (struct fixture){.extra = extra, .memory = memory};
    world_init(&f->w);
    assert_int_equal(truncate(f->w.disk, CFI_FLASH_SIZE), 0);
    int fd = open(f->w.disk, O_WRONLY);
    assert_int_equal(pwrite(fd, "\xff\xff\xff\xff\xff\xff\xff\xff", 8, 0x100), 8);
    close(fd);
    world_run(&f->w, make, f);
    assert_int_equal(f->rc, 0);
    return &f->w;
}

static void destroy(void *arg)
{
    device_destroy(((struct fixture *)arg)->d);
}

static void finish(struct fixture *f)
{
    world_run(&f->w, destroy, f);
    err_clear(&f->e);
    world_finish(&f->w);
}

static void cmd(struct world *w, uint64_t off, uint32_t c)
{
    wr(w, FLASH + off, CMD(c), 4);
}

static uint32_t word(struct world *w, uint64_t off)
{
    cmd(w, off, 0xff);
    return (uint32_t)rd(w, FLASH + off, 4);
}

static uint32_t program(struct world *w, uint64_t off, uint32_t val)
{
    cmd(w, off, 0x40);
    wr(w, FLASH + off, val, 4);
    world_settle(w);
    return (uint32_t)rd(w, FLASH + off, 4);
}

static uint32_t erase(struct world *w, uint64_t off)
{
    cmd(w, off, 0x20);
    cmd(w, off, 0xd0);
    world_settle(w);
    return (uint32_t)rd(w, FLASH + off, 4);
}

/* What the host has of the disk. */
static uint32_t on_disk(struct world *w, uint64_t off)
{
    uint32_t v = 0;
    int fd = open(w->disk, O_RDONLY);
    assert_int_equal(pread(fd, &v, 4, (off_t)off), 4);
    close(fd);
    return le32toh(v);
}

static void tells_what_it_is(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    cmd(w, 0x55 * 4, 0x98);
    assert_int_equal(rd(w, FLASH + 0x40, 4), CMD('Q'));
    assert_int_equal(rd(w, FLASH + 0x44, 4), CMD('R'));
    assert_int_equal(rd(w, FLASH + 0x48, 4), CMD('Y'));
    assert_int_equal(rd(w, FLASH + 0x40, 8), CMD('Q') | (uint64_t)CMD('R') << 32);
    assert_int_equal(rd(w, FLASH + 0x42, 2), 'Q');
    assert_int_equal(rd(w, FLASH + 0x13 * 4, 4), CMD(1)); /* Intel's command set */
    assert_int_equal(rd(w, FLASH + 0x27 * 4, 1), 24);
    assert_int_equal(rd(w, FLASH + 0x2c * 4, 1), 1);
    unsigned blocks = 1 + (unsigned)rd(w, FLASH + 0x2d * 4, 1) + 256 * (unsigned)rd(w, FLASH + 0x2e * 4, 1),
             size = 256 * ((unsigned)rd(w, FLASH + 0x2f * 4, 1) + 256 * (unsigned)rd(w, FLASH + 0x30 * 4, 1));
    assert_int_equal(2 * blocks * size, CFI_FLASH_SIZE); /* two devices */
    assert_int_equal(rd(w, FLASH + 0x31 * 4, 1), 'P');
    cmd(w, 0, 0x90);
    assert_int_equal(rd(w, FLASH, 4), CMD(0x89));
    assert_int_equal(rd(w, FLASH + 4, 4), CMD(0x18));
    cmd(w, 0, 0x70);
    assert_int_equal(rd(w, FLASH + 0x1000, 4), READY);
    cmd(w, 0, 0xff);
    assert_int_equal(rd(w, FLASH + 0x100, 8), UINT64_MAX);
    assert_int_equal(rd(w, FLASH, 8), 0);
    finish(&f);
}

static void programming_clears_bits(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    cmd(w, 0x100, 0x40);
    wr(w, FLASH + 0x100, 0x1234f678, 4);
    assert_int_equal(rd(w, FLASH + 0x100, 4), 0); /* busy: until the loop has done it */
    cmd(w, 0x100, 0xff);
    assert_int_equal(rd(w, FLASH + 0x100, 4), 0); /* and nothing else is taken */
    assert_int_equal(on_disk(w, 0x100), 0xffffffff);
    world_settle(w);
    assert_int_equal(rd(w, FLASH + 0x100, 4), READY);
    assert_int_equal(on_disk(w, 0x100), 0x1234f678);
    assert_int_equal(word(w, 0x100), 0x1234f678);
    assert_int_equal(program(w, 0x100, 0xffff0fff), READY);
    assert_int_equal(word(w, 0x100), 0x12340678);
    assert_int_equal(on_disk(w, 0x100), 0x12340678);
    assert_int_equal(word(w, 0x104), 0xffffffff);
    /* A byte, a pair. */
    cmd(w, 0x104, 0x10);
    wr(w, FLASH + 0x105, 0xab, 1);
    world_settle(w);
    assert_int_equal(word(w, 0x104), 0xffffabff);
    finish(&f);
}

static void buffer_is_programmed_at_once(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    assert_int_equal(erase(w, BLOCK), READY);
    cmd(w, BLOCK, 0xe8);
    assert_int_equal(rd(w, FLASH + BLOCK, 4), READY);
    cmd(w, BLOCK, 511);
    for (unsigned i = 512; i-- > 0;) { /* in any order */
        wr(w, FLASH + BLOCK + 0x800 + 4 * i, i, 4);
    }
    world_settle(w);
    assert_int_equal(on_disk(w, BLOCK + 0x804), 0xffffffff);
    cmd(w, BLOCK, 0xd0);
    world_settle(w);
    assert_int_equal(rd(w, FLASH, 4), READY);
    for (unsigned i = 0; i < 512; i++) {
        assert_int_equal(word(w, BLOCK + 0x800 + 4 * i), i);
    }
    assert_int_equal(on_disk(w, BLOCK + 0x804), 1);
    assert_int_equal(word(w, BLOCK + 0x7fc), 0xffffffff);
    /* Two cycles in one access, with what is between left alone. */
    cmd(w, BLOCK, 0xe8);
    cmd(w, BLOCK, 2);
    wr(w, FLASH + BLOCK + 0x20, 0x1122334455667788, 8);
    wr(w, FLASH + BLOCK + 0x40, 0x99, 4);
    cmd(w, BLOCK, 0xd0);
    world_settle(w);
    cmd(w, BLOCK, 0xff);
    assert_int_equal(rd(w, FLASH + BLOCK + 0x20, 8), 0x1122334455667788);
    assert_int_equal(rd(w, FLASH + BLOCK + 0x28, 8), UINT64_MAX);
    assert_int_equal(rd(w, FLASH + BLOCK + 0x40, 4), 0x99);
    finish(&f);
}

static void sequences_without_meaning_are_errors(void **state)
{
    static const uint32_t bad[][4] = {
        /* commands, 0 for none, and where the last one goes */
        {0x20, 0x20, 0, 0},
        {0x60, 0x77, 0, 0},
        {0xe8, 512, 0, 0},
        {0xe8, 0, 7, 2 * BLOCK}, /* data in another block */
    };
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        cmd(w, 0, bad[i][0]);
        cmd(w, 0, bad[i][1]);
        if (bad[i][2]) {
            cmd(w, bad[i][3], bad[i][2]);
        }
        world_settle(w);
        assert_int_equal(rd(w, FLASH, 4), CMD(0xb0));
        cmd(w, 0, 0x50);
        cmd(w, 0, 0x70);
        assert_int_equal(rd(w, FLASH, 4), READY);
    }
    cmd(w, 0, 0xe8); /* words of two buffers, then no confirmation */
    cmd(w, 0, 1);
    wr(w, FLASH + 0x7fc, 1, 4);
    wr(w, FLASH + 0x800, 1, 4);
    assert_int_equal(rd(w, FLASH, 4), CMD(0xb0));
    cmd(w, 0, 0x50);
    cmd(w, 0, 0xe8);
    cmd(w, 0, 0);
    wr(w, FLASH + 0x100, 0, 4);
    cmd(w, 0, 0xff);
    assert_int_equal(rd(w, FLASH, 4), CMD(0xb0));
    assert_int_equal(word(w, 0x100), 0xffffffff);
    finish(&f);
}

static void block_is_erased(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    assert_int_equal(word(w, BLOCK), 0);
    assert_int_equal(erase(w, 2 * BLOCK - 4), READY);
    assert_int_equal(word(w, BLOCK), 0xffffffff);
    assert_int_equal(word(w, 2 * BLOCK - 4), 0xffffffff);
    assert_int_equal(on_disk(w, 2 * BLOCK - 4), 0xffffffff);
    assert_int_equal(word(w, BLOCK - 4), 0);
    assert_int_equal(word(w, 2 * BLOCK), 0);
    assert_int_equal(erase(w, CFI_FLASH_SIZE - 4), READY);
    assert_int_equal(on_disk(w, CFI_FLASH_SIZE - 4), 0xffffffff);
    finish(&f);
}

static void locked_block_stays(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    cmd(w, 0x80, 0x60);
    cmd(w, 0x80, 0x01);
    cmd(w, 0, 0x90);
    assert_int_equal(rd(w, FLASH + 8, 4), CMD(1));
    assert_int_equal(rd(w, FLASH + BLOCK + 8, 4), 0);
    assert_int_equal(program(w, 0x100, 0), CMD(0x92));
    cmd(w, 0, 0x50);
    assert_int_equal(erase(w, 0x100), CMD(0xa2));
    assert_int_equal(word(w, 0x100), 0xffffffff);
    cmd(w, 0, 0x50);
    assert_int_equal(erase(w, BLOCK), READY);
    cmd(w, 0, 0x60);
    cmd(w, 0, 0xd0);
    assert_int_equal(program(w, 0x100, 0), READY);
    finish(&f);
}

static void read_only_drive_is_not_changed(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, "\"read-only\":true,", NULL);
    assert_int_equal(program(w, 0x100, 0), CMD(0x90));
    cmd(w, 0, 0x50);
    assert_int_equal(erase(w, 0), CMD(0xa0));
    assert_int_equal(word(w, 0x100), 0xffffffff);
    finish(&f);
}

static void init_memory(struct memdisk *m)
{
    *m = (struct memdisk){.max = CFI_FLASH_SIZE};
    memdisk_resize(m, CFI_FLASH_SIZE);
    memset(m->data, 0xff, 2 * BLOCK);
}

/* Ready is said of what is durable only: when writing or flushing fails, it is not done. */
static void failure_is_in_the_status(void **state)
{
    static const unsigned kinds[] = {FAIL_WRITE, FAIL_FLUSH};
    for (unsigned i = 0; i < 2; i++) {
        struct fixture f;
        struct memdisk m;
        init_memory(&m);
        struct world *w = begin(&f, NULL, &m);
        m.fail_kinds = kinds[i];
        m.fail_in = 1;
        m.fail_on = true;
        m.fail_rc = -ENOSPC;
        assert_int_equal(program(w, 0x100, 0), CMD(0x90));
        assert_non_null(strstr(w->events, "BLOCK_IO_ERROR"));
        assert_int_equal(word(w, 0x100), 0xffffffff);
        cmd(w, 0, 0x50);
        assert_int_equal(erase(w, 2 * BLOCK), CMD(0xa0));
        assert_int_equal(word(w, 2 * BLOCK), 0);
        finish(&f);
        memdisk_finish(&m);
    }
}

#define CHANGES 40

/* The i-th thing that a guest does; `now` becomes what it makes of the first two blocks. */
static void change(struct world *w, uint8_t *now, unsigned i)
{
    if (i % 10 == 9) {
        uint32_t block = BLOCK * (i / 10 % 2);
        memset(now + block, 0xff, BLOCK);
        assert_int_equal(erase(w, block), READY);
        return;
    }
    unsigned n = i % 3 ? 1 : 1 + (unsigned)rand() % 200;
    uint32_t off = (unsigned)rand() % (2 * BLOCK / 2048) * 2048;
    cmd(w, off, n == 1 ? 0x40 : 0xe8);
    if (n > 1) {
        cmd(w, off, n - 1);
    }
    for (unsigned k = 0; k < n; k++) {
        uint32_t v = (uint32_t)rand(), old;
        wr(w, FLASH + off + 4 * k, v, 4);
        memcpy(&old, now + off + 4 * k, 4);
        old &= htole32(v);
        memcpy(now + off + 4 * k, &old, 4);
    }
    if (n > 1) {
        cmd(w, off, 0xd0);
    }
    for (unsigned k = 0; k < 1000 && rd(w, FLASH, 4) != READY; k++) {
        loop_turn(w->loop, false);
    }
    assert_int_equal(rd(w, FLASH, 4), READY);
}

/* The power is cut behind each step of the disk: what the guest was told is done is there. */
static void power_cut_loses_nothing_that_is_ready(void **state)
{
    struct fixture f;
    struct memdisk m, from = {.max = CFI_FLASH_SIZE};
    uint8_t *now = g_malloc(2 * BLOCK), *old = g_malloc(2 * BLOCK);
    uint64_t seed = 1;
    init_memory(&m);
    memdisk_copy(&from, &m);
    memdisk_log_start(&m);
    struct world *w = begin(&f, NULL, &m);
    memset(now, 0xff, 2 * BLOCK);
    for (unsigned i = 0, cut = 0; i < CHANGES; i++) {
        memcpy(old, now, 2 * BLOCK);
        change(w, now, i);
        for (; cut <= m.log->len; cut++) { /* those during this change, and the one right behind it */
            struct memdisk after = {.max = CFI_FLASH_SIZE};
            memdisk_crash(&after, &from, m.log, cut, &seed);
            for (unsigned k = 0; k < 2 * BLOCK; k++) {
                if (after.data[k] != now[k] && (cut == m.log->len || after.data[k] != old[k])) {
                    fail_msg("change %u, cut %u of %u: byte %u is 0x%02x", i, cut, m.log->len, k, after.data[k]);
                }
            }
            memdisk_finish(&after);
        }
    }
    finish(&f);
    memdisk_finish(&m);
    memdisk_finish(&from);
    g_free(now);
    g_free(old);
}

/* --- standing still, state ------------------------------------------------------------------------------------------
 */

static void pause_waits_for_the_operation(void **state)
{
    struct fixture f;
    struct world *w = begin(&f, NULL, NULL);
    cmd(w, 0x100, 0x40);
    wr(w, FLASH + 0x100, 0x5a5a5a5a, 4);
    world_pause(w, f.d);
    assert_int_equal(rd(w, FLASH, 4), READY);
    assert_int_equal(on_disk(w, 0x100), 0x5a5a5a5a);
    cmd(w, 0x104, 0x40); /* as only a test's bus can do to a machine that stands */
    wr(w, FLASH + 0x104, 0, 4);
    world_settle(w);
    assert_int_equal(rd(w, FLASH, 4), 0);
    world_resume(w, f.d);
    world_settle(w);
    assert_int_equal(rd(w, FLASH, 4), READY);
    finish(&f);
}

static void state_moves_along(void **state)
{
    struct fixture a, b;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world *w = begin(&a, NULL, NULL);
    const struct state_section *s = a.d->cls->state;
    CLEANUP_FREE void *st = g_malloc0(s->size);
    cmd(w, 5 * BLOCK, 0x60);
    cmd(w, 5 * BLOCK, 0x01);
    cmd(w, 0, 0xe8);
    cmd(w, 0, 1);
    wr(w, FLASH + 0x100, 0x01020304, 4); /* one word of two */
    world_pause(w, a.d);
    s->get(a.d, st);
    w = begin(&b, NULL, NULL);
    world_pause(w, b.d);
    int fd = open(w->disk, O_WRONLY);
    assert_int_equal(pwrite(fd, "disk", 4, 0x300), 4); /* the disk that comes with the state has other content */
    close(fd);
    assert_int_equal(s->check(b.d, st, &e), 0);
    s->put(b.d, st);
    world_resume(w, b.d);
    wr(w, FLASH + 0x104, 0x05060708, 4);
    cmd(w, 0, 0xd0);
    world_settle(w);
    assert_int_equal(rd(w, FLASH, 4), READY);
    assert_int_equal(word(w, 0x100), 0x01020304);
    assert_int_equal(on_disk(w, 0x104), 0x05060708);
    assert_int_equal(program(w, 5 * BLOCK, 0), CMD(0x92));
    assert_int_equal(word(w, 0x300), 0x6b736964);
    /* Power-on. */
    b.d->cls->reset(b.d);
    assert_int_equal(rd(w, FLASH + 0x100, 4), 0x01020304);
    assert_int_equal(program(w, 5 * BLOCK, 0), READY);
    finish(&a);
    finish(&b);
}

static void drive_has_the_right_size(void **state)
{
    struct fixture f = {.e = ERR_INIT};
    world_init(&f.w);
    world_run(&f.w, make, &f);
    assert_true(f.rc < 0);
    assert_non_null(strstr(err_text(&f.e), "requires 33554432 bytes"));
    assert_null(f.d);
    err_clear(&f.e);
    world_finish(&f.w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_what_it_is),
        cmocka_unit_test(programming_clears_bits),
        cmocka_unit_test(buffer_is_programmed_at_once),
        cmocka_unit_test(sequences_without_meaning_are_errors),
        cmocka_unit_test(block_is_erased),
        cmocka_unit_test(locked_block_stays),
        cmocka_unit_test(read_only_drive_is_not_changed),
        cmocka_unit_test(failure_is_in_the_status),
        cmocka_unit_test(power_cut_loses_nothing_that_is_ready),
        cmocka_unit_test(pause_waits_for_the_operation),
        cmocka_unit_test(state_moves_along),
        cmocka_unit_test(drive_has_the_right_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
