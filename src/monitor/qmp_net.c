/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/command.h"

#include "machine/vm.h"
#include "net/net.h"
#include "schema/qmp_net.h"

int qmp_netdev_add(struct mon_ctx *c, const struct qmp_netdev_add_args *a, struct json_object **ret, struct err *e)
{
    return netdev_add(c->env->vm->net, a->options, e);
}

int qmp_netdev_del(struct mon_ctx *c, const struct qmp_netdev_del_args *a, struct json_object **ret, struct err *e)
{
    return netdev_del(c->env->vm->net, a->id, e);
}

int qmp_set_link(struct mon_ctx *c, const struct qmp_set_link_args *a, struct json_object **ret, struct err *e)
{
    return net_set_link(c->env->vm->net, a->name, a->up, e);
}
