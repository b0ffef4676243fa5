/* SPDX-License-Identifier: BSD-2-Clause */
/* The QMP side of a session (QEMU docs/interop/qmp-spec.rst), and commands by name. */
#include "monitor/command.h"

#include "base/cleanup.h"
#include "loop/co.h"
#include "monitor/convert.h"
#include "monitor/make_up.h"
#include "monitor/session.h"

#include <string.h>

/* Deeper arguments than anything has a use for; what handles them recurses on small stacks. */
enum { MAX_ARGS_DEPTH = 128 };

/* A message on its way. */
struct request {
    struct monitor *m;
    unsigned generation;
    struct json_object *msg; /* owns what follows */
    struct json_object *id, *args;
    bool has_id;
    const char *name;
    bool oob;
    const struct qmp_command *cmd;
    struct json_object *ret;
    struct err err;
};

/* --- commands by name ------------------------------------------------------------------------------------------- */

const struct qmp_command *qmp_command_find(const char *name)
{
    size_t lo = 0;
    size_t hi = 0;
    while (qmp_commands[hi].name) {
        hi++;
    }
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        int cmp = strcmp(name, qmp_commands[mid].name);
        if (cmp == 0) {
            return &qmp_commands[mid];
        }
        if (cmp < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }
    return NULL;
}

static const struct qmp_command *find_for(struct mon_env *env, const char *name, struct err *e)
{
    const struct qmp_command *cmd = qmp_command_find(name);
    if (!cmd || (cmd->needs_vm && !env->vm)) {
        err_set_class(e, ERR_COMMAND_NOT_FOUND, ENOENT, "The command %s has not been found", name);
        return NULL;
    }
    return cmd;
}

/* What every command goes through. */
static int run(struct mon_ctx *c, const struct qmp_command *cmd, struct json_object *args, struct json_object **ret,
               struct err *e)
{
    make_up_before(c, cmd->name, args);
    int rc = cmd->call(c, args, ret, e);
    return rc < 0 ? rc : make_up_after(c, cmd->name, args, e);
}

int qmp_call(struct mon_ctx *c, const char *name, struct json_object *args, struct json_object **ret, struct err *e)
{
    CLEANUP_JSON struct json_object *value = NULL;
    const struct qmp_command *cmd = find_for(c->env, name, e);
    if (!cmd) {
        return -ENOENT;
    }
    CLEANUP_JSON struct json_object *typed = schema_convert(cmd->args, args, e);
    int rc = typed ? run(c, cmd, typed, &value, e) : -EINVAL;
    if (rc < 0) {
        return rc;
    }
    if (ret) {
        *ret = value ? take(value) : json_object_new_object();
    }
    return 0;
}

/* --- output ------------------------------------------------------------------------------------------------------- */

static void send_json(struct monitor *m, struct json_object *o)
{
    wire_write(m->out, o, m->pretty);
    g_string_append(m->out, "\r\n");
    session_flush(m);
}

static void add(struct json_object *o, const char *key, struct json_object *v)
{
    json_object_object_add(o, key, v);
}

static void add_id(struct json_object *o, const struct request *r)
{
    if (r->has_id) {
        add(o, "id", json_object_get(r->id));
    }
}

static void respond(struct request *r)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    if (err_is_set(&r->err)) {
        struct json_object *error = json_object_new_object();
        add(error, "class", json_object_new_string(err_class_name(r->err.cls)));
        add(error, "desc", json_object_new_string(err_text(&r->err)));
        add_id(o, r);
        add(o, "error", error);
    } else {
        add(o, "return", r->ret ? take(r->ret) : json_object_new_object());
        add_id(o, r);
    }
    log_trace(r->m->env->log, monitor_qmp_respond, "mon %s %s", chardev_id(r->m->chr),
              json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    send_json(r->m, o);
}

void qmp_session_event(struct monitor *m, const char *name, struct json_object *data)
{
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct json_object *at = json_object_new_object();
    int64_t now = g_get_real_time();
    add(at, "seconds", json_object_new_int64(now / G_USEC_PER_SEC));
    add(at, "microseconds", json_object_new_int64(now % G_USEC_PER_SEC));
    add(o, "timestamp", at);
    add(o, "event", json_object_new_string(name));
    if (data) {
        add(o, "data", json_object_get(data));
    }
    log_trace(m->env->log, monitor_qmp_event, "mon %s %s", chardev_id(m->chr), name);
    send_json(m, o);
}

void qmp_session_opened(struct monitor *m)
{
    struct mon_ctx c = {.env = m->env, .mon = m};
    CLEANUP_JSON struct json_object *o = json_object_new_object();
    struct json_object *qmp = json_object_new_object();
    struct json_object *version = NULL;
    struct json_object *capabilities = json_object_new_array();
    m->negotiated = m->oob = false;
    qmp_call(&c, "query-version", NULL, &version, NULL);
    add(qmp, "version", version);
    json_object_array_add(capabilities, json_object_new_string("oob"));
    add(qmp, "capabilities", capabilities);
    add(o, "QMP", qmp);
    send_json(m, o);
}

/* --- requests -------------------------------------------------------------------------------------------------------
 */

static void request_free(struct request *r)
{
    json_object_put(r->msg);
    json_object_put(r->ret);
    err_clear(&r->err);
    g_free(r);
}

void qmp_session_closed(struct monitor *m)
{
    struct request *r;
    while ((r = g_queue_pop_head(&m->requests))) {
        request_free(r);
    }
    m->negotiated = m->oob = false;
    wire_parser_reset(&m->parser);
}

static bool deeper_than(struct json_object *o, unsigned limit)
{
    if (json_object_is_type(o, json_type_object)) {
        json_object_object_foreach(o, key, value)
        {
            (void)key;
            if (!limit || deeper_than(value, limit - 1)) {
                return true;
            }
        }
    } else if (json_object_is_type(o, json_type_array)) {
        size_t n = json_object_array_length(o);
        for (size_t i = 0; i < n; i++) {
            if (!limit || deeper_than(json_object_array_get_idx(o, i), limit - 1)) {
                return true;
            }
        }
    }
    return false;
}

static int parse_member(struct request *r, const char *key, struct json_object *value, struct err *e)
{
    bool is_oob = !strcmp(key, "exec-oob") && r->m->oob;
    if (!strcmp(key, "execute") || is_oob) {
        if (!json_object_is_type(value, json_type_string)) {
            return err_set(e, EINVAL, "QMP input member '%s' must be a string", key);
        }
        if (r->name) {
            return err_set(e, EINVAL, "QMP input member 'execute' clashes with 'exec-oob'");
        }
        r->name = json_object_get_string(value);
        r->oob = is_oob;
    } else if (!strcmp(key, "arguments")) {
        if (!json_object_is_type(value, json_type_object)) {
            return err_set(e, EINVAL, "QMP input member 'arguments' must be an object");
        }
        if (deeper_than(value, MAX_ARGS_DEPTH)) {
            return err_set(e, EINVAL, "QMP input member 'arguments' is nested too deeply");
        }
        r->args = value;
    } else if (strcmp(key, "id")) {
        return err_set(e, EINVAL, "QMP input member '%s' is unexpected", key);
    }
    return 0;
}

static int parse_request(struct request *r, struct err *e)
{
    if (!json_object_is_type(r->msg, json_type_object)) {
        return err_set(e, EINVAL, "QMP input must be a JSON object");
    }
    r->has_id = json_object_object_get_ex(r->msg, "id", &r->id);
    json_object_object_foreach(r->msg, key, value)
    {
        int rc = parse_member(r, key, value, e);
        if (rc) {
            return rc;
        }
    }
    return r->name ? 0 : err_set(e, EINVAL, "QMP input lacks member 'execute'");
}

/* In the session's state as of now: commands before may have changed it. */
static int find_command(struct request *r, struct err *e)
{
    bool greets = !strcmp(r->name, "qmp_capabilities");
    if (!r->m->negotiated && !greets) {
        return err_set_class(e, ERR_COMMAND_NOT_FOUND, ENOENT,
                             "Expecting capabilities negotiation with 'qmp_capabilities'");
    }
    if (r->m->negotiated && greets) {
        return err_set_class(e, ERR_COMMAND_NOT_FOUND, ENOENT,
                             "Capabilities negotiation is already complete, command ignored");
    }
    r->cmd = find_for(r->m->env, r->name, e);
    if (!r->cmd) {
        return -ENOENT;
    }
    if (r->oob && !r->cmd->allow_oob) {
        return err_set(e, EINVAL, "The command %s does not support OOB", r->name);
    }
    return 0;
}

static void free_late(void *opaque)
{
    request_free(opaque);
}

static void run_request(void *opaque)
{
    struct request *r = opaque;
    struct monitor *m = r->m;
    struct mon_ctx c = {.env = m->env, .mon = m};
    int rc = run(&c, r->cmd, r->args, &r->ret, &r->err);
    if (rc < 0 && !err_is_set(&r->err)) {
        err_set_errno(&r->err, -rc, "%s", r->name);
    }
    m->active--;
    if (!m->dead) {
        g_queue_push_tail(&m->done, r);
        loop_event_set(m->done_event);
        return;
    }
    loop_defer(m->env->loop, free_late, r);
    if (!m->active) {
        session_free(m);
    }
}

static void finish(struct request *r)
{
    struct monitor *m = r->m;
    if (!r->oob) {
        m->busy = false;
    }
    bool heard = r->generation == m->generation && m->open, last = !r->oob;
    if (heard) {
        respond(r);
    }
    request_free(r);
    if (last) {
        session_inherit(m);
    }
}

void qmp_session_done(struct monitor *m)
{
    struct request *r;
    while ((r = g_queue_pop_head(&m->done))) {
        finish(r);
    }
}

/* Ends in finish(), perhaps at once. */
static void start(struct request *r)
{
    struct monitor *m = r->m;
    if (!r->oob) {
        m->busy = true;
    }
    if (err_is_set(&r->err) || find_command(r, &r->err)) {
        finish(r);
        return;
    }
    log_trace(m->env->log, monitor_qmp_command, "mon %s %s %s", chardev_id(m->chr), r->name,
              r->args ? json_object_to_json_string_ext(r->args, JSON_C_TO_STRING_PLAIN) : "{}");
    m->active++;
    co_start(m->env->loop, run_request, r);
}

void qmp_session_next(struct monitor *m)
{
    while (!m->busy && !m->env->ending && !session_choked(m) && m->requests.length) {
        start(g_queue_pop_head(&m->requests));
        qmp_session_done(m);
    }
}

void qmp_message(void *opaque, struct json_object *msg, struct err *e)
{
    struct monitor *m = opaque;
    struct request *r = g_new0(struct request, 1);
    r->m = m;
    r->generation = m->generation;
    r->msg = msg;
    if (err_is_set(e)) {
        err_move(&r->err, e);
    } else if (parse_request(r, &r->err)) {
        r->oob = false;
    }
    if (r->oob && !m->env->ending) {
        start(r);
    } else {
        g_queue_push_tail(&m->requests, r);
    }
}
