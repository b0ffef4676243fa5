/* SPDX-License-Identifier: BSD-2-Clause */
/* Making a new live copy of two images that are there. */
#include "block/live_copy/lc.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>

const struct create_option lc_create_options[] = {
    {"destination", "str", "File name of the image to copy to"},
    {"destination_fmt", "str", "Image format of the destination"},
    {"region_size", "size", "Bytes that are copied again when one of them may differ"},
    {"size", "size", "Virtual disk size (must be the source's)"},
    {"source", "str", "File name of the image to copy"},
    {"source_fmt", "str", "Image format of the source"},
    {NULL, NULL, NULL},
};

struct plan {
    struct json_object *file;
    const char *name[2], *fmt[2];
    uint64_t region_size, size;
    bool have_size;
};

static int plan_read(struct json_object *opts, struct plan *p, struct err *e)
{
    struct jread r = jread_init(opts, NULL, e);
    p->file = jread_any(&r, "file");
    p->name[SRC] = jread_str(&r, "source");
    p->name[DST] = jread_str(&r, "destination");
    p->fmt[SRC] = jread_str_or(&r, "source-fmt", NULL);
    p->fmt[DST] = jread_str_or(&r, "destination-fmt", NULL);
    p->region_size = jread_size_or(&r, "region-size", 0);
    p->have_size = jread_has(&r, "size");
    p->size = jread_size_or(&r, "size", 0);
    int rc = jread_end(&r);
    if (rc == 0 && !p->file) {
        rc = err_set(e, EINVAL, "Parameter 'file' is missing");
    }
    if (rc == 0 && p->region_size && !is_pow2(p->region_size)) {
        rc = err_set(e, EINVAL, "Region size must be a power of two between 4k and 64M");
    }
    return rc;
}

/* One side as it will be opened later; tells its size and format. */
static int look_at(struct node *file, const struct plan *p, int i, struct node **out, struct err *e)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    CLEANUP_FREE char *name = node_path_combine(file, p->name[i]);
    if (!name) {
        return err_set(e, EINVAL, "The name '%s' of the %s is relative, but to what is not known", p->name[i],
                       lc_side_names[i]);
    }
    json_object_object_add(o, "read-only", json_object_new_boolean(true));
    if (p->fmt[i]) {
        json_object_object_add(o, "driver", json_object_new_string(p->fmt[i]));
    }
    int rc = node_open_filename(file->graph, name, o, out, e);
    return rc < 0 ? err_wrap(e, "Could not open the %s", lc_side_names[i]) : 0;
}

static uint64_t choose_region_size(const struct plan *p, uint64_t size)
{
    uint64_t region = 1 << 20;
    while (!p->region_size && region < 1 << LC_MAX_BITS && div_round_up(size, region) > LC_MAX_REGIONS) {
        region *= 2;
    }
    return p->region_size ? p->region_size : region;
}

static int check_sides(const struct plan *p, struct node *const side[2], struct err *e)
{
    uint64_t size = side[SRC]->size;
    if (strcmp(side[SRC]->filename, side[DST]->filename) == 0) {
        return err_set(e, EINVAL, "Source and destination are the same image '%s'", side[SRC]->filename);
    }
    if (side[DST]->size != size && side[DST]->size != round_up(size, 512)) {
        return err_set(e, EINVAL,
                       "Source and destination must have the same size: '%s' has %" PRIu64 " bytes, '%s' has %" PRIu64,
                       p->name[SRC], size, p->name[DST], side[DST]->size);
    }
    if (p->have_size && p->size != size) {
        return err_set(e, EINVAL, "The size of a live copy is that of its source: %" PRIu64 " bytes, not %" PRIu64,
                       size, p->size);
    }
    return 0;
}

/* Without a head it is no live copy: that comes last. */
static int write_new(struct edge *ed, const struct lc_head *h)
{
    CLEANUP_FREE uint8_t *head = g_malloc0(LC_HEAD_SIZE), *state = g_malloc0(2 * LC_STATE_STRIDE);
    struct lc_state st = {.events = {1, 0}};
    lc_head_encode(h, head);
    lc_state_encode(&st, state);
    lc_state_encode(&st, state + LC_STATE_STRIDE);
    int rc = edge_zero(ed, 0, LC_HEAD_SIZE, 0);
    rc = rc < 0 ? rc : edge_zero(ed, LC_BITMAP_AT, lc_file_size(h) - LC_BITMAP_AT, REQ_MAY_UNMAP);
    rc = rc < 0 ? rc : edge_write_buf(ed, LC_STATE_AT, 2 * LC_STATE_STRIDE, state, 0);
    rc = rc < 0 ? rc : edge_flush(ed);
    rc = rc < 0 ? rc : edge_write_buf(ed, 0, LC_HEAD_SIZE, head, 0);
    return rc < 0 ? rc : edge_flush(ed);
}

static int write_file(struct node *file, const struct lc_head *h, struct err *e)
{
    struct edge *ed;
    int rc = edge_open(file, &(struct edge_spec){"create", PERM_READ | PERM_WRITE | PERM_RESIZE, PERM_ALL}, &ed, e);
    if (rc) {
        return rc;
    }
    if (edge_size(ed) < lc_file_size(h)) {
        rc = edge_truncate(ed, lc_file_size(h), false, PREALLOC_OFF, e);
    }
    if (rc == 0 && (rc = write_new(ed, h)) < 0) {
        err_set_errno(e, -rc, "Could not write the new live copy");
    }
    edge_close(ed);
    return rc;
}

static int open_file(struct block_graph *g, struct json_object *what, struct node **out, struct err *e)
{
    if (!json_object_is_type(what, json_type_string)) {
        return node_open(g, what, out, e);
    }
    struct node *n = node_lookup(g, json_object_get_string(what), e);
    *out = n ? node_ref(n) : NULL;
    return n ? 0 : -ENOENT;
}

static int create_on(struct node *file, const struct plan *p, struct err *e)
{
    struct node *side[2] = {NULL, NULL};
    int rc = look_at(file, p, SRC, &side[SRC], e);
    rc = rc ? rc : look_at(file, p, DST, &side[DST], e);
    rc = rc ? rc : check_sides(p, side, e);
    if (rc == 0) {
        uint64_t region = choose_region_size(p, side[SRC]->size);
        struct lc_head h = {.size = side[SRC]->size, .bits = log2_floor(region)};
        for (int i = SRC; i <= DST; i++) {
            h.name[i] = g_strdup(p->name[i]);
            h.fmt[i] = g_strdup(side[i]->drv->name);
        }
        rc = lc_head_check(&h, e);
        rc = rc ? rc : write_file(file, &h, e);
        lc_head_finish(&h);
    }
    node_unref(side[DST]);
    node_unref(side[SRC]);
    return rc;
}

/* Command-line spelling becomes that of the schema. */
static struct json_object *normalise(struct json_object *opts)
{
    struct json_object *o = json_object_new_object();
    json_object_object_foreach(opts, key, value)
    {
        CLEANUP_FREE char *k = g_strdelimit(g_strdup(key), "_", '-');
        json_object_object_add(o, k, json_object_get(value));
    }
    return o;
}

int lc_create(struct block_graph *g, struct json_object *opts, struct err *e)
{
    CLEANUP_JSON struct json_object *o = normalise(opts);
    struct plan p = {0};
    struct node *file = NULL;
    int rc = plan_read(o, &p, e);
    rc = rc ? rc : open_file(g, p.file, &file, e);
    rc = rc ? rc : create_on(file, &p, e);
    node_unref(file);
    return rc;
}
