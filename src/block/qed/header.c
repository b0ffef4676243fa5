/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "base/json.h"

#include <inttypes.h>
#include <string.h>

enum { NAME_SLOT = 1024 }; /* places for the backing file's name in the first cluster: 1, 2 and 3 times this, and 64 */

uint64_t qed_max_size(uint64_t cluster_size, uint64_t table_size)
{
    uint64_t entries = cluster_size * table_size / 8, size;
    bool ok = mul_ok(entries, entries, &size) && mul_ok(size, cluster_size, &size);
    return ok ? min_u64(size, QED_MAX_SIZE) : QED_MAX_SIZE;
}

bool qed_size_ok(uint64_t image_size, uint64_t cluster_size, uint64_t table_size)
{
    return image_size % 512 == 0 && image_size <= qed_max_size(cluster_size, table_size);
}

static void decode(struct qed_header *h, const uint8_t *b)
{
    *h = (struct qed_header){
        .cluster_size = load_le32(b + 4),
        .table_size = load_le32(b + 8),
        .header_size = load_le32(b + 12),
        .features = load_le64(b + 16),
        .compat = load_le64(b + 24),
        .autoclear = load_le64(b + 32),
        .l1_offset = load_le64(b + 40),
        .image_size = load_le64(b + 48),
        .backing_offset = load_le32(b + 56),
        .backing_size = load_le32(b + 60),
    };
}

void qed_header_encode(const struct qed_header *h, uint8_t *b)
{
    store_le32(b, QED_MAGIC);
    store_le32(b + 4, h->cluster_size);
    store_le32(b + 8, h->table_size);
    store_le32(b + 12, h->header_size);
    store_le64(b + 16, h->features);
    store_le64(b + 24, h->compat);
    store_le64(b + 32, h->autoclear);
    store_le64(b + 40, h->l1_offset);
    store_le64(b + 48, h->image_size);
    store_le32(b + 56, h->backing_offset);
    store_le32(b + 60, h->backing_size);
}

static int check_backing(const struct qed_header *h, struct err *e)
{
    uint64_t head = (uint64_t)h->header_size * h->cluster_size;
    if (!(h->features & QED_BACKING)) {
        return 0;
    }
    if (h->backing_offset < QED_HEADER_BYTES || !range_ok(h->backing_offset, h->backing_size, head)) {
        return err_set(e, EINVAL, "QED backing filename offset is invalid");
    }
    if (h->backing_size > QED_MAX_BACKING_NAME) {
        return err_set(e, EINVAL, "QED backing filename is too long: %" PRIu32 " bytes, %u are possible",
                       h->backing_size, QED_MAX_BACKING_NAME);
    }
    return 0;
}

int qed_header_parse(struct qed_header *h, const uint8_t *buf, uint64_t file_size, struct err *e)
{
    if (load_le32(buf) != QED_MAGIC) {
        return err_set(e, EINVAL, "Image not in QED format");
    }
    decode(h, buf);
    if (h->features & ~(uint64_t)QED_KNOWN) {
        return err_set(e, ENOTSUP, "Unsupported QED features: %" PRIx64, h->features & ~(uint64_t)QED_KNOWN);
    }
    if (!is_pow2(h->cluster_size) || h->cluster_size < QED_MIN_CLUSTER || h->cluster_size > QED_MAX_CLUSTER) {
        return err_set(e, EINVAL, "QED cluster size is invalid");
    }
    if (!is_pow2(h->table_size) || h->table_size > QED_MAX_TABLE) {
        return err_set(e, EINVAL, "QED table size is invalid");
    }
    if (!qed_size_ok(h->image_size, h->cluster_size, h->table_size)) {
        return err_set(e, EINVAL, "QED image size is invalid");
    }
    uint64_t head = max_u64(h->header_size, 1) * h->cluster_size, table = (uint64_t)h->table_size * h->cluster_size;
    if (h->l1_offset % h->cluster_size || h->l1_offset < head || !range_ok(h->l1_offset, table, file_size)) {
        return err_set(e, EINVAL, "QED table offset is invalid");
    }
    return check_backing(h, e);
}

int qed_header_write(struct qed *s, const struct qed_header *h)
{
    uint8_t buf[QED_HEADER_BYTES];
    qed_header_encode(h, buf);
    return edge_write_buf(s->file, 0, sizeof(buf), buf, 0);
}

int qed_header_read_backing(struct qed *s, struct err *e)
{
    struct node *n = s->n;
    g_clear_pointer(&n->backing_filename, g_free);
    g_clear_pointer(&n->backing_format, g_free);
    if (!(s->h.features & QED_BACKING) || !s->h.backing_size) {
        return 0;
    }
    CLEANUP_FREE char *name = g_malloc0(s->h.backing_size + 1);
    int rc = qed_file_read_buf(s->file, s->h.backing_offset, s->h.backing_size, name);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Failed to read QED backing filename");
    }
    n->backing_filename = g_strdup(name);
    n->backing_format = s->h.features & QED_BACKING_RAW ? g_strdup("raw") : NULL;
    return 0;
}

int qed_need_check(struct qed *s)
{
    if (s->h.features & QED_NEED_CHECK) {
        return 0;
    }
    struct qed_header h = s->h;
    h.features |= QED_NEED_CHECK;
    int rc = qed_header_write(s, &h);
    rc = rc < 0 ? rc : edge_flush(s->file);
    if (rc == 0) {
        s->h.features = h.features;
    }
    return rc;
}

/* Writes a header that names what is stable, or will be after a flush. */
static int switch_header(struct qed *s, const struct qed_header *h)
{
    int rc = edge_flush(s->file);
    rc = rc < 0 ? rc : qed_header_write(s, h);
    if (rc == 0) { /* whatever becomes of the flush: the header says so now */
        s->h = *h;
        rc = edge_flush(s->file);
    }
    return rc;
}

/* Where the name that the header names now is not. */
static uint32_t free_slot(const struct qed_header *h, uint32_t len)
{
    uint32_t at = QED_HEADER_BYTES;
    while ((h->features & QED_BACKING) && ranges_overlap(at, len, h->backing_offset, h->backing_size)) {
        at = (at / NAME_SLOT + 1) * NAME_SLOT;
    }
    return at;
}

int qed_change_backing(struct node *n, const char *file, const char *format, struct err *e)
{
    struct qed *s = n->priv;
    size_t len = file ? strlen(file) : 0;
    if (len > QED_MAX_BACKING_NAME) {
        return err_set(e, EINVAL, "Backing file name too long");
    }
    int rc = qed_writeback(s, true); /* what was copied from the old one */
    co_lock(&s->lock);
    struct qed_header h = s->h;
    h.features &= ~(uint64_t)(QED_BACKING | QED_BACKING_RAW);
    h.backing_size = (uint32_t)len;
    if (len) {
        h.features |= QED_BACKING | (format && !strcmp(format, "raw") ? QED_BACKING_RAW : 0);
        h.header_size = MAX(h.header_size, 1);
        h.backing_offset = free_slot(&s->h, h.backing_size);
        rc = rc < 0 ? rc : edge_write_buf(s->file, h.backing_offset, len, file, 0);
    }
    rc = rc < 0 ? rc : switch_header(s, &h);
    co_unlock(&s->lock);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not change the backing file of '%s'", n->filename);
    }
    return qed_header_read_backing(s, e);
}

const struct create_option qed_amend_options[] = {
    {"copy_on_read", "bool (on/off)", "Ask whoever opens the image to copy what is read from the base image", true},
    {NULL, NULL, NULL},
};

int qed_amend(struct node *n, struct json_object *opts, bool force, const struct amend_progress *progress,
              struct err *e)
{
    struct qed *s = n->priv;
    struct jread r = jread_init(opts, NULL, e);
    bool hint = jread_bool_or(&r, "copy-on-read", s->h.compat & QED_COMPAT_COPY_ON_READ);
    int rc = jread_end(&r);
    if (rc < 0) {
        return rc;
    }
    co_lock(&s->lock);
    struct qed_header h = s->h;
    h.compat = hint ? h.compat | QED_COMPAT_COPY_ON_READ : h.compat & ~QED_COMPAT_COPY_ON_READ;
    rc = h.compat == s->h.compat ? 0 : switch_header(s, &h);
    co_unlock(&s->lock);
    if (rc == 0 && progress) {
        progress->fn(progress->opaque, 1, 1);
    }
    return rc < 0 ? err_set_errno(e, -rc, "Could not write the header of '%s'", n->filename) : 0;
}
