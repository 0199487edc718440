"""`report.html` of a tokenization job: throughput, rejected sources, sizes, codebook use and a contact sheet.

Everything is read part by part, from a bounded number of parts spread evenly over the dataset. The page is not part of
the dataset: it is excluded from every digest, and its throughput differs from run to run.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bevt_core.console.explained import EXPLAINED
from bevt_core.console.readable import labels, percent, shown
from bevt_core.dataset.commits import part_name, stored_bytes
from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet
from bevt_core.reporting.charts import curves_png, histograms_png
from bevt_core.reporting.page import Page, relinked
from bevt_core.reporting.pictures import png
from bevt_core.storage.files import map_in_threads, read_record, write_atomic
from bevt_core.storage.objects import AnyPath, as_path
from bevt_core.untrusted.parquet_file import read_table
from pipeline.look.contact_sheet import chosen_samples, draw, spread
from pipeline.look.sample import decoder_of
from schemas.frames import FramePartCommit

REPORT = "report.html"
TOKEN_PAGES = f"tokens/*/{REPORT}"
TOKEN_SETS_HEADING = "Token sets of these frames:"
INDEX_PARTS = 1000  # parts whose index is read for the histograms
PARTS_AT_ONCE = 64  # parts read at a time, until there are enough examples of rejected sources
CODEBOOK_PARTS = 64  # parts whose tokens are counted: 25 million tokens of each view of K400
EXAMPLES = 3  # rejected sources listed per reason
SHAPES = 8  # number of frame sizes listed
TIME_BINS, PARTS_PER_BIN = 60, 4  # bins of the throughput curve: their maximum, and the parts in each


def report_job(summary: Mapping[str, Any], timeline: Sequence[tuple[float, int]]) -> dict[str, str | None]:
    """Write the report pages of a job: the frame store's page beside the store, the token set's in the set's folder.

    An existing page is kept if this run made nothing new for it; only the links to the token sets' pages are updated.
    `summary` is the job's summary; `timeline` has (seconds since the start, sources) of each part made by this run.
    Returns `report`, the path of the token set's page, or of the frames' page if the job made no tokens, and
    `report_error`: a finished job does not fail because of its report.
    """
    frames_dir, tokens_dir = as_path(summary["frames_dir"]), summary["tokens_dir"]
    frames_page = frames_dir.parent / REPORT
    page, error = frames_page, None
    try:
        if summary["frame_parts_done_before"] < summary["parts"] or not frames_page.exists():
            write_frames_report(frames_page, frames_dir, summary, timeline)
        if tokens_dir is not None:
            page = as_path(tokens_dir) / REPORT
            if timeline or not page.exists():
                write_tokens_report(page, as_path(tokens_dir), summary, timeline)
                html = frames_page.read_text()
                write_atomic(frames_page, relinked(html, TOKEN_SETS_HEADING, _token_pages(frames_dir.parent)).encode())
    except Exception as reason:  # noqa: BLE001 - whatever failed, the dataset is complete
        error = f"{type(reason).__name__}: {reason}"
    return {"report": None if error else str(page), "report_error": error}


def write_frames_report(
    path: AnyPath, frames_dir: AnyPath, summary: Mapping[str, Any], timeline: Sequence[tuple[float, int]]
) -> None:
    """Write the page of a finished frame store; `summary` and `timeline` as in `report_job`."""
    store = FrameStore(frames_dir)
    page = Page(f"bevt tokenize: {store.manifest.dataset} {store.manifest.split}, frames")
    page.links(TOKEN_SETS_HEADING, _token_pages(frames_dir.parent))
    _job(page, summary, timeline)
    _rejected(page, store)
    _sizes(page, store)
    _contact_sheet(page, store, None)
    page.save(path)


def write_tokens_report(
    path: AnyPath, tokens_dir: AnyPath, summary: Mapping[str, Any], timeline: Sequence[tuple[float, int]]
) -> None:
    """Write the page of a finished token set; `summary` and `timeline` as in `report_job`."""
    token_set = TokenSet(tokens_dir)
    store = token_set.frames
    page = Page(f"bevt tokenize: {store.manifest.dataset} {store.manifest.split}, token set {tokens_dir.name}")
    page.links("Rejected sources, durations and sizes:", {"the frames' report": f"../../{REPORT}"})
    _job(page, summary, timeline)
    _codebook(page, token_set)
    _contact_sheet(page, store, token_set)
    page.save(path)


def _token_pages(dataset_dir: AnyPath) -> dict[str, str]:
    """The pages of a dataset's token sets, by name; paths are relative to the frames' page."""
    pages: list[AnyPath] = list(dataset_dir.glob(TOKEN_PAGES))
    names = sorted(page.parent.name for page in pages)
    return {name: f"tokens/{name}/{REPORT}" for name in names}


# ---- sections --------------------------------------------------------------------------------------------------------


def _job(page: Page, summary: Mapping[str, Any], timeline: Sequence[tuple[float, int]]) -> None:
    page.heading("The job")
    page.table(["", ""], _facts(summary))
    page.heading("Throughput")
    made, before = len(timeline), summary["parts_done_before"]
    page.text(f"This run made {made} of {summary['parts']} parts; {before} were finished before.")
    if made < 2:
        return
    ended_s, sources = (np.array(column, dtype=np.float64) for column in zip(*timeline, strict=True))
    edges = np.linspace(0, ended_s.max(), min(TIME_BINS, -(-made // PARTS_PER_BIN)) + 1)
    rate = np.histogram(ended_s, edges, weights=sources)[0] / np.diff(edges)
    unit_s, unit = next(((s, name) for s, name in ((3600, "hours"), (60, "minutes")) if edges[-1] > s), (1, "seconds"))
    middles = (edges[1:] + edges[:-1]) / 2 / unit_s
    mean = np.full_like(rate, sources.sum() / edges[-1])
    series = {"finished in this interval": (middles, rate), "mean": (middles, mean)}
    page.chart(curves_png(series, unit, "sources / s"), "sources finished per second, over the time of this run")


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
        tables = map_in_threads(
            lambda part: read_table(store.path / part_name(part) / "rejected.parquet"), parts, store.path
        )
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
    page.table(["reason", "example", "stage", "message", "attempts"], rows)
    page.text("All rejected sources are in frames/part-*/rejected.parquet.")


def _sizes(page: Page, store: FrameStore) -> None:
    page.heading("Durations and sizes")
    parts = spread(store.manifest.num_parts, INDEX_PARTS)
    seconds: list[float] = []
    frames: list[int] = []
    frame_kb: list[float] = []
    shapes: dict[tuple[int, int], int] = {}

    def read_part(part: int) -> tuple[pa.Table, FramePartCommit | None]:
        return store.read_index(part), read_record(store.path / part_name(part) / "commit.json", FramePartCommit)

    for table, commit in map_in_threads(read_part, parts, store.path):
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
    panels = {"kB on disk per stored frame, with padding, mean of a part": (np.array(frame_kb), "parts")}
    if max(frames) > 1:  # else the samples are images
        panels["time of a sample's last frame in its video, s"] = (np.array(seconds), "samples")
        panels["stored frames per sample"] = (np.array(frames), "samples")
    page.chart(histograms_png(panels), "distributions over parts and samples")
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
        f"Counted in the tokens of {len(parts)} of {token_set.manifest.num_parts} parts. Perplexity: the number of "
        "equally frequent codes with the same entropy."
    )
    if not totals.any():
        return
    rows = [
        (
            view,
            f"{ids_V.sum():,}",
            f"{(ids_V > 0).sum():,}",
            percent((ids_V > 0).mean()),
            float(perplexity(torch.tensor(ids_V))),
        )
        for view, ids_V in enumerate(counts)
    ]
    page.table(["view", "tokens", "codes in use", "share of the codebook", "perplexity"], rows)
    ranks = np.arange(1, counts.shape[1] + 1)
    shares = np.sort(counts, axis=1)[:, ::-1] / totals[:, None]
    drawn = {f"view {view}": (ranks, share) for view, share in enumerate(shares)}
    page.chart(
        curves_png(drawn, "rank of a code by use", "share of the tokens", log="xy"),
        "codebook use by view: the share of tokens with the most frequent code, the second most frequent, ...",
    )


def _contact_sheet(page: Page, store: FrameStore, token_set: TokenSet | None) -> None:
    page.heading("Contact sheet")
    shown = chosen_samples(store, token_set)
    if not shown:
        page.text("There is no sample to show.")
        return
    decoder = None if token_set is None else decoder_of(token_set, None)
    caption = f"{len(shown)} of {store.manifest.num_samples} samples, spread over the set: a stored frame"
    if token_set is not None:
        caption += " | one of its views" + (
            f" | the tokens of the view, {_way(decoder)}" if decoder is not None else ""
        )
        if decoder is None:
            page.text("Tokens are not decoded: the tokenizer was not found.")
    page.picture(png(draw(shown, decoder)), caption)


def _way(decoder: Any) -> str:
    from bevt_core.tokenizers.mosaics import Mosaic

    return "each as the mean of its patches" if isinstance(decoder, Mosaic) else "decoded"


# ---- counts ----------------------------------------------------------------------------------------------------------


def count_tokens(token_set: TokenSet, parts: Sequence[int]) -> np.ndarray:
    """How often each id occurs in each view of these parts: int64 (views, vocabulary)."""
    manifest = token_set.manifest
    counts = np.zeros((manifest.views.num_views, manifest.tokenizer.vocab_size), dtype=np.int64)
    for part in parts:
        for view, ids_V in enumerate(counts):
            for tokens_Fhw in token_set.read_view(part, view).tokens:
                ids_V += np.bincount(tokens_Fhw.reshape(-1), minlength=len(ids_V))
    return counts


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the known values with the names, units and explanations that the terminal shows."""
    known = {key: value for key, value in summary.items() if value is not None}
    named = labels(known)
    words = {key: f" ({EXPLAINED[key]})" for key in known if key in EXPLAINED}
    return [(named[key].replace("_", " "), _cell_text(key, value) + words.get(key, "")) for key, value in known.items()]


def _cell_text(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {count:,}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(str, value)) or "none"
    return shown(key, value)
