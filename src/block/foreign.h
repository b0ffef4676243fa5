/* SPDX-License-Identifier: BSD-2-Clause */
/* Formats that others have and we do not: known, so that nobody takes such an image for raw bytes. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The name of the format that an image with this head is in; NULL: none of these. */
const char *foreign_format(const uint8_t *head, size_t len);
