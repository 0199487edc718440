"""A row group of a token set as views and tokens, with every row checked: a dataset may be somebody else's.

Ids are used as indices later on, and views as boxes in pictures, where a wrong one would end in an IndexError, or in a
fault of the GPU, that names no sample.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from bevt_core.foreign.rows import PartView, views_of
from bevt_core.storage.objects import AnyPath
from bevt_core.views.replay import scaled_size
from schemas.errors import UserError
from schemas.text.validation import describe
from schemas.tokens import TokenizerIdentity, token_schema
from schemas.views import View

FIX = "run `bevt verify`, then `bevt repair`"


class BadRow(UserError):
    """A row of a dataset's file holds what it cannot. The message names the file, the sample and the value."""


def part_view(table: pa.Table, path: AnyPath, view: int, tokenizer: TokenizerIdentity) -> PartView:
    """The row group of `view`, read from `path`. Raises BadRow."""
    if not table.schema.equals(token_schema(tokenizer.grid)):
        raise BadRow(f"{path}: its columns are not those of a token set with {tokenizer.grid} tokens a frame; {FIX}")
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
    """Raise BadRow unless the rows fit the frames: `sizes` are (frames, height, width) of the samples of the part."""
    if len(stored.views) != len(sizes):
        raise BadRow(f"{path}: {len(stored.views)} rows in view {view}, but the part has {len(sizes)} samples; {FIX}")
    for sample, row, tokens, (frames, height, width) in zip(
        sample_ids, stored.views, stored.tokens, sizes, strict=True
    ):
        scaled_h, scaled_w = scaled_size(height, width, row.short_side_px)
        if len(tokens) != frames:
            raise BadRow(f"{path}: sample {sample!r} has tokens of {len(tokens)} frames, but {frames} frames; {FIX}")
        if row.crop_px != crop_px:
            raise BadRow(
                f"{path}: sample {sample!r} has a crop of {row.crop_px} px in view {view}, not {crop_px}; {FIX}"
            )
        if row.top_px + crop_px > scaled_h or row.left_px + crop_px > scaled_w:
            raise BadRow(
                f"{path}: sample {sample!r} has its crop at ({row.top_px}, {row.left_px}) with {crop_px} px in view "
                f"{view}, outside of its frame of {scaled_h} x {scaled_w} px; {FIX}"
            )


def check_index(index: pa.Table, path: AnyPath, schema: pa.Schema, num_classes: int) -> pa.Table:
    """Return the index of a frame part as it was read from `path`. Raises BadRow where it is none."""
    if not index.schema.equals(schema):
        raise BadRow(f"{path}: its columns are not those of a frame store's index; {FIX}")
    for column, most in (("label", num_classes - 1), ("num_frames", 2**31 - 1), ("frame_start", 2**62)):
        values = index[column].drop_null().to_numpy()
        if len(values) and not (values.min() >= 0 and values.max() <= most):
            wrong = values.min() if values.min() < 0 else values.max()
            sample = index["sample_id"][index[column].index(wrong).as_py()].as_py()
            raise BadRow(f"{path}: sample {sample!r} has {column} {wrong}, expected 0 to {most}; {FIX}")
    return index
