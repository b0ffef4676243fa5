/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Saving and loading a running machine: RAM, harts, devices, clock; the disks are their owners' business.
 *
 * Saving, in two parts, so that the disks' snapshots fall into the same instant:
 *
 *      vm_save_create     guest runs     room for everything the instant needs; RAM is watched
 *      vm_save_instant    quiesced       state of all objects copied, RAM frozen: kilobytes and microseconds
 *      vm_save_write      guest runs     all of it into the sink; a page that is about to change is copied first
 *      vm_save_destroy    any time       gives up whatever was not written
 *
 * Loading, so that a failure at any place leaves the guest as it was:
 *
 *      vm_load_create     guest runs     reads the manifest and every object's state, checks them against the
 *                                        machine; reads RAM too, beside the guest's own, unless that can be lazy
 *      vm_load_prepare    quiesced       the last that can fail
 *      vm_load_commit     quiesced       cannot fail: the machine is the saved one
 *      vm_load_finish     guest runs     the rest of a lazy load's RAM
 *      vm_load_destroy    any time       before the commit: as if nothing had been
 *
 * One at a time per machine: the second vm_save_create or vm_load_create waits until the first is destroyed.
 * Everything here is for the loop thread; [co]: inside a coroutine, and it may wait.
 */
#pragma once

#include "machine/vm.h"

struct state_manifest;

/* Where a saved machine goes: written from offset 0 on, each byte once, in order. */
struct move_sink {
    void *opaque;
    const char *name; /* for messages: a file's name, "snapshot 'x' of node 'y'" */
    /* [co] All of it or a negative errno. */
    int (*write)(void *opaque, uint64_t off, const void *buf, size_t len);
};

/* Where it comes from: any place, any order, also again. Must stay as it is until vm_load_destroy. */
struct move_source {
    void *opaque;
    uint64_t size; /* bytes there are; more than the stream is long does no harm */
    const char *name;
    /* [co] All of it or a negative errno. */
    int (*read)(void *opaque, uint64_t off, void *buf, size_t len);
    /*
     * The same from a thread of the machine's own, waiting for nothing that the loop does (the loop may be the one
     * that needs the page). NULL: this source cannot, and loads from it are not lazy.
     */
    int (*read_now)(void *opaque, uint64_t off, void *buf, size_t len);
    const int *fd; /* the file that it is, from its first byte on; NULL: none */
    /*
     * [co] The state that this one, whose manifest `child` is, says it is based on; whoever called it calls out->close
     * in the end. NULL: there are none.
     */
    int (*open_parent)(void *opaque, const struct state_manifest *child, struct move_source *out, struct err *e);
    void (*close)(void *opaque); /* [co] of what open_parent gave */
};

/* How far it is; called on the loop thread, often. Bytes of RAM looked at, of all. */
typedef void move_progress_fn(void *opaque, uint64_t done, uint64_t total);

struct vm_save_opts {
    /* The machine type in whose format it is saved, for a machine of that type with the same properties to load; what
     * that format cannot hold refuses it. NULL: of the machine's own type. */
    const char *compat;
    bool compress;   /* RAM by zstd */
    const char *tag; /* the state's name, for those that are based on it; must live as long as the save; or NULL */
    const char *const
        *force_drop; /* what may be lost: struct state_policy; must live as long as the save; NULL: nothing */
    move_progress_fn *progress;
    void *opaque;
};

struct vm_save;
/* [co] Refuses what cannot be saved, naming it. `o` is copied. */
int vm_save_create(struct vm *vm, const struct vm_save_opts *o, struct vm_save **out, struct err *e);
/*
 * [co] Before the instant: only pages that differ from those of `parent` are written. It must stay as it is until the
 * save is destroyed. `file`: where it is, for the manifest, or NULL.
 */
int vm_save_set_parent(struct vm_save *s, const struct move_source *parent, const char *file, struct err *e);
/*
 * Between vm_quiesce() and vm_unquiesce(), or while the machine is stopped. Failing changes nothing. From here until
 * vm_save_write returns RAM as it is now is kept.
 */
int vm_save_instant(struct vm_save *s, struct err *e);
/* [co] The guest may run, stop, go on and reset. -ECANCELED after vm_save_cancel(). */
int vm_save_write(struct vm_save *s, const struct move_sink *to, struct err *e);
/* vm_save_write ends soon. May come before it, too. */
void vm_save_cancel(struct vm_save *s);
/* What the format of `compat` cannot hold and force_drop let go: char * "PATH: NAME: what is lost"; borrowed. */
const GPtrArray *vm_save_dropped(const struct vm_save *s);
/* Bytes the stream has so far; all of it after vm_save_write. */
uint64_t vm_save_size(const struct vm_save *s);
/* How long vm_save_create made the guest stand still. */
uint64_t vm_save_pause_ns(const struct vm_save *s);
/* NULL is fine. Not while vm_save_write runs. */
void vm_save_destroy(struct vm_save *s);

struct vm_load_opts {
    /* What lies in a file as it was in RAM is mapped privately instead of read: it comes when it is used, the file must
     * stay as it is, and nothing checks it. Then nothing is lazy. */
    bool map;
    bool lazy; /* RAM comes when it is needed, and by and by; where that cannot be, all of it first */
    const char *const *state_allow, *const
                                        *force_drop; /* struct state_policy's; must live as long as the load; or NULL */
    move_progress_fn *progress;
    void (*stuck)(void *opaque, bool yes); /* RAM cannot be read, or can again; on the loop thread; may be NULL */
    void *opaque;
};

struct vm_load;
/* [co] `from` is copied, what it points to must live until vm_load_destroy. */
int vm_load_create(struct vm *vm, const struct vm_load_opts *o, const struct move_source *from, struct vm_load **out,
                   struct err *e);
/* What force_drop let go, once it is committed: as of a save; borrowed. */
const GPtrArray *vm_load_dropped(const struct vm_load *l);
/* After the commit RAM is still to come: the source is needed until vm_load_finish. */
bool vm_load_is_lazy(const struct vm_load *l);
int vm_load_prepare(struct vm_load *l, struct err *e);
void vm_load_commit(struct vm_load *l);
/*
 * [co] Until all of RAM is there; at once when it is. A page that cannot be read, or is not what was written, stops the
 * machine (io-error) and the log names it; when the machine goes on it is read again. Whoever needs it waits, and can
 * be stopped meanwhile; the loop waits for nobody's page.
 */
int vm_load_finish(struct vm_load *l, struct err *e);
/*
 * vm_load_finish ends soon, with -ECANCELED; what did not come is lost and the machine must be reset or loaded again
 * (internal-error) unless it is about to end. Before the commit: vm_load_destroy.
 */
void vm_load_cancel(struct vm_load *l);
/* After the commit of a lazy load but before the end of vm_load_finish only where the machine is never to run again. */
void vm_load_destroy(struct vm_load *l);

/* --- files --------------------------------------------------------------------------------------------------------
 */

/* A state file of its own: written beside `path` and put there when it is complete. */
struct move_file;
/* [co] */
int move_file_create(const char *path, struct move_file **out, struct err *e);
int move_file_open(const char *path, struct move_file **out, struct err *e);
void move_file_sink(struct move_file *f, struct move_sink *to);
void move_file_source(struct move_file *f, struct move_source *from);
/* How a state in file `child` names its parent in file `parent`: by its name alone when they are in one folder, else in
 * full. g_malloc'd. */
char *move_file_seen_from(const char *parent, const char *child);
/* [co] Of one that was created: on the disk, under its name. */
int move_file_commit(struct move_file *f, struct err *e);
/* [co] Created but not committed: no trace is left. NULL is fine. */
void move_file_close(struct move_file *f);
