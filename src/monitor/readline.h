/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Editing of one line on a terminal of which we know nothing but that it understands a few ANSI sequences: cursor keys
 * or Ctrl-B/F/A/E, history by Up and Down or Ctrl-P/N, Backspace, Ctrl-D, -K, -U, -W, -L, Tab for completion.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct readline;
struct readline_ops {
    void (*write)(void *opaque, const char *s, size_t n);
    void (*line)(void *opaque, const char *line);
    /* What could stand at the end of `text` (the line up to the cursor): adds whole words to `words` and returns where
     * in text the word begins. */
    size_t (*complete)(void *opaque, const char *text, GPtrArray *words);
};

struct readline *readline_create(const char *prompt, const struct readline_ops *ops, void *opaque);
void readline_destroy(struct readline *rl); /* NULL is fine */
/* Writes the prompt and what has been typed so far. */
void readline_show(struct readline *rl);
/* Forgets what has been typed. */
void readline_clear(struct readline *rl);
bool readline_is_empty(const struct readline *rl);
void readline_key(struct readline *rl, uint8_t c);
