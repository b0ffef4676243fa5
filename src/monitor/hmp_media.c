/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"

static int eject(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "eject", args, e);
}

static int change(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "blockdev-change-medium", args, e);
}

const struct hmp_command hmp_media_commands[] = {
    {"eject", "force:-f,device:B", "[-f] device", "eject a removable medium (use -f to force it)", eject},
    {"change", "device:B,force:-f,filename:F,format:s?,read-only-mode:s?",
     "device [-f] filename [format [read-only-mode]]",
     "change a removable medium (use -f to force it; read-only-mode: retain, read-only or read-write)", change},
    {NULL},
};
