/* SPDX-License-Identifier: BSD-2-Clause */
/* Text to values: what the command line and the human monitor give is strings, what the schema wants is typed. */
#pragma once

#include "monitor/check.h"

/*
 * A copy of `o` in which strings that stand where `t` wants a boolean ("on", "off"), an integer, a size ("1M") or a
 * number have become that. Everything else is as it was: the check comes afterwards. NULL with an error for text that
 * is none of what is wanted: "Parameter 'x' expects 'on' or 'off'". `o` NULL gives the empty object.
 */
struct json_object *schema_convert(const struct schema_type *t, struct json_object *o, struct err *e);
