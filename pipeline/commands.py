"""The commands of the offline pipeline: parse, load a recipe, call one function. Heavy imports are inside them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import AllowOutside, AsJson, ListFile, Overrides, RecipeName, overrides_of
from bevt_core.console.terminal import emit, note, warn
from bevt_core.storage.objects import as_path
from pipeline import recipes_dir
from schemas.errors import UserError

if TYPE_CHECKING:
    from schemas.recipes import TokenizeRecipe

Dataset = Annotated[str, typer.Option(help="k400, ssv2, diving48, imagenet, howto100m, folder or list.")]
Root = Annotated[str | None, typer.Option(help="Where the raw files are: a folder or s3://. Default: the recipe's.")]
Out = Annotated[str | None, typer.Option(help="Where frames/ and tokens/ go, also s3://. Default: the recipe's.")]
Directory = Annotated[str, typer.Argument(help="A dataset: the folder, or s3://, that holds frames/ and tokens/.")]
Split = Annotated[str | None, typer.Option(help="train, val, ...: recorded, and a sub-folder if there is one.")]
TokenizerName = Annotated[str | None, typer.Option(help="A tokenizer's name or directory. Default: the recipe's.")]
Deep = Annotated[bool, typer.Option("--deep", help="Hash every file and tokenize every stored view again.")]
Sample = Annotated[
    int, typer.Option(help="Without --deep: how many samples to tokenize again, each under all its views.")
]
Verbose = Annotated[
    bool, typer.Option("--verbose", help="Show Ray's own messages, and keep its log files after a failure.")
]
TokenizerNow = Annotated[str | None, typer.Option(help="Where the tokenizer is now, if it has moved.")]


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
        bool, typer.Option("--frames-only", help="Only the frame store, e.g. for fine-tuning.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if any source was rejected.")] = False,
    max_rejected: Annotated[str | None, typer.Option(metavar="SHARE", help="Stop when more is rejected: 5%.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete what another recipe left in --out.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster. Default: RAY_ADDRESS, else this machine.")
    ] = None,
    verbose: Verbose = False,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Decode a dataset and tokenize it once, on Ray, into a frame store and a token set.

    The same command again continues a killed job and does nothing for a finished one.

    \b
    Example:
      bevt tokenize --dataset k400 --root /data/k400/train --out datasets/k400 --tokenizer tokenizers/dalle
    """
    from pipeline.job.progress import Meter
    from pipeline.job.run import tokenize as run
    from pipeline.look.report import report_job

    meter = Meter()
    summary = run(
        _tokenize_recipe(dataset, root, out, split, tokenizer, recipe, set_),
        list_file=list_file,
        allow_outside=allow_outside,
        frames_only=frames_only,
        max_rejected=None if max_rejected is None else share(max_rejected),
        overwrite=overwrite,
        ray_address=ray_address,
        ray_log="shown" if verbose else "hidden",
        meter=meter,
    )
    summary |= report_job(summary, meter.timeline)
    emit(summary, json_)
    if summary["parts_done_before"] == summary["parts"]:
        place = summary["tokens_dir"] or summary["frames_dir"]
        note(f"{place}: finished before, nothing was made now; the report is of the run that made it")
    if summary["report_error"]:
        warn(f"the dataset is finished, but its report could not be drawn: {summary['report_error']}")
    if summary["rejected"]:
        place = f"{summary['frames_dir']}/part-*/rejected.parquet"
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["rejected_by_reason"].items())
        warn(f"{summary['rejected']} of {summary['sources']} sources were rejected ({reasons}); see {place}")
        if strict:
            raise typer.Exit(1)


def scan(
    dataset: Dataset,
    root: Root = None,
    split: Split = None,
    list_file: ListFile = None,
    allow_outside: AllowOutside = False,
    write: Annotated[
        str | None, typer.Option(help="Write the list of files, also to s3://, for `bevt tokenize --list`.")
    ] = None,
    recipe: RecipeName = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Look at a root before a long job: found, missing, stubs, unreadable, codecs, sizes, and what the job will cost.

    \b
    Example:
      bevt scan --dataset k400 --root /data/k400/train --write k400-train.parquet
    """
    from pipeline.look.scan import scan as run

    loaded = _tokenize_recipe(dataset, root, None, split, None, recipe, set_)
    emit(run(loaded, list_file=list_file, allow_outside=allow_outside, write=write), json_)


def repair(
    directory: Directory,
    root: Annotated[str, typer.Option(help="Where the raw files are.")],
    list_file: Annotated[
        str | None,
        typer.Option("--list", help="The list that it was made with; only needed if its own copy is damaged."),
    ] = None,
    allow_outside: AllowOutside = False,
    deep: Deep = False,
    sample: Sample = 32,
    tokenizer: TokenizerNow = None,
    verbose: Verbose = False,
    json_: AsJson = False,
) -> None:
    """Make again just those parts that `bevt verify` finds damaged. What to make is read from the dataset.

    --deep and --sample say how far it looks, as for `bevt verify`.

    \b
    Example:
      bevt repair datasets/k400 --root /data/k400/train
    """
    from pipeline.check.repair import repair as run

    options: dict[str, Any] = {"list_file": list_file, "allow_outside": allow_outside, "deep": deep, "sample": sample}
    options["ray_log"] = "shown" if verbose else "hidden"
    emit(run(as_path(directory), as_path(root), tokenizer=tokenizer, **options), json_)


def inspect(
    directory: Directory,
    sample: Annotated[str | None, typer.Option(help="A sample's id. For --picture the first, if not given.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write frame | view | decoded tokens as a PNG.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is, to decode the tokens.")] = None,
    json_: AsJson = False,
) -> None:
    """Show one sample: where it came from, its frames and times, its views and token maps.

    \b
    Example:
      bevt inspect datasets/k400 --sample abseiling/clip.mp4 --picture out.png
    """
    from pipeline.look.sample import inspect_dataset

    emit(inspect_dataset(as_path(directory), sample_id=sample, picture=picture, tokenizer=tokenizer), json_)


def verify(
    directory: Directory,
    deep: Deep = False,
    sample: Sample = 32,
    tokenizer: TokenizerNow = None,
    allow_outside: AllowOutside = False,
    json_: AsJson = False,
) -> None:
    """Check a dataset: digests, counts, nothing lost, and that the stored tokens are those of the stored frames.

    \b
    Example:
      bevt verify datasets/k400 --deep --json
    """
    from pipeline.check.verify import verify as run

    report = run(as_path(directory), deep=deep, sample=sample, tokenizer=tokenizer, allow_outside=allow_outside)
    emit(report, json_)
    if not report["ok"]:
        raise typer.Exit(1)


def bench_tokenize(
    dataset: Dataset,
    work: Annotated[Path, typer.Option(help="An empty folder for what is made.")],
    root: Root = None,
    tokenizer: TokenizerName = None,
    recipe: RecipeName = None,
    small: Annotated[int, typer.Option(help="Sources of the smaller job.")] = 16,
    large: Annotated[int, typer.Option(help="Sources of the larger job.")] = 160,
    cpus: Annotated[int, typer.Option(help="CPUs that Ray is given.")] = 2,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """The job's CPU time against a bare loop's, by the difference of two sizes; its memory at both; busy tokenizers.

    A busy share and a ratio of memory mean something where the smaller job already has more parts than are in flight:
    --small 48 --large 480 --set sources_per_part=8.

    \b
    Example:
      bevt bench tokenize --dataset folder --root videos --work /tmp/bench --json
    """
    from pipeline.bench.job import bench_tokenize as run

    emit(run(_tokenize_recipe(dataset, root, None, None, tokenizer, recipe, set_), work, (small, large), cpus), json_)


def bench_store(
    directory: Directory,
    json_: AsJson = False,
) -> None:
    """Bytes on disk of a stored frame and of its tokens, from the commits of a finished dataset.

    \b
    Example:
      bevt bench store datasets/k400 --json
    """
    from pipeline.bench.store import bench_store as run

    emit(run(as_path(directory)), json_)


def demo_videos(
    out: Annotated[Path, typer.Argument(help="Gets train/ and test/ with class folders, and images/.")],
    clips: Annotated[int, typer.Option(help="Training clips per class; there are 8 classes.")] = 512,
    seed: Annotated[int, typer.Option(help="Another seed, other clips.")] = 0,
    json_: AsJson = False,
) -> None:
    """Make a small labelled set of H.264 files: a camera moves over photographs, the class is its motion.

    \b
    Example:
      bevt demo-videos demo/raw --clips 100
    """
    from pipeline.synthetic.camera_motion import make_camera_motion_set

    emit(make_camera_motion_set(out, train_clips_per_class=clips, seed=seed).model_dump(), json_)


def _tokenize_recipe(
    dataset: str,
    root: str | None,
    out: str | None,
    split: str | None,
    tokenizer: str | None,
    recipe: str | None,
    set_: list[str] | None,
) -> "TokenizeRecipe":
    from schemas.recipes import TokenizeRecipe
    from schemas.recipes.loading import load_recipe_of

    given = {"root": root, "out": out, "split": split, "tokenizer": tokenizer, "dataset": dataset}
    overrides = [*(set_ or []), *overrides_of(given)]
    if any(override.startswith("sources_per_part=") for override in overrides):
        overrides.insert(0, "min_parts=1")
    return load_recipe_of(TokenizeRecipe, recipe or dataset, recipes_dir(), overrides)


def share(text: str) -> float:
    """`5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"--max-rejected {text!r}: expected a share from 0 to 1, such as 5% or 0.05")
    return value
