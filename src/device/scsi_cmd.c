/* SPDX-License-Identifier: BSD-2-Clause */
/* Which command does what, and what becomes of those that go wrong. */
#include "device/scsi_disk.h"

#include <string.h>

/* --- commands that are no more than this -------------------------------------------------------------------------- */

static int cmd_nothing(struct scsi_disk *s, struct scsi_req *r)
{
    return 0;
}

static int cmd_request_sense(struct scsi_disk *s, struct scsi_req *r)
{
    struct scsi_sense sense = SENSE_NONE;
    uint8_t d[SCSI_SENSE_LEN];
    if (r->cdb[1] & 1) { /* descriptor format */
        return scsi_fail(r, SENSE_INVALID_FIELD);
    }
    if (!scsi_lun_take_attention(&s->lun, &sense) && !scsi_disk_ready(s)) {
        sense = scsi_disk_not_ready(s);
    }
    scsi_sense_bytes(sense, d);
    return scsi_reply(r, d, sizeof(d), r->cdb[4]);
}

static int cmd_start_stop(struct scsi_disk *s, struct scsi_req *r)
{
    struct backend *b = s->disk.backend;
    bool start = r->cdb[4] & 1, load_eject = r->cdb[4] & 2, power = r->cdb[4] & 0xf0;
    if (!s->removable || !load_eject || power) {
        return 0;
    }
    if (!start && !b->tray_open && b->locked) {
        return scsi_fail(r, b->root ? SENSE_REMOVAL_PREVENTED : SENSE_EMPTY_AND_LOCKED);
    }
    if (b->tray_open != start) {
        return 0;
    }
    b->tray_open = !start;
    if (scsi_disk_settle(s) < 0) {
        b->tray_open = start;
        return scsi_fail(r, SENSE_TARGET_FAILURE);
    }
    scsi_disk_tray_moved(s);
    return 0;
}

static int cmd_prevent_allow(struct scsi_disk *s, struct scsi_req *r)
{
    bool was = s->disk.backend->locked, lock = r->cdb[4] & 1;
    if (!s->removable || lock == was) {
        return 0;
    }
    s->disk.backend->locked = lock;
    if (scsi_disk_settle(s) < 0) {
        s->disk.backend->locked = was;
        return scsi_fail(r, SENSE_TARGET_FAILURE);
    }
    return 0;
}

/* --- the table ---------------------------------------------------------------------------------------------------- */

enum {
    MEDIUM = 1,  /* needs one */
    DISK = 2,    /* of disks only */
    CD = 4,      /* of CD-ROM drives only */
    ANYWAY = 8,  /* is done although an attention is to be reported */
    WRITES = 16, /* refused where that is not allowed */
};

static const struct command {
    uint8_t opcode, flags;
    scsi_command_fn *run;
} commands[] = {
    {SCSI_TEST_UNIT_READY, MEDIUM, cmd_nothing},
    {SCSI_REQUEST_SENSE, ANYWAY, cmd_request_sense},
    {SCSI_READ_6, MEDIUM, scsi_cmd_read},
    {SCSI_WRITE_6, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_INQUIRY, ANYWAY, scsi_cmd_inquiry},
    {SCSI_MODE_SELECT_6, 0, scsi_cmd_mode_select},
    {SCSI_RESERVE_6, 0, cmd_nothing}, /* there is one initiator */
    {SCSI_RELEASE_6, 0, cmd_nothing},
    {SCSI_MODE_SENSE_6, 0, scsi_cmd_mode_sense},
    {SCSI_START_STOP_UNIT, 0, cmd_start_stop},
    {SCSI_PREVENT_ALLOW, 0, cmd_prevent_allow},
    {SCSI_READ_CAPACITY_10, MEDIUM, scsi_cmd_read_capacity},
    {SCSI_READ_10, MEDIUM, scsi_cmd_read},
    {SCSI_WRITE_10, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_SEEK_10, MEDIUM, cmd_nothing},
    {SCSI_WRITE_VERIFY_10, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_VERIFY_10, MEDIUM, scsi_cmd_verify},
    {SCSI_SYNCHRONIZE_CACHE_10, MEDIUM, scsi_cmd_synchronize},
    {SCSI_WRITE_SAME_10, MEDIUM | DISK | WRITES, scsi_cmd_write_same},
    {SCSI_UNMAP, MEDIUM | DISK | WRITES, scsi_cmd_unmap},
    {SCSI_READ_TOC, MEDIUM | CD, scsi_cmd_read_toc},
    {SCSI_GET_CONFIGURATION, CD | ANYWAY, scsi_cmd_get_configuration},
    {SCSI_GET_EVENT_STATUS, CD | ANYWAY, scsi_cmd_get_event_status},
    {SCSI_READ_DISC_INFORMATION, MEDIUM | CD, scsi_cmd_read_disc_information},
    {SCSI_MODE_SELECT_10, 0, scsi_cmd_mode_select},
    {SCSI_RESERVE_10, 0, cmd_nothing},
    {SCSI_RELEASE_10, 0, cmd_nothing},
    {SCSI_MODE_SENSE_10, 0, scsi_cmd_mode_sense},
    {SCSI_READ_16, MEDIUM | DISK, scsi_cmd_read},
    {SCSI_WRITE_16, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_WRITE_VERIFY_16, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_VERIFY_16, MEDIUM | DISK, scsi_cmd_verify},
    {SCSI_SYNCHRONIZE_CACHE_16, MEDIUM | DISK, scsi_cmd_synchronize},
    {SCSI_WRITE_SAME_16, MEDIUM | DISK | WRITES, scsi_cmd_write_same},
    {SCSI_SERVICE_ACTION_IN_16, MEDIUM | DISK, scsi_cmd_service_action_in},
    {SCSI_READ_12, MEDIUM, scsi_cmd_read},
    {SCSI_WRITE_12, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_WRITE_VERIFY_12, MEDIUM | DISK | WRITES, scsi_cmd_write},
    {SCSI_VERIFY_12, MEDIUM, scsi_cmd_verify},
    {SCSI_MECHANISM_STATUS, CD, scsi_cmd_mechanism_status},
};

static const struct command *find(const struct scsi_disk *s, uint8_t opcode)
{
    for (size_t i = 0; i < G_N_ELEMENTS(commands); i++) {
        if (commands[i].opcode == opcode) {
            return commands[i].flags & (s->cd ? DISK : CD) ? NULL : &commands[i];
        }
    }
    return NULL;
}

/* --- one command -------------------------------------------------------------------------------------------------- */

static int perform(struct scsi_disk *s, struct scsi_req *r)
{
    const struct command *c = find(s, r->cdb[0]);
    struct scsi_sense attention;
    if (!(c && c->flags & ANYWAY) && scsi_lun_take_attention(&s->lun, &attention)) {
        return scsi_fail(r, attention);
    }
    if (!c) {
        return scsi_fail(r, SENSE_INVALID_OPCODE);
    }
    if ((c->flags & MEDIUM) && !scsi_disk_ready(s)) {
        return scsi_fail(r, scsi_disk_not_ready(s));
    }
    if ((c->flags & WRITES) && !scsi_disk_may_write(s)) {
        return scsi_fail(r, SENSE_WRITE_PROTECTED);
    }
    return c->run(s, r);
}

static struct scsi_sense sense_of(const struct scsi_disk *s, int rc)
{
    switch (rc) {
    case -ENOMEDIUM:
        return scsi_disk_not_ready(s);
    case -ENOSPC:
        return SENSE_SPACE_ALLOCATION;
    case -ENOMEM:
        return SENSE_TARGET_FAILURE;
    default:
        return SENSE_IO_ERROR;
    }
}

static bool is_read(const struct scsi_req *r)
{
    switch (r->cdb[0]) {
    case SCSI_READ_6:
    case SCSI_READ_10:
    case SCSI_READ_12:
    case SCSI_READ_16:
    case SCSI_VERIFY_10:
    case SCSI_VERIFY_12:
    case SCSI_VERIFY_16:
        return true;
    default:
        return false;
    }
}

bool scsi_disk_run(struct scsi_lun *l, struct scsi_req *r)
{
    struct scsi_disk *s = scsi_disk_of(l);
    int rc = perform(s, r);
    if (rc < 0 && rc != -ENOMEDIUM) {
        enum io_error_action a = disk_failed(&s->disk, is_read(r), rc);
        if (a == IO_ERROR_STOP) {
            return false;
        }
        rc = a == IO_ERROR_IGNORE ? 0 : rc;
    }
    if (rc < 0) {
        scsi_fail(r, sense_of(s, rc));
    }
    return true;
}
