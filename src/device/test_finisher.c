/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/test_finisher.h"

#include <glib.h>

struct finisher {
    struct guest_mem *mem;
    uint64_t gpa;
    struct finisher_host host;
};

static uint64_t finisher_read(void *opaque, uint64_t off, unsigned size)
{
    return 0;
}

static void finisher_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct finisher *f = opaque;
    if (off != 0) {
        return;
    }
    switch (val & 0xffff) {
    case 0x5555:
        f->host.shutdown(f->host.opaque, 0);
        break;
    case 0x3333:
        f->host.shutdown(f->host.opaque, (unsigned)(val >> 16) & 0xffff);
        break;
    case 0x7777:
        f->host.reset(f->host.opaque);
        break;
    default:
        break;
    }
}

static const struct mmio_ops finisher_ops = {finisher_read, finisher_write, 2, 4};

struct finisher *finisher_create(struct guest_mem *m, uint64_t gpa, const struct finisher_host *h, struct err *e)
{
    struct finisher *f = g_new0(struct finisher, 1);
    f->mem = m;
    f->gpa = gpa;
    f->host = *h;
    const struct mmio_region r = {"test", gpa, 0x1000, &finisher_ops, f};
    if (mmio_add(m, &r, e) < 0) {
        g_free(f);
        return NULL;
    }
    return f;
}

void finisher_destroy(struct finisher *f)
{
    if (f) {
        mmio_remove(f->mem, &finisher_ops, f, f->gpa);
        g_free(f);
    }
}
