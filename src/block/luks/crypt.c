/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/luks/crypt.h"

#include "base/checked.h"

#include <stdlib.h>

enum { PIECES_AT_A_TIME = 6 };

struct piece {
    const struct crypt_run *r;
    const struct iovs *v;
    bool encrypt;
    size_t voff;
    uint64_t at, len; /* of the run */
    uint8_t *buf;     /* ciphertext */
};

/* The element with byte `voff`, and what is left of it from there. */
static size_t element(const struct iovs *v, int *i, size_t *skip)
{
    while (*skip >= v->iov[*i].iov_len) {
        *skip -= v->iov[*i].iov_len;
        ++*i;
    }
    return v->iov[*i].iov_len - *skip;
}

/* A sector that lies in more than one element. */
static void split_sector(const struct piece *p, uint64_t sector, uint8_t *cipher, size_t voff)
{
    uint8_t plain[CIPHER_SECTOR];
    if (p->encrypt) {
        iovs_to_buf(p->v, voff, plain, sizeof(plain));
        cipher_encrypt(p->r->cipher, sector, cipher, plain, sizeof(plain));
    } else {
        cipher_decrypt(p->r->cipher, sector, plain, cipher, sizeof(plain));
        iovs_from_buf(p->v, voff, plain, sizeof(plain));
    }
}

static int piece_work(void *arg)
{
    struct piece *p = arg;
    uint64_t sector = p->r->sector + p->at / CIPHER_SECTOR;
    size_t skip = p->voff, n;
    int i = 0;
    for (size_t done = 0; done < p->len; done += n, skip += n, sector += n / CIPHER_SECTOR) {
        size_t here = element(p->v, &i, &skip);
        n = MIN(round_down(here, CIPHER_SECTOR), p->len - done);
        uint8_t *plain = (uint8_t *)p->v->iov[i].iov_base + skip;
        if (n == 0) {
            n = CIPHER_SECTOR;
            split_sector(p, sector, p->buf + done, p->voff + done);
        } else if (p->encrypt) {
            cipher_encrypt(p->r->cipher, sector, p->buf + done, plain, n);
        } else {
            cipher_decrypt(p->r->cipher, sector, plain, p->buf + done, n);
        }
    }
    return 0;
}

static void piece_crypt(struct piece *p)
{
    if (p->len <= CRYPT_INLINE) {
        piece_work(p);
    } else {
        co_work(piece_work, p);
    }
}

static int piece_run(struct piece *p)
{
    p->buf = block_buf_alloc(p->r->file, p->len);
    if (!p->buf) {
        return -ENOMEM;
    }
    struct iovec iov;
    struct iovs v = IOVS_BUF(&iov, p->buf, p->len);
    if (p->encrypt) {
        piece_crypt(p);
    }
    int rc = p->r->io(p->r->opaque, p->r->off + p->at, &v);
    if (rc == 0 && !p->encrypt) {
        piece_crypt(p);
    }
    free(p->buf);
    return rc;
}

/* --- several pieces --------------------------------------------------------------------------------------------- */

struct fan {
    struct co *parent;
    unsigned pending;
    bool waiting;
    int rc;
};
struct fan_piece {
    struct piece piece;
    struct fan *fan;
};

static void fan_piece_run(void *arg)
{
    struct fan_piece *p = arg;
    struct fan *f = p->fan;
    int rc = piece_run(&p->piece);
    f->rc = f->rc ? f->rc : rc;
    g_free(p);
    f->pending--;
    if (f->waiting) {
        f->waiting = false;
        co_wake(f->parent);
    }
}

static void fan_wait(struct fan *f, unsigned below)
{
    while (f->pending >= below) {
        f->waiting = true;
        co_wait();
    }
}

static int run(const struct crypt_run *r, const struct iovs *v, size_t voff, bool encrypt)
{
    struct piece p = {.r = r, .v = v, .encrypt = encrypt, .voff = voff, .len = r->len};
    if (r->len <= CRYPT_PIECE) {
        return piece_run(&p);
    }
    struct fan f = {.parent = co_self()};
    for (; p.at < r->len && f.rc == 0; p.at += CRYPT_PIECE, p.voff += CRYPT_PIECE) {
        struct fan_piece *part = g_new(struct fan_piece, 1);
        p.len = min_u64(r->len - p.at, CRYPT_PIECE);
        *part = (struct fan_piece){p, &f};
        f.pending++;
        co_start(co_loop(), fan_piece_run, part);
        fan_wait(&f, PIECES_AT_A_TIME);
    }
    fan_wait(&f, 1);
    return f.rc;
}

int crypt_read(const struct crypt_run *r, const struct iovs *v, size_t voff)
{
    return run(r, v, voff, false);
}

int crypt_write(const struct crypt_run *r, const struct iovs *v, size_t voff)
{
    return run(r, v, voff, true);
}
