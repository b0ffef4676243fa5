/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The qtest protocol (QEMU's docs/devel/testing/qtest.rst): lines of text by which a test program works guest memory
 * and registers and the guest's clock in place of harts (accel=qtest). Loop thread.
 *
 *     readb|readw|readl|readq ADDR         OK 0xVALUE          write ADDR SIZE 0xDATA    OK
 *     writeb|writew|writel|writeq ADDR V   OK                  memset ADDR SIZE BYTE     OK
 *     read ADDR SIZE                       OK 0xDATA           b64read, b64write         the same in base64
 *     clock_step [NS]                      OK NOW              clock_set NS              OK NOW
 *     endianness                           OK little           irq_intercept_in|out PATH OK
 *
 * After irq_intercept_* the harts' external interrupt inputs are told as "IRQ raise N" and "IRQ lower N" (N: the hart).
 * With machine "none" there are no registers and no memory: reads give 0.
 *
 * clock_step without NS steps one millisecond: there is no list of deadlines to go by.
 */
#pragma once

#include "base/err.h"

#include <stdio.h>

struct chardev;
struct qtest;
struct vm;

/*
 * Serves on c (borrowed). The machine is made. `log` (borrowed; NULL: none) gets every line with its time, as QEMU's
 * -qtest-log: "[R +0.000123] clock_step". NULL on error.
 */
struct qtest *qtest_create(struct vm *vm, struct chardev *c, FILE *log, struct err *e);
void qtest_destroy(struct qtest *q); /* before vm_destroy(); NULL is fine */
