/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/lanes.h"

#include "base/crc.h"
#include "base/endian.h"
#include "machine/machine.h"
#include "move/migration.h"
#include "move/mux.h"
#include "move/proto.h"

#include <errno.h>
#include <sys/uio.h>

enum { LOOK_NS = 200000000 }; /* as channels look */

struct lanes_out {
    struct migration *m;
    unsigned n;
    bool answers; /* law 4 */
    bool may_live, live;
    char *id;
    struct channel *ch[LANES_MAX];
    uint64_t bytes, pages_zero, pages_data;
};

struct lanes_out *lanes_out_create(struct migration *m, unsigned n)
{
    struct lanes_out *l = g_new0(struct lanes_out, 1);
    l->m = m;
    l->n = n;
    l->id = g_uuid_string_random();
    return l;
}

struct json_object *lanes_out_want(const struct lanes_out *l)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "channels", json_object_new_int((int)l->n));
    json_object_object_add(o, "id", json_object_new_string(l->id));
    if (machine_release_says(l->m->vm->as_release, LANE_ANSWERS)) {
        json_object_object_add(o, "answers", json_object_new_boolean(true));
    }
    return o;
}

static bool promised(const struct lanes_out *l, struct json_object *o, const char *key, const char *word)
{
    return json_object_is_type(o, json_type_object) && json_object_get_boolean(json_object_object_get(o, key)) &&
           machine_release_says(l->m->vm->as_release, word);
}

void lanes_out_features(struct lanes_out *l, struct json_object *features)
{
    struct json_object *o = json_object_object_get(features, "multifd");
    l->answers = promised(l, o, "answers", LANE_ANSWERS);
    l->may_live = promised(l, o, "live", LANE_LIVE);
}

static bool may_be_live(const struct lanes_out *l)
{
    struct guest_mem *mem = l->m->vm->mem;
    const struct guest_ram *r;
    bool all = l->may_live;
    for (unsigned i = 0; i < l->n; i++) {
        for (unsigned k = 0; all && (r = guest_ram_get(mem, k)); k++) {
            all = channel_take_live(l->ch[i], r->host, r->size);
        }
    }
    return all;
}

int lanes_out_open(struct lanes_out *l, const struct channel_place *p, struct err *e)
{
    for (unsigned i = 0; i < l->n; i++) {
        struct json_object *join = json_object_new_object();
        json_object_object_add(join, "id", json_object_new_string(l->id));
        int rc = migration_dial(l->m, p, NULL, &l->ch[i], e);
        if (rc < 0) {
            json_object_put(join);
            return rc;
        }
        channel_set_patience(l->ch[i], l->m->params.answer_ms * 1000000);
        rc = proto_send_hello(l->ch[i], PROTO_LANE);
        int sent = proto_send(l->ch[i], PROTO_JOIN, join);
        rc = rc < 0 ? rc : sent;
        if (rc < 0 || l->m->cancelled) {
            return err_set_errno(e, rc < 0 ? -rc : ECANCELED, "%s", channel_name(l->ch[i]));
        }
    }
    l->live = may_be_live(l);
    return 0;
}

bool lanes_out_live(const struct lanes_out *l)
{
    return l->live;
}

unsigned lanes_out_count(const struct lanes_out *l)
{
    return l->n;
}

/* `crcs`: of live pages. */
static int send(struct lanes_out *l, unsigned i, uint8_t head[LANE_FRAME], struct iovec crcs, struct iovec data)
{
    struct migrate_stats *s = &l->m->stats;
    struct iovec iov[] = {{head, LANE_FRAME}, crcs, data}, checked = crcs.iov_len ? crcs : data;
    size_t len = LANE_FRAME + crcs.iov_len + data.iov_len;
    store_le32(head + 20, crc32c(crc32c(0, head, 20), checked.iov_base, checked.iov_len));
    int rc = l->m->cancelled ? -ECANCELED : channel_writev(l->ch[i], iov, 3);
    if (rc == 0) {
        l->bytes += len;
        s->transferred += len;
        s->stopped_bytes += s->stopped_ns ? len : 0;
    }
    return rc;
}

int lanes_out_put(struct lanes_out *l, unsigned i, const struct lane_load *load)
{
    const uint8_t *crcs = load->crcs;
    int rc = 0;
    for (unsigned k = 0; rc == 0 && k < load->n; k++) {
        const struct state_run *r = &load->runs[k];
        struct iovec crc = {(void *)(uintptr_t)crcs, r->live ? r->pages * LANE_CRC : 0};
        uint8_t head[LANE_FRAME] = {LANE_PAGES, (uint8_t)(r->live ? STATE_PAGES_LIVE : r->kind)};
        store_le16(head + 2, (uint16_t)r->block);
        store_le32(head + 4, r->pages);
        store_le64(head + 8, r->page);
        store_le32(head + 16, (uint32_t)r->bytes);
        rc = send(l, i, head, crc, (struct iovec){(void *)(uintptr_t)load->data[k], r->bytes});
        crcs += crc.iov_len;
        *(r->kind == STATE_PAGES_ZERO ? &l->pages_zero : &l->pages_data) += r->pages;
    }
    return rc;
}

int lanes_out_round(struct lanes_out *l, bool last)
{
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < l->n; i++) {
        uint8_t head[LANE_FRAME] = {last ? LANE_END : LANE_SYNC};
        rc = send(l, i, head, (struct iovec){0}, (struct iovec){0});
    }
    return rc;
}

bool lanes_out_answers(const struct lanes_out *l)
{
    return l && l->answers;
}

/* Looks are counted, not time, as of writes. */
static int read_answer(struct lanes_out *l, unsigned i, uint64_t *looks)
{
    uint8_t head[LANE_FRAME];
    for (size_t got = 0; got < sizeof(head);) {
        ssize_t n = channel_read_until(l->ch[i], head + got, sizeof(head) - got, loop_now_ns() + LOOK_NS);
        if (n > 0) {
            got += (size_t)n;
        } else if (n != -ETIMEDOUT) {
            return n ? (int)n : -EPIPE;
        } else if (++*looks * LOOK_NS >= MAX(l->m->params.answer_ms, MUX_PATIENCE_MIN_MS) * 1000000) {
            return -ETIMEDOUT;
        }
    }
    return head[0] == LANE_ANSWER && crc32c(0, head, 20) == load_le32(head + 20) ? 0 : -EBADMSG;
}

int lanes_out_arrive(struct lanes_out *l)
{
    uint64_t looks = 0;
    int rc = 0;
    for (unsigned i = 0; rc == 0 && i < l->n; i++) {
        rc = read_answer(l, i, &looks);
    }
    return rc;
}

uint64_t lanes_out_bytes(const struct lanes_out *l)
{
    return l ? l->bytes : 0;
}

uint64_t lanes_out_pages(const struct lanes_out *l, bool zero)
{
    return !l ? 0 : zero ? l->pages_zero : l->pages_data;
}

void lanes_out_break(struct lanes_out *l)
{
    for (unsigned i = 0; l && i < l->n; i++) {
        if (l->ch[i]) {
            channel_break(l->ch[i]);
        }
    }
}

void lanes_out_destroy(struct lanes_out *l)
{
    for (unsigned i = 0; l && i < l->n; i++) {
        channel_close(l->ch[i]);
    }
    if (l) {
        g_free(l->id);
    }
    g_free(l);
}
