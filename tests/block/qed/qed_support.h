/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tests of QED share: images on a memory disk, a model of what they hold, and their tables as they are. */
#pragma once

#include "support.h"

#include "block/qed/qed.h"
#include "memdisk.h"

struct shape {
    const char *name, *opts; /* create options as JSON members, with ' for ", beginning with a comma */
    bool peer_refuses;       /* QEMU cannot open tables of one cluster */
};
extern const struct shape shapes[];

/* An image on `disk`, over `base` unless that is NULL, and what it should hold. */
struct sample {
    struct bench *b;
    struct memdisk disk, base;
    struct node *file, *below, *n;
    struct edge *ed;
    uint8_t *want;
    uint64_t size, seed;
    const char *open; /* further options, beginning with a comma, or "" */
};

/* `base_size` 0: no backing image; else it is full of data. */
void sample_create(struct sample *s, const char *opts, uint64_t size, uint64_t base_size);
void sample_open(struct sample *s, bool read_only);
void sample_close(struct sample *s);
void sample_finish(struct sample *s);
void sample_write(struct sample *s, uint64_t off, uint64_t len);
void sample_step(struct sample *s); /* one random operation */
void sample_verify(struct sample *s);
/* Runs the check, which must end well; what it found. */
struct check_result sample_check(struct sample *s, unsigned fix);
void sample_check_clean(struct sample *s);

uint64_t disk_le64(const struct memdisk *d, uint64_t off);
void disk_put_le64(struct memdisk *d, uint64_t off, uint64_t value);
uint64_t disk_features(const struct memdisk *d);
bool have_qemu(void);
int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
