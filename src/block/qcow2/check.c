/* SPDX-License-Identifier: BSD-2-Clause */
/* Consistency: every reference is counted and compared with the refcounts. Messages as QEMU's checker words them. */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <inttypes.h>
#include <stdarg.h>

#define L2E_RESERVED UINT64_C(0x3f000000000001fe)

struct check {
    struct qcow2 *s;
    struct check_result *r;
    struct q_counts counts;
    unsigned fix;
    bool rebuild, fix_flags;
    uint64_t next; /* where a contiguous image would go on */
};

static void say(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct check *c, const char *fmt, ...)
{
    if (c->r->text) {
        va_list ap;
        va_start(ap, fmt);
        g_string_append_vprintf(c->r->text, fmt, ap);
        g_string_append_c(c->r->text, '\n');
        va_end(ap);
    }
}

/* One reference to each cluster that the bytes touch. */
static int count(struct check *c, uint64_t off, uint64_t len)
{
    struct qcow2 *s = c->s;
    uint64_t size = edge_size(s->file);
    if (len == 0) {
        return 0;
    }
    if (!range_ok(off, len, INT64_MAX) || (off + len > size && off + len - size >= s->cluster_size)) {
        say(c,
            "ERROR: counting reference for region exceeding the end of the file by one cluster or more: offset "
            "0x%" PRIx64 " size 0x%" PRIx64,
            off, len);
        c->r->corruptions++;
        return 0;
    }
    for (uint64_t i = off >> s->cluster_bits; i <= (off + len - 1) >> s->cluster_bits; i++) {
        if (counts_get(&c->counts, i) >= refcount_max(s)) {
            say(c,
                "ERROR: overflow cluster offset=0x%" PRIx64 "\n"
                "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if "
                "the image cannot be opened for writing",
                i << s->cluster_bits);
            c->r->corruptions++;
            continue;
        }
        int rc = counts_add(&c->counts, i);
        if (rc < 0) {
            c->r->check_errors++;
            return rc;
        }
    }
    return 0;
}

static int count_bitmap(void *opaque, uint64_t off, uint64_t len)
{
    return count(opaque, off, len);
}

static int count_bitmaps(struct check *c)
{
    unsigned broken = 0;
    int rc = bitmaps_walk(c->s, count_bitmap, c, &broken);
    c->r->corruptions += broken;
    return rc;
}

/* --- tables ------------------------------------------------------------------------------------------------------- */

static void account(struct check *c, struct q_entry e)
{
    struct check_result *r = c->r;
    uint64_t off = e.e & L2E_OFFSET;
    r->allocated_clusters++;
    if (e.e & E_COMPRESSED) {
        r->compressed_clusters++;
        r->fragmented_clusters++; /* compressed clusters are fragmented by nature */
        return;
    }
    if (c->next && off != c->next) {
        r->fragmented_clusters++;
    }
    c->next = off + c->s->cluster_size;
}

/* What no entry may have. */
static void wrong(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void wrong(struct check *c, const char *fmt, ...)
{
    if (c->r->text) {
        va_list ap;
        va_start(ap, fmt);
        CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
        va_end(ap);
        say(c, "ERROR%s", text);
    }
    c->r->corruptions++;
}

/* An entry of an L2 table, and where it is. */
struct place {
    uint64_t table;
    unsigned index;
    bool active;
};

/* Bytes that a damaged entry names are counted like any others: nobody may be given them. */
static int count_compressed(struct check *c, const struct place *p, struct q_entry e)
{
    uint64_t off, len;
    if (e.e & E_COPIED) {
        wrong(c, ": coffset=0x%" PRIx64 ": copied flag must never be set for compressed clusters", e.e & L2E_OFFSET);
    }
    if (c->s->has_data_file) {
        wrong(c, " compressed cluster with data file, entry=0x%" PRIx64, e.e);
        return 0;
    }
    if (e.bitmap) {
        wrong(c, " compressed cluster %u with non-zero subcluster allocation bitmap, entry=0x%" PRIx64, p->index, e.e);
    }
    compressed_range(c->s, e.e, &off, &len);
    if (p->active) {
        account(c, e);
    }
    return count(c, off, len);
}

/* A cluster that has no data gives its place up. It reads as zeroes still; of one that has subclusters those that did,
 * and the others show the backing file. */
static bool make_zero(struct check *c, const struct place *p, struct q_entry e)
{
    struct qcow2 *s = c->s;
    uint64_t at = p->table + (uint64_t)p->index * s->l2e_size;
    uint8_t b[16];
    store_be64(b, s->extl2 ? 0 : E_ZERO);
    store_be64(b + 8, e.bitmap);
    int rc = meta_check(s, at, s->l2e_size, META_L2 | META_INACTIVE_L2);
    rc = rc < 0 ? rc : file_write_buf(s, at, s->l2e_size, b);
    cache_drop(&s->l2, round_down(at, s->l2.table_size), s->l2.table_size);
    return rc == 0;
}

/* True: it names nothing any more. */
static bool check_alignment(struct check *c, const struct place *p, struct q_entry e)
{
    uint64_t off = e.e & L2E_OFFSET;
    if (!(off & (c->s->cluster_size - 1))) {
        return false;
    }
    if (entry_has_data(c->s, e)) {
        wrong(c, " offset=%" PRIx64 ": Data cluster is not properly aligned; L2 entry corrupted.", off);
        return false;
    }
    bool fixed = (c->fix & CHECK_FIX_ERRORS) && make_zero(c, p, e);
    say(c, "%s offset=%" PRIx64 ": Preallocated cluster is not properly aligned; L2 entry corrupted.",
        fixed ? "Repairing" : "ERROR", off);
    c->r->corruptions += !fixed;
    c->r->corruptions_fixed += fixed;
    return fixed;
}

static int count_entry(struct check *c, const struct place *p, struct q_entry e)
{
    struct qcow2 *s = c->s;
    if (e.e & E_COMPRESSED) {
        return count_compressed(c, p, e);
    }
    if (e.e & L2E_RESERVED) {
        wrong(c, " found l2 entry with reserved bits set: %" PRIx64, e.e);
    }
    if (!entry_has_host(s, e)) {
        if ((uint32_t)e.bitmap) {
            wrong(c, ": Unallocated cluster has non-zero subcluster allocation map");
        }
        return 0;
    }
    if ((uint32_t)e.bitmap & (uint32_t)(e.bitmap >> 32)) {
        wrong(c, " offset=%" PRIx64 ": Allocated cluster has corrupted subcluster allocation bitmap", e.e & L2E_OFFSET);
    }
    if (check_alignment(c, p, e)) {
        return 0;
    }
    if (p->active) {
        account(c, e);
    }
    return s->has_data_file ? 0 : count(c, e.e & L2E_OFFSET, s->cluster_size);
}

static int count_l2(struct check *c, uint64_t table, bool active, uint8_t *buf)
{
    struct qcow2 *s = c->s;
    int rc = file_read_buf(s->file, table, s->cluster_size, buf);
    if (rc < 0) {
        say(c, "ERROR: I/O error in check_refcounts_l2");
        c->r->check_errors++;
        return rc;
    }
    c->next = 0; /* a gap between two tables' clusters is no fragmentation */
    struct place p = {.table = table, .active = active};
    for (; p.index < 1u << s->l2_bits; p.index++) {
        struct q_entry e = entry_load(s, buf, p.index);
        if (e.e || e.bitmap) {
            rc = count_entry(c, &p, e);
            if (rc < 0) {
                return rc;
            }
        }
    }
    return 0;
}

static int count_l1_entries(struct check *c, const uint64_t *l1, uint32_t n, bool active)
{
    struct qcow2 *s = c->s;
    CLEANUP_FREE uint8_t *buf = g_try_malloc(s->cluster_size);
    int rc = buf ? 0 : -ENOMEM;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint64_t table = l1[i] & L1E_OFFSET;
        if (l1[i] & L1E_RESERVED) {
            wrong(c, " found L1 entry with reserved bits set: %" PRIx64, l1[i]);
        }
        if (!table) {
            continue;
        }
        rc = count(c, table, s->cluster_size);
        if (table & (s->cluster_size - 1)) {
            wrong(c, " l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted", table);
            continue;
        }
        if (rc == 0 && table < edge_size(s->file)) {
            rc = count_l2(c, table, active, buf);
        }
    }
    return rc;
}

static int count_snapshot(struct check *c, const struct q_snap *x)
{
    uint64_t *l1 = NULL, len = (uint64_t)x->l1_size * 8, size = edge_size(c->s->file);
    int rc = count(c, x->l1_offset, len);
    if (rc < 0 || !range_ok(x->l1_offset, 1, size)) { /* beyond the end there are zeroes */
        return rc;
    }
    rc = snap_l1_load(c->s, x, &l1, NULL);
    rc = rc < 0 ? rc : count_l1_entries(c, l1, x->l1_size, false);
    g_free(l1);
    return rc;
}

static int count_snapshots(struct check *c)
{
    struct qcow2 *s = c->s;
    int rc = s->snapshots->len ? count(c, s->h.snapshots_offset, s->snapshots_len) : 0;
    for (guint i = 0; i < s->snapshots->len && rc == 0; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        const struct snapshot *t = &x->info;
        if (x->l1_offset & (s->cluster_size - 1)) {
            wrong(c,
                  " snapshot %s (%s) l1_offset=%#" PRIx64
                  ": L1 table is not cluster aligned; snapshot table entry corrupted",
                  t->id, t->name, x->l1_offset);
            continue;
        }
        if (x->l1_size > QCOW2_MAX_L1 / 8) {
            wrong(c, " snapshot %s (%s) l1_size=%#" PRIx32 ": L1 table is too large; snapshot table entry corrupted",
                  t->id, t->name, x->l1_size);
            continue;
        }
        rc = count_snapshot(c, x);
    }
    return rc;
}

/* What names data and tables; without the refcount structures. */
static int count_all(struct check *c)
{
    struct qcow2 *s = c->s;
    int rc = count(c, 0, s->cluster_size);
    rc = rc < 0 ? rc : count(c, s->crypt_off, s->crypt_len);
    rc = rc < 0 ? rc : count(c, s->h.l1_offset, (uint64_t)s->h.l1_size * 8);
    rc = rc < 0 ? rc : count_l1_entries(c, s->l1, s->h.l1_size, true);
    rc = rc < 0 ? rc : count_snapshots(c);
    return rc < 0 ? rc : count_bitmaps(c);
}

/* --- refcount structures ------------------------------------------------------------------------------------------ */

/* A block beyond the end counts nothing yet: the file is made longer, so that it has one of zeroes there. */
static int block_outside(struct check *c, uint32_t index, uint64_t off)
{
    struct qcow2 *s = c->s;
    bool fixing = c->fix & CHECK_FIX_ERRORS;
    say(c, "%s refcount block %" PRIu32 " is outside image", fixing ? "Repairing" : "ERROR", index);
    if (!fixing) { /* for closing leaks it does not matter */
        c->r->corruptions++;
        return 0;
    }
    int rc = -EINVAL;
    if (range_ok(off, s->cluster_size, INT64_MAX)) {
        rc = edge_truncate(s->file, off + s->cluster_size, false, PREALLOC_OFF, NULL);
    }
    if (rc == 0) {
        s->file_high = edge_size(s->file);
        c->r->corruptions_fixed++;
        return count(c, off, s->cluster_size);
    }
    say(c, "ERROR could not resize image: %s", strerror(-rc));
    c->r->corruptions++;
    c->rebuild = true;
    return 0;
}

static int count_refcounts(struct check *c)
{
    struct qcow2 *s = c->s;
    int rc = count(c, s->rt_offset, (uint64_t)s->rt_size * 8);
    for (uint32_t i = 0; i < s->rt_size && rc == 0; i++) {
        uint64_t off = s->reftable[i] & RT_OFFSET;
        if (s->reftable[i] & ~RT_OFFSET) {
            wrong(c, " refcount table entry %" PRIu32 " has reserved bits set", i);
            c->rebuild = true;
        } else if (off & (s->cluster_size - 1)) {
            wrong(c, " refcount block %" PRIu32 " is not cluster aligned; refcount table entry corrupted", i);
            c->rebuild = true;
        } else if (off >= edge_size(s->file)) {
            rc = block_outside(c, i, off);
        } else if (off) {
            rc = count(c, off, s->cluster_size);
            uint32_t n = counts_get(&c->counts, off >> s->cluster_bits);
            if (n != 1) {
                wrong(c, " refcount block %" PRIu32 " refcount=%" PRIu32, i, n);
                c->rebuild = true;
            }
        }
    }
    return rc;
}

/* A dirty image that is being opened has just a few counters to be set; else what is so wrong is made anew. */
static bool asks_for_rebuild(const struct check *c, uint64_t cluster)
{
    const struct qcow2 *s = c->s;
    uint64_t region = cluster >> s->rb_bits;
    return s->n->opened || region >= s->rt_size || !(s->reftable[region] & RT_OFFSET);
}

static void compare_one(struct check *c, uint64_t cluster, unsigned fix)
{
    struct qcow2 *s = c->s;
    uint64_t have, want = counts_get(&c->counts, cluster), *fixed = NULL;
    int rc = refcount_get(s, cluster, &have);
    if (rc < 0) {
        say(c, "Can't get refcount for cluster %" PRIu64 ": %s", cluster, strerror(-rc));
        c->r->check_errors++;
        return;
    }
    c->r->image_end_offset = want || have ? (cluster + 1) << s->cluster_bits : c->r->image_end_offset;
    if (have == want) {
        return;
    }
    c->rebuild |= have == 0 && asks_for_rebuild(c, cluster);
    if (have > want && (fix & CHECK_FIX_LEAKS)) {
        fixed = &c->r->leaks_fixed;
    } else if (have < want && (fix & CHECK_FIX_ERRORS) && want <= refcount_max(s)) {
        fixed = &c->r->corruptions_fixed;
    }
    say(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
        fixed         ? "Repairing"
        : have < want ? "ERROR"
                      : "Leaked",
        cluster, have, want);
    if (fixed && refcount_set(s, cluster, want) == 0) {
        ++*fixed;
    } else if (have < want) {
        c->r->corruptions++;
    } else {
        c->r->leaks++;
    }
}

static void compare(struct check *c, unsigned fix)
{
    struct qcow2 *s = c->s;
    uint64_t per = UINT64_C(1) << s->rb_bits;
    uint64_t end =
        max_u64(c->counts.end, min_u64((uint64_t)s->rt_size << s->rb_bits, q_clusters(s, edge_size(s->file))));
    c->r->image_end_offset = s->cluster_size;
    for (uint64_t i = 0; i < end; i++) {
        uint64_t region = i >> s->rb_bits;
        bool block = region < s->rt_size && (s->reftable[region] & RT_OFFSET);
        if (block && c->rebuild && (c->fix & CHECK_FIX_ERRORS) && (s->reftable[region] & (s->cluster_size - 1))) {
            i |= per - 1; /* to look at it would be to find the image corrupt, and it is being made anew */
            continue;
        }
        if (!block && counts_empty(&c->counts, i)) { /* nothing counts, nothing refers */
            i = min_u64((i | (per - 1)), (i | 4095));
            continue;
        }
        if ((i & 1023) == 1023 && qcow2_relieve(s) < 0) {
            c->r->check_errors++;
            return;
        }
        compare_one(c, i, fix);
    }
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Clusters of the refcount structures, in order. */
static GArray *own_clusters(const struct qcow2 *s)
{
    GArray *a = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    for (uint64_t i = 0; i < q_clusters(s, (uint64_t)s->rt_size * 8); i++) {
        uint64_t cluster = (s->rt_offset >> s->cluster_bits) + i;
        g_array_append_val(a, cluster);
    }
    for (uint32_t i = 0; i < s->rt_size; i++) {
        uint64_t off = s->reftable[i] & RT_OFFSET, cluster = off >> s->cluster_bits;
        if (off && !(off & (s->cluster_size - 1)) && off < edge_size(s->file)) {
            g_array_append_val(a, cluster);
        }
    }
    g_array_sort(a, by_number);
    return a;
}

static int rebuild(struct check *c)
{
    struct check_result *r = c->r;
    g_autoptr(GArray) old = own_clusters(c->s);
    say(c, "Rebuilding refcount structure");
    uint64_t leaks = r->leaks, errors = r->corruptions;
    GString *text = r->text;
    counts_finish(&c->counts);
    counts_init(&c->counts);
    struct check_result fresh = {.text = NULL};
    c->r = &fresh;
    c->next = 0;
    int rc = count_all(c);
    c->r = r;
    rc = rc < 0 ? rc : refcounts_rebuild(c->s, &c->counts);
    if (rc < 0) {
        r->check_errors++;
        return rc;
    }
    r->text = text;
    for (guint i = 0; (c->fix & CHECK_FIX_LEAKS) && i < old->len; i++) {
        uint64_t cluster = g_array_index(old, uint64_t, i);
        uint32_t n = counts_get(&c->counts, cluster);
        say(c, "Repairing cluster %" PRIu64 " refcount=%" PRIu32 " reference=%" PRIu32, cluster, n + 1, n);
    }
    r->leaks_fixed += leaks;
    r->corruptions_fixed += errors - min_u64(errors, fresh.corruptions);
    r->leaks = 0;
    r->corruptions = fresh.corruptions;
    c->rebuild = false;
    return 0;
}

/* --- the COPIED flag ---------------------------------------------------------------------------------------------- */

/* True when it must change and may be changed. */
static bool copied_wrong(struct check *c, bool l2_table, uint32_t l1_index, uint64_t e, uint64_t refs)
{
    if ((refs == 1) == ((e & E_COPIED) != 0)) {
        return false;
    }
    bool fixing = c->fix_flags;
    const char *how = fixing ? "Repairing" : "ERROR";
    if (l2_table) {
        say(c, "%s OFLAG_COPIED L2 cluster: l1_index=%" PRIu32 " l1_entry=%" PRIx64 " refcount=%" PRIu64, how, l1_index,
            e, refs);
    } else {
        say(c, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, how, e, refs);
    }
    if (fixing) {
        c->r->corruptions_fixed++;
    } else {
        c->r->corruptions++;
    }
    return fixing;
}

static int copied_entry(struct check *c, uint64_t guest)
{
    struct qcow2 *s = c->s;
    struct q_table *t;
    unsigned i;
    int rc = slice_get(s, guest, &t, &i);
    if (rc < 0 || !t) {
        return rc;
    }
    struct q_entry e = entry_load(s, t->buf->data, i);
    uint64_t off = e.e & L2E_OFFSET, refs = 1;
    if (!entry_has_host(s, e)) {
        return 0;
    }
    if (!s->has_data_file && refcount_get(s, off >> s->cluster_bits, &refs) < 0) {
        return 0; /* told when counters were compared */
    }
    if (!copied_wrong(c, false, 0, e.e, refs)) {
        return 0;
    }
    rc = slice_get(s, guest, &t, &i); /* it may have left the cache */
    uint8_t *data = rc == 0 && t ? table_modify(&s->l2, t) : NULL;
    if (!data) {
        return rc < 0 ? rc : -ENOMEM;
    }
    e.e = refs == 1 ? e.e | E_COPIED : e.e & ~E_COPIED;
    entry_store(s, data, i, e);
    return 0;
}

static int check_copied(struct check *c)
{
    struct qcow2 *s = c->s;
    /* Where only leaks are closed, flags follow the counters as long as nothing else is wrong. */
    bool sound = !c->r->check_errors && !c->r->corruptions && !c->r->leaks;
    c->fix_flags = (c->fix & CHECK_FIX_ERRORS) || (c->fix && sound);
    int rc = 0;
    for (uint32_t i = 0; i < s->h.l1_size && rc == 0; i++) {
        uint64_t off = s->l1[i] & L1E_OFFSET, refs = 0;
        if (off & (s->cluster_size - 1)) {
            continue;
        }
        bool known = !off || refcount_get(s, off >> s->cluster_bits, &refs) == 0;
        if (known && copied_wrong(c, true, i, s->l1[i], refs)) {
            s->l1[i] = refs == 1 ? s->l1[i] | E_COPIED : s->l1[i] & ~E_COPIED;
            bitmap_set(s->l1_dirty, i, 1);
        }
        if (!off || off >= edge_size(s->file)) {
            continue;
        }
        uint64_t first = (uint64_t)i << (s->cluster_bits + s->l2_bits);
        for (uint64_t k = 0; k < UINT64_C(1) << s->l2_bits && rc == 0; k++) {
            if ((k & 1023) == 1023 && c->fix) {
                rc = qcow2_relieve(s);
            }
            rc = rc < 0 ? rc : copied_entry(c, first + (k << s->cluster_bits));
        }
    }
    return rc;
}

/* --- the snapshot table ------------------------------------------------------------------------------------------- */

static int table_failed(struct check *c, int rc, const char *text)
{
    log_error(graph_log(c->s->n->graph), "ERROR %s", text);
    c->r->check_errors++;
    return rc;
}

/* Opening did not read it. What does not fit is dropped when errors are to be repaired. */
static int read_snapshots(struct check *c, struct snap_repair *repair)
{
    struct qcow2 *s = c->s;
    CLEANUP_ERR struct err e = ERR_INIT;
    uint32_t over = s->h.nb_snapshots - min_u64(s->h.nb_snapshots, QCOW2_MAX_SNAPSHOTS);
    bool fixing = c->fix & CHECK_FIX_ERRORS;
    if (over && !fixing) {
        CLEANUP_FREE char *text = g_strdup_printf("snapshot table too large\nYou can force-remove all %" PRIu32
                                                  " overhanging snapshots with qemu-img check -r all",
                                                  over);
        return table_failed(c, -EFBIG, text);
    }
    if (!snaps_place_ok(s)) {
        return table_failed(c, -EINVAL, "snapshot table offset invalid");
    }
    if (over) {
        say(c, "Discarding %" PRIu32 " overhanging snapshots", over);
        s->h.nb_snapshots -= over;
        repair->dropped = over;
    }
    int rc = snaps_load(s, fixing ? repair : NULL, &e);
    if (rc < 0) {
        CLEANUP_FREE char *text = g_strdup_printf("failed to read the snapshot table: %s", err_text(&e));
        return table_failed(c, rc, text);
    }
    s->snapshots_unread = false;
    rc = s->meta ? meta_build(s) : 0;
    if (rc == 0 && repair->dropped) { /* before what they had becomes free */
        rc = header_put32(s, 60, s->h.nb_snapshots);
        rc = rc < 0 ? rc : qcow2_barrier(s);
        c->r->corruptions_fixed += repair->dropped;
    }
    return rc;
}

/* *wrong: how many entries are not as they should be. */
static int check_snapshots(struct check *c, uint64_t *wrong)
{
    struct qcow2 *s = c->s;
    struct snap_repair repair = {.text = c->r->text};
    int rc = s->snapshots_unread ? read_snapshots(c, &repair) : 0;
    *wrong = repair.shortened;
    for (guint i = 0; rc == 0 && s->h.version >= 3 && i < s->snapshots->len; i++) {
        const struct q_snap *x = g_ptr_array_index(s->snapshots, i);
        if (x->extra < 16) { /* version 3 asks for size of VM state and disk */
            say(c, "%s snapshot table entry %u is incomplete", c->fix & CHECK_FIX_ERRORS ? "Repairing" : "ERROR", i);
            ++*wrong;
        }
    }
    return rc;
}

/* Once refcounts can be trusted. */
static int fix_snapshots(struct check *c, uint64_t wrong)
{
    bool fixing = (c->fix & CHECK_FIX_ERRORS) && !c->r->check_errors;
    int rc = fixing && wrong ? snaps_rewrite(c->s) : 0;
    if (fixing && rc == 0) {
        c->r->corruptions_fixed += wrong;
    } else {
        c->r->corruptions += wrong;
    }
    return rc;
}

/* --- entry point -------------------------------------------------------------------------------------------------- */

static int check_run(struct check *c)
{
    uint64_t wrong_snapshots;
    int rc = check_snapshots(c, &wrong_snapshots);
    rc = rc < 0 ? rc : count_all(c);
    rc = rc < 0 ? rc : count_refcounts(c);
    if (rc < 0) {
        return rc;
    }
    struct check_result before = *c->r;
    compare(c, 0);
    if (c->rebuild && (c->fix & CHECK_FIX_ERRORS)) {
        rc = rebuild(c);
    } else if (c->rebuild && c->fix) {
        say(c, "ERROR need to rebuild refcount structures");
        return -EIO;
    } else if (c->fix && (c->r->leaks > before.leaks || c->r->corruptions > before.corruptions)) {
        c->r->leaks = before.leaks;
        c->r->corruptions = before.corruptions;
        compare(c, c->fix);
    }
    rc = rc < 0 ? rc : check_copied(c);
    return rc < 0 ? rc : fix_snapshots(c, wrong_snapshots);
}

/* The flags that said so are cleared when the image is known to be consistent. */
static int settle(struct qcow2 *s, const struct check_result *r)
{
    if (r->check_errors || r->corruptions) {
        return qcow2_writeback(s, true);
    }
    int rc = qcow2_settle(s);
    if (rc == 0 && (s->h.incompat & INC_CORRUPT)) {
        rc = header_set_incompat(s, s->h.incompat & ~(uint64_t)INC_CORRUPT);
    }
    return rc;
}

int qcow2_check(struct node *n, struct check_result *r, unsigned fix, struct err *e)
{
    struct qcow2 *s = n->priv;
    struct check c = {.s = s, .r = r, .fix = fix};
    if (fix && n->read_only) {
        return err_set(e, EACCES, "Image '%s' is read-only: cannot be repaired", n->filename);
    }
    int rc = n->read_only || !s->meta || s->corrupt ? 0 : qcow2_settle(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Image '%s': could not write metadata before the check", n->filename);
    }
    counts_init(&c.counts);
    co_lock(&s->lock);
    r->total_clusters = q_clusters(s, s->n->size);
    r->have_fragmentation = true;
    s->check_text = r->text;
    rc = check_run(&c);
    s->check_text = NULL;
    co_unlock(&s->lock);
    counts_finish(&c.counts);
    if (rc == 0 && fix) {
        n->write_gen++;
        rc = settle(s, r);
    }
    r->check_errors += rc < 0 && r->check_errors == 0;
    return rc;
}
