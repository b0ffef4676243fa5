/* SPDX-License-Identifier: BSD-2-Clause */
/* Numbers as people read them. All are g_malloc'd. */
#pragma once

#include <stdint.h>

/* "120 MiB/s". */
char *unit_rate(uint64_t bytes_per_second);
/* "0:07", "1:02:03". */
char *unit_time(uint64_t seconds);
/* "85 us", "1.25 ms", "2.1 s". */
char *unit_latency(uint64_t ns);
