/* SPDX-License-Identifier: BSD-2-Clause */
#include "base/events.h"

#include "base/cleanup.h"

#include <glib.h>

struct subscription {
    event_fn *fn; /* NULL: ended while an event was being delivered */
    void *opaque;
};

struct event_bus {
    GArray *subscriptions; /* of struct subscription, in order of subscription */
    unsigned emitting;     /* depth of event_emit() */
};

struct event_bus *event_bus_create(void)
{
    struct event_bus *bus = g_new0(struct event_bus, 1);
    bus->subscriptions = g_array_new(FALSE, FALSE, sizeof(struct subscription));
    return bus;
}

void event_bus_destroy(struct event_bus *bus)
{
    if (bus) {
        g_array_free(bus->subscriptions, TRUE);
        g_free(bus);
    }
}

static void sweep(struct event_bus *bus)
{
    for (guint i = bus->subscriptions->len; i-- > 0;) {
        if (!g_array_index(bus->subscriptions, struct subscription, i).fn) {
            g_array_remove_index(bus->subscriptions, i);
        }
    }
}

void event_emit(struct event_bus *bus, const char *name, struct json_object *data)
{
    CLEANUP_JSON struct json_object *owned = data;
    if (!bus) {
        return;
    }
    bus->emitting++;
    guint n = bus->subscriptions->len; /* who subscribes during the event gets the next one */
    for (guint i = 0; i < n; i++) {
        struct subscription s = g_array_index(bus->subscriptions, struct subscription, i);
        if (s.fn) {
            s.fn(s.opaque, name, owned);
        }
    }
    if (--bus->emitting == 0) {
        sweep(bus);
    }
}

void event_subscribe(struct event_bus *bus, event_fn *fn, void *opaque)
{
    struct subscription s = {.fn = fn, .opaque = opaque};
    g_array_append_val(bus->subscriptions, s);
}

void event_unsubscribe(struct event_bus *bus, void *opaque)
{
    for (guint i = 0; i < bus->subscriptions->len; i++) {
        struct subscription *s = &g_array_index(bus->subscriptions, struct subscription, i);
        if (s->opaque == opaque) {
            s->fn = NULL;
        }
    }
    if (!bus->emitting) {
        sweep(bus);
    }
}
