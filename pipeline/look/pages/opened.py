"""A dataset that the pages of one server read, with what was read last. Opened at the first page, and after an error.

Samples are addressed by their part and their row in it. Legend: T frames, H W pixels, h w token grid, C channels.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_set import PartView, TokenSet, token_set_folders
from bevt_core.storage.objects import AnyPath
from bevt_core.viewer.query import NoSuchPage, Query
from bevt_core.views.replay import apply_view
from pipeline.look.contact_sheet import spread
from pipeline.look.sample import decoder_of
from schemas.views import View

if TYPE_CHECKING:
    from bevt_core.tokenizers.mosaics import Decoder  # imports torch

FRAMES = 16  # at most, of a sample in a film
PARTS_KEPT = 4  # parts whose index and views are kept in memory
MAX_PARTS, MAX_ROWS = 10**7, 10**7  # larger numbers are no address


class Place(NamedTuple):
    """The address of a sample."""

    part: int
    row: int  # in the part


class ViewOfSample(NamedTuple):
    """One view of a few frames of a sample."""

    view: View
    clip_THWC: np.ndarray
    tokens_Thw: np.ndarray


class OpenDataset:
    """The frame store and the token sets below `path`. All methods raise UserError for damaged files."""

    def __init__(self, path: AnyPath, tokenizer: str | None) -> None:
        self.path, self._tokenizer = path, tokenizer
        self.index = functools.lru_cache(PARTS_KEPT)(self._read_index)
        self.stored_views = functools.lru_cache(PARTS_KEPT)(self._read_views)
        self.decoder = functools.cache(self._load_decoder)
        self.token_set = functools.cache(self._open_token_set)

    @functools.cached_property
    def store(self) -> FrameStore:
        return FrameStore(self.path / "frames")

    @functools.cached_property
    def first_rows(self) -> np.ndarray:
        """For each part, the number of samples before it: int64 (parts + 1,)."""
        part_N = self.store.samples["part"].to_numpy()
        return np.searchsorted(part_N, np.arange(self.store.manifest.num_parts + 1))

    @functools.cached_property
    def set_folders(self) -> list[AnyPath]:
        return token_set_folders(self.path, "dataset.json")

    def sample(self, place: Place) -> dict[str, Any]:
        """Return the columns of INDEX_SCHEMA of a sample. Raises NoSuchPage."""
        if place.part < self.store.manifest.num_parts:
            index = self.index(place.part)
            if place.row < len(index):
                row: dict[str, Any] = index.slice(place.row, 1).to_pylist()[0]
                return row
        raise NoSuchPage(f"There is no row {place.row} in part {place.part} of {self.path}.")

    def place_of(self, number: int) -> Place:
        """Return the address of row `number` of the store's `samples`."""
        part = int(np.searchsorted(self.first_rows, number, side="right")) - 1
        return Place(part, number - int(self.first_rows[part]))

    def number_of(self, place: Place) -> int:
        return int(self.first_rows[place.part]) + place.row

    def class_name(self, label: int | None) -> str:
        return "no class" if label is None else self.store.manifest.classes[label]

    def chosen_frames(self, sample: dict[str, Any]) -> list[int]:
        """At most FRAMES positions in a sample's stored frames, spread evenly."""
        return spread(sample["num_frames"], FRAMES)

    def frames(self, place: Place, positions: Sequence[int]) -> Iterator[np.ndarray]:
        """Read stored frames one at a time, decoded: uint8 (H, W, 3)."""
        start = self.sample(place)["frame_start"]
        for at in positions:
            yield self.store.read_frames(place.part, start + at, 1)[0]

    def view(self, place: Place, number: int, view: int, positions: Sequence[int]) -> ViewOfSample:
        """Read a view of a sample in token set `number`: its pixels and tokens at these positions."""
        stored = self.stored_views(place.part, number, view)
        geometry, tokens_Thw = stored.views[place.row], stored.tokens[place.row][list(positions)]
        clip_THWC = np.stack([apply_view(frame, geometry) for frame in self.frames(place, positions)])
        return ViewOfSample(geometry, clip_THWC, tokens_Thw)

    def _open_token_set(self, number: int) -> TokenSet:
        return TokenSet(self.set_folders[number])

    def _read_index(self, part: int) -> pa.Table:
        return self.store.read_index(part)

    def _read_views(self, part: int, number: int, view: int) -> PartView:
        index = self.index(part)
        sizes = zip(*(index[name].to_pylist() for name in ("num_frames", "height", "width")), strict=True)
        return self.token_set(number).read_checked_view(part, view, index["sample_id"].to_pylist(), list(sizes))

    def _load_decoder(self, number: int) -> "Decoder | None":
        decoder: Decoder | None = decoder_of(self.token_set(number), self._tokenizer)
        return decoder


def place_in(query: Query) -> Place:
    """Return the address of a sample in a query. Raises BadRequest."""
    return Place(query.integer("part", 0, MAX_PARTS), query.integer("row", 0, MAX_ROWS))
