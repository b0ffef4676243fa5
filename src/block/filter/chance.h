/* SPDX-License-Identifier: BSD-2-Clause */
/* What the filters for tests share: numbers that are the same in every run, and times as people write them. */
#pragma once

#include "base/err.h"

#include <json-c/json.h>
#include <stdint.h>

/* Any seed will do. */
struct chance {
    uint64_t state;
};
void chance_seed(struct chance *c, uint64_t seed);
/* From 0 to n - 1; n > 0. */
uint64_t chance_below(struct chance *c, uint64_t n);
/* True with this probability, from 0 to 1. */
bool chance_happens(struct chance *c, double probability);

/* A number of nanoseconds, or a text such as "250us", "1.5ms", "2s"; at most an hour. `name` is for the error. */
int duration_parse(struct json_object *o, const char *name, uint64_t *ns, struct err *e);
