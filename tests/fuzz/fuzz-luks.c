/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as a LUKS volume: opened, unlocked, read, written to, resized, its keys changed. The input is flags, a
 * header, and what lies at the payload. Unless it says otherwise the areas are laid out near the beginning, and one
 * slot has the key (luks_file.c).
 */
#include "image.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "block/driver.h"
#include "block/luks/luks.h"

#include <string.h>

enum { RAW_AREAS = 1, NO_KEY = 2, READ_ONLY = 4, LOOK_ONLY = 8, CHANGE_KEYS = 16, CUT = 32 };
enum { AREA_SECTORS = 8 << 10, ROOM = 5 << 20, FILE_MAX = 16 << 20, AT_PAYLOAD = 104, AT_SLOT_AREA = 40 };

static void tame(uint8_t *h)
{
    store_be32(h + AT_PAYLOAD, load_be32(h + AT_PAYLOAD) % AREA_SECTORS);
    for (unsigned i = 0; i < LUKS_SLOTS; i++) {
        uint8_t *slot = h + luks_slot_offset(i);
        store_be32(slot + AT_SLOT_AREA, load_be32(slot + AT_SLOT_AREA) % AREA_SECTORS);
        store_be32(slot + AT_SLOT_AREA + 4, LUKS_STRIPES);
    }
}

/* Cut: ends somewhere in what it is made of. */
static void make_file(struct input *in, struct memdisk *d)
{
    const uint8_t *p = in->data + 1;
    size_t left = in->size - 1, head = MIN(left, LUKS_HEADER_BYTES);
    uint8_t *room = g_malloc0(ROOM + 1);
    memcpy(room, p, head);
    if (!(in->data[0] & RAW_AREAS)) {
        tame(room);
    }
    if (!(in->data[0] & NO_KEY)) {
        luks_file_keys(room, ROOM);
    }
    uint64_t at = MIN((uint64_t)load_be32(room + AT_PAYLOAD) * CIPHER_SECTOR, ROOM);
    memcpy(room + at, p + head, MIN(left - head, ROOM - at));
    uint64_t end = at + (left - head), size = in->data[0] & CUT ? end - end * fuzz_byte(in, 0) / 256 : end;
    *d = (struct memdisk){.data = room, .size = MIN(size, ROOM), .room = ROOM, .max = FILE_MAX};
}

static void change_keys(struct input *in, struct node *n)
{
    for (unsigned i = 0; i < 3; i++) {
        CLEANUP_JSON struct json_object *o = luks_file_change(fuzz_byte(in, i));
        n->drv->amend(n, o, fuzz_byte(in, 3) & 1, NULL, NULL);
        fuzz_read(in);
    }
}

static void run(struct input *in)
{
    unsigned flags = in->data[0];
    struct memdisk d;
    make_file(in, &d);
    graph_set_metadata_only(in->graph, flags & LOOK_ONLY);
    struct node *file = memdisk_open(in->graph, &d, "disk");
    struct node *n =
        fuzz_open(in, "{'driver': 'luks', 'file': 'disk', 'key-secret': '" FUZZ_SECRET "', 'read-only': %s}",
                  flags & READ_ONLY ? "true" : "false");
    if (n) {
        fuzz_use(in, n, flags & CHANGE_KEYS && !n->read_only ? change_keys : NULL);
        node_unref(n);
    }
    node_unref(file);
    memdisk_finish(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {.data = data, .size = size};
    if (size > 1) {
        fuzz_run(&in, run);
    }
    return 0;
}
