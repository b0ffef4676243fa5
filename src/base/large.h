/* SPDX-License-Identifier: BSD-2-Clause */
/* Memory that begins where a large page of the host's does, so that the kernel can use such pages for it. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE /* the C library may be older than the kernel */
#define MADV_POPULATE_READ  22
#define MADV_POPULATE_WRITE 23
#endif

enum { LARGE_PAGE = 2 << 20 }; /* bytes: what one large page, or one table of the kernel's, spans */

/* `size` bytes from a multiple of LARGE_PAGE on, with `beside` more, whole pages, before and as many behind them; all
 * private, empty and with protection `prot` (mmap(2)). The caller's, munmap(p - beside, size + 2 * beside). NULL:
 * errno. */
uint8_t *large_map(size_t size, size_t beside, int prot);
