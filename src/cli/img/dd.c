/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BUF_SIZE (2u << 20)

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    {'f', "format", true},
    {'O', "output-format", true},
    {'U', "force-share", false},
    OPT_SPEC_END,
};

struct args {
    struct img_common common;
    const char *out_fmt, *in, *out;
    int64_t bs, count, skip; /* count -1: all */
};

static int parse_operand(struct tool *img, struct args *a, const char *word)
{
    static const int64_t sizes[] = {1, INT_MAX}, counts[] = {0, INT64_MAX};
    const char *eq = strchr(word, '=');
    size_t len = eq ? (size_t)(eq - word) : strlen(word);
    const struct {
        const char *name;
        int64_t *number;
        const int64_t *range;
        const char **text;
    } known[] = {
        {"bs", &a->bs, sizes, NULL}, {"count", &a->count, counts, NULL}, {"skip", &a->skip, counts, NULL},
        {"if", NULL, NULL, &a->in},  {"of", NULL, NULL, &a->out},
    };
    for (size_t i = 0; eq && i < G_N_ELEMENTS(known); i++) {
        if (strlen(known[i].name) != len || strncmp(known[i].name, word, len) != 0) {
            continue;
        }
        if (known[i].text) {
            *known[i].text = eq + 1;
            return 0;
        }
        return img_number(img, known[i].name, eq + 1, known[i].range, known[i].number) ? 0 : 1;
    }
    return tool_fail(img, "unrecognized operand %.*s", (int)len, word);
}

static int parse(struct tool *img, struct opts *o, struct args *a)
{
    int key;
    while ((key = img_next(img, o, &a->common)) > OPTS_END) {
        a->out_fmt = o->value;
    }
    if (key != OPTS_END) {
        return img_opts_exit(&a->common);
    }
    for (char **word = opts_operands(o, NULL); *word; word++) {
        int rc = parse_operand(img, a, *word);
        if (rc) {
            return rc;
        }
    }
    if (!a->in || !a->out) {
        return tool_fail(img, "Must specify both input and output files");
    }
    return -1;
}

/* Holes of the source stay holes: the target is new. */
static int copy(struct tool *img, struct img_disk *in, struct img_disk *out, uint64_t from, uint64_t size)
{
    char *buf = block_buf_alloc(in->node, BUF_SIZE);
    int rc = buf ? 0 : -ENOMEM;
    for (uint64_t off = 0, len; off < size && rc == 0; off += len) {
        struct extent x;
        int depth;
        len = size - off;
        rc = img_disk_status(in, from + off, len, &x, &depth);
        if (rc == 0 && (x.flags & EXT_ZERO)) {
            len = min_u64(len, x.len);
            continue;
        }
        len = min_u64(len, BUF_SIZE);
        rc = img_disk_read(in, from + off, len, buf);
        if (rc) {
            tool_fail(img, "error while reading from input image file: %s", g_strerror(-rc));
            break;
        }
        rc = img_disk_write(out, off, len, buf, 0);
        if (rc) {
            tool_fail(img, "error while writing to output image file: %s", g_strerror(-rc));
        }
    }
    free(buf);
    return rc ? 1 : 0;
}

static int create(struct tool *img, const struct args *a, uint64_t size)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_NEW struct img_new nd;
    CLEANUP_FREE char *text = g_strdup_printf("%" PRIu64, size);
    int rc = img_new_init(&nd, a->out_fmt, a->out, &e);
    if (rc && !nd.drv) {
        return tool_fail(img, "Unknown file format");
    }
    if (rc) {
        return tool_fail(img, "%s", err_text(&e));
    }
    rc = img_new_set(&nd, "size", text, &e);
    rc = rc ? rc : img_new_create(img, &nd, &e);
    return rc ? tool_fail(img, "%s: error while creating output image: %s", a->out, err_text(&e)) : 0;
}

static int dd(struct tool *img, const struct args *a, struct img_disk *in)
{
    uint64_t end = img_disk_size(in), skip, limit;
    if (a->count >= 0 && mul_ok((uint64_t)a->count, (uint64_t)a->bs, &limit)) {
        end = min_u64(end, limit);
    }
    bool beyond = !mul_ok((uint64_t)a->skip, (uint64_t)a->bs, &skip) || skip > end;
    uint64_t size = beyond ? 0 : end - skip;
    if (create(img, a, round_up(size, 512))) {
        return 1;
    }
    struct img_open how = {.fmt = a->out_fmt, .writable = true};
    struct img_disk out;
    if (!img_disk_open(img, a->out, &how, &out)) {
        return 1;
    }
    int rc = 0;
    if (beyond) {
        tool_fail(img, "%s: cannot skip to specified offset", a->in); /* only said: dd(1) does not fail either */
    } else {
        rc = copy(img, in, &out, skip, size);
    }
    int closed = img_disk_close(&out);
    return closed && rc == 0 ? tool_fail(img, "error while flushing '%s': %s", a->out, g_strerror(-closed)) : rc;
}

int img_dd(struct tool *img, int argc, char **argv)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct args a = {.out_fmt = "raw", .bs = 512, .count = -1};
    int rc = parse(img, &o, &a);
    if (rc >= 0) {
        return rc;
    }
    struct img_open how = {.fmt = a.common.fmt, .image_opts = a.common.image_opts, .force_share = a.common.force_share};
    CLEANUP_DISK struct img_disk in = IMG_DISK_NONE;
    return img_disk_open(img, a.in, &how, &in) ? dd(img, &a, &in) : 1;
}
