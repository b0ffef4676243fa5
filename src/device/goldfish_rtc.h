/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Goldfish real-time clock (Android's goldfish hardware document): nanoseconds since 1970 as two 32-bit words, and
 * an alarm.
 *
 *   0x00 TIME_LOW   reading it latches TIME_HIGH; writing sets the time together with TIME_HIGH written before
 *   0x04 TIME_HIGH  0x08 ALARM_LOW (writing arms)  0x0c ALARM_HIGH  0x10 IRQ_ENABLED
 *   0x14 CLEAR_ALARM  0x18 ALARM_STATUS (armed)  0x1c CLEAR_INTERRUPT
 *
 * Time is the guest's clock plus an offset, which is the device's state: it starts as the host's time of day, or ahead
 * of that as an earlier guest had set it. Setting it is done when the state file says so (board.h, changed()): until
 * then the harts are held (guest/hold.h); when it cannot be written, the time is again what it was.
 */
#pragma once

#include "device/board.h"
#include "state/field.h"

struct goldfish_rtc;

struct goldfish_rtc *goldfish_rtc_create(struct board *b, uint64_t gpa, struct irq_line irq, struct err *e);
void goldfish_rtc_destroy(struct goldfish_rtc *r); /* [co] once the guest has set it; NULL is fine */
/* Nanoseconds by which its time is ahead of the host's, as the guest set it last: 0, it never did. */
void goldfish_rtc_set_ahead(struct goldfish_rtc *r, int64_t ns); /* before the machine runs */
int64_t goldfish_rtc_ahead(struct goldfish_rtc *r);
void goldfish_rtc_reset(struct goldfish_rtc *r); /* the time goes on */
/* The guest's clock was started, stopped or set: the alarm is due at another time of the host. Loop thread. */
void goldfish_rtc_clock_changed(struct goldfish_rtc *r);
/* The object is the struct goldfish_rtc. */
extern const struct state_section goldfish_rtc_state;
