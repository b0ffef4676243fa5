/* SPDX-License-Identifier: BSD-2-Clause */
/* file: output to a file, input perhaps from another. null: nothing at all. */
#include "base/cleanup.h"
#include "char/impl.h"

#include <fcntl.h>

struct file {
    int out, in;
};

static int file_create(struct chardev *c, struct jread *r, struct err *e)
{
    struct file *f = g_new0(struct file, 1);
    *f = (struct file){.out = -1, .in = -1};
    c->state = f;
    const char *path = jread_str(r, "path");
    const char *input = jread_str_or(r, "input-path", NULL);
    bool append = jread_bool_or(r, "append", false);
    if (r->rc) {
        return r->rc;
    }
    f->out = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (append ? O_APPEND : O_TRUNC), 0666);
    if (f->out < 0) {
        return err_set_errno(e, errno, "Failed to open '%s'", path);
    }
    f->in = input ? open(input, O_RDONLY | O_NONBLOCK | O_CLOEXEC) : -1;
    if (input && f->in < 0) {
        return err_set_errno(e, errno, "Failed to open '%s'", input);
    }
    stream_open(c, f->in, f->out, false);
    chardev_set_connected(c, true);
    return 0;
}

static void file_destroy(struct chardev *c)
{
    struct file *f = c->state;
    if (f && f->in >= 0) {
        close(f->in);
    }
    if (f && f->out >= 0) {
        close(f->out);
    }
    g_free(f);
}

/* The input has been read: the output goes on. */
static void file_hangup(struct chardev *c)
{
    fd_watch_destroy(c->stream.in_watch);
    c->stream.in_watch = NULL;
    c->stream.in = -1;
}

const struct chardev_driver chardev_file_driver = {
    .name = "file",
    .create = file_create,
    .destroy = file_destroy,
    .hangup = file_hangup,
};

static int null_create(struct chardev *c, struct jread *r, struct err *e)
{
    chardev_set_connected(c, true);
    return 0;
}

static void null_destroy(struct chardev *c)
{
}

const struct chardev_driver chardev_null_driver = {
    .name = "null",
    .create = null_create,
    .destroy = null_destroy,
};
