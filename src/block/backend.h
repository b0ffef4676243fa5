/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A backend: what a guest's disk device (or an export) holds of the block graph: a name, the edge to the node that
 * is its medium, the policy for I/O errors, the counters of query-blockstats.  Loop thread.
 *
 * `-drive id=X` names one X; one that a device makes for itself from a node name has the empty name and is
 * found by the device's id or path ("qdev"), as in QEMU.
 */
#pragma once

#include "block/acct.h"
#include "block/io.h"
#include "block/throttle.h"

enum io_error_action { IO_ERROR_REPORT, IO_ERROR_IGNORE, IO_ERROR_ENOSPC, IO_ERROR_STOP, IO_ERROR_AUTO };

struct backend_limit;

/* Somebody who wants to know when a medium is gone; told once. */
struct backend_watch {
    void (*ejected)(void *opaque); /* must not wait */
    void *opaque;
    GList link;              /* in backend->watches; data is this */
    struct backend *backend; /* NULL: it has been told, or watches nothing */
};

/* What the device that uses a backend is told; loop thread. Each may be NULL. */
struct backend_dev_ops {
    void (*resized)(void *dev);
    /* The tray was opened, or closed with or without a medium, not by the guest. */
    void (*medium)(void *dev, bool loaded);
    void (*eject_request)(void *dev, bool force); /* the guest is to let go; `force`: it is not asked */
};

struct backend {
    struct block_graph *graph;
    char *name;        /* "" when anonymous; owned */
    char *qdev;        /* device id, or its path when it has none; NULL while no device uses it; owned */
    char *qom_path;    /* of the part of the device that holds it: "…/disk0/virtio-backend"; like qdev */
    struct edge *root; /* NULL: no medium */
    enum io_error_action rerror, werror;
    const char *io_status; /* "ok", "failed", "nospace" */
    bool deleted;          /* it goes with the device that uses it */
    bool drained;          /* its medium is */
    bool removable, tray_open, locked, write_cache;
    bool only_reads, share_rw; /* as the device that uses it wants media */
    bool read_only_medium;     /* how the last one was opened, or one is to be */
    struct acct stats;
    struct backend_limit *limit; /* NULL: none */
    unsigned unlimited;          /* > 0: drained, or the device pauses: no request waits for the limit */
    void *dev;                   /* the device that uses it; NULL none */
    const struct backend_dev_ops *dev_ops;
    GQueue watches; /* struct backend_watch */
};

/* name may be NULL or "". Fails when the name is taken by a backend or a node. */
int backend_create(struct block_graph *g, const char *name, struct backend **out, struct err *e);
void backend_destroy(struct backend *b); /* [co]; NULL is fine */
/* Opens the root edge. [co] */
int backend_insert(struct backend *b, struct node *n, bool writable, bool share_rw, struct err *e);
/* A device has its medium from now on, and says what it and others may do to it. [co] */
int backend_claim(struct backend *b, bool writable, bool share_rw, struct err *e);
/* No device has it: whoever likes may use its medium. [co] */
void backend_share(struct backend *b);
void backend_eject(struct backend *b); /* [co] */
/* As `drive_del` does: the medium and the name go at once, the rest with the device that uses it, to which requests
 * fail from now on. [co] */
void backend_delete(struct backend *b);
/* Tells w when the medium that b has now is gone. */
void backend_watch(struct backend *b, struct backend_watch *w);
void backend_unwatch(struct backend_watch *w); /* legal at any time */
/* The group that limits the device's requests (held; NULL: none). Those that wait for another one now go at once. */
void backend_limit_by(struct backend *b, struct throttle_group *t);
struct throttle_group *backend_limits(const struct backend *b); /* NULL: none */
/* Waits until a request of `bytes` may go. [co] */
void backend_wait_turn(struct backend *b, bool is_write, uint64_t bytes);
/* While this was called with `on` more often than without, requests do not wait. */
void backend_hurry(struct backend *b, bool on);
/* The group `name`: an object, or one that another backend has, or a new one. Referenced. */
struct throttle_group *graph_limit_group(struct block_graph *g, const char *name);
/* The id of the device that has it, if that is the one that holds it, and has an id, else the path. NULL: none has. */
const char *backend_shown_qdev(const struct backend *b);
/* Whose medium the node is; NULL: nobody's. */
struct backend *backend_with(struct block_graph *g, const struct node *n);
/* By name, then by qdev id or QOM path, then by the end of a path ("disk0/virtio-backend"); NULL when none. */
struct backend *backend_find(struct block_graph *g, const char *name);
/* By the backend's names or the name of the node that is its root: how `device` arguments of block jobs are meant.
 * Error DeviceNotFound: "Device 'x' not found". */
struct backend *backend_lookup(struct block_graph *g, const char *device, struct err *e);
GPtrArray *graph_backends(struct block_graph *g); /* struct backend *, in order of creation */
