/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/mux.h"

#include "base/cleanup.h"
#include "base/crc.h"
#include "base/endian.h"
#include "loop/co.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum { HEAD = 12, TAIL = 4, FRAME = 256 << 10, WINDOW = 4 << 20, CONTROL_WINDOW = 16 << 20 };
enum { LOOKS = 4 };                     /* in the time of law 6 */
enum { SMALL = 4096, SPARES_MAX = 16 }; /* bytes of pieces that are not kept; how many others are */
enum turn { TURN_ABOUT, TURN_URGENT, TURN_BULK, TURNS };

#define ABOUT (UINT32_C(1) << 31)
#define ANY   UINT32_MAX

enum life { LIFE_ASK = 0, LIFE_ANSWER = 1 }; /* numbers, with ABOUT, of frames that give no room */

struct piece {
    size_t len, at, room; /* `at` of it have been read */
    uint8_t data[];
};

struct sub {
    struct mux *m;
    unsigned id;
    bool open, closed, broken;
    /* what comes */
    GQueue in; /* struct piece */
    uint64_t may_come, taken;
    bool ended, tell; /* its end came; the clerk has something to say about it */
    uint8_t *to;      /* number 0: where its reader, who waits, wants `want` bytes, of which `got` are there; or NULL */
    size_t want, got;
    struct co_queue readers;
    struct timer patience;
    /* what goes */
    uint64_t room; /* bytes that may go; UINT64_MAX: any number */
    struct co_queue writers;
};

struct mux {
    struct loop *loop;
    struct channel *link;
    int rc;     /* broken with this */
    bool ended; /* the other side will not say more */
    bool deaf;  /* nothing can be said to it any more */
    bool sending;
    struct co_queue turns[TURNS];
    struct co_queue errands, gone; /* the clerk waits; mux_destroy waits for `users` */
    unsigned users;
    void (*on_broken)(void *opaque); /* NULL: nobody is told */
    void *opaque;
    struct timer look; /* law 6 */
    uint64_t look_ns;
    unsigned silent;  /* looks since something came */
    bool say_life[2]; /* for the clerk: enum life */
    uint64_t answers; /* LIFE_ANSWER that came */
    struct co_queue arriving;
    GQueue spares; /* struct piece: memory that is given back is cleared again before it is had again */
    struct sub *subs[MUX_IDS];
    struct channel *locals[MUX_IDS]; /* of the relays */
};

static struct piece *new_piece(struct mux *m, size_t len)
{
    struct piece *p = len > SMALL && len <= FRAME ? g_queue_pop_head(&m->spares) : NULL;
    if (!p) {
        size_t room = len > SMALL && len <= FRAME ? FRAME : len;
        p = g_malloc(sizeof(*p) + room);
        p->room = room;
    }
    p->len = len;
    p->at = 0;
    return p;
}

static void free_piece(struct mux *m, struct piece *p)
{
    if (p && p->room == FRAME && m->spares.length < SPARES_MAX) {
        g_queue_push_head(&m->spares, p);
    } else {
        g_free(p);
    }
}

static uint64_t window(unsigned id)
{
    return id == MUX_CONTROL ? CONTROL_WINDOW : WINDOW;
}

static void wake_reader(void *opaque)
{
    struct sub *s = opaque;
    co_queue_wake_all(&s->readers);
}

/* Made by whichever side uses it first. */
static struct sub *get_sub(struct mux *m, unsigned id)
{
    if (!m->subs[id]) {
        struct sub *s = m->subs[id] = g_new0(struct sub, 1);
        *s = (struct sub){.m = m, .id = id, .may_come = window(id), .room = window(id)};
        g_queue_init(&s->in);
        timer_init(&s->patience, m->loop, wake_reader, s);
    }
    return m->subs[id];
}

static void wake_sub(struct sub *s)
{
    co_queue_wake_all(&s->readers);
    co_queue_wake_all(&s->writers);
}

static void fail(struct mux *m, int rc)
{
    bool first = m->rc == 0;
    if (first) {
        m->rc = rc;
        channel_break(m->link);
        timer_cancel(&m->look);
    }
    for (unsigned i = 0; i < MUX_IDS; i++) {
        if (m->subs[i]) {
            wake_sub(m->subs[i]);
        }
        if (m->locals[i]) {
            channel_break(m->locals[i]);
        }
    }
    co_queue_wake_all(&m->errands);
    co_queue_wake_all(&m->arriving);
    if (first && m->on_broken) {
        m->on_broken(m->opaque);
    }
}

static void leave(struct mux *m)
{
    m->users--;
    co_queue_wake_all(&m->gone);
}

/* --- frames that go -------------------------------------------------------------------------------------------------
 */

static enum turn turn_of(unsigned id)
{
    return id > MUX_CONTROL && id < MUX_DISKS ? TURN_URGENT : TURN_BULK;
}

/* Handed over with `sending` still set: nobody comes between. */
static void pass_turn(struct mux *m)
{
    for (unsigned i = 0; i < TURNS; i++) {
        if (co_queue_wake_one(&m->turns[i])) {
            return;
        }
    }
    m->sending = false;
}

static int send_frame(struct mux *m, enum turn turn, uint32_t id, const void *buf, size_t len)
{
    uint8_t head[HEAD], tail[TAIL];
    struct iovec iov[] = {{head, HEAD}, {(void *)(uintptr_t)buf, len}, {tail, TAIL}};
    bool checked = len && id != MUX_CONTROL;
    store_le32(head, id);
    store_le32(head + 4, (uint32_t)len);
    store_le32(head + 8, crc32c(0, head, 8));
    if (checked) {
        store_le32(tail, crc32c(0, buf, len));
    }
    m->users++;
    if (m->sending) {
        co_queue_wait(&m->turns[turn]);
    }
    m->sending = true;
    int rc = m->rc ? m->rc : m->deaf ? -EPIPE : channel_writev(m->link, iov, checked ? 3 : 2);
    if (rc == -EPIPE && m->rc == 0) { /* it has gone: what it said before is read to its end, which breaks the mux */
        m->deaf = true;
    } else if (rc < 0) {
        fail(m, rc);
    }
    pass_turn(m);
    leave(m);
    return rc;
}

/* Says what has been read, and what has been closed: not the one who reads, as he must not wait for this. */
static void say(struct sub *s)
{
    uint8_t more[4];
    s->tell = false;
    if (s->closed) {
        store_le32(more, ANY);
        if (send_frame(s->m, TURN_ABOUT, ABOUT | s->id, more, sizeof(more)) == 0) {
            send_frame(s->m, turn_of(s->id), s->id, NULL, 0);
        }
        return;
    }
    uint64_t n = s->taken;
    s->taken = 0;
    s->may_come += n;
    store_le32(more, (uint32_t)n);
    send_frame(s->m, TURN_ABOUT, ABOUT | s->id, more, sizeof(more));
}

static bool say_life(struct mux *m)
{
    static const uint8_t none[4];
    bool said = false;
    for (enum life i = LIFE_ASK; m->rc == 0 && i <= LIFE_ANSWER; i++) {
        if (m->say_life[i]) {
            m->say_life[i] = false;
            send_frame(m, TURN_ABOUT, ABOUT | i, none, sizeof(none));
            said = true;
        }
    }
    return said;
}

static void clerk(void *opaque)
{
    struct mux *m = opaque;
    while (m->rc == 0) {
        bool said = say_life(m);
        for (unsigned i = 0; m->rc == 0 && i < MUX_IDS; i++) {
            if (m->subs[i] && m->subs[i]->tell) {
                say(m->subs[i]);
                said = true;
            }
        }
        if (!said && m->rc == 0) {
            co_queue_wait(&m->errands);
        }
    }
    leave(m);
}

static void give_clerk(struct sub *s)
{
    s->tell = true;
    co_queue_wake_all(&s->m->errands);
}

/* --- frames that come -----------------------------------------------------------------------------------------------
 */

static int take_about(struct mux *m, unsigned id, const uint8_t *payload, size_t len)
{
    struct sub *s = id < MUX_IDS ? get_sub(m, id) : NULL;
    if (!s || len != 4) {
        return -EPROTO;
    }
    uint32_t more = load_le32(payload);
    if (!more && id == LIFE_ASK) {
        m->say_life[LIFE_ANSWER] = true;
        co_queue_wake_all(&m->errands);
    } else if (!more && id == LIFE_ANSWER) {
        m->answers++;
        co_queue_wake_all(&m->arriving);
    }
    s->room = more == ANY || s->room == UINT64_MAX ? UINT64_MAX : s->room + more;
    co_queue_wake_all(&s->writers);
    return 0;
}

static int take_payload(struct mux *m, unsigned id, struct piece *p)
{
    struct sub *s = get_sub(m, id);
    if (p->len == 0) {
        s->ended = true;
    } else if (s->ended || (p->len > s->may_come && !s->closed)) {
        return -EPROTO;
    } else if (!s->closed) {
        s->may_come -= p->len;
        g_queue_push_tail(&s->in, p);
        co_queue_wake_all(&s->readers);
        return 0;
    }
    free_piece(m, p);
    co_queue_wake_all(&s->readers);
    return 0;
}

/* 1; 0: the link ended before the first of them. */
static int hear(struct mux *m, void *buf, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = channel_read(m->link, (uint8_t *)buf + at, len - at);
        if (n <= 0) {
            return n < 0 ? (int)n : at ? -ENODATA : 0;
        }
        m->silent = 0;
        at += (size_t)n;
    }
    return 1;
}

static void count_taken(struct sub *s, size_t n)
{
    s->taken += n;
    if (s->taken >= window(s->id) / 2) {
        give_clerk(s);
    }
}

/* Straight to the reader, who has it when the pump waits next. 0: nobody waits for it, or nothing has come. */
static ssize_t hand_on(struct mux *m, struct sub *s, size_t len)
{
    size_t room = s->to && g_queue_is_empty(&s->in) ? MIN(len, s->want - s->got) : 0;
    ssize_t n = room ? channel_read_until(m->link, s->to + s->got, room, 0) : -ETIMEDOUT;
    if (n <= 0) {
        return n == -ETIMEDOUT ? 0 : n ? n : -ENODATA;
    }
    m->silent = 0;
    s->got += (size_t)n;
    s->may_come -= (size_t)n;
    count_taken(s, (size_t)n);
    co_queue_wake_all(&s->readers);
    return n;
}

/* The payload of a frame of number 0: nothing is to be checked before it is passed on. */
static int take_control(struct mux *m, size_t len)
{
    struct sub *s = get_sub(m, MUX_CONTROL);
    if (s->ended || (len > s->may_come && !s->closed)) {
        return -EPROTO;
    }
    while (len) {
        ssize_t n = hand_on(m, s, len);
        if (n < 0) {
            return (int)n;
        }
        len -= (size_t)n;
        if (n && (!len || s->got == s->want)) {
            co_yield (); /* he takes it, and says what he wants next */
        } else if (!n && !(s->to && channel_await(m->link))) {
            struct piece *p = new_piece(m, len);
            int rc = hear(m, p->data, len);
            rc = rc > 0 ? take_payload(m, MUX_CONTROL, p) : rc ? rc : -ENODATA;
            if (rc < 0) {
                free_piece(m, p);
            }
            return rc;
        }
    }
    return 0;
}

/* 1; 0: the link has ended. */
static int take_frame(struct mux *m)
{
    uint8_t head[HEAD], tail[TAIL];
    int rc = hear(m, head, HEAD);
    if (rc <= 0) {
        return rc;
    }
    uint32_t id = load_le32(head), len = load_le32(head + 4);
    bool about = id & ABOUT;
    if (load_le32(head + 8) != crc32c(0, head, 8)) {
        return -EBADMSG;
    }
    if (len > MUX_FRAME_MAX || (!about && id >= MUX_IDS)) {
        return -EPROTO;
    }
    if (len && id == MUX_CONTROL) {
        rc = take_control(m, len);
        return rc < 0 ? rc : 1;
    }
    struct piece *p = new_piece(m, len);
    rc = len ? hear(m, p->data, len) : 1;
    rc = rc > 0 && len ? hear(m, tail, TAIL) : rc;
    rc = rc > 0 ? 0 : rc ? rc : -ENODATA;
    if (rc == 0 && len && load_le32(tail) != crc32c(0, p->data, len)) {
        rc = -EBADMSG;
    }
    if (rc == 0 && !about) {
        rc = take_payload(m, id, p);
        p = rc == 0 ? NULL : p;
    } else if (rc == 0) {
        rc = take_about(m, id & ~ABOUT, p->data, len);
    }
    free_piece(m, p);
    return rc < 0 ? rc : 1;
}

static void pump(void *opaque)
{
    struct mux *m = opaque;
    int rc;
    while ((rc = take_frame(m)) > 0 && m->rc == 0) {
    }
    m->ended = rc == 0 && m->rc == 0;
    fail(m, rc == 0 ? -EPIPE : rc);
    leave(m);
}

/* --- law 6 ----------------------------------------------------------------------------------------------------------
 */

static void look(void *opaque)
{
    struct mux *m = opaque;
    if (m->silent >= LOOKS) {
        fail(m, -ETIMEDOUT);
        return;
    }
    if (m->silent++) {
        m->say_life[LIFE_ASK] = true;
        co_queue_wake_all(&m->errands);
    }
    timer_arm(&m->look, loop_now_ns() + m->look_ns);
}

void mux_watch(struct mux *m, uint64_t patience_ns)
{
    m->look_ns = MAX(patience_ns, MUX_PATIENCE_MIN_MS * UINT64_C(1000000)) / LOOKS;
    if (m->rc == 0) {
        timer_arm(&m->look, loop_now_ns() + m->look_ns);
    }
}

/* --- a sub-channel --------------------------------------------------------------------------------------------------
 */

static int sub_write(void *opaque, const void *buf, size_t len)
{
    struct sub *s = opaque;
    int rc = 0;
    while (len && rc == 0) {
        while (!s->room && !s->broken && s->m->rc == 0) {
            co_queue_wait(&s->writers);
        }
        size_t n = MIN(MIN(len, FRAME), s->room);
        rc = s->broken ? -EPIPE : s->m->rc;
        if (rc == 0) {
            s->room -= s->room == UINT64_MAX ? 0 : n;
            rc = send_frame(s->m, turn_of(s->id), s->id, buf, n);
            buf = (const uint8_t *)buf + n;
            len -= n;
        }
    }
    return rc;
}

static size_t take_piece(struct sub *s, void *buf, size_t len)
{
    struct piece *p = g_queue_peek_head(&s->in);
    size_t n = MIN(len, p->len - p->at);
    memcpy(buf, p->data + p->at, n);
    p->at += n;
    if (p->at == p->len) {
        free_piece(s->m, g_queue_pop_head(&s->in));
    }
    count_taken(s, n);
    return n;
}

/* 1: something has come; 0: the end; -EAGAIN: neither, as yet. */
static int look_at(struct sub *s)
{
    return s->broken                   ? -EPIPE
           : !g_queue_is_empty(&s->in) ? 1
           : s->ended || s->m->ended   ? 0
           : s->m->rc                  ? s->m->rc
                                       : -EAGAIN;
}

static ssize_t sub_read(void *opaque, void *buf, size_t len, uint64_t deadline_ns)
{
    struct sub *s = opaque;
    for (;;) {
        int rc = look_at(s);
        if (rc != -EAGAIN) {
            return rc > 0 ? (ssize_t)take_piece(s, buf, len) : rc;
        }
        if (deadline_ns <= loop_now_ns()) {
            return -ETIMEDOUT;
        }
        if (deadline_ns != UINT64_MAX) {
            timer_arm(&s->patience, deadline_ns);
        }
        s->to = buf;
        s->want = len;
        co_queue_wait(&s->readers);
        timer_cancel(&s->patience);
        size_t got = s->got;
        s->to = NULL;
        s->want = s->got = 0;
        if (got) {
            return (ssize_t)got;
        }
    }
}

static void sub_break(void *opaque)
{
    struct sub *s = opaque;
    s->broken = true;
    wake_sub(s);
}

static void sub_close(void *opaque)
{
    struct sub *s = opaque;
    s->open = false;
    s->closed = true;
    g_queue_clear_full(&s->in, g_free);
    give_clerk(s);
}

struct channel *mux_open(struct mux *m, unsigned id)
{
    static const struct channel_ops ops = {sub_write, sub_read, sub_break, sub_close};
    struct sub *s = get_sub(m, id);
    g_assert(!s->open && !s->closed);
    s->open = true;
    return channel_of_ops(&ops, s, channel_name(m->link));
}

/* --- a sub-channel as a socket --------------------------------------------------------------------------------------
 */

struct relay {
    struct mux *m;
    unsigned id, ways; /* that still run */
    struct channel *sub, *local;
};

static void relay_leave(struct relay *r)
{
    if (--r->ways) {
        return;
    }
    struct mux *m = r->m;
    m->locals[r->id] = NULL;
    channel_close(r->sub);
    channel_close(r->local);
    g_free(r);
    leave(m);
}

/* Pieces go on as they came. */
static int pass_pieces(struct sub *s, struct channel *to)
{
    int rc;
    while ((rc = look_at(s)) > 0 || rc == -EAGAIN) {
        if (rc == -EAGAIN) {
            co_queue_wait(&s->readers);
            continue;
        }
        struct piece *p = g_queue_pop_head(&s->in);
        size_t len = p->len;
        rc = channel_write(to, p->data, len);
        free_piece(s->m, p);
        count_taken(s, len);
        if (rc < 0) {
            break;
        }
    }
    return rc;
}

static int copy(struct channel *from, struct channel *to)
{
    CLEANUP_FREE uint8_t *buf = g_malloc(FRAME);
    ssize_t n;
    while ((n = channel_read(from, buf, FRAME)) > 0) {
        int rc = channel_write(to, buf, (size_t)n);
        if (rc < 0) {
            return rc;
        }
    }
    return (int)n;
}

/* Either end gone is both gone: a connection with one direction is of no use to NBD. */
static void relay_in(void *opaque)
{
    struct relay *r = opaque;
    pass_pieces(get_sub(r->m, r->id), r->local);
    channel_break(r->local);
    relay_leave(r);
}

static void relay_out(void *opaque)
{
    struct relay *r = opaque;
    copy(r->local, r->sub);
    channel_break(r->sub);
    relay_leave(r);
}

int mux_socket(struct mux *m, unsigned id, struct err *e)
{
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0) {
        return err_set_errno(e, errno, "%s: a pair of sockets", channel_name(m->link));
    }
    struct relay *r = g_new0(struct relay, 1);
    *r = (struct relay){.m = m, .id = id, .ways = 2, .sub = mux_open(m, id)};
    r->local = m->locals[id] = channel_of_socket(fds[0], channel_name(m->link));
    m->users++;
    co_start_later(m->loop, relay_in, r);
    co_start_later(m->loop, relay_out, r);
    return fds[1];
}

/* --- all of it ------------------------------------------------------------------------------------------------------
 */

struct mux *mux_create(struct loop *loop, struct channel *link)
{
    struct mux *m = g_new0(struct mux, 1);
    *m = (struct mux){.loop = loop, .link = link, .users = 2};
    g_queue_init(&m->spares);
    timer_init(&m->look, loop, look, m);
    co_start_later(loop, pump, m);
    co_start_later(loop, clerk, m);
    return m;
}

int mux_error(const struct mux *m)
{
    return m->rc;
}

void mux_on_broken(struct mux *m, void (*fn)(void *opaque), void *opaque)
{
    m->on_broken = fn;
    m->opaque = opaque;
}

/* What is about a sub-channel goes before what waits, and comes behind what has gone. */
int mux_arrive(struct mux *m)
{
    uint64_t before = m->answers;
    m->say_life[LIFE_ASK] = true;
    co_queue_wake_all(&m->errands);
    while (m->answers == before && m->rc == 0) {
        co_queue_wait(&m->arriving);
    }
    return m->rc;
}

void mux_break(struct mux *m)
{
    fail(m, -EPIPE);
}

void mux_destroy(struct mux *m)
{
    if (!m) {
        return;
    }
    fail(m, -EPIPE);
    while (m->users) {
        co_queue_wait(&m->gone);
    }
    for (unsigned i = 0; i < MUX_IDS; i++) {
        struct sub *s = m->subs[i];
        if (s) {
            g_assert(!s->open);
            timer_cancel(&s->patience);
            g_queue_clear_full(&s->in, g_free);
            g_free(s);
        }
    }
    g_queue_clear_full(&m->spares, g_free);
    channel_close(m->link);
    g_free(m);
}
