/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Differential test: random requests, snapshots and resizes on every format against a model in memory, for a given
 * time, and at least once each; at the end of each run the image is checked by us and by the peer's tool.
 *
 *     random [FORMAT]
 *
 * STERNA_RANDOM_SECONDS: for how long (default 20). STERNA_TEST_SEED: the first run's.
 */
#include "world.h"

#include <string.h>
#include <time.h>

struct wanted {
    const char *format;
    unsigned long seconds, runs;
    uint64_t seed;
};

static void all(struct bench *b)
{
    struct wanted *w = b->arg;
    bool peer = system("command -v qemu-img >/dev/null 2>&1") == 0;
    static const struct session by_chance = {.name = "random"};
    time_t end = time(NULL) + (time_t)w->seconds;
    bool again = false; /* all have had their turn */
    for (const struct geometry *g = geometries; !again || time(NULL) < end; g = g[1].name ? g + 1 : geometries) {
        again = again || !g[1].name;
        if (w->format && !g_str_has_prefix(g->name, w->format)) {
            continue;
        }
        struct world x = {b, g, &by_chance, .seed = w->seed, .peer_every = peer && w->runs % 4 == 0};
        print_message("%s, seed %lu\n", g->name, (unsigned long)w->seed);
        world_random(&x, 300);
        w->seed++;
        w->runs++;
    }
}

static void test_all(void **state)
{
    struct wanted *w = *state;
    bench_run_arg(all, w);
    print_message("%lu runs\n", w->runs);
    assert_true(w->runs > 0);
}

int main(int argc, char **argv)
{
    const char *seconds = getenv("STERNA_RANDOM_SECONDS"), *seed = getenv("STERNA_TEST_SEED");
    struct wanted w = {argc > 1 ? argv[1] : NULL, seconds ? strtoul(seconds, NULL, 0) : 20, 0,
                       seed ? strtoull(seed, NULL, 0) : 1};
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_all, &w)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
