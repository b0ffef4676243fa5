/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A migration in post-copy, at either side: one connection after the other until all of RAM has followed the machine.
 * A new one begins with HELLO and WANT {"resume": ID}, ANSW, and LEFT from the destination on the sub-channel of
 * requests; then it goes on as before. docs/migration.md has it for those who write the other side.
 */
#include "move/postcopy.h"

#include "base/cleanup.h"
#include "move/disks_told.h"
#include "move/migration.h"
#include "move/mux.h"
#include "move/proto.h"

#include <errno.h>
#include <string.h>

static void open_link(struct migration *m, struct pc_link *l)
{
    l->bulk = m->ch;
    l->answers = mux_open(m->mux, MUX_PAGES);
    l->requests = mux_open(m->mux, MUX_PAGE_REQUESTS);
}

static void close_link(struct migration *m, struct pc_link *l)
{
    channel_close(l->answers);
    channel_close(l->requests);
    migration_hang_up(m);
}

static bool over(const struct migration *m)
{
    return m->ending || m->resolved;
}

bool migration_follows(const struct migration *m)
{
    return m->out || m->in || m->disks_in || (m->disks && disks_out_follow(m->disks));
}

/* Status, and why. */
static void pause_for(struct migration *m, const struct err *why)
{
    g_free(m->error);
    m->error = g_strdup(err_text(why));
    migration_set(m, m->there ? MIG_POSTCOPY_PAUSED : MIG_UNKNOWN);
    log_warn(m->vm->log,
             "migration: %s: what has not followed waits: 'migrate-recover' at the destination, then "
             "'migrate' with 'resume' at the source",
             err_text(why));
}

static void go_on(struct migration *m)
{
    m->there = true;
    g_clear_pointer(&m->error, g_free);
    migration_set(m, MIG_POSTCOPY_ACTIVE);
}

/* --- the source ---------------------------------------------------------------------------------------------------
 */

static int ask_to_resume(struct migration *m, struct err *e)
{
    struct json_object *want = json_object_new_object();
    json_object_object_add(want, "resume", json_object_new_string(m->id));
    int rc = proto_send_hello(m->ch, PROTO_RESUME);
    rc = rc < 0 ? rc : proto_send(m->ch, PROTO_WANT, want);
    return rc < 0 ? err_set_errno(e, -rc, "%s", channel_name(m->ch))
                  : proto_read(m->ch, PROTO_ANSW, migration_deadline(m), NULL, e);
}

static int hear_left(struct migration *m, const struct pc_link *l, struct err *e)
{
    g_autoptr(GByteArray) body = g_byte_array_new();
    enum pc_type type;
    int rc = pc_read(l->requests, &type, body);
    if (rc < 0) {
        return err_set_errno(e, -rc, "%s", channel_name(l->requests));
    }
    return type == PC_LEFT
               ? pc_out_set_left(m->out, body, e)
               : err_set(e, EPROTO, "%s: the other side does not say what it lacks", channel_name(l->requests));
}

/* RAM, while disks' server has them copied. */
static int serve_both(struct migration *m, struct pc_link *l, struct err *e)
{
    struct disks_hear hear;
    disks_hear_begin(&hear, m);
    int rc = m->out ? pc_out_run(m->out, l, e) : 0;
    if (rc < 0) {
        mux_break(m->mux);
    } else { /* RAM has done with its part of the connection */
        channel_close(take(m->ch));
        channel_close(take(l->answers));
    }
    int heard = disks_hear_wait(&hear, e);
    return rc < 0 ? rc : heard;
}

static int serve_all(struct migration *m, struct pc_link *l, bool again, struct err *e)
{
    bool disks = m->disks && disks_out_follow(m->disks);
    int rc = again && m->out ? hear_left(m, l, e) : 0;
    rc = rc == 0 && again && disks ? disks_out_serve(m->disks, m->mux, e) : rc;
    if (rc < 0) {
        return rc;
    }
    go_on(m);
    if (!m->out && m->params.release_ram) {
        pc_give_up_all(m->vm);
    }
    return disks ? serve_both(m, l, e) : pc_out_run(m->out, l, e);
}

/* Over the connection that there is; `again`: it is not the first one. */
static int serve_link(struct migration *m, bool again, struct err *e)
{
    struct pc_link link;
    int rc = 0;
    if (again) {
        migration_set(m, MIG_POSTCOPY_RECOVER);
        rc = ask_to_resume(m, e);
        if (rc < 0) {
            migration_hang_up(m);
            return rc;
        }
        migration_open_mux(m);
    }
    open_link(m, &link);
    rc = serve_all(m, &link, again, e);
    close_link(m, &link);
    return rc;
}

int postcopy_serve(struct migration *m, struct err *e)
{
    int rc = -ENOTCONN;
    for (bool again = false;; again = true) {
        CLEANUP_ERR struct err why = ERR_INIT;
        rc = again || m->status != MIG_UNKNOWN ? serve_link(m, again, &why) : -ENOTCONN;
        if (rc == 0 || m->ending) {
            break;
        }
        if (err_is_set(&why)) {
            pause_for(m, &why);
        }
        while (!m->next && !over(m)) {
            co_queue_wait(&m->resume);
        }
        if (over(m)) {
            break;
        }
        m->ch = take(m->next);
    }
    return rc == 0 || m->resolved ? 0 : err_set(e, ECANCELED, "the program ended before all had followed");
}

struct dial {
    struct migration *m;
    struct channel_place to;
    const struct channel_names *names;
    enum migration_status before;
};

static void dial(void *opaque)
{
    struct dial *d = opaque;
    struct migration *m = d->m;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct channel *ch = NULL;
    int rc = migration_dial(m, &d->to, d->names, &ch, &e);
    if (rc == 0 && !channel_answers(ch)) {
        rc = err_set(&e, EINVAL, "%s gives no answer", channel_name(ch));
    }
    if (rc == 0 && m->status == MIG_POSTCOPY_RECOVER_SETUP && !over(m)) {
        m->next = take(ch);
    } else if (m->status == MIG_POSTCOPY_RECOVER_SETUP) {
        migration_set(m, d->before);
        g_free(m->error);
        m->error = g_strdup(rc < 0 ? err_text(&e) : "paused");
    }
    channel_close(ch);
    m->dialling = false;
    co_queue_wake_all(&m->resume);
    channel_place_finish(&d->to);
    g_free(d);
}

int migrate_resume(struct vm *vm, const struct channel_place *to, const struct channel_names *names, struct err *e)
{
    struct migration *m = migration_of(vm);
    bool lost = m->status == MIG_POSTCOPY_PAUSED || (m->status == MIG_UNKNOWN && m->busy);
    if (m->incoming || !lost || m->dialling) {
        return err_set(e, EINVAL, "Cannot resume if there is no paused migration");
    }
    int rc = migration_check_tls(m, to, false, e);
    if (rc < 0) {
        return rc;
    }
    struct dial *d = g_new0(struct dial, 1);
    *d = (struct dial){.m = m, .names = names, .before = m->status};
    channel_place_copy(&d->to, to);
    m->dialling = true;
    m->dial = (struct nbd_dial){.fd = -1, .deadline_ns = UINT64_MAX};
    migration_set(m, MIG_POSTCOPY_RECOVER_SETUP);
    co_start(vm->loop, dial, d);
    return 0;
}

/* --- the destination ----------------------------------------------------------------------------------------------
 */

static int judge_resume(struct migration *m, struct err *e)
{
    CLEANUP_JSON struct json_object *want = NULL;
    struct json_object *id = NULL;
    unsigned flags;
    int rc = proto_read_hello(m->ch, migration_hello_deadline(m), &flags, e);
    rc = rc < 0 ? rc : proto_read(m->ch, PROTO_WANT, migration_deadline(m), &want, e);
    if (rc < 0) {
        return rc;
    }
    bool mine = flags & PROTO_RESUME && json_object_object_get_ex(want, "resume", &id) &&
                !g_strcmp0(json_object_get_string(id), m->id);
    return mine ? 0
                : err_set(e, EINVAL,
                          "%s: here the rest of a machine is waited for that runs already, and this is another",
                          channel_name(m->ch));
}

static int answer_resume(struct migration *m, struct err *e)
{
    struct json_object *o = json_object_new_object();
    int rc = judge_resume(m, e);
    if (rc < 0) {
        json_object_object_add(o, "error", json_object_new_string(err_text(e)));
        proto_send(m->ch, PROTO_FAIL, o);
        return rc;
    }
    json_object_object_add(o, "version", json_object_new_int(PROTO_VERSION));
    json_object_object_add(o, "features", json_object_new_object());
    rc = proto_send(m->ch, PROTO_ANSW, o);
    return rc < 0 ? err_set_errno(e, -rc, "%s", channel_name(m->ch)) : 0;
}

/* Whoever else comes is sent away, and the one is waited for on. */
static int wait_for_source(struct migration *m, struct err *e)
{
    for (;;) {
        CLEANUP_ERR struct err why = ERR_INIT;
        int rc = channel_door_wait(m->door, &m->ch, e);
        if (rc < 0) {
            return rc;
        }
        migration_set(m, MIG_POSTCOPY_RECOVER);
        rc = migration_secure(m, &m->ch, &why);
        rc = rc < 0 ? rc : answer_resume(m, &why);
        if (rc == 0) {
            migration_open_mux(m);
            return 0;
        }
        log_warn(m->vm->log, "migration: %s", err_text(&why));
        migration_hang_up(m);
        if (over(m)) {
            return err_set(e, ECANCELED, "paused");
        }
        migration_set(m, MIG_POSTCOPY_RECOVER_SETUP);
    }
}

static int fill(struct migration *m, struct pc_link *l, struct err *e)
{
    struct disks_tell tell;
    if (m->disks_in) {
        disks_tell_begin(&tell, m);
    }
    int rc = m->in ? pc_in_run(m->in, l, e) : 0;
    rc = rc == 0 && m->disks_in ? disks_in_wait(m->disks_in, m->mux, e) : rc;
    if (rc < 0) {
        mux_break(m->mux);
    }
    if (m->disks_in) {
        disks_tell_end(&tell, rc == 0);
    }
    return rc;
}

static int fill_from_link(struct migration *m, bool again, struct err *e)
{
    struct pc_link link;
    int rc = 0;
    open_link(m, &link);
    if (again && m->disks_in) {
        rc = disks_in_reconnect(m->disks_in, m->mux, e);
    }
    if (rc == 0 && again && m->in) {
        g_autoptr(GByteArray) left = pc_in_left(m->in);
        GByteArray *b = g_byte_array_append(pc_begin(PC_LEFT), left->data, left->len);
        rc = pc_send(link.requests, b);
        rc = rc < 0 ? err_set_errno(e, -rc, "%s", channel_name(link.requests)) : 0;
    }
    if (rc == 0) {
        go_on(m);
        rc = fill(m, &link, e);
    }
    close_link(m, &link);
    return rc;
}

int postcopy_fill(struct migration *m, struct err *e)
{
    int rc = 0;
    m->there = true;
    for (bool again = false;; again = true) {
        CLEANUP_ERR struct err why = ERR_INIT;
        rc = again ? wait_for_source(m, &why) : 0;
        channel_door_close(take(m->door));
        rc = rc < 0 ? rc : fill_from_link(m, again, &why);
        if (rc == 0 || m->ending) {
            break;
        }
        pause_for(m, &why);
        while (!m->door && !m->ending) {
            co_queue_wait(&m->resume);
        }
        if (m->ending) {
            break;
        }
    }
    if (rc < 0) { /* it is not whole, and never will be */
        vm_stop(m->vm, RUN_INTERNAL_ERROR);
        return err_set(e, ECANCELED, "the program ended before all had come");
    }
    return 0;
}

int migrate_recover(struct vm *vm, const struct channel_place *at, const struct channel_names *names, struct err *e)
{
    struct migration *m = migration_of(vm);
    if (!m->incoming || m->status != MIG_POSTCOPY_PAUSED || m->door) {
        return err_set(e, EINVAL, "Migrate recover can only be run when postcopy is paused.");
    }
    int rc = migration_check_tls(m, at, true, e);
    rc = rc < 0 ? rc : channel_door_open(at, names, &m->door, e);
    if (rc == 0) {
        migration_set(m, MIG_POSTCOPY_RECOVER_SETUP);
        co_queue_wake_all(&m->resume);
    }
    return rc;
}

/* --- both -----------------------------------------------------------------------------------------------------------
 */

int migrate_start_postcopy(struct vm *vm, struct err *e)
{
    struct migration *m = migration_of(vm);
    bool may = m->busy ? m->postcopy : m->params.postcopy;
    if (!may && !m->params.dirty_bitmaps) {
        return err_set(e, EINVAL, "Enable postcopy with migrate_set_capability before the start of migration");
    }
    if (m->status == MIG_NONE || m->incoming) {
        return err_set(e, EINVAL, "Postcopy must be started after migration has been started");
    }
    if (!may) { /* bitmaps have all come when the machine runs there */
        return 0;
    }
    if (m->status == MIG_SETUP || m->status == MIG_ACTIVE || m->status == MIG_PRE_SWITCHOVER) {
        m->switch_now = m->halt = true;
        co_queue_wake_all(&m->go_on);
    }
    return 0; /* later it would make no difference */
}

bool migrate_in_postcopy(struct vm *vm)
{
    const struct migration *m = migration_of(vm);
    return m->status >= MIG_POSTCOPY_ACTIVE && m->status <= MIG_POSTCOPY_RECOVER;
}

static void break_link(struct migration *m)
{
    if (m->mux) {
        mux_break(m->mux);
    } else if (m->ch) {
        channel_break(m->ch);
    }
    if (m->door) {
        channel_door_shut(m->door);
    }
    nbd_dial_stop(&m->dial);
}

int migrate_pause(struct vm *vm, struct err *e)
{
    struct migration *m = migration_of(vm);
    if (!migrate_in_postcopy(vm) || m->status == MIG_POSTCOPY_PAUSED) {
        return err_set(e, EINVAL,
                       "migrate-pause is currently only supported during postcopy-active or postcopy-recover "
                       "state");
    }
    if (m->status == MIG_POSTCOPY_RECOVER_SETUP && !m->incoming) {
        migration_set(m, m->there ? MIG_POSTCOPY_PAUSED : MIG_UNKNOWN);
    }
    break_link(m);
    return 0;
}

void postcopy_end(struct migration *m)
{
    bool follows = m->busy && m->incoming && m->sent_go && migration_follows(m);
    if (follows || migrate_in_postcopy(m->vm) || m->status == MIG_UNKNOWN) {
        m->ending = true;
        break_link(m);
        co_queue_wake_all(&m->resume);
    }
    while (m->dialling) {
        co_queue_wait(&m->resume);
    }
    channel_close(take(m->next));
}

static void describe_blocked(const struct migration *m, struct json_object *o)
{
    enum { MS = 1000000 };
    struct pc_blocked b = m->stats.blocked;
    if (m->in) {
        pc_in_blocked(m->in, &b);
    }
    if (!m->params.blocktime || !b.harts) {
        return;
    }
    struct json_object *harts = json_object_new_array();
    for (unsigned i = 0; i < b.harts; i++) {
        json_object_array_add(harts, json_object_new_uint64(b.hart_ns[i] / MS));
    }
    json_object_object_add(o, "postcopy-blocktime", json_object_new_uint64(b.all_ns / MS));
    json_object_object_add(o, "postcopy-vcpu-blocktime", harts);
}

void postcopy_describe(const struct migration *m, struct json_object *o)
{
    describe_blocked(m, o);
    const struct pc_latency *l = m->in ? pc_in_latency(m->in) : &m->stats.latency;
    if (!l->count) {
        return;
    }
    struct json_object *dist = json_object_new_array();
    for (unsigned i = 0; i < G_N_ELEMENTS(l->bucket); i++) {
        json_object_array_add(dist, json_object_new_uint64(l->bucket[i]));
    }
    json_object_object_add(o, "postcopy-latency", json_object_new_uint64(l->sum_ns / l->count));
    json_object_object_add(o, "postcopy-latency-dist", dist);
    json_object_object_add(o, "postcopy-latency-p99", json_object_new_uint64(pc_latency_percentile(l, 99)));
    json_object_object_add(o, "postcopy-latency-max", json_object_new_uint64(l->max_ns));
}
