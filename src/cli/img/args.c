/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include "base/json.h"
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int img_fail_usage(struct tool *img, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    tool_fail(img, "%s", text);
    fprintf(stderr, "Try '%s --help' for more information\n", img->prog);
    return 1;
}

static bool set_output(struct tool *img, struct img_common *c, const char *value)
{
    c->json = strcmp(value, "json") == 0;
    if (!c->json && strcmp(value, "human") != 0) {
        tool_fail(img, "--output must be used with human or json as argument.");
        return false;
    }
    return true;
}

int img_next(struct tool *img, struct opts *o, struct img_common *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    for (;;) {
        int key = opts_next(o);
        switch (key) {
        case OPTS_UNKNOWN:
            img_fail_usage(img, "unrecognized option '%s'", o->word);
            return key;
        case OPTS_NO_VALUE:
            img_fail_usage(img, "missing argument for option '%s'", o->word);
            return key;
        case OPTS_END:
            if (c->image_opts && c->fmt) {
                tool_fail(img, "--image-opts and --format are mutually exclusive");
                return OPTS_UNKNOWN;
            }
            return key;
        case 'h':
            img_print_help(img);
            c->help = true;
            return OPTS_UNKNOWN;
        case OPT_OBJECT:
            if (tool_object(img, o->value, &e)) {
                tool_fail(img, "%s", err_text(&e));
                return OPTS_UNKNOWN;
            }
            break;
        case OPT_IMAGE_OPTS:
            c->image_opts = true;
            break;
        case OPT_OUTPUT:
            if (!set_output(img, c, o->value)) {
                return OPTS_UNKNOWN;
            }
            break;
        case 'q':
            c->quiet = true;
            break;
        case 'U':
            c->force_share = true;
            break;
        case 'f':
            c->fmt = o->value;
            break;
        default:
            return key;
        }
    }
}

const char *img_one_operand(struct tool *img, struct opts *o)
{
    unsigned n;
    char **names = opts_operands(o, &n);
    if (n != 1) {
        img_fail_usage(img, "Expecting one image file name");
        return NULL;
    }
    return names[0];
}

bool img_add_options(struct tool *img, char **options, const char *more)
{
    size_t len = strlen(more), commas = 0;
    while (commas < len && more[len - 1 - commas] == ',') {
        commas++;
    }
    if (len == 0 || more[0] == ',' || commas % 2) { /* two stand for one that is part of a value */
        tool_fail(img, "Invalid option list: %s", more);
        return false;
    }
    char *joined = *options ? g_strdup_printf("%s,%s", *options, more) : g_strdup(more);
    g_free(*options);
    *options = joined;
    return true;
}

bool img_number(struct tool *img, const char *what, const char *text, const int64_t range[2], int64_t *out)
{
    uint64_t v = 0;
    int rc = parse_size(text, &v);
    if (rc == -EINVAL) {
        tool_fail(img, "Invalid %s specified. You may use k, M, G, T, P or E suffixes for", what);
        tool_fail(img, "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.");
        return false;
    }
    if (rc || v > INT64_MAX || (int64_t)v < range[0] || (int64_t)v > range[1]) {
        tool_fail(img, "Invalid %s specified. Must be between %" PRId64 " and %" PRId64 ".", what, range[0], range[1]);
        return false;
    }
    *out = (int64_t)v;
    return true;
}
