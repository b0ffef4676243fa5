/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON shown to people, as QEMU's tools lay it out. */
#pragma once

#include <glib.h>
#include <json-c/json.h>

/* An object's keys in the order in which QEMU lists them; borrowed strings. */
GPtrArray *human_keys(struct json_object *o);
/* "    label: value" lines, `level` steps to the right; "-" in keys becomes a blank. */
void human_print(struct json_object *v, int level);
