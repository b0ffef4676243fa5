/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"

#include <stdatomic.h>

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4, DESC_SIZE = 16 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };

#define MISTAKES_TOLD 10 /* a hostile guest must not fill the log */

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
};

/* --- ring memory: shared with harts that run ---------------------------------------------------------------------- */

static uint16_t ring_load16(const uint8_t *p)
{
    return le16toh(__atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE));
}

static void ring_store16(struct virtio_dev *v, uint8_t *p, uint64_t gpa, uint16_t val)
{
    guest_mem_will_write(v->board->mem, gpa, 2);
    __atomic_store_n((uint16_t *)(void *)p, htole16(val), __ATOMIC_RELEASE);
    guest_mem_mark_written(v->board->mem, gpa, 2);
}

static struct desc desc_load(const uint8_t *table, unsigned i)
{
    const uint8_t *p = table + (size_t)i * DESC_SIZE;
    return (struct desc){load_le64(p), load_le32(p + 8), load_le16(p + 12), load_le16(p + 14)};
}

static uint16_t avail_idx(const struct virtq *q)
{
    return ring_load16(q->avail_host + 2);
}

static uint16_t used_event(const struct virtq *q)
{
    return ring_load16(q->avail_host + 4 + 2 * (size_t)q->num);
}

bool virtq_map(struct virtio_dev *v, struct virtq *q)
{
    struct guest_mem *m = v->board->mem;
    if (q->desc % 16 || q->avail % 2 || q->used % 4) {
        return false;
    }
    q->desc_host = guest_ram_ptr(m, q->desc, (uint64_t)q->num * DESC_SIZE);
    q->avail_host = guest_ram_ptr(m, q->avail, 6 + 2 * (uint64_t)q->num);
    q->used_host = guest_ram_ptr(m, q->used, 6 + 8 * (uint64_t)q->num);
    return q->desc_host && q->avail_host && q->used_host;
}

/* --- interrupts and state, the mutex held ------------------------------------------------------------------------- */

static void raise_isr(struct virtio_dev *v, uint8_t bits)
{
    v->isr |= bits;
    irq_set(&v->irq, true);
}

uint8_t virtio_ack_isr(struct virtio_dev *v, uint8_t bits)
{
    uint8_t old = v->isr;
    v->isr &= (uint8_t)~bits;
    irq_set(&v->irq, v->isr != 0);
    return old;
}

static void set_broken(struct virtio_dev *v, const char *why)
{
    if (v->status & VIRTIO_STATUS_NEEDS_RESET) {
        return;
    }
    if (v->mistakes++ < MISTAKES_TOLD) {
        log_warn(v->board->log, "%s: the guest's driver made a mistake: %s", v->name ? v->name : v->type->name, why);
    }
    v->status |= VIRTIO_STATUS_NEEDS_RESET;
    if (v->status & VIRTIO_STATUS_DRIVER_OK) {
        v->config_generation++;
        raise_isr(v, VIRTIO_ISR_CONFIG);
    }
}

void virtio_broken(struct virtio_dev *v, const char *why)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    set_broken(v, why);
}

bool virtio_has(struct virtio_dev *v, uint64_t feature)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    return (v->driver_features & feature) == feature;
}

void virtio_config_changed(struct virtio_dev *v)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    v->config_generation++;
    if (v->status & VIRTIO_STATUS_DRIVER_OK) {
        raise_isr(v, VIRTIO_ISR_CONFIG);
    }
}

static void clear_queue(struct virtio_dev *v, struct virtq *q)
{
    for (unsigned i = 0; i < sizeof(q->redo); i++) {
        v->n_redo -= (unsigned)__builtin_popcount(q->redo[i]);
    }
    *q = (struct virtq){.num = q->max, .max = q->max};
}

static void clear_state(struct virtio_dev *v)
{
    v->status = 0;
    v->driver_features = 0;
    v->feature_sel = v->driver_feature_sel = 0;
    v->queue_sel = 0;
    v->kicked = 0;
    v->reset_pending = false;
    for (unsigned i = 0; i < v->n_queues; i++) {
        clear_queue(v, &v->vq[i]);
    }
    virtio_ack_isr(v, 0xff);
    if (v->type->cleared) {
        v->type->cleared(v);
    }
}

/* --- life ----------------------------------------------------------------------------------------------------------
 */

static bool may_run(const struct virtio_dev *v)
{
    return !v->paused && !v->reset_pending && (v->status & VIRTIO_STATUS_DRIVER_OK) &&
           !(v->status & VIRTIO_STATUS_NEEDS_RESET);
}

/* What waits in queues that are being reset is let go. */
static void reset_queues(struct virtio_dev *v, uint64_t queues)
{
    for (; queues && v->type->queue_reset; queues &= queues - 1) {
        v->type->queue_reset(v, (unsigned)__builtin_ctzll(queues));
    }
}

static void on_kick(void *opaque)
{
    struct virtio_dev *v = opaque;
    bool run, reset;
    uint64_t resetting = 0;
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
        run = may_run(v);
        reset = v->reset_pending;
        for (unsigned i = 0; i < v->n_queues; i++) {
            resetting |= (uint64_t)v->vq[i].resetting << i;
        }
    }
    if (reset && v->type->reset) {
        v->type->reset(v);
    }
    reset_queues(v, resetting);
    if (!run) {
        return; /* resume or DRIVER_OK asks again for every queue */
    }
    uint64_t qs = atomic_exchange(&v->kicked, 0);
    for (; qs; qs &= qs - 1) {
        v->type->kick(v, (unsigned)__builtin_ctzll(qs));
    }
}

static void kick_all(struct virtio_dev *v)
{
    v->kicked = v->n_queues == 64 ? ~0ull : (1ull << v->n_queues) - 1;
    loop_event_set(v->kick_event);
}

void virtio_init(struct virtio_dev *v, const struct virtio_type *t, struct board *b, unsigned queues,
                 unsigned queue_size)
{
    v->type = t;
    v->board = b;
    v->n_queues = queues;
    v->vq = g_new0(struct virtq, queues);
    v->features = VIRTIO_F_VERSION_1;
    pthread_mutex_init(&v->mutex, NULL);
    v->kick_event = loop_event_create(b->loop, on_kick, v);
    v->scratch_iov = g_new(struct iovec, VIRTIO_SEGS_MAX);
    v->scratch_gpa = g_new(uint64_t, VIRTIO_SEGS_MAX);
    for (unsigned i = 0; i < queues; i++) {
        v->vq[i].num = v->vq[i].max = (uint16_t)queue_size;
    }
}

void virtio_finish(struct virtio_dev *v)
{
    if (!v->type) {
        return;
    }
    guest_mem_forget(v->board->mem, v->kick_event);
    loop_event_destroy(v->kick_event);
    pthread_mutex_destroy(&v->mutex);
    g_free(v->vq);
    g_free(v->scratch_iov);
    g_free(v->scratch_gpa);
    v->type = NULL;
}

void virtio_system_reset(struct virtio_dev *v)
{
    if (v->type->reset) {
        v->type->reset(v);
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    clear_state(v);
}

void virtio_pause(struct virtio_dev *v)
{
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
        v->paused = true;
    }
    while (v->in_flight > v->parked) {
        co_queue_wait(&v->idle_waiters);
    }
}

void virtio_resume(struct virtio_dev *v)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    v->paused = false;
    kick_all(v);
}

/* --- taking requests -------------------------------------------------------------------------------------------------
 */

struct walk {
    struct virtio_dev *v;
    unsigned n, n_out;
    bool awaits; /* pages of RAM that are still to come */
    const char *error;
};

static bool walk_buffer(struct walk *w, const struct desc *d)
{
    struct virtio_dev *v = w->v;
    if (w->n == VIRTIO_SEGS_MAX) {
        w->error = "a chain of too many descriptors";
    } else if (d->len == 0) {
        w->error = "an empty buffer";
    } else if (!(d->flags & DESC_WRITE) && w->n > w->n_out) {
        w->error = "a buffer to read after one to write";
    } else {
        void *p = guest_ram_ptr(v->board->mem, d->addr, d->len);
        if (p) {
            w->awaits |= guest_mem_awaits(v->board->mem, d->addr, d->len, v->kick_event);
            v->scratch_iov[w->n] = (struct iovec){p, d->len};
            v->scratch_gpa[w->n++] = d->addr;
            w->n_out += !(d->flags & DESC_WRITE);
            return true;
        }
        w->error = "a buffer outside RAM";
    }
    return false;
}

/* A table of `n` descriptors from `i` on; at most n steps, so loops end. `depth` 1: in an indirect table. */
static bool walk_table(struct walk *w, const uint8_t *table, unsigned n, unsigned i, unsigned depth)
{
    for (unsigned steps = 0; steps < n; steps++) {
        struct desc d = desc_load(table, i);
        if (d.flags & DESC_INDIRECT) {
            if (depth || (d.flags & DESC_NEXT) || d.len == 0 || d.len % DESC_SIZE || d.len / DESC_SIZE > 65536 ||
                !(w->v->driver_features & VIRTIO_F_INDIRECT_DESC)) {
                w->error = "a bad indirect descriptor";
                return false;
            }
            const uint8_t *sub = guest_ram_ptr(w->v->board->mem, d.addr, d.len);
            if (!sub) {
                w->error = "an indirect table outside RAM";
                return false;
            }
            w->awaits |= guest_mem_awaits(w->v->board->mem, d.addr, d.len, w->v->kick_event);
            return w->awaits || walk_table(w, sub, d.len / DESC_SIZE, 0, 1);
        }
        if (!walk_buffer(w, &d)) {
            return false;
        }
        if (!(d.flags & DESC_NEXT)) {
            return true;
        }
        if (d.next >= n) {
            w->error = "a descriptor's next out of range";
            return false;
        }
        i = d.next;
    }
    w->error = "a loop of descriptors";
    return false;
}

static void will_fill(struct virtio_dev *v, const struct virtio_elem *el)
{
    for (unsigned i = 0; i < el->n_in; i++) {
        guest_mem_will_write(v->board->mem, el->in_gpa[i], el->in_size[i]);
    }
}

static struct virtio_elem *make_elem(struct virtio_dev *v, const struct walk *w, unsigned q, uint16_t head)
{
    unsigned n_in = w->n - w->n_out;
    struct virtio_elem *el = g_malloc(sizeof(*el) + w->n * sizeof(struct iovec) + n_in * (sizeof(uint64_t) + 4));
    *el = (struct virtio_elem){.queue = q, .head = head, .n_out = w->n_out, .n_in = n_in};
    el->iov = (struct iovec *)(void *)(el + 1);
    el->in_gpa = (uint64_t *)(void *)(el->iov + w->n);
    el->in_size = (uint32_t *)(void *)(el->in_gpa + n_in);
    memcpy(el->iov, v->scratch_iov, w->n * sizeof(struct iovec));
    for (unsigned i = 0; i < w->n; i++) {
        if (i < w->n_out) {
            el->out_len += el->iov[i].iov_len;
            guest_mem_will_read(v->board->mem, v->scratch_gpa[i], el->iov[i].iov_len);
        } else {
            el->in_len += el->iov[i].iov_len;
            el->in_gpa[i - w->n_out] = v->scratch_gpa[i];
            el->in_size[i - w->n_out] = (uint32_t)el->iov[i].iov_len;
        }
    }
    will_fill(v, el);
    return el;
}

static void want_kicks(struct virtio_dev *v, struct virtq *q, bool want)
{
    if (v->driver_features & VIRTIO_F_EVENT_IDX) {
        if (want) {
            size_t at = 4 + 8 * (size_t)q->num;
            ring_store16(v, q->used_host + at, q->used + at, q->last_avail);
        }
    } else {
        ring_store16(v, q->used_host, q->used, want ? 0 : USED_NO_NOTIFY);
    }
}

/* Is there one more? If not, asks to be kicked and looks once more, for one that came in between. */
static bool more_avail(struct virtio_dev *v, struct virtq *q)
{
    if (avail_idx(q) != q->last_avail) {
        return true;
    }
    want_kicks(v, q, true);
    atomic_thread_fence(memory_order_seq_cst);
    if (avail_idx(q) == q->last_avail) {
        return false;
    }
    want_kicks(v, q, false);
    return true;
}

/* One that was out when the state was saved: it was taken from the ring then. */
static bool take_redo(struct virtio_dev *v, struct virtq *q, uint16_t *head)
{
    for (unsigned i = 0; i < sizeof(q->redo) && v->n_redo; i++) {
        if (q->redo[i]) {
            *head = (uint16_t)(8 * i + (unsigned)__builtin_ctz(q->redo[i]));
            q->redo[i] &= (uint8_t)(q->redo[i] - 1);
            v->n_redo--;
            return true;
        }
    }
    return false;
}

/* The next entry of the driver's ring; it stays there. */
static bool look_at_ring(struct virtio_dev *v, struct virtq *q, uint16_t *head)
{
    if (!more_avail(v, q)) {
        return false;
    }
    if ((uint16_t)(avail_idx(q) - q->last_avail) > q->num) {
        set_broken(v, "more available entries than the queue has");
        return false;
    }
    *head = ring_load16(q->avail_host + 4 + 2 * (size_t)(q->last_avail % q->num));
    return true;
}

static bool ring_awaits(struct virtio_dev *v, const struct virtq *q)
{
    struct guest_mem *m = v->board->mem;
    bool desc = guest_mem_awaits(m, q->desc, (uint64_t)q->num * DESC_SIZE, v->kick_event);
    bool avail = guest_mem_awaits(m, q->avail, 6 + 2 * (uint64_t)q->num, v->kick_event);
    return guest_mem_awaits(m, q->used, 6 + 8 * (uint64_t)q->num, v->kick_event) || desc || avail;
}

/* The queue is looked at again when they have come. */
static struct virtio_elem *come_later(struct virtio_dev *v, unsigned qn)
{
    atomic_fetch_or(&v->kicked, 1ull << qn);
    return NULL;
}

static void put_redo(struct virtio_dev *v, struct virtq *q, uint16_t head)
{
    q->redo[head / 8] |= (uint8_t)(1u << head % 8);
    v->n_redo++;
}

struct virtio_elem *virtq_pop(struct virtio_dev *v, unsigned qn)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
    struct virtq *q = &v->vq[qn];
    struct walk w = {.v = v};
    uint16_t head = 0;
    if (!may_run(v) || !q->ready || q->resetting) {
        return NULL;
    }
    if (ring_awaits(v, q)) {
        return come_later(v, qn);
    }
    bool again = take_redo(v, q, &head);
    if (!again && !look_at_ring(v, q, &head)) {
        return NULL;
    }
    if (head >= q->num) {
        set_broken(v, "an available entry out of range");
        return NULL;
    }
    if (!walk_table(&w, q->desc_host, q->num, head, 0)) {
        set_broken(v, w.error);
        return NULL;
    }
    if (w.awaits) {
        if (again) {
            put_redo(v, q, head);
        }
        return come_later(v, qn);
    }
    q->last_avail = (uint16_t)(q->last_avail + !again);
    v->in_flight++;
    q->out++;
    return make_elem(v, &w, qn, head);
}

/* --- giving them back
 * -------------------------------------------------------------------------------------------------- */

static bool driver_wants_interrupt(struct virtio_dev *v, struct virtq *q)
{
    atomic_thread_fence(memory_order_seq_cst);
    if (!(v->driver_features & VIRTIO_F_EVENT_IDX)) {
        return !(ring_load16(q->avail_host) & AVAIL_NO_INTERRUPT);
    }
    uint16_t old = q->signalled, new = q->used_idx, event = used_event(q);
    bool valid = q->signalled_valid;
    q->signalled = new;
    q->signalled_valid = true;
    return !valid || (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* One element fewer is out: who waits for that. */
static void one_less(struct virtio_dev *v, struct virtq *q)
{
    v->in_flight--;
    if (--q->out == 0 && q->resetting) {
        clear_queue(v, q);
    }
    if (v->reset_pending && v->in_flight == 0) {
        clear_state(v);
    }
}

static void wake_idle(struct virtio_dev *v)
{
    if (v->in_flight == v->parked) {
        co_queue_wake_all(&v->idle_waiters);
    }
}

void virtq_push(struct virtio_dev *v, struct virtio_elem *el, uint32_t written)
{
    struct guest_mem *mem = v->board->mem;
    for (unsigned i = 0; i < el->n_in; i++) {
        guest_mem_mark_written(mem, el->in_gpa[i], el->in_size[i]);
    }
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
        struct virtq *q = &v->vq[el->queue];
        if (q->ready && !v->reset_pending && !q->resetting) {
            size_t at = 4 + 8 * (size_t)(q->used_idx % q->num);
            guest_mem_will_write(mem, q->used + at, 8);
            store_le32(q->used_host + at, el->head);
            store_le32(q->used_host + at + 4, written);
            guest_mem_mark_written(mem, q->used + at, 8);
            ring_store16(v, q->used_host + 2, q->used + 2, ++q->used_idx);
            if (driver_wants_interrupt(v, q)) {
                raise_isr(v, VIRTIO_ISR_QUEUE);
            }
        }
        one_less(v, q);
    }
    g_free(el);
    wake_idle(v);
}

void virtq_drop(struct virtio_dev *v, struct virtio_elem *el)
{
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&v->mutex);
        one_less(v, &v->vq[el->queue]);
    }
    g_free(el);
    wake_idle(v);
}

void virtq_park(struct virtio_dev *v, const struct virtio_elem *el)
{
    v->vq[el->queue].parked[el->head / 8] |= (uint8_t)(1u << el->head % 8);
    v->parked++;
    wake_idle(v);
}

void virtq_unpark(struct virtio_dev *v, const struct virtio_elem *el)
{
    will_fill(v, el);
    v->vq[el->queue].parked[el->head / 8] &= (uint8_t) ~(1u << el->head % 8);
    v->parked--;
}

/* --- registers
 * ----------------------------------------------------------------------------------------------------------- */

uint32_t virtio_get_features(const struct virtio_dev *v)
{
    return v->feature_sel > 1 ? 0 : (uint32_t)(v->features >> (32 * v->feature_sel));
}

void virtio_set_features(struct virtio_dev *v, uint32_t val)
{
    if (v->driver_feature_sel > 1 || (v->status & VIRTIO_STATUS_FEATURES_OK)) {
        return;
    }
    unsigned shift = 32 * v->driver_feature_sel;
    v->driver_features = (v->driver_features & ~(0xffffffffull << shift)) | (uint64_t)val << shift;
}

uint8_t virtio_get_status(const struct virtio_dev *v)
{
    return v->status;
}

static void driver_reset(struct virtio_dev *v)
{
    if (v->in_flight == 0) {
        clear_state(v);
    } else if (v->status) {
        /* Until the requests under way have ended the status keeps reading as it was: that is how the driver waits. */
        v->reset_pending = true;
        loop_event_set(v->kick_event);
    }
}

void virtio_set_status(struct virtio_dev *v, uint8_t val)
{
    if (val == 0) {
        driver_reset(v);
        return;
    }
    if (v->reset_pending) {
        return;
    }
    if ((val & VIRTIO_STATUS_FEATURES_OK) && !(v->status & VIRTIO_STATUS_FEATURES_OK) &&
        ((v->driver_features & ~v->features) || !(v->driver_features & VIRTIO_F_VERSION_1))) {
        val &= (uint8_t)~VIRTIO_STATUS_FEATURES_OK;
    }
    bool starts = (val & VIRTIO_STATUS_DRIVER_OK) && !(v->status & VIRTIO_STATUS_DRIVER_OK);
    /* Bits are only ever added; NEEDS_RESET is ours. */
    v->status |= val & (uint8_t)~VIRTIO_STATUS_NEEDS_RESET;
    if (starts) {
        kick_all(v);
    }
}

struct virtq *virtio_selected(struct virtio_dev *v)
{
    return v->queue_sel < v->n_queues ? &v->vq[v->queue_sel] : NULL;
}

void virtio_set_queue_num(struct virtio_dev *v, uint32_t num)
{
    struct virtq *q = virtio_selected(v);
    if (q && !q->ready && !v->reset_pending && is_pow2(num) && num <= q->max) {
        q->num = (uint16_t)num;
    }
}

void virtio_set_queue_ready(struct virtio_dev *v, bool ready)
{
    struct virtq *q = virtio_selected(v);
    if (!q || q->ready == ready || v->reset_pending || q->resetting) {
        return;
    }
    if (!ready) {
        if (v->in_flight == 0 && v->n_redo == 0) {
            q->ready = false;
        }
        return;
    }
    if (!virtq_map(v, q)) {
        set_broken(v, "a queue outside RAM");
        return;
    }
    q->ready = true;
}

void virtio_set_queue_reset(struct virtio_dev *v, bool reset)
{
    struct virtq *q = virtio_selected(v);
    if (!q || !reset || v->reset_pending || !(v->driver_features & VIRTIO_F_RING_RESET)) {
        return;
    }
    if (q->out == 0) {
        clear_queue(v, q);
    } else {
        q->resetting = true;
        loop_event_set(v->kick_event);
    }
}

void virtio_notify(struct virtio_dev *v, unsigned q)
{
    if (q < v->n_queues) {
        atomic_fetch_or(&v->kicked, 1ull << q);
        loop_event_set(v->kick_event);
    }
}

uint64_t virtio_config_read(struct virtio_dev *v, uint64_t off, unsigned size)
{
    uint64_t val = 0;
    for (unsigned i = 0; i < size; i++) {
        val |= (uint64_t)(off + i < v->config_size ? v->config[off + i] : 0) << (8 * i);
    }
    return val;
}

void virtio_config_write(struct virtio_dev *v, uint64_t off, uint64_t val, unsigned size)
{
    uint8_t old[VIRTIO_CONFIG_MAX];
    if (!v->type->config_written || !range_ok(off, size, v->config_size)) {
        return;
    }
    memcpy(old, v->config, sizeof(old));
    for (unsigned i = 0; i < size; i++) {
        v->config[off + i] = (uint8_t)(val >> (8 * i));
    }
    v->type->config_written(v, (unsigned)off, size, old);
}
