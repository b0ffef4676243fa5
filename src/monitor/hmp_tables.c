/* SPDX-License-Identifier: BSD-2-Clause */
/* The human monitor's commands: one table per family. */
#include "monitor/hmp.h"

const struct hmp_command *const hmp_tables[] = {
    hmp_control_commands,
    hmp_machine_commands,
    hmp_block_commands,
    hmp_qom_commands,
    hmp_memory_commands,
    hmp_copy_commands,
    hmp_export_commands,
    hmp_snapshot_commands,
    hmp_state_commands,
    hmp_media_commands,
    hmp_net_commands,
    hmp_migration_commands,
    NULL,
};

const struct hmp_command *const hmp_info_tables[] = {
    hmp_control_info,  hmp_machine_info, hmp_block_info, hmp_qom_info,       hmp_copy_info,
    hmp_snapshot_info, hmp_state_info,   hmp_net_info,   hmp_migration_info, NULL,
};
