/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/target.h"

#include "base/nearest.h"
#include "cli/ctl/follow.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NBD_PORT = 10809 };

struct maker {
    struct ctl *c;
    const struct disk *d;
    const struct target_spec *s;
    struct target *t;
    const char *format;
};

static struct json_object *image_of(struct json_object *node)
{
    return ctl_get(node, "image");
}

static struct json_object *driver(const char *name)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "driver", json_object_new_string(name));
    return o;
}

static void set(struct json_object *o, const char *key, struct json_object *v)
{
    if (v) {
        json_object_object_add(o, key, v);
    }
}

/* --- making ------------------------------------------------------------------------------------------------------- */

/* Runs a job of blockdev-create to its end. Takes the options. */
static int create(struct maker *m, struct json_object *options, struct err *e)
{
    CLEANUP_JSON struct json_object *jobs = NULL, *owned = options;
    int rc = ctl_call(m->c, "query-jobs", &jobs, e, NULL);
    if (rc) {
        return rc;
    }
    CLEANUP_FREE char *job = disk_free_name(m->d, "create", jobs);
    rc = ctl_call(m->c, "blockdev-create", NULL, e, "job-id", ctl_new_str(job), "options", take(owned), NULL);
    if (rc) {
        return rc;
    }
    struct follow_spec f = {.job = job, .quiet = true};
    int status = follow_job(m->c, &f);
    return status ? err_set(e, status == CTL_LOST ? ENOTCONN : EIO, "'%s' could not be made", m->t->path) : 0;
}

/* A name that the machine has for an image, as seen from another folder. */
static char *absolute(struct maker *m, const char *name)
{
    if (g_path_is_absolute(name) || strchr(name, ':')) {
        return g_strdup(name);
    }
    CLEANUP_FREE char *folder = client_peer_folder(m->c->client);
    return folder ? g_canonicalize_filename(name, folder) : g_strdup(name);
}

static int name_backing(struct maker *m, struct json_object *o, struct err *e)
{
    struct json_object *image = image_of(m->d->image), *below = disk_child(m->d->nodes, m->d->image, "backing");
    if (m->s->backing == TARGET_ALONE) {
        return 0;
    }
    if (m->s->backing == TARGET_OVER_BACKING && !below) {
        return err_set(e, ENODATA, "disk '%s' has no backing image: --sync full copies it", m->d->name);
    }
    if (strcmp(m->format, "qcow2") != 0 && strcmp(m->format, "qed") != 0) {
        return err_set(e, EINVAL, "'%s': format '%s' has no backing images; give --format qcow2", m->s->name,
                       m->format);
    }
    struct json_object *of = m->s->backing == TARGET_OVER_BACKING ? image_of(below) : image;
    CLEANUP_FREE char *name = absolute(m, ctl_str(of, "filename"));
    set(o, "backing-file", ctl_new_str(name));
    set(o, "backing-fmt", ctl_new_str(ctl_str(of, "format")));
    return 0;
}

/* What a new image shall have like the disk's. */
static void imitate(struct maker *m, struct json_object *o)
{
    static const char *const same[] = {"lazy-refcounts", "extended-l2", "refcount-bits", "compression-type"};
    struct json_object *image = image_of(m->d->image), *more = ctl_get(ctl_get(image, "format-specific"), "data");
    if (strcmp(ctl_str(image, "format"), m->format) != 0) {
        return;
    }
    set(o, "cluster-size", json_object_get(ctl_get(image, "cluster-size")));
    if (!strcmp(m->format, "qcow2")) {
        bool old = !strcmp(ctl_str(more, "compat"), "0.10");
        set(o, "version", ctl_new_str(old ? "v2" : "v3"));
        for (unsigned i = 0; !old && i < G_N_ELEMENTS(same); i++) {
            set(o, same[i], json_object_get(ctl_get(more, same[i])));
        }
    }
}

static int make_image(struct maker *m, struct err *e)
{
    CLEANUP_JSON struct json_object *o = driver(m->format);
    set(o, "file", ctl_new_str(m->t->file_node));
    set(o, "size", json_object_get(ctl_get(image_of(m->d->image), "virtual-size")));
    int rc = name_backing(m, o, e);
    if (rc || !strcmp(m->format, "raw")) {
        return rc;
    }
    imitate(m, o);
    return create(m, take(o), e);
}

static int make_file(struct maker *m, struct err *e)
{
    struct json_object *o = driver("file");
    bool raw = !strcmp(m->format, "raw");
    set(o, "filename", ctl_new_str(m->t->path));
    set(o, "size", raw ? json_object_get(ctl_get(image_of(m->d->image), "virtual-size")) : ctl_new_int(0));
    int rc = create(m, o, e);
    m->t->made = !rc;
    return rc;
}

/* --- opening ------------------------------------------------------------------------------------------------------ */

static int add_node(struct maker *m, struct json_object *options, struct err *e)
{
    return client_call(m->c->client, "blockdev-add", options, NULL, e);
}

static bool is_uri(const char *name)
{
    return strstr(name, "://");
}

/* nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH: what the driver nbd calls its server and export. */
static int nbd_options(const char *text, struct json_object *o, struct err *e)
{
    g_autoptr(GUri) uri = g_uri_parse(text, G_URI_FLAGS_NONE, NULL);
    const char *scheme = uri ? g_uri_get_scheme(uri) : "", *path = uri ? g_uri_get_path(uri) : "";
    const char *host = uri ? g_uri_get_host(uri) : NULL;
    bool local = !strcmp(scheme, "nbd+unix");
    g_autoptr(GHashTable) more =
        uri && g_uri_get_query(uri) ? g_uri_parse_params(g_uri_get_query(uri), -1, "&", G_URI_PARAMS_NONE, NULL) : NULL;
    const char *at = more ? g_hash_table_lookup(more, "socket") : NULL;
    if ((!local && strcmp(scheme, "nbd") != 0) || (local ? !at : !host || !host[0])) {
        return err_set(e, EINVAL,
                       "'%s' is neither nbd://HOST/EXPORT nor nbd+unix:///EXPORT?socket=PATH; for anything else add a "
                       "node by 'sternactl qmp blockdev-add', and name it: node:NAME",
                       text);
    }
    struct json_object *server = json_object_new_object();
    CLEANUP_FREE char *port = g_strdup_printf("%d", uri && g_uri_get_port(uri) > 0 ? g_uri_get_port(uri) : NBD_PORT);
    set(server, "type", ctl_new_str(local ? "unix" : "inet"));
    set(server, "path", ctl_new_str(local ? at : NULL));
    set(server, "host", ctl_new_str(local ? NULL : host));
    set(server, "port", ctl_new_str(local ? NULL : port));
    set(o, "server", server);
    set(o, "export", ctl_new_str(path[0] == '/' ? path + 1 : path));
    return 0;
}

static int open_export(struct maker *m, struct err *e)
{
    CLEANUP_JSON struct json_object *o = driver("nbd");
    set(o, "node-name", ctl_new_str(m->t->file_node));
    set(o, "discard", ctl_new_str("unmap"));
    int rc = nbd_options(m->t->path, o, e);
    return rc ? rc : add_node(m, take(o), e);
}

static int open_file(struct maker *m, struct err *e)
{
    struct stat st;
    bool device = client_is_local(m->c->client) && !stat(m->t->path, &st) && S_ISBLK(st.st_mode);
    struct json_object *o = driver(device ? "host_device" : "file");
    set(o, "node-name", ctl_new_str(m->t->file_node));
    set(o, "filename", ctl_new_str(m->t->path));
    set(o, "discard", ctl_new_str("unmap"));
    return add_node(m, o, e);
}

static int open_image(struct maker *m, struct err *e)
{
    struct json_object *o = driver(m->format), *below = disk_child(m->d->nodes, m->d->image, "backing");
    set(o, "node-name", ctl_new_str(m->t->node));
    set(o, "file", ctl_new_str(m->t->file_node));
    set(o, "discard", ctl_new_str("unmap"));
    if (m->s->backing == TARGET_OVERLAY) {
        json_object_object_add(o, "backing", NULL);
    } else if (m->s->backing != TARGET_ALONE) {
        set(o, "backing", ctl_new_str(ctl_str(below, "node-name")));
    }
    return add_node(m, o, e);
}

/* The format of a new image, or of one that is there. */
static int choose_format(struct maker *m, struct err *e)
{
    static const char *const can[] = {"raw", "qcow2", "qed", NULL};
    struct json_object *image = image_of(m->d->image);
    m->format = m->s->format ? m->s->format : is_uri(m->s->name) ? "raw" : ctl_str(image, "format");
    if (ctl_bool(image, "encrypted")) {
        return err_set(e, ENOTSUP,
                       "disk \'%s\' is encrypted; add a node for the target with its key by 'sternactl qmp "
                       "blockdev-add', and name it: "
                       "node:NAME",
                       m->d->name);
    }
    if (g_strv_contains(can, m->format)) {
        return 0;
    }
    if (!m->s->format) { /* the disk is of a kind that is not made as a file */
        m->format = m->s->backing == TARGET_ALONE ? "raw" : "qcow2";
        return 0;
    }
    err_set(e, EINVAL, "--format '%s' is none of raw, qcow2, qed", m->format);
    return err_suggest(e, m->format, can);
}

static int open_or_make(struct maker *m, struct err *e)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    if (is_uri(m->t->path)) {
        int rc = open_export(m, e);
        return rc ? rc : open_image(m, e);
    }
    int rc = open_file(m, &why);
    if (!rc && !m->s->format) {
        return err_set(e, EEXIST, "'%s' exists; give its format with --format to write over it, or another name",
                       m->t->path);
    }
    if (!rc) {
        return open_image(m, e);
    }
    if (!strstr(err_text(&why), g_strerror(ENOENT))) {
        err_move(e, &why);
        return rc;
    }
    if (m->s->must_exist) {
        return err_set(
            e, ENOENT,
            "there is no '%s': --sync none copies only what is written from now on, so the target must hold the rest",
            m->t->path);
    }
    rc = make_file(m, e);
    rc = rc ? rc : open_file(m, e);
    rc = rc ? rc : make_image(m, e);
    return rc ? rc : open_image(m, e);
}

static int use_node(struct maker *m, const char *name, struct err *e)
{
    m->t->node = g_strdup(name);
    return disk_node(m->d->nodes, name)
               ? 0
               : err_set(e, ENOENT, "there is no node '%s'; 'sternactl qmp query-named-block-nodes' lists them", name);
}

int target_open(struct ctl *c, const struct disk *d, const struct target_spec *s, struct target *t, struct err *e)
{
    struct maker m = {.c = c, .d = d, .s = s, .t = t};
    *t = (struct target){0};
    if (g_str_has_prefix(s->name, "node:")) {
        return use_node(&m, s->name + strlen("node:"), e);
    }
    int rc = choose_format(&m, e);
    if (rc) {
        return rc;
    }
    t->path =
        client_is_local(c->client) && !is_uri(s->name) ? g_canonicalize_filename(s->name, NULL) : g_strdup(s->name);
    t->node = g_strdup(s->node);
    t->file_node = g_strdup_printf("%s-file", t->node);
    rc = open_or_make(&m, e);
    if (rc) {
        target_undo(c, t);
    }
    return rc;
}

/* Errors mean that there is no such node, that somebody uses it, or that the connection broke. */
static void close_nodes(struct ctl *c, const char *node, const char *file)
{
    CLEANUP_ERR struct err ignored = ERR_INIT;
    ctl_call(c, "blockdev-del", NULL, &ignored, "node-name", ctl_new_str(node), NULL);
    ctl_call(c, "blockdev-del", NULL, &ignored, "node-name", ctl_new_str(file), NULL);
}

void target_undo(struct ctl *c, struct target *t)
{
    if (t->file_node) {
        close_nodes(c, t->node, t->file_node);
    }
    if (t->made && client_is_local(c->client)) {
        unlink(t->path);
    }
}

void target_release(struct ctl *c, const char *job)
{
    CLEANUP_ERR struct err ignored = ERR_INIT;
    CLEANUP_JSON struct json_object *nodes = NULL;
    CLEANUP_FREE char *file = g_strdup_printf("%s-file", job);
    if (ctl_call(c, "query-named-block-nodes", &nodes, &ignored, NULL)) {
        return;
    }
    struct json_object *below = disk_child(nodes, disk_node(nodes, job), "file");
    if (below && !strcmp(ctl_str(below, "node-name"), file)) {
        close_nodes(c, job, file);
    }
}

void target_finish(struct target *t)
{
    g_free(t->node);
    g_free(t->file_node);
    g_free(t->path);
    *t = (struct target){0};
}
