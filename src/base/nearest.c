/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/nearest.h"

#include <errno.h>
#include <glib.h>
#include <stdint.h>
#include <string.h>

static size_t min3(size_t a, size_t b, size_t c)
{
    return MIN(MIN(a, b), c);
}

size_t edit_distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), w = lb + 1;
    g_autofree size_t *rows = g_new(size_t, 3 * w); /* row i lives at (i % 3): swaps look two rows back */
    for (size_t j = 0; j <= lb; j++) {
        rows[j] = j;
    }
    for (size_t i = 1; i <= la; i++) {
        size_t *cur = rows + (i % 3) * w, *up = rows + ((i + 2) % 3) * w, *up2 = rows + ((i + 1) % 3) * w;
        cur[0] = i;
        for (size_t j = 1; j <= lb; j++) {
            char x = g_ascii_tolower(a[i - 1]), y = g_ascii_tolower(b[j - 1]);
            cur[j] = min3(up[j] + 1, cur[j - 1] + 1, up[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == g_ascii_tolower(b[j - 2]) && y == g_ascii_tolower(a[i - 2])) {
                cur[j] = MIN(cur[j], up2[j - 2] + 1);
            }
        }
    }
    return rows[(la % 3) * w + lb];
}

const char *nearest_word(const char *word, const char *const *candidates)
{
    const char *best = NULL;
    size_t best_d = SIZE_MAX;
    for (; *candidates; candidates++) {
        size_t d = edit_distance(word, *candidates);
        if (d < best_d) {
            best_d = d;
            best = *candidates;
        }
    }
    return best && best_d <= MAX(strlen(word) / 3, 1) ? best : NULL;
}

int err_suggest(struct err *e, const char *word, const char *const *candidates)
{
    if (!e) {
        return -EINVAL;
    }
    const char *near = nearest_word(word, candidates);
    if (near) {
        char *text = g_strdup_printf("%s; did you mean '%s'?", err_text(e), near);
        g_free(e->text);
        e->text = text;
    }
    return -e->code;
}
