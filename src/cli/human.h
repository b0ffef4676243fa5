/* SPDX-License-Identifier: BSD-2-Clause */
/* JSON shown to people, as QEMU's tools lay it out. */
#pragma once

#include <json-c/json.h>

/* "    label: value" lines, `level` steps to the right; "-" in keys becomes a blank. */
void human_print(struct json_object *v, int level);
