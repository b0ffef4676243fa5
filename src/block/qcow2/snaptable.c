/* SPDX-License-Identifier: BSD-2-Clause */
/* The snapshot table. An entry: 40 bytes, extra data (24 bytes known), id, name, padding to a multiple of 8. */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>

enum { FIXED = 40, WINDOW = 256 << 10 };

static void snap_free(void *p)
{
    struct q_snap *x = p;
    g_free(x->info.id);
    g_free(x->info.name);
    g_free(x->unknown);
    g_free(x);
}

GPtrArray *snaps_new(void)
{
    return g_ptr_array_new_with_free_func(snap_free);
}

struct q_snap *snap_copy(const struct q_snap *s)
{
    struct q_snap *x = g_new(struct q_snap, 1);
    *x = *s;
    x->info.id = g_strdup(s->info.id);
    x->info.name = g_strdup(s->info.name);
    x->unknown = g_memdup2(s->unknown, s->unknown_len);
    return x;
}

struct q_snap *snaps_find(const struct qcow2 *s, const char *id)
{
    for (guint i = 0; i < s->snapshots->len; i++) {
        struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        if (!strcmp(x->info.id, id)) {
            return x;
        }
    }
    return NULL;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct reader {
    struct qcow2 *s;
    uint8_t *window;
    uint64_t first, at; /* offsets in the file: of the window, of the next entry */
    bool filled, zero;  /* the window: has something, has nothing but zeroes */
};

/* `n` bytes, at most as many as an entry has without what is skipped, in memory until the next call. */
static int look(struct reader *r, uint64_t at, uint64_t n, const uint8_t **out)
{
    if (at >= edge_size(r->s->file)) {
        if (!r->zero) {
            memset(r->window, 0, WINDOW);
        }
        r->zero = true;
        r->filled = false;
        *out = r->window;
        return 0;
    }
    if (!r->filled || at < r->first || at + n > r->first + WINDOW) {
        int rc = file_read_buf(r->s->file, at, WINDOW, r->window);
        if (rc < 0) {
            return rc;
        }
        r->first = at;
        r->filled = true;
        r->zero = false;
    }
    *out = r->window + (at - r->first);
    return 0;
}

static void read_extra(const struct qcow2 *s, struct q_snap *x, const uint8_t *b, uint32_t len)
{
    x->info.vm_state_size = len >= 8 ? load_be64(b) : x->info.vm_state_size;
    x->info.disk_size = len >= 16 ? load_be64(b + 8) : s->h.size;
    x->info.icount = len >= 24 ? load_be64(b + 16) : UINT64_MAX;
    if (len > SNAP_EXTRA) {
        x->unknown_len = len - SNAP_EXTRA;
        x->unknown = g_memdup2(b + SNAP_EXTRA, x->unknown_len);
    }
}

/* Reads the entry at r->at. *len: bytes of it that are kept. */
static int read_entry(struct reader *r, struct q_snap *x, uint64_t *len)
{
    const uint8_t *b;
    int rc = look(r, r->at, FIXED, &b);
    if (rc < 0) {
        return rc;
    }
    uint32_t id_len = load_be16(b + 12), name_len = load_be16(b + 14);
    *x = (struct q_snap){
        .l1_offset = load_be64(b),
        .l1_size = load_be32(b + 8),
        .extra = load_be32(b + 36),
        .info = {.date_sec = load_be32(b + 16),
                 .date_nsec = load_be32(b + 20),
                 .vm_clock_nsec = load_be64(b + 24),
                 .vm_state_size = load_be32(b + 32)},
    };
    uint32_t extra = min_u64(x->extra, QCOW2_MAX_SNAPSHOT_EXTRA);
    rc = look(r, r->at + FIXED, extra, &b);
    if (rc == 0) {
        read_extra(r->s, x, b, extra);
        rc = look(r, r->at + FIXED + x->extra, (uint64_t)id_len + name_len, &b);
    }
    if (rc < 0) {
        return rc;
    }
    x->info.id = g_strndup((const char *)b, id_len);
    x->info.name = g_strndup((const char *)b + id_len, name_len);
    *len = FIXED + extra + id_len + name_len;
    r->at += FIXED + (uint64_t)x->extra + id_len + name_len;
    return 0;
}

static void say(struct snap_repair *repair, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct snap_repair *repair, const char *fmt, ...)
{
    if (repair->text) {
        va_list ap;
        va_start(ap, fmt);
        g_string_append_vprintf(repair->text, fmt, ap);
        va_end(ap);
        g_string_append_c(repair->text, '\n');
    }
}

static int shorten(struct snap_repair *repair, unsigned i, const struct q_snap *x, struct err *e)
{
    if (!repair) {
        return err_set(e, EFBIG,
                       "Too much extra metadata in snapshot table entry %u\n"
                       "You can force-remove this extra metadata with qemu-img check -r all",
                       i);
    }
    say(repair, "Discarding too much extra metadata in snapshot table entry %u (%" PRIu32 " > %u)", i, x->extra,
        QCOW2_MAX_SNAPSHOT_EXTRA);
    repair->shortened++;
    return 0;
}

static int drop_rest(struct snap_repair *repair, uint32_t n, struct err *e)
{
    if (!repair) {
        return err_set(e, EFBIG,
                       "Snapshot table is too big\n"
                       "You can force-remove all %" PRIu32 " overhanging snapshots with qemu-img check -r all",
                       n);
    }
    say(repair, "Discarding %" PRIu32 " overhanging snapshots (snapshot table is too big)", n);
    repair->dropped += n;
    return 0;
}

static int read_table(struct reader *r, GPtrArray *out, struct snap_repair *repair, struct err *e)
{
    struct qcow2 *s = r->s;
    uint64_t start = s->h.snapshots_offset, end = 0; /* of what is kept, counted from the start */
    uint64_t sure = 0;                               /* bytes before the first that are skipped */
    for (uint32_t i = 0; i < s->h.nb_snapshots; i++) {
        struct q_snap x;
        uint64_t len;
        r->at = round_up(r->at, 8);
        int rc = read_entry(r, &x, &len);
        if (rc < 0) {
            return err_set_errno(e, -rc, "Failed to read snapshot table");
        }
        g_ptr_array_add(out, g_memdup2(&x, sizeof(x)));
        if (x.extra > QCOW2_MAX_SNAPSHOT_EXTRA) {
            rc = shorten(repair, i, &x, e);
        }
        if (rc == 0 && round_up(end, 8) + len > QCOW2_MAX_SNAPSHOT_TABLE) {
            rc = drop_rest(repair, s->h.nb_snapshots - i, e);
            g_ptr_array_remove_index(out, i);
            s->h.nb_snapshots = i;
            return rc;
        }
        if (rc < 0) {
            return rc;
        }
        if (!sure && x.extra > QCOW2_MAX_SNAPSHOT_EXTRA) {
            sure = s->snapshots_len + FIXED + QCOW2_MAX_SNAPSHOT_EXTRA;
        }
        end = round_up(end, 8) + len;
        s->snapshots_len = r->at - start;
    }
    if (sure && start + s->snapshots_len > round_up(edge_size(s->file), s->cluster_size)) {
        s->snapshots_len = sure; /* what the extra data is said to take does not exist */
    }
    return 0;
}

int snaps_load(struct qcow2 *s, struct snap_repair *repair, struct err *e)
{
    CLEANUP_FREE uint8_t *window = s->h.nb_snapshots ? g_try_malloc(WINDOW) : NULL;
    struct reader r = {.s = s, .window = window, .at = s->h.snapshots_offset};
    GPtrArray *snaps = snaps_new();
    uint32_t count = s->h.nb_snapshots;
    s->snapshots_len = 0;
    int rc = !count ? 0 : window ? read_table(&r, snaps, repair, e) : err_set(e, ENOMEM, "out of memory");
    if (rc < 0) {
        g_ptr_array_unref(snaps);
        s->h.nb_snapshots = count;
        return rc;
    }
    g_ptr_array_unref(s->snapshots);
    s->snapshots = snaps;
    return 0;
}

int snaps_open(struct qcow2 *s, struct err *e)
{
    if (s->h.nb_snapshots > QCOW2_MAX_SNAPSHOTS) {
        return err_set(e, EFBIG, "Snapshot table too large");
    }
    return snaps_place_ok(s) ? snaps_load(s, NULL, e) : err_set(e, EINVAL, "Snapshot table offset invalid");
}

bool snaps_place_ok(const struct qcow2 *s)
{
    return !(s->h.snapshots_offset & (s->cluster_size - 1)) &&
           range_ok(s->h.snapshots_offset, QCOW2_MAX_SNAPSHOTS * (uint64_t)FIXED, INT64_MAX);
}

int snap_l1_check(const struct qcow2 *s, const struct q_snap *x, struct err *e)
{
    if (x->l1_size > QCOW2_MAX_L1 / 8) {
        return err_set(e, EFBIG, "Snapshot L1 table too large");
    }
    if ((x->l1_offset & (s->cluster_size - 1)) || !range_ok(x->l1_offset, (uint64_t)x->l1_size * 8, INT64_MAX)) {
        return err_set(e, EINVAL, "Snapshot L1 table offset invalid");
    }
    return 0;
}

int snap_l1_load(struct qcow2 *s, const struct q_snap *x, uint64_t **out, struct err *e)
{
    int rc = snap_l1_check(s, x, e);
    if (rc < 0) {
        return rc;
    }
    uint64_t *l1 = g_try_malloc0_n((size_t)x->l1_size + 1, 8);
    rc = l1 ? file_read_buf(s->file, x->l1_offset, (uint64_t)x->l1_size * 8, l1) : -ENOMEM;
    if (rc < 0) {
        g_free(l1);
        return err_set_errno(e, -rc, "Failed to read the L1 table of snapshot '%s'", x->info.name);
    }
    for (uint32_t i = 0; i < x->l1_size; i++) {
        l1[i] = load_be64(&l1[i]);
    }
    *out = l1;
    return 0;
}

/* --- writing ------------------------------------------------------------------------------------------------------ */

static uint64_t encoded_len(const struct q_snap *x)
{
    return FIXED + SNAP_EXTRA + x->unknown_len + strlen(x->info.id) + strlen(x->info.name);
}

static void encode(const struct q_snap *x, uint8_t *b)
{
    const struct snapshot *i = &x->info;
    size_t id_len = strlen(i->id), name_len = strlen(i->name);
    store_be64(b, x->l1_offset);
    store_be32(b + 8, x->l1_size);
    store_be16(b + 12, id_len);
    store_be16(b + 14, name_len);
    store_be32(b + 16, i->date_sec);
    store_be32(b + 20, i->date_nsec);
    store_be64(b + 24, i->vm_clock_nsec);
    store_be32(b + 32, i->vm_state_size > UINT32_MAX ? 0 : i->vm_state_size);
    store_be32(b + 36, SNAP_EXTRA + x->unknown_len);
    b += FIXED;
    store_be64(b, i->vm_state_size);
    store_be64(b + 8, i->disk_size);
    store_be64(b + 16, i->icount);
    b += SNAP_EXTRA;
    if (x->unknown_len) {
        memcpy(b, x->unknown, x->unknown_len);
        b += x->unknown_len;
    }
    memcpy(b, i->id, id_len);
    memcpy(b + id_len, i->name, name_len);
}

int snaps_encode(GPtrArray *snaps, uint8_t **out, uint64_t *len)
{
    uint64_t size = 0, at = 0;
    for (guint i = 0; i < snaps->len; i++) {
        size = round_up(size, 8) + encoded_len(g_ptr_array_index(snaps, i));
        if (size > QCOW2_MAX_SNAPSHOT_TABLE) {
            return -EFBIG;
        }
    }
    if (snaps->len > QCOW2_MAX_SNAPSHOTS) {
        return -EFBIG;
    }
    *out = g_try_malloc0(size + 1);
    *len = size;
    for (guint i = 0; *out && i < snaps->len; i++) {
        const struct q_snap *x = g_ptr_array_index(snaps, i);
        at = round_up(at, 8);
        encode(x, *out + at);
        at += encoded_len(x);
    }
    return *out ? 0 : -ENOMEM;
}
