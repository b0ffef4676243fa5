/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The verb `copy`: a copy that can be interrupted at any moment and gone on with. It makes a live-copy image (block/
 * live_copy) that names source and destination, and lets that do the work; --resume goes on with one that is there.
 */
#include "cli/img/img.h"

#include "base/json.h"
#include "block/live_copy/live_copy.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPT_TARGET_IMAGE_OPTS = OPT_OWN, OPT_REGION_SIZE, OPT_STATE, OPT_KEEP, OPT_RESUME, OPT_SWITCH, OPT_DETACH };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {OPT_TARGET_IMAGE_OPTS, "target-image-opts", false},
    {OPT_REGION_SIZE, "region-size", true},
    {OPT_STATE, "state", true},
    {OPT_KEEP, "keep", false},
    {OPT_RESUME, "resume", false},
    {OPT_SWITCH, "switch", false},
    {OPT_DETACH, "detach", false},
    {'O', NULL, true},
    {'f', NULL, true},
    {'m', NULL, true},
    {'n', NULL, false},
    {'o', NULL, true},
    {'p', NULL, false},
    {'q', NULL, false},
    {'r', NULL, true},
    {'t', NULL, true},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *source, *destination; /* destination NULL: source names the state */
    const char *out_fmt, *state, *cache;
    char *options; /* all -o, joined */
    int64_t rate, coroutines, region_size;
    bool target_image_opts, keep, resume, switch_over, detach, existing, progress;
};

/* --- arguments ---------------------------------------------------------------------------------------------------- */

static bool take_option(struct tool *img, struct args *a, int key, const char *value)
{
    static const int64_t rates[] = {1, INT64_MAX}, coroutines[] = {1, 16}, regions[] = {4096, 64 << 20};
    switch (key) {
    case 'O':
        a->out_fmt = value;
        return true;
    case 'm':
        return img_number(img, "number of coroutines", value, coroutines, &a->coroutines);
    case 'o':
        return img_add_options(img, &a->options, value);
    case 'r':
        return img_number(img, "rate limit", value, rates, &a->rate);
    case 't':
        a->cache = value;
        return true;
    case OPT_REGION_SIZE:
        return img_number(img, "region size", value, regions, &a->region_size);
    case OPT_STATE:
        a->state = value;
        return true;
    default:
        a->existing |= key == 'n';
        a->progress |= key == 'p';
        a->target_image_opts |= key == OPT_TARGET_IMAGE_OPTS;
        a->keep |= key == OPT_KEEP;
        a->resume |= key == OPT_RESUME;
        a->switch_over |= key == OPT_SWITCH || key == OPT_DETACH;
        a->detach |= key == OPT_DETACH;
        return true;
    }
}

static int check_operands(struct tool *img, struct opts *o, struct args *a)
{
    struct tool_cache cache;
    unsigned n;
    char **names = opts_operands(o, &n);
    if (n != 2 && (n != 1 || !a->resume)) {
        return img_fail_usage(img, a->resume ? "Expecting one live-copy image, or source and destination"
                                             : "Expecting source and destination");
    }
    a->source = names[0];
    a->destination = n == 2 ? names[1] : NULL;
    if (!a->destination &&
        (a->state || a->existing || a->out_fmt || a->options || a->region_size || a->target_image_opts || a->keep)) {
        return tool_fail(img, "With --resume and one image, the image says what is copied where, and is kept");
    }
    if (a->target_image_opts && !a->existing) {
        return tool_fail(img, "--target-image-opts requires use of -n flag");
    }
    if (a->existing && a->options) {
        return tool_fail(img, "-o has no effect with -n");
    }
    if (!tool_parse_cache(a->cache, &cache)) {
        return tool_fail(img, "Invalid cache option: %s", a->cache);
    }
    return -1;
}

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        if (!take_option(img, a, key, o->value)) {
            return 1;
        }
    }
    return key != OPTS_END ? img_opts_exit(&a->common) : check_operands(img, o, a);
}

/* --- starting ----------------------------------------------------------------------------------------------------- */

/* As the live copy is to remember it: usable from any folder. g_free; NULL after an error. */
static char *full_name(const char *name, bool image_opts, struct err *e)
{
    if (image_opts) {
        CLEANUP_JSON struct json_object *o = keyval_parse(name, "file", e);
        return o ? g_strconcat("json:", json_object_to_json_string_ext(o, JSON_C_TO_STRING_NOSLASHESCAPE), NULL) : NULL;
    }
    return path_has_protocol(name) ? g_strdup(name) : g_canonicalize_filename(name, NULL);
}

/* The source is opened once, to know its size and its format. */
static int look_at_source(struct tool *img, const char *name, const char *fmt, uint64_t *size, char **found)
{
    struct img_open how = {.fmt = fmt};
    CLEANUP_DISK struct img_disk d = IMG_DISK_NONE;
    if (!img_disk_open(img, name, &how, &d)) {
        return 1;
    }
    *size = d.node->size;
    *found = g_strdup(d.node->drv->name);
    return 0;
}

static int make_destination(struct tool *img, const struct args *a, const char *name, uint64_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd = {0};
    CLEANUP_FREE char *bytes = g_strdup_printf("%" PRIu64, size);
    int rc = img_new_init(&nd, a->out_fmt ? a->out_fmt : "raw", name, &e);
    rc = rc || !a->options ? rc : img_new_parse(&nd, a->options, &e);
    if (rc == 0 && img_new_get(&nd, "size")) {
        rc = err_set(&e, EINVAL, "The destination has the size of the source: leave the size out");
    }
    rc = rc ? rc : img_new_set(&nd, "size", bytes, &e);
    rc = rc ? rc : img_new_create(img, &nd, &e);
    return rc ? tool_fail(img, "%s: error while creating the destination: %s", a->destination, err_text(&e)) : 0;
}

static int set_if(struct img_new *nd, const char *name, const char *value, struct err *e)
{
    return value ? img_new_set(nd, name, value, e) : 0;
}

static int make_state(struct tool *img, const struct args *a, const char *state, const char *const names[2],
                      const char *const fmts[2])
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd = {0};
    CLEANUP_FREE char *region = a->region_size ? g_strdup_printf("%" PRId64, a->region_size) : NULL;
    int rc = img_new_init(&nd, "live-copy", state, &e);
    rc = rc ? rc : set_if(&nd, "source", names[0], &e);
    rc = rc ? rc : set_if(&nd, "source_fmt", fmts[0], &e);
    rc = rc ? rc : set_if(&nd, "destination", names[1], &e);
    rc = rc ? rc : set_if(&nd, "destination_fmt", fmts[1], &e);
    rc = rc ? rc : set_if(&nd, "region_size", region, &e);
    rc = rc ? rc : img_new_create(img, &nd, &e);
    return rc ? tool_fail(img, "%s: %s", state, err_text(&e)) : 0;
}

static int start(struct tool *img, const struct args *a, const char *state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *source = full_name(a->source, a->common.image_opts, &e);
    CLEANUP_FREE char *destination = source ? full_name(a->destination, a->target_image_opts, &e) : NULL;
    CLEANUP_FREE char *fmt = NULL;
    uint64_t size;
    if (!destination) {
        return tool_fail(img, "%s", err_text(&e));
    }
    if (strcmp(source, destination) == 0) {
        return tool_fail(img, "Source and destination are the same image '%s'", a->source);
    }
    int rc = look_at_source(img, source, a->common.fmt, &size, &fmt);
    if (rc == 0 && !a->existing) {
        rc = make_destination(img, a, destination, size);
    }
    const char *names[] = {source, destination}, *fmts[] = {fmt, a->out_fmt ? a->out_fmt : a->existing ? NULL : "raw"};
    return rc ? rc : make_state(img, a, state, names, fmts);
}

/* --- running ------------------------------------------------------------------------------------------------------ */

static int open_state(struct tool *img, const struct args *a, const char *state, struct node **out)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *c = json_object_new_object();
    struct tool_cache cache = {0};
    bool image_opts = a->common.image_opts && !a->destination;
    tool_parse_cache(a->cache, &cache);
    json_object_object_add(c, "direct", json_object_new_boolean(cache.direct));
    json_object_object_add(c, "no-flush", json_object_new_boolean(cache.no_flush));
    json_object_object_add(o, "cache", take(c));
    if (!image_opts) {
        json_object_object_add(o, "driver", json_object_new_string("live-copy"));
    }
    if (tool_open(img, state, image_opts, o, out, &e)) {
        return tool_fail(img, "Could not open '%s': %s", state, err_text(&e));
    }
    if (!live_copy_of_node(*out)) {
        node_unref(take(*out));
        return tool_fail(img, "'%s' is not a live-copy image", state);
    }
    struct live_copy_options lo;
    live_copy_get_options(*out, &lo);
    lo.copying = true;
    lo.speed = a->rate ? (uint64_t)a->rate : lo.speed;
    lo.parallel = a->coroutines ? (unsigned)a->coroutines : 8;
    lo.record_ms = 1000;
    lo.retry_ms = 0; /* who called decides what to do about a failure */
    live_copy_set_options(*out, &lo);
    return 0;
}

/* 0: in sync; 1 after a message. */
static int copy_to_the_end(struct tool *img, struct node *n, struct img_progress *progress)
{
    static const char *const sides[] = {"source", "destination"};
    for (;;) {
        struct live_copy_status st;
        live_copy_get_status(n, &st);
        double total = st.total ? (double)st.total : 1;
        img_progress_set(progress, (total - (double)st.remaining) * 100 / total);
        for (int i = LIVE_COPY_SOURCE; i <= LIVE_COPY_DESTINATION; i++) {
            if (st.trouble[i]) {
                return tool_fail(img, "The %s cannot be used: %s", sides[i], st.trouble[i]);
            }
        }
        if (st.state != LIVE_COPY_COPYING && st.state != LIVE_COPY_DEGRADED && !st.remaining) {
            return 0;
        }
        if (st.passes) {
            return tool_fail(img, "error while %s byte %" PRIu64 ": %s", st.error_is_read ? "reading" : "writing",
                             st.error_off, g_strerror(-st.rc));
        }
        live_copy_wait(n, UINT64_C(100000000));
    }
}

static int end_copy(struct tool *img, struct node *n, const struct args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    int rc = a->switch_over ? live_copy_switch(n, &e) : 0;
    rc = rc || !a->detach ? rc : live_copy_detach(n, &e);
    return rc ? tool_fail(img, "%s", err_text(&e)) : 0;
}

static int run(struct tool *img, const struct args *a, const char *state)
{
    struct node *n = NULL;
    struct img_progress progress;
    if (open_state(img, a, state, &n)) {
        return 1;
    }
    img_progress_start(&progress, a->progress && !a->common.quiet);
    int rc = copy_to_the_end(img, n, &progress);
    rc = rc ? rc : end_copy(img, n, a);
    img_progress_end(&progress);
    int flushed = rc ? 0 : node_flush(n);
    node_unref(n);
    return flushed < 0 ? tool_fail(img, "Could not flush '%s': %s", state, g_strerror(-flushed)) : rc;
}

/* Whether a state that is there belongs to these two. */
static int check_state(struct tool *img, const struct args *a, const char *state)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_FREE char *source = full_name(a->source, a->common.image_opts, &e);
    CLEANUP_FREE char *destination = source ? full_name(a->destination, a->target_image_opts, &e) : NULL;
    struct img_open how = {.fmt = "live-copy", .no_backing = true};
    CLEANUP_DISK struct img_disk d = IMG_DISK_NONE;
    if (!destination) {
        return tool_fail(img, "%s", err_text(&e));
    }
    if (!img_disk_open(img, state, &how, &d)) {
        return 1;
    }
    const char *was[2];
    live_copy_get_names(d.node, was);
    if (strcmp(was[0], source) != 0 || strcmp(was[1], destination) != 0) {
        return tool_fail(img, "'%s' is of another copy: '%s' to '%s'", state, was[0], was[1]);
    }
    return 0;
}

static int copy_pair(struct tool *img, const struct args *a)
{
    CLEANUP_FREE char *state = a->state ? g_strdup(a->state) : g_strconcat(a->destination, ".live-copy", NULL);
    struct stat st;
    bool there = stat(state, &st) == 0;
    if (!a->state && (a->target_image_opts || path_has_protocol(a->destination))) {
        return tool_fail(img, "'%s' is not the name of a file: say with --state where to keep what has been copied",
                         a->destination);
    }
    if (there && !a->resume) {
        return tool_fail(
            img, "'%s' is there: a copy was interrupted. --resume goes on with it; remove it to start anew", state);
    }
    int rc = there ? check_state(img, a, state) : start(img, a, state);
    if (rc) {
        return rc;
    }
    rc = run(img, a, state);
    if (rc) {
        return tool_fail(img, "What has been copied is remembered in '%s': --resume goes on with it", state);
    }
    if (!a->keep && !a->switch_over && unlink(state) < 0) {
        return tool_fail(img, "Could not remove '%s': %s", state, g_strerror(errno));
    }
    return 0;
}

int img_copy(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.cache = "writeback"};
    int rc = parse(img, &o, &a);
    CLEANUP_FREE char *options = a.options;
    if (rc >= 0) {
        return rc;
    }
    return a.destination ? copy_pair(img, &a) : run(img, &a, a.source);
}
