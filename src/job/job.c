/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/job.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/id.h"
#include "job/job_int.h"
#include "job/rest.h"

#include <string.h>

enum { OUTCOMES_KEPT = 64 };
#define RATE_WINDOW_NS 500000000ull
#define RATE_FIRST_NS  100000000ull
/* How far behind its limit a job may fall and still catch up: longer gaps are not made up for. */
#define SPEED_SLACK_NS 100000000ull
#define TOGETHER_NS    100000000ull /* how soon a change of a shared limit is noticed */

const char *const job_status_names[] = {"undefined", "created", "running",  "paused",    "ready", "standby",
                                        "waiting",   "pending", "aborting", "concluded", "null",  NULL};
const char *const job_verb_names[] = {"cancel",  "pause",    "resume", "set-speed", "complete",
                                      "dismiss", "finalize", "change", NULL};
const char *const job_on_error_names[] = {"report", "ignore", "enospc", "stop", "auto", NULL};

#define S(status) (1u << JOB_##status)
static const uint16_t next_status[JOB_STATUS_COUNT] = {
    [JOB_UNDEFINED] = S(CREATED),
    [JOB_CREATED] = S(RUNNING) | S(ABORTING) | S(NULL),
    [JOB_RUNNING] = S(PAUSED) | S(READY) | S(WAITING) | S(ABORTING),
    [JOB_PAUSED] = S(RUNNING),
    [JOB_READY] = S(STANDBY) | S(WAITING) | S(ABORTING),
    [JOB_STANDBY] = S(READY),
    [JOB_WAITING] = S(PENDING) | S(ABORTING),
    [JOB_PENDING] = S(ABORTING) | S(CONCLUDED),
    [JOB_ABORTING] = S(ABORTING) | S(CONCLUDED),
    [JOB_CONCLUDED] = S(NULL),
    [JOB_NULL] = 0,
};
#define ALIVE (S(CREATED) | S(RUNNING) | S(PAUSED) | S(READY) | S(STANDBY))
static const uint16_t verb_in[JOB_VERB_COUNT] = {
    [JOB_VERB_CANCEL] = ALIVE | S(WAITING) | S(PENDING),
    [JOB_VERB_PAUSE] = ALIVE,
    [JOB_VERB_RESUME] = ALIVE,
    [JOB_VERB_SET_SPEED] = ALIVE,
    [JOB_VERB_COMPLETE] = S(READY) | S(STANDBY),
    [JOB_VERB_DISMISS] = S(CONCLUDED),
    [JOB_VERB_FINALIZE] = S(PENDING),
    [JOB_VERB_CHANGE] = ALIVE,
};
#undef ALIVE
#undef S

struct outcome {
    char *id;
    struct json_object *obj;
};

struct jobs {
    struct block_graph *graph;
    struct loop *loop;
    struct event_bus *bus;
    struct log *log;
    struct jobs_hooks hooks;
    GPtrArray *list; /* newest first */
    GQueue outcomes; /* struct outcome *, newest first */
    GData *data;
    bool hold;               /* job/rest.h */
    bool brief;              /* jobs_set_brief() */
    struct co_queue resting; /* who waits until they stand still, or come a step nearer to that */
};

bool job_status_may_follow(enum job_status from, enum job_status to)
{
    return from < JOB_STATUS_COUNT && to < JOB_STATUS_COUNT && (next_status[from] >> to & 1);
}

bool job_verb_allowed(enum job_verb verb, enum job_status in)
{
    return verb < JOB_VERB_COUNT && in < JOB_STATUS_COUNT && (verb_in[verb] >> in & 1);
}

/* --- the VM's jobs ------------------------------------------------------------------------------------------- */

struct jobs *jobs_create(struct block_graph *g)
{
    struct jobs *js = g_new0(struct jobs, 1);
    js->graph = g;
    js->loop = graph_loop(g);
    js->bus = graph_bus(g);
    js->log = graph_log(g);
    js->list = g_ptr_array_new();
    g_queue_init(&js->outcomes);
    g_datalist_init(&js->data);
    return js;
}

static void outcome_free(void *opaque)
{
    struct outcome *o = opaque;
    g_free(o->id);
    json_object_put(o->obj);
    g_free(o);
}

void jobs_cancel_all(struct jobs *js)
{
    while (js->list->len) {
        struct job *j = job_ref(g_ptr_array_index(js->list, 0));
        job_cancel_sync(j);
        if (j->status == JOB_CONCLUDED) {
            job_do_dismiss(j);
        }
        job_unref(j);
    }
}

void jobs_destroy(struct jobs *js)
{
    if (!js) {
        return;
    }
    jobs_cancel_all(js);
    g_datalist_clear(&js->data);
    g_queue_clear_full(&js->outcomes, outcome_free);
    g_ptr_array_free(js->list, true);
    g_free(js);
}

void jobs_set_hooks(struct jobs *js, const struct jobs_hooks *h)
{
    js->hooks = *h;
}

void jobs_set_brief(struct jobs *js, bool brief)
{
    js->brief = brief;
}

const struct jobs_hooks *jobs_hooks(const struct jobs *js)
{
    return &js->hooks;
}

struct co_queue *jobs_resting(struct jobs *js)
{
    return &js->resting;
}

struct loop *jobs_loop(const struct jobs *js)
{
    return js->loop;
}

struct event_bus *jobs_bus(const struct jobs *js)
{
    return js->bus;
}

struct log *jobs_log(const struct jobs *js)
{
    return js->log;
}

GPtrArray *jobs_list(struct jobs *js)
{
    return js->list;
}

struct job *jobs_find(struct jobs *js, const char *id)
{
    for (unsigned i = 0; i < js->list->len; i++) {
        struct job *j = g_ptr_array_index(js->list, i);
        if (j->id && !strcmp(j->id, id)) {
            return j;
        }
    }
    return NULL;
}

void jobs_resume_stopped(struct jobs *js)
{
    for (unsigned i = 0; i < js->list->len; i++) {
        struct job *j = g_ptr_array_index(js->list, i);
        if (j->stopped_by_error) {
            job_user_resume(j, NULL);
        }
    }
}

void *jobs_get_data(struct jobs *js, const char *key)
{
    return g_datalist_get_data(&js->data, key);
}

void jobs_set_data(struct jobs *js, const char *key, void *data, GDestroyNotify destroy)
{
    g_datalist_set_data_full(&js->data, key, data, destroy);
}

struct json_object *jobs_outcome(struct jobs *js, const char *id)
{
    for (GList *l = js->outcomes.head; l; l = l->next) {
        struct outcome *o = l->data;
        if (!strcmp(o->id, id)) {
            return o->obj;
        }
    }
    return NULL;
}

static void remember_outcome(struct job *j)
{
    if (!j->id || j->rc || !j->drv->outcome) {
        return;
    }
    struct outcome *o = g_new0(struct outcome, 1);
    o->id = g_strdup(j->id);
    o->obj = json_object_new_object();
    j->drv->outcome(j, o->obj);
    g_queue_push_head(&j->jobs->outcomes, o);
    if (j->jobs->outcomes.length > OUTCOMES_KEPT) {
        outcome_free(g_queue_pop_tail(&j->jobs->outcomes));
    }
}

/* An earlier job of this name says nothing about the one that has it now. */
static void forget_outcome(struct jobs *js, const char *id)
{
    for (GList *l = js->outcomes.head; l; l = l->next) {
        struct outcome *o = l->data;
        if (!strcmp(o->id, id)) {
            outcome_free(o);
            g_queue_delete_link(&js->outcomes, l);
            return;
        }
    }
}

/* --- events and states ---------------------------------------------------------------------------------------- */

void job_set_status(struct job *j, enum job_status s)
{
    if (j->status == s) {
        return;
    }
    if (!job_status_may_follow(j->status, s)) {
        log_error(j->jobs->log, "job '%s': no way from state '%s' to '%s'", j->id ? j->id : "(internal)",
                  job_status_names[j->status], job_status_names[s]);
        return;
    }
    j->status = s;
    if (j->changed) {
        co_queue_wake_all(j->changed);
    }
    co_queue_wake_all(&j->jobs->resting);
    log_trace(j->jobs->log, job_status, "%s %s", j->id ? j->id : "(internal)", job_status_names[s]);
    if (j->id && j->jobs->bus) {
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "id", json_object_new_string(j->id));
        json_object_object_add(d, "status", json_object_new_string(job_status_names[s]));
        event_emit(j->jobs->bus, "JOB_STATUS_CHANGE", d);
    }
}

void job_emit_block(struct job *j, const char *name)
{
    if (!j->drv->block || !j->id || !j->jobs->bus) {
        return;
    }
    bool pending = !strcmp(name, "BLOCK_JOB_PENDING");
    struct json_object *d = json_object_new_object();
    json_object_object_add(d, "type", json_object_new_string(j->drv->type));
    json_object_object_add(d, pending ? "id" : "device", json_object_new_string(j->id));
    if (!pending) {
        json_object_object_add(d, "len", json_object_new_int64((int64_t)j->progress_total));
        json_object_object_add(d, "offset", json_object_new_int64((int64_t)j->progress_done));
        json_object_object_add(d, "speed", json_object_new_int64((int64_t)j->speed));
        if (j->rc && !strcmp(name, "BLOCK_JOB_COMPLETED")) {
            json_object_object_add(d, "error", json_object_new_string(err_text(&j->err)));
        }
    }
    event_emit(j->jobs->bus, name, d);
}

void jobs_hold(struct jobs *js, bool hold)
{
    js->hold = hold;
}

/* --- making jobs ---------------------------------------------------------------------------------------------- */

struct job_txn *job_txn_create(void)
{
    struct job_txn *t = g_new0(struct job_txn, 1);
    t->jobs = g_ptr_array_new();
    t->refs = 1;
    return t;
}

void job_txn_unref(struct job_txn *t)
{
    if (t && --t->refs == 0) {
        g_ptr_array_free(t->jobs, true);
        g_free(t);
    }
}

static void txn_add(struct job_txn *t, struct job *j)
{
    g_ptr_array_insert(t->jobs, 0, job_ref(j));
    j->txn = t;
    t->refs++;
}

static void txn_remove(struct job *j)
{
    struct job_txn *t = take(j->txn);
    if (t) {
        g_ptr_array_remove(t->jobs, j);
        job_unref(j);
        job_txn_unref(t);
    }
}

void job_txn_move(struct job *j, struct job_txn *t)
{
    txn_remove(j);
    txn_add(t, j);
}

static void timer_fired(void *opaque)
{
    job_kick(opaque);
}

static int check_id(struct jobs *js, const struct job_spec *spec, struct err *e)
{
    const char *id = spec->id;
    bool internal = spec->flags & JOB_INTERNAL;
    if (id && internal) {
        return err_set(e, EINVAL, "Cannot specify job ID for internal job");
    }
    if (!id && !internal) { /* to QEMU a block job's is the name of the device, which is empty here */
        return err_set(e, EINVAL, spec->drv->block ? "Invalid job ID ''" : "An explicit job ID is required");
    }
    if (!id) {
        return 0;
    }
    if (!id_wellformed(id)) {
        return err_set(e, EINVAL, "Invalid job ID '%s'", id);
    }
    if (jobs_find(js, id)) {
        return err_set(e, EEXIST, "Job ID '%s' already in use", id);
    }
    return 0;
}

int job_create(struct jobs *js, const struct job_spec *spec, struct job **out, struct err *e)
{
    int rc = check_id(js, spec, e);
    if (rc) {
        return rc;
    }
    struct job *j = g_malloc0(spec->drv->size);
    j->jobs = js;
    j->drv = spec->drv;
    j->id = g_strdup(spec->id);
    j->refs = 1;
    j->paused = true;
    j->pause_count = 1;
    j->auto_finalize = !(spec->flags & JOB_MANUAL_FINALIZE);
    j->auto_dismiss = !(spec->flags & JOB_MANUAL_DISMISS);
    j->io_status = "ok";
    timer_init(&j->timer, js->loop, timer_fired, j);
    if (j->id) {
        forget_outcome(js, j->id);
    }
    g_ptr_array_insert(js->list, 0, j);
    job_set_status(j, JOB_CREATED);
    struct job_txn *own = spec->txn ? NULL : job_txn_create();
    txn_add(own ? own : spec->txn, j);
    job_txn_unref(own);
    *out = j;
    return 0;
}

struct job *job_ref(struct job *j)
{
    j->refs++;
    return j;
}

void job_unref(struct job *j)
{
    if (!j || --j->refs) {
        return;
    }
    timer_cancel(&j->timer);
    if (j->drv->free) {
        j->drv->free(j);
    }
    err_clear(&j->err);
    g_free(j->id);
    g_free(j);
}

void job_do_dismiss(struct job *j)
{
    j->busy = j->paused = false;
    j->deferred = true;
    txn_remove(j);
    job_set_status(j, JOB_NULL);
    if (g_ptr_array_remove(j->jobs->list, j)) {
        job_unref(j);
    }
}

void job_early_fail(struct job *j)
{
    job_do_dismiss(j);
}

void job_discard(struct job *j)
{
    if (j->drv->abort) {
        j->drv->abort(j);
    }
    if (j->drv->clean) {
        j->drv->clean(j);
    }
    job_do_dismiss(j);
}

/* --- the end -------------------------------------------------------------------------------------------------- */

static void update_rc(struct job *j)
{
    if (!j->rc && job_is_cancelled(j)) {
        j->rc = -ECANCELED;
    }
    if (j->rc) {
        const char *plain = g_strerror(-j->rc);
        bool brief = j->jobs->brief && j->drv->block && err_is_set(&j->err);
        if (brief && strcmp(err_text(&j->err), plain) != 0) {
            log_error(j->jobs->log, "%s", err_text(&j->err));
            err_clear(&j->err);
        }
        if (!err_is_set(&j->err)) {
            err_set(&j->err, -j->rc, "%s", plain);
        }
        job_set_status(j, JOB_ABORTING);
    }
}

/* It may be this end that others wait for. */
static void kick_all(struct jobs *js)
{
    for (unsigned i = 0; i < js->list->len; i++) {
        job_kick(g_ptr_array_index(js->list, i));
    }
}

static void conclude(struct job *j)
{
    update_rc(j);
    if (!j->rc) {
        if (j->drv->commit) {
            j->drv->commit(j);
        }
    } else if (j->drv->abort) {
        j->drv->abort(j);
    }
    if (j->drv->clean) {
        j->drv->clean(j);
    }
    remember_outcome(j);
    j->wait_reason = NULL;
    j->over = true;
    if (jobs_hooks(j->jobs)->ended) {
        jobs_hooks(j->jobs)->ended(jobs_hooks(j->jobs)->opaque, j);
    }
    if (j->started) {
        job_emit_block(j, job_is_cancelled(j) ? "BLOCK_JOB_CANCELLED" : "BLOCK_JOB_COMPLETED");
    }
    txn_remove(j);
    job_set_status(j, JOB_CONCLUDED);
    co_queue_wake_all(&j->finished);
    kick_all(j->jobs);
    if (j->auto_dismiss || !j->started) {
        job_do_dismiss(j);
    }
}

static void conclude_all(struct job_txn *t)
{
    while (t->jobs->len) {
        struct job *j = job_ref(g_ptr_array_index(t->jobs, 0));
        if (j->started) {
            while (!job_is_completed(j)) {
                co_queue_wait(&t->changed);
            }
        }
        conclude(j);
        job_unref(j);
    }
}

/* The first that fails takes the others with it. */
static void txn_abort(struct job_txn *t, struct job *first)
{
    struct block_graph *g = first->jobs->graph;
    if (t->aborting) {
        return;
    }
    t->aborting = true;
    t->refs++;
    for (unsigned i = 0; i < t->jobs->len; i++) {
        struct job *j = g_ptr_array_index(t->jobs, i);
        if (j != first) {
            job_mark_cancelled(j, true);
            job_kick(j);
        }
    }
    graph_change_begin(g);
    conclude_all(t);
    graph_change_end(g);
    job_txn_unref(t);
}

/* What a job's end finds out about the graph holds until it is over: who starts another one meanwhile waits. */
static int finalize_all(struct job_txn *t)
{
    int rc = 0;
    for (unsigned i = 0; i < t->jobs->len && !rc; i++) {
        struct job *j = g_ptr_array_index(t->jobs, i);
        if (j->rc == 0 && j->drv->prepare) {
            j->rc = j->drv->prepare(j, &j->err);
            update_rc(j);
        }
        rc = j->rc;
        if (rc) {
            txn_abort(t, j);
        }
    }
    if (!rc) {
        conclude_all(t);
    }
    return rc;
}

int job_txn_finalize(struct job_txn *t)
{
    if (t->finalizing || t->aborting || !t->jobs->len) {
        return 0;
    }
    struct block_graph *g = ((struct job *)g_ptr_array_index(t->jobs, 0))->jobs->graph;
    t->refs++;
    t->finalizing = true;
    graph_change_begin(g);
    int rc = finalize_all(t);
    graph_change_end(g);
    job_txn_unref(t);
    return rc;
}

static void txn_success(struct job *j)
{
    struct job_txn *t = j->txn;
    bool manual = false;

    job_set_status(j, JOB_WAITING);
    for (unsigned i = 0; i < t->jobs->len; i++) {
        if (!job_is_completed(g_ptr_array_index(t->jobs, i))) {
            j->wait_reason = "waits for the other jobs of its transaction";
            co_queue_wake_all(&t->changed);
            return;
        }
    }
    for (unsigned i = 0; i < t->jobs->len; i++) {
        struct job *other = g_ptr_array_index(t->jobs, i);
        job_set_status(other, JOB_PENDING);
        other->wait_reason = NULL;
        if (!other->auto_finalize) {
            other->wait_reason = "waits for job-finalize";
            job_emit_block(other, "BLOCK_JOB_PENDING");
            manual = true;
        }
    }
    if (!manual) {
        job_txn_finalize(t);
    }
}

static void completed(struct job *j)
{
    update_rc(j);
    if (!j->rc) {
        txn_success(j);
        return;
    }
    struct job_txn *t = j->txn;
    t->refs++;
    co_queue_wake_all(&t->changed);
    txn_abort(t, j);
    job_txn_unref(t);
}

void job_mark_cancelled(struct job *j, bool force)
{
    if (j->drv->cancel) {
        force = j->drv->cancel(j, force);
    } else {
        force = true;
    }
    if (j->user_paused) {
        if (j->drv->user_resume) {
            j->drv->user_resume(j);
        }
        j->user_paused = j->stopped_by_error = false;
        j->pause_count--;
    }
    /* A soft cancel says how a ready job shall end; one that has ended does not care. */
    if (force || !j->deferred) {
        j->cancelled = true;
        j->force_cancel |= force;
    }
}

void job_cancel(struct job *j, bool force)
{
    if (j->status == JOB_CONCLUDED) {
        job_do_dismiss(j);
        return;
    }
    job_mark_cancelled(j, force);
    if (!j->started) {
        completed(j);
    } else if (j->deferred) {
        if (force && j->txn && !j->txn->finalizing) {
            txn_abort(j->txn, j);
        }
    } else {
        job_kick(j);
    }
}

/* --- running -------------------------------------------------------------------------------------------------- */

static void entry(void *opaque)
{
    struct job *j = opaque; /* job_start's reference */

    j->co = co_self();
    job_pause_point(j);
    /* Cancelled before its first step: run() sees that by itself and cleans up in one place. */
    j->rc = j->drv->run(j, &j->err);
    j->deferred = true;
    j->busy = false;
    j->co = NULL;
    co_queue_wake_all(&j->jobs->resting);
    completed(j);
    job_unref(j);
}

void job_start(struct job *j)
{
    job_ref(j);
    j->started = j->busy = true;
    j->paused = false;
    j->rests = j->jobs->hold;
    j->pause_count -= !j->rests;
    j->rate_at_ns = loop_now_ns();
    job_set_status(j, JOB_RUNNING);
    co_start_later(j->jobs->loop, entry, j);
}

bool job_is_cancelled(const struct job *j)
{
    return j->force_cancel;
}

bool job_cancel_requested(const struct job *j)
{
    return j->cancelled;
}

bool job_is_ready(const struct job *j)
{
    return j->status == JOB_READY || j->status == JOB_STANDBY;
}

bool job_is_completed(const struct job *j)
{
    return j->status >= JOB_WAITING;
}

void job_ready(struct job *j)
{
    job_set_status(j, JOB_READY);
    job_emit_block(j, "BLOCK_JOB_READY");
}

static void stand(struct job *j, uint64_t ns)
{
    if (j->kicked) {
        j->kicked = false;
        return;
    }
    if (ns != UINT64_MAX) {
        uint64_t at;
        timer_arm(&j->timer, add_ok(loop_now_ns(), ns, &at) ? at : UINT64_MAX);
    }
    j->sleeping = true;
    j->busy = false;
    co_queue_wake_all(&j->jobs->resting);
    co_wait();
    j->busy = true;
    timer_cancel(&j->timer);
}

void job_pause_point(struct job *j)
{
    if (!j->pause_count || job_is_cancelled(j)) {
        return;
    }
    if (j->drv->pause) {
        j->drv->pause(j);
    }
    if (!j->pause_count || job_is_cancelled(j)) {
        return;
    }
    enum job_status before = j->status;
    const char *reason = j->wait_reason;
    job_set_status(j, before == JOB_READY ? JOB_STANDBY : JOB_PAUSED);
    j->paused = true;
    j->wait_reason = j->stopped_by_error ? "stopped by an error" : j->user_paused ? "paused by the user" : "paused";
    while (j->pause_count && !job_is_cancelled(j)) {
        stand(j, UINT64_MAX);
    }
    j->wait_reason = reason;
    j->paused = false;
    j->rate_at_ns = loop_now_ns();
    j->rate_done = j->progress_done;
    job_set_status(j, before);
}

void job_sleep(struct job *j, uint64_t ns, const char *reason)
{
    if (job_is_cancelled(j)) {
        return;
    }
    if (!j->pause_count) {
        j->wait_reason = reason;
        stand(j, ns);
        j->wait_reason = NULL;
    }
    job_pause_point(j);
}

void job_kick(struct job *j)
{
    if (j->sleeping) {
        j->sleeping = false;
        co_wake(j->co);
    } else if (j->co) {
        j->kicked = true;
    }
}

void job_progress(struct job *j, uint64_t done)
{
    uint64_t now = loop_now_ns();

    j->progress_done += done;
    uint64_t ns = now - j->rate_at_ns;
    if (ns >= (j->rate ? RATE_WINDOW_NS : RATE_FIRST_NS)) {
        uint64_t sample = (uint64_t)((double)(j->progress_done - j->rate_done) * 1e9 / (double)ns);
        j->rate = j->rate ? (j->rate + sample) / 2 : sample;
        j->rate_at_ns = now;
        j->rate_done = j->progress_done;
    }
}

void job_progress_remaining(struct job *j, uint64_t remaining)
{
    j->progress_total = j->progress_done + remaining;
}

uint64_t job_eta_ms(struct job *j)
{
    uint64_t left = j->progress_total - j->progress_done;
    if (!left) {
        return 0;
    }
    return j->rate ? (uint64_t)((double)left * 1000.0 / (double)j->rate) : UINT64_MAX;
}

uint64_t job_speed_delay(struct job *j)
{
    uint64_t now = loop_now_ns(), own = j->speed && j->speed_next_ns > now ? j->speed_next_ns - now : 0;
    uint64_t theirs = j->together ? job_limit_delay(j->together) : 0;
    return max_u64(own, min_u64(theirs, TOGETHER_NS));
}

void job_speed_account(struct job *j, uint64_t n)
{
    if (j->together) {
        job_limit_account(j->together, n);
    }
    if (!j->speed) {
        return;
    }
    uint64_t from = max_u64(j->speed_next_ns, loop_now_ns() - SPEED_SLACK_NS);
    j->speed_next_ns = from + (uint64_t)((double)n * 1e9 / (double)j->speed);
}

static void stop_vm(void *opaque)
{
    struct jobs *js = opaque;
    js->hooks.vm_stop(js->hooks.opaque, "io-error");
}

enum job_error_action job_error(struct job *j, enum job_on_error policy, bool is_read, int rc)
{
    static const char *const names[] = {"ignore", "report", "stop"};
    enum job_error_action a = JOB_ACTION_REPORT;

    if (policy == JOB_ON_ERROR_IGNORE) {
        a = JOB_ACTION_IGNORE;
    } else if (policy == JOB_ON_ERROR_STOP ||
               ((policy == JOB_ON_ERROR_ENOSPC || policy == JOB_ON_ERROR_AUTO) && rc == -ENOSPC)) {
        a = JOB_ACTION_STOP;
    }
    if (j->id && j->jobs->bus) {
        struct json_object *d = json_object_new_object();
        json_object_object_add(d, "device", json_object_new_string(j->id));
        json_object_object_add(d, "operation", json_object_new_string(is_read ? "read" : "write"));
        json_object_object_add(d, "action", json_object_new_string(names[a]));
        event_emit(j->jobs->bus, "BLOCK_JOB_ERROR", d);
    }
    if (a == JOB_ACTION_STOP) {
        j->io_status = rc == -ENOSPC ? "nospace" : "failed";
        if (!j->user_paused) {
            j->user_paused = j->stopped_by_error = true;
            job_pause(j);
            if (j->jobs->hooks.vm_stop) {
                /* Not here: the request that failed may be the guest's, which stopping would wait for. */
                co_start_later(j->jobs->loop, stop_vm, j->jobs);
            }
        }
        job_kick(j);
    }
    return a;
}
