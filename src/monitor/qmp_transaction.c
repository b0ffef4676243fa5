/* SPDX-License-Identifier: BSD-2-Clause */
#include "schema/qmp_transaction.h"

#include "base/cleanup.h"
#include "job/job.h"
#include "monitor/action.h"
#include "monitor/check.h"

#include <string.h>

static int prepare_abort(struct mon_action *a, const void *args, struct err *e)
{
    return err_set(e, ECANCELED, "Transaction aborted using Abort action");
}

const struct mon_action_kind action_abort = {
    .name = "abort",
    .size = sizeof(struct mon_action),
    .prepare = prepare_abort,
};

/* Only jobs can wait for each other. */
static int check_grouped(struct json_object *list, struct err *e)
{
    for (size_t i = 0; i < json_object_array_length(list); i++) {
        const char *type = schema_str(json_object_array_get_idx(list, i), "type");
        if (!mon_action_kind_find(type)->makes_job) {
            return err_set(e, EINVAL, "Action '%s' does not support transaction property completion-mode = grouped",
                           type);
        }
    }
    return 0;
}

int qmp_transaction(struct mon_ctx *c, const struct qmp_transaction_args *a, struct json_object **ret, struct err *e)
{
    const char *mode = a->properties ? schema_str(a->properties, "completion-mode") : NULL;
    bool grouped = mode && !strcmp(mode, qmp_ActionCompletionMode_names[QMP_ACTION_COMPLETION_MODE_GROUPED]);
    int rc = grouped ? check_grouped(a->actions, e) : 0;
    if (rc) {
        return rc;
    }
    struct job_txn *txn = grouped ? job_txn_create() : NULL;
    rc = mon_transaction(c, a->actions, txn, e);
    job_txn_unref(txn);
    return rc;
}
