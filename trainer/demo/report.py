"""The demo's report: its videos, the outputs of the tokenizer and the pretrained model, and the accuracies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bevt_core.dataset.token_set import TokenSet
from bevt_core.masking import tube
from bevt_core.models.bevt import Bevt
from bevt_core.reporting.charts import curves_png
from bevt_core.reporting.page import Page
from bevt_core.reporting.pictures import png, sheet
from bevt_core.rng import rng_for
from bevt_core.tokenizers import load_tokenizer
from bevt_core.views.replay import apply_view
from bevt_core.weights.model_files import load_weights
from trainer.metrics.log import read_metrics
from trainer.pretrain.pictures import prediction_rows

SAMPLES = 4  # per picture
CLIP_FRAMES = 8


def write_report(out: Path, steps_done: Sequence[tuple[str, float | None]], results: dict[str, dict[str, Any]]) -> Path:
    """Write `out/report.html` from the datasets and runs of the demo; return its path.

    `steps_done` are the commands with their seconds, None for those of an earlier call.
    """
    page = Page("bevt demo")
    page.text(
        "Eight camera motions over photographs; test photographs are not training photographs. "
        "The motion is the class, so a single frame does not show it."
    )
    page.heading("Accuracy on videos of other photographs")
    page.table(
        ["frames given to the classifier", "top-1", "videos"],
        [(name, result["top1"], result["num_videos"]) for name, result in results.items()],
    )
    page.heading("Commands")
    page.table(["command", "seconds"], [(command, "done earlier" if s is None else s) for command, s in steps_done])

    videos = TokenSet(out / "train" / "tokens" / "dvae-v2")
    tokenizer = load_tokenizer(str(out / "runs" / "dvae" / "tokenizer"))
    page.heading("Source frames")
    page.picture(png(_classes_sheet(videos)), "one video per class, in time order")
    page.heading("Frame, view, decoded tokens")
    page.picture(
        png(_views_sheet(videos, tokenizer)), "stored frame | its two views | the tokens of these views decoded"
    )
    page.heading("Masked tubes and the model's predictions for them")
    page.picture(
        png(_predictions_sheet(videos, tokenizer, out / "runs" / "joint" / "weights.safetensors")),
        "per sample: clip | masked tubes | predicted tokens decoded (visible ones: true) | true tokens decoded",
    )
    page.heading("Loss curves")
    for run, keys in (
        ("dvae", ("loss",)),
        ("image", ("mim_loss",)),
        ("joint", ("mim_loss", "mvm_loss")),
        ("finetune", ("loss",)),
    ):
        lines = read_metrics(out / "runs" / run)
        steps = [line["step"] for line in lines]
        series = {key: (steps, [line[key] for line in lines]) for key in keys}
        page.picture(curves_png(series, "step", "loss"), run)
    path = out / "report.html"
    page.save(path)
    return path


def _classes_sheet(videos: TokenSet) -> np.ndarray:
    classes = videos.frames.manifest.classes
    index = videos.frames.index.select(["part", "frame_start", "label"]).to_pylist()
    rows = []
    for label in range(len(classes)):
        row = next(row for row in index if row["label"] == label)
        rows.append(videos.frames.read_frames(row["part"], row["frame_start"], CLIP_FRAMES))
    return sheet(rows, list(classes))


def _views_sheet(videos: TokenSet, tokenizer: Any) -> np.ndarray:
    index = videos.frames.index.slice(0, SAMPLES).to_pylist()
    part_views = [videos.read_view(0, view) for view in range(videos.manifest.views.num_views)]
    rows = []
    for i, row in enumerate(index):
        frame = videos.frames.read_frames(row["part"], row["frame_start"], 1)[0]
        views = [apply_view(frame, part.views[i]) for part in part_views]
        tokens = torch.from_numpy(np.stack([part.tokens[i][0] for part in part_views]).astype(np.int64))
        rows.append([frame, *views, *tokenizer.decode(tokens).numpy()])
    return sheet(rows, [row["source"] for row in index])


def _predictions_sheet(videos: TokenSet, tokenizer: Any, weights: Path) -> np.ndarray:
    model = load_weights(weights).eval()
    assert isinstance(model, Bevt)
    index = videos.frames.index.slice(0, SAMPLES).to_pylist()
    part = videos.read_view(0, 0)
    rows, labels = [], []
    for i, row in enumerate(index):
        frames = videos.frames.read_frames(row["part"], row["frame_start"], CLIP_FRAMES)
        clip_THWC = np.stack([apply_view(frame, part.views[i]) for frame in frames])
        tokens_THW = part.tokens[i][:CLIP_FRAMES].astype(np.int64)
        T, rows_H, columns_W = tokens_THW.shape
        grid_THW = (T // model.config["patch"][0], rows_H, columns_W)
        mask_THW = tube(rng_for("report", i), grid_THW, rows_H * columns_W // 2, min_block=4)
        clip, tokens, mask = (torch.from_numpy(array) for array in (clip_THWC, tokens_THW, mask_THW))
        drawn, (_, *what) = prediction_rows(model, tokenizer, clip, tokens, mask, "video")
        rows += drawn
        labels += [row["source"], *what]
    return sheet(rows, labels)
