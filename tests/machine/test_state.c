/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * That nothing of a machine's state is forgotten: random traffic on a machine, its state put into a second one, then
 * both are looked at register by register and worked the same way; every answer has to be the same.
 */
#include "machine/state.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/objects.h"
#include "block/graph.h"
#include "device/pci.h"
#include "device/plic.h"
#include "device/virtio_state.h"
#include "machine/machine.h"
#include "side.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB   (1ull << 20)
#define RAM   0x80000000ull
#define RINGS (RAM + 1 * MIB) /* 64 KiB for each virtio device */
#define ECAM  0x30000000ull
#define BAR   0x40000000ull /* of virtio device n: 64 KiB times n further up */
#define SLOT  0x10001000ull
#define UART  0x10000000ull
#define RTC   0x101000ull
#define PLIC  0xc000000ull
#define FWCFG 0x10100000ull
#define FLASH 0x20000000ull

/* The virtio devices: two disks, a source of random bytes and a card on PCI in slots 1, 2, 4, 6, and one of each on
 * virtio-mmio. */
enum { DISK_PCI, DISK_PCI_SMALL, DISK_MMIO, RNG_PCI, RNG_MMIO, NET_PCI, NET_MMIO, DEVICES };

struct side {
    struct loop *loop;
    struct vm *vm;
    struct object_registry *objects;
    uint64_t seed;
};

static uint64_t rnd(struct side *s)
{
    uint64_t z = (s->seed += 0x9e3779b97f4a7c15ull);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static unsigned pick(struct side *s, unsigned n)
{
    return (unsigned)(rnd(s) % n);
}

/* --- two machines ------------------------------------------------------------------------------------------------- */

static void add_node(struct vm *vm, const char *node)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct node *n = NULL;
    CLEANUP_JSON struct json_object *o = json_tokener_parse(node);
    if (node_open(vm->graph, o, &n, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    n->monitor_owned = true;
}

static void add_device(struct vm *vm, const char *device)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *d = json_tokener_parse(device);
    if (vm_device_add(vm, d, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
}

static void add_disk(struct vm *vm, const char *node, const char *device)
{
    add_node(vm, node);
    add_device(vm, device);
}

/* Random bytes that are the same for both machines: more of them than the test takes. */
static void add_rng(struct side *s)
{
    char file[] = "/tmp/sterna-test-XXXXXX";
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *bytes = g_malloc(8 * MIB);
    int fd = mkstemp(file);
    memset(bytes, 0xa5, 8 * MIB);
    assert_true(fd >= 0 && write(fd, bytes, 8 * MIB) == 8 * MIB);
    close(fd);
    CLEANUP_FREE char *text = g_strdup_printf("{\"qom-type\":\"rng-random\",\"id\":\"r\",\"filename\":\"%s\"}", file);
    CLEANUP_JSON struct json_object *o = json_tokener_parse(text);
    if (object_add(s->objects, o, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    unlink(file);
}

static int make(void *arg)
{
    struct side *s = arg;
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct machine_config c = {.type = "virt", .accel = "qtest", .harts = 2, .ram_size = 16 * MIB};
    if (vm_set_machine(s->vm, &c, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    add_disk(s->vm, "{\"driver\":\"null-co\",\"node-name\":\"n0\",\"size\":1048576,\"read-zeroes\":true}",
             "{\"driver\":\"virtio-blk-pci\",\"id\":\"d0\",\"drive\":\"n0\",\"num-queues\":2}");
    add_disk(s->vm, "{\"driver\":\"null-co\",\"node-name\":\"n1\",\"size\":1048576,\"read-zeroes\":true}",
             "{\"driver\":\"virtio-blk-pci\",\"id\":\"d1\",\"drive\":\"n1\",\"num-queues\":1,\"queue-size\":16}");
    add_disk(s->vm, "{\"driver\":\"null-co\",\"node-name\":\"n2\",\"size\":1048576,\"read-zeroes\":true}",
             "{\"driver\":\"virtio-blk-device\",\"id\":\"d2\",\"drive\":\"n2\",\"bus\":\"virtio-mmio-bus.0\"}");
    add_node(s->vm, "{\"driver\":\"null-co\",\"node-name\":\"flash\",\"size\":33554432,\"read-zeroes\":true}");
    assert_int_equal(vm_set_flash(s->vm, 1, "flash", &e), 0);
    add_rng(s);
    add_device(
        s->vm,
        "{\"driver\":\"virtio-rng-pci\",\"id\":\"r0\",\"rng\":\"r\",\"addr\":\"4\",\"max-bytes\":200,\"period\":1}");
    add_device(s->vm, "{\"driver\":\"virtio-rng-device\",\"id\":\"r1\",\"rng\":\"r\",\"bus\":\"virtio-mmio-bus.1\","
                      "\"max-bytes\":200,\"period\":1}");
    add_device(s->vm, "{\"driver\":\"virtio-net-pci\",\"id\":\"c0\",\"addr\":\"6\"}");
    add_device(s->vm, "{\"driver\":\"virtio-net-device\",\"id\":\"c1\",\"bus\":\"virtio-mmio-bus.2\"}");
    return vm_start(s->vm, VM_BEGIN_RUNNING, &e);
}

static void open_side(struct side *s, uint64_t seed)
{
    s->seed = seed;
    s->loop = loop_create(LOOP_AUTO, NULL);
    s->vm = vm_create(s->loop, NULL);
    s->objects = object_registry_create(s->loop, object_kinds);
    graph_set_object_lookup(s->vm->graph, object_registry_lookup, s->objects);
    assert_int_equal(co_run(s->loop, make, s), 0);
}

static void close_side(struct side *s)
{
    co_run(s->loop, side_destroy_vm, s->vm);
    object_registry_destroy(s->objects);
    loop_destroy(s->loop);
}

static int quiesce(void *vm)
{
    vm_quiesce(vm);
    return 0;
}

static int go_on(void *vm)
{
    vm_unquiesce(vm);
    return 0;
}

/* --- traffic ------------------------------------------------------------------------------------------------------ */

static uint64_t rd(struct side *s, uint64_t gpa, unsigned size)
{
    uint64_t v = 0xdead;
    return mmio_read(s->vm->mem, gpa, size, &v) ? v : ~0ull;
}

static void wr(struct side *s, uint64_t gpa, uint64_t val, unsigned size)
{
    mmio_write(s->vm->mem, gpa, size, val);
}

static void *ram(struct side *s, uint64_t gpa, uint64_t len)
{
    return guest_ram_ptr(s->vm->mem, gpa, len);
}

static uint64_t op_uart(struct side *s)
{
    unsigned reg = pick(s, 8);
    if (pick(s, 3)) {
        wr(s, UART + reg, reg == 4 ? rnd(s) | (pick(s, 2) ? 16 : 0) : rnd(s), 1);
        return 0;
    }
    return rd(s, UART + reg, 1);
}

static uint64_t op_rtc(struct side *s)
{
    unsigned reg = 4 * pick(s, 8);
    if (pick(s, 2)) {
        return reg == 0 ? 0 : rd(s, RTC + reg, 4);
    }
    if (pick(s, 3) == 0) { /* an alarm soon */
        uint64_t low = rd(s, RTC, 4), t = low | rd(s, RTC + 4, 4) << 32;
        t += rnd(s) % 5000000;
        wr(s, RTC + 12, t >> 32, 4);
        wr(s, RTC + 8, (uint32_t)t, 4);
        return 0;
    }
    wr(s, RTC + reg, rnd(s), 4);
    return 0;
}

static uint64_t op_plic(struct side *s)
{
    static const uint8_t sources[] = {1, 10, 11, 32, 33, 34, 35, 96};
    unsigned n = sources[pick(s, sizeof(sources))], c = pick(s, 2);
    switch (pick(s, 6)) {
    case 0:
        wr(s, PLIC + 4 * n, rnd(s), 4);
        return 0;
    case 1:
        wr(s, PLIC + 0x2000 + 0x80 * c + 4 * (n / 32), rnd(s) | 1u << n % 32, 4);
        return 0;
    case 2:
        wr(s, PLIC + 0x200000 + 0x1000 * c, pick(s, 4) ? 0 : rnd(s), 4);
        return 0;
    case 3:
        return rd(s, PLIC + 0x200004 + 0x1000 * c, 4);
    case 4:
        wr(s, PLIC + 0x200004 + 0x1000 * c, n, 4);
        return 0;
    default:
        return rd(s, PLIC + 0x1000 + 4 * (n / 32), 4);
    }
}

static uint64_t op_fw_cfg(struct side *s)
{
    static const uint16_t keys[] = {0, 1, 3, 5, 0x19, 0x20, 0x4001, 0x77};
    uint8_t d[16];
    switch (pick(s, 4)) {
    case 0:
        wr(s, FWCFG + 8, htobe16(keys[pick(s, 8)]), 2);
        return 0;
    case 1:
        wr(s, FWCFG + 16, htobe32((uint32_t)pick(s, 2)), 4);
        return 0;
    case 2:
        store_be32(d, 2 + 4 * pick(s, 2));
        store_be32(d + 4, pick(s, 12));
        store_be64(d + 8, RAM + 0x2000);
        memcpy(ram(s, RAM + 0x1000, 16), d, 16);
        wr(s, FWCFG + 20, htobe32((uint32_t)RAM + 0x1000), 4);
        return load_be32(ram(s, RAM + 0x1000, 4));
    default:
        return rd(s, FWCFG, 1u << pick(s, 4));
    }
}

/* Commands of all kinds, many left unfinished. Nothing is erased: the node's zeroes cannot change. */
static uint64_t op_flash(struct side *s)
{
    static const uint8_t shows[] = {0xff, 0x50, 0x70, 0x90, 0x98};
    uint64_t at = FLASH + (32 << 20) + 0x40000 * pick(s, 128) + 4 * pick(s, 512);
    unsigned n;
    switch (pick(s, 8)) {
    case 0:
        wr(s, at, shows[pick(s, 5)], 4);
        return 0;
    case 1:
        wr(s, at, 0x40, 4);
        wr(s, at, rnd(s), pick(s, 2) ? 4 : 8);
        return 0;
    case 2:
        wr(s, at, 0x60, 4);
        wr(s, at, pick(s, 3) ? 0x01 : pick(s, 2) ? 0xd0 : 0x33, 4);
        return 0;
    case 3:
        n = 1 + pick(s, 4);
        wr(s, at, 0xe8, 4);
        wr(s, at, n - 1, 4);
        for (unsigned i = pick(s, 2); i < n; i++) {
            wr(s, (at & ~31ull) + 4 * i, rnd(s), 4);
        }
        wr(s, at, pick(s, 4) ? 0xd0 : 0x33, 4);
        return 0;
    case 4:
        wr(s, at, 0x20, 4);
        wr(s, at, 0x33, 4);
        return 0;
    case 5:
        wr(s, at, pick(s, 2) ? 0x40 : 0xe8, 4);
        return 0;
    default:
        return rd(s, pick(s, 2) ? at : FLASH + (32 << 20) + 4 * pick(s, 64), 1u << pick(s, 3));
    }
}

static uint64_t config_at(unsigned slot, unsigned off)
{
    return ECAM + (slot << 15) + off;
}

static uint64_t op_pci(struct side *s)
{
    unsigned slot = pick(s, 7);
    switch (pick(s, 5)) {
    case 0: /* base address: its own place, another's, nonsense */
        wr(s, config_at(slot, 0x20), pick(s, 3) ? BAR + (pick(s, 6) << 16) : rnd(s), 4);
        wr(s, config_at(slot, 0x24), pick(s, 8) ? 0 : 4, 4);
        return 0;
    case 1:
        wr(s, config_at(slot, PCI_COMMAND), pick(s, 4) ? 6 : rnd(s), 2);
        return 0;
    case 2:
        wr(s, config_at(slot, 4 * pick(s, 64)), rnd(s), 4);
        return 0;
    default:
        return rd(s, config_at(slot, 4 * pick(s, 64)), 4);
    }
}

/* Reads and writes of any register of the transports. */
static uint64_t op_virtio(struct side *s)
{
    uint64_t at = pick(s, 2) ? SLOT + 0x1000 * pick(s, 3) + 4 * pick(s, pick(s, 2) ? 16 : 96)
                             : BAR + (pick(s, 6) << 16) + 0x1000 * pick(s, 4) + 4 * pick(s, 16);
    unsigned size = pick(s, 4) ? 4 : 1u << pick(s, 4);
    if (pick(s, 3)) {
        return rd(s, at, size);
    }
    wr(s, at, pick(s, 2) ? pick(s, 20) : rnd(s), size);
    return 0;
}

struct where {
    uint64_t base;                                       /* of the registers */
    unsigned features, features_sel, status, sel, ready; /* offsets */
    unsigned desc, avail, used, notify;
    unsigned width; /* of status and sel */
};
static const struct where mmio_regs = {SLOT, 0x20, 0x24, 0x70, 0x30, 0x44, 0x80, 0x90, 0xa0, 0x50, 4};
static const struct where pci_regs = {BAR, 12, 8, 20, 22, 28, 32, 40, 48, 0x3000, 2};

static bool on_pci(unsigned dev)
{
    return dev != DISK_MMIO && dev != RNG_MMIO && dev != NET_MMIO;
}

static struct where regs_of(unsigned dev)
{
    struct where w = on_pci(dev) ? pci_regs : mmio_regs;
    w.base += on_pci(dev) ? (uint64_t)dev << 16 : dev == RNG_MMIO ? 0x1000 : dev == NET_MMIO ? 0x2000 : 0;
    return w;
}

/* The queue that is used: of a card the one for commands. */
static unsigned queue_of(unsigned dev)
{
    return dev >= NET_PCI ? 2 : 0;
}

/* What a driver does to start a device. */
static uint64_t op_driver_starts(struct side *s)
{
    unsigned dev = pick(s, DEVICES), slot = dev + 1;
    struct where w = regs_of(dev);
    uint64_t rings = RINGS + dev * 0x10000;
    if (on_pci(dev)) {
        wr(s, config_at(slot, 0x20), BAR + (dev << 16), 4);
        wr(s, config_at(slot, 0x24), 0, 4);
        wr(s, config_at(slot, PCI_COMMAND), 6, 2);
    }
    unsigned status_size = on_pci(dev) ? 1 : 4;
    wr(s, w.base + w.status, 0, status_size);
    side_settle(s->loop);
    memset(ram(s, rings, 0x10000), 0, 0x10000);
    wr(s, w.base + w.status, 3, status_size);
    wr(s, w.base + w.features_sel, 0, 4);
    wr(s, w.base + w.features, rnd(s) & (1u << 29 | 1u << 28 | (dev <= DISK_MMIO ? 1u << 11 | 1u << 9 : 0)), 4);
    wr(s, w.base + w.features_sel, 1, 4);
    wr(s, w.base + w.features, 1, 4);
    wr(s, w.base + w.status, 11, status_size);
    wr(s, w.base + w.sel, queue_of(dev), w.width);
    wr(s, w.base + (on_pci(dev) ? 24 : 0x38), dev == RNG_PCI || dev == RNG_MMIO ? 4 : 16, w.width);
    wr(s, w.base + w.desc, rings, 4);
    wr(s, w.base + w.desc + 4, 0, 4);
    wr(s, w.base + w.avail, rings + 0x1000, 4);
    wr(s, w.base + w.avail + 4, 0, 4);
    wr(s, w.base + w.used, rings + 0x2000, 4);
    wr(s, w.base + w.used + 4, 0, 4);
    wr(s, w.base + w.ready, 1, w.width);
    wr(s, w.base + w.status, 15, status_size);
    wr(s, w.base + (on_pci(dev) ? 0x2000 : 0x100) + 32, pick(s, 2), 1); /* a disk's write cache */
    wr(s, w.base + w.sel, pick(s, 3), w.width);
    wr(s, w.base + (on_pci(dev) ? 0 : 0x14), pick(s, 3), 4);
    return rd(s, w.base + w.status, status_size);
}

static void desc(uint8_t *table, unsigned i, uint64_t addr, uint32_t len, uint32_t flags_next)
{
    store_le64(table + 16 * i, addr);
    store_le32(table + 16 * i + 8, len);
    store_le32(table + 16 * i + 12, flags_next);
}

/* Makes descriptor 0 available in a ring of n; sometimes without a kick, so that it waits. */
static uint64_t post(struct side *s, unsigned dev, unsigned n)
{
    uint64_t rings = RINGS + dev * 0x10000;
    uint8_t *avail = ram(s, rings + 0x1000, 0x1000);
    uint16_t idx = load_le16(avail + 2);
    store_le16(avail + 4 + 2 * (idx % n), pick(s, 50) ? 0 : 77);
    store_le16(avail + 4 + 2 * n, (uint16_t)(pick(s, 2) ? idx : rnd(s))); /* used_event */
    store_le16(avail + 2, (uint16_t)(idx + 1));
    if (pick(s, 4)) {
        struct where w = regs_of(dev);
        wr(s, w.base + w.notify + (on_pci(dev) ? 4 * queue_of(dev) : 0), queue_of(dev), 4);
    }
    side_settle(s->loop);
    return load_le16((uint8_t *)ram(s, rings + 0x2000, 8) + 2);
}

/* One request to a disk, most often a good one. */
static uint64_t op_request(struct side *s)
{
    unsigned disk = pick(s, 3);
    uint64_t rings = RINGS + disk * 0x10000;
    uint8_t *table = ram(s, rings, 0x1000), *head = ram(s, rings + 0x4000, 16);
    bool write = pick(s, 2);
    store_le32(head, write);
    store_le64(head + 8, pick(s, 2100));
    desc(table, 0, rings + 0x4000, 16, 1 | 1 << 16);
    desc(table, 1, rings + 0x5000, pick(s, 20) ? 512 : 0, (write ? 1 : 3) | 2 << 16);
    desc(table, 2, rings + 0x4100, 1, 2);
    return post(s, disk, 16);
}

/* One request for random bytes. */
static uint64_t op_random(struct side *s)
{
    unsigned dev = RNG_PCI + pick(s, 2);
    uint64_t rings = RINGS + dev * 0x10000;
    desc(ram(s, rings, 0x1000), 0, rings + 0x4000, pick(s, 20) ? pick(s, 300) : 0, 2);
    return post(s, dev, 4);
}

/* One command to a card: what it hears, its address. */
static uint64_t op_command(struct side *s)
{
    unsigned dev = NET_PCI + pick(s, 2), kind = pick(s, 3), n = pick(s, 3), len = 2;
    uint64_t rings = RINGS + dev * 0x10000;
    uint8_t *table = ram(s, rings, 0x1000), *p = ram(s, rings + 0x4000, 0x1000);
    for (unsigned i = 0; i < 1024; i += 8) {
        store_le64(p + i, rnd(s));
    }
    p[0] = kind != 0;
    p[1] = kind ? kind - 1 : (uint8_t)pick(s, 7);
    if (kind == 0) {
        p[2] = (uint8_t)pick(s, 2);
        len += 1;
    } else if (kind == 2) {
        len += 6;
    } else {
        n = pick(s, 8) ? n : 65; /* more than there is room for */
        store_le32(p + 2, n);
        store_le32(p + 6 + 6 * n, n);
        len += 8 + 12 * n;
    }
    desc(table, 0, rings + 0x4000, len, 1 | 1 << 16);
    desc(table, 1, rings + 0x5000, pick(s, 20) != 0, 2);
    return post(s, dev, 16);
}

static uint64_t op_clock(struct side *s)
{
    guest_clock_step(&s->vm->clock, rnd(s) % 3000000);
    return guest_clock_ns(&s->vm->clock);
}

static uint64_t (*const ops[])(struct side *s) = {
    op_uart,   op_uart,    op_rtc,           op_plic,    op_plic,    op_fw_cfg,  op_pci,
    op_virtio, op_virtio,  op_driver_starts, op_request, op_request, op_request, op_random,
    op_random, op_command, op_command,       op_flash,   op_flash,   op_clock,
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

static uint64_t interrupts(struct side *s)
{
    size_t n;
    uint64_t out = 0;
    const struct accel_reg *r = s->vm->accel_ops->reg_table(s->vm->accel, &n);
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(r[i].name, "sip")) {
            out = s->vm->accel_ops->get_reg(s->vm->accel, 0, r[i].id) << 16 |
                  s->vm->accel_ops->get_reg(s->vm->accel, 1, r[i].id);
        }
    }
    return out;
}

static unsigned one_op(struct side *s, uint64_t *answer)
{
    unsigned which = pick(s, OPS);
    uint64_t v = ops[which](s);
    side_settle(s->loop);
    *answer = v ^ interrupts(s) << 40;
    return which;
}

/* --- comparing ---------------------------------------------------------------------------------------------------- */

static void copy_ram(struct side *to, struct side *from)
{
    memcpy(ram(to, RAM, 16 * MIB), ram(from, RAM, 16 * MIB), 16 * MIB);
}

/* What a reader may do without is about the host, and one host's clock goes on while two machines do the same. */
static void forget_ancillary(struct vm_state_item *it)
{
    for (const struct state_field *f = it->section->fields; f->name; f++) {
        if (f->flags & STATE_ANCILLARY) {
            memset((uint8_t *)it->st + f->offset, 0, f->count * f->stride);
        }
    }
}

static void same_states(struct vm_state *a, struct vm_state *b)
{
    assert_int_equal(a->n, b->n);
    for (unsigned i = 0; i < a->n; i++) {
        assert_string_equal(a->item[i].path, b->item[i].path);
        forget_ancillary(&a->item[i]);
        forget_ancillary(&b->item[i]);
        if (memcmp(a->item[i].st, b->item[i].st, a->item[i].section->size) != 0) {
            const uint8_t *x = a->item[i].st, *y = b->item[i].st;
            size_t at = 0;
            while (x[at] == y[at]) {
                at++;
            }
            fail_msg("%s differs at byte %zu: %02x, %02x", a->item[i].path, at, x[at], y[at]);
        }
    }
}

/* Every register of every window, one after the other, with what reading them does. */
static void same_registers(struct side *a, struct side *b)
{
    static const struct {
        uint64_t at, len;
        unsigned size;
    } window[] = {
        {UART, 8, 1},
        {RTC + 4, 0x1c, 4},
        {PLIC, 0x188, 4},
        {PLIC + 0x1000, 16, 4},
        {PLIC + 0x2000, 0x110, 4},
        {PLIC + 0x200000, 8, 4},
        {PLIC + 0x201000, 8, 4},
        {FWCFG, 24, 8},
        {FLASH + (32 << 20), 0x40, 4},
        {ECAM, 256, 4},
        {ECAM + 0x8000, 256, 4},
        {ECAM + 0x10000, 256, 4},
        {ECAM + 0x20000, 256, 4},
        {SLOT, 0x140, 4},
        {SLOT + 0x1000, 0x140, 4},
        {SLOT + 0x2000, 0x140, 4},
        {BAR, 0x40, 4},
        {BAR + 0x2000, 0x40, 4},
        {BAR + 0x10000, 0x40, 4},
        {BAR + 0x12000, 0x40, 4},
        {BAR + 0x30000, 0x40, 4},
        {BAR + 0x50000, 0x40, 4},
    };
    for (unsigned i = 0; i < sizeof(window) / sizeof(window[0]); i++) {
        for (uint64_t off = 0; off < window[i].len; off += window[i].size) {
            uint64_t x = rd(a, window[i].at + off, window[i].size), y = rd(b, window[i].at + off, window[i].size);
            if (x != y) {
                fail_msg("register 0x%llx: 0x%llx there, 0x%llx here", (unsigned long long)(window[i].at + off),
                         (unsigned long long)x, (unsigned long long)y);
            }
        }
    }
}

static void transfer(struct side *a, struct side *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    co_run(a->loop, quiesce, a->vm);
    co_run(b->loop, quiesce, b->vm);
    struct vm_state *x = vm_state_create(a->vm), *y = vm_state_create(b->vm);
    vm_state_get(x);
    copy_ram(b, a);
    for (unsigned i = 0; i < x->n; i++) {
        struct vm_state_item *to = vm_state_find(y, x->item[i].path);
        assert_non_null(to);
        memcpy(to->st, x->item[i].st, to->section->size);
    }
    if (vm_state_check(y, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    vm_state_put(y);
    vm_state_get(y);
    same_states(x, y);
    assert_int_equal(interrupts(a), interrupts(b));
    vm_state_destroy(x);
    vm_state_destroy(y);
    co_run(a->loop, go_on, a->vm);
    co_run(b->loop, go_on, b->vm);
    side_settle(a->loop);
    side_settle(b->loop);
}

static void same_in_the_end(struct side *a, struct side *b)
{
    co_run(a->loop, quiesce, a->vm);
    co_run(b->loop, quiesce, b->vm);
    struct vm_state *x = vm_state_create(a->vm), *y = vm_state_create(b->vm);
    vm_state_get(x);
    vm_state_get(y);
    same_states(x, y);
    vm_state_destroy(x);
    vm_state_destroy(y);
    assert_memory_equal(ram(a, RAM, 16 * MIB), ram(b, RAM, 16 * MIB), 16 * MIB);
    co_run(a->loop, go_on, a->vm);
    co_run(b->loop, go_on, b->vm);
}

static void both_answer_the_same(struct side *a, struct side *b, unsigned n)
{
    b->seed = a->seed;
    for (unsigned i = 0; i < n; i++) {
        uint64_t x, y;
        unsigned which = one_op(a, &x);
        one_op(b, &y);
        if (x != y) {
            fail_msg("operation %u (kind %u): 0x%llx there, 0x%llx here", i, which, (unsigned long long)x,
                     (unsigned long long)y);
        }
    }
}

static void second_machine_goes_on_as_the_first(void **state)
{
    for (unsigned round = 0; round < 12; round++) {
        struct side a, b;
        uint64_t ignored;
        open_side(&a, round);
        open_side(&b, 1000 + round);
        for (unsigned i = 0; i < 300 + 100 * round; i++) {
            one_op(&a, &ignored);
            if (round & 1) {
                one_op(&b, &ignored); /* what was there before must not shine through */
            }
        }
        transfer(&a, &b);
        if (round & 2) {
            same_registers(&a, &b);
        }
        both_answer_the_same(&a, &b, 1000);
        same_in_the_end(&a, &b);
        close_side(&a);
        close_side(&b);
    }
}

/* --- the traffic reaches every field ---------------------------------------------------------------------------- */

static void note_changes(GHashTable *still, const char *prefix, const struct state_field *f, const uint8_t *was,
                         const uint8_t *is)
{
    for (; f->name; f++) {
        CLEANUP_FREE char *name = g_strdup_printf("%s.%s", prefix, f->name);
        if (f->type != STATE_TYPE_STRUCT) {
            if (memcmp(was + f->offset, is + f->offset, f->count * f->stride) != 0) {
                g_hash_table_remove(still, name);
            }
            continue;
        }
        for (unsigned i = 0; i < f->count; i++) {
            note_changes(still, name, f->sub, was + f->offset + i * f->stride, is + f->offset + i * f->stride);
        }
    }
}

static void list_fields(GHashTable *still, const char *prefix, const struct state_field *f)
{
    for (; f->name; f++) {
        char *name = g_strdup_printf("%s.%s", prefix, f->name);
        if (f->type == STATE_TYPE_STRUCT) {
            list_fields(still, name, f->sub);
            g_free(name);
        } else {
            g_hash_table_add(still, name);
        }
    }
}

static void walk(GHashTable *still, const struct vm_state *was, const struct vm_state *is)
{
    for (unsigned i = 0; i < was->n; i++) {
        const struct state_section *s = was->item[i].section;
        if (is) {
            note_changes(still, s->name, s->fields, was->item[i].st, is->item[i].st);
        } else {
            list_fields(still, s->name, s->fields);
        }
    }
}

/* What this traffic cannot change: harts (see test_hart_state), what a device is, what needs a disk that fails. */
static const char *const constant[] = {
    "plic.contexts",
    "virtio-blk-pci.virtio.features",
    "virtio-blk-pci.virtio.config_size",
    "pci-host-ecam.mapped",
    "virtio-blk-pci.virtio.queue_size",
    "virtio-blk-pci.virtio.queues",
    "uart16550.tx",
    "virtio-blk-mmio.features",
    "virtio-blk-mmio.config_size",
    "uart16550.tx_len",
    "virtio-blk-mmio.queue_size",
    "virtio-blk-mmio.queues",

    "virtio-blk-pci.virtio.reset_pending",
    "virtio-blk-mmio.reset_pending",

    "virtio-rng-pci.virtio.features",
    "virtio-rng-pci.virtio.config_size",
    "virtio-rng-pci.virtio.config",
    "virtio-rng-pci.virtio.queue_size",
    "virtio-rng-pci.virtio.queues",
    "virtio-rng-pci.virtio.reset_pending",
    "virtio-rng-mmio.virtio.features",
    "virtio-rng-mmio.virtio.config_size",
    "virtio-rng-mmio.virtio.config",
    "virtio-rng-mmio.virtio.queue_size",
    "virtio-rng-mmio.virtio.queues",
    "virtio-rng-mmio.virtio.reset_pending",

    "virtio-net-pci.virtio.features",
    "virtio-net-pci.virtio.config_size",
    "virtio-net-pci.virtio.queue_size",
    "virtio-net-pci.virtio.queues",
    "virtio-net-pci.virtio.reset_pending",
    "virtio-net-mmio.virtio.features",
    "virtio-net-mmio.virtio.config_size",
    "virtio-net-mmio.virtio.queue_size",
    "virtio-net-mmio.virtio.queues",
    "virtio-net-mmio.virtio.reset_pending",
    NULL,
};

static void traffic_reaches_every_field(void **state)
{
    struct side a;
    uint64_t ignored;
    GHashTable *still = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    open_side(&a, 77);
    co_run(a.loop, quiesce, a.vm);
    struct vm_state *was = vm_state_create(a.vm), *is = vm_state_create(a.vm);
    vm_state_get(was);
    walk(still, was, NULL);
    co_run(a.loop, go_on, a.vm);
    for (unsigned i = 0; i < 8000; i++) {
        one_op(&a, &ignored);
        if (i % 4) {
            continue;
        }
        co_run(a.loop, quiesce, a.vm);
        vm_state_get(is);
        walk(still, was, is);
        co_run(a.loop, go_on, a.vm);
        side_settle(a.loop);
    }
    for (unsigned i = 0; constant[i]; i++) {
        if (!g_hash_table_remove(still, constant[i])) {
            fail_msg("%s does change: strike it off the list", constant[i]);
        }
    }
    GHashTableIter it;
    gpointer name;
    g_hash_table_iter_init(&it, still);
    while (g_hash_table_iter_next(&it, &name, NULL)) {
        if (!g_str_has_prefix(name, "riscv-hart.")) {
            fail_msg("%s never changes: nothing shows that it is saved", (char *)name);
        }
    }
    vm_state_destroy(was);
    vm_state_destroy(is);
    g_hash_table_destroy(still);
    close_side(&a);
}

/* --- hostile states ----------------------------------------------------------------------------------------------- */

/* No stream has another truth value than 0 and 1. */
static void make_truths(const struct state_field *f, uint8_t *st)
{
    for (; f->name; f++) {
        for (unsigned i = 0; i < f->count; i++) {
            uint8_t *at = st + f->offset + i * f->stride;
            if (f->type == STATE_TYPE_STRUCT) {
                make_truths(f->sub, at);
            } else if (f->type == STATE_TYPE_BOOL) {
                *at &= 1;
            }
        }
    }
}

/* Random bytes in a state: it is refused or taken, and a machine that took it lives on. */
static void damaged_states_do_no_harm(void **state)
{
    struct side a, b;
    uint64_t ignored;
    unsigned taken = 0, refused = 0;
    open_side(&a, 4711);
    open_side(&b, 4712);
    for (unsigned i = 0; i < 400; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        one_op(&a, &ignored);
        co_run(a.loop, quiesce, a.vm);
        co_run(b.loop, quiesce, b.vm);
        struct vm_state *x = vm_state_create(a.vm), *y = vm_state_create(b.vm);
        vm_state_get(x);
        for (unsigned k = 0; k < x->n; k++) {
            memcpy(y->item[k].st, x->item[k].st, x->item[k].section->size);
        }
        const struct vm_state_item *victim = &y->item[pick(&a, y->n)];
        for (unsigned k = pick(&a, 4); k < 4; k++) {
            ((uint8_t *)victim->st)[pick(&a, (unsigned)victim->section->size)] = (uint8_t)rnd(&a);
        }
        make_truths(victim->section->fields, victim->st);
        if (vm_state_check(y, &e) == 0) {
            vm_state_put(y);
            taken++;
        } else {
            assert_non_null(strstr(err_text(&e), victim->path));
            refused++;
        }
        co_run(a.loop, go_on, a.vm);
        co_run(b.loop, go_on, b.vm);
        vm_state_destroy(x);
        vm_state_destroy(y);
        for (unsigned k = 0; k < 20; k++) {
            one_op(&b, &ignored);
        }
    }
    assert_true(taken > 20 && refused > 20);
    close_side(&a);
    close_side(&b);
}

/* --- machine types ------------------------------------------------------------------------------------------------ */

/* Each type says of every section in which form its release wrote it. */
static void types_name_every_section(void **state)
{
    struct side a;
    open_side(&a, 1);
    struct vm_state *s = vm_state_create(a.vm);
    for (const struct machine_release *r = machine_releases; r->info; r++) {
        const struct state_policy p = {.compat = r->state};
        for (unsigned i = 0; i < s->n; i++) {
            const struct state_compat *c = state_policy_compat(&p, s->item[i].section->name);
            if (!c || !c->subsections || c->version > s->item[i].section->version) {
                fail_msg("%s has no good row for %s", r->info->name, s->item[i].section->name);
            }
        }
        for (const struct machine_compat *m = r->compat; m->driver; m++) {
            const struct device_class *cls = device_class_find(m->driver);
            const struct device_prop *prop = NULL;
            for (unsigned i = 0; cls && (prop = device_class_prop(cls, i)) && strcmp(prop->name, m->prop) != 0; i++) {
            }
            if (strcmp(m->driver, "riscv-cpu") != 0 && !prop) {
                fail_msg("%s: there is no property %s of %s", r->info->name, m->prop, m->driver);
            }
        }
    }
    vm_state_destroy(s);
    close_side(&a);
}

/* What virt-0.1 could not write is refused, and said, where its format is asked for. */
static void old_format_refuses_what_it_cannot_hold(void **state)
{
    struct side a;
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct state_policy old = {.compat = machine_releases[0].state, .reader = "virt-0.1"};
    open_side(&a, 1);
    struct vm_state *s = vm_state_create(a.vm);
    struct vm_state_item *it = vm_state_find(s, "/machine/peripheral/d2");
    vm_state_get(s);
    GByteArray *b = state_encode(it->path, it->section, it->st, &old, &e);
    assert_non_null(b);
    g_byte_array_unref(b);
    ((struct virtio_state *)it->st)->resetting = 1;
    assert_null(state_encode(it->path, it->section, it->st, &old, &e));
    assert_non_null(strstr(err_text(&e), "queue-reset"));
    assert_non_null(strstr(err_text(&e), it->path));
    b = state_encode(it->path, it->section, it->st, NULL, &e);
    assert_non_null(b);
    g_byte_array_unref(b);
    vm_state_destroy(s);
    close_side(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(second_machine_goes_on_as_the_first),
        cmocka_unit_test(traffic_reaches_every_field),
        cmocka_unit_test(damaged_states_do_no_harm),
        cmocka_unit_test(types_name_every_section),
        cmocka_unit_test(old_format_refuses_what_it_cannot_hold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
