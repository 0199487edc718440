"""The commands that use a frozen encoder: its features, and probes of them. Heavy imports are inside them."""

from pathlib import Path
from typing import Annotated, Literal

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
    ClipOptions,
    Clips,
    ClipsRecipe,
    Crops,
    Dataset,
    EncoderPath,
    Frames,
    Split,
    ValList,
    clips_recipe,
    launch_on,
    sources_of,
)


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
        float,
        typer.Option(min=0, max=1, help="Share of each class's training clips to use, above 0; at least one clip."),
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
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the split and of the probes.")] = 0,
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
      bevt probe runs/joint --dataset k400 --root /data/k400 --out probes/joint
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
