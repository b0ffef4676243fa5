/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands that wait for their request: read, readv, write, writev, discard, flush, truncate. */
#include "cli/io/rw.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- options ---------------------------------------------------------------------------------------------------- */

static bool set_option(struct io *io, struct rw_args *a, int key, const char *value, bool reads)
{
    switch (key) {
    case 'b':
        return a->vmstate = true;
    case 'c':
        a->flags |= REQ_COMPRESSED;
        return true;
    case 'C':
        return a->compact = true;
    case 'f':
        a->flags |= REQ_FUA;
        return true;
    case 'i':
        return a->invalid = true;
    case 'l':
        a->check_len_given = true;
        return io_parse_size(io, value, &a->check_len);
    case 'n':
        a->flags |= REQ_NO_FALLBACK;
        return true;
    case 'p':
        return true; /* there once were other ways to read and write than by byte */
    case 'P':
        return io_parse_pattern(io, value, &a->pattern);
    case 'q':
        return a->quiet = true;
    case 's':
        if (reads) {
            a->check_at_given = true;
            return io_parse_size(io, value, &a->check_at);
        }
        a->source = value;
        return true;
    case 'u':
        a->flags |= REQ_MAY_UNMAP;
        return true;
    case 'v':
        return a->dump = true;
    default:
        return a->zero = true;
    }
}

int rw_parse(struct io *io, const struct opt_spec *specs, int argc, char **argv, bool reads, struct rw_args *a)
{
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    *a = (struct rw_args){.pattern = -1};
    int key;
    while ((key = opts_next(&o)) >= 0) {
        if (!set_option(io, a, key, o.value, reads)) {
            return -EINVAL;
        }
        if (a->invalid) {
            return 0;
        }
    }
    if (key != OPTS_END) {
        opts_print_error(&o, argv[0], key);
        return io_usage(io, argv[0]);
    }
    unsigned n;
    char **names = opts_operands(&o, &n);
    if (n < 2) {
        return io_usage(io, argv[0]);
    }
    a->n_operands = (int)n;
    a->operands = argv + 1;
    memcpy(a->operands, names, n * sizeof(*names)); /* where they live as long as argv does */
    return 0;
}

/* --- read and readv --------------------------------------------------------------------------------------------- */

static int failed(struct io *io, const char *what, int rc)
{
    io_print(io, "%s failed: %s\n", what, g_strerror(-rc));
    return rc;
}

static struct io_report report_for(const char *verb, const struct rw_args *a)
{
    return (struct io_report){.verb = verb, .compact = a->compact, .quiet = a->quiet};
}

static bool parse_length(struct io *io, const char *text, const char *unless, uint64_t *out)
{
    if (!io_parse_size(io, text, out)) {
        return false;
    }
    if (*out > IO_MAX_SIZE) {
        io_print(io, "length cannot exceed %" PRIu64 "%s, given %s\n", IO_MAX_SIZE, unless, text);
        return false;
    }
    return true;
}

/* Reads, compares [at, at + len) if there is a pattern, shows what was asked for. */
static int read_and_show(const char *what, struct io_request *r, uint64_t at, uint64_t len)
{
    int rc = io_request_read(r);
    if (rc < 0) {
        return failed(r->io, what, rc);
    }
    if (r->pattern >= 0 && !io_request_verify(r, at, len)) {
        rc = -EINVAL;
    }
    if (!r->report.quiet) {
        if (r->dump) {
            io_dump(r->io, r->iov.iov->iov_base, r->offset, r->bytes);
        }
        io_print_report(r->io, &r->report);
    }
    return rc;
}

int io_cmd_read(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {
        {'b'}, {'C'}, {'l', NULL, true}, {'p'}, {'P', NULL, true}, {'q'}, {'s', NULL, true}, {'v'}, {0}};
    struct rw_args a;
    uint64_t len;
    int rc = rw_parse(io, specs, argc, argv, true, &a);
    if (rc) {
        return rc;
    }
    if (a.n_operands != 2) {
        return io_usage(io, argv[0]);
    }
    struct io_request r = {
        .pattern = a.pattern, .vmstate = a.vmstate, .dump = a.dump, .report = report_for("read", &a)};
    if (!io_parse_size(io, a.operands[0], &r.offset) || !parse_length(io, a.operands[1], "", &len)) {
        return -EINVAL;
    }
    if (a.pattern < 0 && (a.check_at_given || a.check_len_given)) {
        return io_usage(io, argv[0]);
    }
    uint64_t check_len = a.check_len_given ? a.check_len : len - a.check_at, end;
    if (a.check_at > len || !add_ok(a.check_at, check_len, &end) || end > len) {
        io_print(io, "pattern verification range exceeds end of read data\n");
        return -EINVAL;
    }
    if (a.vmstate && (!io_check_sector(io, "offset", r.offset) || !io_check_sector(io, "count", len))) {
        return -EINVAL;
    }
    rc = io_request_init(&r, io, a.operands + 1, 1, 0xab) ? read_and_show("read", &r, a.check_at, check_len) : -EINVAL;
    io_request_finish(&r);
    return rc;
}

int io_cmd_readv(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'C'}, {'P', NULL, true}, {'q'}, {'v'}, {0}};
    struct rw_args a;
    int rc = rw_parse(io, specs, argc, argv, true, &a);
    if (rc) {
        return rc;
    }
    struct io_request r = {.pattern = a.pattern, .dump = a.dump, .report = report_for("read", &a)};
    if (!io_parse_size(io, a.operands[0], &r.offset)) {
        return -EINVAL;
    }
    rc = io_request_init(&r, io, a.operands + 1, a.n_operands - 1, 0xab) ? read_and_show("readv", &r, 0, r.bytes)
                                                                         : -EINVAL;
    io_request_finish(&r);
    return rc;
}

/* --- write and writev ------------------------------------------------------------------------------------------- */

/* Whether the options go together; false after a message. */
static bool write_options_fit(struct io *io, const struct rw_args *a)
{
    if (a->vmstate && a->zero) {
        io_print(io, "-b and -z cannot be specified at the same time\n");
    } else if ((a->flags & REQ_FUA) && (a->vmstate || (a->flags & REQ_COMPRESSED))) {
        io_print(io, "-f and -b or -c cannot be specified at the same time\n");
    } else if ((a->flags & REQ_NO_FALLBACK) && !a->zero) {
        io_print(io, "-n requires -z to be specified\n");
    } else if ((a->flags & REQ_MAY_UNMAP) && !a->zero) {
        io_print(io, "-u requires -z to be specified\n");
    } else if (a->zero + (a->pattern >= 0) + (a->source != NULL) > 1) {
        io_print(io, "Only one of -z, -P, and -s can be specified at the same time\n");
    } else {
        return true;
    }
    return false;
}

/* Fills the buffer with the file's bytes, again and again. */
static bool fill_from_file(struct io_request *r, const char *name)
{
    CLEANUP_FREE char *text = NULL;
    g_autoptr(GError) error = NULL;
    gsize size;
    if (!g_file_get_contents(name, &text, &size, &error)) {
        io_complain(r->io, "%s: %s\n", name, g_strerror(errno));
        return false;
    }
    if (!size) {
        io_complain(r->io, "%s: file is empty\n", name);
        return false;
    }
    for (uint64_t at = 0; at < r->bytes; at += size) {
        iovs_from_buf(&r->iov, at, text, min_u64(size, r->bytes - at));
    }
    return true;
}

static int write_and_show(const char *what, struct io_request *r, const struct rw_args *a)
{
    if (a->source && !fill_from_file(r, a->source)) {
        return -EINVAL;
    }
    int rc = a->zero ? io_request_zero(r) : io_request_write(r);
    if (rc < 0) {
        return failed(r->io, what, rc);
    }
    io_print_report(r->io, &r->report);
    return 0;
}

int io_cmd_write(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {
        {'b'}, {'c'}, {'C'}, {'f'}, {'n'}, {'p'}, {'P', NULL, true}, {'q'}, {'s', NULL, true}, {'u'}, {'z'}, {0}};
    struct rw_args a;
    int rc = rw_parse(io, specs, argc, argv, false, &a);
    if (rc) {
        return rc;
    }
    if (a.n_operands != 2) {
        return io_usage(io, argv[0]);
    }
    struct io_request r = {.flags = a.flags, .vmstate = a.vmstate, .report = report_for("wrote", &a)};
    bool limited = !(a.flags & REQ_NO_FALLBACK);
    if (!write_options_fit(io, &a) || !io_parse_size(io, a.operands[0], &r.offset) ||
        !(limited ? parse_length(io, a.operands[1], " without -n", &r.bytes)
                  : io_parse_size(io, a.operands[1], &r.bytes))) {
        return -EINVAL;
    }
    if ((a.vmstate || (a.flags & REQ_COMPRESSED)) &&
        (!io_check_sector(io, "offset", r.offset) || !io_check_sector(io, "count", r.bytes))) {
        return -EINVAL;
    }
    r.io = io;
    bool ready = a.zero || io_request_init(&r, io, a.operands + 1, 1, a.pattern < 0 ? 0xcd : a.pattern);
    rc = ready ? write_and_show("write", &r, &a) : -EINVAL;
    io_request_finish(&r);
    return rc;
}

int io_cmd_writev(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'C'}, {'f'}, {'q'}, {'P', NULL, true}, {0}};
    struct rw_args a;
    int rc = rw_parse(io, specs, argc, argv, false, &a);
    if (rc) {
        return rc;
    }
    struct io_request r = {.flags = a.flags, .report = report_for("wrote", &a)};
    if (!io_parse_size(io, a.operands[0], &r.offset)) {
        return -EINVAL;
    }
    bool ready = io_request_init(&r, io, a.operands + 1, a.n_operands - 1, a.pattern < 0 ? 0xcd : a.pattern);
    rc = ready ? write_and_show("writev", &r, &a) : -EINVAL;
    io_request_finish(&r);
    return rc;
}

/* --- discard, flush, truncate ----------------------------------------------------------------------------------- */

int io_cmd_discard(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'C'}, {'q'}, {0}};
    struct rw_args a;
    int rc = rw_parse(io, specs, argc, argv, false, &a);
    if (rc) {
        return rc;
    }
    if (a.n_operands != 2) {
        return io_usage(io, argv[0]);
    }
    struct io_request r = {.io = io, .report = report_for("discard", &a)};
    if (!io_parse_size(io, a.operands[0], &r.offset) || !parse_length(io, a.operands[1], "", &r.bytes)) {
        return -EINVAL;
    }
    rc = io_request_discard(&r);
    if (rc < 0) {
        return failed(io, "discard", rc);
    }
    io_print_report(io, &r.report);
    return 0;
}

int io_cmd_flush(struct io *io, int argc, char **argv)
{
    return edge_flush(io->edge);
}

int io_cmd_truncate(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'m', NULL, true}, {0}};
    CLEANUP_OPTS struct opts o = opts_init(argc, argv, specs);
    CLEANUP_ERR struct err e = ERR_INIT;
    int key, mode = PREALLOC_OFF;
    while ((key = opts_next(&o)) >= 0) {
        for (mode = 0; prealloc_names[mode] && strcmp(prealloc_names[mode], o.value); mode++) {
        }
        if (!prealloc_names[mode]) {
            io_fail(io, "Invalid preallocation mode '%s'", o.value);
            return -EINVAL;
        }
    }
    if (key != OPTS_END) {
        opts_print_error(&o, argv[0], key);
        return io_usage(io, argv[0]);
    }
    unsigned n;
    char **operands = opts_operands(&o, &n);
    uint64_t size;
    if (n < 1) {
        return io_usage(io, argv[0]);
    }
    if (!io_parse_size(io, operands[0], &size)) {
        return -EINVAL;
    }
    int rc = edge_truncate(io->edge, size, false, mode, &e);
    if (rc < 0) {
        io_fail(io, "%s", err_is_set(&e) ? err_text(&e) : g_strerror(-rc));
    }
    return rc < 0 ? rc : 0;
}
