/* SPDX-License-Identifier: BSD-2-Clause */
/* -cpu, and how the device tree names what it chose (Linux: Documentation/devicetree/bindings/riscv). */
#include "cpu/riscv/rv.h"

#include "base/nearest.h"

#include <glib.h>
#include <libfdt.h>
#include <string.h>

struct ext_desc {
    const char *name; /* the property, and the name in riscv,isa-extensions */
    enum rv_ext ext;
    bool in_isa; /* a multi-letter part of riscv,isa */
};

/* In the canonical order of ISA strings. */
static const struct ext_desc ext_table[] = {
    {"f", RV_F, false},
    {"d", RV_D, false},
    {"zicbom", RV_ZICBOM, true},
    {"zicboz", RV_ZICBOZ, true},
    {"zicond", RV_ZICOND, true},
    {"zihintntl", RV_ZIHINTNTL, true},
    {"zihintpause", RV_ZIHINTPAUSE, true},
    {"zba", RV_ZBA, true},
    {"zbb", RV_ZBB, true},
    {"zbs", RV_ZBS, true},
    {"sstc", RV_SSTC, true},
    {"svadu", RV_SVADU, true},
    {"sv48", RV_SV48, false},
};
#define EXT_N (sizeof(ext_table) / sizeof(ext_table[0]))

static const char *const model_names[] = {"max", "rv64", NULL};

static bool parse_bool(const char *s, bool *out)
{
    *out = !strcmp(s, "on") || !strcmp(s, "true") || !strcmp(s, "yes");
    return *out || !strcmp(s, "off") || !strcmp(s, "false") || !strcmp(s, "no");
}

static int parse_property(const char *model, const char *text, struct rv_model *m, struct err *e)
{
    g_auto(GStrv) kv = g_strsplit(text, "=", 2);
    const char *names[EXT_N + 1] = {NULL};
    bool on = true;
    for (unsigned i = 0; i < EXT_N; i++) {
        names[i] = ext_table[i].name;
        if (kv[0] && !strcmp(kv[0], names[i])) {
            if (kv[1] && !parse_bool(kv[1], &on)) {
                return err_set(e, EINVAL, "-cpu: property '%s' takes 'on' or 'off', not '%s'", kv[0], kv[1]);
            }
            m->exts = (m->exts & ~(1u << ext_table[i].ext)) | (uint32_t)on << ext_table[i].ext;
            return 0;
        }
    }
    const char *name = kv[0] ? kv[0] : "", *near = nearest_word(name, names);
    return err_set(e, EINVAL, "Property '%s-riscv-cpu.%s' not found%s%s%s", model, name, near ? "; did you mean '" : "",
                   near ? near : "", near ? "'?" : "");
}

int rv_model_parse(const char *cpu, const char *compat, struct rv_model *m, struct err *e)
{
    g_auto(GStrv) part = g_strsplit(cpu ? cpu : "max", ",", -1);
    const char *name = part[0] ? part[0] : "";
    m->exts = (1u << RV_EXTS) - 1;
    if (!g_strv_contains(model_names, name)) {
        const char *near = nearest_word(name, model_names);
        return err_set(e, EINVAL, "unable to find CPU model '%s': there is '%s'", name, near ? near : "max' and 'rv64");
    }
    g_auto(GStrv) before = g_strsplit(compat ? compat : "", ",", -1);
    int rc = 0;
    for (unsigned i = 0; before[i] && !rc; i++) {
        rc = parse_property(name, before[i], m, e);
    }
    for (unsigned i = 1; part[i] && !rc; i++) {
        rc = parse_property(name, part[i], m, e);
    }
    if (rc) {
        return rc;
    }
    if (m->exts >> RV_D & 1 && !(m->exts >> RV_F & 1)) {
        return err_set(e, EINVAL, "-cpu: 'd' needs 'f'; turn both off");
    }
    return 0;
}

const char *rv_ext_name(unsigned ext)
{
    for (unsigned i = 0; i < EXT_N; i++) {
        if (ext_table[i].ext == ext) {
            return ext_table[i].name;
        }
    }
    return NULL;
}

static void add_list(GByteArray *a, const char *s)
{
    g_byte_array_append(a, (const uint8_t *)s, (unsigned)strlen(s) + 1);
}

int rv_model_describe(const struct rv_model *m, void *fdt, int node)
{
    bool f = m->exts >> RV_F & 1, d = m->exts >> RV_D & 1;
    g_autoptr(GString) isa = g_string_new("rv64ima");
    g_autoptr(GByteArray) list = g_byte_array_new();
    g_string_append_printf(isa, "%s%sc_zicntr_zicsr_zifencei_zihpm", f ? "f" : "", d ? "d" : "");
    for (const char *const *s = (const char *const[]){"i", "m", "a", "c", "zicntr", "zicsr", "zifencei", "zihpm", NULL};
         *s; s++) {
        add_list(list, *s);
    }
    for (unsigned i = 0; i < EXT_N; i++) {
        if (m->exts >> ext_table[i].ext & 1) {
            if (ext_table[i].in_isa) {
                g_string_append_printf(isa, "_%s", ext_table[i].name);
            }
            if (ext_table[i].ext != RV_SV48) {
                add_list(list, ext_table[i].name);
            }
        }
    }
    int rc = fdt_setprop_string(fdt, node, "riscv,isa", isa->str);
    rc = rc ? rc : fdt_setprop_string(fdt, node, "riscv,isa-base", "rv64i");
    rc = rc ? rc : fdt_setprop(fdt, node, "riscv,isa-extensions", list->data, (int)list->len);
    rc = rc ? rc : fdt_setprop_string(fdt, node, "mmu-type", m->exts >> RV_SV48 & 1 ? "riscv,sv48" : "riscv,sv39");
    if (m->exts >> RV_ZICBOM & 1) {
        rc = rc ? rc : fdt_setprop_u32(fdt, node, "riscv,cbom-block-size", 64);
    }
    if (m->exts >> RV_ZICBOZ & 1) {
        rc = rc ? rc : fdt_setprop_u32(fdt, node, "riscv,cboz-block-size", 64);
    }
    return rc ? -EINVAL : 0;
}
