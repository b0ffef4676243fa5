/* SPDX-License-Identifier: BSD-2-Clause */
#include "config/file.h"

#include "base/cleanup.h"
#include "base/json.h"
#include "config/file_int.h"
#include "loop/co.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char *folder, *path;
static unsigned syncs, folder_syncs;

/* --- the host's file system, counted -------------------------------------------------------------------------------
 */

static int count_sync(void *dir, int file)
{
    syncs++;
    return config_host_fs.sync(dir, file);
}

static int count_sync_folder(void *dir)
{
    folder_syncs++;
    return config_host_fs.sync_folder(dir);
}

static struct config_fs counted(void)
{
    struct config_fs fs = config_host_fs;
    fs.sync = count_sync;
    fs.sync_folder = count_sync_folder;
    syncs = folder_syncs = 0;
    return fs;
}

/* --- helpers -------------------------------------------------------------------------------------------------------
 */

static int setup(void **state)
{
    folder = g_dir_make_tmp("sterna-config-XXXXXX", NULL);
    path = g_build_filename(folder, "vm.state", NULL);
    return folder ? 0 : -1;
}

static int teardown(void **state)
{
    GDir *d = g_dir_open(folder, 0, NULL);
    const char *name;
    chmod(folder, 0700);
    while ((name = g_dir_read_name(d))) {
        CLEANUP_FREE char *full = g_build_filename(folder, name, NULL);
        g_remove(full);
    }
    g_dir_close(d);
    g_rmdir(folder);
    g_free(folder);
    g_free(path);
    return 0;
}

static struct config_file *open_with(struct config_options o)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f = NULL;
    o.path = o.path ? o.path : path;
    o.release = "0.1.0";
    if (config_file_open(&o, &f, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    return f;
}

static struct config_file *open_it(void)
{
    return open_with((struct config_options){0});
}

static void refused(const char *text, bool snapshot)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f = NULL;
    const struct config_options o = {.path = path, .snapshot = snapshot, .release = "0.1.0"};
    assert_true(config_file_open(&o, &f, &e) < 0);
    if (!strstr(err_text(&e), text)) {
        fail_msg("expected '%s' in '%s'", text, err_text(&e));
    }
}

/* JSON with ' for ". */
static struct json_object *json(const char *text)
{
    CLEANUP_FREE char *copy = g_strdelimit(g_strdup(text), "'", '"');
    struct json_object *o = json_tokener_parse(copy);
    assert_non_null(o);
    return o;
}

static uint64_t set(struct config_file *f, const char *kind, const char *name, const char *values)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json(values);
    uint64_t generation = 0;
    struct config_change *c = config_change_begin(f);
    config_change_set(c, kind, name, o);
    if (config_change_commit(c, &generation, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
    return generation;
}

static void drop(struct config_file *f, const char *kind, const char *name)
{
    struct config_change *c = config_change_begin(f);
    config_change_delete(c, kind, name);
    assert_int_equal(config_change_commit(c, NULL, NULL), 0);
}

static void put_text(const char *text)
{
    assert_true(g_file_set_contents(path, text, -1, NULL));
}

static char *get_text(const char *suffix)
{
    CLEANUP_FREE char *full = g_strconcat(path, suffix, NULL);
    char *text = NULL;
    g_file_get_contents(full, &text, NULL, NULL);
    return text;
}

/* What is there from `from` on becomes `to`. */
static void edit_text(const char *from, const char *to)
{
    CLEANUP_FREE char *text = get_text("");
    const char *at = g_strstr_len(text, -1, from);
    assert_non_null(at);
    GString *s = g_string_new_len(text, at - text);
    g_string_append(s, to);
    if (to[strlen(to) - 1] != '\n') {
        g_string_append(s, at + strlen(from));
    }
    put_text(s->str);
    g_string_free(s, TRUE);
}

static void has(const char *text)
{
    CLEANUP_FREE char *all = get_text("");
    if (!all || !strstr(all, text)) {
        fail_msg("expected\n%s\nin\n%s", text, all);
    }
}

static void values_are(const struct config_file *f, const char *kind, const char *name, const char *values)
{
    CLEANUP_JSON struct json_object *o = json(values);
    const struct config_section *s = config_file_find(f, kind, name);
    assert_non_null(s);
    if (!json_object_equal(s->values, o)) {
        fail_msg("%s, not %s", json_object_to_json_string(s->values), values);
    }
}

static unsigned count(const struct config_file *f)
{
    unsigned n = 0;
    while (config_file_section(f, n)) {
        n++;
    }
    return n;
}

/* --- what is kept --------------------------------------------------------------------------------------------------
 */

static const char every_type[] =
    "{'s': 'plain', 'blank': 'a b', 'empty': '', 'number': '123', 'word': 'true', 'on': 'on', 'nil': 'null', 'quote': "
    "'a\\\\b', 'line': 'a\\nb\\u0001', 'umlaut': 'ä', 'yes': true, 'no': false, 'none': null, 'int': -5, 'big': "
    "18446744073709551615, 'least': -9223372036854775808, 'real': 0.1, 'whole': 2.0, 'huge': 1e300, 'o': {}, 'a': [], "
    "'list': [1, [2, {'x': null}], 'c'], 'deep': {'er': {'a.b': 1, '0': 2, '': 3, 'x y': 4}}, 'hash': '#no', 'eq': "
    "'=x'}";

static void values_come_back(void **state)
{
    struct config_file *f = open_it();
    assert_int_equal(config_file_generation(f), 0);
    assert_int_equal(set(f, "device", "a \"quoted\" name", every_type), 1);
    assert_int_equal(set(f, "machine", NULL, "{'type': 'virt-0.1'}"), 2);
    config_file_close(f);
    f = open_it();
    assert_int_equal(config_file_generation(f), 2);
    assert_int_equal(count(f), 2);
    values_are(f, "device", "a \"quoted\" name", every_type);
    values_are(f, "machine", NULL, "{'type': 'virt-0.1'}");
    drop(f, "device", "a \"quoted\" name");
    config_file_close(f);
    f = open_it();
    assert_int_equal(count(f), 1);
    config_file_close(f);
}

static void keys_of_a_section_change(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f = open_it();
    set(f, "blockdev", "d", "{'driver': 'raw', 'file': {'driver': 'file', 'filename': '/x'}, 'read-only': false}");
    set(f, "blockdev", "d", "{'driver': 'raw', 'file': {'driver': 'nbd', 'server': {'host': 'h'}}, 'backing': null}");
    has("[blockdev \"d\"]\ndriver = raw\nfile.driver = nbd\nfile.server.host = h\nbacking = null\n");
    struct config_change *c = config_change_begin(f);
    CLEANUP_JSON struct json_object *many = json_object_new_object();
    for (unsigned i = 0; i <= CONFIG_MOST_KEYS; i++) {
        CLEANUP_FREE char *key = g_strdup_printf("key%u", i);
        json_object_object_add(many, key, json_object_new_int(1));
    }
    config_change_delete(c, "blockdev", "d");
    config_change_set(c, "blockdev", "many", many);
    assert_int_equal(config_change_commit(c, NULL, &e), -E2BIG);
    assert_non_null(strstr(err_text(&e), "many"));
    assert_non_null(config_file_find(f, "blockdev", "d")); /* all or nothing */
    assert_int_equal(config_file_generation(f), 2);
    config_file_close(f);
}

static void what_cannot_be_kept(void **state)
{
    static const char bad[] = "\xff";
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f = open_it();
    struct json_object *values[] = {json_object_new_object(), json_object_new_object(), json_object_new_object()};
    CLEANUP_FREE char *longer = g_strnfill(CONFIG_MOST_LINE, 'x');
    json_object_object_add(values[0], "k", json_object_new_string(bad));
    json_object_object_add(values[1], "k", json_object_new_string_len("a\0b", 3));
    json_object_object_add(values[2], "k", json_object_new_string(longer));
    for (unsigned i = 0; i < G_N_ELEMENTS(values); i++) {
        struct config_change *c = config_change_begin(f);
        config_change_set(c, "device", "d", values[i]);
        assert_true(config_change_commit(c, NULL, &e) < 0);
        assert_non_null(strstr(err_text(&e), "[device \"d\"]: the value of 'k' cannot be kept"));
        json_object_put(values[i]);
        err_clear(&e);
    }
    assert_int_equal(count(f), 0);
    config_file_close(f);
}

static void comments_stay(void **state)
{
    put_text(
        "# About all.\n\n; Mine.\nformat = 1   # the first\n\n# Free.\n\n# Of the disk.\n  [ device  \"d\" ] # here\n"
        "   b=2 # two\n# Of a.\na   =   \"one\"\n\n# Of the CD.\n[device \"cd\"]\nx = 1\n\n# The last words.\n# end "
        "edited\n");
    struct config_file *f = open_it();
    set(f, "device", "d", "{'b': 3, 'a': 'one', 'c': true}");
    CLEANUP_FREE char *text = get_text("");
    assert_true(g_str_has_prefix(
        text,
        "# About all.\n\n; Mine.\nformat = 1   # the first\nrelease = 0.1.0\n\n# Free.\n\n# Of the disk.\n  [ device"
        "  \"d\" ] # here\nb = 3 # two\n# Of a.\na   =   \"one\"\nc = true\n\n# Of the CD.\n[device \"cd\"]\nx = "
        "1\n\n# The last words.\n# end generation=2 sections=2 crc32c="));
    drop(f, "device", "d");
    has("release = 0.1.0\n\n# Free.\n\n# Of the CD.\n[device \"cd\"]");
    drop(f, "device", "cd");
    has("# Free.\n\n# The last words.\n# end ");
    config_file_close(f);
}

static void order_of_sections(void **state)
{
    struct config_file *f = open_it();
    set(f, "blockdev", "a", "{}");
    set(f, "device", "x", "{}");
    set(f, "blockdev", "b", "{}");
    const char *names[] = {"a", "b", "x"};
    for (unsigned i = 0; i < 3; i++) {
        assert_string_equal(config_file_section(f, i)->name, names[i]);
    }
    config_file_close(f);
}

/* --- generations ---------------------------------------------------------------------------------------------------
 */

static void previous_one(void **state)
{
    struct config_file *f = open_it();
    set(f, "device", "d", "{'v': 1}");
    assert_null(get_text(".prev"));
    set(f, "device", "d", "{'v': 2}");
    assert_int_equal(set(f, "device", "d", "{'v': 3}"), 3);
    assert_int_equal(set(f, "device", "d", "{'v': 3}"), 3); /* nothing changed */
    CLEANUP_FREE char *prev = get_text(".prev");
    assert_non_null(strstr(prev, "v = 2\n"));
    config_file_close(f);
    CLEANUP_FREE char *whole = get_text("");
    for (size_t n = 1; n < strlen(whole); n++) { /* torn anywhere */
        CLEANUP_FREE char *torn = g_strndup(whole, n);
        put_text(torn);
        refused("The previous generation, 2, is whole: 'sterna-state config-restore", false);
    }
    put_text("");
    refused("is empty, but its previous generation, 2, is there", false);
    g_remove(path);
    refused("is not there, but its previous generation, 2, is there", true);
    uint64_t generation = 0;
    put_text("garbage");
    assert_int_equal(config_file_restore(path, &generation, NULL), 0);
    assert_true(generation > 3);
    CLEANUP_FREE char *kept = get_text(".refused");
    assert_string_equal(kept, "garbage");
    f = open_it();
    values_are(f, "device", "d", "{'v': 2}");
    assert_int_equal(config_file_generation(f), generation);
    config_file_close(f);
}

static void edited(void **state)
{
    struct config_file *f = open_it();
    uint64_t generation;
    set(f, "device", "d", "{'v': 1}");
    set(f, "device", "d", "{'v': 2}");
    config_file_close(f);
    edit_text("v = 2", "v = 7");
    refused("is not as it was written", false);
    CLEANUP_ERR struct err e = ERR_INIT;
    assert_int_equal(config_file_seal(path, NULL, &generation, &e), 0);
    assert_int_equal(generation, 3);
    assert_int_equal(config_file_seal(path, NULL, &generation, &e), 0);
    assert_int_equal(generation, 3); /* it is right already */
    f = open_it();
    values_are(f, "device", "d", "{'v': 7}");
    config_file_close(f);
    edit_text("# end ", "# end generation=30 edited\n");
    f = open_it();
    assert_int_equal(config_file_generation(f), 31);
    config_file_close(f);
    has("# end generation=31 sections=1 crc32c=");
    CLEANUP_FREE char *prev = get_text(".prev");
    assert_non_null(strstr(prev, "v = 1"));
    edit_text("# end ", "# end edited\n");
    f = open_it();
    assert_true(config_file_generation(f) > 1);
    config_file_close(f);
}

static void somebody_edits_meanwhile(void **state)
{
    struct config_file *f = open_it();
    set(f, "device", "d", "{'v': 1}");
    put_text("theirs");
    set(f, "device", "d", "{'v': 2}");
    has("v = 2");
    CLEANUP_FREE char *prev = get_text(".prev");
    assert_string_equal(prev, "theirs");
    config_file_close(f);
}

static void snapshot_drops(void **state)
{
    struct config_file *f = open_it();
    set(f, "device", "d", "{'v': 1}");
    config_file_close(f);
    CLEANUP_FREE char *before = get_text("");
    f = open_with((struct config_options){.snapshot = true});
    struct config_file *other = open_with((struct config_options){.snapshot = true});
    refused("in use by another process, perhaps with snapshot=on", false);
    assert_int_equal(set(f, "device", "d", "{'v': 2}"), 2);
    values_are(f, "device", "d", "{'v': 2}");
    config_file_close(f);
    config_file_close(other);
    CLEANUP_FREE char *after = get_text("");
    assert_string_equal(before, after);
    f = open_it();
    values_are(f, "device", "d", "{'v': 1}");
    config_file_close(f);
}

static void without_a_file(void **state)
{
    const struct config_options o = {.release = "0.1.0"};
    struct config_file *f = NULL;
    assert_int_equal(config_file_open(&o, &f, NULL), 0);
    assert_int_equal(set(f, "device", "d", "{'v': 1}"), 1);
    values_are(f, "device", "d", "{'v': 1}");
    assert_null(config_file_path(f));
    config_file_close(f);
}

static void links_and_permissions(void **state)
{
    CLEANUP_FREE char *link = g_build_filename(folder, "link", NULL);
    struct stat st;
    struct config_file *f = open_it();
    set(f, "device", "d", "{'v': 1}");
    config_file_close(f);
    chmod(path, 0640);
    assert_int_equal(symlink("vm.state", link), 0);
    f = open_with((struct config_options){.path = link});
    set(f, "device", "d", "{'v': 2}");
    config_file_close(f);
    assert_int_equal(lstat(link, &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    has("v = 2");
}

static void save_as(void **state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *to = g_build_filename(folder, "other", NULL);
    struct config_file *f = open_it();
    set(f, "device", "d", "{'v': 1}");
    assert_int_equal(config_file_save_as(f, to, &e), 0);
    assert_int_equal(config_file_save_as(f, to, &e), -EEXIST);
    set(f, "device", "d", "{'v': 2}");
    config_file_close(f);
    f = open_with((struct config_options){.path = to});
    values_are(f, "device", "d", "{'v': 1}");
    config_file_close(f);
}

/* --- one at a time -------------------------------------------------------------------------------------------------
 */

static void locked(void **state)
{
    struct config_file *f = open_it();
    CLEANUP_FREE char *who = g_strdup_printf("is in use by process %ld (", (long)getpid());
    refused(who, false);
    refused(who, true);
    set(f, "device", "d", "{'v': 1}");
    refused(who, false);
    config_file_close(f);
    CLEANUP_FREE char *companion = g_strconcat(path, ".lock", NULL);
    assert_int_equal(access(companion, F_OK), -1);
    put_text("");
    g_file_set_contents(companion, "1\n", -1, NULL); /* of somebody who was killed */
    f = open_it();
    config_file_close(f);
}

/* Of several that start at once, one after another gets it, and never two. */
static void locked_in_turn(void **state)
{
    pid_t kids[4];
    CLEANUP_FREE char *token = g_build_filename(folder, "token", NULL);
    for (unsigned i = 0; i < G_N_ELEMENTS(kids); i++) {
        kids[i] = fork();
        for (unsigned n = 0; kids[i] == 0 && n < 300;) {
            struct config_lock l;
            if (config_lock_take(&l, path, false, NULL) == 0) {
                int fd = open(token, O_CREAT | O_EXCL, 0600);
                if (fd < 0) {
                    _exit(1);
                }
                close(fd);
                unlink(token);
                config_lock_drop(&l);
                n++;
            }
        }
        if (kids[i] == 0) {
            _exit(0);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(kids); i++) {
        int status;
        assert_int_equal(waitpid(kids[i], &status, 0), kids[i]);
        assert_int_equal(status, 0);
    }
}

/* --- killed ---------------------------------------------------------------------------------------------------------
 */

enum { KILLS = 15 };

/* Tells each generation that it was told is durable. */
static void change_until_killed(int to)
{
    struct config_file *f = open_it();
    for (;;) {
        CLEANUP_FREE char *values = g_strdup_printf("{'v': %" PRIu64 "}", config_file_generation(f) + 1);
        uint64_t generation = set(f, "device", "d", values);
        if (write(to, &generation, sizeof(generation)) != sizeof(generation)) {
            _exit(1);
        }
    }
}

static void killed_at_any_moment(void **state)
{
    uint64_t told = 0;
    for (unsigned i = 0; i < KILLS; i++) {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t pid = fork();
        if (pid == 0) {
            change_until_killed(ends[1]);
        }
        close(ends[1]);
        uint64_t generation = 0;
        assert_int_equal(read(ends[0], &generation, sizeof(generation)), sizeof(generation));
        g_usleep((gulong)g_random_int_range(0, 5000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        do {
            told = MAX(told, generation);
        } while (read(ends[0], &generation, sizeof(generation)) == sizeof(generation));
        close(ends[0]);
        struct config_file *f = open_it(); /* nobody holds it any more */
        CLEANUP_FREE char *values = g_strdup_printf("{'v': %" PRIu64 "}", config_file_generation(f));
        assert_in_range(config_file_generation(f), told, told + 1);
        values_are(f, "device", "d", values);
        config_file_close(f);
    }
}

/* --- together ------------------------------------------------------------------------------------------------------
 */

enum { MANY = 100 };
struct many {
    struct loop *l;
    struct config_file *f;
    unsigned left, failed, events, refs;
    uint64_t last;
    struct co *waiter;
};

static void one_of_many(void *opaque)
{
    struct many *m = opaque;
    CLEANUP_FREE char *name = g_strdup_printf("d%u", m->left++);
    CLEANUP_JSON struct json_object *o = json("{'v': 1}");
    struct config_change *c = config_change_begin(m->f);
    uint64_t generation;
    config_change_set(c, "device", name, o);
    m->failed += config_change_commit(c, &generation, NULL) < 0 || generation > m->last;
    if (--m->left == 0) {
        co_wake(m->waiter);
    }
}

static void watch(void *opaque, uint64_t generation, const struct config_ref *changed, unsigned n)
{
    struct many *m = opaque;
    m->failed += generation != ++m->last;
    m->events++;
    m->refs += n;
}

static int many(void *opaque)
{
    struct many *m = opaque;
    m->waiter = co_self();
    for (unsigned i = 0; i < MANY; i++) {
        co_start(m->l, one_of_many, m);
    }
    while (m->left) {
        co_wait();
    }
    return 0;
}

static int just_one(void *opaque)
{
    struct many *m = opaque;
    set(m->f, "device", "alone", "{'v': 1}");
    config_file_drain(m->f);
    return 0;
}

static void changes_share_flushes(void **state)
{
    const struct config_fs fs = counted();
    struct many m = {.l = loop_create(LOOP_AUTO, NULL)};
    m.f = open_with((struct config_options){.fs = &fs, .loop = m.l});
    config_file_watch(m.f, watch, &m);
    co_run(m.l, just_one, &m);
    assert_int_equal(syncs, 1);
    assert_int_equal(folder_syncs, 1);
    syncs = folder_syncs = 0;
    co_run(m.l, many, &m);
    assert_int_equal(m.failed, 0);
    assert_int_equal(m.refs, MANY + 1);
    assert_in_range(syncs, 1, 5);
    assert_int_equal(syncs, folder_syncs);
    assert_int_equal(m.events, syncs + 1);
    assert_int_equal(count(m.f), MANY + 1);
    config_file_close(m.f);
    loop_destroy(m.l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(values_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(keys_of_a_section_change, setup, teardown),
        cmocka_unit_test_setup_teardown(what_cannot_be_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(comments_stay, setup, teardown),
        cmocka_unit_test_setup_teardown(order_of_sections, setup, teardown),
        cmocka_unit_test_setup_teardown(previous_one, setup, teardown),
        cmocka_unit_test_setup_teardown(edited, setup, teardown),
        cmocka_unit_test_setup_teardown(somebody_edits_meanwhile, setup, teardown),
        cmocka_unit_test_setup_teardown(snapshot_drops, setup, teardown),
        cmocka_unit_test_setup_teardown(without_a_file, setup, teardown),
        cmocka_unit_test_setup_teardown(links_and_permissions, setup, teardown),
        cmocka_unit_test_setup_teardown(save_as, setup, teardown),
        cmocka_unit_test_setup_teardown(locked, setup, teardown),
        cmocka_unit_test_setup_teardown(locked_in_turn, setup, teardown),
        cmocka_unit_test_setup_teardown(killed_at_any_moment, setup, teardown),
        cmocka_unit_test_setup_teardown(changes_share_flushes, setup, teardown),
    };
    return cmocka_run_group_tests_name("config", tests, NULL, NULL);
}
