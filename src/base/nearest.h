/* SPDX-License-Identifier: BSD-2-Clause */
/* "Did you mean …": the candidate closest to a mistyped word. */
#pragma once

#include "base/err.h"

#include <stddef.h>

/* Edit distance (insert, delete, change, swap of neighbours) of two words, letter case ignored. */
size_t edit_distance(const char *a, const char *b);
/* The best of the NULL-terminated list if it is near enough to be meant (a third of the word's length, at least 1);
 * NULL otherwise. */
const char *nearest_word(const char *word, const char *const *candidates);
/* `e` says that `word` is unknown: adds "; did you mean '…'?" where there is such a candidate. Returns the error's
 * code, negative. */
int err_suggest(struct err *e, const char *word, const char *const *candidates);
