/* SPDX-License-Identifier: BSD-2-Clause */
/* What the targets for image formats share: an image in memory, opened and used as its own bytes have it. */
#pragma once

#include "block/memdisk.h" /* tests/ */

#include "block/graph.h"

/* The secrets that every graph knows. */
#define FUZZ_SECRET       "key"
#define FUZZ_PASSWORD     "open sesame"
#define FUZZ_OTHER_SECRET "other"

struct input {
    const uint8_t *data;
    size_t size; /* at least 1 */
    struct block_graph *graph;
    struct edge *ed; /* while a node is in use */
    uint8_t *buf;    /* FUZZ_BUF bytes; likewise */
    bool sound;      /* the image was, and so it must stay */
};

enum { FUZZ_BUF = 128 << 10 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs fn with a graph of the input's own. Threads and stacks are kept from one input to the next. */
void fuzz_run(struct input *in, void (*fn)(struct input *in));
/* Counted from the end, again and again: what is done with an image is up to its last bytes. */
uint8_t fuzz_byte(const struct input *in, size_t i);
/* Options as printf makes them, in single quotes; NULL: it does not open. */
struct node *fuzz_open(struct input *in, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
struct json_object *fuzz_options(const char *text);

/* Describes n, walks over its extents, reads and, if it is writable, writes. Then calls `more`, which may be NULL. */
void fuzz_use(struct input *in, struct node *n, void (*more)(struct input *in, struct node *n));
void fuzz_read(struct input *in);
/* True: the check ended, and nothing but leaks is wrong with the image. */
bool fuzz_check(struct node *n, unsigned fix);
/* Of an image that was sound before it was used: so it must be now. */
void fuzz_still_sound(struct node *n);

/* --- luks_file.c --- */
/* A LUKS header that is in `file`, which has `size` bytes: costs little to unlock, and FUZZ_PASSWORD does, if its
 * fields make sense. */
void luks_file_keys(uint8_t *file, size_t size);
/* Options that change the volume's keys, as byte b has it. */
struct json_object *luks_file_change(uint8_t b);
