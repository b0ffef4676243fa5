/* SPDX-License-Identifier: BSD-2-Clause */
/* sterna-nbd: main(). Forks before there is a loop: an io_uring does not survive that. */
#include "cli/nbd/nbd.h"

#include "cli/standard_files.h"

#include <errno.h>
#include <string.h>

/* What the service manager has chosen cannot be chosen again. Below 0: go on. */
static int check_activation(const struct nbd_args *a, int sockets)
{
    if (sockets < 0) {
        return nbd_fail(a, "Socket activation failed: invalid file descriptor fd = 3: %s", strerror(-sockets));
    }
    if (!sockets) {
        return -1;
    }
    const char *why = a->socket          ? "Unix socket can't be set when using socket activation"
                      : a->device        ? "NBD device can't be set when using socket activation"
                      : a->list          ? "List mode is incompatible with socket activation"
                      : a->selinux_label ? "SELinux label can't be set when using socket activation"
                      : a->port          ? "TCP port number can't be set when using socket activation"
                      : a->bind          ? "The interface can't be set when using socket activation"
                                         : NULL;
    if (why) {
        return nbd_fail(a, "%s", why);
    }
    return sockets > 1 ? nbd_fail(a, "%s does not support socket activation with LISTEN_FDS > 1", a->prog) : -1;
}

static int with_tool(const struct nbd_args *a, const char *argv0, struct nbd_serve *s)
{
    struct tool t;
    if (!tool_init(&t, argv0, "sterna-nbd", "qemu-nbd")) {
        return 1;
    }
    s->tool = &t;
    for (guint i = 0; i < a->traces->len; i++) {
        CLEANUP_ERR struct err e = ERR_INIT;
        bool done = false;
        if (tool_trace(&t, a->traces->pdata[i], &done, &e)) {
            return tool_finish(&t, tool_fail(&t, "%s", err_text(&e)));
        }
        if (done) {
            return tool_finish(&t, 0);
        }
    }
    return tool_finish(&t, tool_run(&t, a->list ? nbd_list : nbd_serve, s));
}

static int run(const struct nbd_args *a, const char *argv0)
{
    struct nbd_daemon d = {.old_stderr = -1, .ready = -1};
    struct nbd_serve s = {.args = a, .daemon = &d, .activated = nbd_activation_sockets()};
    int rc = check_activation(a, s.activated);
    if (rc < 0 && a->disconnect) {
        rc = nbd_disconnect(a);
    }
    if (rc < 0) {
        rc = nbd_daemon_start(&d, a);
    }
    return rc < 0 ? with_tool(a, argv0, &s) : rc;
}

int main(int argc, char **argv)
{
    struct nbd_args a;
    standard_files_keep();
    int rc = nbd_parse(&a, argc, argv);
    rc = rc < 0 ? run(&a, argv[0]) : rc;
    nbd_args_finish(&a);
    return rc;
}
