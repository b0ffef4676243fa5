/* SPDX-License-Identifier: BSD-2-Clause */
#include "model_fs.h"

#include "base/cleanup.h"

#include <string.h>

enum { SECTOR = 512, EXHAUSTIVE = 10, SAMPLES = 400, TORN = 12 };

/* --- the folder ----------------------------------------------------------------------------------------------------
 */

static void op_clear(void *p)
{
    struct model_op *op = p;
    g_free(op->name);
    if (op->data) {
        g_bytes_unref(op->data);
    }
}

static void bytes_free(void *p)
{
    g_byte_array_unref(p);
}

void model_init(struct model *m, bool log)
{
    *m = (struct model){.inodes = g_ptr_array_new_with_free_func(bytes_free)};
    m->names = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (log) {
        m->log = g_array_new(FALSE, TRUE, sizeof(struct model_op));
        g_array_set_clear_func(m->log, op_clear);
    }
}

void model_finish(struct model *m)
{
    g_ptr_array_free(m->inodes, TRUE);
    g_hash_table_destroy(m->names);
    if (m->log) {
        g_array_free(m->log, TRUE);
    }
}

static void log_op(struct model *m, struct model_op op)
{
    if (m->log) {
        op.name = g_strdup(op.name);
        g_array_append_val(m->log, op);
    } else if (op.data) {
        g_bytes_unref(op.data);
    }
}

static int fault(struct model *m)
{
    if (m->fail_in > 1 || !m->fail_in) {
        m->fail_in -= m->fail_in != 0;
        return 0;
    }
    m->fail_in = m->fail_for ? 1 : 0;
    m->fail_for -= m->fail_for != 0;
    m->failed++;
    return m->fail_rc;
}

static unsigned find(const struct model *m, const char *name)
{
    return GPOINTER_TO_UINT(g_hash_table_lookup(m->names, name));
}

static void give_name(struct model *m, const char *name, unsigned inode)
{
    g_hash_table_insert(m->names, g_strdup(name), GUINT_TO_POINTER(inode + 1));
    log_op(m, (struct model_op){.kind = MODEL_NAME, .inode = inode, .name = (char *)(uintptr_t)name});
}

static void take_name(struct model *m, const char *name)
{
    log_op(m, (struct model_op){.kind = MODEL_UNNAME, .name = (char *)(uintptr_t)name});
    g_hash_table_remove(m->names, name);
}

const GByteArray *model_file(const struct model *m, const char *name)
{
    unsigned at = find(m, name);
    return at ? g_ptr_array_index(m->inodes, at - 1) : NULL;
}

/* --- as a writer sees it -------------------------------------------------------------------------------------------
 */

static void *m_open(void *opaque, const char *folder, int *rc)
{
    *rc = 0;
    return opaque;
}

static void m_close(void *dir)
{
}

static int m_read(void *dir, const char *name, size_t most, GByteArray *to)
{
    const GByteArray *is = model_file(dir, name);
    if (!is) {
        return -ENOENT;
    }
    g_byte_array_append(to, is->data, is->len);
    return is->len > most ? -EFBIG : 0;
}

static int m_create(void *dir, const char *name, const char *like)
{
    struct model *m = dir;
    int rc = fault(m);
    if (rc < 0) {
        return rc;
    }
    if (find(m, name)) {
        take_name(m, name);
    }
    g_ptr_array_add(m->inodes, g_byte_array_new());
    give_name(m, name, m->inodes->len - 1);
    return (int)m->inodes->len;
}

static int m_append(void *dir, const char *name)
{
    struct model *m = dir;
    unsigned at = find(m, name);
    return at ? (int)at : m_create(dir, name, NULL);
}

static int m_tail(void *dir, int file, size_t most, GByteArray *to)
{
    struct model *m = dir;
    const GByteArray *b = g_ptr_array_index(m->inodes, file - 1);
    size_t n = MIN(most, b->len);
    if (n) {
        g_byte_array_append(to, b->data + b->len - n, (guint)n);
    }
    return 0;
}

/* A disk that is full takes half of what is written. */
static int m_write(void *dir, int file, const void *data, size_t len)
{
    struct model *m = dir;
    GByteArray *b = g_ptr_array_index(m->inodes, file - 1);
    int rc = fault(m);
    size_t n = rc < 0 ? len / 2 : len;
    log_op(m, (struct model_op){
                  .kind = MODEL_WRITE, .inode = (unsigned)file - 1, .off = b->len, .data = g_bytes_new(data, n)});
    g_byte_array_append(b, data, (guint)n);
    return rc;
}

static int m_sync(void *dir, int file)
{
    struct model *m = dir;
    int rc = fault(m);
    m->syncs++;
    if (rc == 0) {
        log_op(m, (struct model_op){.kind = MODEL_SYNC, .inode = (unsigned)file - 1});
    }
    return rc;
}

static void m_done(void *dir, int file)
{
}

static int m_link(void *dir, const char *from, const char *to)
{
    struct model *m = dir;
    unsigned at = find(m, from);
    int rc = m->no_links ? -EPERM : !at ? -ENOENT : find(m, to) ? -EEXIST : fault(m);
    if (rc == 0) {
        give_name(m, to, at - 1);
    }
    return rc;
}

static int m_rename(void *dir, const char *from, const char *to)
{
    struct model *m = dir;
    unsigned at = find(m, from);
    int rc = at ? fault(m) : -ENOENT;
    if (rc == 0 && at != find(m, to)) {
        give_name(m, to, at - 1);
        take_name(m, from);
    }
    return rc;
}

static int m_unlink(void *dir, const char *name)
{
    struct model *m = dir;
    int rc = find(m, name) ? fault(m) : -ENOENT;
    if (rc == 0) {
        take_name(m, name);
    }
    return rc;
}

static int m_sync_folder(void *dir)
{
    struct model *m = dir;
    int rc = fault(m);
    m->folder_syncs++;
    if (rc == 0) {
        log_op(m, (struct model_op){.kind = MODEL_SYNC_FOLDER});
    }
    return rc;
}

struct config_fs model_fs(struct model *m)
{
    return (struct config_fs){
        .open = m_open,
        .close = m_close,
        .read = m_read,
        .create = m_create,
        .append = m_append,
        .tail = m_tail,
        .write = m_write,
        .sync = m_sync,
        .done = m_done,
        .link = m_link,
        .rename = m_rename,
        .unlink = m_unlink,
        .sync_folder = m_sync_folder,
        .opaque = m,
    };
}

/* --- crashes -------------------------------------------------------------------------------------------------------
 */

struct crashes {
    struct model base;  /* what is durable; its files are shared with images, and not changed */
    GPtrArray *pending; /* struct model_op, which may have happened */
    GRand *rand;
    unsigned at;
    unsigned long n;
    model_crash_fn *fn;
    void *opaque;
};

static GByteArray *inode(struct model *m, unsigned i)
{
    while (m->inodes->len <= i) {
        g_ptr_array_add(m->inodes, g_byte_array_new());
    }
    return g_ptr_array_index(m->inodes, i);
}

/* Copies before it changes, since images share. */
static GByteArray *own_inode(struct model *m, unsigned i)
{
    GByteArray *b = inode(m, i);
    GByteArray *copy = g_byte_array_sized_new(b->len);
    g_byte_array_append(copy, b->data, b->len);
    g_byte_array_unref(b);
    g_ptr_array_index(m->inodes, i) = copy;
    return copy;
}

static void grow(GByteArray *b, size_t size)
{
    guint had = b->len;
    if (size > had) {
        g_byte_array_set_size(b, (guint)size);
        memset(b->data + had, 0, size - had);
    }
}

/* `torn`: sectors by chance; the size may be there without what was written, which is then zeroes. */
static void apply(struct model *m, const struct model_op *op, GRand *torn)
{
    if (op->kind == MODEL_NAME) {
        inode(m, op->inode);
        g_hash_table_insert(m->names, g_strdup(op->name), GUINT_TO_POINTER(op->inode + 1));
    } else if (op->kind == MODEL_UNNAME) {
        g_hash_table_remove(m->names, op->name);
    } else if (op->kind == MODEL_WRITE) {
        GByteArray *b = own_inode(m, op->inode);
        gsize len;
        const uint8_t *data = g_bytes_get_data(op->data, &len);
        if (!torn || g_rand_boolean(torn)) {
            grow(b, op->off + len);
        }
        for (size_t from = 0; from < len;) {
            size_t n = MIN(len - from, SECTOR - (op->off + from) % SECTOR);
            if (!torn || g_rand_boolean(torn)) {
                grow(b, op->off + from + n);
                memcpy(b->data + op->off + from, data + from, n);
            }
            from += n;
        }
    }
}

static void copy_model(struct model *to, const struct model *from)
{
    GHashTableIter it;
    void *name;
    void *at;
    model_init(to, false);
    for (guint i = 0; i < from->inodes->len; i++) {
        g_ptr_array_add(to->inodes, g_byte_array_ref(g_ptr_array_index(from->inodes, i)));
    }
    g_hash_table_iter_init(&it, from->names);
    while (g_hash_table_iter_next(&it, &name, &at)) {
        g_hash_table_insert(to->names, g_strdup(name), at);
    }
}

static void try_one(struct crashes *c, uint64_t subset, bool torn)
{
    struct model image;
    copy_model(&image, &c->base);
    for (guint i = 0; i < c->pending->len; i++) {
        if (subset >> i & 1) {
            apply(&image, g_ptr_array_index(c->pending, i), torn ? c->rand : NULL);
        }
    }
    c->n++;
    c->fn(c->opaque, &image, c->at);
    model_finish(&image);
}

static uint64_t random_subset(struct crashes *c)
{
    uint64_t low = g_rand_int(c->rand);
    return low | (uint64_t)g_rand_int(c->rand) << 32;
}

static void try_all(struct crashes *c)
{
    bool writes = false;
    for (guint i = 0; i < c->pending->len; i++) {
        writes |= ((struct model_op *)g_ptr_array_index(c->pending, i))->kind == MODEL_WRITE;
    }
    g_assert(c->pending->len < 64);
    if (c->pending->len <= EXHAUSTIVE) {
        for (uint64_t s = 0; s < UINT64_C(1) << c->pending->len; s++) {
            try_one(c, s, false);
        }
    } else {
        try_one(c, 0, false);
        try_one(c, UINT64_MAX, false);
        for (unsigned i = 0; i < SAMPLES; i++) {
            try_one(c, random_subset(c), false);
        }
    }
    for (unsigned i = 0; writes && i < TORN; i++) {
        try_one(c, i % 2 ? random_subset(c) : UINT64_MAX, true);
    }
}

/* A sync makes durable what came before it. */
static bool is_covered(const struct model_op *op, const struct model_op *by)
{
    bool name = op->kind == MODEL_NAME || op->kind == MODEL_UNNAME;
    return name ? by->kind == MODEL_SYNC_FOLDER : by->kind == MODEL_SYNC && op->inode == by->inode;
}

static void step(struct crashes *c, struct model_op *op)
{
    if (op->kind != MODEL_SYNC && op->kind != MODEL_SYNC_FOLDER) {
        g_ptr_array_add(c->pending, op);
        return;
    }
    for (guint i = 0; i < c->pending->len;) {
        const struct model_op *was = g_ptr_array_index(c->pending, i);
        if (is_covered(was, op)) {
            apply(&c->base, was, NULL);
            g_ptr_array_remove_index(c->pending, i);
        } else {
            i++;
        }
    }
}

/* Writes to files that have no name any more and get none do not matter. */
static void forget(struct crashes *c)
{
    GHashTableIter it;
    void *at;
    for (guint i = 0; i < c->pending->len;) {
        const struct model_op *op = g_ptr_array_index(c->pending, i);
        bool used = op->kind == MODEL_NAME || op->kind == MODEL_UNNAME;
        g_hash_table_iter_init(&it, c->base.names);
        while (!used && g_hash_table_iter_next(&it, NULL, &at)) {
            used = GPOINTER_TO_UINT(at) == op->inode + 1;
        }
        for (guint k = 0; !used && k < c->pending->len; k++) {
            const struct model_op *other = g_ptr_array_index(c->pending, k);
            used = other->kind == MODEL_NAME && other->inode == op->inode;
        }
        if (used) {
            i++;
        } else {
            g_ptr_array_remove_index(c->pending, i);
        }
    }
}

unsigned long model_crashes(const struct model *m, uint64_t seed, model_crash_fn *fn, void *opaque)
{
    struct crashes c = {
        .pending = g_ptr_array_new(), .rand = g_rand_new_with_seed((guint32)seed), .fn = fn, .opaque = opaque};
    model_init(&c.base, false);
    for (c.at = 0; c.at <= m->log->len; c.at++) {
        if (c.at) {
            step(&c, &g_array_index(m->log, struct model_op, c.at - 1));
        }
        forget(&c);
        try_all(&c);
    }
    g_ptr_array_free(c.pending, TRUE);
    g_rand_free(c.rand);
    model_finish(&c.base);
    return c.n;
}
