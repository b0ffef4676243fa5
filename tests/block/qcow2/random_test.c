/* SPDX-License-Identifier: BSD-2-Clause */
/* Random requests against a flat buffer, for each geometry; reopened and checked again and again. */
#include "qsupport.h"

#include "base/cleanup.h"

enum { SIZE = 3 * 1024 * 1024 + 512, ROUNDS = 3, STEPS = 120 };

static void run_geometry(struct bench *b, const struct geometry *g, uint64_t seed)
{
    struct model m = {.size = SIZE, .seed = seed, .want = calloc(1, SIZE)};
    CLEANUP_FREE char *path = g_strdup(bench_path(b, "image")), *below = NULL;
    if (g->backed) { /* shorter than the overlay */
        uint64_t n = SIZE - 700000;
        below = g_strdup(bench_path(b, "base"));
        for (uint64_t i = 0; i < n; i++) {
            m.want[i] = 1 + i * 7 % 251;
        }
        assert_true(g_file_set_contents(below, (char *)m.want, n, NULL));
    }
    create_image(b, path, SIZE, g, below, "");
    for (int round = 0; round < ROUNDS; round++) {
        const char *more = (const char *[]){"", ", 'l2-cache-entry-size': 512, 'l2-cache-size': 2048", ""}[round];
        model_open(&m, b, path, more);
        for (int i = 0; i < STEPS; i++) {
            model_step(&m);
        }
        check_clean(m.n, true); /* what waits to be freed is not lost, but counts as leaked */
        model_verify(&m);
        model_close(&m);
        outside_check(path, false);
    }
    model_open(&m, b, path, ", 'read-only': true, 'cache-size': '1M'");
    model_verify(&m);
    check_clean(m.n, false);
    model_close(&m);
    if (have_qemu_img()) {
        CLEANUP_FREE char *raw = g_strdup(bench_path(b, "raw"));
        assert_true(g_file_set_contents(raw, (char *)m.want, SIZE, NULL));
        assert_int_equal(shell("qemu-img compare -f qcow2 -F raw '%s' '%s' >/dev/null", path, raw), 0);
    }
    free(m.want);
    unlink(path);
}

static void all_geometries(struct bench *b)
{
    for (const struct geometry *g = geometries; g->name; g++) {
        const char *seed = getenv("STERNA_TEST_SEED");
        print_message("%s\n", g->name);
        run_geometry(b, g, seed ? strtoull(seed, NULL, 0) : 1 + (uint64_t)(g - geometries));
    }
}

static void test_random(void **state)
{
    bench_run(all_geometries);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
