/* SPDX-License-Identifier: BSD-2-Clause */
#include "job/limit.h"

#include "loop/loop.h"

#define SLACK_NS 50e6

uint64_t job_limit_delay(struct job_limit *l)
{
    double speed = (double)*l->speed;
    uint64_t now = loop_now_ns(), passed = now - l->at_ns;
    l->at_ns = now;
    l->debt -= speed * (double)passed / 1e9;
    if (l->debt < -speed * SLACK_NS / 1e9) {
        l->debt = -speed * SLACK_NS / 1e9;
    }
    if (speed <= 0) {
        l->debt = 0;
    }
    return l->debt > 0 ? (uint64_t)(l->debt * 1e9 / speed) + 1 : 0;
}

void job_limit_account(struct job_limit *l, uint64_t bytes)
{
    job_limit_delay(l);
    l->debt += (double)bytes;
}
