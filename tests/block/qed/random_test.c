/* SPDX-License-Identifier: BSD-2-Clause */
/* Random requests, several at a time too, on images of every shape, beside a copy of what they should hold. */
#include "qed_support.h"

#include "base/cleanup.h"

enum { SIZE = 3 << 20, STEPS = 250, WORKERS = 6 };

static uint64_t first_seed(void)
{
    const char *s = getenv("STERNA_TEST_SEED");
    return s ? strtoull(s, NULL, 0) : 11;
}

static void run_shape(struct bench *b, const struct shape *shape, uint64_t base_size)
{
    struct sample s = {.b = b, .seed = first_seed() + base_size, .disk = {.delay = 3}};
    print_message("%s, base of %u bytes\n", shape->name, (unsigned)base_size);
    sample_create(&s, shape->opts, SIZE, base_size);
    for (int round = 0; round < 3; round++) {
        sample_open(&s, false);
        for (int i = 0; i < STEPS; i++) {
            sample_step(&s);
        }
        sample_verify(&s);
        sample_check_clean(&s);
        sample_close(&s);
        assert_int_equal(disk_features(&s.disk) & QED_NEED_CHECK, 0);
        sample_open(&s, true);
        sample_verify(&s);
        sample_check_clean(&s);
        sample_close(&s);
    }
    sample_finish(&s);
}

static void all_shapes(struct bench *b)
{
    for (const struct shape *shape = shapes; shape->name; shape++) {
        run_shape(b, shape, 0);
        run_shape(b, shape, 2 << 20);
        run_shape(b, shape, SIZE + 5000);
    }
}

static void test_random(void **state)
{
    bench_run(all_shapes);
}

/* --- several at a time -------------------------------------------------------------------------------------------- */

struct worker {
    struct sample *s;
    unsigned lane; /* writes every WORKERS-th piece of 1000 bytes: neighbours share clusters, not bytes */
};

static void work(void *arg)
{
    struct worker *w = arg;
    for (uint64_t off = w->lane * 1000; off + 1000 <= 600000; off += WORKERS * 1000) {
        sample_write(w->s, off, 1000);
    }
}

static void run_workers(struct bench *b, const struct shape *shape, uint64_t base_size)
{
    struct sample s = {.b = b, .seed = first_seed(), .disk = {.delay = 2}};
    struct worker w[WORKERS];
    int running = 0;
    sample_create(&s, shape->opts, SIZE, base_size);
    sample_open(&s, false);
    for (unsigned i = 0; i < WORKERS; i++) {
        w[i] = (struct worker){&s, i};
        spawn(b, work, &w[i], &running);
    }
    wait_for(&running);
    sample_verify(&s);
    sample_check_clean(&s);
    sample_close(&s);
    sample_open(&s, true);
    sample_verify(&s);
    sample_close(&s);
    sample_finish(&s);
}

static void all_workers(struct bench *b)
{
    for (const struct shape *shape = shapes; shape->name; shape++) {
        run_workers(b, shape, 0);
        run_workers(b, shape, SIZE);
    }
}

static void test_parallel(void **state)
{
    bench_run(all_workers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_parallel)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
