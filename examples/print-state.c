/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Prints a saved machine with libsternastate: print-state FILE, or "-" for standard input.
 *
 *     cc print-state.c $(pkg-config --cflags --libs sternastate)
 */
#include <sternastate.h>

#include <inttypes.h>
#include <stdio.h>

static void print_ram(struct sternastate *s)
{
    static const char *const kinds[] = {"zero", "raw", "zstd", "same as"};
    struct sternastate_run run;
    while (sternastate_next_run(s, &run) > 0) {
        printf("    block %" PRIu32 ", pages %" PRIu64 " to %" PRIu64 ": %s", run.block, run.page,
               run.page + run.pages - 1, kinds[run.kind]);
        if (run.kind == STERNASTATE_SAME) {
            printf(" block %" PRIu64 ", page %" PRIu64, run.other_block, run.other_page);
        }
        putchar('\n');
    }
}

int main(int argc, char **argv)
{
    char *error = NULL;
    struct sternastate *s = sternastate_open(argc == 2 ? argv[1] : "-", &error);
    if (!s) {
        fprintf(stderr, "print-state: %s\n", error);
        sternastate_free(error);
        return 1;
    }
    printf("manifest: %s\n", sternastate_manifest(s));
    struct sternastate_chunk c;
    int rc;
    while ((rc = sternastate_next(s, &c)) > 0) {
        printf("%s at %" PRIu64 ", %" PRIu64 " bytes\n", c.type, c.offset, c.length);
        if (c.kind == STERNASTATE_RAM) {
            print_ram(s);
        } else if (c.kind == STERNASTATE_DEVICE) {
            char *json = sternastate_device(s);
            printf("    %s\n", json ? json : "?");
            sternastate_free(json);
        }
    }
    if (rc < 0) {
        fprintf(stderr, "print-state: %s\n", sternastate_error(s));
    }
    sternastate_close(s);
    return rc < 0;
}
