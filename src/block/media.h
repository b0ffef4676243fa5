/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Media that can be taken out: trays, and what is in them. The words of errors are QEMU's; `name` is what the user
 * called the device. Loop thread.
 *
 *            open                  remove               insert                    close
 *   closed ────────→ open, medium ────────→ open, empty ────────→ open, new medium ────────→ closed, the guest is told
 *
 * A guest may have locked the tray; then opening it only asks the guest to let go, unless it is forced. A backend that
 * no device uses has no tray, and its medium can always be changed.
 */
#pragma once

#include "block/backend.h"

/* The device's medium can be taken out, or there is no device. */
bool media_removable(const struct backend *b);
bool media_has_tray(const struct backend *b);
/* The tray is there now: tells everybody (DEVICE_TRAY_MOVED). */
void backend_move_tray(struct backend *b, bool open);
/* -EINPROGRESS: the guest has locked it, and was asked to open it. */
int media_open_tray(struct backend *b, const char *name, bool force, struct err *e);
int media_close_tray(struct backend *b, const char *name, struct err *e);
/* Nothing to take out is fine. Within graph_change_begin() and _end(), as is the next. [co] */
int media_remove(struct backend *b, const char *name, struct err *e);
int media_insert(struct backend *b, const char *name, struct node *n, struct err *e); /* [co] */
