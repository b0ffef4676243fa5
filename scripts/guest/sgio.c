/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One SCSI command, as the tests want it:
 *
 *   sgio DEV CDB [in BYTES | out HEX]     CDB in hexadecimal, without blanks
 *
 * prints "SG status=2 sense=5/24/0 data=…" with the data that came, in hexadecimal.
 *
 *   sgio DEV open | close     asks the kernel's CD-ROM driver for the tray, as eject(1) does: "TRAY open" or the error
 */
#include <fcntl.h>
#include <linux/cdrom.h>
#include <scsi/sg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { DATA_MAX = 4096, CDB_MAX = 16 };

static size_t from_hex(const char *text, uint8_t *out, size_t max)
{
    size_t n = 0;
    unsigned byte;
    while (n < max && sscanf(text + 2 * n, "%2x", &byte) == 1) {
        out[n++] = (uint8_t)byte;
    }
    return n;
}

static int move_tray(int fd, const char *how)
{
    if (ioctl(fd, !strcmp(how, "open") ? CDROMEJECT : CDROMCLOSETRAY, 0) < 0) {
        perror("TRAY");
        return 1;
    }
    printf("TRAY %s\n", how);
    return 0;
}

int main(int argc, char **argv)
{
    static uint8_t data[DATA_MAX];
    uint8_t cdb[CDB_MAX] = {0}, sense[64] = {0};
    sg_io_hdr_t h = {
        .interface_id = 'S', .dxfer_direction = SG_DXFER_NONE, .timeout = 30000, .cmdp = cdb, .sbp = sense};
    int fd = argc < 3 ? -1 : open(argv[1], O_RDWR | O_NONBLOCK);
    if (fd < 0) {
        fd = argc < 3 ? -1 : open(argv[1], O_RDONLY | O_NONBLOCK);
    }
    if (fd < 0) {
        perror("sgio");
        return 1;
    }
    if (!strcmp(argv[2], "open") || !strcmp(argv[2], "close")) {
        return move_tray(fd, argv[2]);
    }
    h.cmd_len = (unsigned char)from_hex(argv[2], cdb, sizeof(cdb));
    h.mx_sb_len = sizeof(sense);
    h.dxferp = data;
    if (argc > 4 && !strcmp(argv[3], "in")) {
        h.dxfer_direction = SG_DXFER_FROM_DEV;
        h.dxfer_len = (unsigned)atoi(argv[4]);
    } else if (argc > 4) {
        h.dxfer_direction = SG_DXFER_TO_DEV;
        h.dxfer_len = (unsigned)from_hex(argv[4], data, sizeof(data));
    }
    if (h.dxfer_len > sizeof(data) || ioctl(fd, SG_IO, &h) < 0) {
        perror("sgio");
        return 1;
    }
    printf("SG status=%d sense=%x/%x/%x data=", h.status, sense[2] & 0xf, sense[12], sense[13]);
    for (int i = 0; h.dxfer_direction == SG_DXFER_FROM_DEV && i < (int)h.dxfer_len - h.resid; i++) {
        printf("%02x", data[i]);
    }
    printf("\n");
    return 0;
}
