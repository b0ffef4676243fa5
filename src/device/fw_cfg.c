/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/fw_cfg.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/endian.h"
#include "loop/loop.h"

#include <inttypes.h>
#include <string.h>

#define FILES_MAX 64
#define ITEMS     (FW_CFG_FILE_FIRST + FILES_MAX)
#define NAME_MAX_ 56
#define DMA_SIGN  0x51454d5520434647ull /* "QEMU CFG" */

enum { R_DATA = 0, R_SELECT = 8, R_DMA = 16, R_SIZE = 24 };
enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16 };

struct item {
    uint8_t *data;
    size_t len;
};

struct fw_cfg {
    struct guest_mem *mem;
    uint64_t gpa;
    pthread_mutex_t mutex;
    struct item item[ITEMS];
    char name[FILES_MAX][NAME_MAX_];
    unsigned files;
    /* guest state */
    uint16_t key;
    uint64_t off;
    uint32_t dma_high;
    /* host state: a transfer whose RAM has not come (post-copy); the guest sees that it is not done */
    struct loop_event *again; /* NULL: there is no loop */
    bool waits;
    uint64_t waits_at;
};

static void select_key(struct fw_cfg *f, uint16_t key)
{
    f->key = key & 0xbfff;
    f->off = 0;
}

static const struct item *current(const struct fw_cfg *f)
{
    static const struct item none;
    return f->key < ITEMS ? &f->item[f->key] : &none;
}

static uint8_t next_byte(struct fw_cfg *f)
{
    const struct item *it = current(f);
    return f->off < it->len ? it->data[f->off++] : 0;
}

static int dma_read(struct fw_cfg *f, uint64_t addr, uint32_t len)
{
    static const uint8_t zeroes[4096];
    while (len) {
        const struct item *it = current(f);
        bool past = f->off >= it->len;
        size_t n = min_u64(len, past ? sizeof(zeroes) : it->len - f->off);
        if (guest_mem_write(f->mem, addr, past ? zeroes : it->data + f->off, n) < 0) {
            return -EFAULT;
        }
        f->off += past ? 0 : n;
        addr += n;
        len -= (uint32_t)n;
    }
    return 0;
}

/* struct FWCfgDmaAccess at `at`: control, length, address; big-endian. */
static void dma(struct fw_cfg *f, uint64_t at)
{
    uint8_t d[16], out[4];
    if (guest_mem_read(f->mem, at, d, sizeof(d)) < 0) {
        return; /* nowhere to say so */
    }
    uint32_t control = load_be32(d), len = load_be32(d + 4), result = 0;
    uint64_t addr = load_be64(d + 8);
    if (control & DMA_SELECT) {
        select_key(f, (uint16_t)(control >> 16));
    }
    if (control & DMA_READ) {
        result = guest_ram_ptr(f->mem, addr, len) || !len ? 0 : DMA_ERROR;
        if (!result && dma_read(f, addr, len) < 0) {
            result = DMA_ERROR;
        }
    } else if (control & DMA_WRITE) {
        result = DMA_ERROR; /* every item is read-only */
    } else if (control & DMA_SKIP) {
        f->off = min_u64(f->off + len, current(f)->len);
    }
    store_be32(out, result);
    guest_mem_write(f->mem, at, out, sizeof(out));
}

/* Whether it would touch a page that is missing; on the loop: those are asked for. */
static bool range_missing(struct fw_cfg *f, uint64_t at, uint64_t len, bool ask)
{
    bool missing = ask && guest_mem_awaits(f->mem, at, len, f->again);
    for (uint64_t p = at & ~(uint64_t)(GUEST_PAGE_SIZE - 1); !ask && !missing && p < at + len; p += GUEST_PAGE_SIZE) {
        missing = guest_mem_is_missing(f->mem, p);
    }
    return missing;
}

static bool dma_missing(struct fw_cfg *f, uint64_t at, bool ask)
{
    uint8_t d[16];
    if (!guest_ram_ptr(f->mem, at, sizeof(d))) {
        return false;
    }
    if (range_missing(f, at, sizeof(d), ask)) {
        return true;
    }
    guest_mem_read(f->mem, at, d, sizeof(d));
    uint64_t len = load_be32(d + 4), addr = load_be64(d + 8);
    return load_be32(d) & DMA_READ && guest_ram_ptr(f->mem, addr, len) && range_missing(f, addr, len, ask);
}

/* A register access must not wait: it is done later, which a driver that looks at `control` sees. */
static void begin_dma(struct fw_cfg *f, uint64_t at)
{
    if (f->again && dma_missing(f, at, false)) {
        f->waits = true;
        f->waits_at = at;
        loop_event_set(f->again);
    } else {
        dma(f, at);
    }
}

static void on_again(void *opaque)
{
    struct fw_cfg *f = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    if (f->waits && !dma_missing(f, f->waits_at, true)) {
        f->waits = false;
        dma(f, f->waits_at);
    }
}

static uint64_t cfg_read(void *opaque, uint64_t off, unsigned size)
{
    struct fw_cfg *f = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    uint64_t val = 0;
    if (off < R_SELECT) {
        for (unsigned i = 0; i < size; i++) {
            val |= (uint64_t)next_byte(f) << (8 * i);
        }
    } else if (off >= R_DMA && off + size <= R_SIZE) {
        for (unsigned i = 0; i < size; i++) {
            val |= (DMA_SIGN >> (56 - 8 * (off - R_DMA + i)) & 0xff) << (8 * i);
        }
    }
    return val;
}

static void cfg_write(void *opaque, uint64_t off, uint64_t val, unsigned size)
{
    struct fw_cfg *f = opaque;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    if (off == R_SELECT && size == 2) {
        select_key(f, be16toh((uint16_t)val));
    } else if (off == R_DMA && size == 8) {
        f->dma_high = 0;
        begin_dma(f, be64toh(val));
    } else if (off == R_DMA && size == 4) {
        f->dma_high = be32toh((uint32_t)val);
    } else if (off == R_DMA + 4 && size == 4) {
        uint64_t at = (uint64_t)f->dma_high << 32 | be32toh((uint32_t)val);
        f->dma_high = 0;
        begin_dma(f, at);
    }
}

static const struct mmio_ops cfg_ops = {cfg_read, cfg_write, 1, 8};

void fw_cfg_set(struct fw_cfg *f, uint16_t key, const void *data, size_t len)
{
    if (key < ITEMS) {
        g_free(f->item[key].data);
        f->item[key].data = g_malloc(len + 1);
        memcpy(f->item[key].data, data, len);
        f->item[key].len = len;
    }
}

void fw_cfg_set_u16(struct fw_cfg *f, uint16_t key, uint16_t val)
{
    val = htole16(val);
    fw_cfg_set(f, key, &val, sizeof(val));
}

void fw_cfg_set_u32(struct fw_cfg *f, uint16_t key, uint32_t val)
{
    val = htole32(val);
    fw_cfg_set(f, key, &val, sizeof(val));
}

void fw_cfg_set_u64(struct fw_cfg *f, uint16_t key, uint64_t val)
{
    val = htole64(val);
    fw_cfg_set(f, key, &val, sizeof(val));
}

static void write_directory(struct fw_cfg *f)
{
    uint8_t dir[4 + FILES_MAX * 64] = {0};
    store_be32(dir, f->files);
    for (unsigned i = 0; i < f->files; i++) {
        uint8_t *p = dir + 4 + 64 * (size_t)i;
        store_be32(p, (uint32_t)f->item[FW_CFG_FILE_FIRST + i].len);
        store_be16(p + 4, (uint16_t)(FW_CFG_FILE_FIRST + i));
        memcpy(p + 8, f->name[i], NAME_MAX_);
    }
    fw_cfg_set(f, FW_CFG_FILE_DIR, dir, 4 + 64 * (size_t)f->files);
}

bool fw_cfg_set_file(struct fw_cfg *f, const char *name, const void *data, size_t len)
{
    unsigned i = 0;
    while (i < f->files && strcmp(f->name[i], name) != 0) {
        i++;
    }
    if (i == FILES_MAX || strlen(name) >= NAME_MAX_) {
        return false;
    }
    if (i == f->files) {
        f->files++;
        memset(f->name[i], 0, NAME_MAX_);
        memcpy(f->name[i], name, strlen(name));
    }
    fw_cfg_set(f, (uint16_t)(FW_CFG_FILE_FIRST + i), data, len);
    write_directory(f);
    return true;
}

struct fw_cfg *fw_cfg_create(struct guest_mem *m, uint64_t gpa, struct err *e)
{
    struct fw_cfg *f = g_new0(struct fw_cfg, 1);
    const struct mmio_region r = {"fw_cfg", gpa, R_SIZE, &cfg_ops, f};
    if (mmio_add(m, &r, e) < 0) {
        g_free(f);
        return NULL;
    }
    f->mem = m;
    f->gpa = gpa;
    pthread_mutex_init(&f->mutex, NULL);
    f->again = loop_current() ? loop_event_create(loop_current(), on_again, f) : NULL;
    fw_cfg_set(f, FW_CFG_SIGNATURE, "QEMU", 4);
    fw_cfg_set_u32(f, FW_CFG_ID, 3);
    write_directory(f);
    return f;
}

void fw_cfg_destroy(struct fw_cfg *f)
{
    if (!f) {
        return;
    }
    mmio_remove(f->mem, &cfg_ops, f, f->gpa);
    guest_mem_forget(f->mem, f->again);
    loop_event_destroy(f->again);
    for (unsigned i = 0; i < ITEMS; i++) {
        g_free(f->item[i].data);
    }
    pthread_mutex_destroy(&f->mutex);
    g_free(f);
}

void fw_cfg_reset(struct fw_cfg *f)
{
    select_key(f, 0);
    f->dma_high = 0;
    f->waits = false;
}

/* --- state ------------------------------------------------------------------------------------------------------- */

struct fw_cfg_st {
    uint16_t key;
    uint64_t offset;
    uint32_t dma_high;
};

static const struct state_field fields[] = {
    STATE_U16(struct fw_cfg_st, key, .max = 0xbfff, .help = "selected item"),
    STATE_U64(struct fw_cfg_st, offset, .help = "of the next byte to read"),
    STATE_U32(struct fw_cfg_st, dma_high, .help = "upper half of the DMA address, written before the lower one"),
    {0},
};

static void state_get(void *object, void *st)
{
    struct fw_cfg *f = object;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    *(struct fw_cfg_st *)st = (struct fw_cfg_st){f->key, f->off, f->dma_high};
}

static int state_check(void *object, const void *st, struct err *e)
{
    const struct fw_cfg *f = object;
    const struct fw_cfg_st *s = st;
    uint64_t len = s->key < ITEMS ? f->item[s->key].len : 0;
    if (s->key & 0x4000) {
        return err_set(e, EINVAL, "there is no item 0x%x", s->key);
    }
    if (s->offset > len) {
        return err_set(e, EINVAL, "offset %" PRIu64 " lies behind item 0x%x, which has %" PRIu64 " bytes here",
                       s->offset, s->key, len);
    }
    return 0;
}

static void state_put(void *object, const void *st)
{
    struct fw_cfg *f = object;
    const struct fw_cfg_st *s = st;
    CLEANUP_UNLOCK pthread_mutex_t *m = lock(&f->mutex);
    f->key = s->key;
    f->off = s->offset;
    f->dma_high = s->dma_high;
}

const struct state_section fw_cfg_state = {
    .name = "fw-cfg",
    .version = 1,
    .min_version = 1,
    .size = sizeof(struct fw_cfg_st),
    .fields = fields,
    .get = state_get,
    .check = state_check,
    .put = state_put,
};
