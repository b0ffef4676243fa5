/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a format, protocol or filter driver is: one const struct, registered in block_drivers[] (block/drivers.c).
 *
 * The core has checked range, permissions and alignment (limits.request_align) before each callback, splits by
 * max_transfer, tracks, counts and marks dirt; drivers never do. All callbacks run as coroutines on the loop thread and
 * may be entered many at a time. Control path: struct err; data path: negative errno. NULL members are emulated
 * or refused by the core.
 */
#pragma once

#include "block/graph.h"
#include "block/io.h"

struct node_reopen;
struct node_view;
struct snapshot;
struct dirty_bitmap;

enum probe_result { PROBE_NO = 0, PROBE_WEAK = 1, PROBE_YES = 100 };

enum { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };
extern const char *const prealloc_names[]; /* "off" "metadata" "falloc" "full" NULL */

struct check_result {
    uint64_t corruptions, leaks, check_errors, corruptions_fixed, leaks_fixed;
    uint64_t image_end_offset, total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    bool have_fragmentation;
    GString *text; /* human messages, a line each: "ERROR …", "Leaked cluster …"; may be NULL */
};
enum { CHECK_FIX_LEAKS = 1, CHECK_FIX_ERRORS = 2 };
/* For drivers that put right, when it is opened, an image that was not closed: tells what was found and done, if
 * anything was; what r->text says first, as far as a person would read. */
void node_report_repair(struct node *n, const struct check_result *r);

/* One `-o` option of create, for `-o help` and for checking. */
struct create_option {
    const char *name, *type; /* type as QEMU prints it: "size", "str", "bool (on/off)", "num" */
    const char *help;
    bool ours; /* nothing that QEMU has: not in the help of a tool that goes by its name */
};

struct driver_info {       /* what query-block and image tools show */
    uint32_t cluster_size; /* 0: none */
    int64_t vm_state_offset;
    bool is_dirty, encrypted;
    bool copy_on_read; /* the image asks whoever opens it for a guest to copy what is read from its backing */
};

/* Through filters and raw; -ENOTSUP: nothing is known. [co] */
int node_get_info(struct node *n, struct driver_info *out);

struct amend_progress {
    void (*fn)(void *opaque, uint64_t done, uint64_t total);
    void *opaque;
};

/* What a new image would need: bytes of its file. */
struct measure_result {
    uint64_t required, fully_allocated;
    bool has_bitmaps;
    uint64_t bitmaps; /* of the source's persistent bitmaps */
};

struct block_driver {
    const char *name; /* "qcow2": the value of "driver" */
    size_t priv_size;
    bool is_filter; /* passes through to one child: n->file (or n->backing when filter_backing) */
    bool filter_backing;
    bool children_alike; /* each child holds what it shows (quorum): a copy of it may take one's place */
    bool own_size;       /* a filter that does not follow its child's size */
    bool is_protocol;    /* opens a filename by itself ("file", "nbd") */
    bool takes_backing;
    bool prefetches; /* read understands REQ_PREFETCH, also without buffers (v NULL) */
    bool can_be_created;
    bool passes_perms; /* not a filter, but n->file is used just as n is (raw) */
    /* Accepted driver options besides the common ones, NULL-terminated; "file" (formats, filters) and "backing"
     * (takes_backing) need no mention. */
    const char *const *option_names;
    /* Those of option_names that change what is read: a format's node that was given one cannot be opened by the name
     * of its file alone, and is called "json:{…}". "a.b": b of the object a. Filters and protocols: all of them.
     * NULL-terminated; NULL: none. */
    const char *const *strong_options;
    /* Protocols: what comes before the colon of file names that it opens ("nbd", "nbd+unix"), NULL-terminated; and how
     * such a name becomes options. NULL: none / options.filename = the whole name. */
    const char *const *schemes;
    int (*parse_filename)(const char *filename, struct json_object *options, struct err *e);
    /* A driver that is no protocol but has schemes: the name by which an open node can be opened again; NULL: only its
     * options can say it. Not called while a child has only options. g_malloc'd. */
    char *(*plain_name)(struct node *n);

    /* mine (PROBE_YES), not mine, or: looks like mine but is broken → rc < 0 with text. */
    int (*probe)(const uint8_t *buf, size_t len, const char *filename, struct err *e);
    /*
     * options: all of them; the driver opens its children with node_open_child(). Sets n->size, limits, filename (a
     * parent of a "file" gets the child's filename if it sets none). request_align 0 means 1; n->size need not be a
     * multiple of it: the last read and write may reach up to round_up(size, request_align). When it fails it has
     * released what priv holds: close is not called; the core detaches the children.
     */
    int (*open)(struct node *n, struct json_object *options, struct err *e);
    /* Flushed and idle before; the core detaches the children after. */
    void (*close)(struct node *n);
    /*
     * block/inactive.h; all with the node drained, NULL: nothing is to be done. inactivate: the image is as after
     * close, and nothing is written of the driver's own accord until activate, which does what a writable image needs
     * (not for nodes that are read-only; also when inactivating did not come about). read_again: others may have
     * changed the image; what is known of it is read anew, and nothing written; when it fails it can be called again.
     */
    int (*inactivate)(struct node *n, struct err *e);
    int (*read_again)(struct node *n, struct err *e);
    int (*activate)(struct node *n, struct err *e);
    /*
     * block/reopen.h. Options of its own that can change while it is open, NULL-terminated; NULL: it cannot be
     * reopened. prepare makes r->priv for r->as and changes nothing; swap exchanges that with what is in use, and back
     * if something fails later; activate does what a writable file is needed for; finish releases r->priv.
     */
    const char *const *reopen_names;
    int (*reopen_prepare)(struct node *n, struct node_reopen *r, struct err *e);
    void (*reopen_swap)(struct node *n, struct node_reopen *r);
    int (*reopen_activate)(struct node *n, struct node_reopen *r, struct err *e);
    void (*reopen_finish)(struct node *n, struct node_reopen *r);
    /* opts: BlockdevCreateOptions of this driver without "driver"; "file" is a node name or an object or filename. */
    int (*create)(struct block_graph *g, struct json_object *opts, struct err *e);
    const struct create_option *create_options;
    /* opts: as for create, "size" set unless `source` (may be NULL) is given. */
    int (*measure)(struct block_graph *g, struct json_object *opts, struct node *source, struct measure_result *r,
                   struct err *e);
    /* opts: BlockdevAmendOptions without "driver", or amend_options' names. `force`: also what may lose data (luks: the
     * last key). Calls progress(opaque, done, total) now and then when it is not NULL. Nobody writes meanwhile, unless
     * it is about keys alone. [co] */
    int (*amend)(struct node *n, struct json_object *opts, bool force, const struct amend_progress *progress,
                 struct err *e);
    const struct create_option *amend_options; /* the names as of create, those that can change */

    int (*read)(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
    int (*write)(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags);
    int (*write_compressed)(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
    int (*zero)(struct node *n, uint64_t off, uint64_t len, unsigned flags); /* -ENOTSUP: core writes zeroes */
    /* A write of what the host file below `src`, a protocol's node, has at soff. -ENOTSUP: not this way, nothing
     * changed; other errors as of a write. */
    int (*copy_file)(struct node *n, uint64_t off, uint64_t len, struct node *src, uint64_t soff);
    int (*discard)(struct node *n, uint64_t off, uint64_t len);
    /* A protocol's file data in memory (block/view.h): fills the view of v->len bytes at `off`, or says no. */
    bool (*view)(struct node *n, uint64_t off, struct node_view *v);
    /* Of a protocol: the host's file whose bytes are the node's at the same places; borrowed. */
    int (*host_fd)(struct node *n);
    int (*cached_fd)(struct node *n, uint64_t off, uint64_t len);        /* of a protocol: block/view.h; same offset */
    void (*start_writeback)(struct node *n, uint64_t off, uint64_t len); /* of a protocol: block/view.h */
    int (*flush)(struct node *n); /* to stable storage, children included by the driver's own order */
    int (*status)(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out);
    int (*truncate)(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e);
    /* Allocated bytes on the host for ImageInfo "actual-size"; negative errno unknown. */
    int64_t (*allocated_size)(struct node *n);
    int (*get_info)(struct node *n, struct driver_info *out);
    struct json_object *(*specific_info)(struct node *n); /* ImageInfoSpecific; NULL none */
    int (*check)(struct node *n, struct check_result *r, unsigned fix, struct err *e);
    /* Rewrites the backing link in the header; NULL file = none. */
    int (*change_backing)(struct node *n, const char *file, const char *format, struct err *e);
    /* Forgets all that this layer has, so that its backing shows through; the size stays. */
    int (*make_empty)(struct node *n);

    /* Internal snapshots (block/snapshot.h says what each does); ids are exact, and were found by list. */
    int (*snapshot_list)(struct node *n, GPtrArray *out); /* adds struct snapshot *, owned by `out` */
    int (*snapshot_create)(struct node *n, struct snapshot *s, struct err *e);
    int (*snapshot_apply)(struct node *n, const char *id, struct err *e);
    int (*snapshot_delete)(struct node *n, const char *id, struct err *e);
    int (*snapshot_show)(struct node *n, const char *id, struct err *e);
    const struct snapshot_state_ops *state_ops;
    int (*vmstate_read)(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);
    int (*vmstate_write)(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff);

    /*
     * Persistent bitmaps (block/dirty.h). open() makes a dirty_bitmap with `persistent` set of each that the image
     * holds; close() (and bitmaps_store, for an image that is handed over while it stays open) writes them back. A
     * driver without these has none. [co]
     */
    int (*bitmap_can_store)(struct node *n, const char *name, uint32_t granularity, struct err *e);
    /* b's bits as they are are durable in the image, which says that it is `enabled`; b may be new to the image. */
    int (*bitmap_store)(struct node *n, struct dirty_bitmap *b, bool enabled, struct err *e);
    int (*bitmap_remove)(struct node *n, struct dirty_bitmap *b, struct err *e); /* from the image; b stays */
    int (*bitmaps_store)(struct node *n, struct err *e);
    /* Before a write, zero or discard of the range reaches the driver: what it makes dirty must be marked durably
     * first. Called only while the node has an enabled persistent bitmap with a clean granule in the range. */
    int (*bitmaps_intend)(struct node *n, uint64_t off, uint64_t len);

    /* x-blockdev-change: another child, or one less. NULL: refused. [co] */
    int (*add_child)(struct node *n, struct node *child, struct err *e);
    int (*remove_child)(struct node *n, struct edge *child, struct err *e);

    /* Which children an edge's parent wants to be told by; filters that must know of drains. */
    void (*drain_begin)(struct node *n);
    void (*drain_end)(struct node *n);
    /* As node_set_patience(). NULL: passed on to all children but the backing image. */
    void (*set_patience)(struct node *n, bool patient);
    void (*child_resized)(struct node *n); /* n->file has another size; not for filters, which always follow */
    bool (*supports_fua)(struct node *n);  /* write honours REQ_FUA itself, else core flushes after */
    /* What the parents together use and share has changed (locks). Does not wait; a failure refuses the change. */
    int (*set_perm)(struct node *n, unsigned perm, unsigned shared, struct err *e);
    void (*debug_event)(struct node *n, const char *event); /* blkdebug only; [co] */
    const struct snapshot_fill_ops *fill_ops;               /* NULL: what is in snapshots stays as it is */
};

/*
 * A snapshot with the machine's state (struct snapshot_state in block/snapshot.h says what each does); `priv` is the
 * driver's. begin, finish and cancel find the node drained, destroy comes after finish or cancel. All [co].
 */
struct snapshot_state_ops {
    int (*create)(struct node *n, const struct snapshot *s, void **priv, struct err *e);
    int (*replace)(struct node *n, const char *id, void **priv, struct err *e); /* no begin */
    int (*begin)(void *priv, uint64_t vm_clock_nsec, struct err *e);
    int (*write)(void *priv, uint64_t off, uint64_t len, const void *buf);
    int (*settle)(void *priv, struct err *e); /* before finish, not drained: what takes long */
    int (*finish)(void *priv, uint64_t size, struct err *e);
    int (*revert)(void *priv, struct err *e); /* the disk is again as at begin; then cancel */
    int (*cancel)(void *priv);
    int (*open)(struct node *n, const char *id, void **priv, struct err *e);
    int (*read)(void *priv, uint64_t off, uint64_t len, void *buf);
    int (*map)(void *priv, uint64_t size, GArray *out); /* struct vmstate_range in n->file; they do not move */
    void (*destroy)(void *priv);
};

/*
 * Snapshots get what they read from below (struct snapshot_fill in block/snapshot.h says what each does). commit finds
 * the node drained; destroy at any time. All [co].
 */
struct snapshot_fill_ops {
    int (*create)(struct node *n, uint64_t end, void **priv, struct err *e);
    bool (*next)(void *priv, uint64_t *off, uint64_t *len);
    int (*write)(void *priv, uint64_t off, uint64_t len, const void *buf);
    int (*commit)(void *priv, struct err *e);
    void (*destroy)(void *priv);
};

extern const struct block_driver *const block_drivers[]; /* NULL-terminated; explicit table */
const struct block_driver *driver_find(const char *name);
