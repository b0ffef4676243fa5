/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/virtio_blk.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "device/disk.h"
#include "device/virtio.h"
#include "device/virtio_blk_props.h"
#include "device/virtio_mmio.h"
#include "device/virtio_pci.h"
#include "guest/hold.h"

#include <inttypes.h>
#include <string.h>

#define SECTOR         512u
#define SERIAL_LEN     VIRTIO_BLK_SERIAL_LEN
#define MERGE_IOV_MAX  1024
#define MERGE_SIZE_MAX (1u << 20)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };
enum {
    F_SEG_MAX = 1 << 2,
    F_GEOMETRY = 1 << 4,
    F_RO = 1 << 5,
    F_BLK_SIZE = 1 << 6,
    F_FLUSH = 1 << 9,
    F_TOPOLOGY = 1 << 10,
    F_CONFIG_WCE = 1 << 11,
    F_MQ = 1 << 12,
    F_DISCARD = 1 << 13,
    F_WRITE_ZEROES = 1 << 14,
};
/* struct virtio_blk_config */
enum {
    C_CAPACITY = 0,
    C_SEG_MAX = 12,
    C_GEOMETRY = 16,
    C_BLK_SIZE = 20,
    C_PHYSICAL_EXP = 24,
    C_MIN_IO = 26,
    C_OPT_IO = 28,
    C_WRITEBACK = 32,
    C_NUM_QUEUES = 34,
    C_MAX_DISCARD = 36,
    C_MAX_DISCARD_SEG = 40,
    C_DISCARD_ALIGN = 44,
    C_MAX_ZEROES = 48,
    C_MAX_ZEROES_SEG = 52,
    C_ZEROES_MAY_UNMAP = 56,
    C_SIZE = 60,
};

/* One request of the driver; read and write requests that follow each other on the disk are chained and done as one. */
struct request {
    struct virtio_blk *blk;
    struct virtio_elem *el;
    uint32_t type;
    uint64_t off;
    struct iovs data; /* of el->iov, without header and status */
    uint8_t *status;
    struct request *next, *last; /* of a chain; last is right in the first only */
    struct request *parked;      /* list of those that wait for resume */
    uint64_t start_ns;
    uint64_t range_len; /* bytes of a discard or of zeroes */
};

struct virtio_blk {
    struct virtio_dev vdev;
    struct disk disk;
    bool merging, default_wce;
    uint32_t block_size;
    char serial[SERIAL_LEN + 1];
    struct request *parked, **parked_end;
    /* the mode that the driver set, on its way into the state file */
    uint8_t kept_wce; /* what that says */
    bool holding;     /* the harts, meanwhile; under the mutex */
    bool keeping;     /* a coroutine does */
    struct co_queue idle;
    struct loop_event *mode_set;
};

static struct virtio_blk *blk_of(struct virtio_dev *v)
{
    return (struct virtio_blk *)(void *)((char *)v - offsetof(struct virtio_blk, vdev));
}

/* --- the end of a request ---------------------------------------------------------------------------------------- */

static void finish(struct request *r, uint8_t status, size_t written)
{
    log_trace(r->blk->disk.dev->board->log, virtio_blk_req_complete,
              "device %s type %u sector %" PRIu64 " bytes %zu status %u", device_name(r->blk->disk.dev),
              (unsigned)r->type, r->off >> 9, r->data.size, status);
    *r->status = status;
    virtq_push(&r->blk->vdev, r->el, (uint32_t)written + 1);
    g_free(r);
}

/* As what a request counts; false: not at all. */
static bool acct_type_of(const struct request *r, enum acct_type *t)
{
    *t = r->type == T_IN        ? ACCT_READ
         : r->type == T_FLUSH   ? ACCT_FLUSH
         : r->type == T_DISCARD ? ACCT_DISCARD
                                : ACCT_WRITE;
    return r->type != T_GET_ID;
}

static void count(struct request *r, bool ok)
{
    enum acct_type t;
    if (acct_type_of(r, &t)) {
        bool data = r->type == T_IN || r->type == T_OUT;
        acct_done(&r->blk->disk.backend->stats, t, data ? r->data.size : r->range_len, r->start_ns, ok);
    }
}

static void count_invalid(struct request *r)
{
    enum acct_type t;
    if (acct_type_of(r, &t)) {
        acct_invalid(&r->blk->disk.backend->stats, t);
    }
}

static void park(struct request *r)
{
    struct virtio_blk *b = r->blk;
    r->parked = NULL;
    r->next = NULL;
    r->last = r;
    *b->parked_end = r;
    b->parked_end = &r->parked;
    virtq_park(&b->vdev, r->el);
}

/* One request is over with the result rc of the operation it was part of. */
static void conclude(struct request *r, int rc)
{
    struct virtio_blk *b = r->blk;
    bool is_read = r->type == T_IN;
    count(r, rc == 0);
    if (rc < 0 && rc != -ENOTSUP) {
        enum io_error_action a = disk_failed(&b->disk, is_read, rc);
        if (a == IO_ERROR_STOP) {
            park(r);
            return;
        }
        rc = a == IO_ERROR_IGNORE ? 0 : rc;
    }
    uint8_t status = rc == 0 ? S_OK : (rc == -ENOTSUP ? S_UNSUPP : S_IOERR);
    finish(r, status, is_read && rc == 0 ? r->data.size : 0);
}

/* --- doing it: a coroutine ------------------------------------------------------------------------------------------
 */

static bool writeback(struct virtio_blk *b)
{
    return __atomic_load_n(&b->vdev.config[C_WRITEBACK], __ATOMIC_RELAXED);
}

/* The buffers of a chain as one vector; g_malloc'd when there is more than one request. */
static struct iovs gather(struct request *r)
{
    if (!r->next) {
        return r->data;
    }
    struct iovs v = {0};
    for (struct request *i = r; i; i = i->next) {
        v.n += i->data.n;
        v.size += i->data.size;
    }
    v.iov = g_new(struct iovec, v.n);
    int n = 0;
    for (struct request *i = r; i; i = i->next) {
        memcpy(v.iov + n, i->data.iov, (size_t)i->data.n * sizeof(struct iovec));
        n += i->data.n;
    }
    return v;
}

static int transfer(struct request *r)
{
    struct virtio_blk *b = r->blk;
    struct iovs v = gather(r);
    backend_wait_turn(b->disk.backend, r->type == T_OUT, v.size);
    struct edge *root = b->disk.backend->root; /* it may have gone meanwhile */
    int rc = !root             ? -ENOMEDIUM
             : r->type == T_IN ? edge_read(root, r->off, v.size, &v, 0, 0)
                               : edge_write(root, r->off, v.size, &v, 0, writeback(b) ? 0 : REQ_FUA);
    if (r->next) {
        g_free(v.iov);
    }
    return rc;
}

/* Discard and write zeroes carry one segment: sector, number of sectors, flags (bit 0: may unmap). */
static int range_op(struct request *r)
{
    struct virtio_blk *b = r->blk;
    struct edge *root = b->disk.backend->root;
    uint8_t seg[16];
    if (r->data.size != sizeof(seg) || iovs_to_buf(&r->data, 0, seg, sizeof(seg)) != sizeof(seg)) {
        return -EINVAL;
    }
    uint64_t sector = load_le64(seg), len = (uint64_t)load_le32(seg + 8) * SECTOR, off;
    uint32_t flags = load_le32(seg + 12);
    unsigned max = r->type == T_DISCARD ? C_MAX_DISCARD : C_MAX_ZEROES;
    if (flags & ~(r->type == T_DISCARD ? 0u : 1u)) {
        return -ENOTSUP;
    }
    if (!root) {
        return -ENOMEDIUM;
    }
    r->range_len = 0;
    if (!mul_ok(sector, SECTOR, &off) || !range_ok(off, len, edge_size(root)) || off % b->block_size ||
        len % b->block_size || len / SECTOR > load_le32(b->vdev.config + max)) {
        count_invalid(r);
        return -EINVAL;
    }
    r->range_len = len;
    if (!len) {
        return 0;
    }
    int rc =
        r->type == T_DISCARD ? edge_discard(root, off, len) : edge_zero(root, off, len, flags & 1 ? REQ_MAY_UNMAP : 0);
    return rc == 0 && !writeback(b) ? edge_flush(root) : rc;
}

static int perform(struct request *r)
{
    struct edge *root = r->blk->disk.backend->root;
    switch (r->type) {
    case T_IN:
    case T_OUT:
        return transfer(r);
    case T_FLUSH:
        return root ? edge_flush(root) : -ENOMEDIUM;
    default:
        return range_op(r);
    }
}

static void run(void *arg)
{
    struct request *r = arg;
    int rc = perform(r);
    while (r) {
        struct request *next = r->next;
        conclude(r, rc);
        r = next;
    }
}

/* --- taking requests from the driver --------------------------------------------------------------------------------
 */

/* Splits header, data and status; false: the chain cannot be a request. */
static bool parse(struct request *r)
{
    struct virtio_elem *el = r->el;
    struct iovs out = {el->iov, (int)el->n_out, el->out_len}, in = {el->iov + el->n_out, (int)el->n_in, el->in_len};
    uint8_t head[16];
    if (el->out_len < sizeof(head) || el->in_len < 1) {
        return false;
    }
    iovs_to_buf(&out, 0, head, sizeof(head));
    iovs_skip(&out, sizeof(head));
    struct iovec *last = &in.iov[in.n - 1];
    r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
    last->iov_len--;
    in.size--;
    in.n -= last->iov_len == 0;
    r->type = load_le32(head);
    r->data = r->type == T_IN || r->type == T_GET_ID ? in : out;
    if (!mul_ok(load_le64(head + 8), SECTOR, &r->off)) {
        r->off = UINT64_MAX;
    }
    return true;
}

static bool range_is_good(struct request *r)
{
    struct virtio_blk *b = r->blk;
    bool good = r->off % b->block_size == 0 && r->data.size % b->block_size == 0 &&
                range_ok(r->off, r->data.size, load_le64(b->vdev.config + C_CAPACITY) * SECTOR);
    return good;
}

/* Answers at once what needs no I/O; true: it is done. */
static bool answer_now(struct request *r)
{
    struct virtio_blk *b = r->blk;
    switch (r->type) {
    case T_OUT:
        if (!b->disk.may_write) {
            finish(r, S_IOERR, 0);
            return true;
        }
        __attribute__((fallthrough));
    case T_IN:
        if (!range_is_good(r)) {
            count_invalid(r);
            finish(r, S_IOERR, 0);
            return true;
        }
        if (!r->data.size) {
            finish(r, S_OK, 0);
            return true;
        }
        return false;
    case T_GET_ID: {
        size_t n = min_u64(SERIAL_LEN, r->data.size);
        iovs_from_buf(&r->data, 0, b->serial, n);
        finish(r, S_OK, n);
        return true;
    }
    case T_FLUSH:
        return false;
    case T_DISCARD:
    case T_WRITE_ZEROES:
        if (virtio_has(&b->vdev, r->type == T_DISCARD ? F_DISCARD : F_WRITE_ZEROES)) {
            if (b->disk.may_write) {
                return false;
            }
            finish(r, S_IOERR, 0);
            return true;
        }
        __attribute__((fallthrough));
    default:
        finish(r, S_UNSUPP, 0);
        return true;
    }
}

/* Appends r to the chain when it goes on where that ends. */
static bool merge(struct request *chain, struct request *r)
{
    if (!chain || !r->blk->merging || chain->type != r->type || (r->type != T_IN && r->type != T_OUT)) {
        return false;
    }
    const struct request *end = chain->last;
    size_t size = 0;
    int n = 0;
    for (const struct request *i = chain; i; i = i->next) {
        size += i->data.size;
        n += i->data.n;
    }
    if (end->off + end->data.size != r->off || n + r->data.n > MERGE_IOV_MAX || size + r->data.size > MERGE_SIZE_MAX) {
        return false;
    }
    chain->last->next = r;
    chain->last = r;
    r->blk->disk.backend->stats.merged[r->type == T_IN ? ACCT_READ : ACCT_WRITE]++;
    return true;
}

static void submit(struct request *chain)
{
    if (chain) {
        co_start(chain->blk->disk.dev->board->loop, run, chain);
    }
}

static void blk_kick(struct virtio_dev *v, unsigned q)
{
    struct virtio_blk *b = blk_of(v);
    struct request *chain = NULL;
    struct virtio_elem *el;
    while ((el = virtq_pop(v, q))) {
        struct request *r = g_new0(struct request, 1);
        *r = (struct request){.blk = b, .el = el, .last = r, .start_ns = loop_now_ns()};
        if (!parse(r)) {
            virtio_broken(v, "a request without header or status");
            virtq_drop(v, el);
            g_free(r);
            break;
        }
        if (answer_now(r) || merge(chain, r)) {
            continue;
        }
        submit(chain);
        chain = r;
    }
    submit(chain);
}

static struct request *take_parked(struct virtio_blk *b)
{
    struct request *r = take(b->parked);
    b->parked_end = &b->parked;
    return r;
}

static void drop_parked(struct request *r)
{
    virtq_unpark(&r->blk->vdev, r->el);
    virtq_drop(&r->blk->vdev, r->el);
    g_free(r);
}

static void blk_reset(struct virtio_dev *v)
{
    for (struct request *r = take_parked(blk_of(v)), *next; r; r = next) {
        next = r->parked;
        drop_parked(r);
    }
}

static void blk_queue_reset(struct virtio_dev *v, unsigned q)
{
    struct request **at = &blk_of(v)->parked;
    while (*at) {
        struct request *r = *at;
        if (r->el->queue == q) {
            *at = r->parked;
            drop_parked(r);
        } else {
            at = &r->parked;
        }
    }
    blk_of(v)->parked_end = at;
}

/* A driver's mode goes with it: nobody waits until that is written down. */
static void blk_cleared(struct virtio_dev *v)
{
    struct virtio_blk *b = blk_of(v);
    if (v->config[C_WRITEBACK] != b->default_wce) {
        v->config[C_WRITEBACK] = b->default_wce;
        loop_event_set(b->mode_set);
    }
}

/* One change of the mode is written down or taken back; false: there was another meanwhile. */
static bool keep_mode_once(struct virtio_blk *b)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct board *board = b->disk.dev->board;
    uint8_t wce = writeback(b);
    int rc = board->changed(board->opaque, &e);
    if (rc < 0) {
        log_warn(board->log, "%s: the write cache mode that the guest wants is refused: %s", device_name(b->disk.dev),
                 err_text(&e));
    }
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&b->vdev.mutex);
    b->kept_wce = rc < 0 ? b->kept_wce : wce;
    if (rc < 0 && b->holding) {
        __atomic_store_n(&b->vdev.config[C_WRITEBACK], b->kept_wce, __ATOMIC_RELAXED);
    }
    if (rc == 0 && writeback(b) != wce) {
        return false;
    }
    if (b->holding) {
        b->holding = false;
        guest_let_go(board->mem);
    }
    return true;
}

static void keep_mode(void *arg)
{
    struct virtio_blk *b = arg;
    while (!keep_mode_once(b)) {
    }
    b->keeping = false;
    co_queue_wake_all(&b->idle);
}

static void on_mode_set(void *opaque)
{
    struct virtio_blk *b = opaque;
    if (!b->keeping && (b->holding || writeback(b) != b->kept_wce)) {
        b->keeping = true;
        co_start(b->disk.dev->board->loop, keep_mode, b);
    }
}

static void wait_for_mode(struct virtio_blk *b)
{
    on_mode_set(b);
    while (b->keeping) {
        co_queue_wait(&b->idle);
    }
}

/* The guest goes on when a restart would find the mode. */
static void set_mode(struct virtio_blk *b, uint8_t wce)
{
    if (wce != writeback(b)) {
        __atomic_store_n(&b->vdev.config[C_WRITEBACK], wce, __ATOMIC_RELAXED);
        if (!b->holding) {
            b->holding = true;
            guest_hold(b->vdev.board->mem);
        }
        loop_event_set(b->mode_set);
    }
}

static void blk_make_up(struct virtio_blk *b, struct json_object *o)
{
    bool on = writeback(b);
    if (on != b->default_wce) {
        json_object_object_del(o, "write-cache");
        json_object_object_add(o, "write-cache", json_object_new_string(on ? "on" : "off"));
    }
}

static void blk_config_written(struct virtio_dev *v, unsigned off, unsigned size, const uint8_t *old)
{
    uint8_t wce = v->config[C_WRITEBACK];
    memcpy(v->config, old, v->config_size);
    if (off <= C_WRITEBACK && off + size > C_WRITEBACK && (v->driver_features & F_CONFIG_WCE)) {
        set_mode(blk_of(v), wce & 1);
    }
}

static void set_capacity(struct virtio_blk *b)
{
    uint64_t size = b->disk.backend->root ? edge_size(b->disk.backend->root) : 0;
    uint64_t sectors = round_down(size, b->block_size) / SECTOR;
    uint8_t *c = b->vdev.config;
    uint64_t cyls = sectors / (16 * 63);
    store_le64(c + C_CAPACITY, sectors);
    store_le16(c + C_GEOMETRY, (uint16_t)(cyls > 16383 ? 16383 : (cyls < 2 ? 2 : cyls)));
    c[C_GEOMETRY + 2] = 16;
    c[C_GEOMETRY + 3] = 63;
}

static bool blk_config_varies(unsigned off)
{
    return off < C_CAPACITY + 8 || (off >= C_GEOMETRY && off < C_GEOMETRY + 4) || off == C_WRITEBACK;
}

/* The disk here may have another size than the guest was told: it is told, as of a resize. */
static void blk_loaded(struct virtio_dev *v)
{
    uint8_t before[8];
    memcpy(before, v->config + C_CAPACITY, sizeof(before));
    v->config[C_WRITEBACK] &= 1;
    loop_event_set(blk_of(v)->mode_set);
    set_capacity(blk_of(v));
    if (memcmp(before, v->config + C_CAPACITY, sizeof(before)) != 0) {
        virtio_config_changed(v);
    }
}

static const struct virtio_type blk_type = {
    .name = "virtio-blk",
    .id = 2,
    .kick = blk_kick,
    .reset = blk_reset,
    .queue_reset = blk_queue_reset,
    .cleared = blk_cleared,
    .config_written = blk_config_written,
    .config_varies = blk_config_varies,
    .loaded = blk_loaded,
};

/* Requests that wait for their limit go now. */
static void blk_pause(struct virtio_blk *b)
{
    backend_hurry(b->disk.backend, true);
    virtio_pause(&b->vdev);
    wait_for_mode(b);
    backend_hurry(b->disk.backend, false);
}

static void blk_resume(struct virtio_blk *b)
{
    if (b->parked) {
        b->disk.backend->io_status = "ok";
    }
    for (struct request *r = take_parked(b), *next; r; r = next) {
        next = r->parked;
        virtq_unpark(&b->vdev, r->el);
        r->start_ns = loop_now_ns();
        submit(r);
    }
    virtio_resume(&b->vdev);
}

/* --- configuration ---------------------------------------------------------------------------------------------------
 */

static void blk_resized(void *opaque)
{
    struct virtio_blk *b = opaque;
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&b->vdev.mutex);
        set_capacity(b);
    }
    virtio_config_changed(&b->vdev);
}

static void set_config(struct virtio_blk *b, unsigned queues, unsigned queue_size)
{
    const struct device *d = b->disk.dev;
    struct virtio_dev *v = &b->vdev;
    uint8_t *c = v->config;
    uint32_t phys = (uint32_t)device_int(d, "physical_block_size");
    uint64_t gran = (uint64_t)device_int(d, "discard_granularity");
    phys = phys > b->block_size ? phys : b->block_size;
    v->config_size = C_SIZE;
    set_capacity(b);
    store_le32(c + C_SEG_MAX, queue_size > 2 ? queue_size - 2 : 1);
    store_le32(c + C_BLK_SIZE, b->block_size);
    c[C_PHYSICAL_EXP] = (uint8_t)log2_floor(phys / b->block_size);
    store_le16(c + C_MIN_IO, (uint16_t)((uint64_t)device_int(d, "min_io_size") / b->block_size));
    store_le32(c + C_OPT_IO, (uint32_t)((uint64_t)device_int(d, "opt_io_size") / b->block_size));
    c[C_WRITEBACK] = b->default_wce;
    store_le16(c + C_NUM_QUEUES, (uint16_t)queues);
    store_le32(c + C_MAX_DISCARD, (uint32_t)device_int(d, "max-discard-sectors"));
    store_le32(c + C_MAX_DISCARD_SEG, 1);
    store_le32(c + C_DISCARD_ALIGN, (uint32_t)((gran == UINT32_MAX ? b->block_size : gran) / SECTOR));
    store_le32(c + C_MAX_ZEROES, (uint32_t)device_int(d, "max-write-zeroes-sectors"));
    store_le32(c + C_MAX_ZEROES_SEG, 1);
    c[C_ZEROES_MAY_UNMAP] = 1;
    v->features |= F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_TOPOLOGY | F_FLUSH;
    v->features |= b->disk.may_write ? 0 : F_RO;
    v->features |= queues > 1 ? F_MQ : 0;
    v->features |= device_bool(d, "config-wce") ? F_CONFIG_WCE : 0;
    v->features |= b->disk.may_write && device_bool(d, "discard") ? F_DISCARD : 0;
    v->features |= b->disk.may_write && device_bool(d, "write-zeroes") ? F_WRITE_ZEROES : 0;
    v->features |= device_bool(d, "indirect_desc") ? VIRTIO_F_INDIRECT_DESC : 0;
    v->features |= device_bool(d, "event_idx") ? VIRTIO_F_EVENT_IDX : 0;
    v->features |= device_bool(d, "queue_reset") ? VIRTIO_F_RING_RESET : 0;
}

static const struct backend_dev_ops blk_backend_ops = {.resized = blk_resized};

/* --- the two classes
 * --------------------------------------------------------------------------------------------------- */

static int blk_realize(struct virtio_blk *b, struct device *d, struct err *e)
{
    b->parked_end = &b->parked;
    int rc = virtio_blk_check_props(d, e);
    if (rc < 0) {
        return rc;
    }
    rc = disk_attach(&b->disk, d, 0, e);
    if (rc < 0) {
        disk_detach(&b->disk);
        return rc;
    }
    unsigned queues = (unsigned)device_int(d, "num-queues"), size = (unsigned)device_int(d, "queue-size");
    queues = queues == 65535 ? d->board->harts : queues;
    b->disk.part = "virtio-backend";
    disk_claim(&b->disk, &blk_backend_ops, b);
    b->default_wce = b->disk.backend->write_cache;
    b->merging = device_bool(d, "request-merging");
    b->block_size = (uint32_t)device_int(d, "logical_block_size");
    const char *serial = device_str(d, "serial");
    memcpy(b->serial, serial ? serial : "", serial ? strlen(serial) : 0);
    virtio_init(&b->vdev, &blk_type, d->board, queues ? queues : 1, size);
    b->vdev.name = device_name(d);
    b->vdev.paused = true; /* until the machine resumes its devices */
    b->kept_wce = b->default_wce;
    b->mode_set = loop_event_create(d->board->loop, on_mode_set, b);
    set_config(b, queues ? queues : 1, size);
    return 0;
}

static void blk_unrealize(struct virtio_blk *b)
{
    blk_pause(b);
    virtio_system_reset(&b->vdev);
    loop_event_destroy(b->mode_set);
    virtio_finish(&b->vdev);
    disk_detach(&b->disk);
}

struct blk_pci {
    struct device dev;
    struct virtio_pci pci;
    struct virtio_blk blk;
};

static bool blk_busy(struct virtio_blk *b)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&b->vdev.mutex);
    return b->vdev.status & VIRTIO_STATUS_DRIVER_OK;
}

static int pci_realize(struct device *d, struct err *e)
{
    struct blk_pci *p = (struct blk_pci *)d;
    int rc = blk_realize(&p->blk, d, e);
    if (rc < 0) {
        return rc;
    }
    rc = virtio_pci_plug(&p->pci, &p->blk.vdev, d, 0x0100, e);
    if (rc < 0) {
        p->blk.vdev.irq = (struct irq_line){0};
        blk_unrealize(&p->blk);
    }
    return rc;
}

static void pci_unrealize(struct device *d)
{
    struct blk_pci *p = (struct blk_pci *)d;
    blk_pause(&p->blk);
    virtio_pci_unplug(&p->pci);
    p->blk.vdev.irq = (struct irq_line){0};
    blk_unrealize(&p->blk);
}

static void pci_reset(struct device *d)
{
    struct blk_pci *p = (struct blk_pci *)d;
    virtio_system_reset(&p->blk.vdev);
    virtio_pci_reset(&p->pci);
}

static void pci_pause(struct device *d)
{
    blk_pause(&((struct blk_pci *)d)->blk);
}

static char *pci_boot_path(struct device *d)
{
    const struct pci_fn *f = &((struct blk_pci *)d)->pci.fn;
    return f->devfn % 8 ? g_strdup_printf("%s/scsi@%x,%x/disk@0,0", d->board->pci_boot_path, f->devfn / 8, f->devfn % 8)
                        : g_strdup_printf("%s/scsi@%x/disk@0,0", d->board->pci_boot_path, f->devfn / 8);
}

static bool pci_busy(struct device *d)
{
    return blk_busy(&((struct blk_pci *)d)->blk);
}

static void pci_make_up(const struct device *d, struct json_object *o)
{
    blk_make_up(&((struct blk_pci *)(uintptr_t)d)->blk, o);
}

static void pci_resume(struct device *d)
{
    blk_resume(&((struct blk_pci *)d)->blk);
}

struct blk_mmio {
    struct device dev;
    struct virtio_blk blk;
};

static const struct device_prop mmio_props[] = {
    {"bus", PROP_STR, .help = "Slot to plug into: virtio-mmio-bus.N (default: the last free one)"},
    {NULL},
};

static int mmio_realize(struct device *d, struct err *e)
{
    struct blk_mmio *p = (struct blk_mmio *)d;
    int rc = blk_realize(&p->blk, d, e);
    if (rc < 0) {
        return rc;
    }
    rc = virtio_mmio_plug(d, &p->blk.vdev, e);
    if (rc < 0) {
        blk_unrealize(&p->blk);
    }
    return rc;
}

static void mmio_unrealize(struct device *d)
{
    struct blk_mmio *p = (struct blk_mmio *)d;
    blk_pause(&p->blk);
    virtio_mmio_unplug(d->board, &p->blk.vdev);
    p->blk.vdev.irq = (struct irq_line){0};
    blk_unrealize(&p->blk);
}

static void mmio_reset(struct device *d)
{
    virtio_system_reset(&((struct blk_mmio *)d)->blk.vdev);
}

static void mmio_pause(struct device *d)
{
    blk_pause(&((struct blk_mmio *)d)->blk);
}

static char *mmio_boot_path(struct device *d)
{
    uint64_t gpa = virtio_mmio_address(d->board, &((struct blk_mmio *)d)->blk.vdev);
    return g_strdup_printf("/virtio-mmio@%016" PRIx64 "/disk@0,0", gpa);
}

static bool mmio_busy(struct device *d)
{
    return blk_busy(&((struct blk_mmio *)d)->blk);
}

static void mmio_make_up(const struct device *d, struct json_object *o)
{
    blk_make_up(&((struct blk_mmio *)(uintptr_t)d)->blk, o);
}

static void mmio_resume(struct device *d)
{
    blk_resume(&((struct blk_mmio *)d)->blk);
}

/* --- state -------------------------------------------------------------------------------------------------------- */

static void pci_state_get(void *d, void *st)
{
    virtio_pci_state_get(&((struct blk_pci *)d)->pci, st);
}

static int pci_state_check(void *d, const void *st, struct err *e)
{
    return virtio_pci_state_check(&((struct blk_pci *)d)->pci, st, e);
}

static void pci_state_put(void *d, const void *st)
{
    virtio_pci_state_put(&((struct blk_pci *)d)->pci, st);
}

static void mmio_state_get(void *d, void *st)
{
    virtio_state_get(&((struct blk_mmio *)d)->blk.vdev, st);
}

static int mmio_state_check(void *d, const void *st, struct err *e)
{
    return virtio_state_check(&((struct blk_mmio *)d)->blk.vdev, st, e);
}

static void mmio_state_put(void *d, const void *st)
{
    virtio_state_put(&((struct blk_mmio *)d)->blk.vdev, st);
}

static const struct state_section pci_state = {
    .name = "virtio-blk-pci",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct virtio_pci_state),
    .fields = virtio_pci_state_fields,
    .subsections = virtio_pci_subsections,
    .derived = virtio_pci_derived,
    .get = pci_state_get,
    .check = pci_state_check,
    .put = pci_state_put,
};

static const struct state_section mmio_state = {
    .name = "virtio-blk-mmio",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct virtio_state),
    .fields = virtio_state_fields,
    .subsections = virtio_mmio_subsections,
    .derived = virtio_mmio_derived,
    .get = mmio_state_get,
    .check = mmio_state_check,
    .put = mmio_state_put,
};

/* --- classes ------------------------------------------------------------------------------------------------------ */

static const struct device_prop *const pci_tables[] = {disk_props, disk_size_props, virtio_blk_props, virtio_pci_props,
                                                       NULL};
static const struct device_prop *const mmio_tables[] = {disk_props, disk_size_props, virtio_blk_props, mmio_props,
                                                        NULL};

const struct device_class virtio_blk_pci_class = {
    .name = "virtio-blk-pci",
    .alias = "virtio-blk",
    .bus = "PCI",
    .category = "storage",
    .props = pci_tables,
    .size = sizeof(struct blk_pci),
    .user_creatable = true,
    .hotpluggable = true,
    .realize = pci_realize,
    .unrealize = pci_unrealize,
    .reset = pci_reset,
    .pause = pci_pause,
    .resume = pci_resume,
    .busy = pci_busy,
    .make_up = pci_make_up,
    .state = &pci_state,
    .boot_path = pci_boot_path,
};

const struct device_class virtio_blk_mmio_class = {
    .name = "virtio-blk-device",
    .bus = "virtio-bus",
    .category = "storage",
    .props = mmio_tables,
    .size = sizeof(struct blk_mmio),
    .user_creatable = true,
    .realize = mmio_realize,
    .unrealize = mmio_unrealize,
    .reset = mmio_reset,
    .pause = mmio_pause,
    .resume = mmio_resume,
    .busy = mmio_busy,
    .make_up = mmio_make_up,
    .state = &mmio_state,
    .boot_path = mmio_boot_path,
};
