"""The commands that add sources to a dataset, or mix several. Heavy imports are inside the functions."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import AllowOutside, AsJson, ListFile
from bevt_core.console.terminal import emit, warn
from bevt_core.storage.objects import as_path
from pipeline.commands.data import Directory, MovedTokenizer, Relist, Split, Verbose
from schemas.errors import UserError

if TYPE_CHECKING:
    from schemas.recipes import TokenizeRecipe


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
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of the new sample ids and class names, if the dataset mixes data sets.")
    ] = None,
    weight: Annotated[
        float,
        typer.Option(min=0.001, max=1000.0, help="Readings of each new sample per epoch, on average."),
    ] = 1.0,
    tokenizer: MovedTokenizer = None,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, else this machine.")
    ] = None,
    relist: Relist = False,
    verbose: Verbose = False,
    json_: AsJson = False,
) -> None:
    """Add new videos or pictures to a finished dataset, as new parts.

    Sources that the dataset has, by their path below --root, are skipped. Old parts are not changed, and every token
    set gets tokens of the new ones. Run the same command again to continue after a kill.

    \b
    Example:
      bevt extend datasets/k400 --root /data/k400
    """
    from bevt_core.dataset.source_list import read_plan
    from pipeline.growth.extend import extend as run
    from pipeline.sources import forget_folders, note_unused_split

    if relist:
        forget_folders(as_path(root))
    plan = read_plan(as_path(directory) / "frames")
    if plan is not None:
        note_unused_split(dataset or plan.dataset, as_path(root), split, list_file, allow_outside)
    options: dict[str, Any] = {"list_file": list_file, "allow_outside": allow_outside, "tokenizer": tokenizer}
    options |= {"prefix": prefix, "weight": weight}
    options |= {"ray_address": ray_address, "ray_log": "shown" if verbose else "hidden"}
    emit(run(as_path(directory), as_path(root), dataset=dataset, split=split, **options), json_)


def tokenize_mix(
    path: str,
    recipe_of: "Callable[[str], TokenizeRecipe]",
    json_: bool,
    *,
    unused: list[str],
    strict: bool,
    relist: bool,
    **options: Any,
) -> None:
    """`bevt tokenize --dataset mix.yaml`: `recipe_of` loads the recipe for the first data set.

    `relist` reads all folders of all roots again. Exits with 1 if any source was rejected and `strict`. Raises
    UserError for options that do not fit several data sets (`unused`).
    """
    from pipeline.growth.mix import read_mix
    from pipeline.growth.mix import tokenize_mix as run
    from pipeline.sources import forget_folders

    if unused:
        raise UserError(f"{', '.join(unused)}: {path} names several data sets; give these in that file, or not at all")
    mix = read_mix(Path(path))
    for source in mix.sources if relist else ():
        forget_folders(as_path(source.root))
    summary = run(recipe_of(mix.sources[0].dataset), mix, **options)
    emit(summary, json_)
    last = [summary["first"], *summary["more"].values()][-1]
    if last["rejected"]:
        warn(f"{last['rejected']} of {last['sources']} sources were rejected; see frames/part-*/rejected.parquet")
        if strict:
            raise typer.Exit(1)
