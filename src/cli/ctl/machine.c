/* SPDX-License-Identifier: BSD-2-Clause */
/* `status`, `stop`, `cont`, `quit`: the machine as a whole. */
#include "cli/ctl/verbs.h"

#include <poll.h>
#include <string.h>
#include <sys/syscall.h>

enum { QUIT_MS = 60000 };

static int run_status(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *status = NULL, *name = NULL, *version = NULL;
    if (ctl_connect(c, &e) || ctl_call(c, "query-status", &status, &e, NULL) ||
        ctl_call(c, "query-version", &version, &e, NULL)) {
        return ctl_fail(c, &e);
    }
    if (ctl_call(c, "query-name", &name, &e, NULL) && e.cls != ERR_COMMAND_NOT_FOUND) {
        return ctl_fail(c, &e);
    }
    if (c->json) {
        json_object_object_add(status, "name", json_object_get(ctl_get(name, "name")));
        json_object_object_add(status, "version", json_object_get(ctl_get(version, "package")));
        ctl_put_json(status);
        return CTL_OK;
    }
    const char *called = ctl_str(name, "name");
    ctl_say(c, "%s%s%s (%s)", called, called[0] ? ": " : "", ctl_str(status, "status"), ctl_str(version, "package"));
    return CTL_OK;
}

static int run_command(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    return ctl_connect(c, &e) || ctl_call(c, c->verb->name, NULL, &e, NULL) ? ctl_fail(c, &e) : CTL_OK;
}

/* Until the program is gone, if that can be seen from here: whoever comes next wants its images. */
static void wait_for_process(int pidfd, int64_t end_ms)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    int64_t left = end_ms - client_now_ms();
    if (pidfd >= 0 && left > 0) {
        poll(&p, 1, (int)left);
    }
}

static int run_quit(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (ctl_connect(c, &e)) {
        return ctl_fail(c, &e);
    }
    int pid = client_peer(c->client);
    CLEANUP_CLOSE int pidfd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    int64_t end = client_now_ms() + QUIT_MS;
    int rc = ctl_call(c, "quit", NULL, &e, NULL);
    while (!rc && client_now_ms() < end) { /* the end of the connection is the answer */
        rc = client_wait(c->client, (int)MAX(end - client_now_ms(), 0), &e);
        json_object_put(client_event(c->client));
    }
    if (rc && rc != -ENOTCONN) {
        return ctl_fail(c, &e);
    }
    wait_for_process(pidfd, end);
    return CTL_OK;
}

const struct ctl_verb verb_status = {
    .name = "status", .operands = "", .help = "says whether the guest runs", .run = run_status};
const struct ctl_verb verb_stop = {
    .name = "stop", .operands = "", .help = "makes the guest stand still", .run = run_command};
const struct ctl_verb verb_cont = {.name = "cont", .operands = "", .help = "lets the guest go on", .run = run_command};
const struct ctl_verb verb_quit = {
    .name = "quit", .operands = "", .help = "ends the machine; the guest is not asked", .run = run_quit};
