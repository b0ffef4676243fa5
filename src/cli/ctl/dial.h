/* SPDX-License-Identifier: BSD-2-Clause */
/* A connected socket to where a monitor is. */
#pragma once

#include "base/err.h"

#include <stdbool.h>

/* True: the path of a Unix socket, which *rest (borrowed) becomes; false: *rest becomes HOST:PORT. */
bool dial_is_unix(const char *address, const char **rest);
/* The socket, or a negative errno: ENOTCONN with the reason, also when nobody takes the connection within `timeout_ms`.
 */
int dial(const char *address, unsigned timeout_ms, struct err *e);
