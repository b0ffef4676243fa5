/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The job core: everything that takes long (copy, stream, commit, backup, create …) is a job: a coroutine with a state
 * that people can ask for, pause, limit and cancel.  States, verbs, events and texts are QEMU's
 * (docs/interop: qapi/job.json, qapi/block-core.json).  Loop thread only; functions marked [co] wait.
 *
 *     undefined → created → running ⇄ paused
 *                              │ ↘ ready ⇄ standby
 *                              ↓     ↓
 *                            waiting → pending → concluded → null
 *                              └─ any of them → aborting ┘
 *
 * When run() has returned 0, the job waits until all jobs of its transaction have; then each is prepared (may fail),
 * and either all are committed or all are aborted; then each is cleaned. A job alone is a transaction of one.
 */
#pragma once

#include "base/err.h"
#include "base/events.h"
#include "base/log.h"
#include "block/graph.h"
#include "job/limit.h"
#include "loop/co.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

enum job_status {
    JOB_UNDEFINED,
    JOB_CREATED,
    JOB_RUNNING,
    JOB_PAUSED,
    JOB_READY,
    JOB_STANDBY,
    JOB_WAITING,
    JOB_PENDING,
    JOB_ABORTING,
    JOB_CONCLUDED,
    JOB_NULL,
    JOB_STATUS_COUNT,
};
enum job_verb {
    JOB_VERB_CANCEL,
    JOB_VERB_PAUSE,
    JOB_VERB_RESUME,
    JOB_VERB_SET_SPEED,
    JOB_VERB_COMPLETE,
    JOB_VERB_DISMISS,
    JOB_VERB_FINALIZE,
    JOB_VERB_CHANGE,
    JOB_VERB_COUNT,
};
extern const char *const job_status_names[]; /* "undefined" … "null", NULL */
extern const char *const job_verb_names[];
bool job_status_may_follow(enum job_status from, enum job_status to);
bool job_verb_allowed(enum job_verb verb, enum job_status in);

/* BlockdevOnError. */
enum job_on_error {
    JOB_ON_ERROR_REPORT,
    JOB_ON_ERROR_IGNORE,
    JOB_ON_ERROR_ENOSPC,
    JOB_ON_ERROR_STOP,
    JOB_ON_ERROR_AUTO
};
/* What to do about one error. */
enum job_error_action { JOB_ACTION_IGNORE, JOB_ACTION_REPORT, JOB_ACTION_STOP };

struct job;
struct jobs;
struct job_txn;

/* What one that stands still has left to do. All borrowed. */
struct job_left {
    uint32_t granularity; /* bytes of a bit; 0: nothing is known of it */
    const struct bitmap *bits;
    uint32_t since_granularity;
    const struct bitmap *since; /* what was written since the job began, which its bitmap gets in the end; NULL: none */
    enum job_told { JOB_TOLD_NOTHING, JOB_TOLD_TO_COMPLETE, JOB_TOLD_TO_CANCEL } told; /* once it is ready; softly */
};

/* One kind of job; const. `run` is required. All run as coroutines on the loop; those that do not say so must not wait.
 */
struct job_driver {
    const char *type;                             /* JobType: "mirror" */
    size_t size;                                  /* of the driver's struct, whose first member is struct job */
    bool block;                                   /* emits BLOCK_JOB_* and is seen by query-block-jobs */
    int (*run)(struct job *j, struct err *e);     /* [co] the work; the text of a failure becomes the job's "error" */
    int (*prepare)(struct job *j, struct err *e); /* [co] may fail */
    void (*commit)(struct job *j);                /* [co] must not fail */
    void (*abort)(struct job *j);                 /* [co] undoes; also when run failed or never ran */
    void (*clean)(struct job *j);                 /* [co] after either */
    void (*free)(struct job *j);                  /* the last thing; must not wait */
    int (*complete)(struct job *j, struct err *e);
    bool (*cancel)(struct job *j, bool force); /* returns whether the job is to be aborted; NULL: always */
    void (*pause)(struct job *j);              /* [co] before it stands still: wait for what is in flight */
    void (*user_resume)(struct job *j);        /* on resume after an error, before it goes on */
    void (*speed_changed)(struct job *j);
    int (*change)(struct job *j, struct json_object *options, struct err *e);
    void (*query)(struct job *j, struct json_object *info, bool block_info); /* adds its own fields */
    /* After success: adds to the answer of completing a job that has completed already. */
    void (*outcome)(struct job *j, struct json_object *out);
    /* Of one that can go on in another program (job/rest.h); all NULL: it finds out by itself what is left. */
    const char *(*stays)(const struct job *j); /* why this one cannot, nevertheless; NULL: it can */
    void (*left)(struct job *j, struct job_left *out);
    int (*go_on)(struct job *j, const struct job_left *left, struct err *e); /* it was made anew, and has not run */
};

struct job {
    struct jobs *jobs;
    const struct job_driver *drv;
    char *id; /* NULL: internal, invisible */
    enum job_status status;
    int rc;         /* of run/prepare; -ECANCELED when cancelled */
    struct err err; /* why it failed */
    struct job_txn *txn;
    bool auto_finalize, auto_dismiss;
    bool started, busy, paused, user_paused, deferred; /* deferred: run() has returned */
    bool cancelled, force_cancel;                      /* asked to; asked and to be aborted */
    unsigned pause_count, refs;
    bool over;               /* committed or aborted, and cleaned */
    bool stopped_by_error;   /* on-error=stop holds it; jobs_resume_stopped() lets it go on */
    bool rests, moves;       /* job/rest.h: until disks come back; it goes on elsewhere if they do not */
    const char *io_status;   /* "ok", "failed", "nospace" */
    const char *wait_reason; /* why it stands still, for people; NULL: it does not */

    uint64_t progress_done, progress_total; /* bytes; through the functions below */
    uint64_t rate;                          /* bytes per second of late; 0 unknown */
    uint64_t rate_at_ns, rate_done;         /* the window's beginning */
    uint64_t speed;                         /* limit, bytes per second; 0 none */
    uint64_t speed_next_ns;                 /* when the limit lets the next request go */
    struct job_limit *together;             /* beside that one, with others; borrowed; NULL: none */
    struct co_queue *changed;               /* woken at each change of `status`; borrowed; NULL: nobody waits */

    /* private to job.c */
    struct co *co;
    bool sleeping, kicked;
    struct timer timer;
    struct co_queue finished; /* who waits for the end */
};

/* --- the VM's jobs ------------------------------------------------------------------------------------------- */

struct jobs_hooks {
    /* [co] The guest must stand still: on-error=stop ("io-error"), or block_copy's action: stop ("paused"). */
    void (*vm_stop)(void *opaque, const char *run_state);
    /*
     * [co] Whoever restarts the machine shall use `to` where `from` is used, from now on: called while both hold the
     * same and get every write, before one that only `to` has can be acknowledged; durable on return. A failure ends
     * the job. `from` NULL: it shall not, after all; called before a write that only `from` has is acknowledged.
     */
    int (*switching)(void *opaque, struct job *j, struct node *from, struct node *to, struct err *e);
    /* [co] Its work is done, or undone, and nobody has been told yet. */
    void (*ended)(void *opaque, struct job *j);
    void *opaque;
};

/* Their ends change `g` (graph_change_begin()); its loop, bus and log are theirs. */
struct jobs *jobs_create(struct block_graph *g);
/* Ends all of them, whatever they wait for, and forgets them. [co] */
void jobs_cancel_all(struct jobs *js);
/* The same, if there still are some. [co]; NULL is fine. */
void jobs_destroy(struct jobs *js);
void jobs_set_hooks(struct jobs *js, const struct jobs_hooks *h); /* copies; none by default */
const struct jobs_hooks *jobs_hooks(const struct jobs *js);
/* Errors of block jobs are the errno's text, as QEMU's scripts compare it; what more there is to say is in the log. */
void jobs_set_brief(struct jobs *js, bool brief);
struct loop *jobs_loop(const struct jobs *js);
struct event_bus *jobs_bus(const struct jobs *js);
struct log *jobs_log(const struct jobs *js);
GPtrArray *jobs_list(struct jobs *js); /* struct job *, newest first; borrowed; includes internal ones */
struct job *jobs_find(struct jobs *js, const char *id); /* NULL: none */
/* `cont`: jobs that on-error=stop paused try again. */
void jobs_resume_stopped(struct jobs *js);
/* What a family of jobs keeps with the VM (one value per key, freed by jobs_destroy after all jobs are gone). */
void *jobs_get_data(struct jobs *js, const char *key);
void jobs_set_data(struct jobs *js, const char *key, void *data, GDestroyNotify destroy);
/*
 * What is known of a job that completed well and is gone (the last 64 are remembered): {"live": …}, borrowed, or NULL.
 * So that completing twice succeeds.
 */
struct json_object *jobs_outcome(struct jobs *js, const char *id);

/* --- making jobs ---------------------------------------------------------------------------------------------- */

enum { JOB_INTERNAL = 1, JOB_MANUAL_FINALIZE = 2, JOB_MANUAL_DISMISS = 4 };

struct job_txn *job_txn_create(void);  /* one reference, the caller's */
void job_txn_unref(struct job_txn *t); /* NULL is fine */
struct job_spec {
    const char *id; /* copied; NULL: only with JOB_INTERNAL */
    const struct job_driver *drv;
    struct job_txn *txn; /* takes a reference of its own; NULL: alone */
    unsigned flags;      /* JOB_INTERNAL … */
};
/* In state created, paused, one reference that the core drops at the end. Texts as QEMU's. */
int job_create(struct jobs *js, const struct job_spec *spec, struct job **out, struct err *e);
/* The maker could not finish making it: gone without a trace but the status events. */
void job_early_fail(struct job *j);
void job_start(struct job *j);
/* The same for one that was made and not started, once its driver has undone what making it did. [co] */
void job_discard(struct job *j);
struct job *job_ref(struct job *j);
void job_unref(struct job *j);

/* --- for drivers, inside run() -------------------------------------------------------------------------------- */

bool job_is_cancelled(const struct job *j);     /* to be aborted: return soon, any value */
bool job_cancel_requested(const struct job *j); /* also a soft one */
bool job_is_ready(const struct job *j);
bool job_is_completed(const struct job *j); /* run() is over */
void job_ready(struct job *j);
/* Stands still while paused. Returns at once when cancelled. [co] */
void job_pause_point(struct job *j);
/* Waits for job_kick(), at most `ns` (UINT64_MAX: for ever); a pause point. A kick that came before is not lost. [co]
 */
void job_sleep(struct job *j, uint64_t ns, const char *reason);
/* Makes job_sleep() return. From anywhere on the loop; harmless at any time. */
void job_kick(struct job *j);
void job_progress(struct job *j, uint64_t done);
void job_progress_remaining(struct job *j, uint64_t remaining);
/* How long until the speed limit lets go (0: now), and: n bytes are on their way. */
uint64_t job_speed_delay(struct job *j);
void job_speed_account(struct job *j, uint64_t n);
/* Remaining bytes ÷ rate, milliseconds; UINT64_MAX unknown. */
uint64_t job_eta_ms(struct job *j);
/* Emits BLOCK_JOB_ERROR and does what the policy says about it (stop pauses job and guest). [co] */
enum job_error_action job_error(struct job *j, enum job_on_error policy, bool is_read, int rc);
extern const char *const job_on_error_names[]; /* NULL-terminated */

/* --- verbs ---------------------------------------------------------------------------------------------------- */

void job_pause(struct job *j); /* nests; not the user's */
void job_resume(struct job *j);
/* Whether the verb would be taken as things are. */
int job_check_verb(struct job *j, enum job_verb verb, struct err *e);
int job_user_pause(struct job *j, struct err *e);
int job_user_resume(struct job *j, struct err *e);
int job_user_cancel(struct job *j, bool force, struct err *e); /* [co] */
int job_user_complete(struct job *j, struct json_object **outcome, struct err *e);
int job_finalize(struct job *j, struct err *e); /* [co] */
int job_dismiss(struct job *j, struct err *e);
int job_set_speed(struct job *j, int64_t speed, struct err *e);
int job_change(struct job *j, struct json_object *options, struct err *e);
/* Cancels (force) and waits for the end: the job's rc. [co] */
int job_cancel_sync(struct job *j);
/* Waits until run(), commit or abort and clean are over: rc. [co] */
int job_wait(struct job *j);
struct json_object *job_info(struct job *j);       /* JobInfo */
struct json_object *job_block_info(struct job *j); /* BlockJobInfo */
