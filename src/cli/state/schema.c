/* SPDX-License-Identifier: BSD-2-Clause */
/* schema: the sections of a machine type, without a state. */
#include "cli/state/state.h"
#include "device/device.h"
#include "machine/state.h"

#include <stdio.h>
#include <string.h>

struct schemas {
    const char *type; /* with which a machine is made */
    struct state_policy policy;
    struct json_object *all; /* section -> schema */
    struct err *e;
};

static int add(struct schemas *s, const struct state_section *sec)
{
    const struct state_compat *c = state_policy_compat(&s->policy, sec->name);
    if (!json_object_object_get_ex(s->all, sec->name, NULL) && (!c || c->version)) {
        json_object_object_add(s->all, sec->name,
                               state_schema_json(sec, c ? c->version : 0, c ? c->subsections : NULL));
    }
    return state_section_check(sec, s->e);
}

/* Of a machine that is made for it and never runs, and of all devices that could be plugged. [co] */
static int collect(struct schemas *s, const struct tool *t)
{
    struct vm *vm = vm_create(t->loop, t->log);
    struct machine_config c = {.type = s->type, .accel = "interp", .harts = 1, .ram_size = 64u << 20};
    int rc = vm_set_machine(vm, &c, s->e);
    if (rc == 0) {
        struct vm_state *st = vm_state_create(vm);
        for (unsigned i = 0; i < st->n && rc == 0; i++) {
            rc = add(s, st->item[i].section);
        }
        vm_state_destroy(st);
    }
    for (const struct device_class *const *d = device_classes; *d && rc == 0; d++) {
        if ((*d)->state) {
            rc = add(s, (*d)->state);
        }
    }
    vm_destroy(vm);
    return rc;
}

static void print_fields(struct json_object *fields, int indent)
{
    for (size_t i = 0; i < json_object_array_length(fields); i++) {
        struct json_object *f = json_object_array_get_idx(fields, i);
        const char *count = json_object_get_string(json_object_object_get(f, "count"));
        const char *used = json_object_get_string(json_object_object_get(f, "used"));
        const char *help = json_object_get_string(json_object_object_get(f, "help"));
        printf("%*s%s: %s%s%s%s%s%s%s%s%s\n", indent, "", json_object_get_string(json_object_object_get(f, "name")),
               json_object_get_string(json_object_object_get(f, "type")), count ? "[" : "", count ? count : "",
               count ? "]" : "", used ? ", used: " : "", used ? used : "",
               json_object_object_get(f, "ancillary") ? ", ancillary" : "", help ? ": " : "", help ? help : "");
        if (json_object_object_get(f, "fields")) {
            print_fields(json_object_object_get(f, "fields"), indent + 4);
        }
    }
}

static void print_text(struct json_object *all)
{
    json_object_object_foreach(all, name, schema)
    {
        printf("%s, version %s\n", name, json_object_get_string(json_object_object_get(schema, "version")));
        print_fields(json_object_object_get(schema, "fields"), 4);
        struct json_object *subs = json_object_object_get(schema, "subsections");
        for (size_t i = 0; i < json_object_array_length(subs); i++) {
            struct json_object *b = json_object_array_get_idx(subs, i);
            printf("  %s: without it the guest loses %s\n", json_object_get_string(json_object_object_get(b, "name")),
                   json_object_get_string(json_object_object_get(b, "loss")));
            print_fields(json_object_object_get(b, "fields"), 4);
        }
    }
}

static int run(struct state_args *a)
{
    CLEANUP_ERR struct err e = ERR_INIT;
    CLEANUP_JSON struct json_object *o = json_object_new_object(), *all = json_object_new_object();
    struct schemas s = {.all = all, .e = &e};
    int rc = state_type_compat(a->machine, &s.policy.compat, &s.type, &e);
    rc = rc < 0 ? rc : collect(&s, a->tool);
    if (rc < 0) {
        return state_fail(&e);
    }
    if (!a->json) {
        print_text(all);
        return STATE_OK;
    }
    json_object_object_add(o, "machine", json_object_new_string(s.type));
    json_object_object_add(o, "schemas", json_object_get(all));
    state_put_json(o);
    return STATE_OK;
}

const struct state_verb state_verb_schema = {"schema", "", "what the state of a machine type consists of", "Mo", 0,
                                             0,        run};
