/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile virtio-rng driver, with a source that has little to give: the steps of virtio_steps.h, the limit's clock
 * going on with each.
 */
#include "virtio_steps.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

static void make(void *arg)
{
    world_device(arg, "{\"driver\":\"virtio-rng-device\",\"max-bytes\":1000,\"period\":3}");
    world_device(arg, "{\"driver\":\"virtio-rng-pci\",\"addr\":\"1\"}");
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len)
{
    static struct world *w;
    const uint8_t *end = in + len;
    if (!w) {
        w = calloc(1, sizeof(*w));
        world_init(w);
        world_run(w, make, w);
    }
    drv_start(w, VIRTIO_F_INDIRECT_DESC);
    while (fuzz_step(w, &in, end)) {
        guest_clock_step(w->board.clock, 1000000);
    }
    fuzz_end(w);
    return 0;
}
