/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Media that can be taken out: trays, and what is in them. The words of errors are QEMU's. Loop thread.
 *
 *        open tray            remove medium                  insert medium             close tray
 *   closed ──────→ open, medium ──────→ open, empty ──────→ open, new medium ──────→ closed, the guest is told
 *
 * A guest may have locked the tray; then opening it only asks the guest to let go, unless it is forced.
 */
#pragma once

#include "block/backend.h"

/* The tray is there now: tells everybody (DEVICE_TRAY_MOVED). */
void backend_move_tray(struct backend *b, bool open);
