/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/pci.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <stdatomic.h>

enum { INTX_LEVEL = 1, INTX_DISABLED = 2 };
#define MAX_WINDOWS 4

struct intx_wire {
    struct irq_line line;
    _Atomic int asserted;   /* functions that pull it */
    _Atomic uint32_t stale; /* see wire_update() */
};

struct pci_bus {
    struct guest_mem *mem;
    struct pci_fn *fn[PCI_SLOTS * 8];
    struct intx_wire wire[4];
    struct {
        uint64_t base, size;
    } window[MAX_WINDOWS];
    unsigned n_windows;
};

struct pci_bus *pci_bus_create(struct guest_mem *m, const struct irq_line lines[4])
{
    struct pci_bus *b = g_new0(struct pci_bus, 1);
    b->mem = m;
    for (unsigned i = 0; i < 4; i++) {
        b->wire[i].line = lines[i];
    }
    return b;
}

void pci_bus_destroy(struct pci_bus *b)
{
    g_free(b);
}

struct pci_fn *pci_bus_fn(struct pci_bus *b, unsigned devfn)
{
    return devfn < PCI_SLOTS * 8 ? b->fn[devfn] : NULL;
}

int pci_bus_free_slot(struct pci_bus *b)
{
    for (unsigned slot = 1; slot < PCI_SLOTS; slot++) {
        bool used = false;
        for (unsigned i = 0; i < 8; i++) {
            used = used || b->fn[slot * 8 + i];
        }
        if (!used) {
            return (int)slot;
        }
    }
    return -1;
}

void pci_bus_add_window(struct pci_bus *b, uint64_t base, uint64_t size)
{
    if (b->n_windows < MAX_WINDOWS) {
        b->window[b->n_windows].base = base;
        b->window[b->n_windows++].size = size;
    }
}

/* --- INTx ------------------------------------------------------------------------------------------------------ */

/* Whoever finds `stale` at zero drives the line until nobody has changed anything meanwhile. */
static void wire_update(struct intx_wire *w)
{
    if (atomic_fetch_add(&w->stale, 1) != 0) {
        return;
    }
    uint32_t seen;
    do {
        seen = w->stale;
        irq_set(&w->line, w->asserted > 0);
    } while (!atomic_compare_exchange_strong(&w->stale, &seen, 0));
}

static struct intx_wire *wire_of(const struct pci_fn *f)
{
    unsigned pin = f->config[PCI_INT_PIN] - 1u;
    return &f->bus->wire[(f->devfn / 8 + pin) % 4];
}

unsigned pci_fn_line(const struct pci_fn *f)
{
    return wire_of(f)->line.n;
}

static void intx_change(struct pci_fn *f, uint32_t clear, uint32_t set)
{
    uint32_t old = f->intx, new;
    do {
        new = (old & ~clear) | set;
    } while (!atomic_compare_exchange_weak(&f->intx, &old, new));
    int delta = (new == INTX_LEVEL) - (old == INTX_LEVEL);
    if (delta && f->bus && f->config[PCI_INT_PIN]) {
        struct intx_wire *w = wire_of(f);
        atomic_fetch_add(&w->asserted, delta);
        wire_update(w);
    }
}

void pci_set_intx(struct pci_fn *f, bool level)
{
    intx_change(f, level ? 0 : INTX_LEVEL, level ? INTX_LEVEL : 0);
}

static void intx_set_line(void *opaque, unsigned n, bool level)
{
    pci_set_intx(opaque, level);
}

struct irq_line pci_intx_line(struct pci_fn *f)
{
    return (struct irq_line){intx_set_line, f, 0};
}

/* --- functions ------------------------------------------------------------------------------------------------- */

void pci_fn_init(struct pci_fn *f, const char *name, void *opaque)
{
    memset(f, 0, sizeof(*f));
    f->name = name;
    f->opaque = opaque;
    f->cap_end = 0x40;
    pthread_mutex_init(&f->mutex, NULL);
    store_le16(f->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    f->writable[PCI_CACHE_LINE] = 0xff;
    f->writable[PCI_INT_LINE] = 0xff;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        f->bar[i].mapped = UINT64_MAX;
    }
}

void pci_fn_finish(struct pci_fn *f)
{
    pthread_mutex_destroy(&f->mutex);
}

void pci_fn_set_ids(struct pci_fn *f, uint16_t vendor, uint16_t device, uint32_t class_rev)
{
    store_le16(f->config + PCI_VENDOR_ID, vendor);
    store_le16(f->config + PCI_DEVICE_ID, device);
    store_le32(f->config + PCI_REVISION, class_rev);
}

void pci_fn_add_bar(struct pci_fn *f, unsigned n, uint64_t size, unsigned flags, const struct mmio_ops *ops)
{
    f->bar[n].size = size;
    f->bar[n].flags = flags;
    f->bar[n].ops = ops;
    uint64_t mask = ~(size - 1);
    store_le32(f->config + PCI_BAR0 + 4 * n, flags);
    store_le32(f->writable + PCI_BAR0 + 4 * n, (uint32_t)mask & ~0xfu);
    if (flags & PCI_BAR_MEM64) {
        store_le32(f->writable + PCI_BAR0 + 4 * n + 4, (uint32_t)(mask >> 32));
    }
}

unsigned pci_fn_add_cap(struct pci_fn *f, uint8_t id, unsigned len)
{
    unsigned at = f->cap_end;
    f->config[at] = id;
    f->config[at + 1] = 0;
    f->config[f->last_cap ? f->last_cap + 1 : PCI_CAP_POINTER] = (uint8_t)at;
    f->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    f->last_cap = at;
    f->cap_end = (at + len + 3) & ~3u;
    return at;
}

/* --- base address registers ------------------------------------------------------------------------------------- */

static bool in_window(const struct pci_bus *b, uint64_t base, uint64_t size)
{
    for (unsigned i = 0; i < b->n_windows; i++) {
        if (base >= b->window[i].base && range_ok(base - b->window[i].base, size, b->window[i].size)) {
            return true;
        }
    }
    return false;
}

/* Where the guest wants BAR n now; UINT64_MAX: nowhere. */
static uint64_t bar_wanted(struct pci_fn *f, unsigned n)
{
    const struct pci_bar *bar = &f->bar[n];
    if (!f->bus || !(load_le16(f->config + PCI_COMMAND) & PCI_COMMAND_MEMORY)) {
        return UINT64_MAX;
    }
    uint64_t base = load_le32(f->config + PCI_BAR0 + 4 * n) & ~0xfu;
    if (bar->flags & PCI_BAR_MEM64) {
        base |= (uint64_t)load_le32(f->config + PCI_BAR0 + 4 * n + 4) << 32;
    }
    return in_window(f->bus, base, bar->size) ? base : UINT64_MAX;
}

static void bar_unmap(struct pci_fn *f, struct pci_bar *bar)
{
    if (bar->mapped != UINT64_MAX) {
        mmio_remove(f->bus->mem, bar->ops, f->opaque, bar->mapped);
        bar->mapped = UINT64_MAX;
    }
}

static void bar_map(struct pci_fn *f, struct pci_bar *bar, uint64_t base)
{
    const struct mmio_region r = {f->name, base, bar->size, bar->ops, f->opaque};
    if (base != UINT64_MAX && mmio_add(f->bus->mem, &r, NULL) == 0) {
        bar->mapped = base;
    }
}

/* A BAR that would overlap something else stays unmapped until it is moved again: the guest's mistake, not ours. */
static void bars_update(struct pci_fn *f)
{
    for (unsigned n = 0; n < PCI_BARS; n++) {
        struct pci_bar *bar = &f->bar[n];
        uint64_t want = bar->size ? bar_wanted(f, n) : UINT64_MAX;
        if (want == bar->mapped) {
            continue;
        }
        bar_unmap(f, bar);
        bar_map(f, bar, want);
    }
}

/* --- configuration space ---------------------------------------------------------------------------------------- */

static void refresh_status(struct pci_fn *f)
{
    uint8_t st = f->config[PCI_STATUS] & (uint8_t)~PCI_STATUS_INTERRUPT;
    f->config[PCI_STATUS] = (uint8_t)(st | (f->intx & INTX_LEVEL ? PCI_STATUS_INTERRUPT : 0));
}

uint32_t pci_config_read(struct pci_fn *f, unsigned off, unsigned size)
{
    if (!range_ok(off, size, PCI_CONFIG_SIZE)) {
        return 0;
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    uint32_t val = 0;
    refresh_status(f);
    if (f->config_read) {
        f->config_read(f, off, size);
    }
    for (unsigned i = 0; i < size; i++) {
        val |= (uint32_t)f->config[off + i] << (8 * i);
    }
    return val;
}

void pci_config_write(struct pci_fn *f, unsigned off, uint32_t val, unsigned size)
{
    if (!range_ok(off, size, PCI_CONFIG_SIZE)) {
        return;
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    for (unsigned i = 0; i < size; i++) {
        uint8_t w = f->writable[off + i];
        f->config[off + i] = (uint8_t)((f->config[off + i] & ~w) | ((val >> (8 * i)) & w));
    }
    if (ranges_overlap(off, size, PCI_COMMAND, 2)) {
        bool off_now = load_le16(f->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
        intx_change(f, off_now ? 0 : INTX_DISABLED, off_now ? INTX_DISABLED : 0);
        bars_update(f);
    } else if (ranges_overlap(off, size, PCI_BAR0, 4 * PCI_BARS)) {
        bars_update(f);
    }
    if (f->config_written) {
        f->config_written(f, off, size);
    }
}

/* --- life ------------------------------------------------------------------------------------------------------ */

int pci_fn_plug(struct pci_fn *f, struct pci_bus *b, unsigned devfn, struct err *e)
{
    if (b->fn[devfn]) {
        return err_set(e, EBUSY, "PCI: slot %u function %u not available for %s, in use by %s", devfn / 8, devfn % 8,
                       f->name, b->fn[devfn]->name);
    }
    if (devfn % 8 && !(b->fn[devfn & ~7u] && b->fn[devfn & ~7u]->config[PCI_HEADER_TYPE] & 0x80)) {
        return err_set(e, EINVAL, "PCI: %x.0 must be plugged first, with multifunction=on, before %s can be %x.%x",
                       devfn / 8, f->name, devfn / 8, devfn % 8);
    }
    f->bus = b;
    f->devfn = devfn;
    b->fn[devfn] = f;
    return 0;
}

void pci_fn_reset(struct pci_fn *f)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        f->config[i] &= (uint8_t)~f->writable[i];
    }
    intx_change(f, INTX_LEVEL | INTX_DISABLED, 0);
    bars_update(f);
}

void pci_fn_unplug(struct pci_fn *f)
{
    if (f->bus) {
        pci_fn_reset(f);
        f->bus->fn[f->devfn] = NULL;
        f->bus = NULL;
    }
}

/* --- state ------------------------------------------------------------------------------------------------------- */

const struct state_field pci_fn_state_fields[] = {
    STATE_BYTES(struct pci_fn_state, config, .help = "configuration space"),
    STATE_BOOLS(struct pci_fn_state, mapped, .help = "of each base address: its registers are there"),
    {0},
};

void pci_bus_unmap_bars(struct pci_bus *b)
{
    for (unsigned i = 0; i < PCI_SLOTS * 8; i++) {
        struct pci_fn *f = b->fn[i];
        if (!f) {
            continue;
        }
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
        for (unsigned n = 0; n < PCI_BARS; n++) {
            bar_unmap(f, &f->bar[n]);
        }
    }
}

void pci_fn_state_get(struct pci_fn *f, struct pci_fn_state *s)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    refresh_status(f);
    memcpy(s->config, f->config, sizeof(s->config));
    for (unsigned n = 0; n < PCI_BARS; n++) {
        s->mapped[n] = f->bar[n].mapped != UINT64_MAX;
    }
}

int pci_fn_state_check(struct pci_fn *f, const struct pci_fn_state *s, struct err *e)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        uint8_t fixed = (uint8_t) ~(f->writable[i] | (i == PCI_STATUS ? PCI_STATUS_INTERRUPT : 0));
        if ((s->config[i] ^ f->config[i]) & fixed) {
            return err_set(e, EINVAL, "byte 0x%02x of its PCI configuration space is 0x%02x and must be 0x%02x here", i,
                           s->config[i], f->config[i]);
        }
    }
    for (unsigned n = 0; n < PCI_BARS; n++) {
        if (s->mapped[n] && !f->bar[n].size) {
            return err_set(e, EINVAL, "it has no base address register %u", n);
        }
    }
    return 0;
}

void pci_fn_state_put(struct pci_fn *f, const struct pci_fn_state *s)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        f->config[i] = (uint8_t)((f->config[i] & ~f->writable[i]) | (s->config[i] & f->writable[i]));
    }
    bool off = load_le16(f->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
    intx_change(f, INTX_LEVEL | INTX_DISABLED, off ? INTX_DISABLED : 0);
    for (unsigned n = 0; n < PCI_BARS; n++) {
        bar_unmap(f, &f->bar[n]);
        if (s->mapped[n]) {
            bar_map(f, &f->bar[n], bar_wanted(f, n));
        }
    }
}
