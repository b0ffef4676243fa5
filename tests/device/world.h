/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A board for device tests: 16 MiB of RAM, a block graph, one virtio-mmio slot, a PCI bus, and lines whose level is
 * seen; and a model of a virtio driver that works the registers and rings directly.
 */
#pragma once

#include "device/board.h"
#include "device/device.h"
#include "device/pcie_ecam.h"
#include "device/virtio_mmio.h"

#define RAM      0x80000000ull
#define RAM_SIZE (16ull << 20)
#define SLOT     0x10001000ull
#define ECAM     0x30000000ull

struct world {
    struct board board;
    struct loop *loop;
    struct virtio_slot *slot[1];
    struct ecam *ecam;
    bool line[8];                /* 0: the slot's; 1 … 4: INTA … INTD */
    unsigned io_errors, changes; /* calls of the board's io_error and changed */
    bool refuse_changes;         /* changed fails */
    char disk[64];               /* path of a 1 MiB raw file */
    char events[512];            /* names of events, a space after each */
};

void world_init(struct world *w);
void world_finish(struct world *w);
struct irq_line world_line(struct world *w, unsigned n);
/* Runs fn(arg) as a coroutine to its end. */
void world_run(struct world *w, void (*fn)(void *arg), void *arg);
/* What the machine does with a device that it holds still, or lets go on. */
void world_pause(struct world *w, struct device *d);
void world_resume(struct world *w, struct device *d);
/* A raw node "disk" over the file; extra_json: more options, each with a comma behind; faults: blkdebug's inject-error.
 * [co] */
void world_open_disk(struct world *w, const char *extra_json, const char *faults);
/* device_create + realize + resume from JSON. [co] */
struct device *world_device(struct world *w, const char *json);
/* Lets the loop do what is ready until nothing is. Not in a coroutine. */
void world_settle(struct world *w);

uint64_t rd(struct world *w, uint64_t gpa, unsigned size);
void wr(struct world *w, uint64_t gpa, uint64_t val, unsigned size);

/* --- the model driver: split ring of 8 at RAM, on the MMIO slot -----------------------------------------------------
 */
#define VQ_NUM   8u
#define VQ_DESC  RAM
#define VQ_AVAIL (RAM + 0x1000)
#define VQ_USED  (RAM + 0x2000)
#define BUF      (RAM + 0x10000)

/* reset … DRIVER_OK with `features` (VERSION_1 is added) and queue 0. */
void drv_start(struct world *w, uint64_t features);
void drv_desc(struct world *w, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next);
/* Makes `head` available and kicks. */
void drv_post(struct world *w, uint16_t head);
uint16_t drv_used_idx(struct world *w);
uint8_t drv_status(struct world *w);
/* A block request with header, `len` bytes of data at BUF + 0x1000 and status; posts it, settles; the status byte. */
uint8_t drv_blk(struct world *w, uint32_t type, uint64_t sector, uint32_t len);
