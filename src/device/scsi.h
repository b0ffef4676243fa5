/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * SCSI as all of it has it in common (SPC-5, SBC-4, MMC-6): operation codes, status, sense, and one command with its
 * answer. Loop thread.
 */
#pragma once

#include "block/io.h"

enum scsi_opcode {
    SCSI_TEST_UNIT_READY = 0x00,
    SCSI_REQUEST_SENSE = 0x03,
    SCSI_READ_6 = 0x08,
    SCSI_WRITE_6 = 0x0a,
    SCSI_INQUIRY = 0x12,
    SCSI_MODE_SELECT_6 = 0x15,
    SCSI_RESERVE_6 = 0x16,
    SCSI_RELEASE_6 = 0x17,
    SCSI_MODE_SENSE_6 = 0x1a,
    SCSI_START_STOP_UNIT = 0x1b,
    SCSI_PREVENT_ALLOW = 0x1e,
    SCSI_READ_CAPACITY_10 = 0x25,
    SCSI_READ_10 = 0x28,
    SCSI_WRITE_10 = 0x2a,
    SCSI_SEEK_10 = 0x2b,
    SCSI_WRITE_VERIFY_10 = 0x2e,
    SCSI_VERIFY_10 = 0x2f,
    SCSI_SYNCHRONIZE_CACHE_10 = 0x35,
    SCSI_WRITE_SAME_10 = 0x41,
    SCSI_UNMAP = 0x42,
    SCSI_READ_TOC = 0x43,
    SCSI_GET_CONFIGURATION = 0x46,
    SCSI_GET_EVENT_STATUS = 0x4a,
    SCSI_READ_DISC_INFORMATION = 0x51,
    SCSI_MODE_SELECT_10 = 0x55,
    SCSI_RESERVE_10 = 0x56,
    SCSI_RELEASE_10 = 0x57,
    SCSI_MODE_SENSE_10 = 0x5a,
    SCSI_READ_16 = 0x88,
    SCSI_WRITE_16 = 0x8a,
    SCSI_WRITE_VERIFY_16 = 0x8e,
    SCSI_VERIFY_16 = 0x8f,
    SCSI_SYNCHRONIZE_CACHE_16 = 0x91,
    SCSI_WRITE_SAME_16 = 0x93,
    SCSI_SERVICE_ACTION_IN_16 = 0x9e, /* 0x10: READ CAPACITY (16) */
    SCSI_REPORT_LUNS = 0xa0,
    SCSI_READ_12 = 0xa8,
    SCSI_WRITE_12 = 0xaa,
    SCSI_WRITE_VERIFY_12 = 0xae,
    SCSI_VERIFY_12 = 0xaf,
    SCSI_MECHANISM_STATUS = 0xbd,
};

enum { SCSI_GOOD = 0, SCSI_CHECK_CONDITION = 2 };
enum { SCSI_TYPE_DISK = 0, SCSI_TYPE_CD = 5 };
enum { SCSI_CDB_MAX = 16, SCSI_SENSE_LEN = 18 };

/* Why a command was not good: sense key, additional sense code and its qualifier. */
struct scsi_sense {
    uint8_t key, asc, ascq;
};
#define SCSI_SENSE_(k, a, q)        ((struct scsi_sense){k, a, q})
#define SENSE_NONE                  SCSI_SENSE_(0x0, 0x00, 0x00)
#define SENSE_NO_MEDIUM             SCSI_SENSE_(0x2, 0x3a, 0x00)
#define SENSE_NO_MEDIUM_TRAY_CLOSED SCSI_SENSE_(0x2, 0x3a, 0x01)
#define SENSE_NO_MEDIUM_TRAY_OPEN   SCSI_SENSE_(0x2, 0x3a, 0x02)
#define SENSE_EMPTY_AND_LOCKED      SCSI_SENSE_(0x2, 0x53, 0x02)
#define SENSE_TARGET_FAILURE        SCSI_SENSE_(0x4, 0x44, 0x00)
#define SENSE_LIST_LENGTH           SCSI_SENSE_(0x5, 0x1a, 0x00)
#define SENSE_INVALID_OPCODE        SCSI_SENSE_(0x5, 0x20, 0x00)
#define SENSE_LBA_OUT_OF_RANGE      SCSI_SENSE_(0x5, 0x21, 0x00)
#define SENSE_INVALID_FIELD         SCSI_SENSE_(0x5, 0x24, 0x00)
#define SENSE_LUN_NOT_SUPPORTED     SCSI_SENSE_(0x5, 0x25, 0x00)
#define SENSE_INVALID_PARAM         SCSI_SENSE_(0x5, 0x26, 0x00)
#define SENSE_SAVING_NOT_SUPPORTED  SCSI_SENSE_(0x5, 0x39, 0x00)
#define SENSE_REMOVAL_PREVENTED     SCSI_SENSE_(0x5, 0x53, 0x02)
#define SENSE_RESET                 SCSI_SENSE_(0x6, 0x29, 0x00)
#define SENSE_MEDIUM_CHANGED        SCSI_SENSE_(0x6, 0x28, 0x00)
#define SENSE_MODE_CHANGED          SCSI_SENSE_(0x6, 0x2a, 0x01)
#define SENSE_CAPACITY_CHANGED      SCSI_SENSE_(0x6, 0x2a, 0x09)
#define SENSE_REPORTED_LUNS_CHANGED SCSI_SENSE_(0x6, 0x3f, 0x0e)
#define SENSE_WRITE_PROTECTED       SCSI_SENSE_(0x7, 0x27, 0x00)
#define SENSE_SPACE_ALLOCATION      SCSI_SENSE_(0x7, 0x27, 0x07)
#define SENSE_IO_ERROR              SCSI_SENSE_(0xb, 0x00, 0x06)
#define SENSE_MISCOMPARE            SCSI_SENSE_(0xe, 0x1d, 0x00)

/* One command. Buffers are borrowed; bytes of the CDB that were not sent are 0. */
struct scsi_req {
    uint8_t cdb[SCSI_CDB_MAX];
    struct iovs out, in; /* what it sends, and room for what it gets */
    uint64_t start_ns;
    /* the answer */
    uint8_t status;
    struct scsi_sense sense; /* with CHECK CONDITION */
    size_t moved;            /* bytes of `in` that were filled, or of `out` that were taken */
    bool overrun;            /* it is about more than there are buffers for: nothing was done */
};

/*
 * What handlers of commands return: 0, it is done; SCSI_FAILED, and the answer says why; or the negative errno with
 * which reading or writing failed.
 */
enum { SCSI_FAILED = 1 };
int scsi_fail(struct scsi_req *r, struct scsi_sense s); /* SCSI_FAILED */
/* The answer is `len` bytes, of which the command takes `alloc`. */
int scsi_reply(struct scsi_req *r, const void *buf, size_t len, size_t alloc);
/* The first `len` bytes that the command sends; false: it sends fewer, which is an overrun. */
bool scsi_fetch(struct scsi_req *r, void *buf, size_t len);
/* Fixed format. */
void scsi_sense_bytes(struct scsi_sense s, uint8_t out[SCSI_SENSE_LEN]);
/* Text as SCSI has it: `len` bytes, filled up with blanks. */
void scsi_text(uint8_t *to, const char *text, size_t len);
