/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fault loops: in every session on every geometry the first, second, … request of the file below fails, once or from
 * then on, with EIO or ENOSPC, until there is none left to fail; likewise the first, second, … allocation of memory
 * that may. Whatever failed has said so, what succeeded is there, and the image stays valid.
 *
 *     fault [FORMAT [SESSION]]
 *
 * STERNA_FAULT_STEP: only every so manieth n (all: 1). STERNA_FAULT_LOUD: names each run.
 */
#include "world.h"

#include <errno.h>
#include <string.h>

static const struct fault faults[] = {
    {"a write fails", FAIL_WRITE, -EIO, false},     {"a flush fails", FAIL_FLUSH, -EIO, false},
    {"a read fails", FAIL_READ, -EIO, false},       {"no space for a moment", FAIL_GROW | FAIL_WRITE, -ENOSPC, false},
    {"the disk is full", FAIL_GROW, -ENOSPC, true}, {"the disk is gone", FAIL_WRITE | FAIL_FLUSH, -EIO, true},
    {"an allocation fails", FAIL_MEMORY, 0, false}, {"memory is short", FAIL_MEMORY, 0, true},
};

struct wanted {
    const char *format, *session;
    unsigned step;
    unsigned long runs;
    bool loud;
};

static void one_session(struct bench *b, const struct geometry *g, const struct session *s, struct wanted *w)
{
    for (size_t i = 0; i < G_N_ELEMENTS(faults); i++) {
        bool fired = true;
        /* the short check takes every so manieth, each session another first one, so that all have their turn */
        for (unsigned n = 1 + w->runs % w->step; fired && n < 5000; n += w->step, w->runs++) {
            struct world x = {b, g, s, .seed = 3};
            if (w->loud) {
                print_message("%s, %s: %s, %u\n", g->name, s->name, faults[i].name, n);
            }
            fired = world_fault(&x, &faults[i], n);
        }
    }
}

static void all(struct bench *b)
{
    struct wanted *w = b->arg;
    for (const struct geometry *g = geometries; g->name; g++) {
        for (const struct session *s = sessions; s->name; s++) {
            bool asked =
                (!w->format || g_str_has_prefix(g->name, w->format)) && (!w->session || !strcmp(s->name, w->session));
            if (asked && session_fits(s, g)) {
                one_session(b, g, s, w);
            }
        }
    }
}

static void test_all(void **state)
{
    struct wanted *w = *state;
    bench_run_arg(all, w);
    print_message("%lu runs with a fault\n", w->runs);
    assert_true(w->runs > 30);
}

int main(int argc, char **argv)
{
    const char *step = getenv("STERNA_FAULT_STEP");
    struct wanted w = {argc > 1 ? argv[1] : NULL, argc > 2 ? argv[2] : NULL, step ? strtoul(step, NULL, 0) : 1, 0,
                       getenv("STERNA_FAULT_LOUD") != NULL};
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_all, &w)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
