/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/lanes.h"

#include "base/crc.h"
#include "base/endian.h"
#include "loop/co.h"
#include "machine/machine.h"
#include "move/migration.h"
#include "move/mux.h"
#include "move/proto.h"

#include <string.h>
#include <zstd.h>

enum { LIVE_PAGES = 64 }; /* read at once: they are in the processor's cache when their CRCs are computed */

struct lanes_in {
    struct migration *m;
    struct ram_in *ram;
    unsigned n, joined, in_step, ended, working; /* working: coroutines */
    uint64_t round;
    char *id;
    bool answers; /* law 4 */
    bool stop, live;
    struct state_torn *torn; /* law 5 */
    struct err error;        /* of the first that failed */
    GPtrArray *all;          /* struct lane *: whoever came and is still there */
    struct co_queue waiting, between_rounds;
};

struct lane {
    struct lanes_in *l;
    struct channel *ch;
    uint8_t *packed; /* of STATE_RUN_PAGES_MAX pages; NULL: nothing was compressed yet */
    uint8_t *crcs;   /* of as many; NULL: nothing was live yet */
};

static void promise(const struct lanes_in *l, struct json_object *features)
{
    struct json_object *o = json_object_new_object();
    if (l->answers) {
        json_object_object_add(o, "answers", json_object_new_boolean(true));
    }
    if (l->live) {
        json_object_object_add(o, "live", json_object_new_boolean(true));
    }
    json_object_object_add(features, "multifd", o);
}

int lanes_in_create(struct migration *m, struct json_object *want, struct json_object *features, struct lanes_in **out,
                    struct err *e)
{
    struct json_object *n, *id, *answers;
    bool whole = json_object_object_get_ex(want, "channels", &n) && json_object_object_get_ex(want, "id", &id);
    int64_t count = whole ? json_object_get_int64(n) : 0;
    if (count < 1 || count > LANES_MAX) {
        return err_set(e, EINVAL, "multifd-channels: at most %d connections can be had here", LANES_MAX);
    }
    if (!channel_door_listens(m->door)) {
        return err_set(e, ENOTSUP, "multifd: the destination does not listen for more connections; give it an address");
    }
    struct lanes_in *l = g_new0(struct lanes_in, 1);
    l->m = m;
    l->n = (unsigned)count;
    l->id = g_strdup(json_object_get_string(id));
    l->all = g_ptr_array_new();
    l->answers = json_object_object_get_ex(want, "answers", &answers) && json_object_get_boolean(answers) &&
                 machine_release_says(m->vm->as_release, LANE_ANSWERS);
    l->live = machine_release_says(m->vm->as_release, LANE_LIVE);
    l->torn = state_torn_create();
    if (l->answers || l->live) {
        promise(l, features);
    }
    *out = l;
    return 0;
}

/* The source hears why, where it waits for an answer. */
static void fail(struct lanes_in *l, const struct err *why)
{
    if (l->stop || err_is_set(&l->error)) {
        return;
    }
    err_set(&l->error, EIO, "%s", err_text(why));
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "error", json_object_new_string(err_text(why)));
    proto_send(l->m->ch, PROTO_FAIL, o); /* before it finds them broken */
    lanes_in_break(l);
}

/* --- frames --------------------------------------------------------------------------------------------------------
 */

/* Law 4. */
static int answer(struct lane *k, struct err *e)
{
    uint8_t head[LANE_FRAME] = {LANE_ANSWER};
    store_le32(head + 20, crc32c(0, head, 20));
    int rc = k->l->answers ? channel_write(k->ch, head, sizeof(head)) : 0;
    return rc < 0 ? err_set_errno(e, -rc, "%s", channel_name(k->ch)) : 0;
}

/* Law 2. */
static int end_round(struct lane *k, struct err *e)
{
    struct lanes_in *l = k->l;
    uint64_t round = l->round;
    if (l->ended) {
        return err_set(e, EPROTO, "%s: its rounds are out of step", channel_name(k->ch));
    }
    int rc = answer(k, e);
    if (rc < 0) {
        return rc;
    }
    if (++l->in_step == l->n) {
        l->in_step = 0;
        l->round++;
        co_queue_wake_all(&l->between_rounds);
    }
    while (l->round == round && !l->stop && !err_is_set(&l->error)) {
        co_queue_wait(&l->between_rounds);
    }
    return l->round == round ? err_set(e, ECANCELED, "given up") : 0;
}

struct unpack {
    const void *from;
    void *to;
    size_t from_len, to_len;
};

static int unpack(void *opaque)
{
    const struct unpack *u = opaque;
    return ZSTD_decompress(u->to, u->to_len, u->from, u->from_len) == u->to_len ? 0 : -EBADMSG;
}

/* Pages, as their frame has them. */
struct load {
    uint8_t kind, *to;
    unsigned block;
    uint32_t pages, len, crc;
    uint64_t page, size;
};

static bool load_frame(struct lane *k, const uint8_t head[LANE_FRAME], struct load *l)
{
    *l = (struct load){.kind = head[1],
                       .block = load_le16(head + 2),
                       .pages = load_le32(head + 4),
                       .page = load_le64(head + 8),
                       .len = load_le32(head + 16),
                       .crc = load_le32(head + 20)};
    l->size = (uint64_t)l->pages * STATE_PAGE;
    l->to = ram_in_place(k->l->ram, l->block, l->page, l->pages, l->kind == STATE_PAGES_ZERO);
    switch (l->kind) {
    case STATE_PAGES_ZERO:
        return l->to && l->len == 0;
    case STATE_PAGES_RAW:
        return l->to && l->len == l->size;
    case STATE_PAGES_ZSTD:
        return l->to && l->len < l->size && l->pages <= STATE_RUN_PAGES_MAX;
    case STATE_PAGES_LIVE:
        return l->to && l->len == l->size && l->pages <= STATE_RUN_PAGES_MAX && k->l->live;
    default:
        return false;
    }
}

static int damaged(const struct lane *k, struct err *e)
{
    return err_set(e, EBADMSG, "%s: pages were damaged on their way", channel_name(k->ch));
}

/* `crc`: of the frame. */
static int read_live(struct lane *k, const struct load *l, uint32_t crc, struct err *e)
{
    k->crcs = k->crcs ? k->crcs : g_malloc((size_t)STATE_RUN_PAGES_MAX * LANE_CRC);
    size_t n = (size_t)l->pages * LANE_CRC;
    int rc = channel_read_all(k->ch, k->crcs, n, UINT64_MAX);
    if (rc == 0 && crc32c(crc, k->crcs, n) != l->crc) {
        return damaged(k, e);
    }
    for (uint32_t at = 0, some; rc == 0 && at < l->pages; at += some) {
        uint8_t *to = l->to + (size_t)at * STATE_PAGE;
        some = MIN(l->pages - at, LIVE_PAGES);
        rc = channel_read_all(k->ch, to, (size_t)some * STATE_PAGE, UINT64_MAX);
        for (uint32_t i = 0; rc == 0 && i < some; i++) {
            if (crc32c(0, to + (size_t)i * STATE_PAGE, STATE_PAGE) != load_le32(k->crcs + (at + i) * LANE_CRC)) {
                state_torn_add(k->l->torn, l->block, l->page + at + i);
            }
        }
    }
    k->l->m->stats.transferred += n;
    return rc < 0 ? err_set_errno(e, -rc, "%s", channel_name(k->ch)) : 0;
}

static int read_pages(struct lane *k, const uint8_t head[LANE_FRAME], struct err *e)
{
    uint32_t crc = crc32c(0, head, 20);
    struct load l;
    if (!load_frame(k, head, &l)) {
        return err_set(e, EPROTO, "%s: pages came that there are not", channel_name(k->ch));
    }
    k->l->m->stats.transferred += LANE_FRAME + l.len;
    state_torn_mend(k->l->torn, l.block, l.page, l.pages);
    if (l.kind == STATE_PAGES_LIVE) {
        return read_live(k, &l, crc, e);
    }
    uint8_t *data = l.to;
    if (l.kind == STATE_PAGES_ZSTD) {
        k->packed = k->packed ? k->packed : g_malloc((size_t)STATE_RUN_PAGES_MAX * STATE_PAGE);
        data = k->packed;
    }
    int rc = channel_read_all(k->ch, data, l.len, UINT64_MAX);
    if (rc == 0 && crc32c(crc, data, l.len) != l.crc) {
        return damaged(k, e);
    }
    if (rc == 0 && l.kind == STATE_PAGES_ZSTD) {
        rc = co_work(unpack, &(struct unpack){data, l.to, l.len, l.size});
    } else if (rc == 0 && l.kind == STATE_PAGES_ZERO) {
        ram_in_clear(k->l->ram, l.to, l.size);
    }
    return rc < 0 ? err_set_errno(e, -rc, "%s", channel_name(k->ch)) : 0;
}

static int read_frames(struct lane *k, struct err *e)
{
    struct lanes_in *l = k->l;
    for (;;) {
        uint8_t head[LANE_FRAME];
        int rc = channel_read_all(k->ch, head, sizeof(head), UINT64_MAX);
        if (rc < 0) {
            return rc == -ENODATA
                       ? err_set(e, EPIPE, "%s: the other side closed one of the connections", channel_name(k->ch))
                       : err_set_errno(e, -rc, "%s", channel_name(k->ch));
        }
        if (head[0] != LANE_PAGES && crc32c(0, head, 20) != load_le32(head + 20)) {
            return err_set(e, EBADMSG, "%s: a frame was damaged on its way", channel_name(k->ch));
        }
        if (head[0] == LANE_END && !l->in_step) {
            l->ended++;
            co_queue_wake_all(&l->waiting);
            return 0;
        }
        rc = head[0] == LANE_PAGES  ? read_pages(k, head, e)
             : head[0] == LANE_SYNC ? end_round(k, e)
                                    : err_set(e, EPROTO, "%s: its frames are out of step", channel_name(k->ch));
        if (rc < 0) {
            return rc;
        }
    }
}

/* --- who comes -----------------------------------------------------------------------------------------------------
 */

static int let_in(struct lane *k, struct err *e)
{
    CLEANUP_JSON struct json_object *join = NULL;
    struct json_object *id;
    unsigned flags;
    int rc = migration_secure(k->l->m, &k->ch, e);
    rc = rc < 0 ? rc : proto_read_hello(k->ch, migration_hello_deadline(k->l->m), &flags, e);
    rc = rc < 0 ? rc : proto_read(k->ch, PROTO_JOIN, migration_deadline(k->l->m), &join, e);
    if (rc < 0) {
        return rc;
    }
    if (!(flags & PROTO_LANE) || !json_object_object_get_ex(join, "id", &id) ||
        strcmp(json_object_get_string(id), k->l->id) || k->l->joined == k->l->n) {
        return err_set(e, EPERM, "%s: somebody came who does not belong to this machine", channel_name(k->ch));
    }
    k->l->joined++;
    return 0;
}

static void lane_main(void *opaque)
{
    struct lane *k = opaque;
    struct lanes_in *l = k->l;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (let_in(k, &e) < 0) {
        if (!l->stop) {
            log_warn(l->m->vm->log, "migration: %s", err_text(&e));
        }
    } else if (read_frames(k, &e) < 0) {
        fail(l, &e);
    }
    g_ptr_array_remove_fast(l->all, k);
    channel_close(k->ch);
    g_free(k->packed);
    g_free(k->crcs);
    g_free(k);
    l->working--;
    co_queue_wake_all(&l->waiting);
}

static void wait_at_door(void *opaque)
{
    struct lanes_in *l = opaque;
    while (!l->stop && l->joined < l->n) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct channel *ch;
        if (channel_door_wait(l->m->door, &ch, &e) < 0) {
            break;
        }
        struct lane *k = g_new0(struct lane, 1);
        *k = (struct lane){.l = l, .ch = ch};
        g_ptr_array_add(l->all, k);
        l->working++;
        co_start(l->m->vm->loop, lane_main, k);
    }
    l->working--;
    co_queue_wake_all(&l->waiting);
}

void lanes_in_begin(struct lanes_in *l, struct ram_in *ram)
{
    l->ram = ram;
    l->working++;
    co_start(l->m->vm->loop, wait_at_door, l);
}

int lanes_in_wait(struct lanes_in *l, struct err *e)
{
    while (l->ended < l->n && !l->m->cancelled && !mux_error(l->m->mux) && !err_is_set(&l->error)) {
        co_queue_wait(&l->waiting);
    }
    channel_door_shut(l->m->door);
    if (lanes_in_error(l, e)) {
        return -EIO;
    }
    return l->ended == l->n       ? 0
           : mux_error(l->m->mux) ? err_set(e, EPIPE, "The connection ended before all the others had come")
                                  : err_set(e, ECANCELED, "given up");
}

struct state_torn *lanes_in_torn(struct lanes_in *l)
{
    return l->torn;
}

bool lanes_in_error(const struct lanes_in *l, struct err *e)
{
    if (!l || !err_is_set(&l->error)) {
        return false;
    }
    err_clear(e);
    err_set(e, EIO, "%s", err_text(&l->error));
    return true;
}

void lanes_in_break(struct lanes_in *l)
{
    for (guint i = 0; l && i < l->all->len; i++) {
        channel_break(((struct lane *)g_ptr_array_index(l->all, i))->ch);
    }
    if (l) {
        co_queue_wake_all(&l->between_rounds);
        co_queue_wake_all(&l->waiting);
    }
}

void lanes_in_destroy(struct lanes_in *l)
{
    if (!l) {
        return;
    }
    l->stop = true;
    if (l->ram) {
        channel_door_shut(l->m->door);
    }
    lanes_in_break(l);
    while (l->working) {
        co_queue_wait(&l->waiting);
    }
    g_ptr_array_unref(l->all);
    state_torn_destroy(l->torn);
    err_clear(&l->error);
    g_free(l->id);
    g_free(l);
}
