/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * UART 16550A (National Semiconductor PC16550D data sheet), registers one byte apart.
 *
 *   0 RBR / THR / DLL   1 IER / DLM   2 IIR / FCR   3 LCR   4 MCR   5 LSR   6 MSR   7 SCR
 *
 * Bytes that the guest sends wait in a ring until the host side has taken them; while it is nearly full the
 * transmitter says it is busy, so nothing is lost and nobody waits. Received bytes below the trigger level
 * interrupt at once, as if the timeout had passed: there is no baud rate here whose time could be counted.
 * Register accesses on the hart's thread under the UART's mutex, the host side on the loop.
 */
#pragma once

#include "device/board.h"
#include "state/field.h"

struct chardev;
struct uart;

struct uart *uart_create(struct board *b, uint64_t gpa, struct irq_line irq, struct err *e);
void uart_destroy(struct uart *u); /* NULL is fine */
void uart_reset(struct uart *u);
/* Speaks through `c` (borrowed) from now on; NULL: what the guest sends is dropped. */
int uart_connect(struct uart *u, struct chardev *c, struct err *e);
/* Another way in to the same wire, for SBI's debug console. Any thread; bytes taken / given. */
size_t uart_console_write(struct uart *u, const uint8_t *buf, size_t len);
size_t uart_console_read(struct uart *u, uint8_t *buf, size_t len);

/* The host side, for tests and for what is not a chardev. Loop thread. */
size_t uart_can_receive(struct uart *u);
void uart_receive(struct uart *u, const uint8_t *buf, size_t len);

/* The object is the struct uart. Bytes that the guest has sent and the host side has not taken are part of it. */
extern const struct state_section uart_state;
