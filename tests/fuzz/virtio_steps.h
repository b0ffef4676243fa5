/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a hostile virtio driver does, from a fuzzer's input: steps on the board of ../device/world.h with a device in
 * its virtio-mmio slot and its twin in PCI slot 1.
 */
#pragma once

#include "../device/world.h"

#include <stdlib.h>
#include <string.h>

static inline void fuzz_turns(struct world *w)
{
    for (unsigned i = 0; i < 64 && loop_turn(w->loop, false); i++) {
    }
}

static inline uint64_t fuzz_int(const uint8_t **in, const uint8_t *end, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n && *in < end; i++) {
        v |= (uint64_t) * (*in)++ << (8 * i);
    }
    return v;
}

/*
 * One step; false at the end of the input. 0 stores bytes into the rings or the request area, 1 writes a register of
 * the MMIO slot, 2 reads one, 3 writes configuration space of the PCI twin, 4 kicks, 5 lets the loop run, 6 begins as a
 * good driver, 7 makes a chain available.
 */
static inline bool fuzz_step(struct world *w, const uint8_t **in, const uint8_t *end)
{
    static const uint64_t areas[4] = {VQ_DESC, VQ_AVAIL, VQ_USED, BUF};
    if (*in >= end) {
        return false;
    }
    unsigned op = (unsigned)fuzz_int(in, end, 1), size = 1u << (op >> 3 & 3);
    switch (op & 7) {
    case 0: {
        uint64_t at = areas[op >> 6] + fuzz_int(in, end, 1) * 4;
        size_t n = fuzz_int(in, end, 1) & 0x3f;
        n = (size_t)(end - *in) < n ? (size_t)(end - *in) : n;
        guest_mem_write(w->board.mem, at, *in, n);
        *in += n;
        break;
    }
    case 1: {
        uint64_t off = fuzz_int(in, end, 2) & 0xfff & ~(uint64_t)(size - 1);
        wr(w, SLOT + off, fuzz_int(in, end, size), size);
        break;
    }
    case 2:
        rd(w, SLOT + (fuzz_int(in, end, 2) & 0xfff & ~(uint64_t)(size - 1)), size);
        break;
    case 3: {
        uint64_t off = fuzz_int(in, end, 1) & ~(uint64_t)(size - 1);
        size = size > 4 ? 4 : size;
        wr(w, ECAM + (1 << 15) + off, fuzz_int(in, end, size), size);
        rd(w, ECAM + (1 << 15) + off, size);
        break;
    }
    case 4:
        wr(w, SLOT + 0x50, op >> 6, 4);
        break;
    case 5:
        fuzz_turns(w);
        break;
    case 6:
        drv_start(w, fuzz_int(in, end, 8));
        break;
    default:
        drv_post(w, (uint16_t)fuzz_int(in, end, 1));
        break;
    }
    return true;
}

/* Resets the device: that must end, or something is lost in flight. */
static inline void fuzz_end(struct world *w)
{
    wr(w, SLOT + 0x70, 0, 4);
    for (unsigned i = 0; i < 1000 && drv_status(w); i++) {
        fuzz_turns(w);
    }
    if (drv_status(w)) {
        abort();
    }
}
