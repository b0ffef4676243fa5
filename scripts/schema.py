#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Generate C tables, decoders, introspection and the reference manual from schema/*.json.

    scripts/schema.py headers OUT.h FAMILY.json          structs, enums and prototypes of one family
    scripts/schema.py tables  OUT.c FAMILY.json ...      types, decoders, commands, events, introspection
    scripts/schema.py docs    OUT.md FAMILY.json ...     the reference manual

The notation is QAPI's (QEMU docs/devel/qapi-code-gen.rst): expressions between single quotes, '#' comments, doc
comments between '##' lines.  Taken are include, pragma, enum, struct, union, alternate, command and event.  One pragma is
ours: { 'pragma': { 'needs-vm': [ commands ] } } names the commands that make no sense without a machine.

Every command and event must have a doc comment that names each of its arguments, or generating fails.
"""
import os, re, sys

BUILTINS = {  # name: (kind, C type, JSON type, low, high)
    "str": ("STR", "const char *", "string", 0, 0),
    "bool": ("BOOL", "bool ", "boolean", 0, 0),
    "number": ("NUMBER", "double ", "number", 0, 0),
    "int": ("INT", "int64_t ", "int", "INT64_MIN", "INT64_MAX"),
    "int8": ("INT", "int64_t ", "int", "INT8_MIN", "INT8_MAX"),
    "int16": ("INT", "int64_t ", "int", "INT16_MIN", "INT16_MAX"),
    "int32": ("INT", "int64_t ", "int", "INT32_MIN", "INT32_MAX"),
    "int64": ("INT", "int64_t ", "int", "INT64_MIN", "INT64_MAX"),
    "uint8": ("INT", "uint64_t ", "int", 0, "UINT8_MAX"),
    "uint16": ("INT", "uint64_t ", "int", 0, "UINT16_MAX"),
    "uint32": ("INT", "uint64_t ", "int", 0, "UINT32_MAX"),
    "uint64": ("INT", "uint64_t ", "int", 0, "UINT64_MAX"),
    "size": ("INT", "uint64_t ", "int", 0, "UINT64_MAX"),
    "null": ("NULL", None, "null", 0, 0),
    "any": ("ANY", None, "value", 0, 0),
}
KEYS = {
    "include": {"include"}, "pragma": {"pragma"},
    "enum": {"enum", "data", "features", "prefix"},
    "struct": {"struct", "data", "base", "features"},
    "union": {"union", "base", "discriminator", "data", "features"},
    "alternate": {"alternate", "data", "features"},
    "command": {"command", "data", "returns", "features", "gen", "boxed", "allow-preconfig", "success-response", "allow-oob", "coroutine"},
    "event": {"event", "data", "boxed", "features"},
}


class SchemaError(Exception):
    pass


def tokens(text, path):
    """(kind, value, line): kind is a punctuation character, 'str', 'bool' or 'doc'."""
    line, pos, doc = 1, 0, None
    for m in re.finditer(r"(?P<nl>\n)|(?P<ws>[ \t]+)|(?P<comment>#[^\n]*)|(?P<punct>[{}\[\]:,])|'(?P<str>[^'\n]*)'"
                         r"|(?P<bool>true|false)|(?P<bad>.)", text):
        if m.group("comment") is not None:
            c = m.group("comment")
            if c == "##":
                if doc is None:
                    doc = []
                else:
                    yield "doc", doc, line
                    doc = None
            elif doc is not None:
                doc.append(c[2:] if c.startswith("# ") else c[1:])
        elif m.group("nl"):
            line += 1
        elif doc is not None and not m.group("ws"):
            raise SchemaError(f"{path}:{line}: documentation comment is not closed by '##'")
        elif m.group("punct"):
            yield m.group("punct"), None, line
        elif m.group("str") is not None:
            yield "str", m.group("str"), line
        elif m.group("bool"):
            yield "bool", m.group("bool") == "true", line
        elif m.group("bad"):
            raise SchemaError(f"{path}:{line}: stray '{m.group('bad')}'")
    if doc is not None:
        raise SchemaError(f"{path}:{line}: documentation comment is not closed by '##'")


class Parser:
    def __init__(self, path):
        self.path = path
        with open(path, encoding="utf-8") as f:
            self.toks = list(tokens(f.read(), path))
        self.i = 0

    def fail(self, what):
        line = self.toks[min(self.i, len(self.toks) - 1)][2] if self.toks else 1
        raise SchemaError(f"{self.path}:{line}: {what}")

    def peek(self):
        return self.toks[self.i][0] if self.i < len(self.toks) else None

    def next(self, *kinds):
        if self.peek() not in kinds:
            self.fail(f"expected {' or '.join(kinds)}, got {self.peek() or 'end of file'}")
        self.i += 1
        return self.toks[self.i - 1]

    def value(self):
        kind, val, _ = self.next("{", "[", "str", "bool")
        if kind == "{":
            out = {}
            while self.peek() != "}":
                key = self.next("str")[1]
                if key in out:
                    self.fail(f"duplicate key '{key}'")
                self.next(":")
                out[key] = self.value()
                if self.peek() != "}":
                    self.next(",")
            self.i += 1
            return out
        if kind == "[":
            out = []
            while self.peek() != "]":
                out.append(self.value())
                if self.peek() != "]":
                    self.next(",")
            self.i += 1
            return out
        return val

    def expressions(self):
        """(expression, doc lines or None, line)"""
        doc = None
        while self.peek():
            if self.peek() == "doc":
                doc = self.next("doc")[1]
                if doc and doc[0].startswith("="):
                    doc = None
                continue
            line = self.toks[self.i][2]
            if self.peek() != "{":
                self.fail("expected an expression in braces")
            yield self.value(), doc, line
            doc = None


class Doc:
    """Text, {argument: text} and what is returned, of one doc comment."""

    def __init__(self, lines, name, where):
        self.text, self.args, self.returns = [], {}, []
        if not lines or lines[0].strip() != f"@{name}:":
            raise SchemaError(f"{where}: documentation must begin with '@{name}:'")
        sink = self.text
        for line in lines[1:]:
            m = re.match(r"@([\w.-]+):\s*(.*)", line)
            if m:
                sink = self.args.setdefault(m.group(1), [])
                line = m.group(2)
            elif line.startswith("Returns:"):
                sink, line = self.returns, line[len("Returns:"):].strip()
            sink.append(line.strip())

    @staticmethod
    def join(lines):
        return "\n\n".join(" ".join(p.split()) for p in "\n".join(lines).strip().split("\n\n") if p.strip())


class Type:
    def __init__(self, name, kind, family):
        self.name, self.kind, self.family = name, kind, family
        self.values, self.members, self.tag, self.variants, self.alts, self.element = [], [], None, [], [], None
        self.open, self.doc, self.features = False, None, []

    @property
    def c(self):
        return "type_" + c_name(self.name)

    @property
    def builtin(self):
        return self.name in BUILTINS


class Member:
    def __init__(self, name, typ, optional):
        self.name, self.type, self.optional = name, typ, optional


class Command:
    def __init__(self, name, family):
        self.name, self.family = name, family


def c_name(name):
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def upper_name(camel):
    """BlockdevOnError -> BLOCKDEV_ON_ERROR"""
    s = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", camel)
    return c_name(re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", s)).upper()


class Schema:
    def __init__(self, paths):
        self.types = {n: self.builtin(n) for n in BUILTINS}
        self.commands, self.events, self.needs_vm, self.families, self.includes = {}, {}, set(), [], {}
        self.order, self.raw, self.loaded = [], {}, set()
        for p in paths:
            self.load(p)
        self.empty = Type("q_empty", "OBJECT", None)
        self.types["q_empty"] = self.empty
        for name in list(self.raw):
            self.resolve(name)
        self.link()

    @staticmethod
    def builtin(n):
        return Type(n, BUILTINS[n][0], None)

    def load(self, path):
        path = os.path.realpath(path)
        if path in self.loaded:
            return
        self.loaded.add(path)
        family = os.path.splitext(os.path.basename(path))[0]
        self.includes[family] = []
        for expr, doc, line in Parser(path).expressions():
            where = f"{path}:{line}"
            meta = next((k for k in KEYS if k in expr), None)
            if meta is None:
                raise SchemaError(f"{where}: none of {', '.join(KEYS)}")
            for k in expr:
                if k not in KEYS[meta]:
                    raise SchemaError(f"{where}: unknown key '{k}' of {meta}")
            if meta == "include":
                inc = os.path.join(os.path.dirname(path), expr["include"])
                if not os.path.exists(inc):
                    raise SchemaError(f"{where}: no file '{expr['include']}'")
                self.includes[family].append(os.path.splitext(os.path.basename(inc))[0])
                self.load(inc)
            elif meta == "pragma":
                self.needs_vm |= set(expr["pragma"].get("needs-vm", []))
            else:
                name = expr[meta]
                if name in self.raw or name in self.types:
                    raise SchemaError(f"{where}: '{name}' is defined twice")
                self.raw[name] = (meta, expr, doc, where, family)
        self.families.append(family)

    def type(self, spec, where):
        if isinstance(spec, list):
            if len(spec) != 1:
                raise SchemaError(f"{where}: an array names one type")
            element = self.type(spec[0], where)
            name = f"{element.name}List"
            if name not in self.types:
                t = self.types[name] = Type(name, "ARRAY", element.family)
                t.element = element
            return self.types[name]
        if isinstance(spec, dict) and "type" in spec:
            return self.type(spec["type"], where)
        if spec in self.types:
            return self.types[spec]
        if spec in self.raw and self.raw[spec][0] in ("enum", "struct", "union", "alternate"):
            return self.resolve(spec)
        raise SchemaError(f"{where}: unknown type '{spec}'")

    def members(self, data, where):
        out = []
        for key, spec in data.items():
            name = key.lstrip("*")
            if not re.fullmatch(r"[A-Za-z][\w-]*", name):
                raise SchemaError(f"{where}: bad member name '{key}'")
            out.append(Member(name, self.type(spec, where), key.startswith("*")))
        return out

    def object_members(self, spec, where, what):
        """Members of a struct's name or of an anonymous one."""
        if isinstance(spec, dict):
            return self.members(spec, where)
        t = self.type(spec, where)
        if t.kind != "OBJECT" or t.tag:
            raise SchemaError(f"{where}: {what} '{spec}' is not a struct")
        return t.members

    def resolve(self, name):
        meta, expr, doc, where, family = self.raw[name]
        if meta in ("command", "event"):
            return self.resolve_call(name, meta, expr, doc, where, family)
        if name in self.types:
            return self.types[name]
        kind = {"enum": "ENUM", "struct": "OBJECT", "union": "OBJECT", "alternate": "ALTERNATE"}[meta]
        t = self.types[name] = Type(name, kind, family)
        self.order.append(t)
        t.doc = Doc(doc, name, where) if doc else None
        t.features = [f if isinstance(f, str) else f["name"] for f in expr.get("features", [])]
        if meta == "enum":
            t.values = [v if isinstance(v, str) else v["name"] for v in expr["data"]]
        elif meta == "alternate":
            t.alts = [Member(k, self.type(v, where), False) for k, v in expr["data"].items()]
        else:
            t.members = list(self.object_members(expr["base"], where, "base")) if "base" in expr else []
            if meta == "struct":
                t.members += self.members(expr["data"], where)
            else:
                self.resolve_union(t, expr, where)
            base = self.types.get(expr["base"]) if isinstance(expr.get("base"), str) else None
            if t.doc and base and base.doc:
                t.doc.args = {**base.doc.args, **t.doc.args}
            names = [m.name for m in t.members]
            for n in names:
                if names.count(n) > 1:
                    raise SchemaError(f"{where}: member '{n}' twice in '{name}'")
        return t

    def resolve_union(self, t, expr, where):
        t.tag = expr["discriminator"]
        tag = next((m for m in t.members if m.name == t.tag), None)
        if not tag or tag.type.kind != "ENUM":
            raise SchemaError(f"{where}: discriminator '{t.tag}' is not an enum member of the base")
        for value, spec in expr["data"].items():
            if value not in tag.type.values:
                raise SchemaError(f"{where}: branch '{value}' is not a value of '{tag.type.name}'")
            t.variants.append((value, self.type(spec, where)))

    def resolve_call(self, name, meta, expr, doc, where, family):
        table = self.commands if meta == "command" else self.events
        if name in table:
            return table[name]
        if doc is None:
            raise SchemaError(f"{where}: {meta} '{name}' has no documentation")
        c = table[name] = Command(name, family)
        c.meta, c.doc, c.expr = meta, Doc(doc, name, where), expr
        c.gen = expr.get("gen", True)
        c.allow_preconfig, c.allow_oob = expr.get("allow-preconfig", False), expr.get("allow-oob", False)
        c.features = [f if isinstance(f, str) else f["name"] for f in expr.get("features", [])]
        data = expr.get("data")
        if data is None:
            c.arg = self.empty
        elif isinstance(data, str):
            c.arg = self.type(data, where)
            if c.arg.kind != "OBJECT":
                raise SchemaError(f"{where}: data of '{name}' is not an object")
        else:
            c.arg = Type(f"q_obj_{name}-arg", "OBJECT", family)
            c.arg.members = self.members(data, where)
            c.arg.open = not c.gen
            self.types[c.arg.name] = c.arg
        c.ret = self.type(expr["returns"], where) if "returns" in expr else self.empty
        documented = set(c.doc.args) | set(c.arg.doc.args if c.arg.doc else ())
        for m in c.arg.members:
            if m.name not in documented and not c.arg.tag:
                raise SchemaError(f"{where}: argument '{m.name}' of '{name}' is not documented")
        for a in c.doc.args:
            if a not in [m.name for m in c.arg.members]:
                raise SchemaError(f"{where}: documented argument '{a}' of '{name}' does not exist")
        return c

    def link(self):
        for name in self.needs_vm:
            if name not in self.commands:
                raise SchemaError(f"pragma needs-vm: no command '{name}'")


# --- C ------------------------------------------------------------------------------------------------------------

NOTE = "/* SPDX-License-Identifier: BSD-2-Clause */\n/* Generated by scripts/schema.py. */\n"


def raw_args(c):
    """The handler gets the object as it is: unions, and commands that check by themselves."""
    return bool(c.arg.tag) or not c.gen


def arg_fields(c):
    """(declaration, initialiser) per member."""
    if raw_args(c):
        yield "struct json_object *options;", ".options = args"
        return
    for m in c.arg.members:
        f, key = c_name(m.name), f'"{m.name}"'
        kind = m.type.kind
        null = kind == "ALTERNATE" and any(a.type.name == "null" for a in m.type.alts)
        has = m.optional and (kind in ("BOOL", "INT", "NUMBER", "ENUM") or null)
        if has:
            yield f"bool has_{f};", f".has_{f} = schema_has(args, {key})"
        if kind == "STR":
            yield f"const char *{f};", f".{f} = schema_str(args, {key})"
        elif kind == "BOOL":
            yield f"bool {f};", f".{f} = schema_bool(args, {key})"
        elif kind == "NUMBER":
            yield f"double {f};", f".{f} = schema_number(args, {key})"
        elif kind == "INT":
            signed = BUILTINS[m.type.name][1].startswith("int")
            yield f"{BUILTINS[m.type.name][1]}{f};", f".{f} = schema_{'int' if signed else 'uint'}(args, {key})"
        elif kind == "ENUM":
            yield f"int {f};", f".{f} = schema_enum(args, {key}, &{m.type.c})"
        else:
            yield f"struct json_object *{f};", f".{f} = schema_any(args, {key})"


def prototype(c):
    a = f"const struct qmp_{c_name(c.name)}_args *a, " if c.arg.members else ""
    return f"int qmp_{c_name(c.name)}(struct mon_ctx *c, {a}struct json_object **ret, struct err *e)"


def gen_header(schema, family):
    out = [NOTE, "#pragma once\n", '#include "monitor/command.h"\n']
    out += [f'#include "schema/qmp_{i}.h"' for i in schema.includes[family]]
    for t in schema.order:
        if t.kind == "ENUM" and t.family == family:
            up = upper_name(t.name)
            out.append(f"\nenum qmp_{c_name(t.name)} {{")
            out += [f"    QMP_{up}_{c_name(v).upper()}," for v in t.values]
            out.append(f"    QMP_{up}__COUNT,\n}};")
            out.append(f"extern const char *const qmp_{c_name(t.name)}_names[]; /* NULL-terminated */")
    for c in sorted(schema.commands.values(), key=lambda c: c.name):
        if c.family != family:
            continue
        out.append("")
        if c.arg.members:
            out.append(f"struct qmp_{c_name(c.name)}_args {{")
            out += [f"    {decl}" for decl, _ in arg_fields(c)]
            out.append("};")
            out.append(f"void qmp_{c_name(c.name)}_decode(struct json_object *args, void *out); /* struct qmp_{c_name(c.name)}_args; args: checked */")
        out.append(prototype(c) + ";")
    return "\n".join(out) + "\n"


def gen_enum_names(t):
    values = "".join(f'"{v}", ' for v in t.values)
    return f"const char *const qmp_{c_name(t.name)}_names[] = {{{values}NULL}};"


def gen_type(t):
    name = t.c
    pre, body = [], [f'.kind = SCHEMA_{t.kind}, .name = "{t.name}"']
    if t.kind == "INT":
        low, high = BUILTINS[t.name][3:]
        body.append(f".min = {low}, .max = {high}")
    elif t.kind == "ENUM":
        body.append(f".values = qmp_{c_name(t.name)}_names")
    elif t.kind == "ARRAY":
        body.append(f".element = &{t.element.c}")
    elif t.kind == "ALTERNATE":
        pre.append(f"static const struct schema_type *const {name}_alts[] = {{{', '.join('&' + m.type.c for m in t.alts)}, NULL}};")
        body.append(f".alternatives = {name}_alts")
    elif t.kind == "OBJECT":
        rows = "".join(f'    {{"{m.name}", &{m.type.c}, {"true" if m.optional else "false"}}},\n' for m in t.members)
        pre.append(f"static const struct schema_member {name}_members[] = {{\n{rows}    {{NULL}},\n}};")
        body.append(f".members = {name}_members")
        if t.tag:
            rows = "".join(f'    {{"{v}", &{vt.c}}},\n' for v, vt in t.variants)
            pre.append(f"static const struct schema_variant {name}_variants[] = {{\n{rows}    {{NULL}},\n}};")
            body.append(f'.tag = "{t.tag}", .variants = {name}_variants')
        if t.open:
            body.append(".open = true")
    return "\n".join(pre + [f"static const struct schema_type {name} = {{{', '.join(body)}}};"])


def gen_decoder(c):
    name, fields = c_name(c.name), [init for _, init in arg_fields(c)] if c.arg.members else []
    lines = []
    if fields:
        lines += [f"void qmp_{name}_decode(struct json_object *args, void *out)", "{",
                  f"    *(struct qmp_{name}_args *)out = (struct qmp_{name}_args){{"] + [f"        {f}," for f in fields] + ["    };", "}", ""]
    lines += [f"static int call_{name}(struct mon_ctx *c, struct json_object *args, struct json_object **ret, struct err *e)", "{",
              f"    if (schema_check(&{c.arg.c}, args, e)) {{", "        return -EINVAL;", "    }"]
    if fields:
        lines += [f"    struct qmp_{name}_args a;", f"    qmp_{name}_decode(args, &a);"]
    lines += [f"    return qmp_{name}(c, {'&a, ' if fields else ''}ret, e);", "}"]
    return "\n".join(lines)


def c_string(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def reachable(schema):
    """The types that commands and events use, in the order of their definition."""
    seen, todo = set(), [t for c in [*schema.commands.values(), *schema.events.values()] for t in (c.arg, getattr(c, "ret", c.arg))]
    while todo:
        t = todo.pop()
        if t not in seen:
            seen.add(t)
            todo += [m.type for m in t.members + t.alts] + [v for _, v in t.variants] + ([t.element] if t.element else [])
    return [t for t in schema.types.values() if t in seen]


def gen_tables(schema):
    types = reachable(schema)
    out = [NOTE, '#include "monitor/check.h"']
    out += [f'#include "schema/qmp_{f}.h"' for f in schema.families] + [""]
    out += [f"static const struct schema_type {t.c};" for t in types] + [""]
    out += [gen_enum_names(t) for t in schema.order if t.kind == "ENUM"]
    out += [gen_type(t) for t in types]
    commands = sorted(schema.commands.values(), key=lambda c: c.name)
    for c in commands:
        out += ["", gen_decoder(c)]
    out.append("\nconst struct qmp_command qmp_commands[] = {")
    for c in commands:
        flags = "".join(f", .{f} = true" for f, on in (("allow_preconfig", c.allow_preconfig), ("allow_oob", c.allow_oob),
                                                       ("needs_vm", c.name in schema.needs_vm)) if on)
        doc = Doc.join(c.doc.text).split("\n")[0]
        out.append(f'    {{.name = "{c.name}", .call = call_{c_name(c.name)}, .args = &{c.arg.c}, .returns = &{c.ret.c}, '
                   f".help = {c_string(doc)}{flags}}},")
    out.append("    {.name = NULL},\n};\n\nconst struct qmp_event qmp_events[] = {")
    out += [f'    {{"{e.name}", &{e.arg.c}}},' for e in sorted(schema.events.values(), key=lambda e: e.name)]
    out.append("    {NULL},\n};\n\nconst char qmp_schema_json[] =")
    infos = introspect(schema)
    for i, info in enumerate(infos):
        out.append("    " + c_string(("[" if i == 0 else "") + to_json(info) + ("]" if i == len(infos) - 1 else ",")) + (";" if i == len(infos) - 1 else ""))
    return "\n".join(out) + "\n"


# --- introspection: QEMU's SchemaInfo ---------------------------------------------------------------------------------

def to_json(v):
    import json
    return json.dumps(v)


def introspect(schema):
    """Commands and events, then the types that they reach; types other than built-in ones are called by a number."""
    numbers, used, labels, out = {}, [], set(), []

    def name(t):
        if t.kind == "ARRAY":
            label = f"[{name(t.element)}]"
        elif t.builtin:
            t = schema.types["int"] if t.kind == "INT" else t
            label = t.name
        else:
            label = str(numbers.setdefault(t.name, len(numbers)))
        if label not in labels:  # all integers are "int" here, and so are their arrays
            labels.add(label)
            used.append(t)
        return label

    def with_features(info, features):
        return {**info, "features": features} if features else info

    name(schema.empty)
    for meta, table in (("command", schema.commands), ("event", schema.events)):
        for c in table.values():
            info = {"name": c.name, "meta-type": meta, "arg-type": name(c.arg)}
            if meta == "command":
                info["ret-type"] = name(c.ret)
                if c.allow_oob:
                    info["allow-oob"] = True
            out.append(with_features(info, c.features))
    for t in used:  # grows as it is walked
        info = {"name": name(t)}
        if t.builtin:
            info |= {"meta-type": "builtin", "json-type": BUILTINS[t.name][2]}
        elif t.kind == "ENUM":
            info |= {"meta-type": "enum", "members": [{"name": v} for v in t.values], "values": t.values}
        elif t.kind == "ARRAY":
            info |= {"meta-type": "array", "element-type": name(t.element)}
        elif t.kind == "ALTERNATE":
            info |= {"meta-type": "alternate", "members": [{"type": name(m.type)} for m in t.alts]}
        else:
            info |= {"meta-type": "object",
                     "members": [{"name": m.name, "type": name(m.type), **({"default": None} if m.optional else {})} for m in t.members]}
            if t.tag:
                tag = next(m for m in t.members if m.name == t.tag)
                given = dict(t.variants)
                info |= {"tag": t.tag, "variants": [{"case": v, "type": name(given.get(v, schema.empty))} for v in tag.type.values]}
        out.append(with_features(info, t.features))
    return out


# --- the reference manual ---------------------------------------------------------------------------------------------

def type_ref(t):
    if t.kind == "ARRAY":
        return f"array of {type_ref(t.element)}"
    return f"`{t.name}`" if t.builtin else f"[`{t.name}`](#{t.name.lower()})"


def doc_members(members, doc, extra=None):
    out = []
    for m in members:
        text = Doc.join(doc.args.get(m.name, [])) if doc else ""
        if not text and extra:
            text = Doc.join(extra.args.get(m.name, []))
        out.append(f"- `{m.name}`: {type_ref(m.type)}{', optional' if m.optional else ''}{'. ' + text if text else ''}")
    return out


def doc_type(t):
    out = [f"### {t.name}", ""]
    if t.doc and t.doc.text:
        out += [Doc.join(t.doc.text), ""]
    if t.kind == "ENUM":
        for v in t.values:
            text = Doc.join(t.doc.args.get(v, [])) if t.doc else ""
            out.append(f"- `{v}`{': ' + text if text else ''}")
    elif t.kind == "ALTERNATE":
        out += ["One of: " + ", ".join(type_ref(m.type) for m in t.alts) + "."]
    else:
        out += doc_members(t.members, t.doc)
        if t.tag:
            out += ["", f"More members by the value of `{t.tag}`:", ""] + [f"- `{v}`: {type_ref(vt)}" for v, vt in t.variants]
    return out + [""]


def gen_docs(schema):
    out = ["# QMP reference", "", "Commands, events and types of Sterna's monitor, made from `schema/`. The wire format is QMP's; "
           "what `query-qmp-schema` answers comes from the same source.", "", "## Commands", ""]
    for c in sorted(schema.commands.values(), key=lambda c: c.name):
        out += [f"### {c.name}", "", Doc.join(c.doc.text), ""]
        if c.arg.tag:
            out += [f"Arguments: {type_ref(c.arg)}", ""]
        elif c.arg.members:
            out += ["Arguments:", ""] + doc_members(c.arg.members, c.doc, c.arg.doc) + [""]
        if c.ret is not schema.empty:
            text = Doc.join(c.doc.returns)
            out += [f"Returns: {type_ref(c.ret)}{'. ' + text if text else ''}", ""]
    out += ["## Events", ""]
    for c in sorted(schema.events.values(), key=lambda c: c.name):
        out += [f"### {c.name}", "", Doc.join(c.doc.text), ""]
        if c.arg.members:
            out += ["Data:", ""] + doc_members(c.arg.members, c.doc, c.arg.doc) + [""]
    out += ["## Types", ""]
    for t in sorted(schema.order, key=lambda t: t.name):
        out += doc_type(t)
    return "\n".join(out)


def main(argv):
    if len(argv) < 4 or argv[1] not in ("headers", "tables", "docs"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        schema = Schema(argv[3:])
        if argv[1] == "headers":
            text = gen_header(schema, os.path.splitext(os.path.basename(argv[3]))[0])
        else:
            text = gen_tables(schema) if argv[1] == "tables" else gen_docs(schema)
    except (SchemaError, KeyError) as e:
        print(f"schema.py: {e}", file=sys.stderr)
        return 1
    with open(argv[2], "w", encoding="utf-8") as f:
        f.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
