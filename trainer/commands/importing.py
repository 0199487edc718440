"""The command that reads other codes' checkpoints, with what `bevt evaluate` must know of a classifier among them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import AsJson, Overrides
from bevt_core.console.terminal import emit
from schemas.errors import UserError
from trainer.commands.training import TRAINER_RECIPES

if TYPE_CHECKING:
    from bevt_core.weights.checkpoints import Imported


def import_checkpoint(
    source: Annotated[Path, typer.Argument(help="A .pth or .safetensors file of another code.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write, for --init.")],
    kind: Annotated[
        str,
        typer.Option(
            help="official (BEVT's pretraining), video-swin (classifiers of Video Swin's code and mmaction2), "
            "torchvision (swin3d_*) or image-swin (timm, original)."
        ),
    ] = "official",
    vocab_size: Annotated[int, typer.Option(min=1, help="image-swin: vocabulary of the tokens to predict.")] = 8192,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="Class names of a classifier, for `bevt evaluate` and `predict`: a name per line in the order of the "
            "labels, or a JSON object as SSv2's labels.json. Needs --recipe."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Fine-tuning recipe with the clips and views of the classifier's test.")
    ] = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Read another code's checkpoint, strictly: every key is used or known to be dropped.

    The keys of the kinds official and video-swin were taken from those codes and not checked on a published file.

    \b
    Examples:
      bevt import-checkpoint swin_base_bevt.pth --out bevt-base.safetensors
      bevt import-checkpoint swin_base_patch244_window877_kinetics400_22k.pth --kind video-swin \\
        --classes label_map_k400.txt --recipe finetune_k400_swin_base --out imported/weights.safetensors
    """
    from functools import partial

    from bevt_core.models.counting import num_parameters
    from bevt_core.storage.locks.writers import hold_file
    from bevt_core.weights.checkpoints import (
        import_image_swin,
        import_official,
        import_torchvision,
        import_video_swin,
        save_weights,
    )
    from bevt_core.weights.kinds import accepted

    readers: dict[str, Callable[[Path], Imported]] = {
        "official": import_official,
        "video-swin": import_video_swin,
        "torchvision": import_torchvision,
        "image-swin": partial(import_image_swin, vocab_size=vocab_size),
    }
    if kind not in readers:
        raise UserError(f"--kind {kind!r}: {accepted()}")
    if (classes is None) != (recipe is None):
        raise UserError(
            "--classes and --recipe belong together: the class names, and a fine-tuning recipe with the clips and "
            "views that the classifier is tested with, such as finetune_k400_swin_base or finetune_ssv2_swin_base"
        )
    imported = readers[kind](source)
    summary: dict[str, Any] = {"weights": str(out), "parameters": num_parameters(imported.model)}
    if "num_classes" in imported.model.config:
        summary["classes"] = imported.model.config["num_classes"]
    with hold_file(out, "bevt import-checkpoint"):
        if classes is not None and recipe is not None:
            summary["card"] = str(_write_card(out, source, imported.model.config, classes, recipe, set_ or []))
        save_weights(out, imported.model)
    emit({**summary, "dropped": imported.dropped, "fresh": imported.fresh}, json_)


def _write_card(
    weights: Path, source: Path, config: dict[str, Any], classes: Path, recipe: str, overrides: list[str]
) -> Path:
    """Write the card of the classifier of `config` beside its weights. Raises UserError where they do not fit."""
    from bevt_core.storage.files import read_record, write_record
    from schemas.evaluation import ClassifierCard
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.testing.classifier_card import CARD, card_of

    if "num_classes" not in config:
        raise UserError(f"--classes {classes}: {source} is no classifier; leave --classes and --recipe out")
    names = read_class_names(classes)
    if len(names) != config["num_classes"]:
        raise UserError(f"--classes {classes}: {len(names)} names, but {source} has {config['num_classes']} classes")
    loaded = load_recipe_of(FinetuneRecipe, recipe, TRAINER_RECIPES, overrides)
    window = getattr(loaded.encoder, "window", None)
    if window != tuple(config["window"]):
        raise UserError(
            f"--recipe {recipe}: encoder.window is {window}, but {source} has {tuple(config['window'])}; give the "
            "recipe of its data set, or --set encoder.window=..."
        )
    card = card_of(loaded, names).model_copy(update={"title": f"Imported from {source.name}"})
    place = weights.parent / CARD
    if read_record(place, ClassifierCard) not in (None, card):
        raise UserError(f"{place}: the card of another classifier; give --out a folder of its own")
    write_record(place, card)
    return place


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return class names in the order of their labels: one per line, or a JSON object of names and labels.

    Raises UserError, naming the file, for anything else.
    """
    from bevt_core.foreign.files import Lines, read_json

    if path.suffix == ".json":
        labels = {str(label): name for name, label in read_json(path, dict).items()}
        names = [labels.get(str(label), "") for label in range(len(labels))]
        if not all(names):
            raise UserError(f"{path}: the labels are not 0 to {len(labels) - 1}, each once")
    else:
        names = [line.strip() for _, line in Lines(path)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        raise UserError(f"{path}: {f'the class {twice[0]!r} occurs twice' if twice else 'no class names in it'}")
    return tuple(names)
