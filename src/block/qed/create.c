/* SPDX-License-Identifier: BSD-2-Clause */
/* New images, and what they will need. */
#include "block/qed/qed.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"
#include "block/newfile.h"

#include <inttypes.h>
#include <string.h>

const struct create_option qed_create_options[] = {
    {"backing_file", "str", "File name of a base image"},
    {"backing_fmt", "str", "Image format of the base image"},
    {"cluster_size", "size", "Cluster size (in bytes)"},
    {"copy_on_read", "bool (on/off)", "Ask whoever opens the image to copy what is read from the base image", true},
    {"size", "size", "Virtual disk size"},
    {"table_size", "size", "L1/L2 table size (in clusters)"},
    {NULL, NULL, NULL},
};

struct plan {
    uint64_t size, cluster_size, table_size;
    const char *backing_file, *backing_fmt;
    struct json_object *file;
    bool have_size, hint;
};

static int plan_read(struct json_object *opts, struct plan *p, struct err *e)
{
    struct jread r = jread_init(opts, NULL, e);
    p->have_size = jread_has(&r, "size");
    p->size = round_up(min_u64(jread_size_or(&r, "size", 0), QED_MAX_SIZE + 1), 512);
    p->cluster_size = jread_size_or(&r, "cluster-size", QED_DEFAULT_CLUSTER);
    p->table_size = jread_size_or(&r, "table-size", QED_DEFAULT_TABLE);
    p->backing_file = jread_str_or(&r, "backing-file", NULL);
    p->backing_fmt = jread_str_or(&r, "backing-fmt", NULL);
    p->hint = jread_bool_or(&r, "copy-on-read", false);
    p->file = jread_any(&r, "file");
    return jread_end(&r);
}

static int plan_check_tables(const struct plan *p, struct err *e)
{
    if (!is_pow2(p->cluster_size) || p->cluster_size < QED_MIN_CLUSTER || p->cluster_size > QED_MAX_CLUSTER) {
        return err_set(e, EINVAL, "QED cluster size must be within range [%u, %u] and power of 2", QED_MIN_CLUSTER,
                       QED_MAX_CLUSTER);
    }
    if (!is_pow2(p->table_size) || p->table_size > QED_MAX_TABLE) {
        return err_set(e, EINVAL, "QED table size must be within range [%u, %u] and power of 2", 1, QED_MAX_TABLE);
    }
    return 0;
}

static int plan_check(const struct plan *p, struct err *e)
{
    if (!p->file) {
        return err_set(e, EINVAL, "Parameter 'file' is missing");
    }
    if (!p->have_size) {
        return err_set(e, EINVAL, "Parameter 'size' is missing");
    }
    int rc = plan_check_tables(p, e);
    if (rc == 0 && !qed_size_ok(p->size, p->cluster_size, p->table_size)) {
        rc = err_set(e, EINVAL,
                     "QED image size must be a non-zero multiple of cluster size and less than %" PRIu64 " bytes",
                     qed_max_size(p->cluster_size, p->table_size));
    }
    if (rc == 0 && p->backing_file && strlen(p->backing_file) > QED_MAX_BACKING_NAME) {
        rc = err_set(e, EINVAL, "Backing file name too long");
    }
    return rc;
}

/* Header and an empty L1 table, in a file that is empty or a device. */
static int write_image(struct edge *file, const struct plan *p)
{
    struct qed_header h = {
        .cluster_size = (uint32_t)p->cluster_size,
        .table_size = (uint32_t)p->table_size,
        .header_size = 1,
        .compat = p->hint ? QED_COMPAT_COPY_ON_READ : 0,
        .l1_offset = p->cluster_size,
        .image_size = p->size,
    };
    uint8_t buf[QED_HEADER_BYTES + QED_MAX_BACKING_NAME] = {0};
    if (p->backing_file && *p->backing_file) {
        h.features = QED_BACKING | (p->backing_fmt && !strcmp(p->backing_fmt, "raw") ? QED_BACKING_RAW : 0);
        h.backing_offset = QED_HEADER_BYTES;
        h.backing_size = (uint32_t)strlen(p->backing_file);
        memcpy(buf + QED_HEADER_BYTES, p->backing_file, h.backing_size);
    }
    qed_header_encode(&h, buf);
    uint64_t table = p->cluster_size * p->table_size, end = h.l1_offset + table;
    int rc = edge_size(file) < end ? edge_truncate(file, end, false, PREALLOC_OFF, NULL) : 0;
    rc = rc < 0 ? rc : edge_zero(file, h.l1_offset, table, 0);
    rc = rc < 0 ? rc : edge_write_buf(file, 0, sizeof(buf), buf, 0);
    return rc < 0 ? rc : edge_flush(file);
}

int qed_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    struct plan p = {0};
    struct node *file;
    struct edge *ed;
    int rc = plan_read(opts, &p, e);
    rc = rc < 0 ? rc : plan_check(&p, e);
    rc = rc < 0 ? rc : newfile_open(g, p.file, &file, e);
    if (rc < 0) {
        return rc;
    }
    rc = edge_open(file, &(struct edge_spec){"create", PERM_READ | PERM_WRITE | PERM_RESIZE, PERM_ALL}, &ed, e);
    if (rc == 0) {
        (void)edge_truncate(ed, 0, false, PREALLOC_OFF, NULL); /* a device keeps its size */
        rc = write_image(ed, &p);
        rc = rc < 0 ? err_set_errno(e, -rc, "Could not write the QED header of '%s'", file->filename) : 0;
        edge_close(ed);
    }
    node_unref(file);
    return rc;
}

/* --- measuring ---------------------------------------------------------------------------------------------------- */

/* Clusters that data of the source lies in, and the highest L2 table that one was counted for. */
struct count {
    uint64_t cluster_size, span; /* of a cluster, of what an L2 table maps */
    uint64_t clusters, tables, next_cluster, next_table;
};

static void count_data(struct count *c, uint64_t off, uint64_t len)
{
    uint64_t first = max_u64(off / c->cluster_size, c->next_cluster), end = div_round_up(off + len, c->cluster_size);
    uint64_t first_table = max_u64(off / c->span, c->next_table), end_table = div_round_up(off + len, c->span);
    c->clusters += end > first ? end - first : 0;
    c->tables += end_table > first_table ? end_table - first_table : 0;
    c->next_cluster = max_u64(c->next_cluster, end);
    c->next_table = max_u64(c->next_table, end_table);
}

static int count_source(struct count *c, struct node *source)
{
    struct extent x = {0};
    for (uint64_t off = 0; off < source->size; off += x.len) {
        int rc = node_status_above(source, NULL, off, source->size - off, &x, NULL);
        if (rc < 0) {
            return rc;
        }
        if (!(x.flags & EXT_ZERO)) {
            count_data(c, off, x.len);
        }
    }
    return 0;
}

int qed_measure(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *r,
                struct err *e)
{
    struct plan p = {0};
    int rc = plan_read(opts, &p, e);
    rc = rc < 0 ? rc : plan_check_tables(&p, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t size = source ? round_up(source->size, 512) : p.size, table = p.cluster_size * p.table_size;
    if (!qed_size_ok(size, p.cluster_size, p.table_size)) {
        return err_set(e, EFBIG, "The image size is too large (try using a larger cluster size)");
    }
    struct count c = {.cluster_size = p.cluster_size, .span = table / 8 * p.cluster_size};
    if (source) {
        rc = count_source(&c, source);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Unable to get block status");
        }
    }
    uint64_t fixed = p.cluster_size + table;
    r->required = fixed + c.tables * table + c.clusters * p.cluster_size;
    r->fully_allocated = fixed + div_round_up(size, c.span) * table + round_up(size, p.cluster_size);
    return 0;
}
