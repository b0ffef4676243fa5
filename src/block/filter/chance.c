/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/filter/chance.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

/* splitmix64: any seed gives a good sequence. */
static uint64_t next(struct chance *c)
{
    uint64_t z = (c->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void chance_seed(struct chance *c, uint64_t seed)
{
    c->state = seed;
}

uint64_t chance_below(struct chance *c, uint64_t n)
{
    return next(c) % n;
}

bool chance_happens(struct chance *c, double probability)
{
    return (double)(next(c) >> 11) * 0x1p-53 < probability;
}

int duration_parse(struct json_object *o, const char *name, uint64_t *ns, struct err *e)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"", 1}, {"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}};
    const char *text = json_object_get_string(o);
    char *end;
    double v = g_ascii_strtod(text ? text : "", &end);
    for (size_t i = 0; text && end != text && i < G_N_ELEMENTS(units); i++) {
        if (!strcmp(end, units[i].unit) && v >= 0 && v * units[i].ns <= 3600e9) {
            *ns = (uint64_t)(v * units[i].ns);
            return 0;
        }
    }
    return err_set(
        e, EINVAL,
        "'%s': '%s' is not a time: a number of nanoseconds, or with a unit 'us', 'ms' or 's'; at most an hour", name,
        text ? text : "null");
}
