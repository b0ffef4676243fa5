/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Generic ECAM host bridge (device tree binding pci-host-ecam-generic): configuration space of bus b, device
 * d, function f is at (b << 20 | d << 15 | f << 12). Only the root bus has anything on it; the host bridge itself is
 * function 00:00.0 (1b36:0008).
 */
#pragma once

#include "device/pci.h"

struct ecam;

struct ecam *ecam_create(struct guest_mem *m, struct pci_bus *bus, uint64_t gpa, uint64_t size, struct err *e);
void ecam_destroy(struct ecam *h); /* NULL is fine */
void ecam_reset(struct ecam *h);
/* The object is the struct ecam: the bridge's configuration space. */
extern const struct state_section ecam_state;
