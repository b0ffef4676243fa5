/* SPDX-License-Identifier: BSD-2-Clause */
/* What a client sends, read in as large pieces as there are. */
#include "export/nbd/int.h"

#include "base/checked.h"

#include <string.h>

/* A request's header and a few more behind a long payload: what lies here must be copied once again. */
enum { BEHIND_PAYLOAD = 512, LONG_PAYLOAD = 32 << 10 };

int nbs_fill(struct nbs_client *c, size_t need)
{
    if (c->pos == c->end) {
        c->pos = c->end = 0;
    } else if (NBS_INPUT - c->pos < need) {
        memmove(c->in, c->in + c->pos, c->end - c->pos);
        c->end -= c->pos;
        c->pos = 0;
    }
    while (c->end - c->pos < need) {
        struct iovec iov = {c->in + c->end, NBS_INPUT - c->end};
        ssize_t n = nbs_recv(&c->ch, &iov, 1);
        if (n <= 0) {
            return n ? (int)n : -EPIPE;
        }
        c->end += (size_t)n;
    }
    return 0;
}

static size_t take_buffered(struct nbs_client *c, uint8_t *to, uint64_t len)
{
    size_t n = min_u64(len, c->end - c->pos);
    if (to) {
        memcpy(to, c->in + c->pos, n);
    }
    c->pos += n;
    return n;
}

int nbs_read(struct nbs_client *c, void *buf, size_t len)
{
    uint8_t *to = buf;
    size_t n = take_buffered(c, to, len);
    while (n < len) { /* straight to where it belongs, and what follows into the emptied input */
        c->pos = c->end = 0;
        struct iovec iov[2] = {{to + n, len - n}, {c->in, len - n >= LONG_PAYLOAD ? BEHIND_PAYLOAD : NBS_INPUT}};
        ssize_t got = nbs_recv(&c->ch, iov, 2);
        if (got <= 0) {
            return got ? (int)got : -EPIPE;
        }
        c->end = (size_t)got > len - n ? (size_t)got - (len - n) : 0;
        n += (size_t)got - c->end;
    }
    return 0;
}

int nbs_skip(struct nbs_client *c, uint64_t len)
{
    for (;;) {
        len -= take_buffered(c, NULL, len);
        if (!len) {
            return 0;
        }
        int rc = nbs_fill(c, 1);
        if (rc < 0) {
            return rc;
        }
    }
}
