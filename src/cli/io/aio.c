/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands that do not wait for their request: aio_read, aio_write, aio_discard; and aio_flush, which waits for all
 * of them. */
#include "cli/io/rw.h"

#include "block/io.h"

#include <stdio.h>

enum kind { WRITE, ZERO, DISCARD };

struct aio {
    struct io_request r;
    enum kind kind;
};

static void settle(struct aio *a)
{
    struct io *io = a->r.io;
    io_request_finish(&a->r);
    g_free(a);
    if (--io->pending == 0) {
        co_queue_wake_all(&io->settled);
    }
}

static void aio_read(void *arg)
{
    struct aio *a = arg;
    struct io_request *r = &a->r;
    struct io *io = r->io;
    int rc = io_request_read(r);
    co_yield (); /* who waited for this range goes on before its end is told */
    if (rc < 0) {
        io_print(io, "readv failed: %s\n", g_strerror(-rc));
    } else {
        if (r->pattern >= 0) {
            io_request_verify(r, 0, r->bytes);
        }
        if (!r->report.quiet) {
            if (r->dump) {
                io_dump(io, r->iov.iov->iov_base, r->offset, r->bytes);
            }
            io_print_report(io, &r->report);
        }
    }
    settle(a);
}

static void aio_change(void *arg)
{
    struct aio *a = arg;
    int (*const fns[])(struct io_request * r) = {io_request_write, io_request_zero, io_request_discard};
    struct io *io = a->r.io;
    int rc = fns[a->kind](&a->r);
    co_yield ();
    if (rc < 0) {
        io_print(io, "%s failed: %s\n", a->kind == DISCARD ? "aio_discard" : "aio_write", g_strerror(-rc));
    } else {
        io_print_report(io, &a->r.report);
    }
    settle(a);
}

/* Starts the request if its operands can be read; takes it over in any case. */
static int start(struct io *io, struct aio *a, const struct rw_args *args, int fill, co_fn *fn)
{
    struct io_request *r = &a->r;
    r->io = io;
    r->report.compact = args->compact;
    r->report.quiet = args->quiet;
    bool ok = io_parse_size(io, args->operands[0], &r->offset);
    if (ok && a->kind != WRITE) {
        ok = io_parse_size(io, args->operands[1], &r->bytes);
    } else if (ok) {
        ok = io_request_init(r, io, args->operands + 1, args->n_operands - 1, fill);
    }
    io->pending++;
    if (!ok) {
        settle(a);
        return -EINVAL;
    }
    co_start(co_loop(), fn, a);
    return 0;
}

int io_cmd_aio_read(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'C'}, {'P', NULL, true}, {'i'}, {'q'}, {'v'}, {0}};
    struct rw_args args;
    int rc = rw_parse(io, specs, argc, argv, true, &args);
    if (rc) {
        return rc;
    }
    if (args.invalid) {
        io_print(io, "injecting invalid read request\n");
        return 0;
    }
    struct aio *a = g_new0(struct aio, 1);
    a->r = (struct io_request){.pattern = args.pattern, .dump = args.dump, .report.verb = "read"};
    return start(io, a, &args, 0xab, aio_read);
}

int io_cmd_aio_write(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'C'}, {'f'}, {'i'}, {'P', NULL, true}, {'q'}, {'u'}, {'z'}, {0}};
    struct rw_args args;
    int rc = rw_parse(io, specs, argc, argv, false, &args);
    if (rc) {
        return rc;
    }
    if (args.invalid) {
        io_print(io, "injecting invalid write request\n");
        return 0;
    }
    if (args.zero && args.n_operands != 2) {
        io_print(io, "-z supports only a single length parameter\n");
        return -EINVAL;
    }
    if ((args.flags & REQ_MAY_UNMAP) && !args.zero) {
        io_print(io, "-u requires -z to be specified\n");
        return -EINVAL;
    }
    struct aio *a = g_new0(struct aio, 1);
    a->r = (struct io_request){.flags = args.flags, .pattern = -1, .report.verb = "wrote"};
    a->kind = args.zero ? ZERO : WRITE;
    return start(io, a, &args, args.pattern < 0 ? 0xcd : args.pattern, aio_change);
}

int io_cmd_aio_discard(struct io *io, int argc, char **argv)
{
    static const struct opt_spec specs[] = {{'C'}, {'q'}, {0}};
    struct rw_args args;
    int rc = rw_parse(io, specs, argc, argv, false, &args);
    if (rc) {
        return rc;
    }
    if (args.n_operands != 2) {
        return io_usage(io, argv[0]);
    }
    struct aio *a = g_new0(struct aio, 1);
    a->r = (struct io_request){.pattern = -1, .report.verb = "discarded "};
    a->kind = DISCARD;
    return start(io, a, &args, 0, aio_change);
}

void io_wait_settled(struct io *io)
{
    while (io->pending) {
        co_queue_wait(&io->settled);
    }
}

int io_cmd_aio_flush(struct io *io, int argc, char **argv)
{
    io_wait_settled(io);
    if (!io->tool) { /* what earlier lines began */
        node_drain_begin(io->node);
        node_drain_end(io->node);
    }
    return 0;
}
