"""`report.html` of a tokenization job: what was rejected, how fast it went, sizes, and what the tokens look like.

Everything is read part by part, from a bounded number of parts spread evenly over the dataset. The page is no part of
the dataset: no digest has it, and its throughput differs from run to run.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bevt_core.charts import curves_png, histograms_png
from bevt_core.files import each, read_record
from bevt_core.objects import AnyPath, as_path
from bevt_core.pictures import fitted, png, sheet
from bevt_core.report import Page
from bevt_core.shards import FrameStore, TokenSet, part_name
from bevt_core.tables import read_table
from bevt_core.views import apply_view
from pipeline.bench_store import stored_bytes
from pipeline.inspect_row import decoder_of
from schemas.frames import FramePartCommit

REPORT = "report.html"
INDEX_PARTS = 1000  # whose indices are read for the histograms
PARTS_AT_ONCE = 64  # that are looked at for examples of the rejected, before it is asked whether they are enough
CODEBOOK_PARTS = 64  # whose tokens are counted: 25 million of each view of K400
EXAMPLES = 3  # of sources rejected for a reason
SAMPLES, SHEET_VIEWS, CELL_PX = 6, 3, 160  # of the contact sheet
SHAPES = 8  # frame sizes that are listed
TIME_BINS, PARTS_PER_BIN = 60, 4  # of the throughput: at most, and about as many as that


def report_job(summary: Mapping[str, Any], timeline: Sequence[tuple[float, int]]) -> dict[str, str | None]:
    """Write the page beside a job's frame store; where there is one and the job made nothing new, it stays.

    `summary` is the job's; `timeline` has (seconds since the run began, sources) of each part that this run made.
    Returns `report`, its path, and `report_error`: a finished job does not fail for its pictures.
    """
    frames_dir, tokens_dir = as_path(summary["frames_dir"]), summary["tokens_dir"]
    path = frames_dir.parent / REPORT
    error = None
    if timeline or not path.exists():
        try:
            write_report(path, frames_dir, None if tokens_dir is None else as_path(tokens_dir), summary, timeline)
        except Exception as reason:  # noqa: BLE001 - whatever it is, the dataset is whole
            error = f"{type(reason).__name__}: {reason}"
    return {"report": None if error else str(path), "report_error": error}


def write_report(
    path: AnyPath,
    frames_dir: AnyPath,
    tokens_dir: AnyPath | None,
    summary: Mapping[str, Any],
    timeline: Sequence[tuple[float, int]],
) -> None:
    """Write the page of a finished frame store and token set; the rest as in `report_job`."""
    store = FrameStore(frames_dir)
    token_set = None if tokens_dir is None else TokenSet(tokens_dir)
    page = Page(f"bevt tokenize: {store.manifest.dataset} {store.manifest.split}")
    page.heading("The job")
    page.table(["", ""], [(key.replace("_", " "), _words(value)) for key, value in summary.items()])
    _throughput(page, timeline, summary)
    _rejected(page, store)
    _sizes(page, store)
    if token_set is not None:
        _codebook(page, token_set)
    _contact_sheet(page, store, token_set)
    page.save(path)


# ---- its sections ----------------------------------------------------------------------------------------------------


def _throughput(page: Page, timeline: Sequence[tuple[float, int]], summary: Mapping[str, Any]) -> None:
    page.heading("Throughput")
    made, before = len(timeline), summary["parts_done_before"]
    page.text(f"This run made {made} of {summary['parts']} parts; {before} were there before it.")
    if made < 2:
        return
    ended_s, sources = (np.array(column, dtype=np.float64) for column in zip(*timeline, strict=True))
    edges = np.linspace(0, ended_s.max(), min(TIME_BINS, -(-made // PARTS_PER_BIN)) + 1)
    rate = np.histogram(ended_s, edges, weights=sources)[0] / np.diff(edges)
    unit_s, unit = next((s, name) for s, name in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if edges[-1] > s)
    middles = (edges[1:] + edges[:-1]) / 2 / unit_s
    mean = np.full_like(rate, sources.sum() / edges[-1])
    series = {"finished in this interval": (middles, rate), "mean": (middles, mean)}
    page.picture(curves_png(series, unit, "sources / s"), "sources finished over the time of this run, part by part")


def _rejected(page: Page, store: FrameStore) -> None:
    page.heading("Rejected")
    wanted = store.manifest.rejected
    if not wanted:
        page.text("No source was rejected.")
        return
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in wanted}
    for first in range(0, store.manifest.num_parts, PARTS_AT_ONCE):
        if all(len(rows) >= min(EXAMPLES, wanted[reason]) for reason, rows in examples.items()):
            break
        parts = range(first, min(first + PARTS_AT_ONCE, store.manifest.num_parts))
        tables = each(lambda part: read_table(store.path / part_name(part) / "rejected.parquet"), parts, store.path)
        for row in itertools.chain.from_iterable(table.to_pylist() for table in tables):
            if len(examples[row["reason"]]) < EXAMPLES:
                examples[row["reason"]].append(row)
    by_count = sorted(wanted.items(), key=lambda item: (-item[1], item[0]))
    page.table(["reason", "sources"], by_count)
    rows = [
        (reason, row["source"], row["stage"], row["message"], row["attempts"])
        for reason, _ in by_count
        for row in examples[reason]
    ]
    page.table(["reason", "for example", "stage", "message", "attempts"], rows)
    page.text("All of them are in frames/part-*/rejected.parquet.")


def _sizes(page: Page, store: FrameStore) -> None:
    page.heading("Durations and sizes")
    parts = spread(store.manifest.num_parts, INDEX_PARTS)
    seconds: list[float] = []
    frames: list[int] = []
    frame_kb: list[float] = []
    shapes: dict[tuple[int, int], int] = {}

    def look(part: int) -> tuple[pa.Table, FramePartCommit | None]:
        folder = store.path / part_name(part)
        table = read_table(folder / "index.parquet", columns=["num_frames", "times_s", "height", "width"])
        return table, read_record(folder / "commit.json", FramePartCommit)

    for table, commit in each(look, parts, store.path):
        if not len(table):
            continue
        counts = table["num_frames"].to_pylist()
        frames += counts
        seconds += [times[-1].as_py() for times in table["times_s"]]
        for shape in zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True):
            shapes[shape] = shapes.get(shape, 0) + 1
        assert commit is not None, "the store is finished"
        frame_kb.append(stored_bytes(commit) / sum(counts) / 1000)
    page.text(f"From {len(frames)} samples in {len(parts)} of {store.manifest.num_parts} parts.")
    if not frames:
        return
    panels = {"kB of a stored frame, mean of a part": (np.array(frame_kb), "parts")}
    if max(frames) > 1:  # else they are pictures
        panels["s from the video's start to a sample's last frame"] = (np.array(seconds), "samples")
        panels["stored frames of a sample"] = (np.array(frames), "samples")
    page.picture(histograms_png(panels), "how many parts, or samples, have how much")
    common = sorted(shapes.items(), key=lambda item: (-item[1], item[0]))
    listed = [(f"{width} x {height}", count) for (width, height), count in common[:SHAPES]]
    rest = sum(count for _, count in common[SHAPES:])
    page.table(["stored size, px", "samples"], [*listed, *([(f"{len(common) - SHAPES} others", rest)] if rest else [])])


def _codebook(page: Page, token_set: TokenSet) -> None:
    import torch

    from bevt_core.tokenizers.codes import perplexity

    page.heading("Codebook")
    parts = spread(token_set.manifest.num_parts, CODEBOOK_PARTS)
    counts = count_tokens(token_set, parts)
    totals = counts.sum(axis=1)
    page.text(
        f"From the tokens of {len(parts)} of {token_set.manifest.num_parts} parts. Perplexity: how many ids in "
        "equal use would be as varied."
    )
    if not totals.any():
        return
    rows = [
        (
            view,
            int(ids_V.sum()),
            int((ids_V > 0).sum()),
            float((ids_V > 0).mean()),
            float(perplexity(torch.tensor(ids_V))),
        )
        for view, ids_V in enumerate(counts)
    ]
    page.table(["view", "tokens", "ids in use", "share of the codebook", "perplexity"], rows)
    ranks = np.arange(1, counts.shape[1] + 1)
    shares = np.sort(counts, axis=1)[:, ::-1] / totals[:, None]
    drawn = {f"view {view}": (ranks, share) for view, share in enumerate(shares)}
    page.picture(
        curves_png(drawn, "rank of an id by use", "share of the tokens", log="xy"),
        "codebook histogram of each view: the share of the tokens that the most used id has, the second, ...",
    )


def _contact_sheet(page: Page, store: FrameStore, token_set: TokenSet | None) -> None:
    page.heading("Contact sheet")
    samples = [
        shown for part in spread(store.manifest.num_parts, SAMPLES) if (shown := _sample(store, token_set, part))
    ]
    if not samples:
        page.text("There is no sample to show.")
        return
    decoder = None if token_set is None else decoder_of(token_set, None)
    caption = "stored frame"
    if token_set is not None:
        caption += " | for each view: the view of it" + (", its tokens decoded" if decoder is not None else "")
        if decoder is None:
            page.text("Tokens are not decoded: the tokenizer is not here, or has no decoder.")
    if decoder is not None:
        import torch

        ids_Nhw = torch.from_numpy(np.stack([tokens_hw for shown in samples for tokens_hw in shown.tokens]))
        decoded = iter(decoder.decode(ids_Nhw).cpu().numpy())
    rows = []
    for shown in samples:
        cells = [shown.frame]
        for view_HWC in shown.views:
            cells += [view_HWC] if decoder is None else [view_HWC, next(decoded)]
        rows.append([fitted(cell, CELL_PX) for cell in cells])
    page.picture(png(sheet(rows, [shown.sample_id for shown in samples], CELL_PX)), caption)


@dataclass(frozen=True)
class _Shown:
    """The middle frame of a sample, under a few of its views, with their tokens."""

    sample_id: str
    frame: np.ndarray
    views: list[np.ndarray]
    tokens: list[np.ndarray]  # int64 (h, w) of each view


def _sample(store: FrameStore, token_set: TokenSet | None, part: int) -> _Shown | None:
    """The sample in the middle of a part; None where everything in it was rejected."""
    index = store.read_index(part)
    if not len(index):
        return None
    row = len(index) // 2
    sample = index.slice(row, 1).to_pylist()[0]
    middle = sample["num_frames"] // 2
    frame = store.read_frames(part, sample["frame_start"] + middle, 1)[0]
    if token_set is None:
        return _Shown(sample["sample_id"], frame, [], [])
    stored = [token_set.read_view(part, view) for view in spread(token_set.manifest.views.num_views, SHEET_VIEWS)]
    return _Shown(
        sample["sample_id"],
        frame,
        [apply_view(frame, part_view.views[row]) for part_view in stored],
        [part_view.tokens[row][middle].astype(np.int64) for part_view in stored],
    )


# ---- what they count -------------------------------------------------------------------------------------------------


def count_tokens(token_set: TokenSet, parts: Sequence[int]) -> np.ndarray:
    """How often each id occurs in each view of these parts: int64 (views, vocabulary)."""
    manifest = token_set.manifest
    counts = np.zeros((manifest.views.num_views, manifest.tokenizer.vocab_size), dtype=np.int64)
    for part in parts:
        for view, ids_V in enumerate(counts):
            for tokens_Fhw in token_set.read_view(part, view).tokens:
                ids_V += np.bincount(tokens_Fhw.reshape(-1), minlength=len(ids_V))
    return counts


def spread(count: int, most: int) -> list[int]:
    """At most `most` of the numbers 0..count-1, evenly spread, increasing."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)).tolist()


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {count}" for key, count in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
