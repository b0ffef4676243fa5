/* SPDX-License-Identifier: BSD-2-Clause */
/* The commands for zoned devices, of which none of our drivers opens any: what they answer on all other disks. */
#include "cli/io/io.h"

#include <stdio.h>
#include <string.h>

int io_cmd_zone(struct io *io, int argc, char **argv)
{
    const char *verb = io_find_command(argv[0])->name + strlen("zone_");
    for (int i = 1; i < argc; i++) {
        uint64_t v;
        if (!io_parse_size(io, argv[i], &v)) {
            return -EINVAL;
        }
    }
    io_print(io, "zone %s failed: %s\n", verb, g_strerror(ENOTSUP));
    return -ENOTSUP;
}
