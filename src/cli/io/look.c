/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands that only look: alloc, map, length, info. */
#include "cli/io/io.h"

#include "base/json.h"
#include "block/io.h"
#include "cli/human.h"

#include <stdio.h>

uint64_t io_size(const struct io *io)
{
    return round_up(io->node->size, IO_SECTOR);
}

/* How far from `off` (at most `len`) the top layer's answer is the same. The part of the last sector behind the end is
 * like what lies before it. Negative errno, else whether it is allocated. */
static int is_allocated(struct io *io, uint64_t off, uint64_t len, uint64_t *run)
{
    struct extent x = {0};
    uint64_t size = io->node->size, at = off < size || !size ? off : size - 1;
    if (!size) {
        *run = len;
        return 0;
    }
    int rc = node_status(io->node, false, at, min_u64(len, size - at), &x);
    if (rc < 0) {
        return rc;
    }
    if (!x.len) {
        return -EIO;
    }
    *run = at + x.len >= size ? len : x.len;
    return (x.flags & EXT_ALLOCATED) != 0;
}

int io_cmd_alloc(struct io *io, int argc, char **argv)
{
    uint64_t start, count = IO_SECTOR, sum = 0, size = io_size(io);
    if (!io_parse_size(io, argv[1], &start) || (argc == 3 && !io_parse_size(io, argv[2], &count))) {
        return -EINVAL;
    }
    count = start > size ? 0 : min_u64(count, size - start);
    for (uint64_t at = start, left = count, run; left; at += run, left -= run) {
        int rc = is_allocated(io, at, left, &run);
        if (rc < 0) {
            io_print(io, "is_allocated failed: %s\n", g_strerror(-rc));
            return rc;
        }
        sum += rc ? run : 0;
    }
    CLEANUP_FREE char *where = io_size_text((double)start);
    io_print(io, "%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", sum, count, where);
    return 0;
}

static void print_run(struct io *io, uint64_t off, uint64_t len, bool allocated)
{
    CLEANUP_FREE char *length = io_size_text((double)len);
    CLEANUP_FREE char *where = io_size_text((double)off);
    io_print(io, "%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n", length, len,
             allocated ? "   " : "not", where, off);
}

int io_cmd_map(struct io *io, int argc, char **argv)
{
    if (io->node->no_medium) {
        io_fail(io, "Failed to query image length: %s", g_strerror(ENOMEDIUM));
        return -ENOMEDIUM;
    }
    uint64_t size = io_size(io), run, from = 0;
    int kind = -1;
    for (uint64_t at = 0; at < size; at += run) {
        int rc = is_allocated(io, at, size - at, &run);
        if (rc < 0 && kind >= 0) { /* what was found before is told, then it is tried again */
            print_run(io, from, at - from, kind);
            rc = is_allocated(io, at, size - at, &run);
            from = at;
            kind = -1;
        }
        if (rc < 0) {
            io_fail(io, "Failed to get allocation status: %s", g_strerror(-rc));
            return rc;
        }
        if (kind >= 0 && rc != kind) {
            print_run(io, from, at - from, kind);
            from = at;
        }
        kind = rc;
    }
    if (kind >= 0) {
        print_run(io, from, size - from, kind);
    }
    return 0;
}

int io_cmd_length(struct io *io, int argc, char **argv)
{
    if (io->node->no_medium) {
        io_print(io, "getlength: %s\n", g_strerror(ENOMEDIUM));
        return -ENOMEDIUM;
    }
    CLEANUP_FREE char *text = io_size_text((double)io_size(io));
    io_print(io, "%s\n", text);
    return 0;
}

/* The second name is that by which file names call a protocol. */
static void print_names(struct io *io, struct node *n)
{
    struct json_object *path = NULL;
    io_print(io, "format name: %s\n", n->drv->name);
    if (n->drv->is_protocol || n->drv->schemes) {
        json_object_object_get_ex(n->options, "path", &path);
        io_print(io, "format name: %s%s\n", n->drv->name, path ? "+unix" : "");
    }
}

int io_cmd_info(struct io *io, int argc, char **argv)
{
    struct node *n = io->image;
    struct driver_info info = {0};
    if (!n->no_medium) {
        print_names(io, n);
    }
    int rc = node_get_info(n, &info);
    if (rc < 0) {
        return rc;
    }
    CLEANUP_FREE char *cluster = io_size_text(info.cluster_size);
    CLEANUP_FREE char *state = io_size_text((double)info.vm_state_offset);
    io_print(io, "cluster size: %s\nvm state offset: %s\n", cluster, state);
    CLEANUP_JSON struct json_object *specific = n->drv->specific_info ? n->drv->specific_info(n) : NULL;
    struct json_object *data;
    if (specific && json_object_object_get_ex(specific, "data", &data)) {
        io_print(io, "Format specific information:\n");
        if (io->out) {
            CLEANUP_FREE char *text = json_text(data);
            io_print(io, "%s\n", text);
        } else {
            human_print(data, 1);
        }
    }
    return 0;
}
