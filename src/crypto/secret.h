/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Secrets (qom-type "secret"): data= or file=, format=raw|base64, optionally encrypted with another secret (keyid=,
 * iv=: AES-256-CBC with PKCS#7 padding, as QEMU's docs/system/secrets.rst has it).
 */
#pragma once

#include "base/objects.h"

struct secret {
    const unsigned char *data; /* ends with a zero byte that `len` does not count */
    size_t len;
};

extern const struct object_kind secret_kind; /* impl: struct secret * */
