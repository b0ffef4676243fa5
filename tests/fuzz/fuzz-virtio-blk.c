/* SPDX-License-Identifier: BSD-2-Clause */
/* A hostile virtio-blk driver: the steps of virtio_steps.h. */
#include "virtio_steps.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

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
    open_null(arg, "disk");
    open_null(arg, "disk2");
    world_device(arg, "{\"driver\":\"virtio-blk-device\",\"drive\":\"disk\"}");
    world_device(arg, "{\"driver\":\"virtio-blk-pci\",\"drive\":\"disk2\",\"addr\":\"1\"}");
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
    drv_start(w, VIRTIO_F_INDIRECT_DESC | 1 << 13 | 1 << 14);
    while (fuzz_step(w, &in, end)) {
    }
    fuzz_end(w);
    return 0;
}
