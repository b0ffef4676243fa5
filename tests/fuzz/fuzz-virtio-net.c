/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile virtio-net driver before a network: the steps of virtio_steps.h. The rings of the model driver are queue 0;
 * the input may make any other of the same memory.
 */
#include "net/net.h"
#include "virtio_steps.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

static void make(void *arg)
{
    struct world *w = arg;
    if (netdev_add_text(w->board.net, "user,id=n,restrict=on", NULL) < 0) {
        abort();
    }
    world_device(w, "{\"driver\":\"virtio-net-device\",\"netdev\":\"n\"}");
    world_device(w, "{\"driver\":\"virtio-net-pci\",\"addr\":\"1\"}");
}

/* Queues 1 and 2 over the same rings. */
static void more_queues(struct world *w)
{
    for (unsigned q = 1; q < 3; q++) {
        wr(w, SLOT + 0x30, q, 4);
        wr(w, SLOT + 0x38, VQ_NUM, 4);
        wr(w, SLOT + 0x80, (uint32_t)VQ_DESC, 4);
        wr(w, SLOT + 0x90, (uint32_t)VQ_AVAIL, 4);
        wr(w, SLOT + 0xa0, (uint32_t)VQ_USED, 4);
        wr(w, SLOT + 0x44, 1, 4);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    static struct world *w;
    static const uint8_t frame[60] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1};
    const uint8_t *end = in + len;
    if (!w) {
        w = calloc(1, sizeof(*w));
        world_init(w);
        world_run(w, make, w);
    }
    drv_start(w, VIRTIO_F_INDIRECT_DESC);
    more_queues(w);
    while (fuzz_step(w, &in, end)) {
        netdev_receive(netdev_get(w->board.net, 0), frame, sizeof(frame));
    }
    fuzz_end(w);
    return 0;
}
