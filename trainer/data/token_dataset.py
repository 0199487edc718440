"""Clips of a token set: stored frames under a stored view, with the tokens of that view.

Legend: T frames of a clip, H W pixels, h w token grid, C channels, N samples.
"""

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bevt_core.dataset.frame_store import FrameStore
from bevt_core.dataset.token_rows import PartView
from bevt_core.dataset.token_set import TokenSet
from schemas.models import MaskConfig
from schemas.views import View
from trainer.data.clip_dataset import ClipDataset
from trainer.data.order import view_of_epoch


class TokenDataset(ClipDataset):
    """Clips of a token set with `tokens` int64 (T, h, w). The stored view is a function of (seed, part, epoch)."""

    def __init__(
        self,
        tokens: TokenSet,
        *,
        name: str,
        seed: int,
        clip_frames: int,
        tubelet: int,
        mask: MaskConfig,
        cached_parts: int,
        hidden_multiple: int = 1,
    ) -> None:
        super().__init__(
            tokens.frames,
            name=name,
            seed=seed,
            clip_frames=clip_frames,
            tubelet=tubelet,
            mask=mask,
            hidden_multiple=hidden_multiple,
        )
        self.tokens = TokenSet(tokens.path)  # a fresh instance, small when it is pickled
        self.path = tokens.path
        self.grid = tokens.manifest.tokenizer.grid
        columns = (tokens.frames.index[name].to_numpy() for name in ("num_frames", "height", "width"))
        self.sizes_N3 = np.stack(list(columns), axis=1).astype(np.int32)
        self.cached_parts = cached_parts
        self._views: OrderedDict[tuple[int, int], PartView] = OrderedDict()

    @property
    def stores(self) -> tuple[FrameStore | TokenSet, ...]:
        return (self.frames, self.tokens)

    def view(self, epoch: int, position: int) -> View:
        part, row = self._row(position)
        return self._part_view(part, epoch).views[row]

    def targets(self, epoch: int, position: int, pool_T: np.ndarray, clip_THWC: np.ndarray) -> dict[str, Tensor]:
        part, row = self._row(position)
        tokens_THW = self._part_view(part, epoch).tokens[row][pool_T]
        return {"tokens": torch.from_numpy(tokens_THW.astype(np.int64))}

    def _row(self, position: int) -> tuple[int, int]:
        part = int(self.part[position])
        return part, int(position - self.part_first[part])

    def _part_view(self, part: int, epoch: int) -> PartView:
        """Return the row group of the epoch's view; the last `cached_parts` are cached."""
        view = view_of_epoch(self.tokens.manifest.views.num_views, part, epoch, *self.key)
        cached = self._views.pop((part, view), None)
        self._views[part, view] = cached or self._read_view(part, view)
        if len(self._views) > self.cached_parts:
            self._views.popitem(last=False)
        return self._views[part, view]

    def _read_view(self, part: int, view: int) -> PartView:
        """Read a row group. Raises BadRow if it does not fit the part's frames."""
        first = int(self.part_first[part])
        rows = slice(first, first + int(self.part_sizes[part]))
        return self.tokens.read_checked_view(
            part, view, self.sample_ids[rows].to_pylist(), self.sizes_N3[rows].tolist()
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_views": OrderedDict()}
