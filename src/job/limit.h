/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A limit of speed that several share, jobs and others: whoever sends something says so, and asks before the next thing
 * how long to wait. What nobody uses is lost but for a moment's. Loop thread.
 */
#pragma once

#include <stdint.h>

struct job_limit {
    const uint64_t *speed; /* bytes per second, looked at each time; 0: no limit */
    double debt;           /* bytes that were sent too early; negative: that may be sent at once */
    uint64_t at_ns;        /* as of then */
};

/* How long until more may be sent; 0: now. A change of the speed makes it another. */
uint64_t job_limit_delay(struct job_limit *l);
void job_limit_account(struct job_limit *l, uint64_t bytes);
