"""The command `bevt`: the table of its commands, and those that need both halves, the pipeline and the trainer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from bevt_core import commands as core
from bevt_core.console.command_line import (
    AllowOutside,
    App,
    AsJson,
    DecodeTimeout,
    ListFile,
    Nproc,
    NumWorkers,
    Overrides,
    Precision,
    RecipeName,
    Resume,
    command_typed,
    overrides_of,
)
from bevt_core.console.terminal import emit
from pipeline import commands as data
from trainer.commands import bench, training
from trainer.commands import plan as planning
from trainer.commands import viz as pictures
from trainer.commands.importing import import_checkpoint

# Loader processes and torch's threads share the CPUs: threads that spin while they wait slow everything down, six times
# where two programs want the same two cores (docs/log.md). Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

FINETUNE_RECIPES = {
    "k400": "finetune_k400_swin_base",
    "ssv2": "finetune_ssv2_swin_base",
    "diving48": "finetune_diving48_swin_base",
    "folder": "nano_finetune",
    "list": "nano_finetune",
}

Dataset = Annotated[
    str | None, typer.Option(help="How files are read: k400, ssv2, diving48, folder or list. Default: folder.")
]
TestRoot = Annotated[Path | None, typer.Option(help="The files to test on.")]
Frames = Annotated[str | None, typer.Option(help="A frame store instead of files, also s3://.")]
Clips = Annotated[int | None, typer.Option(help="Temporal clips per video. Default: the recipe's.")]
Crops = Annotated[int | None, typer.Option(help="Spatial crops per clip, 1 or 3. Default: the recipe's.")]
ValList = Annotated[str | None, typer.Option(help="As --list, of what is tested; alone: in the same root or store.")]
Split = Annotated[
    str | None,
    typer.Option(
        help="An official split, or a sub-folder of --root. Default: ssv2 validation, diving48 test, else val."
    ),
]

TestSplit = Annotated[
    str | None,
    typer.Option(
        help="val: exactly the clips that the run held out. Else an official split, or a sub-folder of --root. "
        "Default: ssv2 validation, diving48 test, else val."
    ),
]


def finetune(
    dataset: Annotated[
        str,
        typer.Argument(
            help="k400, ssv2, diving48, folder or list: how --root is read, and the recipe, if --recipe names no other "
            "(folder, list: nano_finetune, for a laptop)."
        ),
    ],
    root: Annotated[Path | None, typer.Option(help="The training files. Default: the recipe's.")] = None,
    frames: Annotated[
        str | None, typer.Option(help="A frame store instead of files, also s3:// (bevt tokenize --frames-only).")
    ] = None,
    list_file: ListFile = None,
    val_root: Annotated[
        Path | None,
        typer.Option(
            help="The validation files. Default: the official ones, or those in the folder val of --root; where there "
            "are none, a share of the training ones."
        ),
    ] = None,
    val_frames: Annotated[str | None, typer.Option(help="A frame store of the validation files.")] = None,
    val_list: ValList = None,
    init: Annotated[
        Path | None,
        typer.Option(help="A pretraining run or weights. Default: the recipe's; from scratch: --set init=null."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's directory. Default: runs/finetune-<dataset>.")] = None,
    recipe: RecipeName = None,
    allow_outside: AllowOutside = False,
    nproc: Nproc = 1,
    resume: Resume = False,
    dry_run: training.DryRun = False,
    tflops: training.Tflops = 100.0,
    memory_gb: training.MemoryGb = None,
    assume: planning.Assume = None,
    price_per_gpu_hour: planning.Price = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Fine-tune a pretrained encoder to classify videos.

    \b
    Examples:
      bevt finetune diving48 --root /data/diving48 --init runs/joint --nproc 8
      bevt finetune folder --root videos --init runs/joint --out runs/mine
      bevt finetune list --root videos --list train.txt --val-list val.txt --init runs/joint --out runs/mine
      bevt finetune k400 --root /data/k400 --dry-run --nproc 8 --memory-gb 80
      bevt finetune k400 --dry-run --assume k400 --nproc 8 --price-per-gpu-hour 2.5
    """
    from bevt_core.dataset.known_sets import known_set
    from pipeline import sources
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.clips.places import Place, Reading, train_and_val
    from trainer.commands.estimate import Machine, dataset_facts, plan_finetuning, with_price
    from trainer.distributed.launch import launch
    from trainer.finetune.stage import dry_run as plan
    from trainer.finetune.stage import finetune as run

    overrides = [*(set_ or []), *overrides_of({"root": root, "init": init, "dataset": dataset})]
    loaded = load_recipe_of(
        FinetuneRecipe, recipe or FINETUNE_RECIPES.get(dataset, dataset), training.TRAINER_RECIPES, overrides
    )
    memory = training.memory_of(memory_gb, set_)
    processes = max(nproc, int(os.environ.get("WORLD_SIZE", "1")))
    if not dry_run:
        planning.check_only_planned(assume, price_per_gpu_hour)
    elif assume is not None:
        known = known_set(assume)
        numbers = plan_finetuning(loaded, known, Machine(processes, tflops, memory)) | dataset_facts([known])
        emit(with_price(numbers, price_per_gpu_hour), json_)
        return
    train_clips, val_clips = train_and_val(
        sources,
        dataset,
        Place(root if frames is not None else Path(loaded.root), frames, list_file),
        Place(val_root, val_frames, val_list, of="val-"),
        loaded.val_share,
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


def evaluate(
    checkpoint: training.ClassifierPath,
    dataset: Dataset = None,
    root: TestRoot = None,
    frames: Frames = None,
    list_file: ListFile = None,
    split: TestSplit = None,
    clips: Clips = None,
    crops: Crops = None,
    temporal: Annotated[
        Literal["normal", "single-frame", "shuffle"],
        typer.Option(help="The frames as they are, one repeated, shuffled."),
    ] = "normal",
    seed: Annotated[int, typer.Option(help="Of which frame is repeated, and of the shuffle.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Gets evaluation.json and scores.parquet.")] = None,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    json_: AsJson = False,
) -> None:
    """Test a classifier: top-1, top-5 and mean-class accuracy, scores averaged over temporal clips and spatial crops.

    \b
    Examples:
      bevt evaluate runs/finetune-k400 --dataset k400 --root /data/k400/val --clips 4 --crops 3 --json
      bevt evaluate runs/mine --split val --out runs/mine-val
    """
    from pipeline import sources
    from trainer.clips.places import Place, Reading, clips_to_test
    from trainer.distributed.cpus import loader_workers
    from trainer.distributed.launch import launch
    from trainer.runs.directory import weights_of
    from trainer.testing.classifier_card import read_card
    from trainer.testing.evaluate import evaluate as run

    card = read_card(weights_of(checkpoint))
    place, reading = Place(root, frames, list_file, split), Reading(allow_outside, decode_timeout_s)
    run_dir = weights_of(checkpoint).parent
    data = clips_to_test(sources, dataset, place, reading, card.classes, str(checkpoint), run_dir)
    options = {"clips": clips, "crops": crops, "temporal": temporal, "seed": seed, "out": out}
    options["num_workers"] = loader_workers(num_workers, nproc)
    emit(launch(run, nproc, checkpoint, data, precision=precision, **options), json_)


def analyse_temporal(
    checkpoint: training.ClassifierPath,
    out: Annotated[Path, typer.Option(help="Gets temporal.png, the CSV files, and a folder per evaluation.")],
    dataset: Dataset = None,
    root: TestRoot = None,
    frames: Frames = None,
    list_file: ListFile = None,
    split: TestSplit = None,
    seeds: Annotated[int, typer.Option(help="Draws of the single frame and of the shuffled order.")] = 3,
    clips: Clips = None,
    crops: Crops = None,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    json_: AsJson = False,
) -> None:
    """Test a classifier with frames in order, one frame repeated, and frames shuffled (paper, Table 2).

    \b
    Example:
      bevt analyse temporal runs/finetune-k400 --dataset k400 --root /data/k400/val --out temporal/k400
    """
    from pipeline import sources
    from trainer.clips.places import Place, Reading, clips_to_test
    from trainer.distributed.cpus import loader_workers
    from trainer.distributed.launch import launch
    from trainer.runs.directory import weights_of
    from trainer.testing.classifier_card import read_card
    from trainer.testing.temporal import analyse_temporal as run

    card = read_card(weights_of(checkpoint))
    place, reading = Place(root, frames, list_file, split), Reading(allow_outside, decode_timeout_s)
    run_dir = weights_of(checkpoint).parent
    data = clips_to_test(sources, dataset, place, reading, card.classes, str(checkpoint), run_dir)
    options = {"seeds": seeds, "clips": clips, "crops": crops, "num_workers": loader_workers(num_workers, nproc)}
    emit(launch(run, nproc, checkpoint, data, out, precision=precision, **options), json_)


def extract(
    checkpoint: Annotated[Path, typer.Argument(help="A run, fine-tuned or pretrained, or its weights.")],
    out: Annotated[Path, typer.Option(help="The Parquet file of features.")],
    dataset: Dataset = None,
    root: Annotated[Path | None, typer.Option(help="The files.")] = None,
    frames: Frames = None,
    list_file: ListFile = None,
    split: Split = None,
    level: Annotated[
        Literal["pooled", "frames", "stages", "positions"],
        typer.Option(help="One vector a video, or one per frame, stage or position of it."),
    ] = "pooled",
    clips: Clips = None,
    crops: Crops = None,
    recipe: training.ClipsRecipe = None,
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
    from pipeline import sources
    from trainer.clips.places import Place, Reading, clips_to_test
    from trainer.distributed.cpus import loader_workers
    from trainer.distributed.launch import launch
    from trainer.testing.extract import extract as run

    place, reading = Place(root, frames, list_file, split), Reading(allow_outside, decode_timeout_s)
    data = clips_to_test(sources, dataset, place, reading)
    options = {"level": level, "recipe": training.clips_recipe(recipe, set_), "clips": clips, "crops": crops}
    options["num_workers"] = loader_workers(num_workers, nproc)
    emit(launch(run, nproc, checkpoint, data, out, precision=precision, **options), json_)


def probe(
    checkpoint: Annotated[Path, typer.Argument(help="A run, pretrained or fine-tuned, or its weights.")],
    out: Annotated[Path, typer.Option(help="Gets the features and probe.json.")],
    dataset: Dataset = None,
    root: Annotated[Path | None, typer.Option(help="The training files.")] = None,
    frames: Frames = None,
    list_file: ListFile = None,
    val_root: Annotated[
        Path | None,
        typer.Option(
            help="The test files. Default: the official ones, or those in the folder val of --root; where there are "
            "none, a share of the others."
        ),
    ] = None,
    val_frames: Annotated[str | None, typer.Option(help="A frame store of the test files.")] = None,
    val_list: ValList = None,
    val_share: Annotated[float, typer.Option(help="Held out per class where there are no test files.")] = 0.2,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="knn, linear or attentive (repeatable); attentive has one view. Default: knn, linear."),
    ] = None,
    clips: Clips = None,
    crops: Crops = None,
    recipe: training.ClipsRecipe = None,
    seed: Annotated[int, typer.Option(help="Of the split and of what the probes draw.")] = 0,
    precision: Precision = "auto",
    allow_outside: AllowOutside = False,
    decode_timeout_s: DecodeTimeout = None,
    num_workers: NumWorkers = None,
    nproc: Nproc = 1,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Classify with a frozen encoder: nearest neighbours, a linear layer, or attention over its positions.

    \b
    Examples:
      bevt probe runs/joint --dataset k400 --root /data/k400/train --val-root /data/k400/val --out probes/joint
      bevt probe runs/joint --frames datasets/mine/frames --kind attentive --out probes/mine
    """
    from pipeline import sources
    from trainer.clips.places import Place, Reading, check_dataset, train_and_val
    from trainer.distributed.cpus import loader_workers
    from trainer.distributed.launch import launch
    from trainer.probes.probe import probe as run

    place, test_place = Place(root, frames, list_file), Place(val_root, val_frames, val_list, of="val-")
    check_dataset(dataset, place, test_place)
    reading = Reading(allow_outside, decode_timeout_s)
    train, test = train_and_val(sources, dataset or "folder", place, test_place, val_share, seed, reading)
    options = {"kinds": kind or ["knn", "linear"], "recipe": training.clips_recipe(recipe, set_), "seed": seed}
    options |= {"clips": clips, "crops": crops, "num_workers": loader_workers(num_workers, nproc)}
    emit(launch(run, nproc, checkpoint, train, test, out, precision=precision, **options), json_)


COMMANDS: dict[str, Callable[..., None]] = {
    "tokenize": data.tokenize,
    "scan": data.scan,
    "repair": data.repair,
    "inspect": data.inspect,
    "verify": data.verify,
    "plan": planning.plan,
    "train": training.train,
    "finetune": finetune,
    "evaluate": evaluate,
    "predict": training.predict,
    "extract": extract,
    "probe": probe,
    "report": training.report,
    "import-checkpoint": import_checkpoint,
    "export": training.export,
    "demo-videos": data.demo_videos,
    "demo": training.demo,
}
GROUPS: dict[str, tuple[str, dict[str, Callable[..., None]]]] = {
    "tokenizer": (
        "Train and inspect tokenizers.",
        {
            "train": training.train_tokenizer,
            "info": core.tokenizer_info,
            "compare": core.compare_tokenizers,
            "convert": core.convert_tokenizer,
            "fetch": core.fetch_tokenizer,
        },
    ),
    "analyse": ("What a model relies on.", {"temporal": analyse_temporal}),
    "viz": (
        "Pictures and films of one clip.",
        {"masks": pictures.masks, "predict": pictures.predict, "attention": pictures.attention},
    ),
    "model": ("Models: sizes and cost.", {"info": core.info}),
    "runs": (
        "Look at run directories, also while they train.",
        {"list": training.list_runs, "show": training.show_run, "compare": training.compare_runs},
    ),
    "bench": (
        "Measure, side by side with a reference in one run.",
        {
            "encoder": core.bench_encoder,
            "step": bench.bench_step,
            "attention": core.bench_attention,
            "loader": training.bench_loader,
            "tokenize": data.bench_tokenize,
            "store": data.bench_store,
        },
    ),
}


def _app() -> App:
    app = App("BERT pretraining of video transformers: tokenize once on Ray, train from shards with DDP.")
    for name, command in COMMANDS.items():
        app.command(name)(command)
    for group, (help_text, commands) in GROUPS.items():
        sub_app = App(help_text)
        for name, command in commands.items():
            sub_app.command(name)(command)
        app.add_typer(sub_app, name=group)
    return app


app = _app()

if __name__ == "__main__":
    app()
