/* SPDX-License-Identifier: BSD-2-Clause */
#include "machine/dt.h"

#include "base/cleanup.h"

#include <libfdt.h>
#include <string.h>

#define ROOM (64u << 10) /* for what is added */

static void keep(struct dt *f, int rc)
{
    if (f->rc == 0 && rc < 0) {
        f->rc = rc;
    }
}

void dt_start(struct dt *f)
{
    f->blob = g_malloc0(ROOM);
    f->rc = fdt_create_empty_tree(f->blob, ROOM);
}

int dt_start_from(struct dt *f, const void *blob, size_t len, const char *name, struct err *e)
{
    *f = (struct dt){0};
    int rc = len < sizeof(struct fdt_header) ? -FDT_ERR_TRUNCATED : fdt_check_full(blob, len);
    if (rc < 0) {
        return err_set(e, EINVAL, "'%s' is not a device tree: %s", name, fdt_strerror(rc));
    }
    f->blob = g_malloc0(len + ROOM);
    f->rc = fdt_open_into(blob, f->blob, (int)(len + ROOM));
    return 0;
}

int dt_offset(struct dt *f, const char *path)
{
    int at = f->rc ? f->rc : fdt_path_offset(f->blob, path);
    keep(f, at);
    return at;
}

void dt_node(struct dt *f, const char *path)
{
    if (f->rc || fdt_path_offset(f->blob, path) >= 0) {
        return;
    }
    const char *slash = strrchr(path, '/');
    CLEANUP_FREE char *parent = slash == path ? g_strdup("/") : g_strndup(path, (size_t)(slash - path));
    int at = dt_offset(f, parent);
    if (at >= 0) {
        keep(f, fdt_add_subnode(f->blob, at, slash + 1));
    }
}

void dt_bytes(struct dt *f, const char *path, const char *prop, const void *val, size_t len)
{
    int at = dt_offset(f, path);
    if (at >= 0) {
        keep(f, fdt_setprop(f->blob, at, prop, val, (int)len));
    }
}

void dt_flag(struct dt *f, const char *path, const char *prop)
{
    dt_bytes(f, path, prop, "", 0);
}

void dt_u32(struct dt *f, const char *path, const char *prop, uint32_t val)
{
    dt_cells(f, path, prop, &val, 1);
}

void dt_u64(struct dt *f, const char *path, const char *prop, uint64_t val)
{
    DT_CELLS(f, path, prop, (uint32_t)(val >> 32), (uint32_t)val);
}

void dt_text(struct dt *f, const char *path, const char *prop, const char *val)
{
    dt_bytes(f, path, prop, val, strlen(val) + 1);
}

void dt_cells(struct dt *f, const char *path, const char *prop, const uint32_t *cells, unsigned n)
{
    CLEANUP_FREE fdt32_t *v = g_new(fdt32_t, n);
    for (unsigned i = 0; i < n; i++) {
        v[i] = cpu_to_fdt32(cells[i]);
    }
    dt_bytes(f, path, prop, v, n * sizeof(*v));
}

void dt_reg(struct dt *f, const char *path, uint64_t addr, uint64_t size)
{
    DT_CELLS(f, path, "reg", (uint32_t)(addr >> 32), (uint32_t)addr, (uint32_t)(size >> 32), (uint32_t)size);
}

void *dt_end(struct dt *f, size_t *size, struct err *e)
{
    keep(f, f->rc ? f->rc : fdt_pack(f->blob));
    if (f->rc) {
        err_set(e, EINVAL, "could not build the device tree: %s", fdt_strerror(f->rc));
        g_free(take(f->blob));
        return NULL;
    }
    *size = fdt_totalsize(f->blob);
    return take(f->blob);
}
