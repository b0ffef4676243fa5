/* SPDX-License-Identifier: BSD-2-Clause */
#include "crypto/rng.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <sys/random.h>
#include <unistd.h>

struct rng {
    unsigned refs;
    int fd; /* -1: getrandom */
};

struct rng *rng_create_builtin(void)
{
    struct rng *r = g_new0(struct rng, 1);
    r->refs = 1;
    r->fd = -1;
    return r;
}

struct rng *rng_ref(struct rng *r)
{
    r->refs++;
    return r;
}

void rng_unref(struct rng *r)
{
    if (r && --r->refs == 0) {
        if (r->fd >= 0) {
            close(r->fd);
        }
        g_free(r);
    }
}

ssize_t rng_read(struct rng *r, void *buf, size_t n)
{
    ssize_t got = r->fd < 0 ? getrandom(buf, n, GRND_NONBLOCK) : read(r->fd, buf, n);
    if (got < 0) {
        return errno == EINTR ? -EAGAIN : -errno;
    }
    return got ? got : -ENODATA;
}

int rng_fd(const struct rng *r)
{
    return r->fd;
}

/* --- the objects -------------------------------------------------------------------------------------------------- */

static int builtin_create(struct object_make *m, void **impl, struct err *e)
{
    *impl = rng_create_builtin();
    return 0;
}

static int random_create(struct object_make *m, void **impl, struct err *e)
{
    struct json_object *given;
    const char *file = "/dev/urandom";
    if (json_object_object_get_ex(m->props, "filename", &given)) {
        file = json_object_get_string(given);
    } else {
        json_object_object_add(m->props, "filename", json_object_new_string(file));
    }
    int fd = open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        return err_set_errno(e, errno, "Could not open '%s'", file);
    }
    struct rng *r = rng_create_builtin();
    r->fd = fd;
    *impl = r;
    return 0;
}

static void destroy(void *impl)
{
    rng_unref(impl);
}

static bool in_use(void *impl)
{
    return ((struct rng *)impl)->refs > 1;
}

static const char *const random_props[] = {"filename", NULL};

const struct object_kind rng_builtin_kind = {
    .name = "rng-builtin", .create = builtin_create, .destroy = destroy, .in_use = in_use};
const struct object_kind rng_random_kind = {
    .name = "rng-random", .props = random_props, .create = random_create, .destroy = destroy, .in_use = in_use};
