/* SPDX-License-Identifier: BSD-2-Clause */
/* events: what `sterna -event-log` wrote. */
#include "base/json.h"
#include "cli/state/state.h"
#include "config/event_log.h"

#include <stdio.h>

static bool print(void *opaque, struct json_object *event)
{
    CLEANUP_FREE char *text = json_text(event);
    return puts(text) >= 0;
}

static int run(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    unsigned long bad;
    if (event_log_read(a->operands[0], print, NULL, &bad, &e) < 0) {
        return state_fail(&e);
    }
    if (bad && !a->quiet) {
        fprintf(stderr, "sterna-state: %lu lines are torn or damaged, and were left out\n", bad);
    }
    return STATE_OK;
}

const struct state_verb state_verb_events = {"events", "FILE", "the events that a log holds", "q", 1, 1, run};
