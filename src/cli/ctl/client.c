/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/client.h"

#include "base/cleanup.h"
#include "cli/ctl/dial.h"

#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum { MAX_MESSAGE = 64 << 20, MAX_DEPTH = 128 };

struct client {
    char *address;
    int fd, wake_fd;
    struct json_tokener *parser;
    size_t pending; /* bytes of the message that has begun */
    GQueue events;  /* struct json_object */
    GQueue answers;
    uint64_t last_id;
};

int64_t client_now_ms(void)
{
    return g_get_monotonic_time() / 1000;
}

struct client *client_create(const char *address)
{
    struct client *cl = g_new0(struct client, 1);
    cl->address = g_strdup(address);
    cl->fd = cl->wake_fd = -1;
    g_queue_init(&cl->events);
    g_queue_init(&cl->answers);
    return cl;
}

static void put_json(gpointer o)
{
    json_object_put(o);
}

static void drop(struct client *cl)
{
    cleanup_close(&cl->fd);
    cl->fd = -1;
    if (cl->parser) {
        json_tokener_free(cl->parser);
        cl->parser = NULL;
    }
    cl->pending = 0;
    g_queue_clear_full(&cl->answers, put_json);
}

void client_destroy(struct client *cl)
{
    if (cl) {
        drop(cl);
        g_queue_clear_full(&cl->events, put_json);
        g_free(cl->address);
        g_free(cl);
    }
}

const char *client_address(const struct client *cl)
{
    return cl->address;
}

bool client_is_local(const struct client *cl)
{
    const char *rest;
    return dial_is_unix(cl->address, &rest);
}

void client_set_wake_fd(struct client *cl, int fd)
{
    cl->wake_fd = fd;
}

int client_peer(const struct client *cl)
{
    struct ucred peer = {0};
    socklen_t n = sizeof(peer);
    bool known = client_is_local(cl) && cl->fd >= 0 && !getsockopt(cl->fd, SOL_SOCKET, SO_PEERCRED, &peer, &n);
    return known ? (int)peer.pid : 0;
}

char *client_peer_folder(const struct client *cl)
{
    int pid = client_peer(cl);
    CLEANUP_FREE char *link = g_strdup_printf("/proc/%d/cwd", pid);
    return pid ? g_file_read_link(link, NULL) : NULL;
}

/* --- messages ----------------------------------------------------------------------------------------------------- */

static int lost(struct client *cl, struct err *e, const char *why)
{
    drop(cl);
    return err_set(e, ENOTCONN, "the connection to '%s' is lost: %s", cl->address, why);
}

static void keep(struct client *cl, struct json_object *message)
{
    g_queue_push_tail(json_object_object_get_ex(message, "event", NULL) ? &cl->events : &cl->answers, message);
}

static int parse(struct client *cl, const char *data, size_t n, struct err *e)
{
    while (n) {
        if (!cl->pending && g_ascii_isspace(*data)) { /* between messages */
            data++;
            n--;
            continue;
        }
        struct json_object *message = json_tokener_parse_ex(cl->parser, data, (int)n);
        enum json_tokener_error why = json_tokener_get_error(cl->parser);
        if (why == json_tokener_continue) {
            cl->pending += n;
            return cl->pending > MAX_MESSAGE ? lost(cl, e, "a message is too long") : 0;
        }
        if (why != json_tokener_success || !json_object_is_type(message, json_type_object)) {
            json_object_put(message);
            return lost(cl, e, "what comes from there is not QMP; is it a human monitor?");
        }
        size_t used = json_tokener_get_parse_end(cl->parser);
        json_tokener_reset(cl->parser);
        cl->pending = 0;
        data += used;
        n -= used;
        keep(cl, message);
    }
    return 0;
}

static int receive(struct client *cl, struct err *e)
{
    char buf[16384];
    ssize_t n = recv(cl->fd, buf, sizeof(buf), MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return 0;
    }
    if (n <= 0) {
        return lost(cl, e, n < 0 ? g_strerror(errno) : "the other end closed it");
    }
    return parse(cl, buf, (size_t)n, e);
}

/* Takes what comes; 1: wake_fd is ready; 0 also when the time is up. */
static int turn(struct client *cl, int timeout_ms, struct err *e)
{
    if (cl->fd < 0) {
        return err_set(e, ENOTCONN, "there is no connection to '%s'", cl->address);
    }
    struct pollfd p[] = {{.fd = cl->fd, .events = POLLIN}, {.fd = cl->wake_fd, .events = POLLIN}};
    if (poll(p, 2, timeout_ms) < 0) {
        return 0;
    }
    int rc = p[0].revents ? receive(cl, e) : 0;
    return rc ? rc : p[1].revents != 0;
}

/* The next answer, which is the caller's. `end_ms`: 0 for ever. */
static int answer(struct client *cl, int64_t end_ms, struct json_object **out, struct err *e)
{
    while (!(*out = g_queue_pop_head(&cl->answers))) {
        int64_t left = end_ms ? end_ms - client_now_ms() : -1;
        if (end_ms && left <= 0) {
            return err_set(e, ETIMEDOUT, "nothing comes from '%s'", cl->address);
        }
        int rc = turn(cl, (int)left, e);
        if (rc) {
            return rc < 0 ? rc : err_set(e, EINTR, "interrupted");
        }
    }
    return 0;
}

static int send_message(struct client *cl, struct json_object *message, struct err *e)
{
    if (cl->fd < 0) {
        return err_set(e, ENOTCONN, "there is no connection to '%s'", cl->address);
    }
    CLEANUP_FREE char *text = g_strconcat(json_object_to_json_string_ext(message, JSON_C_TO_STRING_PLAIN), "\n", NULL);
    for (size_t at = 0, n = strlen(text); at < n;) {
        ssize_t done = send(cl->fd, text + at, n - at, MSG_NOSIGNAL);
        if (done < 0 && errno != EINTR) {
            return lost(cl, e, g_strerror(errno));
        }
        at += done > 0 ? (size_t)done : 0;
    }
    return 0;
}

static int error_of(const char *command, struct json_object *error, struct err *e)
{
    struct json_object *v;
    const char *cls = json_object_object_get_ex(error, "class", &v) ? json_object_get_string(v) : "";
    const char *text = json_object_object_get_ex(error, "desc", &v) ? json_object_get_string(v) : "no reason given";
    enum err_class which = ERR_KVM_MISSING_CAP;
    while (which != ERR_GENERIC && strcmp(err_class_name(which), cls) != 0) {
        which--;
    }
    return err_set_class(e, which, EIO, "%s: %s", command, text);
}

int client_call(struct client *cl, const char *command, struct json_object *args, struct json_object **ret,
                struct err *e)
{
    CLEANUP_JSON struct json_object *message = json_object_new_object();
    uint64_t id = ++cl->last_id;
    json_object_object_add(message, "execute", json_object_new_string(command));
    json_object_object_add(message, "id", json_object_new_int64((int64_t)id));
    if (args) {
        json_object_object_add(message, "arguments", args);
    }
    int rc = send_message(cl, message, e);
    for (;;) {
        CLEANUP_JSON struct json_object *a = NULL;
        struct json_object *v;
        rc = rc ? rc : answer(cl, 0, &a, e);
        if (rc) {
            return rc;
        }
        if (!json_object_object_get_ex(a, "id", &v) || json_object_get_uint64(v) != id) {
            continue; /* of a command that was given up */
        }
        if (json_object_object_get_ex(a, "error", &v)) {
            return error_of(command, v, e);
        }
        if (ret) {
            *ret = json_object_get(json_object_object_get(a, "return"));
        }
        return 0;
    }
}

struct json_object *client_event(struct client *cl)
{
    return g_queue_pop_head(&cl->events);
}

int client_wait(struct client *cl, int timeout_ms, struct err *e)
{
    int64_t end = client_now_ms() + timeout_ms;
    while (g_queue_is_empty(&cl->events)) {
        int64_t left = timeout_ms < 0 ? -1 : MAX(end - client_now_ms(), 0);
        int rc = turn(cl, (int)left, e);
        if (rc) {
            return MIN(rc, 0);
        }
        if (timeout_ms >= 0 && client_now_ms() >= end) {
            return 0;
        }
    }
    return 0;
}

int client_connect(struct client *cl, unsigned timeout_ms, struct err *e)
{
    drop(cl);
    g_queue_clear_full(&cl->events, put_json);
    cl->fd = dial(cl->address, timeout_ms, e);
    if (cl->fd < 0) {
        return -ENOTCONN;
    }
    cl->parser = json_tokener_new_ex(MAX_DEPTH);
    CLEANUP_JSON struct json_object *greeting = NULL;
    int rc = answer(cl, client_now_ms() + timeout_ms, &greeting, e);
    if (rc == -ETIMEDOUT) {
        drop(cl);
        return err_set(e, ENOTCONN,
                       "'%s' does not greet: another client is connected to it; give the machine a second -qmp socket",
                       cl->address);
    }
    if (!rc && !json_object_object_get_ex(greeting, "QMP", NULL)) {
        rc = lost(cl, e, "what comes from there is not QMP");
    }
    return rc ? rc : client_call(cl, "qmp_capabilities", NULL, NULL, e);
}
