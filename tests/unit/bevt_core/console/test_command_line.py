"""The command line: values passed to recipes, out-of-memory errors, option names in messages."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer

from bevt_core.console.command_line import App, ListFile, Overrides, Resume, overrides_of
from schemas.errors import UserError
from schemas.recipes.loading import load_recipe
from trainer.recipes import TRAINER_RECIPES

REPO = Path(__file__).parents[4]

NAMES = ["2024", 'it\'s "odd", 50% $HOME #1: [x]', "🐈 and 👩‍👩‍👧", "über\ttab\u2028line", "null"]


@pytest.mark.parametrize("name", NAMES)
def test_any_path_arrives_as_it_is(name: str) -> None:
    recipe = load_recipe("nano_image", TRAINER_RECIPES, overrides_of({"streams.image.tokens": name}))
    assert recipe.streams["image"].tokens == name


@pytest.mark.parametrize(
    "error", [MemoryError(), ImportError("libtorch_cpu.so: failed to map segment from shared object")]
)
def test_no_memory_is_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    app = App("test")

    @app.command("load")
    def load() -> None:
        raise error

    @app.command("other")
    def other() -> None: ...

    with pytest.raises(SystemExit) as raised:
        app(["load"])
    message = capsys.readouterr().err
    assert raised.value.code == 1 and message.startswith("error: out of memory (") and message.count("\n") == 1
    assert "ulimit -v" in message


def test_a_library_error_gets_the_commands_options(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("test")

    @app.command("load")
    def load(
        data: Annotated[str, typer.Argument()],
        val_root: Path = Path("x"),
        list_file: ListFile = None,
        resume: Resume = False,
        set_: Overrides = None,
    ) -> None:
        raise UserError("`val_root` x: give `list_file`, `resume` or `a.b=c`, not `data` or `other`, as in `bevt load`")

    @app.command("other")
    def other() -> None: ...

    with pytest.raises(SystemExit):
        app(["load", "x"])
    wanted = "error: --val-root x: give --list, --resume or --set a.b=c, not `data` or `other`, as in `bevt load`\n"
    assert capsys.readouterr().err == wanted


def test_an_override_in_a_library_error_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    app = App("test")

    @app.command("fit")
    def fit(set_: Overrides = None) -> None:
        raise UserError("give `encoder.patch=[2,4,4]` `optim.lr=1`")

    @app.command("other")
    def other() -> None:
        raise UserError("give `encoder.patch=[2,4,4]`")

    for command, wanted in (
        ("fit", "--set 'encoder.patch=[2,4,4]' --set optim.lr=1"),
        ("other", "`encoder.patch=[2,4,4]`"),
    ):
        with pytest.raises(SystemExit):
            app([command])
        assert capsys.readouterr().err == f"error: give {wanted}\n"


def test_a_run_as_a_module_is_called_bevt() -> None:
    """Otherwise usage lines name the file `cli.py`."""
    child = subprocess.run([sys.executable, "-m", "cli", "--nope"], cwd=REPO, capture_output=True, text=True)
    assert child.returncode == 2 and child.stderr.startswith("Usage: bevt [OPTIONS]")
