/* SPDX-License-Identifier: BSD-2-Clause */
/* A channel under TLS. */
#pragma once

#include "crypto/tls.h"
#include "move/channel.h"

/*
 * [co] *ch, a connected socket, becomes one whose bytes are encrypted, and the peer is who it must be. Also with an
 * error *ch is the caller's to break and close, and after EPERM to a server it can still say why. `hostname` and
 * `authz`: tls_session_create().
 */
int channel_start_tls(struct channel **ch, struct tls_creds *creds, const char *hostname, struct authz *authz,
                      uint64_t deadline_ns, struct err *e);
