/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/cfi_flash.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "block/backend.h"

#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#define BLOCK_SIZE  (256u << 10)
#define BLOCKS      (CFI_FLASH_SIZE / BLOCK_SIZE)
#define BUFFER_SIZE 2048u
#define BUS_WIDTH   4u
#define WORDS_MAX   (BUFFER_SIZE / BUS_WIDTH)
#define READ_CHUNK  (1u << 20)

enum { S_LOCKED = 0x02, S_PROGRAM = 0x10, S_ERASE = 0x20, S_SEQUENCE = 0x30, S_READY = 0x80 };
/* What reads show. */
enum mode { M_ARRAY, M_STATUS, M_ID, M_QUERY, M_LAST = M_QUERY };
/* What the next write is. */
enum step { T_COMMAND, T_WORD, T_ERASE, T_LOCK, T_COUNT, T_DATA, T_CONFIRM, T_LAST = T_CONFIRM };

/* What a guest can see besides the content; the state of the section as it is. */
struct guest_state {
    uint8_t mode, step, status;
    uint32_t at;                 /* where the command was written that the next write belongs to */
    uint32_t words;              /* that are still to come into the buffer */
    uint32_t buffer_at, lo, hi;  /* the buffer's place in the bank; the part of it that was written to */
    uint8_t buffer[BUFFER_SIZE]; /* 0xff where it was not */
    uint8_t locks[BLOCKS / 8];   /* a bit a block */
};

struct cfi_flash {
    struct device dev;
    uint64_t gpa;
    struct backend *backend;
    bool own_backend; /* made from a node name: goes with the device */
    bool read_only, mapped;
    uint8_t *content;
    pthread_mutex_t mutex;
    struct guest_state s;
    enum { OP_NONE, OP_PROGRAM, OP_ERASE } op;
    /* loop thread */
    bool paused;
    bool running; /* the coroutine that does the operation */
    bool stale;   /* a state was put: the node may hold something else now */
    struct loop_event *event;
    struct co_queue idle_waiters;
};

/* --- CFI ---------------------------------------------------------------------------------------------------------- */

/*
 * The query of one of the two devices: 16 MiB in 128 blocks of 128 KiB, buffers of 1 KiB. The longest times (2^10 us
 * times 2^13 for words and buffers, 2^8 ms times 2^5 for blocks) are those that a host's disk may take.
 */
static uint8_t query_byte(unsigned at)
{
    static const uint8_t table[] = {
        'Q',  'R',  'Y', 0x01, 0,   0x31, 0,
        0,    0,    0,   0, /* 0x10: command set, where its table is */
        0x45, 0x55, 0,   0,    10,  10,   8,
        0,    13,   13,  5,    0, /* 0x1b: voltages, times */
        24,   2,    0,   10,   0,   1,    (BLOCKS - 1) & 0xff,
        0,    0,    2, /* 0x27: geometry */
        'P',  'R',  'I', '1',  '0', 0x20, 0,
        0,    0,    0,   1,    0,   0x50, 0, /* 0x31: blocks are locked one by one */
    };
    return at >= 0x10 && at - 0x10 < sizeof(table) ? table[at - 0x10] : 0;
}

static bool is_locked(const struct cfi_flash *f, uint32_t off)
{
    unsigned n = off / BLOCK_SIZE;
    return f->s.locks[n / 8] >> n % 8 & 1;
}

static uint8_t id_byte(const struct cfi_flash *f, uint32_t off)
{
    switch (off % BLOCK_SIZE / BUS_WIDTH) {
    case 0:
        return 0x89; /* Intel */
    case 1:
        return 0x18; /* 28F128J3 */
    case 2:
        return is_locked(f, off);
    default:
        return 0;
    }
}

/* --- reading ------------------------------------------------------------------------------------------------------ */

/* The word on the bus: each of the two devices says the same. */
static uint32_t register_word(const struct cfi_flash *f, uint32_t off)
{
    uint32_t v;
    switch (f->s.mode) {
    case M_STATUS:
        v = f->s.status;
        break;
    case M_ID:
        v = id_byte(f, off);
        break;
    default:
        v = query_byte(off / BUS_WIDTH & 0xff);
        break;
    }
    return v | v << 16;
}

static uint64_t flash_read(void *opaque, uint64_t off, unsigned size)
{
    struct cfi_flash *f = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    uint64_t v = 0;
    if (f->s.mode == M_ARRAY) {
        memcpy(&v, f->content + off, size);
        return le64toh(v);
    }
    v = register_word(f, (uint32_t)off) | (uint64_t)register_word(f, (uint32_t)(off | BUS_WIDTH)) << 32;
    return v >> 8 * (size == 8 ? 0 : off % BUS_WIDTH);
}

/* --- commands, the mutex held --------------------------------------------------------------------------------------
 */

static void show(struct cfi_flash *f, enum mode m)
{
    f->s.mode = m;
    f->s.step = T_COMMAND;
}

static void refuse(struct cfi_flash *f, uint8_t why)
{
    f->s.status |= why;
    show(f, M_STATUS);
}

static void begin(struct cfi_flash *f, int op, uint32_t off)
{
    uint8_t failed = op == OP_ERASE ? S_ERASE : S_PROGRAM;
    if (f->read_only || is_locked(f, off)) {
        refuse(f, failed | (is_locked(f, off) ? S_LOCKED : 0));
        return;
    }
    show(f, M_STATUS);
    f->s.status &= (uint8_t)~S_READY;
    f->op = op;
    loop_event_set(f->event);
}

static void empty_buffer(struct cfi_flash *f, uint32_t off)
{
    memset(f->s.buffer, 0xff, BUFFER_SIZE);
    f->s.buffer_at = round_down(off, BUFFER_SIZE);
    f->s.lo = BUFFER_SIZE;
    f->s.hi = 0;
}

static void fill_buffer(struct cfi_flash *f, uint32_t off, uint32_t val, unsigned size)
{
    uint32_t at = off - f->s.buffer_at;
    for (unsigned i = 0; i < size; i++) {
        f->s.buffer[at + i] &= (uint8_t)(val >> 8 * i);
    }
    f->s.lo = f->s.lo < at ? f->s.lo : at;
    f->s.hi = f->s.hi > at + size ? f->s.hi : at + size;
}

static void lock_block(struct cfi_flash *f, uint32_t off, uint8_t what)
{
    unsigned n = off / BLOCK_SIZE;
    uint8_t bit = (uint8_t)(1u << n % 8);
    if (what == 0x01) {
        f->s.locks[n / 8] |= bit;
    } else if (what == 0xd0) {
        f->s.locks[n / 8] &= (uint8_t)~bit;
    } else {
        refuse(f, S_SEQUENCE);
        return;
    }
    show(f, M_STATUS);
}

static void first_write(struct cfi_flash *f, uint32_t off, uint8_t command)
{
    static const struct {
        uint8_t command, step;
    } steps[] = {{0x40, T_WORD}, {0x10, T_WORD}, {0x20, T_ERASE}, {0x60, T_LOCK}, {0xe8, T_COUNT}};
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (steps[i].command == command) {
            f->s.mode = M_STATUS;
            f->s.step = steps[i].step;
            f->s.at = off;
            return;
        }
    }
    switch (command) {
    case 0x50:
        f->s.status = S_READY;
        break;
    case 0x70:
        show(f, M_STATUS);
        break;
    case 0x90:
        show(f, M_ID);
        break;
    case 0x98:
        show(f, M_QUERY);
        break;
    default:
        show(f, M_ARRAY);
        break;
    }
}

static void expect_words(struct cfi_flash *f, uint32_t n)
{
    if (n > WORDS_MAX) {
        refuse(f, S_SEQUENCE);
        return;
    }
    f->s.words = n;
    f->s.step = T_DATA;
    f->s.lo = BUFFER_SIZE; /* nothing yet */
    f->s.hi = 0;
}

static void buffer_word(struct cfi_flash *f, uint32_t off, uint32_t val, unsigned size)
{
    if (f->s.lo > f->s.hi) {
        empty_buffer(f, off); /* the first one says where it is */
    }
    if (round_down(off, BUFFER_SIZE) != f->s.buffer_at || off / BLOCK_SIZE != f->s.at / BLOCK_SIZE) {
        refuse(f, S_SEQUENCE);
        return;
    }
    fill_buffer(f, off, val, size);
    if (--f->s.words == 0) {
        f->s.step = T_CONFIRM;
    }
}

static void one_write(struct cfi_flash *f, uint32_t off, uint32_t val, unsigned size)
{
    uint8_t low = (uint8_t)val;
    if (f->op) {
        return;
    }
    switch (f->s.step) {
    case T_COMMAND:
        first_write(f, off, low);
        break;
    case T_WORD:
        empty_buffer(f, off);
        fill_buffer(f, off, val, size);
        begin(f, OP_PROGRAM, off);
        break;
    case T_ERASE:
        if (low == 0xd0) {
            f->s.at = off;
            begin(f, OP_ERASE, off);
        } else {
            refuse(f, S_SEQUENCE);
        }
        break;
    case T_LOCK:
        lock_block(f, off, low);
        break;
    case T_COUNT:
        expect_words(f, (val & 0xffff) + 1);
        break;
    case T_DATA:
        buffer_word(f, off, val, size);
        break;
    default:
        if (low == 0xd0) {
            begin(f, OP_PROGRAM, f->s.buffer_at);
        } else {
            refuse(f, S_SEQUENCE);
        }
        break;
    }
}

static void flash_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct cfi_flash *f = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    one_write(f, (uint32_t)off, (uint32_t)val, size == 8 ? BUS_WIDTH : size);
    if (size == 8) { /* two cycles of the bus */
        one_write(f, (uint32_t)off + BUS_WIDTH, (uint32_t)(val >> 32), BUS_WIDTH);
    }
}

static const struct mmio_ops flash_ops = {flash_read, flash_write, 1, 8};

/* --- operations: coroutines ----------------------------------------------------------------------------------------
 */

/* What the operation makes of [*off, *off + *len): g_malloc'd. */
static uint8_t *new_bytes(struct cfi_flash *f, uint32_t *off, uint32_t *len)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    bool erase = f->op == OP_ERASE;
    *off = erase ? round_down(f->s.at, BLOCK_SIZE) : f->s.buffer_at + f->s.lo;
    *len = erase ? BLOCK_SIZE : f->s.hi - f->s.lo;
    uint8_t *out = g_malloc(*len);
    memset(out, 0xff, *len);
    for (uint32_t i = 0; i < *len && !erase; i++) {
        out[i] = f->content[*off + i] & f->s.buffer[f->s.lo + i];
    }
    return out;
}

static void tell_error(struct cfi_flash *f, int rc)
{
    const struct backend *be = f->backend;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "qom-path", json_object_new_string(f->dev.path));
    json_object_object_add(o, "device", json_object_new_string(be->name));
    if (be->root) {
        json_object_object_add(o, "node-name", json_object_new_string(be->root->child->name));
    }
    json_object_object_add(o, "operation", json_object_new_string("write"));
    json_object_object_add(o, "action", json_object_new_string("report"));
    json_object_object_add(o, "nospace", json_object_new_boolean(rc == -ENOSPC));
    json_object_object_add(o, "reason", json_object_new_string(g_strerror(-rc)));
    event_emit(f->dev.board->bus, "BLOCK_IO_ERROR", o);
}

static void operate(void *arg)
{
    struct cfi_flash *f = arg;
    uint32_t off, len;
    uint64_t start = loop_now_ns();
    CLEANUP_FREE uint8_t *bytes = new_bytes(f, &off, &len);
    backend_wait_turn(f->backend, true, len);
    struct edge *root = f->backend->root;
    int rc = root ? edge_write_buf(root, off, len, bytes, REQ_FUA) : -ENOMEDIUM;
    acct_done(&f->backend->stats, ACCT_WRITE, len, start, rc == 0);
    if (rc < 0) {
        tell_error(f, rc);
    }
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
        if (rc == 0) {
            memcpy(f->content + off, bytes, len);
        } else {
            f->s.status |= f->op == OP_ERASE ? S_ERASE : S_PROGRAM;
        }
        f->s.status |= S_READY;
        f->op = OP_NONE;
    }
    f->running = false;
    co_queue_wake_all(&f->idle_waiters);
}

static bool is_busy(struct cfi_flash *f)
{
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    return f->op != OP_NONE;
}

static void on_operation(void *opaque)
{
    struct cfi_flash *f = opaque;
    if (!f->paused && !f->running && is_busy(f)) {
        f->running = true;
        co_start(f->dev.board->loop, operate, f);
    }
}

/* --- the node ------------------------------------------------------------------------------------------------------
 */

/* Content from the node; zeroes are not copied, so that a bank that is mostly empty takes little memory. */
static int read_content(struct cfi_flash *f, uint8_t *content)
{
    struct edge *root = f->backend->root;
    CLEANUP_FREE uint8_t *chunk = g_malloc(READ_CHUNK);
    if (!root) {
        return -ENOMEDIUM;
    }
    for (uint64_t off = 0; off < CFI_FLASH_SIZE;) {
        struct extent x;
        int rc = edge_status(root, off, CFI_FLASH_SIZE - off, &x, NULL);
        uint64_t len = min_u64(x.len, READ_CHUNK);
        if (rc == 0 && !(x.flags & EXT_ZERO)) {
            rc = edge_read_buf(root, off, len, chunk);
            memcpy(content + off, chunk, len);
        }
        if (rc < 0) {
            return rc;
        }
        off += x.flags & EXT_ZERO ? x.len : len;
    }
    return 0;
}

/* The node may have become another's since: a machine with its disks was loaded. */
static void refresh(struct cfi_flash *f)
{
    uint8_t *content = g_malloc0(CFI_FLASH_SIZE);
    int rc = read_content(f, content);
    if (rc < 0) {
        log_error(f->dev.board->log, "%s: reading its content: %s", device_name(&f->dev), g_strerror(-rc));
        f->dev.board->io_error(f->dev.board->opaque);
        g_free(content);
        return;
    }
    {
        CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
        uint8_t *old = f->content;
        f->content = content;
        content = old;
    }
    g_free(content);
    f->stale = false;
}

static int attach(struct cfi_flash *f, struct err *e)
{
    struct device *d = &f->dev;
    struct block_graph *g = d->board->graph;
    const char *drive = device_str(d, "drive");
    struct node *n = node_find(g, drive);
    struct backend *be = n ? NULL : backend_find(g, drive);
    int rc = 0;
    if (!n && (!be || !be->root)) {
        return err_set(e, ENOENT, "Property '%s.drive' can't find value '%s'", d->cls->name, drive);
    }
    if (be && be->dev) {
        return err_set(e, EBUSY, "device '%s': drive '%s' is already in use by device '%s'", device_name(d), drive,
                       be->qdev);
    }
    if (n) {
        rc = backend_create(g, NULL, &be, e);
        f->own_backend = rc == 0;
        f->backend = be;
        rc = rc < 0 ? rc : backend_insert(be, n, !n->read_only, false, e);
    } else {
        rc = backend_claim(be, !be->root->child->read_only, false, e);
    }
    if (rc < 0) {
        return rc;
    }
    f->backend = be;
    be->dev = f;
    be->qdev = g_strdup(device_name(d));
    be->qom_path = g_strdup(d->path);
    f->read_only = !(be->root->perm & PERM_WRITE);
    uint64_t size = edge_size(be->root);
    if (size != CFI_FLASH_SIZE) {
        return err_set(e, EINVAL, "%s device '%s' requires %u bytes, %s block backend provides %" PRIu64 " bytes",
                       d->cls->name, d->path, CFI_FLASH_SIZE, drive, size);
    }
    rc = read_content(f, f->content);
    return rc < 0 ? err_set_errno(e, -rc, "device '%s': could not read '%s'", device_name(d), drive) : 0;
}

static void detach(struct cfi_flash *f)
{
    struct backend *be = take(f->backend);
    if (!be) {
        return;
    }
    be->dev = NULL;
    g_free(take(be->qdev));
    g_free(take(be->qom_path));
    if (f->own_backend) {
        backend_destroy(be);
    }
}

/* --- life ----------------------------------------------------------------------------------------------------------
 */

static void flash_reset(struct device *d)
{
    struct cfi_flash *f = (struct cfi_flash *)d;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    f->s = (struct guest_state){.status = S_READY};
}

static void flash_pause(struct device *d)
{
    struct cfi_flash *f = (struct cfi_flash *)d;
    backend_hurry(f->backend, true);
    on_operation(f);
    while (f->running) {
        co_queue_wait(&f->idle_waiters);
    }
    f->paused = true;
    backend_hurry(f->backend, false);
}

static void flash_resume(struct device *d)
{
    struct cfi_flash *f = (struct cfi_flash *)d;
    if (f->stale) {
        refresh(f);
    }
    f->paused = false;
    on_operation(f);
}

static void finish(struct cfi_flash *f)
{
    detach(f);
    loop_event_destroy(f->event);
    pthread_mutex_destroy(&f->mutex);
    g_free(f->content);
}

static int flash_realize(struct device *d, struct err *e)
{
    struct cfi_flash *f = (struct cfi_flash *)d;
    const struct mmio_region r = {"flash", f->gpa, CFI_FLASH_SIZE, &flash_ops, f};
    pthread_mutex_init(&f->mutex, NULL);
    f->content = g_malloc0(CFI_FLASH_SIZE);
    f->event = loop_event_create(d->board->loop, on_operation, f);
    f->paused = true; /* until the machine resumes its devices */
    flash_reset(d);
    int rc = attach(f, e);
    rc = rc < 0 ? rc : mmio_add(d->board->mem, &r, e);
    if (rc < 0) {
        finish(f);
    }
    return rc;
}

static void flash_unrealize(struct device *d)
{
    struct cfi_flash *f = (struct cfi_flash *)d;
    flash_pause(d);
    mmio_remove(d->board->mem, &flash_ops, f, f->gpa);
    finish(f);
}

int cfi_flash_create(struct board *b, unsigned n, uint64_t gpa, const char *drive, struct device **out, struct err *e)
{
    struct json_object *props = json_object_new_object();
    CLEANUP_FREE char *path = g_strdup_printf("/machine/virt.flash%u", n);
    struct device *d = NULL;
    json_object_object_add(props, "drive", json_object_new_string(drive));
    int rc = device_create_on_board(b, &cfi_flash_class, props, path, &d, e);
    json_object_put(props);
    if (rc < 0) {
        return rc;
    }
    ((struct cfi_flash *)d)->gpa = gpa;
    rc = device_realize(d, e);
    if (rc < 0) {
        device_destroy(d);
        return rc;
    }
    *out = d;
    return 0;
}

/* --- state ----------------------------------------------------------------------------------------------------------
 */

static const struct state_field fields[] = {
    STATE_U8(struct guest_state, mode, .max = M_LAST, .help = "what reads show: array, status, ID, CFI"),
    STATE_U8(struct guest_state, step, .max = T_LAST, .help = "what the next write is: command, word, erase, lock ..."),
    STATE_U8(struct guest_state, status),
    STATE_U32(struct guest_state, at, .max = CFI_FLASH_SIZE - 1, .help = "where the command was written"),
    STATE_U32(struct guest_state, words, .max = WORDS_MAX, .help = "still to come into the buffer"),
    STATE_U32(struct guest_state, buffer_at, .max = CFI_FLASH_SIZE - BUFFER_SIZE),
    STATE_U32(struct guest_state, lo, .max = BUFFER_SIZE, .help = "of what was written to the buffer"),
    STATE_U32(struct guest_state, hi, .max = BUFFER_SIZE),
    STATE_BYTES(struct guest_state, buffer),
    STATE_BYTES(struct guest_state, locks, .help = "a bit a block"),
    {0},
};
static const char *const derived[] = {"content", "op", NULL};

static void state_get(void *object, void *st)
{
    struct cfi_flash *f = object;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    memcpy(st, &f->s, sizeof(f->s));
}

static int state_check(void *object, const void *st, struct err *e)
{
    const struct guest_state *s = st;
    if (!(s->status & S_READY) || s->mode > M_LAST || s->step > T_LAST) {
        return err_set(e, EINVAL, "no flash that stands still has status 0x%02x, mode %u, step %u", s->status, s->mode,
                       s->step);
    }
    if (s->at >= CFI_FLASH_SIZE || s->buffer_at > CFI_FLASH_SIZE - BUFFER_SIZE || s->buffer_at % BUFFER_SIZE ||
        s->hi > BUFFER_SIZE || s->lo > BUFFER_SIZE || (s->step == T_CONFIRM && s->lo >= s->hi)) {
        return err_set(e, EINVAL, "its buffer cannot be at 0x%x, from %u to %u", s->buffer_at, s->lo, s->hi);
    }
    if (s->words > WORDS_MAX || (s->step == T_DATA && !s->words)) {
        return err_set(e, EINVAL, "%u words cannot be still to come", s->words);
    }
    return 0;
}

static void state_put(void *object, const void *st)
{
    struct cfi_flash *f = object;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    memcpy(&f->s, st, sizeof(f->s));
    f->stale = true;
}

static const struct state_section flash_state = {
    .name = "cfi-flash",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct guest_state),
    .fields = fields,
    .derived = derived,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};

static const struct device_prop flash_props[] = {
    {"drive", PROP_DRIVE, .help = "Node name or ID of a block device to use as a backend"},
    {"num-blocks", PROP_INT, "128", .type_name = "uint32"},
    {"sector-length", PROP_INT, "262144", .type_name = "uint64"},
    {"width", PROP_INT, "4", .type_name = "uint8"},
    {"device-width", PROP_INT, "2", .type_name = "uint8"},
    {"big-endian", PROP_BOOL, "off"},
    {NULL},
};
static const struct device_prop *const tables[] = {flash_props, NULL};

const struct device_class cfi_flash_class = {
    .name = "cfi.pflash01",
    .bus = "System",
    .category = "storage",
    .props = tables,
    .size = sizeof(struct cfi_flash),
    .realize = flash_realize,
    .unrealize = flash_unrealize,
    .reset = flash_reset,
    .pause = flash_pause,
    .resume = flash_resume,
    .state = &flash_state,
};
