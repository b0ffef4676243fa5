/* SPDX-License-Identifier: BSD-2-Clause */
/* File locks: against ourselves, and against QEMU's tools where there are any. */
#include "support.h"

#include <sys/wait.h>
#include <unistd.h>

static struct node *open_disk(struct bench *b, const char *extra)
{
    return must_open(b, jsonf("{'driver':'file','filename':'%s'%s}", bench_path(b, "disk"), extra));
}

static const char *edge_fails(struct node *n, unsigned perm, unsigned shared)
{
    static char text[512];
    struct err e = ERR_INIT;
    struct edge *ed;
    assert_true(edge_open(n, &(struct edge_spec){"root", perm, shared}, &ed, &e) < 0);
    g_strlcpy(text, err_text(&e), sizeof(text));
    err_clear(&e);
    return text;
}

static void excludes_itself(struct bench *b)
{
    bench_file(b, "disk", 65536, 1);
    struct node *one = open_disk(b, ""), *two = open_disk(b, ""), *free_for_all = open_disk(b, ",'locking':'off'");
    struct edge *a = must_edge(one, PERM_READ | PERM_WRITE, PERM_READ | PERM_WRITE_SAME), *c;
    g_autofree char *text = g_strdup_printf("Failed to get \"write\" lock\nIs another process using the image [%s]?",
                                            bench_path(b, "disk"));
    assert_string_equal(edge_fails(two, PERM_WRITE, PERM_ALL), text);
    assert_true(g_str_has_prefix(edge_fails(two, PERM_READ, PERM_READ), "Failed to get shared \"write\" lock"));
    c = must_edge(two, PERM_READ, PERM_ALL); /* to read beside a writer is fine when one says so */
    edge_close(c);
    c = must_edge(free_for_all, PERM_WRITE, 0);
    edge_close(c);
    edge_close(a);
    a = must_edge(two, PERM_WRITE, 0); /* nothing of a failure or of what was closed is left */
    assert_true(g_str_has_prefix(edge_fails(one, PERM_READ, PERM_ALL), "Failed to get \"consistent read\" lock"));
    edge_close(a);
    a = must_edge(one, PERM_ALL, 0);
    edge_close(a);
    node_unref(one);
    node_unref(two);
    node_unref(free_for_all);
}

static void test_ourselves(void **state)
{
    bench_run(excludes_itself);
}

static bool have(const char *program)
{
    g_autofree char *path = g_find_program_in_path(program);
    if (!path) {
        print_message("skipped: no %s here\n", program);
    }
    return path != NULL;
}

/* Its exit status; what it printed to either output in *out. */
static int run(const char *command, char **out)
{
    int status = 0;
    char *err_out = NULL, *std_out = NULL;
    const char *argv[] = {"sh", "-c", command, NULL};
    assert_true(g_spawn_sync(NULL, (char **)(uintptr_t)argv, NULL, G_SPAWN_SEARCH_PATH, NULL, NULL, &std_out, &err_out,
                             &status, NULL));
    *out = g_strconcat(std_out, err_out, NULL);
    g_free(std_out);
    g_free(err_out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void keeps_qemu_out(struct bench *b)
{
    bench_file(b, "disk", 65536, 1);
    struct node *n =
        must_open(b, jsonf("{'driver':'raw','file':{'driver':'file','filename':'%s'}}", bench_path(b, "disk")));
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_READ | PERM_WRITE_SAME);
    g_autofree char *write = g_strdup_printf("qemu-io -f raw -c 'write 0 512' %s", bench_path(b, "disk"));
    g_autofree char *resize = g_strdup_printf("qemu-img resize -f raw %s 1M", bench_path(b, "disk"));
    g_autofree char *info_shared = g_strdup_printf("qemu-img info -U -f raw %s", bench_path(b, "disk"));
    char *out;
    assert_int_not_equal(run(write, &out), 0);
    assert_non_null(strstr(out, "Failed to get \"write\" lock"));
    g_free(out);
    assert_int_not_equal(run(resize, &out), 0);
    assert_non_null(strstr(out, "lock"));
    g_free(out);
    assert_int_equal(run(info_shared, &out), 0);
    g_free(out);
    edge_close(ed);
    assert_int_equal(run(write, &out), 0);
    g_free(out);
    node_unref(n);
}

static void test_we_first(void **state)
{
    if (have("qemu-io") && have("qemu-img")) {
        bench_run(keeps_qemu_out);
    }
}

static void is_kept_out_by_qemu(struct bench *b)
{
    bench_file(b, "disk", 65536, 1);
    struct node *n = open_disk(b, "");
    const char *argv[] = {"qemu-io", "-f", "raw", bench_path(b, "disk"), NULL};
    GPid pid;
    int in, out;
    assert_true(g_spawn_async_with_pipes(NULL, (char **)(uintptr_t)argv, NULL,
                                         G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid, &in, &out,
                                         NULL, NULL));
    char c;
    assert_int_equal(write(in, "read 0 512\n", 11), 11);
    while (read(out, &c, 1) == 1 && c != '\n') { /* it answers: so it has its locks */
    }
    assert_true(g_str_has_prefix(edge_fails(n, PERM_WRITE, PERM_READ), "Failed to get shared \"write\" lock"));
    edge_close(must_edge(n, PERM_WRITE, PERM_ALL)); /* qemu-io lets others write when they let it */
    close(in);
    close(out);
    waitpid(pid, NULL, 0);
    g_spawn_close_pid(pid);
    edge_close(must_edge(n, PERM_WRITE, PERM_READ));
    node_unref(n);
}

static void test_qemu_first(void **state)
{
    if (have("qemu-io")) {
        bench_run(is_kept_out_by_qemu);
    }
}

/* create() must not empty what somebody uses. */
static void create_respects_locks(struct bench *b)
{
    struct err e = ERR_INIT;
    bench_file(b, "disk", 65536, 1);
    struct node *n = open_disk(b, "");
    struct edge *ed = must_edge(n, PERM_READ | PERM_WRITE, PERM_READ);
    struct json_object *o = jsonf("{'filename':'%s','size':'4k'}", bench_path(b, "disk"));
    assert_true(driver_find("file")->create(b->graph, o, &e) < 0);
    assert_true(g_str_has_prefix(err_text(&e), "Failed to get \"write\" lock"));
    err_clear(&e);
    char byte = 0;
    assert_int_equal(edge_read_buf(ed, 65535, 1, &byte), 0);
    assert_int_equal(byte, 1);
    edge_close(ed);
    node_unref(n);
    assert_int_equal(driver_find("file")->create(b->graph, o, &e), 0);
    json_object_put(o);
    n = open_disk(b, "");
    assert_int_equal(n->size, 4096);
    node_unref(n);
}

static void test_create(void **state)
{
    bench_run(create_respects_locks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ourselves),
        cmocka_unit_test(test_we_first),
        cmocka_unit_test(test_qemu_first),
        cmocka_unit_test(test_create),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
