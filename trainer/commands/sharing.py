"""The commands that import models from other code, and export them to it. Heavy imports are inside them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bevt_core.console.command_line import AsJson, Branch, Overrides, Private
from bevt_core.console.terminal import emit
from schemas.errors import UserError
from trainer.commands.options import pin_model
from trainer.recipes import TRAINER_RECIPES

if TYPE_CHECKING:
    from bevt_core.weights.model_files import Imported

FORMATS = ("hub", "program", "onnx")  # of `export`


def import_checkpoint(
    source: Annotated[Path, typer.Argument(help=".pth or .safetensors file of another code.")],
    out: Annotated[Path, typer.Option(help=".safetensors file to write, for --init.")],
    kind: Annotated[
        str,
        typer.Option(
            help="Kind of checkpoint: official (BEVT's pretraining), video-swin (classifiers of Video Swin's code and "
            "mmaction2), torchvision (swin3d_*) or image-swin (timm, original)."
        ),
    ] = "official",
    vocab_size: Annotated[
        int, typer.Option(min=1, help="image-swin: vocabulary size of the tokens to predict.")
    ] = 8192,
    classes: Annotated[
        Path | None,
        typer.Option(
            help="File with a classifier's class names, for `bevt evaluate` and `predict`: one name per line in the "
            "order of the labels, or a JSON object like SSv2's labels.json. Needs --recipe."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Fine-tuning recipe with the clips and views to test the classifier on.")
    ] = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Convert another project's checkpoint; every key is accounted for.

    The keys of the kinds official and video-swin come from their source code; no published file was checked.

    \b
    Examples:
      bevt import-checkpoint swin_base_bevt.pth --out bevt-base.safetensors
      bevt import-checkpoint swin_base_patch244_window877_kinetics400_22k.pth --kind video-swin \\
        --classes label_map_k400.txt --recipe finetune_k400_swin_base --out imported/weights.safetensors
    """
    from functools import partial

    from bevt_core.models.counting import num_parameters
    from bevt_core.storage.locks.writers import hold_file
    from bevt_core.weights.kinds import accepted
    from bevt_core.weights.model_files import (
        import_image_swin,
        import_official,
        import_torchvision,
        import_video_swin,
        save_weights,
    )
    from schemas.recipes.loading import nearest

    readers: dict[str, Callable[[Path], Imported]] = {
        "official": import_official,
        "video-swin": import_video_swin,
        "torchvision": import_torchvision,
        "image-swin": partial(import_image_swin, vocab_size=vocab_size),
    }
    if kind not in readers:
        raise UserError(f"--kind {kind!r}: {nearest(kind, list(readers))}{accepted()}")
    if (classes is None) != (recipe is None):
        raise UserError(
            "--classes and --recipe belong together: give the class names, and a fine-tuning recipe with the clips and "
            "views to test the classifier on, such as finetune_k400_swin_base or finetune_ssv2_swin_base"
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
    """Write a classifier's description beside its weights. Raises UserError if names or recipe do not fit `config`."""
    from bevt_core.storage.files import read_record, write_record
    from schemas.evaluation import ClassifierCard
    from schemas.recipes import FinetuneRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.testing.classifier_card import CARD, card_of

    if "num_classes" not in config:
        raise UserError(f"--classes {classes}: {source} is not a classifier; leave out --classes and --recipe")
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
    path = weights.parent / CARD
    if read_record(path, ClassifierCard) not in (None, card):
        raise UserError(f"{path}: describes another classifier; choose --out in another folder")
    write_record(path, card)
    return path


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return class names in the order of their labels: one per line, or a JSON object of names and labels.

    Raises UserError, naming the file, for anything else.
    """
    from bevt_core.untrusted.files import Lines, read_json

    if path.suffix == ".json":
        labels = {str(label): name for name, label in read_json(path, dict).items()}
        names = [labels.get(str(label), "") for label in range(len(labels))]
        if not all(names):
            raise UserError(f"{path}: the labels are not 0 to {len(labels) - 1}, each once")
    else:
        names = [line.strip() for _, line in Lines(path)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice or not names:
        raise UserError(f"{path}: {f'the class {twice[0]!r} occurs twice' if twice else 'no class names found'}")
    return tuple(names)


def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            callback=pin_model,
            help="Run, its weights, a packaged model (bevt model list), or hf://ORG/NAME@REVISION.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Output. hub: folder; program: .pt2 file; onnx: .onnx file.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="Format: hub (Hugging Face layout), program (torch.export) or onnx.")
    ] = "hub",
    evaluation: Annotated[
        list[Path] | None, typer.Option(help="hub: folder of `bevt evaluate --out`, for the model card (repeatable).")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="program, onnx: frames per clip (default: as fine-tuned, else 32).")
    ] = None,
    size_px: Annotated[
        int | None,
        typer.Option(min=1, help="program, onnx: side of a frame in pixels (default: as fine-tuned, else 224)."),
    ] = None,
    push_to: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="hub: repository on the Hugging Face Hub to push to.")
    ] = None,
    private: Private = False,
    revision: Branch = None,
    message: Annotated[str, typer.Option(help="hub: message of the commit.")] = "Add a model exported by bevt",
    json_: AsJson = False,
) -> None:
    """Export a model: for the Hugging Face Hub, as a program, or as ONNX.

    hub: the same weights with a model card. program, onnx: a classifier that runs without bevt.

    A program or an ONNX file takes clips (B, 3, frames, size, size) for any B, in RGB normalised with ImageNet's mean
    and standard deviation, and returns logits. An ONNX file is compared with torch, in onnxruntime, before it is
    written.

    \b
    Examples:
      bevt export runs/finetune-k400 --evaluation runs/evaluate-k400 --out hub/bevt-k400
      bevt export runs/finetune-k400 --format onnx --out bevt-k400.onnx
      bevt export hub/bevt-k400 --push-to my-lab/bevt-k400 --private
    """
    from bevt_core.models.classifier import Classifier
    from bevt_core.storage.files import read_record
    from bevt_core.weights.export import save_onnx, save_program
    from bevt_core.weights.model_files import load_weights
    from schemas.evaluation import ClassifierCard
    from schemas.recipes.loading import nearest
    from schemas.text.hub_name import repository_name
    from trainer.runs.directory import existing_weights
    from trainer.show.model_card import export_hub
    from trainer.show.push_model import push_model
    from trainer.testing.classifier_card import CARD

    if format_ not in FORMATS:
        raise UserError(f"--format {format_!r}: {nearest(format_, FORMATS)}expected one of {', '.join(FORMATS)}")
    if out is None and (push_to is None or format_ != "hub"):
        raise UserError("`out` is missing: give a path to write to, or with format hub a repository as `push_to`")
    if format_ == "hub":
        result: dict[str, Any] = {"out": None if out is None else str(out), "format": format_}
        if push_to is None:
            assert out is not None
            export_hub(checkpoint, out, evaluation or [])
        else:
            to = repository_name(push_to, revision)
            options: dict[str, Any] = {"visibility": "private" if private else "as-is", "message": message}
            result["pushed"] = str(push_model(checkpoint, out, to, evaluations=evaluation or [], **options))
        emit(result, json_)
        return
    assert out is not None
    if push_to is not None:
        raise UserError(f"`push_to` {push_to}: only format hub is pushed; drop `push_to`")
    if evaluation:
        raise UserError(f"`evaluation` {evaluation[0]}: only format hub has a model card; drop `evaluation`")
    weights = existing_weights(checkpoint)
    model = load_weights(weights)
    if not isinstance(model, Classifier):
        raise UserError(
            f"--format {format_}: {checkpoint} is not a classifier; fine-tune it first, or use --format hub"
        )
    card = read_record(weights.parent / CARD, ClassifierCard)
    clip = {
        "frames": frames or (card.sampling.frames if card else 32),
        "size_px": size_px or (card.crop_px if card else 224),
    }
    checked = {}
    if format_ == "program":
        save_program(out, model, **clip)
    else:
        checked["largest_difference"] = save_onnx(out, model, **clip)
    emit({"out": str(out), "format": format_, **clip, **checked}, json_)
