/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/img/img.h"

#include <stdio.h>
#include <string.h>

static const struct opt_spec specs[] = {
    OPT_SPEC_HELP,
    OPT_SPEC_OBJECT,
    OPT_SPEC_IMAGE_OPTS,
    OPT_SPEC_OUTPUT,
    {'f', "format", true},
    {'U', "force-share", false},
    {'s', "start-offset", true},
    {'l', "max-length", true},
    OPT_SPEC_END,
};

struct entry {
    uint64_t start, length, offset;
    int depth;
    unsigned flags; /* EXT_ALLOCATED, EXT_ZERO, EXT_DATA, EXT_OFFSET */
    struct node *file;
};

static bool print_entry(struct tool *img, const struct entry *e, bool json, bool last)
{
    if (json) {
        printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %d, \"present\": %s, \"zero\": %s, "
               "\"data\": %s",
               e->start, e->length, e->depth, e->flags & EXT_ALLOCATED ? "true" : "false",
               e->flags & EXT_ZERO ? "true" : "false", e->flags & EXT_DATA ? "true" : "false");
        if (e->flags & EXT_OFFSET) {
            printf(", \"offset\": %" PRIu64, e->offset);
        }
        puts(last ? "}]" : "},");
        return true;
    }
    if ((e->flags & EXT_DATA) && !(e->flags & EXT_OFFSET)) {
        tool_fail(img, "File contains external, encrypted or compressed clusters.");
        return false;
    }
    if ((e->flags & (EXT_DATA | EXT_ZERO)) == EXT_DATA) {
        printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start, e->length, e->offset,
               e->file ? e->file->filename : "");
    }
    return true;
}

static int next_entry(struct img_disk *d, uint64_t off, uint64_t len, struct entry *out)
{
    struct extent x;
    int depth = 0;
    int rc = img_disk_status(d, off, len, &x, &depth);
    if (rc) {
        return rc;
    }
    *out = (struct entry){
        .start = off,
        .length = min_u64(x.len, len),
        .depth = depth,
        .flags = x.flags & (EXT_ALLOCATED | EXT_ZERO | EXT_DATA | EXT_OFFSET),
    };
    if (x.flags & EXT_OFFSET) {
        out->offset = x.offset;
        out->file = x.file;
    }
    return 0;
}

static bool joins(const struct entry *a, const struct entry *b)
{
    return a->length && a->flags == b->flags && a->depth == b->depth && a->file == b->file &&
           (!(a->flags & EXT_OFFSET) || a->offset + a->length == b->offset);
}

static int print_map(struct tool *img, struct img_disk *d, uint64_t start, uint64_t end, bool json)
{
    struct entry run = {.start = start}, next;
    for (uint64_t off = start; off < end; off += next.length) {
        int rc = next_entry(d, off, min_u64(end - off, UINT64_C(1) << 30), &next);
        if (rc) {
            return tool_fail(img, "Could not read file metadata: %s", g_strerror(-rc));
        }
        if (joins(&run, &next)) {
            run.length += next.length;
            continue;
        }
        if (run.length && !print_entry(img, &run, json, false)) {
            return 1;
        }
        run = next;
    }
    return (run.length || json) && !print_entry(img, &run, json, true);
}

int img_map(struct tool *img, int argc, char **argv)
{
    static const int64_t range[] = {0, INT64_MAX};
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    struct img_common c = {0};
    int64_t start = 0, max = INT64_MAX;
    int key;
    while ((key = img_next(img, &o, &c)) > OPTS_END) {
        bool is_start = key == 's';
        if (!img_number(img, is_start ? "start offset" : "max length", o.value, range, is_start ? &start : &max)) {
            return 1;
        }
    }
    if (key != OPTS_END) {
        return img_opts_exit(&c);
    }
    const char *name = img_one_operand(img, &o);
    struct img_open how = {.fmt = c.fmt, .image_opts = c.image_opts, .force_share = c.force_share};
    CLEANUP_DISK struct img_disk d = IMG_DISK_NONE;
    if (!name || !img_disk_open(img, name, &how, &d)) {
        return 1;
    }
    if (c.json) {
        putchar('[');
    } else {
        printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
    }
    uint64_t size = img_disk_size(&d), end = size;
    if ((uint64_t)start < size && (uint64_t)max < size - (uint64_t)start) {
        end = (uint64_t)start + (uint64_t)max;
    }
    return print_map(img, &d, (uint64_t)start, end, c.json);
}
