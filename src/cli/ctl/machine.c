/* SPDX-License-Identifier: BSD-2-Clause */
/* `status`, `stop`, `cont`, `quit`: the machine as a whole. */
#include "cli/ctl/verbs.h"

#include <string.h>

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

const struct ctl_verb verb_status = {
    .name = "status", .operands = "", .help = "says whether the guest runs", .run = run_status};
const struct ctl_verb verb_stop = {
    .name = "stop", .operands = "", .help = "makes the guest stand still", .run = run_command};
const struct ctl_verb verb_cont = {.name = "cont", .operands = "", .help = "lets the guest go on", .run = run_command};
const struct ctl_verb verb_quit = {
    .name = "quit", .operands = "", .help = "ends the machine; the guest is not asked", .run = run_command};
