/* SPDX-License-Identifier: BSD-2-Clause */
#include "cli/sterna/options.h"

#include "base/cleanup.h"
#include "base/nearest.h"

#include <stdio.h>
#include <string.h>

const struct opt_spec opt_table[] = {
    {"h", OPT_HELP, NULL, "display this help and exit"},
    {"help", OPT_HELP, NULL, "display this help and exit"},
    {"version", OPT_VERSION, NULL, "display version information and exit"},
    {"machine", OPT_MACHINE, "[type=]name[,prop[=value][,...]]", "select the machine ('-machine help' lists them)"},
    {"M", OPT_MACHINE, "name", "the same"},
    {"cpu", OPT_CPU, "cpu[,feature=on|off]", "select the CPU ('-cpu help' lists them)"},
    {"accel", OPT_ACCEL, "[accel=]name", "select the accelerator ('-accel help' lists them)"},
    {"enable-kvm", OPT_ACCEL, NULL, "the same as -accel kvm (which this program does not have)", "kvm"},
    {"smp", OPT_SMP, "[[cpus=]n][,sockets=s][,cores=c][,threads=t][,maxcpus=m]", "set the number of harts"},
    {"m", OPT_MEMORY, "[size=]megs", "set the size of RAM; suffixes M and G"},
    {"mem-prealloc", OPT_MEM_PREALLOC, NULL, "have all of RAM before the guest starts"},
    {"name", OPT_NAME, "name[,process=p]", "set the name of the guest"},
    {"uuid", OPT_UUID, "uuid", "set the machine's UUID"},
    {"kernel", OPT_KERNEL, "file", "boot this kernel (Image, plain or gzip; ELF)"},
    {"initrd", OPT_INITRD, "file", "initial RAM disk"},
    {"append", OPT_APPEND, "text", "kernel command line"},
    {"dtb", OPT_DTB, "file", "device tree to boot with instead of the board's own"},
    {"fingerprint", OPT_FINGERPRINT, "file", "write all that a guest can see of the machine, and exit"},
    {"bios", OPT_BIOS, "file", "supervisor-mode firmware; 'default' and 'none': none, for the VMM itself is the SBI"},
    {"state", OPT_STATE, "file[,snapshot=on|off]",
     "keep in 'file' what the machine is made of, durably; alone: start that machine again"},
    {"event-log", OPT_EVENT_LOG, "file", "append each event to 'file', durably, with the state file's generation"},
    {"preconfig", OPT_PRECONFIG, NULL, "the monitor builds the machine: machine-set, device_add …, x-exit-preconfig"},
    {"S", OPT_STOPPED, NULL, "do not start the guest: wait for 'cont'"},
    {"incoming", OPT_INCOMING, "file:path[,lazy=off|on|map]|unix:path|tcp:host:port|exec:command|fd:n|defer",
     "begin where a state file was written, or with the machine that another program moves here"},
    {"loadvm", OPT_LOADVM, "tag", "begin where a snapshot was taken ('savevm' in the human monitor)"},
    {"as-release", OPT_AS_RELEASE, "type",
     "know of machine types, devices and their state only what was there when 'type' was released"},
    {"state-allow", OPT_STATE_ALLOW, "name",
     "load a state in a version that is known to be bad, by its name in the error"},
    {"force-drop", OPT_FORCE_DROP, "[section:]name", "leave out of a state that is loaded what is not known here"},
    {"snapshot", OPT_SNAPSHOT, NULL, "write to temporary overlays instead of the images of -drive"},
    {"no-reboot", OPT_NO_REBOOT, NULL, "exit instead of rebooting"},
    {"no-shutdown", OPT_NO_SHUTDOWN, NULL, "stop instead of exiting when the guest powers off"},
    {"action", OPT_ACTION, "[reboot=reset|shutdown][,shutdown=poweroff|pause]", "what follows on the guest's wish"},
    {"rtc", OPT_RTC, "[base=utc][,clock=host]", "the clock's base: UTC and the host's clock are all there is"},
    {"overcommit", OPT_OVERCOMMIT, "[mem-lock=on|off][,cpu-pm=off]", "lock all memory of the program into RAM"},
    {"nodefaults", OPT_NODEFAULTS, NULL, "no default serial port and monitor"},
    {"no-user-config", OPT_NO_USER_CONFIG, NULL, "accepted: no configuration file is read"},
    {"blockdev", OPT_BLOCKDEV, "[driver=]driver[,node-name=N][,...]", "add a block node; JSON is taken too"},
    {"drive", OPT_DRIVE, "[file=f][,if=type][,format=f][,id=name][,cache=c][,snapshot=on|off][,readonly=on|off][,...]",
     "add an image, and for if=virtio its device"},
    {"hda", OPT_HDA, "file", "the image as first disk; so does a word without '-'"},
    {"hdb", OPT_HDB, "file", "second disk"},
    {"hdc", OPT_HDC, "file", "third disk"},
    {"hdd", OPT_HDD, "file", "fourth disk"},
    {"cdrom", OPT_CDROM, "file", "a read-only image as third disk"},
    {"device", OPT_DEVICE, "driver[,prop[=value][,...]]", "add a device ('-device help', '-device driver,help')"},
    {"global", OPT_GLOBAL, "driver.prop=value", "default of a device's property, for all devices of that driver"},
    {"set", OPT_SET, "group.id.prop=value",
     "add to the -device, -drive, -netdev or -chardev before it that has this id"},
    {"object", OPT_OBJECT, "type,id=name[,prop=value][,...]",
     "add an object (secret, iothread, throttle-group, memory-backend-ram)"},
    {"chardev", OPT_CHARDEV, "backend,id=id[,...]", "add a character device (socket, file, stdio, pty, null)"},
    {"serial", OPT_SERIAL, "dev", "connect the serial port to a character device"},
    {"monitor", OPT_MONITOR, "dev", "human monitor on a character device"},
    {"qmp", OPT_QMP, "dev", "QMP monitor on a character device"},
    {"qmp-pretty", OPT_QMP_PRETTY, "dev", "the same, with indented output"},
    {"mon", OPT_MON, "[chardev=]name[,mode=readline|control][,pretty[=on|off]]", "monitor on a -chardev"},
    {"display", OPT_DISPLAY, "none", "there is no graphical display"},
    {"vga", OPT_VGA, "none", "there is no graphics card"},
    {"netdev", OPT_NETDEV, "user,id=id[,hostfwd=rule][,prop=value][,...]",
     "add a network, for -device virtio-net-pci,netdev="},
    {"net", OPT_NET, "none", "no network card is there by itself"},
    {"nic", OPT_NIC, "user[,model=name][,mac=address][,prop=value][,...]|none", "add a network and its card"},
    {"parallel", OPT_PARALLEL, "none", "there is no parallel port"},
    {"nographic", OPT_NOGRAPHIC, NULL, "serial port and monitor on the terminal (Ctrl-A h for help)"},
    {"pidfile", OPT_PIDFILE, "file", "write the process id to 'file'"},
    {"daemonize", OPT_DAEMONIZE, NULL, "go into the background once the machine is set up"},
    {"D", OPT_LOGFILE, "file", "write messages and traces to 'file'"},
    {"msg", OPT_MSG, "[timestamp=on|off][,guest-name=on|off]", "what messages begin with"},
    {"trace", OPT_TRACE, "[[enable=]pattern][,events=file][,file=file]",
     "enable trace points ('-trace help' lists them)"},
    {"qtest", OPT_QTEST, "dev", "serve the qtest protocol (with -accel qtest)"},
    {"qtest-log", OPT_QTEST_LOG, "file|none", "where the qtest protocol is logged (default: standard error)"},
    {NULL, 0, NULL, NULL},
};

static const struct opt_spec *find_spec(const char *word)
{
    for (const struct opt_spec *s = opt_table; s->name; s++) {
        if (!strcmp(s->name, word)) {
            return s;
        }
    }
    return NULL;
}

static int unknown_option(const char *arg, const char *word, struct err *e)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    for (const struct opt_spec *s = opt_table; s->name; s++) {
        g_ptr_array_add(names, (void *)s->name);
    }
    g_ptr_array_add(names, NULL);
    const char *near = nearest_word(word, (const char *const *)names->pdata);
    return near ? err_set(e, EINVAL, "%s: invalid option: did you mean '-%s'?", arg, near)
                : err_set(e, EINVAL, "%s: invalid option", arg);
}

/* Whether "…,id=x,…" has this id. */
static bool has_id(const char *text, const char *id)
{
    g_auto(GStrv) parts = g_strsplit(text, ",", -1);
    bool doubled = false; /* a comma within a value is written twice */
    for (char **p = parts; *p; p++) {
        if (!doubled && g_str_has_prefix(*p, "id=") && !strcmp(*p + strlen("id="), id)) {
            return true;
        }
        doubled = !**p && !doubled;
    }
    return false;
}

/* -set GROUP.ID.PROP=VALUE: the option before it that made ID says that, too. */
static int extend(GArray *opts, const char *text, struct err *e)
{
    static const char *const groups[] = {"device", "drive", "netdev", "chardev", NULL};
    g_auto(GStrv) parts = g_strsplit(text, ".", 3);
    const char *equals = g_strv_length(parts) == 3 ? strchr(parts[2], '=') : NULL;
    if (!equals || equals == parts[2] || !*parts[1]) {
        return err_set(e, EINVAL, "-set %s: can't parse: \"%s\": it is group.id.prop=value", text, text);
    }
    if (!g_strv_contains(groups, parts[0])) {
        err_set(e, ENOTSUP, "-set %s: -set is not supported with %s", text, parts[0]);
        return err_suggest(e, parts[0], groups);
    }
    for (guint i = 0; i < opts->len; i++) {
        struct opt *o = &g_array_index(opts, struct opt, i);
        if (!strcmp(o->name, parts[0]) && o->value[0] != '{' && has_id(o->value, parts[1])) {
            g_auto(GStrv) commas = g_strsplit(parts[2], ",", -1);
            g_autofree char *escaped = g_strjoinv(",,", commas);
            char *old = o->extended; /* which the value may be */
            o->value = o->extended = g_strconcat(o->value, ",", escaped, NULL);
            g_free(old);
            return 0;
        }
    }
    return err_set(e, ENOENT, "-set %s: there is no %s \"%s\" defined", text, parts[0], parts[1]);
}

static void free_extended(void *opt)
{
    g_free(((struct opt *)opt)->extended);
}

GArray *opts_parse(int argc, char **argv, struct err *e)
{
    g_autoptr(GArray) out = g_array_new(FALSE, FALSE, sizeof(struct opt));
    g_array_set_clear_func(out, free_extended);
    for (int i = 1; i < argc; i++) {
        struct opt o = {.id = OPT_HDA, .name = "hda", .value = argv[i]};
        if (argv[i][0] == '-' && argv[i][1]) {
            const char *word = argv[i] + (argv[i][1] == '-' ? 2 : 1);
            const struct opt_spec *s = find_spec(word);
            if (!s) {
                unknown_option(argv[i], word, e);
                return NULL;
            }
            o = (struct opt){.id = s->id, .name = s->name, .value = s->implied};
            if (s->arg && i + 1 >= argc) {
                err_set(e, EINVAL, "%s: requires an argument", argv[i]);
                return NULL;
            }
            if (s->arg) {
                o.value = argv[++i];
            }
        }
        if (o.id == OPT_SET) {
            if (extend(out, o.value, e)) {
                return NULL;
            }
            continue;
        }
        g_array_append_val(out, o);
    }
    return g_steal_pointer(&out);
}

struct json_object *opt_group(const char *text, const char *implied, const char *const *keys, struct err *e)
{
    CLEANUP_JSON struct json_object *o = keyval_parse(text, implied, e);
    if (!o) {
        return NULL;
    }
    json_object_object_foreach(o, key, value)
    {
        (void)value;
        if (!g_strv_contains(keys, key)) {
            err_set(e, EINVAL, "Invalid parameter '%s'", key);
            err_suggest(e, key, keys);
            return NULL;
        }
    }
    return take(o);
}

const char *opts_last(const GArray *opts, enum opt_id id)
{
    for (guint i = opts->len; i-- > 0;) {
        const struct opt *o = &g_array_index(opts, struct opt, i);
        if (o->id == id) {
            return o->value;
        }
    }
    return NULL;
}

bool opts_given(const GArray *opts, enum opt_id id)
{
    for (guint i = 0; i < opts->len; i++) {
        if (g_array_index(opts, struct opt, i).id == id) {
            return true;
        }
    }
    return false;
}

void opts_print_help(const char *program)
{
    printf("usage: %s [options] [disk_image]\n\n"
           "'disk_image' is a raw hard disk image for virtio disk 0\n\n"
           "Options, in the words of QEMU:\n",
           program);
    for (const struct opt_spec *s = opt_table; s->name; s++) {
        g_autofree char *left = g_strdup_printf("-%s%s%s", s->name, s->arg ? " " : "", s->arg ? s->arg : "");
        if (strlen(left) < 24) {
            printf("  %-24s %s\n", left, s->help);
        } else {
            printf("  %s\n  %24s %s\n", left, "", s->help);
        }
    }
    printf("\nWith -nographic: Ctrl-A h prints the keys, Ctrl-A c reaches the monitor, Ctrl-A x ends the program.\n");
}
