/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A SCSI bus: logical units at addresses channel:target:lun, behind a host adapter that is itself a device. The bus
 * finds places, routes commands, and answers for a target what no logical unit answers. Loop thread; plugging and
 * unplugging with the machine quiesced.
 */
#pragma once

#include "device/device.h"
#include "device/scsi.h"

struct scsi_bus;
struct scsi_lun;

/* Unit attention conditions, the one that is reported first first. */
enum scsi_attention {
    SCSI_ATTENTION_RESET,
    SCSI_ATTENTION_LUNS_CHANGED,
    SCSI_ATTENTION_MEDIUM_CHANGED,
    SCSI_ATTENTION_MODE_CHANGED,
    SCSI_ATTENTION_CAPACITY_CHANGED,
    SCSI_ATTENTIONS
};
extern const struct scsi_sense scsi_attention_sense[SCSI_ATTENTIONS];

struct scsi_lun_ops {
    /* Does it; false: the machine stops for an error, and it is to be done again when that goes on. [co] */
    bool (*run)(struct scsi_lun *l, struct scsi_req *r);
    void (*reset)(struct scsi_lun *l);          /* by the bus, the target or itself; nothing of it is in flight */
    void (*hurry)(struct scsi_lun *l, bool on); /* see backend_hurry() */
    void (*machine_goes_on)(struct scsi_lun *l);
};

struct scsi_lun {
    const struct scsi_lun_ops *ops;
    struct device *dev;
    struct scsi_bus *bus; /* NULL: not plugged */
    unsigned channel, target, lun;
    uint32_t attentions; /* guest state: a bit per enum scsi_attention that is to be reported */
};

/* What the host adapter is told. */
struct scsi_hba_ops {
    void (*plugged)(struct scsi_bus *b, struct scsi_lun *l);
    void (*unplugged)(struct scsi_bus *b, struct scsi_lun *l);
    /* Something about it changed by itself: `what` is the unit attention for it, which is set already. */
    void (*changed)(struct scsi_bus *b, struct scsi_lun *l, struct scsi_sense what);
    /* The adapter's own place for firmware's boot order; g_malloc'd. */
    char *(*boot_path)(struct device *hba);
};

struct scsi_bus {
    char *name;         /* "scsi0.0" */
    struct device *hba; /* whose id gives it */
    const struct scsi_hba_ops *ops;
    unsigned max_channel, max_target, max_lun;
    GPtrArray *luns; /* struct scsi_lun *, by address */
};

/* The bus is on the board and can be named by "bus=". */
void scsi_bus_init(struct scsi_bus *b, struct device *hba, const struct scsi_hba_ops *ops);
/* Nothing is on it; zero-filled is fine. */
void scsi_bus_finish(struct scsi_bus *b);
void scsi_bus_reset(struct scsi_bus *b);

enum scsi_outcome {
    SCSI_DONE,
    SCSI_AGAIN,     /* as scsi_lun_ops.run's false */
    SCSI_NO_TARGET, /* nobody is there */
};
enum scsi_outcome scsi_bus_run(struct scsi_bus *b, unsigned target, unsigned lun, struct scsi_req *r); /* [co] */
struct scsi_lun *scsi_bus_find(const struct scsi_bus *b, unsigned target, unsigned lun);
bool scsi_bus_has_target(const struct scsi_bus *b, unsigned target);

/* "bus", "channel", "scsi-id" and "lun": one of a logical unit's tables. */
extern const struct device_prop scsi_lun_props[];
/* Plugs it where its device's properties say; it reports a reset first. */
int scsi_lun_plug(struct scsi_lun *l, struct device *d, struct err *e);
void scsi_lun_unplug(struct scsi_lun *l);
char *scsi_lun_boot_path(const struct scsi_lun *l);
void scsi_lun_attention(struct scsi_lun *l, enum scsi_attention a);
/* The attention that is to be reported now, and no longer is then; false: none. */
bool scsi_lun_take_attention(struct scsi_lun *l, struct scsi_sense *out);
