/* SPDX-License-Identifier: BSD-2-Clause */
/* The destination: what comes is kept beside the machine until all of it is there and checked. */
#include "machine/machine.h"
#include "move/bitmaps.h"
#include "move/disks_told.h"
#include "move/makeup.h"
#include "move/migration.h"
#include "move/proto.h"
#include "move/ram_in.h"
#include "move/storage.h"
#include "move/turn.h"
#include "state/manifest.h"

#include <errno.h>
#include <string.h>

#define DRAIN_NS UINT64_C(2000000000)

struct in {
    struct migration *m;
    struct vm *vm;
    char *uri, *folder;
    char **allow, **force_drop;
    bool exit_on_error, answers, has_turn, run;
    uint64_t deadline_ns;  /* of what comes before ANSW */
    bool silent, stranger; /* it did not come; what came is no HELLO */
    bool said_ready;
    enum run_state state;     /* that it gets when it does not run */
    unsigned flags;           /* PROTO_* */
    struct json_object *want; /* NULL: nothing */
    struct disks_in *disks;   /* NULL: none */
    struct bitmaps_in *bitmaps;
    struct objects_in objects;
    struct state_reader *reader;
    struct ram_in *ram;
};

static ssize_t read_channel(void *opaque, void *buf, size_t len)
{
    struct in *x = opaque;
    ssize_t n = channel_read_until(x->m->ch, buf, len, x->deadline_ns);
    x->m->stats.transferred += n > 0 ? (uint64_t)n : 0;
    x->silent = x->silent || n == -ETIMEDOUT;
    return n;
}

/* --- the stream -----------------------------------------------------------------------------------------------------
 */

static int read_bitmap(struct in *x, struct err *e)
{
    const GByteArray *p = state_read_payload(x->reader, STATE_BITMAP_MAX);
    return p ? bitmaps_in_add(x->bitmaps, p, e) : -EINVAL;
}

static int read_jobs(struct in *x, struct err *e)
{
    const GByteArray *p = state_read_payload(x->reader, STATE_JOBS_MAX);
    return p ? jobs_in_take(x->m->jobs_in, p, e) : -EINVAL;
}

/* Torn pages that are to follow. */
static void mend_by_list(const struct in *x, struct state_torn *torn)
{
    unsigned block;
    uint64_t page;
    while (x->m->in && state_torn_any(torn, &block, &page) && pc_in_lacks(x->m->in, block, page)) {
        state_torn_mend(torn, block, page, 1);
    }
}

/* Which pages are to follow. */
static int read_list(struct in *x, struct err *e)
{
    const GByteArray *p = state_read_payload(x->reader, pc_left_bytes(x->vm));
    if (p) {
        x->m->in = pc_in_create(x->vm, p, e);
        mend_by_list(x, state_reader_torn(x->reader));
    }
    return x->m->in ? 0 : -EINVAL;
}

static int read_chunks(struct in *x, struct err *e)
{
    struct state_chunk c;
    int rc;
    while ((rc = state_read_next(x->reader, &c)) > 0) {
        if (c.type == STATE_RAMP) {
            rc = ram_in_chunk(x->ram, x->reader);
        } else if (c.type == STATE_DEVS) {
            const GByteArray *p = state_read_payload(x->reader, STATE_DEVICE_MAX);
            if (p) {
                objects_in_add(&x->objects, p);
            }
        } else if (c.type == STATE_BMAP) {
            rc = read_bitmap(x, e);
        } else if (c.type == STATE_JOBS && x->answers) {
            rc = read_jobs(x, e);
        } else if (c.type == STATE_LEFT && x->m->postcopy && !x->m->in) {
            rc = read_list(x, e);
        } else if (!state_type_ancillary(c.type)) {
            rc = err_set(e, ENOTSUP, "%s: something comes that this release does not know", x->uri);
        }
        if (rc < 0) {
            break;
        }
    }
    return rc < 0 && !err_is_set(e) ? state_reader_error(x->reader, e) : rc;
}

/* All of RAM that comes over several connections. */
static int await_lanes(const struct in *x, struct lanes_in *lanes, struct err *e)
{
    unsigned block;
    uint64_t page;
    int rc = lanes_in_wait(lanes, e);
    if (rc < 0) {
        return rc;
    }
    mend_by_list(x, lanes_in_torn(lanes));
    return state_torn_any(lanes_in_torn(lanes), &block, &page)
               ? err_set(e, EBADMSG, "page %" PRIu64 " of RAM block '%s' came damaged, and not once more", page,
                         state_manifest_block_name(state_reader_manifest(x->reader), block))
               : 0;
}

static int prepare_ram(struct in *x, struct err *e)
{
    if (x->m->postcopy) {
        ram_in_give_back(x->ram);
        return ram_in_touch(x->ram);
    }
    int rc = ram_in_preallocate(x->ram, e);
    ram_in_expect_all(x->ram);
    ram_in_work_ahead(x->ram);
    return rc;
}

static int read_stream(struct in *x, struct err *e)
{
    struct lanes_in *lanes = x->m->lanes_in;
    if (!move_turn_take(x->vm, &x->m->cancelled)) {
        return err_set(e, ECANCELED, "%s: cancelled", x->uri);
    }
    x->has_turn = true;
    migration_set(x->m, MIG_ACTIVE);
    x->ram = ram_in_create(x->vm, e);
    state_reader_keep_unknown(x->reader);
    int rc = x->ram ? prepare_ram(x, e) : -ENOMEM;
    if (rc == 0 && lanes) {
        lanes_in_begin(lanes, x->ram);
    }
    rc = rc < 0 ? rc : read_chunks(x, e);
    if (x->ram) {
        ram_in_settle(x->ram);
    }
    if (rc == 0 && state_reader_buffered(x->reader)) {
        rc = err_set(e, EPROTO, "%s: something follows the end of the machine", x->uri);
    }
    rc = rc == 0 && lanes ? await_lanes(x, lanes, e) : rc;
    if (rc < 0) {
        lanes_in_error(lanes, e);
    } else {
        migration_set(x->m, MIG_DEVICE);
        rc = x->disks ? disks_in_finish(x->disks, e) : 0;
        rc = rc < 0 || !x->disks ? rc : disks_in_connect(x->disks, x->m->mux, e);
        rc = rc < 0 ? rc : storage_read(x->vm, e);
        rc = rc < 0 ? rc : bitmaps_in_prepare(x->bitmaps, e);
        rc = rc < 0 ? rc : objects_in_prepare(&x->objects, state_reader_manifest(x->reader), e);
    }
    if (rc == 0 && x->m->in) { /* could fail: before REDY */
        ram_in_replace(x->ram);
        rc = pc_in_begin(x->m->in, e);
    }
    return rc;
}

/* The machine is held still, and nothing of this can fail. */
static void become(struct in *x)
{
    struct guest_ram *r;
    if (!x->m->in) {
        ram_in_replace(x->ram);
    }
    for (unsigned i = 0; (r = guest_ram_get(x->vm->mem, i)); i++) {
        guest_mem_mark_written(x->vm->mem, r->gpa, r->size);
    }
    objects_in_commit(&x->objects);
    x->vm->state = x->state;
}

/* --- with answers ---------------------------------------------------------------------------------------------------
 */

/*
 * What a source may want. Judged when the manifest is known to fit, before ANSW. `features` gets what the source must
 * know of it.
 */
struct want {
    const char *name;
    int (*accept)(struct in *x, struct json_object *value, struct json_object *features, struct err *e);
};

static int accept_disks(struct in *x, struct json_object *value, struct json_object *features, struct err *e)
{
    int rc = disks_in_create(x->vm, value, &x->disks, e);
    x->m->disks_in = rc == 0 && disks_in_follow(x->disks) ? x->disks : NULL;
    return rc;
}

static int accept_postcopy(struct in *x, struct json_object *value, struct json_object *features, struct err *e)
{
    x->m->postcopy = json_object_get_boolean(value);
    return x->m->postcopy ? pc_in_check(x->vm, e) : 0;
}

static int accept_multifd(struct in *x, struct json_object *value, struct json_object *features, struct err *e)
{
    return lanes_in_create(x->m, value, features, &x->m->lanes_in, e);
}

static int accept_bitmaps(struct in *x, struct json_object *value, struct json_object *features, struct err *e)
{
    return bitmaps_in_judge(x->bitmaps, value, features, e);
}

static int accept_jobs(struct in *x, struct json_object *value, struct json_object *features, struct err *e)
{
    return jobs_in_judge(x->m->jobs_in, value, features, e);
}

static const struct want migrate_wants[] = {
    {"jobs", accept_jobs},   {"dirty-bitmaps", accept_bitmaps}, {"multifd", accept_multifd},
    {"disks", accept_disks}, {"postcopy-ram", accept_postcopy}, {NULL, NULL},
};

static int take_want(struct in *x, struct json_object *features, struct err *e)
{
    json_object_object_foreach(x->want, name, value)
    {
        const struct want *w = migrate_wants;
        for (; w->name && strcmp(w->name, name); w++) {
        }
        int rc = w->name ? x->vm->machine ? w->accept(x, value, features, e) : 0
                         : err_set(e, ENOTSUP,
                                   "The source wants '%s', which this release does not know: move without it, or to a "
                                   "newer release",
                                   name);
        if (rc < 0) {
            return rc;
        }
    }
    return 0;
}

static int answer(struct in *x, struct err *e)
{
    struct json_object *o = json_object_new_object(), *features = json_object_new_object();
    json_object_object_add(o, "version", json_object_new_int(PROTO_VERSION));
    json_object_object_add(o, "features", features);
    if (machine_release_says(x->vm->as_release, RAM_LIVE_PAGES)) {
        state_reader_take_live(x->reader);
        json_object_object_add(features, RAM_LIVE_PAGES, json_object_new_boolean(true));
    }
    int rc = take_want(x, features, e);
    if (rc < 0) {
        json_object_put(o);
        return rc;
    }
    rc = proto_send(x->m->ch, PROTO_ANSW, o);
    if (rc < 0) {
        return err_set_errno(e, -rc, "%s", x->uri);
    }
    if (x->flags & PROTO_DRY_RUN) {
        return 0;
    }
    migration_open_mux(x->m);
    return x->disks ? disks_in_begin(x->disks, x->m->mux, e) : 0;
}

static int send_fail(struct migration *m, const char *why, bool said_ready)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "error", json_object_new_string(why));
    if (said_ready) { /* proto.h, law 3: OKGO is not taken any more */
        json_object_object_add(o, "runs", json_object_new_boolean(false));
    }
    return proto_send(m->ch, PROTO_FAIL, o);
}

/* The other side reads it, as its own last bytes are read here until it is gone. */
static void send_refusal(struct in *x, const struct err *e)
{
    char buf[65536];
    uint64_t end = loop_now_ns() + DRAIN_NS;
    if (send_fail(x->m, err_text(e), x->said_ready) == 0) {
        while (loop_now_ns() < end && channel_read_all(x->m->ch, buf, sizeof(buf), end) == 0) {
        }
    }
}

/* The source's manager has set it there, as RAM is limited there; disks come as fast as we ask for them. */
static void take_limit(struct migration *m, struct json_object *go)
{
    struct json_object *limit;
    int64_t n = json_object_object_get_ex(go, "max-postcopy-bandwidth", &limit) ? json_object_get_int64(limit) : 0;
    if (n > 0 && !m->params.postcopy_bandwidth) {
        m->params.postcopy_bandwidth = m->lent_bandwidth = (uint64_t)n;
    }
}

/* Of a machine that did not run; what is not one of these, or not known, is paused. */
static enum run_state read_state(struct json_object *go)
{
    static const enum run_state states[] = {RUN_PRELAUNCH, RUN_SHUTDOWN, RUN_IO_ERROR, RUN_INTERNAL_ERROR,
                                            RUN_GUEST_PANICKED};
    struct json_object *o;
    const char *name = json_object_object_get_ex(go, "state", &o) ? json_object_get_string(o) : NULL;
    for (size_t i = 0; name && i < G_N_ELEMENTS(states); i++) {
        if (!strcmp(run_state_names[states[i]], name)) {
            return states[i];
        }
    }
    return RUN_PAUSED;
}

static void refuse_go(void *opaque)
{
    struct migration *m = opaque;
    uint64_t end = loop_now_ns() + DRAIN_NS;
    send_fail(m, "the migration was cancelled at the destination", true);
    while (m->awaits_go && co_queue_wait_until(&m->idle, end)) { /* the source hangs up when it has heard */
    }
    mux_break(m->mux);
    m->refusing = false;
    co_queue_wake_all(&m->idle);
}

void migration_refuse_go(struct migration *m)
{
    m->refusing = true;
    co_start(m->vm->loop, refuse_go, m);
}

/* Said REDY, reads OKGO; cancelled meanwhile it is not taken, though it may have come. */
static int read_go(struct migration *m, const char *uri, struct json_object **go, struct err *e)
{
    m->awaits_go = true;
    int rc = proto_send(m->ch, PROTO_REDY, NULL);
    rc = rc < 0 ? err_set_errno(e, -rc, "%s", uri) : proto_read(m->ch, PROTO_OKGO, UINT64_MAX, go, e);
    m->awaits_go = false;
    co_queue_wake_all(&m->idle);
    while (m->refusing) {
        co_queue_wait(&m->idle);
    }
    if (rc == 0 && m->cancelled) {
        rc = err_set(e, ECANCELED, "%s: cancelled", uri);
    }
    m->sent_go = rc == 0;
    return rc;
}

static int wait_for_go(struct in *x, struct err *e)
{
    CLEANUP_JSON struct json_object *go = NULL;
    struct json_object *run;
    x->said_ready = true;
    int rc = read_go(x->m, x->uri, &go, e);
    if (rc < 0) {
        return rc;
    }
    x->run = json_object_object_get_ex(go, "run", &run) && json_object_get_boolean(run);
    x->state = x->run ? RUN_PAUSED : read_state(go);
    if (migration_follows(x->m)) {
        x->m->id = g_strdup(json_object_object_get_ex(go, "id", &run) ? json_object_get_string(run) : "");
        take_limit(x->m, go);
        x->m->tells = json_object_object_get_ex(go, "disks-progress", &run) && json_object_get_boolean(run) &&
                      machine_release_says(x->vm->as_release, DISKS_PROGRESS);
    }
    return 0;
}

/* --- all of it ------------------------------------------------------------------------------------------------------
 */

/* A program that has no machine yet makes it of what the manifest says; who only asks leaves it without. */
static int fits(struct in *x, struct err *e)
{
    const struct state_manifest *m = state_reader_manifest(x->reader);
    int rc = makeup_take(x->vm, m, x->want, x->folder, x->flags & PROTO_DRY_RUN, e);
    if (rc < 0 || (!x->vm->machine && x->flags & PROTO_DRY_RUN)) {
        return rc;
    }
    rc = objects_in_check_manifest(&x->objects, m, e);
    return rc < 0 ? rc : objects_in_judge(&x->objects, m, e);
}

static int receive(struct in *x, struct err *e)
{
    const struct state_source from = {.read = read_channel, .opaque = x, .name = x->uri};
    x->answers = channel_answers(x->m->ch);
    x->run = true;
    x->state = RUN_PAUSED;
    int rc = x->answers ? proto_read_hello(x->m->ch, migration_hello_deadline(x->m), &x->flags, e) : 0;
    x->stranger = rc < 0 && rc != -ENOTSUP;
    x->deadline_ns = x->answers ? migration_deadline(x->m) : UINT64_MAX;
    rc = rc == 0 && x->answers ? proto_read(x->m->ch, PROTO_WANT, x->deadline_ns, &x->want, e) : rc;
    x->silent = rc == -ETIMEDOUT;
    if (rc < 0) {
        return rc;
    }
    x->reader = state_reader_create(&from, e);
    x->m->jobs_in = jobs_in_create(x->vm);
    x->bitmaps = bitmaps_in_create(x->vm, x->m->params.bitmap_mapping);
    rc = x->reader ? fits(x, e) : -EINVAL;
    rc = rc == 0 && x->answers ? answer(x, e) : rc;
    if (rc < 0 || x->flags & PROTO_DRY_RUN) {
        return rc;
    }
    x->deadline_ns = UINT64_MAX; /* law 6 of the mux */
    rc = read_stream(x, e);
    return rc == 0 && x->answers ? wait_for_go(x, e) : rc;
}

/* Ready for the next one that comes. */
static void forget(struct in *x)
{
    lanes_in_destroy(x->m->lanes_in);
    x->m->lanes_in = NULL;
    state_reader_destroy(take(x->reader));
    ram_in_destroy(take(x->ram));
    if (x->m->disks_in) {
        disks_in_stats(take(x->m->disks_in), &x->m->disk_stats);
    }
    if (!x->vm->disks_hook.here) {
        jobs_in_destroy(take(x->m->jobs_in));
    }
    bitmaps_in_destroy(take(x->bitmaps));
    disks_in_destroy(take(x->disks));
    objects_in_finish(&x->objects);
    objects_in_init(&x->objects, x->vm, x->uri);
    x->objects.state_allow = (const char *const *)x->allow;
    x->objects.force_drop = (const char *const *)x->force_drop;
    x->flags = 0;
    x->silent = x->stranger = x->said_ready = false;
    x->m->postcopy = false;
    if (x->m->in) {
        x->m->stats.latency = *pc_in_latency(x->m->in);
        pc_in_blocked(x->m->in, &x->m->stats.blocked);
        pc_in_destroy(take(x->m->in));
    }
    json_object_put(take(x->want));
    if (x->m->lent_bandwidth == x->m->params.postcopy_bandwidth) {
        x->m->params.postcopy_bandwidth = 0;
    }
    x->m->lent_bandwidth = 0;
    if (x->has_turn) {
        move_turn_give(x->vm);
        x->has_turn = false;
    }
}

/* Who does not show who he is, or may not come, leaves, and we wait on. */
static int let_in(struct in *x, struct err *e)
{
    for (;;) {
        CLEANUP_ERR struct err why = ERR_INIT;
        int rc = channel_door_wait(x->m->door, &x->m->ch, e);
        if (rc < 0) {
            return rc;
        }
        rc = migration_secure(x->m, &x->m->ch, &why);
        if (rc == 0) {
            return 0;
        }
        if (rc == -EPERM) {
            send_refusal(x, &why);
        }
        log_warn(x->vm->log, "migration: %s", err_text(&why));
        migration_hang_up(x->m);
    }
}

/* He who only asks, or comes and then says nothing, or nothing that a source says: others may come after him. */
static bool may_wait_on(const struct in *x)
{
    bool nobody = x->silent || x->stranger;
    return x->flags & PROTO_DRY_RUN || (nobody && !x->m->mux && channel_door_listens(x->m->door));
}

static int receive_one(struct in *x, struct err *e)
{
    forget(x);
    for (;; forget(x)) {
        CLEANUP_ERR struct err why = ERR_INIT;
        int rc = let_in(x, e);
        if (rc < 0) {
            return rc;
        }
        rc = receive(x, &why);
        if (rc < 0 && x->answers) {
            send_refusal(x, &why);
        }
        if (rc == 0 && !(x->flags & PROTO_DRY_RUN)) {
            return 0;
        }
        if (rc < 0 && !may_wait_on(x)) {
            return err_set(e, -rc, "%s", err_text(&why));
        }
        if (x->silent || x->stranger) {
            log_warn(x->vm->log, "migration: %s", err_text(&why));
        }
        migration_hang_up(x->m);
    }
}

static void in_free(struct in *x)
{
    forget(x);
    objects_in_finish(&x->objects);
    g_strfreev(x->allow);
    g_strfreev(x->force_drop);
    g_free(x->uri);
    g_free(x->folder);
    g_free(x);
}

/* Trays, locks, modes and addresses came with the machine: the state file here says so before its guest runs. */
static void keep_make_up(struct vm *vm)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (vm->keeper.changed && vm->keeper.changed(vm->keeper.opaque, &e) < 0) {
        log_error(vm->log, "the machine that came is not as the state file says: %s", err_text(&e));
    }
}

/* Maybe later, when disks that somebody else had locked are here. */
static void jobs_go_on(void *opaque)
{
    struct migration *m = opaque;
    struct jobs_in *jobs = take(m->jobs_in);
    if (jobs) {
        jobs_in_start(jobs);
    }
    jobs_in_destroy(jobs);
}

static void take_over(struct in *x, struct err *e)
{
    struct vm *vm = x->vm;
    struct migration *m = x->m;
    bool runs = x->run && vm->autostart;
    become(x);
    vm->disks_hook = (struct vm_disks_hook){jobs_go_on, m};
    int rc = vm_take_disks(vm, e);
    bitmaps_in_commit(x->bitmaps);
    if (x->disks) {
        disks_in_start(x->disks, &m->after);
    }
    makeup_arrived(vm);
    keep_make_up(vm);
    if (migration_follows(m)) {
        migration_set(m, MIG_POSTCOPY_ACTIVE);
    }
    rc = rc < 0 || !runs ? rc : vm_cont(vm, e);
    if (rc < 0) {
        vm->state = runs ? RUN_IO_ERROR : vm->state;
        log_error(vm->log, "the machine that came does not run: %s", err_text(e));
    }
    if (!migration_follows(m)) {
        migration_set(m, MIG_COMPLETED); /* behind RESUME, as managers know it */
    }
    if (x->answers) {
        proto_send(x->m->ch, PROTO_RUNS, NULL);
    }
    lanes_in_destroy(take(m->lanes_in)); /* who waits at the door is gone before the door is */
    if (migration_follows(m) && postcopy_fill(m, e) == 0) {
        migration_set(m, MIG_COMPLETED);
    }
}

static void entry(void *opaque)
{
    struct in *x = opaque;
    struct vm *vm = x->vm;
    struct migration *m = x->m;
    CLEANUP_ERR struct err e = ERR_INIT;
    bool exits = x->exit_on_error;
    /* Who waits for it first ends what he does: all may be there already, and make another machine of this. */
    co_yield ();
    int rc = receive_one(x, &e);
    if (rc == 0) {
        take_over(x, &e);
    }
    in_free(x);
    if (rc == -ECANCELED) {
        m->cancelled = true;
    }
    migration_end(m, rc < 0 ? &e : NULL);
    if (rc < 0 && !m->cancelled) {
        log_error(vm->log, "load of migration failed: %s", err_text(&e));
        if (exits) {
            vm_quit(vm, "host-error", 1);
        }
    }
}

void migrate_has_come(struct vm *vm)
{
    struct migration *m = migration_of(vm);
    m->incoming = true;
    migration_set(m, MIG_COMPLETED);
}

void migrate_set_lenience(struct vm *vm, const char *const *state_allow, const char *const *force_drop)
{
    struct migration *m = migration_of(vm);
    g_strfreev(m->state_allow);
    g_strfreev(m->force_drop);
    m->state_allow = g_strdupv((char **)(uintptr_t)state_allow);
    m->force_drop = g_strdupv((char **)(uintptr_t)force_drop);
}

/* Of both lists; either may be NULL. */
static char **joined(char *const *a, const char *const *b)
{
    GPtrArray *all = g_ptr_array_new();
    for (; a && *a; a++) {
        g_ptr_array_add(all, g_strdup(*a));
    }
    for (; b && *b; b++) {
        g_ptr_array_add(all, g_strdup(*b));
    }
    g_ptr_array_add(all, NULL);
    return (char **)g_ptr_array_free(all, false);
}

int migrate_incoming(struct vm *vm, const struct migrate_in_options *o, struct err *e)
{
    struct migration *m = migration_of(vm);
    int rc = vm->state != RUN_INMIGRATE ? err_set(e, EINVAL, "'-incoming' was not specified on the command line")
             : m->busy                  ? err_set(e, EBUSY, "The incoming migration has already been started")
                                        : migration_begin(m, true, e);
    if (rc < 0) {
        return rc;
    }
    rc = migration_check_tls(m, o->place, true, e);
    rc = rc < 0 ? rc : channel_door_open(o->place, o->names, &m->door, e);
    if (rc < 0) {
        migration_end(m, NULL);
        return rc;
    }
    struct in *x = g_new0(struct in, 1);
    x->m = m;
    x->vm = vm;
    x->uri = g_strdup(o->place->name);
    x->allow = joined(m->state_allow, o->state_allow);
    x->force_drop = joined(m->force_drop, o->force_drop);
    x->folder = g_strdup(o->disk_folder);
    x->exit_on_error = o->exit_on_error;
    objects_in_init(&x->objects, vm, x->uri);
    migration_set(m, MIG_SETUP);
    co_start(vm->loop, entry, x);
    return 0;
}
