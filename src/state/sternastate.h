/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * libsternastate: reading and writing the machine states that Sterna saves and sends. The format is described in
 * docs/stream-format.md.
 *
 * Every handle is one thread's at a time. Calls block. A function that returns int returns 0 or a positive answer, or
 * -1 after an error, whose text sternastate_error() has; the first error stays, and later calls fail with it. Texts are
 * UTF-8. What is said to be the caller's is given back by sternastate_free().
 *
 *     struct sternastate *s = sternastate_open("vm.state", &error);      or "-": standard input
 *     while (sternastate_next(s, &chunk) > 0) {
 *         if (chunk.kind == STERNASTATE_DEVICE) puts(sternastate_device(s));
 *     }
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define STERNASTATE_API_VERSION 1
#define STERNASTATE_PAGE_SIZE   4096
#define STERNASTATE_RUN_MAX     4096 /* pages of one run that has data */

/* The STERNASTATE_API_VERSION that the library was built with; it only grows, and nothing is taken away. */
int sternastate_api_version(void);
void sternastate_free(void *p);

/* --- reading ------------------------------------------------------------------------------------------------------ */

struct sternastate;

/* NULL: `*error` (may be NULL) is the caller's text. A file, a pipe's name, or "-" for standard input. */
struct sternastate *sternastate_open(const char *path, char **error);
/* An open descriptor, which stays the caller's; `name` is for messages. */
struct sternastate *sternastate_open_fd(int fd, const char *name, char **error);
void sternastate_close(struct sternastate *s); /* NULL is fine */
/* The text of the first error; "" when there was none. */
const char *sternastate_error(const struct sternastate *s);
/* The manifest, JSON: the machine, RAM blocks, disks, devices and the schemas of their values. */
const char *sternastate_manifest(const struct sternastate *s);

enum sternastate_kind {
    STERNASTATE_OTHER = 0, /* of an unknown type, or the index */
    STERNASTATE_DEVICE = 1,
    STERNASTATE_RAM = 2
};

struct sternastate_chunk {
    char type[5]; /* "DEVS" */
    int kind;
    uint64_t offset, length; /* of the chunk from the beginning; of its payload */
};

/* 1: the next chunk; 0: the stream is at its end, and complete and undamaged. */
int sternastate_next(struct sternastate *s, struct sternastate_chunk *out);
/* Of a device's chunk: {"path", "section", "version", "values", "subsections"} as JSON; the caller's; NULL: error. */
char *sternastate_device(struct sternastate *s);

enum sternastate_pages { STERNASTATE_ZERO = 0, STERNASTATE_RAW = 1, STERNASTATE_ZSTD = 2, STERNASTATE_SAME = 3 };

struct sternastate_run {
    uint32_t block; /* in the manifest's list "ram" */
    uint32_t kind;  /* enum sternastate_pages */
    uint64_t page, pages;
    uint64_t offset, bytes;           /* of the data in the stream; 0 bytes: there is none */
    uint64_t other_block, other_page; /* SAME */
};

/* Of a RAM chunk: 1: its next run; 0: that was all. */
int sternastate_next_run(struct sternastate *s, struct sternastate_run *out);
/* The run's pages (RAW or ZSTD): pages * STERNASTATE_PAGE_SIZE bytes to `dst`. */
int sternastate_run_data(struct sternastate *s, void *dst);
/* Reads to the end and checks everything: each checksum, each value against its schema, each compressed page. */
int sternastate_verify(struct sternastate *s);
/* Everything but the contents of RAM, as JSON, from here to the end; the caller's; NULL: error. */
char *sternastate_dump(struct sternastate *s);
/*
 * Pages at any place, where the stream is a file: `count` pages of a block from `page` on. Pages that the stream does
 * not hold are zero. Does not disturb sternastate_next().
 */
int sternastate_read_pages(struct sternastate *s, uint32_t block, uint64_t page, uint64_t count, void *dst);

/* --- writing ------------------------------------------------------------------------------------------------------ */

struct sternastate_writer;

enum sternastate_write_flags {
    STERNASTATE_ALIGNED = 1, /* pages lie at multiples of their size */
    STERNASTATE_INDEX = 2,   /* for readers that begin anywhere */
    STERNASTATE_COMPRESS = 4 /* pages, where it helps */
};

/* `manifest`: JSON as sternastate_manifest() gives it. The descriptor stays the caller's. NULL: `*error` is the text.
 */
struct sternastate_writer *sternastate_create(int fd, const char *name, const char *manifest, unsigned flags,
                                              char **error);
/* A device of the manifest, JSON as sternastate_device() gives it. */
int sternastate_write_device(struct sternastate_writer *w, const char *json);
/* `count` pages; those that hold nothing but zero cost nothing. */
int sternastate_write_pages(struct sternastate_writer *w, uint32_t block, uint64_t page, uint64_t count,
                            const void *data);
/* The end: without it the stream is incomplete. */
int sternastate_finish(struct sternastate_writer *w);
const char *sternastate_writer_error(const struct sternastate_writer *w);
void sternastate_writer_close(struct sternastate_writer *w); /* NULL is fine */

#ifdef __cplusplus
}
#endif
