/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_live_copy.h"

#include "block/live_copy/live_copy.h"
#include "monitor/command.h"

static struct node *find(struct mon_ctx *c, const char *name, struct err *e)
{
    struct node *n = node_lookup(c->env->graph, name, e);
    if (n && !live_copy_of_node(n)) {
        err_set(e, EINVAL, "Node '%s' is not a live copy", name);
        return NULL;
    }
    return n;
}

int qmp_live_copy_switch(struct mon_ctx *c, const struct qmp_live_copy_switch_args *a, struct json_object **ret,
                         struct err *e)
{
    struct node *n = find(c, a->node_name, e);
    if (!n) {
        return -EINVAL;
    }
    node_ref(n);
    int rc = live_copy_switch(n, e);
    if (rc == 0 && a->has_detach && a->detach) {
        rc = live_copy_detach(n, e);
    }
    node_unref(n);
    return rc;
}

int qmp_live_copy_change(struct mon_ctx *c, const struct qmp_live_copy_change_args *a, struct json_object **ret,
                         struct err *e)
{
    struct node *n = find(c, a->node_name, e);
    struct live_copy_options o;
    if (!n) {
        return -EINVAL;
    }
    if (a->has_parallel && (a->parallel < 1 || a->parallel > 16)) {
        return err_set(e, EINVAL, "Parameter 'parallel' expects a number from 1 to 16");
    }
    live_copy_get_options(n, &o);
    o.copying = a->has_copying ? a->copying : o.copying;
    o.speed = a->has_speed ? a->speed : o.speed;
    o.parallel = a->has_parallel ? (unsigned)a->parallel : o.parallel;
    live_copy_set_options(n, &o);
    if (a->has_retry && a->retry) {
        live_copy_retry(n);
    }
    return 0;
}
