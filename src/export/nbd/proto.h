/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD protocol, server side.
 *
 * Source: doc/proto.md of the Network Block Device project, with its extension EXTENDED_HEADERS; for the namespace
 * "qemu", QEMU's docs/interop/nbd.rst. All integers are big-endian.
 *
 * STATES of a connection, each one function, all run by the connection's coroutine:
 *
 *     greeting ─── client flags ──▶ haggling ◀─ STARTTLS ─▶ TLS handshake
 *         (handshake.c)               │   │
 *            EXPORT_NAME or GO ───────┘   └──── ABORT, a violation, the time limit ──▶ closed
 *                  ▼
 *            transmission (session.c) ──── DISC, end of stream, a violation ──▶ finishing ──▶ closed
 *
 * Greeting    S: "NBDMAGIC" "IHAVEOPT" flags:16     C: flags:32
 * Haggling    C: "IHAVEOPT" option:32 length:32 data          S: REPLY_MAGIC option:32 type:32 length:32 data
 * Requests    compact    magic:32 flags:16 type:16 cookie:64 offset:64 length:32     payload: WRITE
 *             extended   magic:32 flags:16 type:16 cookie:64 offset:64 length:64     payload: flag PAYLOAD_LEN
 * Replies     simple     magic:32 error:32 cookie:64                                 data of READ
 *             structured magic:32 flags:16 type:16 cookie:64 length:32               payload
 *             extended   magic:32 flags:16 type:16 cookie:64 offset:64 length:64     payload
 *
 * LAWS
 *  1. Option data and payloads have a limit that is checked before memory is asked for. Data of an option that is
 *     too long, or unknown, is read and dropped.
 *  2. A violation after which the borders of messages are unknown (magic, client flags, a payload beyond the limit)
 *     ends that connection and touches no other. Every other mistake gets an error reply, its payload is consumed, and
 *     the connection goes on.
 *  3. With TLS credentials, nothing but STARTTLS and ABORT is done before TLS is up (unless it is optional); bytes that
 * came in plain behind STARTTLS end the connection; what was negotiated before STARTTLS is forgotten.
 *  4. The kind of replies is fixed when transmission begins: simple, structured or extended. In structured mode
 *     reads are answered by chunks only; what has no data may be answered by a simple reply. In extended mode every
 *     message is extended.
 *  5. BLOCK_STATUS is answered only for contexts that the last SET_META_CONTEXT selected for the export that was
 *     then entered; with exactly one chunk for each context (or for each that a payload names).
 *  6. Exactly one reply, or one chunk with the flag DONE, ends each request except DISC; content chunks do not overlap;
 *     with the flag DF there is at most one. A chunk is announced when its data is there, so no error can hit it half
 *     way; a file that somebody cut short under our hands reads as zeroes.
 *  7. FLUSH is answered after all writes that were answered before it, on whatever connection, are on stable storage;
 *     a request with FUA when its own data is. All connections to an export use one node of the block graph, whose
 * flush covers them all: so CAN_MULTI_CONN is true also of writable exports. It is announced where more than one
 * connection can be made.
 *  8. After DISC, or the end of the stream, requests in flight run to their end and are answered before the
 *     connection is closed. While the server closes, options get ERR_SHUTDOWN and requests ESHUTDOWN.
 *  9. A connection has at most NBS_MAX_REQUESTS requests in flight, counted until their replies have been
 *     handed to the kernel, and NBS_MAX_BYTES bytes of buffers beyond the first request's: who does not read his
 * replies stops being read from.
 * 10. A data chunk may be queued as a reference to the host's page cache (sendfile; NBS_MAX_FILES at a time, of all
 *     connections: each holds a descriptor), so that it shows bytes written
 *     after the read was asked for, but before its reply arrived: as reads may that run beside a write. Only where no
 *     other than the NBD clients themselves writes to the node, so that an image that must stand still does.
 */
#pragma once

#include <stdint.h>

#define NBD_INIT_MAGIC             UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTS_MAGIC             UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC              UINT64_C(0x0003e889045565a9)
#define NBD_OLDSTYLE_MAGIC         UINT64_C(0x0000420281861253)
#define NBD_REQUEST_MAGIC          0x25609513u
#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71u
#define NBD_SIMPLE_REPLY_MAGIC     0x67446698u
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33efu
#define NBD_EXTENDED_REPLY_MAGIC   0x6e8a278cu

enum {
    NBD_REQUEST_SIZE = 28,
    NBD_EXTENDED_REQUEST_SIZE = 32,
    NBD_SIMPLE_REPLY_SIZE = 16,
    NBD_STRUCTURED_REPLY_SIZE = 20,
    NBD_EXTENDED_REPLY_SIZE = 32,
    NBD_OPTION_SIZE = 16,
    NBD_OPTION_REPLY_SIZE = 20,
    NBD_MAX_STRING = 4096,
    NBD_MAX_PAYLOAD = 32 << 20, /* what every client may expect to be taken */
    NBD_DEFAULT_PORT = 10809,
};

enum { /* handshake, both sides */
       NBD_FLAG_FIXED_NEWSTYLE = 1,
       NBD_FLAG_NO_ZEROES = 2,
};

enum { /* transmission */
       NBD_FLAG_HAS_FLAGS = 1 << 0,
       NBD_FLAG_READ_ONLY = 1 << 1,
       NBD_FLAG_SEND_FLUSH = 1 << 2,
       NBD_FLAG_SEND_FUA = 1 << 3,
       NBD_FLAG_ROTATIONAL = 1 << 4,
       NBD_FLAG_SEND_TRIM = 1 << 5,
       NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6,
       NBD_FLAG_SEND_DF = 1 << 7,
       NBD_FLAG_CAN_MULTI_CONN = 1 << 8,
       NBD_FLAG_SEND_RESIZE = 1 << 9,
       NBD_FLAG_SEND_CACHE = 1 << 10,
       NBD_FLAG_SEND_FAST_ZERO = 1 << 11,
       NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12,
};

enum {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
    NBD_OPT_EXTENDED_HEADERS = 11,
};

#define NBD_REP_ERR(n) (0x80000000u + (n))
enum {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
};
#define NBD_REP_ERR_UNSUP           NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY          NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID         NBD_REP_ERR(3)
#define NBD_REP_ERR_PLATFORM        NBD_REP_ERR(4)
#define NBD_REP_ERR_TLS_REQD        NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN         NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN        NBD_REP_ERR(7)
#define NBD_REP_ERR_BLOCK_SIZE_REQD NBD_REP_ERR(8)
#define NBD_REP_ERR_TOO_BIG         NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

enum {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};
enum {
    NBD_CMD_FLAG_FUA = 1 << 0,
    NBD_CMD_FLAG_NO_HOLE = 1 << 1,
    NBD_CMD_FLAG_DF = 1 << 2,
    NBD_CMD_FLAG_REQ_ONE = 1 << 3,
    NBD_CMD_FLAG_FAST_ZERO = 1 << 4,
    NBD_CMD_FLAG_PAYLOAD_LEN = 1 << 5,
};

enum { NBD_REPLY_FLAG_DONE = 1 };
enum {
    NBD_REPLY_TYPE_NONE = 0,
    NBD_REPLY_TYPE_OFFSET_DATA = 1,
    NBD_REPLY_TYPE_OFFSET_HOLE = 2,
    NBD_REPLY_TYPE_BLOCK_STATUS = 5,
    NBD_REPLY_TYPE_BLOCK_STATUS_EXT = 6,
    NBD_REPLY_TYPE_ERROR = 0x8001,
    NBD_REPLY_TYPE_ERROR_OFFSET = 0x8002,
};

enum { /* base:allocation, qemu:dirty-bitmap */
       NBD_STATE_HOLE = 1,
       NBD_STATE_ZERO = 2,
       NBD_STATE_DIRTY = 1,
};

enum {
    NBD_SUCCESS = 0,
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

/* The names that messages use: "list", "structured reply" …; "<unknown>". */
const char *nbd_opt_text(uint32_t option);
