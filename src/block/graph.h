/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The block graph: nodes joined by edges.
 *
 * A NODE has one driver and edges to its children (file, backing, target …). Everything that reads or writes a
 * node holds an EDGE to it: a parent node, or a user (device, job, export, tool). A node lives while somebody
 * holds an edge or a reference. One graph per VM (or tool); loop thread only; functions marked [co] wait and
 * so run in a coroutine.
 *
 * Draining: node_drain_begin() holds back new requests at the gates of all *user* edges from which the node can
 * be reached, and waits until nothing is in flight at the node. Inner edges have no gate: requests that are under
 * way run to their end. An edge with `ungated` set (the drainer's own) passes.
 *
 * Graph changes (insert, remove, replace) take place inside such a drain of just the subtree concerned.
 */
#pragma once

#include "base/err.h"
#include "base/events.h"
#include "base/log.h"
#include "loop/co.h"

#include <glib.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct block_graph;
struct block_driver;
struct node;
struct edge;
struct dirty_bitmap;

/* bus and log may be NULL. */
struct block_graph *graph_create(struct loop *l, struct event_bus *bus, struct log *log);
/* All nodes must be gone, except those that only the graph's names hold: these are closed. [co] */
void graph_destroy(struct block_graph *g);
struct loop *graph_loop(struct block_graph *g);
struct event_bus *graph_bus(struct block_graph *g);
struct log *graph_log(struct block_graph *g);
/* Objects that drivers refer to by id (throttle-group, secret): set by the program; NULL when it has none. */
typedef void *graph_object_fn(void *opaque, const char *type, const char *id);
void graph_set_object_lookup(struct block_graph *g, graph_object_fn *fn, void *opaque);
void *graph_object(struct block_graph *g, const char *type, const char *id);
/* Nodes opened while this is on are looked at only: no key is asked for, and encrypted data cannot be read. */
void graph_set_metadata_only(struct block_graph *g, bool on);
bool graph_is_metadata_only(const struct block_graph *g);
/* While on, nodes may be opened by names that graphs make up ("#block007"): those of a machine that is built again. */
void graph_allow_generated(struct block_graph *g, bool on);
/* A guest runs on the graph: encryption that only tools may still read (qcow2's legacy AES) is refused. */
void graph_set_for_guest(struct block_graph *g);
bool graph_is_for_guest(const struct block_graph *g);
bool graph_opens_inactive(const struct block_graph *g); /* graph_open_inactive() of block/inactive.h */
/*
 * Held by whoever changes what is above what, or bitmaps, from the first look until it is done: commands, the ends of
 * jobs, reopening. One coroutine at a time; the one that has it may take it again. Requests never wait for it. [co]
 */
void graph_change_begin(struct block_graph *g);
void graph_change_end(struct block_graph *g);

/* --- nodes ---------------------------------------------------------------------------------------------------- */

#define NODE_NAME_MAX     31 /* bytes, as QEMU */
#define GRAPH_MAX_HEIGHT  256
#define BACKING_MAX_DEPTH 200 /* images in a chain that an image's header alone can make us open */

struct block_limits {
    uint32_t request_align;             /* power of two; the core bounces and read-modify-writes what is finer */
    uint32_t mem_align;                 /* of buffers: 1 unless O_DIRECT */
    uint32_t opt_transfer;              /* bytes; 0 = no preference */
    uint32_t max_transfer;              /* bytes; 0 = none; the core splits */
    uint32_t discard_align, zero_align; /* finer parts are ignored (discard) or written (zeroes); 0 = 1 */
    uint64_t max_discard, max_zero;     /* 0 = none */
};

struct node_stats {
    uint64_t rd_bytes, wr_bytes, rd_ops, wr_ops, flush_ops, discard_bytes, discard_ops, zero_bytes, zero_ops;
    uint64_t rd_ns, wr_ns, flush_ns; /* sum of times */
    uint64_t wr_highest;             /* end of the highest write */
};

struct node {
    struct block_graph *graph;
    const struct block_driver *drv;
    void *priv; /* the driver's; drv->priv_size bytes, zeroed */
    char name[NODE_NAME_MAX + 1];
    bool generated_name;         /* "#blockNNN" */
    bool monitor_owned;          /* made by blockdev-add: holds a reference */
    bool temporary;              /* its file has no name, and ends with it */
    char *owner;                 /* the job that has put it there: "mirror job 'm'"; NULL: no job; owned */
    char *filename;              /* as a person names it: path, "json:{…}"; owned; never NULL */
    char *full_name;             /* naming.c; NULL: as filename; owned */
    bool other_backing;          /* naming.c: than its header names, when last looked */
    struct json_object *options; /* what it was opened with (normalised); owned */
    uint64_t serial;             /* no other node of the graph ever has it */
    /* The node that has opened it as its child, or one above that which has taken that one's place: what is said there
     * of this child is said of it. 0: none. Not taken back when others come between. */
    uint64_t heir_of;
    unsigned inherited; /* options that follow that node's: options_left_out() */
    bool read_only, direct, no_flush, force_share, auto_read_only, probed;
    bool inactive, read_again; /* block/inactive.h; since it was, its metadata has been read anew */
    bool discard_unmap;        /* discard=unmap */
    int detect_zeroes;         /* 0 off, 1 on, 2 unmap */
    uint64_t size;             /* bytes, any number; drivers update it through node_set_size() */
    struct block_limits limits;
    struct edge *file, *backing;             /* the usual children, NULL when it has none */
    char *backing_filename, *backing_format; /* as recorded in the image; NULL = none; owned */
    char *auto_backing;  /* what the image that was opened because of that is called; NULL: none was, or the header has
                          * changed since; owned */
    GPtrArray *children; /* struct edge *, parent == this */
    GPtrArray *parents;  /* struct edge *, child == this */
    GPtrArray *bitmaps;  /* struct dirty_bitmap * */
    unsigned perm, shared; /* PERM_*: what all parents together use / what all of them let others use */
    unsigned height;       /* layers below the lowest child + 1; 0 = a leaf. At most GRAPH_MAX_HEIGHT */
    struct node_stats stats;
    uint64_t write_threshold; /* a write beyond it is told once: node_set_write_threshold(); 0: none */
    unsigned refs, in_flight;
    unsigned drained;     /* node_drain_begin()s that name this node */
    unsigned serialising; /* requests among `tracked` that hold others back */
    unsigned stamp;       /* for walks over the graph */
    bool opened, closing;
    bool no_medium; /* its driver found that what it holds makes no sense: all requests but flushes fail by ENOMEDIUM */
    bool quiesced;  /* drained, or above one that is */
    struct co_queue idle_waiters; /* drainers that wait for in_flight == 0 */
    GQueue tracked;               /* requests in flight: struct request (block/io.c) */
    /* A flush with nothing new to flush is skipped. The core counts write_gen up after each request that changes data;
     * a driver whose metadata changes in another way (check, snapshots) counts it up itself. */
    uint64_t write_gen, flushed_gen;
    uint64_t absorbed_at;      /* chain_absorbed(); 0: never */
    int flush_rc;              /* of the last one */
    unsigned snapshots_placed; /* internal ones that have, or are getting, their place: from vmstate_create() on */
    unsigned snapshots_making; /* of these, and others, those that are taken and not complete: block/snapshot.h */
    uint64_t snapshots_taken;  /* so many were taken since it was opened */
    struct co_mutex flush_lock;
};

/*
 * Opens what `opts` (BlockdevOptions as JSON: driver, node-name, read-only, cache, discard, detect-zeroes,
 * auto-read-only, force-share, file, backing, driver's own) describes; child options are node names, objects, or null
 * (backing). The caller gets a reference. Names the node in every error. [co]
 */
int node_open(struct block_graph *g, struct json_object *opts, struct node **out, struct err *e);
/*
 * The same from a file name as people give it to tools: a path, "json:{…}", "nbd://…", with options laid over. Without
 * "driver" in `opts` the format is probed: a broken image is an error, never raw. `opts` may be NULL. [co]
 */
int node_open_filename(struct block_graph *g, const char *filename, struct json_object *opts, struct node **out,
                       struct err *e);
/* Nothing has been changed through it since it was opened. */
static inline bool node_is_unwritten(const struct node *n)
{
    return n->write_gen <= 1;
}
struct node *node_ref(struct node *n);
void node_unref(struct node *n); /* [co]: the last one flushes and closes; NULL is fine */
/* By node name, NULL when there is none; borrowed. */
struct node *node_find(struct block_graph *g, const char *name);
/* By node name; the error is QEMU's: "Cannot find device='' nor node-name='x'". */
struct node *node_lookup(struct block_graph *g, const char *name, struct err *e);
/* All nodes, in order of creation; borrowed pointers. */
GPtrArray *graph_nodes(struct block_graph *g);
void node_set_size(struct node *n, uint64_t size); /* drivers; tells parents */
bool node_reaches(struct node *from, struct node *to);
/* The edge through which a filter passes requests; NULL for all others. */
struct edge *node_filter_edge(struct node *n);
/* Through filters to the node that has data of its own. */
struct node *node_skip_filters(struct node *n);
/* The next layer down: backing of the first non-filter; NULL. */
struct node *node_backing(struct node *n);
/* {"filename": …, "format": …, …}: ImageInfo / BlockDeviceInfo as QEMU's query commands give them; chain: with the
 * images below, and full names. [co] */
struct json_object *node_image_info(struct node *n, bool chain, struct err *e);
struct json_object *node_device_info(struct node *n);
/* What it is called with all that is below it: `filename`, or "json:{…}" when a backing image is not the one that the
 * header names. Borrowed until it is asked for again. */
const char *node_full_name(struct node *n);
/* `filename` as it is meant in the header of image `base`: relative to its folder. g_malloc'd; absolute names, json:
 * and protocol names come back unchanged. */
char *path_combine(const char *base, const char *filename);
/* The same for what stands in the header of n's image, whatever n itself is called; NULL: n is no file in a folder. */
char *node_path_combine(struct node *n, const char *filename);
/* "nbd:…", "json:…": begins with a protocol's name and a colon before any slash. */
bool path_has_protocol(const char *filename);

/* --- edges ---------------------------------------------------------------------------------------------------- */

enum {
    PERM_READ = 1, /* consistent reads */
    PERM_WRITE = 2,
    PERM_WRITE_SAME = 4, /* writes that do not change what a reader sees (copy-on-read) */
    PERM_RESIZE = 8,
    PERM_ALL = 15,
};

/* What a user edge may be told; every member may be NULL. Loop thread. */
struct edge_user_ops {
    void (*drained_begin)(void *user); /* the gate closes: requests from now on wait at it by themselves */
    void (*drained_end)(void *user);
    void (*resized)(void *user);
    void (*retargeted)(void *user);        /* the edge now points to another node */
    void (*snapshots_changed)(void *user); /* inside of an image at or below the node: one is there, or gone, or made */
    /* "block device 'vd0'", "mirror job 'j'": for "in use" errors and query-named-block-nodes. */
    char *(*describe)(void *user); /* g_malloc'd */
};

/* What whoever opens an edge asks for; used during the call only. */
struct edge_spec {
    const char *name;                /* "root", "file", "backing", "target" … */
    unsigned perm, shared;           /* PERM_* that it uses / lets others use */
    const struct edge_user_ops *ops; /* a user's edge: may be NULL */
    void *user;
    bool image;              /* node_open_child(): options without "driver" mean an image, whose format is probed */
    bool also_read_only;     /* takes what it asks for even while its parent is read-only */
    bool if_used;            /* lets others do anything while nobody uses its parent */
    bool pinned;             /* a job's own: see struct edge */
    bool waits;              /* a guest device's: the child may be inactive although it wants to write */
    const struct node *lets; /* see struct edge */
    struct node *above;      /* NULL, or: lets all that the edges of the chain from this node down to the child let */
};

struct edge {
    struct node *child;
    struct node *parent; /* NULL for a user's edge */
    const struct edge_user_ops *ops;
    void *user;
    char *name;            /* "file", "backing", "root", "target" …; owned */
    unsigned perm, shared; /* PERM_* that it uses / lets others use */
    /*
     * What the edge asks for by itself. A filter's first child edge (and raw's "file") adds what the filter's parents
     * use and shares no more than they do, so a pure filter asks for 0 and shares PERM_ALL; "backing" of a format
     * lets others write when all the parents of the format's node do.
     */
    unsigned own_perm, own_shared;
    bool opened;        /* the child was opened for this edge: it follows when the parent is reopened */
    unsigned gate;      /* > 0: new requests wait */
    unsigned in_flight; /* requests through this edge, those at the gate included */
    bool ungated, also_read_only, if_used, waits;
    bool lets_others; /* a filter's first child: it does not hand on what its parents do not share */
    bool pinned;      /* stays where it is when node_replace() moves the others: what it is about is this very node */
    /* Filters whose writes the parent can do with: those of commits, as the parent has in layers above, or in itself,
     * what they bring down; and the one that copies to the parent what the guest writes to the child, or what it
     * overwrites there. NULL: none. Compared only; a node that closes is taken out of all. */
    GPtrArray *lets;
    struct co_queue gate_waiters, idle_waiters;
};

/* A user's edge. Fails naming node and the conflicting user when permissions clash: "Node 'x' is in use by …". */
int edge_open(struct node *child, const struct edge_spec *spec, struct edge **out, struct err *e);
void edge_close(struct edge *ed); /* [co] drops the reference too; NULL is fine */
int edge_set_perm(struct edge *ed, unsigned perm, unsigned shared, struct err *e);
/* Who uses the child through it, for people: "mirror job 'm'", "node 'x'", "node 'x' of stream job 's'". g_malloc'd. */
char *edge_describe(const struct edge *ed);
/*
 * For drivers in open: opens opts[name] (string: node name; object: open it) as child, where opts is what open was
 * given. Absent: "A block device must be specified for \"file\"" (ask json_object_object_get_ex first where it is
 * optional). Fills n->file / n->backing when so named; a filter's first child becomes n->file whatever its name. Common
 * options that the child leaves out come from n. With n->auto_read_only a child that opened read-only makes n
 * read-only, and write permissions are left out for a read-only n (PERM_WRITE and PERM_RESIZE in `perm` are masked).
 * "backing" is opened by the core after the driver's open: drivers only set backing_filename and backing_format. [co]
 */
int node_open_child(struct node *n, struct json_object *child_opts, const struct edge_spec *spec, struct edge **out,
                    struct err *e);
int node_attach_child(struct node *n, struct node *child, const struct edge_spec *spec, struct edge **out,
                      struct err *e);
void node_detach_child(struct node *n, struct edge *ed); /* [co] */

/* --- draining and changing the graph -------------------------------------------------------------------------- */

/* [co] nests. Never from inside a request at n or above it. Whoever holds a range lock must use edges that no drain
 * gates (a node's own, or ungated ones). */
void node_drain_begin(struct node *n);
void node_drain_end(struct node *n);
/* All parents of `from` (but not `to` itself, nor what it stands on, not pinned ones and not edges in `keep`,
 * NULL-terminated list or NULL) point to `to` afterwards. Drains both. Refuses permission clashes before changing
 * anything. [co] */
int node_replace(struct node *from, struct node *to, struct edge *const *keep, struct err *e);
/* All that use the edge's parent use its child instead, which is the one that it is when all stand still: another may
 * be put there while that is waited for. [co] */
int edge_bypass(struct edge *ed, struct err *e);
/* node_drain_begin() of the child, whichever it is in the end; returns it. [co] */
struct node *edge_drain_child(struct edge *ed);
/* One edge points to another node. Drains. [co] */
int edge_retarget(struct edge *ed, struct node *to, struct err *e);
/* The same, to a node further down the chain, when the parent holds all that is between: it reads as before. [co] */
int edge_shorten(struct edge *ed, struct node *to, struct err *e);
