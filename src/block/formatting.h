/* SPDX-License-Identifier: BSD-2-Clause */
/* The line that tools and commands print of an image that they are about to make: "Formatting 'x', fmt=…", as
 * qemu-img's and QEMU's. */
#pragma once

#include "block/driver.h"

/* NULL: there is no such option. `list` may be NULL. */
const struct create_option *create_option_find(const struct create_option *list, const char *name);
/*
 * Prints the line to standard output at once. `opts`: the names of `fmt`'s create_options, and those of `proto`, the
 * file's driver (NULL: no file), which come last; what is not set is shown with its default where scripts know it so.
 */
void formatting_print(const char *filename, const char *fmt, const struct block_driver *proto,
                      struct json_object *opts);
