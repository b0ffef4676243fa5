/* SPDX-License-Identifier: BSD-2-Clause */
#include "replay.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <string.h>

enum { SECTOR = 512, SAMPLES = 1 << REPLAY_EXHAUSTIVE };
enum { DROPPED, WHOLE, TORN };

static uint64_t number(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407;
    return *seed >> 33;
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* --- what a disk holds -------------------------------------------------------------------------------------------- */

struct shadow {
    struct memdisk d;
    uint64_t sum; /* of its words: tells contents apart; zeroes do not count */
};

static uint64_t sum(const struct memdisk *d, uint64_t from, uint64_t to)
{
    uint64_t s = 0, end = min_u64(to, d->size);
    for (uint64_t at = from & ~UINT64_C(7); at < end; at += 8) {
        uint64_t word = 0;
        memcpy(&word, d->data + at, min_u64(8, d->size - at));
        s += word ? mix(word + at * UINT64_C(0x9e3779b97f4a7c15)) : 0;
    }
    return s;
}

static void copy(struct shadow *to, const struct shadow *from)
{
    memdisk_copy(&to->d, &from->d);
    to->sum = from->sum;
}

static void set_size(struct shadow *s, uint64_t size)
{
    bool cut = size < s->d.size; /* perhaps within a word */
    s->sum -= cut ? sum(&s->d, size, s->d.size) : 0;
    memdisk_resize(&s->d, size);
    s->sum += cut ? sum(&s->d, size, size + 1) : 0;
}

static void store(struct shadow *s, uint64_t at, uint64_t end, const uint8_t *data)
{
    if (s->d.size < end) {
        set_size(s, end);
    }
    s->sum -= sum(&s->d, at, end);
    memcpy(s->d.data + at, data, end - at);
    s->sum += sum(&s->d, at, end);
}

/* Some sectors of a write: the first, the last, or any. */
static void store_torn(struct shadow *s, const struct mem_op *op, uint64_t *seed)
{
    uint64_t how = number(seed) % 4, pick = number(seed) % (op->len / SECTOR + 1) + 1, i = 0;
    for (uint64_t at = op->off, end = op->off + op->len, stop; at < end; at = stop, i++) {
        stop = min_u64(end, (at | (SECTOR - 1)) + 1);
        bool arrives = how == 0 ? i < pick : how == 1 ? i >= pick : number(seed) % 2;
        if (arrives) {
            store(s, at, stop, op->data + (at - op->off));
        }
    }
}

static void apply(struct shadow *s, const struct mem_op *op, uint8_t state, uint64_t *seed)
{
    if (state == DROPPED) {
        return;
    }
    if (op->kind == MEM_SIZE) {
        set_size(s, op->len);
    } else if (state == TORN) {
        store_torn(s, op, seed);
    } else {
        store(s, op->off, op->off + op->len, op->data);
    }
}

/* --- crashes of one interval -------------------------------------------------------------------------------------- */

struct interval {
    struct replay *r;
    struct shadow base[REPLAY_DISKS], image[REPLAY_DISKS]; /* with all that is certain; one crash */
    GArray *ops;                                           /* unsigned: log entries that are not certain */
    bool overlaps;                                         /* the order of some of them matters, and may be another */
    GHashTable *seen;                                      /* keys of images */
    unsigned at;
    replay_fn *fn;
    void *opaque;
};

static const struct mem_op *op_at(const struct interval *v, unsigned i)
{
    return &g_array_index(v->r->log, struct mem_op, g_array_index(v->ops, unsigned, i));
}

static bool can_tear(const struct mem_op *op)
{
    return op->kind == MEM_WRITE && op->off / SECTOR != (op->off + op->len - 1) / SECTOR;
}

/* A file that becomes shorter keeps its order: what was cut off does not come back. */
static bool find_overlaps(const struct interval *v)
{
    uint64_t size[REPLAY_DISKS];
    bool found = false;
    for (unsigned i = 0; i < v->r->disks; i++) {
        size[i] = v->base[i].d.size;
    }
    for (unsigned i = 0; i < v->ops->len; i++) {
        const struct mem_op *op = op_at(v, i);
        uint64_t *now = &size[op->disk];
        if (op->kind == MEM_SIZE && op->len < *now) {
            return false;
        }
        *now = MAX(*now, op->off + op->len);
        for (unsigned k = 0; k < i && !found && op->kind == MEM_WRITE; k++) {
            const struct mem_op *o = op_at(v, k);
            found =
                o->kind == MEM_WRITE && o->disk == op->disk && o->off < op->off + op->len && op->off < o->off + o->len;
        }
    }
    return found;
}

/* Whether these contents have not been judged yet. */
static bool is_new(struct interval *v)
{
    uint64_t key = v->r->epoch ? v->r->epoch(v->opaque, v->at) : v->at;
    for (unsigned i = 0; i < v->r->disks; i++) {
        key = mix(key ^ v->image[i].sum) + mix(v->image[i].d.size + i);
    }
    return g_hash_table_add(v->seen, GSIZE_TO_POINTER((gsize)key));
}

static void judge(struct interval *v, const uint8_t *state, const char *order)
{
    static const char letters[] = {'-', 'w', 't'};
    if (!is_new(v)) {
        v->r->same++;
        return;
    }
    CLEANUP_FREE char *bits = g_malloc(v->ops->len + 1);
    struct memdisk images[REPLAY_DISKS];
    for (unsigned i = 0; i < v->ops->len; i++) {
        bits[i] = letters[state[i]];
    }
    bits[v->ops->len] = 0;
    CLEANUP_FREE char *what = g_strconcat(bits, order, NULL);
    for (unsigned i = 0; i < v->r->disks; i++) {
        images[i] = v->image[i].d;
    }
    v->r->points++;
    v->fn(v->opaque, images, v->at, what);
    for (unsigned i = 0; i < v->r->disks; i++) {
        v->image[i].d = (struct memdisk){.data = images[i].data, .size = images[i].size, .room = images[i].room};
    }
}

static void as_issued(struct interval *v, const uint8_t *state)
{
    for (unsigned i = 0; i < v->r->disks; i++) {
        copy(&v->image[i], &v->base[i]);
    }
    for (unsigned i = 0; i < v->ops->len; i++) {
        apply(&v->image[op_at(v, i)->disk], op_at(v, i), state[i], &v->r->seed);
    }
    judge(v, state, "");
}

/* Growing comes first. */
static void reordered(struct interval *v, const uint8_t *state, bool backwards)
{
    unsigned n = v->ops->len;
    CLEANUP_FREE unsigned *order = g_malloc0_n(n + 1, sizeof(*order));
    for (unsigned i = 0; i < v->r->disks; i++) {
        copy(&v->image[i], &v->base[i]);
    }
    for (unsigned i = 0; i < n; i++) {
        unsigned k = backwards ? i : number(&v->r->seed) % (i + 1);
        order[i] = order[k];
        order[k] = backwards ? n - 1 - i : i;
        if (op_at(v, i)->kind == MEM_SIZE) {
            apply(&v->image[op_at(v, i)->disk], op_at(v, i), state[i], NULL);
        }
    }
    for (unsigned i = 0; i < n; i++) {
        const struct mem_op *op = op_at(v, order[i]);
        if (op->kind == MEM_WRITE) {
            apply(&v->image[op->disk], op, state[order[i]], &v->r->seed);
        }
    }
    judge(v, state, backwards ? " backwards" : " in disorder");
}

static void every_way(struct interval *v, uint8_t *state)
{
    unsigned torn = 0;
    as_issued(v, state);
    for (unsigned i = 0; i < v->ops->len; i++) {
        if (state[i] == WHOLE && can_tear(op_at(v, i))) {
            state[i] = TORN;
            as_issued(v, state);
            state[i] = WHOLE;
            torn++;
        }
    }
    if (v->overlaps) {
        reordered(v, state, true);
        reordered(v, state, false);
    }
    for (unsigned i = 0; i < v->ops->len && torn > 1; i++) {
        state[i] = state[i] == WHOLE && can_tear(op_at(v, i)) ? TORN : state[i];
    }
    if (torn > 1) {
        as_issued(v, state);
    }
}

static void every_subset(struct interval *v, uint8_t *state)
{
    for (unsigned k = 0; k < 1u << v->ops->len; k++) {
        for (unsigned i = 0; i < v->ops->len; i++) {
            state[i] = k >> i & 1 ? WHOLE : DROPPED;
        }
        every_way(v, state);
    }
}

static void choose(struct interval *v, unsigned how, uint8_t *state)
{
    unsigned n = v->ops->len, pick = number(&v->r->seed) % n;
    for (unsigned i = 0; i < n; i++) {
        bool in = how % 5 == 0   ? i <= pick
                  : how % 5 == 1 ? i != pick
                  : how % 5 == 2 ? i == pick
                  : how % 5 == 3 ? number(&v->r->seed) % 2
                                 : number(&v->r->seed) % 8 != 0;
        state[i] = in ? WHOLE : DROPPED;
    }
}

static void tear(struct interval *v, uint8_t *state)
{
    unsigned n = v->ops->len, how = number(&v->r->seed) % 4, first = number(&v->r->seed) % n;
    for (unsigned k = 0, i = first; k < n && how < 3; k++, i = (i + 1) % n) {
        if (state[i] == WHOLE && can_tear(op_at(v, i)) && (how < 2 || number(&v->r->seed) % 2)) {
            state[i] = TORN;
            if (how < 2) {
                return;
            }
        }
    }
}

static void sample(struct interval *v, uint8_t *state, unsigned count)
{
    unsigned long end = v->r->points + count;
    memset(state, DROPPED, v->ops->len);
    as_issued(v, state);
    memset(state, WHOLE, v->ops->len);
    as_issued(v, state);
    for (unsigned tries = 0; v->r->points < end && tries < 3 * count; tries++) {
        choose(v, tries, state);
        tear(v, state);
        if (v->overlaps && number(&v->r->seed) % 3 == 0) {
            reordered(v, state, false);
        } else {
            as_issued(v, state);
        }
    }
}

static void one_interval(struct interval *v)
{
    unsigned n = v->ops->len, most = v->r->most;
    CLEANUP_FREE uint8_t *state = g_malloc0(n + 1);
    v->overlaps = find_overlaps(v);
    if (n <= REPLAY_EXHAUSTIVE && (!n || !most || (n + 4) << n <= most)) {
        every_subset(v, state);
    } else {
        sample(v, state, most ? most : SAMPLES);
    }
}

/* A flush of `op`'s disk has ended: it covers what had been written when it began. */
static void make_certain(struct interval *v, const struct mem_op *op)
{
    for (unsigned i = 0; i < v->ops->len && g_array_index(v->ops, unsigned, i) < op->off;) {
        const struct mem_op *o = op_at(v, i);
        if (o->disk == op->disk) {
            apply(&v->base[o->disk], o, WHOLE, NULL);
            g_array_remove_index(v->ops, i);
        } else {
            i++;
        }
    }
}

void replay_run(struct replay *r, replay_fn *fn, void *opaque)
{
    struct interval v = {.r = r, .fn = fn, .opaque = opaque};
    v.ops = g_array_new(FALSE, FALSE, sizeof(unsigned));
    v.seen = g_hash_table_new(g_direct_hash, g_direct_equal);
    for (unsigned i = 0; i < r->disks; i++) {
        memdisk_copy(&v.base[i].d, &r->start[i]);
        v.base[i].sum = sum(&v.base[i].d, 0, v.base[i].d.size);
    }
    for (unsigned i = 0; i <= r->log->len; i++) {
        const struct mem_op *op = i < r->log->len ? &g_array_index(r->log, struct mem_op, i) : NULL;
        if (op && op->kind != MEM_FLUSHED) {
            g_array_append_val(v.ops, i);
            continue;
        }
        v.at = i;
        one_interval(&v);
        if (op) {
            make_certain(&v, op);
        }
    }
    for (unsigned i = 0; i < r->disks; i++) {
        memdisk_finish(&v.base[i].d);
        memdisk_finish(&v.image[i].d);
    }
    g_hash_table_unref(v.seen);
    g_array_free(v.ops, TRUE);
}
