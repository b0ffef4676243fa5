/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Firmware configuration (QEMU docs/specs/fw_cfg.rst), MMIO layout: data at 0 (8 bytes, string-preserving), selector at
 * 8 (16 bits, big-endian), DMA address at 16 (64 bits, big-endian). All items are read-only.
 */
#pragma once

#include "guest/mem.h"
#include "state/field.h"

enum {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_RAM_SIZE = 0x03,
    FW_CFG_NB_CPUS = 0x05,
    FW_CFG_KERNEL_SIZE = 0x08,
    FW_CFG_INITRD_SIZE = 0x0b,
    FW_CFG_FILE_DIR = 0x19,
    FW_CFG_KERNEL_DATA = 0x11,
    FW_CFG_INITRD_DATA = 0x12,
    FW_CFG_CMDLINE_SIZE = 0x14,
    FW_CFG_CMDLINE_DATA = 0x15,
    FW_CFG_FILE_FIRST = 0x20,
};

struct fw_cfg;

struct fw_cfg *fw_cfg_create(struct guest_mem *m, uint64_t gpa, struct err *e);
void fw_cfg_destroy(struct fw_cfg *f); /* NULL is fine */
void fw_cfg_reset(struct fw_cfg *f);
/* Sets (replaces) an item; copies. Harts paused. */
void fw_cfg_set(struct fw_cfg *f, uint16_t key, const void *data, size_t len);
void fw_cfg_set_u16(struct fw_cfg *f, uint16_t key, uint16_t val);
void fw_cfg_set_u32(struct fw_cfg *f, uint16_t key, uint32_t val);
void fw_cfg_set_u64(struct fw_cfg *f, uint16_t key, uint64_t val);
/* A named file (at most 55 bytes); replaces one of that name. False: too many files or the name is too long. */
bool fw_cfg_set_file(struct fw_cfg *f, const char *name, const void *data, size_t len);
/* The object is the struct fw_cfg. Items are not state: they follow from the command line. */
extern const struct state_section fw_cfg_state;
