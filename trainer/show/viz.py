"""Pictures of the method on one clip: masks, predicted tokens, attention, each as a PNG and as a film.

Legend: T frames, H W pixels or grid, C channels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bevt_core.console.inert import one_line
from bevt_core.console.terminal import note
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.masking import STRATEGIES, draw_mask
from bevt_core.media.errors import MediaError
from bevt_core.models.attention_maps import attention_maps
from bevt_core.models.bevt import Bevt
from bevt_core.models.stems import normalise
from bevt_core.reporting.pictures import film, heat, heat_scale, hide, marked, mp4, png, sheet
from bevt_core.rng import rng_for
from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import write_atomic
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers import load_tokenizer, tokenizer_of
from bevt_core.tokenizers.mosaics import decoder_for
from bevt_core.weights.model_files import load_weights
from schemas.errors import UserError
from schemas.models import BlockMask, TubeMask
from schemas.recipes import ClipSampling, FinetuneRecipe, PretrainRecipe
from schemas.recipes.loading import nearest
from trainer.clips.augmentation.crops import crop_views
from trainer.clips.sampling import SAMPLERS, Positions, repeats
from trainer.clips.sources import ClipSource, FileClips, StoreClips, interval_of
from trainer.data.clip_dataset import MORE_TOKENS
from trainer.data.online import OnlineSource, tokens_in_step
from trainer.pretrain.pictures import Row, prediction_rows
from trainer.pretrain.streams import open_sources, open_streams
from trainer.runs.directory import WEIGHTS, read_run
from trainer.setup.models import tokens_per_side, tubelet_of
from trainer.testing.frozen import open_frozen
from trainer.testing.predict import item_of

FPS = 4  # frames per second of the films
SHOWN = 8  # frames in a row of a PNG, spread evenly
HEAT_CAPTION = "attention on a fixed scale, relative to uniform attention (1x, grey)"


def viz_masks(
    recipe: PretrainRecipe, sample: Path, out: Path, *, crop_px: int, interval: int, seed: int = 0
) -> dict[str, Any]:
    """Draw every kind of mask, with the ratio of the recipe's video stream, over the middle clip of a video file.

    `interval` is the spacing of frames. Raises UserError for a recipe without a video stream, or an unreadable file.
    """
    if "video" not in recipe.streams:
        raise UserError(f"recipe {recipe.title!r} has no video stream; give a recipe that has one")
    stream, tubelet = recipe.streams["video"], tubelet_of("video", recipe.model)
    rows, columns = tokens_per_side(recipe.model.encoder, crop_px)
    if rows % 1 or columns % 1:
        raise UserError(f"crops of {crop_px} px have {rows:g} x {columns:g} tokens; choose a size that divides evenly")
    grid_THW = (stream.clip_frames // tubelet, int(rows), int(columns))

    sampling = ClipSampling(kind="dense", frames=stream.clip_frames, interval=interval)
    frames_THWC, repeats = _middle_clip(FileClips(Path(), (item_of(sample),), ()), sampling, interval)
    clip_THWC = crop_views(frames_THWC, crop_px, crop_px, 1)[0].numpy()
    drawn, labels, hidden = [repeats.mark(clip_THWC)], [repeats.caption(one_line(sample.name))], {}
    blocks = [s.mask.min_block for s in recipe.streams.values() if isinstance(s.mask, TubeMask | BlockMask)]
    for kind, strategy in STRATEGIES.items():
        config = strategy(stream.mask.ratio, min(blocks, default=16))
        mask_THW = draw_mask(config, rng_for("viz", seed, kind), grid_THW, clip_THWC)
        hidden[kind] = float(mask_THW.mean())
        drawn.append(list(hide(clip_THWC, mask_THW)))
        labels.append(f"{kind}: {hidden[kind]:.0%} hidden")
    return {"hidden": hidden, **repeats.facts(sample.name), **save_pictures(out, drawn, labels)}


def viz_predict(
    run: Path,
    out: Path,
    *,
    sample: str | None = None,
    stream: str | None = None,
    target: str | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """Draw a sample of a pretraining run's data: clip, masked, predicted tokens decoded, true tokens decoded.

    `sample` is an id of the token set, by default its first; `stream` is by default video, if the run has it; `target`
    is by default the first. Raises UserError for an unfinished run, or for an unknown sample, target or tokenizer.
    """
    recipe, _ = read_run(run)
    if not isinstance(recipe, PretrainRecipe) or not (run / WEIGHTS).is_file():
        raise UserError(f"{run}: {what_is(run)}; expected a finished pretraining run, as `bevt train` writes it")
    name = stream or ("video" if "video" in recipe.streams else "image")
    if name not in recipe.streams:
        raise UserError(f"{run}: no {name} stream, only {', '.join(recipe.streams)}")
    more = recipe.streams[name].more_targets
    target = None if target == recipe.model.first_target else target
    if target is not None and target not in more:
        raise UserError(
            f"{run}: no target {target!r} besides the first in its {name} stream; {nearest(target, list(more))}it has "
            f"{', '.join(more) or 'none'}"
        )
    alone = recipe.model_copy(update={"streams": {name: recipe.streams[name]}})
    sources = open_sources(alone, torch.device("cpu"))
    source = sources[name]
    dataset, _ = open_streams(alone, sources)[name]
    ids = dataset.sample_ids.to_pylist()
    if sample is not None and sample not in ids:
        raise UserError(f"{source.path}: no sample {sample!r}; {nearest(sample, ids)}it has {len(ids)}, e.g. {ids[0]}")
    position = 0 if sample is None else ids.index(sample)
    data: TokenSet | FrameStore
    if isinstance(source, OnlineSource):
        made_with, data = source.tokenizer, source.frames
    else:
        tokens = source.tokens if target is None else source.more[target]
        made_with, data = load_tokenizer(tokenizer_of(tokens.path, tokens.manifest.tokenizer, tokenizer)), tokens
        made_by = tokens.manifest.tokenizer.weights_sha256
        if made_with.weights_sha256 != made_by:
            raise UserError(
                f"tokenizer {tokenizer} has weights {made_with.weights_sha256[:12]}, but the tokens in {tokens.path} "
                f"were made with {made_by[:12]}; give the one that made them"
            )
    model = load_weights(run / WEIGHTS).eval()
    assert isinstance(model, Bevt)  # the model of a pretraining run
    drawn = dataset[0, position]
    _, start, count, _ = dataset.locate(0, position)
    repeats = Repeats(start + np.arange(dataset.clip_frames) % count, int(dataset.num_frames[position]))
    key = "tokens" if target is None else MORE_TOKENS + target
    tokens_THW = drawn[key] if key in drawn else tokens_in_step(made_with, drawn["frames"][None])[0]
    decoder = decoder_for(made_with, data)
    rows, labels = prediction_rows(model, decoder, drawn["clip"], tokens_THW, drawn["mask"], name, target)
    rows[0], labels[0] = repeats.mark(rows[0]), repeats.caption(labels[0])
    facts = repeats.facts(drawn["sample_id"])
    return {"sample": drawn["sample_id"], **facts, **save_pictures(out, rows, labels)}


def viz_attention(
    checkpoint: Path | str,
    sample: str,
    out: Path,
    *,
    frames: AnyPath | None = None,
    recipe: FinetuneRecipe | None = None,
) -> dict[str, Any]:
    """Draw the attention of a run's encoder, by stage, over a video file or a sample of the frame store `frames`.

    The maps are those of `bevt_core.models.attention_maps`, on a fixed scale around uniform attention. Raises UserError
    for an unreadable video.
    """
    model, plan = open_frozen(checkpoint, recipe, clips=1, crops=1)
    data: ClipSource = FileClips(Path(), (item_of(Path(sample)),), ()) if frames is None else _sample_of(frames, sample)
    frames_THWC, repeats = _middle_clip(data, plan.sampling, interval_of(data, plan.sampling))
    views_BTHWC = crop_views(frames_THWC, plan.views.short_side_px, plan.crop_px, 1)
    clip_THWC = views_BTHWC[0].numpy()
    rows, labels = [repeats.mark(clip_THWC)], [repeats.caption(one_line(Path(sample).name))]
    for name, map_BTHW in attention_maps(model.eval(), normalise(views_BTHWC)).items():
        repeat = len(clip_THWC) // map_BTHW.shape[1]
        map_THW = map_BTHW[0].repeat_interleave(repeat, dim=0)
        values = F.interpolate(map_THW[None], clip_THWC.shape[1:3], mode="bilinear")[0].numpy()
        rows.append(list(heat(clip_THWC, values)))
        labels.append(f"{name} ({map_THW.min():.2f} to {map_THW.max():.2f} x uniform)")
    files = save_pictures(out, rows, labels, below=partial(heat_scale, HEAT_CAPTION))
    return {"maps": labels[1:], **repeats.facts(Path(sample).name), **files}


def save_pictures(
    out: Path, rows: Sequence[Row], labels: Sequence[str], below: Callable[[int], np.ndarray] | None = None
) -> dict[str, str]:
    """Write `<out>.png`, a few frames of every row, and `<out>.mp4`, all frames; return their paths.

    `below` draws the strip below the frames of both, for a width in pixels.
    """
    shown = np.linspace(0, len(rows[0]) - 1, min(SHOWN, len(rows[0]))).round().astype(int)
    page, frames = sheet([[row[at] for at in shown] for row in rows], labels, 160), film(rows, labels)
    if below is not None:
        page = np.vstack([page, below(page.shape[1])])
        scale = below(frames[0].shape[1])
        frames = [np.vstack([frame, scale]) for frame in frames]
    write_atomic(out.with_name(f"{out.name}.png"), png(page))
    write_atomic(out.with_name(f"{out.name}.mp4"), mp4(frames, FPS))
    return {"picture": f"{out}.png", "film": f"{out}.mp4"}


class Repeats(NamedTuple):
    """The repeated frames of a clip, if the video or pool that it is cut from has too few frames."""

    positions_T: Positions  # of the clip's frames in the video or pool
    num_frames: int  # of the video or pool

    def mark(self, frames_THWC: Sequence[np.ndarray] | np.ndarray) -> Row:
        """Return the frames, with a border around those that repeat."""
        again_T = repeats(self.positions_T)
        return [marked(frame) if again else frame for frame, again in zip(frames_THWC, again_T, strict=True)]

    def caption(self, name: str) -> str:
        """Return `name`, followed by the frames that repeat, counted from 1, if there are any."""
        numbers = self.repeated()
        if not numbers:
            return name
        ends = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        which = ends if numbers[-1] - numbers[0] < len(numbers) else ", ".join(map(str, numbers))
        total = len(self.positions_T)
        return f"{name}: only {self.num_frames} frames, so frames {which} of the clip's {total} repeat (orange border)"

    def repeated(self) -> list[int]:
        return (np.flatnonzero(repeats(self.positions_T)) + 1).tolist()

    def facts(self, name: str) -> dict[str, Any]:
        """Return `repeated_frames` of the clip, counted from 1, for the command's result; print them to stderr."""
        if self.repeated():
            note(self.caption(name))
        return {"repeated_frames": self.repeated()}


def _middle_clip(data: ClipSource, sampling: ClipSampling, interval: int) -> tuple[Tensor, Repeats]:
    """The middle clip of the first item, uint8 (T, H, W, C). Raises UserError for an unreadable video."""
    found = []

    def middle(num_frames: int) -> Positions:
        positions_T: Positions = SAMPLERS[sampling.kind].test(num_frames, sampling.frames, interval, 1)[0]
        found.append(Repeats(positions_T, num_frames))
        return positions_T

    try:
        frames_HWC = data.read(0, middle)
    except MediaError as error:
        name = data.items[0].source
        if error.reason == "no-frames":
            raise UserError(
                f"{name}: a folder without numbered pictures; give a video, or a folder of its frames"
            ) from None
        raise UserError(f"{name}: {error}; give a video that can be read") from None
    return torch.from_numpy(np.stack(frames_HWC)), found[-1]


def _sample_of(frames: AnyPath, sample: str) -> StoreClips:
    store = StoreClips(frames)
    found = store.subset([item for item in store.items if item.source == sample])
    if not found.items:
        known = [item.source for item in store.items]
        raise UserError(f"{frames}: no sample {sample!r}; {nearest(sample, known)}it has {len(known)}, e.g. {known[0]}")
    return found
