"""The commands of the offline pipeline: parse options, load a recipe, call one function, print the result.

Heavy imports are inside the functions.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import (
    AllowOutside,
    AsJson,
    ListFile,
    Overrides,
    RecipeName,
    overrides_of,
    parse_share,
)
from bevt_core.console.terminal import emit, note, warn
from bevt_core.storage.objects import as_path
from pipeline.recipes import PIPELINE_RECIPES

if TYPE_CHECKING:
    from schemas.recipes import TokenizeRecipe

Dataset = Annotated[
    str,
    typer.Option(
        help="Kind of raw data: k400, ssv2, diving48, imagenet, howto100m, folder or list; for `bevt tokenize` also a "
        ".yaml file that names several."
    ),
]
Root = Annotated[
    str | None, typer.Option(help="Folder, or s3://, gs:// or az:// prefix, of the raw files. Default: the recipe's.")
]
Out = Annotated[
    str | None,
    typer.Option(help="Folder, or s3://, gs:// or az:// prefix, for frames/ and tokens/. Default: the recipe's."),
]
Directory = Annotated[
    str, typer.Argument(help="A dataset: the folder, or s3://, gs:// or az:// prefix, with frames/ and tokens/.")
]
Split = Annotated[
    str | None,
    typer.Option(help="Name of the split, such as train. Selects its folder or official list, if --root has any."),
]
TokenizerName = Annotated[str | None, typer.Option(help="Name or folder of a tokenizer. Default: the recipe's.")]
Deep = Annotated[bool, typer.Option("--deep", help="Tokenize every sample again, not only --sample of them.")]
Sample = Annotated[int, typer.Option(min=0, help="Samples per token set to tokenize again, each under all its views.")]
Relist = Annotated[
    bool, typer.Option("--relist", help="Read all folders of --root again, not only those changed since the last list.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show Ray's own messages, and keep its log files after a failure.")
]
MovedTokenizer = Annotated[str | None, typer.Option(help="Name or folder of the tokenizer, if it has moved.")]

PROBLEM_COLUMNS = {"path": "path", "problem": "problem", "mend": "fix"}  # keys of the JSON, and titles in the table


def tokenize(
    dataset: Dataset,
    root: Root = None,
    out: Out = None,
    split: Split = None,
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    tokenizer: TokenizerName = None,
    recipe: RecipeName = None,
    frames_only: Annotated[
        bool, typer.Option("--frames-only", help="Make only the frame store, e.g. for fine-tuning.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any source was rejected.")] = False,
    max_rejected: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Stop if more than this share of the sources is rejected, such as 5%."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete another recipe's output in --out.")] = False,
    relist: Relist = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster. Default: RAY_ADDRESS, else this machine.")
    ] = None,
    verbose: Verbose = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Decode a data set and tokenize it once, into a frame store and a token set.

    Run the same command again to continue a killed job; a finished one is left unchanged.

    \b
    Example:
      bevt tokenize --dataset k400 --root /data/k400 --split train --out datasets/k400 --tokenizer tokenizers/dalle
    """
    from pipeline.growth.mix import is_mix
    from pipeline.job.finish import shown_summary
    from pipeline.job.progress import Meter
    from pipeline.job.run import tokenize as run
    from pipeline.look.report import report_job
    from pipeline.sources import forget_folders, note_unused_split

    if is_mix(dataset):
        from pipeline.commands.growth import tokenize_mix

        one_root = {"root": root, "split": split, "list": list_file, "max-rejected": max_rejected}
        tokenize_mix(
            dataset,
            lambda first: tokenize_recipe(first, root, out, split, tokenizer, recipe, set_),
            json_,
            unused=[f"--{name}" for name, value in one_root.items() if value is not None],
            allow_outside=allow_outside,
            frames_only=frames_only,
            overwrite=overwrite,
            ray_address=ray_address,
            ray_log="shown" if verbose else "hidden",
            strict=strict,
            relist=relist,
        )
        return
    meter = Meter()
    loaded = tokenize_recipe(dataset, root, out, split, tokenizer, recipe, set_)
    if relist:
        forget_folders(as_path(loaded.root))
    note_unused_split(loaded.dataset, as_path(loaded.root), split, list_file, allow_outside)
    summary = run(
        loaded,
        list_file=list_file,
        allow_outside=allow_outside,
        frames_only=frames_only,
        max_rejected=None if max_rejected is None else parse_share("--max-rejected", max_rejected),
        overwrite=overwrite,
        ray_address=ray_address,
        ray_log="shown" if verbose else "hidden",
        meter=meter,
    )
    summary |= report_job(summary, meter.timeline)
    emit(summary if json_ else shown_summary(summary), json_)
    if summary["parts_done_before"] == summary["parts"]:
        folder = summary["tokens_dir"] or summary["frames_dir"]
        note(f"{folder}: already finished, nothing was made; its report is from the run that made it")
    if summary["report_error"]:
        warn(f"the dataset is finished, but its report could not be written: {summary['report_error']}")
    if summary["rejected"]:
        tables = f"{summary['frames_dir']}/part-*/rejected.parquet"
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["rejected_by_reason"].items())
        warn(f"{summary['rejected']} of {summary['sources']} sources were rejected ({reasons}); see {tables}")
        if strict:
            raise typer.Exit(1)


def scan(
    dataset: Dataset,
    root: Root = None,
    split: Split = None,
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    write: Annotated[
        str | None,
        typer.Option(
            help="Write a list of the usable files, also to s3://, gs:// or az://, for `bevt tokenize --list`."
        ),
    ] = None,
    write_unusable: Annotated[
        str | None,
        typer.Option(help="Write a list of the other files, with the reason for each, also to an object store."),
    ] = None,
    relist: Relist = False,
    recipe: RecipeName = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Check raw data before a long job: missing, unreadable and odd files.

    Reports files found and missing, stubs, codecs and sizes, and estimates the cost of the job.

    \b
    Example:
      bevt scan --dataset k400 --root /data/k400 --split train --write k400-train.parquet
    """
    from pipeline.look.scan import scan as run
    from pipeline.sources import forget_folders, note_unused_split

    loaded = tokenize_recipe(dataset, root, None, split, None, recipe, set_)
    if relist:
        forget_folders(as_path(loaded.root))
    note_unused_split(loaded.dataset, as_path(loaded.root), split, list_file, allow_outside)
    emit(
        run(loaded, list_file=list_file, allow_outside=allow_outside, write=write, write_unusable=write_unusable), json_
    )


def repair(
    directory: Directory,
    root: Annotated[str, typer.Option(help="Folder, or s3://, gs:// or az:// prefix, of the raw files.")],
    list_file: Annotated[
        str | None,
        typer.Option("--list", help="The dataset's original list; only needed if its own copy is damaged."),
    ] = None,
    allow_outside: AllowOutside = False,
    deep: Deep = False,
    sample: Sample = 32,
    tokenizer: MovedTokenizer = None,
    verbose: Verbose = False,
    json_: AsJson = False,
) -> None:
    """Rebuild the parts of a dataset that `bevt verify` finds damaged.

    The jobs to rerun are read from the dataset. --deep and --sample set how much is checked, as for `bevt verify`.

    \b
    Example:
      bevt repair datasets/k400 --root /data/k400
    """
    from pipeline.check.repair import repair as run

    options: dict[str, Any] = {"list_file": list_file, "allow_outside": allow_outside, "deep": deep, "sample": sample}
    options["ray_log"] = "shown" if verbose else "hidden"
    emit(run(as_path(directory), as_path(root), tokenizer=tokenizer, **options), json_)


def inspect(
    directory: Directory,
    sample: Annotated[str | None, typer.Option(help="Id of a sample. Default with --picture: the first.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write frame | view | decoded tokens as a PNG.")] = None,
    tokenizer: MovedTokenizer = None,
    json_: AsJson = False,
) -> None:
    """Show a dataset's settings, or one sample's source, class and frames.

    \b
    Example:
      bevt inspect datasets/k400 --sample abseiling/clip.mp4 --picture out.png
    """
    from pipeline.look.sample import inspect_dataset, set_facts

    report = inspect_dataset(as_path(directory), sample_id=sample, picture=picture, tokenizer=tokenizer)
    emit(report if json_ else report | {"token_sets": set_facts(report["token_sets"])}, json_)


def verify(
    directory: Directory,
    deep: Deep = False,
    sample: Sample = 32,
    tokenizer: MovedTokenizer = None,
    allow_outside: AllowOutside = False,
    json_: AsJson = False,
) -> None:
    """Check a dataset: digests, counts, and that tokens match the stored frames.

    \b
    Example:
      bevt verify datasets/k400 --deep --json
    """
    from pipeline.check.verify import verify as run

    report = run(as_path(directory), deep=deep, sample=sample, tokenizer=tokenizer, allow_outside=allow_outside)
    problems = [{PROBLEM_COLUMNS[key]: text for key, text in row.items()} for row in report["problems"]]
    emit(report if json_ else report | {"problems": problems}, json_)
    if not report["ok"]:
        raise typer.Exit(1)


def tokenize_recipe(
    dataset: str,
    root: str | None,
    out: str | None,
    split: str | None,
    tokenizer: str | None,
    recipe: str | None,
    set_: list[str] | None,
) -> "TokenizeRecipe":
    from pipeline.sources import check_dataset
    from schemas.recipes import TokenizeRecipe
    from schemas.recipes.loading import load_recipe_of

    check_dataset(dataset)
    given = {"root": root, "out": out, "split": split, "tokenizer": tokenizer, "dataset": dataset}
    overrides = [*(set_ or []), *overrides_of(given)]
    if any(override.startswith("sources_per_part=") for override in overrides):
        overrides = ["min_parts=1", "max_parts=1000000", *overrides]  # the size that was given is used
    return load_recipe_of(TokenizeRecipe, recipe or dataset, PIPELINE_RECIPES, overrides)
