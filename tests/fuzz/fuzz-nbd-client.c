/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile NBD server: whatever it says, to the greeting and to one request of each kind, must neither crash nor hang.
 * The first byte chooses what is asked for; the rest is all that the server ever sends.
 */
#include "base/cleanup.h"
#include "block/driver.h"
#include "block/io.h"
#include "loop/co.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { SAID_MAX = 64 << 10, BUF = 64 << 10, STEPS = 64 };

struct input {
    const uint8_t *data;
    size_t size;
    struct loop *loop;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct node *open_export(struct block_graph *g, int fd, uint8_t choice)
{
    static const char *const contexts[] = {"base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:b"};
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *server = json_object_new_object();
    CLEANUP_FREE char *text = g_strdup_printf("%d", fd);
    json_object_object_add(server, "type", json_object_new_string("fd"));
    json_object_object_add(server, "str", json_object_new_string(text));
    json_object_object_add(o, "driver", json_object_new_string("nbd"));
    json_object_object_add(o, "server", take(server));
    json_object_object_add(o, "discard", json_object_new_string("unmap"));
    json_object_object_add(o, "auto-read-only", json_object_new_boolean(true));
    json_object_object_add(o, "reconnect-delay", json_object_new_int(choice & 4 ? 1 : 0));
    if (choice & 3) {
        json_object_object_add(o, "x-dirty-bitmap", json_object_new_string(contexts[(choice & 3) - 1]));
    }
    if (choice & 8) {
        json_object_object_add(o, "export", json_object_new_string("disk"));
    }
    struct node *n = NULL;
    node_open(g, o, &n, &e);
    return n;
}

/* In the order that the corpus knows: libnbd numbers its requests from 1. */
static void use(struct node *n)
{
    struct extent x;
    struct edge *ed;
    unsigned perm = n->read_only ? PERM_READ : PERM_READ | PERM_WRITE;
    uint64_t off = 0, len = MIN(n->size, BUF);
    if (edge_open(n, &(struct edge_spec){"root", perm, PERM_ALL}, &ed, NULL) < 0) {
        return;
    }
    CLEANUP_FREE uint8_t *buf = g_malloc0(BUF);
    edge_read_buf(ed, 0, MIN(len, 512), buf);
    for (int i = 0; i < STEPS && off < n->size && node_status(n, true, off, n->size - off, &x) == 0; i++) {
        off += x.len;
    }
    edge_read_buf(ed, 0, len, buf);
    edge_write_buf(ed, 0, MIN(len, 512), buf, REQ_FUA);
    edge_zero(ed, 0, len, REQ_MAY_UNMAP);
    edge_discard(ed, 0, len);
    edge_read(ed, 0, len, NULL, 0, REQ_PREFETCH);
    edge_flush(ed);
    edge_close(ed);
}

static int run(void *arg)
{
    struct input *in = arg;
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd) < 0) {
        return -errno;
    }
    ssize_t said = send(fd[1], in->data + 1, MIN(in->size - 1, SAID_MAX), MSG_DONTWAIT | MSG_NOSIGNAL);
    shutdown(fd[1], SHUT_WR);
    struct block_graph *g = graph_create(in->loop, NULL, NULL);
    struct node *n = said >= 0 ? open_export(g, fd[0], in->data[0]) : NULL;
    if (n) {
        use(n);
        node_unref(n);
    }
    graph_destroy(g);
    close(fd[0]);
    close(fd[1]);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct loop *loop;
    if (!loop) {
        signal(SIGPIPE, SIG_IGN);
        loop = loop_create(LOOP_EPOLL, NULL);
    }
    if (size > 1) {
        struct input in = {data, size, loop};
        co_run(loop, run, &in);
    }
    return 0;
}
