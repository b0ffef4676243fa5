/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A hostile NBD client: whatever it sends must neither crash the server nor leave anything of the connection behind.
 * The first byte chooses where it begins: with the greeting, or, after a good handshake, in transmission in one of the
 * modes; the rest is all that it ever sends.
 */
#include "base/checked.h"
#include "base/endian.h"
#include "block/dirty.h"
#include "block/driver.h"
#include "export/nbd/nbd.h"
#include "export/nbd/proto.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIZE = 1 << 20, SENT_MAX = 256 << 10, TURNS = 200000 };

struct world {
    struct loop *loop;
    struct block_graph *graph;
    struct nbd_server *server;
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int make(void *arg)
{
    struct world *w = arg;
    struct node *n = NULL;
    struct dirty_bitmap *b;
    struct nbd_bitmap_ref ref = {.name = "bits"};
    struct json_object *o = json_tokener_parse("{\"driver\":\"null-co\",\"size\":1048576,\"read-zeroes\":true}");
    if (node_open(w->graph, o, &n, NULL) < 0 || dirty_bitmap_create(n, "bits", 4096, &b, NULL) < 0) {
        abort();
    }
    json_object_put(o);
    for (uint64_t off = 0; off < SIZE; off += 8192) {
        dirty_bitmap_set(b, off, 1);
    }
    w->server = nbd_server_create(&(struct nbd_server_options){.graph = w->graph});
    struct nbd_export_options x = {.node = n,
                                   .name = "",
                                   .description = "d",
                                   .writable = true,
                                   .allocation_depth = true,
                                   .bitmaps = &ref,
                                   .n_bitmaps = 1};
    struct nbd_export_options y = {.node = n, .name = "ro"};
    if (nbd_export_add(w->server, &x, NULL, NULL) || nbd_export_add(w->server, &y, NULL, NULL)) {
        abort();
    }
    return 0;
}

/* --- what a good client says first -------------------------------------------------------------------------------- */

static void option(GByteArray *b, uint32_t opt, const void *data, uint32_t len)
{
    uint8_t head[NBD_OPTION_SIZE];
    store_be64(head, NBD_OPTS_MAGIC);
    store_be32(head + 8, opt);
    store_be32(head + 12, len);
    g_byte_array_append(b, head, sizeof(head));
    g_byte_array_append(b, data, len);
}

static void contexts(GByteArray *b)
{
    static const char *const names[] = {"base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:bits"};
    GByteArray *q = g_byte_array_new();
    uint8_t n[4] = {0};
    g_byte_array_append(q, n, 4);
    store_be32(n, 3);
    g_byte_array_append(q, n, 4);
    for (unsigned i = 0; i < 3; i++) {
        store_be32(n, (uint32_t)strlen(names[i]));
        g_byte_array_append(q, n, 4);
        g_byte_array_append(q, (const guint8 *)names[i], (guint)strlen(names[i]));
    }
    option(b, NBD_OPT_SET_META_CONTEXT, q->data, q->len);
    g_byte_array_free(q, true);
}

static void begin(GByteArray *b, uint8_t choice)
{
    static const uint8_t flags[4] = {0, 0, 0, 3}, go[6] = {0};
    if (!(choice & 3)) {
        return;
    }
    g_byte_array_append(b, flags, sizeof(flags));
    if ((choice & 3) > 1) {
        option(b, (choice & 3) == 2 ? NBD_OPT_STRUCTURED_REPLY : NBD_OPT_EXTENDED_HEADERS, go, 0);
        if (choice & 4) {
            contexts(b);
        }
    }
    option(b, NBD_OPT_GO, go, sizeof(go));
}

/* --- the conversation --------------------------------------------------------------------------------------------- */

static void swallow(int fd)
{
    static uint8_t sink[1 << 16];
    while (recv(fd, sink, sizeof(sink), MSG_DONTWAIT) > 0) {
    }
}

static void talk(struct world *w, const GByteArray *b)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        abort();
    }
    nbd_server_adopt(w->server, pair[1]);
    size_t sent = 0;
    unsigned turn = 0;
    for (; nbd_server_connections(w->server) && turn < TURNS; turn++) {
        ssize_t n = sent < b->len ? send(pair[0], b->data + sent, b->len - sent, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        sent += n > 0 ? (size_t)n : 0;
        if (sent == b->len) {
            shutdown(pair[0], SHUT_WR);
        }
        loop_turn(w->loop, false);
        swallow(pair[0]);
    }
    if (turn == TURNS) {
        abort(); /* something of it is stuck */
    }
    close(pair[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct world w;
    if (!w.loop) {
        signal(SIGPIPE, SIG_IGN);
        w.loop = loop_create(LOOP_EPOLL, NULL);
        w.graph = graph_create(w.loop, NULL, NULL);
        co_run(w.loop, make, &w);
    }
    if (!size || size > SENT_MAX) {
        return 0;
    }
    GByteArray *b = g_byte_array_new();
    begin(b, data[0]);
    g_byte_array_append(b, data + 1, (guint)(size - 1));
    talk(&w, b);
    g_byte_array_free(b, true);
    return 0;
}
