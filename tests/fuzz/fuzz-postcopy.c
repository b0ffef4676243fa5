/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as what one side says to the other in post-copy. The first byte says to which, whether checksums are put
 * right before, whether the connection is one that goes on, and whether RAM is given up at the source. Whatever comes,
 * it ends with the connection; the source keeps what the other side is not known to have, and the destination what it
 * had.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "guest/pages.h"
#include "loop/co.h"
#include "move/dirty.h"
#include "move/postcopy.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW = 1, DESTINATION = 2, GOES_ON = 4, RELEASE = 8 };
enum { PAGES = 96, CRC = 4, MOST = 256 << 10, PIECE = 4096 };

static void nothing(struct accel *a)
{
}

static const struct accel_ops ops = {.dirty_log_changed = nothing, .pages_came = nothing};

struct world {
    struct vm vm;
    struct channel *ours, *theirs;
    const uint8_t *data;
    size_t size;
    unsigned talking;
    struct co_queue silent;
};

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void put_right(uint8_t *p, size_t size)
{
    for (size_t at = 0; range_ok(at, PC_HEAD, size);) {
        uint64_t len = load_le64(p + at + 8);
        if (!range_ok(at + PC_HEAD, len, size) || size - at - PC_HEAD - len < CRC) {
            return;
        }
        store_le32(p + at + PC_HEAD + len, crc32c(0, p + at, PC_HEAD + len));
        at += PC_HEAD + len + CRC;
    }
}

/* --- RAM: each page holds its number -------------------------------------------------------------------------------
 */

static uint8_t *page_at(struct world *w, uint64_t i)
{
    return guest_ram_get(w->vm.mem, 0)->host + i * GUEST_PAGE_SIZE;
}

static void fill(struct world *w)
{
    for (unsigned i = 0; i < PAGES; i++) {
        memset(page_at(w, i), i % 3 ? (int)i : 0, GUEST_PAGE_SIZE);
    }
}

static void must_hold(struct world *w, unsigned i)
{
    const uint8_t *p = page_at(w, i);
    must(p[0] == (i % 3 ? i : 0) && p[GUEST_PAGE_SIZE - 1] == p[0]);
}

/* --- the other side ------------------------------------------------------------------------------------------------
 */

static void fall_silent(struct world *w)
{
    w->talking--;
    co_queue_wake_all(&w->silent);
}

static void talk(void *opaque)
{
    struct world *w = opaque;
    int rc = 0;
    for (size_t at = 0; at < w->size && rc == 0; at += PIECE) {
        rc = channel_write(w->theirs, w->data + at, MIN((size_t)PIECE, w->size - at));
    }
    channel_break(w->theirs);
    fall_silent(w);
}

static void listen_on(void *opaque)
{
    struct world *w = opaque;
    uint8_t buf[65536];
    while (channel_read(w->theirs, buf, sizeof(buf)) > 0) {
    }
    fall_silent(w);
}

/* --- the source ----------------------------------------------------------------------------------------------------
 */

static void send_to(struct world *w, unsigned flags)
{
    static const uint64_t no_limit = 0;
    const struct pc_out_options o = {&no_limit, flags & RELEASE};
    const struct pc_link link = {w->ours, w->ours, w->ours};
    g_autoptr(GByteArray) body = g_byte_array_new();
    CLEANUP_ERR struct err e = ERR_INIT;
    uint8_t map[PAGES], *maps[] = {map};
    struct dirty *dirty;
    enum pc_type type;
    must(dirty_create(&w->vm, &dirty, &e) == 0);
    struct pc_out *out = pc_out_create(&w->vm, dirty, &o);
    int rc = flags & GOES_ON ? pc_read(w->ours, &type, body) : 0;
    rc = rc == 0 && flags & GOES_ON ? pc_out_set_left(out, body, &e) : rc;
    rc = rc == 0 ? pc_out_run(out, &link, &e) : rc;
    g_autoptr(GByteArray) left = pc_out_left(out);
    must(pc_parse_left(&w->vm, left->data, left->len, maps) == 0);
    for (unsigned i = 0; rc < 0 && i < PAGES; i++) {
        if (map[i]) {
            must_hold(w, i);
        }
    }
    pc_out_destroy(out);
    dirty_destroy(dirty);
}

/* --- the destination -----------------------------------------------------------------------------------------------
 */

static void come_from(struct world *w)
{
    const struct pc_link link = {w->ours, w->ours, w->ours};
    g_autoptr(GByteArray) body = g_byte_array_new();
    CLEANUP_ERR struct err e = ERR_INIT;
    uint8_t map[PAGES] = {0}, *maps[] = {map};
    enum pc_type type;
    if (pc_read(w->ours, &type, body) < 0) {
        return;
    }
    struct pc_in *in = pc_in_create(&w->vm, body, &e);
    if (!in) {
        return;
    }
    must(pc_parse_left(&w->vm, body->data, body->len, maps) == 0);
    if (pc_in_begin(in, &e) == 0) {
        pc_in_run(in, &link, &e);
    }
    pc_in_destroy(in);
    for (unsigned i = 0; i < PAGES; i++) {
        if (!map[i]) {
            must_hold(w, i);
        }
    }
}

static int one(void *opaque)
{
    struct world *w = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned flags = w->data[0];
    int fds[2];
    w->data++;
    w->size--;
    w->vm.loop = co_loop();
    must(guest_ram_add(w->vm.mem, "ram", 0x80000000, PAGES * GUEST_PAGE_SIZE, &e) == 0);
    w->vm.pages = pages_create(w->vm.mem);
    fill(w);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    w->ours = channel_of_socket(fds[0], "ours");
    w->theirs = channel_of_socket(fds[1], "theirs");
    w->talking = 2;
    co_start(w->vm.loop, talk, w);
    co_start(w->vm.loop, listen_on, w);
    flags &DESTINATION ? come_from(w) : send_to(w, flags);
    channel_break(w->ours);
    while (w->talking) {
        co_queue_wait(&w->silent);
    }
    channel_close(w->ours);
    channel_close(w->theirs);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > MOST) {
        return 0;
    }
    CLEANUP_FREE uint8_t *copy = g_memdup2(data, size);
    struct world w = {.vm = {.mem = guest_mem_create(), .accel_ops = &ops}, .data = copy, .size = size};
    if (!(data[0] & RAW)) {
        put_right(copy + 1, size - 1);
    }
    struct loop *loop = loop_create(LOOP_EPOLL, NULL);
    co_run(loop, one, &w);
    pages_destroy(w.vm.pages);
    guest_mem_destroy(w.vm.mem);
    loop_destroy(loop);
    return 0;
}
