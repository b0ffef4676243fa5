/* SPDX-License-Identifier: BSD-2-Clause */
/* The command of an exec: channel. Between channel*.c only. */
#pragma once

struct channel;

/* [co] Until it has ended: its status, as of waitpid(). Who was told to end by channel_break() and does not is killed.
 */
int channel_await_child(struct channel *ch);
