/* SPDX-License-Identifier: BSD-2-Clause */
#include "config/event_log.h"

#include "base/cleanup.h"
#include "loop/co.h"
#include "model_fs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <glib/gstdio.h>
#include <string.h>

enum { ROUNDS = 12 };

struct world {
    struct loop *l;
    struct event_bus *bus;
    struct event_log *log;
    const struct config_fs *fs;
    const char *path;
    GArray *acked; /* per round: length of the model's log when its events were durable */
    const struct model *m;
};

static void begin(struct world *w, const struct config_fs *fs, const char *path)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    *w = (struct world){.l = loop_create(LOOP_AUTO, NULL), .bus = event_bus_create(), .path = path, .fs = fs};
    w->acked = g_array_new(FALSE, FALSE, sizeof(guint));
    const struct event_log_options o = {.path = path, .bus = w->bus, .loop = w->l, .fs = fs};
    if (event_log_open(&o, &w->log, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
}

static void end(struct world *w)
{
    event_log_close(w->log);
    event_bus_destroy(w->bus);
    loop_destroy(w->l);
    g_array_free(w->acked, TRUE);
}

static int some_events(void *opaque)
{
    struct world *w = opaque;
    struct json_object *data = json_object_new_object();
    json_object_object_add(data, "text", json_object_new_string("a \"quoted\"\nline"));
    event_emit(w->bus, "STOP", NULL);
    event_emit(w->bus, "DEVICE_TRAY_MOVED", data);
    event_log_sync(w->log);
    return 0;
}

struct seen {
    unsigned n;
    uint64_t last;
    bool gaps;
};

static bool count(void *opaque, struct json_object *event)
{
    struct seen *s = opaque;
    uint64_t seq = json_object_get_uint64(json_object_object_get(event, "seq"));
    s->gaps |= seq != s->last + 1;
    s->last = seq;
    s->n++;
    return true;
}

static struct seen read_all(const char *path, unsigned long *bad)
{
    struct seen s = {0};
    assert_int_equal(event_log_read(path, count, &s, bad, NULL), 0);
    return s;
}

static void runs_follow_each_other(void **state)
{
    CLEANUP_FREE char *folder = g_dir_make_tmp("sterna-events-XXXXXX", NULL);
    CLEANUP_FREE char *path = g_build_filename(folder, "events", NULL);
    CLEANUP_ERR struct err e = ERR_INIT;
    struct world w;
    unsigned long bad;
    for (unsigned i = 0; i < 3; i++) {
        begin(&w, NULL, path);
        struct event_log *other = NULL;
        const struct event_log_options o = {.path = path, .bus = w.bus, .loop = w.l};
        assert_int_equal(event_log_open(&o, &other, &e), -EAGAIN);
        assert_non_null(strstr(err_text(&e), "is written by another process"));
        err_clear(&e);
        co_run(w.l, some_events, &w);
        end(&w);
        struct seen s = read_all(path, &bad);
        assert_int_equal(s.n, 2 * (i + 1));
        assert_false(s.gaps);
        assert_int_equal(bad, 0);
    }
    CLEANUP_FREE char *text = NULL;
    gsize len;
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    for (gsize cut = 1; cut < 90; cut++) { /* torn: the last event is gone, and what comes later is there */
        assert_true(g_file_set_contents(path, text, (gssize)(len - cut), NULL));
        begin(&w, NULL, path);
        co_run(w.l, some_events, &w);
        end(&w);
        struct seen s = read_all(path, &bad);
        assert_int_equal(s.n, cut == 1 ? 8 : 7); /* only the line's end was missing */
        assert_int_equal(s.last, cut == 1 ? 8 : 7);
        assert_int_equal(bad, cut == 1 ? 0 : 1);
    }
    g_remove(path);
    g_rmdir(folder);
}

/* --- crashes -------------------------------------------------------------------------------------------------------
 */

static int rounds(void *opaque)
{
    struct world *w = opaque;
    for (unsigned i = 0; i < ROUNDS; i++) {
        some_events(w);
        g_array_append_val(w->acked, w->m->log->len);
    }
    return 0;
}

/* Acknowledged events are there, whole and in order; later ones may be, and the log can be gone on with. */
static void judge(void *opaque, struct model *image, unsigned at)
{
    struct world *w = opaque;
    unsigned long bad;
    unsigned least = 0;
    for (guint i = 0; i < w->acked->len && g_array_index(w->acked, guint, i) <= at; i++) {
        least = 2 * (i + 1);
    }
    const struct config_fs fs = model_fs(image);
    struct world again;
    begin(&again, &fs, "/vm/events");
    co_run(again.l, some_events, &again);
    end(&again);
    CLEANUP_FREE char *path = g_strdup(w->path);
    const GByteArray *is = model_file(image, "events");
    assert_true(g_file_set_contents(path, (const char *)is->data, (gssize)is->len, NULL));
    struct seen s = read_all(path, &bad);
    assert_true(s.n >= least + 2);
    assert_true(s.last >= least + 2);
}

static void crashes(void **state)
{
    CLEANUP_FREE char *folder = g_dir_make_tmp("sterna-events-XXXXXX", NULL);
    CLEANUP_FREE char *path = g_build_filename(folder, "events", NULL);
    struct model m;
    struct world w;
    model_init(&m, true);
    const struct config_fs fs = model_fs(&m);
    begin(&w, &fs, "/vm/events");
    w.m = &m;
    w.path = path;
    co_run(w.l, rounds, &w);
    assert_true(m.syncs <= ROUNDS);
    assert_true(model_crashes(&m, 1, judge, &w) > 100);
    m.fail_in = 1;
    m.fail_rc = -ENOSPC;
    co_run(w.l, some_events, &w); /* lost */
    co_run(w.l, some_events, &w);
    end(&w);
    const GByteArray *is = model_file(&m, "events");
    assert_true(g_file_set_contents(path, (const char *)is->data, (gssize)is->len, NULL));
    unsigned long bad;
    struct seen s = read_all(path, &bad);
    assert_true(s.gaps);
    assert_int_equal(s.last, 2 * ROUNDS + 4);
    g_remove(path);
    g_rmdir(folder);
    model_finish(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_follow_each_other),
        cmocka_unit_test(crashes),
    };
    return cmocka_run_group_tests_name("event log", tests, NULL, NULL);
}
