/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/fingerprint.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "device/pci.h"
#include "machine/machine.h"
#include "machine/state.h"
#include "state/schema.h"

#include <inttypes.h>
#include <libfdt.h>
#include <string.h>

/* --- device tree ------------------------------------------------------------------------------------------------- */

/* One or more texts, each ended by NUL, of letters that can be shown. */
static bool is_text(const uint8_t *p, int len)
{
    if (len < 2 || p[len - 1] || !p[0]) {
        return false;
    }
    for (int i = 0; i < len; i++) {
        if (p[i] ? !g_ascii_isprint(p[i]) : i > 0 && !p[i - 1]) {
            return false;
        }
    }
    return true;
}

static void put_value(GString *out, const uint8_t *p, int len)
{
    if (is_text(p, len)) {
        for (int i = 0; i < len; i += (int)strlen((const char *)p + i) + 1) {
            g_string_append_printf(out, "%s\"%s\"", i ? ", " : "", p + i);
        }
    } else if (len % 4 == 0) {
        g_string_append(out, "<");
        for (int i = 0; i < len; i += 4) {
            g_string_append_printf(out, "%s0x%x", i ? " " : "", load_be32(p + i));
        }
        g_string_append(out, ">");
    } else {
        g_string_append(out, "[");
        for (int i = 0; i < len; i++) {
            g_string_append_printf(out, "%s%02x", i ? " " : "", p[i]);
        }
        g_string_append(out, "]");
    }
    g_string_append_c(out, '\n');
}

static void put_properties(GString *out, const void *fdt, int node)
{
    char path[256];
    int prop, len;
    if (fdt_get_path(fdt, node, path, sizeof(path)) < 0) {
        strcpy(path, "?");
    }
    fdt_for_each_property_offset(prop, fdt, node)
    {
        const char *name;
        const void *val = fdt_getprop_by_offset(fdt, prop, &name, &len);
        if (!val || !strcmp(name, "rng-seed")) {
            continue;
        }
        g_string_append_printf(out, "device-tree %s %s", path, name);
        if (len) {
            g_string_append(out, " = ");
            put_value(out, val, len);
        } else {
            g_string_append_c(out, '\n');
        }
    }
}

static int put_device_tree(GString *out, struct machine *m, struct err *e)
{
    size_t size;
    CLEANUP_FREE void *fdt = m->type->device_tree(m, &size, e);
    if (!fdt) {
        return -EINVAL;
    }
    for (int node = 0; node >= 0; node = fdt_next_node(fdt, node, NULL)) {
        put_properties(out, fdt, node);
    }
    return 0;
}

/* --- buses ------------------------------------------------------------------------------------------------------- */

static void put_map(GString *out, struct guest_mem *mem)
{
    struct guest_ram *r;
    struct mmio_region w;
    for (unsigned i = 0; (r = guest_ram_get(mem, i)); i++) {
        g_string_append_printf(out, "memory 0x%" PRIx64 " 0x%" PRIx64 " %s\n", r->gpa, r->size, r->name);
    }
    for (unsigned i = 0; mmio_get(mem, i, &w); i++) {
        g_string_append_printf(out, "registers 0x%" PRIx64 " 0x%" PRIx64 " %s\n", w.gpa, w.size, w.name);
    }
}

static void put_function(GString *out, const struct pci_fn *f)
{
    CLEANUP_FREE char *at = g_strdup_printf("pci 00:%02x.%x", f->devfn / 8, f->devfn % 8);
    g_string_append_printf(out, "%s %s\n", at, f->name);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (f->bar[i].size) {
            g_string_append_printf(out, "%s bar %u = 0x%" PRIx64 ", flags 0x%x\n", at, i, f->bar[i].size,
                                   f->bar[i].flags);
        }
    }
    if (f->config[PCI_INT_PIN]) {
        g_string_append_printf(out, "%s interrupt %u\n", at, pci_fn_line(f));
    }
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i += 4) {
        uint32_t value = load_le32(f->config + i), writable = load_le32(f->writable + i);
        if (value || writable) {
            g_string_append_printf(out, "%s config 0x%02x = 0x%08x, writable 0x%08x\n", at, i, value, writable);
        }
    }
}

/* --- state: what every register holds at power-on ------------------------------------------------------------------
 */

static uint64_t scalar(const struct state_field *f, const uint8_t *at)
{
    switch (f->stride) {
    case 1:
        return *at;
    case 2:
        return *(const uint16_t *)(const void *)at;
    case 4:
        return *(const uint32_t *)(const void *)at;
    default:
        return *(const uint64_t *)(const void *)at;
    }
}

/* What the time of day decides. */
static bool varies(const char *path, const char *name)
{
    return !strcmp(path, "/machine/rtc") && !strcmp(name, "offset_ns");
}

static void put_fields(GString *out, const char *path, const char *prefix, const struct state_field *f,
                       const uint8_t *st);

static void put_field(GString *out, const char *path, const char *prefix, const struct state_field *f,
                      const uint8_t *st)
{
    const uint8_t *at = st + f->offset;
    unsigned used = f->used ? *(const uint32_t *)(const void *)(st + f->used - 1) : f->count;
    if (f->type == STATE_TYPE_STRUCT) {
        for (unsigned i = 0; i < used; i++) {
            CLEANUP_FREE char *inner = f->count > 1 ? g_strdup_printf("%s%s[%u].", prefix, f->name, i)
                                                    : g_strdup_printf("%s%s.", prefix, f->name);
            put_fields(out, path, inner, f->sub, at + i * f->stride);
        }
        return;
    }
    g_string_append_printf(out, "state %s %s%s =", path, prefix, f->name);
    while (f->count > 1 && used > 1 && !scalar(f, at + (used - 1) * f->stride)) {
        used--; /* zeroes at the end */
    }
    for (unsigned i = 0; i < used && f->type == STATE_TYPE_BYTES; i++) {
        g_string_append_printf(out, "%s%02x", i ? "" : " ", at[i]);
    }
    for (unsigned i = 0; i < used && f->type != STATE_TYPE_BYTES; i++) {
        g_string_append_printf(out, " 0x%" PRIx64, scalar(f, at + i * f->stride));
    }
    g_string_append_c(out, '\n');
}

static void put_fields(GString *out, const char *path, const char *prefix, const struct state_field *f,
                       const uint8_t *st)
{
    for (; f->name; f++) {
        if (!varies(path, f->name) && !(f->flags & STATE_ANCILLARY)) {
            put_field(out, path, prefix, f, st);
        }
    }
}

/* Of the section as this machine type writes it. */
static char *schema_hash(struct vm *vm, const struct state_section *s)
{
    const struct state_policy p = {.compat = vm->machine->release->state};
    const struct state_compat *c = state_policy_compat(&p, s->name);
    return state_schema_hash_as(s, c ? c->version : 0, c ? c->subsections : NULL);
}

static bool has_subsection(struct vm *vm, const struct state_section *s, const char *name)
{
    const struct state_policy p = {.compat = vm->machine->release->state};
    const struct state_compat *c = state_policy_compat(&p, s->name);
    return !c || !c->subsections || g_strv_contains(c->subsections, name);
}

static void put_state(GString *out, struct vm *vm)
{
    struct vm_state *s = vm_state_create(vm);
    vm_state_get(s);
    for (unsigned i = 0; i < s->n; i++) {
        const struct vm_state_item *it = &s->item[i];
        CLEANUP_FREE char *hash = schema_hash(vm, it->section);
        g_string_append_printf(out, "state %s %s version %u, schema %.16s\n", it->path, it->section->name,
                               it->section->version, hash);
        for (const struct state_subsection *x = it->section->subsections; x && x->name; x++) {
            if (has_subsection(vm, it->section, x->name)) {
                g_string_append_printf(out, "state %s subsection %s\n", it->path, x->name);
            }
        }
        put_fields(out, it->path, "", it->section->fields, it->st);
    }
    vm_state_destroy(s);
}

/* --- all of it --------------------------------------------------------------------------------------------------- */

char *vm_fingerprint(struct vm *vm, struct err *e)
{
    if (!vm->machine) {
        err_set(e, ENODEV, "machine 'none' has nothing that a guest could see");
        return NULL;
    }
    GString *out = g_string_new(NULL);
    CLEANUP_FREE char *firmware = vm->accel_ops->describe_firmware(vm->accel);
    struct pci_bus *pci = vm->machine->board.pci;
    g_string_append_printf(out, "machine %s\n%s", vm->machine->release->info->name, firmware);
    put_map(out, vm->mem);
    for (unsigned i = 0; pci && i < PCI_SLOTS * 8; i++) {
        const struct pci_fn *f = pci_bus_fn(pci, i);
        if (f) {
            put_function(out, f);
        }
    }
    put_state(out, vm);
    int rc = put_device_tree(out, vm->machine, e);
    return g_string_free(out, rc < 0);
}

int vm_fingerprint_write(struct vm *vm, const char *file, struct err *e)
{
    g_autoptr(GError) ge = NULL;
    CLEANUP_FREE char *text = vm_fingerprint(vm, e);
    if (!text) {
        return -EINVAL;
    }
    if (!g_file_set_contents_full(file, text, -1, G_FILE_SET_CONTENTS_NONE, 0666, &ge)) {
        return err_set(e, EIO, "could not write fingerprint '%s': %s", file, ge->message);
    }
    return 0;
}
