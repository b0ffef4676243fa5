/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The machine's state inside of a snapshot: written into one that was taken already and that nothing names yet, while
 * the guest goes on; read from one that stays as it is. The laws are in qcow2.h.
 *
 *     create ─▶ begin ─▶ write… ─▶ settle ─▶ finish        open ─▶ read…
 *     replace ──────────────┤         │
 *        └─────────┴────────┴─────────┴─▶ cancel
 *
 * What replaces the state of a snapshot that is there is named instead of it by one switch, as a new one is.
 */
#include "block/qcow2/snapshots.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/debug.h"

#include <stdlib.h>

enum { PIECE = 2 << 20, TABLES_READ = 64 };

/* An L2 table as the file has it. */
struct table {
    uint64_t offset; /* in the file; 0: nowhere yet */
    uint8_t *data;
};

struct q_state {
    struct qcow2 *s;
    GList link;
    struct q_snap *snap;
    bool reading, replaces, begun, named, over;
    uint64_t *l1;       /* reading: the snapshot's */
    uint64_t first;     /* L1 index of the state's first byte */
    GHashTable *tables; /* L1 index → struct table * */
    GArray *empty; /* uint64_t: L2 tables behind the disk that the L1 table of begin has, and the new one has not */
    uint64_t new_l1, new_l1_size; /* where the table with the state is; 0: nowhere */
    uint64_t spare, spare_n;      /* clusters for the state's beginning, or for giving up */
    struct co_mutex lock;         /* of what is mapped, and of clusters that are written in parts */
};

static void table_free(void *p)
{
    struct table *t = p;
    free(t->data);
    g_free(t);
}

static uint64_t *key_of(uint64_t index)
{
    return g_memdup2(&index, sizeof(index));
}

static struct q_state *state_new(struct qcow2 *s, struct q_snap *snap)
{
    struct q_state *v = g_new0(struct q_state, 1);
    v->s = s;
    v->snap = snap;
    v->tables = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, table_free);
    v->empty = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    v->link.data = v;
    g_queue_push_tail_link(&s->states, &v->link);
    return v;
}

static void state_free(struct q_state *v)
{
    GPtrArray *mine = snaps_new();
    g_ptr_array_add(mine, v->snap);
    g_ptr_array_unref(mine);
    g_queue_unlink(&v->s->states, &v->link);
    g_hash_table_destroy(v->tables);
    g_array_unref(v->empty);
    g_free(v->l1);
    g_free(v);
}

const struct q_snap *state_snapshot(const struct q_state *v)
{
    return v->begun && !v->named && !v->over ? v->snap : NULL;
}

bool states_make(const struct qcow2 *s, const char *name)
{
    for (GList *l = s->states.head; l; l = l->next) {
        const struct q_state *v = l->data;
        if (!v->reading && !v->over && !strcmp(v->snap->info.name, name)) {
            return true;
        }
    }
    return false;
}

bool states_begun(const struct qcow2 *s)
{
    for (GList *l = s->states.head; l; l = l->next) {
        if (state_snapshot(l->data)) {
            return true;
        }
    }
    return false;
}

bool states_read(const struct qcow2 *s, const char *id)
{
    for (GList *l = s->states.head; l; l = l->next) {
        const struct q_state *v = l->data;
        if ((v->reading || (v->replaces && !v->over)) && !strcmp(v->snap->info.id, id)) {
            return true;
        }
    }
    return false;
}

/* --- the dirty bit ------------------------------------------------------------------------------------------------ */

static int set_dirty(struct qcow2 *s)
{
    if (s->h.version < 3 || (s->h.incompat & INC_DIRTY)) {
        return 0;
    }
    co_lock(&s->wb_lock);
    int rc = header_set_incompat(s, s->h.incompat | INC_DIRTY);
    co_unlock(&s->wb_lock);
    return rc;
}

int making_begin(struct qcow2 *s)
{
    s->making++;
    int rc = set_dirty(s);
    if (rc < 0) {
        making_end(s);
    }
    return rc;
}

/* With the last one the dirty bit goes. */
void making_end(struct qcow2 *s)
{
    if (--s->making == 0) {
        (void)qcow2_settle(s); /* else somebody looks at the image once more than needed */
    }
}

/* --- making ------------------------------------------------------------------------------------------------------- */

static uint64_t count_active(const struct qcow2 *s)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->h.l1_size; i++) {
        n += (s->l1[i] & L1E_OFFSET) != 0;
    }
    return n;
}

/*
 * To give up is a switch, which needs clusters, and it must not fail because the file cannot grow: that may be just why
 * it is given up. So there are some, also in the file below, before anything begins; the state uses them first, and
 * leaves them when it goes. As many as tables may have to be copied then.
 */
static uint64_t spare_need(const struct qcow2 *s)
{
    uint64_t l1 = q_clusters(s, max_u64(s->h.l1_size, 1) * 8), table = q_clusters(s, s->snapshots_len) + 1;
    uint64_t n = l1 + table + q_clusters(s, (uint64_t)s->rt_size * 8) + 2 + count_active(s);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        n += (s->reftable[i] & RT_OFFSET) != 0;
    }
    return n;
}

static void spare_free(struct q_state *v)
{
    if (v->spare_n) {
        clusters_free_later(v->s, v->spare, v->spare_n << v->s->cluster_bits, FREE_NEVER);
    }
    v->spare_n = 0;
}

static int spare_take(struct q_state *v)
{
    struct qcow2 *s = v->s;
    uint64_t n = spare_need(s), len = n << s->cluster_bits;
    co_lock(&s->lock);
    int rc = clusters_alloc(s, n, &v->spare);
    if (rc == 0) {
        v->spare_n = n;
        s->file_high = max_u64(s->file_high, v->spare + len);
    }
    co_unlock(&s->lock);
    return rc < 0 ? rc : file_write_zeroes(s, v->spare, len);
}

static int state_create(struct node *n, const struct snapshot *info, void **out, struct err *e)
{
    struct qcow2 *s = n->priv;
    int rc = snapshot_check_new(s, info, e);
    rc = rc < 0 ? rc : vmstate_drop(s); /* which has been applied once, and would go with the L1 table */
    if (rc < 0) {
        return err_is_set(e) ? rc : err_set_errno(e, -rc, "Node '%s'", n->name);
    }
    rc = making_begin(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not update qcow2 header of '%s'", n->filename);
    }
    struct q_state *v = state_new(s, snap_copy(&(struct q_snap){.info = *info}));
    rc = spare_take(v);
    rc = rc < 0 ? rc : qcow2_settle(s); /* so that little is left to do at the instant */
    if (rc < 0) {
        spare_free(v);
        state_free(v);
        making_end(s);
        return err_set_errno(e, -rc, "Node '%s'", n->name);
    }
    *out = v;
    return 0;
}

static int state_replace(struct node *n, const char *id, void **out, struct err *e)
{
    struct qcow2 *s = n->priv;
    const struct q_snap *x = snaps_find(s, id);
    if (!x || s->corrupt) {
        return err_set_errno(e, x ? EIO : ENOENT, "Snapshot '%s' of node '%s'", id, n->name);
    }
    int rc = making_begin(s);
    if (rc < 0) {
        return err_set_errno(e, -rc, "Could not update qcow2 header of '%s'", n->filename);
    }
    struct q_state *v = state_new(s, snap_copy(x));
    v->replaces = true;
    v->first = l1_entries(s, x->info.disk_size);
    *out = v;
    return 0;
}

static int state_begin(void *priv, uint64_t vm_clock_nsec, struct err *e)
{
    struct q_state *v = priv;
    struct qcow2 *s = v->s;
    int64_t now = g_get_real_time();
    v->snap->info.date_sec = (uint32_t)(now / 1000000);
    v->snap->info.date_nsec = (uint32_t)(now % 1000000 * 1000);
    v->snap->info.vm_clock_nsec = vm_clock_nsec;
    v->snap->info.disk_size = s->h.size;
    v->first = l1_entries(s, s->h.size);
    int rc = vmstate_drop(s); /* nothing, unless a snapshot was applied since state_create() */
    co_lock(&s->lock);
    rc = rc < 0 ? rc : snapshot_take(s, v->snap, false);
    co_unlock(&s->lock);
    v->begun = rc == 0;
    return rc < 0 ? err_set_errno(e, -rc, "Could not create snapshot '%s' of node '%s'", v->snap->info.name, s->n->name)
                  : 0;
}

/* The table that an entry of the L1 table stands for. *out NULL: there is none. [co] */
static int table_get(struct q_state *v, uint64_t index, bool make, struct table **out)
{
    struct qcow2 *s = v->s;
    struct table *t = g_hash_table_lookup(v->tables, &index);
    uint64_t off = v->reading && index < v->snap->l1_size ? v->l1[index] & L1E_OFFSET : 0;
    *out = t;
    if (t || (v->reading ? !off : !make)) {
        return 0;
    }
    if (off & (s->cluster_size - 1)) {
        return -EIO;
    }
    t = g_new0(struct table, 1);
    t->data = block_buf_alloc(s->file->child, s->cluster_size);
    if (!t->data) {
        table_free(t);
        return -ENOMEM;
    }
    memset(t->data, 0, s->cluster_size);
    int rc = off ? file_read_buf(s->file, off, s->cluster_size, t->data) : 0;
    if (rc < 0) {
        table_free(t);
        return rc;
    }
    if (v->reading && g_hash_table_size(v->tables) >= TABLES_READ) {
        g_hash_table_remove_all(v->tables);
    }
    g_hash_table_insert(v->tables, key_of(index), t); /* another reader may have been faster: the same */
    *out = t;
    return 0;
}

/* Where `at`, a guest offset, has its entry. */
static int entry_place(struct q_state *v, uint64_t at, bool make, struct table **t, unsigned *i)
{
    const struct qcow2 *s = v->s;
    *i = at >> s->cluster_bits & ((UINT64_C(1) << s->l2_bits) - 1);
    return table_get(v, at >> (s->cluster_bits + s->l2_bits), make, t);
}

/* Of the spare ones as long as there are. */
static int get_clusters(struct q_state *v, unsigned n, uint64_t *host)
{
    struct qcow2 *s = v->s;
    uint64_t len = (uint64_t)n << s->cluster_bits;
    if (v->spare_n >= n) {
        *host = v->spare;
        v->spare += len;
        v->spare_n -= n;
        return 0;
    }
    co_lock(&s->lock);
    int rc = clusters_alloc(s, n, host);
    if (rc == 0) {
        s->file_high = max_u64(s->file_high, *host + len);
    }
    co_unlock(&s->lock);
    return rc;
}

/* Of *n clusters from `at` on: where the first *n are. They get a place if they have none. */
static int map_clusters(struct q_state *v, uint64_t at, uint64_t *n, uint64_t *host)
{
    struct qcow2 *s = v->s;
    struct table *t;
    unsigned i, count = 0;
    int rc = entry_place(v, at, true, &t, &i);
    if (rc < 0) {
        return rc;
    }
    struct q_entry e = entry_load(s, t->data, i);
    if (e.e) {
        *n = 1;
        *host = e.e & L2E_OFFSET;
        return 0;
    }
    while (count < *n && i + count < 1u << s->l2_bits && !entry_load(s, t->data, i + count).e) {
        count++;
    }
    count = v->spare_n ? (unsigned)min_u64(count, v->spare_n) : count;
    rc = get_clusters(v, count, host);
    for (unsigned k = 0; rc == 0 && k < count; k++) {
        entry_store(s, t->data, i + k,
                    (struct q_entry){*host + ((uint64_t)k << s->cluster_bits), s->extl2 ? UINT32_MAX : 0});
    }
    *n = count;
    return rc;
}

static int put(struct qcow2 *s, uint64_t at, uint64_t host, uint64_t len, const void *buf)
{
    struct iovec iov;
    struct iovs x = IOVS_BUF(&iov, (void *)(uintptr_t)buf, len);
    return data_write(s, &(struct q_place){at, host, len}, &x, 0);
}

/* [lock] Bytes within one cluster. */
static int write_part(struct q_state *v, uint64_t at, uint64_t len, const void *buf)
{
    struct qcow2 *s = v->s;
    uint64_t in = at & (s->cluster_size - 1), n = 1, host;
    struct table *t;
    unsigned i;
    uint8_t *b = block_buf_alloc(s->data->child, s->cluster_size);
    int rc = b ? entry_place(v, at, true, &t, &i) : -ENOMEM;
    if (rc == 0) {
        struct iovec iov;
        struct iovs x = IOVS_BUF(&iov, b, s->cluster_size);
        bool there = entry_load(s, t->data, i).e;
        rc = map_clusters(v, at - in, &n, &host);
        memset(b, 0, s->cluster_size);
        rc = rc < 0 || !there ? rc : data_read(s, &(struct q_place){at - in, host, s->cluster_size}, &x, 0);
    }
    if (rc == 0) {
        memcpy(b + in, buf, len);
        rc = put(s, at - in, host, s->cluster_size, b);
    }
    free(b);
    return rc;
}

static int write_piece(struct q_state *v, uint64_t at, uint64_t *len, const void *buf)
{
    struct qcow2 *s = v->s;
    uint64_t in = at & (s->cluster_size - 1), host, n = min_u64(*len, PIECE) >> s->cluster_bits;
    int rc = qcow2_relieve(s);
    if (rc < 0) {
        return rc;
    }
    co_lock(&v->lock);
    if (in || !n) {
        *len = min_u64(*len, s->cluster_size - in);
        rc = write_part(v, at, *len, buf);
        co_unlock(&v->lock);
        return rc;
    }
    rc = map_clusters(v, at, &n, &host);
    co_unlock(&v->lock);
    *len = n << s->cluster_bits;
    return rc < 0 ? rc : put(s, at, host, *len, buf);
}

static int state_write(void *priv, uint64_t off, uint64_t len, const void *buf)
{
    struct q_state *v = priv;
    struct qcow2 *s = v->s;
    uint64_t at, first = v->first << (s->cluster_bits + s->l2_bits);
    block_debug_event_at(s->file->child, "vmstate_save");
    if (!add_ok(first, off, &at) || !range_ok(at, len, INT64_MAX) || l1_entries(s, at + len) > QCOW2_MAX_L1 / 8) {
        return -EFBIG;
    }
    for (const uint8_t *b = buf; len;) {
        uint64_t part = len;
        int rc = write_piece(v, at, &part, b);
        if (rc < 0) {
            return rc;
        }
        at += part;
        b += part;
        len -= part;
    }
    return 0;
}

/* --- finishing ---------------------------------------------------------------------------------------------------- */

static int alloc(struct qcow2 *s, uint64_t bytes, uint64_t *off)
{
    co_lock(&s->lock);
    int rc = *off ? 0 : clusters_alloc(s, q_clusters(s, bytes), off);
    if (rc == 0) {
        s->file_high = max_u64(s->file_high, *off + round_up(bytes, s->cluster_size));
    }
    co_unlock(&s->lock);
    return rc;
}

static int write_tables(struct q_state *v, uint64_t *entries)
{
    GHashTableIter it;
    void *key, *value;
    g_hash_table_iter_init(&it, v->tables);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        struct table *t = value;
        int rc = alloc(v->s, v->s->cluster_size, &t->offset);
        rc = rc < 0 ? rc : file_write_buf(v->s, t->offset, v->s->cluster_size, t->data);
        if (rc < 0) {
            return rc;
        }
        *entries = max_u64(*entries, *(uint64_t *)key + 1);
    }
    return 0;
}

/* The snapshot's entries and those of the state. */
static int write_l1(struct q_state *v, uint64_t entries)
{
    struct qcow2 *s = v->s;
    CLEANUP_FREE uint64_t *old = NULL, *l1 = g_try_malloc0_n(entries, 8);
    uint64_t keep = min_u64(v->first, v->snap->l1_size);
    int rc = l1 ? snap_l1_load(s, v->snap, &old, NULL) : -ENOMEM;
    rc = rc < 0 ? rc : alloc(s, entries * 8, &v->new_l1);
    if (rc < 0) {
        return rc;
    }
    v->new_l1_size = entries;
    g_array_set_size(v->empty, 0);
    for (uint64_t i = keep; i < v->snap->l1_size; i++) {
        uint64_t off = old[i] & L1E_OFFSET;
        if (off) {
            g_array_append_val(v->empty, off);
        }
    }
    for (uint64_t i = 0; i < keep; i++) {
        store_be64(&l1[i], old[i]);
    }
    GHashTableIter it;
    void *key, *value;
    g_hash_table_iter_init(&it, v->tables);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        store_be64(&l1[*(uint64_t *)key], ((struct table *)value)->offset);
    }
    return file_write_buf(s, v->new_l1, entries * 8, l1);
}

static int state_settle(void *priv, struct err *e)
{
    struct q_state *v = priv;
    uint64_t entries = 0;
    int rc = write_tables(v, &entries);
    rc = rc < 0 || !entries ? rc : write_l1(v, entries);
    rc = rc < 0 ? rc : qcow2_refs_stable(v->s);
    return rc < 0 ? err_set_errno(e, -rc, "Snapshot '%s' of node '%s'", v->snap->info.name, v->s->n->name) : 0;
}

/* One write of the header names it. */
static int name_it(struct q_state *v, const struct q_snap *old)
{
    struct qcow2 *s = v->s;
    struct q_switch w;
    int rc = switch_begin(&w, s, false);
    if (rc < 0) {
        return rc;
    }
    g_ptr_array_add(w.snapshots, v->snap);
    w.new_table = true;
    rc = switch_reserve(&w, 0, 0);
    if (v->new_l1) {
        switch_give_up(&w, old->l1_offset, (uint64_t)old->l1_size * 8, FREE_OTHER);
        for (guint i = 0; i < v->empty->len; i++) {
            switch_give_up(&w, g_array_index(v->empty, uint64_t, i), s->cluster_size, FREE_OTHER);
        }
    }
    if (rc < 0) {
        switch_abort(&w);
        return rc;
    }
    rc = switch_commit(&w);
    v->named = snaps_find(s, v->snap->info.id) != NULL; /* it may have failed behind the header's write */
    return rc;
}

/* The same in the place of the snapshot as it was, whose state goes. */
static int exchange(struct q_switch *w, struct q_state *v, const struct q_snap *old, const uint64_t *state)
{
    struct qcow2 *s = v->s;
    for (guint i = 0; i < w->snapshots->len; i++) {
        const struct q_snap *x = g_ptr_array_index(w->snapshots, i);
        if (!strcmp(x->info.id, v->snap->info.id)) {
            w->snapshots->pdata[i] = v->snap;
        }
    }
    w->new_table = true;
    int rc = switch_reserve(w, (uint32_t)max_u64(s->h.l1_size, 1), count_active(s));
    rc = rc < 0 ? rc : switch_leave(w, state, old->l1_size);
    rc = rc < 0 ? rc : switch_reclaim(w, s->l1);
    switch_give_up(w, old->l1_offset, (uint64_t)old->l1_size * 8, FREE_OTHER);
    return rc;
}

static int put_in_place(struct q_state *v, const struct q_snap *old)
{
    struct qcow2 *s = v->s;
    struct q_switch w;
    CLEANUP_FREE uint64_t *l1 = NULL;
    int rc = snap_l1_load(s, old, &l1, NULL);
    rc = rc < 0 ? rc : switch_begin(&w, s, true);
    if (rc < 0) {
        return rc;
    }
    memset(l1, 0, min_u64(v->first, old->l1_size) * 8); /* what is of the disk stays */
    rc = exchange(&w, v, old, l1);
    if (rc < 0) {
        switch_abort(&w);
        return rc;
    }
    rc = switch_commit(&w);
    const struct q_snap *now = snaps_find(s, v->snap->info.id);
    v->named = now && now->l1_offset == v->snap->l1_offset;
    return rc;
}

static int state_finish(void *priv, uint64_t size, struct err *e)
{
    struct q_state *v = priv;
    struct qcow2 *s = v->s;
    struct q_snap old = *v->snap, *x = v->snap;
    if (!v->replaces) {
        g_free(x->info.id);
        x->info.id = snapshot_next_id(s);
    }
    x->info.vm_state_size = size;
    if (v->new_l1) {
        x->l1_offset = v->new_l1;
        x->l1_size = v->new_l1_size;
    }
    co_lock(&s->lock);
    int rc = v->replaces ? put_in_place(v, &old) : name_it(v, &old);
    co_unlock(&s->lock);
    if (rc < 0) {
        if (!v->named) {
            x->l1_offset = old.l1_offset;
            x->l1_size = old.l1_size;
            x->info.vm_state_size = old.info.vm_state_size;
        }
        return err_set_errno(e, -rc, "Could not create snapshot '%s' of node '%s'", x->info.name, s->n->name);
    }
    v->over = true;
    spare_free(v);
    making_end(s);
    return 0;
}

static int state_revert(void *priv, struct err *e)
{
    struct q_state *v = priv;
    return snapshot_put_back(v->s, v->snap, e);
}

/* --- giving up ---------------------------------------------------------------------------------------------------- */

/* Nothing names these. */
static void free_state(struct q_state *v)
{
    struct qcow2 *s = v->s;
    GHashTableIter it;
    void *key, *value;
    g_hash_table_iter_init(&it, v->tables);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        const struct table *t = value;
        for (unsigned i = 0; i < 1u << s->l2_bits; i++) {
            uint64_t off = entry_load(s, t->data, i).e & L2E_OFFSET;
            if (off) {
                clusters_free_later(s, off, s->cluster_size, FREE_SNAPSHOT);
            }
        }
        if (t->offset) {
            clusters_free_later(s, t->offset, s->cluster_size, FREE_SNAPSHOT);
        }
    }
    if (v->new_l1) {
        clusters_free_later(s, v->new_l1, v->new_l1_size * 8, FREE_SNAPSHOT);
    }
    g_hash_table_remove_all(v->tables);
}

static int give_back(struct q_state *v)
{
    struct qcow2 *s = v->s;
    struct q_snap *x = v->named ? snaps_find(s, v->snap->info.id) : v->snap;
    CLEANUP_FREE uint64_t *l1 = NULL;
    if (!x) {
        return 0;
    }
    co_lock(&s->lock);
    int rc = snap_l1_load(s, x, &l1, NULL);
    rc = rc < 0 ? rc : snapshot_give_back(s, x, l1);
    co_unlock(&s->lock);
    return rc;
}

static int state_cancel(void *priv)
{
    struct q_state *v = priv;
    struct qcow2 *s = v->s;
    if (!v->named) {
        free_state(v);
    }
    spare_free(v);
    v->over = true; /* its tables are metadata no more */
    int rc = v->begun ? give_back(v) : 0;
    if (rc == 0) { /* else the dirty bit stays, and with it the next one who opens the image gives it back */
        making_end(s);
    } else if (v->named) {
        s->making--;
    }
    return rc;
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

static int state_open(struct node *n, const char *id, void **out, struct err *e)
{
    struct qcow2 *s = n->priv;
    uint64_t *l1 = NULL;
    const struct q_snap *x = snaps_find(s, id);
    if (!x) {
        return err_set_errno(e, ENOENT, "Snapshot '%s' of node '%s'", id, n->name);
    }
    struct q_state *v = state_new(s, snap_copy(x));
    v->reading = true; /* from now on nobody takes it away */
    v->first = l1_entries(s, x->info.disk_size);
    int rc = snap_l1_load(s, v->snap, &l1, e);
    if (rc < 0) {
        state_free(v);
        return rc;
    }
    v->l1 = l1;
    *out = v;
    return 0;
}

/* What the bytes from `at` on are, at most `len`, within one L2 table. */
static int look(struct q_state *v, uint64_t at, uint64_t len, struct q_run *r)
{
    const struct qcow2 *s = v->s;
    struct table *t;
    unsigned i, unit = 1u << s->sc_bits;
    int rc = entry_place(v, at, false, &t, &i);
    uint64_t mask = s->cluster_size - 1;
    *r = (struct q_run){.type = Q_UNALLOC, .len = min_u64(len, s->cluster_size - (at & mask))};
    if (rc < 0 || !t) {
        return rc;
    }
    for (r->len = 0; r->len < len && i < 1u << s->l2_bits;) {
        uint64_t here = at + r->len;
        struct q_entry e = entry_load(s, t->data, i);
        int type = entry_type(s, e, (here & mask) >> s->sc_bits);
        uint64_t host = type == Q_COMPRESSED ? e.e : (e.e & L2E_OFFSET) + (here & mask);
        if (r->len && (type != r->type || type == Q_COMPRESSED || (type == Q_NORMAL && host != r->host + r->len))) {
            break;
        }
        r->type = type;
        r->host = r->len ? r->host : host;
        r->len += type == Q_COMPRESSED ? s->cluster_size - (here & mask) : unit - (here & (unit - 1));
        i += ((at + r->len) & mask) == 0;
    }
    r->len = min_u64(r->len, len);
    return r->type == Q_INVALID ? -EIO : 0;
}

static int state_read(void *priv, uint64_t off, uint64_t len, void *buf)
{
    struct q_state *v = priv;
    struct qcow2 *s = v->s;
    uint64_t at, first = v->first << (s->cluster_bits + s->l2_bits);
    struct iovec iov;
    struct iovs x = IOVS_BUF(&iov, buf, len);
    block_debug_event_at(s->file->child, "vmstate_load");
    if (!add_ok(first, off, &at) || !range_ok(at, len, INT64_MAX)) {
        return -EFBIG;
    }
    for (size_t done = 0; done < len;) {
        struct q_run r;
        int rc = look(v, at + done, len - done, &r);
        if (rc == 0 && r.type == Q_NORMAL) {
            rc = data_read(s, &(struct q_place){at + done, r.host, r.len}, &x, done);
        } else if (rc == 0 && r.type == Q_COMPRESSED) {
            rc = compressed_read(s, r.host, (at + done) & (s->cluster_size - 1), r.len, &x, done);
        } else if (rc == 0) {
            iovs_fill(&x, done, 0, r.len);
        }
        if (rc < 0) {
            return rc;
        }
        done += r.len;
    }
    return 0;
}

static int state_map(void *priv, uint64_t size, GArray *out)
{
    struct q_state *v = priv;
    struct qcow2 *s = v->s;
    uint64_t first = v->first << (s->cluster_bits + s->l2_bits), end;
    if (s->crypt || s->has_data_file) {
        return -ENOTSUP;
    }
    if (!add_ok(first, size, &end) || end > INT64_MAX) {
        return -EFBIG;
    }
    for (uint64_t done = 0; done < size;) {
        struct q_run r;
        int rc = look(v, first + done, size - done, &r);
        if (rc < 0 || r.type == Q_COMPRESSED) {
            return rc < 0 ? rc : -ENOTSUP;
        }
        struct vmstate_range x = {done, r.len, r.type == Q_NORMAL ? r.host : VMSTATE_ZERO};
        struct vmstate_range *last = out->len ? &g_array_index(out, struct vmstate_range, out->len - 1) : NULL;
        bool joins = last && (x.host == VMSTATE_ZERO ? last->host == VMSTATE_ZERO
                                                     : last->host != VMSTATE_ZERO && last->host + last->len == x.host);
        if (joins) {
            last->len += x.len;
        } else {
            g_array_append_val(out, x);
        }
        done += r.len;
    }
    return 0;
}

static void state_destroy(void *priv)
{
    state_free(priv);
}

const struct snapshot_state_ops qcow2_state_ops = {
    .create = state_create,
    .replace = state_replace,
    .begin = state_begin,
    .write = state_write,
    .settle = state_settle,
    .finish = state_finish,
    .revert = state_revert,
    .cancel = state_cancel,
    .open = state_open,
    .read = state_read,
    .map = state_map,
    .destroy = state_destroy,
};
