"""The clips that a pretrained encoder reads, from `pretrained.json` beside its weights or from its run and data."""

from pathlib import Path

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.storage.descriptions import RECORD
from bevt_core.storage.files import read_record
from bevt_core.weights.packaged import PRETRAINED_CARD, name_of
from schemas.errors import UserError
from schemas.evaluation import ClassifierCard, PretrainedCard
from schemas.recipes import ClipSampling, EvalViews, OnlineTokens, PretrainRecipe, StreamConfig
from trainer.runs.directory import read_run


def card_of_pretrained(weights: Path) -> ClassifierCard:
    """Describe the clips of pretrained weights: one centre crop of one clip, like those of the video stream.

    Raises UserError if they are unknown.
    """
    stored = read_record(weights.parent / PRETRAINED_CARD, PretrainedCard)
    title, sampling, crop_px = (stored.title, stored.sampling, stored.crop_px) if stored else _clips_of_run(weights)
    views = EvalViews(clips=1, crops=1, short_side_px=crop_px)
    return ClassifierCard(title=title, classes=("none",), sampling=sampling, crop_px=crop_px, views=views)


def _clips_of_run(weights: Path) -> tuple[str, ClipSampling, int]:
    """The title, and the clips of the video stream, of the pretraining run that contains `weights`."""
    fix = "give a fine-tuning `recipe`, which sets the clips to use"
    recipe = read_run(weights.parent)[0] if (weights.parent / RECORD).is_file() else None
    if not isinstance(recipe, PretrainRecipe) or "video" not in recipe.streams:
        raise UserError(f"{name_of(weights)}: not from a pretraining run with a video stream; {fix}")
    stream = recipe.streams["video"]
    try:
        frames, crop_px = frames_of(stream), crop_px_of(stream)
    except (UserError, OSError) as error:
        raise UserError(f"{weights}: its pretraining data cannot be read ({error}); {fix}") from None
    sampling = ClipSampling(kind="dense", frames=stream.clip_frames, interval=frames.manifest.pool.stride)
    return recipe.title, sampling, crop_px


def frames_of(stream: StreamConfig) -> FrameStore:
    """Return the frame store of a stream. Raises UserError or OSError if it cannot be read."""
    return (
        FrameStore(stream.tokens.frames) if isinstance(stream.tokens, OnlineTokens) else TokenSet(stream.tokens).frames
    )


def crop_px_of(stream: StreamConfig) -> int:
    """Return the side of a stream's crops in pixels. Raises UserError or OSError if its data cannot be read."""
    views = stream.tokens.views if isinstance(stream.tokens, OnlineTokens) else TokenSet(stream.tokens).manifest.views
    return views.crop_px
