"""The dataset whose bytes are pinned: `python -m tests.golden.golden_dataset DIR` writes it."""

import sys
from pathlib import Path

import numpy as np

from bevt_core.dataset.frame_store import FrameSample, Rejected, write_frame_manifest, write_frame_part
from bevt_core.dataset.source_list import sources_digest, write_plan
from bevt_core.dataset.token_set import PartView, write_token_manifest, write_token_part, write_token_plan
from schemas.frames import Plan, PoolSpec, SourceItem
from schemas.tokens import TokenizerIdentity, TokenPlan
from schemas.views import View, ViewSpec

ITEMS = [SourceItem(source=f"class {i % 2}/clip-{i}.mp4", kind="video", label=i % 2) for i in range(3)]
PLAN = Plan(
    dataset="folder",
    split="train",
    classes=("class 0", "class 1"),
    pool=PoolSpec(stride=2, phase="random", max_frames=4, short_side_px=64, jpeg_quality=90),
    seed=7,
    sources_per_part=3,
    num_sources=3,
    sources_digest=sources_digest(ITEMS),
)
TOKEN_PLAN = TokenPlan(
    name="test-v2",
    tokenizer=TokenizerIdentity(
        name="test",
        weights_sha256="ab" * 32,
        vocab_size=512,
        grid=(2, 2),
        input_px=16,
        dtype="float32",
        device_kind="cpu",
    ),
    views=ViewSpec(
        num_views=2, crop_px=32, short_side_min_px=32, short_side_max_px=40, flip_share=0.5, jitter=0.4, seed=1
    ),
    frames_plan=PLAN.digest(),
)


def jpeg(sample: int, frame: int) -> bytes:
    """Bytes that stand for a JPEG file: the format does not look inside."""
    return bytes((sample * 31 + frame * 7 + i) % 256 for i in range(40 + 10 * frame))


def write_golden(root: Path) -> None:
    """Write a frame store of two samples and one rejected source, and a token set of two views."""
    frames_dir, tokens_dir = root / "frames", root / "tokens" / TOKEN_PLAN.name
    write_plan(frames_dir, PLAN, ITEMS)
    samples = [
        FrameSample(
            source=ITEMS[i].source,
            label=ITEMS[i].label,
            jpegs=[jpeg(i, frame) for frame in range(2 + i)],
            frame_indices=[1 + 2 * frame for frame in range(2 + i)],
            times_s=[(1 + 2 * frame) / 25 for frame in range(2 + i)],
            height=64,
            width=80,
            decoder="decord",
            decoder_version="0.6.0",
            warnings=["rotated by 90 degrees"] if i else [],
        )
        for i in range(2)
    ]
    rejected = [Rejected(ITEMS[2].source, ITEMS[2].label, "open", "empty", "the file has 0 bytes", 1)]
    commit = write_frame_part(frames_dir, 0, samples, rejected, PLAN)
    manifest = write_frame_manifest(frames_dir, PLAN, [commit])
    rows = [
        PartView(
            views=[
                View(
                    short_side_px=32 + view,
                    top_px=view,
                    left_px=0,
                    crop_px=32,
                    flip=bool(view),
                    jitter=(("contrast", 1.25), ("brightness", 0.75)) if view else (),
                )
                for _ in samples
            ],
            tokens=[
                np.arange(4 * len(sample.jpegs), dtype=np.uint16).reshape(-1, 2, 2) + 100 * view for sample in samples
            ],
        )
        for view in range(2)
    ]
    write_token_plan(tokens_dir, TOKEN_PLAN)
    token_commit = write_token_part(tokens_dir, commit, [sample.source for sample in samples], rows, TOKEN_PLAN)
    write_token_manifest(tokens_dir, TOKEN_PLAN, manifest, [token_commit])


if __name__ == "__main__":
    write_golden(Path(sys.argv[1]))
