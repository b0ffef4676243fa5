/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/scsi_bus.h"

#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <string.h>

const struct scsi_sense scsi_attention_sense[SCSI_ATTENTIONS] = {
    [SCSI_ATTENTION_RESET] = {0x6, 0x29, 0x00},
    [SCSI_ATTENTION_LUNS_CHANGED] = {0x6, 0x3f, 0x0e},
    [SCSI_ATTENTION_MEDIUM_CHANGED] = {0x6, 0x28, 0x00},
    [SCSI_ATTENTION_MODE_CHANGED] = {0x6, 0x2a, 0x01},
    [SCSI_ATTENTION_CAPACITY_CHANGED] = {0x6, 0x2a, 0x09},
};

/* --- life --------------------------------------------------------------------------------------------------------- */

static GPtrArray *buses(struct board *b)
{
    if (!b->scsi_buses) {
        b->scsi_buses = g_ptr_array_new();
    }
    return b->scsi_buses;
}

static struct scsi_bus *bus_find(struct board *board, const char *name)
{
    for (guint i = 0; board->scsi_buses && i < board->scsi_buses->len; i++) {
        struct scsi_bus *b = g_ptr_array_index(board->scsi_buses, i);
        if (!name || !strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

/* As QEMU names them: by the adapter's id, or by a number. */
static char *bus_name(struct device *hba)
{
    if (hba->id) {
        return g_strdup_printf("%s.0", hba->id);
    }
    for (unsigned i = 0;; i++) {
        CLEANUP_FREE char *name = g_strdup_printf("scsi.%u", i);
        if (!bus_find(hba->board, name)) {
            return g_steal_pointer(&name);
        }
    }
}

void scsi_bus_init(struct scsi_bus *b, struct device *hba, const struct scsi_hba_ops *ops)
{
    b->name = bus_name(hba);
    b->hba = hba;
    b->ops = ops;
    b->luns = g_ptr_array_new();
    g_ptr_array_add(buses(hba->board), b);
}

void scsi_bus_finish(struct scsi_bus *b)
{
    if (!b->name) {
        return;
    }
    struct board *board = b->hba->board;
    g_ptr_array_remove(board->scsi_buses, b);
    if (!board->scsi_buses->len) {
        g_ptr_array_free(take(board->scsi_buses), true);
    }
    g_ptr_array_free(b->luns, true);
    g_free(take(b->name));
}

void scsi_bus_reset(struct scsi_bus *b)
{
    for (guint i = 0; i < b->luns->len; i++) {
        struct scsi_lun *l = g_ptr_array_index(b->luns, i);
        l->ops->reset(l);
    }
}

/* --- attention ---------------------------------------------------------------------------------------------------- */

void scsi_lun_attention(struct scsi_lun *l, enum scsi_attention a)
{
    l->attentions |= 1u << a;
}

bool scsi_lun_take_attention(struct scsi_lun *l, struct scsi_sense *out)
{
    if (!l->attentions) {
        return false;
    }
    *out = scsi_attention_sense[__builtin_ctz(l->attentions)];
    l->attentions &= l->attentions - 1;
    return true;
}

/* What the others of its target are to report when it comes or goes. */
static void tell_neighbours(const struct scsi_bus *b, const struct scsi_lun *l)
{
    for (guint i = 0; i < b->luns->len; i++) {
        struct scsi_lun *other = g_ptr_array_index(b->luns, i);
        if (other != l && other->target == l->target) {
            scsi_lun_attention(other, SCSI_ATTENTION_LUNS_CHANGED);
        }
    }
}

/* --- places ------------------------------------------------------------------------------------------------------- */

const struct device_prop scsi_lun_props[] = {
    {"bus", PROP_STR, .help = "Bus to plug into: that of an adapter with id X is X.0 (default: the first SCSI bus)"},
    {"channel", PROP_INT, "0", 0, INT32_MAX, .type_name = "uint32"},
    {"scsi-id", PROP_INT, "4294967295", 0, UINT32_MAX, .type_name = "uint32", .help = "4294967295: one that is free"},
    {"lun", PROP_INT, "4294967295", 0, UINT32_MAX, .type_name = "uint32", .help = "4294967295: one that is free"},
    {NULL},
};
#define ANY ((int64_t)UINT32_MAX)

struct scsi_lun *scsi_bus_find(const struct scsi_bus *b, unsigned target, unsigned lun)
{
    for (guint i = 0; i < b->luns->len; i++) {
        struct scsi_lun *l = g_ptr_array_index(b->luns, i);
        if (l->target == target && l->lun == lun) {
            return l;
        }
    }
    return NULL;
}

bool scsi_bus_has_target(const struct scsi_bus *b, unsigned target)
{
    for (guint i = 0; i < b->luns->len; i++) {
        if (((struct scsi_lun *)g_ptr_array_index(b->luns, i))->target == target) {
            return true;
        }
    }
    return false;
}

/* The bus that is asked for, or the first. */
static struct scsi_bus *wanted_bus(struct device *d, struct err *e)
{
    const char *name = device_str(d, "bus");
    struct scsi_bus *b = bus_find(d->board, name);
    if (!b && !name) {
        err_set(e, ENODEV, "No 'SCSI' bus found for device '%s'", d->cls->name);
    } else if (!b) {
        err_set(e, ENODEV, "Bus '%s' not found", name);
    }
    return b;
}

static int check_address(const struct scsi_bus *b, int64_t channel, int64_t target, int64_t lun, struct err *e)
{
    if (channel > b->max_channel) {
        return err_set(e, EINVAL, "bad scsi channel id: %" PRId64 " (0 to %u)", channel, b->max_channel);
    }
    if (target != ANY && target > b->max_target) {
        return err_set(e, EINVAL, "bad scsi device id: %" PRId64 " (0 to %u)", target, b->max_target);
    }
    if (lun != ANY && lun > b->max_lun) {
        return err_set(e, EINVAL, "bad scsi device lun: %" PRId64 " (0 to %u)", lun, b->max_lun);
    }
    return 0;
}

static int find_place(const struct scsi_bus *b, struct scsi_lun *l, int64_t target, int64_t lun, struct err *e)
{
    if (target == ANY) {
        lun = lun == ANY ? 0 : lun;
        for (target = 0; target <= b->max_target && scsi_bus_find(b, (unsigned)target, (unsigned)lun); target++) {
        }
        if (target > b->max_target) {
            return err_set(e, ENOSPC, "no free target");
        }
    } else if (lun == ANY) {
        for (lun = 0; lun <= b->max_lun && scsi_bus_find(b, (unsigned)target, (unsigned)lun); lun++) {
        }
        if (lun > b->max_lun) {
            return err_set(e, ENOSPC, "no free lun");
        }
    }
    const struct scsi_lun *other = scsi_bus_find(b, (unsigned)target, (unsigned)lun);
    if (other) {
        return err_set(e, EBUSY, "lun already used by '%s'", device_name(other->dev));
    }
    l->target = (unsigned)target;
    l->lun = (unsigned)lun;
    return 0;
}

static int by_address(const void *a, const void *b)
{
    const struct scsi_lun *x = *(struct scsi_lun *const *)a, *y = *(struct scsi_lun *const *)b;
    return x->target != y->target ? (x->target > y->target) - (x->target < y->target)
                                  : (x->lun > y->lun) - (x->lun < y->lun);
}

int scsi_lun_plug(struct scsi_lun *l, struct device *d, struct err *e)
{
    int64_t channel = device_int(d, "channel"), target = device_int(d, "scsi-id"), lun = device_int(d, "lun");
    struct scsi_bus *b = wanted_bus(d, e);
    int rc = b ? check_address(b, channel, target, lun, e) : -ENODEV;
    rc = rc < 0 ? rc : find_place(b, l, target, lun, e);
    if (rc < 0) {
        return rc;
    }
    l->dev = d;
    l->bus = b;
    l->channel = (unsigned)channel;
    l->attentions = 1u << SCSI_ATTENTION_RESET;
    d->parent = b->hba;
    device_settle(d, "bus", json_object_new_string(b->name));
    device_settle(d, "scsi-id", json_object_new_int64(l->target));
    device_settle(d, "lun", json_object_new_int64(l->lun));
    g_ptr_array_add(b->luns, l);
    g_ptr_array_sort(b->luns, by_address);
    tell_neighbours(b, l);
    b->ops->plugged(b, l);
    return 0;
}

void scsi_lun_unplug(struct scsi_lun *l)
{
    struct scsi_bus *b = take(l->bus);
    if (b) {
        g_ptr_array_remove(b->luns, l);
        tell_neighbours(b, l);
        b->ops->unplugged(b, l);
    }
}

char *scsi_lun_boot_path(const struct scsi_lun *l)
{
    CLEANUP_FREE char *hba = l->bus->ops->boot_path(l->bus->hba);
    return g_strdup_printf("%s/channel@%x/disk@%x,%x", hba, l->channel, l->target, l->lun);
}

/* --- commands ----------------------------------------------------------------------------------------------------- */

static void encode_lun(uint8_t *to, unsigned lun)
{
    to[0] = lun < 256 ? 0 : (uint8_t)(0x40 | lun >> 8);
    to[1] = (uint8_t)lun;
}

/* Of the target: whichever logical unit is asked. */
static int report_luns(struct scsi_bus *b, unsigned target, struct scsi_req *r)
{
    uint32_t alloc = load_be32(r->cdb + 6);
    if (r->cdb[2] > 2) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_byte_array_set_size(out, 8);
    memset(out->data, 0, 8);
    bool has_zero = false;
    for (guint i = 0; i < b->luns->len && r->cdb[2] != 1; i++) { /* 1: well known ones, of which there are none */
        struct scsi_lun *l = g_ptr_array_index(b->luns, i);
        if (l->target == target) {
            uint8_t entry[8] = {0};
            encode_lun(entry, l->lun);
            /* LUN 0 is there whenever the target is. */
            if (l->lun && !has_zero) {
                g_byte_array_append(out, (const uint8_t[8]){0}, 8);
            }
            has_zero = true;
            g_byte_array_append(out, entry, 8);
            l->attentions &= ~(1u << SCSI_ATTENTION_LUNS_CHANGED);
        }
    }
    store_be32(out->data, out->len - 8);
    return scsi_reply(r, out->data, out->len, alloc);
}

/* What is said of a logical unit that is not there. */
static int absent_inquiry(unsigned lun, struct scsi_req *r)
{
    uint8_t d[36] = {0};
    size_t len = sizeof(d);
    if (r->cdb[1] & 1) {
        if (r->cdb[2]) {
            return scsi_fail(r, SENSE_INVALID_FIELD);
        }
        len = 5; /* the page of supported pages, which is the only one */
        d[3] = 1;
    } else if (r->cdb[2]) {
        return scsi_fail(r, SENSE_INVALID_FIELD);
    } else {
        d[2] = 5;
        d[3] = 0x12;
        d[4] = sizeof(d) - 5;
        d[7] = 0x12;
        scsi_text(d + 8, "QEMU", 8);
        scsi_text(d + 16, "QEMU TARGET", 16);
        scsi_text(d + 32, "2.5+", 4);
    }
    /* LUN 0 could be there, the others cannot. */
    d[0] = lun ? 0x7f : 0x3f;
    return scsi_reply(r, d, len, load_be16(r->cdb + 3));
}

static int absent_run(unsigned lun, struct scsi_req *r)
{
    uint8_t sense[SCSI_SENSE_LEN];
    switch (r->cdb[0]) {
    case SCSI_INQUIRY:
        return absent_inquiry(lun, r);
    case SCSI_REQUEST_SENSE:
        scsi_sense_bytes(lun ? SENSE_LUN_NOT_SUPPORTED : SENSE_NONE, sense);
        return scsi_reply(r, sense, sizeof(sense), r->cdb[4]);
    case SCSI_TEST_UNIT_READY:
        return lun ? scsi_fail(r, SENSE_LUN_NOT_SUPPORTED) : 0;
    default:
        return scsi_fail(r, lun ? SENSE_LUN_NOT_SUPPORTED : SENSE_INVALID_OPCODE);
    }
}

enum scsi_outcome scsi_bus_run(struct scsi_bus *b, unsigned target, unsigned lun, struct scsi_req *r)
{
    struct scsi_lun *l = scsi_bus_find(b, target, lun);
    r->status = SCSI_GOOD;
    r->sense = SENSE_NONE;
    r->moved = 0;
    r->overrun = false;
    if (!l && !scsi_bus_has_target(b, target)) {
        return SCSI_NO_TARGET;
    }
    if (r->cdb[0] == SCSI_REPORT_LUNS) {
        report_luns(b, target, r);
        return SCSI_DONE;
    }
    if (!l) {
        absent_run(lun, r);
        return SCSI_DONE;
    }
    return l->ops->run(l, r) ? SCSI_DONE : SCSI_AGAIN;
}
