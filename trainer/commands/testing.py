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
    Overrides,
    Precision,
)
from bevt_core.console.terminal import emit
from trainer.commands.options import (
    ClassifierPath,
    ClipOptions,
    Clips,
    ClipsRecipe,
    Crops,
    Dataset,
    EncoderPath,
    Frames,
    Split,
    TestRoot,
    TestSplit,
    ValList,
    clips_for_classifier,
    clips_recipe,
    launch_on,
    sources_of,
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
    seed: Annotated[int, typer.Option(help="Seed of the repeated frame and of the shuffle.")] = 0,
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
      bevt evaluate runs/finetune-k400 --dataset k400 --root /data/k400/val --clips 4 --crops 3 --json
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


def extract(
    context: typer.Context,
    checkpoint: EncoderPath,
    out: Annotated[Path, typer.Option(help="Parquet file for the features.")],
    dataset: Dataset = None,
    root: Annotated[Path | None, typer.Option(help="Root of the files.")] = None,
    frames: Frames = None,
    list_file: ListFile = None,
    split: Split = None,
    level: Annotated[
        Literal["pooled", "frames", "stages", "positions"],
        typer.Option(help="One vector per video (pooled), or one per frame, stage or position."),
    ] = "pooled",
    clips: Clips = None,
    crops: Crops = None,
    recipe: ClipsRecipe = None,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Write the encoder's features of every video to a Parquet file.

    \b
    Example:
      bevt extract runs/finetune-k400 --root videos --out features.parquet
      bevt extract runs/finetune-k400 --root videos --level positions --clips 1 --crops 1 --out positions.parquet
    """
    from trainer.clips.selection import ClipSelection, Reading, clips_to_test
    from trainer.testing.extract import extract as run

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
    data = clips_to_test(sources_of(context), dataset, options.selection, options.reading)
    emit(launch_on(options, run, checkpoint, data, out, level=level, recipe=clips_recipe(recipe, set_)), json_)


def probe(
    context: typer.Context,
    checkpoint: EncoderPath,
    out: Annotated[Path, typer.Option(help="Folder for the features and probe.json.")],
    dataset: Dataset = None,
    root: Annotated[Path | None, typer.Option(help="Root of the training files.")] = None,
    frames: Frames = None,
    list_file: ListFile = None,
    val_root: Annotated[
        Path | None,
        typer.Option(
            help="Root of the test files (default: the official ones, or the folder val of --root; without either, a "
            "share of the training files)."
        ),
    ] = None,
    val_frames: Annotated[str | None, typer.Option(help="Frame store of the test files.")] = None,
    val_list: ValList = None,
    val_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of each class to hold out without test files, above 0 and below 1."),
    ] = 0.2,
    label_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of each class's training clips to use, at least one.")
    ] = 1.0,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="Kind of probe: knn, linear or attentive, which by default gets one view (repeatable; default: knn, "
            "linear)."
        ),
    ] = None,
    clips: Clips = None,
    crops: Crops = None,
    recipe: ClipsRecipe = None,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the probes.")] = 0,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Test a frozen encoder with k-NN, a linear or an attentive classifier.

    \b
    Examples:
      bevt probe runs/joint --dataset k400 --root /data/k400/train --val-root /data/k400/val --out probes/joint
      bevt probe runs/joint --frames datasets/mine/frames --kind attentive --out probes/mine
    """
    from trainer.clips.selection import ClipSelection, Reading, check_dataset, train_and_val
    from trainer.probes.probe import probe as run

    test_selection = ClipSelection(val_root, val_frames, val_list, prefix="val_")
    options = ClipOptions(
        selection=ClipSelection(root, frames, list_file),
        reading=Reading(allow_outside, decode_timeout_s),
        dataset=dataset,
        clips=clips,
        crops=crops,
        precision=precision,
        num_workers=num_workers,
        nproc=nproc,
    )
    check_dataset(dataset, options.selection, test_selection)
    train, test = train_and_val(
        sources_of(context),
        dataset or "folder",
        options.selection,
        test_selection,
        val_share,
        label_share,
        seed,
        options.reading,
    )
    kinds = kind or ["knn", "linear"]
    loaded = clips_recipe(recipe, set_)
    result = launch_on(options, run, checkpoint, train, test, out, kinds=kinds, recipe=loaded, seed=seed)
    emit(result if json_ else result | {"out": str(out)}, json_)


def _named(row: Mapping[str, Any]) -> str:
    """The classes of a video, best first, or its error."""
    if "error" in row:
        return f"cannot be read: {row['error']}"
    return ", ".join(f"{found['name']} {found['score']:.1%}" for found in row["classes"])
