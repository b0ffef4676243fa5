/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/block_copy.h"

#include "base/cleanup.h"
#include "job/copy.h"

#include <string.h>
#include <sys/stat.h>

struct record {
    char *device, *image;
    struct job *job; /* a reference: also when the job is over */
};

static void record_free(void *opaque)
{
    struct record *r = opaque;
    g_free(r->device);
    g_free(r->image);
    job_unref(r->job);
    g_free(r);
}

static void records_free(void *records)
{
    g_ptr_array_free(records, true);
}

static GPtrArray *records_of(struct jobs *js)
{
    GPtrArray *a = jobs_get_data(js, "block-copy");
    if (!a) {
        a = g_ptr_array_new_with_free_func(record_free);
        jobs_set_data(js, "block-copy", a, records_free);
    }
    return a;
}

static const char *device_name(const struct backend *b)
{
    return b->name[0] ? b->name : b->qdev ? b->qdev : b->root ? b->root->child->name : "";
}

static struct record *find(struct jobs *js, const char *device)
{
    GPtrArray *a = records_of(js);
    for (guint i = 0; i < a->len; i++) {
        struct record *r = g_ptr_array_index(a, i);
        if (!strcmp(r->device, device)) {
            return r;
        }
    }
    return NULL;
}

static bool is_active(const struct record *r)
{
    return r->job->status < JOB_CONCLUDED;
}

/* --- starting ---------------------------------------------------------------------------------------------------- */

static bool same_file(const char *a, const char *b)
{
    struct stat sa, sb;
    return !strcmp(a, b) ||
           (stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino);
}

/* The chain of the device must not be written to behind its back. */
static int check_not_source(struct node *source, const char *filename, struct err *e)
{
    for (struct node *n = source; n; n = node_backing(n)) {
        if (same_file(node_skip_filters(n)->filename, filename)) {
            return err_set(e, EINVAL,
                           n == source ? "Destination '%s' is the source"
                                       : "Destination '%s' is a backing file of "
                                         "the source",
                           filename);
        }
    }
    return 0;
}

static int open_destination(struct block_graph *g, const struct block_copy_options *o, struct node *source,
                            struct node **out, struct err *e)
{
    if (o->target) {
        struct node *n = node_lookup(g, o->target, e);
        if (!n) {
            return -ENOENT;
        }
        *out = node_ref(n);
        return 0;
    }
    int rc = check_not_source(source, o->filename, e);
    if (rc) {
        return rc;
    }
    CLEANUP_JSON struct json_object *opts = json_object_new_object();
    if (o->format) {
        json_object_object_add(opts, "driver", json_object_new_string(o->format));
    }
    json_object_object_add(opts, "read-only", json_object_new_boolean(false));
    rc = node_open_filename(g, o->filename, opts, out, e);
    return rc ? err_wrap(e, "Destination '%s'", o->filename) : 0;
}

static int check_shared_base(struct node *source, struct node *target, struct err *e)
{
    struct node *ours = node_backing(source), *theirs = node_backing(target);

    if (!ours || (theirs && (ours == theirs || same_file(ours->filename, theirs->filename)))) {
        return 0;
    }
    return err_set(e, EINVAL,
                   "Destination '%s' has %s%s%s, but for an incremental copy it must share '%s' with the source",
                   target->filename, theirs ? "backing file '" : "no backing file", theirs ? theirs->filename : "",
                   theirs ? "'" : "", ours->filename);
}

static int check_options(const struct block_copy_options *o, struct err *e)
{
    if (!o->filename == !o->target) {
        return err_set(e, EINVAL, "Exactly one of 'filename' and 'target' must be given");
    }
    if (o->format && !o->filename) {
        return err_set(e, EINVAL, "Parameter 'format' needs 'filename'");
    }
    if (o->commit_filename && o->filename && strchr(o->filename, '\n')) {
        return err_set(e, EINVAL, "A file name with a line feed cannot be recorded in a commit file");
    }
    return 0;
}

static void remember(struct jobs *js, const char *device, const char *image, struct job *j)
{
    struct record *old = find(js, device);
    if (old) {
        g_ptr_array_remove(records_of(js), old);
    }
    struct record *r = g_new0(struct record, 1);
    r->device = g_strdup(device);
    r->image = g_strdup(image);
    r->job = job_ref(j);
    g_ptr_array_add(records_of(js), r);
}

static int start(struct jobs *js, struct backend *b, struct node *target, const struct block_copy_options *o,
                 struct err *e)
{
    struct node *source = b->root->child;
    int rc = o->inc ? check_shared_base(source, target, e) : 0;
    if (rc) {
        return rc;
    }
    CLEANUP_FREE char *id = g_path_get_basename(device_name(b));
    struct copy_options co = {
        .job_id = g_strcanon(id, G_CSET_A_2_Z G_CSET_a_2_z G_CSET_DIGITS "-._", '_'),
        .source = source,
        .target = target,
        .backend = b,
        .sync = o->inc ? COPY_TOP : COPY_FULL,
        .unmap = true,
        .speed = o->speed,
        .on_source_error = JOB_ON_ERROR_REPORT,
        .on_target_error = JOB_ON_ERROR_REPORT,
        .switches = true,
        .stops = o->stop,
        .downtime_limit_ms = o->downtime_limit_ms ? o->downtime_limit_ms : BLOCK_COPY_DOWNTIME_MS,
        .commit_filename = o->commit_filename,
        .device = device_name(b),
        .image = o->filename ? o->filename : target->filename,
    };
    struct job *j;
    rc = copy_create(js, &co, &j, e);
    if (rc == 0) {
        job_start(j);
        remember(js, co.device, co.image, j);
    }
    return rc;
}

int block_copy_start(struct jobs *js, struct block_graph *g, const struct block_copy_options *o, struct err *e)
{
    int rc = check_options(o, e);
    struct backend *b = rc ? NULL : backend_lookup(g, o->device, e);
    if (!b) {
        return rc ? rc : -ENODEV;
    }
    if (!b->root) {
        return err_set(e, ENOMEDIUM, "Device '%s' has no medium", o->device);
    }
    struct record *r = find(js, device_name(b));
    if (r && is_active(r)) {
        return err_set(e, EBUSY, "A copy of device '%s' to '%s' is already running", r->device, r->image);
    }
    struct node *target = NULL;
    rc = open_destination(g, o, b->root->child, &target, e);
    if (rc == 0) {
        /* Opening waits: the device may have changed meanwhile. */
        rc = b->root ? start(js, b, target, o, e) : err_set(e, ENOMEDIUM, "Device '%s' has no medium", o->device);
    }
    node_unref(target);
    return rc;
}

/* --- cancelling and asking ---------------------------------------------------------------------------------------- */

static int already_switched(const struct record *r, struct err *e)
{
    return err_set(e, EALREADY, "The copy of device '%s' has already switched: its image is '%s' now", r->device,
                   r->image);
}

int block_copy_cancel(struct jobs *js, struct block_graph *g, const char *device, struct err *e)
{
    struct backend *b = backend_lookup(g, device, e);
    if (!b) {
        return -ENODEV;
    }
    struct record *r = find(js, device_name(b));
    if (!r) {
        return err_set(e, ENOENT, "There is no copy of device '%s'", device);
    }
    if (!is_active(r)) {
        return r->job->rc == 0
                   ? already_switched(r, e)
                   : err_set(e, ENOENT, "The copy of device '%s' is over: %s", device, err_text(&r->job->err));
    }
    struct job *j = job_ref(r->job);
    int rc = job_cancel_sync(j);
    job_unref(j);
    /* It may have been too far already; then the answer says so. */
    r = rc == 0 ? find(js, device_name(b)) : NULL;
    return r ? already_switched(r, e) : 0;
}

static void add_int(struct json_object *o, const char *key, uint64_t v)
{
    json_object_object_add(o, key, json_object_new_int64((int64_t)v));
}

static void add_known(struct json_object *o, const char *key, uint64_t v)
{
    if (v != UINT64_MAX) {
        add_int(o, key, v);
    }
}

static void add_seconds(struct json_object *o, const char *key, uint64_t ms)
{
    if (ms != UINT64_MAX) {
        json_object_object_add(o, key, json_object_new_double((double)ms / 1000.0));
    }
}

static struct json_object *info_of(const struct record *r)
{
    struct json_object *o = json_object_new_object();
    struct copy_progress p;

    copy_get_progress(r->job, &p);
    add_int(o, "percentage", p.total ? (uint64_t)((double)p.transferred * 100.0 / (double)p.total) : 100);
    add_int(o, "transferred", p.transferred);
    add_int(o, "remaining", p.remaining);
    add_int(o, "total", p.total);
    json_object_object_add(o, "stage", json_object_new_string(copy_stage_names[p.stage]));
    add_int(o, "rate", p.rate);
    if (is_active(r)) {
        add_seconds(o, "eta", p.eta_ms);
        add_known(o, "downtime-ms", p.downtime_ms);
    }
    if (p.pause_ns) {
        add_int(o, "pause-ns", p.pause_ns);
    }
    if (p.guest_writes) {
        add_int(o, "guest-writes", p.guest_writes);
        add_int(o, "guest-write-p50-us", p.guest_p50_us);
        add_int(o, "guest-write-p99-us", p.guest_p99_us);
    }
    return o;
}

struct json_object *block_copy_query(struct jobs *js)
{
    struct json_object *list = json_object_new_array();
    GPtrArray *a = records_of(js);

    for (guint i = 0; i < a->len; i++) {
        const struct record *r = g_ptr_array_index(a, i);
        const char *status = is_active(r) ? "active" : r->job->rc ? "failed" : "completed";
        struct json_object *o = json_object_new_object();
        json_object_object_add(o, "device", json_object_new_string(r->device));
        json_object_object_add(o, "status", json_object_new_string(status));
        json_object_object_add(o, "filename", json_object_new_string(r->image));
        if (!is_active(r) && r->job->rc) {
            json_object_object_add(o, "error", json_object_new_string(err_text(&r->job->err)));
        }
        json_object_object_add(o, "info", info_of(r));
        json_object_array_add(list, o);
    }
    return list;
}
