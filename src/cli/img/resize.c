/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/json.h"

#include <stdio.h>
#include <string.h>

enum { OPT_SHRINK = OPT_OWN, OPT_PREALLOCATION };

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {'f', "format", true},
    {'q', "quiet", false},
    {OPT_SHRINK, "shrink", false},
    {OPT_PREALLOCATION, "preallocation", true},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *name, *size;
    bool shrink;
    int prealloc;
};

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        if (key == OPT_SHRINK) {
            a->shrink = true;
            continue;
        }
        for (a->prealloc = 0; prealloc_names[a->prealloc]; a->prealloc++) {
            if (strcmp(prealloc_names[a->prealloc], o->value) == 0) {
                break;
            }
        }
        if (!prealloc_names[a->prealloc]) {
            return tool_fail(img, "Invalid preallocation mode '%s'", o->value);
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a->common);
    }
    unsigned n;
    char **words = opts_operands(o, &n);
    if (n != 1) {
        return img_fail_usage(img, "Expecting image file name and size");
    }
    a->name = words[0];
    return -1;
}

/* "+1G", "-1G", "1G" → the new size. */
static int new_size(struct tool *img, const struct args *a, uint64_t now, uint64_t *out)
{
    char sign = a->size[0] == '+' || a->size[0] == '-' ? a->size[0] : 0;
    uint64_t n;
    if (parse_size(a->size + (sign != 0), &n)) {
        return tool_fail(img, "Parameter 'size' expects a non-negative number below 2^64\n"
                              "Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n"
                              "and exabytes, respectively.");
    }
    bool ok = true;
    if (sign == '+') {
        ok = add_ok(now, n, &n);
    } else if (sign == '-') {
        ok = n < now;
        n = now - n;
    }
    if (!ok || n == 0 || n > INT64_MAX) {
        return tool_fail(img, "New image size must be positive");
    }
    *out = n;
    return 0;
}

static int resize(struct tool *img, struct img_disk *d, const struct args *a)
{
    uint64_t now = img_disk_size(d), size = 0;
    int rc = new_size(img, a, now, &size);
    if (rc) {
        return rc;
    }
    if (size <= now && a->prealloc != PREALLOC_OFF) {
        return tool_fail(img, "Preallocation can only be used for growing images");
    }
    if (size < now && !a->shrink) {
        tool_fail(img, "Use the --shrink option to perform a shrink operation.");
        tool_warn(img,
                  "Shrinking an image will delete all data beyond the shrunken image's end. Before performing such "
                  "an operation, make sure there is no important data there.");
        return 1;
    }
    CLEANUP_ERR struct err e = ERR_INIT;
    if (edge_truncate(d->edge, size, true, a->prealloc, &e)) {
        return tool_fail(img, "%s%s", err_text(&e), img_hint(&e));
    }
    if (!a->common.quiet) {
        puts("Image resized.");
    }
    return 0;
}

int img_resize(struct tool *img, int argc, char **argv)
{
    struct args a = {.prealloc = PREALLOC_OFF};
    if (argc < 3) {
        return argc == 2 && (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0)
                   ? (img_print_help(img), 0)
                   : img_fail_usage(img, "Not enough arguments");
    }
    a.size = argv[argc - 1]; /* the last word, which may begin with a minus, is never an option */
    CLEANUP_OPTS struct opts o = opts_init(argc - 1, argv, specs);
    int rc = parse(img, &o, &a);
    if (rc >= 0) {
        return rc;
    }
    struct img_open how = {.fmt = a.common.fmt, .image_opts = a.common.image_opts, .writable = true, .resize = true};
    struct img_disk d;
    if (!img_disk_open(img, a.name, &how, &d)) {
        return 1;
    }
    rc = resize(img, &d, &a);
    int closed = img_disk_close(&d);
    if (closed && rc == 0) {
        return tool_fail(img, "Could not flush '%s': %s", a.name, g_strerror(-closed));
    }
    return rc;
}
