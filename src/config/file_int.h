/* SPDX-License-Identifier: BSD-2-Clause */
/* What the files that make up the state file share. */
#pragma once

#include "config/file.h"
#include "config/file_fs.h"
#include "loop/co.h"

enum {
    CONFIG_FORMAT = 1,
    CONFIG_MOST_BYTES = 8 << 20,
    CONFIG_MOST_LINE = 65535, /* bytes of a line, without its end */
    CONFIG_MOST_SECTIONS = 4096,
    CONFIG_MOST_KEYS = 1024, /* of a section */
    CONFIG_MOST_DEPTH = 32,
    CONFIG_MOST_NAME = 255,
};

/* --- the text in memory: nothing of what a person wrote is lost ------------------------------------------------- */

/* A key and its value, which is no object or array unless empty. */
struct config_entry {
    char *lead;                /* the lines of comments, and empty ones, before it; "" */
    char *text;                /* its line as it was read; NULL: to be made of what follows */
    char *tail;                /* a comment behind the value, with the blanks before it; "" */
    char *key;                 /* dotted, in canonical spelling */
    struct json_object *value; /* NULL: null */
    unsigned line;
};

/* Shared between generations, and not changed once it is in one. */
struct config_text {
    unsigned refs;
    struct config_section pub; /* kind NULL: what stands before the first section */
    char *kind, *name;         /* what pub shows */
    char *lead, *text, *tail;  /* of its head, as above */
    GPtrArray *entries;        /* struct config_entry */
    unsigned line;
};

struct config_doc {
    struct config_text *head; /* format, release */
    GPtrArray *sections;      /* struct config_text */
    char *lead;               /* what stands before the last line */
    uint64_t generation;      /* 0: unknown, or never written */
    bool edited;              /* the last line says so */
};

struct config_doc *config_doc_new(const char *release);
struct config_doc *config_doc_copy(const struct config_doc *d);
void config_doc_free(struct config_doc *d);
/* What is about to be written. `release` may be NULL. */
void config_doc_stamp(struct config_doc *d, uint64_t generation, const char *release);
struct config_text *config_doc_find(const struct config_doc *d, const char *kind, const char *name, guint *at);

struct config_text *config_text_new(const char *kind, const char *name);
struct config_text *config_text_copy(const struct config_text *t);
struct config_text *config_text_ref(struct config_text *t);
void config_text_unref(void *t);
struct config_entry *config_entry_new(const char *key, struct json_object *value); /* takes value */
void config_entry_free(void *en);

/* Changes of a document. -E2BIG, -EINVAL: what cannot be written. `values` is borrowed. */
int config_doc_set(struct config_doc *d, const char *kind, const char *name, struct json_object *values, struct err *e);
void config_doc_delete(struct config_doc *d, const char *kind, const char *name);

/* --- its syntax --------------------------------------------------------------------------------------------------- */

/* The release that says so in the file, for messages: borrowed of d. NULL: none does. */
const char *config_doc_release(const struct config_doc *d);
/* A file's bytes become a document. `path` is for messages. An empty one is a new document. `trust`: as if its last
 * line said that it was edited. */
int config_parse(const char *path, const GByteArray *bytes, bool trust, struct config_doc **out, struct err *e);
/* Whether it is what `kinds` allow. */
int config_check(const char *path, const struct config_doc *d, const struct config_kind *kinds, struct err *e);
/* Puts "PATH:LINE: [kind "name"]: " before an error about a section's values. */
int config_text_blame(const char *path, const struct config_text *t, struct err *e);
/* The whole text, with its last line; numbers the lines. */
GString *config_print(struct config_doc *d);

/* Dotted keys: one level's text is taken off *at. `index`: it is a number of an array, bare digits. g_malloc'd; NULL
 * with *why, when it is none. */
char *config_key_level(const char **at, bool *index, const char **why);
/* A whole key, as config_key_level() has it. */
char *config_key_canonical(const char *key, const char **why);
/* Adds one level to a key in its canonical spelling. */
void config_key_add(GString *key, const char *level, bool index);
/* A value's canonical spelling. */
void config_value_print(GString *to, struct json_object *value);
/* In quotes, whatever it is. */
void config_string_print(GString *to, const char *s);
/* What stands at *at, which moves behind it. False with *why. */
bool config_value_parse(const char **at, struct json_object **out, const char **why);
/* {"a": {"b": 1}} becomes entries; appends. */
int config_flatten(struct json_object *values, GPtrArray *entries, struct err *e);
/* The reverse; *bad is the entry that an error is about. */
struct json_object *config_unflatten(const GPtrArray *entries, const struct config_entry **bad, struct err *e);

/* --- on the disk -------------------------------------------------------------------------------------------------- */

/* One new generation; any thread. */
struct config_put {
    const struct config_fs *fs;
    void *dir;
    const char *name;
    const GString *text;
    const GString *was; /* what this process knows to be there; NULL: nothing */
    bool keep;          /* what is there becomes the previous generation */
    bool visible;       /* out: the text is in the file's place (and may not be durable, on failure) */
    bool foreign;       /* out: what was there was not `was` */
    const char *step;   /* out: what failed */
};
int config_put(struct config_put *p);
/* A file that must not be there, or be empty: -EEXIST. */
int config_put_new(struct config_put *p);
/* An error that says which step failed with `rc`, of which file, and what to do; returns rc. */
int config_put_failed(const struct config_put *p, const char *file, int rc, struct err *e);

#define CONFIG_PREV    ".prev"
#define CONFIG_NEW     ".new"
#define CONFIG_REFUSED ".refused"

struct config_lock { /* zero, but fd -1: nothing */
    int fd;
    char *path; /* of the companion; NULL: none was needed */
    bool shared;
};
/* -EAGAIN: somebody else has it, whom the error names. */
int config_lock_take(struct config_lock *l, const char *file, bool shared, struct err *e);
void config_lock_drop(struct config_lock *l);

/* --- the file ---------------------------------------------------------------------------------------------------- */

struct config_file {
    char *shown, *path, *name, *release; /* shown: as it was given; NULL: there is no file */
    bool snapshot;
    struct log *log;
    struct loop *loop;
    const struct config_fs *fs;
    void *dir;
    struct config_lock lock;
    struct config_doc *doc; /* what is durable */
    uint64_t number;        /* the highest generation that was ever begun */
    bool in_place;          /* there is a generation in FILE that may become the previous one */
    GString *was;           /* what FILE holds; NULL: there is none */
    GPtrArray *pending;     /* struct config_change, committed, not begun */
    bool busy;
    struct co_queue idle;
    config_changed_fn *changed;
    void *changed_opaque;
};

/* Writes a document, which has its generation already; on the loop, or before it runs. f->was and f->in_place follow.
 */
int config_file_write(struct config_file *f, struct config_doc *d, bool keep, struct err *e);
