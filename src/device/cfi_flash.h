/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A bank of parallel NOR flash (JEDEC CFI, Intel command set 0x0001: the data sheets of Intel's StrataFlash J3 and
 * P30), as QEMU's "cfi.pflash01": two 16-bit devices side by side on a 32-bit bus, 32 MiB in 128 blocks of 256 KiB. Its
 * content is a block node: firmware keeps its variables (NVRAM) there.
 *
 * What a read shows, and the commands (low byte of a write) that lead there:
 *
 *   array   0xff 0xf0 0x00      status  0x70, and after every operation      0x50 clears the errors of the status
 *   ID      0x90                CFI     0x98
 *
 * Operations: 0x40 or 0x10, then a word: programs it. 0xe8, the number of words less one, the words, 0xd0: programs a
 * buffer of up to 2 KiB, aligned to that. 0x20, 0xd0: erases a block. 0x60, then 0x01 or 0xd0: locks or unlocks a block
 * (until power is cut; all are unlocked at first). Programming only clears bits, as in any such flash.
 *
 * Laws:
 * 1. While an operation goes on, the status says busy (bit 7 clear) and nothing is accepted.
 * 2. It says ready only when what was changed is durable in the node (written with FUA), or has failed: bit 4 or 5.
 * 3. `content` is what the node holds, and changes after the node did: what a guest can read survives a crash.
 * 4. Paused: no operation goes on. A saved state is never busy.
 *
 * Threads: registers on the hart's thread under the mutex; the operation itself is a coroutine on the loop.
 */
#pragma once

#include "device/device.h"

#define CFI_FLASH_SIZE (32u << 20)

extern const struct device_class cfi_flash_class;

/*
 * Bank `n` at `gpa` with `drive`, a node or what -drive made, of exactly CFI_FLASH_SIZE bytes; read-only nodes give
 * banks that cannot be changed. A device of its own right, at "/machine/virt.flashN". [co]
 */
int cfi_flash_create(struct board *b, unsigned n, uint64_t gpa, const char *drive, struct device **out, struct err *e);
