"""One sample of a dataset as arrays: its frames, or one of its views with pixels and tokens.

For inspecting samples and for use outside of bevt; training reads whole parts in order.
Legend: T frames, H W pixels, h w token grid, C channels (RGB).
"""

from typing import NamedTuple

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import TokenSet, check_rows
from bevt_core.views.replay import apply_view
from schemas.errors import UserError
from schemas.views import View


class Sample(NamedTuple):
    """The stored frames of one source, or of one piece of a long source."""

    sample_id: str
    source: str  # path relative to the root of the raw data
    label: int | None
    class_name: str | None
    times_s: NDArray[np.float64]  # (T,): presentation times of the frames in the source, in seconds
    frames_THWC: NDArray[np.uint8]


class SampleView(NamedTuple):
    """One view of a sample: its geometry, the pixels of its crop, and their tokens."""

    view: View  # short_side_px, top_px, left_px, crop_px, flip, jitter
    clip_THWC: NDArray[np.uint8]  # H = W = crop_px
    tokens_Thw: NDArray[np.uint16]


def read_sample(store: FrameStore, sample: int | str) -> Sample:
    """Read all stored frames of a sample, decoded. `sample` is its row in `store.samples`, or its id.

    Raises UserError for an unknown sample.
    """
    row = store.row(_row_number(store, sample))
    label = row["label"]
    return Sample(
        sample_id=row["sample_id"],
        source=row["source"],
        label=label,
        class_name=None if label is None else store.manifest.classes[label],
        times_s=np.array(row["times_s"]),
        frames_THWC=np.stack(store.read_frames(row["part"], row["frame_start"], row["num_frames"])),
    )


def read_view(tokens: TokenSet, sample: int | str, view: int = 0) -> SampleView:
    """Read view `view` of all frames of a sample: its geometry, the pixels that were tokenized, and the tokens.

    `sample` is a row or an id, as in `read_sample`. Reads the tokens of the sample's whole part.
    Raises UserError for an unknown sample or view, and for tokens that do not match the frames.
    """
    num_views = tokens.manifest.views.num_views
    if not 0 <= view < num_views:
        raise UserError(f"{tokens.path}: view {view}, expected 0 to {num_views - 1}")
    number = _row_number(tokens.frames, sample)
    part = tokens.frames.samples["part"][number].as_py()
    in_part = tokens.frames.read_index(part)
    stored = tokens.read_view(part, view)
    sizes = zip(*(in_part[name].to_pylist() for name in ("num_frames", "height", "width")), strict=True)
    ids, crop_px = in_part["sample_id"].to_pylist(), tokens.manifest.views.crop_px
    check_rows(stored, tokens.path_of(part), view, crop_px, ids, list(sizes))
    found = read_sample(tokens.frames, number)
    at = ids.index(found.sample_id)
    geometry = stored.views[at]
    clip_THWC = np.stack([apply_view(frame_HWC, geometry) for frame_HWC in found.frames_THWC])
    return SampleView(geometry, clip_THWC, stored.tokens[at])


def _row_number(store: FrameStore, sample: int | str) -> int:
    """Return the sample's row in the index."""
    if isinstance(sample, str):
        number: int = pc.index(store.samples["sample_id"], sample).as_py()
        if number < 0:
            raise UserError(f"{store.path}: no sample {sample!r}; `store.samples['sample_id']` lists the ids")
        return number
    if not 0 <= sample < len(store.samples):
        raise UserError(f"{store.path}: sample {sample}, expected 0 to {len(store.samples) - 1}")
    return sample
