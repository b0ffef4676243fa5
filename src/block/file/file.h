/* SPDX-License-Identifier: BSD-2-Clause */
/* What the parts of the "file" and "host_device" drivers share. */
#pragma once

#include "block/driver.h"

enum { LOCKING_AUTO, LOCKING_ON, LOCKING_OFF };

struct file_lock {
    int fd;        /* borrowed; -1: no locking */
    unsigned perm; /* PERM_* bits that we hold a lock for */
    unsigned unshared;
};

/*
 * Advisory locks as QEMU takes them, so that both exclude each other: one byte per permission, open file description
 * locks, shared. Byte 100 + i: somebody uses permission bit i; byte 200 + i: somebody does not let others use it.
 */
int file_lock_init(struct file_lock *l, int fd, int mode, const char *path, struct err *e);
/* A program that was killed keeps its locks for as long as the kernel needs to end the requests that it had under way:
 * waits a fifth of a second at most for somebody who writes, or lets nobody write, to go. [co] */
void file_lock_settle(const struct file_lock *l, bool read_only);
/* Takes what is new, checks that nobody else objects, then drops what is not needed any more. All or nothing. */
int file_lock_update(struct file_lock *l, unsigned perm, unsigned shared, const char *path, struct err *e);

/* Whether somebody else has the file open to write to it, and holds such locks; false also when it cannot be told.
 * Blocks. */
bool file_lock_is_written(const char *path);

/* What we hold is held on `fd` instead from now on. Warns when it cannot be. */
void file_lock_move(struct file_lock *l, int fd, struct node *n);

struct file_state {
    int fd;
    bool is_device;
    bool no_zero_range, no_punch, no_discard, no_blkzeroout, no_copy;
    bool flush_failed; /* the kernel may have dropped dirty pages: no later flush can be trusted */
    struct file_lock lock;
    uint64_t data_start, data_end; /* a stretch known to be data, without holes */
};

/* Called for node `n` of either driver. */
int file_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out);
int file_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags);
int file_discard(struct node *n, uint64_t off, uint64_t len);
int file_copy_file(struct node *n, uint64_t off, uint64_t len, struct node *src, uint64_t soff);
int file_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e);
bool file_view(struct node *n, uint64_t off, struct node_view *v);
int file_cached_fd(struct node *n, uint64_t off, uint64_t len);
void file_start_writeback(struct node *n, uint64_t off, uint64_t len);
int file_create(struct block_graph *g, struct json_object *opts, struct err *e);
extern const struct create_option file_create_options[];
/* Bytes. Blocks. */
int file_device_size(int fd, uint64_t *size);
/* What zeroes and discards of a device must be multiples of. Blocks. */
void file_device_limits(int fd, struct block_limits *limits);
/* request_align and mem_align of an O_DIRECT descriptor. Blocks. */
int file_probe_align(int fd, bool is_device, struct block_limits *limits);
