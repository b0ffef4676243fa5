/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile virtio-scsi driver, with a disk and a CD-ROM drive behind the adapter. The input is a list of steps: 0
 * store bytes into the rings or the request area, 1 write a register of the MMIO slot, 2 read one, 3 kick, 4 let the
 * loop run, 5 a well-formed command with any CDB and any data, 6 a task management function, 7 begin as a good driver.
 * Whatever comes, the device must end with nothing in flight once it is reset.
 */
#include "../device/scsi_driver.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t len);

struct input {
    const uint8_t *at, *end;
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

static void add(struct world *w, const char *json)
{
    struct device *d = NULL;
    struct json_object *o = json_tokener_parse(json);
    if (device_create(&w->board, o, 0, &d, NULL) < 0 || device_realize(d, NULL) < 0) {
        abort();
    }
    json_object_put(o);
}

static void make(void *arg)
{
    struct world *w = arg;
    open_null(w, "disk");
    open_null(w, "cd");
    world_device(w, "{\"driver\":\"virtio-scsi-device\",\"num_queues\":1}");
    add(w, "{\"driver\":\"scsi-hd\",\"drive\":\"disk\",\"removable\":true,\"scsi-id\":0,\"lun\":0}");
    add(w, "{\"driver\":\"scsi-cd\",\"drive\":\"cd\",\"scsi-id\":0,\"lun\":1}");
}

static void turns(struct world *w)
{
    for (unsigned i = 0; i < 64 && loop_turn(w->loop, false); i++) {
    }
}

static uint64_t take_int(struct input *in, unsigned n)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < n && in->at < in->end; i++) {
        v |= (uint64_t)*in->at++ << (8 * i);
    }
    return v;
}

static size_t take_bytes(struct input *in, uint8_t *to, size_t n)
{
    n = (size_t)(in->end - in->at) < n ? (size_t)(in->end - in->at) : n;
    memcpy(to, in->at, n);
    in->at += n;
    return n;
}

static void command(struct world *w, struct input *in, unsigned op)
{
    uint8_t cdb[32] = {0};
    uint32_t size = (uint32_t)take_int(in, 1) * 16;
    unsigned at = SD_AT(op >> 6, op >> 4 & 3);
    take_bytes(in, cdb, 1 + (op >> 3 & 1 ? 15 : 9));
    if (op & 8) {
        size_t n = take_int(in, 1);
        take_bytes(in, sd_data(w), n);
        sd_post(w, at, cdb, sizeof(cdb), size, 0);
    } else {
        sd_post(w, at, cdb, sizeof(cdb), 0, size);
    }
    turns(w);
}

static void store(struct world *w, struct input *in, unsigned op)
{
    static const uint64_t areas[4] = {SD_RINGS, SD_RINGS + 0x4000, SD_RINGS + 0x8000, SD_HEAD};
    uint8_t bytes[64];
    uint64_t at = areas[op >> 6] + take_int(in, 2) % 0x3000;
    size_t n = take_int(in, 1) & 0x3f;
    n = take_bytes(in, bytes, n);
    guest_mem_write(w->board.mem, at, bytes, n);
}

/* One step; false at the end of the input. */
static bool step(struct world *w, struct input *in)
{
    if (in->at >= in->end) {
        return false;
    }
    unsigned op = (unsigned)take_int(in, 1), size = 1u << (op >> 3 & 3);
    uint64_t off;
    switch (op & 7) {
    case 0:
        store(w, in, op);
        break;
    case 1:
        off = take_int(in, 2) & 0xfff & ~(uint64_t)(size - 1);
        wr(w, SLOT + off, take_int(in, size), size);
        break;
    case 2:
        rd(w, SLOT + (take_int(in, 2) & 0xfff & ~(uint64_t)(size - 1)), size);
        break;
    case 3:
        wr(w, SLOT + 0x50, op >> 6, 4);
        break;
    case 4:
        turns(w);
        break;
    case 5:
        command(w, in, op);
        break;
    case 6:
        sd_post_task(w, op >> 3, 0, (unsigned)take_int(in, 1) & 1, 77);
        break;
    default:
        sd_start(w, take_int(in, 8));
        break;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    static struct world *w;
    struct input in = {data, data + len};
    if (!w) {
        w = calloc(1, sizeof(*w));
        world_init(w);
        world_run(w, make, w);
    }
    sd_start(w, VIRTIO_F_INDIRECT_DESC | 1 << 1 | 1 << 2);
    while (step(w, &in)) {
    }
    wr(w, SLOT + 0x70, 0, 4);
    for (unsigned i = 0; i < 1000 && drv_status(w); i++) {
        turns(w);
    }
    if (drv_status(w)) {
        abort(); /* a reset that never ends: something is lost in flight */
    }
    return 0;
}
