/* SPDX-License-Identifier: BSD-2-Clause */
/* What requests print when they have ended. */
#include "cli/io/io.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void io_print(const struct io *io, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (io->out) {
        g_string_append_vprintf(io->out, fmt, ap);
    } else {
        vprintf(fmt, ap);
    }
    va_end(ap);
}

void io_complain(const struct io *io, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (io->out) {
        g_string_append_vprintf(io->out, fmt, ap);
    } else {
        vfprintf(stderr, fmt, ap);
    }
    va_end(ap);
}

void io_fail(const struct io *io, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    CLEANUP_FREE char *text = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (io->tool) {
        tool_fail(io->tool, "%s", text);
    } else if (io->errors) {
        g_string_append_printf(io->errors, "%s\n", text);
    }
}

char *io_size_text(double bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned u = 0;
    double v = bytes;
    while (v >= 1024 && u + 1 < G_N_ELEMENTS(units)) {
        v /= 1024;
        u++;
    }
    char number[64];
    snprintf(number, sizeof(number), u ? "%.3f" : "%f", v);
    char *dot = strchr(number, '.');
    if (dot && strspn(dot + 1, "0") == strlen(dot + 1)) {
        *dot = '\0';
    }
    return g_strdup_printf("%s %s", number, units[u]);
}

/* "12.34 sec", or "1:02:03.45" when it took long or `full`. */
static char *time_text(uint64_t ns, bool full)
{
    uint64_t hundredths = (ns + 5000000) / 10000000, s = hundredths / 100;
    unsigned frac = (unsigned)(hundredths % 100), sec = (unsigned)(s % 60), min = (unsigned)(s / 60 % 60);
    if (full || s >= 60) {
        return g_strdup_printf("%" PRIu64 ":%02u:%02u.%02u", s / 3600, min, sec, frac);
    }
    return g_strdup_printf("%02u.%02u sec", sec, frac);
}

void io_print_report(struct io *io, const struct io_report *r)
{
    if (r->quiet) {
        return;
    }
    uint64_t ns = r->ended_ns > r->began_ns ? r->ended_ns - r->began_ns : 1;
    double seconds = (double)ns / 1e9, rate = (double)r->bytes / seconds, ops = 1 / seconds;
    CLEANUP_FREE char *time = time_text(ns, r->compact);
    if (r->compact) {
        io_print(io, "%" PRIu64 ",1,%s,%.3f,%.3f\n", r->bytes, time, rate, ops);
        return;
    }
    CLEANUP_FREE char *size = io_size_text((double)r->bytes);
    CLEANUP_FREE char *speed = io_size_text(rate);
    io_print(io, "%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", r->verb, r->bytes, r->bytes, r->offset);
    io_print(io, "%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", size, time, speed, ops);
}

void io_dump(struct io *io, const uint8_t *buf, uint64_t offset, uint64_t len)
{
    for (uint64_t at = 0; at < len; at += 16) {
        uint64_t n = min_u64(16, len - at);
        io_print(io, "%08" PRIx64 ":  ", offset + at);
        for (uint64_t i = 0; i < n; i++) {
            io_print(io, "%02x ", buf[at + i]);
        }
        io_print(io, " ");
        for (uint64_t i = 0; i < n; i++) {
            unsigned char c = buf[at + i];
            io_print(io, "%c", c < 128 && isalnum(c) ? c : '.');
        }
        io_print(io, "\n");
    }
}
