/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "block/backend.h"
#include "block/snapshot.h"
#include "job/commit.h"
#include "monitor/monitor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

char *hmp_size(uint64_t size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double v = (double)size;
    while (v >= 1000 && unit + 1 < G_N_ELEMENTS(units)) {
        v /= 1024;
        unit++;
    }
    return g_strdup_printf("%.3g %s", v, units[unit]);
}

static void print_snapshots(struct mon_ctx *c, struct json_object *list)
{
    size_t n = list ? json_object_array_length(list) : 0;
    if (n) {
        mon_printf(c, "Snapshot list:\n");
        hmp_print_snapshot_head(c);
    }
    for (size_t i = 0; i < n; i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        struct snapshot s = {
            .id = (char *)hmp_str(o, "id"),
            .name = (char *)hmp_str(o, "name"),
            .vm_state_size = (uint64_t)hmp_int(o, "vm-state-size"),
            .date_sec = (uint32_t)hmp_int(o, "date-sec"),
            .vm_clock_nsec = (uint64_t)hmp_int(o, "vm-clock-sec") * 1000000000 + (uint64_t)hmp_int(o, "vm-clock-nsec"),
            .icount = hmp_any(o, "icount") ? (uint64_t)hmp_int(o, "icount") : UINT64_MAX,
        };
        hmp_print_snapshot(c, &s, true);
    }
}

static void print_format(struct mon_ctx *c, struct json_object *specific)
{
    struct json_object *data = specific ? hmp_any(specific, "data") : NULL;
    if (data) {
        g_autoptr(GString) text = g_string_new("Format specific information:\n");
        json_describe(data, 1, text);
        mon_printf(c, "%s", text->str);
    }
}

static void print_image(struct mon_ctx *c, struct json_object *i)
{
    CLEANUP_FREE char *size = hmp_size((uint64_t)hmp_int(i, "virtual-size"));
    mon_printf(c, "image: %s\nfile format: %s\nvirtual size: %s (%" PRId64 " bytes)\n", hmp_str(i, "filename"),
               hmp_str(i, "format"), size, hmp_int(i, "virtual-size"));
    if (hmp_any(i, "actual-size")) {
        CLEANUP_FREE char *actual = hmp_size((uint64_t)hmp_int(i, "actual-size"));
        mon_printf(c, "disk size: %s\n", actual);
    } else {
        mon_printf(c, "disk size: unavailable\n");
    }
    if (hmp_any(i, "cluster-size")) {
        mon_printf(c, "cluster_size: %" PRId64 "\n", hmp_int(i, "cluster-size"));
    }
    if (hmp_bool(i, "dirty-flag")) {
        mon_printf(c, "cleanly shut down: no\n");
    }
    if (hmp_any(i, "backing-filename")) {
        mon_printf(c, "backing file: %s", hmp_str(i, "backing-filename"));
        if (hmp_any(i, "full-backing-filename") &&
            strcmp(hmp_str(i, "backing-filename"), hmp_str(i, "full-backing-filename"))) {
            mon_printf(c, " (actual path: %s)", hmp_str(i, "full-backing-filename"));
        }
        mon_printf(c, "\n");
    }
    if (hmp_any(i, "backing-filename-format")) {
        mon_printf(c, "backing file format: %s\n", hmp_str(i, "backing-filename-format"));
    }
    print_snapshots(c, hmp_any(i, "snapshots"));
    print_format(c, hmp_any(i, "format-specific"));
}

/* `disk` is a BlockInfo or NULL, `node` a BlockDeviceInfo or NULL. */
static void print_title(struct mon_ctx *c, struct json_object *disk, struct json_object *node)
{
    const char *name = hmp_str(disk, "device");
    mon_printf(c, "%s", name);
    if (node && hmp_any(node, "node-name")) {
        mon_printf(c, name[0] ? " (%s)" : "%s", hmp_str(node, "node-name"));
    } else if (!name[0]) {
        mon_printf(c, "%s", hmp_str(disk, "qdev"));
    }
    if (!node) {
        mon_printf(c, ": [not inserted]\n");
        return;
    }
    mon_printf(c, ": %s (%s%s%s)\n", hmp_str(node, "file"), hmp_str(node, "drv"),
               hmp_bool(node, "ro") ? ", read-only" : "", hmp_bool(node, "encrypted") ? ", encrypted" : "");
}

/* In the order in which the human monitor has them. */
static const char *const limit_names[] = {"bps",  "bps_rd",  "bps_wr",  "bps_max",  "bps_rd_max",  "bps_wr_max",
                                          "iops", "iops_rd", "iops_wr", "iops_max", "iops_rd_max", "iops_wr_max"};

static void print_node(struct mon_ctx *c, struct json_object *node, bool verbose)
{
    struct json_object *cache = hmp_any(node, "cache");
    mon_printf(c, "    Cache mode:       %s%s%s\n", hmp_bool(cache, "writeback") ? "writeback" : "writethrough",
               hmp_bool(cache, "direct") ? ", direct" : "", hmp_bool(cache, "no-flush") ? ", ignore flushes" : "");
    if (hmp_any(node, "backing_file")) {
        mon_printf(c, "    Backing file:     %s (chain depth: %" PRId64 ")\n", hmp_str(node, "backing_file"),
                   hmp_int(node, "backing_file_depth"));
    }
    if (hmp_any(node, "group")) {
        mon_printf(c, "    I/O throttling:   ");
        for (size_t i = 0; i < G_N_ELEMENTS(limit_names); i++) {
            mon_printf(c, "%s%s=%" PRId64, i ? " " : "", limit_names[i], hmp_int(node, limit_names[i]));
        }
        mon_printf(c, " iops_size=%" PRId64 " group=%s\n", hmp_int(node, "iops_size"), hmp_str(node, "group"));
    }
    if (strcmp(hmp_str(node, "detect_zeroes"), "off")) {
        mon_printf(c, "    Detect zeroes:    %s\n", hmp_str(node, "detect_zeroes"));
    }
    if (verbose) {
        mon_printf(c, "\nImages:\n");
        for (struct json_object *i = hmp_any(node, "image"); i; i = hmp_any(i, "backing-image")) {
            print_image(c, i);
        }
    }
}

static void print_block(struct mon_ctx *c, struct json_object *disk, struct json_object *node, bool verbose)
{
    print_title(c, disk, node);
    if (disk) {
        if (hmp_any(disk, "qdev")) {
            mon_printf(c, "    Attached to:      %s\n", hmp_str(disk, "qdev"));
        }
        if (hmp_any(disk, "io-status") && strcmp(hmp_str(disk, "io-status"), "ok")) {
            mon_printf(c, "    I/O status:       %s\n", hmp_str(disk, "io-status"));
        }
        if (hmp_bool(disk, "removable")) {
            mon_printf(c, "    Removable device: %slocked, tray %s\n", hmp_bool(disk, "locked") ? "" : "not ",
                       hmp_bool(disk, "tray_open") ? "open" : "closed");
        }
    }
    if (node) {
        print_node(c, node, verbose);
    }
}

static int info_block(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const char *device = hmp_any(args, "device") ? hmp_str(args, "device") : NULL;
    bool nodes = hmp_bool(args, "nodes");
    bool verbose = hmp_bool(args, "verbose");
    CLEANUP_JSON struct json_object *disks = NULL;
    CLEANUP_JSON struct json_object *named = NULL;
    bool printed = false;
    int rc = nodes ? 0 : qmp_call(c, "query-block", NULL, &disks, e);
    for (size_t i = 0; rc == 0 && disks && i < json_object_array_length(disks); i++) {
        struct json_object *o = json_object_array_get_idx(disks, i);
        if (!device || !strcmp(device, hmp_str(o, "device"))) {
            mon_printf(c, "%s", printed ? "\n" : "");
            print_block(c, o, hmp_any(o, "inserted"), verbose);
            printed = true;
        }
    }
    if (rc || (!device && !nodes) || printed) {
        return rc;
    }
    rc = qmp_call(c, "query-named-block-nodes", NULL, &named, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(named); i++) {
        struct json_object *o = json_object_array_get_idx(named, i);
        if (!device || !strcmp(device, hmp_str(o, "node-name"))) {
            mon_printf(c, "%s", printed ? "\n" : "");
            print_block(c, NULL, o, verbose);
            printed = true;
        }
    }
    return rc;
}

static int info_blockstats(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    static const char *const fields[] = {
        "rd_bytes",         "wr_bytes",         "rd_operations",       "wr_operations", "flush_operations",
        "wr_total_time_ns", "rd_total_time_ns", "flush_total_time_ns", "rd_merged",     "wr_merged",
    };
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-blockstats", NULL, &list, e);
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *o = json_object_array_get_idx(list, i);
        mon_printf(c, "%s:", hmp_str(o, "device"));
        for (size_t k = 0; k < G_N_ELEMENTS(fields); k++) {
            mon_printf(c, " %s=%" PRId64, fields[k], hmp_int(hmp_any(o, "stats"), fields[k]));
        }
        if (hmp_any(hmp_any(o, "stats"), "idle_time_ns")) {
            mon_printf(c, " idle_time_ns=%" PRId64, hmp_int(hmp_any(o, "stats"), "idle_time_ns"));
        }
        mon_printf(c, "\n");
    }
    return rc;
}

static int block_resize(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "block_resize", args, e);
}

static int block_set_io_throttle(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "block_set_io_throttle", args, e);
}

static int blockdev_add(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "blockdev-add", hmp_any(args, "node"), e);
}

static int blockdev_del(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    json_object_object_add(o, "node-name", json_object_new_string(hmp_str(args, "node")));
    return hmp_qmp(c, "blockdev-del", o, e);
}

static int commit_one(struct backend *b, const char *name, struct err *e)
{
    int rc = b->root ? commit_now(b, e) : err_set(e, ENOMEDIUM, "Device '%s' has no medium", name);
    return rc && b->root ? err_wrap(e, "'commit' error for '%s'", name) : rc;
}

/* Whatever has a backing image. */
static int commit_all(struct mon_ctx *c, struct err *e)
{
    g_autoptr(GPtrArray) all = g_ptr_array_copy(graph_backends(c->env->graph), NULL, NULL);
    int rc = 0;
    for (guint i = 0; !rc && i < all->len; i++) {
        struct backend *b = g_ptr_array_index(all, i);
        bool still = g_ptr_array_find(graph_backends(c->env->graph), b, NULL);
        if (still && b->root && node_backing(node_skip_filters(b->root->child))) {
            rc = commit_one(b, "all", e);
        }
    }
    return rc;
}

static int commit(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const char *device = hmp_str(args, "device");
    graph_change_begin(c->env->graph);
    struct backend *b = backend_find(c->env->graph, device);
    int rc = !strcmp(device, "all") ? commit_all(c, e)
             : b                    ? commit_one(b, device, e)
                                    : err_set(e, ENODEV, "Device '%s' not found", device);
    graph_change_end(c->env->graph);
    return rc;
}

static int exercise(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const char *device = hmp_str(args, "device");
    struct backend *b = backend_find(c->env->graph, device);
    bool qdev = hmp_bool(args, "qdev");
    if (!c->env->exercise) {
        return err_set(e, ENOTSUP, "this program has no exerciser");
    }
    if (b && !b->root) {
        return err_set(e, ENOMEDIUM, "Device '%s' has no medium", device);
    }
    struct node *n = b || qdev ? NULL : node_lookup(c->env->graph, device, e);
    if (!b && !n) {
        return qdev ? err_set_class(e, ERR_DEVICE_NOT_FOUND, ENODEV, "Device '%s' not found", device) : -ENODEV;
    }
    g_autoptr(GString) out = g_string_new(NULL), errors = g_string_new(NULL);
    int rc = c->env->exercise(c->env->graph, b, n, hmp_str(args, "command"), out, errors);
    if (mon_as_qemu(c->env) && c->mon && monitor_is_qmp(c->mon)) { /* its exerciser knows no monitor */
        fputs(out->str, stdout);
        fflush(stdout);
        mon_printf(c, "%s", errors->str);
        return 0;
    }
    mon_printf(c, "%s%s", out->str, errors->str);
    return rc < 0 ? err_set_errno(e, -rc, "'%s' failed", hmp_str(args, "command")) : 0;
}

static int drive_add(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const char *text = hmp_str(args, "opts");
    if (hmp_bool(args, "node")) {
        CLEANUP_JSON struct json_object *o = keyval_parse(text, NULL, e);
        if (!o) {
            return -EINVAL;
        }
        return hmp_any(o, "node-name") ? hmp_qmp(c, "blockdev-add", o, e)
                                       : err_set(e, EINVAL, "'node-name' needs to be specified");
    }
    if (!c->env->drive_add) {
        return err_set(e, ENOTSUP, "there are no drives without a machine");
    }
    int rc = c->env->drive_add(c->env->program_opaque, text, e);
    if (rc == 0) {
        mon_printf(c, "OK\n");
    }
    return rc;
}

static int drive_del(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    const char *id = hmp_str(args, "id");
    if (node_find(c->env->graph, id)) {
        CLEANUP_JSON struct json_object *o = json_object_new_object();
        json_object_object_add(o, "node-name", json_object_new_string(id));
        return hmp_qmp(c, "blockdev-del", o, e);
    }
    int rc = 0;
    graph_change_begin(c->env->graph);
    struct backend *b = backend_find(c->env->graph, id);
    if (b && !strcmp(b->name, id)) {
        backend_delete(b);
    } else {
        rc = err_set(e, ENODEV, "Device '%s' not found", id);
    }
    graph_change_end(c->env->graph);
    return rc;
}

const struct hmp_command hmp_block_commands[] = {
    {"block_resize", "device:B,size:o", "device size", "resize a block image", block_resize},
    {"block_set_io_throttle", "device:B,bps:l,bps_rd:l,bps_wr:l,iops:l,iops_rd:l,iops_wr:l",
     "device bps bps_rd bps_wr iops iops_rd iops_wr", "change I/O throttle limits for a block drive",
     block_set_io_throttle},
    {"qemu-io", "qdev:-d,device:B,command:s", "[-d] [device] \"[command]\"",
     "run a qemu-io command on a block device (-d: [device] is a device ID rather than a drive ID or node name)",
     exercise},
    {"commit", "device:B", "device|all", "commit changes to the disk images (if -snapshot is used) or backing files",
     commit},
    {"drive_add", "node:-n,pci_addr:s,opts:s",
     "[-n] [[<domain>:]<bus>:]<slot>\n"
     "[file=file][,if=type][,bus=n]\n"
     "[,unit=m][,media=d][,index=i]\n"
     "[,snapshot=on|off][,cache=on|off]\n"
     "[,readonly=on|off][,copy-on-read=on|off]",
     "add drive to PCI storage controller (only if=none: the address is not looked at)", drive_add},
    {"drive_del", "id:B", "device", "remove host block device", drive_del},
    {"blockdev_add", "node:O", "driver=NAME,node-name=NAME[,prop=value][,...]", "open a block node", blockdev_add},
    {"blockdev_del", "node:B", "node-name", "close a block node", blockdev_del},
    {NULL},
};

const struct hmp_command hmp_block_info[] = {
    {"block", "nodes:-n,verbose:-v,device:B?", "[-n] [-v] [device]",
     "show info of one block device or all block devices (-n: show named nodes; -v: show details)", info_block},
    {"blockstats", "", "", "show block device statistics", info_blockstats},
    {NULL},
};
