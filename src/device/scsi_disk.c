/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/scsi_disk.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "block/media.h"

#include <inttypes.h>
#include <string.h>

/* --- properties --------------------------------------------------------------------------------------------------- */

#define COMMON_PROPS                                                                                                   \
    {"serial", PROP_STR}, {"device_id", PROP_STR, .help = "default: the serial number, or the name of the drive"},     \
        {"vendor", PROP_STR, "QEMU"}, {"ver", PROP_STR, "2.5+"}, {"wwn", PROP_INT, "0", .type_name = "uint64"},        \
        {"port_wwn", PROP_INT, "0", .type_name = "uint64"},                                                            \
    {                                                                                                                  \
        "port_index", PROP_INT, "0", .max = 65535, .type_name = "uint16"                                               \
    }

/* How it was when it was last seen: for who makes it again. */
static const struct device_prop tray_props[] = {
    {"tray-open", PROP_BOOL, "off", .help = "on/off: the tray is open at first"},
    {"locked", PROP_BOOL, "off", .help = "on/off: the guest keeps the tray closed; until its driver resets the device"},
    {NULL},
};

static const struct device_prop hd_props[] = {
    COMMON_PROPS,
    {"product", PROP_STR, "QEMU HARDDISK"},
    {"removable", PROP_BOOL, "off", .help = "on/off"},
    {"dpofua", PROP_BOOL, "on", .help = "on/off"},
    {"rotation_rate", PROP_INT, "0", .max = 65535, .type_name = "uint16", .help = "1: it does not rotate; 0: unsaid"},
    {"max_unmap_size", PROP_SIZE, "1073741824", 512, INT64_MAX},
    {"max_io_size", PROP_SIZE, "2147483647", 512, INT64_MAX},
    {NULL},
};

static const struct device_prop cd_props[] = {
    COMMON_PROPS,
    {"product", PROP_STR, "QEMU CD-ROM"},
    {NULL},
};

static int check_props(struct scsi_disk *s, struct err *e)
{
    const struct device *d = &s->dev;
    if (s->serial && strlen(s->serial) > SCSI_SERIAL_MAX) {
        return err_set(e, EINVAL, "device '%s': serial is longer than %d bytes", device_name(d), SCSI_SERIAL_MAX);
    }
    if (s->device_id && strlen(s->device_id) > SCSI_SERIAL_MAX) {
        return err_set(e, EINVAL, "device '%s': device_id is longer than %d bytes", device_name(d), SCSI_SERIAL_MAX);
    }
    if (!s->removable && (device_bool(d, "tray-open") || device_bool(d, "locked"))) {
        return err_set(e, EINVAL, "device '%s': tray-open and locked are for removable=on", device_name(d));
    }
    return s->cd ? 0 : disk_check_sizes(d, e);
}

/* --- the medium --------------------------------------------------------------------------------------------------- */

bool scsi_disk_ready(const struct scsi_disk *s)
{
    return s->disk.backend->root && !s->disk.backend->tray_open;
}

struct scsi_sense scsi_disk_not_ready(const struct scsi_disk *s)
{
    return s->disk.backend->tray_open ? SENSE_NO_MEDIUM_TRAY_OPEN
           : s->cd                    ? SENSE_NO_MEDIUM_TRAY_CLOSED
                                      : SENSE_NO_MEDIUM;
}

bool scsi_disk_may_write(const struct scsi_disk *s)
{
    const struct edge *root = s->disk.backend->root;
    return !s->cd && root && root->perm & PERM_WRITE;
}

static void measure(struct scsi_disk *s)
{
    const struct edge *root = s->disk.backend->root;
    s->blocks = root ? edge_size(root) / s->block_size : 0;
}

/* Of a disk the guest is told at once; a CD says so when it is asked. */
static void on_resized(void *opaque)
{
    struct scsi_disk *s = opaque;
    uint64_t before = s->blocks;
    measure(s);
    if (s->lun.bus && !s->cd && scsi_disk_ready(s) && before && before != s->blocks) {
        scsi_lun_attention(&s->lun, SCSI_ATTENTION_CAPACITY_CHANGED);
        s->lun.bus->ops->changed(s->lun.bus, &s->lun, SENSE_CAPACITY_CHANGED);
    }
}

static void on_medium(void *opaque, bool loaded)
{
    struct scsi_disk *s = opaque;
    measure(s);
    s->media_event = true;
    s->eject_request = false;
    if (loaded && scsi_disk_ready(s)) {
        scsi_lun_attention(&s->lun, SCSI_ATTENTION_MEDIUM_CHANGED);
    }
}

void scsi_disk_tray_moved(struct scsi_disk *s)
{
    bool open = s->disk.backend->tray_open;
    measure(s);
    if (!open && scsi_disk_ready(s)) {
        scsi_lun_attention(&s->lun, SCSI_ATTENTION_MEDIUM_CHANGED);
    }
    backend_move_tray(s->disk.backend, open);
}

static void on_eject_request(void *opaque, bool force)
{
    struct scsi_disk *s = opaque;
    s->eject_request = true;
    if (force) {
        s->disk.backend->locked = false;
    }
}

static const struct backend_dev_ops fixed_ops = {.resized = on_resized};
static const struct backend_dev_ops removable_ops = {
    .resized = on_resized, .medium = on_medium, .eject_request = on_eject_request};

/* --- what a restart must find again ------------------------------------------------------------------------------- */

int scsi_disk_settle(struct scsi_disk *s)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct board *b = s->dev.board;
    int rc = b->changed(b->opaque, &e);
    if (rc < 0) {
        log_warn(b->log, "%s: what the guest wants is refused: %s", device_name(&s->dev), err_text(&e));
    }
    return rc;
}

static void disk_make_up(const struct device *d, struct json_object *o)
{
    const struct scsi_disk *s = (const struct scsi_disk *)d;
    const struct backend *b = s->disk.backend;
    const struct {
        const char *name;
        bool is;
    } flags[] = {{"tray-open", b->tray_open}, {"locked", b->locked}};
    for (size_t i = 0; i < G_N_ELEMENTS(flags); i++) {
        json_object_object_del(o, flags[i].name);
        if (flags[i].is) {
            json_object_object_add(o, flags[i].name, json_object_new_boolean(true));
        }
    }
    if (b->write_cache != s->default_wce) {
        json_object_object_del(o, "write-cache");
        json_object_object_add(o, "write-cache", json_object_new_string(b->write_cache ? "on" : "off"));
    }
}

/* A reset unlocks: the guest need not wait until that is written down. */
static void lock_is_gone(void *board)
{
    struct board *b = board;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (b->changed(b->opaque, &e) < 0) {
        log_warn(b->log, "a tray is not locked any more: %s", err_text(&e));
    }
}

/* --- the logical unit --------------------------------------------------------------------------------------------- */

static void reset(struct scsi_disk *s, bool unlock)
{
    struct scsi_lun *l = &s->lun;
    l->attentions = 1u << SCSI_ATTENTION_RESET;
    s->eject_request = false;
    s->media_event = false;
    measure(s);
    s->fresh = false;
    if (unlock && s->disk.backend->locked) {
        s->disk.backend->locked = false;
        co_start(s->dev.board->loop, lock_is_gone, s->dev.board);
    }
}

static void lun_reset(struct scsi_lun *l)
{
    reset(scsi_disk_of(l), true);
}

static void lun_hurry(struct scsi_lun *l, bool on)
{
    backend_hurry(scsi_disk_of(l)->disk.backend, on);
}

static void lun_machine_goes_on(struct scsi_lun *l)
{
    scsi_disk_of(l)->disk.backend->io_status = "ok";
}

static const struct scsi_lun_ops lun_ops = {
    .run = scsi_disk_run, .reset = lun_reset, .hurry = lun_hurry, .machine_goes_on = lun_machine_goes_on};

static void claim(struct scsi_disk *s)
{
    struct backend *b = s->disk.backend;
    disk_claim(&s->disk, s->removable ? &removable_ops : &fixed_ops, s);
    s->default_wce = b->write_cache;
    b->removable = s->removable;
    b->tray_open = device_bool(&s->dev, "tray-open");
    b->locked = device_bool(&s->dev, "locked");
    s->fresh = true;
    if (!s->device_id) {
        s->device_id = s->serial ? s->serial : b->name[0] ? b->name : NULL;
    }
    measure(s);
}

static int disk_realize(struct device *d, struct err *e)
{
    struct scsi_disk *s = (struct scsi_disk *)d;
    s->cd = d->cls == &scsi_cd_class;
    s->removable = s->cd || device_bool(d, "removable");
    s->dpofua = !s->cd && device_bool(d, "dpofua");
    s->block_size = s->cd ? SCSI_CD_BLOCK : (uint32_t)device_int(d, "logical_block_size");
    s->serial = device_str(d, "serial");
    s->device_id = device_str(d, "device_id");
    s->lun.ops = &lun_ops;
    int rc = check_props(s, e);
    rc = rc < 0 ? rc : disk_attach(&s->disk, d, s->cd ? DISK_READ_ONLY | DISK_MAY_BE_EMPTY : 0, e);
    if (rc == 0) {
        claim(s);
        rc = scsi_lun_plug(&s->lun, d, e);
    }
    if (rc < 0) {
        disk_detach(&s->disk);
    }
    return rc;
}

static void disk_unrealize(struct device *d)
{
    struct scsi_disk *s = (struct scsi_disk *)d;
    scsi_lun_unplug(&s->lun);
    disk_detach(&s->disk);
}

static void disk_reset(struct device *d)
{
    struct scsi_disk *s = (struct scsi_disk *)d;
    reset(s, !s->fresh);
}

static char *disk_boot_path(struct device *d)
{
    return scsi_lun_boot_path(&((struct scsi_disk *)d)->lun);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

struct disk_state {
    uint32_t channel, target, lun, block_size;
    uint64_t blocks;
    uint32_t attentions;
    bool cd, wce, tray_open, locked, eject_request, media_event;
};

static const struct state_field disk_fields[] = {
    STATE_BOOL(struct disk_state, cd, .help = "a CD-ROM drive, not a disk"),
    STATE_U32(struct disk_state, channel),
    STATE_U32(struct disk_state, target),
    STATE_U32(struct disk_state, lun),
    STATE_U32(struct disk_state, block_size, .min = 512, .max = 2 << 20),
    STATE_U64(struct disk_state, blocks, .help = "of the medium"),
    STATE_U32(struct disk_state, attentions, .max = (1u << SCSI_ATTENTIONS) - 1,
              .help = "unit attention conditions to be reported, a bit each"),
    STATE_BOOL(struct disk_state, wce, .help = "the write cache is on"),
    STATE_BOOL(struct disk_state, tray_open),
    STATE_BOOL(struct disk_state, locked, .help = "the guest prevents the removal of the medium"),
    STATE_BOOL(struct disk_state, eject_request,
               .help = "the host asked for the medium, and the guest was not told yet"),
    STATE_BOOL(struct disk_state, media_event, .help = "a medium came or went, and the guest was not told yet"),
    {0},
};

static void state_get(void *object, void *st)
{
    const struct scsi_disk *s = object;
    const struct backend *b = s->disk.backend;
    *(struct disk_state *)st = (struct disk_state){
        .cd = s->cd,
        .channel = s->lun.channel,
        .target = s->lun.target,
        .lun = s->lun.lun,
        .block_size = s->block_size,
        .blocks = s->blocks,
        .attentions = s->lun.attentions,
        .wce = b->write_cache,
        .tray_open = b->tray_open,
        .locked = b->locked,
        .eject_request = s->eject_request,
        .media_event = s->media_event,
    };
}

static int state_check(void *object, const void *st, struct err *e)
{
    const struct scsi_disk *s = object;
    const struct disk_state *x = st;
    if (x->cd != s->cd) {
        return err_set(e, EINVAL, "it is a %s there and a %s here", x->cd ? "CD-ROM drive" : "disk",
                       s->cd ? "CD-ROM drive" : "disk");
    }
    if (x->channel != s->lun.channel || x->target != s->lun.target || x->lun != s->lun.lun) {
        return err_set(e, EINVAL, "its address is %u:%u:%u there and %u:%u:%u here; see channel, scsi-id and lun",
                       x->channel, x->target, x->lun, s->lun.channel, s->lun.target, s->lun.lun);
    }
    if (x->block_size != s->block_size) {
        return err_set(e, EINVAL, "its blocks have %u bytes there and %u here; see logical_block_size", x->block_size,
                       s->block_size);
    }
    if (!s->removable && (x->tray_open || x->locked || x->eject_request || x->media_event)) {
        return err_set(e, EINVAL, "its medium can be taken out there and cannot here; see removable");
    }
    return 0;
}

static void state_put(void *object, const void *st)
{
    struct scsi_disk *s = object;
    const struct disk_state *x = st;
    struct backend *b = s->disk.backend;
    s->lun.attentions = x->attentions;
    s->eject_request = x->eject_request;
    s->media_event = x->media_event;
    b->write_cache = x->wce;
    b->tray_open = x->tray_open;
    b->locked = x->locked;
    s->blocks = x->blocks;
    on_resized(s); /* the medium may have another size here */
}

static const struct state_section disk_state = {
    .name = "scsi-disk",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct disk_state),
    .fields = disk_fields,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

/* --- classes ------------------------------------------------------------------------------------------------------ */

static const struct device_prop *const hd_tables[] = {disk_props, disk_size_props, scsi_lun_props,
                                                      tray_props, hd_props,        NULL};
static const struct device_prop *const cd_tables[] = {disk_props, scsi_lun_props, tray_props, cd_props, NULL};

const struct device_class scsi_hd_class = {
    .name = "scsi-hd",
    .bus = "SCSI",
    .desc = "virtual SCSI disk",
    .category = "storage",
    .props = hd_tables,
    .size = sizeof(struct scsi_disk),
    .user_creatable = true,
    .hotpluggable = true,
    .realize = disk_realize,
    .unrealize = disk_unrealize,
    .reset = disk_reset,
    .state = &disk_state,
    .boot_path = disk_boot_path,
    .make_up = disk_make_up,
};

const struct device_class scsi_cd_class = {
    .name = "scsi-cd",
    .bus = "SCSI",
    .desc = "virtual SCSI CD-ROM",
    .category = "storage",
    .props = cd_tables,
    .size = sizeof(struct scsi_disk),
    .user_creatable = true,
    .hotpluggable = true,
    .realize = disk_realize,
    .unrealize = disk_unrealize,
    .reset = disk_reset,
    .state = &disk_state,
    .boot_path = disk_boot_path,
    .make_up = disk_make_up,
};
