/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sterna-img: one verb per file. Arguments, output and exit codes are those of qemu-img 7.2 unless the manual page says
 * otherwise. A verb runs as a coroutine on the loop of main() and returns the exit code; it has printed its errors.
 */
#pragma once

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "block/driver.h"
#include "block/graph.h"
#include "block/io.h"
#include "cli/opts.h"
#include "cli/tool.h"

struct img_verb {
    const char *name;
    const char *usage; /* options and operands, as --help shows them */
    int (*run)(struct tool *img, int argc, char **argv);
};
extern const struct img_verb img_verbs[]; /* ends with a NULL name */

int img_amend(struct tool *img, int argc, char **argv);
int img_bench(struct tool *img, int argc, char **argv);
int img_bitmap(struct tool *img, int argc, char **argv);
int img_check(struct tool *img, int argc, char **argv);
int img_commit(struct tool *img, int argc, char **argv);
int img_compare(struct tool *img, int argc, char **argv);
int img_convert(struct tool *img, int argc, char **argv);
int img_copy(struct tool *img, int argc, char **argv);
int img_create(struct tool *img, int argc, char **argv);
int img_dd(struct tool *img, int argc, char **argv);
int img_info(struct tool *img, int argc, char **argv);
int img_map(struct tool *img, int argc, char **argv);
int img_measure(struct tool *img, int argc, char **argv);
int img_rebase(struct tool *img, int argc, char **argv);
int img_resize(struct tool *img, int argc, char **argv);
int img_snapshot(struct tool *img, int argc, char **argv);

/* --- messages and arguments (args.c) ---------------------------------------------------------------------------- */

/* tool_fail(), then where to find help. */
int img_fail_usage(struct tool *img, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void img_print_help(struct tool *img);

/* Options that several verbs have, so that each verb's loop handles only its own. */
enum {
    OPT_OBJECT = 256,
    OPT_IMAGE_OPTS,
    OPT_OUTPUT,
    OPT_OWN, /* a verb's long-only options start here */
};
#define OPT_SPEC_HELP                                                                                                  \
    {                                                                                                                  \
        'h', "help", false                                                                                             \
    }
#define OPT_SPEC_OBJECT                                                                                                \
    {                                                                                                                  \
        OPT_OBJECT, "object", true                                                                                     \
    }
#define OPT_SPEC_IMAGE_OPTS                                                                                            \
    {                                                                                                                  \
        OPT_IMAGE_OPTS, "image-opts", false                                                                            \
    }
#define OPT_SPEC_OUTPUT                                                                                                \
    {                                                                                                                  \
        OPT_OUTPUT, "output", true                                                                                     \
    }
#define OPT_SPEC_END                                                                                                   \
    {                                                                                                                  \
        0, NULL, false                                                                                                 \
    }

struct img_common {
    bool image_opts, quiet, force_share, json, help;
    const char *fmt;
};
/*
 * The next option that is the verb's own business; OPTS_END at the end. Handles by itself those that mean the same
 * everywhere: -h, --object, --image-opts, --output, -q, -U, -f (only those in the verb's table reach it). Below
 * OPTS_END: stop with exit code 1, the message has been printed; after help c->help is set (see img_opts_exit).
 */
int img_next(struct tool *img, struct opts *o, struct img_common *c);
/* The exit code for an img_next() that returned less than OPTS_END. */
static inline int img_opts_exit(const struct img_common *c)
{
    return c->help ? 0 : 1;
}
/* Exactly one operand; NULL after a message. */
const char *img_one_operand(struct tool *img, struct opts *o);
/* One more -o: joined to those before with a comma. False after a message: the list begins or ends with a comma. */
bool img_add_options(struct tool *img, char **options, const char *more);
/* A number with size suffix, min … max; false after a message about `what` ("image size"). */
bool img_number(struct tool *img, const char *what, const char *text, const int64_t range[2], int64_t *out);

/* --- bitmaps (bitmap.c) ----------------------------------------------------------------------------------------- */

/* What to say behind the text of an error; "" mostly. */
const char *img_hint(const struct err *e);
/* Whether the persistent bitmaps of `src` can be copied; nonzero after a message. */
int img_bitmaps_check(struct tool *img, struct node *src, bool skip_broken);
/* Adds them to `dst`; warns of those that are inconsistent. Nonzero after a message. [co] */
int img_bitmaps_copy(struct tool *img, struct node *src, struct node *dst);

/* --- disks (disk.c) --------------------------------------------------------------------------------------------- */

struct img_open {
    const char *fmt; /* NULL: probe */
    bool image_opts; /* the name is driver options */
    bool force_share, writable, resize, no_backing;
    bool for_check;           /* opened even if it is broken or was not closed, as it will be checked */
    bool unmap;               /* what becomes zero may be given back */
    bool no_writers;          /* nobody else may write to it meanwhile, unless force_share */
    const char *backing_node; /* node name to use as backing instead of what the image names; NULL: none */
    struct json_object *more; /* other options; NULL: none */
    struct tool_cache cache;
};
struct img_disk {
    const char *name; /* as given; borrowed */
    struct node *node;
    struct edge *edge;
    bool writethrough;
    struct hollow_layers hollow;
};
#define IMG_DISK_NONE ((struct img_disk){0})
/* Prints the error ("Could not open 'name': …") and returns false. [co] */
bool img_disk_open(struct tool *img, const char *name, const struct img_open *how, struct img_disk *out);
/* The same with the error for the caller to print. [co] */
int img_disk_try_open(struct tool *img, const char *name, const struct img_open *how, struct img_disk *out,
                      struct err *e);
/* Flushes a writable one (unless the cache mode says not to). Closing a disk that is not open is fine. [co] */
int img_disk_close(struct img_disk *d);
#define CLEANUP_DISK __attribute__((cleanup(img_disk_drop)))
void img_disk_drop(struct img_disk *d);
/* Bytes, rounded up to whole sectors, as every tool of the family counts. */
uint64_t img_disk_size(const struct img_disk *d);
/* Reads; what lies beyond the end is zeroes. [co] */
int img_disk_read(struct img_disk *d, uint64_t off, uint64_t len, void *buf);
/* The part of a write that lies beyond a size that is no multiple of a sector is dropped (it is zeroes). [co] */
int img_disk_write(struct img_disk *d, uint64_t off, uint64_t len, const void *buf, unsigned flags);
int img_disk_zero(struct img_disk *d, uint64_t off, uint64_t len, unsigned flags);
/*
 * What a range of the whole chain is, layer by layer: flags as EXT_*; *depth the layer that decided, or at which the
 * search ended. Beyond the end: zero. [co]
 */
int img_disk_status(struct img_disk *d, uint64_t off, uint64_t len, struct extent *out, int *depth);

/* --- options of -o (options.c) ---------------------------------------------------------------------------------- */

/* Adds those of `list` (NULL: none) that are new by name to an array of const struct create_option *, sorted by name.
 */
void img_options_add(GPtrArray *all, const struct create_option *list);
const struct create_option *img_option_find(const GPtrArray *all, const char *name); /* NULL: none */
/* A line for each, as "-o help" shows them. */
void img_options_print(const struct tool *img, const GPtrArray *all);
/* Checks name and value and adds them to `out` as text. */
int img_options_set(const GPtrArray *all, const char *name, const char *value, struct json_object *out, struct err *e);
/* All of "cluster_size=4k,compat=v3". Commas in values are doubled. */
int img_options_parse(const GPtrArray *all, const char *text, struct json_object *out, struct err *e);
/* Such text as the JSON type that the driver's decoder wants. */
struct json_object *img_option_typed(const struct create_option *o, const char *text);
bool img_is_help(const char *options); /* "help" or "?" is among them */

/* --- creating (newdisk.c) --------------------------------------------------------------------------------------- */

/* Options of -o: name → text, checked against the tables of format and protocol. */
struct img_new {
    const char *filename, *fmt;
    const struct block_driver *drv, *proto;
    struct json_object *opts;
};
/* Finds the drivers. `filename` may be NULL (then only the format's options are known). */
int img_new_init(struct img_new *nd, const char *fmt, const char *filename, struct err *e);
void img_new_finish(struct img_new *nd);
#define CLEANUP_NEW __attribute__((cleanup(img_new_finish)))
int img_new_parse(struct img_new *nd, const char *text, struct err *e);
int img_new_set(struct img_new *nd, const char *name, const char *value, struct err *e);
const char *img_new_get(const struct img_new *nd, const char *name); /* NULL: not set */
void img_new_print_help(const struct tool *img, const struct img_new *nd);
/* "Formatting 'x', fmt=…" */
void img_new_print(const struct img_new *nd);
/* Makes the files. "size" must be set. [co] */
int img_new_create(struct tool *img, struct img_new *nd, struct err *e);
/*
 * The backing file named in nd->opts is looked at: fills in "size" if it is missing, complains about a missing
 * backing_fmt. [co]
 */
int img_new_check_backing(struct tool *img, struct img_new *nd, bool unsafe, struct err *e);

/* --- output (output.c) ------------------------------------------------------------------------------------------ */

/* Indented by 4, members in the order in which QEMU's tools list them; a newline at the end. */
void img_print_json(struct json_object *o);

/* --- progress (progress.c) -------------------------------------------------------------------------------------- */

struct img_progress {
    bool on;
    double shown, now;
    struct fd_watch *watch; /* of the signal; NULL: not started */
    int fd;
};
/* Shows 0 when `on`; from here to the end SIGUSR1 prints where it stands on standard error. Nothing may move `p`. */
void img_progress_start(struct img_progress *p, bool on);
void img_progress_set(struct img_progress *p, double percent);
void img_progress_end(struct img_progress *p); /* also of one that was never started, if it is zeroed */
/* Before there are threads: SIGUSR1 is for img_progress_start() only. */
void img_progress_block_signal(void);
