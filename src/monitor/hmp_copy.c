/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"

#include <inttypes.h>
#include <string.h>

static struct json_object *pick(struct json_object *args, const char *key)
{
    struct json_object *v;
    return json_object_object_get_ex(args, key, &v) ? v : NULL;
}

static bool flag(struct json_object *args, const char *key)
{
    return json_object_get_boolean(pick(args, key));
}

static void give(struct json_object *to, const char *key, struct json_object *value)
{
    if (value) {
        json_object_object_add(to, key, json_object_get(value));
    }
}

static void give_str(struct json_object *to, const char *key, const char *value)
{
    json_object_object_add(to, key, json_object_new_string(value));
}

/* --- block_copy --------------------------------------------------------------------------------------------------- */

static int block_copy(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();

    give(o, "device", pick(args, "device"));
    give(o, "filename", pick(args, "filename"));
    give(o, "commit_filename", pick(args, "commit_filename"));
    give(o, "action", pick(args, "action"));
    if (flag(args, "inc")) {
        json_object_object_add(o, "inc", json_object_new_boolean(true));
    }
    return qmp_call(c, "block_copy", o, NULL, e);
}

static int block_copy_cancel(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "block_copy_cancel", args, NULL, e);
}

static int64_t number(struct json_object *o, const char *key)
{
    return json_object_get_int64(pick(o, key));
}

static const char *text(struct json_object *o, const char *key)
{
    struct json_object *v = pick(o, key);
    return v ? json_object_get_string(v) : "";
}

static void print_copy(struct mon_ctx *c, struct json_object *copy)
{
    struct json_object *i = pick(copy, "info");

    mon_printf(c, "%s: %s, stage %s, to %s\n", text(copy, "device"), text(copy, "status"), text(i, "stage"),
               text(copy, "filename"));
    if (pick(copy, "error")) {
        mon_printf(c, "    error: %s\n", text(copy, "error"));
    }
    mon_printf(c, "    %" PRId64 " %%: %" PRId64 " of %" PRId64 " KiB, %" PRId64 " KiB left, %.1f MiB/s",
               number(i, "percentage"), number(i, "transferred") >> 10, number(i, "total") >> 10,
               number(i, "remaining") >> 10, (double)number(i, "rate") / 1048576.0);
    if (pick(i, "eta")) {
        mon_printf(c, ", %.1f s to go", json_object_get_double(pick(i, "eta")));
    }
    mon_printf(c, "\n");
    if (pick(i, "guest-writes")) {
        mon_printf(c, "    guest: %" PRId64 " writes, half within %" PRId64 " us, 99 %% within %" PRId64 " us\n",
                   number(i, "guest-writes"), number(i, "guest-write-p50-us"), number(i, "guest-write-p99-us"));
    }
    if (pick(i, "pause-ns")) {
        mon_printf(c, "    the switch held the guest back for %.3f ms\n", (double)number(i, "pause-ns") / 1e6);
    }
}

static int info_block_copy(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-block-copy", NULL, &list, e);

    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        print_copy(c, json_object_array_get_idx(list, i));
    }
    if (rc == 0 && json_object_array_length(list) == 0) {
        mon_printf(c, "No copies\n");
    }
    return rc;
}

/* --- jobs ------------------------------------------------------------------------------------------------------------
 */

/* What drive_mirror and drive_backup have in common. */
static struct json_object *copy_to_file(struct json_object *args)
{
    struct json_object *o = json_object_new_object();

    give(o, "device", pick(args, "device"));
    give(o, "target", pick(args, "target"));
    give(o, "format", pick(args, "format"));
    give_str(o, "sync", flag(args, "full") ? "full" : "top");
    give_str(o, "mode", flag(args, "reuse") ? "existing" : "absolute-paths");
    return o;
}

static int drive_mirror(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = copy_to_file(args);
    return qmp_call(c, "drive-mirror", o, NULL, e);
}

static int drive_backup(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = copy_to_file(args);
    json_object_object_add(o, "compress", json_object_new_boolean(flag(args, "compress")));
    return qmp_call(c, "drive-backup", o, NULL, e);
}

static int snapshot_blkdev(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    give(o, "device", pick(args, "device"));
    give(o, "snapshot-file", pick(args, "snapshot-file"));
    give(o, "format", pick(args, "format"));
    give_str(o, "mode", flag(args, "reuse") ? "existing" : "absolute-paths");
    return qmp_call(c, "blockdev-snapshot-sync", o, NULL, e);
}

static int snapshot_blkdev_internal(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "blockdev-snapshot-internal-sync", args, NULL, e);
}

static int snapshot_delete_blkdev_internal(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "blockdev-snapshot-delete-internal-sync", args, NULL, e);
}

static int block_stream(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    give(o, "device", pick(args, "device"));
    give(o, "base", pick(args, "base"));
    give(o, "speed", pick(args, "speed"));
    return qmp_call(c, "block-stream", o, NULL, e);
}

static int stream(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *ret = NULL;
    int rc = qmp_call(c, "block-stream-step", args, &ret, e);
    if (rc == 0) {
        mon_printf(c, "%" PRId64 " of %" PRId64 "\n", number(ret, "offset"), number(ret, "size"));
    }
    return rc;
}

static int block_job_cancel(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    give(o, "device", pick(args, "device"));
    json_object_object_add(o, "force", json_object_new_boolean(flag(args, "force")));
    return qmp_call(c, "block-job-cancel", o, NULL, e);
}

static int block_job_complete(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "block-job-complete", args, NULL, e);
}

static int block_job_pause(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "block-job-pause", args, NULL, e);
}

static int block_job_resume(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "block-job-resume", args, NULL, e);
}

static int block_job_set_speed(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return qmp_call(c, "block-job-set-speed", args, NULL, e);
}

static int info_block_jobs(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    CLEANUP_JSON struct json_object *list = NULL;
    int rc = qmp_call(c, "query-block-jobs", NULL, &list, e);

    if (rc == 0 && json_object_array_length(list) == 0) {
        mon_printf(c, "No active jobs\n");
    }
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        struct json_object *j = json_object_array_get_idx(list, i);
        mon_printf(c,
                   "Type %s, device %s: Completed %" PRId64 " of %" PRId64 " bytes, speed limit %" PRId64
                   " bytes/s, state %s%s%s\n",
                   text(j, "type"), text(j, "device"), number(j, "offset"), number(j, "len"), number(j, "speed"),
                   text(j, "status"), pick(j, "error") ? ": " : "", text(j, "error"));
    }
    return rc;
}

const struct hmp_command hmp_copy_commands[] = {
    {"block_copy", "inc:-i,device:B,filename:F,commit_filename:F?,action:s?",
     "[-i] device filename [commit_filename [none|stop]]",
     "copies a disk to an existing image and switches to it (-i: only what is above the shared base)", block_copy},
    {"block_copy_cancel", "device:B", "device", "stops a copy; the guest stays on the source", block_copy_cancel},
    {"drive_mirror", "reuse:-n,full:-f,device:B,target:s,format:s?", "[-n] [-f] device target [format]",
     "copies a disk to a file and keeps both in step (-n: the file is there; -f: all layers)", drive_mirror},
    {"drive_backup", "reuse:-n,full:-f,compress:-c,device:B,target:s,format:s?",
     "[-n] [-f] [-c] device target [format]",
     "copies what a disk holds now to a file (-n: the file is there; -f: all layers; -c: compressed)", drive_backup},
    {"snapshot_blkdev", "reuse:-n,device:B,snapshot-file:F?,format:s?", "[-n] device [new-image-file] [format]",
     "puts a new layer above a disk, which stays as it is (-n: the file is there)", snapshot_blkdev},
    {"snapshot_blkdev_internal", "device:B,name:s", "device name", "keeps what a disk holds now inside of its image",
     snapshot_blkdev_internal},
    {"snapshot_delete_blkdev_internal", "device:B,name:s,id:s?", "device name [id]",
     "deletes a snapshot inside of a disk's image", snapshot_delete_blkdev_internal},
    {"block_stream", "device:B,speed:o?,base:s?", "device [speed [base]]",
     "brings what is below a disk's image into it and lets go of the layers above the base", block_stream},
    {"stream", "device:B,offset:o", "device offset",
     "brings one piece at or behind the offset into a disk's image; shows where the next may begin", stream},
    {"block_job_cancel", "force:-f,device:B", "[-f] device", "ends a job (-f: also when it is ready or paused)",
     block_job_cancel},
    {"block_job_complete", "device:B", "device", "lets a job that is ready take effect", block_job_complete},
    {"block_job_pause", "device:B", "device", "makes a job stand still", block_job_pause},
    {"block_job_resume", "device:B", "device", "lets a paused job go on", block_job_resume},
    {"block_job_set_speed", "device:B,speed:o", "device speed", "limits a job (bytes per second)", block_job_set_speed},
    {NULL},
};

const struct hmp_command hmp_copy_info[] = {
    {"block-copy", "", "", "shows how far copies of disks are", info_block_copy},
    {"block-jobs", "", "", "shows jobs that work on disks", info_block_jobs},
    {NULL},
};
