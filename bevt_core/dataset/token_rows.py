"""A row group of a token set: the views of a part's samples and their tokens, written, read and checked.

Tokens are later used as indices, and views as boxes in pictures. Unchecked, a wrong value would cause an IndexError or
a GPU fault that does not name the sample.
Legend: F frames, of one sample or of all samples of a part, h w token grid.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from bevt_core.dataset.frame_rows import FIX, BadRow
from bevt_core.storage.objects import AnyPath
from bevt_core.views.replay import scaled_size
from schemas.text.validation import describe
from schemas.tokens import TokenizerIdentity, token_schema
from schemas.views import View


@dataclass(frozen=True)
class PartView:
    """One view of all samples of a part, in index order; a row group of the part's Parquet file."""

    views: list[View]  # the geometry of each sample
    tokens: list[np.ndarray]  # of each sample: uint16 (F, h, w)


def token_table(schema: pa.Schema, sample_ids: Sequence[str], number: int, view: PartView) -> pa.Table:
    """The rows of view `number`, one per sample."""
    grid = schema.field("tokens").type.value_type.list_size
    lengths = [len(tokens) for tokens in view.tokens]
    flat = np.concatenate([tokens.reshape(-1) for tokens in view.tokens]) if view.tokens else np.zeros(0, np.uint16)
    frames = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.uint16()), grid)
    columns = {
        "sample_id": pa.array(sample_ids, pa.string()),
        "view": pa.array(np.full(len(sample_ids), number, np.int32)),
        **{
            name: pa.array([getattr(v, name) for v in view.views], schema.field(name).type)
            for name in ("short_side_px", "top_px", "left_px", "crop_px", "flip")
        },
        "jitter": pa.array(
            [[{"op": op, "factor": factor} for op, factor in v.jitter] for v in view.views],
            schema.field("jitter").type,
        ),
        "tokens": pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), frames),
    }
    return pa.table(columns, schema=schema)


def views_of(table: pa.Table) -> list[View]:
    """The geometry in each row. Raises ValidationError for an impossible one."""
    names = ["short_side_px", "top_px", "left_px", "crop_px", "flip"]
    rows = table.select(names).to_pylist()
    jitters = table["jitter"].to_pylist()
    return [
        View(**row, jitter=tuple((step["op"], step["factor"]) for step in jitter))
        for row, jitter in zip(rows, jitters, strict=True)
    ]


def part_view(table: pa.Table, path: AnyPath, view: int, tokenizer: TokenizerIdentity) -> PartView:
    """Convert the row group of `view`, read from `path`. Raises BadRow."""
    if not table.schema.equals(token_schema(tokenizer.grid)):
        raise BadRow(f"{path}: the columns are not those of a token set with {tokenizer.grid} tokens a frame; {FIX}")
    rows, columns = tokenizer.grid
    column = table["tokens"].combine_chunks()
    frames = column.flatten()
    flat = frames.flatten()
    if table["tokens"].null_count or len(flat) != len(frames) * rows * columns or flat.null_count:
        raise BadRow(f"{path}: view {view} has rows without tokens; {FIX}")
    flat_Fhw = flat.to_numpy(zero_copy_only=False).reshape(-1, rows, columns)
    bounds = column.offsets.to_numpy() - column.offsets[0].as_py()
    if flat_Fhw.size and flat_Fhw.max() >= tokenizer.vocab_size:
        frame = int(flat_Fhw.argmax()) // (rows * columns)
        sample = table["sample_id"][int(np.searchsorted(bounds, frame, side="right")) - 1].as_py()
        raise BadRow(
            f"{path}: sample {sample!r} has the token {flat_Fhw.max()} in view {view}, but its tokenizer "
            f"{tokenizer.name!r} has tokens 0 to {tokenizer.vocab_size - 1}; {FIX}"
        )
    try:
        views = views_of(table)
    except ValidationError as error:
        raise BadRow(f"{path}: a row of view {view}: {describe(error, View)}; {FIX}") from None
    return PartView(views=views, tokens=[flat_Fhw[a:b] for a, b in itertools.pairwise(bounds)])


def check_rows(
    stored: PartView,
    path: AnyPath,
    view: int,
    crop_px: int,
    sample_ids: Sequence[str],
    sizes: Sequence[tuple[int, int, int]],
) -> None:
    """Raise BadRow unless the rows match the frames. `sizes` are (frames, height, width) of the part's samples."""
    if len(stored.views) != len(sizes):
        raise BadRow(f"{path}: {len(stored.views)} rows in view {view}, but the part has {len(sizes)} samples; {FIX}")
    for sample, row, tokens, (frames, height, width) in zip(
        sample_ids, stored.views, stored.tokens, sizes, strict=True
    ):
        scaled_h, scaled_w = scaled_size(height, width, row.short_side_px)
        if len(tokens) != frames:
            raise BadRow(f"{path}: sample {sample!r} has tokens for {len(tokens)} frames, but {frames} frames; {FIX}")
        if row.crop_px != crop_px:
            raise BadRow(
                f"{path}: sample {sample!r} has a crop of {row.crop_px} px in view {view}, not {crop_px}; {FIX}"
            )
        if row.top_px + crop_px > scaled_h or row.left_px + crop_px > scaled_w:
            raise BadRow(
                f"{path}: sample {sample!r} has a crop of {crop_px} px at ({row.top_px}, {row.left_px}) in view "
                f"{view}, outside its frame of {scaled_h} x {scaled_w} px; {FIX}"
            )
