/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Encrypted payloads: reads and writes whose data is plain above and ciphertext below. Ciphertext only ever lies in
 * buffers of our own: a guest sees none, and what it changes meanwhile changes nothing but its own data.
 *
 * A request is cut into pieces of CRYPT_PIECE bytes, several of which are under way at a time, so that reading one goes
 * on while others are decrypted. Up to CRYPT_INLINE bytes are worked on at once on the loop thread (some microseconds
 * with AES instructions); more is handed to worker threads.
 */
#pragma once

#include "block/io.h"
#include "crypto/cipher.h"

enum { CRYPT_PIECE = 256 << 10, CRYPT_INLINE = 64 << 10 };

/* The whole of v, at `off` of wherever the ciphertext is. 0 or negative errno. [co] */
typedef int crypt_io_fn(void *opaque, uint64_t off, const struct iovs *v);

struct crypt_run {
    const struct cipher *cipher;
    crypt_io_fn *io;
    void *opaque;
    struct node *file; /* whose alignment of memory the buffers must have */
    uint64_t off;      /* of the ciphertext */
    uint64_t sector;   /* the number that the first one is encrypted with */
    uint64_t len;      /* whole sectors */
};
/* The plain data is at `voff` of v. [co] */
int crypt_read(const struct crypt_run *r, const struct iovs *v, size_t voff);
int crypt_write(const struct crypt_run *r, const struct iovs *v, size_t voff);
