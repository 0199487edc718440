"""`bevt demo`. Heavy imports are inside it."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all results; finished steps are not repeated.")] = Path("demo"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the videos and of all training.")] = 0,
    json_: AsJson = False,
) -> None:
    """Run the whole method in minutes on a laptop, from raw videos to accuracy.

    Makes videos, tokenizes them, continues the pretraining of bevt-nano, and fine-tunes on few labels, from there and
    from scratch. Every step is a `bevt` command, printed to be copied. Ends with a table and report.html.

    \b
    Example:
      bevt demo --out demo
    """
    from trainer.demo.run import demo as run

    emit(run(out, seed=seed), json_)
