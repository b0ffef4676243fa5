/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile virtio-blk driver. The input is a list of steps: 0 store bytes into the rings or request area, 1 write a
 * register of the MMIO slot, 2 read one, 3 write configuration space of the PCI twin, 4 kick, 5 let the loop run, 6
 * begin as a good driver. Whatever comes, the device must end with nothing in flight once it is reset.
 */
#include "../device/world.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

struct fuzz {
    struct world w;
    struct device *mmio, *pci;
};

static void open_null(struct world *w, const char *name)
{
    struct node *n = NULL;
    char *text = g_strdup_printf("{\"driver\":\"null-co\",\"node-name\":\"%s\",\"size\":1048576}", name);
    struct json_object *o = json_tokener_parse(text);
    if (node_open(w->board.graph, o, &n, NULL) < 0) {
        abort();
    }
    n->monitor_owned = true;
    json_object_put(o);
    g_free(text);
}

static void make(void *arg)
{
    struct fuzz *f = arg;
    open_null(&f->w, "disk");
    open_null(&f->w, "disk2");
    f->mmio = world_device(&f->w, "{\"driver\":\"virtio-blk-device\",\"drive\":\"disk\"}");
    f->pci = world_device(&f->w, "{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk2\",\"addr\":\"1\"}");
}

static void turns(struct world *w)
{
    for (unsigned i = 0; i < 64 && loop_turn(w->loop, false); i++) {
    }
}

static uint64_t take_int(const uint8_t **in, const uint8_t *end, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n && *in < end; i++) {
        v |= (uint64_t) * (*in)++ << (8 * i);
    }
    return v;
}

/* One step; false at the end of the input. */
static bool step(struct world *w, const uint8_t **in, const uint8_t *end)
{
    static const uint64_t areas[4] = {VQ_DESC, VQ_AVAIL, VQ_USED, BUF};
    if (*in >= end) {
        return false;
    }
    unsigned op = (unsigned)take_int(in, end, 1), size = 1u << (op >> 3 & 3);
    switch (op & 7) {
    case 0: {
        uint64_t at = areas[op >> 6] + take_int(in, end, 1) * 4;
        size_t n = take_int(in, end, 1) & 0x3f;
        n = (size_t)(end - *in) < n ? (size_t)(end - *in) : n;
        guest_mem_write(w->board.mem, at, *in, n);
        *in += n;
        break;
    }
    case 1: {
        uint64_t off = take_int(in, end, 2) & 0xfff & ~(uint64_t)(size - 1);
        wr(w, SLOT + off, take_int(in, end, size), size);
        break;
    }
    case 2:
        rd(w, SLOT + (take_int(in, end, 2) & 0xfff & ~(uint64_t)(size - 1)), size);
        break;
    case 3: {
        uint64_t off = take_int(in, end, 1) & ~(uint64_t)(size - 1);
        size = size > 4 ? 4 : size;
        wr(w, ECAM + (1 << 15) + off, take_int(in, end, size), size);
        rd(w, ECAM + (1 << 15) + off, size);
        break;
    }
    case 4:
        wr(w, SLOT + 0x50, op >> 6, 4);
        break;
    case 5:
        turns(w);
        break;
    case 6:
        drv_start(w, take_int(in, end, 8));
        break;
    default:
        drv_post(w, (uint16_t)take_int(in, end, 1));
        break;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    static struct fuzz *f;
    const uint8_t *end = in + len;
    if (!f) {
        f = calloc(1, sizeof(*f));
        world_init(&f->w);
        world_run(&f->w, make, f);
    }
    drv_start(&f->w, VIRTIO_F_INDIRECT_DESC | 1 << 13 | 1 << 14);
    while (step(&f->w, &in, end)) {
    }
    wr(&f->w, SLOT + 0x70, 0, 4);
    for (unsigned i = 0; i < 1000 && drv_status(&f->w); i++) {
        turns(&f->w);
    }
    if (drv_status(&f->w)) {
        abort(); /* a reset that never ends: something is lost in flight */
    }
    return 0;
}
