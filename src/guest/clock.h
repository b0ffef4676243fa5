/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's clock: nanoseconds that pass only while the machine runs. Harts' `time` CSR, timers of devices and
 * the RTC derive from it. Any thread may read; start/stop on the loop thread with the harts stopped.
 * With qtest it moves only by guest_clock_step().
 */
#pragma once

#include "state/field.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct guest_clock {
    _Atomic int64_t offset_ns; /* running: guest = host monotonic + offset; stopped: guest = offset */
    _Atomic bool running;
    bool manual; /* qtest: never runs by itself */
};

/* The object is the struct guest_clock. After put its timers are due at other times of the host: their owners, put
 * afterwards, ask again. */
extern const struct state_section guest_clock_state;

void guest_clock_init(struct guest_clock *c, bool manual);
uint64_t guest_clock_ns(const struct guest_clock *c);
/* Host CLOCK_MONOTONIC nanosecond at which the guest's clock will read `guest_ns`; UINT64_MAX while stopped. */
uint64_t guest_clock_host_deadline(const struct guest_clock *c, uint64_t guest_ns);
void guest_clock_start(struct guest_clock *c);
void guest_clock_stop(struct guest_clock *c);
void guest_clock_set(struct guest_clock *c, uint64_t guest_ns);
void guest_clock_step(struct guest_clock *c, uint64_t ns);
