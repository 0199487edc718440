"""What the command line hands on to recipes, and what it says where memory ran out."""

import pytest

from bevt_core.console.command_line import App, overrides_of
from schemas.recipes.loading import load_recipe
from trainer.commands.options import TRAINER_RECIPES

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
    assert raised.value.code == 1 and message.startswith("error: no memory left (") and message.count("\n") == 1
    assert "ulimit -v" in message
