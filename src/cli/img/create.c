/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include <string.h>

struct args {
    struct img_common common;
    const char *fmt, *backing, *backing_fmt, *filename;
    char *options; /* all -o, joined */
    int64_t size;  /* -1: not given */
    bool unsafe;
};

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,         OPT_SPEC_OBJECT,        {'F', "backing-format", true}, {'b', "backing", true},
    {'f', "format", true}, {'o', "options", true}, {'q', "quiet", false},         {'u', "backing-unsafe", false},
    OPT_SPEC_END,
};

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        switch (key) {
        case 'F':
            a->backing_fmt = o->value;
            break;
        case 'b':
            a->backing = o->value;
            break;
        case 'o':
            if (!img_add_options(img, &a->options, o->value)) {
                return 1;
            }
            break;
        default:
            a->unsafe = true;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a->common);
    }
    a->fmt = a->common.fmt ? a->common.fmt : "raw";
    unsigned n;
    char **names = opts_operands(o, &n);
    a->filename = n ? names[0] : NULL;
    if (!n && !(a->options && img_is_help(a->options))) {
        return img_fail_usage(img, "Expecting image file name");
    }
    static const int64_t range[] = {0, INT64_MAX};
    if (n > 1 && !img_number(img, "image size", names[1], range, &a->size)) {
        return 1;
    }
    if (n > 2) {
        return img_fail_usage(img, "Unexpected argument: %s", names[2]);
    }
    return -1;
}

static int set_options(struct img_new *nd, const struct args *a, struct err *e)
{
    int rc = a->options ? img_new_parse(nd, a->options, e) : 0;
    if (rc) {
        return rc;
    }
    if (a->backing && img_new_set(nd, "backing_file", a->backing, NULL)) {
        return err_set(e, EINVAL, "Backing file not supported for file format '%s'", a->fmt);
    }
    if (a->backing_fmt && img_new_set(nd, "backing_fmt", a->backing_fmt, NULL)) {
        return err_set(e, EINVAL, "Backing file format not supported for file format '%s'", a->fmt);
    }
    if (a->size >= 0) {
        if (img_new_get(nd, "size")) {
            return err_set(e, EINVAL, "The image size must be specified only once");
        }
        CLEANUP_FREE char *size = g_strdup_printf("%" PRId64, a->size);
        return img_new_set(nd, "size", size, e);
    }
    return 0;
}

/* Whether the format takes its size from an image that it is about. */
static bool has_source(const struct img_new *nd)
{
    for (const struct create_option *o = nd->drv->create_options; o && o->name; o++) {
        if (strcmp(o->name, "source") == 0) {
            return true;
        }
    }
    return false;
}

static int make(struct tool *img, struct img_new *nd, const struct args *a, struct err *e)
{
    int rc = set_options(nd, a, e);
    rc = rc ? rc : img_new_check_backing(img, nd, a->unsafe, e);
    if (rc) {
        return rc;
    }
    if (!img_new_get(nd, "size") && !has_source(nd)) {
        return err_set(e, EINVAL, "Image creation needs a size parameter");
    }
    if (!a->common.quiet) {
        img_new_print(nd);
    }
    return img_new_create(img, nd, e);
}

int img_create(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.size = -1};
    int rc = parse(img, &o, &a);
    CLEANUP_FREE char *options = a.options;
    if (rc >= 0) {
        return rc;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd;
    rc = img_new_init(&nd, a.fmt, a.filename, &e);
    if (rc && a.options && img_is_help(a.options)) {
        return tool_fail(img, "%s", err_text(&e));
    }
    if (rc == 0 && a.options && img_is_help(a.options)) {
        img_new_print_help(img, &nd);
        return 0;
    }
    rc = rc ? rc : make(img, &nd, &a, &e);
    return rc ? tool_fail(img, "%s: %s", a.filename, err_text(&e)) : 0;
}
