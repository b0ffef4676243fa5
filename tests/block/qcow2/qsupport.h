/* SPDX-License-Identifier: BSD-2-Clause */
/* What the tests of qcow2 share: images with every sort of geometry, a model of what they hold, outside judges. */
#pragma once

#include "support.h"

#include "block/qcow2/qcow2.h"

struct geometry {
    const char *name, *opts; /* create options as JSON members, with ' for " */
    bool backed;
};
extern const struct geometry geometries[];

/* Creates `path`; `more` are further options as members, beginning with a comma, or "". */
void create_image(struct bench *b, const char *path, uint64_t size, const struct geometry *g, const char *backing,
                  const char *more);
int try_create(struct bench *b, const char *path, const char *members, struct err *e);
struct node *open_image(struct bench *b, const char *path, const char *more);
void check_clean(struct node *n, bool allow_leaks);
/* `qemu-img check` finds nothing wrong; nothing is done where it is not installed. */
void outside_check(const char *path, bool allow_leaks);
bool have_qemu_img(void);
int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void invariants_hold(struct node *n);

/* An image and what it should hold. */
struct model {
    struct bench *b;
    struct node *n;
    struct edge *ed;
    uint8_t *want;
    uint64_t size, seed;
    bool no_compression;
};
void model_open(struct model *m, struct bench *b, const char *path, const char *more);
void model_close(struct model *m);
void model_step(struct model *m);   /* one random operation */
void model_verify(struct model *m); /* reads everything */
