"""Frame stores and token sets made on the spot from photographs that scikit-image and scikit-learn bring.

Written by the pipeline's own writers, without Ray and without video files.
"""

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from common import Options
from PIL import Image

from bevt_core.dataset.frame_store import FrameSample, write_frame_manifest, write_frame_part
from bevt_core.dataset.source_list import sources_digest, write_plan
from bevt_core.dataset.token_set import PartView, write_token_manifest, write_token_part, write_token_plan
from bevt_core.rng import rng_for
from bevt_core.tokenizers import find_tokenizer, load_tokenizer
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.views.replay import draw_view, encode_jpeg
from pipeline.job.tokenize_part import PartTokenizer
from pipeline.synthetic.camera import CLASSES, draw_clip
from pipeline.synthetic.photographs import PHOTOGRAPHS, draw_image, photograph
from schemas.errors import UserError
from schemas.frames import FramePartCommit, MediaKind, Plan, PoolSpec, SourceItem
from schemas.tokens import TokenizerIdentity, TokenPlan
from schemas.views import ViewSpec

Draw = Callable[[int], np.ndarray]  # number of a sample -> its frames, uint8 (T, H, W, C); must be picklable
CORES = len(os.sched_getaffinity(0))
FEW = 64  # samples, which are drawn before other processes have started
CLIP_FRAMES, CLIP_PX, MOTION_CROP_PX = 8, 80, 64  # of camera motion, as in the demo


@dataclass(frozen=True)
class Frames:
    """A finished frame store."""

    folder: Path
    plan: Plan
    items: Sequence[SourceItem]
    commits: Sequence[FramePartCommit]
    samples: Sequence[FrameSample]


def write_frames(
    folder: Path, draw: Draw, *, count: int, kind: MediaKind, per_part: int, classes: Sequence[str] = ()
) -> Frames:
    """Draw `count` samples and store their frames; where there are classes, the labels go round."""
    items = [
        SourceItem(source=f"{i:06d}", kind=kind, label=i % len(classes) if classes else None) for i in range(count)
    ]
    plan = Plan(
        dataset="folder",
        split="train",
        classes=tuple(classes),
        pool=PoolSpec(stride=1, phase="zero"),
        seed=0,
        sources_per_part=per_part,
        num_sources=count,
        sources_digest=sources_digest(items),
    )
    shutil.rmtree(folder, ignore_errors=True)  # of a step that was killed
    write_plan(folder, plan, items)
    samples = [_sample(item, *jpegs) for item, jpegs in zip(items, _in_processes(draw, count), strict=True)]
    commits = [
        write_frame_part(folder, part, samples[part * per_part : (part + 1) * per_part], [], plan)
        for part in range(plan.num_parts)
    ]
    write_frame_manifest(folder, plan, commits)
    return Frames(folder, plan, items, commits, samples)


def write_tokens(folder: Path, frames: Frames, views: ViewSpec, tokenizer: Tokenizer | TokenizerIdentity) -> None:
    """Tokenize a store under `views`; an identity alone stands for random ids, which nobody can learn."""
    identity = tokenizer.identity() if isinstance(tokenizer, Tokenizer) else tokenizer
    manifest = write_frame_manifest(frames.folder, frames.plan, frames.commits)
    plan = TokenPlan(name=folder.name, tokenizer=identity, views=views, frames_plan=frames.plan.digest())
    write_token_plan(folder, plan)
    if isinstance(tokenizer, Tokenizer):
        worker = PartTokenizer(tokenizer, batch_frames=512, threads=min(CORES, 16))
        commits = [worker.make_token_part(frames.folder, folder, commit, plan)[0] for commit in frames.commits]
    else:
        per_part = frames.plan.sources_per_part
        commits = [
            _random_part(folder, commit, frames.samples[commit.part * per_part :][: commit.num_samples], plan)
            for commit in frames.commits
        ]
    write_token_manifest(folder, plan, manifest, commits)


def photo_shards(options: Options) -> list[str]:
    """Return overrides of a joint recipe that read 224 px shards of moving crops, with random tokens; made once.

    The cost of reading them is that of real data: JPEGs of 256 x 342 px, 24 to a clip, and jittered images.
    """
    root = options.work / "photos"
    crop_px, grid, vocab_size = (64, 8, 64) if options.tiny else (224, 14, 8192)
    clips, images, length = (8, 16, 10) if options.tiny else (64, 512, 24)
    height = crop_px * 8 // 7
    sets = {"video": ("video", clips, length, 0.0), "image": ("image", images, 1, 0.4)}
    for name, (kind, count, frames, jitter) in sets.items():
        if (root / name / "tokens" / "random" / "dataset.json").is_file():
            continue
        draw = functools.partial(_moving_crop, frames=frames, height=height)
        store = write_frames(root / name / "frames", draw, count=count, kind=kind, per_part=count // 8)
        views = _views(crop_px, height, crop_px * 10 // 7, jitter)
        identity = TokenizerIdentity(
            name="random",
            weights_sha256="0" * 64,
            vocab_size=vocab_size,
            grid=(grid, grid),
            input_px=8 * grid,
            dtype="float32",
            device_kind="cpu",
        )
        write_tokens(root / name / "tokens" / "random", store, views, identity)
    return [f"streams.{name}.tokens={root / name / 'tokens' / 'random'}" for name in sets]


def motion_shards(options: Options, root: Path, clips: int, images: int) -> list[str]:
    """Return overrides of `nano_joint` that read clips of camera motion and images under dvae-nano; made once."""
    tokens = {"video": root / "video" / "tokens" / "dvae", "image": root / "image" / "tokens" / "dvae"}
    if not all((folder / "dataset.json").is_file() for folder in tokens.values()):
        tokenizer = load_tokenizer(find_tokenizer("dvae-nano"), options.device)
        motion = functools.partial(motion_clip, "train")
        store = write_frames(
            root / "video" / "frames", motion, count=clips, kind="video", per_part=-(-clips // 8), classes=CLASSES
        )
        write_tokens(tokens["video"], store, _views(MOTION_CROP_PX, MOTION_CROP_PX, CLIP_PX, 0.0), tokenizer)
        store = write_frames(root / "image" / "frames", _image, count=images, kind="image", per_part=-(-images // 8))
        write_tokens(tokens["image"], store, _views(MOTION_CROP_PX, MOTION_CROP_PX, CLIP_PX, 0.4), tokenizer)
    return [f"streams.{name}.tokens={folder}" for name, folder in tokens.items()]


def motion_clip(split: str, number: int) -> np.ndarray:
    """Draw a labelled clip of camera motion."""
    label = CLASSES[number % len(CLASSES)]
    return draw_clip(_photographs(split), split, label, CLIP_FRAMES, CLIP_PX, rng_for("gpu motion", split, number))


def _image(number: int) -> np.ndarray:
    names = _photographs("train")
    return draw_image(names[number % len(names)], 96, rng_for("gpu image", number))[None]


def _moving_crop(number: int, frames: int, height: int) -> np.ndarray:
    """A window of 4:3 that moves over a photograph."""
    rng, names = rng_for("gpu photos", number), _photographs("train")
    photo = photograph("train", names[number % len(names)], bool(rng.integers(2)))
    side = rng.uniform(0.4, 0.7) * min(photo.size[0] * 3 / 4, photo.size[1])
    (left, top), (right, bottom) = (
        [rng.uniform(0, length - extent) for length, extent in zip(photo.size, (side * 4 / 3, side), strict=True)]
        for _ in range(2)
    )
    size = (height * 4 // 3, height)
    boxes = [(left + t * (right - left), top + t * (bottom - top)) for t in np.linspace(0, 1, frames)]
    return np.stack(
        [
            np.asarray(photo.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + side * 4 / 3, y + side)))
            for x, y in boxes
        ]
    )


def _photographs(split: str) -> list[str]:
    """Names of the photographs whose package is installed."""
    names = [
        name for name, (folder, _, _) in PHOTOGRAPHS[split].items() if importlib.util.find_spec(folder.split("/")[0])
    ]
    if not names:
        raise UserError("neither scikit-image nor scikit-learn is installed, which bring the photographs")
    return names


def _views(crop_px: int, short_side_min_px: int, short_side_max_px: int, jitter: float) -> ViewSpec:
    return ViewSpec(
        num_views=2,
        crop_px=crop_px,
        short_side_min_px=short_side_min_px,
        short_side_max_px=short_side_max_px,
        flip_share=0.5,
        jitter=jitter,
    )


def _in_processes(draw: Draw, count: int) -> list[tuple[list[bytes], int, int]]:
    work = functools.partial(_jpegs, draw)
    if count <= FEW:
        return list(map(work, range(count)))
    with ProcessPoolExecutor(min(CORES, 16), mp_context=get_context("spawn")) as pool:
        return list(pool.map(work, range(count), chunksize=max(1, count // (4 * CORES))))


def _jpegs(draw: Draw, number: int) -> tuple[list[bytes], int, int]:
    frames_THWC = draw(number)
    return [encode_jpeg(frame_HWC, 90) for frame_HWC in frames_THWC], *frames_THWC.shape[1:3]


def _sample(item: SourceItem, jpegs: list[bytes], height: int, width: int) -> FrameSample:
    return FrameSample(
        source=item.source,
        label=item.label,
        jpegs=jpegs,
        frame_indices=list(range(len(jpegs))),
        times_s=[i / 8 for i in range(len(jpegs))],
        height=height,
        width=width,
        decoder="made",
        decoder_version="0",
        warnings=[],
    )


def _random_part(folder: Path, commit: FramePartCommit, samples: Sequence[FrameSample], plan: TokenPlan) -> object:
    identity, rows = plan.tokenizer, []
    for view in range(plan.views.num_views):
        rng = rng_for("random tokens", commit.part, view)
        tokens = [
            rng.integers(identity.vocab_size, size=(len(s.jpegs), *identity.grid), dtype=np.uint16) for s in samples
        ]
        views = [draw_view(plan.views, s.sample_id, view, s.height, s.width) for s in samples]
        rows.append(PartView(views=views, tokens=tokens))
    return write_token_part(folder, commit, [s.sample_id for s in samples], rows, plan)
