/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event bus: how lower layers tell whoever listens above (the monitor, the state file, sternactl's
 * history) that something happened, without including them.  One bus per VM; loop thread only.
 * Names and data are QMP's (`BLOCK_JOB_READY`, {"device": …}).
 */
#pragma once

#include <json-c/json.h>

struct event_bus;
typedef void event_fn(void *opaque, const char *name, struct json_object *data);

struct event_bus *event_bus_create(void);
void event_bus_destroy(struct event_bus *bus);
/* Takes `data` (may be NULL). Subscribers run before this returns; they must not unsubscribe others. */
void event_emit(struct event_bus *bus, const char *name, struct json_object *data);
/* `opaque` identifies the subscription. */
void event_subscribe(struct event_bus *bus, event_fn *fn, void *opaque);
void event_unsubscribe(struct event_bus *bus, void *opaque);
