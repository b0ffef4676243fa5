/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/units.h"

#include "base/cleanup.h"
#include "cli/human.h"

#include <inttypes.h>

char *unit_rate(uint64_t bytes_per_second)
{
    CLEANUP_FREE char *size = human_size(bytes_per_second);
    return g_strdup_printf("%s/s", size);
}

char *unit_time(uint64_t seconds)
{
    unsigned s = (unsigned)(seconds % 60), m = (unsigned)(seconds / 60 % 60);
    return seconds >= 3600 ? g_strdup_printf("%" PRIu64 ":%02u:%02u", seconds / 3600, m, s)
                           : g_strdup_printf("%u:%02u", m, s);
}

char *unit_latency(uint64_t ns)
{
    double us = (double)ns / 1000;
    return us < 1000      ? g_strdup_printf("%.3g us", us)
           : us < 1000000 ? g_strdup_printf("%.3g ms", us / 1000)
                          : g_strdup_printf("%.3g s", us / 1000000);
}
