/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Files as people edit them, with every kind of mistake: corpus/NAME-fail.state is refused with the text of
 * corpus/NAME-fail.error, corpus/NAME-pass.state, which is right there, is taken, and written as it was.
 * STERNA_MAKE_CORPUS=1 writes the texts, for somebody to read.
 */
#include "config/file_int.h"

#include "base/cleanup.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum { AT_LEAST = 100 };

static const char *folder;

/* --- what may stand in them ----------------------------------------------------------------------------------------
 */

static int check_job(struct json_object *values, struct err *e)
{
    const char *command = json_object_get_string(json_object_object_get(values, "command"));
    return !strcmp(command, "block-stream") ? 0
                                            : err_set(e, EINVAL, "Parameter 'command': there is no job '%s'", command);
}

static const struct config_kind kinds[] = {
    {"machine", .single = true,
     .keys =
         (const struct config_key[]){
             {"type", CONFIG_STRING, true}, {"memory", CONFIG_SIZE}, {"harts", CONFIG_INT}, {NULL}}},
    {"device", .open = true,
     .keys = (const struct config_key[]){{"driver", CONFIG_STRING, true}, {"serial", CONFIG_STRING}, {NULL}}},
    {"medium", .keys =
                   (const struct config_key[]){
                       {"node", CONFIG_STRING}, {"tray", CONFIG_STRING}, {"locked", CONFIG_BOOL}, {NULL}}},
    {"blockdev", .open = true, .keys = (const struct config_key[]){{"driver", CONFIG_STRING, true}, {NULL}}},
    {"rtc", .single = true, .keys = (const struct config_key[]){{"offset", CONFIG_INT, true}, {NULL}}},
    {"memory", .single = true, .keys = (const struct config_key[]){{"size", CONFIG_SIZE}, {NULL}}},
    {"limit", .single = true, .keys = (const struct config_key[]){{"rate", CONFIG_NUMBER}, {NULL}}},
    {"global", .single = true, .open = true},
    {"job", .check = check_job, .keys = (const struct config_key[]){{"command", CONFIG_STRING, true}, {NULL}}},
    {NULL},
};

/* --- files ---------------------------------------------------------------------------------------------------------
 */

static GByteArray *get(const char *name)
{
    CLEANUP_FREE char *path = g_build_filename(folder, name, NULL);
    char *text = NULL;
    gsize len = 0;
    assert_true(g_file_get_contents(path, &text, &len, NULL));
    return g_byte_array_new_take((guint8 *)text, len);
}

static int load(const GByteArray *bytes, struct config_doc **out, struct err *e)
{
    int rc = config_parse("vm.state", bytes, false, out, e);
    if (rc == 0) {
        rc = config_check("vm.state", *out, kinds, e);
        if (rc < 0) {
            config_doc_free(take(*out));
        }
    }
    return rc;
}

static void check_error(const char *name, const char *text)
{
    CLEANUP_FREE char *stem = g_strndup(name, strlen(name) - strlen(".state"));
    CLEANUP_FREE char *path = g_strdup_printf("%s/%s.error", folder, stem);
    CLEANUP_FREE char *expected = NULL;
    CLEANUP_FREE char *line = g_strconcat(text, "\n", NULL);
    if (getenv("STERNA_MAKE_CORPUS")) {
        g_file_set_contents(path, line, -1, NULL);
    }
    assert_true(g_file_get_contents(path, &expected, NULL, NULL));
    if (strcmp(expected, line) != 0) {
        fail_msg("%s:\n%snot\n%s", name, line, expected);
    }
}

/* All but the last line is as it was. */
static void check_print(const char *name, const GByteArray *bytes, struct config_doc *d)
{
    CLEANUP_FREE char *text = g_strndup((const char *)bytes->data, bytes->len);
    char *end = g_strrstr(text, "# end");
    *(end ? end : text) = '\0';
    GString *printed = config_print(d);
    if (end && !g_str_has_prefix(printed->str, text)) {
        fail_msg("%s became\n%s", name, printed->str);
    }
    const GByteArray again = {(guint8 *)printed->str, (guint)printed->len};
    struct config_doc *d2 = NULL;
    CLEANUP_ERR struct err e = ERR_INIT;
    if (load(&again, &d2, &e) < 0) {
        fail_msg("%s: %s", name, err_text(&e));
    }
    assert_int_equal(d->sections->len, d2->sections->len);
    config_doc_free(d2);
    g_string_free(printed, TRUE);
}

static void check_file(const char *name)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_doc *d = NULL;
    GByteArray *bytes = get(name);
    int rc = load(bytes, &d, &e);
    if (g_str_has_suffix(name, "-fail.state")) {
        if (rc == 0) {
            fail_msg("%s was taken", name);
        }
        check_error(name, err_text(&e));
    } else if (rc < 0) {
        fail_msg("%s: %s", name, err_text(&e));
    } else {
        check_print(name, bytes, d);
    }
    config_doc_free(d);
    g_byte_array_free(bytes, TRUE);
}

static void pairs(void **state)
{
    GDir *dir = g_dir_open(folder, 0, NULL);
    const char *name;
    unsigned fails = 0;
    assert_non_null(dir);
    while ((name = g_dir_read_name(dir))) {
        if (!g_str_has_suffix(name, ".state")) {
            continue;
        }
        check_file(name);
        if (g_str_has_suffix(name, "-fail.state")) {
            CLEANUP_FREE char *stem = g_strndup(name, strlen(name) - strlen("-fail.state"));
            CLEANUP_FREE char *twin = g_strdup_printf("%s/%s-pass.state", folder, stem);
            assert_true(g_file_test(twin, G_FILE_TEST_EXISTS));
            fails++;
        }
    }
    g_dir_close(dir);
    assert_true(fails >= AT_LEAST);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(pairs)};
    folder = argv[1];
    return cmocka_run_group_tests_name("config corpus", tests, NULL, NULL);
}
