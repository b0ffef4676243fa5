/* SPDX-License-Identifier: BSD-2-Clause */
#include "move/disks_told.h"

#include "base/cleanup.h"
#include "move/disks.h"
#include "move/migration.h"
#include "move/mux.h"
#include "move/proto.h"

#define TELL_NS UINT64_C(500000000)

/* --- the source --------------------------------------------------------------------------------------------------- */

static int hear(struct migration *m, struct channel *ch, struct err *e)
{
    static const enum proto_type may[] = {PROTO_PROG, PROTO_ALLD};
    for (;;) {
        CLEANUP_JSON struct json_object *body = NULL;
        enum proto_type type;
        int rc = proto_read_either(ch, may, UINT64_MAX, &type, &body, e);
        if (rc < 0) {
            return rc;
        }
        if (type == PROTO_ALLD) {
            disks_out_arrived(m->disks);
            return 0;
        }
        disks_out_told(m->disks, json_object_object_get(body, "left"));
    }
}

static void hear_main(void *opaque)
{
    struct disks_hear *h = opaque;
    struct channel *ch = mux_open(h->m->mux, MUX_DISKS_END);
    h->rc = hear(h->m, ch, &h->error);
    channel_close(ch);
    h->over = true;
    co_queue_wake_all(&h->done);
}

void disks_hear_begin(struct disks_hear *h, struct migration *m)
{
    *h = (struct disks_hear){.m = m, .error = ERR_INIT};
    co_start(m->vm->loop, hear_main, h);
}

int disks_hear_wait(struct disks_hear *h, struct err *e)
{
    while (!h->over) {
        co_queue_wait(&h->done);
    }
    if (h->rc < 0 && !err_is_set(e)) {
        err_set(e, -h->rc, "%s", err_text(&h->error));
    }
    err_clear(&h->error);
    return h->rc;
}

/* --- the destination ---------------------------------------------------------------------------------------------- */

static void say(void *opaque)
{
    struct disks_tell *t = opaque;
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "left", disks_in_left(t->m->disks_in));
    proto_send(t->ch, PROTO_PROG, o);
    t->saying = false;
    co_queue_wake_all(&t->said);
}

static void tick(void *opaque)
{
    struct disks_tell *t = opaque;
    timer_arm(&t->tick, loop_now_ns() + TELL_NS);
    if (!t->saying) {
        t->saying = true;
        co_start(t->m->vm->loop, say, t);
    }
}

void disks_tell_begin(struct disks_tell *t, struct migration *m)
{
    *t = (struct disks_tell){.m = m, .ch = mux_open(m->mux, MUX_DISKS_END)};
    timer_init(&t->tick, m->vm->loop, tick, t);
    if (m->tells) {
        timer_arm(&t->tick, loop_now_ns());
    }
}

void disks_tell_end(struct disks_tell *t, bool all)
{
    timer_cancel(&t->tick);
    while (t->saying) {
        co_queue_wait(&t->said);
    }
    if (all) {
        proto_send(t->ch, PROTO_ALLD, NULL);
    }
    channel_close(t->ch);
}
