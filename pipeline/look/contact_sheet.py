"""A picture of a dataset's samples: for each, a stored frame, one of its views, and the view's tokens decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from bevt_core.console.inert import one_line
from bevt_core.dataset.commits import COMMIT, part_name
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.reporting.pictures import GAP_PX, broken, fitted, sheet, tiled
from bevt_core.storage.files import map_in_threads, read_record
from bevt_core.views.replay import apply_view
from schemas.frames import FramePartCommit

if TYPE_CHECKING:
    from bevt_core.tokenizers.mosaics import Decoder  # imports torch

SAMPLES = 24
MAX_PARTS_COUNTED = 1000  # maximum number of parts whose commits are read
MIN_PARTS_READ = 12  # more only if needed: parts on an object store are downloaded whole
ACROSS, ACROSS_FRAMES = 3, 6  # samples side by side: with tokens, and frames only
WIDTH_PX = 1008  # total, of all cells side by side


@dataclass(frozen=True)
class SheetSample:
    """The middle frame of a sample, one of its views, and its tokens; the last two are None without a token set."""

    label: str
    frame_HWC: np.ndarray
    view_HWC: np.ndarray | None
    tokens_hw: np.ndarray | None  # int64


def chosen_samples(store: FrameStore, token_set: TokenSet | None, most: int = SAMPLES) -> list[SheetSample]:
    """At most `most` samples, spread evenly over the dataset, the same ones on every call.

    The views alternate from sample to sample. A part's frames, index and views are read once.
    """
    chosen = spread_rows(few_parts(samples_by_part(store), most), most)
    shown = []
    num_views = 0 if token_set is None else token_set.manifest.views.num_views
    for part, rows_of_part in groupby(enumerate(chosen), key=lambda item: item[1][0]):
        index = store.read_index(part)
        for number, (_, row) in rows_of_part:
            sample = index.slice(row, 1).to_pylist()[0]
            name, middle = one_line(sample["sample_id"]), sample["num_frames"] // 2
            frame_HWC = store.read_frames(part, sample["frame_start"] + middle, 1)[0]
            if token_set is None:
                shown.append(SheetSample(name, frame_HWC, None, None))
                continue
            view = number % num_views
            stored = token_set.read_view(part, view)
            label = f"{name}, view {view}"
            tokens_hw = stored.tokens[row][middle].astype(np.int64)
            shown.append(SheetSample(label, frame_HWC, apply_view(frame_HWC, stored.views[row]), tokens_hw))
    return shown


def samples_by_part(store: FrameStore) -> dict[int, int]:
    """Part -> its number of samples, without empty parts, in order; for at most MAX_PARTS_COUNTED parts."""

    def commit_of(part: int) -> FramePartCommit | None:
        return read_record(store.path / part_name(part) / COMMIT, FramePartCommit)

    commits = map_in_threads(commit_of, spread(store.manifest.num_parts, MAX_PARTS_COUNTED), store.path)
    return {commit.part: commit.num_samples for commit in commits if commit is not None and commit.num_samples}


def few_parts(counts: dict[int, int], most: int) -> dict[int, int]:
    """The smallest evenly spread selection of parts with `most` rows in total and at least MIN_PARTS_READ parts.

    All parts if no selection suffices. `counts` has the rows per part.
    """
    parts = list(counts)
    for number in range(MIN_PARTS_READ, len(parts)):
        chosen = {parts[at]: counts[parts[at]] for at in spread(len(parts), number)}
        if sum(chosen.values()) >= most:
            return chosen
    return counts


def spread_rows(counts: dict[int, int], most: int) -> list[tuple[int, int]]:
    """At most `most` (part, row) pairs, in order, spread evenly over all rows; `counts` has the rows per part."""
    parts = list(counts)
    ends = np.cumsum(list(counts.values()), dtype=np.int64)
    positions = spread(int(ends[-1]) if parts else 0, most)
    found = np.searchsorted(ends, positions, side="right").tolist()
    return [
        (parts[at], position - int(ends[at]) + counts[parts[at]]) for at, position in zip(found, positions, strict=True)
    ]


def draw(shown: Sequence[SheetSample], decoder: "Decoder | None") -> np.ndarray:
    """Draw the samples, at least one, in a grid, each with its label above its cells: uint8 (H, W, 3)."""
    rows = [[sample.frame_HWC, *([] if sample.view_HWC is None else [sample.view_HWC])] for sample in shown]
    tokens = [sample.tokens_hw for sample in shown if sample.tokens_hw is not None]
    if decoder is not None and tokens:
        import torch

        decoded = decoder.decode(torch.from_numpy(np.stack(tokens))).cpu().numpy()
        rows = [[*row, decoded_HWC] for row, decoded_HWC in zip(rows, decoded, strict=True)]
    across = ACROSS_FRAMES if shown[0].view_HWC is None else ACROSS
    cell_px = WIDTH_PX // (across * len(rows[0]))
    labels = broken([sample.label for sample in shown], len(rows[0]) * (cell_px + GAP_PX) - GAP_PX)
    blocks = [
        sheet([[fitted(cell, cell_px) for cell in row]], [label], cell_px)
        for row, label in zip(rows, labels, strict=True)
    ]
    return tiled(blocks, min(across, len(blocks)))


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..count-1, evenly spread and increasing."""
    chosen: list[int] = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)).tolist()
    return chosen
