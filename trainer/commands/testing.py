"""The commands that test models on videos. Heavy imports are inside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bevt_core.console.command_line import (
    AllowOutside,
    AsJson,
    DecodeTimeout,
    ListFile,
    Nproc,
    NumWorkers,
    Precision,
)
from bevt_core.console.terminal import emit
from trainer.commands.options import (
    ClassifierPath,
    ClipOptions,
    Clips,
    Crops,
    Dataset,
    Frames,
    TestRoot,
    TestSplit,
    clips_for_classifier,
    launch_on,
)


def evaluate(
    context: typer.Context,
    checkpoint: ClassifierPath,
    dataset: Dataset = None,
    root: TestRoot = None,
    frames: Frames = None,
    list_file: ListFile = None,
    split: TestSplit = None,
    clips: Clips = None,
    crops: Crops = None,
    temporal: Annotated[
        Literal["normal", "single-frame", "shuffle"],
        typer.Option(help="Frames of a clip: in order, one frame repeated, or shuffled."),
    ] = "normal",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the repeated frame and of the shuffle.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json and scores.parquet.")] = None,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    json_: AsJson = False,
) -> None:
    """Test a classifier: top-1, top-5 and mean-class accuracy.

    Scores are averaged over temporal clips and spatial crops.

    \b
    Examples:
      bevt evaluate runs/finetune-k400 --dataset k400 --root /data/k400 --clips 4 --crops 3 --json
      bevt evaluate runs/mine --split val --out runs/mine-val
    """
    from trainer.clips.selection import ClipSelection, Reading
    from trainer.testing.evaluate import evaluate as run

    options = ClipOptions(
        selection=ClipSelection(root, frames, list_file, split),
        reading=Reading(allow_outside, decode_timeout_s),
        dataset=dataset,
        clips=clips,
        crops=crops,
        precision=precision,
        num_workers=num_workers,
        nproc=nproc,
    )
    data = clips_for_classifier(context, options, checkpoint)
    result = launch_on(options, run, checkpoint, data, temporal=temporal, seed=seed, out=out)
    emit(result if json_ or out is None else result | {"out": str(out)}, json_)


def analyse_temporal(
    context: typer.Context,
    checkpoint: ClassifierPath,
    out: Annotated[Path, typer.Option(help="Folder for temporal.png, the CSV files, and a folder per evaluation.")],
    dataset: Dataset = None,
    root: TestRoot = None,
    frames: Frames = None,
    list_file: ListFile = None,
    split: TestSplit = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of random draws of the single frame and of the shuffled order.")
    ] = 3,
    clips: Clips = None,
    crops: Crops = None,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    json_: AsJson = False,
) -> None:
    """Test a classifier with frames in order, one repeated, and shuffled.

    Reproduces Table 2 of the paper for this classifier.

    \b
    Example:
      bevt analyse temporal runs/finetune-k400 --dataset k400 --root /data/k400/val --out temporal/k400
    """
    from trainer.clips.selection import ClipSelection, Reading
    from trainer.testing.temporal import analyse_temporal as run

    options = ClipOptions(
        selection=ClipSelection(root, frames, list_file, split),
        reading=Reading(allow_outside, decode_timeout_s),
        dataset=dataset,
        clips=clips,
        crops=crops,
        precision=precision,
        num_workers=num_workers,
        nproc=nproc,
    )
    data = clips_for_classifier(context, options, checkpoint)
    result = launch_on(options, run, checkpoint, data, out, seeds=seeds)
    emit(result if json_ else result | {"out": str(out)}, json_)


def predict(
    checkpoint: ClassifierPath,
    videos: Annotated[list[str], typer.Argument(help="Files, directories or globs.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes per video.")] = 5,
    precision: Precision = "auto",
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    json_: AsJson = False,
) -> None:
    """Predict the classes of videos, with scores.

    A file that cannot be read does not stop the others. The exit status is 1 if none could be read.

    \b
    Example:
      bevt predict runs/finetune-k400 clip.mp4 more-clips/
    """
    from schemas.recipes import DECODE_TIMEOUT_S
    from trainer.distributed.cpus import loader_workers
    from trainer.testing.predict import predict as run

    rows = run(
        checkpoint,
        videos,
        top=top,
        precision=precision,
        decode_timeout_s=decode_timeout_s or DECODE_TIMEOUT_S,
        num_workers=loader_workers(num_workers),
    )
    emit({"videos": rows} if json_ else {row["video"]: _named(row) for row in rows}, json_)
    if all("error" in row for row in rows):
        raise typer.Exit(1)


def _named(row: Mapping[str, Any]) -> str:
    """The classes of a video, best first, or its error."""
    if "error" in row:
        return f"cannot be read: {row['error']}"
    return ", ".join(f"{found['name']} {found['score']:.1%}" for found in row["classes"])
