"""Pictures of the demo's clips: masks and predictions, the classes, stored frames with their views and tokens.

Legend: T frames, H W pixels or token grid, C channels.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.masking import draw_mask
from bevt_core.media.errors import MediaError
from bevt_core.models.bevt import Bevt
from bevt_core.reporting.animations import enlarged, side_by_side, webp
from bevt_core.reporting.pictures import hide
from bevt_core.rng import rng_for
from bevt_core.tokenizers import load_tokenizer, tokenizer_of
from bevt_core.tokenizers.mosaics import decoder_for
from bevt_core.views.replay import apply_view, draw_view, halve
from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from schemas.frames import SourceItem
from schemas.models import TubeMask
from schemas.recipes import PretrainRecipe
from trainer.clips.sources import FileClips
from trainer.pretrain.pictures import prediction_rows
from trainer.runs.directory import WEIGHTS, read_run

PREDICTION_HEADS = ("clip", "masked", "predicted", "true tokens")
CLIPS, CANDIDATES = 4, 6  # with predictions; videos of a class to choose from
MASK = TubeMask(kind="tube", ratio=0.5, min_block=4)  # the paper's, whatever the run's recipe hides
SAMPLES = 4  # with views and tokens
VIEWS = 2  # of each, at most
TILE_PX, PANEL_PX = 128, 192  # sides of a class's clip and of a panel of a strip


class Animation(NamedTuple):
    """An animated picture, a still of it, and what it shows."""

    moving: bytes
    still: bytes
    about: str


def predicted_clips(run: Path, videos: Path, test: Path) -> list[Animation]:
    """Animate test clips of several classes: the clip, its masked view, predicted tokens and true tokens decoded.

    `run` is the pretraining run, `videos` the token set that it read; `test` has a folder of videos per class. Of a few
    videos of a class, the one with the most contrast is shown. Raises UserError if one of the three is missing.
    """
    recipe, _ = read_run(run)
    model = load_weights(run / WEIGHTS).eval()
    if not (isinstance(recipe, PretrainRecipe) and "video" in recipe.streams and isinstance(model, Bevt)):
        raise UserError(f"{run}: not a pretraining run with a video stream")
    stream, token_set = recipe.streams["video"], TokenSet(videos)
    tokenizer = load_tokenizer(tokenizer_of(token_set.path, token_set.manifest.tokenizer))
    decoder = decoder_for(tokenizer, token_set)
    animations = []
    for paths in _of_different_classes(test, CLIPS):
        clips = [_first_view(path, token_set, stream.clip_frames) for path in paths[:CANDIDATES]]
        path, clip_THWC = max(zip(paths, clips, strict=False), key=lambda found: float(found[1].std()))
        inputs = np.stack([halve(frame, tokenizer.input_px) for frame in clip_THWC])
        tokens_THW = tokenizer.encode(torch.from_numpy(inputs)).cpu()
        tubelets = len(clip_THWC) // model.config["patch"][0]
        grid_THW = (tubelets, tokens_THW.shape[1], tokens_THW.shape[2])
        mask_THW = _mask_from_the_start(path.name, grid_THW)
        clip, mask = torch.from_numpy(clip_THWC), torch.from_numpy(mask_THW)
        rows, labels = prediction_rows(model, decoder, clip, tokens_THW, mask, "video")
        large = [np.stack([enlarged(frame, PANEL_PX) for frame in row]) for row in rows]
        large[1] = hide(large[0], mask_THW)  # drawn at this size, so that its edges are sharp
        frames = [side_by_side(panels) for panels in zip(*large, strict=True)]
        still = int(mask_THW.sum(axis=(1, 2)).argmax()) * len(frames) // tubelets
        about = f"{path.parent.name}/{path.name}: {' | '.join(labels)}"
        animations.append(Animation(webp(frames), webp([frames[still]]), about))
    return animations


def class_clips(store: FrameStore) -> list[Animation]:
    """Animate one stored clip of each class that has one."""
    samples = store.samples.select(["part", "frame_start", "num_frames", "label"]).to_pylist()
    animations = []
    for label, name in enumerate(store.manifest.classes):
        row = next((row for row in samples if row["label"] == label), None)
        if row is not None:
            frames = store.read_frames(row["part"], row["frame_start"], row["num_frames"])
            large = [enlarged(frame, TILE_PX) for frame in frames]
            animations.append(Animation(webp(large), webp([large[len(large) // 2]]), name))
    return animations


def stored_views(token_set: TokenSet) -> tuple[list[str], list[tuple[bytes, str]]]:
    """Draw the first frame of some samples, its views, and the tokens of these views decoded.

    Returns the names of the columns, and a WebP file and a caption for each sample.
    """
    tokenizer = load_tokenizer(tokenizer_of(token_set.path, token_set.manifest.tokenizer))
    decoder = decoder_for(tokenizer, token_set)
    samples = token_set.frames.samples.select(["part", "frame_start", "source"])
    views = range(min(VIEWS, token_set.manifest.views.num_views))
    strips = []
    for at in np.linspace(0, len(samples) - 1, min(SAMPLES, len(samples))).astype(int).tolist():
        row = samples.slice(at, 1).to_pylist()[0]
        in_part = at - int(np.searchsorted(samples["part"].to_numpy(), row["part"]))
        stored = [token_set.read_view(row["part"], view) for view in views]
        frame = token_set.frames.read_frames(row["part"], row["frame_start"], 1)[0]
        tokens_VHW = torch.from_numpy(np.stack([part.tokens[in_part][0] for part in stored]).astype(np.int64))
        cells = [
            frame,
            *(apply_view(frame, part.views[in_part]) for part in stored),
            *decoder.decode(tokens_VHW).cpu().numpy(),
        ]
        strips.append((webp([side_by_side([enlarged(cell, PANEL_PX) for cell in cells])]), row["source"]))
    return ["stored frame", *(f"view {view}" for view in views), *(f"tokens of view {view}" for view in views)], strips


def _of_different_classes(root: Path, number: int) -> list[list[Path]]:
    """Return the videos of `number` classes, spread over all of them. Raises UserError if there is none."""
    by_class = [sorted(folder.glob("*.mp4")) for folder in sorted(root.glob("*/"))]
    found = [paths for paths in by_class if paths]
    if not found:
        raise UserError(f"{root}: no videos in it, expected a folder of them per class")
    return [found[at] for at in np.linspace(0, len(found) - 1, min(number, len(found))).astype(int).tolist()]


def _mask_from_the_start(name: str, grid_THW: tuple[int, int, int]) -> np.ndarray:
    """Draw a mask that hides something in the first frame, so that the animation begins with it: bool (T, H, W)."""
    masks = (draw_mask(MASK, rng_for("report", name, attempt), grid_THW) for attempt in itertools.count())
    return next(mask_THW for mask_THW in masks if mask_THW[0].any())


def _first_view(path: Path, token_set: TokenSet, num_frames: int) -> np.ndarray:
    """Read a video's first frames as the set's view 0, the centre crop: uint8 (T, crop_px, crop_px, 3)."""
    clips = FileClips(path.parent, (SourceItem(source=path.name, kind="video", label=None),), ())
    stride = token_set.frames.manifest.pool.stride
    try:
        frames = clips.read(0, lambda count: np.arange(num_frames) * stride % count)
    except MediaError as error:
        raise UserError(f"{path}: {error}") from None
    view = draw_view(token_set.manifest.views, path.name, 0, *frames[0].shape[:2])
    return np.stack([apply_view(frame, view) for frame in frames])
