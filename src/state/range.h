/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files that read tables and schemas share: ranges, names, finding a field. Anywhere. */
#pragma once

#include "state/field.h"

/* Of a number; both ends belong to it. Signed ones are kept as int64_t cast to uint64_t. */
struct state_range {
    bool is_signed;
    uint64_t min, max;
};
/* What a field's `min` and `max` mean: both 0 is all that the type can hold. */
struct state_range state_range(enum state_type t, uint64_t min, uint64_t max);
bool state_in_range(struct state_range r, uint64_t v);
/* "'NAME' is 9, which is not within 0 to 4". */
int state_range_err(struct state_range r, const char *name, uint64_t v, struct err *e);
/* Lower case, digits, "-_."; at most one '/', after a vendor's name. */
bool state_name_ok(const char *s);
/* The field that lies there; NULL: none. */
const struct state_field *state_field_at(const struct state_field *fields, size_t offset);

/* Bytes of a number in the stream. */
unsigned state_width(enum state_type t);
/* One element of a field in a state struct, as a number. */
uint64_t state_member_get(enum state_type t, const void *at);
void state_member_set(enum state_type t, void *at, uint64_t v);
/* How many elements of `f` are in use in the struct at `base`; more than `count` when that is what it says. */
uint64_t state_elements(const struct state_field *fields, const struct state_field *f, const void *base);

struct state_policy;
/* Whether the operator lets it go: "NAME" or "SECTION:NAME" is on the list. */
bool state_policy_drops(const struct state_policy *p, const char *section, const char *name);
/* Says so in the result: "PATH: NAME: what". */
void state_policy_dropped(const struct state_policy *p, const char *path, const char *name, const char *what);
