/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine types and what each keeps from before, as data.
 *
 * Laws:
 * 1. A type that was released never changes: its fingerprint (tests/cli/sterna/fingerprint) and the format of its
 * state.
 * 2. What a guest could see changes only by a property whose new value is the default. In the same commit every older
 *    type gets a row with the old value.
 * 3. A type's state list names every section that there is, in the version and with the subsections that the release
 *    wrote. What came later is not in it, and is never needed while the properties are as the type has them.
 * 4. What two programs say to each other about a machine that moves grows by words, of which each release before gets
 *    the name in its list of unsaid ones.
 */
#include "machine/machine.h"

#include <string.h>

#define CPU "riscv-cpu" /* properties of -cpu */

/* --- virt-0.1 ----------------------------------------------------------------------------------------------------- */

static const struct machine_compat compat_0_1[] = {
    {CPU, "zihintntl", "off"},
    {"virtio-blk-pci", "queue-size", "256"},
    {"virtio-blk-pci", "queue_reset", "off"},
    {"virtio-blk-device", "queue-size", "256"},
    {"virtio-blk-device", "queue_reset", "off"},
    {NULL},
};

static const char *const no_subsections[] = {NULL};
static const char *const virtio_0_1[] = {"parked", NULL};

static const struct state_compat state_0_1[] = {
    {"clock", 1, no_subsections},
    {"riscv-hart", 1, no_subsections},
    {"plic", 1, no_subsections},
    {"uart16550", 1, no_subsections},
    {"goldfish-rtc", 1, no_subsections},
    {"fw-cfg", 1, no_subsections},
    {"pci-host-ecam", 1, no_subsections},
    {"virtio-blk-pci", 1, virtio_0_1},
    {"virtio-blk-mmio", 1, virtio_0_1},
    {"virtio-rng-pci", 0, no_subsections},
    {"virtio-rng-mmio", 0, no_subsections},
    {"virtio-net-pci", 0, no_subsections},
    {"virtio-net-mmio", 0, no_subsections},
    {"virtio-scsi-pci", 0, no_subsections},
    {"virtio-scsi-mmio", 0, no_subsections},
    {"scsi-disk", 0, no_subsections},
    {"cfi-flash", 0, no_subsections},
    {NULL},
};

static const char *const unsaid_0_1[] = {"multifd.answers", "multifd.live",   "jobs.files", "jobs.groups", "jobs.kept",
                                         "jobs.none",       "disks.progress", "live-pages", NULL};

/* --- virt-0.2 ----------------------------------------------------------------------------------------------------- */

static const struct machine_compat compat_0_2[] = {{NULL}};

static const char *const virtio_0_2[] = {"parked", "queue-reset", NULL};

static const struct state_compat state_0_2[] = {
    {"clock", 1, no_subsections},         {"riscv-hart", 1, no_subsections},   {"plic", 1, no_subsections},
    {"uart16550", 1, no_subsections},     {"goldfish-rtc", 1, no_subsections}, {"fw-cfg", 1, no_subsections},
    {"pci-host-ecam", 1, no_subsections}, {"virtio-blk-pci", 1, virtio_0_2},   {"virtio-blk-mmio", 1, virtio_0_2},
    {"virtio-rng-pci", 1, virtio_0_2},    {"virtio-rng-mmio", 1, virtio_0_2},  {"virtio-net-pci", 1, virtio_0_2},
    {"virtio-net-mmio", 1, virtio_0_2},   {"virtio-scsi-pci", 1, virtio_0_2},  {"virtio-scsi-mmio", 1, virtio_0_2},
    {"scsi-disk", 1, no_subsections},     {"cfi-flash", 1, no_subsections},    {NULL},
};

static const char *const unsaid_0_2[] = {NULL};

/* --- all of them -------------------------------------------------------------------------------------------------- */

#define VIRT "RISC-V VirtIO board, as QEMU's"

const struct machine_type_info machine_types[] = {
    {"none", NULL, "empty machine", false, 0},
    {"virt-0.1", NULL, VIRT, false, 8},
    {"virt-0.2", "virt", VIRT, true, 8},
    {NULL},
};

/* "none" has no board, hence no type here. */
const struct machine_release machine_releases[] = {
    {&machine_types[1], &machine_virt, compat_0_1, state_0_1, unsaid_0_1},
    {&machine_types[2], &machine_virt, compat_0_2, state_0_2, unsaid_0_2},
    {NULL},
};

const char *machine_compat_value(const struct machine_release *r, const char *driver, const char *prop)
{
    for (const struct machine_compat *c = r->compat; c->driver; c++) {
        if (!strcmp(c->driver, driver) && !strcmp(c->prop, prop)) {
            return c->value;
        }
    }
    return NULL;
}

char *machine_cpu_compat(const struct machine_release *r)
{
    GString *out = g_string_new(NULL);
    for (const struct machine_compat *c = r->compat; c->driver; c++) {
        if (!strcmp(c->driver, CPU)) {
            g_string_append_printf(out, "%s%s=%s", out->len ? "," : "", c->prop, c->value);
        }
    }
    return g_string_free(out, false);
}
