/* SPDX-License-Identifier: BSD-2-Clause */
/* Sizes and JSON shown to people, as QEMU's tools lay them out. */
#pragma once

#include <json-c/json.h>
#include <stdint.h>

/* "    label: value" lines, `level` steps to the right; "-" in keys becomes a blank. */
void human_print(struct json_object *v, int level);
/* "1.5 GiB": three digits; g_free. */
char *human_size(uint64_t bytes);
