"""Pictures of what the method does to one clip: masks, predicted tokens, attention. Each as a PNG and as a film.

Legend: T frames, H W pixels or grid, C channels.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from bevt_core.attention_maps import attention_maps
from bevt_core.bevt import Bevt
from bevt_core.files import write_atomic
from bevt_core.media.errors import MediaError
from bevt_core.pictures import film, heat, hide, mp4, png, sheet
from bevt_core.places import what_is
from bevt_core.rng import rng_for
from bevt_core.tokenizers import load_tokenizer, tokenizer_of
from bevt_core.weights import load_weights
from schemas.errors import UserError
from schemas.model import BlockMask, FrameDiffMask, MaskConfig, Random3dMask, RandomFrameMask, TubeMask
from schemas.recipe_io import nearest
from schemas.recipes import FinetuneRecipe, PretrainRecipe
from trainer.augment import crop_views
from trainer.clips import ClipSource, FileClips, StoreClips
from trainer.data import draw_mask, normalise
from trainer.frozen import open_frozen
from trainer.model import tokens_per_side, tubelet_of
from trainer.online import OnlineSource, tokens_in_step
from trainer.pictures import Row, prediction_rows
from trainer.predict import item_of
from trainer.run import WEIGHTS, read_run
from trainer.sampling import SAMPLERS, Positions
from trainer.streams import open_sources, open_streams
from trainer.views import Chunk, ViewChunks

FPS = 4  # of the films
SHOWN = 8  # frames of a PNG's row, spread evenly

# what the paper's table 9 compares, and an image's mask; with the ratio and the blocks of a recipe
STRATEGIES: dict[str, Callable[[float, int], MaskConfig]] = {
    "tube": lambda ratio, block: TubeMask(kind="tube", ratio=ratio, min_block=block),
    "random_3d": lambda ratio, block: Random3dMask(kind="random_3d", ratio=ratio),
    "random_frame": lambda ratio, block: RandomFrameMask(kind="random_frame", ratio=ratio),
    "frame_diff": lambda ratio, block: FrameDiffMask(kind="frame_diff", ratio=ratio),
    "block": lambda ratio, block: BlockMask(kind="block", ratio=ratio, min_block=block),
}


def viz_masks(
    recipe: PretrainRecipe, sample: Path, out: Path, *, crop_px: int, interval: int, seed: int = 0
) -> dict[str, Any]:
    """Draw every kind of mask, with the ratio of the recipe's video stream, over the middle clip of a video file.

    `interval` is the spacing of frames. Raises UserError for a recipe without videos, or a file that cannot be read.
    """
    if "video" not in recipe.streams:
        raise UserError(f"recipe {recipe.title!r} has no video stream; name one that has")
    stream, tubelet = recipe.streams["video"], tubelet_of("video", recipe.model)
    rows, columns = tokens_per_side(recipe.model.encoder, crop_px)
    if rows % 1 or columns % 1:
        raise UserError(f"crops of {crop_px} px have {rows:g} x {columns:g} tokens; choose a size that divides evenly")
    grid_THW = (stream.clip_frames // tubelet, int(rows), int(columns))

    def middle(num_frames: int) -> Positions:
        return SAMPLERS["dense"].test(num_frames, stream.clip_frames, interval, 1)[0]

    data = FileClips(Path(), (item_of(sample),), ())
    try:
        frames_THWC = torch.from_numpy(np.stack(data.read(0, middle)))
    except MediaError as error:
        raise UserError(f"{sample}: {error}; give a video that can be read") from None
    clip_THWC = crop_views(frames_THWC, crop_px, crop_px, 1)[0].numpy()
    drawn, labels, hidden = [list(clip_THWC)], [sample.name], {}
    for kind, strategy in STRATEGIES.items():
        config = strategy(stream.mask.ratio, getattr(stream.mask, "min_block", 16))
        mask_THW = draw_mask(config, rng_for("viz", seed, kind), grid_THW, clip_THWC)
        hidden[kind] = float(mask_THW.mean())
        drawn.append(list(hide(clip_THWC, mask_THW)))
        labels.append(f"{kind}: {hidden[kind]:.0%} hidden")
    return {"hidden": hidden, **save_pictures(out, drawn, labels)}


def viz_predict(
    run: Path, out: Path, *, sample: str | None = None, stream: str | None = None, tokenizer: str | None = None
) -> dict[str, Any]:
    """Draw a sample of a pretraining run's data: clip, masked, predicted tokens decoded, true tokens decoded.

    `sample` is an id of the token set, its first one unless given; `stream` video where there is one. Raises UserError
    for a run that has not finished, or a sample or tokenizer that is not there.
    """
    recipe, _ = read_run(run)
    if not isinstance(recipe, PretrainRecipe) or not (run / WEIGHTS).is_file():
        raise UserError(f"{run}: {what_is(run)}; expected a finished pretraining run, as `bevt train` writes it")
    name = stream or ("video" if "video" in recipe.streams else "image")
    if name not in recipe.streams:
        raise UserError(f"{run}: it has no {name} stream, only {', '.join(recipe.streams)}")
    alone = recipe.model_copy(update={"streams": {name: recipe.streams[name]}})
    sources = open_sources(alone, torch.device("cpu"))
    source = sources[name]
    dataset, _ = open_streams(alone, sources)[name]
    ids = dataset.sample_ids.to_pylist()
    if sample is not None and sample not in ids:
        raise UserError(f"{source.path}: no sample {sample!r}; {nearest(sample, ids)}it has {len(ids)}, e.g. {ids[0]}")
    position = 0 if sample is None else ids.index(sample)
    if isinstance(source, OnlineSource):
        decoder = source.tokenizer
    else:
        decoder = load_tokenizer(tokenizer_of(source.tokens.path, source.identity, tokenizer))
    made_by = source.identity.weights_sha256
    if decoder.weights_sha256 != made_by:
        raise UserError(
            f"tokenizer {tokenizer} has weights {decoder.weights_sha256[:12]}, but the tokens in {source.path} were "
            f"made with {made_by[:12]}; give the one that made them"
        )
    model = load_weights(run / WEIGHTS).eval()
    assert isinstance(model, Bevt)  # the run is of pretraining
    part = dataset[0, position]
    tokens_THW = part["tokens"] if "tokens" in part else tokens_in_step(decoder, part["frames"][None])[0]
    rows, labels = prediction_rows(model, decoder, part["clip"], tokens_THW, part["mask"], name)
    return {"sample": part["sample_id"], **save_pictures(out, rows, labels)}


def viz_attention(
    checkpoint: Path,
    sample: str,
    out: Path,
    *,
    frames: Path | None = None,
    recipe: FinetuneRecipe | None = None,
) -> dict[str, Any]:
    """Draw where the encoder of a run looks, stage by stage, over a video file or a sample of the frame store `frames`.

    The maps are those of `bevt_core.attention_maps`. Raises UserError for a video that cannot be read.
    """
    model, plan = open_frozen(checkpoint, recipe, clips=1, crops=1)
    data: ClipSource = FileClips(Path(), (item_of(Path(sample)),), ()) if frames is None else _sample_of(frames, sample)
    chunk = ViewChunks(data, plan, [Chunk(0, 0, 1)])[0]
    if chunk["views"] is None:
        raise UserError(f"{sample}: {chunk['rows'][0]['error']}; give a video that can be read")
    views_BTHWC = chunk["views"]
    clip_THWC = views_BTHWC[0].numpy()
    rows, labels = [list(clip_THWC)], [Path(sample).name]
    for name, map_BTHW in attention_maps(model.eval(), normalise(views_BTHWC)).items():
        repeat = len(clip_THWC) // map_BTHW.shape[1]
        map_THW = map_BTHW[0].repeat_interleave(repeat, dim=0)
        values = F.interpolate(map_THW[None], clip_THWC.shape[1:3], mode="bilinear")[0].numpy()
        rows.append(list(heat(clip_THWC, values)))
        labels.append(f"{name} ({map_THW.min():.2f} to {map_THW.max():.2f} x average)")
    return {"maps": labels[1:], **save_pictures(out, rows, labels)}


def save_pictures(out: Path, rows: Sequence[Row], labels: Sequence[str]) -> dict[str, str]:
    """Write `<out>.png`, a few frames of every row, and `<out>.mp4`, all frames; return their paths."""
    shown = np.linspace(0, len(rows[0]) - 1, min(SHOWN, len(rows[0]))).round().astype(int)
    write_atomic(out.with_name(f"{out.name}.png"), png(sheet([[row[at] for at in shown] for row in rows], labels, 160)))
    write_atomic(out.with_name(f"{out.name}.mp4"), mp4(film(rows, labels), FPS))
    return {"picture": f"{out}.png", "film": f"{out}.mp4"}


def _sample_of(frames: Path, sample: str) -> StoreClips:
    store = StoreClips(frames)
    found = store.subset([item for item in store.items if item.source == sample])
    if not found.items:
        known = [item.source for item in store.items]
        raise UserError(f"{frames}: no sample {sample!r}; {nearest(sample, known)}it has {len(known)}, e.g. {known[0]}")
    return found
