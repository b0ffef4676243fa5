/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/postcopy_wire.h"

#include "base/checked.h"
#include "base/crc.h"
#include "base/endian.h"

#include <errno.h>
#include <string.h>

enum { CRC = 4 };

static const char names[PC_TYPES][5] = {"PAGE", "NEED", "HAVE", "LEFT", "ALLD"};

static uint64_t pages_of(const struct guest_ram *r)
{
    return r->size >> GUEST_PAGE_BITS;
}

static size_t map_bytes(const struct guest_ram *r)
{
    return (size_t)(pages_of(r) + 63) / 64 * 8;
}

GByteArray *pc_begin(enum pc_type type)
{
    GByteArray *b = g_byte_array_new();
    uint8_t head[PC_HEAD] = {0};
    memcpy(head, names[type], 4);
    return g_byte_array_append(b, head, sizeof(head));
}

void pc_append_run(GByteArray *b, const struct pc_run *r, unsigned last)
{
    uint8_t e[PC_ENTRY];
    store_le64(e, r->first);
    store_le32(e + 8, r->pages);
    store_le16(e + 12, (uint16_t)r->block);
    store_le16(e + 14, (uint16_t)last);
    g_byte_array_append(b, e, sizeof(e));
}

int pc_send(struct channel *ch, GByteArray *b)
{
    uint8_t crc[CRC];
    store_le64(b->data + 8, b->len - PC_HEAD);
    store_le32(crc, crc32c(0, b->data, b->len));
    g_byte_array_append(b, crc, sizeof(crc));
    int rc = channel_write(ch, b->data, b->len);
    g_byte_array_unref(b);
    return rc;
}

/* A LEFT is as long as the machine's RAM asks for, and is no longer than this for 1 TiB. */
static uint64_t longest(enum pc_type t)
{
    static const uint64_t most[PC_TYPES] = {
        [PC_PAGE] = PC_ENTRY + (uint64_t)PC_PAGES_MAX * GUEST_PAGE_SIZE,
        [PC_NEED] = (uint64_t)PC_NEEDS_MAX * PC_ENTRY,
        [PC_HAVE] = 8,
        [PC_LEFT] = 64 << 20,
    };
    return most[t];
}

int pc_read(struct channel *ch, enum pc_type *type, GByteArray *body)
{
    uint8_t head[PC_HEAD], crc[CRC];
    int rc = channel_read_all(ch, head, sizeof(head), UINT64_MAX);
    if (rc < 0) {
        return rc;
    }
    for (*type = 0; *type < PC_TYPES && memcmp(head, names[*type], 4) != 0; ++*type) {
    }
    uint64_t len = load_le64(head + 8);
    if (*type == PC_TYPES || load_le32(head + 4) || len > longest(*type)) {
        return -EBADMSG;
    }
    g_byte_array_set_size(body, (guint)len);
    rc = channel_read_all(ch, body->data, len, UINT64_MAX);
    rc = rc < 0 ? rc : channel_read_all(ch, crc, sizeof(crc), UINT64_MAX);
    return rc < 0 ? rc : load_le32(crc) == crc32c(crc32c(0, head, sizeof(head)), body->data, body->len) ? 0 : -EBADMSG;
}

bool pc_run_at(struct vm *vm, const GByteArray *body, size_t off, struct pc_run *r, unsigned *last)
{
    if (off + PC_ENTRY > body->len) {
        return false;
    }
    const uint8_t *e = body->data + off;
    *r = (struct pc_run){.first = load_le64(e), .pages = load_le32(e + 8), .block = load_le16(e + 12)};
    *last = load_le16(e + 14);
    const struct guest_ram *ram = guest_ram_get(vm->mem, r->block);
    return ram && r->pages && r->pages <= PC_PAGES_MAX && range_ok(r->first, r->pages, pages_of(ram));
}

/* --- LEFT ---------------------------------------------------------------------------------------------------------
 */

size_t pc_left_bytes(struct vm *vm)
{
    const struct guest_ram *r;
    size_t n = 8;
    for (unsigned i = 0; (r = guest_ram_get(vm->mem, i)); i++) {
        n += 8 + map_bytes(r);
    }
    return n;
}

void pc_append_left(struct vm *vm, GByteArray *b, uint8_t *const *map)
{
    const struct guest_ram *r;
    guint at = b->len;
    unsigned n = 0;
    g_byte_array_set_size(b, at + (guint)pc_left_bytes(vm));
    memset(b->data + at, 0, b->len - at);
    uint8_t *p = b->data + at + 8;
    for (; (r = guest_ram_get(vm->mem, n)); n++) {
        store_le64(p, pages_of(r));
        p += 8;
        for (uint64_t i = 0; i < pages_of(r); i++) {
            p[i / 8] |= (uint8_t)((map[n][i] != 0) << i % 8);
        }
        p += map_bytes(r);
    }
    store_le32(b->data + at, n);
}

int pc_parse_left(struct vm *vm, const uint8_t *body, size_t len, uint8_t *const *map)
{
    const struct guest_ram *r;
    const uint8_t *p = body + 8;
    unsigned n = 0;
    if (len != pc_left_bytes(vm)) {
        return -EBADMSG;
    }
    for (; (r = guest_ram_get(vm->mem, n)); n++) {
        if (load_le64(p) != pages_of(r)) {
            return -EBADMSG;
        }
        p += 8;
        for (uint64_t i = 0; i < pages_of(r); i++) {
            map[n][i] = p[i / 8] >> i % 8 & 1;
        }
        p += map_bytes(r);
    }
    return load_le32(body) == n ? 0 : -EBADMSG;
}
