/* SPDX-License-Identifier: BSD-2-Clause */
/* Configuration space through the ECAM, BARs that move, INTx, and virtio's PCI transport. */
#include "world.h"

#include "base/endian.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <string.h>

#define CFG(slot, off) (ECAM + ((uint64_t)(slot) << 15) + (off))

struct fixture {
    struct world w;
    struct device *d;
};

static void make(void *arg)
{
    struct fixture *f = arg;
    world_open_disk(&f->w, NULL, NULL);
    f->d = world_device(&f->w, "{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk\",\"id\":\"blk0\",\"addr\":\"3\"}");
}

static void end(void *arg)
{
    device_destroy(((struct fixture *)arg)->d);
}

static struct world *begin(struct fixture *f)
{
    world_init(&f->w);
    world_run(&f->w, make, f);
    return &f->w;
}

static void finish(struct fixture *f)
{
    world_run(&f->w, end, f);
    world_finish(&f->w);
}

static void identities(void **state)
{
    struct fixture f;
    struct world *w = begin(&f);
    assert_int_equal(rd(w, CFG(0, 0), 4), 0x00081b36);
    assert_int_equal(rd(w, CFG(1, 0), 4), 0xffffffff);
    assert_int_equal(rd(w, CFG(3, 0), 4), 0x10421af4);
    assert_int_equal(rd(w, CFG(3, 8), 4), 0x01000001);
    assert_int_equal(rd(w, CFG(3, 0x2c), 4), 0x11001af4);
    assert_int_equal(rd(w, CFG(3, 0x3d), 1), 1);
    wr(w, CFG(3, 0), 0, 4);
    assert_int_equal(rd(w, CFG(3, 0), 4), 0x10421af4);
    assert_int_equal(rd(w, CFG(3, 0xffc), 4), 0);
    assert_int_equal(rd(w, ECAM + (1 << 20), 2), 0xffff); /* another bus */
    finish(&f);
}

static void capabilities_are_a_list(void **state)
{
    struct fixture f;
    struct world *w = begin(&f);
    unsigned seen = 0, n = 0;
    assert_true(rd(w, CFG(3, 6), 2) & 0x10);
    for (unsigned at = (unsigned)rd(w, CFG(3, 0x34), 1); at; at = (unsigned)rd(w, CFG(3, at + 1), 1)) {
        assert_int_equal(rd(w, CFG(3, at), 1), 9);
        seen |= 1u << rd(w, CFG(3, at + 3), 1);
        assert_in_range(++n, 1, 16);
    }
    assert_int_equal(seen, 0x3e); /* common, notify, ISR, device, PCI access */
    finish(&f);
}

static void bars_move(void **state)
{
    struct fixture f;
    struct world *w = begin(&f);
    wr(w, CFG(3, 0x20), 0xffffffff, 4);
    wr(w, CFG(3, 0x24), 0xffffffff, 4);
    assert_int_equal(rd(w, CFG(3, 0x20), 4), 0xffffc00c);
    assert_int_equal(rd(w, CFG(3, 0x24), 4), 0xffffffff);
    assert_int_equal(rd(w, CFG(3, 0x10), 4), 0);
    wr(w, CFG(3, 0x20), 0x40000000, 4);
    wr(w, CFG(3, 0x24), 0, 4);
    assert_true(rd(w, 0x40000000 + 18, 2) == UINT64_MAX); /* memory decoding is off */
    wr(w, CFG(3, 4), 2, 2);
    assert_int_equal(rd(w, 0x40000000 + 18, 2), 2); /* queues */
    wr(w, CFG(3, 0x20), 0x50000000, 4);
    assert_true(rd(w, 0x40000000 + 18, 2) == UINT64_MAX);
    assert_int_equal(rd(w, 0x50000000 + 18, 2), 2);
    wr(w, CFG(3, 0x24), 4, 4); /* 0x4_5000_0000 */
    assert_int_equal(rd(w, 0x450000000 + 18, 2), 2);
    wr(w, CFG(3, 0x24), 0, 4);
    wr(w, CFG(3, 0x20), (uint32_t)RAM, 4); /* over RAM: nowhere */
    assert_true(rd(w, 0x50000000 + 18, 2) == UINT64_MAX);
    wr(w, CFG(3, 0x20), 0x10000000, 4); /* outside the windows */
    assert_true(rd(w, 0x10000000 + 18, 2) == UINT64_MAX);
    wr(w, CFG(3, 0x20), 0x60000000, 4);
    assert_int_equal(rd(w, 0x60000000 + 18, 2), 2);
    wr(w, CFG(3, 4), 0, 2);
    assert_true(rd(w, 0x60000000 + 18, 2) == UINT64_MAX);
    finish(&f);
}

static void bar_behind_configuration_space(void **state)
{
    struct fixture f;
    struct world *w = begin(&f);
    unsigned at = (unsigned)rd(w, CFG(3, 0x34), 1);
    while (rd(w, CFG(3, at + 3), 1) != 5) {
        at = (unsigned)rd(w, CFG(3, at + 1), 1);
    }
    wr(w, CFG(3, at + 4), 4, 1);
    wr(w, CFG(3, at + 8), 18, 4);
    wr(w, CFG(3, at + 12), 2, 4);
    assert_int_equal(rd(w, CFG(3, at + 16), 2), 2);
    wr(w, CFG(3, at + 8), 0x3ffe, 4);
    wr(w, CFG(3, at + 12), 4, 4); /* beyond the end: nothing */
    rd(w, CFG(3, at + 16), 4);
    wr(w, CFG(3, at + 8), 20, 4);
    wr(w, CFG(3, at + 12), 1, 4);
    wr(w, CFG(3, at + 16), 3, 1);
    assert_int_equal(rd(w, CFG(3, at + 16), 1), 3); /* device status */
    finish(&f);
}

static void intx_is_shared_and_masked(void **state)
{
    struct world w;
    struct pci_fn a, b;
    world_init(&w);
    pci_fn_init(&a, "a", NULL);
    pci_fn_init(&b, "b", NULL);
    a.config[PCI_INT_PIN] = b.config[PCI_INT_PIN] = 1;
    assert_int_equal(pci_fn_plug(&a, w.board.pci, 1 * 8, NULL), 0);
    assert_int_equal(pci_fn_plug(&b, w.board.pci, 5 * 8, NULL), 0); /* the same line: (slot + pin) mod 4 */
    pci_set_intx(&a, true);
    assert_true(w.line[2]);
    pci_set_intx(&b, true);
    pci_set_intx(&a, false);
    assert_true(w.line[2]);
    assert_int_equal(rd(&w, CFG(5, 6), 2) & 8, 8);
    wr(&w, CFG(5, 4), 0x400, 2);
    assert_false(w.line[2]);
    assert_int_equal(rd(&w, CFG(5, 6), 2) & 8, 8);
    wr(&w, CFG(5, 4), 0, 2);
    assert_true(w.line[2]);
    pci_fn_unplug(&b);
    assert_false(w.line[2]);
    pci_fn_unplug(&a);
    pci_fn_finish(&a);
    pci_fn_finish(&b);
    world_finish(&w);
}

static void places_are_taken_once(void **state)
{
    struct fixture f;
    struct world *w = begin(&f);
    struct pci_fn x;
    struct err e = ERR_INIT;
    pci_fn_init(&x, "second", NULL);
    assert_int_equal(pci_fn_plug(&x, w->board.pci, 3 * 8, &e), -EBUSY);
    assert_non_null(strstr(err_text(&e), "in use by blk0"));
    assert_int_equal(pci_fn_plug(&x, w->board.pci, 3 * 8 + 1, &e), -EINVAL);
    assert_non_null(strstr(err_text(&e), "multifunction"));
    assert_int_equal(pci_bus_free_slot(w->board.pci), 1);
    err_clear(&e);
    pci_fn_finish(&x);
    finish(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identities),
        cmocka_unit_test(capabilities_are_a_list),
        cmocka_unit_test(bars_move),
        cmocka_unit_test(bar_behind_configuration_space),
        cmocka_unit_test(intx_is_shared_and_masked),
        cmocka_unit_test(places_are_taken_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
