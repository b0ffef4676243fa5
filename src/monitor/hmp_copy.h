/* SPDX-License-Identifier: BSD-2-Clause */
/* Commands of the human monitor for jobs and live copy; the tables end with name NULL. */
#pragma once

#include "monitor/command.h"

extern const struct hmp_command hmp_copy_commands[];
extern const struct hmp_command hmp_copy_info[]; /* "info X" */
