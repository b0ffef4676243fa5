/* SPDX-License-Identifier: BSD-2-Clause */
#include "block/media.h"

#include <json-c/json.h>

void backend_move_tray(struct backend *b, bool open)
{
    struct json_object *o = json_object_new_object();
    b->tray_open = open;
    json_object_object_add(o, "device", json_object_new_string(b->name));
    json_object_object_add(o, "id", json_object_new_string(b->qdev ? b->qdev : ""));
    json_object_object_add(o, "tray-open", json_object_new_boolean(open));
    event_emit(graph_bus(b->graph), "DEVICE_TRAY_MOVED", o);
}
