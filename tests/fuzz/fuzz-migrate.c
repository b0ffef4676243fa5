/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any bytes as what a source says to a machine that waits: HELLO, WANT, the stream's front, frames of sub-channels, the
 * stream in them, OKGO. The first byte says whether checksums are put right before, as otherwise little would get past
 * them, and in what pieces the rest arrives; or that it begins with the length of what comes on the first connection,
 * and the rest is one of multifd's. Whatever comes, the machine that waits runs only when it has taken over
 * all of another one; and it ends by itself.
 */
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "loop/co.h"
#include "move/lanes.h"
#include "move/migration.h"
#include "move/proto.h"
#include "state/format.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RAW = 1, ONE_WAY = 2, PIECES = 4, LANE = 8 };
enum { MOST = 128 << 10, FRAME_HEAD = 12, MIB = 16, ANSWER_NS = 1000000000, PATIENCE = 30 };

/* --- checksums ------------------------------------------------------------------------------------------------------
 */

/* A chunk's or message's, at `at`; where the next one begins, 0: it is not whole. */
static size_t right_chunk(uint8_t *p, size_t size, size_t at)
{
    if (!range_ok(at, STATE_HEAD_BYTES, size)) {
        return 0;
    }
    uint64_t len = load_le64(p + at + 8), end = at + STATE_HEAD_BYTES;
    if (!range_ok(end, len, size) || size - end - len < STATE_CRC_BYTES) {
        return 0;
    }
    store_le32(p + end + len, crc32c(0, p + at, STATE_HEAD_BYTES + len));
    return end + len + STATE_CRC_BYTES;
}

static void digest_chunk(GChecksum *digest, const uint8_t *p, size_t at, size_t next)
{
    g_checksum_update(digest, p + at, STATE_HEAD_BYTES);
    g_checksum_update(digest, p + next - STATE_CRC_BYTES, STATE_CRC_BYTES);
}

/* STOP says what came before it. */
static void right_stop(GChecksum *digest, uint8_t *stop, uint64_t chunks, uint64_t bytes)
{
    g_autoptr(GChecksum) copy = g_checksum_copy(digest);
    gsize n = STATE_DIGEST_BYTES;
    store_le64(stop, chunks);
    store_le64(stop + 8, bytes);
    g_checksum_get_digest(copy, stop + 56, &n);
}

/* The stream from its MANI on, in `p`; `at` bytes of it were before. */
static void right_stream(uint8_t *p, size_t size, GChecksum *digest, uint64_t chunks, uint64_t before)
{
    for (size_t at = 0, next; (next = right_chunk(p, size, at)); at = next, chunks++) {
        if (load_le32(p + at) == STATE_STOP && next - at == STATE_HEAD_BYTES + STATE_STOP_BYTES + STATE_CRC_BYTES) {
            right_stop(digest, p + at + STATE_HEAD_BYTES, chunks, before + at);
            right_chunk(p, size, at);
        }
        digest_chunk(digest, p, at, next);
    }
}

/* What sub-channel 0 carries is gathered, put right and put back. */
static void right_frames(uint8_t *p, size_t size, GChecksum *digest, uint64_t before)
{
    g_autoptr(GByteArray) control = g_byte_array_new();
    for (int pass = 0; pass < 2; pass++) {
        size_t used = 0;
        for (size_t at = 0; range_ok(at, FRAME_HEAD, size);) {
            uint32_t id = load_le32(p + at), len = load_le32(p + at + 4);
            size_t end = at + FRAME_HEAD, tail = id && len ? STATE_CRC_BYTES : 0;
            if (!range_ok(end, len, size) || size - end - len < tail) {
                break;
            }
            store_le32(p + at + 8, crc32c(0, p + at, 8));
            if (tail) {
                store_le32(p + end + len, crc32c(0, p + end, len));
            } else if (!pass) {
                g_byte_array_append(control, p + end, len);
            } else if (len) {
                memcpy(p + end, control->data + used, len);
            }
            used += tail ? 0 : len;
            at = end + len + tail;
        }
        if (pass == 0) {
            right_stream(control->data, control->len, digest, 1, before);
        }
    }
}

static void put_right(uint8_t *p, size_t size, bool one_way)
{
    g_autoptr(GChecksum) digest = g_checksum_new(G_CHECKSUM_SHA256);
    size_t at = 0;
    if (!one_way && size >= PROTO_HELLO_BYTES) {
        store_le32(p + 28, crc32c(0, p, 28));
        at = right_chunk(p, size, PROTO_HELLO_BYTES);
    }
    if (size < STATE_HEADER_BYTES || at > size - STATE_HEADER_BYTES || (!one_way && !at)) {
        return;
    }
    uint8_t *stream = p + at;
    size -= at;
    store_le32(stream + 28, crc32c(0, stream, 28));
    if (one_way) {
        right_stream(stream + STATE_HEADER_BYTES, size - STATE_HEADER_BYTES, digest, 0, STATE_HEADER_BYTES);
        return;
    }
    size_t next = right_chunk(stream, size, STATE_HEADER_BYTES);
    if (next) {
        digest_chunk(digest, stream, STATE_HEADER_BYTES, next);
        right_frames(stream + next, size - next, digest, next);
    }
}

/* HELLO, JOIN and frames of pages. */
static void put_lane_right(uint8_t *p, size_t size)
{
    if (size < PROTO_HELLO_BYTES) {
        return;
    }
    store_le32(p + 28, crc32c(0, p, 28));
    for (size_t at = right_chunk(p, size, PROTO_HELLO_BYTES); at && range_ok(at, LANE_FRAME, size);) {
        uint32_t len = p[at] == LANE_PAGES ? load_le32(p + at + 16) : 0;
        if (!range_ok(at + LANE_FRAME, len, size)) {
            return;
        }
        store_le32(p + at + 20, crc32c(crc32c(0, p + at, 20), p + at + LANE_FRAME, len));
        at += LANE_FRAME + len;
    }
}

/* --- a machine that waits -------------------------------------------------------------------------------------------
 */

struct world {
    struct vm *vm;
    const uint8_t *data, *lane;
    size_t size, lane_size;
    unsigned flags;
    char *path;   /* LANE: where the machine is waited for */
    int from, to; /* the connection's ends; -1: the other side's now */
};

static int take_end(void *opaque, const char *name)
{
    struct world *w = opaque;
    return take_fd(&w->from);
}

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

static void connect_ends(struct world *w)
{
    int fds[2];
    if (w->flags & ONE_WAY) {
        must(pipe2(fds, O_CLOEXEC) == 0 && fcntl(fds[1], F_SETPIPE_SZ, 2 * MOST) >= MOST);
    } else {
        int room = 2 * MOST;
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
        must(setsockopt(fds[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
    }
    must(fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    w->from = fds[0];
    w->to = fds[1];
}

static int dial(const struct world *w)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), room = 2 * MOST;
    g_strlcpy(a.sun_path, w->path, sizeof(a.sun_path));
    must(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    must(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0 && fcntl(fd, F_SETFL, O_NONBLOCK) == 0);
    return fd;
}

/* All of the second connection, if the first one has been answered; it stays until the end. */
static int speak_lane(const struct world *w)
{
    int fd = w->lane_size ? dial(w) : -1;
    if (fd >= 0 && write(fd, w->lane, w->lane_size) >= 0) {
        shutdown(fd, SHUT_WR);
    }
    return fd;
}

/* Where what is said before the answer ends; 0: it is not all there. */
static size_t front(const struct world *w)
{
    size_t at = PROTO_HELLO_BYTES;
    for (int i = 0; i < 2 && at; i++) {
        at += i ? STATE_HEADER_BYTES : 0;
        uint64_t len = range_ok(at, STATE_HEAD_BYTES, w->size) ? load_le64(w->data + at + 8) : UINT64_MAX;
        at = range_ok(at, len, w->size) ? at + STATE_HEAD_BYTES + len + STATE_CRC_BYTES : 0;
    }
    return at <= w->size && !(w->flags & ONE_WAY) ? at : 0;
}

static bool say(struct world *w, size_t from, size_t to)
{
    size_t piece = w->flags & PIECES ? 997 : MOST;
    for (size_t at = from; at < to; at += piece) {
        if (write(w->to, w->data + at, MIN(piece, to - at)) < 0) {
            return false; /* the other side has gone */
        }
        co_yield ();
    }
    return true;
}

/* Who has said all that there is to say waits for the last answer; else there is none. */
static void hear_out(struct world *w)
{
    const struct migration *m = migration_of(w->vm);
    for (int i = 0; i < PATIENCE && m->busy && memmem(w->data, w->size, "OKGO", 4); i++) {
        co_sleep(1000000);
    }
}

/* All of it, and the end. */
static void speak(struct world *w)
{
    size_t first = front(w);
    CLEANUP_CLOSE int lane = -1;
    bool heard = say(w, 0, first);
    if (heard && first) {
        co_poll(w->to, POLLIN, ANSWER_NS);
        lane = speak_lane(w);
    }
    if (heard && say(w, first, w->size)) {
        hear_out(w);
    }
    w->flags &ONE_WAY ? close(w->to) : shutdown(w->to, SHUT_WR);
}

static void start_machine(struct world *w)
{
    const struct machine_config c = {.type = "virt", .accel = "qtest", .harts = 1, .ram_size = (uint64_t)MIB << 20};
    CLEANUP_ERR struct err e = ERR_INIT;
    must(vm_set_machine(w->vm, &c, &e) == 0 && vm_start(w->vm, VM_BEGIN_PAUSED, &e) == 0);
    w->vm->state = RUN_INMIGRATE;
    w->vm->autostart = true;
}

static int receive(void *opaque)
{
    struct world *w = opaque;
    char x[] = "x";
    const struct channel_place fd = {.scheme = TO_FD, .name = x, .text = x};
    const struct channel_place listens = {
        .scheme = TO_SOCKET, .name = x, .socket = {.type = NBD_UNIX, .path = w->path}};
    const struct channel_place place = w->path ? listens : fd;
    const struct channel_names names = {take_end, w};
    const struct migrate_in_options o = {.place = &place, .names = &names};
    CLEANUP_ERR struct err e = ERR_INIT;
    start_machine(w);
    must(migrate_incoming(w->vm, &o, &e) == 0);
    w->to = w->path ? dial(w) : w->to;
    struct migration *m = migration_of(w->vm);
    speak(w);
    while (m->busy && m->status != MIG_POSTCOPY_PAUSED) {
        co_sleep(200000);
    }
    if (!(w->flags & ONE_WAY)) {
        close(w->to);
    }
    bool follows = m->status == MIG_POSTCOPY_PAUSED, came = follows || m->status == MIG_COMPLETED;
    must(came == (w->vm->state != RUN_INMIGRATE) && (follows || m->cancelled || came == !m->error));
    must(!came || w->flags & ONE_WAY || memmem(w->data, w->size, "OKGO", 4));
    return 0;
}

static int destroy_vm(void *vm)
{
    migrate_end(vm);
    vm_destroy(vm);
    return 0;
}

static void split(struct world *w)
{
    uint32_t first = w->flags & LANE && w->size >= 4 ? load_le32(w->data) : UINT32_MAX;
    if (first < UINT32_MAX && range_ok(4, first, w->size)) {
        w->flags &= ~(unsigned)ONE_WAY;
        w->lane = w->data + 4 + first;
        w->lane_size = w->size - 4 - first;
        w->data += 4;
        w->size = first;
        w->path = g_strdup_printf("%s/fuzz-migrate-%d", g_get_tmp_dir(), getpid());
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size || size > MOST) {
        return 0;
    }
    signal(SIGPIPE, SIG_IGN); /* the machine may hang up first */
    CLEANUP_FREE uint8_t *copy = g_memdup2(data + 1, size - 1);
    struct world w = {.data = copy, .size = size - 1, .flags = data[0]};
    split(&w);
    if (!(w.flags & RAW) && copy) {
        put_right((uint8_t *)(uintptr_t)w.data, w.size, w.flags & ONE_WAY);
        put_lane_right((uint8_t *)(uintptr_t)w.lane, w.lane_size);
    }
    struct loop *loop = loop_create(LOOP_EPOLL, NULL);
    w.vm = vm_create(loop, NULL);
    if (!w.path) {
        connect_ends(&w);
    }
    co_run(loop, receive, &w);
    co_run(loop, destroy_vm, w.vm);
    loop_destroy(loop);
    if (w.path) {
        unlink(w.path);
        g_free(w.path);
    }
    return 0;
}
