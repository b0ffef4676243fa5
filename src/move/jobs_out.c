/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/bitmap.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/dirty.h"
#include "block/options.h"
#include "job/rest.h"
#include "machine/machine.h"
#include "move/jobs.h"
#include "move/kept.h"

#include <string.h>

enum { LEFT_BYTES_MAX = 4 << 20 };
#define READS_WHAT_STAYS "it reads what a copy-before-write filter keeps, and that does not move"

struct jobs_out {
    struct vm *vm;
    const struct disks_out *disks;
    GHashTable *fates; /* id -> why it stays, "" if it goes */
    bool bitmaps;      /* all move under their own names */
    bool known;        /* the destination has had its say, or has none */
    bool groups;       /* it knows of them */
};

struct jobs_out *jobs_out_create(struct vm *vm, const struct disks_out *disks, bool bitmaps)
{
    struct jobs_out *o = g_new(struct jobs_out, 1);
    *o = (struct jobs_out){.vm = vm,
                           .disks = disks,
                           .bitmaps = bitmaps,
                           .fates = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free)};
    return o;
}

void jobs_out_destroy(struct jobs_out *o)
{
    if (o) {
        g_hash_table_unref(o->fates);
        g_free(o);
    }
}

/* --- which -------------------------------------------------------------------------------------------------------- */

/* The caller's; NULL: its parameters are not known. */
static struct json_object *values_of(const struct jobs_out *o, const struct job *j)
{
    return o->vm->make_up.job ? o->vm->make_up.job(o->vm->make_up.opaque, j) : NULL;
}

const char *const jobs_told_names[] = {"nothing", "complete", "cancel", NULL};

static const struct {
    const char *name, *file; /* file: of its argument */
} commands[] = {
    {"block-commit", NULL},     {"block-stream", NULL},     {"blockdev-backup", NULL},  {"blockdev-mirror", NULL},
    {"block_copy", "filename"}, {"drive-backup", "target"}, {"drive-mirror", "target"},
};

static int find_command(struct json_object *values)
{
    const char *name = json_get_str(values, "command");
    for (size_t i = 0; name && i < G_N_ELEMENTS(commands); i++) {
        if (!strcmp(commands[i].name, name)) {
            return (int)i;
        }
    }
    return -1;
}

const char *jobs_command_file(struct json_object *values)
{
    int i = find_command(values);
    return i >= 0 && commands[i].file ? json_get_str(values, commands[i].file) : NULL;
}

bool jobs_command_moves(struct json_object *values, const struct machine_release *r)
{
    const char *sync = json_get_str(values, "sync");
    bool none = sync && !strcmp(sync, "none");
    int i = find_command(values);
    bool files = i >= 0 && (commands[i].file || json_get_str(values, "top") || json_get_str(values, "base"));
    return i >= 0 && (!files || machine_release_says(r, JOBS_FILES)) && (!none || machine_release_says(r, JOBS_NONE));
}

struct node *jobs_node(struct block_graph *g, const char *disk)
{
    const struct backend *b = disk ? backend_find(g, disk) : NULL;
    return b && b->root ? b->root->child : disk ? node_find(g, disk) : NULL;
}

static bool is_copied(const struct jobs_out *o, const char *disk)
{
    struct block_graph *g = o->vm->graph;
    struct node *n = jobs_node(g, disk);
    GPtrArray *all = graph_backends(g);
    for (guint i = 0; n && i < all->len; i++) {
        const struct backend *x = g_ptr_array_index(all, i);
        if (x->root && disks_out_copies(o->disks, x) && node_skip_filters(x->root->child) == node_skip_filters(n)) {
            return true;
        }
    }
    return false;
}

static bool bitmap_moves(const struct jobs_out *o, struct json_object *values)
{
    struct node *n = jobs_node(o->vm->graph, json_get_str(values, "device"));
    const char *name = json_get_str(values, "bitmap");
    const struct dirty_bitmap *b = n ? dirty_bitmap_find(n, name) : NULL;
    b = b || !n ? b : dirty_bitmap_find(node_skip_filters(n), name);
    return b && (b->persistent || o->bitmaps); /* its disk is shared: it is in the image */
}

static bool is_too_much(const struct bitmap *bits)
{
    return bits && bitmap_bits(bits) / 8 > LEFT_BYTES_MAX;
}

/* It does not go, or nobody has said so. */
static bool kept_goes(void *opaque, struct cbw *c)
{
    const struct jobs_out *o = opaque;
    CLEANUP_FREE char *id = kept_id(c);
    const char *why = g_hash_table_lookup(o->fates, id);
    return why && !*why;
}

static bool reads_what_stays(const struct jobs_out *o, struct json_object *values)
{
    struct node *n = jobs_node(o->vm->graph, json_get_str(values, "device"));
    return n && kept_read_by(n, kept_goes, (void *)(uintptr_t)o);
}

static const char *why_stays(const struct jobs_out *o, struct job *j, struct json_object *values)
{
    const char *why = job_why_stays(j);
    if (why || !values) {
        return why ? why : "how it was made is not known";
    }
    if (!jobs_command_moves(values, o->vm->as_release)) {
        return "its command is of a kind that does not go on elsewhere, or that an earlier release does not know";
    }
    if (job_group(j) && !machine_release_says(o->vm->as_release, JOBS_GROUPS)) {
        return "it ends together with others, and earlier releases do not know of that";
    }
    if (is_copied(o, json_get_str(values, "device")) || is_copied(o, json_get_str(values, "target"))) {
        return "its disk is copied, too";
    }
    if (reads_what_stays(o, values)) {
        return READS_WHAT_STAYS;
    }
    if (json_get_str(values, "bitmap") && !bitmap_moves(o, values)) {
        return "its bitmap does not move: it is not persistent, and 'dirty-bitmaps' is off, or renames it";
    }
    struct job_left l = job_left(j);
    return is_too_much(l.bits) || is_too_much(l.since) ? "what is left of it is too much to tell" : NULL;
}

static void add_group(struct json_object *to, const struct job *j)
{
    const struct job *first = job_group(j);
    if (first) {
        json_object_object_add(to, "group", json_object_new_string(first->id));
    }
}

static void want(struct json_object **list, const char *id, struct json_object *values, const struct job *j)
{
    struct json_object *x = json_object_new_object();
    json_object_object_add(x, "id", json_object_new_string(id));
    json_object_object_add(x, "values", json_object_get(values));
    if (j) {
        add_group(x, j);
    }
    *list = *list ? *list : json_object_new_array();
    json_object_array_add(*list, x);
}

static const char *why_not_kept(const struct jobs_out *o, const struct cbw *c)
{
    return !machine_release_says(o->vm->as_release, JOBS_KEPT) ? "earlier releases do not know of that"
           : is_copied(o, c->node->name)                       ? "its disk is copied"
           : is_copied(o, c->target->child->name)              ? "its target is copied"
           : is_too_much(c->todo)                              ? "it is too much to tell"
                                                               : NULL;
}

/* First: whether jobs that read what they keep go follows. */
static void want_kept(struct jobs_out *o, struct json_object **list)
{
    g_autoptr(GPtrArray) all = graph_nodes(o->vm->graph);
    for (guint i = 0; i < all->len; i++) {
        struct cbw *c = kept_of(g_ptr_array_index(all, i));
        const char *why = c ? why_not_kept(o, c) : NULL;
        if (c) {
            CLEANUP_FREE char *id = kept_id(c);
            CLEANUP_JSON struct json_object *values = kept_values(c);
            g_hash_table_insert(o->fates, g_strdup(id), g_strdup(why ? why : ""));
            if (!why) {
                want(list, id, values, NULL);
            }
        }
    }
}

struct json_object *jobs_out_want(struct jobs_out *o, bool answers)
{
    struct json_object *list = NULL;
    if (answers) {
        want_kept(o, &list);
    }
    GPtrArray *jobs = jobs_list(o->vm->jobs);
    o->known = !answers;
    for (guint i = jobs->len; i-- > 0;) { /* the oldest first */
        struct job *j = g_ptr_array_index(jobs, i);
        if (!j->id || j->over) {
            continue;
        }
        CLEANUP_JSON struct json_object *values = values_of(o, j);
        const char *why = answers ? why_stays(o, j, values) : "nobody at the other end can say whether it could go on";
        g_hash_table_insert(o->fates, g_strdup(j->id), g_strdup(why ? why : ""));
        if (!why) {
            want(&list, j->id, values, j);
        }
    }
    return list;
}

/* Not that others of its group do; NULL: it goes. */
static const char *why_it_stays(const struct jobs_out *o, const struct job *j)
{
    const char *why = j->id ? g_hash_table_lookup(o->fates, j->id) : NULL;
    if (!why) {
        return "it began after the migration did";
    }
    if (*why) {
        return why;
    }
    return job_group(j) && !o->groups ? "the destination does not know of jobs that end together" : job_why_stays(j);
}

static const char *why_ends_here(const struct jobs_out *o, const struct job *j)
{
    const char *why = o->known ? why_it_stays(o, j) : "the destination has not answered yet";
    GPtrArray *jobs = job_group(j) ? jobs_list(o->vm->jobs) : NULL;
    for (guint i = 0; jobs && !why && i < jobs->len; i++) {
        const struct job *x = g_ptr_array_index(jobs, i);
        if (job_group(x) == job_group(j) && why_it_stays(o, x)) {
            why = "it ends together with others, and one of them does not move";
        }
    }
    return why;
}

static bool goes(const struct jobs_out *o, const struct job *j)
{
    return !why_ends_here(o, j);
}

bool jobs_out_may_rest(const struct jobs_out *o, struct job *j)
{
    return goes(o, j) || job_is_in_step(j);
}

static void tell_of_kept(const struct jobs_out *o)
{
    g_autoptr(GPtrArray) all = graph_nodes(o->vm->graph);
    for (guint i = 0; i < all->len; i++) {
        struct cbw *c = kept_of(g_ptr_array_index(all, i));
        CLEANUP_FREE char *id = c ? kept_id(c) : NULL;
        const char *why = c ? g_hash_table_lookup(o->fates, id) : NULL;
        if (why && *why) {
            log_warn(
                o->vm->log,
                "migration: what node '%s' keeps of its disk does not move, and begins anew at the destination: %s",
                c->node->name, why);
        }
    }
}

static void tell(const struct jobs_out *o)
{
    GPtrArray *jobs = jobs_list(o->vm->jobs);
    for (guint i = 0; i < jobs->len; i++) {
        struct job *j = g_ptr_array_index(jobs, i);
        const char *why = j->id && !j->over ? why_ends_here(o, j) : NULL;
        if (why) {
            log_info(o->vm->log, "migration: job '%s' (%s) %s: %s", j->id, j->drv->type,
                     jobs_out_may_rest(o, j) ? "is ready, and stays here" : "ends before the machine goes", why);
        }
    }
    tell_of_kept(o);
}

static bool has_word(struct json_object *list, const char *word)
{
    bool has = false;
    for (size_t i = 0; json_object_is_type(list, json_type_array) && i < json_object_array_length(list); i++) {
        struct json_object *x = json_object_array_get_idx(list, i);
        has |= json_object_is_type(x, json_type_string) && !strcmp(json_object_get_string(x), word);
    }
    return has;
}

static bool json_array_filled(struct json_object *o)
{
    return json_object_is_type(o, json_type_array) && json_object_array_length(o);
}

static void keep_readers(struct jobs_out *o)
{
    GPtrArray *jobs = jobs_list(o->vm->jobs);
    for (guint i = 0; i < jobs->len; i++) {
        const struct job *j = g_ptr_array_index(jobs, i);
        CLEANUP_JSON struct json_object *values = values_of(o, j);
        if (values && reads_what_stays(o, values)) {
            g_hash_table_insert(o->fates, g_strdup(j->id), g_strdup(READS_WHAT_STAYS));
        }
    }
}

/* Some bitmaps do not come: whose, the text alone says. */
static void keep_users_of_bitmaps(struct jobs_out *o)
{
    GPtrArray *jobs = jobs_list(o->vm->jobs);
    for (guint i = 0; i < jobs->len; i++) {
        const struct job *j = g_ptr_array_index(jobs, i);
        CLEANUP_JSON struct json_object *values = values_of(o, j);
        if (values && json_get_str(values, "bitmap")) {
            g_hash_table_insert(o->fates, g_strdup(j->id), g_strdup("the destination leaves bitmaps out"));
        }
    }
}

void jobs_out_answer(struct jobs_out *o, struct json_object *features)
{
    struct json_object *left = json_object_object_get(features, "jobs-left-out");
    for (size_t i = 0; json_object_is_type(left, json_type_array) && i < json_object_array_length(left); i++) {
        struct json_object *x = json_object_array_get_idx(left, i);
        const char *id = json_object_is_type(x, json_type_object) ? json_get_str(x, "id") : NULL;
        const char *why = id ? json_get_str(x, "why") : NULL;
        if (id && g_hash_table_contains(o->fates, id)) {
            g_hash_table_insert(o->fates, g_strdup(id), g_strdup(why && *why ? why : "the destination cannot have it"));
        }
    }
    if (json_array_filled(json_object_object_get(features, "dirty-bitmaps-left-out"))) {
        keep_users_of_bitmaps(o);
    }
    keep_readers(o);
    o->groups = has_word(json_object_object_get(features, "jobs-know"), JOBS_GROUPS);
    o->known = true;
    tell(o);
}

/* --- telling of them ---------------------------------------------------------------------------------------------- */

static void add_bits(struct json_object *to, const char *key, const struct bitmap *bits, uint32_t granularity)
{
    struct json_object *x = json_object_new_object();
    uint64_t words = div_round_up(bitmap_bits(bits), 64);
    CLEANUP_FREE uint8_t *le = g_malloc(words * 8 + 1);
    for (uint64_t i = 0; i < words; i++) {
        store_le64(le + 8 * i, bitmap_word(bits, i));
    }
    CLEANUP_FREE char *text = g_base64_encode(le, words * 8);
    json_object_object_add(x, "granularity", json_object_new_uint64(granularity));
    json_object_object_add(x, "bits", json_object_new_uint64(bitmap_bits(bits)));
    json_object_object_add(x, "words", json_object_new_string(text));
    json_object_object_add(to, key, x);
}

static struct json_object *describe(struct job *j, struct json_object *values)
{
    struct json_object *x = json_object_new_object();
    json_object_object_add(x, "id", json_object_new_string(j->id));
    json_object_object_add(x, "values", json_object_get(values));
    json_object_object_add(x, "done", json_object_new_uint64(j->progress_done));
    struct job_left l = job_left(j);
    if (l.granularity) {
        add_bits(x, "left", l.bits, l.granularity);
    }
    if (l.since) {
        add_bits(x, "since", l.since, l.since_granularity);
    }
    if (l.told) {
        json_object_object_add(x, "told", json_object_new_string(jobs_told_names[l.told]));
    }
    add_group(x, j);
    return x;
}

static void tell_kept(struct jobs_out *o, struct json_object *list)
{
    g_autoptr(GPtrArray) all = graph_nodes(o->vm->graph);
    for (guint i = 0; i < all->len; i++) {
        struct cbw *c = kept_of(g_ptr_array_index(all, i));
        if (c && o->known && kept_goes(o, c)) {
            CLEANUP_FREE char *id = kept_id(c);
            struct json_object *x = json_object_new_object();
            json_object_object_add(x, "id", json_object_new_string(id));
            json_object_object_add(x, "values", kept_values(c));
            add_bits(x, "left", c->todo, c->granularity);
            if (c->access) {
                add_bits(x, "since", c->access, c->granularity);
            }
            json_object_array_add(list, x);
        }
    }
}

int jobs_out_write(struct jobs_out *o, struct state_writer *w)
{
    CLEANUP_JSON struct json_object *list = json_object_new_array();
    GPtrArray *jobs = jobs_list(o->vm->jobs);
    tell_kept(o, list);
    for (guint i = jobs->len; i-- > 0;) {
        struct job *j = g_ptr_array_index(jobs, i);
        CLEANUP_JSON struct json_object *values = j->rests && goes(o, j) ? values_of(o, j) : NULL;
        if (values) {
            j->moves = true;
            json_object_array_add(list, describe(j, values));
        }
    }
    if (!json_object_array_length(list)) {
        return 0;
    }
    const char *text = json_object_to_json_string_ext(list, JSON_C_TO_STRING_PLAIN);
    return state_write_chunk(w, STATE_JOBS, text, strlen(text));
}

static void add_fate(struct json_object **list, const struct job *j, const char *fate, const char *why)
{
    struct json_object *x = json_object_new_object();
    json_object_object_add(x, "id", json_object_new_string(j->id));
    json_object_object_add(x, "type", json_object_new_string(j->drv->type));
    json_object_object_add(x, "fate", json_object_new_string(fate));
    if (why) {
        json_object_object_add(x, "reason", json_object_new_string(why));
    }
    *list = *list ? *list : json_object_new_array();
    json_object_array_add(*list, x);
}

struct json_object *jobs_out_describe(const struct jobs_out *o)
{
    struct json_object *list = NULL;
    GPtrArray *jobs = jobs_list(o->vm->jobs);
    for (guint i = jobs->len; o->known && i-- > 0;) {
        struct job *j = g_ptr_array_index(jobs, i);
        if (!j->id || j->over) {
            continue;
        }
        const char *why = why_ends_here(o, j), *fate = !why ? "moves" : job_is_in_step(j) ? "stays" : "ends-first";
        add_fate(&list, j, fate, why);
    }
    return list;
}

void jobs_out_leave(struct jobs *js, struct json_object **went)
{
    GPtrArray *all = jobs_list(js);
    for (guint i = all->len; i-- > 0;) {
        const struct job *j = g_ptr_array_index(all, i);
        if (j->moves) {
            add_fate(went, j, "moves", NULL);
        }
    }
    jobs_moved(js);
}
