/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/disk.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <string.h>

/* --- properties --------------------------------------------------------------------------------------------------- */

const char *const disk_on_off_auto[] = {"on", "off", "auto", NULL};
/* In the order of enum io_error_action. */
static const char *const on_error[] = {"report", "ignore", "enospc", "stop", "auto", NULL};
#define BLOCK_SIZE_HELP "A power of two between 512 B and 2 MiB"

const struct device_prop disk_props[] = {
    {"drive", PROP_DRIVE, .help = "Node name or ID of a block device to use as a backend"},
    {"bootindex", PROP_INT, .max = INT32_MAX},
    {"write-cache", PROP_ENUM, "auto", .values = disk_on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"share-rw", PROP_BOOL, "off"},
    {"rerror", PROP_ENUM, "auto", .values = on_error, .type_name = "BlockdevOnError",
     .help = "Error handling policy, report/ignore/enospc/stop/auto"},
    {"werror", PROP_ENUM, "auto", .values = on_error, .type_name = "BlockdevOnError",
     .help = "Error handling policy, report/ignore/enospc/stop/auto"},
    {"account-invalid", PROP_ENUM, "auto", .values = disk_on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"account-failed", PROP_ENUM, "auto", .values = disk_on_off_auto, .help = "on/off/auto", .type_name = "OnOffAuto"},
    {"stats-intervals", PROP_UINTS, .help = "Seconds over which query-blockstats shows latencies: a list"},
    {NULL},
};

const struct device_prop disk_size_props[] = {
    {"logical_block_size", PROP_SIZE, "512", 512, 2 << 20, .help = BLOCK_SIZE_HELP},
    {"physical_block_size", PROP_SIZE, "512", 512, 2 << 20, .help = BLOCK_SIZE_HELP},
    {"min_io_size", PROP_SIZE, "0", 0, 0xffff * 512ll},
    {"opt_io_size", PROP_SIZE, "0", 0, 0xffffffffll},
    {"discard_granularity", PROP_SIZE, "4294967295", 0, 0xffffffffll},
    {NULL},
};

int disk_check_sizes(const struct device *d, struct err *e)
{
    if (!is_pow2((uint64_t)device_int(d, "logical_block_size")) ||
        !is_pow2((uint64_t)device_int(d, "physical_block_size"))) {
        return err_set(e, EINVAL, "device '%s': block sizes must be powers of two, between 512 B and 2 MiB",
                       device_name(d));
    }
    return 0;
}

/* --- the backend -------------------------------------------------------------------------------------------------- */

/* A backend that -drive made. */
static int use_backend(struct disk *k, struct backend *be, unsigned flags, struct err *e)
{
    const char *name = device_name(k->dev), *drive = device_str(k->dev, "drive");
    if (be->dev) {
        return err_set(e, EBUSY, "device '%s': drive '%s' is already in use by device '%s'", name, drive,
                       be->qdev ? be->qdev : "?");
    }
    if (!be->root && !(flags & DISK_MAY_BE_EMPTY)) {
        return err_set(e, ENOMEDIUM, "device '%s': device needs media, but drive '%s' is empty", name, drive);
    }
    if (be->root) {
        bool writable = !be->root->child->read_only && !(flags & DISK_READ_ONLY);
        int rc = backend_claim(be, writable, device_bool(k->dev, "share-rw"), e);
        if (rc < 0) {
            return rc;
        }
        k->may_write = writable;
    }
    be->only_reads = flags & DISK_READ_ONLY;
    k->backend = be;
    return 0;
}

int disk_attach(struct disk *k, struct device *d, unsigned flags, struct err *e)
{
    struct block_graph *g = d->board->graph;
    const char *drive = device_str(d, "drive");
    struct node *n = drive ? node_find(g, drive) : NULL;
    struct backend *be = n ? NULL : backend_find(g, drive);
    k->dev = d;
    if (!drive && !(flags & DISK_MAY_BE_EMPTY)) {
        return err_set(e, EINVAL, "drive property not set");
    }
    if (be) {
        return use_backend(k, be, flags, e);
    }
    if (drive && !n) {
        return err_set(e, ENOENT, "Property '%s.drive' can't find value '%s'", d->cls->name, drive);
    }
    int rc = backend_create(g, NULL, &be, e);
    if (rc < 0) {
        return rc;
    }
    k->backend = be;
    k->own_backend = true;
    be->only_reads = flags & DISK_READ_ONLY;
    k->may_write = n && !n->read_only && !(flags & DISK_READ_ONLY);
    return n ? backend_insert(be, n, k->may_write, device_bool(d, "share-rw"), e) : 0;
}

void disk_detach(struct disk *k)
{
    struct backend *be = take(k->backend);
    if (!be) {
        return;
    }
    be->dev = NULL;
    be->dev_ops = NULL;
    be->only_reads = be->share_rw = false;
    be->removable = be->tray_open = be->locked = false;
    g_free(take(be->qdev));
    g_free(take(be->qom_path));
    if (k->own_backend) {
        backend_destroy(be);
    } else if (be->root) {
        edge_flush(be->root);
        backend_share(be);
    }
}

static void claim_stats(struct disk *k)
{
    struct acct *a = &k->backend->stats;
    struct json_object *intervals = device_list(k->dev, "stats-intervals");
    int invalid = device_enum(k->dev, "account-invalid"), failed = device_enum(k->dev, "account-failed");
    a->count_invalid = invalid == 2 ? a->count_invalid : invalid == 0;
    a->count_failed = failed == 2 ? a->count_failed : failed == 0;
    for (size_t i = 0; intervals && i < json_object_array_length(intervals); i++) {
        acct_add_interval(a, (unsigned)json_object_get_int64(json_object_array_get_idx(intervals, i)));
    }
}

void disk_claim(struct disk *k, const struct backend_dev_ops *ops, void *opaque)
{
    struct device *d = k->dev;
    struct backend *be = k->backend;
    be->qdev = g_strdup(device_name(d));
    be->qom_path = k->part ? g_strdup_printf("%s/%s", d->path, k->part) : g_strdup(d->path);
    be->dev = opaque;
    be->dev_ops = ops;
    be->share_rw = device_bool(d, "share-rw");
    if (strcmp(device_str(d, "rerror"), "auto") != 0) {
        be->rerror = (enum io_error_action)device_enum(d, "rerror");
    }
    if (strcmp(device_str(d, "werror"), "auto") != 0) {
        be->werror = (enum io_error_action)device_enum(d, "werror");
    }
    int cache = device_enum(d, "write-cache");
    if (cache != 2) {
        be->write_cache = cache == 0;
    } else if (k->own_backend) {
        be->write_cache = true;
    }
    be->io_status = "ok";
    claim_stats(k);
}

/* --- errors ------------------------------------------------------------------------------------------------------- */

static enum io_error_action error_action(const struct backend *b, bool is_read, int rc)
{
    enum io_error_action a = is_read ? b->rerror : b->werror;
    if (a == IO_ERROR_AUTO) {
        a = is_read ? IO_ERROR_REPORT : IO_ERROR_ENOSPC;
    }
    if (a == IO_ERROR_ENOSPC) {
        a = rc == -ENOSPC ? IO_ERROR_STOP : IO_ERROR_REPORT;
    }
    return a;
}

static void emit_error(struct disk *k, bool is_read, enum io_error_action a, int rc)
{
    struct json_object *o = json_object_new_object();
    struct edge *root = k->backend->root;
    json_object_object_add(o, "qom-path", json_object_new_string(k->backend->qom_path));
    json_object_object_add(o, "device", json_object_new_string(k->backend->name));
    if (root) {
        json_object_object_add(o, "node-name", json_object_new_string(root->child->name));
    }
    json_object_object_add(o, "operation", json_object_new_string(is_read ? "read" : "write"));
    json_object_object_add(
        o, "action",
        json_object_new_string(a == IO_ERROR_STOP ? "stop" : (a == IO_ERROR_IGNORE ? "ignore" : "report")));
    json_object_object_add(o, "nospace", json_object_new_boolean(rc == -ENOSPC));
    json_object_object_add(o, "reason", json_object_new_string(g_strerror(-rc)));
    event_emit(k->dev->board->bus, "BLOCK_IO_ERROR", o);
}

enum io_error_action disk_failed(struct disk *k, bool is_read, int rc)
{
    enum io_error_action a = error_action(k->backend, is_read, rc);
    emit_error(k, is_read, a, rc);
    if (a == IO_ERROR_STOP) {
        k->backend->io_status = rc == -ENOSPC ? "nospace" : "failed";
        k->dev->board->io_error(k->dev->board->opaque);
    }
    return a;
}
