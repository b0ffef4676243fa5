/* SPDX-License-Identifier: BSD-2-Clause */
/* `wait`: until a job has ended. */
#include "cli/ctl/follow.h"
#include "cli/ctl/target.h"
#include "cli/ctl/verbs.h"

static int run(struct ctl *c)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    if (ctl_connect(c, &e)) {
        return ctl_fail(c, &e);
    }
    struct follow_spec f = {.job = c->operands[0], .on_ready = ctl_option(c, "ready") ? FOLLOW_RETURN : FOLLOW_STAY};
    int rc = follow_job(c, &f);
    if (rc != CTL_LEFT && !ctl_option(c, "ready")) {
        target_release(c, c->operands[0]);
    }
    return rc;
}

static const struct ctl_option options[] = {
    {"ready", NULL, "only until it is ready to be completed"},
    {"reconnect", "SECONDS", "how long to try when the connection breaks (30)"},
    {NULL, NULL, NULL},
};

const struct ctl_verb verb_wait = {
    .name = "wait",
    .operands = "JOB",
    .min = 1,
    .max = 1,
    .help = "waits for a job's end, shows how far it is, and ends as it does",
    .options = options,
    .run = run,
};
