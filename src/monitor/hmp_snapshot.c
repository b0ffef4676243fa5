/* SPDX-License-Identifier: BSD-2-Clause */
/* Snapshots of the machine with all disks that are written to. */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "block/snapshot.h"
#include "machine/vm.h"
#include "move/snapshot.h"

#include <inttypes.h>
#include <time.h>

static int run(struct mon_ctx *c, snapshot_start_fn *start, const char *tag, struct err *e)
{
    return snapshot_run(start, c->env->vm, &(struct snapshot_options){.tag = tag, .lazy = true}, e);
}

static int savevm(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    char name[64];
    time_t now = time(NULL);
    struct tm tm;
    if (hmp_any(args, "tag")) {
        return run(c, snapshot_save_start, hmp_str(args, "tag"), e);
    }
    strftime(name, sizeof(name), "vm-%Y%m%d%H%M%S", localtime_r(&now, &tm));
    return run(c, snapshot_save_start, name, e);
}

static int loadvm(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return run(c, snapshot_load_start, hmp_str(args, "tag"), e);
}

static int delvm(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return run(c, snapshot_delete_start, hmp_str(args, "tag"), e);
}

/* --- info snapshots ----------------------------------------------------------------------------------------------- */

void hmp_print_snapshot_head(struct mon_ctx *c)
{
    mon_printf(c, "%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT");
}

/* Ids differ from image to image. */
void hmp_print_snapshot(struct mon_ctx *c, const struct snapshot *s, bool with_id)
{
    CLEANUP_FREE char *size = hmp_size(s->vm_state_size);
    CLEANUP_FREE char *count = s->icount == UINT64_MAX ? g_strdup("--") : g_strdup_printf("%" PRIu64, s->icount);
    uint64_t sec = s->vm_clock_nsec / 1000000000;
    CLEANUP_FREE char *clock = g_strdup_printf("%04" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64, sec / 3600,
                                               sec / 60 % 60, sec % 60, s->vm_clock_nsec / 1000000 % 1000);
    time_t when = s->date_sec;
    struct tm tm;
    char date[64] = "";
    if (localtime_r(&when, &tm)) {
        strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
    }
    mon_printf(c, "%-7s %-16s %8s %19s %15s %10s\n", with_id ? s->id : "--", s->name, size, date, clock, count);
}

static int info_snapshots(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    g_autoptr(GPtrArray) all = snapshot_list_all(c->env->graph, &why);
    const struct node *on = NULL;
    guint i = 0;
    if (!all) { /* to QEMU no error */
        mon_printf(c, "%s\n", err_text(&why));
        return 0;
    }
    if (!all->len) {
        mon_printf(c, "There is no snapshot available.\n");
        return 0;
    }
    mon_printf(c, "List of snapshots present on all disks:\n");
    for (; i < all->len && !((const struct snapshot_listed *)g_ptr_array_index(all, i))->node; i++) {
        if (i == 0) {
            hmp_print_snapshot_head(c);
        }
        hmp_print_snapshot(c, ((const struct snapshot_listed *)g_ptr_array_index(all, i))->snapshot, false);
    }
    if (i == 0) {
        mon_printf(c, "None\n");
    }
    for (; i < all->len; i++) {
        const struct snapshot_listed *x = g_ptr_array_index(all, i);
        if (x->node != on) {
            on = x->node;
            mon_printf(c, "\nList of partial (non-loadable) snapshots on '%s':\n", snapshot_name_of(on));
            hmp_print_snapshot_head(c);
        }
        hmp_print_snapshot(c, x->snapshot, true);
    }
    return 0;
}

const struct hmp_command hmp_snapshot_commands[] = {
    {"savevm", "tag:s?", "[tag]",
     "keeps machine and disks as they are now in the disks' images (no tag: one made of the date)", savevm},
    {"loadvm", "tag:s", "tag", "takes machine and disks back to a snapshot", loadvm},
    {"delvm", "tag:s", "tag", "deletes a snapshot of machine and disks", delvm},
    {NULL},
};

const struct hmp_command hmp_snapshot_info[] = {
    {"snapshots", "", "", "shows snapshots of machine and disks", info_snapshots},
    {NULL},
};
