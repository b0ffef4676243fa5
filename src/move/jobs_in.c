/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/chain.h"
#include "block/driver.h"
#include "block/file/file.h"
#include "block/options.h"
#include "job/rest.h"
#include "machine/machine.h"
#include "move/jobs.h"
#include "move/kept.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BITS_MAX (UINT64_C(1) << 28)

struct coming {
    char *id, *group; /* group: the id of the first of it; NULL: it ends by itself */
    struct json_object *values;
    uint64_t done;
    enum job_told told;
    bool given_up; /* another one of its group does not go on */
    struct some {
        uint32_t granularity;
        struct bitmap *bits; /* NULL: nothing is known of it */
    } left, since;
};

struct jobs_in {
    struct vm *vm;
    GHashTable *taken; /* ids that the source may send */
    GPtrArray *all;    /* struct coming */
};

static void coming_free(void *opaque)
{
    struct coming *c = opaque;
    bitmap_destroy(c->left.bits);
    bitmap_destroy(c->since.bits);
    json_object_put(c->values);
    g_free(c->id);
    g_free(c->group);
    g_free(c);
}

struct jobs_in *jobs_in_create(struct vm *vm)
{
    struct jobs_in *j = g_new(struct jobs_in, 1);
    *j = (struct jobs_in){vm, g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL),
                          g_ptr_array_new_with_free_func(coming_free)};
    return j;
}

void jobs_in_destroy(struct jobs_in *j)
{
    if (j) {
        g_ptr_array_free(j->all, true);
        g_hash_table_unref(j->taken);
        g_free(j);
    }
}

/* --- whether they can come ---------------------------------------------------------------------------------------- */

/* Layers that are named by their files. */
static int check_layers(struct jobs_in *in, struct json_object *values, struct err *e)
{
    static const char *const keys[] = {"base", "top"};
    const char *device = json_get_str(values, "device");
    struct node *disk = jobs_node(in->vm->graph, device);
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        const char *file = json_get_str(values, keys[i]);
        bool is_disk = file && disk && !strcmp(node_skip_filters(disk)->filename, file);
        if (file && !is_disk && !(disk && chain_find_file(disk, file))) {
            return err_set(e, ENOENT, "the destination's '%s' has no image '%s' ('%s')", device ? device : "", file,
                           keys[i]);
        }
    }
    return 0;
}

static int check_names(struct jobs_in *in, struct json_object *values, struct err *e)
{
    static const char *const keys[] = {"device", "target", "base-node", "top-node", "bottom", "replaces"};
    static const char *const fresh[] = {"node-name", "filter-node-name"};
    struct block_graph *g = in->vm->graph;
    for (size_t i = 0; i < G_N_ELEMENTS(keys); i++) {
        const char *name = json_get_str(values, keys[i]);
        bool is_file = name && name == jobs_command_file(values);
        if (name && !is_file && !backend_find(g, name) && !node_find(g, name)) {
            return err_set(e, ENOENT, "the destination has no node '%s' ('%s')", name, keys[i]);
        }
    }
    for (size_t i = 0; i < G_N_ELEMENTS(fresh); i++) {
        const char *name = json_get_str(values, fresh[i]);
        if (name && node_find(g, name)) {
            return err_set(e, EEXIST, "the destination has a node '%s' of its own ('%s')", name, fresh[i]);
        }
    }
    return check_layers(in, values, e);
}

static int is_written(void *path)
{
    return file_lock_is_written(path);
}

/* The node, of a disk here, whose file it is; NULL: none. */
static const struct node *find_user(struct block_graph *g, const char *path)
{
    g_autoptr(GPtrArray) all = graph_nodes(g);
    struct stat st, other;
    for (guint i = 0; stat(path, &st) == 0 && i < all->len; i++) {
        const struct node *n = g_ptr_array_index(all, i);
        if (n->drv->is_protocol && g_path_is_absolute(n->filename) && stat(n->filename, &other) == 0 &&
            st.st_dev == other.st_dev && st.st_ino == other.st_ino) {
            return n;
        }
    }
    return NULL;
}

/*
 * A file of that name is the source's when somebody writes to it just now: the source does. The other way round it may
 * be another one, which a copy that goes on would spoil.
 */
static int check_file(struct jobs_in *in, struct json_object *values, struct err *e)
{
    const char *name = jobs_command_file(values), *format = json_get_str(values, "format");
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct node *n = NULL;
    if (!name) {
        return 0;
    }
    const char *path = g_str_has_prefix(name, "file:") ? name + strlen("file:") : name;
    if (!g_path_is_absolute(path)) {
        return err_set(e, EINVAL, "its command names no absolute path, but '%s'", name);
    }
    if (!co_work(is_written, (void *)(uintptr_t)path)) {
        return err_set(e, ENOENT, "nobody has '%s' open where the destination is: it is not the source's", path);
    }
    const struct node *user = find_user(in->vm->graph, path);
    if (user) {
        return err_set(e, EBUSY, "the destination uses '%s' itself, as node '%s'", path, user->name);
    }
    if (format) {
        json_object_object_add(o, "driver", json_object_new_string(format));
    }
    json_object_object_add(o, "read-only", json_object_new_boolean(false));
    int rc = node_open_filename(in->vm->graph, name, o, &n, e); /* inactive, as all is here */
    node_unref(n);
    return rc;
}

static int can_write_there(void *folder)
{
    return access(folder, W_OK | X_OK) < 0 ? -errno : 0;
}

/* Who starts the machine again where it is then finds it there. */
static int check_commit_file(struct json_object *values, struct err *e)
{
    const char *name = json_get_str(values, "commit_filename");
    if (!name) {
        return 0;
    }
    if (!g_path_is_absolute(name)) {
        return err_set(e, EINVAL, "its commit file has no absolute name, but '%s'", name);
    }
    CLEANUP_FREE char *folder = g_path_get_dirname(name);
    int rc = co_work(can_write_there, folder);
    return rc ? err_set_errno(e, -rc, "the destination cannot write its commit file '%s'", name) : 0;
}

static int judge(struct jobs_in *in, const char *id, struct json_object *values, struct err *e)
{
    if (!in->vm->make_job) {
        return err_set(e, ENOTSUP, "the destination has no place for jobs");
    }
    if (kept_is(values) && machine_release_says(in->vm->as_release, JOBS_KEPT)) {
        struct cbw *c;
        return kept_find(in->vm->graph, values, &c, e);
    }
    if (!jobs_command_moves(values, in->vm->as_release)) {
        return err_set(e, EPERM, "its command is none that may come with a machine");
    }
    if (jobs_find(in->vm->jobs, id)) {
        return err_set(e, EEXIST, "the destination has a job '%s' of its own", id);
    }
    return check_names(in, values, e);
}

static bool read_job(struct json_object *o, const char **id, struct json_object **values)
{
    bool is_object = json_object_is_type(o, json_type_object);
    *id = is_object ? json_get_str(o, "id") : NULL;
    *values = is_object ? json_object_object_get(o, "values") : NULL;
    return *id && json_object_is_type(*values, json_type_object);
}

static struct json_object *known_words(const struct jobs_in *in)
{
    struct json_object *list = json_object_new_array();
    if (machine_release_says(in->vm->as_release, JOBS_GROUPS)) {
        json_object_array_add(list, json_object_new_string(JOBS_GROUPS));
    }
    return list;
}

int jobs_in_judge(struct jobs_in *in, struct json_object *want, struct json_object *features, struct err *e)
{
    struct json_object *left = json_object_new_array();
    json_object_object_add(features, "jobs-left-out", left);
    json_object_object_add(features, "jobs-know", known_words(in));
    for (size_t i = 0; json_object_is_type(want, json_type_array) && i < json_object_array_length(want); i++) {
        CLEANUP_ERR struct err why = ERR_INIT;
        const char *id;
        struct json_object *values;
        if (!read_job(json_object_array_get_idx(want, i), &id, &values)) {
            return err_set(e, EPROTO, "What the source wants of its jobs makes no sense");
        }
        int rc = judge(in, id, values, &why);
        rc = rc ? rc : check_commit_file(values, &why);
        rc = rc ? rc : check_file(in, values, &why);
        if (rc == 0) {
            g_hash_table_add(in->taken, g_strdup(id));
            continue;
        }
        struct json_object *x = json_object_new_object();
        json_object_object_add(x, "id", json_object_new_string(id));
        json_object_object_add(x, "why", json_object_new_string(err_text(&why)));
        json_object_array_add(left, x);
    }
    return 0;
}

/* --- what comes --------------------------------------------------------------------------------------------------- */

static int read_bits(const struct coming *c, struct json_object *o, struct some *out, struct err *e)
{
    if (!o) {
        return 0;
    }
    if (!json_object_is_type(o, json_type_object)) {
        return err_set(e, EPROTO, "What is left of job '%s' makes no sense", c->id);
    }
    struct jread r = jread_init(o, NULL, e);
    uint64_t granularity = jread_size(&r, "granularity"), bits = jread_size(&r, "bits"), words = (bits + 63) / 64;
    gsize n = 0;
    CLEANUP_FREE guchar *le = g_base64_decode(jread_str(&r, "words"), &n);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    bool fits = granularity >= 512 && granularity <= UINT32_C(1) << 31 && !(granularity & (granularity - 1));
    if (!fits || !bits || bits > BITS_MAX || n != words * 8) {
        return err_set(e, EPROTO, "What is left of job '%s' makes no sense", c->id);
    }
    *out = (struct some){(uint32_t)granularity, bitmap_create(bits)};
    for (uint64_t i = 0; out->bits && i < words; i++) {
        bitmap_or_word(out->bits, i, load_le64(le + 8 * i));
    }
    return out->bits ? 0 : err_set(e, ENOMEM, "Not enough memory for what is left of job '%s'", c->id);
}

static int take_one(struct jobs_in *in, struct json_object *o, struct err *e)
{
    const char *id;
    struct json_object *values;
    if (!read_job(o, &id, &values) || !g_hash_table_contains(in->taken, id)) {
        return err_set(e, EPROTO, "A job comes that was not asked for");
    }
    int rc = judge(in, id, values, e);
    if (rc < 0) {
        return err_wrap(e, "Job '%s'", id);
    }
    struct jread r = jread_init(o, NULL, e);
    uint64_t done = jread_size_or(&r, "done", 0);
    struct json_object *left = jread_any(&r, "left"), *since = jread_any(&r, "since");
    enum job_told told = jread_enum_or(&r, "told", jobs_told_names, JOB_TOLD_NOTHING);
    const char *group = jread_str_or(&r, "group", NULL);
    rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    struct coming *c = g_new(struct coming, 1);
    *c = (struct coming){
        .id = g_strdup(id), .group = g_strdup(group), .values = json_clone(values), .done = done, .told = told};
    g_ptr_array_add(in->all, c);
    g_hash_table_remove(in->taken, id);
    rc = read_bits(c, left, &c->left, e);
    return rc < 0 ? rc : read_bits(c, since, &c->since, e);
}

int jobs_in_take(struct jobs_in *in, const GByteArray *payload, struct err *e)
{
    CLEANUP_FREE char *text = g_strndup(payload->len ? (const char *)payload->data : "", payload->len);
    CLEANUP_JSON struct json_object *list = json_tokener_parse(text);
    if (!json_object_is_type(list, json_type_array)) {
        return err_set(e, EPROTO, "What comes of jobs makes no sense");
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < json_object_array_length(list); i++) {
        rc = take_one(in, json_object_array_get_idx(list, i), e);
    }
    return rc;
}

/* --- here --------------------------------------------------------------------------------------------------------- */

/* Another one of its group that is here already; NULL: there is none. */
static struct job *find_mate(const struct jobs_in *in, const struct coming *c)
{
    struct job *mate = NULL;
    for (guint i = 0; c->group && i < in->all->len && !mate; i++) {
        const struct coming *x = g_ptr_array_index(in->all, i);
        mate = x != c && !g_strcmp0(x->group, c->group) ? jobs_find(in->vm->jobs, x->id) : NULL;
    }
    return mate;
}

static void cancel(struct job *j)
{
    job_ref(j);
    job_cancel_sync(j);
    job_unref(j);
}

static int start(struct jobs_in *in, struct coming *c, struct err *e)
{
    if (kept_is(c->values)) {
        return kept_take(in->vm->graph, c->values, c->left.bits, c->since.bits, e);
    }
    struct job *mate = find_mate(in, c);
    int rc = in->vm->make_job(in->vm->make_up.opaque, c->id, c->values, e);
    struct job *j = rc < 0 ? NULL : jobs_find(in->vm->jobs, c->id);
    if (!j) {
        return rc < 0 ? rc : err_set(e, ENOENT, "it ended at once");
    }
    if (mate) {
        job_join(j, mate);
    }
    const struct job_left left = {c->left.granularity, c->left.bits, c->since.granularity, c->since.bits, c->told};
    rc = job_go_on(j, &left, c->done, e);
    if (rc < 0) {
        cancel(j);
    }
    return rc;
}

/* The others of its group, and those that are still to be made. */
static void give_up_group(struct jobs_in *in, const struct coming *c)
{
    struct job *mate = find_mate(in, c);
    if (mate) {
        cancel(mate);
    }
    for (guint i = 0; c->group && i < in->all->len; i++) {
        struct coming *x = g_ptr_array_index(in->all, i);
        if (x != c && !g_strcmp0(x->group, c->group)) {
            log_error(in->vm->log, "job '%s' does not go on, either: it would end together with '%s'", x->id, c->id);
            x->given_up = true;
        }
    }
}

void jobs_in_start(struct jobs_in *in)
{
    jobs_hold(in->vm->jobs, true);
    for (guint i = 0; i < in->all->len; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct coming *c = g_ptr_array_index(in->all, i);
        if (!c->given_up && start(in, c, &e) < 0) {
            log_error(in->vm->log, "job '%s' came with the machine, but does not go on: %s", c->id, err_text(&e));
            give_up_group(in, c);
        }
    }
    jobs_hold(in->vm->jobs, false);
    jobs_wake(in->vm->jobs);
    g_ptr_array_set_size(in->all, 0);
}
