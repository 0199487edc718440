"""`bevt finetune`. Heavy imports are inside it."""

import os
from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import (
    AllowOutside,
    AsJson,
    ListFile,
    Nproc,
    Overrides,
    RecipeName,
    Resume,
    command_typed,
    overrides_of,
)
from bevt_core.console.terminal import emit
from schemas.errors import UserError
from trainer.commands.options import DryRun, MemoryGb, Tflops, ValList, memory_of, sources_of
from trainer.commands.plan import Assume, Price, check_only_planned
from trainer.recipes import TRAINER_RECIPES

FINETUNE_RECIPES = {
    "k400": "finetune_k400_swin_base",
    "ssv2": "finetune_ssv2_swin_base",
    "diving48": "finetune_diving48_swin_base",
    "folder": "nano_finetune",
    "list": "nano_finetune",
}


def finetune(
    context: typer.Context,
    dataset: Annotated[
        str,
        typer.Argument(
            help="Layout of --root: k400, ssv2, diving48, folder or list. It sets the default of --recipe (folder, "
            "list: nano_finetune, for a laptop)."
        ),
    ],
    root: Annotated[Path | None, typer.Option(help="Root of the training files (default: the recipe's).")] = None,
    frames: Annotated[
        str | None,
        typer.Option(help="Frame store instead of files, also s3://, gs:// or az:// (bevt tokenize --frames-only)."),
    ] = None,
    list_file: ListFile = None,
    val_root: Annotated[
        Path | None,
        typer.Option(
            help="Root of the validation files (default: the official ones, or the folder val of --root; without "
            "either, a share of the training files)."
        ),
    ] = None,
    val_frames: Annotated[str | None, typer.Option(help="Frame store of the validation files.")] = None,
    val_list: ValList = None,
    init: Annotated[
        str | None,
        typer.Option(
            help="Pretraining run, weights, packaged model (bevt model list) such as bevt-nano, or "
            "hf://ORG/NAME@REVISION to start from (default: the recipe's; from scratch: --set init=null)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the run (default: runs/finetune-<dataset>).")] = None,
    recipe: RecipeName = None,
    allow_outside: AllowOutside = False,
    nproc: Nproc = 1,
    resume: Resume = False,
    dry_run: DryRun = False,
    tflops: Tflops = 100.0,
    memory_gb: MemoryGb = None,
    assume: Assume = None,
    price_per_gpu_hour: Price = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Fine-tune a pretrained encoder to classify videos.

    \b
    Examples:
      bevt finetune diving48 --root /data/diving48 --init runs/joint --nproc 8
      bevt finetune folder --root videos --init runs/joint --out runs/mine
      bevt finetune folder --root videos --init bevt-nano --out runs/mine
      bevt finetune folder --root videos --init bevt-nano --set label_share=0.1 --out runs/few-labels
      bevt finetune list --root videos --list train.txt --val-list val.txt --init runs/joint --out runs/mine
      bevt finetune k400 --root /data/k400 --dry-run --nproc 8 --memory-gb 80
      bevt finetune k400 --dry-run --assume k400 --nproc 8 --price-per-gpu-hour 2.5
    """
    from bevt_core.known_sets import known_set
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of, nearest
    from trainer.clips.selection import ClipSelection, Reading, train_and_val
    from trainer.distributed.launch import launch
    from trainer.finetune.plan import plan_finetuning
    from trainer.finetune.stage import dry_run as plan
    from trainer.finetune.stage import finetune as run
    from trainer.setup.estimate import Machine, dataset_facts, with_price

    if recipe is None and dataset not in FINETUNE_RECIPES:
        names = list(FINETUNE_RECIPES)
        raise UserError(
            f"no recipe to fine-tune on dataset {dataset!r}; {nearest(dataset, names)}known: {', '.join(names)}; for "
            "others give a `recipe`"
        )
    overrides = [*(set_ or []), *overrides_of({"root": root, "init": init, "dataset": dataset})]
    loaded = load_recipe_of(FinetuneRecipe, recipe or FINETUNE_RECIPES[dataset], TRAINER_RECIPES, overrides)
    memory = memory_of(memory_gb, set_)
    processes = max(nproc, int(os.environ.get("WORLD_SIZE", "1")))
    if not dry_run:
        check_only_planned(assume, price_per_gpu_hour)
    elif assume is not None:
        known = known_set(assume)
        numbers = plan_finetuning(loaded, known, Machine(processes, tflops, memory)) | dataset_facts([known])
        emit(with_price(numbers, price_per_gpu_hour), json_)
        return
    train_clips, val_clips = train_and_val(
        sources_of(context),
        dataset,
        ClipSelection(root if frames is not None else Path(loaded.root), frames, list_file),
        ClipSelection(val_root, val_frames, val_list, prefix="val_"),
        loaded.val_share,
        loaded.label_share,
        loaded.loop.seed,
        Reading(allow_outside, loaded.decode_timeout_s),
    )
    if dry_run:
        numbers = plan(loaded, train_clips, val_clips, processes=processes, tflops=tflops, memory=memory)
        emit(with_price(numbers, price_per_gpu_hour), json_)
        return
    target = out or Path("runs") / f"finetune-{dataset}"
    options = {"resume": resume, "command": command_typed(), "tflops": tflops, "memory": memory}
    emit(launch(run, nproc, loaded, train_clips, val_clips, target, **options), json_)
