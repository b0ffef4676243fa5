/* SPDX-License-Identifier: BSD-2-Clause */
/* The filters error, delay and log. */
#include "support.h"

#include "base/cleanup.h"
#include "block/reopen.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

/* A filter above a disk without data; `more` begins with a comma or is empty. */
static struct edge *above_null(struct bench *b, const char *driver, const char *more)
{
    struct node *n = must_open(b, jsonf("{'driver':'%s','node-name':'f','discard':'unmap','file':{'driver':'null-co',"
                                        "'node-name':'disk','size':1048576,'read-zeroes':true}%s}",
                                        driver, more));
    struct edge *ed = rw_edge(n);
    node_unref(n);
    return ed;
}

static void reopen_to(struct edge *ed, const char *driver, const char *more)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = jsonf("{'driver':'%s','node-name':'f','file':'disk'%s}", driver, more);
    struct reopen_request r = {ed->child, o, false};
    if (node_reopen(&r, 1, &e) < 0) {
        fail_msg("%s", err_text(&e));
    }
}

static int write_at(struct edge *ed, uint64_t off)
{
    char sector[512] = {1};
    return edge_write_buf(ed, off, sizeof(sector), sector, 0);
}

static int read_at(struct edge *ed, uint64_t off)
{
    char sector[512];
    return edge_read_buf(ed, off, sizeof(sector), sector);
}

/* --- error -------------------------------------------------------------------------------------------------------- */

static void fails_by_rules(struct bench *b)
{
    struct edge *ed = above_null(b, "error",
                                 ",'errors':[{'operation':'write','errno':'ENOSPC','offset':4096,'length':1024},"
                                 "{'operation':'read','after':2,'count':1},{'operation':'flush','errno':'EREMOTEIO'},"
                                 "{'operation':'zero','errno':'EPERM'},{'operation':'discard','errno':'EBUSY'}]");
    assert_int_equal(write_at(ed, 4096 - 512), 0);
    assert_int_equal(write_at(ed, 4096 + 512), -ENOSPC);
    assert_int_equal(write_at(ed, 5120), 0);
    assert_int_equal(read_at(ed, 0), 0);
    assert_int_equal(read_at(ed, 4096), 0);
    assert_int_equal(read_at(ed, 0), -EIO);
    assert_int_equal(read_at(ed, 0), 0);
    assert_int_equal(edge_flush(ed), -EREMOTEIO);
    assert_int_equal(edge_zero(ed, 0, 4096, 0), -EPERM);
    assert_int_equal(edge_discard(ed, 0, 4096), -EBUSY);

    reopen_to(ed, "error", ",'errors':[{'operation':'any','errno':'ETIMEDOUT','count':2}]");
    assert_int_equal(edge_zero(ed, 0, 4096, 0), -ETIMEDOUT);
    assert_int_equal(write_at(ed, 0), -ETIMEDOUT);
    assert_int_equal(edge_flush(ed), 0);
    reopen_to(ed, "error", "");
    assert_int_equal(write_at(ed, 4608), 0);
    edge_close(ed);
}

static void test_rules(void **state)
{
    bench_run(fails_by_rules);
}

/* The outcomes of 64 reads, as bits. */
static uint64_t pattern(struct bench *b, const char *more)
{
    struct edge *ed = above_null(b, "error", more);
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) {
        bits = bits << 1 | (read_at(ed, 0) != 0);
    }
    edge_close(ed);
    return bits;
}

static void fails_by_chance(struct bench *b)
{
    uint64_t one = pattern(b, ",'seed':1,'errors':[{'probability':0.25}]");
    assert_true(__builtin_popcountll(one) > 4 && __builtin_popcountll(one) < 32);
    assert_true(one == pattern(b, ",'seed':1,'errors':[{'probability':'0.25'}]"));
    assert_true(one != pattern(b, ",'seed':2,'errors':[{'probability':0.25}]"));
    assert_true(pattern(b, ",'errors':[{'probability':0}]") == 0);
    assert_true(pattern(b, ",'errors':[{'probability':0.5,'count':3}]") != 0);
    assert_int_equal(__builtin_popcountll(pattern(b, ",'errors':[{'probability':0.9,'count':3}]")), 3);
}

static void test_chance(void **state)
{
    bench_run(fails_by_chance);
}

static void refuse(struct bench *b, const char *driver, const char *more, const char *text)
{
    const char *got = must_fail(b, jsonf("{'driver':'%s','file':{'driver':'null-co','size':1048576}%s}", driver, more));
    if (!strstr(got, text)) {
        fail_msg("\"%s\" lacks \"%s\"", got, text);
    }
}

static void refuses_nonsense(struct bench *b)
{
    refuse(b, "error", ",'errors':[{'errno':'EWHAT'}]", "'errno': 'EWHAT' is not one of EIO, ENOSPC");
    refuse(b, "error", ",'errors':[{'probability':1.5}]", "'probability': '1.5' is not a number from 0 to 1");
    refuse(b, "error", ",'errors':[{'probability':'often'}]", "'often' is not a number");
    refuse(b, "error", ",'errors':[{'operation':'look'}]", "'look'");
    refuse(b, "error", ",'errors':[{'offset':10,'length':18446744073709551615}]", "reach beyond any disk");
    refuse(b, "error", ",'errors':[{'rate':1}]", "rate");
    refuse(b, "error", ",'errors':[{'operation':'flush','offset':0}]", "a flush has no 'offset'");
    refuse(b, "error", ",'errors':1", "expected: array");
    refuse(b, "delay", ",'read-latency':'soon'", "'read-latency': 'soon' is not a time");
    refuse(b, "delay", ",'jitter':'2h'", "'jitter': '2h' is not a time");
    refuse(b, "delay", ",'flush-latency':-1", "'-1' is not a time");
    refuse(b, "log", "", "Parameter 'log-file' is missing");
    refuse(b, "log", ",'log-file':'/nowhere/log'", "Could not open log file '/nowhere/log'");
    refuse(b, "log", ",'log-file':'/dev/null'", "not a regular file");
}

static void test_nonsense(void **state)
{
    bench_run(refuses_nonsense);
}

/* --- delay -------------------------------------------------------------------------------------------------------- */

static uint64_t time_of(int (*fn)(struct edge *ed, uint64_t off), struct edge *ed)
{
    uint64_t t0 = loop_now_ns();
    assert_int_equal(fn(ed, 0), 0);
    return loop_now_ns() - t0;
}

/* The shortest of some: what is not held up is quick once, though the machine is busy. */
static uint64_t best_time_of(int (*fn)(struct edge *ed, uint64_t off), struct edge *ed)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 50 && best >= 20000000; i++) {
        best = MIN(best, time_of(fn, ed));
    }
    return best;
}

static int flush_it(struct edge *ed, uint64_t off)
{
    write_at(ed, off); /* else there is nothing to flush */
    return edge_flush(ed);
}

static void takes_longer(struct bench *b)
{
    struct edge *ed = above_null(b, "delay", ",'read-latency':'30ms','flush-latency':20000000,'jitter':'10ms'");
    assert_true(time_of(read_at, ed) >= 30000000);
    assert_true(time_of(flush_it, ed) >= 20000000);
    assert_true(best_time_of(write_at, ed) < 20000000); /* no latency, no jitter */
    reopen_to(ed, "delay", ",'write-latency':'0.02s'");
    assert_true(time_of(write_at, ed) >= 20000000);
    assert_true(best_time_of(read_at, ed) < 20000000);
    edge_close(ed);
}

static void test_delay(void **state)
{
    bench_run(takes_longer);
}

/* --- log ---------------------------------------------------------------------------------------------------------- */

/* Lines without their times; the first two numbers of each are looked at and left out. */
static char *log_of(struct bench *b, const char *name)
{
    CLEANUP_FREE char *text = NULL;
    assert_true(g_file_get_contents(bench_path(b, name), &text, NULL, NULL));
    char **lines = g_strsplit(text, "\n", -1);
    GString *out = g_string_new(NULL);
    for (int i = 0; lines[i]; i++) {
        uint64_t begin, took;
        int at = 0;
        if (sscanf(lines[i], "%" SCNu64 " %" SCNu64 " %n", &begin, &took, &at) == 2) {
            assert_true(begin < 60000000000 && took < 60000000000);
        }
        g_string_append_printf(out, "%s;", lines[i] + at);
    }
    g_strfreev(lines);
    return g_string_free(out, false);
}

static char *log_to(struct bench *b, const char *name, char text[256])
{
    g_snprintf(text, 256, ",'log-file':'%s'", bench_path(b, name));
    return text;
}

static void writes_a_log(struct bench *b)
{
    char text[256];
    struct node *n = must_open(
        b,
        jsonf("{'driver':'log','node-name':'f','log-file':'%s','file':{'driver':'error','node-name':'disk','discard':"
              "'unmap','file':{'driver':'null-co','size':1048576},'errors':[{'offset':8192,'length':1}]}}",
              bench_path(b, "log")));
    struct edge *ed = rw_edge(n);
    char sector[512] = {1};
    read_at(ed, 512);
    write_at(ed, 8192);
    assert_int_equal(edge_write_buf(ed, 1024, 512, sector, REQ_FUA), 0);
    assert_int_equal(edge_zero(ed, 0, 4096, 0), 0);
    assert_int_equal(edge_flush(ed), 0);
    reopen_to(ed, "log", log_to(b, "log", text)); /* the same: it goes on */
    read_at(ed, 0);
    reopen_to(ed, "log", log_to(b, "other", text));
    read_at(ed, 2048);
    edge_close(ed);
    node_unref(n);
    CLEANUP_FREE char *first = log_of(b, "log"), *second = log_of(b, "other");
    assert_string_equal(first, "# node f size 1048576;read 512 512 - 0;write 8192 512 - -5;write 1024 512 fua 0;"
                               "zero 0 4096 - 0;flush 0 0 - 0;read 0 512 - 0;;");
    assert_string_equal(second, "# node f size 1048576;read 2048 512 - 0;;");

    g_strlcat(log_to(b, "other", text), ",'log-append':true", sizeof(text));
    ed = above_null(b, "log", text);
    read_at(ed, 0);
    edge_close(ed);
    CLEANUP_FREE char *third = log_of(b, "other");
    assert_string_equal(third, "# node f size 1048576;read 2048 512 - 0;# node f size 1048576;read 0 512 - 0;;");
}

static void test_log(void **state)
{
    bench_run(writes_a_log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules), cmocka_unit_test(test_chance), cmocka_unit_test(test_nonsense),
        cmocka_unit_test(test_delay), cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
