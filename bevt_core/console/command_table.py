"""Groups of commands, built from a table of names and one-line help; a command's module is imported on first use.

So `bevt --help`, and each command, start without importing the other commands' modules.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer
from typer.core import TyperGroup

from bevt_core.console.command_line import PLAIN, interruptible


class Command(NamedTuple):
    """A command as `module:function`, and its one-line help, equal to the start of the function's docstring."""

    function: str
    help: str


class Group(NamedTuple):
    """A command with subcommands."""

    help: str
    commands: "Mapping[str, Command]"


Panels = Mapping[str, Mapping[str, Command | Group]]  # title of a section of the help -> name -> entry


def group_class(panels: Panels) -> type[TyperGroup]:
    """Return the class, for `typer.Typer(cls=...)`, of a group with the commands in `panels`."""

    class TableGroup(TyperGroup):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.commands: Any = _Loaded({name: each for table in panels.values() for name, each in table.items()})

        def list_commands(self, ctx: Any) -> list[str]:
            return list(self.commands)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            width = max(map(len, self.commands))
            for title, table in panels.items():
                with formatter.section(title):
                    formatter.write_dl([(name.ljust(width), each.help) for name, each in table.items()])

    return TableGroup


class _Loaded(Mapping[str, Any]):
    """The click commands by name, each built on access."""

    def __init__(self, table: Mapping[str, Command | Group]) -> None:
        self._table = table

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, name: str) -> Any:
        entry = self._table[name]
        if isinstance(entry, Group):
            options: Any = {"no_args_is_help": True, "cls": group_class({"Commands": entry.commands})}
            app = typer.Typer(name=name, help=entry.help, add_completion=False, **PLAIN, **options)
            app.callback()(_nothing)
        else:
            module, _, function = entry.function.partition(":")
            app = typer.Typer(add_completion=False, **PLAIN)
            app.command(name)(interruptible(getattr(importlib.import_module(module), function)))
        return typer.main.get_command(app)


def _nothing() -> None:
    """Make a Typer app a group without options."""
