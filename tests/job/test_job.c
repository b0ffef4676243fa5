/* SPDX-License-Identifier: BSD-2-Clause */
/* The job core by itself: states, verbs, events, transactions. */
#include "job/job.h"

#include "base/cleanup.h"
#include "record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

struct world {
    struct loop *loop;
    struct event_bus *bus;
    struct block_graph *graph;
    struct jobs *js;
    GString *events;
};

/* A job that does `steps` steps of 1 ms and obeys like a mirror. */
struct toy {
    struct job job;
    struct world *w;
    int steps, fail_run, fail_prepare;
    bool gets_ready, completed;
    const char *tag;
};

static struct toy *toy_of(struct job *j)
{
    return (struct toy *)j;
}

static void note(struct job *j, const char *what)
{
    g_string_append_printf(toy_of(j)->w->events, "%s:%s ", j->id, what);
}

static int toy_run(struct job *j, struct err *e)
{
    struct toy *t = toy_of(j);
    job_progress_remaining(j, (uint64_t)t->steps);
    for (int i = 0; i < t->steps && !job_is_cancelled(j); i++) {
        job_sleep(j, 1000000, "works");
        job_progress(j, 1);
    }
    if (t->fail_run && !job_is_cancelled(j)) {
        return err_set(e, t->fail_run, "toy '%s' broke", j->id);
    }
    if (t->gets_ready && !job_is_cancelled(j)) {
        job_ready(j);
        while (!t->completed && !job_cancel_requested(j)) {
            job_sleep(j, UINT64_MAX, NULL);
        }
    }
    return 0;
}

static int toy_prepare(struct job *j, struct err *e)
{
    note(j, "prepare");
    return toy_of(j)->fail_prepare ? err_set(e, toy_of(j)->fail_prepare, "toy '%s' is not prepared", j->id) : 0;
}

static void toy_commit(struct job *j)
{
    note(j, "commit");
}

static void toy_abort(struct job *j)
{
    note(j, "abort");
}

static void toy_clean(struct job *j)
{
    note(j, "clean");
}

static int toy_complete(struct job *j, struct err *e)
{
    toy_of(j)->completed = true;
    job_kick(j);
    return 0;
}

static bool toy_cancel(struct job *j, bool force)
{
    return force || !job_is_ready(j);
}

static void toy_outcome(struct job *j, struct json_object *o)
{
    json_object_object_add(o, "live", json_object_new_string("copy"));
}

static const struct job_driver toy_driver = {
    .type = "mirror",
    .size = sizeof(struct toy),
    .block = true,
    .run = toy_run,
    .prepare = toy_prepare,
    .commit = toy_commit,
    .abort = toy_abort,
    .clean = toy_clean,
    .complete = toy_complete,
    .cancel = toy_cancel,
    .outcome = toy_outcome,
};

static void on_event(void *opaque, const char *name, struct json_object *data)
{
    struct world *w = opaque;
    record_event(w->events, name, data);
}

static struct toy *toy_new(struct world *w, const char *id, struct job_txn *txn, unsigned flags)
{
    struct job *j;
    if (job_create(w->js, &(struct job_spec){id, &toy_driver, txn, flags}, &j, NULL)) {
        return NULL;
    }
    toy_of(j)->w = w;
    toy_of(j)->steps = 3;
    return toy_of(j);
}

static int setup(void **state)
{
    struct world *w = g_new0(struct world, 1);
    w->loop = loop_create(LOOP_AUTO, NULL);
    w->bus = event_bus_create();
    w->graph = graph_create(w->loop, w->bus, NULL);
    w->js = jobs_create(w->graph);
    w->events = g_string_new(NULL);
    event_subscribe(w->bus, on_event, w);
    *state = w;
    return w->loop ? 0 : -1;
}

static int end(void *opaque)
{
    struct world *w = opaque;
    jobs_destroy(w->js);
    graph_destroy(w->graph);
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    co_run(w->loop, end, w);
    event_unsubscribe(w->bus, w);
    event_bus_destroy(w->bus);
    loop_destroy(w->loop);
    g_string_free(w->events, true);
    g_free(w);
    return 0;
}

static int wait_status_fn(void *opaque)
{
    void **a = opaque;
    struct job *j = a[0];
    for (int i = 0; i < 120000 && j->status != (enum job_status)(uintptr_t)a[1]; i++) {
        co_sleep(500000);
    }
    return j->status == (enum job_status)(uintptr_t)a[1] ? 0 : -1;
}

static void wait_status(struct world *w, struct toy *t, enum job_status s)
{
    void *a[] = {t, (void *)(uintptr_t)s};
    assert_int_equal(co_run(w->loop, wait_status_fn, a), 0);
}

/* Runs a verb as a monitor would, in a coroutine. */
struct call {
    struct job *j;
    enum job_verb verb;
    bool force;
    struct err e;
    struct json_object *ret;
};

static int call_fn(void *opaque)
{
    struct call *c = opaque;
    struct json_object *opts;
    int rc;
    switch (c->verb) {
    case JOB_VERB_CANCEL:
        return job_user_cancel(c->j, c->force, &c->e);
    case JOB_VERB_PAUSE:
        return job_user_pause(c->j, &c->e);
    case JOB_VERB_RESUME:
        return job_user_resume(c->j, &c->e);
    case JOB_VERB_SET_SPEED:
        return job_set_speed(c->j, 1 << 20, &c->e);
    case JOB_VERB_COMPLETE:
        return job_user_complete(c->j, &c->ret, &c->e);
    case JOB_VERB_DISMISS:
        return job_dismiss(c->j, &c->e);
    case JOB_VERB_FINALIZE:
        return job_finalize(c->j, &c->e);
    default:
        opts = json_object_new_object();
        rc = job_change(c->j, opts, &c->e);
        json_object_put(opts);
        return rc;
    }
}

static int verb(struct world *w, struct toy *t, enum job_verb v, bool force, char *text, size_t size)
{
    struct call c = {.j = &t->job, .verb = v, .force = force};
    int rc = co_run(w->loop, call_fn, &c);
    if (text) {
        snprintf(text, size, "%s", rc ? err_text(&c.e) : "");
    }
    err_clear(&c.e);
    json_object_put(c.ret);
    return rc;
}

/* QEMU's tables, a row per state; columns: undefined created running paused ready standby waiting pending aborting
 * concluded null. */
static void test_tables(void **state)
{
    static const char next[JOB_STATUS_COUNT][JOB_STATUS_COUNT + 1] = {
        "01000000000", "00100000101", "00011010100", "00100000000", "00000110100", "00001000000",
        "00000001100", "00000000110", "00000000110", "00000000001", "00000000000"};
    static const char verbs[JOB_VERB_COUNT][JOB_STATUS_COUNT + 1] = {
        [JOB_VERB_CANCEL] = "01111111000",    [JOB_VERB_PAUSE] = "01111100000",    [JOB_VERB_RESUME] = "01111100000",
        [JOB_VERB_SET_SPEED] = "01111100000", [JOB_VERB_COMPLETE] = "00001100000", [JOB_VERB_FINALIZE] = "00000001000",
        [JOB_VERB_DISMISS] = "00000000010",   [JOB_VERB_CHANGE] = "01111100000"};
    for (int from = 0; from < JOB_STATUS_COUNT; from++) {
        for (int to = 0; to < JOB_STATUS_COUNT; to++) {
            assert_int_equal(job_status_may_follow(from, to), next[from][to] == '1');
        }
        for (int v = 0; v < JOB_VERB_COUNT; v++) {
            assert_int_equal(job_verb_allowed(v, from), verbs[v][from] == '1');
        }
    }
}

static void test_life_and_events(void **state)
{
    struct world *w = *state;
    struct toy *t = toy_new(w, "j", NULL, 0);
    job_ref(&t->job);
    t->gets_ready = true;
    job_start(&t->job);
    wait_status(w, t, JOB_READY);
    assert_int_equal(verb(w, t, JOB_VERB_COMPLETE, false, NULL, 0), 0);
    wait_status(w, t, JOB_NULL);
    assert_string_equal(
        w->events->str,
        "created running ready "
        "BLOCK_JOB_READY{\"type\":\"mirror\",\"device\":\"j\",\"len\":3,\"offset\":3,\"speed\":0} "
        "waiting pending j:prepare j:commit j:clean "
        "BLOCK_JOB_COMPLETED{\"type\":\"mirror\",\"device\":\"j\",\"len\":3,\"offset\":3,\"speed\":0} concluded null ");
    /* Told again, it says what it did. */
    assert_non_null(jobs_outcome(w->js, "j"));
    struct json_object *ret = NULL;
    assert_int_equal(job_user_complete(&t->job, &ret, NULL), 0);
    assert_string_equal(json_object_to_json_string_ext(ret, JSON_C_TO_STRING_PLAIN), "{\"live\":\"copy\"}");
    json_object_put(ret);
    job_unref(&t->job);
}

static void test_failure(void **state)
{
    struct world *w = *state;
    struct toy *t = toy_new(w, "j", NULL, JOB_MANUAL_DISMISS);
    t->fail_run = EIO;
    job_start(&t->job);
    wait_status(w, t, JOB_CONCLUDED);
    assert_non_null(strstr(w->events->str, "aborting j:abort j:clean BLOCK_JOB_COMPLETED{"));
    assert_non_null(strstr(w->events->str, "\"error\":\"toy 'j' broke\"}"));
    struct json_object *info = job_info(&t->job);
    struct json_object *v;
    assert_true(json_object_object_get_ex(info, "error", &v));
    json_object_put(info);
    char text[200];
    assert_int_equal(verb(w, t, JOB_VERB_COMPLETE, false, text, sizeof(text)), -EPERM);
    assert_string_equal(text, "Job 'j' in state 'concluded' cannot accept command verb 'complete'");
    assert_int_equal(verb(w, t, JOB_VERB_DISMISS, false, NULL, 0), 0);
    assert_null(jobs_find(w->js, "j"));
    assert_null(jobs_outcome(w->js, "j"));
}

static void test_pause_resume(void **state)
{
    struct world *w = *state;
    char text[200];
    struct toy *t = toy_new(w, "j", NULL, JOB_MANUAL_DISMISS);
    t->steps = 20;
    job_start(&t->job);
    assert_int_equal(verb(w, t, JOB_VERB_RESUME, false, text, sizeof(text)), -EINVAL);
    assert_string_equal(text, "Can't resume a job that was not paused");
    assert_int_equal(verb(w, t, JOB_VERB_PAUSE, false, NULL, 0), 0);
    assert_int_equal(verb(w, t, JOB_VERB_PAUSE, false, text, sizeof(text)), -EBUSY);
    assert_string_equal(text, "Job is already paused");
    wait_status(w, t, JOB_PAUSED);
    assert_string_equal(t->job.wait_reason, "paused by the user");
    assert_int_equal(verb(w, t, JOB_VERB_COMPLETE, false, text, sizeof(text)), -EPERM);
    assert_string_equal(text, "Job 'j' in state 'paused' cannot accept command verb 'complete'");
    assert_int_equal(verb(w, t, JOB_VERB_RESUME, false, NULL, 0), 0);
    wait_status(w, t, JOB_CONCLUDED);
    assert_int_equal(t->job.rc, 0);
}

static void test_cancel_in_each_state(void **state)
{
    static const enum job_status when[] = {JOB_CREATED, JOB_RUNNING, JOB_PAUSED, JOB_READY, JOB_STANDBY, JOB_PENDING};
    struct world *w = *state;
    for (unsigned i = 0; i < G_N_ELEMENTS(when); i++) {
        struct toy *t = toy_new(w, "j", NULL, JOB_MANUAL_FINALIZE);
        bool ready = when[i] == JOB_READY || when[i] == JOB_STANDBY;
        t->gets_ready = ready;
        t->steps = when[i] == JOB_RUNNING || when[i] == JOB_PAUSED ? 1000 : 1;
        job_ref(&t->job);
        if (when[i] != JOB_CREATED) {
            job_start(&t->job);
        }
        if (ready) {
            wait_status(w, t, JOB_READY);
        }
        if (when[i] == JOB_PAUSED || when[i] == JOB_STANDBY) {
            assert_int_equal(verb(w, t, JOB_VERB_PAUSE, false, NULL, 0), 0);
        }
        wait_status(w, t, when[i]);
        g_string_truncate(w->events, 0);
        assert_int_equal(verb(w, t, JOB_VERB_CANCEL, true, NULL, 0), 0);
        wait_status(w, t, JOB_NULL);
        assert_int_equal(t->job.rc, -ECANCELED);
        assert_int_equal(!!strstr(w->events->str, "BLOCK_JOB_CANCELLED{"), when[i] != JOB_CREATED);
        assert_non_null(strstr(w->events->str, "aborting j:abort j:clean"));
        job_unref(&t->job);
    }
}

static void test_soft_cancel_of_a_ready_job_completes(void **state)
{
    struct world *w = *state;
    struct toy *t = toy_new(w, "j", NULL, JOB_MANUAL_DISMISS);
    t->gets_ready = true;
    job_start(&t->job);
    wait_status(w, t, JOB_READY);
    assert_int_equal(verb(w, t, JOB_VERB_CANCEL, false, NULL, 0), 0);
    wait_status(w, t, JOB_CONCLUDED);
    assert_int_equal(t->job.rc, 0);
    assert_non_null(strstr(w->events->str, "BLOCK_JOB_COMPLETED"));
}

static void test_manual_finalize(void **state)
{
    struct world *w = *state;
    char text[200];
    struct toy *t = toy_new(w, "j", NULL, JOB_MANUAL_FINALIZE | JOB_MANUAL_DISMISS);
    job_start(&t->job);
    assert_int_equal(verb(w, t, JOB_VERB_FINALIZE, false, text, sizeof(text)), -EPERM);
    assert_string_equal(text, "Job 'j' in state 'running' cannot accept command verb 'finalize'");
    wait_status(w, t, JOB_PENDING);
    assert_non_null(strstr(w->events->str, "pending BLOCK_JOB_PENDING{\"type\":\"mirror\",\"id\":\"j\"}"));
    assert_null(strstr(w->events->str, "prepare"));
    assert_int_equal(verb(w, t, JOB_VERB_FINALIZE, false, NULL, 0), 0);
    assert_int_equal(t->job.status, JOB_CONCLUDED);
    assert_non_null(strstr(w->events->str, "j:commit"));
}

static void test_transaction_fails_together(void **state)
{
    struct world *w = *state;
    for (int how = 0; how < 2; how++) {
        struct job_txn *txn = job_txn_create();
        struct toy *a = toy_new(w, "a", txn, JOB_MANUAL_DISMISS), *b = toy_new(w, "b", txn, JOB_MANUAL_DISMISS);
        job_txn_unref(txn);
        b->steps = 10;
        b->fail_run = how ? 0 : EIO;
        b->fail_prepare = how ? ENOSPC : 0;
        job_start(&a->job);
        job_start(&b->job);
        wait_status(w, a, JOB_CONCLUDED);
        wait_status(w, b, JOB_CONCLUDED);
        assert_int_equal(a->job.rc, -ECANCELED);
        assert_int_equal(b->job.rc, how ? -ENOSPC : -EIO);
        assert_null(strstr(w->events->str, "commit"));
        assert_int_equal(verb(w, a, JOB_VERB_DISMISS, false, NULL, 0), 0);
        assert_int_equal(verb(w, b, JOB_VERB_DISMISS, false, NULL, 0), 0);
    }
}

static void test_transaction_commits_together(void **state)
{
    struct world *w = *state;
    struct job_txn *txn = job_txn_create();
    struct toy *a = toy_new(w, "a", txn, JOB_MANUAL_DISMISS), *b = toy_new(w, "b", txn, JOB_MANUAL_DISMISS);
    job_txn_unref(txn);
    b->steps = 10;
    job_start(&a->job);
    job_start(&b->job);
    wait_status(w, a, JOB_WAITING);
    assert_non_null(a->job.wait_reason);
    wait_status(w, a, JOB_CONCLUDED);
    wait_status(w, b, JOB_CONCLUDED);
    assert_true(strstr(w->events->str, "a:prepare") < strstr(w->events->str, "b:commit"));
    assert_true(strstr(w->events->str, "b:prepare") < strstr(w->events->str, "a:commit"));
    assert_int_equal(a->job.rc | b->job.rc, 0);
}

static void test_ids(void **state)
{
    struct world *w = *state;
    static const struct {
        const char *id, *text;
        unsigned flags;
    } bad[] = {{"1j", "Invalid job ID '1j'", 0},
               {"j k", "Invalid job ID 'j k'", 0},
               {"dup", "Job ID 'dup' already in use", 0},
               {NULL, "Invalid job ID ''", 0},
               {"x", "Cannot specify job ID for internal job", JOB_INTERNAL}};
    struct toy *t = toy_new(w, "dup", NULL, 0);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        struct job *j;
        assert_true(job_create(w->js, &(struct job_spec){bad[i].id, &toy_driver, NULL, bad[i].flags}, &j, &e) < 0);
        assert_string_equal(err_text(&e), bad[i].text);
    }
    job_early_fail(&t->job);
    assert_null(jobs_find(w->js, "dup"));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),
        T(test_life_and_events),
        T(test_failure),
        T(test_pause_resume),
        T(test_cancel_in_each_state),
        T(test_soft_cancel_of_a_ready_job_completes),
        T(test_manual_finalize),
        T(test_transaction_fails_together),
        T(test_transaction_commits_together),
        T(test_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
