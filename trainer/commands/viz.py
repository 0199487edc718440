"""The commands that draw: `bevt viz masks`, `predict`, `attention`. Each writes OUT.png and OUT.mp4."""

from pathlib import Path
from typing import Annotated

import typer

from bevt_core.console.command_line import AsJson, Overrides
from bevt_core.console.terminal import emit
from trainer.commands.options import ClipsRecipe, clips_recipe
from trainer.recipes import TRAINER_RECIPES

Out = Annotated[Path, typer.Option(help="Where the pictures go, without a suffix: .png and .mp4 are added.")]


def masks(
    sample: Annotated[Path, typer.Option(help="A video file.")],
    out: Out = Path("masks"),
    recipe: Annotated[
        str, typer.Option(help="A pretraining recipe: its clip length, patches and share hidden.")
    ] = "joint_swin_base_k400_in1k",
    crop_px: Annotated[int, typer.Option(help="Side of the crop.")] = 224,
    interval: Annotated[int, typer.Option(min=1, help="Frames from one frame of the clip to the next.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the masks.")] = 0,
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
    emit(run(loaded, sample, out, crop_px=crop_px, interval=interval, seed=seed), json_)


def predict(
    run: Annotated[Path, typer.Argument(help="A finished pretraining run.")],
    sample: Annotated[str | None, typer.Option(help="An id of its token set. Default: the first.")] = None,
    out: Out = Path("prediction"),
    stream: Annotated[str | None, typer.Option(help="video or image. Default: video, where there is one.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Where the tokenizer is now, if it has moved.")] = None,
    json_: AsJson = False,
) -> None:
    """Draw a clip, its masked input, and the predicted and true tokens decoded.

    \b
    Example:
      bevt viz predict runs/joint --sample abseiling/clip.mp4 --out pictures/prediction
    """
    from trainer.show.viz import viz_predict

    emit(viz_predict(run, out, sample=sample, stream=stream, tokenizer=tokenizer), json_)


def attention(
    checkpoint: Annotated[Path, typer.Argument(help="A run, fine-tuned or pretrained, or its weights.")],
    sample: Annotated[str, typer.Option(help="A video file, or a sample's id with --frames.")],
    out: Out = Path("attention"),
    frames: Annotated[Path | None, typer.Option(help="The frame store that has the sample.")] = None,
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

    emit(viz_attention(checkpoint, sample, out, frames=frames, recipe=clips_recipe(recipe, set_)), json_)
