/* SPDX-License-Identifier: BSD-2-Clause */
/* The kinds of sections and their keys, also for tools that have no machine. docs/state-sections.md says what they
 * mean. */
#include "config/vm_state.h"

static const struct config_key machine_keys[] = {
    {"type", CONFIG_STRING},
    {"memory", CONFIG_SIZE},
    {"harts", CONFIG_INT},
    {"cpu", CONFIG_STRING},
    {"kernel", CONFIG_STRING},
    {"initrd", CONFIG_STRING},
    {"append", CONFIG_STRING},
    {"dtb", CONFIG_STRING},
    {"bios", CONFIG_STRING},
    {"options.*", CONFIG_ANY},
    {"name", CONFIG_STRING},
    {"uuid", CONFIG_STRING},
    {"reboot", CONFIG_STRING},
    {"shutdown", CONFIG_STRING},
    {"arriving", CONFIG_BOOL},
    {"away", CONFIG_BOOL},
    {NULL},
};
static const struct config_key object_keys[] = {{"qom-type", CONFIG_STRING, true}, {NULL}};
static const struct config_key chardev_keys[] = {{"backend", CONFIG_STRING, true}, {NULL}};
static const struct config_key blockdev_keys[] = {
    {"driver", CONFIG_STRING, true},
    {"transient", CONFIG_BOOL},
    {NULL},
};
static const struct config_key drive_keys[] = {
    {"node", CONFIG_STRING}, {"rerror", CONFIG_STRING}, {"werror", CONFIG_STRING}, {"write-cache", CONFIG_BOOL}, {NULL},
};
static const struct config_key netdev_keys[] = {{"type", CONFIG_STRING, true}, {NULL}};
static const struct config_key device_keys[] = {{"driver", CONFIG_STRING, true}, {NULL}};
static const struct config_key throttle_keys[] = {{"limits.*", CONFIG_ANY}, {"disks.*", CONFIG_STRING}, {NULL}};
static const struct config_key serial_keys[] = {{"chardev", CONFIG_STRING, true}, {NULL}};
static const struct config_key monitor_keys[] = {
    {"mode", CONFIG_STRING, true},
    {"pretty", CONFIG_BOOL},
    {NULL},
};
static const struct config_key export_keys[] = {{"type", CONFIG_STRING, true}, {"node-name", CONFIG_STRING}, {NULL}};
static const struct config_key job_keys[] = {{"command", CONFIG_STRING, true}, {"paused", CONFIG_BOOL}, {NULL}};

const struct config_kind vm_state_kinds[] = {
    {"machine", .single = true, .keys = machine_keys},
    {"global", .open = true},
    {"object", .open = true, .keys = object_keys},
    {"chardev", .open = true, .keys = chardev_keys},
    {"blockdev", .open = true, .keys = blockdev_keys},
    {"drive", .keys = drive_keys},
    {"netdev", .open = true, .keys = netdev_keys},
    {"device", .open = true, .keys = device_keys},
    {"throttle", .keys = throttle_keys},
    {"serial", .keys = serial_keys},
    {"monitor", .keys = monitor_keys},
    {"nbd-server", .single = true, .open = true},
    {"export", .open = true, .keys = export_keys},
    {"job", .open = true, .keys = job_keys},
    {NULL},
};
