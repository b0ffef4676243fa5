/* SPDX-License-Identifier: BSD-2-Clause */
/* config-check, config-seal, config-restore: the state file of `sterna -state`, without the machine. */
#include "cli/state/state.h"
#include "config/file.h"
#include "config/vm_state.h"

#include <inttypes.h>
#include <stdio.h>

static unsigned count(const struct config_file *f)
{
    unsigned n = 0;
    while (config_file_section(f, n)) {
        n++;
    }
    return n;
}

static int check(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    struct config_file *f;
    if (config_file_read(a->operands[0], vm_state_kinds, &f, &e) < 0) {
        return a->quiet ? STATE_FAILED : state_fail(&e);
    }
    if (a->json) {
        CLEANUP_JSON struct json_object *o = config_file_json(f);
        state_put_json(o);
    } else if (!a->quiet) {
        state_put_text(a->operands[0]);
        printf(": generation %" PRIu64 ", %u sections%s\n", config_file_generation(f), count(f),
               config_file_is_edited(f) ? ", edited by hand" : "");
    }
    config_file_close(f);
    return STATE_OK;
}

static int done(struct state_args *a, int rc, uint64_t generation, const struct err *e)
{
    if (rc < 0) {
        return state_fail(e);
    }
    if (!a->quiet) {
        state_put_text(a->operands[0]);
        printf(": generation %" PRIu64 "\n", generation);
    }
    return STATE_OK;
}

static int seal(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    uint64_t generation = 0;
    int rc = config_file_seal(a->operands[0], vm_state_kinds, &generation, &e);
    return done(a, rc, generation, &e);
}

static int restore(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    uint64_t generation = 0;
    int rc = config_file_restore(a->operands[0], &generation, &e);
    return done(a, rc, generation, &e);
}

const struct state_verb state_verb_config_check = {
    "config-check", "FILE", "whether a state file is whole and without mistakes", "oq", 1, 1, check};
const struct state_verb state_verb_config_seal = {
    "config-seal", "FILE", "a state file that was edited by hand gets a right last line", "q", 1, 1, seal};
const struct state_verb state_verb_config_restore = {
    "config-restore", "FILE", "a state file becomes its previous generation", "q", 1, 1, restore};
