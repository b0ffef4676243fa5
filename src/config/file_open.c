/* SPDX-License-Identifier: BSD-2-Clause */
/* Opening and closing a state file, reading it, and what tools do with one. */
#include "config/file.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "config/file_int.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { UNKNOWN_STEP = 100 };

/* A link leads to the file that is replaced, not to one that replaces the link. */
static char *resolve(const char *path, struct err *e)
{
    char *real = realpath(path, NULL);
    struct stat st;
    if (!real && errno == ENOENT && lstat(path, &st) < 0) {
        CLEANUP_FREE char *folder = g_path_get_dirname(path);
        CLEANUP_FREE char *name = g_path_get_basename(path);
        CLEANUP_FREE char *in = realpath(folder, NULL);
        if (in) {
            return g_build_filename(in, name, NULL);
        }
        err_set_errno(e, errno, "could not open state file '%s': its folder '%s'", path, folder);
        return NULL;
    }
    if (!real) {
        err_set_errno(e, errno, "could not open state file '%s'", path);
        return NULL;
    }
    char *copy = g_strdup(real);
    free(real);
    return copy;
}

static int read_doc(struct config_file *f, const char *suffix, bool trust, const struct config_kind *kinds,
                    struct config_doc **out, struct err *e)
{
    CLEANUP_FREE char *name = g_strconcat(f->name, suffix, NULL);
    CLEANUP_FREE char *shown = g_strconcat(f->shown, suffix, NULL);
    GByteArray *bytes = g_byte_array_new();
    int rc = f->fs->read(f->dir, name, CONFIG_MOST_BYTES, bytes);
    if (rc == -EFBIG) {
        err_set(e, EFBIG, "state file '%s' has more than %d bytes", shown, CONFIG_MOST_BYTES);
    } else if (rc == -EINVAL) {
        err_set(e, EINVAL, "state file '%s' is not a regular file", shown);
    } else if (rc < 0) {
        err_set_errno(e, -rc, "could not open state file '%s'", shown);
    } else {
        rc = config_parse(shown, bytes, trust, out, e);
    }
    if (rc == 0) {
        rc = config_check(shown, *out, kinds, e);
        if (rc < 0) {
            config_doc_free(*out);
            *out = NULL;
        }
    }
    if (rc == 0 && !*suffix && bytes->len) {
        f->was = g_string_new_len((char *)bytes->data, (gssize)bytes->len);
    }
    g_byte_array_free(bytes, TRUE);
    return rc;
}

/* The previous generation's number if it is whole; 0: it is not. */
static uint64_t previous(struct config_file *f)
{
    struct config_doc *d = NULL;
    uint64_t generation = read_doc(f, CONFIG_PREV, false, NULL, &d, NULL) == 0 ? d->generation : 0;
    config_doc_free(d);
    return generation;
}

/* Adds what there is to go back to. */
static int offer(struct config_file *f, struct err *e)
{
    uint64_t generation = previous(f);
    CLEANUP_FREE char *text = g_strdup(err_text(e));
    return generation ? err_set(e, e->code,
                                "%s. The previous generation, %" PRIu64
                                ", is whole: 'sterna-state config-restore %s' goes back to it",
                                text, generation, f->shown)
                      : err_set(e, e->code, "%s. There is no whole previous generation in '%s%s'", text, f->shown,
                                CONFIG_PREV);
}

/* Neither a crash nor this program removes or empties the file. */
static int check_missing(struct config_file *f, const char *what, struct err *e)
{
    uint64_t generation = previous(f);
    if (!generation) {
        return 0;
    }
    return err_set(e, ENOENT,
                   "state file '%s' is %s, but its previous generation, %" PRIu64
                   ", is there: 'sterna-state config-restore %s' goes back to it; to begin anew, remove '%s%s'",
                   f->shown, what, generation, f->shown, f->shown, CONFIG_PREV);
}

static int load(struct config_file *f, bool trust, const struct config_kind *kinds, struct err *e)
{
    int rc = read_doc(f, "", trust, kinds, &f->doc, e);
    if (rc == -ENOENT) {
        rc = check_missing(f, "not there", e);
        f->doc = config_doc_new(f->release);
    } else if (rc == 0 && !f->was) {
        rc = check_missing(f, "empty", e);
    } else if (rc == -EBADMSG) {
        rc = offer(f, e);
    }
    if (rc < 0) {
        return rc;
    }
    if (f->doc->edited && !f->doc->generation) {
        uint64_t before = previous(f);
        f->doc->generation = before ? before + 1 : 0;
    }
    f->number = f->doc->generation;
    f->in_place = f->was && !f->doc->edited;
    return 0;
}

/* What a person edited becomes a generation of its own. The one before stays the previous one. */
static int seal(struct config_file *f, struct err *e)
{
    if (!f->doc->edited) {
        return 0;
    }
    f->in_place = false;
    config_doc_stamp(f->doc, ++f->number, f->release);
    return f->snapshot ? 0 : config_file_write(f, f->doc, false, e);
}

static int attach(struct config_file *f, const char *path, const struct config_options *o, struct err *e)
{
    int rc = 0;
    f->path = o->fs ? g_strdup(path) : resolve(path, e);
    if (!f->path) {
        return -e->code;
    }
    CLEANUP_FREE char *folder = g_path_get_dirname(f->path);
    f->name = g_path_get_basename(f->path);
    f->shown = g_strdup(path);
    f->dir = f->fs->open(f->fs->opaque, folder, &rc);
    return f->dir ? 0 : err_set_errno(e, -rc, "could not open the folder of state file '%s'", path);
}

static int lock_file(struct config_file *f, struct err *e)
{
    CLEANUP_FREE char *folder = g_path_get_dirname(f->path);
    int rc = config_lock_take(&f->lock, f->path, f->snapshot, e);
    if (rc == 0 && !f->snapshot && access(folder, W_OK | X_OK) < 0) {
        rc = err_set_errno(e, errno, "state file '%s': its folder cannot be written to", f->shown);
    }
    return rc;
}

/* Who starts a machine can do so all the same. */
static int without(const struct config_file *f, struct err *e)
{
    CLEANUP_ERR struct err was = ERR_INIT;
    err_move(&was, e);
    return err_set(e, was.code, "%s%s", err_text(&was),
                   f->snapshot ? "" : "; snapshot=on runs the machine without keeping its changes");
}

static struct config_file *file_new(const struct config_options *o)
{
    struct config_file *f = g_new0(struct config_file, 1);
    f->release = g_strdup(o->release);
    f->snapshot = o->snapshot;
    f->log = o->log;
    f->loop = o->loop;
    f->fs = o->fs ? o->fs : &config_host_fs;
    f->lock.fd = -1;
    f->pending = g_ptr_array_new();
    return f;
}

int config_file_open(const struct config_options *o, struct config_file **out, struct err *e)
{
    CLEANUP_ERR struct err mine = ERR_INIT;
    struct err *to = e ? e : &mine;
    struct config_file *f = file_new(o);
    int rc = 0;
    if (o->path) {
        rc = attach(f, o->path, o, to);
        rc = rc < 0 || o->fs ? rc : lock_file(f, to);
        rc = rc == -EACCES || rc == -EROFS ? without(f, to) : rc;
        rc = rc < 0 ? rc : load(f, false, o->kinds, to);
        rc = rc < 0 ? rc : seal(f, to);
    } else {
        f->doc = config_doc_new(f->release);
    }
    if (rc < 0) {
        config_file_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

void config_file_close(struct config_file *f)
{
    if (!f) {
        return;
    }
    assert(!f->busy && !f->pending->len);
    if (f->dir) {
        f->fs->close(f->dir);
    }
    config_lock_drop(&f->lock);
    config_doc_free(f->doc);
    if (f->was) {
        g_string_free(f->was, TRUE);
    }
    g_ptr_array_free(f->pending, TRUE);
    g_free(f->shown);
    g_free(f->path);
    g_free(f->name);
    g_free(f->release);
    g_free(f);
}

/* --- reading -------------------------------------------------------------------------------------------------------
 */

uint64_t config_file_generation(const struct config_file *f)
{
    return f->doc->generation;
}

const char *config_file_path(const struct config_file *f)
{
    return f->path;
}

bool config_file_is_snapshot(const struct config_file *f)
{
    return f->snapshot;
}

bool config_file_is_edited(const struct config_file *f)
{
    return f->doc->edited;
}

const struct config_section *config_file_section(const struct config_file *f, unsigned i)
{
    return i < f->doc->sections->len ? &((struct config_text *)g_ptr_array_index(f->doc->sections, i))->pub : NULL;
}

const struct config_section *config_file_find(const struct config_file *f, const char *kind, const char *name)
{
    const struct config_text *t = config_doc_find(f->doc, kind, name, NULL);
    return t ? &t->pub : NULL;
}

int config_file_blame(const struct config_file *f, const struct config_section *s, struct err *e)
{
    const struct config_text *t = config_doc_find(f->doc, s->kind, s->name, NULL);
    return t ? config_text_blame(f->shown ? f->shown : "(no state file)", t, e) : -e->code;
}

struct json_object *config_file_json(const struct config_file *f)
{
    struct json_object *o = json_object_new_object();
    struct json_object *list = json_object_new_array();
    const char *release = config_doc_release(f->doc);
    json_object_object_add(o, "format", json_object_new_int(CONFIG_FORMAT));
    if (release) {
        json_object_object_add(o, "release", json_object_new_string(release));
    }
    json_object_object_add(o, "generation", json_object_new_int64((int64_t)f->doc->generation));
    json_object_object_add(o, "sections", list);
    for (guint i = 0; i < f->doc->sections->len; i++) {
        const struct config_text *t = g_ptr_array_index(f->doc->sections, i);
        struct json_object *s = json_object_new_object();
        json_object_object_add(s, "kind", json_object_new_string(t->kind));
        if (t->name) {
            json_object_object_add(s, "name", json_object_new_string(t->name));
        }
        json_object_object_add(s, "values", json_clone(t->pub.values));
        json_object_array_add(list, s);
    }
    return o;
}

/* --- tools ---------------------------------------------------------------------------------------------------------
 */

/* A file that must be there, and is not kept open. */
static int tool_open(const char *path, bool lock, struct config_file **out, struct err *e)
{
    const struct config_options o = {.path = path, .release = STERNA_RELEASE};
    struct config_file *f = file_new(&o);
    int rc = attach(f, path, &o, e);
    rc = rc < 0 || !lock ? rc : lock_file(f, e);
    if (rc < 0) {
        config_file_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

int config_file_read(const char *path, const struct config_kind *kinds, struct config_file **out, struct err *e)
{
    struct config_file *f;
    int rc = tool_open(path, false, &f, e);
    if (rc < 0) {
        return rc;
    }
    rc = read_doc(f, "", false, kinds, &f->doc, e);
    rc = rc == -EBADMSG ? offer(f, e) : rc;
    if (rc < 0) {
        config_file_close(f);
        return rc;
    }
    *out = f;
    return 0;
}

static void drop_was(struct config_file *f)
{
    if (f->was) {
        g_string_free(take(f->was), TRUE);
    }
}

int config_file_seal(const char *path, const struct config_kind *kinds, uint64_t *generation, struct err *e)
{
    struct config_file *f;
    int rc = tool_open(path, true, &f, e);
    if (rc < 0) {
        return rc;
    }
    CLEANUP_ERR struct err ignored = ERR_INIT;
    struct config_doc *whole = NULL;
    rc = read_doc(f, "", false, NULL, &whole, &ignored);
    bool trust = rc == -EBADMSG;
    config_doc_free(whole);
    drop_was(f);
    if (rc == -ENOENT) {
        err_move(e, &ignored);
    } else {
        rc = load(f, trust, kinds, e);
    }
    rc = rc < 0 ? rc : seal(f, e);
    if (rc == 0) {
        *generation = f->doc->generation;
    }
    config_file_close(f);
    return rc;
}

/* What is there is kept for whoever wants to know what happened to it. */
static int keep_refused(struct config_file *f, struct err *e)
{
    CLEANUP_FREE char *name = g_strconcat(f->name, CONFIG_REFUSED, NULL);
    GByteArray *bytes = g_byte_array_new();
    int rc = f->fs->read(f->dir, f->name, SIZE_MAX, bytes);
    int file = rc == 0 && bytes->len ? f->fs->create(f->dir, name, f->name) : -1;
    if (file >= 0) {
        rc = f->fs->write(f->dir, file, bytes->data, bytes->len);
        rc = rc < 0 ? rc : f->fs->sync(f->dir, file);
        f->fs->done(f->dir, file);
    } else if (rc == 0 && bytes->len) {
        rc = file;
    }
    g_byte_array_free(bytes, TRUE);
    return rc < 0 && rc != -ENOENT ? err_set_errno(e, -rc, "could not keep '%s' as '%s'", f->shown, name) : 0;
}

int config_file_restore(const char *path, uint64_t *generation, struct err *e)
{
    struct config_file *f;
    struct config_doc *now = NULL;
    int rc = tool_open(path, true, &f, e);
    if (rc < 0) {
        return rc;
    }
    rc = read_doc(f, CONFIG_PREV, false, NULL, &f->doc, e);
    rc = rc < 0 ? rc : keep_refused(f, e);
    if (rc == 0) {
        /* If the file's own number cannot be read, it is not far from the previous one's. */
        CLEANUP_ERR struct err ignored = ERR_INIT;
        f->number = f->doc->generation + UNKNOWN_STEP;
        if (read_doc(f, "", true, NULL, &now, &ignored) == 0 && now->generation) {
            f->number = MAX(now->generation, f->doc->generation);
        }
        config_doc_free(now);
        config_doc_stamp(f->doc, f->number + 1, f->release);
        rc = config_file_write(f, f->doc, false, e);
    }
    if (rc == 0) {
        *generation = f->doc->generation;
    }
    config_file_close(f);
    return rc;
}
