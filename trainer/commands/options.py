"""Options that several of the trainer's commands share, and what is made of them."""

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
    from trainer.clips.places import Place, Reading, Sources
    from trainer.clips.sources import ClipSource
    from trainer.setup.memory import Memory

DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan for --nproc processes (batch, steps, cost), and stop.")
]
Tflops = Annotated[float, typer.Option(help="Of the plan's hours: effective TFLOP/s per process. Arithmetic only.")]
MemoryGb = Annotated[
    float | None,
    typer.Option(
        min=1.0,
        help="Memory of a card in GB that micro-batches are chosen for (default: the GPU's; without one, as the recipe "
        "says). --set loop.micro_batches wins.",
    ),
]
ClipsRecipe = Annotated[
    str | None,
    typer.Option(
        "--recipe", help="A fine-tuning recipe whose clips a pretrained encoder gets. Default: as pretrained."
    ),
]
ClassifierPath = Annotated[Path, typer.Argument(help="A fine-tuning run or its weights.")]
Dataset = Annotated[
    str | None, typer.Option(help="How files are read: k400, ssv2, diving48, folder or list. Default: folder.")
]
TestRoot = Annotated[Path | None, typer.Option(help="The files to test on.")]
Frames = Annotated[str | None, typer.Option(help="A frame store instead of files, also s3://.")]
Clips = Annotated[int | None, typer.Option(help="Temporal clips per video. Default: the recipe's.")]
Crops = Annotated[int | None, typer.Option(help="Spatial crops per clip, 1 or 3. Default: the recipe's.")]
ValList = Annotated[str | None, typer.Option(help="Like --list, for the test clips; alone: in the same root or store.")]
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

EXECUTION_KEYS = {"loop", "loop.micro_batches", "loop.activation_checkpointing"}


def memory_of(memory_gb: float | None, set_: list[str] | None) -> "Memory":
    """What micro-batches have to fit: what was given, or the card; nothing where --set says how they are."""
    pinned = [override for override in set_ or [] if override.partition("=")[0] in EXECUTION_KEYS]
    if not pinned:
        return "card" if memory_gb is None else memory_gb
    if memory_gb is not None:
        note(f"--memory-gb {memory_gb:g} is not used, because of --set {pinned[0]}")
    return "recipe"


def clips_recipe(name: str | None, set_: list[str] | None) -> "FinetuneRecipe | None":
    """The fine-tuning recipe that says which clips a pretrained encoder looks at, if one is named."""
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of

    if name is not None:
        return load_recipe_of(FinetuneRecipe, name, TRAINER_RECIPES, set_ or [])
    if set_:
        raise UserError(f"--set {set_[0]}: there is no recipe to override; name one with --recipe")
    return None


@dataclass(frozen=True)
class ClipOptions:
    """Which clips a command runs a model on, and how: what `evaluate`, `analyse temporal`, `extract`, `probe` share."""

    place: "Place"
    reading: "Reading"
    dataset: str | None
    clips: int | None  # per video; None: the recipe's
    crops: int | None  # per clip; None: the recipe's
    precision: str
    num_workers: int | None  # per rank; None: chosen by `loader_workers`
    nproc: int


def sources_of(context: typer.Context) -> "Sources":
    """Return the functions that list data sets' files. `cli.py`, which sees both halves, put their maker there."""
    sources: Sources = context.obj()
    return sources


def clips_for_classifier(context: typer.Context, options: ClipOptions, checkpoint: Path) -> "ClipSource":
    """Return the labelled clips to test the classifier `checkpoint` on, with labels of its classes."""
    from trainer.clips.places import clips_to_test
    from trainer.runs.directory import weights_of
    from trainer.testing.classifier_card import read_card

    weights = weights_of(checkpoint)
    classes = read_card(weights).classes
    place, reading, run = options.place, options.reading, weights.parent
    return clips_to_test(sources_of(context), options.dataset, place, reading, classes, str(checkpoint), run)


def launch_on(options: ClipOptions, run: Callable[..., dict[str, Any]], *arguments: Any, **more: Any) -> dict[str, Any]:
    """Return what `run` returns, in `options.nproc` processes, with the other `options` as keywords."""
    from trainer.distributed.cpus import loader_workers
    from trainer.distributed.launch import launch

    num_workers = loader_workers(options.num_workers, options.nproc)
    views = {"clips": options.clips, "crops": options.crops, "precision": options.precision}
    return launch(run, options.nproc, *arguments, **views, num_workers=num_workers, **more)
