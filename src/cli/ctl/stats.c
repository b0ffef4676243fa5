/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/ctl/stats.h"

#include <string.h>

struct json_object *stats_query(struct ctl *c, struct err *e)
{
    struct json_object *stats = NULL;
    ctl_call(c, "query-blockstats", &stats, e, NULL);
    return stats;
}

static bool is_about(struct json_object *s, const struct disk *d)
{
    const char *qdev = ctl_str(s, "qdev"), *device = ctl_str(s, "device");
    if (!d) {
        return qdev[0] || device[0];
    }
    const char *want = ctl_str(d->info, "qdev");
    return want[0] ? !strcmp(qdev, want) : device[0] && !strcmp(device, ctl_str(d->info, "device"));
}

static void add(struct io_counters *sum, struct json_object *s)
{
    sum->rd_ops += (uint64_t)ctl_int(s, "rd_operations");
    sum->wr_ops += (uint64_t)ctl_int(s, "wr_operations");
    sum->rd_bytes += (uint64_t)ctl_int(s, "rd_bytes");
    sum->wr_bytes += (uint64_t)ctl_int(s, "wr_bytes");
    sum->rd_ns += (uint64_t)ctl_int(s, "rd_total_time_ns");
    sum->wr_ns += (uint64_t)ctl_int(s, "wr_total_time_ns");
}

/* Counters begin anew when another machine answers. */
static uint64_t gain(uint64_t now, uint64_t before)
{
    return now >= before ? now - before : 0;
}

struct io_rates stats_look(struct io_look *l, struct json_object *stats, const struct disk *disk)
{
    struct io_counters now = {0}, old = l->last;
    for (size_t i = 0; stats && i < json_object_array_length(stats); i++) {
        struct json_object *s = json_object_array_get_idx(stats, i);
        if (is_about(s, disk)) {
            add(&now, ctl_get(s, "stats"));
        }
    }
    int64_t at = client_now_ms();
    double seconds = (double)MAX(at - l->at_ms, 1) / 1000;
    bool first = !l->at_ms;
    *l = (struct io_look){.last = now, .at_ms = at};
    if (first) {
        return (struct io_rates){0};
    }
    uint64_t rd = gain(now.rd_ops, old.rd_ops), wr = gain(now.wr_ops, old.wr_ops);
    return (struct io_rates){
        .rd_iops = (uint64_t)((double)rd / seconds),
        .wr_iops = (uint64_t)((double)wr / seconds),
        .rd_rate = (uint64_t)((double)gain(now.rd_bytes, old.rd_bytes) / seconds),
        .wr_rate = (uint64_t)((double)gain(now.wr_bytes, old.wr_bytes) / seconds),
        .rd_ns = rd ? gain(now.rd_ns, old.rd_ns) / rd : 0,
        .wr_ns = wr ? gain(now.wr_ns, old.wr_ns) / wr : 0,
        .has_rd = rd,
        .has_wr = wr,
    };
}
