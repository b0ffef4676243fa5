/* SPDX-License-Identifier: BSD-2-Clause */
#include "monitor/hmp.h"

#include "base/cleanup.h"
#include "machine/vm.h"
#include "net/net.h"

static int no_machine(struct err *e)
{
    return err_set(e, ENOTSUP, "there are no networks without a machine");
}

static int add(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return c->env->vm ? netdev_add_text(c->env->vm->net, hmp_str(args, "netdev"), e) : no_machine(e);
}

static int del(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "netdev_del", args, e);
}

static int set_link(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    return hmp_qmp(c, "set_link", args, e);
}

static int info_network(struct mon_ctx *c, struct json_object *args, struct err *e)
{
    struct netdev *d;
    for (unsigned i = 0; c->env->vm && (d = netdev_get(c->env->vm->net, i)); i++) {
        CLEANUP_FREE char *text = d->kind->info(d);
        if (d->card_name) {
            mon_printf(c, "%s: index=0,type=nic\n \\ ", d->card_name);
        }
        mon_printf(c, "%s: index=0,type=%s,%s%s\n", d->id, d->kind->name, text, d->link_down ? ",link=down" : "");
    }
    return 0;
}

const struct hmp_command hmp_net_commands[] = {
    {"netdev_add", "netdev:s", "[user],id=str[,prop=value][,...]", "add host network device", add},
    {"netdev_del", "id:s", "id", "remove host network device", del},
    {"set_link", "name:s,up:b", "name on|off", "change the link status of a network adapter", set_link},
    {NULL},
};

const struct hmp_command hmp_net_info[] = {
    {"network", "", "", "show the network state", info_network},
    {NULL},
};
