/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SCSI disks (scsi-hd) and CD-ROM drives (scsi-cd): logical units over a backend. What the files scsi_*.c share: the
 * device and its life (scsi_disk.c), which command does what (scsi_cmd.c), data (scsi_rw.c), what it is
 * (scsi_inquiry.c, scsi_mode.c), the drive's own commands (scsi_cd.c).
 *
 * Tray and lock are the backend's: the monitor moves them too. Loop thread.
 */
#pragma once

#include "device/disk.h"
#include "device/scsi_bus.h"

enum { SCSI_SERIAL_MAX = 36, SCSI_CD_BLOCK = 2048 };

struct scsi_disk {
    struct device dev;
    struct scsi_lun lun;
    struct disk disk;
    /* what it is */
    bool cd, removable, dpofua, default_wce;
    uint32_t block_size;
    const char *serial, *device_id; /* NULL: none; of the properties */
    /* guest state; the rest of it is in lun and in the backend */
    bool fresh;         /* not reset since it was made: the machine that starts with it keeps its lock */
    uint64_t blocks;    /* of the medium, as the guest was told */
    bool eject_request; /* the host wants the guest to let go of the medium */
    bool media_event;   /* a medium came or went, and GET EVENT STATUS NOTIFICATION has not said so yet */
};

extern const struct device_class scsi_hd_class, scsi_cd_class;

static inline struct scsi_disk *scsi_disk_of(struct scsi_lun *l)
{
    return (struct scsi_disk *)(void *)((char *)l - offsetof(struct scsi_disk, lun));
}

/* Whether there is a medium to read. */
bool scsi_disk_ready(const struct scsi_disk *s);
/* Why there is none. */
struct scsi_sense scsi_disk_not_ready(const struct scsi_disk *s);
bool scsi_disk_may_write(const struct scsi_disk *s);
/* What the guest changed is written down where a power cut does not lose it: before the guest is told that it is done.
 * Negative errno: it must be taken back. [co] */
int scsi_disk_settle(struct scsi_disk *s);
/* The guest has opened or closed the tray. */
void scsi_disk_tray_moved(struct scsi_disk *s);

/* struct scsi_lun_ops.run [co] */
bool scsi_disk_run(struct scsi_lun *l, struct scsi_req *r);

/* A command: 0, SCSI_FAILED or negative errno. [co] */
typedef int scsi_command_fn(struct scsi_disk *s, struct scsi_req *r);
scsi_command_fn scsi_cmd_read, scsi_cmd_write, scsi_cmd_verify, scsi_cmd_synchronize, scsi_cmd_unmap,
    scsi_cmd_write_same, scsi_cmd_read_capacity, scsi_cmd_service_action_in;
scsi_command_fn scsi_cmd_inquiry, scsi_cmd_mode_sense, scsi_cmd_mode_select;
scsi_command_fn scsi_cmd_read_toc, scsi_cmd_get_configuration, scsi_cmd_get_event_status, scsi_cmd_mechanism_status,
    scsi_cmd_read_disc_information;
