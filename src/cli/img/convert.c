/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/dirty.h"
#include "cli/img/copy.h"
#include "cli/img/snapshot.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_SPARSE (16u << 20)

enum { OPT_TARGET_IMAGE_OPTS = OPT_OWN, OPT_TARGET_IS_ZERO, OPT_SALVAGE, OPT_BITMAPS, OPT_SKIP_BROKEN };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {OPT_TARGET_IMAGE_OPTS, "target-image-opts", false},
    {OPT_TARGET_IS_ZERO, "target-is-zero", false},
    {OPT_SALVAGE, "salvage", false},
    {OPT_BITMAPS, "bitmaps", false},
    {OPT_SKIP_BROKEN, "skip-broken-bitmaps", false},
    {'f', "source-format", true},
    {'O', "target-format", true},
    {'B', "backing", true},
    {'F', "backing-format", true},
    {'c', "compress", false},
    {'C', "copy-range-offloading", false},
    {'o', "target-options", true},
    {'l', "source-snapshot", true},
    {'S', "sparse-size", true},
    {'p', "progress", false},
    {'t', "target-cache", true},
    {'T', "source-cache", true},
    {'q', "quiet", false},
    {'n', "no-create", false},
    {'m', "parallel", true},
    {'W', "oob-writes", false},
    {'U', "force-share", false},
    {'r', "rate", true},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    bool overlay; /* the target is made on a backing file */
    const char *out_fmt, *backing, *backing_fmt, *cache, *src_cache, *target;
    char *options; /* owned */
    struct img_snapshot_param snapshot;
    char **sources;
    unsigned nsources;
    struct json_object *keys; /* options that open a new, encrypted target; NULL: none */
    bool no_create, target_image_opts, target_is_zero, progress, sparse_given, bitmaps, skip_broken;
    struct copy copy; /* what goes straight to the engine */
};

/* --- arguments -------------------------------------------------------------------------------------------------- */

static bool parse_sparse(struct tool *img, struct args *a, const char *text)
{
    static const int64_t range[] = {0, INT64_MAX};
    int64_t n;
    if (!img_number(img, "buffer size for sparse output", text, range, &n)) {
        return false;
    }
    if (n % 512 || n > MAX_SPARSE) {
        tool_fail(img,
                  "Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to %u. "
                  "Select 0 to disable sparse detection (fully allocates output).",
                  MAX_SPARSE);
        return false;
    }
    a->copy.sparse = (uint32_t)n;
    return true;
}

static bool parse_workers(struct tool *img, struct args *a, const char *text)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    if (!g_ascii_isdigit(*text) || *end || n < 1 || n > COPY_MAX_WORKERS) {
        tool_fail(img, "Invalid number of coroutines. Allowed number of coroutines is between 1 and %d",
                  COPY_MAX_WORKERS);
        return false;
    }
    a->copy.workers = (unsigned)n;
    return true;
}

/* Options with a value that is checked at once. */
static bool set_checked(struct tool *img, struct args *a, int key, const char *value)
{
    static const int64_t rates[] = {0, INT64_MAX};
    int64_t n = 0;
    switch (key) {
    case 'S':
        a->sparse_given = true;
        return parse_sparse(img, a, value);
    case 'm':
        return parse_workers(img, a, value);
    case 'l':
        return img_snapshot_parse(img, &a->snapshot, value);
    case 'r':
        if (!img_number(img, "rate limit", value, rates, &n)) {
            return false;
        }
        a->copy.rate = (uint64_t)n;
        return true;
    default:
        return img_add_options(img, &a->options, value);
    }
}

static void set_flag(struct args *a, int key)
{
    switch (key) {
    case OPT_TARGET_IMAGE_OPTS:
        a->target_image_opts = true;
        break;
    case OPT_TARGET_IS_ZERO:
        a->target_is_zero = true;
        break;
    case OPT_SALVAGE:
        a->copy.salvage = true;
        break;
    case OPT_BITMAPS:
        a->bitmaps = true;
        break;
    case OPT_SKIP_BROKEN:
        a->skip_broken = true;
        break;
    case 'c':
        a->copy.compressed = true;
        break;
    case 'C':
        a->copy.offload = true;
        break;
    case 'p':
        a->progress = true;
        break;
    case 'n':
        a->no_create = true;
        break;
    default:
        a->copy.any_order = true;
    }
}

static int parse_options(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        switch (key) {
        case 'O':
            a->out_fmt = o->value;
            break;
        case 'B':
            a->backing = o->value;
            break;
        case 'F':
            a->backing_fmt = o->value;
            break;
        case 't':
            a->cache = o->value;
            break;
        case 'T':
            a->src_cache = o->value;
            break;
        default:
            if (!o->value) {
                set_flag(a, key);
            } else if (!set_checked(img, a, key, o->value)) {
                return 1;
            }
        }
    }
    return key == OPTS_END ? -1 : img_opts_exit(&a->common);
}

static int print_option_help(struct tool *img, const struct args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd;
    unsigned n = a->nsources;
    if (img_new_init(&nd, a->out_fmt, n ? a->target : NULL, &e)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    img_new_print_help(img, &nd);
    return 0;
}

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int rc = parse_options(img, o, a);
    if (rc >= 0) {
        return rc;
    }
    if (!a->out_fmt && !a->target_image_opts) {
        a->out_fmt = "raw";
    }
    if (a->skip_broken && !a->bitmaps) {
        return tool_fail(img, "Use of --skip-broken-bitmaps requires --bitmaps");
    }
    if (a->copy.offload && (a->copy.compressed || a->sparse_given)) {
        return tool_fail(img, "Cannot enable copy offloading when -%c is used", a->copy.compressed ? 'c' : 'S');
    }
    if (a->copy.offload && a->copy.salvage) {
        return tool_fail(img, "Cannot use copy offloading in salvaging mode");
    }
    if (a->target_image_opts && !a->no_create) {
        return tool_fail(img, "--target-image-opts requires use of -n flag");
    }
    if (a->no_create && a->options) {
        return tool_fail(img, "-o has no effect when skipping image creation");
    }
    if (a->target_is_zero && !a->no_create) {
        return tool_fail(img, "--target-is-zero requires use of -n flag");
    }
    if (a->target_is_zero && a->backing) {
        return tool_fail(img, "Cannot use --target-is-zero when the destination image has a backing file");
    }
    unsigned n;
    char **names = opts_operands(o, &n);
    a->sources = names;
    a->nsources = n ? n - 1 : 0;
    a->target = n ? names[n - 1] : NULL;
    if (a->options && img_is_help(a->options)) {
        return print_option_help(img, a);
    }
    if (n < 2) {
        return tool_fail(img, "Must specify image file name");
    }
    if (n > 2 && a->backing) {
        return tool_fail(img, "Having a backing file for the target makes no sense when concatenating multiple input "
                              "images");
    }
    return -1;
}

/* --- the target ------------------------------------------------------------------------------------------------- */

static int set_target_options(struct tool *img, const struct args *a, struct img_new *nd, uint64_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *text = g_strdup_printf("%" PRIu64, size);
    if ((a->options && img_new_parse(nd, a->options, &e)) || img_new_set(nd, "size", text, &e)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    if (a->backing && img_new_set(nd, "backing_file", a->backing, NULL)) {
        return tool_fail(img, "Backing file not supported for file format '%s'", a->out_fmt);
    }
    if (a->backing_fmt && img_new_set(nd, "backing_fmt", a->backing_fmt, NULL)) {
        return tool_fail(img, "Backing file format not supported for file format '%s'", a->out_fmt);
    }
    if (img_new_get(nd, "backing_file") && !img_new_get(nd, "backing_fmt")) {
        return tool_fail(img, "Use of backing file requires explicit backing format");
    }
    const char *prealloc = img_new_get(nd, "preallocation");
    if (a->copy.compressed && !nd->drv->write_compressed) {
        return tool_fail(img, "Compression not supported for this file format");
    }
    const char *legacy = img_new_get(nd, "encryption");
    if (a->copy.compressed && (img_new_get(nd, "encrypt.format") || (legacy && strcmp(legacy, "on") == 0))) {
        return tool_fail(img, "Compression and encryption not supported at the same time");
    }
    if (a->copy.compressed && prealloc && strcmp(prealloc, "off") != 0) {
        return tool_fail(img, "Compression and preallocation not supported at the same time");
    }
    return 0;
}

/* A new image that is encrypted opens with the key that it was made with. */
static void keep_keys(struct args *a, const struct img_new *nd)
{
    a->keys = json_object_new_object();
    json_object_object_foreach(nd->opts, key, v)
    {
        if (strcmp(key, "key-secret") == 0 || g_str_has_suffix(key, ".key-secret")) {
            json_object_object_add(a->keys, key, json_object_get(v));
        }
    }
}

static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The core's locks would find it too, but only after the source had been opened by a name of its own. */
static int check_not_a_source(struct tool *img, const struct args *a)
{
    for (unsigned i = 0; i < a->copy.nsrc; i++) {
        for (struct node *n = a->copy.src[i].node; n; n = node_backing(n)) {
            if (same_file(n->filename, a->target)) {
                return tool_fail(img,
                                 "%s: error while converting %s: Failed to get \"write\" lock\n"
                                 "Is another process using the image [%s]?",
                                 a->target, a->out_fmt, a->target);
            }
        }
    }
    return 0;
}

static int create_target(struct tool *img, struct args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd;
    if (img_new_init(&nd, a->out_fmt, a->target, &e)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    int rc = set_target_options(img, a, &nd, copy_size(&a->copy));
    a->overlay = img_new_get(&nd, "backing_file") != NULL;
    rc = rc ? rc : check_not_a_source(img, a);
    if (rc) {
        return rc;
    }
    if (img_new_create(img, &nd, &e)) {
        return tool_fail(img, "%s: error while converting %s: %s", a->target, a->out_fmt, err_text(&e));
    }
    struct stat st;
    bool new_file = stat(a->target, &st) == 0 && S_ISREG(st.st_mode);
    a->copy.reads_zero = (new_file || strcmp(a->out_fmt, "raw") != 0) && strcmp(a->out_fmt, "luks") != 0;
    keep_keys(a, &nd);
    return 0;
}

/* What the engine must know of the target once it is open. */
static int fit_target(struct tool *img, struct args *a, struct img_disk *dst)
{
    struct copy *c = &a->copy;
    if (img_disk_size(dst) < copy_size(c)) {
        return tool_fail(img, "output file is smaller than input file");
    }
    if (c->compressed && !dst->node->drv->write_compressed) {
        return tool_fail(img, "Compression not supported for this file format");
    }
    if (a->bitmaps && !node_keeps_bitmaps(dst->node)) {
        return tool_fail(img, "Format driver '%s' does not support bitmaps", dst->node->drv->name);
    }
    struct node *backing = node_backing(dst->node);
    if (backing) {
        if (a->target_is_zero) {
            return tool_fail(img, "Cannot use --target-is-zero when the destination image has a backing file");
        }
        c->reads_zero = false;
        if (a->overlay || a->backing) {
            c->backing_depth = 1;
            c->backing_size = backing->size;
        }
    } else if (a->target_is_zero) {
        c->reads_zero = true;
    }
    return 0;
}

static int copy_to(struct tool *img, struct args *a, struct img_disk *dst)
{
    int rc = fit_target(img, a, dst);
    if (rc) {
        return rc;
    }
    a->copy.img = img;
    a->copy.dst = dst;
    rc = copy_run(&a->copy) ? 1 : 0;
    return rc || !a->bitmaps ? rc : img_bitmaps_copy(img, a->copy.src[0].node, dst->node);
}

static int convert(struct tool *img, struct args *a)
{
    struct img_open how = {.fmt = a->target_image_opts ? NULL : a->out_fmt,
                           .image_opts = a->target_image_opts,
                           .writable = true,
                           .resize = !a->no_create,
                           .unmap = a->copy.sparse != 0};
    if (!tool_parse_cache(a->cache, &how.cache)) {
        return tool_fail(img, "Invalid cache option: %s", a->cache);
    }
    if (a->target_image_opts && a->out_fmt) {
        return tool_fail(img, "--image-opts and --format are mutually exclusive");
    }
    int rc = a->no_create ? 0 : create_target(img, a);
    how.more = a->keys;
    struct img_disk dst;
    if (rc || !img_disk_open(img, a->target, &how, &dst)) {
        return 1;
    }
    rc = copy_to(img, a, &dst);
    int closed = img_disk_close(&dst);
    if (closed && rc == 0) {
        return tool_fail(img, "error while flushing '%s': %s", a->target, g_strerror(-closed));
    }
    return rc;
}

static int open_and_convert(struct tool *img, struct args *a)
{
    struct img_open how = {.fmt = a->common.fmt,
                           .image_opts = a->common.image_opts,
                           .force_share = a->common.force_share,
                           .no_writers = true};
    if (!tool_parse_cache(a->src_cache, &how.cache)) {
        return tool_fail(img, "Invalid source cache option: %s", a->src_cache);
    }
    struct img_disk *src = g_new0(struct img_disk, a->nsources);
    struct img_progress progress;
    img_progress_start(&progress, a->progress && !a->common.quiet);
    a->copy.progress = &progress;
    a->copy.src = src;
    int rc = 0;
    for (; a->copy.nsrc < a->nsources && rc == 0; a->copy.nsrc++) {
        rc = img_disk_open(img, a->sources[a->copy.nsrc], &how, &src[a->copy.nsrc]) ? 0 : 1;
    }
    if (rc == 0 && a->nsources > 1 && img_snapshot_given(&a->snapshot)) {
        rc = tool_fail(img, "No support for concatenating multiple snapshot");
    }
    rc = rc ? rc : img_snapshot_show(img, &src[0], &a->snapshot);
    if (rc == 0 && a->bitmaps) {
        rc = a->nsources > 1 ? tool_fail(img, "Copying bitmaps only possible with single source")
                             : img_bitmaps_check(img, src[0].node, a->skip_broken);
    }
    rc = rc ? rc : convert(img, a);
    for (unsigned i = 0; i < a->nsources; i++) {
        img_disk_drop(&src[i]);
    }
    g_free(src);
    img_progress_end(&progress);
    return rc;
}

int img_convert(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.cache = "unsafe", .src_cache = "writeback", .copy = {.sparse = 4096, .workers = 8}};
    int rc = parse(img, &o, &a);
    if (rc < 0) {
        rc = open_and_convert(img, &a);
    }
    g_free(a.options);
    img_snapshot_param_finish(&a.snapshot);
    json_object_put(a.keys);
    return rc;
}
