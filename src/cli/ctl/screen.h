/* SPDX-License-Identifier: BSD-2-Clause */
/* Lines at the end of a terminal that are drawn again in place, and tables. */
#pragma once

#include "cli/ctl/ctl.h"

enum screen_colour { COLOUR_NONE, COLOUR_GOOD, COLOUR_WAITS, COLOUR_BAD, COLOUR_DIM };

struct screen {
    struct ctl *c;
    unsigned lines; /* drawn, and to be drawn over */
};

/* Columns of the terminal; 80 when it does not say. */
unsigned screen_width(void);
unsigned screen_height(void);
/* Draws lines (char *) over those drawn before. Longer ones are cut. Only on a terminal. */
void screen_draw(struct screen *s, GPtrArray *lines);
/* Removes what is drawn. */
void screen_clear(struct screen *s);
/* Leaves what is drawn where it is. */
void screen_keep(struct screen *s);
/* The text in a colour, where colours are wanted; g_free. */
char *screen_paint(const struct ctl *c, enum screen_colour colour, const char *text);
/* Columns that a text takes. */
unsigned screen_columns(const char *text);

/* Rows of `columns` cells each (char *, owned, NULL: empty), printed in columns as wide as needed. */
struct table {
    unsigned columns;
    GPtrArray *cells;
};
struct table table_create(unsigned columns);
/* One row: as many strings as there are columns, taken. */
void table_row(struct table *t, ...);
/* Finished lines, without blanks at their ends. */
GPtrArray *table_lines(const struct table *t);
void table_finish(struct table *t);
/* Prints and frees. */
void table_print(struct table *t);
