/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a machine boots: kernel, initial RAM disk, device tree or firmware, where they lie in RAM, and putting them
 * there, again at each reset.  Files stay open instead of being held in memory.
 *
 * Kernels: Linux' RISC-V Image (Documentation/arch/riscv/boot-image-header.rst), the same gzipped, ELF. Placement
 * follows QEMU: Image at RAM + text_offset, initrd at kernel + min(RAM / 2, 128 MiB) or behind the kernel where that is
 * larger, device tree at the end of RAM below 3 GiB, 2 MiB-aligned.
 */
#pragma once

#include "base/err.h"
#include "guest/mem.h"

struct boot_file {
    char *path; /* NULL: none; owned */
    int fd;
    uint64_t gpa, size; /* size: of what goes to RAM */
    enum { BOOT_RAW, BOOT_GZIP, BOOT_ELF } kind;
};

struct boot {
    struct boot_file kernel, initrd, firmware;
    char *dtb;    /* path of -dtb; NULL: the board's own; owned */
    char *append; /* owned; may be NULL */
    uint64_t ram_base, ram_size;
    uint64_t kernel_end; /* with its bss */
    uint64_t entry;
};

/* What -kernel -initrd -append -dtb -bios say: NULL each where not given. "none" and "default" for firmware mean none.
 */
struct boot_config {
    const char *kernel, *initrd, *append, *dtb, *firmware;
    uint64_t ram_base, ram_size;
};
/* Opens, checks and places; errors name the file and what is wrong with it. boot_finish() after either result. */
int boot_init(struct boot *b, const struct boot_config *c, struct err *e);
void boot_finish(struct boot *b); /* zero-filled is fine */
/* Puts everything but the device tree into RAM. */
int boot_load(struct boot *b, struct guest_mem *m, struct err *e);
/* Puts the tree (any size) into RAM; *gpa says where. */
int boot_load_dtb(struct boot *b, struct guest_mem *m, const void *dtb, size_t size, uint64_t *gpa, struct err *e);
/* Bytes of a boot file, whole: g_free. For firmware that fetches them. */
uint8_t *boot_read_all(const struct boot_file *f, size_t *len, struct err *e);
