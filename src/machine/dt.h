/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writing device trees: libfdt with a sticky error. Nodes are named by their offset only until the next change, so
 * they are looked up by path each time. Later nodes come before earlier ones of the same parent.
 */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct dt {
    void *blob; /* g_malloc'd */
    int rc;     /* the first libfdt error, 0 */
};

void dt_start(struct dt *f);
/* From a blob of `len` bytes that came from outside. */
int dt_start_from(struct dt *f, const void *blob, size_t len, const char *name, struct err *e);
/* All parents must be there; there already: fine. */
void dt_node(struct dt *f, const char *path);
void dt_flag(struct dt *f, const char *path, const char *prop);
void dt_u32(struct dt *f, const char *path, const char *prop, uint32_t val);
void dt_u64(struct dt *f, const char *path, const char *prop, uint64_t val);
void dt_text(struct dt *f, const char *path, const char *prop, const char *val);
/* Raw bytes, also for lists of strings. */
void dt_bytes(struct dt *f, const char *path, const char *prop, const void *val, size_t len);
void dt_cells(struct dt *f, const char *path, const char *prop, const uint32_t *cells, unsigned n);
#define DT_CELLS(f, path, prop, ...)                                                                                   \
    dt_cells(f, path, prop, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)
/* "reg" with two cells each for address and size. */
void dt_reg(struct dt *f, const char *path, uint64_t addr, uint64_t size);
/* Of a node, until the next change; negative: none (and then f->rc says so). */
int dt_offset(struct dt *f, const char *path);
/* Packed, for the caller to g_free(); NULL and an error when anything went wrong. Ends f. */
void *dt_end(struct dt *f, size_t *size, struct err *e);
