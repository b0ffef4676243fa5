/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/io.h"

#include "base/checked.h"

#include <string.h>

/* Calls `body` with p and part for each stretch of [voff, voff + len). */
#define FOR_EACH_PART(v, voff, len, ...)                                                                               \
    for (int i_ = 0; i_ < (v)->n && (len); i_++) {                                                                     \
        size_t size_ = (v)->iov[i_].iov_len;                                                                           \
        if ((voff) >= size_) {                                                                                         \
            (voff) -= size_;                                                                                           \
            continue;                                                                                                  \
        }                                                                                                              \
        uint8_t *p = (uint8_t *)(v)->iov[i_].iov_base + (voff);                                                        \
        size_t part = MIN(size_ - (voff), (len));                                                                      \
        __VA_ARGS__;                                                                                                   \
        (voff) = 0;                                                                                                    \
        (len) -= part;                                                                                                 \
    }

size_t iovs_to_buf(const struct iovs *v, size_t voff, void *buf, size_t len)
{
    uint8_t *out = buf;
    FOR_EACH_PART(v, voff, len, {
        memcpy(out, p, part);
        out += part;
    })
    return (size_t)(out - (uint8_t *)buf);
}

size_t iovs_from_buf(const struct iovs *v, size_t voff, const void *buf, size_t len)
{
    const uint8_t *in = buf;
    FOR_EACH_PART(v, voff, len, {
        memcpy(p, in, part);
        in += part;
    })
    return (size_t)(in - (const uint8_t *)buf);
}

void iovs_fill(const struct iovs *v, size_t voff, int byte, size_t len)
{
    FOR_EACH_PART(v, voff, len, memset(p, byte, part))
}

bool iovs_is_zero(const struct iovs *v, size_t voff, size_t len)
{
    FOR_EACH_PART(v, voff, len, {
        if (!buf_is_zero(p, part)) {
            return false;
        }
    })
    return true;
}

int iovs_window(const struct iovs *v, size_t voff, size_t len, struct iovec *out, int max, size_t *got)
{
    int n = 0;
    *got = 0;
    FOR_EACH_PART(v, voff, len, {
        if (n == max) {
            break;
        }
        out[n++] = (struct iovec){p, part};
        *got += part;
    })
    return n;
}

void iovs_slice(struct iovs *out, const struct iovs *v, size_t voff, size_t len)
{
    out->iov = g_new(struct iovec, MAX(v->n, 1));
    out->n = iovs_window(v, voff, len, out->iov, v->n, &out->size);
}

void iovs_finish(struct iovs *v)
{
    g_free(v->iov);
    *v = (struct iovs){0};
}

void iovs_skip(struct iovs *v, size_t len)
{
    while (len && v->n) {
        size_t n = min_u64(len, v->iov->iov_len);
        v->iov->iov_base = (char *)v->iov->iov_base + n;
        v->iov->iov_len -= n;
        v->size -= n;
        len -= n;
        if (!v->iov->iov_len) {
            v->iov++;
            v->n--;
        }
    }
}
