/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The crash simulator: every session on every geometry is recorded and each of its crashes replayed (world.h).
 *
 *     crash [FORMAT [SESSION]]        only the geometries whose name begins with FORMAT
 *
 * STERNA_CRASH_MOST: crashes per flush interval (0: all); STERNA_CRASH_PEER: ask qemu-img check of every so manieth
 * image; STERNA_TEST_SEED; STERNA_CRASH_AT_LEAST: the test fails when there were fewer crashes; STERNA_CRASH_PART: K/N,
 * the K-th of N geometries and every N-th from there on, for processes side by side.
 */
#include "world.h"

#include <string.h>

struct wanted {
    const char *format, *session;
    unsigned part, parts;
    unsigned long points, at_least;
};

static unsigned long number(const char *name, unsigned long otherwise)
{
    const char *s = getenv(name);
    return s ? strtoul(s, NULL, 0) : otherwise;
}

static void one_geometry(struct bench *b, const struct geometry *g, unsigned peer_every)
{
    struct wanted *w = b->arg;
    for (const struct session *s = sessions; s->name; s++) {
        if ((w->session && strcmp(s->name, w->session) != 0) || !session_fits(s, g)) {
            continue;
        }
        struct world x = {b, g, s, .seed = number("STERNA_TEST_SEED", 1), .peer_every = peer_every};
        unsigned long n = world_crashes(&x, number("STERNA_CRASH_MOST", 60));
        print_message("%s, %s: %lu crashes\n", g->name, s->name, n);
        w->points += n;
    }
}

static void all(struct bench *b)
{
    struct wanted *w = b->arg;
    bool peer = system("command -v qemu-img >/dev/null 2>&1") == 0;
    unsigned i = 0;
    for (const struct geometry *g = geometries; g->name; g++) {
        if ((!w->format || g_str_has_prefix(g->name, w->format)) && i++ % w->parts == w->part) {
            one_geometry(b, g, peer ? number("STERNA_CRASH_PEER", 400) : 0);
        }
    }
}

static void test_all(void **state)
{
    struct wanted *w = *state;
    bench_run_arg(all, w);
    print_message("%lu crashes\n", w->points);
    assert_true(w->points >= w->at_least);
}

int main(int argc, char **argv)
{
    struct wanted w = {argc > 1 ? argv[1] : NULL,         argc > 2 ? argv[2] : NULL, 0, 1, 0,
                       number("STERNA_CRASH_AT_LEAST", 1)};
    const char *part = getenv("STERNA_CRASH_PART");
    if (part && (sscanf(part, "%u/%u", &w.part, &w.parts) != 2 || w.part < 1 || w.part-- > w.parts)) {
        print_error("STERNA_CRASH_PART: '%s' is not K/N\n", part);
        return 2;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_all, &w)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
