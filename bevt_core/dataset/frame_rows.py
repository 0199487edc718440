"""Checks of the rows of a frame store's index.

A dataset may be untrusted, so rows are checked before they are used as positions or sizes.
Legend: N samples of an index, V values of a list column, over all samples.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bevt_core.storage.objects import AnyPath
from schemas.errors import DAMAGED, UserError
from schemas.frames import INDEX_SCHEMA, MAX_FRAMES, FrameStoreManifest

Ranges = Mapping[str, tuple[int, int | None]]  # column -> least value, greatest value if there is one

RANGES: Ranges = {
    "num_frames": (0, MAX_FRAMES),
    "frame_start": (0, MAX_FRAMES),
    "height": (1, None),
    "width": (1, None),
}


class BadRow(UserError):
    """A row of a dataset's file has an impossible value. The message names the file, the sample and the value."""


def check_index(index: pa.Table, path: AnyPath, num_classes: int | None = None) -> pa.Table:
    """Check the index of a frame part, read from `path`, and return it. Raises BadRow, naming row, sample and value.

    Labels are checked only if `num_classes` is given.
    """
    if not index.schema.equals(INDEX_SCHEMA):
        raise BadRow(f"{path}: the columns are not those of a frame store's index; {DAMAGED}")
    _check_ranges(index, path, RANGES if num_classes is None else {**RANGES, "label": (0, num_classes - 1)})
    check_ids(index.append_column("part", pa.array(np.zeros(len(index), np.int32))), lambda part: path)
    _check_lists(index, path)
    return index


def check_samples(samples: pa.RecordBatch, path: AnyPath, manifest: FrameStoreManifest) -> None:
    """Check the table of all samples, read from `path`, against the store's manifest. Raises BadRow.

    Repeated ids are not looked for: they were when the table was made, and `bevt verify` does so again.
    """
    if len(samples) != manifest.num_samples or any(
        samples[field.name].null_count for field in samples.schema if not field.nullable
    ):
        raise BadRow(f"{path}: {len(samples)} rows, expected {manifest.num_samples} without nulls; {DAMAGED}")
    more = {"part": (0, manifest.num_parts - 1), "span": (0, None), "label": (0, len(manifest.classes) - 1)}
    _check_ranges(samples, path, {**RANGES, **more})
    part_N, count_N = samples["part"].to_numpy(), samples["num_frames"].to_numpy()
    for row in (1 + np.flatnonzero(np.diff(part_N) < 0))[:1].tolist():
        raise _bad_row(samples, path, row, f"part {part_N[row]} after {part_N[row - 1]}, expected them in order")
    before_N = np.cumsum(count_N, dtype=np.int64) - count_N
    start_N = before_N - before_N[np.searchsorted(part_N, part_N)] if len(part_N) else before_N
    for row in np.flatnonzero(samples["frame_start"].to_numpy() != start_N)[:1].tolist():
        what = f"frame_start {samples['frame_start'][row]}, expected {start_N[row]}, the frames before it in its part"
        raise _bad_row(samples, path, row, what)


def _check_ranges(rows: pa.Table | pa.RecordBatch, path: AnyPath, ranges: Ranges) -> None:
    for column, (low, high) in ranges.items():
        known, values = rows[column].is_valid().to_numpy(zero_copy_only=False), rows[column].fill_null(low).to_numpy()
        wrong = np.flatnonzero(known & ((values < low) | (values > (np.inf if high is None else high))))
        if len(wrong):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise _bad_row(rows, path, int(wrong[0]), f"{column} {values[wrong[0]]}, expected {expected}")


def check_ids(index: pa.Table | pa.RecordBatch, path_of: Callable[[int], AnyPath]) -> None:
    """Raise BadRow if a sample id occurs twice. `path_of` maps a value of the column `part` to its file."""
    ids, part_N = index["sample_id"], index["part"].to_numpy()
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    number_N = pc.rank(ids, tiebreaker="min").to_numpy()  # equal for equal ids
    row = int(np.setdiff1d(np.arange(len(ids)), np.unique(number_N, return_index=True)[1])[0])  # first repetition
    start = int(np.searchsorted(part_N, part_N[row]))  # first row of its part
    what = "the sample id of an earlier row, expected each id once"
    raise _bad_row(index.slice(start), path_of(int(part_N[row])), row - start, what)


def _check_lists(index: pa.Table, path: AnyPath) -> None:
    """Raise BadRow unless each sample has one frame index and one time per frame, both in order."""
    count_N = index["num_frames"].to_numpy()
    for column, low in (("frame_indices", 0), ("times_s", -np.inf)):
        lists = index[column].combine_chunks()
        length_N = pc.list_value_length(lists).to_numpy()
        for row in np.flatnonzero(length_N != count_N)[:1].tolist():
            raise _bad_row(index, path, row, f"{length_N[row]} {column}, expected {count_N[row]}, one per frame")
        values = lists.flatten()
        value_V = values.to_numpy(zero_copy_only=False).astype(np.float64)  # a null becomes NaN
        row_V = np.repeat(np.arange(len(count_N)), length_N)
        falls_V = np.diff(value_V, prepend=-np.inf) < 0
        falls_V[1:] &= row_V[1:] == row_V[:-1]
        for at in np.flatnonzero(~np.isfinite(value_V) | (value_V < low) | falls_V)[:1].tolist():
            before = f" after {values[at - 1].as_py()}" if falls_V[at] else ""
            expected = "finite, non-decreasing numbers" if column == "times_s" else "non-decreasing numbers >= 0"
            what = f"{values[at].as_py()}{before} in {column}, expected {expected}"
            raise _bad_row(index, path, int(row_V[at]), what)


def _bad_row(index: pa.Table | pa.RecordBatch, path: AnyPath, row: int, what: str) -> BadRow:
    return BadRow(f"{path}: row {row}, sample {index['sample_id'][row].as_py()!r}, has {what}; {DAMAGED}")
