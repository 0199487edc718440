"""`bevt demo`. Heavy imports are inside it."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit


def demo(
    out: Annotated[Path, typer.Option(help="Folder for all results; finished steps are not repeated.")] = Path("demo"),
    json_: AsJson = False,
) -> None:
    """Run the whole method in minutes on a laptop, from raw videos to accuracy.

    Makes labelled videos, tokenizes, pretrains, fine-tunes and evaluates. Every step is a `bevt` command, printed to be
    copied. Ends with a table and report.html.

    \b
    Example:
      bevt demo --out demo
    """
    from trainer.demo.run import demo as run

    emit(run(out), json_)
