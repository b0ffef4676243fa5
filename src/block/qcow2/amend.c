/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Options of an image that exists. Everything that can be refused is refused before anything changes; then one thing
 * changes after the other, each whole or not at all whenever a crash comes. Texts are QEMU's.
 */
#include "block/qcow2/qcow2.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"

#include <string.h>

const struct create_option qcow2_amend_options[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"copy_on_read", "bool (on/off)", "Ask whoever opens the image to copy what is read from the base image", true},
    {"data_file", "str", "File name of an external data file"},
    {"data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image"},
    {"encrypt.iter-time", "num", "Time to spend in PBKDF in milliseconds"},
    {"encrypt.keyslot", "num", "Select a single keyslot to modify explicitly"},
    {"encrypt.new-secret", "str", "New secret to set in the matching keyslots. Empty string to erase"},
    {"encrypt.old-secret", "str", "Select all keyslots that match this password"},
    {"encrypt.state", "str", "Select new state of affected keyslots (active/inactive)"},
    {"lazy_refcounts", "bool (on/off)", "Postpone refcount updates"},
    {"refcount_bits", "num", "Width of a reference count entry in bits"},
    {"size", "size", "Virtual disk size"},
    {NULL, NULL, NULL},
};

struct amend {
    struct qcow2 *s;
    struct json_object *encrypt; /* NULL: not given; so are the others */
    const char *compat, *data_file, *backing_file, *backing_fmt;
    int version;
    int64_t refcount_bits;
    bool data_raw, lazy, hint, force;
    uint64_t size; /* 0: stays */
    struct q_steps steps;
};

void steps_report(const struct q_steps *p, uint64_t done, uint64_t all)
{
    enum { UNIT = 10000 };
    if (p && p->to && all) {
        uint64_t part = (uint64_t)((double)done / (double)all * UNIT);
        p->to->fn(p->to->opaque, (uint64_t)p->done * UNIT + min_u64(part, UNIT), (uint64_t)p->all * UNIT);
    }
}

/* --- what is asked for -------------------------------------------------------------------------------------------- */

static int read_options(struct amend *a, struct json_object *o, struct err *e)
{
    const struct qcow2 *s = a->s;
    struct jread r = jread_init(o, NULL, e);
    a->encrypt = jread_any(&r, "encrypt");
    a->size = jread_size_or(&r, "size", 0);
    a->compat = jread_str_or(&r, "compat", NULL);
    a->backing_file = jread_str_or(&r, "backing-file", NULL);
    a->backing_fmt = jread_str_or(&r, "backing-fmt", NULL);
    a->data_file = jread_str_or(&r, "data-file", NULL);
    a->data_raw = jread_bool_or(&r, "data-file-raw", s->data_raw);
    a->lazy = jread_bool_or(&r, "lazy-refcounts", s->lazy);
    a->hint = jread_bool_or(&r, "copy-on-read", s->h.compat & COMPAT_COPY_ON_READ);
    a->refcount_bits = jread_int_or(&r, "refcount-bits", 1 << s->h.refcount_order);
    return jread_end(&r);
}

static int check_encryption(const struct qcow2 *s, struct json_object *o, struct err *e)
{
    if (o && s->h.crypt_method == CRYPT_NONE) {
        return err_set(e, EINVAL, "Can't amend encryption options - encryption not present");
    }
    if (o && s->h.crypt_method != CRYPT_LUKS) {
        return err_set(e, ENOTSUP, "Only LUKS encryption options can be amended");
    }
    return o && !json_object_is_type(o, json_type_object)
               ? err_set(e, EINVAL, "Invalid parameter type for 'encrypt', expected: object")
               : 0;
}

static int read_version(struct amend *a, struct err *e)
{
    const char *t = a->compat;
    a->version = (int)a->s->h.version;
    if (!t) {
        return 0;
    }
    a->version = !strcmp(t, "0.10") || !strcmp(t, "v2") ? 2 : !strcmp(t, "1.1") || !strcmp(t, "v3") ? 3 : 0;
    return a->version ? 0 : err_set(e, EINVAL, "Unknown compatibility level %s", t);
}

/* Each by itself, in QEMU's order. */
static int check_values(struct amend *a, struct err *e)
{
    const struct qcow2 *s = a->s;
    int rc = check_encryption(s, a->encrypt, e);
    rc = rc < 0 ? rc : read_version(a, e);
    if (rc < 0) {
        return rc;
    }
    if (a->data_file && !s->has_data_file) {
        return err_set(e, EINVAL, "data-file can only be set for images that use an external data file");
    }
    if (a->data_raw && !s->data_raw) {
        return err_set(e, EINVAL, "data-file-raw cannot be set on existing images");
    }
    if (a->refcount_bits < 1 || a->refcount_bits > 64 || !is_pow2((uint64_t)a->refcount_bits)) {
        return err_set(e, EINVAL, "Refcount width must be a power of two and may not exceed 64 bits");
    }
    return 0;
}

static unsigned order_of(const struct amend *a)
{
    return log2_floor((uint64_t)a->refcount_bits);
}

static bool same_backing(const struct amend *a)
{
    const struct node *n = a->s->n;
    return (!a->backing_file && !a->backing_fmt) ||
           (!g_strcmp0(a->backing_file, n->backing_filename) && !g_strcmp0(a->backing_fmt, n->backing_format));
}

/* What they mean for this image, in the order in which QEMU comes to it. */
static int check_change(struct amend *a, struct err *e)
{
    struct qcow2 *s = a->s;
    if (order_of(a) != s->h.refcount_order && a->version < 3 && a->refcount_bits != 16) {
        return err_set(e, EINVAL,
                       "Refcount widths other than 16 bits require compatibility level 1.1 or above (use compat=1.1 or "
                       "greater)");
    }
    if (!same_backing(a)) {
        return err_set(e, EINVAL, "Cannot amend the backing file");
    }
    if (a->lazy && !s->lazy && a->version < 3) {
        return err_set(e, EINVAL,
                       "Lazy refcounts only supported with compatibility level 1.1 and above (use compat=1.1 or "
                       "greater)");
    }
    if (a->hint && !(s->h.compat & COMPAT_COPY_ON_READ) && a->version < 3) {
        return err_set(e, EINVAL,
                       "The copy-on-read hint is only supported with compatibility level 1.1 and above (use compat=1.1 "
                       "or greater)");
    }
    if (a->size > INT64_MAX) {
        return err_set(e, EINVAL, "Image size cannot be negative");
    }
    int rc = a->size ? qcow2_can_resize(s, a->size, MAX(a->version, (int)s->h.version), e) : 0;
    if (rc == 0 && a->version < (int)s->h.version) {
        rc = qcow2_can_downgrade(s, a->size ? a->size : s->h.size, order_of(a), e);
    }
    return rc;
}

/* --- doing it ----------------------------------------------------------------------------------------------------- */

static int name_data_file(struct amend *a, struct err *e)
{
    struct qcow2 *s = a->s;
    bool renamed = a->data_file && g_strcmp0(*a->data_file ? a->data_file : NULL, s->data_filename);
    if (!renamed && a->data_raw == s->data_raw) {
        return 0;
    }
    char *old = s->data_filename, *name = !renamed ? g_strdup(old) : *a->data_file ? g_strdup(a->data_file) : NULL;
    uint64_t autoclear = s->h.autoclear;
    s->data_filename = name;
    s->h.autoclear &= a->data_raw ? ~UINT64_C(0) : ~(uint64_t)AUTOCLEAR_RAW;
    int rc = qcow2_writeback(s, true);
    rc = rc < 0 ? rc : header_write(s);
    if (rc < 0) {
        s->data_filename = old;
        s->h.autoclear = autoclear;
        g_free(name);
        return err_set_errno(e, -rc, "Failed to update the image header");
    }
    g_free(old);
    s->data_raw = a->data_raw;
    return 0;
}

/* Lazy refcounts turned off are true from now on. */
static int set_compatible(struct amend *a, struct err *e)
{
    struct qcow2 *s = a->s;
    uint64_t old = s->h.compat, lazy = a->lazy ? COMPAT_LAZY : 0, hint = a->hint ? COMPAT_COPY_ON_READ : 0;
    if (a->lazy == s->lazy && hint == (old & COMPAT_COPY_ON_READ)) {
        return 0;
    }
    int rc = a->lazy == s->lazy ? 0 : qcow2_settle(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to make the image clean");
    }
    lazy = a->lazy == s->lazy ? old & COMPAT_LAZY : lazy; /* this opening's own choice is not the image's */
    s->h.compat = (old & ~(COMPAT_LAZY | COMPAT_COPY_ON_READ)) | lazy | hint;
    rc = header_write(s);
    if (rc < 0) {
        s->h.compat = old;
        return err_set_errno(e, -rc, "Failed to update the image header");
    }
    s->lazy = a->lazy;
    return 0;
}

static int resize(struct amend *a, struct err *e)
{
    struct edge *ed;
    if (!a->size || a->size == a->s->h.size) {
        return 0;
    }
    int rc = edge_open(a->s->n, &(struct edge_spec){"amend", PERM_RESIZE, PERM_ALL}, &ed, e);
    if (rc == 0) {
        rc = edge_truncate(ed, a->size, true, PREALLOC_OFF, e);
        edge_close(ed);
    }
    return rc;
}

static void step_done(struct amend *a)
{
    a->steps.done++;
    steps_report(&a->steps, 0, 1);
}

/* Up first and down last: what is asked for may need version 3, or be what keeps the image from version 2. */
static int change(struct amend *a, struct err *e)
{
    struct qcow2 *s = a->s;
    int rc = 0, old = (int)s->h.version;
    bool width = order_of(a) != s->h.refcount_order;
    a->steps.all = (a->version != old) + width + (a->encrypt != NULL);
    if (a->version > old) {
        rc = qcow2_upgrade(s, &a->steps, e);
        step_done(a);
    }
    if (rc == 0 && a->encrypt) {
        rc = qcow2_crypt_amend(s, a->encrypt, a->force, e);
        step_done(a);
    }
    if (rc == 0 && width) {
        rc = refcounts_change_width(s, order_of(a), &a->steps, e);
        step_done(a);
    }
    rc = rc < 0 ? rc : name_data_file(a, e);
    rc = rc < 0 ? rc : set_compatible(a, e);
    rc = rc < 0 ? rc : resize(a, e);
    if (rc == 0 && a->version < old) {
        rc = qcow2_downgrade(s, &a->steps, e);
        step_done(a);
    }
    return rc;
}

int qcow2_amend(struct node *n, struct json_object *opts, bool force, const struct amend_progress *progress,
                struct err *e)
{
    struct qcow2 *s = n->priv;
    struct amend a = {.s = s, .force = force, .steps = {.to = progress}};
    if (n->read_only || s->snapshots_unread) {
        return err_set(e, EACCES, "Image '%s' is %s", n->filename,
                       n->read_only ? "read-only" : "open to be checked: its snapshots are not known");
    }
    if (s->making) {
        return err_set(e, EBUSY, "Image '%s': a snapshot of it is being made", n->filename);
    }
    CLEANUP_JSON struct json_object *o = qcow2_normalise(opts, e);
    int rc = o ? read_options(&a, o, e) : -EINVAL;
    rc = rc < 0 ? rc : check_values(&a, e);
    rc = rc < 0 ? rc : check_change(&a, e);
    rc = rc < 0 ? rc : change(&a, e);
    n->write_gen++;
    return rc;
}
