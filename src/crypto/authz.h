/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Objects that say whether somebody may connect, judged by an identity: the distinguished name of a certificate, or the
 * user name of a pre-shared key.
 *
 *   authz-simple    identity=NAME: this one alone
 *   authz-list      rules (match=, policy=allow|deny, format=exact|glob): the first that matches decides, else policy=
 *   authz-listfile  the same from a JSON file; refresh=on (default) reads it again when it has changed
 *
 * Properties and the file's layout are those of QEMU's docs/system/authz.rst. Loop thread.
 */
#pragma once

#include "base/objects.h"

struct authz;

/* A file that has become unreadable or wrong leaves the last rules that were right in force. */
bool authz_is_allowed(struct authz *a, const char *identity);
/* Objects live on until the last user is gone; object-del of a used one is refused. */
struct authz *authz_ref(struct authz *a);
void authz_unref(struct authz *a); /* NULL is fine */

extern const struct object_kind authz_simple_kind, authz_list_kind, authz_listfile_kind;
