/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/pcie_ecam.h"

#include "base/endian.h"

struct ecam {
    struct guest_mem *mem;
    struct pci_bus *bus;
    uint64_t gpa;
    struct pci_fn bridge;
};

static uint64_t ecam_read(void *opaque, uint64_t off, unsigned size)
{
    struct ecam *h = opaque;
    struct pci_fn *f = off >> 20 ? NULL : pci_bus_fn(h->bus, (unsigned)(off >> 12) & 0xff);
    return f ? pci_config_read(f, off & 0xfff, size) : 0xffffffffu >> (32 - 8 * size);
}

static void ecam_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct ecam *h = opaque;
    struct pci_fn *f = off >> 20 ? NULL : pci_bus_fn(h->bus, (unsigned)(off >> 12) & 0xff);
    if (f) {
        pci_config_write(f, off & 0xfff, (uint32_t)val, size);
    }
}

static const struct mmio_ops ecam_ops = {ecam_read, ecam_write, 1, 4};

struct ecam *ecam_create(struct guest_mem *m, struct pci_bus *bus, uint64_t gpa, uint64_t size, struct err *e)
{
    struct ecam *h = g_new0(struct ecam, 1);
    h->mem = m;
    h->bus = bus;
    h->gpa = gpa;
    pci_fn_init(&h->bridge, "gpex-root", h);
    pci_fn_set_ids(&h->bridge, 0x1b36, 0x0008, 0x06000000);
    store_le16(h->bridge.config + PCI_SUBSYSTEM_VENDOR, 0x1af4);
    store_le16(h->bridge.config + PCI_SUBSYSTEM_ID, 0x1100);
    const struct mmio_region r = {"pcie-ecam", gpa, size, &ecam_ops, h};
    if (pci_fn_plug(&h->bridge, bus, 0, e) < 0 || mmio_add(m, &r, e) < 0) {
        pci_fn_unplug(&h->bridge);
        pci_fn_finish(&h->bridge);
        g_free(h);
        return NULL;
    }
    return h;
}

void ecam_destroy(struct ecam *h)
{
    if (h) {
        mmio_remove(h->mem, &ecam_ops, h, h->gpa);
        pci_fn_unplug(&h->bridge);
        pci_fn_finish(&h->bridge);
        g_free(h);
    }
}

void ecam_reset(struct ecam *h)
{
    pci_fn_reset(&h->bridge);
}

/* --- state ------------------------------------------------------------------------------------------------------- */

static void state_get(void *object, void *st)
{
    pci_fn_state_get(&((struct ecam *)object)->bridge, st);
}

static int state_check(void *object, const void *st, struct err *e)
{
    return pci_fn_state_check(&((struct ecam *)object)->bridge, st, e);
}

static void state_put(void *object, const void *st)
{
    pci_fn_state_put(&((struct ecam *)object)->bridge, st);
}

static const char *const derived[] = {"status.interrupt", NULL};

const struct state_section ecam_state = {
    .name = "pci-host-ecam",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct pci_fn_state),
    .fields = pci_fn_state_fields,
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};
