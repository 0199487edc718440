"""The command that adds sources to a finished dataset. Heavy imports are inside the function."""

from typing import Annotated, Any

import typer

from bevt_core.console.command_line import AllowOutside, AsJson, ListFile
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from pipeline.commands.data import Directory, MovedTokenizer, Split, Verbose


def extend(
    directory: Directory,
    root: Annotated[
        str, typer.Option(help="Folder or s3:// prefix that has the new files, and may have the old ones.")
    ],
    dataset: Annotated[
        str | None, typer.Option(help="Kind of raw data, as for `bevt tokenize`. Default: the dataset's.")
    ] = None,
    split: Split = None,
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    tokenizer: MovedTokenizer = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, else this machine.")
    ] = None,
    verbose: Verbose = False,
    json_: AsJson = False,
) -> None:
    """Add new videos or pictures to a finished dataset, as new parts.

    Sources that the dataset has, by their path below --root, are skipped. Old parts are not changed, and every token
    set gets tokens of the new ones. Run the same command again to continue after a kill.

    \b
    Example:
      bevt extend datasets/k400 --root /data/k400/train
    """
    from pipeline.growth.extend import extend as run

    options: dict[str, Any] = {"list_file": list_file, "allow_outside": allow_outside, "tokenizer": tokenizer}
    options |= {"ray_address": ray_address, "ray_log": "shown" if verbose else "hidden"}
    emit(run(as_path(directory), as_path(root), dataset=dataset, split=split, **options), json_)
