"""The commands that draw: `bevt viz masks`, `predict`, `attention`. Each writes OUT.png and OUT.mp4."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bevt_core.console.command_line import AsJson, Overrides
from bevt_core.console.terminal import emit
from bevt_core.storage.objects import as_path
from trainer.commands.options import ClipsRecipe, EncoderPath, clips_recipe
from trainer.recipes import TRAINER_RECIPES

Out = Annotated[Path, typer.Option(help="Path of the pictures without suffix; .png and .mp4 are added.")]


def masks(
    sample: Annotated[Path, typer.Option(help="Video file.")],
    out: Out = Path("masks"),
    recipe: Annotated[
        str, typer.Option(help="Pretraining recipe that sets clip length, patches and mask ratio.")
    ] = "joint_swin_base_k400_in1k",
    crop_px: Annotated[int, typer.Option(min=1, help="Side of the crop in pixels.")] = 224,
    interval: Annotated[int, typer.Option(min=1, help="Spacing of the clip's frames, in frames of the video.")] = 8,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the masks.")] = 0,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Draw every masking strategy over one clip.

    \b
    Example:
      bevt viz masks --sample clip.mp4 --out pictures/masks
    """
    from schemas.recipes import PretrainRecipe
    from schemas.recipes.loading import load_recipe_of
    from trainer.show.viz import viz_masks as run

    loaded = load_recipe_of(PretrainRecipe, recipe, TRAINER_RECIPES, set_ or [])
    _emit(run(loaded, sample, out, crop_px=crop_px, interval=interval, seed=seed), json_)


def predict(
    run: Annotated[Path, typer.Argument(help="Finished pretraining run.")],
    sample: Annotated[str | None, typer.Option(help="Sample id in its token set (default: the first).")] = None,
    out: Out = Path("prediction"),
    stream: Annotated[
        str | None, typer.Option(help="Stream: video or image (default: video, if the run has it).")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Further target to draw (default: the first target).")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Path of the tokenizer, if it has moved.")] = None,
    json_: AsJson = False,
) -> None:
    """Draw a clip, its masked input, and the predicted and true tokens decoded.

    \b
    Example:
      bevt viz predict runs/joint --sample abseiling/clip.mp4 --out pictures/prediction
    """
    from trainer.show.viz import viz_predict

    _emit(viz_predict(run, out, sample=sample, stream=stream, target=target, tokenizer=tokenizer), json_)


def attention(
    checkpoint: EncoderPath,
    sample: Annotated[str, typer.Option(help="Video file, or with --frames a sample's id.")],
    out: Out = Path("attention"),
    frames: Annotated[str | None, typer.Option(help="Frame store that contains the sample.")] = None,
    recipe: ClipsRecipe = None,
    set_: Overrides = None,
    json_: AsJson = False,
) -> None:
    """Draw how much attention each position gets, a row per stage.

    \b
    Example:
      bevt viz attention runs/finetune-k400 --sample clip.mp4 --out pictures/attention
    """
    from trainer.show.viz import viz_attention

    store = None if frames is None else as_path(frames)
    _emit(viz_attention(checkpoint, sample, out, frames=store, recipe=clips_recipe(recipe, set_)), json_)


def _emit(result: dict[str, Any], as_json: bool) -> None:
    """Print the result. The terminal omits the repeated frames, since a note and the picture name them."""
    emit(result if as_json else {key: value for key, value in result.items() if key != "repeated_frames"}, as_json)
