/* SPDX-License-Identifier: BSD-2-Clause */
/* The source: pre-copy in rounds while the guest runs, then the switch. */
#include "job/rest.h"
#include "machine/machine.h"
#include "move/bitmaps.h"
#include "move/converge.h"
#include "move/dirty.h"
#include "move/disks_told.h"
#include "move/makeup.h"
#include "move/migration.h"
#include "move/proto.h"
#include "move/ram_out.h"
#include "move/storage.h"
#include "move/turn.h"
#include "state/manifest.h"

#include <errno.h>
#include <inttypes.h>

enum {
    GUESSED_RATE = 1 << 30, /* bytes a second, until there was a round */
    SAMPLE_BYTES = 1 << 20,
    SAMPLE_NS = 50000000,      /* of a round at least: rates of shorter ones say nothing */
    LAST_WORDS_NS = 500000000, /* of a side that is gone */
    ZSTD_DEFAULT = 3,
};

struct out {
    struct migration *m;
    struct vm *vm;
    struct migrate_options o;
    struct channel_place place;
    const char *uri; /* its name */
    char *compat;
    char **force_drop;
    bool has_turn, answers;
    struct bitmaps_out bitmaps;
    struct objects_out objects, last; /* of the handshake, of the switch */
    struct state_writer *w;
    bool live; /* the destination takes live pages, and the connection does */
};

/* --- what may move --------------------------------------------------------------------------------------------------
 */

static int check_disks(struct out *x, struct err *e)
{
    return storage_check(x->vm, x->m->jobs, x->m->params.pause_before_switch, e);
}

/* --- bytes ----------------------------------------------------------------------------------------------------------
 */

static int write_out(void *opaque, const void *buf, size_t len)
{
    struct out *x = opaque;
    int rc = x->m->cancelled ? -ECANCELED : channel_write(x->m->ch, buf, len);
    x->m->stats.transferred += rc == 0 ? len : 0;
    x->m->stats.stopped_bytes += rc == 0 && x->m->stats.stopped_ns ? len : 0;
    return rc;
}

static void count_pages(struct out *x)
{
    struct state_totals t;
    state_writer_totals(x->w, &t);
    const struct lanes_out *lanes = x->m->lanes_out;
    x->m->stats.pages_zero = t.pages[STATE_PAGES_ZERO] + lanes_out_pages(lanes, true);
    x->m->stats.pages_data = t.pages[STATE_PAGES_RAW] + t.pages[STATE_PAGES_ZSTD] + lanes_out_pages(lanes, false);
    x->m->stats.lane_bytes = lanes_out_bytes(lanes);
}

static int broken(const struct out *x)
{
    return x->m->mux ? mux_error(x->m->mux) : 0;
}

static int pace(void *opaque, uint64_t bytes)
{
    struct out *x = opaque;
    struct job_limit *limit = x->m->status == MIG_ACTIVE ? &x->m->before : &x->m->during;
    count_pages(x);
    job_limit_account(limit, bytes);
    for (uint64_t ns; !x->m->halt && !broken(x) && (ns = job_limit_delay(limit));) {
        co_queue_wait_until(&x->m->go_on, loop_now_ns() + ns);
    }
    return broken(x);
}

/* --- the rounds -----------------------------------------------------------------------------------------------------
 */

static void progress(void *opaque, uint64_t done, uint64_t total)
{
    count_pages(opaque);
}

/* 0: RAM is not compressed. */
static int zstd_level(const struct out *x)
{
    const struct migrate_params *p = &x->m->params;
    bool does = p->zstd || (x->m->lanes_out && p->multifd_zstd);
    return !does ? 0 : p->zstd_level ? (int)p->zstd_level : ZSTD_DEFAULT;
}

static int send_dirty(struct out *x)
{
    bool live = x->m->lanes_out ? lanes_out_live(x->m->lanes_out) : x->live;
    const struct ram_out ram = {.vm = x->vm,
                                .w = x->w,
                                .dirty = x->m->dirty,
                                .lanes = x->m->lanes_out,
                                .zstd_level = zstd_level(x),
                                .live = live && !zstd_level(x),
                                .cancelled = &x->m->halt,
                                .progress = progress,
                                .pace = pace,
                                .opaque = x};
    int rc = ram_out_write(&ram);
    if (rc == 0 && ram.lanes) {
        rc = lanes_out_round(ram.lanes, x->m->stats.stopped_ns);
    }
    count_pages(x);
    return rc;
}

/* And it is there: what waits in sockets takes its time, too. */
static int deliver_dirty(struct out *x)
{
    int rc = send_dirty(x);
    if (rc == 0 && lanes_out_answers(x->m->lanes_out)) {
        return lanes_out_arrive(x->m->lanes_out);
    }
    return rc == 0 && x->m->mux ? mux_arrive(x->m->mux) : rc;
}

/* Bytes a second to reckon with: measured, or what is allowed. */
static double reckoned_rate(const struct out *x)
{
    uint64_t limit = x->m->params.max_bandwidth;
    return x->m->stats.rate > 0 ? x->m->stats.rate : (double)(limit ? limit : GUESSED_RATE);
}

/* How long what is left takes. */
static void predict(struct out *x)
{
    uint64_t left = dirty_pages(x->m->dirty) * GUEST_PAGE_SIZE;
    x->m->stats.expected_ns = (uint64_t)((double)left * 1e9 / migration_switch_rate(x->m, reckoned_rate(x)));
}

/* What the guest has written to is known: another round begins. */
static void count_pass(struct out *x)
{
    x->m->stats.passes++;
    if (x->m->params.events) {
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "pass", json_object_new_uint64(x->m->stats.passes));
        event_emit(x->vm->bus, "MIGRATION_PASS", d);
    }
}

/* What this round has shown, for so much of which something was sent. */
static void measure(struct out *x, uint64_t found, uint64_t sent_ns)
{
    struct migrate_stats *s = &x->m->stats;
    uint64_t sent = s->transferred - s->round_from, took_ns = loop_now_ns() - s->round_ns;
    if (sent >= SAMPLE_BYTES) {
        s->rate = (double)sent * 1e9 / (double)sent_ns;
    }
    s->dirty_rate = (uint64_t)((double)found * 1e9 / (double)took_ns);
    predict(x);
    converge_judge(x->m, found * GUEST_PAGE_SIZE, sent);
}

static bool is_near(const struct out *x)
{
    return x->m->stats.expected_ns <= x->m->params.downtime_ms * 1000000;
}

/*
 * The guest could stop, but runs on while each short round leaves less than half of what the one before did. One that
 * writes too fast for that stops now.
 */
static int shorten(struct out *x)
{
    bool helps = (double)x->m->stats.dirty_rate * GUEST_PAGE_SIZE < reckoned_rate(x) / 2;
    uint64_t before = UINT64_MAX, left;
    int rc = 0;
    while (helps && rc == 0 && (left = dirty_pages(x->m->dirty)) && left < before / 2) {
        before = left;
        rc = deliver_dirty(x);
        dirty_harvest(x->m->dirty);
        count_pass(x);
    }
    predict(x);
    return rc;
}

/* Sent often enough, and what is left would still take too long: it follows the machine. */
static bool has_to_follow(const struct out *x)
{
    uint64_t rounds = x->m->params.postcopy_rounds;
    return rounds && x->m->postcopy && x->m->stats.passes > rounds && !is_near(x);
}

static void rest(struct migration *m, uint64_t until_ns)
{
    while (!m->halt && co_queue_wait_until(&m->go_on, until_ns)) {
    }
}

static int precopy(struct out *x)
{
    const struct migrate_params *p = &x->m->params;
    struct migrate_stats *s = &x->m->stats;
    int rc = 0;
    for (bool enough = false; rc == 0 && !enough && !x->m->switch_now;) {
        s->round_ns = loop_now_ns();
        s->round_from = s->transferred;
        rc = deliver_dirty(x);
        uint64_t took = loop_now_ns() - s->round_ns;
        if (rc == 0 && took < SAMPLE_NS && s->passes > 1) {
            rest(x->m, s->round_ns + SAMPLE_NS);
        }
        measure(x, dirty_harvest(x->m->dirty), MAX(took, 1));
        if (rc == 0) {
            count_pass(x);
        }
        enough = is_near(x) && (p->pause_before_switch || !storage_is_busy(x->vm, x->m->jobs));
        rc = rc == 0 && enough ? shorten(x) : rc;
        enough = enough && is_near(x);
        x->m->switch_now |= rc == 0 && has_to_follow(x);
        rc = rc < 0 ? rc : x->m->cancelled ? -ECANCELED : disks_out_check(x->m->disks, NULL);
        rc = rc < 0 ? rc : check_disks(x, NULL);
    }
    return rc == -ECANCELED && x->m->switch_now && !x->m->cancelled ? 0 : rc;
}

/* --- the handshake --------------------------------------------------------------------------------------------------
 */

/* What the other side may have said before it went says more than a broken pipe. */
static int explain(struct out *x, int rc, struct err *e)
{
    CLEANUP_ERR struct err said = ERR_INIT;
    if (x->m->cancelled) {
        return err_set(e, ECANCELED, "the migration was cancelled");
    }
    int heard = x->answers ? proto_read(x->m->ch, PROTO_FAIL, loop_now_ns() + LAST_WORDS_NS, NULL, &said) : 0;
    if (heard == -EREMOTEIO || heard == -ECONNREFUSED) {
        return err_set(e, EREMOTEIO, "%s", err_text(&said));
    }
    if (rc == -ETIMEDOUT || (x->m->mux && mux_error(x->m->mux) == -ETIMEDOUT)) {
        return err_set(e, ETIMEDOUT,
                       "%s: nothing has come from the other side for %" PRIu64
                       " ms ('answer-timeout'): the connection is taken for broken",
                       x->uri, MAX(x->m->params.answer_ms, MUX_PATIENCE_MIN_MS));
    }
    if (disks_out_check(x->m->disks, e) < 0) {
        return -EIO;
    }
    if (x->m->stats.setup_ns && check_disks(x, e) < 0) {
        return -EBUSY;
    }
    return state_writer_error(x->w, e) ? rc : err_set_errno(e, -rc, "%s", x->uri);
}

static int get_objects(struct out *x, struct objects_out *o, struct err *e)
{
    vm_quiesce(x->vm);
    int rc = objects_out_get(o, e);
    vm_unquiesce(x->vm);
    return rc;
}

/* What this move needs from the other side: docs/migration.md. */
static int make_want(struct out *x, struct json_object **out, struct err *e)
{
    struct json_object *bitmaps;
    int rc = bitmaps_out_want(&x->bitmaps, &bitmaps, e);
    if (rc < 0) {
        return rc;
    }
    struct json_object *want = *out = json_object_new_object();
    if (bitmaps) {
        json_object_object_add(want, "dirty-bitmaps", bitmaps);
    }
    struct json_object *jobs = jobs_out_want(x->m->jobs, x->answers);
    if (jobs) {
        json_object_object_add(want, "jobs", jobs);
    }
    if (disks_out_any(x->m->disks)) {
        json_object_object_add(want, "disks", disks_out_want(x->m->disks));
    }
    if (x->m->postcopy) {
        json_object_object_add(want, "postcopy-ram", json_object_new_boolean(true));
    }
    if (x->m->lanes_out) {
        json_object_object_add(want, "multifd", lanes_out_want(x->m->lanes_out));
    }
    return 0;
}

/* What does not come, and does not matter enough to stay here for it. */
static void take_features(struct out *x, struct json_object *features)
{
    struct json_object *left = json_object_object_get(features, "dirty-bitmaps-left-out");
    for (size_t i = 0; json_object_is_type(left, json_type_array) && i < json_object_array_length(left); i++) {
        log_warn(x->vm->log, "migration: a dirty bitmap does not come with the machine, says the destination: %s",
                 json_object_get_string(json_object_array_get_idx(left, i)));
    }
    jobs_out_answer(x->m->jobs, features);
    if (x->m->lanes_out) {
        lanes_out_features(x->m->lanes_out, features);
    }
}

static bool may_be_live(const struct out *x, struct json_object *features)
{
    const struct guest_ram *r;
    bool all = json_object_get_boolean(json_object_object_get(features, RAM_LIVE_PAGES)) &&
               machine_release_says(x->vm->as_release, RAM_LIVE_PAGES);
    for (unsigned i = 0; all && (r = guest_ram_get(x->vm->mem, i)); i++) {
        all = channel_take_live(x->m->ch, r->host, r->size);
    }
    return all;
}

static int take_answer(struct out *x, struct err *e)
{
    CLEANUP_JSON struct json_object *answer = NULL;
    int rc = proto_read(x->m->ch, PROTO_ANSW, migration_deadline(x->m), &answer, e);
    if (rc == 0) {
        struct json_object *features = json_object_object_get(answer, "features");
        take_features(x, features);
        x->live = may_be_live(x, features);
        migration_open_mux(x->m);
    }
    return rc;
}

static int shake_hands(struct out *x, struct err *e)
{
    const struct state_sink sink = {write_out, x, x->uri};
    const struct state_write_options wo = {.aligned = false};
    struct json_object *want = NULL;
    int rc = get_objects(x, &x->objects, e);
    rc = rc < 0 ? rc : make_want(x, &want, e);
    if (rc < 0) {
        return rc;
    }
    x->w = state_writer_create(&sink, &wo);
    rc = x->answers ? proto_send_hello(x->m->ch, x->o.dry_run ? PROTO_DRY_RUN : 0) : 0;
    rc = rc < 0 || !x->answers ? rc : proto_send(x->m->ch, PROTO_WANT, take(want));
    json_object_put(want);
    makeup_tell(x->vm, x->objects.manifest);
    if (x->answers) {
        objects_out_tell(&x->objects);
    }
    rc = rc < 0 ? rc : state_write_manifest(x->w, x->objects.manifest);
    rc = rc < 0 ? rc : state_write_flush(x->w);
    if (rc < 0) {
        return explain(x, rc, e);
    }
    return x->answers ? take_answer(x, e) : 0;
}

/* --- the switch -----------------------------------------------------------------------------------------------------
 */

/* The guest stands still: what its manager ends meanwhile has all that the guest has written. */
static int wait_for_manager(struct out *x, struct err *e)
{
    struct migration *m = x->m;
    if (!m->params.pause_before_switch) {
        return 0;
    }
    migration_set(m, MIG_PRE_SWITCHOVER);
    while (!m->may_go_on && !m->cancelled && !broken(x)) {
        co_queue_wait(&m->go_on);
    }
    int rc = m->cancelled ? -ECANCELED : broken(x);
    return rc < 0 ? explain(x, rc, e) : 0;
}

/* Which pages follow the machine, in the place of those pages; what multifd's connections carry comes before it does.
 */
static int send_list(struct out *x)
{
    struct migration *m = x->m;
    const struct pc_out_options o = {&m->params.postcopy_bandwidth, m->params.release_ram};
    int rc = m->lanes_out ? lanes_out_round(m->lanes_out, true) : 0;
    if (rc < 0) {
        return rc;
    }
    m->out = pc_out_create(x->vm, m->dirty, &o);
    g_autoptr(GByteArray) left = pc_out_left(m->out);
    return state_write_chunk(x->w, STATE_LEFT, left->data, left->len);
}

/* The guest stands still. */
static int send_rest(struct out *x, struct err *e)
{
    int rc = objects_out_get(&x->last, e);
    if (rc < 0) {
        return rc;
    }
    dirty_harvest(x->m->dirty);
    dirty_last(x->m->dirty);
    count_pass(x);
    rc = x->m->switch_now ? send_list(x) : send_dirty(x);
    rc = rc < 0 ? rc : bitmaps_out_write(&x->bitmaps, x->w, e);
    rc = rc < 0 || !x->answers ? rc : jobs_out_write(x->m->jobs, x->w);
    rc = rc < 0 ? rc : objects_out_write(&x->last, x->w);
    rc = rc < 0 ? rc : state_write_stop(x->w, NULL);
    return rc < 0 && !err_is_set(e) ? explain(x, rc, e) : rc;
}

static int hand_over(struct out *x, struct err *e)
{
    struct migration *m = x->m;
    int rc = proto_read(m->ch, PROTO_REDY, migration_deadline(x->m), NULL, e);
    rc = rc < 0 || m->cancelled ? rc : makeup_keep_away(x->vm, &m->cancelled, e);
    if (rc < 0 || m->cancelled) {
        return rc < 0 && !m->cancelled ? rc : explain(x, -ECANCELED, e);
    }
    struct json_object *go = json_object_new_object();
    m->was = vm_leaving_state(x->vm);
    json_object_object_add(go, "run", json_object_new_boolean(m->was == RUN_RUNNING));
    if (m->was != RUN_RUNNING && m->was != RUN_PAUSED) {
        json_object_object_add(go, "state", json_object_new_string(run_state_names[m->was]));
    }
    if (migration_follows(m)) {
        m->id = g_uuid_string_random();
        json_object_object_add(go, "id", json_object_new_string(m->id));
        json_object_object_add(go, "max-postcopy-bandwidth", json_object_new_uint64(m->params.postcopy_bandwidth));
        if (disks_out_follow(m->disks) && machine_release_says(x->vm->as_release, DISKS_PROGRESS)) {
            json_object_object_add(go, "disks-progress", json_object_new_boolean(true));
        }
    }
    m->sent_go = true; /* law 2: whatever becomes of it */
    rc = proto_send(m->ch, PROTO_OKGO, go);
    rc = rc < 0 ? err_set_errno(e, -rc, "%s", x->uri) : proto_read(m->ch, PROTO_RUNS, migration_deadline(m), NULL, e);
    m->sent_go = rc != -ECONNREFUSED;
    return rc;
}

static int finish_one_way(struct out *x, struct err *e)
{
    int rc = x->m->cancelled ? 0 : channel_finish(x->m->ch, e);
    return rc == 0 && x->m->cancelled ? explain(x, -ECANCELED, e) : rc;
}

/* The machine is there, unless `rc` says that RUNS did not come. */
static int follow(struct out *x, int rc, struct err *e)
{
    struct migration *m = x->m;
    vm_left(x->vm, true);
    converge_end(m);
    dirty_destroy(take(m->dirty));
    if (rc == 0) {
        jobs_out_leave(x->vm->jobs, &m->went);
    } else {
        m->error = g_strdup(err_text(e));
        log_warn(x->vm->log, "migration: %s", err_text(e));
        err_clear(e);
        migration_hang_up(m);
        migration_set(m, MIG_UNKNOWN);
    }
    return postcopy_serve(m, e);
}

static int switch_over(struct out *x, struct err *e)
{
    struct migration *m = x->m;
    m->stats.stopped_ns = loop_now_ns();
    vm_leave(x->vm);
    int rc = wait_for_manager(x, e);
    if (rc < 0) {
        return rc;
    }
    migration_set(m, MIG_DEVICE);
    rc = disks_out_finish(m->disks, e);
    rc = rc < 0 ? explain(x, rc, e) : storage_give(x->vm, m->disks, m->jobs, migration_deadline(m), e);
    if (rc == 0 && disks_out_follow(m->disks) && (rc = disks_out_serve(m->disks, m->mux, e)) < 0) {
        rc = explain(x, rc, e);
    }
    rc = rc < 0 ? rc : send_rest(x, e);
    rc = rc < 0 ? rc : x->answers ? hand_over(x, e) : finish_one_way(x, e);
    m->stats.downtime_ns = loop_now_ns() - m->stats.stopped_ns;
    return migration_follows(m) && m->sent_go ? follow(x, rc, e) : rc;
}

/* --- all of it ------------------------------------------------------------------------------------------------------
 */

/* Before RAM, which need not be sent again and again meanwhile. */
static int copy_disks(struct out *x, struct err *e)
{
    CLEANUP_ERR struct err why = ERR_INIT;
    if (!disks_out_any(x->m->disks)) {
        return 0;
    }
    migration_set(x->m, MIG_ACTIVE);
    int rc = disks_out_copy(x->m->disks, x->m->mux, &x->m->before, &x->m->cancelled, &why);
    if (rc < 0 && explain(x, rc, e) == rc && err_is_set(&why)) {
        err_clear(e);
        return err_set(e, -rc, "%s", err_text(&why));
    }
    return rc;
}

static int move_ram_and_switch(struct out *x, struct err *e)
{
    struct migration *m = x->m;
    int rc = dirty_create(x->vm, &m->dirty, e);
    if (rc < 0) {
        return rc;
    }
    m->stats.total = dirty_pages(m->dirty) * GUEST_PAGE_SIZE;
    m->stats.setup_ns = loop_now_ns() - m->stats.begun_ns;
    count_pass(x);
    rc = m->lanes_out ? lanes_out_open(m->lanes_out, &x->place, e) : 0;
    if (rc < 0) {
        return rc;
    }
    migration_set(m, MIG_ACTIVE);
    rc = precopy(x);
    return rc < 0 ? explain(x, rc, e) : switch_over(x, e);
}

/* What there must be an answer for. */
static int check_one_way(const struct out *x, struct err *e)
{
    if (x->o.dry_run) {
        return err_set(e, EINVAL, "%s gives no answer: there is nobody to ask whether it would go", x->uri);
    }
    if (disks_out_any(x->m->disks)) {
        return err_set(e, EINVAL, "%s gives no answer: disks cannot be copied through it", x->uri);
    }
    return x->m->postcopy
               ? err_set(e, EINVAL, "%s gives no answer: RAM cannot follow a machine there; switch 'postcopy-ram' off",
                         x->uri)
               : 0;
}

static int run(struct out *x, struct err *e)
{
    struct vm *vm = x->vm;
    bool gives_none = x->place.scheme == TO_EXEC || x->place.scheme == TO_FILE;
    int rc = storage_check(vm, x->m->jobs, true, e);       /* which jobs can go is not known yet */
    rc = rc < 0 || !gives_none ? rc : check_one_way(x, e); /* before a file is cut, or a command begun */
    rc = rc < 0 ? rc : objects_out_init(&x->objects, vm, x->compat, x->o.force_drop, e);
    rc = rc < 0 ? rc : objects_out_init(&x->last, vm, x->compat, x->o.force_drop, e);
    x->m->asks = rc < 0 || x->place.scheme != TO_SOCKET ? x->m->asks : NULL; /* who connects is not waited for */
    rc = rc < 0 ? rc : migration_dial(x->m, &x->place, x->o.names, &x->m->ch, e);
    if (rc < 0) {
        return rc;
    }
    x->answers = channel_answers(x->m->ch);
    rc = x->answers ? 0 : check_one_way(x, e);
    if (rc < 0) {
        return rc;
    }
    x->m->lanes_out = x->m->params.multifd ? lanes_out_create(x->m, x->m->params.multifd_channels) : NULL;
    x->m->asks = NULL;
    if (!move_turn_take(vm, &x->m->cancelled)) {
        return -ECANCELED;
    }
    x->has_turn = true;
    rc = shake_hands(x, e);
    rc = rc < 0 ? rc : check_disks(x, e);
    if (rc < 0 || x->o.dry_run) {
        return rc;
    }
    rc = copy_disks(x, e);
    return rc < 0 ? rc : move_ram_and_switch(x, e);
}

/* The guest, where it goes on here, waits for nobody elsewhere. */
static void leave_disks(struct out *x, int rc)
{
    struct migration *m = x->m;
    if (rc < 0 && m->mux) {
        mux_break(m->mux);
    }
    disks_out_stats(m->disks, &m->disk_stats);
    disks_out_destroy(take(m->disks));
}

/* Also of those that had to follow. */
static void give_rest(struct out *x, int rc)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (rc == 0 && storage_give_rest(x->vm, &e) < 0) {
        log_warn(x->vm->log, "disks of a machine that has left are still locked here: %s", err_text(&e));
    }
}

/* Where the guest is now. */
static void settle(struct out *x, int rc)
{
    struct vm *vm = x->vm;
    if (x->o.dry_run || x->m->resolved || (rc < 0 && x->m->ending)) {
        return;
    }
    if (rc == 0 || x->m->sent_go) {
        give_rest(x, rc);
        if (rc == 0) {
            jobs_out_leave(vm->jobs, &x->m->went);
        }
        if (rc == 0 && x->answers && x->m->params.release_ram) {
            pc_give_up_all(vm);
        }
        vm_left(vm, x->answers);
        migration_set(x->m, rc == 0 ? MIG_COMPLETED : MIG_UNKNOWN);
    } else {
        makeup_stays(vm); /* nobody else runs it, and who starts it again after a crash may */
        vm_stay(vm);
        storage_keep(vm);
    }
}

static void out_free(struct out *x)
{
    if (x->has_turn) {
        move_turn_give(x->vm);
    }
    json_object_put(x->bitmaps.map);
    state_writer_destroy(x->w);
    objects_out_finish(&x->objects);
    objects_out_finish(&x->last);
    g_strfreev(x->force_drop);
    g_free(x->compat);
    channel_place_finish(&x->place);
    g_free(x);
}

static int carry_out(struct out *x, struct err *e)
{
    struct migration *m = x->m;
    bool dry_run = x->o.dry_run;
    if (!dry_run) {
        migration_set(m, MIG_SETUP);
    }
    int rc = run(x, e);
    if (rc < 0 && m->cancelled) {
        err_clear(e);
        err_set(e, ECANCELED, "the migration was cancelled");
    }
    leave_disks(x, rc);
    settle(x, rc);
    jobs_out_destroy(take(m->jobs));
    out_free(x);
    migration_end(m, dry_run ? NULL : e);
    return rc;
}

static void entry(void *opaque)
{
    struct out *x = opaque;
    struct migration *m = x->m;
    struct log *log = x->vm->log;
    CLEANUP_ERR struct err e = ERR_INIT;
    int rc = carry_out(x, &e);
    if (rc < 0 && m->asks) {
        err_set(m->asks, -rc, "%s", err_text(&e));
    } else if (rc < 0) {
        log_error(log, "migration: %s", err_text(&e));
    }
}

static int start(struct vm *vm, const struct migrate_options *o, struct err *e)
{
    struct migration *m = migration_of(vm);
    struct disks_out *disks = NULL;
    int rc = 0;
    if (vm->state == RUN_INMIGRATE || vm->moved_away) {
        rc = err_set(e, EINVAL, "%s",
                     vm->moved_away ? "The machine has been moved away" : "Guest is waiting for an incoming migration");
    }
    if (rc == 0 && m->params.multifd && o->place->scheme != TO_SOCKET) {
        rc = err_set(e, EINVAL, "Migration requires multi-channel URIs (e.g. tcp)");
    }
    rc = rc < 0 ? rc : migration_check_tls(m, o->place, false, e);
    rc = rc < 0 ? rc : disks_out_create(vm, o->disks, &disks, e);
    rc = rc < 0 ? rc : migration_begin(m, false, e);
    if (rc < 0) {
        disks_out_destroy(disks);
        return rc;
    }
    m->disks = disks;
    m->jobs = jobs_out_create(vm, disks, m->params.dirty_bitmaps && !m->params.bitmap_mapping);
    struct out *x = g_new0(struct out, 1);
    m->postcopy = m->params.postcopy;
    m->dry_run = o->dry_run;
    x->bitmaps = (struct bitmaps_out){vm, disks, m->params.dirty_bitmaps, json_object_get(m->params.bitmap_mapping)};
    x->m = m;
    x->vm = vm;
    x->o = *o;
    channel_place_copy(&x->place, o->place);
    x->o.place = &x->place;
    x->uri = x->place.name;
    x->compat = g_strdup(o->compat);
    x->force_drop = g_strdupv((char **)(uintptr_t)o->force_drop);
    x->o.force_drop = (const char *const *)x->force_drop;
    if (o->dry_run) {
        return carry_out(x, e);
    }
    CLEANUP_ERR struct err at_once = ERR_INIT;
    m->asks = &at_once;
    co_start(vm->loop, entry, x);
    m->asks = NULL;
    return err_is_set(&at_once) ? err_set(e, at_once.code, "%s", err_text(&at_once)) : 0;
}

int migrate_start(struct vm *vm, const struct migrate_options *o, struct err *e)
{
    struct migration *m = migration_of(vm);
    migration_tidied(m);
    if (!o->dry_run || m->busy) {
        return start(vm, o, e);
    }
    /* What query-migrate tells is of what was done last, not of what was asked. */
    const struct migrate_stats stats = m->stats;
    const struct disks_stats disks = m->disk_stats;
    char *error = g_strdup(m->error);
    bool incoming = m->incoming;
    int rc = start(vm, o, e);
    g_free(m->error);
    m->error = error;
    m->stats = stats;
    m->disk_stats = disks;
    m->incoming = incoming;
    return rc;
}
