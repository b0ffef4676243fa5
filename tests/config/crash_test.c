/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine changes, hundreds of times and in every way that there is, and the power fails at each step of every
 * change, with every part of what was not synced lost or there. Whatever is left must open as the machine that was
 * acknowledged at that moment, or that and the change in flight; and it must take the next change.
 *
 * What was acknowledged is a model of its own: plain text by section, which the code under test never sees.
 */
#include "config/file.h"

#include "base/cleanup.h"
#include "config/file_int.h"
#include "loop/co.h"
#include "model_fs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { CHANGES = 210, AT_LEAST = 20000, TOGETHER = 5, KEPT_ON_EVERY = 23 };

/* From `begin` to `end` of the log this was under way; behind it the machine is `after`. */
struct step {
    unsigned begin, end;
    char *after;
    GPtrArray *allowed; /* meanwhile, besides the one before */
    bool doubt;         /* behind it as well, until the next step ends */
    uint64_t generation;
};

struct session {
    struct model m;
    struct config_fs fs;
    struct loop *l;
    struct config_file *f;
    GHashTable *machine; /* "kind name" to the text of its values */
    GArray *steps;
    GRand *rand;
    unsigned made, left, wrong;
    struct co *waiter;
    unsigned long judged, kept_on;
    const GByteArray *prev; /* the previous generation that was judged last; a reference */
    uint64_t prev_generation;
    unsigned near;      /* where the judge was */
    uint64_t least;     /* generation */
    unsigned kinds[16]; /* how often each way of changing came up */
};

/* --- the model -----------------------------------------------------------------------------------------------------
 */

static char *section_key(const char *kind, const char *name)
{
    return g_strdup_printf("%s %s", kind, name ? name : "");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* One line a section, sorted. */
static char *machine_text(GHashTable *machine)
{
    GString *s = g_string_new(NULL);
    guint n;
    char **keys = (char **)g_hash_table_get_keys_as_array(machine, &n);
    qsort(keys, n, sizeof(char *), by_name);
    for (guint i = 0; i < n; i++) {
        g_string_append_printf(s, "%s %s\n", keys[i], (char *)g_hash_table_lookup(machine, keys[i]));
    }
    g_free(keys);
    return g_string_free(s, FALSE);
}

static char *file_text(const struct config_file *f)
{
    GHashTable *machine = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    const struct config_section *s;
    for (unsigned i = 0; (s = config_file_section(f, i)); i++) {
        g_hash_table_insert(machine, section_key(s->kind, s->name),
                            g_strdup(json_object_to_json_string_ext(s->values, JSON_C_TO_STRING_PLAIN)));
    }
    char *text = machine_text(machine);
    g_hash_table_destroy(machine);
    return text;
}

/* --- changes -------------------------------------------------------------------------------------------------------
 */

static const struct {
    const char *kind, *name, *format; /* JSON with ' for ", and a number */
} things[] = {
    {"machine", NULL, "{'type':'virt-0.1','ram':'%u'}"},
    {"rtc", NULL, "{'offset':%u}"},
    {"blockdev", "disk%u",
     "{'driver':'qcow2','file':{'driver':'file','filename':'/images/a disk %u.qcow2'},'read-only':false}"},
    {"blockdev", "overlay%u", "{'driver':'qcow2','backing':'disk%u','file':{'driver':'file','filename':'/o'}}"},
    {"device", "vd%u", "{'driver':'virtio-blk-pci','drive':'disk%u','serial':'007','write-cache':'on'}"},
    {"medium", "cd%u", "{'node':'iso%u','tray':'closed','locked':true}"},
    {"job", "copy%u", "{'type':'mirror','source':'disk%u','target':'t','speed':0}"},
    {"netdev", "net%u", "{'type':'user','hostfwd':['tcp::%u-:22','tcp::80-:80'],'mac':'52:54:00:12:34:56'}"},
    {"throttle", "group%u", "{'limits':{'iops-total':%u,'bps-write':1.5}}"},
    {"export", "e%u", "{'type':'nbd','node-name':'disk%u','writable':true,'bitmaps':[]}"},
    {"flash", "vars%u", "{'node':'vars%u','comment':'ünïcode \\n and \\\" quotes','none':null,'empty':{}}"},
};

static struct json_object *json(const char *format, unsigned number)
{
    CLEANUP_FREE char *quoted = g_strdelimit(g_strdup(format), "'", '"');
    GString *text = g_string_new(quoted);
    CLEANUP_FREE char *digits = g_strdup_printf("%u", number);
    g_string_replace(text, "%u", digits, 0);
    struct json_object *o = json_tokener_parse(text->str);
    assert_non_null(o);
    g_string_free(text, TRUE);
    return o;
}

static void model_set(struct session *s, const char *kind, const char *name, struct json_object *values)
{
    g_hash_table_insert(s->machine, section_key(kind, name),
                        g_strdup(json_object_to_json_string_ext(values, JSON_C_TO_STRING_PLAIN)));
}

static char *pick_name(struct session *s, unsigned thing)
{
    if (!things[thing].name) {
        return NULL;
    }
    GString *name = g_string_new(things[thing].name);
    CLEANUP_FREE char *digits = g_strdup_printf("%d", g_rand_int_range(s->rand, 0, 3));
    g_string_replace(name, "%u", digits, 0);
    return g_string_free(name, FALSE);
}

/* Sets, deletes or changes one section, in both. */
static void one_edit(struct session *s, struct config_change *c)
{
    unsigned thing = (unsigned)g_rand_int_range(s->rand, 0, G_N_ELEMENTS(things));
    CLEANUP_FREE char *name = pick_name(s, thing);
    CLEANUP_FREE char *key = section_key(things[thing].kind, name);
    const char *is = g_hash_table_lookup(s->machine, key);
    unsigned how = (unsigned)g_rand_int_range(s->rand, 0, 5);
    s->made++;
    if (is && how == 0 && name) {
        config_change_delete(c, things[thing].kind, name);
        g_hash_table_remove(s->machine, key);
        s->kinds[0]++;
    } else if (is && how < 4) {
        CLEANUP_JSON struct json_object *o = json_tokener_parse(is);
        CLEANUP_JSON struct json_object *v = json_object_new_int((int)s->made);
        if (how == 1 && json_object_object_get_ex(o, "extra", NULL)) {
            json_object_object_del(o, "extra");
        } else {
            json_object_object_add(o, "extra", json_object_get(v));
        }
        config_change_set(c, things[thing].kind, name, o);
        model_set(s, things[thing].kind, name, o);
        s->kinds[how]++;
    } else {
        CLEANUP_JSON struct json_object *o = json(things[thing].format, s->made);
        config_change_set(c, things[thing].kind, name, o);
        model_set(s, things[thing].kind, name, o);
        s->kinds[is ? 5 : 6]++;
    }
}

/* --- steps ---------------------------------------------------------------------------------------------------------
 */

static struct step *begin_step(struct session *s)
{
    struct step st = {.begin = s->m.log->len, .allowed = g_ptr_array_new_with_free_func(g_free)};
    g_array_append_val(s->steps, st);
    return &g_array_index(s->steps, struct step, s->steps->len - 1);
}

static void end_step(struct session *s, struct step *st)
{
    st->end = s->m.log->len;
    st->after = machine_text(s->machine);
    st->generation = config_file_generation(s->f);
    CLEANUP_FREE char *is = file_text(s->f);
    assert_string_equal(is, st->after);
}

static void change_one(struct session *s, unsigned edits)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct step *st = begin_step(s);
    struct config_change *c = config_change_begin(s->f);
    for (unsigned i = 0; i < edits; i++) {
        one_edit(s, c);
    }
    g_ptr_array_add(st->allowed, machine_text(s->machine));
    if (config_change_commit(c, NULL, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    end_step(s, st);
}

static void one_together(void *opaque)
{
    struct session *s = opaque;
    struct step *st = &g_array_index(s->steps, struct step, s->steps->len - 1);
    struct config_change *c = config_change_begin(s->f);
    one_edit(s, c);
    g_ptr_array_add(st->allowed, machine_text(s->machine));
    s->wrong += config_change_commit(c, NULL, NULL) < 0;
    if (--s->left == 0) {
        co_wake(s->waiter);
    }
}

static int all_together(void *opaque)
{
    struct session *s = opaque;
    s->waiter = co_self();
    s->left = TOGETHER;
    for (unsigned i = 0; i < TOGETHER; i++) {
        co_start(s->l, one_together, s);
    }
    while (s->left) {
        co_wait();
    }
    config_file_drain(s->f);
    return 0;
}

/* Several at once: those that were committed first are there first. */
static void change_together(struct session *s)
{
    struct step *st = begin_step(s);
    co_run(s->l, all_together, s);
    assert_int_equal(s->wrong, 0);
    end_step(s, st);
    s->kinds[7]++;
}

/* The disk fails: nothing changes, for the machine; what failed may be seen until the next change only if the disk goes
 * on failing. */
static void change_fails(struct session *s, unsigned in, unsigned more)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct step *st = begin_step(s);
    GHashTable *before = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GHashTableIter it;
    void *key;
    void *value;
    g_hash_table_iter_init(&it, s->machine);
    while (g_hash_table_iter_next(&it, &key, &value)) {
        g_hash_table_insert(before, g_strdup(key), g_strdup(value));
    }
    struct config_change *c = config_change_begin(s->f);
    one_edit(s, c);
    g_ptr_array_add(st->allowed, machine_text(s->machine));
    s->m.fail_in = in;
    s->m.fail_for = more;
    s->m.fail_rc = in % 2 ? -ENOSPC : -EIO;
    s->m.failed = 0;
    int rc = config_change_commit(c, NULL, &e);
    s->m.fail_in = s->m.fail_for = 0;
    if (rc < 0) {
        assert_true(s->m.failed);
        assert_non_null(strstr(err_text(&e), "state file '/vm/vm.state'"));
        g_hash_table_destroy(s->machine);
        s->machine = before;
        st->doubt = more > 1;
        s->kinds[8]++;
    } else {
        g_hash_table_destroy(before);
    }
    end_step(s, st);
}

/* Only a generation ends it. */
static void inherit_doubt(struct session *s, struct step *st)
{
    const struct step *was = st - 1;
    st->doubt = was->doubt;
    for (guint i = 0; st->doubt && i < was->allowed->len; i++) {
        g_ptr_array_add(st->allowed, g_strdup(g_ptr_array_index(was->allowed, i)));
    }
}

static void change_nothing(struct session *s)
{
    struct step *st = begin_step(s);
    uint64_t generation = config_file_generation(s->f);
    const struct config_section *first = config_file_section(s->f, 0);
    struct config_change *c = config_change_begin(s->f);
    if (first) {
        config_change_set(c, first->kind, first->name, first->values);
    }
    config_change_delete(c, "device", "nobody");
    assert_int_equal(config_change_commit(c, NULL, NULL), 0);
    assert_int_equal(config_file_generation(s->f), generation);
    end_step(s, st);
    assert_int_equal(st->begin, st->end);
    inherit_doubt(s, st);
    s->kinds[9]++;
}

/* --- the judge -----------------------------------------------------------------------------------------------------
 */

/* Which step was under way, or had ended last. */
static unsigned find_step(struct session *s, unsigned at)
{
    while (s->near && g_array_index(s->steps, struct step, s->near).begin > at) {
        s->near--;
    }
    while (s->near + 1 < s->steps->len && g_array_index(s->steps, struct step, s->near + 1).begin < at) {
        s->near++;
    }
    return s->near;
}

static bool may_be(const struct session *s, unsigned step, unsigned at, const char *text)
{
    const struct step *st = &g_array_index(s->steps, struct step, step);
    const char *before = step ? g_array_index(s->steps, struct step, step - 1).after : "";
    if (at >= st->end && !strcmp(text, st->after)) {
        return true;
    }
    bool ok = at < st->end && !strcmp(text, before);
    for (guint i = 0; i < st->allowed->len && !ok && (at < st->end || st->doubt); i++) {
        ok = !strcmp(text, g_ptr_array_index(st->allowed, i));
    }
    if (!ok && at < st->end && step && g_array_index(s->steps, struct step, step - 1).doubt) {
        const struct step *was = &g_array_index(s->steps, struct step, step - 1);
        for (guint i = 0; i < was->allowed->len && !ok; i++) {
            ok = !strcmp(text, g_ptr_array_index(was->allowed, i));
        }
    }
    return ok;
}

static void set_prev(struct session *s, const GByteArray *prev)
{
    if (s->prev) {
        g_byte_array_unref((GByteArray *)(uintptr_t)s->prev);
    }
    s->prev = prev;
}

static void check_previous(struct session *s, struct model *image, uint64_t generation)
{
    const GByteArray *prev = model_file(image, "vm.state.prev");
    struct config_doc *d = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_true(!prev || prev != s->prev || s->prev_generation <= generation);
    if (!prev || prev == s->prev) {
        return;
    }
    if (config_parse("prev", prev, false, &d, &e) < 0) {
        fail_msg("the previous generation: %s", err_text(&e));
    }
    assert_true(d->generation <= generation);
    s->prev_generation = d->generation;
    config_doc_free(d);
    set_prev(s, g_byte_array_ref((GByteArray *)(uintptr_t)prev));
}

/* The machine goes on, and what the crash left lying about is in nobody's way. */
static void keep_on(struct session *s, struct config_file *f, struct model *image)
{
    CLEANUP_JSON struct json_object *o = json("{'x':%u}", 1);
    CLEANUP_ERR struct err e = ERR_INIT;
    for (unsigned i = 0; i < 2; i++) {
        CLEANUP_FREE char *name = g_strdup_printf("after%u", i);
        struct config_change *c = config_change_begin(f);
        config_change_set(c, "device", name, o);
        if (config_change_commit(c, NULL, &e) < 0) {
            fail_msg("%s", err_text(&e));
        }
    }
    check_previous(s, image, config_file_generation(f));
    s->kept_on++;
}

static void judge(void *opaque, struct model *image, unsigned at)
{
    struct session *s = opaque;
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f = NULL;
    unsigned step = find_step(s, at);
    const struct config_fs fs = model_fs(image);
    const struct config_options o = {.path = "/vm/vm.state", .release = "0.1.0", .fs = &fs};
    s->judged++;
    if (config_file_open(&o, &f, &e) < 0) {
        fail_msg("after %u entries, step %u: %s", at, step, err_text(&e));
    }
    CLEANUP_FREE char *text = file_text(f);
    if (!may_be(s, step, at, text)) {
        fail_msg("after %u entries, step %u of %u to %u: it became\n%snot\n%s", at, step,
                 g_array_index(s->steps, struct step, step).begin, g_array_index(s->steps, struct step, step).end, text,
                 g_array_index(s->steps, struct step, step).after);
    }
    const struct step *last = &g_array_index(s->steps, struct step, step);
    uint64_t least = at >= last->end ? last->generation : step ? last[-1].generation : 0;
    assert_true(config_file_generation(f) >= least);
    check_previous(s, image, config_file_generation(f));
    if (s->judged % KEPT_ON_EVERY == 0) {
        keep_on(s, f, image);
    }
    config_file_close(f);
}

/* --- sessions ------------------------------------------------------------------------------------------------------
 */

static void session_begin(struct session *s, uint64_t seed)
{
    *s = (struct session){.rand = g_rand_new_with_seed((guint32)seed), .l = loop_create(LOOP_AUTO, NULL)};
    s->machine = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    s->steps = g_array_new(FALSE, TRUE, sizeof(struct step));
    model_init(&s->m, true);
    s->fs = model_fs(&s->m);
    const struct config_options o = {.path = "/vm/vm.state", .release = "0.1.0", .fs = &s->fs, .loop = s->l};
    assert_int_equal(config_file_open(&o, &s->f, NULL), 0);
}

static void session_end(struct session *s)
{
    config_file_close(s->f);
    for (guint i = 0; i < s->steps->len; i++) {
        g_free(g_array_index(s->steps, struct step, i).after);
        g_ptr_array_free(g_array_index(s->steps, struct step, i).allowed, TRUE);
    }
    g_array_free(s->steps, TRUE);
    g_hash_table_destroy(s->machine);
    set_prev(s, NULL);
    g_rand_free(s->rand);
    loop_destroy(s->l);
    model_finish(&s->m);
}

static void script(struct session *s, unsigned changes)
{
    change_one(s, 1);
    for (unsigned i = 0; s->made < changes; i++) {
        switch (i % 8) {
        case 3:
            change_one(s, 3);
            break;
        case 5:
            change_together(s);
            break;
        case 6:
            change_fails(s, 1 + i / 8 % 12, i / 8 % 3 == 2 ? 100 : 0);
            break;
        case 7:
            change_nothing(s);
            break;
        default:
            change_one(s, 1);
            break;
        }
    }
}

static unsigned number(const char *variable, unsigned otherwise)
{
    const char *v = getenv(variable);
    return v ? (unsigned)atoi(v) : otherwise;
}

static void every_crash(void **state)
{
    struct session s;
    session_begin(&s, number("STERNA_TEST_SEED", 1));
    script(&s, MAX(CHANGES, number("STERNA_CRASH_CHANGES", 0)));
    for (unsigned i = 0; i < 10; i++) {
        assert_true(s.kinds[i] > 0 || i == 4);
    }
    unsigned long points = model_crashes(&s.m, number("STERNA_TEST_SEED", 1), judge, &s);
    print_message("%u changes, %lu crashes, after %lu of them it went on\n", s.made, points, s.kept_on);
    assert_true(points >= AT_LEAST);
    session_end(&s);
}

static void without_hard_links(void **state)
{
    struct session s;
    session_begin(&s, 2);
    s.m.no_links = true;
    script(&s, 40);
    model_crashes(&s.m, 2, judge, &s);
    session_end(&s);
}

/* The judge is no rubber stamp: a writer that leaves out a sync is caught. */
static int no_sync(void *dir, int file)
{
    return 0;
}

static int no_sync_folder(void *dir)
{
    return 0;
}

static unsigned bad;
static void judge_gently(void *opaque, struct model *image, unsigned at)
{
    struct session *s = opaque;
    struct config_file *f = NULL;
    const struct config_fs fs = model_fs(image);
    const struct config_options o = {.path = "/vm/vm.state", .release = "0.1.0", .fs = &fs};
    if (config_file_open(&o, &f, NULL) < 0) {
        bad++;
        return;
    }
    CLEANUP_FREE char *text = file_text(f);
    bad += !may_be(s, find_step(s, at), at, text);
    config_file_close(f);
}

static void it_would_be_noticed(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        struct session s;
        session_begin(&s, 3);
        config_file_close(s.f);
        if (i == 0) {
            s.fs.sync = no_sync;
        } else {
            s.fs.sync_folder = no_sync_folder;
        }
        const struct config_options o = {.path = "/vm/vm.state", .release = "0.1.0", .fs = &s.fs, .loop = s.l};
        assert_int_equal(config_file_open(&o, &s.f, NULL), 0);
        for (unsigned k = 0; k < 3; k++) {
            change_one(&s, 1);
        }
        bad = 0;
        model_crashes(&s.m, 3, judge_gently, &s);
        assert_true(bad > 0);
        session_end(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_crash),
        cmocka_unit_test(without_hard_links),
        cmocka_unit_test(it_would_be_noticed),
    };
    return cmocka_run_group_tests_name("config crashes", tests, NULL, NULL);
}
