"""`bevt export-data`. Heavy imports are inside it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from bevt_core.console.command_line import AsJson
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from pipeline.commands.data import Directory
from schemas.errors import UserError


def export_data(
    directory: Directory,
    to: Annotated[Literal["webdataset", "lance"], typer.Option(help="Format: tar shards, or a Lance dataset.")],
    out: Annotated[str, typer.Option(help="Local folder to write.")],
    tokens: Annotated[
        list[str] | None, typer.Option(help="Token set to export; may be repeated. Default: all.")
    ] = None,
    json_: AsJson = False,
) -> None:
    """Write frames, tokens and views as WebDataset shards or a Lance dataset.

    JPEG frames and tokens keep their bytes, and every part is read back after writing. Run the same command again to
    continue a killed export.

    \b
    Example:
      bevt export-data datasets/k400 --to webdataset --out shards/k400 --tokens dalle-v8
    """
    from pipeline.export.run import export_data as run

    folder = as_path(out)
    if not isinstance(folder, Path):
        raise UserError(f"--out {out}: exports are written to a local folder; give one, and copy it afterwards")
    emit(run(as_path(directory), folder, to, tokens), json_)
