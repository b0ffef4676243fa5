/* SPDX-License-Identifier: BSD-2-Clause */
/* -c: the kernel's NBD client, connected to this very server. */
#pragma once

#include "cli/nbd/nbd.h"

struct nbd_device;
struct nbd_server;

struct nbd_device_user {
    void (*gone)(void *opaque); /* the device was disconnected */
    void *opaque;
};
/* Makes the device a->device show the server's export. [co] */
int nbd_device_connect(struct nbd_server *s, const struct nbd_args *a, const struct nbd_device_user *user,
                       struct nbd_device **out, struct err *e);
/* The kernel lets go of it. [co] NULL is fine. */
void nbd_device_disconnect(struct nbd_device *d);
