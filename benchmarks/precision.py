"""How far autocast moves a classifier's scores: `python benchmarks/precision.py [RUN PLACE ...]`.

RUN is a fine-tuned run, PLACE a file, folder or glob of its videos. Without them: random weights and random clips. The
clips are decoded once and scored in fp32, bf16 and fp16 on the GPU, or on the CPU where there is none.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bevt_core.models.build import SWIN_SIZES, build_classifier
from bevt_core.weights.model_files import load_weights
from schemas.recipes import Precision
from trainer.clips.multi_view import Chunk, ViewChunks, ViewPlan
from trainer.clips.sources import FileClips
from trainer.engine.precision import autocast
from trainer.runs.directory import weights_of
from trainer.testing.classifier_card import read_card
from trainer.testing.evaluate import score
from trainer.testing.predict import find_media, item_of

CLASSES = 10
TIMESFORMER = {"encoder": "timesformer", "embed_dim": 96, "depth": 6, "num_heads": 4, "grid": (8, 7, 7)}
RANDOM: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {  # sizes; clips, pixels of a side
    "Swin-nano": (SWIN_SIZES["nano"], (256, 64)),
    "Swin-T": (SWIN_SIZES["tiny"], (32, 112)),
    "TimeSformer 6 x 96": (TIMESFORMER | {"patch": (1, 16, 16)}, (128, 112)),
}
FRAMES = 8

Views = tuple[Tensor, int]  # uint8 (B, T, H, W, C) of N videos, N


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if len(sys.argv) > 2:
        run = Path(sys.argv[1])
        compare(str(run), load_weights(weights_of(run)), views_of(run, sys.argv[2:]), device)
        return
    for name, (sizes, (clips, size_px)) in RANDOM.items():
        torch.manual_seed(0)
        model = build_classifier(**sizes, num_classes=CLASSES)
        nn.init.normal_(model.fc.weight, std=0.5)  # scores that differ from class to class
        compare(f"{name}, random", model, [random_views(size_px) for _ in range(clips)], device)


def compare(name: str, model: nn.Module, views: Sequence[Views], device: torch.device) -> None:
    model.to(device).eval()
    exact_NV = scores(model, views, device, "fp32")
    margin = np.diff(np.sort(exact_NV, axis=1)[:, -2:], axis=1)
    print(f"{name}, {device.type}, {len(exact_NV)} videos, median margin of the best class {np.median(margin):.3f}")
    lower: tuple[Precision, ...] = ("bf16", "fp16")
    for precision in lower:
        found_NV = scores(model, views, device, precision)
        apart_NV = np.abs(found_NV - exact_NV)
        equal = (found_NV.argmax(axis=1) == exact_NV.argmax(axis=1)).mean()
        print(f"  {precision}: max {apart_NV.max():.1e}, mean {apart_NV.mean():.1e}, equal top-1 {equal:.2%}")


def scores(model: nn.Module, views: Sequence[Views], device: torch.device, precision: Precision) -> NDArray[np.float32]:
    """Return the softmax scores of every video, mean over its views: (N, V)."""
    with torch.inference_mode(), autocast(device, precision):
        rows = [row for views_BTHWC, num in views for row in score(model, views_BTHWC.to(device), num)]
    return np.stack([row["scores"] for row in rows])


def views_of(run: Path, places: Sequence[str]) -> list[Views]:
    card = read_card(weights_of(run))
    items = tuple(item_of(path) for place in places for path in find_media(place))
    plan = ViewPlan(card.sampling, card.crop_px, card.views, "normal", seed=0)
    videos = [Chunk(0, at, at + 1) for at in range(len(items))]
    chunks = ViewChunks(FileClips(Path(), items, card.classes), plan, videos)
    read = (chunks[at]["views"] for at in range(len(items)))
    return [(views_BTHWC, 1) for views_BTHWC in read if views_BTHWC is not None]


def random_views(size_px: int) -> Views:
    """A picture of coarse random squares that moves sideways."""
    squares_HWC = torch.randint(0, 256, (size_px // 16, size_px // 16, 3), dtype=torch.uint8)
    picture_HWC = squares_HWC.repeat_interleave(16, dim=0).repeat_interleave(16, dim=1)
    step_px = int(torch.randint(-8, 9, ()))
    return torch.stack([picture_HWC.roll(step_px * t, dims=1) for t in range(FRAMES)])[None], 1


if __name__ == "__main__":
    main()
