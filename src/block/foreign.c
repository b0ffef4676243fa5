/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Source documents: VMware's "Virtual Disk Format 1.1", VirtualBox's VDICore.h, Microsoft's VHD and VHDX
 * specifications, QEMU docs/interop/parallels.txt, Bochs's hdimage.h, the head of create_compressed_fs's output.
 */
#include "block/foreign.h"

#include "base/endian.h"

#include <stdbool.h>
#include <string.h>

struct mark {
    const char *format;
    size_t at, len;
    const char *bytes;
};

static const struct mark marks[] = {
    {"qcow", 0, 8, "QFI\xfb\0\0\0\1"},
    {"vmdk", 0, 4, "KDMV"},
    {"vmdk", 0, 4, "COWD"},
    {"vdi", 64, 4, "\x7f\x10\xda\xbe"},
    {"vhdx", 0, 8, "vhdxfile"},
    {"vpc", 0, 8, "conectix"},
    {"parallels", 0, 16, "WithoutFreeSpace"},
    {"parallels", 0, 16, "WithouFreSpacExt"},
    {"bochs", 0, 23, "Bochs Virtual HD Image"},
    {"cloop", 0, 44, "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0"},
};

/* A description of a vmdk image in words: comments and empty lines, then its version. */
static bool is_vmdk_text(const char *p, size_t len)
{
    const char *end = p + len;
    while (p < end) {
        const char *eol = memchr(p, '\n', (size_t)(end - p));
        if (!eol) {
            return false;
        }
        size_t n = (size_t)(eol - p) - (eol > p && eol[-1] == '\r');
        if (n == 9 && !memcmp(p, "version=", 8)) {
            return p[8] >= '1' && p[8] <= '3';
        }
        if (n && *p != '#' && strspn(p, " ") < n) {
            return false;
        }
        p = eol + 1;
    }
    return false;
}

const char *foreign_format(const uint8_t *head, size_t len)
{
    for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
        const struct mark *m = &marks[i];
        if (m->at + m->len <= len && !memcmp(head + m->at, m->bytes, m->len)) {
            return m->format;
        }
    }
    return is_vmdk_text((const char *)head, len) ? "vmdk" : NULL;
}
