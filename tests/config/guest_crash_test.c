/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A guest works a machine with a state file: it opens, closes, locks and unlocks the tray of its CD-ROM drive, whose
 * media are changed meanwhile, rewrites its NVRAM, sets its clock and its card's address, and switches the write caches
 * of a SCSI and of a virtio disk. The power fails at each step of the state file and of the NVRAM's disk, with every
 * part of what was not synced lost or there: what the guest had been told is done must be in what is left, and of what
 * was under way all or nothing. Now and then a whole machine is made of it, and its guest looks.
 *
 * What the guest knows is kept apart (struct picture); it is never taken from the code under test.
 */
#include "config/vm_state.h"

#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/media.h"
#include "block/memdisk.h"
#include "device/cfi_flash.h"
#include "device/scsi.h"
#include "device/scsi_driver.h"
#include "guest/hold.h"
#include "machine/machine.h"
#include "model_fs.h"
#include "net/net.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#define NVRAM     0x22000000ull
#define RTC       0x101000ull
#define SLOT_DISK (SLOT + 0x1000)
#define SLOT_CARD (SLOT + 0x2000)
#define CONTROL   (RAM + 0x200000) /* the card's third queue: descriptors, avail, used, a command */

enum { ISOS = 2, ISO_SIZE = 64 * 1024, WORDS = 64, MACHINES_EVERY = 400, AHEAD_STEP = 100000 };
enum kind {
    EJECT,
    REMOVE,
    INSERT,
    LOCK,
    LOCKED_EJECT,
    NVRAM_WORD,
    CLOCK,
    SCSI_CACHE,
    DISK_CACHE,
    ADDRESS,
    UNLOCK,
    LOAD,
    KINDS
};
static const char *const kind_names[] = {
    "eject", "removal",           "insertion",           "lock",           "locked eject", "NVRAM word",
    "clock", "SCSI disk's cache", "virtio disk's cache", "card's address", "unlock",       "load"};

/* What the guest knows of its machine. */
struct picture {
    bool open, locked, scsi_through, disk_through;
    unsigned address;  /* of the card, its last two bytes; 0: the one that it was made with */
    int medium;        /* which; -1: none */
    unsigned clock;    /* how far ahead it set its clock, in AHEAD_STEPs of seconds */
    uint32_t w[WORDS]; /* of the NVRAM */
};

/* What changed the machine from the picture before it, between these places of the logs. */
struct step {
    enum kind kind;
    unsigned file_begin, file_end, disk_begin, disk_end;
    struct picture after;
};

struct session {
    struct world w; /* the drivers' view of the machine */
    struct vm *vm;
    struct vm_state *state;
    struct object_registry *objects;
    struct nbd_server *nbd;
    struct memdisk iso[ISOS], vars, hd, vd;
    struct config_fs model_fs;
    const struct config_fs *fs;
    bool locked_at_first;
    struct json_object *machine; /* the options that it is made with; NULL: those of a new one */
    /* the first life */
    struct model m;
    struct picture now;
    GArray *steps;
    unsigned words, commands, n[KINDS];
    unsigned long cuts[KINDS]; /* judged while a step of the kind was under way, or had ended last */
    uint64_t clock_base;
    int swap_to;
    /* the judge */
    unsigned near;
    unsigned long judged, machines;
    unsigned wrong; /* gently: how often it was */
    bool gently;
};

/* --- a machine ---------------------------------------------------------------------------------------------------- */

static void must(int rc, const struct err *e)
{
    if (rc < 0) {
        fail_msg("%s", err_text(e));
    }
}

static struct backend *drive(struct session *s)
{
    return backend_find(s->vm->graph, "cd");
}

static void add_disk(struct session *s, struct memdisk *d, const char *name)
{
    struct node *n = memdisk_open(s->vm->graph, d, name);
    n->monitor_owned = true; /* which has the reference from now on */
}

static void add_device(struct session *s, struct json_object *o)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    must(vm_device_add(s->vm, o, &e), &e);
}

static void add_devices_of_file(struct session *s)
{
    const struct config_section *x;
    for (unsigned i = 0; (x = config_file_section(vm_state_file(s->state), i)); i++) {
        if (!strcmp(x->kind, "device")) {
            CLEANUP_JSON struct json_object *o = json_clone(x->values);
            json_object_object_add(o, "id", json_object_new_string(x->name));
            add_device(s, o);
        }
    }
}

static void add_new_devices(struct session *s)
{
    static const char *const devices[] = {
        "{\"driver\":\"virtio-scsi-device\",\"id\":\"s\",\"num_queues\":1,\"bus\":\"virtio-mmio-bus.0\"}",
        "{\"driver\":\"scsi-cd\",\"id\":\"cd\",\"drive\":\"iso0\"}",
        "{\"driver\":\"scsi-hd\",\"id\":\"hd\",\"drive\":\"disk\",\"scsi-id\":1}",
        "{\"driver\":\"virtio-blk-device\",\"id\":\"vd\",\"drive\":\"disk1\",\"bus\":\"virtio-mmio-bus.1\"}",
        "{\"driver\":\"virtio-net-device\",\"id\":\"card\",\"netdev\":\"n\",\"bus\":\"virtio-mmio-bus.2\"}"};
    for (size_t i = 0; i < G_N_ELEMENTS(devices); i++) {
        CLEANUP_JSON struct json_object *o = json_tokener_parse(devices[i]);
        add_device(s, o);
    }
}

static void open_state(struct session *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    const struct vm_state_options o = {
        .path = "/vm/vm.state", .release = "0.1.0", .vm = s->vm, .objects = s->objects, .nbd = &s->nbd, .fs = s->fs};
    must(vm_state_open(&o, &s->state, &e), &e);
    const struct config_section *x = config_file_find(vm_state_file(s->state), "machine", NULL);
    if (x) {
        json_object_put(s->machine);
        s->machine = json_clone(json_object_object_get(x->values, "options"));
    }
}

static int build(void *arg)
{
    struct session *s = arg;
    CLEANUP_ERR struct err e = ERR_INIT;
    open_state(s);
    bool again = config_file_section(vm_state_file(s->state), 0);
    const struct machine_config c = {
        .type = "virt", .accel = "qtest", .harts = 1, .ram_size = RAM_SIZE, .options = s->machine};
    must(vm_set_machine(s->vm, &c, &e), &e);
    CLEANUP_JSON struct json_object *note = json_object_new_object();
    json_object_object_add(note, "type", json_object_new_string("virt"));
    vm_state_note(s->state, "machine", NULL, note);
    add_disk(s, &s->iso[0], "iso0");
    add_disk(s, &s->iso[1], "iso1");
    add_disk(s, &s->vars, "vars");
    add_disk(s, &s->hd, "disk");
    add_disk(s, &s->vd, "disk1");
    must(netdev_add_text(s->vm->net, "user,id=n,restrict=on", &e), &e);
    if (again) {
        add_devices_of_file(s);
    } else {
        add_new_devices(s);
    }
    must(vm_start(s->vm, VM_BEGIN_RUNNING, &e), &e);
    must(vm_state_begin(s->state, &e), &e);
    s->w.board = s->vm->machine->board;
    s->locked_at_first = drive(s)->locked;
    return 0;
}

static int unbuild(void *arg)
{
    struct session *s = arg;
    vm_state_close(s->state);
    vm_destroy(s->vm);
    return 0;
}

/* The driver of a device in another slot than the adapter's takes what it is offered. */
static void meet(struct session *s, uint64_t slot)
{
    struct world *w = &s->w;
    wr(w, slot + 0x70, 0, 4);
    while (rd(w, slot + 0x70, 4)) {
        loop_turn(w->loop, false);
    }
    wr(w, slot + 0x70, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER, 4);
    for (unsigned i = 0; i < 2; i++) {
        wr(w, slot + 0x14, i, 4);
        uint64_t offered = rd(w, slot + 0x10, 4);
        wr(w, slot + 0x24, i, 4);
        wr(w, slot + 0x20, offered, 4);
    }
    wr(w, slot + 0x70, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK, 4);
    wr(w, slot + 0x30, 2, 4);
    wr(w, slot + 0x38, VQ_NUM, 4);
    wr(w, slot + 0x80, (uint32_t)CONTROL, 4);
    wr(w, slot + 0x90, (uint32_t)CONTROL + 0x1000, 4);
    wr(w, slot + 0xa0, (uint32_t)CONTROL + 0x2000, 4);
    wr(w, slot + 0x44, slot == SLOT_CARD, 4);
    wr(w, slot + 0x70, 0xf, 4);
}

static void machine_begin(struct session *s)
{
    s->w.loop = loop_create(LOOP_AUTO, NULL);
    s->vm = vm_create(s->w.loop, NULL);
    s->objects = object_registry_create(s->w.loop, object_kinds);
    graph_set_object_lookup(s->vm->graph, object_registry_lookup, s->objects);
    co_run(s->w.loop, build, s);
    sd_start(&s->w, 0);
    meet(s, SLOT_DISK);
    meet(s, SLOT_CARD);
}

static void machine_end(struct session *s)
{
    co_run(s->w.loop, unbuild, s);
    object_registry_destroy(s->objects);
    loop_destroy(s->w.loop);
    json_object_put(s->machine);
}

/* --- what its guest does ------------------------------------------------------------------------------------------ */

/* To the unit `target`; the sense, as key << 16 | asc << 8 | ascq. */
static unsigned command_to(struct session *s, unsigned target, const uint8_t *cdb, uint32_t out, uint32_t in)
{
    struct sd_answer a = {.response = 0xff};
    sd_post(&s->w, SD_AT(target, 0), cdb, cdb[0] < 0x20 ? 6 : 10, out, in);
    for (unsigned i = 0; i < 10000 && !sd_take(&s->w, &a); i++) {
    }
    assert_int_equal(a.response, 0);
    return (unsigned)(a.key << 16 | a.asc << 8 | a.ascq);
}

static unsigned command(struct session *s, uint8_t op, uint8_t arg, uint32_t in)
{
    const uint8_t cdb[10] = {op, [4] = arg, [8] = op == SCSI_READ_10};
    return command_to(s, 0, cdb, 0, in);
}

/* The page that says whether it is on is at sd_data() + 4. */
static void sense_cache(struct session *s)
{
    const uint8_t cdb[] = {SCSI_MODE_SENSE_6, 8, 8, 0, 64, 0};
    assert_int_equal(command_to(s, 1, cdb, 0, 64), 0);
}

static void meet_disk(struct session *s)
{
    const uint8_t cdb[] = {SCSI_TEST_UNIT_READY, 0, 0, 0, 0, 0};
    assert_int_equal(command_to(s, 1, cdb, 0, 0), 0x062900);
}

static void switch_scsi_cache(struct session *s)
{
    const uint8_t cdb[] = {SCSI_MODE_SELECT_6, 0x10, 0, 0, 24, 0};
    sense_cache(s);
    s->now.scsi_through = !s->now.scsi_through;
    sd_data(&s->w)[0] = 0;
    sd_data(&s->w)[4 + 2] = s->now.scsi_through ? 0 : 4;
    assert_int_equal(command_to(s, 1, cdb, 24, 0), 0);
}

enum { OPEN = 0x023a02, EMPTY = 0x023a01, PREVENTED = 0x055302, WRITEBACK = 32 };

static void nvram_command(struct session *s, uint64_t off, uint32_t c)
{
    wr(&s->w, NVRAM + off, c * 0x10001u, 4);
}

static void nvram_wait(struct session *s)
{
    while (!(rd(&s->w, NVRAM, 4) & 0x80)) {
        loop_turn(s->w.loop, false);
    }
    assert_int_equal(rd(&s->w, NVRAM, 4), 0x00800080);
}

/* The next word, or all of them erased. */
static void rewrite_nvram(struct session *s)
{
    unsigned i = s->words++ % (WORDS + 1);
    if (i == WORDS) {
        nvram_command(s, 0, 0x20);
        nvram_command(s, 0, 0xd0);
        memset(s->now.w, 0xff, sizeof(s->now.w));
    } else {
        s->now.w[i] = 0xabc00000u | s->words;
        nvram_command(s, 4 * i, 0x40);
        wr(&s->w, NVRAM + 4 * i, s->now.w[i], 4);
    }
    nvram_wait(s);
}

static uint64_t clock_now(struct session *s)
{
    uint64_t low = rd(&s->w, RTC, 4);
    return rd(&s->w, RTC + 4, 4) << 32 | low;
}

/* As a hart does until it may go on. */
static void stand(struct session *s)
{
    while (guest_is_held(s->w.board.mem)) {
        loop_turn(s->w.loop, false);
    }
}

static void set_clock(struct session *s)
{
    uint64_t t = s->clock_base + ++s->now.clock * (uint64_t)AHEAD_STEP * 1000000000;
    wr(&s->w, RTC + 4, t >> 32, 4);
    wr(&s->w, RTC, t & UINT32_MAX, 4);
    stand(s);
}

static void switch_disk_cache(struct session *s)
{
    s->now.disk_through = !s->now.disk_through;
    wr(&s->w, SLOT_DISK + 0x100 + WRITEBACK, !s->now.disk_through, 1);
    stand(s);
}

/* By a command in the control queue. */
static void set_address(struct session *s)
{
    s->now.address = ++s->commands;
    uint8_t *p = guest_ram_ptr(s->w.board.mem, CONTROL, 0x4000), *command = p + 0x3000;
    const uint8_t mac[] = {1, 1, 2, 0, 0, 0, (uint8_t)(s->commands >> 8), (uint8_t)s->commands};
    memcpy(command, mac, sizeof(mac));
    command[sizeof(mac)] = 0xee;
    for (unsigned i = 0; i < 2; i++) {
        store_le64(p + 16 * i, CONTROL + 0x3000 + i * sizeof(mac));
        store_le32(p + 16 * i + 8, i ? 1 : sizeof(mac));
        store_le16(p + 16 * i + 12, i ? 2 : 1);
        store_le16(p + 16 * i + 14, 1);
    }
    store_le16(p + 0x1000 + 2, (uint16_t)s->commands);
    wr(&s->w, SLOT_CARD + 0x50, 2, 4);
    while (load_le16(p + 0x2000 + 2) != (uint16_t)s->commands) {
        loop_turn(s->w.loop, false);
    }
    assert_int_equal(command[sizeof(mac)], 0);
}

/* --- what the monitor does ---------------------------------------------------------------------------------------- */

static int change_medium(void *arg)
{
    struct session *s = arg;
    CLEANUP_ERR struct err e = ERR_INIT;
    const char *name = s->swap_to ? "iso1" : "iso0";
    graph_change_begin(s->vm->graph);
    must(s->swap_to < 0 ? media_remove(drive(s), "cd", &e)
                        : media_insert(drive(s), "cd", node_find(s->vm->graph, name), &e),
         &e);
    graph_change_end(s->vm->graph);
    must(vm_state_update(s->state, &e), &e);
    return 0;
}

static void swap_medium(struct session *s, int to)
{
    s->swap_to = to;
    co_run(s->w.loop, change_medium, s);
    s->now.medium = to;
}

/* The file system of a disk that lies. */
static int no_sync(void *dir, int file)
{
    return 0;
}

/* --- the session -------------------------------------------------------------------------------------------------- */

static void act(struct session *s, enum kind k)
{
    switch (k) {
    case EJECT:
        assert_int_equal(command(s, SCSI_START_STOP_UNIT, 2, 0), 0);
        s->now.open = true;
        break;
    case LOAD:
        assert_int_equal(command(s, SCSI_START_STOP_UNIT, 3, 0), 0);
        assert_int_equal(command(s, SCSI_TEST_UNIT_READY, 0, 0), 0x062800); /* another medium */
        s->now.open = false;
        break;
    case LOCK:
    case UNLOCK:
        assert_int_equal(command(s, SCSI_PREVENT_ALLOW, k == LOCK, 0), 0);
        s->now.locked = k == LOCK;
        break;
    case LOCKED_EJECT: /* the tray is closed by now */
        assert_int_equal(command(s, SCSI_START_STOP_UNIT, 2, 0), PREVENTED);
        break;
    case REMOVE:
        swap_medium(s, -1);
        break;
    case INSERT:
        swap_medium(s, (int)(s->n[INSERT] % ISOS));
        break;
    case NVRAM_WORD:
        rewrite_nvram(s);
        break;
    case SCSI_CACHE:
        switch_scsi_cache(s);
        break;
    case DISK_CACHE:
        switch_disk_cache(s);
        break;
    case ADDRESS:
        set_address(s);
        break;
    default:
        set_clock(s);
        break;
    }
}

static void one_step(struct session *s, enum kind k)
{
    struct step st = {.kind = k, .file_begin = s->m.log->len, .disk_begin = s->vars.log->len};
    act(s, k);
    s->n[k]++;
    st.file_end = s->m.log->len;
    st.disk_end = s->vars.log->len;
    st.after = s->now;
    /* The guest is told now: what it asked for has been written. */
    assert_true(k == LOCKED_EJECT || k == NVRAM_WORD ? st.file_end == st.file_begin : st.file_end > st.file_begin);
    assert_true((k == NVRAM_WORD) == (st.disk_end > st.disk_begin));
    g_array_append_val(s->steps, st);
}

/* `forgetful`: the file system promises what it does not do. */
static void session_begin(struct session *s, bool forgetful)
{
    *s = (struct session){.steps = g_array_new(FALSE, TRUE, sizeof(struct step))};
    model_init(&s->m, true);
    s->model_fs = model_fs(&s->m);
    s->fs = &s->model_fs;
    if (forgetful) {
        s->model_fs.sync = no_sync;
    }
    for (unsigned i = 0; i < ISOS; i++) {
        memdisk_resize(&s->iso[i], ISO_SIZE);
        memset(s->iso[i].data, 'a' + (int)i, ISO_SIZE);
    }
    memdisk_resize(&s->hd, ISO_SIZE);
    memdisk_resize(&s->vd, ISO_SIZE);
    s->vars.max = CFI_FLASH_SIZE;
    memdisk_resize(&s->vars, CFI_FLASH_SIZE);
    memset(s->vars.data, 0xff, CFI_FLASH_SIZE);
    memset(s->now.w, 0xff, sizeof(s->now.w));
    s->machine = json_tokener_parse("{\"pflash1\":\"vars\"}");
    memdisk_log_start(&s->vars);
    machine_begin(s);
    s->clock_base = clock_now(s);
    assert_int_equal(command(s, SCSI_TEST_UNIT_READY, 0, 0), 0x062900);
    meet_disk(s);
    const struct step begun = {.kind = KINDS, .file_end = s->m.log->len, .after = s->now};
    g_array_append_val(s->steps, begun);
}

static void disks_end(struct session *s)
{
    memdisk_finish(&s->iso[0]);
    memdisk_finish(&s->iso[1]);
    memdisk_finish(&s->vars);
    memdisk_finish(&s->hd);
    memdisk_finish(&s->vd);
}

static void session_end(struct session *s)
{
    disks_end(s);
    g_array_free(s->steps, TRUE);
    model_finish(&s->m);
}

static void play(struct session *s, unsigned rounds)
{
    static const enum kind order[] = {EJECT, REMOVE,     NVRAM_WORD, INSERT,       LOAD,       LOCK,
                                      CLOCK, SCSI_CACHE, ADDRESS,    LOCKED_EJECT, DISK_CACHE, UNLOCK};
    for (unsigned i = 0; i < rounds; i++) {
        for (size_t k = 0; k < G_N_ELEMENTS(order); k++) {
            one_step(s, order[k]);
        }
    }
}

/* --- the judge ---------------------------------------------------------------------------------------------------- */

static const struct step *step_of(const struct session *s, unsigned i)
{
    return &g_array_index(s->steps, struct step, i);
}

static bool same_make_up(const struct picture *a, const struct picture *b)
{
    return a->open == b->open && a->locked == b->locked && a->medium == b->medium && a->clock == b->clock &&
           a->scsi_through == b->scsi_through && a->disk_through == b->disk_through && a->address == b->address;
}

static bool flag(const struct config_section *x, const char *key)
{
    return json_object_get_boolean(json_object_object_get(x->values, key));
}

static const char *word(const struct config_file *f, const char *device, const char *key)
{
    return json_object_get_string(json_object_object_get(config_file_find(f, "device", device)->values, key));
}

/* False: nothing was written yet. */
static bool read_picture(const struct config_file *f, struct picture *p)
{
    const struct config_section *cd = config_file_find(f, "device", "cd"), *m = config_file_find(f, "machine", NULL);
    if (!cd || !m) {
        assert_null(config_file_section(f, 0));
        return false;
    }
    const char *medium = json_object_get_string(json_object_object_get(cd->values, "drive"));
    struct json_object *ahead = json_object_object_get(json_object_object_get(m->values, "options"), "rtc-offset");
    int64_t seconds = json_object_get_int64(ahead) / 1000000000;
    p->scsi_through = !g_strcmp0(word(f, "hd", "write-cache"), "off");
    p->disk_through = !g_strcmp0(word(f, "vd", "write-cache"), "off");
    unsigned high = 0, low = 0;
    const char *mac = word(f, "card", "mac");
    p->address = mac && sscanf(mac, "02:00:00:00:%x:%x", &high, &low) == 2 ? high << 8 | low : 0;
    p->open = flag(cd, "tray-open");
    p->locked = flag(cd, "locked");
    p->medium = !medium ? -1 : !strcmp(medium, "iso1");
    p->clock = (unsigned)((seconds + AHEAD_STEP / 2) / AHEAD_STEP);
    return true;
}

/* Which step was under way, or had ended last. */
static unsigned find_step(struct session *s, unsigned at)
{
    while (s->near + 1 < s->steps->len && step_of(s, s->near + 1)->file_begin < at) {
        s->near++;
    }
    return s->near;
}

static bool may_be(const struct session *s, unsigned i, unsigned at, const struct picture *p)
{
    const struct step *st = step_of(s, i);
    return same_make_up(p, &st->after) || (at < st->file_end && i && same_make_up(p, &st[-1].after));
}

/* A machine is made of what is left; what its guest sees is what the file said. */
static void look_as_guest(struct session *s, const struct config_fs *fs, const struct picture *p, unsigned i)
{
    struct session again = {.fs = fs};
    memdisk_copy(&again.iso[0], &s->iso[0]);
    memdisk_copy(&again.iso[1], &s->iso[1]);
    memdisk_copy(&again.hd, &s->hd);
    memdisk_copy(&again.vd, &s->vd);
    again.vars.max = CFI_FLASH_SIZE;
    memdisk_resize(&again.vars, CFI_FLASH_SIZE);
    memset(again.vars.data, 0xff, CFI_FLASH_SIZE);
    memcpy(again.vars.data, step_of(s, i)->after.w, sizeof(p->w));
    machine_begin(&again);
    assert_int_equal(command(&again, SCSI_TEST_UNIT_READY, 0, 0), 0x062900);
    assert_int_equal(command(&again, SCSI_TEST_UNIT_READY, 0, 0), p->open ? OPEN : p->medium < 0 ? EMPTY : 0);
    if (!p->open && p->medium >= 0) {
        assert_int_equal(command(&again, SCSI_READ_10, 0, 2048), 0);
        assert_int_equal(sd_data(&again.w)[0], 'a' + p->medium);
    }
    assert_int_equal(rd(&again.w, NVRAM + 4, 4), step_of(s, i)->after.w[1]);
    meet_disk(&again);
    sense_cache(&again);
    assert_int_equal(sd_data(&again.w)[4 + 2] & 4, p->scsi_through ? 0 : 4);
    assert_int_equal(rd(&again.w, SLOT_DISK + 0x100 + WRITEBACK, 1), !p->disk_through);
    assert_int_equal(rd(&again.w, SLOT_CARD + 0x104, 1) << 8 | rd(&again.w, SLOT_CARD + 0x105, 1),
                     p->address ? p->address : 0x3456);
    struct machine *m = again.vm->machine;
    assert_in_range(m->type->rtc_offset(m) / 1000000000 + AHEAD_STEP / 2 - (int64_t)p->clock * AHEAD_STEP, 0,
                    AHEAD_STEP);
    assert_int_equal(again.locked_at_first, p->locked); /* its driver's reset unlocks */
    machine_end(&again);
    disks_end(&again);
    s->machines++;
}

static bool is_right(struct session *s, struct config_file *f, unsigned i, unsigned at, struct picture *p, bool *begun)
{
    *begun = read_picture(f, p);
    return *begun ? may_be(s, i, at, p) : i == 0 && at < step_of(s, 0)->file_end;
}

static void judge(void *opaque, struct model *image, unsigned at)
{
    struct session *s = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f = NULL;
    struct picture p = {.medium = -1};
    unsigned i = find_step(s, at);
    bool begun = false;
    const struct config_fs fs = model_fs(image);
    const struct config_options o = {.path = "/vm/vm.state", .kinds = vm_state_kinds, .release = "0.1.0", .fs = &fs};
    int rc = config_file_open(&o, &f, &e);
    bool right = rc == 0 && is_right(s, f, i, at, &p, &begun);
    config_file_close(f);
    s->judged++;
    s->cuts[step_of(s, i)->kind % KINDS] += step_of(s, i)->kind != KINDS;
    s->wrong += !right;
    if (!right && !s->gently) {
        fail_msg(
            "after %u entries, in or behind step %u, kind %d: %s open %d locked %d medium %d clock %u caches %d %d "
            "address %u",
            at, i, step_of(s, i)->kind, rc < 0 ? err_text(&e) : "", p.open, p.locked, p.medium, p.clock,
            !p.scsi_through, !p.disk_through, p.address);
    }
    if (begun && !s->gently && s->judged % MACHINES_EVERY == 0) {
        look_as_guest(s, &fs, &p, i);
    }
}

/* Of the NVRAM's first sector any of its bytes may be old or new, while a word is programmed. */
static void judge_words(const struct session *s, unsigned i, unsigned at, const uint8_t *bytes)
{
    const struct step *st = step_of(s, i);
    for (unsigned k = 0; k < WORDS; k++) {
        uint32_t w = load_le32(bytes + 4 * k);
        if (w != st->after.w[k] && (at >= st->disk_end || !i || w != st[-1].after.w[k])) {
            fail_msg("after %u entries of the NVRAM's disk, step %u: word %u is %08x", at, i, k, w);
        }
    }
}

/* All writes are to the same sectors: each one that is not flushed is there or not. */
static unsigned long judge_nvram(const struct session *s)
{
    uint8_t durable[4 * WORDS], full[4 * WORDS];
    const GArray *log = s->vars.log;
    unsigned long points = 0;
    unsigned step = 0;
    memset(durable, 0xff, sizeof(durable));
    memcpy(full, durable, sizeof(full));
    for (unsigned at = 0; at <= log->len; at++) {
        const struct mem_op *op = at ? &g_array_index(log, struct mem_op, at - 1) : NULL;
        if (op && op->kind == MEM_FLUSHED) {
            assert_int_equal(op->off, at - 1); /* nothing came meanwhile */
            memcpy(durable, full, sizeof(durable));
        } else if (op && op->off < sizeof(full)) {
            memcpy(full + op->off, op->data, MIN(op->len, sizeof(full) - op->off));
        }
        while (step + 1 < s->steps->len && step_of(s, step + 1)->disk_begin < at) {
            step++;
        }
        judge_words(s, step, at, durable);
        judge_words(s, step, at, full);
        points += 2;
    }
    return points;
}

/* --- tests -------------------------------------------------------------------------------------------------------- */

static unsigned number(const char *variable, unsigned otherwise)
{
    const char *v = getenv(variable);
    return v ? (unsigned)atoi(v) : otherwise;
}

static void what_the_guest_was_told_is_there(void **state)
{
    struct session s;
    session_begin(&s, false);
    play(&s, number("STERNA_CRASH_ROUNDS", 10));
    machine_end(&s);
    unsigned long points = model_crashes(&s.m, number("STERNA_TEST_SEED", 1), judge, &s);
    unsigned long nvram = judge_nvram(&s);
    s.cuts[NVRAM_WORD] += nvram;
    for (unsigned k = 0; k < KINDS; k++) {
        print_message("%s: %u times, cut %lu times\n", kind_names[k], s.n[k], s.cuts[k]);
        assert_true(s.n[k] >= number("STERNA_CRASH_CHANGES", 10));
        assert_true(s.cuts[k] > s.n[k] || k == LOCKED_EJECT); /* which changes nothing */
    }
    print_message("%lu crashes of the state file, %lu of the NVRAM; %lu machines were made\n", points, nvram,
                  s.machines);
    assert_true(points + nvram >= number("STERNA_CRASH_AT_LEAST", 8000));
    assert_true(s.machines >= points / MACHINES_EVERY - 2);
    session_end(&s);
}

/* The judge is no rubber stamp. */
static void it_would_be_noticed(void **state)
{
    struct session s;
    session_begin(&s, true);
    play(&s, 1);
    machine_end(&s);
    s.gently = true;
    model_crashes(&s.m, 1, judge, &s);
    assert_true(s.wrong > 0);
    session_end(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_guest_was_told_is_there),
        cmocka_unit_test(it_would_be_noticed),
    };
    return cmocka_run_group_tests_name("guest crashes", tests, NULL, NULL);
}
