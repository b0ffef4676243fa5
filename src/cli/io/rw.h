/* SPDX-License-Identifier: BSD-2-Clause */
/* What the commands that read and write have in common: options, and one request with its buffer. */
#pragma once

#include "cli/io/io.h"

/* --- requests --------------------------------------------------------------------------------------------------- */

struct io_request {
    struct io *io;
    uint64_t offset, bytes;
    struct iovs iov; /* owned with the buffer; empty: none */
    uint8_t *memory; /* as allocated; freed by io_request_finish() */
    int pattern;     /* of reads: to compare with; -1: none */
    unsigned flags;  /* REQ_* */
    bool vmstate, dump;
    struct io_report report;
};
/* One buffer of argv's lengths, filled with `fill`; false after a message. */
bool io_request_init(struct io_request *r, struct io *io, char **lengths, int n, int fill);
void io_request_finish(struct io_request *r);
int io_request_read(struct io_request *r);
int io_request_write(struct io_request *r);
int io_request_zero(struct io_request *r);
int io_request_discard(struct io_request *r);
/* Compares [at, at + len) of the buffer with the pattern; false after a message. */
bool io_request_verify(const struct io_request *r, uint64_t at, uint64_t len);

/* --- options ---------------------------------------------------------------------------------------------------- */

struct rw_args {
    unsigned flags; /* REQ_* */
    bool vmstate, zero, dump, compact, quiet, invalid;
    int pattern;        /* -1: not given */
    const char *source; /* a file to write the bytes of; NULL: none */
    bool check_at_given, check_len_given;
    uint64_t check_at, check_len; /* the part of what was read to compare with the pattern */
    char **operands;              /* at least two, in argv */
    int n_operands;
};
/* `reads`: "-s" is an offset and not a file. 0, or negative after a message. With `invalid` set nothing more was read.
 */
int rw_parse(struct io *io, const struct opt_spec *specs, int argc, char **argv, bool reads, struct rw_args *a);
