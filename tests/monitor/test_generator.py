# SPDX-License-Identifier: BSD-2-Clause
"""scripts/schema.py: what it takes, what it refuses, what it makes; and the schema's own documentation."""
import glob, os, re, subprocess, sys

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "scripts"))
import schema as generator

GOOD = """
##
# @Colour:
#
# Of things.
#
# @red: warm
##
{ 'enum': 'Colour', 'data': [ 'red', 'dark-blue' ] }
{ 'struct': 'Base', 'data': { 'kind': 'Colour' } }
{ 'struct': 'Red', 'data': { '*heat': 'uint8' } }
{ 'union': 'Thing', 'base': 'Base', 'discriminator': 'kind', 'data': { 'red': 'Red' } }
{ 'alternate': 'Ref', 'data': { 'thing': 'Thing', 'name': 'str' } }

##
# @paint-it:
#
# Paints.
#
# @what: the thing
# @colour: its colour
# @coats: how often
# @note: anything
#
# Returns: those that stick
##
{ 'command': 'paint-it', 'data': { 'what': 'Ref', '*colour': 'Colour', '*coats': 'int', '*note': 'str' }, 'returns': [ 'Thing' ] }

##
# @make:
#
# Makes.
##
{ 'command': 'make', 'data': 'Thing', 'boxed': true }

##
# @PAINTED:
#
# Done.
#
# @how: well
##
{ 'event': 'PAINTED', 'data': { 'how': 'bool' } }
"""


def load(tmp_path, text, name="test.json"):
    (tmp_path / name).write_text(text)
    return generator.Schema([str(tmp_path / name)])


def test_header(tmp_path):
    h = generator.gen_header(load(tmp_path, GOOD), "test")
    assert "QMP_COLOUR_DARK_BLUE," in h
    assert re.search(r"struct qmp_paint_it_args \{\s+struct json_object \*what;\s+bool has_colour;\s+int colour;\s+bool has_coats;"
                     r"\s+int64_t coats;\s+const char \*note;\s+\};", h)
    assert "int qmp_paint_it(struct mon_ctx *c, const struct qmp_paint_it_args *a, struct json_object **ret, struct err *e);" in h
    assert re.search(r"struct qmp_make_args \{\s+struct json_object \*options;\s+\};", h)


def test_tables_compile(tmp_path):
    s = load(tmp_path, GOOD)
    os.mkdir(tmp_path / "schema")
    (tmp_path / "schema" / "qmp_test.h").write_text(generator.gen_header(s, "test"))
    (tmp_path / "tables.c").write_text(generator.gen_tables(s))
    flags = subprocess.run(["pkg-config", "--cflags", "glib-2.0", "json-c"], capture_output=True, text=True, check=True).stdout.split()
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers", "-D_GNU_SOURCE", "-fsyntax-only",
                    "-I", str(tmp_path), "-I", os.path.join(TOP, "src"), *flags, str(tmp_path / "tables.c")], check=True)


def test_introspection(tmp_path):
    infos = {i["name"]: i for i in generator.introspect(load(tmp_path, GOOD))}
    paint = infos["paint-it"]
    args = infos[paint["arg-type"]]
    members = {m["name"]: m for m in args["members"]}
    assert members["colour"]["default"] is None and "default" not in members["what"]
    assert members["coats"]["type"] == "int" and infos["int"] == {"name": "int", "meta-type": "builtin", "json-type": "int"}
    ref = infos[members["what"]["type"]]
    assert ref["meta-type"] == "alternate" and {"type": "str"} in ref["members"]
    thing = infos[infos["make"]["arg-type"]]
    assert thing["tag"] == "kind" and [v["case"] for v in thing["variants"]] == ["red", "dark-blue"]
    assert infos[thing["variants"][1]["type"]] == {"name": "0", "meta-type": "object", "members": []}
    assert paint["ret-type"] == f"[{infos['make']['arg-type']}]" and infos[paint["ret-type"]]["meta-type"] == "array"
    assert infos["PAINTED"]["meta-type"] == "event"
    assert infos[members["colour"]["type"]]["values"] == ["red", "dark-blue"]
    # the types' own names stay inside
    assert not {"Colour", "Thing", "Ref"} & set(infos)


def test_reference(tmp_path):
    text = generator.gen_docs(load(tmp_path, GOOD))
    assert "### paint-it\n\nPaints." in text and "- `coats`: `int`, optional. how often" in text
    assert "Returns: array of [`Thing`](#thing). those that stick" in text
    assert "- `red`: warm" in text


@pytest.mark.parametrize("text, what", [
    ("{ 'command': 'x' }", "has no documentation"),
    ("##\n# @x:\n#\n# Y.\n##\n{ 'command': 'x', 'data': { 'a': 'str' } }", "argument 'a' of 'x' is not documented"),
    ("##\n# @x:\n#\n# @b: y\n##\n{ 'command': 'x' }", "documented argument 'b' of 'x' does not exist"),
    ("##\n# @y:\n##\n{ 'command': 'x' }", "must begin with '@x:'"),
    ("{ 'struct': 'S', 'data': { 'a': 'Nothing' } }", "unknown type 'Nothing'"),
    ("{ 'struct': 'S', 'data': {} }\n{ 'struct': 'S', 'data': {} }", "defined twice"),
    ("{ 'struct': 'S', 'data': {}, 'colour': 'red' }", "unknown key 'colour'"),
    ("{ 'struct': 'S', 'data': { 'a': 'str', 'a': 'str' } }", "duplicate key 'a'"),
    ("{ 'enum': 'E', 'data': [ 'a' ] }\n{ 'union': 'U', 'base': { 't': 'E' }, 'discriminator': 't', 'data': { 'b': 'E' } }", "branch 'b'"),
    ("{ 'union': 'U', 'base': { 't': 'str' }, 'discriminator': 't', 'data': {} }", "not an enum member"),
    ("{ 'struct': 'S' 'data': {} }", "expected ,"),
    ("{ 'struct': 'S', ? }", "stray '?'"),
    ("##\n# @x:\n{ 'command': 'x' }", "not closed"),
    ("{ 'include': 'nowhere.json' }", "no file"),
    ("{ 'pragma': { 'needs-vm': [ 'x' ] } }", "no command 'x'"),
    ("{ 'thing': 'x' }", "none of include"),
    ("{ 'thing': 1 }", "stray '1'"),
])
def test_refuses(tmp_path, text, what):
    with pytest.raises(generator.SchemaError, match=re.escape(what)):
        load(tmp_path, text)


def test_includes_once(tmp_path):
    (tmp_path / "base.json").write_text("{ 'enum': 'E', 'data': [ 'a' ] }")
    (tmp_path / "other.json").write_text("{ 'include': 'base.json' }")
    s = load(tmp_path, "{ 'include': 'base.json' }\n{ 'include': 'other.json' }\n{ 'struct': 'S', 'data': { 'e': 'E' } }")
    assert '#include "schema/qmp_base.h"' in generator.gen_header(s, "test")


def test_every_handler_and_every_command(tmp_path):
    """Each command has a handler in the family's file, each handler a command: in the sources, where a linker would not see an extra one."""
    s = generator.Schema(sorted(glob.glob(os.path.join(TOP, "schema", "*.json"))))
    handlers = set()
    for path in glob.glob(os.path.join(TOP, "src", "monitor", "qmp_*.c")):
        with open(path, encoding="utf-8") as f:
            handlers |= set(re.findall(r"^int qmp_(\w+)\(struct mon_ctx", f.read(), flags=re.M))
    assert handlers == {generator.c_name(n) for n in s.commands}
    reference = generator.gen_docs(s)
    for name in [*s.commands, *s.events]:
        assert f"\n### {name}\n" in reference
    assert set(re.findall(r"^### (\S+)$", reference, flags=re.M)) == {*s.commands, *s.events, *(t.name for t in s.order)}
