"""Options that several of the trainer's commands share, and the functions that apply them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.terminal import note
from schemas.errors import UserError
from trainer.recipes import TRAINER_RECIPES

if TYPE_CHECKING:
    from schemas.recipes import FinetuneRecipe
    from trainer.clips.selection import ClipSelection, PipelineSources, Reading
    from trainer.clips.sources import ClipSource
    from trainer.setup.memory import Memory

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan for --nproc processes (batch, steps, cost), and stop.")
]
Tflops = Annotated[
    float, typer.Option(min=0.001, help="Effective TFLOP/s per process, only to estimate the plan's hours.")
]
MemoryGb = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="GPU memory in GB for which micro-batches are chosen (default: the GPU's; without a GPU, the recipe's "
        "micro-batches). --set loop.micro_batches takes precedence.",
    ),
]
ClipsRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="Fine-tuning recipe with the clips for a pretrained encoder (default: as in pretraining)."
    ),
]


def pin_model(context: typer.Context, model: str) -> str:
    """Return a model's name with its present commit, if it is on the Hub, so that all processes read the same."""
    from bevt_core.weights.hub_models import pinned

    return model if context.resilient_parsing else pinned(model)


EncoderPath = Annotated[
    str,
    typer.Argument(
        callback=pin_model,
        help="Pretrained or fine-tuned run, its weights, a packaged model (bevt model list), or "
        "hf://ORG/NAME@REVISION.",
    ),
]
ClassifierPath = Annotated[
    str,
    typer.Argument(
        callback=pin_model, help="Fine-tuning run, its weights, a folder of bevt export, or hf://ORG/NAME@REVISION."
    ),
]
Dataset = Annotated[
    str | None, typer.Option(help="Layout of the files: k400, ssv2, diving48, folder or list (default: folder).")
]
TestRoot = Annotated[Path | None, typer.Option(help="Root of the files to test on.")]
Frames = Annotated[str | None, typer.Option(help="Frame store instead of files, also s3://, gs:// or az://.")]
Clips = Annotated[int | None, typer.Option(help="Temporal clips per video (default: the recipe's).")]
Crops = Annotated[int | None, typer.Option(help="Spatial crops per clip, 1 or 3 (default: the recipe's).")]
ValList = Annotated[
    str | None,
    typer.Option(
        help="List of the validation or test clips, in the format of --list (default root or store: as for training)."
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Official split, or sub-folder of --root (default: ssv2 validation, diving48 test, else val)."),
]

TestSplit = Annotated[
    str | None,
    typer.Option(
        help="val: exactly the clips that the run held out; else an official split, or a sub-folder of --root "
        "(default: ssv2 validation, diving48 test, else val)."
    ),
]

# recipe keys that fix the micro-batches if set on the command line
EXECUTION_KEYS = {"loop", "loop.micro_batches", "loop.activation_checkpointing"}


def memory_of(memory_gb: float | None, set_: list[str] | None) -> "Memory":
    """Return the memory that micro-batches must fit: --memory-gb or the GPU's; `recipe` if --set fixes them."""
    pinned = [override for override in set_ or [] if override.partition("=")[0] in EXECUTION_KEYS]
    if not pinned:
        return "gpu" if memory_gb is None else memory_gb
    if memory_gb is not None:
        note(f"--memory-gb {memory_gb:g} is ignored because of --set {pinned[0]}")
    return "recipe"


def clips_recipe(name: str | None, set_: list[str] | None) -> "FinetuneRecipe | None":
    """Return the fine-tuning recipe with the clips for a pretrained encoder, or None if none is named."""
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of

    if name is not None:
        return load_recipe_of(FinetuneRecipe, name, TRAINER_RECIPES, set_ or [])
    if set_:
        raise UserError(f"--set {set_[0]}: no recipe to override; name one with --recipe")
    return None


@dataclass(frozen=True)
class ClipOptions:
    """Options shared by `evaluate`, `analyse temporal`, `extract` and `probe`: the clips, and how to run on them."""

    selection: "ClipSelection"
    reading: "Reading"
    dataset: str | None
    clips: int | None  # per video; None: the recipe's
    crops: int | None  # per clip; None: the recipe's
    precision: str
    num_workers: int | None  # per rank; None: chosen by `loader_workers`
    nproc: int


def sources_of(context: typer.Context) -> "PipelineSources":
    """Return the functions that list data sets' files. `cli.py`, which imports both packages, sets their factory."""
    sources: PipelineSources = context.obj()
    return sources


def clips_for_classifier(context: typer.Context, options: ClipOptions, checkpoint: Path | str) -> "ClipSource":
    """Return the labelled clips to test the classifier `checkpoint` on, with labels of its classes."""
    from trainer.clips.selection import clips_to_test
    from trainer.runs.directory import weights_of
    from trainer.testing.classifier_card import read_card

    weights = weights_of(checkpoint)
    classes = read_card(weights).classes
    selection, reading, run = options.selection, options.reading, weights.parent
    return clips_to_test(sources_of(context), options.dataset, selection, reading, classes, str(checkpoint), run)


def launch_on(options: ClipOptions, run: Callable[..., dict[str, Any]], *arguments: Any, **more: Any) -> dict[str, Any]:
    """Call `run` in `options.nproc` processes, with the other `options` as keywords; return its result."""
    from trainer.distributed.cpus import loader_workers
    from trainer.distributed.launch import launch

    num_workers = loader_workers(options.num_workers, options.nproc)
    views = {"clips": options.clips, "crops": options.crops, "precision": options.precision}
    return launch(run, options.nproc, *arguments, **views, num_workers=num_workers, **more)
