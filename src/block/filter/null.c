/* SPDX-License-Identifier: BSD-2-Clause */
/* "null-co" and "null-aio": a disk of any size without data, for measuring and for tests. Both wait in the same way. */
#include "base/json.h"
#include "block/drivers.h"
#include "block/options.h"

#include <string.h>

struct null_state {
    uint64_t latency_ns;
    bool read_zeroes;
};

static int null_open(struct node *n, struct json_object *options, struct err *e)
{
    struct null_state *s = n->priv;
    struct jread r = jread_init(options, NULL, e);
    n->size = jread_size_or(&r, "size", 1ull << 30);
    int64_t latency = jread_int_or(&r, "latency-ns", 0);
    s->read_zeroes = jread_bool_or(&r, "read-zeroes", false);
    int rc = jread_end_lax(&r);
    if (rc < 0) {
        return rc;
    }
    if (latency < 0) {
        return err_set(e, EINVAL, "latency-ns is invalid");
    }
    s->latency_ns = (uint64_t)latency;
    g_free(n->filename);
    n->filename = g_strdup_printf("%s://", n->drv->name);
    return 0;
}

static int null_wait(struct node *n)
{
    struct null_state *s = n->priv;
    if (s->latency_ns) {
        co_sleep(s->latency_ns);
    }
    return 0;
}

static int null_read(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    struct null_state *s = n->priv;
    if (s->read_zeroes) {
        iovs_fill(v, voff, 0, len);
    }
    return null_wait(n);
}

static int null_write(struct node *n, uint64_t off, uint64_t len, const struct iovs *v, size_t voff, unsigned flags)
{
    return null_wait(n);
}

static int null_zero(struct node *n, uint64_t off, uint64_t len, unsigned flags)
{
    return null_wait(n);
}

static int null_status(struct node *n, bool want_zero, uint64_t off, uint64_t len, struct extent *out)
{
    struct null_state *s = n->priv;
    *out = (struct extent){.len = len, .flags = EXT_ALLOCATED | EXT_OFFSET, .offset = off, .file = n};
    out->flags |= s->read_zeroes ? EXT_ZERO : EXT_DATA;
    return 0;
}

static int null_truncate(struct node *n, uint64_t size, bool exact, int prealloc, struct err *e)
{
    if (prealloc != PREALLOC_OFF) {
        return err_set(e, ENOTSUP, "Unsupported preallocation mode '%s'", prealloc_names[prealloc]);
    }
    node_set_size(n, size);
    return 0;
}

static int64_t null_allocated_size(struct node *n)
{
    return 0;
}

/* Nothing can be said in the name. */
static int null_parse_filename(const char *filename, struct json_object *options, struct err *e)
{
    const char *driver = json_get_str(options, "driver");
    if (g_str_has_prefix(filename, driver) && strcmp(filename + strlen(driver), "://") == 0) {
        return 0;
    }
    return err_set(e, EINVAL, "The only allowed filename for this driver is '%s://'", driver);
}

static const char *const null_options[] = {"filename", "size", "latency-ns", "read-zeroes", NULL};
static const char *const null_co_schemes[] = {"null-co", NULL};
static const char *const null_aio_schemes[] = {"null-aio", NULL};

const struct block_driver null_co_driver = {
    .name = "null-co",
    .priv_size = sizeof(struct null_state),
    .is_protocol = true,
    .option_names = null_options,
    .schemes = null_co_schemes,
    .parse_filename = null_parse_filename,
    .open = null_open,
    .reopen_names = (const char *const[]){NULL},
    .read = null_read,
    .write = null_write,
    .zero = null_zero,
    .flush = null_wait,
    .status = null_status,
    .truncate = null_truncate,
    .allocated_size = null_allocated_size,
};

const struct block_driver null_aio_driver = {
    .name = "null-aio",
    .priv_size = sizeof(struct null_state),
    .is_protocol = true,
    .option_names = null_options,
    .schemes = null_aio_schemes,
    .parse_filename = null_parse_filename,
    .open = null_open,
    .reopen_names = (const char *const[]){NULL},
    .read = null_read,
    .write = null_write,
    .zero = null_zero,
    .flush = null_wait,
    .status = null_status,
    .truncate = null_truncate,
    .allocated_size = null_allocated_size,
};
