/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/objects.h"
#include "export/nbd/nbd.h"

int nbd_find_credentials(struct object_registry *r, const char *id, bool server, struct tls_creds **out, struct err *e)
{
    *out = object_registry_lookup(r, "tls-creds", id);
    if (*out) {
        return tls_creds_check_endpoint(*out, server, e);
    }
    return object_registry_props(r, id) ? err_set(e, EINVAL, "Object with id '%s' is not TLS credentials", id)
                                        : err_set(e, ENOENT, "No TLS credentials with id '%s'", id);
}
