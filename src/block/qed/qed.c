/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"
#include "block/reopen.h"

#include <string.h>

enum { SLICE_BYTES = 16384, CACHE_SLICES = 1024 };

static int qed_probe(const uint8_t *buf, size_t len, const char *filename, struct err *e)
{
    return len >= QED_HEADER_BYTES && load_le32(buf) == QED_MAGIC ? PROBE_YES : PROBE_NO;
}

/* --- opening and closing ------------------------------------------------------------------------------------------ */

/* Of its own accord: asks for the flush that settles (qed_flush), and looks at nothing afterwards. */
static void settle_co(void *arg)
{
    struct node *n = arg;
    struct qed *s = n->priv;
    s->settle_due = true;
    n->write_gen++;
    node_flush(n);
}

static void settle_time(void *opaque)
{
    struct qed *s = opaque;
    struct node *n = s->n;
    if (n->quiesced || n->inactive) {
        qed_settle_later(s);
    } else if (!n->closing) {
        co_start(graph_loop(n->graph), settle_co, n);
    }
}

static void finish(struct qed *s)
{
    if (s->settle_timer.loop) {
        timer_cancel(&s->settle_timer);
    }
    qed_cache_finish(&s->cache);
    bitmap_destroy(take(s->l1_dirty));
    g_clear_pointer(&s->l1, g_free);
    if (s->lost) {
        g_array_free(take(s->lost), TRUE);
    }
}

static int read_header(struct qed *s, struct err *e)
{
    uint8_t buf[QED_HEADER_BYTES];
    int rc = qed_file_read_buf(s->file, 0, sizeof(buf), buf);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to read QED header");
    }
    rc = qed_header_parse(&s->h, buf, edge_size(s->file), e);
    if (rc < 0) {
        return rc;
    }
    s->cluster_size = s->h.cluster_size;
    s->cluster_bits = log2_floor(s->cluster_size);
    s->table_bytes = s->cluster_size * s->h.table_size;
    s->entry_bits = log2_floor(s->table_bytes) - 3;
    s->slice_bits = log2_floor(min_u64(s->table_bytes, SLICE_BYTES)) - 3;
    return qed_header_read_backing(s, e);
}

/* Features that others left are cleared; what a crash left is put right. */
static int prepare_writing(struct qed *s, struct err *e)
{
    int rc = 0;
    if (s->h.autoclear) {
        s->h.autoclear = 0;
        rc = qed_header_write(s, &s->h);
        rc = rc < 0 ? rc : edge_flush(s->file);
    }
    if (rc == 0 && (s->h.features & QED_NEED_CHECK) && !s->for_check) {
        rc = qed_recover(s);
        return rc < 0 ? err_set_errno(e, -rc, "Could not repair dirty image '%s'", s->n->filename) : 0;
    }
    return rc < 0 ? err_set_errno(e, -rc, "Could not write the QED header of '%s'", s->n->filename) : 0;
}

/* Header and L1 table, and what follows from them. */
static int read_image(struct qed *s, struct err *e)
{
    struct node *n = s->n;
    int rc = read_header(s, e);
    if (rc < 0) {
        return rc;
    }
    qed_cache_init(&s->cache, s->file, UINT32_C(8) << s->slice_bits, CACHE_SLICES);
    rc = qed_load_l1(s, qed_l1_entries(s, s->h.image_size));
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not read the L1 table of '%s'", n->filename);
    }
    s->end = round_up(edge_size(s->file), s->cluster_size);
    n->limits.request_align = 1;
    n->limits.mem_align = s->file->child->limits.mem_align;
    n->limits.zero_align = n->limits.opt_transfer = s->h.cluster_size;
    node_set_size(n, s->h.image_size);
    return 0;
}

static int open_inner(struct qed *s, struct json_object *options, struct err *e)
{
    struct node *n = s->n;
    struct jread r = jread_init(options, NULL, e);
    s->for_check = jread_bool_or(&r, "for-check", false);
    unsigned perm = PERM_READ | PERM_WRITE | PERM_RESIZE; /* of a read-only node the core takes only the first */
    int rc = jread_end_lax(&r);
    rc = rc < 0
             ? rc
             : node_open_child(n, options, &(struct edge_spec){"file", perm, PERM_READ | PERM_WRITE_SAME}, &s->file, e);
    if (rc < 0) {
        return rc;
    }
    if (!*n->filename) {
        g_free(n->filename);
        n->filename = g_strdup(s->file->child->filename);
    }
    rc = read_image(s, e);
    return rc < 0 || n->read_only || n->inactive ? rc : prepare_writing(s, e);
}

static void init(struct qed *s, struct node *n)
{
    s->n = n;
    g_queue_init(&s->flights);
    s->lost = g_array_new(FALSE, FALSE, sizeof(struct qed_run_of));
    timer_init(&s->settle_timer, graph_loop(n->graph), settle_time, s);
}

static int qed_open(struct node *n, struct json_object *options, struct err *e)
{
    struct qed *s = n->priv;
    init(s, n);
    int rc = open_inner(s, options, e);
    if (rc < 0) {
        finish(s);
    }
    return rc;
}

static void qed_close(struct node *n)
{
    struct qed *s = n->priv;
    bool changed = s->h.features & QED_NEED_CHECK || s->cache.dirty.head || edge_size(s->file) > s->end;
    int rc = n->read_only || n->inactive || s->for_check || !changed ? 0 : qed_settle(s);
    if (rc < 0) {
        log_error(graph_log(n->graph), "Could not write metadata of image '%s' when closing it: %s", n->filename,
                  strerror(-rc));
    }
    finish(s);
}

/* --- other programs' turn to use the image ------------------------------------------------------------------------ */

static int qed_inactivate(struct node *n, struct err *e)
{
    struct qed *s = n->priv;
    int rc = qed_settle(s);
    if (s->settle_timer.loop) {
        timer_cancel(&s->settle_timer);
        timer_init(&s->settle_timer, graph_loop(n->graph), settle_time, s);
    }
    return rc < 0 ? err_set_errno(e, -rc, "Could not write metadata of image '%s'", n->filename) : 0;
}

static int qed_read_again(struct node *n, struct err *e)
{
    struct qed *s = n->priv;
    CLEANUP_FREE char *backing = take(n->backing_filename), *format = take(n->backing_format);
    timer_cancel(&s->settle_timer);
    CLEANUP_FREE struct qed *old = g_memdup2(s, sizeof(*s));
    *s = (struct qed){.file = old->file, .for_check = old->for_check};
    init(s, n);
    int rc = read_image(s, e);
    finish(rc < 0 ? s : old);
    if (rc < 0) {
        *s = *old;
        g_free(n->backing_filename);
        g_free(n->backing_format);
        n->backing_filename = take(backing);
        n->backing_format = take(format);
    }
    return rc;
}

static int qed_activate(struct node *n, struct err *e)
{
    return prepare_writing(n->priv, e);
}

/* --- reopening ---------------------------------------------------------------------------------------------------- */

static const char *const reopen_names[] = {NULL};

static int qed_reopen_prepare(struct node *n, struct node_reopen *r, struct err *e)
{
    int rc = n->read_only ? 0 : qed_settle(n->priv);
    return rc < 0 ? err_set_errno(e, -rc, "Could not write metadata of image '%s'", n->filename) : 0;
}

static int qed_reopen_activate(struct node *n, struct node_reopen *r, struct err *e)
{
    struct qed *s = n->priv;
    if (n->read_only || !r->as.read_only) {
        return 0;
    }
    s->end = round_up(edge_size(s->file), s->cluster_size);
    return prepare_writing(s, e);
}

/* --- information -------------------------------------------------------------------------------------------------- */

static int qed_get_info(struct node *n, struct driver_info *out)
{
    struct qed *s = n->priv;
    out->cluster_size = s->h.cluster_size;
    out->is_dirty = s->h.features & QED_NEED_CHECK;
    out->copy_on_read = s->h.compat & QED_COMPAT_COPY_ON_READ;
    return 0;
}

static struct json_object *qed_specific_info(struct node *n)
{
    struct qed *s = n->priv;
    if (!(s->h.compat & QED_COMPAT_COPY_ON_READ)) {
        return NULL; /* others do not know of it */
    }
    struct json_object *d = json_object_new_object(), *o = json_object_new_object();
    json_object_object_add(d, "copy-on-read", json_object_new_boolean(true));
    json_object_object_add(o, "type", json_object_new_string("qed"));
    json_object_object_add(o, "data", d);
    return o;
}

const struct block_driver qed_driver = {
    .name = "qed",
    .priv_size = sizeof(struct qed),
    .takes_backing = true,
    .can_be_created = true,
    .probe = qed_probe,
    .open = qed_open,
    .close = qed_close,
    .inactivate = qed_inactivate,
    .read_again = qed_read_again,
    .activate = qed_activate,
    .reopen_names = reopen_names,
    .reopen_prepare = qed_reopen_prepare,
    .reopen_activate = qed_reopen_activate,
    .create = qed_create,
    .create_options = qed_create_options,
    .measure = qed_measure,
    .amend = qed_amend,
    .amend_options = qed_amend_options,
    .read = qed_read,
    .write = qed_write,
    .zero = qed_zero,
    .discard = qed_discard,
    .flush = qed_flush,
    .status = qed_status,
    .truncate = qed_truncate,
    .get_info = qed_get_info,
    .specific_info = qed_specific_info,
    .check = qed_check,
    .change_backing = qed_change_backing,
    .make_empty = qed_make_empty,
};
