/* SPDX-License-Identifier: BSD-2-Clause */
/* Any bytes as a qcow2 image: opened, mapped, read, checked, repaired and written to, with snapshots made, applied,
 * shown and deleted. Nothing of it may crash. */
#include "block/memdisk.h" /* tests/ */

#include "base/cleanup.h"
#include "block/qcow2/qcow2.h"
#include "block/snapshot.h"

#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 16 << 20, STEPS = 200 };

struct input {
    const uint8_t *data;
    size_t size;
    struct block_graph *graph;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct node *open_one(struct input *in, bool writable, bool data_file, bool for_check)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string("qcow2"));
    json_object_object_add(o, "file", json_object_new_string("disk"));
    json_object_object_add(o, "backing", NULL);
    json_object_object_add(o, "discard", json_object_new_string("unmap"));
    json_object_object_add(o, "read-only", json_object_new_boolean(!writable));
    json_object_object_add(o, "for-check", json_object_new_boolean(for_check));
    if (data_file) {
        json_object_object_add(o, "data-file", json_object_new_string("data"));
    }
    struct node *n = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    node_open(in->graph, o, &n, &e);
    return n;
}

static void walk(struct node *n)
{
    struct extent x;
    uint64_t off = 0;
    for (int i = 0; i < STEPS && off < n->size; i++, off += x.len) {
        if (node_status(n, true, off, n->size - off, &x) < 0) {
            break;
        }
    }
}

static void read_some(struct edge *ed, uint8_t *buf, uint64_t len)
{
    uint64_t size = edge_size(ed);
    for (uint64_t off = 0, i = 0; off < size && i < 8; off += size / 7 + 1, i++) {
        edge_read_buf(ed, off, MIN(len, size - off), buf);
    }
}

static void change_some(struct edge *ed, const struct input *in, uint8_t *buf, uint64_t len)
{
    uint64_t size = edge_size(ed), at = in->size;
    for (int i = 0; i < 12 && size; i++) {
        uint64_t off = (in->data[--at % in->size] * UINT64_C(0x9e3779b97f4a7c15) >> 20) % size,
                 n = MIN(len >> i % 4, size - off);
        switch (i % 6) {
        case 2:
            edge_zero(ed, off, n, i & 1 ? REQ_MAY_UNMAP : 0);
            break;
        case 3:
            edge_discard(ed, off, n);
            break;
        case 4:
            edge_write_buf(ed, off & ~UINT64_C(0xffff), MIN(n, 65536), buf, REQ_COMPRESSED);
            break;
        case 5:
            edge_flush(ed);
            break;
        default:
            edge_write_buf(ed, off, n, buf, 0);
            break;
        }
    }
    if (size < 1 << 20) {
        edge_truncate(ed, size / 1024 * 512, true, PREALLOC_OFF, NULL);
        edge_truncate(ed, size / 512 * 512 + 65536, true, in->size & 1 ? PREALLOC_METADATA : PREALLOC_OFF, NULL);
    }
}

/* The one that the input's last byte says. */
static char *some_snapshot(const struct input *in, struct node *n)
{
    g_autoptr(GPtrArray) list = node_snapshots(n, NULL);
    if (!list || !list->len) {
        return g_strdup("1");
    }
    const struct snapshot *s = g_ptr_array_index(list, in->data[in->size - 1] % list->len);
    return g_strdup(s->id);
}

static void change_snapshots(const struct input *in, struct node *n, struct edge *ed, uint8_t *buf)
{
    for (int i = 0; i < 5; i++) {
        CLEANUP_FREE char *id = some_snapshot(in, n);
        struct snapshot made = {.id = g_strdup(""), .name = (char *)"fuzz", .vm_state_size = i};
        switch ((in->data[in->size - 2] + i) % 5) {
        case 0:
            node_vmstate_write(n, (uint64_t)in->data[in->size / 3] << in->data[in->size / 4] % 40, 5000, buf);
            break;
        case 1:
            node_snapshot_apply(n, id, NULL);
            break;
        case 2:
            node_snapshot_delete(n, id, NULL);
            break;
        case 3:
            edge_write_buf(ed, 0, MIN(edge_size(ed), 70000), buf, 0);
            break;
        default:
            node_snapshot_create(n, &made, NULL);
            break;
        }
        g_free(made.id);
        node_vmstate_read(n, 100, 3000, buf);
    }
}

static void show_snapshot(const struct input *in, struct node *n)
{
    CLEANUP_FREE char *id = some_snapshot(in, n);
    json_object_put(node_snapshots_info(n));
    if (n->read_only && (in->size & 1)) {
        node_snapshot_show(n, id, NULL);
    }
}

static void use(struct input *in, struct node *n)
{
    enum { LEN = 128 << 10 };
    CLEANUP_FREE uint8_t *buf = g_malloc0(LEN);
    struct edge *ed;
    json_object_put(n->drv->specific_info(n));
    show_snapshot(in, n);
    walk(n);
    if (edge_open(n, &(struct edge_spec){"fuzz", n->read_only ? PERM_READ : PERM_ALL, PERM_ALL}, &ed, NULL) == 0) {
        read_some(ed, buf, LEN);
        if (!n->read_only) {
            change_some(ed, in, buf, LEN);
            change_snapshots(in, n, ed, buf);
            read_some(ed, buf, LEN);
        }
        edge_close(ed);
    }
    struct check_result r = {.text = g_string_new(NULL)};
    n->drv->check(n, &r, 0, NULL);
    g_string_free(r.text, TRUE);
}

static void repair(struct node *n)
{
    struct check_result r = {.text = g_string_new(NULL)};
    n->drv->check(n, &r, CHECK_FIX_ERRORS | CHECK_FIX_LEAKS, NULL);
    g_string_free(r.text, TRUE);
}

static int run(void *arg)
{
    struct input *in = arg;
    in->graph = graph_create(co_loop(), NULL, NULL);
    bool data_file = in->size > 80 && (in->data[79] & INC_DATA_FILE) && in->data[7] == 3;
    int pass = in->data[in->size / 2] % 3; /* read-only, writable, to be repaired */
    struct memdisk d = {.data = g_malloc(in->size + 1), .size = in->size, .max = FILE_MAX}, x = {.max = FILE_MAX};
    memcpy(d.data, in->data, in->size);
    struct node *file = memdisk_open(in->graph, &d, "disk"), *data = memdisk_open(in->graph, &x, "data");
    struct node *n = open_one(in, pass > 0, data_file, pass == 2);
    if (n && pass == 2) {
        repair(n);
    }
    if (n) {
        use(in, n);
        node_unref(n);
    }
    node_unref(file);
    node_unref(data);
    memdisk_finish(&d);
    memdisk_finish(&x);
    graph_destroy(in->graph);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size, NULL};
    if (size < 72) {
        return 0;
    }
    static struct loop *l; /* threads and stacks are kept from one input to the next */
    if (!l) {
        l = loop_create(LOOP_EPOLL, NULL);
    }
    if (l) {
        co_run(l, run, &in);
    }
    return 0;
}
