"""Tables and pictures from the scores of an evaluation: results per class, confusion matrix, calibration.

Legend: N videos, V classes, K bins. `confusion_VV[i, j]` counts videos of class i that were predicted as class j.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bevt_core.console.inert import csv_text
from bevt_core.reporting.charts import chart_png, legend_below, shortened
from bevt_core.reporting.plotting import new_figure
from bevt_core.storage.files import write_atomic
from bevt_core.untrusted.parquet_file import ParquetFile

BINS = 15  # of confidence; Guo et al. 2017, https://arxiv.org/abs/1706.04599
PER_CLASS = "per_class.csv"
# most classes for which the picture of the confusion matrix has names, and numbers of videos
NAMED_CLASSES, NUMBERED_CLASSES = 60, 25
NAME_INCHES = 0.07  # width of a character of a class name in that picture


def write_tables(scores: Path, classes: Sequence[str], out: Path) -> float:
    """Write the tables and pictures of `scores.parquet` to `out`; return the calibration error.

    Files: `per_class.csv`, `confusion.csv` and `.png`; `reliability.csv` and `.png`, accuracy by bins of confidence.

    One row group is read at a time, so memory does not grow with the number of videos.
    """
    confusion_VV = np.zeros((len(classes), len(classes)), np.int64)
    bins = np.zeros((3, BINS))  # rows: see `add_to_bins`
    with ParquetFile(scores) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["label", "prediction", "scores"]).drop_null()
            if not len(table):
                continue
            label, prediction = table["label"].to_numpy(), table["prediction"].to_numpy()
            np.add.at(confusion_VV, (label, prediction), 1)
            scores_NV = np.array(table["scores"].to_pylist())
            add_to_bins(bins, scores_NV.max(axis=1), label == prediction)
    write_atomic(out / PER_CLASS, csv_bytes(_per_class(confusion_VV, classes)))
    rows = [["true / predicted", *classes], *([name, *row] for name, row in zip(classes, confusion_VV, strict=True))]
    write_atomic(out / "confusion.csv", csv_bytes(rows))
    write_atomic(out / "confusion.png", confusion_picture(confusion_VV, classes))
    write_atomic(out / "reliability.csv", csv_bytes(_reliability(bins)))
    write_atomic(out / "reliability.png", reliability_picture(bins))
    return calibration_error(bins)


def add_to_bins(bins: NDArray[np.float64], confidence_N: NDArray[np.floating], right_N: NDArray[np.bool_]) -> None:
    """Add videos to `bins` (3, K) by their confidence, in place: number, sum of confidence, number recognised."""
    at = np.clip(np.ceil(confidence_N * bins.shape[1]).astype(np.int64) - 1, 0, bins.shape[1] - 1)
    for row, values in zip(bins, (np.ones(len(at)), confidence_N, right_N), strict=True):
        np.add.at(row, at, values)


def calibration_error(bins: NDArray[np.float64]) -> float:
    """Return the expected calibration error: |confidence - accuracy| by bins of confidence, mean over videos."""
    videos, confidence, right = bins
    return float(np.abs(confidence - right).sum() / max(videos.sum(), 1))


def reliability_picture(bins: NDArray[np.float64]) -> bytes:
    """Draw accuracy against confidence, and a histogram of confidence; return the bytes of a PNG file."""
    videos_K, confidence_K, right_K = bins
    used_K, width = videos_K > 0, 1 / len(videos_K)
    middle_K = (np.arange(len(videos_K)) + 0.5) * width
    figure = new_figure(4.5, 5.4)
    above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    above.bar(middle_K[used_K], (right_K / np.maximum(videos_K, 1))[used_K], width * 0.95, label="recognised")
    means = (confidence_K / np.maximum(videos_K, 1))[used_K], (right_K / np.maximum(videos_K, 1))[used_K]
    above.plot(*means, "k.", label="mean confidence", clip_on=False)
    above.plot([0, 1], [0, 1], "--", color="grey", label="perfectly calibrated")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1)
    above.set_ylabel("share recognised")
    above.set_title(f"expected calibration error {calibration_error(bins):.3f}", fontsize=10)
    below.bar(middle_K, videos_K, width * 0.95, color="grey")
    below.set_ylabel("videos")
    below.yaxis.get_major_locator().set_params(integer=True)
    below.set_xlabel("confidence: score of the predicted class")
    legend_below(figure, columns=3)
    return chart_png(figure)


def confusion_picture(confusion_VV: NDArray[np.int64], classes: Sequence[str]) -> bytes:
    """Draw the predictions as shares of every true class, darker for more; return the bytes of a PNG file.

    Up to NAMED_CLASSES classes have names on the axes, up to NUMBERED_CLASSES also the number of videos in every cell.
    """
    shares_VV = confusion_VV / np.maximum(confusion_VV.sum(axis=1, keepdims=True), 1)
    side = min(14.0, 3.5 + 0.25 * len(classes))  # inches
    names = [shortened(name) for name in classes] if len(classes) <= NAMED_CLASSES else []
    side += NAME_INCHES * max(map(len, names), default=0)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(shares_VV, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, label="share of the true class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if names:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(names)), names, fontsize=8, parse_math=False)
    if len(classes) <= NUMBERED_CLASSES:
        for (row, column), videos in np.ndenumerate(confusion_VV):
            if videos:
                color = "white" if shares_VV[row, column] > 0.5 else "black"
                axes.text(column, row, str(videos), ha="center", va="center", fontsize=8, color=color)
    return chart_png(figure)


def _reliability(bins: NDArray[np.float64]) -> list[list[object]]:
    """A row per bin of confidence: its bounds, number of videos, mean confidence, share recognised."""
    rows: list[list[object]] = [["from", "to", "videos", "confidence", "recognised"]]
    for at, (videos, confidence, right) in enumerate(bins.T):
        means = [f"{confidence / videos:.4f}", f"{right / videos:.4f}"] if videos else ["", ""]
        rows.append([f"{at / bins.shape[1]:.4f}", f"{(at + 1) / bins.shape[1]:.4f}", int(videos), *means])
    return rows


def _per_class(confusion_VV: NDArray[np.int64], classes: Sequence[str]) -> list[list[object]]:
    """A row per class: number of videos, number recognised, and the most frequent wrong prediction."""
    rows: list[list[object]] = [["class", "videos", "recognised", "top1", "mostly_taken_for", "times"]]
    for label, name in enumerate(classes):
        videos, right = int(confusion_VV[label].sum()), int(confusion_VV[label, label])
        wrong_V = confusion_VV[label].copy()
        wrong_V[label] = 0
        other = int(wrong_V.argmax())
        times = int(wrong_V[other])
        share = f"{right / videos:.4f}" if videos else ""
        rows.append([name, videos, right, share, classes[other] if times else "", times])
    return rows


def csv_bytes(rows: Sequence[Sequence[object]]) -> bytes:
    """Return rows as a CSV file in UTF-8; cells go through `csv_text`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(csv_text, row) for row in rows)
    return text.getvalue().encode()
