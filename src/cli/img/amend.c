/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum { OPT_FORCE = OPT_OWN };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,         OPT_SPEC_OBJECT,      OPT_SPEC_IMAGE_OPTS,
    {'f', "format", true}, {'o', NULL, true},    {'p', "progress", false},
    {'q', "quiet", false}, {'t', "cache", true}, {OPT_FORCE, "force", false},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *cache;
    char *options; /* all -o, joined */
    bool force, show;
    struct img_progress progress;
};

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        switch (key) {
        case 'o':
            if (!img_add_options(img, &a->options, o->value)) {
                return 1;
            }
            break;
        case 'p':
            a->show = true;
            break;
        case 't':
            a->cache = o->value;
            break;
        default:
            a->force = true;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a->common);
    }
    if (!a->options) {
        return img_fail_usage(img, "Must specify options (-o)");
    }
    a->show &= !a->common.quiet;
    return -1;
}

/* Whether the format has options that can change, and that are known by the name that we go by. */
static bool can_amend(struct tool *img, const struct block_driver *drv)
{
    for (const struct create_option *o = drv->amend_options; drv->amend && o && o->name; o++) {
        if (!o->ours || !img->as_qemu) {
            return true;
        }
    }
    tool_fail(img, "Format driver '%s' does not support option amendment", drv->name);
    return false;
}

static int print_help(struct tool *img, const struct block_driver *drv)
{
    if (!can_amend(img, drv)) {
        return 1;
    }
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    img_options_add(all, drv->amend_options);
    printf("Amend options for '%s':\n", drv->name);
    img_options_print(img, all);
    return 0;
}

/* An option that is only known when an image is made is another mistake than one that nobody knows. */
static int parse_options(const struct block_driver *drv, const char *text, struct json_object *out, struct err *e)
{
    g_autoptr(GPtrArray) some = g_ptr_array_new(), all = g_ptr_array_new();
    img_options_add(some, drv->amend_options);
    img_options_add(all, drv->amend_options);
    img_options_add(all, drv->create_options);
    CLEANUP_JSON struct json_object *created = json_object_new_object();
    int rc = img_options_parse(some, text, out, e);
    if (rc && img_options_parse(all, text, created, NULL) == 0) {
        json_object_object_foreach(created, key, v)
        {
            if (!img_option_find(some, key)) {
                return err_set(e, EINVAL, "Invalid parameter '%s'\nThis option is only supported for image creation",
                               key);
            }
        }
    }
    return rc;
}

/* Names and values as the driver's decoder wants them. */
static struct json_object *typed_options(const struct block_driver *drv, struct json_object *texts)
{
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    struct json_object *o = json_object_new_object();
    img_options_add(all, drv->amend_options);
    json_object_object_foreach(texts, key, v)
    {
        CLEANUP_FREE char *name = g_strdelimit(g_strdup(key), "_", '-');
        json_object_object_add(o, name, img_option_typed(img_option_find(all, key), json_object_get_string(v)));
    }
    return o;
}

static void show(void *opaque, uint64_t done, uint64_t total)
{
    struct args *a = opaque;
    img_progress_set(&a->progress, total ? 100.0 * (double)done / (double)total : 0);
}

static int amend(struct tool *img, struct img_disk *d, struct args *a)
{
    const struct block_driver *drv = d->node->drv;
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *texts = json_object_new_object();
    if (img_is_help(a->options)) {
        return print_help(img, drv);
    }
    if (!can_amend(img, drv)) {
        return 1;
    }
    if (parse_options(drv, a->options, texts, &e)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    CLEANUP_JSON struct json_object *opts = typed_options(drv, texts);
    struct amend_progress progress = {show, a};
    img_progress_start(&a->progress, a->show);
    int rc = drv->amend(d->node, opts, a->force, &progress, &e);
    img_progress_set(&a->progress, 100);
    if (rc < 0) {
        bool backing = strcmp(err_text(&e), "Cannot amend the backing file") == 0;
        tool_fail(img, "%s%s", err_text(&e), img_hint(&e));
        if (backing) {
            fprintf(stderr, "You can use '%s rebase' instead.\n", img->prog);
        }
    }
    return rc < 0;
}

static int run(struct tool *img, struct opts *o, struct args *a)
{
    struct img_open how = {.fmt = a->common.fmt, .image_opts = a->common.image_opts, .writable = true, .resize = true};
    struct img_disk d;
    unsigned n;
    char **names = opts_operands(o, &n);
    if (a->common.fmt && img_is_help(a->options)) {
        const struct block_driver *drv = driver_find(a->common.fmt);
        return drv ? print_help(img, drv) : tool_fail(img, "Unknown file format '%s'", a->common.fmt);
    }
    if (n != 1) {
        return tool_fail(img, "Expecting one image file name");
    }
    if (a->cache && !tool_parse_cache(a->cache, &how.cache)) {
        return tool_fail(img, "Invalid cache option: %s", a->cache);
    }
    if (!img_disk_open(img, names[0], &how, &d)) {
        return 1;
    }
    int rc = amend(img, &d, a), closed = img_disk_close(&d);
    return closed && !rc ? tool_fail(img, "Could not flush '%s': %s", names[0], g_strerror(-closed)) : rc;
}

int img_amend(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.show = false};
    int rc = parse(img, &o, &a);
    CLEANUP_FREE char *options = a.options;
    if (rc >= 0) {
        return rc;
    }
    a.progress.on = a.show; /* its line ends, whether it began or not */
    rc = run(img, &o, &a);
    img_progress_end(&a.progress);
    return rc;
}
