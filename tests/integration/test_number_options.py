"""Numbers on the command line have limits: a count of zero or less is refused before anything is made."""

import inspect
import typing
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from tests.golden.surfaces import commands

UNLIMITED = {"seed"}
CHECKED_WITH_THE_RECIPE = {"int | None: clips", "int | None: crops"}  # by trainer.testing.evaluate.chosen_views


def test_every_number_has_a_least_value() -> None:
    without = {
        f"{name}: {option}"
        for name, command in commands().items()
        for option, hint in typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True).items()
        if {int, float} & kinds_of(hint) and hint.__metadata__[0].min is None
        if option not in UNLIMITED and f"{hint.__origin__}: {option}" not in CHECKED_WITH_THE_RECIPE
    }
    assert without == set()


def kinds_of(hint: typing.Any) -> set[typing.Any]:
    """The types of an annotated option, such as {int, None}; nothing for others."""
    origin = getattr(hint, "__origin__", None) if hasattr(hint, "__metadata__") else None
    return {origin, *typing.get_args(origin)}


@pytest.mark.parametrize("clips", ["0", "-3"])
def test_no_set_of_no_clips_is_made(clips: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["demo-videos", str(tmp_path / "out"), "--clips", clips])
    assert (result.exit_code, (tmp_path / "out").exists()) == (2, False)
