/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A view: what a node holds, seen in memory where the host has it cached, instead of read into a buffer. Writing a view
 * elsewhere costs one copy where reading and writing cost two.
 *
 * A view may show the old or the new bytes of what is written meanwhile, like a read that runs beside a write. Only the
 * kernel may look at its bytes (a system call that gets -EFAULT: read instead): a file that somebody cut short would
 * end the program otherwise. Loop thread; does not wait.
 */
#pragma once

#include "block/graph.h"

struct node_view {
    void *data;   /* [off, off + len) of the node */
    uint64_t len; /* bytes, at least 1 */
    void *map;    /* private: what is to be unmapped */
    uint64_t map_len;
};

/* Views as much of [off, off + len) as is there in one piece, in whatever layer of the chain. False when there is
 * nothing to see: not data of that layer's own file, compressed, not cached, filters in between. [co] */
bool node_view_open(struct node *n, uint64_t off, uint64_t len, struct node_view *v);
void node_view_close(struct node_view *v);
/*
 * For sendfile(): the host's file that holds [off, off + len) in one piece, all of it cached, and where in it; -1:
 * there is none. The descriptor is borrowed, and good until the caller waits. [co]
 */
int node_cached_fd(struct node *n, uint64_t off, uint64_t len, uint64_t *fd_off);
/*
 * Starts what is cached of [off, off + len) on its way to the disk, without waiting for it to get there: a flush that
 * comes later finds little to do. For those who write much that nobody will write again soon. [co]
 */
void node_start_writeback(struct node *n, uint64_t off, uint64_t len);
/* Whether a write to this node hands the bytes on to the kernel without looking at them. */
bool node_passes_views(struct node *n);
