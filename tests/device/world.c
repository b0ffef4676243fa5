/* SPDX-License-Identifier: BSD-2-Clause */
#include "world.h"

#include "base/endian.h"
#include "block/graph.h"
#include "loop/co.h"
#include "net/net.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void set_line(void *opaque, unsigned n, bool level)
{
    ((struct world *)opaque)->line[n] = level;
}

struct irq_line world_line(struct world *w, unsigned n)
{
    return (struct irq_line){set_line, w, n};
}

static void io_error(void *opaque)
{
    ((struct world *)opaque)->io_errors++;
}

static int changed(void *opaque, struct err *e)
{
    struct world *w = opaque;
    w->changes++;
    return w->refuse_changes ? err_set(e, ENOSPC, "no space") : 0;
}

static void on_event(void *opaque, const char *name, struct json_object *data)
{
    struct world *w = opaque;
    if (strlen(w->events) + strlen(name) + 2 < sizeof(w->events)) {
        strcat(strcat(w->events, name), " ");
    }
}

static void need(int rc, const struct err *e)
{
    if (rc < 0) {
        fprintf(stderr, "world: %s\n", err_text(e));
        abort();
    }
}

void world_init(struct world *w)
{
    struct err e = ERR_INIT;
    struct board *b = &w->board;
    memset(w, 0, sizeof(*w));
    w->loop = b->loop = loop_create(LOOP_AUTO, &e);
    need(w->loop ? 0 : -1, &e);
    b->mem = guest_mem_create();
    need(guest_ram_add(b->mem, "ram", RAM, RAM_SIZE, &e), &e);
    b->clock = g_new0(struct guest_clock, 1);
    guest_clock_init(b->clock, true);
    b->bus = event_bus_create();
    event_subscribe(b->bus, on_event, w);
    b->graph = graph_create(w->loop, b->bus, NULL);
    b->net = net_create(w->loop, NULL);
    b->harts = 2;
    b->opaque = w;
    b->io_error = io_error;
    b->changed = changed;
    w->slot[0] = virtio_slot_create(b->mem, 0, SLOT, world_line(w, 0), &e);
    b->virtio_slots = w->slot;
    b->n_virtio_slots = 1;
    const struct irq_line intx[4] = {world_line(w, 1), world_line(w, 2), world_line(w, 3), world_line(w, 4)};
    b->pci = pci_bus_create(b->mem, intx);
    pci_bus_add_window(b->pci, 0x40000000, 0x40000000);
    pci_bus_add_window(b->pci, 0x400000000, 0x400000000);
    w->ecam = ecam_create(b->mem, b->pci, ECAM, 0x10000000, &e);
    need(w->slot[0] && w->ecam ? 0 : -1, &e);
    strcpy(w->disk, "/tmp/sterna-test-XXXXXX");
    int fd = mkstemp(w->disk);
    need(fd < 0 || ftruncate(fd, 1 << 20) < 0 ? -1 : 0, &e);
    close(fd);
}

static void end_graph(void *arg)
{
    graph_destroy(((struct world *)arg)->board.graph);
}

void world_finish(struct world *w)
{
    world_run(w, end_graph, w);
    net_destroy(w->board.net);
    virtio_slot_destroy(w->slot[0]);
    ecam_destroy(w->ecam);
    pci_bus_destroy(w->board.pci);
    guest_mem_destroy(w->board.mem);
    event_bus_destroy(w->board.bus);
    g_free(w->board.clock);
    loop_destroy(w->loop);
    unlink(w->disk);
}

struct call {
    void (*fn)(void *arg);
    void *arg;
};

static int run_call(void *arg)
{
    struct call *c = arg;
    c->fn(c->arg);
    return 0;
}

void world_run(struct world *w, void (*fn)(void *arg), void *arg)
{
    struct call c = {fn, arg};
    co_run(w->loop, run_call, &c);
}

static void pause_it(void *arg)
{
    struct device *d = arg;
    d->cls->pause(d);
}

static void resume_it(void *arg)
{
    struct device *d = arg;
    d->cls->resume(d);
}

void world_pause(struct world *w, struct device *d)
{
    world_run(w, pause_it, d);
}

void world_resume(struct world *w, struct device *d)
{
    world_run(w, resume_it, d);
}

void world_open_disk(struct world *w, const char *extra_json, const char *faults)
{
    struct err e = ERR_INIT;
    struct node *n = NULL;
    char *file = g_strdup_printf("{\"driver\":\"file\",\"filename\":\"%s\"}", w->disk);
    char *below = !faults
                      ? g_strdup(file)
                      : g_strdup_printf("{\"driver\":\"blkdebug\",\"image\":%s,\"inject-error\":[%s]}", file, faults);
    char *text = g_strdup_printf("{\"driver\":\"raw\",\"node-name\":\"disk\",%s\"file\":%s}",
                                 extra_json ? extra_json : "", below);
    struct json_object *o = json_tokener_parse(text);
    need(node_open(w->board.graph, o, &n, &e), &e);
    n->monitor_owned = true;
    json_object_put(o);
    g_free(text);
    g_free(below);
    g_free(file);
}

struct device *world_device(struct world *w, const char *json)
{
    struct err e = ERR_INIT;
    struct device *d = NULL;
    struct json_object *o = json_tokener_parse(json);
    need(device_create(&w->board, o, 0, &d, &e), &e);
    need(device_realize(d, &e), &e);
    d->cls->resume(d);
    json_object_put(o);
    return d;
}

static bool in_flight(struct world *w)
{
    g_autoptr(GPtrArray) all = graph_nodes(w->board.graph);
    for (guint i = 0; i < all->len; i++) {
        if (((struct node *)g_ptr_array_index(all, i))->in_flight) {
            return true;
        }
    }
    return false;
}

/* A disk may take long when the machine is busy. */
void world_settle(struct world *w)
{
    for (unsigned idle = 0; idle < 20 || (in_flight(w) && idle < 50000);) {
        idle = loop_turn(w->loop, false) ? 0 : idle + 1;
        usleep(idle ? 200 : 0);
    }
}

uint64_t rd(struct world *w, uint64_t gpa, unsigned size)
{
    uint64_t v = 0;
    if (!mmio_read(w->board.mem, gpa, size, &v)) {
        return UINT64_MAX;
    }
    return v;
}

void wr(struct world *w, uint64_t gpa, uint64_t val, unsigned size)
{
    mmio_write(w->board.mem, gpa, size, val);
}

/* --- the model driver ------------------------------------------------------------------------------------------------
 */

static void *ram(struct world *w, uint64_t gpa, uint64_t len)
{
    return guest_ram_ptr(w->board.mem, gpa, len);
}

void drv_start(struct world *w, uint64_t features)
{
    features |= VIRTIO_F_VERSION_1;
    memset(ram(w, RAM, 0x10000), 0, 0x10000);
    wr(w, SLOT + 0x70, 0, 4);
    wr(w, SLOT + 0x70, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER, 4);
    for (unsigned i = 0; i < 2; i++) {
        wr(w, SLOT + 0x24, i, 4);
        wr(w, SLOT + 0x20, (uint32_t)(features >> (32 * i)), 4);
    }
    wr(w, SLOT + 0x70, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK, 4);
    wr(w, SLOT + 0x30, 0, 4);
    wr(w, SLOT + 0x38, VQ_NUM, 4);
    wr(w, SLOT + 0x80, (uint32_t)VQ_DESC, 4);
    wr(w, SLOT + 0x90, (uint32_t)VQ_AVAIL, 4);
    wr(w, SLOT + 0xa0, (uint32_t)VQ_USED, 4);
    wr(w, SLOT + 0x44, 1, 4);
    wr(w, SLOT + 0x70, 0xf, 4);
}

void drv_desc(struct world *w, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    uint8_t *d = ram(w, VQ_DESC + 16 * i, 16);
    store_le64(d, addr);
    store_le32(d + 8, len);
    store_le16(d + 12, flags);
    store_le16(d + 14, next);
}

void drv_post(struct world *w, uint16_t head)
{
    uint8_t *a = ram(w, VQ_AVAIL, 0x100);
    uint16_t idx = load_le16(a + 2);
    store_le16(a + 4 + 2 * (idx % VQ_NUM), head);
    store_le16(a + 2, (uint16_t)(idx + 1));
    wr(w, SLOT + 0x50, 0, 4);
}

uint16_t drv_used_idx(struct world *w)
{
    return load_le16((uint8_t *)ram(w, VQ_USED, 4) + 2);
}

uint8_t drv_status(struct world *w)
{
    return (uint8_t)rd(w, SLOT + 0x70, 4);
}

uint8_t drv_blk(struct world *w, uint32_t type, uint64_t sector, uint32_t len)
{
    uint8_t *head = ram(w, BUF, 32);
    bool in = type == 0 || type == 8;
    store_le32(head, type);
    store_le32(head + 4, 0);
    store_le64(head + 8, sector);
    head[16] = 0xee;
    drv_desc(w, 0, BUF, 16, 1, len ? 1 : 2);
    drv_desc(w, 1, BUF + 0x1000, len, in ? 3 : 1, 2);
    drv_desc(w, 2, BUF + 16, 1, 2, 0);
    drv_post(w, 0);
    world_settle(w);
    return head[16];
}
