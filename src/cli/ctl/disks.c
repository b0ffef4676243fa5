/* SPDX-License-Identifier: BSD-2-Clause */
/* `disks`: what the guest has. */
#include "cli/ctl/disk.h"
#include "cli/ctl/screen.h"
#include "cli/ctl/verbs.h"
#include "cli/human.h"

#include <stdio.h>
#include <string.h>

/* Files below the image, from the top down. */
static GPtrArray *chain_of(const struct disk *d)
{
    GPtrArray *files = g_ptr_array_new();
    struct json_object *image = ctl_get(d->image, "image");
    while ((image = ctl_get(image, "backing-image"))) {
        g_ptr_array_add(files, (gpointer)(uintptr_t)ctl_str(image, "filename"));
    }
    g_ptr_array_add(files, NULL);
    return files;
}

static GPtrArray *jobs_of(const struct disk *d, struct json_object *jobs)
{
    GPtrArray *ids = g_ptr_array_new();
    for (size_t i = 0; i < json_object_array_length(jobs); i++) {
        const char *id = ctl_str(json_object_array_get_idx(jobs, i), "id");
        if (disk_has_job(d, id)) {
            g_ptr_array_add(ids, (gpointer)(uintptr_t)id);
        }
    }
    g_ptr_array_add(ids, NULL);
    return ids;
}

static struct json_object *strings(GPtrArray *list)
{
    struct json_object *a = json_object_new_array();
    for (guint i = 0; i + 1 < list->len; i++) {
        json_object_array_add(a, json_object_new_string(list->pdata[i]));
    }
    return a;
}

static void put(const struct disk *d, struct json_object *jobs)
{
    g_autoptr(GPtrArray) chain = chain_of(d), ids = jobs_of(d, jobs);
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct json_object *image = ctl_get(d->image, "image");
    json_object_object_add(o, "disk", json_object_new_string(d->name));
    json_object_object_add(o, "device", ctl_new_str(d->device));
    json_object_object_add(o, "node-name", ctl_new_str(d->image ? d->node : NULL));
    json_object_object_add(o, "format", json_object_get(ctl_get(image, "format")));
    json_object_object_add(o, "virtual-size", json_object_get(ctl_get(image, "virtual-size")));
    json_object_object_add(o, "actual-size", json_object_get(ctl_get(image, "actual-size")));
    json_object_object_add(o, "filename", json_object_get(ctl_get(image, "filename")));
    json_object_object_add(o, "read-only", json_object_get(ctl_get(d->image, "ro")));
    json_object_object_add(o, "backing", strings(chain));
    json_object_object_add(o, "jobs", strings(ids));
    ctl_put_json(o);
}

static void add_row(struct table *t, const struct disk *d, struct json_object *jobs)
{
    g_autoptr(GPtrArray) chain = chain_of(d), ids = jobs_of(d, jobs);
    struct json_object *image = ctl_get(d->image, "image");
    CLEANUP_FREE char *below = g_strjoinv(" < ", (char **)chain->pdata), *work = g_strjoinv(", ", (char **)ids->pdata);
    table_row(t, g_strdup(d->name), g_strdup(d->node), g_strdup(d->image ? ctl_str(image, "format") : "no medium"),
              d->image ? human_size((uint64_t)ctl_int(image, "virtual-size")) : NULL,
              g_strdup(ctl_str(image, "filename")), g_strdup(chain->len > 1 ? below : "-"),
              g_strdup(ids->len > 1 ? work : "-"));
}

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *jobs = NULL;
    if (ctl_connect(c, &e) || ctl_call(c, "query-jobs", &jobs, &e, NULL)) {
        return ctl_fail(c, &e);
    }
    g_autoptr(GPtrArray) disks = disk_list(c, &e);
    if (!disks) {
        return ctl_fail(c, &e);
    }
    struct table t = table_create(7);
    table_row(&t, g_strdup("DISK"), g_strdup("NODE"), g_strdup("FORMAT"), g_strdup("SIZE"), g_strdup("FILE"),
              g_strdup("BACKING"), g_strdup("JOBS"));
    for (guint i = 0; i < disks->len; i++) {
        const struct disk *d = disks->pdata[i];
        if (ctl_option(c, "names")) {
            puts(d->name);
        } else if (c->json) {
            put(d, jobs);
        } else {
            add_row(&t, d, jobs);
        }
    }
    if (c->json || ctl_option(c, "names") || !disks->len) {
        table_finish(&t);
        if (!disks->len && !ctl_option(c, "names")) {
            ctl_say(c, "no disks");
        }
        return CTL_OK;
    }
    table_print(&t);
    return CTL_OK;
}

static const struct ctl_option options[] = {
    {"names", NULL, "names only, one a line"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_disks = {
    .name = "disks",
    .operands = "",
    .help = "lists the guest's disks with their images and jobs",
    .options = options,
    .run = run,
};
