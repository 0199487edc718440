"""Small datasets for tests, made with the real writer."""

import numpy as np
import torch

from bevt_core.dataset.commits import part_name
from bevt_core.dataset.extensions import read_extended_plans
from bevt_core.dataset.frame_store import FrameSample, read_frame_commit, write_frame_manifest, write_frame_part
from bevt_core.dataset.source_list import read_plan, sources_digest, write_plan
from bevt_core.dataset.token_set import (
    PartView,
    TokenSet,
    read_token_commit,
    read_token_plan,
    write_token_manifest,
    write_token_part,
    write_token_plan,
)
from bevt_core.rng import rng_for
from bevt_core.storage.objects import AnyPath
from bevt_core.tokenizers.base import Tokenizer
from bevt_core.views.replay import apply_view, decode_jpeg, draw_view, encode_jpeg, halve
from schemas.frames import FramePartCommit, Plan, PoolSpec, SourceItem
from schemas.tokens import TokenizerIdentity, TokenPartCommit, TokenPlan
from schemas.views import View, ViewSpec


def smooth_frame(key: object, height: int = 72, width: int = 96) -> np.ndarray:
    """A random but JPEG-friendly picture, uint8 (height, width, 3)."""
    coarse = rng_for("frame", key).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


def make_token_set(
    root: AnyPath,
    *,
    num_samples: int = 24,
    sources_per_part: int = 8,
    frames: int = 10,
    crop_px: int = 64,
    grid: int = 4,
    vocab_size: int = 64,
    num_views: int = 2,
    kind: str = "video",
    seed: int = 0,
    tag: str = "",
    tokenizer: Tokenizer | None = None,
    stride: int = 1,
    max_frames: int = 256,
) -> TokenSet:
    """A finished frame store and token set below `root`; labels are 0 and 1 in turn.

    Tokens are those of `tokenizer`, or random. It and crops of `crop_px` must agree. The frames of a pool are `stride`
    apart; where there are more than `max_frames` of them, they are thinned to so many.
    """
    items = [SourceItem(source=f"{tag}{i:04d}.mp4", kind=kind, label=i % 2) for i in range(num_samples)]
    plan = Plan(
        dataset="folder",
        split="train",
        classes=("no", "yes"),
        pool=PoolSpec(stride=stride, phase="zero", max_frames=max_frames, short_side_px=72),
        seed=seed,
        sources_per_part=sources_per_part,
        num_sources=num_samples,
        sources_digest=sources_digest(items),
    )
    frames_dir, tokens_dir = root / "frames", root / "tokens" / f"test-v{num_views}"
    write_plan(frames_dir, plan, items)
    views = ViewSpec(
        num_views=num_views,
        crop_px=crop_px,
        short_side_min_px=crop_px,
        short_side_max_px=crop_px + 8,
        flip_share=0.5,
        jitter=0.0,
    )
    identity = (
        tokenizer.identity()
        if tokenizer
        else TokenizerIdentity(
            name="test",
            weights_sha256="0" * 64,
            vocab_size=vocab_size,
            grid=(grid, grid),
            input_px=crop_px // 2,
            dtype="float32",
            device_kind="cpu",
        )
    )
    token_plan = TokenPlan(name=tokens_dir.name, tokenizer=identity, views=views, frames_plan=plan.digest())
    write_token_plan(tokens_dir, token_plan)
    frame_commits, token_commits = [], []
    for part in range(plan.num_parts):
        chunk = items[part * sources_per_part : (part + 1) * sources_per_part]
        indices = [i * stride * -(-frames // max_frames) for i in range(min(frames, max_frames))]
        samples = [_sample(item, indices if kind == "video" else [0]) for item in chunk]
        frame_commits.append(write_frame_part(frames_dir, part, samples, [], plan))
        token_commits.append(_write_tokens(tokens_dir, frame_commits[-1], samples, token_plan, tokenizer))
    manifest = write_frame_manifest(frames_dir, plan, frame_commits)
    write_token_manifest(tokens_dir, token_plan, manifest, token_commits)
    assert (frames_dir / part_name(0) / "commit.json").is_file()
    return TokenSet(tokens_dir)


def _write_tokens(
    tokens_dir: AnyPath,
    frames: FramePartCommit,
    samples: list[FrameSample],
    plan: TokenPlan,
    tokenizer: Tokenizer | None = None,
) -> TokenPartCommit:
    """The tokens of a part, of `tokenizer` or random."""
    rows = []
    for view in range(plan.views.num_views):
        drawn = [draw_view(plan.views, s.source, view, s.height, s.width) for s in samples]
        shape, most = plan.tokenizer.grid, plan.tokenizer.vocab_size
        tokens = [
            rng_for("tokens", s.source, view).integers(0, most, (len(s.jpegs), *shape)).astype(np.uint16)
            if tokenizer is None
            else _tokens_of(tokenizer, s, sample_view)
            for s, sample_view in zip(samples, drawn, strict=True)
        ]
        rows.append(PartView(views=drawn, tokens=tokens))
    return write_token_part(tokens_dir, frames, [s.source for s in samples], rows, plan)


def extend_token_set(tokens: TokenSet, num_samples: int, frames: int = 10) -> TokenSet:
    """The token set of random tokens `tokens` after an extension of its dataset by videos, in one part."""
    frames_dir, plan = tokens.frames.path, read_plan(tokens.frames.path)
    token_plan = read_token_plan(tokens.path)
    assert plan is not None and token_plan is not None
    plans = [plan, *read_extended_plans(frames_dir, plan)]
    first = TokenSet(tokens.path).frames.manifest.num_samples
    items = [SourceItem(source=f"more/{first + i:04d}.mp4", kind="video", label=i % 2) for i in range(num_samples)]
    extension = plan.model_copy(
        update={
            "num_sources": num_samples,
            "sources_per_part": num_samples,
            "sources_digest": sources_digest(items),
            "first_part": plans[-1].num_parts,
            "extends": plans[-1].digest(),
        }
    )
    write_plan(frames_dir, extension, items, extension=len(plans))
    plans.append(extension)
    samples = [_sample(item, list(range(frames))) for item in items]
    new = write_frame_part(frames_dir, extension.first_part, samples, [], extension)
    _write_tokens(tokens.path, new, samples, token_plan)
    found = [read_frame_commit(frames_dir, part, each.digest()) for each in plans for part in each.parts]
    frame_commits = [commit for commit in found if commit is not None]
    token_found = [read_token_commit(tokens.path, commit, token_plan.digest()) for commit in frame_commits]
    manifest = write_frame_manifest(frames_dir, plan, frame_commits, plans[1:])
    write_token_manifest(tokens.path, token_plan, manifest, [commit for commit in token_found if commit is not None])
    return TokenSet(tokens.path)


def add_token_set(tokens: TokenSet, name: str, *, vocab_size: int = 48, grid: int = 4, **views: object) -> TokenSet:
    """A token set of random tokens beside `tokens`, for the same frames and the same views but for `views`."""
    frames, first = tokens.frames, tokens.manifest
    identity = first.tokenizer.model_copy(
        update={"name": name, "weights_sha256": "1" * 64, "vocab_size": vocab_size, "grid": (grid, grid)}
    )
    plan = TokenPlan(
        name=name,
        tokenizer=identity,
        views=first.views.model_copy(update=views),
        frames_plan=frames.manifest.plan_digest,
    )
    folder = tokens.path.parent / name
    write_token_plan(folder, plan)
    commits = []
    for part in range(frames.manifest.num_parts):
        frame_commit = read_frame_commit(frames.path, part, frames.manifest.plan_digest)
        assert frame_commit is not None
        samples = frames.read_index(part).select(["sample_id", "num_frames", "height", "width"]).to_pylist()
        rows = [
            PartView(
                views=[draw_view(plan.views, s["sample_id"], view, s["height"], s["width"]) for s in samples],
                tokens=[
                    rng_for(name, s["sample_id"], view)
                    .integers(0, vocab_size, (s["num_frames"], grid, grid))
                    .astype(np.uint16)
                    for s in samples
                ],
            )
            for view in range(plan.views.num_views)
        ]
        commits.append(write_token_part(folder, frame_commit, [s["sample_id"] for s in samples], rows, plan))
    write_token_manifest(folder, plan, frames.manifest, commits)
    return TokenSet(folder)


def _tokens_of(tokenizer: Tokenizer, sample: FrameSample, view: View) -> np.ndarray:
    frames = [halve(apply_view(decode_jpeg(jpeg), view), tokenizer.input_px) for jpeg in sample.jpegs]
    return tokenizer.encode(torch.from_numpy(np.stack(frames))).numpy().astype(np.uint16)


def _sample(item: SourceItem, indices: list[int]) -> FrameSample:
    pictures = [smooth_frame((item.source, i)) for i in indices]
    return FrameSample(
        source=item.source,
        label=item.label,
        jpegs=[encode_jpeg(picture, 90) for picture in pictures],
        frame_indices=indices,
        times_s=[i / 25 for i in indices],
        height=72,
        width=96,
        decoder="test",
        decoder_version="0",
        warnings=[],
    )
