"""The commands of `bevt`: arguments, options, defaults and examples, from the functions that Typer calls."""

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

import cli
from bevt_core.console.command_table import Group
from website.reference.tables import code, in_words, prose, table


class Described(NamedTuple):
    """A command: its words after `bevt`, and Typer's command."""

    name: str
    command: Any


def described() -> Iterator[tuple[str, list[Described]]]:
    """The panels of `bevt --help`, with the commands of each, groups resolved."""
    top: Any = typer.main.get_command(cli.app)
    for panel, entries in cli.PANELS.items():
        found = []
        for name, entry in entries.items():
            command = top.commands[name]
            inner = entry.commands if isinstance(entry, Group) else None
            found += [Described(name, command)] if inner is None else []
            found += [Described(f"{name} {each}", command.commands[each]) for each in inner or ()]
        yield panel, found


def markdown() -> str:
    """The sections of all commands, below a heading per panel."""
    parts = []
    for panel, commands in described():
        parts.append(f"## {panel}\n")
        parts += [section(each) for each in commands]
    return "\n".join(parts)


def section(described: Described) -> str:
    """A command: what its docstring says, its examples, and its arguments and options."""
    function = inspect.unwrap(described.command.callback)
    text, *examples = re.split("Examples?:\n", inspect.cleandoc(function.__doc__ or ""))
    paragraphs = [prose(each) for each in text.replace("\b", "").split("\n\n") if each.strip()]
    lines = [f"### bevt {described.name}\n", "\n\n".join(paragraphs) + "\n"]
    lines += [f"```bash\n{textwrap.dedent(each).strip()}\n```\n" for each in examples]
    rows = list(parameter_rows(described.command, function))
    lines += [table(["argument or option", "value", "default", "meaning"], rows)] if rows else []
    return "\n".join(lines)


def parameter_rows(command: Any, function: Any) -> Iterator[tuple[str, str, str, str]]:
    """A row per argument and option of a command: name, value, default, meaning."""
    hints = typing.get_type_hints(function, include_extras=True)
    for parameter in command.params:
        if parameter.name == "help":
            continue
        hint = hints[parameter.name]
        info = next(each for each in hint.__metadata__ if hasattr(each, "help"))
        is_option = parameter.opts[0].startswith("-")
        names = [*parameter.opts, *parameter.secondary_opts]
        name = ", ".join(map(code, names)) if is_option else code(parameter.name.upper())
        yield name, _value(hint, info), _default(parameter), prose(info.help or "")


def _value(hint: Any, info: Any) -> str:
    (kind,) = [each for each in _members(typing.get_args(hint)[0]) if each is not type(None)] or [Any]
    if kind is bool:
        return "flag"
    several = typing.get_origin(kind) is list
    words = code(info.metavar) if info.metavar else in_words(typing.get_args(kind)[0] if several else kind)
    limits = {"at least": info.min, "at most": info.max}
    bounds = [f"{words} {limit:g}" for words, limit in limits.items() if limit is not None]
    return ", ".join([words, *bounds, *["may be repeated"] * several])


def _members(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    if callable(value) or value in (None, False, ()):
        return ""
    return code(" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))
