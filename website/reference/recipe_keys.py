"""The keys of recipes: type, unit, default and meaning, from the pydantic models and the comments at their fields."""

import ast
import functools
import inspect
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from io import StringIO
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from schemas.recipes.loading import COMMANDS, KINDS
from website.reference.tables import code, in_words, prose, table

UNITS = {
    "_px": "pixels",
    "_s": "seconds",
    "_epochs": "epochs",
    "epochs": "epochs",
    "_steps": "steps",
    "_every": "steps",
    "every": "steps",
    "_frames": "frames",
    "_tflops": "TFLOP/s",
    "_share": "share, 0 to 1",
}


class Section(NamedTuple):
    """A model in a recipe: the kind of recipe, the prefix of its keys, and the `kind` that chooses it, if any."""

    model: type[BaseModel]
    recipe: str
    prefix: str = ""
    chosen: str = ""

    @property
    def anchor(self) -> str:
        """Such as `pretrain-model-encoder-swin`."""
        return "-".join(filter(None, [self.recipe, *self.prefix.replace("*", "name").split("."), self.chosen]))


def markdown() -> str:
    """A section per kind of recipe, with a table for its top level and one for every section."""
    parts = []
    for kind, model in KINDS.items():
        parts.append(f"## {kind}: {COMMANDS[kind]}\n")
        parts += [keys_of(each) for each in sections(Section(model, kind))]
    return "\n".join(parts)


def sections(outer: Section) -> Iterator[Section]:
    """A section and all within it."""
    yield outer
    for name in outer.model.model_fields:
        for inner in within(outer, name):
            yield from sections(inner)


def within(outer: Section, name: str) -> list[Section]:
    """The sections that the field `name` may have: several if its type is a union, none for a plain value."""
    models, between = models_in(outer.model.model_fields[name].annotation)
    place = f"{outer.prefix}{name}{between}."
    return [Section(each, outer.recipe, place, kind_of(each) if len(models) > 1 else "") for each in models]


def kind_of(model: type[BaseModel]) -> str:
    """The value of `kind` that chooses a model in a union."""
    return str(typing.get_args(model.model_fields["kind"].annotation)[0])


def keys_of(section: Section) -> str:
    """The table of one section's keys, with what its model is."""
    named = f"`{section.prefix}*`" + (f" of kind `{section.chosen}`" if section.chosen else "")
    heading = f"### {named} {{ #{section.anchor} }}\n\n" if section.prefix else ""
    rows = [
        (code(section.prefix + name), value(section, name), default(field), prose(comment(section.model, name)))
        for name, field in section.model.model_fields.items()
    ]
    about = prose(inspect.getdoc(section.model) or "")
    return f"{heading}{about}\n\n{table(['key', 'value', 'default', 'meaning'], rows)}"


def value(section: Section, name: str) -> str:
    """The type of a field, its limits and its unit; for sections within it, links to them."""
    field = section.model.model_fields[name]
    unit = next((unit for suffix, unit in UNITS.items() if name.endswith(suffix)), "")
    inner = within(section, name)
    if not inner:
        return ", ".join(filter(None, [in_words(field.annotation), *dict.fromkeys(limits(field)), unit]))
    arguments = typing.get_args(field.annotation)
    links = [f"[{each.chosen or 'section'}](#{each.anchor})" for each in inner]
    if inner[0].prefix.endswith(".*."):
        return f"map of {in_words(arguments[0])} to {' or '.join(links)}"
    return " or ".join([*links, *(in_words(each) for each in arguments if not models_in(each)[0])])


def limits(field: FieldInfo) -> Iterator[str]:
    """The limits of a number or of a list's length, in words; those inside a union are those of its first member."""
    metadata = list(field.metadata)
    for member in typing.get_args(field.annotation):
        metadata += getattr(member, "__metadata__", ())
    plain: list[Any] = []
    for each in metadata:
        plain += each.metadata if isinstance(each, FieldInfo) else [each]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for each in plain:
        yield from (f"{sign} {number(getattr(each, key))}" for key, sign in signs.items() if hasattr(each, key))


def number(value: float) -> str:
    """A limit with separators between thousands."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}" if value < 1e6 else f"{value:,.0f}"


def default(field: FieldInfo) -> str:
    """The default as YAML has it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, bool) or value is None:
        return code({None: "null", True: "true", False: "false"}[value])
    if isinstance(value, tuple | list):
        return code(f"[{', '.join(f'{each:.4g}' if isinstance(each, float) else str(each) for each in value)}]")
    return code(str(value))


def models_in(hint: Any) -> tuple[list[type[BaseModel]], str]:
    """The models in a field's type, and what is between the field and their keys: `.*` for those of a map."""
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return [hint], ""
    found = [models_in(argument)[0] for argument in typing.get_args(hint)]
    return [model for models in found for model in models], ".*" if typing.get_origin(hint) is dict else ""


def comment(model: type[BaseModel], name: str) -> str:
    """The comment beside a field, or above it, in the class that declares it."""
    for owner in model.__mro__:
        if owner.__module__.startswith("schemas") and name in comments(owner):
            return comments(owner)[name]
    return ""


@functools.cache
def comments(owner: type) -> dict[str, str]:
    """Field -> comment, for the fields that a class itself declares."""
    source = textwrap.dedent(inspect.getsource(owner))
    at_line: dict[int, tuple[int, str]] = {}
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            at_line[token.start[0]] = (token.start[1], token.string.lstrip("# "))
    lines = source.splitlines()
    found = {}
    (tree,) = ast.parse(source).body
    for node in typing.cast(ast.ClassDef, tree).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            texts = [at_line[node.end_lineno][1]] if node.end_lineno in at_line else []
            above = node.lineno - 1
            while above in at_line and not lines[above - 1][: at_line[above][0]].strip():
                texts.insert(0, at_line[above][1])
                above -= 1
            found[node.target.id] = " ".join(texts)
    return found
