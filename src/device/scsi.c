/* SPDX-License-Identifier: BSD-2-Clause */
#include "device/scsi.h"

#include "base/checked.h"

#include <string.h>

int scsi_fail(struct scsi_req *r, struct scsi_sense s)
{
    r->status = SCSI_CHECK_CONDITION;
    r->sense = s;
    r->moved = 0;
    return SCSI_FAILED;
}

int scsi_reply(struct scsi_req *r, const void *buf, size_t len, size_t alloc)
{
    size_t n = min_u64(len, alloc);
    r->overrun = n > r->in.size;
    r->moved = r->overrun ? 0 : iovs_from_buf(&r->in, 0, buf, n);
    return 0;
}

bool scsi_fetch(struct scsi_req *r, void *buf, size_t len)
{
    r->overrun = len > r->out.size;
    r->moved = r->overrun ? 0 : iovs_to_buf(&r->out, 0, buf, len);
    return !r->overrun;
}

void scsi_sense_bytes(struct scsi_sense s, uint8_t out[SCSI_SENSE_LEN])
{
    memset(out, 0, SCSI_SENSE_LEN);
    out[0] = 0x70;
    out[2] = s.key;
    out[7] = SCSI_SENSE_LEN - 8;
    out[12] = s.asc;
    out[13] = s.ascq;
}

void scsi_text(uint8_t *to, const char *text, size_t len)
{
    size_t n = strnlen(text, len);
    memcpy(to, text, n);
    memset(to + n, ' ', len - n);
}
